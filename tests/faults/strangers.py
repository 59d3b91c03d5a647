"""Checkpoints of strangers: objects, paths and false names planted in one, with checksums that fit; and links in their runs."""

import json
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import children, same
from faults.attack import require, require_no_traceback, told_lines
from faults.preparation import make_pictures
from faults.scene import Scene

ESCAPED = "../escaped"  # from the folder where commands run
OBJECT = "an object in place of a file"
NOT_OURS = ("programs/", "place/", "temporary/", "matplotlib/", "references/", "pictures/", "counted", "arena/runs/")

# What of a run is a link to something elsewhere; what is not there is what a command writes first, beside its place.
LINKS = {
    "analysed": (
        "best/40", "config.json", "metrics.jsonl", "analysis/summary.json", "analysis/report.html", "analysis/.report.html.partial",
        "analysis/.sparsity.partial/arrays.npz", "analysis/sparsity/",
    ),
    "analysed, half-made": ("analysis/.sparsity.partial/",),
    "analysed, with a lock": ("analysis/.lock",),
    "analysed, all of it elsewhere": ("analysis/",),
    "trained on": (
        "last/40", "best/40", "milestones/40", "config.json", "metrics.jsonl", ".config.json.partial", ".metrics.jsonl.partial",
        "milestones/48/",
    ),
    "trained on, half-made": ("last/.44.writing/",),
    "trained on, with a lock": (".lock",),
}  # fmt: skip


class Planted:
    """Would make a file, were it ever unpickled."""

    def __init__(self, path: Path):
        """`path` tells afterwards; what an earlier one left there goes."""
        self.path = path
        children.remove(path)

    def __reduce__(self):
        """What unpickling would call."""
        return open, (str(self.path), "w")


def require_not_run(scene: Scene, result: children.Result) -> None:
    """The sign that an object was unpickled is not there."""
    require(not (scene.folder / "executed").exists(), "the planted object was unpickled")
    require(result.code in (0, 2), f"code {result.code}: {result.err[-600:]}")
    require_no_traceback(result)


def in_header(change: Callable[[dict], Any]) -> Callable[[Scene, Path, random.Random], None]:
    """Changes the JSON that holds a checkpoint's step and configuration."""

    def plant(scene: Scene, folder: Path, chance: random.Random) -> None:
        path = folder / "config" / "metadata"
        header = json.loads(path.read_text())
        change(header)
        path.write_text(json.dumps(header))
        seal(folder)

    return plant


def seal(folder: Path) -> None:
    """Makes the checksums of a checkpoint fit its files."""
    from unetrep_jax import storage

    storage.write_manifest(folder)


def pickled(scene: Scene, folder: Path, chance: random.Random) -> None:
    """An object in the place of a file that an analysis reads."""
    files = [path for part in ("averaged", "config", "data") for path in sorted((folder / part).rglob("*")) if path.is_file()]
    path = chance.choice([path for path in files if path.name != "commit_success.txt"])
    path.write_bytes(pickle.dumps(Planted(scene.folder / "executed")))
    seal(folder)


def listed_outside(scene: Scene, folder: Path, chance: random.Random) -> None:
    """The manifest lists a file that lies elsewhere, and is there."""
    from unetrep_jax import storage

    outside = folder.parent / "secret"
    outside.write_bytes(b"x")
    manifest = folder / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"../secret": storage.sha256(outside)}))


# Name -> what is planted, and words of the refusal; "" where the analysis may end well.
CASES: dict[str, tuple[Callable[[Scene, Path, random.Random], None], str]] = {
    OBJECT: (pickled, ""),
    "a format of figures": (
        in_header(lambda header: header["config"]["analysis"].update(figure_formats=["png", ESCAPED])), "analysis.figure_formats"
    ),
    "a name of the network": (in_header(lambda header: header["config"]["model"].update(name=ESCAPED)), ESCAPED),
    "a name of the data set": (
        in_header(lambda header: header["config"]["data"].update(source="tfds", name=ESCAPED, data_dir=".")), "data.name"
    ),
    "a step": (in_header(lambda header: header.update(step=ESCAPED)), "no usable step"),
    "no configuration": (in_header(lambda header: header.update(config=ESCAPED)), "no usable config"),
    "a file elsewhere in the manifest": (listed_outside, "../secret is missing"),
    "a cache": (in_header(lambda header: header["config"]["data"].update(cache_dir=ESCAPED)), ""),
}  # fmt: skip


def checkpoint(scene: Scene, name: str, chance: random.Random) -> None:
    """A single checkpoint, as a stranger sends it, is analysed; results lie below runs/, and nothing else is written."""
    plant, words = CASES[name]
    trained = scene.trained().folder / "run" / "best"
    best = max(trained.glob("[0-9]*"), key=lambda path: int(path.name))
    scene.clear()
    children.remove(scene.folder / "escaped")
    sent = scene.arena / "sent"
    shutil.copytree(best, sent)
    plant(scene, sent, chance)
    pictures = scene.folder / "pictures"
    if not pictures.exists():
        make_pictures(pictures)
    images = () if name == "a name of the data set" else ("--images", pictures)
    before = files_of(scene)
    command = [part for part in scene.place.analysis(sent, "--only", "sparsity", *images) if "figure_formats" not in part]
    result = scene.do(command)
    shown = f"code {result.code}, {result.out[-300:]!r}, {result.err[-600:]!r}"
    require_not_run(scene, result)
    require(result.code == 0 or len(told_lines(result)) == 1, f"not one line: {shown}")
    require(not words or (result.code == 2 and words in result.out + result.err), f"not refused: {shown}")
    require("the campaign may not change" not in result.err, f"it would have written elsewhere: {shown}")
    escaped = sorted(files_of(scene) - before)
    if name == "a cache":  # that goes where a configuration says: images under names of the program's own, and nothing else
        require(result.code == 0 and escaped != [], f"no cache there: {shown}")
        escaped = [path for path in escaped if not path.startswith(("escaped/folder-", "escaped/.folder-"))]
    require(escaped == [], f"written outside: {escaped}")


def files_of(scene: Scene) -> set[str]:
    """Names of all files in the campaign's folder, but for those of the campaign itself and the results."""
    found = {str(path.relative_to(scene.folder)) for path in scene.folder.rglob("*") if path.is_file()}
    return {name for name in found if not name.startswith(NOT_OURS)}


def linked(scene: Scene, what: str, names: tuple[str, ...]) -> None:
    """Parts of a run lead out of it; what lies there stays as it is, whether the command is refused or does without."""
    scene.lay_trained()
    outside = children.fresh(scene.folder / "outside")
    for number, name in enumerate(names):
        lead_out(scene.run / name, outside / str(number), is_folder=name.endswith("/"))
    before = same.folder_content(outside)
    if what.startswith("trained on"):
        result = scene.do(scene.training(train__epochs=6))
    else:
        result = scene.do(scene.place.analysis(scene.run, "--only", "sparsity"))
    require_no_traceback(result)
    shown = f"code {result.code}, {result.err[-600:]!r}"
    require(result.code in (0, 2), shown)
    require(result.code == 0 or len(told_lines(result)) == 1, f"not one line: {shown}")
    changed = same.difference(same.folder_content(outside), before)
    require(changed == "{}", f"of {dict(enumerate(names))} there changed {changed}; {shown}")


def lead_out(path: Path, target: Path, is_folder: bool) -> None:
    """A file or folder is a link to where it lies now; one that is not there, or is empty, to one that is somebody's own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file() and not path.stat().st_size:
        path.unlink()
    if path.exists():
        path.rename(target)
    elif is_folder:
        target.mkdir()
        (target / "own").write_text("somebody's own")
    else:
        target.write_text("somebody's own")
    path.symlink_to(target)
