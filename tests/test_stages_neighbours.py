"""The stages that look for neighbours and learn linear probes: numbers are those of the measures, and what is missing is said."""

import pathlib
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler
from test_stages import WEIGHTS, colour_denoiser, image_set, make_context  # noqa: F401 (a fixture)

from configs import default
from unetrep_jax import noise, probes, report, representation, stages, storage
from unetrep_jax.stages import channels, neighbour_section, neighbouring, probe_features, probing, wording
from unetrep_jax.storage import InputError

SETTINGS = {"neighbours": 4, "neighbour_targets": 3, "probe_sigmas": (100.0,), "probe_images": 40}
RUN = {"neighbours": neighbouring.run_neighbours, "probe": probing.run_probe}
SECTION = {"neighbours": neighbour_section.section_neighbours, "probe": probing.section_probe}


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    return tmp_path_factory.mktemp("swept")


@pytest.fixture
def context_of(make_context, swept):  # noqa: F811
    def make(needed=True, change=lambda context: context, **settings):
        context = change(make_context(**SETTINGS | settings))
        if needed:
            for folder in swept.iterdir():  # what an earlier test swept is used where it fits, by its key
                shutil.copytree(folder, context.outdir / folder.name)
            stages.run_stages(context, ["representations", "untrained"], [])
            for name in ("representations", "untrained"):
                if not (swept / name).exists():
                    shutil.copytree(context.outdir / name, swept / name)
        return context

    return make


def ran(context, stage):
    """Arrays, numbers, the section, and all that it says."""
    folder = context.outdir / stage
    RUN[stage](context, folder, "key")
    return read(context, stage)


def read(context, stage):
    with np.load(context.outdir / stage / "arrays.npz") as arrays:
        arrays = dict(arrays)
    summary = storage.read_json(context.outdir / stage / "summary.json")
    section = SECTION[stage](context, arrays, summary)
    page = str(section)
    assert "nan" not in page
    return arrays, summary, section, page


def phi_at(context, stage, level):
    means = np.load(context.outdir / stage / "mean.npy")[:, level]
    return representation.layout(context.denoiser, context.images.images.shape[1:]).of(means, "mid")


def neighbours_by_scikit_learn(features, metric):
    flat = features.reshape(len(features), -1).astype(float)
    return NearestNeighbors(n_neighbors=4, algorithm="brute", metric=metric).fit(flat).kneighbors(return_distance=False)


def with_images(**changes):
    return lambda context: context._replace(images=context.images._replace(**changes))


@pytest.mark.parametrize(
    ("stage", "names"),
    [
        ("neighbours", ["neighbours_1", "neighbours_2", "neighbours_by_noise"]),
        ("probe", ["probe_accuracy", "probe_paths"]),
    ],
)
def test_figures_are_saved_under_their_names(context_of, stage, names):
    context = context_of()
    _, _, section, _ = ran(context, stage)
    assert [figure.path.stem for figure in section.figures] == names
    assert sorted(path.name for path in (context.outdir / "figures").iterdir()) == sorted(f"{name}.png" for name in names)


# neighbours


def test_neighbours_agreement_and_overlap_are_those_of_scikit_learn(context_of):
    context = context_of()
    arrays, summary, section, page = ran(context, "neighbours")
    phi, labels = phi_at(context, "representations", 2), context.images.labels
    spaces = {
        "phi": (phi, "cosine"),
        "phi, centred": (phi - phi.mean(0), "cosine"),
        "pixels": (context.images.images, "cosine"),
        "pixels, Euclidean": (context.images.images, "euclidean"),
    }
    found = summary["groups"]["all"]
    for space, (features, metric) in spaces.items():
        index = neighbours_by_scikit_learn(features, metric)
        np.testing.assert_array_equal(arrays[f"index/all/{space}"], index)
        agreement = np.mean(labels[index] == labels[:, None])
        interval = found["agreement"][space]["100"]
        assert interval["value"] == pytest.approx(agreement) and interval["low"] <= agreement <= interval["high"]
        common = [len(set(a) & set(b)) / 4 for a, b in zip(index, arrays["index/all/phi"], strict=True)]
        assert found["overlap_with_phi"][space]["100"]["value"] == pytest.approx(np.mean(common))
    assert found["overlap_by_chance"] == pytest.approx(4 / 59)
    assert found["chance"]["class_frequencies"] == pytest.approx(19 / 59)
    at_50 = neighbours_by_scikit_learn(phi_at(context, "representations", 1), "cosine")
    assert found["agreement"]["phi"]["50"]["value"] == pytest.approx(np.mean(labels[at_50] == labels[:, None]))
    assert "same label" in page and "class frequencies" in page and section.claims[0].published is None


def test_the_untrained_network_is_compared_on_the_images_that_it_saw(context_of):
    context = context_of()
    arrays, summary, section, _ = ran(context, "neighbours")
    rows = context.untrained_subset
    assert summary["groups"]["subset"]["images"] == len(rows) == 30
    for space, features in {
        "untrained phi": phi_at(context, "untrained", 2),
        "phi": phi_at(context, "representations", 2)[rows],
        "pixels": context.images.images[rows],
    }.items():
        np.testing.assert_array_equal(arrays[f"index/subset/{space}"], neighbours_by_scikit_learn(features, "cosine"))
    null = section.claims[0].null
    found = summary["groups"]
    assert (
        f"untrained network {wording.share_text(found['subset']['agreement']['untrained phi']['100'])}, where" in null
    )
    for space in neighbouring.OTHERS:  # the strongest control is among them
        assert f"{space} {wording.share_text(found['all']['agreement'][space]['100'])}" in null


def test_where_the_untrained_network_saw_all_images_there_is_one_group(context_of):
    context = context_of(untrained_images=0)
    _, summary, section, _ = ran(context, "neighbours")
    assert list(summary["groups"]) == ["all"] and "untrained phi" in summary["groups"]["all"]["agreement"]
    assert "among 60" in section.claims[0].null


def leads(**lows):
    """By how much more often neighbours in phi agree than each control's, from the low end of the interval (0.2 wide)."""
    named = zip(
        (*neighbouring.OTHERS, "untrained phi"), ("pixels", "euclidean", "components", "untrained"), strict=True
    )
    return {space: {"low": lows.get(short, 0.1), "high": lows.get(short, 0.1) + 0.2} for space, short in named}


@pytest.mark.parametrize(
    ("every", "subset", "expected"),
    [
        (leads(), None, "yes"),
        (leads(components=-0.1), None, "in part"),
        (leads(euclidean=-0.1), None, "in part"),
        (leads(untrained=-0.1), None, "in part"),
        (leads(untrained=-0.1), leads(), "yes"),  # on the images that the untrained network saw
        (leads(), leads(untrained=-0.1), "in part"),
        (leads(), leads(pixels=-0.1, components=-0.1), "yes"),  # the pixels are compared on all images
        (leads(pixels=-0.3), None, "no"),
        (leads(pixels=-0.1), None, ""),
    ],
)
def test_neighbours_in_phi_agree_more_often_where_no_control_that_is_printed_does_as_often(every, subset, expected):
    groups = {"all": {"phi_agrees_more_by": every}}
    groups |= {"subset": {"phi_agrees_more_by": subset}} if subset else {}
    assert report.verdict(neighbour_section.agrees_more({"groups": groups})) == expected


def test_what_is_said_of_phi_is_said_of_the_untrained_network_too(context_of):
    context = context_of()
    _, summary, _, page = ran(context, "neighbours")
    for name, sweep in neighbouring.SWEEPS.items():
        phi = phi_at(context, sweep, 2).astype(float)
        common = np.square(phi.mean(0)).sum() / np.square(phi).sum(1).mean()
        assert summary["common_part"][name] == pytest.approx(common)
        variance = np.load(context.outdir / sweep / "variance.npy")[:, 2, 2]
        part = variance.mean() / 2 / phi.var(0).sum()
        assert summary["noise_part"][name] == pytest.approx(part, rel=1e-5)
        assert f"the mean of {name} over images makes up all but {1 - common:.2g}" in page
        assert f"of {name} {part:.2g}" in page and f"0 of the 6 channels of {name} are 0" in page


def test_channels_that_tell_nothing_are_counted():
    features = np.random.default_rng(0).uniform(size=(9, 6))
    features[:, 1], features[:, [2, 4]] = 0, 0.5
    assert channels.count_channels(features) == {"channels": 6, "dead": 1, "constant": 2}
    assert "1 of the 6 channels of phi are 0 for all images and 2 others" in channels.channels_text(
        {"phi": channels.count_channels(features)}
    )


@pytest.mark.parametrize(("count", "components"), [(60, 6), (5, 4)])
def test_fewer_components_than_channels_are_said(context_of, count, components):
    few = with_images(images=image_set().images[:count], labels=image_set().labels[:count], fingerprint=f"{count} images")
    _, summary, _, page = ran(context_of(change=few, neighbours=2), "neighbours")
    assert summary["components"] == components
    assert ("are 4, fewer than phi's 6 channels: 5 images of 192 intensities have no more" in page) == (components == 4)


def test_neighbours_of_an_image_are_alike_in_pixels_and_random_images_are_not(context_of):
    context = context_of()
    arrays, summary, _, page = ran(context, "neighbours")
    images = context.images.images / 255
    index = arrays["index/all/pixels, Euclidean"]
    expected = np.sqrt(np.square(images[:, None] - images[index]).mean((2, 3, 4))).mean(1)
    np.testing.assert_allclose(arrays["alike/pixels, Euclidean"], expected, rtol=1e-5)
    random = np.random.default_rng([0, neighbouring.RANDOM_IMAGES]).integers(1, 60, (60, 4))
    others = images[(np.arange(60)[:, None] + random) % 60]  # never the image itself
    expected = np.sqrt(np.square(images[:, None] - others).mean((2, 3, 4))).mean(1)
    np.testing.assert_allclose(arrays["alike/random images"], expected, rtol=1e-5)
    alike = summary["alike"]
    assert alike["pixels, Euclidean"]["median"] < alike["phi"]["third_quartile"] < alike["random images"]["median"]
    assert "random images" in page


def test_a_stage_that_was_killed_repeats_no_search(context_of, monkeypatch):
    context = context_of()
    search, calls = neighbouring.neighbours.nearest, []

    def nearest(*given, **settings):
        calls.append(len(given[0]))
        if len(calls) == 7:
            raise KeyboardInterrupt
        return search(*given, **settings)

    monkeypatch.setattr(neighbouring.neighbours, "nearest", nearest)
    with pytest.raises(KeyboardInterrupt):
        RUN["neighbours"](context, context.outdir / "neighbours", "key")
    arrays, summary, _, _ = ran(context, "neighbours")
    searches = (2 * 3 + 3) + (4 * 3 + 3)
    assert len(calls) == searches + 1 and not (context.outdir / "neighbours_kept").exists()
    again, same, _, _ = ran(context, "neighbours")
    assert same == summary
    for name, value in arrays.items():
        np.testing.assert_array_equal(again[name], value)


@pytest.mark.parametrize(
    ("labels", "words"), [(None, "have no labels"), (np.zeros(60, np.int32), "have the same label")]
)
@pytest.mark.parametrize("stage", ["neighbours", "probe"])
def test_without_labels_that_differ_the_section_says_what_is_left_out(context_of, stage, labels, words):
    context = context_of(change=with_images(labels=labels))
    arrays, summary, section, page = ran(context, stage)
    assert words in page and not section.claims
    if stage == "neighbours":
        assert "agreement" not in summary["groups"]["all"] and "overlap_with_working" in summary["groups"]["all"]
        assert len(section.tables) == 1 and len(section.figures) == 3
    else:
        assert not section.tables and not arrays


def test_grey_images_of_another_size_have_neighbours_and_probes(context_of):
    def grey(context):
        images = context.images.images[:, :6, :6, :1]
        return context._replace(
            images=context.images._replace(images=images, fingerprint="grey"),
            denoiser=colour_denoiser(WEIGHTS[:1]),
            untrained=lambda: colour_denoiser(-WEIGHTS[:1]),
            identity="grey",
        )

    context = context_of(change=grey)
    _, summary, _, _ = ran(context, "neighbours")
    assert summary["groups"]["all"]["images"] == 60
    _, summary, _, page = ran(context, "probe")
    assert "another size" in page and summary["probes"]["phi, σ = 100/255"]["learnt"] == 30


def test_a_dead_representation_has_neighbours_by_chance(context_of):
    def dead(context):
        zero = colour_denoiser(np.zeros_like(WEIGHTS))
        return context._replace(denoiser=zero, untrained=lambda: zero, identity="dead")

    context = context_of(change=dead)
    _, summary, section, page = ran(context, "neighbours")
    assert summary["common_part"] == {"phi": None, "untrained phi": None} == summary["noise_part"]
    labels = np.arange(60) % 3
    first = [
        labels[[j for j in range(60) if j != i][:4]] for i in range(60)
    ]  # all are as near, so the first of the others
    expected = np.mean(np.stack(first) == labels[:, None])
    assert summary["groups"]["all"]["agreement"]["phi"]["100"]["value"] == pytest.approx(expected)
    assert expected == pytest.approx(1 / 3, abs=0.02)
    assert section.claims[0].holds == "no" and "phi is zero" in page
    assert "6 of the 6 channels of phi are 0 for all images" in page
    _, summary, section, page = ran(context, "probe")
    assert summary["probes"]["phi, σ = 100/255"]["constant"] == 6 and section.claims[0].holds == "no"
    assert "count for nothing" in page


@pytest.mark.parametrize("count", [0, 30, 60])
def test_more_neighbours_than_images_are_refused_in_one_line(context_of, count):
    with pytest.raises(InputError, match=f"analysis.neighbours = {count} needs .*there are 60, and 30"):
        RUN["neighbours"](context_of(False, neighbours=count), pathlib.Path("nowhere"), "key")


# linear probes


def with_five_more():
    """A probe's summary with top-5 accuracies: of phi, its controls and chance."""
    names = ["phi, σ = 100/255", "untrained phi, σ = 100/255", probe_features.COMPONENTS, "pixels averaged to 8×8"]
    names.append(probe_features.PERMUTED)

    def shares(first):
        values = np.linspace(first, first - 0.4, 5).tolist()
        return {name: {"value": v, "low": v, "high": v} for name, v in zip(names, values, strict=True)}

    return {
        "top1": shares(0.5), "top5": shares(0.9), "probes": dict.fromkeys(names), "classes": 9, "largest_class": 0.02,
        "largest_five": 0.08, "phi_is_right_more_by": {name: {"low": 0.1} for name in names},
    }  # fmt: skip


def test_the_claim_has_the_top_five_accuracy_of_every_control_beside_phis(context_of):
    claim = probing.claim(context_of(False), with_five_more())
    assert claim.here.startswith("50.00 % (50.00–50.00) (top-5 90.00 % (90.00–90.00)) right")
    for name, five in (("untrained network", 80), (probe_features.COMPONENTS, 70), ("pixels averaged to 8×8", 60)):
        assert re.search(rf"{name} [^;]*\(top-5 {five}\.00 %", claim.null)
    assert "(top-5 50.00 %" in claim.null.split(probe_features.PERMUTED)[1]
    assert claim.null.endswith("most frequent label 2.00 % (top-5 8.00 %)")


@pytest.mark.parametrize("place", [0, 3, len(probes.PENALTIES) - 1])
def test_a_penalty_at_an_end_of_the_path_is_said(place):
    probe = {"l2": probes.PENALTIES[place], "at_the_end": place != 3, "constant": 0, "unfinished": False}
    names = ("phi, σ = 100/255", probe_features.PERMUTED)
    page = " ".join(probing.probe_text({"classes": 3, "source": "", "probes": dict.fromkeys(names, probe)}))
    penalty = wording.number(probes.PENALTIES[place], None)
    assert (f"one beyond may be better, for: phi, σ = 100/255 ({penalty})." in page) == (place != 3)
    assert "21 from 1e+02 down to 1e-08" in page


def test_the_section_says_why_no_probe_sees_all_pixels_where_they_are_averaged(context_of):
    small = context_of(False)
    assert not probing.pixels_text(small)  # 8x8 pixels are not averaged
    large = small._replace(images=small.images._replace(images=np.zeros((60, 64, 64, 3), np.uint8)))
    [text] = probing.pixels_text(large)
    assert "all 12,288 intensities" in text and "averaged to 768 numbers" in text and "4,096 times" in text


def test_default_levels_that_are_not_analysed_are_left_out_and_named(capsys):
    settings = default.get_config().analysis
    assert tuple(settings.probe_sigmas) == stages.usable_settings(settings).probe_sigmas == (10, 50, 100, 220)
    assert capsys.readouterr().err == ""
    assert stages.usable_settings(stages.changed(settings, sigmas=(0.0, 50.0, 100.0))).probe_sigmas == (50, 100)
    assert "analysis.probe_sigmas: 10, 220 not among analysis.sigmas: left out" in capsys.readouterr().err


def test_a_probe_of_phi_is_that_of_scikit_learn(context_of):
    context = context_of(probe_sigmas=(50.0, 100.0))
    _, summary, section, _ = ran(context, "probe")
    training = image_set(seed=1)
    rows = np.sort(np.random.default_rng([0, probe_features.CHOSEN_IMAGES]).permutation(60)[:40])
    index = 60 + np.arange(40, dtype=np.int32)  # no noise in common with the 60 analysed images
    sigma = jnp.float32(50) / jnp.float32(255)
    key = noise.level_key(jax.random.key(0), sigma)
    clean = noise.to_unit(jnp.asarray(training.images[rows]))
    draws = [noise.add_noise(noise.image_keys(jax.random.fold_in(key, draw), index), clean, sigma) for draw in range(2)]
    phi = np.mean([context.denoiser.represent(noisy) for noisy in draws], axis=0)
    path = np.load(context.outdir / "probe_phi" / "representations_50" / "phi.npy")
    np.testing.assert_allclose(path, phi, rtol=1e-5)
    scaler = StandardScaler().fit(phi)
    probe = summary["probes"]["phi, σ = 50/255"]
    same = LogisticRegression(C=1 / (40 * probe["l2"]), max_iter=10_000).fit(
        scaler.transform(phi), training.labels[rows]
    )
    expected = same.score(scaler.transform(phi_at(context, "representations", 1)), context.images.labels)
    assert summary["top1"]["phi, σ = 50/255"]["value"] == pytest.approx(expected, abs=2 / 60)
    assert (
        probe["learnt"] == 40
        and probe["tested"] == 60
        and summary["probes"]["untrained phi, σ = 50/255"]["tested"] == 30
    )
    assert "40 training images" in summary["source"] and "top5" not in summary  # three classes
    assert section.claims[0].published is None and "labels permuted" in section.claims[0].null


def test_colours_are_read_off_phi_and_not_off_permuted_labels(context_of):
    arrays, summary, _, page = ran(context_of(), "probe")
    names = list(summary["probes"])
    assert names[-3:] == [probe_features.COMPONENTS, "pixels averaged to 8×8", probe_features.PERMUTED]
    right = {name: arrays[f"ranks/{place}"] == 1 for place, name in enumerate(names)}
    assert right["phi, σ = 100/255"].mean() > 0.95
    assert (
        right["pixels averaged to 8×8"].mean() == 1 and summary["probes"]["pixels averaged to 8×8"]["features"] == 192
    )
    assert summary["largest_class"] == pytest.approx(1 / 3)
    for name in (probe_features.COMPONENTS, probe_features.PERMUTED):
        gained = right["phi, σ = 100/255"].mean() - right[name].mean()
        difference = summary["phi_is_right_more_by"][name]
        assert difference["value"] == pytest.approx(gained) and difference["low"] <= gained <= difference["high"]
    assert "most frequent labels" in page and "iterations" not in page


def test_permuted_labels_have_nothing_to_do_with_the_images():
    labels = np.arange(3000) % 3
    features = probe_features.Features(np.zeros((3000, 1)), labels, np.zeros((1, 1)), np.zeros(1))
    permuted = probe_features.permuted(features, 0).labels
    np.testing.assert_array_equal(np.bincount(permuted), 1000)
    assert np.mean(permuted == labels) == pytest.approx(1 / 3, abs=0.03)
    split = np.random.default_rng([0, probes.SPLIT]).permutation(3000)
    assert np.mean(permuted == labels[split]) == pytest.approx(1 / 3, abs=0.03)  # nor with the split, of the same seed


def told(**changed):
    """Summary of a probe that is right in 60 % of the images, more often than all controls, but for what is changed."""
    lows = {"pixels": 0.1, "untrained": 0.1, probe_features.PERMUTED: 0.3} | changed
    largest = lows.pop("largest_class", 0.2)
    return {
        "top1": {"phi": {"low": 0.5}},
        "largest_class": largest,
        "phi_is_right_more_by": {name: {"low": low} for name, low in lows.items()},
    }


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (told(), "yes"),
        (told(pixels=-0.01), "in part"),
        (told(untrained=-0.01), "in part"),
        (told(**{probe_features.PERMUTED: -0.01}), "no"),
        (told(largest_class=0.55), "no"),
        (told(largest_class=0.55, pixels=-0.01), "no"),
    ],
)
def test_phi_tells_the_class_where_it_is_right_more_often_than_chance_and_than_every_control(summary, expected):
    assert report.verdict(probing.told(summary, "phi", ("pixels", "untrained"))) == expected


def test_a_probe_that_was_stopped_too_soon_is_named(context_of, monkeypatch):
    monkeypatch.setattr(probes, "MAX_ITERATIONS", 10)  # the fits go on: those that took as many count as stopped
    monkeypatch.setattr(probes, "TOLERANCE", 0.0)
    _, summary, _, page = ran(context_of(), "probe")
    late = [name for name, probe in summary["probes"].items() if probe["iterations"] >= 10]
    assert 0 < len(late) < len(summary["probes"])
    assert (
        f"stopped at 10 iterations, or left the finite numbers, before it found its solution for: {'; '.join(late)}."
        in page
    )


@pytest.mark.parametrize(
    ("training", "words"),
    [
        (lambda: image_set(seed=1)._replace(class_names=("a", "b", "c")), "have other classes"),
        (lambda: image_set(seed=1)._replace(labels=np.zeros(60, np.int32)), "have other classes"),
        (lambda: image_set(seed=1)._replace(labels=None), "have no labels"),
        (lambda: storage.read_json("/nowhere"), "are not at hand"),
    ],
)
def test_where_training_images_cannot_teach_the_analysed_ones_are_halved(context_of, training, words):
    context = context_of(training_images=training)
    arrays, summary, section, page = ran(context, "probe")
    assert words in page and not (context.outdir / "probe_phi").exists()
    learnt, tested = summary["probes"]["phi, σ = 100/255"]["learnt"], arrays["rows/0"]
    assert learnt == 30 and len(tested) == 30 == summary["probes"][probe_features.COMPONENTS]["tested"]
    number = list(summary["probes"]).index("untrained phi, σ = 100/255")
    few = summary["probes"]["phi of as few images, σ = 100/255"]
    assert few["learnt"] == summary["probes"]["untrained phi, σ = 100/255"]["learnt"] < 30
    assert few["learnt"] + few["tested"] == 30 and set(arrays[f"rows/{number}"]) < set(context.untrained_subset)
    names = ["untrained phi, σ = 100/255", "phi of as few images, σ = 100/255"]
    right = [arrays[f"ranks/{list(summary['probes']).index(name)}"] == 1 for name in names]
    rows = [arrays[f"rows/{list(summary['probes']).index(name)}"] for name in names]
    np.testing.assert_array_equal(*rows)
    more = summary["phi_is_right_more_by"][names[0]]["value"]  # than the untrained network, learnt from as many images
    assert more == pytest.approx(right[1].mean() - right[0].mean())
    few = f"where the trained one with as few to learn from has {wording.share_text(summary['top1'][names[1]])}"
    assert few in section.claims[0].null and "for the untrained network, that of phi of as few images" in page


def test_a_probe_stage_that_was_killed_goes_on_where_it_was(context_of, monkeypatch):
    context = context_of()
    learn, calls = probes.probe, []

    def probe(*given, **settings):
        calls.append(len(given[0]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return learn(*given, **settings)

    monkeypatch.setattr(probing.probes, "probe", probe)
    with pytest.raises(KeyboardInterrupt):
        RUN["probe"](context, context.outdir / "probe", "key")
    ran(context, "probe")
    assert len(calls) == 5 + 1


def test_a_noise_level_of_no_sweep_is_refused(context_of):
    with pytest.raises(InputError, match="probe_sigmas has 70, which is not one of "):
        RUN["probe"](context_of(False, probe_sigmas=(50.0, 70.0)), pathlib.Path("nowhere"), "key")


def test_too_few_images_to_learn_from_are_said(context_of):
    assert "only 8 images" in ran(context_of(False, probe_images=8), "probe")[3]
