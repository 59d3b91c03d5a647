"""The 3x3 convolution of the networks: a derivative that is fast inside loops, and the fastest kernel that XLA has on a CPU."""

import functools
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array, Float

from unetrep_jax import winograd

# Versions of jaxlib whose way of calling oneDNN was tried; XLA promises nothing about it, and one that it does not know aborts.
ONEDNN_TRIED_IN = ("0.10.2", "0.12.0.1")
PLATFORM = sys.platform, platform.machine()
GRADIENT_BYTES = 800_000  # of the change that a piece of a kernel's gradient is computed from
FEW_CHANNELS = 128  # with as many, a kernel's gradient takes what its products do, whichever of its two sides is copied
SWITCH = "UNETREP_ONEDNN"  # environment variable; "0" leaves oneDNN out


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(
    x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], padding: str = "zero"
) -> Float[Array, "b h w o"]:
    """Convolution of odd size, stride 1. Its derivative with respect to `x` is a `convolve` of the same padding too.

        out[r, c, o] = sum_{a, b, i} kernel[a, b, i, o] x[r + a - k // 2, c + b - k // 2, i]
        d/dx: convolve(out's cotangent, kernel with rows and columns reversed, in and out exchanged)

    Outside the image x is 0 ("zero"), or x again, as if its opposite edges met ("circular": rows count modulo h, columns modulo w).

    JAX's own derivative is the same sum as a convolution with a reversed window. XLA compiles that, on CPU, to a routine 3 to 9
    times slower than a plain convolution wherever it stands inside a loop; written so, loops over gradients run at full speed.
    Only reverse-mode differentiation is defined: for J v use two reverse passes.
    """
    return _same_size(x, kernel, padding, fast)


def _forward(x, kernel, padding):
    return convolve(x, kernel, padding), (x, kernel)


def _backward(padding, inputs, cotangent):
    x, kernel = inputs
    to_x = convolve(cotangent, kernel[::-1, ::-1].swapaxes(2, 3), padding)
    return to_x, kernel_gradient(x, cotangent, len(kernel), padding)


convolve.defvjp(_forward, _backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def kernel_gradient(
    x: Float[Array, "b h w i"], change: Float[Array, "b h w o"], size: int, padding: str
) -> Float[Array, "k k i o"]:
    """Derivative by the kernel of sum(change convolve(x, kernel, padding)), a sum over all images and places; k is `size`.

        out[a, b, i, o] = sum_{n, r, c} x[n, r + a - k // 2, c + b - k // 2, i] change[n, r, c, o]
    """

    def by_jax(x, change):
        kernel = jnp.zeros((size, size, x.shape[-1], change.shape[-1]), x.dtype)
        return jax.vjp(lambda kernel: _same_size(x, kernel, padding, plain), kernel)[1](change)[0]

    if not has_onednn(x.dtype):
        return by_jax(x, change)
    by_onednn = functools.partial(_kernel_gradient, size=size, padding=padding)
    channels = x.shape[-1], change.shape[-1]
    if size == 3 and x.dtype == jnp.float32 and winograd.pays(*x.shape[:3], channels, gradient=True):
        by_onednn = functools.partial(_kernel_gradient_in_tiles, padding=padding)
    return jax.lax.platform_dependent(x, change, cpu=by_onednn, default=by_jax)


def _forward_gradient(x, change, size, padding):
    return kernel_gradient(x, change, size, padding), (x, change)


def _backward_gradient(_size, padding, inputs, kernel):
    x, change = inputs
    return convolve(change, kernel[::-1, ::-1].swapaxes(2, 3), padding), convolve(x, kernel, padding)


kernel_gradient.defvjp(_forward_gradient, _backward_gradient)


def _kernel_gradient(x: Array, change: Array, size: int, padding: str) -> Array:
    """The same as a convolution by oneDNN, which XLA has no other way to ask for: `change` is its kernel.

    Kernels' columns b are its images, channels i its columns, and the places (n, c) of a row its channels: large matrix products,
    of which rows a of the kernel are the output's rows.
    """
    if change.shape[-1] < min(x.shape[-1], FEW_CHANNELS):  # what is stacked below is better the smaller of the two
        return _kernel_gradient(change, x, size, padding)[::-1, ::-1].swapaxes(2, 3)
    images, height, width, channels = x.shape
    # Beyond the processor's second cache a product takes several times as long: as many images at a time as fit.
    most = max(1, GRADIENT_BYTES // change[0].nbytes)
    together = max(count for count in range(1, images + 1) if images % count == 0 and count <= most)

    def of_some(total, some):
        x, change = some
        around = ((size // 2, size // 2),) * 2
        rows = x.transpose(1, 3, 0, 2)  # [h i n w]
        rows = jnp.pad(rows, (around[0], (0, 0), (0, 0), around[1]), mode="wrap" if padding == "circular" else "constant")
        columns = jnp.stack([rows[..., b : b + width] for b in range(size)])
        columns = columns.reshape(size, height + size - 1, channels, together * width)
        as_kernel = change.transpose(1, 0, 2, 3).reshape(height, 1, together * width, -1)
        return total + _onednn(0, jnp.float32)(columns, as_kernel), None  # [b a i o]

    parts = (part.reshape(-1, together, *part.shape[1:]) for part in (x, change))
    total, _ = jax.lax.scan(of_some, jnp.zeros((size, size, channels, change.shape[-1])), tuple(parts))
    return total.swapaxes(0, 1).astype(x.dtype)


def _kernel_gradient_in_tiles(x: Array, change: Array, padding: str) -> Array:
    x, pad = _with_surroundings(x, 1, padding)
    return winograd.kernel_gradient(x, change, pad)


def _same_size(x: Array, kernel: Array, padding: str, within: Callable) -> Array:
    """`within` is `plain` or `fast`."""
    x, pad = _with_surroundings(x, kernel.shape[0] // 2, padding)
    return within(x, kernel, pad)


def _with_surroundings(x: Array, pad: int, padding: str) -> tuple[Array, int]:
    """(x with what a convolution sees outside, 0), or, where those are zeros, (x, how many of them on each side)."""
    if padding == "circular":
        return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="wrap"), 0
    return x, pad


def plain(x: Float[Array, "b h w i"], kernel: Float[Array, "k1 k2 i o"], pad: int) -> Float[Array, "b h2 w2 o"]:
    """The convolution as JAX has it, with `pad` zeros on each side of the image."""
    around = ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def fast(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], pad: int) -> Float[Array, "b h2 w2 o"]:
    """The same, on a CPU by oneDNN where that was tried (`has_onednn`); times are in docs/performance.md. Not to be differentiated.

    XLA's wheels for Linux on x86-64 contain oneDNN, and leave it unused for convolutions. It is asked for by name. Programs that do
    cannot be kept for the next process (`devices.compilation_cache`), so that each start compiles them; UNETREP_ONEDNN=0 in the
    environment leaves it out, where processes are many and short.
    """
    if x.dtype != kernel.dtype or not has_onednn(x.dtype):
        return plain(x, kernel, pad)
    return jax.lax.platform_dependent(x, kernel, cpu=_on_cpu(pad, x.dtype), default=functools.partial(plain, pad=pad))


def has_onednn(dtype: Any) -> bool:
    """Whether XLA's CPU programs are to ask for oneDNN here: for float32, and for bfloat16 where the processor has its products."""
    tried = jaxlib.__version__ in ONEDNN_TRIED_IN and PLATFORM == ("linux", "x86_64") and os.environ.get(SWITCH) != "0"
    return tried and (dtype == jnp.float32 or (dtype == jnp.bfloat16 and multiplies_bfloat16()))


@functools.cache
def multiplies_bfloat16() -> bool:
    """Whether the processor has products of bfloat16 numbers: AVX-512's (AMD's from Zen 4 on; Intel's from Sapphire Rapids on)."""
    try:
        return " avx512_bf16 " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


@functools.cache
def _on_cpu(pad: int, dtype: Any) -> Callable[[Array, Array], Array]:
    """(x, kernel) -> their convolution, of type `dtype`, theirs, with the fewest multiplications that pay."""

    def call(x: Array, kernel: Array) -> Array:
        height, width = _sides(x, kernel, pad)
        can_be_tiled = dtype == jnp.float32 and kernel.shape[:2] == (3, 3)
        if can_be_tiled and winograd.pays(len(x), height, width, kernel.shape[2:]):
            return winograd.convolve(x, kernel, pad)
        return _onednn(pad, dtype)(x, kernel)

    return _one_batch(call, pad, dtype)


@functools.cache
def _onednn(pad: int, dtype: Any) -> Callable[[Array, Array], Array]:
    """(x, kernel) -> their convolution by oneDNN, of type `dtype`."""

    def call(x: Array, kernel: Array) -> Array:
        out = jax.ShapeDtypeStruct((len(x), *_sides(x, kernel, pad), kernel.shape[-1]), dtype)
        settings = {"custom_call_api_version": 1, "legacy_backend_config": _description(pad)}
        return jax.ffi.ffi_call("__onednn$convolution", out, **settings)(x, kernel)

    return _one_batch(call, pad, dtype)


def _sides(x: Array, kernel: Array, pad: int) -> tuple[int, int]:
    """Height and width of their convolution."""
    return x.shape[1] + 2 * pad - kernel.shape[0] + 1, x.shape[2] + 2 * pad - kernel.shape[1] + 1


def _one_batch(convolve: Callable[[Array, Array], Array], pad: int, dtype: Any) -> Callable[[Array, Array], Array]:
    """The same convolution, to numbers of type `dtype`, for which images of a `vmap` make one batch."""
    call = jax.custom_batching.custom_vmap(convolve)

    @call.def_vmap
    def _batched(count, is_batched, x, kernel):
        if is_batched[1]:  # a kernel for each
            each = functools.partial(plain, pad=pad)
            return jax.vmap(each, (0 if is_batched[0] else None, 0))(x, kernel).astype(dtype), True
        out = call(x.reshape(-1, *x.shape[2:]), kernel)
        return out.reshape(count, -1, *out.shape[1:]), True

    return call


def _description(pad: int) -> str:
    """The convolution in XLA's words: which axis is what, in NHWC and HWIO."""
    images = {"data": {"batch_dim": "0", "feature_dim": "3", "spatial_dims": ["1", "2"]}}
    kernel = {"filter": {"input_feature_dim": "2", "output_feature_dim": "3", "spatial_dims": ["0", "1"]}}
    pads, ones = [str(pad)] * 2, ["1"] * 2
    window = {"pad_left": pads, "pad_right": pads, "strides": ones, "window_dilations": ones}
    form = {"dims": "4", "feature_groups": "1", "input": images, "kernel": kernel, "output": images, "window": window}
    return json.dumps({"onednn_conv_config": form})
