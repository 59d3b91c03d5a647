"""The contract that everything after training sees: a denoiser is a few pure functions of images.

Any architecture, and any denoiser with a closed-form answer, becomes a `Denoiser`; sampling, reconstruction and analysis
are written against it alone.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

Images = Float[Array, "b h w c"]
Activations = Float[Array, "b h2 w2 k"]


class Middle(NamedTuple):
    """A denoiser taken apart at what phi is read from, so that something else can be put there.

    Attributes:
      read: noisy images [b h w c] -> what the middle block makes of them, [b h' w' k].
      denoise: (noisy images, what takes its place) -> clean images; with `read`'s own result it is the denoiser's `denoise`.
    """

    read: Callable[[Images], Activations]
    denoise: Callable[[Images, Activations], Images]


class Denoiser(NamedTuple):
    """A blind denoiser, seen from outside. Images are float32 NHWC, nominally in [0, 1]; it is never told the noise level.

    Attributes:
      denoise: noisy images [b h w c] -> estimate of the clean images E[x | y], same shape. `denoise(y) - y` is about
        sigma^2 times the score of the noisy density (Miyasawa 1961).
      activations: noisy images -> every layer's output after its ReLU, [b h' w' k], keyed `<block>.<layer>`.
      represent: noisy images -> phi [b k], the spatial means of the middle block's last layer; runs no decoder.
      block_names: the blocks in the order in which they run.
      middle: the same denoiser, taken apart at what phi is read from; None where it cannot be.
    """

    denoise: Callable[[Images], Images]
    activations: Callable[[Images], dict[str, Activations]]
    represent: Callable[[Images], Float[Array, "b k"]]
    block_names: tuple[str, ...]
    middle: Middle | None = None


def spatial_mean(activations: Activations) -> Float[Array, "b k"]:
    """Channel averages abar of a layer: the mean of each channel over height and width, in float32."""
    return activations.astype("float32").mean(axis=(1, 2))


def last_layers(keys: list[str]) -> dict[str, str]:
    """Block name -> key of its last activation, from keys `<block>.<layer>`: `{"mid": "mid.2", ...}`."""
    last: dict[str, int] = {}
    for key in keys:
        block, _, layer = key.rpartition(".")
        last[block] = max(last.get(block, 0), int(layer))
    return {block: f"{block}.{layer}" for block, layer in last.items()}


def take_apart(model: Any) -> tuple[Callable, Callable]:
    """`Middle`'s functions, of a model whose call takes `middle=` (`models.UNet`); their first argument is the parameters."""

    def read(params, images):
        activations = model.apply({"params": params}, images)[1]
        return activations[last_layers(list(activations))["mid"]]

    def denoise(params, images, middle):
        return model.apply({"params": params}, images, middle=middle)[0]

    return read, denoise


def bind(model: Any, params: Any) -> Denoiser:
    """Fixes the parameters of a model and returns it as a `Denoiser`.

    Args:
      model: a Flax module whose call maps images to (denoised, activations), with `block_names` (see `models`). If its call
        takes `middle=`, the result can be taken apart.
      params: its parameter tree.
    """

    def apply(params, images):
        return model.apply({"params": params}, images)

    def represent(params, images):
        activations = apply(params, images)[1]
        return spatial_mean(activations[last_layers(list(activations))["mid"]])

    # Each function reads one part of what `apply` returns; the compiler drops the rest, so `represent` never runs a decoder.
    denoise = jax.jit(lambda params, images: apply(params, images)[0])
    activations = jax.jit(lambda params, images: apply(params, images)[1])
    represent = jax.jit(represent)
    parts = tuple(map(jax.jit, take_apart(model))) if "middle" in inspect.signature(type(model).__call__).parameters else ()
    return Denoiser(
        denoise=lambda images: denoise(params, images),
        activations=lambda images: activations(params, images),
        represent=lambda images: represent(params, images),
        block_names=model.block_names,
        middle=Middle(*(functools.partial(part, params) for part in parts)) if parts else None,
    )
