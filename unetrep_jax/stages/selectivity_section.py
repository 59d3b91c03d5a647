"""What the report says about the selectivity of channels: claims with their nulls, tables, and the figures (figure 4)."""

from typing import Any

import numpy as np

from unetrep_jax import report, stimuli
from unetrep_jax.figures import selectivity as drawing
from unetrep_jax.stages.context import Arrays, Context, picture
from unetrep_jax.stages.selecting import DIPS, GROUPS, HUMPS_BELOW, KINDS
from unetrep_jax.stages.selectivity_claims import selectivity_claims, turn_of, with_p
from unetrep_jax.stages.wording import QUARTILES, number, quartiles_text

POPULATIONS = {"trained": "trained", "trained_subset": "trained, fewer images", "untrained": "untrained"}
THRESHOLDS = dict(zip(KINDS, ("maximum at σ = 0", "99.9th percentile at σ = 0", "no threshold"), strict=True))
# What tables call a property of channels, and its decimals (None: two digits and a power of ten).
PROPERTIES = {
    "mean": ("mean of phi_c over images", 4),
    "kurtosis": ("excess kurtosis of phi_c over images", 2),
    "correlation": ("correlation with itself at the reference level", 3),
    "frequency_breadth": ("share of spatial frequencies that drive it, gratings", 2),
    "texture_frequency_breadth": ("share of spatial frequencies that drive it, noise textures", 2),
    "orientation_breadth": ("share of orientations that drive it, gratings", 2),
    "texture_orientation_breadth": ("share of orientations that drive it, noise textures", 2),
}


def section_selectivity(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Claims, tables, and figure 4's histograms."""
    names = list(summary["distributions"])
    ratios = {
        POPULATIONS[name]: {label: arrays[f"{name}/ratio/{kind}"] for kind, label in THRESHOLDS.items()}
        for name in names
    }
    logits = {
        POPULATIONS[name]: {label: arrays[f"{name}/logit/{kind}"] for kind, label in THRESHOLDS.items()}
        for name in names
    }
    fits = {
        POPULATIONS[name]: {
            label: drawn_mixture(summary["distributions"][name]["by_threshold"][kind])
            for kind, label in THRESHOLDS.items()
        }
        for name in names
    }
    cosines = {POPULATIONS[name]: {group: arrays[f"{name}/cosine/{group}"] for group in GROUPS} for name in names}
    marginals = {POPULATIONS[name]: {group: arrays[f"marginals/{name}/{group}"] for group in GROUPS} for name in names}
    labels = {quantity: label for quantity, (label, _) in PROPERTIES.items()}
    scatter = drawing.group_scatter(
        {
            POPULATIONS[name]: drawing.GroupedChannels(
                arrays[f"{name}/logit/maximum"],
                {group: arrays[f"{name}/{group}"] for group in GROUPS},
                {label: arrays[f"{name}/{quantity}"] for quantity, label in labels.items()},
            )
            for name in names
        },
        logarithmic=(labels["kurtosis"],),
    )
    by_noise = drawing.selectivity_by_noise(
        context.sigmas,
        {
            label: {POPULATIONS[name]: arrays[f"by_noise/{name}/{quantity}"] for name in names}
            for quantity, label in {
                "ratio": f"above the {THRESHOLDS['maximum']}",
                "ratio_without_threshold": THRESHOLDS["none"],
            }.items()
        },
        {
            label: {POPULATIONS[name]: arrays[f"by_noise/{name}/{dip}_p"] for name in names}
            for dip, label in zip(DIPS, ("dip of the ratios", "dip of their logits"), strict=True)
        },
        rejected_below=HUMPS_BELOW,
    )
    reference = f"{summary['reference_sigma_times_255']:g}/255"
    return report.Section(
        "Selectivity of channels",
        selectivity_text(summary),
        [distribution_table(summary), group_table(summary), noise_table(context, arrays, summary)],
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
                "Properties of channels against their selectivity; the untrained network is to be compared with the trained one on "
                "as many images.",
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
            picture(
                context,
                by_noise,
                "channel_selectivity_by_noise",
                "Selectivity against the noise level. Above: participation ratio of each channel over images, median and quartiles "
                "over channels, with the threshold that defines the groups (at σ = 0 it turns everything off) and without one. "
                f"Below: p-values of the dip on two scales; dashed, {HUMPS_BELOW:g}, below which one hump is rejected.",
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
        "Groups dealt at random are no null for all of it. PR_c is 1 / (1 + (deviation / mean)²) of what is above the threshold: "
        "that specialised channels have smaller means and heavier tails (a large kurtosis comes with a large deviation) is in part "
        "how they were chosen, and a cosine grows with the mean. What is left is to be more so than the untrained network, whose "
        "groups are chosen alike. The correlation of a channel with itself over images knows nothing of its mean.",
        f"Cosines and correlations are those of means over {summary['draws']} noise draws; what these scatter is not removed, so "
        "they are too small, by more for the group that scatters more.",
        f"Breadth: {stimuli.FREQUENCIES} spatial frequencies × {stimuli.ORIENTATIONS} orientations × {stimuli.REPETITIONS} "
        f"phases of sinusoidal gratings of contrast {stimuli.CONTRAST:g} over mid grey, with the noise of the working level; "
        "participation ratio of the response above that to blank grey, over frequencies and over orientations. The same with noise "
        f"textures: white noise of which only a band is kept, {stimuli.OCTAVES:g} octave wide about a grating's frequency and "
        f"{180 / stimuli.ORIENTATIONS:g}° wide about its orientation, in {stimuli.REPETITIONS} independent realisations in place "
        "of phases, with the gratings' mean and RMS contrast, nothing clipped. A texture's band is wider than a grating's, so its "
        "shares tend to be larger: compare groups and networks, not the two kinds. All stimuli are achromatic, so a channel that "
        "tells colours apart is tested with less than it answers to; one that no stimulus of a kind drives has no breadth there "
        "and is left out.",
        noise_text(summary),
        *levels_left_out(summary),
    ]


def noise_text(summary: dict) -> str:
    """At how many noise levels channels fall into two humps."""
    found = "; ".join(
        f"{POPULATIONS[name]}: {counts['levels_with_humps']} of {counts['levels']}"
        for name, counts in summary["by_noise"].items()
    )
    return (
        f"Noise levels at which a dip rejects one hump (p < {HUMPS_BELOW:g} on either scale; by chance at most 1 in 20, and levels "
        f"share their images and channels, so they do so together): {found}. At σ = 0 the threshold, the largest value there, "
        "turns every channel off, so that level has no thresholded numbers."
    )


def levels_left_out(summary: dict) -> list[str]:
    """What the means over noise levels do without, where they do."""
    words = []
    for name, found in summary["groups"].items():
        counts = found["cosine"]["undefined"], found["cosine"]["correlations_undefined"]
        if any(counts):
            words.append(
                f"{POPULATIONS[name]}: {counts[0]:,} cosines of a group and {counts[1]:,} correlations of a channel"
            )
    return (
        [f"At single noise levels undefined, and left out of the means over levels: {'; '.join(words)}."]
        if words
        else []
    )


def distribution_table(summary: dict) -> report.Table:
    """A row for each set of images and threshold."""
    rows = [
        (
            f"{POPULATIONS[name]}, {label}",
            f"{found['images']:,}",
            f"{row['channels']}",
            f"{found['dead']}",
            f"{row['off_in_all_images']}",
            quartiles_text(row["ratio"], 4),
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
    """A row for each property and set of images."""
    rows = []
    for quantity, (label, decimals) in PROPERTIES.items():
        for name, found in ((name, groups[quantity]) for name, groups in summary["groups"].items()):
            cells = (*(number(found[group], decimals) for group in GROUPS), number(found["p_value"], 3))
            rows.append((f"{label}; {POPULATIONS[name]}", *cells, f"{found['undefined']}"))
    for name, found in ((name, groups["cosine"]) for name, groups in summary["groups"].items()):
        cells = (*(number(turn_of(found[group]), None) for group in GROUPS), number(found["p_value"], 3), None)
        rows.append((f"1 − cosine with the reference level; {POPULATIONS[name]}", *cells))
    levels = ", ".join(f"{sigma:g}" for sigma in summary["compared_times_255"]) or "none"
    return report.Table(
        "Specialised and common channels: medians over channels (1 − cosine, of all a group's channels: mean over images), and "
        "the two-sided p-value of their difference when channels are dealt to the groups at random "
        f"({summary['simulations']:,} times). Correlation and cosine: mean over the noise levels {levels} against the reference, "
        f"σ = {summary['reference_sigma_times_255']:g}/255. Left out: channels for which it is undefined. The untrained network "
        "is to be compared with the trained one on as many images.",
        ("property; network", "specialised", "common", "p", "left out"),
        rows,
    )


def noise_table(context: Context, arrays: Arrays, summary: dict) -> report.Table:
    """A row for each noise level above 0 and set of images."""
    rows = []
    for level, sigma in enumerate(context.settings.sigmas):
        for name in summary["by_noise"] if sigma > 0 else ():
            found = {
                quantity: arrays[f"by_noise/{name}/{quantity}"][level]
                for quantity in ("channels", "dead", "ratio", *DIPS, *(f"{dip}_p" for dip in DIPS))
            }
            quartiles = dict(zip(QUARTILES, found["ratio"].tolist(), strict=True))
            cells = (f"{found['channels']}", f"{found['dead']}", quartiles_text(quartiles, 4))
            rows.append(
                (f"{sigma:g}; {POPULATIONS[name]}", *cells, *(with_p(found[dip], found[f"{dip}_p"], 4) for dip in DIPS))
            )
    return report.Table(
        "Selectivity at every noise level, with the threshold that defines the groups: channels that have a ratio (not dead, nor "
        "off in all images), quartiles of the ratios over these, and dips of the ratios and of their logits with p-values against "
        f"{summary['simulations_by_noise']:,} samples of the uniform.",
        ("σ × 255; network", "channels", "dead", "PR_c, median (quartiles)", "dip (p)", "dip of logit (p)"),
        rows,
    )
