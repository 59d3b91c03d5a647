"""Several categories at once, each in a process and a folder of its own."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from faults.attack import Attack, Outcome


def campaigns(arguments: Sequence[str], categories: Sequence[str], folder: Path, at_once: int) -> list[tuple[str, Outcome]]:
    """Runs the campaign once for each category; what one of them cannot tell counts as a failure of it."""
    waiting, running = list(categories), {}
    while waiting or running:
        while waiting and len(running) < at_once:
            category = waiting.pop(0)
            own = ["--at-once", "1", "--only", category, "--folder", folder / category]
            own += ["--outcomes", folder / f"{category}.json", "--write", folder / f"{category}.md"]
            (folder / f"{category}.json").unlink(missing_ok=True)
            command = [sys.executable, Path(__file__).parent, *arguments, *own]
            running[category] = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL)
        running = {name: process for name, process in running.items() if process.poll() is None}
        time.sleep(0.1)
    return [(category, one) for category in categories for one in read(folder / f"{category}.json", category)]


def write(file: Path, outcomes: Sequence[tuple[str, Outcome]]) -> None:
    """Leaves how attacks ended."""
    file.write_text(json.dumps([[*one.attack[:3], *one[1:]] for _, one in outcomes]))


def read(file: Path, category: str) -> list[Outcome]:
    """What `write` left."""

    def made_elsewhere(_: object) -> None:
        raise RuntimeError("made in another process")

    if not file.exists():
        return [Outcome(Attack(category, "the campaign ends", category, made_elsewhere), 0, "failed", "it did not end")]
    return [Outcome(Attack(*known[:3], made_elsewhere), *known[3:]) for known in json.loads(file.read_text())]
