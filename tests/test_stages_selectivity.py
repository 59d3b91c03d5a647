"""Stages selectivity and top_images on a denoiser whose channels are known."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import make_context  # noqa: F401 (a fixture)

from unetrep_jax import measures, noise, selectivity, stages, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages import selecting, top_images

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
    assert row["dip"] == pytest.approx(selectivity.dip(arrays["trained/ratio/none"]))
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
    section = selecting.section_selectivity(context, arrays, summary)
    assert not any("nan" in text.lower().split() or "None" in text for text in printed(section))
    assert len(section.claims) == 5 and all("untrained network" in claim.null for claim in section.claims)
    assert all(figure.path.exists() for figure in section.figures)


def test_gratings_share_their_noise_with_the_blank_and_are_kept(context):
    run(context)
    responses, blank = selecting.grating_responses(context, None, "trained")  # read from disk: nothing to run
    assert responses.shape == (6, 8, 4, 16) and blank.shape == (4, 16)
    # Written out: two draws, the phase as the image's number, whatever the frequency and orientation.
    bank, sigma = selectivity.gratings(8, 8, 3), jnp.asarray(context.sigmas[2])
    level = noise.level_key(jax.random.key(0), sigma)
    draws = [noise.image_keys(jax.random.fold_in(level, draw), jnp.arange(4)) for draw in range(2)]
    represent = two_kinds(COLOURS, BIAS).represent
    for found, clean in ((responses[2, 3], bank[2, 3]), (blank, np.full_like(bank[0, 0], 0.5))):
        expected = sum(represent(noise.add_noise(keys, jnp.asarray(clean), sigma)) for keys in draws) / 2
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_a_grid_without_the_noiseless_level_is_refused(make_context):  # noqa: F811
    context = make_context(**SETTINGS, sigmas=(50.0, 100.0))
    with pytest.raises(storage.InputError, match=r"has no level 0.*add 0\.0"):
        selecting.run_selectivity(context, context.outdir / "selectivity", "key")


def test_the_reference_is_the_positive_level_nearest_to_fifty(make_context):  # noqa: F811
    assert selecting.reference_level(make_context(sigmas=(0.0, 30.0, 60.0, 100.0)).settings) == 2
    assert selecting.reference_level(make_context(sigmas=(0.0, 100.0)).settings) == 1


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
    assert not any("nan" in text.lower().split() or "None" in text for text in printed(section))
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
    for module in (selecting, top_images):
        monkeypatch.setattr(module, "picture", lambda context, figure, name, caption: name)
    monkeypatch.setattr(selecting, "grating_responses", lambda *_: (np.ones((6, 8, 4, 16)), np.ones((4, 16))))
    context = context._replace(outdir=tmp_path)
    save_sweeps(tmp_path, lambda rows: np.ones((rows, 3, 19)))
    for name, section in (
        ("selectivity", selecting.section_selectivity),
        ("top_images", top_images.section_top_images),
    ):
        shown = section(context, *run(context, name, sweeps=False))
        assert not any("nan" in text.lower().split() for text in printed(shown))
        assert {claim.holds for claim in shown.claims} == {""}
