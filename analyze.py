"""Analyses a trained denoiser: python analyze.py --ckpt RUN [--images SOURCE] [--outdir DIR] [--only STAGE ...] [--redo STAGE ...]

Stages, each cached by its settings, the checkpoint and the images:
  denoising        PSNR against noise level, beside a Wiener filter
  representations  channel averages of every block, over images, noise levels and noise draws
  untrained        the same for the initial network, as a control
  sparsity         participation ratios of every block (figure 1)
  clusters         K-means on phi, separation, alignment with labels, with nulls (figure 8)
Then the figures, `summary.json` and `report.html` are written anew from the saved arrays.
"""

import argparse
import functools
import importlib.metadata
import platform
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import configs
from unetrep_jax import storage
from unetrep_jax.storage import InputError

Arrays = dict[str, np.ndarray]


class Context(NamedTuple):
    """What the stages work on."""

    config: Any
    opened: Any
    denoiser: Any
    images: Any
    outdir: Path
    command: str

    @property
    def settings(self) -> Any:
        """The analysis settings."""
        return self.config.analysis

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels of the grid, intensity units."""
        return np.float32(self.settings.sigmas) / np.float32(255)

    @property
    def working(self) -> int:
        """Position of the working noise level in the grid."""
        return list(self.settings.sigmas).index(self.settings.sigma)

    def first_images(self, count: int) -> np.ndarray:
        """The first `count` images; 0 means all."""
        return self.images.images[: count or None]


class Stage(NamedTuple):
    """One step of the analysis.

    Attributes:
      settings: keys of the analysis settings that its result depends on.
      needs: stages whose files it reads.
      run: writes its files into a folder: (context, folder, key) -> None.
      section: (context, arrays, summary) -> a section of the report, or None for stages that only feed others.
    """

    settings: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable
    section: Callable | None = None


# --- denoising ---------------------------------------------------------------------------------------------------------

PUBLISHED_SIGMAS = np.float32([10, 25, 50, 100]) / np.float32(255)


def run_denoising(context: Context, folder: Path, key: str) -> None:
    """PSNR of the network and of two Wiener filters, per image; and pictures."""
    from unetrep_jax import baselines

    settings = context.settings
    images = context.first_images(settings.images)
    grid = np.geomspace(0.01, 1, 10).astype(np.float32)
    sigmas = np.unique(np.concatenate([PUBLISHED_SIGMAS, grid]))
    methods = {"network": (np.zeros(()), lambda _, y, sigma: context.denoiser.denoise(y))}
    spectrum, spectrum_images = training_spectrum(context)
    if spectrum is not None:
        methods["Wiener"] = (spectrum, baselines.wiener)
        methods["Wiener, channels apart"] = (spectrum, functools.partial(baselines.wiener, channelwise=True))
    arrays: Arrays = {"sigmas": sigmas}
    for name, (constants, denoise) in methods.items():
        arrays[f"psnr/{name}"], arrays["psnr/noisy"] = psnr_of(context, denoise, constants, images, sigmas, name)
    shown = images[: min(6, len(images))]
    sigmas_shown = PUBLISHED_SIGMAS[1:]
    strips = [pictures_of(context, shown, sigma) for sigma in sigmas_shown]
    arrays |= {
        "shown/clean": strips[0][0],
        "shown/noisy": np.stack([s[1] for s in strips]),
        "shown/sigmas": sigmas_shown,
    }
    arrays["shown/denoised"] = np.stack([s[2] for s in strips])
    first = slice(0, settings.first_images)
    summary = {
        "images": len(images),
        "first_images": len(images[first]),
        "spectrum_images": spectrum_images,
        "sigma_times_255": [round(float(255 * s), 3) for s in sigmas],
        "psnr_db": {name[5:]: a.mean(axis=0) for name, a in arrays.items() if name.startswith("psnr/")},
        "psnr_db_first_images": {
            name[5:]: a[first].mean(axis=0) for name, a in arrays.items() if name.startswith("psnr/")
        },
    }
    write_stage(folder, key, arrays, summary)


def training_spectrum(context: Context) -> tuple[Any, int]:
    """(mean power spectrum of the training images, how many), or (None, 0) where they are not at hand."""
    from unetrep_jax import baselines, data

    try:
        train_set = data.load("train", **context.config.data)
        if train_set.images.shape[1:] != context.images.images.shape[1:]:
            raise InputError("they have another size")
    except (InputError, OSError) as error:
        say(f"no Wiener filter: the training images cannot be read ({str(error).splitlines()[0]})")
        return None, 0
    # Spread over the whole set, which may be sorted by class.
    chosen = np.linspace(
        0, len(train_set.images) - 1, min(len(train_set.images), context.settings.spectrum_images)
    ).astype(int)
    return baselines.mean_and_spectrum(train_set.images[chosen]), len(chosen)


def psnr_of(context: Context, denoise: Callable, constants: Any, images: Any, sigmas: Any, label: str) -> Any:
    """(denoised, noisy) PSNR [n, levels]."""
    from unetrep_jax import devices, training

    size = context.settings.batch_size
    step = devices.parallel_map(training.psnr_step(denoise, seed=context.settings.seed), size)
    constants = devices.replicate((constants, sigmas), local=True)
    results = []
    with storage.Progress(f"denoising, {label}", len(images)) as progress:
        for first in range(0, len(images), size):
            index = np.arange(first, min(first + size, len(images)), dtype=np.int32)
            results.append(step(constants, (np.asarray(images[index]), index)))
            progress.advance(len(index))
    return tuple(np.concatenate(part) for part in zip(*results, strict=True))


def pictures_of(context: Context, images: Any, sigma: Any) -> Any:
    """(clean, noisy, denoised) images."""
    from unetrep_jax import devices, training

    step = training.denoise_step(lambda _, y, sigma: context.denoiser.denoise(y), seed=context.settings.seed)
    return devices.parallel_map(step, len(images))(
        (np.zeros(()), sigma), (np.asarray(images), np.arange(len(images), dtype=np.int32))
    )


def section_denoising(context: Context, arrays: Arrays, summary: dict) -> Any:
    """PSNR table, curve and pictures."""
    from unetrep_jax import figures, report

    psnr = {name[5:]: value for name, value in arrays.items() if name.startswith("psnr/")}
    sigmas = arrays["sigmas"]
    columns = [int(np.argmin(abs(sigmas - s))) for s in PUBLISHED_SIGMAS]
    order = ["noisy", *[name for name in psnr if name not in ("noisy", "network")], "network"]
    titles = {
        "noisy": "noisy image",
        "Wiener": "Wiener filter, told σ (colours jointly)",
        "network": "network, blind",
        "Wiener, channels apart": "Wiener filter, told σ (each colour)",
    }
    header = ("", *(f"σ = {255 * s:.0f}/255" for s in PUBLISHED_SIGMAS))
    rows = [(titles[name], *(f"{value:.2f}" for value in psnr[name].mean(axis=0)[columns])) for name in order]
    caption = f"PSNR in dB, mean over {summary['images']:,} images; peak 1, nothing clipped."
    if not summary["spectrum_images"]:
        caption += " The training images are not at hand here, so there is no Wiener filter to compare with."
    else:
        caption += (
            f" The Wiener filters know σ and the mean power spectrum of {summary['spectrum_images']:,} training images."
        )
    curve = figures.denoising_curve(
        sigmas, psnr["noisy"].mean(axis=0), {titles[name]: psnr[name].mean(axis=0) for name in reversed(order[1:])}
    )
    shown = [int(np.argmin(abs(sigmas - s))) for s in arrays["shown/sigmas"]]
    count = len(arrays["shown/clean"])
    strip = figures.denoising_strip(
        arrays["shown/clean"],
        arrays["shown/noisy"],
        arrays["shown/denoised"],
        arrays["shown/sigmas"],
        noisy_psnr=psnr["noisy"][:count, shown].T,
        denoised_psnr=psnr["network"][:count, shown].T,
    )
    return report.Section(
        "Denoising",
        [
            "The network is blind: it is never told the noise level. The Wiener filter, the best linear shift-invariant denoiser, is."
        ],
        [report.Table(caption, header, rows)],
        [
            picture(
                context, strip, "denoising", "Clean, noisy and denoised images at three noise levels, with PSNR in dB."
            ),
            picture(
                context, curve, "psnr", "Output PSNR against input PSNR (left) and the gain (right), means over images."
            ),
        ],
    )


# --- representations ---------------------------------------------------------------------------------------------------


def run_representations(context: Context, folder: Path, key: str) -> None:
    """The sweep over images, noise levels and draws."""
    sweep(context, context.denoiser, context.settings.images, folder, key, "representations")


def run_untrained(context: Context, folder: Path, key: str) -> None:
    """The same sweep for the network as it was before its first training step."""
    count = min(context.settings.untrained_images, context.settings.images or context.settings.untrained_images)
    sweep(context, untrained(context), count, folder, key, "untrained network")


def untrained(context: Context) -> Any:
    """The network that the run began with."""
    import jax

    from unetrep_jax import denoiser, models

    model = models.build(**context.config.model, image_channels=context.config.data.image_channels)
    return denoiser.bind(model, models.init_params(model, jax.random.key(context.config.seed)))


def sweep(context: Context, denoiser: Any, count: int, folder: Path, key: str, label: str) -> None:
    """Streams channel averages of the first `count` images (0: all) to a folder."""
    from unetrep_jax import representation

    settings = context.settings
    representation.sweep(
        denoiser,
        context.first_images(count),
        folder,
        key,
        sigmas=tuple(context.sigmas.tolist()),
        draws=settings.draws,
        batch_size=settings.batch_size,
        seed=settings.seed,
        label=label,
    )


def averages(context: Context, stage: str) -> np.ndarray:
    """Memory map [n, levels, K] of a sweep's channel averages."""
    return np.load(context.outdir / stage / "mean.npy", mmap_mode="r")


def layout_of(context: Context) -> Any:
    """Where each block's columns are."""
    from unetrep_jax import representation

    return representation.layout(context.denoiser, context.images.images.shape[1:])


def phi(context: Context, stage: str, level: int) -> np.ndarray:
    """phi of all images of a sweep at one noise level, [n, k]."""
    return np.ascontiguousarray(layout_of(context).of(averages(context, stage)[:, level], "mid"))


# --- sparsity ----------------------------------------------------------------------------------------------------------

# Modes of the histograms on the authors' slide (+-0.02), by the paper's blocks: encoders 2 and 3, middle, decoders 3 and 2.
PUBLISHED_OUTPUT_RATIO = {"encoder1": 0.63, "encoder2": 0.76, "mid": 0.25, "decoder2": 0.48, "decoder1": 0.25}


def run_sparsity(context: Context, folder: Path, key: str) -> None:
    """Participation ratios [n, levels, blocks] of both networks."""
    from unetrep_jax import measures

    columns = layout_of(context)
    arrays = {}
    for name, stage in (("trained", "representations"), ("untrained", "untrained")):
        values = averages(context, stage)
        arrays[name] = np.stack(
            [
                np.stack(
                    [
                        np.asarray(measures.participation_ratio(columns.of(values[:, l], block)))
                        for block in columns.columns
                    ],
                    -1,
                )
                for l in range(values.shape[1])
            ],
            axis=1,
        )
    write_stage(folder, key, arrays, summarise_sparsity(context, arrays))


def summarise_sparsity(context: Context, arrays: Arrays) -> dict:
    """Quartiles per block at the working level."""
    from unetrep_jax import measures

    summary: dict = {"sigma_times_255": context.settings.sigma, "draws": context.settings.draws}
    for name in ("trained", "untrained"):
        at_level = arrays[name][:, context.working]
        summary[f"{name}_images"] = len(at_level)
        summary[name] = {
            block: dict(
                zip(("first_quartile", "median", "third_quartile"), measures.quartiles(at_level[:, k]), strict=True)
            )
            for k, block in enumerate(layout_of(context).columns)
        }
    middle = layout_of(context).columns["mid"]
    summary["effective_channels_of_phi"] = summary["trained"]["mid"]["median"] * (middle[1] - middle[0])
    return summary


def section_sparsity(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 1, its table, and the ratio against the noise level."""
    from unetrep_jax import figures, measures, report, representation

    blocks = list(layout_of(context).columns)
    inputs = representation.block_inputs(context.denoiser)

    def pairs(name):
        at_level = arrays[name][:, context.working]
        return {b: (at_level[:, blocks.index(source)], at_level[:, blocks.index(b)]) for b, source in inputs.items()}

    def by_noise(name):
        return {b: measures.quartiles(arrays[name][:, :, blocks.index(b)]).T for b in inputs}

    level = f"σ = {context.settings.sigma:.0f}/255, {context.settings.draws} noise draws"
    histograms = figures.participation_ratio_histograms(
        pairs("trained"), pairs("untrained"), levels_text=f"{level}, {summary['trained_images']:,} images"
    )
    rows = [
        (
            block,
            *(quartiles_text(summary[name][b]) for name in ("trained", "untrained") for b in (source, block)),
            f"{PUBLISHED_OUTPUT_RATIO[block]:.2f}" if block in PUBLISHED_OUTPUT_RATIO else None,
        )
        for block, source in inputs.items()
    ]
    header = (
        "block",
        "input, trained",
        "output, trained",
        "input, untrained",
        "output, untrained",
        "output, published",
    )
    return report.Section(
        "Sparsity: participation ratio",
        [
            f"The participation ratio is the fraction of a block's channels that carry its channel averages: phi has "
            f"{summary['effective_channels_of_phi']:.0f} effective channels here. The published network's ratio rises through the "
            "encoders and falls in the middle block and the decoders."
        ],
        [
            report.Table(
                f"Median (quartiles) over images of the participation ratio at {level}. The untrained network has the same shape and "
                f"its initial weights ({summary['untrained_images']:,} images). Published: histogram modes read off the authors' slide "
                "for the full network on ImageNet, noise level not stated.",
                header,
                rows,
            )
        ],
        [
            picture(
                context,
                histograms,
                "participation_ratio",
                "Participation ratio of each block's input and output over images (figure 1).",
            ),
            picture(
                context,
                figures.participation_ratio_by_noise(context.sigmas, by_noise("trained"), by_noise("untrained")),
                "participation_ratio_by_noise",
                "Participation ratio of each block's output against the noise level.",
            ),
        ],
    )


def quartiles_text(quartiles: dict) -> str:
    """0.25 (0.22-0.31)."""
    values = [float("nan") if v is None else v for v in quartiles.values()]
    return f"{values[1]:.2f} ({values[0]:.2f}–{values[2]:.2f})"


# --- clusters ----------------------------------------------------------------------------------------------------------


def run_clusters(context: Context, folder: Path, key: str) -> None:
    """K-means for every K and seed; separation, alignment and nulls for the first K; agreement over noise levels."""
    from unetrep_jax import clusters

    settings = context.settings
    features = phi(context, "representations", context.working)
    labels = None if context.images.labels is None else context.images.labels[: len(features)]
    kmeans = functools.partial(clusters.kmeans, runs=settings.cluster_runs)
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "images": len(features),
        "by_clusters": {},
        "controls": {},
        "by_noise": {},
    }
    solutions = {}
    jobs = len(settings.clusters) * settings.cluster_seeds
    with storage.Progress("K-means", jobs, unit="solutions") as progress:
        for count in settings.clusters:
            for seed in range(settings.seed, settings.seed + settings.cluster_seeds):
                solutions[count, seed] = kmeans(features, count, seed=seed)
                progress.advance(1)
    for count in settings.clusters:
        same = [solutions[count, seed] for seed in range(settings.seed, settings.seed + settings.cluster_seeds)]
        separation = clusters.separation_of_clusters(features, same[0].assignment)
        arrays[f"assignment/{count}"], arrays[f"centroids/{count}"] = same[0].assignment, same[0].centroids
        arrays[f"separation/{count}"] = np.stack(separation[:2])
        between = [clusters.alignment(same[0].assignment, other.assignment).ami for other in same[1:]]
        summary["by_clusters"][str(count)] = {
            "separation": describe(separation.ratio),
            "agreement_of_seeds_ami": float(np.mean(between)) if between else None,
            "labels": align(same[0].assignment, labels),
        }
    first = solutions[settings.clusters[0], settings.seed]
    shown = clusters.exemplars(features, first, 8)
    arrays["exemplars"], arrays["exemplar_clusters"] = shown.images[:12], shown.clusters[:12]
    control_clusters(context, features, labels, kmeans, arrays, summary)
    cluster_by_noise(context, first.assignment, labels, kmeans, summary)
    write_stage(folder, key, arrays, summary)


def control_clusters(
    context: Context, features: Any, labels: Any, kmeans: Callable, arrays: Arrays, summary: dict
) -> None:
    """The same K-means on nulls and other features; and the label classes in phi."""
    from unetrep_jax import clusters

    settings = context.settings
    images = context.first_images(settings.images)
    pixels = (np.asarray(images, np.float32) / 255).reshape(len(images), -1)
    dimensions = min(features.shape[1], *pixels.shape)
    sets = {
        "Gaussian of phi's covariance": lambda: clusters.gaussian_null(features, settings.seed),
        "phi, channels permuted": lambda: clusters.permuted_null(features, settings.seed),
        "phi of the untrained network": lambda: phi(context, "untrained", context.working),
        "pixels": lambda: pixels,
        f"first {dimensions} principal components of the pixels": lambda: clusters.pca(pixels, dimensions),
    }
    count = settings.clusters[0]
    with storage.Progress("K-means, controls", len(sets), unit="sets") as progress:
        for number, (name, make) in enumerate(sets.items()):
            control = make()
            assignment = kmeans(control, min(count, len(control)), seed=settings.seed).assignment
            separation = clusters.separation_of_clusters(control, assignment)
            arrays[f"control/{number}"] = np.stack(separation[:2])
            meaningful = labels is not None and "Gaussian" not in name and "permuted" not in name
            summary["controls"][name] = {
                "number": number,
                "images": len(control),
                "separation": describe(separation.ratio),
                "labels": align(assignment, labels[: len(control)]) if meaningful else None,
            }
            progress.advance(1)
    if labels is not None:
        separation = clusters.separation_of_clusters(features, labels)
        arrays["separation/classes"] = np.stack(separation[:2])
        summary["classes"] = {"separation": describe(separation.ratio), "classes": len(np.unique(labels))}


def cluster_by_noise(context: Context, reference: Any, labels: Any, kmeans: Callable, summary: dict) -> None:
    """Clusters of phi at every noise level: separation, agreement with the labels and with the working level's clusters."""
    from unetrep_jax import clusters

    settings = context.settings
    with storage.Progress("K-means by noise level", len(settings.sigmas), unit="levels") as progress:
        for level, sigma in enumerate(settings.sigmas):
            features = phi(context, "representations", level)
            assignment = kmeans(features, settings.clusters[0], seed=settings.seed).assignment
            separation = clusters.separation_of_clusters(features, assignment).ratio
            summary["by_noise"][f"{sigma:g}"] = {
                "separation": describe(separation),
                "agreement_with_working_level_ami": clusters.alignment(assignment, reference).ami,
                "labels": align(assignment, labels),
            }
            progress.advance(1)


def describe(ratios: np.ndarray) -> dict:
    """Quartiles of separation ratios, and how many there are."""
    from unetrep_jax import measures

    finite = ratios[np.isfinite(ratios)]
    quartiles = measures.quartiles(finite) if len(finite) else np.full(3, np.nan)
    return dict(zip(("first_quartile", "median", "third_quartile"), quartiles, strict=True)) | {"count": len(finite)}


def align(assignment: np.ndarray, labels: np.ndarray | None) -> dict | None:
    """AMI, NMI and purity against labels, where there are labels."""
    from unetrep_jax import clusters

    return None if labels is None else clusters.alignment(assignment, labels)._asdict()


def section_clusters(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Tables, separation figures and the grid of images."""
    from unetrep_jax import figures, report

    settings = context.settings
    count = settings.clusters[0]
    scatter = {f"{k} clusters": tuple(arrays[f"separation/{k}"]) for k in settings.clusters}
    if "classes" in summary:
        scatter["label classes"] = tuple(arrays["separation/classes"])
    ratios = {f"phi, {count} clusters": arrays[f"separation/{count}"]}
    if "classes" in summary:
        ratios["phi, label classes"] = arrays["separation/classes"]
    ratios |= {name: arrays[f"control/{control['number']}"] for name, control in summary["controls"].items()}
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = {name: distance / spread for name, (distance, spread) in ratios.items()}
    levels = np.array([float(s) for s in summary["by_noise"]])
    series = {"agreement with the clusters at the working level (AMI)": "agreement_with_working_level_ami"}
    lines = {name: np.array([row[key] for row in summary["by_noise"].values()]) for name, key in series.items()}
    if context.images.labels is not None:
        lines["alignment with labels (AMI)"] = np.array([row["labels"]["ami"] for row in summary["by_noise"].values()])
    agreement = figures.curves(
        levels, lines, xlabel="noise level σ (in units of 1/255)", ylabel="adjusted mutual information"
    )
    return report.Section(
        "Clusters",
        cluster_text(context, summary),
        cluster_tables(context, summary),
        [
            picture(
                context,
                cluster_grid(context, arrays),
                "clusters",
                "The images nearest to their centroid, for the largest clusters of phi; as printed, not selected.",
            ),
            picture(
                context,
                figures.separation_scatter(scatter),
                "separation",
                "Distance of each centroid from its nearest, against the spread between the two (figure 8).",
            ),
            picture(
                context,
                figures.separation_histograms(ratios),
                "separation_controls",
                "Separation ratios of clusters of phi, of label classes, and of K-means on the controls.",
            ),
            picture(context, agreement, "clusters_by_noise", "K-means on phi at each noise level."),
        ],
    )


def cluster_text(context: Context, summary: dict) -> list[str]:
    """What to keep in mind when reading the tables."""
    text = [
        "K-means cuts any cloud into parts that look separated: compare with the Gaussian of the same covariance, which has no "
        "clusters at all, and with the same features permuted over the images."
    ]
    photographs = context.images.provenance.get("photographs")
    if context.images.provenance.get("source") == "photographs":
        number = len(context.images.class_names) if photographs is None else len(photographs)
        text.append(
            f"**These images are crops of {number} photographs.** So few show that the tool works and what it draws; they say "
            "nothing about the published claim, which concerns ImageNet."
        )
    return text


def cluster_tables(context: Context, summary: dict) -> list:
    """Clusters by K, and controls."""
    from unetrep_jax import report

    def labels_of(row):
        labels = row["labels"]
        return (
            (f"{labels['ami']:.3f}", f"{labels['purity']:.3f} ({labels['purity_by_chance']:.3f})")
            if labels
            else (None, None)
        )

    by_count = [
        (
            k,
            quartiles_text({key: row["separation"][key] for key in ("first_quartile", "median", "third_quartile")}),
            None if row["agreement_of_seeds_ami"] is None else f"{row['agreement_of_seeds_ami']:.3f}",
            *labels_of(row),
        )
        for k, row in summary["by_clusters"].items()
    ]
    first = next(iter(summary["by_clusters"].values()))
    rows = [(f"phi, {context.settings.clusters[0]} clusters", summary["images"], first)]
    if "classes" in summary:
        rows.append(("phi, label classes", summary["images"], summary["classes"] | {"labels": None}))
    rows += [(name, row["images"], row) for name, row in summary["controls"].items()]
    controls = [
        (
            name,
            f"{images:,}",
            quartiles_text({key: row["separation"][key] for key in ("first_quartile", "median", "third_quartile")}),
            *labels_of(row),
        )
        for name, images, row in rows
    ]
    level = f"σ = {context.settings.sigma:.0f}/255, {summary['images']:,} images"
    return [
        report.Table(
            f"K-means on phi at {level}: separation ratio of each centroid and its nearest, median (quartiles); agreement "
            f"(AMI) between {context.settings.cluster_seeds} seeds; alignment with labels.",
            ("clusters", "separation", "agreement of seeds", "AMI with labels", "purity (by chance)"),
            by_count,
        ),
        report.Table(
            f"The same measures for controls, {context.settings.clusters[0]} clusters each.",
            ("features", "images", "separation", "AMI with labels", "purity (by chance)"),
            controls,
        ),
    ]


def cluster_grid(context: Context, arrays: Arrays) -> Any:
    """Rows of example images."""
    from unetrep_jax import figures

    rows = arrays["exemplars"]
    images = np.full((*rows.shape, *context.images.images.shape[1:]), np.nan, np.float32)
    images[rows >= 0] = context.images.images[rows[rows >= 0]] / np.float32(255)
    assignment = arrays[f"assignment/{context.settings.clusters[0]}"]
    titles = [f"{np.sum(assignment == k):,} images" for k in arrays["exemplar_clusters"]]
    return figures.cluster_grid(images, arrays["exemplar_clusters"].tolist(), titles)


# --- running stages ----------------------------------------------------------------------------------------------------

STAGES = {
    "denoising": Stage(("images", "first_images", "spectrum_images", "seed"), (), run_denoising, section_denoising),
    "representations": Stage(("images", "sigmas", "draws", "seed"), (), run_representations),
    "untrained": Stage(("images", "untrained_images", "sigmas", "draws", "seed"), (), run_untrained),
    "sparsity": Stage(("sigma",), ("representations", "untrained"), run_sparsity, section_sparsity),
    "clusters": Stage(
        ("sigma", "clusters", "cluster_seeds", "cluster_runs", "seed"),
        ("representations", "untrained"),
        run_clusters,
        section_clusters,
    ),
}


def write_stage(folder: Path, key: str, arrays: Arrays, summary: dict) -> None:
    """Publishes a stage's arrays and numbers at once."""
    with storage.replacing(folder, key) as partial:
        np.savez(partial / "arrays.npz", **arrays)
        storage.write_json(partial / "summary.json", summary)


def stage_key(context: Context, name: str) -> str:
    """Names all that a stage's files depend on."""
    stage = STAGES[name]
    settings = {key: list(v) if isinstance(v := context.settings[key], tuple) else v for key in stage.settings}
    needs = [stage_key(context, other) for other in stage.needs]
    return storage.fingerprint(
        name, context.opened.fingerprint, context.opened.weights, context.images.fingerprint, settings, needs
    )


def wanted_stages(only: list[str] | None) -> list[str]:
    """The stages asked for and those they need, in order."""
    wanted = set(only or STAGES)
    for name in reversed(STAGES):
        if name in wanted:
            wanted |= set(STAGES[name].needs)
    return [name for name in STAGES if name in wanted]


def run_stages(context: Context, only: list[str] | None, redo: list[str]) -> None:
    """Runs what is wanted and not there yet."""
    for name in wanted_stages(only):
        folder, key = context.outdir / name, stage_key(context, name)
        if name not in redo and storage.is_complete(folder, key):
            say(f"{name}: unchanged")
            continue
        began = time.monotonic()
        STAGES[name].run(context, folder, key)
        say(f"{name}: done in {storage.duration(time.monotonic() - began)}")


def write_report(context: Context) -> Path:
    """Figures, `summary.json` and `report.html`, from the arrays of all stages that are up to date."""
    from unetrep_jax import report

    facts = facts_of(context)
    summary, sections = {"facts": facts}, [section_training(context)]
    for name, stage in STAGES.items():
        folder = context.outdir / name
        if stage.section is None or not storage.is_complete(folder, stage_key(context, name)):
            continue
        summary[name] = storage.read_json(folder / "summary.json")
        with np.load(folder / "arrays.npz") as arrays:
            sections.append(stage.section(context, dict(arrays), summary[name]))
    storage.write_json(context.outdir / "summary.json", summary)
    path = context.outdir / "report.html"
    report.write(
        path,
        title="What the denoiser knows",
        sections=[s for s in sections if s],
        facts=facts,
        subtitle=f"{context.opened.folder.name}: a blind denoiser and its representation, on {facts['images']}",
    )
    return path


def facts_of(context: Context) -> dict:
    """What is needed to judge and repeat the analysis."""
    import jax

    provenance = context.images.provenance
    model = context.config.model
    packages = ("jax", "flax", "optax", "orbax-checkpoint", "scikit-learn", "numpy")
    return {
        "checkpoint": f"{context.opened.folder}, step {context.opened.step:,}, {context.opened.weights}",
        "checkpoint sha256": context.opened.fingerprint,
        "network": f"{model.name}, channels {tuple(model.channels)}, {count_parameters(context):,} parameters",
        "trained on": f"{context.config.data.source} {context.config.data.name if context.config.data.source == 'tfds' else ''}".strip(),
        "images": f"{len(context.first_images(context.settings.images)):,} images of {provenance.get('source')} ({provenance.get('split')})",
        "working noise level": f"{context.settings.sigma:.0f}/255, {context.settings.draws} draws",
        "seed": context.settings.seed,
        "machine": f"{platform.machine()}, {jax.device_count()} {jax.devices()[0].device_kind} devices",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "command": context.command,
    }


def count_parameters(context: Context) -> int:
    """Parameters of the network."""
    from unetrep_jax import models

    return models.count_params(context.opened.params)


def section_training(context: Context) -> Any:
    """The run's own curves, where the checkpoint lies in a run."""
    from unetrep_jax import figures, report

    log = context.opened.folder.parent.parent / "metrics.jsonl"
    if not log.exists():
        return None
    lines = [storage.json.loads(line) for line in log.read_text().splitlines()]
    losses, evaluations = [x for x in lines if "loss" in x], [x for x in lines if "psnr" in x]
    if not losses or not evaluations:
        return None
    figure = figures.training_curves(
        np.array([x["images"] for x in losses]),
        np.array([x["loss"] for x in losses]),
        np.array([x["images"] for x in evaluations]),
        np.array([x["psnr"] for x in evaluations]),
        np.array(evaluations[0]["sigma"]),
    )
    return report.Section(
        "Training",
        [],
        [],
        [picture(context, figure, "training", "Training loss, and PSNR on fixed validation images.")],
    )


def picture(context: Context, figure: Any, name: str, caption: str) -> Any:
    """Saves a figure and names it for the report."""
    from unetrep_jax import figures, report

    return report.Picture(figures.save(figure, context.outdir / "figures", name), caption, caption)


# --- command line ------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line on the screen."""
    print(text, flush=True)


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Command line -> (arguments, settings to change)."""
    parser = argparse.ArgumentParser(
        prog="analyze.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ckpt", help="a run folder, a series of checkpoints, or one checkpoint")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the best)")
    parser.add_argument("--weights", help="averaged or params (default: averaged where the run kept them)")
    parser.add_argument(
        "--images", help="folder, .npy file, photographs, or tfds:NAME[:SPLIT] (default: the run's validation images)"
    )
    parser.add_argument("--outdir", help="where results go (default: RUN/analysis)")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run these stages and what they need")
    parser.add_argument(
        "--redo", nargs="+", metavar="STAGE", default=[], help="run these stages even if they are up to date"
    )
    arguments, rest = parser.parse_known_args(argv)
    for name in [*(arguments.only or []), *arguments.redo]:
        if name not in STAGES:
            raise InputError(f"stage {name!r} is unknown. Known: {', '.join(STAGES)}.")
    if not arguments.ckpt:
        raise InputError(
            "--ckpt is missing; give a run folder, such as runs/demo, or a checkpoint, such as pretrained/photo16."
        )
    return arguments, rest


def open_everything(argv: list[str]) -> tuple[Context, argparse.Namespace]:
    """Everything that can be refused is refused here, before anything is written."""
    arguments, rest = parse(argv)
    from unetrep_jax import checkpoints, data, denoiser, devices, models

    opened = checkpoints.open_checkpoint(arguments.ckpt, arguments.step, arguments.weights, say=say)
    config = configs.from_plain(opened.config)
    for argument in rest:
        if argument.startswith("--config.") and not argument.startswith(
            ("--config.analysis.", "--config.data.", "--config.devices.")
        ):
            raise InputError(
                f"{argument.partition('=')[0]} cannot be changed here: only analysis, data and devices settings can."
            )
    configs.override(config, rest)
    check(config)
    devices.start(**config.devices)
    if arguments.images:
        images = data.open_images(
            arguments.images,
            image_size=config.data.image_size,
            image_channels=config.data.image_channels,
            cache_dir=config.data.cache_dir,
            data_dir=config.data.data_dir,
        )
    else:
        images = data.load("validation", **config.data)
    model = models.build(**config.model, image_channels=config.data.image_channels)
    context = Context(
        config,
        opened,
        denoiser.bind(model, opened.params),
        images,
        outdir_of(arguments, opened),
        "python analyze.py " + " ".join(argv),
    )
    return context, arguments


def outdir_of(arguments: argparse.Namespace, opened: Any) -> Path:
    """Beside the checkpoints of a run; under runs/ for a single checkpoint, which stays as it is."""
    if arguments.outdir:
        return Path(arguments.outdir)
    name = (
        "analysis"
        if not arguments.images
        else "analysis-" + re.sub(r"[^A-Za-z0-9.]+", "-", arguments.images).strip("-")
    )
    run = opened.folder.parent.parent
    return (run if (run / "metrics.jsonl").exists() else Path("runs") / opened.folder.name) / name


def check(config: Any) -> None:
    """Refuses analysis settings that cannot work."""
    settings = config.analysis
    if not settings.sigmas or min(settings.sigmas) < 0 or len(set(settings.sigmas)) != len(settings.sigmas):
        raise InputError(
            f"analysis.sigmas needs one or more different levels, 0 or above; got {tuple(settings.sigmas)}."
        )
    if settings.sigma not in settings.sigmas:
        raise InputError(
            f"analysis.sigma = {settings.sigma:g} must be one of analysis.sigmas {tuple(settings.sigmas)}."
        )
    for key in (
        "batch_size",
        "draws",
        "cluster_seeds",
        "cluster_runs",
        "untrained_images",
        "first_images",
        "spectrum_images",
    ):
        if settings[key] < 1:
            raise InputError(f"analysis.{key} must be 1 or more; got {settings[key]}.")
    if not settings.clusters or min(settings.clusters) < 2:
        raise InputError(f"analysis.clusters needs numbers of 2 or more; got {tuple(settings.clusters)}.")


def check_images(context: Context) -> None:
    """Refuses more clusters than images."""
    count = len(context.first_images(context.settings.images))
    if max(context.settings.clusters) > count:
        raise InputError(
            f"analysis.clusters asks for {max(context.settings.clusters)} clusters of {count} images; use fewer clusters."
        )


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 2 bad input or no space; errors are one line."""
    try:
        context, arguments = open_everything(argv)
        check_images(context)
        context.outdir.mkdir(parents=True, exist_ok=True)
        with storage.lock(context.outdir / ".lock"):
            run_stages(context, arguments.only, arguments.redo)
            path = write_report(context)
        say(f"report: {path.resolve()}")
        return 0
    except (InputError, OSError) as error:
        print(f"analyze.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
