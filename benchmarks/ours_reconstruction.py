"""The published reconstructions, on our side; see `ours_network` for the form of a job."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jobs import PUBLISHED_LEVELS
from ours_network import AGREEMENT_STEPS, Job

from unetrep_jax import reconstruction

AGREEMENT_LEVELS = 2


class Reconstruction(Job):
    """The published fixed-schedule reconstruction on some of its levels, all with the same number of matching steps."""

    def prepare(self):
        self.how = self.schedule()
        self.mean = np.full(self.inputs["noisy"].shape[1:], 0.45, np.float32)
        self.call = self.reconstructing(self.how)
        self.rows = self.network.put((self.inputs["images"] / np.float32(255), self.network.keys()))

    def reconstructing(self, how: reconstruction.Settings):
        """(images, keys) -> reconstructed images."""

        def make(network, targets, keys):
            keys = jax.random.wrap_key_data(keys)
            return reconstruction.reconstruct(network, targets, keys, mean=self.mean, settings=how).images

        return self.program(make)

    def adam(self) -> dict[str, Any]:
        """The published matching with a given number of steps; epsilon is of the mean over the batch."""
        how = {"tolerance": 0.0, "freeze": False, "epsilon": self.settings["batch"] * reconstruction.EPSILON}
        return how | {name: self.settings[name] for name in ("matching_steps", "draws")}

    def schedule(self, most: int = PUBLISHED_LEVELS):
        """Levels spread over the published ones, from the top; at most so many."""
        levels, count = np.linspace(1.0, 0.03, PUBLISHED_LEVELS), min(most, self.settings["levels"])
        chosen = levels[np.linspace(0, PUBLISHED_LEVELS - 1, count).astype(int)]
        return reconstruction.Schedule(sigmas=tuple(chosen.tolist()), **self.adam())

    def normal(self, step: int, purpose: int) -> np.ndarray:
        """What our reconstruction draws at a step, for a purpose."""
        keys = jax.random.wrap_key_data(self.network.keys())
        steps = jnp.full(len(keys), step, jnp.int32)
        return np.asarray(reconstruction.normal(keys, steps, purpose, self.inputs["noisy"].shape[1:]))

    def draws(self, step: int) -> list[np.ndarray]:
        """The noise of a step's target."""
        return [self.normal(step, reconstruction.TARGET_DRAWS + k) for k in range(self.settings["draws"])]

    def given(self):
        """The noise of the levels that are compared, in the order in which the published form asks for it; the levels."""
        few = self.schedule(most=AGREEMENT_LEVELS).sigmas
        steps = range(len(few))
        noises = [
            *(each for step in steps for each in self.draws(step)),
            *(self.normal(s, reconstruction.STEP) for s in steps),
        ]
        sigmas = {"sigmas": list(self.how.sigmas), "few_sigmas": list(few)}
        return sigmas | {"noises": np.stack(noises), "mean": self.mean}

    def agree(self):
        """The images, after matchings of a few steps, on a few levels: rounding grows from level to level."""
        few = self.schedule(most=AGREEMENT_LEVELS)._replace(matching_steps=AGREEMENT_STEPS)
        return {"image": self.reconstructing(few)(*self.rows)}


class Blind(Reconstruction):
    """The published blind reconstruction: some of its score steps."""

    def schedule(self, most: int = 0):
        """The published settings, cut short, in whole steps."""
        names = ("h0", "beta", "sigma_0", "sigma_end")
        own = {name: self.settings[name] for name in names} | {"max_steps": self.settings["steps"]}
        return reconstruction.Adaptive(**own, **self.adam())

    def given(self):
        noises = [self.normal(0, reconstruction.START)]
        for step in range(self.settings["steps"]):
            noises += [*self.draws(step), self.normal(step, reconstruction.STEP)]
        return {"noises": np.stack(noises), "mean": self.mean}


JOBS = {"reconstruction": Reconstruction, "blind": Blind}
