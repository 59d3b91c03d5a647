"""What `reconstruction.py` works on, and our programs for it.

The network and the images are the same for both sides; ours runs as a stage of the analysis does, over two virtual devices.
"""

import argparse
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from unetrep_jax import checkpoints, data, denoiser, devices, models, reconstruction
from unetrep_jax.storage import InputError

SIGMA_0, SIGMA_END = 1.0, 0.03


class Problem(NamedTuple):
    """What both sides work on.

    Attributes:
      model, params: the network; host arrays.
      constants: (params, mean image), on every device.
      targets, others: images in [0, 1]; the others only centre phi.
      keys: data of one random key for each target.
      mean: constant image of the mean colour.
    """

    model: models.UNet
    params: Any
    constants: Any
    targets: np.ndarray
    others: np.ndarray
    keys: np.ndarray
    mean: np.ndarray


def over_devices(problem: Problem, step: Callable) -> Callable:
    """`step(denoiser, mean, *rows) -> rows` as one program over the devices, for as many rows as there are targets."""

    def bound(constants, rows):
        params, mean = constants
        return step(denoiser.bind(problem.model, params), mean, *rows)

    call = devices.parallel_map(bound, len(problem.targets))
    return lambda *rows: call(problem.constants, rows)


def open_network(arguments: argparse.Namespace) -> tuple[models.UNet, Any]:
    """The checkpoint's network, or the published one of some width with random weights."""
    if not arguments.ckpt:
        model = models.UNet(channels=tuple(arguments.width * 2**j for j in range(4)))
        return model, models.init_params(model, jax.random.key(0))
    opened = checkpoints.open_checkpoint(arguments.ckpt)
    model = models.build(**opened.config["model"], image_channels=opened.config["data"]["image_channels"])
    if (model.norm, model.bias, model.dtype) != ("layer", True, "float32"):
        raise InputError(
            f"{arguments.ckpt} has norm={model.norm}, bias={model.bias}, dtype={model.dtype}; the published network, to which it "
            "would be compared, has layer, True, float32."
        )
    return model, opened.params


def open_problem(arguments: argparse.Namespace) -> Problem:
    """Targets and other images spread evenly over the set, and the network."""
    model, params = open_network(arguments)
    form = {"image_size": arguments.image_size, "image_channels": model.image_channels, "stride": model.stride}
    images = data.open_images(arguments.images, **form).images
    count = arguments.targets
    if len(images) < count + 2:
        raise InputError(f"--images has {len(images)} images; {count} targets and 2 others or more are needed.")
    chosen = np.linspace(0, len(images) - 1, min(len(images), count + arguments.others)).astype(int)
    is_target = np.isin(np.arange(len(chosen)), np.linspace(0, len(chosen) - 1, count).astype(int))
    chosen_images = np.asarray(images[chosen], np.float32) / 255
    mean = np.broadcast_to(chosen_images.mean(axis=(0, 1, 2)), chosen_images.shape[1:]).copy()
    params = jax.tree.map(np.asarray, params)
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), count)))
    constants = devices.replicate((params, mean), local=True)
    return Problem(model, params, constants, chosen_images[is_target], chosen_images[~is_target], keys, mean)


def published_epsilon(problem: Problem) -> float:
    """Adam's epsilon for an image's own gradient: the published one is of the mean loss over the batch, n times smaller."""
    return len(problem.targets) * reconstruction.EPSILON


def published_settings(problem: Problem, levels: np.ndarray, arguments: argparse.Namespace) -> reconstruction.Schedule:
    """The published algorithm, on some of its levels."""
    return reconstruction.Schedule(
        sigmas=tuple(levels.tolist()),
        matching_steps=arguments.matching_steps,
        tolerance=arguments.tolerance,
        freeze=False,
        epsilon=published_epsilon(problem),
    )


def our_match(problem: Problem, max_steps: int) -> Callable:
    """(images, targets) -> Matched, by the published algorithm with exactly `max_steps`."""
    optimizer = optax.adam(reconstruction.LEARNING_RATE, eps=published_epsilon(problem))

    def step(denoiser, _, images, targets):
        settings = {"optimizer": optimizer, "max_steps": max_steps, "tolerance": 0.0, "freeze": False}
        return reconstruction.match(denoiser.represent, images, targets, **settings)

    return over_devices(problem, step)


def compiled(problem: Problem, step: Callable) -> Callable:
    """() -> `step(denoiser, mean, targets, keys)`, after a first call that compiles it and costs one level: NaN ends it there."""
    call = over_devices(
        problem, lambda denoiser, mean, targets, keys: step(denoiser, mean, targets, jax.random.wrap_key_data(keys))
    )
    call(np.full_like(problem.targets, np.nan), problem.keys)
    return lambda: call(problem.targets, problem.keys)


def our_reconstruction(problem: Problem, settings: reconstruction.Schedule) -> Callable:
    """() -> Reconstruction of the targets, as a stage of the analysis runs it."""

    def step(denoiser, mean, targets, keys):
        return reconstruction.reconstruct(denoiser, targets, keys, mean=mean, settings=settings)

    return compiled(problem, step)


def our_reconstruction_with_match(problem: Problem, settings: reconstruction.Schedule) -> Callable:
    """() -> {"images", "matched"}: `our_reconstruction`, and its images as the last matching left them; the same work."""

    def step(denoiser, mean, targets, keys):
        state, conditioner = reconstruction.begin(mean, keys, settings), reconstruction.Conditioner(images=targets)
        for steps, denoise in ((len(settings.sigmas) - 1, denoiser.denoise), (1, lambda y: y)):
            part = denoiser._replace(denoise=denoise)
            state, _ = reconstruction.advance(part, conditioner, state, settings=settings, steps=steps)
        return {"images": denoiser.denoise(state.images), "matched": state.images}

    return compiled(problem, step)


def matching_problem(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Noise around the mean image, and phi of the noisy targets, at half the highest level."""
    noise = np.random.default_rng(0).standard_normal((2, *problem.targets.shape), np.float32) * np.float32(SIGMA_0 / 2)
    phi = over_devices(problem, lambda denoiser, _, images: denoiser.represent(images))(problem.targets + noise[0])
    return problem.mean + noise[1], phi
