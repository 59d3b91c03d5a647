"""Quality of reconstructions from phi: settings of our own against the published ones, both made by this program.

    python benchmarks/quality.py --ckpt pretrained/photo24 --images photographs --variant-levels 20 --variant-matching-steps 30

How long a reconstruction takes beside PyTorch, `compare.py --job reconstruction` says; here each runs once, in full. Of each image:
the loss that the last matching left, against phi of the target at the last level (mean of 64 draws); the cosine of phi of the
result with that of the target at 100/255 (20 draws), as it is and after the mean phi of other images is taken away; the noise level
that the denoiser sees in the last matched image.
"""

import argparse
import functools
import sys
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jobs
import numpy as np
import ours
import tables

from unetrep_jax import data, denoiser, devices, reconstruction
from unetrep_jax.storage import InputError

SIGMA_0, SIGMA_END, WORKING_SIGMA = 1.0, 0.03, 100 / 255
WORKING_DRAWS, REFERENCE_DRAWS = 20, 64
MEASURES = {"match loss": -1, "cosine": 1, "centred cosine": 1, "noise level": -1}  # -1: lower is better
JUDGED = ("match loss", "cosine", "noise level")


class Problem(NamedTuple):
    """The network; (params, mean image) on the devices; targets, and other images, which only centre phi, in [0, 1]."""

    model: Any
    constants: Any
    targets: np.ndarray
    others: np.ndarray

    def over_devices(self, step):
        """`step(denoiser, mean, *rows) -> rows` as one program over the devices, for as many rows as there are targets."""

        def bound(constants, rows):
            return step(denoiser.bind(self.model, constants[0]), constants[1], *rows)

        call = devices.parallel_map(bound, len(self.targets))
        return lambda *rows: call(self.constants, rows)


def open_problem(arguments: argparse.Namespace) -> Problem:
    """Targets and other images spread evenly over the set, the mean image of the mean colour, and the network."""
    settings = jobs.settings_of("reconstruction", {"ckpt": arguments.ckpt, "width": arguments.width})
    model, params = ours.open_network(settings)
    form = {"image_size": arguments.image_size, "image_channels": model.image_channels, "stride": model.stride}
    images, count = data.open_images(arguments.images, **form).images, arguments.targets
    if len(images) < count + 2:
        raise InputError(f"--images has {len(images)} images; {count} targets and 2 others or more are needed.")
    chosen = np.linspace(0, len(images) - 1, min(len(images), count + arguments.others)).astype(int)
    is_target = np.isin(np.arange(len(chosen)), np.linspace(0, len(chosen) - 1, count).astype(int))
    chosen = np.asarray(images[chosen], np.float32) / 255
    mean = np.broadcast_to(chosen.mean(axis=(0, 1, 2)), chosen.shape[1:]).copy()
    return Problem(model, devices.replicate((params, mean), local=True), chosen[is_target], chosen[~is_target])


def keys_of(count: int, seed: int) -> np.ndarray:
    """Data of one random key for each image."""
    return np.asarray(jax.random.key_data(jax.random.split(jax.random.key(seed), count)))


def made(problem: Problem, settings: reconstruction.Schedule) -> dict[str, Any]:
    """{"images", "matched", "seconds"}: the targets' reconstructions, the images as the last matching left them, and the time."""

    def step(denoise_and_represent, mean, targets, keys):
        keys = jax.random.wrap_key_data(keys)
        state, conditioner = reconstruction.begin(mean, keys, settings), reconstruction.Conditioner(images=targets)
        # At the last level the matched image stays as it is, and is denoised here.
        for steps, denoise in ((len(settings.sigmas) - 1, denoise_and_represent.denoise), (1, lambda y: y)):
            part = denoise_and_represent._replace(denoise=denoise)
            state, _ = reconstruction.advance(part, conditioner, state, settings=settings, steps=steps)
        return {"images": denoise_and_represent.denoise(state.images), "matched": state.images}

    reconstruction.check(settings)
    call, keys = problem.over_devices(step), keys_of(len(problem.targets), 0)
    call(np.full_like(problem.targets, np.nan), keys)  # compiles, and ends after one level
    start = time.perf_counter()
    return call(problem.targets, keys) | {"seconds": time.perf_counter() - start}


def noisy_phi(problem: Problem, images: np.ndarray, sigma: float, draws: int) -> np.ndarray:
    """phi of images at a noise level, the mean over noise draws; the noise depends on an image's place alone."""
    settings, size = reconstruction.Schedule(draws=draws), len(problem.targets)

    def step(denoiser, mean, images, keys):
        state = reconstruction.begin(mean, jax.random.wrap_key_data(keys), settings)
        level = jnp.full(len(images), sigma, jnp.float32)
        return reconstruction.target_phi(denoiser, reconstruction.Conditioner(images=images), state, level, settings)

    call, keys = problem.over_devices(step), keys_of(len(images), 1)
    return np.concatenate([call(images[i : i + size], keys[i : i + size]) for i in range(0, len(images), size)])


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of each row of a to that of b."""
    return np.sum(a * b, axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


def qualities(problem: Problem, results: list[dict[str, Any]]) -> list[dict[str, np.ndarray]]:
    """`MEASURES` of each image of each result."""
    at_work = functools.partial(noisy_phi, problem, sigma=WORKING_SIGMA, draws=WORKING_DRAWS)
    last = noisy_phi(problem, problem.targets, SIGMA_END, REFERENCE_DRAWS)
    working, mean = at_work(problem.targets), at_work(problem.others).mean(axis=0)

    def last_level(denoiser, _, matched):
        return denoiser.represent(matched), denoiser.denoise(matched) - matched

    found = []
    for result in results:
        phi, residual = problem.over_devices(last_level)(result["matched"])
        here = at_work(result["images"])
        measured = np.mean((phi - last) ** 2, axis=1), cosines(here, working), cosines(here - mean, working - mean)
        found.append(dict(zip(MEASURES, (*measured, np.sqrt(np.mean(residual**2, axis=(1, 2, 3)))), strict=True)))
    return found


def compare(variant: dict[str, np.ndarray], published: dict[str, np.ndarray]) -> None:
    """Prints both, image by image; the last row is the mean over the images."""

    def cell(name, at):
        a, b = variant[name][at].mean(), published[name][at].mean()
        return f"{a:.6g} / {b:.6g} {'yes' if MEASURES[name] * a >= MEASURES[name] * b else 'NO'}"

    count = len(variant["cosine"])
    places = {str(i): [i] for i in range(count)} | {"mean": slice(None)}
    rows = [{"image": place} | {name: cell(name, at) for name in MEASURES} for place, at in places.items()]
    tables.show("Variant / published, and whether the variant is no worse", rows)
    no_worse = [MEASURES[name] * variant[name] >= MEASURES[name] * published[name] for name in JUDGED]
    print(f"  No worse in {', '.join(JUDGED)}: {np.all(no_worse, axis=0).sum()} of {count} images.")


FLAGS = {
    "--ckpt": ("", "a trained network"),
    "--width": (64, "without --ckpt: a network with random weights"),
    "--images": ("photographs", "folder, .npy file, or photographs: the bundled ones"),
    "--image-size": (64, "pixels"),
    "--targets": (8, "images to reconstruct, all at once"),
    "--others": (100, "other images, whose mean phi is subtracted"),
    "--levels": (100, "of the published schedule"),
    "--matching-steps": (100, "most steps of a published matching"),
    "--variant-levels": (20, "of ours"),
    "--variant-sigma-end": (SIGMA_END, "its last level"),
    "--variant-matching-steps": (30, "most steps of its matchings"),
    "--variant-epsilon": (reconstruction.EPSILON, "of its Adam"),
    "--variant-learning-rate": (reconstruction.LEARNING_RATE, "of its Adam"),
    "--variant-draws": (reconstruction.PUBLISHED.draws, "of noise in its targets"),
}


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, (default, text) in FLAGS.items():
        parser.add_argument(name, type=type(default), default=default, help=text)
    parser.add_argument("--variant-spacing", choices=("linear", "log"), default="linear", help="of its levels")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Makes both, and prints."""
    arguments = parse(given)
    devices.start(compilation_cache=ours.CACHE)
    spacing = {"linear": np.linspace, "log": np.geomspace}[arguments.variant_spacing]
    variant = spacing(SIGMA_0, arguments.variant_sigma_end, arguments.variant_levels)
    own = ("matching_steps", "epsilon", "learning_rate", "draws")
    own = {"sigmas": tuple(variant.tolist())} | {name: getattr(arguments, f"variant_{name}") for name in own}
    levels = tuple(np.linspace(SIGMA_0, SIGMA_END, arguments.levels).tolist())
    # The published epsilon is of the mean over the batch, whose gradient is so many times smaller.
    published = {"sigmas": levels, "epsilon": arguments.targets * reconstruction.EPSILON, "freeze": False}
    published["matching_steps"] = arguments.matching_steps
    try:
        problem = open_problem(arguments)
        results = [made(problem, reconstruction.Schedule(**each)) for each in (own, published)]
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    compare(*qualities(problem, results))
    seconds = [result["seconds"] / arguments.targets for result in results]
    print(f"  Variant / published: {seconds[0]:.3g} / {seconds[1]:.3g} s an image, one run each.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
