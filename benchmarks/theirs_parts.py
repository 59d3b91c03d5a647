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
    """One part; `of` picks from a step's results what is compared, in the order of ours: all results, then all gradients."""

    differentiates = True

    def prepare(self):
        own = {"optimiser": self.optimiser, "input": self.input}
        self.run, self.of = own.get(self.settings["part"], self.layers)()

    def layers(self):
        """Forward and backward through all layers of a kind."""
        batch, network, pieces = self.settings["batch"], self.network, self.inputs["pieces"]
        dtype, tensors = getattr(torch, self.settings["dtype"]), []
        for piece in pieces:
            kept = torch.float32 if piece.kind == "norm" else dtype
            own = [from_numpy(image).to(dtype).expand(batch, -1, -1, -1) for image in piece.images]
            own += [torch.from_numpy(weight.transpose(ORDER[piece.kind])).to(kept) for weight in piece.weights]
            tensors += [each.to(network.device).contiguous(memory_format=network.form.layout) for each in own]
        for each in tensors:
            each.requires_grad_()

        def forward(*tensors):
            left = iter(tensors)
            own = ([next(left) for _ in (*piece.images, *piece.weights)] for piece in pieces)
            return tuple(KINDS[piece.kind](*each) for piece, each in zip(pieces, own, strict=True))

        call = network.form.compile(forward)

        def step():
            results = call(*tensors)
            return *results, *torch.autograd.grad(results, tensors, [each.detach() for each in results])

        return step, list

    def optimiser(self):
        """Fused Adam with the parameters for gradients. Compared: how far it moves them."""
        tensors = list(self.network.net.parameters())
        before = [each.detach().clone() for each in tensors]
        for each in tensors:
            each.grad = each.detach().clone()
        step = torch.optim.Adam(tensors, lr=1e-3, fused=True).step
        return step, lambda _: [torch.cat([(a - b).flatten() for a, b in zip(tensors, before, strict=True)])]

    def input(self):
        """uint8 images on the host, laid out as on the device -> clean and noisy ones there. Compared: the clean ones."""
        images = from_numpy(self.inputs["images"]).contiguous(memory_format=self.network.form.layout)
        images = images.pin_memory() if self.network.device == "cuda" else images

        def step():
            clean = images.to(self.network.device, non_blocking=True).float() / 255
            sigma = torch.rand(len(clean), 1, 1, 1, device=clean.device) ** 2
            return clean, clean + sigma * torch.randn_like(clean)

        return step, lambda found: found[:1]

    def agree(self):
        return parts.mean_squares([each.detach().float().cpu().numpy() for each in self.of(self.run())])


JOBS = {"parts": Parts}
