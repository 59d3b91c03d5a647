"""The published reconstructions in PyTorch, written from the paper and its public code.

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912v1): algorithm 2 (matching), algorithm 1 (blind) and the fixed-schedule
reconstruction of its public code. As there, the whole network may run in each matching step, and phi be read from its middle block
on the way; or another pass gives phi. Needs benchmarks/requirements.txt, and nothing of ours.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch

Pass = Callable[[torch.Tensor], torch.Tensor]
Noise = Callable[[], torch.Tensor]


class Matched(NamedTuple):
    """Images after a matching, and the loss of each image before each step [steps, n]."""

    images: torch.Tensor
    losses: torch.Tensor


class Matching(NamedTuple):
    """How phi is matched.

    Attributes:
      phi: images -> phi [n k], float32.
      max_steps, tolerance: most steps; share of the first loss that ends them, for all images at once (0: nothing is asked).
      draws: of noise in a target.
      fused: whether Adam is one kernel; as published it is not.
    """

    phi: Pass
    max_steps: int
    tolerance: float = 0.01
    draws: int = 1
    fused: bool = False

    def match(self, images: torch.Tensor, targets: torch.Tensor) -> Matched:
        """Adam on the pixels until each image's loss is at most `tolerance` of its first; all move until the last is done.

        What is minimised is the mean over the images of (1/k) || phi(y_i) - phi*_i ||^2, so each pixel's gradient is 1/n of its
        own image's, and Adam's epsilon (1e-8) weighs n times as much as for one image alone.
        """
        images = images.detach().clone().requires_grad_(True)
        optimizer = torch.optim.Adam([images], lr=0.01, fused=self.fused)
        losses: list[torch.Tensor] = []
        for _ in range(self.max_steps):
            optimizer.zero_grad()
            loss = ((self.phi(images) - targets) ** 2).mean(dim=1)
            loss.mean().backward()
            optimizer.step()
            losses.append(loss.detach())
            if self.tolerance > 0 and bool((losses[-1] <= self.tolerance * losses[0]).all()):
                break
        return Matched(images.detach(), torch.stack(losses))

    @torch.no_grad()
    def target(self, conditioners: torch.Tensor, noise: Noise, sigma: float | torch.Tensor) -> torch.Tensor:
        """Mean of phi over noise draws; sigma is a level for all images, or [n 1 1 1]."""
        return torch.stack([self.phi(conditioners + sigma * noise()) for _ in range(self.draws)]).mean(dim=0)


def reconstruct(
    denoise: Pass, how: Matching, conditioners: torch.Tensor, mean: torch.Tensor, sigmas: list[float], noise: Noise
) -> torch.Tensor:
    """The fixed-schedule reconstruction: noise is added, phi matched, the image denoised, at each level in turn.

    Args:
      denoise, how: gives the denoised images; how phi is matched.
      conditioners, mean, sigmas: what to reconstruct, where to begin, the noise levels from the top down.
      noise: gives standard normal numbers of the conditioners' shape: first for the targets of all levels, then for each level.
    """
    targets = [how.target(conditioners, noise, sigma) for sigma in sigmas]
    x = mean.expand_as(conditioners)
    for sigma, target in zip(sigmas, targets, strict=True):
        matched = how.match(x + sigma * noise(), target).images
        with torch.no_grad():
            x = denoise(matched)
    return x


def levels_of(residuals: torch.Tensor) -> torch.Tensor:
    """Root mean square of each image's residual, [n 1 1 1]."""
    return (residuals**2).mean(dim=(1, 2, 3), keepdim=True).sqrt()


def reconstruct_blind(
    denoise: Pass, how: Matching, conditioners: torch.Tensor, mean: torch.Tensor, noise: Noise, **settings: float
) -> torch.Tensor:
    """Algorithm 1 with a fixed step size: at most `steps` score steps from mean + sigma_0 z, then denoised once more.

    Each step matches phi at the image's own level, which is read off the residual, and takes a share h0 of the residual away. An
    image below `sigma_end` moves no more; it is still passed through the network. `noise` gives that of the start, then of each
    step's targets and of its score step. The settings are steps, h0, beta, sigma_0, sigma_end.
    """
    h0, beta, sigma_end = (settings[name] for name in ("h0", "beta", "sigma_end"))
    y = mean + settings["sigma_0"] * noise()
    sigma = torch.full_like(y[:, :1, :1, :1], settings["sigma_0"])
    for _ in range(settings["steps"]):
        moving = sigma > sigma_end
        if not bool(moving.any()):
            break
        y = torch.where(moving, how.match(y, how.target(conditioners, noise, sigma)).images, y)
        with torch.no_grad():
            r = denoise(y) - y
            seen = levels_of(r)
            gamma = seen * ((1 - beta * h0) ** 2 - (1 - h0) ** 2) ** 0.5
            y = torch.where(moving & (seen > sigma_end), y + h0 * r + gamma * noise(), y)
            sigma = levels_of(denoise(y) - y)
    with torch.no_grad():
        return denoise(y)
