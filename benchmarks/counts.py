"""Operations and bytes of the network, counted by hand from its architecture. Needs the standard library alone.

A multiplication and an addition are 2 operations. At a scale with height and width s:

    3x3 convolution, i -> o channels       2 * 9 * i * o * s^2
    2x2 transposed convolution, i -> o     2 * i * o * s^2          (s is its output's; each output pixel has i inputs)

Norms, ReLU, pooling and biases are counted as values that pass through them. The gradient with respect to the inputs, and that with
respect to the weights, cost as much again as the forward pass each; the first convolution needs no gradient of its input.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Layer(NamedTuple):
    """A convolution or an upsampling.

    Attributes:
      block: where it stands.
      kernel: entries of its window: 9, or 1 for the upsampling, whose windows do not overlap.
      inputs, outputs: channels.
      side: height and width of what comes out.
      side_in: of what goes in.
      norm, bias: whether a norm follows; whether there is a bias.
    """

    block: str
    kernel: int
    inputs: int
    outputs: int
    side: int
    side_in: int
    norm: bool
    bias: bool

    @property
    def operations(self) -> int:
        """Of an image, forward."""
        return 2 * self.kernel * self.inputs * self.outputs * self.side**2

    @property
    def weights(self) -> int:
        """Entries of its kernel; an upsampling has four windows'."""
        return (self.kernel if self.kernel > 1 else 4) * self.inputs * self.outputs

    @property
    def parameters(self) -> int:
        """Weights, biases and gains."""
        return self.weights + self.outputs * (self.bias + self.norm)

    @property
    def values_in(self) -> int:
        """Numbers that go in."""
        return self.inputs * self.side_in**2

    @property
    def values_out(self) -> int:
        """Numbers that come out."""
        return self.outputs * self.side**2


def layers(
    channels: Sequence[int] = (64, 128, 256, 512),
    side: int = 64,
    encoder: int = 2,
    middle: int = 3,
    decoder: int = 6,
    image: int = 3,
) -> list[Layer]:
    """The published network's layers in the order in which they run; the defaults are the published ones."""
    found, last, scales = [], image, len(channels) - 1
    for j, width in enumerate(channels):
        name, depth, s = ("mid", middle, side >> j) if j == scales else (f"encoder{j}", encoder, side >> j)
        for k in range(depth):
            found.append(Layer(name, 9, last, width, s, s, norm=bool(j or k), bias=True))
            last = width
    for j in reversed(range(scales)):
        width, s = channels[j], side >> j
        found.append(Layer(f"decoder{j}", 1, last, width, s, s // 2, norm=False, bias=False))
        last = 2 * width
        for k in range(decoder):
            final = j == 0 and k == decoder - 1
            found.append(Layer(f"decoder{j}", 9, last, image if final else width, s, s, norm=not final, bias=True))
            last = width
    return found


class Count(NamedTuple):
    """Of one image.

    Attributes:
      forward, training, represent: operations: a forward pass; with all gradients; encoders and middle block alone.
      parameters: numbers.
      values: numbers that layers take in and put out, forward.
      kept: numbers that the backward pass needs of an image, if nothing is computed twice: what goes into each convolution, and
        what each norm saw.
    """

    forward: int
    training: int
    represent: int
    parameters: int
    values: int
    kept: int


def count(**architecture: int | Sequence[int]) -> Count:
    """The counts of a network; arguments as for `layers`."""
    found = layers(**architecture)
    forward = sum(layer.operations for layer in found)
    return Count(
        forward=forward,
        training=3 * forward - found[0].operations,
        represent=sum(layer.operations for layer in found if not layer.block.startswith("decoder")),
        parameters=sum(layer.parameters for layer in found),
        values=sum(layer.values_in + layer.values_out for layer in found),
        kept=sum(layer.values_in + layer.norm * layer.values_out for layer in found),
    )


def traffic(found: Count, batch: int, size: int, training: bool) -> float:
    """Bytes that a batch moves, layer by layer: each input is read once and each output written once, numbers of `size` bytes.

    A training step moves three times as much (forward, gradient of inputs, gradient of weights), and reads and writes parameters,
    their gradients and Adam's two moments, float32; weights of another size are made from the float32 ones in each step. No lower
    bound: layers that a compiler fuses move less.
    """
    once = size * batch * found.values + size * found.parameters
    rounding = (4 + size) * found.parameters if size != 4 else 0
    return 3 * once + 4 * 8 * found.parameters + rounding if training else once


def by_block(**architecture: int | Sequence[int]) -> list[dict[str, str]]:
    """A table of operations and parameters, block by block."""
    found, total = layers(**architecture), count(**architecture)
    rows = []
    for name in dict.fromkeys(layer.block for layer in found):
        own = [layer for layer in found if layer.block == name]
        operations = sum(layer.operations for layer in own)
        row = {"block": name, "layers": str(len(own)), "parameters": f"{sum(layer.parameters for layer in own):,}"}
        rows.append(row | {"GFLOP an image": f"{operations / 1e9:.3f}", "share": f"{operations / total.forward:.1%}"})
    all_layers = {"block": "all", "layers": str(len(found)), "parameters": f"{total.parameters:,}"}
    return [*rows, all_layers | {"GFLOP an image": f"{total.forward / 1e9:.3f}", "share": "100.0%"}]
