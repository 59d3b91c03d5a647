"""What the report says about the union of subspaces: claims with their nulls, tables, and the figures (figure 6)."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from unetrep_jax import measures, report
from unetrep_jax.figures import subspaces as figures
from unetrep_jax.stages.context import Arrays, Context, picture, spread
from unetrep_jax.stages.subspaces import CUTS, DRAWS, LEAST_IMAGES, LEAST_SHARE, ORDERS, PART, SIGNIFICANT
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import estimate_text, number, percent, quartiles_text, unknown

MAIN_CUT = CUTS.index(0.01)
SHOWN = 3000  # most images in a scatter
PUBLISHED_SHARE = (110 / 512, 155 / 512)  # of the channels: the dimension of a subspace, by the paper
A_THIRD = (0.2, 0.5)  # our bounds of "about a third"
DEFINITIONS = {"threshold": "above τ", "largest": "largest k·PR", "raised": "above its mean"}
KINDS = {"within": "same cluster", "between": "other clusters", "nearest": "most alike"}
SPECTRA = {"inside": "inside clusters", "random": "as many random images", "whole": "all images"}


def section_subspaces(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 6 with its numbers."""
    names = names_of(summary)
    return report.Section(
        "Union of subspaces",
        text(summary),
        [*support_tables(summary, names), spectra_table(summary, names), near_zero_table(summary)],
        [*scatter_picture(context, arrays, summary), *pictures(context, arrays, summary, names)],
        [*support_claims(summary), near_zero_claim(summary)],
    )


def names_of(summary: dict) -> dict[str, str]:
    """The representations as tables and figures call them."""
    names = {name: "trained" for name in summary["sets"]}
    names |= {"permuted": "channels permuted", "untrained": "untrained"}
    return {name: f"{names[name]}, {row['images']:,} images" for name, row in summary["sets"].items()}


def text(summary: dict) -> list[str]:
    """What a support is, and what to keep in mind."""
    channels, trained = summary["channels"], summary["sets"]["trained"]
    varying = {name: channels["all"] - trained[name]["never_on"] - trained[name]["always_on"] for name in DEFINITIONS}
    counts = ", ".join(f"{varying[name]} ({label})" for name, label in DEFINITIONS.items())
    return [
        "A support is the set of channels that an image uses. Three definitions: **above τ**, the channel's largest value over "
        f"images at σ = {summary['quiet_sigma_times_255']:g}/255 (the published threshold as we read it); **largest k·PR**, the "
        "image's own largest channels, as many as its effective number; **above its mean** over images (the last two are ours). "
        f"The third always has content, but says which channels are raised and not which are zero. Of {channels['all']} channels, "
        f"so many are in the supports of some images and not of others: {counts}.",
        "The null has every channel of phi permuted over the images on its own. K-means makes the images of a cluster alike in any "
        "cloud, so permuted channels and untrained network are compared within clusters of their own. The untrained network also "
        f"has its own thresholds; as its specialised channels count as many as the trained one has ({channels['specialised']}), "
        "those of lowest participation ratio over images.",
        f"Intervals (95 %) in the claims are over {DRAWS} draws of the images, for medians over pairs of channels and over images "
        "(pairs of channels are not independent, nor are overlaps that share an image), and over clusters for effective "
        "dimensions; channels, thresholds and clusters are taken as they are.",
        "Effective dimension is lower inside clusters where these lie in many different subspaces. It is higher where one long "
        "axis holds most of the variance of the whole, which K-means cuts, so that what is left inside is rounder; a single "
        "Gaussian does so too, and so does a union of few subspaces that are far apart.",
        *without_clusters(summary),
    ]


def without_clusters(summary: dict) -> list[str]:
    """Of which representations there are too few images to be clustered."""
    few = [name for name in summary["sets"] if not summary["sets"][name]["clusters"]]
    return [
        f"Fewer than {2 * summary['smallest_mean_size']} images, too few for clusters, so that overlap and spectra are left out: "
        f"{'; '.join(names_of(summary)[name] for name in few)}."
    ] * bool(few)


def support_tables(summary: dict, names: dict[str, str]) -> list:
    """Supports, pairs of channels, overlap, counts: a row for each definition and representation."""
    sets = summary["sets"]

    def table(caption: str, header: tuple, cells: Callable) -> Any:
        rows = [(f"{DEFINITIONS[d]}; {names[s]}", *cells(sets[s][d], sets[s])) for d in DEFINITIONS for s in sets]
        return report.Table(caption, ("supports", *header), rows)

    def size(row, cloud):
        counts = (str(row["never_on"]), str(row["always_on"]))
        return (
            quartiles_text(row["size"], 0),
            *counts,
            quartiles_text(row["energy_inside"], 3),
            quartiles_text(cloud["effective_channels"], 1),
        )

    def pairs(row, _):
        found = row["pairs"]
        if not found["pairs"]:
            return "0", *[None] * 4
        shares = (percent(found[name], 1) for name in ("exclusive", "together"))
        return f"{found['pairs']:,}", quartiles_text(found["odds_ratio"]), *shares, f"{found['lowest']:.3g}"

    def overlap(row, cloud):
        return f"{cloud['clusters'] or '–'}", *(quartiles_text(row["overlap"][kind], 3) for kind in KINDS)

    def distinct(row, _):
        parts = row["distinct"].values()
        return (cell for p in parts for cell in (f"{p['supports']:,}", f"{percent(p['new_in_second_half'], 1)}"))

    compared = sets["trained"]["raised"]["overlap"]["images"]
    return [
        table(
            f"Supports at σ = {summary['sigma_times_255']:g}/255: channels in one, median (quartiles) over images; channels in "
            "none and in all; share of |phi|² inside; effective channels k·PR, which do not depend on the definition.",
            ("size", "never on", "always on", "|phi|² inside", "k·PR"),
            size,
        ),
        table(
            f"Pairs of specialised channels, each on, and off, in at least {LEAST_SHARE:.0%} of the images and {LEAST_IMAGES} of "
            "them: odds ratio of firing for the same image (1: independent), median (quartiles) over pairs; share of pairs below "
            f"and above 1 by {SIGNIFICANT} standard errors or more; the lowest.",
            ("pairs", "odds ratio", "significantly below 1", "above 1", "lowest"),
            pairs,
        ),
        table(
            f"Jaccard overlap of an image's support with others, median (quartiles) over up to {compared:,} images: mean over the "
            "other images of the same of K clusters by K-means, mean over other clusters, the most alike of all. Two empty "
            "supports are left out.",
            ("K", *KINDS.values()),
            overlap,
        ),
        table(
            f"Distinct supports, and the share of the second half of the images (mean over {ORDERS} random orders) that bring one "
            "not seen before; for all channels, and for the specialised ones alone.",
            ("distinct", "new in second half", "distinct, specialised", "new in second half"),
            distinct,
        ),
    ]


def spectra_table(summary: dict, names: dict[str, str]) -> Any:
    """Principal axes, and effective dimension, inside clusters, of as many random images, and of all."""
    rows = []
    for name, row in summary["spectra"].items():
        dimension = (estimate_text(row["dimension"][kind], 1) for kind in ("inside", "random"))
        needed = (quartiles_text(row[kind], 0) for kind in ("inside", "random"))
        wholes = number(row["dimension"]["whole"], 1), number(row["whole"], 0)
        counts = str(row["clusters"]), str(row["members"])
        rows.append((names[name], *counts, *dimension, wholes[0], *needed, wholes[1]))
    return report.Table(
        "Spectra inside clusters: effective dimension (participation ratio of the variances along the principal axes), mean over "
        f"clusters with 95 % interval over these; and principal axes that hold {PART:.0%} of the variance, median (quartiles) over "
        "clusters. PCA of fewer images finds fewer axes: a cluster is compared with as many images drawn at random from all.",
        (
            "representation",
            "clusters",
            "images of each",
            *(f"{what}, {words}" for what in ("dimension", "axes") for words in SPECTRA.values()),
        ),
        rows,
    )


def near_zero_table(summary: dict) -> Any:
    """Channels and values near zero without noise."""
    networks = summary["near_zero"].values()
    rows = [
        (
            f"{100 * cut:g}%",
            *(percent(found["share_of_channels"][k], 1) for found in networks),
            *(quartiles_text(found["share_of_values"][k]) for found in networks),
        )
        for k, cut in enumerate(CUTS)
    ]
    return report.Table(
        f"Near zero at σ = {summary['quiet_sigma_times_255']:g}/255: below this fraction of the channel's mean at "
        f"σ = {summary['sigma_times_255']:g}/255. Share of channels by their mean over images, and share of an image's channels, "
        "median (quartiles) over images; channels that are zero at the working level are left out. Permuting channels over "
        "images changes no mean: the null is the untrained network.",
        ("below", "channels, trained", "channels, untrained", "of an image, trained", "of an image, untrained"),
        rows,
    )


def scatter_picture(context: Context, arrays: Arrays, summary: dict) -> list:
    """Figure 6, where there are three channels to show."""
    if not (shown := summary["scatter"]):
        return []
    rows = spread(summary["sets"]["trained"]["images"], SHOWN)
    titles = {"trained": "phi", "permuted": "channels permuted"}
    figure = figures.channel_scatter(
        {
            title: figures.Channels(
                arrays[f"scatter/{name}"][rows], channel_names(shown["clouds"][name]), arrays[f"scatter/cuts/{name}"]
            )
            for name, title in titles.items()
        }
    )
    return [picture(context, figure, "subspaces_scatter", scatter_caption(shown))]


def channel_names(row: dict) -> tuple[str, str, str]:
    """What the axes of three channels say."""
    first, second, third = (f"channel {channel}" for channel in row["channels"])
    return first, second, f"{third}, common" if row["common"] else third


def scatter_caption(shown: dict) -> str:
    """What the three channels are, which they are chosen by, and how often the first two are on together."""
    clouds, definition = shown["clouds"], DEFINITIONS[shown["definition"]]
    third = (
        "the common channel that the most images use"
        if clouds["trained"]["common"]
        else "the channel that the most images use (none is common)"
    )
    pair = (
        "Images by two specialised channels and a third one (figure 6). Of all pairs of specialised channels this is the one with "
        f"the lowest odds ratio (supports {definition}), a choice in favour of the claim; below, the same choice with channels "
        "permuted: the lowest of its own pairs."
        if shown["specialised"]
        else "Images by the two channels of lowest participation ratio over images and a third one (figure 6), for there are no "
        f"two specialised channels (supports {definition}); below, with channels permuted."
    )
    both = "; ".join(
        f"{words} {row['odds_ratio']:.3g}, both on for {row['both']:,} of the {row['either']:,} images that have either"
        for words, row in (("odds ratio", clouds["trained"]), ("permuted", clouds["permuted"]))
    )
    return (
        f"{pair} The third is {third}. {both[0].upper()}{both[1:]}. The axes begin at 0 in space and where the images begin on the "
        "planes; dashed: the cuts above which a channel is on."
    )


def pictures(context: Context, arrays: Arrays, summary: dict, names: dict[str, str]) -> list:
    """The distributions behind the tables."""

    def panels(of: Callable) -> dict:
        return {label: {names[s]: of(d, s) for s in summary["sets"]} for d, label in DEFINITIONS.items()}

    growth = {
        f"{label}\n{part} channels": {
            names[s]: (arrays[f"seen/{d}/{s}"], arrays[f"distinct/{part}/{d}/{s}"]) for s in summary["sets"]
        }
        for part in ("all", "specialised")
        for d, label in DEFINITIONS.items()
    }
    spectra = {
        names[s]: {
            words: measures.quartiles(np.atleast_2d(arrays[f"spectrum/{kind}/{s}"])).T
            for kind, words in SPECTRA.items()
            if arrays[f"spectrum/{kind}/{s}"].size
        }
        for s in summary["spectra"]
    }
    zero = {
        f"{network}, below {100 * cut:g}%": arrays[f"near_zero/{network}"][k]
        for network in summary["near_zero"]
        for k, cut in enumerate(CUTS)
    }
    drawn = {
        "odds": (
            figures.odds_histograms(panels(lambda d, s: arrays[f"odds/{d}/{s}"])),
            "Odds ratios of pairs of specialised channels.",
        ),
        "overlap": (
            figures.overlap_ranges(
                panels(
                    lambda d, s: dict(
                        zip(KINDS.values(), measures.quartiles(arrays[f"overlap/{d}/{s}"], 1).T, strict=True)
                    )
                )
            ),
            "Jaccard overlap of supports: median and quartiles over images.",
        ),
        "growth": (
            figures.accumulation_curves(growth),
            "Distinct supports against images seen: mean and range over random orders; dashed, a new one with every image.",
        ),
        "spectra": (
            figures.spectra(spectra, part=PART),
            "Variance on the first principal axes, inside clusters, of as many random images, and of all images: median and "
            f"quartiles over clusters or random sets; dashed, {PART:.0%}. PCA of all images can find more axes.",
        ),
        "near_zero": (
            figures.share_by_noise(context.sigmas, zero, ylabel="share of channels"),
            "Channels whose mean over images is near zero, against the noise level.",
        ),
    }
    return [picture(context, figure, f"subspaces_{name}", caption) for name, (figure, caption) in drawn.items()]


def support_claims(summary: dict) -> list:
    """What the paper says of supports, beside the numbers found; each verdict follows from the rule that the claim states."""
    sets, total = summary["sets"], summary["channels"]["all"]
    both = ("permuted", "untrained")
    same_images = "same_images" if "same_images" in sets else "trained"

    def each(name: str, shown: Callable) -> str:
        found = {label: shown(sets[name][d]) for d, label in DEFINITIONS.items()}
        return "; ".join(f"{label}: {words}" for label, words in found.items() if words is not None) or "undefined"

    def claim(words: str, shown: Callable, answer: Callable, nulls: tuple[str, ...] = both) -> Any:
        beside = "; ".join(f"{name} – {each(name, shown)}" for name in nulls)
        parts = [answer({name: row[d] for name, row in sets.items()}) for d in DEFINITIONS]
        known = [of_definition for of_definition in parts if of_definition[0] is not None]
        return report.Claim(words, None, each("trained", shown), beside, report.verdict(*known))

    def overlap(row):
        within, between = (estimate_text(row["overlap"]["medians"][kind], 3) for kind in ("within", "between"))
        return None if unknown(excess(row)) else f"{within} against {between}"

    def odds(row):
        found = row["pairs"]
        if not found["pairs"]:
            return None
        return f"median {estimate_text(found['median'])}, {percent(found['exclusive'])} of pairs significantly below 1"

    def growth(row):
        found = row["distinct"]["all"]
        return f"{found['supports']:,} ({percent(found['new_in_second_half'])} new)"

    sizes = {name: dimension(sets[name], total) for name in ("trained", *both)}
    return [
        report.Claim(
            "phi lies in a union of coordinate subspaces of about 110 to 155 of 512 dimensions (effective channels k·PR; yes: a "
            "share of 21 to 30 %, and neither so with channels permuted nor without training).",
            "110–155 of 512 (21–30 %)",
            sizes["trained"],
            "; ".join(f"{name} – {sizes[name]}" for name in both),
            report.verdict(part(*(published_share(sets[name], total) for name in ("trained", *both)))),
        ),
        claim(
            "Two specialised channels rarely fire for the same image (odds ratio; yes: significantly below 1 for most pairs, and "
            "not so with channels permuted or without training).",
            odds,
            lambda rows: part(*(mostly_exclusive(rows[name]) for name in ("trained", *both))),
        ),
        claim(
            "Supports overlap more within clusters than between them (Jaccard; yes: by more than in the null's own clusters, and "
            "than in the untrained network's at the same images; only where most supports are not empty).",
            overlap,
            lambda rows: more_alike(rows, same_images),
        ),
        dimension_claim(summary["spectra"], same_images),
        claim(
            f"The number of subspaces is combinatorial: new supports keep coming ({sets['trained']['images']:,} images; new: share "
            "of the second half of the images; yes: most of it, and not so with channels permuted).",
            growth,
            lambda rows: part(*(mostly_new(rows[name]) for name in ("trained", "permuted"))),
            ("permuted",),
        ),
    ]


def mostly_exclusive(row: dict) -> bool | None:
    """Whether most pairs of specialised channels exclude each other significantly; None without pairs."""
    return row["pairs"]["exclusive"] > 0.5 if row["pairs"]["pairs"] else None


def mostly_new(row: dict) -> bool:
    """Whether most of the second half of the images bring a new support."""
    return row["distinct"]["all"]["new_in_second_half"] > 0.5


def more_alike(rows: dict, same_images: str) -> tuple[bool | None, bool]:
    """Whether supports overlap more within clusters, and whether they do so as much in a null's own clusters."""
    found = {name: excess(row) for name, row in rows.items()}
    if unknown(found["trained"]):
        return None, False
    pairs = (("trained", "permuted"), (same_images, "untrained"))
    as_much = [
        None if unknown(found[n]) or unknown(found[h]) else found[n] > 0 and found[n] >= found[h] for h, n in pairs
    ]
    return part(found["trained"] > 0, *as_much)


def dimension_claim(spectra: dict, same_images: str) -> Any:
    """Whether the images of a cluster span fewer dimensions than as many of all."""
    return report.Claim(
        "The images of a cluster vary along fewer dimensions than all images (effective dimension of the spectrum; yes: lower "
        "than for as many random images, with the 95 % interval of the ratio, and by a larger factor than in the null's own "
        "clusters, and than in the untrained network's at the same images).",
        None,
        spectrum_text(spectra.get("trained")),
        "; ".join(f"{name} – {spectrum_text(spectra.get(name))}" for name in ("permuted", "untrained")),
        report.verdict(lower_inside(spectra, same_images)),
    )


def spectrum_text(row: dict | None) -> str:
    """Effective dimensions and their ratio."""
    words = {kind: estimate_text(row["dimension"][kind], 1) for kind in ("inside", "random")} if row else {}
    if not row or None in words.values():
        return "undefined"
    return (
        f"{words['inside']} inside, {words['random']} for as many random images, ratio "
        f"{estimate_text(row['dimension']['ratio'])}; {number(row['dimension']['whole'], 1)} for all"
    )


def lower_inside(spectra: dict, same_images: str) -> tuple[bool | None, bool]:
    """Whether clusters have a lower effective dimension than random images, and whether a null's own are lower by as much."""
    found = {name: row["dimension"]["ratio"] for name, row in spectra.items()}
    if "trained" not in found or unknown(found["trained"]["value"]):
        return None, False
    nulls = [null_lower(found.get(n), found.get(h)) for n, h in (("permuted", "trained"), ("untrained", same_images))]
    return part(found["trained"]["high"] < 1, *nulls)


def null_lower(null: dict | None, here: dict | None) -> bool | None:
    """Whether a null's ratio is below 1 too, and as low as the one that it is held against; None where either is unknown."""
    if not null or not here or unknown(null["value"]) or unknown(here["value"]):
        return None
    return null["high"] < 1 and null["value"] <= here["value"]


def excess(row: dict) -> float | None:
    """How much more supports overlap within clusters than between them; None where unknown, or where most supports are empty."""
    within, between = (row["overlap"][kind]["median"] for kind in ("within", "between"))
    return within - between if row["size"]["median"] and not unknown(within) and not unknown(between) else None


def dimension(numbers: dict, total: int) -> str:
    """Effective channels, and their share of all."""
    words = quartiles_text(numbers["effective_channels"], 0)
    return (
        "undefined"
        if words is None
        else f"{words} of {total}: {percent(numbers['effective_channels']['median'] / total)}"
    )


def published_share(numbers: dict, total: int) -> bool | None:
    """Whether the median image has the published share of effective channels."""
    median, (low, high) = numbers["effective_channels"]["median"], PUBLISHED_SHARE
    return None if unknown(median) else low <= median / total <= high


def near_zero_claim(summary: dict) -> Any:
    """About a third of the channels are near zero without noise."""

    found = {name: row["share_of_channels"] for name, row in summary["near_zero"].items()}
    low, high = A_THIRD

    def shares(name: str) -> str:
        pairs = zip(found[name], CUTS, strict=True)
        return ", ".join(f"{percent(s)} (below {100 * cut:g}%)" for s, cut in pairs if not unknown(s)) or "undefined"

    return report.Claim(
        f"About a third of the channels are near zero without noise (yes: {percent(low)} to {percent(high)} of them below "
        f"{100 * CUTS[MAIN_CUT]:g}% of their mean at the working level, and not so without training; in part: at another cut).",
        "about 1/3",
        shares("trained"),
        f"untrained – {shares('untrained')}",
        third_near_zero(found["trained"], found["untrained"]),
    )


def third_near_zero(trained: Sequence[float | None], untrained: Sequence[float | None]) -> str:
    """The verdict from the shares at all cuts: that of the main cut, or in part where another cut alone gives a third."""
    low, high = A_THIRD
    answers = [
        [None if unknown(share) else low <= share <= high for share in shares] for shares in (trained, untrained)
    ]
    word = report.verdict(part(*(of[MAIN_CUT] for of in answers)))
    return "in part" if word == "no" and any(answers[0]) else word
