"""How well a linear classifier tells an image's label from phi, beside pixels, the untrained network and chance."""

import functools
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import measures, probes, report, storage
from unetrep_jax.data import ImageSet
from unetrep_jax.figures import probes as drawing
from unetrep_jax.stages.context import Arrays, Context, phi, phi_to, picture, spread, write_stage
from unetrep_jax.stages.neighbouring import PCA_IMAGES, SWEEPS, interval_of, remember, share, why_no_labels
from unetrep_jax.storage import InputError

FEWEST = 20  # images to learn from and to judge on
FIRST = 5  # a label is right in "top-5" when it is among the five likeliest
COMPONENTS, PERMUTED = "principal components of the pixels", "labels permuted"


class Task(NamedTuple):
    """What is learnt from, and what is judged on.

    Attributes:
      images: to learn from.
      labels: theirs.
      within: their positions among the analysed images, where they are some of those.
      tested: positions of the analysed images to judge on.
      source: which images are which, in words.
    """

    images: np.ndarray
    labels: np.ndarray
    within: np.ndarray | None
    tested: np.ndarray
    source: str


class Features(NamedTuple):
    """One kind of features: those to learn from with their labels; those to judge on, with their images' positions."""

    learnt: np.ndarray
    labels: np.ndarray
    tested: np.ndarray
    rows: np.ndarray


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
        for number, (name, make) in enumerate(makers.items()):
            found = remember(kept, key, name, functools.partial(probed, context, make))
            arrays |= {f"{what}/{number}": found[what] for what in ("rows", "ranks", "path")}
            summary["probes"][name] = {what: value.item() for what, value in found.items() if value.ndim == 0}
            progress.advance(1)
    summary |= accuracies(context, arrays, list(makers), classes_of(context, task))
    write_stage(folder, key, arrays, summary)
    shutil.rmtree(kept, ignore_errors=True)


def task_of(context: Context) -> Task:
    """To learn from: training images, where they have labels of the same classes; else a random half of the analysed images."""
    images, labels, settings = context.images.images, context.images.labels, context.settings
    try:
        training = context.training_images()
        reason = why_unusable(training, context.images)
    except (InputError, OSError):
        reason = "the training images are not at hand"
    if not reason:
        chosen = np.sort(some_of(len(training.images), settings.probe_images, settings.seed))
        learnt = training.images if len(chosen) == len(training.images) else training.images[chosen]
        source = f"Learnt from {len(chosen):,} training images, judged on {len(images):,} others."
        return Task(learnt, training.labels[chosen], None, np.arange(len(images)), source)
    order = some_of(len(images), 0, settings.seed)
    within, tested = (
        np.sort(half) for half in (order[: len(order) // 2][: settings.probe_images or None], order[len(order) // 2 :])
    )
    source = f"Learnt from {len(within):,} of the analysed images, at random, judged on {len(tested):,} others of them ({reason})."
    return Task(images[within], labels[within], within, tested, source)


def some_of(total: int, count: int, seed: int) -> np.ndarray:
    """`count` positions (all for 0) in random order: evenly spread ones could miss the classes of a set that takes turns."""
    return np.random.default_rng(seed).permutation(total)[: count or total]


def why_unusable(training: ImageSet, analysed: ImageSet) -> str:
    """Why training images cannot teach the analysed images' labels; empty where they can."""
    if training.images.shape[1:] != analysed.images.shape[1:]:
        return "the training images have another size"
    if training.labels is None:
        return "the training images have no labels"
    if len(training.labels) < FEWEST:
        return "the training images are too few"
    same = training.class_names == analysed.class_names and np.isin(analysed.labels, training.labels).all()
    return "" if same else "the training images have other classes"


def classes_of(context: Context, task: Task) -> int:
    """How many classes a probe chooses from."""
    return len(np.union1d(task.labels, context.images.labels[task.tested]))


def main_sigma(context: Context) -> float:
    """The noise level (x 255) that the claim is judged at: the working one, or the last."""
    sigmas = context.settings.probe_sigmas
    return context.settings.sigma if context.settings.sigma in sigmas else sigmas[-1]


def name_of(sweep: str, sigma: float) -> str:
    """What features of a network at a noise level (x 255) are called."""
    return f"{sweep}, σ = {sigma:g}/255"


def makers_of(context: Context, task: Task) -> dict[str, Callable[[], Features]]:
    """What makes each kind of features."""
    settings = context.settings
    makers: dict[str, Callable[[], Features]] = {
        name_of(sweep, sigma): functools.partial(phi_features, context, task, sweep, sigma)
        for sweep in SWEEPS
        for sigma in settings.probe_sigmas
    }
    if task.within is not None and len(context.untrained_subset) < len(context.images.images):
        # The untrained network has fewer images to learn from then: beside it the trained one, with as many.
        few = f"phi of as few images, σ = {main_sigma(context):g}/255"
        makers[few] = functools.partial(phi_features, context, task, "phi", main_sigma(context), few=True)
    makers[COMPONENTS] = functools.partial(pixel_features, context, task)
    makers[PERMUTED] = lambda: permuted(makers[name_of("phi", main_sigma(context))](), settings.seed)
    return makers


def phi_features(context: Context, task: Task, sweep: str, sigma: float, few: bool = False) -> Features:
    """phi of a network at a noise level (x 255); with `few`, of those images alone that the untrained network saw."""
    known = np.arange(len(context.images.images))
    values = phi(context, SWEEPS[sweep], list(context.settings.sigmas).index(sigma))
    if few or SWEEPS[sweep] == "untrained":
        known = context.untrained_subset
        values = values[known] if few else values
    tested = np.isin(known, task.tested)
    if task.within is None:
        folder = context.outdir / "probe_phi" / f"{SWEEPS[sweep]}_{sigma:g}"
        untrained = SWEEPS[sweep] == "untrained"
        learnt = phi_to(folder, context, task.images, f"{sweep} of training images", sigma=sigma, untrained=untrained)
        return Features(np.asarray(learnt), task.labels, values[tested], known[tested])
    own = np.isin(known, task.within)
    return Features(values[own], context.images.labels[known[own]], values[tested], known[tested])


def pixel_features(context: Context, task: Task) -> Features:
    """Coordinates on as many principal axes of the images to learn from as phi has channels, or as there can be."""
    sample = task.images[spread(len(task.images), PCA_IMAGES)]
    width = phi(context, "representations", context.working).shape[1]
    dimensions = min(width, len(sample) - 1, int(np.prod(sample.shape[1:])))
    axes = probes.principal_axes(sample, dimensions, seed=context.settings.seed)
    tested = context.images.images
    tested = tested if len(task.tested) == len(tested) else tested[task.tested]
    return Features(probes.project(axes, task.images), task.labels, probes.project(axes, tested), task.tested)


def permuted(features: Features, seed: int) -> Features:
    """The same, learnt with labels that have nothing to do with the images."""
    return features._replace(labels=np.random.default_rng(seed).permutation(features.labels))


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
    }


def accuracies(context: Context, arrays: Arrays, names: list[str], classes: int) -> dict:
    """Shares of images whose label is right, with 95 % intervals over images; by how much phi's is higher; chance."""
    tested, main = arrays["tested"], name_of("phi", main_sigma(context))
    right = {}  # (measure, features) -> 1 or 0 for every tested image, NaN where the features do not have it
    for number, name in enumerate(names):
        rank = np.full(len(context.images.images), np.nan)
        rank[arrays[f"rows/{number}"]] = arrays[f"ranks/{number}"]
        rank = rank[tested]
        for measure, first in (("top1", 1), ("top5", FIRST)):
            right[measure, name] = np.where(np.isnan(rank), np.nan, rank <= first)
    right |= {("phi_is_right_more_by", name): right["top1", main] - right["top1", name] for name in names}
    means = measures.bootstrap_means(np.stack(list(right.values()), axis=1), seed=context.settings.seed)
    shares = np.sort(np.unique(context.images.labels[tested], return_counts=True)[1])[::-1] / len(tested)
    result: dict = {"classes": classes, "largest_class": float(shares[0]), "largest_five": float(shares[:FIRST].sum())}
    for number, (measure, name) in enumerate(right):
        if measure != "top5" or classes > FIRST:
            result.setdefault(measure, {})[name] = interval_of(means[:, number])
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
    paths = {name: arrays[f"path/{number}"] for number, name in enumerate(names)}
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
    return report.Section("Linear probe", probe_text(summary), [table], pictures, [claim(context, summary)])


def ends(interval: Mapping[str, float]) -> tuple[float, float, float]:
    """(low, mean, high)."""
    return interval["low"], interval["mean"], interval["high"]


def probe_text(summary: dict) -> list[str]:
    """What was done, and what to keep in mind."""
    text = [
        f"Softmax regression on standardised features, {summary['classes']:,} classes. {summary['source']} The penalty λ of the "
        f"squared weights is the one, of {len(probes.PENALTIES)} down to {min(probes.PENALTIES):.0e}, that does best on a fifth of "
        "the images to learn from; then all of those are learnt from. Pixels have no noise on them, phi is of noisy images. The "
        "claim counts as held where phi is right more often than principal components and the untrained network, and as "
        "held in part where it is only right more often than with permuted labels."
    ]
    probed = summary["probes"]
    if at_end := [name for name, probe in probed.items() if probe["at_the_end"] and name != PERMUTED]:
        text.append(f"The best penalty is the largest or smallest that was tried for: {'; '.join(at_end)}.")
    if constant := {name: probe["constant"] for name, probe in probed.items() if probe["constant"]}:
        counts = "; ".join(f"{name}: {count}" for name, count in constant.items())
        text.append(f"Features that are the same for all images to learn from count for nothing ({counts}).")
    return text


def probe_table(summary: dict, main: str) -> Any:
    """Accuracies with intervals, and what each probe had to work with."""
    rows = [
        (
            name,
            f"{probe['features']:,}",
            f"{probe['learnt']:,}",
            f"{probe['tested']:,}",
            share(summary["top1"][name]),
            share(summary["top5"][name]) if "top5" in summary else None,
            None if name == main else share(summary["phi_is_right_more_by"][name]),
            f"{probe['l2']:.1e}",
        )
        for name, probe in summary["probes"].items()
    ]
    chance = f"{summary['largest_class']:.2%}", f"{summary['largest_five']:.2%}" if "top5" in summary else None
    rows.append(("always the most frequent labels", None, None, None, *chance, None, None))
    return report.Table(
        "Share of images whose label a linear probe gets right: the likeliest one, or one of the five likeliest (95 % intervals "
        f"over images); by how much that of {main} is higher, on the same images; the penalty chosen.",
        ("features", "number", "learnt from", "judged on", "top-1", "top-5", "phi less this", "λ"),
        rows,
    )


def claim(context: Context, summary: dict) -> report.Claim:
    """Can labels be read off phi by a linear classifier, better than off pixels and off the untrained network's phi?"""
    main, untrained = (name_of(sweep, main_sigma(context)) for sweep in SWEEPS)
    top = summary["top1"]
    here = f"{share(top[main])} right" + (
        f", {share(summary['top5'][main])} among the first five" if "top5" in summary else ""
    )
    more = [summary["phi_is_right_more_by"][name]["low"] > 0 for name in (PERMUTED, COMPONENTS, untrained)]
    return report.Claim(
        "A linear classifier tells the class of an image from phi.",
        None,
        f"{here} ({summary['classes']:,} classes, σ = {main_sigma(context):g}/255)",
        f"{COMPONENTS} {share(top[COMPONENTS])}; untrained network {share(top[untrained])}; "
        f"labels permuted {share(top[PERMUTED])}; most frequent label {summary['largest_class']:.2%}",
        "no" if not more[0] else "yes" if all(more) else "in part",
    )
