"""Ours against PyTorch, job by job, side by side in one run, after a check that both compute the same.

    python -m venv /tmp/torch && /tmp/torch/bin/pip install -r benchmarks/requirements.txt
    python benchmarks/compare.py --torch-python /tmp/torch/bin/python --job training
    python benchmarks/compare.py --torch-python /tmp/torch/bin/python --all
    make bench TORCH_PYTHON=/tmp/torch/bin/python

Each form of each side is a process of its own; all stay alive and compute in turns, A B C C B A, never two at once, with equal
numbers of threads. A time is the median over cycles (lower to upper quartile); a ratio is of two forms in the same cycle. The ratio
that counts is ours as shipped / their best form (PyTorch's; for K-means and neighbours maybe scikit-learn's). Memory is the
resident peak of each process: while running, and ever, with compiling.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from typing import Any

import jobs
import measuring
import recorded
import sides
import tables


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    what = "\n".join(f"  {name:15s} {job.what}" for name, job in jobs.JOBS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"jobs:\n{what}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--job", action="append", choices=list(jobs.JOBS), help="what to measure; can be given again")
    which.add_argument("--all", action="store_true", help="all jobs, at all widths and batches")
    which.add_argument("--bench", action="store_true", help="a selection, compared with the recorded ratios")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has benchmarks/requirements.txt")
    parser.add_argument("--width", type=positive, action="append", help="of the published network (default: 64 and 16)")
    parser.add_argument(
        "--batch", type=positive, action="append", help="images at once (default: a small and a large one)"
    )
    for name in ("steps", "images", "levels", "matching-steps", "rows", "clusters", "runs"):
        parser.add_argument(f"--{name}", type=positive, help="of the jobs that have this setting")
    parser.add_argument("--ckpt", help="a trained network, instead of random weights of some width")
    parser.add_argument("--forms", nargs="+", help="only these forms")
    parser.add_argument(
        "--device", choices=("cpu", "gpu", "both"), default="both", help="default: the GPU too, if there is one"
    )
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of convolutions, on both sides"
    )
    parser.add_argument("--cycles", type=positive, help="of turns (default: 5; with --bench 3)")
    parser.add_argument(
        "--turn-seconds", type=float, default=0.7, help="shortest turn; a call is repeated until it is that long"
    )
    parser.add_argument(
        "--limit", type=float, help="seconds that a measurement's turns may take (default: 300; with --bench 40)"
    )
    parser.add_argument(
        "--minutes", type=float, default=0.0, help="begins no further measurement after so long (0: no limit)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and noise")
    parser.add_argument(
        "--tiny", action="store_true", help="checks that everything runs and agrees; the times mean nothing"
    )
    parser.add_argument("--record", action="store_true", help="writes the ratios to benchmarks/recorded.json")
    parser.add_argument("--json", default="", help="file for all numbers")
    parser.add_argument("--verbose", action="store_true", help="shows where a side failed")
    arguments = parser.parse_args(given)
    if arguments.tiny and arguments.record:
        parser.error("--tiny measures nothing that could be recorded")
    return arguments


def measurements(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The settings of each measurement."""
    names = ("steps", "images", "levels", "matching_steps", "rows", "clusters", "runs")
    own = {name: getattr(arguments, name) for name in names}
    own = {name: value for name, value in own.items() if value is not None}
    common = {"seed": arguments.seed, "dtype": arguments.dtype, "ckpt": arguments.ckpt or ""}
    found = []
    if arguments.bench:
        found = [jobs.settings_of(each["job"], common | each) for each in jobs.BENCH]
    for job in [] if arguments.bench else jobs.JOBS if arguments.all else arguments.job:
        mine = common | {name: value for name, value in own.items() if name in jobs.JOBS[job].defaults}
        found += [jobs.settings_of(job, mine | each) for each in sizes(job, arguments)]
    if not arguments.tiny:
        return found
    return list({json.dumps(small): small for small in map(jobs.tiny, found)}.values())


def sizes(job: str, arguments: argparse.Namespace) -> list[dict[str, int]]:
    """Widths and batches of a job."""
    if not jobs.JOBS[job].network:
        batches = arguments.batch or (jobs.DATA_BATCHES if job == "input" else [0])
        return [{"batch": batch} for batch in batches]
    widths = [0] if arguments.ckpt else arguments.width or list(jobs.BATCHES)
    usual = jobs.SLOW_BATCHES if job in jobs.SLOW else jobs.BATCHES
    usual = dict.fromkeys(usual, (jobs.SWEEP_BATCH,)) if job == "features" else usual
    return [{"width": w, "batch": b} for w in widths for b in arguments.batch or usual.get(w, usual[16])]


def is_disturbed(result: dict[str, Any]) -> bool:
    """Whether something else computed while this was measured."""
    return max(result["idle"], result["others"]) > measuring.DISTURBED


def shown(result: dict[str, Any]) -> None:
    """Prints a measurement's table."""
    job = jobs.JOBS[result["settings"]["job"]]
    tables.show(
        f"{result['name']}\n  {job.what}; {job.unit}; {result['calls']} calls a turn, {result['cycles']} cycles",
        result["rows"],
    )
    compared, worst, share = (result["agreement"][name] for name in ("compared", "worst", "share"))
    print(f"  Agreement: {compared} results compared; the nearest to its bound is {worst}, at {share:.2g} of it.")
    print(
        f"  Waiting sides used at most {result['idle']:.1%} of a core, the rest of the machine {result['others']:.1%}."
    )
    if is_disturbed(result):
        print("  DISTURBED: these times mean little.")
    for form, why in result["failures"].items():
        print(f"  {form}: cannot run ({why})")


def summary(results: list[dict[str, Any]], left_out: list[str]) -> None:
    """Prints the ratios that count, of all measurements."""
    rows = []
    for result in results:
        goal, median = jobs.JOBS[result["settings"]["job"]].goal, result["ratio"]["median"]
        verdict = "none" if goal is None else f"{goal:g} {'met' if median <= goal else 'MISSED'}"
        rows.append(
            {
                "measurement": result["name"],
                "their best form": result["best"].removeprefix("theirs, "),
                "ours / theirs": result["ratio"],
                "goal": verdict,
                "memory, ours / theirs": f"{result['memory']:.2f}",
            }
        )
    blank = {"their best form": "", "ours / theirs": "unmeasured", "goal": "", "memory, ours / theirs": ""}
    rows += [{"measurement": name, **blank} for name in left_out]
    tables.show("Ours as shipped / their best form: median (quartiles) over cycles; below 1, ours is faster", rows)


def with_gpu(arguments: argparse.Namespace) -> tuple[list[str], str]:
    """(devices to measure on, why the GPU is left out)."""
    if arguments.device == "cpu":
        return ["cpu"], ""
    why = measuring.why_no_gpu(arguments.torch_python)
    if arguments.device == "gpu":
        if why:
            raise sides.SideError(f"--device gpu: {why}")
        return ["gpu"], ""
    return (["cpu"], why) if why else (["cpu", "gpu"], "")


def measure_all(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[str], str]:
    """(results, names of what was left out, versions)."""
    began, results, left_out = time.monotonic(), [], []
    devices, why = with_gpu(arguments)
    wanted = [(device, settings) for device in devices for settings in measurements(arguments)]
    for device, settings in wanted:
        name = jobs.name_of(settings, device)
        if device == "gpu" and not jobs.JOBS[settings["job"]].network:
            continue
        if arguments.minutes and time.monotonic() - began > 60 * arguments.minutes:
            left_out.append(f"{name} (out of time)")
            continue
        with tempfile.TemporaryDirectory() as folder:
            results.append({"name": name, **measuring.measure(run_of(arguments, settings, device, folder))})
        if len(results) == 1:
            print(f"\n{results[0]['versions']}\nthreads: {results[0]['threads']}; seed {settings['seed']}")
        shown(results[-1])
    networks = [each["job"] for each in measurements(arguments) if jobs.JOBS[each["job"]].network]
    left_out += [f"{job} gpu ({why})" for job in networks if why]
    return results, list(dict.fromkeys(left_out)), results[0]["versions"] if results else ""


def run_of(arguments: argparse.Namespace, settings: dict[str, Any], device: str, folder: str) -> measuring.Run:
    """How a measurement is made."""
    return measuring.Run(
        settings,
        device,
        forms=arguments.forms or (list(jobs.BENCH_FORMS) if arguments.bench else None),
        cycles=arguments.cycles or (1 if arguments.tiny else 3 if arguments.bench else 5),
        turn_seconds=arguments.turn_seconds,
        limit=arguments.limit or (40 if arguments.bench else 300),
        torch_python=arguments.torch_python,
        folder=folder,
    )


def main(given: list[str] | None = None) -> int:
    """Measures, prints, and writes; exit code: 0, 1 for a regression, 2 for what cannot be measured."""
    arguments = parse(given)
    # As `make` sets it for train.py; for both sides alike.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    try:
        machine = tables.facts(started=time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()))
        results, left_out, versions = measure_all(arguments)
        summary(results, left_out)
        if arguments.tiny:
            print("\nEverything ran and agreed. The times of --tiny mean nothing.")
        if arguments.json:
            with open(arguments.json, "w") as file:
                json.dump({"machine": machine, "results": results, "left out": left_out}, file, indent=1)
        ratios = {result["name"]: result["ratio"] for result in results}
        if arguments.record and any(map(is_disturbed, results)):
            raise sides.SideError("nothing is recorded: other work disturbed the measurements (see DISTURBED above).")
        if arguments.record:
            recorded.write(machine["cpu"], versions, ratios)
        elif arguments.bench and not arguments.tiny:
            return recorded.compare(machine["cpu"], ratios)
    except (sides.SideError, OSError) as error:
        if arguments.verbose and getattr(error, "details", ""):
            print(error.details, file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
