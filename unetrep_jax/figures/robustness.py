"""How much channel averages change with the noise level (the paper, figure 2) and with where things are in the image."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Real
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from unetrep_jax.figures.style import (
    BLUE,
    FAINT,
    FULL_WIDTH,
    GREY,
    NOISE_LABEL,
    draw_series,
    finite,
    in_style,
    log_axis,
    no_data,
    noise_axis,
)

Curves = Mapping[str, Mapping[str, Real[np.ndarray, "levels 3"]]]
Matrices = Mapping[str, Mapping[str, Real[np.ndarray, "levels levels"]]]


@in_style
def robustness_curves(
    sigmas: Real[np.ndarray, " levels"],
    direction: Curves,
    centred_direction: Curves,
    length: Curves,
    variance: Curves,
    *,
    reference: float | int,
) -> Figure:
    """Channel averages of all blocks against the noise level: direction, length and realisation variance (the paper, figure 2).

    A row of panels per network, a line with a band per block; the networks share the axes of a quantity.

    Args:
      sigmas: noise levels, intensity units.
      direction: network -> block -> (low, value, high) of the mean cosine to the reference level, over images.
      centred_direction: the same after the mean over images at each level is taken away.
      length: of the length over that at the reference level.
      variance: of the variance over noise draws, over the squared length; levels where it is 0 are left out.
      reference: the reference level, x 255.
    """
    quantities = {
        f"cosine to\nσ = {reference:g}/255": direction,
        "the same,\ncentred": centred_direction,
        f"length over that at\nσ = {reference:g}/255": length,
        "realisation variance\nover squared length": {
            network: {block: np.where(band > 0, band, np.nan) for block, band in blocks.items()}
            for network, blocks in variance.items()
        },
    }
    networks = list(direction)
    figure = Figure(figsize=(FULL_WIDTH, 0.7 + 1.6 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), len(quantities), sharex=True, sharey="col", squeeze=False)
    for column, (name, by_network) in zip(grid.T, quantities.items(), strict=True):
        for axes, network in zip(column, networks, strict=True):
            draw_series(axes, 255 * sigmas, by_network[network])
        if any(finite(band).size for blocks in by_network.values() for band in blocks.values()):
            noise_axis(column[0], sigmas)
        column[0].set_title(name)
    for row, network in zip(grid, networks, strict=True):
        row[0].set_ylabel(network, weight="bold")
        row[2].axhline(1, color=GREY, linewidth=0.8, zorder=1)
    if any(
        finite(band).size
        for blocks in quantities["realisation variance\nover squared length"].values()
        for band in blocks.values()
    ):
        log_axis(grid[0, 3].yaxis)
    figure.supxlabel(NOISE_LABEL, fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=6)
    return figure


@in_style
def cosine_matrices(sigmas: Real[np.ndarray, " levels"], plain: Matrices, centred: Matrices) -> Figure:
    """Cosines between all pairs of noise levels, a small heat map for every block; rows: each network, plain and centred.

    Plain maps share one colour scale and centred ones another. Levels are in the order given, first at the top left.

    Args:
      sigmas: noise levels, intensity units.
      plain: network -> block -> cosines [levels, levels].
      centred: the same after the mean over images at each level is taken away.
    """
    rows = [(version, network) for version in ("plain", "centred") for network in plain]
    matrices = {"plain": plain, "centred": centred}
    blocks = list(next(iter(plain.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.4 + 1.1 * len(rows)), layout="constrained")
    grid = figure.subplots(len(rows), len(blocks), sharex=True, sharey=True, squeeze=False)
    for version, by_network in matrices.items():
        lowest = min([1.0, *(finite(m).min() for of in by_network.values() for m in of.values() if finite(m).size)])
        places = [i for i, row in enumerate(rows) if row[0] == version]
        image = None
        for i in places:
            for axes, block in zip(grid[i], blocks, strict=True):
                image = _heat_map(axes, by_network[rows[i][1]][block], min(lowest, 0.999))
            grid[i, 0].set_ylabel(f"{rows[i][1]}\n{version}", weight="bold")
        figure.colorbar(image, ax=grid[places].ravel().tolist(), label="cosine", aspect=25, pad=0.01)
    for axes, block in zip(grid[0], blocks, strict=True):
        axes.set_title(block, weight="bold")
    ticks = np.unique(np.linspace(0, len(sigmas) - 1, min(3, len(sigmas))).round().astype(int))
    names = [f"{255 * sigmas[tick]:.3g}" for tick in ticks]
    grid[0, 0].set(xticks=ticks, xticklabels=names, yticks=ticks, yticklabels=names)
    figure.supxlabel(NOISE_LABEL, fontsize=8)
    return figure


def _heat_map(axes: Axes, matrix: np.ndarray, lowest: float) -> AxesImage:
    colours = colormaps["viridis"].with_extremes(bad=FAINT)
    axes.grid(visible=False)
    if not finite(matrix).size:
        no_data(axes)
    return axes.imshow(matrix, cmap=colours, vmin=lowest, vmax=1, interpolation="nearest")


@in_style
def changes_by_shift(
    shifts: Real[np.ndarray, " shifts"], networks: Mapping[str, Mapping[str, Real[np.ndarray, "shifts 3"]]]
) -> Figure:
    """How much every block's channel averages change when the image moves round, a panel per network.

    Args:
      shifts: pixels.
      networks: name -> block -> (low, mid, high) of the change, as a fraction of the distance between two images.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.3), layout="constrained")
    row = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, (name, blocks) in zip(row, networks.items(), strict=True):
        draw_series(axes, shifts, blocks)
        axes.set_title(name, weight="bold")
        axes.set(xticks=shifts)
        axes.label_outer(remove_inner_ticks=True)
    if any(finite(band[band > 0]).size for blocks in networks.values() for band in blocks.values()):
        log_axis(row[0].yaxis)
    row[0].set_ylabel("change over the distance\nbetween two images")
    figure.supxlabel("shift in pixels, opposite edges meeting", fontsize=8)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside right upper")
    return figure


@in_style
def intervals(
    rows: Mapping[str, Sequence[float | int]], *, xlabel: str, reference: tuple[str, float | int] | None = None
) -> Figure:
    """One number with its interval for each name, below each other.

    Args:
      rows: name -> (value, low, high).
      xlabel: what the numbers are.
      reference: (name, value) of a dashed line, such as the value for chance.
    """
    figure = Figure(figsize=(5.4, 0.7 + 0.26 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (value, low, high) in enumerate(rows.values()):
        axes.hlines(place, low, high, color=BLUE, linewidth=2)
        axes.plot([value], [place], "o", color=BLUE, markersize=4)
    if reference is not None:
        axes.axvline(reference[1], color=GREY, linestyle=(0, (4, 3)), linewidth=1)
        axes.annotate(
            reference[0], (reference[1], 1), (3, 2), xycoords=("data", "axes fraction"), textcoords="offset points"
        )
    axes.set_yticks(range(len(rows)), list(rows))
    axes.set(ylim=(len(rows) - 0.5, -0.5), xlabel=xlabel)
    axes.grid(axis="y", visible=False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10]))
    return figure
