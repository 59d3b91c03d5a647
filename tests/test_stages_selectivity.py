"""Stages selectivity and top_images on a denoiser whose channels are known."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import make_context  # noqa: F401 (a fixture)

from unetrep_jax import measures, noise, selectivity, stages, stimuli, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages import responses, selecting, selectivity_claims, selectivity_section, top_images

SETTINGS = {
    "selectivity_simulations": 50, "top_images_per_channel": 4, "top_images_channels": 3, "top_images_common": 2,
    "top_images_targets": 2,
}  # fmt: skip
# Half of the 16 channels fire where the image is far from grey in one colour; half follow the brightness.
COLOURS = np.concatenate([np.eye(3).repeat(3, 0)[:8] * 3 - 1, np.full((8, 3), 0.3)]).astype(np.float32).T
BIAS = np.concatenate([-np.linspace(0.3, 0.8, 8), np.linspace(0.1, 0.6, 8)]).astype(np.float32)


def two_kinds(weights, bias):
    """Its middle block has half the image's resolution."""

    def activations(y):
        pooled = y.reshape(len(y), y.shape[1] // 2, 2, y.shape[2] // 2, 2, -1).mean((2, 4))
        middle = jax.nn.relu(pooled @ weights + bias.reshape(1, 1, 1, -1))
        return {"encoder0.0": y, "mid.0": 2 * middle, "mid.1": middle, "decoder0.0": y}

    return Denoiser(
        lambda y: y / 2, activations, lambda y: activations(y)["mid.1"].mean((1, 2)), ("encoder0", "mid", "decoder0")
    )


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("two kinds")


@pytest.fixture
def context(make_context, shared):  # noqa: F811
    """All tests that take it share one folder, in which everything runs once."""
    made = make_context(**SETTINGS)._replace(outdir=shared, identity="two kinds")
    return made._replace(denoiser=two_kinds(COLOURS, BIAS), untrained=lambda: two_kinds(0.5 - COLOURS, BIAS))


def run(context, name="selectivity", sweeps=True):
    if sweeps:
        stages.run_stages(context, ["representations", "untrained"], [])
    for stage, function in (("selectivity", selecting.run_selectivity), ("top_images", top_images.run_top_images)):
        if not storage.is_complete(context.outdir / stage, "key"):
            function(context, context.outdir / stage, "key")
    with np.load(context.outdir / name / "arrays.npz") as arrays:
        return dict(arrays), json.loads((context.outdir / name / "summary.json").read_text())


def save_sweeps(folder, averages):
    for sweep, rows in (("representations", 60), ("untrained", 30)):
        (folder / sweep).mkdir()
        np.save(folder / sweep / "mean.npy", np.float32([0.2, 1, 1])[:, None] * averages(rows).astype(np.float32))


def printed(section):
    cells = [cell for table in section.tables for row in table.rows for cell in row]
    words = [*section.text, *cells, *(part for claim in section.claims for part in claim)]
    return [str(word) for word in words if word is not None]


def test_ratios_groups_and_properties_are_those_of_the_saved_averages(context):
    arrays, summary = run(context)
    averages = np.load(context.outdir / "representations" / "mean.npy")[..., 3:]
    values, at_zero = averages[:, 2], averages[:, 0]
    threshold = at_zero.max(0)
    kept = np.where(values > threshold, values, 0).astype(float)
    with np.errstate(invalid="ignore"):
        expected = kept.sum(0) ** 2 / (60 * (kept**2).sum(0))
    np.testing.assert_allclose(arrays["channels/selectivity"], expected, rtol=1e-5)
    np.testing.assert_array_equal(arrays["channels/threshold"], threshold)
    assert {name: arrays[f"channels/{name}"].dtype for name in ("specialised", "common", "dead")} == dict.fromkeys(
        ("specialised", "common", "dead"), np.dtype(bool)
    )
    row = summary["distributions"]["trained"]["by_threshold"]["none"]
    spread = selectivity.off_the_lattice(arrays["trained/ratio/none"], (values > 0).sum(0), 60, 0)
    assert row["dip"] == pytest.approx(selectivity.dip(spread))
    assert row["channels"] + summary["distributions"]["trained"]["dead"] + row["off_in_all_images"] == 16
    common = arrays["channels/common"]
    assert summary["groups"]["trained"]["mean"]["common"] == pytest.approx(np.median(values.mean(0)[common]), rel=1e-5)
    cosine = measures.quartiles(measures.cosine(values[:, common], averages[:, 1][:, common]))
    np.testing.assert_allclose(arrays["trained/cosine/common"][2], cosine, rtol=1e-5)
    np.testing.assert_allclose(arrays["trained/cosine/common"][1], 1, rtol=1e-6)
    mean = measures.cosine(values[:, common], averages[:, 1][:, common]).mean()
    assert summary["groups"]["trained"]["cosine"]["common"] == pytest.approx(mean, rel=1e-5)
    assert summary["distributions"]["trained_subset"]["images"] == summary["distributions"]["untrained"]["images"] == 30


def test_the_section_prints_no_nan_and_every_claim_has_its_null(context):
    arrays, summary = run(context)
    section = selectivity_section.section_selectivity(context, arrays, summary)
    assert not any(re.search(r"\bnan\b|None", text, re.IGNORECASE) for text in printed(section))
    assert len(section.claims) == 5 and all("untrained network" in claim.null for claim in section.claims)
    assert all(figure.path.exists() for figure in section.figures)


def test_the_channels_of_every_network_are_drawn_by_group(context, monkeypatch):
    arrays, summary = run(context)
    drawn = []
    original = selectivity_section.drawing.group_scatter
    monkeypatch.setattr(
        selectivity_section.drawing, "group_scatter", lambda *given, **others: drawn.append((given[0], others))
    )
    monkeypatch.setattr(selectivity_section, "picture", lambda context, figure, name, caption: name)
    selectivity_section.section_selectivity(context, arrays, summary)
    ((networks, others),) = drawn
    assert list(networks) == ["trained", "trained, fewer images", "untrained"]
    figure = original(networks, **others)
    panels = np.array(figure.axes).reshape(len(selectivity_section.PROPERTIES), 3)
    for row, quantity in zip(panels, selectivity_section.PROPERTIES, strict=True):
        for axes, name in zip(row, ("trained", "trained_subset", "untrained"), strict=True):
            logits, values = arrays[f"{name}/logit/maximum"], arrays[f"{name}/{quantity}"]
            for dots, group in zip(axes.collections, ("specialised", "common"), strict=True):
                shown = arrays[f"{name}/{group}"] & np.isfinite(logits) & np.isfinite(values)
                np.testing.assert_allclose(dots.get_offsets(), np.column_stack([logits, values])[shown])
    assert [axes.get_title() for axes in panels[0]] == list(networks) and panels[1, 0].get_yscale() == "symlog"


@pytest.mark.parametrize("bank", responses.BANKS)
def test_stimuli_share_their_noise_with_the_blank_and_responses_are_kept(context, bank):
    run(context)
    found, blank = responses.stimulus_responses(context, bank, None, "trained")  # read from disk: nothing to run
    assert found.shape == (6, 8, 4, 16) and blank.shape == (4, 16)
    # Written out: two draws, the phase or realisation as the image's number, whatever the frequency and orientation.
    shown = {"gratings": stimuli.gratings(8, 8, 3), "textures": stimuli.textures(8, 8, 3, context.settings.seed)}[bank]
    sigma = jnp.asarray(context.sigmas[2])
    level = noise.level_key(jax.random.key(0), sigma)
    draws = [noise.image_keys(jax.random.fold_in(level, draw), jnp.arange(4)) for draw in range(2)]
    represent = two_kinds(COLOURS, BIAS).represent
    for rows, clean in ((found[2, 3], shown[2, 3]), (blank, np.full_like(shown[0, 0], 0.5))):
        expected = sum(represent(noise.add_noise(keys, jnp.asarray(clean), sigma)) for keys in draws) / 2
        np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("bank", "constant", "value"),
    [("gratings", "CONTRAST", 0.5), ("textures", "CONTRAST", 0.5), ("textures", "OCTAVES", 2.0)],
)
def test_responses_to_other_stimuli_are_not_taken_for_these(context, monkeypatch, bank, constant, value):
    run(context)
    monkeypatch.setattr(stimuli, constant, value)
    with pytest.raises(AttributeError, match="represent"):  # it would run the network, which is not there
        responses.stimulus_responses(context, bank, None, "trained")


def test_responses_to_other_frequencies_are_not_taken_for_these(context, monkeypatch):
    run(context)
    monkeypatch.setattr(stimuli, "frequencies", lambda *_: np.geomspace(0.1, 0.3, stimuli.FREQUENCIES))
    for bank in responses.BANKS:
        with pytest.raises(AttributeError, match="represent"):
            responses.stimulus_responses(context, bank, None, "trained")


def test_breadths_of_both_kinds_of_stimuli_stand_side_by_side(context):
    arrays, summary = run(context)
    for bank, names in selecting.BREADTHS.items():
        expected = stimuli.breadth(*responses.stimulus_responses(context, bank, None, "untrained"))
        for name, shares in zip(names, expected, strict=True):
            np.testing.assert_array_equal(arrays[f"untrained/{name}"], shares)
    section = selectivity_section.section_selectivity(context, arrays, summary)
    rows = [row[0] for row in section.tables[1].rows if row[0].endswith("; untrained")]
    for kind in ("gratings", "noise textures"):
        assert sum(f"drive it, {kind}" in label for label in rows) == 2
        assert (
            f"orientations of {kind}" in section.claims[3].here and f"frequencies of {kind}" in section.claims[3].null
        )


def test_selectivity_at_the_working_level_is_that_of_the_main_analysis(context):
    arrays, summary = run(context)
    for name in ("trained", "trained_subset", "untrained"):
        found = {
            quantity: arrays[f"by_noise/{name}/{quantity}"][context.working]
            for quantity in ("channels", "dip", "ratio")
        }
        row = summary["distributions"][name]["by_threshold"]["maximum"]
        assert found["channels"] == row["channels"] and found["dip"] == pytest.approx(row["dip"], nan_ok=True)
        assert found["ratio"].tolist() == pytest.approx(list(row["ratio"].values()))
        plain = arrays[f"by_noise/{name}/ratio_without_threshold"]
        assert plain[context.working, 1] == pytest.approx(
            summary["distributions"][name]["by_threshold"]["none"]["ratio"]["median"]
        )
        assert np.isfinite(plain).all()  # at sigma = 0 too


def test_two_humps_are_found_at_the_level_that_has_them_and_none_where_the_threshold_was_taken(make_context):  # noqa: F811
    settings = make_context(**SETTINGS, sigmas=(0.0, 50.0, 100.0)).settings
    generator = np.random.default_rng(0)
    values = np.zeros((3, 200, 40), np.float32)
    shares = {1: np.linspace(0.2, 0.8, 40), 2: np.repeat([0.1, 0.9], 20)}  # of the images that use a channel
    for level, of_channels in shares.items():
        values[level] = generator.random((200, 40)) < of_channels
    values[0] = 1e-3 * generator.random((200, 40))
    values[:, :, 0] = 0.5  # dead
    arrays = {}
    found = selecting.by_noise(settings, "trained", values.__getitem__, arrays)
    arrays = {name.removeprefix("by_noise/trained/"): rows for name, rows in arrays.items()}
    assert found == {"levels_with_humps": 1, "levels": 2}
    assert arrays["channels"].tolist() == [0, 39, 39] and arrays["dead"].tolist() == [1, 1, 1]
    assert np.isnan(arrays["ratio"][0]).all() and np.isnan(arrays["dip"][0]) and np.isnan(arrays["dip_p"][0])
    assert arrays["dip_p"][1] > 0.1 and arrays["dip_p"][2] == pytest.approx(1 / 51)
    np.testing.assert_allclose(arrays["ratio"][1], (0.36, 0.51, 0.66), atol=0.05)


def test_selectivity_against_the_noise_level_is_shown_for_both_networks(context):
    arrays, summary = run(context)
    section = selectivity_section.section_selectivity(context, arrays, summary)
    assert "channel_selectivity_by_noise" in {figure.path.stem for figure in section.figures}
    labels = [row[0] for row in section.tables[2].rows]
    assert labels == [
        f"{s:g}; {n}" for s in context.settings.sigmas[1:] for n in selectivity_section.POPULATIONS.values()
    ]
    words = next(text for text in section.text if "rejects one hump" in text)
    assert re.search(r"trained: \d of 2; trained, fewer images: \d of 2; untrained: \d of 2", words)


def test_a_grid_without_the_noiseless_level_is_refused(make_context):  # noqa: F811
    context = make_context(**SETTINGS, sigmas=(50.0, 100.0))
    with pytest.raises(storage.InputError, match=r"has no level 0.*add 0\.0"):
        selecting.run_selectivity(context, context.outdir / "selectivity", "key")


def test_stability_is_a_mean_over_the_levels_from_thirty_up_against_the_level_that_is_set(make_context):  # noqa: F811
    context = make_context(**SETTINGS, sigmas=(0.0, 10.0, 50.0, 100.0, 200.0), robustness_sigma=90.0)
    values = np.random.default_rng(4).gamma(1.0, size=(5, 40, 12)).astype(np.float32)
    values[4, :, :6] = 0  # at one level the specialised channels have no direction
    arrays = {"trained/specialised": np.arange(12) < 6, "trained/common": np.arange(12) >= 6}
    found = selecting.stability(context, "trained", values.__getitem__, arrays)
    at = {level: measures.cosine(values[level][:, :6], values[3][:, :6]) for level in (2, 4)}
    assert found["specialised"] == pytest.approx(at[2].mean(), rel=1e-12)
    assert found["undefined"] == 1 and found["correlations_undefined"] == 6
    other = np.mean([measures.cosine(values[level][:, 6:], values[3][:, 6:]).mean() for level in (2, 4)])
    assert found["common"] == pytest.approx(other, rel=1e-12)
    assert np.isfinite(found["p_value"]) and np.isfinite(arrays["trained/correlation"]).all()


def test_turns_that_single_precision_would_round_away_are_told_apart(make_context):  # noqa: F811
    context = make_context(**SETTINGS)
    values = np.ones((3, 40, 12), np.float32)
    values[2, :, 0] += 2e-4  # 1 - cosine of 3e-9 in the first group
    values[2, :, 6] += 1e-4
    arrays = {"trained/specialised": np.arange(12) < 6, "trained/common": np.arange(12) >= 6}
    found = selecting.stability(context, "trained", values.__getitem__, arrays)
    turns = [selectivity_claims.turn_of(found[group]) for group in selecting.GROUPS]
    assert turns[0] == pytest.approx(4 * turns[1], rel=1e-3) and turns[1] == pytest.approx(5 / 72 * 1e-8, rel=1e-2)
    assert "1 − cosine 2.8e-09 specialised" in selectivity_claims.in_words("cosine", found, None)


def test_dead_channels_are_counted_and_in_no_group(make_context):  # noqa: F811
    values = np.random.default_rng(0).gamma(1.0, size=(40, 12)).astype(np.float32)
    values[:, 2], values[:, 9] = 0, 0.5
    at_zero = np.zeros_like(values)
    at_zero[:, 4] = 100  # off in all images with a threshold
    arrays = {}
    found = selecting.distributions(make_context(**SETTINGS).settings, "trained", values, at_zero, arrays)
    assert np.flatnonzero(arrays["trained/dead"]).tolist() == [2, 9] and found["dead"] == 2
    assert [row["off_in_all_images"] for row in found["by_threshold"].values()] == [1, 1, 0]
    assert [row["channels"] for row in found["by_threshold"].values()] == [9, 9, 10]
    assert not (arrays["trained/specialised"] | arrays["trained/common"])[[2, 4, 9]].any()


def test_zeros_of_a_relu_belong_to_the_lattice_of_ratios_without_a_threshold(make_context, monkeypatch):  # noqa: F811
    seen = {}

    def spread(ratios, on, images, seed):
        seen[len(seen)] = on
        return ratios

    monkeypatch.setattr(selectivity, "off_the_lattice", spread)
    values = np.random.default_rng(0).gamma(1.0, size=(40, 12)).astype(np.float32)
    values[:, :6] *= np.arange(40)[:, None] < np.arange(2, 8)  # on in 2 to 7 images
    selecting.distributions(make_context(**SETTINGS).settings, "trained", values, 0 * values, {})
    assert seen[2].tolist() == [2, 3, 4, 5, 6, 7] + [40] * 6  # the last is without a threshold


def test_the_untrained_network_is_held_against_the_trained_one_on_as_many_images(context):
    arrays, summary = run(context)
    assert list(summary["groups"]) == ["trained", "trained_subset", "untrained"]
    values = np.load(context.outdir / "representations" / "mean.npy")[context.untrained_subset, 2, 3:]
    np.testing.assert_allclose(arrays["trained_subset/mean"], values.mean(0), rtol=1e-5)
    common = arrays["trained_subset/common"]
    assert summary["groups"]["trained_subset"]["mean"]["common"] == pytest.approx(
        np.median(values.mean(0)[common]), rel=1e-5
    )
    section = selectivity_section.section_selectivity(context, arrays, summary)
    assert sum("trained, fewer images" in row[0] for row in section.tables[1].rows) == 8
    assert all("(on 30 images: " in claim.here for claim in section.claims)


def row_of(p, of_logit=0.5, gain=1.0):
    return {"dip": 0.1, "dip_p": p, "dip_of_logit": 0.1, "dip_of_logit_p": of_logit, "channels": 9} | {
        "mixture": {"bic_gain": gain}
    }


def difference(specialised, common, p):
    return {"specialised": specialised, "common": common, "p_value": p, "undefined": 0}


def test_a_claim_about_channels_is_a_rule_that_each_network_is_put_to():
    assert selectivity_claims.bimodality(row_of(0.01)) == [True, True]
    assert selectivity_claims.bimodality(row_of(0.01, gain=-1)) == [True, False]
    assert selectivity_claims.bimodality(row_of(0.04)) == [False, False]
    assert selectivity_claims.bimodality(row_of(0.04, of_logit=0.02)) == [True, True]
    assert selectivity_claims.bimodality(row_of(None)) == [None, None]
    assert selectivity_claims.larger(difference(1.0, 2.0, 0.01)) is True
    assert (
        selectivity_claims.larger(difference(2, 1, 0.01)) is selectivity_claims.larger(difference(1, 2, 0.1)) is False
    )
    assert selectivity_claims.larger(difference(None, 1, None)) is None
    assert selectivity_claims.heavy_tails(difference(5, 0.5, 0.01)) == [True, True]
    assert selectivity_claims.heavy_tails(difference(5, 2, 0.01)) == [True, False]
    assert selectivity_claims.heavy_tails(difference(1.0, 2.0, 0.01)) == [False, False]
    assert selectivity_claims.heavy_tails(difference(None, 2, None)) == [None, None]


@pytest.mark.parametrize(
    ("trained", "fewer", "untrained", "word"),
    [
        ((1.0, 2.0, 0.01), (1.0, 2.0, 0.01), (1.0, 2.0, 0.5), "yes"),
        ((1.0, 2.0, 0.01), (1.0, 2.0, 0.01), (1.0, 2.0, 0.01), "in part"),
        ((1.0, 2.0, 0.01), (1.0, 2.0, 0.50), (1.0, 2.0, 0.5), "in part"),  # not on as many images
        ((1.0, 2.0, 0.50), (1.0, 2.0, 0.50), (1.0, 2.0, 0.01), "no"),
        ((1.0, 2.0, 0.01), (1.0, 2.0, 0.01), (None, None, None), ""),
        ((None, None, None), (1.0, 2.0, 0.01), (1.0, 2.0, 0.5), ""),
    ],
)
def test_common_channels_have_larger_means_only_where_the_untrained_networks_have_not(trained, fewer, untrained, word):
    names = (*selecting.PROPERTIES, "cosine")
    groups = {
        name: dict.fromkeys(names, difference(*numbers))
        for name, numbers in {"trained": trained, "trained_subset": fewer, "untrained": untrained}.items()
    }
    distributions = {name: {"images": 9, "by_threshold": {"maximum": row_of(0.5)}} for name in groups}
    claims = selectivity_claims.selectivity_claims({"groups": groups, "distributions": distributions})
    assert [claims[place].holds for place in (2, 3, 4)] == [word] * 3
    assert claims[0].holds == "no"


def test_channels_that_few_images_excite_are_left_out_of_the_likeness_and_counted(context, tmp_path):
    context = context._replace(outdir=tmp_path)
    generator = np.random.default_rng(2)
    values = {rows: generator.gamma(1.0, size=(rows, 3, 19)) for rows in (60, 30)}
    for rows in values.values():
        rows[4:, :, 3] = 0  # the first channel of phi is on in 4 images, as many as are shown
        rows[5:, :, 4] = 0
    save_sweeps(tmp_path, values.__getitem__)
    groups = {f"{name}/{group}": np.arange(16) < 8 for name in ("channels", "untrained") for group in ("specialised",)}
    groups |= {f"{name}/common": np.arange(16) >= 8 for name in ("channels", "untrained")}
    (tmp_path / "selectivity").mkdir()
    channels = {"channels/threshold": np.zeros(16), "channels/selectivity": np.linspace(0.1, 0.9, 16)}
    np.savez(tmp_path / "selectivity" / "arrays.npz", **groups, **channels)
    top_images.run_top_images(context, tmp_path / "top_images", "key")
    summary = storage.read_json(tmp_path / "top_images" / "summary.json")
    assert summary["excited_by_few"]["trained"] == {"specialised": 1, "common": 0}
    assert summary["likeness"]["pixels"]["trained"]["specialised"]["channels"] == 7
    assert [row[3] for row in top_images.likeness_table(summary).rows][:2] == ["1", "0"]


@pytest.mark.parametrize(
    ("trained", "untrained", "word"),
    [(0.001, 0.5, "yes"), (0.001, 0.04, "in part"), (0.05, 0.5, "no"), (0.001, None, ""), (None, 0.5, "")],
)
def test_top_images_are_alike_where_more_are_than_by_chance_and_without_training_they_are_not(trained, untrained, word):
    found = {
        name: {"specialised": {"beyond": None if p is None else 0.3, "p_value": p, "channels": 100}}
        for name, p in (("trained", trained), ("untrained", untrained))
    }
    summary = {"likeness": {"pixels": found}, "images": {"trained": 60, "untrained": 60}}
    claim = top_images.likeness_claim(summary)
    assert claim.holds == word and (trained is None or f"pixels 30 % (p = {trained:.3f})" in claim.here)


def test_channels_that_have_the_same_top_images_are_one_trial_and_not_many():
    """Thirty channels whose top images are one set: all of them are beyond, as they are in one permutation of twenty."""
    units = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    nearest = np.argsort(-(units @ units[0]))[:6]  # as alike as any images are
    by_chance = selectivity.likeness(units, selectivity.random_sets(60, 4, 1000, 0))
    limit = np.quantile(by_chance, 0.95)
    for top, least, most in (
        (nearest[None, :4].repeat(30, 0), 0.0, 0.09),
        (np.arange(4)[None].repeat(30, 0), 0.2, 1.0),
    ):
        found = selectivity.likeness(units, top)
        shares = selectivity.permuted_shares(
            lambda sets: selectivity.likeness(units, sets),
            top,
            np.arange(60),
            np.ones((1, 30), bool),
            limit,
            count=999,
            seed=[1],
        )
        against = selectivity.against_random(found, by_chance)
        described = top_images.describe(found, against, np.ones(30, bool), shares[:, 0])
        assert set(shares[:, 0]) == {0, 1} and shares.mean() == pytest.approx(0.05, abs=0.03)
        assert described["beyond"] in (0, 1) and least <= described["p_value"] <= most
        expected = (1 + (shares[:, 0] >= described["beyond"]).sum()) / 1000
        assert described["p_value"] == pytest.approx(expected)


def test_images_are_shown_with_channels_above_their_mean_alone(context, monkeypatch):
    arrays, summary = run(context, "top_images")
    drawn = {}
    monkeypatch.setattr(top_images, "picture", lambda context, figure, name, caption: name)
    monkeypatch.setattr(
        top_images.drawing,
        "channels_of_images",
        lambda images, maps, top, headings, notes: drawn.update(maps=maps, notes=notes),
    )
    z = np.array([[1.2, 0.3, -0.7], [-0.1, -0.2, -0.7]])
    section = top_images.section_top_images(context, arrays | {"target_z": z}, summary)
    assert [note.split("\n")[1] for [*notes] in drawn["notes"] for note in notes] == [
        "+1.2 deviations",
        "+0.3 deviations",
    ]
    np.testing.assert_array_equal(drawn["maps"][0], arrays["target_maps"][0, :2])
    assert len(drawn["maps"]) == 1 and "1 of the 2 images" in " ".join(section.text)
    section = top_images.section_top_images(context, arrays | {"target_z": -abs(z)}, summary)
    assert "top_channels_of_images" not in section.figures and "2 of the 2 images" in " ".join(section.text)
    section = top_images.section_top_images(context, arrays | {"target_z": abs(z)}, summary)
    assert "above its mean" not in " ".join(section.text)


@pytest.mark.parametrize("labels", [np.zeros(60, np.int32), None])
def test_images_of_one_class_are_analysed_and_the_section_says_that_labels_tell_nothing(
    context, tmp_path, monkeypatch, labels
):
    monkeypatch.setattr(top_images, "picture", lambda context, figure, name, caption: name)
    images = context.images._replace(labels=labels, fingerprint="one class")
    context = context._replace(images=images, outdir=tmp_path)
    save_sweeps(tmp_path, lambda rows: np.random.default_rng(rows).gamma(1.0, size=(rows, 3, 19)))
    _, summary = run(context, "top_images", sweeps=False)
    assert summary["likeness"].keys() == selectivity.FEATURES.keys()
    with np.load(tmp_path / "top_images" / "arrays.npz") as arrays:
        section = top_images.section_top_images(context, dict(arrays), summary)
    reason = "have no labels" if labels is None else "all images have the same label"
    assert reason in " ".join(section.text)
    assert not any(re.search(r"\bnan\b|None", text, re.IGNORECASE) for text in printed(section))


def test_top_images_and_maps_are_those_of_phi(context):
    arrays, summary = run(context, "top_images")
    values = np.load(context.outdir / "representations" / "mean.npy")[:, 2, 3:]
    for channel in (0, 15):
        best = values[arrays["top/trained"][channel], channel]
        assert (np.diff(best) <= 0).all() and best[0] == values[:, channel].max()
    assert set(arrays["top/untrained"].ravel()) <= set(context.untrained_subset)
    assert arrays["target_maps"].shape == (2, 3, 4, 4)
    channels, rows = arrays["target_channels"], arrays["targets"]
    np.testing.assert_allclose(arrays["target_maps"].mean((2, 3)), values[rows[:, None], channels], rtol=1e-4)
    z = (values[rows[:, None], channels] - values.mean(0)[channels]) / values.std(0)[channels]
    np.testing.assert_allclose(arrays["target_z"], z, rtol=1e-3)
    assert summary["likeness"].keys() == {*selectivity.FEATURES, "labels"}
    shown = arrays["top/trained"][arrays["members/trained/common"], :4]
    found = summary["different"]["trained"]["common"]
    assert found["images"] == len(set(shown.ravel())) <= 60
    assert found["by_chance"] == pytest.approx(60 * (1 - (56 / 60) ** len(shown)))


def test_channels_that_follow_one_colour_have_top_images_of_that_colour(context):
    arrays, _ = run(context, "top_images")
    labels = context.images.labels[arrays["top/trained"][:8, :4]]
    assert (labels == labels[:, :1]).all()
    assert (arrays["z/colour histogram/trained"][:8] > 2).all()


def test_the_section_of_top_images_shows_what_was_saved(context):
    arrays, summary = run(context, "top_images")
    section = top_images.section_top_images(context, arrays, summary)
    assert not any(re.search(r"\bnan\b|None", text, re.IGNORECASE) for text in printed(section))
    assert "5 % by chance" in section.claims[0].null and section.claims[0].holds in ("yes", "no", "in part", "")
    names = {figure.path.stem for figure in section.figures}
    assert {"top_images_specialised", "top_channels_of_images", "top_images_likeness"} <= names


def test_grey_images_without_labels_are_analysed_and_the_section_says_what_was_left_out(context, tmp_path, monkeypatch):
    monkeypatch.setattr(top_images, "picture", lambda context, figure, name, caption: name)  # drawn, not saved
    grey = context.images._replace(images=context.images.images[:, :6, :, :1], labels=None, fingerprint="grey")
    weights = COLOURS.mean(0, keepdims=True)
    context = context._replace(
        images=grey, denoiser=two_kinds(weights, BIAS), untrained=lambda: two_kinds(-weights, BIAS), outdir=tmp_path
    )
    save_sweeps(tmp_path, lambda rows: np.random.default_rng(rows).gamma(1.0, size=(rows, 3, 17)))
    arrays, summary = run(context, "top_images", sweeps=False)
    assert "labels" not in summary["likeness"]
    section = top_images.section_top_images(context, arrays, summary)
    assert any("no labels" in text for text in section.text)


def test_more_top_images_than_images_are_refused(context):
    context.settings.top_images_per_channel = 30
    with pytest.raises(storage.InputError, match="top_images_per_channel = 30 must be from 2 to 29"):
        top_images.check(context)


def test_a_network_whose_channels_are_all_dead_is_reported_without_a_verdict(context, tmp_path, monkeypatch):
    for module in (selectivity_section, top_images):
        monkeypatch.setattr(module, "picture", lambda context, figure, name, caption: name)
    monkeypatch.setattr(selecting, "stimulus_responses", lambda *_: (np.ones((6, 8, 4, 16)), np.ones((4, 16))))
    context = context._replace(outdir=tmp_path)
    save_sweeps(tmp_path, lambda rows: np.ones((rows, 3, 19)))
    for name, section in (
        ("selectivity", selectivity_section.section_selectivity),
        ("top_images", top_images.section_top_images),
    ):
        shown = section(context, *run(context, name, sweeps=False))
        assert not any(re.search(r"\bnan\b", text.lower()) for text in printed(shown))
        assert {claim.holds for claim in shown.claims} == {""}
