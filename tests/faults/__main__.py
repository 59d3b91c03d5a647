"""Runs the campaign and prints its table; ends with 1 where a promise is broken, or where an attack hit nothing."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Before anything else: this folder, which Python put first, has modules named like some of Python's own.
sys.path[:1] = [str(ROOT), str(ROOT / "tests")]

import argparse  # noqa: E402
import contextlib  # noqa: E402
import importlib  # noqa: E402
import os  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from typing import Any  # noqa: E402

CATEGORIES = ("controls", "kills", "damage", "twice", "resources", "images", "people", "numbers", "trust", "processes")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python tests/faults", description="Attacks the program, and prints what survived.")
    parser.add_argument("--long", action="store_true", help="all attacks: hours")
    parser.add_argument(
        "--only", nargs="+", choices=CATEGORIES, default=CATEGORIES, metavar="CATEGORY", help=", ".join(CATEGORIES)
    )
    parser.add_argument("--seed", type=int, default=0, help="draws moments, files and values")
    parser.add_argument(
        "--case", type=int, nargs="+", metavar="N", help="only the attacks of these numbers; --only names their category"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work; what was made there stays, and the same campaign goes on where it was stopped"
    )
    parser.add_argument("--list", action="store_true", help="print the attacks and make none")
    parser.add_argument(
        "--other-python", type=Path, help="an interpreter with other library versions, to compare numbers with"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to a file too")
    parser.add_argument("--at-once", type=int, default=1, metavar="N", help="so many categories at once, in folders of their own")
    given = parser.parse_args(arguments)
    if given.write and not given.write.resolve().parent.is_dir():
        parser.error(f"--write {given.write}: there is no folder {given.write.resolve().parent}")
    return given


def settle(folder: Path) -> None:
    """What JAX reads when it is imported: programs are shared by all processes and compiled fast rather than well."""
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "UNETREP_ONEDNN": "0",  # whose programs cannot be shared
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000000",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "MPLCONFIGDIR": str(folder / "matplotlib"),
        "TMPDIR": str(folder / "temporary"),
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
    }


def numbered(given: argparse.Namespace, scene) -> Iterator[tuple[str, int, object]]:
    """(category, number, attack) of all that are asked for; nothing is made yet."""
    for category in given.only:
        for number, one in enumerate(importlib.import_module(f"faults.{category}").attacks(scene)):
            if not given.case or number in given.case:
                yield category, number, one


def campaign(given: argparse.Namespace, folder: Path) -> int:
    """Makes the attacks, one after the other; whatever one of them does, the next follows, and the table is printed."""
    from faults import attack, table
    from faults.record import Record
    from faults.scene import Scene

    file, made_by = recorded(given, folder)
    if given.case:  # they are made whenever they are asked for
        file.unlink(missing_ok=True)
    record = Record(file, made_by)
    if record.known:
        tell(f"{len(record.known):,} attacks were made before; without {file} they are made again")
    try:
        for category, number, one in numbered(given, Scene(folder, given.seed, given.long, given.other_python)):
            if (category, number) in record.known:
                continue
            began = time.monotonic()
            outcome = attack.make(one, category, number, given.seed)
            record.add(category, outcome)
            tell(f"{category} {number}: {one.name}: {outcome.ended} ({time.monotonic() - began:.1f} s)")
            if outcome.ended in ("failed", "missed"):
                tell(table.failure(category, outcome, given.seed, given.long))
    except KeyboardInterrupt:
        tell("stopped: the table is of what was made; the same command, in the same --folder, goes on")
        return report(given, record.known, stopped=True)
    return report(given, record.known)


def recorded(given: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """Where a campaign notes how its attacks end, and what names it there."""
    from faults import record

    name = f"outcomes {given.seed}{' long' if given.long else ''}{' some' if given.case else ''}.jsonl"
    return folder / name, record.identity([given.seed, given.long, given.other_python])


def tell(text: str) -> None:
    """A line for whoever waits."""
    print(text, file=sys.stderr, flush=True)


def report(given: argparse.Namespace, known: dict[tuple[str, int], Any], stopped: bool = False) -> int:
    """Prints the table and what went wrong, of the categories that were asked for; returns the exit code."""
    from faults import kills, table

    outcomes = [(category, one) for (category, _), one in known.items() if category in given.only and one.ended != "absent"]
    text = "\n".join([table.table(outcomes), "", *table.what_was_hit(outcomes)])
    print(text)
    if given.write:
        given.write.write_text(text + "\n")
    bad = [(category, one) for category, one in outcomes if one.ended in ("failed", "missed")]
    wrong = [table.failure(category, one, given.seed, given.long) for category, one in bad]
    if given.long and "kills" in given.only and not given.case and not stopped:
        wrong += kills.unmet({what for category, one in outcomes if category == "kills" for what in one.hit})
    for line in wrong:
        tell(line)
    return 1 if wrong or stopped or not outcomes else 0


def show(given: argparse.Namespace, folder: Path) -> int:
    """Prints the names of the attacks."""
    from faults.scene import Scene

    for category, number, one in numbered(given, Scene(folder, given.seed, given.long, given.other_python)):
        print(f"{category} {number}: {one.row}: {one.name}")
    return 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 when every attack hit and every promise held."""
    given = parse(arguments)
    given.write = given.write and given.write.resolve()
    if given.list:
        return show(given, given.folder or Path("nowhere"))
    with contextlib.ExitStack() as ends:
        folder = given.folder
        if not folder:  # made only then: once it works, the campaign may not remove what lies outside its folder
            folder = Path(ends.enter_context(tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True)))
            folder.chmod(0o755)  # other users must get there, whom some attacks become
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if given.at_once > 1:
            from faults import apart

            return report(given, *apart.campaigns(arguments, given.only, folder, given.at_once, recorded(given, folder)))
        settle(folder)
        from faults import children

        children.import_everything()
        children.stay_inside(folder, given.write)
        return campaign(given, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
