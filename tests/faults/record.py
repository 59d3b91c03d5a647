"""How attacks ended, in a file, a line each as it comes: a campaign that was stopped loses one attack, and goes on."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from faults import scene
from faults.attack import Attack, Outcome


def identity(given: Sequence[object]) -> str:
    """Names the program, the attacks, and what the campaign was `given`: with any other one outcomes would be others."""
    attacks = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    return f"{hashlib.sha256(attacks).hexdigest()} {scene.made_by()} {list(map(str, given))}"


class Record:
    """The outcomes in a file.

    Attributes:
      known: (category, number) -> outcome.
    """

    def __init__(self, file: Path, made_by: str):
        """Goes on with what is in the file; begins anew where that is another campaign's."""
        self._file = file
        self.known = read(file, made_by)
        file.write_text("".join(f"{line}\n" for line in [json.dumps(made_by), *map(_line, self.known.items())]))

    def add(self, category: str, outcome: Outcome) -> None:
        """One more."""
        self.known[category, outcome.number] = outcome
        with open(self._file, "a") as file:
            file.write(f"{_line(((category, outcome.number), outcome))}\n")


def _line(item: tuple[tuple[str, int], Outcome]) -> str:
    (category, _), outcome = item
    return json.dumps([category, *outcome.attack[:3], *outcome[1:]])


def read(file: Path, made_by: str) -> dict[tuple[str, int], Outcome]:
    """What a `Record` wrote for the same campaign; a last line that was cut short is left out."""

    def made_elsewhere(_: object) -> None:
        raise RuntimeError("made in another process")

    content = file.read_text() if file.exists() else ""
    first, *lines = [line for line in content.splitlines(keepends=True) if line.endswith("\n")] or [""]
    if not first or json.loads(first) != made_by:
        return {}
    found = {}
    for category, row, promise, name, number, *rest in map(json.loads, lines):
        found[category, number] = Outcome(Attack(row, promise, name, made_elsewhere), number, *rest)
    return found
