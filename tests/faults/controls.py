"""Controls: the program is broken on purpose, and the attack that is there for it must say so. Otherwise it would prove nothing."""

import contextlib
import pkgutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import configs
from faults import damage, halves, harms, kills, markup, people, twice
from faults.attack import Attack, Broken, Chance, Missed
from faults.scene import Scene
from unetrep_jax import storage
from unetrep_jax.storage.rows import RowWriter

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
    """A function of the program, or of a class in it, is another one."""
    owner, _, name = where.rpartition(".")
    found = pkgutil.resolve_name(owner)
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


def emptied_rows(scene: Scene, chance: Chance) -> None:
    """Rows that a killed decoding had recorded are gone."""
    halves.damage_half_cache(scene, chance, name="images.npy", harms=[harms.empty])


def flipped_parameters(scene: Scene, chance: Chance) -> None:
    """Bytes change in the largest file of the parameters that an analysis reads; on one alone no number may depend."""
    run = scene.trained().folder / "run"
    found = {path for path, _ in damage.analysed_run_files(scene) if "averaged" in path.parts}

    def flips(path: Path, root: Path, chance: Chance) -> None:
        for _ in range(FLIPS):
            harms.flip(path, root, chance)

    damage.damage_analysed_run(scene, max(found, key=lambda path: (run / path).stat().st_size), flips, chance)


def second_run(scene: Scene, chance: Chance) -> None:
    """A run of one step, and another in its folder meanwhile."""
    scene.trained()  # whose compiled programs it needs
    scene.clear()
    twice.refuse_second(scene, chance, scene.training(**ONE_STEP), twice.TAKEN)


def typed(scene: Scene, chance: Chance, *, argument: str) -> None:
    """A training of one step with this argument."""
    scene.trained()
    scene.clear()
    people.judge(scene, "train.py", [argument], scene.do([*scene.training(**ONE_STEP), argument]), False)


def recorded_checksum(writer: RowWriter, name: str, rows: int) -> str:
    """What was recorded of the rows, whatever they are."""
    COMPARED(writer, name, rows)
    return storage.read_json(writer._partial / storage.PROGRESS)["sha256"][name]


def all_but_the_last(config: Any, arguments: list[str]) -> None:
    """Takes the settings but for the last one."""
    TAKEN(config, arguments[:-1])


COMPARED, TAKEN = RowWriter._digest, configs.override  # as they are in the whole program
FLIPS = 16
ONE_STEP = {"train__epochs": 0.125}

# What is broken -> where that is in the program, what takes its place, the attack that must notice.
CONTROLS: dict[str, tuple[str, Any, Callable]] = {
    "folders are not compared with their checksums": ("unetrep_jax.storage.folders._changed", lambda *_: "", flipped_cache),
    "a log is not cut to the checkpoint": ("unetrep_jax.logs._step_of", lambda _: 0, killed_training),
    "checkpoints are not compared with their manifests": (
        "unetrep_jax.checkpoints.verify_manifest", lambda *_: None, flipped_milestones,
    ),
    "names in reports are not escaped": ("html.escape", lambda text, *_, **__: text, named_like_markup),
    "rows are not compared with their record": ("unetrep_jax.storage.rows.RowWriter._digest", recorded_checksum, emptied_rows),
    "analysed checkpoints are not compared with their manifests": (
        "unetrep_jax.checkpoints.verify_manifest", lambda *_: None, flipped_parameters,
    ),
    "a folder is not locked": ("unetrep_jax.storage.folders._locked", lambda *_: True, second_run),
    "an error is a traceback": (
        "unetrep_jax.endings.in_one_line", lambda _, work, **__: work(), partial(typed, argument="--config.train.crop=5"),
    ),
    "a setting is not taken": ("configs.override", all_but_the_last, partial(typed, argument="--config.log.every=3")),
}  # fmt: skip
