"""K-means on phi and on what it is held against: separation, starts, noise levels, labels, held-out images (figure 8).

Every K-means solution is kept in a file of its own as soon as it is found: a stage that was killed loses the one it was at, and
other numbers of clusters find what they share with the last ones.
"""

import contextlib
import functools
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import clusters, measures, storage
from unetrep_jax.stages.cluster_section import section_clusters
from unetrep_jax.stages.context import Arrays, Context, phi, spread, write_stage
from unetrep_jax.stages.wording import quartiles_of

__all__ = ["run_clusters", "section_clusters"]

GRID = (12, 8)  # clusters in the grid of examples, and images of each
PAGES, PAGE = 4, (5, 10)  # clusters that get a page of their own; its rows, and images in a row
GROUPS, EACH = 10, 200  # groups in a t-SNE panel (the paper's figure has ten), and the most images of each
PIXEL_IMAGES = 10_000  # images whose pixels are clustered: more would take hours for a control
START_NUMBERS = (
    20_000_000  # numbers that starts are drawn from: among pixels, starts would cost more than the iterations
)
NULLS = {"gaussian_null": clusters.gaussian_null, "permuted_null": clusters.permuted_null}


class Features(NamedTuple):
    """What K-means clusters.

    Attributes:
      name: JSON-like; together with checkpoint and images it determines the rows.
      rows: features, [n, d].
      images: the image of each row, a position among those analysed; None where rows belong to no image any more.
    """

    name: list
    rows: np.ndarray
    images: np.ndarray | None

    def part(self, which: str, rows: np.ndarray) -> "Features":
        """Some of the rows."""
        return Features([*self.name, which], self.rows[rows], None if self.images is None else self.images[rows])

    def labels(self, context: Context) -> np.ndarray | None:
        """The label of each row, where there are labels."""
        every = context.images.labels
        return None if every is None or self.images is None else every[self.images]


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

    def keep(self, kind: type, name: list, find: Callable) -> Any:
        """The solution of this name, a NamedTuple of this kind: read, or found and kept."""
        path = self.folder / f"{storage.fingerprint(kind.__name__, *self._common, *name)}.npz"
        self._used.add(path)
        # A file that cannot be read is not there.
        with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
            return kind(*(kept[field] if kept[field].ndim else kept[field].item() for field in kind._fields))
        found = find()
        storage.write_arrays(path, found._asdict())
        return found

    def forget_unused(self) -> None:
        """Removes solutions that nothing asked for: those of other settings."""
        for path in set(self.folder.glob("*.npz")) - self._used:
            path.unlink()


def run_clusters(context: Context, folder: Path, key: str) -> None:
    """K-means for every K; nulls; controls; noise levels; classes, and K-means begun at them; examples and t-SNE."""
    settings, solutions = context.settings, Solutions(context)
    features = phi_features(context, "representations", context.working)
    nulls = {name: null_features(name, features, settings.seed) for name in NULLS}
    components = pixel_components(context, features.rows.shape[1])
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "images": len(features.rows),
        "dimensions": features.rows.shape[1],
        "smallest_mean_size": settings.cluster_members,
        "by_clusters": cluster_phi(context, solutions, features, nulls, arrays),
    }
    if context.images.labels is not None:
        summary["classes"] = classes_of_phi(context, solutions, features, arrays)
    summary["controls"] = cluster_controls(context, solutions, features, components, arrays)
    summary["by_noise"] = cluster_by_noise(context, solutions, features, components)
    examples(context, features, arrays)
    summary["tsne"] = pictures_of_groups(context, solutions, features, nulls["gaussian_null"], arrays)
    write_stage(folder, key, arrays, summary)
    solutions.forget_unused()


# Features.


def phi_features(context: Context, stage: str, level: int, members: np.ndarray | None = None) -> Features:
    """phi of a sweep's images at one noise level, or of those of them at the positions `members`."""
    settings, rows = context.settings, phi(context, stage, level)
    of_stage = np.arange(len(context.images.images)) if stage == "representations" else context.untrained_subset
    sigma = float(settings.sigmas[level])
    name = ["phi", stage, sigma, settings.draws if sigma else 1, settings.seed, len(rows)]
    features = Features(name, rows, of_stage)
    return features if members is None else features.part(f"{len(members)} spread", members)


def null_features(kind: str, features: Features, seed: int) -> Features:
    """Features without clusters, made from others."""
    return Features([kind, seed, *features.name], NULLS[kind](features.rows, seed), None)


def pixel_features(context: Context) -> Features:
    """Intensities of the images, of so many as K-means takes, evenly spread."""
    images = spread(len(context.images.images), PIXEL_IMAGES)
    pixels = context.images.images[images].reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    return Features(["pixels", len(images)], pixels, images)


def pixel_components(context: Context, dimensions: int) -> Features:
    """First principal components of the pixels, as many as phi has channels."""
    pixels = pixel_features(context)
    dimensions = min(dimensions, *pixels.rows.shape)
    return Features(["components", dimensions, *pixels.name], clusters.pca(pixels.rows, dimensions), pixels.images)


def noisy_components(context: Context, components: Features, level: int) -> Features:
    """Components of the pixels with fresh noise, averaged over as many draws as phi.

    The components are orthonormal, so averaged white noise of the images is white noise in them.
    """
    settings, sigma = context.settings, float(context.settings.sigmas[level])
    if sigma == 0:
        return components
    rng = np.random.default_rng([settings.seed, round(1000 * sigma)])
    noise = rng.standard_normal(components.rows.shape, np.float32)
    rows = components.rows + np.float32(sigma / 255 / np.sqrt(settings.draws)) * noise
    return Features([*components.name, "noise", sigma, settings.draws, settings.seed], rows, components.images)


# Statistics.


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
    fit, held = clusters.halves(len(rows), seed)
    half = solutions.kmeans(features.part("half", fit), count, seed, progress)
    outside = clusters.held_out_separation(
        rows[held], clusters.nearest_centroid(rows[held], half.centroids), half.centroids
    )
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
    """Quartiles of separation ratios, how many are finite, and the share of them that is at least 2, and from 2 to 4."""
    finite = ratios[np.isfinite(ratios)]
    shares = {"at_least_2": finite >= 2, "from_2_to_4": (finite >= 2) & (finite <= 4)}
    return (
        quartiles_of(ratios)
        | {"count": len(finite)}
        | {name: float(np.mean(true)) if len(finite) else None for name, true in shares.items()}
    )


def align(assignment: np.ndarray, labels: np.ndarray | None) -> dict | None:
    """AMI, NMI and purity against labels, where there are labels."""
    return None if labels is None else clusters.alignment(assignment, labels)._asdict()


def cluster_phi(
    context: Context, solutions: Solutions, features: Features, nulls: dict[str, Features], arrays: Arrays
) -> dict:
    """Clusters of phi for every K; where there are images enough for statistics, these, beside those of the nulls."""
    settings, result = context.settings, {}
    allowed = [count for count in settings.clusters if supported(context, count, len(features.rows)) == count]
    seeds, null_seeds = settings.cluster_seeds, min(2, settings.cluster_seeds)
    fits = len(settings.clusters) + len(allowed) * (seeds + 1 + len(nulls) * (null_seeds + 1))
    with storage.Progress("K-means", fits * settings.cluster_runs, unit="runs") as progress:
        for count in settings.clusters:
            if count in allowed:
                numbers, arrays[f"separation/{count}"] = study(context, solutions, features, count, seeds, progress)
                result[str(count)] = numbers
            found = solutions.kmeans(features, count, settings.seed, progress)
            arrays[f"assignment/{count}"], arrays[f"centroids/{count}"] = found.assignment, found.centroids
            for name, null in nulls.items() if count in allowed else ():
                numbers, arrays[f"{name}/{count}"] = study(context, solutions, null, count, null_seeds, progress)
                kept = {key: numbers[key] for key in ("held_out", "agreement_of_seeds_ami")}
                result[str(count)][name] = numbers["separation"] | kept
    return result


def cluster_controls(
    context: Context, solutions: Solutions, features: Features, components: Features, arrays: Arrays
) -> dict:
    """The same K-means, for the first K (or as many as the images support), on other features of the images."""
    settings, result = context.settings, {}
    seeds = min(2, settings.cluster_seeds)
    with storage.Progress("K-means, controls", 4 * (seeds + 1) * settings.cluster_runs, unit="runs") as progress:
        for number, (name, control) in enumerate(control_features(context, features, components)):
            count = supported(context, settings.clusters[0], len(control.rows))
            if count >= 2:
                numbers, arrays[f"control/{number}"] = study(context, solutions, control, count, seeds, progress)
                result[name] = {"number": number} | numbers
    return result


def control_features(context: Context, features: Features, components: Features) -> Iterator[tuple[str, Features]]:
    """Other features of the images as the tables call them; one at a time, for pixels are large."""
    some, total = context.untrained_subset, len(features.rows)
    of_some = f"({len(some):,} images)"
    if len(some) < total:
        yield f"phi of those {len(some):,} images", phi_features(context, "representations", context.working, some)
    yield f"phi of the untrained network {of_some}", phi_features(context, "untrained", context.working)
    pixels = pixel_features(context)
    of_pixels = f" ({len(pixels.rows):,} images)" if len(pixels.rows) < total else ""
    yield f"pixels{of_pixels}", pixels
    yield f"first {components.rows.shape[1]} principal components of the pixels{of_pixels}", components


# Noise levels.


def cluster_by_noise(context: Context, solutions: Solutions, features: Features, components: Features) -> dict:
    """Clusters of phi at every noise level: separation, agreement with the working level's clusters and with labels; controls.

    The reference at the working level is of another seed than all that are held against it, so that its own agreement
    is what starts alone leave.
    """
    settings, some = context.settings, context.untrained_subset
    sources = {
        "phi": (len(features.rows), lambda level: phi_features(context, "representations", level)),
        "pixels": (len(components.rows), lambda level: noisy_components(context, components, level)),
        "phi_of_some": (len(some), lambda level: phi_features(context, "representations", level, some)),
        "untrained": (len(some), lambda level: phi_features(context, "untrained", level)),
    }
    counts = {name: supported(context, settings.clusters[0], images) for name, (images, _) in sources.items()}
    sources = {name: source for name, source in sources.items() if counts[name] >= 2}
    result: dict = {f"{sigma:g}": {"agreement_with_working_level_ami": {}} for sigma in settings.sigmas}
    fits = len(sources) * (len(settings.sigmas) + 1)
    with storage.Progress("K-means by noise level", fits * settings.cluster_runs, unit="runs") as progress:
        for name, (_, make) in sources.items():
            reference = solutions.kmeans(make(context.working), counts[name], settings.seed, progress).assignment
            for level, row in enumerate(result.values()):
                at_level = make(level)
                found = solutions.kmeans(at_level, counts[name], settings.seed + 1, progress).assignment
                row["agreement_with_working_level_ami"][name] = clusters.agreement(found, reference)
                if name == "phi":
                    row["separation"] = describe(clusters.separation_of_clusters(at_level.rows, found).ratio)
                    row["labels"] = align(found, at_level.labels(context))
    return {"clusters": counts, "images": {name: source[0] for name, source in sources.items()}, "levels": result}


# Classes.


def classes_of_phi(context: Context, solutions: Solutions, features: Features, arrays: Arrays) -> dict:
    """Separation of the label classes and K-means begun at their means, beside a random partition with the same sizes."""
    names, labels = np.unique(context.images.labels, return_inverse=True)
    shuffled = np.random.default_rng(context.settings.seed).permutation(labels)
    result: dict = {"classes": len(names), "images_per_class": len(labels) / len(names)}
    found, arrays["separation/classes"] = separation_of_groups(context, features.rows, labels)
    result |= found
    result["random_partition"], arrays["separation/random"] = separation_of_groups(context, features.rows, shuffled)
    if len(names) < 2:
        return result
    ends = []
    for name, groups in {"begun_at_class_means": labels, "begun_at_random_means": shuffled}.items():
        start = measures.group_means(features.rows, groups, len(names))
        find = functools.partial(clusters.kmeans_course, features.rows, start)
        course = solutions.keep(clusters.Course, [features.name, name, context.settings.seed], find)
        result[name], arrays[f"course/{name}"] = numbers_of_course(course, start, groups)
        ends.append(course.assignment[-1])
        result[name]["separation"] = describe(clusters.separation_of_clusters(features.rows, ends[-1]).ratio)
        result[name]["labels"] = align(ends[-1], labels)
    result["ends_agree_ami"] = clusters.agreement(*ends)
    return result


def separation_of_groups(context: Context, rows: np.ndarray, groups: np.ndarray) -> tuple[dict, np.ndarray]:
    """As `study`, of given groups: on all images, and along the line between means of one half measured on the other."""
    inside = clusters.separation_of_clusters(rows, groups)
    fit, held = clusters.halves(len(rows), context.settings.seed)
    count = int(groups.max()) + 1
    means = measures.group_means(rows[fit], groups[fit], count)
    outside = clusters.held_out_separation(rows[held], groups[held], means)
    numbers = {"separation": describe(inside.ratio), "held_out": describe(outside.ratio)}
    return numbers, in_units(rows, count, inside, outside)


def numbers_of_course(course: clusters.Course, start: np.ndarray, groups: np.ndarray) -> tuple[dict, np.ndarray]:
    """How far K-means goes away from the groups at whose means it began.

    Returns:
      numbers for the summary, and an array with a row for each moment: iterations, AMI with the groups, share of the images
      in the cluster that began as their group's, quartiles over the centroids of how far each has moved, in units of the
      distance from its group's mean to the nearest other one.
    """
    gap = np.linalg.norm(start - start[clusters.adjacent(start)], axis=1)
    moved = np.divide(course.moved, gap, out=np.full(course.moved.shape, np.nan), where=gap > 0)
    agreement = [clusters.agreement(assignment, groups) for assignment in course.assignment]
    staying = (course.assignment == groups).mean(axis=1)
    numbers = {
        "iterations": int(course.iterations[-1]),
        "ami_at_nearest_mean": agreement[0],
        "ami_at_the_end": agreement[-1],
        "staying_at_the_end": float(staying[-1]),
        "moved": quartiles_of(moved[-1]),
    }
    return numbers, np.column_stack([course.iterations, agreement, staying, measures.quartiles(moved, axis=1).T])


# What the pictures show.


def examples(context: Context, features: Features, arrays: Arrays) -> None:
    """Images of the largest clusters of the first K: the nearest to each centroid, and pages from the nearest to the farthest."""
    count = context.settings.clusters[0]
    found = clusters.Clustering(arrays[f"assignment/{count}"], arrays[f"centroids/{count}"], 0.0, 0)
    sizes = np.bincount(found.assignment)
    nearest = clusters.exemplars(features.rows, found, GRID[1])
    arrays["exemplars"], arrays["exemplar_clusters"] = nearest.images[: GRID[0]], nearest.clusters[: GRID[0]]
    every = clusters.exemplars(features.rows, found, int(sizes.max()))
    shown = min(PAGES, np.count_nonzero(sizes))
    ranks = np.stack([page_ranks(int(sizes[cluster]), *PAGE) for cluster in every.clusters[:shown]])
    members = np.take_along_axis(every.images[:shown], np.maximum(ranks, 0).reshape(shown, -1), 1).reshape(ranks.shape)
    arrays["page_clusters"], arrays["page_ranks"] = every.clusters[:shown], ranks
    arrays["page_images"] = np.where(ranks < 0, -1, members)
    offsets = features.rows[members] - found.centroids[every.clusters[:shown], None, None]
    arrays["page_distances"] = np.linalg.norm(offsets, axis=-1) / (clusters.total_deviation(features.rows) or 1)


def page_ranks(size: int, rows: int, per_row: int) -> np.ndarray:
    """Ranks by distance that a page shows, [rows, per_row]: all, or stretches from the nearest to the farthest; -1 is free."""
    within = np.arange(per_row)
    if size <= rows * per_row:
        ranks = per_row * np.arange(rows)[:, None] + within
        return np.where(ranks < size, ranks, -1)
    return np.linspace(0, size - per_row, rows).astype(int)[:, None] + within


def pictures_of_groups(
    context: Context, solutions: Solutions, features: Features, null: Features, arrays: Arrays
) -> dict:
    """t-SNE of ten clusters, of ten clusters of the Gaussian null, and of ten classes.

    No group brings more images than the median group of the panel with the smallest, so that the panels compare.
    """
    settings, labels = context.settings, context.images.labels
    rng = np.random.default_rng(settings.seed)
    with storage.Progress("K-means, null", settings.cluster_runs, unit="runs") as progress:
        of_null = solutions.kmeans(null, settings.clusters[0], settings.seed, progress).assignment
    of_phi = arrays[f"assignment/{settings.clusters[0]}"]
    panels = {"clusters": (features.rows, of_phi), "gaussian_null": (null.rows, of_null)}
    if labels is not None and len(np.unique(labels)) > 1:
        panels["classes"] = features.rows, labels
    chosen = {name: clusters.larger_groups(groups, GROUPS, settings.seed) for name, (_, groups) in panels.items()}
    sizes = {name: np.bincount(groups)[chosen[name]] for name, (_, groups) in panels.items()}
    each = min(EACH, *(int(np.median(of_panel)) for of_panel in sizes.values()))
    result = {}
    for name, (rows, groups) in panels.items():
        counts = np.minimum(sizes[name], each)
        members = (np.flatnonzero(groups == group) for group in chosen[name])
        drawn = np.concatenate([rng.choice(m, count, replace=False) for m, count in zip(members, counts, strict=True)])
        with contextlib.suppress(storage.InputError):  # too few images, or all the same
            points = clusters.embedding(rows[drawn], settings.seed)
            arrays[f"tsne/{name}"], arrays[f"tsne_groups/{name}"] = points, groups[drawn]
            result[name] = {
                "groups": len(chosen[name]),
                "images": len(drawn),
                "nearest_alike": clusters.nearest_alike(rows[drawn], groups[drawn]),
                "nearest_alike_in_picture": clusters.nearest_alike(points, groups[drawn]),
                "by_chance": float((counts * (counts - 1)).sum() / (len(drawn) * (len(drawn) - 1))),
            }
    return result
