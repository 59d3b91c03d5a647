"""Devices and processes: the only module that knows that they exist.

Data parallelism by `jax.pmap`: the state is one ordinary pytree, replicated; the leading axis of the data is split over all
devices of all processes; sums over them are made here (`parallel_step`), so that nothing else knows of an axis.
"""

import contextlib
import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import mmap
import os
import re
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from unetrep_jax import programs
from unetrep_jax.storage import InputError

AXIS = "devices"
SECONDS_TO_MEET = 300  # in which all processes of a run must have been started
SECONDS_OF_SILENCE = 30  # after which a process that says nothing counts as lost
# What errors say when another process of the run is gone: their kind, or who could not reach it.
LOSS = re.compile(r"^(UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|CANCELLED)|[Gg]loo|[Cc]onnection|coordination service", re.ASCII)
STATUS = re.compile(r"[A-Z_]+: ")  # begins what comes from JAX's runtime as another error: Gloo's at a barrier as a ValueError
MOST_CPU_DEVICES = 256  # each has threads of its own
MOST_PROCESSES = 100_000  # more than any machine has; JAX takes memory for each of a billion, and never ends


def start(
    *,
    distributed: bool = False,
    cpu_devices: int = 1,
    precision: str = "default",
    compilation_cache: str = "",
    coordinator: str = "",
    processes: int = 0,
    process: int = 0,
) -> None:
    """Sets devices up. Call before anything else touches JAX's devices.

    Args:
      distributed: several processes make one run (`jax.distributed`). On TPU VMs nothing else is needed.
      cpu_devices: virtual devices that the CPU is split into; 1 or more; other platforms ignore it.
      precision: of float32 products on GPUs and TPUs: "default" (fast: TF32, bfloat16 passes) or "highest" (true float32).
      compilation_cache: folder in which compiled programs are kept for the next process; empty keeps none. JAX's own variable
        JAX_COMPILATION_CACHE_DIR goes before it.
      coordinator, processes, process: address "host:port" of process 0, number of processes, and this one's number, where the
        platform does not tell (a cluster of GPUs or CPUs).
    """
    if precision not in ("default", "highest"):
        raise InputError(f"devices.precision {precision!r} is unknown. Known: default, highest.")
    if not 1 <= cpu_devices <= MOST_CPU_DEVICES:
        raise InputError(f"devices.cpu_devices must be 1 or more; got {cpu_devices}. At most {MOST_CPU_DEVICES} are made.")
    if distributed and coordinator:
        _check_company(coordinator, processes, process)
    jax.config.update("jax_default_matmul_precision", precision)
    jax.config.update("jax_num_cpu_devices", cpu_devices)
    if compilation_cache and "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        programs.keep(Path(compilation_cache).expanduser())
    # XLA's virtual CPU devices share one pool of threads, by default as many as there are cores. A device that waits for other
    # processes in a sum holds a thread; with none to spare they wait for ever, and XLA aborts. So those get a thread more for each
    # device. Within a process none waits for another (`_step_of_two_programs`).
    os.environ.setdefault("NPROC", str((os.cpu_count() or 1) + (cpu_devices if distributed else 0)))
    # It also aborts when a sum takes 40 s, as on a busy machine, or one that slept. A day is as good as never.
    flags = "--xla_cpu_collective_call_warn_stuck_timeout_seconds=600 --xla_cpu_collective_call_terminate_timeout_seconds=86400"
    # The kernels that XLA fuses by default train narrow networks 1.2 to 1.6 times slower than its older ones do.
    if _has_only_cpus() and _knows("xla_cpu_experimental_ynn_fusion_type"):
        flags += " --xla_cpu_experimental_ynn_fusion_type="
    os.environ["XLA_FLAGS"] = f"{flags} {os.environ.get('XLA_FLAGS', '')}"
    if not distributed:
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    known = (
        {"coordinator_address": coordinator, "num_processes": processes, "process_id": process} if coordinator else {}
    )
    alone = threading.Timer(SECONDS_TO_MEET, _give_up)  # before JAX does, which aborts with a page of addresses
    alone.start()
    try:
        waits = {"initialization_timeout": 2 * SECONDS_TO_MEET, "heartbeat_timeout_seconds": SECONDS_OF_SILENCE}
        jax.distributed.initialize(**known, **waits)
    except (ValueError, RuntimeError) as error:
        raise InputError(_did_not_meet(str(error).strip().splitlines()[0])) from error
    finally:
        alone.cancel()


def _check_company(coordinator: str, processes: int, process: int) -> None:
    """Refuses what JAX would abort on, or never come back from."""
    host, _, port = coordinator.rpartition(":")
    if not host.strip() or not (port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise InputError(f"devices.coordinator must be host:port, with a port from 1 to 65535; got {coordinator!r}.")
    if not 1 <= processes <= MOST_PROCESSES:
        raise InputError(f"devices.processes must be 1 to {MOST_PROCESSES:,}; got {processes}.")
    if not 0 <= process < processes:
        raise InputError(f"devices.process must be 0 to devices.processes - 1 = {processes - 1}; got {process}.")


def _did_not_meet(why: str) -> str:
    return (
        f"devices.distributed: the processes did not find each other ({why}); check devices.coordinator, "
        "devices.processes and devices.process, or leave devices.distributed off on a single machine."
    )


def _give_up() -> None:
    """Ends the process, whose main thread waits inside JAX for the others."""
    words = _did_not_meet(f"not all were there after {SECONDS_TO_MEET:g} seconds")
    print(f"{Path(sys.argv[0]).name}: {words}", file=sys.stderr, flush=True)
    os._exit(2)


def _has_only_cpus() -> bool:
    """Whether no plugin for other devices is installed or wanted, which would read the same flags and might not know them."""
    plugins = importlib.metadata.entry_points(group="jax_plugins") or importlib.util.find_spec("libtpu")
    return os.environ.get("JAX_PLATFORMS") == "cpu" or not plugins


def _knows(flag: str) -> bool:
    """Whether this jaxlib has a flag, which comes and goes with its version: XLA aborts on one that it does not know."""
    library = max(Path(jaxlib.__file__).parent.glob("*.so"), key=lambda path: path.stat().st_size, default=None)
    if library is None:
        return False
    with open(library, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.find(flag.encode()) >= 0


def count() -> int:
    """Devices of all processes."""
    return jax.device_count()


def process_index() -> int:
    """This process's number; 0 writes the logs."""
    return jax.process_index()


def process_count() -> int:
    """Number of processes."""
    return jax.process_count()


def in_company() -> bool:
    """Whether this process has met others with which it makes a run; starts nothing."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def explain(error: Exception) -> str:
    """What a person should know of an error of the devices: out of memory, or another process was lost; "" of any other."""
    first = " ".join(str(error).split())[:200]
    if not isinstance(error, jax.errors.JaxRuntimeError) and not (isinstance(error, ValueError) and STATUS.match(first)):
        return ""
    if first.startswith("RESOURCE_EXHAUSTED"):
        remedy = "use smaller batches, images or model.channels, or train with train.rematerialise=True."
        return f"there is not enough memory on the devices ({first}); {remedy}"
    if jax.process_count() > 1 and LOSS.search(first):
        return f"another process of this run was lost ({first}); start all of them again: the run goes on from its last checkpoint."
    return ""


def barrier(name: str) -> None:
    """Waits until every process is here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def check_same(value: int, what: str) -> None:
    """Raises InputError unless `value` is the same on every process."""
    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    values = multihost_utils.process_allgather(np.asarray(value)).tolist()
    if len(set(values)) > 1:
        raise InputError(
            f"processes disagree on {what}: {values}. The run folder must be on a file system that all share."
        )


def check_divisible(batch_size: int, setting: str) -> None:
    """Raises InputError unless the batch splits evenly over all devices."""
    if batch_size % jax.device_count():
        below = batch_size // jax.device_count() * jax.device_count()
        nearest = f"{below} or {below + jax.device_count()}" if below else str(jax.device_count())
        raise InputError(
            f"{setting} = {batch_size} does not divide over {jax.device_count()} devices; use a multiple, such as {nearest}."
        )


def replicate(tree: PyTree, *, local: bool = False) -> PyTree:
    """Puts a pytree of host arrays, whole, on every device (or every `local` one). The source stays the caller's."""
    devices = jax.local_devices() if local else jax.devices()
    sharding = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())

    def put(leaf):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)), impl=jax.random.key_impl(leaf))
        # A copy in numpy first: `device_put` may alias its source, and a step that donates its state would delete that too.
        leaf = np.array(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(put, tree)


def split(tree: PyTree) -> PyTree:
    """[b ...] -> [local devices, b / local devices, ...] for every leaf: this process's part of a batch."""
    devices = jax.local_device_count()
    return jax.tree.map(lambda leaf: leaf.reshape(devices, leaf.shape[0] // devices, *leaf.shape[1:]), tree)


def parallel_step(
    share: Callable, finish: Callable, *, needs: Callable = lambda state: state, donate: bool = True
) -> Callable:
    """A step over all devices: (state, batch) -> finish(state, sum over devices of share(needs(state), the device's batch)).

    Returns `step(state, batch) -> (state, metrics)`, for states from `replicate` or from the step before. The old state's memory
    is reused for the new one, unless `donate` is False.

    Args:
      share: (what it needs of the state, a part of the batch) -> pytree of arrays.
      finish: (state, that tree's sum) -> (state, metrics).
      needs: what `share` needs of a state.
    """
    alone = jax.process_count() == 1 and jax.default_backend() == "cpu"
    make = _step_of_two_programs if alone and jax.local_device_count() > 1 else _step_of_one_program
    step = make(share, finish, needs, donate)
    is_compiled = False

    def call(state, batch):
        nonlocal is_compiled
        results = step(state, split(batch))
        if not is_compiled:
            is_compiled = True
            _return_freed_memory()
        return results

    return call


def _step_of_one_program(share: Callable, finish: Callable, needs: Callable, donate: bool) -> Callable:
    def whole(state, batch):
        vector, unravel = ravel_pytree(share(needs(state), batch))  # one sum over the devices, and not one for each array
        return finish(state, unravel(jax.lax.psum(vector, AXIS)))

    return jax.pmap(whole, AXIS, in_axes=(None, 0), out_axes=None, donate_argnums=(0,) if donate else ())


def _step_of_two_programs(share: Callable, finish: Callable, needs: Callable, donate: bool) -> Callable:
    """Where devices are parts of one processor: each computes its share, and the first adds them up and finishes.

    In one program a device that is ready would hold a thread while it waits for the others. Then there must be more threads than
    cores, or none may be left to go on; XLA cuts its work into as many pieces as there are threads, and training narrow networks
    takes 1.1 to 1.2 times as long (docs/performance.md).
    """
    devices = jax.local_devices()
    everywhere = NamedSharding(Mesh(np.array(devices), (AXIS,)), PartitionSpec())
    shares = jax.pmap(share, in_axes=(None, 0))

    @functools.partial(jax.jit, donate_argnums=(0,) if donate else ())
    def add_up(state, parts):
        return finish(state, jax.tree.map(lambda *parts: functools.reduce(jnp.add, parts)[0], *parts))

    def step(state, batch):
        state = jax.device_put(state, devices[0])  # copies nothing that is there already
        summands = shares(jax.device_put(needs(state), everywhere), batch)
        parts = [jax.tree.map(lambda leaf, k=k: leaf.addressable_shards[k].data, summands) for k in range(len(devices))]
        return add_up(state, jax.device_put(parts, devices[0]))

    return step


def parallel_map(function: Callable, batch_size: int) -> Callable:
    """`function(constants, rows) -> rows` over this process's devices, for any number of rows up to `batch_size`.

    Fewer rows than `batch_size` are padded by repeating the first row, so that one program serves every call. `batch_size` is
    rounded up to a multiple of the local devices. `constants` should have been put on the local devices by `replicate`, or they
    travel at every call. Returns host arrays.

    Arrays that `function` closes over, such as a network's parameters, become arguments of the compiled program, not part of
    it: it stays small, and networks of one shape share it (see `_compiled`, and `start` for other processes).
    """
    devices = jax.local_device_count()
    padded_size = -(-batch_size // devices) * devices
    programs: dict[Any, Callable] = {}

    @functools.wraps(function)
    def call(constants, rows):
        length = len(jax.tree.leaves(rows)[0])

        def pad(leaf):
            leaf = np.asarray(leaf)
            return np.concatenate([leaf, np.repeat(leaf[:1], padded_size - length, axis=0)])

        rows = split(jax.tree.map(pad, rows))
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(np.shape(leaf), leaf.dtype), (constants, rows))
        key = jax.tree.structure(shapes), *jax.tree.leaves(shapes)
        if key not in programs:
            programs[key] = _mapped(function, *shapes)
        results = programs[key](constants, rows)
        return jax.tree.map(lambda leaf: np.asarray(leaf).reshape(-1, *leaf.shape[2:])[:length], results)

    return call


def _mapped(function: Callable, constants: PyTree, rows: PyTree) -> Callable:
    """`function` over the local devices, for arguments of these shapes, with the arrays that it closes over as arguments."""
    shard = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), rows)
    traced, result = jax.make_jaxpr(function, return_shape=True)(constants, shard)
    structure = jax.tree.structure(result)
    captured = replicate(traced.consts, local=True)
    given = len(captured)

    def run(*arrays):
        program = jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, arrays[:given]))
        return structure.unflatten(program(*arrays[given:]))

    # An axis for each array: beside structures without arrays, such as (), JAX's `lower` takes one argument's axis for another's.
    axes = (None,) * (given + len(jax.tree.leaves(constants))) + (0,) * len(jax.tree.leaves(rows))
    mapped = jax.pmap(run, in_axes=axes, devices=jax.local_devices())
    if jax.process_count() > 1:  # there `lower` wants the arrays themselves
        return lambda constants, rows: mapped(*captured, *jax.tree.leaves((constants, rows)))
    program = _compiled(_Lowered(mapped.lower(*captured, *jax.tree.leaves((constants, rows)))))
    return lambda constants, rows: program(*captured, *jax.tree.leaves((constants, rows)))


class _Lowered:
    """A program before it is compiled; equal to others of the same text, which has all of it but the arrays that it is given."""

    def __init__(self, lowered: Any):
        self.lowered = lowered
        self._digest = hashlib.sha256(lowered.as_text().encode()).digest()

    def __hash__(self) -> int:
        return hash(self._digest)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Lowered) and self._digest == other._digest


@functools.lru_cache(maxsize=32)
def _compiled(program: _Lowered) -> Callable:
    """Compiles a program once in a process: JAX's own cache on disk does not hold programs that call oneDNN."""
    compiled = program.lowered.compile()
    _return_freed_memory()
    return compiled


def _return_freed_memory() -> None:
    """Gives the system what compiling took and freed, hundreds of MiB, which glibc would keep as long as the process lives."""
    if sys.platform == "linux":
        with contextlib.suppress(AttributeError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)


class StopRequest:
    """Notices SIGTERM (a pre-empted machine, a batch system's limit) and Ctrl-C, so that a loop can save and end.

    A second Ctrl-C interrupts at once. With several processes SIGTERM is noticed by JAX's own service, and all of them agree on
    one step at which to stop.
    """

    def __init__(self):
        """Takes over the signals' handlers."""
        self.reason = ""
        if jax.process_count() == 1:
            signal.signal(signal.SIGTERM, self._note)
        signal.signal(signal.SIGINT, self._note)

    def request(self, reason: str) -> None:
        """Asks to stop, as a signal would; several processes then give SIGTERM as the reason."""
        if jax.process_count() > 1 and not self.reason:
            os.kill(os.getpid(), signal.SIGTERM)  # which JAX's service notices, on all processes
        self.reason = reason

    def _note(self, number: int, _frame: Any) -> None:
        self.request(signal.Signals(number).name)
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

    def at(self, step: int) -> str:
        """Why the loop should stop after this step, or nothing. Every process must ask at every step."""
        if jax.process_count() == 1:
            return self.reason
        from jax.experimental import multihost_utils

        return "SIGTERM" if multihost_utils.reached_preemption_sync_point(step) else ""


def to_host(tree: Any) -> Any:
    """Copies a pytree of device arrays to numpy."""
    return jax.tree.map(np.asarray, jax.device_get(tree))
