"""3x3 convolutions with a quarter of the multiplications, on CPUs: Winograd's F(4x4, 3x3).

Of each tile of 6x6 inputs d and the kernel g come 4x4 outputs y (zero-based rows and columns, one channel of each):

    y[r, c] = sum_{a, b} g[a, b] d[r + a, c + b] = (A^T [(G g G^T) * (B^T d B)] A)[r, c]        * element by element

36 products in place of 144; over channels they are 36 matrix products, [tiles, in] by [in, out]. Everything here is one of the
three transforms or its adjoint (transpose). Winograd, Arithmetic Complexity of Computations, 1980; Lavin & Gray 2016, arXiv
1509.09308.

A, B, G follow from six points of interpolation: 0, +-sqrt(1/2), +-sqrt(2), infinity (our choice). In float32, with 128 channels,
results are off by 9e-7 of their standard deviation (root mean square), where the usual points 0, +-1, +-2 give 2e-6 and sums of
products 2e-7.
"""

import functools
import json
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

TILE = 4  # outputs of a tile, across and down
POINTS = TILE + 2  # inputs of a tile, across and down
FEWEST_CHANNELS, FEWEST_CHANNELS_OF_GRADIENT = 32, 16  # with fewer, the transforms take longer than what they save
FEWEST_TILES = 64  # with fewer, the transform of the kernel does
CHUNK_BYTES = 4_000_000  # of transformed tiles, which should stay in the processor's caches
_WEIGHTS = [(0.5**0.5, -2 / 3), (-(0.5**0.5), -2 / 3), (2**0.5, 1 / 6), (-(2**0.5), 1 / 6)]
NEAR, FAR = np.float32(0.5**0.5), np.float32(2**0.5)
NEAR_CUBED, FAR_CUBED = np.float32(0.5**1.5), np.float32(2**1.5)
# Rows of G are 1, x, x^2 of the points x, by the product of x's distances from the others; of infinity 0, 0, 1.
G = np.array([[1, 0, 0], *([w, w * x, w * x * x] for x, w in _WEIGHTS), [0, 0, 1]])
TO_POINTS = np.kron(G, G).astype(np.float32)  # [36 9]

Parts = list[Float[Array, "*shape"]]


def pays(images: int, height: int, width: int, channels: tuple[int, int], *, gradient: bool = False) -> bool:
    """Whether this is faster than sums of products, for [images height width] outputs and (in, out) channels; or its `gradient`."""
    tiles = images * height * width // TILE**2
    fewest = FEWEST_CHANNELS_OF_GRADIENT if gradient else FEWEST_CHANNELS
    return height % TILE == 0 and width % TILE == 0 and tiles >= FEWEST_TILES and min(channels) >= fewest


def convolve(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"], pad: int) -> Float[Array, "b h2 w2 o"]:
    """out[r, c, o] = sum_{a, b, i} kernel[a, b, i, o] x[r + a - pad, c + b - pad, i], with x = 0 outside.

    `pad` is 0 or 1; h2 = h + 2 pad - 2 and w2, of the same form, are multiples of 4. Not to be differentiated.
    """
    outputs = kernel.shape[-1]
    # Kernels are known before any image: XLA would transform all of a network's first, and keep them. So let this one wait for `x`.
    kernel = kernel + jnp.where(x[0, 0, 0, 0] > jnp.inf, 1.0, 0.0)
    transformed = jax.lax.optimization_barrier(_of_kernel(kernel))

    def of_some(x):
        x = _padded(x, pad)
        down, across = ((side - 2) // TILE for side in x.shape[1:3])
        products = _multiply(_tiles(x, POINTS, _of_input), transformed)
        return _image(products.reshape(POINTS, POINTS, len(x), down, across, outputs))

    together = _together(x.shape, max(x.shape[-1], outputs), transformed.size)
    out = jax.lax.map(of_some, x.reshape(-1, together, *x.shape[1:]))
    return out.reshape(len(x), *out.shape[2:])


def kernel_gradient(
    x: Float[Array, "b h w i"], change: Float[Array, "b h2 w2 o"], pad: int
) -> Float[Array, "3 3 i o"]:
    """Derivative of sum(change convolve(x, kernel, pad)) by the kernel; sizes and `pad` as there. Not to be differentiated.

        out[a, b, i, o] = sum_{n, r, c} x[n, r + a - pad, c + b - pad, i] change[n, r, c, o]
                        = (G^T [sum over tiles of (B^T d_i B) * (A change_o A^T)] G)[a, b]
    """
    size = POINTS**2, x.shape[-1], change.shape[-1]
    together = _together(x.shape, max(size[1:]), math.prod(size))

    def of_some(total, some):
        x, change = some
        tiles = _tiles(_padded(x, pad), POINTS, _of_input), _tiles(change, TILE, _of_change)
        return total + _multiply(*tiles, transpose=True), None

    parts = (part.reshape(-1, together, *part.shape[1:]) for part in (x, change))
    total, _ = jax.lax.scan(of_some, jnp.zeros(size, x.dtype), tuple(parts))
    return _to_kernel(total)


def _padded(x: Float[Array, "b h w c"], pad: int) -> Float[Array, "b h2 w2 c"]:
    """With zeros around, in memory: within the transforms' loops each value's place would be compared with the edges."""
    return jax.lax.optimization_barrier(jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0))))


def _together(shape: tuple[int, ...], channels: int, kernel_size: int) -> int:
    """Images at a time, a divisor of their number: few enough for the caches, and enough for a large kernel to be worth reading."""
    images, height, width, _ = shape
    most = max(CHUNK_BYTES, kernel_size) // (4 * channels * height * width * POINTS**2 // TILE**2)
    return max(count for count in range(1, images + 1) if images % count == 0 and count <= max(1, most))


def _of_input(d: Parts) -> Parts:
    """B^T d along an axis of 6."""
    near, far = d[4] - 2 * d[2], d[4] - 0.5 * d[2]
    odd_near, odd_far = NEAR * (d[3] - 2 * d[1]), FAR * (d[3] - 0.5 * d[1])
    first, last = d[0] - 2.5 * d[2] + d[4], d[1] - 2.5 * d[3] + d[5]
    return [first, near + odd_near, near - odd_near, far + odd_far, far - odd_far, last]


def _of_kernel(kernel: Float[Array, "3 3 i o"]) -> Float[Array, "36 i o"]:
    """G g G^T."""
    inputs, outputs = kernel.shape[2:]
    return (TO_POINTS @ kernel.reshape(9, -1)).reshape(POINTS**2, inputs, outputs)


def _to_kernel(u: Float[Array, "36 i o"]) -> Float[Array, "3 3 i o"]:
    """G^T u G, its adjoint."""
    return (TO_POINTS.T @ u.reshape(POINTS**2, -1)).reshape(3, 3, *u.shape[1:])


def _to_output(m: Parts) -> Parts:
    """A^T m along an axis of 6."""
    near, odd_near, far, odd_far = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    last = NEAR_CUBED * odd_near + FAR_CUBED * odd_far + m[5]
    return [m[0] + near + far, NEAR * odd_near + FAR * odd_far, 0.5 * near + 2 * far, last]


def _of_change(y: Parts) -> Parts:
    """A y along an axis of 4, the adjoint of `_to_output`."""
    near, odd_near = y[0] + 0.5 * y[2], NEAR * y[1] + NEAR_CUBED * y[3]
    far, odd_far = y[0] + 2 * y[2], FAR * y[1] + FAR_CUBED * y[3]
    return [y[0], near + odd_near, near - odd_near, far + odd_far, far - odd_far, y[3]]


def _tiles(x: Float[Array, "b h w c"], side: int, transform: Callable[[Parts], Parts]) -> Float[Array, "36 t c"]:
    """Tiles of `side` squared values, 4 apart, each transformed down and across; t runs over images, rows and columns of tiles."""

    def every_fourth(x, axis):
        last = x.shape[axis] - side
        return [jax.lax.slice_in_dim(x, k, k + last + 1, TILE, axis) for k in range(side)]

    # In one loop the values across would be computed from those down again and again.
    halves = jax.lax.optimization_barrier(jnp.stack(transform(every_fourth(x, 1))))
    tiles = jax.lax.optimization_barrier(jnp.stack(transform(every_fourth(halves, 3)), axis=1))
    return tiles.reshape(POINTS**2, -1, x.shape[-1])


def _image(products: Float[Array, "6 6 b down across o"]) -> Float[Array, "b h w o"]:
    """A^T m A of each tile, in its place."""
    _, _, images, down, across, channels = products.shape
    halves = jax.lax.optimization_barrier(jnp.stack(_to_output(list(products)), axis=3))  # [6 b down 4 across o]
    return jnp.stack(_to_output(list(halves)), axis=4).reshape(images, TILE * down, TILE * across, channels)


def _multiply(left: Array, right: Array, *, transpose: bool = False) -> Array:
    """36 matrix products by oneDNN, which takes 0.5 to 0.85 of the time of XLA's own; `transpose` is of the left ones."""
    settings = {"onednn_matmul_config": {"transpose_a": True} if transpose else {}}
    return _products(json.dumps(settings), transpose)(left, right)


@functools.cache
def _products(settings: str, transpose: bool) -> Callable[[Array, Array], Array]:
    """Stacks of matrices of a `vmap` make one stack."""

    @jax.custom_batching.custom_vmap
    def call(left: Array, right: Array) -> Array:
        out = jax.ShapeDtypeStruct((len(left), left.shape[2 if transpose else 1], right.shape[2]), jnp.float32)
        return jax.ffi.ffi_call("__onednn$matmul", out, custom_call_api_version=1, legacy_backend_config=settings)(left, right)

    @call.def_vmap
    def _batched(count, is_batched, left, right):
        sides = zip((left, right), is_batched, strict=True)
        left, right = (side if batched else jnp.broadcast_to(side, (count, *side.shape)) for side, batched in sides)
        out = call(left.reshape(-1, *left.shape[2:]), right.reshape(-1, *right.shape[2:]))
        return out.reshape(count, -1, *out.shape[1:]), True

    return call
