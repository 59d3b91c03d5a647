"""What linear probes learn from and are judged on: which images, and which features of them."""

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from unetrep_jax import probes
from unetrep_jax.data import ImageSet
from unetrep_jax.stages.context import Context, phi, phi_to, spread
from unetrep_jax.stages.neighbouring import PCA_IMAGES, SWEEPS
from unetrep_jax.storage import InputError

FEWEST = 20  # images to learn from and to judge on
FEW = "phi of as few images"
COMPONENTS, PERMUTED = "principal components of the pixels", "labels permuted"
CHOSEN_IMAGES, PERMUTATION = 31, 32  # what random numbers are for sets them apart from others of the same seed


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
    return np.random.default_rng([seed, CHOSEN_IMAGES]).permutation(total)[: count or total]


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
        few = name_of(FEW, main_sigma(context))
        makers[few] = functools.partial(phi_features, context, task, "phi", main_sigma(context), few=True)
    makers[COMPONENTS] = functools.partial(pixel_features, context, task, components)
    makers[averaged_name(context)] = functools.partial(pixel_features, context, task, averages)
    makers[PERMUTED] = lambda: permuted(makers[name_of("phi", main_sigma(context))](), settings.seed)
    return makers


def averaged_name(context: Context) -> str:
    """What averaged pixels are called."""
    return "pixels averaged to {}×{}".format(*probes.averaged_shape(context.images.images.shape[1:]))


def counterpart(name: str, main: str, names: Iterable[str]) -> str:
    """Which phi these features are held against: where the untrained network had fewer images to learn from, that of as few."""
    few = main.replace("phi", FEW, 1)
    return few if name.startswith("untrained") and few in names else main


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
        learnt = phi_to(
            folder,
            context,
            task.images,
            f"{sweep} of training images",
            sigma=sigma,
            untrained=untrained,
            numbered_from=len(context.images.images),  # no noise in common with the images to judge on
        )
        return Features(np.asarray(learnt), task.labels, values[tested], known[tested])
    own = np.isin(known, task.within)
    return Features(values[own], context.images.labels[known[own]], values[tested], known[tested])


def pixel_features(context: Context, task: Task, of: Callable) -> Features:
    """What `of` (context, images to learn from) makes of images, for those to learn from and those to judge on."""
    make, tested = of(context, task.images), context.images.images
    tested = tested if len(task.tested) == len(tested) else tested[task.tested]
    return Features(make(task.images), task.labels, make(tested), task.tested)


def components(context: Context, learnt: np.ndarray) -> Callable:
    """Coordinates on as many principal axes of the images to learn from as phi has channels, or as there can be."""
    sample = learnt[spread(len(learnt), PCA_IMAGES)]
    width = phi(context, "representations", context.working).shape[1]
    dimensions = min(width, len(sample) - 1, int(np.prod(sample.shape[1:])))
    return functools.partial(probes.project, probes.principal_axes(sample, dimensions, seed=context.settings.seed))


def averages(context: Context, learnt: np.ndarray) -> Callable:
    """Means over squares of pixels."""
    return probes.averaged


def permuted(features: Features, seed: int) -> Features:
    """The same, learnt with labels that have nothing to do with the images."""
    return features._replace(labels=np.random.default_rng([seed, PERMUTATION]).permutation(features.labels))
