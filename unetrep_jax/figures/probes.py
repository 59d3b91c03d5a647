"""Linear probes: how often they are right, and how their penalty was chosen."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from unetrep_jax.figures.style import BLUE, FULL_WIDTH, GREY, SKY, draw_series, in_style, log_axis


@in_style
def accuracies(groups: Mapping[str, Mapping[str, tuple[float, float, float]]], chance: Mapping[str, float]) -> Figure:
    """How often probes on each kind of features are right: the mean and its interval.

    Args:
      groups: measure ("top-1") -> features -> (low, mid, high), in [0, 1]; the same features in all.
      chance: measure -> its value by chance, a dashed line.
    """
    names = list(next(iter(groups.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.9 + 0.24 * len(names)), layout="constrained")
    row = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (measure, intervals), colour in zip(row, groups.items(), (BLUE, SKY), strict=False):
        _draw_intervals(axes, list(intervals.values()), colour)
        if measure in chance:
            axes.axvline(chance[measure], color=GREY, linewidth=1, linestyle=(0, (4, 3)), label="chance")
        axes.set(xlabel=f"{measure} accuracy")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    row[0].set_yticks(range(len(names)), names)
    row[0].set_ylim(len(names) - 0.5, -0.5)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right")
    return figure


def _draw_intervals(axes: Axes, intervals: list[tuple[float, float, float]], colour: str) -> None:
    low, mid, high = np.array(intervals, float).T
    axes.hlines(range(len(mid)), low, high, color=colour, linewidth=4, alpha=0.45)
    axes.plot(mid, range(len(mid)), "o", color=colour, label="mean, 95 % interval")
    for place, value in enumerate(mid):
        axes.annotate(f"{100 * value:.1f}", (value, place), (0, 5), textcoords="offset points", ha="center", fontsize=7)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


@in_style
def regularisation_paths(paths: Mapping[str, Real[np.ndarray, "p 3"]]) -> Figure:
    """Accuracy (left) and cross-entropy (right) on the validation split against the penalty, a line for each kind of features.

    Args:
      paths: features -> (penalty, cross-entropy in nats, accuracy) of every fit; the same penalties for all.
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    penalties = next(iter(paths.values()))[:, 0]
    for axes, column, label in (
        (left, 2, "accuracy on the validation split"),
        (right, 1, "cross-entropy there (nats)"),
    ):
        draw_series(axes, penalties, {name: path[:, column] for name, path in paths.items()})
        axes.set(xlabel="penalty λ of the squared weights", ylabel=label)
        log_axis(axes.xaxis)
    left.yaxis.set_major_formatter(PercentFormatter(1))
    left.set_ylim(bottom=0)
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure
