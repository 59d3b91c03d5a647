"""The explorer stage: what it hands to the page is what the sweep and the other stages hold."""

import jax
import numpy as np
import pytest
from test_stages import WEIGHTS, colour_denoiser, image_set, make_context  # noqa: F401 (a fixture)

import configs
from unetrep_jax import explorer, representation, stages, storage
from unetrep_jax.stages import exploring

OTHERS = ["selectivity", "neighbours", "clusters", "reconstructions"]


@pytest.fixture
def handed(monkeypatch):
    """What the stage hands over, call by call."""
    calls, write = [], explorer.write

    def keep(folder, collection):
        calls.append(collection)
        write(folder, collection)

    monkeypatch.setattr(explorer, "write", keep)
    return calls


def phi_of(context):
    means = np.load(context.outdir / "representations" / "mean.npy")[:, context.working]
    return representation.layout(context.denoiser, context.images.images.shape[1:]).of(means, "mid")


def test_the_mean_of_where_a_channel_fires_is_its_phi(make_context, handed):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["explorer"], [])
    phi, (found,) = phi_of(context), handed
    np.testing.assert_array_equal(found.phi, phi)
    of_images = np.take_along_axis(phi, found.fires.channels, axis=1)
    np.testing.assert_allclose(found.fires.maps.mean((2, 3)), of_images, rtol=1e-5)
    of_channels = phi[found.top.index, np.arange(phi.shape[1])[:, None]]
    np.testing.assert_allclose(found.top.maps.mean((2, 3)), of_channels, rtol=1e-5)
    assert (np.diff(of_channels, axis=1) <= 0).all() and (of_channels[:, 0] == phi.max(0)).all()


def test_maps_are_those_of_the_noisy_images_that_phi_is_averaged_over(make_context, handed):  # noqa: F811
    context = make_context(draws=1)
    stages.run_stages(context, ["explorer"], [])
    i, (found,) = 41, handed
    averages = representation.noise_averages_of(lambda y: context.denoiser.activations(y)["mid.0"], seed=0)
    expected = jax.jit(averages)((np.float32(100 / 255), np.int32(1)), (context.images.images[[i]], np.int32([i])))[0]
    np.testing.assert_allclose(found.fires.maps[i], np.moveaxis(expected, -1, 0)[found.fires.channels[i]], rtol=1e-5)


def test_deviations_and_companions_are_those_of_numpy(make_context, handed):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["explorer"], [])
    phi, (found,) = phi_of(context).astype(float), handed
    z = (phi - phi.mean(0)) / phi.std(0)
    np.testing.assert_allclose(found.fires.deviations, np.sort(z, axis=1)[:, ::-1][:, :8], rtol=1e-3, atol=1e-3)
    correlation = np.corrcoef(phi.T)
    known = found.channels
    np.testing.assert_allclose(
        known.companion_correlations, np.take_along_axis(correlation, known.companions, axis=1), atol=1e-5
    )
    assert all(sorted(row) == [c for c in range(6) if c != own] for own, row in enumerate(known.companions))
    assert (np.diff(known.companion_correlations, axis=1) <= 1e-6).all()
    np.testing.assert_allclose(known.level_correlations[context.working], 1)


def test_what_has_not_run_is_named_with_its_command_and_shown_once_it_has(make_context, handed, capsys):  # noqa: F811
    context = make_context()
    context.facts["checkpoint"] = "runs/my run, step 7, averaged"
    context.facts["command"] = "python analyze.py --ckpt 'runs/my run' --only explorer clusters --images p --redo explorer"
    stages.run_stages(context, ["explorer"], [])
    assert [of.what for of in handed[0].missing] == ["Selectivity", "Neighbours", "Clusters", "Reconstructions"]
    assert handed[0].missing[2].command == "python analyze.py --ckpt 'runs/my run' --images p --only clusters explorer"
    assert handed[0].title == "What my run knows of 60 images" and handed[0].checkpoint == "my run, step 7, averaged"
    assert handed[0].level == "At 100/255, mean of 2 draws"
    stages.run_stages(context, ["explorer"], [])
    assert len(handed) == 1 and "explorer: unchanged" in capsys.readouterr().out
    stages.run_stages(context, [*OTHERS, "explorer"], [])
    found = handed[1]
    assert not found.missing
    assert [len(of.nearest) for of in found.clusterings] == [3, 5]
    with np.load(context.outdir / "clusters" / "arrays.npz") as saved:
        np.testing.assert_array_equal(found.clusterings[0].assignment, saved["assignment/3"])
    with np.load(context.outdir / "neighbours" / "arrays.npz") as saved:
        np.testing.assert_array_equal(found.neighbours[exploring.SPACES["phi, centred"]], saved["index/all/phi, centred"])
    (made,) = found.reconstructions
    assert made.title == "Reconstructed from phi: fixed schedule." and made.levels == "Through noise levels from 255 to 25.5/255"
    assert made.images.shape == (6, 8, 8, 3) and len(set(made.targets)) == 3
    with np.load(context.outdir / "reconstructions" / "arrays.npz") as saved:
        np.testing.assert_array_equal(saved["targets"], context.images.images[made.targets[::2]])
    assert set(found.channels.groups) == {"specialised", "common", "dead"}


def test_a_channel_that_is_the_same_for_all_images_has_no_top_images_and_goes_with_none(make_context, handed):  # noqa: F811
    weights = WEIGHTS.copy()
    weights[:, 2] = 0
    stages.run_stages(make_context()._replace(denoiser=colour_denoiser(weights)), ["explorer"], [])
    (found,) = handed
    assert (found.top.index[2] == -1).all() and (found.top.index[0] >= 0).all()
    known = found.channels
    assert np.isnan(known.companion_correlations[2]).all() and np.isnan(known.level_correlations[:, 2]).all()
    assert all(known.companions[c, -1] in (2, c) and np.isnan(known.companion_correlations[c, -1]) for c in (0, 1, 3, 4, 5))
    assert np.isfinite(known.companion_correlations[0, :-1]).all()


def test_a_channel_stands_among_those_that_go_with_another_or_against_it_and_not_twice(monkeypatch):
    monkeypatch.setattr(exploring, "COMPANIONS", 3)
    values = np.random.default_rng(0).normal(size=(50, 9))
    values[:, [1, 4, 5]] = 0.1
    order, strength = exploring.companions_of(values)
    correlation = np.corrcoef(values[:, [0, 2, 3, 6, 7, 8]].T)[0, 1:]
    np.testing.assert_allclose(strength[0, :5], np.sort(correlation)[::-1])
    assert np.isnan(strength[0, 5]) and len(set(order[0])) == 6


@pytest.mark.parametrize(
    "given", ["{}/runs/a", "{}/runs/a/last", "{}/runs/a/best/1200", "{}/runs/a/milestones/40", ".", "./last", "last/1200"]
)
def test_a_checkpoint_has_the_name_of_its_run(make_context, tmp_path, monkeypatch, given):  # noqa: F811
    for name in ("best", "last", "milestones"):
        (tmp_path / "runs" / "a" / name / "1200").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "runs" / "a")
    context = make_context()
    context.facts["checkpoint"] = f"{given.format(tmp_path)}, step 1,200, averaged"
    context.facts["checkpoint sha256"] = "0123456789abcdef"
    assert exploring.name_of(context) == ("a", ", step 1,200, averaged, sha256 01234567")


def test_a_run_whose_name_is_a_number_keeps_it(make_context, tmp_path):  # noqa: F811
    (tmp_path / "12" / "best" / "7").mkdir(parents=True)
    context = make_context()
    context.facts["checkpoint"] = f"{tmp_path / '12' / 'best' / '7'}, step 7, params"
    assert exploring.name_of(context) == ("12", ", step 7, params")


def test_levels_of_a_reconstruction_are_said_as_everywhere_else():
    schedule, adaptive = exploring.reconstruction.Schedule(), exploring.reconstruction.Adaptive(sigma_0=1.0, sigma_end=0.1)
    assert exploring.levels_of(adaptive) == "Through noise levels from 255 to 25.5/255"
    assert exploring.levels_of(schedule._replace(sigmas=(0.02,))) == "At one noise level, 5.1/255"


def test_a_stage_made_with_other_settings_is_not_shown(make_context, handed):  # noqa: F811
    stages.run_stages(make_context(), ["clusters", "explorer"], [])
    stages.run_stages(make_context(cluster_seeds=1), ["explorer"], [])
    assert handed[0].clusterings and not handed[1].clusterings


def test_distances_and_separations_of_clusters_are_those_of_their_definition(make_context, handed):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["clusters", "explorer"], [])
    phi, clustering = phi_of(context).astype(float), handed[0].clusterings[0]
    means = np.stack([phi[clustering.assignment == k].mean(0) for k in range(3)])
    scale = np.sqrt(phi.var(0).sum())
    np.testing.assert_allclose(
        clustering.distance, np.linalg.norm(phi - means[clustering.assignment], axis=1) / scale, rtol=1e-3
    )
    a, b = 0, clustering.nearest[0, 0]
    line = (means[a] - means[b]) / np.linalg.norm(means[a] - means[b])
    spread = sum(((phi[clustering.assignment == k] - means[k]) @ line).var() for k in (a, b))
    expected = np.linalg.norm(means[a] - means[b]) / np.sqrt(spread)
    np.testing.assert_allclose(clustering.separation[0, 0], expected, rtol=1e-3)


def test_a_stage_that_was_killed_goes_on_where_it_was(make_context, handed, monkeypatch):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["explorer"], [])
    whole = np.array(handed[0].fires.maps)
    storage.discard(context.outdir / "fires")
    storage.discard(context.outdir / "explorer")
    rows, append = [], storage.RowWriter.append

    def killed(self, **arrays):
        append(self, **arrays)
        self._record()
        rows.append(self.rows_done)
        if len(rows) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage.RowWriter, "append", killed)
    with pytest.raises(KeyboardInterrupt):
        stages.run_stages(context, ["explorer"], [])

    def watched(self, **arrays):
        rows.append(self.rows_done)
        append(self, **arrays)

    monkeypatch.setattr(storage.RowWriter, "append", watched)
    stages.run_stages(context, ["explorer"], [])
    assert rows[2] == rows[1]  # nothing anew
    np.testing.assert_array_equal(np.array(handed[1].fires.maps), whole)


@pytest.mark.parametrize("channels", [1, 2])
def test_few_channels_and_images_without_labels(make_context, handed, channels):  # noqa: F811
    few = colour_denoiser(WEIGHTS[:, :channels])
    context = make_context()._replace(
        denoiser=few, untrained=lambda: few, images=image_set(20)._replace(labels=None, class_names=())
    )
    stages.run_stages(context, ["explorer"], [])
    (found,) = handed
    assert found.channels.companions.shape == (channels, channels - 1)
    assert found.labels is None and found.fires.channels.shape == (20, channels)
    assert all(of.shape == (20, 2) for of in found.layouts.values())


def test_images_from_files_have_their_names(make_context, handed):  # noqa: F811
    names = (*(f"a/{i}.png" for i in range(58)), "\u00e9", "\udce9")  # the last is no text for the file system
    images = image_set(60)._replace(names=names, fingerprint="named")
    stages.run_stages(make_context()._replace(images=images), ["explorer"], [])
    assert list(handed[0].names) == [*(f"a/{i}.png" for i in range(58)), "\u00e9", "\ufffd"]


def test_names_follow_the_images_that_are_chosen():
    images = image_set(60)._replace(names=tuple(map(str, range(60))))
    chosen, _ = stages.usable_images(images, configs.from_plain({"analysis": {"images": 30, "clusters": (3,)}}).analysis)
    positions = np.array(chosen.names, int)
    assert len(positions) == 30
    np.testing.assert_array_equal(chosen.images, images.images[positions])


def test_too_many_images_for_t_sne_have_the_other_layout_and_the_reason(make_context, handed, monkeypatch):  # noqa: F811
    monkeypatch.setattr(exploring, "TSNE_IMAGES", 59)
    stages.run_stages(make_context(), ["explorer"], [])
    assert list(handed[0].layouts) == ["the first two principal components of phi"]
    assert handed[0].missing[0].what == "t-SNE"


def test_a_network_whose_phi_is_the_same_for_all_images_is_shown(make_context, handed):  # noqa: F811
    constant = colour_denoiser(WEIGHTS)._replace(
        activations=lambda y: {k: jax.numpy.full_like(v, 0.1) for k, v in colour_denoiser(WEIGHTS).activations(y).items()},
        represent=lambda y: jax.numpy.full((len(y), 6), 0.1),
    )
    stages.run_stages(make_context()._replace(denoiser=constant), ["explorer"], [])
    assert handed[0].fires.what.startswith("all channels")
    assert not handed[0].fires.deviations.any() and np.isnan(handed[0].channels.companion_correlations).all()
    assert np.isnan(handed[0].channels.level_correlations).all() and (handed[0].top.index == -1).all()
    assert not handed[0].layouts["the first two principal components of phi"].any()


def test_t_sne_is_made_once_whatever_else_is_added(make_context, handed, monkeypatch):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["explorer"], [])
    monkeypatch.setattr(exploring.clusters, "embedding", None)
    stages.run_stages(context, ["neighbours", "explorer"], [])
    np.testing.assert_array_equal(handed[0].layouts["t-SNE of phi"], handed[1].layouts["t-SNE of phi"])


def test_the_report_links_to_the_page(make_context):  # noqa: F811
    context = make_context()
    stages.run_stages(context, ["explorer"], [])
    assert '<a href="explorer/index.html">' in stages.write_report(context).read_text()
    assert (context.outdir / "explorer" / "index.html").exists()
