"""Samples and reconstructions of the analysis: streaming changes nothing, and the numbers are those of the saved arrays."""

import itertools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import structural_similarity
from test_stages import make_context  # noqa: F401 (a fixture)

from unetrep_jax import measures, noise, reconstruction, sampling, stages, storage
from unetrep_jax.stages import kept, reconstructing, reconstructions, sampled
from unetrep_jax.storage import InputError

MEAN = np.full((8, 8, 3), 0.5, np.float32)


def drawn(context, folder):
    sampled.draw(context, folder)
    return {path.stem: np.load(path) for path in folder.glob("*.npy")}


def test_drawn_samples_are_those_of_the_sampler_in_any_batches(make_context, tmp_path):  # noqa: F811
    context = make_context(samples=7)
    mean, settings = stages.context.mean_colour(context), sampled.sampler(context.settings)

    @jax.jit
    def alone(number):
        start, run = jax.random.split(jax.random.fold_in(jax.random.key(context.settings.seed), number))
        noise = jax.random.normal(start, mean.shape)
        return sampling.blind_sample(lambda image: image / 2, mean + noise, run, **settings)

    expected = jax.tree.map(lambda *rows: np.stack(rows), *(alone(number) for number in range(7)))
    assert len(set(expected.steps.tolist())) > 1
    for batch in (7, 2):
        result = drawn(make_context(samples=7, batch_size=batch), tmp_path / str(batch))
        for name, value in expected._asdict().items():
            np.testing.assert_allclose(result[name], value, rtol=1e-4, atol=1e-6)


def killed_after(monkeypatch, saves):
    """Makes `Kept` save at each look, and the computation end at save number `saves`; counts them."""
    monkeypatch.setattr(kept, "SAVE_SECONDS", 0)
    original, calls = kept.Kept.save, []

    def save(self, *arguments):
        original(self, *arguments)
        calls.append(arguments)
        if len(calls) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(kept.Kept, "save", save)
    return calls


def test_drawing_killed_within_a_batch_goes_on_there(make_context, tmp_path, monkeypatch):  # noqa: F811
    context = make_context(samples=4)
    monkeypatch.setattr(sampled, "STRETCH", 2)
    whole = drawn(context, tmp_path / "whole")
    calls = killed_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        sampled.draw(context, tmp_path / "cut")
    other_batches = drawn(make_context(samples=4, batch_size=3), tmp_path / "cut")  # of another size: begun anew
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        sampled.draw(context, tmp_path / "again")
    again = drawn(context, tmp_path / "again")
    assert len(calls) == -(-(int(whole["steps"].max()) + 1) // 2) > 2  # none was made twice
    for name, value in whole.items():
        np.testing.assert_array_equal(again[name], value)
        np.testing.assert_allclose(other_batches[name], value, rtol=1e-4, atol=1e-6)
    assert not list(tmp_path.glob(".*.npz"))


def test_drawing_killed_before_its_samples_are_published_leaves_no_state(make_context, tmp_path, monkeypatch):  # noqa: F811
    killed_after(monkeypatch, -1)
    monkeypatch.setattr("unetrep_jax.storage.RowWriter.finish", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sampled.draw(make_context(samples=4), tmp_path / "cut")
    assert not list(tmp_path.glob(".*.npz"))


def test_samples_stay_when_only_what_they_are_compared_with_changes(make_context, tmp_path):  # noqa: F811
    written = set()
    for changed in ({}, {"copy_images": 5, "sigma": 50.0}):
        stages.run_stages(make_context(**changed), ["samples"], [])
        written.add((tmp_path / "drawn" / "image.npy").stat().st_mtime_ns)
    assert len(written) == 1


def test_phi_of_training_images_goes_on_where_it_was(make_context, tmp_path, monkeypatch):  # noqa: F811
    context = make_context()
    images, folder = context.images.images, tmp_path / "phi"
    monkeypatch.setattr("time.monotonic", itertools.count(0, 10).__next__)  # time to record, at every look
    original, calls = storage.RowWriter.append, []

    def append(self, **rows):
        original(self, **rows)
        calls.append(rows)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage.RowWriter, "append", append)
    with pytest.raises(KeyboardInterrupt):
        stages.context.phi_to(folder, context, images, "phi")
    result = stages.context.phi_to(folder, context, images, "phi")
    assert len(calls) == -(-len(images) // context.settings.batch_size)
    np.testing.assert_array_equal(result, stages.context.phi_of(context, images))


def test_copies_of_training_images_show(make_context, tmp_path):  # noqa: F811
    context = make_context()
    training = context.training_images().images
    copies = context.denoiser._replace(denoise=lambda y: jnp.broadcast_to(training[5] / jnp.float32(255), y.shape))
    stages.run_stages(context._replace(denoiser=copies), ["samples"], [])
    summary = storage.read_json(tmp_path / "samples" / "summary.json")
    assert summary["nearest"]["pixels"]["samples"]["median"] < 1e-6 < summary["nearest"]["pixels"]["held_out"]["median"]
    with np.load(tmp_path / "samples" / "arrays.npz") as arrays:
        np.testing.assert_array_equal(arrays["pixels/nearest"], np.broadcast_to(training[5], (6, 8, 8, 3)))
    assert "Copies would lie far below" in stages.write_report(context._replace(denoiser=copies)).read_text()


@pytest.mark.parametrize("stage", ["samples", "reconstructions"])
def test_a_denoiser_that_fails_is_refused_with_the_setting_to_change(make_context, tmp_path, stage):  # noqa: F811
    context = make_context()
    bad = {"samples": lambda y: y + 3 * (y - 0.5), "reconstructions": lambda y: y / 0}[stage]
    context = context._replace(denoiser=context.denoiser._replace(denoise=bad))
    says = {"samples": "6 of 6 diverged after", "reconstructions": "6 of 6 not_finite after"}[stage]
    assert re.search(f"{says}.* lower h0.*analysis", stages.run_stages(context, [stage], [])[stage])
    assert not {"samples", "drawn", "reconstructions"} & {path.name for path in tmp_path.iterdir()}


def test_other_arms_stay_when_the_settings_of_one_change(make_context, tmp_path):  # noqa: F811
    keys = [
        {name: reconstructing.arm_key(context, arm) for name, arm in reconstructing.arms(context).items()}
        for context in (make_context(control_targets=1), make_context(control_targets=1, adaptive_h0=0.2))
    ]
    assert {name for name in keys[0] if keys[0][name] != keys[1][name]} == {"adaptive"}


def test_measures_of_reconstructions_are_those_of_the_saved_images(make_context, tmp_path):  # noqa: F811
    context = make_context(control_targets=1, published_targets=1, schedule_levels=2)
    stages.run_stages(context, ["reconstructions"], [])
    with np.load(tmp_path / "reconstructions" / "arrays.npz") as file:
        arrays = dict(file)
    summary = storage.read_json(tmp_path / "reconstructions" / "summary.json")
    assert set(summary["arms"]) == set(reconstructing.arms(context))
    images, targets = arrays["schedule/images"], np.repeat(arrays["targets"], 2, axis=0) / np.float32(255)
    psnr = -10 * np.log10(((images - targets) ** 2).mean(axis=(1, 2, 3)))
    np.testing.assert_allclose(arrays["schedule/psnr"], psnr, rtol=1e-5)
    flat = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(images, targets, strict=True)]
    np.testing.assert_allclose(arrays["schedule/correlation"], flat, rtol=1e-5)
    ssim = structural_similarity(images[0], targets[0], data_range=1.0, channel_axis=-1, win_size=7)
    np.testing.assert_allclose(arrays["schedule/ssim"][0], ssim)
    phi = stages.context.phi_of(context, images, numbered_from=len(context.images.images))
    everyone = stages.context.phi(context, "representations", context.working)
    rows = np.repeat(reconstructing.target_rows(context), 2)
    expected = (phi * everyone[rows]).sum(1) / np.linalg.norm(phi, axis=1) / np.linalg.norm(everyone[rows], axis=1)
    np.testing.assert_allclose(arrays["schedule/cosine"], expected, rtol=1e-6)
    nearer = (((phi[:, None] - everyone) ** 2).sum(-1) < ((phi - everyone[rows]) ** 2).sum(-1)[:, None]).sum(1)
    np.testing.assert_allclose(arrays["schedule/rank_phi"], nearer + 1, atol=1)
    assert summary["arms"]["schedule"]["psnr"]["median"] == pytest.approx(np.median(psnr), rel=1e-5)
    assert (arrays["unmatched/updates"] == 0).all() and np.isnan(arrays["unmatched/last_loss"]).all()
    assert arrays["published/updates"].shape == (2, 100)
    targets = targets[::2]
    apart = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(targets, np.roll(targets, 1, axis=0), strict=True)]
    assert summary["unrelated"]["correlation"]["median"] == pytest.approx(np.median(apart), rel=1e-5)
    apart = [-10 * np.log10(((a - b) ** 2).mean()) for a, b in zip(targets, np.roll(targets, 1, axis=0), strict=True)]
    assert summary["unrelated"]["psnr"]["median"] == pytest.approx(np.median(apart), rel=1e-5)
    page = stages.write_report(context).read_text()
    assert "published settings" in page and "rank 1" in page


def arm_numbers(correlation, psnr, rank, between=None):
    """What the claims read of an arm."""
    numbers = {"correlation": correlation, "psnr": psnr, "rank_phi": rank}
    found = {name: {"median": value} for name, value in numbers.items()} | {"images_ranked": 1000}
    return found | {"between_samples": {name: {"median": value} for name, value in (between or {}).items()}}


def test_every_number_of_the_claims_stands_beside_its_nulls():
    arms = {
        "schedule": arm_numbers(0.4, 15.1, 20, {"correlation": 0.52, "psnr": 19.3}),
        "unmatched": arm_numbers(0.11, 14.2, 480, {"correlation": 0.13, "psnr": 18.4}),
        "untrained": arm_numbers(0.21, 16.6, 300, {"correlation": 0.72, "psnr": 21.5}),
    }
    apart = {"correlation": {"median": 0.05}, "psnr": {"median": 11.7}}
    near, alike = reconstructions.reconstruction_claims({"arms": arms, "unrelated": apart})
    assert alike.here == "correlation 0.40, PSNR 15.1 dB (between samples: correlation 0.52, PSNR 19.3 dB)"
    assert alike.null == (
        "no matching: correlation 0.11, PSNR 14.2 dB (between samples: correlation 0.13, PSNR 18.4 dB); "
        "phi of the untrained network: correlation 0.21, PSNR 16.6 dB (between samples: correlation 0.72, PSNR 21.5 dB); "
        "two different targets: correlation 0.05, PSNR 11.7 dB"
    )
    assert near.null == "no matching: 480 of 1,000; phi of the untrained network: 300 of 1,000; chance: 500"
    assert (near.holds, alike.holds) == ("yes", "yes")
    assert reconstructions.controls_left_out(arms) == []


def test_without_controls_claims_are_refuted_or_left_open_and_the_section_says_how_to_make_them():
    for (correlation, rank), holds in {(0.4, 20): "", (0.06, 300): "no"}.items():
        arms = {"schedule": arm_numbers(correlation, 15.1, rank)}
        found = reconstructions.reconstruction_claims({"arms": arms, "unrelated": {"correlation": {"median": 0.05}}})
        assert [claim.holds for claim in found] == [holds] * 2
        assert found[1].null == "two different targets: correlation 0.05, PSNR – dB"
    (text,) = reconstructions.controls_left_out(arms)
    assert "control_targets=8" in text


def test_an_arm_is_what_reconstruct_gives(make_context, tmp_path):  # noqa: F811
    context = make_context(control_targets=2)
    arm = reconstructing.arms(context)["adaptive"]
    reconstructing.reconstruct_arm(context, arm, MEAN, tmp_path / "arm")
    rows = np.repeat(reconstructing.target_rows(context)[: arm.targets], arm.samples)
    targets = jnp.asarray(context.images.images[rows] / np.float32(255))
    keys = noise.image_keys(jax.random.key(context.settings.seed), jnp.arange(len(rows)))
    expected = reconstruction.reconstruct(
        context.denoiser, targets, keys, mean=jnp.asarray(MEAN), settings=arm.settings
    )
    for name, value in {"images": expected.images, "stop": expected.stop, "seen": expected.log.sigma}.items():
        np.testing.assert_allclose(np.load(tmp_path / "arm" / f"{name}.npy"), value, rtol=1e-4, atol=1e-5)


def test_a_reconstruction_killed_within_a_batch_goes_on_there(make_context, tmp_path, monkeypatch):  # noqa: F811
    context = make_context(reconstruction_batch=4, control_targets=2)
    arm = reconstructing.arms(context)["adaptive"]
    monkeypatch.setattr(reconstructing, "steps_at_once", lambda settings: 2)
    reconstructing.reconstruct_arm(context, arm, MEAN, tmp_path / "whole")
    calls = killed_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        reconstructing.reconstruct_arm(context, arm, MEAN, tmp_path / "cut")
    assert os.path.exists(tmp_path / ".cut.state.npz")
    reconstructing.reconstruct_arm(context, arm, MEAN, tmp_path / "cut")
    parts = -(-int((~np.isnan(np.load(tmp_path / "whole" / "seen.npy"))).sum(axis=1).max()) // 2)
    assert parts > 2 and len(calls) == parts  # none was made twice
    for path in (tmp_path / "whole").glob("*.npy"):
        np.testing.assert_array_equal(np.load(path), np.load(tmp_path / "cut" / path.name))
    assert not os.path.exists(tmp_path / ".cut.state.npz")


BAD = {
    "samples": (0, "analysis.samples must be 1 or more"),
    "sample_h0": (1.5, "h0 = 1.5"),
    "sample_beta": (0.0, "beta = 0"),
    "sample_sigma_end": (2.0, "sigma_end = 2"),
    "sample_step_size": ("huge", "'huge'"),
    "targets": (0, "analysis.targets"),
    "schedule_sigma_end": (1.0, "schedule_sigma_end = 1"),
    "schedule_levels": (0, "schedule_levels"),
    "adaptive_h0": (0.0, "h0 = 0"),
    "adaptive_sigma_end": (1.0, "sigma_end = 1"),
    "matching_steps": (0, "matching_steps"),
    "matching_epsilon": (0.0, "epsilon = 0"),
}


@pytest.mark.parametrize(("key", "bad"), BAD.items(), ids=BAD)
def test_settings_that_cannot_work_are_refused_in_one_line(key, bad):
    from configs import default

    settings = default.get_config().analysis
    settings[key] = bad[0]
    with pytest.raises(InputError) as error:
        sampled.check_samples(settings)
        reconstructing.check_reconstructions(settings)
    assert bad[1] in str(error.value) and "\n" not in str(error.value)


def test_cosines_and_correlations_are_those_of_numpy():
    a, b = np.random.default_rng(0).standard_normal((2, 5, 9))
    np.testing.assert_allclose(measures.correlation(a, b), [np.corrcoef(x, y)[0, 1] for x, y in zip(a, b, strict=True)])
    assert measures.cosine(a, 3 * a) == pytest.approx(np.ones(5)) and np.isnan(measures.cosine(a[0], 0 * a[0]))
    assert measures.cosine(a[0], -2 * a[0]) == pytest.approx(-1)
