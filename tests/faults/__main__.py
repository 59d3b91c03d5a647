"""Runs the campaign and prints its table; ends with 1 where a promise is broken, or where an attack hit nothing."""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
CATEGORIES = ("kills", "damage", "twice", "resources", "images", "people", "numbers", "trust", "processes")


def parse(arguments: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults", description="Attacks the program, and prints what survived."
    )
    parser.add_argument("--long", action="store_true", help="all attacks: hours")
    parser.add_argument(
        "--only", nargs="+", choices=CATEGORIES, default=CATEGORIES, metavar="CATEGORY", help=", ".join(CATEGORIES)
    )
    parser.add_argument("--seed", type=int, default=0, help="draws moments, files and values")
    parser.add_argument("--case", type=int, help="only the attack of this number; --only names its category")
    parser.add_argument(
        "--folder", type=Path, help="where to work; what an undisturbed run gave stays there and is used again"
    )
    parser.add_argument("--list", action="store_true", help="print the attacks and make none")
    parser.add_argument(
        "--other-python", type=Path, help="an interpreter with other library versions, to compare numbers with"
    )
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table to a file too")
    return parser.parse_args(arguments)


def settle(folder: Path) -> None:
    """What JAX reads when it is imported: programs are shared by all processes and compiled fast rather than well."""
    os.environ |= {
        "JAX_COMPILATION_CACHE_DIR": str(folder / "programs"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "1000000000",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        "JAX_PLATFORMS": "cpu",
        "MPLBACKEND": "agg",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0",
    }


def campaign(given: argparse.Namespace, folder: Path) -> int:
    """Makes the attacks of each category in turn."""
    import importlib

    from tests.faults import attack, table
    from tests.faults.scene import Scene

    scene, outcomes = Scene(folder, given.seed, given.long, given.other_python), []
    for category in given.only:
        attacks = importlib.import_module(f"tests.faults.{category}").attacks(scene)
        for number, one in enumerate(attacks):
            if given.case not in (None, number):
                continue
            if given.list:
                print(f"{category} {number}: {one.row}: {one.name}")
                continue
            began = time.monotonic()
            outcome = attack.make(one, category, number, given.seed)
            outcomes.append((category, outcome))
            print(
                f"{category} {number}: {one.name}: {outcome.ended} ({time.monotonic() - began:.1f} s)",
                file=sys.stderr,
                flush=True,
            )
            if outcome.ended in ("failed", "missed"):
                print(table.failure(category, outcome, given.seed, given.long), file=sys.stderr, flush=True)
    return report(given, outcomes)


def report(given: argparse.Namespace, outcomes: list) -> int:
    """Prints the table and what went wrong; returns the exit code."""
    from tests.faults import table

    if given.list:
        return 0
    text = table.table(outcomes)
    print(text)
    if given.write:
        given.write.write_text(text + "\n")
    bad = [
        table.failure(category, one, given.seed, given.long)
        for category, one in outcomes
        if one.ended in ("failed", "missed")
    ]
    for line in [*bad, *(f"{row}: no attack hit" for row in table.proves_nothing(outcomes))]:
        print(line, file=sys.stderr)
    return 1 if bad or not outcomes else 0


def main(arguments: list[str]) -> int:
    """Exit code: 0 when every attack hit and every promise held."""
    given = parse(arguments)
    sys.path.insert(0, str(ROOT))
    with tempfile.TemporaryDirectory(prefix="faults-", ignore_cleanup_errors=True) as temporary:
        folder = (given.folder or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        from tests.faults import children

        children.import_everything()
        children.stay_inside(folder)
        return campaign(given, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
