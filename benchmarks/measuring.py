"""One measurement of `compare.py`: starts the forms' processes, checks that they agree, lets them compute in turns."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import jobs
import numpy as np
import sides
import tables

# Bounds are for float32. In lower precision rounding alone differs by so many times more, and the bounds catch only mistakes: one
# that becomes larger than 1 says no more than that the numbers are finite.
LOOSE = {"float32": 1.0, "tf32": 30.0, "bfloat16": 300.0}
LONGEST = 200  # calls in a turn
SLOW = 5.0  # seconds; a first call that took less is made once more before the turns begin, for it may have compiled something
DISTURBED = 0.15  # share of a core used by others, above which a measurement means little


class Run(NamedTuple):
    """What is measured, and how.

    Attributes:
      settings: of the job (`jobs.settings_of`).
      device: "cpu" or "gpu".
      forms: names of the only forms to run; None for all.
      cycles, turn_seconds: how often at most, and how long a turn is at least.
      limit: seconds that all turns together may take; one cycle is always made.
      torch_python: the other environment's Python.
      folder: for files.
    """

    settings: dict[str, Any]
    device: str
    forms: list[str] | None
    cycles: int
    turn_seconds: float
    limit: float
    torch_python: str
    folder: str


def environment(device: str) -> dict[str, str]:
    """Of our processes: on a CPU nothing else is looked for."""
    return {"JAX_PLATFORMS": "cpu"} if device == "cpu" else {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}


@contextlib.contextmanager
def processes(run: Run) -> Iterator[tuple[dict[str, sides.Side], dict[str, sides.Side]]]:
    """(ours, theirs): form -> a started process."""
    job = jobs.JOBS[run.settings["job"]]
    wanted = [[form for form in forms if run.forms is None or form in run.forms] for forms in (job.ours, job.theirs)]
    if jobs.SHIPPED not in wanted[0] or not wanted[1]:
        raise sides.SideError(f"--forms must hold {jobs.SHIPPED!r} and one of {', '.join(job.theirs)}.")
    with contextlib.ExitStack() as stack:
        started: tuple[dict[str, sides.Side], dict[str, sides.Side]] = {}, {}
        for form in wanted[0]:
            started[0][form] = stack.enter_context(
                contextlib.closing(sides.ours(f"ours, {form}", environment(run.device)))
            )
        for form in wanted[1]:
            started[1][form] = stack.enter_context(
                contextlib.closing(sides.theirs(f"theirs, {form}", run.torch_python))
            )
        yield started


def why_no_gpu(torch_python: str) -> str:
    """Why nothing can be measured on a GPU, or nothing."""
    for make in (lambda: sides.ours("ours", environment("gpu")), lambda: sides.theirs("PyTorch", torch_python)):
        with contextlib.closing(make()) as side:
            try:
                side.ask("start", form=jobs.SHIPPED, device="gpu")
            except sides.SideError as error:
                return str(error).partition(": ")[2]
    return ""


def differences(
    job: jobs.Job, expected: dict[str, np.ndarray], found: dict[str, np.ndarray], loose: float
) -> dict[str, float]:
    """Result -> its difference as a share of the permitted one."""
    shares = {}
    for name, bound in job.bounds.items():
        a, b = np.asarray(expected[name], np.float64), np.asarray(found[name], np.float64)
        if a.shape != b.shape:
            shares[name] = np.inf
        elif bound == 0 or name == "neighbours that differ":
            shares[name] = np.mean(a != b) / max(bound, 1e-12)
        else:  # Root mean square: single pixels may fall on the other side of a ReLU.
            shares[name] = np.sqrt(np.mean((a - b) ** 2) / max(np.mean(a**2), 1e-30)) / (bound * loose)
        shares[name] = shares[name] if np.isfinite(b).all() else np.inf
    return shares


def agreement(
    run: Run, ours: dict[str, sides.Side], theirs: dict[str, sides.Side]
) -> tuple[dict[str, Any], dict[str, str]]:
    """(how near to its bound the worst result is, forms that cannot run -> why); raises SideError beyond the bound.

    A form that cannot run, as where there is no C++ compiler for `torch.compile`, is taken out of `theirs`.
    """
    job, worst, compared, failures = jobs.JOBS[run.settings["job"]], ("nothing", 0.0), 0, {}
    loose = LOOSE[run.settings["dtype"] if run.settings["dtype"] != "float32" or run.device == "cpu" else "tf32"]
    expected = ours[jobs.SHIPPED].ask("agree")
    for form, side in [*((form, side) for form, side in ours.items() if form != jobs.SHIPPED), *theirs.items()]:
        try:
            found = side.ask("agree")
        except sides.SideError as error:
            if "compiled" not in form:
                raise
            failures[form] = str(error)
            theirs.pop(form)
            continue
        for name, share in differences(job, expected, found, loose).items():
            compared += 1
            if not share <= 1:
                raise sides.SideError(
                    f"{side.name} disagrees with ours on {name}: {share:.3g} times the bound; nothing was timed."
                )
            worst = max(worst, (f"{name} ({side.name})", float(share)), key=lambda each: each[1])
    return {"worst": worst[0], "share": worst[1], "compared": compared}, failures


def opened(run: Run, ours: dict[str, sides.Side], theirs: dict[str, sides.Side]) -> list[dict[str, str]]:
    """Prepares all sides, the same weights on all of them; returns what each side is."""
    settings, job = run.settings, jobs.JOBS[run.settings["job"]]
    inputs, everyone = jobs.inputs(settings, run.folder), [*ours.items(), *theirs.items()]
    about = [side.ask("start", form=form, device=run.device) for form, side in everyone]
    params = ours[jobs.SHIPPED].ask("params", settings=settings) if job.network else None
    for _, side in everyone:  # ours come first, and say what the others need
        inputs |= side.ask("open", settings=settings, params=params, inputs=inputs) or {}
    return about


def rehearsed(run: Run, everyone: dict[str, sides.Side]) -> tuple[int, int]:
    """(calls that make a turn long enough, cycles that there is time for), after each side has made a call."""
    seconds = {name: side.ask("run", calls=1) for name, side in everyone.items()}
    for name, side in everyone.items():
        if seconds[name] < SLOW:
            seconds[name] = side.ask("run", calls=1)
    calls = round(run.turn_seconds / max(seconds[f"ours, {jobs.SHIPPED}"], 1e-6))
    calls = max(1, min(LONGEST, calls))
    return calls, max(1, min(run.cycles, int(run.limit / (2 * calls * sum(seconds.values())))))


def measure(run: Run) -> dict[str, Any]:
    """The table of one measurement, and the ratio that counts."""
    with processes(run) as (ours, theirs):
        about = opened(run, ours, theirs)
        agreed, failures = agreement(run, ours, theirs)
        if not theirs:
            raise sides.SideError(f"no PyTorch form can run: {next(iter(failures.values()))}")
        everyone = {side.name: side for side in [*ours.values(), *theirs.values()]}
        calls, cycles = rehearsed(run, everyone)
        for side in everyone.values():
            side.ask("forget_peak")
        runs = {name: lambda side=side: side.ask("run", calls=calls) for name, side in everyone.items()}
        turns = sides.in_turns(runs, [side.pid for side in everyone.values()], cycles)
        more = {name: {"peak": side.ask("peak_mb"), "facts": side.ask("facts")} for name, side in everyone.items()}
    found = table(run, turns.seconds, more)
    threads = ", ".join(f"{name} {each['threads']}" for name, each in zip(everyone, about, strict=False))
    found |= {"calls": calls, "cycles": cycles, "idle": turns.idle_share, "others": turns.others_share}
    return found | {"agreement": agreed, "failures": failures, "threads": threads, "versions": versions(about)}


def versions(about: list[dict[str, str]]) -> str:
    """What computed."""
    both = about[0], about[-1]
    return "; ".join(", ".join(f"{name} {v}" for name, v in each.items() if name != "threads") for each in both)


def table(run: Run, seconds: dict[str, list[float]], more: dict[str, dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Rows for the reader; the best PyTorch form; time and memory of ours as shipped over its."""
    job = jobs.JOBS[run.settings["job"]]
    times = {name: tables.spread(each) for name, each in seconds.items()}
    best = min((name for name in times if name.startswith("theirs")), key=lambda name: times[name]["median"])
    unit, rows = job.scale / jobs.work(run.settings), []
    for name, each in seconds.items():
        memory = {f"{which} MB": round(value) for which, value in more[name]["peak"].items()}
        row = {"form": name, job.unit: tables.spread([unit * value for value in each])}
        row["of their best form"] = tables.spread(sides.ratios(each, seconds[best]))
        rows.append(row | memory | more[name]["facts"])
    which = "device" if "device" in more[best]["peak"] else "running"
    shipped = f"ours, {jobs.SHIPPED}"
    memory = more[shipped]["peak"][which] / more[best]["peak"][which]
    ratio = tables.spread(sides.ratios(seconds[shipped], seconds[best]))
    return {"settings": run.settings, "rows": rows, "best": best, "ratio": ratio, "memory": memory, "seconds": seconds}
