"""The cluster stage's numbers as its claims, tables and figures call them."""

from collections.abc import Mapping

import numpy as np

from unetrep_jax.stages.wording import quartiles_text

# Features that belong to no image any more, and others that K-means clusters.
NULLS = {"gaussian_null": "Gaussian of phi's covariance", "permuted_null": "phi, channels permuted over images"}
BY_NOISE = {
    "phi": "phi",
    "pixels": "principal components of the pixels, with fresh noise",
    "phi_of_some": "phi, of as many images as the untrained network sees",
    "untrained": "phi of the untrained network",
}
MATCHED, UNTRAINED = "phi of those", "phi of the untrained network"  # how the names of two controls begin
PANELS = {"clusters": "clusters of phi", "gaussian_null": "clusters of a Gaussian", "classes": "label classes"}


def in_words(row: Mapping) -> str:
    """Median and quartiles inside a sentence."""
    return quartiles_text(row) or "not measurable"


def with_count(count: int | str) -> str:
    """The number of clusters as printed, never broken into lines."""
    return f"K\u00a0=\u00a0{count}"


def measured(summary: dict) -> dict[str, dict]:
    """Everything that was clustered for separation, as tables and figures call it -> its numbers and its array's name ("array")."""
    rows = {}
    for count, row in summary["by_clusters"].items():
        rows[f"phi, {with_count(count)}"] = row | {"array": f"separation/{count}"}
        for null, name in NULLS.items():
            numbers = {"separation": row[null], "clusters": row["clusters"], "images": row["images"], "labels": None}
            rows[f"{name}, {with_count(count)}"] = row[null] | numbers | {"array": f"{null}/{count}"}
    for name, row in summary["controls"].items():
        rows[f"{name}, {with_count(row['clusters'])}"] = row | {"array": f"control/{row['number']}"}
    if classes := summary.get("classes"):
        of_classes = {
            "clusters": classes["classes"],
            "images": summary["images"],
            "labels": None,
            "agreement_of_seeds_ami": None,
        }
        rows["phi, label classes"] = classes | of_classes | {"array": "separation/classes"}
        random = classes["random_partition"] | of_classes | {"array": "separation/random"}
        rows["phi, random partition of the classes' sizes"] = random
    return rows


def agreement_by_noise(summary: dict, part: str = "agreement_with_working_level_ami") -> dict[str, np.ndarray]:
    """AMI with the working level's clusters at every level, for all features that were clustered; or another part of the levels."""
    levels = summary["by_noise"]["levels"].values()
    names = [name for name in BY_NOISE if all(name in row[part] for row in levels)]
    return {name: np.array([row[part][name] for row in levels]) for name in names}
