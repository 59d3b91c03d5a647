"""Noise levels, adding noise, and PSNR.

Noise levels sigma are standard deviations per pixel in the images' own units: 1 is the whole intensity range, 25/255 the
"25" of the denoising literature. Training draws one level per image (arXiv 2506.01912, equation 1 and its public code).
"""

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from unetrep_jax.storage import InputError

# Quantile functions s(u): a uniform u in [0, 1] becomes a level in [a, b]. The comment gives the density.
QUANTILES: dict[str, Callable] = {
    "uniform": lambda u, a, b, power: a + (b - a) * u,  # constant
    "inv_sqrt": lambda u, a, b, power: (a**0.5 + u * (b**0.5 - a**0.5)) ** 2,  # s^(-1/2): the paper's
    "power_law": lambda u, a, b, power: (
        (a ** (1 / power) + u * (b ** (1 / power) - a ** (1 / power))) ** power
    ),  # s^(1/p - 1)
    "inv": lambda u, a, b, power: a * (b / a) ** u,  # s^(-1): log-uniform
    "inv_1p5": lambda u, a, b, power: (a**-0.5 + u * (b**-0.5 - a**-0.5)) ** -2,  # s^(-3/2)
    "inv_sq": lambda u, a, b, power: 1 / (1 / a - u * (1 / a - 1 / b)),  # s^(-2)
    "arccos": lambda u, a, b, power: a + (b - a) * jnp.arccos(1 - 2 * u) / jnp.pi,  # sin(pi (s - a) / (b - a))
}
NEEDS_POSITIVE_MIN = ("inv", "inv_1p5", "inv_sq")


def check_distribution(distribution: str, sigma_min: float, sigma_max: float, power: float = 7.0) -> None:
    """Raises InputError unless the distribution is known and its range is usable."""
    if distribution not in QUANTILES:
        close = difflib.get_close_matches(distribution, list(QUANTILES), n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InputError(f"noise.distribution {distribution!r} is unknown{hint} Known: {', '.join(QUANTILES)}.")
    if not 0 <= sigma_min < sigma_max < float("inf"):
        raise InputError(f"noise levels need 0 <= noise.sigma_min < noise.sigma_max; got {sigma_min} and {sigma_max}.")
    if distribution in NEEDS_POSITIVE_MIN and sigma_min == 0:
        raise InputError(
            f"noise.distribution {distribution!r} needs noise.sigma_min > 0 (for example 1/255 = 0.0039); got 0."
        )
    if power <= 0:
        raise InputError(f"noise.power must be positive; got {power}.")


def noise_levels(
    uniform: Float[Array, "*n"],
    distribution: str = "inv_sqrt",
    sigma_min: float = 0.0,
    sigma_max: float = 1.0,
    power: float = 7.0,
) -> Float[Array, "*n"]:
    """Noise levels from uniform random numbers, by the quantile function of the distribution.

    With [a, b] = [sigma_min, sigma_max], the densities on it are proportional to
    uniform: 1; inv_sqrt: s^(-1/2) (the paper's choice: more small noise); power_law: s^(1/power - 1); inv: 1/s;
    inv_1p5: s^(-3/2); inv_sq: s^(-2); arccos: sin(pi (s - a)/(b - a)).

    Args:
      uniform: numbers in [0, 1).
      distribution: a key of `QUANTILES`; the three inverse ones need sigma_min > 0.
      sigma_min, sigma_max: range, in intensity units.
      power: exponent of power_law, published default 7; the others ignore it.
    """
    return QUANTILES[distribution](uniform, sigma_min, sigma_max, power)


def image_keys(key: Key[Array, ""], index: Int[Array | np.ndarray, " b"]) -> Key[Array, " b"]:
    """One key per image, from its index in the whole batch: the same however the batch is split over devices."""
    return jax.vmap(lambda i: jax.random.fold_in(key, i))(index)


def level_key(key: Key[Array, ""], sigma: Float[Array, ""]) -> Key[Array, ""]:
    """A key for one noise level, from the level's own bits: the same level gives the same noise in any grid of levels."""
    return jax.random.fold_in(key, jax.lax.bitcast_convert_type(jnp.asarray(sigma, jnp.float32), jnp.uint32))


def add_noise(
    keys: Key[Array, " b"], images: Float[Array, "b h w c"], sigma: Float[Array, " b"] | Float[Array, ""] | float
) -> Float[Array, "b h w c"]:
    """x + sigma z, with z ~ N(0, I) drawn for each image from its own key. Nothing is clipped."""
    noise = jax.vmap(lambda key: jax.random.normal(key, images.shape[1:], images.dtype))(keys)
    return images + jnp.reshape(jnp.asarray(sigma, images.dtype), (-1, 1, 1, 1)) * noise


def to_unit(images: Array | np.ndarray) -> Float[Array, "*shape"]:
    """uint8 intensities 0..255 -> float32 in [0, 1]; floating-point images pass unchanged."""
    return jnp.asarray(images, jnp.float32) / (255 if images.dtype == jnp.uint8 else 1)


def psnr(estimate: Float[Array, "b h w c"], clean: Float[Array, "b h w c"]) -> Float[Array, " b"]:
    """Peak signal-to-noise ratio of each image in dB: -10 log10(mean squared error), peak 1, nothing clipped."""
    return -10 * jnp.log10(jnp.mean((estimate - clean) ** 2, axis=(1, 2, 3)))
