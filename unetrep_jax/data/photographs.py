"""Images that need no download: crops of colour photographs inside the scikit-image and scikit-learn packages."""

import hashlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from unetrep_jax.data.image_set import Collection, Decoded, ImageSet, decode_once
from unetrep_jax.storage import InputError

# Photographs of scenes, in colour. Left out: what is no scene (Hubble's field, retina, stained tissue), grey, or
# graphics. The two motorcycle files are a stereo pair: one scene seen twice, so one photograph.
PHOTOGRAPHS = {
    "astronaut": ("skimage", ("data/astronaut.png",)),
    "chelsea": ("skimage", ("data/chelsea.png",)),
    "china": ("sklearn", ("datasets/images/china.jpg",)),
    "coffee": ("skimage", ("data/coffee.png",)),
    "flower": ("sklearn", ("datasets/images/flower.jpg",)),
    "motorcycle": ("skimage", ("data/motorcycle_left.png", "data/motorcycle_right.png")),
    "rocket": ("skimage", ("data/rocket.jpg",)),
}
PACKAGES = {"skimage": "scikit-image", "sklearn": "scikit-learn"}
MOST_CROPS = 10_000_000
HELD_OUT = ("chelsea", "coffee")
SCALES = (1.0, 0.7, 0.5, 0.35)  # half an octave apart, about


class _Crop(NamedTuple):
    photograph: str
    view: int
    scale: float
    top: int
    left: int


def open_photographs(
    split: Literal["train", "validation"],
    *,
    crops: int,
    image_size: int,
    image_channels: int,
    cache_dir: str,
    seed: int = 0,
) -> ImageSet:
    """Opens crops of the bundled photographs: few scenes, but real ones.

    The split is by photograph: "validation" holds chelsea and coffee, "train" astronaut, china, flower, motorcycle
    (both views of the stereo pair) and rocket. Each photograph gives the same number of crops, taken in equal parts
    from it and from its reductions to 0.7, 0.5 and 0.35 of its size (Lanczos' filter; where `image_size` still fits),
    at random positions, all different as long as there are enough. Nothing is mirrored or rotated. Labels say which
    photograph.

    Args:
      split: "train" or "validation".
      crops: how many; crop i shows photograph i modulo their number.
      image_size: height and width of a crop, in pixels.
      image_channels: 1 (luma) or 3.
      cache_dir: folder for decoded arrays.
      seed: draws the positions.

    Raises:
      InputError: no crops asked for, `image_size` larger than a photograph, or the packages lack a photograph.
    """
    if not 1 <= crops <= MOST_CROPS:
        setting = f"data.{'train' if split == 'train' else 'validation'}_crops"
        raise InputError(f"{setting}={crops}: at least 1 is needed, and at most {MOST_CROPS:,} are made.")
    class_names = tuple(PHOTOGRAPHS)
    names = [name for name in class_names if (name in HELD_OUT) == (split == "validation")]
    paths = {name: _paths(name) for name in names}
    pictures = {name: [_open(path, image_channels) for path in paths[name]] for name in names}
    sources = {name: [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths[name]] for name in names}
    plan = _plan(pictures, crops, image_size, seed)
    reduced: dict[tuple[str, int, float], np.ndarray] = {}

    def fetch(start: int, stop: int) -> Sequence[_Crop]:
        for crop in plan[start:stop]:
            if crop[:3] not in reduced:
                reduced[crop[:3]] = _reduce(pictures[crop.photograph][crop.view], crop.scale)
        return plan[start:stop]

    def decode(crop: _Crop) -> Decoded:
        rows, columns = slice(crop.top, crop.top + image_size), slice(crop.left, crop.left + image_size)
        return Decoded(reduced[crop[:3]][rows, columns], class_names.index(crop.photograph))

    collection = Collection(
        source="photographs",
        where=f"bundled photographs ({split})",
        identity=[sources, split, crops, seed, SCALES],
        count=crops,
        fetch=fetch,
        decode=decode,
        name=lambda i: f"crop {i}",
        class_names=class_names,
        provenance={"from": sorted(PACKAGES.values()), "split": split, "photographs": names, "seed": seed},
    )
    return decode_once(
        collection, image_size=image_size, image_channels=image_channels, cache_dir=cache_dir, max_unreadable=0.0
    )


def _paths(name: str) -> list[Path]:
    """Where a photograph's files are; the packages are not imported and nothing is downloaded."""
    package, files = PHOTOGRAPHS[name]
    spec = importlib.util.find_spec(package)
    found = [Path(spec.submodule_search_locations[0]) / file for file in files] if spec else []
    if not found or not all(path.is_file() for path in found):
        raise InputError(
            f"The photograph {name!r} is not in the installed {PACKAGES[package]} ({', '.join(files)}): "
            "install the versions of requirements.lock, or choose another data.source."
        )
    return found


def _open(path: Path, image_channels: int) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L" if image_channels == 1 else "RGB")


def _reduced_size(picture: Image.Image, scale: float) -> tuple[int, int]:
    return round(picture.width * scale), round(picture.height * scale)


def _reduce(picture: Image.Image, scale: float) -> UInt8[np.ndarray, "h w c"]:
    pixels = np.asarray(picture.resize(_reduced_size(picture, scale), Image.Resampling.LANCZOS))
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _plan(pictures: dict[str, list[Image.Image]], crops: int, image_size: int, seed: int) -> list[_Crop]:
    """Where the crops lie: the photographs take turns, and each goes round its views and scales."""
    per_photograph = -(-crops // len(pictures))
    columns = [
        _positions(name, views, per_photograph, image_size, np.random.default_rng([seed, i]))
        for i, (name, views) in enumerate(pictures.items())
    ]
    return [columns[i % len(columns)][i // len(columns)] for i in range(crops)]


def _positions(
    name: str, views: list[Image.Image], count: int, image_size: int, generator: np.random.Generator
) -> list[_Crop]:
    scales = [scale for scale in SCALES if min(_reduced_size(views[0], scale)) >= image_size]
    if not scales:
        raise InputError(
            f"data.image_size={image_size} is larger than the photograph {name!r} "
            f"({views[0].width}x{views[0].height}): use a smaller one, or another data.source."
        )
    turns = [(view, scale) for scale in scales for view in range(len(views))]
    each = -(-count // len(turns))
    drawn = []
    for view, scale in turns:
        width, height = (side - image_size + 1 for side in _reduced_size(views[view], scale))
        cells = generator.choice(width * height, each, replace=each > width * height)
        drawn.append([_Crop(name, view, scale, int(cell) // width, int(cell) % width) for cell in cells])
    return [drawn[i % len(turns)][i // len(turns)] for i in range(count)]
