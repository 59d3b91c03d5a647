"""From the bytes of one image file to square uint8 pixels.

The rules, in order: the first frame; the orientation that EXIF names; 16 bits scaled to 8; transparency over white;
colour or luma; the centred square; reduction with Lanczos' filter. Colour profiles are not applied and averages are
taken of the stored (gamma-encoded) values, as is usual for such data sets.
"""

import io
import struct
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from unetrep_jax.data.image_set import Decoded, Unreadable

SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
SIXTEEN_BITS = frozenset({"I;16", "I;16L", "I;16B", "I;16N"})
DECODER_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, Image.DecompressionBombError
)  # fmt: skip


def decode_file(file: Path | io.BytesIO, *, image_size: int, image_channels: int, label: int = -1) -> Decoded:
    """Reads one image file (JPEG, PNG, WebP, BMP, GIF or TIFF).

    Of an animation or a file of several pages, the first image is taken and `several_frames` set. 16-bit values
    0..65535 become 0..255. Transparent pixels show white behind them. CMYK and palettes become RGB. An image is never
    enlarged.

    Args:
      file: a path, or the file's bytes.
      image_size: height and width of the result, in pixels.
      image_channels: 3 for RGB, 1 for luma (0.299 R + 0.587 G + 0.114 B, ITU-R BT.601).
      label: passed on.

    Raises:
      OSError: the file cannot be read now.
      Unreadable: damaged, no image, no permission, smaller than `image_size`, or pixels without a defined range (32-bit integer,
        float).
    """
    try:
        content = file if isinstance(file, io.BytesIO) else io.BytesIO(file.read_bytes())
    except (PermissionError, IsADirectoryError) as error:  # this file's own; that a disk is away for a while is not
        raise Unreadable(error.strerror) from error
    try:
        with Image.open(content) as image:
            several = getattr(image, "n_frames", 1) > 1
            # A JPEG decodes several times faster at 1/2, 1/4 or 1/8; at least twice the size is left to the filter.
            image.draft(None, (2 * image_size, 2 * image_size))
            upright = ImageOps.exif_transpose(image)
            opaque = _over_white(_eight_bits(upright))
            pixels = square(opaque.convert("L" if image_channels == 1 else "RGB"), image_size)
    except DECODER_ERRORS as error:
        raise Unreadable(_one_line(error)) from error
    return Decoded(pixels, label, several)


def square(image: Image.Image, image_size: int) -> UInt8[np.ndarray, "h w c"]:
    """Centred square of an RGB or luma image, reduced to `image_size` pixels a side.

    The filter is Lanczos' (3 lobes), widened by the reduction factor so that it removes what the smaller grid cannot
    hold. A box filter assigns each pixel to one target pixel and so displaces edges when the factor is no whole
    number.

    Raises:
      Unreadable: the image is smaller than `image_size`; enlarging would invent smooth images.
    """
    width, height = image.size
    side = min(width, height)
    if side < image_size:
        raise Unreadable(f"{width}x{height} pixels, smaller than data.image_size={image_size}")
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    pixels = np.asarray(image.resize((image_size, image_size), Image.Resampling.LANCZOS, box=box))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _eight_bits(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise Unreadable("32-bit pixels have no defined white: save it with 8 or 16 bits")
    return image


def _over_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    white = Image.new("RGBA", image.size, "white")
    return Image.alpha_composite(white, image.convert("RGBA"))


def _one_line(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image, or damaged"
    return " ".join(str(error).split()) or type(error).__name__
