"""The jobs that run the network, on our side.

Each class: `prepare` builds programs and what they work on; `given` is what the other side needs to come to the same results;
`agree` returns what is compared; `run`, a call, is timed; `facts` is what else the last call said.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jobs import PLAIN

from unetrep_jax import denoiser, devices, noise, reconstruction, sampling, training
from unetrep_jax.storage import InputError

AGREEMENT_STEPS = 3
STRETCH = 50  # steps of a whole sample between two looks, as in `stages`


def bytes_of(program: jax.stages.Compiled) -> float:
    """Bytes that have to be there at once while it runs: arguments, results that do not take their place, temporary values."""
    found = program.memory_analysis()
    names = ("argument", "output", "alias", "temp")
    argument, output, alias, temporary = (float(getattr(found, f"{name}_size_in_bytes")) for name in names)
    return argument + output - alias + temporary


class Job:
    """What all have in common: `run` is `call(*rows)`, unless a job says otherwise."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Builds its programs."""
        self.network, self.settings, self.inputs = network, settings, inputs
        self.prepare()

    def given(self) -> dict[str, Any]:
        return {}

    def program(self, function: Callable, params: Any = None) -> Callable:
        """`function(denoiser, *rows) -> rows` as the form runs it."""
        model = self.network.model
        return self.network.program(lambda params, rows: function(denoiser.bind(model, params), *rows), params)

    def run(self) -> Any:
        return self.call(*self.rows)

    def program_bytes(self) -> float | None:
        """What the call's program takes on a device by the compiler's analysis; None where a call is more than one of `jax.jit`."""
        call = getattr(self, "call", None)
        return call.bytes(*self.rows) if hasattr(call, "bytes") else None


class Forward(Job):
    """Noisy images -> denoised ones."""

    def prepare(self):
        self.call = self.program(lambda network, images: network.denoise(images))
        self.rows = (self.network.put(self.inputs["noisy"]),)

    def agree(self):
        return {"image": self.run()}


class Training(Job):
    """The training step of `training`, its state donated, over uint8 images; Adam, learning rate 1e-3, noise by inv_sqrt."""

    def prepare(self):
        network, seed, batch = self.network, self.settings["seed"], self.settings["batch"]
        optimizer = training.adam(training.learning_rate_schedule("constant", 1e-3, steps=1, halve_every=1))
        is_plain, how = network.form == PLAIN, {"seed": seed, "batch_size": batch}
        self.batch = self.inputs["images"], np.arange(batch, dtype=np.int32)
        state = devices.to_host(training.init_state(network.params, optimizer))
        network.params = None  # the state has them
        if is_plain:
            step = training.train_step(network.model, optimizer, noise.noise_levels, **how)
            self.step, self.state = jax.jit(step, donate_argnums=0), jax.device_put(state, may_alias=False)
            self.batch = jax.device_put(self.batch)
        else:
            gradient = training.loss_and_gradient(network.model, noise.noise_levels, **how)
            step = devices.parallel_step(gradient, training.update_step(optimizer), needs=training.params_and_step)
            self.step, self.state = step, devices.replicate(state)

    def run(self):
        self.state, metrics = self.step(self.state, self.batch)
        return metrics

    def program_bytes(self):
        is_plain = self.network.form == PLAIN
        return bytes_of(self.step.lower(self.state, self.batch).compile()) if is_plain else None

    def given(self):
        """The noise that our step draws by itself: its noisy images [steps b h w c], of the first steps."""
        images, index = map(np.asarray, self.batch)
        found = []
        for step in range(AGREEMENT_STEPS):
            keys = noise.image_keys(jax.random.fold_in(jax.random.key(self.settings["seed"]), step), index)
            found.append(training.draw_noise(keys, noise.to_unit(images), noise.noise_levels)[0])
        return {"noisy_steps": np.stack(found)}

    def agree(self):
        losses, norms = np.array([[float(value) for value in self.run()] for _ in range(AGREEMENT_STEPS)]).T
        denoise = self.program(lambda network, images: network.denoise(images), devices.to_host(self.state.params))
        found = {"first loss": losses[:1], "first gradient norm": norms[:1], "losses": losses}
        return found | {"image after": denoise(self.inputs["noisy"])}


class Matching(Job):
    """Adam on the pixels towards a phi, for a given number of steps."""

    def prepare(self):
        """The program, and targets: phi of the images, with the same noise as the start."""
        self.represent = self.program(lambda network, images: network.represent(images))
        clean = self.inputs["images"] / np.float32(255)
        self.targets = np.asarray(self.represent(clean + self.inputs["noisy"] - np.float32(0.45)))
        self.call = self.matching(self.settings["steps"])
        self.rows = self.network.put((self.inputs["noisy"], self.targets))

    def matching(self, steps: int):
        """(images, targets) -> Matched; Adam's epsilon is the published one, of the mean over the batch."""
        optimizer = optax.adam(reconstruction.LEARNING_RATE, eps=self.settings["batch"] * reconstruction.EPSILON)
        settings = {"optimizer": optimizer, "max_steps": steps, "tolerance": 0.0, "freeze": False}
        return self.program(lambda network, *rows: reconstruction.match(network.represent, *rows, **settings))

    def given(self):
        return {"targets": self.targets}

    def agree(self):
        """phi, the gradient, losses, and how the images moved."""

        def gradient(network, images, targets):
            return jax.grad(lambda y: jnp.mean((network.represent(y) - targets) ** 2, axis=1).sum())(images)

        matched = self.matching(AGREEMENT_STEPS)(*self.rows)
        moved = np.asarray(matched.images) - self.inputs["noisy"]
        found = {"phi": self.represent(self.inputs["noisy"]), "gradient": self.program(gradient)(*self.rows)}
        losses = np.asarray(matched.losses)
        return found | {"first matching loss": losses[:, :1], "losses": losses, "moved images": moved}


class Sampler(Job):
    """Steps of the blind sampler from a noisy image; without `sigma_end` it never arrives."""

    def prepare(self):
        """The program, and walks whose keys are numbers, which travel."""
        settings = self.settings
        self.how = {name: settings[name] for name in ("h0", "beta", "max_steps")}
        self.how |= {"sigma_end": settings.get("sigma_end", 1e-9)}
        rows = self.inputs["noisy"], jax.random.wrap_key_data(self.network.keys())
        walks = jax.tree.map(np.asarray, packed(jax.vmap(sampling.begin)(*rows)))
        self.rows, self.call = (self.network.put(walks),), self.stretch(settings.get("steps", STRETCH))

    def stretch(self, steps: int):
        """walks -> walks, so many steps further."""

        def go(network, walks):
            def one(walk):
                def denoise(image):
                    return network.denoise(image[None])[0]

                return packed(sampling.advance(denoise, unpacked(walk), steps=steps, **self.how))

            return jax.vmap(one)(walks)

        return self.program(go)

    def given(self):
        """The noise of the first steps [steps b h w c]."""
        keys, found = jax.random.wrap_key_data(self.network.keys()), []
        for _ in range(AGREEMENT_STEPS):
            keys, now = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
            found.append(jax.vmap(lambda key: jax.random.normal(key, self.inputs["noisy"].shape[1:]))(now))
        return {"noise_steps": np.stack(found)}

    def agree(self):
        if self.settings["job"] == "sampler" and (self.run().state.step < self.settings["steps"]).any():
            raise InputError("a walk ended before its last step, so the two sides would do different work")
        walks = self.stretch(AGREEMENT_STEPS)(*self.rows)
        return {"image": walks.state.image, "sigma": walks.state.sigma, "denoised": walks.denoised}


class Sample(Sampler):
    """A whole sample, in stretches, as `stages` makes it."""

    def run(self):
        (walks,) = self.rows
        while bool((walks.stop == sampling.RUNNING).any()):
            walks = self.call(walks)
        if bool((walks.stop != sampling.CONVERGED).any()):
            raise InputError("a sample did not converge")
        self.steps = int(np.max(walks.state.step))

    def facts(self):
        return {"steps": self.steps}


def packed(walk):
    """Keys as numbers."""
    return walk._replace(state=walk.state._replace(key=jax.random.key_data(walk.state.key)))


def unpacked(walk):
    """Numbers as keys."""
    return walk._replace(state=walk.state._replace(key=jax.random.wrap_key_data(walk.state.key)))


JOBS = {"forward": Forward, "training": Training, "matching": Matching, "sampler": Sampler, "sample": Sample}
