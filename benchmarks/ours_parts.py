"""The parts of a training step by themselves, on our side; see `parts`, and `ours_network` for the form of a job."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import parts
from ours_network import Job

from unetrep_jax import models, noise, training


def norm(x, gain):
    """With ReLU, in x's precision."""
    return nn.relu(models.Norm("layer", "one").apply({"params": {"gain": gain}}, x)).astype(x.dtype)


def upsampling(x, kernel):
    """As the model does it."""
    return models.Upsample(kernel.shape[-1], x.dtype).apply({"params": {"kernel": kernel}}, x)


KINDS = {
    "convolution": models.convolve,
    "upsampling": upsampling,
    "norm": norm,
    "pooling": models.average_pool,
    "concatenation": lambda *images: jnp.concatenate(images, axis=-1),
}


class Parts(Job):
    """One part, on one device."""

    def prepare(self):
        """Its program and what it works on."""
        part = self.settings["part"]
        {"optimiser": self.prepare_optimiser, "input": self.prepare_input}.get(part, self.prepare_layers)()

    def prepare_layers(self):
        """Forward and backward through all layers of a kind."""
        batch, dtype = self.settings["batch"], models.DTYPES[self.settings["dtype"]]
        found = self.inputs["pieces"]

        def given(piece):
            images = [jnp.repeat(jnp.asarray(image, dtype), batch, axis=0) for image in piece.images]
            return images + [
                jnp.asarray(weight, jnp.float32 if piece.kind == "norm" else dtype) for weight in piece.weights
            ]

        def forward(arrays):
            return [KINDS[piece.kind](*each) for piece, each in zip(found, arrays, strict=True)]

        def both_ways(arrays):
            results, backward = jax.vjp(forward, arrays)
            return results, backward(results)[0]

        self.program, self.arrays = jax.jit(both_ways), [given(piece) for piece in found]
        self.step = lambda: self.program(self.arrays)

    def prepare_optimiser(self):
        """An update with the parameters for gradients; the state is given away each time."""
        optimizer = optax.adam(1e-3)
        self.before, self.network.params = self.network.params, None

        def update(state, gradients):
            params, moments = state
            changes, moments = optimizer.update(gradients, moments, params)
            return optax.apply_updates(params, changes), moments

        self.program, params = jax.jit(update, donate_argnums=0), jax.device_put(self.before)
        self.state, self.gradients = jax.tree.map(jnp.array, (params, optimizer.init(params))), params

        def step():
            self.state = self.program(self.state, self.gradients)
            return self.state[0]

        self.step = step

    def prepare_input(self):
        """uint8 images on the host -> clean and noisy ones on the device."""

        @jax.jit
        def noisy(images, index):
            clean = noise.to_unit(images)
            keys = noise.image_keys(jax.random.key(self.settings["seed"]), index)
            return clean, training.draw_noise(keys, clean, noise.noise_levels)[0]

        index = jnp.arange(self.settings["batch"], dtype=jnp.int32)
        self.step = lambda: noisy(jax.device_put(self.inputs["images"]), index)

    def agree(self):
        """Mean squares of the results; of the optimiser, how far the parameters moved; of the input, the clean images'."""
        found = self.step()
        if self.settings["part"] == "optimiser":
            moved = jax.tree.map(lambda a, b: np.asarray(a) - b, found, self.before)
            found = [np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])]
        if self.settings["part"] == "input":
            found = found[:1]
        return parts.mean_squares([np.asarray(each, np.float32) for each in jax.tree.leaves(found)])

    def run(self):
        """One step."""
        return self.step()


JOBS = {"parts": Parts}
