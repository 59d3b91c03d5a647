"""Making reconstructions: the arms of the comparison, streamed to disk batch by batch, resumable within a batch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.decomposition import PCA

from unetrep_jax import devices, noise, reconstruction, sampling, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Context, spread
from unetrep_jax.stages.kept import Kept
from unetrep_jax.storage import InputError


class Arm(NamedTuple):
    """One way to reconstruct.

    Attributes:
      title: as it is shown.
      settings: of the reconstruction.
      targets, samples: how many targets, how many samples of each.
      denoiser: opens what is used; only its `represent` differs between arms.
      keys: the settings that it was made from, for messages.
    """

    title: str
    settings: reconstruction.Settings
    targets: int
    samples: int
    denoiser: Callable[[], Denoiser]
    keys: str = "schedule_*, matching_*"


def schedule(settings: Any) -> reconstruction.Schedule:
    """The fixed schedule of the settings: log-spaced levels."""
    levels = np.geomspace(settings.schedule_sigma_0, settings.schedule_sigma_end, settings.schedule_levels)
    return reconstruction.Schedule(
        sigmas=tuple(levels.tolist()),
        draws=settings.target_draws,
        matching_steps=settings.matching_steps,
        epsilon=settings.matching_epsilon,
    )


def adaptive(settings: Any) -> reconstruction.Adaptive:
    """The blind version of the settings."""
    return reconstruction.Adaptive(
        sigma_0=settings.schedule_sigma_0,
        sigma_end=settings.adaptive_sigma_end,
        h0=settings.adaptive_h0,
        beta=settings.adaptive_beta,
        matching_steps=settings.matching_steps,
        epsilon=settings.matching_epsilon,
        max_steps=settings.adaptive_max_steps,
    )


def check_reconstructions(settings: Any) -> None:
    """Refuses settings with which nothing can be reconstructed."""
    least = {"targets": 1, "samples_per_target": 1, "control_targets": 0, "published_targets": 0, "schedule_levels": 1}
    least |= {"matching_steps": 1, "target_draws": 1, "reconstruction_batch": 1}
    for key, value in least.items():
        if settings[key] < value:
            raise InputError(f"analysis.{key} must be {value} or more; got {settings[key]}.")
    if not 0 < settings.schedule_sigma_end < settings.schedule_sigma_0:
        raise InputError(
            f"analysis.schedule_sigma_end = {settings.schedule_sigma_end:g} must be above 0 and below "
            f"analysis.schedule_sigma_0 = {settings.schedule_sigma_0:g}."
        )
    for prefix, one in (("schedule", schedule), ("adaptive", adaptive)):
        try:
            reconstruction.check(one(settings))
        except InputError as error:
            raise InputError(f"analysis.{prefix}_* and matching_*: {error}") from error


def arms(context: Context) -> dict[str, Arm]:
    """The reconstructions that are compared: the two versions, the published settings, and controls."""
    settings = context.settings
    base, few = schedule(settings), min(2, settings.samples_per_target)
    targets = min(settings.targets, len(context.images.images))
    controls = min(settings.control_targets, targets)

    def here():
        return context.denoiser

    alone = base._replace(
        sigmas=base.sigmas[-1:], matching_steps=len(base.sigmas) * base.matching_steps, tolerance=0.0, denoise=False
    )
    made = {
        "schedule": Arm("fixed schedule", base, targets, settings.samples_per_target, here),
        "adaptive": Arm("adaptive, blind", adaptive(settings), controls, few, here, "adaptive_*, matching_*"),
        "epsilon": Arm(
            "fixed schedule, Adam's ε as published", base._replace(epsilon=reconstruction.EPSILON), controls, few, here
        ),
        "unmatched": Arm("no matching (unconditional)", base._replace(matching_steps=0), controls, few, here),
        "alone": Arm("matching without denoising", alone, controls, few, here),
        "untrained": Arm(
            "phi of the untrained network",
            base,
            controls,
            few,
            lambda: context.denoiser._replace(represent=context.untrained().represent),
        ),
        "pca": Arm(
            "principal components of pixels, as many",
            base,
            controls,
            few,
            lambda: context.denoiser._replace(represent=principal_components(context)),
        ),
        "published": Arm(
            "published settings, and ε",
            reconstruction.PUBLISHED,
            min(settings.published_targets, targets),
            settings.samples_per_target,
            here,
        ),
    }
    return {name: arm for name, arm in made.items() if arm.targets}


def target_rows(context: Context) -> np.ndarray:
    """Positions of the targets, spread over the analysed images; those of fewer targets are the first of them, interleaved."""
    count = min(context.settings.targets, len(context.images.images))
    rows = spread(len(context.images.images), count)
    return rows[np.argsort(np.arange(count) % 2, kind="stable")]


def principal_components(context: Context) -> Callable:
    """The first principal components of images that are no targets, as a representation of phi's width."""
    images = context.images.images
    width = jax.eval_shape(context.denoiser.represent, jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32))
    others = np.setdiff1d(spread(len(images), 2000 + len(target_rows(context))), target_rows(context))
    pixels = images[others].reshape(len(others), -1) / np.float32(255)
    pca = PCA(min(width.shape[1], len(others) - 1), svd_solver="randomized", random_state=context.settings.seed)
    pca.fit(pixels)
    mean, directions = jnp.asarray(pca.mean_[None], jnp.float32), jnp.asarray(pca.components_.T, jnp.float32)
    return lambda y: (y.reshape(len(y), -1) - mean) @ directions


def arm_key(context: Context, arm: Arm) -> str:
    """Names all that an arm's samples depend on: other arms' settings are not among it."""
    what = [arm.title, str(arm.settings), arm.targets, arm.samples, context.settings.targets, context.settings.seed]
    return storage.fingerprint("arm", context.identity, context.images.fingerprint, context.training_identity, what)


def reconstruct_arm(context: Context, arm: Arm, mean: np.ndarray, folder: Path) -> None:
    """Streams an arm's samples to disk, target by target; killed, it goes on where it was, within a batch too.

    Writes `images` [n h w c], `sigma`, `steps`, `stop` [n], and the log: `first_loss`, `last_loss`, `updates`, `seen` [n, steps].
    """
    key = arm_key(context, arm)
    if storage.is_complete(folder, key):
        return
    rows, settings = target_rows(context)[: arm.targets], arm.settings
    total = arm.targets * arm.samples
    batch, part = min(context.settings.reconstruction_batch, total), steps_at_once(settings)
    steps = len(settings.sigmas) if isinstance(settings, reconstruction.Schedule) else settings.max_steps
    writer = storage.RowWriter(folder, key, total, row_layout(context.images.images.shape[1:], steps))
    denoiser = arm.denoiser()
    begin = devices.parallel_map(begin_step(settings, context.settings.seed), batch)
    go = devices.parallel_map(advance_step(denoiser, settings, part), batch)
    end = devices.parallel_map(finish_step(denoiser, settings), batch)
    mean = devices.replicate(np.float32(mean), local=True)
    kept = Kept(folder, key)
    done = writer.rows_done // batch * steps
    with storage.Progress(f"{arm.title}", -(-total // batch) * steps, "steps of a batch", done) as progress:
        while writer.rows_done < total:
            numbers = np.arange(writer.rows_done, min(writer.rows_done + batch, total), dtype=np.int32)
            targets = np.asarray(context.images.images[rows[numbers // arm.samples]])
            state, log, made = kept.load(numbers, (begin(mean, numbers), empty_log(len(numbers), steps), 0))
            made = int(made)
            progress.advance(made)
            while made < steps and (state.stop == sampling.RUNNING).any():
                state, entry = go((), (state, targets))
                now = min(part, steps - made)
                for whole, new in zip(log, entry, strict=True):
                    whole[:, made : made + now] = new[:, :now]
                made += now
                kept.save(numbers, (state, log, made))
                progress.advance(now)
            progress.advance(steps - made)
            result = end((), (state, log))
            writer.append(
                images=result.images,
                sigma=result.sigma,
                steps=result.steps,
                stop=result.stop,
                first_loss=result.log.first_loss,
                last_loss=result.log.last_loss,
                updates=result.log.updates,
                seen=result.log.sigma,
            )
    writer.close()  # records all rows, before the state of the last goes: once they are published nobody would remove it
    kept.forget()
    writer.finish()


def steps_at_once(settings: reconstruction.Settings) -> int:
    """Levels or score steps between two looks at the clock: a few hundred updates of matching."""
    return max(1, min(50, 300 // max(1, settings.matching_steps)))


def row_layout(shape: tuple[int, ...], steps: int) -> dict:
    """Arrays of an arm: name -> (shape of a row, dtype)."""
    single = {"sigma": np.float32, "steps": np.int32, "stop": np.int32}
    logs = {"first_loss": np.float32, "last_loss": np.float32, "updates": np.int32, "seen": np.float32}
    return {
        "images": (shape, np.float32),
        **{name: ((), dtype) for name, dtype in single.items()},
        **{name: ((steps,), dtype) for name, dtype in logs.items()},
    }


def empty_log(count: int, steps: int) -> reconstruction.Log:
    """Of so many samples: nothing happened yet, or ever, at any step."""
    nothing = np.full((3, count, steps), np.nan, np.float32)
    return reconstruction.Log(nothing[0], nothing[1], np.zeros((count, steps), np.int32), nothing[2])


def _packed(state):
    return state._replace(keys=jax.random.key_data(state.keys))


def _unpacked(state):
    return state._replace(keys=jax.random.wrap_key_data(state.keys))


def begin_step(settings: reconstruction.Settings, seed: int) -> Callable:
    """(mean, numbers [b]) -> reconstructions before their first step, keyed by the seed and the number."""

    def begin(mean, numbers):
        return _packed(reconstruction.begin(mean, noise.image_keys(jax.random.key(seed), numbers), settings))

    return begin


def advance_step(denoiser: Denoiser, settings: reconstruction.Settings, steps: int) -> Callable:
    """((), (state, targets)) -> (state some steps further, log)."""

    def go(_, rows):
        state, targets = rows
        conditioner = reconstruction.Conditioner(images=noise.to_unit(targets))
        state, log = reconstruction.advance(denoiser, conditioner, _unpacked(state), settings=settings, steps=steps)
        return _packed(state), log

    return go


def finish_step(denoiser: Denoiser, settings: reconstruction.Settings) -> Callable:
    """((), (state, log)) -> Reconstruction."""

    def end(_, rows):
        state, log = rows
        return reconstruction.finish(denoiser, _unpacked(state), log, settings)

    return end
