"""Selectivity of the channels of phi: its distribution, two groups of channels, and what sets these apart (figure 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import measures, selectivity, stimuli, storage
from unetrep_jax.stages.context import Arrays, Context, compared_levels, phi, reference_level, write_stage
from unetrep_jax.stages.responses import BANKS, stimulus_responses
from unetrep_jax.stages.wording import quartiles_of
from unetrep_jax.storage import InputError

GROUPS = ("specialised", "common")
MARGINAL_EDGES = np.linspace(-4, 12, 81)  # deviations
KINDS = ("maximum", "percentile", "none")  # of thresholds; the first defines the groups
# Bank of stimuli -> names of the breadth over its frequencies and over its orientations.
BREADTHS = {
    "gratings": ("frequency_breadth", "orientation_breadth"),
    "textures": ("texture_frequency_breadth", "texture_orientation_breadth"),
}
# Quantities of single channels that are compared between the groups.
PROPERTIES = ("mean", "kurtosis", "correlation", *(name for names in BREADTHS.values() for name in names))
# Simulated dips behind a p-value at each noise level: every level has another number of channels, and so a null of its own, and
# 200 still tell 5 % from 2 %.
SIMULATIONS_BY_NOISE = 200
DIPS = ("dip", "dip_of_logit")
HUMPS_BELOW = 0.025  # the dips of two scales are looked at, each at half of 5 %


def level_without_noise(settings: Any) -> int:
    """Position of sigma = 0 in the grid.

    Raises:
      InputError: the grid has no such level.
    """
    if 0 not in settings.sigmas:
        raise InputError(
            f"analysis.sigmas = {tuple(settings.sigmas)} has no level 0, at which the channels' thresholds are taken; add 0.0."
        )
    return list(settings.sigmas).index(0)


def populations(context: Context) -> dict[str, Callable[[int], np.ndarray]]:
    """What is compared: name -> (noise level -> phi [n, k]).

    Ratios, p-values and top images depend on the number of images: where the untrained network saw fewer, the trained one is also
    taken on these alone, with groups of its own, and that is what the untrained network is held against.
    """
    subset = context.untrained_subset
    found = {"trained": lambda level: phi(context, "representations", level)}
    if len(subset) < len(context.images.images):
        found["trained_subset"] = lambda level: phi(context, "representations", level)[subset]
    return found | {"untrained": lambda level: phi(context, "untrained", level)}


def run_selectivity(context: Context, folder: Path, key: str) -> None:
    """Ratios of all channels with every threshold, their distribution, and the properties of the two groups."""
    settings = context.settings
    zero, reference = level_without_noise(settings), reference_level(context)
    arrays: Arrays = {"marginals/edges": MARGINAL_EDGES}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "draws": settings.draws,
        "reference_sigma_times_255": settings.sigmas[reference],
        "compared_times_255": [settings.sigmas[level] for level in compared_levels(context)],
        "simulations": settings.selectivity_simulations,
        "simulations_by_noise": min(SIMULATIONS_BY_NOISE, settings.selectivity_simulations),
        "distributions": {},
        "groups": {},
        "by_noise": {},
    }
    everyone = populations(context)
    with storage.Progress("selectivity", len(everyone), unit="sets of images") as progress:
        for name, values_at in everyone.items():
            values, at_zero = values_at(context.working), values_at(zero)
            summary["distributions"][name] = distributions(settings, name, values, at_zero, arrays)
            progress.advance(1)
    responses = {
        network: {bank: stimulus_responses(context, bank, denoiser, network) for bank in BANKS}
        for network, denoiser in (("trained", context.denoiser), ("untrained", context.untrained()))
    }
    for name, values_at in everyone.items():
        of_network = responses["untrained" if name == "untrained" else "trained"]
        summary["groups"][name] = describe_groups(context, name, values_at, of_network, arrays)
        summary["by_noise"][name] = by_noise(settings, name, values_at, arrays)
    write_stage(folder, key, arrays | channels_of(arrays), summary)


def channels_of(arrays: Arrays) -> Arrays:
    """What other stages read: threshold, ratio and group of every channel of the trained network."""
    ratios = {"threshold": "threshold/maximum", "selectivity": "ratio/maximum"}
    names = ratios | {name: name for name in (*GROUPS, "dead")}
    return {f"channels/{name}": arrays[f"trained/{source}"] for name, source in names.items()}


class Ratios(NamedTuple):
    """How many images use each channel.

    Attributes:
      ratio, logit: PR_c and its logit; NaN for dead channels and those off in all images.
      scales: the same two without their lattice, as the dip takes them: name of the dip -> values.
    """

    ratio: np.ndarray
    logit: np.ndarray
    scales: dict[str, np.ndarray]


def channel_ratios(values: np.ndarray, threshold: np.ndarray, seed: int) -> Ratios:
    """Ratios of channels from their values over images [n, k], above a threshold for each."""
    dead = selectivity.dead_channels(values)
    ratio, logit = (
        np.where(dead, np.nan, of(values, threshold)) for of in (selectivity.selectivity, selectivity.logits)
    )
    # Without a threshold, what is 0 adds nothing to a ratio either.
    on = ((values > threshold) & (values != 0)).sum(0)
    spread = selectivity.off_the_lattice(ratio, on, len(values), seed)
    scales = (spread, np.where(on < len(values), selectivity.logit(spread), logit))
    return Ratios(ratio, logit, dict(zip(DIPS, scales, strict=True)))


def dips(ratios: Ratios, simulations: int, seed: int) -> dict[str, float]:
    """The dip of the ratios and of their logits, each with its p-value; NaN without any channel."""
    found, defined = {}, np.isfinite(ratios.ratio)
    for scale, values in ratios.scales.items():
        statistic = selectivity.dip(values[defined])
        chance = selectivity.dip_p_value(statistic, int(defined.sum()), simulations=simulations, seed=seed)
        found |= {scale: statistic, f"{scale}_p": chance}
    return found


def distributions(settings: Any, name: str, values: np.ndarray, at_zero: np.ndarray, arrays: Arrays) -> dict:
    """Ratios with every threshold, and their distribution; the groups are those of the first threshold."""
    dead = selectivity.dead_channels(values)
    arrays[f"{name}/dead"] = dead
    by_threshold = {}
    for kind in KINDS:
        threshold = selectivity.thresholds(at_zero, kind)
        ratios = channel_ratios(values, threshold, settings.seed)
        groups = selectivity.split_channels(ratios.logit, seed=settings.seed)
        arrays[f"{name}/threshold/{kind}"] = threshold
        arrays[f"{name}/ratio/{kind}"], arrays[f"{name}/logit/{kind}"] = ratios.ratio, ratios.logit
        if kind == KINDS[0]:
            arrays[f"{name}/specialised"], arrays[f"{name}/common"] = groups.specialised, groups.common
        by_threshold[kind] = describe_ratios(settings, ratios, groups)
        by_threshold[kind]["off_in_all_images"] = int((np.isnan(ratios.ratio) & ~dead).sum())
    return {"images": len(values), "channels": len(dead), "dead": int(dead.sum()), "by_threshold": by_threshold}


def describe_ratios(settings: Any, ratios: Ratios, groups: selectivity.Groups) -> dict:
    """Quartiles, the dip of the ratios without their lattice on both scales, the two components, the sizes of the groups."""
    found = groups.mixture
    result = {"channels": int(np.isfinite(ratios.ratio).sum()), "ratio": quartiles_of(ratios.ratio)}
    result |= dips(ratios, settings.selectivity_simulations, settings.seed)
    result["mixture"] = None if found is None else {k: np.asarray(v).tolist() for k, v in found._asdict().items()}
    sizes = {group: int(getattr(groups, group).sum()) for group in GROUPS}
    return result | {"boundary": groups.boundary, "terciles": bool(np.isnan(groups.boundary)), **sizes}


def by_noise(settings: Any, name: str, values_at: Callable, arrays: Arrays) -> dict[str, int]:
    """Ratios and dips at every noise level, with the threshold that defines the groups, and ratios without one.

    At the level 0 the threshold, the largest value there, turns everything off: no channel has a ratio there, and the thresholded
    numbers are NaN. Puts into `arrays`, for each level, how many channels have a ratio and how many are dead, the quartiles of the
    ratios over channels, and the dips with their p-values; returns at how many levels, of how many, a dip rejects one hump.
    """
    simulations = min(SIMULATIONS_BY_NOISE, settings.selectivity_simulations)
    threshold = selectivity.thresholds(values_at(level_without_noise(settings)), KINDS[0])
    rows = []
    with storage.Progress(f"selectivity by noise, {name}", len(settings.sigmas), unit="levels") as progress:
        for level in range(len(settings.sigmas)):
            values = values_at(level)
            dead = selectivity.dead_channels(values)
            everything = np.where(dead, np.nan, selectivity.selectivity(values, np.full_like(threshold, -np.inf)))
            ratios = channel_ratios(values, threshold, settings.seed)
            row = {"channels": np.isfinite(ratios.ratio).sum(), "dead": dead.sum()}
            row |= {"ratio": list(quartiles_of(ratios.ratio).values())}
            row |= {"ratio_without_threshold": list(quartiles_of(everything).values())}
            rows.append(row | dips(ratios, simulations, settings.seed))
            progress.advance(1)
    found = {quantity: np.array([row[quantity] for row in rows]) for quantity in rows[0]}
    arrays.update({f"by_noise/{name}/{quantity}": values for quantity, values in found.items()})
    humps = np.minimum(found["dip_p"], found["dip_of_logit_p"]) < HUMPS_BELOW
    return {"levels_with_humps": int(humps.sum()), "levels": int(np.isfinite(found["dip_p"]).sum())}


def describe_groups(
    context: Context,
    name: str,
    values_at: Callable,
    responses: dict[str, tuple[np.ndarray, np.ndarray]],
    arrays: Arrays,
) -> dict:
    """Properties of specialised and common channels, each beside its p-value under permutations of the channels.

    `responses`: bank of stimuli -> phi of its stimuli and of blank grey.
    """
    settings = context.settings
    values = values_at(context.working)
    specialised, common = (arrays[f"{name}/{group}"] for group in GROUPS)
    arrays[f"{name}/mean"] = values.mean(0, dtype=np.float64)
    arrays[f"{name}/kurtosis"] = selectivity.excess_kurtosis(values)
    for bank, both in BREADTHS.items():
        for quantity, shares in zip(both, stimuli.breadth(*responses[bank]), strict=True):
            arrays[f"{name}/{quantity}"] = shares
    result = {"cosine": stability(context, name, values_at, arrays)}
    for group in GROUPS:
        arrays[f"marginals/{name}/{group}"] = marginal_density(values, arrays[f"{name}/{group}"])
    for quantity in PROPERTIES:
        of_channels = arrays[f"{name}/{quantity}"]
        result[quantity] = selectivity.compare_groups(
            of_channels, specialised, common, permutations=settings.selectivity_simulations, seed=settings.seed
        )._asdict()
        undefined = (specialised | common) & ~np.isfinite(of_channels)
        result[quantity]["undefined"] = int(undefined.sum())
    return result


def stability(context: Context, name: str, values_at: Callable, arrays: Arrays) -> dict:
    """Cosine of each group's channels between every level and the reference: curves, and the mean over the compared levels.

    Puts into `arrays` the quartiles over images of the cosine at every level, and each channel's correlation over images with
    itself at the reference level, averaged over the same levels. Levels at which a group has no cosine, or a channel no
    correlation, are left out of its mean and counted.
    """
    settings, reference, compared = context.settings, reference_level(context), compared_levels(context)
    groups = {group: arrays[f"{name}/{group}"] for group in GROUPS}
    dealt = selectivity.permuted_groups(*groups.values(), settings.selectivity_simulations, settings.seed)
    masks = np.concatenate([np.stack(list(groups.values())), *dealt])
    against = values_at(reference)
    curves = {group: [] for group in GROUPS}
    cosines, correlations = [np.empty((0, len(masks)))], [np.empty((0, against.shape[1]))]
    with storage.Progress(f"stability of channels, {name}", len(settings.sigmas), unit="levels") as progress:
        for level in range(len(settings.sigmas)):
            values = values_at(level)
            for group, members in groups.items():
                cosine = measures.cosine(values[:, members], against[:, members])
                curves[group].append(measures.quartiles(cosine))
            if level in compared:
                cosines.append(selectivity.group_cosines(values, against, masks)[None])
                correlations.append(selectivity.channel_correlations(values, against)[None])
            progress.advance(1)
    for group, curve in curves.items():
        arrays[f"{name}/cosine/{group}"] = np.stack(curve)
    cosines, correlations = np.concatenate(cosines), np.concatenate(correlations)
    averaged, arrays[f"{name}/correlation"] = mean_of_known(cosines), mean_of_known(correlations)
    by_chance = averaged[2 + len(dealt[0]) :] - averaged[2 : 2 + len(dealt[0])]
    chance = selectivity.p_value(float(averaged[1] - averaged[0]), by_chance)
    of_groups = cosines[:, :2][:, masks[:2].any(1)], correlations[:, masks[:2].any(0)]
    return {
        "specialised": float(averaged[0]),
        "common": float(averaged[1]),
        "p_value": chance,
        "undefined": int(np.isnan(of_groups[0]).sum()),
        "correlations_undefined": int(np.isnan(of_groups[1]).sum()),
    }


def mean_of_known(rows: np.ndarray) -> np.ndarray:
    """Mean of each column over its rows that are not NaN; NaN where none is."""
    known = ~np.isnan(rows)
    count, total = known.sum(0), np.where(known, rows, 0).sum(0)
    return np.divide(total, count, out=np.full(rows.shape[1], np.nan), where=count > 0)


def marginal_density(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Histogram over images of each channel at mean 0 and deviation 1, as a density, averaged over the channels of a group."""
    if not members.any():
        return np.full(len(MARGINAL_EDGES) - 1, np.nan)
    total = np.zeros(len(MARGINAL_EDGES) - 1)
    for channel in np.flatnonzero(members):
        column = values[:, channel].astype(np.float64)
        total += np.histogram((column - column.mean()) / column.std(), MARGINAL_EDGES)[0]
    return total / (members.sum() * len(values) * np.diff(MARGINAL_EDGES))
