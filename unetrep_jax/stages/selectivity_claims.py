"""What the paper says of specialised and common channels, and whether it holds here (figure 4)."""

from typing import Any

from unetrep_jax import report
from unetrep_jax.stages.selecting import BREADTHS, GROUPS, HUMPS_BELOW
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, unknown


def selectivity_claims(summary: dict) -> list:
    """The paper's statements on channels. Nulls: the untrained network's channels, treated alike, and groups dealt at random.

    Where the untrained network saw fewer images, the trained one must show it on all of them and on as many.
    """
    groups = summary["groups"]
    rows = {name: found["by_threshold"]["maximum"] for name, found in summary["distributions"].items()}
    trained = [name for name in groups if name != "untrained"]
    breadths = [quantity for both in BREADTHS.values() for quantity in both]

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
            *of_groups(dict.fromkeys(breadths, 2)),
            common_have_more(*breadths),
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
    "frequency_breadth": "frequencies of gratings",
    "orientation_breadth": "orientations of gratings",
    "texture_frequency_breadth": "frequencies of noise textures",
    "texture_orientation_breadth": "orientations of noise textures",
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
    humps = min(row["dip_p"], row["dip_of_logit_p"]) < HUMPS_BELOW
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


def turn_of(cosine: float | None) -> float | None:
    """1 - cosine, of a cosine in double precision."""
    return None if unknown(cosine) else 1 - cosine


def with_p(value: float | None, chance: float | None, decimals: int) -> str | None:
    """A number and its p-value."""
    return None if unknown(value) else f"{number(value, decimals)} ({number(chance, 3) or '–'})"
