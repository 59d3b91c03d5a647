"""What a measured process answers, and how much memory it took. Needs the standard library alone.

A process waits for a request on the connection it inherited, and while it waits it sleeps.
"""

import contextlib
import ctypes
import gc
import os
import resource
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter
from typing import Any

DONE, FAILED = "done", "failed"


def serve(worker: Any, descriptor: int) -> None:
    """Answers requests (method, arguments) by (DONE, result) or (FAILED, (one line, traceback)), until the other end closes."""
    connection = Connection(descriptor)
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        try:
            answer = DONE, getattr(worker, method)(**arguments)
        except Exception as error:  # whatever it is, the other end must hear of it
            first = str(error).strip().partition("\n")[0]
            answer = FAILED, (f"{type(error).__name__}: {first}", traceback.format_exc())
        connection.send(answer)


class Worker:
    """What a side can be asked for, each method by its name; `jobs` are those that were opened, by name."""

    def __init__(self):
        """No job yet."""
        self.jobs: dict[str, Any] = {}
        self.ever = 0.0

    def agree(self) -> dict[str, Any]:
        """The results that are compared."""
        return self.jobs[""].agree()

    def wait(self, result: Any) -> None:
        """Until a call's result is there."""

    def run(self, calls: int, name: str = "", again: bool = False) -> float:
        """Seconds a call; the last one's result is waited for. `again`: a call before, which is not timed."""
        if again:
            self.wait(self.jobs[name].run())
        start, result = perf_counter(), None
        for _ in range(calls):
            result = self.jobs[name].run()
        self.wait(result)
        return (perf_counter() - start) / calls

    def facts(self) -> dict[str, float]:
        """What else the last call said, such as how many steps it took."""
        return getattr(self.jobs[""], "facts", dict)()

    def forget_peak(self) -> None:
        """Lets the peak of `peak_mib` begin anew (Linux), without what was freed, of which the C library keeps some."""
        self.ever = self.peak_mib()["ever"]
        gc.collect()
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")

    def device_mib(self) -> dict[str, float]:
        """Memory of the GPU, where there is one, by what kind of number it is."""
        return {}

    def peak_mib(self) -> dict[str, float]:
        """Largest memory, MiB: resident, since the start and since `forget_peak`; and of the GPU."""
        ever = max(self.ever, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)  # forgetting forgets that too
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        recent = [float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
        return {"ever": ever, "running": recent[0] if recent else ever} | self.device_mib()


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
