"""Commands in processes of their own: forks of this one, which has imported everything and never started JAX itself.

A fork runs the script's file as Python would, from its command line. For the script it is no different from a new process, but
that figures are made and not rendered and that it begins at once. Kills are real: SIGKILL, sent by the system.
"""

import contextlib
import errno
import hashlib
import json
import os
import re
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import running

ROOT = running.ROOT
PATIENCE = 1800  # seconds until a process counts as hanging: an analysis of all stages takes minutes where others work too
WRITES = (
    "os.rename",
    "os.mkdir",
    "os.remove",
    "os.rmdir",
    "shutil.rmtree",
)  # file operations that Python announces, beside open


class Result(NamedTuple):
    """What a process left."""

    code: int
    out: str
    err: str
    seconds: float


class Child:
    """A function that runs in a fork; what it prints goes to files, so that it never waits for a reader."""

    def __init__(self, function: Callable[[], int | None], folder: Path):
        """Starts it in a folder."""
        self._files = running.outputs()
        self._began, self._code = time.monotonic(), None
        self.pid = os.fork()
        if self.pid == 0:
            running.become(lambda: os.chdir(folder) or function(), self._files)

    def poll(self) -> int | None:
        """The exit code, None while it runs."""
        if self._code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if pid else None
            self._ended = time.monotonic()
        return self._code

    def wait(self, patience: float = PATIENCE) -> Result:
        """Waits for the end.

        Raises:
          TimeoutError: it hangs; it is killed, and must not be taken for one that an attack killed.
        """
        give_up = time.monotonic() + patience
        while self.poll() is None:
            if time.monotonic() > give_up:
                self.send(signal.SIGKILL)
                while self.poll() is None:
                    time.sleep(0.005)
                raise TimeoutError(f"hung for {patience:.0f} s: {self.printed(1)[-600:]}")
            time.sleep(0.005)
        return Result(self._code, self.printed(0), self.printed(1), self._ended - self._began)

    def send(self, number: int) -> None:
        """Sends a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def printed(self, which: int = 0) -> str:
        """What it has printed so far, on its output (0) or its error stream (1)."""
        self._files[which].seek(0)
        return self._files[which].read()

    def wait_until(self, condition: Callable[[], bool], patience: float = PATIENCE) -> bool:
        """Returns whether the condition held before the process ended."""
        give_up = time.monotonic() + patience
        while self.poll() is None and time.monotonic() < give_up:
            if condition():
                return True
            time.sleep(0.002)
        return False


def start(
    command: Sequence[object], folder: Path, before: Callable[[], Any] = lambda: None, learn: bool = False
) -> Child:
    """Starts a script in a fork; `before` runs there first. Only with `learn` it adds to the compiled programs that all share."""

    def script() -> None:
        if learn:
            running.learn_programs()
        before()
        running.run_script(command)

    return Child(script, folder)


def call(function: Callable[[], Any], folder: Path = ROOT) -> Any:
    """What a function gives in a fork, as JSON holds it; raises RuntimeError with its traceback where it failed."""
    with tempfile.NamedTemporaryFile("r") as answer:

        def ask() -> None:
            Path(answer.name).write_text(json.dumps(function()))

        result = Child(ask, folder).wait()
        if result.code:
            raise RuntimeError(result.err[-2000:])
        return json.loads(Path(answer.name).read_text())


def on_write(folder: Path, act: Callable[[int, str], None]) -> None:
    """From now on calls `act` right before each file operation that changes something below `folder`: with its number and path."""
    count, inside = 0, str(folder)

    def hook(event: str, arguments: tuple) -> None:
        nonlocal count
        writes = event in WRITES or (
            event == "open" and len(arguments) > 2 and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        )
        paths = [os.fspath(part) for part in arguments if isinstance(part, str | os.PathLike)] if writes else []
        if paths := [path for path in paths if path.startswith(inside)]:
            count += 1
            act(count, os.path.relpath(paths[-1], folder))  # of a new name and an old one the new one

    sys.addaudithook(hook)


def list_writes(folder: Path, listed: Path) -> Callable[[], None]:
    """For `before`: the path of each such operation goes into a file, empty now, which outlives the process."""
    listed.write_bytes(b"")

    def watch() -> None:
        file = os.open(listed, os.O_WRONLY | os.O_APPEND)
        on_write(folder, lambda _, path: os.write(file, f"{path}\n".encode()))

    return watch


def fill_up(first: int, folder: Path) -> None:
    """From the so manieth file operation below a folder on no file or folder can be made there: the disk is full."""
    full = False

    def count(number: int, _: str) -> None:
        nonlocal full
        full = full or number >= first

    on_write(folder, count)

    def refuse(event: str, arguments: tuple) -> None:
        writes = event == "open" and len(arguments) > 2 and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if full and (writes or event == "os.mkdir") and str(arguments[0]).startswith(str(folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    sys.addaudithook(refuse)


def signal_at_write(
    position: int, folder: Path, number: int, note: Callable[[], Any] = lambda: None
) -> Callable[[], None]:
    """For `before`: sends the process this signal right before its so manieth file operation below a folder, after a `note`."""

    def send(count: int, _: str) -> None:
        if count == position:
            note()
            os.kill(os.getpid(), number)

    return lambda: on_write(folder, send)


def kill_at_name(event: str, path: str, position: int = 1) -> Callable[[], None]:
    """For `before`: the process kills itself right before its so manieth operation of this kind on a path that matches."""

    def watch() -> None:
        left = position

        def hook(happens: str, arguments: tuple) -> None:
            nonlocal left
            if happens == event and any(re.search(path, str(value)) for value in arguments):
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)

    return watch


def freeze_at(position: int, folder: Path, sign: Path) -> Callable[[], None]:
    """For `before`: right before its so manieth file operation below a folder, makes the folder `sign` and waits until it goes."""

    def wait(count: int, _: str) -> None:
        if count == position:
            sign.mkdir()
            give_up = time.monotonic() + PATIENCE / 2
            while sign.exists() and time.monotonic() < give_up:
                time.sleep(0.01)

    return lambda: on_write(folder, wait)


def signal_after(
    seconds: float, number: int = signal.SIGKILL, note: Callable[[], Any] = lambda: None
) -> Callable[[], None]:
    """For `before`: another process sends this one a signal after so many seconds, wherever it is then, and a `note` before."""
    return lambda: signal_on_cue(seconds, number, note)()


def signal_on_cue(
    seconds: float, number: int = signal.SIGKILL, note: Callable[[], Any] = lambda: None
) -> Callable[[], Any]:
    """The same so many seconds after a cue: the function that is returned gives it, once."""
    victim = os.pidfd_open(os.getpid())  # a number could be another process by then
    heard, cue = os.pipe()
    if os.fork() == 0:
        os.close(cue)
        os.read(heard, 1)  # returns without a cue, too, when the process ends
        ended = select.poll()
        ended.register(victim, select.POLLIN)
        if not ended.poll(seconds * 1000):
            note()
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(victim, number)
        os._exit(0)
    os.close(heard)
    return lambda: os.write(cue, b".")


def stay_inside(folder: Path, *reports: Path | None) -> None:
    """From now on no Python code of this process, or of its forks, may change a file elsewhere but reports: no slip harms."""
    inside, devices = f"{folder}{os.sep}", (os.devnull, "/dev/tty", "/proc/")
    tempfile.tempdir = str(fresh(folder / "temporary"))

    def hook(event: str, arguments: tuple) -> None:
        opens = event == "open" and len(arguments) > 2 and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)
        if not opens and event not in (*WRITES, "os.chmod", "os.truncate", "os.symlink"):
            return
        if event in WRITES and any(isinstance(part, int) and part >= 0 for part in arguments[-1:]):
            return  # relative to an open folder, as shutil.rmtree does it, which was asked itself
        changed = {"os.rename": arguments[:2], "os.symlink": arguments[1:2]}.get(event, arguments[:1])
        for part in changed:
            path = os.path.abspath(os.fsdecode(part)) if isinstance(part, str | bytes | os.PathLike) else inside
            if not f"{path}{os.sep}".startswith(inside) and not path.startswith(devices) and path not in map(str, reports):
                raise PermissionError(f"the campaign may not change {path}")

    sys.addaudithook(hook)


def import_everything() -> None:
    """What the scripts import, once for all forks; starts no device. What takes seconds elsewhere is done at once here."""
    running.import_everything()
    import configs.default  # noqa: F401
    import unetrep_jax.figures
    from unetrep_jax.stages import kept

    unetrep_jax.figures.save = save_by_content
    unetrep_jax.storage.RowWriter.__init__.__defaults__ = (0.0,)  # rows are recorded at every batch
    kept.SAVE_SECONDS = 0  # so is the state of a batch that is under way


def save_by_content(figure: Any, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> Path:
    """In place of `figures.save`: pictures that differ where the numbers or words in a figure do, without rendering them."""
    import numpy as np
    from PIL import Image

    digest = hashlib.sha256()
    for axes in figure.axes:
        drawn = [line.get_xydata() for line in axes.lines] + [image.get_array() for image in axes.images]
        drawn += [points.get_offsets() for points in axes.collections]
        drawn += [patch.get_patch_transform().transform(patch.get_path().vertices) for patch in axes.patches]
        for values in drawn:
            digest.update(np.ascontiguousarray(np.ma.getdata(values)).tobytes())
        digest.update("\n".join([axes.get_title(), *(text.get_text() for text in axes.texts)]).encode())
    folder.mkdir(parents=True, exist_ok=True)
    pixels = np.frombuffer(digest.digest(), np.uint8).reshape(4, 8)
    for kind in (*formats, "png"):
        (folder / f"{name}.{kind}").write_bytes(b"")
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def remove(path: Path) -> None:
    """A file or a folder, where there is one."""
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    remove(folder)
    folder.mkdir(parents=True)
    return folder
