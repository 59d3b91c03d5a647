"""The paper's statements about clusters, each with its null; whether they hold is computed from the numbers (figure 8)."""

from collections.abc import Mapping, Sequence

import numpy as np

from unetrep_jax import report
from unetrep_jax.stages.cluster_numbers import (
    BY_NOISE,
    MATCHED,
    NULLS,
    UNTRAINED,
    agreement_by_noise,
    in_words,
    measured,
)
from unetrep_jax.stages.context import LOWEST_COMPARED, Context
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, percent, unknown


def cluster_claims(context: Context, summary: dict) -> list:
    """The paper's statements about clusters, each with its null; whether they hold is computed from the numbers."""
    claims = [*separation_claim(summary), *noise_claim(context, summary)]
    return claims + (classes_claims(summary) if "classes" in summary else [])


def separation_claim(summary: dict) -> list:
    """Adjacent clusters are at least two deviations apart: held out, and more than in clouds without clusters."""
    by_clusters = summary["by_clusters"]
    if not by_clusters:
        return []
    here = [
        f"K = {count}: {in_words(row['held_out'])} held out, {percent(row['held_out']['at_least_2']) or 'none'} of the pairs at "
        f"least 2 and {percent(row['held_out']['from_2_to_4']) or 'none'} from 2 to 4 ({in_words(row['separation'])} on the images "
        "fitted)"
        for count, row in by_clusters.items()
    ]
    rows = {name: row for name, row in measured(summary).items() if not row["array"].startswith("separation")}
    here += [f"{name}: {in_words(row['held_out'])} held out" for name, row in rows.items() if name.startswith(MATCHED)]
    nulls = [f"{name}: {in_words(row['held_out'])}" for name, row in rows.items() if not name.startswith(MATCHED)]
    return [
        report.Claim(
            "Centroids of adjacent clusters are at least two standard deviations apart",
            "at least 2, mostly from 2 to 4",
            "; ".join(here),
            "held out: " + "; ".join(nulls),
            report.verdict(*separation_parts(summary)),
        )
    ]


def separation_parts(summary: dict) -> list[tuple[bool | None, bool]]:
    """For every K against both nulls; for the first also against pixels, and against the untrained network on as many images."""
    by_clusters, controls = summary["by_clusters"], summary["controls"]
    parts = [separated(row, *(row[null] for null in NULLS)) for row in by_clusters.values()]
    matched = [row for name, row in controls.items() if name.startswith(MATCHED)]
    first = next(iter(by_clusters.values()))
    for name, control in controls.items():
        if not name.startswith(MATCHED):
            here = matched[0] if matched and name.startswith(UNTRAINED) else first
            parts.append(separated(here, control))
    return parts


def separated(row: Mapping, *nulls: Mapping) -> tuple[bool | None, bool]:
    """Whether the held-out median is 2 or more, and whether it is not above three quarters of the values of a null."""
    median = row["held_out"]["median"]
    if unknown(median):
        return None, False
    quartiles = [null["held_out"]["third_quartile"] for null in nulls]
    return part(median >= 2, *(None if unknown(quartile) else median <= quartile for quartile in quartiles))


def noise_claim(context: Context, summary: dict) -> list:
    """Clusters stay the same over noise levels, as far as other starts leave them the same, and more than without training."""
    agreement = agreement_by_noise(summary)
    other = np.array([LOWEST_COMPARED <= sigma != context.settings.sigma for sigma in context.settings.sigmas])
    if "phi" not in agreement or not other.any():
        return []
    medians = {name: float(np.median(values[other])) for name, values in agreement.items()}
    words = {
        name: f"AMI {medians[name]:.2f} (median over the other levels from {LOWEST_COMPARED:g}/255 up; {values[other].min():.2f} "
        f"to {values[other].max():.2f}), and {values[context.working]:.2f} at the same level from another start"
        for name, values in agreement.items()
    }
    return [
        report.Claim(
            "K-means finds the same clusters at other noise levels",
            None,
            words.pop("phi"),
            "; ".join(f"{BY_NOISE[name]}: {text}" for name, text in words.items()) or "too few images for a control",
            report.verdict(*same_clusters(medians, float(agreement["phi"][context.working]))),
        )
    ]


def same_clusters(medians: Mapping[str, float], ceiling: float) -> list[tuple[bool | None, bool]]:
    """Whether phi's agreement is three quarters of what another start leaves, and a quarter; whether a null's is as large.

    Nulls: pixels with fresh noise, and the untrained network, which is held against phi of as many images.
    """
    pairs = (("phi", "pixels"), ("phi_of_some", "untrained"))
    as_much = [medians[null] >= medians[of] if null in medians and of in medians else None for of, null in pairs]
    shares = [medians["phi"] >= cut * ceiling if ceiling > 0 else None for cut in (0.75, 0.25)]
    return [part(share, *as_much) for share in shares]


def classes_claims(summary: dict) -> list:
    """Classes lie closer than clusters, and K-means that begins at their means leaves them."""
    classes = summary["classes"]
    null, by_clusters = classes["random_partition"], summary["by_clusters"].values()
    of_clusters = [row["held_out"]["median"] for row in by_clusters]
    claims = [
        report.Claim(
            "Label classes lie about 1 apart, closer than clusters",
            "around 1",
            f"{in_words(classes['held_out'])} held out ({in_words(classes['separation'])} on all images); clusters of phi: "
            f"{', '.join(number(median, 2) or 'not measurable' for median in of_clusters) or 'too few images'}",
            f"random partition: {in_words(null['held_out'])} held out ({in_words(null['separation'])} on all images)",
            report.verdict(part(*(close_classes(of["held_out"]["median"], of_clusters) for of in (classes, null)))),
        )
    ]
    if begun := classes.get("begun_at_class_means"):
        random = classes["begun_at_random_means"]
        here, beside = (
            f"AMI with the start {row['ami_at_the_end']:.3f}, {percent(row['staying_at_the_end'])} of the images still in its "
            f"clusters after {row['iterations']} iterations"
            for row in (begun, random)
        )
        claims.append(
            report.Claim(
                "K-means begun at the class means moves away from the classes",
                None,
                here,
                f"from a random partition: {beside}",
                report.verdict(part(*(row["staying_at_the_end"] < 0.5 for row in (begun, random)))),
            )
        )
    return claims


def close_classes(median: float | None, clusters: Sequence[float | None]) -> bool | None:
    """Whether groups lie about 1 apart (0.5 to 1.5), and closer than the clusters of every K."""
    if unknown(median) or not clusters or any(map(unknown, clusters)):
        return None
    return 0.5 <= median <= 1.5 and median < min(clusters)
