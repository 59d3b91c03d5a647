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


IMAGE = (0, 2, 3, 1)  # axes of an image for our order


def ours_order(tensor: torch.Tensor, order: tuple[int, ...]) -> np.ndarray:
    """float32, axes in our order."""
    return tensor.detach().float().cpu().numpy().transpose(order)


class Parts(Job):
    """One part; `compared` gives the results that are compared, in the order of ours: all results, then all gradients."""

    differentiates = True

    def prepare(self):
        own = {"optimiser": self.optimiser, "input": self.input}
        self.run, self.compared = own.get(self.settings["part"], self.layers)()

    def layers(self):
        """Forward and backward through all layers of a kind."""
        batch, network, pieces = self.settings["batch"], self.network, self.inputs["pieces"]
        dtype, tensors, orders = getattr(torch, self.settings["dtype"]), [], [IMAGE] * len(pieces)
        for piece in pieces:
            kept = torch.float32 if piece.kind == "norm" else dtype
            own = [from_numpy(image).to(dtype).expand(batch, -1, -1, -1) for image in piece.images]
            own += [torch.from_numpy(weight.transpose(ORDER[piece.kind])).to(kept) for weight in piece.weights]
            tensors += [each.to(network.device).contiguous(memory_format=network.form.layout) for each in own]
            orders += [IMAGE] * len(piece.images) + [tuple(np.argsort(ORDER[piece.kind])) for _ in piece.weights]
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

        return step, lambda: [ours_order(each, order) for each, order in zip(step(), orders, strict=True)]

    def optimiser(self):
        """Fused Adam with the parameters for gradients. Compared: as ours, whose `in_order` is the order of the modules here."""
        net = self.network.net
        tensors = list(net.parameters())
        before = [each.detach().cpu().numpy().copy() for each in tensors]
        orders = {"weight": (2, 3, 1, 0), "bias": (0,), "gain": (0, 2, 3, 1)}
        upwards = {id(each.weight): (2, 3, 0, 1) for each in net.ups}
        own = [upwards.get(id(each), orders[name.rpartition(".")[2]]) for name, each in net.named_parameters()]

        def reset():
            with torch.no_grad():
                for each, value in zip(tensors, before, strict=True):
                    each.copy_(torch.from_numpy(value))
                    each.grad = each.detach().clone()
            return torch.optim.Adam(tensors, lr=1e-3, fused=True)

        def moved():
            optimizer = reset()
            for k in range(parts.OPTIMISER_STEPS):
                for each, value in zip(tensors, before, strict=True):
                    each.grad.copy_(torch.from_numpy(parts.gradient(value, k)))  # in the parameter's layout, which fused Adam takes
                optimizer.step()
            found = [ours_order(a.detach().cpu() - torch.from_numpy(b), c) for a, b, c in zip(tensors, before, own, strict=True)]
            self.run = reset().step
            return found

        return reset().step, moved

    def input(self):
        """uint8 images on the host, laid out as on the device -> clean and noisy ones there. Compared: the clean ones."""
        images = from_numpy(self.inputs["images"]).contiguous(memory_format=self.network.form.layout)
        images = images.pin_memory() if self.network.device == "cuda" else images

        def step():
            clean = images.to(self.network.device, non_blocking=True).float() / 255
            sigma = torch.rand(len(clean), 1, 1, 1, device=clean.device) ** 2
            return clean, clean + sigma * torch.randn_like(clean)

        return step, lambda: [ours_order(step()[0], IMAGE)]

    def agree(self):
        return parts.projections(self.compared())


JOBS = {"parts": Parts}
