"""Time, memory and quality of reconstruction from phi, against the published algorithm in PyTorch (`published.py`).

    python -m venv /tmp/torch && /tmp/torch/bin/pip install -r benchmarks/requirements.txt
    python benchmarks/reconstruction.py --torch-python /tmp/torch/bin/python --width 64
    python benchmarks/reconstruction.py --torch-python /tmp/torch/bin/python --ckpt pretrained/photo16 \
        --variant-levels 20 --variant-matching-steps 30 --full jax

0. Agreement: with the same weights, images and targets both give the same images, phi, losses, gradients and matched images, within
   `BOUNDS`, or nothing is timed.
1. The same algorithm with the same number of steps: one matching step, and the whole reconstruction, of which --levels-timed levels
   are timed and the rest extrapolated (each level does the same work if it makes as many steps, which is printed).
2. With --variant-...: our own choice of settings, run in full, against the published ones: time, and with --full quality.

Both use all cores, in turns and never at once: ours, theirs, ours, theirs, ... A ratio is of two measurements next to each other,
ours / theirs: median (lower to upper quartile). PyTorch runs eagerly, as published, and in the forms that may be faster; the whole
reconstruction is compared with the fastest of these and with the eager one. On CPU, on a machine that does nothing else.
"""

import argparse
import os
import resource
import sys
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import serving
import sides
import tables
from reconstruction_problem import SIGMA_END, Problem, matching_problem, open_problem, our_match, over_devices
from reconstruction_quality import compare_variant
from reconstruction_timing import Ask, compare_steps, compare_wholes, prepare
from tables import show

from unetrep_jax import devices, models, reconstruction
from unetrep_jax.storage import InputError, write_json

BOUNDS = {  # largest permitted difference
    "image": 1e-4,
    "phi": 1e-4,
    "loss": 1e-3,
    "gradient": 1e-2,  # float32 gradients of phi differ from float64 by up to 2e-3: they pass many ReLUs
    "gradient's sign": 1e-2,  # share of pixels
    "matched losses": 1e-3,
    "matched images": 5e-2,  # Adam's first step is as large for a gradient of 1e-7 as for one of 1, and takes its sign
}
AGREEMENT_STEPS = 4


def machine(problem: Problem, worker: dict[str, str]) -> dict[str, str]:
    """What is measured, and with what."""
    versions = {"jax": jax.__version__, "jaxlib": jaxlib.__version__, "numpy": np.__version__}
    return {
        "ours": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "theirs": ", ".join(f"{name} {worker[name]}" for name in ("python", "torch", "numpy")),
        # XLA's pool has a thread more for each virtual device, which waits and computes nothing.
        "threads": f"ours {serving.cores()} ({jax.local_device_count()} virtual devices), theirs {worker['threads']}",
        "network": f"width {problem.model.channels[0]}, {models.count_params(problem.params):,} parameters",
        "targets": "{} of {}x{}x{}".format(*problem.targets.shape),
    }


def relative(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Largest difference over largest magnitude."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def root_mean_square(x: np.ndarray) -> float:
    """Over everything."""
    return float(np.sqrt(np.mean(np.square(x))))


def first_step(denoiser, _, images, targets):
    """Denoised images, phi, losses, and each image's gradient."""

    def losses_of(images):
        losses = jnp.mean((denoiser.represent(images) - targets) ** 2, axis=1)
        return losses.sum(), losses

    (_, losses), gradient = jax.value_and_grad(losses_of, has_aux=True)(images)
    return {"image": denoiser.denoise(images), "phi": denoiser.represent(images), "loss": losses, "gradient": gradient}


def agreement(problem: Problem, ask: Ask, forms: list[str]) -> list[dict[str, Any]]:
    """Differences between ours and PyTorch's, from the same weights, images and targets. Raises InputError beyond `BOUNDS`."""
    images, targets = matching_problem(problem)
    ours = over_devices(problem, first_step)(images, targets)
    theirs = ask("first_step", images=images, targets=targets)
    theirs["gradient"] *= len(images)  # theirs is of the mean over the images
    found = [("eager", name, relative(ours[name], theirs[name])) for name in ("image", "phi", "loss", "gradient")]
    signs = float(np.mean(np.sign(ours["gradient"]) != np.sign(theirs["gradient"])))
    found.append(("eager", "gradient's sign", signs))
    matched = our_match(problem, AGREEMENT_STEPS)(images, targets)
    for form in forms:
        other = ask("match", form=form, images=images, targets=targets, max_steps=AGREEMENT_STEPS)
        found.append((form, "matched losses", relative(matched.losses / other["losses"], np.ones_like(matched.losses))))
        moved = root_mean_square(other["images"] - images)
        found.append((form, "matched images", root_mean_square(matched.images - other["images"]) / moved))
    rows = [{"form": form, "of": name, "difference": value, "bound": BOUNDS[name]} for form, name, value in found]
    show(f"0. Agreement (relative differences; {AGREEMENT_STEPS} matching steps)", rows)
    if wrong := [row for row in rows if not row["difference"] <= row["bound"]]:
        raise InputError(
            f"the two do not agree on {wrong[0]['of']} ({wrong[0]['form']}): {wrong[0]['difference']:.2g} is above "
            f"{wrong[0]['bound']:g}; nothing was timed."
        )
    return rows


def positive(text: str) -> int:
    """A whole number, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of 1 or more")
    return int(text)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    network = parser.add_mutually_exclusive_group()
    network.add_argument("--ckpt", default="", help="a trained network")
    network.add_argument("--width", type=positive, default=64, help="of the published network, with random weights")
    parser.add_argument("--torch-python", default=sys.executable, help="a Python that has PyTorch")
    parser.add_argument("--images", default="photographs", help="folder, .npy file, or photographs: the bundled ones")
    parser.add_argument("--image-size", type=int, default=64, help="pixels")
    parser.add_argument("--targets", type=positive, default=8, help="images to reconstruct, all at once")
    parser.add_argument("--others", type=positive, default=100, help="other images, whose mean phi is subtracted")
    parser.add_argument("--levels", type=positive, default=100, help="of the published schedule")
    parser.add_argument("--levels-timed", type=positive, default=2, help="how many of them run")
    parser.add_argument("--matching-steps", type=positive, default=100, help="most steps of a matching")
    parser.add_argument("--tolerance", type=float, default=0.01, help="share of the first loss that ends a matching")
    parser.add_argument("--steps-timed", type=positive, default=10, help="steps over which one matching step is timed")
    parser.add_argument("--repeats", type=positive, default=3, help="of each measurement")
    parser.add_argument("--variant-levels", type=int, default=0, help="0 leaves our variant out")
    parser.add_argument("--variant-spacing", choices=("linear", "log"), default="linear", help="of its levels")
    parser.add_argument("--variant-sigma-end", type=float, default=SIGMA_END, help="its last level")
    parser.add_argument("--variant-matching-steps", type=positive, default=30)
    parser.add_argument("--variant-epsilon", type=float, default=reconstruction.EPSILON)
    parser.add_argument("--variant-learning-rate", type=float, default=reconstruction.LEARNING_RATE)
    parser.add_argument("--variant-draws", type=positive, default=reconstruction.PUBLISHED.draws)
    parser.add_argument("--variant-repeats", type=positive, default=1)
    parser.add_argument(
        "--full", nargs="?", const="torch", choices=("torch", "jax"), help="compare quality: run both in full"
    )
    parser.add_argument("--json", default="", help="file for all numbers")
    arguments = parser.parse_args(given)
    if arguments.full and not arguments.variant_levels:
        parser.error("--full compares the variant's quality: say --variant-levels")
    if arguments.variant_levels == 1:
        parser.error("--variant-levels must be 2 or more, or 0 for no variant")
    return arguments


def compare(arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements."""
    worker = sides.theirs("PyTorch", arguments.torch_python, "published.py")
    try:
        return compare_with(worker.ask, arguments)
    finally:
        worker.close()


def compare_with(ask: Ask, arguments: argparse.Namespace) -> dict[str, Any]:
    """All measurements, with PyTorch's process."""
    devices.start(cpu_devices=2)
    problem = open_problem(arguments)
    worker = ask("load", params=problem.params, threads=serving.cores())
    results = {"arguments": vars(arguments), "machine": tables.facts(**machine(problem, worker))}
    forms, results["forms"] = prepare(problem, ask)
    results["agreement"] = agreement(problem, ask, forms)
    fastest, results["step"] = compare_steps(problem, ask, forms, arguments)
    results["whole"] = compare_wholes(problem, ask, fastest, arguments)
    ours = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    peaks = {"ours": ours, "theirs, eager": results["forms"][0]["peak_mb"], "theirs, all forms": ask("peak_mb")}
    memory = [{"": name, "MB": peak} for name, peak in peaks.items()]
    results["memory"] = show("Peak resident memory of each process", memory)
    if arguments.variant_levels:
        results["variant"] = compare_variant(problem, ask, fastest, arguments)
    return results


def main(given: list[str] | None = None) -> int:
    """Measures, prints, and writes; returns the exit code."""
    arguments = parse(given)
    try:
        results = compare(arguments)
        if arguments.json:
            write_json(arguments.json, results)
    except (InputError, sides.SideError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
