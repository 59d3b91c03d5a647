"""Ratios that were measured before, kept in `recorded.json`, and whether new ones are worse. Needs the standard library alone."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recorded.json")
MARGIN = 1.03  # medians of the same program differ by a few per cent from one start to the next


def read() -> dict[str, Any]:
    """{"machine": ..., "versions": ..., "ratios": {name: {"low", "median", "high"}}}; empty when nothing was recorded."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def write(machine: str, versions: str, ratios: dict[str, Any]) -> None:
    """Records ratios; those of other measurements stay, if they are of the same machine and versions."""
    before = read()
    same = (before.get("machine"), before.get("versions")) == (machine, versions)
    kept = before["ratios"] if same else {}
    found = {"machine": machine, "versions": versions, "ratios": dict(sorted((kept | ratios).items()))}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nRecorded {len(ratios)} ratios in {FILE.name}.")


def is_worse(now: dict[str, float], before: dict[str, float]) -> bool:
    """Whether a ratio rose beyond both spreads: its lower quartile is above the recorded upper one, and the margin."""
    return now["low"] > MARGIN * before["high"]


def compare(machine: str, ratios: dict[str, Any]) -> int:
    """Prints what has changed since the recording; 1 where something is worse on the recorded machine, else 0."""
    before = read()
    if not before:
        print(
            f"\nNo ratios are recorded yet (benchmarks/{FILE.name} is absent): nothing to compare with. --record writes them, "
            "on a quiet machine."
        )
        return 0
    worse = []
    print(f"\nAgainst the recorded ratios (ours / their best form; {before['machine']}; {before['versions']})")
    for name, now in ratios.items():
        if name not in before["ratios"]:
            print(f"  {name}: not recorded")
            continue
        then = before["ratios"][name]
        verdict = "WORSE" if is_worse(now, then) else "better" if is_worse(then, now) else "the same within its spread"
        worse += [name] if verdict == "WORSE" else []
        spread = f"{then['low']:.3f} to {then['high']:.3f}"
        print(f"  {name}: {now['median']:.3f}, was {then['median']:.3f} ({spread}): {verdict}")
    if before["machine"] != machine:
        print(
            "  They were recorded on another processor, so a ratio that is worse here is not counted as a regression."
        )
        return 0
    return int(bool(worse))
