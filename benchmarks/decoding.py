"""How many images a second the data pipeline feeds and decodes.

    python benchmarks/pipeline.py [--tfds NAME --data_dir DIR]

Training reads batches from a decoded memory map (the first table; 30,000 images/s of 64x64x3 on 2 cores is the aim);
decoding happens once for each set (the second table). With --tfds, a prepared data set is decoded and its training split read
as well. Everything is written to a temporary folder and removed.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from unetrep_jax import data

IMAGES = 40_000
SECONDS = 5.0


def memory_map(folder: Path) -> data.ImageSet:
    """40,000 random images of 64x64x3 in a .npy file (0.5 GB)."""
    generator = np.random.default_rng(0)
    np.save(folder / "images.npy", generator.integers(0, 256, (IMAGES, 64, 64, 3), dtype=np.uint8))
    return data.open_images(str(folder / "images.npy"), image_size=64, image_channels=3)


def batch_rate(images: data.ImageSet, batch_size: int) -> float:
    """Images a second that `batches` gives when nothing else runs."""
    with data.batches(images, batch_size=batch_size, seed=0) as batches:
        next(batches)
        start, count = time.perf_counter(), 0
        while time.perf_counter() - start < SECONDS:
            count += len(next(batches).images)
        return count / (time.perf_counter() - start)


def write_jpegs(folder: Path, count: int, size: int) -> Path:
    """`count` JPEG files cut from the bundled photographs."""
    folder.mkdir()
    crops = data.load("train", image_size=size, cache_dir=str(folder.parent / "cache"), train_crops=count)
    for i, crop in enumerate(crops.images):
        Image.fromarray(crop).save(folder / f"{i}.jpg", quality=90)
    return folder


def decode_rate(open_set, *arguments, **settings) -> float:
    """Images a second of opening a set that is not in the cache yet."""
    start = time.perf_counter()
    images = open_set(*arguments, image_size=64, image_channels=3, **settings)
    return len(images.images) / (time.perf_counter() - start)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tfds", default="", help="name of a prepared TFDS data set")
    parser.add_argument("--data_dir", default="", help="where it is")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as name:
        folder, cache = Path(name), str(Path(name) / "cache")
        images = memory_map(folder)
        for batch_size in (64, 512, 4096):
            print(f"batches of {batch_size:4d} from a memory map   {batch_rate(images, batch_size):8,.0f} images/s")
        for count, size in ((4000, 64), (1000, 296)):
            files = str(write_jpegs(folder / str(size), count, size))
            rate = decode_rate(data.open_images, files, cache_dir=cache)
            print(f"decoding JPEG {size}x{size} to 64x64{'':11}{rate:8,.0f} images/s")
        if arguments.tfds:
            spec = f"tfds:{arguments.tfds}:train"
            rate = decode_rate(data.open_images, spec, data_dir=arguments.data_dir, cache_dir=cache)
            print(f"decoding {spec:30s}{rate:8,.0f} images/s")


if __name__ == "__main__":
    main()
