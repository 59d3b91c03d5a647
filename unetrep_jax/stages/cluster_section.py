"""What the report says about clusters: words and tables, with the claims and the figures (figure 8)."""

from collections.abc import Mapping
from typing import Any

from unetrep_jax import report
from unetrep_jax.stages.cluster_claims import cluster_claims
from unetrep_jax.stages.cluster_numbers import BY_NOISE, PANELS, agreement_by_noise, measured
from unetrep_jax.stages.cluster_pictures import cluster_pictures
from unetrep_jax.stages.context import LOWEST_COMPARED, Arrays, Context
from unetrep_jax.stages.wording import number, percent, quartiles_text


def section_clusters(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Claims, tables, separation figures, noise levels, classes, t-SNE, and images of clusters."""
    return report.Section(
        "Clusters",
        cluster_text(context, summary),
        cluster_tables(context, summary),
        cluster_pictures(context, arrays, summary),
        cluster_claims(context, summary),
    )


def cluster_text(context: Context, summary: dict) -> list[str]:
    """What to keep in mind when reading the tables."""
    text = [
        "K-means cuts any cloud into parts that look separated, the more so the fewer images each has: compare with the "
        "Gaussian of the same covariance, which has no clusters at all, and with the same channels permuted over the images. "
        "Held out means: clusters found on one half of the images, the other half assigned to the nearest centroid, separation "
        "measured on that half along the line between the two centroids. That takes away what K-means fits to single images, "
        "and not that it cuts.",
        "When a claim counts as held up is our choice. Separation: a held-out median of 2 or more that lies above three "
        "quarters of the values of every null and control (in part: only 2 or more). Noise levels: a median agreement of three "
        "quarters of what another start leaves, and more than that of pixels and of the untrained network (in part: a quarter, or "
        f"no more than theirs); below {LOWEST_COMPARED:g}/255 phi has not settled, so these levels do not count. Classes: a "
        "held-out median from 0.5 to 1.5, below that of the clusters, where a random partition does not; moving away from "
        "them: fewer than half of the images stay (in part: when begun at a random partition too).",
    ]
    members = summary["smallest_mean_size"]
    if small := [count for count in context.settings.clusters if str(count) not in summary["by_clusters"]]:
        text.append(
            f"K = {', '.join(map(str, small))}: fewer than {members} images a cluster on average. The clusters are saved; "
            "their statistics are left out."
        )
    noise = summary["by_noise"]
    if few := [BY_NOISE[name] for name, count in noise["clusters"].items() if count < 2]:
        text.append(f"Fewer than {2 * members} images, so left out as controls: {', '.join(few)}.")
    if "classes" not in summary:
        text.append("The images have no labels: what compares with classes is left out.")
    elif summary["classes"]["images_per_class"] < members:
        text.append(
            f"The classes have {summary['classes']['images_per_class']:.1f} images each on average, fewer than {members}: "
            "what is measured on all images is inflated by that, in the random partition alike."
        )
    if context.images.provenance.get("source") == "photographs":
        names = context.images.provenance["photographs"]
        text.append(
            f"**These images are crops of {len(names)} photographs ({', '.join(names)}).** So few show that the tool works "
            "and what it draws; they say nothing about the published claim, which concerns ImageNet."
        )
    return text


def cluster_tables(context: Context, summary: dict) -> list:
    """Separation of everything clustered; noise levels; starts at class means; t-SNE."""
    tables = [separation_table(context, summary)]
    if agreement_by_noise(summary):
        tables += [noise_table(context, summary), separation_by_noise_table(summary)]
    if "begun_at_class_means" in summary.get("classes", {}):
        tables.append(start_table(summary))
    if summary["tsne"]:
        tables.append(tsne_table(summary))
    return tables


def separation_table(context: Context, summary: dict) -> Any:
    """Separation on the images fitted and on others, agreement of seeds, alignment with labels."""
    settings = context.settings
    rows = [
        (
            name,
            f"{row['images']:,}",
            quartiles_text(row["separation"]),
            quartiles_text(row["held_out"]),
            percent(row["held_out"]["at_least_2"]),
            number(row["agreement_of_seeds_ami"], 3),
            *labels_cells(row),
        )
        for name, row in measured(summary).items()
    ]
    caption = (
        f"Separation ratio of each cluster and its nearest, median (quartiles); K-means at σ = {settings.sigma:.0f}/255, best of "
        f"{settings.cluster_runs} starts. Agreement (AMI) of {settings.cluster_seeds} seeds for phi, of "
        f"{min(2, settings.cluster_seeds)} for the others."
    )
    header = (
        "features", "images", "separation, images fitted", "separation, held out", "at least 2, held out", "agreement of seeds",
        "AMI with labels", "purity (by chance)",
    )  # fmt: skip
    return report.Table(caption, header, rows)


def labels_cells(row: Mapping) -> tuple[str | None, str | None]:
    """AMI and purity as printed."""
    if not row.get("labels"):
        return None, None
    return number(row["labels"]["ami"], 3), "{purity:.3f} ({purity_by_chance:.3f})".format(**row["labels"])


def noise_table(context: Context, summary: dict) -> Any:
    """Every noise level: agreement with the working level, of phi and of what it is held against, and with labels."""
    rows = []
    fitted, held_out = agreement_by_noise(summary), agreement_by_noise(summary, "held_out_agreement_ami")
    for level, (sigma, row) in enumerate(summary["by_noise"]["levels"].items()):
        with_labels = row.get("labels") or {}
        cells = [f"{number(fitted[name][level], 3)} ({number(held_out[name][level], 3)})" for name in fitted]
        rows.append((sigma, *cells, number(with_labels.get("ami"), 3)))
    caption = (
        f"K-means at every noise level: agreement (AMI) with the clusters at σ = {context.settings.sigma:.0f}/255, where it is "
        "that of another seed. In brackets, held out: both found on one half of the images, and compared on the other."
    )
    return report.Table(
        caption, ("σ (x 255)", *clustered_at_levels(summary), "AMI of phi's clusters with labels"), rows
    )


def clustered_at_levels(summary: dict) -> list[str]:
    """What was clustered at every noise level, into how many clusters, of how many images."""
    noise = summary["by_noise"]
    return [
        f"{BY_NOISE[name]} (K = {noise['clusters'][name]}, {noise['images'][name]:,} images)"
        for name in agreement_by_noise(summary)
    ]


def separation_by_noise_table(summary: dict) -> Any:
    """Every noise level: separation of the clusters of phi and of what it is held against, on the images fitted and on others."""
    rows, names = [], agreement_by_noise(summary)
    for sigma, row in summary["by_noise"]["levels"].items():
        cells = (quartiles_text(row[part][name]) for name in names for part in ("separation", "held_out"))
        rows.append((sigma, *cells))
    caption = "Separation ratio of each cluster and its nearest at every noise level, median (quartiles)."
    parts = ("images fitted", "held out")
    header = ("σ (x 255)", *(f"{name}, {part}" for name in clustered_at_levels(summary) for part in parts))
    return report.Table(caption, header, rows)


def start_table(summary: dict) -> Any:
    """K-means begun at the means of classes, and of a random partition."""
    classes = summary["classes"]
    names = {"begun_at_class_means": "class means", "begun_at_random_means": "means of a random partition"}
    rows = [
        (
            name,
            images,
            str(row["iterations"]),
            number(row["ami_at_nearest_mean"], 3),
            number(row["ami_at_the_end"], 3),
            percent(row["staying_at_the_end"]),
            quartiles_text(row["moved"], 1),
            number(row["labels"]["ami"], 3),
            quartiles_text(row["separation"]),
        )
        for key, name in names.items()
        for images, row in (("fitted", classes[key]), ("held out", classes[key]["held_out"]))
    ]
    caption = (
        f"K-means begun at the means of the {classes['classes']} classes, and of a random partition with their sizes; agreement "
        "(AMI) with the partition it began from. Moved: distance of a centroid from where it began, in units of the distance of "
        "that mean to the nearest other one. Held out: the same with one half of the images, joined by the other half, on which "
        "all is measured; moved, along the line between the centroid's two places. The two ends agree with an AMI of "
        f"{classes['ends_agree_ami']:.3f} ({classes['held_out_ends_agree_ami']:.3f} held out)."
    )
    header = (
        "begun at", "images", "iterations", "AMI with the start, nearest mean", "AMI with the start, end", "images that stay",
        "moved", "AMI with labels, end", "separation, end",
    )  # fmt: skip
    return report.Table(caption, header, rows)


def tsne_table(summary: dict) -> Any:
    """How often neighbours are alike, in the features and in the picture."""
    rows = [
        (
            PANELS[name],
            str(row["groups"]),
            f"{row['images']:,}",
            *(percent(row[key]) for key in ("nearest_alike", "nearest_alike_in_picture", "by_chance")),
        )
        for name, row in summary["tsne"].items()
    ]
    return report.Table(
        "Share of the images in the t-SNE panels whose nearest image there is of the same cluster or class.",
        ("panel", "groups", "images", "nearest in the features", "nearest in the picture", "by chance"),
        rows,
    )
