"""Supports and what is measured on them, against loops, other libraries and unions of subspaces that were planted."""

import itertools

import numpy as np
import pytest
from scipy import stats
from scipy.spatial.distance import pdist, squareform
from sklearn.decomposition import PCA

from unetrep_jax import subspaces

GROUPS, PER_GROUP, CHANNELS = 4, 50, 6  # images lie in 4 coordinate subspaces of 6 channels each, of 24


@pytest.fixture
def random():
    """A generator of its own for every test."""
    return np.random.default_rng(0)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(features, group of each image): equal values on the group's own channels, zeros elsewhere."""
    groups = np.random.default_rng(seed).permutation(np.repeat(np.arange(GROUPS), PER_GROUP))
    own = np.arange(GROUPS * CHANNELS) // CHANNELS == groups[:, None]
    brightness = np.random.default_rng(seed).uniform(1, 3, (len(groups), 1))
    return (own * brightness).astype(np.float32), groups


def permuted(features: np.ndarray) -> np.ndarray:
    return np.random.default_rng(5).permuted(features, axis=0)


# Supports


def test_a_planted_union_of_subspaces_is_found_and_permuting_channels_destroys_it():
    features, groups = planted()
    for supports in (
        subspaces.channels_above(features, np.zeros(24, np.float32)),
        subspaces.largest_channels(features),
        subspaces.channels_above_mean(features),
    ):
        np.testing.assert_array_equal(supports, features > 0)
        overlap = subspaces.overlaps(supports, groups)
        assert (overlap.within == 1).all() and (overlap.between == 0).all() and (overlap.nearest == 1).all()
        assert len(set(subspaces.support_numbers(supports))) == GROUPS
        odds = subspaces.log_odds_ratios(supports)
        same = np.equal.outer(np.arange(24) // CHANNELS, np.arange(24) // CHANNELS)
        apart = ~np.eye(24, dtype=bool)
        assert (odds.ratio[same & apart] > 3 * odds.error[same & apart]).all()
        assert (odds.ratio[~same] < -2 * odds.error[~same]).all()
    np.testing.assert_allclose(subspaces.effective_channels(features), CHANNELS, rtol=1e-5)
    np.testing.assert_allclose(subspaces.energy_inside(features, features > 0), 1)
    null = permuted(features) > 0
    overlap = subspaces.overlaps(null, groups)
    assert abs(np.nanmean(overlap.within) - np.nanmean(overlap.between)) < 0.01
    assert len(set(subspaces.support_numbers(null))) > 190
    assert abs(np.nanmedian(subspaces.log_odds_ratios(null).ratio)) < 0.1


def test_the_largest_channels_are_those_of_a_sort_row_by_row(random):
    features = random.exponential(size=(2100, 9)).astype(np.float32) ** 2  # more rows than are worked on at once
    features[0], features[1] = 0, [0, 0, 5, 0, 0, 0, 0, 0, 0]
    found = subspaces.largest_channels(features)
    for row in (*range(50), *range(2040, 2060)):
        values = features[row].astype(np.float64)
        count = 0 if not values.any() else round(values.sum() ** 2 / (values**2).sum())
        assert set(np.flatnonzero(found[row])) == set(np.argsort(-values)[:count])
    assert not found[0].any() and found[1].sum() == 1


def test_channels_above_their_mean_vary_and_constant_ones_are_on_for_no_image(random):
    features = np.concatenate([random.exponential(size=(300, 5)), np.full((300, 3), 0.1)], axis=1).astype(np.float32)
    found = subspaces.channels_above_mean(features)
    np.testing.assert_array_equal(found[:, :5], features[:, :5] > features[:, :5].astype(np.float64).mean(0))
    assert not found[:, 5:].any()
    assert found[:, :5].mean() == pytest.approx(np.exp(-1), abs=0.03)  # P(X > E X) of an exponential


def test_energy_inside_a_support_is_its_share_of_the_squared_norm(random):
    features, supports = random.standard_normal((40, 7)).astype(np.float32), random.random((40, 7)) < 0.5
    features[3] = 0
    found = subspaces.energy_inside(features, supports)
    expected = [(f[s] ** 2).sum() / (f**2).sum() for f, s in zip(features[4:], supports[4:], strict=True)]
    np.testing.assert_allclose(found[4:], expected, rtol=1e-5)
    assert np.isnan(found[3])


# Pairs of channels


def test_odds_ratios_are_those_of_the_two_by_two_tables(random):
    supports = random.random((200, 6)) < random.uniform(0.1, 0.9, 6)
    supports[:, 1] = ~supports[:, 0]
    found = subspaces.log_odds_ratios(supports)
    for i, j in itertools.permutations(range(6), 2):
        a, b = supports[:, i], supports[:, j]
        table = np.array([[(a & b).sum(), (a & ~b).sum()], [(~a & b).sum(), (~a & ~b).sum()]]) + 0.5
        assert found.ratio[i, j] == pytest.approx(np.log(table[0, 0] * table[1, 1] / (table[0, 1] * table[1, 0])))
        assert found.error[i, j] == pytest.approx(np.sqrt((1 / table).sum()))
    assert found.ratio[0, 1] < -8 and np.isnan(np.diag(found.ratio)).all()


def test_the_error_of_a_log_odds_ratio_is_its_deviation_over_repeated_draws(random):
    draws = [subspaces.log_odds_ratios(random.random((300, 2)) < (0.3, 0.4)) for _ in range(2000)]
    ratios, errors = (np.array([part[0, 1] for part in parts]) for parts in zip(*draws, strict=True))
    assert ratios.mean() == pytest.approx(0, abs=0.03)
    assert ratios.std() == pytest.approx(errors.mean(), rel=0.06)


def test_drawn_images_give_the_median_odds_ratio_of_these_images(random):
    supports = random.random((80, 6)) < random.uniform(0.2, 0.8, 6)
    supports[:, 5] = np.arange(80) < 3  # in too few images
    times = subspaces.times_drawn(80, 3, seed=1)
    assert times.shape == (4, 80) and (times[0] == 1).all() and (times.sum(1) == 80).all() and times[1:].max() > 1
    found = subspaces.resampled_median_odds(supports, times, least=5)
    for row, value in zip(times, found, strict=True):
        repeated = subspaces.log_odds_ratios(np.repeat(supports[:, :5], row, axis=0)).ratio
        assert value == pytest.approx(np.median(np.exp(repeated[np.triu_indices(5, 1)])))
    assert np.isnan(subspaces.resampled_median_odds(supports[:, :1], times)).all()


def test_channels_that_are_on_or_off_for_too_few_images_have_no_odds_ratios(random):
    supports = random.random((100, 5)) < 0.5
    supports[:, 0], supports[:, 1] = False, True
    supports[:, 2] = np.arange(100) < 4
    assert np.isnan(subspaces.log_odds_ratios(supports).ratio[:2]).all()
    assert np.isfinite(subspaces.log_odds_ratios(supports, 4).ratio[2, 3:]).all()
    assert np.isnan(subspaces.log_odds_ratios(supports, 5).ratio[2]).all()
    assert np.isfinite(subspaces.log_odds_ratios(supports, 5).ratio[3, 4])


def test_the_rarest_channels_are_those_of_the_lowest_participation_ratio_over_images():
    shares = np.array([0.5, 0.02, 0.9, 0.1])
    features = (np.arange(1000)[:, None] < 1000 * shares).astype(np.float32)
    features = np.concatenate([features, np.zeros((1000, 1), np.float32)], axis=1)
    assert subspaces.rarest_channels(features, 2).tolist() == [1, 3]
    assert subspaces.rarest_channels(features, 9).tolist() == [1, 3, 0, 2]


# Overlap


def test_overlaps_are_means_of_scipys_jaccard_similarity(random):
    supports, groups = random.random((3000, 8)) < 0.3, random.integers(0, 4, 3000)  # more than one chunk
    similarity = 1 - squareform(pdist(supports, "jaccard"))
    empty = ~supports.any(1)
    similarity[np.outer(empty, empty)] = np.nan
    np.fill_diagonal(similarity, np.nan)
    found = subspaces.overlaps(supports, groups)
    rows = np.r_[:40, 2900:3000]
    same = groups[rows, None] == groups
    np.testing.assert_allclose(found.within[rows], np.nanmean(np.where(same, similarity[rows], np.nan), 1), rtol=1e-5)
    np.testing.assert_allclose(found.between[rows], np.nanmean(np.where(same, np.nan, similarity[rows]), 1), rtol=1e-5)
    np.testing.assert_allclose(found.nearest[rows], np.nanmax(similarity[rows], 1), rtol=1e-5)


def test_drawn_images_give_the_median_overlaps_of_these_images_none_with_itself(random):
    supports, groups = random.random((40, 7)) < 0.4, random.integers(0, 3, 40)
    times = subspaces.times_drawn(40, 2, seed=1)
    found = subspaces.resampled_median_overlaps(supports, groups, times)
    whole = subspaces.overlaps(supports, groups)
    np.testing.assert_allclose(found[0], [np.nanmedian(whole.within), np.nanmedian(whole.between)], rtol=1e-6)
    similarity = 1 - squareform(pdist(supports, "jaccard"))
    for row, values in zip(times[1:], found[1:], strict=True):
        drawn = np.repeat(np.arange(40), row)
        means = np.full((2, 40), np.nan)
        for place, image in enumerate(drawn):
            for kind, alike in enumerate((True, False)):
                others = drawn[(drawn != image) & ((groups[drawn] == groups[image]) == alike)]
                others = others[(supports[others] | supports[image]).any(1)]
                means[kind, place] = similarity[image, others].mean()
        np.testing.assert_allclose(values, np.median(means, axis=1), rtol=1e-5)
    alone = subspaces.resampled_median_overlaps(supports[:3], np.arange(3), times[:, :3] * 0 + 1)
    assert np.isnan(alone[:, 0]).all() and np.isfinite(alone[:, 1]).all()


def test_medians_over_drawn_images_spread_as_those_of_other_images(random):
    shares, draws = random.uniform(0.2, 0.8, 8), 60

    def medians(images, times):
        supports = images < shares
        odds = subspaces.resampled_median_odds(supports, times)
        return np.column_stack([odds, subspaces.resampled_median_overlaps(supports, np.arange(100) % 2, times)])

    found = np.stack([medians(random.random((100, 8)), subspaces.times_drawn(100, draws, k)) for k in range(60)])
    of_draws, of_images = found[:, 1:].std(1).mean(0), found[:, 0].std(0)
    assert of_draws == pytest.approx(of_images, rel=0.35)


def test_an_image_alone_in_its_group_and_empty_supports_have_no_overlap():
    supports = np.array([[1, 1, 0], [0, 1, 1], [0, 0, 1]], bool)
    found = subspaces.overlaps(supports, np.array([0, 1, 1]))
    assert np.isnan(found.within[0]) and found.between[0] == pytest.approx((1 / 3 + 0) / 2)
    assert found.within[1:].tolist() == [0.5, 0.5]
    assert np.isnan(subspaces.overlaps(np.zeros((4, 3), bool), np.zeros(4, int))).all()


# Spectra


@pytest.mark.parametrize("images", [12, 400])
def test_shares_of_variance_are_those_of_scikit_learn(images, random):
    features = (random.standard_normal((images, 30)) * np.geomspace(1, 0.05, 30) + 10).astype(np.float32)
    expected = PCA().fit(features.astype(np.float64)).explained_variance_ratio_[: min(images - 1, 30)]
    found = subspaces.variance_shares(features)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-7)
    assert found.sum() == pytest.approx(1)


def test_the_number_of_axes_for_a_part_of_the_variance():
    shares = np.array([0.5, 0.3, 0.2])
    assert [subspaces.components_for(shares, part) for part in (0.4, 0.5, 0.51, 0.8, 0.9, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert np.isnan(subspaces.components_for(subspaces.variance_shares(np.ones((5, 3), np.float32)), 0.9))


def test_the_effective_dimension_is_that_of_the_trace_of_the_covariance(random):
    features = random.normal(size=(300, 6)) * [3, 2, 1, 1, 0.1, 0]
    covariance = np.cov(features.T)
    expected = np.trace(covariance) ** 2 / np.trace(covariance @ covariance)
    assert subspaces.effective_dimension(subspaces.variance_shares(features)) == pytest.approx(expected, rel=1e-5)
    shares = np.array([[1, 0, 0, 0], [0.25] * 4, [0.5, 0.5, 0, 0], [np.nan] * 4])
    np.testing.assert_allclose(subspaces.effective_dimension(shares), [1, 4, 2, np.nan])
    assert np.isnan(subspaces.effective_dimension(np.zeros((2, 0)))).all()


def test_parts_of_a_long_gaussian_have_more_dimensions_than_the_whole(random):
    features = (random.normal(size=(600, 6)) * [10, 1, 1, 1, 1, 1]).astype(np.float32)
    groups = np.digitize(features[:, 0], np.quantile(features[:, 0], np.arange(0.1, 1, 0.1)))
    found = subspaces.group_spectra(features, groups, 50, seed=0)
    inside, whole = (subspaces.effective_dimension(shares).mean() for shares in found)
    assert whole < 1.2 and inside > 3


def test_groups_in_planes_need_two_axes_and_as_many_random_images_more(random):
    groups = np.repeat(np.arange(6), 40)
    features = np.zeros((240, 12), np.float32)
    for group in range(6):
        features[groups == group, 2 * group : 2 * group + 2] = random.standard_normal((40, 2))
    found = subspaces.group_spectra(features, groups, 30, seed=0)
    assert found.inside.shape == found.random.shape == (6, 12)
    assert {subspaces.components_for(row, 0.99) for row in found.inside} == {2}
    assert min(subspaces.components_for(row, 0.9) for row in found.random) > 4


def test_groups_without_meaning_have_the_spectra_of_random_images(random):
    features, groups = random.standard_normal((2000, 20)).astype(np.float32), random.integers(0, 20, 2000)
    found = subspaces.group_spectra(features, groups, 60, seed=0)
    np.testing.assert_allclose(found.inside.mean(0), found.random.mean(0), atol=0.005)


def test_small_groups_and_groups_in_which_nothing_varies_have_no_spectrum(random):
    features, groups = random.standard_normal((90, 5)).astype(np.float32), np.repeat([0, 1, 2], [10, 40, 40])
    features[groups == 2] = 1
    assert len(subspaces.group_spectra(features, groups, 20, seed=0).inside) == 1
    assert subspaces.group_spectra(features, groups, 60, seed=0).inside.shape == (0, 5)
    many = subspaces.group_spectra(features, np.arange(90) // 3, 3, seed=0, most=4)
    assert many.inside.shape[1] == 2 and len(many.inside) <= 4


# Counting


def test_supports_are_numbered_as_sets_are(random):
    supports = random.random((500, 11)) < 0.15
    numbers = subspaces.support_numbers(supports)
    assert len(set(numbers)) == len({tuple(row) for row in supports}) == numbers.max() + 1
    pairs = random.integers(0, 500, (2000, 2))
    np.testing.assert_array_equal(np.equal(*numbers[pairs.T]), (supports[pairs[:, 0]] == supports[pairs[:, 1]]).all(1))
    assert subspaces.support_numbers(np.zeros((5, 0), bool)).tolist() == [0] * 5


def test_accumulation_follows_the_rarefaction_formula(random):
    numbers = random.zipf(1.5, 400) % 97
    sizes = subspaces.images_seen(400)
    found = subspaces.accumulation(numbers, sizes, orders=1000, seed=0)
    frequencies = np.unique(numbers, return_counts=True)[1]
    expected = [(1 - stats.hypergeom.pmf(0, 400, frequencies, size)).sum() for size in sizes]
    np.testing.assert_allclose(found.mean(0), expected, rtol=0.03)
    assert (found[:, 0] == 1).all() and (found[:, -1] == len(frequencies)).all() and (np.diff(found) >= 0).all()
    np.testing.assert_array_equal(found, subspaces.accumulation(numbers, sizes, orders=1000, seed=0))


def test_new_supports_in_the_second_half_are_none_all_or_a_part():
    # Of two images with the same support both are in the second half, and the first of them new, once in four times.
    for numbers, expected in ((np.arange(100), 1), (np.zeros(100, int), 0), (np.arange(100) // 2, 0.25)):
        seen = subspaces.images_seen(len(numbers))
        counts = subspaces.accumulation(numbers, seen, orders=50, seed=0)
        assert subspaces.new_in_second_half(seen, counts) == pytest.approx(expected, abs=0.03)
    assert subspaces.new_in_second_half(subspaces.images_seen(1), np.ones((2, 1), int)) == 0


def test_the_numbers_of_images_seen_rise_to_all_and_hold_the_half():
    for count in (1, 2, 7, 5050):
        seen = subspaces.images_seen(count)
        assert seen[0] == 1 and seen[-1] == count and (count + 1) // 2 in seen and (np.diff(seen) > 0).all()


def test_channels_near_zero_are_counted_by_their_own_reference():
    reference = np.array([1.0, 10.0, 0.0, 100.0])
    values = np.array([[0.005, 0.5, 7.0, 0.0], [0.5, 0.05, 7.0, 50.0]])
    found = subspaces.near_zero_share(values, reference, (0.001, 0.01, 0.1))
    np.testing.assert_allclose(found, [[1 / 3, 0], [2 / 3, 1 / 3], [1, 1 / 3]])
    assert np.isnan(subspaces.near_zero_share(values, np.zeros(4), (0.1,))).all()
