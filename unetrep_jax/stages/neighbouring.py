"""Nearest images in phi, in pixels and in controls: what they look like, and how often they share the query's label (figure 7)."""

import functools
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unetrep_jax import measures, neighbours, probes, storage
from unetrep_jax.stages.channels import count_channels
from unetrep_jax.stages.context import Arrays, Context, layout_of, phi, spread, write_stage
from unetrep_jax.stages.remembered import remember
from unetrep_jax.stages.wording import estimate_of, quartiles_of
from unetrep_jax.storage import InputError

PCA_IMAGES = 10_000  # from which the principal axes of the pixels are taken, spread over the set
ALIKE_IMAGES = 2000  # which are compared with their neighbours pixel by pixel, spread over the set
PERMUTATIONS = 200  # of the labels

SWEEPS = {"phi": "representations", "untrained phi": "untrained"}
CENTRED = ", centred"
PERMUTATION, RANDOM_IMAGES = 41, 42  # what random numbers are for sets them apart from others of the same seed
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
    of_networks = {name: phi(context, sweep, context.working) for name, sweep in SWEEPS.items()}
    summary["channels"] = {name: count_channels(features) for name, features in of_networks.items()}
    summary["components"] = component_count(context)
    summary["common_part"] = {name: common_part(features) for name, features in of_networks.items()}
    summary["noise_part"] = {name: noise_part(context, sweep) for name, sweep in SWEEPS.items()}
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


def noise_part(context: Context, sweep: str) -> float | None:
    """The share of phi's variance over images that is the noise of the draws it is averaged over; None where that is not known."""
    block = list(layout_of(context).columns).index("mid")
    variance = np.load(context.outdir / sweep / "variance.npy", mmap_mode="r")[:, context.working, block]
    draws = context.settings.draws if context.settings.sigma else 1
    noise = variance.mean(dtype=np.float64) / draws
    whole = phi(context, sweep, context.working).var(0, dtype=np.float64).sum()
    return float(noise / whole) if whole > 0 and np.isfinite(noise) else None


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


def length_of(context: Context, space: str) -> int:
    """How many numbers a space has of an image."""
    sweep = space.removesuffix(CENTRED)
    if sweep in SWEEPS:
        return phi(context, SWEEPS[sweep], context.working).shape[1]
    return component_count(context) if space.startswith("principal") else int(np.prod(context.images.images.shape[1:]))


def pixel_components(context: Context) -> np.ndarray:
    """Coordinates of all images on as many principal axes of the pixels as phi has channels, or as there can be."""
    images = context.images.images
    sample = images[spread(len(images), PCA_IMAGES)]
    axes = probes.principal_axes(sample, component_count(context), seed=context.settings.seed)
    return probes.project(axes, images)


def component_count(context: Context) -> int:
    """How many principal components the pixels are given: phi's channels, or as many as images or pixels allow."""
    images = context.images.images
    width = phi(context, "representations", context.working).shape[1]
    return min(width, min(len(images), PCA_IMAGES) - 1, int(np.prod(images.shape[1:])))


def search_group(
    context: Context, group: str, rows: np.ndarray, spaces: Sequence[str], arrays: Arrays, remembered: Callable
) -> dict:
    """Neighbours of every image of a group in every space and at every noise level: means over the images, with intervals.

    The neighbours at the working level go to `arrays`, as positions within the group.
    """
    labels = None if why_no_labels(context.images.labels) else context.images.labels[rows]
    values = {}  # (measure, space, level) -> of every image
    searches = [(space, level) for space in spaces for level in levels_of(context, space)]
    # Pairs of pixels take much longer than those of phi, so the operations are counted and not the pairs.
    pair = {space: 2e-6 * length_of(context, space) for space in spaces}
    total = round(sum(pair[space] for space, _ in searches) * len(rows) ** 2)
    with storage.Progress(f"neighbours among {len(rows):,} images", total, unit="MFLOP") as progress:
        before = 0.0
        for space, level in searches:
            advance = functools.partial(lambda each, pairs: progress.advance(int(pairs * each)), pair[space])
            make = functools.partial(searched, context, space, level, rows, remembered, advance)
            index = remembered(f"{group} {space} {level}", make)["index"]
            before += pair[space] * len(rows) ** 2
            progress.advance(round(before) - progress.done)  # what was remembered
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
    column = {name: place for place, name in enumerate(values)}
    result: dict = {}
    for measure, space, level in values:
        estimate = estimate_of(means[:, column[measure, space, level]])
        result.setdefault(measure, {}).setdefault(space, {})[f"{context.settings.sigmas[level]:g}"] = estimate
    phi_at = ("agreement", "phi", context.working)
    for space in result.get("agreement", {}):
        other = ("agreement", space, context.working)
        more = estimate_of(means[:, column[phi_at]] - means[:, column[other]])
        result.setdefault("phi_agrees_more_by", {})[space] = more
    return result


def chance(index: np.ndarray, labels: np.ndarray, seed: int) -> dict:
    """Agreement without any relation of labels to features: from the class frequencies, and with permuted labels."""
    rng = np.random.default_rng([seed, PERMUTATION])
    orders = (rng.permutation(labels) for _ in range(PERMUTATIONS))
    permuted = [neighbours.agreement(index, order, order).mean() for order in orders]
    return {
        "class_frequencies": neighbours.chance_of_agreement(labels),
        "permuted": estimate_of(np.array([np.mean(permuted), *permuted])),
    }


def alike(context: Context, arrays: Arrays) -> dict:
    """How far images lie in pixels from their neighbours, and from random others: the root mean square, quartiles over images."""
    images = context.images.images
    rng = np.random.default_rng([context.settings.seed, RANDOM_IMAGES])
    rows = spread(len(images), ALIKE_IMAGES)
    others = {space: arrays[f"index/all/{space}"][rows] for space in ("phi", "phi" + CENTRED, *OTHERS)}
    others["random images"] = (rows[:, None] + rng.integers(1, len(images), others["phi"].shape)) % len(images)
    for name, index in others.items():
        arrays[f"alike/{name}"] = neighbours.distances_to(images[rows], images, index, metric="euclidean").mean(1)
    return {"images": len(rows)} | {name: quartiles_of(arrays[f"alike/{name}"]) for name in others}
