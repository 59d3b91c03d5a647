"""The parts of a training step by themselves, on our side; see `parts`, and `ours_network` for the form of a job."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import parts
from ours_network import Job

from unetrep_jax import convolution, models, noise, training


def norm(x, gain):
    """With ReLU, in x's precision."""
    return nn.relu(models.Norm("layer", "one").apply({"params": {"gain": gain}}, x)).astype(x.dtype)


def upsampling(x, kernel):
    """As the model does it."""
    return models.Upsample(kernel.shape[-1], x.dtype).apply({"params": {"kernel": kernel}}, x)


KINDS = {
    "convolution": convolution.convolve,
    "upsampling": upsampling,
    "norm": norm,
    "pooling": models.average_pool,
    "concatenation": lambda *images: jnp.concatenate(images, axis=-1),
}


class Parts(Job):
    """One part, on one device; `of` picks from a step's results what is compared."""

    def prepare(self):
        own = {"optimiser": self.optimiser, "input": self.input}
        self.call, self.of = own.get(self.settings["part"], self.layers)()
        self.rows = ()

    def layers(self):
        """Forward and backward through all layers of a kind."""
        batch, dtype, pieces = self.settings["batch"], models.DTYPES[self.settings["dtype"]], self.inputs["pieces"]

        def arrays_of(piece):
            images = [jnp.repeat(jnp.asarray(image, dtype), batch, axis=0) for image in piece.images]
            kept = jnp.float32 if piece.kind == "norm" else dtype
            return images + [jnp.asarray(weight, kept) for weight in piece.weights]

        def forward(arrays):
            return [KINDS[piece.kind](*each) for piece, each in zip(pieces, arrays, strict=True)]

        @jax.jit
        def both_ways(arrays):
            results, backward = jax.vjp(forward, arrays)
            return results, backward(results)[0]

        arrays = [arrays_of(piece) for piece in pieces]
        return lambda: both_ways(arrays), jax.tree.leaves

    def optimiser(self):
        """An update with the parameters for gradients; the state is given away each time. Compared: how far it moves them."""
        optimizer, before = optax.adam(1e-3), self.network.params

        def update(state, gradients):
            changes, moments = optimizer.update(gradients, state[1], state[0])
            return optax.apply_updates(state[0], changes), moments

        program, gradients = jax.jit(update, donate_argnums=0), jax.device_put(before)
        self.state = jax.tree.map(jnp.array, (gradients, optimizer.init(gradients)))

        def step():
            self.state = program(self.state, gradients)
            return self.state[0]

        def moved(after):
            leaves = jax.tree.map(lambda a, b: np.ravel(np.asarray(a) - b), after, before)
            return [np.concatenate(jax.tree.leaves(leaves))]

        return step, moved

    def input(self):
        """uint8 images on the host -> clean and noisy ones on the device. Compared: the clean ones."""

        @jax.jit
        def noisy(images, index):
            clean = noise.to_unit(images)
            keys = noise.image_keys(jax.random.key(self.settings["seed"]), index)
            return clean, training.draw_noise(keys, clean, noise.noise_levels)[0]

        index = jnp.arange(self.settings["batch"], dtype=jnp.int32)
        return lambda: noisy(jax.device_put(self.inputs["images"]), index), lambda found: found[:1]

    def agree(self):
        return parts.mean_squares([np.asarray(each, np.float32) for each in self.of(self.run())])


JOBS = {"parts": Parts}
