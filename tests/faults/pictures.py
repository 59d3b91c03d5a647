"""A seeded generator of bad, odd and good image files and arrays, each with what must become of it."""

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


class Made(NamedTuple):
    """A file and its fate.

    Attributes:
      name: of the file.
      content: its bytes.
      fate: "kept", "refused", or "either" where the damage may hit what does not matter.
      pixels: what must be read, where that is known exactly [12 12] (grey).
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


def text_bomb(chance: random.Random) -> Made:
    """A comment that unpacks to a hundred megabytes; the pixels may be read or refused, the memory must not go."""
    image, _ = grey(chance)
    note = PngImagePlugin.PngInfo()
    note.add_itxt("comment", "x" * 10_000_000, zip=True)
    return Made("x.png", encoded(image, "PNG", pnginfo=note), "either")


def cmyk(chance: random.Random) -> Made:
    """Four inks."""
    image = Image.fromarray(noise(chance, 30, 30, 4), "CMYK")
    return Made("x.jpg", encoded(image, chance.choice(["JPEG", "TIFF"])), "kept")


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
    image = Image.fromarray(noise(chance, 20, 20, 3)).quantize(chance.choice([2, 16, 256]))
    return Made("x.png", encoded(image, chance.choice(["PNG", "GIF"])), "kept")


def animated(chance: random.Random) -> Made:
    """The first frame counts."""
    frames = [Image.fromarray(noise(chance, SIZE, SIZE)) for _ in range(3)]
    pixels = np.asarray(frames[0])
    return Made("x.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), "kept", pixels)


def rotated(chance: random.Random) -> Made:
    """What EXIF says about up and down is obeyed."""
    image, pixels = grey(chance)
    orientation = chance.choice([1, 3, 6, 8])
    exif = Image.Exif()
    exif[0x0112] = orientation
    turns = {1: 0, 3: 2, 6: 3, 8: 1}[orientation]
    return Made("x.png", encoded(image, "PNG", exif=exif), "kept", np.rot90(pixels, turns))


def transparent(chance: random.Random) -> Made:
    """White shows through."""
    pixels = noise(chance, SIZE, SIZE, 4).copy()
    pixels[..., 3] = 0
    return Made("x.png", encoded(Image.fromarray(pixels), "PNG"), "kept", np.full((SIZE, SIZE), 255, np.uint8))


def flipped(chance: random.Random) -> Made:
    """Any byte of a good file is another."""
    kind = chance.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
    content = bytearray(encoded(Image.fromarray(noise(chance, 40, 40, 3)), kind))
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
