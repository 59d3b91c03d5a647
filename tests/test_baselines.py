import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unetrep_jax.baselines import Spectrum, mean_and_spectrum, wiener
from unetrep_jax.storage import InputError


def stationary(size, channels, count, seed=0):
    """White noise passed through a random circular filter that mixes colours: (images, their exact spectrum)."""
    rng = np.random.default_rng(seed)
    kernel = rng.normal(size=(size, size, channels, channels)) * np.exp(-np.arange(size))[:, None, None, None]
    transfer = np.fft.fft2(0.1 * kernel, axes=(0, 1))
    white = np.fft.fft2(rng.normal(size=(count, size, size, channels)), axes=(1, 2))
    mean = np.linspace(0.4, 0.6, channels)
    images = np.fft.ifft2(np.einsum("hwcd,nhwd->nhwc", transfer, white), axes=(1, 2)).real + mean
    power = np.einsum("hwce,hwde->hwcd", transfer, transfer.conj())
    return images.astype(np.float32), Spectrum(jnp.asarray(mean, jnp.float32), jnp.asarray(power, jnp.complex64))


def noise(shape, seed=1):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def exact_error(power, sigma):
    """The filter's mean squared error per pixel and channel on stationary Gaussian images of this spectrum."""
    variance = np.linalg.eigvalsh(np.asarray(power, np.complex128))
    return np.mean(variance * sigma**2 / (variance + sigma**2))


# spectrum


def test_mean_and_spectrum_equal_their_definition_whatever_the_batch():
    images = np.random.default_rng(0).uniform(size=(7, 4, 6, 3)).astype(np.float32)
    mean = images.mean((0, 1, 2), dtype=np.float64)
    coefficients = np.fft.fft2(images - mean, axes=(1, 2), norm="ortho")
    expected = np.einsum("nhwc,nhwd->hwcd", coefficients, coefficients.conj()) / 7
    for batch in (2, 7, 100):
        found = mean_and_spectrum(images, batch)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-6)
        np.testing.assert_allclose(found.power, expected, atol=1e-6)


def test_the_spectrum_is_hermitian_and_positive_and_its_sum_is_the_variance():
    images, _ = stationary(8, 3, 50)
    power = np.asarray(mean_and_spectrum(images).power)
    np.testing.assert_allclose(power, power.conj().swapaxes(2, 3), atol=1e-7)
    assert np.linalg.eigvalsh(power).min() > 0
    variance = ((images - images.mean((0, 1, 2))) ** 2).mean((0, 1, 2))
    np.testing.assert_allclose(np.einsum("hwcc->c", power).real / 64, variance, rtol=1e-4)


def test_the_spectrum_of_stationary_images_is_found():
    images, exact = stationary(4, 2, 40_000)
    found = mean_and_spectrum(images)
    scale = np.sqrt(np.einsum("hwc,hwd->hwcd", *[np.einsum("hwcc->hwc", exact.power).real] * 2))
    np.testing.assert_allclose((found.power - exact.power) / scale, 0, atol=0.04)
    np.testing.assert_allclose(found.mean, exact.mean, atol=0.01)


def test_bytes_count_in_units_of_255():
    images = np.random.default_rng(1).integers(0, 256, size=(5, 4, 4, 3), dtype=np.uint8)
    for found, expected in zip(mean_and_spectrum(images), mean_and_spectrum(images / np.float32(255)), strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_equal_flat_images_have_no_power():
    found = mean_and_spectrum(np.full((3, 4, 4, 1), 0.9, np.float32))
    np.testing.assert_allclose(found.power, 0, atol=1e-6)


# Wiener filter


@pytest.mark.parametrize("sigma", [0.02, 0.3, 5.0])
def test_the_filter_equals_the_dense_conditional_mean_of_a_gaussian(sigma):
    images, spectrum = stationary(4, 2, 3)
    autocovariance = np.fft.ifft2(np.asarray(spectrum.power, np.complex128), axes=(0, 1)).real  # [dh dw c c]
    place = np.arange(4)
    shift = (place[:, None] - place[None]) % 4
    covariance = autocovariance[shift[:, None, :, None], shift[None, :, None, :]]  # [h w h' w' c c']
    covariance = covariance.transpose(0, 1, 4, 2, 3, 5).reshape(32, 32)
    noisy = images + sigma * noise(images.shape)
    mean = np.tile(np.asarray(spectrum.mean), 16)
    gain = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(32))
    expected = mean + (noisy.reshape(3, 32) - mean) @ gain.T
    np.testing.assert_allclose(wiener(spectrum, noisy, sigma).reshape(3, 32), expected, atol=2e-5)


@pytest.mark.parametrize("sigma", [0.05, 0.2, 1.0])
def test_its_error_on_stationary_gaussian_images_is_the_closed_form(sigma):
    images, spectrum = stationary(16, 3, 1000)
    noisy = images + sigma * noise(images.shape)
    error = np.mean((wiener(spectrum, noisy, sigma) - images) ** 2)
    np.testing.assert_allclose(error, exact_error(spectrum.power, sigma), rtol=0.01)
    assert error < sigma**2


def test_filtering_colours_jointly_beats_filtering_them_one_by_one():
    images, spectrum = stationary(8, 3, 1000)
    noisy = images + 0.2 * noise(images.shape)
    jointly, apart = (np.mean((wiener(spectrum, noisy, 0.2, channelwise=c) - images) ** 2) for c in (False, True))
    own = np.einsum("hwcc->hwc", np.asarray(spectrum.power)).real
    np.testing.assert_allclose(apart, np.mean(own * 0.04 / (own + 0.04)), rtol=0.02)
    assert jointly < 0.95 * apart


def test_the_channelwise_filter_is_the_grey_filter_of_each_channel():
    images, spectrum = stationary(8, 3, 4)
    together = wiener(spectrum, jnp.asarray(images), 0.3, channelwise=True)
    for c in range(3):
        alone = Spectrum(spectrum.mean[c : c + 1], spectrum.power[..., c : c + 1, c : c + 1])
        np.testing.assert_allclose(together[..., c : c + 1], wiener(alone, images[..., c : c + 1], 0.3), atol=1e-6)


def test_without_noise_the_filter_is_the_identity_even_where_there_is_no_power():
    images, spectrum = stationary(8, 3, 4)
    noisy = images + noise(images.shape)
    silent = spectrum._replace(power=spectrum.power.at[2:, :].set(0))
    for known in (spectrum, silent):
        np.testing.assert_allclose(wiener(known, noisy, 0.0), noisy, atol=1e-5)
    np.testing.assert_allclose(wiener(spectrum, noisy, 1e-5), noisy, atol=1e-4)


def test_under_endless_noise_the_filter_is_the_mean_colour():
    images, spectrum = stationary(8, 3, 4)
    expected = np.broadcast_to(spectrum.mean, images.shape)
    np.testing.assert_allclose(wiener(spectrum, images, np.inf), expected, atol=1e-7)
    np.testing.assert_allclose(wiener(spectrum, images, 1e4), expected, atol=1e-4)


def test_grey_pictures_stored_in_colour_come_back_grey():
    images, _ = stationary(8, 1, 200)
    coloured = np.repeat(images, 3, axis=-1)  # a singular spectrum at every frequency
    denoised = np.asarray(wiener(mean_and_spectrum(coloured), coloured + 0.1 * noise(coloured.shape), 0.1))
    np.testing.assert_allclose(denoised, denoised[..., :1].repeat(3, -1), atol=1e-4)


def test_the_filter_commutes_with_circular_shifts():
    images, spectrum = stationary(8, 2, 3)
    rolled = wiener(spectrum, np.roll(images, (3, 5), (1, 2)), 0.2)
    np.testing.assert_allclose(rolled, np.roll(wiener(spectrum, images, 0.2), (3, 5), (1, 2)), atol=1e-6)


def test_the_filter_works_under_jit_for_one_image_and_for_one_level_an_image():
    images, spectrum = stationary(8, 3, 3)
    levels = jnp.array([0.1, 0.2, 0.4])
    expected = [wiener(spectrum, image, float(level)) for image, level in zip(images, levels, strict=True)]
    filtered = jax.jit(jax.vmap(wiener, (None, 0, 0)))(spectrum, jnp.asarray(images), levels)
    np.testing.assert_allclose(filtered, np.stack(expected), atol=1e-5)


def test_images_of_another_size_are_refused_with_both_sizes():
    _, spectrum = stationary(8, 3, 1)
    with pytest.raises(InputError, match="8x8x3 got 16x16x3"):
        wiener(spectrum, jnp.zeros((1, 16, 16, 3)), 0.1)
