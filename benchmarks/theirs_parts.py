"""The parts of a training step by themselves, in PyTorch; see `parts`, and `theirs_network` for the form of a job."""

import numpy as np
import parts
import torch
from theirs_network import Job
from torch.nn import functional
from torch_network import Norm, from_numpy

SHELL = Norm(np.ones(1, np.float32))
KINDS = {
    "convolution": lambda x, kernel: functional.conv2d(x, kernel, padding=1),
    "upsampling": lambda x, kernel: functional.conv_transpose2d(x, kernel, stride=2),
    "norm": lambda x, gain: functional.relu(torch.func.functional_call(SHELL, {"gain": gain}, (x,))),
    "pooling": lambda x: functional.avg_pool2d(x, 2),
    "concatenation": lambda *images: torch.cat(images, dim=1),
}
ORDER = {"convolution": (3, 2, 0, 1), "upsampling": (2, 3, 0, 1), "norm": (0, 3, 1, 2)}


class Parts(Job):
    """One part."""

    differentiates = True

    def prepare(self):
        """Its function and what it works on."""
        part = self.settings["part"]
        {"optimiser": self.prepare_optimiser, "input": self.prepare_input}.get(part, self.prepare_layers)()

    def prepare_layers(self):
        """Forward and backward through all layers of a kind."""
        batch, network = self.settings["batch"], self.network
        dtype, layout = getattr(torch, self.settings["dtype"]), network.form.layout
        found, self.tensors, counted = self.inputs["pieces"], [], []
        for piece in found:
            kept = torch.float32 if piece.kind == "norm" else dtype
            own = [from_numpy(image).to(dtype).expand(batch, -1, -1, -1) for image in piece.images]
            own += [torch.from_numpy(weight.transpose(ORDER[piece.kind])).to(kept) for weight in piece.weights]
            own = [each.to(network.device).contiguous(memory_format=layout) for each in own]
            self.tensors += [each.requires_grad_() for each in own]
            counted.append(len(own))

        def forward(*tensors):
            parted = iter(tensors)
            return tuple(
                KINDS[piece.kind](*(next(parted) for _ in range(count)))
                for piece, count in zip(found, counted, strict=True)
            )

        call = network.form.compile(forward)

        def step():
            results = call(*self.tensors)
            return *results, *torch.autograd.grad(results, self.tensors, [each.detach() for each in results])

        self.step = step

    def prepare_optimiser(self):
        """Fused Adam with the parameters for gradients."""
        self.tensors = list(self.network.net.parameters())
        self.before = [each.detach().clone() for each in self.tensors]
        for each in self.tensors:
            each.grad = each.detach().clone()
        self.step = torch.optim.Adam(self.tensors, lr=1e-3, fused=True).step

    def prepare_input(self):
        """uint8 images on the host, in the device's layout already -> clean and noisy ones on the device."""
        images = from_numpy(self.inputs["images"]).contiguous(memory_format=self.network.form.layout)
        images = images.pin_memory() if self.network.device == "cuda" else images

        def step():
            clean = images.to(self.network.device, non_blocking=True).float() / 255
            sigma = torch.rand(len(clean), 1, 1, 1, device=clean.device) ** 2
            return clean, clean + sigma * torch.randn_like(clean)

        self.step = step

    def agree(self):
        """Mean squares, in the order of ours: all results, then all gradients."""
        found = self.step()
        if self.settings["part"] == "optimiser":
            with torch.no_grad():
                moved = [(a - b).flatten() for a, b in zip(self.tensors, self.before, strict=True)]
            found = [torch.cat(moved)]
        if self.settings["part"] == "input":
            found = found[:1]
        return parts.mean_squares([each.detach().float().cpu().numpy() for each in found])

    def run(self):
        """One step."""
        self.step()


JOBS = {"parts": Parts}
