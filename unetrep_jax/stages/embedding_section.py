"""What the report says and shows of the Euclidean embedding (equations 3 and 4)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unetrep_jax import densities, figures, report
from unetrep_jax.figures import embedding as drawn
from unetrep_jax.stages.channels import channels_text
from unetrep_jax.stages.context import Arrays, Context, picture, spread
from unetrep_jax.stages.embedding import ARMS, FEATURES, of_arm, usable
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import estimate_text, number, percent, quartiles_text, unknown

PUBLISHED_RATIO = 2.9  # B / A, of a network trained on textures, about 100 pairs (the authors' slide)
NOT_TOO_LARGE = 10  # B / A; the paper gives no bound, so this is ours


def section_embedding(context: Context, arrays: Arrays, summary: dict) -> report.Section:
    """The scatters, their table, d^2 made in other ways and by noise level, and the pairs themselves."""
    title = "Euclidean embedding"
    if context.settings.embedding_pairs == 0:
        return report.Section(title, ["Left out by the setting `analysis.embedding_pairs` = 0."])
    good = usable(arrays["distance"])
    pictures = [
        picture(
            context,
            scatter(arrays, summary, good),
            "embedding",
            "d² of the densities that two images' phi stand for, against squared distances between the images: in phi and, for "
            "the same d², in controls. Dashed: the band A, B. Bars: two standard errors. Dotted: d² of an image to itself.",
        )
    ]
    if summary["arms"]:
        pictures.append(
            picture(
                context,
                agreement(arrays),
                "embedding_reconstructed",
                "d² with reconstructions from phi as samples, against d² with the images themselves. Dashed: equal.",
            )
        )
    pictures += [
        picture(
            context,
            by_level(arrays, good),
            "embedding_by_level",
            "What each noise level contributes to d², per unit of log σ: median and quartiles over the third of the pairs "
            "that is nearest in phi, the third that is furthest, and images paired with themselves.",
        ),
        picture(
            context,
            pairs_shown(context, arrays, good),
            "embedding_pairs",
            "Pairs (one above the other) from the nearest to the furthest in phi, evenly picked from those measured.",
        ),
    ]
    return report.Section(title, words(context, summary), tables(summary), pictures, [claim(summary)])


def scatter(arrays: Arrays, summary: dict, good: np.ndarray) -> Any:
    """d^2 against the squared distance in each kind of features."""
    panels = {
        FEATURES[name]: drawn.Embedded(
            arrays[f"squares/{name}"][good],
            row["low"]["value"],
            row["high"]["value"],
            f"B/A = {ratio_text(row)}, Spearman {number(row['spearman']['value']) or '–'}",
        )
        for name, row in summary["features"].items()
    }
    return drawn.embedding_scatter(panels, arrays["distance"][good], arrays["error"][good], summary["same"]["median"])


def agreement(arrays: Arrays) -> Any:
    """d^2 around reconstructions against d^2 around the images, of the pairs that have both."""
    both = usable(of_arm(arrays, "images", "distance")) & usable(arrays["reconstructions/distance"])
    ways = [
        of_arm(arrays, name, what)[both] for what in ("distance", "error") for name in ("images", "reconstructions")
    ]
    return drawn.embedding_agreement(*ways)


def ratio_text(row: Mapping[str, Any]) -> str:
    """B / A as it is printed."""
    return number(row["ratio"]["value"], ratio_decimals(row)) or "–"


def ratio_decimals(row: Mapping[str, Any]) -> int:
    """Of B / A and what stands beside it: none where it has three digits or more."""
    ratio = row["ratio"]["value"]
    return 1 if unknown(ratio) or ratio < 100 else 0


def halves_text(row: Mapping[str, Any], name: str, decimals: int | None) -> str | None:
    """An extreme of random halves of the pairs: median, and 95 % of the halves."""
    low, median, high = row[name]["halves"]
    return estimate_text({"value": median, "low": low, "high": high}, decimals)


def narrow(features: Mapping[str, Any]) -> list[tuple]:
    """Whether the band is narrow and the ranks agree; and whether any null does as well (see `report.verdict`).

    Nulls of the band: other pairs' d^2, of which 2.5 % have a narrower one, and all controls. Of the ranks: all controls; permuted
    ones are what the number is held against.
    """
    row, others = features["phi"], [other for name, other in features.items() if name != "phi"]
    ratio, spearman = row["ratio"]["value"], row["spearman"]["value"]
    if unknown(spearman) or unknown(row["spearman"]["null"][2]):
        return [part(None)]
    ranks = [other["spearman"]["value"] for other in others if not unknown(other["spearman"]["value"])]
    return [
        part(
            ratio <= NOT_TOO_LARGE,
            min([row["ratio"]["null"][0], *(other["ratio"]["value"] for other in others)]) <= ratio,
        ),
        part(spearman > row["spearman"]["null"][2], max(ranks, default=-1.0) >= spearman),
    ]


def claim(summary: dict) -> report.Claim:
    """Equation 3."""
    features = summary["features"]
    row = features["phi"]
    others = [
        f"{FEATURES[name]} {ratio_text(other)}, of halves {halves_text(other, 'ratio', ratio_decimals(other))}, Spearman "
        f"{number(other['spearman']['value']) or '–'}"
        for name, other in features.items()
        if name != "phi"
    ]
    ratio, spearman = number(row["ratio"]["null"][1], ratio_decimals(row)), number(row["spearman"]["null"][1]) or "–"
    return report.Claim(
        "A ‖Δphi‖² ≤ d² ≤ B ‖Δphi‖², with B/A not too large",
        f"B/A = {PUBLISHED_RATIO} (textures, about 100 pairs)",
        f"B/A = {ratio_text(row)}, of random halves of the pairs {halves_text(row, 'ratio', ratio_decimals(row))}, of the middle "
        f"90 % {estimate_text(row['middle'], 1) or '–'}, Spearman {estimate_text(row['spearman']) or '–'}, "
        f"{summary['pairs'] - summary['excluded']} pairs",
        f"B/A of {'; '.join([f'd² of other pairs {ratio}, Spearman {spearman}', *others])}",
        report.verdict(*narrow(features)),
    )


def words(context: Context, summary: dict) -> list[str]:
    """What was done, and what to keep in mind when reading the numbers."""
    settings, same, levels = context.settings, summary["same"], summary["levels"]
    near, middle = summary["noise_of_phi"]
    alone = summary["ratio_by_noise"]
    text = [
        "d² is the divergence, both directions added, of p(x | phi_1) and p(x | phi_2) blurred by noise of "
        f"{levels[0]:g}, less that of the two blurred by {levels[-1]:g}: the integral of equation 4 over these levels. How the "
        "paper conditions its scores is not stated. Here y is moved, along the gradient with Polyak's step, until its phi is the "
        f"target's at the level of the noise (at most {settings.embedding_updates} updates, {settings.target_draws} draws in a "
        f"target), and denoised. {len(levels)} log-spaced levels; {settings.embedding_draws} noisy versions of each image at each "
        "stand for samples of its density.",
        "B/A is a ratio of extremes: it grows with the number of pairs, their range of distances and noise, so it cannot be read "
        "alone, and the bootstrap has no interval for it. Beside A, B and B/A of all pairs stand those of random halves, drawn "
        "without replacement: how much they depend on which pairs were taken, and on how many. ‖Δphi‖² spans a factor of "
        f"{number(summary['range_of_squares'], 0)} here, d² one of {number(summary['distance'][2] / summary['distance'][0], 0)}. "
        f"Standard errors of d² are {errors_text(summary['relative_error'])} of it"
        f"{'' if unknown(alone) else f', and alone would give B/A = {number(alone, 1)}'}. The finite number of draws makes up "
        f"{percent(near)} of ‖Δphi‖² for the nearest tenth of pairs and {percent(middle)} for the median pair.",
        f"An image has d² = {number(same['median'], None)} to itself (median of {same['images']}, two targets from noise of their "
        f"own), where it should be 0; {percent(summary['below_same'])} of the pairs are not above that. d² of the pairs runs from "
        f"{number(summary['distance'][0], None)} to {number(summary['distance'][2], None)}.",
        f"The claim counts as held where B/A is at most {NOT_TOO_LARGE} (our bound; the paper names none), the ranks agree better "
        "than in 97.5 % of permutations, and neither is as good for any control or, B/A, in 2.5 % of permutations; as held in part "
        "where only one is, or a null does as well. d² is made with phi, which favours phi over the controls"
        f"{': the last row of the second table matches the untrained network’s phi instead' if summary['arms'] else ''}.",
    ]
    if summary["channels"]:
        text.append(channels_text(summary["channels"]))
    return [*text, *left_out_text(summary)]


def left_out_text(summary: dict) -> list[str]:
    """What was left out, and why: pairs, kinds of distance, ways of making d^2."""
    text = []
    if summary["excluded"]:
        text.append(f"{summary['excluded']} of {summary['pairs']} pairs have no finite d² above 0 and are left out.")
    if apart := [
        f"{FEATURES[name]} ({row['excluded']})" for name, row in summary["features"].items() if row["excluded"]
    ]:
        text.append(f"Pairs at no distance at all are left out in their row alone: {', '.join(apart)}.")
    if absent := [title for name, title in FEATURES.items() if name not in summary["features"]]:
        text.append(
            f"Not compared, for fewer than 3 pairs are at a distance in it or there are too few images for it: {', '.join(absent)}."
        )
    if arms := [ARMS[name] for name, arm in summary["arms"].items() if "ratio" not in arm]:
        text.append(
            "No numbers, for fewer than 3 pairs have a finite d² above 0 both ways, or no image has one to itself: "
            f"{', '.join(arms)}."
        )
    if not summary["arms"]:
        text.append("d² is made in no other way: `analysis.embedding_reconstructed_pairs` = 0.")
    return text


def errors_text(quartiles: dict) -> str:
    """Median and quartiles as percentages; from one sample of each density there is no spread."""
    if unknown(quartiles["median"]):
        return "unknown shares"
    return quartiles_text({name: 100 * value for name, value in quartiles.items()}, 1) + " %"


def tables(summary: dict) -> list[report.Table]:
    """A, B and the rest for phi and the controls; other ways of making d^2; what each level brings."""
    made = [distances_table(summary), ways_table(summary)] if summary["arms"] else [distances_table(summary)]
    shares = zip(summary["levels"], summary["by_level"], strict=True)
    return [
        *made,
        report.Table(
            "Share of d² that each noise level brings to the integral, median over pairs.",
            ("σ", "share"),
            [(number(sigma, 3), percent(share, 1)) for sigma, share in shares],
        ),
    ]


def distances_table(summary: dict) -> report.Table:
    """A, B and how the two go together, for phi, the controls, and phi with the d^2 of other pairs."""
    fields = {"ratio": "B/A", "middle": "B/A, middle 90 %", "spearman": "Spearman", "slope": "log-log slope"}
    decimals = {"low": None, "high": None, "ratio": 1, "middle": 1, "spearman": 2, "slope": 2}

    def extreme(row, name):
        return f"{number(row[name]['value'], decimals[name])}; {halves_text(row, name, decimals[name])}"

    def permuted(row, name):
        low, median, high = row[name]["null"]
        return estimate_text({"value": median, "low": low, "high": high}, decimals[name])

    rows = [
        (
            FEATURES[name],
            *(extreme(row, field) for field in densities.EXTREMES),
            *(estimate_text(row[field], decimals[field]) for field in densities.WITH_INTERVALS),
        )
        for name, row in summary["features"].items()
    ]
    phi_row = summary["features"]["phi"]
    extremes = [number(phi_row[name]["null"][1], None) for name in ("low", "high")]
    rows.append(("phi, with d² of other pairs (permuted)", *extremes, *(permuted(phi_row, field) for field in fields)))
    return report.Table(
        f"d² against squared distances of {summary['pairs'] - summary['excluded']} pairs of images, phi at σ = "
        f"{summary['sigma_times_255']:.0f}/255: the smallest and largest ratio A and B, of all pairs and of random halves of them "
        "(median, 95 % of such halves), and how the two go together, with 95 % bootstrap intervals over pairs. Permuted: median "
        "and 95 % of permutations.",
        ("squared distance of", "A", "B", *fields.values()),
        rows,
    )


def ways_table(summary: dict) -> report.Table:
    """d^2 made in every way, beside the cheap one."""
    rows = [
        (
            ARMS[name],
            quartiles_text(arm["ratio_to_cheap"]),
            number(arm["spearman_with_cheap"]),
            number(arm["ratio"], 1),
            number(arm["spearman"]),
            percent(arm["same_over_nearest"], 1),
            arm["excluded"],
        )
        for name, arm in summary["arms"].items()
        if "ratio" in arm
    ]
    return report.Table(
        f"d² made in other ways, for {summary['arms']['images']['pairs']} of the pairs: over d² around the images, median "
        "(quartiles), and rank correlation with it; B/A and rank correlation with squared distances in the phi that was "
        "matched; d² of an image to itself over that of the nearest pair; pairs left out, without a finite d² above 0 both ways.",
        ("d²", "over the first", "Spearman with it", "B/A", "Spearman with ‖Δphi‖²", "image to itself", "left out"),
        rows,
    )


def by_level(arrays: Arrays, good: np.ndarray) -> Any:
    """Contributions against the noise level, for near pairs, far pairs, and images with themselves."""
    parts = arrays["by_level"][good]
    third = max(1, len(parts) // 3)
    groups = {"nearest third": parts[:third], "furthest third": parts[-third:]}
    groups["image and itself"] = arrays["same_by_level"]
    lines = {name: np.quantile(rows, (0.25, 0.5, 0.75), axis=0).T for name, rows in groups.items()}
    return figures.curves(
        arrays["sigmas"],
        lines,
        xlabel="noise level σ (intensity units)",
        ylabel="contribution to d², per unit of log σ",
        log_x=True,
        log_y=True,
    )


def pairs_shown(context: Context, arrays: Arrays, good: np.ndarray) -> Any:
    """Eight pairs with their distances."""
    places = np.flatnonzero(good)[spread(int(good.sum()), 8)]
    images = context.images.images[arrays["pairs"][places]]
    squares = [number(arrays["squares/phi"][place], None) for place in places]
    distances = [number(arrays["distance"][place], None) for place in places]
    notes = ["below: ‖Δphi‖²", "below: d²"]
    return figures.image_rows([images[:, 0], images[:, 1]], ["near → far", ""], notes, [squares, distances])
