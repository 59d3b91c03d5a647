"""Kills: processes ended by the system, or asked to end, at any moment, and started again with the same command.

Moments are drawn from all file operations of the undisturbed command, and from its whole duration (inside steps, too).
"""

import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import children, same
from tests.faults.attack import Attack, Missed, require, require_no_traceback
from tests.faults.preparation import Preparation
from tests.faults.scene import Reference, Scene

# What is killed -> the stages that an analysis then makes anew, with what they keep.
STAGES = {
    "feature sweeps": ("representations", "untrained"),
    "samples": ("samples", "drawn", "training_phi"),
    "reconstructions": ("reconstructions", "reconstructed"),
    "clustering": ("clusters", "clusters_kept"),
    "explorer": ("explorer", "fires", "explorer_kept"),
    "report": ("figures", "report.html"),
}
KILLED = "the same command goes on to bit for bit the undisturbed arrays, checkpoints, metrics and reports; nothing else stays"
ASKED = "it ends with one line at most, and loses one step at most; the same command goes on, to bit for bit the same"


def attacks(scene: Scene) -> Iterator[Attack]:
    """The kills, and the requests to stop."""
    for number in range(scene.many(4, 20)):
        yield Attack(
            "data preparation",
            KILLED,
            f"kill {number} while images are decoded",
            lambda chance: kill_preparation(scene, chance),
        )
    for number in range(scene.many(4, 20)):
        yield Attack(
            "training, at a file operation",
            KILLED,
            f"kill {number} of train.py",
            lambda chance: kill_training(scene, chance),
        )
    for number in range(scene.many(4, 18)):
        yield Attack(
            "training, at any time",
            KILLED,
            f"kill {number} of train.py",
            lambda chance: kill_training(scene, chance, timed=True),
        )
    for what in STAGES:
        for number in range(scene.many(1, 7)):
            yield Attack(
                what, KILLED, f"kill {number} in {what}", lambda chance, what=what: kill_analysis(scene, what, chance)
            )
    for name in ("SIGTERM", "SIGINT"):
        for number in range(scene.many(2, 10)):
            yield Attack(
                f"training, {name}",
                ASKED,
                f"{name} {number}",
                lambda chance, name=name: ask_training(scene, name, chance),
            )
        for what in STAGES:
            for number in range(scene.many(1, 2) if scene.long or what in ("samples", "report") else 0):
                yield Attack(
                    f"analysis, {name}",
                    ASKED,
                    f"{name} {number} in {what}",
                    lambda chance, name=name, what=what: kill_analysis(scene, what, chance, getattr(signal, name)),
                )


def moment(reference: Reference, folder: Path, chance: random.Random, number: int, timed: bool) -> Callable[[], None]:
    """Of a command like the reference: its end at a random file operation, or at a random time."""
    if timed:
        return children.kill_after(chance.uniform(0.05, 1) * reference.seconds)
    return children.signal_at_write(chance.randint(1, reference.writes), folder, number)


def kill_preparation(scene: Scene, chance: random.Random) -> None:
    """While a folder of images is decoded."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    before = moment(reference, scene.arena, chance, signal.SIGKILL, chance.random() < 0.3)
    if preparation.start(before).wait().code != -signal.SIGKILL:
        raise Missed("it had ended before")
    again = preparation.start().wait()
    require(again.code == 0, f"not taken up: {again.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    same.require_tidy(scene.arena)


def kill_training(scene: Scene, chance: random.Random, timed: bool = False) -> None:
    """One to three times in a row."""
    reference = scene.trained()
    scene.clear()
    hits = 0
    for _ in range(chance.randint(1, 3)):
        result = scene.do(scene.training(), moment(reference, scene.arena, chance, signal.SIGKILL, timed))
        hits += result.code == -signal.SIGKILL
        require(result.code in (0, -signal.SIGKILL), f"ended with {result.code}: {result.err[-600:]}")
    if not hits:
        raise Missed("it had ended before")
    finish_training(scene, reference)


def finish_training(scene: Scene, reference: Reference) -> None:
    """The same command once more."""
    again = scene.do(scene.training())
    require(again.code == 0, f"not taken up: code {again.code}, {again.err[-600:]}")
    same.require_same(same.run_content(scene.run), reference.content, "the run")
    same.require_tidy(scene.arena)


def ask_training(scene: Scene, name: str, chance: random.Random) -> None:
    """It saves at that very step; before there is anything to save, it just ends."""
    reference, number = scene.trained(), getattr(signal, name)
    scene.clear()
    result = scene.do(scene.training(), moment(reference, scene.arena, chance, number, timed=False))
    require_no_traceback(result)
    told = re.search(rf"stopped by {name} at step ([\d,]+), saved", result.out)
    if result.code == 0 and not told:
        raise Missed("it had ended before")
    if told:
        shown = [int(step.replace(",", "")) for step in re.findall(r"^step ([\d,]+)/", result.out, re.MULTILINE)]
        saved = int(told[1].replace(",", ""))
        require(
            result.code == 0 and (scene.run / "last" / str(saved) / "manifest.json").exists(), "not saved where it says"
        )
        require(saved >= max(shown, default=0), f"step {max(shown, default=0)} was made, step {saved} saved")
    else:
        early = {"SIGTERM": (-signal.SIGTERM,), "SIGINT": (130,)}[name]
        require(result.code in early and len(result.err.splitlines()) <= 1, f"code {result.code}: {result.err[-600:]}")
    finish_training(scene, reference)


def kill_analysis(scene: Scene, what: str, chance: random.Random, number: int = signal.SIGKILL) -> None:
    """While the stages of this kind are made."""
    reference = scene.without(STAGES[what])
    scene.lay(scene.analysed())
    for name in STAGES[what]:
        children.remove(scene.run / "analysis" / name)
    timed = number == signal.SIGKILL and chance.random() < 0.3
    result = scene.do(scene.analysis(), moment(reference, scene.arena, chance, number, timed))
    if result.code == 0:
        raise Missed("it had ended before")
    require(
        result.code in (-number, 130 if number == signal.SIGINT else -number),
        f"code {result.code}: {result.err[-600:]}",
    )
    require_no_traceback(result)
    again = scene.do(scene.analysis())
    require(again.code == 0, f"not taken up: code {again.code}, {again.err[-600:]}")
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    same.require_tidy(scene.arena)
