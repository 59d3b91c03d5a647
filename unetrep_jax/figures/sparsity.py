"""Participation ratios of every block (the paper, figure 1)."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Real
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unetrep_jax.figures.style import (
    FULL_WIDTH,
    GREY,
    NOISE_LABEL,
    SKY,
    VERMILION,
    draw_series,
    finite,
    in_style,
    no_data,
    noise_axis,
)

Medians = Mapping[str, tuple[float | int | None, float | int | None]]


@in_style
def participation_ratio_histograms(
    trained: Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]],
    untrained: Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]],
    trained_medians: Medians,
    untrained_medians: Medians,
    *,
    levels_text: str,
) -> Figure:
    """Distributions over images of the participation ratio at every block's input and output (the paper, figure 1).

    One column per block of `trained`, in its order; the trained network above, the untrained one below, on the same
    axes. Dashed lines, and the numbers above each panel (input → output), are the medians.

    Args:
      trained: block name -> (ratios of its input, ratios of its output), one per image, each in (0, 1].
      untrained: the same for a network of the same shape with its initial weights.
      trained_medians: block name -> (median of its input's ratios, of its output's); None or NaN where there is none.
      untrained_medians: the same of `untrained`.
      levels_text: what the network saw, for the axis label: "σ = 100/255, 5,050 images".
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.4), layout="constrained")
    grid = figure.subplots(2, len(trained), sharex=True, sharey="row", squeeze=False)
    nothing = (np.empty(0), np.empty(0))
    networks = {"trained": (trained, trained_medians), "untrained": (untrained, untrained_medians)}
    for row, (name, (blocks, medians)) in zip(grid, networks.items(), strict=True):
        for axes, block in zip(row, trained, strict=True):
            _input_and_output(axes, blocks.get(block, nothing), medians.get(block, (None, None)))
            axes.label_outer(remove_inner_ticks=True)
        row[0].set_ylabel(f"{name}\nshare of images")
        row[0].yaxis.set_major_formatter(ticker.PercentFormatter(1, decimals=0))
    for axes, block in zip(grid[0], trained, strict=True):
        axes.set_title(block, weight="bold", pad=14)
    grid[0, 0].set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    figure.supxlabel(f"participation ratio, as a fraction of the block's channels ({levels_text})", fontsize=8)
    keys = [Patch(color=colour, alpha=0.6, label=f"block's {end}") for end, colour in _END_COLOURS.items()]
    figure.legend(handles=keys, loc="outside upper right", ncols=2)
    return figure


_END_COLOURS = {"input": SKY, "output": VERMILION}
_RATIO_EDGES = np.linspace(0, 1, 51)


def _input_and_output(
    axes: Axes, ends: tuple[np.ndarray, np.ndarray], medians: tuple[float | int | None, float | int | None]
) -> None:
    words = []
    for values, median, (name, colour) in zip(map(finite, ends), medians, _END_COLOURS.items(), strict=True):
        known = median is not None and np.isfinite(median)
        words.append(f"{median:.2f}" if known else "–")
        if values.size:
            weights = np.full(values.size, 1 / values.size)
            axes.hist(values, _RATIO_EDGES, weights=weights, histtype="stepfilled", color=colour, alpha=0.6, label=name)
        if known:
            axes.axvline(median, color=colour, linewidth=1, linestyle=(0, (3, 2)), label=f"median {name}")
    if words == ["–", "–"]:
        no_data(axes)
    else:
        axes.text(0.5, 1.03, " → ".join(words), transform=axes.transAxes, ha="center", fontsize=7.5)


@in_style
def participation_ratio_by_noise(
    sigmas: Real[np.ndarray, " levels"],
    trained: Mapping[str, Real[np.ndarray, "levels 3"]],
    untrained: Mapping[str, Real[np.ndarray, "levels 3"]],
) -> Figure:
    """The participation ratio of every block's output against the noise level: median (line) and quartiles (band).

    One panel per block of `trained`, in its order. The noise axis is logarithmic; when sigma = 0 is among the levels it
    is linear from 0 to the smallest positive one.

    Args:
      sigmas: noise levels, intensity units.
      trained: block name -> (lower quartile, median, upper quartile) over images, at every level.
      untrained: the same for a network of the same shape with its initial weights.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.2), layout="constrained")
    row = figure.subplots(1, len(trained), sharey=True, squeeze=False)[0]
    nothing = np.full((len(sigmas), 3), np.nan)
    for axes, block in zip(row, trained, strict=True):
        both = {"trained": trained[block], "untrained": untrained.get(block, nothing)}
        draw_series(axes, 255 * sigmas, both, (VERMILION, GREY))
        noise_axis(axes, sigmas)
        axes.set_title(block, weight="bold")
        axes.label_outer(remove_inner_ticks=True)
    row[0].set(ylim=(0, 1), ylabel="participation ratio")
    figure.supxlabel(NOISE_LABEL, fontsize=8)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure
