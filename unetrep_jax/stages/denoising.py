"""PSNR of the network against noise level, beside Wiener filters that know the level."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import baselines, devices, figures, measures, middle, report, storage, training
from unetrep_jax.denoiser import Middle
from unetrep_jax.stages.context import Arrays, Context, picture, spread, write_stage
from unetrep_jax.stages.wording import estimate_of, estimate_text
from unetrep_jax.storage import InputError

MIDDLE_TEXT = (
    "Does the output depend on what phi is read from? A network can denoise well by its outer scales alone, while its middle "
    "block has fallen silent or says the same of every image. Training then teaches phi nothing, and all that follows is said of "
    "a remainder. The claim's number tells; initial gains of 1 (`model.gain_init = one`) with a low learning rate or without "
    "biases (`model.bias = False`), and decoders of few layers (`model.decoder_depth`), keep it in use."
)
PUBLISHED_SIGMAS = np.float32([10, 25, 50, 100]) / np.float32(255)


def run_denoising(context: Context, folder: Path, key: str) -> None:
    """PSNR of the network and of two Wiener filters, per image; and pictures."""
    settings = context.settings
    images = context.images.images
    grid = np.geomspace(0.01, 1, 10).astype(np.float32)
    sigmas = np.unique(np.concatenate([PUBLISHED_SIGMAS, grid]))
    methods = {"network": ((), lambda _, y, sigma: context.denoiser.denoise(y))}
    spectrum, spectrum_images = training_spectrum(context)
    if spectrum is not None:
        methods["Wiener"] = (spectrum, baselines.wiener)
        methods["Wiener, channels apart"] = (spectrum, functools.partial(baselines.wiener, channelwise=True))
    arrays: Arrays = {"sigmas": sigmas}
    for name, (constants, denoise) in methods.items():
        arrays[f"psnr/{name}"], arrays["psnr/noisy"] = psnr_of(context, denoise, constants, images, sigmas, name)
    if spectrum is not None:
        arrays |= psnr_of_training_images(context, {name: methods[name] for name in ("network", "Wiener")})
    if apart := context.denoiser.middle:
        arrays["held"] = psnr_held(context, apart)
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
        "training_images": None if spectrum is None else remembered(context, arrays, np.searchsorted(sigmas, PUBLISHED_SIGMAS)),
        "middle_block": middle_block(context, arrays, np.searchsorted(sigmas, PUBLISHED_SIGMAS)) if apart else None,
    }
    write_stage(folder, key, arrays, summary)


def training_spectrum(context: Context) -> tuple[Any, int]:
    """(mean power spectrum of the training images, how many), or (None, 0) where they are not at hand."""
    try:
        train_set = context.training_images()
        if train_set.images.shape[1:] != context.images.images.shape[1:]:
            raise InputError("they have another size")
    except (InputError, OSError) as error:
        print(f"no Wiener filter: the training images cannot be read ({str(error).splitlines()[0]})", file=sys.stderr)
        return None, 0
    chosen = spread(len(train_set.images), context.settings.spectrum_images)
    return baselines.mean_and_spectrum(train_set.images[chosen]), len(chosen)


def psnr_of_training_images(context: Context, methods: dict[str, tuple[Any, Callable]]) -> Arrays:
    """PSNR of images that it was trained on at the published levels, with noise that no other image here has."""
    training_set = context.training_images().images
    seen = training_set[spread(len(training_set), context.settings.memory_images)]
    above = len(context.images.images)
    return {
        f"training/{name}": psnr_of(
            context, denoise, constants, seen, PUBLISHED_SIGMAS, f"{name}, training images", above
        )[0]
        for name, (constants, denoise) in methods.items()
    }


def remembered(context: Context, arrays: Arrays, columns: np.ndarray) -> dict:
    """How much better the network does on the images that it was trained on than on the analysed ones.

    Beyond the Wiener filter, for some images are easier than others for any denoiser, and one spectrum remembers little of any.
    Means over images, intervals by the bootstrap (Efron 1979), the two sets resampled apart. That tells of memory only where both
    are samples of one source (`alike`).
    """
    seed = context.settings.seed
    gains = [
        arrays["training/network"] - arrays["training/Wiener"],
        (arrays["psnr/network"] - arrays["psnr/Wiener"])[:, columns],
    ]
    of_training, of_analysed = (
        measures.bootstrap_means(gain, seed=number) for number, gain in enumerate(gains, start=seed)
    )
    sources = (context.training_images().provenance, context.images.provenance)
    return {
        "images": len(gains[0]),
        "alike": same_source(*sources),
        "psnr_db": {name: arrays[f"training/{name}"].mean(axis=0) for name in ("network", "Wiener")},
        "gain_over_wiener_db": estimate_of(of_training),
        "gain_over_wiener_of_analysed_db": estimate_of(of_analysed),
        "more_db": estimate_of(of_training - of_analysed),
    }


def psnr_held(context: Context, apart: Middle) -> np.ndarray:
    """PSNR [n, published levels] where the middle block says nothing of an image; see `middle.psnr_held`."""
    images, settings = context.images.images, context.settings
    with storage.Progress("denoising, middle block held", 2 * len(images) * len(PUBLISHED_SIGMAS)) as progress:
        return middle.psnr_without(
            apart,
            images,
            np.arange(len(images)),
            PUBLISHED_SIGMAS,
            seed=settings.seed,
            batch_size=settings.batch_size,
            done=progress.advance,
        )


def middle_block(context: Context, arrays: Arrays, columns: np.ndarray) -> dict:
    """What the middle block is worth: the PSNR that is lost where it says the same of every image, means over images in dB.

    See `middle.psnr_held`. The intervals are by the bootstrap over images (Efron 1979).
    """
    lost = arrays["psnr/network"][:, columns] - arrays["held"]
    return {
        "psnr_db": arrays["held"].mean(axis=0),
        "gives_db": estimate_of(measures.bootstrap_means(lost, seed=context.settings.seed)),
    }


def same_source(training: dict, analysed: dict) -> bool:
    """Whether two sets are samples of the same images, as far as they say where they come from; photographs' crops are not."""
    kinds = {provenance.get("source") for provenance in (training, analysed)}
    return kinds <= {"tfds", "folder"} and len(kinds) == 1 and training.get("from") == analysed.get("from")


def psnr_of(
    context: Context, denoise: Callable, constants: Any, images: Any, sigmas: Any, label: str, numbered_from: int = 0
) -> Any:
    """(denoised, noisy) PSNR [n, levels]; an image's noise comes from its number, counted from `numbered_from`."""
    size = context.settings.batch_size
    step = devices.parallel_map(training.psnr_step(denoise, seed=context.settings.seed), size)
    constants = devices.replicate(constants, local=True)
    levels = np.split(sigmas, len(sigmas))  # one at a time: one program for every set of levels
    results = []
    with storage.Progress(f"denoising, {label}", len(images)) as progress:
        for first in range(0, len(images), size):
            index = np.arange(first, min(first + size, len(images)), dtype=np.int32)
            rows = (np.asarray(images[index]), index + np.int32(numbered_from))
            at_levels = [step((constants, level), rows) for level in levels]
            results.append([np.concatenate(part, axis=1) for part in zip(*at_levels, strict=True)])
            progress.advance(len(index))
    return tuple(np.concatenate(part) for part in zip(*results, strict=True))


def pictures_of(context: Context, images: Any, sigma: Any) -> Any:
    """(clean, noisy, denoised) images."""
    step = training.denoise_step(lambda _, y, sigma: context.denoiser.denoise(y), seed=context.settings.seed)
    return devices.parallel_map(step, len(images))(((), sigma), (np.asarray(images), np.arange(len(images), dtype=np.int32)))


def section_denoising(context: Context, arrays: Arrays, summary: dict) -> Any:
    """PSNR table, curve and pictures."""
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
    memory, worth = summary["training_images"], summary["middle_block"]
    header = ("", *(f"σ = {255 * s:.0f}/255" for s in PUBLISHED_SIGMAS))
    rows = [(titles[name], *(f"{value:.2f}" for value in psnr[name].mean(axis=0)[columns])) for name in order]
    caption = f"PSNR in dB, mean over {summary['images']:,} images; peak 1, nothing clipped."
    if worth:
        rows.append(("network, its middle block held", *(f"{value:.2f}" for value in worth["psnr_db"])))
        caption += " Held: decoders see the mean over all other images in place of the middle block's output."
    if not summary["spectrum_images"]:
        caption += " The training images are not at hand here, so there is no Wiener filter to compare with."
    else:
        caption += (
            f" The Wiener filters know σ and the mean power spectrum of {summary['spectrum_images']:,} training images."
        )
    if memory:
        for name in ("Wiener", "network"):
            values = memory["psnr_db"][name]
            rows.append((f"{titles[name]}, on training images", *(f"{value:.2f}" for value in values)))
        caption += f" The last two rows: the same of {memory['images']:,} images that it was trained on."
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
            "The network is blind: it is never told the noise level. "
            "The Wiener filter, the best linear shift-invariant denoiser, is.",
            *([memory_text(memory)] if memory else []),
            *([MIDDLE_TEXT] if worth else []),
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
        [middle_claim(worth)] if worth else [],
    )


def middle_claim(worth: dict) -> Any:
    """Whether the denoiser uses what phi is read from. The null, a middle block that says nothing, gives 0 dB by construction."""
    gives = worth["gives_db"]
    of_levels = ", ".join(
        f"{estimate_text(gives, level=level)} at {255 * sigma:.0f}/255" for level, sigma in enumerate(PUBLISHED_SIGMAS)
    )
    return report.Claim(
        "The denoiser uses what its middle block says of an image (PSNR that is lost where that is the same for all images).",
        None,
        f"{of_levels} (dB)",
        "a block that says nothing: 0",
        report.verdict(*((low > 0, False) for low in gives["low"])),
    )


def memory_text(memory: dict) -> str:
    """Does it remember the images that it was trained on?"""
    of_levels = ", ".join(
        f"{estimate_text(memory['more_db'], level=level)} at {255 * sigma:.0f}/255"
        for level, sigma in enumerate(PUBLISHED_SIGMAS)
    )
    text = (
        "Does it remember its training images? Then it would be further above the Wiener filter there than on the analysed ones. "
        f"It is so by (dB, 95 % intervals over images): {of_levels}."
    )
    if not memory["alike"]:
        text += " But the two sets come from different places, and may differ in more than in having been seen."
    return text
