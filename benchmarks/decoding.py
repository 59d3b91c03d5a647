"""How many images a second the data pipeline decodes, once for each set. Reading batches is `compare.py --job input`.

    python benchmarks/decoding.py [--tfds NAME --data_dir DIR]

With --tfds, the training split of a prepared data set is decoded too. Everything is written to a temporary folder and removed.
"""

import argparse
import tempfile
import time
from pathlib import Path

import tables
from PIL import Image

from unetrep_jax import data


def write_jpegs(folder: Path, count: int, size: int) -> Path:
    """`count` JPEG files cut from the bundled photographs."""
    folder.mkdir()
    crops = data.load("train", image_size=size, cache_dir=str(folder.parent / "cache"), train_crops=count)
    for i, crop in enumerate(crops.images):
        Image.fromarray(crop).save(folder / f"{i}.jpg", quality=90)
    return folder


def rate(spec: str, **settings: str) -> str:
    """Images a second of opening a set that is not in the cache yet."""
    start = time.perf_counter()
    images = data.open_images(spec, image_size=64, image_channels=3, **settings)
    return f"{len(images.images) / (time.perf_counter() - start):,.0f}"


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tfds", default="", help="name of a prepared TFDS data set")
    parser.add_argument("--data_dir", default="", help="where it is")
    arguments = parser.parse_args()
    tables.facts()
    with tempfile.TemporaryDirectory() as name:
        cache, rows = str(Path(name) / "cache"), []
        for count, size in ((4000, 64), (1000, 296)):
            files = str(write_jpegs(Path(name) / str(size), count, size))
            rows.append({"decoded to 64x64": f"JPEG {size}x{size}", "images/s": rate(files, cache_dir=cache)})
        if arguments.tfds:
            found = rate(f"tfds:{arguments.tfds}:train", data_dir=arguments.data_dir, cache_dir=cache)
            rows.append({"decoded to 64x64": arguments.tfds, "images/s": found})
        tables.show("Decoding", rows)


if __name__ == "__main__":
    main()
