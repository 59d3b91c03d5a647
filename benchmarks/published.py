"""The published reconstructions in PyTorch, written from the paper and its public code.

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912v1): algorithm 2 (matching), algorithm 1 (blind) and the fixed-schedule
reconstruction of its public code. As there, the whole network runs in each matching step, and phi is read from its middle block on
the way, unless another pass is given for that. Needs benchmarks/requirements.txt, and nothing of ours.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch_network import Pass

Noise = Callable[[], torch.Tensor]


class Matched(NamedTuple):
    """Images after a matching, and the loss of each image before each step [steps, n]."""

    images: torch.Tensor
    losses: torch.Tensor


def losses_of(network: Pass, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(1/k) || phi(y_i) - phi*_i ||^2 of each image."""
    return ((network(images)[1].float() - targets) ** 2).mean(dim=1)


def match(
    network: Pass,
    images: torch.Tensor,
    targets: torch.Tensor,
    max_steps: int,
    tolerance: float = 0.01,
    fused: bool = False,
) -> Matched:
    """Adam on the pixels until every image's loss is 1 % of its first, or max_steps; all move until the last is done.

    What is minimised is the mean over the images, so each pixel's gradient is 1/n of its own image's, and Adam's epsilon (1e-8)
    weighs n times as much as for one image alone. With tolerance 0 nothing is asked between the steps.
    """
    images = images.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=0.01, fused=fused)
    losses: list[torch.Tensor] = []
    for _ in range(max_steps):
        optimizer.zero_grad()
        loss = losses_of(network, images, targets)
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach())
        if tolerance > 0 and bool((losses[-1] <= tolerance * losses[0]).all()):
            break
    return Matched(images.detach(), torch.stack(losses))


@torch.no_grad()
def target_phi(network: Pass, conditioners: torch.Tensor, noise: Noise, sigma: Any, draws: int) -> torch.Tensor:
    """Mean of phi over noise draws; sigma is a level for all images, or [n 1 1 1]."""
    return torch.stack([network(conditioners + sigma * noise())[1].float() for _ in range(draws)]).mean(dim=0)


def reconstruct(
    network: Pass,
    conditioners: torch.Tensor,
    mean: torch.Tensor,
    sigmas: list[float],
    *,
    noise: Noise,
    max_steps: int,
    tolerance: float,
    draws: int,
    matching: Pass | None = None,
    fused: bool = False,
) -> torch.Tensor:
    """The fixed-schedule reconstruction: noise is added, phi matched, the image denoised, at each level in turn.

    Args:
      network: gives the denoised images.
      conditioners, mean, sigmas: what to reconstruct, where to begin, the noise levels from the top down.
      noise: gives standard normal numbers of the conditioners' shape: first for the targets of all levels, then for each level.
      max_steps, tolerance, draws: most steps of a matching, share of the first loss that ends one, noise draws in a target.
      matching: gives phi, where the whole network need not run for it.
      fused: whether Adam is one kernel; as published it is not.
    """
    matching = matching or network
    targets = [target_phi(matching, conditioners, noise, sigma, draws) for sigma in sigmas]
    x = mean.expand_as(conditioners)
    for sigma, target in zip(sigmas, targets, strict=True):
        matched = match(matching, x + sigma * noise(), target, max_steps, tolerance, fused).images
        with torch.no_grad():
            x = network(matched)[0]
    return x


def levels_of(residuals: torch.Tensor) -> torch.Tensor:
    """Root mean square of each image's residual, [n 1 1 1]."""
    return (residuals**2).mean(dim=(1, 2, 3), keepdim=True).sqrt()


def reconstruct_blind(
    network: Pass,
    conditioners: torch.Tensor,
    mean: torch.Tensor,
    *,
    noise: Noise,
    steps: int,
    h0: float,
    beta: float,
    sigma_0: float,
    sigma_end: float,
    max_steps: int,
    tolerance: float,
    draws: int,
    matching: Pass | None = None,
    fused: bool = False,
) -> torch.Tensor:
    """Algorithm 1 with a fixed step size: at most `steps` score steps from mean + sigma_0 z, then denoised once more.

    Each step matches phi at the image's own level, which is read off the residual, and takes a share h0 of the residual away. An
    image below `sigma_end` moves no more; it is still passed through the network. `noise` gives that of the start, then of each
    step's targets and of its score step.
    """
    matching = matching or network
    y = mean + sigma_0 * noise()
    sigma = torch.full_like(y[:, :1, :1, :1], sigma_0)
    for _ in range(steps):
        moving = sigma > sigma_end
        if not bool(moving.any()):
            break
        target = target_phi(matching, conditioners, noise, sigma, draws)
        y = torch.where(moving, match(matching, y, target, max_steps, tolerance, fused).images, y)
        with torch.no_grad():
            r = network(y)[0] - y
            seen = levels_of(r)
            gamma = seen * ((1 - beta * h0) ** 2 - (1 - h0) ** 2) ** 0.5
            y = torch.where(moving & (seen > sigma_end), y + h0 * r + gamma * noise(), y)
            sigma = levels_of(network(y)[0] - y)
    with torch.no_grad():
        return network(y)[0]
