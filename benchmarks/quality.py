"""Section 2 of `reconstruction.py`: a choice of settings of our own against the published ones, in time and in quality."""

import argparse
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from reconstruction_problem import (
    SIGMA_0,
    SIGMA_END,
    Problem,
    our_reconstruction_with_match,
    over_devices,
    published_settings,
)
from reconstruction_timing import Ask, in_turns, schedule_of, table_of, theirs_timed, timed
from tables import show

from unetrep_jax import reconstruction

WORKING_SIGMA, WORKING_DRAWS, REFERENCE_DRAWS = 100 / 255, 20, 64
MEASURES = {"match loss": -1, "cosine": 1, "centred cosine": 1, "noise level": -1}  # -1: lower is better
JUDGED = ("match loss", "cosine", "noise level")


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
