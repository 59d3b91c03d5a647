"""Section 1 of `reconstruction.py`: the same algorithm with the same steps on both sides, one right after the other."""

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from reconstruction_problem import (
    SIGMA_0,
    SIGMA_END,
    Problem,
    matching_problem,
    our_match,
    our_reconstruction,
    published_settings,
)
from tables import show, spread

from unetrep_jax import reconstruction

Ask = Callable[..., Any]


def timed(function: Callable, *arguments: Any) -> dict[str, Any]:
    """{"seconds", "result"} of one call; results arrive as host arrays, so nothing is left running."""
    start = time.perf_counter()
    result = function(*arguments)
    return {"seconds": time.perf_counter() - start, "result": result}


def in_turns(ours: Callable[[], dict], theirs: dict[str, Callable[[], dict]], repeats: int) -> dict[str, list[tuple]]:
    """Pairs (ours, theirs) for each of theirs, one right after the other: ours, a, ours, b, ours, a, ours, b, ..."""
    pairs: dict[str, list[tuple]] = {name: [] for name in theirs}
    for _ in range(repeats):
        for name, measure in theirs.items():
            pairs[name].append((ours(), measure()))
    return pairs


def table_of(
    pairs: dict[str, list[tuple]], unit: str, scale: float, our_scale: float | None = None
) -> list[dict[str, Any]]:
    """A row for each of theirs: both times in some unit, which are seconds times a scale, and the ratio of each pair."""
    rows = []
    for name, each in pairs.items():
        ours = [(scale if our_scale is None else our_scale) * a["seconds"] for a, _ in each]
        theirs = [scale * b["seconds"] for _, b in each]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            {"theirs": name, f"ours, {unit}": spread(ours), f"theirs, {unit}": spread(theirs), "ratio": spread(ratios)}
        )
    return rows


def prepare(problem: Problem, ask: Ask) -> tuple[list[str], list[dict[str, Any]]]:
    """PyTorch's forms that run here, the published one first; each is compiled."""
    rows = [{"form": form, **ask("prepare", form=form, images=problem.targets)} for form in ask("forms")]
    usable = [row["form"] for row in rows if not row["failure"]]
    shown = [
        {"form": row["form"], "first call, s": row["seconds"], "failure": row["failure"] or "none"} for row in rows
    ]
    show("PyTorch's forms", shown)
    return usable, rows


def compare_steps(
    problem: Problem, ask: Ask, forms: list[str], arguments: argparse.Namespace
) -> tuple[str, list[dict]]:
    """(PyTorch's fastest form, a table of the time of a matching step in each)."""
    steps, repeats = min(arguments.steps_timed, arguments.matching_steps), arguments.repeats
    images, targets = matching_problem(problem)
    run = our_match(problem, steps)
    run(images, targets)

    def theirs(form, decoder=True):
        return lambda: ask("match", form=form, images=images, targets=targets, max_steps=steps, decoder=decoder)

    def measure(others):
        pairs = in_turns(lambda: timed(run, images, targets), others, repeats)
        return table_of(pairs, "ms a step and image", 1000 / steps / len(images))

    rows = measure({form: theirs(form) for form in forms})
    fastest = min(rows, key=lambda row: row["theirs, ms a step and image"]["median"])["theirs"]
    theirs(fastest, decoder=False)()
    rows += measure({f"{fastest}, without the decoder": theirs(fastest, decoder=False)})
    show(f"1a. A matching step ({repeats} runs of {steps} steps on {len(images)} images)", rows)
    return fastest, rows


def theirs_timed(problem: Problem, ask: Ask, form: str, levels: np.ndarray, arguments: argparse.Namespace) -> Callable:
    """() -> the published reconstruction in PyTorch, on some of its levels, timed there."""
    given = {"conditioners": problem.targets, "mean": problem.mean, "sigmas": levels.tolist()}
    settings = {"max_steps": arguments.matching_steps, "tolerance": arguments.tolerance}
    settings |= {"draws": reconstruction.PUBLISHED.draws, "seed": 0}
    return lambda: ask("reconstruct", form=form, **given, **settings)


def schedule_of(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """All levels of the published schedule, and those that are timed: the first, and on evenly to the last."""
    levels = np.linspace(SIGMA_0, SIGMA_END, arguments.levels)
    return levels, levels[np.linspace(0, len(levels) - 1, min(len(levels), arguments.levels_timed)).astype(int)]


def compare_wholes(problem: Problem, ask: Ask, fastest: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A table of the time of the published reconstruction, extrapolated from the timed levels."""
    levels, chosen = schedule_of(arguments)
    run = our_reconstruction(problem, published_settings(problem, chosen, arguments))
    forms = dict.fromkeys((fastest, "eager"))
    measures = {form: theirs_timed(problem, ask, form, chosen, arguments) for form in forms}
    pairs = in_turns(lambda: timed(run), measures, arguments.repeats)
    rows, same = table_of(pairs, "s an image", len(levels) / len(chosen) / len(problem.targets)), True
    for row in rows:
        ours, theirs = pairs[row["theirs"]][0]
        made = ours["result"].log.updates.max(axis=0).tolist(), theirs["steps"]
        row["ratio a step"] = row["ratio"]["median"] * sum(made[1]) / sum(made[0])
        row["steps at the timed levels"] = " / ".join(" ".join(map(str, steps)) for steps in made)
        same = same and made[0] == made[1]
    show(
        f"1b. The published reconstruction, {len(levels)} levels of {arguments.matching_steps} matching steps at most; "
        f"{len(chosen)} of them timed (sigma = {', '.join(f'{sigma:.3g}' for sigma in chosen)}), the others extrapolated",
        rows,
    )
    message = "the same" if same else "NOT THE SAME: the ratio compares different work. --tolerance 0 makes them so"
    print(f"  The steps are {message}.")
    return rows
