"""Damage to what a killed command left half-made: the rows so far, their record, and the state of a batch."""

import random
import signal
from collections.abc import Callable
from typing import Any

from faults import children, same
from faults.attack import Missed, about, require_ended_well, require_no_traceback
from faults.harms import HARMS, files_of
from faults.preparation import Preparation
from faults.scene import Scene

RECORD = r"\.partial/\.?progress\.json"  # a record of rows is about to be written
STATE = r"\.state\.npz$"  # and the state of a batch is about to get its name


def harm_something(scene: Scene, chance: random.Random) -> str:
    """One of the files that are hidden, or lie in hidden folders, is damaged; returns how."""
    left = [path for path in files_of(scene.arena) if any(part.startswith(".") for part in path.parts)]
    left = [path for path in left if (scene.arena / path).stat().st_size]
    if not left:
        raise Missed("the kill left nothing half-made")
    path, harm = chance.choice(left), chance.choice(HARMS[:4])
    harm(scene.arena / path, scene.arena, chance)
    return f"{harm.__name__} {path}"


def harm_half_made(scene: Scene, chance: random.Random, run: Callable[..., Any], moment: Callable, check: Callable) -> None:
    """The command is killed at a moment, what it left half-made is damaged, and the same command ends well, as `check` says."""
    if run(moment).code != -signal.SIGKILL:
        raise Missed("it had ended before")
    with about(harm_something(scene, chance)):
        again = run()
        require_no_traceback(again)
        require_ended_well(again)
        check()
        same.require_tidy(scene.arena)


def damage_half_analysis(scene: Scene, chance: random.Random) -> None:
    """Killed right before a record is renewed; what is there by then is damaged."""
    reference = scene.analysed()
    scene.lay_trained()
    moment = children.kill_at_name("os.rename", chance.choice([RECORD, STATE]), chance.randint(2, 8))

    def check():
        same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")

    harm_half_made(scene, chance, lambda *before: scene.do(scene.analysis(), *before), moment, check)


def damage_half_cache(scene: Scene, chance: random.Random) -> None:
    """The same of a folder of images that is decoded."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    moment = children.kill_at_name("os.rename", RECORD, chance.randint(2, 10))

    def check():
        same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")

    harm_half_made(scene, chance, lambda *before: preparation.start(*before).wait(), moment, check)
