"""Whether phi tells where an object is: things pasted into images, and their places decoded."""

from typing import NamedTuple

import numpy as np

from unetrep_jax import clusters, measures
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Arrays, Context, phi_to, spread
from unetrep_jax.stages.shifting import PADDING, stride_of
from unetrep_jax.stages.wording import estimate_of
from unetrep_jax.storage import InputError

OBJECTS = 3  # pasted things, each with its own composites and its own regression
SHOWN = 6  # composites of each that are drawn
COMPOSITES, PERMUTATION = 61, 62  # what random numbers are for sets them apart from others of the same seed


class Composites(NamedTuple):
    """Images into which an object was pasted.

    Attributes:
      images: uint8 [n h w c].
      corners: row and column of the object's upper left corner, in strides, [n 2].
      objects: which object, [n].
      backgrounds: which analysed image, [n].
    """

    images: np.ndarray
    corners: np.ndarray
    objects: np.ndarray
    backgrounds: np.ndarray


def object_side(shape: tuple[int, ...]) -> int:
    """Pixels on each side of an object."""
    return min(shape[:2]) // 2


def compose(images: np.ndarray, count: int, stride: int, seed: int) -> Composites:
    """Pastes objects at random multiples of the stride.

    An object is the middle of an analysed image, half as wide (half as wide again, and a linear fit on pixels would not find it
    either: R^2 below 0.1 on photographs); these images, spread over the set and so not chosen by their looks, are no backgrounds.
    Each composite has a background of its own while there are enough.

    Raises:
      InputError: too few composites for a regression, or too few images for backgrounds.
    """
    if count < 10 * OBJECTS or len(images) < 2 * OBJECTS:
        raise InputError(
            f"analysis.location_composites = {count} on {len(images)} images: placing {OBJECTS} objects needs {10 * OBJECTS} "
            f"composites and {2 * OBJECTS} images or more."
        )
    rng, (height, width) = np.random.default_rng([seed, COMPOSITES]), images.shape[1:3]
    side = object_side(images.shape[1:])
    sources = np.unique(spread(len(images), OBJECTS))
    others = rng.permutation(np.setdiff1d(np.arange(len(images)), sources))
    backgrounds, objects = np.resize(others, count), rng.permutation(np.arange(count) % OBJECTS)
    most = np.array([(height - side) // stride, (width - side) // stride])
    corners = rng.integers(0, most + 1, size=(count, 2))
    composites = np.asarray(images[backgrounds])
    down, right = (height - side) // 2, (width - side) // 2
    for composite, (row, column), source in zip(composites, stride * corners, sources[objects], strict=True):
        composite[row : row + side, column : column + side] = images[source, down : down + side, right : right + side]
    return Composites(composites, corners, objects, backgrounds)


def place_objects(context: Context, networks: dict[str, Denoiser], key: str, arrays: Arrays) -> dict:
    """How well the object's row and column are decoded from phi, from pixels, and from phi with places permuted."""
    settings, images = context.settings, context.images.images
    stride = stride_of(context.denoiser, images.shape[1:])
    composites = compose(images, settings.location_composites, stride, settings.seed)
    arrays["examples"] = np.stack([composites.images[composites.objects == o][:SHOWN] for o in range(OBJECTS)])
    features = composite_features(context, networks, composites, stride, key)
    targets = targets_of(composites)
    decoded = {name: decode(values, targets, composites, settings.seed) for name, values in features.items()}
    permuted = permuted_within_objects(targets, composites.objects, settings.seed)
    decoded["chance"] = decode(features["trained"], permuted, composites, settings.seed)
    pairs = {name: decoded["trained"].both - decoded[name].both for name in decoded if name != "trained"}
    return {
        "composites": len(composites.images),
        "side": object_side(images.shape[1:]),
        "places": [int(n) for n in composites.corners.max(0) + 1],
        "decoded": {name: found.summary for name, found in decoded.items()},
        "lead": {name: estimate_of(difference) for name, difference in pairs.items()},
    }


def targets_of(composites: Composites) -> np.ndarray:
    """What is decoded [n, 3]: row and column of the object, and as a control the composite's mean intensity."""
    return np.column_stack([composites.corners, composites.images.mean(axis=(1, 2, 3)) / 255])


def permuted_within_objects(targets: np.ndarray, objects: np.ndarray, seed: int) -> np.ndarray:
    """Targets permuted over the composites of each object: what is left to decode is chance."""
    rng, permuted = np.random.default_rng([seed, PERMUTATION]), targets.copy()
    for which in range(OBJECTS):
        permuted[objects == which] = rng.permutation(targets[objects == which])
    return permuted


def composite_features(
    context: Context, networks: dict[str, Denoiser], composites: Composites, stride: int, key: str
) -> dict[str, np.ndarray]:
    """phi of each network at the working level; pixels of the composites (without noise), averaged, and their components."""
    features = {}
    for name, network in networks.items():
        here = context._replace(denoiser=network, identity=f"{key} {name}")
        features[name] = phi_to(
            context.outdir / "placed" / name, here, composites.images, f"composites, {PADDING[name]}"
        )
    count, height, width, channels = composites.images.shape
    pixels = composites.images.astype(np.float32) / 255
    squares = pixels.reshape(count, height // stride, stride, width // stride, stride, channels).mean((2, 4))
    flat = pixels.reshape(count, -1)
    features["squares"] = squares.reshape(count, -1)
    features["components"] = clusters.pca(flat, min(features["trained"].shape[1], *flat.shape))
    return features


class Decoded(NamedTuple):
    """How well places are decoded.

    Attributes:
      both: R^2 of rows and columns together, for all composites and for bootstrap draws of their backgrounds.
      summary: R^2 of rows, of columns, of both, and of the mean intensity, with intervals; of both for each object.
    """

    both: np.ndarray
    summary: dict


DECODED = {"row": [0], "column": [1], "both": [0, 1], "intensity": [2]}  # columns of the targets


def decode(features: np.ndarray, targets: np.ndarray, composites: Composites, seed: int) -> Decoded:
    """R^2 = 1 - sum (y - prediction)^2 / sum (y - mean)^2 of ridge regression, one for each object, on held-out backgrounds.

    Predictions are kept within the range of the targets, which for places is known beforehand: a sparse channel that hardly fired
    in the images learnt from can be hundreds of its deviations out in another, and the fit with it. The bootstrap draws
    backgrounds, each with all its composites: those that share one are not independent.
    """
    errors, spreads, by_object = np.empty_like(targets), np.empty_like(targets), []
    for which in range(OBJECTS):
        members = composites.objects == which
        here, groups = targets[members], composites.backgrounds[members]
        predictions = measures.cross_validated_ridge(np.asarray(features[members]), here, groups)
        predictions = predictions.clip(here.min(0), here.max(0))
        errors[members], spreads[members] = (here - predictions) ** 2, (here - here.mean(0)) ** 2
        by_object.append(float(1 - errors[members, :2].sum() / spreads[members, :2].sum()))
    sums = sums_by(np.concatenate([errors, spreads], axis=1), composites.backgrounds)
    means = measures.bootstrap_means(sums, seed=seed)
    error, spread_of = np.split(means, 2, axis=1)
    explained = {name: 1 - error[:, c].sum(1) / spread_of[:, c].sum(1) for name, c in DECODED.items()}
    summary = {name: estimate_of(values) for name, values in explained.items()}
    return Decoded(explained["both"], summary | {"by_object": by_object, "features": features.shape[1]})


def sums_by(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of the rows of each group, [groups, columns]."""
    names, group = np.unique(groups, return_inverse=True)
    sums = np.zeros((len(names), values.shape[1]))
    np.add.at(sums, group, values)
    return sums
