"""Numbers that describe representations: arrays in, arrays out, no network and no file in sight."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Integer


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


def separation(points_1: Float[np.ndarray, "n1 d"], points_2: Float[np.ndarray, "n2 d"]) -> Separation:
    """Separation of two groups of points; the formula is in `separations`."""
    groups = np.repeat([0, 1], [len(points_1), len(points_2)])
    pair = separations(np.concatenate([points_1, points_2]), groups, np.array([[0, 1]]))
    return Separation(*(float(value[0]) for value in pair))


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
