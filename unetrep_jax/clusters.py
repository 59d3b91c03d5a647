"""K-means on representations: how far apart its clusters lie, how they line up with labels, what chance would give."""

import contextlib
import functools
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Float64, Int32, Int64, Integer
from sklearn.cluster import KMeans, kmeans_plusplus
from sklearn.decomposition import PCA
from sklearn.exceptions import ConvergenceWarning
from sklearn.manifold import TSNE
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score, pairwise_distances_argmin
from sklearn.metrics.cluster import contingency_matrix
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import ThreadpoolController

from unetrep_jax.measures import Separation, group_means, separations
from unetrep_jax.storage import InputError

MEMORY = 4 << 30  # bytes that copies of the features may take: one for each run at a time


class Clustering(NamedTuple):
    """A K-means solution.

    Attributes:
      assignment: the cluster of each row.
      centroids: one row per cluster.
      inertia: sum over the rows of the squared distance to their centroid.
      iterations: Lloyd iterations made; as many as were allowed when the run was cut short.
    """

    assignment: Int32[np.ndarray, "n"]
    centroids: Float32[np.ndarray, "k d"]
    inertia: float
    iterations: int


def kmeans(
    features: Float[np.ndarray, "n d"],
    clusters: int,
    *,
    seed: int,
    runs: int = 10,
    iterations: int = 100,
    init_sample: int = 10_000,
    on_run: Callable[[int], object] | None = None,
) -> Clustering:
    """K-means, the best of several runs from k-means++ starts.

    Each start is drawn by k-means++ (Arthur & Vassilvitskii 2007) from a random sample of the rows, because on all of
    them the start costs many times what the iterations cost. The published analysis drew from all rows, with ten runs
    and seed 42 (Kadkhodaie, Mallat & Simoncelli 2025, arXiv 2506.01912, authors' code).

    Every run is on one thread, as many runs at once as there are cores: equal seeds give equal results, whatever the
    number of cores, and the first runs of a seed are the same however many follow. When fewer than `clusters` rows differ,
    some clusters stay empty. Lloyd's iterations and not Elkan's, in float32.

    Args:
      features: one row per image, finite.
      clusters: their number, K.
      seed: determines samples and starts.
      runs: independent starts; the lowest inertia wins.
      iterations: the most Lloyd iterations in a run.
      init_sample: rows that a start is drawn from; taken as at least two for each cluster, and at most all there are.
      on_run: called with 1 after each run, as `storage.Progress.advance` is.

    Raises:
      InputError: more clusters than rows, a number below 1, or features that are not finite.
    """
    if not 1 <= clusters <= len(features):
        raise InputError(
            f"K-means with {clusters} clusters needs from 1 to {len(features)} of them, one image each at least: "
            "ask for fewer clusters or give more images"
        )
    if min(runs, iterations, init_sample) < 1:
        raise InputError(
            f"K-means with {runs} runs, {iterations} iterations and a sample of {init_sample} cannot start: "
            "set each to at least 1"
        )
    rows, size = _finite(features), min(len(features), max(init_sample, 2 * clusters))

    def run(sequence: np.random.SeedSequence) -> Clustering:
        rng = np.random.default_rng(sequence)
        sample = rows[rng.choice(len(rows), size, replace=False)]
        with _one_thread(user_api="openmp"):
            start, _ = kmeans_plusplus(sample, clusters, random_state=int(rng.integers(2**32)))
            return _lloyd(rows, start, iterations)

    at_once = max(1, min(runs, os.cpu_count() or 1, MEMORY // rows.nbytes))
    best = None
    with _few_distinct_rows_allowed(), _one_thread(user_api="blas"), ThreadPoolExecutor(at_once) as pool:
        for found in pool.map(run, np.random.SeedSequence(seed).spawn(runs)):
            best = found if best is None or found.inertia < best.inertia else best
            if on_run is not None:
                on_run(1)
    return best


def kmeans_from(
    features: Float[np.ndarray, "n d"], start: Float[np.ndarray, "k d"], *, iterations: int = 100
) -> Clustering:
    """K-means: one run of Lloyd's iterations from given centroids, as from the means of labelled classes; on one thread.

    Stops when no assignment changes, when the centroids move by less than scikit-learn's tolerance (1e-4 of the mean
    variance of a feature), or after `iterations`.

    Raises:
      InputError: more centroids than rows; features or centroids that are not finite (an empty class has no mean).
    """
    if len(start) > len(features):
        raise InputError(
            f"K-means from {len(start)} centroids needs at least as many images, got {len(features)}: start from fewer"
        )
    with _few_distinct_rows_allowed(), _one_thread():
        return _lloyd(_finite(features), _finite(start), iterations)


@contextlib.contextmanager
def _few_distinct_rows_allowed() -> Iterator[None]:
    """Silences scikit-learn where fewer distinct rows than clusters leave some empty."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


def _one_thread(user_api: str | None = None) -> contextlib.AbstractContextManager:
    """One thread for what runs inside: sums in one order, and no waiting of threads for each other on small arrays."""
    return _libraries().limit(limits=1, user_api=user_api)


@functools.cache
def _libraries() -> ThreadpoolController:
    """Of the libraries that bring threads, which are all loaded by now: looking for them takes longer than a small K-means."""
    return ThreadpoolController()


def _lloyd(rows: Float32[np.ndarray, "n d"], start: Float32[np.ndarray, "k d"], iterations: int) -> Clustering:
    found = KMeans(len(start), init=start, n_init=1, max_iter=iterations).fit(rows)
    return Clustering(found.labels_.astype(np.int32), found.cluster_centers_, float(found.inertia_), int(found.n_iter_))


class Course(NamedTuple):
    """K-means on its way from given centroids; first, before any iteration, each row at its nearest.

    Attributes:
      iterations: Lloyd iterations made so far.
      assignment: the cluster of each row after so many.
      moved: how far each centroid is from where it began.
    """

    iterations: Int32[np.ndarray, "t"]
    assignment: Int32[np.ndarray, "t n"]
    moved: Float64[np.ndarray, "t k"]


def kmeans_course(
    features: Float[np.ndarray, "n d"],
    start: Float[np.ndarray, "k d"],
    moments: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100),
) -> Course:
    """The run of `kmeans_from` as seen after these numbers of iterations (rising); the last is where it stopped.

    Raises:
      InputError: as `kmeans_from`.
    """
    course = [(0, nearest_centroid(features, _finite(start)), np.zeros(len(start)))]
    centroids, done = start, 0
    for moment in moments:
        found = kmeans_from(features, centroids, iterations=moment - done)
        done, stopped = done + found.iterations, found.iterations < moment - done
        centroids = found.centroids
        course.append((done, found.assignment, np.sqrt(_squared_distance(centroids, start))))
        if stopped:
            break
    iterations, assignment, moved = zip(*course, strict=True)
    return Course(np.int32(iterations), np.stack(assignment), np.stack(moved))


def _finite(values: Float[np.ndarray, "n d"]) -> Float32[np.ndarray, "n d"]:
    if not np.isfinite(values).all():
        rows = np.flatnonzero(~np.isfinite(values).all(1))
        raise InputError(
            f"K-means needs finite numbers, got NaN or infinity in {len(rows)} of {len(values)} rows "
            f"(the first is row {rows[0]}): leave them out"
        )
    return np.ascontiguousarray(values, np.float32)


def nearest_centroid(features: Float[np.ndarray, "n d"], centroids: Float[np.ndarray, "k d"]) -> Int32[np.ndarray, "n"]:
    """The centroid nearest to each row (Euclidean): how images that had no part in the fit join clusters.

    A centroid that holds NaN (an empty group) is nobody's nearest. At least one must not.
    """
    usable = np.flatnonzero(~np.isnan(centroids).any(1))
    with _one_thread():
        nearest = pairwise_distances_argmin(_finite(features), _finite(centroids[usable]))
    return usable[nearest].astype(np.int32)


def adjacent(centroids: Float[np.ndarray, "k d"]) -> Int32[np.ndarray, "k"]:
    """Each centroid's nearest other centroid (Euclidean).

    -1 for a centroid that holds NaN (an empty group), which is nobody's neighbour either, and for one that is alone.
    """
    nearest = np.full(len(centroids), -1, np.int32)
    usable = np.flatnonzero(~np.isnan(centroids).any(1))
    if len(usable) > 1:
        nearest[usable] = usable[_nearest_other(np.asarray(centroids[usable], np.float64))]
    return nearest


def _nearest_other(points: Float[np.ndarray, "n d"]) -> Int64[np.ndarray, "n"]:
    """The nearest other row of each (Euclidean)."""
    with _one_thread():
        search = NearestNeighbors(n_neighbors=1, algorithm="brute").fit(points)
        return search.kneighbors(return_distance=False)[:, 0]


def separation_of_clusters(
    features: Float[np.ndarray, "n d"], assignment: Integer[np.ndarray, "n"], min_members: int = 2
) -> Separation:
    """Separation of each group from the group with the nearest mean, for clusters or for label classes.

    Which pairs of clusters the published scatter shows is not stated: each with its nearest is our choice.

    Args:
      features: one row per image.
      assignment: the group of each row; a negative number means none.
      min_members: smaller groups are left out and are nobody's neighbour. A single point has no spread, which would
        make it look far from everything.

    Returns:
      Arrays [number of groups], in the order of the groups; NaN for those left out, or when only one group is left.
    """
    sizes = np.bincount(assignment[assignment >= 0])
    means = group_means(features, assignment, len(sizes))
    means[sizes < min_members] = np.nan
    nearest = adjacent(means)
    paired = np.flatnonzero(nearest >= 0)
    values = np.full((3, len(sizes)), np.nan)
    values[:, paired] = separations(features, assignment, np.stack([paired, nearest[paired]], 1))
    return Separation(*values)


def held_out_separation(
    features: Float[np.ndarray, "n d"],
    assignment: Integer[np.ndarray, "n"],
    centroids: Float[np.ndarray, "k d"],
    min_members: int = 2,
) -> Separation:
    r"""Separation of groups on rows that had no part in finding their centroids.

        distance = <m_k - m_l, u>,   spread^2 = E_k <x - m_k, u>^2 + E_l <x - m_l, u>^2,   u = (c_k - c_l) / ||c_k - c_l||

    with c_l the centroid nearest to c_k, m the means of the rows given here and E the means over them. Among the rows
    that K-means was fitted to, pairs and directions are chosen on the very points whose separation is then measured,
    which inflates it, the more so the fewer images a cluster has. Here they come from the fit alone, and means that
    differ by chance count nothing. What remains of K-means' own doing is the cut between two cells.

    Args:
      features: one row per image.
      assignment: the group of each row, as by `nearest_centroid`, or its label; a negative number means none.
      centroids: means of the groups among other images; NaN for a group that has none.
      min_members: pairs in which a group has fewer rows here are left out.

    Returns:
      Arrays [k], in the order of the centroids; NaN for those left out. A distance, and with it a ratio, is negative
      where the means lie the other way round here.
    """
    nearest = adjacent(centroids)
    order = np.argsort(assignment, kind="stable")
    members = np.split(order, np.searchsorted(assignment[order], np.arange(len(centroids) + 1)))[1:-1]
    values = np.full((3, len(centroids)), np.nan)
    for group, other in enumerate(nearest):
        if other < 0 or min(len(members[group]), len(members[other])) < min_members:
            continue
        direction = centroids[group].astype(np.float64) - centroids[other]
        length = np.linalg.norm(direction)
        if length > 0:
            own, others = (features[members[g]] @ (direction / length) for g in (group, other))
            values[:2, group] = own.mean() - others.mean(), np.sqrt(own.var() + others.var())
    with np.errstate(divide="ignore", invalid="ignore"):
        values[2] = values[0] / values[1]
    return Separation(*values)


def halves(count: int, seed: int) -> tuple[Int64[np.ndarray, "a"], Int64[np.ndarray, "b"]]:
    """Positions 0 ... count - 1 in two random halves, rising: one to fit, the other to measure."""
    order = np.random.default_rng(seed).permutation(count)
    return np.sort(order[: (count + 1) // 2]), np.sort(order[(count + 1) // 2 :])


def total_deviation(features: Float[np.ndarray, "n d"]) -> float:
    """Root mean squared distance of the rows from their mean: a unit in which other representations compare."""
    mean = features.mean(0, dtype=np.float64)
    squares = np.einsum("nd,nd->", features, features, dtype=np.float64) / len(features)
    return float(np.sqrt(max(squares - mean @ mean, 0.0)))


def gaussian_null(features: Float[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "n d"]:
    """As many draws as there are rows from the Gaussian of the same mean and covariance: a cloud without clusters.

    Unlike a representation behind a ReLU, the draws may be negative; `permuted_null` keeps the sign. The covariance is
    diagonalised, which suits representations (d up to a few thousand) and not pixels.
    """
    mean = features.mean(0, dtype=np.float64)
    centred = (features - mean).astype(np.float32)
    variance, axes = np.linalg.eigh(centred.T @ centred / np.float32(len(features)))
    scaled = axes * np.sqrt(np.maximum(variance, 0))  # rounding makes some of the vanishing ones negative
    draws = np.random.default_rng(seed).standard_normal(features.shape, np.float32)
    return draws @ scaled.T + mean.astype(np.float32)


def permuted_null(features: Float[np.ndarray, "n d"], seed: int) -> Float[np.ndarray, "n d"]:
    """Every channel permuted over the images, each on its own.

    Keeps what every channel does alone (its sign, sparsity, heavy tail) and removes what channels do together.
    """
    return np.random.default_rng(seed).permuted(features, axis=0)


def pca(features: Float[np.ndarray, "n d"], dimensions: int) -> Float32[np.ndarray, "n {dimensions}"]:
    """Coordinates of the rows on their first principal axes, mean removed, in order of falling variance.

    Exact for small problems; for large ones scikit-learn's randomised solver with a fixed seed.

    Raises:
      InputError: more dimensions than the rows or the columns have.
    """
    if not 1 <= dimensions <= min(features.shape):
        raise InputError(
            f"PCA of {features.shape[0]} images with {features.shape[1]} features has 1 to {min(features.shape)} "
            f"dimensions, got {dimensions}: choose a number in that range"
        )
    return PCA(dimensions, random_state=0).fit_transform(np.asarray(features, np.float32))


class Alignment(NamedTuple):
    """How two partitions of the same images agree. Names of clusters and labels do not matter.

    Attributes:
      ami: adjusted mutual information (Vinh, Epps & Bailey 2010): 1 for equal partitions, 0 expected by chance.
      nmi: mutual information over the mean of the two entropies, in [0, 1]; its level by chance grows with K.
      purity: share of the images whose label is the most frequent one in their cluster, in (0, 1].
      purity_by_chance: the same when labels are permuted over the images; it grows with K too.
    """

    ami: float
    nmi: float
    purity: float
    purity_by_chance: float


def alignment(
    assignment: Integer[np.ndarray, "n"], labels: Integer[np.ndarray, "n"], permutations: int = 10, seed: int = 0
) -> Alignment:
    """How well clusters line up with labels; `purity_by_chance` is a mean over so many `permutations`."""
    rng = np.random.default_rng(seed)
    by_chance = [_purity(assignment, rng.permutation(labels)) for _ in range(permutations)]
    return Alignment(
        ami=float(adjusted_mutual_info_score(labels, assignment)),
        nmi=float(normalized_mutual_info_score(labels, assignment)),
        purity=_purity(assignment, labels),
        purity_by_chance=float(np.mean(by_chance)),
    )


def agreement(first: Integer[np.ndarray, "n"], second: Integer[np.ndarray, "n"]) -> float:
    """Adjusted mutual information of two partitions of the same images (see `Alignment`)."""
    return float(adjusted_mutual_info_score(first, second))


def _purity(assignment: Integer[np.ndarray, "n"], labels: Integer[np.ndarray, "n"]) -> float:
    return float(contingency_matrix(assignment, labels, sparse=True).max(axis=1).sum() / len(labels))


class Exemplars(NamedTuple):
    """The images to show for each cluster.

    Attributes:
      clusters: cluster numbers, the largest cluster first (equal sizes: the lower number first).
      images: for each of them, the rows nearest to its centroid, the nearest first; -1 where it has no more.
    """

    clusters: Int32[np.ndarray, "k"]
    images: Int32[np.ndarray, "k p"]


def exemplars(features: Float[np.ndarray, "n d"], clustering: Clustering, per_cluster: int) -> Exemplars:
    """The `per_cluster` images nearest to each centroid among its own.

    Clusters come in order of size and not of tightness: the first few are then no choice of the best-looking ones.
    """
    assignment, centroids = clustering.assignment, clustering.centroids
    squared_distance = _squared_distance(features, centroids[assignment])
    sizes = np.bincount(assignment, minlength=len(centroids))
    by_cluster = np.lexsort((squared_distance, assignment))
    cluster = assignment[by_cluster]
    rank = np.arange(len(assignment)) - (np.cumsum(sizes) - sizes)[cluster]
    shown = rank < per_cluster
    images = np.full((len(centroids), per_cluster), -1, np.int32)
    images[cluster[shown], rank[shown]] = by_cluster[shown]
    largest_first = np.argsort(-sizes, kind="stable").astype(np.int32)
    return Exemplars(largest_first, images[largest_first])


def _squared_distance(a: Float[np.ndarray, "n d"], b: Float[np.ndarray, "n d"]) -> Float64[np.ndarray, "n"]:
    difference = a - b
    return np.einsum("nd,nd->n", difference, difference, dtype=np.float64)


def larger_groups(assignment: Integer[np.ndarray, "n"], count: int, seed: int) -> Int64[np.ndarray, "g"]:
    """`count` groups drawn at random from the larger half of those that have members; rising, fewer where there are fewer."""
    sizes = np.bincount(assignment)
    largest_first = np.argsort(-sizes, kind="stable")[: np.count_nonzero(sizes)]
    pool = largest_first[: max(count, (len(largest_first) + 1) // 2)]
    return np.sort(np.random.default_rng(seed).choice(pool, min(count, len(pool)), replace=False))


def embedding(features: Float[np.ndarray, "n d"], seed: int) -> Float32[np.ndarray, "n 2"]:
    """t-SNE (van der Maaten & Hinton 2008) of the rows in the plane.

    scikit-learn's, with perplexity 30, or a third of the other rows where that is less, and a start from the first two principal
    components. On one thread, because its iterations blow up rounding: equal seeds give equal pictures.

    Distances in the picture mean little, and so do gaps: t-SNE draws islands where there are none.

    Raises:
      InputError: fewer than four rows, or rows that are all the same.
    """
    scale = total_deviation(features)
    if len(features) < 4 or scale == 0:
        raise InputError(f"t-SNE of {len(features)} images needs four or more that are not all the same: give more")
    relative = ((features - features.mean(0)) / np.float32(scale)).astype(np.float32)
    start = "pca" if min(features.shape) > 1 else "random"
    with _one_thread():
        picture = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), init=start, random_state=seed)
        return picture.fit_transform(relative)


def nearest_alike(points: Float[np.ndarray, "n d"], groups: Integer[np.ndarray, "n"]) -> float:
    """Share of the rows whose nearest other row belongs to their group, in [0, 1].

    By chance, for groups of m_g rows: sum_g m_g (m_g - 1) / (n (n - 1)).
    """
    return float(np.mean(groups[_nearest_other(points)] == groups))
