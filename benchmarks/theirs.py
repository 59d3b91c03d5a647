"""PyTorch's side of `compare.py`: answers on an inherited connection.

    python benchmarks/theirs.py FD

The forms are `torch_network.FORMS`: eager, channels last, and modes of `torch.compile`. Needs benchmarks/requirements.txt, and
nothing of ours.
"""

import platform
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import serving
import torch
import torch._dynamo
import torch._inductor.config
from torch_network import FORMS, UNet, from_numpy


class Network:
    """The network in one of its forms.

    Attributes:
      net: the module, in the form's layout, on its device.
      form, device, settings, inputs: of the measurement.
    """

    def __init__(self, form: str, device: str, settings: Mapping[str, Any], params: Any, inputs: Mapping[str, Any]):
        """Builds the network that the parameters describe; all but its last convolution compute in the asked-for precision."""
        self.form, self.device, self.settings, self.inputs = FORMS[form], device, settings, inputs
        net = UNet(params, settings["job"] in ("training", "parts"), getattr(torch, settings["dtype"]))
        self.net = net.to(device, memory_format=self.form.layout)

    def images(self, images: np.ndarray) -> torch.Tensor:
        """[b h w c] -> [b c h w] on the device, in the form's layout."""
        return from_numpy(images).to(self.device, memory_format=self.form.layout)


class Worker(serving.Worker):
    """See `serving`."""

    def start(self, form: str, device: str) -> dict[str, str]:
        """Sets threads and precision; says what answers."""
        self.form, self.device = form, "cuda" if device == "gpu" else "cpu"
        torch.set_num_threads(serving.cores())
        if device == "gpu":
            if not torch.cuda.is_available():
                raise RuntimeError("PyTorch has no GPU here")
            torch.backends.cudnn.benchmark = True
        torch._inductor.config.freezing = form in FORMS and FORMS[form].frozen
        what = torch.cuda.get_device_name() if device == "gpu" else "cpu"
        versions = {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}
        return {**versions, "devices": what, "threads": str(torch.get_num_threads())}

    def open(self, settings: Mapping[str, Any], params: Any, inputs: Mapping[str, Any]) -> None:
        """Prepares a job."""
        import theirs_data
        import theirs_network
        import theirs_parts

        if self.device == "cuda":  # TF32, as JAX's default there
            torch.backends.cuda.matmul.allow_tf32 = settings["precision"] != "highest"
            torch.backends.cudnn.allow_tf32 = settings["precision"] != "highest"
        torch._dynamo.reset()
        network = None if params is None else Network(self.form, self.device, settings, params, inputs)
        table = theirs_network.JOBS | theirs_data.JOBS | theirs_parts.JOBS
        self.jobs[""] = table[settings["job"]](network, settings, inputs, self.form)

    def wait(self, result: Any) -> None:
        """Until a call's result is there."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def run(self, calls: int, name: str = "", again: bool = False) -> float:
        """Seconds a call; see there. The GPU's memory is left to the other processes there."""
        with torch.inference_mode(not self.jobs[name].differentiates):
            seconds = super().run(calls, name, again)
        if self.device == "cuda":
            torch.cuda.empty_cache()
        return seconds

    def forget_peak(self) -> None:
        """See there; the GPU's too."""
        super().forget_peak()
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def device_mib(self) -> dict[str, float]:
        """Largest memory of the GPU since `forget_peak`."""
        return {"device": torch.cuda.max_memory_allocated() / 2**20} if self.device == "cuda" else {}


if __name__ == "__main__":
    serving.serve(Worker(), int(sys.argv[1]))
