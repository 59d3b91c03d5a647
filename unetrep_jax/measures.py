"""Numbers that describe representations: arrays in, arrays out, no network and no file in sight."""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Integer
from sklearn.model_selection import GroupKFold
from sklearn.preprocessing import StandardScaler

from unetrep_jax.storage import InputError


def participation_ratio(a: Float[Array | np.ndarray, "..."], axis: int = -1) -> Float[Array, "..."]:
    r"""Normalised participation ratio: the fraction of entries that carry the vector.

        PR(a) = (sum_j |a_j|)^2 / (d * sum_j a_j^2)      in [1/d, 1]

    1 when all magnitudes are equal, 1/d when one entry carries everything; unchanged when `a` is scaled.
    An all-zero vector has no direction: NaN.

    The squared ratio of the l1 and the l2 norm, divided by the length (Kadkhodaie, Mallat & Simoncelli 2025,
    arXiv 2506.01912, figure 1). d * PR is the effective number of active entries.

    Args:
      a: vectors of length d along `axis`, of any sign and any scale that their dtype holds.
      axis: the axis that is reduced.

    Returns:
      The ratio of each vector, in the shape of `a` without `axis`.
    """
    magnitude = jnp.abs(a)
    # The ratio does not depend on the scale: the largest entry may count as a constant, and its square never appears.
    largest = jax.lax.stop_gradient(magnitude.max(axis, keepdims=True))
    relative = magnitude / largest  # squares of what is left neither overflow nor all vanish
    ratio = jnp.mean(relative, axis) ** 2 / jnp.mean(relative**2, axis)
    return jnp.clip(ratio, 1 / magnitude.shape[axis], 1)  # rounding alone could leave the range


def quartiles(values: Float[np.ndarray, "..."], axis: int = 0) -> Float[np.ndarray, "3 ..."]:
    """First quartile, median and third quartile along `axis`, NaN left out; NaN where every value is NaN.

    Quantiles between two values are interpolated linearly.
    """
    values = np.asarray(values, np.float64)
    empty = np.isnan(values).all(axis, keepdims=True)
    found = np.nanquantile(np.where(empty, 0, values), (0.25, 0.5, 0.75), axis=axis)
    return np.where(empty.squeeze(axis), np.nan, found)


class Separation(NamedTuple):
    """How far two groups of points lie apart, measured along the line through their means.

    Attributes:
      distance: between the two means.
      spread: root of the sum of the two groups' variances along that line.
      ratio: distance / spread.
    """

    distance: Float[np.ndarray, "..."] | float
    spread: Float[np.ndarray, "..."] | float
    ratio: Float[np.ndarray, "..."] | float


def separations(
    features: Float[np.ndarray, "n d"], groups: Integer[np.ndarray, "n"], pairs: Integer[np.ndarray, "p 2"]
) -> Separation:
    r"""Separation of many pairs of groups.

        ratio = ||m_1 - m_2|| / sqrt( E_1 <x - m_1, u>^2 + E_2 <x - m_2, u>^2 ),    u = (m_1 - m_2) / ||m_1 - m_2||

    with m_i the mean of group i and E_i the mean over its points (Kadkhodaie, Mallat & Simoncelli 2025, arXiv
    2506.01912, the scatter of clusters against classes). Unchanged when all features are moved, rotated or scaled.

    A ratio is large for any cloud that is cut in two: a standard Gaussian split at its centre gives
    2 sqrt(2 / pi) / sqrt(2 - 4 / pi) = 1.87. Compare with a null (`clusters.gaussian_null`, `clusters.permuted_null`).

    Args:
      features: one row per image.
      groups: the group of each row; a negative number means none.
      pairs: the groups to compare, a row for each comparison.

    Returns:
      Arrays [p]. NaN where a group is empty or the means coincide (no direction); a ratio is infinite where no point
      leaves its mean along the line, as between two groups of a single point each.
    """
    count = int(pairs.max(initial=-1)) + 1
    means = group_means(features, groups, count)
    difference = means[pairs[:, 0]] - means[pairs[:, 1]]
    distance = np.linalg.norm(difference, axis=1)
    variance = np.full(pairs.shape, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        direction = difference / distance[:, None]
        # Each group meets only its own pairs: the cost is its points times the comparisons that it takes part in.
        for mean, members, places in zip(means, _rows(groups, count), _rows(pairs.ravel(), count), strict=True):
            if len(members) and len(places):
                projection = (features[members] - mean) @ direction[places // 2].T
                variance.flat[places] = np.mean(projection**2, axis=0)
        spread = np.sqrt(variance.sum(1))
        return Separation(distance, spread, distance / spread)


def group_means(
    features: Float[np.ndarray, "n d"], groups: Integer[np.ndarray, "n"], count: int
) -> Float[np.ndarray, "count d"]:
    """Mean of the rows of each group 0 ... count - 1, in float64; NaN for a group with no rows.

    Rows of other groups, and of negative ones, are left out.
    """
    means = np.full((count, features.shape[1]), np.nan)
    for mean, members in zip(means, _rows(groups, count), strict=True):
        if len(members):
            mean[:] = features[members].mean(0, dtype=np.float64)
    return means


def _rows(groups: Integer[np.ndarray, "n"], count: int) -> list[np.ndarray]:
    """Where each of the groups 0 ... count - 1 occurs, found by one sort."""
    order = np.argsort(groups, kind="stable")
    bounds = np.searchsorted(groups[order], np.arange(count + 1))
    return np.split(order, bounds)[1:-1]


def cosine(a: Float[np.ndarray, "*n d"], b: Float[np.ndarray, "*m d"]) -> Float[np.ndarray, "..."]:
    """<a, b> / (|a| |b|) along the last axis, in double precision; NaN where one is zero."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    return np.divide((a * b).sum(-1), norms, out=np.full(norms.shape, np.nan), where=norms > 0)


def correlation(a: Float[np.ndarray, "*n d"], b: Float[np.ndarray, "*m d"]) -> Float[np.ndarray, "..."]:
    """Pearson's correlation over the last axis: the cosine after each vector's mean is subtracted."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return cosine(a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True))


def bootstrap_means(
    values: Float[np.ndarray, "n m"], resamples: int = 1000, seed: int = 0
) -> Float64[np.ndarray, "{resamples}+1 m"]:
    """Column means: of the n rows (row 0 of the result), then of `resamples` draws of n rows with replacement (Efron 1979).

    The rows of a draw are shared by all columns, and by every call with the same n, resamples and seed. So a function of several
    means, such as a difference or a ratio, can be taken row by row of the result, and is paired: see `estimate`. NaN is left out
    of its column's mean; a draw without any number in a column gives NaN.

    Args:
      values: one row per image.
      resamples: how many draws.
      seed: of the draws.
    """
    known = ~np.isnan(values)
    columns = np.where(known, values, 0).astype(np.float64), known.astype(np.float64)
    with np.errstate(invalid="ignore"):
        means = [
            np.divide(*((times @ column) for column in columns)) for times in _times_drawn(len(values), resamples, seed)
        ]
    return np.concatenate(means)


def _times_drawn(count: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """How often each row counts, [some draws, count] at once: first once each, then as often as it was drawn."""
    yield np.ones((1, count))
    rng, step = np.random.default_rng(seed), max(1, (1 << 21) // count)  # 16 MB
    for first in range(0, resamples, step):
        draws = min(step, resamples - first)
        places = rng.integers(count, size=(draws, count)) + count * np.arange(draws)[:, None]
        yield np.bincount(places.ravel(), minlength=draws * count).reshape(draws, count).astype(np.float64)


class Estimate(NamedTuple):
    """A number with the ends of its interval; arrays where there are many."""

    value: Float[np.ndarray, "..."] | float
    low: Float[np.ndarray, "..."] | float
    high: Float[np.ndarray, "..."] | float


def estimate(means: Float[np.ndarray, "draws ..."], coverage: float = 0.95) -> Estimate:
    """The value and the percentile bootstrap's interval of a function of `bootstrap_means` that was taken row by row.

    (1 - coverage) / 2 of the draws lie outside on each side. NaN among the draws is left out; without any number all is NaN.
    """
    value, draws, tail = means[0], means[1:], (1 - coverage) / 2
    empty = np.isnan(draws).all(0)
    low, high = np.nanquantile(np.where(empty, 0, draws), (tail, 1 - tail), axis=0)
    return Estimate(value, np.where(empty, np.nan, low), np.where(empty, np.nan, high))


def level_products(averages: Float[np.ndarray, "n levels k"]) -> Float64[np.ndarray, "n levels levels"]:
    """Inner products <a_s, a_s'> of each image's channel averages at all pairs of noise levels."""
    averages = averages.astype(np.float64)
    return averages @ averages.swapaxes(1, 2)


def freed_of_noise(
    products: Float[np.ndarray, "n levels levels"], noise: Float[np.ndarray, "n levels"]
) -> Float64[np.ndarray, "n levels levels"]:
    r"""Inner products of phi_s = E_z[abar(x + s z)], without bias, from those of estimates a_s of it.

        <phi_s, phi_s'> = E( <a_s, a_s'> - [s = s'] noise_s ),       noise_s = E ||a_s - phi_s||^2

    Noise draws of different levels are independent, so only an estimate's squared length is too large, by its own noise: the
    realisation variance over the number of draws. Means over many images keep that; a ratio of single images' products does not
    (where draws scatter along phi_s, a cosine from freed lengths is above the true one).

    Args:
      products: of the estimates, each a mean over noise draws.
      noise: their expected squared errors, summed over channels; 0 where they have none or it is not known.
    """
    return products - noise[:, :, None] * np.eye(products.shape[1])


def cosines_of_products(products: Float[np.ndarray, "*n levels levels"]) -> Float64[np.ndarray, "*n levels levels"]:
    """G_ss' / sqrt(G_ss G_s's') from inner products: cosines between levels.

    Products of vectors give numbers in [-1, 1]; nothing is clipped, and products that were freed of noise may give a little more.
    NaN where one of the two has no length.
    """
    squares = np.diagonal(products, axis1=-2, axis2=-1).astype(np.float64)
    lengths = np.sqrt(np.where(squares > 0, squares, np.nan))
    return products / (lengths[..., :, None] * lengths[..., None, :])


class LevelChange(NamedTuple):
    """Squared change from phi_0, and the part of it that lies along phi_0: a change of length alone has nothing else."""

    total: Float64[np.ndarray, "..."]
    along: Float64[np.ndarray, "..."]


def level_changes(
    with_reference: Float[np.ndarray, "*n levels"], squares: Float[np.ndarray, "*n levels"], reference: int
) -> LevelChange:
    r"""How far phi_s is from phi_0 at every level, and how far along phi_0, in units of ||phi_0||^2.

        total = ||phi_s - phi_0||^2 / ||phi_0||^2,    along = (<phi_s, phi_0> / ||phi_0||^2 - 1)^2        in [0, total]

    along / total is 1 where phi_s = c phi_0 (c not 1) and 0 where the change is at a right angle to phi_0. From products averaged
    over images, along is the part of the images' squared changes that multiplying all of them by one common factor explains.
    The measure is ours; the paper says in words that noise mainly scales phi (figure 2). NaN where phi_0 = 0.

    Args:
      with_reference: <phi_s, phi_0> at every level.
      squares: ||phi_s||^2 at every level.
      reference: the position of phi_0 among the levels.
    """
    own = squares[..., reference, None].astype(np.float64)
    own = np.where(own > 0, own, np.nan)
    return LevelChange((squares - 2 * with_reference + own) / own, (with_reference / own - 1) ** 2)


def squared_spreads(points: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n"]:
    """2 n / (n - 1) ||x - mean||^2 of each point x: their mean is the mean squared distance between two different points.

    n terms in place of n (n - 1) / 2 pairs, by sum_{i<j} ||x_i - x_j||^2 = n sum_i ||x_i - mean||^2. NaN for a single point.
    """
    count = len(points)
    centred = points - points.mean(0, dtype=np.float64)
    return np.square(centred).sum(1) * (2 * count / (count - 1) if count > 1 else np.nan)


RIDGE_PENALTIES = np.logspace(-2, 6, 17)


def cross_validated_ridge(
    features: Float[np.ndarray, "n d"],
    targets: Float[np.ndarray, "n t"],
    groups: Integer[np.ndarray, "n"],
    folds: int = 5,
) -> Float64[np.ndarray, "n t"]:
    """Predictions of the targets by ridge regression, each row's by a fit that saw no row of its group.

    Features are standardised and the penalty is chosen, among `RIDGE_PENALTIES` and for each target, by leaving out one group after
    the other of the rows of the fit alone (one row, where they are of one group). Constant features count for nothing.

    Args:
      features: one row per image.
      targets: what is predicted.
      groups: rows of one group are held out together.
      folds: parts into which the groups are divided; no more than there are groups.

    Raises:
      InputError: fewer than two groups.
    """
    parts = min(folds, len(np.unique(groups)))
    if parts < 2:
        raise InputError("ridge regression needs rows of two groups or more to hold one out; got one: give more images")
    features, predictions = features.astype(np.float64), np.empty(targets.shape)
    for learn, judge in GroupKFold(parts).split(features, targets, groups):
        scaler = StandardScaler().fit(features[learn])
        design, mean = scaler.transform(features[learn]), targets[learn].mean(0)
        left, lengths, right = np.linalg.svd(design, full_matrices=False)
        coordinates = left.T @ (targets[learn] - mean)
        apart = groups[learn] if np.ptp(groups[learn]) else np.arange(len(learn))
        errors = [_left_out_errors(left, lengths, targets[learn] - mean, apart, p) for p in RIDGE_PENALTIES]
        penalty = RIDGE_PENALTIES[np.argmin(errors, axis=0)]
        weights = right.T @ (coordinates * lengths[:, None] / (lengths[:, None] ** 2 + penalty))
        predictions[judge] = scaler.transform(features[judge]) @ weights + mean
    return predictions


def _left_out_errors(
    left: Float[np.ndarray, "n r"],
    lengths: Float[np.ndarray, " r"],
    centred: Float[np.ndarray, "n t"],
    groups: Integer[np.ndarray, " n"],
    penalty: float,
) -> Float64[np.ndarray, " t"]:
    """Squared error of each target at rows whose group the ridge regression did not see, without a fit for each group.

    With H the matrix that makes predictions of targets (the intercept's 1/n included), the residuals r of a group become
    (1 - H_gg)^-1 r_g when it is left out (Hastie, Tibshirani & Friedman 2009, equation 7.64, for groups).

    Args:
      left, lengths: singular vectors and values of the features, whose columns have mean 0.
      centred: targets, less their means.
      groups: of the rows.
      penalty: of the squared weights.
    """
    shrunk = left * (lengths**2 / (lengths**2 + penalty))
    residuals = centred - shrunk @ (left.T @ centred)
    total = np.zeros(centred.shape[1])
    members = _rows(np.unique(groups, return_inverse=True)[1], len(np.unique(groups)))
    for size in {len(rows) for rows in members}:
        rows = np.stack([rows for rows in members if len(rows) == size])
        seen = shrunk[rows] @ left[rows].swapaxes(1, 2) + 1 / len(groups)
        total += np.square(np.linalg.solve(np.eye(size) - seen, residuals[rows])).sum((0, 1))
    return total
