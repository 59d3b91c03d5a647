"""Start-up: how long imports take, how soon train.py has made its first step, and analyze.py has shown a figure that is there.

    python benchmarks/startup.py [--repeats 3] [--only imports first-step analysis]

First step: `train.py --config configs/demo.py` with a line of log for every step, from the start of the process to the line of
step 1; cold, with no compiled program and no decoded image in the caches, and warm, in another run folder with the same caches
(goal: warm under 20 s). Cached figure: `analyze.py --only STAGE` on pretrained/photo24 when the stage is up to date. Each process
is new; caches and runs are in a temporary folder. Which imports take long: python -X importtime -c "import ...".
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tables

ROOT = Path(__file__).resolve().parents[1]
IMPORTS = {
    "numpy": "import numpy",
    "jax": "import jax",
    "flax": "import flax.linen",
    "optax": "import optax",
    "what train.py imports": "from unetrep_jax import checkpoints, data, devices, models, noise, training",
    "what analyze.py imports": "from unetrep_jax import checkpoints, data, denoiser, devices, models, stages",
}
GOAL, ALL = 20.0, ["imports", "first-step", "analysis"]


def environment() -> dict[str, str]:
    """CPU alone; no compilation cache but the scripts' own; this project's package."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_COMPILATION_CACHE")}
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    return kept | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}


def seconds(command: list[str]) -> float:
    """Of a whole process."""
    start = time.perf_counter()
    subprocess.run(command, cwd=ROOT, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def import_table(repeats: int) -> list[dict[str, Any]]:
    """Seconds of a process that imports and ends, less those of one that imports nothing."""
    empty, rows = min(seconds([sys.executable, "-c", "pass"]) for _ in range(repeats)), []
    for name, code in IMPORTS.items():
        each = [seconds([sys.executable, "-c", code]) - empty for _ in range(repeats)]
        rows.append({"imported": name, "s": tables.spread(each)})
    return rows


def caches(folder: Path) -> list[str]:
    """Settings that keep compiled programs and decoded images in a folder."""
    return [f"--config.devices.compilation_cache={folder / 'compiled'}", f"--config.data.cache_dir={folder / 'images'}"]


def first_step(folder: Path, run: str, kept: str) -> float:
    """Seconds until train.py reports step 1 of the demo; it is ended then."""
    command = [sys.executable, "train.py", "--config", "configs/demo.py", "--workdir", str(folder / run)]
    command += ["--config.log.every=1", *caches(folder / kept)]
    start = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("step 1/"):
                found = time.perf_counter() - start
                process.kill()
                return found
    raise SystemExit(f"error: train.py ended with code {process.returncode} before its first step (see above)")


def first_step_table(repeats: int, folder: Path) -> list[dict[str, Any]]:
    """Cold and warm."""
    cold = [first_step(folder, f"cold{i}", f"caches{i}") for i in range(repeats)]
    warm = [first_step(folder, f"warm{i}", "caches0") for i in range(repeats)]
    programs = sum(path.is_file() for path in (folder / "caches0" / "compiled").rglob("*-cache"))
    rows = [{"caches": "cold", "s": tables.spread(cold), "goal": "none"}]
    met = "met" if tables.spread(warm)["median"] < GOAL else "MISSED"
    rows.append({"caches": f"warm ({programs} programs kept)", "s": tables.spread(warm), "goal": f"{GOAL:g} {met}"})
    return rows


def analysis_table(repeats: int, folder: Path, stage: str) -> list[dict[str, Any]]:
    """analyze.py --only STAGE: when it has to be made, and when it is there."""
    command = [sys.executable, "analyze.py", "--ckpt", "pretrained/photo24", "--images", "photographs", "--only", stage]
    command += ["--outdir", str(folder / "analysis"), *caches(folder)]
    made = seconds(command)
    again = [seconds(command) for _ in range(repeats)]
    return [{stage: "made", "s": tables.spread([made])}, {stage: "there already", "s": tables.spread(again)}]


def main(given: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=ALL, default=ALL)
    parser.add_argument("--repeats", type=int, default=3, help="of each process")
    parser.add_argument("--stage", default="architecture", help="of the analysis")
    arguments = parser.parse_args(given)
    tables.facts(python=sys.version.split()[0])
    if "imports" in arguments.only:
        tables.show("Imports, files of the packages in the system's cache", import_table(arguments.repeats))
    with tempfile.TemporaryDirectory() as folder:
        if "first-step" in arguments.only:
            tables.show("First step of the demo", first_step_table(arguments.repeats, Path(folder)))
        if "analysis" in arguments.only:
            tables.show("A cached figure", analysis_table(arguments.repeats, Path(folder), arguments.stage))


if __name__ == "__main__":
    main()
