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
ours / theirs: median (smallest to largest). PyTorch runs eagerly, as published, and in the forms that may be faster; the whole
reconstruction is compared with the fastest of these and with the eager one. On CPU, on a machine that does nothing else.
"""

import argparse
import contextlib
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import optax

from unetrep_jax import checkpoints, data, denoiser, devices, models, reconstruction
from unetrep_jax.storage import InputError, write_json

SIGMA_0, SIGMA_END = 1.0, 0.03
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
WORKING_SIGMA, WORKING_DRAWS, REFERENCE_DRAWS = 100 / 255, 20, 64
MEASURES = {"match loss": -1, "cosine": 1, "centred cosine": 1, "noise level": -1}  # -1: lower is better
JUDGED = ("match loss", "cosine", "noise level")

Ask = Callable[..., Any]


class Problem(NamedTuple):
    """What both sides work on.

    Attributes:
      model, params: the network; host arrays.
      constants: (params, mean image), on every device.
      targets, others: images in [0, 1]; the others only centre phi.
      keys: data of one random key for each target.
      mean: constant image of the mean colour.
    """

    model: models.UNet
    params: Any
    constants: Any
    targets: np.ndarray
    others: np.ndarray
    keys: np.ndarray
    mean: np.ndarray


def over_devices(problem: Problem, step: Callable) -> Callable:
    """`step(denoiser, mean, *rows) -> rows` as one program over the devices, for as many rows as there are targets."""

    def bound(constants, rows):
        params, mean = constants
        return step(denoiser.bind(problem.model, params), mean, *rows)

    call = devices.parallel_map(bound, len(problem.targets))
    return lambda *rows: call(problem.constants, rows)


# The network, the images, and the two sides.


@contextlib.contextmanager
def torch_worker(python: str) -> Iterator[Ask]:
    """Starts `published.py` in another environment; yields `ask(method, **arguments)`."""
    here, there = Pipe()
    command = [python, str(Path(__file__).with_name("published.py")), str(there.fileno())]
    try:
        process = subprocess.Popen(command, pass_fds=[there.fileno()])
    except OSError as error:
        raise InputError(f"--torch-python {python}: {error.strerror}; give a Python that has PyTorch.") from error
    there.close()

    def ask(method, **arguments):
        try:
            here.send((method, arguments))
            return here.recv()
        except (EOFError, ConnectionError):
            raise InputError(
                f"{python} ended (see above); it needs what benchmarks/requirements.txt lists: name another by --torch-python."
            ) from None

    try:
        yield ask
    finally:
        here.close()
        process.wait()


def open_network(arguments: argparse.Namespace) -> tuple[models.UNet, Any]:
    """The checkpoint's network, or the published one of some width with random weights."""
    if not arguments.ckpt:
        model = models.UNet(channels=tuple(arguments.width * 2**j for j in range(4)))
        return model, models.init_params(model, jax.random.key(0))
    opened = checkpoints.open_checkpoint(arguments.ckpt)
    model = models.build(**opened.config["model"], image_channels=opened.config["data"]["image_channels"])
    if (model.norm, model.bias, model.dtype) != ("layer", True, "float32"):
        raise InputError(
            f"{arguments.ckpt} has norm={model.norm}, bias={model.bias}, dtype={model.dtype}; the published network, to which it "
            "would be compared, has layer, True, float32."
        )
    return model, opened.params


def open_problem(arguments: argparse.Namespace) -> Problem:
    """Targets and other images spread evenly over the set, and the network."""
    model, params = open_network(arguments)
    form = {"image_size": arguments.image_size, "image_channels": model.image_channels, "stride": model.stride}
    images = data.open_images(arguments.images, **form).images
    count = arguments.targets
    if len(images) < count + 2:
        raise InputError(f"--images has {len(images)} images; {count} targets and 2 others or more are needed.")
    chosen = np.linspace(0, len(images) - 1, min(len(images), count + arguments.others)).astype(int)
    is_target = np.isin(np.arange(len(chosen)), np.linspace(0, len(chosen) - 1, count).astype(int))
    chosen_images = np.asarray(images[chosen], np.float32) / 255
    mean = np.broadcast_to(chosen_images.mean(axis=(0, 1, 2)), chosen_images.shape[1:]).copy()
    params = jax.tree.map(np.asarray, params)
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(0), count)))
    constants = devices.replicate((params, mean), local=True)
    return Problem(model, params, constants, chosen_images[is_target], chosen_images[~is_target], keys, mean)


def published_epsilon(problem: Problem) -> float:
    """Adam's epsilon for an image's own gradient: the published one is of the mean loss over the batch, n times smaller."""
    return len(problem.targets) * reconstruction.EPSILON


def published_settings(problem: Problem, levels: np.ndarray, arguments: argparse.Namespace) -> reconstruction.Schedule:
    """The published algorithm, on some of its levels."""
    return reconstruction.Schedule(
        sigmas=tuple(levels.tolist()),
        matching_steps=arguments.matching_steps,
        tolerance=arguments.tolerance,
        freeze=False,
        epsilon=published_epsilon(problem),
    )


def our_match(problem: Problem, max_steps: int) -> Callable:
    """(images, targets) -> Matched, by the published algorithm with exactly `max_steps`."""
    optimizer = optax.adam(reconstruction.LEARNING_RATE, eps=published_epsilon(problem))

    def step(denoiser, _, images, targets):
        settings = {"optimizer": optimizer, "max_steps": max_steps, "tolerance": 0.0, "freeze": False}
        return reconstruction.match(denoiser.represent, images, targets, **settings)

    return over_devices(problem, step)


def compiled(problem: Problem, step: Callable) -> Callable:
    """() -> `step(denoiser, mean, targets, keys)`, after a first call that compiles it and costs one level: NaN ends it there."""
    call = over_devices(
        problem, lambda denoiser, mean, targets, keys: step(denoiser, mean, targets, jax.random.wrap_key_data(keys))
    )
    call(np.full_like(problem.targets, np.nan), problem.keys)
    return lambda: call(problem.targets, problem.keys)


def our_reconstruction(problem: Problem, settings: reconstruction.Schedule) -> Callable:
    """() -> Reconstruction of the targets, as a stage of the analysis runs it."""

    def step(denoiser, mean, targets, keys):
        return reconstruction.reconstruct(denoiser, targets, keys, mean=mean, settings=settings)

    return compiled(problem, step)


def our_reconstruction_with_match(problem: Problem, settings: reconstruction.Schedule) -> Callable:
    """() -> {"images", "matched"}: `our_reconstruction`, and its images as the last matching left them; the same work."""

    def step(denoiser, mean, targets, keys):
        state, conditioner = reconstruction.begin(mean, keys, settings), reconstruction.Conditioner(images=targets)
        for steps, denoise in ((len(settings.sigmas) - 1, denoiser.denoise), (1, lambda y: y)):
            part = denoiser._replace(denoise=denoise)
            state, _ = reconstruction.advance(part, conditioner, state, settings=settings, steps=steps)
        return {"images": denoiser.denoise(state.images), "matched": state.images}

    return compiled(problem, step)


# Measuring and printing.


def timed(function: Callable, *arguments: Any) -> dict[str, Any]:
    """{"seconds", "result"} of one call; results arrive as host arrays, so nothing is left running."""
    start = time.perf_counter()
    result = function(*arguments)
    return {"seconds": time.perf_counter() - start, "result": result}


def in_turns(ours: Callable[[], dict], theirs: dict[str, Callable[[], dict]], repeats: int) -> dict[str, list[tuple]]:
    """Pairs (ours, theirs) for each of theirs, one right after the other: ours, a, ours, b, ours, a, ours, b, ..."""
    pairs: dict[str, list[tuple]] = {name: [] for name in theirs}
    for _ in range(repeats):
        for name, measure in theirs.items():
            pairs[name].append((ours(), measure()))
    return pairs


def spread(values: list[float]) -> dict[str, float]:
    """Median and range."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def table_of(
    pairs: dict[str, list[tuple]], unit: str, scale: float, our_scale: float | None = None
) -> list[dict[str, Any]]:
    """A row for each of theirs: both times in some unit, which are seconds times a scale, and the ratio of each pair."""
    rows = []
    for name, each in pairs.items():
        ours = [(scale if our_scale is None else our_scale) * a["seconds"] for a, _ in each]
        theirs = [scale * b["seconds"] for _, b in each]
        ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
        rows.append(
            {"theirs": name, f"ours, {unit}": spread(ours), f"theirs, {unit}": spread(theirs), "ratio": spread(ratios)}
        )
    return rows


def text(value: Any) -> str:
    """A table's cell."""
    if isinstance(value, dict):
        return f"{value['median']:.3g} ({value['min']:.3g} to {value['max']:.3g})"
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def show(title: str, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Prints dictionaries with the same keys as a table, and returns them."""
    cells = [list(rows[0]), *([text(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{title}")
    for row in cells:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip(), flush=True)
    return rows


def machine(problem: Problem, worker: dict[str, str]) -> dict[str, str]:
    """What is measured, on what, and with what."""
    cores = len(os.sched_getaffinity(0))
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    versions = {"python": platform.python_version(), "jax": jax.__version__, "jaxlib": jaxlib.__version__}
    return {
        "cpu": f"{names[0].partition(': ')[2] if names else platform.processor()}, {cores} cores",
        "load": ", ".join(f"{load:.1f}" for load in os.getloadavg()),
        "ours": ", ".join(f"{name} {version}" for name, version in (versions | {"numpy": np.__version__}).items()),
        "theirs": ", ".join(f"{name} {worker[name]}" for name in ("python", "torch", "numpy")),
        # XLA's pool has a thread more for each virtual device, which waits and computes nothing.
        "threads": f"ours {cores} ({jax.local_device_count()} virtual devices), theirs {worker['threads']}",
        "network": f"width {problem.model.channels[0]}, {models.count_params(problem.params):,} parameters",
        "targets": "{} of {}x{}x{}".format(*problem.targets.shape),
        "GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", ""),
    }


# 0. Agreement.


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


def matching_problem(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Noise around the mean image, and phi of the noisy targets, at half the highest level."""
    noise = np.random.default_rng(0).standard_normal((2, *problem.targets.shape), np.float32) * np.float32(SIGMA_0 / 2)
    phi = over_devices(problem, lambda denoiser, _, images: denoiser.represent(images))(problem.targets + noise[0])
    return problem.mean + noise[1], phi


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


# 1. The same algorithm.


def prepare(problem: Problem, ask: Ask) -> tuple[list[str], list[dict[str, Any]]]:
    """PyTorch's forms that run here, the published one first; each is compiled."""
    rows = [{"form": form, **ask("prepare", form=form, images=problem.targets)} for form in ask("forms")]
    usable = [row["form"] for row in rows if not row["failure"]]
    shown = [
        {"form": row["form"], "first call, s": row["seconds"], "failure": row["failure"] or "none"} for row in rows
    ]
    show("PyTorch's forms", shown)
    return usable, rows


def compare_steps(
    problem: Problem, ask: Ask, forms: list[str], arguments: argparse.Namespace
) -> tuple[str, list[dict]]:
    """(PyTorch's fastest form, a table of the time of a matching step in each)."""
    steps, repeats = min(arguments.steps_timed, arguments.matching_steps), arguments.repeats
    images, targets = matching_problem(problem)
    run = our_match(problem, steps)
    run(images, targets)

    def theirs(form, decoder=True):
        return lambda: ask("match", form=form, images=images, targets=targets, max_steps=steps, decoder=decoder)

    def measure(others):
        pairs = in_turns(lambda: timed(run, images, targets), others, repeats)
        return table_of(pairs, "ms a step and image", 1000 / steps / len(images))

    rows = measure({form: theirs(form) for form in forms})
    fastest = min(rows, key=lambda row: row["theirs, ms a step and image"]["median"])["theirs"]
    theirs(fastest, decoder=False)()
    rows += measure({f"{fastest}, without the decoder": theirs(fastest, decoder=False)})
    show(f"1a. A matching step ({repeats} runs of {steps} steps on {len(images)} images)", rows)
    return fastest, rows


def theirs_timed(problem: Problem, ask: Ask, form: str, levels: np.ndarray, arguments: argparse.Namespace) -> Callable:
    """() -> the published reconstruction in PyTorch, on some of its levels, timed there."""
    given = {"conditioners": problem.targets, "mean": problem.mean, "sigmas": levels.tolist()}
    settings = {"max_steps": arguments.matching_steps, "tolerance": arguments.tolerance}
    settings |= {"draws": reconstruction.PUBLISHED.draws, "seed": 0}
    return lambda: ask("reconstruct", form=form, **given, **settings)


def schedule_of(arguments: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """All levels of the published schedule, and those that are timed: the first, and on evenly to the last."""
    levels = np.linspace(SIGMA_0, SIGMA_END, arguments.levels)
    return levels, levels[np.linspace(0, len(levels) - 1, min(len(levels), arguments.levels_timed)).astype(int)]


def compare_wholes(problem: Problem, ask: Ask, fastest: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A table of the time of the published reconstruction, extrapolated from the timed levels."""
    levels, chosen = schedule_of(arguments)
    run = our_reconstruction(problem, published_settings(problem, chosen, arguments))
    forms = dict.fromkeys((fastest, "eager"))
    measures = {form: theirs_timed(problem, ask, form, chosen, arguments) for form in forms}
    pairs = in_turns(lambda: timed(run), measures, arguments.repeats)
    rows, same = table_of(pairs, "s an image", len(levels) / len(chosen) / len(problem.targets)), True
    for row in rows:
        ours, theirs = pairs[row["theirs"]][0]
        made = ours["result"].log.updates.max(axis=0).tolist(), theirs["steps"]
        row["ratio a step"] = row["ratio"]["median"] * sum(made[1]) / sum(made[0])
        row["steps at the timed levels"] = " / ".join(" ".join(map(str, steps)) for steps in made)
        same = same and made[0] == made[1]
    show(
        f"1b. The published reconstruction, {len(levels)} levels of {arguments.matching_steps} matching steps at most; "
        f"{len(chosen)} of them timed (sigma = {', '.join(f'{sigma:.3g}' for sigma in chosen)}), the others extrapolated",
        rows,
    )
    message = "the same" if same else "NOT THE SAME: the ratio compares different work. --tolerance 0 makes them so"
    print(f"  The steps are {message}.")
    return rows


# 2. Our fastest variant.


def variant_settings(arguments: argparse.Namespace) -> reconstruction.Schedule:
    """The settings of --variant-..."""
    levels = {"linear": np.linspace, "log": np.geomspace}[arguments.variant_spacing]
    settings = reconstruction.Schedule(
        sigmas=tuple(levels(SIGMA_0, arguments.variant_sigma_end, arguments.variant_levels).tolist()),
        matching_steps=arguments.variant_matching_steps,
        epsilon=arguments.variant_epsilon,
        learning_rate=arguments.variant_learning_rate,
        draws=arguments.variant_draws,
        freeze=True,
    )
    reconstruction.check(settings)
    return settings


def noisy_phi(problem: Problem, images: np.ndarray, sigma: float, draws: int) -> np.ndarray:
    """phi of images at a noise level, the mean over noise draws; the noise depends on an image's place alone."""
    settings = reconstruction.Schedule(draws=draws)

    def step(denoiser, mean, images, keys):
        state = reconstruction.begin(mean, jax.random.wrap_key_data(keys), settings)
        level = jnp.full(len(images), sigma, jnp.float32)
        return reconstruction.target_phi(denoiser, reconstruction.Conditioner(images=images), state, level, settings)

    call, size = over_devices(problem, step), len(problem.targets)
    keys = np.asarray(jax.random.key_data(jax.random.split(jax.random.key(1), len(images))))
    return np.concatenate([call(images[i : i + size], keys[i : i + size]) for i in range(0, len(images), size)])


class Reference(NamedTuple):
    """phi of the targets at the last level and at the working level; mean phi of other images at the working level."""

    last: np.ndarray
    working: np.ndarray
    mean: np.ndarray


def reference_phi(problem: Problem) -> Reference:
    """What every result is compared to."""
    last = noisy_phi(problem, problem.targets, SIGMA_END, REFERENCE_DRAWS)
    working = [noisy_phi(problem, images, WORKING_SIGMA, WORKING_DRAWS) for images in (problem.targets, problem.others)]
    return Reference(last, working[0], working[1].mean(axis=0))


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of a to that of b."""
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def quality(problem: Problem, reference: Reference, made: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """`MEASURES` of each reconstruction, from its image and from what the last matching left."""

    def last_level(denoiser, _, matched):
        return denoiser.represent(matched), denoiser.denoise(matched) - matched

    phi, residual = over_devices(problem, last_level)(made["matched"])
    working = noisy_phi(problem, made["images"], WORKING_SIGMA, WORKING_DRAWS)
    return {
        "match loss": np.mean((phi - reference.last) ** 2, axis=1),
        "cosine": cosines(working, reference.working),
        "centred cosine": cosines(working - reference.mean, reference.working - reference.mean),
        "noise level": np.sqrt(np.mean(residual**2, axis=(1, 2, 3))),
    }


def compare_quality(variant: dict[str, np.ndarray], published: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """A table of both, image by image; the last row is the mean over the images."""
    no_worse = {name: sign * variant[name] >= sign * published[name] for name, sign in MEASURES.items()}

    def cell(name, at):
        a, b = variant[name][at].mean(), published[name][at].mean()
        return f"{a:.6g} / {b:.6g} {'yes' if MEASURES[name] * a >= MEASURES[name] * b else 'NO'}"

    count = len(variant["cosine"])
    rows = [{"image": str(i)} | {name: cell(name, [i]) for name in MEASURES} for i in range(count)]
    rows.append({"image": "mean"} | {name: cell(name, slice(None)) for name in MEASURES})
    show("2b. variant / published, and whether the variant is no worse", rows)
    judged = np.all([no_worse[name] for name in JUDGED], axis=0)
    print(f"  No worse in {', '.join(JUDGED)}: {judged.sum()} of {count} images.")
    return rows


def compare_variant(problem: Problem, ask: Ask, fastest: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Tables of the variant's time and quality, against the published reconstruction."""
    settings, count = variant_settings(arguments), len(problem.targets)
    levels, chosen = schedule_of(arguments)
    run = our_reconstruction_with_match(problem, settings)
    theirs = theirs_timed(problem, ask, fastest, chosen, arguments)
    pairs = in_turns(lambda: timed(run), {fastest: theirs}, arguments.variant_repeats)
    rows = table_of(pairs, "s an image", len(levels) / len(chosen) / count, 1 / count)
    show(f"2a. Our variant, in full, and the published reconstruction, extrapolated from {len(chosen)} levels", rows)
    reference = reference_phi(problem)
    found = {"variant": quality(problem, reference, pairs[fastest][-1][0]["result"])}
    if not arguments.full:
        images = [{"image": str(i)} | {name: found["variant"][name][i] for name in MEASURES} for i in range(count)]
        show("2b. The variant (--full compares it with the published reconstruction)", images)
        return {"settings": settings._asdict(), "time": rows, "quality": found}
    print(f"\n  The published reconstruction runs in full, in {arguments.full} ...", flush=True)
    if arguments.full == "torch":
        published = theirs_timed(problem, ask, fastest, levels, arguments)()
    else:
        published = timed(our_reconstruction_with_match(problem, published_settings(problem, levels, arguments)))
    print(f"  It took {published['seconds'] / count:.1f} s an image.")
    found["published"] = quality(problem, reference, published.get("result", published))
    compare_quality(found["variant"], found["published"])
    return {"settings": settings._asdict(), "time": rows, "full": published["seconds"], "quality": found}


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
    with torch_worker(arguments.torch_python) as ask:
        devices.start(cpu_devices=2)
        problem = open_problem(arguments)
        worker = ask("load", params=problem.params, threads=len(os.sched_getaffinity(0)))
        results = {"arguments": vars(arguments), "machine": machine(problem, worker)}
        for name, value in results["machine"].items():
            print(f"{name:15s}{value}")
        if os.getloadavg()[0] > 1:
            print("The machine is busy: the times below mean little, PyTorch's least of all.")
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
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
