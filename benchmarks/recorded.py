"""Ratios that were measured before, kept in `recorded.json`, and whether new ones are worse. Needs the standard library alone."""

import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("recorded.json")
MARGIN = 1.10  # medians of the same program differ by some per cent from one start to the next
CYCLES = 3  # with fewer, quartiles say nothing
SAME, REGRESSED, UNJUDGED = 0, 1, 3  # exit codes; 2 is for what failed


def read() -> dict[str, Any]:
    """{"machine": ..., "versions": ..., "measured": {name: {"forms", "ratio"}}}; empty when nothing was recorded."""
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def write(machine: str, versions: str, measured: dict[str, Any]) -> None:
    """Records measurements in place of those before."""
    found = {"machine": machine, "versions": versions, "measured": dict(sorted(measured.items()))}
    FILE.write_text(json.dumps(found, indent=1) + "\n")
    print(f"\nRecorded {len(measured)} ratios in {FILE.name}.")


def verdict(now: dict[str, Any], then: dict[str, Any]) -> str:
    """Worse: the lower quartile is above the recorded upper one, and the margin; better: the reverse."""
    if now["forms"] != then["forms"]:
        return "not compared: other forms"
    new, old = now["ratio"], then["ratio"]
    if min(new["cycles"], old["cycles"]) < CYCLES:
        return f"no verdict: fewer than {CYCLES} cycles"
    if new["low"] > MARGIN * old["high"]:
        return "WORSE"
    return "better" if old["low"] > MARGIN * new["high"] else "the same within its spread"


def compare(machine: str, versions: str, measured: dict[str, Any], unjudged: dict[str, str]) -> int:
    """Prints what has changed since the recording; `unjudged`: what cannot be judged -> why, such as disturbed, or out of time.

    Returns REGRESSED where something is worse, or was recorded and is measured no more; UNJUDGED where nothing is, but something
    that was recorded cannot be judged, which says nothing of the program; else SAME.
    """
    before = read()
    if not before:
        print(f"\nNo ratios are recorded (benchmarks/{FILE.name} is absent). --record writes them, on a quiet machine.")
        return SAME
    print(f"\nAgainst the recorded ratios (ours / their best form; {before['machine']}; {before['versions']})")
    found = {name: "not recorded" for name in measured if name not in before["measured"]}
    for name, then in before["measured"].items():
        if name in unjudged:
            found[name] = f"no verdict: {unjudged[name]}"
        else:
            found[name] = verdict(measured[name], then) if name in measured else "NOT MEASURED"
    for name, text in found.items():
        values = [f"{when[name]['ratio']['median']:.3f}" for when in (measured, before["measured"]) if name in when]
        print(f"  {name}: {', was '.join(values)}: {text}")
    if (before["machine"], before["versions"]) != (machine, versions):
        print("  They were recorded on another processor or with other versions: nothing here counts as a regression.")
        return SAME
    if {"WORSE", "NOT MEASURED"} & set(found.values()):
        return REGRESSED
    return UNJUDGED if unjudged.keys() & before["measured"].keys() else SAME
