"""Nearest images in phi, in pixels and in controls: what they look like, and how often they share the query's label (figure 7)."""

import contextlib
import functools
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import figures, measures, neighbours, probes, report, storage
from unetrep_jax.figures import neighbours as drawing
from unetrep_jax.stages.context import Arrays, Context, layout_of, phi, picture, spread, write_stage
from unetrep_jax.stages.wording import quartiles_of, quartiles_text
from unetrep_jax.storage import InputError

SEARCH_BYTES = 512 << 20  # working memory of a search: the more, the faster
PCA_IMAGES = 10_000  # from which the principal axes of the pixels are taken, spread over the set
ALIKE_IMAGES = 2000  # which are compared with their neighbours pixel by pixel, spread over the set
PERMUTATIONS = 200  # of the labels
SHOWN, TARGETS_A_FIGURE = 5, 2  # neighbours of a target in a row; two targets with three rows each make 32 pictures

SWEEPS = {"phi": "representations", "untrained phi": "untrained"}
CENTRED = ", centred"
OTHERS = ("pixels", "pixels, Euclidean", "principal components of the pixels")


def run_neighbours(context: Context, folder: Path, key: str) -> None:
    """Neighbours in every space, among all images and among those that the untrained network saw, and what they share."""
    settings, total, subset = context.settings, len(context.images.images), context.untrained_subset
    if not 1 <= settings.neighbours < len(subset):
        raise InputError(
            f"analysis.neighbours = {settings.neighbours} needs more images than that; there are {total}, and {len(subset)} "
            "for the untrained network: ask for fewer neighbours, give more images, or raise analysis.untrained_images"
        )
    kept = context.outdir / "neighbours_kept"
    arrays: Arrays = {
        "targets": spread(total, settings.neighbour_targets) if settings.neighbour_targets else np.zeros(0, int)
    }
    summary: dict = {"sigma_times_255": settings.sigma, "neighbours": settings.neighbours, "groups": {}}
    summary["no_labels"] = why_no_labels(context.images.labels)
    summary["common_part"] = common_part(phi(context, "representations", context.working))
    summary["noise_part"] = noise_part(context)
    for group, (rows, sweeps) in groups_of(context).items():
        searched = search_group(
            context, group, rows, spaces_of(sweeps), arrays, lambda name, make: remember(kept, key, name, make)
        )
        summary["groups"][group] = {"images": len(rows)} | searched
    summary["alike"] = alike(context, arrays)
    write_stage(folder, key, arrays, summary)
    shutil.rmtree(kept, ignore_errors=True)


def why_no_labels(labels: np.ndarray | None) -> str:
    """Why labels tell nothing here; empty where they do."""
    if labels is None:
        return "the images have no labels"
    return "all images have the same label" if len(np.unique(labels)) < 2 else ""


def common_part(features: np.ndarray) -> float | None:
    """The share of the features' mean squared length that is their mean's: what all images have in common."""
    squares = np.square(features, dtype=np.float64).sum(1).mean()
    return float(np.square(features.mean(0, dtype=np.float64)).sum() / squares) if squares > 0 else None


def noise_part(context: Context) -> float | None:
    """The share of phi's variance over images that is the noise of the draws it is averaged over; None where that is not known."""
    block = list(layout_of(context).columns).index("mid")
    file = context.outdir / "representations" / "variance.npy"
    variance = np.load(file, mmap_mode="r")[:, context.working, block].mean(dtype=np.float64)
    draws = context.settings.draws if context.settings.sigma else 1
    whole = phi(context, "representations", context.working).var(0, dtype=np.float64).sum()
    return float(variance / draws / whole) if whole > 0 and np.isfinite(variance) else None


def groups_of(context: Context) -> dict[str, tuple[np.ndarray, Sequence[str]]]:
    """(images, networks whose phi they have): all images; and where the untrained network saw fewer, those apart from the others.

    How often neighbours share a label depends on how many images there are to choose from, so each group is compared within.
    """
    every, subset = np.arange(len(context.images.images)), context.untrained_subset
    if len(subset) == len(every):
        return {"all": (every, list(SWEEPS))}
    return {"all": (every, ["phi"]), "subset": (subset, list(SWEEPS))}


def spaces_of(sweeps: Sequence[str]) -> list[str]:
    """The spaces that neighbours are looked for in."""
    return [space for name in sweeps for space in (name, name + CENTRED)] + list(OTHERS)


def features_of(context: Context, space: str, level: int, rows: np.ndarray, remembered: Callable) -> np.ndarray:
    """Features of these images in a space, at a level of the noise grid."""
    images = context.images.images
    sweep = space.removesuffix(CENTRED)
    if sweep in SWEEPS:
        values = phi(context, SWEEPS[sweep], level)
        values = values[rows] if sweep == "phi" else values  # the untrained network saw no others
        return values - values.mean(0, dtype=np.float64).astype(np.float32) if space.endswith(CENTRED) else values
    if space.startswith("principal"):
        return remembered("components", lambda: {"components": pixel_components(context)})["components"][rows]
    return images if len(rows) == len(images) else images[rows]


def pixel_components(context: Context) -> np.ndarray:
    """Coordinates of all images on as many principal axes of the pixels as phi has channels, or as there can be."""
    images = context.images.images
    sample = images[spread(len(images), PCA_IMAGES)]
    width = phi(context, "representations", context.working).shape[1]
    dimensions = min(width, len(sample) - 1, int(np.prod(images.shape[1:])))
    return probes.project(probes.principal_axes(sample, dimensions, seed=context.settings.seed), images)


def remember(folder: Path, key: str, name: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that are made once and kept in a file of their own, so that a stage that is killed loses only what it was making."""
    path, key = folder / f"{storage.fingerprint(name)}.npz", f"{key} {name}"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
        if str(kept["key"]) == key:
            return {name: kept[name] for name in kept.files if name != "key"}
    arrays = make()
    storage.write_arrays(path, {"key": key} | arrays)
    return arrays


def search_group(
    context: Context, group: str, rows: np.ndarray, spaces: Sequence[str], arrays: Arrays, remembered: Callable
) -> dict:
    """Neighbours of every image of a group in every space and at every noise level: means over the images, with intervals.

    The neighbours at the working level go to `arrays`, as positions within the group.
    """
    labels = None if why_no_labels(context.images.labels) else context.images.labels[rows]
    values = {}  # (measure, space, level) -> of every image
    searches = [(space, level) for space in spaces for level in levels_of(context, space)]
    pairs = len(rows) ** 2
    with storage.Progress(f"neighbours among {len(rows):,} images", len(searches) * pairs, unit="pairs") as progress:
        for space, level in searches:
            before = progress.done
            make = functools.partial(searched, context, space, level, rows, remembered, progress.advance)
            index = remembered(f"{group} {space} {level}", make)["index"]
            progress.advance(before + pairs - progress.done)  # what was remembered
            if level == context.working:
                arrays[f"index/{group}/{space}"] = index
                values["overlap_with_phi", space, level] = neighbours.overlap(index, arrays[f"index/{group}/phi"])
            values["overlap_with_working", space, level] = neighbours.overlap(index, arrays[f"index/{group}/{space}"])
            if labels is not None:
                values["agreement", space, level] = neighbours.agreement(index, labels, labels)
    result = intervals(context, values)
    result["overlap_by_chance"] = context.settings.neighbours / (len(rows) - 1)
    if labels is not None:
        result["chance"] = chance(arrays[f"index/{group}/phi"], labels, context.settings.seed)
    return result


def searched(
    context: Context, space: str, level: int, rows: np.ndarray, remembered: Callable, on_pairs: Callable[[int], object]
) -> Arrays:
    """The nearest others of every image of a group in one space, as positions within the group."""
    features = features_of(context, space, level, rows, remembered)
    found = neighbours.nearest(
        features,
        features,
        context.settings.neighbours,
        metric="euclidean" if space.endswith("Euclidean") else "cosine",
        exclude_self=True,
        chunk_bytes=SEARCH_BYTES,
        on_pairs=on_pairs,
    )
    return {"index": found.index.astype(np.int32)}


def levels_of(context: Context, space: str) -> list[int]:
    """Levels of the noise grid at which a space is searched, the working one first; pixels have no others."""
    working = context.working
    if space in OTHERS:
        return [working]
    return [working, *(level for level in range(len(context.settings.sigmas)) if level != working)]


def intervals(context: Context, values: Mapping[tuple[str, str, int], np.ndarray]) -> dict:
    """measure -> space -> noise level -> mean over images with its 95 % interval; and how much more often neighbours in phi agree.

    The percentile bootstrap over queries (Efron 1979). Differences are paired: of the same images in both spaces.
    """
    means = measures.bootstrap_means(np.stack(list(values.values()), axis=1), seed=context.settings.seed)
    column = {name: number for number, name in enumerate(values)}
    result: dict = {}
    for measure, space, level in values:
        interval = interval_of(means[:, column[measure, space, level]])
        result.setdefault(measure, {}).setdefault(space, {})[f"{context.settings.sigmas[level]:g}"] = interval
    phi_at = ("agreement", "phi", context.working)
    for space in result.get("agreement", {}):
        other = ("agreement", space, context.working)
        more = interval_of(means[:, column[phi_at]] - means[:, column[other]])
        result.setdefault("phi_agrees_more_by", {})[space] = more
    return result


def interval_of(means: np.ndarray) -> dict[str, float]:
    """A mean and the ends of its 95 % interval, from what `measures.bootstrap_means` gives."""
    mean, low, high = (float(value) for value in measures.estimate(means))
    return {"mean": mean, "low": low, "high": high}


def chance(index: np.ndarray, labels: np.ndarray, seed: int) -> dict:
    """Agreement without any relation of labels to features: from the class frequencies, and with permuted labels."""
    rng = np.random.default_rng(seed)
    orders = (rng.permutation(labels) for _ in range(PERMUTATIONS))
    permuted = [neighbours.agreement(index, order, order).mean() for order in orders]
    return {
        "class_frequencies": neighbours.chance_of_agreement(labels),
        "permuted": interval_of(np.array([np.mean(permuted), *permuted])),
    }


def alike(context: Context, arrays: Arrays) -> dict:
    """How far images lie in pixels from their neighbours, and from random others: the root mean square, quartiles over images."""
    images = context.images.images
    rows, rng = spread(len(images), ALIKE_IMAGES), np.random.default_rng(context.settings.seed)
    others = {space: arrays[f"index/all/{space}"][rows] for space in ("phi", "phi" + CENTRED, *OTHERS)}
    others["random images"] = (rows[:, None] + rng.integers(1, len(images), others["phi"].shape)) % len(images)
    for name, index in others.items():
        arrays[f"alike/{name}"] = neighbours.distances_to(images[rows], images, index, metric="euclidean").mean(1)
    return {"images": len(rows)} | {name: quartiles_of(arrays[f"alike/{name}"]) for name in others}


def section_neighbours(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 7, agreement with labels by space and by noise level, and how alike neighbours are."""
    count, level = summary["neighbours"], f"σ = {context.settings.sigma:g}/255"
    text = [
        f"The {count} nearest of the other images, found exactly. Nearness in phi ({level}) is the cosine, which says little "
        f"where phi has much in common: {common_text(summary['common_part'])}. “Centred” is the cosine after the mean over images "
        f"is taken off. {noise_text(summary['noise_part'])}"
        "Intervals (95 %) are of the mean over images, by bootstrap. The claim counts as held where neighbours in phi agree "
        "more often than in pixels, and as held in part where the untrained network's agree as often."
    ]
    tables = [overlap_table(summary, level)]
    if summary["no_labels"]:
        text.append(f"Agreement with labels is left out: {summary['no_labels']}.")
    else:
        tables.insert(0, agreement_table(summary, level))
    pictures = [*target_pictures(context, arrays, summary), by_noise_picture(context, summary)]
    return report.Section("Neighbours", text, tables, pictures, [] if summary["no_labels"] else [claim(summary)])


def common_text(part: float | None) -> str:
    """How much of phi all images have in common, in words."""
    return (
        "it is zero" if part is None else f"its mean over images makes up all but {1 - part:.2g} of its squared length"
    )


def noise_text(part: float | None) -> str:
    """How much of what tells images apart in phi is noise, in words."""
    return (
        ""
        if part is None
        else f"Of the variance of phi over images {part:.2g} is noise of the draws that it is averaged over. "
    )


def share(interval: Mapping[str, float]) -> str:
    """A share and its interval as they are printed: 12.31% (11.92 to 12.70)."""
    return f"{interval['mean']:z.2%} ({100 * interval['low']:z.2f} to {100 * interval['high']:z.2f})"


def at_working(summary: dict, group: str, measure: str, space: str) -> dict:
    """A mean and its interval at the working level."""
    return summary["groups"][group][measure][space][f"{summary['sigma_times_255']:g}"]


def claim(summary: dict) -> report.Claim:
    """Do neighbours in phi share a label more often than neighbours in pixels, and than those of the untrained network?"""
    control = "subset" if "subset" in summary["groups"] else "all"
    images = {group: summary["groups"][group]["images"] for group in ("all", control)}
    more = [
        summary["groups"]["all"]["phi_agrees_more_by"]["pixels"],
        summary["groups"][control]["phi_agrees_more_by"]["untrained phi"],
    ]
    chances = summary["groups"]["all"]["chance"]
    return report.Claim(
        "The nearest images in phi have the image's label more often than the nearest in pixels.",
        None,
        f"{share(at_working(summary, 'all', 'agreement', 'phi'))} of the {summary['neighbours']} nearest of {images['all']:,}",
        f"pixels {share(at_working(summary, 'all', 'agreement', 'pixels'))}; by chance {chances['class_frequencies']:.2%}; "
        f"untrained network {share(at_working(summary, control, 'agreement', 'untrained phi'))}, where the trained one has "
        f"{share(at_working(summary, control, 'agreement', 'phi'))} (among {images[control]:,})",
        verdict(*more),
    )


def verdict(*more: Mapping[str, float]) -> str:
    """Whether differences are above 0, by their intervals: the first decides, the others, which are controls, qualify."""
    if more[0]["low"] > 0:
        return "yes" if all(other["low"] > 0 for other in more[1:]) else "in part"
    return "no" if more[0]["high"] < 0 else ""


def agreement_table(summary: dict, level: str) -> Any:
    """Label agreement in every space, group by group."""
    rows = []
    for group in summary["groups"].values():
        images = f"{group['images']:,}"
        for space, by_level in group["agreement"].items():
            found = by_level[f"{summary['sigma_times_255']:g}"]
            difference = group["phi_agrees_more_by"][space]
            rows.append((space, images, share(found), None if space == "phi" else share(difference)))
        rows.append(("labels permuted over the images", images, share(group["chance"]["permuted"]), None))
        rows.append(
            ("expected from the class frequencies", images, f"{group['chance']['class_frequencies']:.2%}", None)
        )
    return report.Table(
        f"Share of an image's {summary['neighbours']} nearest that have its label (95 % interval over images), phi at {level}; "
        "and by how much that of phi is higher, image by image. By cosine unless said otherwise. With permuted labels the interval "
        f"is that of {PERMUTATIONS} permutations, with phi's neighbours. Among fewer images the nearest are farther away: compare "
        "within one number of images.",
        ("features", "images", "same label", "phi less this"),
        rows,
    )


def overlap_table(summary: dict, level: str) -> Any:
    """Neighbours that phi has in common with other spaces, and their likeness in pixels."""
    group, likeness = summary["groups"]["all"], summary["alike"]
    rows = [
        (
            space,
            None if space == "phi" else share(at_working(summary, "all", "overlap_with_phi", space)),
            quartiles_text(likeness[space], 3) if space in likeness else None,
        )
        for space in group["overlap_with_phi"]
    ]
    rows.append(("random images", f"{group['overlap_by_chance']:.2%}", quartiles_text(likeness["random images"], 3)))
    return report.Table(
        f"Neighbours among {group['images']:,} images, phi at {level}: the share of the {summary['neighbours']} nearest that are "
        "among the nearest in phi too; and how far they lie from the image in pixels (root mean square, mean over its neighbours), "
        f"median (quartiles) over {likeness['images']:,} images.",
        ("neighbours in", "in common with phi's", "distance in pixels"),
        rows,
    )


def by_noise_picture(context: Context, summary: dict) -> Any:
    """Agreement with labels, and with the working level's neighbours, against the noise level."""
    names = {"all": "{images:,} images", "subset": "{images:,} of them"}
    panels = {}
    for name, group in summary["groups"].items():
        if "agreement" not in group:
            continue
        references = {s: at_working(summary, name, "agreement", s)["mean"] for s in ("pixels", OTHERS[-1])}
        references["chance"] = group["chance"]["class_frequencies"]
        panels[names[name].format(**group)] = drawing.Panel(
            lines_of(context, group["agreement"]), references, f"same label, of the {summary['neighbours']} nearest"
        )
    group = summary["groups"]["all"]
    panels["other noise levels"] = drawing.Panel(
        lines_of(context, group["overlap_with_working"]),
        {"chance": group["overlap_by_chance"]},
        f"in common with σ = {context.settings.sigma:g}/255",
    )
    caption = (
        "Neighbours in phi at each noise level (bands: 95 % over images): how often they have the image's label, and how many of "
        f"them are neighbours at σ = {context.settings.sigma:g}/255 too."
    )
    return picture(context, drawing.by_noise(context.sigmas, panels), "neighbours_by_noise", caption)


def lines_of(context: Context, by_space: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, np.ndarray]:
    """(low, mean, high) at every noise level, of the spaces that have more than one."""
    sigmas = [f"{sigma:g}" for sigma in context.settings.sigmas]
    return {
        space: np.array([[levels[sigma][end] for end in ("low", "mean", "high")] for sigma in sigmas])
        for space, levels in by_space.items()
        if space not in OTHERS
    }


def target_pictures(context: Context, arrays: Arrays, summary: dict) -> list:
    """Figure 7: targets beside their nearest images in phi and in pixels."""
    targets = arrays["targets"]
    parts = [targets[start : start + TARGETS_A_FIGURE] for start in range(0, len(targets), TARGETS_A_FIGURE)]
    caption = (
        f"Images (left) and the nearest of {summary['groups']['all']['images']:,} others, the nearest first, by cosine in "
        f"phi (σ = {context.settings.sigma:g}/255), in phi with its mean taken off, and in pixels (figure 7). The images are "
        "spread evenly over the set, not selected."
    )
    return [
        picture(context, target_figure(context, arrays, part), f"neighbours_{number}", caption)
        for number, part in enumerate(parts, 1)
    ]


def target_figure(context: Context, arrays: Arrays, targets: np.ndarray) -> Any:
    """Rows of images: a target and its neighbours in each space."""
    rows, headings, notes, captions = [], [], [], []
    for target in targets:
        for space in ("phi", "phi" + CENTRED, "pixels"):
            nearest = arrays[f"index/all/{space}"][target, :SHOWN]
            shown = context.images.images[[target, *nearest]] / np.float32(255)
            if space != "phi":
                shown[0] = np.nan  # the target is there already
            rows.append(shown)
            headings.append(f"nearest in {space}")
            notes.append("after the image itself" if space == "phi" else "")
            captions.append([name_of(context, int(row)) for row in (target, *nearest)])
    return figures.image_rows(rows, headings, notes, captions if context.images.labels is not None else None)


def name_of(context: Context, row: int) -> str:
    """The name of an image's label, short enough to stand below it."""
    if context.images.labels is None:
        return ""
    label, names = int(context.images.labels[row]), context.images.class_names
    name = names[label] if label < len(names) else f"label {label}"
    return name if len(name) <= 16 else f"{name[:15]}…"
