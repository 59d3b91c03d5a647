"""What the report says about the selectivity of channels: claims with their nulls, tables, and the figures (figure 4)."""

from typing import Any

import numpy as np

from unetrep_jax import report, selectivity
from unetrep_jax.figures import selectivity as drawing
from unetrep_jax.stages.context import Arrays, Context, picture
from unetrep_jax.stages.selecting import GROUPS, KINDS
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, quartiles_text, unknown

POPULATIONS = {"trained": "trained", "trained_subset": "trained, fewer images", "untrained": "untrained"}
THRESHOLDS = dict(zip(KINDS, ("maximum at σ = 0", "99.9th percentile at σ = 0", "no threshold"), strict=True))
# What tables call a property of channels, and its decimals (None: two digits and a power of ten).
PROPERTIES = {
    "mean": ("mean of phi_c over images", 4),
    "kurtosis": ("excess kurtosis of phi_c over images", 2),
    "correlation": ("correlation with itself at the reference level", 3),
    "frequency_breadth": ("share of spatial frequencies that drive it", 2),
    "orientation_breadth": ("share of orientations that drive it", 2),
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
        arrays["trained/logit/maximum"],
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
        "Groups dealt at random are no null for all of it. PR_c is 1 / (1 + (deviation / mean)²) of what is above the threshold: "
        "that specialised channels have smaller means and heavier tails (a large kurtosis comes with a large deviation) is in part "
        "how they were chosen, and a cosine grows with the mean. What is left is to be more so than the untrained network, whose "
        "groups are chosen alike. The correlation of a channel with itself over images knows nothing of its mean.",
        f"Cosines and correlations are those of means over {summary['draws']} noise draws; what these scatter is not removed, so "
        "they are too small, by more for the group that scatters more.",
        f"Breadth: {selectivity.FREQUENCIES} spatial frequencies × {selectivity.ORIENTATIONS} orientations × {selectivity.PHASES} "
        f"phases of sinusoidal gratings of contrast {selectivity.CONTRAST:g} over mid grey, with the noise of the working level; "
        "participation ratio of the response above that to blank grey, over frequencies and over orientations. The gratings are "
        "achromatic, so a channel that tells colours apart is tested with less than it answers to; one that no grating drives has "
        "no breadth and is left out.",
        *levels_left_out(summary),
    ]


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


def turn_of(cosine: float | None) -> float | None:
    """1 - cosine, of a cosine in double precision."""
    return None if unknown(cosine) else 1 - cosine


def selectivity_claims(summary: dict) -> list:
    """The paper's statements on channels. Nulls: the untrained network's channels, treated alike, and groups dealt at random.

    Where the untrained network saw fewer images, the trained one must show it on all of them and on as many.
    """
    groups = summary["groups"]
    rows = {name: found["by_threshold"]["maximum"] for name, found in summary["distributions"].items()}
    trained = [name for name in groups if name != "untrained"]

    def beside(words: dict[str, str]) -> tuple[str, str]:
        fewer = (
            f" (on {summary['distributions']['untrained']['images']:,} images: {words[trained[1]]})"
            if trained[1:]
            else ""
        )
        return f"{words['trained']}{fewer}", f"untrained network: {words['untrained']}"

    def of_groups(quantities: dict[str, int | None]) -> tuple[str, str]:
        return beside(
            {name: "; ".join(in_words(q, found[q], d) for q, d in quantities.items()) for name, found in groups.items()}
        )

    def holds(predicate: Any, numbers: dict) -> str:
        nulls = predicate(numbers["untrained"])
        here = (predicate(numbers[name]) for name in trained)
        return report.verdict(*(part(*both) for answers in here for both in zip(answers, nulls, strict=True)))

    def common_have_more(*quantities: str) -> str:
        return holds(lambda found: [larger(found[quantity]) for quantity in quantities], groups)

    return [
        report.Claim(
            "The distribution of selectivity over channels is bimodal.",
            None,
            *beside({name: bimodality_in_words(row) for name, row in rows.items()}),
            holds(bimodality, rows),
        ),
        report.Claim(
            "Specialised channels are heavy-tailed over images, common ones near Gaussian (second version).",
            None,
            *of_groups({"kurtosis": 2}),
            holds(lambda found: heavy_tails(found["kurtosis"]), groups),
        ),
        report.Claim("Common channels have larger means.", None, *of_groups({"mean": 4}), common_have_more("mean")),
        report.Claim(
            "Common channels are broader in spatial frequency and orientation.",
            None,
            *of_groups({"frequency_breadth": 2, "orientation_breadth": 2}),
            common_have_more("frequency_breadth", "orientation_breadth"),
        ),
        report.Claim(
            "Common channels are more stable to noise.",
            None,
            *of_groups({"cosine": None, "correlation": 3}),
            common_have_more("cosine", "correlation"),
        ),
    ]


SHORT = {
    "mean": "mean",
    "kurtosis": "excess kurtosis",
    "frequency_breadth": "frequencies",
    "orientation_breadth": "orientations",
    "cosine": "1 − cosine",
    "correlation": "correlation",
}


def in_words(quantity: str, found: dict, decimals: int | None) -> str:
    """The two groups' numbers, with the p-value of groups dealt at random."""
    values = (turn_of(found[group]) if quantity == "cosine" else found[group] for group in GROUPS)
    specialised, common = (number(value, decimals) or "–" for value in values)
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
    if unknown(row["dip_p"]) or unknown(row["dip_of_logit_p"]) or row["mixture"] is None:
        return [None, None]
    humps = min(row["dip_p"], row["dip_of_logit_p"]) < 0.025
    return [humps, humps and row["mixture"]["bic_gain"] > 0]


def larger(found: dict) -> bool | None:
    """Whether common channels have more of it, beyond what dealing them at random gives in 5 % of the cases."""
    return None if unknown(found["p_value"]) else found["common"] > found["specialised"] and found["p_value"] < 0.05


def heavy_tails(found: dict) -> list[bool | None]:
    """Whether specialised channels have the larger kurtosis, and common ones then a median within 1 of a Gaussian's (our cut)."""
    if unknown(found["p_value"]):
        return [None, None]
    heavier = found["specialised"] > found["common"] and found["p_value"] < 0.05
    return [heavier, heavier and abs(found["common"]) < 1]


def with_p(value: float | None, chance: float | None, decimals: int) -> str | None:
    """A number and its p-value."""
    return None if unknown(value) else f"{number(value, decimals)} ({number(chance, 3) or '–'})"
