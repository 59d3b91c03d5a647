"""Damage: every file of a run, of an analysis and of a cache, one at a time: a byte flipped, cut, emptied, gone, exchanged."""

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults import children, same
from tests.faults.attack import Attack, Missed, require, require_no_traceback
from tests.faults.preparation import Preparation
from tests.faults.scene import Scene

TRAINED = "named on the error stream or harmless; the newest checkpoint and the log end up bit for bit as they were"
NAMED = "refused, or passed over, by name"
REMADE = "made again, bit for bit, and named where it was in use"


def flip(path: Path, root: Path, chance: random.Random) -> None:
    """One byte becomes another."""
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    path.write_bytes(content)


def cut(path: Path, root: Path, chance: random.Random) -> None:
    """The end is missing."""
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def empty(path: Path, root: Path, chance: random.Random) -> None:
    """Nothing is left in it."""
    path.write_bytes(b"")


def delete(path: Path, root: Path, chance: random.Random) -> None:
    """It is gone."""
    path.unlink()


def exchange(path: Path, root: Path, chance: random.Random) -> None:
    """It and another file below `root`, of the same name where there is one, change places: another step's, another array's."""
    content, others = path.read_bytes(), []
    for other in sorted(root.rglob(f"*{path.suffix}")):
        if other.is_file() and not other.is_symlink() and other != path and other.read_bytes() != content:
            others.append(other)
    alike = [other for other in others if other.name == path.name] or others
    if not alike:
        raise Missed(f"nothing to exchange {path.name} with")
    other = chance.choice(alike)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


HARMS = (flip, cut, empty, delete, exchange)


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each file and each harm with --long; else a part of them, spread over all kinds of files."""
    run, analysis = scene.trained().folder / "run", scene.analysed().folder / "run" / "analysis"
    trained, cache = files_of(run), keep_cache(scene)
    milestones = [path for path in trained if path.parts[0] == "milestones"]
    others = [path for path in trained if path.parts[0] != "milestones"]
    yield from chosen(scene, "a run's files", TRAINED, run, others, damage_run, 14)
    yield from chosen(scene, "milestones", NAMED, run, milestones, damage_milestone, 5)
    yield from chosen(scene, "an analysis's files", REMADE, analysis, files_of(analysis), damage_analysis, 14)
    yield from chosen(scene, "a cache of decoded images", REMADE, cache, files_of(cache), damage_cache, 10)
    for harm in HARMS[:4]:
        name = f"{harm.__name__} train.npy"
        yield Attack("images in memory maps", NAMED, name, lambda chance, harm=harm: damage_images(scene, harm, chance))


def chosen(
    scene: Scene, row: str, promise: str, root: Path, files: list[Path], act: Callable, count: int
) -> Iterator[Attack]:
    """All pairs of a file and a harm that can hit it, or so many of them."""
    of_content = (flip, cut, empty)  # which an empty file has not
    pairs = [(path, harm) for path in files for harm in HARMS if harm not in of_content or (root / path).stat().st_size]
    pairs = [(path, harm) for path, harm in pairs if harm is not exchange or has_another(root, path, files)]
    if not scene.long:
        pairs = random.Random(f"{scene.seed} {row}").sample(pairs, min(count, len(pairs)))
    for path, harm in pairs:
        name = f"{harm.__name__} {path}"
        yield Attack(row, promise, name, lambda chance, path=path, harm=harm: act(scene, path, harm, chance))


def has_another(root: Path, path: Path, files: list[Path]) -> bool:
    """Whether there is a file of the same kind and with another content."""
    alike = [other for other in files if other.suffix == path.suffix and other != path]
    return any((root / other).read_bytes() != (root / path).read_bytes() for other in alike)


def files_of(folder: Path) -> list[Path]:
    """Paths, below a folder, of all its files but locks, which are empty, and names of figures that an earlier report drew."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [path for path in found if not path.name.endswith(".lock") and path.name != ".figures.json"]


def keep_cache(scene: Scene) -> Path:
    """A cache of decoded images, beside the arena."""
    Preparation(scene).reference()
    kept = scene.folder / "references" / "cache"
    children.remove(kept)
    return Path(shutil.copytree(scene.arena, kept))


def user_of(folder: str) -> str:
    """The stage that keeps something in this folder, which is read only when that is made; for another folder, no stage's name."""
    from unetrep_jax.stages.running import STAGES

    return next((name for name, stage in STAGES.items() if folder in stage.keeps), "no stage")


def named(result: children.Result, path: Path) -> bool:
    """Whether a message names the file, or the checkpoint or stage that it belongs to."""
    folder = "/".join(path.parts[:2]) if path.parts[0] in ("last", "best", "milestones") else path.parts[0]
    return folder in result.err or str(path) in result.err


def damage_run(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """Then the same command again: of a finished run, whose newest checkpoint it must come back to."""
    reference = scene.trained()
    scene.lay(reference)
    harm(scene.run / path, scene.run, chance)
    result = scene.do(scene.training())
    require_no_traceback(result)
    if path.name == "config.json" and result.code == 2:  # a setting that now reads as another one
        require(len(result.err.splitlines()) == 1 and "other settings" in result.err, result.err[-600:])
        return
    require(result.code == 0, f"not taken up: code {result.code}, {result.err[-600:]}")
    content = same.run_content(scene.run)
    newest = {name: content.get(name) for name in reference.content if name in ("metrics.jsonl", "last/40")}
    expected = {name: reference.content[name] for name in newest}
    if content != reference.content:
        require(
            named(result, path), f"changed in silence: {same.difference(content, reference.content)}; {result.err!r}"
        )
    if path.name == "metrics.jsonl":  # what was lost of it is lost, and said
        newest.pop("metrics.jsonl"), expected.pop("metrics.jsonl")
    same.require_same(newest, expected, "the end of the run")


def damage_milestone(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """A milestone is opened by an analysis."""
    scene.lay(scene.trained())
    harm(scene.run / path, scene.run, chance)
    milestone = scene.run / Path(*path.parts[:2])

    def opened() -> str:
        from tests.faults import checkpoint_content
        from unetrep_jax import checkpoints
        from unetrep_jax.storage import InputError

        try:
            return checkpoint_content.digest(checkpoints.open_checkpoint(milestone, say=lambda _: None).params, "")
        except InputError as error:
            return f"refused: {error}"

    found = children.call(opened)
    if found.startswith("refused: "):
        require(str(milestone) in found, f"without its name: {found}")
        return
    scene.lay(scene.trained())
    require(found == children.call(opened), "opened, with other parameters")


def damage_analysis(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """Then the same command again, which makes what was damaged anew."""
    reference = scene.analysed()
    scene.lay(reference)
    harm(scene.run / "analysis" / path, scene.run / "analysis", chance)
    changed = same.analysis_content(scene.run) != reference.content
    if not changed:
        raise Missed("nothing changed")
    children.remove(scene.run / "analysis" / user_of(path.parts[0]))
    result = scene.do(scene.analysis())
    require_no_traceback(result)
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")


def damage_cache(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """Then the images are opened again."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    harm(scene.arena / path, scene.arena, chance)
    again = preparation.start().wait()
    require(again.code == 0, f"code {again.code}: {again.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    require(
        harm is exchange or path.name == "complete.json" or path.parts[0] in again.err,
        f"made again in silence: {again.err!r}",
    )


def damage_images(scene: Scene, harm: Callable, chance: random.Random) -> None:
    """A run's own array of training images changes between two commands."""
    scene.lay(scene.trained())
    images = Path(shutil.copy(scene.place.folder / "train.npy", scene.arena / "train.npy"))
    harm(images, scene.arena, chance)
    result = scene.do(scene.training(data__train_path=images))
    require_no_traceback(result)
    lines = result.err.splitlines()
    require(
        result.code == 2 and len(lines) == 1 and "train" in result.err,
        f"not refused: code {result.code}, {result.err[-600:]}",
    )
