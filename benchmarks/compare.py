"""Ours against PyTorch, job by job, side by side in one run, after a check that both compute the same.

    python benchmarks/compare.py --torch-python PATH --job training
    python benchmarks/compare.py --torch-python PATH --all
    make bench TORCH_PYTHON=PATH

Each form of each side is a process of its own; all stay alive and compute in turns, A B C C B A, never two at once, with equal
numbers of threads. A time is the median over cycles (lower to upper quartile); a ratio is of two forms in the same cycle. The ratio
that counts is ours / their best form: on a CPU ours as configured, on a GPU by plain jit, with arrays that stay there. Memory is
the resident peak of each process, while running and ever, with compiling; on a GPU the device's, ever.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jobs
import measuring
import parts
import recorded
import sides
import tables

OWN = ("steps", "images", "levels")


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    what = "\n".join(f"  {name:15s} {job.what}" for name, job in jobs.JOBS.items())
    how = {"description": __doc__.splitlines()[0], "formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser(epilog=f"jobs:\n{what}", **how)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--job", action="append", choices=list(jobs.JOBS), help="what to measure; can be given again")
    which.add_argument("--all", action="store_true", help="all jobs, at all widths and batches")
    which.add_argument("--bench", action="store_true", help="a selection, compared with the recorded ratios")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has benchmarks/requirements.txt")
    own = [
        parser.add_argument("--width", type=positive, action="append", help="of the published network (64 and 16)"),
        parser.add_argument("--batch", type=positive, action="append", help="images at once (a small and a large one)"),
        *(parser.add_argument(f"--{name}", type=positive, help="of jobs with this setting") for name in OWN),
        parser.add_argument("--forms", nargs="+", help="only these forms"),
    ]
    parser.add_argument("--whole", action="store_true", help="a whole reconstruction by each form, beside some levels of it")
    parser.add_argument("--ckpt", help="a trained network, instead of random weights of some width")
    parser.add_argument("--device", choices=("cpu", "gpu", "both"), help="default: both, if there is a GPU")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of convolutions")
    parser.add_argument("--cycles", type=positive, help="of turns, at most (default: 5)")
    parser.add_argument("--turn-seconds", type=float, default=1.5, help="shortest turn; a call is repeated so long")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds of a measurement's turns, after one cycle")
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="begins none that would end later, as long as the last"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and noise")
    parser.add_argument("--tiny", action="store_true", help="only checks that all runs and agrees; times mean nothing")
    parser.add_argument("--record", action="store_true", help="writes the ratios to benchmarks/recorded.json")
    parser.add_argument("--json", default="", help="file for all numbers")
    parser.add_argument("--verbose", action="store_true", help="shows where a side failed")
    arguments = parser.parse_args(given)
    if arguments.bench and (arguments.ckpt or arguments.cycles or any(getattr(arguments, each.dest) for each in own)):
        parser.error(f"--bench has its own widths, batches, settings and forms, and makes {recorded.CYCLES} cycles")
    if arguments.whole and (arguments.job != ["reconstruction"] or arguments.levels):
        parser.error("--whole goes with --job reconstruction, without --levels")
    if arguments.bench and arguments.device not in (None, "cpu"):
        parser.error("--bench measures the CPU")
    if arguments.record and (arguments.tiny or not arguments.bench):
        parser.error("--record goes with --bench, without --tiny")
    if arguments.job and arguments.device == "gpu" and not all(jobs.JOBS[job].network for job in arguments.job):
        parser.error("--device gpu: only jobs that run the network use a GPU")
    if arguments.ckpt and "parts" in (arguments.job or ()):
        parser.error("--job parts takes a width, not a --ckpt")
    arguments.device = "cpu" if arguments.bench else arguments.device or "both"
    return arguments


def measurements(arguments: argparse.Namespace, device: str) -> list[dict[str, Any]]:
    """The settings of each measurement on a device."""
    own = {name: getattr(arguments, name) for name in OWN if getattr(arguments, name) is not None}
    common = {"seed": arguments.seed, "dtype": arguments.dtype, "ckpt": arguments.ckpt or ""}
    found = []
    if arguments.bench:
        found = [jobs.settings_of(job, common | given) for job, given in jobs.BENCH]
    for job in [] if arguments.bench else jobs.JOBS if arguments.all else arguments.job:
        mine = common | {name: value for name, value in own.items() if name in jobs.JOBS[job].defaults}
        if (device == "cpu" or jobs.JOBS[job].network) and not (job == "parts" and arguments.ckpt):
            found += [jobs.settings_of(job, mine | each) for each in sizes(job, device, arguments)]
    if arguments.whole:
        found += [each | {"levels": jobs.PUBLISHED_LEVELS} for each in found]
    if not arguments.tiny:
        return found
    return list({json.dumps(small): small for small in map(jobs.tiny, found)}.values())


def sizes(job: str, device: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Widths, batches and parts of a job."""
    usual = [jobs.WHOLE_RUN["width"]] if arguments.whole else list(jobs.BATCHES)
    widths = [0] if arguments.ckpt or not jobs.JOBS[job].network else arguments.width or usual
    given = arguments.batch or ([jobs.WHOLE_RUN["batch"]] if arguments.whole else None)
    found = [{"width": w, "batch": b} for w in widths for b in given or jobs.batches(job, device, w)]
    return [each | {"part": part} for each in found for part in parts.PARTS] if job == "parts" else found


def is_disturbed(result: dict[str, Any]) -> bool:
    """Whether something else computed in any turn of this."""
    return max(result["idle"], result["others"]) > tables.BUSY


def shown(result: dict[str, Any]) -> None:
    """Prints a measurement's table."""
    job, agreed = jobs.JOBS[result["settings"]["job"]], result["agreement"]
    cycles = f"{result['calls']} calls a turn, {result['cycles']} cycle{'s' if result['cycles'] > 1 else ''}"
    tables.show(f"{result['name']}\n  {job.what}; {job.unit}; {cycles}", result["rows"])
    print(
        f"  Agreement: {agreed['compared']} results; nearest to its bound: {agreed['worst']}, {agreed['share']:.2g} of it."
    )
    print(
        f"  In a turn waiting sides used {result['idle']:.1%} of a core at most, others on the machine {result['others']:.1%}."
    )
    if is_disturbed(result):
        print("  DISTURBED: these times mean little.")
    for form, why in agreed["failures"].items():
        print(f"  {form}: cannot run ({why})")


def why_no_verdict(result: dict[str, Any]) -> str:
    """What forbids to judge a measurement, or nothing."""
    if is_disturbed(result):
        return "disturbed"
    if result["agreement"]["failures"]:
        return "forms missing"
    return f"fewer than {recorded.CYCLES} cycles" if result["cycles"] < recorded.CYCLES else ""


def verdict(result: dict[str, Any], low: float, high: float, goal: float | None, unit: str = "") -> str:
    """Whether the values between two quartiles are at most a goal, or as rates (with a unit) at least: all, some or none."""
    if goal is None:
        return ""
    text = f"{goal:,.0f} {unit}: " if unit else f"{goal:g} "
    if why := why_no_verdict(result):
        return f"{text}no verdict: {why}"
    met = [value >= goal if unit else value <= goal for value in (low, high)]
    return text + ("met" if all(met) else "within its spread" if any(met) else "MISSED")


def summary(results: list[dict[str, Any]], left_out: dict[str, str]) -> None:
    """Prints the ratios that count, of all measurements."""
    rows = []
    for result in results:
        settings, job = result["settings"], jobs.JOBS[result["settings"]["job"]]
        row = {"measurement": result["name"], "their best form": result["best"].removeprefix("theirs, ")}
        row |= {"ours / theirs": result["ratio"]}
        if result["device"] == "cpu":
            goal = job.goal if jobs.is_published(settings) else None
            row |= {"goal": verdict(result, result["ratio"]["low"], result["ratio"]["high"], goal)}
        else:
            goal = job.rate if (settings["width"], settings["size"]) == (64, 64) else None
            rate = result["rate"]
            row |= {"a second": rate, "goal": verdict(result, rate["low"], rate["high"], goal, "a second")}
        memory = result["memory"]  # NaN where it is not the same kind of number on both sides
        goal = 1.0 if job.network and memory == memory else None
        row |= {"memory, ours / theirs": f"{memory:.2f}", "memory's goal": verdict(result, memory, memory, goal)}
        rows.append(row)
    rows += [{"measurement": name, "ours / theirs": why} for name, why in left_out.items()]
    tables.show("Ours / their best form: median (quartiles) over cycles; below 1, ours is faster", rows)


def with_gpu(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """(devices to measure on, why the GPU is left out)."""
    why = "" if arguments.device == "cpu" else measuring.why_no_gpu(arguments.torch_python)
    if why and arguments.device == "gpu":
        raise sides.SideError(f"--device gpu: {why}")
    return (["cpu"] if why else ["cpu", "gpu"]) if arguments.device == "both" else [arguments.device], why


def measure_all(arguments: argparse.Namespace, machine: dict[str, str]) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """(results, name of what was left out -> why); what is there so far is in --json after each measurement."""
    began, last, results, left_out = time.monotonic(), 0.0, [], {}
    devices, why = with_gpu(arguments)
    for device, settings in [(each, found) for each in devices for found in measurements(arguments, each)]:
        name, start = jobs.name_of(settings, device), time.monotonic()
        if arguments.minutes and start - began + last > 60 * arguments.minutes:
            left_out[name] = "out of time"
            continue
        try:
            with tempfile.TemporaryDirectory() as folder:
                results.append({"name": name, **measuring.measure(run_of(arguments, settings, device, folder))})
        except sides.SideError as error:
            left_out[name] = f"failed: {error}"
            print(f"\n{name}\n  failed: {error}\n{error.details if arguments.verbose else ''}".rstrip(), flush=True)
        else:
            if len(results) == 1:
                print(f"\n{results[0]['versions']}\nthreads: {results[0]['threads']}; seed {settings['seed']}")
            shown(results[-1])
        last = time.monotonic() - start
        if arguments.json:
            found = {"machine": machine, "results": results, "left out": left_out}
            Path(arguments.json).write_text(json.dumps(found, indent=1))
    if why:
        left_out |= {f"{each['job']} gpu": f"unmeasured ({why})" for each in measurements(arguments, "gpu")}
    return results, left_out


def run_of(arguments: argparse.Namespace, settings: dict[str, Any], device: str, folder: str) -> measuring.Run:
    """How a measurement is made."""
    forms = arguments.forms or (jobs.bench_forms(settings) if arguments.bench else None)
    cycles = arguments.cycles or (1 if arguments.tiny else recorded.CYCLES if arguments.bench else 5)
    turns = {"cycles": cycles, "least": cycles if arguments.bench else 1, "limit": arguments.limit}
    turns |= {"turn_seconds": arguments.turn_seconds, "torch_python": arguments.torch_python}
    return measuring.Run(settings, device, forms, folder=folder, **turns)


def unjudged(results: list[dict[str, Any]], left_out: dict[str, str]) -> dict[str, str]:
    """The measurements that cannot be judged, nor recorded -> why."""
    return {result["name"]: why for result in results if (why := why_no_verdict(result))} | left_out


def main(given: list[str] | None = None) -> int:
    """Measures, prints, and writes; exit code: 0, 1 for a regression, 2 for what failed, 3 for what cannot be judged."""
    arguments = parse(given)
    # As `make` sets it for train.py; for both sides alike.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    try:
        machine = tables.facts(started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
        results, left_out = measure_all(arguments, machine)
    except (sides.SideError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    summary(results, left_out)
    if failed := [name for name, why in left_out.items() if why.startswith("failed")]:
        print(f"\nerror: {len(failed)} measurements failed (see above), {len(results)} did not", file=sys.stderr)
    elif arguments.tiny:
        print("\nEverything ran and agreed. The times of --tiny mean nothing.")
    measured = {each["name"]: {"forms": each["forms"], "ratio": each["ratio"]} for each in results}
    code = 2 if failed else 0
    if arguments.record:
        if why := unjudged(results, left_out):
            print("error: nothing is recorded: " + "; ".join(f"{name}: {each}" for name, each in why.items()), file=sys.stderr)
            return 2
        recorded.write(machine["cpu"], results[0]["versions"], measured)
    elif arguments.bench and not arguments.tiny and results:
        code = code or recorded.compare(machine["cpu"], results[0]["versions"], measured, unjudged(results, left_out))
    return code


if __name__ == "__main__":
    sys.exit(main())
