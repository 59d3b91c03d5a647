"""K-means on phi: separation, agreement of seeds and noise levels, alignment with labels, and controls (figure 8)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import clusters, figures, measures, report, storage
from unetrep_jax.data import ImageSet
from unetrep_jax.stages.context import Arrays, Context, phi, picture, quartiles_of, quartiles_text, write_stage


def run_clusters(context: Context, folder: Path, key: str) -> None:
    """K-means for every K and seed, with nulls; the label classes; controls for the first K; agreement over noise levels."""
    settings = context.settings
    features = phi(context, "representations", context.working)
    labels = context.images.labels
    kmeans = functools.partial(clusters.kmeans, runs=settings.cluster_runs)
    arrays: Arrays = {}
    summary: dict = {"sigma_times_255": settings.sigma, "images": len(features)}
    summary["by_clusters"] = cluster_phi(context, features, labels, kmeans, arrays)
    if labels is not None:
        summary["classes"] = classes_of_phi(features, labels, arrays)
    first = clusters.Clustering(
        arrays[f"assignment/{settings.clusters[0]}"], arrays[f"centroids/{settings.clusters[0]}"], 0.0, 0
    )
    shown = clusters.exemplars(features, first, 8)
    arrays["exemplars"], arrays["exemplar_clusters"] = shown.images[:12], shown.clusters[:12]
    summary["controls"] = cluster_controls(context, features, labels, kmeans, arrays)
    summary["by_noise"] = cluster_by_noise(context, first.assignment, labels, kmeans)
    write_stage(folder, key, arrays, summary)


def cluster_phi(context: Context, features: Any, labels: Any, kmeans: Callable, arrays: Arrays) -> dict:
    """For every K: separation beside that of two nulls, agreement of seeds, alignment with labels."""
    settings, result = context.settings, {}
    seeds = range(settings.seed, settings.seed + settings.cluster_seeds)
    nulls = {"gaussian_null": clusters.gaussian_null, "permuted_null": clusters.permuted_null}
    jobs = len(settings.clusters) * (len(seeds) + len(nulls)) * settings.cluster_runs
    with storage.Progress("K-means", jobs, unit="runs") as progress:
        kmeans = functools.partial(kmeans, on_run=progress.advance)
        for count in settings.clusters:
            same = [kmeans(features, count, seed=seed) for seed in seeds]
            separation = clusters.separation_of_clusters(features, same[0].assignment)
            arrays[f"assignment/{count}"], arrays[f"centroids/{count}"] = same[0].assignment, same[0].centroids
            arrays[f"separation/{count}"] = np.stack(separation[:2])
            between = [clusters.alignment(same[0].assignment, other.assignment).ami for other in same[1:]]
            result[str(count)] = {
                "separation": describe(separation.ratio),
                "agreement_of_seeds_ami": float(np.mean(between)) if between else None,
                "labels": align(same[0].assignment, labels),
            }
            for name, make in nulls.items():
                null = make(features, settings.seed)
                separation = clusters.separation_of_clusters(null, kmeans(null, count, seed=settings.seed).assignment)
                arrays[f"{name}/{count}"] = np.stack(separation[:2])
                result[str(count)][name] = describe(separation.ratio)
    return result


def classes_of_phi(features: Any, labels: Any, arrays: Arrays) -> dict:
    """Separation of the label classes, and K-means begun at the class means: how far it moves away from the classes."""
    classes, labels = np.unique(labels, return_inverse=True)
    separation = clusters.separation_of_clusters(features, labels)
    arrays["separation/classes"] = np.stack(separation[:2])
    result = {"classes": len(classes), "separation": describe(separation.ratio)}
    if len(classes) > 1:
        moved = clusters.kmeans_from(features, measures.group_means(features, labels, len(classes))).assignment
        after = clusters.separation_of_clusters(features, moved).ratio
        result["begun_at_class_means"] = {"separation": describe(after), "labels": align(moved, labels)}
    return result


def cluster_controls(context: Context, features: Any, labels: Any, kmeans: Callable, arrays: Arrays) -> dict:
    """The same K-means, for the first K, on other features of the images."""
    settings = context.settings
    images, some = context.images.images, context.untrained_subset
    pixels = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    dimensions = min(features.shape[1], *pixels.shape)
    every = np.arange(len(images))
    sets = {
        f"phi of the untrained network ({len(some):,} images)": (
            some,
            lambda: phi(context, "untrained", context.working),
        ),
        "pixels": (every, lambda: pixels),
        f"first {dimensions} principal components of the pixels": (every, lambda: clusters.pca(pixels, dimensions)),
    }
    if len(some) < len(images):
        sets = {f"phi of those {len(some):,} images": (some, lambda: features[some])} | sets
    result, count = {}, settings.clusters[0]
    with storage.Progress("K-means, controls", len(sets) * settings.cluster_runs, unit="runs") as progress:
        for number, (name, (members, make)) in enumerate(sets.items()):
            control = make()
            assignment = kmeans(control, count, seed=settings.seed, on_run=progress.advance).assignment
            separation = clusters.separation_of_clusters(control, assignment)
            arrays[f"control/{number}"] = np.stack(separation[:2])
            result[name] = {
                "number": number,
                "images": len(control),
                "separation": describe(separation.ratio),
                "labels": align(assignment, None if labels is None else labels[members]),
            }
    return result


def cluster_by_noise(context: Context, reference: Any, labels: Any, kmeans: Callable) -> dict:
    """Clusters of phi at every noise level: separation, agreement with the labels and with the working level's clusters."""
    settings, result = context.settings, {}
    with storage.Progress("K-means by noise level", len(settings.sigmas), unit="levels") as progress:
        for level, sigma in enumerate(settings.sigmas):
            features = phi(context, "representations", level)
            assignment = kmeans(features, settings.clusters[0], seed=settings.seed).assignment
            separation = clusters.separation_of_clusters(features, assignment).ratio
            result[f"{sigma:g}"] = {
                "separation": describe(separation),
                "agreement_with_working_level_ami": clusters.alignment(assignment, reference).ami,
                "labels": align(assignment, labels),
            }
            progress.advance(1)
    return result


# Features that belong to no image any more, as the tables call them.
NULLS = {"gaussian_null": "Gaussian of phi's covariance", "permuted_null": "phi, channels permuted over images"}


def describe(ratios: np.ndarray) -> dict:
    """Quartiles of separation ratios, and how many are finite."""
    return quartiles_of(ratios) | {"count": int(np.isfinite(ratios).sum())}


def align(assignment: np.ndarray, labels: np.ndarray | None) -> dict | None:
    """AMI, NMI and purity against labels, where there are labels."""
    return None if labels is None else clusters.alignment(assignment, labels)._asdict()


def section_clusters(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Tables, separation figures and the grid of images."""
    settings = context.settings
    count = settings.clusters[0]
    scatter = {f"{k} clusters": tuple(arrays[f"separation/{k}"]) for k in settings.clusters}
    if "classes" in summary:
        scatter["label classes"] = tuple(arrays["separation/classes"])
    ratios = {f"phi, {count} clusters": arrays[f"separation/{count}"]}
    ratios |= {NULLS[name]: arrays[f"{name}/{count}"] for name in NULLS}
    if "classes" in summary:
        ratios["phi, label classes"] = arrays["separation/classes"]
    ratios |= {name: arrays[f"control/{control['number']}"] for name, control in summary["controls"].items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {name: distance / spread for name, (distance, spread) in ratios.items()}
    by_noise = summary["by_noise"]
    levels = np.array([float(sigma) for sigma in by_noise])
    lines = {
        "with the clusters at the working level": np.array(
            [r["agreement_with_working_level_ami"] for r in by_noise.values()]
        )
    }
    if context.images.labels is not None:
        lines["with the labels"] = np.array([r["labels"]["ami"] for r in by_noise.values()])
    agreement = figures.curves(
        levels, lines, xlabel="noise level σ (in units of 1/255)", ylabel="adjusted mutual information"
    )
    return report.Section(
        "Clusters",
        cluster_text(context, summary),
        cluster_tables(context, summary),
        [
            picture(
                context,
                cluster_grid(context, arrays),
                "clusters",
                "The images nearest to their centroid, for the largest clusters of phi; as printed, not selected.",
            ),
            picture(
                context,
                figures.separation_scatter(scatter),
                "separation",
                "Distance of each centroid from its nearest, against the spread between the two (figure 8).",
            ),
            picture(
                context,
                figures.separation_histograms(ratios),
                "separation_controls",
                "Separation ratios of clusters of phi, of label classes, and of K-means on the controls.",
            ),
            picture(context, agreement, "clusters_by_noise", "Agreement of K-means on phi at each noise level."),
        ],
    )


def cluster_text(context: Context, summary: dict) -> list[str]:
    """What to keep in mind when reading the tables."""
    text = [
        "K-means cuts any cloud into parts that look separated: compare with the Gaussian of the same covariance, which has no "
        "clusters at all, and with the same features permuted over the images."
    ]
    if context.images.provenance.get("source") == "photographs":
        names = context.images.provenance["photographs"]
        text.append(
            f"**These images are crops of {len(names)} photographs ({', '.join(names)}).** So few show that the tool works "
            "and what it draws; they say nothing about the published claim, which concerns ImageNet."
        )
    return text


def cluster_tables(context: Context, summary: dict) -> list:
    """Clusters by K, and controls."""

    def labels_of(row):
        if not row["labels"]:
            return None, None
        return f"{row['labels']['ami']:.3f}", "{purity:.3f} ({purity_by_chance:.3f})".format(**row["labels"])

    by_count = [
        (
            k,
            quartiles_text(row["separation"]),
            *(quartiles_text(row[null]) for null in NULLS),
            None if row["agreement_of_seeds_ami"] is None else f"{row['agreement_of_seeds_ami']:.3f}",
            *labels_of(row),
        )
        for k, row in summary["by_clusters"].items()
    ]
    rows = []
    if classes := summary.get("classes"):
        rows.append((f"phi, {classes['classes']} label classes", summary["images"], classes | {"labels": None}))
        if moved := classes.get("begun_at_class_means"):
            rows.append(("phi, K-means begun at the class means", summary["images"], moved))
    rows += [(name, row["images"], row) for name, row in summary["controls"].items()]
    controls = [(name, f"{images:,}", quartiles_text(row["separation"]), *labels_of(row)) for name, images, row in rows]
    level = f"σ = {context.settings.sigma:.0f}/255, {summary['images']:,} images"
    return [
        report.Table(
            f"K-means on phi at {level}: separation ratio of each centroid and its nearest, median (quartiles), beside the "
            "same for a Gaussian of phi's covariance and for phi with its channels permuted over images; agreement "
            f"(AMI) between {context.settings.cluster_seeds} seeds; alignment with labels.",
            ("K", "separation", "Gaussian", "permuted", "agreement of seeds", "AMI with labels", "purity (by chance)"),
            by_count,
        ),
        report.Table(
            f"The same measures for label classes, and for K-means on other features with K = {context.settings.clusters[0]}.",
            ("features", "images", "separation", "AMI with labels", "purity (by chance)"),
            controls,
        ),
    ]


def cluster_grid(context: Context, arrays: Arrays) -> Any:
    """Rows of example images."""
    rows = arrays["exemplars"]
    images = np.full((*rows.shape, *context.images.images.shape[1:]), np.nan, np.float32)
    images[rows >= 0] = context.images.images[rows[rows >= 0]] / np.float32(255)
    assignment = arrays[f"assignment/{context.settings.clusters[0]}"]
    titles = [cluster_title(context.images, assignment == k) for k in arrays["exemplar_clusters"]]
    return figures.cluster_grid(images, arrays["exemplar_clusters"].tolist(), titles)


def cluster_title(images: ImageSet, members: np.ndarray) -> str:
    """How many images a cluster has, and the most frequent of their labels."""
    title = f"{members.sum():,} images"
    if images.labels is None or not members.any():
        return title
    counts = np.bincount(images.labels[members])
    label = int(counts.argmax())
    name = images.class_names[label] if label < len(images.class_names) else f"label {label}"
    return f"{title}\n{counts[label] / members.sum():.0%} {name}"
