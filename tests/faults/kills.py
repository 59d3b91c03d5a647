"""Kills: processes ended by the system, or asked to end, at any moment, and started again with the same command.

Moments are drawn from all file operations of the undisturbed command, and from its whole duration (inside steps, too).
"""

import json
import random
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from faults import children, same
from faults.attack import Attack, Missed, require, require_ended_well, require_no_traceback, told_lines
from faults.preparation import Preparation
from faults.scene import Reference, Scene

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
EVERY_STEP = {"log__every": 1}  # so that the log tells at which step a process was asked


def attacks(scene: Scene) -> Iterator[Attack]:
    """The kills, and the requests to stop."""
    for number in range(scene.many(3, 20)):
        name = f"kill {number} while images are decoded"
        yield Attack("data preparation", KILLED, name, lambda chance: kill_preparation(scene, chance))
    for row, timed, count in (("at a file operation", False, (3, 20)), ("at any time", True, (3, 18))):
        for number in range(scene.many(*count)):
            name = f"kill {number} of train.py"
            yield Attack(f"training, {row}", KILLED, name, lambda chance, t=timed: kill_training(scene, chance, t))
    yield from of_analyses(scene, "SIGKILL", KILLED, 1, 7)
    for name in ("SIGTERM", "SIGINT"):
        for number in range(scene.many(2, 10)):
            act = lambda chance, name=name, timed=number % 2 == 1: ask_training(scene, name, chance, timed)  # noqa: E731
            yield Attack(f"training, {name}", ASKED, f"{name} {number}", act)
        yield from of_analyses(scene, name, ASKED, 1, 2)


def of_analyses(scene: Scene, name: str, promise: str, short: int, long: int) -> Iterator[Attack]:
    """Signals in each kind of stage; with --long in the other stages too, once."""
    kinds = dict.fromkeys(STAGES, scene.many(short, long))
    if name != "SIGKILL" and not scene.long:
        kinds = {"samples": short, "report": short}
    if name == "SIGKILL" and scene.long:
        known = {stage for stages in STAGES.values() for stage in stages}
        kinds |= {stage: 1 for stage in scene.stages if stage not in known}
    for what, count in kinds.items():
        for number in range(count):
            row = what if name == "SIGKILL" else f"analysis, {name}"
            act = lambda chance, what=what: kill_analysis(scene, what, chance, getattr(signal, name))  # noqa: E731
            yield Attack(row, promise, f"{name} {number} in {what}", act)


def made_anew(what: str) -> tuple[str, ...]:
    """The stages of a kind, or one of the others by its name, with what they keep."""
    if what in STAGES:
        return STAGES[what]
    from unetrep_jax.stages.running import STAGES as ALL

    return (what, *ALL[what].keeps)


def moment(
    reference: Reference,
    folder: Path,
    chance: random.Random,
    number: int,
    timed: bool,
    note: Callable[[], Any] = lambda: None,
) -> Callable[[], None]:
    """Of a command like the reference: a signal at a random file operation, or at a random time, after a note of how far it is."""
    if timed:
        return children.signal_after(chance.uniform(0.05, 1) * reference.seconds, number, note)
    return children.signal_at_write(chance.randint(1, reference.writes), folder, number, note)


def kill_preparation(scene: Scene, chance: random.Random) -> None:
    """While a folder of images is decoded."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    before = moment(reference, scene.arena, chance, signal.SIGKILL, chance.random() < 0.3)
    if preparation.start(before).wait().code != -signal.SIGKILL:
        raise Missed("it had ended before")
    require_ended_well(preparation.start().wait())
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    same.require_tidy(scene.arena)


def kill_training(scene: Scene, chance: random.Random, timed: bool) -> None:
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


def finish_training(scene: Scene, reference: Reference, **changed: object) -> None:
    """The same command once more."""
    require_ended_well(scene.do(scene.training(**changed)))
    same.require_same(same.run_content(scene.run), reference.content, "the run")
    same.require_tidy(scene.arena)


def logged_step(scene: Scene) -> int:
    """The last step that the log has whole."""
    log = scene.run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith(b"\n")), default=0)


def ask_training(scene: Scene, name: str, chance: random.Random, timed: bool) -> None:
    """It saves at that very step; before there is anything to save, it just ends."""
    reference, number = scene.trained(**EVERY_STEP), getattr(signal, name)
    scene.clear()
    asked = scene.folder / "asked"
    asked.write_text("0")
    before = moment(reference, scene.arena, chance, number, timed, lambda: asked.write_text(str(logged_step(scene))))
    result = scene.do(scene.training(**EVERY_STEP), before)
    require_no_traceback(result)
    told = re.search(rf"stopped by {name} at step ([\d,]+), saved", result.out)
    if result.code == 0 and not told:
        raise Missed("it had ended before")
    if told:
        saved, at = int(told[1].replace(",", "")), int(asked.read_text())
        kept = (scene.run / "last" / str(saved) / "manifest.json").exists()
        require(result.code == 0 and kept and result.err == "", f"not saved where it says: {result.err[-600:]}")
        require(logged_step(scene) == saved, f"step {logged_step(scene)} was made, step {saved} saved")
        # The step that it was at was not in the log yet; while the signal was on its way, another may have ended.
        require(at <= saved <= at + 1 + timed, f"asked at step {at + 1}, it went on to step {saved}")
    else:
        early = {"SIGTERM": (-signal.SIGTERM,), "SIGINT": (130,)}[name]
        require(result.code in early and len(result.err.splitlines()) <= 1, f"code {result.code}: {result.err[-600:]}")
    finish_training(scene, reference, **EVERY_STEP)


def kill_analysis(scene: Scene, what: str, chance: random.Random, number: int = signal.SIGKILL) -> None:
    """While the stages of this kind are made."""
    stages = made_anew(what)
    reference = scene.without(stages)
    scene.lay(scene.analysed())
    for name in stages:
        children.remove(scene.run / "analysis" / name)
    timed = chance.random() < 0.3
    result = scene.do(scene.analysis(), moment(reference, scene.arena, chance, number, timed))
    if result.code == 0:
        raise Missed("it had ended before")
    codes = (-number, 130) if number == signal.SIGINT else (-number,)
    require(result.code in codes, f"code {result.code}: {result.err[-600:]}")
    require_no_traceback(result)
    require(number == signal.SIGKILL or len(told_lines(result)) <= 1, f"more than a line: {result.err[-600:]}")
    require_ended_well(scene.do(scene.analysis()))
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    same.require_tidy(scene.arena)
