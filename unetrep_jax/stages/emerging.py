"""What emerges when: the measures of sparsity, robustness, clusters and neighbours along the training of one or more runs."""

from collections.abc import Callable
from pathlib import Path

import numpy as np

from unetrep_jax import clusters, devices, measures, middle, neighbours, representation, storage, training
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Arrays, Context, Milestone, reference_level, spread, write_stage
from unetrep_jax.stages.neighbouring import common_part, why_no_labels
from unetrep_jax.stages.remembered import remember
from unetrep_jax.stages.wording import estimate_of, quartiles_of
from unetrep_jax.storage import InputError

# Intensity units: the published levels, and one above them, where noise levels drawn uniformly spend most of the training.
SIGMAS = np.array([10, 25, 50, 100, 200], np.float32) / 255
VERSION = 3  # of what is kept of a milestone: raised when its numbers change their meaning or their names


def milestones_of(context: Context) -> list[str]:
    """Names all milestones of all runs."""
    return [f"{run}: {each.images} {each.identity}" for run, course in context.courses.items() for each in course]


def run_emergence(context: Context, folder: Path, key: str) -> None:
    """Every milestone of every run, on the same images with the same noise; each is kept as soon as it is measured."""
    courses, settings = context.courses, context.settings
    if not courses:
        write_stage(folder, key, {}, {"runs": {}})
        return
    chosen = spread(len(context.images.images), settings.emergence_images)
    if len(chosen) < max(settings.neighbours + 1, 8):
        raise InputError(
            f"{len(chosen)} images are too few for 2 clusters of 4 and {settings.neighbours} neighbours; raise "
            "analysis.emergence_images, give more images, or lower analysis.neighbours"
        )
    count = min(settings.emergence_clusters, len(chosen) // 4)
    summary: dict = {
        "images": len(chosen),
        "sigma_times_255": settings.sigma,
        "compared_with_times_255": settings.sigmas[reference_level(context)],
        "draws": settings.draws,
        "clusters": count,
        "psnr_sigma_times_255": [round(255 * float(s), 3) for s in SIGMAS],
        "runs": {},
    }
    passes = len(chosen) * (2 * settings.draws + 3 * len(SIGMAS))  # at two levels, denoised, and held: read, then denoised
    with storage.Progress("checkpoints along the training", passes * sum(map(len, courses.values())), "passes") as progress:
        for name, milestones in courses.items():
            rows = []
            for milestone in milestones:
                done = progress.done + passes
                found = measured(context, milestone, chosen, count, progress.advance)
                rows.append({"images": milestone.images} | described(context, found))
                progress.advance(done - progress.done)  # what was kept
            summary["runs"][name] = rows
    summary["pixels"], summary["chance"] = of_pixels(context, chosen, count)
    write_stage(folder, key, {}, summary)


def kept(context: Context, name: str, chosen: np.ndarray, count: int, make: Callable[[], Arrays]) -> Arrays:
    """What is made once of these images with these settings, whatever other milestones there are."""
    settings = context.settings
    what = [f"emergence {VERSION}", name, context.images.fingerprint, len(chosen), settings.sigma, settings.draws, settings.seed]
    what += [SIGMAS.tolist(), settings.sigmas[reference_level(context)], count, settings.cluster_runs]
    what += [settings.neighbours]
    key = storage.fingerprint(*what)
    return remember(context.outdir / "emergence_kept", key, key, make)


def measured(
    context: Context, milestone: Milestone, chosen: np.ndarray, count: int, advance: Callable[[int], object]
) -> Arrays:
    """Numbers of one milestone for every image."""

    def make() -> Arrays:
        return of_denoiser(context, milestone.open(), chosen, count, advance)

    return kept(context, milestone.identity, chosen, count, make)


def of_denoiser(
    context: Context, denoiser: Denoiser, chosen: np.ndarray, count: int, advance: Callable[[int], object]
) -> Arrays:
    """PSNR, ratios and products of every image; K-means and neighbours on phi."""
    settings = context.settings
    levels = [settings.sigmas[reference_level(context)], settings.sigma]
    averages, variance, psnr = swept(context, denoiser, chosen, np.float32(levels) / np.float32(255), advance)
    columns = representation.layout(denoiser, context.images.images.shape[1:])
    blocks = list(columns.columns)
    at_working = {block: columns.of(averages[:, 1], block) for block in blocks}
    noise = np.nan_to_num(variance / settings.draws)  # not known from one draw
    products = [centred_products(columns.of(averages, block), noise[:, :, k]) for k, block in enumerate(blocks)]
    phi = at_working["mid"]
    arrays: Arrays = {
        "psnr": psnr,
        "held": held(context, denoiser, chosen, advance),
        "blocks": np.array(blocks),
        "ratios": np.stack([np.asarray(measures.participation_ratio(at_working[block])) for block in blocks], 1),
        "products": np.stack(products, 1),
        "common_part": np.array(common_part(phi) or np.nan),
        "silent": np.array(np.mean(phi.max(0) <= 0)),
        "separation": separation(context, phi, count),
        "separation_of_gaussian": separation(context, clusters.gaussian_null(phi, settings.seed), count),
    }
    if not why_no_labels(context.images.labels):
        arrays |= with_labels(context, phi, chosen, count)
    return arrays


def swept(
    context: Context, denoiser: Denoiser, chosen: np.ndarray, sigmas: np.ndarray, advance: Callable[[int], object]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(channel averages [n, levels, K], their realisation variance [n, levels, blocks], PSNR of the denoised images [n, 5])."""
    settings, images = context.settings, context.images.images
    step = devices.parallel_map(representation.noise_averages(denoiser, seed=settings.seed), settings.batch_size)
    judge = devices.parallel_map(
        training.psnr_step(lambda _, y, sigma: denoiser.denoise(y), seed=settings.seed), settings.batch_size
    )
    levels = devices.replicate(((), SIGMAS), local=True)
    swept_rows, psnr = [], []
    for first in range(0, len(chosen), settings.batch_size):
        index = chosen[first : first + settings.batch_size].astype(np.int32)
        rows = (np.asarray(images[index]), index)
        at_levels = [step((sigma, np.int32(settings.draws if sigma > 0 else 1)), rows) for sigma in sigmas]
        swept_rows.append([np.stack(part, axis=1) for part in zip(*at_levels, strict=True)])
        psnr.append(judge(levels, rows)[0])
        advance(len(index) * (2 * settings.draws + len(SIGMAS)))
    averages, variance = (np.concatenate(part) for part in zip(*swept_rows, strict=True))
    return averages, variance, np.concatenate(psnr)


def held(context: Context, denoiser: Denoiser, chosen: np.ndarray, advance: Callable[[int], object]) -> np.ndarray:
    """PSNR [n, 5] where the middle block says nothing of an image; NaN where the denoiser cannot be taken apart."""
    if denoiser.middle is None:
        return np.full((len(chosen), len(SIGMAS)), np.nan)
    images, settings = context.images.images[chosen], context.settings
    seed, batch_size = settings.seed, settings.batch_size
    return middle.psnr_without(denoiser.middle, images, chosen, SIGMAS, seed=seed, batch_size=batch_size, done=advance)


def centred_products(averages: np.ndarray, noise: np.ndarray) -> np.ndarray:
    """<a, b>, |a|^2, |b|^2 of each image's averages at the two levels, less their means over images, freed of noise; [n, 3]."""
    centred, count = averages - averages.mean(0, dtype=np.float64), len(averages)
    noise = noise * (1 - 2 / count) + noise.mean(0) / count  # an image's own estimate is part of the mean
    products = measures.freed_of_noise(measures.level_products(centred), noise)
    return np.stack([products[:, 0, 1], products[:, 0, 0], products[:, 1, 1]], 1)


def separation(context: Context, features: np.ndarray, count: int) -> np.ndarray:
    """Separation of clusters found on one half of the images among those of the other."""
    settings = context.settings
    fit, held = clusters.halves(len(features), settings.seed)
    found = clusters.kmeans(features[fit], count, seed=settings.seed, runs=settings.cluster_runs)
    joined = clusters.nearest_centroid(features[held], found.centroids)
    return clusters.held_out_separation(features[held], joined, found.centroids).ratio


def with_labels(context: Context, features: np.ndarray, chosen: np.ndarray, count: int) -> Arrays:
    """The share of each image's nearest ones, by the centred cosine, that have its label; AMI of clusters and labels."""
    settings, labels = context.settings, context.images.labels[chosen]
    centred = features - features.mean(0)
    found = neighbours.nearest(centred, centred, settings.neighbours, metric="cosine", exclude_self=True)
    whole = clusters.kmeans(features, count, seed=settings.seed, runs=settings.cluster_runs)
    return {
        "agreement": neighbours.agreement(found.index, labels, labels),
        "ami": np.array(clusters.agreement(whole.assignment, labels)),
    }


def of_pixels(context: Context, chosen: np.ndarray, count: int) -> tuple[dict, dict]:
    """(the same of the clean pixels, what chance gives), where images have labels."""
    if why_no_labels(context.images.labels):
        return {}, {}

    def make() -> Arrays:
        pixels = context.images.images[chosen].reshape(len(chosen), -1).astype(np.float32)
        return with_labels(context, pixels, chosen, count)

    found = kept(context, "pixels", chosen, count, make)
    chance = neighbours.chance_of_agreement(context.images.labels[chosen])
    return {"agreement": mean_of(context, found["agreement"]), "ami": float(found["ami"])}, {"agreement": chance}


def described(context: Context, arrays: Arrays) -> dict:
    """A milestone's numbers for the summary."""
    blocks = [str(block) for block in arrays["blocks"]]
    row: dict = {
        "psnr_db": arrays["psnr"].mean(0).tolist(),
        "middle_gives_db": [None if np.isnan(lost) else float(lost) for lost in (arrays["psnr"] - arrays["held"]).mean(0)],
        "participation_ratio": {b: quartiles_of(arrays["ratios"][:, k]) for k, b in enumerate(blocks)},
        "stability": {b: stability(context, arrays["products"][:, k]) for k, b in enumerate(blocks)},
        "common_part": float(arrays["common_part"]),
        "silent_channels": float(arrays["silent"]),
        "separation": quartiles_of(arrays["separation"]),
        "separation_of_gaussian": quartiles_of(arrays["separation_of_gaussian"]),
    }
    if "agreement" in arrays:
        row |= {"agreement": mean_of(context, arrays["agreement"]), "ami": float(arrays["ami"])}
    return row


def stability(context: Context, products: np.ndarray) -> dict:
    """The centred cosine between the two levels, of products averaged over images; NaN of a level with itself."""
    means = measures.bootstrap_means(products, seed=context.settings.seed)
    if context.settings.sigmas[reference_level(context)] == context.settings.sigma:
        means = np.full_like(means, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        squares = np.where((means[:, 1:] > 0).all(1), means[:, 1] * means[:, 2], np.nan)
        return estimate_of(means[:, 0] / np.sqrt(squares))


def mean_of(context: Context, values: np.ndarray) -> dict:
    """A mean over images with its 95 % interval."""
    return estimate_of(measures.bootstrap_means(np.asarray(values, float)[:, None], seed=context.settings.seed)[:, 0])
