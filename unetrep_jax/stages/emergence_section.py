"""What emerges when, as figures and tables."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from unetrep_jax import report
from unetrep_jax.figures import emergence as drawing
from unetrep_jax.stages.cluster_numbers import with_count
from unetrep_jax.stages.context import Arrays, Context, picture
from unetrep_jax.stages.wording import QUARTILES, estimate_text, number, percent, quartiles_text, share_text

Rows = Sequence[Mapping[str, Any]]


def section_emergence(context: Context, arrays: Arrays, summary: dict) -> report.Section:
    """The first run's course in detail; the runs beside each other; a table for each."""
    runs = summary["runs"]
    if not runs:
        return report.Section(
            "What emerges when",
            [
                "No checkpoints along the training are at hand: `train.py --config.checkpoint.milestones=12` keeps them, "
                "and `--beside RUN` shows those of other runs."
            ],
        )
    own, rows = next(iter(runs.items()))
    caption = (
        f"Along the training of {own}: PSNR by noise level (σ x 255), participation ratio of each block, how far the images' "
        "differences in each block survive more noise, separation of clusters, and what phi has to do with labels."
    )
    if rows[0]["images"] == 0:
        caption += " 0 is the network before its training."
    pictures = [picture(context, drawing.emergence(own_panels(summary, rows)), "emergence", caption)]
    if len(runs) > 1:
        pictures.append(
            picture(
                context,
                drawing.emergence(panels_of_runs(summary), one_legend=True),
                "emergence_of_runs",
                "The same of several runs, against the training images seen since each began.",
            )
        )
    return report.Section(
        "What emerges when", emergence_text(summary), [table_of(summary, name) for name in runs], pictures
    )


def emergence_text(summary: dict) -> list[str]:
    """What was measured, on what."""
    low, high = summary["compared_with_times_255"], summary["sigma_times_255"]
    return [
        "Checkpoints kept along the training, each twice as far as the one before (averaged parameters where the run kept them; "
        "where a run goes on from another's end, after that one's), "
        f"all on the same {summary['images']:,} images with the same noise, {summary['draws']} draws. What the middle "
        "block gives is the PSNR that is lost where decoders see its mean over all other images instead. Ratios, clusters and "
        f"neighbours are those of σ = {high:g}/255. Stability is the cosine between an image's channel averages at {low:g} and at "
        f"{high:g}/255, after the mean over images is taken away at each; products are freed of the draws' noise and averaged over "
        f"images first. Clusters ({with_count(summary['clusters'])}) are found on one half of the images and separated on the "
        "other; the Gaussian has phi's covariance and no clusters. Neighbours are compared by the cosine, the mean phi taken away.",
    ]


def seen(rows: Rows) -> np.ndarray:
    """Training images seen at every milestone."""
    return np.array([row["images"] for row in rows], float)


def line(rows: Rows, value: Callable[[Mapping], Any]) -> tuple[np.ndarray, np.ndarray]:
    """One number, or (low, mid, high), of every milestone; None becomes NaN."""
    return seen(rows), np.array([value(row) for row in rows], float)


def interval(estimate: Mapping | None) -> list:
    """(low, value, high)."""
    return [None] * 3 if estimate is None else [estimate["low"], estimate["value"], estimate["high"]]


def middle(quartiles: Mapping) -> list:
    """(first quartile, median, third quartile)."""
    return [quartiles[name] for name in QUARTILES]


def own_panels(summary: dict, rows: Rows) -> list[drawing.Panel]:
    """What is known of one run."""
    blocks = list(rows[0]["participation_ratio"])
    levels = [f"{sigma:g}" for sigma in summary["psnr_sigma_times_255"]]
    panels = [
        drawing.Panel(
            "PSNR (dB)", {level: line(rows, lambda row, k=k: row["psnr_db"][k]) for k, level in enumerate(levels)}
        ),
        drawing.Panel(
            "participation ratio",
            {b: line(rows, lambda row, b=b: row["participation_ratio"][b]["median"]) for b in blocks},
        ),
        drawing.Panel(
            "stability (cosine)", {b: line(rows, lambda row, b=b: row["stability"][b]["value"]) for b in blocks}
        ),
        drawing.Panel(
            "separation of clusters",
            {
                "phi": line(rows, lambda row: middle(row["separation"])),
                "Gaussian": line(rows, lambda row: middle(row["separation_of_gaussian"])),
            },
        ),
    ]
    if None not in rows[0]["middle_gives_db"]:
        given = {level: line(rows, lambda row, k=k: row["middle_gives_db"][k]) for k, level in enumerate(levels)}
        panels.insert(1, drawing.Panel("given by the middle block (dB)", given))
    return panels + label_panels(summary, {"phi": rows})


def separation_over_gaussian(row: Mapping) -> float | None:
    """Median separation of clusters of phi, over that of as many in its Gaussian, which has none."""
    of_phi, of_gaussian = row["separation"]["median"], row["separation_of_gaussian"]["median"]
    return of_phi / of_gaussian if of_phi and of_gaussian else None


def label_panels(summary: dict, runs: Mapping[str, Rows]) -> list[drawing.Panel]:
    """What phi has to do with labels; nothing where images have none."""
    if not summary["pixels"]:
        return []
    return [
        drawing.Panel(
            "neighbours that share the label",
            {name: line(rows, lambda row: interval(row["agreement"])) for name, rows in runs.items()},
            {"pixels": summary["pixels"]["agreement"]["value"], "chance": summary["chance"]["agreement"]},
            percent=True,
        ),
        drawing.Panel(
            "clusters and labels (AMI)",
            {name: line(rows, lambda row: row["ami"]) for name, rows in runs.items()},
            {"pixels": summary["pixels"]["ami"], "chance": 0.0},
        ),
    ]


def panels_of_runs(summary: dict) -> list[drawing.Panel]:
    """PSNR at every level, phi's ratio, stability and separation, and labels, a line for each run."""
    runs = summary["runs"]
    panels = [
        drawing.Panel(
            f"PSNR at σ = {sigma:g}/255 (dB)",
            {name: line(rows, lambda row, k=k: row["psnr_db"][k]) for name, rows in runs.items()},
        )
        for k, sigma in enumerate(summary["psnr_sigma_times_255"])
    ]
    of_phi = {
        "participation ratio of phi": lambda row: middle(row["participation_ratio"]["mid"]),
        "stability of phi (cosine)": lambda row: interval(row["stability"]["mid"]),
        "separation, over a Gaussian's": separation_over_gaussian,
    }
    panels += [
        drawing.Panel(label, {name: line(rows, value) for name, rows in runs.items()})
        for label, value in of_phi.items()
    ]
    return panels + label_panels(summary, runs)


def table_of(summary: dict, name: str) -> report.Table:
    """A row for each milestone of a run."""
    levels = [f"PSNR, {sigma:g}/255" for sigma in summary["psnr_sigma_times_255"]]
    labelled = ["neighbours with its label", "AMI with labels"] if summary["pixels"] else []
    header = (
        "images seen", *levels, "given by the middle block", "ratio of phi", "stability of phi", "share of phi that is its mean's",
        "silent channels", "separation", "of a Gaussian", *labelled,
    )  # fmt: skip
    return report.Table(
        f"Along the training of {name}: PSNR in dB; median (quartiles) over images or clusters; mean with its 95 % interval.",
        header,
        [(f"{row['images']:,}", *cells(row, bool(labelled))) for row in summary["runs"][name]],
    )


def cells(row: Mapping, labelled: bool) -> list:
    """A milestone's numbers, printed."""
    printed = [number(psnr) for psnr in row["psnr_db"]]
    gives = row["middle_gives_db"]
    printed += [
        None if None in gives else f"{number(min(gives))} to {number(max(gives))}",
        quartiles_text(row["participation_ratio"]["mid"]),
        estimate_text(row["stability"]["mid"]),
        percent(row["common_part"], 2),
        percent(row["silent_channels"]),
        quartiles_text(row["separation"]),
        quartiles_text(row["separation_of_gaussian"]),
    ]
    return printed + ([share_text(row["agreement"]), number(row["ami"], 3)] if labelled else [])
