"""Selectivity of the channels of phi: its distribution, two groups of channels, and what sets these apart (figure 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import devices, measures, report, representation, selectivity, storage
from unetrep_jax.figures import selectivity as drawing
from unetrep_jax.stages.context import Arrays, Context, layout_of, phi, picture, write_stage
from unetrep_jax.stages.wording import quartiles_of, quartiles_text
from unetrep_jax.storage import InputError

REFERENCE = 50.0  # x 255: the level that others are compared with, which the paper does not state
GROUPS = ("specialised", "common")
MARGINAL_EDGES = np.linspace(-4, 12, 81)  # deviations
POPULATIONS = {"trained": "trained", "trained_subset": "trained, fewer images", "untrained": "untrained"}
THRESHOLDS = {"maximum": "maximum at σ = 0", "percentile": "99.9th percentile at σ = 0", "none": "no threshold"}
# Quantities of single channels that are compared between the groups, and their decimals in tables.
PROPERTIES = {
    "mean": ("mean of phi_c over images", 4),
    "kurtosis": ("excess kurtosis of phi_c over images", 2),
    "correlation": ("correlation with itself at the reference level", 3),
    "frequency_breadth": ("share of spatial frequencies that drive it", 2),
    "orientation_breadth": ("share of orientations that drive it", 2),
}


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


def reference_level(settings: Any) -> int:
    """Position of the positive level nearest to 50/255."""
    distances = [abs(sigma - REFERENCE) if sigma > 0 else np.inf for sigma in settings.sigmas]
    return int(np.argmin(distances))


def populations(context: Context) -> dict[str, Callable[[int], np.ndarray]]:
    """What is compared: name -> (noise level -> phi [n, k]).

    Ratios and top images depend on the number of images: where the untrained network saw fewer, the trained one is also taken on
    these alone.
    """
    subset = context.untrained_subset
    found = {"trained": lambda level: phi(context, "representations", level)}
    if len(subset) < len(context.images.images):
        found["trained_subset"] = lambda level: phi(context, "representations", level)[subset]
    return found | {"untrained": lambda level: phi(context, "untrained", level)}


def run_selectivity(context: Context, folder: Path, key: str) -> None:
    """Ratios of all channels with every threshold, their distribution, and the properties of the two groups."""
    settings = context.settings
    zero, reference = level_without_noise(settings), reference_level(settings)
    arrays: Arrays = {"marginals/edges": MARGINAL_EDGES}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "draws": settings.draws,
        "reference_sigma_times_255": settings.sigmas[reference],
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
    for name, denoiser in {"trained": lambda: context.denoiser, "untrained": context.untrained}.items():
        responses = grating_responses(context, denoiser(), name)
        summary["groups"][name] = describe_groups(context, name, everyone[name], responses, arrays)
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
    for kind in THRESHOLDS:
        threshold = selectivity.thresholds(at_zero, kind)
        ratios = np.where(dead, np.nan, selectivity.selectivity(values, threshold))
        groups = selectivity.split_channels(ratios, seed=settings.seed)
        arrays[f"{name}/threshold/{kind}"], arrays[f"{name}/ratio/{kind}"] = threshold, ratios
        if kind == "maximum":
            arrays[f"{name}/specialised"], arrays[f"{name}/common"] = groups.specialised, groups.common
        spread = selectivity.off_the_lattice(ratios, (values > threshold).sum(0), len(values), settings.seed)
        by_threshold[kind] = describe_ratios(settings, ratios, spread, groups)
        by_threshold[kind]["off_in_all_images"] = int((np.isnan(ratios) & ~dead).sum())
    return {"images": len(values), "channels": len(dead), "dead": int(dead.sum()), "by_threshold": by_threshold}


def describe_ratios(settings: Any, ratios: np.ndarray, spread: np.ndarray, groups: selectivity.Groups) -> dict:
    """Quartiles, the dip of the ratios without their lattice on both scales, the two components, the sizes of the groups."""
    found, defined = groups.mixture, np.isfinite(ratios)
    result = {"channels": int(defined.sum()), "ratio": quartiles_of(ratios)}
    for scale, values in {"dip": spread[defined], "dip_of_logit": selectivity.logit(spread[defined])}.items():
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
    """Cosine of each group's channels between every level and the reference: curves, and the mean over the other positive levels.

    Puts into `arrays` the quartiles over images of the cosine at every level, and each channel's correlation over images with
    itself at the reference level, averaged over the same levels.
    """
    settings = context.settings
    reference = reference_level(settings)
    groups = {group: arrays[f"{name}/{group}"] for group in GROUPS}
    dealt = selectivity.permuted_groups(*groups.values(), settings.selectivity_simulations, settings.seed)
    masks = np.concatenate([np.stack(list(groups.values())), *dealt])
    against = values_at(reference)
    curves, cosines, correlations = {group: [] for group in GROUPS}, [], []
    with storage.Progress(f"stability of channels, {name}", len(settings.sigmas), unit="levels") as progress:
        for level, sigma in enumerate(settings.sigmas):
            values = values_at(level)
            for group, members in groups.items():
                cosine = measures.cosine(values[:, members], against[:, members])
                curves[group].append(measures.quartiles(cosine))
            if sigma > 0 and level != reference:
                cosines.append(selectivity.group_cosines(values, against, masks))
                correlations.append(selectivity.channel_correlations(values, against))
            progress.advance(1)
    for group, curve in curves.items():
        arrays[f"{name}/cosine/{group}"] = np.stack(curve)
    undefined = np.full((1, len(masks)), np.nan), np.full((1, against.shape[1]), np.nan)
    averaged = np.mean(cosines or undefined[0], axis=0)
    arrays[f"{name}/correlation"] = np.mean(correlations or undefined[1], axis=0)
    by_chance = averaged[2 + len(dealt[0]) :] - averaged[2 : 2 + len(dealt[0])]
    chance = selectivity.p_value(float(averaged[1] - averaged[0]), by_chance)
    return {"specialised": float(averaged[0]), "common": float(averaged[1]), "p_value": chance, "undefined": 0}


def marginal_density(values: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Histogram over images of each channel at mean 0 and deviation 1, as a density, averaged over the channels of a group."""
    if not members.any():
        return np.full(len(MARGINAL_EDGES) - 1, np.nan)
    total = np.zeros(len(MARGINAL_EDGES) - 1)
    for channel in np.flatnonzero(members):
        column = values[:, channel].astype(np.float64)
        total += np.histogram((column - column.mean()) / column.std(), MARGINAL_EDGES)[0]
    return total / (members.sum() * len(values) * np.diff(MARGINAL_EDGES))


def grating_responses(context: Context, denoiser: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """phi of gratings [f, o, p, k] and of blank grey [p, k], at the working level.

    Every grating of one phase, and one blank, get the same noise, so that their difference is hardly touched by it. Streamed to
    disk: killed, it goes on where it was.
    """
    settings, shape = context.settings, context.images.images.shape[1:]
    bank = selectivity.gratings(*shape)
    phases = bank.shape[2]
    stimuli = np.concatenate([np.full((phases, *shape), 0.5, np.float32), bank.reshape(-1, *shape)])
    folder = context.outdir / "gratings" / name
    what = [settings.sigma, settings.draws, settings.seed, stimuli.shape]
    key = storage.fingerprint("gratings", name, context.identity, what)
    if not storage.is_complete(folder, key):
        step = devices.parallel_map(
            representation.noise_averages_of(denoiser.represent, seed=settings.seed), settings.batch_size
        )
        constants = (context.sigmas[context.working], np.int32(settings.draws if settings.sigma else 1))
        begin, end = layout_of(context).columns["mid"]
        writer = storage.RowWriter(folder, key, len(stimuli), {"phi": ((end - begin,), np.float32)})
        with storage.Progress(f"gratings, {name}", len(stimuli), done=writer.rows_done) as progress:
            for first in range(writer.rows_done, len(stimuli), settings.batch_size):
                some = stimuli[first : first + settings.batch_size]
                repetition = (first + np.arange(len(some), dtype=np.int32)) % phases
                writer.append(phi=step(constants, (some, repetition)))
                progress.advance(len(some))
        writer.finish()
    found = np.load(folder / "phi.npy")
    return found[phases:].reshape(*bank.shape[:3], -1), found[:phases]


def section_selectivity(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Claims, tables, and figure 4's histograms."""
    names = list(summary["distributions"])
    ratios = {
        POPULATIONS[name]: {label: arrays[f"{name}/ratio/{kind}"] for kind, label in THRESHOLDS.items()}
        for name in names
    }
    logits = {
        name: {kind: selectivity.logit(values[np.isfinite(values)]) for kind, values in row.items()}
        for name, row in ratios.items()
    }
    fits = {
        POPULATIONS[name]: {
            label: drawn_mixture(summary["distributions"][name]["by_threshold"][kind])
            for kind, label in THRESHOLDS.items()
        }
        for name in names
    }
    networks = tuple(summary["groups"])
    cosines = {name: {group: arrays[f"{name}/cosine/{group}"] for group in GROUPS} for name in networks}
    marginals = {name: {group: arrays[f"marginals/{name}/{group}"] for group in GROUPS} for name in networks}
    labels = {quantity: label for quantity, (label, _) in PROPERTIES.items()}
    scatter = drawing.group_scatter(
        selectivity.logit(arrays["channels/selectivity"]),
        {group: arrays[f"channels/{group}"] for group in GROUPS},
        {label: arrays[f"trained/{quantity}"] for quantity, label in labels.items()},
        logarithmic=(labels["kurtosis"],),
    )
    reference = f"{summary['reference_sigma_times_255']:g}/255"
    return report.Section(
        "Selectivity of channels",
        selectivity_text(summary),
        [distribution_table(summary), group_table(summary)],
        [
            picture(
                context,
                drawing.ratio_histograms(ratios),
                "channel_selectivity",
                "Participation ratio of each channel over images (figure 4): small for a channel that few images use. "
                "Columns: ways of taking the threshold.",
            ),
            picture(
                context,
                drawing.mixture_histograms(logits, fits),
                "channel_selectivity_mixture",
                "The same on the scale of the logit, with the two Gaussians fitted there and where they cross.",
            ),
            picture(
                context,
                scatter,
                "channel_groups",
                "Properties of the trained network's channels against their selectivity.",
            ),
            picture(
                context,
                drawing.marginal_densities(arrays["marginals/edges"], marginals),
                "channel_marginals",
                "Distribution of phi_c over images in the two groups, every channel scaled to mean 0 and deviation 1 (figure 13 of "
                "the paper's second version).",
            ),
            picture(
                context,
                drawing.group_stability(context.sigmas, cosines),
                "channel_stability",
                f"Cosine of each group's channels between a noise level and σ = {reference}: median and quartiles over images.",
            ),
        ],
        selectivity_claims(summary),
    )


def drawn_mixture(row: dict) -> dict | None:
    """A fitted mixture as the figure takes it."""
    if row["mixture"] is None:
        return None
    fit = {name: np.array(row["mixture"][name]) for name in ("weights", "means", "deviations")}
    found = row["mixture"]["crossing"]
    return fit | {"crossing": float("nan") if found is None else found}


def selectivity_text(summary: dict) -> list[str]:
    """How channels were told apart, and what the tables cannot show."""
    first = summary["distributions"]["trained"]["by_threshold"]["maximum"]
    how = f"Specialised channels are those with a ratio below {number(first['boundary'], 4)}, where the two Gaussians cross."
    if first["terciles"]:
        how = (
            "**No boundary between two groups was found** (one Gaussian describes the logits as well as two, or the two do not "
            "cross): the lower third of the ratios is called specialised here, the upper third common."
        )
    return [
        "PR_c is a channel's participation ratio over images after values at or below its threshold are set to 0: the share of the "
        f"images that use the channel. {how} These groups are by the largest value without noise; the two other thresholds are in "
        "the table.",
        "Two components winning by BIC is weaker than two humps: two Gaussians also describe one skewed hump better than one. The "
        "dip asks for humps. For it, ratios of channels that are on in some images only are spread at random over one image's "
        "step (1/N), lest the lattice of few images count as humps.",
        "Without a threshold PR_c = 1 / (1 + (deviation / mean)²): that common channels have larger means is in part how they were "
        "chosen, and a cosine grows with the mean. The correlation of a channel with itself over images does not.",
        f"Breadth: {selectivity.FREQUENCIES} spatial frequencies × {selectivity.ORIENTATIONS} orientations × {selectivity.PHASES} "
        f"phases of sinusoidal gratings of contrast {selectivity.CONTRAST:g} over mid grey, with the noise of the working level; "
        "participation ratio of the response above that to blank grey, over frequencies and over orientations. A channel that no "
        "grating drives has none and is left out.",
    ]


def distribution_table(summary: dict) -> report.Table:
    """A row for each set of images and threshold."""
    rows = [
        (
            f"{POPULATIONS[name]}, {label}",
            f"{found['images']:,}",
            f"{row['channels']}",
            f"{found['dead']}",
            f"{row['off_in_all_images']}",
            quartiles_text(row["ratio"], 4) if row["channels"] else None,
            with_p(row["dip"], row["dip_p"], 4),
            with_p(row["dip_of_logit"], row["dip_of_logit_p"], 4),
            number(row["mixture"]["bic_gain"], 1) if row["mixture"] else None,
            number(row["boundary"], 4),
            f"{row['specialised']} / {row['common']}",
        )
        for name, found in summary["distributions"].items()
        for label, row in ((THRESHOLDS[kind], row) for kind, row in found["by_threshold"].items())
    ]
    return report.Table(
        f"Participation ratios of channels over images at σ = {summary['sigma_times_255']:g}/255, {summary['draws']} noise draws. "
        "Left out: dead channels (the same for all images) and those off in all images. Dips of the ratios and of their logits "
        f"with p-values against {summary['simulations']:,} samples of the uniform; BIC of one Gaussian minus that of two, on the "
        "logits (positive: two are better); where the two cross (a dash: terciles instead).",
        (
            "network, threshold", "images", "channels", "dead", "off", "PR_c, median (quartiles)", "dip (p)",
            "dip of logit (p)", "BIC gain", "boundary", "specialised / common",
        ),
        rows,
    )  # fmt: skip


def group_table(summary: dict) -> report.Table:
    """A row for each property, both networks."""
    rows = []
    for quantity, (label, decimals) in (PROPERTIES | {"cosine": ("cosine with the reference level", 4)}).items():
        cells: list = [label]
        for name in ("trained", "untrained"):
            found = summary["groups"][name][quantity]
            cells += [*(number(found[group], decimals) for group in GROUPS), number(found["p_value"], 3)]
            cells.append(f"{found['undefined']}")
        rows.append(tuple(cells))
    columns = ("specialised", "common", "p", "left out")
    return report.Table(
        "Specialised and common channels: medians over channels (the cosine, of all a group's channels: mean over images), and "
        "the two-sided p-value of their difference when channels are dealt to the groups at random "
        f"({summary['simulations']:,} times). Correlation and cosine: mean over the positive noise levels other than the "
        f"reference, σ = {summary['reference_sigma_times_255']:g}/255. Left out: channels for which it is undefined.",
        ("property", *(f"{column}, {name}" for name in ("trained", "untrained") for column in columns)),
        rows,
    )


def selectivity_claims(summary: dict) -> list:
    """The paper's statements on channels; each null is the untrained network's, treated alike, or groups dealt at random."""
    trained, untrained = summary["groups"]["trained"], summary["groups"]["untrained"]
    rows = {name: found["by_threshold"]["maximum"] for name, found in summary["distributions"].items()}

    def both(quantities: dict[str, int]) -> tuple[str, str]:
        here = "; ".join(in_words(q, trained[q], d) for q, d in quantities.items())
        return here, "untrained network: " + "; ".join(in_words(q, untrained[q], d) for q, d in quantities.items())

    return [
        report.Claim(
            "The distribution of selectivity over channels is bimodal.",
            None,
            bimodality_in_words(rows["trained"]),
            f"untrained network: {bimodality_in_words(rows['untrained'])}",
            verdict(*bimodality(rows["trained"])),
        ),
        report.Claim(
            "Specialised channels are heavy-tailed over images, common ones near Gaussian (second version).",
            None,
            *both({"kurtosis": 2}),
            verdict(*heavy_tails(trained["kurtosis"])),
        ),
        report.Claim("Common channels have larger means.", None, *both({"mean": 4}), verdict(larger(trained["mean"]))),
        report.Claim(
            "Common channels are broader in spatial frequency and orientation.",
            None,
            *both({"frequency_breadth": 2, "orientation_breadth": 2}),
            verdict(larger(trained["frequency_breadth"]), larger(trained["orientation_breadth"])),
        ),
        report.Claim(
            "Common channels are more stable to noise.",
            None,
            *both({"cosine": 4, "correlation": 3}),
            verdict(larger(trained["cosine"]), larger(trained["correlation"])),
        ),
    ]


SHORT = {
    "mean": "mean",
    "kurtosis": "excess kurtosis",
    "frequency_breadth": "frequencies",
    "orientation_breadth": "orientations",
    "cosine": "cosine",
    "correlation": "correlation",
}


def in_words(quantity: str, found: dict, decimals: int) -> str:
    """The two groups' numbers, with the p-value of groups dealt at random."""
    specialised, common = (number(found[group], decimals) or "–" for group in GROUPS)
    chance = number(found["p_value"], 3) or "–"
    return f"{SHORT[quantity]} {specialised} specialised, {common} common (groups dealt at random: p = {chance})"


def bimodality_in_words(row: dict) -> str:
    """Dips and BIC in a line."""
    gain = number(row["mixture"]["bic_gain"], 0) if row["mixture"] else "–"
    dips = [with_p(row[scale], row[f"{scale}_p"], 3) or "–" for scale in ("dip", "dip_of_logit")]
    return f"dip (p) {dips[0]}, of the logits {dips[1]}; BIC gain of two Gaussians {gain}; {row['channels']} channels"


def bimodality(row: dict) -> list[bool | None]:
    """Whether the dip rejects one hump (on either scale, each at half of 5 %), and whether BIC then prefers two Gaussians too.

    BIC alone does not count: two Gaussians also describe one skewed hump.
    """
    if row["dip_p"] is None or row["mixture"] is None:
        return [None]
    humps = min(row["dip_p"], row["dip_of_logit_p"]) < 0.025
    return [humps, humps and row["mixture"]["bic_gain"] > 0]


def larger(found: dict) -> bool | None:
    """Whether common channels have more of it, beyond what dealing them at random gives in 5 % of the cases."""
    return None if found["p_value"] is None else found["common"] > found["specialised"] and found["p_value"] < 0.05


def heavy_tails(found: dict) -> list[bool | None]:
    """Whether specialised channels have the larger kurtosis, and common ones then a median within 1 of a Gaussian's (our cut)."""
    if found["p_value"] is None:
        return [None]
    heavier = found["specialised"] > found["common"] and found["p_value"] < 0.05
    return [heavier, heavier and abs(found["common"]) < 1]


def verdict(*parts: bool | None) -> str:
    """yes when all parts hold, no when none does, in part otherwise; nothing when one cannot be said."""
    if None in parts:
        return ""
    return "yes" if all(parts) else "in part" if any(parts) else "no"


def number(value: float | int | None, decimals: int) -> str | None:
    """As printed; None where there is none."""
    return None if value is None or not np.isfinite(value) else f"{value:.{decimals}f}"


def with_p(value: float | None, chance: float | None, decimals: int) -> str | None:
    """A number and its p-value."""
    return None if number(value, decimals) is None else f"{value:.{decimals}f} ({number(chance, 3) or '–'})"
