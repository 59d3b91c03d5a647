"""The jobs that run the network, in PyTorch; their methods are those of `ours_network`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import published
import torch
from torch_network import to_numpy

AGREEMENT_STEPS = 3
LOOK = {"cpu": 1, "cuda": 10}  # steps of a whole sample between two looks: on a GPU each look waits for the device


class Job:
    """What all have in common. `differentiates`: whether `run` needs gradients; else it runs in inference mode."""

    differentiates = False

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any], form: str):
        """Builds what `run` needs."""
        self.network, self.settings, self.inputs, self.form = network, settings, inputs, form
        self.prepare()


class Forward(Job):
    """Noisy images -> denoised ones."""

    def prepare(self):
        self.call = self.network.form.compile(self.network.net.denoise)
        self.y = self.network.images(self.inputs["noisy"])

    def run(self):
        return self.call(self.y)

    @torch.inference_mode()
    def agree(self):
        return {"image": to_numpy(self.run())}


class Training(Job):
    """Noise, forward, backward, fused Adam with learning rate 1e-3; noise levels u^2, u uniform (our inv_sqrt on [0, 1])."""

    differentiates = True

    def prepare(self):
        net, batch = self.network.net, self.settings["batch"]
        self.loss = self.network.form.compile(lambda clean, noisy: ((net.denoise(noisy) - clean) ** 2).sum() / batch)
        self.optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, fused=True)
        self.images = self.network.images(self.inputs["images"])

    def update(self, clean: torch.Tensor, noisy: torch.Tensor) -> torch.Tensor:
        """One update; its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(clean, noisy)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def agree(self):
        losses, norms, net = [], [], self.network.net
        for noisy in self.inputs["noisy_steps"]:
            losses.append(float(self.update(self.images.float() / 255, self.network.images(noisy))))
            norms.append(sum(float((parameter.grad**2).sum()) for parameter in net.parameters()) ** 0.5)
        with torch.no_grad():
            after = to_numpy(net.denoise(self.network.images(self.inputs["noisy"])))
        found = {"first loss": np.array(losses[:1]), "first gradient norm": np.array(norms[:1])}
        return found | {"losses": np.array(losses), "image after": after}

    def run(self):
        clean = self.images.float() / 255
        sigma = torch.rand(len(clean), 1, 1, 1, device=clean.device) ** 2
        self.update(clean, clean + sigma * torch.randn_like(clean))


class Matching(Job):
    """Adam (fused) on the pixels towards a phi, for a given number of steps, without the decoder."""

    differentiates = True

    def prepare(self):
        self.represent = self.network.form.compile(self.network.net.represent)
        self.y = self.network.images(self.inputs["noisy"])
        self.targets = torch.from_numpy(self.inputs["targets"]).to(self.network.device)

    def match(self, steps: int) -> published.Matched:
        """So many steps."""
        return published.Matching(self.represent, steps, tolerance=0.0, fused=True).match(self.y, self.targets)

    def agree(self):
        pixels = self.y.detach().clone().requires_grad_(True)
        phi = self.represent(pixels)
        ((phi - self.targets) ** 2).mean(dim=1).sum().backward()
        matched = self.match(AGREEMENT_STEPS)
        losses = matched.losses.T.cpu().numpy()
        found = {"phi": phi.detach().cpu().numpy(), "first matching loss": losses[:, :1], "losses": losses}
        moved = to_numpy(matched.images) - self.inputs["noisy"]
        return found | {"gradient": to_numpy(pixels.grad), "moved images": moved}

    def run(self):
        self.match(self.settings["steps"])


class Sampler(Job):
    """Steps of the blind sampler: y <- y + h r + gamma z, with r = f(y) - y and gamma from its size."""

    def prepare(self):
        """The step, compiled whole but for drawing noise, and the start."""
        h, beta, denoise = self.settings["h0"], self.settings["beta"], self.network.net.denoise
        spread = ((1 - beta * h) ** 2 - (1 - h) ** 2) ** 0.5

        def step(y, z):
            """(next images, noise level seen, denoised images)."""
            denoised = denoise(y)
            sigma = published.levels_of(denoised - y)
            return y + h * (denoised - y) + spread * sigma * z, sigma, denoised

        self.step, self.y = self.network.form.compile(step), self.network.images(self.inputs["noisy"])

    @torch.inference_mode()
    def agree(self):
        y = self.y
        for z in self.inputs["noise_steps"]:
            y, sigma, denoised = self.step(y, self.network.images(z))
        return {"image": to_numpy(y), "sigma": sigma.flatten().cpu().numpy(), "denoised": to_numpy(denoised)}

    def run(self):
        y = self.y
        for _ in range(self.settings["steps"]):
            y = self.step(y, torch.randn_like(y))[0]


class Sample(Sampler):
    """A whole sample: steps until every image has arrived; one that has is moved no more."""

    def run(self):
        y, going = self.y, torch.ones(len(self.y), 1, 1, 1, dtype=torch.bool, device=self.y.device)
        for step in range(self.settings["max_steps"]):
            after, sigma, _ = self.step(y, torch.randn_like(y))
            going = going & (sigma > self.settings["sigma_end"])
            if step % LOOK[self.network.device] == 0 and not bool(going.any()):
                self.steps = step
                return
            y = torch.where(going, after, y)
        raise RuntimeError(f"a sample has not ended after {self.settings['max_steps']} steps")

    def facts(self):
        """Steps of the slowest image, or a few more."""
        return {"steps": self.steps}


class Reconstruction(Job):
    """The published fixed-schedule reconstruction. But as published, matching runs no decoder, as ours, and Adam is fused."""

    differentiates = True

    def prepare(self):
        net, form = self.network.net, self.network.form
        is_published = self.form == "eager, as published"
        self.denoise = form.compile(net.denoise)
        phi = (lambda y: net(y)[1]) if is_published else form.compile(net.represent)
        self.how = published.Matching(phi, 0, tolerance=0.0, draws=self.settings["draws"], fused=not is_published)
        self.targets = self.network.images(self.inputs["images"] / np.float32(255))
        self.mean = self.network.images(self.inputs["mean"][None])

    def reconstruct(self, noise: published.Noise, steps: int, levels: Sequence[float]) -> torch.Tensor:
        """The images, from so many steps of each matching on these levels."""
        how = self.how._replace(max_steps=steps)
        return published.reconstruct(self.denoise, how, self.targets, self.mean, levels, noise)

    def agree(self):
        """The images, from our noise, after matchings of a few steps on a few levels."""
        noises, levels = iter(self.inputs["noises"]), self.inputs.get("few_sigmas", ())
        return {"image": to_numpy(self.reconstruct(lambda: self.network.images(next(noises)), AGREEMENT_STEPS, levels))}

    def run(self):
        steps, levels = self.settings["matching_steps"], self.inputs.get("sigmas", ())
        self.reconstruct(lambda: torch.randn_like(self.targets), steps, levels)


class Blind(Reconstruction):
    """The published blind reconstruction: some of its score steps, which find their levels by themselves."""

    def reconstruct(self, noise, steps, levels=()):
        how, names = self.how._replace(max_steps=steps), ("steps", "h0", "beta", "sigma_0", "sigma_end")
        own = {name: self.settings[name] for name in names}
        return published.reconstruct_blind(self.denoise, how, self.targets, self.mean, noise, **own)


JOBS = {"forward": Forward, "training": Training, "matching": Matching, "sampler": Sampler, "sample": Sample}
JOBS |= {"reconstruction": Reconstruction, "blind": Blind}
