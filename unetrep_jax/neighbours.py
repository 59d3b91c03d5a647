"""Nearest images: exact search among rows that need not fit in memory, and the rank of a given row among all."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int64, Integer, UInt8

from unetrep_jax.storage import InputError

CHUNK = 128 << 20  # bytes
Set = Float[np.ndarray, "_ ..."] | UInt8[np.ndarray, "_ ..."]


class Neighbours(NamedTuple):
    """The nearest rows of each query: their numbers, and their distances, rising; equal ones by rising number."""

    index: Int64[np.ndarray, "q count"]
    distance: Float32[np.ndarray, "q count"]


def nearest(
    queries: Set, rows: Set, count: int, *, metric: str = "cosine", exclude_self: bool = False, chunk_bytes: int = CHUNK
) -> Neighbours:
    r"""The `count` nearest rows of each query, found in one pass over the rows.

        cosine:     1 - <q, r> / (|q| |r|)             in [0, 2]; 1 from a zero vector to everything
        euclidean:  sqrt(sum_j (q_j - r_j)^2 / d)      root mean square over the d entries, in units of intensity

    Exact: matrix products in double precision only rule out rows that no rounding could bring in. Distances of the
    others are summed pair by pair, rounded to float32 (the cosine to 1e-12 before) and compared as such. So copies of a
    row tie, as do vectors that differ only in length under the cosine, and no result depends on `chunk_bytes`.

    Args:
      queries: images or features [q ...], flattened; uint8 counts as intensities, 255 as 1.
      rows: what is searched [n ...], of the same shape but for n; may be a memory map and larger than memory.
      count, metric: neighbours of each query; "cosine" or "euclidean".
      exclude_self: query i is row i and not its own neighbour; copies of it among the other rows are.
      chunk_bytes: working memory, beside the queries in double precision and the result; at least one row is read at once.

    Raises:
      InputError: shapes or types that do not fit, NaN or infinity, an unknown metric, or more neighbours than rows.
    """
    unit, vectors, squares = _prepared(queries, rows, metric)
    if not 1 <= count <= len(rows) - exclude_self or (exclude_self and len(queries) > len(rows)):
        raise InputError(
            f"{count} neighbours of {len(queries)} queries among {len(rows)} rows{' without themselves' * exclude_self}: "
            "ask for 1 to as many as there are; to exclude themselves, queries must be the first rows"
        )
    found = np.zeros(0, np.int64), np.zeros(0, np.float32), np.zeros(0, np.int64)  # row, distance, query
    smallest = np.full((len(queries), count), np.inf)  # upper bounds
    for start, chunk, lower, upper in _chunks(vectors, squares, rows, metric, unit, chunk_bytes):
        if exclude_self:
            own = np.arange(start, min(start + len(chunk), len(queries)))
            lower[own, own - start] = upper[own, own - start] = np.nan  # never the smaller
        smallest = np.partition(np.concatenate([smallest, upper], 1), count - 1)[:, :count]
        query, row = np.nonzero(lower <= smallest.max(1, keepdims=True))
        new = row + start, _distances(vectors, chunk, query, row, metric, unit), query
        found = _first([np.concatenate(both) for both in zip(found, new, strict=True)], count)
    return Neighbours(*(column.reshape(len(queries), count) for column in found[:2]))


def ranks(
    queries: Set, rows: Set, targets: Integer[np.ndarray, "..."], *, metric: str = "cosine", chunk_bytes: int = CHUNK
) -> Int64[np.ndarray, "q"]:
    """The rank of row `targets[i]` among all rows by distance from query i, in [1, n]; 1 is the nearest.

        rank = 1 + (rows strictly nearer) + ceil((other rows just as far) / 2)

    Ties count half: a representation that is the same for all images ranks a target in the middle, as chance does, and
    not first. Distances, exactness, memory (the targets' rows besides) and arguments are those of `nearest`.

    Raises:
      InputError: as `nearest`; or targets that are not one row number [q] for each query.
    """
    unit, vectors, squares = _prepared(queries, rows, metric)
    if targets.shape != (len(queries),) or not ((targets >= 0) & (targets < len(rows))).all():
        raise InputError(
            f"targets {list(targets.shape)} of {len(queries)} queries: give each a row number from 0 to {len(rows) - 1}"
        )
    their, each = _vectors(rows[targets], metric, unit, "target")[0], np.arange(len(queries))
    target = _distances(vectors, their, each, each, metric, unit)
    ahead = np.zeros(len(queries))  # rows nearer count 2, those as far 1: the target itself does too
    for _, chunk, lower, upper in _chunks(vectors, squares, rows, metric, unit, chunk_bytes):
        query, row = np.nonzero((lower <= target[:, None]) & (target[:, None] <= upper))
        order = np.sign(target[query] - _distances(vectors, chunk, query, row, metric, unit))
        ahead += 2 * (upper < target[:, None]).sum(1) + np.bincount(query, 1 + order, len(queries))
    return 1 + ahead.astype(np.int64) // 2


def _prepared(queries, rows, metric):
    """The unit to compute in (1/255 where images are uint8: sums of squares are then exact), and the queries in it."""
    given = f"queries {queries.dtype}{list(queries.shape)}, rows {rows.dtype}{list(rows.shape)}, metric {metric!r}"
    fits = queries.ndim > 1 and queries.shape[1:] == rows.shape[1:] and 0 not in rows.shape[1:]
    typed = all(a.dtype == np.uint8 or np.issubdtype(a.dtype, np.floating) for a in (queries, rows))
    if not (fits and typed and metric in ("cosine", "euclidean")):
        raise InputError(
            f"no distance for {given}: give uint8 or float [q ...] and [n ...] alike but for q and n; cosine or euclidean"
        )
    unit = 255 if np.uint8 in (queries.dtype, rows.dtype) else 1
    return unit, *_vectors(queries, metric, unit, "query")


def _vectors(array, metric, unit, name, start=0):
    """Flat vectors in double precision, of length 1 (or 0) for the cosine, and what counts as their squared norms."""
    flat = np.asarray(array).reshape(len(array), np.prod(array.shape[1:]))
    vectors = flat.astype(np.float64) if flat.dtype == np.uint8 else flat * np.float64(unit)
    squares = np.square(vectors).sum(1)  # summed alike in chunks of any size, as einsum is not
    if not np.isfinite(squares).all():
        bad = start + np.argmin(np.isfinite(squares))
        raise InputError(f"{name} {bad} holds NaN, infinity or numbers too large to square: leave it out")
    if metric == "cosine":
        vectors /= np.sqrt(np.where(squares > 0, squares, 1))[:, None]
        squares = np.ones_like(squares)  # for zero vectors too: 1 - <q, r> is then 1
    return vectors, squares


def _chunks(queries, squares, rows, metric, unit, chunk_bytes):
    """Chunks of rows: the first one's number, their vectors, and bounds [q m] on their float32 distances."""
    count, entries = queries.shape
    size = max(1, chunk_bytes // (24 * entries + 128 * count))  # three arrays of rows, sixteen of pairs
    scale, power = (2, 1) if metric == "cosine" else (entries * unit**2, 0.5)
    rounding = 2 * (entries + 8) * np.finfo(np.float64).eps / scale  # twice the worst case (Higham 2002, section 3.1)
    for start in range(0, len(rows), size):
        vectors, norms = _vectors(rows[start : start + size], metric, unit, "row", start)
        value = (squares[:, None] + norms - 2 * (vectors @ queries.T).T) / scale
        slack = rounding * (squares[:, None] + norms.max()) + 1e-12 * (metric == "cosine")
        lower, upper = (np.maximum(value + sign * slack, 0) ** power * (1 + sign * 1e-7) for sign in (-1, 1))
        yield start, vectors, lower, upper  # 1e-7, because float32 is good to 6e-8


def _distances(queries, vectors, query, row, metric, unit):
    """Float32 distances of pairs, each summed in the same order wherever it stands."""
    distance = np.empty(len(query), np.float32)
    size = len(vectors) // 3 + 1  # of blocks of pairs, whose arrays then take no more memory than the vectors
    for block in (slice(start, start + size) for start in range(0, len(query), size)):
        a, b = queries[query[block]], vectors[row[block]]
        if metric == "cosine":
            distance[block] = np.maximum(np.round(1 - (a * b).sum(1), 12), 0)
        else:
            distance[block] = np.sqrt(np.square(a - b).mean(1)) / unit
    return distance


def _first(found, count):
    """The first `count` of each query, in the order of (query, distance, row)."""
    order = np.lexsort(found)
    query = found[-1][order]
    kept = order[np.arange(len(order)) - np.searchsorted(query, query) < count]
    return [column[kept] for column in found]
