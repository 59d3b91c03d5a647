"""How selective channels are: ratios over images, their distribution, two groups of channels, and what sets these apart (figure 4).

phi_c(x_n) is channel c's number for image n; a column of a matrix [n, k] holds one channel. "The paper" is Kadkhodaie, Mallat &
Simoncelli 2025 (arXiv 2506.01912).
"""

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Integer, UInt8
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from unetrep_jax import measures

# Selectivity of each channel


def thresholds(at_zero: Float[np.ndarray, "n k"], kind: str = "maximum") -> Float64[np.ndarray, "k"]:
    """tau_c, at or below which a channel counts as off, from its values without noise.

    maximum: the largest over the images of phi_c at s = 0 (the paper, appendix C; read so for channels that are not near zero
    there too, which is our choice). percentile: the 99.9th percentile of the same. none: minus infinity, nothing is off.
    """
    if kind == "maximum":
        return at_zero.max(0).astype(np.float64)
    if kind == "percentile":
        return np.percentile(at_zero, 99.9, axis=0).astype(np.float64)
    return np.full(at_zero.shape[1], -np.inf)


def selectivity(values: Float[np.ndarray, "n k"], threshold: Float[np.ndarray, "k"]) -> Float64[np.ndarray, "k"]:
    r"""Each channel's participation ratio over images, after values at or below its threshold are set to 0.

        PR_c = (sum_n |v_n|)^2 / (N sum_n v_n^2),    v_n = phi_c(x_n) if phi_c(x_n) > tau_c else 0        in [1/N, 1]

    The share of the images that use the channel: small for a selective one (the paper, figure 4). Without a threshold it is
    1 / (1 + (deviation / mean)^2). NaN for a channel that is off in all images.

    In double precision, unlike `measures.participation_ratio`: ratios of a weakly varying channel are all near 1.
    """
    ratios = np.full(len(threshold), np.nan)
    for part in _parts(len(ratios)):
        kept = np.where(values[:, part] > threshold[part], values[:, part], 0).astype(np.float64)
        square = (kept**2).mean(0)
        np.divide(np.abs(kept).mean(0) ** 2, square, out=ratios[part], where=square > 0)
    return ratios


def logits(values: Float[np.ndarray, "n k"], threshold: Float[np.ndarray, "k"]) -> Float64[np.ndarray, "k"]:
    r"""log(PR_c / (1 - PR_c)) of `selectivity`, exact however near 1 the ratio is.

        log( mean(|v|)^2 / var(|v|) )        in [-log(N - 1), inf]

    NaN for a channel that is off in all images, infinite for one that is the same in all.
    """
    found = np.full(len(threshold), np.nan)
    for part in _parts(len(found)):
        kept = np.abs(np.where(values[:, part] > threshold[part], values[:, part], 0).astype(np.float64))
        mean, varies = kept.mean(0), kept.max(0) > kept.min(0)  # the mean of equal numbers need not equal them
        variance = np.where(varies, kept.var(0), 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found[part] = np.where(mean > 0, np.log(mean**2) - np.log(variance), np.nan)
    return found


def _parts(channels: int) -> list[slice]:
    """Channels in groups of which copies in double precision are small."""
    return [slice(first, first + 64) for first in range(0, channels, 64)]


def off_the_lattice(
    ratios: Float[np.ndarray, "k"], on: Integer[np.ndarray, "k"], images: int, seed: int = 0
) -> Float64[np.ndarray, "k"]:
    """Ratios with a uniform random number within +-1 / (2N) added where a channel is on in some images and off in others.

    The ratio of a channel that is on in m images, about equally, is m/N: few images give a lattice, which the dip, whose null is
    continuous, takes for humps. Spread over one step of it, the ratios follow the same histogram without the lattice.
    """
    shift = np.random.default_rng(seed).uniform(-0.5, 0.5, len(ratios)) / images
    return ratios + np.where(on < images, shift, 0)


def dead_channels(values: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "k"]:
    """Channels that are the same for all images (0 in most cases): they select nothing, and their ratio is 1 or undefined."""
    return values.max(0) == values.min(0)


def excess_kurtosis(values: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "k"]:
    """Fourth central moment over squared variance, minus 3, of each channel over images: 0 for a Gaussian, NaN when constant."""
    result = np.full(values.shape[1], np.nan)
    for part in _parts(len(result)):
        some = values[:, part].astype(np.float64)
        square, varies = (some - some.mean(0)) ** 2, some.max(0) > some.min(0)
        result[part][varies] = (square**2).mean(0)[varies] / square.mean(0)[varies] ** 2 - 3
    return result


def logit(ratios: Float[np.ndarray, "*n"]) -> Float64[np.ndarray, "*n"]:
    """log(p / (1 - p)) for p in (0, 1); rounding spoils it for ratios within 1e-7 of 1, for which there is `logits`."""
    p = np.asarray(ratios, np.float64)
    return np.log(p) - np.log1p(-p)


# Is a distribution bimodal?


def dip(values: Float[np.ndarray, "n"]) -> float:
    r"""Hartigan's dip: how far the sample's distribution is from the nearest unimodal one.

        dip = min over unimodal G of sup_x |F(x) - G(x)|        in [1/(2n), 1/4]

    with F the empirical distribution function; G is convex below its mode and concave above. Unchanged when the values are
    shifted or scaled, not by a curved map. 1/4 for two far groups of equal size; 1/(2n) for evenly spaced values and, by
    convention, when all are equal. NaN for an empty sample.

    J. A. Hartigan & P. M. Hartigan 1985 (The Annals of Statistics 13:70): the modal interval shrinks from the whole range, to
    where the greatest convex minorant and the least concave majorant of F on it are furthest apart.
    """
    x = np.sort(np.asarray(values, np.float64))
    if x.size == 0:
        return float("nan")
    points, low, high, largest = x.tolist(), 0, x.size - 1, 1.0  # distances are counted in steps of F, of 1/n each
    while low < high:
        minorant, majorant = _hull(points, low, high, 1), _hull(points, low, high, -1)
        convex, concave = _heights(x, minorant), _heights(x, majorant) + 1  # F steps from i to i + 1 at point i
        gap = concave - convex
        if gap.max() <= largest:
            break
        widest = low + int(gap.argmax())
        mode_low = max(corner for corner in minorant if corner <= widest)
        mode_high = min(corner for corner in majorant if corner >= widest)
        steps = np.arange(low, high + 1)
        below = (steps + 1 - convex)[: mode_low - low + 1].max()
        above = (concave - steps)[mode_high - low :].max()
        largest = max(largest, float(below), float(above))
        if (low, high) == (mode_low, mode_high):
            break
        low, high = mode_low, mode_high
    return largest / (2 * x.size)


def _hull(x: Sequence[float], low: int, high: int, side: int) -> list[int]:
    """Corners of the greatest convex minorant (side 1) or the least concave majorant (side -1) of the points (x_i, i)."""
    corners: list[int] = []
    for i in range(low, high + 1):
        while len(corners) > 1:
            a, b = corners[-2:]
            if side * ((b - a) * (x[i] - x[a]) - (i - a) * (x[b] - x[a])) < 0:
                break
            corners.pop()
        corners.append(i)
    return corners


def _heights(x: np.ndarray, corners: list[int]) -> np.ndarray:
    """Height of the line through the corners (x_i, i) at every point from the first corner to the last."""
    at, ends = np.arange(corners[0], corners[-1] + 1), np.array(corners)
    segment = np.minimum(np.searchsorted(ends, at, "right") - 1, len(ends) - 2)
    first, last = ends[segment], ends[segment + 1]
    across = x[last] - x[first]
    upright = (at - first) / (last - first)  # equal values: the line goes straight up
    return first + (last - first) * np.divide(x[at] - x[first], across, out=upright, where=across > 0)


def dip_p_value(statistic: float, count: int, *, simulations: int = 1000, seed: int = 0) -> float:
    """How often samples of that size from the uniform, the least favourable unimodal distribution, have a dip as large.

        p = (1 + number of simulated dips >= statistic) / (1 + simulations)        in [1 / (1 + simulations), 1]

    NaN for a NaN.
    """
    if np.isnan(statistic):
        return float("nan")
    exceeded = int((_uniform_dips(count, simulations, seed) >= statistic).sum())
    return (1 + exceeded) / (1 + simulations)


@functools.lru_cache(maxsize=32)
def _uniform_dips(count: int, simulations: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.array([dip(rng.random(count)) for _ in range(simulations)])


class Mixture(NamedTuple):
    """One Gaussian against a mixture of two, fitted to the same values.

    Attributes:
      bic_gain: BIC of one component minus that of two; positive where two describe the values better for their number of
        parameters. Two components can also win by bending one skewed hump: the dip asks for two humps.
      weights, means, deviations: of the two components, the lower mean first.
      crossing: where the two weighted densities are equal, between the means; NaN where one is above the other throughout.
    """

    bic_gain: float
    weights: Float64[np.ndarray, "2"]
    means: Float64[np.ndarray, "2"]
    deviations: Float64[np.ndarray, "2"]
    crossing: float


def mixture(values: Float[np.ndarray, "n"], *, seed: int = 0, starts: int = 10) -> Mixture | None:
    """Fits one and two Gaussians by maximum likelihood, the best of so many starts; None below four different values.

    0.01 is added to every variance: channels that are on in one image share the ratio 1/N exactly, and no component may shrink
    onto such values (our choice, for logits, whose deviations are about 1).
    """
    if len(np.unique(values)) < 4:
        return None
    column = np.asarray(values, np.float64)[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        one, two = (
            GaussianMixture(count, n_init=starts, max_iter=500, reg_covar=0.01, random_state=seed).fit(column)
            for count in (1, 2)
        )
    order = np.argsort(two.means_[:, 0])
    parts = two.weights_[order], two.means_[order, 0], np.sqrt(two.covariances_[order, 0, 0])
    return Mixture(float(one.bic(column) - two.bic(column)), *parts, crossing(*parts))


def crossing(
    weights: Float[np.ndarray, "2"], means: Float[np.ndarray, "2"], deviations: Float[np.ndarray, "2"]
) -> float:
    """Where w_1 N(x; m_1, s_1) = w_2 N(x; m_2, s_2) between m_1 < m_2; NaN unless each is the larger one at its own mean."""
    precision = 1 / deviations**2
    # log(w_1 N_1) - log(w_2 N_2) as a polynomial, the highest power first
    terms = np.array([-precision / 2, means * precision, np.log(weights / deviations) - means**2 * precision / 2])
    polynomial = terms[:, 0] - terms[:, 1]
    at_means = np.polyval(polynomial, means)
    if not at_means[0] > 0 > at_means[1]:
        return float("nan")
    roots = np.roots(polynomial)
    real = roots[np.isreal(roots)].real
    return float(real[(real > means[0]) & (real < means[1])][0])


# Two groups of channels


class Groups(NamedTuple):
    """Specialised and common channels.

    Attributes:
      specialised, common: masks over the channels; a channel without a ratio is in neither.
      boundary: ratio below which a channel is specialised; NaN where terciles were taken.
      mixture: what was fitted to the logits of the ratios; None where there were too few.
    """

    specialised: Bool[np.ndarray, "k"]
    common: Bool[np.ndarray, "k"]
    boundary: float
    mixture: Mixture | None


def split_channels(logits: Float[np.ndarray, "k"], *, seed: int = 0) -> Groups:
    """Specialised channels are those below the crossing of the two Gaussians fitted to logit(PR_c); common ones, the rest.

    Where BIC prefers one Gaussian, or the two do not cross, there is no such place: the lower third of the ratios is taken as
    specialised and the upper third as common. The paper does not say how its groups are told apart; this is our choice.
    """
    defined = np.isfinite(logits)
    found = mixture(logits[defined], seed=seed)
    if found is not None and found.bic_gain > 0 and np.isfinite(found.crossing):
        boundary = float(1 / (1 + np.exp(-found.crossing)))
        below = defined & (np.where(defined, logits, np.inf) < found.crossing)
        return Groups(below, defined & ~below, boundary, found)
    low, high = np.quantile(logits[defined], (1 / 3, 2 / 3)) if defined.any() else (np.nan, np.nan)
    with np.errstate(invalid="ignore"):
        specialised = defined & (logits <= low)
        return Groups(specialised, defined & (logits >= high) & ~specialised, float("nan"), found)


class Difference(NamedTuple):
    """A quantity in the two groups.

    Attributes:
      specialised, common: medians over the group's channels for which it is defined; NaN for a group without one.
      p_value: two-sided, of the difference of the medians under permutations of the channels over the groups.
    """

    specialised: float
    common: float
    p_value: float


def compare_groups(
    values: Float[np.ndarray, "k"],
    specialised: Bool[np.ndarray, "k"],
    common: Bool[np.ndarray, "k"],
    *,
    permutations: int = 1000,
    seed: int = 0,
) -> Difference:
    """Medians of a quantity in the two groups, and how often channels dealt at random to groups of these sizes differ as much.

    p = (1 + number of permutations with |difference| >= the one found) / (1 + permutations)
    """
    first, second = (np.asarray(values[mask & np.isfinite(values)], np.float64) for mask in (specialised, common))
    medians = [float(np.median(group)) if group.size else float("nan") for group in (first, second)]
    if not (first.size and second.size):
        return Difference(*medians, float("nan"))
    pooled = np.tile(np.concatenate([first, second]), (permutations, 1))
    dealt = np.random.default_rng(seed).permuted(pooled, axis=1)
    by_chance = np.median(dealt[:, first.size :], axis=1) - np.median(dealt[:, : first.size], axis=1)
    return Difference(*medians, p_value(medians[1] - medians[0], by_chance))


def p_value(found: float, by_chance: Float[np.ndarray, "p"]) -> float:
    """Two-sided p-value of a difference whose values by chance lie about 0, in [1 / (1 + p), 1].

    Undefined values by chance are left out; NaN where the difference is undefined, or all of these are.
    """
    by_chance = by_chance[np.isfinite(by_chance)]
    if np.isnan(found) or not by_chance.size:
        return float("nan")
    # Equal up to rounding is equal: the same sum taken in another order must not count as smaller.
    as_large = np.abs(by_chance) >= abs(found) * (1 - 1e-9)
    return float((1 + as_large.sum()) / (1 + len(by_chance)))


def permuted_groups(
    specialised: Bool[np.ndarray, "k"], common: Bool[np.ndarray, "k"], permutations: int, seed: int
) -> tuple[Bool[np.ndarray, "p k"], Bool[np.ndarray, "p k"]]:
    """The two groups with the channels of both dealt anew, so many times; sizes stay."""
    members = np.flatnonzero(specialised | common)
    dealt = np.random.default_rng(seed).permuted(np.tile(members, (permutations, 1)), axis=1)
    masks = np.zeros((2, permutations, len(specialised)), bool)
    count = int(specialised.sum())
    for mask, part in zip(masks, (dealt[:, :count], dealt[:, count:]), strict=True):
        np.put_along_axis(mask, part, True, axis=1)
    return masks[0], masks[1]


def group_cosines(
    a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "n k"], groups: Bool[np.ndarray, "g k"], *, chunk: int = 1024
) -> Float64[np.ndarray, "g"]:
    """Cosine of the channels of each group between two representations of an image, averaged over the images.

    Images in which one of the two is zero on the group are left out; NaN where all are. In double precision, for groups that differ
    in the sixth digit.
    """
    members = groups.T.astype(np.float64)
    total, count = np.zeros(len(groups)), np.zeros(len(groups), int)
    for first in range(0, len(a), chunk):
        x, y = (np.asarray(part[first : first + chunk], np.float64) for part in (a, b))
        norms = np.sqrt((x * x) @ members) * np.sqrt((y * y) @ members)
        cosines = np.divide((x * y) @ members, norms, out=np.zeros_like(norms), where=norms > 0)
        total, count = total + cosines.sum(0), count + (norms > 0).sum(0)
    return np.divide(total, count, out=np.full(len(groups), np.nan), where=count > 0)


def channel_correlations(a: Float[np.ndarray, "n k"], b: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "k"]:
    """Pearson's correlation over images of each channel in `a` with itself in `b`; NaN for one that is constant.

    Unlike a cosine it does not grow with the channel's mean.
    """
    return np.concatenate([measures.correlation(a[:, part].T, b[:, part].T) for part in _parts(a.shape[1])])


# How alike are the images that excite a channel most?


def top_images(values: Float[np.ndarray, "n k"], count: int) -> Int64[np.ndarray, "k count"]:
    """The images with the largest values of each channel, the largest first; of equal ones the earlier first."""
    parts = [-values[:, part] for part in _parts(values.shape[1])]
    return np.concatenate([np.argsort(part, axis=0, kind="stable")[:count].T for part in parts])


def _sums_over_cells(planes: np.ndarray, cells: int) -> np.ndarray:
    """[n h w ...] -> [n cells cells ...]: sums over a regular grid of cells."""
    for axis in (1, 2):
        size = planes.shape[axis]
        planes = np.add.reduceat(planes, np.arange(min(cells, size)) * size // min(cells, size), axis=axis)
    return planes


def pixel_features(images: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Mean intensities on a grid of 8 x 8 cells."""
    sums = _sums_over_cells(images.astype(np.float32), 8)
    areas = _sums_over_cells(np.ones((1, *images.shape[1:]), np.float32), 8)
    return (sums / areas).reshape(len(images), -1)


def colour_features(images: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Square roots of the shares of the pixels in the 4 x 4 x 4 bins of a joint colour histogram; grey images have 64 bins."""
    levels = round(64 ** (1 / images.shape[-1]))
    codes = np.zeros(images.shape[:3], np.int64)
    for colour in np.moveaxis(images, -1, 0):
        codes = codes * levels + colour.astype(np.int64) * levels // 256
    bins = levels ** images.shape[-1]
    places = codes.reshape(len(images), -1) + bins * np.arange(len(images))[:, None]
    counts = np.bincount(places.ravel(), minlength=bins * len(images)).reshape(len(images), bins)
    return np.sqrt(counts / codes[0].size).astype(np.float32)


def gradient_features(images: UInt8[np.ndarray, "n h w c"]) -> Float32[np.ndarray, "n d"]:
    """Square roots of gradient magnitudes summed by orientation (8 bins, sign ignored) on a grid of 4 x 4 cells, as shares.

    Dalal & Triggs 2005, without their blocks. An image without any edge has zeros.
    """
    down, across = np.gradient(images.mean(axis=-1, dtype=np.float32), axis=(1, 2))
    turn = np.arctan2(down, across) / np.pi % 1
    bins = np.minimum((8 * turn).astype(int), 7)[..., None] == np.arange(8)
    sums = _sums_over_cells(np.hypot(down, across)[..., None] * bins, 4).reshape(len(images), -1)
    total = sums.sum(1, keepdims=True)
    return np.sqrt(np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)).astype(np.float32)


FEATURES: dict[str, Callable] = {
    "pixels": pixel_features,
    "colour histogram": colour_features,
    "gradient orientations": gradient_features,
}


def unit_features(images: UInt8[np.ndarray, "n h w c"], kind: str, *, chunk: int = 512) -> Float32[np.ndarray, "n d"]:
    """Features of images, their mean over the images removed, then of length 1; zero for an image that equals the mean."""
    parts = [FEATURES[kind](np.asarray(images[first : first + chunk])) for first in range(0, len(images), chunk)]
    features = np.concatenate(parts)
    features -= features.mean(0, dtype=np.float64).astype(np.float32)
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    return np.divide(features, norms, out=np.zeros_like(features), where=norms > 0)


def likeness(units: Float[np.ndarray, "n d"], sets: Integer[np.ndarray, "m k"]) -> Float64[np.ndarray, "m"]:
    """Mean cosine over the pairs of each set of rows, for rows of length 1: ((sum u)^2 - sum u^2) / (k (k - 1)), in [-1, 1]."""
    squares, result = np.einsum("nd,nd->n", units, units, dtype=np.float64), np.empty(len(sets))
    for part in _parts(len(sets)):
        sums = units[sets[part]].sum(1, dtype=np.float64)
        result[part] = np.einsum("md,md->m", sums, sums) - squares[sets[part]].sum(1)
    return result / (sets.shape[1] * (sets.shape[1] - 1))


def purity(labels: Integer[np.ndarray, "n"], sets: Integer[np.ndarray, "m k"]) -> Float64[np.ndarray, "m"]:
    """Share of the most frequent label in each set of rows, in [1/k, 1]."""
    inside = labels[sets]
    return (inside[:, :, None] == inside[:, None, :]).sum(-1).max(-1) / sets.shape[1]


def random_sets(total: int, size: int, count: int, seed: int) -> Int64[np.ndarray, "count size"]:
    """So many sets of different rows, drawn at random."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(total, size, replace=False) for _ in range(count)])


class AgainstRandom(NamedTuple):
    """Values of some sets beside those of random sets.

    Attributes:
      z: distance from the random sets' mean in their deviations; NaN when these are all the same.
      beyond: whether the value is above the 95th percentile of the random sets.
    """

    z: Float64[np.ndarray, "m"]
    beyond: Bool[np.ndarray, "m"]


def against_random(values: Float[np.ndarray, "m"], by_chance: Float[np.ndarray, "p"]) -> AgainstRandom:
    """How far the values of sets lie from those of random sets."""
    spread = by_chance.std()
    z = (values - by_chance.mean()) / spread if spread > 0 else np.full(len(values), np.nan)
    return AgainstRandom(np.asarray(z, np.float64), values > np.quantile(by_chance, 0.95))


def permuted_shares(
    measure: Callable[[Integer[np.ndarray, "m k"]], Float64[np.ndarray, "m"]],
    sets: Integer[np.ndarray, "m k"],
    rows: Integer[np.ndarray, " n"],
    groups: Bool[np.ndarray, "g m"],
    limit: float,
    *,
    count: int,
    seed: Sequence[int],
) -> Float64[np.ndarray, "count g"]:
    """Shares of each group's sets whose measure is above a limit, when it is by chance which row is which.

    Each of `count` permutations of the rows is one for all sets: those that have rows in common have others in common then, and
    vary together, as independent random sets would not. So this is the null of a share over sets that overlap.

    Args:
      measure: of sets of rows, one number for each.
      sets: of `rows`.
      rows: what is permuted.
      groups: members of each group; NaN where it has none.
      limit: that the measure is held against.
      count: permutations.
      seed: of the permutations.
    """
    rng, renamed, sizes = np.random.default_rng(seed), np.arange(rows.max() + 1), groups.sum(1)
    shares = np.full((count, len(groups)), np.nan)
    for place in range(count):
        renamed[rows] = rng.permutation(rows)
        np.divide(groups @ (measure(renamed[sets]) > limit).astype(float), sizes, out=shares[place], where=sizes > 0)
    return shares
