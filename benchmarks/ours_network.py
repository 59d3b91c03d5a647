"""The jobs that run the network, on our side. Each class: `given` for the other side, `agree` to be compared, `run` to be timed."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from unetrep_jax import denoiser, devices, noise, reconstruction, sampling, training
from unetrep_jax.storage import InputError

AGREEMENT_STEPS = 3
STRETCH = 50  # steps of the sampler between two looks, as in `stages`


class Job:
    """What all have in common."""

    def __init__(self, network: Any, settings: Mapping[str, Any], inputs: Mapping[str, Any]):
        """Builds its programs."""
        self.network, self.settings, self.inputs = network, settings, inputs
        self.prepare()

    def prepare(self) -> None:
        """Builds what `run` needs."""

    def given(self) -> dict[str, Any]:
        """What the other side needs to come to the same results."""
        return {}

    def bound(self, params: Any) -> denoiser.Denoiser:
        """The network with its parameters."""
        return denoiser.bind(self.network.model, params)


class Forward(Job):
    """Noisy images -> denoised ones."""

    def prepare(self):
        """One program."""
        self.call = self.network.program(lambda params, rows: self.bound(params).denoise(*rows))
        self.rows = self.network.put(self.inputs["noisy"])

    def agree(self):
        """The images."""
        return {"image": self.call(self.rows)}

    def run(self):
        """One batch."""
        return self.call(self.rows)


class Training(Job):
    """The training step of `training`, its state donated, over uint8 images; Adam, learning rate 1e-3, noise by inv_sqrt."""

    def prepare(self):
        """The step, and a state to begin from."""
        network, batch = self.network, self.network.batch
        self.optimizer = training.adam(training.learning_rate_schedule("constant", 1e-3, steps=1, halve_every=1))
        step = functools.partial(
            training.train_step,
            network.model,
            self.optimizer,
            noise.noise_levels,
            seed=self.settings["seed"],
            batch_size=batch,
        )
        self.batch = self.inputs["images"], np.arange(batch, dtype=np.int32)
        state = training.init_state(network.params, self.optimizer)
        network.params = None  # the state has them
        if network.form == "one device":
            self.step, self.state = (
                jax.jit(step(), donate_argnums=0),
                jax.device_put(devices.to_host(state), may_alias=False),
            )
            self.batch = jax.device_put(self.batch)
        else:
            self.step = devices.parallel_step(step(axis=devices.AXIS))
            self.state = devices.replicate(devices.to_host(state))

    def advance(self):
        """One step; its metrics, which are still to come."""
        self.state, metrics = self.step(self.state, self.batch)
        return metrics

    def given(self):
        """The noise that our step draws by itself: its noisy images [steps b h w c], of the first steps."""
        images, index = map(np.asarray, self.batch)
        found = []
        for step in range(AGREEMENT_STEPS):
            keys = noise.image_keys(jax.random.fold_in(jax.random.key(self.settings["seed"]), step), index)
            found.append(training.draw_noise(keys, noise.to_unit(images), noise.noise_levels)[0])
        return {"noisy_steps": np.stack(found)}

    def agree(self):
        """Losses, the first gradient's norm, and the images that the network then gives."""
        metrics = [self.advance() for _ in range(AGREEMENT_STEPS)]
        losses, norms = np.array([[float(value) for value in each] for each in metrics]).T
        params = devices.to_host(self.state.params)
        call = self.network.program(lambda params, rows: self.bound(params).denoise(*rows), params)
        after = call(self.inputs["noisy"])
        return {"first loss": losses[:1], "first gradient norm": norms[:1], "losses": losses, "image after": after}

    def run(self):
        """One step."""
        return self.advance()


class Matching(Job):
    """Adam on the pixels towards a phi, for a given number of steps."""

    def prepare(self):
        """The program, and targets: phi of the images, with the same noise as the start."""
        self.represent = self.network.program(lambda params, rows: self.bound(params).represent(*rows))
        clean = self.inputs["images"] / np.float32(255)
        self.targets = np.asarray(self.represent(clean + self.inputs["noisy"] - np.float32(0.45)))
        self.call = self.matching(self.settings["steps"])
        self.rows = self.network.put((self.inputs["noisy"], self.targets))

    def matching(self, steps: int):
        """(images, targets) -> Matched; Adam's epsilon is the published one, of the mean over the batch."""
        optimizer = optax.adam(reconstruction.LEARNING_RATE, eps=self.network.batch * reconstruction.EPSILON)
        settings = {"optimizer": optimizer, "max_steps": steps, "tolerance": 0.0, "freeze": False}
        return self.network.program(
            lambda params, rows: reconstruction.match(self.bound(params).represent, *rows, **settings)
        )

    def given(self):
        """The targets."""
        return {"targets": self.targets}

    def agree(self):
        """phi, the gradient, losses, and how the images moved."""

        def gradient(params, rows):
            def loss(images):
                return jnp.mean((self.bound(params).represent(images) - rows[1]) ** 2, axis=1).sum()

            return jax.grad(loss)(rows[0])

        matched = self.matching(AGREEMENT_STEPS)(*self.rows)
        moved = np.asarray(matched.images) - self.inputs["noisy"]
        found = {"phi": self.represent(self.inputs["noisy"]), "gradient": self.network.program(gradient)(*self.rows)}
        return found | {"losses": matched.losses, "moved images": moved}

    def run(self):
        """All steps."""
        return self.call(*self.rows).images


class Sampler(Job):
    """Steps of the blind sampler from a noisy image; without `sigma_end` it never arrives."""

    def prepare(self):
        """The program."""
        settings = self.settings
        self.how = {name: settings[name] for name in ("h0", "beta", "max_steps")}
        self.how |= {"sigma_end": settings.get("sigma_end", 1e-9)}
        self.start = self.network.program(lambda params, rows: jax.vmap(self.begin)(*rows))
        self.walks = self.start(self.inputs["noisy"], self.network.keys())
        self.call = self.stretch(settings.get("steps", STRETCH))

    @staticmethod
    def begin(image, key):
        """A walk with its key as numbers, which travel."""
        return packed(sampling.begin(image, jax.random.wrap_key_data(key)))

    def stretch(self, steps: int):
        """walks -> walks, so many steps further."""

        def go(params, rows):
            def denoise(image):
                return self.bound(params).denoise(image[None])[0]

            return jax.vmap(lambda walk: packed(sampling.advance(denoise, unpacked(walk), steps=steps, **self.how)))(
                rows[0]
            )

        return self.network.program(go)

    def given(self):
        """The noise of the first steps [steps b h w c]."""
        keys, found = jax.random.wrap_key_data(self.network.keys()), []
        for _ in range(AGREEMENT_STEPS):
            keys, now = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
            found.append(jax.vmap(lambda key: jax.random.normal(key, self.inputs["noisy"].shape[1:]))(now))
        return {"noise_steps": np.stack(found)}

    def agree(self):
        """Image, noise level and denoised image after a few steps."""
        if self.settings["job"] == "sampler" and (self.call(self.walks).state.step < self.settings["steps"]).any():
            raise InputError("a walk ended before its last step, so the two sides would do different work")
        walks = self.stretch(AGREEMENT_STEPS)(self.walks)
        return {"image": walks.state.image, "sigma": walks.state.sigma, "denoised": walks.denoised}

    def run(self):
        """All steps."""
        return self.call(self.walks).state.image


class Sample(Sampler):
    """A whole sample, in stretches, as `stages` makes it."""

    steps = 0

    def run(self):
        """From noise to the end of the slowest image."""
        walks = self.walks
        while bool((walks.stop == sampling.RUNNING).any()):
            walks = self.call(walks)
        if bool((walks.stop != sampling.CONVERGED).any()):
            raise InputError("a sample did not converge")
        self.steps = int(np.max(walks.state.step))

    def facts(self):
        """Steps of the slowest image."""
        return {"steps": self.steps}


def packed(walk):
    """Keys as numbers."""
    return walk._replace(state=walk.state._replace(key=jax.random.key_data(walk.state.key)))


def unpacked(walk):
    """Keys as keys."""
    return walk._replace(state=walk.state._replace(key=jax.random.wrap_key_data(walk.state.key)))


JOBS = {"forward": Forward, "training": Training, "matching": Matching, "sampler": Sampler, "sample": Sample}
