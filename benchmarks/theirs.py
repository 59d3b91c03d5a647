"""PyTorch's side of `compare.py`: answers on an inherited connection.

    python benchmarks/theirs.py FD

The forms are `torch_network.FORMS`: eager, channels last, and `torch.compile` over either. Needs benchmarks/requirements.txt, and
nothing of ours.
"""

import contextlib
import platform
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import serving
import torch
from torch_network import FORMS, UNet, from_numpy


class Network:
    """The network in one of its forms.

    Attributes:
      net: the module, in the form's layout, on its device.
      form, device, settings, inputs: of the measurement.
    """

    def __init__(self, form: str, device: str, settings: Mapping[str, Any], params: Any, inputs: Mapping[str, Any]):
        """Builds the network that the parameters describe."""
        self.form, self.device, self.settings, self.inputs = FORMS[form], device, settings, inputs
        self.net = UNet(params, trainable=settings["job"] == "training").to(device, memory_format=self.form.layout)

    @property
    def batch(self) -> int:
        """Images in a call."""
        return self.settings["batch"]

    def images(self, images: np.ndarray) -> torch.Tensor:
        """[b h w c] -> [b c h w] on the device, in the form's layout."""
        return from_numpy(images).to(self.device, memory_format=self.form.layout)

    def program(self, function: Callable) -> Callable:
        """A function of images in the form; in bfloat16, where asked for, its convolutions are, and its results float32."""
        if self.settings["dtype"] == "float32":
            return self.form.compile(function)

        def lower(*images):
            with torch.autocast(self.device, torch.bfloat16):
                return function(*images)

        return self.form.compile(lower)


class Worker:
    """What can be asked for, each method by its name."""

    def start(self, form: str, device: str) -> dict[str, str]:
        """Sets threads and precision; says what answers."""
        self.form, self.device = form, "cuda" if device == "gpu" else "cpu"
        torch.set_num_threads(serving.cores())
        if device == "gpu":
            if not torch.cuda.is_available():
                raise RuntimeError("PyTorch has no GPU here")
            torch.set_float32_matmul_precision("high")  # TF32, as JAX's default there
            torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
        what = torch.cuda.get_device_name() if device == "gpu" else "cpu"
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
        return {**versions, "devices": what, "threads": str(torch.get_num_threads())}

    def open(self, settings: Mapping[str, Any], params: Any, inputs: Mapping[str, Any]) -> None:
        """Prepares a job."""
        import theirs_data
        import theirs_network

        network = None if params is None else Network(self.form, self.device, settings, params, inputs)
        table = theirs_network.JOBS | theirs_data.JOBS
        self.job = table[settings["job"]](network, settings, inputs, self.form)

    def agree(self) -> dict[str, np.ndarray]:
        """The results that are compared."""
        return self.job.agree()

    def run(self, calls: int) -> float:
        """Seconds a call."""

        def one():
            with contextlib.ExitStack() as stack:
                if not getattr(self.job, "differentiates", False):
                    stack.enter_context(torch.inference_mode())
                self.job.run()

        def all_calls():
            for _ in range(calls):
                one()
            if self.device == "cuda":
                torch.cuda.synchronize()

        return serving.seconds_of(all_calls) / calls

    def facts(self) -> dict[str, float]:
        """What else the last call said, such as how many steps it took."""
        return getattr(self.job, "facts", dict)()

    def forget_peak(self) -> None:
        """See `serving`."""
        serving.forget_peak()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def peak_mb(self) -> dict[str, float]:
        """Largest memory: of this process, and of the GPU where there is one."""
        device = {"device": torch.cuda.max_memory_allocated() / 2**20} if self.device == "cuda" else {}
        return serving.peak_mb() | device


if __name__ == "__main__":
    serving.serve(Worker(), int(sys.argv[1]))
