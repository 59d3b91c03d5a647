"""Odd places: paths of any letters, links, data that is slow."""

import shutil
import sys
import time
from pathlib import Path

from faults import same
from faults.attack import require, require_ended_well, require_one_line
from faults.preparation import Preparation
from faults.scene import SHORT, Scene

PATHS = (
    "a b/c  d", "日本語/данные", "ünï/çødé", "quote'\"s", "dollar$HOME/set=on", "-dash/--workdir", "percent%s{}", "dot./..dots",
    "new\nline", "semi;colon&and", "tab\there", "x" * 200, "/".join(["deep"] * 40), "emoji 🙂", "pipe|{a,b}<c>", "#hash/~tilde",
)  # fmt: skip

UNUSABLE = ("\\", "[0]", "*", "?")  # a part of a path which Orbax or TensorStore would read as another's


def too_long(scene: Scene) -> None:
    """Longer than any file system's names."""
    scene.clear()
    require_one_line(scene.do(scene.training(scene.arena / ("x" * 300))), "train.py", "too long")
    require(not any(scene.arena.iterdir()), "something was written")


def unusable(scene: Scene, odd: str) -> None:
    """In the path of the run folder; checkpoints would lie elsewhere, or not be found."""
    scene.clear()
    require_one_line(scene.do(scene.training(scene.arena / f"run{odd}")), "train.py", f"run{odd} has")
    require(not any(scene.arena.iterdir()), "something was written")


def odd_path(scene: Scene, path: str) -> None:
    """Run folder and images lie there; the numbers must be those of any other place."""
    scene.clear()
    expected = numbers(scene, scene.arena / "plain", {})
    folder = scene.arena / path
    folder.mkdir(parents=True)
    images = {
        f"data__{name}_path": shutil.copy2(scene.place.folder / f"{name}.npy", folder)
        for name in ("train", "validation")
    }
    require(numbers(scene, folder / "run", images) == expected, "other numbers")


def numbers(scene: Scene, run: Path, changed: dict[str, object]) -> bytes:
    """The log of one step of training, and an analysis that must work."""
    result = scene.do(scene.training(run, **SHORT | changed))
    require_ended_well(result)
    command = scene.place.analysis(run, "--only", "architecture")
    result = scene.do(command)
    require(result.code == 0 and "report: " in result.out, f"analysis: code {result.code}: {result.err[-600:]}")
    require((run / "analysis" / "report.html").stat().st_size > 0, "no report")
    return (run / "metrics.jsonl").read_bytes()


def links(scene: Scene) -> None:
    """The run folder is a link to another one, and so is each array."""
    scene.clear()
    expected = numbers(scene, scene.arena / "plain", {})
    (scene.arena / "elsewhere").mkdir()
    (scene.arena / "link").symlink_to("elsewhere")
    for name in ("train", "validation"):
        (scene.arena / f"{name}.npy").symlink_to(scene.place.folder / f"{name}.npy")
    images = {f"data__{name}_path": scene.arena / f"{name}.npy" for name in ("train", "validation")}
    require(numbers(scene, scene.arena / "link", images) == expected, "other numbers")
    require((scene.arena / "elsewhere" / "metrics.jsonl").exists(), "the link was replaced")


def slow_data(scene: Scene) -> None:
    """Each picture takes its time, as from a far machine."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()

    def slow() -> None:
        pictures = str(preparation.pictures)
        sys.addaudithook(
            lambda event, arguments: (
                time.sleep(0.02) if event == "open" and str(arguments[0]).startswith(pictures) else None
            )
        )

    result = preparation.start(slow).wait()
    require_ended_well(result)
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
