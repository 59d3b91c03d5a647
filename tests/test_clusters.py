import warnings

import numpy as np
import pytest
from scipy.stats import entropy

from unetrep_jax.clusters import (
    Clustering,
    adjacent,
    agreement,
    alignment,
    embedding,
    exemplars,
    gaussian_null,
    halves,
    held_out_separation,
    kmeans,
    kmeans_course,
    kmeans_from,
    larger_groups,
    nearest_alike,
    nearest_centroid,
    pca,
    permuted_null,
    separation_of_clusters,
    total_deviation,
)
from unetrep_jax.measures import group_means, separations
from unetrep_jax.storage import InputError


def blobs(clusters=6, each=50, dimensions=8, distance=12.0, seed=0):
    """Unit Gaussians on the corners of a simplex: (points in random order, which corner each belongs to)."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.repeat(np.arange(clusters), each))
    centres = distance * np.eye(clusters, dimensions)
    return (centres[labels] + rng.normal(size=(len(labels), dimensions))).astype(np.float32), labels


# K-means


def test_kmeans_recovers_blobs_that_lie_far_apart():
    points, labels = blobs()
    found = kmeans(points, 6, seed=42, runs=3)
    assert alignment(found.assignment, labels).ami == pytest.approx(1)
    np.testing.assert_allclose(found.centroids, group_means(points, found.assignment, 6), atol=1e-4)


def test_every_row_is_assigned_to_its_nearest_centroid_and_inertia_is_the_squared_distance():
    points = np.random.default_rng(0).exponential(size=(500, 5)).astype(np.float32)
    found = kmeans(points, 20, seed=0, runs=2, iterations=300)
    squared = ((points[:, None].astype(np.float64) - found.centroids[None]) ** 2).sum(2)
    np.testing.assert_allclose(squared[np.arange(500), found.assignment], squared.min(1), rtol=1e-5)
    assert found.inertia == pytest.approx(squared.min(1).sum(), rel=1e-5)


def test_equal_seeds_give_equal_clusters_and_more_runs_are_never_worse():
    points = np.random.default_rng(1).normal(size=(400, 4)).astype(np.float32)
    one, again, more = (kmeans(points, 25, seed=7, runs=runs) for runs in (1, 1, 6))
    np.testing.assert_array_equal(one.assignment, again.assignment)
    assert more.inertia < one.inertia
    assert kmeans(points, 25, seed=8, runs=1).inertia != one.inertia


def test_equal_seeds_give_equal_bits_on_any_number_of_cores(monkeypatch):
    points = np.random.default_rng(1).normal(size=(3000, 16)).astype(np.float32)
    found = []
    for cores in (1, 2, 7):
        monkeypatch.setattr("os.cpu_count", lambda cores=cores: cores)
        found.append(kmeans(points, 40, seed=3, runs=5))
    for other in found[1:]:
        assert other.inertia == found[0].inertia
        np.testing.assert_array_equal(other.assignment, found[0].assignment)
        np.testing.assert_array_equal(other.centroids, found[0].centroids)


def test_starting_from_a_small_sample_finds_the_blobs_too():
    points, labels = blobs(each=200)
    calls = []
    found = kmeans(points, 6, seed=0, runs=4, init_sample=40, on_run=calls.append)
    assert alignment(found.assignment, labels).ami == pytest.approx(1)
    assert calls == [1, 1, 1, 1]


def test_the_sample_grows_with_the_clusters_that_are_drawn_from_it():
    points = np.random.default_rng(2).normal(size=(300, 3)).astype(np.float32)
    assert len(np.unique(kmeans(points, 60, seed=0, runs=1, init_sample=10).assignment)) == 60


def test_kmeans_from_class_means_starts_there():
    points, labels = blobs(distance=8.0)
    found = kmeans_from(points, group_means(points, labels, 6))
    np.testing.assert_array_equal(found.assignment, labels)
    assert found.iterations <= 2
    moved = kmeans_from(points, points[:6], iterations=1)
    assert moved.iterations == 1
    assert moved.inertia > found.inertia


def test_as_many_clusters_as_images_leave_no_error():
    points = np.arange(5, dtype=np.float32)[:, None]
    found = kmeans(points, 5, seed=0)
    assert found.inertia == pytest.approx(0, abs=1e-9)
    assert sorted(found.assignment) == [0, 1, 2, 3, 4]


def test_fewer_distinct_images_than_clusters_leave_clusters_empty_without_a_warning():
    points = np.repeat(np.eye(3, dtype=np.float32), 10, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kmeans(points, 5, seed=0, runs=2)
    assert len(np.unique(found.assignment)) == 3
    assert np.isfinite(found.centroids).all()
    assert found.inertia == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clusters": 11}, "11 clusters needs from 1 to 10"),
        ({"clusters": 0}, "0 clusters"),
        ({"runs": 0}, "0 runs"),
        ({"iterations": 0}, "0 iterations"),
    ],
)
def test_kmeans_refuses_what_it_cannot_do_in_one_line(settings, said):
    points = np.zeros((10, 2), np.float32)
    with pytest.raises(InputError, match=said) as refused:
        kmeans(points, **{"clusters": 2, "seed": 0, **settings})
    assert "\n" not in str(refused.value)


def test_features_and_centroids_that_are_not_finite_are_refused_with_their_row():
    points = np.ones((10, 2), np.float32)
    points[3, 1] = np.nan
    with pytest.raises(InputError, match=r"1 of 10 rows .*row 3"):
        kmeans(points, 2, seed=0)
    with pytest.raises(InputError, match=r"1 of 3 rows .*row 2"):
        kmeans_from(np.ones((10, 2)), group_means(np.ones((10, 2)), np.arange(10) % 2, 3))
    with pytest.raises(InputError, match="from 4 centroids"):
        kmeans_from(np.ones((3, 2)), np.ones((4, 2)))


# neighbours and separation


def test_adjacent_is_the_nearest_other_centroid():
    centroids = np.random.default_rng(0).normal(size=(60, 5)) + 100
    distance = np.linalg.norm(centroids[:, None] - centroids[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    np.testing.assert_array_equal(adjacent(centroids), distance.argmin(1))


def test_equal_centroids_are_each_others_neighbours_and_never_their_own():
    np.testing.assert_array_equal(adjacent(np.array([[1.0, 1], [1, 1], [9, 9]]))[:2], [1, 0])


def test_an_empty_group_has_no_neighbour_and_is_none():
    empty = [np.nan, np.nan]
    np.testing.assert_array_equal(adjacent(np.array([[0.0, 0], empty, [5, 0], [6, 0]])), [2, -1, 3, 2])
    np.testing.assert_array_equal(adjacent(np.array([[0.0, 0], empty])), [-1, -1])


def test_each_cluster_is_held_against_its_nearest():
    rng = np.random.default_rng(1)
    groups = np.repeat([0, 1, 2], 100)
    points = rng.normal(size=(300, 3)) + np.array([[0, 0, 0], [10, 0, 0], [14, 0, 0]])[groups]
    expected = separations(points, groups, np.array([[0, 1], [1, 2], [2, 1]]))
    np.testing.assert_allclose(separation_of_clusters(points, groups), expected)


@pytest.mark.filterwarnings("error")
def test_groups_that_are_too_small_are_left_out_of_the_separation():
    groups = np.array([0, 0, 0, 2, 3, 3, 3, -1])  # nobody in group 1, one in group 2
    points = np.array([[0.0], [1], [2], [4], [9], [10], [11], [5]])
    found = separation_of_clusters(points, groups)
    np.testing.assert_allclose(found.distance, [9, np.nan, np.nan, 9])
    np.testing.assert_allclose(found.ratio, [9 / np.sqrt(4 / 3), np.nan, np.nan, 9 / np.sqrt(4 / 3)])
    assert np.isnan(separation_of_clusters(points, groups, min_members=4).ratio).all()


def test_kmeans_cuts_a_gaussian_into_halves_whose_separation_passes_for_clusters():
    points = np.random.default_rng(2).normal(size=(50_000, 1)).astype(np.float32)
    found = kmeans(points, 2, seed=0, runs=1)
    np.testing.assert_allclose(separation_of_clusters(points, found.assignment).ratio, 1.872, rtol=0.01)


def test_real_blobs_separate_further_than_their_gaussian_null():
    points, _ = blobs(distance=10.0, each=200)

    def median_ratio(features):
        return np.median(separation_of_clusters(features, kmeans(features, 6, seed=0, runs=3).assignment).ratio)

    # The corners are 10 sqrt(2) apart, the spread along the line is sqrt(2).
    np.testing.assert_allclose(median_ratio(points), 10, rtol=0.05)
    assert median_ratio(gaussian_null(points, seed=0)) < 3


# Starts, held-out images


def test_the_course_of_kmeans_is_that_of_its_iterations_and_ends_where_it_ends():
    points = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    start = points[:20]
    course = kmeans_course(points, start, moments=(1, 3, 8, 300))
    squared = ((points[:, None] - start[None]) ** 2).sum(2)
    np.testing.assert_array_equal(course.assignment[0], squared.argmin(1))
    assert (course.moved[0] == 0).all()
    for moment in (1, 2, 3):
        found = kmeans_from(points, start, iterations=int(course.iterations[moment]))
        np.testing.assert_array_equal(course.assignment[moment], found.assignment)
        moved = np.linalg.norm(found.centroids - start, axis=1)
        np.testing.assert_allclose(course.moved[moment], moved, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(course.iterations[:4], [0, 1, 3, 8])
    end = kmeans_from(points, start, iterations=300)
    np.testing.assert_array_equal(course.assignment[-1], end.assignment)
    assert 8 < course.iterations[-1] < 300


def test_a_course_that_begins_at_its_end_stops_at_once():
    points, labels = blobs()
    course = kmeans_course(points, group_means(points, labels, 6), moments=(5, 50))
    assert course.iterations[-1] <= 2
    assert (course.assignment == labels).all()
    np.testing.assert_allclose(course.moved, 0, atol=1e-4)


def test_images_join_the_nearest_centroid_that_there_is():
    rng = np.random.default_rng(1)
    points, centroids = rng.normal(size=(300, 5)) + 100, rng.normal(size=(12, 5)) + 100
    squared = ((points[:, None] - centroids[None]) ** 2).sum(2)
    np.testing.assert_array_equal(nearest_centroid(points, centroids), squared.argmin(1))
    centroids[3] = np.nan
    squared[:, 3] = np.inf
    np.testing.assert_array_equal(nearest_centroid(points, centroids), squared.argmin(1))


def test_held_out_separation_is_measured_along_the_line_of_the_fit():
    rng = np.random.default_rng(2)
    centroids = rng.normal(size=(5, 3))
    points, groups = rng.normal(size=(200, 3)).astype(np.float32), rng.integers(0, 5, 200)
    found = held_out_separation(points, groups, centroids)
    for group, other in enumerate(adjacent(centroids)):
        line = centroids[group] - centroids[other]
        own, others = (points[groups == g] @ line / np.linalg.norm(line) for g in (group, other))
        spread = np.sqrt(np.mean((own - own.mean()) ** 2) + np.mean((others - others.mean()) ** 2))
        expected = (own.mean() - others.mean(), spread, (own.mean() - others.mean()) / spread)
        np.testing.assert_allclose([value[group] for value in found], expected, rtol=1e-4)


def test_real_blobs_keep_their_separation_on_held_out_images():
    points, labels = blobs(distance=10.0, each=400)
    fit, held = halves(len(points), seed=3)
    means = group_means(points[fit], labels[fit], 6)
    np.testing.assert_allclose(held_out_separation(points[held], labels[held], means).ratio, 10, rtol=0.1)


def test_chance_separates_groups_of_a_cloud_where_it_was_seen_and_not_on_held_out_images():
    cloud = np.random.default_rng(4).normal(size=(2000, 100)).astype(np.float32)
    groups = np.random.default_rng(5).integers(0, 100, 2000)
    fit, held = halves(2000, seed=0)
    inside = separation_of_clusters(cloud[fit], groups[fit]).ratio
    outside = held_out_separation(cloud[held], groups[held], group_means(cloud[fit], groups[fit], 100)).ratio
    assert np.median(inside) > 2.5
    assert abs(np.median(outside)) < 0.15


def test_kmeans_separates_a_cloud_less_on_images_it_was_not_fitted_to_and_its_cuts_remain():
    cloud = np.random.default_rng(6).normal(size=(1000, 50)).astype(np.float32)
    fit, held = halves(1000, seed=0)
    found = kmeans(cloud[fit], 20, seed=0, runs=2)
    inside = separation_of_clusters(cloud[fit], found.assignment).ratio
    outside = held_out_separation(cloud[held], nearest_centroid(cloud[held], found.centroids), found.centroids).ratio
    assert 1.87 < np.median(outside) < 0.85 * np.median(inside)


@pytest.mark.filterwarnings("error")
def test_groups_without_held_out_images_centroid_or_direction_are_left_out():
    points = np.array([[0.0], [1], [5], [6], [9]])
    groups = np.array([0, 0, 1, 1, 2])
    found = held_out_separation(points, groups, np.array([[0.0], [5], [8], [np.nan]]))
    np.testing.assert_allclose(np.abs(found.distance), [5, np.nan, np.nan, np.nan])
    assert np.isnan(held_out_separation(points, groups, np.zeros((3, 1))).ratio).all()
    assert np.isnan(held_out_separation(points, groups, np.array([[0.0]])).ratio).all()


def test_halves_are_random_disjoint_and_everything():
    fit, held = halves(101, seed=0)
    assert (len(fit), len(held)) == (51, 50)
    np.testing.assert_array_equal(np.sort(np.concatenate([fit, held])), np.arange(101))
    assert (np.diff(fit) > 0).all() and (np.diff(held) > 0).all()
    assert not np.array_equal(fit, halves(101, seed=1)[0])


def test_the_total_deviation_is_that_of_the_covariance_far_from_the_origin_too():
    features = (np.random.default_rng(7).normal(size=(500, 8)) + 1000).astype(np.float32)
    assert total_deviation(features) == pytest.approx(np.sqrt(np.trace(np.cov(features.T, bias=True))), rel=1e-4)
    assert total_deviation(np.ones((5, 3), np.float32)) == 0


# nulls


def test_the_gaussian_null_has_the_same_mean_and_covariance():
    rng = np.random.default_rng(3)
    features = (rng.exponential(size=(200_000, 4)) @ rng.normal(size=(4, 4)) + 50).astype(np.float32)
    null = gaussian_null(features, seed=1)
    covariance = np.cov(features.T)
    scale = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((null.mean(0) - features.mean(0, dtype=np.float64)) / scale, 0, atol=0.012)
    np.testing.assert_allclose((np.cov(null.T) - covariance) / np.outer(scale, scale), 0, atol=0.02)
    skewness = (((null - null.mean(0)) / null.std(0)) ** 3).mean(0)
    np.testing.assert_allclose(skewness, 0, atol=0.03)


def test_the_gaussian_null_of_few_images_stays_in_their_span_and_keeps_silent_channels_silent():
    features = np.zeros((5, 40), np.float32)
    features[:, :10] = np.random.default_rng(4).normal(size=(5, 10))
    null = gaussian_null(features, seed=0)
    np.testing.assert_allclose(null[:, 10:], 0, atol=1e-6)
    _, _, span = np.linalg.svd(features - features.mean(0), full_matrices=False)
    offset = null - features.mean(0)
    np.testing.assert_allclose(offset @ span.T @ span, offset, atol=2e-3)
    np.testing.assert_array_equal(null, gaussian_null(features, seed=0))
    assert not np.array_equal(null, gaussian_null(features, seed=1))


def test_the_permuted_null_keeps_every_channel_and_breaks_their_tie():
    shared = np.random.default_rng(5).exponential(size=(20_000, 1)).astype(np.float32)
    features = shared * np.array([[1, 2, 3]], np.float32)
    null = permuted_null(features, seed=0)
    np.testing.assert_array_equal(np.sort(null, axis=0), np.sort(features, axis=0))
    np.testing.assert_allclose(np.corrcoef(null.T), np.eye(3), atol=0.03)


def test_pca_in_all_dimensions_keeps_distances_and_in_few_the_largest_variances():
    rng = np.random.default_rng(6)
    features = (rng.normal(size=(300, 6)) @ np.diag([9, 5, 3, 2, 1, 0.5]) + 20).astype(np.float32)
    whole = pca(features, 6)
    distances = [np.linalg.norm(data[:50, None] - data[None, :50], axis=2) for data in (features, whole)]
    np.testing.assert_allclose(*distances, atol=1e-3)
    variances = np.sort(np.linalg.eigvalsh(np.cov(features.T.astype(np.float64))))[::-1]
    np.testing.assert_allclose(pca(features, 2).var(0, ddof=1), variances[:2], rtol=1e-4)


def test_pca_into_more_dimensions_than_there_are_is_refused():
    with pytest.raises(InputError, match="4 images with 6 features has 1 to 4 dimensions, got 5"):
        pca(np.zeros((4, 6), np.float32), 5)


# labels


def test_a_partition_and_its_relabelling_are_perfectly_aligned():
    labels = np.random.default_rng(0).integers(0, 9, size=2000)
    renamed = np.random.default_rng(1).permutation(9)[labels]
    found = alignment(renamed, labels)
    assert (found.ami, found.nmi, found.purity) == pytest.approx((1, 1, 1))
    assert found.purity_by_chance < 0.25


def test_random_clusters_align_with_nothing_beyond_chance():
    rng = np.random.default_rng(2)
    found = alignment(rng.integers(0, 200, size=4000), rng.integers(0, 50, size=4000))
    assert abs(found.ami) < 0.01
    assert found.nmi > 0.2  # what makes it useless for many clusters
    assert found.purity == pytest.approx(found.purity_by_chance, abs=0.01)


def test_purity_and_mutual_information_agree_with_a_count_by_hand():
    clusters, labels = np.array([0, 0, 0, 1, 1, 1, 1, 2]), np.array([5, 5, 7, 7, 7, 7, 5, 5])
    joint = np.array([[2, 1], [1, 3], [1, 0]]) / 8
    mutual = entropy(joint.sum(0)) + entropy(joint.sum(1)) - entropy(joint.ravel())
    found = alignment(clusters, labels)
    assert found.purity == pytest.approx(6 / 8)
    assert found.nmi == pytest.approx(2 * mutual / (entropy(joint.sum(0)) + entropy(joint.sum(1))))


def test_single_image_clusters_are_pure_and_chance_says_so():
    found = alignment(np.arange(100), np.arange(100) % 7)
    assert found.purity == found.purity_by_chance == 1
    assert found.ami == pytest.approx(0, abs=1e-6)


# exemplars


def test_exemplars_are_the_members_nearest_to_their_centroid_largest_cluster_first():
    points = np.array([[0.0], [9.5], [1], [10], [0.4], [11], [10.1], [30]], np.float32)
    assignment = np.array([0, 2, 0, 2, 0, 2, 2, 1], np.int32)
    centroids = np.array([[0.5], [30], [10.15], [99]], np.float32)  # the last cluster is empty
    shown = exemplars(points, Clustering(assignment, centroids, 0.0, 1), 3)
    np.testing.assert_array_equal(shown.clusters, [2, 0, 1, 3])
    np.testing.assert_array_equal(shown.images, [[6, 3, 1], [4, 0, 2], [7, -1, -1], [-1, -1, -1]])


def test_exemplars_of_a_real_clustering_agree_with_a_search_cluster_by_cluster():
    points = np.random.default_rng(3).normal(size=(400, 6)).astype(np.float32)
    clustering = kmeans(points, 15, seed=0, runs=1)
    shown = exemplars(points, clustering, 5)
    for cluster, images in zip(*shown, strict=True):
        members = np.flatnonzero(clustering.assignment == cluster)
        distance = np.linalg.norm(points[members] - clustering.centroids[cluster], axis=1)
        nearest = members[np.argsort(distance)][:5]
        np.testing.assert_array_equal(images[images >= 0], nearest)


# pictures


def test_agreement_is_the_ami_of_the_alignment():
    rng = np.random.default_rng(3)
    first = rng.integers(0, 12, 500)
    second = np.where(rng.random(500) < 0.6, first, rng.integers(0, 12, 500))
    assert agreement(first, second) == pytest.approx(alignment(first, second).ami, abs=1e-9)
    assert 0.1 < agreement(first, second) < 0.9


def test_groups_for_a_picture_come_from_the_larger_half():
    assignment = np.repeat([0, 1, 2, 4, 5, 6, 7], [1, 9, 2, 8, 3, 7, 6])  # nobody in group 3
    np.testing.assert_array_equal(larger_groups(assignment, 4, seed=0), [1, 4, 6, 7])
    drawn = [larger_groups(assignment, 2, seed=seed) for seed in range(20)]
    assert {group for groups in drawn for group in groups} == {1, 4, 6, 7}
    assert all(first < second for first, second in drawn)
    np.testing.assert_array_equal(larger_groups(assignment, 50, seed=0), [0, 1, 2, 4, 5, 6, 7])


def test_tsne_keeps_blobs_apart_and_equal_seeds_give_equal_pictures_at_any_scale():
    points, labels = blobs(clusters=4, each=25)
    picture = embedding(points * np.float32(1e-6), seed=1)
    assert nearest_alike(picture, labels) == 1
    np.testing.assert_array_equal(picture, embedding(points * np.float32(1e-6), seed=1))


def test_tsne_of_too_few_or_equal_images_is_refused():
    with pytest.raises(InputError, match="of 3 images"):
        embedding(np.eye(3, dtype=np.float32), seed=0)
    with pytest.raises(InputError, match="all the same"):
        embedding(np.ones((9, 4), np.float32), seed=0)


def test_nearest_alike_counts_neighbours_and_never_the_image_itself():
    points, groups = np.array([[0.0], [1], [1.5], [7], [7]]), np.array([0, 0, 1, 1, 1])
    assert nearest_alike(points, groups) == pytest.approx(3 / 5)
    rng = np.random.default_rng(0)
    assert nearest_alike(rng.normal(size=(4000, 5)), np.arange(4000) % 10) == pytest.approx(399 / 3999, abs=0.02)
