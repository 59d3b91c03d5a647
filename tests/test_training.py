"""The loss, the step and its noise against formulas, numpy and torch-free reimplementations; devices do not matter."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from unetrep_jax import devices, models, noise, training
from unetrep_jax.storage import InputError

LEVELS = partial(noise.noise_levels, distribution="inv_sqrt", sigma_min=0.0, sigma_max=1.0)


class Scale:
    """A denoiser of one number: f(y) = a y. Its loss and gradient are known."""

    @staticmethod
    def apply(variables, images):
        return variables["params"]["a"] * images, {}


@pytest.fixture(scope="module")
def network():
    model = models.build("unet", channels=(4, 8), decoder_depth=2, mid_depth=1)
    return model, models.init_params(model, jax.random.key(0))


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)


INDEX = np.arange(8, dtype=np.int32)


def test_the_loss_sums_over_pixels_and_averages_over_images(images):
    step = training.train_step(Scale, optax.sgd(0.0), LEVELS, seed=3, batch_size=8)
    state = training.init_state({"a": jnp.float32(0.25)}, optax.sgd(0.0))
    _, metrics = jax.jit(step)(state, (images, INDEX))
    clean = images / np.float32(255)
    keys = noise.image_keys(jax.random.fold_in(jax.random.key(3), 0), INDEX)
    noisy, _ = training.draw_noise(keys, jnp.asarray(clean), LEVELS)
    error = 0.25 * np.asarray(noisy, np.float64) - clean
    assert float(metrics.loss) == pytest.approx((error**2).sum() / 8, rel=1e-5)
    gradient = (2 * error * np.asarray(noisy, np.float64)).sum() / 8
    assert float(metrics.gradient_norm) == pytest.approx(abs(gradient), rel=1e-5)


def test_inverse_sigma_weights_divide_each_images_error_by_its_noise_level(images):
    state = training.init_state({"a": jnp.float32(0.0)}, optax.sgd(0.0))
    step = training.train_step(Scale, optax.sgd(0.0), LEVELS, seed=3, batch_size=8, weight="inverse_sigma")
    _, metrics = jax.jit(step)(state, (images, INDEX))
    clean = jnp.asarray(images / np.float32(255))
    keys = noise.image_keys(jax.random.fold_in(jax.random.key(3), 0), INDEX)
    sigma = training.draw_noise(keys, clean, LEVELS)[1]
    expected = (np.asarray(clean, np.float64) ** 2).sum((1, 2, 3)) / np.maximum(
        np.asarray(sigma, np.float64), 1e-3
    ) ** 2
    assert float(metrics.loss) == pytest.approx(expected.sum() / 8, rel=1e-4)


def test_drawn_noise_has_the_drawn_level():
    keys = noise.image_keys(jax.random.key(0), jnp.arange(6))
    noisy, sigma = training.draw_noise(keys, jnp.zeros((6, 64, 64, 3)), LEVELS)
    chex.assert_trees_all_close(jnp.std(noisy, axis=(1, 2, 3)), sigma, rtol=0.03)
    assert len(np.unique(np.asarray(sigma))) == 6


def test_adam_takes_the_textbook_step(images):
    optimizer = training.adam(lambda _: 0.1)
    state = training.init_state({"a": jnp.float32(0.25)}, optimizer)
    step = jax.jit(training.train_step(Scale, optimizer, LEVELS, seed=0, batch_size=8))
    a, first, second = 0.25, 0.0, 0.0
    clean = images / np.float64(255)
    for t in range(1, 5):
        keys = noise.image_keys(jax.random.fold_in(jax.random.key(0), t - 1), INDEX)
        noisy = np.asarray(training.draw_noise(keys, jnp.asarray(clean, jnp.float32), LEVELS)[0], np.float64)
        gradient = (2 * (a * noisy - clean) * noisy).sum() / 8
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        a -= 0.1 * (first / (1 - 0.9**t)) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
        state, _ = step(state, (images, INDEX))
        assert float(state.params["a"]) == pytest.approx(a, rel=1e-4)
    assert int(state.step) == 4


def test_training_learns_the_best_scale_of_a_known_prior():
    """Images of independent N(0, 1) pixels at one noise level s: the best f(y) = a y is the Wiener gain 1 / (1 + s^2)."""
    optimizer, sigma = optax.sgd(2e-3), 0.5
    step = jax.jit(training.train_step(Scale, optimizer, lambda u: jnp.full_like(u, sigma), seed=0, batch_size=8))
    state = training.init_state({"a": jnp.float32(0.0)}, optimizer)
    images = np.random.default_rng(1).standard_normal((8, 16, 16, 1)).astype(np.float32)
    tail = []
    for _ in range(200):
        state, _ = step(state, (images, INDEX))
        tail.append(float(state.params["a"]))
    power = np.mean(images**2)
    assert np.mean(tail[100:]) == pytest.approx(power / (power + sigma**2), rel=0.02)


def test_averaged_parameters_follow_their_recursion(images):
    optimizer = training.adam(lambda _: 0.1)
    state = training.init_state({"a": jnp.float32(0.25)}, optimizer, average=True)
    step = jax.jit(training.train_step(Scale, optimizer, LEVELS, seed=0, batch_size=8, ema_decay=0.5))
    averaged = 0.25
    for t in range(12):
        state, _ = step(state, (images, INDEX))
        decay = min(0.5, (1 + t) / (10 + t))
        averaged = decay * averaged + (1 - decay) * float(state.params["a"])
        assert float(state.averaged["a"]) == pytest.approx(averaged, rel=1e-5)


def test_clipping_bounds_the_gradient():
    optimizer = training.adam(lambda _: 1.0, clip_norm=1e-9)
    updates, _ = optimizer.update({"a": jnp.float32(100.0)}, optimizer.init({"a": jnp.float32(0.0)}))
    # Adam divides by |g| + 1e-8: a gradient clipped to 1e-9 moves by 1e-9 / (1e-9 + 1e-8).
    assert float(updates["a"]) == pytest.approx(-1 / 11, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        ("halving", {}, {0: 1.0, 99: 1.0, 100: 0.5, 250: 0.25}),
        ("constant", {}, {0: 1.0, 999: 1.0}),
        ("cosine", {}, {0: 1.0, 500: 0.5, 1000: 0.0}),
        ("constant", {"warmup_steps": 10}, {0: 0.1, 4: 0.5, 9: 1.0, 50: 1.0}),
        ("cosine", {"warmup_steps": 200}, {99: 0.5, 199: 1.0, 600: 0.5, 1000: 0.0}),
    ],
)
def test_learning_rate_schedules(name, settings, expected):
    schedule = training.learning_rate_schedule(name, 1.0, steps=1000, halve_every=100, **settings)
    for step, rate in expected.items():
        assert float(schedule(step)) == pytest.approx(rate, abs=1e-6)


def test_unknown_names_are_refused():
    with pytest.raises(InputError, match="Known: halving"):
        training.learning_rate_schedule("halfing", 1.0, steps=1, halve_every=1)
    with pytest.raises(InputError, match="Known: one"):
        training.train_step(Scale, optax.sgd(0.0), LEVELS, seed=0, batch_size=8, weight="two")


def test_random_crops_are_parts_of_their_image_at_all_positions():
    image = np.arange(36, dtype=np.uint8).reshape(6, 6, 1)
    crops = training.random_crops(
        noise.image_keys(jax.random.key(0), jnp.arange(400)), np.repeat(image[None], 400, 0), 4
    )
    corners = np.asarray(crops[:, 0, 0, 0])
    for crop, corner in zip(np.asarray(crops), corners, strict=True):
        np.testing.assert_array_equal(crop, image[corner // 6 : corner // 6 + 4, corner % 6 : corner % 6 + 4])
    counts = np.bincount(corners, minlength=36).reshape(6, 6)[:3, :3]
    assert counts.sum() == 400 and counts.min() > 20


def test_random_flips_exchange_left_and_right_of_half_of_the_images_and_nothing_else():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    seen = np.asarray(training.random_flips(noise.image_keys(jax.random.key(0), jnp.arange(400)), np.repeat(image[None], 400, 0)))
    mirrored = (seen == image[:, ::-1]).all((1, 2, 3))
    assert (mirrored | (seen == image).all((1, 2, 3))).all() and 160 < mirrored.sum() < 240


def test_a_step_with_flips_sees_mirror_images_under_the_same_noise(images):
    def after(shown, flip):
        step = training.train_step(Scale, optax.sgd(0.0), LEVELS, seed=0, batch_size=8, flip=flip)
        start = training.init_state({"a": jnp.float32(0.5)}, optax.sgd(0.0))
        return float(jax.jit(step)(start, (shown, INDEX))[1].loss)

    symmetric = np.concatenate([images, images[:, :, ::-1]], axis=2)
    assert after(symmetric, True) == after(symmetric, False)
    keys = noise.image_keys(jax.random.fold_in(jax.random.key(0), 0), INDEX)
    mirrored = np.asarray(training.random_flips(keys, images))
    assert after(images, True) == after(mirrored, False) != after(images, False)


def test_one_step_on_two_devices_equals_one_step_on_one(network, images):
    model, params = network
    optimizer = optax.sgd(1e-3)
    settings = {"seed": 0, "batch_size": 8, "crop": 0}
    start = devices.to_host(training.init_state(params, optimizer))
    alone, metrics = jax.jit(training.train_step(model, optimizer, LEVELS, **settings))(start, (images, INDEX))
    halves = training.loss_and_gradient(model, LEVELS, **settings), training.update_step(optimizer)
    spread = devices.parallel_step(*halves, needs=training.params_and_step)
    together, metrics_together = spread(devices.replicate(start), (images, INDEX))
    assert jax.device_count() == 2
    chex.assert_trees_all_close(metrics_together, metrics, rtol=1e-5)
    chex.assert_trees_all_close(devices.to_host(together), devices.to_host(alone), rtol=1e-4, atol=1e-6)


def test_the_step_is_compiled_once(network, images):
    model, params = network
    optimizer = training.adam(lambda _: 1e-3)
    halves = training.loss_and_gradient(model, LEVELS, seed=0, batch_size=8), training.update_step(optimizer)
    once = (chex.assert_max_traces(n=1)(half) for half in halves)
    spread = devices.parallel_step(*once, needs=training.params_and_step)
    state = devices.replicate(training.init_state(params, optimizer))
    losses = []
    for _ in range(3):
        state, metrics = spread(state, (images, INDEX))
        losses.append(float(metrics.loss))
    assert len(set(losses)) == 3 and int(state.step) == 3


def test_psnr_of_the_identity_is_the_input_psnr_and_a_perfect_denoiser_has_none_to_lose(images):
    sigmas = jnp.array([0.1, 0.5])
    rows = (images, INDEX)
    denoised, noisy = jax.jit(training.psnr_step(lambda _, y, sigma: y, seed=0))((jnp.zeros(()), sigmas), rows)
    chex.assert_trees_all_close(denoised, noisy)
    chex.assert_trees_all_close(noisy.mean(0), -20 * jnp.log10(sigmas), atol=0.5)
    halved, _ = jax.jit(training.psnr_step(lambda c, y, sigma: c + 0 * y, seed=0))((jnp.float32(0.5), sigmas), rows)
    expected = -10 * np.log10(np.mean((images / 255 - 0.5) ** 2, axis=(1, 2, 3)))
    np.testing.assert_allclose(halved, np.stack([expected, expected], 1), rtol=1e-5)


def test_evaluation_noise_is_the_same_in_any_grid_and_batch(images):
    step = jax.jit(training.psnr_step(lambda _, y, sigma: y, seed=0))
    whole = step((jnp.zeros(()), jnp.array([0.1, 0.5])), (images, INDEX))[1]
    part = step((jnp.zeros(()), jnp.array([0.5])), (images[3:5], INDEX[3:5]))[1]
    chex.assert_trees_all_equal(whole[3:5, 1:], part)
