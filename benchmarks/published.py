"""The published reconstructions in PyTorch, written from the paper and its public code.

    python benchmarks/published.py FD       answers `reconstruction.py`, which starts it, on an inherited connection

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912v1): algorithm 2 (matching), algorithm 1 (blind) and the fixed-schedule
reconstruction of its public code. As there, the whole network runs in each matching step, and phi is read from its middle block on
the way, unless another pass is given for that. Needs benchmarks/requirements.txt, and nothing of ours.
"""

import platform
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import serving
import torch
from torch_network import FORMS, Pass, UNet, from_numpy, network_in, to_numpy

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


class Reconstructed(NamedTuple):
    """Images; what the last level's matching left; matching steps made at each level."""

    images: torch.Tensor
    matched: torch.Tensor
    steps: list[int]


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
) -> Reconstructed:
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
    x, matched, steps = mean.expand_as(conditioners), conditioners, []
    for sigma, target in zip(sigmas, targets, strict=True):
        matched, losses = match(matching, x + sigma * noise(), target, max_steps, tolerance, fused)
        with torch.no_grad():
            x = network(matched)[0]
        steps.append(len(losses))
    return Reconstructed(x, matched, steps)


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
    h: float,
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

    Each step matches phi at the image's own level, which is read off the residual, and takes a share h of the residual away. An
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
            gamma = seen * ((1 - beta * h) ** 2 - (1 - h) ** 2) ** 0.5
            y = torch.where(moving & (seen > sigma_end), y + h * r + gamma * noise(), y)
            sigma = levels_of(network(y)[0] - y)
    with torch.no_grad():
        return network(y)[0]


def random_noise(shape: torch.Size, seed: int) -> Noise:
    """Standard normal numbers from a seed."""
    generator = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(shape, generator=generator)


class Worker:
    """What can be asked for, each method by its name; images are numpy [b h w c]."""

    def load(self, params: Mapping[str, Any], threads: int) -> dict[str, str]:
        """Takes the weights; says what answers."""
        torch.set_num_threads(threads)
        self.params, self.passes = params, {}
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
        return versions | {"threads": str(torch.get_num_threads())}

    def network(self, form: str, decoder: bool = True) -> Pass:
        """The network's pass in one of `FORMS`, made when it is first asked for."""
        if (form, decoder) not in self.passes:
            network = UNet(self.params).to(memory_format=FORMS[form].layout)
            self.passes[form, decoder] = network_in(FORMS[form], network, decoder)
        return self.passes[form, decoder]

    def forms(self) -> list[str]:
        """Names of `FORMS`, the published one first."""
        return list(FORMS)

    def prepare(self, form: str, images: np.ndarray) -> dict[str, Any]:
        """Runs a form once, so that it is compiled: why it cannot be, or "", seconds, and peak memory up to here."""
        start, failure = time.perf_counter(), ""
        try:
            self.reconstruct(form, images, images[0], [1.0, 0.5], max_steps=1, tolerance=0.0, draws=1, seed=0)
        except RuntimeError as error:  # such as: no C++ compiler for torch.compile
            failure = str(error).strip().partition("\n")[0]
        return {"failure": failure, "seconds": time.perf_counter() - start, "peak_mb": self.peak_mb()}

    def first_step(self, images: np.ndarray, targets: np.ndarray) -> dict[str, np.ndarray]:
        """Denoised images and phi; losses; gradient of the mean loss with respect to the pixels."""
        pixels = from_numpy(images).requires_grad_(True)
        losses = losses_of(self.network("eager"), pixels, torch.from_numpy(targets))
        losses.mean().backward()
        with torch.no_grad():
            image, phi = self.network("eager")(from_numpy(images))
        gradient = to_numpy(pixels.grad)
        return {"image": to_numpy(image), "phi": phi.numpy(), "loss": losses.detach().numpy(), "gradient": gradient}

    def match(
        self, form: str, images: np.ndarray, targets: np.ndarray, max_steps: int, decoder: bool = True
    ) -> dict[str, Any]:
        """`match` with exactly `max_steps`, timed; losses [n, steps]."""
        network, y, phi = self.network(form, decoder), from_numpy(images), torch.from_numpy(targets)
        start = time.perf_counter()
        matched = match(network, y, phi, max_steps, tolerance=0.0)
        seconds = time.perf_counter() - start
        return {"images": to_numpy(matched.images), "losses": matched.losses.T.numpy(), "seconds": seconds}

    def reconstruct(
        self, form: str, conditioners: np.ndarray, mean: np.ndarray, sigmas: list[float], seed: int, **settings: Any
    ) -> dict[str, Any]:
        """`reconstruct`, timed."""
        network, images, start_image = self.network(form), from_numpy(conditioners), from_numpy(mean[None])
        noise = random_noise(images.shape, seed)
        start = time.perf_counter()
        made = reconstruct(network, images, start_image, sigmas, noise=noise, **settings)
        seconds = time.perf_counter() - start
        return {
            **made._asdict(),
            "images": to_numpy(made.images),
            "matched": to_numpy(made.matched),
            "seconds": seconds,
        }

    def peak_mb(self) -> float:
        """Largest resident memory of this process so far."""
        return serving.peak_mb()["ever"]


if __name__ == "__main__":
    serving.serve(Worker(), int(sys.argv[1]))
