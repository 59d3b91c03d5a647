"""What emerges when: numbers at a milestone are those of the other stages; each is measured once; runs beside each other."""

import json

import jax
import numpy as np
import pytest
from test_stages import WEIGHTS, colour_denoiser, make_context  # noqa: F401 (a fixture)

import analyze
import configs
from unetrep_jax import checkpoints, clusters, denoiser, measures, models, neighbours, representation, stages
from unetrep_jax.stages import emerging
from unetrep_jax.stages.context import Milestone
from unetrep_jax.storage import InputError

RUN = "photographs"


def course(*weights, opened=None):
    """Milestones after 0, 100, 200, ... images of a denoiser with these weights."""

    def opening(number):
        def opens():
            if opened is not None:
                opened.append(number)
            return colour_denoiser(weights[number])

        return opens

    return tuple(Milestone(100 * k, f"{w.sum()}", opening(k)) for k, w in enumerate(weights))


def summary_of(context):
    return json.loads((context.outdir / "emergence" / "summary.json").read_text())


def test_a_milestones_numbers_are_those_of_the_other_stages(make_context):  # noqa: F811
    context = make_context()._replace(courses={RUN: course(-WEIGHTS, WEIGHTS)})
    stages.run_stages(context, ["emergence", "sparsity", "denoising"], [])
    row = summary_of(context)["runs"][RUN][1]
    read = {
        name: json.loads((context.outdir / name / "summary.json").read_text()) for name in ("sparsity", "denoising")
    }
    for block, quartiles in read["sparsity"]["trained"].items():
        assert row["participation_ratio"][block] == pytest.approx(quartiles, rel=1e-4)
    levels = read["denoising"]["sigma_times_255"]
    expected = [read["denoising"]["psnr_db"]["network"][levels.index(sigma)] for sigma in (10, 25, 50, 100)]
    assert row["psnr_db"] == pytest.approx(expected, rel=1e-4)
    averages = np.load(context.outdir / "representations" / "mean.npy")
    phi = representation.layout(context.denoiser, (8, 8, 3)).of(averages, "mid")
    centred = phi - phi.mean(0)
    assert row["stability"]["mid"]["value"] == pytest.approx(
        measures.cosine(centred[:, 1], centred[:, 2]).mean(), abs=1e-4
    )
    labels = context.images.labels
    found = neighbours.nearest(centred[:, 2], centred[:, 2], 4, exclude_self=True)
    assert row["agreement"]["value"] == pytest.approx(neighbours.agreement(found.index, labels, labels).mean())
    whole = clusters.kmeans(phi[:, 2], 3, seed=0, runs=2)
    assert row["ami"] == pytest.approx(clusters.agreement(whole.assignment, labels))
    assert row["silent_channels"] == pytest.approx((phi[:, 2].max(0) <= 0).mean())


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
    context = make_context(emergence_images=10)._replace(courses={RUN: course(WEIGHTS)})
    with pytest.raises(InputError, match=r"10 images are too few for analysis\.emergence_clusters = 3"):
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
    ((name, milestones),) = analyze.courses([folder], config).items()
    assert name == "small" and [each.images for each in milestones] == [0, 16, 32]
    assert len({each.identity for each in milestones}) == 3
    images = np.random.default_rng(0).random((1, 8, 8, 3), np.float32)
    phi = [np.asarray(each.open().represent(images)) for each in milestones]
    model = models.build(**config.model, image_channels=3)
    for found, seed in zip(phi, (config.seed, 2, 4), strict=True):  # not the averages, which are of seed 5
        expected = denoiser.bind(model, models.init_params(model, jax.random.key(seed))).represent(images)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_a_run_without_milestones_has_no_course_and_cannot_stand_beside_another(small_run, tmp_path):
    folder, config = small_run
    assert analyze.courses([tmp_path], config) == {}
    with pytest.raises(InputError, match=r"--beside .*: it kept no checkpoints along its training"):
        analyze.courses([folder, tmp_path], config)


def test_runs_on_other_images_or_of_the_same_name_are_refused(small_run):
    folder, config = small_run
    with pytest.raises(InputError, match="another run is called small too"):
        analyze.courses([folder, folder], config)
    config.data.image_size = 32
    with pytest.raises(InputError, match=r"data\.image_size = 64, the run analysed 32"):
        analyze.courses([folder], config)
    config.data.image_size = 64
