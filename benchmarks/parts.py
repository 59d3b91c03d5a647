"""The parts of a training step, each by itself: what goes into its layers, and what bounds it by count. Needs numpy alone.

convolutions: the 3x3 and the transposed ones, without biases. norms: with the ReLU and the rounding that follow. pointwise: pooling
and concatenation. optimiser: Adam. input: uint8 images from the host to clean and noisy ones on the device. The first three go
forward and backward, and no layer waits for another; the cotangents are the results themselves. Biases and the loss are in none.
"""

from typing import NamedTuple

import counts
import numpy as np

COUNT = 8  # projections of a result
OPTIMISER_STEPS = 3  # in its check
PARTS = ("convolutions", "norms", "pointwise", "optimiser", "input")


class Piece(NamedTuple):
    """A layer's work: what it does, images [1 h w c] that are repeated over the batch, and weights."""

    kind: str
    images: list[np.ndarray]
    weights: list[np.ndarray]


def pieces(part: str, layers: list[counts.Layer], seed: int) -> list[Piece]:
    """The layers of a part; of the optimiser and the input, none."""
    random = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return random.standard_normal(shape, np.float32) * np.float32(scale)

    found = []
    for layer, after in zip(layers, [*layers[1:], None], strict=True):
        side, width = layer.side, layer.outputs
        if part == "convolutions":
            kind, window = ("convolution", (3, 3)) if layer.kernel > 1 else ("upsampling", (2, 2))
            kernel = normal(*window, layer.inputs, width, scale=(2 / layer.kernel / layer.inputs) ** 0.5)
            found.append(Piece(kind, [normal(1, layer.side_in, layer.side_in, layer.inputs)], [kernel]))
        if part == "norms" and layer.norm:
            found.append(Piece("norm", [normal(1, side, side, width)], [np.ones((1, 1, 1, width), np.float32)]))
        if part == "pointwise" and layer.kernel == 1:
            found.append(Piece("concatenation", [normal(1, side, side, width), normal(1, side, side, width)], []))
        if part == "pointwise" and after and after.side == side // 2:
            found.append(Piece("pooling", [normal(1, side, side, width)], []))
    return found


def work(part: str, layers: list[counts.Layer], batch: int, size: int) -> tuple[float, float]:
    """(operations, bytes) of a step if each array is read once for each use and written once, its numbers of `size` bytes.

    convolutions   three times the forward operations; 3 (input + output) of each layer, and 3 times its weights
    norms          forward: read, write; backward: read twice, write
    pointwise      pooling: 1 + 1/4 forward, as much backward; concatenation: read, write, forward and backward
    optimiser      28 bytes a parameter: read it, its gradient and two moments, write three of them, float32
    """
    if part == "optimiser":
        return 0.0, 28.0 * sum(layer.parameters for layer in layers)
    if part == "input":
        return 0.0, 0.0
    if part == "convolutions":
        values = sum(layer.values_in + layer.values_out for layer in layers)
        weights = sum(layer.weights for layer in layers)
        return 3.0 * batch * sum(layer.operations for layer in layers), 3.0 * size * (batch * values + weights)
    factor = {"norm": 5, "pooling": 2.5, "concatenation": 4}
    found = pieces(part, layers, 0)
    return 0.0, size * batch * sum(factor[piece.kind] * sum(image.size for image in piece.images) for piece in found)


def gradient(values: np.ndarray, step: int) -> np.ndarray:
    """A made-up gradient for the optimiser's check: of either sign, another in each step, the same on both sides."""
    return np.cos(100 * values + step)


def projections(results: list[np.ndarray]) -> dict[str, np.ndarray]:
    """What the two sides compare: sum_{b h w c} x[b, h, w, c] u_b u_h u_w u_c for COUNT draws of random vectors, [results, COUNT].

    The axes are in our order, so that a result whose values are right but not in their places differs.
    """
    return {"projections": np.stack([_projected(np.asarray(each, np.float32)) for each in results])}


def _projected(result: np.ndarray) -> np.ndarray:
    random = np.random.default_rng(0)
    found = np.tensordot(random.standard_normal((COUNT, result.shape[0]), np.float32), result, 1)
    for size in result.shape[1:]:
        found = np.einsum("kn,kn...->k...", random.standard_normal((COUNT, size), np.float32), found)
    return found
