"""Controls: the program is broken on purpose, and the attack that is there for it must say so. Otherwise it would prove nothing."""

import contextlib
import importlib
from collections.abc import Callable, Iterator
from typing import Any

from faults import damage, harms, kills, markup
from faults.attack import Attack, Broken, Chance, Missed
from faults.scene import Scene

NOTICED = "the campaign calls it a failure"


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each breaks something, which the forks of this process inherit."""
    for name, (where, what, act) in CONTROLS.items():
        yield Attack("a broken program", NOTICED, name, lambda chance, c=(where, what, act): control(scene, chance, *c))


def control(scene: Scene, chance: Chance, where: str, broken: Any, act: Callable) -> None:
    """The attack must fail on the broken program, and hold on the whole one, in the same way."""
    seed = chance.random()
    act(scene, Chance(seed))
    with replaced(where, broken):
        try:
            act(scene, Chance(seed))
        except Broken:
            return
    raise Broken("the attack calls a broken program whole")


@contextlib.contextmanager
def replaced(where: str, value: Any) -> Iterator[None]:
    """A function of the program is another one."""
    module, _, name = where.rpartition(".")
    found = importlib.import_module(module)
    before = getattr(found, name)
    setattr(found, name, value)
    try:
        yield
    finally:
        setattr(found, name, before)


def flipped_cache(scene: Scene, chance: Chance) -> None:
    """A byte of the decoded images changes."""
    path = next(path for path, _ in damage.cache_files(scene) if path.name == "images.npy")
    damage.damage_cache(scene, path, harms.flip, chance)


def flipped_milestones(scene: Scene, chance: Chance) -> None:
    """A byte of a checkpoint changes."""
    damage.damage_milestones(scene, harms.flip, chance, every=True)


def killed_training(scene: Scene, chance: Chance) -> None:
    """Two kills of a training."""
    hits = 0
    for _ in range(6):
        with contextlib.suppress(Missed):
            kills.kill_training(scene, chance, kills.OPERATION)
            hits += 1
        if hits == 2:
            return
    raise Missed("too few kills hit")


def named_like_markup(scene: Scene, chance: Chance) -> None:
    """A run with a name that is markup."""
    markup.run_name(scene, markup.RUNS[0])


# What is broken -> where that is in the program, what takes its place, the attack that must notice.
CONTROLS: dict[str, tuple[str, Any, Callable]] = {
    "folders are not compared with their checksums": ("unetrep_jax.storage.folders._changed", lambda *_: "", flipped_cache),
    "a log is not cut to the checkpoint": ("unetrep_jax.logs._step_of", lambda _: 0, killed_training),
    "checkpoints are not compared with their manifests": (
        "unetrep_jax.checkpoints.verify_manifest", lambda *_: None, flipped_milestones,
    ),
    "names in reports are not escaped": ("html.escape", lambda text, *_, **__: text, named_like_markup),
}  # fmt: skip
