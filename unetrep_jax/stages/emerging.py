"""What emerges when: the measures of sparsity, robustness, clusters and neighbours along the training of one or more runs."""

from pathlib import Path

import numpy as np

from unetrep_jax import clusters, devices, measures, neighbours, representation, storage, training
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Arrays, Context, Milestone, reference_level, spread, write_stage
from unetrep_jax.stages.neighbouring import common_part, why_no_labels
from unetrep_jax.stages.remembered import remember
from unetrep_jax.stages.wording import estimate_of, quartiles_of
from unetrep_jax.storage import InputError

SIGMAS = np.float32([10, 25, 50, 100]) / np.float32(255)  # of the PSNR


def run_emergence(context: Context, folder: Path, key: str) -> None:
    """Every milestone of every run, on the same images with the same noise; each is kept as soon as it is measured."""
    courses, settings = context.courses, context.settings
    if not courses:
        write_stage(folder, key, {}, {"runs": {}})
        return
    chosen = spread(len(context.images.images), settings.emergence_images)
    if len(chosen) < max(settings.neighbours + 1, 4 * settings.emergence_clusters):
        raise InputError(
            f"{len(chosen)} images are too few for analysis.emergence_clusters = {settings.emergence_clusters} (4 images each) "
            f"and {settings.neighbours} neighbours; raise analysis.emergence_images, give more images, or ask for fewer clusters"
        )
    summary: dict = {
        "images": len(chosen),
        "sigma_times_255": settings.sigma,
        "compared_with_times_255": settings.sigmas[reference_level(context)],
        "clusters": settings.emergence_clusters,
        "psnr_sigma_times_255": [round(255 * float(s), 3) for s in SIGMAS],
        "runs": {},
    }
    total = sum(map(len, courses.values()))
    with storage.Progress("checkpoints along the training", total, unit="checkpoints") as progress:
        for name, milestones in courses.items():
            rows = []
            for milestone in milestones:
                rows.append({"images": milestone.images} | described(context, measured(context, milestone, chosen)))
                progress.advance(1)
            summary["runs"][name] = rows
    summary["pixels"], summary["chance"] = of_pixels(context, chosen)
    write_stage(folder, key, {}, summary)


def measured(context: Context, milestone: Milestone, chosen: np.ndarray) -> Arrays:
    """Numbers of one milestone for every image; made once, whatever other milestones there are."""
    settings = context.settings
    what = [milestone.identity, context.images.fingerprint, len(chosen), settings.sigma, settings.draws, settings.seed]
    what += [
        settings.sigmas[reference_level(context)],
        settings.emergence_clusters,
        settings.cluster_runs,
        settings.neighbours,
    ]
    key = storage.fingerprint("emergence", *what)

    def make() -> Arrays:
        return of_denoiser(context, milestone.open(), chosen)

    return remember(context.outdir / "emergence_kept", key, key, make)


def of_denoiser(context: Context, denoiser: Denoiser, chosen: np.ndarray) -> Arrays:
    """PSNR, ratios and cosines of every image; K-means and neighbours on phi."""
    settings = context.settings
    levels = [settings.sigmas[reference_level(context)], settings.sigma]
    averages, psnr = swept(context, denoiser, chosen, np.float32(levels) / np.float32(255))
    columns = representation.layout(denoiser, context.images.images.shape[1:])
    blocks = list(columns.columns)
    at_working = {block: columns.of(averages[:, 1], block) for block in blocks}
    phi = at_working["mid"]
    arrays: Arrays = {
        "psnr": psnr,
        "blocks": np.array(blocks),
        "ratios": np.stack([np.asarray(measures.participation_ratio(at_working[block])) for block in blocks], 1),
        "stability": np.stack([centred_cosines(columns.of(averages, block)) for block in blocks], 1),
        "common_part": np.array(common_part(phi) or np.nan),
        "silent": np.array(np.mean(phi.max(0) <= 0)),
    }
    for name, features in (("phi", phi), ("gaussian", clusters.gaussian_null(phi, settings.seed))):
        arrays |= {
            f"{name}/{part}": value for part, value in clustered(context, features, chosen, name == "phi").items()
        }
    if not why_no_labels(context.images.labels):
        arrays["agreement"] = agreements(context, phi - phi.mean(0), chosen)
    return arrays


def swept(
    context: Context, denoiser: Denoiser, chosen: np.ndarray, sigmas: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(channel averages [n, levels, K], PSNR of the denoised images [n, 4])."""
    settings, images = context.settings, context.images.images
    step = devices.parallel_map(representation.noise_averages(denoiser, seed=settings.seed), settings.batch_size)
    judge = devices.parallel_map(
        training.psnr_step(lambda _, y, sigma: denoiser.denoise(y), seed=settings.seed), settings.batch_size
    )
    levels = devices.replicate((np.zeros(()), SIGMAS), local=True)
    averages, psnr = [], []
    for first in range(0, len(chosen), settings.batch_size):
        index = chosen[first : first + settings.batch_size].astype(np.int32)
        rows = (np.asarray(images[index]), index)
        averages.append(np.stack([step((sigma, np.int32(settings.draws)), rows)[0] for sigma in sigmas], axis=1))
        psnr.append(judge(levels, rows)[0])
    return np.concatenate(averages), np.concatenate(psnr)


def centred_cosines(averages: np.ndarray) -> np.ndarray:
    """Of every image, the cosine between its averages at the two levels, after each level's mean over images is taken away."""
    centred = averages - averages.mean(0, dtype=np.float64)
    return measures.cosine(centred[:, 0], centred[:, 1]).astype(np.float32)


def clustered(context: Context, features: np.ndarray, chosen: np.ndarray, labelled: bool) -> Arrays:
    """Separation of clusters found on one half of the images among those of the other; their agreement with labels."""
    settings, count = context.settings, context.settings.emergence_clusters
    fit, held = clusters.halves(len(features), settings.seed)
    found = clusters.kmeans(features[fit], count, seed=settings.seed, runs=settings.cluster_runs)
    joined = clusters.nearest_centroid(features[held], found.centroids)
    arrays = {"separation": clusters.held_out_separation(features[held], joined, found.centroids).ratio}
    if labelled and not why_no_labels(context.images.labels):
        whole = clusters.kmeans(features, count, seed=settings.seed, runs=settings.cluster_runs)
        arrays["ami"] = np.array(clusters.agreement(whole.assignment, context.images.labels[chosen]))
    return arrays


def agreements(context: Context, features: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """The share of each image's nearest ones that have its label, by the cosine."""
    labels = context.images.labels[chosen]
    found = neighbours.nearest(features, features, context.settings.neighbours, metric="cosine", exclude_self=True)
    return neighbours.agreement(found.index, labels, labels)


def of_pixels(context: Context, chosen: np.ndarray) -> tuple[dict, dict]:
    """(the same of the clean pixels, what chance gives), where images have labels."""
    if why_no_labels(context.images.labels):
        return {}, {}
    pixels = context.images.images[chosen].reshape(len(chosen), -1).astype(np.float32)
    shares = agreements(context, pixels - pixels.mean(0), chosen)
    ami = clustered(context, pixels, chosen, True)["ami"]
    chance = neighbours.chance_of_agreement(context.images.labels[chosen])
    return {"agreement": mean_of(context, shares), "ami": float(ami)}, {"agreement": chance}


def described(context: Context, arrays: Arrays) -> dict:
    """A milestone's numbers for the summary."""
    blocks = [str(block) for block in arrays["blocks"]]
    row: dict = {
        "psnr_db": arrays["psnr"].mean(0).tolist(),
        "participation_ratio": {b: quartiles_of(arrays["ratios"][:, k]) for k, b in enumerate(blocks)},
        "stability": {b: mean_of(context, arrays["stability"][:, k]) for k, b in enumerate(blocks)},
        "common_part": float(arrays["common_part"]),
        "silent_channels": float(arrays["silent"]),
        "separation": quartiles_of(arrays["phi/separation"]),
        "separation_of_gaussian": quartiles_of(arrays["gaussian/separation"]),
    }
    if "agreement" in arrays:
        row |= {"agreement": mean_of(context, arrays["agreement"]), "ami": float(arrays["phi/ami"])}
    return row


def mean_of(context: Context, values: np.ndarray) -> dict:
    """A mean over images with its 95 % interval."""
    return estimate_of(measures.bootstrap_means(np.asarray(values, float)[:, None], seed=context.settings.seed)[:, 0])
