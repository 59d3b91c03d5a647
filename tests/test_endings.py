"""A program that cannot go on says so in one line; a fault of its own keeps its traceback."""

import subprocess
import sys
import textwrap

import jax
import pytest
import running

from unetrep_jax import endings
from unetrep_jax.storage import InputError


def ended(error, **settings):
    def work():
        raise error

    return endings.in_one_line("x.py", work, goes_on="here", **settings)


def test_the_code_of_work_that_ends_well_is_its_own(capsys):
    assert [endings.in_one_line("x.py", lambda code=code: code, goes_on="here") for code in (0, 1)] == [0, 1]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (InputError("a is bad:\ngive b"), 2, "a is bad: give b"),
        (OSError(28, "No space left on device"), 2, "[Errno 28] No space left on device"),
        (OSError(20, "Not a directory", "a/b"), 2, "[Errno 20] Not a directory: 'a/b'; name another file or folder"),
        (OSError(36, "File name too long", "a"), 2, "[Errno 36] File name too long: 'a'; use a shorter name"),
        (MemoryError("4 GB"), 2, "there is not enough memory (4 GB); ask for less at once (batch sizes), or allow more."),
        (KeyboardInterrupt(), 130, "stopped; the same command goes on from here"),
    ],
)
def test_what_a_person_can_mend_is_one_line(error, code, line, capsys):
    assert ended(error) == code
    assert capsys.readouterr().err == f"x.py: {line}\n"


@pytest.mark.parametrize(("text", "said"), [("Event loop is closed", False), ("x", True)])
def test_what_comes_back_to_a_closed_event_loop_adds_no_traceback_and_all_else_does(text, said):
    program = f"""
        import sys
        from unetrep_jax import endings, storage

        class Late:
            def __del__(self):
                raise RuntimeError({text!r})

        def work():
            late = Late()
            del late
            raise storage.InputError("a is bad")

        sys.exit(endings.in_one_line("x.py", work, goes_on="here"))
        """
    result = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, cwd=running.ROOT)
    assert result.returncode == 2 and "x.py: a is bad" in result.stderr
    assert ("Traceback" in result.stderr) is said


def test_memory_of_the_devices_has_a_code_of_its_own(capsys):
    assert ended(jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory"), lost=3) == 3
    assert "not enough memory on the devices" in capsys.readouterr().err


@pytest.mark.parametrize("error", [RuntimeError("x"), TypeError("x"), jax.errors.JaxRuntimeError("INTERNAL: x")])
def test_a_fault_of_the_program_keeps_its_traceback(error):
    with pytest.raises(type(error), match="x"):
        ended(error)
