"""Several categories at once, each in a process and a folder of its own."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults import record
from faults.attack import Attack, Outcome

Known = dict[tuple[str, int], Outcome]


def campaigns(
    arguments: Sequence[str], categories: Sequence[str], folder: Path, at_once: int, recorded: tuple[Path, str]
) -> tuple[Known, bool]:
    """Runs the campaign once for each category.

    Args:
      arguments: the command line.
      categories: in this order.
      folder: each works in one below it.
      at_once: how many.
      recorded: where a campaign in `folder` would note its outcomes, and what names it there; the others do it likewise.

    Returns:
      The outcomes, and whether Ctrl-C stopped it. A category whose campaign did not end counts as a failure.
    """
    waiting, running, ended, stopped = list(categories), {}, [], False
    try:
        while waiting or running:
            while waiting and len(running) < at_once:
                category = waiting.pop(0)
                running[category] = _start(arguments, category, folder)
            ended += [name for name, process in running.items() if process.poll() is not None]
            running = {name: process for name, process in running.items() if name not in ended}
            time.sleep(0.1)
    except KeyboardInterrupt:
        stopped = True
        for process in running.values():  # Ctrl-C came to them too
            process.wait()
    known: Known = {}
    for category in categories:
        known |= record.read(folder / category / recorded[0].name, recorded[1])
        if category in ended and not _table(folder, category).exists():
            known[category, -1] = Outcome(Attack(category, "the campaign ends", category, print), -1, "failed", "it did not end")
    return known, stopped


def _start(arguments: Sequence[str], category: str, folder: Path) -> subprocess.Popen:
    """The campaign of one category, which ends with its table."""
    _table(folder, category).unlink(missing_ok=True)
    own = ["--at-once", "1", "--only", category, "--folder", folder / category, "--write", _table(folder, category)]
    command = [sys.executable, Path(__file__).parent, *arguments, *own]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)


def _table(folder: Path, category: str) -> Path:
    return folder / f"{category}.md"
