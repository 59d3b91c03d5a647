"""The jobs around the network, on our side: feature sweep, input pipeline, K-means, neighbours. See `ours_network`."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from jobs import MADE
from ours_network import Job

from unetrep_jax import clusters, data, denoiser, neighbours, representation

AGREEMENT_ITERATIONS = 3
AGREEMENT_ROWS = 2000


class Features(Job):
    """`representation.sweep` at one noise level with one draw, from a memory map to the disk."""

    def prepare(self):
        self.images = np.load(self.inputs["path"], mmap_mode="r")
        self.denoiser = denoiser.bind(self.network.model, self.network.constants)

    def agree(self) -> dict[str, np.ndarray]:
        """Averages of noisy images; and, as what is timed draws noise of its own, what that writes where there is no noise."""
        found = self.program(representation.channel_averages)(self.inputs["noisy"])
        clean = self.images[: 2 * self.settings["batch"] + 1]  # whole batches and one that is filled up
        with self.swept(clean, sigma=0.0) as folder:
            written = np.load(folder / "mean.npy")[:, 0]
        return {"averages": np.concatenate(found, axis=1), "written": written}

    @contextlib.contextmanager
    def swept(self, images: np.ndarray, sigma: float) -> Iterator[Path]:
        """The folder with what a sweep of these images wrote, which is removed afterwards."""
        settings = self.settings
        how = {"sigmas": (sigma,), "draws": 1, "batch_size": settings["batch"], "seed": settings["seed"]}
        with tempfile.TemporaryDirectory(dir=self.inputs["folder"]) as name:
            representation.sweep(self.denoiser, images, Path(name) / "sweep", "benchmark", label="", **how)
            yield Path(name) / "sweep"

    def sweep(self, images: np.ndarray) -> None:
        """As it is timed."""
        with self.swept(images, self.settings["sigma"]):
            pass

    def run(self) -> None:
        self.sweep(self.images)

    def facts(self) -> dict[str, float]:
        """Seconds of a sweep of one batch: most of it is the start, in which each sweep fetches or compiles its program."""
        start = time.perf_counter()
        self.sweep(self.images[: self.settings["batch"]])
        return {"one batch, s": time.perf_counter() - start}


class Input(Job):
    """`data.Batches`: so many batches from where the last call ended."""

    def prepare(self):
        side = self.settings["size"]
        self.images = data.open_images(self.inputs["path"], image_size=side, image_channels=3)
        self.batches = self.stream()

    def stream(self) -> data.Batches:
        """From the beginning."""
        return data.batches(self.images, batch_size=self.settings["batch"], seed=self.settings["seed"])

    def agree(self) -> dict[str, np.ndarray]:
        """Whether an epoch holds every image once: the numbers written in their first pixels, sorted."""
        count, size = len(self.images.images), self.settings["batch"]
        with self.stream() as batches:
            seen = np.concatenate([next(batches).images for _ in range(-(-count // size))])[:count]
        numbers = seen[:, 0, 0].astype(int) @ np.array([1, 256, 65536])
        return {"every image once": np.sort(numbers).astype(np.float64)}

    def run(self) -> None:
        for _ in range(self.settings["steps"]):
            next(self.batches)


class KMeans(Job):
    """`clusters.kmeans`."""

    def prepare(self):
        self.features, self.found = self.inputs["features"], None

    def given(self) -> dict[str, Any]:
        return {"start": self.features[: self.settings["clusters"]]}

    def agree(self) -> dict[str, np.ndarray]:
        start = self.features[: self.settings["clusters"]]
        found = clusters.kmeans_from(self.features, start, iterations=AGREEMENT_ITERATIONS)
        return {"inertia": np.array([found.inertia]), "centroids": found.centroids}

    def run(self) -> None:
        """The best of some runs, their starts drawn from all rows, as theirs are; by default ours draw from 10,000."""
        settings = self.settings
        how = {"seed": settings["seed"], "runs": settings["runs"], "iterations": settings["iterations"]}
        made, lloyd = [], clusters._lloyd

        def counted(*arguments):  # `kmeans` tells the best run's iterations alone
            found = lloyd(*arguments)
            made.append(found.iterations)
            return found

        with mock.patch.object(clusters, "_lloyd", counted):
            self.found = clusters.kmeans(self.features, settings["clusters"], init_sample=len(self.features), **how)
        self.made = sum(made)

    def facts(self) -> dict[str, float]:
        """How good the best is: squared distance to the centroid, mean over rows; iterations of all runs."""
        return {"inertia a row": self.found.inertia / len(self.features), MADE: self.made}


class Neighbours(Job):
    """`neighbours.nearest` of all rows among all others."""

    def prepare(self):
        self.features = self.inputs["features"]

    def nearest(self, rows: np.ndarray) -> neighbours.Neighbours:
        """Of all rows."""
        return neighbours.nearest(rows, rows, self.settings["count"], exclude_self=True)

    def agree(self) -> dict[str, np.ndarray]:
        found = self.nearest(self.features[:AGREEMENT_ROWS])
        return {"neighbours that differ": np.sort(found.index, axis=1), "distance": found.distance}

    def run(self) -> None:
        self.nearest(self.features)


JOBS = {"features": Features, "input": Input, "kmeans": KMeans, "neighbours": Neighbours}
