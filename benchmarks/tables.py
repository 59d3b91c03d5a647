"""Numbers with their spread, tables of them, and what the machine is. Needs the standard library alone."""

import numbers
import os
import platform
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import serving
import sides

BUSY = 0.15  # share of a core used by others, above which times mean little
LOOK = 1.0  # seconds


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, and of how many."""
    quartiles = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return dict(zip(("low", "median", "high", "cycles"), [*quartiles, len(values)], strict=True))


def text(value: Any) -> str:
    """A table's cell: of a spread, median (lower to upper quartile)."""
    if isinstance(value, dict) and value["cycles"] == 1:
        return f"{value['median']:.3g} (1 cycle)"
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['low']:.3g} to {value['high']:.3g})"
    is_fraction = isinstance(value, numbers.Real) and not isinstance(value, numbers.Integral)
    return f"{value:.6g}" if is_fraction else str(value)


def show(title: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints dictionaries as a table, a column for each key that any of them has, and returns them."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [names, *([text(row.get(name, "")) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
    return rows


def processor() -> str:
    """The processor's name and how many of its cores may be used: ratios are compared only where this is the same."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {serving.cores()} cores"


def in_use() -> float:
    """Cores that others use now (Linux; elsewhere 0): the system's load average would still have what ended minutes ago."""
    before, start = sides.machine_seconds(), time.perf_counter()
    time.sleep(LOOK)
    return (sides.machine_seconds() - before) / (time.perf_counter() - start)


def facts(**more: str) -> dict[str, str]:
    """Prints what is measured, on what and with what; returns it."""
    others = in_use()
    found = {
        "cpu": processor(),
        "others use": f"{others:.0%} of a core",
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
        **more,
    }
    for name, value in found.items():
        print(f"{name:16s}{value}")
    if others > BUSY:
        print("The machine is busy: the times below mean little, PyTorch's least of all.")
    return found
