"""The denoising loss, one pure training step, and evaluation on fixed noise.

    L = (1/B) sum_i || w_i (f(x_i + s_i z_i) - x_i) ||^2      (arXiv 2506.01912, equation 1)

The squared norm sums over pixels and channels; s_i is drawn for each image; w_i is 1 (the paper's models) or 1/s_i.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, PyTree

from unetrep_jax import noise
from unetrep_jax.storage import InputError

WEIGHTS: dict[str, Callable] = {"one": jnp.ones_like, "inverse_sigma": lambda sigma: 1 / jnp.maximum(sigma, 1e-3)}
SCHEDULES = ("halving", "constant", "cosine")


class TrainState(NamedTuple):
    """All that the next training step needs.

    Attributes:
      step: updates made so far, int32.
      params: the network's parameters.
      averaged: their exponential moving average, or None when none is kept.
      optimizer: optax's state.
    """

    step: Int[Array, ""]
    params: PyTree
    averaged: PyTree | None
    optimizer: PyTree


def params_and_step(state: TrainState) -> tuple[PyTree, Array]:
    """What of the state a gradient is computed from."""
    return state.params, state.step


class Metrics(NamedTuple):
    """What one step reports: the loss on its batch, and the norm of the gradient before clipping."""

    loss: Float[Array, ""]
    gradient_norm: Float[Array, ""]


def learning_rate_schedule(
    name: str, learning_rate: float, *, steps: int, halve_every: int, warmup_steps: int = 0
) -> Callable[[Any], Any]:
    """Learning rate as a function of the step.

    halving: lr 2^(-floor(step / halve_every)), the paper's (every 100 epochs); constant: lr; cosine: lr (1 + cos(pi t)) / 2 with t
    from 0 at the end of the warm-up to 1 at `steps`. A warm-up multiplies any of them by (step + 1) / warmup_steps until it ends.
    """
    if name not in SCHEDULES:
        raise InputError(f"train.schedule {name!r} is unknown. Known: {', '.join(SCHEDULES)}.")

    def schedule(step):
        if name == "halving":
            rate = learning_rate * 0.5 ** jnp.floor(step / halve_every)
        elif name == "cosine":
            t = jnp.clip((step - warmup_steps) / max(steps - warmup_steps, 1), 0, 1)
            rate = learning_rate * 0.5 * (1 + jnp.cos(jnp.pi * t))
        else:
            rate = learning_rate * jnp.ones(())
        return rate * jnp.minimum(1, (step + 1) / warmup_steps) if warmup_steps else rate

    return schedule


def adam(schedule: Callable[[Any], Any], clip_norm: float = 0.0) -> optax.GradientTransformation:
    """Adam with optax's default moments; gradients are first scaled down to the global norm `clip_norm`, where that is > 0."""
    clip = [optax.clip_by_global_norm(clip_norm)] if clip_norm > 0 else []
    return optax.chain(*clip, optax.adam(schedule))


def init_state(params: PyTree, optimizer: optax.GradientTransformation, *, average: bool = False) -> TrainState:
    """The state before the first step. With `average`, the moving average starts as the initial parameters."""
    return TrainState(jnp.zeros((), jnp.int32), params, params if average else None, optimizer.init(params))


def denoising_loss(
    denoise: Callable, clean: Float[Array, "b h w c"], noisy: Float[Array, "b h w c"], weight: Float[Array, " b"]
) -> Float[Array, ""]:
    """Sum over images of || w (f(noisy) - clean) ||^2, the norm over pixels and channels."""
    error = (denoise(noisy) - clean) * weight[:, None, None, None]
    return jnp.sum(error**2)


def draw_noise(
    keys: Key[Array, " b"], clean: Float[Array, "b h w c"], levels: Callable
) -> tuple[Float[Array, "b h w c"], Float[Array, " b"]]:
    """A noisy version of each image at a level of its own: (noisy, sigma). `levels` maps uniforms to noise levels."""
    for_level, for_noise = jax.vmap(lambda key: tuple(jax.random.split(key)))(keys)
    sigma = levels(jax.vmap(jax.random.uniform)(for_level))
    return noise.add_noise(for_noise, clean, sigma), sigma


def random_crops(keys: Key[Array, " b"], images: Array | np.ndarray, side: int) -> Array:
    """A random square of each image, [b h w c] -> [b side side c]; all positions are equally likely."""
    height, width, channels = images.shape[1:]

    def crop(key, image):
        # Not `split`: the same key draws the noise.
        row, column = jax.random.randint(jax.random.fold_in(key, 2), (2,), 0, jnp.array([height, width]) - side + 1)
        return jax.lax.dynamic_slice(image, (row, column, 0), (side, side, channels))

    return jax.vmap(crop)(keys, images)


def random_flips(keys: Key[Array, " b"], images: Array | np.ndarray) -> Array:
    """Each image [h w c] or, as likely, its mirror image: left and right exchanged."""

    def flip(key, image):
        mirrored = jax.random.bernoulli(jax.random.fold_in(key, 3))  # not `split`, and not 2: the same key draws noise and crop
        return jnp.where(mirrored, image[:, ::-1], image)

    return jax.vmap(flip)(keys, jnp.asarray(images))


def loss_and_gradient(
    model: Any,
    levels: Callable,
    *,
    seed: int,
    batch_size: int,
    weight: str = "one",
    crop: int = 0,
    flip: bool = False,
) -> Callable[[tuple[PyTree, Array], tuple[Array, Array]], tuple[Array, PyTree]]:
    """The first half of a training step: ((params, step), (images, index)) -> (loss, gradient); sums over the images.

    Args:
      model: Flax module, call -> (denoised, activations).
      levels: uniforms [b] in [0, 1) -> noise levels [b] (see `noise.noise_levels`).
      seed: of the run. An image's noise depends on (seed, step, its index in the whole batch) alone.
      batch_size: images of the whole batch, over all devices: the loss is divided by it.
      weight: a key of `WEIGHTS`; inverse_sigma is bounded at sigma = 0.001.
      crop: side in pixels of a random square of each image to train on; 0 trains on whole images.
      flip: exchange left and right of each image half of the times.
    """
    if weight not in WEIGHTS:
        raise InputError(f"train.weight {weight!r} is unknown. Known: {', '.join(WEIGHTS)}.")

    def of_images(given, batch):
        (params, number), (images, index) = given, batch
        keys = noise.image_keys(jax.random.fold_in(jax.random.key(seed), number), index)
        images = random_crops(keys, images, crop) if crop else images
        clean = noise.to_unit(random_flips(keys, images) if flip else images)
        noisy, sigma = draw_noise(keys, clean, levels)

        def loss(params):
            def denoise(y):
                return model.apply({"params": params}, y)[0]

            return denoising_loss(denoise, clean, noisy, WEIGHTS[weight](sigma)) / batch_size

        return jax.value_and_grad(loss)(params)

    return of_images


def update_step(
    optimizer: optax.GradientTransformation, *, ema_decay: float = 0.0
) -> Callable[[TrainState, tuple[Array, PyTree]], tuple[TrainState, Metrics]]:
    """The second half: (state, (loss, gradient) of the whole batch) -> (state, metrics).

    Args:
      optimizer: optax transformation.
      ema_decay: 0 keeps no average; else averaged <- d averaged + (1 - d) params, d = min(ema_decay, (1 + t) / (10 + t)).
    """

    def update(state, summed):
        loss, gradient = summed
        updates, optimizer_state = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        averaged = state.averaged
        if ema_decay > 0:
            decay = jnp.minimum(ema_decay, (1 + state.step) / (10 + state.step))
            averaged = optax.incremental_update(params, averaged, 1 - decay)
        return TrainState(state.step + 1, params, averaged, optimizer_state), Metrics(loss, optax.tree.norm(gradient))

    return update


def train_step(
    model: Any, optimizer: optax.GradientTransformation, levels: Callable, *, ema_decay: float = 0.0, **settings: Any
) -> Callable[[TrainState, tuple[Array, Array]], tuple[TrainState, Metrics]]:
    """The pure training step on one device: (state, (images, index)) -> (state, metrics).

    `settings` are those of `loss_and_gradient`. For several devices see `devices.parallel_step`, which takes the halves.
    """
    gradient, update = loss_and_gradient(model, levels, **settings), update_step(optimizer, ema_decay=ema_decay)
    return lambda state, batch: update(state, gradient(params_and_step(state), batch))


def psnr_step(denoise: Callable, *, seed: int) -> Callable:
    """Evaluation: ((constants, sigmas [levels]), (images [b h w c], index [b])) -> PSNR in dB, [b levels], (denoised, noisy).

    The noise of an image depends on (seed, sigma, its index in the set) alone, so that evaluations compare.

    Args:
      denoise: (constants, noisy [b h w c], sigma) -> clean estimate; a blind denoiser ignores sigma.
      seed: of the noise.
    """

    def evaluate(constants, rows):
        constants, sigmas = constants
        pictures = denoise_step(denoise, seed=seed)

        def at_level(_, sigma):
            clean, noisy, denoised = pictures((constants, sigma), rows)
            return None, (noise.psnr(denoised, clean), noise.psnr(noisy, clean))

        # One level after another: the memory of one batch, whatever the number of levels.
        _, (denoised, noisy) = jax.lax.scan(at_level, None, sigmas)
        return denoised.T, noisy.T

    return evaluate


def denoise_step(denoise: Callable, *, seed: int) -> Callable:
    """((constants, sigma), (images [b h w c], index [b])) -> (clean, noisy, denoised), with the noise of `psnr_step`."""

    def pictures(constants, rows):
        constants, sigma = constants
        clean, noisy = clean_and_noisy(rows, sigma, seed)
        return clean, noisy, denoise(constants, noisy, sigma)

    return pictures


def clean_and_noisy(rows: tuple[Array, Array], sigma: Array, seed: int) -> tuple[Array, Array]:
    """(images [b h w c], index [b]) -> the images in [0, 1], and with noise that depends on (seed, sigma, index) alone."""
    images, index = rows
    clean = noise.to_unit(images)
    keys = noise.image_keys(noise.level_key(jax.random.key(seed), sigma), index)
    return clean, noise.add_noise(keys, clean, sigma)
