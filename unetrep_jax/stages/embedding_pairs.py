"""The pairs of images whose densities are compared, and how far apart they are in phi and in controls."""

import numpy as np
from sklearn.decomposition import PCA

from unetrep_jax import densities, devices, neighbours, representation
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.channels import count_channels
from unetrep_jax.stages.context import Arrays, Context, layout_of, phi, spread
from unetrep_jax.storage import InputError

RANDOM_PAIRS, NEAREST = 10_000, 500  # candidates for pairs: at random, and images beside their nearest neighbour
PHI_DRAWS = 100  # at least: noise draws for the distances in phi, beside which few would make near pairs look far apart
OTHERS = 2000  # images that the principal components are fitted on
PURPOSE = 13  # sets this stage's random numbers apart from other stages'


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


def squared_distances(context: Context, pairs: np.ndarray) -> Arrays:
    """Squared distances in phi and, as controls, in pixels, their principal components, and the untrained network's phi.

    With `noise_in_squares`: what the finite number of noise draws adds to each squared distance in phi, on average; and
    `channels/*`: all channels of either phi, those that are 0 for all of these images, and others that are the same.
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
    for name in ("phi", "untrained"):
        result[f"channels/{name}"] = np.array(list(count_channels(sets[name]).values()))
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
