"""K-means solutions, each kept as soon as it is found, and what is measured of them, on the images fitted and on others.

A stage that was killed loses the solution it was at, and other numbers of clusters find what they share with the last ones.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import clusters, measures, storage
from unetrep_jax.stages.cluster_features import Features
from unetrep_jax.stages.context import Context
from unetrep_jax.stages.wording import quartiles_of

START_NUMBERS = (
    20_000_000  # numbers that starts are drawn from: among pixels, starts would cost more than the iterations
)
DRAWN_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)  # of separation ratios: what their figure shows


class HeldOut(NamedTuple):
    """Clusters found on one half of the rows, and joined by the other half, which had no part in finding them.

    Attributes:
      assignment: the cluster with the nearest centroid, of each held-out row.
      separation: of the held-out rows, by `clusters.held_out_separation`.
    """

    assignment: np.ndarray
    separation: measures.Separation


class Solutions:
    """K-means solutions, each in a file named by all that it depends on, written once and atomically."""

    def __init__(self, context: Context):
        """Of the results of `context`."""
        self.folder, self.settings = context.outdir / "clusters_kept", context.settings
        self._common, self._used = [context.identity, context.images.fingerprint], set()

    def kmeans(self, features: Features, count: int, seed: int, progress: storage.Progress) -> clusters.Clustering:
        """The best of `cluster_runs` runs."""
        runs = self.settings.cluster_runs
        sample = min(10_000, max(1, START_NUMBERS // features.rows.shape[1]))

        def find():
            return clusters.kmeans(
                features.rows, count, seed=seed, runs=runs, init_sample=sample, on_run=progress.advance
            )

        done = progress.done + runs
        found = self.keep(clusters.Clustering, [features.name, count, seed, runs, sample], find)
        progress.advance(done - progress.done)
        return found

    def held_out(self, features: Features, count: int, seed: int, progress: storage.Progress) -> HeldOut:
        """The best of `cluster_runs` runs on one half of the rows, measured on the other: the same halves for every seed."""
        fit, held = clusters.halves(len(features.rows), self.settings.seed)
        centroids = self.kmeans(features.part("half", fit), count, seed, progress).centroids
        joined = clusters.nearest_centroid(features.rows[held], centroids)
        return HeldOut(joined, clusters.held_out_separation(features.rows[held], joined, centroids))

    def keep(self, kind: type, name: list, find: Callable) -> Any:
        """The solution of this name, a NamedTuple of this kind: read, or found and kept."""
        path = self.folder / f"{storage.fingerprint(kind.__name__, *self._common, *name)}.npz"
        self._used.add(path)
        kept = storage.read_arrays(path) or {}
        if kept.keys() == set(kind._fields):
            return kind(*(kept[field] if kept[field].ndim else kept[field].item() for field in kind._fields))
        found = find()
        storage.write_arrays(path, found._asdict())
        return found

    def forget_unused(self) -> None:
        """Removes solutions that nothing asked for: those of other settings."""
        for path in set(self.folder.glob("*.npz")) - self._used:
            path.unlink()


def supported(context: Context, count: int, images: int) -> int:
    """The most clusters up to `count` that so many images support; below 2 they support none."""
    return min(count, images // context.settings.cluster_members)


def study(
    context: Context, solutions: Solutions, features: Features, count: int, seeds: int, progress: storage.Progress
) -> tuple[dict, np.ndarray]:
    """What K-means finds in features, by the images it was fitted to and by others; agreement of seeds; labels.

    Returns:
      numbers for the summary, and an array [4, count]: distances and spreads of all images, then of held-out ones, in units
      of the features' total deviation.
    """
    seed, rows = context.settings.seed, features.rows
    first, *others = (solutions.kmeans(features, count, seed + i, progress) for i in range(seeds))
    inside = clusters.separation_of_clusters(rows, first.assignment)
    outside = solutions.held_out(features, count, seed, progress).separation
    between = [clusters.agreement(first.assignment, other.assignment) for other in others]
    numbers = {
        "clusters": count,
        "images": len(rows),
        "separation": describe(inside.ratio),
        "held_out": describe(outside.ratio),
        "agreement_of_seeds_ami": float(np.mean(between)) if between else None,
        "labels": align(first.assignment, features.labels(context)),
    }
    return numbers, in_units(rows, count, inside, outside)


def in_units(rows: np.ndarray, count: int, *separations: measures.Separation) -> np.ndarray:
    """Distances and spreads of `count` groups, one below the other, in units of the rows' total deviation; NaN for empty ones."""
    unit = clusters.total_deviation(rows)
    pairs = np.full((2 * len(separations), count), np.nan)
    for row, separation in enumerate(separations):
        pairs[2 * row : 2 * row + 2, : len(separation.ratio)] = separation[:2]
    return pairs / (unit or np.nan)


def describe(ratios: np.ndarray) -> dict:
    """Quartiles of separation ratios, how many are finite, the share of them that is at least 2, and from 2 to 4; what is drawn."""
    finite = ratios[np.isfinite(ratios)]
    shares = {"at_least_2": finite >= 2, "from_2_to_4": (finite >= 2) & (finite <= 4)}
    drawn = np.quantile(finite, DRAWN_QUANTILES).tolist() if len(finite) else [None] * len(DRAWN_QUANTILES)
    return (
        quartiles_of(ratios)
        | {"count": len(finite), "drawn_quantiles": drawn}
        | {name: float(np.mean(true)) if len(finite) else None for name, true in shares.items()}
    )


def align(assignment: np.ndarray, labels: np.ndarray | None) -> dict | None:
    """AMI, NMI and purity against labels, where there are labels."""
    return None if labels is None else clusters.alignment(assignment, labels)._asdict()
