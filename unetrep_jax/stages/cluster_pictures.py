"""The figures of the cluster section: separation, noise levels, starts at classes, t-SNE, and images of clusters (figure 8)."""

import textwrap
from collections.abc import Mapping
from typing import Any

import numpy as np

from unetrep_jax import figures
from unetrep_jax.data import ImageSet
from unetrep_jax.figures import clusters as cluster_figures
from unetrep_jax.stages.cluster_numbers import BY_NOISE, PANELS, agreement_by_noise, measured
from unetrep_jax.stages.context import Arrays, Context, picture

CAPTIONS = {
    "clusters": "The images nearest to their centroid, for the largest clusters of phi; as printed, not selected.",
    "separation": "Distance of each centroid from its nearest against the spread between the two (figure 8), in units of the "
    "features' total deviation, for clusters of phi and for what they are held against.",
    "separation_controls": "Separation ratios on the images that K-means was fitted to, and on others.",
    "clusters_by_noise": "Agreement (AMI) of K-means at each noise level with the clusters at the working level, where it is that "
    "of another seed.",
    "clusters_from_classes": "K-means begun at class means, and at means of a random partition with the same sizes: how it leaves "
    "what it began from. Those partitions themselves have an AMI of 1 and all images staying; the course begins with every image "
    "at the nearest mean.",
    "clusters_tsne": "t-SNE of clusters of phi, of clusters of a Gaussian of phi's covariance, and of label classes, drawn at "
    "random among the larger half, with no more images of each than the median group has.",
}


def cluster_pictures(context: Context, arrays: Arrays, summary: dict) -> list:
    """All figures, in the order of the tables."""
    found = [("clusters", cluster_grid(context, arrays))]
    if rows := measured(summary):
        found += separation_figures({name: arrays[row["array"]] for name, row in rows.items()}, rows)
    if agreement_by_noise(summary):
        found.append(("clusters_by_noise", noise_figure(context, summary)))
    if "begun_at_class_means" in summary.get("classes", {}):
        found.append(("clusters_from_classes", start_figure(arrays)))
    if summary["tsne"]:
        found.append(("clusters_tsne", tsne_figure(context, arrays, summary)))
    shown = [picture(context, figure, name, CAPTIONS[name]) for name, figure in found]
    return shown + [picture(context, *page) for page in cluster_pages(context, arrays)]


def separation_figures(points: Mapping[str, np.ndarray], numbers: Mapping[str, Mapping]) -> list[tuple]:
    """Scatter and distributions, on the images fitted and on others, of arrays and numbers that `cluster_solutions.study` made."""
    parts = {"images fitted": slice(0, 2), "held-out images": slice(2, 4)}
    keys = {"images fitted": "separation", "held-out images": "held_out"}
    quantiles = {
        part: {name: row[key]["drawn_quantiles"] for name, row in numbers.items()} for part, key in keys.items()
    }
    scatter = {name: {part: tuple(a[where]) for part, where in parts.items()} for name, a in points.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {part: {name: np.divide(*a[where]) for name, a in points.items()} for part, where in parts.items()}
    return [
        ("separation", figures.separation_scatter(scatter)),
        ("separation_controls", figures.separation_histograms(ratios, quantiles)),
    ]


def noise_figure(context: Context, summary: dict) -> Any:
    """Agreement by noise level, of phi and of what it is held against."""
    lines = {BY_NOISE[name]: values for name, values in agreement_by_noise(summary).items()}
    levels = summary["by_noise"]["levels"].values()
    if all(row.get("labels") for row in levels):
        lines["phi, with the labels"] = np.array([row["labels"]["ami"] for row in levels])
    return cluster_figures.agreement_by_noise(context.sigmas, lines)


def start_figure(arrays: Arrays) -> Any:
    """How K-means leaves the class means."""
    names = {"begun_at_class_means": "class means", "begun_at_random_means": "random partition"}
    return cluster_figures.courses({name: arrays[f"course/{key}"] for key, name in names.items()})


def tsne_figure(context: Context, arrays: Arrays, summary: dict) -> Any:
    """The t-SNE panels, with the names of the groups."""
    panels = {}
    for key, numbers in summary["tsne"].items():
        groups, index = np.unique(arrays[f"tsne_groups/{key}"], return_inverse=True)
        classes = [textwrap.shorten(label_name(context.images, int(g)), 20, placeholder="…") for g in groups]
        names = classes if key == "classes" else [f"cluster {g}" for g in groups]
        panels[f"{PANELS[key]}\n{numbers['images']:,} images"] = arrays[f"tsne/{key}"], index, names
    return cluster_figures.embeddings(panels)


def cluster_grid(context: Context, arrays: Arrays) -> Any:
    """Rows of example images."""
    assignment = arrays[f"assignment/{context.settings.clusters[0]}"]
    titles = [cluster_title(context.images, assignment == k) for k in arrays["exemplar_clusters"]]
    shown = images_at(context.images, arrays["exemplars"])
    return figures.cluster_grid(shown, arrays["exemplar_clusters"].tolist(), titles)


def cluster_pages(context: Context, arrays: Arrays) -> list[tuple]:
    """A page for each of the largest clusters, its members from the nearest to the farthest: (figure, name, caption)."""
    assignment, pages = arrays[f"assignment/{context.settings.clusters[0]}"], []
    for place, cluster in enumerate(arrays["page_clusters"]):
        ranks, images, distances = (arrays[f"page_{of}"][place] for of in ("ranks", "images", "distances"))
        title = cluster_title(context.images, assignment == cluster).replace("\n", ", ")
        caption = (
            f"Cluster {cluster} ({title}): members by rising distance to the centroid, in units of phi's total deviation; all of "
            "them, or stretches from the nearest to the farthest."
        )
        size = int(np.count_nonzero(assignment == cluster))
        pages.append((page_figure(context, ranks, images, distances, size), f"cluster_page_{place + 1}", caption))
    return pages


def page_figure(context: Context, ranks: np.ndarray, images: np.ndarray, distances: np.ndarray, size: int) -> Any:
    """Rows of members with their ranks, distances and labels."""
    headings, notes, captions = [], [], []
    filled = (ranks >= 0).any(axis=1)
    for of_row, shown, far in zip(ranks[filled], images[filled], distances[filled], strict=True):
        headings.append(f"{of_row[0] + 1} to {of_row.max() + 1} of {size:,}")
        notes.append(f"distance {far[0]:.2f} to {far[of_row >= 0][-1]:.2f}")
        captions.append([short_label(context.images, image) for image in shown])
    rows = list(images_at(context.images, images[filled]))
    return figures.image_rows(rows, headings, notes, None if context.images.labels is None else captions)


def images_at(images: ImageSet, places: np.ndarray) -> np.ndarray:
    """Images at places [...], float [... h w c]; NaN where a place is -1."""
    shown = np.full((*places.shape, *images.images.shape[1:]), np.nan, np.float32)
    shown[places >= 0] = images.images[places[places >= 0]] / np.float32(255)
    return shown


def cluster_title(images: ImageSet, members: np.ndarray) -> str:
    """How many images a cluster has, and the most frequent of their labels."""
    title = f"{members.sum():,} images"
    if images.labels is None or not members.any():
        return title
    counts = np.bincount(images.labels[members])
    label = int(counts.argmax())
    return f"{title}\n{counts[label] / members.sum():.0%} {label_name(images, label)}"


def label_name(images: ImageSet, label: int) -> str:
    """The name of a class."""
    return images.class_names[label] if label < len(images.class_names) else f"label {label}"


def short_label(images: ImageSet, image: np.integer) -> str:
    """The name of an image's class, as much of it as fits below a tile; nothing for a free place or without labels."""
    if image < 0 or images.labels is None:
        return ""
    return textwrap.shorten(label_name(images, int(images.labels[image])), 14, placeholder="…")
