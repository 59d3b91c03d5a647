"""Where attacks happen: one arena that is laid out anew for each, and what undisturbed commands left in it, for comparison.

References are made when an attack first asks for them, and kept. One that cannot be made fails the attacks that need it, and no
others.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import running

from faults import children, same
from faults.attack import Broken

STAGES = ("samples", "reconstructions", "clusters", "explorer")  # and what these need; all stages with --long
LONG_AGO = (10**9, 10**9)  # arrays are known by their sizes and times, so these are always the same
SHORT = {"train__epochs": 0.125, "evaluate__images": 2, "evaluate__levels": 2, "checkpoint__milestones": 0}  # one step
LIBRARIES = ("jax", "jaxlib", "numpy", "flax", "optax", "orbax-checkpoint", "scikit-learn", "pillow", "matplotlib")


@functools.cache
def made_by() -> str:
    """Names the program, what makes references here, and the libraries: what an older version left is not compared with."""
    files = [children.ROOT / "train.py", children.ROOT / "analyze.py", Path(running.__file__)]
    files += [Path(__file__).with_name(f"{name}.py") for name in ("scene", "same", "children", "checkpoint_content")]
    files += [path for folder in ("unetrep_jax", "configs") for path in (children.ROOT / folder).rglob("*.py")]
    content = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(files)))
    return f"{content.hexdigest()} {[importlib.metadata.version(name) for name in LIBRARIES]}"


class Reference(NamedTuple):
    """What an undisturbed command left.

    Attributes:
      folder: a copy of the arena after it.
      seconds: how long it took.
      operations: the paths of all file operations that it made in the arena and that changed something, in order.
      content: what must be the same after any attack: names and checksums.
    """

    folder: Path
    seconds: float
    operations: list[str]
    content: dict[str, str]

    @property
    def writes(self) -> int:
        """How many file operations that are."""
        return len(self.operations)


class Scene:
    """Commands, the arena, and references.

    Attributes:
      arena: the folder that all attacked commands work in. Always the same one, for paths stand in reports.
      run: the run folder in it.
      seed, long, other_python: as on the command line.
    """

    def __init__(self, folder: Path, seed: int, long: bool, other_python: Path | None):
        """Makes nothing yet."""
        self.folder, self.seed, self.long, self.other_python = folder, seed, long, other_python
        self.arena, self.run = folder / "arena", folder / "arena" / "run"
        self._references: dict[str, Reference | Exception] = {}

    @functools.cached_property
    def place(self) -> running.Place:
        """Commands, and the arrays to train on."""
        (self.folder / "place").mkdir(exist_ok=True)
        place = running.Place(self.folder / "place")
        for path in (self.folder / "place").glob("*.npy"):
            os.utime(path, LONG_AGO)
        return place

    @property
    def stages(self) -> tuple[str, ...]:
        """What an analysis makes here."""
        if not self.long:
            return STAGES
        from analyze import STAGES as ALL

        return tuple(ALL)

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
        return self.place.analysis(self.run, "--only", *self.stages, *arguments, **labels | changed)

    def start(self, command: list[str], before: Callable[[], Any] = lambda: None) -> children.Child:
        """Starts a command in the arena."""
        return children.start(command, self.arena, before)

    def do(self, command: list[str], before: Callable[[], Any] = lambda: None) -> children.Result:
        """Runs a command in the arena to its end."""
        return self.start(command, before).wait()

    def trained(self, **changed: object) -> Reference:
        """A run that nothing disturbed; with other settings than usual, one with these."""
        name = " ".join(["trained", *(f"{key}={value}" for key, value in changed.items())])
        return self.reference(name, self.training(**changed), self.clear, lambda: same.run_content(self.run))

    def analysed(self) -> Reference:
        """The same, analysed."""
        return self.reference("analysed", self.analysis(), self.lay_trained, lambda: same.analysis_content(self.run))

    def describing(self) -> list[str]:
        """The command of the smallest analysis whose numbers depend on every parameter; it reads the run's log too."""
        return self.place.analysis(self.run, "--only", "denoising")

    def described(self) -> Reference:
        """The run, so analysed."""
        return self.reference("described", self.describing(), self.lay_trained, lambda: same.analysis_content(self.run))

    def without(self, stages: tuple[str, ...]) -> Reference:
        """The analysis that makes these stages anew, the others being there."""

        def lay() -> None:
            self.lay(self.analysed())
            for name in stages:
                children.remove(self.run / "analysis" / name)

        name = f"without {' '.join(stages)}"[:80]
        return self.reference(name, self.analysis(), lay, lambda: same.analysis_content(self.run), self.analysed)

    def lay_trained(self) -> Path:
        """The arena with the trained run in it."""
        return self.lay(self.trained())

    def reference(
        self,
        name: str,
        command: list[str],
        lay: Callable[[], Any],
        content: Callable[[], dict],
        like: Callable[[], Reference] | None = None,
    ) -> Reference:
        """What a command leaves undisturbed; one that failed fails again at once, for all who ask for it."""
        if name not in self._references:
            try:
                self._references[name] = self._made(name, command, lay, content, like)
            except TimeoutError:  # of a machine that had too much to do; it may have less later
                raise
            except Exception as error:
                self._references[name] = error
        found = self._references[name]
        if isinstance(found, Exception):
            kind = Broken if isinstance(found, Broken) else RuntimeError
            raise kind(f"the undisturbed command ({name}): {found}") from found
        return found

    def _made(
        self,
        name: str,
        command: list[str],
        lay: Callable[[], Any],
        content: Callable[[], dict],
        like: Callable[[], Reference] | None,
    ) -> Reference:
        """Made a second time, or after another reference (`like`), everything must be as it was."""
        folder = self.folder / "references" / name
        record, maker = folder.with_name(f"{name}.json"), f"{made_by()} {command}"
        known = json.loads(record.read_text()) if record.exists() else {}
        if known.pop("made_by", None) != maker:
            if like:
                expected = like().content
            else:  # once to compile, and once more to see how long it takes then
                lay()
                self._undisturbed(command)
                expected = content()
            lay()
            seconds, operations = self._undisturbed(command)
            children.remove(folder)
            shutil.copytree(self.arena, folder, symlinks=True)
            known = {"seconds": seconds, "operations": operations, "content": content()}
            if known["content"] != expected:
                raise Broken(f"made again, undisturbed: {same.difference(known['content'], expected)}")
            record.write_text(json.dumps(known | {"made_by": maker}))
        return Reference(folder, **known)

    def _undisturbed(self, command: list[str]) -> tuple[float, list[str]]:
        """Runs a command that nothing happens to: (seconds, file operations)."""
        listed = self.folder / "listed"
        result = children.start(command, self.arena, children.list_writes(self.arena, listed), learn=True).wait()
        if result.code:
            raise RuntimeError(f"undisturbed, {command[0]} ended with {result.code}: {result.err[-2000:]}")
        return result.seconds, listed.read_text().splitlines()
