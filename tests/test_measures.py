import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import pdist
from scipy.stats import bootstrap
from sklearn.linear_model import Ridge
from sklearn.model_selection import GroupKFold, LeaveOneGroupOut, cross_val_predict

from unetrep_jax import measures
from unetrep_jax.measures import Separation, group_means, participation_ratio, quartiles, separations
from unetrep_jax.storage import InputError


def ratio_in_float64(a, axis=-1):
    a = np.abs(np.asarray(a, np.float64))
    return a.sum(axis) ** 2 / (a.shape[axis] * (a**2).sum(axis))


# participation ratio


@pytest.mark.parametrize("carrying", [1, 2, 7, 16])
def test_the_participation_ratio_of_k_equal_entries_among_d_is_k_over_d(carrying):
    vector = np.r_[np.full(carrying, 0.3), np.zeros(16 - carrying)].astype(np.float32)
    np.testing.assert_allclose(participation_ratio(vector), carrying / 16, rtol=1e-6)


@pytest.mark.parametrize("dimensions", [1, 3, 64, 512, 1000])
def test_the_participation_ratio_never_leaves_its_range(dimensions):
    draws = np.random.default_rng(0).normal(size=(200, dimensions)).astype(np.float32)
    nearly_equal = 1 + 1e-4 * draws
    one_dominates = np.where(np.arange(dimensions) == 0, 1.0, 1e-6 * np.abs(draws)).astype(np.float32)
    for vectors in (draws, nearly_equal, one_dominates):
        ratio = np.asarray(participation_ratio(vectors))
        assert ratio.min() >= np.float32(1 / dimensions)
        assert ratio.max() <= 1


@pytest.mark.parametrize("scale", [-1.0, 3.7, 1e-36, 1e-20, 1e20, 1e36])
def test_scaling_a_vector_leaves_its_participation_ratio_unchanged(scale):
    vectors = np.random.default_rng(1).uniform(0.1, 1, size=(5, 40)).astype(np.float32)
    np.testing.assert_allclose(participation_ratio(vectors * np.float32(scale)), ratio_in_float64(vectors), rtol=1e-5)


def test_an_all_zero_vector_has_no_participation_ratio_and_spoils_no_other():
    vectors = np.array([[0, 0, 0, 0], [1, 1, 0, 0]], np.float32)
    np.testing.assert_allclose(participation_ratio(vectors), [np.nan, 0.5])


def test_the_participation_ratio_agrees_with_numpy_along_every_axis():
    a = np.random.default_rng(2).normal(size=(3, 4, 5)).astype(np.float32)
    for axis in (0, 1, 2, -1, -2):
        np.testing.assert_allclose(participation_ratio(a, axis), ratio_in_float64(a, axis), rtol=1e-5)


def test_known_distributions_have_their_known_participation_ratios():
    rng = np.random.default_rng(3)
    np.testing.assert_allclose(participation_ratio(rng.normal(size=400_000)), 2 / np.pi, rtol=0.01)
    np.testing.assert_allclose(participation_ratio(rng.exponential(size=400_000)), 1 / 2, rtol=0.01)
    np.testing.assert_allclose(participation_ratio(rng.uniform(size=400_000)), 3 / 4, rtol=0.01)


def test_the_participation_ratio_works_under_jit_vmap_and_half_precision():
    a = np.random.default_rng(4).uniform(0, 1, size=(6, 512)).astype(np.float32)
    expected = ratio_in_float64(a)
    np.testing.assert_allclose(jax.jit(participation_ratio)(a), expected, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(participation_ratio)(jnp.asarray(a)), expected, rtol=1e-5)
    half = participation_ratio(jnp.asarray(1000 * a, jnp.float16))
    np.testing.assert_allclose(np.asarray(half, np.float32), expected, rtol=5e-3)


def test_the_gradient_of_the_participation_ratio_is_that_of_the_formula():
    a = np.random.default_rng(5).uniform(0.2, 1, size=9).astype(np.float32)
    step = 1e-6 * np.eye(9)
    expected = (ratio_in_float64(a + step) - ratio_in_float64(a - step)) / 2e-6
    gradient = jax.grad(participation_ratio)(jnp.asarray(a))
    np.testing.assert_allclose(gradient, expected, atol=1e-5)
    np.testing.assert_allclose(gradient @ a, 0, atol=1e-6)  # nothing changes along the vector itself
    for scale in np.float32([1e-25, 1e25]):
        np.testing.assert_allclose(jax.grad(participation_ratio)(jnp.asarray(scale * a)) * scale, gradient, atol=1e-6)


# quartiles


def test_quartiles_leave_out_what_is_not_a_number():
    values = np.array([[1.0, 5.0, np.nan], [2.0, np.nan, np.nan], [3.0, 7.0, np.nan], [np.nan, 9.0, np.nan]])
    np.testing.assert_allclose(quartiles(values), [[1.5, 6, np.nan], [2, 7, np.nan], [2.5, 8, np.nan]])


@pytest.mark.filterwarnings("error")
def test_quartiles_of_nothing_are_not_numbers():
    np.testing.assert_array_equal(quartiles(np.full(4, np.nan)), [np.nan] * 3)
    assert quartiles(np.full((4, 2), np.nan), axis=1).shape == (3, 4)


def test_quartiles_agree_with_numpy_where_nothing_is_missing():
    values = np.random.default_rng(0).normal(size=(101, 3)).astype(np.float32)
    np.testing.assert_allclose(quartiles(values), np.percentile(values, [25, 50, 75], axis=0), rtol=1e-6)


# separation


def separation(points_1, points_2):
    """Separation of two groups of points."""
    groups = np.repeat([0, 1], [len(points_1), len(points_2)])
    pair = separations(np.concatenate([points_1, points_2]), groups, np.array([[0, 1]]))
    return Separation(*(float(value[0]) for value in pair))


def test_a_gaussian_split_at_its_centre_has_the_ratio_of_a_cloud_without_clusters():
    points = np.random.default_rng(0).normal(size=(400_000, 1))
    found = separation(points[points[:, 0] > 0], points[points[:, 0] <= 0])
    np.testing.assert_allclose(found.distance, 2 * np.sqrt(2 / np.pi), rtol=0.005)
    np.testing.assert_allclose(found.spread, np.sqrt(2 * (1 - 2 / np.pi)), rtol=0.005)
    np.testing.assert_allclose(found.ratio, 1.872, rtol=0.005)


def test_the_separation_of_two_gaussians_is_their_distance_over_the_spread_along_it():
    rng = np.random.default_rng(1)
    factor_1, factor_2 = rng.normal(size=(2, 4, 4))
    shift = np.array([3.0, -1.0, 0.5, 2.0])
    points_1 = rng.normal(size=(200_000, 4)) @ factor_1.T
    points_2 = rng.normal(size=(200_000, 4)) @ factor_2.T + shift
    along = shift / np.linalg.norm(shift)
    spread = np.sqrt(along @ (factor_1 @ factor_1.T + factor_2 @ factor_2.T) @ along)
    np.testing.assert_allclose(separation(points_1, points_2).ratio, np.linalg.norm(shift) / spread, rtol=0.01)


def test_spread_across_the_line_of_means_does_not_count():
    left = np.array([[-1.5, -9], [-0.5, 9]])
    right = np.array([[1.5, -9], [0.5, 9]])
    np.testing.assert_allclose(separation(left, right), (2, np.sqrt(0.5), 2 / np.sqrt(0.5)))


def test_moving_rotating_and_scaling_leave_the_separation_ratio_unchanged():
    rng = np.random.default_rng(2)
    points_1, points_2 = rng.normal(size=(30, 5)), rng.normal(size=(50, 5)) + 1
    rotation, _ = np.linalg.qr(rng.normal(size=(5, 5)))
    found = separation(*(7 * points @ rotation + 100 for points in (points_1, points_2)))
    np.testing.assert_allclose(found.ratio, separation(points_1, points_2).ratio, rtol=1e-10)
    np.testing.assert_allclose(found.distance, 7 * separation(points_1, points_2).distance, rtol=1e-10)


def test_many_separations_at_once_equal_the_formula_pair_by_pair():
    rng = np.random.default_rng(3)
    features = rng.normal(size=(300, 6)).astype(np.float32)
    groups = rng.integers(-1, 8, size=300)
    pairs = np.array([[i, j] for i in range(8) for j in range(8) if i != j])
    found = separations(features, groups, pairs)
    for row, (i, j) in enumerate(pairs):
        one, two = features[groups == i].astype(np.float64), features[groups == j].astype(np.float64)
        between = one.mean(0) - two.mean(0)
        along = between / np.linalg.norm(between)
        spread = np.sqrt((one @ along).var() + (two @ along).var())
        expected = np.linalg.norm(between), spread, np.linalg.norm(between) / spread
        np.testing.assert_allclose([value[row] for value in found], expected, rtol=1e-5)


def test_a_large_offset_costs_the_separation_no_digits():
    rng = np.random.default_rng(4)
    features = rng.integers(0, 1024, size=(1000, 3)) / 1024  # still exact in float32 when 4096 is added
    points_1, points_2 = np.float32(features[:400]), np.float32(features[400:])
    far = separation(points_1 + np.float32(4096), points_2 + np.float32(4096))
    np.testing.assert_allclose(far, separation(points_1, points_2), rtol=1e-9)


@pytest.mark.filterwarnings("error")
def test_groups_that_cannot_be_compared_are_marked_and_do_not_warn():
    features = np.array([[0.0, 0], [2, 0], [1, 0], [5, 5]])
    groups = np.array([0, 0, 2, 3])  # nobody in group 1; groups 0 and 2 share their mean
    found = separations(features, groups, np.array([[0, 1], [0, 2], [2, 3]]))
    np.testing.assert_array_equal(np.isnan(found.ratio), [True, True, False])
    assert found.ratio[2] == np.inf  # two single points
    np.testing.assert_allclose(found.distance[2], np.sqrt(41))
    assert isinstance(found, Separation)
    assert all(len(value) == 0 for value in separations(features, groups, np.zeros((0, 2), int)))


def test_group_means_are_means_of_the_groups_rows():
    features = np.array([[1.0], [3], [10], [-4]], np.float32)
    np.testing.assert_array_equal(group_means(features, np.array([2, 2, 0, -1]), 4), [[10], [np.nan], [2], [np.nan]])


# bootstrap


def test_row_zero_holds_the_means_and_the_draws_vary_as_means_do():
    values = np.random.default_rng(0).normal(3, 2, size=(400, 2))
    means = measures.bootstrap_means(values, 2000, seed=1)
    assert means.shape == (2001, 2)
    np.testing.assert_allclose(means[0], values.mean(0), rtol=1e-12)
    np.testing.assert_allclose(means[1:].std(0), values.std(0) / 20, rtol=0.06)
    np.testing.assert_array_equal(means, measures.bootstrap_means(values, 2000, seed=1))
    assert (means[1:] != measures.bootstrap_means(values, 2000, seed=2)[1:]).any()


def test_every_draw_takes_as_many_rows_as_there_are_and_the_same_in_every_column():
    means = measures.bootstrap_means(np.stack([np.ones(50), np.arange(50.0), 3 * np.arange(50.0)], 1), 200)
    np.testing.assert_allclose(means[:, 0], 1)
    np.testing.assert_allclose(means[:, 2], 3 * means[:, 1])
    alone = measures.bootstrap_means(np.arange(50.0)[:, None], 200)
    np.testing.assert_allclose(alone[:, 0], means[:, 1])


def test_the_draws_of_many_rows_are_made_in_parts():
    count = 1 << 20  # two draws at once
    means = measures.bootstrap_means(np.arange(count, dtype=np.float32)[:, None], 5)
    assert means.shape == (6, 1) and len(np.unique(means)) == 6
    np.testing.assert_allclose(means, (count - 1) / 2, rtol=0.01)


@pytest.mark.filterwarnings("error")
def test_what_is_not_a_number_is_left_out_of_its_column_alone():
    values = np.array([[1.0, 2, np.nan], [np.nan, 4, np.nan], [5, 9, np.nan]])
    means = measures.bootstrap_means(values, 500)
    np.testing.assert_allclose(means[0], [3, 5, np.nan])
    found = measures.estimate(means)
    np.testing.assert_allclose([found.low[0], found.high[0]], [1, 5])
    assert np.isnan([found.value[2], found.low[2], found.high[2]]).all()


def test_the_interval_of_a_mean_is_scipys_percentile_bootstrap():
    values = np.random.default_rng(0).exponential(size=200)
    found = measures.estimate(measures.bootstrap_means(values[:, None], 5000)[:, 0])
    theirs = bootstrap((values,), np.mean, method="percentile", n_resamples=5000, rng=np.random.default_rng(1))
    np.testing.assert_allclose([found.low, found.high], theirs.confidence_interval, rtol=0.015)


# products and cosines between noise levels


def test_products_and_cosines_are_those_of_the_vectors():
    averages = np.random.default_rng(0).normal(size=(5, 4, 7)).astype(np.float32)
    products = measures.level_products(averages)
    cosines = measures.cosines_of_products(products)
    for image in range(5):
        for s in range(4):
            for t in range(4):
                a, b = np.float64(averages[image, s]), np.float64(averages[image, t])
                np.testing.assert_allclose(products[image, s, t], a @ b, rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(cosines[image, s, t], measures.cosine(a, b), rtol=1e-9)


def test_products_of_noisy_estimates_are_right_on_average():
    generator = np.random.default_rng(1)
    phi = generator.normal(size=(3, 8))
    draws = phi + 0.7 * generator.normal(size=(40_000, 2, 3, 8))  # image, draw, level
    noise = draws.var(1, ddof=1).sum(-1) / 2
    products = measures.level_products(draws.mean(1))
    np.testing.assert_allclose(measures.freed_of_noise(products, noise).mean(0), phi @ phi.T, atol=0.05)
    np.testing.assert_allclose(products.mean(0) - phi @ phi.T, 8 * 0.7**2 / 2 * np.eye(3), atol=0.05)


@pytest.mark.filterwarnings("error")
def test_a_level_without_length_has_no_cosine_and_spoils_no_other():
    products = np.array([[4.0, 2, 0], [2, 1, 0], [0, 0, -1]])
    np.testing.assert_allclose(measures.cosines_of_products(products), [[1, 1, np.nan]] * 2 + [[np.nan] * 3])


# scaling against turning


def test_a_change_and_its_part_along_the_vector_are_those_of_the_vectors():
    vectors = np.random.default_rng(2).normal(size=(50, 3, 9))  # image, level; the reference is level 1
    products = measures.level_products(vectors)
    found = measures.level_changes(products[:, 1], np.diagonal(products, axis1=1, axis2=2), 1)
    lengths = np.linalg.norm(vectors[:, 1], axis=1)
    for level in range(3):
        change = (vectors[:, level] - vectors[:, 1]) / lengths[:, None]
        along = (change * vectors[:, 1]).sum(1) / lengths
        np.testing.assert_allclose(found.total[:, level], (change**2).sum(1), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found.along[:, level], along**2, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("error")
def test_a_scaled_vector_changes_along_itself_an_added_right_angle_does_not_and_nothing_has_no_direction():
    with_reference, squares = np.array([9.0, 27, 4.5, 9, 0]), np.array([9.0, 81, 2.25, 25, 0])
    found = measures.level_changes(with_reference, squares, 0)
    np.testing.assert_allclose(found.total, [0, 4, 0.25, 16 / 9, 1])
    np.testing.assert_allclose(found.along, [0, 4, 0.25, 0, 1])
    assert np.isnan(measures.level_changes(np.zeros(2), np.zeros(2), 0)).all()


def test_mean_products_give_the_part_that_one_factor_for_all_images_explains():
    generator = np.random.default_rng(3)
    before = generator.normal(size=(30, 6))
    after = 1.7 * before + 0.5 * generator.normal(size=(30, 6))
    factor = (after * before).sum() / (before**2).sum()
    with_reference = np.array([(before**2).sum(), (after * before).sum()])
    squares = np.array([(before**2).sum(), (after**2).sum()])
    found = measures.level_changes(with_reference, squares, 0)
    np.testing.assert_allclose(found.along[1] * squares[0], ((factor - 1) ** 2 * before**2).sum(), rtol=1e-9)
    np.testing.assert_allclose(found.total[1] * squares[0], ((after - before) ** 2).sum(), rtol=1e-9)


# distances between images


def test_squared_spreads_average_to_the_mean_squared_distance_of_pairs():
    points = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) + 100
    np.testing.assert_allclose(
        measures.squared_spreads(points).mean(), (pdist(np.float64(points)) ** 2).mean(), rtol=1e-9
    )
    assert np.isnan(measures.squared_spreads(points[:1])).all()


# ridge regression


def test_ridge_predictions_are_those_of_the_closed_form_fold_by_fold(monkeypatch):
    generator = np.random.default_rng(0)
    features, targets = generator.normal(2, 3, size=(60, 8)), generator.normal(size=(60, 2))
    groups = np.repeat(np.arange(20), 3)
    monkeypatch.setattr(measures, "RIDGE_PENALTIES", np.array([7.0]))
    found = measures.cross_validated_ridge(features, targets, groups, folds=4)
    for train, test in GroupKFold(4).split(features, targets, groups):
        mean, deviation = features[train].mean(0), features[train].std(0)
        x, y = (features[train] - mean) / deviation, targets[train] - targets[train].mean(0)
        weights = np.linalg.solve(x.T @ x + 7 * np.eye(8), x.T @ y)
        expected = (features[test] - mean) / deviation @ weights + targets[train].mean(0)
        np.testing.assert_allclose(found[test], expected, rtol=1e-6, atol=1e-8)


def test_ridge_finds_a_linear_rule_and_cannot_use_what_marks_a_group():
    generator = np.random.default_rng(1)
    groups = np.repeat(np.arange(30), 4)
    of_group = generator.normal(size=30)[groups][:, None]
    marks = np.eye(30)[groups]
    rule = generator.normal(size=(120, 3))
    predicted = measures.cross_validated_ridge(rule, rule @ np.array([[1.0], [-2], [0.5]]), groups)
    np.testing.assert_allclose(predicted, rule @ np.array([[1.0], [-2], [0.5]]), atol=1e-3)
    guessed = measures.cross_validated_ridge(marks, of_group, groups)
    assert np.mean((guessed - of_group) ** 2) > 0.9 * of_group.var()


def test_the_ridge_penalty_is_the_best_for_groups_that_were_left_out(monkeypatch):
    generator = np.random.default_rng(2)
    groups = np.concatenate([np.repeat(np.arange(12), 4), np.arange(12, 24)])
    features = generator.normal(size=(60, 3))
    features = np.concatenate(
        [features, 2 * generator.normal(size=(24, 40))[groups]], 1
    )  # what tells backgrounds apart
    targets = features[:, :1] + generator.normal(size=24)[groups][:, None] + 0.1 * generator.normal(size=(60, 1))
    monkeypatch.setattr(measures, "RIDGE_PENALTIES", np.logspace(-2, 4, 7))
    found, chosen, alone = measures.cross_validated_ridge(features, targets, groups, folds=3), [], []
    for train, test in GroupKFold(3).split(features, targets, groups):
        x = (features[train] - features[train].mean(0)) / features[train].std(0)
        errors = {}
        for name, parts in (("groups", groups[train]), ("rows", np.arange(len(train)))):
            for penalty in measures.RIDGE_PENALTIES:
                predicted = cross_val_predict(Ridge(penalty), x, targets[train], groups=parts, cv=LeaveOneGroupOut())
                errors[name, penalty] = np.square(predicted.reshape(-1, 1) - targets[train]).sum()
        chosen.append(min((errors["groups", penalty], penalty) for penalty in measures.RIDGE_PENALTIES)[1])
        alone.append(min((errors["rows", penalty], penalty) for penalty in measures.RIDGE_PENALTIES)[1])
        fit = Ridge(chosen[-1]).fit(x, targets[train])
        expected = fit.predict((features[test] - features[train].mean(0)) / features[train].std(0))
        np.testing.assert_allclose(found[test], expected.reshape(-1, 1), rtol=1e-6, atol=1e-8)
    assert chosen != alone  # leaving out single rows would have chosen other penalties


def test_ridge_bears_constant_features_and_refuses_a_single_group():
    features = np.concatenate([np.zeros((20, 2)), np.arange(20.0)[:, None]], 1)
    found = measures.cross_validated_ridge(features, np.arange(20.0)[:, None], np.arange(20))
    np.testing.assert_allclose(found[:, 0], np.arange(20), atol=0.1)
    halves = measures.cross_validated_ridge(features, np.arange(20.0)[:, None], np.arange(20) % 2)
    np.testing.assert_allclose(halves[:, 0], np.arange(20), atol=0.2)
    with pytest.raises(InputError, match="two groups") as caught:
        measures.cross_validated_ridge(features, features, np.zeros(20, int))
    assert "\n" not in str(caught.value)
