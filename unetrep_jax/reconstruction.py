"""Images from phi alone: matching phi by gradient descent on the pixels, and stochastic reconstruction.

Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912v1), section 3 and algorithms 1 and 2.

Matching moves an image y until its representation is the target's:

    minimise  l(y) = (1/k) || represent(y) - phi* ||^2   over the pixels of y, by Adam

Stochastic reconstruction alternates matching with denoising, so that the result is both a natural image for the denoiser and one
whose phi is the target's. `Schedule` is the version with fixed noise levels ("backward algorithm"; the reported samples),
`Adaptive` the blind one that reads the noise level off the residual (algorithm 1).

Only a `Denoiser` is needed: `represent` for matching, which runs encoder and middle block forward and backward, and `denoise`. Each
image has its own key, loss, optimiser state and end: a result does not depend on the batch that it was made in. Everything is one
compiled program under `jit` or `pmap`, on every backend.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from unetrep_jax import sampling
from unetrep_jax.denoiser import Denoiser, Images
from unetrep_jax.storage import InputError

Representation = Float[Array, "b k"]
Represent = Callable[[Images], Representation]

LEARNING_RATE = 0.01  # of Adam on the pixels, intensity units (authors' code)
# Of Adam (authors' code, PyTorch's default). They minimise the mean over a batch of n, whose gradient is 1/n of an image's own:
# their epsilon is n times as large for an image, 3.2e-7 for their batches of 32.
EPSILON = 1e-8
DIVERGED_AT = 5.0  # noise level, RMS per pixel, above which an `Adaptive` has diverged (authors' code)
CENTROIDS: dict[str, Callable] = {"mean": jnp.mean, "max": jnp.max}


class Matched(NamedTuple):
    """What matching did.

    Attributes:
      images: the moved images [b h w c].
      losses: l before each update [b, max_steps]; NaN after an image's last update.
      steps: updates made [b].
      converged: whether l fell to `tolerance` of its first value [b].
    """

    images: Images
    losses: Float[Array, "b steps"]
    steps: Int[Array, " b"]
    converged: Bool[Array, " b"]


def match(
    represent: Represent,
    images: Images,
    targets: Float[Array, "b k"],
    *,
    mask: Float[Array, " k"] | Float[Array, "b k"] | None = None,
    optimizer: optax.GradientTransformation | None = None,
    max_steps: int = 100,
    tolerance: float = 0.01,
    freeze: bool = True,
    active: Bool[Array, " b"] | None = None,
) -> Matched:
    """Moves images until their representations are the targets' (the paper's algorithm 2).

        l_i(y) = (1/k) || represent(y)_i - mask_i target_i ||^2

    One update is always made. An image has converged once a loss is at or below `tolerance` times its first; the update that this
    loss led to is still made, as in the authors' code.

    Args:
      represent: any differentiable function of images; a `Denoiser`'s runs encoder and middle block alone.
      images: where to begin.
      targets: phi*, one for each image.
      mask: multiplies the target: 0 drives a channel to zero, 1 leaves it.
      optimizer: an optax transformation, begun anew in each call and for each image apart; None is the published Adam, learning
        rate 0.01, epsilon 1e-8. Where phi varies little, its gradient with respect to a pixel is below that epsilon and Adam
        hardly moves anything: `optax.adam(0.01, eps=1e-20)` does not know the scale of phi. Those that search along a line
        (`optax.lbfgs()`) get the loss.
      max_steps: most updates.
      tolerance: share of the first loss at which an image has converged.
      freeze: each image stops once it has converged. False is the published behaviour: all move until the slowest has. The results
        agree for a batch of one, and for every image up to the step at which it converges.
      active: images to move; the others stay as they are, with 0 steps.
    """
    if max_steps < 1:
        raise InputError(f"max_steps = {max_steps} must be 1 or more: one update is always made.")
    if not 0 <= tolerance < 1:
        raise InputError(f"tolerance = {tolerance:g} must be at least 0 and below 1: a share of the first loss.")
    targets = _masked(targets, mask)
    width = jax.eval_shape(represent, images).shape
    if width != targets.shape:
        raise InputError(
            f"targets of shape {targets.shape} do not fit {len(images)} images whose representation has shape {width}."
        )
    optimizer = optax.adam(LEARNING_RATE, eps=EPSILON) if optimizer is None else optimizer
    optimizer = optax.with_extra_args_support(optimizer)
    active = jnp.ones(len(images), bool) if active is None else active

    def loss_of(image, target):
        """One image's loss, for optimisers that search along a line."""
        return jnp.mean((represent(image[None])[0] - target) ** 2)

    def losses_of(images):
        losses = jnp.mean((represent(images) - targets) ** 2, axis=1)
        return losses.sum(), losses  # the gradient of the sum is each image's own

    def update(gradient, state, image, target, loss):
        return optimizer.update(
            gradient, state, image, value=loss, grad=gradient, value_fn=lambda image: loss_of(image, target)
        )

    def going(carry):
        _, _, _, moving, step, _, _ = carry
        return moving.any() & (step < max_steps)

    def body(carry):
        images, state, first, moving, step, made, history = carry
        (_, losses), gradients = jax.value_and_grad(losses_of, has_aux=True)(images)
        changes, state = jax.vmap(update)(gradients, state, images, targets, losses)
        images = jnp.where(_over_pixels(moving), images + changes, images)
        history = history.at[:, step].set(jnp.where(moving, losses, jnp.nan))
        first = jnp.where(step == 0, losses, first)
        below = losses <= tolerance * first
        still = moving & ~below if freeze else moving & ~jnp.all(below | ~moving)
        return images, state, first, still, step + 1, made + moving, history

    history = jnp.full((len(images), max_steps), jnp.nan, jnp.float32)
    state = jax.vmap(optimizer.init)(images)
    none = jnp.zeros(len(images), jnp.int32)
    start = (images, state, jnp.zeros(len(images), jnp.float32), active, jnp.int32(0), none, history)
    images, _, first, _, _, steps, history = jax.lax.while_loop(going, body, start)
    converged = jnp.any(history <= tolerance * first[:, None], axis=1)
    return Matched(images, history, steps, converged)


def _masked(targets, mask):
    if mask is None:
        return targets
    mask = jnp.asarray(mask, targets.dtype)
    if mask.shape not in (targets.shape, targets.shape[1:]):
        raise InputError(f"a mask of shape {mask.shape} does not fit targets of shape {targets.shape}.")
    return targets * jnp.broadcast_to(mask, targets.shape)


def keep_largest(phi: Representation, count: int) -> Representation:
    """phi with all but its `count` largest channels set to zero (of equal ones, the first)."""
    kept = jax.lax.top_k(phi, count)[1]
    return phi * jax.vmap(lambda row, index: jnp.zeros_like(row).at[index].set(1))(phi, kept)


def _over_pixels(per_image):
    return per_image.reshape(-1, 1, 1, 1)


class Schedule(NamedTuple):
    """Reconstruction over fixed noise levels, from the top down; the defaults are the published ones.

    Attributes:
      sigmas: noise levels, intensity units, each below the one before.
      draws: noise draws averaged in a target.
      matching_steps: most updates of one matching; 0 leaves matching out (a control: the denoiser alone).
      tolerance: share of the first loss at which matching ends.
      freeze: see `match`.
      learning_rate, epsilon: of Adam on the pixels; see `match` on `epsilon`.
      target_sigma: the one level whose phi is the target at all levels; None is each level's own.
      denoise: False passes the matched image on as it is (a control: matching alone).
    """

    sigmas: tuple[float, ...] = tuple(np.linspace(1, 0.03, 100).tolist())
    draws: int = 10
    matching_steps: int = 100
    tolerance: float = 0.01
    freeze: bool = True
    learning_rate: float = LEARNING_RATE
    epsilon: float = EPSILON
    target_sigma: float | None = None
    denoise: bool = True


class Adaptive(NamedTuple):
    """Blind reconstruction: the level is read off the residual, as by the blind sampler; the defaults are the published ones.

    Attributes:
      sigma_0: noise level of the start, intensity units.
      sigma_end: level at which an image has arrived.
      h0: step size, in (0, 1].
      beta: share of the noise taken away that is not put back, in (0, 1].
      step_size: "fixed" or "increasing"; see `sampling`.
      draws: noise draws averaged in a target.
      matching_steps: most updates of one matching.
      tolerance: share of the first loss at which matching ends.
      freeze: see `match`.
      learning_rate, epsilon: of Adam on the pixels; see `match` on `epsilon`.
      target_sigma: the one level whose phi is the target throughout; None is the image's current level.
      max_steps: most score steps (the published settings need about 46,000).
    """

    sigma_0: float = 1.0
    sigma_end: float = 0.01
    h0: float = 0.01
    beta: float = 0.01
    step_size: str = "fixed"
    draws: int = 1
    matching_steps: int = 200
    tolerance: float = 0.01
    freeze: bool = True
    learning_rate: float = LEARNING_RATE
    epsilon: float = EPSILON
    target_sigma: float | None = None
    max_steps: int = 60_000


Settings = Schedule | Adaptive
PUBLISHED = Schedule()


class Conditioner(NamedTuple):
    """What to reconstruct: images whose phi is measured at each noise level as it is needed, or a phi.

    Attributes:
      images: [b h w c], one for each sample; or [1 h w c], for all; or, with `centroid`, any number, whose phi is collapsed.
      phi: [k], or [b k] with one for each sample, at all levels; or [levels, 1 or b, k], one for each level of a `Schedule`.
      centroid: "mean" or "max" (elementwise) over the images' phi; "" for none.
      mask: [k], or [b k] with one for each sample; multiplies the target: 0 drives a channel to zero.
      keep: only so many of a target's largest channels are kept, the others driven to zero; 0 keeps all.
    """

    images: Images | None = None
    phi: Array | None = None
    centroid: str = ""
    mask: Float[Array, " k"] | Float[Array, "b k"] | None = None
    keep: int = 0


class Progress(NamedTuple):
    """A batch of reconstructions on its way.

    Attributes:
      images: current images [b h w c].
      sigma: noise level last seen by the denoiser [b], RMS per pixel.
      step: levels, or score steps, made [b].
      stop: RUNNING or why it ended [b]; see `sampling`.
      keys: one for each image [b]; all randomness comes from it and the step.
    """

    images: Images
    sigma: Float[Array, " b"]
    step: Int[Array, " b"]
    stop: Int[Array, " b"]
    keys: Key[Array, " b"]


class Log(NamedTuple):
    """What happened at each of n steps (levels of a `Schedule`, score steps of an `Adaptive`).

    NaN, or 0 updates, where there was none.

    Attributes:
      first_loss, last_loss: l before the first and before the last update of the step's matching.
      updates: updates of the step's matching.
      sigma: level that the denoiser saw in the matched image, RMS per pixel.
    """

    first_loss: Float[Array, "b n"]
    last_loss: Float[Array, "b n"]
    updates: Int[Array, "b n"]
    sigma: Float[Array, "b n"]


class Reconstruction(NamedTuple):
    """What a reconstruction gave.

    Attributes:
      images: reconstructed images [b h w c].
      sigma: level of the last residual [b], RMS per pixel.
      steps: levels, or score steps, made [b].
      stop: CONVERGED, MAX_STEPS, DIVERGED or NOT_FINITE [b]; see `sampling`.
      log: what happened at each step.
    """

    images: Images
    sigma: Float[Array, " b"]
    steps: Int[Array, " b"]
    stop: Int[Array, " b"]
    log: Log


def adam(settings: Settings) -> optax.GradientTransformation:
    """The settings' optimiser on the pixels."""
    return optax.adam(settings.learning_rate, eps=settings.epsilon)


def check(settings: Settings) -> None:
    """Raises InputError unless the settings describe a reconstruction that can end."""
    if isinstance(settings, Schedule):
        levels = np.asarray(settings.sigmas, float)
        if levels.ndim != 1 or not len(levels) or not np.isfinite(levels).all() or levels[-1] <= 0:
            raise InputError(f"sigmas needs one or more noise levels above 0; got {settings.sigmas}.")
        if (rises := np.diff(levels) >= 0).any():
            at = int(rises.argmax())
            raise InputError(
                f"sigmas must fall from each level to the next; got {levels[at]:g} and then {levels[at + 1]:g}."
            )
    else:
        names = ("h0", "beta", "sigma_0", "sigma_end", "max_steps", "step_size")
        sampling.check(**{name: getattr(settings, name) for name in names})
        if settings.sigma_0 >= DIVERGED_AT:
            raise InputError(
                f"sigma_0 = {settings.sigma_0:g} must be below {DIVERGED_AT:g}, which counts as divergence."
            )
    for name, least in (("draws", 1), ("matching_steps", 0)):
        if getattr(settings, name) < least:
            raise InputError(f"{name} = {getattr(settings, name)} must be {least} or more.")
    for name in ("learning_rate", "epsilon"):
        if not 0 < getattr(settings, name) < math.inf:
            raise InputError(f"{name} = {getattr(settings, name):g} must be above 0 and finite.")
    if not 0 <= settings.tolerance < 1:
        raise InputError(
            f"tolerance = {settings.tolerance:g} must be at least 0 and below 1: a share of the first loss."
        )
    if settings.target_sigma is not None and not 0 <= settings.target_sigma < math.inf:
        raise InputError(f"target_sigma = {settings.target_sigma:g} must be 0 or more.")


def check_conditioner(denoiser: Denoiser, conditioner: Conditioner, start: Images, settings: Settings) -> None:
    """Raises InputError unless the conditioner fits the samples, one of the permitted ways (see `Conditioner`)."""
    count, width = len(start), jax.eval_shape(denoiser.represent, start).shape[1]
    if (conditioner.images is None) == (conditioner.phi is None):
        raise InputError("a conditioner is images or a phi: give one of them.")
    if conditioner.centroid not in ("", *CENTROIDS):
        raise InputError(f"centroid {conditioner.centroid!r} is unknown. Known: {', '.join(CENTROIDS)}.")
    if (images := conditioner.images) is not None:
        if images.ndim != 4 or images.shape[1:] != start.shape[1:]:
            raise InputError(
                f"conditioners of shape {images.shape} do not fit images [b h w c] of shape {start.shape}."
            )
        if not conditioner.centroid and len(images) not in (1, count):
            raise InputError(
                f"{len(images)} conditioners fit neither {count} samples (one each) nor 1 (for all); collapse them by "
                "centroid='mean' or 'max', or make as many samples."
            )
    else:
        shape, levels = conditioner.phi.shape, len(settings.sigmas) if isinstance(settings, Schedule) else 0
        permitted = [(width,), (1, width), (count, width), (levels, 1, width), (levels, count, width)]
        if shape not in permitted[: 5 if levels else 3] or conditioner.centroid:
            raise InputError(
                f"a target phi of shape {shape} fits none of {permitted[: 5 if levels else 3]} (channels; samples and channels; "
                "levels, samples and channels), without centroid."
            )
    if conditioner.mask is not None and conditioner.mask.shape not in ((width,), (count, width)):
        raise InputError(f"a mask of shape {conditioner.mask.shape} does not fit {count} samples of {width} channels.")
    if not 0 <= conditioner.keep <= width:
        raise InputError(f"keep = {conditioner.keep} must be 0 (all) to {width}, the number of channels.")
    for name, value in (
        ("conditioner", conditioner.images),
        ("target phi", conditioner.phi),
        ("mask", conditioner.mask),
        ("mean image", start),
    ):
        if value is None or isinstance(value, jax.core.Tracer):
            continue
        if bad := int(np.sum(~np.isfinite(np.asarray(value)))):
            raise InputError(f"the {name} has {bad:,} of {value.size:,} values that are NaN or infinite.")


def reconstruct(
    denoiser: Denoiser,
    target: Array | Conditioner,
    keys: Key[Array, " b"],
    *,
    mean: Float[Array, "h w c"],
    settings: Settings = PUBLISHED,
) -> Reconstruction:
    """Samples of images whose phi is the target's, one for each key.

    Args:
      denoiser: see `denoiser.Denoiser`; only `denoise` and `represent` are used.
      target: images [b h w c] or [1 h w c], a phi [k] or [b k], or a `Conditioner` for more.
      keys: one for each sample; samples of equal keys and targets are equal, in any batch.
      mean: the image to start from: the data's mean colour, constant over the image.
      settings: `Schedule` (fixed levels; the reported samples) or `Adaptive` (blind).

    Raises:
      InputError: settings or a target that cannot be used.
    """
    if len(keys) == 0:
        raise InputError("0 samples were asked for: give one key for each sample, 1 or more.")
    if not isinstance(target, Conditioner):
        target = Conditioner(images=target) if target.ndim == 4 else Conditioner(phi=target)
    check(settings)
    state = begin(mean, keys, settings)
    check_conditioner(denoiser, target, state.images, settings)
    steps = len(settings.sigmas) if isinstance(settings, Schedule) else settings.max_steps
    state, log = advance(denoiser, target, state, settings=settings, steps=steps)
    return finish(denoiser, state, log, settings)


def begin(mean: Float[Array, "h w c"], keys: Key[Array, " b"], settings: Settings) -> Progress:
    """Before the first step: the mean image for a `Schedule`, with noise of level sigma_0 for an `Adaptive`."""
    count = len(keys)
    images = jnp.broadcast_to(mean, (count, *mean.shape)).astype(jnp.float32)
    sigma = jnp.zeros(count, jnp.float32)
    if isinstance(settings, Adaptive):
        images = images + settings.sigma_0 * normal(keys, jnp.zeros(count, jnp.int32), START, mean.shape)
        sigma = jnp.full(count, settings.sigma_0, jnp.float32)
    return Progress(images, sigma, jnp.zeros(count, jnp.int32), jnp.full(count, sampling.RUNNING, jnp.int32), keys)


START, STEP, TARGET_DRAWS = 0, 1, 2  # what randomness is for; the draws of targets count on from there


def normal(
    keys: Key[Array, " b"], step: Int[Array, " b"], purpose: int | Int[Array, ""], shape: tuple[int, ...]
) -> Float[Array, "b *shape"]:
    """Standard normal numbers of each image, by its key, its step, and what they are for."""

    def draw(key, step):
        return jax.random.normal(jax.random.fold_in(jax.random.fold_in(key, step), purpose), shape, jnp.float32)

    return jax.vmap(draw)(keys, step)


def advance(
    denoiser: Denoiser, conditioner: Conditioner, state: Progress, *, settings: Settings, steps: int
) -> tuple[Progress, Log]:
    """At most `steps` more steps of each image, until all have ended, and what happened. Cut into parts, a run is the same run."""
    take = schedule_step if isinstance(settings, Schedule) else adaptive_step
    count = len(state.step)
    nothing = jnp.full((count, steps), jnp.nan, jnp.float32)
    log = Log(nothing, nothing, jnp.zeros((count, steps), jnp.int32), nothing)

    def going(carry):
        state, _, made = carry
        return (state.stop == sampling.RUNNING).any() & (made < steps)

    def body(carry):
        state, log, made = carry
        state, entry = take(denoiser, conditioner, state, settings)
        return state, jax.tree.map(lambda log, new: log.at[:, made].set(new), log, entry), made + 1

    state, log, _ = jax.lax.while_loop(going, body, (state, log, jnp.int32(0)))
    return state, log


def finish(denoiser: Denoiser, state: Progress, log: Log, settings: Settings) -> Reconstruction:
    """The result: an `Adaptive`'s images are denoised once more, as published; a `Schedule`'s have been."""
    images = denoiser.denoise(state.images) if isinstance(settings, Adaptive) else state.images
    stop = jnp.where(state.stop == sampling.RUNNING, sampling.MAX_STEPS, state.stop).astype(jnp.int32)
    return Reconstruction(images, state.sigma, state.step, stop, log)


def schedule_step(
    denoiser: Denoiser, conditioner: Conditioner, state: Progress, settings: Schedule
) -> tuple[Progress, Log]:
    """One level of a `Schedule`: y = x + sigma z; y <- match(y, phi*_sigma); x <- f(y)."""
    running = state.stop == sampling.RUNNING
    levels = jnp.asarray(settings.sigmas, jnp.float32)
    sigma = levels[jnp.minimum(state.step, len(settings.sigmas) - 1)]
    y = state.images + _over_pixels(sigma) * normal(state.keys, state.step, STEP, state.images.shape[1:])
    y, entry = _matched(denoiser, conditioner, state, y, sigma, running, settings)
    r, seen = _residuals(denoiser, y)
    images = y + r if settings.denoise else y
    step = state.step + running
    stop = jnp.select(
        [~running, ~jnp.isfinite(seen), step >= len(settings.sigmas)],
        [state.stop, sampling.NOT_FINITE, sampling.CONVERGED],
        sampling.RUNNING,
    ).astype(jnp.int32)
    state = Progress(
        jnp.where(_over_pixels(running), images, state.images),
        jnp.where(running, seen, state.sigma),
        step.astype(jnp.int32),
        stop,
        state.keys,
    )
    return state, entry._replace(sigma=jnp.where(running, seen, jnp.nan))


def adaptive_step(
    denoiser: Denoiser, conditioner: Conditioner, state: Progress, settings: Adaptive
) -> tuple[Progress, Log]:
    """One score step of an `Adaptive`.

    y <- match(y, phi*_sigma), with the target at the image's current level
    r = f(y) - y, sigma = ||r|| / sqrt(d);  arrived when sigma <= sigma_end
    y <- y + h r + gamma z;  sigma of the new y;  arrived when sigma <= sigma_end
    """
    running = state.stop == sampling.RUNNING
    y, entry = _matched(denoiser, conditioner, state, state.images, state.sigma, running, settings)
    r, seen = _residuals(denoiser, y)
    h = sampling.step_size_at(state.step + 1, settings.h0, settings.step_size)
    h = jnp.broadcast_to(h, state.step.shape)
    gamma = sampling.added_noise(seen, h, settings.beta)
    moving = running & (seen > settings.sigma_end)
    z = normal(state.keys, state.step, STEP, y.shape[1:])
    y = jnp.where(_over_pixels(moving), y + _over_pixels(h) * r + _over_pixels(gamma) * z, y)
    sigma = jnp.where(moving, _residuals(denoiser, y)[1], seen)
    step = (state.step + moving).astype(jnp.int32)
    stop = jnp.select(
        [~running, ~jnp.isfinite(sigma), sigma <= settings.sigma_end, sigma > DIVERGED_AT, step >= settings.max_steps],
        [state.stop, sampling.NOT_FINITE, sampling.CONVERGED, sampling.DIVERGED, sampling.MAX_STEPS],
        sampling.RUNNING,
    ).astype(jnp.int32)
    sigma = jnp.where(running, sigma, state.sigma)
    return Progress(y, sigma, step, stop, state.keys), entry._replace(sigma=jnp.where(running, seen, jnp.nan))


def _residuals(denoiser, y):
    r = denoiser.denoise(y) - y
    return r, jnp.sqrt(jnp.mean(r**2, axis=(1, 2, 3)))


def _matched(denoiser, conditioner, state, y, sigma, running, settings):
    """(matched images, the step's entry in the log)."""
    if settings.matching_steps == 0:
        none = jnp.full(len(y), jnp.nan, jnp.float32)
        return y, Log(none, none, jnp.zeros(len(y), jnp.int32), none)
    target = target_phi(denoiser, conditioner, state, sigma, settings)
    result = match(
        denoiser.represent,
        y,
        keep_largest(target, conditioner.keep) if conditioner.keep else target,
        mask=conditioner.mask,
        optimizer=adam(settings),
        max_steps=settings.matching_steps,
        tolerance=settings.tolerance,
        freeze=settings.freeze,
        active=running,
    )
    last = jnp.take_along_axis(result.losses, jnp.maximum(result.steps - 1, 0)[:, None], axis=1)[:, 0]
    return result.images, Log(result.losses[:, 0], last, result.steps, last)


def target_phi(
    denoiser: Denoiser, conditioner: Conditioner, state: Progress, sigma: Float[Array, " b"], settings: Settings
) -> Representation:
    """phi* of each sample at its noise level: the mean of represent(x_c + sigma z) over the draws, or the phi that was given.

    With a centroid, the mean or the elementwise maximum of that over all conditioners. Every sample draws its own noise.
    """
    count = len(state.step)
    if (phi := conditioner.phi) is not None:
        if phi.ndim == 3:
            levels = jnp.broadcast_to(phi, (len(phi), count, phi.shape[-1]))
            return levels[jnp.minimum(state.step, len(phi) - 1), jnp.arange(count)]
        return jnp.broadcast_to(phi, (count, phi.shape[-1]))
    if settings.target_sigma is not None:
        sigma = jnp.full(count, settings.target_sigma, jnp.float32)

    def of(images, number):
        def draw(total, k):
            z = normal(state.keys, state.step, TARGET_DRAWS + number * settings.draws + k, images.shape[1:])
            return total + denoiser.represent(images + _over_pixels(sigma) * z) / settings.draws, None

        zero = jnp.zeros(jax.eval_shape(denoiser.represent, images + 0 * _over_pixels(sigma)).shape, jnp.float32)
        return jax.lax.scan(draw, zero, jnp.arange(settings.draws))[0]

    images = conditioner.images
    if not conditioner.centroid:
        return of(jnp.broadcast_to(images, (count, *images.shape[1:])), 0)
    each = jax.lax.map(
        lambda row: of(jnp.broadcast_to(row[0], (count, *images.shape[1:])), row[1]), (images, jnp.arange(len(images)))
    )
    return CENTROIDS[conditioner.centroid](each, axis=0)
