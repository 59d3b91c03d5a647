"""Compiled programs that are kept: only what is as it was kept is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from unetrep_jax import programs

SCRIPT = """
import sys
from unetrep_jax import devices
devices.start(compilation_cache=sys.argv[1])
import jax, jax.numpy as jnp
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None)
x = jnp.arange(4.0)
print(jax.jit(lambda x: x @ x)(x), jax.jit(lambda x: jnp.stack([x, x + 1]))(x).tolist())
print(len(hits))
"""


@pytest.fixture
def folder(tmp_path):
    """Two programs with their checksums."""
    for name in ("a-cache", "b-cache"):
        (tmp_path / name).write_text(name)
    programs.seal(tmp_path)
    return tmp_path


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_whole_programs_stay(folder):
    before = names(folder)
    programs.remove_changed(folder)
    assert names(folder) == before == ["a-cache", "a-cache.sha256", "b-cache", "b-cache.sha256"]


def test_programs_that_have_each_others_place_go(folder):
    (folder / "a-cache").write_text("b-cache")
    (folder / "b-cache").write_text("a-cache")
    programs.remove_changed(folder)
    assert names(folder) == []


def test_a_program_that_changed_and_one_that_was_not_kept_to_its_end_go_and_no_other_file(folder):
    (folder / "a-cache").write_text("a")
    (folder / "half-cache").write_text("h")
    (folder / "somebody's").write_text("own")
    programs.remove_changed(folder)
    assert names(folder) == ["b-cache", "b-cache.sha256", "somebody's"]


def run(folder: Path) -> tuple[str, int]:
    """Results of two compiled functions, and how many programs came from the folder."""
    own = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment = own | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parents[1])}
    command = [sys.executable, "-c", SCRIPT, folder]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    results, hits = done.stdout.splitlines()
    return results, int(hits)


def test_a_process_uses_what_another_kept_and_not_what_was_exchanged_since(tmp_path):
    expected, none = run(tmp_path)
    again, hits = run(tmp_path)
    assert (again, none) == (expected, 0)
    kept = sorted(tmp_path.glob("*/*-cache"))
    assert hits == len(kept) > 1
    contents = [path.read_bytes() for path in kept]
    for path, content in zip(kept, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)
    assert run(tmp_path) == (expected, 0)


def test_the_part_of_a_program_that_a_neighbour_took_for_a_whole_one_is_compiled_again(tmp_path):
    expected, _ = run(tmp_path)
    kept = sorted(tmp_path.glob("*/*-cache"))
    for path in kept:  # its writer was killed, and another process gave all programs their checksums
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        path.with_name(f"{path.name}{programs.SEAL}").unlink()
    programs.seal(kept[0].parent)
    assert run(tmp_path)[0] == expected
