"""Damage: every file of a run, of an analysis and of a cache, one at a time: a byte flipped, cut, emptied, gone, exchanged."""

import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from faults import children, halves, programs, same
from faults.attack import (
    Absent,
    Attack,
    Missed,
    about,
    require,
    require_ended_well,
    require_no_traceback,
    require_one_line,
)
from faults.harms import HARMS, Harm, files_of, pairs
from faults.preparation import Preparation
from faults.scene import Scene

TRAINED = "named on the error stream or harmless; the newest checkpoint and the log end up bit for bit as they were"
ANALYSED = "named, or harmless: the report is bit for bit the same"
NAMED = "refused, or passed over, by name"
REMADE = "made again, bit for bit, and named where it was in use"
OF_OTHERS = "refused by name, or analysed from the beginning: nothing that was made of other images or labels stays"
FROM_THE_BEGINNING = "the same command ends with bit for bit the same, and nothing else stays"


def attacks(scene: Scene) -> Iterator[Attack]:
    """A part of the files, of every kind; with --long all of them."""
    yield from one_by_one(scene, "a run's files, trained on", TRAINED, trained_files, damage_run, 10, 500)
    yield from one_by_one(scene, "a run's files, analysed", ANALYSED, analysed_run_files, damage_analysed_run, 6, 180)
    log = Path("metrics.jsonl")
    act = lambda chance: damage_analysed_run(scene, log, another_digit, chance)  # noqa: E731
    yield Attack("a run's files, analysed", ANALYSED, "another digit in metrics.jsonl", act)
    for harm in HARMS:
        name = f"{harm.__name__} files of milestones"
        act = partial(damage_milestones, scene, harm, every=scene.long)
        yield Attack("milestones", NAMED, name, act)
    yield from one_by_one(scene, "an analysis's files", REMADE, analysis_files, damage_analysis, 12, 1500)
    yield from one_by_one(scene, "a cache of decoded images", REMADE, cache_files, damage_cache, 8, 30)
    for what, act in (("an analysis", halves.damage_half_analysis), ("decoded images", halves.damage_half_cache)):
        for number in range(scene.many(3, 40)):
            name = f"file {number} of what a kill left of {what}"
            yield Attack(f"{what}, half-made", FROM_THE_BEGINNING, name, lambda chance, act=act: act(scene, chance))
    for harm in HARMS:
        for number in range(scene.many(1, 5)):
            act = lambda chance, harm=harm: programs.damage_programs(scene, harm, chance)  # noqa: E731
            yield Attack("compiled programs", programs.COMPILED, f"{harm.__name__} a program, {number}", act)
    for harm in HARMS:
        act = lambda chance, harm=harm: damage_images(scene, "train", harm, chance)  # noqa: E731
        yield Attack("images in memory maps", NAMED, f"{harm.__name__} train.npy", act)
    for harm in HARMS if scene.long else HARMS[:1]:
        act = lambda chance, harm=harm: damage_images(scene, "validation", harm, chance)  # noqa: E731
        yield Attack("images in memory maps", NAMED, f"{harm.__name__} validation.npy", act)
        for what in ("validation", "labels") if scene.long else ("validation",):
            act = lambda chance, harm=harm, what=what: damage_analysed_images(scene, what, harm, chance)  # noqa: E731
            yield Attack("images and labels, analysed", OF_OTHERS, f"{harm.__name__} {what}.npy", act)
    act = lambda chance: damage_analysed_images(scene, "labels", other_classes, chance)  # noqa: E731
    yield Attack("images and labels, analysed", OF_OTHERS, "other classes in labels.npy", act)
    for number in range(scene.many(1, 20)):
        act = lambda chance: halves.damage_killed_run(scene, chance)  # noqa: E731
        yield Attack("a killed run's newest checkpoint", halves.FROM_BEFORE, f"kill {number}", act)


def another_digit(path: Path, root: Path, chance: random.Random) -> None:
    """The first loss in a log is another number: every line can be read as before."""
    content = bytearray(path.read_bytes())
    place = content.index(b'"loss": ') + len(b'"loss": ')
    content[place] = ord("1") if content[place] != ord("1") else ord("2")
    path.write_bytes(content)


def other_classes(path: Path, root: Path, chance: random.Random) -> None:
    """Labels in another order, which can be read as before; a byte that changes is mostly refused."""
    np.save(path, np.sort(np.load(path)))


def one_by_one(
    scene: Scene, row: str, promise: str, found: Callable[[Scene], list], act: Callable, short: int, long: int
) -> Iterator[Attack]:
    """Attacks on the first so many pairs of a file and a harm, which are looked for when the first of them is made.

    With each it is counted of how many it is one. The last number of the long form must lie beyond them all.
    """
    count = scene.many(short, long)
    for number in range(count):

        def damage(chance: random.Random, number: int = number) -> list[str]:
            chosen = found(scene)
            if number >= len(chosen):
                raise Absent("all files have been damaged")
            enough = not scene.long or number + 1 < count
            require(enough, f"there are {len(chosen):,} pairs of a file and a harm, of which {number:,} are attacked")
            path, harm = chosen[number]
            with about(f"{harm.__name__} {path}"):
                act(scene, path, harm, chance)
            return [f"of the {len(chosen):,} pairs of a file and a harm"]

        yield Attack(row, promise, f"file {number}", damage)


def trained_files(scene: Scene) -> list[tuple[Path, Harm]]:
    """What training goes on from."""
    return pairs(scene.trained().folder / "run", f"{scene.seed} run", lambda path: path.parts[0] != "milestones")


def analysed_run_files(scene: Scene) -> list[tuple[Path, Harm]]:
    """What an analysis reads of a run: its newest best checkpoint and its log."""
    run = scene.trained().folder / "run"
    newest = "best", same.newest(run / "best")
    return pairs(run, f"{scene.seed} analysed run", lambda path: path.parts[:2] == newest or len(path.parts) == 1)


def analysis_files(scene: Scene) -> list[tuple[Path, Harm]]:
    """What an analysis left."""
    return pairs(scene.analysed().folder / "run" / "analysis", f"{scene.seed} analysis")


def cache_files(scene: Scene) -> list[tuple[Path, Harm]]:
    """A cache of decoded images."""
    Preparation(scene).reference()
    return pairs(scene.arena, f"{scene.seed} cache")


def harmed(root: Path, whole: Path) -> list[Path]:
    """Paths, below a run's folder, of the files that are not as in the whole one: of two that were exchanged, both."""
    return [
        path for path in files_of(whole) if not (root / path).exists() or (root / path).read_bytes() != (whole / path).read_bytes()
    ]


def named(result: children.Result, paths: list[Path]) -> bool:
    """Whether a message names one of the files, or the checkpoint that it belongs to."""
    names = ["/".join(path.parts[:2] if path.parts[0] in same.SERIES else path.parts[:1]) for path in paths]
    return any(f"/{name}" in result.err + result.out for name in names)


def damage_run(scene: Scene, path: Path, harm: Harm, chance: random.Random) -> None:
    """Then the same command again: of a finished run, whose newest checkpoint it must come back to."""
    reference = scene.trained()
    scene.lay(reference)
    harm(scene.run / path, scene.run, chance)
    hurt = harmed(scene.run, reference.folder / "run")
    result = scene.do(scene.training())
    require_no_traceback(result)
    if path.name == "config.json" and result.code == 2:  # a setting that now reads as another one
        require(len(result.err.splitlines()) == 1 and "other settings" in result.err, result.err[-600:])
        return
    require_ended_well(result)
    content = same.run_content(scene.run)
    newest = {name: content.get(name) for name in reference.content if name in (*same.CHECKSUMMED, "last/40")}
    expected = {name: reference.content[name] for name in newest}
    if content != reference.content:
        told = result._replace(out="")
        require(named(told, hurt), f"changed in silence: {same.difference(content, reference.content)}; {result.err!r}")
    if path.name == "metrics.jsonl":  # what was lost of it is lost, and said
        newest.pop("metrics.jsonl"), expected.pop("metrics.jsonl")
    same.require_same(newest, expected, "the end of the run")


def damage_analysed_run(scene: Scene, path: Path, harm: Harm, chance: random.Random) -> None:
    """Then it is analysed."""
    reference = scene.described()
    scene.lay_trained()
    harm(scene.run / path, scene.run, chance)
    hurt = harmed(scene.run, scene.trained().folder / "run")
    result = scene.do(scene.describing())
    require_no_traceback(result)
    if result.code == 2:
        require(len(result.err.splitlines()) == 1 and named(result, hurt), f"refused without its name: {result.err[-600:]}")
        require("though its checksums fit" not in result.err, f"not compared with its checksums: {result.err[-600:]}")
        return
    require_ended_well(result)
    if (content := same.analysis_content(scene.run)) != reference.content:
        what = f"another report in silence: {same.difference(content, reference.content)}; {result.err[-600:]!r}"
        require(named(result, hurt) and "damaged" in result.err + result.out, what)


def damage_milestones(scene: Scene, harm: Harm, chance: random.Random, *, every: bool) -> None:
    """Milestones are opened by an analysis: every file, or some, is damaged and mended again, in one process."""
    scene.lay_trained()
    folder = scene.run / "milestones"
    chosen = [path for path in files_of(folder) if (folder / path).stat().st_size]
    if not every:
        chosen = chance.sample(chosen, min(8, len(chosen)))

    def opened_damaged() -> dict[str, list[str]]:
        found = {}
        for path in chosen:
            whole = {other: (folder / other).read_bytes() for other in files_of(folder)}
            right = opened(folder / path.parts[0])
            try:
                harm(folder / path, folder, chance)
            except Missed:
                continue
            found[str(path)] = [right, opened(folder / path.parts[0])]
            for other, content in whole.items():
                (folder / other).write_bytes(content)
        return found

    found = children.call(opened_damaged)
    if not found:
        raise Missed("no file can be so damaged")
    for path, (right, after) in found.items():
        milestone = str(folder / Path(path).parts[0])
        refused = after.startswith("refused: ") and milestone in after and "though its checksums fit" not in after
        what = after if after.startswith(("refused: ", "raised ")) else "opened, with other parameters"
        require(after == right or refused, f"{path}: {what}")


def opened(milestone: Path) -> str:
    """The parameters of a milestone, or why it is refused."""
    from faults import checkpoint_content
    from unetrep_jax import checkpoints
    from unetrep_jax.storage import InputError

    try:
        return checkpoint_content.digest(checkpoints.open_checkpoint(milestone, say=lambda _: None).params, "")
    except InputError as error:
        return f"refused: {error}"
    except Exception as error:  # a traceback, had it been a command
        return f"raised {type(error).__name__}: {error}"


def user_of(folder: str) -> str:
    """The stage that keeps something in this folder, which is read only when that is made; for another folder, no stage's name."""
    from unetrep_jax.stages.running import STAGES

    return next((name for name, stage in STAGES.items() if folder in stage.keeps), "no stage")


def damage_analysis(scene: Scene, path: Path, harm: Harm, chance: random.Random) -> None:
    """Then the same command again, which makes what was damaged anew; a message names it where it is compared with its checksum.

    Of files that were exchanged both are damaged, and what reads them is made again.
    """
    reference = scene.analysed()
    scene.lay(reference)
    analysis = scene.run / "analysis"
    harm(analysis / path, analysis, chance)
    harmed = [Path(name) for name in same.changed(same.analysis_content(scene.run), reference.content)]
    if not harmed:
        raise Missed("nothing changed")
    sealed = {sealed_in(reference.folder / "run" / "analysis", path) for path in harmed} - {None}
    for path in harmed:
        children.remove(analysis / user_of(path.parts[0]))
    result = scene.do(scene.analysis())
    require_no_traceback(result)
    require_ended_well(result)
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    for folder in sealed:
        require(f"{analysis / folder} is damaged" in result.err, f"{folder}: made again in silence: {result.err!r}")


def sealed_in(analysis: Path, path: Path) -> Path | None:
    """The folder whose checksums have this file; none for a file without, and for the checksums themselves."""
    from unetrep_jax import storage

    for folder in (analysis / path).parents:
        if folder != analysis and analysis in folder.parents and (folder / storage.COMPLETE).exists():
            checksums = storage.read_json(folder / storage.COMPLETE)["sha256"]
            return folder.relative_to(analysis) if str((analysis / path).relative_to(folder)) in checksums else None
    return None


def damage_cache(scene: Scene, path: Path, harm: Harm, chance: random.Random) -> None:
    """Then the images are opened again."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    harm(scene.arena / path, scene.arena, chance)
    again = preparation.start().wait()
    require_ended_well(again)
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    told = harm.__name__ == "exchange" or path.name == "complete.json" or path.parts[0] in again.err
    require(told, f"made again in silence: {again.err!r}")


def lend(scene: Scene) -> Path:
    """The user's own arrays, in a folder of the arena, where they are accepted and may then change between two commands."""
    folder = children.fresh(scene.arena / "given")
    for name in ("train", "validation", "labels"):
        shutil.copy2(scene.place.folder / f"{name}.npy", folder)
    return folder


def damage_images(scene: Scene, what: str, harm: Harm, chance: random.Random) -> None:
    """A run that has seen an array whole is to go on with it damaged. Images to validate with need only be named."""
    scene.lay_trained()
    folder = lend(scene)
    given = {f"data__{what}_path": folder / f"{what}.npy"}
    require_ended_well(scene.do(scene.training(**given)), "with whole images, the command")
    harm(folder / f"{what}.npy", folder, chance)
    result = scene.do(scene.training(**given, train__epochs=6))
    if what == "validation" and result.code == 0:
        require("validat" in result.err, f"went on with other images to validate with, in silence: {result.err[-600:]!r}")
        return
    require_one_line(result, "train.py", str(folder / f"{what}.npy"), "the images' fingerprint was")


def damage_analysed_images(scene: Scene, what: str, harm: Harm, chance: random.Random) -> None:
    """Between two analyses: the second is refused, or the same as one that finds nothing made."""
    scene.lay_trained()
    folder = lend(scene)
    given = {"data__validation_path": folder / "validation.npy", "data__validation_labels": folder / "labels.npy"}
    command = scene.place.analysis(scene.run, "--only", "neighbours", **given)  # the cheapest stage that reads both
    require_ended_well(scene.do(command), "with whole images, the command")
    harm(folder / f"{what}.npy", folder, chance)
    result = scene.do(command)
    if result.code:
        require_one_line(result, "analyze.py", str(folder))
        return
    found = same.analysis_content(scene.run)
    children.remove(scene.run / "analysis")
    require_ended_well(scene.do(command), "from nothing, the command")
    same.require_same(found, same.analysis_content(scene.run), "the analysis")
