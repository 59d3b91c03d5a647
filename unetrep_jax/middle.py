"""What the middle block is worth to the output: the denoiser without what it says of an image."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from unetrep_jax import devices, training
from unetrep_jax.denoiser import Middle


def psnr_held(read: Callable, denoise: Callable, *, seed: int, batch_size: int) -> Callable:
    """PSNR where decoders see, in place of an image's own middle block, the mean over all the other images at that noise level.

        middle_i = (sum_j read(y_j) - read(y_i)) / (n - 1), or 0 where n = 1;    PSNR of denoise(y_i, middle_i)

    That says nothing of the image, and is as large and as usual as what the decoders were trained with. All n images take part,
    whatever the batch or the number of devices.

    Args:
      read: (constants, noisy images [b h w c]) -> [b h' w' k]; see `denoiser.Middle`.
      denoise: (constants, noisy images, [b h' w' k]) -> clean estimate.
      seed: of the noise, which is that of `training.psnr_step`.
      batch_size: images at a time.

    Returns:
      (constants, images [n h w c], index [n] that names the noise of each, sigmas [levels] in intensity units, a function that is
      told how many images are done: each twice a level) -> PSNR in dB, [n, levels].
    """

    def read_noisy(constants, rows):
        constants, sigma = constants
        return read(constants, training.clean_and_noisy(rows, sigma, seed)[1])

    def denoise_held(constants, noisy, _sigma):
        constants, total, count = constants
        return denoise(constants, noisy, (total - read(constants, noisy)) / jnp.maximum(count - 1, 1))

    reading = devices.parallel_map(read_noisy, batch_size)
    measuring = devices.parallel_map(training.psnr_step(denoise_held, seed=seed), batch_size)

    def measure(
        constants: Any, images: Any, index: np.ndarray, sigmas: np.ndarray, done: Callable = lambda images: None
    ) -> np.ndarray:
        def batches():
            for first in range(0, len(images), batch_size):
                rows = slice(first, first + batch_size)
                yield np.asarray(images[rows]), np.int32(index[rows])

        def at_level(sigma):
            known = devices.replicate((constants, sigma[0]), local=True)
            total = np.float64(0)
            for rows in batches():
                total = total + reading(known, rows).sum(axis=0, keepdims=True, dtype=np.float64)
                done(len(rows[1]))
            held = constants, np.float32(total), np.float32(len(images))
            known, parts = devices.replicate((held, sigma), local=True), []
            for rows in batches():
                parts.append(measuring(known, rows)[0])
                done(len(rows[1]))
            return np.concatenate(parts)

        return np.concatenate([at_level(sigma) for sigma in np.split(sigmas, len(sigmas))], axis=1)

    return measure


def psnr_without(
    apart: Middle,
    images: np.ndarray,
    index: np.ndarray,
    sigmas: np.ndarray,
    *,
    seed: int,
    batch_size: int,
    done: Callable = lambda images: None,
) -> np.ndarray:
    """`psnr_held` of a denoiser whose parameters are fixed."""
    measure = psnr_held(
        lambda _, noisy: apart.read(noisy), lambda _, noisy, given: apart.denoise(noisy, given), seed=seed, batch_size=batch_size
    )
    return measure((), images, index, sigmas, done)
