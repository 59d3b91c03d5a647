"""Selectivity of channels, what sets specialised and common ones apart, and the images that excite them (figures 4, 5)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Real
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.images import draw_tiles, shown_image
from unetrep_jax.figures.style import (
    BLUE,
    FULL_WIDTH,
    GREY,
    INK,
    NOISE_LABEL,
    ORANGE,
    VERMILION,
    draw_series,
    finite,
    in_style,
    log_axis,
    no_data,
    noise_axis,
)

GROUP_COLOURS = {"specialised": VERMILION, "common": BLUE}
_RATIO_TICKS = (1e-4, 1e-3, 0.01, 0.1, 0.5, 0.9, 0.99, 0.999)


@in_style
def ratio_histograms(networks: Mapping[str, Mapping[str, Real[np.ndarray, " _"]]]) -> Figure:
    """Distributions over channels of the participation ratio over images (the paper, figure 4).

    Args:
      networks: row -> column (a way of taking the threshold) -> ratios in (0, 1], one per channel; NaN for those without one.
        All rows have the same columns.
    """
    columns = list(next(iter(networks.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.7 + 1.25 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), len(columns), sharex=True, sharey="row", squeeze=False)
    for row, (name, by_threshold) in zip(grid, networks.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            values = finite(by_threshold[column])
            if values.size:
                axes.hist(values, np.linspace(0, 1, 41), color=BLUE, alpha=0.6)
            else:
                no_data(axes)
            axes.text(0.5, 0.96, f"{values.size} channels", transform=axes.transAxes, ha="center", va="top", fontsize=7)
        row[0].set_ylabel(f"{name}\nchannels")
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, weight="bold")
    grid[0, 0].set(xlim=(0, 1), xticks=(0, 0.5, 1), xticklabels=("0", "0.5", "1"))
    figure.supxlabel("participation ratio over images", fontsize=8)
    return figure


Fit = Mapping[str, Real[np.ndarray, " _"] | float]


@in_style
def mixture_histograms(
    networks: Mapping[str, Mapping[str, Real[np.ndarray, " _"]]], fits: Mapping[str, Mapping[str, Fit | None]]
) -> Figure:
    """The same distributions on the logit scale, on which one and two Gaussians are compared, with the two that were fitted.

    Args:
      networks: row -> column -> logits of the ratios, one per channel.
      fits: the same keys -> weights, means, deviations of the two components, each [2], and where they cross (a dashed line; NaN
        where they do not); None where nothing was fitted.
    """
    columns = list(next(iter(networks.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.8 + 1.35 * len(networks)), layout="constrained")
    grid = figure.subplots(len(networks), len(columns), sharex=True, sharey="row", squeeze=False)
    everything = finite(np.concatenate([values for row in networks.values() for values in row.values()]))
    span = (everything.min() - 0.5, everything.max() + 0.5) if everything.size else (-1.0, 1.0)
    for row, (name, by_threshold) in zip(grid, networks.items(), strict=True):
        for axes, column in zip(row, columns, strict=True):
            _draw_mixture(axes, finite(by_threshold[column]), fits[name][column], span)
        row[0].set_ylabel(f"{name}\nchannels")
    for axes, column in zip(grid[0], columns, strict=True):
        axes.set_title(column, weight="bold")
    grid[0, 0].set_xlim(span)
    ratio_axis(grid[0, 0])
    figure.supxlabel("participation ratio over images, on the scale of its logit", fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=4)
    return figure


def _draw_mixture(axes: Axes, logits: np.ndarray, fit: Fit | None, span: tuple[float, float]) -> None:
    if logits.size == 0:
        no_data(axes)
        return
    edges = np.linspace(*span, 41)
    axes.hist(logits, edges, color=GREY, alpha=0.45)
    if fit is None:
        return
    x = np.linspace(*span, 400)
    scale = logits.size * (edges[1] - edges[0]) / np.sqrt(2 * np.pi)
    parts = zip(fit["weights"], fit["means"], fit["deviations"], strict=True)
    heights = [scale * w / s * np.exp(-(((x - m) / s) ** 2) / 2) for w, m, s in parts]
    for height, colour, name in zip(heights, (VERMILION, BLUE), ("lower component", "upper component"), strict=True):
        axes.plot(x, height, color=colour, linewidth=1, label=name)
    axes.plot(x, sum(heights), color=INK, linewidth=0.8, label="both")
    if np.isfinite(fit["crossing"]):
        axes.axvline(fit["crossing"], color=INK, linewidth=0.8, linestyle=(0, (4, 3)), label="crossing")


def ratio_axis(axes: Axes) -> None:
    """Names ratios on an axis of their logits, as many as have room."""
    low, high = axes.get_xlim()
    inside = [p for p in _RATIO_TICKS if low <= np.log(p / (1 - p)) <= high]
    shown = inside[:: 1 + len(inside) // 5]
    axes.xaxis.set_major_locator(ticker.FixedLocator([np.log(p / (1 - p)) for p in shown]))
    axes.xaxis.set_major_formatter(ticker.FixedFormatter([f"{p:g}" for p in shown]))


@in_style
def selectivity_by_noise(
    sigmas: Real[np.ndarray, " levels"],
    ratios: Mapping[str, Mapping[str, Real[np.ndarray, "levels 3"]]],
    p_values: Mapping[str, Mapping[str, Real[np.ndarray, " levels"]]],
    *,
    rejected_below: float,
) -> Figure:
    """How the distribution of selectivity over channels changes with the noise level.

    Args:
      sigmas: noise levels, intensity units.
      ratios: panel above -> network -> quartiles over channels of the participation ratio over images; NaN where none has one.
      p_values: panel below -> network -> p-value of a dip; NaN where there is none. As many panels as above.
      rejected_below: p-value below which one hump is rejected (a dashed line).
    """
    figure = Figure(figsize=(FULL_WIDTH, 4.2), layout="constrained")
    grid = figure.subplots(2, len(ratios), sharex=True, sharey="row", squeeze=False)
    for row, panels in zip(grid, (ratios, p_values), strict=True):
        for axes, (title, networks) in zip(row, panels.items(), strict=True):
            draw_series(axes, 255 * sigmas, networks)
            noise_axis(axes, sigmas)
            axes.set_title(title, weight="bold")
    for axes in grid[1]:
        axes.axhline(rejected_below, color=GREY, linewidth=1, linestyle=(0, (4, 3)))
    grid[0, 0].set(ylabel="participation ratio over images", ylim=(0, 1))
    grid[1, 0].set_ylabel("p-value for one hump")
    log_axis(grid[1, 0].yaxis)
    figure.supxlabel(NOISE_LABEL, fontsize=8)
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=len(next(iter(ratios.values())))
    )
    return figure


@in_style
def group_stability(
    sigmas: Real[np.ndarray, " levels"], networks: Mapping[str, Mapping[str, Real[np.ndarray, "levels 3"]]]
) -> Figure:
    """How each group of channels keeps its direction when the noise level changes: median (line) and quartiles over images.

    Args:
      sigmas: noise levels, intensity units.
      networks: panel -> group -> quartiles over images of the cosine with the reference level; NaN where it is undefined.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.4), layout="constrained")
    row = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    for axes, (name, groups) in zip(row, networks.items(), strict=True):
        draw_series(axes, 255 * sigmas, groups, [GROUP_COLOURS[group] for group in groups])
        noise_axis(axes, sigmas)
        axes.set_title(name, weight="bold")
    row[0].set_ylabel("cosine with the reference level")
    figure.supxlabel(NOISE_LABEL, fontsize=8)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


class GroupedChannels(NamedTuple):
    """The channels of one network, in their groups.

    Attributes:
      logits: logits of the ratios, one per channel.
      groups: group -> mask over the channels.
      properties: name -> one value per channel; NaN where it is undefined.
    """

    logits: Real[np.ndarray, " k"]
    groups: Mapping[str, Bool[np.ndarray, " k"]]
    properties: Mapping[str, Real[np.ndarray, " k"]]


@in_style
def group_scatter(networks: Mapping[str, GroupedChannels], logarithmic: Sequence[str] = ()) -> Figure:
    """Properties of channels against their selectivity, a dot each, coloured by group: a row per property, a column per network.

    Args:
      networks: column -> its channels. All have the same properties.
      logarithmic: the properties with a logarithmic scale (linear around 0).
    """
    names = list(next(iter(networks.values())).properties)
    figure = Figure(figsize=(FULL_WIDTH, 1.35 * len(names) + 0.6), layout="constrained")
    grid = figure.subplots(len(names), len(networks), sharex=True, sharey="row", squeeze=False)
    for row, name in zip(grid, names, strict=True):
        for axes, network in zip(row, networks.values(), strict=True):
            values = network.properties[name]
            for group, members in network.groups.items():
                shown = members & np.isfinite(values) & np.isfinite(network.logits)
                dots = {"s": 6, "alpha": 0.6, "linewidth": 0, "color": GROUP_COLOURS[group], "label": group}
                axes.scatter(network.logits[shown], values[shown], **dots)
            if not finite(values).size:
                no_data(axes)
        if name in logarithmic:
            row[0].set_yscale("symlog", linthresh=1)
            row[0].yaxis.set_major_formatter(ticker.FuncFormatter(lambda height, _: f"{height:g}"))
        row[0].set_ylabel(textwrap.fill(name, 22), fontsize=7)
    for axes, title in zip(grid[0], networks, strict=True):
        axes.set_title(title, weight="bold")
    logits = finite(np.concatenate([network.logits for network in networks.values()]))
    if logits.size:
        grid[0, 0].set_xlim(logits.min() - 0.3, logits.max() + 0.3)
        ratio_axis(grid[0, 0])
    figure.align_ylabels(grid[:, 0])
    figure.supxlabel("participation ratio over images, on the scale of its logit", fontsize=8)
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper right", ncols=2, markerscale=2)
    return figure


@in_style
def marginal_densities(
    edges: Real[np.ndarray, " bins1"], networks: Mapping[str, Mapping[str, Real[np.ndarray, " bins"]]]
) -> Figure:
    """Distributions over images of phi_c, each channel at mean 0 and deviation 1, averaged over the channels of each group.

    Args:
      edges: of the bins, in deviations.
      networks: panel -> group -> density in each bin; NaN for a group without channels.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.4), layout="constrained")
    row = figure.subplots(1, len(networks), sharey=True, squeeze=False)[0]
    centres = (edges[1:] + edges[:-1]) / 2
    for axes, (name, groups) in zip(row, networks.items(), strict=True):
        for group, density in groups.items():
            axes.stairs(np.where(density > 0, density, np.nan), edges, color=GROUP_COLOURS[group], label=group)
        gaussian = np.exp(-(centres**2) / 2) / np.sqrt(2 * np.pi)
        axes.plot(centres, gaussian, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), label="Gaussian")
        log_axis(axes.yaxis)
        axes.set(ylim=(1e-5, 2), xlim=(edges[0], edges[-1]))
        axes.set_title(name, weight="bold")
    row[0].set_ylabel("density")
    figure.supxlabel("(φ_c − mean) / deviation over images", fontsize=8)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", ncols=3)
    return figure


@in_style
def likeness_histograms(
    spaces: Mapping[str, Mapping[str, Real[np.ndarray, " _"]]],
    medians: Mapping[str, Mapping[str, float | None]],
    beyond: Mapping[str, float],
) -> Figure:
    """How alike each channel's top images are, against random sets: one panel per space, one row of dots per group of channels.

    Args:
      spaces: panel -> row -> (likeness - mean of random sets) / their deviation, one per channel.
      medians: panel -> row -> median of these (a bar); None without any.
      beyond: panel -> the 95th percentile of the random sets on that scale (a dashed line).
    """
    rows = list(next(iter(spaces.values())))
    figure = Figure(figsize=(FULL_WIDTH, 0.7 + 0.36 * len(rows)), layout="constrained")
    grid = figure.subplots(1, len(spaces), sharey=True, squeeze=False)[0]
    for axes, (space, by_row) in zip(grid, spaces.items(), strict=True):
        for place, name in enumerate(rows):
            values = finite(by_row[name])
            spread = place - 0.25 + 0.5 * (np.arange(values.size) * 0.618034 % 1)
            axes.plot(values, spread, ".", color=ORANGE, alpha=0.7, markersize=4, markeredgewidth=0)
            if medians[space][name] is not None:
                axes.vlines(medians[space][name], place - 0.32, place + 0.32, color=INK, linewidth=1.4)
        axes.axvline(beyond[space], color=GREY, linewidth=1, linestyle=(0, (4, 3)))
        axes.axvline(0, color=GREY, linewidth=0.6)
        axes.set_title(textwrap.fill(space, 12), weight="bold")
        axes.set_xscale("symlog", linthresh=5)
        axes.xaxis.set_major_locator(ticker.FixedLocator((-5, 0, 5, 10, 50, 100)))
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda position, _: f"{position:g}"))
        axes.xaxis.set_minor_locator(ticker.NullLocator())
    grid[0].set_yticks(range(len(rows)), rows)
    grid[0].set_ylim(len(rows) - 0.5, -0.5)
    figure.supxlabel("likeness of a channel's top images: deviations from random sets", fontsize=8)
    return figure


@in_style
def channels_of_images(
    images: Real[np.ndarray, "m h w c"],
    maps: Sequence[Real[np.ndarray, "_ h2 w2"]],
    top: Sequence[Real[np.ndarray, "_ k h w c"]],
    headings: Sequence[Sequence[str]],
    notes: Sequence[Sequence[str]],
) -> Figure:
    """Images, their channels with where each fires, and the images that excite that channel most (the paper, figure 5).

    A block of rows for each image, one for each of its channels: the image itself, the channel's activation map laid over it
    (interpolated between the map's own places, from 0, dark, to its maximum, light), then the channel's top images.

    Args:
      images: float in [0, 1] or uint8.
      maps: activations of each image's channels, at least 0, at the network's own resolution.
      top: top images of these channels.
      headings, notes: a few words for every row of every image.
    """
    rows, words = [], []
    for place, image in enumerate(images):
        for rank in range(len(maps[place])):
            first = as_colour(image) if rank == 0 else np.full((*image.shape[:2], 3), np.nan)
            tiles = [first, activation_overlay(image, maps[place][rank])]
            rows.append(np.stack([*tiles, *(as_colour(other) for other in top[place][rank])]))
            words.append((headings[place][rank], notes[place][rank]))
    return draw_tiles(rows, [heading for heading, _ in words], [note for _, note in words])


def as_colour(image: np.ndarray) -> np.ndarray:
    """Float in [0, 1] with three colours."""
    shown = shown_image(image)
    return np.repeat(shown[..., None], 3, axis=-1) if shown.ndim == 2 else shown


def activation_overlay(image: np.ndarray, activation: np.ndarray) -> np.ndarray:
    """The image in grey under a map in colour, from dark at 0 to light at the map's maximum, [h w 3] in [0, 1]."""
    fine = interpolated(activation, *image.shape[:2])
    heat = colormaps["inferno"](fine / max(float(fine.max()), 1e-12))[..., :3]
    return 0.35 * as_colour(image).mean(-1, keepdims=True) + 0.65 * heat


def interpolated(coarse: np.ndarray, height: int, width: int) -> np.ndarray:
    """[h2 w2] -> [h w], linearly between the centres of its places, constant beyond the outer ones."""

    def weights(places: int, size: int) -> np.ndarray:
        centres = np.clip((np.arange(size) + 0.5) * places / size - 0.5, 0, places - 1)
        return np.clip(1 - np.abs(centres[:, None] - np.arange(places)), 0, None)

    return weights(coarse.shape[0], height) @ coarse @ weights(coarse.shape[1], width).T
