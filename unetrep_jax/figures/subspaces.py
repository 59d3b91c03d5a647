"""The union of subspaces (the paper, figure 6): channels that exclude each other, supports that overlap, and how many there are."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import NamedTuple

import numpy as np
from jaxtyping import Integer, Real
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.style import (
    BLUE,
    COLOURS,
    FULL_WIDTH,
    GREY,
    INK,
    NOISE_LABEL,
    draw_series,
    finite,
    in_style,
    legend_beside,
    log_axis,
    no_data,
    noise_axis,
)


class Channels(NamedTuple):
    """Three channels of a cloud.

    Attributes:
      values: one row per image.
      names: of the channels.
      cuts: above which each counts as on.
    """

    values: Real[np.ndarray, "_ 3"]
    names: tuple[str, str, str]
    cuts: Real[np.ndarray, "3"]


@in_style
def channel_scatter(clouds: Mapping[str, Channels]) -> Figure:
    """Images by three of their channels: a row for each cloud, in space and on the three coordinate planes.

    Axes begin at 0 in space and at the lowest value on the planes. Dashed lines are the cuts above which a channel counts as on.

    Args:
      clouds: title -> its three channels.
    """
    figure = Figure(figsize=(FULL_WIDTH, 1.8 * len(clouds)), layout="constrained")
    grid = figure.add_gridspec(len(clouds), 4, width_ratios=(1.25, 1, 1, 1))
    style = {"s": 2, "color": BLUE, "alpha": 0.35, "linewidth": 0, "rasterized": True}
    for row, (title, (values, names, cuts)) in enumerate(clouds.items()):
        everything = np.concatenate([values, cuts[None]])
        low, high = np.nanmin(everything, 0), np.nanmax(everything, 0)
        margin = 0.04 * (high - low) + 1e-12
        limits, from_zero = np.stack([low - margin, high + margin], 1), np.stack([np.minimum(0, low), high + margin], 1)
        space = figure.add_subplot(grid[row, 0], projection="3d")
        space.scatter(*values.T, **style)
        space.set(xlim=from_zero[0], ylim=from_zero[1], zlim=from_zero[2])
        space.set_box_aspect((1, 1, 1), zoom=0.85)
        for axis, name in zip("xyz", names, strict=True):
            getattr(space, f"set_{axis}label")(name, labelpad=-9 if axis == "z" else -13, fontsize=6)
            getattr(space, f"{axis}axis").set_major_formatter(ticker.NullFormatter())
        space.set_title(title, weight="bold", loc="left")
        for column, (x, y) in enumerate(((0, 1), (0, 2), (1, 2))):
            axes = figure.add_subplot(grid[row, 1 + column])
            axes.scatter(values[:, x], values[:, y], **style)
            axes.axvline(cuts[x], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.axhline(cuts[y], color=GREY, linewidth=0.8, linestyle=(0, (3, 2)))
            axes.set(xlim=limits[x], ylim=limits[y], xlabel=names[x], ylabel=names[y])
            axes.locator_params(nbins=3)
            axes.ticklabel_format(scilimits=(-2, 4))
            axes.tick_params(labelsize=6)
            for axis in (axes.xaxis, axes.yaxis):
                axis.get_offset_text().set_fontsize(6)
    return figure


@in_style
def odds_histograms(panels: Mapping[str, Mapping[str, Real[np.ndarray, " _"]]]) -> Figure:
    """Distributions of the odds ratios of pairs of channels, on a logarithmic axis; 1 means independent.

    Args:
      panels: definition of supports -> name of the channels -> natural logarithms of odds ratios, one per pair.
    """
    figure, grid = _panels(len(panels), 2.2)
    values = finite(np.concatenate([np.ravel(v) for panel in panels.values() for v in panel.values()])) / np.log(10)
    reach = max(0.5, np.abs(values).max(initial=0))
    edges = np.linspace(-reach, reach, 61)
    for axes, (title, series) in zip(grid, panels.items(), strict=True):
        axes.set(title=title, xlim=(-1.05 * reach, 1.05 * reach))
        for (name, logarithms), colour in zip(series.items(), cycle(COLOURS), strict=False):
            found = finite(logarithms) / np.log(10)
            if found.size:
                weights = np.full(found.size, 1 / found.size)
                axes.hist(found, edges, weights=weights, histtype="step", color=colour, linewidth=1.2, label=name)
        if not any(finite(v).size for v in series.values()):
            no_data(axes)
        axes.axvline(0, color=INK, linewidth=0.7, linestyle=(0, (3, 2)))
        axes.xaxis.set_major_locator(ticker.MaxNLocator(5, integer=reach >= 2))
        axes.xaxis.set_major_formatter(
            ticker.FuncFormatter(lambda power, _: f"{10**power:{',.0f' if power >= 2 else '.3g'}}")
        )
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    grid[0].set_ylabel("share of pairs")
    figure.supxlabel("odds ratio of two specialised channels (1: independent)", fontsize=8)
    return _legend(figure, grid)


@in_style
def overlap_ranges(panels: Mapping[str, Mapping[str, Mapping[str, Real[np.ndarray, "3"]]]]) -> Figure:
    """Jaccard overlap of supports: median (mark) and quartiles (line) over images.

    Args:
      panels: definition of supports -> name of the representation -> kind of other images -> quartiles of the overlaps; NaN where
        there are none.
    """
    rows = max(len(panel) for panel in panels.values())
    figure, grid = _panels(len(panels), 0.9 + 0.42 * rows)
    for axes, (title, panel) in zip(grid, panels.items(), strict=True):
        for row, kinds in enumerate(panel.values()):
            for shift, (kind, overlaps), colour in zip((-0.2, 0, 0.2), kinds.items(), COLOURS, strict=False):
                low, middle, high = overlaps.tolist()
                if np.isfinite(middle):
                    axes.hlines(row + shift, low, high, color=colour, linewidth=2.5, alpha=0.5)
                    axes.plot(
                        [middle], [row + shift], "o", color=colour, markersize=3.5, label=kind if row == 0 else None
                    )
        axes.set(
            ylim=(rows - 0.5, -0.5), xlim=(-0.02, 1.02), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"), title=title
        )
        axes.set_yticks(range(rows), list(panel))
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="y", visible=False)
        axes.label_outer(remove_inner_ticks=True)
        if not any(finite(v).size for kinds in panel.values() for v in kinds.values()):
            no_data(axes)
    figure.supxlabel("Jaccard overlap of an image's support with those of others", fontsize=8)
    return _legend(figure, grid)


@in_style
def accumulation_curves(
    panels: Mapping[str, Mapping[str, tuple[Integer[np.ndarray, " m"], Integer[np.ndarray, "orders m"]]]],
) -> Figure:
    """Distinct supports against images seen, on logarithmic axes: mean and range over random orders.

    The dashed line is the most there can be: a new support with every image.

    Args:
      panels: title -> name -> (images seen, distinct supports in every order).
    """
    figure, grid = _panels(len(panels), 2.1 * -(-len(panels) // 3) + 0.3)
    for axes, (title, series) in zip(grid, panels.items(), strict=True):
        for (name, (seen, counts)), colour in zip(series.items(), cycle(COLOURS), strict=False):
            axes.plot(seen, counts.mean(0), color=colour, linewidth=1.2, label=name)
            axes.fill_between(seen, counts.min(0), counts.max(0), color=colour, alpha=0.25, linewidth=0)
        most = max(int(seen[-1]) for seen, _ in series.values())
        axes.plot([1, most], [1, most], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
        axes.set_title(title)
        axes.label_outer(remove_inner_ticks=True)
    figure.supylabel("distinct supports", fontsize=8)
    figure.supxlabel("images seen", fontsize=8)
    return _legend(figure, grid)


@in_style
def spectra(panels: Mapping[str, Mapping[str, Real[np.ndarray, "r 3"]]], *, part: float) -> Figure:
    """Variance held by the first principal axes, on a logarithmic axis: median (line) and quartiles (band).

    Args:
      panels: representation -> whose axes -> (lower quartile, median, upper quartile) of the cumulative share, axis by axis, over
        groups or random sets of images; three equal numbers where there is one set.
      part: a share to mark.
    """
    figure, grid = _panels(max(1, len(panels)), 2.1 * -(-max(1, len(panels)) // 3) + 0.5)
    for axes, (title, series) in zip(grid, panels.items(), strict=False):
        for (name, bands), colour in zip(series.items(), COLOURS, strict=False):
            count = np.arange(1, len(bands) + 1)
            axes.plot(count, bands[:, 1], color=colour, label=name, linewidth=1.2)
            axes.fill_between(count, bands[:, 0], bands[:, 2], color=colour, alpha=0.2, linewidth=0)
        axes.axhline(part, color=GREY, linewidth=0.8, linestyle=(0, (4, 3)))
        axes.set(ylim=(0, 1.02), xscale="log", title=title)
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda count, _: f"{count:g}"))
    for axes in grid:
        if not axes.lines:
            no_data(axes)
    figure.supxlabel("principal axes", fontsize=8)
    figure.supylabel("cumulative share of the variance", fontsize=8)
    return _legend(figure, grid)


@in_style
def share_by_noise(
    sigmas: Real[np.ndarray, " levels"], series: Mapping[str, Real[np.ndarray, " levels"]], *, ylabel: str
) -> Figure:
    """A share against the noise level, a line for each of several."""
    figure = Figure(figsize=(5.4, 2.7), layout="constrained")
    axes = figure.subplots()
    draw_series(axes, 255 * sigmas, series)
    noise_axis(axes, sigmas)
    axes.set(ylim=(-0.02, 1.02), xlabel=NOISE_LABEL, ylabel=ylabel)
    legend_beside(figure, axes)
    return figure


def _panels(count: int, height: float) -> tuple[Figure, np.ndarray]:
    """A figure with so many panels that share their y axis, three in a row at most."""
    figure = Figure(figsize=(FULL_WIDTH, height), layout="constrained")
    rows = -(-count // 3)
    grid = figure.subplots(rows, -(-count // rows), sharey=True, squeeze=False).ravel()
    for axes in grid[count:]:
        axes.set_axis_off()
    return figure, grid[:count]


def _legend(figure: Figure, grid: Sequence[Axes] | np.ndarray) -> Figure:
    """One legend above all panels, with every name that any of them uses."""
    found = {}
    for axes in grid:
        found = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True)) | found
    figure.legend(found.values(), found.keys(), loc="outside upper right", ncols=2)
    return figure
