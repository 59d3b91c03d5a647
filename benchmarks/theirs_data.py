"""The jobs around the network with PyTorch and scikit-learn: feature sweep, input pipeline, K-means, neighbours."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jobs import MADE
from theirs_network import Job
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler

AGREEMENT_ITERATIONS = 3
AGREEMENT_ROWS = 2000
ROWS_AT_ONCE = 4096


class Features(Job):
    """Channel averages at one noise level with one draw, from a memory map to the disk, batch by batch."""

    def prepare(self):
        self.images = np.load(self.inputs["path"], mmap_mode="r")
        self.call = self.network.form.compile(self.network.net.averages)

    @torch.inference_mode()
    def agree(self) -> dict[str, np.ndarray]:
        """See there."""
        averages = self.call(self.network.images(self.inputs["noisy"])).cpu().numpy()
        self.width = averages.shape[1]
        return {"averages": averages, "written": self.sweep(2 * self.settings["batch"] + 1, sigma=0.0)}

    def run(self) -> None:
        self.sweep(len(self.images), self.settings["sigma"])

    def sweep(self, most: int, sigma: float) -> np.ndarray:
        """Of so many images; the last batch is filled up, so that one program serves all; the file is removed."""
        size, count, layout = self.settings["batch"], min(most, len(self.images)), self.network.form.layout
        with tempfile.TemporaryDirectory(dir=self.inputs["folder"]) as name:
            out = np.lib.format.open_memmap(Path(name) / "averages.npy", "w+", np.float32, (count, self.width))
            for first in range(0, count, size):
                index = np.minimum(np.arange(first, first + size), count - 1)
                batch = torch.from_numpy(self.images[index]).to(self.network.device).permute(0, 3, 1, 2)
                batch = batch.float().contiguous(memory_format=layout) / 255
                noisy = batch + sigma * torch.randn_like(batch)
                out[first : first + size] = self.call(noisy).cpu().numpy()[: count - first]
            out.flush()
            return out  # the mapping outlives the file's name


class Images(Dataset):
    """A memory map."""

    def __init__(self, path: str):
        """Opens it."""
        self.images = np.load(path, mmap_mode="r")

    def __len__(self) -> int:
        """Images."""
        return len(self.images)

    def __getitem__(self, index: int) -> torch.Tensor:
        """One image, or those of a list of numbers."""
        return torch.from_numpy(np.array(self.images[index]))


class Input(Job):
    """A DataLoader: as is usual, an image at a time; or asked for whole batches, in this process or another one."""

    def prepare(self):
        settings, form, dataset = self.settings, self.form, Images(self.inputs["path"])
        generator = torch.Generator().manual_seed(settings["seed"])
        order = RandomSampler(dataset, generator=generator)
        workers = {"num_workers": 1, "persistent_workers": True} if "1 worker" in form else {}
        if form == "an image at a time":
            self.loader = DataLoader(dataset, settings["batch"], sampler=order, **workers)
        else:
            batches = BatchSampler(order, settings["batch"], drop_last=False)
            self.loader = DataLoader(dataset, sampler=batches, batch_size=None, **workers)
        self.stream = itertools.chain.from_iterable(itertools.repeat(self.loader))  # epoch after epoch

    def agree(self) -> dict[str, np.ndarray]:
        seen = torch.cat(list(self.loader)).numpy()
        return {"every image once": np.sort(seen[:, 0, 0].astype(int) @ np.array([1, 256, 65536])).astype(np.float64)}

    def run(self) -> None:
        for _ in range(self.settings["steps"]):
            next(self.stream)


def lloyd(rows: torch.Tensor, centroids: torch.Tensor, iterations: int) -> tuple[torch.Tensor, float]:
    """(centroids, inertia of the last assignment) after so many of Lloyd's iterations; an empty cluster stays where it was."""
    squares, count = (rows**2).sum(dim=1), len(centroids)
    for _ in range(iterations):
        nearest = torch.cat([nearest_of(part, centroids)[1] for part in rows.split(ROWS_AT_ONCE)])
        sums = torch.zeros_like(centroids).index_add_(0, nearest, rows)
        sizes = torch.bincount(nearest, minlength=count)[:, None]
        centroids = torch.where(sizes > 0, sums / sizes.clamp(min=1), centroids)
    least = torch.cat([nearest_of(part, centroids)[0] for part in rows.split(ROWS_AT_ONCE)])
    return centroids, float((squares + least).sum())


def nearest_of(rows: torch.Tensor, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(squared distance to the nearest centroid less the row's own square, its number)."""
    return torch.addmm((centroids**2).sum(dim=1), rows, centroids.T, alpha=-2.0).min(dim=1)


class KMeans(Job):
    """scikit-learn as published, or Lloyd's iterations as matrix products in PyTorch, from scikit-learn's starts; on all rows."""

    def prepare(self):
        self.found, self.features, self.start = {}, self.inputs["features"], self.inputs["start"]
        self.rows = torch.from_numpy(self.features)

    def sklearn(self, iterations: int, **how: Any) -> Any:
        """A fitted KMeans."""
        from sklearn.cluster import KMeans as Estimator

        return Estimator(self.settings["clusters"], max_iter=iterations, **how).fit(self.features)

    def agree(self) -> dict[str, np.ndarray]:
        if self.form == "scikit-learn":
            found = self.sklearn(AGREEMENT_ITERATIONS, init=self.start, n_init=1)
            return {"inertia": np.array([found.inertia_]), "centroids": found.cluster_centers_}
        centroids, inertia = lloyd(self.rows, torch.from_numpy(self.start), AGREEMENT_ITERATIONS)
        return {"inertia": np.array([inertia]), "centroids": centroids.numpy()}

    def run(self) -> None:
        settings = self.settings
        runs, iterations = settings["runs"], settings["iterations"]
        seeds = range(settings["seed"], settings["seed"] + runs)
        if self.form == "scikit-learn":  # run by run, for it tells the iterations of the best alone
            found = [self.sklearn(iterations, n_init=1, random_state=seed) for seed in seeds]
            inertia, made = min(each.inertia_ for each in found), sum(each.n_iter_ for each in found)
        else:
            from sklearn.cluster import kmeans_plusplus

            starts = [kmeans_plusplus(self.features, settings["clusters"], random_state=seed)[0] for seed in seeds]
            inertia = min(lloyd(self.rows, torch.from_numpy(start), iterations)[1] for start in starts)
            made = runs * iterations
        self.found = {"inertia a row": inertia / len(self.features), MADE: int(made)}

    def facts(self) -> dict[str, float]:
        """How good the best is: squared distance to the centroid, mean over rows; iterations of all runs."""
        return self.found


class Neighbours(Job):
    """scikit-learn's brute force, or matrix products and `topk` in PyTorch; float32 both, copies of a row in any order."""

    def prepare(self):
        self.features = self.inputs["features"]

    def nearest(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(distances, numbers) of the nearest others of all rows."""
        count, found = self.settings["count"], []
        if self.form == "scikit-learn":
            from sklearn.neighbors import NearestNeighbors

            search = NearestNeighbors(n_neighbors=count, metric="cosine", algorithm="brute")
            return search.fit(features).kneighbors()
        rows = torch.nn.functional.normalize(torch.from_numpy(features), dim=1)
        for first in range(0, len(rows), ROWS_AT_ONCE):
            cosines = rows[first : first + ROWS_AT_ONCE] @ rows.T
            cosines.diagonal(first).fill_(-2.0)
            found.append(cosines.topk(count, dim=1))
        values, indices = (torch.cat(each).numpy() for each in zip(*found, strict=True))
        return 1 - values, indices

    def agree(self) -> dict[str, np.ndarray]:
        distance, index = self.nearest(self.features[:AGREEMENT_ROWS])
        return {"neighbours that differ": np.sort(index, axis=1), "distance": distance}

    def run(self) -> None:
        self.nearest(self.features)


JOBS = {"features": Features, "input": Input, "kmeans": KMeans, "neighbours": Neighbours}
