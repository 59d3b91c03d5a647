"""The distance of densities where it is known (Gaussians, a linear representation), and the statistics of the embedding."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from unetrep_jax import densities
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.storage import InputError

SHAPE = (2, 2, 1)
random = np.random.default_rng(0)
MEANS = random.normal(0.5, 0.3, (2, 4))
ROOTS = random.normal(0, 0.25, (2, 4, 4)) + 0.2 * np.eye(4)
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1)


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of this file's time is XLA's; no test here measures speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def divergence(means, covariances, sigma):
    """KL(1 || 2) + KL(2 || 1) of two Gaussians blurred by noise of level sigma."""
    first, second = (c + sigma**2 * np.eye(len(c)) for c in covariances)
    difference = means[0] - means[1]
    inverse = np.linalg.inv(first), np.linalg.inv(second)
    quadratic = difference @ (inverse[0] + inverse[1]) @ difference
    return (np.trace(inverse[1] @ first + inverse[0] @ second) - 2 * len(difference) + quadratic) / 2


def exact(means, covariances, lowest, highest):
    """d^2 over a finite range of levels: by de Bruijn's identity a difference of divergences."""
    return divergence(means, covariances, lowest) - divergence(means, covariances, highest)


def gaussian(mean, covariance):
    """E[x | y] for x ~ N(mean, covariance)."""

    def denoise(images, sigma):
        gain = jnp.asarray(covariance, jnp.float32) @ jnp.linalg.inv(covariance + sigma**2 * jnp.eye(4))
        centred = images.reshape(-1, 4) - jnp.asarray(mean, jnp.float32)[None]
        return (jnp.asarray(mean, jnp.float32)[None] + centred @ gain.T).reshape(images.shape)

    return denoise


def samples_of(mean, root, key, count):
    return (mean[None] + jax.random.normal(key, (count, 4)) @ root.T).reshape(count, *SHAPE).astype(jnp.float32)


def levels(count, lowest=0.05, highest=1.0):
    return np.geomspace(lowest, highest, count)


LEVELS = levels(41)


@functools.partial(jax.jit, static_argnames="count")
@functools.partial(jax.vmap, in_axes=(0, None))
def parts_of(key, count):
    """Contributions for two Gaussians of unlike covariances."""
    of_samples, of_noise = jax.random.split(key)
    first, second = jax.random.split(of_samples)
    return densities.contributions(
        *(gaussian(m, c) for m, c in zip(MEANS, COVARIANCES, strict=True)),
        samples_of(MEANS[0], ROOTS[0], first, count),
        samples_of(MEANS[1], ROOTS[1], second, count),
        jax.random.split(of_noise, count),
        LEVELS,
    )


def integrand(means, covariances, sigmas):
    """The exact E_1 c + E_2 c at each level, as parts of one sample of each density."""
    step = 1e-4
    of_log = [
        divergence(means, covariances, s * np.exp(-step)) - divergence(means, covariances, s * np.exp(step))
        for s in sigmas
    ]
    return np.stack([np.asarray(of_log) / (4 * step)] * 2)[:, :, None]


def test_gaussians_of_one_covariance_give_the_closed_form_without_any_spread():
    covariance, difference = COVARIANCES[0], MEANS[0] - MEANS[1]
    identity = np.eye(4)
    closed = (
        difference
        @ (np.linalg.inv(covariance + 0.05**2 * identity) - np.linalg.inv(covariance + identity))
        @ difference
    )
    assert exact(MEANS, [covariance] * 2, 0.05, 1) == pytest.approx(closed)
    samples = [samples_of(mean, ROOTS[0], jax.random.key(k), 3) for k, mean in enumerate(MEANS)]
    found = densities.distance(
        *(gaussian(mean, covariance) for mean in MEANS), *samples, jax.random.split(jax.random.key(2), 3), sigmas=LEVELS
    )
    assert found.value == pytest.approx(
        closed, rel=2e-3
    )  # the scores differ by a constant: quadrature is all the error
    assert found.error < 1e-3 * found.value
    assert found.by_level == pytest.approx(integrand(MEANS, [covariance] * 2, LEVELS).sum((0, 2)), rel=1e-3)


def test_gaussians_of_unlike_covariances_give_the_difference_of_divergences():
    parts = np.asarray(parts_of(jax.random.split(jax.random.key(1), 1), 20_000))[0]
    found, closed = densities.integrate(parts, LEVELS), exact(MEANS, COVARIANCES, 0.05, 1)
    assert found.value == pytest.approx(closed, abs=4 * found.error)
    assert 0 < found.error < 0.02 * closed


def test_the_estimate_is_unbiased_from_two_samples_on_and_its_error_falls_as_their_root():
    closed = exact(MEANS, COVARIANCES, 0.05, 1)
    spreads, repeats = [], 500
    parts = np.asarray(parts_of(jax.random.split(jax.random.key(0), repeats), 32))
    for count in (2, 8, 32):
        found = densities.integrate(parts[..., :count], LEVELS)
        spreads.append(found.value.std(ddof=1))
        assert found.value.mean() == pytest.approx(closed, abs=4 * spreads[-1] / repeats**0.5)
        # The squared standard error is an unbiased estimate of the variance over repetitions.
        assert np.mean(found.error**2) == pytest.approx(spreads[-1] ** 2, rel=0.25)
    assert np.divide(spreads[:-1], spreads[1:]) == pytest.approx(2, rel=0.2)


def test_quadrature_in_log_sigma_is_of_second_order_and_beats_that_in_sigma():
    closed = exact(MEANS, COVARIANCES, 0.05, 1)
    errors, plain = [], []
    for count in (5, 9, 17, 33, 65):
        sigmas = levels(count)
        parts = integrand(MEANS, COVARIANCES, sigmas)
        errors.append(abs(densities.integrate(parts, sigmas).value / closed - 1))
        plain.append(abs(np.trapezoid(parts.sum((0, 2)) / sigmas, sigmas) / closed - 1))
    orders = np.log2(np.divide(errors[1:-1], errors[2:]))
    assert orders == pytest.approx(2, abs=0.15)
    assert (np.array(errors) < 0.6 * np.array(plain)).all()


def test_over_all_levels_it_is_the_symmetric_divergence_and_the_squared_mahalanobis_distance():
    for covariances in (COVARIANCES, [COVARIANCES[0]] * 2):
        whole = divergence(MEANS, covariances, 0)
        gaps = []
        for reach in (10, 100, 1000):
            sigmas = levels(200, 1 / reach / 10, reach)
            gaps.append(abs(densities.integrate(integrand(MEANS, covariances, sigmas), sigmas).value / whole - 1))
        assert gaps[0] > gaps[1] > gaps[2] and gaps[2] < 1e-3
    difference = MEANS[0] - MEANS[1]
    assert whole == pytest.approx(difference @ np.linalg.inv(COVARIANCES[0]) @ difference)


def test_a_sample_contributes_the_same_in_any_company():
    samples = [samples_of(mean, ROOTS[0], jax.random.key(k), 5) for k, mean in enumerate(MEANS)]
    keys = jax.random.split(jax.random.key(2), 5)
    denoise = [gaussian(m, c) for m, c in zip(MEANS, COVARIANCES, strict=True)]
    whole = densities.contributions(*denoise, *samples, keys, LEVELS[:3])
    part = densities.contributions(*denoise, *(s[3:] for s in samples), keys[3:], LEVELS[:3])
    np.testing.assert_allclose(part, whole[:, :, 3:], rtol=1e-5)
    assert len(np.unique(np.asarray(whole))) == whole.size  # noise of their own everywhere


# Matching

ROWS = random.normal(size=(2, 4))


def linear_denoiser():
    """phi = two linear functions of the pixels; denoising keeps half of y."""
    return Denoiser(
        lambda y: y / 2, lambda y: {}, lambda y: y.reshape(len(y), 4) @ jnp.asarray(ROWS.T, jnp.float32), ()
    )


def matched_distances(differences, matching, scale=1.0):
    """By matching to phi = 0 and to others, over two levels."""
    sigmas = np.array([0.5, 1.0])
    count = len(differences)
    samples = jax.random.normal(jax.random.key(3), (count, *SHAPE))
    denoiser = linear_denoiser()
    denoiser = denoiser._replace(represent=lambda y: scale * linear_denoiser().represent(y))
    denoise = [
        densities.conditional_denoise(denoiser, target, matching)
        for target in (jnp.zeros((count, 2)), scale * jnp.asarray(differences, jnp.float32))
    ]
    keys = jax.random.split(jax.random.key(4), count)
    parts = densities.contributions(*denoise, samples, samples, keys, sigmas)
    return np.array([densities.integrate(np.asarray(parts[:, :, k : k + 1]), sigmas).value for k in range(count)])


@pytest.mark.parametrize("scale", [1.0, 1e-6])
def test_for_a_linear_representation_matching_is_the_nearest_image_of_that_phi_at_any_scale(scale):
    differences = np.array([[0.1, 0.0], [0.0, 0.4], [1.0, -1.0]])
    found = matched_distances(differences, densities.Matching(updates=200, tolerance=0.0), scale)
    moves = (differences @ np.linalg.pinv(ROWS).T / 2) ** 2  # half of the shortest way between the two sets of images
    weights = densities.log_weights(np.array([0.5, 1.0])) / np.array([0.25, 1.0])
    assert found == pytest.approx(2 * weights.sum() * moves.sum(1), rel=0.01)


def test_equal_targets_are_no_distance_apart_and_a_matched_image_is_not_moved():
    assert matched_distances(np.zeros((2, 2)), densities.Matching(updates=3)).max() == 0
    images = jnp.ones((1, *SHAPE))
    there = densities.conditional_denoise(linear_denoiser(), linear_denoiser().represent(images))
    np.testing.assert_array_equal(there(images, jnp.float32(1)), images / 2)


def test_a_target_may_depend_on_the_level():
    fixed = densities.conditional_denoise(linear_denoiser(), jnp.full((1, 2), 0.5))
    moving = densities.conditional_denoise(linear_denoiser(), lambda sigma: jnp.full((1, 2), sigma))
    images = jnp.ones((1, *SHAPE))
    np.testing.assert_array_equal(fixed(images, jnp.float32(0.5)), moving(images, jnp.float32(0.5)))
    assert abs(fixed(images, jnp.float32(0.1)) - moving(images, jnp.float32(0.1))).max() > 0


def test_levels_and_samples_that_cannot_be_used_are_refused():
    images, keys = jnp.zeros((2, *SHAPE)), jax.random.split(jax.random.key(0), 2)
    same = gaussian(MEANS[0], COVARIANCES[0])
    for sigmas in ([0.1], [0.0, 1.0], [1.0, 0.5], [0.5, 0.5], [0.5, np.nan]):
        with pytest.raises(InputError, match="two or more, rising"):
            densities.distance(same, same, images, images, keys, sigmas=np.array(sigmas))
    with pytest.raises(InputError, match="give as many"):
        densities.distance(same, same, images, images[:1], keys, sigmas=LEVELS)


# The embedding


def test_the_band_of_a_proportional_distance_is_a_line_and_its_noise_widens_it():
    squares = np.geomspace(0.01, 10, 50)
    line = densities.band(squares, 3 * squares)
    assert line == pytest.approx((3, 3, 1, 1, 1, 1))
    noisy = 3 * squares * np.exp(random.normal(0, 0.2, 50))
    band = densities.band(squares, noisy)
    ratios = noisy / squares
    assert (band.low, band.high, band.ratio) == pytest.approx((ratios.min(), ratios.max(), ratios.max() / ratios.min()))
    assert band.middle == pytest.approx(np.quantile(ratios, 0.95) / np.quantile(ratios, 0.05), rel=0.05)
    assert band.spearman == pytest.approx(stats.spearmanr(squares, noisy).statistic)
    assert band.slope == pytest.approx(stats.linregress(np.log(squares), np.log(noisy)).slope)
    expected = densities.ratio_by_noise(noisy, 0.2 * noisy, seed=0)
    assert expected == pytest.approx(np.exp(0.2 * 4.5), rel=0.1)  # the range of 50 normal numbers is 4.5 on average
    assert densities.ratio_by_noise(noisy, 0 * noisy, seed=0) == 1


def test_bands_of_many_sets_are_those_of_each_with_ties_too():
    squares, distances = np.exp(random.integers(0, 4, (3, 12)).astype(float)), np.exp(random.normal(size=(3, 12)))
    many = densities.band(squares, distances)
    for k in range(3):
        np.testing.assert_allclose([field[k] for field in many], densities.band(squares[k], distances[k]))
        assert many.spearman[k] == pytest.approx(stats.spearmanr(squares[k], distances[k]).statistic)


def test_intervals_hold_the_estimate_and_the_null_has_no_correlation():
    squares = np.geomspace(0.01, 10, 60)
    distances = squares**0.8 * np.exp(random.normal(0, 0.5, 60))
    band = densities.band(squares, distances)
    interval = densities.bootstrap_band(squares, distances, seed=1)
    null = densities.permuted_band(squares, distances, seed=1)
    for name in ("middle", "spearman", "slope"):
        low, high = interval[name]
        assert low < getattr(band, name) < high
    assert interval.keys() == {"middle", "spearman", "slope"}  # none of extremes
    assert null.spearman == pytest.approx([-0.25, 0, 0.25], abs=0.05)  # 1.96 / sqrt(59)
    assert null.slope[1] == pytest.approx(0, abs=0.05) and null.ratio[0] > 10 * band.ratio
    again = densities.bootstrap_band(squares, distances, seed=1)
    for name, ends in interval.items():
        np.testing.assert_array_equal(again[name], ends)


def test_extremes_of_random_halves_are_those_of_all_halves():
    squares = np.geomspace(0.01, 10, 9)
    ratios = random.permutation(np.arange(1.0, 10)) ** 2
    found = densities.band_of_halves(squares, ratios * squares, seed=0, draws=4000)
    halves = np.array(list(itertools.combinations(ratios, 5)))
    low, high = halves.min(1), halves.max(1)
    np.testing.assert_allclose(found["low"], np.quantile(low, (0.025, 0.5, 0.975)))  # 1, 1, 16: far from the jumps
    np.testing.assert_allclose(found["high"], np.quantile(high, (0.025, 0.5, 0.975)))
    np.testing.assert_allclose(found["ratio"], np.quantile(high / low, (0.025, 0.5, 0.975)), rtol=0.3)
    band = densities.band(squares, ratios * squares)
    assert band.low <= found["low"][0] * (1 + 1e-9) and found["high"][2] <= band.high * (1 + 1e-9)
    assert found["ratio"][2] <= band.ratio * (1 + 1e-9)
    line = densities.band_of_halves(squares, 3 * squares, seed=0, draws=10)
    for name, expected in {"low": 3, "high": 3, "ratio": 1}.items():
        np.testing.assert_allclose(line[name], expected)


def test_the_interval_of_the_slope_covers_it_as_often_as_it_says():
    squares, covered = np.geomspace(0.01, 10, 40), 0
    for seed in range(100):
        noise = np.random.default_rng(seed).normal(0, 0.4, 40)
        low, high = densities.bootstrap_band(squares, squares * np.exp(noise), seed=seed, draws=400)["slope"]
        covered += low < 1 < high
    assert 86 <= covered <= 100


def test_pairs_are_spread_evenly_over_log_distance_and_share_no_image_where_there_are_enough():
    random = np.random.default_rng(0)
    candidates = np.unique(np.sort(random.integers(0, 400, (5000, 2)), axis=1), axis=0)
    candidates = candidates[candidates[:, 0] < candidates[:, 1]]
    squares = np.exp(random.normal(0, 1, len(candidates)))  # most near 1, few at the ends
    taken = densities.spread_pairs(candidates, squares, 50)
    logs = np.sort(np.log(squares[taken]))
    np.testing.assert_allclose(logs, np.linspace(np.log(squares.min()), np.log(squares.max()), 50), atol=0.45)
    assert len(np.unique(candidates[taken])) >= 98
    crowded = densities.spread_pairs(candidates[:60], squares[:60], 60)
    assert sorted(crowded) == list(range(60))
    assert densities.spread_pairs(candidates, squares, 1)[0] == squares.argmin()
