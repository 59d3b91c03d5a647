"""The blind sampler on denoisers with closed-form answers: one image, a Gaussian on a subspace, two images; no network.

Notation: sigma^2 a noise variance per pixel, g^2 = h (1 - beta) (2 - h (1 + beta)) the share of it that a step puts back: what is
left after r is taken away has variance (1 - h)^2 sigma^2, and (1 - h)^2 + g^2 = (1 - beta h)^2.
"""

import itertools
import math
import re
from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unetrep_jax import sampling
from unetrep_jax.storage import InputError

BOTH = pytest.mark.parametrize("step_size", sampling.STEP_SIZES)
QUICK = pytest.mark.usefixtures("quick_compilation")


@pytest.fixture
def quick_compilation():
    """For tests whose programs run for less time than they compile, and need no last digit."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def put_back(h, beta):
    """g of the module's docstring, factored by hand so that nothing cancels."""
    return math.sqrt(h * (1 - beta) * (2 - h * (1 + beta)))


def steps_of(h0, step_size):
    """h_1, h_2, ... from their odds: those of the increasing step are t times the first, h / (1 - h) = t h0 / (1 - h0)."""
    for t in itertools.count(1):
        odds = h0 / (1 - h0) * (t if step_size == "increasing" else 1)
        yield odds / (1 + odds)


def random_image(seed, shape=(8, 8, 1)):
    return jnp.asarray(np.random.default_rng(seed).uniform(size=shape), jnp.float32)


def noise(key, shape, rms=None):
    """White noise; with `rms`, scaled to that level exactly."""
    z = jax.random.normal(key, shape)
    return z if rms is None else z * rms / jnp.sqrt(jnp.mean(z**2))


def one_image(image):
    """Exact denoiser of the prior that is one image."""
    return lambda y: jnp.broadcast_to(image, y.shape)


def gaussian(mean, basis, variances):
    """Blind Wiener filter of the prior N(mean, basis diag(variances) basis^T), basis [d k] orthonormal.

    In the d - k dimensions beside the subspace there is only noise: their mean square is the maximum-likelihood estimate of
    sigma^2 from them, with relative deviation sqrt(2 / (d - k)), and does not depend on what the subspace holds. Given sigma^2 the
    posterior mean shrinks coefficient i by variance_i / (variance_i + sigma^2). Works for numpy's arrays and for jax's.
    """
    d, k = basis.shape

    def denoise(y):
        away = (y - mean).reshape(d)
        inside = away @ basis
        beside = away - basis @ inside
        sigma2 = (beside**2).sum() / (d - k)
        return mean + (basis @ (inside * variances / (variances + sigma2))).reshape(mean.shape)

    return denoise


def two_images(first, second, weight):
    """Posterior mean for the prior that is `first` with probability `weight`, else `second`.

    Both lie on one line, at coordinates 1 and -1 from their midpoint; the d - 1 dimensions beside the line hold only noise and give
    sigma^2 as for the Gaussian. The posterior's log odds are log(w / (1 - w)) + 2 a^2 t / sigma^2, a half the distance.
    """
    middle, half = (first + second) / 2, (first - second) / 2
    square = jnp.sum(half**2)

    def denoise(y):
        away = y - middle
        t = jnp.sum(away * half) / square
        sigma2 = jnp.sum((away - t * half) ** 2) / (y.size - 1)
        odds = jax.nn.sigmoid(math.log(weight / (1 - weight)) + 2 * square * t / sigma2)
        return middle + half * (2 * odds - 1)

    return denoise


def subspace_prior(side, k):
    """(mean as an image, basis, variances) of a Gaussian whose axes are not those of the pixels.

    The mean lies half a deviation from 0.45, the usual start, along every axis of the subspace.
    """
    basis = np.linalg.qr(np.random.default_rng(side).normal(size=(side**2, k)))[0].astype(np.float32)
    variances = np.geomspace(0.3, 1.2, k).astype(np.float32)
    return (0.45 + basis @ (0.5 * np.sqrt(variances))).reshape(side, side, 1), basis, variances


def samples(denoise, mean, count, *, sigma_0, seed=0, **settings):
    """`count` samples from starts mean + sigma_0 z, each from its own key."""

    def sample(key):
        start_key, run_key = jax.random.split(key)
        start = mean + sigma_0 * jax.random.normal(start_key, mean.shape)
        return sampling.blind_sample(denoise, start, run_key, **settings)

    return jax.jit(jax.vmap(sample))(jax.random.split(jax.random.key(seed), count))


def levels(denoise, start, key, *, h, beta, steps):
    """Noise levels that `steps` single steps of the sampler see."""

    def step(state, _):
        state = sampling.blind_step(denoise, state, h=h, beta=beta)
        return state, state.sigma

    return jax.lax.scan(step, sampling.begin(start, key).state, length=steps)[1]


# One image


@QUICK
def test_without_added_noise_the_residual_of_one_image_shrinks_by_exactly_one_minus_h():
    image, h = random_image(0, (4, 4, 3)), 0.15
    step = jax.jit(partial(sampling.blind_step, one_image(image), h=h, beta=1.0))
    first = image - noise(jax.random.key(1), image.shape, rms=1)
    state = sampling.begin(first, jax.random.key(2)).state
    for t in range(1, 16):
        state = step(state)
        chex.assert_trees_all_close(image - state.image, (1 - h) ** t * (image - first), rtol=1e-5, atol=3e-7)
        # A state's level is that of the image before the update.
        assert float(state.sigma) == pytest.approx((1 - h) ** (t - 1), rel=1e-5)
        assert int(state.step) == t


@QUICK
@pytest.mark.parametrize(("h", "beta"), [(0.1, 0.05), (0.3, 0.5), (1.0, 0.2)])
def test_with_added_noise_the_residual_of_one_image_follows_the_closed_form_with_the_same_noise(h, beta):
    image = random_image(0, (4, 4, 3))
    step = jax.jit(partial(sampling.blind_step, one_image(image), h=h, beta=beta))
    state = sampling.begin(noise(jax.random.key(1), image.shape), jax.random.key(2)).state
    away = np.asarray(state.image - image, np.float64)
    key = state.key
    for _ in range(20):
        key, noise_key = jax.random.split(key)
        sigma = np.sqrt(np.mean(away**2))
        away = (1 - h) * away + sigma * put_back(h, beta) * np.asarray(jax.random.normal(noise_key, away.shape))
        state = step(state)
        np.testing.assert_allclose(state.image - image, away, rtol=1e-4, atol=1e-6)
        assert float(state.sigma) == pytest.approx(sigma, rel=1e-5)


@pytest.mark.parametrize(("h", "beta"), [(0.1, 0.05), (0.25, 0.05)])
def test_the_noise_level_of_one_image_falls_by_one_minus_beta_h_in_the_mean_and_varies_as_the_noise_does(h, beta):
    """sigma'^2 / sigma^2 = (1-h)^2 + 2 (1-h) g <e, z> / d + g^2 |z|^2 / d with |e|^2 = d, z ~ N(0, I)."""
    d, steps = 64**2, 600
    image = random_image(0, (64, 64, 1))
    start = image + noise(jax.random.key(1), image.shape, rms=3)
    run = jax.jit(partial(levels, one_image(image), h=h, beta=beta, steps=steps))
    sigma = np.asarray(run(start, jax.random.key(2)), np.float64)
    ratios = (sigma[1:] / sigma[:-1]) ** 2
    g = put_back(h, beta)
    deviation = math.sqrt((4 * (1 - h) ** 2 * g**2 + 2 * g**4) / d)
    assert abs(ratios.mean() - (1 - beta * h) ** 2) < 4 * deviation / math.sqrt(len(ratios))
    assert ratios.std() == pytest.approx(deviation, rel=4 / math.sqrt(2 * len(ratios)))


@QUICK
@pytest.mark.parametrize(
    ("step_size", "h0", "beta", "slack"),
    [("fixed", 0.1, 1.0, 0), ("increasing", 0.02, 1.0, 0), ("fixed", 0.1, 0.5, 2), ("increasing", 0.01, 0.5, 2)],
)
def test_a_run_takes_the_steps_that_its_factors_predict(step_size, h0, beta, slack):
    """The level falls from 3 to 0.04 when prod (1 - beta h_t) reaches 0.04 / 3; beta = 1 leaves nothing to chance."""
    image = random_image(0, (64, 64, 1))
    start = image + noise(jax.random.key(1), image.shape, rms=3)
    settings = {"h0": h0, "beta": beta, "sigma_end": 0.04, "step_size": step_size}
    sample = jax.jit(partial(sampling.blind_sample, one_image(image), **settings))(start, jax.random.key(2))
    falling = itertools.accumulate((1 - beta * h for h in steps_of(h0, step_size)), lambda a, b: a * b)
    expected = 1 + next(t for t, level in enumerate(falling) if 3 * level <= 0.04)
    assert abs(int(sample.steps) - expected) <= slack
    if step_size == "fixed":
        assert abs(expected - math.log(3 / 0.04) / -math.log(1 - beta * h0)) <= 1
    assert sample.stop == sampling.CONVERGED and 0 < sample.sigma <= 0.04
    chex.assert_trees_all_equal(sample.image, image)


# The step size


@pytest.mark.parametrize("h0", [0.001, 0.01, 0.3, 0.9])
def test_the_increasing_step_grows_from_h0_to_one_with_odds_in_proportion_to_the_step(h0):
    h = np.asarray(sampling.step_size_at(jnp.arange(1, 2001), h0, "increasing"), np.float64)
    np.testing.assert_allclose(h, list(itertools.islice(steps_of(h0, "increasing"), 2000)), rtol=1e-5)
    assert h[0] == pytest.approx(h0) and h.max() <= 1 + 1e-6
    assert float(sampling.step_size_at(jnp.int32(10**7), h0, "increasing")) == pytest.approx(1, abs=2e-4)


def test_the_increasing_step_by_hand():
    np.testing.assert_allclose(
        sampling.step_size_at(jnp.arange(1, 5), 0.1, "increasing"), [1 / 10, 2 / 11, 3 / 12, 4 / 13], rtol=1e-6
    )
    np.testing.assert_allclose(sampling.step_size_at(jnp.arange(1, 5), 1.0, "increasing"), np.ones(4), rtol=1e-6)


@BOTH
def test_a_step_may_be_counted_by_an_ordinary_number(step_size):
    for t, h in enumerate(itertools.islice(steps_of(0.07, step_size), 9), start=1):
        assert float(sampling.step_size_at(t, 0.07, step_size)) == pytest.approx(h, rel=1e-5)


def test_added_noise_makes_up_for_what_the_level_lost():
    """(1 - h)^2 + gamma^2 / sigma^2 = (1 - beta h)^2, over h and beta up to 1; float32 resolves squares of order one to 1e-6."""
    h, beta = np.meshgrid(np.linspace(0.01, 1, 34), np.linspace(0.01, 1, 34))
    gamma = jax.vmap(partial(sampling.added_noise, jnp.float32(2)))(
        jnp.asarray(h.ravel(), jnp.float32), jnp.asarray(beta.ravel(), jnp.float32)
    )
    np.testing.assert_allclose(gamma**2 / 4, (h * (1 - beta) * (2 - h * (1 + beta))).ravel(), atol=1e-6)


def test_beta_one_adds_no_noise_also_where_beta_is_an_argument_of_the_compiled_step():
    image = random_image(0)
    step = jax.jit(lambda state, h, beta: sampling.blind_step(one_image(image), state, h=h, beta=beta))
    state = sampling.begin(image + noise(jax.random.key(1), image.shape), jax.random.key(2)).state
    for h in np.linspace(0.01, 0.99, 40, dtype=np.float32):
        new = step(state, jnp.float32(h), jnp.float32(1))
        chex.assert_trees_all_close(new.image - image, (1 - h) * (state.image - image), atol=1e-6)


# A Gaussian on a subspace


def assert_moments_are_the_priors(found, prior, bias):
    """Mean and covariance of samples, in units of the prior's deviations along its axes.

    Standard errors with n samples on k axes: 1 / sqrt(n) for a mean and for a covariance of two axes, sqrt(2 / n) for a variance,
    sqrt(2 / (n k)) for the mean of the variances. 4.5 of them: some of 150 numbers reach 3.
    """
    mean, basis, variances = prior
    n, k = len(found), basis.shape[1]
    away = (np.asarray(found, np.float64) - mean).reshape(n, -1)
    inside = away @ basis
    np.testing.assert_allclose(away, inside @ basis.T, atol=1e-4)  # a denoised image lies on the subspace
    units = inside / np.sqrt(variances)
    covariance = units.T @ units / n
    assert np.abs(units.mean(0)).max() < 4.5 / math.sqrt(n) + 0.01
    assert np.abs(np.diag(covariance) - 1).max() < 4.5 * math.sqrt(2 / n) + bias
    assert np.abs(covariance - np.diag(np.diag(covariance))).max() < 4.5 / math.sqrt(n)
    assert abs(np.trace(covariance) / k - 1) < 4 * math.sqrt(2 / (n * k)) + bias


BIG = {"h": 0.05, "beta": 0.4, "sigma_0": 3.0, "sigma_end": 0.04, "count": 64}


@pytest.fixture(scope="module")
def big():
    """(prior, samples) in 4,096 dimensions, on a subspace of 16."""
    prior = subspace_prior(64, 16)
    settings = {"h0": BIG["h"], "beta": BIG["beta"], "sigma_end": BIG["sigma_end"], "sigma_0": BIG["sigma_0"]}
    return prior, samples(gaussian(*prior), jnp.full((64, 64, 1), 0.45), BIG["count"], **settings)


def falling_variances(prior, *, h, beta, sigma_0):
    """The level's square sigma_t^2 that the residual shows before update t = 0, 1, ..., where d is large.

    Beside the subspace (variance s) a step does s <- (1 - h)^2 s + g^2 sigma^2. On it the residual is the share s / (v_i + s) of an
    image of variance v_i + s, so that sigma^2 = s (d - sum_i v_i / (v_i + s)) / d: between (1 - k/d) s and s.
    """
    _, basis, variances = prior
    d, s = len(basis), sigma_0**2
    while True:
        seen = s * (d - np.sum(variances / (variances + s))) / d
        yield seen
        s = (1 - h) ** 2 * s + put_back(h, beta) ** 2 * seen


def test_samples_of_a_gaussian_in_4096_dimensions_have_its_mean_and_covariance(big):
    prior, sample = big
    assert (sample.stop == sampling.CONVERGED).all()
    # A step of size h leaves the variance h/2 too small (second order of the recursion), the final clean-up sigma_end^2 / 0.3.
    assert_moments_are_the_priors(sample.image, prior, bias=BIG["h"] / 2 + BIG["sigma_end"] ** 2 / 0.3)


def test_runs_for_a_gaussian_take_the_predicted_number_of_steps(big):
    """log sigma changes by log(1 - beta h) with deviation g / sqrt(d) a step, hence the deviation of the step count."""
    prior, sample = big
    h, beta, ratio = BIG["h"], BIG["beta"], BIG["sigma_0"] / BIG["sigma_end"]
    falling = falling_variances(prior, h=h, beta=beta, sigma_0=BIG["sigma_0"])
    expected = next(t for t, seen in enumerate(falling) if seen <= BIG["sigma_end"] ** 2)
    deviation = put_back(h, beta) * math.sqrt(expected / 64**2) / (beta * h)
    steps = np.asarray(sample.steps)
    assert abs(steps.mean() - expected) < 1.5 + 4 * deviation / math.sqrt(len(steps))
    assert steps.std() == pytest.approx(deviation, rel=0.3)
    # ln(sigma_0 / sigma_end) / (beta h), less what the k/d of the level that the denoiser leaves in the subspace takes away.
    unseen = (1 - beta) * (16 / 64**2) / beta
    assert steps.mean() == pytest.approx(math.log(ratio) / (beta * h) * (1 - unseen), abs=2 + math.log(ratio) / 2)


@pytest.mark.parametrize(("step_size", "h0", "beta"), [("fixed", 0.05, 0.4), ("increasing", 0.0004, 0.4)])
def test_samples_of_a_gaussian_in_64_dimensions_have_its_mean_and_covariance(step_size, h0, beta):
    """Increasing steps from a small h0 give the statistics of fixed ones."""
    prior = subspace_prior(8, 2)
    settings = {"h0": h0, "beta": beta, "step_size": step_size, "sigma_0": 3.0, "sigma_end": 0.02}
    sample = samples(gaussian(*prior), jnp.full((8, 8, 1), 0.45), 1500, **settings)
    assert (sample.stop == sampling.CONVERGED).all()
    assert_moments_are_the_priors(sample.image, prior, bias=0.03)


@pytest.mark.parametrize(("side", "k", "count", "steps", "beta"), [(8, 2, 2000, 80, 0.5), (64, 16, 24, 200, 0.25)])
def test_the_noise_level_falls_by_one_minus_beta_h_a_step_but_for_what_the_denoiser_leaves(side, k, count, steps, beta):
    """The mean square over runs is compared: sigma^2 is multiplied in each step by a factor of relative variance 4 g^2 / d."""
    prior, h = subspace_prior(side, k), 0.05
    starts = prior[0][None] + 3 * jax.random.normal(jax.random.key(1), (count, side, side, 1))
    run = partial(levels, gaussian(*prior), h=h, beta=beta, steps=steps)
    seen = jax.jit(jax.vmap(run))(starts, jax.random.split(jax.random.key(2), count))
    ratios = np.mean(np.asarray(seen, np.float64) ** 2, axis=0)
    expected = np.array(list(itertools.islice(falling_variances(prior, h=h, beta=beta, sigma_0=3), steps)))
    variance = np.exp(4 * put_back(h, beta) ** 2 / side**2 * np.arange(steps)) - 1 + 2 / side**2
    assert (np.abs(ratios / expected - 1) < 4 * np.sqrt(variance / count)).all()
    # Up to k/d of the square is unseen: that bounds how much faster than (1 - beta h)^2 it falls.
    factor = (expected[-1] / expected[0]) ** (1 / (steps - 1))
    assert (1 - beta * h) ** 2 - k / side**2 * put_back(h, beta) ** 2 * 1.05 <= factor <= (1 - beta * h) ** 2


@QUICK
def test_without_added_noise_small_steps_of_either_kind_follow_the_closed_form_path():
    """beta = 1 is Euler's method for du = -s / (v + s) u dt, ds = -2 s dt: u is in proportion to sqrt(v + s).

    From s_0 to nothing a coefficient u_0 becomes u_0 sqrt(v / (v + s_0)). The error of a fixed step is of order h; the increasing
    one has become sqrt(2 ln(sigma_0 / sigma_end) h0) at the end, and its error is of that order.
    """
    mean, basis, variances = subspace_prior(8, 2)
    start = mean + 2 * jax.random.normal(jax.random.key(0), mean.shape)
    away = np.asarray(start - mean, np.float64).ravel()
    s_0 = np.sum((away - basis @ (basis.T @ away)) ** 2) / (64 - 2)
    exact = basis.T @ away * np.sqrt(variances / (variances + s_0))

    def error(h0, step_size):
        settings = {"h0": h0, "beta": 1.0, "sigma_end": 0.003, "step_size": step_size}
        sample = sampling.blind_sample(gaussian(mean, basis, variances), start, jax.random.key(1), **settings)
        return np.linalg.norm(basis.T @ np.asarray(sample.image - mean).ravel() - exact) / np.linalg.norm(exact)

    fixed = [error(h0, "fixed") for h0 in (0.05, 0.0125)]
    increasing = [error(h0, "increasing") for h0 in (0.0025, 0.00015625)]
    for errors in (fixed, increasing):
        assert errors[-1] < 0.005
        assert errors[0] / errors[1] == pytest.approx(4, rel=0.25)


# Two images


def test_both_images_of_a_mixture_come_out_with_their_weights():
    """Standard error of a share w of n samples: sqrt(w (1 - w) / n)."""
    weight, count = 0.3, 1500
    pattern = noise(jax.random.key(0), (8, 8, 1), rms=0.15)
    first, second = 0.5 + pattern, 0.5 - pattern
    mean = weight * first + (1 - weight) * second
    settings = {"h0": 0.1, "beta": 0.25, "sigma_0": 3.0, "sigma_end": 0.03}
    sample = samples(two_images(first, second, weight), mean, count, **settings)
    is_first, is_second = (jnp.abs(sample.image - image[None]).max((1, 2, 3)) < 1e-5 for image in (first, second))
    assert (is_first ^ is_second).all() and (sample.stop == sampling.CONVERGED).all()
    assert abs(float(is_first.mean()) - weight) < 4 * math.sqrt(weight * (1 - weight) / count)


# An independent implementation


def numpy_sampler(f, y, key, *, h0, beta, sigma_end, step_size):
    """The published algorithm in float64 numpy, written from its text; only the noise comes from jax."""
    d = y.size
    for t in itertools.count(1):
        h = h0 if step_size == "fixed" else h0 * t / (1 + h0 * (t - 1))
        r = y - f(y)
        sigma = np.linalg.norm(r) / np.sqrt(d)
        if sigma <= sigma_end:
            return f(y), sigma, t - 1
        gamma = sigma * np.sqrt((1 - beta * h) ** 2 - (1 - h) ** 2)
        key, noise_key = jax.random.split(key)
        y = y - h * r + gamma * np.asarray(jax.random.normal(noise_key, y.shape), np.float64)


@BOTH
@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_an_independent_numpy_implementation_gives_the_same_image_level_and_steps(step_size, beta):
    prior = subspace_prior(8, 3)
    start, key = np.full((8, 8, 1), 0.45) + 3 * np.random.default_rng(0).normal(size=(8, 8, 1)), jax.random.key(4)
    settings = {"h0": 0.1, "beta": beta, "sigma_end": 0.05, "step_size": step_size}
    run = jax.jit(partial(sampling.blind_sample, gaussian(*prior), **settings))
    sample = run(jnp.asarray(start, jnp.float32), key)
    image, sigma, steps = numpy_sampler(gaussian(*(np.float64(p) for p in prior)), start, key, **settings)
    assert int(sample.steps) == steps > 5
    np.testing.assert_allclose(sample.image, image, atol=1e-5)
    np.testing.assert_allclose(sample.sigma, sigma, rtol=2e-5)


# Batches and cuts


def five_starts():
    """Starts at five noise levels, and their keys."""
    scale = jnp.array([0.2, 3.0, 0.01, 1.0, 0.4]).reshape(5, 1, 1, 1)
    return 0.45 + scale * jax.random.normal(jax.random.key(0), (5, 8, 8, 1)), jax.random.split(jax.random.key(1), 5)


def gaussian_run(step_size="fixed"):
    settings = {"h0": 0.1, "beta": 0.3, "sigma_end": 0.05, "step_size": step_size}
    return gaussian(*subspace_prior(8, 3)), settings


@cache
def gaussian_sampler(step_size, batch=False):
    """One compiled program for all tests that want it."""
    denoise, settings = gaussian_run(step_size)
    sample = partial(sampling.blind_sample, denoise, **settings)
    return jax.jit(jax.vmap(sample) if batch else sample)


@BOTH
def test_an_image_does_not_depend_on_its_batch_and_stops_on_its_own_step(step_size):
    starts, keys = five_starts()
    together = gaussian_sampler(step_size, batch=True)(starts, keys)
    one = gaussian_sampler(step_size)
    alone = jax.tree.map(
        lambda *leaves: jnp.stack(leaves), *(one(start, key) for start, key in zip(starts, keys, strict=True))
    )
    chex.assert_trees_all_equal((together.steps, together.stop), (alone.steps, alone.stop))
    chex.assert_trees_all_close(together, alone, rtol=2e-6, atol=2e-6)
    assert len(set(together.steps.tolist())) == 5 and (together.sigma <= 0.05).all()


def test_an_image_that_is_lost_does_not_touch_the_others_of_its_batch():
    sampler = gaussian_sampler("fixed", batch=True)
    starts, keys = five_starts()
    whole, broken = sampler(starts, keys), sampler(starts.at[3].set(jnp.nan), keys)
    others = jnp.array([0, 1, 2, 4])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: leaf[others], result) for result in (whole, broken)))
    assert broken.stop.tolist() == [sampling.CONVERGED] * 3 + [sampling.NOT_FINITE, sampling.CONVERGED]


@BOTH
def test_a_run_cut_into_stretches_of_three_steps_is_the_same_run_bit_for_bit(step_size):
    denoise, settings = gaussian_run(step_size)
    starts, keys = five_starts()
    whole = gaussian_sampler(step_size)(starts[1], keys[1])
    go = jax.jit(partial(sampling.advance, denoise, steps=3, **settings))
    walk, cuts = sampling.begin(starts[1], keys[1]), 0
    while walk.stop == sampling.RUNNING:
        walk, cuts = go(walk), cuts + 1
    assert cuts == -(-(int(whole.steps) + 1) // 3)  # the look that ends a run counts as a step of its stretch
    chex.assert_trees_all_equal(sampling.finish(walk), whole)
    chex.assert_trees_all_close(whole.image, denoise(walk.state.image), atol=1e-6)
    chex.assert_trees_all_equal(go(walk), walk)  # a run that has ended stays as it is


def test_a_trajectory_shows_every_kth_step_and_ends_with_the_sample():
    image = random_image(0, (32, 32, 1))
    start, key = image + noise(jax.random.key(0), image.shape, rms=3), jax.random.key(1)
    settings = {"h0": 0.1, "beta": 0.5, "sigma_end": 0.04}
    sample = jax.jit(partial(sampling.blind_sample, one_image(image), **settings))(start, key)
    walks = list(sampling.trajectory(one_image(image), sampling.begin(start, key), every=7, **settings))
    end = int(sample.steps)
    assert end % 7 and [int(walk.state.step) for walk in walks] == [*range(0, end, 7), end]
    assert [int(walk.stop) for walk in walks] == [sampling.RUNNING] * (len(walks) - 1) + [sampling.CONVERGED]
    chex.assert_trees_all_equal(walks[0].state.image, start)
    # Seven steps take the share 1 - 0.95^7 = 0.3 of the level away, with a deviation of 0.03.
    sigma = np.array([walk.state.sigma for walk in walks])
    assert sigma[0] == np.inf and (np.diff(sigma[1:]) < 0).all() and sigma[-1] == sample.sigma
    chex.assert_trees_all_equal(sampling.finish(walks[-1]), sample)


@QUICK
def test_the_trajectory_of_a_batch_is_the_trajectories_of_its_images_until_the_last_has_ended():
    denoise, settings = gaussian_run()
    settings["max_steps"] = 95
    starts, keys = (leaf[jnp.array([1, 4, 2])] for leaf in five_starts())
    walks = list(sampling.trajectory(denoise, jax.vmap(sampling.begin)(starts, keys), every=20, **settings))
    go = jax.jit(partial(sampling.advance, denoise, steps=20, **settings))
    for i in range(3):
        alone = sampling.begin(starts[i], keys[i])
        for walk in walks:
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], walk)
            assert (int(mine.stop), int(mine.state.step)) == (int(alone.stop), int(alone.state.step))
            chex.assert_trees_all_close(mine.state.image, alone.state.image, rtol=2e-6, atol=2e-6)
            alone = go(alone)
    assert [int(walk.state.step.max()) for walk in walks] == [0, 20, 40, 60, 80, 95]
    assert walks[-1].stop.tolist() == [sampling.MAX_STEPS, sampling.CONVERGED, sampling.CONVERGED]


@QUICK
def test_a_trajectory_makes_only_the_steps_that_were_asked_for():
    image = random_image(0)
    endless = {"h0": 0.01, "beta": 0.01, "sigma_end": 1e-30, "max_steps": 10**9}
    walks = sampling.trajectory(one_image(image), sampling.begin(image + 1, jax.random.key(0)), every=5, **endless)
    assert [int(walk.state.step) for walk in itertools.islice(walks, 4)] == [0, 5, 10, 15]


# How a run ends


def unit_start(rms=1.0, shape=(8, 8, 1)):
    return noise(jax.random.key(0), shape, rms=rms)


def run(denoise, start, **settings):
    settings = {"h0": 0.1, "beta": 1.0, "sigma_end": 0.01} | settings
    return jax.jit(partial(sampling.blind_sample, denoise, **settings))(start, jax.random.key(1))


@QUICK
@pytest.mark.parametrize("steps", [1, 10])
def test_a_run_that_is_out_of_steps_made_exactly_that_many_updates(steps):
    """f(y) = y / 2 takes half of h away: y_t = (1 - h/2)^t y_0."""
    sample = run(lambda y: y / 2, unit_start(), max_steps=steps)
    assert (int(sample.stop), int(sample.steps)) == (sampling.MAX_STEPS, steps)
    chex.assert_trees_all_close(sample.image, 0.95**steps * unit_start() / 2, rtol=1e-5)
    assert float(sample.sigma) == pytest.approx(0.95**steps / 2, rel=1e-5)


@QUICK
def test_the_last_update_may_be_the_one_that_converges():
    """0.9^22 = 0.098: a run from 1 to 0.1 needs 22 updates."""
    image = random_image(0)
    ends = [run(one_image(image), image + unit_start(), sigma_end=0.1, max_steps=steps) for steps in (21, 22)]
    assert [(int(end.stop), int(end.steps)) for end in ends] == [(sampling.MAX_STEPS, 21), (sampling.CONVERGED, 22)]


@QUICK
def test_a_start_below_the_last_noise_level_is_denoised_and_not_changed():
    image = random_image(0)
    sample = run(one_image(image), image + unit_start(0.005))
    assert (int(sample.stop), int(sample.steps)) == (sampling.CONVERGED, 0)
    assert float(sample.sigma) == pytest.approx(0.005, rel=1e-4)
    chex.assert_trees_all_equal(sample.image, image)


@QUICK
@pytest.mark.parametrize(
    ("rms", "h0", "beta", "steps"),
    [(1.0, 0.1, 1.0, 3), (0.1, 0.1, 1.0, 8), (1.0, 0.1, 0.5, 2), (1.0, 0.32, 1.0, 2), (1.0, 0.34, 1.0, 1)],
)
def test_a_denoiser_that_amplifies_is_stopped_at_twice_the_first_level_or_two(rms, h0, beta, steps):
    """f(y) = y + 3 (y - m) multiplies y - m by 1 + 3h, and its level is 3 times that of y - m.

    h = 0.1, no noise: 1.3^3 is the first power above 2, and 1.3^8 * 0.3 the first such product above 2. With beta = 0.5 the factor
    is sqrt(1.3^2 + 9 g^2) = 1.588 a step, of which the second power is the first above 2. h = 0.32 and 0.34: 1.96 and 2.02.
    """
    m = random_image(0, (64, 64, 1))
    sample = run(lambda y: y + 3 * (y - m), m + unit_start(rms, m.shape), h0=h0, beta=beta)
    assert (int(sample.stop), int(sample.steps)) == (sampling.DIVERGED, steps)
    factor = math.sqrt((1 + 3 * h0) ** 2 + 9 * put_back(h0, beta) ** 2)
    assert float(sample.sigma) == pytest.approx(3 * rms * factor**steps, rel=1e-4 if beta == 1 else 0.05)
    assert float(sample.sigma) > 2 * max(3 * rms, 1)


@QUICK
def test_a_run_that_meets_a_number_that_is_not_finite_stops_at_the_last_image_that_was():
    """The level of y falls as 0.9^t; the seventh power is the first below a half, where this denoiser fails."""

    def denoise(y):
        return jnp.where(jnp.sqrt(jnp.mean(y**2)) < 0.5, jnp.nan, jnp.zeros_like(y))

    sample = run(denoise, unit_start())
    assert (int(sample.stop), int(sample.steps)) == (sampling.NOT_FINITE, 7) and jnp.isnan(sample.sigma)
    walk = sampling.advance(denoise, sampling.begin(unit_start(), jax.random.key(1)), steps=20, h0=0.1, beta=1.0)
    assert walk.stop == sampling.NOT_FINITE
    chex.assert_trees_all_close(walk.state.image, 0.9**7 * unit_start(), rtol=1e-5)


@QUICK
def test_a_walk_that_is_still_running_is_finished_with_what_its_last_step_saw_as_one_that_is_out_of_steps():
    walk = sampling.begin(unit_start(), jax.random.key(0))
    sample = sampling.finish(sampling.advance(lambda y: y / 2, walk, steps=3, h0=0.1, beta=1.0))
    assert (int(sample.stop), int(sample.steps)) == (sampling.MAX_STEPS, 3)
    chex.assert_trees_all_close(sample.image, 0.95**2 * unit_start() / 2, rtol=1e-5)
    assert float(sample.sigma) == pytest.approx(0.95**2 / 2, rel=1e-5)


@pytest.mark.parametrize(
    ("stop", "words"),
    [
        (sampling.CONVERGED, "converged after 8,614 steps at noise level 0.03999"),
        (sampling.MAX_STEPS, "max_steps after 8,614 steps at noise level 0.03999; raise max_steps"),
        (sampling.DIVERGED, "diverged after 8,614 steps at noise level 0.03999; lower h0 or sigma_0"),
        (sampling.NOT_FINITE, "not_finite after 8,614 steps at noise level 0.03999; lower h0"),
    ],
)
def test_the_end_of_a_run_is_explained_in_one_line_with_what_to_change(stop, words):
    line = sampling.explain(stop, 0.03999, 8614)
    assert line.startswith(words) and "\n" not in line
    assert (stop == sampling.CONVERGED) == (line == words)


# Bad settings


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"h0": 0.0}, "h0 = 0 "),
        ({"h0": 1.5}, "h0 = 1.5 "),
        ({"h0": math.nan}, "h0 = nan "),
        ({"beta": -0.25}, "beta = -0.25 "),
        ({"beta": 1.01}, "beta = 1.01 "),
        ({"sigma_end": 0.0}, "sigma_end = 0 "),
        ({"sigma_end": -0.1}, "sigma_end = -0.1 "),
        ({"max_steps": 0}, "max_steps = 0 "),
        ({"step_size": "decreasing"}, "step_size 'decreasing' is unknown"),
    ],
)
def test_settings_of_a_run_that_cannot_end_are_refused_in_one_line(settings, words):
    with pytest.raises(InputError, match=re.escape(words)) as error:
        sampling.blind_sample(one_image(unit_start()), unit_start(), jax.random.key(0), **settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("sigma_end", [1.5, 2.0])
def test_a_last_noise_level_that_is_not_below_the_first_is_refused(sigma_end):
    words = re.escape(f"sigma_end = {sigma_end:g} must be above 0 and below sigma_0 = 1.5")
    with pytest.raises(InputError, match=words):
        sampling.check(h0=0.1, beta=0.1, sigma_end=sigma_end, max_steps=10, sigma_0=1.5)


def test_settings_at_the_ends_of_their_ranges_are_taken():
    sampling.check(h0=1.0, beta=1.0, sigma_end=1.4, max_steps=1, step_size="increasing", sigma_0=1.5)


@pytest.mark.parametrize("every", [0, -3])
def test_a_trajectory_of_no_steps_at_a_time_is_refused(every):
    walk = sampling.begin(unit_start(), jax.random.key(0))
    with pytest.raises(InputError, match=f"every = {every} "):
        next(sampling.trajectory(one_image(unit_start()), walk, every=every))


# Compilation


@QUICK
def test_a_batch_is_compiled_once_and_its_denoiser_sees_single_images():
    shapes = []

    def denoise(y):
        shapes.append(y.shape)
        return y / 2

    run = partial(sampling.blind_sample, denoise, h0=0.1, beta=0.5, sigma_end=0.1)
    go = jax.jit(jax.vmap(chex.assert_max_traces(lambda start, key: run(start, key), n=1)))
    starts, keys = five_starts()
    first = go(starts, keys)
    traced = len(shapes)
    second = go(starts + 1, keys[::-1])
    assert len(shapes) == traced <= 3 and set(shapes) == {(8, 8, 1)}
    assert (first.image != second.image).any()
