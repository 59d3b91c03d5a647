"""Our side of `compare.py`: answers on an inherited connection.

    python benchmarks/ours.py FD

Forms: "plain jit", over one device, its arrays there already; "1 device" and "2 devices", as train.py and analyze.py run it:
`devices.parallel_step` and `devices.parallel_map`, over so many virtual CPU devices or over the GPU, with arrays that come from the
host and go back there at each call.

The pool has as many threads as there are cores, as PyTorch's; in one of several processes one more for each device.
"""

import functools
import os
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np
import serving
from jobs import PLAIN

from unetrep_jax import checkpoints, devices, models
from unetrep_jax.storage import InputError

CACHE = "~/.cache/unetrep_jax/compiled"  # configs/default.py has the same, and one device


def open_network(settings: Mapping[str, Any]) -> tuple[models.UNet, Any]:
    """The checkpoint's network, or the published one of some width with random weights: (model, host arrays)."""
    if settings["ckpt"]:
        opened = checkpoints.open_checkpoint(settings["ckpt"])
        given = {**opened.config["model"], "image_channels": opened.config["data"]["image_channels"]}
        model = models.build(**{**given, "dtype": settings["dtype"]})
        return model, jax.tree.map(np.asarray, opened.params)
    depth = settings["depth"]
    how = {"dtype": settings["dtype"], "gain_init": settings["gain"]}
    depths = {name: depth for name in ("encoder_depth", "mid_depth", "decoder_depth")} if depth else {}
    channels = tuple(settings["width"] * 2**j for j in range(settings["scales"]))
    model = models.UNet(channels=channels, **how, **depths)
    return model, jax.tree.map(np.asarray, models.init_params(model, jax.random.key(settings["seed"])))


class Program(NamedTuple):
    """A compiled function of (constants, rows), with its constants."""

    jitted: Callable
    constants: Any

    def __call__(self, *rows: Any) -> Any:
        """Its results."""
        return self.jitted(self.constants, rows)

    def bytes(self, *rows: Any) -> float:
        """See `ours_network.bytes_of`."""
        import ours_network

        return ours_network.bytes_of(self.jitted.lower(self.constants, rows).compile())


class Network:
    """A network in one of the two forms.

    Attributes:
      form, model, params: which form; the module; host arrays, until a job has them elsewhere.
      settings, inputs: of the measurement.
    """

    def __init__(
        self, form: str, settings: Mapping[str, Any], model: models.UNet, params: Any, inputs: Mapping[str, Any]
    ):
        """Takes them."""
        self.form, self.settings, self.model, self.params, self.inputs = form, settings, model, params, inputs

    @functools.cached_property
    def constants(self) -> Any:
        """The parameters on the devices; from here on they are not kept on the host."""
        params, self.params = self.params, None
        return devices.replicate(params, local=True)

    def program(self, function: Callable, constants: Any = None) -> Callable:
        """`function(constants, rows) -> rows` as the form runs it; the constants are the parameters unless others are given."""
        constants = self.constants if constants is None else devices.replicate(constants, local=True)
        if self.form != PLAIN:
            call = devices.parallel_map(function, self.settings["batch"])
            return lambda *rows: call(constants, rows)
        return Program(jax.jit(function), constants)

    def put(self, rows: Any) -> Any:
        """Rows where a call takes them from: the device for the plain form, the host for others."""
        return rows if self.form != PLAIN else jax.device_put(rows)

    def keys(self) -> np.ndarray:
        """Data of one random key for each image."""
        keys = jax.random.split(jax.random.key(self.settings["seed"]), self.settings["batch"])
        return np.asarray(jax.random.key_data(keys))


class Worker(serving.Worker):
    """See `serving`."""

    def start(self, form: str, device: str, **distributed: Any) -> dict[str, str]:
        """Starts JAX, on as many virtual devices as a form such as "4 devices" says; says what answers."""
        self.form = form
        count = int(form.split()[0]) if form[0].isdigit() else 1
        # As `devices` does, for the cores that this process may use.
        os.environ["NPROC"] = str(serving.cores() + (count if distributed else 0))
        devices.start(cpu_devices=count, compilation_cache=CACHE, **distributed)
        if device == "gpu" and jax.default_backend() not in ("gpu", "cuda", "rocm"):
            raise InputError(f"JAX has no GPU here, only {jax.default_backend()}")
        versions = {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__}
        what = f"{jax.local_device_count()} x {jax.local_devices()[0].device_kind}"
        threads = f"{serving.cores()} (a pool of {os.environ['NPROC']})"
        return {**versions, "numpy": np.__version__, "devices": what, "threads": threads}

    def params(self, settings: Mapping[str, Any]) -> Any:
        """The network's weights, host arrays."""
        model, params = open_network(settings)
        if (model.norm, model.bias, model.padding) != ("layer", True, "zero"):  # PyTorch's network has no other form
            raise InputError(f"{settings['ckpt']} is not of the published form: norm layer, with biases, zero padding.")
        return params

    def open(
        self, settings: Mapping[str, Any], params: Any, inputs: Mapping[str, Any], name: str = ""
    ) -> dict[str, Any]:
        """Prepares a job, beside those of other names; returns what the other side needs to come to the same results."""
        import ours_data
        import ours_network
        import ours_parts
        import ours_reconstruction
        import ours_scaling

        jax.config.update("jax_default_matmul_precision", settings["precision"])
        table = ours_network.JOBS | ours_reconstruction.JOBS | ours_data.JOBS | ours_scaling.JOBS | ours_parts.JOBS
        network = None
        if params is not None:
            network = Network(self.form, settings, open_network(settings)[0], params, inputs)
        self.jobs[name] = table[settings["job"]](network, settings, inputs)
        return self.jobs[name].given()

    def agree(self) -> dict[str, np.ndarray]:
        """The results that are compared."""
        return jax.tree.map(np.asarray, super().agree())

    def wait(self, result: Any) -> None:
        """Until a call's result is there."""
        jax.block_until_ready(result)

    def device_mib(self) -> dict[str, float]:
        """Of the GPU: what the program takes by the compiler's analysis; or, where a call is none, the allocator's peak ever.

        That peak has compiling in it, which tries kernels, and cannot be forgotten: it is not set beside PyTorch's, which can.
        """
        device = jax.local_devices()[0]
        if device.platform != "gpu":
            return {}
        if (found := self.jobs[""].program_bytes()) is not None:
            return {"device": found / 2**20}
        return {"device, ever": device.memory_stats()["peak_bytes_in_use"] / 2**20}


if __name__ == "__main__":
    serving.serve(Worker(), int(sys.argv[1]))
