"""The published network in PyTorch, written from the paper, and the forms in which PyTorch may run it.

Weights are copied from our parameter tree; whoever measures compares the results of both first. Needs PyTorch and numpy, and
nothing of ours.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional

PIXELS = (1, 2, 3)


class Norm(nn.Module):
    """x / (sd(x) + 1e-5) with sd over channels, height and width of each image; then a gain per channel; computed in float32."""

    def __init__(self, gain: np.ndarray):
        """Takes the gain, of any shape that holds one number per channel."""
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain.reshape(1, -1, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises [b c h w]; the mean is not subtracted."""
        y = x.float()
        # On a CPU `var` over three axes takes about eight times as long as these two sums.
        square = torch.linalg.vector_norm(y, dim=PIXELS, keepdim=True).square() / y[0].numel()
        deviation = (square - y.mean(dim=PIXELS, keepdim=True).square()).clamp(min=0).sqrt()
        return (y / (deviation + 1e-5) * self.gain).to(x.dtype)


class Convolution(nn.Module):
    """3x3, zero padding, from a kernel [3, 3, in, out] and a bias; or 2x2 transposed of stride 2, from [2, 2, in, out].

    It computes in `dtype`. Weights that are not trained are kept in it; float32 ones are rounded at each call.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], dtype: torch.dtype, trainable: bool):
        """Copies the weights."""
        super().__init__()
        kernel, kept = weights["kernel"], torch.float32 if trainable else dtype
        self.dtype, self.transposed = dtype, len(kernel) == 2
        order = (2, 3, 0, 1) if self.transposed else (3, 2, 0, 1)
        self.weight = nn.Parameter(torch.tensor(kernel.transpose(order)).contiguous().to(kept))
        self.bias = nn.Parameter(torch.tensor(weights["bias"]).to(kept)) if "bias" in weights else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[b in h w] -> [b out h w], or [b out 2h 2w]."""
        x, weight = x.to(self.dtype), self.weight.to(self.dtype)
        if self.transposed:
            return functional.conv_transpose2d(x, weight, stride=2)
        return functional.conv2d(x, weight, self.bias.to(self.dtype), padding=1)


def block(weights: Mapping[str, Any], dtype: torch.dtype, trainable: bool, last_linear: bool = False) -> nn.Sequential:
    """Convolution, norm, ReLU, for each convolution there are weights of; the network's last is a bare float32 convolution."""
    layers: list[nn.Module] = []
    count = sum(name.startswith("conv") for name in weights)
    for k in range(count):
        is_linear = last_linear and k == count - 1
        layers.append(Convolution(weights[f"conv{k}"], torch.float32 if is_linear else dtype, trainable))
        if f"norm{k}" in weights:  # the network's first layer has none
            layers.append(Norm(weights[f"norm{k}"]["gain"]))
        if not is_linear:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The blind UNet; its forward pass gives (image, channel averages of the middle block), as hooks would give them."""

    def __init__(self, params: Mapping[str, Any], trainable: bool = False, dtype: torch.dtype = torch.float32):
        """Builds the network that the parameters describe, frozen unless it is to be trained."""
        super().__init__()
        how = {"dtype": dtype, "trainable": trainable}
        scales = sum(name.startswith("encoder") for name in params)
        down, up = range(scales), [params[f"decoder{j}"] for j in reversed(range(scales))]
        self.encoders = nn.ModuleList(block(params[f"encoder{j}"], **how) for j in down)
        self.middle = block(params["mid"], **how)
        self.ups = nn.ModuleList(Convolution(weights["up"], **how) for weights in up)
        self.decoders = nn.ModuleList(block(weights, last_linear=weights is up[-1], **how) for weights in up)
        self.requires_grad_(trainable)

    def encode(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Output of the middle block, and of each encoder."""
        skips = []
        for encoder in self.encoders:
            y = encoder(y)
            skips.append(y)
            y = functional.avg_pool2d(y, 2)
        return self.middle(y), skips

    def decode(self, y: torch.Tensor, skips: list[torch.Tensor], blocks: int | None = None) -> list[torch.Tensor]:
        """Output of each decoder, coarsest first: of all of them, or of the first few."""
        outputs = []
        levels = zip(self.ups, self.decoders, reversed(skips), strict=True)
        for up, decoder, skip in list(levels)[:blocks]:
            y = decoder(torch.cat([up(y), skip], dim=1))
            outputs.append(y)
        return outputs

    def denoise(self, y: torch.Tensor) -> torch.Tensor:
        """Noisy images [b c h w] -> denoised images."""
        return self.decode(*self.encode(y))[-1]

    def represent(self, y: torch.Tensor) -> torch.Tensor:
        """Noisy images [b c h w] -> phi [b k]; runs no decoder."""
        return average(self.encode(y)[0])

    def averages(self, y: torch.Tensor) -> torch.Tensor:
        """Channel averages of every block's output side by side, in the order in which the blocks run; not of the image."""
        middle, skips = self.encode(y)
        outputs = [*skips, middle, *self.decode(middle, skips, blocks=-1)]
        return torch.cat([average(output) for output in outputs], dim=1)

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy images [b c h w] -> (denoised images, phi [b k])."""
        middle, skips = self.encode(y)
        return self.decode(middle, skips)[-1], average(middle)


def average(y: torch.Tensor) -> torch.Tensor:
    """[b c h w] -> [b c], float32."""
    return y.mean(dim=(2, 3), dtype=torch.float32)


class Form(NamedTuple):
    """How PyTorch runs the network.

    Attributes:
      channels_last: its memory layout.
      mode: of `torch.compile`; empty: eager.
      frozen: whether a compiled program has the weights as constants, laid out for its convolutions, where no gradient is needed.
    """

    channels_last: bool = True
    mode: str = ""
    frozen: bool = False

    @property
    def layout(self) -> torch.memory_format:
        """Of images, activations and kernels."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def compile(self, function: Callable) -> Callable:
        """A function of images [b c h w] in this form; images of another layout would be compiled anew."""
        if not self.mode:
            return function
        compiled = torch.compile(function, dynamic=False, mode=self.mode)

        def call(*images):
            results = compiled(*(each.contiguous(memory_format=self.layout) for each in images))
            if self.mode == "default":
                return results
            # Programs with CUDA graphs write their results to the same place at each call.
            return tuple(map(torch.clone, results)) if isinstance(results, tuple) else results.clone()

        return call


FORMS = {
    "eager": Form(channels_last=False),
    "eager, as published": Form(channels_last=False),
    "channels_last": Form(),
    "compiled": Form(mode="default"),
    "compiled, frozen": Form(mode="default", frozen=True),
    "compiled, CUDA graphs": Form(mode="reduce-overhead"),
    "compiled, max-autotune": Form(mode="max-autotune"),
}


def from_numpy(images: np.ndarray) -> torch.Tensor:
    """[b h w c] -> [b c h w]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: torch.Tensor) -> np.ndarray:
    """[b c h w] -> [b h w c]."""
    return np.ascontiguousarray(images.detach().permute(0, 2, 3, 1).float().cpu().numpy())
