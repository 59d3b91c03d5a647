import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, top_k_accuracy_score

from unetrep_jax import probes
from unetrep_jax.storage import InputError


def classes_apart(count=240, dimensions=6, classes=4, spread=1.5, seed=0):
    """Clouds of points around a mean for each class, features of different scale."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    means = np.random.default_rng(9).normal(size=(classes, dimensions))
    points = means[labels] + spread * rng.normal(size=(count, dimensions))
    return (points * np.logspace(-2, 1, dimensions) + 5).astype(np.float32), labels


@pytest.mark.parametrize("l2", [1.0, 1e-2, 1e-4])
def test_the_regression_is_that_of_scikit_learn(l2):
    features, labels = classes_apart()
    features = probes.scaling_of(features)(features)
    found = probes.softmax_regression(features, labels, 4, l2, tolerance=1e-5)
    same = LogisticRegression(C=1 / (len(labels) * l2), tol=1e-8, max_iter=10_000).fit(features.astype(float), labels)
    np.testing.assert_allclose(found.parameters.weights, same.coef_.T, atol=2e-3 * np.abs(same.coef_).max())
    bias = found.parameters.bias - found.parameters.bias.mean()  # a common constant changes nothing
    np.testing.assert_allclose(bias, same.intercept_ - same.intercept_.mean(), atol=2e-3)
    assert found.gradient <= 1e-5 and found.iterations < 500


def test_the_gradient_vanishes_where_the_iterations_end():
    features, labels = classes_apart()
    features = probes.scaling_of(features)(features)
    found = probes.softmax_regression(features, labels, 4, 1e-2, tolerance=1e-4)
    logits = found.parameters.logits(features).astype(float)
    error = np.exp(logits - logits.max(1, keepdims=True))
    error = error / error.sum(1, keepdims=True) - np.eye(4)[labels]
    gradient = features.T @ error / len(labels) + 1e-2 * found.parameters.weights
    norm = np.sqrt(np.square(gradient).sum() + np.square(error.mean(0)).sum())
    at_zero = np.sqrt(np.square(features.T @ (0.25 - np.eye(4)[labels]) / len(labels)).sum())
    assert norm / at_zero < 1e-3 and found.gradient <= 1e-4


def test_where_it_begins_does_not_matter_but_near_the_end_is_sooner():
    features, labels = classes_apart()
    features = probes.scaling_of(features)(features)
    cold = probes.softmax_regression(features, labels, 4, 1e-3, tolerance=1e-5)
    near = probes.softmax_regression(features, labels, 4, 1.1e-3, tolerance=1e-5)
    warm = probes.softmax_regression(features, labels, 4, 1e-3, start=near.parameters, tolerance=1e-5)
    np.testing.assert_allclose(warm.parameters.weights, cold.parameters.weights, atol=2e-3)
    assert warm.iterations < cold.iterations


def test_a_run_that_is_cut_short_says_so():
    features, labels = classes_apart()
    found = probes.softmax_regression(
        probes.scaling_of(features)(features), labels, 4, 1e-4, max_iterations=3, tolerance=1e-9
    )
    assert found.iterations == 3 and found.gradient > 1e-9
    assert found._replace(iterations=probes.MAX_ITERATIONS, gradient=2e-3).unfinished
    assert not found._replace(iterations=probes.MAX_ITERATIONS, gradient=9e-4).unfinished and not found.unfinished
    assert found._replace(parameters=found.parameters._replace(bias=np.full(4, np.nan))).unfinished


def test_scaling_gives_mean_zero_and_deviation_one_and_drops_what_is_constant():
    features = classes_apart()[0]
    features = np.concatenate([features, np.full((240, 1), 0.1, np.float32), np.zeros((240, 1), np.float32)], 1)
    scaling = probes.scaling_of(features)
    np.testing.assert_allclose(scaling(features).mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaling(features).std(0), [1] * 6 + [0, 0], atol=1e-5)
    np.testing.assert_array_equal(scaling.gain == 0, [False] * 6 + [True, True])


def test_the_path_is_judged_on_rows_that_it_did_not_see():
    features, labels = classes_apart()
    seen, new = features[:192], features[192:]
    scaling = probes.scaling_of(seen)
    path = probes.regularisation_path(scaling(seen), labels[:192], scaling(new), labels[192:], 4, (1e-3, 1.0, 1e-1))
    np.testing.assert_array_equal(path.l2, [1.0, 1e-1, 1e-3])
    for l2, loss, accuracy in zip(*path[:3], strict=True):
        same = LogisticRegression(C=1 / (192 * l2), tol=1e-8, max_iter=10_000).fit(scaling(seen), labels[:192])
        assert loss == pytest.approx(log_loss(labels[192:], same.predict_proba(scaling(new))), rel=5e-3)
        assert accuracy == pytest.approx(same.score(scaling(new), labels[192:]), abs=1.5 / 48)
    assert path.chosen == path.accuracy.argmax()


def test_of_penalties_that_are_right_as_often_the_path_takes_the_one_of_the_lowest_loss(monkeypatch):
    """Under strong penalties weights only shrink, and the accuracy stays."""
    features, labels = classes_apart(spread=0.1)
    path = probes.regularisation_path(features, labels, features, labels, 4, (1e-2, 1e-1, 1.0, 1e1))
    assert (path.accuracy[1:] == 1).all() and path.chosen == path.loss.argmin() == 3
    fits = iter(
        (([[2.0, 0], [0, 2]], 1), ([[3.0, 0], [0, 3]], 2), ([[-9.0, 0], [0, 3]], 3))
    )  # right, surer, wrong once

    def fit(features, labels, classes, l2, **_):
        weights = np.array(next(fits)[0], np.float32)
        return probes.Fit(probes.Parameters(weights, np.zeros(2, np.float32)), 0.0, 1)

    monkeypatch.setattr(probes, "softmax_regression", fit)
    units = np.eye(2, dtype=np.float32)
    path = probes.regularisation_path(units, np.arange(2), units, np.arange(2), 2, (1.0, 0.1, 0.01))
    assert path.accuracy.tolist() == [1, 1, 0.5] and path.chosen == 1


def test_penalties_are_log_spaced_from_a_hundred():
    np.testing.assert_allclose(np.diff(np.log10(probes.PENALTIES)), -0.5)
    assert probes.PENALTIES[0] == 100 and probes.PENALTIES[-1] == 1e-8


def test_a_path_ends_when_weaker_penalties_are_no_better():
    features, labels = classes_apart(spread=4)
    path = probes.regularisation_path(
        features[:192], labels[:192], features[192:], labels[192:], 4, tuple(np.logspace(1, -9, 21).tolist())
    )
    tried = np.isfinite(path.loss)
    last_gain = max(np.nanargmin(path.loss), np.nanargmax(path.accuracy))
    assert tried.sum() == last_gain + 1 + probes.PATIENCE < 21 and tried[: tried.sum()].all()
    np.testing.assert_array_equal(np.isfinite(path.accuracy), tried)


def test_features_that_are_nearly_the_same_take_no_longer():
    rng = np.random.default_rng(0)
    features, labels = classes_apart()
    features = probes.scaling_of(features)(features)
    mixed = (
        features @ np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32) * np.logspace(0, -3, 6, dtype=np.float32)
    )
    fits = [probes.softmax_regression(x, labels, 4, l2, tolerance=1e-4) for x, l2 in ((features, 1e-3), (mixed, 1e-8))]
    assert fits[1].gradient <= 1e-4 and fits[1].iterations < 2 * fits[0].iterations


def test_label_ranks_give_top_k_accuracy():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(300, 7)), rng.integers(0, 7, 300)
    for k in (1, 2, 5):
        expected = top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7))
        assert np.mean(probes.label_ranks(logits, labels) <= k) == pytest.approx(expected)


def test_equal_logits_count_against_the_label():
    np.testing.assert_array_equal(probes.label_ranks(np.zeros((2, 5)), np.array([0, 4])), [5, 5])


def test_a_label_whose_logit_is_unknown_is_never_right_nor_is_one_beside_unknown_logits_first():
    nan = np.nan
    logits = np.array([[nan, 1, 2, 3], [1, nan, 0, 0], [nan] * 4, [2.0, 1, 1, 0]])
    np.testing.assert_array_equal(probes.label_ranks(logits, np.array([0, 0, 2, 2])), [4, 2, 4, 3])
    features, labels = classes_apart(80)
    path = probes.regularisation_path(features, labels, features * np.float32(nan), labels, 4, (1.0, 0.1))
    assert (path.accuracy == 0).all() and path.chosen == 0


def test_averages_are_means_of_squares_whatever_is_in_memory_at_once():
    images = np.random.default_rng(0).integers(0, 256, (7, 32, 64, 3), dtype=np.uint8)
    expected = images.reshape(7, 16, 2, 16, 4, 3).mean((2, 4)).reshape(7, -1) / 255
    assert expected.shape == (7, 768) and probes.averaged_shape((32, 64, 3)) == (16, 16)
    np.testing.assert_allclose(probes.averaged(images, at_once=3), expected, rtol=1e-5)
    np.testing.assert_allclose(probes.averaged(images / np.float32(255)), expected, rtol=1e-5)
    small = images[:, :5, :24, :1]  # no more rows than there are; edges of columns cut every other pixel
    assert probes.averaged_shape(small.shape[1:]) == (5, 16)
    halves = np.repeat(small, 2, axis=2).reshape(7, 5, 16, 3, 1).mean(3).reshape(7, -1) / 255
    np.testing.assert_allclose(probes.averaged(small), halves, rtol=1e-5)


def test_a_probe_reads_what_is_there_and_nothing_where_there_is_nothing():
    features, labels = classes_apart(spread=0.3)
    tested, tested_labels = classes_apart(200, spread=0.3, seed=1)
    found = probes.probe(features, labels, tested, tested_labels, seed=0, l2=(1e-1, 1e-2))
    assert np.mean(found.ranks == 1) > 0.97 and found.constant == 0
    random = np.random.default_rng(0)
    nothing = probes.probe(
        random.normal(size=(240, 6)),
        labels,
        random.normal(size=(2000, 6)),
        np.arange(2000) % 4,
        seed=0,
        l2=(1e-1, 1e-2),
    )
    assert np.mean(nothing.ranks == 1) == pytest.approx(0.25, abs=0.04)  # four standard deviations


def test_labels_may_be_any_integers_and_one_never_learnt_is_never_right():
    features, labels = classes_apart(320, spread=0.1)
    names = np.array([70, -3, 11, 500])
    learnt = labels != 2
    found = probes.probe(features[learnt], names[labels[learnt]], features, names[labels], seed=0, l2=(1e-2,))
    np.testing.assert_array_equal(found.ranks[learnt], 1)
    assert (found.ranks[~learnt] > 1).all()


def test_features_that_are_all_constant_are_no_better_than_chance():
    labels = np.arange(240) % 4
    same = np.ones((240, 6), np.float32)
    found = probes.probe(same, labels, same, labels, seed=0, l2=(1.0,))
    assert found.constant == 6 and np.mean(found.ranks == 1) <= 0.25


def test_the_same_seed_gives_the_same_probe():
    features, labels = classes_apart()
    one, two = (probes.probe(features, labels, features, labels, seed=3, l2=(1e-2,)) for _ in range(2))
    np.testing.assert_array_equal(one.fit.parameters.weights, two.fit.parameters.weights)


def test_principal_components_are_those_of_scikit_learn_whatever_is_in_memory_at_once():
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    axes = probes.principal_axes(images, 5, seed=0)
    flat = images.reshape(60, -1) / 255
    expected = PCA(5, svd_solver="full").fit_transform(flat)
    found = probes.project(axes, images, at_once=7)
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-4)
    np.testing.assert_allclose(probes.project(axes, images), found, atol=1e-6)
    np.testing.assert_allclose(probes.project(axes, images / np.float32(255)), found, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: probes.softmax_regression(np.ones((4, 2)), np.zeros(4, int), 2, 0.0), "l2 above 0 .got 0."),
        (lambda: probes.softmax_regression(np.ones((4, 2)), np.full(4, 2), 2, 1.0), "labels from 0 to 1"),
        (
            lambda: probes.probe(np.ones((1, 2)), np.zeros(1, int), np.ones((4, 2)), np.zeros(4, int), seed=0),
            "got 1 and 4",
        ),
        (
            lambda: probes.probe(np.ones((9, 2)), np.zeros(9, int), np.ones((0, 2)), np.zeros(0, int), seed=0),
            "got 9 and 0",
        ),
        (lambda: probes.principal_axes(np.zeros((3, 4, 4, 1), np.uint8), 4, seed=0), "has 1 to 3 axes, got 4"),
    ],
)
def test_what_cannot_be_learnt_is_refused_in_one_line(call, words):
    with pytest.raises(InputError, match=words) as error:
        call()
    assert "\n" not in str(error.value)
