"""What emerges along training: quantities against training images seen."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from jaxtyping import Real
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unetrep_jax.figures.style import FULL_WIDTH, GREY, LINES, draw_series, few_ticks, in_style


class Panel(NamedTuple):
    """One quantity along training.

    Attributes:
      label: what it is, with its unit.
      lines: name -> (images seen [m], values [m] or (low, mid, high) [m 3]); runs may have different milestones.
      references: name -> value of a horizontal line: dashed, dotted.
      percent: whether values are shares of 1, shown as percentages.
    """

    label: str
    lines: Mapping[str, tuple[Real[np.ndarray, " m"], Real[np.ndarray, "m"] | Real[np.ndarray, "m 3"]]]
    references: Mapping[str, float] = MappingProxyType({})
    percent: bool = False


@in_style
def emergence(panels: Sequence[Panel], *, one_legend: bool = False) -> Figure:
    """Panels in rows of two: quantities against training images seen, logarithmic from the first milestone on, linear before.

    Args:
      panels: what is drawn.
      one_legend: one legend above all panels, whose lines of one name are alike; else each panel has its own.
    """
    height = -(-len(panels) // 2)
    figure = Figure(figsize=(FULL_WIDTH, 2.5 * height + 0.4 * one_legend), layout="constrained")
    grid = figure.subplots(height, 2, squeeze=False).ravel()
    for axes, panel in zip(grid, panels, strict=False):
        _draw(axes, panel)
        handles, _ = axes.get_legend_handles_labels()
        if handles and not one_legend:
            axes.legend(fontsize=6, ncols=1 + (len(handles) > 3), handlelength=1.6, columnspacing=1.0)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if one_legend:
        pairs = (zip(*axes.get_legend_handles_labels(), strict=True) for axes in grid)
        named = {name: handle for pair in pairs for handle, name in pair}
        figure.legend(named.values(), named.keys(), loc="outside upper left", ncols=2)
    return figure


def _draw(axes: Axes, panel: Panel) -> None:
    seen = {name: images for name, (images, _) in panel.lines.items()}
    draw_series(axes, seen, {name: values for name, (_, values) in panel.lines.items()})
    for (name, value), dashes in zip(panel.references.items(), LINES[1:], strict=False):
        axes.axhline(value, color=GREY, linestyle=dashes, linewidth=1, label=name)
    positive = np.concatenate([np.zeros(0), *(images[images > 0] for images in seen.values())])
    if positive.size:
        first, last = positive.min(), positive.max()
        axes.set_xscale("symlog", linthresh=first, linscale=0.4)
        axes.set_xlim(0, 1.4 * last)
        axes.xaxis.set_major_locator(ticker.FixedLocator([0, *few_ticks(first, last, least=2)]))
    axes.xaxis.set_major_formatter(ticker.EngFormatter(sep="\u2009"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    if panel.percent:
        axes.yaxis.set_major_formatter(ticker.PercentFormatter(1))
    axes.set(xlabel="training images seen", ylabel=panel.label)
