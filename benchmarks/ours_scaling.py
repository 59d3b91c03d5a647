"""What `scaling.py` times: the training loop on some virtual devices, taken apart. See `ours_network` for the form of a job."""

import jax
from ours_network import Job

from unetrep_jax import data, devices, noise, training


class Scaling(Job):
    """One part of the training loop; `part` of the settings says which.

    loop: as train.py runs it: next batch, step, metrics left on the devices.
    step: the step on a batch that is there already.
    gradient: its first half alone, on every device; nothing is summed or updated.
    no pmap: the same by `jax.jit` on one device, with one device's share of the batch, which is there already; the others copy it
      from the host and split it in each step.
    input: the next batch alone.
    """

    def prepare(self):
        network, settings, self.part = self.network, self.settings, self.settings["part"]
        share = settings["batch"] // devices.count()
        optimizer = training.adam(training.learning_rate_schedule("constant", 1e-3, steps=1, halve_every=1))
        how = {"seed": settings["seed"], "batch_size": settings["batch"]}
        gradient = training.loss_and_gradient(network.model, noise.noise_levels, **how)
        state = devices.to_host(training.init_state(network.params, optimizer))
        images = data.open_images(self.inputs["path"], image_size=settings["size"], image_channels=3)
        place = {"process_index": devices.process_index(), "process_count": devices.process_count()}
        self.batches = data.batches(images, batch_size=settings["batch"], seed=0, **place)
        first = next(self.batches)
        self.batch = first.images, first.index
        if self.part in ("loop", "step"):
            self.step = devices.parallel_step(gradient, training.update_step(optimizer), needs=training.params_and_step)
            self.state = devices.replicate(state)
        elif self.part == "gradient":
            each, self.state = jax.pmap(gradient, in_axes=(None, 0)), devices.replicate(training.params_and_step(state))
            self.step = lambda given, batch: (given, each(given, devices.split(batch)))
        elif self.part == "no pmap":
            alone, self.state = jax.jit(gradient), jax.device_put(training.params_and_step(state))
            self.step = lambda given, batch: (given, alone(given, batch))
            self.batch = jax.device_put((first.images[:share], first.index[:share]))

    def run(self):
        result = None
        for _ in range(self.settings["steps"]):
            batch = next(self.batches) if self.part in ("loop", "input") else None
            if self.part == "loop":
                self.state, result = self.step(self.state, (batch.images, batch.index))
            elif self.part != "input":
                self.state, result = self.step(self.state, self.batch)
        return result


JOBS = {"scaling": Scaling}
