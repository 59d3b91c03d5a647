"""Whether phi embeds the image densities that it stands for in a Euclidean space (equations 3 and 4)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.stats import spearmanr
from sklearn.decomposition import PCA

from unetrep_jax import densities, devices, figures, neighbours, noise, reconstruction, report, representation, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.figures import embedding as drawn
from unetrep_jax.stages import reconstructing
from unetrep_jax.stages.context import Arrays, Context, layout_of, mean_colour, phi, picture, spread, write_stage
from unetrep_jax.stages.sampled import refuse_or_tell
from unetrep_jax.stages.wording import quartiles_of, quartiles_text
from unetrep_jax.storage import InputError

RANDOM_PAIRS, NEAREST = 10_000, 500  # candidates for pairs: at random, and images beside their nearest neighbour
PHI_DRAWS = 100  # at least: noise draws for the distances in phi, beside which few would make near pairs look far apart
OTHERS = 2000  # images that the principal components are fitted on
PUBLISHED_RATIO = 2.9  # B / A, of a network trained on textures, about 100 pairs (the authors' slide)
NOT_TOO_LARGE = 10  # B / A; the paper gives no bound, so this is ours
PURPOSE = 13  # sets this stage's random numbers apart from other stages'


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
    least = {"embedding_pairs": 3, "embedding_reconstructed_pairs": 3, "embedding_samples": 1, "embedding_draws": 1}
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
    some = spread(len(pairs), context.settings.embedding_reconstructed_pairs)
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


def choose_pairs(context: Context) -> np.ndarray:
    """Pairs of images [p, 2], nearest in phi first: half spread evenly over log distance in phi, half over that in pixels.

    Spread over distances in phi alone, pairs would cover a wider range of those than of any control's, which would favour phi.
    """
    features, settings = phi(context, "representations", context.working), context.settings
    pixels = context.images.images.reshape(len(features), -1)
    count = len(features)
    if count < 2:
        raise InputError(f"the embedding stage compares images, and there is {count}: give 2 or more.")
    queries = spread(count, NEAREST)
    anyhow = np.random.default_rng([settings.seed, PURPOSE]).integers(0, count, (RANDOM_PAIRS, 2))
    both = [beside_nearest(features, queries), beside_nearest(pixels, queries), anyhow]
    candidates = np.unique(np.sort(np.concatenate(both), axis=1), axis=0)
    squares = {"phi": squared(features, candidates), "pixels": squared_of_pixels(pixels, candidates)}
    differ = (squares["phi"] > 0) & (squares["pixels"] > 0)
    candidates, squares = candidates[differ], {name: values[differ] for name, values in squares.items()}
    if len(candidates) < 3:
        raise InputError(f"only {len(candidates)} pairs of images differ in pixels and in phi: give more images.")
    wanted = min(settings.embedding_pairs, len(candidates))
    by_phi = densities.spread_pairs(candidates, squares["phi"], wanted - wanted // 2)
    left = np.setdiff1d(np.arange(len(candidates)), by_phi)
    unused = left[~np.isin(candidates[left], candidates[by_phi]).any(axis=1)]
    left = unused if len(unused) >= wanted // 2 else left
    by_pixels = densities.spread_pairs(candidates[left], squares["pixels"][left], wanted // 2)
    taken = np.concatenate([by_phi, left[by_pixels]])
    return candidates[taken[np.argsort(squares["phi"][taken], kind="stable")]]


def beside_nearest(features: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """Each query's row beside that of its nearest other row, [q, 2]."""
    two = neighbours.nearest(features[queries], features, 2, metric="euclidean").index
    return np.stack([queries, np.where(two[:, 0] == queries, two[:, 1], two[:, 0])], axis=1)


def squared_of_pixels(images: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared distance of each pair of uint8 images [n, pixels], intensity units; in parts, for 10,000 pairs are a gigabyte."""
    differences = (
        np.float32(images[part[:, 0]]) - images[part[:, 1]] for part in np.array_split(pairs, len(pairs) // 512 + 1)
    )
    return np.concatenate([np.einsum("pk,pk->p", part, part, dtype=np.float64) for part in differences]) / 255**2


def squared(features: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Squared Euclidean distance of each pair of rows."""
    difference = features[pairs[:, 0]] - features[pairs[:, 1]]
    return np.einsum("pk,pk->p", difference, difference, dtype=np.float64)


def around_images(context: Context) -> Arm:
    """The cheap way: the images themselves stand for samples of their densities."""
    draws = context.settings.embedding_draws

    def samples(rows):
        return np.repeat(context.images.images[rows][:, :, None], draws, axis=2)

    matching = densities.Matching(updates=context.settings.embedding_updates)
    return Arm(ARMS["images"], context.denoiser, matching, draws, samples)


def arms(context: Context, rows: np.ndarray, parts: Path, key: str) -> dict[str, Arm]:
    """The other ways: the densities' own samples, and controls of how y is matched to phi."""
    settings, base = context.settings, around_images(context)
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
    saved = {path.stem: np.load(path) for path in folder.glob("*.npy")}
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


def squared_distances(context: Context, pairs: np.ndarray) -> Arrays:
    """Squared distances in phi and, as controls, in pixels, their principal components, and the untrained network's phi.

    With `noise_in_squares`: what the finite number of noise draws adds to each squared distance in phi, on average.
    """
    rows, places = np.unique(pairs, return_inverse=True)
    places = places.reshape(pairs.shape)
    images = context.images.images
    pixels = (images[rows] / np.float32(255)).reshape(len(rows), -1)
    sets = {"pixels": pixels}
    sets["phi"], variance = fresh_phi(context, context.denoiser, rows)
    sets["untrained"], _ = fresh_phi(context, context.untrained(), rows)
    free = np.setdiff1d(np.arange(len(images)), rows)
    others = free[spread(len(free), OTHERS)] if len(free) else free
    if (dimensions := min(sets["phi"].shape[1], pixels.shape[1], len(others) - 1)) > 0:
        fitted = PCA(dimensions, svd_solver="randomized", random_state=context.settings.seed)
        fitted.fit((images[others] / np.float32(255)).reshape(len(others), -1))
        sets["pca"] = fitted.transform(pixels)
    result = {f"squares/{name}": squared(values, places) for name, values in sets.items()}
    return result | {"noise_in_squares": variance[places].sum(axis=1)}


def fresh_phi(context: Context, denoiser: Denoiser, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(phi of some images at the working level [n, k], variance of that mean over its noise draws [n]).

    From more draws than the sweep's, and other ones: pairs that the sweep's noise drew together are no nearer here.
    """
    settings = context.settings
    draws = max(PHI_DRAWS, settings.draws) if settings.sigma else 1
    step = devices.parallel_map(
        representation.noise_averages(denoiser, seed=settings.seed + PURPOSE), settings.batch_size
    )
    constants = (context.sigmas[context.working], np.int32(draws))
    parts = np.split(rows.astype(np.int32), range(settings.batch_size, len(rows), settings.batch_size))
    found = [step(constants, (context.images.images[part], part)) for part in parts]
    mean, variance = (np.concatenate(part) for part in zip(*found, strict=True))
    columns = layout_of(context)
    return columns.of(mean, "mid"), variance[:, list(columns.columns).index("mid")] / draws


def summarised(context: Context, arrays: Arrays) -> dict:
    """Every number of the section, from the arrays."""
    settings, good = context.settings, usable(arrays["distance"])
    distance, error = arrays["distance"][good], arrays["error"][good]
    same = quartiles_of(arrays["same_distance"]) | {"images": len(arrays["same_distance"])}
    if len(distance) < 3 or np.isnan(same["median"]):
        raise InputError(
            f"the embedding stage: d² is finite and above 0 for only {len(distance)} of {len(good)} pairs, so matching diverges or "
            "moves nothing: change analysis.embedding_updates or the noise levels."
        )
    squares = {name: arrays[f"squares/{name}"][good] for name in FEATURES if f"squares/{name}" in arrays}
    squares = {name: values for name, values in squares.items() if values.min() > 0}
    shares = arrays["noise_in_squares"][good] / arrays["squares/phi"][good]
    weighted = arrays["by_level"][good] * densities.log_weights(arrays["sigmas"])
    return {
        "sigma_times_255": settings.sigma,
        "images": len(context.images.images),
        "pairs": len(good),
        "excluded": int((~good).sum()),
        "levels": arrays["sigmas"].tolist(),
        "features": {name: banded(values, distance, settings.seed) for name, values in squares.items()},
        "distance": [float(value) for value in (distance.min(), np.median(distance), distance.max())],
        "range_of_squares": float(np.exp(np.ptp(np.log(arrays["squares/phi"][good])))),
        "relative_error": quartiles_of(error / distance),
        "ratio_by_noise": densities.ratio_by_noise(distance, np.nan_to_num(error), seed=settings.seed),
        "noise_of_phi": [float(np.median(shares[: max(1, len(shares) // 10)])), float(np.median(shares))],
        "same": same,
        "below_same": float(np.mean(distance <= same["median"])),
        "by_level": np.median(weighted / weighted.sum(axis=1, keepdims=True), axis=0).tolist(),
        "arms": {name: compared(arrays, name) for name in ARMS},
    }


def usable(distances: np.ndarray) -> np.ndarray:
    """Which distances can be compared: those of pairs that did not diverge, above 0."""
    return np.isfinite(distances) & (distances > 0)


def banded(squares: np.ndarray, distances: np.ndarray, seed: int) -> dict:
    """A, B and the rest of `densities.band`, each beside its interval and its null."""
    here = densities.band(squares, distances)
    interval = densities.bootstrap_band(squares, distances, seed=seed)
    null = densities.permuted_band(squares, distances, seed=seed)
    return {
        name: {"value": float(here[k]), "interval": interval[k].tolist(), "null": null[k].tolist()}
        for k, name in enumerate(densities.Band._fields)
    }


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


def section_embedding(context: Context, arrays: Arrays, summary: dict) -> report.Section | None:
    """The scatters, their table, d^2 made in other ways and by noise level, and the pairs themselves."""
    if context.settings.embedding_pairs == 0:
        return None
    good = usable(arrays["distance"])
    panels = {
        FEATURES[name]: drawn.Embedded(
            arrays[f"squares/{name}"][good],
            row["low"]["value"],
            row["high"]["value"],
            f"B/A = {number(row['ratio']['value'])}, Spearman {row['spearman']['value']:.2f}",
        )
        for name, row in summary["features"].items()
    }
    scatter = drawn.embedding_scatter(
        panels, arrays["distance"][good], arrays["error"][good], summary["same"]["median"]
    )
    both = usable(of_arm(arrays, "images", "distance")) & usable(arrays["reconstructions/distance"])
    ways = [
        of_arm(arrays, name, what)[both] for what in ("distance", "error") for name in ("images", "reconstructions")
    ]
    return report.Section(
        "Euclidean embedding",
        words(context, summary),
        tables(summary),
        [
            picture(
                context,
                scatter,
                "embedding",
                "d² of the densities that two images' phi stand for, against squared distances between the images: in phi and, for "
                "the same d², in controls. Dashed: the band A, B. Bars: two standard errors. Dotted: d² of an image to itself.",
            ),
            picture(
                context,
                drawn.embedding_agreement(*ways),
                "embedding_reconstructed",
                "d² with reconstructions from phi as samples, against d² with the images themselves. Dashed: equal.",
            ),
            picture(
                context,
                by_level(arrays, good),
                "embedding_by_level",
                "What each noise level contributes to d², per unit of log σ: median and quartiles over the third of the pairs "
                "that is nearest in phi, the third that is furthest, and images paired with themselves.",
            ),
            picture(
                context,
                pairs_shown(context, arrays, good),
                "embedding_pairs",
                "Pairs (one above the other) from the nearest to the furthest in phi, evenly picked from those measured.",
            ),
        ],
        [claim(summary)],
    )


def number(value: float) -> str:
    """Three digits, and no more decimals than they need."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def ranged(value: float, interval: list) -> str:
    """A value and its interval: 2.9 (2.1-3.4)."""
    return f"{number(value)} ({number(interval[0])} to {number(interval[-1])})"


def verdict(features: dict) -> str:
    """Whether the band is narrow: within our bound, narrower than by chance and than any control's; or at least the ranks agree."""
    row = features["phi"]
    others = [other["ratio"]["value"] for name, other in features.items() if name != "phi"]
    if row["ratio"]["value"] <= NOT_TOO_LARGE and row["ratio"]["value"] < min([*others, row["ratio"]["null"][0]]):
        return "yes"
    return "in part" if row["spearman"]["value"] > row["spearman"]["null"][2] else "no"


def claim(summary: dict) -> report.Claim:
    """Equation 3."""
    features = summary["features"]
    ratio, spearman = features["phi"]["ratio"], features["phi"]["spearman"]
    others = [
        f"{FEATURES[name]} {number(row['ratio']['value'])}, {row['spearman']['value']:.2f}"
        for name, row in features.items()
        if name != "phi"
    ]
    return report.Claim(
        "A ‖Δphi‖² ≤ d² ≤ B ‖Δphi‖², with B/A not too large",
        f"B/A = {PUBLISHED_RATIO} (textures, about 100 pairs)",
        f"B/A = {ranged(ratio['value'], ratio['interval'])}, Spearman {ranged(spearman['value'], spearman['interval'])}, "
        f"{summary['pairs'] - summary['excluded']} pairs",
        "; ".join([f"d² of other pairs {number(ratio['null'][1])}, {spearman['null'][1]:.2f}", *others]),
        verdict(features),
    )


def words(context: Context, summary: dict) -> list[str]:
    """What was done, and what to keep in mind when reading the numbers."""
    settings, same, levels = context.settings, summary["same"], summary["levels"]
    near, middle = summary["noise_of_phi"]
    text = [
        "d² is the divergence, both directions added, of p(x | phi_1) and p(x | phi_2) blurred by noise of "
        f"{levels[0]:g}, less that of the two blurred by {levels[-1]:g}: the integral of equation 4 over these levels. How the "
        "paper conditions its scores is not stated. Here y is moved, along the gradient with Polyak's step, until its phi is the "
        f"target's at the level of the noise (at most {settings.embedding_updates} updates, {settings.target_draws} draws in a "
        f"target), and denoised. {len(levels)} log-spaced levels; {settings.embedding_draws} noisy versions of each image at each "
        "stand for samples of its density.",
        "B/A grows with the range of distances and with noise, so it cannot be read alone. ‖Δphi‖² spans a factor of "
        f"{number(summary['range_of_squares'])} here, d² one of {number(summary['distance'][2] / summary['distance'][0])}. "
        f"Standard errors of d² are {errors_text(summary['relative_error'])} of it, and alone would give B/A = "
        f"{number(summary['ratio_by_noise'])}. The finite number of draws makes up {near:.0%} of ‖Δphi‖² for the nearest tenth of "
        f"pairs and {middle:.0%} for the median pair. Bootstrap intervals of extremes lean inwards.",
        f"An image has d² = {number(same['median'])} to itself (median of {same['images']}, two targets from noise of their own), "
        f"where it should be 0; {summary['below_same']:.0%} of the pairs are not above that. d² of the pairs runs from "
        f"{number(summary['distance'][0])} to {number(summary['distance'][2])}.",
        f"The claim counts as held where B/A is at most {NOT_TOO_LARGE} (our bound; the paper names none) and smaller than for all "
        "controls and 97.5 % of permutations; as held in part where the ranks agree better than in 97.5 % of permutations. d² is "
        "made with phi, which favours phi over the controls: the last row of the second table matches the untrained network's phi "
        "instead.",
    ]
    if summary["excluded"]:
        text.append(f"{summary['excluded']} of {summary['pairs']} pairs have no finite d² above 0 and are left out.")
    return text


def errors_text(quartiles: dict) -> str:
    """Median and quartiles as percentages; from one sample of each density there is no spread."""
    if quartiles["median"] is None or np.isnan(quartiles["median"]):
        return "unknown shares"
    return quartiles_text({name: 100 * value for name, value in quartiles.items()}, 1) + " %"


def tables(summary: dict) -> list[report.Table]:
    """A, B and the rest for phi and the controls; other ways of making d^2; what each level brings."""
    fields = {"ratio": "B/A", "middle": "B/A, middle 90 %", "spearman": "Spearman", "slope": "log-log slope"}

    def row(title, values, interval):
        ranges = (ranged(values[field], interval[field]) for field in fields)
        return title, number(values["low"]), number(values["high"]), *ranges

    def of(name, kind):
        return {field: value[kind] for field, value in summary["features"][name].items()}

    rows = [
        row(title, of(name, "value"), of(name, "interval"))
        for name, title in FEATURES.items()
        if name in summary["features"]
    ]
    null = of("phi", "null")
    rows.append(row("phi, with d² of other pairs (permuted)", {field: value[1] for field, value in null.items()}, null))
    ways = [
        (
            ARMS[name],
            quartiles_text(arm["ratio_to_cheap"]),
            f"{arm['spearman_with_cheap']:.2f}",
            number(arm["ratio"]),
            f"{arm['spearman']:.2f}",
            f"{arm['same_over_nearest']:.1%}",
        )
        for name, arm in summary["arms"].items()
        if "ratio" in arm
    ]
    return [
        report.Table(
            f"d² against squared distances of {summary['pairs'] - summary['excluded']} pairs of images, phi at σ = "
            f"{summary['sigma_times_255']:.0f}/255: the smallest and largest ratio A and B, and how the two go together, with 95 % "
            "bootstrap intervals over pairs (permuted: median and 95 % of permutations).",
            ("squared distance of", "A", "B", *fields.values()),
            rows,
        ),
        report.Table(
            f"d² made in other ways, for {summary['arms']['images']['pairs']} of the pairs: over d² around the images, median "
            "(quartiles), and rank correlation with it; B/A and rank correlation with squared distances in the phi that was "
            "matched; d² of an image to itself over that of the nearest pair.",
            ("d²", "over the first", "Spearman with it", "B/A", "Spearman with ‖Δphi‖²", "image to itself"),
            ways,
        ),
        report.Table(
            "Share of d² that each noise level brings to the integral, median over pairs.",
            ("σ", "share"),
            [(f"{s:.3f}", f"{share:.1%}") for s, share in zip(summary["levels"], summary["by_level"], strict=True)],
        ),
    ]


def by_level(arrays: Arrays, good: np.ndarray) -> Any:
    """Contributions against the noise level, for near pairs, far pairs, and images with themselves."""
    parts = arrays["by_level"][good]
    third = max(1, len(parts) // 3)
    groups = {"nearest third": parts[:third], "furthest third": parts[-third:]}
    groups["image and itself"] = arrays["same_by_level"]
    lines = {name: np.quantile(rows, (0.25, 0.5, 0.75), axis=0).T for name, rows in groups.items()}
    return figures.curves(
        arrays["sigmas"],
        lines,
        xlabel="noise level σ (intensity units)",
        ylabel="contribution to d², per unit of log σ",
        log_x=True,
        log_y=True,
    )


def pairs_shown(context: Context, arrays: Arrays, good: np.ndarray) -> Any:
    """Eight pairs with their distances."""
    places = np.flatnonzero(good)[spread(int(good.sum()), 8)]
    images = context.images.images[arrays["pairs"][places]]
    squares = [f"‖Δphi‖² {number(arrays['squares/phi'][place])}" for place in places]
    distances = [f"d² {number(arrays['distance'][place])}" for place in places]
    return figures.image_rows([images[:, 0], images[:, 1]], ["near → far", ""], None, [squares, distances])
