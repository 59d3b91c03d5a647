"""How channel averages change when the whole image moves."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unetrep_jax import devices, measures, representation, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Arrays, Context, layout_of, spread
from unetrep_jax.stages.wording import estimate_of, quartiles_of

PADDING = {"trained": "zero padding", "circular": "circular padding", "untrained": "untrained"}


def stride_of(denoiser: Denoiser, shape: tuple[int, ...]) -> int:
    """Pixels from one location of the coarsest layer to the next, from shapes alone: 2^(number of encoders) of a UNet."""
    layers = jax.eval_shape(denoiser.activations, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return shape[0] // min(layer.shape[1] for layer in layers.values())


def shift_sizes(shape: tuple[int, ...], stride: int) -> np.ndarray:
    """Up to four multiples of the stride, evenly from one to half the image."""
    most = min(shape[:2]) // (2 * stride)
    return stride * np.unique(np.linspace(1, most, min(most, 4)).round().astype(int))


def move_images(context: Context, networks: dict[str, Denoiser], key: str, arrays: Arrays) -> dict:
    """Change of every block's averages when the image is moved round, over their length and over what two images differ by.

    Images carry noise at the working level, which moves along: nothing but location changes. It is one draw for all of them, so
    that the distance between two images, as the change, is between inputs with the same noise. That level and not 0 is our choice,
    for there every other measure of the analysis is taken.
    """
    settings, columns = context.settings, layout_of(context)
    sizes = shift_sizes(context.images.images.shape[1:], stride_of(context.denoiser, context.images.images.shape[1:]))
    chosen = spread(len(context.images.images), settings.location_images)
    arrays["shifts"] = sizes
    summary: dict = {"images": len(chosen), "pixels": sizes.tolist(), "blocks": {}}
    for name, network in networks.items():
        averages = moved_averages(
            context, network, context.images.images[chosen], sizes, f"{key} {name} same noise", name
        )
        changes = [block_changes(columns.of(averages, block)) for block in columns.columns]
        arrays[f"{name}/change"] = np.stack([over_distance(change) for change in changes])
        summary["blocks"][name] = {
            block: describe_change(change, settings.seed)
            for block, change in zip(columns.columns, changes, strict=True)
        }
    return summary


def moved_averages(
    context: Context, denoiser: Denoiser, images: np.ndarray, sizes: np.ndarray, key: str, name: str
) -> np.ndarray:
    """Channel averages of noisy images as they are, moved down by each of the sizes, and moved right: [n, 1 + 2 sizes, K].

    The noise is that of the first image of a sweep.
    """
    settings, folder = context.settings, context.outdir / "moved" / name
    shifts = [(0, 0), *((size, 0) for size in sizes), *((0, size) for size in sizes)]
    if not storage.is_complete(folder, key):
        width = layout_of(context).width
        writer = storage.RowWriter(folder, key, len(images), {"mean": ((len(shifts), width), np.float32)})
        step = devices.parallel_map(shift_step(denoiser, settings.seed), settings.batch_size)
        sigma = context.sigmas[context.working]
        with storage.Progress(f"shifted images, {PADDING[name]}", len(images), done=writer.rows_done) as progress:
            for first in range(writer.rows_done, len(images), settings.batch_size):
                index = np.arange(first, min(first + settings.batch_size, len(images)), dtype=np.int32)
                rows = (images[index], np.zeros_like(index))
                writer.append(mean=np.stack([step((sigma, np.int32(shift)), rows) for shift in shifts], axis=1))
                progress.advance(len(index))
        writer.finish()
    return np.load(folder / "mean.npy")


def shift_step(denoiser: Denoiser, seed: int) -> Any:
    """((sigma, (down, right)), (images, index)) -> averages of all blocks [b, K] for x + sigma z moved round, noise and all."""

    def step(constants, rows):
        sigma, shift = constants
        _, noisy = representation.noisy_draws(seed, sigma, rows)
        moved = jnp.roll(noisy(0), (shift[0], shift[1]), axis=(1, 2))
        return jnp.concatenate(representation.channel_averages(denoiser, moved), axis=1)

    return step


class Change(NamedTuple):
    """How far one block's averages move.

    Attributes:
      squares: squared distance from those of the image in place, for every size of shift (down and right averaged) [n, sizes].
      relative: distance over length, [n, shifts]; NaN where the averages are all zero.
      between: terms whose mean is the squared distance between two images, [n].
    """

    squares: np.ndarray
    relative: np.ndarray
    between: np.ndarray


def block_changes(averages: np.ndarray) -> Change:
    """Changes of one block's averages [n, 1 + 2 sizes, k], of which the first are those of the image in place."""
    averages = averages.astype(np.float64)
    place, moved = averages[:, :1], averages[:, 1:]
    squares = np.square(moved - place).sum(-1)
    lengths = np.linalg.norm(place, axis=-1)
    relative = np.divide(np.sqrt(squares), lengths, out=np.full(squares.shape, np.nan), where=lengths > 0)
    down, right = np.split(squares, 2, axis=1)
    return Change((down + right) / 2, relative, measures.squared_spreads(place[:, 0]))


def over_distance(change: Change) -> np.ndarray:
    """Changes over the root mean square distance between images, [n, sizes]; NaN where all images have the same averages."""
    between = change.between.mean()
    return np.sqrt(change.squares / between) if between > 0 else np.full(change.squares.shape, np.nan)


def describe_change(change: Change, seed: int) -> dict:
    """Relative change; root mean square change over the root mean square distance between images; the largest relative change.

    And `of_images`, quartiles over images of each one's own root mean square change over that distance: a few images that change
    much can make up most of the mean square.
    """
    parts = (change.relative.mean(1), change.squares.mean(1), change.between)
    relative, squares, between = measures.bootstrap_means(np.stack(parts, 1), seed=seed).T
    known = change.relative[np.isfinite(change.relative)]
    return {
        "relative": estimate_of(relative),
        "of_distance": estimate_of(
            np.sqrt(np.divide(squares, between, out=np.full(len(squares), np.nan), where=between > 0))
        ),
        "of_images": quartiles_of(np.sqrt(np.square(over_distance(change)).mean(1))),
        "largest": float(known.max()) if known.size else None,
    }
