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


def flip(path: Path, chance: random.Random) -> None:
    """One byte becomes another."""
    content = bytearray(path.read_bytes())
    if not content:
        raise Missed(f"{path.name} is empty")
    content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    """The end is missing."""
    content = path.read_bytes()
    if not content:
        raise Missed(f"{path.name} is empty")
    path.write_bytes(content[: chance.randrange(len(content))])


def empty(path: Path, chance: random.Random) -> None:
    """Nothing is left in it."""
    if not path.stat().st_size:
        raise Missed(f"{path.name} is empty")
    path.write_bytes(b"")


def delete(path: Path, chance: random.Random) -> None:
    """It is gone."""
    path.unlink()


def exchange(path: Path, chance: random.Random) -> None:
    """Another file of the same kind has its content: that of another step, or of another array."""
    others = [
        other
        for folder in path.parents[:4]
        for other in sorted(folder.rglob(f"*{path.suffix}"))
        if other.is_file() and other != path and other.read_bytes() != path.read_bytes()
    ]
    same_name = [other for other in others if other.name == path.name] or others
    if not same_name:
        raise Missed(f"nothing to exchange {path.name} with")
    other = chance.choice(same_name)
    contents = path.read_bytes(), other.read_bytes()
    path.write_bytes(contents[1])
    other.write_bytes(contents[0])


HARMS = (flip, cut, empty, delete, exchange)


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each file and each harm with --long; else a part of them, spread over all kinds of files."""
    trained = [path for path in files_of(scene.trained().folder / "run") if not hidden(path)]
    analysed = [path for path in files_of(scene.analysed().folder / "run" / "analysis") if not hidden(path)]
    milestones = [path for path in trained if path.parts[0] == "milestones"]
    others = [path for path in trained if path.parts[0] != "milestones"]
    yield from chosen(scene, "a run's files", TRAINED, others, lambda *harm: damage_run(scene, *harm), 14)
    yield from chosen(scene, "milestones", NAMED, milestones, lambda *harm: damage_milestone(scene, *harm), 5)
    yield from chosen(scene, "an analysis's files", REMADE, analysed, lambda *harm: damage_analysis(scene, *harm), 14)
    yield from chosen(
        scene, "a cache of decoded images", REMADE, cache_files(scene), lambda *harm: damage_cache(scene, *harm), 10
    )
    for harm in HARMS[:4]:
        yield Attack(
            "images in memory maps",
            NAMED,
            f"{harm.__name__} train.npy",
            lambda chance, harm=harm: damage_images(scene, harm, chance),
        )


def chosen(scene: Scene, row: str, promise: str, files: list[Path], act: Callable, count: int) -> Iterator[Attack]:
    """All pairs of a file and a harm, or so many of them."""
    pairs = [(path, harm) for path in files for harm in HARMS]
    if not scene.long:
        pairs = random.Random(f"{scene.seed} {row}").sample(pairs, min(count, len(pairs)))
    for path, harm in pairs:
        yield Attack(
            row, promise, f"{harm.__name__} {path}", lambda chance, path=path, harm=harm: act(path, harm, chance)
        )


def files_of(folder: Path) -> list[Path]:
    """Paths, below a folder, of all its files."""
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def hidden(path: Path) -> bool:
    """Locks are empty; names of figures drawn before hold nothing that is shown."""
    return path.name in (".lock", ".figures.json")


def named(result: children.Result, path: Path) -> bool:
    """Whether a message names the file, or the checkpoint or stage that it belongs to."""
    folder = "/".join(path.parts[:2]) if path.parts[0] in ("last", "best", "milestones") else path.parts[0]
    return folder in result.err or str(path) in result.err


def damage_run(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """Then the same command again: of a finished run, whose newest checkpoint it must come back to."""
    reference = scene.trained()
    scene.lay(reference)
    harm(scene.run / path, chance)
    result = scene.do(scene.training())
    require_no_traceback(result)
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
    harm(scene.run / path, chance)
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
    harm(scene.run / "analysis" / path, chance)
    changed = same.analysis_content(scene.run) != reference.content
    if not changed:
        raise Missed("nothing changed")
    result = scene.do(scene.analysis())
    require_no_traceback(result)
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")


def cache_files(scene: Scene) -> list[Path]:
    """The files of a cache of decoded images."""
    Preparation(scene).reference()
    return [path for path in files_of(scene.arena) if not path.name.endswith(".lock")]


def damage_cache(scene: Scene, path: Path, harm: Callable, chance: random.Random) -> None:
    """Then the images are opened again."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    harm(scene.arena / path, chance)
    again = preparation.start().wait()
    require(again.code == 0, f"code {again.code}: {again.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    require(path.name == "complete.json" or path.parts[0] in again.err, f"made again in silence: {again.err!r}")


def damage_images(scene: Scene, harm: Callable, chance: random.Random) -> None:
    """A run's own array of training images changes between two commands."""
    scene.lay(scene.trained())
    images = Path(shutil.copy(scene.place.folder / "train.npy", scene.arena / "train.npy"))
    harm(images, chance)
    result = scene.do(scene.training(data__train_path=images))
    require_no_traceback(result)
    lines = result.err.splitlines()
    require(
        result.code == 2 and len(lines) == 1 and "train" in result.err,
        f"not refused: code {result.code}, {result.err[-600:]}",
    )
