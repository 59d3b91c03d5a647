"""The 3x3 convolution of the networks: a derivative that is fast inside loops, and the fastest kernel that XLA has on a CPU."""

import functools
import json
import os
import platform
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import jaxlib
from jaxtyping import Array, Float

# Versions of jaxlib whose way of calling oneDNN was tried; XLA promises nothing about it, and one that it does not know aborts.
ONEDNN_TRIED_IN = ("0.10.2", "0.12.0.1")
PLATFORM = sys.platform, platform.machine()
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
    (to_kernel,) = jax.vjp(lambda kernel: _same_size(x, kernel, padding, plain), kernel)[1](cotangent)
    return to_x, to_kernel


convolve.defvjp(_forward, _backward)


def _same_size(x: Array, kernel: Array, padding: str, within: Callable) -> Array:
    """`within` is `plain` or `fast`."""
    pad = kernel.shape[0] // 2
    if padding == "circular":
        return within(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="wrap"), kernel, 0)
    return within(x, kernel, pad)


def plain(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], pad: int) -> Float[Array, "b h2 w2 o"]:
    """The convolution as JAX has it, with `pad` zeros on each side of the image."""
    around = ((pad, pad), (pad, pad))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def fast(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"], pad: int) -> Float[Array, "b h2 w2 o"]:
    """The same, in float32 on a CPU by oneDNN where that was tried; times are in docs/performance.md. Not to be differentiated.

    XLA's wheels for Linux on x86-64 contain oneDNN, and leave it unused for convolutions. It is asked for by name. Programs that do
    cannot be kept for the next process (`devices.compilation_cache`), so that each start compiles them; UNETREP_ONEDNN=0 in the
    environment leaves it out, where processes are many and short.
    """
    if not has_onednn() or x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return plain(x, kernel, pad)
    return jax.lax.platform_dependent(x, kernel, cpu=_onednn(pad), default=functools.partial(plain, pad=pad))


def has_onednn() -> bool:
    """Whether XLA's CPU programs are to ask for oneDNN here."""
    return os.environ.get(SWITCH) != "0" and jaxlib.__version__ in ONEDNN_TRIED_IN and PLATFORM == ("linux", "x86_64")


@functools.cache
def _onednn(pad: int) -> Callable[[Array, Array], Array]:
    """(x, kernel) -> their convolution by oneDNN. Images of a `vmap` make one batch, as of any convolution."""

    @jax.custom_batching.custom_vmap
    def call(x: Array, kernel: Array) -> Array:
        height, width = (size + 2 * pad - kernel.shape[0] + 1 for size in x.shape[1:3])
        out = jax.ShapeDtypeStruct((x.shape[0], height, width, kernel.shape[-1]), x.dtype)
        settings = {"custom_call_api_version": 1, "legacy_backend_config": _description(pad)}
        return jax.ffi.ffi_call("__onednn$convolution", out, **settings)(x, kernel)

    @call.def_vmap
    def _batched(count, is_batched, x, kernel):
        if is_batched[1]:  # a kernel for each
            return jax.vmap(functools.partial(plain, pad=pad), (0 if is_batched[0] else None, 0))(x, kernel), True
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
