"""The stages on a denoiser whose activations are known: what is saved is what the formulas give, and caching is exact."""

import importlib
import inspect
import json
import re
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import default
from unetrep_jax import clusters, measures, noise, representation, stages
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser, Middle
from unetrep_jax.stages.context import arrays_in
from unetrep_jax.storage import InputError

SETTINGS = {
    "sigmas": (0.0, 50.0, 100.0), "sigma": 100.0, "draws": 2, "batch_size": 16, "clusters": (3, 5), "cluster_seeds": 2,
    "cluster_runs": 2, "seed": 0, "first_images": 10, "spectrum_images": 50, "untrained_images": 30, "images": 0,
    "samples": 6, "copy_images": 0, "sample_sigma_0": 1.0, "sample_sigma_end": 0.1, "sample_h0": 0.3, "sample_beta": 0.5,
    "sample_step_size": "fixed", "sample_max_steps": 200, "targets": 3, "samples_per_target": 2, "control_targets": 0,
    "published_targets": 0, "schedule_levels": 3, "schedule_sigma_0": 1.0, "schedule_sigma_end": 0.1, "target_draws": 2,
    "matching_steps": 4, "matching_epsilon": 1e-20, "adaptive_sigma_end": 0.1, "adaptive_h0": 0.3, "adaptive_beta": 0.5,
    "adaptive_max_steps": 10, "reconstruction_batch": 2, "cluster_members": 5, "robustness_sigma": 50.0,
    "selectivity_simulations": 20, "top_images_per_channel": 4, "top_images_channels": 2, "top_images_common": 1,
    "top_images_targets": 1, "neighbours": 4, "neighbour_targets": 2, "probe_sigmas": (100.0,), "probe_images": 40,
    "embedding_pairs": 4, "embedding_reconstructed_pairs": 3, "embedding_samples": 1, "embedding_draws": 1, "embedding_levels": 2,
    "embedding_sigma_end": 0.1, "embedding_updates": 2, "location_images": 4, "location_composites": 30,
    "emergence_images": 0, "emergence_clusters": 3, "memory_images": 40,
    "figure_formats": ("png",),
}  # fmt: skip
WEIGHTS = np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)


def colour_denoiser(weights):
    """Halves the image; every block is a rectified mixture of the colours."""

    def activations(y):
        layers = {f"{name}.0": jax.nn.relu(y @ weights) for name in ("encoder0", "encoder1", "mid", "decoder1")}
        return layers | {"decoder0.0": y}

    names = ("encoder0", "encoder1", "mid", "decoder1", "decoder0")
    return Denoiser(lambda y: y / 2, activations, lambda y: activations(y)["mid.0"].mean((1, 2)), names)


def image_set(count=60, seed=0):
    """Plain images of three colours, which are the labels."""
    generator = np.random.default_rng(seed)
    labels = (np.arange(count) % 3).astype(np.int32)
    colours = np.array([[200, 40, 40], [40, 200, 40], [40, 40, 200]])[labels]
    images = np.clip(colours[:, None, None] + generator.integers(-30, 30, (count, 8, 8, 3)), 0, 255).astype(np.uint8)
    return ImageSet(images, labels, ("red", "green", "blue"), {"source": "npy", "split": "validation"}, f"set {seed}")


@pytest.fixture
def make_context(tmp_path):
    def make(training_images=lambda: image_set(seed=1), **settings):
        return stages.Context(
            denoiser=colour_denoiser(WEIGHTS),
            untrained=lambda: colour_denoiser(-WEIGHTS),
            images=image_set(),
            training_images=training_images,
            settings=SimpleNamespace(**SETTINGS | settings),
            identity="checkpoint",
            facts={"images": "60 images"},
            training_log=tmp_path / "none.jsonl",
            outdir=tmp_path,
        )

    return make


def summary_of(tmp_path, stage):
    return json.loads((tmp_path / stage / "summary.json").read_text())


def test_psnr_is_that_of_the_denoiser_and_the_noise(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["denoising"], [])
    with np.load(tmp_path / "denoising" / "arrays.npz") as arrays:
        column = int(np.argmin(abs(arrays["sigmas"] - 50 / 255)))
        clean = noise.to_unit(jnp.asarray(context.images.images))
        keys = noise.image_keys(
            noise.level_key(jax.random.key(0), jnp.asarray(arrays["sigmas"][column])), jnp.arange(60)
        )
        noisy = noise.add_noise(keys, clean, float(arrays["sigmas"][column]))
        np.testing.assert_allclose(arrays["psnr/network"][:, column], noise.psnr(noisy / 2, clean), rtol=1e-4)
        np.testing.assert_allclose(arrays["psnr/noisy"][:, column], noise.psnr(noisy, clean), rtol=1e-4)
        wiener = arrays["psnr/Wiener"][:, column].mean()
        assert wiener > arrays["psnr/Wiener, channels apart"][:, column].mean() > arrays["psnr/noisy"][:, column].mean()
    summary = summary_of(tmp_path, "denoising")
    assert summary["images"] == 60 and summary["first_images"] == 10 and summary["spectrum_images"] == 50
    assert summary["training_images"]["images"] == 40
    assert "Does it remember its training images?" in stages.write_report(context).read_text()


@pytest.mark.parametrize(("without", "verdict"), [(0.5, "no"), (0.25, "yes")])
def test_what_the_middle_block_gives_is_the_psnr_that_is_lost_without_it(make_context, tmp_path, without, verdict):
    apart = Middle(lambda y: y.mean((1, 2), keepdims=True), lambda y, given: without * y)
    context = make_context()
    context = context._replace(denoiser=context.denoiser._replace(middle=apart))
    stages.run_stages(context, ["denoising"], [])
    gives = summary_of(tmp_path, "denoising")["middle_block"]["gives_db"]
    with np.load(tmp_path / "denoising" / "arrays.npz") as arrays:
        columns = [int(np.argmin(abs(arrays["sigmas"] - sigma / 255))) for sigma in (10, 25, 50, 100)]
        lost = (arrays["psnr/network"][:, columns] - arrays["held"]).mean(0)
    np.testing.assert_allclose(gives["value"], lost, atol=1e-5)
    assert (lost > 1).all() if verdict == "yes" else (lost == 0).all()
    page = stages.write_report(context).read_text()
    assert "network, its middle block held" in page
    claims = json.loads((tmp_path / "summary.json").read_text())["claims"]
    assert [claim["holds"] for claim in claims if "middle block says" in claim["claim"]] == [verdict]


def test_a_denoiser_that_knows_an_image_by_heart_is_told_from_one_that_does_not(make_context, tmp_path):
    """Both are halfway from the noisy image to some training image: the nearest one, or one of other images."""
    analysed, learnt, others = image_set(), image_set(seed=1), image_set(seed=2)

    def more(known, name):
        clean = noise.to_unit(jnp.asarray(known.images))

        def denoise(y):
            distances = jnp.square(y[:, None] - clean[None]).sum((2, 3, 4))
            return (y + clean[distances.argmin(1)]) / 2

        context = make_context(training_images=lambda: learnt, memory_images=60)
        context = context._replace(images=analysed, identity=name, denoiser=context.denoiser._replace(denoise=denoise))
        stages.run_stages(context, ["denoising"], [])
        at_levels = summary_of(tmp_path, "denoising")["training_images"]["more_db"]
        return {key: values[0] for key, values in at_levels.items()}  # at 10/255

    by_heart, otherwise = more(learnt, "by heart"), more(others, "otherwise")
    assert by_heart["low"] > 1
    assert otherwise["low"] < 0 < otherwise["high"]


def test_only_samples_of_one_source_tell_memory_from_other_differences():
    tfds = {"source": "tfds", "from": "tiny_imagenet/1.0.0"}
    assert stages.running.denoising.same_source(tfds | {"split": "train"}, tfds | {"split": "validation"})
    for other in ({"source": "tfds", "from": "other"}, {"source": "folder", "from": tfds["from"]}, {}):
        assert not stages.running.denoising.same_source(tfds, other)
    crops = {"source": "photographs", "from": ["scikit-image"]}
    assert not stages.running.denoising.same_source(crops, crops)


def test_without_training_images_there_is_no_wiener_filter_and_the_report_says_so(make_context, tmp_path):
    def missing():
        raise InputError("not here")

    context = make_context(training_images=missing)
    stages.run_stages(context, ["denoising"], [])
    assert summary_of(tmp_path, "denoising")["psnr_db"].keys() == {"network", "noisy"}
    assert "training images are not at hand" in stages.write_report(context).read_text()


def test_ratios_and_their_quartiles_are_those_of_the_saved_averages(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["sparsity"], [])
    averages = np.load(tmp_path / "representations" / "mean.npy")
    columns = representation.layout(context.denoiser, (8, 8, 3))
    with np.load(tmp_path / "sparsity" / "arrays.npz") as arrays:
        assert arrays["trained"].shape == (60, 3, 4) and arrays["untrained"].shape == (30, 3, 4)
        middle = arrays["trained"][:, :, list(columns.columns).index("mid")]
    expected = np.abs(columns.of(averages, "mid")).sum(-1) ** 2 / (6 * (columns.of(averages, "mid") ** 2).sum(-1))
    np.testing.assert_allclose(middle, expected, rtol=1e-5)
    summary = summary_of(tmp_path, "sparsity")
    assert summary["trained"]["mid"]["median"] == pytest.approx(np.median(expected[:, 2]), rel=1e-5)
    effective = summary["effective_channels_of_phi"]
    assert effective["trained"] == pytest.approx(6 * np.median(expected[:, 2]), rel=1e-5)
    assert effective["untrained"] == pytest.approx(6 * summary["untrained"]["mid"]["median"])


def test_clusters_find_the_colours_and_numbers_agree_with_the_measures(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["clusters"], [])
    summary = summary_of(tmp_path, "clusters")
    assert summary["by_clusters"]["3"]["labels"]["ami"] == pytest.approx(1)
    assert summary["by_clusters"]["3"]["agreement_of_seeds_ami"] == pytest.approx(1)
    assert summary["controls"]["pixels"]["labels"]["ami"] == pytest.approx(1)
    assert summary["by_clusters"]["3"]["gaussian_null"]["count"] == 3
    assert summary["classes"]["begun_at_class_means"]["labels"]["ami"] == pytest.approx(1)
    assert [row["images"] for row in summary["controls"].values()] == [30, 30, 60, 60]
    averages = np.load(tmp_path / "representations" / "mean.npy")[:, 2]
    phi = representation.layout(context.denoiser, (8, 8, 3)).of(averages, "mid")
    classes = clusters.separation_of_clusters(phi, context.images.labels).ratio
    assert summary["classes"]["separation"]["median"] == pytest.approx(measures.quartiles(classes)[1], rel=1e-4)
    page = stages.write_report(context).read_text()
    assert "Clusters" in page
    assert json.loads((tmp_path / "summary.json").read_text())["clusters"] == summary


def test_only_what_depends_on_a_changed_setting_runs_again(make_context, capsys):
    stages.run_stages(make_context(), ["sparsity"], [])
    capsys.readouterr()
    stages.run_stages(make_context(), ["sparsity"], [])
    assert capsys.readouterr().out.count("unchanged") == 3
    stages.run_stages(make_context(sigma=50.0), ["sparsity"], [])
    out = capsys.readouterr().out
    assert "representations: unchanged" in out and "sparsity: done" in out
    stages.run_stages(make_context(), ["sparsity"], ["untrained"])
    out = capsys.readouterr().out
    assert "representations: unchanged" in out and "untrained: done" in out


def test_grey_unlabelled_images_are_analysed_too(make_context, tmp_path):
    context = make_context()
    grey = context.images._replace(images=context.images.images[..., :1], labels=None, fingerprint="grey")
    context = context._replace(
        images=grey, denoiser=colour_denoiser(WEIGHTS[:1]), untrained=lambda: colour_denoiser(-WEIGHTS[:1])
    )
    stages.run_stages(context, ["denoising", "clusters", "neighbours", "probe"], [])
    stages.write_report(context)
    assert summary_of(tmp_path, "clusters")["by_clusters"]["3"]["labels"] is None


def test_a_section_names_its_settings_and_those_of_the_stages_that_it_needs_each_once(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["robustness"], [])
    page = stages.write_report(context).read_text()
    named = ("sigma", "robustness_sigma", "seed", "sigmas", "draws", "untrained_images")  # its own first
    values = ", ".join(f"{name} = {getattr(context.settings, name)}" for name in named)
    assert f"Settings: <code>{values}</code>." in page
    assert stages.running.settings_of("top_images")[-5:] == (
        "sigmas", "draws", "untrained_images", "robustness_sigma", "selectivity_simulations",
    )  # fmt: skip


def test_every_setting_that_a_stage_reads_is_part_of_its_key():
    def closure(name):
        stage = stages.STAGES[name]
        return set(stage.settings).union(*(closure(other) for other in (*stage.needs, *stage.uses)))

    by_module = {}
    for name, stage in stages.STAGES.items():
        for part in filter(None, (stage.run, stage.section)):
            by_module.setdefault(part.__module__, set()).update(closure(name))
    assert len(by_module) > 10
    for module, known in by_module.items():
        source = inspect.getsource(importlib.import_module(module))
        used = set(re.findall(r"\bsettings\.([a-z][a-z_0-9]*)", source)) - {"batch_size", "reconstruction_batch"}
        assert used - {"pop"} <= known, module


def test_a_stage_that_cannot_be_made_costs_no_other_and_the_report_says_why(make_context, tmp_path):
    context = make_context(top_images_per_channel=1000)
    left_out = stages.run_stages(context, ["top_images", "sparsity"], [])
    assert list(left_out) == ["top_images"]
    assert left_out["top_images"].startswith("analysis.top_images_per_channel = 1000")
    assert {"sparsity", "selectivity"} <= {path.name for path in tmp_path.iterdir()}
    page = stages.write_report(context, left_out).read_text()
    assert "Sparsity" in page and "analysis.top_images_per_channel = 1000" in page
    assert json.loads((tmp_path / "summary.json").read_text())["left_out"] == left_out


def test_sections_are_drawn_once_and_anew_when_a_figure_is_gone_or_the_code_changes(
    make_context, tmp_path, monkeypatch
):
    context = make_context(figure_formats=("png", "pdf"))
    stages.run_stages(context, ["sparsity"], [])
    page = stages.write_report(context).read_text()
    drawn = tmp_path / "figures" / "participation_ratio.png"
    times = [drawn.stat().st_mtime_ns]
    for change in ("nothing", "figure", "code"):
        if change == "figure":
            drawn.with_suffix(".pdf").unlink()
        if change == "code":
            monkeypatch.setattr(stages.reporting, "drawing_code", lambda: "other")
        assert stages.write_report(context).read_text() == page
        times.append(drawn.stat().st_mtime_ns)
    assert times[0] == times[1] < times[2] < times[3]
    claims = json.loads((tmp_path / "summary.json").read_text())["claims"]
    assert {claim["section"] for claim in claims} == {"sparsity"} and claims[0].keys() >= {"here", "null", "holds"}


def test_damaged_figures_and_words_of_the_report_are_made_again(make_context):
    context = make_context()
    stages.run_and_report(context, ["denoising"], [])
    page = (context.outdir / "report.html").read_bytes()
    for file in ("figures/psnr.png", "denoising/section.json"):
        content = (context.outdir / file).read_bytes()
        (context.outdir / file).write_bytes(content.replace(content[-40:-30], b"0123456789"))
        stages.run_and_report(context, ["denoising"], [])
        assert (context.outdir / file).read_bytes() == content
        assert (context.outdir / "report.html").read_bytes() == page


def test_folders_that_a_killed_analysis_had_replaced_go_with_the_next(make_context):
    context = make_context()
    (context.outdir / ".denoising.old").mkdir(parents=True)
    stages.run_and_report(context, ["denoising"], [])
    assert not (context.outdir / ".denoising.old").exists()


def test_arrays_of_a_folder_come_in_the_order_of_their_names_however_it_is_listed(tmp_path, monkeypatch):
    for name in ("b", "a", "c"):
        np.save(tmp_path / f"{name}.npy", np.arange(3))
    for order in ("abc", "cab"):
        monkeypatch.setattr(Path, "glob", lambda folder, _, order=order: iter([folder / f"{name}.npy" for name in order]))
        assert list(arrays_in(tmp_path)) == ["a", "b", "c"]


def test_a_stage_whose_arrays_are_damaged_is_made_again_and_named(make_context, capsys):
    context = make_context()
    stages.run_and_report(context, ["denoising"], [])
    arrays = context.outdir / "denoising" / "arrays.npz"
    content = arrays.read_bytes()
    arrays.write_bytes(content[: len(content) // 2])
    stages.run_and_report(context, ["denoising"], [])
    told = capsys.readouterr()
    assert "denoising: done" in told.out and "arrays.npz changed since it was written" in told.err
    assert np.load(arrays).files


@pytest.mark.parametrize("line", [b'{"step": 1, "im', b"\xff\xfe", b"3", b"null", b'{"step": 1, "images": 2, "psnr": 3}'])
def test_damaged_lines_of_the_training_log_are_left_out_and_counted(make_context, tmp_path, capsys, line):
    whole = b'{"step": 1, "images": 8, "loss": 2.5}\n{"step": 1, "images": 8, "sigma": [0.1, 0.5], "psnr": [20.0, 15.0]}\n'
    (tmp_path / "metrics.jsonl").write_bytes(whole + line + b"\n")
    context = make_context()._replace(training_log=tmp_path / "metrics.jsonl")
    stages.run_and_report(context, ["denoising"], [])
    assert "1 damaged lines are left out" in capsys.readouterr().err
    assert "Training loss" in (context.outdir / "report.html").read_text()


def test_a_report_shows_no_curves_of_a_training_log_that_is_damaged(make_context, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "images": 8, "loss": 2.5}\n{"step": 1, "images": 8, "sigma": [0.1], "psnr": [20.0]}\n'
    )
    context = make_context()._replace(training_log=tmp_path / "metrics.jsonl")
    stages.write_report(context)
    assert "Training loss" in (context.outdir / "report.html").read_text()
    stages.write_report(context._replace(log_damage=lambda: "metrics.jsonl is damaged: so and so"))
    assert capsys.readouterr().err == "metrics.jsonl is damaged: so and so; the report leaves its curves out.\n"
    page = (context.outdir / "report.html").read_text()
    assert "Training loss" not in page and "The curves are left out" in page
    assert not list((context.outdir / "figures").glob("training.*"))


def test_a_record_of_figures_names_none_outside_their_folder(make_context):
    context = make_context()
    context.outdir.mkdir(parents=True, exist_ok=True)
    (context.outdir / "mine.png").write_text("mine")
    (context.outdir / ".figures.json").write_text('["../mine"]')
    stages.run_and_report(context, ["denoising"], [])
    assert (context.outdir / "mine.png").exists()


def test_figures_of_an_earlier_report_go_and_other_files_stay(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["sparsity"], [])
    stages.write_report(context)
    (tmp_path / "figures" / "mine.png").write_bytes(b"")
    stages.write_report(make_context(sigma=50.0))  # for which no stage is up to date
    assert [path.name for path in (tmp_path / "figures").iterdir()] == ["mine.png"]


def test_a_stage_killed_as_it_gets_its_name_is_not_made_again(make_context, tmp_path, monkeypatch, capsys):
    context, rename = make_context(), Path.rename

    def killed(self, target):
        if Path(target).name == "sparsity":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", killed)
        stages.run_stages(context, ["sparsity"], [])
    capsys.readouterr()
    assert stages.run_stages(context, ["sparsity"], []) == {}
    assert capsys.readouterr().out.count("unchanged") == 3


def test_redo_makes_what_a_stage_keeps_anew_too(make_context, tmp_path):
    context = make_context()
    stages.run_stages(context, ["samples"], [])
    before = (tmp_path / "drawn" / "image.npy").stat().st_mtime_ns
    stages.run_stages(context, ["samples"], ["samples"])
    assert (tmp_path / "drawn" / "image.npy").stat().st_mtime_ns > before


def test_all_that_stages_keep_is_named_in_the_table(make_context, tmp_path):
    known = {folder for stage in stages.STAGES.values() for folder in stage.keeps}
    package = Path(stages.__file__).parent
    used = re.findall(r'outdir / "(\w+)"', "".join(path.read_text() for path in package.glob("*.py")))
    assert set(used) - {"figures"} <= known | set(stages.STAGES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"block_names": ("encoder0", "encoder1", "mid")}, "needs a block named mid before the last one"),
        ({"block_names": ("mid", "decoder0")}, "needs a block named encoder0"),
        ({"block_names": ("encoder0", "mid", "decoder7", "decoder0")}, "decoder7"),
        ({"represent": lambda y: y.mean((1, 2))[:, :1]}, "must be the mean of mid's"),
        ({"denoise": lambda y: y[:, 1:]}, "must keep the shape"),
        ({"middle": Middle(lambda y: y, lambda y, given: given)}, "is not denoise"),
    ],
)
def test_functions_that_are_no_denoiser_are_refused(tmp_path, change, says):
    denoiser = colour_denoiser(WEIGHTS)
    with pytest.raises(InputError, match=says):
        stages.analyse(
            denoiser._replace(**change), denoiser, image_set(), tmp_path / "out", settings=small_settings(), name="none"
        )
    assert not (tmp_path / "out").exists()


def small_settings(**changed):
    settings = default.get_config().analysis
    with settings.unlocked():
        settings.update(SETTINGS | changed)
    return settings
