"""What a process is doing: it notes it in a file as it begins it, and the rows that it made, for whoever finds it killed."""

import functools
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from faults import children
from faults.attack import require

LENGTH = 80  # bytes of a note, so that one covers the one before
OF_TRAINING = ("a step", "an evaluation", "a save")
DECODING, ASSEMBLING = "decoding", "what was decoded gets its name"
HAD_ROWS, HAD_STATE = "with recorded rows", "with the state of a batch"  # what an analysis had when it was killed


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
    children.on_write(analysis, lambda _, path: begins(part_of(path)))


def part_of(path: str) -> str:
    """The folder of an analysis, or the file in it, that a path leads to; a section is drawn for the report."""
    return "report" if "section.json" in path else path.split("/")[0].lstrip(".").partition(".")[0]


def follow_preparation(cache: Path, begins: Callable[[str], None]) -> None:
    """From now on calls `begins` with what a decoding of images is at; before it has its lock, with nothing."""

    def begun(_: int, path: str) -> None:
        begins("" if re.search(r"^\.$|\.lock$", path) else DECODING if ".records.partial" in path else ASSEMBLING)

    children.on_write(cache, begun)


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


def signal_after_write(position: int, folder: Path, seconds: float, number: int) -> Callable[[], None]:
    """For `before`: a signal so many seconds after the process's so manieth file operation below a folder."""

    def watch() -> None:
        cue = children.signal_on_cue(seconds, number)
        children.on_write(folder, lambda count, _: cue() if count == position else None)

    return watch


class Rows(NamedTuple):
    """What processes did with rows and the states of batches, from the file of `follow_rows`.

    Attributes:
      appended: folder -> (first row, row after the last) of each batch that came.
      states: file -> the first row of each batch whose state was kept there.
      begun: file -> (first row, whether a kept state was gone on from) of each batch that was begun.
    """

    appended: dict[str, list[tuple[int, int]]]
    states: dict[str, list[int]]
    begun: dict[str, list[tuple[int, bool]]]


def follow_rows(file: Path) -> None:
    """From now on this process leaves a line in a file for all that `Rows` tells of, right after it happened."""
    from unetrep_jax.stages.kept import Kept
    from unetrep_jax.storage import RowWriter

    written = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    append, save, load = RowWriter.append, Kept.save, Kept.load

    def tell(kind: str, path: Path, *what: object) -> None:
        os.write(written, f"{json.dumps([kind, str(path), what])}\n".encode())

    def follow_append(writer: RowWriter, **arrays: np.ndarray) -> None:
        first = writer.rows_done
        append(writer, **arrays)
        tell("appended", writer.folder, first, writer.rows_done)

    def follow_save(kept: Kept, numbers: np.ndarray, state: object) -> None:
        save(kept, numbers, state)
        tell("states", kept.path, int(numbers[0]))

    def follow_load(kept: Kept, numbers: np.ndarray, start: object) -> object:
        state = load(kept, numbers, start)
        tell("begun", kept.path, int(numbers[0]), state is not start)
        return state

    RowWriter.append, Kept.save, Kept.load = follow_append, follow_save, follow_load


def followed(file: Path) -> Rows:
    """What a `follow_rows` left; the file is gone then."""
    found = Rows({}, {}, {})
    for line in file.read_text().splitlines() if file.exists() else ():
        kind, path, what = json.loads(line)
        getattr(found, kind).setdefault(path, []).append(what[0] if len(what) == 1 else tuple(what))
    file.unlink(missing_ok=True)
    return found


class Progress(NamedTuple):
    """How far an analysis or a decoding was, as its files say.

    Attributes:
      rows: folder -> rows that are recorded; infinitely many where all are.
      states: file -> the first row of the batch whose state it holds.
    """

    rows: dict[str, float]
    states: dict[str, int]

    @property
    def words(self) -> list[str]:
        """What there is to go on from, for the table."""
        partial = any(0 < done < math.inf for done in self.rows.values())
        return [HAD_ROWS] * partial + [HAD_STATE] * any(first >= self.done(path) for path, first in self.states.items())

    def done(self, state: str) -> float:
        """Recorded rows of the folder that a file of a state lies beside."""
        return self.rows.get(state_folder(state), 0)


def state_folder(state: str) -> str:
    """The folder of rows that a file of a state lies beside."""
    return str(Path(state).with_name(Path(state).name[1:].removesuffix(".state.npz")))


def progress(folder: Path) -> Progress:
    """Of all rows and states below a folder, after a process has ended there."""
    rows, states = {}, {}
    for record in sorted(folder.rglob("progress.json")):
        rows[str(record.parent.with_name(record.parent.name[1:].removesuffix(".partial")))] = json.loads(record.read_text())["done"]
    for record in sorted(folder.rglob("complete.json")):
        partial = record.parent.name.startswith(".") and record.parent.name.endswith(".partial")
        whole = record.parent.with_name(record.parent.name[1:].removesuffix(".partial")) if partial else record.parent
        rows[str(whole)] = math.inf
    for path in sorted(folder.rglob(".*.state.npz")):
        with np.load(path) as state:
            states[str(path)] = int(state["numbers"][0])
    return Progress(rows, states)


def require_recorded(killed: Rows, left: Progress) -> None:
    """What a process had appended, and the states that it had kept, are in the files: it lost no more than what it was at."""
    for folder, batches in killed.appended.items():
        done, appended = left.rows.get(folder, 0), batches[-1][1]
        require(done >= appended, f"{appended} rows of {Path(folder).name} had come, {done} are recorded")
    for path, firsts in killed.states.items():
        if firsts[-1] >= left.done(path):
            require(left.states.get(path) == firsts[-1], f"{Path(path).name} is not of the batch that begins with row {firsts[-1]}")


def require_gone_on(left: Progress, finished: Rows) -> None:
    """The process that finished the work began with the first row that was not recorded, and with the state of its batch."""
    for folder, batches in finished.appended.items():
        done, first = left.rows.get(folder, 0), min(first for first, _ in batches)
        require(first >= done, f"{done} rows of {Path(folder).name} were recorded, and it made them again from row {first} on")
    for path, first in left.states.items():
        if first >= left.done(path):
            again = finished.begun.get(path, [])[:1]
            require(again == [(first, True)], f"{Path(path).name} holds the batch from row {first} on, and it began with {again}")
