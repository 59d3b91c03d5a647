"""One measurement of `compare.py`: starts the forms' processes, checks that they agree, lets them compute in turns."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import jobs
import numpy as np
import plan
import serving
import sides
import tables

CHECKED_BATCH = 8  # images in the check of lower precision
LONGEST = 200  # calls in a turn
SLOW = 5.0  # seconds; a first call that took less is made once more before the turns begin, for it may have compiled something

Sides = dict[str, sides.Side]


class Run(NamedTuple):
    """What is measured, and how.

    Attributes:
      settings: of the job (`jobs.settings_of`).
      device: "cpu" or "gpu".
      forms: names of the only forms to run; None for all.
      cycles, turn_seconds: how often at most, and how long a turn is at least.
      least: cycles that are made however long they take.
      limit: seconds that all turns together may take.
      torch_python: the other environment's Python.
      folder: for files.
    """

    settings: dict[str, Any]
    device: str
    forms: list[str] | None
    cycles: int
    turn_seconds: float
    least: int
    limit: float
    torch_python: str
    folder: str


def environment(device: str) -> dict[str, str]:
    """Of all processes: equal numbers of threads for every library; on a CPU nothing else is looked for; one GPU for both sides."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0]
    gpu = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "CUDA_VISIBLE_DEVICES": first}
    return {"OMP_NUM_THREADS": str(serving.cores())} | ({"JAX_PLATFORMS": "cpu"} if device == "cpu" else gpu)


@contextlib.contextmanager
def processes(run: Run) -> Iterator[tuple[Sides, Sides]]:
    """(ours, theirs): form -> a started process."""
    known = jobs.forms(run.settings, run.device)
    ours, theirs = ([form for form in forms if run.forms is None or form in run.forms] for forms in known)
    if known[0][0] not in ours or not theirs:
        raise sides.SideError(f"--forms must hold {known[0][0]!r} and one of {', '.join(known[1])}.")
    around = environment(run.device)
    with contextlib.ExitStack() as stack:
        mine = {form: sides.ours(f"ours, {form}", around) for form in ours}
        others = {form: sides.theirs(f"theirs, {form}", run.torch_python, around) for form in theirs}
        for form, side in [*mine.items(), *others.items()]:  # all at once: importing takes seconds, and is not timed
            stack.enter_context(contextlib.closing(side))
            side.begin("start", form=form, device=run.device)
        for side in [*mine.values(), *others.values()]:
            side.about = side.answer()
        yield mine, others


def why_no_gpu(torch_python: str) -> str:
    """Why nothing can be measured on a GPU, or nothing."""
    around = environment("gpu")
    for make in (lambda: sides.ours("ours", around), lambda: sides.theirs("PyTorch", torch_python, around)):
        with contextlib.closing(make()) as side:
            try:
                side.ask("start", form=jobs.PLAIN, device="gpu")
            except sides.SideError as error:
                return str(error).partition(": ")[2]
    return ""


def differences(
    bounds: dict[str, float], expected: dict[str, np.ndarray], found: dict[str, np.ndarray]
) -> dict[str, float]:
    """Result -> its difference as a share of the permitted one; an expected result of zeros alone tells nothing, and is refused."""
    shares = {}
    for name, bound in bounds.items():
        a, b = np.asarray(expected[name], np.float64), np.asarray(found[name], np.float64)
        if a.shape != b.shape or not np.isfinite(b).all() or not a.any():
            shares[name] = np.inf
        elif bound == 0 or name == "neighbours that differ":
            shares[name] = np.mean(a != b) / max(bound, 1e-12)
        else:  # Root mean square: single pixels may fall on the other side of a ReLU.
            each = 1 if name == "projections" else None  # each layer's on its own, lest a large one hide a small one
            shares[name] = np.max(np.sqrt(np.mean((a - b) ** 2, axis=each) / np.mean(a**2, axis=each))) / bound
    return shares


def agreement(ours: Sides, theirs: Sides, bounds: dict[str, float], expected: Any = None) -> dict[str, Any]:
    """Expected results, ours unless they are given; how near to its bound the worst result is; forms that cannot run -> why.

    Raises SideError beyond a bound. A form that cannot run, as where there is no C++ compiler for `torch.compile`, is taken out of
    `theirs`.
    """
    everyone = [*ours.items(), *theirs.items()]
    if expected is None:
        expected = everyone.pop(0)[1].ask("agree")
    worst, compared, failures = ("nothing", 0.0), 0, {}
    for form, side in everyone:
        try:
            found = side.ask("agree")
        except sides.SideError as error:
            if not form.startswith("compiled"):
                raise
            failures[form] = str(error)
            theirs.pop(form).close()
            continue
        for name, share in differences(bounds, expected, found).items():
            compared += 1
            if not share <= 1:
                raise sides.SideError(
                    f"{side.name}, {name}: {share:.3g} times the permitted difference; nothing was timed."
                )
            worst = max(worst, (f"{name} ({side.name})", float(share)), key=lambda each: each[1])
    return {"expected": expected, "worst": worst[0], "share": worst[1], "compared": compared, "failures": failures}


def opened(run: Run, ours: Sides, theirs: Sides) -> None:
    """Prepares all sides, the same weights on all of them."""
    settings, everyone = run.settings, [*ours.values(), *theirs.values()]
    inputs = jobs.inputs(settings, run.folder)
    params = everyone[0].ask("params", settings=settings) if jobs.JOBS[settings["job"]].network else None
    for side in everyone:  # ours come first, and say what the others need
        inputs |= side.ask("open", settings=settings, params=params, inputs=inputs) or {}


def bounds_of(run: Run) -> dict[str, float]:
    """Within which the timed processes must agree: the job's own, or in lower precision, wider ones.

    For these, every form of both sides is checked apart, with a few images: in true float32 within the job's own bounds, then in
    the precision that is timed, against that result.
    """
    job, settings = jobs.JOBS[run.settings["job"]], run.settings
    bounds = job.bounds
    if not job.network or (run.device == "cpu" and settings["dtype"] == "float32"):
        return bounds
    rough = jobs.rough(bounds, settings["dtype"])
    low = settings | {"batch": min(settings["batch"], CHECKED_BATCH)}
    with processes(run) as (ours, theirs):
        opened(run._replace(settings=low | {"dtype": "float32", "precision": "highest"}), ours, theirs)
        exact = agreement(ours, theirs, bounds)["expected"]
        opened(run._replace(settings=low), ours, theirs)
        agreement(ours, theirs, rough, exact)
    return rough


def rehearsed(run: Run, everyone: Sides) -> tuple[int, bool, int]:
    """(calls that make a turn long enough, whether one is made before them, cycles that there is time for), after a call of each.

    A process that slept for seconds is slow at first: after 5 seconds one call of training at width 16 took 1.6 times as long, ours
    and theirs alike. So a turn begins with a call that is not timed, where calls are shorter than that. A whole run is made
    once; what a form compiles at its first call is in its time.
    """
    if jobs.is_whole(run.settings):
        return 1, False, 1
    seconds = {name: side.ask("run", calls=1) for name, side in everyone.items()}
    for name, side in everyone.items():
        if seconds[name] < SLOW:
            seconds[name] = side.ask("run", calls=1)
    calls = round(run.turn_seconds / max(next(iter(seconds.values())), 1e-6))
    calls, again = max(1, min(LONGEST, calls)), max(seconds.values()) < SLOW
    in_time = int(run.limit / (2 * (calls + again) * sum(seconds.values())))
    return calls, again, max(run.least, min(run.cycles, in_time))


def measure(run: Run) -> dict[str, Any]:
    """The table of one measurement, and the ratio that counts."""
    bounds = bounds_of(run)
    with processes(run) as (ours, theirs):
        about = {side.name: side.about for side in [*ours.values(), *theirs.values()]}
        opened(run, ours, theirs)
        agreed = agreement(ours, theirs, bounds)
        agreed.pop("expected")
        if not theirs:
            raise sides.SideError(f"no PyTorch form can run: {next(iter(agreed['failures'].values()))}")
        everyone = {side.name: side for side in [*ours.values(), *theirs.values()]}
        calls, again, cycles = rehearsed(run, everyone)
        for side in everyone.values():
            side.ask("forget_peak")
        runs = {name: lambda side=side: side.ask("run", calls=calls, again=again) for name, side in everyone.items()}
        pids, once = [side.pid for side in everyone.values()], jobs.is_whole(run.settings)
        seconds, idle, others = sides.in_turns(runs, pids, cycles, and_back=not once)
        more = {name: {"peak": side.ask("peak_mib"), "facts": side.ask("facts")} for name, side in everyone.items()}
    found = table(run, seconds, more, next(iter(about.values()))["devices"])
    found |= {"calls": calls, "cycles": cycles, "idle": idle, "others": others, "agreement": agreed}
    threads = ", ".join(f"{name} {each['threads']}" for name, each in about.items())
    both = list(about.values())[:: max(1, len(about) - 1)]
    versions = "; ".join(", ".join(f"{name} {v}" for name, v in each.items() if name != "threads") for each in both)
    return found | {"threads": threads, "versions": versions, "forms": sorted(everyone)}


def speed(settings: dict[str, Any], device: str, seconds: float) -> dict[str, str]:
    """Units of work a second; counted operations and bytes a second; share of the device's limit, where its peaks are known."""
    operations, moved = jobs.counted(settings)
    row = {"a second": f"{1 / seconds:.4g}"}
    row |= {"GFLOP/s": f"{operations / seconds / 1e9:.4g}"} if operations else {}
    row |= {"GB/s": f"{moved / seconds / 1e9:.4g}"} if moved else {}
    if (chip := plan.known(device)) and (operations or moved):
        peak = chip.operations / (1 if settings["dtype"] == "bfloat16" else 2)  # TF32 has half the rate of bfloat16
        row["of the limit"] = f"{max(operations / peak, moved / chip.bandwidth) / seconds:.1%}"
    return row


def table(run: Run, seconds: dict[str, list[float]], more: dict[str, Any], device: str) -> dict[str, Any]:
    """Rows for the reader; the best PyTorch form; time and memory of our form that counts over its."""
    job, mine, rows = jobs.JOBS[run.settings["job"]], next(iter(seconds)), []
    work = {name: jobs.work(run.settings, each["facts"]) for name, each in more.items()}
    values = {name: [job.scale / work[name] * value for value in each] for name, each in seconds.items()}
    times = {name: tables.spread(each) for name, each in values.items()}
    best = min((name for name in times if name.startswith("theirs")), key=lambda name: times[name]["median"])
    for name, each in values.items():
        row = {"form": name, job.unit: times[name]}
        row |= {"of their best form": tables.spread(sides.ratios(each, values[best]))}
        row |= speed(run.settings, device, times[name]["median"] / job.scale)
        memory = {f"{which} MiB": round(value) for which, value in more[name]["peak"].items()}
        rows.append(row | memory | more[name]["facts"])
    which = "device" if "device" in more[best]["peak"] else "running"
    memory = more[mine]["peak"].get(which, float("nan")) / more[best]["peak"][which]
    found = {"settings": run.settings, "device": run.device, "rows": rows, "best": best, "memory": memory}
    return found | {
        "ratio": tables.spread(sides.ratios(values[mine], values[best])),
        "rate": tables.spread([job.scale / value for value in values[mine]]),
        "seconds": seconds,
    }
