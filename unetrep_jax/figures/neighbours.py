"""How much nearest images have in common, against the noise level; the paper's figure 7 shows the images alone."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Real
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from unetrep_jax.figures.style import FULL_WIDTH, GREY, NOISE_LABEL, draw_series, in_style, noise_axis


class Panel(NamedTuple):
    """Shares against the noise level, and shares that have none.

    Attributes:
      lines: name -> (low, mid, high) at every noise level; names in the same order in every panel.
      references: name -> a share, drawn as a horizontal line.
      ylabel: what is shared.
    """

    lines: Mapping[str, Real[np.ndarray, "levels 3"]]
    references: Mapping[str, float]
    ylabel: str


@in_style
def by_noise(sigmas: Real[np.ndarray, " levels"], panels: Mapping[str, Panel]) -> Figure:
    """Shares in per cent against the noise level, a panel for each group of images, all from 0.

    Args:
      sigmas: noise levels, intensity units.
      panels: title -> lines and references.
    """
    width = FULL_WIDTH if len(panels) > 1 else FULL_WIDTH / 2
    figure = Figure(figsize=(width, 3.2), layout="constrained")
    dashes = dict(
        zip(dict.fromkeys(name for panel in panels.values() for name in panel.references), _DASHES, strict=False)
    )
    keys = {}
    row = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, panel) in zip(row, panels.items(), strict=True):
        draw_series(axes, 255 * sigmas, panel.lines)
        noise_axis(axes, sigmas)
        for name, value in panel.references.items():
            axes.axhline(value, color=GREY, linewidth=1, linestyle=(0, dashes[name]), label=name)
        axes.set(title=title, ylabel=panel.ylabel)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
        keys |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    row[len(row) // 2].set_xlabel(NOISE_LABEL)
    figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=3 if len(panels) > 1 else 1)
    return figure


_DASHES = ((5, 2), (2, 2), (1, 1.5), (6, 2, 1, 2))
