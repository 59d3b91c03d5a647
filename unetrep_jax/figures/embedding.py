"""Whether distances between representations embed distances between densities (the paper, equations 3 and 4)."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.style import BLUE, FULL_WIDTH, GREY, INK, VERMILION, in_style, log_axis, no_data


class Embedded(NamedTuple):
    """One representation's squared distances, and the band that d^2 lies in.

    Attributes:
      squares: squared distance of each pair; those of 0 are not drawn.
      low, high: A and B: the lines d^2 = A * square and d^2 = B * square.
      note: a few words below the panel's title.
    """

    squares: Real[np.ndarray, " n"]
    low: float
    high: float
    note: str


@in_style
def embedding_scatter(
    panels: Mapping[str, Embedded],
    distances: Real[np.ndarray, " n"],
    errors: Real[np.ndarray, " n"],
    floor: float | None = None,
) -> Figure:
    """d^2 of the conditional densities against squared distances between representations, a panel for each, on log axes.

    Dashed lines are the band d^2 = A * square, B * square; bars are two standard errors long either way; the dotted line is d^2 of
    an image to itself.

    Args:
      panels: name -> squared distances of the pairs and their band.
      distances: d^2 of the pairs, above 0.
      errors: their standard errors; NaN for none.
      floor: median d^2 of an image to itself, where it is known.
    """
    columns = 2 if len(panels) > 1 else 1
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(FULL_WIDTH / 2 * columns, 2.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
    for axes, (name, panel) in zip(grid, panels.items(), strict=False):
        _draw_band(axes, panel, distances, errors, floor)
        axes.set_title(f"{name}\n{panel.note}")
        axes.set_xlabel("squared distance")
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    for axes in grid[::columns]:
        axes.set_ylabel("d² of the conditional densities")
    return figure


def _draw_band(axes: Axes, panel: Embedded, distances: np.ndarray, errors: np.ndarray, floor: float | None) -> None:
    apart = panel.squares > 0  # others have no place on a logarithmic axis
    if not apart.any():
        no_data(axes)
        return
    _points(axes, panel.squares[apart], distances[apart], y_errors=errors[apart])
    ends = np.array([panel.squares[apart].min(), panel.squares[apart].max()])
    for factor in (panel.low, panel.high):
        axes.plot(ends, factor * ends, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    if floor is not None:
        axes.axhline(floor, color=VERMILION, linestyle=":", linewidth=1, zorder=1)


def _points(axes: Axes, x: np.ndarray, y: np.ndarray, **errors: np.ndarray) -> None:
    """Points with bars of two standard errors either way, that never reach 0 on a logarithmic axis."""
    bars = {}
    for name, error in errors.items():
        centre = x if name.startswith("x") else y
        length = np.nan_to_num(2 * np.asarray(error, float))
        bars[name[0] + "err"] = np.stack([np.minimum(length, 0.999 * centre), length])
    axes.errorbar(x, y, **bars, fmt="o", color=BLUE, markersize=2.6, markeredgewidth=0, elinewidth=0.6, alpha=0.7)


@in_style
def embedding_agreement(
    cheap: Real[np.ndarray, " n"],
    reconstructed: Real[np.ndarray, " n"],
    cheap_errors: Real[np.ndarray, " n"],
    reconstructed_errors: Real[np.ndarray, " n"],
) -> Figure:
    """d^2 with reconstructions as samples, against d^2 with the images themselves; bars are two standard errors, the line identity.

    Args:
      cheap, reconstructed: d^2 of the same pairs, above 0.
      cheap_errors, reconstructed_errors: their standard errors; NaN for none.
    """
    figure = Figure(figsize=(3.5, 3.2), layout="constrained")
    axes = figure.subplots()
    if cheap.size:
        _points(axes, cheap, reconstructed, x_errors=cheap_errors, y_errors=reconstructed_errors)
        ends = [min(cheap.min(), reconstructed.min()), max(cheap.max(), reconstructed.max())]
        axes.plot(ends, ends, color=INK, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        log_axis(axes.xaxis)
        log_axis(axes.yaxis)
    else:
        no_data(axes)
    axes.set(xlabel="d² around the images", ylabel="d² around reconstructions")
    return figure
