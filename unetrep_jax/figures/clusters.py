"""Clusters over noise levels, K-means on its way from class means, and t-SNE panels (the paper, figure 8)."""

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
from jaxtyping import Integer, Real
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.style import (
    COLOURS,
    FULL_WIDTH,
    MARKERS,
    NOISE_LABEL,
    draw_series,
    in_style,
    no_data,
    noise_axis,
)


@in_style
def agreement_by_noise(
    sigmas: Real[np.ndarray, " levels"], series: Mapping[str, Real[np.ndarray, " levels"]]
) -> Figure:
    """Agreement of partitions (adjusted mutual information: 1 equal, 0 chance) against the noise level.

    Args:
      sigmas: noise levels, intensity units.
      series: name -> AMI at every level.
    """
    figure = Figure(figsize=(5.4, 3.6), layout="constrained")
    axes = figure.subplots()
    order = np.argsort(sigmas)
    draw_series(axes, 255 * sigmas[order], {name: values[order] for name, values in series.items()})
    noise_axis(axes, sigmas)
    axes.axhline(0, color=COLOURS[-1], linewidth=0.6)
    axes.set(xlabel=NOISE_LABEL, ylabel="adjusted mutual information")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center")
    return figure


@in_style
def courses(starts: Mapping[str, Real[np.ndarray, "_ 6"]]) -> Figure:
    """K-means on its way from the means of given groups: agreement with them, images that stay, how far centroids move.

    Args:
      starts: name -> a row for each moment: iterations made; adjusted mutual information of clusters and groups; share of
        the images in the cluster that began as their group's; lower quartile, median and upper quartile over the
        centroids of the distance moved, in units of the distance to the nearest other mean at the start.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.6), layout="constrained")
    panels = figure.subplots(1, 3)
    labels = ("AMI with the groups", "share of images that stay", "distance moved / nearest mean")
    for axes, columns, label in zip(panels, (1, 2, slice(3, 6)), labels, strict=True):
        for (name, course), colour, marker in zip(starts.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
            draw_series(axes, course[:, 0], {name: course[:, columns]}, [colour])
            axes.lines[-1].set_marker(marker)
        axes.set_xscale("symlog", linthresh=1, linscale=0.4)
        axes.set_xticks([0, 1, 10, 100], ["0", "1", "10", "100"])
        axes.set(xlabel="iterations", ylabel=label)
        axes.set_ylim(bottom=min(0, axes.get_ylim()[0]) if axes is panels[0] else 0)
    panels[2].set_yscale("symlog", linthresh=1)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=len(starts), title="begun at"
    )
    return figure


@in_style
def embeddings(
    panels: Mapping[str, tuple[Real[np.ndarray, "_ 2"], Integer[np.ndarray, " _"], Sequence[str]]],
) -> Figure:
    """Points in the plane, one panel for each way of grouping (the paper, figure 8: ten clusters beside ten classes).

    The axes of t-SNE have no unit, so none are drawn.

    Args:
      panels: title -> (points, the group of each 0 ... g - 1, the names of the groups).
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.6), layout="constrained")
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, (points, groups, names)) in zip(row, panels.items(), strict=True):
        axes.set_title(title)
        axes.set(xticks=(), yticks=(), box_aspect=1)
        if np.isfinite(points).all(1).any():
            _draw_groups(axes, points, groups, names)
        else:
            no_data(axes)
    return figure


def _draw_groups(axes: Axes, points: np.ndarray, groups: np.ndarray, names: Sequence[str]) -> None:
    size = min(14.0, 4000 / len(points))
    for group, name in enumerate(names):
        x, y = points[groups == group].T
        # Every round through the colours has another marker.
        colour, marker = COLOURS[group % len(COLOURS)], MARKERS[group // len(COLOURS) % len(MARKERS)]
        axes.scatter(x, y, s=size, color=colour, marker=marker, alpha=0.75, linewidth=0, label=name)
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.02), ncols=2, fontsize=6, markerscale=1.4, handletextpad=0.2, columnspacing=0.8
    )  # fmt: skip
