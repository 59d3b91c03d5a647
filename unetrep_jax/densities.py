r"""How far apart the image densities are that two representations stand for, and whether phi is a Euclidean embedding of them.

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912), equations 3 and 4. With p_s the density p blurred by noise of level s,

    d^2(p_1, p_2) = integral_0^inf ( E_{p_1,s} |grad log p_1,s - grad log p_2,s|^2 + E_{p_2,s} |the same|^2 ) s ds
                  = KL(p_1 || p_2) + KL(p_2 || p_1)                                              (4; Lyu 2012)
    A |phi_1 - phi_2|^2  <=  d^2(p(x | phi_1), p(x | phi_2))  <=  B |phi_1 - phi_2|^2            (3)

By Miyasawa 1961 the score of p_i,s is (f_i(y, s) - y) / s^2, with f_i(y, s) = E[x | y] under p_i: two denoisers are all that the
distance needs. Over noise levels a to b it is the divergence of the densities blurred by a, less that of those blurred by b.

How the paper makes denoisers that know phi is not stated. `conditional_denoise` is our choice: it moves y until its phi is the
target's, as the paper's reconstructions do, and denoises that.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int64, Integer, Key
from scipy.stats import rankdata

from unetrep_jax import reconstruction
from unetrep_jax.denoiser import Denoiser, Images
from unetrep_jax.storage import InputError

Sigma = Float[Array, ""]
ConditionalDenoise = Callable[
    [Images, Sigma], Images
]  # (noisy images, their noise level) -> E[x | y] under one density
Representation = Float[Array, "n k"]
Samples = Float[Array, "_ _ _ _"]  # images [n h w c]


def polyak() -> optax.GradientTransformationExtraArgs:
    r"""Gradient descent whose step is known, because the smallest loss is 0 (Polyak 1987).

        y <- y - l(y) g / |g|^2,    g the gradient of l

    Needs no learning rate, does not know the scale of the loss, and moves along gradients alone: where phi is linear in the pixels
    it ends at the nearest image that has the target's phi. `optax.polyak_sgd` takes no step where |g|^2 is below rounding, which
    for small phi is everywhere. No step where the gradient vanishes.
    """

    def update(gradient, state, params=None, *, value, **others):
        largest = jnp.abs(gradient).max()
        unit = gradient / jnp.where(largest > 0, largest, 1)  # its squares neither overflow nor vanish
        step = value / jnp.where(largest > 0, largest * jnp.sum(unit**2), jnp.inf)
        return -step * unit, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


class Matching(NamedTuple):
    """How images are moved until their phi is a target's; see `reconstruction.match`.

    Adam, whose first steps move every pixel by its learning rate however near the target is, leaves marks that differ between two
    matchings to the same phi; `polyak` moves an image that is there already hardly at all.

    Attributes:
      updates: most updates of the pixels.
      tolerance: share of the first loss at which an image is left alone.
      optimizer: on the pixels.
    """

    updates: int = 20
    tolerance: float = 0.01
    optimizer: optax.GradientTransformation = polyak()


MATCHING = Matching()


def conditional_denoise(
    denoiser: Denoiser, target: Representation | Callable[[Sigma], Representation], matching: Matching = MATCHING
) -> ConditionalDenoise:
    """f_phi(y, s) = denoise(Pi_phi(y)): y is moved until its phi is the target's, then denoised.

    Args:
      denoiser: only `denoise` and `represent` are used.
      target: phi of each image; or noise level -> phi, where the target is to be phi at the level of the noise.
      matching: how y is moved.
    """

    def denoise(images, sigma):
        phi = target(sigma) if callable(target) else target
        matched = reconstruction.match(
            denoiser.represent,
            images,
            phi,
            optimizer=matching.optimizer,
            max_steps=matching.updates,
            tolerance=matching.tolerance,
        )
        return denoiser.denoise(matched.images)

    return denoise


def squared_differences(
    denoise_1: ConditionalDenoise, denoise_2: ConditionalDenoise, samples: Images, keys: Key[Array, " n"], sigma: Sigma
) -> Float[Array, " n"]:
    r"""What each sample contributes to d^2 at one noise level, per unit of log s.

        c(x) = || f_1(y, s) - f_2(y, s) ||^2 / s^2 = s^2 || score_1(y) - score_2(y) ||^2,      y = x + s z

    so that d^2 = integral (E_{p_1} c + E_{p_2} c) d(log s).

    Args:
      denoise_1, denoise_2: of the two densities; the order does not matter.
      samples: clean images, drawn from either.
      keys: of the noise, one for each sample.
      sigma: s.
    """
    z = jax.vmap(lambda key: jax.random.normal(key, samples.shape[1:], samples.dtype))(keys)
    noisy = samples + sigma * z
    difference = (denoise_1(noisy, sigma) - denoise_2(noisy, sigma)) / sigma
    return jnp.sum(difference**2, axis=(1, 2, 3))


def contributions(
    denoise_1: ConditionalDenoise,
    denoise_2: ConditionalDenoise,
    samples_1: Samples,
    samples_2: Samples,
    keys: Key[Array, " n"],
    sigmas: Float[Array | np.ndarray, " levels"],
) -> Float[Array, "2 levels n"]:
    """`squared_differences` of the samples of both densities at every level; a pure function, for `jax.jit`.

    Every sample, level and density has noise of its own: sample i's depends on key i, the level's position and the density.
    """
    if samples_1.shape != samples_2.shape or len(samples_1) != len(keys):
        raise InputError(
            f"samples of shapes {samples_1.shape} and {samples_2.shape}, and {len(keys)} keys: give as many samples of both "
            "densities, of one size, and as many keys."
        )
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def at(level):
        number, sigma = level
        of_level = fold(keys, number)
        return jnp.stack(
            [
                squared_differences(denoise_1, denoise_2, samples, fold(of_level, side), sigma)
                for side, samples in enumerate((samples_1, samples_2))
            ]
        )

    levels = jnp.asarray(sigmas, jnp.float32)
    return jax.lax.map(at, (jnp.arange(len(levels)), levels)).transpose(1, 0, 2)


class Distance(NamedTuple):
    """d^2 over a finite range of noise levels, of one pair of densities or of many.

    Attributes:
      value: d^2, the symmetric divergence; in nats, 0 or more.
      error: its standard error, from the spread over samples (NaN with one sample of each density). It holds what changes from
        sample to sample; not the quadrature's error, nor what all samples share.
      by_level: what each noise level contributes per unit of log s, both directions together.
    """

    value: Float[np.ndarray, "*pairs"] | np.float64
    error: Float[np.ndarray, "*pairs"] | np.float64
    by_level: Float[np.ndarray, "*pairs levels"]


def log_weights(sigmas: Float[np.ndarray, " levels"]) -> Float[np.ndarray, " levels"]:
    """Weights of the trapezoid rule in log s.

    In log s the integrand s^2 g(s), with g the squared difference of scores, is one bump over the decades in which the densities
    merge. On log-spaced levels the error falls as the square of their distance in log s, from a much smaller start than that of
    the trapezoid rule with weight s ds on the same levels, whose last intervals are as wide as half the range.

    Raises:
      InputError: fewer than two levels, or levels that do not rise from above 0.
    """
    sigmas = np.asarray(sigmas, np.float64)
    if len(sigmas) < 2 or not np.isfinite(sigmas).all() or sigmas[0] <= 0 or (np.diff(sigmas) <= 0).any():
        raise InputError(f"noise levels must be two or more, rising from above 0; got {sigmas.tolist()}.")
    halves = np.diff(np.log(sigmas)) / 2
    return np.append(halves, 0) + np.insert(halves, 0, 0)


def integrate(parts: Float[np.ndarray, "*pairs 2 levels n"], sigmas: Float[np.ndarray, " levels"]) -> Distance:
    """d^2 from what each sample of both densities contributes at each level (see `contributions`), in double precision."""
    parts = np.asarray(parts, np.float64)
    of_samples = np.einsum("...dln,l->...dn", parts, log_weights(sigmas))
    count = of_samples.shape[-1]
    variance = of_samples.var(-1, ddof=1).sum(-1) / count if count > 1 else np.full(of_samples.shape[:-2], np.nan)
    return Distance(of_samples.mean(-1).sum(-1), np.sqrt(variance), parts.mean(-1).sum(-2))


def distance(
    denoise_1: ConditionalDenoise,
    denoise_2: ConditionalDenoise,
    samples_1: Samples,
    samples_2: Samples,
    keys: Key[Array, " n"],
    *,
    sigmas: Float[np.ndarray, " levels"],
) -> Distance:
    """d^2 of two densities over the noise levels from the first to the last.

    With exact denoisers it is unbiased but for the quadrature. What is random in the denoisers themselves (a target phi from few
    noise draws) adds its own square: compare with the distance of a density to itself, made in the same way.

    Args:
      denoise_1, denoise_2: (noisy images, level) -> E[x | y] under each density.
      samples_1, samples_2: clean images drawn from each, as many of both.
      keys: one for each sample.
      sigmas: noise levels, rising, intensity units; log-spaced ones serve best.
    """
    log_weights(sigmas)  # refuses levels before anything runs
    return integrate(np.asarray(contributions(denoise_1, denoise_2, samples_1, samples_2, keys, sigmas)), sigmas)


class Band(NamedTuple):
    """How closely d^2 follows a squared distance between representations, over pairs.

    Attributes:
      low, high: A and B: the smallest and the largest ratio of d^2 to the squared distance. Extremes of all pairs: the more pairs,
        the wider their range of distances, and the noisier d^2, the further apart.
      ratio: B / A, 1 or more.
      middle: the same for the middle 90 % of the pairs: ratio of the 95 % to the 5 % quantile of d^2 / squared distance.
      spearman: rank correlation of the two.
      slope: of log d^2 on log squared distance, by least squares; 1 where they are proportional.
    """

    low: Float[np.ndarray, "*b"] | np.float64
    high: Float[np.ndarray, "*b"] | np.float64
    ratio: Float[np.ndarray, "*b"] | np.float64
    middle: Float[np.ndarray, "*b"] | np.float64
    spearman: Float[np.ndarray, "*b"] | np.float64
    slope: Float[np.ndarray, "*b"] | np.float64


def band(squares: Float[np.ndarray, "*b n"], distances: Float[np.ndarray, "*b n"]) -> Band:
    """A, B and how the two go together (equation 3), for pairs along the last axis.

    A and B are the extreme ratios, as the published band touches the outermost points. Ties get mean ranks. Where all squares or
    all distances are equal there is no correlation: NaN, and a NaN slope where all squares are.

    Args:
      squares: squared distances between representations, above 0.
      distances: d^2 of the same pairs, above 0.
    """
    x, y = np.log(np.asarray(squares, np.float64)), np.log(np.asarray(distances, np.float64))
    low, fifth, rest, high = np.exp(np.quantile(y - x, (0, 0.05, 0.95, 1), axis=-1))
    ranks = _centred(rankdata(x, axis=-1)), _centred(rankdata(y, axis=-1))
    x, y = _centred(x), _centred(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        spearman = (ranks[0] * ranks[1]).sum(-1) / np.sqrt((ranks[0] ** 2).sum(-1) * (ranks[1] ** 2).sum(-1))
        slope = (x * y).sum(-1) / (x**2).sum(-1)
    return Band(low, high, high / low, rest / fifth, spearman, slope)


def _centred(values):
    return values - values.mean(-1, keepdims=True)


# What random numbers are for sets them apart from others of the same seed.
BOOTSTRAP, PERMUTATION, ERRORS, HALVES = 51, 52, 53, 54
WITH_INTERVALS = ("middle", "spearman", "slope")  # fields of `Band`
EXTREMES = ("low", "high", "ratio")  # the others


def bootstrap_band(
    squares: Float[np.ndarray, " n"], distances: Float[np.ndarray, " n"], *, seed: int, draws: int = 2000
) -> dict[str, Float[np.ndarray, "2"]]:
    """95 % intervals of `band` over pairs drawn with replacement: `WITH_INTERVALS` -> (low, high).

    Not of A, B and B / A: a resample never goes beyond the extremes of the pairs at hand, and the bootstrap of an extreme is
    inconsistent (Bickel & Freedman 1981). Those have `band_of_halves`.
    """
    chosen = np.random.default_rng([seed, BOOTSTRAP]).integers(0, len(squares), (draws, len(squares)))
    found = band(squares[chosen], distances[chosen])
    return {name: np.nanquantile(getattr(found, name), (0.025, 0.975)) for name in WITH_INTERVALS}


def band_of_halves(
    squares: Float[np.ndarray, " n"], distances: Float[np.ndarray, " n"], *, seed: int, draws: int = 1000
) -> dict[str, Float[np.ndarray, "3"]]:
    """A, B and B / A of random halves of the pairs: `EXTREMES` -> (2.5 %, median, 97.5 %) over halves.

    (n + 1) // 2 pairs without replacement. No interval for what other pairs would give: A of a half is never below that of all, B
    never above, B / A never larger. How far they stay inside says how much a few pairs make them, and that they grow apart with
    the number of pairs: where one pair makes an extreme, half of the halves miss it.
    """
    ratios = np.asarray(distances, np.float64) / squares
    rows = np.tile(ratios, (draws, 1))
    halves = np.random.default_rng([seed, HALVES]).permuted(rows, axis=1)[:, : (len(ratios) + 1) // 2]
    low, high = halves.min(1), halves.max(1)
    of_halves = zip(EXTREMES, (low, high, high / low), strict=True)
    return {name: np.quantile(values, (0.025, 0.5, 0.975)) for name, values in of_halves}


def permuted_band(
    squares: Float[np.ndarray, " n"], distances: Float[np.ndarray, " n"], *, seed: int, draws: int = 2000
) -> Band:
    """The null of `band`, d^2 paired with the squared distances of other pairs: each field is (2.5 %, median, 97.5 %)."""
    shuffled = np.random.default_rng([seed, PERMUTATION]).permuted(np.tile(squares, (draws, 1)), axis=1)
    distances = np.broadcast_to(distances, shuffled.shape)
    return Band(*(np.nanquantile(field, (0.025, 0.5, 0.975)) for field in band(shuffled, distances)))


def ratio_by_noise(
    distances: Float[np.ndarray, " n"], errors: Float[np.ndarray, " n"], *, seed: int, draws: int = 2000
) -> float:
    """The median B / A that the standard errors of d^2 alone would give, were d^2 exactly proportional to the squared distance."""
    relative = np.asarray(errors, np.float64) / distances
    logs = relative * np.random.default_rng([seed, ERRORS]).standard_normal((draws, len(distances)))
    return float(np.median(np.exp(np.ptp(logs, axis=1))))


def spread_pairs(
    candidates: Integer[np.ndarray, "m 2"], squares: Float[np.ndarray, " m"], count: int
) -> Int64[np.ndarray, " {count}"]:
    """Which candidates to take so that the logarithms of their squared distances are spread evenly over their range.

    For each of `count` evenly spaced values the nearest candidate that is left is taken; one whose two images are in no pair yet
    comes first, where there is one within a step.

    Args:
      candidates: pairs of images, each pair once.
      squares: their squared distances, above 0.
      count: how many to take, at most as many as there are.
    """
    logs = np.log(np.asarray(squares, np.float64))
    wanted, step = np.linspace(logs.min(), logs.max(), count), np.ptp(logs) / max(1, count - 1)
    free: Bool[np.ndarray, " m"] = np.ones(len(logs), bool)
    used = np.zeros(int(candidates.max()) + 1, bool)
    taken = []
    for value in wanted:
        gap = np.where(free, abs(logs - value), math.inf)
        fresh = np.where(used[candidates].any(1), math.inf, gap)
        best = fresh.argmin() if fresh.min() <= step else gap.argmin()
        taken.append(best)
        free[best] = False
        used[candidates[best]] = True
    return np.asarray(taken, np.int64)
