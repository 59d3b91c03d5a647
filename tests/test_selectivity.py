"""Measures of selectivity against known answers, slow loops by definition, scipy and scikit-learn."""

import itertools

import numpy as np
import pytest
from scipy import optimize, stats
from sklearn.metrics.pairwise import cosine_similarity

from unetrep_jax import selectivity


@pytest.fixture
def random():
    """A generator of its own for every test."""
    return np.random.default_rng(0)


# Ratios


def test_a_ratio_is_the_share_of_the_images_that_use_the_channel():
    values = np.zeros((10, 3), np.float32)
    values[:4, 0], values[:, 1], values[7, 2] = 2.0, 5.0, 0.1
    ratios = selectivity.selectivity(values, np.zeros(3))
    np.testing.assert_allclose(ratios, [0.4, 1.0, 0.1], rtol=1e-6)


def test_what_is_at_or_below_the_threshold_counts_as_off_and_a_channel_off_everywhere_has_no_ratio():
    values = np.array([[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]], np.float32)
    ratios = selectivity.selectivity(values, np.array([2.0, 3.0]))
    assert ratios[0] == pytest.approx(1 / 3) and np.isnan(ratios[1])


def test_without_a_threshold_the_ratio_follows_from_mean_and_deviation(random):
    values = random.gamma(2.0, size=(500, 6)).astype(np.float32)
    ratios = selectivity.selectivity(values, selectivity.thresholds(values, "none"))
    np.testing.assert_allclose(ratios, 1 / (1 + (values.std(0) / values.mean(0)) ** 2), rtol=1e-5)


def test_a_ratio_near_one_keeps_its_digits(random):
    values = (1 + 1e-4 * random.standard_normal((3000, 1))).astype(np.float32)
    spread = values.astype(float).std() / values.astype(float).mean()
    ratio = selectivity.selectivity(values, np.full(1, -np.inf))[0]
    assert 1 - ratio == pytest.approx(spread**2, rel=1e-3)


def test_logits_are_exact_where_ratios_are_one_up_to_rounding_and_elsewhere_those_of_the_ratios(random):
    values = random.gamma(2.0, size=(300, 5)) * (random.random((300, 5)) < 0.5)
    ratios, found = (of(values, np.full(5, 0.3)) for of in (selectivity.selectivity, selectivity.logits))
    np.testing.assert_allclose(found, selectivity.logit(ratios), rtol=1e-9)
    deviation = random.standard_normal(1000)
    nearly = 1 + 1e-9 * (deviation - deviation.mean()) / deviation.std()
    columns = np.stack([nearly, np.ones(1000), np.zeros(1000)], axis=1)
    found = selectivity.logits(columns, np.full(3, -np.inf))
    assert found[0] == pytest.approx(18 * np.log(10), abs=1e-5) and found[1] == np.inf and np.isnan(found[2])


def test_ratios_of_few_images_are_spread_over_one_step_and_no_further(random):
    on = random.integers(1, 6, 400)
    ratios = np.append(on / 1000, [1.0, np.nan])
    spread = selectivity.off_the_lattice(ratios, np.append(on, [1000, 0]), 1000)
    assert abs(spread[:-2] - ratios[:-2]).max() <= 0.0005 and spread[-2] == 1 and np.isnan(spread[-1])
    assert selectivity.dip_p_value(selectivity.dip(ratios[:-2]), 400, simulations=100) < 0.02
    assert selectivity.dip_p_value(selectivity.dip(spread[:-2]), 400, simulations=100) > 0.05


def test_thresholds_are_the_maximum_and_the_percentile_of_each_channel_without_noise(random):
    at_zero = random.random((2001, 4)).astype(np.float32)
    np.testing.assert_array_equal(selectivity.thresholds(at_zero, "maximum"), at_zero.max(0))
    # 2,001 values: the 99.9th percentile is the third largest but one, two places below the maximum.
    np.testing.assert_allclose(selectivity.thresholds(at_zero, "percentile"), np.sort(at_zero, 0)[-3], rtol=1e-6)


def test_silent_and_constant_channels_are_dead():
    values = np.array([[0.0, 0.3, 0.0], [0.0, 0.3, 0.1]], np.float32)
    assert selectivity.dead_channels(values).tolist() == [True, True, False]


def test_kurtosis_agrees_with_scipy_and_is_undefined_for_a_constant_channel(random):
    values = random.exponential(size=(300, 70)).astype(np.float32)
    values[:, 5] = 1
    found = selectivity.excess_kurtosis(values)
    assert np.isnan(found[5])
    others = np.arange(70) != 5
    np.testing.assert_allclose(found[others], stats.kurtosis(values.astype(float)[:, others]), rtol=1e-6)


# Dip


def dip_by_definition(values):
    """The least distance to a distribution that is convex below its mode and concave above, by a linear program per mode."""
    x, counts = np.unique(values, return_counts=True)
    upper = np.cumsum(counts) / len(values)
    lower = upper - counts / len(values)
    return min(distance_with_mode(x, lower, upper, mode) for mode in range(len(x)))


def distance_with_mode(x, lower, upper, mode):
    # Unknowns: G at every value, at the mode just below; G at the mode; the distance.
    count = len(x)
    rows, limits = [], []

    def at_most(terms, limit):
        row = np.zeros(count + 2)
        for place, factor in terms:
            row[place] += factor
        rows.append(row)
        limits.append(limit)

    for i in range(count):
        places = [(i, lower[i], lower[i]), (count, upper[i], upper[i])] if i == mode else [(i, lower[i], upper[i])]
        for place, least, largest in places:
            at_most([(place, 1), (count + 1, -1)], least)
            at_most([(place, -1), (count + 1, -1)], -largest)
    at_most([(mode, 1), (count, -1)], 0)
    left = list(range(mode + 1))
    right = [count, *range(mode + 1, count)]
    positions = [*x, x[mode]]
    for side, places in ((1, left), (-1, right)):
        for a, b, c in zip(places, places[1:], places[2:], strict=False):
            first, second = positions[b] - positions[a], positions[c] - positions[b]
            slope = [(b, side / first), (a, -side / first), (c, -side / second), (b, side / second)]
            at_most(slope, 0)
        for a, b in itertools.pairwise(places):
            at_most([(a, 1), (b, -1)], 0)
    cost = np.zeros(count + 2)
    cost[-1] = 1
    return optimize.linprog(cost, np.array(rows), np.array(limits), bounds=(0, None)).fun


@pytest.mark.parametrize("count", [4, 7, 30])
def test_evenly_spaced_values_have_the_smallest_dip(count):
    assert selectivity.dip(np.linspace(-3.0, 5.0, count)) == pytest.approx(1 / (2 * count), rel=1e-12)


def test_two_far_groups_have_a_dip_near_a_quarter(random):
    groups = np.concatenate([random.random(200), 1000 + random.random(200)])
    assert 0.24 < selectivity.dip(groups) <= 0.25
    assert selectivity.dip(np.array([0.0, 0, 1, 1])) == 0.25
    assert selectivity.dip(np.repeat([0.0, 1.0], [30, 10])) == pytest.approx(1 / 8)


def test_the_dip_agrees_with_its_definition_on_small_samples(random):
    for count in (3, 5, 8, 11, 14):
        for sample in (random.random(count), random.standard_normal(count) ** 3, random.integers(0, 6, count) / 2.0):
            if len(np.unique(sample)) > 1:
                assert selectivity.dip(sample) == pytest.approx(dip_by_definition(sample), abs=1e-8)


def test_the_dip_does_not_see_shift_scale_order_or_direction(random):
    sample = random.standard_normal(60) ** 3
    found = selectivity.dip(sample)
    for same in (sample[::-1], 3 * sample + 7, -sample):
        assert selectivity.dip(same) == pytest.approx(found, rel=1e-9)


def test_equal_values_are_unimodal_and_an_empty_sample_has_no_dip():
    assert selectivity.dip(np.ones(10)) == 0.05
    assert np.isnan(selectivity.dip(np.empty(0)))
    assert np.isnan(selectivity.dip_p_value(float("nan"), 0))


def test_p_values_of_uniform_samples_are_spread_evenly_and_two_humps_are_rejected(random):
    chances = [selectivity.dip_p_value(selectivity.dip(random.random(40)), 40, simulations=200) for _ in range(100)]
    assert stats.kstest(chances, "uniform").pvalue > 0.01
    humps = np.concatenate([random.normal(-6, 1, 20), random.normal(6, 1, 20)])
    assert selectivity.dip_p_value(selectivity.dip(humps), 40, simulations=200) == pytest.approx(1 / 201)


# Mixture and groups


def test_two_gaussians_are_found_and_preferred(random):
    values = np.concatenate([random.normal(-4, 0.5, 200), random.normal(1, 1, 400)])
    found = selectivity.mixture(values)
    assert found.bic_gain > 100
    np.testing.assert_allclose(found.weights, [1 / 3, 2 / 3], atol=0.02)
    np.testing.assert_allclose(found.means, [-4, 1], atol=0.15)
    np.testing.assert_allclose(found.deviations, [0.5, 1], atol=0.1)


def test_one_gaussian_is_preferred_where_there_is_one(random):
    assert selectivity.mixture(random.standard_normal(500)).bic_gain < 0


def test_the_weighted_densities_are_equal_at_the_crossing():
    weights, means, deviations = np.array([0.2, 0.8]), np.array([-2.0, 1.0]), np.array([0.4, 1.2])
    place = selectivity.crossing(weights, means, deviations)
    heights = weights * stats.norm.pdf(place, means, deviations)
    assert -2 < place < 1 and heights[0] == pytest.approx(heights[1], rel=1e-9)
    assert selectivity.crossing(np.array([0.5, 0.5]), np.array([0.0, 3.0]), np.ones(2)) == pytest.approx(1.5)


def test_a_component_below_the_other_throughout_has_no_crossing():
    assert np.isnan(selectivity.crossing(np.array([0.01, 0.99]), np.array([0.0, 0.1]), np.ones(2)))


def test_channels_are_split_where_the_components_cross(random):
    low, high = 1 / (1 + np.exp(-random.normal([[-4], [1]], 0.4, (2, 60))))
    ratios = np.concatenate([low, high, [np.nan]])
    groups = selectivity.split_channels(selectivity.logit(ratios))
    assert groups.specialised[:60].all() and groups.common[60:120].all()
    assert not (groups.specialised | groups.common)[120]
    assert low.max() < groups.boundary < high.min()


def test_where_one_gaussian_is_enough_the_outer_terciles_are_taken(random):
    ratios = 1 / (1 + np.exp(-random.normal(size=300)))
    groups = selectivity.split_channels(selectivity.logit(np.append(ratios, np.nan)))
    assert np.isnan(groups.boundary) and groups.mixture.bic_gain < 0
    order = np.argsort(ratios)
    assert set(np.flatnonzero(groups.specialised)) == set(order[:100])
    assert set(np.flatnonzero(groups.common)) == set(order[200:])


def test_few_or_no_ratios_make_no_mixture():
    few = selectivity.split_channels(np.array([-1, 0, np.nan, 2.0]))
    assert few.mixture is None and few.specialised.tolist() == [True, False, False, False]
    assert few.common.tolist() == [False, False, False, True]
    none = selectivity.split_channels(np.full(3, np.nan))
    assert not (none.specialised | none.common).any()


def test_a_difference_between_groups_is_significant_only_where_there_is_one(random):
    specialised = np.arange(60) < 25
    common = (np.arange(60) >= 25) & (np.arange(60) < 58)
    values = random.standard_normal(60)
    values[3] = np.nan
    shifted = selectivity.compare_groups(values + 3 * common, specialised, common, permutations=400)
    assert shifted.p_value == pytest.approx(1 / 401)
    assert shifted.specialised == pytest.approx(np.nanmedian(values[:25]))
    assert shifted.common == pytest.approx(np.median(values[25:58]) + 3)
    chances = [
        selectivity.compare_groups(random.standard_normal(60), specialised, common, permutations=99).p_value
        for _ in range(100)
    ]
    assert stats.kstest(chances, "uniform").pvalue > 0.005
    assert np.isnan(selectivity.compare_groups(values, specialised, np.zeros(60, bool)).p_value)


def test_differences_by_chance_that_are_undefined_do_not_count():
    assert selectivity.p_value(1.0, np.array([0.5, np.nan, 2.0, np.inf])) == pytest.approx(2 / 3)
    assert np.isnan(selectivity.p_value(np.nan, np.ones(3))) and np.isnan(selectivity.p_value(1.0, np.full(3, np.nan)))


def test_permuted_groups_keep_sizes_and_members():
    specialised, common = np.array([1, 1, 0, 0, 0, 0], bool), np.array([0, 0, 0, 1, 1, 1], bool)
    first, second = selectivity.permuted_groups(specialised, common, 200, 0)
    assert (first.sum(1) == 2).all() and (second.sum(1) == 3).all() and not (first & second).any()
    assert ((first | second) == (specialised | common)).all()
    np.testing.assert_allclose(first.mean(0)[[0, 1, 3, 4, 5]], 0.4, atol=0.12)


def test_group_cosines_agree_with_scikit_learn(random):
    a, b = random.random((30, 8)).astype(np.float32), random.random((30, 8)).astype(np.float32)
    masks = random.random((3, 8)) < 0.6
    masks[:, 0] = True
    masks[2] = False
    a[4] = 0
    found = selectivity.group_cosines(a, b, masks, chunk=7)
    assert np.isnan(found[2])
    others = np.arange(30) != 4
    for mask, value in zip(masks[:2], found, strict=False):
        pairs = np.diag(cosine_similarity(a[others][:, mask], b[others][:, mask]))
        assert value == pytest.approx(pairs.mean(), rel=1e-5)


def test_channel_correlations_agree_with_numpy(random):
    a, b = random.random((40, 70)), random.random((40, 70))
    a[:, 3] = 2
    found = selectivity.channel_correlations(a, b)
    assert np.isnan(found[3])
    np.testing.assert_allclose(found[66], np.corrcoef(a[:, 66], b[:, 66])[0, 1], rtol=1e-9)


# Likeness


def test_top_images_are_the_largest_values_in_order(random):
    values = random.permutation(200).reshape(20, 10).astype(np.float32)
    values[[2, 7], 0] = 1000
    found = selectivity.top_images(values, 5)
    assert found.shape == (10, 5) and found[0, :2].tolist() == [2, 7]
    for channel in range(1, 10):
        assert found[channel].tolist() == sorted(range(20), key=lambda n: -values[n, channel])[:5]


def test_pixel_features_are_means_over_cells():
    image = np.arange(16 * 16, dtype=np.uint8).reshape(1, 16, 16, 1)
    expected = image[0, ..., 0].reshape(8, 2, 8, 2).mean((1, 3)).ravel()
    np.testing.assert_allclose(selectivity.pixel_features(image)[0], expected)
    assert selectivity.pixel_features(np.full((1, 13, 5, 3), 7, np.uint8)).tolist() == [[7.0] * (8 * 5 * 3)]


def test_a_colour_histogram_counts_pixels_by_colour_wherever_they_are(random):
    image = np.zeros((1, 4, 4, 3), np.uint8)
    image[0, :1] = (255, 0, 0)
    found = selectivity.colour_features(image)[0]
    assert found.shape == (64,) and found[3 * 16] == pytest.approx(0.5) and found[0] == pytest.approx(0.75**0.5)
    shuffled = random.permutation(image.reshape(16, 3)).reshape(image.shape)
    np.testing.assert_array_equal(selectivity.colour_features(shuffled)[0], found)
    assert selectivity.colour_features(np.zeros((2, 4, 4, 1), np.uint8)).shape == (2, 64)


def test_gradient_orientations_are_found_in_their_cells():
    across = np.tile(np.arange(16, dtype=np.uint8) * 8, (16, 1))[None, ..., None]
    found = (selectivity.gradient_features(across) ** 2).reshape(4, 4, 8)
    np.testing.assert_allclose(found[..., 0], 1 / 16, rtol=1e-5)
    down = (selectivity.gradient_features(across.transpose(0, 2, 1, 3)) ** 2).reshape(4, 4, 8)
    np.testing.assert_allclose(down[..., 4], 1 / 16, rtol=1e-5)
    assert not selectivity.gradient_features(np.full((1, 8, 8, 3), 9, np.uint8)).any()


def test_likeness_is_the_mean_cosine_over_pairs(random):
    images = random.integers(0, 255, (30, 8, 8, 3)).astype(np.uint8)
    units = selectivity.unit_features(images, "colour histogram", chunk=7)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, rtol=1e-5)
    sets = selectivity.random_sets(30, 4, 5, seed=0)
    pairs = [cosine_similarity(units[members])[np.triu_indices(4, 1)].mean() for members in sets]
    np.testing.assert_allclose(selectivity.likeness(units, sets), pairs, atol=1e-6)
    assert selectivity.likeness(units, np.array([[3, 3, 3]]))[0] == pytest.approx(1, abs=1e-6)


def test_purity_is_the_share_of_the_most_frequent_label():
    labels = np.array([0, 0, 1, 2, 2, 2])
    assert selectivity.purity(labels, np.array([[0, 1, 2, 3], [3, 4, 5, 0], [3, 4, 5, 3]])).tolist() == [0.5, 0.75, 1.0]


def test_the_shares_of_sets_that_overlap_vary_as_over_all_permutations_of_the_rows():
    values = np.array([0.0, 0.0, 1.0, 3.0, 9.0])
    sets = np.array([[6, 2], [6, 3], [6, 4], [2, 3]])  # of rows 2 to 6; three of them share one
    groups = np.array([[True, True, True, False], [False, False, True, True], [False] * 4])

    def measure(members):
        return values[members - 2].mean(1)

    def shares(order):
        above = measure(order[sets - 2]) > 2.5
        return above[:3].mean(), above[2:].mean()

    every = np.array([shares(np.array(order)) for order in itertools.permutations(range(2, 7))])
    found = selectivity.permuted_shares(measure, sets, np.arange(2, 7), groups, 2.5, count=4000, seed=[0])
    assert found.shape == (4000, 3) and np.isnan(found[:, 2]).all()
    for column in (0, 1):
        for share in np.unique(every[:, column]):
            expected = np.isclose(every[:, column], share).mean()
            assert np.isclose(found[:, column], share).mean() == pytest.approx(expected, abs=0.03)
    assert (every[:, 0] == 1).mean() == pytest.approx(0.2)  # where the shared row has 9; sets drawn apart: 0.4^3
    again = selectivity.permuted_shares(measure, sets, np.arange(2, 7), groups, 2.5, count=10, seed=[0])
    np.testing.assert_array_equal(again, found[:10])


def test_random_sets_are_of_different_rows_and_about_one_in_twenty_is_beyond(random):
    sets = selectivity.random_sets(12, 6, 300, seed=1)
    assert all(len(set(members)) == 6 for members in sets.tolist())
    values = random.standard_normal(2000)
    against = selectivity.against_random(random.standard_normal(2000), values)
    assert against.beyond.mean() == pytest.approx(0.05, abs=0.02) and against.z.std() == pytest.approx(1, abs=0.1)
    assert np.isnan(selectivity.against_random(np.ones(3), np.ones(5)).z).all()
