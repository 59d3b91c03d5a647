"""What a process is doing: it notes it in a file as it begins it, for whoever finds it killed."""

import functools
import os
from collections.abc import Callable
from pathlib import Path

from faults import children

LENGTH = 80  # bytes of a note, so that one covers the one before
OF_TRAINING = ("a step", "an evaluation", "a save")


def noting(file: Path) -> Callable[[str], None]:
    """A function that leaves its last argument in a file, whenever the process is killed."""
    written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    return lambda what: os.pwrite(written, what[:LENGTH].ljust(LENGTH).encode(), 0) and None


def noted(file: Path) -> str:
    """What was noted last."""
    return file.read_text().strip() or "the start"


def follow_training(begins: Callable[[str], None]) -> None:
    """From now on calls `begins` with what of `OF_TRAINING` a training of this process begins."""
    from unetrep_jax import checkpoints, devices

    def announced(function: Callable, what: str) -> Callable:
        @functools.wraps(function)
        def call(*arguments, **named):
            begins(what)
            return function(*arguments, **named)

        return call

    make_step, make_map = devices.parallel_step, devices.parallel_map
    step, evaluation, save = OF_TRAINING
    devices.parallel_step = lambda *arguments, **named: announced(make_step(*arguments, **named), step)
    devices.parallel_map = lambda *arguments, **named: announced(make_map(*arguments, **named), evaluation)
    for owner, name in ((checkpoints.Series, "save"), (checkpoints.Series, "wait"), (checkpoints, "keep_parameters")):
        setattr(owner, name, announced(getattr(owner, name), save))


def follow_analysis(analysis: Path, begins: Callable[[str], None]) -> None:
    """From now on calls `begins` with the folder of an analysis, or the file in it, that this process is about to change."""
    children.on_write(analysis, lambda _, path: begins(path.split("/")[0].lstrip(".").partition(".")[0]))


def signal_within(what: str, times: int, seconds: float, number: int, note: Path) -> Callable[[], None]:
    """For `before`, of a training: a signal so many seconds after it has begun this for the so manieth time."""

    def watch() -> None:
        left, begun, cue = times, noting(note), children.signal_on_cue(seconds, number)

        def begins(name: str) -> None:
            nonlocal left
            begun(name)
            left -= name == what
            if name == what and left == 0:
                cue()

        follow_training(begins)

    return watch
