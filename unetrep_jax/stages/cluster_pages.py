"""Which images the pictures of clusters show: examples, pages from the nearest to the farthest, and t-SNE panels."""

import contextlib

import numpy as np

from unetrep_jax import clusters, storage
from unetrep_jax.stages.cluster_features import Features
from unetrep_jax.stages.cluster_solutions import Solutions
from unetrep_jax.stages.context import Arrays, Context

GRID = (12, 8)  # clusters in the grid of examples, and images of each
PAGES, PAGE = 4, (5, 10)  # clusters that get a page of their own; its rows, and images in a row
GROUPS, EACH = 10, 200  # groups in a t-SNE panel (the paper's figure has ten), and the most images of each


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
