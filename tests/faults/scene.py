"""Where attacks happen: one arena that is laid out anew for each, and what undisturbed commands left in it, for comparison."""

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests import running
from tests.faults import children, same
from tests.faults.attack import Broken

STAGES = ("samples", "reconstructions", "clusters", "explorer")  # and what these need
LONG_AGO = (10**9, 10**9)  # arrays are known by their sizes and times, so these are always the same
SHORT = {"train__epochs": 0.125, "evaluate__images": 2, "evaluate__levels": 2, "checkpoint__milestones": 0}  # one step


class Reference(NamedTuple):
    """What an undisturbed command left.

    Attributes:
      folder: a copy of the arena after it.
      seconds: how long it took.
      writes: how many file operations it made in the arena that changed something.
      content: what must be the same after any attack: names and checksums.
    """

    folder: Path
    seconds: float
    writes: int
    content: dict[str, str]


class Scene:
    """Commands, the arena, and references.

    Attributes:
      arena: the folder that all attacked commands work in. Always the same one, for paths stand in reports.
      run: the run folder in it.
      seed, long, other_python: as on the command line.
    """

    def __init__(self, folder: Path, seed: int, long: bool, other_python: Path | None):
        """Makes the arrays to train on."""
        self.folder, self.seed, self.long, self.other_python = folder, seed, long, other_python
        self.arena, self.run = folder / "arena", folder / "arena" / "run"
        (folder / "place").mkdir(exist_ok=True)
        self.place = running.Place(folder / "place")
        for path in (folder / "place").glob("*.npy"):
            os.utime(path, LONG_AGO)

    def many(self, short: int, long: int) -> int:
        """How many attacks of a kind."""
        return long if self.long else short

    def clear(self) -> Path:
        """An empty arena."""
        shutil.rmtree(self.arena, ignore_errors=True)
        self.arena.mkdir()
        return self.arena

    def lay(self, reference: Reference) -> Path:
        """The arena as it was after an undisturbed command."""
        shutil.rmtree(self.arena, ignore_errors=True)
        shutil.copytree(reference.folder, self.arena, symlinks=True)
        return self.arena

    def training(self, run: Path | None = None, **changed: object) -> list[str]:
        """The command that trains in the arena."""
        return self.place.training(run or self.run, **changed)

    def analysis(self, *arguments: object, **changed: object) -> list[str]:
        """The command that analyses the run in the arena: always with the same stages, so that its report is the same."""
        labels = {"data__validation_labels": self.place.folder / "labels.npy"}
        return self.place.analysis(self.run, "--only", *STAGES, *arguments, **labels | changed)

    def start(self, command: list[str], before: Callable[[], Any] = lambda: None) -> children.Child:
        """Starts a command in the arena."""
        return children.start(command, self.arena, before)

    def do(self, command: list[str], before: Callable[[], Any] = lambda: None) -> children.Result:
        """Runs a command in the arena to its end."""
        return self.start(command, before).wait()

    def trained(self) -> Reference:
        """A run that nothing disturbed."""
        return self._reference("trained", self.training(), self.clear, lambda: same.run_content(self.run))

    def analysed(self) -> Reference:
        """The same, analysed."""
        trained = self.trained()
        return self._reference(
            "analysed", self.analysis(), lambda: self.lay(trained), lambda: same.analysis_content(self.run)
        )

    def without(self, stages: tuple[str, ...]) -> Reference:
        """The analysis that makes these stages anew, the others being there."""

        def lay() -> None:
            self.lay(analysed)
            for name in stages:
                children.remove(self.run / "analysis" / name)

        analysed = self.analysed()
        name = f"without {' '.join(stages)}"[:80]
        return self._reference(name, self.analysis(), lay, lambda: same.analysis_content(self.run), analysed)

    def _reference(
        self,
        name: str,
        command: list[str],
        lay: Callable[[], Any],
        content: Callable[[], dict],
        like: Reference | None = None,
    ) -> Reference:
        """Runs a command undisturbed; made a second time, or after another reference (`like`), everything must be as it was."""
        folder = self.folder / "references" / name
        record = folder.with_name(f"{name}.json")
        if not record.exists():
            if not like:  # once to compile, and once more to see how long it takes then
                lay()
                self._undisturbed(command)
                like = Reference(folder, 0.0, 0, content())
            lay()
            seconds, writes = self._undisturbed(command)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(self.arena, folder, symlinks=True)
            found = {"seconds": seconds, "writes": writes, "content": content()}
            record.write_text(json.dumps(found))
        reference = Reference(folder, **json.loads(record.read_text()))
        if like and reference.content != like.content:
            raise Broken(f"made again, undisturbed: {same.difference(reference.content, like.content)}")
        return reference

    def _undisturbed(self, command: list[str]) -> tuple[float, int]:
        """Runs a command that nothing happens to: (seconds, file operations)."""
        counted = self.folder / "counted"
        counted.write_bytes(b"")
        file = os.open(counted, os.O_WRONLY | os.O_APPEND)
        count = partial(children.on_write, self.arena, lambda _: os.write(file, b"."))
        result = children.start(command, self.arena, count, learn=True).wait()
        os.close(file)
        if result.code:
            raise RuntimeError(f"undisturbed, {command[0]} ended with {result.code}: {result.err[-2000:]}")
        return result.seconds, counted.stat().st_size
