"""What the cluster stage clusters: phi, nulls made from it, and controls; each with a name that its rows follow from."""

from typing import NamedTuple

import numpy as np

from unetrep_jax import clusters
from unetrep_jax.stages.context import Context, phi, spread

PIXEL_IMAGES = 10_000  # images whose pixels are clustered: more would take hours for a control
NULLS = {"gaussian_null": clusters.gaussian_null, "permuted_null": clusters.permuted_null}


class Features(NamedTuple):
    """What K-means clusters.

    Attributes:
      name: JSON-like; together with checkpoint and images it determines the rows.
      rows: features, [n, d].
      images: the image of each row, a position among those analysed; None where rows belong to no image any more.
    """

    name: list
    rows: np.ndarray
    images: np.ndarray | None

    def part(self, which: str, rows: np.ndarray) -> "Features":
        """Some of the rows."""
        return Features([*self.name, which], self.rows[rows], None if self.images is None else self.images[rows])

    def labels(self, context: Context) -> np.ndarray | None:
        """The label of each row, where there are labels."""
        every = context.images.labels
        return None if every is None or self.images is None else every[self.images]


def phi_features(context: Context, stage: str, level: int, members: np.ndarray | None = None) -> Features:
    """phi of a sweep's images at one noise level, or of those of them at the positions `members`."""
    settings, rows = context.settings, phi(context, stage, level)
    of_stage = np.arange(len(context.images.images)) if stage == "representations" else context.untrained_subset
    sigma = float(settings.sigmas[level])
    name = ["phi", stage, sigma, settings.draws if sigma else 1, settings.seed, len(rows)]
    features = Features(name, rows, of_stage)
    return features if members is None else features.part(f"{len(members)} spread", members)


def null_features(kind: str, features: Features, seed: int) -> Features:
    """Features without clusters, made from others."""
    return Features([kind, seed, *features.name], NULLS[kind](features.rows, seed), None)


def pixel_features(context: Context) -> Features:
    """Intensities of the images, of so many as K-means takes, evenly spread."""
    images = spread(len(context.images.images), PIXEL_IMAGES)
    pixels = context.images.images[images].reshape(len(images), -1).astype(np.float32)
    pixels /= 255
    return Features(["pixels", len(images)], pixels, images)


def pixel_components(context: Context, dimensions: int) -> Features:
    """First principal components of the pixels, as many as phi has channels."""
    pixels = pixel_features(context)
    dimensions = min(dimensions, *pixels.rows.shape)
    return Features(["components", dimensions, *pixels.name], clusters.pca(pixels.rows, dimensions), pixels.images)


def noisy_components(context: Context, components: Features, level: int) -> Features:
    """Components of the pixels with fresh noise, averaged over as many draws as phi.

    The components are orthonormal, so averaged white noise of the images is white noise in them.
    """
    settings, sigma = context.settings, float(context.settings.sigmas[level])
    if sigma == 0:
        return components
    rng = np.random.default_rng([settings.seed, round(1000 * sigma)])
    noise = rng.standard_normal(components.rows.shape, np.float32)
    rows = components.rows + np.float32(sigma / 255 / np.sqrt(settings.draws)) * noise
    return Features([*components.name, "noise", sigma, settings.draws, settings.seed], rows, components.images)
