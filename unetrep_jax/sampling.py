"""Samples from the prior that is implicit in a blind denoiser (Kadkhodaie & Simoncelli 2021, algorithm 1; "Stochastic solutions for
linear inverse problems using the prior implicit in a denoiser", arXiv 2007.13640).

    h_t = h0                                fixed step size
        = h0 t / (1 + h0 (t - 1))           increasing step size, t = 1, 2, ...
    r = f(y) - y,   sigma = ||r|| / sqrt(d)
    stop when sigma <= sigma_end
    y <- y + h_t r + gamma z,   gamma^2 = sigma^2 ((1 - beta h_t)^2 - (1 - h_t)^2),   z ~ N(0, I)

and f(y) of the last y is the sample. Where f is exact the noise level falls by the factor 1 - beta h_t in each step, so that a run
from sigma_0 takes about ln(sigma_0 / sigma_end) / (beta h0) of them. beta = 1 adds no noise.

Everything here is for ONE image [h w c] and a `denoise` of one image; `jax.vmap` makes a batch in which each image has its own
noise levels, its own end, and depends on its own key alone. A long run can be cut anywhere: `begin`, any number of `advance`,
`finish`.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from unetrep_jax.storage import InputError

Image = Float[Array, "h w c"]
Scalar = Float[Array, ""]

RUNNING, CONVERGED, MAX_STEPS, DIVERGED, NOT_FINITE = -1, 0, 1, 2, 3
STOPS = ("converged", "max_steps", "diverged", "not_finite")  # names of the codes from 0
STEP_SIZES = ("fixed", "increasing")
DIVERGED_AT = (
    2.0  # times the first noise level, or 1 where that is less; the authors' code stops above 2, starting from 1
)


class SamplerState(NamedTuple):
    """One image part-way down the sampler.

    Attributes:
      image: current image, intensities nominally in [0, 1].
      sigma: noise level seen at the last step, RMS per pixel; inf before the first.
      step: updates made so far.
      key: PRNG key that the next step consumes.
    """

    image: Image
    sigma: Scalar
    step: Int[Array, ""]
    key: Key[Array, ""]


class Walk(NamedTuple):
    """A sampler's run that can go on.

    Attributes:
      state: where it is.
      denoised: f of the image that the last step began from; zeros before the first.
      stop: RUNNING, or why it ended: CONVERGED, MAX_STEPS, DIVERGED, NOT_FINITE.
      limit: noise level above which the run counts as diverged; known after the first step.
    """

    state: SamplerState
    denoised: Image
    stop: Int[Array, ""]
    limit: Scalar


class Sample(NamedTuple):
    """What a run of the sampler gave.

    Attributes:
      image: the denoised last image; of a run that did not converge, to be looked at and not used.
      sigma: the noise level seen last, RMS per pixel.
      steps: updates made.
      stop: CONVERGED, MAX_STEPS, DIVERGED or NOT_FINITE (`STOPS` has the words).
    """

    image: Image
    sigma: Scalar
    steps: Int[Array, ""]
    stop: Int[Array, ""]


def check(
    *, h0: float, beta: float, sigma_end: float, max_steps: int, step_size: str = "fixed", sigma_0: float = math.inf
) -> None:
    """Raises InputError unless these settings describe a run that can end. `sigma_0` is inf where the start is given."""
    for name, value in (("h0", h0), ("beta", beta)):
        if not 0 < value <= 1:
            raise InputError(f"{name} = {value:g} must be above 0 and at most 1; the authors use 0.01 and 0.01 to 0.5.")
    if not 0 < sigma_end < sigma_0:
        raise InputError(
            f"the noise level must fall: sigma_end = {sigma_end:g} must be above 0 and below sigma_0 = {sigma_0:g}."
        )
    if max_steps < 1:
        raise InputError(f"max_steps = {max_steps} must be 1 or more.")
    if step_size not in STEP_SIZES:
        raise InputError(f"step_size {step_size!r} is unknown. Known: {', '.join(STEP_SIZES)}.")


def explain(stop: int, sigma: float, steps: int) -> str:
    """One line for a person: why a run ended and, where it failed, what to change."""
    line = f"{'running' if stop == RUNNING else STOPS[stop]} after {steps:,} steps at noise level {sigma:.4g}"
    remedies = {
        MAX_STEPS: "raise max_steps, h0 or beta, or raise sigma_end: the denoiser may leave more than that",
        DIVERGED: "lower h0 or sigma_0; the denoiser may not know noise of this level",
        NOT_FINITE: "lower h0; if it stays, the denoiser's parameters are damaged",
    }
    return f"{line}; {remedies[stop]}" if stop in remedies else line


def step_size_at(step: Int[Array, "*b"] | int, h0: float, step_size: str) -> Float[Array, "*b"] | Scalar:
    """h_t for step t = 1, 2, ...: h0, or h0 t / (1 + h0 (t - 1)), which grows from h0 to 1."""
    if step_size == "fixed":
        return jnp.asarray(h0, jnp.float32)
    return jnp.asarray(h0 * step / (1 + h0 * (step - 1.0)), jnp.float32)


def added_noise(
    sigma: Float[Array, "*b"], h: float | Float[Array, "*b"] | Scalar, beta: float | Scalar
) -> Float[Array, "*b"]:
    """gamma: the deviation of the noise to add, so that the level falls by the factor 1 - beta h."""
    # (1 - beta h)^2 - (1 - h)^2 in factors: compiled, the difference would round below 0 where it is 0 (beta = 1).
    return sigma * jnp.sqrt(h * (1 - beta) * (2 - h * (1 + beta)))


def blind_step(
    denoise: Callable[[Image], Image], state: SamplerState, *, h: float | Scalar, beta: float | Scalar
) -> SamplerState:
    """One step of the sampler, whatever the noise level: y <- y + h (f(y) - y) + gamma z (see the module).

    Args:
      denoise: one noisy image [h w c] -> the estimate of the clean one.
      state: where the run is.
      h: share of the residual that is taken away, in (0, 1].
      beta: share of the taken noise that is not put back, in (0, 1]; 1 adds no noise.

    Returns:
      The next state. Its `sigma` is the level seen in the image before the update.
    """
    return _step(state, denoise(state.image), h, beta)


def _step(state, denoised, h, beta):
    r = denoised - state.image
    sigma = jnp.sqrt(jnp.mean(r**2))
    key, noise_key = jax.random.split(state.key)
    z = jax.random.normal(noise_key, state.image.shape, state.image.dtype)
    image = state.image + h * r + added_noise(sigma, h, beta) * z
    return SamplerState(image, sigma, state.step + 1, key)


def begin(start: Image, key: Key[Array, ""]) -> Walk:
    """A run that has made no step yet. `start` is usually the data's mean plus sigma_0 z."""
    state = SamplerState(start, jnp.float32(jnp.inf), jnp.int32(0), key)
    return Walk(state, jnp.zeros_like(start), jnp.int32(RUNNING), jnp.float32(jnp.inf))


def advance(
    denoise: Callable[[Image], Image],
    walk: Walk,
    *,
    steps: int | Int[Array, ""],
    h0: float = 0.01,
    beta: float = 0.05,
    sigma_end: float = 0.04,
    max_steps: int = 20_000,
    step_size: str = "fixed",
) -> Walk:
    """At most `steps` more steps of a run; a run that has ended stays as it is. Cut into parts, a run is the same run.

    The settings are those of `blind_sample`, which has the same defaults.
    """
    check(h0=h0, beta=beta, sigma_end=sigma_end, max_steps=max_steps, step_size=step_size)

    def running(carry: tuple[Walk, Array]) -> Bool[Array, ""]:
        walk, made = carry
        return (walk.stop == RUNNING) & (made < steps)

    def body(carry: tuple[Walk, Array]) -> tuple[Walk, Array]:
        walk, made = carry
        state = walk.state
        denoised = denoise(state.image)
        new = _step(state, denoised, step_size_at(state.step + 1, h0, step_size), beta)
        first = DIVERGED_AT * jnp.maximum(new.sigma, 1)
        limit = jnp.where(state.step == 0, first, walk.limit)
        stop = jnp.select(
            [~jnp.isfinite(new.sigma), new.sigma <= sigma_end, new.sigma > limit, state.step >= max_steps],
            [NOT_FINITE, CONVERGED, DIVERGED, MAX_STEPS],
            RUNNING,
        ).astype(jnp.int32)
        # The level is that of the image before the update: an image that has arrived is not updated any more.
        kept = jax.tree.map(lambda old, new: jnp.where(stop == RUNNING, new, old), state, new)
        return Walk(kept._replace(sigma=new.sigma), denoised, stop, limit), made + 1

    return jax.lax.while_loop(running, body, (walk, jnp.int32(0)))[0]


def finish(walk: Walk) -> Sample:
    """The denoised image of a run, and how it ended (MAX_STEPS for one that is still running).

    The published algorithm denoises the last image once more; the step that found it good enough has done that.
    """
    stop = jnp.where(walk.stop == RUNNING, MAX_STEPS, walk.stop).astype(jnp.int32)
    return Sample(walk.denoised, walk.state.sigma, walk.state.step, stop)


def blind_sample(
    denoise: Callable[[Image], Image],
    start: Image,
    key: Key[Array, ""],
    *,
    h0: float = 0.01,
    beta: float = 0.05,
    sigma_end: float = 0.04,
    max_steps: int = 20_000,
    step_size: str = "fixed",
) -> Sample:
    """One sample of the denoiser's implicit prior; see the module for the iteration. The defaults are the main paper's.

    Args:
      denoise: one noisy image [h w c] -> the estimate of the clean one.
      start: first image, usually the data's mean plus sigma_0 z.
      key: of the noise that is added on the way.
      h0: step size (the first one, where it increases), in (0, 1].
      beta: share of the noise taken away that is not put back, in (0, 1]; small: slow and thorough; 1: deterministic.
      sigma_end: noise level, RMS per pixel, at which the run ends.
      max_steps: most updates.
      step_size: "fixed" or "increasing".

    Returns:
      The sample and how the run ended. A run diverges when the level exceeds twice the first one (or 2, if that is more); it, and
      one that is not finite, stops where it is.
    """
    settings = {"h0": h0, "beta": beta, "sigma_end": sigma_end, "max_steps": max_steps, "step_size": step_size}
    return finish(advance(denoise, begin(start, key), steps=max_steps + 1, **settings))


def trajectory(denoise: Callable[[Image], Image], walk: Walk, *, every: int, **settings) -> Iterator[Walk]:
    """A run, seen every `every` steps: yields the walk as it is given, after each stretch, and at its end.

    Each walk is given away as it comes, so that memory does not grow with the run. A batch of walks (every leaf with a leading
    axis) goes on until all have ended. `settings` are those of `advance`.
    """
    if every < 1:
        raise InputError(f"every = {every} steps must be 1 or more.")

    def stretch(walk: Walk) -> Walk:
        return advance(denoise, walk, steps=every, **settings)

    go = jax.jit(stretch if walk.stop.ndim == 0 else jax.vmap(stretch))
    yield walk
    while bool((walk.stop == RUNNING).any()):
        walk = go(walk)
        yield walk
