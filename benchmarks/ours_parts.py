"""The parts of a training step by themselves, on our side; see `parts`, and `ours_network` for the form of a job."""

import functools

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
    """One part, on one device; `compared` gives the results that are compared, in an order that both sides have."""

    def prepare(self):
        own = {"optimiser": self.optimiser, "input": self.input}
        self.call, self.compared = own.get(self.settings["part"], self.layers)()
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
        return lambda: both_ways(arrays), lambda: jax.tree.leaves(both_ways(arrays))

    def optimiser(self):
        """An update with the parameters for gradients; the state is given away each time.

        Compared: how far each parameter was moved by some updates with gradients that change.
        """
        optimizer, before = optax.adam(1e-3), self.network.params

        def update(state, gradients):
            changes, moments = optimizer.update(gradients, state[1], state[0])
            return optax.apply_updates(state[0], changes), moments

        def fresh():
            return jax.tree.map(jnp.array, (before, optimizer.init(before)))

        program, gradients = jax.jit(update, donate_argnums=0), jax.device_put(before)
        self.state = fresh()

        def step():
            self.state = program(self.state, gradients)
            return self.state[0]

        def moved():
            state = fresh()
            for k in range(parts.OPTIMISER_STEPS):
                state = program(state, jax.tree.map(functools.partial(parts.gradient, step=k), before))
            return in_order(jax.tree.map(lambda a, b: np.asarray(a) - b, state[0], before))

        return step, moved

    def input(self):
        """uint8 images on the host -> clean and noisy ones on the device. Compared: the clean ones."""

        @jax.jit
        def noisy(images, index):
            clean = noise.to_unit(images)
            keys = noise.image_keys(jax.random.key(self.settings["seed"]), index)
            return clean, training.draw_noise(keys, clean, noise.noise_levels)[0]

        index = jnp.arange(self.settings["batch"], dtype=jnp.int32)
        def step():
            return noisy(jax.device_put(self.inputs["images"]), index)

        return step, lambda: step()[:1]

    def agree(self):
        return parts.projections(self.compared())


def in_order(params):
    """The parameters in the order in which their layers run, of a layer: kernel, bias, gain."""
    scales = sum(name.startswith("encoder") for name in params)
    up = [params[f"decoder{j}"] for j in reversed(range(scales))]
    blocks = [*(params[f"encoder{j}"] for j in range(scales)), params["mid"]]
    found = [each["up"]["kernel"] for each in up]
    return [*in_blocks(blocks), *found, *in_blocks(up)]


def in_blocks(blocks):
    """Of the 3x3 convolutions and norms of some blocks."""
    found = []
    for block in blocks:
        for k in range(sum(name.startswith("conv") for name in block)):
            layer = block[f"conv{k}"] | block.get(f"norm{k}", {})
            found += [layer[name] for name in ("kernel", "bias", "gain") if name in layer]
    return found


JOBS = {"parts": Parts}
