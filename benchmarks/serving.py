"""What a measured process answers, and how much memory it took. Needs the standard library alone.

A process waits for a request on the connection it inherited, and while it waits it sleeps.
"""

import contextlib
import os
import resource
import traceback
from collections.abc import Callable
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


def seconds_of(function: Callable[[], Any], calls: int, wait: Callable[[Any], Any]) -> float:
    """Seconds that so many calls take, until `wait` has seen the last one's result to be there."""
    start, result = perf_counter(), None
    for _ in range(calls):
        result = function()
    wait(result)
    return perf_counter() - start


def forget_peak() -> None:
    """Lets the peak of `peak_mb` begin anew (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mb() -> dict[str, float]:
    """Largest resident memory of this process, MB: since its start, and since `forget_peak`."""
    ever = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    recent = [float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")]
    return {"ever": ever, "running": recent[0] if recent else ever}


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
