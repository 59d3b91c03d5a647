"""Noise levels against their closed-form distribution functions; noise, keys and PSNR against their definitions."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unetrep_jax import noise
from unetrep_jax.storage import InputError

LOW, HIGH, POWER = 0.02, 0.9, 5.0

# Distribution functions F(s) = P(level <= s), integrated from the densities by hand: independent of the quantile functions.
DISTRIBUTION_FUNCTIONS = {
    "uniform": lambda s: (s - LOW) / (HIGH - LOW),
    "inv_sqrt": lambda s: (s**0.5 - LOW**0.5) / (HIGH**0.5 - LOW**0.5),
    "power_law": lambda s: (s ** (1 / POWER) - LOW ** (1 / POWER)) / (HIGH ** (1 / POWER) - LOW ** (1 / POWER)),
    "inv": lambda s: np.log(s / LOW) / np.log(HIGH / LOW),
    "inv_1p5": lambda s: (LOW**-0.5 - s**-0.5) / (LOW**-0.5 - HIGH**-0.5),
    "inv_sq": lambda s: (1 / LOW - 1 / s) / (1 / LOW - 1 / HIGH),
    "arccos": lambda s: (1 - np.cos(np.pi * (s - LOW) / (HIGH - LOW))) / 2,
}


def test_every_distribution_is_tested():
    assert set(DISTRIBUTION_FUNCTIONS) == set(noise.QUANTILES)


@pytest.mark.parametrize("name", noise.QUANTILES)
def test_levels_follow_the_closed_form_distribution_function(name):
    uniform = jax.random.uniform(jax.random.key(0), (20_000,))
    levels = np.asarray(noise.noise_levels(uniform, name, LOW, HIGH, POWER), np.float64)
    assert levels.min() >= LOW * (1 - 1e-5) and levels.max() <= HIGH * (1 + 1e-5)
    np.testing.assert_allclose(DISTRIBUTION_FUNCTIONS[name](levels), uniform, atol=1e-4)
    assert stats.kstest(levels, DISTRIBUTION_FUNCTIONS[name]).pvalue > 1e-3


@pytest.mark.parametrize("name", [n for n in noise.QUANTILES if n not in noise.NEEDS_POSITIVE_MIN])
def test_the_published_range_from_zero_gives_finite_levels(name):
    levels = noise.noise_levels(jnp.array([0.0, 0.5, 1.0]), name, 0.0, 1.0)
    chex.assert_tree_all_finite(levels)
    chex.assert_trees_all_close(levels[jnp.array([0, 2])], jnp.array([0.0, 1.0]), atol=1e-6)


def test_the_papers_distribution_is_the_square_of_a_uniform_between_zero_and_one():
    uniform = jnp.linspace(0, 1, 11)
    chex.assert_trees_all_close(noise.noise_levels(uniform), uniform**2, rtol=1e-6)


def test_power_two_is_the_inverse_square_root_distribution():
    uniform = jnp.linspace(0, 1, 11)
    chex.assert_trees_all_close(
        noise.noise_levels(uniform, "power_law", 0.1, 0.8, 2.0),
        noise.noise_levels(uniform, "inv_sqrt", 0.1, 0.8),
        rtol=1e-5,
    )


def test_added_noise_has_the_level_asked_for_and_is_white_and_normal():
    keys = noise.image_keys(jax.random.key(1), jnp.arange(3))
    clean = jnp.full((3, 64, 64, 3), 0.5)
    added = np.asarray(noise.add_noise(keys, clean, jnp.array([0.1, 0.2, 3.0])) - 0.5)
    for image, sigma in zip(added, (0.1, 0.2, 3.0), strict=True):
        assert stats.kstest(image.ravel() / sigma, "norm").pvalue > 1e-3
        assert abs(np.corrcoef(image[:, :-1].ravel(), image[:, 1:].ravel())[0, 1]) < 0.04
    assert abs(np.corrcoef(added[0].ravel(), added[1].ravel())[0, 1]) < 0.04


def test_an_images_noise_depends_on_its_index_and_not_on_its_batch():
    clean = jnp.zeros((4, 8, 8, 1))
    key = jax.random.key(5)
    whole = noise.add_noise(noise.image_keys(key, jnp.arange(4)), clean, 1.0)
    part = noise.add_noise(noise.image_keys(key, jnp.array([2, 3])), clean[2:], 1.0)
    chex.assert_trees_all_equal(whole[2:], part)


def test_a_levels_key_is_the_levels_own():
    key = jax.random.key(0)
    keys = [jax.random.key_data(noise.level_key(key, jnp.float32(s))).tolist() for s in (0.1, 0.2, 0.1)]
    assert keys[0] == keys[2] != keys[1]


def test_psnr_of_a_constant_error_is_twenty_log_ten_of_it():
    clean = jnp.zeros((2, 8, 8, 3))
    estimate = clean + jnp.array([0.1, 2.0]).reshape(2, 1, 1, 1)
    chex.assert_trees_all_close(noise.psnr(estimate, clean), jnp.array([20.0, -6.0206]), rtol=1e-5)


def test_bytes_become_intensities_from_zero_to_one():
    chex.assert_trees_all_close(noise.to_unit(np.array([0, 51, 255], np.uint8)), jnp.array([0.0, 0.2, 1.0]))
    chex.assert_trees_all_close(noise.to_unit(jnp.array([0.3, -1.0])), jnp.array([0.3, -1.0]))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (("inv_sqr", 0.0, 1.0), "did you mean 'inv_sqrt'"),
        (("uniform", 0.5, 0.5), "sigma_min < noise.sigma_max"),
        (("uniform", -0.1, 0.5), "0 <= noise.sigma_min"),
        (("inv", 0.0, 1.0), "sigma_min > 0"),
        (("power_law", 0.0, 1.0, 0.0), "must be positive"),
    ],
)
def test_distributions_that_cannot_be_drawn_from_are_refused(settings, words):
    with pytest.raises(InputError, match=words):
        noise.check_distribution(*settings)
