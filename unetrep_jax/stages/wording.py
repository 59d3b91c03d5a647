"""How numbers are printed in the report: one way for each kind, and None (an en dash in tables) for what is unknown."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unetrep_jax import measures

QUARTILES = ("first_quartile", "median", "third_quartile")


def unknown(value: float | int | None) -> bool:
    """Whether a number of a summary is missing; NaN is written as null and read back as None."""
    return value is None or not np.isfinite(value)


def number(value: float | int | None, decimals: int | None = 2) -> str | None:
    """A number; of two digits where `decimals` is None, with a power of ten where it is small or large; None if unknown."""
    if unknown(value):
        return None
    if decimals is not None:
        return f"{value:z,.{decimals}f}"  # z: no -0.00
    digits = f"{value:.1e}"
    power = int(digits.partition("e")[2])
    return f"{float(digits):z,.{max(0, 1 - power)}f}" if -3 <= power < 5 else digits


def percent(share: float | None, decimals: int = 0) -> str | None:
    """A share of 1 as a percentage: 12.3 %."""
    return None if unknown(share) else f"{100 * share:z.{decimals}f} %"


def quartiles_of(values: np.ndarray) -> dict[str, float]:
    """Quartiles of the finite values, by name, as they are kept in a summary; NaN where there are none."""
    finite = values[np.isfinite(values)].astype(float)
    quartiles = measures.quartiles(finite) if finite.size else np.full(3, np.nan)
    return {name: float(value) for name, value in zip(QUARTILES, quartiles, strict=True)}


def quartiles_text(quartiles: Mapping[str, Any] | None, decimals: int = 2) -> str | None:
    """Median and quartiles: 0.25 (0.22–0.31); None if unknown."""
    if not quartiles or any(unknown(quartiles[name]) for name in QUARTILES):
        return None
    first, median, third = (quartiles[name] for name in QUARTILES)
    return with_range(median, (first, third), decimals)


def estimate_of(means: np.ndarray) -> dict[str, Any]:
    """A value and its 95 % interval, from bootstrap means (`measures.estimate`), as they are kept in a summary."""
    return {name: np.asarray(value).tolist() for name, value in measures.estimate(means)._asdict().items()}


def estimate_text(estimate: Mapping[str, Any] | None, decimals: int | None = 2, level: int | None = None) -> str | None:
    """A value and its interval: 0.25 (0.22–0.31); of one level where there are several; None if unknown."""
    if not estimate:
        return None
    value, low, high = (estimate[name] if level is None else estimate[name][level] for name in ("value", "low", "high"))
    return None if any(map(unknown, (value, low, high))) else with_range(value, (low, high), decimals)


def with_range(value: float, ends: Sequence[float], decimals: int | None) -> str:
    """0.25 (0.22–0.31), or with "to" where a sign or an exponent could be mistaken for a dash."""
    low, high = (number(end, decimals) for end in ends)
    dash = " to " if decimals is None or low.startswith("-") or high.startswith("-") else "–"
    return f"{number(value, decimals)} ({low}{dash}{high})"


def share_text(estimate: Mapping[str, Any] | None, decimals: int = 2) -> str | None:
    """A share of 1 and its interval as percentages: 12.31 % (11.92–12.70); None if unknown."""
    if not estimate or any(unknown(estimate[name]) for name in ("value", "low", "high")):
        return None
    value, ends = with_range(100 * estimate["value"], (100 * estimate["low"], 100 * estimate["high"]), decimals).split(
        " ", 1
    )
    return f"{value} % {ends}"
