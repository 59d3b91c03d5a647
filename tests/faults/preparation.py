"""Preparing data: a folder of small pictures that is decoded into a cache, as train.py and analyze.py do at their first start."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from faults import children, same
from faults.scene import LONG_AGO, Reference, Scene

PICTURES, SIZE = 96, 12


def make_pictures(folder: Path, count: int = PICTURES, seed: int = 0) -> Path:
    """So many PNG files of noise in two classes, always with the same names, contents and times."""
    chance = np.random.default_rng(seed)
    for number in range(count):
        path = folder / f"class{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(chance.integers(0, 256, (SIZE + 2, SIZE, 3), np.uint8)).save(path)
        os.utime(path, LONG_AGO)
    return folder


class Preparation:
    """The decoding of such a folder into the arena, in small batches so that it has many moments."""

    def __init__(self, scene: Scene, pictures: Path | None = None):
        """Makes the pictures, once."""
        self.scene, self.pictures = scene, pictures or scene.folder / "pictures"
        if not self.pictures.exists():
            make_pictures(self.pictures)

    def start(
        self, before: Callable[[], Any] = lambda: None, max_unreadable: float = 0.01, cache_dir: Path | None = None
    ) -> children.Child:
        """Begins to decode, into the arena or another folder; what comes out is printed as JSON: images and what was skipped."""
        from unetrep_jax import endings

        def decode() -> int:
            from unetrep_jax import data
            from unetrep_jax.data import image_set

            image_set.RECORDS_AT_ONCE = 8
            before()
            form = {"image_size": SIZE, "image_channels": 1, "stride": 2, "cache_dir": str(cache_dir or self.scene.arena)}
            found = data.open_images(str(self.pictures), **form, max_unreadable=max_unreadable)
            skipped = found.provenance["skipped"]
            print(json.dumps({"images": len(found.images), "sum": int(found.images.sum()), "skipped": skipped}))
            return 0

        def prepare() -> int:  # ends as train.py does
            return endings.in_one_line("train.py", decode, goes_on="the last checkpoint")

        return children.Child(prepare, self.scene.arena)

    def reference(self) -> Reference:
        """What comes out undisturbed."""
        self.scene.clear()
        listed = self.scene.folder / "listed"
        result = self.start(children.list_writes(self.scene.arena, listed)).wait()
        if result.code:
            raise RuntimeError(f"undisturbed, decoding ended with {result.code}: {result.err}")
        operations = listed.read_text().splitlines()
        return Reference(self.scene.arena, result.seconds, operations, same.folder_content(self.scene.arena))
