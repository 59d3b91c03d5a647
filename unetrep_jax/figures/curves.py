"""Lines: any quantity against another, denoising against the noise level, a training run."""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Real
from matplotlib import colormaps, ticker
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from unetrep_jax.figures.style import (
    BLUE,
    FULL_WIDTH,
    GREY,
    NOISE_LABEL,
    draw_series,
    finite,
    in_style,
    legend_beside,
    log_axis,
    no_data,
)


@in_style
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
    draw_series(axes, np.where(x > 0, x, np.nan) if log_x else x, series)
    if reference is not None:
        axes.axhline(reference[1], color=GREY, linestyle=(0, (4, 3)), linewidth=1, label=reference[0])
    if log_x:
        log_axis(axes.xaxis)
    if log_y:
        log_axis(axes.yaxis)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    legend_beside(figure, axes)
    return figure


@in_style
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
        draw_series(axes, x, drawn)
        axes.set(xlabel="input PSNR (dB)", ylabel=label)
        noise_axis_above(axes, x, sigmas[shown])
    identity = {"color": GREY, "linestyle": (0, (4, 3)), "linewidth": 1, "zorder": 1}
    if x.size:
        panels[0].plot([x.min(), x.max()], [x.min(), x.max()], **identity, label="noisy input")
    panels[1].axhline(0, **identity)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper left", ncols=4)
    return figure


def noise_axis_above(axes: Axes, positions: np.ndarray, sigmas: np.ndarray) -> None:
    """An upper axis that names noise levels at their positions, as many as have room."""
    named = []
    for i in np.argsort(positions):
        if not named or positions[i] - positions[named[-1]] >= 0.08 * np.ptp(positions):
            named.append(i)
    above = axes.secondary_xaxis("top")
    above.set_xticks(positions[named], [f"{255 * sigmas[i]:.{0 if 255 * sigmas[i] > 9.5 else 1}f}" for i in named])
    above.set_xlabel(NOISE_LABEL)


@in_style
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
    if finite(loss).size:
        log_axis(left.yaxis)
    else:
        no_data(left)
    colours = [to_hex(colour) for colour in colormaps["viridis"](np.linspace(0.9, 0, len(sigmas)))]
    names = [f"{255 * sigma:.3g}" for sigma in sigmas]
    draw_series(right, eval_images_seen, dict(zip(names, eval_psnr.T, strict=True)), colours)
    right.set(ylabel="PSNR of held-out images (dB)")
    for axes in (left, right):
        axes.set_xlabel("training images seen")
        axes.xaxis.set_major_formatter(ticker.EngFormatter(sep="\u2009"))
    figure.legend(*right.get_legend_handles_labels(), loc="outside right upper", title="σ (in 1/255)")
    return figure
