"""Rows of images, pixels as they are."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import Real
from matplotlib.figure import Figure

from unetrep_jax.figures.style import DPI, in_style


def shown_image(image: np.ndarray) -> np.ndarray:
    """As `imshow` takes it: float in [0, 1], without the channel axis when grey."""
    intensities = image / 255 if image.dtype == np.uint8 else np.nan_to_num(image.astype(np.float64))
    return np.clip(intensities[..., 0] if image.shape[-1] == 1 else intensities, 0, 1)


def draw_tiles(
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
            axes.imshow(shown_image(image), "gray", aspect="auto", interpolation="nearest", vmin=0, vmax=1, extent=box)
            if captions:
                axes.text((box[0] + box[1]) / 2, box[2] + 3, captions[i][j], ha="center", va="top", fontsize=6.5)
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.set_axis_off()
    return figure


@in_style
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
    return draw_tiles(rows, headings, [""] * len(rows) if notes is None else notes, captions)


@in_style
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
    return draw_tiles(rows, headings, notes, captions if len(captions) == len(rows) else None)


@in_style
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
    return draw_tiles(list(images), [f"cluster {number}" for number in ids], titles)
