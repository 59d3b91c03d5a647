"""K-means on phi: separation, agreement of seeds and noise levels, alignment with labels, and controls (figure 8)."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import clusters, figures, report, storage
from unetrep_jax.data import ImageSet
from unetrep_jax.stages.context import Arrays, Context, phi, picture, quartiles_of, quartiles_text, write_stage


def run_clusters(context: Context, folder: Path, key: str) -> None:
    """K-means for every K and seed; separation, alignment and nulls for the first K; agreement over noise levels."""
    settings = context.settings
    features = phi(context, "representations", context.working)
    labels = context.images.labels
    kmeans = functools.partial(clusters.kmeans, runs=settings.cluster_runs)
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "images": len(features),
        "by_clusters": {},
        "controls": {},
        "by_noise": {},
    }
    solutions = {}
    jobs = len(settings.clusters) * settings.cluster_seeds
    with storage.Progress("K-means", jobs, unit="solutions") as progress:
        for count in settings.clusters:
            for seed in range(settings.seed, settings.seed + settings.cluster_seeds):
                solutions[count, seed] = kmeans(features, count, seed=seed)
                progress.advance(1)
    for count in settings.clusters:
        same = [solutions[count, seed] for seed in range(settings.seed, settings.seed + settings.cluster_seeds)]
        separation = clusters.separation_of_clusters(features, same[0].assignment)
        arrays[f"assignment/{count}"], arrays[f"centroids/{count}"] = same[0].assignment, same[0].centroids
        arrays[f"separation/{count}"] = np.stack(separation[:2])
        between = [clusters.alignment(same[0].assignment, other.assignment).ami for other in same[1:]]
        summary["by_clusters"][str(count)] = {
            "separation": describe(separation.ratio),
            "agreement_of_seeds_ami": float(np.mean(between)) if between else None,
            "labels": align(same[0].assignment, labels),
        }
    first = solutions[settings.clusters[0], settings.seed]
    shown = clusters.exemplars(features, first, 8)
    arrays["exemplars"], arrays["exemplar_clusters"] = shown.images[:12], shown.clusters[:12]
    control_clusters(context, features, labels, kmeans, arrays, summary)
    cluster_by_noise(context, first.assignment, labels, kmeans, summary)
    write_stage(folder, key, arrays, summary)


# Features that belong to no image any more.
GAUSSIAN, PERMUTED = "Gaussian of phi's covariance", "phi, channels permuted over images"
NULLS = (GAUSSIAN, PERMUTED)


def control_clusters(
    context: Context, features: Any, labels: Any, kmeans: Callable, arrays: Arrays, summary: dict
) -> None:
    """The same K-means on nulls and other features; and the label classes in phi."""
    settings = context.settings
    images = context.images.images
    pixels = (np.asarray(images, np.float32) / 255).reshape(len(images), -1)
    dimensions = min(features.shape[1], *pixels.shape)
    sets = {
        GAUSSIAN: lambda: clusters.gaussian_null(features, settings.seed),
        PERMUTED: lambda: clusters.permuted_null(features, settings.seed),
        "phi of the untrained network": lambda: phi(context, "untrained", context.working),
        "pixels": lambda: pixels,
        f"first {dimensions} principal components of the pixels": lambda: clusters.pca(pixels, dimensions),
    }
    count = settings.clusters[0]
    with storage.Progress("K-means, controls", len(sets), unit="sets") as progress:
        for number, (name, make) in enumerate(sets.items()):
            control = make()
            assignment = kmeans(control, min(count, len(control)), seed=settings.seed).assignment
            separation = clusters.separation_of_clusters(control, assignment)
            arrays[f"control/{number}"] = np.stack(separation[:2])
            its_labels = labels[context.untrained_subset] if labels is not None and "untrained" in name else labels
            summary["controls"][name] = {
                "number": number,
                "images": len(control),
                "separation": describe(separation.ratio),
                "labels": align(assignment, None if name in NULLS else its_labels),
            }
            progress.advance(1)
    if labels is not None:
        separation = clusters.separation_of_clusters(features, labels)
        arrays["separation/classes"] = np.stack(separation[:2])
        summary["classes"] = {"separation": describe(separation.ratio), "classes": len(np.unique(labels))}


def cluster_by_noise(context: Context, reference: Any, labels: Any, kmeans: Callable, summary: dict) -> None:
    """Clusters of phi at every noise level: separation, agreement with the labels and with the working level's clusters."""
    settings = context.settings
    with storage.Progress("K-means by noise level", len(settings.sigmas), unit="levels") as progress:
        for level, sigma in enumerate(settings.sigmas):
            features = phi(context, "representations", level)
            assignment = kmeans(features, settings.clusters[0], seed=settings.seed).assignment
            separation = clusters.separation_of_clusters(features, assignment).ratio
            summary["by_noise"][f"{sigma:g}"] = {
                "separation": describe(separation),
                "agreement_with_working_level_ami": clusters.alignment(assignment, reference).ami,
                "labels": align(assignment, labels),
            }
            progress.advance(1)


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
            None if row["agreement_of_seeds_ami"] is None else f"{row['agreement_of_seeds_ami']:.3f}",
            *labels_of(row),
        )
        for k, row in summary["by_clusters"].items()
    ]
    first = next(iter(summary["by_clusters"].values()))
    rows = [(f"phi, {context.settings.clusters[0]} clusters", summary["images"], first)]
    if "classes" in summary:
        rows.append(("phi, label classes", summary["images"], summary["classes"] | {"labels": None}))
    rows += [(name, row["images"], row) for name, row in summary["controls"].items()]
    controls = [(name, f"{images:,}", quartiles_text(row["separation"]), *labels_of(row)) for name, images, row in rows]
    level = f"σ = {context.settings.sigma:.0f}/255, {summary['images']:,} images"
    return [
        report.Table(
            f"K-means on phi at {level}: separation ratio of each centroid and its nearest, median (quartiles); agreement "
            f"(AMI) between {context.settings.cluster_seeds} seeds; alignment with labels.",
            ("clusters", "separation", "agreement of seeds", "AMI with labels", "purity (by chance)"),
            by_count,
        ),
        report.Table(
            f"The same measures for controls, {context.settings.clusters[0]} clusters each.",
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
