"""Training on 1, 2, 4, 8 virtual CPU devices at constant work per device, and what devices, sums and input cost.

    python benchmarks/scaling.py [--width 16] [--share 8] [--devices 1 2 4 8]
    python benchmarks/scaling.py --processes       one process with two devices against two processes with one each

Virtual devices share the machine's cores, so with more of them than cores a step takes proportionally longer: what is measured is
how little is lost, not how much is won. Each number of devices is a process of its own; they compute in turns, A B C C B A. Shares:

    pmap     1 - (gradient by `jax.jit`) / (gradient by `jax.pmap`), on one device; with splitting and copying the batch to it
    update   1 - (gradient on every device) / (step): the gradients' sum, Adam, and the parameters' way back to the devices
    input    1 - (step) / (loop with the input pipeline)

On GPUs or TPUs use train.py's own images/s on different numbers of devices.
"""

import argparse
import contextlib
import os
import socket
import sys
import tempfile
from typing import Any

import jobs
import measuring
import sides
import tables

PARTS = ("loop", "step", "gradient", "no pmap", "input")


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4, 8], help="numbers of virtual devices")
    parser.add_argument("--width", type=int, default=16, help="of the published network")
    parser.add_argument("--share", type=int, default=8, help="images of each device in a step")
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--cycles", type=int, default=5, help="of turns")
    parser.add_argument("--processes", action="store_true", help="two processes, instead of two devices of one")
    parser.add_argument("--tiny", action="store_true", help="checks that everything runs; the times mean nothing")
    arguments = parser.parse_args(given)
    if arguments.tiny:
        arguments.width, arguments.share, arguments.steps, arguments.cycles, arguments.devices = 4, 2, 1, 1, [1, 2]
    return arguments


def settings_of(arguments: argparse.Namespace, count: int, part: str) -> dict[str, Any]:
    """Of one part on some devices."""
    small = jobs.QUARTER_SIZE if arguments.tiny else {}
    own = {"width": arguments.width, "part": part, "batch": arguments.share * count, "steps": arguments.steps}
    return jobs.settings_of("scaling", own | small)


def inputs_of(arguments: argparse.Namespace, folder: str) -> dict[str, Any]:
    """A memory map of images, enough for the largest batch."""
    count = max(2000 if not arguments.tiny else 32, 2 * arguments.share * max(arguments.devices))
    return jobs.inputs(settings_of(arguments, 1, "input") | {"images": count}, folder)


def measure(arguments: argparse.Namespace, folder: str) -> dict[tuple[int, str], list[float]]:
    """(devices, part) -> seconds a step, one for each cycle."""
    inputs, runs, pids = inputs_of(arguments, folder), {}, []
    with contextlib.ExitStack() as stack:
        for count in arguments.devices:
            side = stack.enter_context(contextlib.closing(sides.ours(f"{count} devices", measuring.environment("cpu"))))
            side.ask("start", form=f"{count} devices", device="cpu")
            params = side.ask("params", settings=settings_of(arguments, count, "step"))
            for part in PARTS:
                if part == "no pmap" and count > 1:
                    continue
                side.ask("open", settings=settings_of(arguments, count, part), params=params, inputs=inputs, name=part)
                side.ask("run", calls=1, name=part)
                runs[count, part] = lambda side=side, part=part: side.ask("run", calls=1, name=part, again=True) / arguments.steps
                pids.append(side.pid)
        seconds, idle, others = sides.in_turns(runs, pids, arguments.cycles)
    print(f"Waiting sides used at most {idle:.1%} of a core, the rest {others:.1%}.")
    return seconds


def share_lost(less: list[float], more: list[float]) -> dict[str, float]:
    """1 - less / more, cycle by cycle."""
    return tables.spread([1 - ratio for ratio in sides.ratios(less, more)])


def table(arguments: argparse.Namespace, seconds: dict[tuple[int, str], list[float]]) -> list[dict[str, Any]]:
    """A row for each number of devices."""
    rows, first = [], arguments.devices[0]
    for count in arguments.devices:
        loop, step = seconds[count, "loop"], seconds[count, "step"]
        images = arguments.share * count
        baseline = [each / (arguments.share * first) for each in seconds[first, "loop"]]
        row = {"devices": count, "images": images, "step, ms": tables.spread([1e3 * each for each in step])}
        row |= {"images/s, loop": tables.spread([images / each for each in loop])}
        rates = [a / (b / images) for a, b in zip(baseline, loop, strict=True)]
        row |= {f"rate against {first}": tables.spread(rates)}
        row |= {"pmap": share_lost(seconds[1, "no pmap"], seconds[1, "gradient"])} if count == 1 else {}
        row |= {"update": share_lost(seconds[count, "gradient"], step), "input": share_lost(step, loop)}
        rows.append(row | {"input alone, ms": tables.spread([1e3 * each for each in seconds[count, "input"]])})
    return rows


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def together(pair: list[sides.Side], method: str, each: list[dict[str, Any]]) -> list[Any]:
    """The answers of processes that work on one request together."""
    for side, arguments in zip(pair, each, strict=True):
        side.begin(method, **arguments)
    return [side.answer() for side in pair]


def measure_processes(arguments: argparse.Namespace, folder: str) -> dict[str, list[float]]:
    """Seconds of the loop's step: one process with two devices, and two processes with one each; the same batch."""
    inputs, settings = inputs_of(arguments, folder), settings_of(arguments, 2, "loop")
    address = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        one, *pair = (
            stack.enter_context(contextlib.closing(sides.ours(name, measuring.environment("cpu"))))
            for name in ("one process", "process 0 of 2", "process 1 of 2")
        )
        one.ask("start", form="2 devices", device="cpu")
        places = [{"distributed": True, "coordinator": address, "processes": 2, "process": i} for i in range(2)]
        together(pair, "start", [{"form": "1 devices", "device": "cpu", **place} for place in places])
        params = one.ask("params", settings=settings)
        what = {"settings": settings, "params": params, "inputs": inputs}
        one.ask("open", **what)
        together(pair, "open", [what, what])
        once = {"calls": 1, "again": True}
        runs = {
            "one process, two devices": lambda: one.ask("run", **once) / arguments.steps,
            "two processes, one device each": lambda: max(together(pair, "run", [once] * 2)) / arguments.steps,
        }
        for run in runs.values():
            run()
        seconds = sides.in_turns(runs, [one.pid, pair[0].pid], arguments.cycles)[0]
        for side in pair:
            side.hang_up()
        return seconds


def main(given: list[str] | None = None) -> int:
    """Measures and prints."""
    arguments = parse(given)
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    tables.facts(network=f"width {arguments.width}, {arguments.share} images for each device")
    try:
        with tempfile.TemporaryDirectory() as folder:
            if not arguments.processes:
                title = "Training at constant work per device; pmap, update, input: shares of the time; median (quartiles)"
                tables.show(title, table(arguments, measure(arguments, folder)))
                return 0
            seconds = measure_processes(arguments, folder)
        rows = []
        for name, times in seconds.items():
            row = {"": name, "loop, ms a step": tables.spread([1e3 * each for each in times])}
            rows.append(row | {"against one process": tables.spread(sides.ratios(times, next(iter(seconds.values()))))})
        tables.show("Two processes on one machine (the waiting sides' share is not told: both processes work)", rows)
    except sides.SideError as error:
        print(f"error: {error}\n{error.details}".strip(), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
