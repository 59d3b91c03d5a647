"""Damage to what a killed command left: the rows so far, their record, the state of a batch, the newest checkpoint."""

import random
import signal
from collections.abc import Callable, Sequence
from typing import Any

from faults import children, kills, same
from faults.attack import Missed, about, require, require_ended_well, require_no_traceback
from faults.harms import HARMS, Harm, files_of
from faults.preparation import Preparation
from faults.scene import Scene

FROM_BEFORE = "it is named and set aside; the same command goes on from the one before, to bit for bit the undisturbed end"
RECORD = r"\.partial/\.?progress\.json"  # a record of rows is about to be written
STATE = r"\.state\.npz$"  # and the state of a batch is about to get its name


def harm_something(scene: Scene, chance: random.Random, name: str = "", harms: Sequence[Harm] = HARMS[:4]) -> str:
    """One of the files that are hidden, or lie in hidden folders, is damaged, or one of this name; returns how."""
    left = [path for path in files_of(scene.arena) if any(part.startswith(".") for part in path.parts)]
    left = [path for path in left if (scene.arena / path).stat().st_size and name in ("", path.name)]
    if not left:
        raise Missed("the kill left nothing half-made")
    path, harm = chance.choice(left), chance.choice(harms)
    harm(scene.arena / path, scene.arena, chance)
    return f"{harm.__name__} {path}"


def harm_half_made(
    scene: Scene, chance: random.Random, run: Callable[..., Any], moment: Callable, check: Callable, **which: Any
) -> None:
    """The command is killed at a moment, what it left half-made is damaged, and the same command ends well, as `check` says.

    `which` file is damaged, and how, is as `harm_something` takes it.
    """
    if run(moment).code != -signal.SIGKILL:
        raise Missed("it had ended before")
    with about(harm_something(scene, chance, **which)):
        again = run()
        require_no_traceback(again)
        require_ended_well(again)
        check()
        same.require_tidy(scene.arena)


def damage_half_analysis(scene: Scene, chance: random.Random) -> None:
    """Killed right before a record is renewed; what is there by then is damaged."""
    reference = scene.analysed()
    scene.lay_trained()
    states = len(kills.named(reference.operations, kills.STATE))  # which are kept a few times only, records at every batch
    name, last = chance.choice([(RECORD, 8), (STATE, states)])
    moment = children.kill_at_name("os.rename", name, chance.randint(2, last))

    def check():
        same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")

    harm_half_made(scene, chance, lambda *before: scene.do(scene.analysis(), *before), moment, check)


def damage_half_cache(scene: Scene, chance: random.Random, **which: Any) -> None:
    """The same of a folder of images that is decoded."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    moment = children.kill_at_name("os.rename", RECORD, chance.randint(2, 10))

    def check():
        same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")

    harm_half_made(scene, chance, lambda *before: preparation.start(*before).wait(), moment, check, **which)


def damage_killed_run(scene: Scene, chance: random.Random) -> None:
    """A training is killed when it has saved twice or more, and its newest checkpoint damaged before it goes on."""
    reference = scene.trained()
    scene.clear()
    position = chance.randint(reference.writes // 4, reference.writes)
    killed = scene.do(scene.training(), children.signal_at_write(position, scene.arena, signal.SIGKILL))
    saved = sorted(int(path.name) for path in (scene.run / "last").glob("[0-9]*") if path.name.isdecimal())
    if killed.code != -signal.SIGKILL or len(saved) < 2:
        raise Missed("it had ended, or saved once at most")
    newest, before = scene.run / "last" / str(saved[-1]), saved[-2]
    path, harm = chance.choice([path for path in files_of(newest) if (newest / path).stat().st_size]), chance.choice(HARMS)
    harm(newest / path, newest, chance)
    with about(f"{harm.__name__} {path} of step {newest.name}"):
        again = scene.do(scene.training())
        require_no_traceback(again)
        require_ended_well(again)
        require(f"resumed {scene.run} at step {before:,}\n" in again.out, f"went on from elsewhere: {again.out[:200]!r}")
        aside = newest.with_name(f"{newest.name}.damaged")
        require(aside.is_dir() and str(aside) in again.err, f"not set aside by name: {again.err[-600:]!r}")
        children.remove(aside)
        same.require_same(same.run_content(scene.run), reference.content, "the run")
        same.require_tidy(scene.arena)
