"""Images side by side on sheets, of which the page cuts them out."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

COLUMNS = 16  # images in a row of a sheet; a sheet has as many rows at most
LARGEST_TILE = 128  # pixels of an image's longer side; larger images are made smaller
QUALITY = 92  # of JPEG, out of 100; colours at full resolution
BLOCK = 8  # JPEG's: cells that are whole blocks take no colour from their neighbours
MARGIN = 4  # pixels around an image that repeat its edge: Firefox mixes pixels near each other where it scales a sheet


class Sheets(NamedTuple):
    """What the page needs to know to find an image.

    Attributes:
      folder: name of their folder; sheets are called 0.jpg, 1.jpg, ...
      columns: images in a row of a sheet.
      per_sheet: images on a sheet.
      count: images on all sheets.
      tile: height and width of an image on the sheet, in pixels.
      cell: the same of its place, which holds the image and a margin around it.
      margin: pixels of the margin above the image and to its left; below and to its right there are as many or more.
    """

    folder: str
    columns: int
    per_sheet: int
    count: int
    tile: tuple[int, int]
    cell: tuple[int, int]
    margin: int


def write_sheets(folder: Path, images: np.ndarray, largest: int = LARGEST_TILE) -> Sheets:
    """Writes uint8 images [n h w c], c = 1 or 3, as sheets into a new folder; longer sides than `largest` are made smaller."""
    folder.mkdir(parents=True)
    height, width = images.shape[1:3]
    smaller = min(1, largest / max(height, width))
    tile = max(1, round(height * smaller)), max(1, round(width * smaller))
    cell = tuple(-(-(side + 2 * MARGIN) // BLOCK) * BLOCK for side in tile)
    columns = min(COLUMNS, max(1, len(images)))
    per_sheet = columns * COLUMNS
    for number, first in enumerate(range(0, len(images), per_sheet)):
        some = images[first : first + per_sheet]
        sheet = Image.new("RGB", (columns * cell[1], -(-len(some) // columns) * cell[0]))
        for place, image in enumerate(some):
            picture = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
            if smaller < 1:
                picture = picture.resize(tile[::-1], Image.Resampling.LANCZOS)
            margins = [*((MARGIN, whole - side - MARGIN) for whole, side in zip(cell, tile, strict=True)), (0, 0)]
            filled = np.pad(np.asarray(picture.convert("RGB")), margins, "edge")
            sheet.paste(Image.fromarray(filled), (place % columns * cell[1], place // columns * cell[0]))
        sheet.save(folder / f"{number}.jpg", quality=QUALITY, subsampling=0)
    return Sheets(folder.name, columns, per_sheet, len(images), tile, cell, MARGIN)
