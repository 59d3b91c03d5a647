"""Channel averages of every block, over images, noise levels and noise draws: phi and its relatives.

    abar_j(y) = spatial mean of the last post-ReLU output of block j
    phi_{j,s}(x) = E_z[ abar_j(x + s z) ],   z ~ N(0, I)          (arXiv 2506.01912, section 2)

phi without an index is the middle block's. The last decoder's output is the image, so it has no representation.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from unetrep_jax import devices, noise, storage
from unetrep_jax.denoiser import Denoiser, last_layers, spatial_mean


class Layout(NamedTuple):
    """Where each block's channels stand in the concatenation of all blocks' channel averages.

    Attributes:
      columns: block name -> (first, end) column, in the order in which the blocks run.
    """

    columns: dict[str, tuple[int, int]]

    @property
    def width(self) -> int:
        """Columns of all blocks."""
        return max(end for _, end in self.columns.values())

    def of(self, averages: Float[np.ndarray, "*n k"], block: str) -> Float[np.ndarray, "*n k2"]:
        """The columns of one block."""
        first, end = self.columns[block]
        return averages[..., first:end]


def represented_blocks(denoiser: Denoiser) -> tuple[str, ...]:
    """Blocks that have a representation: all but the last, whose output is the image."""
    return denoiser.block_names[:-1]


def block_inputs(denoiser: Denoiser) -> dict[str, str]:
    """Block -> the block whose output representation is its input: figure 1's pairs.

    Average pooling keeps a spatial mean, so encoder j+1 and the middle block have encoder j's output as input; a decoder's is the
    skip from the encoder of its scale. The first encoder and the last decoder are left out: theirs is the image.
    """
    names = represented_blocks(denoiser)
    encoders = [name for name in names if name.startswith("encoder")]
    inputs = dict(zip([*encoders[1:], "mid"], encoders, strict=True))
    return inputs | {name: name.replace("decoder", "encoder") for name in names if name.startswith("decoder")}


def layout(denoiser: Denoiser, image_shape: tuple[int, int, int]) -> Layout:
    """The columns of each block, from shapes alone (nothing is computed)."""
    shapes = jax.eval_shape(denoiser.activations, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))
    last, columns, first = last_layers(list(shapes)), {}, 0
    for name in represented_blocks(denoiser):
        end = first + shapes[last[name]].shape[-1]
        columns[name] = (first, end)
        first = end
    return Layout(columns)


def channel_averages(denoiser: Denoiser, images: Float[Array, "b h w c"]) -> tuple[Float[Array, "b _"], ...]:
    """abar of each block's last layer, a tuple in the order of `represented_blocks`; the last decoder is never run."""
    activations = denoiser.activations(images)
    last = last_layers(list(activations))
    return tuple(spatial_mean(activations[last[name]]) for name in represented_blocks(denoiser))


def noisy_draws(
    seed: int, sigma: Array, rows: tuple[Array, Int[Array, " b"]]
) -> tuple[Float[Array, "b h w c"], Callable]:
    """(clean images in [0, 1], draw -> clean + sigma z), with noise from (seed, sigma, the image's index, draw) alone."""
    images, index = rows
    clean = noise.to_unit(images)
    key = noise.level_key(jax.random.key(seed), sigma)
    return clean, lambda draw: noise.add_noise(noise.image_keys(jax.random.fold_in(key, draw), index), clean, sigma)


def noise_averages(denoiser: Denoiser, *, seed: int) -> Callable:
    """The sweep's step: ((sigma, draws), (images, index)) -> (mean [b, K], variance [b, blocks]).

    mean is phi_{j,s} estimated from `draws` noise draws, all blocks' columns side by side. variance is the realisation variance
    E_z || abar_j(x + s z) - phi_{j,s}(x) ||^2, summed over the block's channels, unbiased (NaN from one draw, 0 at s = 0).
    The noise depends on (seed, sigma, the image's index, draw) alone.
    """

    def step(constants: tuple[Array, Array], rows: tuple[Array, Int[Array, " b"]]):
        sigma, draws = constants
        clean, noisy = noisy_draws(seed, sigma, rows)

        def body(draw, moments):
            new = channel_averages(denoiser, noisy(draw))
            # Welford's update: one pass, no cancellation.
            means = tuple(mean + (a - mean) / (draw + 1) for a, (mean, _) in zip(new, moments, strict=True))
            return tuple(
                (after, squares + ((a - before) * (a - after)).sum(axis=1))
                for a, after, (before, squares) in zip(new, means, moments, strict=True)
            )

        shapes = jax.eval_shape(lambda y: channel_averages(denoiser, y), clean)
        zero = tuple((jnp.zeros(s.shape, jnp.float32), jnp.zeros(len(clean), jnp.float32)) for s in shapes)
        moments = jax.lax.fori_loop(0, draws, body, zero)
        mean = jnp.concatenate([mean for mean, _ in moments], axis=1)
        squares = jnp.stack([squares for _, squares in moments], axis=1)
        return mean, jnp.where(sigma == 0, 0.0, squares / jnp.where(draws > 1, draws - 1, jnp.nan))

    return step


def noise_averages_of(represent: Callable, *, seed: int) -> Callable:
    """((sigma, draws), (images, index)) -> mean of represent(x + sigma z) over the draws, [b, k]; the noise of `noise_averages`."""

    def step(constants: tuple[Array, Array], rows: tuple[Array, Int[Array, " b"]]):
        sigma, draws = constants
        clean, noisy = noisy_draws(seed, sigma, rows)

        def body(draw, total):
            return total + represent(noisy(draw)) / draws

        zero = jnp.zeros(jax.eval_shape(represent, clean).shape, jnp.float32)
        return jax.lax.fori_loop(0, draws, body, zero)

    return step


def sweep(
    denoiser: Denoiser,
    images: UInt8[np.ndarray, "n h w c"],
    folder: Path,
    key: str,
    *,
    sigmas: tuple[float, ...],
    draws: int,
    batch_size: int,
    seed: int,
    label: str = "representations",
) -> None:
    """Channel averages of all images at all noise levels, streamed to disk; a killed sweep goes on where it was.

    Writes `mean.npy` [n, levels, K] and `variance.npy` [n, levels, blocks] (see `noise_averages`), float32. Memory: one batch.

    Args:
      denoiser: what to look into.
      images: uint8 images.
      folder: where the arrays will be.
      key: names everything that determines them (checkpoint, images, settings).
      sigmas: noise levels, intensity units.
      draws: noise draws at each level above 0.
      batch_size: images at once, over the local devices.
      seed: of the noise.
      label: for the progress line.
    """
    columns, blocks = layout(denoiser, images.shape[1:]).width, len(represented_blocks(denoiser))
    shapes: Mapping = {"mean": ((len(sigmas), columns), np.float32), "variance": ((len(sigmas), blocks), np.float32)}
    writer = storage.RowWriter(folder, key, len(images), shapes)
    step = devices.parallel_map(noise_averages(denoiser, seed=seed), batch_size)
    with storage.Progress(label, len(images), done=writer.rows_done) as progress:
        for first in range(writer.rows_done, len(images), batch_size):
            index = np.arange(first, min(first + batch_size, len(images)), dtype=np.int32)
            rows = (np.asarray(images[index]), index)
            levels = [step((np.float32(s), np.int32(draws if s > 0 else 1)), rows) for s in sigmas]
            mean, variance = (np.stack(part, axis=1) for part in zip(*levels, strict=True))
            writer.append(mean=mean, variance=variance)
            progress.advance(len(index))
    writer.finish()
