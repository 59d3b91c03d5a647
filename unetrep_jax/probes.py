"""Linear probes: how well a linear classifier tells classes apart from features; and principal components, to hold them against."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Float64, Int64, Integer, UInt8
from scipy.special import logsumexp
from sklearn.decomposition import PCA

from unetrep_jax.storage import InputError


class Scaling(NamedTuple):
    """What makes features have mean 0 and deviation 1.

    Attributes:
      mean: of each feature.
      gain: 1 / deviation of each feature; 0 for one that is constant, up to rounding, and tells nothing.
    """

    mean: Float64[np.ndarray, " d"]
    gain: Float64[np.ndarray, " d"]

    def __call__(self, features: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
        """Standardised features."""
        return ((features - self.mean) * self.gain).astype(np.float32)


def scaling_of(features: Float[np.ndarray, "n d"]) -> Scaling:
    """The scaling that standardises these features."""
    mean, deviation = features.mean(0, dtype=np.float64), features.std(0, dtype=np.float64)
    varies = deviation > 1e-6 * np.abs(features).max(0, initial=0)
    return Scaling(mean, np.divide(1, deviation, out=np.zeros_like(deviation), where=varies))


class Parameters(NamedTuple):
    """A linear classifier: logits = features @ weights + bias."""

    weights: Float[Array | np.ndarray, "d c"]
    bias: Float[Array | np.ndarray, " c"]

    def logits(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n c"]:
        """Unnormalised log probabilities of the classes."""
        return np.asarray(_logits(self, jnp.asarray(features)))


TOLERANCE, MAX_ITERATIONS = 1e-3, 500  # where L-BFGS ends: the relative norm of the gradient, or so many iterations


class Fit(NamedTuple):
    """A softmax regression.

    Attributes:
      parameters: weights and bias.
      gradient: norm of the gradient where the iterations ended, relative to its norm at zero, in the coordinates of `_Conditioned`.
      iterations: of L-BFGS; as many as were allowed when it was cut short.
    """

    parameters: Parameters
    gradient: float
    iterations: int

    @property
    def unfinished(self) -> bool:
        """Whether it was cut short by `MAX_ITERATIONS`, or left the finite numbers."""
        cut_short = self.iterations >= MAX_ITERATIONS and not self.gradient <= TOLERANCE
        return cut_short or not all(np.isfinite(part).all() for part in self.parameters)


def softmax_regression(
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"],
    classes: int,
    l2: float,
    *,
    start: Parameters | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Fit:
    r"""Softmax (multinomial logistic) regression with a ridge penalty on the weights, by L-BFGS on all rows at once.

        minimise over W, b:   -(1/n) sum_i log softmax(W^T x_i + b)[y_i]  +  (l2 / 2) sum W^2

    The problem is convex: the result does not depend on where it starts. scikit-learn's LogisticRegression(C = 1 / (n l2))
    has the same solution; this one runs on an accelerator too, and in coordinates in which features that are nearly
    multiples of each other, as channels of phi are, cost no more iterations than others.

    Args:
      features: one row per image, best standardised: the penalty treats all alike.
      labels: the class of each row, from 0 to classes - 1.
      classes: their number.
      l2: strength of the penalty, above 0.
      start: where to begin, such as the solution for another penalty; zero when None.
      tolerance: the norm of the gradient at which to stop, relative to its norm at zero.
      max_iterations: at which to stop in any case.

    Raises:
      InputError: no penalty, or labels outside the range.
    """
    if not l2 > 0 or not ((labels >= 0) & (labels < classes)).all():
        raise InputError(
            f"softmax regression of {classes} classes: give l2 above 0 (got {l2:g}) and labels from 0 to {classes - 1}"
        )
    zero = Parameters(np.zeros((features.shape[1], classes), np.float32), np.zeros(classes, np.float32))
    conditioned = _conditioned(features, classes, l2)
    given = (
        jnp.asarray(features.astype(np.float64) @ conditioned.directions, jnp.float32),
        jnp.asarray(labels, jnp.int32),
        jnp.asarray(conditioned.penalties, jnp.float32),
    )
    begin = zero if start is None else conditioned.into(start)
    found = _minimise(begin, zero, given, jnp.float32(tolerance), jnp.int32(max_iterations))
    parameters, gradient, iterations = jax.device_get(found)
    return Fit(conditioned.back(parameters), float(gradient), int(iterations))


class _Conditioned(NamedTuple):
    """Coordinates V of the weights, W = directions @ V, in which the loss at W = 0 curves alike in all directions.

    At zero the Hessian is features^T features / (n classes) + l2, up to what is common to all classes. With its eigenvectors u_k
    and eigenvalues h_k, the directions are u_k / sqrt(h_k). They are orthogonal: the penalty stays a sum over the rows of V.

    Attributes:
      directions: one in each column.
      penalties: of the squares of each row of V.
    """

    directions: Float64[np.ndarray, "d d"]
    penalties: Float64[np.ndarray, " d"]

    def back(self, parameters: Parameters) -> Parameters:
        """From V to W."""
        return parameters._replace(weights=(self.directions @ parameters.weights).astype(np.float32))

    def into(self, parameters: Parameters) -> Parameters:
        """From W to V."""
        lengths = np.square(self.directions).sum(0)
        return parameters._replace(
            weights=(self.directions.T @ parameters.weights / lengths[:, None]).astype(np.float32)
        )


def _conditioned(features: Float[np.ndarray, "n d"], classes: int, l2: float) -> _Conditioned:
    features = features.astype(np.float64)
    variance, axes = np.linalg.eigh(features.T @ features / len(features))
    gain = 1 / np.sqrt(np.maximum(variance, 0) / classes + l2)
    return _Conditioned(axes * gain, l2 * gain**2)


def _logits(parameters: Parameters, features: Array) -> Array:
    """In full single precision on every device: L-BFGS needs gradients to more digits than TF32 has."""
    product = jnp.matmul(features, parameters.weights, precision=jax.lax.Precision.HIGHEST)
    return product + parameters.bias[None]


def _loss(given: tuple, parameters: Parameters) -> Array:
    features, labels, penalties = given
    error = optax.softmax_cross_entropy_with_integer_labels(_logits(parameters, features), labels)
    return error.mean() + (penalties[:, None] * jnp.square(parameters.weights)).sum() / 2


@jax.jit
def _minimise(start: Parameters, zero: Parameters, given: tuple, tolerance: Array, max_iterations: Array) -> tuple:
    """L-BFGS with a line search: (parameters, relative norm of the gradient, iterations)."""
    loss, solver = functools.partial(_loss, given), optax.lbfgs()
    value_and_gradient = optax.value_and_grad_from_state(loss)
    enough = optax.tree.norm(jax.grad(loss)(zero)) * tolerance

    def unfinished(carry):
        _, state = carry
        iteration, gradient = (optax.tree.get(state, name) for name in ("count", "grad"))
        return (iteration == 0) | ((iteration < max_iterations) & (optax.tree.norm(gradient) > enough))

    def advance(carry):
        parameters, state = carry
        value, gradient = value_and_gradient(parameters, state=state)
        step, state = solver.update(gradient, state, parameters, value=value, grad=gradient, value_fn=loss)
        return optax.apply_updates(parameters, step), state

    parameters, state = jax.lax.while_loop(unfinished, advance, (start, solver.init(start)))
    reached = optax.tree.norm(optax.tree.get(state, "grad")) / (enough / tolerance)
    return parameters, reached, optax.tree.get(state, "count")


class Path(NamedTuple):
    """Fits of falling penalty, judged on rows that they did not see.

    Attributes:
      l2: the penalties.
      loss: mean cross-entropy on those rows, nats; NaN where the path had ended before.
      accuracy: share of those rows whose label is the likeliest; NaN likewise.
      chosen: position of the highest accuracy; of equal ones that of the lowest loss: under penalties so strong that the weights
        only shrink, labels stay the likeliest, and the accuracy alone would choose the end of the path.
    """

    l2: Float64[np.ndarray, " p"]
    loss: Float64[np.ndarray, " p"]
    accuracy: Float64[np.ndarray, " p"]
    chosen: int


PATIENCE = 3  # a path ends after so many penalties that brought neither a lower loss nor a higher accuracy


def regularisation_path(
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"],
    validation_features: Float[np.ndarray, "m d"],
    validation_labels: Integer[np.ndarray, " m"],
    classes: int,
    l2: Sequence[float],
) -> Path:
    """Softmax regressions from the strongest penalty down, each begun at the solution before, until they get no better."""
    penalties, start = np.sort(np.float64(l2))[::-1], None
    loss, accuracy = np.full((2, len(penalties)), np.nan)
    for place, penalty in enumerate(penalties):
        start = softmax_regression(features, labels, classes, float(penalty), start=start).parameters
        logits = start.logits(validation_features).astype(np.float64)
        own = logits[np.arange(len(logits)), validation_labels]
        loss[place] = np.mean(logsumexp(logits, axis=1) - own)
        accuracy[place] = np.mean(label_ranks(logits, validation_labels) == 1)
        if place - max(np.argmin(np.nan_to_num(loss, nan=np.inf)), np.nanargmax(accuracy)) >= PATIENCE:
            break
    chosen = np.lexsort((np.nan_to_num(loss, nan=np.inf), -np.nan_to_num(accuracy, nan=-np.inf)))[0]
    return Path(penalties, loss, accuracy, int(chosen))


def label_ranks(logits: Float[np.ndarray, "n c"], labels: Integer[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The place of each row's label among the classes, the likeliest first; equal logits and NaN count against it.

    A row counts as right among the first k (top-k) when its label's rank is at most k.
    """
    own = logits[np.arange(len(logits)), labels]
    return (~(logits < own[:, None])).sum(1)


class Probe(NamedTuple):
    """A linear probe.

    Attributes:
      ranks: the place of each tested row's label (see `label_ranks`).
      path: the choice of the penalty.
      fit: the regression on all rows to learn from, with that penalty.
      constant: features that do not vary over the rows to learn from, and are left out.
    """

    ranks: Int64[np.ndarray, " t"]
    path: Path
    fit: Fit
    constant: int


PENALTIES = tuple(float(l2) for l2 in np.logspace(2, -8, 21))  # two in a decade; few images may need those above 1
VALIDATION = 0.2  # share of the rows to learn from on which the penalty is chosen
SPLIT = 21  # what random numbers are for sets them apart from others of the same seed


def probe(
    features: Float[np.ndarray, "n d"],
    labels: Integer[np.ndarray, " n"],
    tested: Float[np.ndarray, "t d"],
    tested_labels: Integer[np.ndarray, " t"],
    *,
    seed: int,
    l2: Sequence[float] = PENALTIES,
) -> Probe:
    """Softmax regression on standardised features, its penalty chosen on a part of the rows to learn from, tested on other rows.

    The published probe is softmax regression on phi with Adam (Kadkhodaie, Mallat & Simoncelli 2025, arXiv 2506.01912, authors'
    code); its penalty is not known. Ours is chosen on a random fifth of the rows (see `Path`); then all of them are learnt from.

    Args:
      features, labels: rows to learn from; labels are any integers.
      tested, tested_labels: rows to be judged on. A label that was never learnt is never right.
      seed: determines the part that the penalty is chosen on.
      l2: penalties to choose from.

    Raises:
      InputError: fewer than two rows to learn from, or none to judge on.
    """
    if len(features) < 2 or not len(tested):
        raise InputError(
            f"a linear probe needs 2 images to learn from and 1 to judge on, got {len(features)} and {len(tested)}: give more"
        )
    classes = np.unique(np.concatenate([labels, tested_labels]))
    labels, tested_labels = (np.searchsorted(classes, these) for these in (labels, tested_labels))
    order = np.random.default_rng([seed, SPLIT]).permutation(len(features))
    judge, learn = np.split(order, [max(1, round(VALIDATION * len(order)))])
    scaling = scaling_of(features[learn])
    path = regularisation_path(
        scaling(features[learn]), labels[learn], scaling(features[judge]), labels[judge], len(classes), l2
    )
    scaling = scaling_of(features)
    fit = softmax_regression(scaling(features), labels, len(classes), float(path.l2[path.chosen]))
    ranks = label_ranks(fit.parameters.logits(scaling(tested)), tested_labels)
    return Probe(ranks, path, fit, int((scaling.gain == 0).sum()))


class Axes(NamedTuple):
    """Principal axes of images.

    Attributes:
      mean: the mean image, flat, intensities in [0, 1].
      directions: orthonormal rows, in order of falling variance.
    """

    mean: Float32[np.ndarray, " d"]
    directions: Float32[np.ndarray, "k d"]


Images = Float[np.ndarray, "_ h w c"] | UInt8[np.ndarray, "_ h w c"]


def principal_axes(images: Images, dimensions: int, *, seed: int) -> Axes:
    """The first principal axes of images, by scikit-learn: exact for small problems, else its randomised solver with this seed.

    Raises:
      InputError: more dimensions than the images or their pixels have.
    """
    flat = _flat(images)
    if not 1 <= dimensions <= min(flat.shape):
        raise InputError(
            f"PCA of {flat.shape[0]} images of {flat.shape[1]} intensities has 1 to {min(flat.shape)} axes, got {dimensions}: "
            "ask for as many"
        )
    pca = PCA(dimensions, random_state=seed).fit(flat)
    return Axes(pca.mean_.astype(np.float32), pca.components_.astype(np.float32))


def project(axes: Axes, images: Images, at_once: int = 1024) -> Float32[np.ndarray, "_ k"]:
    """Coordinates of images on principal axes, `at_once` images in memory."""
    parts = (images[start : start + at_once] for start in range(0, len(images), at_once))
    return np.concatenate([(_flat(part) - axes.mean) @ axes.directions.T for part in parts])


AVERAGED = 16  # squares on each side of an image


def averaged_shape(shape: tuple[int, ...]) -> tuple[int, int]:
    """Rows and columns of squares that `averaged` gives for images [h w c]: 16, or as many as there are pixels."""
    return min(AVERAGED, shape[0]), min(AVERAGED, shape[1])


def averaged(images: Images, at_once: int = 1024) -> Float32[np.ndarray, "_ d"]:
    """Means over 16 x 16 equal squares of each image, by area where their edges cut pixels, flat; `at_once` images in memory."""
    down, across = (
        _areas(squares, of) for squares, of in zip(averaged_shape(images.shape[1:]), images.shape[1:3], strict=True)
    )
    parts = (images[start : start + at_once] for start in range(0, len(images), at_once))
    means = (
        np.einsum("ih,nhwc,jw->nijc", down, _flat(part).reshape(part.shape), across, optimize=True) for part in parts
    )
    return np.concatenate([part.reshape(len(part), -1) for part in means])


def _areas(squares: int, pixels: int) -> Float32[np.ndarray, "s p"]:
    """The share of each square's side that each pixel covers."""
    edges, pixel = np.linspace(0, pixels, squares + 1)[:, None], np.arange(pixels)
    covered = np.minimum(edges[1:], pixel + 1) - np.maximum(edges[:-1], pixel)
    return (np.maximum(covered, 0) * squares / pixels).astype(np.float32)


def _flat(images: Images) -> Float32[np.ndarray, "_ d"]:
    flat = np.asarray(images).reshape(len(images), -1).astype(np.float32)
    return flat / 255 if images.dtype == np.uint8 else flat
