"""What `scaling.py` times: the training loop on some virtual devices, taken apart. See `ours_network` for the form of a job."""

import functools

import jax
from ours_network import Job

from unetrep_jax import data, devices, noise, training


class Scaling(Job):
    """One part of the training loop; `part` of the settings says which.

    loop: as train.py runs it: next batch, step, metrics left on the devices.
    step: the step on a batch that is there already.
    no sum: the step whose devices do not sum their gradients.
    no pmap: the step by `jax.jit` on one device, with one device's share of the batch, which is there already; the others copy it
      from the host and split it in each step.
    input: the next batch alone.
    """

    def prepare(self):
        network, settings, self.part = self.network, self.settings, self.settings["part"]
        share = settings["batch"] // devices.count()
        optimizer = training.adam(training.learning_rate_schedule("constant", 1e-3, steps=1, halve_every=1))
        make = functools.partial(
            training.train_step, network.model, optimizer, noise.noise_levels, seed=0, batch_size=settings["batch"]
        )
        state = devices.to_host(training.init_state(network.params, optimizer))
        images = data.open_images(self.inputs["path"], image_size=settings["size"], image_channels=3)
        place = {"process_index": devices.process_index(), "process_count": devices.process_count()}
        self.batches = data.batches(images, batch_size=settings["batch"], seed=0, **place)
        first = next(self.batches)
        self.batch = first.images, first.index
        if self.part == "no pmap":
            self.step, self.state = jax.jit(make(), donate_argnums=0), jax.device_put(state, may_alias=False)
            self.batch = jax.device_put((first.images[:share], first.index[:share]))
        elif self.part != "input":
            self.step = devices.parallel_step(make(axis=None if self.part == "no sum" else devices.AXIS))
            self.state = devices.replicate(state)

    def run(self):
        metrics = None
        for _ in range(self.settings["steps"]):
            batch = next(self.batches) if self.part in ("loop", "input") else None
            if self.part == "loop":
                self.state, metrics = self.step(self.state, (batch.images, batch.index))
            elif self.part != "input":
                self.state, metrics = self.step(self.state, self.batch)
        return metrics


JOBS = {"scaling": Scaling}
