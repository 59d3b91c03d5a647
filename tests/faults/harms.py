"""What can happen to a file, and which files it happens to."""

import hashlib
import random
import re
from collections.abc import Callable
from pathlib import Path

from faults.attack import Missed

Harm = Callable[[Path, Path, random.Random], None]


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
    content = path.read_bytes()
    others = [root / other for other in files_of(root) if of_a_kind(root / other, path)]
    others = [other for other in others if other.read_bytes() != content]
    alike = [other for other in others if other.name == path.name] or others
    if not alike:
        raise Missed(f"nothing to exchange {path.name} with")
    other = chance.choice(alike)
    path.write_bytes(other.read_bytes())
    other.write_bytes(content)


HARMS: tuple[Harm, ...] = (flip, cut, empty, delete, exchange)
OF_CONTENT = (flip, cut, empty)  # which an empty file has not


def of_a_kind(path: Path, other: Path) -> bool:
    """Whether two different files have the same ending; a run's log is like no other file."""
    return path != other and path.suffix == other.suffix and "metrics.jsonl" not in (path.name, other.name)


def files_of(folder: Path) -> list[Path]:
    """Paths, below a folder, of all its files but locks, which are empty, and names of figures that an earlier report drew."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [path for path in found if not path.name.endswith(".lock") and path.name != ".figures.json"]


def kind_of(path: Path) -> str:
    """Files that differ only in numbers and in names that a machine made, 16 hex digits or more, are of one kind."""
    parts = ["0" if part.isdecimal() else re.sub(r"^[0-9a-f]{16,}", "d", part) for part in path.parts]
    return "/".join(parts)


def pairs(root: Path, seed: str, wanted: Callable[[Path], bool] = lambda path: True) -> list[tuple[Path, Harm]]:
    """Every harm to one file of each kind, and one to each of the others; in an order in which every kind comes early.

    Args:
      root: the folder.
      seed: draws the order, and the harm to the others.
      wanted: the files that are to be harmed; any of the folder may be what one of them is exchanged with.
    """
    chance, files = random.Random(seed), files_of(root)
    sums = {path: hashlib.sha256((root / path).read_bytes()).hexdigest() for path in files}
    chosen = list(filter(wanted, files))
    chance.shuffle(chosen)
    found, seen = [], {}
    for path in chosen:
        harms = [harm for harm in HARMS if harm not in OF_CONTENT or (root / path).stat().st_size]
        if not any(of_a_kind(path, other) and sums[other] != sums[path] for other in files):
            harms = [harm for harm in harms if harm is not exchange]
        chance.shuffle(harms)
        before = seen.get(kind_of(path), 0)
        seen[kind_of(path)] = before + 1
        made = harms if before == 0 else harms[:1]
        found += [(place if before == 0 else len(HARMS), path, harm) for place, harm in enumerate(made)]
    return [(path, harm) for _, path, harm in sorted(found, key=lambda one: one[0])]
