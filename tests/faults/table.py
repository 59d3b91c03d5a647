"""The table of what was attacked, and what survived."""

from collections import Counter
from collections.abc import Iterable

from faults.attack import Outcome

HEADER = ("attack", "made", "hit", "promise", "survived", "failed")


def table(outcomes: Iterable[tuple[str, Outcome]]) -> str:
    """A Markdown table: a row for each kind of attack. Those that hit nothing prove nothing and are not among the survived."""
    rows: dict[tuple[str, str, str], dict[str, int]] = {}
    for category, outcome in outcomes:
        row = rows.setdefault((category, outcome.attack.row, outcome.attack.promise), {})
        row[outcome.ended] = row.get(outcome.ended, 0) + 1
    lines = [f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]
    for (category, name, promise), ended in rows.items():
        survived, failed = ended.get("survived", 0), ended.get("failed", 0)
        made = sum(ended.values())
        note = f" ({ended['impossible']} not possible here)" if ended.get("impossible") else ""
        cells = (f"{category}: {name}{note}", made, survived + failed, promise, survived, failed)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def what_was_hit(outcomes: Iterable[tuple[str, Outcome]]) -> list[str]:
    """For each row with attacks that say what they hit, how often each was hit."""
    rows: dict[str, Counter] = {}
    for category, outcome in outcomes:
        if outcome.hit:
            rows.setdefault(f"{category}: {outcome.attack.row}", Counter()).update(outcome.hit)
    return [f"- {row}: {', '.join(f'{what} {count}' for what, count in found.most_common())}" for row, found in rows.items()]


def failure(category: str, outcome: Outcome, seed: int, long: bool) -> str:
    """What broke, and the command that makes the attack again."""
    form = " --long" if long else ""
    again = f"python tests/faults --only {category} --seed {seed} --case {outcome.number}{form}"
    return f"{category} {outcome.number} ({outcome.attack.name}) {outcome.ended}: {outcome.why}\n  again: {again}"
