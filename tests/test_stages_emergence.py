"""What emerges when: numbers at a milestone are those of the other stages; each is measured once; runs beside each other."""

import json
import shutil

import jax
import numpy as np
import pytest
from test_stages import WEIGHTS, colour_denoiser, make_context  # noqa: F401 (a fixture)

import analyze
import configs
from unetrep_jax import checkpoints, clusters, denoiser, models, neighbours, representation, stages
from unetrep_jax.denoiser import Middle
from unetrep_jax.stages import emerging
from unetrep_jax.stages.context import Milestone
from unetrep_jax.storage import InputError

RUN = "photographs"


APART = Middle(lambda y: y.mean((1, 2), keepdims=True), lambda y, given: y / 2 + 0.1 * given)


def course(*weights, opened=None):
    """Milestones after 0, 100, 200, ... images of a denoiser with these weights."""

    def opening(number):
        def opens():
            if opened is not None:
                opened.append(number)
            return colour_denoiser(weights[number])._replace(middle=APART)

        return opens

    return tuple(Milestone(100 * k, f"{w.sum()}", opening(k)) for k, w in enumerate(weights))


def summary_of(context):
    return json.loads((context.outdir / "emergence" / "summary.json").read_text())


def test_a_milestones_numbers_are_those_of_the_other_stages(make_context):  # noqa: F811
    context = make_context()._replace(courses={RUN: course(-WEIGHTS, WEIGHTS)})
    context = context._replace(denoiser=context.denoiser._replace(middle=APART))
    stages.run_stages(context, ["emergence", "sparsity", "denoising", "robustness"], [])
    row = summary_of(context)["runs"][RUN][1]
    read = {
        name: json.loads((context.outdir / name / "summary.json").read_text()) for name in ("sparsity", "denoising")
    }
    for block, quartiles in read["sparsity"]["trained"].items():
        assert row["participation_ratio"][block] == pytest.approx(quartiles, rel=1e-4)
    levels = read["denoising"]["sigma_times_255"]
    expected = [read["denoising"]["psnr_db"]["network"][levels.index(sigma)] for sigma in (10, 25, 50, 100)]
    assert row["psnr_db"][:4] == pytest.approx(expected, rel=1e-4)
    assert row["middle_gives_db"][:4] == pytest.approx(read["denoising"]["middle_block"]["gives_db"]["value"], abs=1e-4)
    averages = np.load(context.outdir / "representations" / "mean.npy")
    phi = representation.layout(context.denoiser, (8, 8, 3)).of(averages, "mid")
    centred = phi - phi.mean(0)
    of_trained = json.loads((context.outdir / "robustness" / "summary.json").read_text())["trained"]
    expected = of_trained["blocks"]["mid"]["centred_direction"]["value"]
    assert row["stability"]["mid"]["value"] == pytest.approx(expected, abs=1e-5)
    fit, held = clusters.halves(60, 0)
    for name, rows in (("separation", phi[:, 2]), ("separation_of_gaussian", clusters.gaussian_null(phi[:, 2], 0))):
        centroids = clusters.kmeans(rows[fit], 3, seed=0, runs=2).centroids
        apart = clusters.held_out_separation(rows[held], clusters.nearest_centroid(rows[held], centroids), centroids).ratio
        assert row[name]["median"] == pytest.approx(np.median(apart[np.isfinite(apart)]), rel=1e-5)
    assert row["separation"]["median"] > 2 * row["separation_of_gaussian"]["median"]
    labels = context.images.labels
    found = neighbours.nearest(centred[:, 2], centred[:, 2], 4, exclude_self=True)
    assert row["agreement"]["value"] == pytest.approx(neighbours.agreement(found.index, labels, labels).mean())
    whole = clusters.kmeans(phi[:, 2], 3, seed=0, runs=2)
    assert row["ami"] == pytest.approx(clusters.agreement(whole.assignment, labels))
    assert row["silent_channels"] == pytest.approx((phi[:, 2].max(0) <= 0).mean())


def test_a_silent_network_has_no_ratio_and_its_dashes_are_printed(make_context):  # noqa: F811
    context = make_context()._replace(courses={RUN: course(0 * WEIGHTS, WEIGHTS)})
    stages.run_stages(context, ["emergence"], [])
    silent, speaking = summary_of(context)["runs"][RUN]
    assert silent["silent_channels"] == 1 and speaking["silent_channels"] < 1
    assert silent["participation_ratio"]["mid"]["median"] is None
    assert "nan" not in stages.write_report(context).read_text().lower().split("base64")[0]


def test_a_level_beside_itself_has_no_stability(make_context):  # noqa: F811
    context = make_context(sigma=50.0)._replace(courses={RUN: course(WEIGHTS)})
    stages.run_stages(context, ["emergence"], [])
    assert summary_of(context)["runs"][RUN][0]["stability"]["mid"]["value"] is None


def test_a_milestone_is_measured_once_whatever_others_there_are(make_context):  # noqa: F811
    opened = []
    for count in (1, 3, 2):
        weights = (-WEIGHTS, WEIGHTS, 2 * WEIGHTS)[:count]
        context = make_context()._replace(courses={RUN: course(*weights, opened=opened)})
        stages.run_stages(context, ["emergence"], [])
        assert [row["images"] for row in summary_of(context)["runs"][RUN]] == [0, 100, 200][:count]
    assert opened == [0, 1, 2]
    stages.run_stages(make_context(draws=1)._replace(courses={RUN: course(-WEIGHTS, opened=opened)}), ["emergence"], [])
    assert opened == [0, 1, 2, 0]


def test_runs_stand_beside_each_other_each_with_its_own_milestones(make_context):  # noqa: F811
    context = make_context()._replace(courses={RUN: course(-WEIGHTS, WEIGHTS), "narrow": course(*[WEIGHTS[:, :3]] * 3)})
    stages.run_stages(context, ["emergence"], [])
    section = stages.running.emergence_section.section_emergence(context, {}, summary_of(context))
    assert [picture.path.stem for picture in section.figures] == ["emergence", "emergence_of_runs"]
    assert [len(table.rows) for table in section.tables] == [2, 3]
    assert all(len(row) == len(table.header) for table in section.tables for row in table.rows)
    assert section.tables[0].rows[1][0] == "100"


def test_images_without_labels_have_no_columns_for_them(make_context):  # noqa: F811
    context = make_context()
    context = context._replace(
        courses={RUN: course(WEIGHTS)}, images=context.images._replace(labels=None, fingerprint="none")
    )
    stages.run_stages(context, ["emergence"], [])
    assert "ami" not in summary_of(context)["runs"][RUN][0]
    page = stages.write_report(context).read_text()
    assert "What emerges when" in page and "AMI with labels" not in page


def test_without_milestones_the_section_says_how_to_keep_them(make_context):  # noqa: F811
    context = make_context()
    assert not stages.run_stages(context, ["emergence"], [])
    assert "checkpoint.milestones" in stages.write_report(context).read_text()


def test_too_few_images_are_refused_with_the_numbers(make_context):  # noqa: F811
    context = make_context(emergence_images=7)._replace(courses={RUN: course(WEIGHTS)})
    with pytest.raises(InputError, match=r"7 images are too few for 2 clusters of 4 and 4 neighbours"):
        emerging.run_emergence(context, context.outdir / "emergence", "key")


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """(folder of a run with milestones, its configuration)."""
    config = configs.from_plain({})
    config.model.channels, config.model.mid_depth, config.model.decoder_depth = (2, 4), 1, 1
    config.train.batch_size = 8
    folder = tmp_path_factory.mktemp("runs") / "small"
    model = models.build(**config.model, image_channels=3)
    for step in (4, 2):
        params, averaged = (models.init_params(model, jax.random.key(seed)) for seed in (step, 5))
        checkpoints.keep_parameters(
            folder / "milestones", step, params=params, averaged=averaged, config=configs.plain(config)
        )
    return folder, config


def test_a_runs_course_begins_before_its_training_and_goes_on_in_order(small_run):
    folder, config = small_run
    ((name, milestones),) = analyze.courses(folder, [], config).items()
    assert name == "small (2 to 4 channels, inv_sqrt, 64x64)" and [each.images for each in milestones] == [0, 16, 32]
    assert len({each.identity for each in milestones}) == 3
    images = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    phi = [np.asarray(each.open().represent(images)) for each in milestones]
    model = models.build(**config.model, image_channels=3)
    for found, seed in zip(phi, (config.seed, 5, 5), strict=True):  # the averages
        expected = denoiser.bind(model, models.init_params(model, jax.random.key(seed))).represent(images)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_run_without_milestones_has_no_course_and_cannot_stand_beside_another(small_run, tmp_path):
    folder, config = small_run
    assert analyze.courses(tmp_path, [], config) == {}
    with pytest.raises(InputError, match=r"is no run that kept checkpoints along its training"):
        analyze.courses(folder, [tmp_path], config)


def test_runs_that_cannot_stand_beside_each_other_are_refused(small_run, tmp_path):
    folder, config = small_run
    with pytest.raises(InputError, match=r"is the run that is analysed"):
        analyze.courses(folder, [folder / ".." / "small"], config)
    copy = shutil.copytree(folder, tmp_path / "small")
    with pytest.raises(InputError, match=r"another run is called 'small \(2 to 4 channels, inv_sqrt, 64x64\)' too"):
        analyze.courses(folder, [copy], config)
    config.data.image_channels = 1
    with pytest.raises(InputError, match=r"takes images of 3 channels .* those analysed have 1 and 64"):
        analyze.courses(tmp_path, [folder], config)
    config.data.image_channels = 3


@pytest.mark.parametrize("file", ["config/metadata", "manifest.json"])
def test_a_damaged_milestone_is_named_and_left_out(small_run, tmp_path, capsys, file):
    folder, config = small_run
    copy = shutil.copytree(folder, tmp_path / "copy")
    [(_, whole)] = analyze.courses(copy, [], config).items()
    if file == "manifest.json":
        (copy / "milestones" / "4" / file).unlink()
    else:
        (copy / "milestones" / "4" / file).write_text("{")
    [(_, left)] = analyze.courses(copy, [], config).items()
    assert len(left) == len(whole) - 1
    [line] = capsys.readouterr().err.splitlines()
    assert "milestones/4 is damaged" in line and "left out" in line


def goes_on(start, run, config, crop=0):
    """Milestones of steps 2 and 4 of a run that began with a checkpoint."""
    params = checkpoints.open_checkpoint(start).params
    config = config.copy_and_resolve_references()
    config.train.start_from, config.train.crop, config.train.batch_size = str(start), crop, 4
    for step in (2, 4):
        checkpoints.keep_parameters(run / "milestones", step, params=params, config=configs.plain(config))


def test_a_run_that_goes_on_from_anothers_end_is_joined_to_it(small_run, tmp_path):
    folder, config = small_run
    shutil.copytree(folder, tmp_path / "1")
    goes_on(tmp_path / "1" / "milestones" / "4", tmp_path / "2", config)
    goes_on(tmp_path / "2" / "milestones" / "4", tmp_path / "3", config, crop=32)
    ((name, milestones),) = analyze.courses(tmp_path / "3", [], config).items()
    assert name == "1 + 2 + 3 (2 to 4 channels, inv_sqrt, 64x64, then 32x32)"
    assert [each.images for each in milestones] == [0, 16, 32, 40, 48, 56, 64]
    shutil.rmtree(tmp_path / "1" / "milestones" / "4")  # where it ended, or how far it went, is no longer known
    ((name, milestones),) = analyze.courses(tmp_path / "3", [], config).items()
    assert name.startswith("2 + 3, from another's end on") and [each.images for each in milestones] == [8, 16, 24, 32]


def test_a_run_from_the_middle_of_another_is_not_joined_to_its_end(small_run, tmp_path):
    folder, config = small_run
    goes_on(folder / "milestones" / "2", tmp_path / "2", config)
    ((name, milestones),) = analyze.courses(tmp_path / "2", [], config).items()
    assert name.startswith("2, from another's end on") and [each.images for each in milestones] == [8, 16]


def test_a_run_from_anothers_end_has_no_beginning(small_run, tmp_path):
    folder, config = small_run
    config.train.start_from = "runs/x"
    params = checkpoints.open_checkpoint(folder / "milestones" / "4").params
    checkpoints.keep_parameters(tmp_path / "on" / "milestones", 4, params=params, config=configs.plain(config))
    config.train.start_from = ""
    ((name, milestones),) = analyze.courses(tmp_path / "on", [], config).items()
    assert name == "on, from another's end on (2 to 4 channels, inv_sqrt, 64x64)" and [each.images for each in milestones] == [32]
