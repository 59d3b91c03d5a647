"""Figures: arrays in, a matplotlib `Figure` out, in one style; nothing is computed that is not needed to draw.

Every function takes finished numbers and returns a `Figure` that belongs to nobody: no pyplot, no window, no global
state. `save` writes it as PNG and PDF with the same bytes every time. A NaN is a value that is not there: it is left
out, and a panel with nothing else says "no data". Noise levels are given in intensity units (images in [0, 1]) and
drawn as 255 sigma, which is how the denoising literature quotes them.

"The paper" is Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912).
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

import matplotlib.style
import numpy as np
from jaxtyping import Real
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unetrep_jax import storage

DPI = 200
FULL_WIDTH = 7.0  # inches: two columns of a paper; one column is half of it
# Okabe & Ito's palette, which readers with any colour vision tell apart, without its yellow (too pale for lines).
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
INK, GREY, FAINT = "#222222", "#7f7f7f", "#e4e4e4"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib, so the bytes do not depend on the machine's fonts
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "legend.fontsize": 7.5,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.2,
    "legend.frameon": False,
    "pdf.fonttype": 42,  # text stays text that journals accept and readers can search
}
_in_style = matplotlib.style.context(["default", STYLE])  # as a decorator: whatever the user's matplotlibrc says
_NOISE_LABEL = "noise level σ (in units of 1/255)"


@_in_style
def save(figure: Figure, folder: Path | str, name: str) -> Path:
    """Writes `<folder>/<name>.png` (200 dpi) and `<folder>/<name>.pdf`, atomically; equal figures give equal bytes.

    Returns:
      The path of the PNG.
    """
    unsigned = {"png": {"Software": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    for kind, metadata in unsigned.items():
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=DPI, metadata=metadata)
        storage.write_atomically(Path(folder) / f"{name}.{kind}", content.getvalue())
    return Path(folder) / f"{name}.png"


def _finite(values: np.ndarray) -> np.ndarray:
    return np.ravel(values)[np.isfinite(np.ravel(values))]


def _no_data(axes: Axes) -> None:
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=GREY, style="italic")


@_in_style
def participation_ratio_histograms(
    trained: Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]],
    untrained: Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]],
    *,
    levels_text: str,
) -> Figure:
    """Distributions over images of the participation ratio at every block's input and output (the paper, figure 1).

    One column per block of `trained`, in its order; the trained network above, the untrained one below, on the same
    axes. Dashed lines, and the numbers above each panel (input → output), are the medians.

    Args:
      trained: block name -> (ratios of its input, ratios of its output), one per image, each in (0, 1].
      untrained: the same for a network of the same shape with its initial weights.
      levels_text: what the network saw, for the axis label: "σ = 100/255, 5,050 images".
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.4), layout="constrained")
    grid = figure.subplots(2, len(trained), sharex=True, sharey="row", squeeze=False)
    nothing = (np.empty(0), np.empty(0))
    for row, (name, blocks) in zip(grid, {"trained": trained, "untrained": untrained}.items(), strict=True):
        for axes, block in zip(row, trained, strict=True):
            _input_and_output(axes, *blocks.get(block, nothing))
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


def _input_and_output(axes: Axes, *ends: np.ndarray) -> None:
    medians = []
    for values, (name, colour) in zip(map(_finite, ends), _END_COLOURS.items(), strict=True):
        medians.append(f"{np.median(values):.2f}" if values.size else "–")
        if values.size:
            weights = np.full(values.size, 1 / values.size)
            axes.hist(values, _RATIO_EDGES, weights=weights, histtype="stepfilled", color=colour, alpha=0.6, label=name)
            axes.axvline(np.median(values), color=colour, linewidth=1, linestyle=(0, (3, 2)), label=f"median {name}")
    if medians == ["–", "–"]:
        _no_data(axes)
    else:
        axes.text(0.5, 1.03, " → ".join(medians), transform=axes.transAxes, ha="center", fontsize=7.5)


@_in_style
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
        _draw_series(axes, 255 * sigmas, both, (VERMILION, GREY))
        _noise_axis(axes, sigmas)
        axes.set_title(block, weight="bold")
        axes.label_outer(remove_inner_ticks=True)
    row[0].set(ylim=(0, 1), ylabel="participation ratio")
    figure.supxlabel(_NOISE_LABEL, fontsize=8)
    figure.legend(*row[0].get_legend_handles_labels(), loc="outside upper right", ncols=2)
    return figure


def _noise_axis(axes: Axes, sigmas: np.ndarray) -> None:
    """Makes x a logarithmic axis of 255 sigma, linear from 0 to the smallest positive level when 0 is one."""
    levels = 255 * _finite(sigmas)
    positive = levels[levels > 0]
    if positive.size == 0:
        return
    if positive.size == levels.size:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
    decades = [tick for tick in (0.1, 1, 10, 100, 1000) if positive.min() <= tick <= positive.max()]
    ticks = [*sorted({0} & set(levels)), *decades]
    axes.xaxis.set_major_locator(ticker.FixedLocator(ticks if len(ticks) > 1 else np.unique(levels)))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda level, _: f"{level:.3g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def _draw_series(axes: Axes, x: np.ndarray, series: Mapping[str, np.ndarray], colours: Sequence[str] = COLOURS) -> None:
    """One line each, with a band where a series brings (low, mid, high); the more points, the smaller the markers."""
    size = min(3.2, 40 / max(1, len(x)))
    for (name, values), colour, marker in zip(series.items(), cycle(colours), cycle(MARKERS), strict=False):
        low, mid, high = (values, values, values) if values.ndim == 1 else values.T
        axes.plot(x, mid, color=colour, marker=marker, markersize=size, label=name)
        if values.ndim == 2:
            axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    if not any(_finite(values).size for values in series.values()):
        _no_data(axes)


def _legend_beside(figure: Figure, axes: Axes) -> None:
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


@_in_style
def curves(
    x: Real[np.ndarray, " n"],
    series: Mapping[str, Real[np.ndarray, " n"] | Real[np.ndarray, "n 3"]],
    *,
    xlabel: str,
    ylabel: str,
    log_x: bool = False,
    log_y: bool = False,
    reference: tuple[str, float] | None = None,
) -> Figure:
    """Any quantities against one: a line each, and a band for those that bring one.

    Args:
      x: positions, in the order in which the lines go through them.
      series: name -> values, or (low, mid, high) for a line with a band.
      xlabel: what x is, with its unit.
      ylabel: what the series are, with their unit.
      log_x, log_y: logarithmic axes; positions that are not positive are then left out.
      reference: (name, value) of a dashed horizontal line, such as the value for chance.
    """
    figure = Figure(figsize=(5.4, 2.9), layout="constrained")
    axes = figure.subplots()
    _draw_series(axes, np.where(x > 0, x, np.nan) if log_x else x, series)
    if reference is not None:
        axes.axhline(reference[1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=reference[0])
    if log_x:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda position, _: f"{position:g}"))
    if log_y:
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _legend_beside(figure, axes)
    return figure


@_in_style
def denoising_curve(
    sigmas: Real[np.ndarray, " levels"],
    input_psnr: Real[np.ndarray, " levels"],
    series: Mapping[str, Real[np.ndarray, " levels"] | Real[np.ndarray, "levels 3"]],
) -> Figure:
    """How well denoisers do: output PSNR against the noisy input's (left), and the difference of the two (right).

    Above the dashed identity line, and above 0 on the right, denoising helped. The upper axis names the noise levels.

    Args:
      sigmas: noise levels, intensity units.
      input_psnr: PSNR of the noisy images at these levels, dB; levels where it is infinite (sigma = 0) are left out.
      series: denoiser -> PSNR of its output at these levels, or (low, mid, high), dB.
    """
    figure = Figure(figsize=(FULL_WIDTH, 3.0), layout="constrained")
    panels = figure.subplots(1, 2)
    shown = np.isfinite(input_psnr)
    x = input_psnr[shown]
    outputs = {name: values[shown] for name, values in series.items()}
    gains = {name: values - x.reshape(-1, *[1] * (values.ndim - 1)) for name, values in outputs.items()}
    labels = ("output PSNR (dB)", "output − input PSNR (dB)")
    for axes, drawn, label in zip(panels, (outputs, gains), labels, strict=True):
        _draw_series(axes, x, drawn)
        axes.set(xlabel="input PSNR (dB)", ylabel=label)
        _noise_axis_above(axes, x, sigmas[shown])
    identity = {"color": GREY, "linestyle": (0, (4, 3)), "linewidth": 1, "zorder": 1}
    if x.size:
        panels[0].plot([x.min(), x.max()], [x.min(), x.max()], **identity, label="noisy input")
    panels[1].axhline(0, **identity)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def _noise_axis_above(axes: Axes, positions: np.ndarray, sigmas: np.ndarray) -> None:
    """An upper axis that names noise levels at their positions, as many as have room."""
    named = []
    for i in np.argsort(positions):
        if not named or positions[i] - positions[named[-1]] >= 0.08 * np.ptp(positions):
            named.append(i)
    above = axes.secondary_xaxis("top")
    above.set_xticks(positions[named], [f"{255 * sigmas[i]:.{0 if 255 * sigmas[i] > 9.5 else 1}f}" for i in named])
    above.set_xlabel(_NOISE_LABEL)


def _shown_image(image: np.ndarray) -> np.ndarray:
    """As `imshow` takes it: float in [0, 1], without the channel axis when grey."""
    intensities = image / 255 if image.dtype == np.uint8 else np.nan_to_num(image.astype(np.float64))
    return np.clip(intensities[..., 0] if image.shape[-1] == 1 else intensities, 0, 1)


def _draw_tiles(
    rows: Sequence[np.ndarray],
    headings: Sequence[str],
    notes: Sequence[str],
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Rows of images, every image pixel a whole number of PNG pixels, with words left of each row and below each tile.

    A tile that is NaN throughout stays empty.
    """
    columns, height, width = rows[0].shape[:3]
    zoom = max(1, round(150 / width))
    notes = ["\n".join(textwrap.fill(line, 24) for line in note.split("\n")) for note in notes]
    longest = max(len(line) for text in (*headings, *notes) for line in text.split("\n"))
    left, gap, below = 24 + 14 * longest, 8, 30 if captions else 0
    across, down = zoom * width + gap, zoom * height + gap + below
    size = np.array([left + columns * across, gap + len(rows) * down])
    figure = Figure(figsize=tuple(size / DPI))
    axes = figure.add_axes((0, 0, 1, 1))
    for i, row in enumerate(rows):
        top = gap + i * down
        axes.text(gap, top, headings[i], weight="bold", va="top")
        axes.text(gap, top + 28, notes[i], va="top", fontsize=7.5)
        for j, image in enumerate(row):
            if np.all(np.isnan(image)):
                continue
            box = (left + j * across, left + j * across + zoom * width, top + zoom * height, top)
            axes.imshow(_shown_image(image), "gray", aspect="auto", interpolation="nearest", vmin=0, vmax=1, extent=box)
            if captions:
                axes.text((box[0] + box[1]) / 2, box[2] + 3, captions[i][j], ha="center", va="top", fontsize=6.5)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    return figure


@_in_style
def image_rows(
    rows: Sequence[Real[np.ndarray, "_ h w c"]],
    headings: Sequence[str],
    notes: Sequence[str] | None = None,
    captions: Sequence[Sequence[str]] | None = None,
) -> Figure:
    """Rows of images, pixels as they are, with a heading left of each row.

    Args:
      rows: images, float in [0, 1] or uint8; what lies outside the range is clipped for display only; NaN leaves a gap.
      headings: a few words for each row, in bold.
      notes: a few more words below each heading.
      captions: a few words below each image.
    """
    return _draw_tiles(rows, headings, [""] * len(rows) if notes is None else notes, captions)


@_in_style
def denoising_strip(
    clean: Real[np.ndarray, "m h w c"],
    noisy: Real[np.ndarray, "levels m h w c"],
    denoised: Real[np.ndarray, "levels m h w c"],
    sigmas: Real[np.ndarray, " levels"],
    *,
    noisy_psnr: Real[np.ndarray, "levels m"] | None = None,
    denoised_psnr: Real[np.ndarray, "levels m"] | None = None,
) -> Figure:
    """A column per image: clean in the first row, then noisy and denoised at every noise level, pixels as they are.

    Args:
      clean: images, float in [0, 1] or uint8; what lies outside the range is clipped for display only.
      noisy: the same images with noise added, level by level.
      denoised: what the denoiser made of them.
      sigmas: noise levels, intensity units.
      noisy_psnr: PSNR of each noisy image, dB, written below it; give both or neither.
      denoised_psnr: PSNR of each denoised image, dB.
    """
    rows, headings, notes, captions = [clean], ["clean"], [""], [[""] * len(clean)]
    for level, sigma in enumerate(sigmas):
        rows += [noisy[level], denoised[level]]
        headings += ["noisy", "denoised"]
        notes += [f"σ = {255 * sigma:.3g}/255"] * 2
        if noisy_psnr is not None and denoised_psnr is not None:
            captions += [[f"{psnr:.1f} dB" for psnr in row] for row in (noisy_psnr[level], denoised_psnr[level])]
    return _draw_tiles(rows, headings, notes, captions if len(captions) == len(rows) else None)


@_in_style
def cluster_grid(
    images: Real[np.ndarray, "rows per_row h w c"],
    ids: Sequence[int] | Real[np.ndarray, " rows"],
    titles: Sequence[str],
) -> Figure:
    """Example images of clusters, a row each (the paper, figure 8).

    Args:
      images: float in [0, 1] or uint8, colour or grey; an image that is NaN throughout is a free place.
      ids: the clusters' numbers, written left of the rows.
      titles: a few words for each row, such as its size and its most frequent label.
    """
    return _draw_tiles(list(images), [f"cluster {number}" for number in ids], titles)


@_in_style
def separation_scatter(groups: Mapping[str, tuple[Real[np.ndarray, " _"], Real[np.ndarray, " _"]]]) -> Figure:
    """How far centroids are from their nearest, against how far their members spread on the line between the two.

    Lines mark distance / spread = 1, 2 and 4 (the paper, figure 8 of v1, figure 6 of v2). The groups share axes, so
    they must be of one representation.

    Args:
      groups: name -> (distances ||phi_1 - phi_2||, spreads along that direction), a pair of centroids each.
    """
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    pairs = {name: np.stack(pair, -1)[np.isfinite(np.stack(pair, -1)).all(-1)] for name, pair in groups.items()}
    for (name, pair), colour, marker in zip(pairs.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
        label = f"{name}\nn = {len(pair):,}"
        axes.scatter(pair[:, 1], pair[:, 0], s=14, color=colour, marker=marker, alpha=0.6, linewidth=0, label=label)
    axes.set(xlabel="spread along the line between the two", ylabel="distance to the nearest centroid")
    everything = np.concatenate([*pairs.values(), np.empty((0, 2))])
    if everything.size:
        _ratio_lines(axes, *(1.06 * everything.max(0) + 1e-12))
    else:
        _no_data(axes)
    _legend_beside(figure, axes)
    return figure


def _ratio_lines(axes: Axes, top: float, right: float) -> None:
    """Lines from the origin to the frame; each says its ratio where it leaves."""
    for ratio in (1, 2, 4):
        x = min(right, top / ratio)
        axes.plot([0, x], [0, ratio * x], color=GREY, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        at_top = x < right
        axes.annotate(
            f"ratio {ratio}", (x, ratio * x), (0, 3) if at_top else (3, 0), textcoords="offset points", color="#555555",
            ha="center" if at_top else "left", va="bottom" if at_top else "center", fontsize=7.5, annotation_clip=False,
        )  # fmt: skip
    axes.set(xlim=(0, right), ylim=(0, top))


@_in_style
def separation_histograms(groups: Mapping[str, Real[np.ndarray, " _"]]) -> Figure:
    """Distributions of separation ratios side by side: every value (dots), 5 to 95 % (line), quartiles (bar), median.

    Args:
      groups: name -> ratios of distance to spread, one per centroid: clusters, label classes, and their nulls.
    """
    figure = Figure(figsize=(5.4, 0.75 + 0.42 * len(groups)), layout="constrained")
    axes = figure.subplots()
    for row, (ratios, colour) in enumerate(zip(groups.values(), cycle(COLOURS), strict=False)):
        _draw_distribution(axes, row, _finite(ratios), colour)
    counts = {name: _finite(ratios).size for name, ratios in groups.items()}
    axes.set_yticks(range(len(groups)), [f"{name}\nn = {count:,}" for name, count in counts.items()])
    axes.set(ylim=(len(groups) - 0.5, -0.5), xlabel="separation ratio: distance / spread")
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    return figure


def _draw_distribution(axes: Axes, row: int, values: np.ndarray, colour: str) -> None:
    if values.size == 0:
        axes.text(0.02, row, "no data", transform=axes.get_yaxis_transform(), va="center", color=GREY, style="italic")
        return
    low, first, median, third, high = np.quantile(values, (0.05, 0.25, 0.5, 0.75, 0.95))
    spread_out = row + 0.18 + 0.2 * (np.arange(values.size) * 0.618034 % 1)  # golden ratio: even without chance
    axes.plot(values, spread_out, ".", color=colour, alpha=0.35, markersize=2.5, markeredgewidth=0)
    axes.hlines(row, low, high, color=colour, linewidth=1)
    axes.hlines(row, first, third, color=colour, linewidth=5, alpha=0.55)
    axes.plot([median], [row], "|", color=INK, markersize=9, markeredgewidth=1.6, label="median")
    axes.annotate(f"{median:.2f}", (median, row), (0, 6), textcoords="offset points", ha="center", fontsize=7.5)


@_in_style
def training_curves(
    images_seen: Real[np.ndarray, " n"],
    loss: Real[np.ndarray, " n"],
    eval_images_seen: Real[np.ndarray, " k"],
    eval_psnr: Real[np.ndarray, "k levels"],
    sigmas: Real[np.ndarray, " levels"],
) -> Figure:
    """A run: its training loss (left) and its PSNR on fixed held-out images at several noise levels (right).

    Args:
      images_seen: training images so far, where the loss was recorded.
      loss: squared error summed over an image's pixels, averaged over images.
      eval_images_seen: training images so far, at every evaluation.
      eval_psnr: PSNR at every evaluation and noise level, dB.
      sigmas: noise levels, intensity units.
    """
    figure = Figure(figsize=(FULL_WIDTH, 2.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot(images_seen, loss, color=BLUE, linewidth=0.6, label="loss")
    left.set(ylabel="training loss, per image")
    if _finite(loss).size:
        left.set_yscale("log")
        left.yaxis.set_minor_formatter(ticker.LogFormatter())
        left.yaxis.set_major_formatter(ticker.LogFormatter())
    else:
        _no_data(left)
    colours = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.9, 0, len(sigmas)))]
    names = [f"{255 * sigma:.3g}" for sigma in sigmas]
    _draw_series(right, eval_images_seen, dict(zip(names, eval_psnr.T, strict=True)), colours)
    right.set(ylabel="PSNR of held-out images (dB)")
    for axes in (left, right):
        axes.set_xlabel("training images seen")
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep="\u2009"))
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", title="σ (in 1/255)")
    return figure
