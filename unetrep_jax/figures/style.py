"""The one style of all figures, saving them, and what several kinds of figure draw alike."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.style
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from unetrep_jax import storage

DPI = 200
FULL_WIDTH = 7.0  # inches: two columns of a paper; one column is half of it
# Okabe & Ito's palette, which readers with any colour vision tell apart, without its yellow (too pale for lines).
BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
INK, GREY, FAINT = "#222222", "#7f7f7f", "#e4e4e4"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK)
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
LINES = ("-", (0, (4, 2)), (0, (1, 1.5)))
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
    "svg.fonttype": "path",
    "svg.hashsalt": "unetrep_jax",  # names inside do not depend on the time
}
in_style = matplotlib.style.context(["default", STYLE])  # as a decorator: whatever the user's matplotlibrc says
# Formats of files, each without what would make two writings differ: dates and versions.
FORMATS = {
    "png": {"Software": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "svg": {"Date": None, "Creator": None},
}
NOISE_LABEL = "noise level σ (in units of 1/255)"


@in_style
def save(figure: Figure, folder: Path | str, name: str, formats: Sequence[str] = ("png", "pdf")) -> Path:
    """Writes `<folder>/<name>.<format>`, atomically (PNG at 200 dpi); equal figures give equal bytes.

    The layout stays as it was found for the first. Files of this name in formats that were not asked for are removed.

    Args:
      figure: what to write.
      folder: where to; made where it is missing.
      name: the files' name, without its ending.
      formats: some of `FORMATS`.

    Returns:
      The path of the PNG.
    """
    for kind in formats:
        content = io.BytesIO()
        figure.savefig(content, format=kind, dpi=DPI, metadata=FORMATS[kind])
        figure.set_layout_engine(None)  # laid out once for all: what "none" leaves in its place costs a drawing more
        storage.write_atomically(Path(folder) / f"{name}.{kind}", content.getvalue())
    for kind in set(FORMATS) - set(formats):
        (Path(folder) / f"{name}.{kind}").unlink(missing_ok=True)
    return Path(folder) / f"{name}.png"


def finite(values: np.ndarray) -> np.ndarray:
    """The finite values, flat."""
    return np.ravel(values)[np.isfinite(np.ravel(values))]


def no_data(axes: Axes) -> None:
    """Says so in an empty panel."""
    axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color=GREY, style="italic")


def log_axis(axis: Axis) -> None:
    """Makes an axis logarithmic, with ticks whose labels stay apart (`few_ticks`) whatever range it comes to show."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(_FewTicks())
    axis.set_major_formatter(_PlainOrPower())
    axis.set_minor_formatter(ticker.NullFormatter())


def few_ticks(low: float | int | np.number, high: float | int | np.number, least: int = 3) -> np.ndarray:
    """Round positions in [low, high], both above 0, for a logarithmic axis.

    Powers of ten, at most five of them, where `least` are inside; else 1 and 3, else 1, 2 and 5 times them; else, where that leaves
    less than two, positions that are evenly spaced. `low` alone where `high` is no higher.
    """
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = _within(np.outer(powers, steps).ravel(), low, high)
        if len(ticks) >= least:
            return ticks[:: -(-len(ticks) // 5)]
    if len(ticks) >= 2:
        return ticks
    return _within(ticker.MaxNLocator(3).tick_values(low, high), low, high) if low < high else np.array([float(low)])


def _within(ticks: np.ndarray, low: float | int | np.number, high: float | int | np.number) -> np.ndarray:
    # Round noise levels in single precision are off by up to 1e-7 of themselves.
    return ticks[(ticks >= low * (1 - 1e-6)) & (ticks <= high * (1 + 1e-6))]


class _FewTicks(ticker.LogLocator):
    """`few_ticks` of the range that the axis shows when it is drawn."""

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        """Where the ticks are on an axis from `vmin` to `vmax`, in either order."""
        return few_ticks(*sorted((vmin, vmax)))


class _PlainOrPower(ticker.Formatter):
    """Labels 0.5, 1 and 20 where all ticks of the axis are from 0.01 to below 10,000, else 5 × 10^-1, 10^0 and 2 × 10^1."""

    def format_ticks(self, values: np.ndarray | Sequence[float]) -> list[str]:
        """The labels of all ticks of the axis."""
        plain = all(0.01 <= value < 10_000 for value in values)
        return [f"{value:g}" if plain else self.power(value) for value in values]

    @staticmethod
    def power(x: float) -> str:
        """A number by a power of ten, which stands alone where the factor is 1."""
        factor, exponent = f"{x:.2e}".split("e")
        times = "" if float(factor) == 1 else rf"{float(factor):g}\times"
        return rf"${times}10^{{{int(exponent)}}}$"


def noise_axis(axes: Axes, sigmas: np.ndarray) -> None:
    """Makes x a logarithmic axis of 255 sigma, linear from 0 to the smallest positive level when 0 is one."""
    levels = 255 * finite(sigmas)
    positive = levels[levels > 0]
    if positive.size == 0:
        return
    if positive.size == levels.size:
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=positive.min(), linscale=0.5)
    zero = [0] if positive.size < levels.size else []
    ticks = [*zero, *few_ticks(positive.min(), positive.max(), least=3 - len(zero))]
    axes.xaxis.set_major_locator(ticker.FixedLocator(ticks))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda level, _: f"{level:.3g}"))
    axes.xaxis.set_minor_locator(ticker.NullLocator())


def draw_series(
    axes: Axes,
    x: np.ndarray | Mapping[str, np.ndarray],
    series: Mapping[str, np.ndarray],
    colours: Sequence[str] = COLOURS,
) -> None:
    """One line each, with a band where a series brings (low, mid, high); the more points, the smaller the markers.

    `x` are the positions of all series, or each one's own. Where colours and markers begin again, lines are dashed, then dotted.
    """
    places = x if isinstance(x, Mapping) else dict.fromkeys(series, x)
    longest = max(map(len, places.values()), default=0)
    size, differ = min(3.2, 40 / max(1, longest)), math.lcm(len(colours), len(MARKERS))
    for place, (name, values) in enumerate(series.items()):
        colour, marker = colours[place % len(colours)], MARKERS[place % len(MARKERS)]
        low, mid, high = (values, values, values) if values.ndim == 1 else values.T
        dashes = LINES[place // differ % len(LINES)]
        axes.plot(places[name], mid, color=colour, marker=marker, markersize=size, linestyle=dashes, label=name)
        if values.ndim == 2:
            axes.fill_between(places[name], low, high, color=colour, alpha=0.2, linewidth=0)
    if not any(finite(values).size for values in series.values()):
        no_data(axes)


def legend_beside(figure: Figure, axes: Axes) -> None:
    """The legend right of the panel."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")
