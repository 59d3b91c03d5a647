"""The published network and its published reconstruction in PyTorch, written from the paper's text and SCIENCE of its public code.

What `reconstruction.py` measures against; checked there against ours, weight for weight, before anything is timed.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Norm(nn.Module):
    """x / (sd(x) + 1e-5) with sd over channels, height and width of each image; then a gain per channel."""

    def __init__(self, gain: np.ndarray):
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain.reshape(1, -1, 1, 1)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        deviation = torch.sqrt(x.var(dim=(1, 2, 3), unbiased=False, keepdim=True))
        return x / (deviation + 1e-5) * self.gain


def convolution(weights: Mapping[str, np.ndarray]) -> nn.Conv2d:
    """3x3 convolution, zero padding, from a kernel [3, 3, in, out] and a bias."""
    kernel = np.asarray(weights["kernel"])
    layer = nn.Conv2d(kernel.shape[2], kernel.shape[3], 3, padding=1)
    layer.weight.data = torch.tensor(kernel.transpose(3, 2, 0, 1))
    layer.bias.data = torch.tensor(np.asarray(weights["bias"]))
    return layer


def block(weights: Mapping[str, Any]) -> nn.Sequential:
    """Convolution, norm, ReLU as often as there are weights; the first layer of all has no norm, the last of all nothing."""
    layers = []
    count = sum(name.startswith("conv") for name in weights)
    for k in range(count):
        layers.append(convolution(weights[f"conv{k}"]))
        linear = weights[f"conv{k}"]["kernel"].shape[-1] <= 3
        if f"norm{k}" in weights:
            layers.append(Norm(np.asarray(weights[f"norm{k}"]["gain"])))
        if not linear:
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The blind UNet; its forward pass returns (image, channel averages of the middle block), as hooks would give them."""

    def __init__(self, params: Mapping[str, Any]):
        super().__init__()
        scales = sum(name.startswith("encoder") for name in params)
        self.encoders = nn.ModuleList(block(params[f"encoder{j}"]) for j in range(scales))
        self.middle = block(params["mid"])
        self.decoders = nn.ModuleList(block(params[f"decoder{j}"]) for j in reversed(range(scales)))
        self.ups = nn.ModuleList()
        for j in reversed(range(scales)):
            kernel = np.asarray(params[f"decoder{j}"]["up"]["kernel"])
            up = nn.ConvTranspose2d(kernel.shape[2], kernel.shape[3], 2, stride=2, bias=False)
            up.weight.data = torch.tensor(kernel.transpose(2, 3, 0, 1))
            self.ups.append(up)
        self.requires_grad_(False)

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        skips = []
        for encoder in self.encoders:
            y = encoder(y)
            skips.append(y)
            y = functional.avg_pool2d(y, 2)
        y = self.middle(y)
        phi = y.mean(dim=(2, 3))
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            y = decoder(torch.cat([up(y), skip], dim=1))
        return y, phi


class Matched(NamedTuple):
    """Images after a matching step, and the loss of each image at every step [steps, n]."""

    images: torch.Tensor
    losses: torch.Tensor


def match(network: nn.Module, images: torch.Tensor, targets: torch.Tensor, max_steps: int) -> Matched:
    """Algorithm 2: Adam on the pixels until every image's loss is 1 % of its first, or max_steps. All move until the last is done."""
    images = images.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=0.01)
    losses, threshold = [], None
    for _ in range(max_steps):
        optimizer.zero_grad()
        loss = ((network(images)[1] - targets) ** 2).mean(dim=1)
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach())
        threshold = loss.detach() / 100 if threshold is None else threshold
        if bool((loss.detach() <= threshold).all()):
            break
    return Matched(images.detach(), torch.stack(losses))


class Reconstructed(NamedTuple):
    """Images; match loss [levels, n], last of each level; matching steps made at each level."""

    images: torch.Tensor
    losses: torch.Tensor
    steps: list[int]


def reconstruct(
    network: nn.Module,
    conditioners: torch.Tensor,
    mean: torch.Tensor,
    sigmas: np.ndarray,
    *,
    max_steps: int = 100,
    draws: int = 10,
    seed: int = 0,
) -> Reconstructed:
    """The fixed-schedule reconstruction: noise is added, phi matched, the image denoised, at each level in turn."""
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(conditioners.shape, generator=generator)

    with torch.no_grad():
        targets = [
            torch.stack([network(conditioners + s * noise())[1] for _ in range(draws)]).mean(dim=0)
            for s in map(float, sigmas)
        ]
    x, losses, steps = mean.expand_as(conditioners), [], []
    for sigma, target in zip(map(float, sigmas), targets, strict=True):
        matched = match(network, x + sigma * noise(), target, max_steps)
        with torch.no_grad():
            x = network(matched.images)[0]
        losses.append(matched.losses[-1])
        steps.append(len(matched.losses))
    return Reconstructed(x, torch.stack(losses), steps)
