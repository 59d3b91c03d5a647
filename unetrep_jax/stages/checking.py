"""What can be refused before anything is computed: settings, images and denoisers that cannot be analysed."""

import sys
from typing import Any

import jax
import jax.numpy as jnp

from unetrep_jax import figures, representation
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser, last_layers
from unetrep_jax.stages import embedding, reconstructing, sampled
from unetrep_jax.stages.context import spread
from unetrep_jax.storage import InputError

MOST_AT_ONCE = 2**16  # images; batches are filled up to their size, and beyond, no memory holds what a network makes of them
# Setting -> the least that it may be.
LEAST = {
    "batch_size": 1, "draws": 1, "cluster_seeds": 1, "cluster_runs": 1, "untrained_images": 1, "first_images": 1,
    "spectrum_images": 1, "selectivity_simulations": 1, "neighbours": 1, "location_images": 2, "images": 0,
    "cluster_members": 2, "location_composites": 30, "top_images_per_channel": 2, "top_images_channels": 0,
    "top_images_common": 0, "top_images_targets": 0, "neighbour_targets": 0, "probe_images": 0,
    "memory_images": 2, "emergence_images": 0, "emergence_clusters": 2,
}  # fmt: skip


def usable_settings(settings: Any) -> Any:
    """The analysis settings without the probe's levels that are not analysed; refuses those that cannot work."""
    sigmas = tuple(settings.sigmas)
    if not sigmas or min(sigmas) < 0 or len(set(sigmas)) != len(sigmas):
        raise InputError(f"analysis.sigmas needs one or more different levels, 0 or above; got {sigmas}.")
    if 0 not in sigmas or max(sigmas) == 0 or settings.robustness_sigma <= 0:
        raise InputError(
            f"analysis.sigmas needs the level 0 and one above, and analysis.robustness_sigma one above 0; got {sigmas} and "
            f"{settings.robustness_sigma:g}."
        )
    if settings.sigma not in sigmas:
        raise InputError(f"analysis.sigma = {settings.sigma:g} must be one of analysis.sigmas {sigmas}.")
    if not 0 <= settings.seed < 2**32:
        raise InputError(f"analysis.seed must lie between 0 and 2^32 - 1; got {settings.seed}.")
    for key, least in LEAST.items():
        if settings[key] < least:
            raise InputError(f"analysis.{key} must be {least} or more; got {settings[key]}.")
    if settings.batch_size > MOST_AT_ONCE:
        raise InputError(f"analysis.batch_size must be {MOST_AT_ONCE:,} or less; got {settings.batch_size}.")
    if not settings.clusters or min(settings.clusters) < 2:
        raise InputError(f"analysis.clusters needs numbers of 2 or more; got {tuple(settings.clusters)}.")
    formats = settings.figure_formats
    if "png" not in formats or not set(formats) <= set(figures.FORMATS):
        raise InputError(
            "analysis.figure_formats needs png, which the report shows, and may name "
            f"{', '.join(kind for kind in figures.FORMATS if kind != 'png')} beside it; got {tuple(formats)}."
        )
    embedding.check_embedding(settings)
    sampled.check_samples(settings)
    reconstructing.check_reconstructions(settings)
    if not settings.probe_sigmas:
        raise InputError(f"analysis.probe_sigmas needs one or more of analysis.sigmas {sigmas}; got ().")
    known = tuple(sigma for sigma in settings.probe_sigmas if sigma in sigmas)
    if unknown := set(settings.probe_sigmas) - set(known):
        names = ", ".join(f"{sigma:g}" for sigma in sorted(unknown))
        print(f"analysis.probe_sigmas: {names} not among analysis.sigmas: left out", file=sys.stderr)
    return changed(settings, probe_sigmas=known or (settings.sigma,))


def usable_images(images: ImageSet, settings: Any) -> tuple[ImageSet, Any]:
    """(no more of the images than analysis.images, without labels where a split withholds them; settings that fit them)."""
    total = len(images.images)
    count = min(total, settings.images or total)
    fitting = tuple(k for k in settings.clusters if 5 * k <= count)
    if not fitting:
        raise InputError(
            f"{count} images are too few for {min(settings.clusters)} clusters (5 images each, on average); "
            f'give fewer: --config.analysis.clusters="({max(2, count // 20)},)".'
        )
    if unfitting := set(settings.clusters) - set(fitting):
        names = ", ".join(map(str, sorted(unfitting)))
        print(f"too few images ({count}) for {names} clusters: left out", file=sys.stderr)
    settings = changed(settings, clusters=fitting)
    if images.labels is not None and images.labels.min() < 0:
        images = images._replace(labels=None)
    if count == total:
        return images, settings
    chosen = spread(total, count)
    labels = None if images.labels is None else images.labels[chosen]
    names = tuple(images.names[i] for i in chosen) if images.names else ()
    fingerprint = f"{images.fingerprint}, {count} of them"
    return images._replace(images=images.images[chosen], labels=labels, names=names, fingerprint=fingerprint), settings


def check_denoiser(denoiser: Denoiser, image_shape: tuple[int, ...], what: str) -> None:
    """Refuses functions that do not keep the contract of `denoiser.Denoiser`, from shapes alone but for `middle`."""
    one = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    names, last = denoiser.block_names, last_layers(list(jax.eval_shape(denoiser.activations, one)))
    if missing := [name for name in names[:-1] if name not in last]:
        raise InputError(f"{what}: block {missing[0]!r} has no activations; give one named {missing[0]}.0.")
    if "mid" not in names[:-1]:
        raise InputError(f"{what}: block_names needs a block named mid before the last one; got {', '.join(names)}.")
    encoders = {name for name in names if name.startswith("encoder")}
    if len(encoders) == 0:
        raise InputError(f"{what}: block_names needs a block named encoder0 before mid; got {', '.join(names)}.")
    for name in names[:-1]:
        if name.startswith("decoder") and name.replace("decoder", "encoder") not in encoders:
            raise InputError(f"{what}: block {name} needs an encoder of the same number; got {', '.join(names)}.")
    if (denoised := jax.eval_shape(denoiser.denoise, one).shape) != one.shape:
        raise InputError(f"{what}: denoise gives {denoised} for images {one.shape}; it must keep the shape.")
    width = representation.layout(denoiser, image_shape).columns["mid"]
    if (phi := jax.eval_shape(denoiser.represent, one).shape) != (1, width[1] - width[0]):
        raise InputError(
            f"{what}: represent gives {phi} for one image; it must be the mean of mid's {width[1] - width[0]} channels."
        )
    if denoiser.middle is not None:
        check_middle(denoiser, image_shape, what)


def check_middle(denoiser: Denoiser, image_shape: tuple[int, ...], what: str) -> None:
    """Refuses a denoiser that is not what its `middle` says, by one image of noise: what is read must go back and denoise it."""
    one = jax.random.uniform(jax.random.key(0), (1, *image_shape), jnp.float32)
    whole, again = denoiser.denoise(one), denoiser.middle.denoise(one, denoiser.middle.read(one))
    if again.shape != whole.shape or not jnp.allclose(again, whole, rtol=1e-3, atol=1e-3 * abs(whole).max()):
        raise InputError(f"{what}: middle.denoise(y, middle.read(y)) is not denoise(y); take the same one apart, or give none.")


def changed(settings: Any, **values: Any) -> Any:
    """A copy of the settings with other values."""
    copy = settings.copy_and_resolve_references()
    with copy.unlocked():
        copy.update(values)
    return copy
