"""The network, drawn from the shapes of its activations (the paper, figure 9)."""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from unetrep_jax.figures.style import FAINT, FULL_WIDTH, GREEN, GREY, INK, ORANGE, SKY, VERMILION, in_style

LABEL = 0.78  # inches: room for the words below a block
GAP = 0.2  # inches between blocks
BOXES = 3.0  # inches: all boxes side by side
TALLEST = 1.5  # inches


class DrawnBlock(NamedTuple):
    """A block as it is drawn.

    Attributes:
      name: the block's.
      channels: of each of its layers, in order.
      height: of its activations, in positions.
      width: of its activations.
      skip_from: the block whose output also comes in; empty for none.
    """

    name: str
    channels: tuple[int, ...]
    height: int
    width: int
    skip_from: str = ""


@in_style
def architecture(
    blocks: Sequence[DrawnBlock], *, image: tuple[int, int, int], read_from: str = "", read_channels: int = 0
) -> Figure:
    """The blocks in the order in which they run: a box for each layer, as wide as it has channels, as high as its resolution.

    Arrows between blocks say by what the resolution changes; arrows above are skip connections; phi is read off the last layer of
    one block.

    Args:
      blocks: those with activations.
      image: height, width and colours of the images.
      read_from: the block that phi is read from; empty for none.
      read_channels: the length of phi.
    """
    across = BOXES / max(1, sum(sum(block.channels) for block in blocks))
    up = TALLEST / max(image[0], *(block.height for block in blocks))
    columns = [max(LABEL, across * sum(block.channels)) + GAP for block in blocks]
    width, skips = sum(columns) + 1.3, sum(bool(block.skip_from) for block in blocks)
    top, bottom = TALLEST / 2 + 0.15 * skips + 0.15, TALLEST / 2 + 0.95
    figure = Figure(figsize=(max(FULL_WIDTH, width), top + bottom))
    axes = figure.add_axes((0, 0, 1, 1))
    left = (figure.get_figwidth() - sum(columns)) / 2
    places, start = {}, left
    for block, column in zip(blocks, columns, strict=True):
        places[block.name] = _block(axes, block, start + column / 2, across, up, block.name == read_from)
        start += column
    _between(axes, blocks, places, image, left, start)
    _skips(axes, blocks, places)
    if read_from in places:
        _reading(axes, places[read_from], across * blocks[list(places).index(read_from)].channels[-1], read_channels)
    axes.set(xlim=(0, figure.get_figwidth()), ylim=(-bottom, top))
    axes.set_axis_off()
    return figure


class _Place(NamedTuple):
    left: float
    right: float
    top: float


def _block(axes: Axes, block: DrawnBlock, centre: float, across: float, up: float, read: bool) -> _Place:
    """Its layers side by side, and words in one line below all blocks."""
    total, height = across * sum(block.channels), up * block.height
    left = x = centre - total / 2
    colour = VERMILION if read else ORANGE if block.skip_from else SKY
    for channels in block.channels:
        axes.add_patch(
            Rectangle((x, -height / 2), across * channels, height, facecolor=colour, edgecolor=INK, linewidth=0.4)
        )
        x += across * channels
    axes.text(centre, -TALLEST / 2 - 0.42, block.name, ha="center", va="top", weight="bold", fontsize=7.5)
    axes.text(centre, -TALLEST / 2 - 0.56, _words(block), ha="center", va="top", fontsize=6.5, linespacing=1.25)
    return _Place(left, left + total, height / 2)


def _words(block: DrawnBlock) -> str:
    layers = f"{len(block.channels)} layer{'s' * (len(block.channels) > 1)}"
    widths = sorted(set(block.channels))
    channels = f"{widths[0]}" if len(widths) == 1 else f"{widths[0]} to {widths[-1]}"
    return f"{layers}\n{channels} channel{'s' * (widths[-1] > 1)}\n{block.height}×{block.width}"


_ARROW = {"arrowstyle": "-|>", "color": GREY, "linewidth": 0.9, "shrinkA": 1.5, "shrinkB": 1.5, "mutation_scale": 7}


def _between(axes: Axes, blocks: Sequence[DrawnBlock], places: dict, image: tuple, left: float, right: float) -> None:
    """Arrows from the image through the blocks to the image, with the factors by which the height changes."""
    starts = [left - 0.1, *(places[block.name].right for block in blocks)]
    ends = [*(places[block.name].left for block in blocks), right + 0.1]
    heights = [image[0], *(block.height for block in blocks), image[0]]
    for start, end, (before, after) in zip(starts, ends, itertools.pairwise(heights), strict=True):
        axes.annotate("", (end, 0), (start, 0), arrowprops=_ARROW)
        if before != after:
            words = f"↓ {before / after:g}" if before > after else f"↑ {after / before:g}"
            axes.text((start + end) / 2, 0.05, words, ha="center", va="bottom", fontsize=7)
    size = f"{image[0]}×{image[1]}×{image[2]}"
    axes.text(starts[0], 0, f"noisy\n{size}", ha="right", va="center", fontsize=6.5)
    axes.text(ends[-1], 0, f"denoised\n{size}", ha="left", va="center", fontsize=6.5)


def _skips(axes: Axes, blocks: Sequence[DrawnBlock], places: dict) -> None:
    """Lines above the blocks, the inner ones below the outer ones."""
    names = [block.name for block in blocks]
    pairs = [(names.index(block.skip_from), names.index(block.name)) for block in blocks if block.skip_from in places]
    lane = 0.0
    for first, last in sorted(pairs, key=lambda pair: pair[1] - pair[0]):
        lane = max(lane, *(places[name].top for name in names[first : last + 1])) + 0.13
        ends = [(places[names[k]].left + places[names[k]].right) / 2 for k in (first, last)]
        tops = [places[names[k]].top for k in (first, last)]
        axes.plot([ends[0], ends[0], ends[1]], [tops[0], lane, lane], color=GREEN, linewidth=0.9)
        axes.annotate("", (ends[1], tops[1]), (ends[1], lane), arrowprops=_ARROW | {"color": GREEN, "shrinkA": 0})


def _reading(axes: Axes, place: _Place, width: float, channels: int) -> None:
    """An arrow down from the middle of the block's last layer."""
    x = place.right - width / 2
    axes.annotate("", (x, -TALLEST / 2 - 0.17), (x, -place.top), arrowprops=_ARROW | {"color": VERMILION})
    words = f"φ: {channels} spatial means"
    box = {"facecolor": "white", "edgecolor": FAINT, "boxstyle": "round,pad=0.2", "linewidth": 0.5}
    axes.text(x, -TALLEST / 2 - 0.2, words, ha="center", va="top", fontsize=7, color=VERMILION, bbox=box)
