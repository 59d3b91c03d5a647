import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import rankdata
from sklearn.neighbors import NearestNeighbors

from unetrep_jax import neighbours
from unetrep_jax.neighbours import agreement, chance_of_agreement, distances_to, nearest, overlap, ranks
from unetrep_jax.storage import InputError

METRICS = ("cosine", "euclidean")


def features(count, dimensions=20, seed=0):
    return np.random.default_rng(seed).exponential(size=(count, dimensions)).astype(np.float32) - np.float32(0.5)


def photographs(count, side=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def all_distances(queries, rows, metric):
    """Brute force in double precision [q n]; zero vectors are for the tests to treat."""
    a, b = (x.reshape(len(x), -1).astype(np.float64) / (255 if x.dtype == np.uint8 else 1) for x in (queries, rows))
    return cdist(a, b, metric) / (np.sqrt(a.shape[1]) if metric == "euclidean" else 1)


@pytest.fixture
def stored(tmp_path):
    """Images on disk as a read-only memory map."""
    np.save(tmp_path / "images.npy", photographs(150))
    return np.load(tmp_path / "images.npy", mmap_mode="r")


# nearest


@pytest.mark.parametrize("metric", METRICS)
def test_neighbours_are_those_of_scikit_learn(metric):
    rows, queries = features(500), features(30, seed=1)
    search = NearestNeighbors(n_neighbors=7, algorithm="brute", metric=metric).fit(rows.astype(np.float64))
    distance, index = search.kneighbors(queries.astype(np.float64))
    found = nearest(queries, rows, 7, metric=metric)
    np.testing.assert_array_equal(found.index, index)
    scale = np.sqrt(20) if metric == "euclidean" else 1  # root mean square, not root of the sum
    np.testing.assert_allclose(found.distance, distance / scale, rtol=2e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("as_float", [(), ("queries",), ("rows",), ("queries", "rows")])
def test_uint8_images_count_as_intensities_on_either_side(metric, as_float, stored):
    queries, rows = photographs(10, seed=1), stored
    brute = all_distances(queries, rows, metric)
    if "queries" in as_float:
        queries = queries.astype(np.float32) / 255
    if "rows" in as_float:
        rows = rows.astype(np.float32) / 255
    found = nearest(queries, rows, 5, metric=metric, chunk_bytes=100_000)
    np.testing.assert_array_equal(found.index, brute.argsort(1)[:, :5])
    np.testing.assert_allclose(found.distance, np.sort(brute, 1)[:, :5], rtol=3e-7)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimensions", [3, 515, 10_007])
def test_the_chunk_size_changes_nothing(metric, dimensions):
    rows = features(60, dimensions)[np.random.default_rng(2).integers(0, 60, 200)]  # most of them several times
    queries = np.concatenate([rows[:5], features(5, dimensions, seed=1)])
    whole, whole_ranks = nearest(queries, rows, 9, metric=metric), ranks(queries, rows, np.arange(10), metric=metric)
    for chunk_rows in (1, 64) if dimensions == 3 else (7, 64):
        chunk_bytes = chunk_rows * 32 * max(dimensions, chunk_rows)
        parts = nearest(queries, rows, 9, metric=metric, chunk_bytes=chunk_bytes)
        np.testing.assert_array_equal(parts.index, whole.index)
        np.testing.assert_array_equal(parts.distance, whole.distance)
        part_ranks = ranks(queries, rows, np.arange(10), metric=metric, chunk_bytes=chunk_bytes)
        np.testing.assert_array_equal(part_ranks, whole_ranks)


@pytest.mark.parametrize("metric", METRICS)
def test_copies_come_in_the_order_of_their_numbers(metric):
    rows = np.tile(features(10, 300), (5, 1))
    found = nearest(rows[:10], rows, 5, metric=metric, chunk_bytes=90_000)
    np.testing.assert_array_equal(found.index, np.arange(10)[:, None] + [0, 10, 20, 30, 40])
    np.testing.assert_array_equal(found.distance, 0)


def test_rows_equally_far_in_different_directions_tie():
    rng = np.random.default_rng(0)
    query = rng.integers(50, 200, (1, 1000)).astype(np.float64)
    step = rng.normal(size=1000)
    rows = query + np.stack([rng.permutation(step) for _ in range(300)])
    assert len(np.unique(all_distances(query, rows, "euclidean"))) > 1  # rounding tells them apart, in double precision
    np.testing.assert_array_equal(nearest(query, rows, 300, metric="euclidean").index[0], np.arange(300))
    assert ranks(query, rows, np.array([17]), metric="euclidean")[0] == 1 + 150


def test_under_the_cosine_vectors_that_differ_only_in_length_tie():
    rows = features(1, 500) * np.array([[3.0], [0.1], [1.0], [7e-5], [1e6]])
    found = nearest(features(1, 500), rows, 5, metric="cosine")
    np.testing.assert_array_equal(found.index[0], np.arange(5))
    np.testing.assert_array_equal(found.distance, 0)


def test_a_zero_vector_is_at_cosine_distance_one_from_everything_itself_included():
    rows = np.array([[0, 0], [1, 0], [-1, 0], [0, 2]], np.float32)
    found = nearest(np.array([[0, 0], [1, 0]], np.float32), rows, 4, metric="cosine")
    np.testing.assert_array_equal(found.index, [[0, 1, 2, 3], [1, 0, 3, 2]])
    np.testing.assert_array_equal(found.distance, [[1, 1, 1, 1], [0, 1, 1, 2]])


def test_small_distances_far_from_the_origin_keep_their_digits():
    step = np.arange(40, 0, -1)[:, None] * 1e-6 * np.sign(features(1, 300))
    query = features(1, 300).astype(np.float64) + 1000
    found = nearest(query, query + step, 40, metric="euclidean", chunk_bytes=50_000)
    np.testing.assert_array_equal(found.index[0], np.arange(40)[::-1])
    np.testing.assert_allclose(found.distance[0], np.arange(1, 41) * 1e-6, rtol=1e-6)


def test_angles_far_too_small_for_single_precision_are_told_apart():
    angles = np.array([3e-5, 1e-5, 2e-5])
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest(np.array([[1.0, 0.0]]), rows, 3, metric="cosine")
    np.testing.assert_array_equal(found.index[0], [1, 2, 0])
    np.testing.assert_allclose(found.distance[0], np.sort(angles) ** 2 / 2, atol=1e-12)


def test_angles_below_the_precision_of_the_cosine_count_as_none():
    rows = np.array([[np.cos(9e-7), np.sin(9e-7)], [1.0, 0.0]])
    found = nearest(np.array([[1.0, 0.0]]), rows, 1, metric="cosine")
    assert found.index[0, 0] == 0 and found.distance[0, 0] == 0  # 4e-13, which is 0 when rounded to 1e-12


@pytest.mark.parametrize("metric", METRICS)
def test_a_row_excluded_from_its_own_neighbours_still_finds_its_copies(metric):
    rows = features(90)
    rows[70] = rows[4]
    found = nearest(rows[:50], rows, 3, metric=metric, exclude_self=True, chunk_bytes=60_000)
    distance = all_distances(rows[:50], rows, metric).round(9)  # so that the two copies tie
    distance[np.arange(50), np.arange(50)] = np.inf
    np.testing.assert_array_equal(found.index, distance.argsort(1, kind="stable")[:, :3])
    assert found.index[4, 0] == 70 and found.distance[4, 0] == 0


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("exclude_self", [False, True])
def test_among_themselves_rows_have_the_same_neighbours_though_each_pair_is_multiplied_once(metric, exclude_self):
    rows = features(150)[np.random.default_rng(5).integers(0, 150, 230)]
    rows[[3, 77]] = 0
    settings = {"metric": metric, "exclude_self": exclude_self}
    apart = nearest(rows.copy(), rows, 6, **settings)  # another array, and a single block
    for side in (12, 100):
        found = nearest(rows, rows, 6, chunk_bytes=32 * side * max(20, side), **settings)
        np.testing.assert_array_equal(found.index, apart.index)
        np.testing.assert_array_equal(found.distance, apart.distance)


def test_all_other_rows_can_be_asked_for():
    found = nearest(features(6), features(6), 5, exclude_self=True)
    np.testing.assert_array_equal(np.sort(found.index, 1), [[j for j in range(6) if j != i] for i in range(6)])


@pytest.mark.parametrize("metric", METRICS)
def test_rows_that_come_ever_nearer_are_all_looked_at(metric):
    angles = np.linspace(3, 0, 700)
    rows = np.stack([np.cos(angles), np.sin(angles)], 1)
    found = nearest(rows[-1:] * 2, rows, 4, metric=metric, chunk_bytes=32 * 50**2)
    np.testing.assert_array_equal(found.index[0], [699, 698, 697, 696])


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", [0, 1, 0.1])
def test_copies_of_one_image_do_not_have_all_their_pairs_looked_at(metric, value, monkeypatch):
    rows, looked_at = np.full((600, 8), value, np.float32), []
    distances = neighbours._distances
    monkeypatch.setattr(neighbours, "_distances", lambda *given: looked_at.append(len(given[-1])) or distances(*given))
    found = nearest(rows, rows, 3, metric=metric, exclude_self=True, chunk_bytes=32 * 100**2)
    assert sum(looked_at) <= 600 * 3 * neighbours.CROWD
    np.testing.assert_array_equal(found.index, [[j for j in range(5) if j != i][:3] for i in range(600)])
    np.testing.assert_array_equal(found.distance, float(metric == "cosine" and value == 0))


@pytest.mark.parametrize("metric", METRICS)
def test_lengths_over_sixty_orders_of_magnitude_lose_nothing(metric):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 5)) * np.logspace(-30, 30, 300)[rng.permutation(300), None]
    queries = rng.normal(size=(40, 5)) * np.logspace(-30, 30, 40)[:, None]
    with np.errstate(all="raise"):
        found = nearest(queries, rows, 3, metric=metric, chunk_bytes=32 * 40**2)
    brute = all_distances(queries, rows, metric)
    np.testing.assert_allclose(found.distance, np.sort(brute, 1)[:, :3], rtol=1e-6)
    np.testing.assert_array_equal(found.index[:, 0], brute.argmin(1))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimensions", [2, 700, 30_000])
def test_bounds_hold_whatever_single_precision_does(metric, dimensions):
    rng = np.random.default_rng(0)
    vectors = np.concatenate([rng.uniform(0.999, 1, (20, dimensions)), rng.normal(size=(20, dimensions))]).astype(
        np.float32
    )
    search = neighbours._prepared(vectors, vectors, metric, 1 << 26)
    [(a, b, product)] = neighbours._tiles(search, vectors, vectors)
    h = np.square(all_distances(vectors, vectors, "euclidean")) * dimensions / 2
    h = all_distances(vectors, vectors, "cosine") if metric == "cosine" else h
    for part, value in neighbours._values(search, a, b, product):
        units, own = a.scale * b.scale, a.half[part, None]
        upper = (value + neighbours._gap(search, a, b)).astype(float) * units + (1 + search.single) * own
        lower = value.astype(float) * units + (1 - search.single) * own
        assert (lower <= h[part] + 1e-12).all() and (h[part] - 1e-12 <= upper).all()
        assert (upper - lower <= 4 * search.single * (own + b.half) + 1e-12).all()


def test_every_pair_is_reported_once():
    rows = features(50)
    for queries, total in ((rows, 2500), (rows[:7], 350)):
        pairs = []
        nearest(queries, rows, 2, on_pairs=pairs.append, chunk_bytes=32 * 20**2)
        assert sum(pairs) == total and len(pairs) > 1


@pytest.mark.parametrize("metric", METRICS)
def test_distances_to_given_rows_are_those_of_the_search(metric, stored):
    queries = photographs(8, seed=1)
    found = nearest(queries, stored, 20, metric=metric)
    given = distances_to(queries, stored, found.index, metric=metric, chunk_bytes=30_000)
    np.testing.assert_array_equal(given, found.distance)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("metric", METRICS)
def test_distances_to_rows_that_hold_no_numbers_are_refused_as_in_a_search(metric, bad):
    queries, rows = np.ones((4, 3)), np.ones((9, 3))
    rows[5, 1] = bad
    assert np.isfinite(distances_to(queries, rows, np.array([[4], [6], [0], [8]]), metric=metric)).all()
    with pytest.raises(InputError, match=r"^row 5 holds NaN, infinity or numbers too large"):
        distances_to(queries, rows, np.array([[4], [6], [5], [8]]), metric=metric)
    with pytest.raises(InputError, match=r"^query 5 holds NaN, infinity or numbers too large"):
        distances_to(rows, queries, np.zeros((9, 1), int), metric=metric)


# ranks


@pytest.mark.parametrize("metric", METRICS)
def test_ranks_are_those_of_scipy_with_ties_counted_half(metric):
    rows = features(40)[np.random.default_rng(3).integers(0, 40, 301)]
    queries, targets = features(25, seed=1), np.random.default_rng(4).integers(0, 301, 25)
    distance = all_distances(queries, rows, metric).astype(np.float32)
    middle = rankdata(distance, axis=1)[np.arange(25), targets]  # average rank over the ties
    np.testing.assert_array_equal(ranks(queries, rows, targets, metric=metric, chunk_bytes=200_000), np.ceil(middle))


@pytest.mark.parametrize("metric", METRICS)
def test_the_rank_of_a_neighbour_is_its_place_among_the_neighbours(metric, stored):
    queries = photographs(8, seed=1).astype(np.float32) / 255
    found = nearest(queries, stored, 150, metric=metric)
    for place in (0, 1, 70, 149):
        np.testing.assert_array_equal(ranks(queries, stored, found.index[:, place], metric=metric), place + 1)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("count", "middle"), [(1, 1), (2, 2), (100, 51), (101, 51)])
def test_a_constant_representation_ranks_every_target_in_the_middle(metric, count, middle):
    rows = np.repeat(features(1), count, 0)
    np.testing.assert_array_equal(ranks(features(2, seed=1), rows, np.array([0, count - 1]), metric=metric), middle)


def test_dead_representations_rank_in_the_middle_too():
    rows = np.zeros((21, 5), np.float32)
    np.testing.assert_array_equal(ranks(rows[:3], rows, np.array([0, 10, 20]), metric="cosine"), 11)


# memory and input


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("shape", "asking"),
    [((300, 32, 32, 3), 5), ((1000, 16), 100), ((200, 16, 16, 3), 200)],
    ids=["large", "many", "pairs"],
)
def test_memory_stays_within_the_chunk_bytes(metric, shape, asking, tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    all_alike = np.broadcast_to(rows[:1], shape)  # every pair ties and has to be looked at
    chunk_bytes = 2 << 20
    for searched in (rows, all_alike):
        queries = searched if asking == len(rows) else rows[:asking]
        tracemalloc.start()
        nearest(queries, searched, 3, metric=metric, chunk_bytes=chunk_bytes)
        ranks(queries, searched, np.zeros(asking, int), metric=metric, chunk_bytes=chunk_bytes)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < chunk_bytes + 64 * asking * 3


def test_each_row_is_read_once():
    class Counted(np.ndarray):
        def __getitem__(self, key):
            if isinstance(key, slice):
                read[key] += 1
            return super().__getitem__(key)

    rows, read = features(50), np.zeros(50, int)
    nearest(rows[:3], rows.view(Counted), 4, chunk_bytes=10_000)
    np.testing.assert_array_equal(read, 1)


def test_no_queries_have_no_neighbours():
    assert nearest(features(0), features(9), 2).index.shape == (0, 2)
    assert ranks(features(0), features(9), np.zeros(0, np.int64)).shape == (0,)


# what neighbours share


def test_agreement_is_the_share_of_neighbours_with_the_label():
    labels = np.array([0, 0, 1, 1, 2])
    index = np.array([[1, 2], [0, 3], [3, 0]])
    np.testing.assert_array_equal(agreement(index, labels, np.array([0, 0, 2])), [0.5, 0.5, 0])


def test_chance_of_agreement_is_that_of_permuted_labels():
    rng = np.random.default_rng(0)
    labels = rng.choice(4, 60, p=[0.55, 0.25, 0.15, 0.05])
    index = nearest(features(60), features(60), 5, exclude_self=True).index
    permuted = [agreement(index, labels := rng.permutation(labels), labels).mean() for _ in range(4000)]
    assert chance_of_agreement(labels) == pytest.approx(np.mean(permuted), abs=4 * np.std(permuted) / 60)
    assert chance_of_agreement(np.zeros(9, int)) == 1 and chance_of_agreement(np.arange(9)) == 0
    assert np.isnan(chance_of_agreement(np.zeros(1, int)))


def test_overlap_counts_common_neighbours_wherever_they_stand():
    first, second = np.array([[3, 1, 2], [4, 5, 6], [7, 8, 9]]), np.array([[2, 3, 9], [0, 1, 2], [9, 8, 7]])
    np.testing.assert_allclose(overlap(first, second), [2 / 3, 0, 1])


def test_overlap_by_chance_is_the_share_of_rows_that_are_neighbours():
    rng = np.random.default_rng(0)
    first, second = (np.stack([rng.choice(40, 10, replace=False) for _ in range(4000)]) for _ in range(2))
    assert overlap(first, second).mean() == pytest.approx(10 / 40, abs=0.006)


# what is refused


ROWS, BROKEN = features(9), features(9)
BROKEN[6, 2] = np.nan


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: nearest(ROWS, ROWS, 3, metric="manhattan"), "metric 'manhattan'.*cosine or euclidean"),
        (lambda: nearest(features(2, 19), ROWS, 3), r"queries float32\[2, 19\], rows float32\[9, 20\]"),
        (lambda: nearest(photographs(2, 4), photographs(3, 6), 1), r"uint8\[2, 4, 4, 3\], rows uint8\[3, 6, 6, 3\]"),
        (lambda: nearest(ROWS[0], ROWS, 1), r"queries float32\[20\]"),
        (lambda: nearest(ROWS[:, :0], ROWS[:, :0], 1), r"float32\[9, 0\]"),
        (lambda: nearest(ROWS, ROWS, 10), "10 neighbours of 9 queries among 9 rows: "),
        (lambda: nearest(ROWS, ROWS, 9, exclude_self=True), "9 neighbours .* without themselves"),
        (lambda: nearest(ROWS, ROWS[:5], 1, exclude_self=True), "9 queries among 5 rows without themselves"),
        (lambda: nearest(ROWS, ROWS, 0), "0 neighbours"),
        (lambda: nearest(BROKEN, ROWS, 1), "query 6 holds NaN"),
        (lambda: nearest(ROWS, BROKEN, 1, chunk_bytes=3000), "row 6 holds NaN"),
        (lambda: ranks(ROWS[:1], np.float32([[np.inf] * 20]), np.array([0])), "row 0 holds NaN, infinity"),
        (lambda: ranks(ROWS, ROWS, np.arange(8)), r"targets \[8\] of 9 queries"),
        (lambda: ranks(ROWS, ROWS, np.arange(9) + 1), "a row number from 0 to 8"),
        (lambda: ranks(ROWS, ROWS, np.arange(9) - 1), "a row number from 0 to 8"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
