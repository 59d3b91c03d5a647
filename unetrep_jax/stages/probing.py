"""How well a linear classifier tells an image's label from phi, beside pixels, the untrained network and chance."""

import functools
import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import measures, probes, report, storage
from unetrep_jax.figures import probes as drawing
from unetrep_jax.stages.context import Arrays, Context, picture, write_stage
from unetrep_jax.stages.neighbouring import SWEEPS, why_no_labels
from unetrep_jax.stages.probe_features import (
    COMPONENTS,
    FEW,
    FEWEST,
    PERMUTED,
    Features,
    Task,
    averaged_name,
    counterpart,
    main_sigma,
    makers_of,
    name_of,
    task_of,
)
from unetrep_jax.stages.remembered import remember
from unetrep_jax.stages.wording import estimate_of, number, percent, share_text
from unetrep_jax.storage import InputError

FIRST = 5  # a label is right in "top-5" when it is among the five likeliest


def run_probe(context: Context, folder: Path, key: str) -> None:
    """A probe for every kind of features, the share of labels that each gets right, and how many more phi gets right."""
    settings = context.settings
    if missing := [sigma for sigma in settings.probe_sigmas if sigma not in settings.sigmas]:
        raise InputError(
            f"analysis.probe_sigmas has {missing[0]:g}, which is not one of analysis.sigmas: add it to those, or drop it"
        )
    skipped, count = why_no_labels(context.images.labels), len(context.images.images)
    if not skipped and min(count, settings.probe_images or count) < FEWEST:
        skipped = f"there are only {min(count, settings.probe_images or count)} images"
    if skipped or not settings.probe_sigmas:
        write_stage(folder, key, {}, {"skipped": skipped or "analysis.probe_sigmas is empty"})
        return
    task, kept = task_of(context), context.outdir / "probes_kept"
    arrays: Arrays = {"tested": task.tested}
    summary: dict = {"skipped": "", "source": task.source, "probes": {}}
    makers = makers_of(context, task)
    with storage.Progress("linear probes", len(makers), unit="probes") as progress:
        for place, (name, make) in enumerate(makers.items()):
            found = remember(kept, key, name, functools.partial(probed, context, make))
            arrays |= {f"{what}/{place}": found[what] for what in ("rows", "ranks", "path")}
            summary["probes"][name] = {what: value.item() for what, value in found.items() if value.ndim == 0}
            progress.advance(1)
    summary |= accuracies(context, arrays, list(makers), classes_of(context, task))
    write_stage(folder, key, arrays, summary)
    shutil.rmtree(kept, ignore_errors=True)


def classes_of(context: Context, task: Task) -> int:
    """How many classes a probe chooses from."""
    return len(np.union1d(task.labels, context.images.labels[task.tested]))


def probed(context: Context, make: Callable[[], Features]) -> Arrays:
    """Learns and judges: the rank of each tested image's label, how the penalty was chosen, and what to know of the fit."""
    features = make()
    labels = context.images.labels[features.rows]
    found = probes.probe(features.learnt, features.labels, features.tested, labels, seed=context.settings.seed)
    path = found.path
    return {
        "rows": features.rows,
        "ranks": found.ranks,
        "path": np.stack([path.l2, path.loss, path.accuracy], axis=1),
        "learnt": np.array(len(features.learnt)),
        "tested": np.array(len(features.tested)),
        "features": np.array(features.learnt.shape[1] - found.constant),
        "constant": np.array(found.constant),
        "l2": path.l2[path.chosen],
        "at_the_end": np.array(path.chosen in (0, len(path.l2) - 1)),
        "iterations": np.array(found.fit.iterations),
        "gradient": np.array(found.fit.gradient),
        "unfinished": np.array(found.fit.unfinished),
    }


def accuracies(context: Context, arrays: Arrays, names: list[str], classes: int) -> dict:
    """Shares of images whose label is right, with 95 % intervals over images; by how much phi's is higher; chance.

    The difference from each kind of features is that of its `counterpart`, on the images that both were judged on.
    """
    tested, main = arrays["tested"], name_of("phi", main_sigma(context))
    right = {}  # (measure, features) -> 1 or 0 for every tested image, NaN where the features do not have it
    for place, name in enumerate(names):
        rank = np.full(len(context.images.images), np.nan)
        rank[arrays[f"rows/{place}"]] = arrays[f"ranks/{place}"]
        rank = rank[tested]
        for measure, first in (("top1", 1), ("top5", FIRST)):
            right[measure, name] = np.where(np.isnan(rank), np.nan, rank <= first)
    against = {name: counterpart(name, main, names) for name in names}
    right |= {
        ("phi_is_right_more_by", name): right["top1", phi_name] - right["top1", name]
        for name, phi_name in against.items()
    }
    means = measures.bootstrap_means(np.stack(list(right.values()), axis=1), seed=context.settings.seed)
    shares = np.sort(np.unique(context.images.labels[tested], return_counts=True)[1])[::-1] / len(tested)
    result: dict = {"classes": classes, "largest_class": float(shares[0]), "largest_five": float(shares[:FIRST].sum())}
    for column, (measure, name) in enumerate(right):
        if measure != "top5" or classes > FIRST:
            result.setdefault(measure, {})[name] = estimate_of(means[:, column])
    return result


def section_probe(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Accuracies, and how the penalties were chosen."""
    if summary["skipped"]:
        return report.Section("Linear probe", [f"There is no linear probe here: {summary['skipped']}."])
    names = list(summary["probes"])
    groups = {"top-1": {name: ends(summary["top1"][name]) for name in names}}
    chance = {"top-1": summary["largest_class"], "top-5": summary["largest_five"]}
    if "top5" in summary:
        groups["top-5"] = {name: ends(summary["top5"][name]) for name in names}
    paths = {name: arrays[f"path/{place}"] for place, name in enumerate(names)}
    pictures = [
        picture(
            context,
            drawing.accuracies(groups, chance),
            "probe_accuracy",
            "Share of images whose label a linear probe gets right, with 95 % intervals over images; by chance: always the most "
            "frequent labels.",
        ),
        picture(
            context,
            drawing.regularisation_paths(paths),
            "probe_paths",
            "How the penalty was chosen: accuracy and cross-entropy on a fifth of the images to learn from, against the penalty. A "
            "line ends where three weaker penalties in turn had bettered neither.",
        ),
    ]
    table = probe_table(summary, name_of("phi", main_sigma(context)))
    text = [*probe_text(summary), *pixels_text(context)]
    return report.Section("Linear probe", text, [table], pictures, [claim(context, summary)])


def ends(interval: Mapping[str, float]) -> tuple[float, float, float]:
    """(low, mean, high)."""
    return interval["low"], interval["value"], interval["high"]


def probe_text(summary: dict) -> list[str]:
    """What was done, and what to keep in mind."""
    text = [
        f"Softmax regression on standardised features, {summary['classes']:,} classes. {summary['source']} The penalty λ of the "
        f"squared weights is the one, of {len(probes.PENALTIES)} from {max(probes.PENALTIES):.0e} down to "
        f"{min(probes.PENALTIES):.0e}, that does best on a fifth of the images to learn from; then all of those are learnt from. "
        "Pixels have no noise on them, phi is of noisy images. The claim counts as "
        "held where phi is right more often than with permuted labels or with the most frequent label, and than "
        "the pixels and the untrained network; as held in part where one of those two is right as often."
    ]
    probed = summary["probes"]
    # Where labels cannot be learnt the strongest penalty is the best, whatever the strongest is.
    at_end = {name: probe["l2"] for name, probe in probed.items() if probe["at_the_end"] and name != PERMUTED}
    if at_end:
        names = "; ".join(f"{name} ({number(l2, None)})" for name, l2 in at_end.items())
        text.append(
            f"The best penalty is the largest or smallest that was tried, and one beyond may be better, for: {names}."
        )
    if constant := {name: probe["constant"] for name, probe in probed.items() if probe["constant"]}:
        counts = "; ".join(f"{name}: {count}" for name, count in constant.items())
        text.append(f"Features that are the same for all images to learn from count for nothing ({counts}).")
    if unfinished := [name for name, probe in probed.items() if probe["unfinished"]]:
        text.append(
            f"The regression was stopped at {probes.MAX_ITERATIONS} iterations, or left the finite numbers, before it found its "
            f"solution for: {'; '.join(unfinished)}."
        )
    return text


def pixels_text(context: Context) -> list[str]:
    """Why no probe learns from all pixels; nothing where one does."""
    shape = context.images.images.shape[1:]
    averaged = *probes.averaged_shape(shape), shape[2]
    if averaged == shape:
        return []
    inputs, fewer = math.prod(shape), math.prod(averaged)
    return [
        f"No probe sees all {inputs:,} intensities: pixels are averaged to {fewer:,} numbers, or give their first principal "
        "components. The regression's coordinates are eigenvectors of the inputs' covariance, whose cost grows with the cube of "
        f"their number: {(inputs / fewer) ** 3:,.0f} times that of the averages. A finer grid could tell labels better."
    ]


def probe_table(summary: dict, main: str) -> Any:
    """Accuracies with intervals, and what each probe had to work with."""
    rows = [
        (
            name,
            f"{probe['features']:,}",
            f"{probe['learnt']:,}",
            f"{probe['tested']:,}",
            share_text(summary["top1"][name]),
            share_text(summary["top5"][name]) if "top5" in summary else None,
            None if name == main else share_text(summary["phi_is_right_more_by"][name]),
            number(probe["l2"], None),
        )
        for name, probe in summary["probes"].items()
    ]
    names = list(summary["probes"])
    matched = {name for name in names if counterpart(name, main, names) != main}
    few = f" (for the untrained network, that of {FEW})" if matched else ""
    chance = percent(summary["largest_class"], 2), percent(summary["largest_five"], 2) if "top5" in summary else None
    rows.append(("always the most frequent labels", None, None, None, *chance, None, None))
    return report.Table(
        "Share of images whose label a linear probe gets right: the likeliest one, or one of the five likeliest (95 % intervals "
        f"over images); by how much that of {main}{few} is higher, on the same images; the penalty chosen.",
        ("features", "number", "learnt from", "judged on", "top-1", "top-5", "phi less this", "λ"),
        rows,
    )


def claim(context: Context, summary: dict) -> report.Claim:
    """Can labels be read off phi by a linear classifier, better than off pixels and off the untrained network's phi?"""
    main, untrained = (name_of(sweep, main_sigma(context)) for sweep in SWEEPS)
    names, pixels = list(summary["probes"]), (COMPONENTS, averaged_name(context))
    few = counterpart(untrained, main, names)
    matched = "" if few == main else f", where the trained one with as few to learn from has {right_text(summary, few)}"
    frequent = percent(summary["largest_class"], 2)
    if "top5" in summary:
        frequent += f" (top-5 {percent(summary['largest_five'], 2)})"
    return report.Claim(
        "A linear classifier tells the class of an image from phi.",
        None,
        f"{right_text(summary, main)} right ({summary['classes']:,} classes, σ = {main_sigma(context):g}/255)",
        f"{'; '.join(f'{name} {right_text(summary, name)}' for name in pixels)}; "
        f"untrained network {right_text(summary, untrained)}{matched}; "
        f"labels permuted {right_text(summary, PERMUTED)}; most frequent label {frequent}",
        report.verdict(told(summary, main, (*pixels, untrained))),
    )


def right_text(summary: dict, name: str) -> str:
    """The share of labels that a probe gets right, and, where there are more classes than five, has among its first five."""
    first_five = f" (top-5 {share_text(summary['top5'][name])})" if "top5" in summary else ""
    return f"{share_text(summary['top1'][name])}{first_five}"


def told(summary: dict, main: str, controls: Sequence[str]) -> tuple[bool, bool]:
    """Whether phi tells the class more often than chance does, and whether a control is right as often (see `report.verdict`)."""
    more = {name: summary["phi_is_right_more_by"][name]["low"] > 0 for name in (PERMUTED, *controls)}
    here = more[PERMUTED] and summary["top1"][main]["low"] > summary["largest_class"]
    return here, not all(more[name] for name in controls)
