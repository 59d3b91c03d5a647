"""What the report says about robustness to noise: claims with their nulls, tables, and the figures (figure 2)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from unetrep_jax import report, representation
from unetrep_jax.figures import robustness as figures
from unetrep_jax.stages.context import LOWEST_COMPARED, NETWORKS, Arrays, Context, layout_of, picture, reference_level
from unetrep_jax.stages.robustness import JACKKNIFE_GROUPS
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import estimate_text, number, unknown


def turn(estimate: dict[str, Any]) -> dict[str, Any]:
    """1 - cosine, from the estimate of a cosine."""
    value, low, high = (None if unknown(estimate[name]) else 1 - estimate[name] for name in ("value", "low", "high"))
    return {"value": value, "low": high, "high": low}


def section_robustness(context: Context, arrays: Arrays, summary: dict) -> report.Section:
    """Figure 2, its tables, and the cosines between all levels."""
    blocks = list(layout_of(context).columns)

    def of_networks(name):
        return {network: dict(zip(blocks, arrays[f"{network}/{name}"], strict=True)) for network in NETWORKS}

    names = ("direction", "centred_direction", "length", "variance")
    curves = figures.robustness_curves(
        context.sigmas, *(of_networks(name) for name in names), reference=summary["reference_times_255"]
    )
    matrices = figures.cosine_matrices(context.sigmas, of_networks("cosines"), of_networks("centred_cosines"))
    return report.Section(
        "Robustness to noise",
        section_text(summary),
        [
            direction_table(context, summary),
            length_table(context, summary),
            variance_table(context, summary),
            scaling_table(summary),
            ranking_table(summary),
            difference_table(summary),
            matrix_table(summary),
        ],
        [
            picture(
                context,
                curves,
                "robustness",
                "Every block's channel averages against the noise level (figure 2): cosine to those at s0, the same after the mean "
                "over images is taken away, length over that at s0, realisation variance over squared length. Lines are means over "
                "images (the centred cosine is one number for all images), bands the 95 % bootstrap intervals of these means; "
                "where none is seen, it is narrower than its line.",
            ),
            picture(
                context,
                matrices,
                "robustness_cosines",
                "Cosines of every block's channel averages between all pairs of noise levels, lowest level first: means over "
                "images (plain), and of products averaged over images after their mean is taken away (centred). A table above "
                "gives their intervals.",
            ),
        ],
        claims(context, summary),
    )


def section_text(summary: dict) -> list[str]:
    """How the numbers were made, and what to keep in mind."""
    lengths = (
        f"A mean over {summary['draws']} noise draws is longer than phi, and turned from it, by the draws' own scatter. Squared "
        "lengths and centred cosines are freed of it; the cosines of single images are not, and so are lower bounds."
        if summary["draws"] > 1
        else "With one noise draw the scatter of the draws is not known: there is no realisation variance, and lengths hold it."
    )
    text = [
        "The representation at noise level s is the mean over noise draws. Its direction is compared by the cosine to "
        f"s0 = {summary['reference_times_255']:g}/255. Where all images share a large common vector, every cosine is near 1 "
        "whatever the images do; so the same is given after the mean over images at each level is taken away (centred).",
        lengths,
    ]
    if undefined := sum(row["undefined"] for n in NETWORKS for row in summary[n]["blocks"].values()):
        text.append(
            f"{undefined:,} of an image's squared lengths at a level and block were not above 0, and are left out."
        )
    if not summary["compared_times_255"]:
        text.append(
            f"The grid has no other level from {LOWEST_COMPARED:g}/255 up, so there is nothing to compare s0 with."
        )
    return text


def direction_table(context: Context, summary: dict) -> report.Table:
    """How much the direction depends on the noise level, block by block."""
    inputs = representation.block_inputs(context.denoiser)
    levels = ", ".join(f"{sigma:g}" for sigma in summary["compared_times_255"]) or "none"
    rows = []
    for block, trained in summary["trained"]["blocks"].items():
        untrained = summary["untrained"]["blocks"][block]
        cells = []
        for of in (trained, untrained):
            cells += [estimate_text(turn(of["direction"]), None), number(of["scatter"], None)]
            cells += [estimate_text(turn(of["centred_direction"]), 3)]
        source = f"output of {inputs[block]}" if block in inputs else "the image"
        rows.append((block, source, *cells, *(estimate_text(of["shared"], 4) for of in (trained, untrained))))
    return report.Table(
        f"Turn of each block's output: 1 - cosine to s0 = {summary['reference_times_255']:g}/255, mean over the levels "
        f"{levels} (in 1/255), with 95 % bootstrap intervals over {summary['trained']['images']:,} images (trained) and "
        f"{summary['untrained']['images']:,} (untrained). A block's input is another block's output: its row says how stable that "
        "is. Scatter: how much of the turn the scatter of the noise draws makes at most. Shared: the part of the squared length "
        "at s0 that the mean over images has.",
        (
            "block",
            "its input",
            *("trained", "scatter", "trained, centred"),
            *("untrained", "scatter", "untrained, centred"),
            *("shared, trained", "shared, untrained"),
        ),
        rows,
    )


def shown_levels(context: Context, among: Sequence[int]) -> list[int]:
    """Of some levels the lowest, the working one (where that is not between the others, the middle one) and the highest."""
    rising = sorted(among, key=lambda level: context.settings.sigmas[level])
    between = context.working if context.working in rising[1:-1] else rising[len(rising) // 2]
    return [level for level in rising if level in (rising[0], between, rising[-1])]


def level_table(
    context: Context, summary: dict, name: str, levels: Sequence[int], decimals: int | None, caption: str
) -> report.Table:
    """One quantity of both networks at some levels, block by block."""
    rows = []
    for block in summary["trained"]["blocks"]:
        both = [summary[network]["blocks"][block][name] for network in NETWORKS]
        rows.append((block, *(estimate_text(of, decimals, level) for level in levels for of in both)))
    header = (f"at {context.settings.sigmas[level]:g}, {network}" for level in levels for network in NETWORKS)
    return report.Table(caption, ("block", *header), rows)


def length_table(context: Context, summary: dict) -> report.Table:
    """Length over that at s0, at three other levels."""
    reference = reference_level(context)
    others = [level for level in range(len(context.settings.sigmas)) if level != reference]
    caption = (
        f"Length of each block's output at some levels (in 1/255) over that at s0 = {summary['reference_times_255']:g}/255: means "
        "over images (95 % bootstrap intervals)."
    )
    return level_table(context, summary, "length", shown_levels(context, others or [reference]), 3, caption)


def variance_table(context: Context, summary: dict) -> report.Table:
    """Realisation variance over squared length, at three levels above 0."""
    noisy = [level for level, sigma in enumerate(context.settings.sigmas) if sigma > 0]
    caption = (
        "Realisation variance of each block's output at some levels (in 1/255) over its squared length there: means over images "
        "(95 % bootstrap intervals)."
    )
    return level_table(context, summary, "variance", shown_levels(context, noisy), None, caption)


def scaling_table(summary: dict) -> report.Table:
    """How far a change with the noise level is one of length."""
    rows = []
    for block in summary["trained"]["blocks"]:
        both = [summary[network]["blocks"][block] for network in NETWORKS]
        rows.append((block, *(estimate_text(of[name], 2) for name in ("scaling", "centred_scaling") for of in both)))
    return report.Table(
        "Scaling: the part of the squared change from s0, over the compared levels, that multiplying phi by a factor explains "
        "(95 % bootstrap intervals over images). Plain: each image by its own; centred: all images by one, freed of the scatter of "
        "the draws.",
        ("block", *(f"{version}, {network}" for version in VERSIONS.values() for network in NETWORKS)),
        rows,
    )


VERSIONS = {"direction": "plain", "centred_direction": "centred"}


def ranking_table(summary: dict) -> report.Table:
    """Which block's direction is the most stable, and by how much."""
    rows = []
    for network in NETWORKS:
        for name, version in VERSIONS.items():
            first = summary[network]["most_stable"][name]
            cells = (None,) * 3
            if first:
                cells = first["block"], first["next"], estimate_text(first["difference"], None)
            rows.append((f"{network}, {version}", *cells))
    return report.Table(
        "The block that turns least, the next, and how much more that one turns, over the same draws of images (95 % bootstrap "
        "interval).",
        ("network", "most stable", "next", "difference"),
        rows,
    )


def difference_table(summary: dict) -> report.Table:
    """How much less each block turns than in the untrained network."""
    found = summary["trained_less_untrained"]
    rows = [(block, *(estimate_text(of[name], None) for name in VERSIONS)) for block, of in found["blocks"].items()]
    return report.Table(
        "Turn of each block's output, as above, in the trained network less that in the untrained one: below 0, the trained one is "
        f"the more stable. Over the {found['images']:,} images that both saw, and the same draws of them (95 % bootstrap "
        "intervals). Centred: each network's mean over these images is taken away.",
        ("block", *VERSIONS.values()),
        rows,
    )


MATRICES = {"plain": "cosines", "centred": "centred_cosines"}


def matrix_table(summary: dict) -> report.Table:
    """How well the cosines between all pairs of levels are known, block by block."""
    rows = []
    for block in summary["trained"]["blocks"]:
        of_networks = [summary[network]["blocks"][block]["matrix"] for network in NETWORKS]
        rows.append((block, *(matrix_text(matrix[name]) for matrix in of_networks for name in MATRICES.values())))
    return report.Table(
        "Cosines between all pairs of noise levels: the lowest of the matrix, and the largest half-width of a 95 % interval over "
        "images in it. Plain: of the mean over images. Centred: by a jackknife that leaves out each of "
        f"{JACKKNIFE_GROUPS} groups of images in turn.",
        ("block", *(f"{network}, {version}" for network in NETWORKS for version in MATRICES)),
        rows,
    )


def matrix_text(extremes: dict[str, float | None]) -> str | None:
    """The lowest cosine and the largest half-width, which is at another pair of levels perhaps; None if unknown."""
    lowest, width = number(extremes["lowest"], 3), number(extremes["largest_half_width"], None)
    return lowest and f"{lowest}, ± {width or 'unknown'}"


def claims(context: Context, summary: dict) -> list[report.Claim]:
    """The paper's three statements on figure 2, each beside the same number of the untrained network."""
    trained, untrained = (summary[network]["blocks"]["mid"] for network in NETWORKS)
    lowest = int(np.argmin(context.settings.sigmas))

    def length(numbers):
        return f"length at {min(context.settings.sigmas):g}/255: {estimate_text(numbers['length'], 2, lowest)} of that at s0"

    def holds(predicates):
        return report.verdict(*(part(*of_networks) for of_networks in zip(*predicates, strict=True)))

    return [
        report.Claim(
            "The middle block is the most stable to noise",
            None,
            f"{ranking_words(summary['trained'])}; {difference_words(summary)}",
            f"untrained: {ranking_words(summary['untrained'])}",
            holds([leads_with_mid(summary[network]["most_stable"]) for network in NETWORKS]),
        ),
        report.Claim(
            "Raising the noise level mainly scales phi, and hardly turns it",
            None,
            scaling_words(trained),
            f"untrained: {scaling_words(untrained)}",
            holds([mainly_scaled(numbers) for numbers in (trained, untrained)]),
        ),
        report.Claim(
            "phi collapses towards 0 at very small noise levels",
            None,
            length(trained),
            f"untrained: {length(untrained)}",
            holds([collapsed(numbers["length"]["value"][lowest]) for numbers in (trained, untrained)]),
        ),
    ]


def leads_with_mid(most_stable: dict[str, dict | None]) -> list[bool | None]:
    """Whether the middle block is the most stable, with the interval of its lead above 0: plain, and centred."""
    return [
        None
        if first is None or unknown(first["difference"]["low"])
        else first["block"] == "mid" and first["difference"]["low"] > 0
        for first in most_stable.values()
    ]


def mainly_scaled(numbers: dict) -> list[bool | None]:
    """Whether a common factor explains more than half of phi's squared change, interval and all: plain, and centred."""
    lows = [numbers[name]["low"] for name in ("scaling", "centred_scaling")]
    return [None if unknown(low) else low > 0.5 for low in lows]


def collapsed(length: float | None) -> list[bool | None]:
    """Whether phi has lost three quarters of its length, and whether it has lost one: our cuts of collapse and of some of it."""
    return [None if unknown(length) else length < cut for cut in (0.25, 0.75)]


def ranking_words(numbers: dict) -> str:
    """The most stable block and its lead, and where the middle block stands."""
    words = []
    for name, version in VERSIONS.items():
        first, mid = numbers["most_stable"][name], estimate_text(turn(numbers["blocks"]["mid"][name]), None)
        lead = f"{first['block']} leads by {estimate_text(first['difference'], None)}" if first else "no ranking"
        words.append(f"{version}: {lead}, mid turns by {mid or '–'}")
    return "; ".join(words)


def difference_words(summary: dict) -> str:
    """How much less the middle block turns than in the untrained network."""
    found = summary["trained_less_untrained"]["blocks"]["mid"]
    words = (f"{version} {estimate_text(found[name], None) or '–'}" for name, version in VERSIONS.items())
    return f"turn of mid less that of the untrained mid: {', '.join(words)}"


def scaling_words(numbers: dict) -> str:
    """How much of phi's change a common factor explains."""
    plain, centred = (estimate_text(numbers[name], 2) or "–" for name in ("scaling", "centred_scaling"))
    return f"scaling explains {plain} of the squared change; centred {centred}"
