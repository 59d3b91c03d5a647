"""The cluster stage: its numbers are those of the measures, what was found outlives a kill, and too little data is never NaN."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest
from test_stages import WEIGHTS, make_context  # noqa: F401 (a fixture)

from unetrep_jax import clusters, report, stages
from unetrep_jax.stages import (
    cluster_claims,
    cluster_classes,
    cluster_features,
    cluster_numbers,
    cluster_pages,
    cluster_pictures,
    clustering,
)


@pytest.fixture(autouse=True)
def instead_of_tsne(monkeypatch):
    """The first two features: t-SNE has its own tests, and takes a second a picture."""
    monkeypatch.setattr(clusters, "embedding", lambda features, seed: np.float32(features[:, :2]))


@pytest.fixture
def fits(monkeypatch):
    """Lists the solutions that are found; `fits.limit` is how many there may be before a kill."""
    calls, kmeans = SimpleNamespace(found=[], limit=np.inf), clusters.kmeans

    def counted(features, count, *, seed, **settings):
        if len(calls.found) >= calls.limit:
            raise KeyboardInterrupt
        calls.found.append((features.shape, count, seed))
        return kmeans(features, count, seed=seed, **settings)

    monkeypatch.setattr(clusters, "kmeans", counted)
    return calls


def write_averages(context, stage, weights, members):
    """What the sweep would write for the denoiser of `make_context`, without compiling anything."""
    images = context.images.images[members] / np.float32(255)
    noise = np.random.default_rng(1).standard_normal((len(context.settings.sigmas), *images.shape), np.float32)
    noisy = images + noise * context.sigmas[:, None, None, None, None]
    means = np.maximum(noisy @ weights, 0).mean((2, 3)).transpose(1, 0, 2)
    (context.outdir / stage).mkdir(parents=True, exist_ok=True)
    np.save(context.outdir / stage / "mean.npy", np.tile(means, 4))


def run(context):
    """What the stage writes: (arrays, summary)."""
    weights = WEIGHTS[: context.images.images.shape[-1]]
    write_averages(context, "representations", weights, slice(None))
    write_averages(context, "untrained", -weights, context.untrained_subset)
    clustering.run_clusters(context, context.outdir / "clusters", "key")
    return written(context)


def written(context):
    with np.load(context.outdir / "clusters" / "arrays.npz") as arrays:
        return dict(arrays), json.loads((context.outdir / "clusters" / "summary.json").read_text())


def cells(section):
    """All that the section prints."""
    tables = [str(cell) for table in section.tables for row in table.rows for cell in row if cell is not None]
    return [*tables, *section.text, *(part for claim in section.claims for part in claim if part)]


def changed(context, **images):
    return context._replace(images=context.images._replace(fingerprint=str(sorted(images)), **images))


def test_held_out_numbers_are_of_images_that_had_no_part_in_the_fit(make_context):  # noqa: F811
    context = make_context(cluster_members=10)
    arrays, summary = run(context)
    phi = stages.context.phi(context, "representations", 2)
    fit, held = clusters.halves(60, seed=0)
    centroids = clusters.kmeans(phi[fit], 5, seed=0, runs=2).centroids
    joined = clusters.nearest_centroid(phi[held], centroids)
    expected = clusters.held_out_separation(phi[held], joined, centroids)
    found = summary["by_clusters"]["5"]["held_out"]
    assert found["median"] == pytest.approx(np.nanmedian(expected.ratio), rel=1e-4)
    assert found["count"] == np.isfinite(expected.ratio).sum()
    assert found["at_least_2"] == np.mean(expected.ratio[np.isfinite(expected.ratio)] >= 2)
    unit = clusters.total_deviation(phi)
    np.testing.assert_allclose(arrays["separation/5"][2] * unit, expected.distance, rtol=1e-4)
    inside = clusters.separation_of_clusters(phi, arrays["assignment/5"])
    np.testing.assert_allclose(arrays["separation/5"][1] * unit, inside.spread, rtol=1e-4)
    assert summary["by_clusters"]["3"]["gaussian_null"]["held_out"]["count"] <= 3


def test_clusters_at_a_level_are_held_against_those_of_another_seed_at_the_working_level(make_context):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(5,))
    arrays, summary = run(context)
    for level, row in enumerate(summary["by_noise"]["levels"].values()):
        at_level = clusters.kmeans(stages.context.phi(context, "representations", level), 5, seed=1, runs=2)
        expected = clusters.agreement(at_level.assignment, arrays["assignment/5"])
        assert row["agreement_with_working_level_ami"]["phi"] == pytest.approx(expected, abs=1e-6)
        assert row["separation"]["untrained"]["count"] <= 3
    assert summary["by_noise"]["clusters"] == {"phi": 5, "pixels": 5, "phi_of_some": 3, "untrained": 3}
    assert summary["by_noise"]["images"] == {"phi": 60, "pixels": 60, "phi_of_some": 30, "untrained": 30}


def test_clusters_at_a_level_are_compared_on_images_that_had_no_part_in_either_fit(make_context):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(5,))
    _, summary = run(context)
    fit, held = clusters.halves(60, seed=0)

    def joined(level, seed):
        phi = stages.context.phi(context, "representations", level)
        centroids = clusters.kmeans(phi[fit], 5, seed=seed, runs=2).centroids
        return phi[held], clusters.nearest_centroid(phi[held], centroids), centroids

    _, reference, _ = joined(2, 0)
    for level, row in enumerate(summary["by_noise"]["levels"].values()):
        rows, assignment, centroids = joined(level, 1)
        expected = clusters.held_out_separation(rows, assignment, centroids).ratio
        assert row["held_out"]["phi"]["median"] == pytest.approx(np.nanmedian(expected), rel=1e-4)
        assert row["held_out_agreement_ami"]["phi"] == pytest.approx(
            clusters.agreement(assignment, reference), abs=1e-6
        )
        assert set(row["held_out"]) == set(row["held_out_agreement_ami"]) == set(cluster_numbers.BY_NOISE)


def test_noise_in_principal_components_is_the_projection_of_noise_in_the_images(make_context):  # noqa: F811
    context = make_context(cluster_members=10, draws=4)
    images = np.random.default_rng(0).integers(0, 256, (2000, 2, 2, 3)).astype(np.uint8)
    context = changed(context, images=images, labels=None)
    components = cluster_features.pixel_components(context, 6)
    noisy = [cluster_features.noisy_components(context, components, level) for level in (0, 1, 2)]
    assert noisy[0] is components
    noise = noisy[2].rows - components.rows
    np.testing.assert_allclose(np.cov(noise.T), np.eye(6) * (100 / 255) ** 2 / 4, atol=0.004)
    correlation = np.corrcoef(noise.ravel(), (noisy[1].rows - components.rows).ravel())[0, 1]
    assert abs(correlation) < 0.05
    again = cluster_features.noisy_components(
        make_context(draws=4, sigmas=(100.0,))._replace(images=context.images), components, 0
    )
    np.testing.assert_array_equal(again.rows, noisy[2].rows)


def test_kmeans_begun_at_class_means_is_followed_from_its_start_to_its_end(make_context):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(3,))
    arrays, summary = run(context)
    begun = summary["classes"]["begun_at_class_means"]
    assert begun["ami_at_nearest_mean"] == begun["ami_at_the_end"] == pytest.approx(1)
    assert begun["staying_at_the_end"] == 1
    assert begun["moved"]["median"] < 1e-3
    random = summary["classes"]["begun_at_random_means"]
    assert random["ami_at_the_end"] < 0.2
    assert random["labels"]["ami"] == pytest.approx(summary["classes"]["ends_agree_ami"], abs=1e-6)
    course = arrays["course/begun_at_random_means"]
    assert course[0, 0] == 0 and (np.diff(course[:, 0]) > 0).all()
    assert (course[0, 3:] == 0).all() and (np.diff(course[-1, 3:]) >= 0).all()
    assert begun["held_out"]["staying_at_the_end"] == begun["held_out"]["labels"]["purity"] == 1
    assert begun["held_out"]["ami_at_the_end"] == pytest.approx(1) and abs(begun["held_out"]["moved"]["median"]) < 1e-3
    assert begun["held_out"]["images"] == 30 and begun["held_out"]["separation"]["median"] > 3
    # Where held-out images go does not depend on a random group that they are of.
    assert abs(random["held_out"]["ami_at_the_end"]) < 0.2 and abs(random["held_out"]["ami_at_nearest_mean"]) < 0.2
    assert random["held_out"]["moved"]["median"] > 1
    # A random partition has no separation that other images share; the colours do.
    assert abs(summary["classes"]["random_partition"]["held_out"]["median"]) < 1
    assert summary["classes"]["held_out"]["median"] > 3


def test_how_far_centroids_move_is_measured_along_their_way_on_held_out_images():
    start = np.array([[0.0, 0], [4, 0], [9, 0], [0, 8]])
    end = np.array([[2.0, 0], [4, 0], [9, 3], [0, 6]])
    rows = np.array([[0.5, 7], [1.5, 9], [3, -6], [9, 0], [8, 1]])
    groups, joined = np.array([0, 0, -1, 1, 2]), np.array([1, 1, 0, 2, 2])
    moved = cluster_classes.moved_held_out(rows, groups, joined, start, end)
    # The first: from (1, 8) to (3, -6), so 2 along its way, and the nearest other start is 4 away.
    np.testing.assert_allclose(moved, [0.5, 0, (0.5 - 1) / 5, np.nan])


def test_a_killed_stage_keeps_every_solution_it_had_found(make_context, fits, tmp_path):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(4,))
    whole, numbers = run(context)
    needed = list(fits.found)
    assert len(needed) > 24
    other = context._replace(outdir=tmp_path / "other")
    for kill in range(12, len(needed), 12):
        fits.found, fits.limit = [], 12
        with pytest.raises(KeyboardInterrupt):
            run(other)
        assert len(fits.found) == 12
        assert fits.found == needed[kill - 12 : kill]
    fits.found, fits.limit = [], np.inf
    again, numbers_again = run(other)
    assert numbers_again == numbers
    assert again.keys() == whole.keys()
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_other_numbers_of_clusters_are_all_that_is_found_anew(make_context, fits):  # noqa: F811
    run(make_context(cluster_members=10, clusters=(3,)))
    kept = make_context().outdir / "clusters_kept"
    before = set(kept.iterdir())
    fits.found = []
    run(make_context(cluster_members=10, clusters=(3, 5)))
    assert {count for _, count, _ in fits.found} == {5}
    fits.found = []
    run(make_context(cluster_members=10, clusters=(3,)))
    assert fits.found == []
    assert set(kept.iterdir()) == before  # those of the 5 clusters are gone
    run(make_context(cluster_members=10, clusters=(3,), cluster_runs=1))
    assert len(fits.found) > 15


def test_a_damaged_solution_is_found_anew(make_context, fits):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(3,))
    whole, _ = run(context)
    fits.found = []
    for path in list((context.outdir / "clusters_kept").iterdir())[:3]:
        path.write_bytes(path.read_bytes()[:40])
    again, _ = run(context)
    assert len(fits.found) <= 3
    for name, array in whole.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_numbers_of_clusters_with_too_few_images_have_assignments_and_no_statistics(make_context):  # noqa: F811
    context = make_context(cluster_members=15, clusters=(4, 5))
    arrays, summary = run(context)
    assert set(summary["by_clusters"]) == {"4"}
    assert {"assignment/4", "assignment/5", "separation/4"} <= set(arrays)
    assert "separation/5" not in arrays
    section = clustering.section_clusters(context, arrays, summary)
    assert any(text.startswith("K = 5: fewer than 15 images a cluster") for text in section.text)


DIFFICULT = {
    "too few images for any statistics": ({"cluster_members": 50}, {}),
    "no labels": ({}, {"labels": None}),
    "one class": ({}, {"labels": np.zeros(60, np.int32)}),
    "a class for each image": ({}, {"labels": np.arange(60, dtype=np.int32), "class_names": ()}),
    "all images the same": ({"sigmas": (0.0,), "sigma": 0.0}, {"images": np.full((60, 8, 8, 3), 99, np.uint8)}),
    "one seed, sigma 0 alone": ({"sigmas": (0.0,), "sigma": 0.0, "cluster_seeds": 1}, {}),
    "more untrained images than images": ({"untrained_images": 99}, {}),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", DIFFICULT)
def test_what_cannot_be_measured_is_left_out_and_never_printed_as_nan(case, make_context):  # noqa: F811
    settings, images = DIFFICULT[case]
    context = changed(
        make_context(**{"cluster_members": 10, "clusters": (3,), "untrained_images": 30} | settings), **images
    )
    arrays, summary = run(context)
    section = clustering.section_clusters(context, arrays, summary)
    assert not [cell for cell in cells(section) if re.search(r"\bnan\b|None", cell)]
    assert (arrays["assignment/3"] < 3).all()
    assert all(claim.null and claim.here for claim in section.claims)
    labelled = any("no labels" in text for text in section.text)
    assert labelled == (context.images.labels is None)
    assert ("classes" in summary) == (context.images.labels is not None)


def test_the_section_shows_claims_with_nulls_and_a_page_for_each_large_cluster(make_context):  # noqa: F811
    context = make_context(cluster_members=10)
    arrays, summary = run(context)
    section = clustering.section_clusters(context, arrays, summary)
    assert [picture.path.stem for picture in section.figures] == [
        "clusters", "separation", "separation_controls", "clusters_by_noise", "clusters_from_classes", "clusters_tsne",
        "cluster_page_1", "cluster_page_2", "cluster_page_3",
    ]  # fmt: skip
    assert len(section.claims) == 4
    features = [row[0] for row in section.tables[0].rows]
    assert len(features) == 2 * 3 + 4 + 2
    assert any(name.startswith("phi of the untrained network") for name in features)


def test_the_quantiles_that_are_drawn_are_those_of_the_ratios_that_are_drawn(make_context, monkeypatch):  # noqa: F811
    drawn, draw = [], cluster_pictures.figures.separation_histograms

    def seen(ratios, quantiles):
        drawn.append((ratios, quantiles))
        return draw(ratios, quantiles)

    context = make_context(cluster_members=10, clusters=(3,))
    arrays, summary = run(context)
    monkeypatch.setattr(cluster_pictures.figures, "separation_histograms", seen)
    rows = cluster_numbers.measured(summary)
    cluster_pictures.separation_figures({name: arrays[row["array"]] for name, row in rows.items()}, rows)
    ((ratios, quantiles),) = drawn
    assert ratios.keys() == quantiles.keys() == {"images fitted", "held-out images"}
    for part, groups in ratios.items():
        for name, values in groups.items():
            finite = values[np.isfinite(values)]
            expected = np.quantile(finite, (0.05, 0.25, 0.5, 0.75, 0.95)) if finite.size else None
            assert quantiles[part][name] == ([None] * 5 if expected is None else pytest.approx(expected))


def test_a_page_orders_members_by_distance_and_spans_all_of_them(make_context):  # noqa: F811
    context = make_context(cluster_members=10, clusters=(2,))
    arrays, _ = run(context)
    phi = stages.context.phi(context, "representations", 2)
    for number, cluster in enumerate(arrays["page_clusters"]):
        members = np.flatnonzero(arrays["assignment/2"] == cluster)
        distance = np.linalg.norm(phi[members] - arrays["centroids/2"][cluster], axis=1) / clusters.total_deviation(phi)
        shown = arrays["page_images"][number]
        ordered = members[np.argsort(distance, kind="stable")]
        there = arrays["page_ranks"][number] >= 0
        np.testing.assert_array_equal(shown[there], ordered[arrays["page_ranks"][number][there]])
        np.testing.assert_allclose(arrays["page_distances"][number][there], np.sort(distance)[: there.sum()], rtol=1e-4)
        assert (shown[~there] == -1).all()


def test_a_page_of_a_large_cluster_runs_from_the_nearest_to_the_farthest_without_repeats():
    ranks = cluster_pages.page_ranks(1000, 5, 10)
    assert ranks.shape == (5, 10)
    assert len(np.unique(ranks)) == 50
    assert (np.diff(ranks.ravel()) > 0).all()
    assert (ranks.min(), ranks.max()) == (0, 999)
    np.testing.assert_array_equal(cluster_pages.page_ranks(7, 2, 4), [[0, 1, 2, 3], [4, 5, 6, -1]])
    assert len(np.unique(cluster_pages.page_ranks(51, 5, 10))) == 50


def held_out(median, third=None):
    return {"held_out": {"median": median, "third_quartile": third}}


@pytest.mark.parametrize(
    ("median", "null", "verdict"),
    [(1.9, 1.0, "no"), (2.5, 2.4, "yes"), (2.5, 2.6, "in part"), (None, 1.0, ""), (2.5, None, "")],
)
def test_the_separation_claim_holds_only_above_two_and_above_every_null(median, null, verdict):
    assert (
        report.verdict(cluster_claims.separated(held_out(median), held_out(1.0, 1.0), held_out(1.0, null))) == verdict
    )


@pytest.mark.parametrize(
    ("controls", "verdict"),
    [
        ({}, "yes"),
        ({"pixels": held_out(2.4, 2.6)}, "in part"),
        ({"pixels": held_out(2.0, 2.1), "phi of the untrained network (9 images)": held_out(2.0, 2.6)}, "in part"),
        (
            # On as many images phi is far apart too.
            {
                "phi of those 9 images": held_out(3.0, 3.5),
                "phi of the untrained network (9 images)": held_out(2.0, 2.6),
                "pixels": held_out(2.0, 2.1),
            },
            "yes",
        ),
    ],
)
def test_pixels_and_the_untrained_network_on_as_many_images_are_nulls_of_the_separation_claim(controls, verdict):
    row = held_out(2.5, 2.7) | {null: held_out(2.0, 2.2) for null in cluster_features.NULLS}
    parts = cluster_claims.separation_parts({"by_clusters": {"3": row}, "controls": controls})
    assert report.verdict(*parts) == verdict


@pytest.mark.parametrize(
    ("medians", "ceiling", "verdict"),
    [
        ({"phi": 0.8, "pixels": 0.5, "phi_of_some": 0.6, "untrained": 0.4}, 1.0, "yes"),
        ({"phi": 0.5, "pixels": 0.4, "phi_of_some": 0.5, "untrained": 0.4}, 1.0, "in part"),
        ({"phi": 0.8, "pixels": 0.5, "phi_of_some": 0.6, "untrained": 0.7}, 1.0, "in part"),
        ({"phi": 0.8, "pixels": 0.9, "phi_of_some": 0.6, "untrained": 0.4}, 1.0, "in part"),
        ({"phi": 0.2, "pixels": 0.1, "phi_of_some": 0.6, "untrained": 0.4}, 1.0, "no"),
        ({"phi": 0.8, "pixels": 0.5}, 1.0, ""),  # no control
        ({"phi": 0.0, "pixels": -0.1, "phi_of_some": 0.6, "untrained": 0.4}, 0.0, ""),
    ],
)
def test_clusters_are_the_same_as_far_as_starts_leave_them_and_more_than_those_of_the_nulls(medians, ceiling, verdict):
    assert report.verdict(*cluster_claims.same_clusters(medians, ceiling)) == verdict


@pytest.mark.parametrize(
    ("classes", "random", "of_clusters", "verdict"),
    [
        (1.0, 0.0, [2.3, 2.1], "yes"),
        (1.0, 0.9, [2.3], "in part"),  # a random partition does both
        (1.4, 0.0, [1.2], "no"),  # about 1, and not closer than clusters
        (0.2, 0.0, [2.3], "no"),
        (3.0, 0.0, [2.3], "no"),
        (1.0, 0.0, [], ""),
        (1.0, None, [2.3], ""),
        (None, 0.0, [2.3], ""),
    ],
)
def test_classes_lie_about_one_apart_and_closer_than_clusters(classes, random, of_clusters, verdict):
    answers = (cluster_claims.close_classes(median, of_clusters) for median in (classes, random))
    assert report.verdict(cluster_claims.part(*answers)) == verdict


def test_levels_below_thirty_do_not_count_as_other_levels(make_context):  # noqa: F811
    context = make_context(sigmas=(0.0, 10.0, 50.0, 100.0))
    ami = {0.0: 0.1, 10.0: 0.2, 50.0: 0.9, 100.0: 1.0}
    levels = {
        f"{sigma:g}": {"agreement_with_working_level_ami": dict.fromkeys(cluster_numbers.BY_NOISE, value)}
        for sigma, value in ami.items()
    }
    claim = cluster_claims.noise_claim(context, {"by_noise": {"levels": levels}})[0]
    assert claim.here.startswith("AMI 0.90 (median over the other levels from 30/255 up; 0.90 to 0.90)")
    assert cluster_claims.noise_claim(make_context(sigmas=(0.0, 10.0, 100.0)), {"by_noise": {"levels": levels}}) == []


@pytest.mark.parametrize(
    ("staying", "at_random", "verdict"), [(0.1, 0.9, "yes"), (0.1, 0.1, "in part"), (0.9, 0.1, "no")]
)
def test_kmeans_moves_away_from_the_classes_where_it_does_not_from_any_start(staying, at_random, verdict):
    unknown = {"first_quartile": None, "median": None, "third_quartile": None}
    row = {"separation": unknown, "held_out": unknown}
    starts = [{"ami_at_the_end": 0.1, "staying_at_the_end": share, "iterations": 3} for share in (staying, at_random)]
    classes = row | {"random_partition": row, "begun_at_class_means": starts[0], "begun_at_random_means": starts[1]}
    claims = cluster_claims.classes_claims({"classes": classes, "by_clusters": {}})
    assert [claim.holds for claim in claims] == ["", verdict]
