"""What an attack is, and how it can end."""

import contextlib
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from faults.children import Result

ATTEMPTS = 6  # other moments that are tried until an attack hits
SOONER = 0.7  # at each attempt a range of moments in time is so much shorter: what was timed may have had less of the machine
UNDER_WAY = ("placing ", "comparing ")  # how lines begin that say what takes long
OPENED = re.compile(r": step \d+, (?:un)?averaged parameters\.$")  # how they end that say which checkpoint was taken


class Broken(Exception):
    """A promise did not hold."""


class Missed(Exception):
    """The attack hit nothing, as when a process had ended before it was to be killed: it says nothing about the program."""


class Impossible(Exception):
    """This machine does not allow the attack, as when no file system can be mounted."""


class Absent(Exception):
    """There is no such attack: its number lies beyond the files that there are. It is not counted."""


class Chance(random.Random):
    """Random numbers of an attempt, which is the `attempt`-th, from 0 on."""

    attempt = 0

    def moment(self, seconds: float) -> float:
        """A moment of something that took so many seconds."""
        return self.uniform(0.05, 1) * seconds * SOONER**self.attempt


class Attack(NamedTuple):
    """One attack.

    Attributes:
      row: the row of the table that it counts in.
      promise: what the program promises then, the same in all of a row.
      name: what is attacked, for the line of a failure.
      act: attacks, with random numbers of its own; returns when the promise held, raises one of the above when not. What it returns
        are words on what it hit, which are counted, or None. All that it needs is made in here, so that what fails there fails
        this attack alone.
    """

    row: str
    promise: str
    name: str
    act: Callable[[Chance], Sequence[str] | None]


class Outcome(NamedTuple):
    """How an attack ended: "survived", "failed", "missed", "impossible" or "absent", why, and what it hit."""

    attack: Attack
    number: int
    ended: str
    why: str = ""
    hit: Sequence[str] = ()


def make(attack: Attack, category: str, number: int, seed: int) -> Outcome:
    """Attacks until it hits, at most so many times. An error of the attack itself is a failure too: it proves nothing."""
    why = ""
    for attempt in range(ATTEMPTS):
        try:
            chance = Chance(f"{seed} {category} {number} {attempt}")
            chance.attempt = attempt
            return Outcome(attack, number, "survived", hit=attack.act(chance) or ())
        except Missed as error:
            why = str(error)
        except (Impossible, Absent) as error:
            return Outcome(attack, number, type(error).__name__.lower(), str(error))
        except (Broken, TimeoutError) as error:
            return Outcome(attack, number, "failed", str(error))
        except Exception as error:
            return Outcome(attack, number, "failed", f"the attack itself: {type(error).__name__}: {str(error)[-800:]}")
    return Outcome(attack, number, "missed", why)


@contextlib.contextmanager
def about(what: str) -> Iterator[None]:
    """What went wrong inside begins with these words: for attacks that find out late what they hit."""
    try:
        yield
    except (Broken, Missed) as error:
        raise type(error)(f"{what}: {error}") from error


def require(held: bool, why: str) -> None:
    """Raises Broken unless it held."""
    if not held:
        raise Broken(why)


def require_one_line(result: Result, script: str, *words: str, codes: tuple[int, ...] = (2,)) -> None:
    """A refusal as it should be: its exit code, one line that begins with the script's name and says one of the words."""
    shown = f"code {result.code}, {result.err[-600:]!r}"
    require(result.code in codes, f"not refused: {shown}")
    require(len(result.err.splitlines()) == 1 and result.err.startswith(f"{script}: "), f"not one line: {shown}")
    require(not words or any(said(word, result.err) for word in words), f"says none of {words}: {shown}")


def told_lines(result: Result) -> list[str]:
    """Lines on the error stream, without those about what was found damaged, opened, and how far a long computation is."""
    lines = [line for line in result.err.splitlines() if not line.startswith(UNDER_WAY)]
    return [line for line in lines if "is damaged" not in line and not OPENED.search(line)]


def said(word: str, text: str) -> bool:
    """Whether a text has this word, and not only a longer one that holds it."""
    before, after = (r"(?<![\w.])" if word[:1].isalnum() else ""), (r"(?!\w)" if word[-1:].isalnum() else "")
    return re.search(f"{before}{re.escape(word)}{after}", text) is not None


def require_ended_well(result: Result, what: str = "the command") -> None:
    """Exit code 0."""
    require(result.code == 0, f"{what} ended with {result.code}: {result.err[-600:]}")


def require_no_traceback(result: Result) -> None:
    """Nothing that only a programmer understands."""
    require("Traceback (most recent call last)" not in result.err, f"a traceback: {result.err[-600:]!r}")
