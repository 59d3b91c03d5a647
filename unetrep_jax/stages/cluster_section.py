"""What the report says about clusters: claims with their nulls, tables, and the figures (figure 8)."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unetrep_jax import figures, report
from unetrep_jax.data import ImageSet
from unetrep_jax.figures import clusters as cluster_figures
from unetrep_jax.stages.context import LOWEST_COMPARED, Arrays, Context, picture
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, percent, quartiles_text, unknown

# Features that belong to no image any more, and others that K-means clusters, as tables and figures call them.
NULLS = {"gaussian_null": "Gaussian of phi's covariance", "permuted_null": "phi, channels permuted over images"}
BY_NOISE = {
    "phi": "phi",
    "pixels": "principal components of the pixels, with fresh noise",
    "phi_of_some": "phi, of as many images as the untrained network sees",
    "untrained": "phi of the untrained network",
}
MATCHED, UNTRAINED = "phi of those", "phi of the untrained network"  # how the names of two controls begin
PANELS = {"clusters": "clusters of phi", "gaussian_null": "clusters of a Gaussian", "classes": "label classes"}
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


def section_clusters(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Claims, tables, separation figures, noise levels, classes, t-SNE, and images of clusters."""
    return report.Section(
        "Clusters",
        cluster_text(context, summary),
        cluster_tables(context, summary),
        cluster_pictures(context, arrays, summary),
        cluster_claims(context, summary),
    )


def in_words(row: Mapping) -> str:
    """Median and quartiles inside a sentence."""
    return quartiles_text(row) or "not measurable"


def with_count(count: int | str) -> str:
    """The number of clusters as printed, never broken into lines."""
    return f"K\u00a0=\u00a0{count}"


def measured(summary: dict) -> dict[str, dict]:
    """Everything that was clustered for separation, as tables and figures call it -> its numbers and its array's name ("array")."""
    rows = {}
    for count, row in summary["by_clusters"].items():
        rows[f"phi, {with_count(count)}"] = row | {"array": f"separation/{count}"}
        for null, name in NULLS.items():
            numbers = {"separation": row[null], "clusters": row["clusters"], "images": row["images"], "labels": None}
            rows[f"{name}, {with_count(count)}"] = row[null] | numbers | {"array": f"{null}/{count}"}
    for name, row in summary["controls"].items():
        rows[f"{name}, {with_count(row['clusters'])}"] = row | {"array": f"control/{row['number']}"}
    if classes := summary.get("classes"):
        of_classes = {
            "clusters": classes["classes"],
            "images": summary["images"],
            "labels": None,
            "agreement_of_seeds_ami": None,
        }
        rows["phi, label classes"] = classes | of_classes | {"array": "separation/classes"}
        random = classes["random_partition"] | of_classes | {"array": "separation/random"}
        rows["phi, random partition of the classes' sizes"] = random
    return rows


# Claims.


def cluster_claims(context: Context, summary: dict) -> list:
    """The paper's statements about clusters, each with its null; whether they hold is computed from the numbers."""
    claims = [*separation_claim(summary), *noise_claim(context, summary)]
    return claims + (classes_claims(summary) if "classes" in summary else [])


def separation_claim(summary: dict) -> list:
    """Adjacent clusters are at least two deviations apart: held out, and more than in clouds without clusters."""
    by_clusters = summary["by_clusters"]
    if not by_clusters:
        return []
    here = [
        f"K = {count}: {in_words(row['held_out'])} held out, {percent(row['held_out']['at_least_2']) or 'none'} of the pairs at "
        f"least 2 and {percent(row['held_out']['from_2_to_4']) or 'none'} from 2 to 4 ({in_words(row['separation'])} on the images "
        "fitted)"
        for count, row in by_clusters.items()
    ]
    rows = {name: row for name, row in measured(summary).items() if not row["array"].startswith("separation")}
    here += [f"{name}: {in_words(row['held_out'])} held out" for name, row in rows.items() if name.startswith(MATCHED)]
    nulls = [f"{name}: {in_words(row['held_out'])}" for name, row in rows.items() if not name.startswith(MATCHED)]
    return [
        report.Claim(
            "Centroids of adjacent clusters are at least two standard deviations apart",
            "at least 2, mostly from 2 to 4",
            "; ".join(here),
            "held out; " + "; ".join(nulls),
            report.verdict(*separation_parts(summary)),
        )
    ]


def separation_parts(summary: dict) -> list[tuple[bool | None, bool]]:
    """For every K against both nulls; for the first also against pixels, and against the untrained network on as many images."""
    by_clusters, controls = summary["by_clusters"], summary["controls"]
    parts = [separated(row, *(row[null] for null in NULLS)) for row in by_clusters.values()]
    matched = [row for name, row in controls.items() if name.startswith(MATCHED)]
    first = next(iter(by_clusters.values()))
    for name, control in controls.items():
        if not name.startswith(MATCHED):
            here = matched[0] if matched and name.startswith(UNTRAINED) else first
            parts.append(separated(here, control))
    return parts


def separated(row: Mapping, *nulls: Mapping) -> tuple[bool | None, bool]:
    """Whether the held-out median is 2 or more, and whether it is not above three quarters of the values of a null."""
    median = row["held_out"]["median"]
    if unknown(median):
        return None, False
    quartiles = [null["held_out"]["third_quartile"] for null in nulls]
    return part(median >= 2, *(None if unknown(quartile) else median <= quartile for quartile in quartiles))


def noise_claim(context: Context, summary: dict) -> list:
    """Clusters stay the same over noise levels, as far as other starts leave them the same, and more than without training."""
    agreement = agreement_by_noise(summary)
    other = np.array([LOWEST_COMPARED <= sigma != context.settings.sigma for sigma in context.settings.sigmas])
    if "phi" not in agreement or not other.any():
        return []
    medians = {name: float(np.median(values[other])) for name, values in agreement.items()}
    words = {
        name: f"AMI {medians[name]:.2f} (median over the other levels from {LOWEST_COMPARED:g}/255 up; {values[other].min():.2f} "
        f"to {values[other].max():.2f}); {values[context.working]:.2f} at the same level from another start"
        for name, values in agreement.items()
    }
    return [
        report.Claim(
            "K-means finds the same clusters at other noise levels",
            None,
            words.pop("phi"),
            "; ".join(f"{BY_NOISE[name]}: {text}" for name, text in words.items()) or "too few images for a control",
            report.verdict(*same_clusters(medians, float(agreement["phi"][context.working]))),
        )
    ]


def same_clusters(medians: Mapping[str, float], ceiling: float) -> list[tuple[bool | None, bool]]:
    """Whether phi's agreement is three quarters of what another start leaves, and a quarter; whether a null's is as large.

    Nulls: pixels with fresh noise, and the untrained network, which is held against phi of as many images.
    """
    pairs = (("phi", "pixels"), ("phi_of_some", "untrained"))
    as_much = [medians[null] >= medians[of] if null in medians and of in medians else None for of, null in pairs]
    shares = [medians["phi"] >= cut * ceiling if ceiling > 0 else None for cut in (0.75, 0.25)]
    return [part(share, *as_much) for share in shares]


def classes_claims(summary: dict) -> list:
    """Classes lie closer than clusters, and K-means that begins at their means leaves them."""
    classes = summary["classes"]
    null, by_clusters = classes["random_partition"], summary["by_clusters"].values()
    of_clusters = [row["held_out"]["median"] for row in by_clusters]
    claims = [
        report.Claim(
            "Label classes lie about 1 apart, closer than clusters",
            "around 1",
            f"{in_words(classes['held_out'])} held out ({in_words(classes['separation'])} on all images); clusters of phi: "
            f"{', '.join(number(median, 2) or 'not measurable' for median in of_clusters) or 'too few images'}",
            f"random partition: {in_words(null['held_out'])} held out ({in_words(null['separation'])} on all images)",
            report.verdict(part(*(close_classes(of["held_out"]["median"], of_clusters) for of in (classes, null)))),
        )
    ]
    if begun := classes.get("begun_at_class_means"):
        random = classes["begun_at_random_means"]
        here, beside = (
            f"AMI with the start {row['ami_at_the_end']:.3f}, {percent(row['staying_at_the_end'])} of the images still in its "
            f"clusters after {row['iterations']} iterations"
            for row in (begun, random)
        )
        claims.append(
            report.Claim(
                "K-means begun at the class means moves away from the classes",
                None,
                here,
                f"from a random partition: {beside}",
                report.verdict(part(*(row["staying_at_the_end"] < 0.5 for row in (begun, random)))),
            )
        )
    return claims


def close_classes(median: float | None, clusters: Sequence[float | None]) -> bool | None:
    """Whether groups lie about 1 apart (0.5 to 1.5), and closer than the clusters of every K."""
    if unknown(median) or not clusters or any(map(unknown, clusters)):
        return None
    return 0.5 <= median <= 1.5 and median < min(clusters)


def agreement_by_noise(summary: dict) -> dict[str, np.ndarray]:
    """AMI with the working level's clusters at every level, for all features that were clustered."""
    levels = summary["by_noise"]["levels"].values()
    names = [name for name in BY_NOISE if all(name in row["agreement_with_working_level_ami"] for row in levels)]
    return {name: np.array([row["agreement_with_working_level_ami"][name] for row in levels]) for name in names}


# Words and tables.


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
        tables.append(noise_table(context, summary))
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
    """Every noise level: separation, and agreement with the working level of phi and of what it is held against."""
    noise, agreement = summary["by_noise"], agreement_by_noise(summary)
    rows = []
    for level, (sigma, row) in enumerate(noise["levels"].items()):
        with_labels = row.get("labels") or {}
        cells = [number(float(values[level]), 3) for values in agreement.values()]
        rows.append((sigma, quartiles_text(row.get("separation")), *cells, number(with_labels.get("ami"), 3)))
    shown = [
        f"{BY_NOISE[name]} (K = {noise['clusters'][name]}, {noise['images'][name]:,} images)" for name in agreement
    ]
    caption = (
        "K-means at every noise level: separation of the clusters of phi on the images fitted; agreement (AMI) with the clusters "
        f"at σ = {context.settings.sigma:.0f}/255, where it is that of another seed."
    )
    return report.Table(caption, ("σ (x 255)", "separation, phi", *shown, "AMI of phi's clusters with labels"), rows)


def start_table(summary: dict) -> Any:
    """K-means begun at the means of classes, and of a random partition."""
    classes = summary["classes"]
    names = {"begun_at_class_means": "class means", "begun_at_random_means": "means of a random partition"}
    rows = [
        (
            name,
            str(row["iterations"]),
            number(row["ami_at_nearest_mean"], 3),
            number(row["ami_at_the_end"], 3),
            percent(row["staying_at_the_end"]),
            quartiles_text(row["moved"], 1),
            number(row["labels"]["ami"], 3),
            quartiles_text(row["separation"]),
        )
        for name, row in ((name, classes[key]) for key, name in names.items())
    ]
    caption = (
        f"K-means begun at the means of the {classes['classes']} classes, and of a random partition with their sizes; agreement "
        "(AMI) with the partition it began from. Moved: distance of a centroid from where it began, in units of the distance of "
        f"that mean to the nearest other one. The two ends agree with an AMI of {classes['ends_agree_ami']:.3f}."
    )
    header = (
        "begun at", "iterations", "AMI with the start, nearest mean", "AMI with the start, end", "images that stay", "moved",
        "AMI with labels, end", "separation, end",
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


# Figures.


def cluster_pictures(context: Context, arrays: Arrays, summary: dict) -> list:
    """All figures, in the order of the tables."""
    found = [("clusters", cluster_grid(context, arrays))]
    if rows := measured(summary):
        found += separation_figures({name: arrays[row["array"]] for name, row in rows.items()})
    if agreement_by_noise(summary):
        found.append(("clusters_by_noise", noise_figure(context, summary)))
    if "begun_at_class_means" in summary.get("classes", {}):
        found.append(("clusters_from_classes", start_figure(arrays)))
    if summary["tsne"]:
        found.append(("clusters_tsne", tsne_figure(context, arrays, summary)))
    shown = [picture(context, figure, name, CAPTIONS[name]) for name, figure in found]
    return shown + [picture(context, *page) for page in cluster_pages(context, arrays)]


def separation_figures(points: Mapping[str, np.ndarray]) -> list[tuple]:
    """Scatter and distributions, on the images fitted and on others, of arrays as `clustering.study` makes them."""
    parts = {"images fitted": slice(0, 2), "held-out images": slice(2, 4)}
    scatter = {name: {part: tuple(a[where]) for part, where in parts.items()} for name, a in points.items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {part: {name: np.divide(*a[where]) for name, a in points.items()} for part, where in parts.items()}
    return [
        ("separation", figures.separation_scatter(scatter)),
        ("separation_controls", figures.separation_histograms(ratios)),
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
