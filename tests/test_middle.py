"""What the middle block is worth, on a denoiser that is nothing but its middle block."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unetrep_jax import middle, noise, training

SIGMAS = np.float32([0.1, 0.5])


def images(count):
    return np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3)).astype(np.uint8)


def measured(batch_size, count=7, first=0, **how):
    """The denoiser says a constant: the image's mean colour, which is all that its middle block reads."""
    read = lambda scale, y: scale * y.mean(axis=(1, 2), keepdims=True)  # noqa: E731
    measure = middle.psnr_held(
        read, lambda scale, y, given: jnp.broadcast_to(given / scale, y.shape), seed=3, batch_size=batch_size
    )
    return measure(jnp.float32(2), images(count), np.arange(first, first + count), SIGMAS, **how)


def test_an_image_is_denoised_with_the_mean_over_all_others_at_its_level():
    told = []
    found = measured(batch_size=3, first=5, done=told.append)
    clean = np.float32(images(7)) / 255
    for level, sigma in enumerate(SIGMAS):
        keys = noise.image_keys(noise.level_key(jax.random.key(3), jnp.float32(sigma)), jnp.arange(5, 12))
        means = np.asarray(noise.add_noise(keys, jnp.asarray(clean), jnp.float32(sigma))).mean(axis=(1, 2))
        for image in range(7):
            others = np.delete(means, image, axis=0).mean(axis=0)
            expected = -10 * np.log10(np.mean((clean[image] - others) ** 2))
            assert found[image, level] == pytest.approx(expected, abs=1e-3)
    assert sum(told) == 2 * 7 * len(SIGMAS)


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_batches_take_no_part(batch_size):
    np.testing.assert_allclose(measured(batch_size), measured(7), atol=1e-4)


def test_of_one_image_nothing_is_said():
    clean = np.float32(images(1)) / 255
    np.testing.assert_allclose(measured(1, count=1), np.full((1, 2), -10 * np.log10(np.mean(clean**2))), atol=1e-4)


def test_with_what_others_say_alike_nothing_is_lost():
    """A middle block that says the same of every image."""
    constant = lambda _, y: jnp.full((len(y), 1, 1, 3), 0.25)  # noqa: E731
    denoise = lambda _, y, given: y * given  # noqa: E731
    held = middle.psnr_held(constant, denoise, seed=0, batch_size=2)(jnp.zeros(()), images(5), np.arange(5), SIGMAS)
    whole = training.psnr_step(lambda _, y, sigma: y / 4, seed=0)
    rows = (jnp.asarray(images(5)), jnp.arange(5, dtype=jnp.int32))
    np.testing.assert_allclose(held, whole((jnp.zeros(()), jnp.asarray(SIGMAS)), rows)[0], atol=1e-4)
