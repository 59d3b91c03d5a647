"""A seeded generator of bad, odd and good image files and arrays, each with what must become of it."""

import functools
import io
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

SIZE = 12
ORIENTATION = 0x0112  # EXIF's number for it
PLAIN = ("L", "LA", "RGB", "RGBA", "CMYK", "P", "1")
COMMENT = 100_000_000  # bytes of a comment in a file of a hundred kilobytes
# By how much a pixel of a picture that was reduced or laid over white may differ, of 255: it is rounded up to four times.
ROUNDED = 4


class Made(NamedTuple):
    """A file and its fate.

    Attributes:
      name: of the file.
      content: its bytes.
      fate: "kept", "refused", or "either" where the damage may hit what does not matter.
      pixels: what must be read, where that is known exactly [12 12] (grey); elsewhere it is worked out (`plainly`).
    """

    name: str
    content: bytes
    fate: str
    pixels: np.ndarray | None = None


def noise(chance: random.Random, *shape: int) -> np.ndarray:
    """Random bytes."""
    return np.frombuffer(chance.randbytes(int(np.prod(shape))), np.uint8).reshape(shape)


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """An image as a file of this kind."""
    content = io.BytesIO()
    image.save(content, kind, **options)
    return content.getvalue()


def grey(chance: random.Random) -> tuple[Image.Image, np.ndarray]:
    """A grey image of just the size that is needed, and its pixels."""
    pixels = noise(chance, SIZE, SIZE)
    return Image.fromarray(pixels), pixels


def luma(colours: np.ndarray) -> np.ndarray:
    """Grey of RGB, rounded as Pillow rounds it."""
    red, green, blue = np.moveaxis(colours.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16).astype(np.uint8)


def plainly(path: Path) -> tuple[np.ndarray, int] | None:
    """What must be read in a file, and how closely: Pillow's pixels, the rest worked out here; None of pixels that are not 8 bits.

    Raises:
      Exception: of damaged files Pillow raises what it likes; then nothing may be read.
    """
    with Image.open(path) as image:
        if image.mode not in PLAIN:
            return None
        image.draft(None, (2 * SIZE, 2 * SIZE))
        image.load()  # of some kinds it obeys the orientation, and forgets it then
        stored = over_white(image) if image.has_transparency_data else np.asarray(image.convert("L"))
        shown = upright(stored, image.getexif().get(ORIENTATION, 1))
        exact = shown.shape == (SIZE, SIZE) and not image.has_transparency_data
    return (shown, 0) if exact else (reduced(middle(shown)), ROUNDED)


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels as EXIF says that they are to be seen."""
    turned = {3: np.rot90(stored, 2), 6: np.rot90(stored, 3), 8: np.rot90(stored)}
    return (turned | {2: stored[:, ::-1], 4: stored[::-1], 5: stored.T, 7: turned[3].T}).get(orientation, stored)


def over_white(image: Image.Image) -> np.ndarray:
    """Grey of a picture that lets white through."""
    colours, opacity = np.split(np.asarray(image.convert("RGBA")).astype(float), [3], axis=-1)
    return luma(np.rint((colours * opacity + 255 * (255 - opacity)) / 255))


def middle(pixels: np.ndarray) -> np.ndarray:
    """The centred square."""
    side = min(pixels.shape)
    top, left = ((length - side) // 2 for length in pixels.shape)
    return pixels[top : top + side, left : left + side]


def reduced(pixels: np.ndarray) -> np.ndarray:
    """A square at the size that is needed by Lanczos' filter, from its definition, across and then down."""
    weights = lanczos(len(pixels))
    across = np.clip(np.rint(pixels @ weights.T), 0, 255)
    return np.clip(np.rint(weights @ across), 0, 255)


def lanczos(side: int) -> np.ndarray:
    """What each of so many pixels weighs in each of those that are needed, which see three of their own widths to either side."""
    scale = side / SIZE
    centres = (np.arange(SIZE) + 0.5) * scale
    away = (np.arange(side) + 0.5 - centres[:, None]) / scale
    weights = np.where(np.abs(away) < 3, np.sinc(away) * np.sinc(away / 3), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def truncated(chance: random.Random) -> Made:
    """The end of a file is missing: refused, or read as the whole file is, where the end is of no matter."""
    from unetrep_jax.data.pixels import decode_file

    kind = chance.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
    content = encoded(Image.fromarray(noise(chance, 40, 40, 3)), kind)
    whole = decode_file(io.BytesIO(content), image_size=SIZE, image_channels=1).pixels[..., 0]
    return Made(f"x.{kind.lower()}", content[: chance.randrange(len(content))], "either", whole)


def wrong_ending(chance: random.Random) -> Made:
    """A file of one kind with the name of another: its content counts."""
    image, pixels = grey(chance)
    return Made(chance.choice(["x.jpg", "x.gif", "x.tiff", "x.webp"]), encoded(image, "PNG"), "kept", pixels)


def zero_bytes(chance: random.Random) -> Made:
    """Nothing."""
    return Made("x.png", b"", "refused")


def no_image(chance: random.Random) -> Made:
    """Text, or random bytes."""
    return Made("x.jpg", chance.choice([b"<html>404</html>", chance.randbytes(3000), b"\0" * 500]), "refused")


def one_pixel(chance: random.Random) -> Made:
    """Too small: nothing is enlarged."""
    return Made("x.png", encoded(Image.fromarray(noise(chance, 1, chance.choice([1, 400]))), "PNG"), "refused")


def bomb(chance: random.Random) -> Made:
    """A header that claims 20,000 x 20,000 pixels or more, in a file of a hundred bytes."""
    side = chance.choice([20_000, 65_535, 2**31 - 1])
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    pieces = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(10_000))), (b"IEND", b"")]
    chunks = [struct.pack(">I", len(c)) + t + c + struct.pack(">I", zlib.crc32(t + c)) for t, c in pieces]
    return Made("x.png", b"\x89PNG\r\n\x1a\n" + b"".join(chunks), "refused")


@functools.cache
def long_comment() -> PngImagePlugin.PngInfo:
    """Unpacked a hundred megabytes; made once, for packing them takes a while."""
    note = PngImagePlugin.PngInfo()
    note.add_itxt("comment", "x" * COMMENT, zip=True)
    return note


def text_bomb(chance: random.Random) -> Made:
    """A comment that unpacks to a hundred megabytes; the pixels may be read or refused, the memory must not go."""
    image, pixels = grey(chance)
    return Made("x.png", encoded(image, "PNG", pnginfo=long_comment()), "either", pixels)


def cmyk(chance: random.Random) -> Made:
    """Four inks."""
    inks = noise(chance, SIZE, SIZE, 4)
    kind, light = chance.choice(["JPEG", "TIFF"]), 255 - inks[..., 3:].astype(float)
    colours = light - np.floor(inks[..., :3] * light / 255 + 0.5)
    # JPEG loses some of it: what must be read is then what Pillow reads.
    return Made("x.jpg", encoded(Image.fromarray(inks, "CMYK"), kind), "kept", luma(colours) if kind == "TIFF" else None)


def sixteen_bits(chance: random.Random) -> Made:
    """0..65535 becomes 0..255."""
    values = np.frombuffer(chance.randbytes(2 * SIZE * SIZE), np.uint16).reshape(SIZE, SIZE)
    pixels = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    return Made("x.png", encoded(Image.fromarray(values), "PNG"), "kept", pixels)


def thirty_two_bits(chance: random.Random) -> Made:
    """Floats, or whole numbers without a defined white."""
    values = np.frombuffer(chance.randbytes(4 * SIZE * SIZE), np.float32).reshape(SIZE, SIZE)
    return Made("x.tiff", encoded(Image.fromarray(chance.choice([values, values.view(np.int32)])), "TIFF"), "refused")


def palette(chance: random.Random) -> Made:
    """Few colours, by number."""
    image = Image.fromarray(noise(chance, SIZE, SIZE, 3)).quantize(chance.choice([2, 16, 256]))
    colours = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    return Made("x.png", encoded(image, chance.choice(["PNG", "GIF"])), "kept", luma(colours))


def animated(chance: random.Random) -> Made:
    """The first frame counts."""
    frames = [Image.fromarray(noise(chance, SIZE, SIZE)) for _ in range(3)]
    pixels = np.asarray(frames[0])
    return Made("x.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "kept", pixels)


def rotated(chance: random.Random) -> Made:
    """What EXIF says about up and down, left and right is obeyed."""
    image, stored = grey(chance)
    exif = Image.Exif()
    exif[ORIENTATION] = chance.randint(1, 8)
    return Made("x.png", encoded(image, "PNG", exif=exif), "kept", upright(stored, exif[ORIENTATION]))


def transparent(chance: random.Random) -> Made:
    """White shows through."""
    pixels = noise(chance, SIZE, SIZE, 4).copy()
    pixels[..., 3] = 0
    return Made("x.png", encoded(Image.fromarray(pixels), "PNG"), "kept", np.full((SIZE, SIZE), 255, np.uint8))


def flipped(chance: random.Random) -> Made:
    """Any byte of a good file is another."""
    kind, side = chance.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), chance.choice([SIZE, 40])
    content = bytearray(encoded(Image.fromarray(noise(chance, side, side, 3)), kind))
    for _ in range(chance.choice([1, 1, 5, 50])):
        content[chance.randrange(len(content))] ^= chance.randrange(1, 256)
    return Made(f"x.{kind.lower()}", bytes(content), "either")


def good(chance: random.Random) -> Made:
    """Nothing is wrong with it: the attack must be able to tell."""
    image, pixels = grey(chance)
    return Made("x.png", encoded(image, "PNG"), "kept", pixels)


FILES: tuple[Callable[[random.Random], Made], ...] = (
    truncated, wrong_ending, zero_bytes, no_image, one_pixel, bomb, text_bomb, cmyk, sixteen_bits, thirty_two_bits, palette,
    animated, rotated, transparent, flipped, good,
)  # fmt: skip


def bad_array(kind: str, chance: random.Random, path: Path) -> None:
    """Writes an array that is no images."""
    pixels = noise(chance, 20, SIZE, SIZE, 1)
    arrays = {
        "NaN": np.full(pixels.shape, np.nan, np.float32),
        "floats in 0..255": pixels.astype(np.float32),
        "floats in 0..1": pixels / np.float32(255),
        "four channels": noise(chance, 20, SIZE, SIZE, 4),
        "channels first": noise(chance, 20, 1, SIZE, SIZE),
        "another size": noise(chance, 20, SIZE + 2, SIZE + 2, 1),
        "16 bits": pixels.astype(np.uint16),
        "signed": pixels.astype(np.int8),
        "no image": pixels[:0],
        "one number": np.uint8(3),
        "objects": np.array([{"a": 1}] * 20, object),
        "texts": np.array(["x"] * 20),
        "complex": pixels.astype(np.complex64),
        "a record": np.zeros(20, [("a", np.uint8), ("b", np.float32)]),
    }
    if kind in arrays:
        np.save(path, arrays[kind])
        return
    np.save(path, pixels)
    content = bytearray(path.read_bytes())
    if kind == "a damaged header":
        content[chance.randrange(110)] = chance.randrange(256)
    path.write_bytes(content[: chance.randrange(len(content) - 1)] if kind == "cut short" else content)


ARRAYS = (
    "NaN", "floats in 0..255", "floats in 0..1", "four channels", "channels first", "another size", "16 bits", "signed",
    "no image", "one number", "objects", "texts", "complex", "a record", "cut short", "a damaged header",
)  # fmt: skip
