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

Pass = Callable[[torch.Tensor], tuple[torch.Tensor | None, torch.Tensor]]


class Norm(nn.Module):
    """x / (sd(x) + 1e-5) with sd over channels, height and width of each image; then a gain per channel."""

    def __init__(self, gain: np.ndarray):
        """Takes the gain, of any shape that holds one number per channel."""
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain.reshape(1, -1, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalises [b c h w]; the mean is not subtracted."""
        deviation = torch.sqrt(x.var(dim=(1, 2, 3), unbiased=False, keepdim=True))
        return x / (deviation + 1e-5) * self.gain


def convolution(weights: Mapping[str, np.ndarray]) -> nn.Conv2d:
    """3x3 convolution, zero padding, from a kernel [3, 3, in, out] and a bias."""
    kernel = weights["kernel"]
    layer = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
    layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1)).contiguous()
    layer.bias.data = torch.tensor(weights["bias"])
    return layer


def upsampling(kernel: np.ndarray) -> nn.ConvTranspose2d:
    """2x2 transposed convolution of stride 2, no bias, from a kernel [2, 2, in, out]."""
    layer = nn.ConvTranspose2d(kernel.shape[2], kernel.shape[3], 2, stride=2, bias=False)
    layer.weight.data = torch.tensor(kernel.transpose(2, 3, 0, 1)).contiguous()
    return layer


def block(weights: Mapping[str, Any], last_linear: bool = False) -> nn.Sequential:
    """Convolution, norm, ReLU, for each convolution there are weights of; the network's last is a bare convolution."""
    layers: list[nn.Module] = []
    count = sum(name.startswith("conv") for name in weights)
    for k in range(count):
        layers.append(convolution(weights[f"conv{k}"]))
        if f"norm{k}" in weights:  # the network's first layer has none
            layers.append(Norm(weights[f"norm{k}"]["gain"]))
        if not (last_linear and k == count - 1):
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The blind UNet; its forward pass gives (image, channel averages of the middle block), as hooks would give them."""

    def __init__(self, params: Mapping[str, Any], trainable: bool = False):
        """Builds the network that the parameters describe, frozen unless it is to be trained."""
        super().__init__()
        scales = sum(name.startswith("encoder") for name in params)
        down, up = range(scales), [params[f"decoder{j}"] for j in reversed(range(scales))]
        self.encoders = nn.ModuleList(block(params[f"encoder{j}"]) for j in down)
        self.middle = block(params["mid"])
        self.ups = nn.ModuleList(upsampling(weights["up"]["kernel"]) for weights in up)
        self.decoders = nn.ModuleList(block(weights, weights is up[-1]) for weights in up)
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
        return self.encode(y)[0].mean(dim=(2, 3))

    def averages(self, y: torch.Tensor) -> torch.Tensor:
        """Channel averages of every block's output side by side, in the order in which the blocks run; not of the image."""
        middle, skips = self.encode(y)
        outputs = [*skips, middle, *self.decode(middle, skips, blocks=-1)]
        return torch.cat([output.mean(dim=(2, 3)) for output in outputs], dim=1)

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy images [b c h w] -> (denoised images, phi [b k])."""
        middle, skips = self.encode(y)
        return self.decode(middle, skips)[-1], middle.mean(dim=(2, 3))


class Form(NamedTuple):
    """How PyTorch runs the network: its memory layout, and whether `torch.compile` makes one program of it."""

    channels_last: bool
    compiled: bool

    @property
    def layout(self) -> torch.memory_format:
        """Of images, activations and kernels."""
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def compile(self, function: Callable) -> Callable:
        """A function of images [b c h w] in this form; images of another layout would be compiled anew."""
        if not self.compiled:
            return function
        compiled = torch.compile(function, dynamic=False)
        return lambda *images: compiled(*(each.contiguous(memory_format=self.layout) for each in images))


FORMS = {
    "eager": Form(False, False),  # as published
    "channels_last": Form(True, False),
    "compiled": Form(False, True),
    "compiled, channels_last": Form(True, True),
}


def network_in(form: Form, network: UNet, decoder: bool) -> Pass:
    """The network's pass in one of its forms; without the decoder only phi is left, and it is no longer the published one."""

    def phi_alone(images):
        return None, network.represent(images)

    def both(images):
        image, phi = network(images)
        # Nothing asks for the image's gradient; a compiled program, left to assume it, would run the decoder backwards too.
        return image.detach(), phi

    if not form.compiled:
        return network if decoder else phi_alone
    return form.compile(both if decoder else phi_alone)


def from_numpy(images: np.ndarray) -> torch.Tensor:
    """[b h w c] -> [b c h w]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: torch.Tensor) -> np.ndarray:
    """[b c h w] -> [b h w c]."""
    return np.ascontiguousarray(images.detach().permute(0, 2, 3, 1).float().cpu().numpy())
