"""Nearest images: exact search among rows that need not fit in memory, the rank of a given row, and what neighbours share."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64, Integer, UInt8

from unetrep_jax.storage import InputError

CHUNK = 1 << 30  # bytes; in smaller blocks of large images, making them takes longer than multiplying them
Set = Float[np.ndarray, "_ ..."] | UInt8[np.ndarray, "_ ..."]


class Neighbours(NamedTuple):
    """The nearest rows of each query: their numbers, and their distances, rising; equal ones by rising number."""

    index: Int64[np.ndarray, "q count"]
    distance: Float32[np.ndarray, "q count"]


def nearest(
    queries: Set,
    rows: Set,
    count: int,
    *,
    metric: str = "cosine",
    exclude_self: bool = False,
    chunk_bytes: int = CHUNK,
    on_pairs: Callable[[int], object] | None = None,
) -> Neighbours:
    r"""The `count` nearest rows of each query, found in one pass over the rows.

        cosine:     1 - <q, r> / (|q| |r|)             in [0, 2]; 1 from a zero vector to everything
        euclidean:  sqrt(sum_j (q_j - r_j)^2 / d)      root mean square over the d entries, in units of intensity

    Exact: matrix products in single precision only rule out rows that no rounding could bring in. Distances of the
    others are summed pair by pair in double precision, rounded to float32 (the cosine to 1e-12 before) and compared as
    such. So copies of a row tie, as do vectors that differ only in length under the cosine, and no result depends on
    `chunk_bytes`. When `queries` and `rows` are the same array, each pair is multiplied once: half the time.

    Args:
      queries: images or features [q ...], flattened; uint8 counts as intensities, 255 as 1.
      rows: what is searched [n ...], of the same shape but for n; both may be memory maps and larger than memory.
      count, metric: neighbours of each query; "cosine" or "euclidean".
      exclude_self: query i is row i and not its own neighbour; copies of it among the other rows are.
      chunk_bytes: working memory, beside the result; a row and a query are held at the least. The more, the faster.
      on_pairs: called with the number of pairs of a query and a row that were compared, q n in all, as
        `storage.Progress.advance` is.

    Raises:
      InputError: shapes or types that do not fit, NaN or infinity, an unknown metric, or more neighbours than rows.
    """
    search = _prepared(queries, rows, metric, chunk_bytes)
    if not 1 <= count <= len(rows) - exclude_self or (exclude_self and len(queries) > len(rows)):
        raise InputError(
            f"{count} neighbours of {len(queries)} queries among {len(rows)} rows{' without themselves' * exclude_self}: "
            "ask for 1 to as many as there are; to exclude themselves, queries must be the first rows"
        )
    shape, last = (len(queries), count), np.iinfo(np.int64).max
    best = Neighbours(np.full(shape, last, np.int64), np.full(shape, np.inf, np.float32))
    for a, b, product in _tiles(search, queries, rows, half=queries is rows):
        if exclude_self and a.first == b.first:
            np.fill_diagonal(product, np.nan)  # never the smaller
        _improve(best, search, a, b, product)
        if mirrored := queries is rows and a.first < b.first:
            _improve(best, search, b, a, product.T)
        if on_pairs is not None:
            on_pairs(product.size * (1 + mirrored))
    return best


def ranks(
    queries: Set, rows: Set, targets: Integer[np.ndarray, "..."], *, metric: str = "cosine", chunk_bytes: int = CHUNK
) -> Int64[np.ndarray, "q"]:
    """The rank of row `targets[i]` among all rows by distance from query i, in [1, n]; 1 is the nearest.

        rank = 1 + (rows strictly nearer) + ceil((other rows just as far) / 2)

    Ties count half: a representation that is the same for all images ranks a target in the middle, as chance does, and
    not first. Distances, exactness, memory and arguments are those of `nearest`.

    Raises:
      InputError: as `nearest`; or targets that are not one row number [q] for each query.
    """
    search = _prepared(queries, rows, metric, chunk_bytes)
    if targets.shape != (len(queries),) or not ((targets >= 0) & (targets < len(rows))).all():
        raise InputError(
            f"targets {list(targets.shape)} of {len(queries)} queries: give each a row number from 0 to {len(rows) - 1}"
        )
    target = _distances(search, queries, rows, np.arange(len(queries)), targets)
    ahead = np.zeros(len(queries))  # rows nearer count 2, those as far 1: the target itself does too
    for a, b, product in _tiles(search, queries, rows):
        for part, value in _values(search, a, b, product):
            asking = slice(a.first + part.start, a.first + part.stop)
            as_near, nearer = _reach(search, target[asking], a.half[part], a, b)
            inside = value + _gap(search, a, b) <= nearer[:, None]
            query, row = np.nonzero((value <= as_near[:, None]) & ~inside)
            order = np.sign(target[asking][query] - _distances(search, a.raw[part], b.raw, query, row))
            ahead[asking] += 2 * inside.sum(1) + np.bincount(query, 1 + order, len(value))
    return 1 + ahead.astype(np.int64) // 2


def distances_to(
    queries: Set, rows: Set, index: Integer[np.ndarray, "q m"], *, metric: str = "cosine", chunk_bytes: int = CHUNK
) -> Float32[np.ndarray, "q m"]:
    """The distance of query i from each of the rows `index[i]`, as `nearest` measures it.

    Raises:
      InputError: shapes, types or a metric that do not fit; NaN or infinity in a query or in a row that is asked for.
    """
    search = _prepared(queries, rows, metric, chunk_bytes)
    _refuse_unknown(search, queries, np.arange(len(queries)), "query")
    _refuse_unknown(search, rows, np.unique(index), "row")
    query = np.repeat(np.arange(len(index)), index.shape[1])
    return _distances(search, queries, rows, query, index.ravel()).reshape(index.shape)


def agreement(
    index: Integer[np.ndarray, "q count"], labels: Integer[np.ndarray, " n"], own: Integer[np.ndarray, " q"]
) -> Float64[np.ndarray, "q"]:
    """The share of each query's neighbours that have its label, in [0, 1].

    Args:
      index: the neighbours' row numbers.
      labels: the label of every row.
      own: the label of every query.
    """
    return (labels[index] == own[:, None]).mean(1)


def chance_of_agreement(labels: Integer[np.ndarray, " n"]) -> float:
    r"""What `agreement` is on average when rows other than the query are drawn at random: sum_c n_c (n_c - 1) / (n (n - 1)).

    From the class frequencies n_c alone: the mean over all permutations of the labels, whatever the neighbours. NaN for one row.
    """
    sizes = np.unique(labels, return_counts=True)[1].astype(np.float64)
    total = sizes.sum()
    return float((sizes * (sizes - 1)).sum() / (total * (total - 1))) if total > 1 else float("nan")


def overlap(first: Integer[np.ndarray, "q count"], second: Integer[np.ndarray, "q count"]) -> Float64[np.ndarray, "q"]:
    """The share of each query's neighbours in one space that are its neighbours in another too, in [0, 1].

    By chance it is count / n, with n the rows that can be neighbours.
    """
    both = np.sort(np.concatenate([first, second], axis=1), axis=1)  # no number comes twice in one list
    return (both[:, 1:] == both[:, :-1]).sum(1) / first.shape[1]


# How the search works. A common vector m is taken off all vectors (which have length 1 before, for the cosine): a = q - m and
# b = r - m. Then h = |a|^2 / 2 + |b|^2 / 2 - <a, b> is half the squared distance of q and r, and 1 - cosine if both have length 1.
# Only the products are in single precision, and what they may be wrong by is small beside |a| |b| <= |a|^2 / 2 + |b|^2 / 2: a part
# of the query's and a part of the row's, as h is. So a lower bound on h costs one subtraction and one comparison a pair. Taking m
# off matters: images have most of their length in common, and their representations nearly all of it.


class _Search(NamedTuple):
    """What all parts of a search share.

    Attributes:
      metric: "cosine" or "euclidean".
      unit: what an intensity of 1 is in the vectors: 255 where images are uint8 (sums of squares are then exact).
      centre: taken off every vector; any gives the same result, one amid the queries the soonest.
      side: vectors in a block.
      strip: entries, or pairs, that are worked on at once.
    """

    metric: str
    unit: int
    centre: Float64[np.ndarray, " d"]
    side: int
    strip: int

    @property
    def single(self) -> float:
        """Bound on what single precision does to h, relative to |a|^2 / 2 + |b|^2 / 2.

        k u / (1 - k u) for a sum of k products in any order (Higham 2002, section 3.1); k is raised for the roundings around it.
        """
        rounded = (len(self.centre) + 16) * 2.0**-24
        return rounded / (1 - rounded)

    @property
    def double(self) -> float:
        """Bound on what double precision does to a distance: to its square, relatively; to 1 - cosine, absolutely."""
        return 4 * (len(self.centre) + 8) * float(np.finfo(np.float64).eps)

    @property
    def underflow(self) -> float:
        """Bound on the sum of products that are too small for single precision, in units of the two blocks' scales."""
        return len(self.centre) * 2.0**-125


class _Block(NamedTuple):
    """Consecutive vectors, ready to be multiplied.

    Attributes:
      first: the number of the first.
      raw: as they were given.
      single: a, divided by `scale`.
      half: |a|^2 / 2; for the cosine 1/2 more for a zero vector, whose h is then 1.
      least: the smallest distance that anything can be at: 0, and 1 from a zero vector under the cosine.
      scale: no entry of a is larger.
    """

    first: int
    raw: np.ndarray
    single: Float32[np.ndarray, "m d"]
    half: Float64[np.ndarray, " m"]
    least: Float32[np.ndarray, " m"]
    scale: float


def _prepared(queries: Set, rows: Set, metric: str, chunk_bytes: int) -> _Search:
    """Refuses what does not fit, and lays out the search."""
    given = f"queries {queries.dtype}{list(queries.shape)}, rows {rows.dtype}{list(rows.shape)}, metric {metric!r}"
    fits = queries.ndim > 1 and queries.shape[1:] == rows.shape[1:] and 0 not in rows.shape[1:]
    typed = all(a.dtype == np.uint8 or np.issubdtype(a.dtype, np.floating) for a in (queries, rows))
    if not (fits and typed and metric in ("cosine", "euclidean")):
        raise InputError(
            f"no distance for {given}: give uint8 or float [q ...] and [n ...] alike but for q and n; cosine or euclidean"
        )
    unit = 255 if np.uint8 in (queries.dtype, rows.dtype) else 1
    entries = int(np.prod(rows.shape[1:]))
    # Half of the memory is for three blocks (two, and one in the making), a quarter for two products of theirs, a quarter for
    # strips of 48 bytes an entry; and no strip is larger than a processor's cache.
    side = max(1, min(chunk_bytes // (24 * entries), int((chunk_bytes / 32) ** 0.5)))
    search = _Search(metric, unit, np.zeros(entries), side, min(1 << 17, chunk_bytes // 192))
    sample = np.linspace(0, len(queries) - 1, min(len(queries), max(1, min(256, search.strip // entries)))).astype(int)
    if not len(sample):
        return search
    with np.errstate(all="ignore"):  # what is not finite is found, and named, when its block is made
        centre = _double(search, queries[sample])[0].mean(0)
    return search._replace(centre=np.where(np.isfinite(centre), centre, 0))


def _double(search: _Search, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flat vectors in double precision, of length 1 (or 0) for the cosine; their squared lengths before that (1 for euclidean)."""
    vectors = np.asarray(raw).reshape(len(raw), len(search.centre)).astype(np.float64)
    if raw.dtype != np.uint8 and search.unit != 1:
        vectors *= search.unit
    if search.metric == "euclidean":
        return vectors, np.ones(len(vectors))
    squares = np.square(vectors).sum(1)  # summed alike in strips of any size, as einsum is not
    vectors /= np.sqrt(np.where(squares > 0, squares, 1))[:, None]
    return vectors, squares


def _parts(total: int, size: int) -> Iterator[slice]:
    """0 ... total in slices of `size`, or of 1."""
    size = max(1, size)
    return (slice(start, min(start + size, total)) for start in range(0, total, size))


def _block(search: _Search, array: Set, first: int, name: str) -> _Block:
    """The block that begins with vector `first`."""
    raw = np.asarray(array[first : first + search.side])
    single, half = np.empty((len(raw), len(search.centre)), np.float32), np.empty(len(raw))
    with np.errstate(all="ignore"):
        largest = 1.0 if search.metric == "cosine" else max(float(raw.max()), -float(raw.min())) * search.unit
        scale = float(largest + np.abs(search.centre).max()) or 1.0
        least = np.zeros(len(raw), np.float32)
        for part in _parts(len(raw), search.strip // len(search.centre)):
            vectors, squares = _double(search, raw[part])
            vectors -= search.centre
            least[part] = squares == 0
            half[part] = (np.square(vectors).sum(1) + least[part]) / 2
            single[part] = vectors / scale
            _refuse(np.isfinite(half[part]) & np.isfinite(squares), first + np.arange(part.start, part.stop), name)
    return _Block(first, raw, single, half, least, scale)


def _refuse_unknown(search: _Search, array: Set, numbers: Integer[np.ndarray, " m"], name: str) -> None:
    """Refuses vectors with which no distance is a number, as `_block` does."""
    with np.errstate(all="ignore"):
        for part in _parts(len(numbers), search.strip // len(search.centre)):
            vectors, squares = _double(search, array[numbers[part]])
            _refuse(np.isfinite(squares) & np.isfinite(np.square(vectors).sum(1)), numbers[part], name)


def _refuse(good: Bool[np.ndarray, " m"], numbers: Integer[np.ndarray, " m"], name: str) -> None:
    if not good.all():
        raise InputError(
            f"{name} {numbers[np.argmin(good)]} holds NaN, infinity or numbers too large to square: leave it out"
        )


def _tiles(search: _Search, queries: Set, rows: Set, half: bool = False) -> Iterator[tuple[_Block, _Block, np.ndarray]]:
    """Blocks a of queries and b of rows, and the products of their scaled vectors, float32.

    Every row is read once, and rows come in rising order to every query. With `half`, queries and rows are the same and each
    pair of blocks comes once, a no later than b.
    """
    a = None
    for first in range(0, len(rows), search.side):
        b = _block(search, rows, first, "row")
        for start in range(0, first + 1 if half else len(queries), search.side):
            if half and start == first:
                a = b
            elif a is None or a.first != start:
                a = _block(search, queries, start, "query")
            yield a, b, a.single @ b.single.T


def _values(search: _Search, a: _Block, b: _Block, product: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Strip by strip of queries: lower bounds on h in units of the scales, but for the query's own part (see `_reach`)."""
    with np.errstate(over="ignore"):
        of_rows = ((1 - search.single) * b.half / (a.scale * b.scale)).astype(np.float32)
    for part in _parts(len(a.half), search.strip // len(b.half)):
        yield part, of_rows - product[part]


def _gap(search: _Search, a: _Block, b: _Block) -> Float32[np.ndarray, " m"]:
    """What makes upper bounds of the lower ones that `_values` gives."""
    with np.errstate(over="ignore"):
        return (2 * search.single * b.half / (a.scale * b.scale)).astype(np.float32)


def _reach(
    search: _Search, distance: Float32[np.ndarray, " m"], half: Float64[np.ndarray, " m"], a: _Block, b: _Block
) -> tuple[Float32[np.ndarray, " m"], Float32[np.ndarray, " m"]]:
    """For queries with these halves: no row whose value is above the first limit is as near as `distance`; every row whose upper
    bound is not above the second is nearer.
    """
    scale, far = a.scale * b.scale, np.float32(np.inf)
    outer, inner = (
        np.nextafter(distance, end).astype(np.float64) for end in (far, -far)
    )  # all that rounds to it lies between
    with np.errstate(over="ignore"):
        if search.metric == "cosine":
            outer, inner = outer + 1e-12 + search.double, inner - 1e-12 - search.double
        else:
            squared = search.unit**2 * len(search.centre) / 2
            outer, inner = outer**2 * squared * (1 + search.double), inner**2 * squared * (1 - search.double)
        as_near = (outer - (1 - search.single) * half) / scale + search.underflow
        nearer = (inner - (1 + search.single) * half) / scale - search.underflow
        nearer = np.where(distance > 0, nearer, -np.inf)
        return np.nextafter(as_near.astype(np.float32), far), np.nextafter(nearer.astype(np.float32), -far)


def _farthest(
    search: _Search, upper: Float32[np.ndarray, " m"], half: Float64[np.ndarray, " m"], a: _Block, b: _Block
) -> Float32[np.ndarray, " m"]:
    """Bounds on distances from upper bounds."""
    h = (upper.astype(np.float64) + search.underflow) * (a.scale * b.scale) + (1 + search.single) * half
    if search.metric == "cosine":
        distance = h + 1e-12 + search.double
    else:
        distance = np.sqrt(2 * np.maximum(h, 0) / len(search.centre) * (1 + search.double)) / search.unit
    with np.errstate(over="ignore"):
        return np.nextafter(distance.astype(np.float32), np.float32(np.inf))


CROWD = 4  # times as many candidates as neighbours: more are thinned out by bounds, and looked at in turns


def _improve(best: Neighbours, search: _Search, a: _Block, b: _Block, product: np.ndarray) -> None:
    """Puts rows of b among the nearest of a's queries, which have seen none after them: of equally far rows the earlier stay."""
    count, gap = best.index.shape[1], _gap(search, a, b)
    for part, value in _values(search, a, b, product):
        near = value <= _limits(best, search, part, a, b)[:, None]
        if np.count_nonzero(near) > CROWD * count * len(near):  # as in a query's first tile, when it knows nothing yet
            crowded = np.flatnonzero(near.sum(1) > CROWD * count)
            upper = np.partition(value[crowded] + gap, count - 1, axis=1)[:, count - 1]
            distance = _farthest(search, upper, a.half[part][crowded], a, b)
            near[crowded] &= value[crowded] <= _reach(search, distance, a.half[part][crowded], a, b)[0][:, None]
        query, row = np.divmod(np.flatnonzero(near), near.shape[1])
        while len(query):
            turn = np.arange(len(query)) - np.searchsorted(query, query) < CROWD * count
            distance = _distances(search, a.raw[part], b.raw, query[turn], row[turn])
            _merge(best, a.first + part.start + query[turn], b.first + row[turn], distance)
            query, row = query[~turn], row[~turn]
            still = value[query, row] <= _limits(best, search, part, a, b)[query]
            query, row = query[still], row[still]


def _limits(best: Neighbours, search: _Search, part: slice, a: _Block, b: _Block) -> Float32[np.ndarray, " m"]:
    """The largest value with which a row can still come among the nearest of each query."""
    farthest = best.distance[a.first + part.start : a.first + part.stop, -1]
    return np.where(farthest > a.least[part], _reach(search, farthest, a.half[part], a, b)[0], -np.inf)


def _distances(
    search: _Search, queries: Set, rows: Set, query: Integer[np.ndarray, " p"], row: Integer[np.ndarray, " p"]
) -> Float32[np.ndarray, " p"]:
    """Float32 distances of pairs, each summed in the same order wherever it stands."""
    distance = np.empty(len(query), np.float32)
    with np.errstate(all="ignore"):
        for part in _parts(len(query), search.strip // len(search.centre)):
            a, b = _double(search, queries[query[part]])[0], _double(search, rows[row[part]])[0]
            if search.metric == "cosine":
                distance[part] = np.maximum(np.round(1 - (a * b).sum(1), 12), 0)
            else:
                distance[part] = np.sqrt(np.square(a - b).mean(1)) / search.unit
    return distance


def _merge(
    best: Neighbours, query: Int64[np.ndarray, " p"], row: Int64[np.ndarray, " p"], distance: Float32[np.ndarray, " p"]
) -> None:
    """Puts pairs, sorted by query, where they belong in the order of (distance, row)."""
    count = best.index.shape[1]
    asked, place = np.unique(query, return_inverse=True)
    owner = np.concatenate([np.repeat(np.arange(len(asked)), count), place])
    distance = np.concatenate([best.distance[asked].ravel(), distance])
    row = np.concatenate([best.index[asked].ravel(), row])
    order = np.lexsort((row, distance, owner))
    chosen = order[np.searchsorted(owner[order], np.arange(len(asked)))[:, None] + np.arange(count)]
    best.index[asked], best.distance[asked] = row[chosen], distance[chosen]
