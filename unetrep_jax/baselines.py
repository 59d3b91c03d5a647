"""Denoisers in closed form, to hold against trained ones: the Wiener filter."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float, UInt8

from unetrep_jax.storage import InputError


class Spectrum(NamedTuple):
    """First two moments of stationary images.

    Attributes:
      mean: mean colour, intensities in [0, 1].
      power: at each frequency of the orthonormal 2-D DFT, in its usual order (zero first), the covariance matrix of the
        colour channels' coefficients; Hermitian, positive semi-definite. Averaged over frequencies, its diagonal is
        the variance of each channel per pixel.
    """

    mean: Float[Array, "c"]
    power: Complex[Array, "h w c c"]


def mean_and_spectrum(
    images: Float[Array | np.ndarray, "n h w c"] | UInt8[Array | np.ndarray, "n h w c"], batch: int = 256
) -> Spectrum:
    """Mean colour and mean power spectrum of images, read in batches (a memory map is never loaded as a whole).

        S(u) = (1/n) sum_i F_i(u) F_i(u)^H,    F_i = orthonormal 2-D DFT of (image i - mean colour)

    Args:
      images: intensities in [0, 1], or uint8, of which 255 counts as 1.
      batch: images transformed at once.
    """
    count, height, width, channels = images.shape
    power = np.zeros((height, width, channels, channels), np.complex128)
    total = np.zeros(channels)
    for start in range(0, count, batch):
        added_total, added_power = jax.device_get(_sums(jnp.asarray(images[start : start + batch])))
        total += added_total
        power += added_power  # in double precision, on the host
    offset, power = total / count, power / count
    power[0, 0] -= height * width * np.outer(offset, offset)  # removing a constant changes the zero frequency alone
    return Spectrum(jnp.asarray(offset + _GREY, jnp.float32), jnp.asarray(power, jnp.complex64))


_GREY = 0.5  # taken off before summing, so that the zero frequency keeps its digits


@jax.jit
def _sums(images):
    """Sums over images of (image - grey), averaged over pixels, and of its cross-spectral matrices."""
    scale = 255 if images.dtype == jnp.uint8 else 1
    images = images.astype(jnp.float32) / scale - _GREY
    coefficients = jnp.fft.fft2(images, axes=(1, 2), norm="ortho")
    return images.mean((1, 2)).sum(0), jnp.einsum("nhwc,nhwd->hwcd", coefficients, coefficients.conj())


def wiener(
    spectrum: Spectrum,
    noisy: Float[Array | np.ndarray, "*b h w c"],
    sigma: Float[Array, ""] | float,
    channelwise: bool = False,
) -> Float[Array, "*b h w c"]:
    r"""Wiener filter: the best linear shift-invariant denoiser that knows the noise level.

        F[x_hat - mean](u) = S(u) (S(u) + sigma^2 I)^-1 F[noisy - mean](u)        at every frequency u

    It is E[x | noisy] for stationary Gaussian images with periodic borders. Its squared error, summed over pixels and
    channels, is then sum_u trace(sigma^2 S (S + sigma^2 I)^-1): a sigma^2 / (a + sigma^2) for each coefficient of
    variance a (Kadkhodaie, Guth, Simoncelli & Mallat, ICLR 2024, arXiv 2310.02557).
    The identity as sigma -> 0, the mean colour as sigma -> infinity.

    Args:
      spectrum: moments of the clean images, as `mean_and_spectrum` gives them, of the same size.
      noisy: images plus white Gaussian noise.
      sigma: standard deviation of the noise, in units of intensity; one for all images (`jax.vmap` for one each).
      channelwise: filter each colour channel by its own spectrum (the textbook filter), ignoring what the others tell.

    Raises:
      InputError: image size or channels are not those of the spectrum.
    """
    height, width, channels = spectrum.power.shape[:3]
    if noisy.shape[-3:] != (height, width, channels):
        raise InputError(
            f"Wiener filter for images of {height}x{width}x{channels} got {'x'.join(map(str, noisy.shape[-3:]))}: "
            "measure the spectrum on images of that size"
        )
    mean = spectrum.mean.reshape((1,) * (noisy.ndim - 1) + (channels,))
    coefficients = jnp.fft.fft2(noisy - mean, axes=(-3, -2), norm="ortho")
    filtered = jnp.einsum("hwcd,...hwd->...hwc", _gain(spectrum.power, sigma, channelwise), coefficients)
    return mean + jnp.fft.ifft2(filtered, axes=(-3, -2), norm="ortho").real


def _gain(power, sigma, channelwise):
    """S (S + sigma^2 I)^-1, from the eigenvectors of S: defined at sigma = 0 for singular S too."""
    if channelwise:
        power = power * jnp.eye(power.shape[-1])[None, None]
    variance, axes = jnp.linalg.eigh(power)
    variance = jnp.maximum(variance, jnp.finfo(variance.dtype).tiny)
    shrinkage = variance / (variance + sigma**2)
    return jnp.einsum("hwce,hwe,hwde->hwcd", axes, shrinkage, axes.conj())
