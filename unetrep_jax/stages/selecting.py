"""Selectivity of the channels of phi: its distribution, two groups of channels, and what sets these apart (figure 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import measures, selectivity, storage
from unetrep_jax.stages.context import Arrays, Context, compared_levels, phi, reference_level, write_stage
from unetrep_jax.stages.gratings import grating_responses
from unetrep_jax.stages.wording import quartiles_of
from unetrep_jax.storage import InputError

GROUPS = ("specialised", "common")
MARGINAL_EDGES = np.linspace(-4, 12, 81)  # deviations
KINDS = ("maximum", "percentile", "none")  # of thresholds; the first defines the groups
# Quantities of single channels that are compared between the groups.
PROPERTIES = ("mean", "kurtosis", "correlation", "frequency_breadth", "orientation_breadth")


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
        "distributions": {},
        "groups": {},
    }
    everyone = populations(context)
    with storage.Progress("selectivity", len(everyone), unit="sets of images") as progress:
        for name, values_at in everyone.items():
            values, at_zero = values_at(context.working), values_at(zero)
            summary["distributions"][name] = distributions(settings, name, values, at_zero, arrays)
            progress.advance(1)
    responses = {
        "trained": grating_responses(context, context.denoiser, "trained"),
        "untrained": grating_responses(context, context.untrained(), "untrained"),
    }
    for name, values_at in everyone.items():
        to_gratings = responses["untrained" if name == "untrained" else "trained"]
        summary["groups"][name] = describe_groups(context, name, values_at, to_gratings, arrays)
    write_stage(folder, key, arrays | channels_of(arrays), summary)


def channels_of(arrays: Arrays) -> Arrays:
    """What other stages read: threshold, ratio and group of every channel of the trained network."""
    ratios = {"threshold": "threshold/maximum", "selectivity": "ratio/maximum"}
    names = ratios | {name: name for name in (*GROUPS, "dead")}
    return {f"channels/{name}": arrays[f"trained/{source}"] for name, source in names.items()}


def distributions(settings: Any, name: str, values: np.ndarray, at_zero: np.ndarray, arrays: Arrays) -> dict:
    """Ratios with every threshold, and their distribution; the groups are those of the first threshold."""
    dead = selectivity.dead_channels(values)
    arrays[f"{name}/dead"] = dead
    by_threshold = {}
    for kind in KINDS:
        threshold = selectivity.thresholds(at_zero, kind)
        ratios, logits = (
            np.where(dead, np.nan, of(values, threshold)) for of in (selectivity.selectivity, selectivity.logits)
        )
        groups = selectivity.split_channels(logits, seed=settings.seed)
        arrays[f"{name}/threshold/{kind}"], arrays[f"{name}/ratio/{kind}"] = threshold, ratios
        arrays[f"{name}/logit/{kind}"] = logits
        if kind == KINDS[0]:
            arrays[f"{name}/specialised"], arrays[f"{name}/common"] = groups.specialised, groups.common
        on = ((values > threshold) & (values != 0)).sum(
            0
        )  # without a threshold, what is 0 adds nothing to a ratio either
        spread = selectivity.off_the_lattice(ratios, on, len(values), settings.seed)
        scales = {"dip": spread, "dip_of_logit": np.where(on < len(values), selectivity.logit(spread), logits)}
        by_threshold[kind] = describe_ratios(settings, ratios, scales, groups)
        by_threshold[kind]["off_in_all_images"] = int((np.isnan(ratios) & ~dead).sum())
    return {"images": len(values), "channels": len(dead), "dead": int(dead.sum()), "by_threshold": by_threshold}


def describe_ratios(
    settings: Any, ratios: np.ndarray, scales: dict[str, np.ndarray], groups: selectivity.Groups
) -> dict:
    """Quartiles, the dip of the ratios without their lattice on both scales, the two components, the sizes of the groups."""
    found, defined = groups.mixture, np.isfinite(ratios)
    result = {"channels": int(defined.sum()), "ratio": quartiles_of(ratios)}
    for scale, values in ((scale, values[defined]) for scale, values in scales.items()):
        statistic = selectivity.dip(values)
        chance = selectivity.dip_p_value(
            statistic, len(values), simulations=settings.selectivity_simulations, seed=settings.seed
        )
        result |= {scale: statistic, f"{scale}_p": chance}
    result["mixture"] = None if found is None else {k: np.asarray(v).tolist() for k, v in found._asdict().items()}
    sizes = {group: int(getattr(groups, group).sum()) for group in GROUPS}
    return result | {"boundary": groups.boundary, "terciles": bool(np.isnan(groups.boundary)), **sizes}


def describe_groups(
    context: Context, name: str, values_at: Callable, responses: tuple[np.ndarray, np.ndarray], arrays: Arrays
) -> dict:
    """Properties of specialised and common channels, each beside its p-value under permutations of the channels."""
    settings = context.settings
    values = values_at(context.working)
    specialised, common = (arrays[f"{name}/{group}"] for group in GROUPS)
    arrays[f"{name}/mean"] = values.mean(0, dtype=np.float64)
    arrays[f"{name}/kurtosis"] = selectivity.excess_kurtosis(values)
    width = selectivity.breadth(*responses)
    arrays[f"{name}/frequency_breadth"], arrays[f"{name}/orientation_breadth"] = width
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
