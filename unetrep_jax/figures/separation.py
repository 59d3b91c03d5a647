"""How far clusters lie apart (the paper, figure 8)."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from jaxtyping import Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.style import COLOURS, FULL_WIDTH, GREY, INK, MARKERS, finite, in_style, log_axis, no_data

COLUMNS = 4  # panels side by side


@in_style
def separation_scatter(
    panels: Mapping[str, Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]]],
) -> Figure:
    """How far centroids are from their nearest, against how far their members spread on the line between the two.

    Lines mark distance / spread = 1, 2 and 4 (the paper, figure 8 of v1, figure 6 of v2). A panel for each representation
    or null; they share logarithmic axes, so distances and spreads must be in units that compare, as of the features' total
    deviation. Distances that are not positive, as held-out ones may be, are counted in the panel.

    Args:
      panels: title -> name of the images measured on -> (distances ||phi_1 - phi_2||, spreads along that direction), a pair of
        centroids each.
    """
    rows, columns = -(-len(panels) // COLUMNS), min(COLUMNS, len(panels))
    figure = Figure(figsize=(1.7 * columns + 0.4, 1.9 * rows + 0.6), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    log_axis(grid[0].xaxis)
    log_axis(grid[0].yaxis)
    drawn = [_draw_pairs(axes, groups) for axes, groups in zip(grid, panels.values(), strict=False)]
    everything = np.concatenate([*drawn, np.empty((0, 2))])
    low, high = _frame(everything)
    for axes, title, pairs in zip(grid, panels, drawn, strict=False):
        axes.set_title(textwrap.fill(title, 28), pad=14, fontsize=7.5)
        if len(pairs):
            _ratio_lines(axes, low, high)
        else:
            no_data(axes)
    for place, axes in enumerate(grid):
        axes.tick_params(labelleft=place % columns == 0, labelbottom=place + columns >= len(panels), which="both")
        if place >= len(panels):
            axes.set_axis_off()
    grid[0].set(xlim=(low[0], high[0]), ylim=(low[1], high[1]))
    figure.supxlabel("spread along the line between the two", fontsize=8)
    figure.supylabel("distance to the nearest centroid", fontsize=8)
    figure.legend(*grid[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _draw_pairs(axes: Axes, groups: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Draws (spread, distance) of every pair in which both are positive; returns them, and says how many are not."""
    drawn, below, total = [np.empty((0, 2))], 0, 0
    for (name, (distance, spread)), colour, marker in zip(groups.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        pairs = np.stack([spread, distance], -1)
        pairs = pairs[np.isfinite(pairs).all(-1)]
        drawn.append(pairs[(pairs > 0).all(-1)])
        below, total = below + len(pairs) - len(drawn[-1]), total + len(pairs)
        axes.scatter(*drawn[-1].T, s=8, color=colour, marker=marker, alpha=0.5, linewidth=0, label=name)
    if below:
        text = f"{below:,} of {total:,} at 0 or below"
        axes.text(0.98, 0.02, text, transform=axes.transAxes, ha="right", fontsize=6, color=GREY)
    return np.concatenate(drawn)


def _frame(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper ends of both logarithmic axes."""
    if not len(points):
        return np.full(2, 0.1), np.ones(2)
    return points.min(0) / 1.3, points.max(0) * 1.3


def _ratio_lines(axes: Axes, low: np.ndarray, high: np.ndarray) -> None:
    """Lines of equal ratio; each says its ratio where it leaves the frame, if it passes through."""
    for ratio in (1, 2, 4):
        first, last = max(low[0], low[1] / ratio), min(high[0], high[1] / ratio)
        if first >= last:
            continue
        axes.plot(
            [first, last], [ratio * first, ratio * last], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1
        )
        at_top = last < high[0]
        axes.annotate(
            f"{ratio}", (last, ratio * last), (0, 2) if at_top else (2, 0), textcoords="offset points", color="#555555",
            ha="center" if at_top else "left", va="bottom" if at_top else "center", fontsize=7, annotation_clip=False,
        )  # fmt: skip


@in_style
def separation_histograms(
    panels: Mapping[str, Mapping[str, Real[np.ndarray, " _"]]],
    quantiles: Mapping[str, Mapping[str, Sequence[float | int | None]]],
) -> Figure:
    """Distributions of separation ratios side by side: every value (dots), 5 to 95 % (line), quartiles (bar), median.

    Args:
      panels: title -> name of the groups -> ratios of distance to spread, one per centroid: clusters, label classes, and
        their nulls. The panels have the same names, in the same order.
      quantiles: title -> name -> the 0.05, 0.25, 0.5, 0.75 and 0.95 quantiles of the finite ratios; not read where there are none.
    """
    names = list(next(iter(panels.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.9 + 0.36 * len(names)), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, (title, groups) in zip(row, panels.items(), strict=True):
        for height, ((name, ratios), colour) in enumerate(zip(groups.items(), cycle(COLOURS), strict=False)):
            _draw_distribution(axes, height, finite(ratios), quantiles[title][name], colour)
        axes.set_title(title, weight="bold")
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.axvline(2, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    row[0].set_yticks(range(len(names)), [textwrap.fill(name, 34) for name in names])
    row[0].set(ylim=(len(names) - 0.5, -0.5))
    row[0].set_xlim(left=min(0, row[0].get_xlim()[0]))
    figure.supxlabel("separation ratio: distance / spread", fontsize=8)
    return figure


def _draw_distribution(
    axes: Axes, row: int, values: np.ndarray, quantiles: Sequence[float | int | None], colour: str
) -> None:
    if values.size == 0:
        axes.text(0.02, row, "no data", transform=axes.get_yaxis_transform(), va="center", color=GREY, style="italic")
        return
    low, first, median, third, high = quantiles
    spread_out = row + 0.18 + 0.2 * (np.arange(values.size) * 0.618034 % 1)  # golden ratio: even without chance
    axes.plot(values, spread_out, ".", color=colour, alpha=0.35, markersize=2.5, markeredgewidth=0)
    axes.hlines(row, low, high, color=colour, linewidth=1)
    axes.hlines(row, first, third, color=colour, linewidth=5, alpha=0.55)
    axes.plot([median], [row], "|", color=INK, markersize=9, markeredgewidth=1.6, label="median")
    axes.annotate(f"{median:.2f}", (median, row), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)
    axes.text(
        1, row + 0.3, f"n = {values.size:,}", transform=axes.get_yaxis_transform(), ha="right", fontsize=6, color=GREY
    )
