"""The jobs around the network, on our side: feature sweep, input pipeline, K-means, neighbours. See `ours_network`."""

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import clusters, data, denoiser, neighbours, representation

AGREEMENT_ITERATIONS = 3
AGREEMENT_ROWS = 2000


class Features:
    """`representation.sweep` at one noise level with one draw, from a memory map to the disk."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Opens the images."""
        self.network, self.settings = network, settings
        self.images, self.noisy = np.load(inputs["path"], mmap_mode="r"), inputs["noisy"]
        self.folder, self.denoiser = inputs["folder"], denoiser.bind(network.model, network.constants)

    def given(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def agree(self) -> dict[str, np.ndarray]:
        """Channel averages of given noisy images."""

        def averages(params, rows):
            return representation.channel_averages(denoiser.bind(self.network.model, params), *rows)

        return {"averages": np.concatenate(self.network.program(averages)(self.noisy), axis=1)}

    def run(self) -> None:
        """All images; what was written is removed."""
        settings = self.settings
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            how = {
                "sigmas": (settings["sigma"],),
                "draws": 1,
                "batch_size": settings["batch"],
                "seed": settings["seed"],
            }
            representation.sweep(self.denoiser, self.images, Path(name) / "sweep", "benchmark", label="", **how)
            shutil.rmtree(Path(name) / "sweep")


class Input:
    """`data.Batches`: so many batches from where the last call ended."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Opens the images, and the stream."""
        self.settings = settings
        side = settings["size"]
        self.images = data.open_images(inputs["path"], image_size=side, image_channels=3)
        self.batches = self.stream()

    def stream(self) -> data.Batches:
        """From the beginning."""
        return data.batches(self.images, batch_size=self.settings["batch"], seed=self.settings["seed"])

    def given(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def agree(self) -> dict[str, np.ndarray]:
        """Whether an epoch holds every image once: the numbers written in their first pixels, sorted."""
        count, size = len(self.images.images), self.settings["batch"]
        with self.stream() as batches:
            seen = np.concatenate([next(batches).images for _ in range(-(-count // size))])[:count]
        numbers = seen[:, 0, 0].astype(int) @ np.array([1, 256, 65536])
        return {"every image once": np.sort(numbers).astype(np.float64)}

    def run(self) -> None:
        """So many batches."""
        for _ in range(self.settings["steps"]):
            next(self.batches)


class KMeans:
    """`clusters.kmeans`."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Takes the features."""
        self.features, self.settings, self.inertia = inputs["features"], settings, 0.0

    def given(self) -> dict[str, Any]:
        """Where the compared run starts."""
        return {"start": self.features[: self.settings["clusters"]]}

    def agree(self) -> dict[str, np.ndarray]:
        """A few iterations from given centroids."""
        start = self.features[: self.settings["clusters"]]
        found = clusters.kmeans_from(self.features, start, iterations=AGREEMENT_ITERATIONS)
        return {"inertia": np.array([found.inertia]), "centroids": found.centroids}

    def run(self) -> None:
        """The best of some runs."""
        settings = self.settings
        how = {"seed": settings["seed"], "runs": settings["runs"], "iterations": settings["iterations"]}
        self.inertia = clusters.kmeans(self.features, settings["clusters"], **how).inertia

    def facts(self) -> dict[str, float]:
        """How good the best is: squared distance to the centroid, mean over rows."""
        return {"inertia a row": self.inertia / len(self.features)}


class Neighbours:
    """`neighbours.nearest` of all rows among all others."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Takes the features."""
        self.features, self.settings = inputs["features"], settings

    def given(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def nearest(self, rows: np.ndarray) -> neighbours.Neighbours:
        """Of all rows."""
        return neighbours.nearest(rows, rows, self.settings["count"], exclude_self=True)

    def agree(self) -> dict[str, np.ndarray]:
        """Numbers and distances, among the first rows."""
        found = self.nearest(self.features[:AGREEMENT_ROWS])
        return {"neighbours that differ": np.sort(found.index, axis=1), "distance": found.distance}

    def run(self) -> None:
        """All rows."""
        self.nearest(self.features)


JOBS = {"features": Features, "input": Input, "kmeans": KMeans, "neighbours": Neighbours}
