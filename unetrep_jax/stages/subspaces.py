"""Union of subspaces: supports, what excludes what, overlap in and between clusters, spectra, and counting (figure 6)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Integer

from unetrep_jax import measures, report, storage, subspaces
from unetrep_jax.figures import subspaces as figures
from unetrep_jax.stages import clustering
from unetrep_jax.stages.context import Arrays, Context, averages, phi, picture, spread, write_stage
from unetrep_jax.stages.wording import quartiles_of, quartiles_text

CUTS = (0.001, 0.01, 0.1)  # "near zero": less than this fraction of a channel's mean at the working level
MAIN_CUT = CUTS.index(0.01)
LEAST_SHARE, LEAST_IMAGES = 0.01, 5  # a channel must be on, and off, in so many images to have odds ratios
OVERLAP_IMAGES = 10_000  # of more images, a random sample is compared
ORDERS = 10  # random orders in which images are seen
SHOWN = 3000  # most images in a scatter
PCA_MEMBERS = 500  # most images of a cluster in its PCA
PART = 0.9  # of the variance
SIGNIFICANT = 1.96  # standard errors
PUBLISHED_SHARE = (110 / 512, 155 / 512)  # of the channels: the dimension of a subspace, by the paper
A_THIRD = (0.2, 0.5)  # our bounds of "about a third"


class Cloud(NamedTuple):
    """One representation of a set of images, and what is needed to take its supports.

    Attributes:
      features: phi at the working level.
      thresholds: tau of each channel.
      groups: the K-means cluster of each image, found in these features.
      specialised: the channels that fire in the fewest images.
    """

    features: Float[np.ndarray, "n k"]
    thresholds: Float[np.ndarray, "k"]
    groups: Integer[np.ndarray, "n"]
    specialised: Integer[np.ndarray, "s"]


SUPPORTS: dict[str, Callable[[Cloud], np.ndarray]] = {
    "threshold": lambda cloud: subspaces.channels_above(cloud.features, cloud.thresholds),
    "largest": lambda cloud: subspaces.largest_channels(cloud.features),
    "raised": lambda cloud: subspaces.channels_above_mean(cloud.features),
}
DEFINITIONS = {"threshold": "above τ", "largest": "largest k·PR", "raised": "above its mean"}
KINDS = {"within": "same cluster", "between": "other clusters", "nearest": "most alike"}


def run_subspaces(context: Context, folder: Path, key: str) -> None:
    """All numbers for the trained network, its permuted null and the untrained network, under each definition of a support."""
    settings = context.settings
    channels = channels_of(context)
    clouds = clouds_of(context, channels)
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "quiet_sigma_times_255": settings.sigmas[quiet_level(context)],
        "clusters": settings.clusters[0],
        "channels": {"all": len(channels["dead"])}
        | {name: int(channels[name].sum()) for name in ("specialised", "common", "dead")},
        "sets": {},
    }
    with storage.Progress("supports", len(clouds) * len(SUPPORTS), unit="sets of supports") as progress:
        for name, cloud in clouds.items():
            effective = quartiles_of(subspaces.effective_channels(cloud.features))
            summary["sets"][name] = {"images": len(cloud.features), "effective_channels": effective}
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
    """Trained, permuted, untrained, and the trained network on the untrained one's images, each with its own clusters and tau."""
    settings, level, some = context.settings, context.working, context.untrained_subset
    tau, specialised = channels["threshold"], np.flatnonzero(channels["specialised"])
    quiet = {stage: phi(context, stage, quiet_level(context)) for stage in ("representations", "untrained")}
    trained = clustering.phi_features(context, "representations", level)
    untrained = clustering.phi_features(context, "untrained", level)
    parts = {
        "trained": (trained, tau, specialised),
        "permuted": (clustering.null_features("permuted_null", trained, settings.seed), tau, specialised),
    }
    if len(some) < len(trained.rows):
        subset = clustering.phi_features(context, "representations", level, some)
        parts["same_images"] = subset, quiet["representations"][some].max(0), specialised
    rarest = subspaces.rarest_channels(untrained.rows, len(specialised))
    parts["untrained"] = untrained, quiet["untrained"].max(0), rarest
    solutions, clouds = clustering.Solutions(context), {}
    with storage.Progress("K-means", len(parts) * settings.cluster_runs, unit="runs") as progress:
        for name, (features, thresholds, special) in parts.items():
            found = solutions.kmeans(features, settings.clusters[0], settings.seed, progress)
            clouds[name] = Cloud(features.rows, thresholds, found.assignment, special)
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
    arrays["odds"], numbers["pairs"] = pairs_of(supports[:, cloud.specialised])
    rng = np.random.default_rng(seed)
    some = np.sort(rng.choice(len(supports), min(len(supports), OVERLAP_IMAGES), replace=False))
    overlap = subspaces.overlaps(supports[some], cloud.groups[some])
    arrays["overlap"] = np.stack(overlap)
    numbers["overlap"] = {"images": len(some)} | {name: quartiles_of(v) for name, v in overlap._asdict().items()}
    arrays["seen"] = seen = subspaces.images_seen(len(supports))
    numbers["distinct"] = {}
    for name, part in {"all": supports, "specialised": supports[:, cloud.specialised]}.items():
        counts = subspaces.accumulation(subspaces.support_numbers(part), seen, orders=ORDERS, seed=seed)
        arrays[f"distinct/{name}"], new = counts, subspaces.new_in_second_half(seen, counts)
        numbers["distinct"][name] = {"supports": int(counts[0, -1]), "new_in_second_half": new}
    return arrays, numbers


def least_images(count: int) -> int:
    """Images that a channel must be on for, and off for, to have odds ratios."""
    return max(LEAST_IMAGES, int(np.ceil(LEAST_SHARE * count)))


def pairs_of(supports: Bool[np.ndarray, "n s"]) -> tuple[np.ndarray, dict]:
    """Log odds ratios of all pairs of these channels that have one, and how many exclude each other."""
    odds = subspaces.log_odds_ratios(supports, least_images(len(supports)))
    pairs = np.triu(np.isfinite(odds.ratio), 1)
    ratio, error = odds.ratio[pairs], odds.error[pairs]
    numbers = {"pairs": len(ratio), "odds_ratio": quartiles_of(np.exp(ratio)), "lowest": None}
    if len(ratio):
        numbers["lowest"] = float(np.exp(ratio.min()))
        numbers["exclusive"] = float((ratio < -SIGNIFICANT * error).mean())
        numbers["together"] = float((ratio > SIGNIFICANT * error).mean())
    return ratio, numbers


def spectra_of(clouds: dict[str, Cloud], seed: int, arrays: Arrays) -> dict:
    """PCA inside clusters beside PCA of random images, of the same number for a representation and its null."""
    result = {}
    for pair in (("trained", "permuted"), (*(name for name in ("same_images",) if name in clouds), "untrained")):
        sizes = [np.unique(clouds[name].groups, return_counts=True)[1] for name in pair]
        members = min(PCA_MEMBERS, *(int(np.median(size)) for size in sizes), len(clouds[pair[0]].features))
        for name in pair:
            cloud = clouds[name]
            found = subspaces.group_spectra(cloud.features, cloud.groups, members, seed=seed)
            whole = subspaces.components_for(subspaces.variance_shares(cloud.features), PART)
            result[name] = {"members": members, "clusters": len(found.inside), "whole": whole}
            for kind, shares in found._asdict().items():
                arrays[f"spectrum/{kind}/{name}"] = np.cumsum(shares, axis=1)
                needed = np.array([subspaces.components_for(row, PART) for row in shares])
                result[name][kind] = quartiles_of(needed)
    return result


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
    """The two specialised channels with the lowest odds ratio, and the common channel that the most images use.

    The share of images that use a channel is its participation ratio over them. Where there are no two specialised channels the two
    lowest take their place, and where none is common, the highest. None where no two of them vary, or there is no third.
    """
    trained = clouds["trained"]
    by_use = subspaces.rarest_channels(trained.features, trained.features.shape[1])
    candidates = trained.specialised if len(trained.specialised) > 1 else by_use[:2]
    for definition in ("threshold", "raised"):
        supports = SUPPORTS[definition](trained)
        odds = subspaces.log_odds_ratios(supports[:, candidates], least_images(len(supports))).ratio
        if np.isfinite(odds).any():
            break
    else:
        return None
    pair = candidates[list(np.unravel_index(np.nanargmin(odds), odds.shape))]
    others = by_use[~np.isin(by_use, pair)]
    third = [*others, *others[channels["common"][others]]][-1:]
    if not third:
        return None
    shown = [int(channel) for channel in (*pair, *third)]
    cuts = trained.thresholds if definition == "threshold" else trained.features.mean(0, dtype=np.float64)
    arrays["scatter/cuts"] = cuts[shown].astype(np.float64)
    result = {"channels": shown, "definition": definition, "odds_ratio": float(np.exp(np.nanmin(odds)))}
    for name in ("trained", "permuted"):
        on = SUPPORTS[definition](clouds[name])[:, shown[:2]]
        arrays[f"scatter/{name}"] = clouds[name].features[:, shown]
        result[name] = {"both": int(on.all(1).sum()), "either": int(on.any(1).sum())}
    return result


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


def printed(quartiles: dict, decimals: int = 2) -> str | None:
    """Median and quartiles; None where there are none."""
    return None if undefined(quartiles["median"]) else quartiles_text(quartiles, decimals)


def undefined(number: float | int | None) -> bool:
    """Whether a number of a summary is missing; a NaN is read back as None."""
    return number is None or bool(np.isnan(number))


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
    ]


def support_tables(summary: dict, names: dict[str, str]) -> list:
    """Supports, pairs of channels, overlap, counts: a row for each definition and representation."""
    sets = summary["sets"]

    def table(caption: str, header: tuple, cells: Callable) -> Any:
        rows = [(f"{DEFINITIONS[d]}; {names[s]}", *cells(sets[s][d], sets[s])) for d in DEFINITIONS for s in sets]
        return report.Table(caption, ("supports", *header), rows)

    def size(row, cloud):
        counts = (str(row["never_on"]), str(row["always_on"]))
        return (
            printed(row["size"], 0),
            *counts,
            printed(row["energy_inside"], 3),
            printed(cloud["effective_channels"], 1),
        )

    def pairs(row, _):
        found = row["pairs"]
        if not found["pairs"]:
            return "0", *[None] * 4
        shares = (f"{found[name]:.1%}" for name in ("exclusive", "together"))
        return f"{found['pairs']:,}", printed(found["odds_ratio"]), *shares, f"{found['lowest']:.3g}"

    def overlap(row, _):
        return (printed(row["overlap"][kind], 3) for kind in KINDS)

    def distinct(row, _):
        parts = row["distinct"].values()
        return (cell for p in parts for cell in (f"{p['supports']:,}", f"{p['new_in_second_half']:.1%}"))

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
            f"other images of the same of {summary['clusters']} K-means clusters, mean over other clusters, the most alike of all. "
            "Two empty supports are left out.",
            tuple(KINDS.values()),
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
    """Principal axes inside clusters and of as many random images."""
    rows = []
    for name, row in summary["spectra"].items():
        whole = None if undefined(row["whole"]) else f"{row['whole']:.0f}"
        needed = (printed(row[kind], 0) for kind in ("inside", "random"))
        rows.append((names[name], str(row["clusters"]), str(row["members"]), *needed, whole))
    return report.Table(
        f"Principal axes that hold {PART:.0%} of the variance, median (quartiles) over clusters. PCA of fewer images needs "
        "fewer axes: a cluster is compared with as many images drawn at random from all.",
        ("representation", "clusters", "images of each", "inside clusters", "random images", "all images"),
        rows,
    )


def near_zero_table(summary: dict) -> Any:
    """Channels and values near zero without noise."""
    networks = summary["near_zero"].values()
    rows = [
        (
            f"{100 * cut:g}%",
            *(f"{found['share_of_channels'][k]:.1%}" if found["channels"] else None for found in networks),
            *(printed(found["share_of_values"][k]) for found in networks),
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
    first, second, third = shown["channels"]
    figure = figures.channel_scatter(
        {"phi": arrays["scatter/trained"][rows], "channels permuted": arrays["scatter/permuted"][rows]},
        (f"channel {first}", f"channel {second}", f"channel {third}, common"),
        arrays["scatter/cuts"],
    )
    both = {name: "{both:,} of {either:,}".format(**shown[name]) for name in ("trained", "permuted")}
    caption = (
        "Images by two specialised channels and a common one (figure 6). Of all pairs of specialised channels this is the one "
        f"with the lowest odds ratio ({shown['odds_ratio']:.3g}; supports {DEFINITIONS[shown['definition']]}): a choice in favour "
        "of the claim. The common channel is the one that the most images use. Both specialised channels are on for "
        f"{both['trained']} images that have either; with channels permuted, for {both['permuted']}. The axes begin at 0 in "
        "space and where the images begin on the planes; dashed: the cuts above which a channel is on."
    )
    return [picture(context, figure, "subspaces_scatter", caption)]


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
        f"{names[s]}: {words}": measures.quartiles(arrays[f"spectrum/{kind}/{s}"]).T
        for s in ("trained", "permuted")
        for kind, words in {"inside": "inside clusters", "random": "random images"}.items()
        if arrays[f"spectrum/{kind}/{s}"].size
    }
    zero = {
        f"{network}, below {100 * cut:g}%": arrays[f"near_zero/{network}"][k]
        for network in summary["near_zero"]
        for k, cut in enumerate(CUTS)
    }
    members = summary["spectra"]["trained"]["members"]
    drawn = {
        "odds": (
            figures.odds_histograms(panels(lambda d, s: arrays[f"odds/{d}/{s}"])),
            "Odds ratios of pairs of specialised channels.",
        ),
        "overlap": (
            figures.overlap_ranges(
                panels(lambda d, s: dict(zip(KINDS.values(), arrays[f"overlap/{d}/{s}"], strict=True)))
            ),
            "Jaccard overlap of supports: median and quartiles over images.",
        ),
        "growth": (
            figures.accumulation_curves(growth),
            "Distinct supports against images seen: mean and range over random orders; dashed, a new one with every image.",
        ),
        "spectra": (
            figures.spectra(spectra, part=PART, xlabel=f"principal axes of {members} images"),
            "Variance on the first principal axes, inside clusters and of as many random images.",
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
    trained, nulls = sets["trained"], ("permuted", "untrained")

    def each(name: str, shown: Callable) -> str:
        found = {label: shown(sets[name][d]) for d, label in DEFINITIONS.items()}
        return "; ".join(f"{label}: {words}" for label, words in found.items() if words is not None) or "undefined"

    def claim(words: str, shown: Callable, answer: Callable) -> Any:
        beside = ". ".join(f"{name.capitalize()} – {each(name, shown)}" for name in nulls)
        answers = [answer(d) for d in DEFINITIONS]
        return report.Claim(
            words, None, each("trained", shown), beside, verdict([bool(a) for a in answers if a is not None])
        )

    def overlap(row):
        within, between = (row["overlap"][kind]["median"] for kind in ("within", "between"))
        return None if undefined(excess(row)) else f"{within:.3f} against {between:.3f}"

    def more_alike(definition):
        found = {name: excess(row[definition]) for name, row in sets.items()}
        if undefined(found["trained"]):
            return None
        same_images = found.get("same_images", found["trained"])
        return found["trained"] > max(0, found["permuted"]) and same_images > max(0, found["untrained"])

    def growth(row):
        found = row["distinct"]["all"]
        return f"{found['supports']:,} ({found['new_in_second_half']:.0%} new)"

    sizes = {name: dimension(sets[name], total) for name in ("trained", *nulls)}
    return [
        report.Claim(
            "phi lies in a union of coordinate subspaces of about 110 to 155 of 512 dimensions (effective channels k·PR; yes: a "
            "share of 21 to 30 %, and not so without training).",
            "110–155 of 512 (21–30 %)",
            sizes["trained"],
            ". ".join(f"{name.capitalize()} – {sizes[name]}" for name in nulls),
            dimension_verdict(sets, total),
        ),
        claim(
            "Two specialised channels rarely fire for the same image (odds ratio; yes: significantly below 1 for most pairs).",
            lambda row: printed(row["pairs"]["odds_ratio"]),
            lambda d: trained[d]["pairs"].get("exclusive", 0) > 0.5 if trained[d]["pairs"]["pairs"] else None,
        ),
        claim(
            "Supports overlap more within clusters than between them (Jaccard; yes: by more than in the null's own clusters, and "
            "than in the untrained network's at the same images; only where most supports are not empty).",
            overlap,
            more_alike,
        ),
        claim(
            f"The number of subspaces is combinatorial: new supports keep coming ({trained['images']:,} images, untrained "
            f"{sets['untrained']['images']:,}; new: share of the second half of the images; yes: most of it).",
            growth,
            lambda d: trained[d]["distinct"]["all"]["new_in_second_half"] > 0.5,
        ),
    ]


def verdict(answers: list[bool]) -> str:
    """One word for what several definitions say."""
    if not answers:
        return ""
    return "yes" if all(answers) else "in part" if any(answers) else "no"


def excess(row: dict) -> float:
    """How much more supports overlap within clusters than between them; NaN where that is undefined, or most supports are empty."""
    within, between = (row["overlap"][kind]["median"] for kind in ("within", "between"))
    empty = not row["size"]["median"]
    return np.nan if empty or undefined(within) or undefined(between) else within - between


def dimension(numbers: dict, total: int) -> str:
    """Effective channels, and their share of all."""
    words = printed(numbers["effective_channels"], 0)
    return (
        "undefined" if words is None else f"{words} of {total}: {numbers['effective_channels']['median'] / total:.0%}"
    )


def dimension_verdict(sets: dict, total: int) -> str:
    """Whether the trained network has the published share of effective channels, and the untrained one has not."""
    low, high = PUBLISHED_SHARE
    medians = (sets[name]["effective_channels"]["median"] for name in ("trained", "untrained"))
    trained, untrained = (not undefined(median) and low <= median / total <= high for median in medians)
    return verdict([trained, not untrained]) if trained else "no"


def near_zero_claim(summary: dict) -> Any:
    """About a third of the channels are near zero without noise."""

    def shares(name: str) -> str:
        found = summary["near_zero"][name]["share_of_channels"]
        pairs = zip(found, CUTS, strict=True)
        return ", ".join(f"{s:.0%} (below {100 * cut:g}%)" for s, cut in pairs if not undefined(s)) or "undefined"

    low, high = A_THIRD
    found = summary["near_zero"]["trained"]["share_of_channels"]
    answers = [low <= share <= high for share in found if not undefined(share)]  # all of them are defined, or none is
    return report.Claim(
        f"About a third of the channels are near zero without noise (yes: {low:.0%} to {high:.0%} of them below "
        f"{100 * CUTS[MAIN_CUT]:g}% of their mean at the working level; in part: at another cut).",
        "about 1/3",
        shares("trained"),
        f"Untrained – {shares('untrained')}",
        "yes" if answers and answers[MAIN_CUT] else verdict([any(answers), False]) if answers else "",
    )
