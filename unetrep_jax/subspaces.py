"""Do representations lie in a union of coordinate subspaces? Supports of images: what they share, exclude, and how many there are.

The support of an image is the set of channels that it uses: a row of a boolean matrix [n k]. An image whose representation
vanished outside its support would lie in the coordinate subspace of those channels, and many different supports would make a
union of subspaces ("the paper" is Kadkhodaie, Mallat & Simoncelli 2025, arXiv 2506.01912, whose figure 6 shows it for three
channels). No number here means anything alone: read it beside the same number for the same channels, each permuted over the
images on its own, which keeps what every channel does and removes what channels do together.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float64, Integer, Real

from unetrep_jax import measures

ROWS = 2048  # images at once: bounds memory, changes no result


def _chunks(count: int, rows: int = ROWS) -> Iterator[slice]:
    return (slice(first, min(first + rows, count)) for first in range(0, count, rows))


def effective_channels(features: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "n"]:
    """k PR of every row, in [1, k]: how many channels carry it (the paper's dimension of a subspace); NaN for a row of zeros."""
    return features.shape[1] * np.asarray(measures.participation_ratio(features), np.float64)


def channels_above(features: Float[np.ndarray, "n k"], thresholds: Float[np.ndarray, "k"]) -> Bool[np.ndarray, "n k"]:
    """S(x) = {c: phi_c(x) > tau_c}: the supports of the union of subspaces, given a threshold for each channel."""
    return features > thresholds


def largest_channels(features: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    """Each row's own largest channels, as many as its effective number (k PR, rounded). Our choice.

    The definition that the size of the paper's subspaces suggests. It has content for every network, and needs no threshold, but
    it says which channels are large and not which differ between images: a constant representation has one support.
    Entries that are not positive belong to no support; of equal ones the first come first.
    """
    count = np.nan_to_num(np.rint(effective_channels(features))).astype(int)
    supports = np.zeros(features.shape, bool)
    for rows in _chunks(len(features)):
        order = np.argsort(-features[rows], axis=1, kind="stable")
        chosen = np.arange(features.shape[1])[None] < count[rows, None]
        np.put_along_axis(supports[rows], order, chosen, axis=1)
    return supports & (features > 0)


def channels_above_mean(features: Float[np.ndarray, "n k"]) -> Bool[np.ndarray, "n k"]:
    """The channels that are above their own mean over the rows. Our choice.

    Whatever the network, a channel that varies is in some supports and not in others: rarely when its values are heavy-tailed, in
    half of them when they are symmetric. It says which channels are raised together, not which are zero. A constant channel is in
    none.
    """
    varies = features.max(0) > features.min(0)  # the mean of equal numbers need not equal them
    return (features > features.mean(0, dtype=np.float64)) & varies


def energy_inside(features: Float[np.ndarray, "n k"], supports: Bool[np.ndarray, "n k"]) -> Float64[np.ndarray, "n"]:
    """Share of every row's squared norm inside its support, in [0, 1]: 1 for a row in its coordinate subspace, NaN for zeros."""
    inside, total = np.empty((2, len(features)))
    for rows in _chunks(len(features)):
        squares = np.square(features[rows], dtype=np.float64)
        inside[rows], total[rows] = (squares * supports[rows]).sum(1), squares.sum(1)
    return np.divide(inside, total, out=np.full(len(features), np.nan), where=total > 0)


def rarest_channels(features: Float[np.ndarray, "n k"], count: int) -> Integer[np.ndarray, "_"]:
    """The channels with the lowest participation ratio over rows, of those that are not zero throughout; the lowest first."""
    ratios = np.asarray(measures.participation_ratio(features, axis=0))
    return np.argsort(ratios, kind="stable")[: min(count, int(np.isfinite(ratios).sum()))]  # NaN comes last


class LogOdds(NamedTuple):
    """How much more often two channels fire together than their shares of the images make likely.

    Attributes:
      ratio: natural logarithm of the odds ratio of each pair of channels; 0 for independent ones, below 0 for those that exclude
        each other. NaN where it is not defined, and of a channel with itself.
      error: its standard error for independent images.
    """

    ratio: Float64[np.ndarray, "k k"]
    error: Float64[np.ndarray, "k k"]


def log_odds_ratios(supports: Bool[np.ndarray, "n k"], least: int = 1) -> LogOdds:
    r"""Co-activation of all pairs of channels.

        log [ (n11 + 1/2)(n00 + 1/2) / ((n10 + 1/2)(n01 + 1/2)) ],      error^2 = sum of the four 1 / (n.. + 1/2)

    with n11 the images that have both channels, n10 those that have the first alone, and so on; the halves (Haldane 1956,
    Anscombe 1956) keep it finite when two channels are never, or always, seen together. All n11 come from one matrix product.

    Args:
      supports: one row per image.
      least: the images that a channel must at least be in, and be missing from, to have odds ratios; a channel that is always or
        never on says nothing about others.
    """
    images, channels = supports.shape
    both = np.zeros((channels, channels))
    for rows in _chunks(images, 2**16):  # sums of so many ones are exact in single precision
        part = supports[rows].astype(np.float32)
        both += part.T @ part
    on = np.diag(both)
    found = _log_odds(both, images)
    varies = (on >= max(1, least)) & (images - on >= max(1, least))
    defined = varies[:, None] & varies[None] & ~np.eye(channels, dtype=bool)
    return LogOdds(*(np.where(defined, values, np.nan) for values in found))


def _log_odds(both: Float[np.ndarray, "k k"], images: int) -> LogOdds:
    """Of every pair, from the number of images that have both; on the diagonal, those that have the channel."""
    on = np.diag(both)
    first, second = on[:, None] - both, on[None] - both
    cells = np.stack([both, images - both - first - second, first, second]) + 0.5
    return LogOdds(np.log(cells[0] * cells[1] / (cells[2] * cells[3])), np.sqrt((1 / cells).sum(0)))


def resampled_median_odds(
    supports: Bool[np.ndarray, "n k"], times: Integer[np.ndarray, "draws n"], least: int = 1
) -> Float64[np.ndarray, "draws"]:
    """Median over pairs of channels of their odds ratio, with every image counted as often as `times` says, draw by draw.

    Pairs of channels are not independent, for they share channels and images: what another set of images would give is known from
    drawn images (see `times_drawn`), with the channels as they are. The pairs are always those that have a ratio in the images
    themselves (see `log_odds_ratios` for that and for `least`); NaN where none has.
    """
    pairs = np.triu(np.isfinite(log_odds_ratios(supports, least).ratio), 1)
    if not pairs.any():
        return np.full(len(times), np.nan)
    sets = supports.astype(np.float32)
    sums = (((sets * row[:, None].astype(np.float32)).T @ sets).astype(np.float64) for row in times)
    ratios = (_log_odds(both, int(row.sum())).ratio[pairs] for both, row in zip(sums, times, strict=True))
    return np.array([np.median(np.exp(of_pairs)) for of_pairs in ratios])


def times_drawn(images: int, draws: int, seed: int) -> Integer[np.ndarray, "{draws}+1 {images}"]:
    """How often each image counts: once in the first row, then as often as it comes in `images` draws with replacement."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(images, np.full(images, 1 / images), size=draws)
    return np.concatenate([np.ones((1, images), drawn.dtype), drawn])


class Overlap(NamedTuple):
    """Jaccard overlap |S n T| / |S u T| of each image's support with those of others, in [0, 1].

    Attributes:
      within: mean over the other images of its group.
      between: mean over the images of all other groups.
      nearest: with the most alike support among all other images; 1 where the same support occurs again.
    """

    within: Float64[np.ndarray, "n"]
    between: Float64[np.ndarray, "n"]
    nearest: Float64[np.ndarray, "n"]


def overlaps(supports: Bool[np.ndarray, "n k"], groups: Integer[np.ndarray, "n"]) -> Overlap:
    """Overlap of supports within and between groups, exactly, over all pairs of images.

    Time grows with n^2 k (seconds for 10,000 images of 512 channels): give a random sample of a larger set. Two empty supports
    have no overlap and are left out; NaN for an image that has nothing to be compared with.
    """
    result = np.empty((3, len(supports)))
    for rows, overlap, counted in _overlap_rows(supports):
        same = groups[rows, None] == groups[None]
        for row, pairs in enumerate((counted & same, counted & ~same)):
            result[row, rows] = _mean_where(overlap, pairs)
        result[2, rows] = np.where(counted.any(1), overlap.max(1), np.nan)
    return Overlap(*result)


def _overlap_rows(supports: Bool[np.ndarray, "n k"]) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Some images, their overlaps with all [rows n] (0 where there is none), and which pairs have one: none with itself."""
    sets = supports.astype(np.float32)
    size = sets.sum(1)
    for rows in _chunks(len(sets), max(1, 2**23 // max(1, len(sets)))):
        common = sets[rows] @ sets.T
        union = size[rows, None] + size[None] - common
        counted = union > 0
        counted[np.arange(len(common)), np.arange(rows.start, rows.stop)] = False
        yield rows, np.where(counted, common / np.maximum(union, 1), 0), counted


def resampled_median_overlaps(
    supports: Bool[np.ndarray, "n k"], groups: Integer[np.ndarray, "n"], times: Integer[np.ndarray, "draws n"]
) -> Float64[np.ndarray, "draws 2"]:
    """Medians over images of `Overlap.within` and `between`, with every image counted as often as `times` says, draw by draw.

    An image counts as often in the means of others as in the median, so that the draws (see `times_drawn`) spread as other sets of
    images would; means of the overlaps at hand, drawn anew, would spread half as widely. An image drawn twice is not compared with
    itself. The groups are taken as they are.
    """
    weights = times.T.astype(np.float32)
    means = np.empty((2, *weights.shape))
    for rows, overlap, counted in _overlap_rows(supports):
        same = groups[rows, None] == groups[None]
        for kind, pairs in enumerate((counted & same, counted & ~same)):
            count, total = (part.astype(np.float32) @ weights for part in (pairs, overlap * pairs))
            means[kind, rows] = np.divide(total, count, out=np.full(count.shape, np.nan, np.float32), where=count > 0)
    return np.array([[_median(np.repeat(kind[:, k], row)) for kind in means] for k, row in enumerate(times)])


def _median(values: Float[np.ndarray, "_"]) -> float:
    """Of the known values; NaN without any."""
    known = values[~np.isnan(values)]
    return float(np.median(known)) if len(known) else np.nan


def _mean_where(values: Float[np.ndarray, "n m"], where: Bool[np.ndarray, "n m"]) -> Float64[np.ndarray, "n"]:
    count, total = where.sum(1), np.einsum("nm,nm->n", values, where, dtype=np.float64)
    return np.divide(total, count, out=np.full(len(values), np.nan), where=count > 0)


def variance_shares(features: Float[np.ndarray, "n k"]) -> Float64[np.ndarray, "_"]:
    """Share of the variance on each principal axis, falling, [min(n - 1, k)]; it sums to 1. NaN when nothing varies.

    From eigenvalues of the covariance, or of the matrix of inner products where there are fewer rows than columns.
    """
    centred = (features - features.mean(0, dtype=np.float64)).astype(np.float32)
    products = centred.T @ centred if len(features) > features.shape[1] else centred @ centred.T
    variances = np.maximum(np.linalg.eigvalsh(products.astype(np.float64))[::-1], 0)
    total = variances.sum()
    shares = variances / total if total > 0 else np.full(len(variances), np.nan)
    return shares[: min(len(features) - 1, features.shape[1])]


def components_for(shares: Float[np.ndarray, "_"], part: float) -> float:
    """How many principal axes hold this part of the variance; NaN when nothing varies."""
    if shares.size == 0 or np.isnan(shares).any():
        return np.nan
    return float(min(np.searchsorted(np.cumsum(shares), part * (1 - 1e-9)) + 1, shares.size))


def effective_dimension(shares: Float[np.ndarray, "*n r"]) -> Float64[np.ndarray, "*n"]:
    r"""Participation ratio of the variances l_j along the principal axes, not divided by their number, in [1, r].

        (sum_j l_j)^2 / sum_j l_j^2 = 1 / sum_j share_j^2

    1 when one axis holds all the variance, r when r axes hold equal parts; NaN when nothing varies. From m images it is below the
    one of the density that they are drawn from (at most m - 1), so only sets of equally many compare.
    """
    squares = np.square(np.asarray(shares, np.float64)).sum(-1)
    return np.divide(1, squares, out=np.full(squares.shape, np.nan), where=squares > 0)


class GroupSpectra(NamedTuple):
    """Shares of variance by principal axis, of equally many images of one group and of all images.

    Attributes:
      inside: a row for each group.
      random: a row for each of as many random sets of images.
    """

    inside: Float64[np.ndarray, "g r"]
    random: Float64[np.ndarray, "g r"]


def group_spectra(
    features: Float[np.ndarray, "n k"], groups: Integer[np.ndarray, "n"], members: int, *, seed: int, most: int = 100
) -> GroupSpectra:
    """PCA inside groups beside PCA of random images, always of the same number of images.

    m images have at most m - 1 principal axes, and few images seem to need few: only spectra of equally many compare.

    Args:
      features: one row per image.
      groups: the group of each row.
      members: images drawn from each group; smaller groups, and those in which nothing varies, are left out.
      seed: of the draws.
      most: groups looked at, a random choice where there are more.
    """
    rng = np.random.default_rng(seed)
    names, sizes = np.unique(groups, return_counts=True)
    names = rng.permutation(names[sizes >= members])[:most]
    inside = [features[rng.choice(np.flatnonzero(groups == name), members, replace=False)] for name in names]
    random = [features[rng.choice(len(features), members, replace=False)] for _ in names]
    width = max(0, min(members - 1, features.shape[1]))
    spectra = (
        np.array([variance_shares(part) for part in parts]).reshape(len(names), width) for parts in (inside, random)
    )
    return GroupSpectra(*(rows[~np.isnan(rows).any(1)] for rows in spectra))


def support_numbers(supports: Bool[np.ndarray, "n k"]) -> Integer[np.ndarray, "n"]:
    """A number for each support: equal supports, equal number, from 0 on."""
    packed = np.ascontiguousarray(np.packbits(supports, axis=1))
    if packed.shape[1] == 0:
        return np.zeros(len(supports), int)
    rows = packed.view(np.dtype((np.void, packed.shape[1])))[:, 0]
    return np.unique(rows, return_inverse=True)[1].reshape(-1)


def accumulation(
    numbers: Integer[np.ndarray, "n"], sizes: Integer[np.ndarray, "m"], *, orders: int, seed: int
) -> Integer[np.ndarray, "orders m"]:
    """Distinct supports among the first images that are seen, in several random orders: the species accumulation curve.

    Args:
      numbers: the number of each image's support.
      sizes: how many images have been seen.
      orders: random orders; their spread shows what the order does, not what another set of images would.
      seed: of the orders.
    """
    rng = np.random.default_rng(seed)
    curves = np.empty((orders, len(sizes)), int)
    for curve in curves:
        first = np.unique(rng.permutation(numbers), return_index=True)[1]
        curve[:] = np.searchsorted(np.sort(first), sizes)
    return curves


def images_seen(count: int) -> Integer[np.ndarray, "_"]:
    """Numbers of images at which to count supports: even on a logarithmic axis, half of them, and all."""
    return np.unique([*np.geomspace(1, count, 40).round().astype(int), (count + 1) // 2, count])


def new_in_second_half(seen: Integer[np.ndarray, "m"], counts: Integer[np.ndarray, "orders m"]) -> float:
    """Share of the second half of the images that bring a support not seen before, mean over orders.

    `seen` is what `images_seen` gives. 1 while every image brings a new support, 0 when all there are have been seen.
    """
    half = int(np.searchsorted(seen, (seen[-1] + 1) // 2))
    return float((counts[:, -1] - counts[:, half]).mean() / max(1, seen[-1] - seen[half]))


def near_zero_share(
    values: Real[np.ndarray, "*n k"], reference: Float[np.ndarray, "k"], cuts: Sequence[float]
) -> Float64[np.ndarray, "cuts *n"]:
    """Share of the channels whose value is below a fraction of their own reference: {c: values_c < cut * reference_c}.

    Args:
      values: of each channel, as its mean over images without noise.
      reference: of each channel, as its mean at the working noise level. Channels where it is not positive are left out.
      cuts: the fractions.

    Returns:
      A share for each cut; NaN when no channel is left.
    """
    live = reference > 0
    if not live.any():
        return np.full((len(cuts), *values.shape[:-1]), np.nan)
    relative = values[..., live] / reference[live].astype(np.float64)
    return np.stack([(relative < cut).mean(-1) for cut in cuts])
