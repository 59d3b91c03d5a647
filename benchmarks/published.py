"""The published network and its published reconstruction in PyTorch, written from the paper and its public code.

    python benchmarks/published.py FD       answers `reconstruction.py`, which starts it, on an inherited connection

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912v1), algorithm 2 and the fixed-schedule reconstruction of its public code.
As there, the whole network runs in each matching step, and phi is read from its middle block on the way. Weights are copied from
ours, and `reconstruction.py` compares the two before it times anything. Needs benchmarks/requirements.txt, and nothing of ours.
"""

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
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

    def __init__(self, params: Mapping[str, Any]):
        """Builds the network that the parameters describe, and freezes it."""
        super().__init__()
        scales = sum(name.startswith("encoder") for name in params)
        down, up = range(scales), [params[f"decoder{j}"] for j in reversed(range(scales))]
        self.encoders = nn.ModuleList(block(params[f"encoder{j}"]) for j in down)
        self.middle = block(params["mid"])
        self.ups = nn.ModuleList(upsampling(weights["up"]["kernel"]) for weights in up)
        self.decoders = nn.ModuleList(block(weights, weights is up[-1]) for weights in up)
        self.requires_grad_(False)

    def encode(self, y: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Output of the middle block, and of each encoder."""
        skips = []
        for encoder in self.encoders:
            y = encoder(y)
            skips.append(y)
            y = functional.avg_pool2d(y, 2)
        return self.middle(y), skips

    def forward(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Noisy images [b c h w] -> (denoised images, phi [b k])."""
        y, skips = self.encode(y)
        phi = y.mean(dim=(2, 3))
        for up, decoder, skip in zip(self.ups, self.decoders, reversed(skips), strict=True):
            y = decoder(torch.cat([up(y), skip], dim=1))
        return y, phi


class Matched(NamedTuple):
    """Images after a matching, and the loss of each image before each step [steps, n]."""

    images: torch.Tensor
    losses: torch.Tensor


def losses_of(network: Pass, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(1/k) || phi(y_i) - phi*_i ||^2 of each image."""
    return ((network(images)[1] - targets) ** 2).mean(dim=1)


def match(
    network: Pass, images: torch.Tensor, targets: torch.Tensor, max_steps: int, tolerance: float = 0.01
) -> Matched:
    """Adam on the pixels until every image's loss is 1 % of its first, or max_steps; all move until the last is done.

    What is minimised is the mean over the images, so each pixel's gradient is 1/n of its own image's, and Adam's epsilon (1e-8)
    weighs n times as much as for one image alone.
    """
    images = images.detach().clone().requires_grad_(True)
    optimizer = torch.optim.Adam([images], lr=0.01)
    losses: list[torch.Tensor] = []
    for _ in range(max_steps):
        optimizer.zero_grad()
        loss = losses_of(network, images, targets)
        loss.mean().backward()
        optimizer.step()
        losses.append(loss.detach())
        if bool((losses[-1] <= tolerance * losses[0]).all()):
            break
    return Matched(images.detach(), torch.stack(losses))


class Reconstructed(NamedTuple):
    """Images; what the last level's matching left; matching steps made at each level."""

    images: torch.Tensor
    matched: torch.Tensor
    steps: list[int]


@torch.no_grad()
def target_phi(network: Pass, conditioners: torch.Tensor, noise: Callable, sigma: float, draws: int) -> torch.Tensor:
    """Mean of phi over noise draws."""
    return torch.stack([network(conditioners + sigma * noise())[1] for _ in range(draws)]).mean(dim=0)


def reconstruct(
    network: Pass,
    conditioners: torch.Tensor,
    mean: torch.Tensor,
    sigmas: list[float],
    *,
    max_steps: int,
    tolerance: float,
    draws: int,
    seed: int,
) -> Reconstructed:
    """The fixed-schedule reconstruction: noise is added, phi matched, the image denoised, at each level in turn."""
    generator = torch.Generator().manual_seed(seed)

    def noise():
        return torch.randn(conditioners.shape, generator=generator)

    targets = [target_phi(network, conditioners, noise, sigma, draws) for sigma in sigmas]
    x, matched, steps = mean.expand_as(conditioners), conditioners, []
    for sigma, target in zip(sigmas, targets, strict=True):
        matched, losses = match(network, x + sigma * noise(), target, max_steps, tolerance)
        with torch.no_grad():
            x = network(matched)[0]
        steps.append(len(losses))
    return Reconstructed(x, matched, steps)


class Form(NamedTuple):
    """How PyTorch runs the network: its memory layout, and whether `torch.compile` makes one program of it."""

    channels_last: bool
    compiled: bool


FORMS = {
    "eager": Form(False, False),  # as published
    "channels_last": Form(True, False),
    "compiled": Form(False, True),
    "compiled, channels_last": Form(True, True),
}


def network_in(form: Form, params: Mapping[str, Any], decoder: bool) -> Pass:
    """The network's pass in one of its forms; without the decoder only phi is left, and it is no longer the published one."""
    layout = torch.channels_last if form.channels_last else torch.contiguous_format
    network = UNet(params).to(memory_format=layout)

    def phi_alone(images):
        return None, network.encode(images)[0].mean(dim=(2, 3))

    def both(images):
        image, phi = network(images)
        # Nothing asks for the image's gradient; a compiled program, left to assume it, would run the decoder backwards too.
        return image.detach(), phi

    if not form.compiled:
        return network if decoder else phi_alone
    compiled = torch.compile(both if decoder else phi_alone, dynamic=False)
    return lambda images: compiled(images.contiguous(memory_format=layout))  # another layout would be compiled anew


def from_numpy(images: np.ndarray) -> torch.Tensor:
    """[b h w c] -> [b c h w]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def to_numpy(images: torch.Tensor) -> np.ndarray:
    """[b c h w] -> [b h w c]."""
    return np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())


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
            self.passes[form, decoder] = network_in(FORMS[form], self.params, decoder)
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
        self, form: str, conditioners: np.ndarray, mean: np.ndarray, sigmas: list[float], **settings: Any
    ) -> dict[str, Any]:
        """`reconstruct`, timed."""
        network, images, start_image = self.network(form), from_numpy(conditioners), from_numpy(mean[None])
        start = time.perf_counter()
        made = reconstruct(network, images, start_image, sigmas, **settings)
        seconds = time.perf_counter() - start
        return {
            **made._asdict(),
            "images": to_numpy(made.images),
            "matched": to_numpy(made.matched),
            "seconds": seconds,
        }

    def peak_mb(self) -> float:
        """Largest resident memory of this process so far."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def serve(connection: Connection) -> None:
    """Answers (method, arguments) until the other end closes."""
    worker = Worker()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        connection.send(getattr(worker, method)(**arguments))


if __name__ == "__main__":
    serve(Connection(int(sys.argv[1])))
