"""Union of subspaces: supports, what excludes what, overlap in and between clusters, spectra, and counting (figure 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from unetrep_jax import measures, storage, subspaces
from unetrep_jax.stages import cluster_features, cluster_solutions
from unetrep_jax.stages.context import Arrays, Context, averages, phi, write_stage
from unetrep_jax.stages.wording import estimate_of, quartiles_of

CUTS = (0.001, 0.01, 0.1)  # "near zero": less than this fraction of a channel's mean at the working level
LEAST_SHARE, LEAST_IMAGES = 0.01, 5  # a channel must be on, and off, in so many images to have odds ratios
OVERLAP_IMAGES = 10_000  # of more images, a random sample is compared
ORDERS = 10  # random orders in which images are seen
PCA_MEMBERS = 500  # most images of a cluster in its PCA
PART = 0.9  # of the variance
SIGNIFICANT = 1.96  # standard errors
DRAWS = 200  # of images with replacement, behind an interval


class Cloud(NamedTuple):
    """One representation of a set of images, and what is needed to take its supports.

    Attributes:
      features: phi at the working level.
      thresholds: tau of each channel.
      groups: the K-means cluster of each image, found in these features; None where there are too few images for two clusters.
      specialised: the channels that fire in the fewest images.
    """

    features: Float[np.ndarray, "n k"]
    thresholds: Float[np.ndarray, "k"]
    groups: Integer[np.ndarray, "n"] | None
    specialised: Integer[np.ndarray, "s"]


SUPPORTS: dict[str, Callable[[Cloud], np.ndarray]] = {
    "threshold": lambda cloud: subspaces.channels_above(cloud.features, cloud.thresholds),
    "largest": lambda cloud: subspaces.largest_channels(cloud.features),
    "raised": lambda cloud: subspaces.channels_above_mean(cloud.features),
}


def run_subspaces(context: Context, folder: Path, key: str) -> None:
    """All numbers for the trained network, its permuted null and the untrained network, under each definition of a support."""
    settings = context.settings
    channels = channels_of(context)
    clouds = clouds_of(context, channels)
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "quiet_sigma_times_255": settings.sigmas[quiet_level(context)],
        "smallest_mean_size": settings.cluster_members,
        "channels": {"all": len(channels["dead"])}
        | {name: int(channels[name].sum()) for name in ("specialised", "common", "dead")},
        "sets": {},
    }
    with storage.Progress("supports", len(clouds) * len(SUPPORTS), unit="sets of supports") as progress:
        for name, cloud in clouds.items():
            effective = quartiles_of(subspaces.effective_channels(cloud.features))
            count = (
                0
                if cloud.groups is None
                else cluster_solutions.supported(context, settings.clusters[0], len(cloud.features))
            )
            of_set = {"images": len(cloud.features), "clusters": count, "effective_channels": effective}
            summary["sets"][name] = of_set
            for definition, supports_of in SUPPORTS.items():
                found, numbers = measure(cloud, supports_of(cloud), settings.seed)
                arrays |= {f"{part}/{definition}/{name}": values for part, values in found.items()}
                summary["sets"][name][definition] = numbers
                progress.advance(1)
    summary["spectra"] = spectra_of(clouds, settings.seed, arrays)
    summary["near_zero"] = near_zero(context, arrays)
    summary["scatter"] = scatter_of(clouds, channels, arrays)
    write_stage(folder, key, arrays, summary)


def channels_of(context: Context) -> Arrays:
    """Threshold and group of each channel, from the stage that found them; dead channels are in no group."""
    names = ("threshold", "specialised", "common", "dead")
    with np.load(context.outdir / "selectivity" / "arrays.npz") as found:
        channels = {name: found[f"channels/{name}"] for name in names}
    return channels | {name: channels[name] & ~channels["dead"] for name in ("specialised", "common")}


def quiet_level(context: Context) -> int:
    """Position of the lowest noise level of the grid, 0 where the grid has it."""
    return int(np.argmin(context.settings.sigmas))


def clouds_of(context: Context, channels: Arrays) -> dict[str, Cloud]:
    """Trained, permuted, untrained, and the trained network on the untrained one's images, each with its own clusters and tau.

    A representation and its null have as many images, and so as many clusters: as many as are asked for, or as the images support.
    """
    settings, level, some = context.settings, context.working, context.untrained_subset
    tau, specialised = channels["threshold"], np.flatnonzero(channels["specialised"])
    quiet = {stage: phi(context, stage, quiet_level(context)) for stage in ("representations", "untrained")}
    trained = cluster_features.phi_features(context, "representations", level)
    untrained = cluster_features.phi_features(context, "untrained", level)
    parts = {
        "trained": (trained, tau, specialised),
        "permuted": (cluster_features.null_features("permuted_null", trained, settings.seed), tau, specialised),
    }
    if len(some) < len(trained.rows):
        subset = cluster_features.phi_features(context, "representations", level, some)
        parts["same_images"] = subset, quiet["representations"][some].max(0), specialised
    rarest = subspaces.rarest_channels(untrained.rows, len(specialised))
    parts["untrained"] = untrained, quiet["untrained"].max(0), rarest
    solutions, clouds = cluster_solutions.Solutions(context), {}
    with storage.Progress("K-means", len(parts) * settings.cluster_runs, unit="runs") as progress:
        for name, (features, thresholds, special) in parts.items():
            count, groups = cluster_solutions.supported(context, settings.clusters[0], len(features.rows)), None
            if count >= 2:
                groups = solutions.kmeans(features, count, settings.seed, progress).assignment
            clouds[name] = Cloud(features.rows, thresholds, groups, special)
    return clouds


def measure(cloud: Cloud, supports: Bool[np.ndarray, "n k"], seed: int) -> tuple[Arrays, dict]:
    """Size, pairs of specialised channels, overlap and number of supports."""
    share = supports.mean(0)
    inside = subspaces.energy_inside(cloud.features, supports)
    numbers: dict = {
        "size": quartiles_of(supports.sum(1)),
        "never_on": int((share == 0).sum()),
        "always_on": int((share == 1).sum()),
        "energy_inside": quartiles_of(inside),
    }
    arrays: Arrays = {"size": supports.sum(1)}
    arrays["odds"], numbers["pairs"] = pairs_of(supports[:, cloud.specialised], seed)
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(supports), min(len(supports), OVERLAP_IMAGES), replace=False))
    overlap = subspaces.Overlap(*np.full((3, len(some)), np.nan))
    medians = np.full((1 + DRAWS, 2), np.nan)
    if cloud.groups is not None:
        overlap = subspaces.overlaps(supports[some], cloud.groups[some])
        times = subspaces.times_drawn(len(some), DRAWS, seed)
        medians = subspaces.resampled_median_overlaps(supports[some], cloud.groups[some], times)
    arrays["overlap"] = np.stack(overlap)
    numbers["overlap"] = {"images": len(some)} | {name: quartiles_of(v) for name, v in overlap._asdict().items()}
    numbers["overlap"]["medians"] = {
        name: estimate_of(draws) for name, draws in zip(("within", "between"), medians.T, strict=True)
    }
    arrays["seen"] = seen = subspaces.images_seen(len(supports))
    numbers["distinct"] = {}
    for name, of_channels in {"all": supports, "specialised": supports[:, cloud.specialised]}.items():
        counts = subspaces.accumulation(subspaces.support_numbers(of_channels), seen, orders=ORDERS, seed=seed)
        arrays[f"distinct/{name}"], new = counts, subspaces.new_in_second_half(seen, counts)
        numbers["distinct"][name] = {"supports": int(counts[0, -1]), "new_in_second_half": new}
    return arrays, numbers


def least_images(count: int) -> int:
    """Images that a channel must be on for, and off for, to have odds ratios."""
    return max(LEAST_IMAGES, int(np.ceil(LEAST_SHARE * count)))


def pairs_of(supports: Bool[np.ndarray, "n s"], seed: int) -> tuple[np.ndarray, dict]:
    """Log odds ratios of all pairs of these channels that have one, and how many exclude each other."""
    least = least_images(len(supports))
    odds = subspaces.log_odds_ratios(supports, least)
    pairs = np.triu(np.isfinite(odds.ratio), 1)
    ratio, error = odds.ratio[pairs], odds.error[pairs]
    numbers = {"pairs": len(ratio), "odds_ratio": quartiles_of(np.exp(ratio)), "lowest": None}
    if len(ratio):
        numbers["lowest"] = float(np.exp(ratio.min()))
        numbers["exclusive"] = float((ratio < -SIGNIFICANT * error).mean())
        numbers["together"] = float((ratio > SIGNIFICANT * error).mean())
        times = subspaces.times_drawn(len(supports), DRAWS, seed)
        numbers["median"] = estimate_of(subspaces.resampled_median_odds(supports, times, least))
    return ratio, numbers


def spectra_of(clouds: dict[str, Cloud], seed: int, arrays: Arrays) -> dict:
    """PCA inside clusters, of as many random images and of all; of equally many for a representation and its null."""
    result = {}
    for pair in (("trained", "permuted"), (*(name for name in ("same_images",) if name in clouds), "untrained")):
        if any(clouds[name].groups is None for name in pair):
            continue
        sizes = [np.unique(clouds[name].groups, return_counts=True)[1] for name in pair]
        members = min(PCA_MEMBERS, *(int(np.median(size)) for size in sizes), len(clouds[pair[0]].features))
        for name in pair:
            cloud = clouds[name]
            found = subspaces.group_spectra(cloud.features, cloud.groups, members, seed=seed)
            whole = subspaces.variance_shares(cloud.features)
            result[name] = {
                "members": members,
                "clusters": len(found.inside),
                "whole": subspaces.components_for(whole, PART),
                "dimension": dimensions_of(found, whole, seed),
            }
            arrays[f"spectrum/whole/{name}"] = np.cumsum(whole)
            for kind, shares in found._asdict().items():
                arrays[f"spectrum/{kind}/{name}"] = np.cumsum(shares, axis=1)
                needed = np.array([subspaces.components_for(row, PART) for row in shares])
                result[name][kind] = quartiles_of(needed)
    return result


def dimensions_of(found: subspaces.GroupSpectra, whole: np.ndarray, seed: int) -> dict:
    """Effective dimension inside clusters and of as many random images, their ratio, and that of all images.

    Means over clusters, and over random sets, with intervals over these: a cluster is one draw, for no two share an image.
    """
    means = {}
    for kind, shares in found._asdict().items():
        dimension = subspaces.effective_dimension(shares) if len(shares) else np.full(1, np.nan)
        means[kind] = measures.bootstrap_means(dimension[:, None], seed=seed)[:, 0]
    result = {kind: estimate_of(draws) for kind, draws in means.items()}
    result["ratio"] = estimate_of(means["inside"] / means["random"])
    return result | {"whole": float(subspaces.effective_dimension(whole))}


def near_zero(context: Context, arrays: Arrays) -> dict:
    """Share of channels near zero at every noise level, and of single values at the lowest."""
    result = {}
    for name, stage in {"trained": "representations", "untrained": "untrained"}.items():
        levels = range(averages(context, stage).shape[1])
        means = np.stack([phi(context, stage, level).mean(0, dtype=np.float64) for level in levels])
        reference = means[context.working]
        shares = subspaces.near_zero_share(means, reference, CUTS)
        single = subspaces.near_zero_share(phi(context, stage, quiet_level(context)), reference, CUTS)
        arrays[f"near_zero/{name}"] = shares
        result[name] = {
            "channels": int((reference > 0).sum()),
            "share_of_channels": shares[:, quiet_level(context)].tolist(),
            "share_of_values": [quartiles_of(row) for row in single],
        }
    return result


def scatter_of(clouds: dict[str, Cloud], channels: Arrays, arrays: Arrays) -> dict | None:
    """The two specialised channels with the lowest odds ratio, and the common channel that the most images use; of the null too.

    The share of images that use a channel is its participation ratio over them. Where there are no two specialised channels the two
    lowest take their place, and where none is common, the highest. The lowest of many pairs is low by chance as well, so the null
    shows the lowest of its own. None where no two of them vary, or there is no third.
    """
    trained = clouds["trained"]
    by_use = subspaces.rarest_channels(trained.features, trained.features.shape[1])
    specialised = len(trained.specialised) > 1
    candidates = trained.specialised if specialised else by_use[:2]
    found = (definition for definition in ("threshold", "raised") if lowest_pair(trained, candidates, definition))
    definition = next(found, None)
    if definition is None or len(by_use) < 3:
        return None
    result: dict = {"definition": definition, "specialised": specialised, "candidates": len(candidates), "clouds": {}}
    for name in ("trained", "permuted"):
        cloud = clouds[name]
        pair, odds_ratio = lowest_pair(cloud, candidates, definition)
        others = by_use[~np.isin(by_use, pair)]
        third = int([*others, *others[channels["common"][others]]][-1])
        shown = [*pair, third]
        cuts = cloud.thresholds if definition == "threshold" else cloud.features.mean(0, dtype=np.float64)
        on = SUPPORTS[definition](cloud)[:, pair]
        arrays[f"scatter/{name}"], arrays[f"scatter/cuts/{name}"] = cloud.features[:, shown], np.float64(cuts[shown])
        result["clouds"][name] = {
            "channels": shown,
            "common": bool(channels["common"][third]),
            "odds_ratio": odds_ratio,
            "both": int(on.all(1).sum()),
            "either": int(on.any(1).sum()),
        }
    return result


def lowest_pair(cloud: Cloud, candidates: np.ndarray, definition: str) -> tuple[list[int], float] | None:
    """The two of these channels with the lowest odds ratio, and that; None where no pair has one."""
    supports = SUPPORTS[definition](cloud)[:, candidates]
    odds = subspaces.log_odds_ratios(supports, least_images(len(supports))).ratio
    if not np.isfinite(odds).any():
        return None
    place = np.unravel_index(np.nanargmin(odds), odds.shape)
    return [int(candidates[i]) for i in place], float(np.exp(odds[place]))
