"""Whether phi embeds the image densities that it stands for in a Euclidean space (equations 3 and 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr

from unetrep_jax import densities, devices, noise, reconstruction, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages import reconstructing
from unetrep_jax.stages.context import Arrays, Context, arrays_in, mean_colour, spread, write_stage
from unetrep_jax.stages.embedding_pairs import PURPOSE, choose_pairs, squared_distances
from unetrep_jax.stages.sampled import refuse_or_tell
from unetrep_jax.stages.wording import quartiles_of
from unetrep_jax.storage import InputError

SELVES = 10  # images that are held against themselves, where `embedding_reconstructed_pairs` is 0
FEATURES = {
    "phi": "phi",
    "pixels": "pixels",
    "pca": "principal components of pixels, as many",
    "untrained": "phi of the untrained network",
}
ARMS = {
    "images": "around the images",
    "reconstructions": "around reconstructions",
    "longer": "twice as many updates",
    "adam": "matching by Adam, as in reconstructions",
    "untrained": "matching phi of the untrained network",
}


class Arm(NamedTuple):
    """One way to make d^2.

    Attributes:
      title: as it is shown.
      denoiser: only its `denoise` and `represent` are used.
      matching: to phi.
      draws: samples of each image's density.
      samples: positions of images [b 2] -> clean samples [b, 2, draws, h, w, c].
    """

    title: str
    denoiser: Denoiser
    matching: densities.Matching
    draws: int
    samples: Callable


def check_embedding(settings: Any) -> None:
    """Refuses settings with which no distance can be measured; no pairs at all leave the stage out."""
    if settings.embedding_pairs == 0:
        return
    if 0 < settings.embedding_reconstructed_pairs < 3:
        raise InputError(
            f"analysis.embedding_reconstructed_pairs must be 0 (none) or 3 or more; got {settings.embedding_reconstructed_pairs}."
        )
    least = {"embedding_pairs": 3, "embedding_reconstructed_pairs": 0, "embedding_samples": 1, "embedding_draws": 1}
    least |= {"embedding_levels": 2, "embedding_updates": 1}
    for key, value in least.items():
        if getattr(settings, key) < value:
            raise InputError(f"analysis.{key} must be {value} or more; got {getattr(settings, key)}.")
    if not 0 < settings.embedding_sigma_end < settings.schedule_sigma_0:
        raise InputError(
            f"analysis.embedding_sigma_end = {settings.embedding_sigma_end:g} must be above 0 and below "
            f"analysis.schedule_sigma_0 = {settings.schedule_sigma_0:g}."
        )


def levels_of(settings: Any) -> np.ndarray:
    """The noise levels of the integral, rising, log-spaced."""
    return np.geomspace(settings.embedding_sigma_end, settings.schedule_sigma_0, settings.embedding_levels)


def run_embedding(context: Context, folder: Path, key: str) -> None:
    """d^2 of all pairs around the images themselves; of some, and of images and themselves, in every other way too."""
    check_embedding(context.settings)
    if context.settings.embedding_pairs == 0:
        write_stage(folder, key, {}, {"pairs": 0})
        return
    parts = context.outdir / "embedded"
    pairs = choose_pairs(context)
    some = spread(len(pairs), context.settings.embedding_reconstructed_pairs or SELVES)
    every = np.concatenate([pairs, np.repeat(pairs[some, :1], 2, axis=1)])
    numbers = np.concatenate([some, len(pairs) + np.arange(len(some))])
    found = measured(context, around_images(context), every, np.arange(len(every)), parts / "images", key)
    arrays: Arrays = {"pairs": pairs, "sigmas": levels_of(context.settings), "some": some}
    arrays |= named(found, slice(len(pairs)), "") | named(found, slice(len(pairs), None), "same_")
    arrays |= squared_distances(context, pairs)
    for name, arm in arms(context, np.unique(pairs[some]), parts, key).items():
        found = measured(context, arm, every, numbers, parts / name, key)
        arrays |= named(found, slice(len(some)), f"{name}/") | named(found, slice(len(some), None), f"{name}/same_")
    write_stage(folder, key, arrays, summarised(context, arrays))


def named(found: densities.Distance, rows: slice, prefix: str) -> Arrays:
    """Some pairs' distances, their errors and what each level contributes, as arrays to save."""
    names = ("distance", "error", "by_level")
    return {f"{prefix}{name}": values[rows] for name, values in zip(names, found, strict=True)}


def around_images(context: Context) -> Arm:
    """The cheap way: the images themselves stand for samples of their densities."""
    draws = context.settings.embedding_draws

    def samples(rows):
        return np.repeat(context.images.images[rows][:, :, None], draws, axis=2)

    matching = densities.Matching(updates=context.settings.embedding_updates)
    return Arm(ARMS["images"], context.denoiser, matching, draws, samples)


def arms(context: Context, rows: np.ndarray, parts: Path, key: str) -> dict[str, Arm]:
    """The other ways: the densities' own samples, and controls of how y is matched to phi; none where no pairs are for them."""
    settings, base = context.settings, around_images(context)
    if settings.embedding_reconstructed_pairs == 0:
        return {}
    made = reconstructions(context, rows, parts / "samples", key)
    adam = optax.adam(reconstruction.LEARNING_RATE, eps=settings.matching_epsilon)
    untrained = context.denoiser._replace(represent=context.untrained().represent)
    return {
        "reconstructions": base._replace(
            title=ARMS["reconstructions"],
            draws=settings.embedding_samples,
            samples=lambda pairs: made[np.searchsorted(rows, pairs)],
        ),
        "longer": base._replace(
            title=ARMS["longer"], matching=base.matching._replace(updates=2 * base.matching.updates)
        ),
        "adam": base._replace(title=ARMS["adam"], matching=base.matching._replace(optimizer=adam)),
        "untrained": base._replace(title=ARMS["untrained"], denoiser=untrained),
    }


def measured(
    context: Context, arm: Arm, pairs: np.ndarray, numbers: np.ndarray, folder: Path, key: str
) -> densities.Distance:
    """d^2 of pairs of images, streamed to disk batch by batch; killed, it goes on where it was.

    Args:
      context: images and settings.
      arm: how it is made.
      pairs: positions of the images [p, 2]; of two equal ones d^2 is what the noise of the targets alone makes.
      numbers: which pairs; a pair of one number has the same noise in all arms, as far as they draw alike.
      folder: writes `parts` [numbers, 2, levels, draws]: what each sample contributes at each level.
      key: names all that they depend on.
    """
    settings, sigmas, total = context.settings, levels_of(context.settings), len(numbers)
    if not storage.is_complete(folder, key):
        batch = min(settings.reconstruction_batch, total)
        writer = storage.RowWriter(folder, key, total, {"parts": ((2, len(sigmas), arm.draws), np.float32)})
        step = devices.parallel_map(differences_step(arm, settings), batch)
        done = writer.rows_done * len(sigmas)
        with storage.Progress(f"d², {arm.title}", total * len(sigmas), "levels", done) as progress:
            for start in range(writer.rows_done, total, batch):
                now = numbers[start : start + batch].astype(np.int32)
                rows = (context.images.images[pairs[now]], arm.samples(pairs[now]), now)
                parts = []
                for sigma in sigmas:
                    parts.append(step(np.float32(sigma), rows))
                    progress.advance(len(now))
                writer.append(parts=np.stack(parts, axis=2))
        writer.finish()
    return densities.integrate(np.load(folder / "parts.npy"), sigmas)


def differences_step(arm: Arm, settings: Any) -> Callable:
    """(sigma, (conditioners [b 2 h w c], samples [b 2 n h w c], numbers [b])) -> contributions [b, 2, n] at one level.

    Each sample has noise of its own, and targets of its own: phi at the level, from noise draws of their own. So the spread over
    samples holds all that is random, and all depends on the seed, the level and the pair's number alone.
    """
    fold = jax.vmap(jax.random.fold_in, in_axes=(0, None))

    def step(sigma, rows):
        conditioners, samples, numbers = rows
        count, _, draws, *shape = samples.shape
        of_level = noise.level_key(jax.random.fold_in(jax.random.key(settings.seed), PURPOSE), sigma)
        keys = jax.vmap(lambda key: jax.random.split(key, 2 * draws))(noise.image_keys(of_level, numbers)).reshape(-1)

        def conditional(images, purpose):
            images = noise.to_unit(jnp.repeat(images, draws, axis=1).reshape(-1, *shape))
            target = phi_at(arm.denoiser.represent, images, fold(keys, purpose), sigma, settings.target_draws)
            return densities.conditional_denoise(arm.denoiser, target, arm.matching)

        own, other = conditional(conditioners, 1), conditional(conditioners[:, ::-1], 2)
        clean = noise.to_unit(samples).reshape(-1, *shape)
        return densities.squared_differences(own, other, clean, fold(keys, 0), sigma).reshape(count, 2, draws)

    return step


def phi_at(represent: Callable, images: Any, keys: Any, sigma: Any, draws: int) -> Any:
    """phi of images at a noise level, [b, k]: the mean of represent(x + sigma z) over the draws, from each image's own key."""

    def add(total, number):
        of_draw = jax.vmap(jax.random.fold_in, in_axes=(0, None))(keys, number)
        return total + represent(noise.add_noise(of_draw, images, sigma)) / draws, None

    zero = jnp.zeros(jax.eval_shape(represent, images).shape, jnp.float32)
    return jax.lax.scan(add, zero, jnp.arange(draws))[0]


def reconstructions(context: Context, rows: np.ndarray, folder: Path, key: str) -> np.ndarray:
    """`embedding_samples` reconstructions of each image, by the fixed schedule [n, samples, h, w, c]; streamed, resumable."""
    settings, images = context.settings, context.images.images
    each, shape = settings.embedding_samples, images.shape[1:]
    if not storage.is_complete(folder, key):
        total = len(rows) * each
        batch = min(settings.reconstruction_batch, total)
        layout = {"images": (shape, np.float32), "sigma": ((), np.float32), "steps": ((), np.int32)}
        writer = storage.RowWriter(folder, key, total, layout | {"stop": ((), np.int32)})
        step = devices.parallel_map(reconstruct_step(context.denoiser, settings), batch)
        mean = devices.replicate(mean_colour(context), local=True)
        with storage.Progress("reconstructions of pairs", total, done=writer.rows_done) as progress:
            for start in range(writer.rows_done, total, batch):
                numbers = np.arange(start, min(start + batch, total), dtype=np.int32)
                writer.append(**step(mean, (images[rows[numbers // each]], numbers)))
                progress.advance(len(numbers))
        writer.finish()
    saved = arrays_in(folder)
    refuse_or_tell(saved, "reconstructions of pairs", "analysis.schedule_*, matching_*", folder)
    return saved["images"].reshape(len(rows), each, *shape)


def reconstruct_step(denoiser: Denoiser, settings: Any) -> Callable:
    """(mean, (targets [b], numbers [b])) -> reconstructions, keyed by the seed and the number."""
    schedule = reconstructing.schedule(settings)

    def step(mean, rows):
        targets, numbers = rows
        keys = noise.image_keys(jax.random.fold_in(jax.random.key(settings.seed), PURPOSE), numbers)
        made = reconstruction.reconstruct(denoiser, noise.to_unit(targets), keys, mean=mean, settings=schedule)
        return {"images": made.images, "sigma": made.sigma, "steps": made.steps, "stop": made.stop}

    return step


def summarised(context: Context, arrays: Arrays) -> dict:
    """Every number of the section, from the arrays.

    Raises:
      InputError: fewer than three pairs have distances that can be compared.
    """
    settings, good = context.settings, usable(arrays["distance"])
    distance, error = arrays["distance"][good], arrays["error"][good]
    squares = {name: arrays[f"squares/{name}"][good] for name in FEATURES if f"squares/{name}" in arrays}
    apart = {name: values > 0 for name, values in squares.items()}
    same = quartiles_of(arrays["same_distance"]) | {"images": len(arrays["same_distance"])}
    if apart["phi"].sum() < 3 or np.isnan(same["median"]):
        raise InputError(
            f"the embedding stage: d² is finite and above 0 for only {apart['phi'].sum()} of {len(good)} pairs that differ in phi, "
            "so matching diverges or moves nothing: change analysis.embedding_updates or the noise levels."
        )
    known = {name: values for name, values in squares.items() if apart[name].sum() >= 3}
    of_phi = squares["phi"][apart["phi"]]
    shares = arrays["noise_in_squares"][good][apart["phi"]] / of_phi
    others = [name for name in ARMS if f"{name}/distance" in arrays]
    weighted = arrays["by_level"][good] * densities.log_weights(arrays["sigmas"])
    return {
        "sigma_times_255": settings.sigma,
        "images": len(context.images.images),
        "pairs": len(good),
        "excluded": int((~good).sum()),
        "levels": arrays["sigmas"].tolist(),
        "features": {
            name: banded(values[apart[name]], distance[apart[name]], settings.seed)
            | {"excluded": int((~apart[name]).sum())}
            for name, values in known.items()
        },
        "distance": [float(value) for value in (distance.min(), np.median(distance), distance.max())],
        "range_of_squares": float(np.exp(np.ptp(np.log(of_phi)))),
        "relative_error": quartiles_of(error / distance),
        "ratio_by_noise": densities.ratio_by_noise(distance, error, seed=settings.seed)
        if np.isfinite(error).all()
        else None,
        "noise_of_phi": [float(np.median(shares[: max(1, len(shares) // 10)])), float(np.median(shares))],
        "channels": {
            title: dict(zip(("channels", "dead", "constant"), arrays[f"channels/{name}"].tolist(), strict=True))
            for name, title in FEATURES.items()
            if f"channels/{name}" in arrays
        },
        "same": same,
        "below_same": float(np.mean(distance <= same["median"])),
        "by_level": np.median(weighted / weighted.sum(axis=1, keepdims=True), axis=0).tolist(),
        "arms": {name: compared(arrays, name) for name in (["images", *others] if others else [])},
    }


def usable(distances: np.ndarray) -> np.ndarray:
    """Which distances can be compared: those of pairs that did not diverge, above 0."""
    return np.isfinite(distances) & (distances > 0)


def banded(squares: np.ndarray, distances: np.ndarray, seed: int) -> dict:
    """A, B and the rest of `densities.band`, each beside its null and its interval; extremes, beside those of random halves."""
    here = densities.band(squares, distances)
    interval = densities.bootstrap_band(squares, distances, seed=seed)
    null = densities.permuted_band(squares, distances, seed=seed)
    found: dict = {
        name: {"value": float(here[k]), "null": null[k].tolist()} for k, name in enumerate(densities.Band._fields)
    }
    for name, ends in interval.items():
        found[name]["low"], found[name]["high"] = ends.tolist()
    for name, ends in densities.band_of_halves(squares, distances, seed=seed).items():
        found[name]["halves"] = ends.tolist()
    return found


def of_arm(arrays: Arrays, name: str, what: str) -> np.ndarray:
    """An arm's values for the pairs that all arms have, or for images and themselves."""
    if name != "images":
        return arrays[f"{name}/{what}"]
    return arrays[what] if what.startswith("same_") else arrays[what][arrays["some"]]


def compared(arrays: Arrays, name: str) -> dict:
    """An arm beside the cheap way, over the pairs that both have; and its d^2 beside distances in the phi that it matches."""
    cheap, here = of_arm(arrays, "images", "distance"), of_arm(arrays, name, "distance")
    squares = arrays["squares/untrained" if name == "untrained" else "squares/phi"][arrays["some"]]
    both = usable(cheap) & usable(here) & (squares > 0)
    same = quartiles_of(of_arm(arrays, name, "same_distance"))
    result = {"pairs": int(both.sum()), "excluded": int((~both).sum()), "same": same}
    if both.sum() < 3 or np.isnan(same["median"]):
        return result
    band = densities.band(squares[both], here[both])
    return result | {
        "ratio_to_cheap": quartiles_of(here[both] / cheap[both]),
        "spearman_with_cheap": float(spearmanr(here[both], cheap[both]).statistic),
        "ratio": float(band.ratio),
        "spearman": float(band.spearman),
        "relative_error": quartiles_of(of_arm(arrays, name, "error")[both] / here[both]),
        "same_over_nearest": same["median"] / float(here[both][0]),
    }
