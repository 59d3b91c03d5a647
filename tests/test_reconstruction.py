"""Matching against closed forms and a numpy Adam; reconstruction with priors whose denoisers are known, against plain loops."""

import functools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unetrep_jax import convolution, devices, models, sampling
from unetrep_jax import denoiser as denoisers
from unetrep_jax import reconstruction as rec
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.storage import InputError

SHAPE = (8, 8, 1)
CHANNELS = 5
MATRIX = np.random.default_rng(0).normal(size=(CHANNELS, math.prod(SHAPE))) / 8
FILTERS = jnp.asarray(np.random.default_rng(1).normal(size=(3, 3, 1, 4)) / 3, jnp.float32)
PRIOR_MEAN, PRIOR_DEVIATION = 0.5, 0.3
MEAN = jnp.full(SHAPE, PRIOR_MEAN)
FIXED_LEVEL = {"target_sigma": 0.0, "draws": 1}  # phi of the conditioner itself, so that no noise enters the target


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of this file's time is XLA's; no test here measures speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def linear(images):
    """represent(y) = A y."""
    return images.reshape(len(images), -1) @ jnp.asarray(MATRIX.T, jnp.float32)


def texture(images):
    """Means and variances of the rectified responses of a few filters."""
    responses = jax.lax.conv_general_dilated(
        images, FILTERS, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    responses = jax.nn.relu(responses)
    return jnp.concatenate([responses.mean((1, 2)), responses.var((1, 2))], axis=1)


def blocks(images):
    """Means of the sixteen 2x2 blocks."""
    return images.reshape(len(images), 4, 2, 4, 2).mean((2, 4)).reshape(len(images), 16)


def of_blocks(means):
    """The images that are constant on each block."""
    return jnp.repeat(jnp.repeat(means.reshape(-1, 4, 4, 1), 2, axis=1), 2, axis=2)


def gaussian_denoise(images):
    """Blind and optimal for images constant on 2x2 blocks, each N(0.5, 0.3^2): what else varies in an image tells its noise."""
    means = blocks(images)
    noise = jnp.sum((images - of_blocks(means)) ** 2, axis=(1, 2, 3)) / 48  # 64 pixels less 16 means
    kept = PRIOR_DEVIATION**2 / (PRIOR_DEVIATION**2 + noise / 4)  # a block's mean has a quarter of the noise
    return of_blocks(PRIOR_MEAN + kept[:, None] * (means - PRIOR_MEAN))


def a_denoiser(denoise=gaussian_denoise, represent=texture):
    return Denoiser(denoise, lambda images: {}, represent, ())


def images_of(count, seed=0, scale=0.3):
    return PRIOR_MEAN + scale * jax.random.normal(jax.random.key(seed), (count, *SHAPE))


def keys_of(count, seed=5):
    return jax.random.split(jax.random.key(seed), count)


compiled_match = jax.jit(rec.match, static_argnames=("represent", "optimizer", "max_steps", "tolerance", "freeze"))


def matched(images, targets, represent=linear, **settings):
    return compiled_match(represent, images, targets, **settings)


def reconstructed(target, keys, settings, denoiser=None, represent=texture):
    return rec.reconstruct(denoiser or a_denoiser(represent=represent), target, keys, mean=MEAN, settings=settings)


# Matching


def numpy_adam(image, target, updates, rate=0.01, epsilon=1e-8):
    """Adam as published on l(y) = ||A y - t||^2 / k, one image, float64: (image, losses before each update)."""
    image, target = np.asarray(image, np.float64).ravel(), np.asarray(target, np.float64)
    first, second, losses = np.zeros_like(image), np.zeros_like(image), []
    for t in range(1, updates + 1):
        error = MATRIX @ image - target
        losses.append((error**2).mean())
        gradient = 2 / CHANNELS * MATRIX.T @ error
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        image = image - rate * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + epsilon)
    return image.reshape(SHAPE), np.array(losses)


def updates_until(losses, tolerance=0.01):
    """Updates made: up to and including the one that the first loss at or below 1 % of the first led to."""
    below = losses <= tolerance * losses[0]
    return int(np.argmax(below)) + 1 if below.any() else len(losses)


def far_and_near():
    """Two images and targets; the second target is soon reached."""
    images = images_of(2)
    return images, linear(images) + jnp.array([[1.0], [-0.1]])


def test_adam_reaches_the_phi_of_a_linear_map():
    images, targets = far_and_near()
    result = matched(images, targets)
    first, last = ((np.asarray(linear(y) - targets) ** 2).mean(1) for y in (images, result.images))
    assert result.converged.all() and (last <= 0.02 * first).all()
    np.testing.assert_allclose(result.losses[:, 0], first, rtol=1e-5)


def test_the_first_update_is_that_of_adam_on_the_closed_form_of_the_gradient():
    targets = jnp.asarray(np.random.default_rng(2).normal(size=(2, CHANNELS)), jnp.float32)
    start = jnp.zeros((2, *SHAPE))
    gradient = 2 / CHANNELS * (0 - np.asarray(targets, np.float64)) @ MATRIX
    for epsilon in (1e-8, 0.05):  # the second is of the gradient's own size, so that its size shows, not only its sign
        result = matched(start, targets, max_steps=1, optimizer=optax.adam(0.01, eps=epsilon))
        expected = -0.01 * gradient / (np.abs(gradient) + epsilon)
        np.testing.assert_allclose(result.images.reshape(2, -1), expected, rtol=1e-4, atol=1e-9)
        np.testing.assert_array_equal(result.steps, 1)


def test_matching_agrees_with_an_independent_numpy_adam_and_its_stop():
    images, targets = far_and_near()
    result = matched(images, targets)
    assert int(result.steps[1]) >= 2 and int(result.steps[0]) >= 20
    for i in range(2):
        _, losses = numpy_adam(images[i], targets[i], 100)
        steps = updates_until(losses)
        expected, losses = numpy_adam(images[i], targets[i], steps)
        assert int(result.steps[i]) == steps
        np.testing.assert_allclose(result.losses[i, :steps], losses, rtol=2e-4, atol=1e-6 * losses[0])
        np.testing.assert_allclose(result.images[i], expected, atol=2e-5)


def test_a_target_that_is_met_already_takes_one_update_that_moves_nothing():
    images = images_of(2)
    result = matched(images, linear(images) + jnp.array([[0.0], [0.5]]), max_steps=5)
    assert int(result.steps[0]) == 1 and bool(result.converged[0]) and int(result.steps[1]) > 1
    np.testing.assert_array_equal(result.images[0], images[0])


def test_losses_are_nan_after_the_end_and_an_image_short_of_its_target_has_not_converged():
    images, targets = far_and_near()
    result = matched(images, targets, max_steps=30)
    assert result.losses.shape == (2, 30)
    np.testing.assert_array_equal(result.converged, [False, True])
    np.testing.assert_array_equal(np.isnan(result.losses), np.arange(30)[None] >= np.asarray(result.steps)[:, None])
    assert int(result.steps[0]) == 30 > int(result.steps[1])


def test_updates_are_counted_where_the_loss_is_not_a_number():
    images = images_of(2).at[1].set(jnp.nan)
    result = matched(images, jnp.ones((2, CHANNELS)), max_steps=4, tolerance=0.0)
    np.testing.assert_array_equal(result.steps, 4)
    assert not result.converged.any() and jnp.isfinite(result.images[0]).all()


def test_noise_takes_on_the_texture_statistics_of_stripes():
    stripes = jnp.broadcast_to(jnp.array([0.1, 0.1, 0.9, 0.9, 0.1, 0.1, 0.9, 0.9]).reshape(1, 1, 8, 1), (3, *SHAPE))
    result = matched(images_of(3), texture(stripes), texture, max_steps=300)
    assert result.converged.all()
    np.testing.assert_array_less(
        ((texture(result.images) - texture(stripes)) ** 2).mean(1), 0.015 * np.asarray(result.losses[:, 0])
    )


def test_an_image_that_stops_on_its_own_is_matched_as_if_it_were_alone():
    images, targets = images_of(3), texture(images_of(3, seed=1, scale=0.1)) * jnp.array([[1.0], [1.2], [0.5]])
    together = matched(images, targets, texture)
    assert len(set(together.steps.tolist())) == 3
    for i in range(3):
        alone = matched(images[i : i + 1], targets[i : i + 1], texture)
        assert int(alone.steps[0]) == int(together.steps[i])
        np.testing.assert_allclose(alone.images[0], together.images[i], atol=1e-6)
        np.testing.assert_allclose(alone.losses[0], together.losses[i], rtol=1e-5)


def test_as_published_all_images_move_until_the_slowest_has_converged():
    images, targets = far_and_near()
    frozen, published = matched(images, targets), matched(images, targets, freeze=False)
    slow, fast = frozen.steps.tolist()
    assert slow > fast
    np.testing.assert_array_equal(published.steps, slow)
    assert published.converged.all()
    np.testing.assert_allclose(published.losses[1, :fast], frozen.losses[1, :fast], rtol=1e-6)
    for i in range(2):
        expected, losses = numpy_adam(images[i], targets[i], slow)
        np.testing.assert_allclose(published.images[i], expected, atol=5e-5)
        np.testing.assert_allclose(published.losses[i, :slow], losses, rtol=1e-3, atol=1e-5)


def test_for_a_batch_of_one_freezing_changes_nothing():
    images, targets = images_of(1), texture(images_of(1, seed=1, scale=0.1))
    results = [matched(images, targets, texture, freeze=freeze) for freeze in (True, False)]
    assert 1 < int(results[0].steps[0]) < 100
    chex.assert_trees_all_equal(*results)


@pytest.mark.parametrize("name", ["lbfgs", "sgd"])
def test_other_optimisers_find_the_nearest_image_with_that_phi(name):
    """Gradients lie in the rows of A, so the limit is y + A^+ (t - A y)."""
    images, targets = far_and_near()
    steepest = 2 / CHANNELS * np.linalg.eigvalsh(MATRIX @ MATRIX.T).max()
    optimizer = {"lbfgs": optax.lbfgs, "sgd": lambda: optax.sgd(1 / steepest)}[name]()
    settings = {"optimizer": optimizer, "max_steps": 200, "tolerance": 1e-8}
    result = matched(images, targets, **settings)
    start = np.asarray(images, np.float64).reshape(2, -1)
    expected = start + (np.asarray(targets) - start @ MATRIX.T) @ np.linalg.pinv(MATRIX).T
    assert result.converged.all()
    np.testing.assert_allclose(result.images.reshape(2, -1), expected, atol=2e-4)
    chex.assert_trees_all_equal(matched(images, targets, **settings), result)


def test_losses_under_gradient_descent_follow_their_closed_form():
    """The error after n updates is (I - (2 rate / k) A A^T)^n times the first."""
    images, targets = far_and_near()
    result = matched(images, targets, optimizer=optax.sgd(1.0), max_steps=10, tolerance=0.0)
    error = np.asarray(linear(images) - targets, np.float64)
    shrink = np.eye(CHANNELS) - 2 / CHANNELS * MATRIX @ MATRIX.T
    expected = [((error @ np.linalg.matrix_power(shrink, n)) ** 2).mean(1) for n in range(10)]
    np.testing.assert_allclose(result.losses, np.stack(expected, 1), rtol=1e-4)


def test_every_call_begins_with_a_new_optimiser_state():
    images, targets = far_and_near()
    momentum = optax.sgd(0.5, momentum=0.9)
    first = matched(images, targets, optimizer=momentum, max_steps=3, tolerance=0.0).images
    next_one = matched(first, targets, optimizer=momentum, max_steps=1, tolerance=0.0).images
    unbroken = matched(images, targets, optimizer=momentum, max_steps=4, tolerance=0.0).images
    plain = first - 0.5 * 2 / CHANNELS * ((linear(first) - targets) @ MATRIX).reshape(first.shape)
    np.testing.assert_allclose(next_one, plain, atol=1e-6)
    assert jnp.abs(unbroken - next_one).max() > 1e-2


def test_a_mask_drives_channels_to_zero_and_leaves_the_others():
    images, targets = images_of(2) + 0.5, jnp.full((2, CHANNELS), 0.7)
    mask = jnp.array([1.0, 0.0, 1.0, 0.0, 1.0])
    result = matched(images, targets, mask=mask, tolerance=1e-4, max_steps=300)
    assert result.converged.all()
    np.testing.assert_allclose(linear(result.images), np.broadcast_to(0.7 * mask, (2, CHANNELS)), atol=0.03)
    tiled = matched(images, targets, mask=jnp.broadcast_to(mask, (2, CHANNELS)), tolerance=1e-4, max_steps=300)
    chex.assert_trees_all_equal(tiled, result)


def test_each_image_may_have_its_own_mask():
    images, targets = images_of(2), jnp.full((2, CHANNELS), 0.7)
    mask = jnp.array([[1.0, 0, 1, 1, 1], [0, 0, 1, 1, 0.5]])
    chex.assert_trees_all_equal(matched(images, targets, mask=mask), matched(images, targets * mask))


@pytest.mark.parametrize("freeze", [True, False])
def test_images_that_are_not_active_stay_as_they_are(freeze):
    images, targets = images_of(3), linear(images_of(3)) + 0.4
    active = jnp.array([True, False, True])
    result = matched(images, targets, active=active, freeze=freeze)
    np.testing.assert_array_equal(result.images[1], images[1])
    assert int(result.steps[1]) == 0 and jnp.isnan(result.losses[1]).all() and not result.converged[1]
    others = matched(images[::2], targets[::2], freeze=freeze)
    np.testing.assert_allclose(result.images[::2], others.images, atol=1e-6)
    np.testing.assert_array_equal(result.steps[::2], others.steps)


def test_a_tiny_epsilon_makes_adam_blind_to_the_scale_of_phi():
    images, targets = far_and_near()

    def scaled(images):
        return 1e-5 * linear(images)

    unscaled = matched(images, targets, optimizer=optax.adam(0.01, eps=1e-20))
    same = matched(images, 1e-5 * targets, scaled, optimizer=optax.adam(0.01, eps=1e-20))
    np.testing.assert_array_equal(same.steps, unscaled.steps)
    np.testing.assert_allclose(same.images, unscaled.images, atol=1e-4)
    np.testing.assert_allclose(1e10 * same.losses, unscaled.losses, rtol=1e-2)
    published = matched(images, 1e-5 * targets, scaled)
    assert jnp.abs(published.images - images).max() < 0.01 < 0.1 < jnp.abs(unscaled.images[0] - images[0]).max()
    assert not published.converged.any()


def gradient_program():
    """The compiled matching of a small UNet, whose operations name their modules."""
    model = models.build("unet", channels=(4, 8), encoder_depth=1, mid_depth=2, decoder_depth=2)
    params = models.init_params(model, jax.random.key(0))

    def run(params, images, targets):
        return rec.match(denoisers.bind(model, params).represent, images, targets, max_steps=3)

    return jax.jit(run).lower(params, jnp.zeros((2, *SHAPE[:2], 3)), jnp.zeros((2, 8))).compile().as_text()


def test_the_compiled_gradient_step_runs_no_decoder_and_convolutions_of_one_orientation(monkeypatch):
    def convolutions(text):
        return [line for line in text.splitlines() if " convolution(" in line or "__onednn$convolution" in line]

    text = gradient_program()
    assert "/mid/" in text and "/decoder" not in text
    assert len(convolutions(text)) == 6  # a layer of the encoder, two of the middle block, forward and backward
    monkeypatch.setattr(convolution, "ONEDNN_TRIED_IN", ())
    by_xla = convolutions(gradient_program())
    assert len(by_xla) == 6
    assert all("b01f_01io->b01f" in line and "rhs_reversal" not in line for line in by_xla)
    monkeypatch.setattr(convolution, "convolve", lambda x, kernel, padding: convolution.plain(x, kernel, 1))
    slow = [line for line in convolutions(gradient_program()) if "01oi" in line or "rhs_reversal" in line]
    assert len(slow) == 3  # what JAX's own derivative would be


# Reconstruction with known priors


def prior_images(count, seed=7):
    return of_blocks(PRIOR_MEAN + PRIOR_DEVIATION * jax.random.normal(jax.random.key(seed), (count, 16)))


@pytest.mark.parametrize(
    "settings",
    [
        rec.Schedule(sigmas=(1.0, 0.3, 0.1), draws=2, matching_steps=5),
        rec.Adaptive(h0=0.5, beta=0.5, sigma_end=0.05, matching_steps=5, learning_rate=1e-3),
    ],
)
def test_a_prior_of_a_single_image_gives_that_image_whatever_the_target(settings):
    only = images_of(1, seed=3)
    denoiser = a_denoiser(lambda images: jnp.broadcast_to(only, images.shape))
    result = reconstructed(images_of(2, seed=4), keys_of(2), settings, denoiser)
    np.testing.assert_array_equal(result.stop, sampling.CONVERGED)
    np.testing.assert_allclose(result.images, np.broadcast_to(only, (2, *SHAPE)), atol=1e-6)


def first_blocks(images):
    return blocks(images)[:, :8]


LEVELS = tuple(np.geomspace(1, 0.03, 20).tolist())


def predicted_variance(sigmas):
    """Of a block's mean under denoising alone: v <- w^2 (v + s^2), with s^2 = sigma^2 / 4, w = t^2 / (t^2 + s^2), t the prior's."""
    variance = 0.0
    for sigma in sigmas:
        noise = sigma**2 / 4
        variance = (PRIOR_DEVIATION**2 / (PRIOR_DEVIATION**2 + noise)) ** 2 * (variance + noise)
    return variance


def test_reconstructions_have_the_targets_phi_and_vary_as_the_prior_in_the_rest():
    """Phi is eight of the sixteen block means. 64 samples of 8 free means: their variance is known to 6 %."""
    target = prior_images(1)
    settings = rec.Schedule(sigmas=LEVELS, matching_steps=30, **FIXED_LEVEL)
    result = reconstructed(target, keys_of(64), settings, represent=first_blocks)
    means = np.asarray(blocks(result.images))
    np.testing.assert_allclose(means[:, :8], np.broadcast_to(first_blocks(target), (64, 8)), atol=0.02)
    rest = means[:, 8:] - PRIOR_MEAN
    assert (rest**2).mean() == pytest.approx(predicted_variance(LEVELS), rel=0.2)
    assert 0.3 < (rest**2).mean() / PRIOR_DEVIATION**2 < 1.2
    np.testing.assert_allclose(rest.mean(0), 0, atol=4 * rest.std() / 8)
    np.testing.assert_array_equal(result.stop, sampling.CONVERGED)
    np.testing.assert_array_equal(result.steps, 20)


def test_without_matching_it_is_pure_denoising_and_knows_nothing_of_the_target():
    settings = rec.Schedule(sigmas=LEVELS, matching_steps=0, **FIXED_LEVEL)
    result = reconstructed(prior_images(1), keys_of(64), settings, represent=first_blocks)
    means = np.asarray(blocks(result.images)) - PRIOR_MEAN
    assert (means[:, :8] ** 2).mean() == pytest.approx(predicted_variance(LEVELS), rel=0.2)
    np.testing.assert_allclose(means.mean(0), 0, atol=5 * means.std() / 8)
    assert jnp.isnan(result.log.first_loss).all() and jnp.isnan(result.log.last_loss).all()
    assert not result.log.updates.any()
    expected = MEAN[None]
    for step, sigma in enumerate(LEVELS):
        expected = gaussian_denoise(expected + sigma * noise_of(keys_of(64)[0], step, rec.STEP))
    np.testing.assert_allclose(result.images[0], expected[0], atol=1e-5)


def test_as_published_the_matching_of_all_samples_ends_with_that_of_the_slowest():
    settings = rec.Schedule(sigmas=(0.5,), tolerance=0.2, **FIXED_LEVEL)
    own = reconstructed(prior_images(3), keys_of(3), settings).log
    common = reconstructed(prior_images(3), keys_of(3), settings._replace(freeze=False)).log
    assert len(set(own.updates[:, 0].tolist())) > 1
    np.testing.assert_array_equal(common.updates, own.updates.max())
    np.testing.assert_array_equal(common.first_loss, own.first_loss)


def test_without_denoising_it_is_matching_alone_from_level_to_level():
    key, target = keys_of(1)[0], prior_images(1)
    settings = rec.Schedule(sigmas=(0.5, 0.2, 0.1), matching_steps=20, denoise=False, **FIXED_LEVEL)
    result = reconstructed(target, key[None], settings)
    image = MEAN[None]
    for step, sigma in enumerate(settings.sigmas):
        image = image + sigma * noise_of(key, step, rec.STEP)
        image = matched(image, texture(target), texture, max_steps=20).images
    np.testing.assert_allclose(result.images, image, atol=1e-5)
    assert int(result.steps[0]) == 3


# Reconstruction against plain loops


normal = jax.jit(rec.normal, static_argnums=3)


def noise_of(key, step, purpose):
    """[1 h w c]: what an image draws at a step."""
    return normal(key[None], jnp.array([step], jnp.int32), purpose, SHAPE)


def mean_phi(denoiser, image, key, step, sigma, draws):
    """Mean of represent(x + sigma z) over the draws, by hand."""
    phis = [denoiser.represent(image + sigma * noise_of(key, step, rec.TARGET_DRAWS + k)) for k in range(draws)]
    return sum(phis) / draws


adam = functools.cache(lambda rate, epsilon: optax.adam(rate, eps=epsilon))  # one object for each, so that jit knows it


def matched_by_hand(denoiser, image, target, settings):
    """(moved image, [first loss, last loss, updates])."""
    moved = matched(
        image, target, denoiser.represent, optimizer=adam(settings.learning_rate, settings.epsilon),
        max_steps=settings.matching_steps, tolerance=settings.tolerance,
    )  # fmt: skip
    steps = int(moved.steps[0])
    return moved.images, [float(moved.losses[0, 0]), float(moved.losses[0, steps - 1]), steps]


def scheduled_by_hand(denoiser, target_at, key, settings):
    """The fixed schedule for one image, as a plain loop: (image, losses and updates of each level)."""
    image, entries = MEAN[None], []
    for step, sigma in enumerate(settings.sigmas):
        noisy = image + sigma * noise_of(key, step, rec.STEP)
        moved, entry = matched_by_hand(denoiser, noisy, target_at(step, sigma), settings)
        image = denoiser.denoise(moved)
        entries.append([*entry, float(jnp.sqrt(jnp.mean((image - moved) ** 2)))])
    return image, np.array(entries)


def adapted_by_hand(denoiser, target_at, key, settings):
    """The blind version for one image, as a plain loop: (image, level, steps, log entries)."""
    image, sigma, step, entries = MEAN[None] + settings.sigma_0 * noise_of(key, 0, rec.START), settings.sigma_0, 0, []
    while sigma > settings.sigma_end:
        image, entry = matched_by_hand(denoiser, image, target_at(step, sigma), settings)
        r = image - denoiser.denoise(image)
        sigma = float(jnp.sqrt(jnp.mean(r**2)))
        entries.append([*entry, sigma])
        if sigma <= settings.sigma_end:
            break
        t = step + 1
        h = settings.h0 if settings.step_size == "fixed" else settings.h0 * t / (1 + settings.h0 * (t - 1))
        gamma = sigma * math.sqrt((1 - settings.beta * h) ** 2 - (1 - h) ** 2)
        image = image - h * r + gamma * noise_of(key, step, rec.STEP)
        sigma = float(jnp.sqrt(jnp.mean((image - denoiser.denoise(image)) ** 2)))
        step += 1
    return denoiser.denoise(image), sigma, step, np.array(entries)


def entries_of(log, i):
    """An image's log as [n, 4]."""
    return np.stack([np.asarray(field[i], np.float64) for field in log], axis=1)


def test_the_fixed_schedule_is_the_published_loop():
    denoiser, targets, keys = a_denoiser(), prior_images(2), keys_of(2)
    settings = rec.Schedule(
        sigmas=(1.0, 0.6, 0.3, 0.15, 0.07), draws=3, matching_steps=25, tolerance=0.05, learning_rate=0.02, epsilon=1e-4
    )
    result = reconstructed(targets, keys, settings, denoiser)
    for i in range(2):
        image, entries = scheduled_by_hand(
            denoiser, lambda step, sigma, i=i: mean_phi(denoiser, targets[i][None], keys[i], step, sigma, 3),
            keys[i], settings,
        )  # fmt: skip
        assert len(set(entries[:, 2])) > 1
        np.testing.assert_allclose(result.images[i], image[0], atol=1e-4)
        np.testing.assert_allclose(entries_of(result.log, i), entries, rtol=2e-3)
    np.testing.assert_allclose(result.sigma, result.log.sigma[:, -1])


@pytest.mark.parametrize("step_size", ["fixed", "increasing"])
def test_the_blind_version_is_the_published_loop_and_each_image_stops_on_its_own(step_size):
    denoiser, targets, keys = a_denoiser(), prior_images(2), keys_of(2, seed=6)
    settings = rec.Adaptive(
        sigma_end=0.1, h0=0.25, beta=0.6, step_size=step_size, draws=2, matching_steps=10, tolerance=0.05, max_steps=60
    )
    result = reconstructed(targets, keys, settings, denoiser)
    steps = []
    for i in range(2):
        image, sigma, made, entries = adapted_by_hand(
            denoiser, lambda step, sigma, i=i: mean_phi(denoiser, targets[i][None], keys[i], step, sigma, 2),
            keys[i], settings,
        )  # fmt: skip
        steps.append(made)
        np.testing.assert_allclose(result.images[i], image[0], atol=2e-4)
        assert float(result.sigma[i]) == pytest.approx(sigma, rel=1e-3)
        log = entries_of(result.log, i)
        np.testing.assert_allclose(log[: len(entries)], entries, rtol=5e-3)
        assert np.isnan(log[len(entries) :, [0, 1, 3]]).all() and not log[len(entries) :, 2].any()
    np.testing.assert_array_equal(result.steps, steps)
    assert steps[0] != steps[1] and min(steps) > 2
    np.testing.assert_array_equal(result.stop, sampling.CONVERGED)


# Conditioners


SHORT = rec.Schedule(sigmas=(1.0, 0.5, 0.2), matching_steps=5, tolerance=0.05, **FIXED_LEVEL)


@pytest.fixture(scope="module")
def of_one_image():
    """Two samples of one image's phi."""
    return reconstructed(prior_images(1), keys_of(2), SHORT)


def test_one_conditioner_for_all_is_that_conditioner_for_each(of_one_image):
    tiled = reconstructed(jnp.repeat(prior_images(1), 2, axis=0), keys_of(2), SHORT)
    chex.assert_trees_all_close(tiled, of_one_image, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(8,), (3, 1, 8)])
def test_a_phi_given_directly_is_as_good_as_the_image_it_is_from(of_one_image, shape):
    phi = jnp.broadcast_to(texture(prior_images(1))[0], shape)
    target = rec.Conditioner(phi=phi) if len(shape) == 3 else phi
    chex.assert_trees_all_close(reconstructed(target, keys_of(2), SHORT), of_one_image, rtol=1e-4, atol=1e-6)


def test_a_phi_for_each_level_and_sample_is_used_at_its_level_by_its_sample():
    phi = jnp.stack([texture(prior_images(2, seed=level)) for level in range(3)])
    result = reconstructed(rec.Conditioner(phi=phi), keys_of(2), SHORT)
    for i in range(2):
        image, entries = scheduled_by_hand(
            a_denoiser(), lambda step, sigma, i=i: phi[step, i][None], keys_of(2)[i], SHORT
        )
        np.testing.assert_allclose(result.images[i], image[0], atol=1e-4)
        np.testing.assert_allclose(entries_of(result.log, i), entries, rtol=2e-3)


def targets_of(conditioner, settings, sigma=(0.2, 0.7), step=3):
    """phi* of two samples at their noise levels."""
    state = rec.begin(MEAN, keys_of(2), settings)._replace(step=jnp.full(2, step, jnp.int32))
    return rec.target_phi(a_denoiser(), conditioner, state, jnp.array(sigma), settings)


@pytest.mark.parametrize("shape", [(8,), (1, 8), (2, 8), (5, 1, 8), (5, 2, 8)])
def test_a_phi_given_directly_is_the_target_of_its_level_and_sample(shape):
    phi = jax.random.normal(jax.random.key(0), shape)
    at_level_3 = phi[3] if len(shape) == 3 else phi
    target = targets_of(rec.Conditioner(phi=phi), rec.Schedule(sigmas=(5.0, 4.0, 3.0, 2.0, 1.0)))
    np.testing.assert_array_equal(target, jnp.broadcast_to(at_level_3, (2, 8)))


def test_the_target_is_the_mean_over_each_samples_own_draws_at_its_level():
    images = prior_images(2)
    target = targets_of(rec.Conditioner(images=images), rec.Schedule(draws=4))
    expected = [mean_phi(a_denoiser(), images[i][None], keys_of(2)[i], 3, (0.2, 0.7)[i], 4)[0] for i in range(2)]
    np.testing.assert_allclose(target, expected, rtol=1e-5)
    assert jnp.abs(target - texture(images)).max() > 0.01


def test_a_fixed_target_level_takes_the_place_of_the_images_own():
    images = prior_images(2)
    fixed = targets_of(rec.Conditioner(images=images), rec.Adaptive(target_sigma=0.4, draws=2))
    own = targets_of(rec.Conditioner(images=images), rec.Adaptive(draws=2), sigma=(0.4, 0.4))
    np.testing.assert_allclose(fixed, own, rtol=1e-6)
    assert jnp.abs(fixed - targets_of(rec.Conditioner(images=images), rec.Adaptive(draws=2))).max() > 0.01


@pytest.mark.parametrize(("centroid", "collapse"), [("mean", np.mean), ("max", np.max)])
def test_a_centroid_collapses_the_phi_of_any_number_of_images(centroid, collapse):
    images = prior_images(3)
    conditioner = rec.Conditioner(images=images, centroid=centroid)
    clean = targets_of(conditioner, rec.Schedule(**FIXED_LEVEL))
    np.testing.assert_allclose(clean, np.tile(collapse(np.asarray(texture(images)), axis=0), (2, 1)), rtol=1e-5)
    noisy = targets_of(conditioner, rec.Schedule(draws=2))
    phis = np.zeros((2, 3, 8))
    for i, sigma in enumerate((0.2, 0.7)):
        for number in range(3):
            draws = [noise_of(keys_of(2)[i], 3, rec.TARGET_DRAWS + 2 * number + k) for k in range(2)]
            phis[i, number] = np.mean([texture(images[number][None] + sigma * z)[0] for z in draws], axis=0)
    np.testing.assert_allclose(noisy, collapse(phis, axis=1), rtol=1e-4)


def test_a_conditioners_mask_multiplies_its_phi():
    masks = jnp.array([[1.0, 0, 1, 1, 0, 1, 0.5, 1], [0, 1, 1, 1, 1, 1, 1, 1]])
    result = reconstructed(rec.Conditioner(images=prior_images(1), mask=masks), keys_of(2), SHORT)
    direct = reconstructed(texture(prior_images(1)) * masks, keys_of(2), SHORT)
    chex.assert_trees_all_close(result, direct, rtol=1e-4, atol=1e-6)
    first = reconstructed(rec.Conditioner(images=prior_images(1), mask=masks[0]), keys_of(2), SHORT)
    np.testing.assert_allclose(first.images[0], direct.images[0], atol=1e-5)
    assert jnp.abs(first.images[1] - direct.images[1]).max() > 1e-3


def test_the_largest_channels_are_kept_and_the_others_set_to_zero():
    phi = jnp.array([[0.5, 3.0, 2.0, 0.0], [5.0, 1.0, 1.0, 4.0]])
    np.testing.assert_array_equal(rec.keep_largest(phi, 2), [[0, 3, 2, 0], [5, 0, 0, 4]])
    np.testing.assert_array_equal(rec.keep_largest(phi, 3), [[0.5, 3, 2, 0], [5, 1, 0, 4]])
    np.testing.assert_array_equal(rec.keep_largest(phi, 4), phi)


def test_keeping_the_largest_channels_of_a_target_is_masking_its_others():
    phi = texture(prior_images(2))
    kept = phi >= jnp.sort(phi, axis=1)[:, 5:6]  # the three largest of eight
    result = reconstructed(rec.Conditioner(images=prior_images(2), keep=3), keys_of(2), SHORT)
    direct = reconstructed(phi * kept, keys_of(2), SHORT)
    chex.assert_trees_all_close(result, direct, rtol=1e-4, atol=1e-6)


# One program, any batch, any cut


RUNS = {
    "schedule": rec.Schedule(sigmas=(1.0, 0.6, 0.35, 0.2, 0.1), draws=2, matching_steps=5),
    "adaptive": rec.Adaptive(sigma_end=0.25, h0=0.4, beta=0.6, draws=2, matching_steps=5, max_steps=8),
}


@pytest.mark.parametrize("name", RUNS)
def test_samples_depend_neither_on_their_batch_nor_on_the_number_of_devices(name):
    settings, keys = RUNS[name], jax.random.key_data(keys_of(3))

    def run(target, keys):
        return rec.reconstruct(a_denoiser(), target, jax.random.wrap_key_data(keys), mean=MEAN, settings=settings)

    compiled, target = jax.jit(run), prior_images(1)
    alone = [compiled(target, keys[i : i + 1]) for i in range(3)]
    assert len(jax.local_devices()) == 2
    together = devices.parallel_map(run, 3)(devices.replicate(target), keys)  # two on each device, one of them a filler
    chex.assert_trees_all_close(
        together, jax.tree.map(lambda *parts: jnp.concatenate(parts), *alone), rtol=1e-3, atol=1e-5
    )


def test_a_reconstruction_is_one_program_under_jit_with_the_target_inside_it(of_one_image):
    target = prior_images(1)
    result = jax.jit(chex.assert_max_traces(n=1)(lambda keys: reconstructed(target, keys, SHORT)))(keys_of(2))
    chex.assert_trees_all_close(result, of_one_image, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_cut_into_parts_is_the_same_run(name):
    settings, conditioner = RUNS[name], rec.Conditioner(images=prior_images(3))
    start = rec.begin(MEAN, keys_of(3), settings)

    def advance(steps):
        return jax.jit(lambda state: rec.advance(a_denoiser(), conditioner, state, settings=settings, steps=steps))

    whole, log = advance(8)(start)
    stretch, state, logs = advance(2), start, []
    for _ in range(4):
        state, part = stretch(state)
        logs.append(part)
    np.testing.assert_array_equal(whole.stop == sampling.RUNNING, False)
    chex.assert_trees_all_equal(state._replace(keys=None), whole._replace(keys=None))
    chex.assert_trees_all_equal(jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1), *logs), log)


# How runs end


def test_a_run_that_leaves_its_steps_unfinished_says_so():
    settings = rec.Adaptive(sigma_end=0.01, h0=0.1, beta=0.1, matching_steps=2, max_steps=3)
    result = reconstructed(prior_images(1), keys_of(2), settings)
    np.testing.assert_array_equal(result.stop, sampling.MAX_STEPS)
    np.testing.assert_array_equal(result.steps, 3)
    assert (result.sigma > 0.01).all() and result.log.sigma.shape == (2, 3)


def test_an_image_that_arrives_by_matching_is_not_moved_on():
    settings, quiet = RUNS["adaptive"]._replace(matching_steps=0), prior_images(1)
    start = rec.begin(MEAN, keys_of(2), settings)
    start = start._replace(images=start.images.at[0].set(quiet[0]))  # as if matching had brought it there
    target = rec.Conditioner(images=quiet)
    state, log = jax.jit(lambda state: rec.advance(a_denoiser(), target, state, settings=settings, steps=1))(start)
    np.testing.assert_array_equal(state.images[0], quiet[0])
    np.testing.assert_array_equal(state.stop, [sampling.CONVERGED, sampling.RUNNING])
    np.testing.assert_array_equal(state.step, [0, 1])
    np.testing.assert_array_equal(state.sigma[0], log.sigma[0, 0])


def failing_denoise(images):
    """Far from the prior it amplifies; very far from it, it gives NaN."""
    level = images.mean((1, 2, 3), keepdims=True)
    return jnp.where(level > 50, jnp.nan, jnp.where(level > 2, 3 * images, gaussian_denoise(images)))


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("adaptive", [sampling.DIVERGED, sampling.NOT_FINITE, sampling.CONVERGED]),
        # A schedule has no bound on the level: what is amplified goes on until it is NaN.
        ("schedule", [sampling.NOT_FINITE, sampling.NOT_FINITE, sampling.CONVERGED]),
    ],
)
def test_an_image_that_fails_says_how_and_does_not_spoil_its_neighbour(name, codes):
    settings, denoiser = RUNS[name], a_denoiser(failing_denoise)
    phi = rec.Conditioner(phi=texture(prior_images(1))[0])
    advance = jax.jit(lambda state: rec.advance(denoiser, phi, state, settings=settings, steps=8))
    start = rec.begin(MEAN, keys_of(3), settings)
    state, log = advance(start._replace(images=start.images + jnp.array([4.0, 100.0, 0.0]).reshape(3, 1, 1, 1)))
    np.testing.assert_array_equal(state.stop, codes)
    np.testing.assert_array_equal(rec.finish(denoiser, state, log, settings).stop, codes)
    assert (log.updates[1] > 0).sum() == 1 < (log.updates[2] > 0).sum()
    sound, sound_log = advance(start)
    np.testing.assert_array_equal(sound.stop, sampling.CONVERGED)
    np.testing.assert_array_equal(state.images[2], sound.images[2])
    chex.assert_trees_all_equal(*(jax.tree.map(lambda leaf: leaf[2], log) for log in (log, sound_log)))


# Bad input

SETTINGS = [
    (rec.Schedule(sigmas=()), "sigmas needs one or more noise levels above 0; got ()"),
    (rec.Schedule(sigmas=(1.0, 0.5, 0.5)), "got 0.5 and then 0.5"),
    (rec.Schedule(sigmas=(0.1, 0.9)), "got 0.1 and then 0.9"),
    (rec.Schedule(sigmas=(1.0, -0.5)), "-0.5"),
    (rec.Schedule(sigmas=(1.0, math.nan)), "nan"),
    (rec.Schedule(draws=0), "draws = 0"),
    (rec.Schedule(matching_steps=-1), "matching_steps = -1"),
    (rec.Schedule(tolerance=1.0), "tolerance = 1"),
    (rec.Schedule(tolerance=-0.1), "tolerance = -0.1"),
    (rec.Schedule(epsilon=0.0), "epsilon = 0"),
    (rec.Schedule(learning_rate=-0.01), "learning_rate = -0.01"),
    (rec.Schedule(target_sigma=-1.0), "target_sigma = -1"),
    (rec.Adaptive(h0=0.0), "h0 = 0"),
    (rec.Adaptive(h0=1.5), "h0 = 1.5"),
    (rec.Adaptive(beta=0.0), "beta = 0"),
    (rec.Adaptive(beta=2.0), "beta = 2"),
    (rec.Adaptive(sigma_0=0.5, sigma_end=0.5), "sigma_end = 0.5 must be above 0 and below sigma_0 = 0.5"),
    (rec.Adaptive(sigma_end=0.0), "sigma_end = 0"),
    (rec.Adaptive(max_steps=0), "max_steps = 0"),
    (rec.Adaptive(step_size="growing"), "'growing'"),
    (rec.Adaptive(draws=0), "draws = 0"),
]


def refusal(call):
    """The one line with which a call is refused."""
    with pytest.raises(InputError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(("settings", "words"), SETTINGS)
def test_settings_that_cannot_work_are_refused_in_one_line(settings, words):
    assert words in refusal(lambda: reconstructed(prior_images(1), keys_of(2), settings))


NOT_A_NUMBER = jnp.full((1, *SHAPE), 0.5).at[0, 0, 0, 0].set(jnp.nan)
TARGETS = [
    (jnp.ones(7), "phi of shape (7,) fits none of [(8,), (1, 8), (2, 8)"),
    (jnp.ones((3, 8)), "phi of shape (3, 8)"),
    (rec.Conditioner(phi=jnp.ones((2, 1, 8))), "phi of shape (2, 1, 8)"),
    (jnp.ones(8).at[3].set(jnp.nan), "target phi has 1 of 8 values"),
    (NOT_A_NUMBER, "conditioner has 1 of 64 values"),
    (jnp.ones((3, *SHAPE)), "3 conditioners fit neither 2 samples"),
    (jnp.ones((1, 4, 8, 1)), "(1, 4, 8, 1)"),
    (rec.Conditioner(), "give one of them"),
    (rec.Conditioner(images=jnp.ones((1, *SHAPE)), phi=jnp.ones(8)), "give one of them"),
    (rec.Conditioner(images=jnp.ones((3, *SHAPE)), centroid="median"), "'median' is unknown. Known: mean, max"),
    (rec.Conditioner(phi=jnp.ones(8), centroid="mean"), "without centroid"),
    (rec.Conditioner(phi=jnp.ones(8), mask=jnp.ones(5)), "mask of shape (5,) does not fit"),
    (rec.Conditioner(phi=jnp.ones(8), keep=9), "keep = 9"),
    (rec.Conditioner(phi=jnp.ones(8), keep=-1), "keep = -1"),
]


@pytest.mark.parametrize(("target", "words"), TARGETS)
def test_targets_that_do_not_fit_are_refused_in_one_line(target, words):
    assert words in refusal(lambda: reconstructed(target, keys_of(2), SHORT))


def test_levels_of_phi_fit_a_schedule_alone():
    target = rec.Conditioner(phi=jnp.ones((3, 1, 8)))
    assert "(3, 1, 8)" in refusal(lambda: reconstructed(target, keys_of(2), rec.Adaptive()))


@pytest.mark.parametrize("settings", [SHORT, RUNS["adaptive"]])
def test_a_mean_image_that_is_not_finite_is_refused(settings):
    message = refusal(
        lambda: rec.reconstruct(a_denoiser(), jnp.ones(8), keys_of(2), mean=NOT_A_NUMBER[0], settings=settings)
    )
    assert "mean image has 2 of 128 values" in message


def test_no_samples_at_all_are_refused():
    assert "0 samples" in refusal(lambda: reconstructed(prior_images(1), keys_of(2)[:0], SHORT))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"max_steps": 0}, "max_steps = 0"),
        ({"tolerance": 1.0}, "tolerance = 1"),
        ({"tolerance": -0.5}, "tolerance = -0.5"),
    ],
)
def test_matching_that_cannot_work_is_refused_in_one_line(settings, words):
    assert words in refusal(lambda: rec.match(linear, images_of(2), jnp.ones((2, CHANNELS)), **settings))


def test_targets_of_another_length_than_phi_are_refused():
    message = refusal(lambda: rec.match(linear, images_of(2), jnp.ones((2, 7))))
    assert "(2, 7)" in message and "(2, 5)" in message
