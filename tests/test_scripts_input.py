"""Bad input, through the real command lines: one line (what was given, the rule, the remedy), code 2, nothing written or lost."""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
import running
from faults.attack import require_one_line

NEW = Path("new")  # holds the run folder of every case; none of them must appear


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return running.place_in(tmp_path_factory.getbasetemp() / "scripts")


@pytest.fixture(scope="module")
def shelf(place, tmp_path_factory) -> Path:
    """Files and folders that something is wrong with."""
    folder = tmp_path_factory.mktemp("shelf")
    (folder / "list.yaml").write_text("train: {}")
    (folder / "broken.py").write_text("def get_config(:\n")
    (folder / "empty.py").write_text("")
    (folder / "no_images").mkdir()
    (folder / "unreadable").mkdir()
    for i in range(5):
        (folder / "unreadable" / f"{i}.png").write_bytes(b"no picture")
    np.save(folder / "float.npy", np.zeros((64, 12, 12, 1), np.float32))
    np.save(folder / "large.npy", np.zeros((64, 24, 24, 1), np.uint8))
    np.save(folder / "labels.npy", np.zeros(7, int))
    (folder / "file").write_text("in the way")
    with ocp.StandardCheckpointer() as writer:
        writer.save(folder / "of_another_program" / "best" / "5", {"w": jnp.ones(3)})
    unfinished = folder / "nothing_complete"
    shutil.copytree(place.finished_run, unfinished, ignore=shutil.ignore_patterns("[0-9]*"))
    return folder


class Case(NamedTuple):
    """A script, its arguments or the settings that are changed, and what the message must say."""

    script: str
    arguments: tuple[str, ...]
    changed: dict[str, object]
    says: tuple[str, ...]


def changed(*says: str, **settings: object) -> Case:
    """train.py on the small run, with settings changed."""
    return Case("train.py", (), settings, says)


def train(*arguments: str, says: tuple[str, ...]) -> Case:
    """train.py with these arguments alone."""
    return Case("train.py", arguments, {}, says)


def analyze(*arguments: str, says: tuple[str, ...]) -> Case:
    """analyze.py with these arguments alone."""
    return Case("analyze.py", arguments, {}, says)


DEFAULT = str(running.DEFAULT)
ON_DISK = {"data__source": "folder"}
CASES = {
    "no configuration": train(says=("--config is missing", "configs/default.py")),
    "misspelt configuration": train("--config", "configs/imagenet46.py", says=("did you mean configs/imagenet64",)),
    "configuration in no Python": train("--config", "{shelf}/list.yaml", says=("list.yaml", "get_config()")),
    "configuration with an error": train("--config", "{shelf}/broken.py", says=("broken.py", "line 1")),
    "configuration without get_config": train("--config", "{shelf}/empty.py", says=("get_config",)),
    "unknown argument": train("--config", DEFAULT, "--batch_size=8", says=("--batch_size", "--config.section.key")),
    "setting without a value": train("--config", DEFAULT, "--config.seed", says=("--config.seed=value",)),
    "flag without a value": train("--config", DEFAULT, "--workdir", says=("--workdir",)),
    "unknown key": changed("train.batchsize", "did you mean train.batch_size", train__batchsize=8),
    "key in the wrong section": changed("model.batch_size", "did you mean", model__batch_size=8),
    "word for a number": changed("train.batch_size", "many", "int", train__batch_size="many"),
    "number for a list": changed("model.channels", "64", "tuple", model__channels=64),
    "word in a list of numbers": changed("model.channels", "wide", model__channels="(4,'wide')"),
    "fraction in a list of whole numbers": changed("model.channels", "4.5", model__channels="(4.5,8)"),
    "number for a switch": changed("devices.distributed", "7", "bool", devices__distributed=7),
    "highest level without end": changed("evaluate.sigma_max", "inf", evaluate__sigma_max="1e999"),
    "depth in a list": changed("model.mid_depth", "(1, 2)", model__mid_depth="(1,2)"),
    "depth without end": changed("model.mid_depth", "1,000", model__mid_depth=10**12),
    "channels without end": changed("model.channels", "65,536", model__channels="(4,1000000000)"),
    "noise beyond float32": changed("evaluate.sigma_max must be 1e+15 or less; got 1e+30", evaluate__sigma_max=1e30),
    "noise lost in rounding": changed("evaluate.sigma_min must be 1e-06 or more; got 1e-07", evaluate__sigma_min=1e-7),
    "levels without end": changed("evaluate.levels", "1,000", evaluate__levels=10**14),
    "crops without end": changed("data.train_crops", "10,000,000", data__source="photographs", data__train_crops=10**12),
    "devices without end": changed("devices.cpu_devices", "256", devices__cpu_devices=10**7),
    "run folder with a backslash": train(
        "--config", DEFAULT, "--workdir", "runs/back\\slash", says=("runs/back\\slash has \\ in it", "without * ? [ \\")
    ),
    "run folder that is a pattern": train(
        "--config", DEFAULT, "--workdir", "runs/lr[1e-3]", says=("runs/lr[1e-3] has [ in it", "without * ? [ \\")
    ),
    "run folder that is no text": train(
        "--config", DEFAULT, "--workdir", "runs/\udc80", says=("runs/? has ? in it", "without * ? [ \\ and what is no text")
    ),
    "empty run folder": train("--config", DEFAULT, "--workdir=", says=("--workdir is empty",)),
    "no steps": changed("train.epochs must be positive", "got 0", train__epochs=0),
    "endless": changed("train.epochs", "inf", train__epochs="1e999"),
    "no evaluation": changed("evaluate.images must be positive", evaluate__images=0),
    "evaluation levels in the wrong order": changed("evaluate.sigma_max", evaluate__sigma_min=0.5, evaluate__sigma_max=0.1),
    "noise levels in the wrong order": changed("noise.sigma_min", noise__sigma_min=0.5, noise__sigma_max=0.1),
    "one checkpoint": changed("checkpoint.keep", "2 or more", "got 1", checkpoint__keep=1),
    "crop that does not divide": changed("train.crop = 5", "multiple of 2", train__crop=5),
    "average that never moves": changed("train.ema_decay", "[0, 1)", train__ema_decay=1),
    "seed below 0": changed("seed=-1", "2^32", seed=-1),
    "image size that does not divide": changed("data.image_size=13", "2", "12 or 14", data__image_size=13),
    "two channels": changed("data.image_channels=2", "3 (colour) or 1 (grey)", data__image_channels=2),
    "batch that does not divide": changed(
        "train.batch_size = 9", "2 devices", "8 or 10", train__batch_size=9, devices__cpu_devices=2
    ),
    "batch larger than the set": changed("66", "64", train__batch_size=66),
    "one process of none": changed("devices.processes", devices__distributed=True, devices__coordinator="localhost:1"),
    "unknown source": changed("'tfdss'", "did you mean 'tfds'", "photographs", data__source="tfdss"),
    "unknown network": changed("'unett'", "did you mean 'unet'", model__name="unett"),
    "unknown norm": changed("'layers'", "did you mean 'layer'", model__norm="layers"),
    "unknown dtype": changed("'float23'", "did you mean 'float32'", model__dtype="float23"),
    "unknown schedule": changed("'linear'", "halving, constant, cosine", train__schedule="linear"),
    "unknown weight": changed("'two'", "one, inverse_sigma", train__weight="two"),
    "unknown distribution": changed("'inv_sqr'", "did you mean 'inv_sq", noise__distribution="inv_sqr"),
    "depths for another number of blocks": changed("model.decoder_depth", "one per block", model__decoder_depth="(5,6,7)"),
    "missing folder": changed("data.train_path", "{shelf}/gone", "does not exist", **ON_DISK, data__train_path="{shelf}/gone"),
    "no folder given": changed("data.train_path is empty", **ON_DISK, data__train_path=""),
    "folder without images": changed("{shelf}/no_images", "holds no image", **ON_DISK, data__train_path="{shelf}/no_images"),
    "files that are no images": changed(
        "{shelf}/unreadable", "data.max_unreadable=0.01", **ON_DISK, data__train_path="{shelf}/unreadable"
    ),
    "files none of which is an image": changed(
        "none of its", "{shelf}/unreadable", **ON_DISK, data__train_path="{shelf}/unreadable", data__max_unreadable=1.0
    ),
    "missing array": changed("{shelf}/gone.npy", "data.train_path", data__train_path="{shelf}/gone.npy"),
    "file that is no array": changed("{shelf}/file", "not a readable .npy", data__train_path="{shelf}/file"),
    "array of another type": changed("float32 [64, 12, 12, 1]", "uint8 [n, 12, 12, 1]", data__train_path="{shelf}/float.npy"),
    "array of another shape": changed("[64, 24, 24, 1]", "data.image_size", data__train_path="{shelf}/large.npy"),
    "labels of another length": changed("[7]", "[24]", data__validation_labels="{shelf}/labels.npy"),
    "nothing to start from": changed("train.start_from", "{shelf}/gone", "no folder", train__start_from="{shelf}/gone"),
    "another network to start from": changed("train.start_from", "model", train__start_from="{run}", model__mid_depth=2),
    "no devices": analyze(
        "--ckpt", "{shelf}/gone", "--config.devices.cpu_devices=0", says=("devices.cpu_devices must be 1 or more; got 0",)
    ),
    "missing checkpoint": analyze("--ckpt", "{shelf}/gone", says=("{shelf}/gone is no folder", "train.py")),
    "file for a checkpoint": analyze("--ckpt", "{shelf}/file", says=("{shelf}/file is no folder",)),
    "folder that is no run": analyze("--ckpt", "{shelf}/no_images", says=("is no run of unetrep_jax",)),
    "run without a complete checkpoint": analyze("--ckpt", "{shelf}/nothing_complete", says=("holds no complete",)),
    "another program's run": analyze("--ckpt", "{shelf}/of_another_program", says=("another program", "train.py")),
    "step that is not there": analyze("--ckpt", "{run}", "--step", "7", says=("no checkpoint of step 7", "40")),
    "step that is no number": analyze("--ckpt", "{run}", "--step", "last", says=("--step", "last")),
    "unknown weights": analyze("--ckpt", "{run}", "--weights", "ema", says=("'ema'", "averaged, params")),
    "empty images": analyze("--ckpt", "{run}", "--images=", says=("--images is empty",)),
    "empty results": analyze("--ckpt", "{run}", "--outdir=", says=("--outdir is empty",)),
    "empty weights": analyze("--ckpt", "{run}", "--weights=", says=("--weights is empty",)),
    "seed of the analysis": analyze("--ckpt", "{run}", f"--config.analysis.seed={2**32}", says=("analysis.seed", "2^32 - 1")),
    "unknown stage": analyze("--ckpt", "{run}", "--only", "cluster", says=("--only", "'cluster'", "clusters")),
    "unknown stage to redo": analyze("--ckpt", "{run}", "--redo", "all", says=("--redo", "'all'", "denoising")),
    "no stage to redo": analyze("--ckpt", "{run}", "--redo=", says=("--redo", "''", "denoising")),
    "setting of the checkpoint": analyze("--ckpt", "{run}", "--config.model.norm=instance", says=("model.norm",)),
    "misspelt section": analyze(
        "--ckpt", "{run}", "--config.anblysis.sigma=7", says=("--config.anblysis.sigma is no setting", "analysis.sigma")
    ),
    "no level for the probe": analyze(
        "--ckpt", "{run}", "--config.analysis.probe_sigmas=()", says=("analysis.probe_sigmas needs one or more of analysis.sigmas",)
    ),
    "more images at once than memory holds": analyze(
        "--ckpt", "{run}", "--config.analysis.batch_size=8000000", says=("analysis.batch_size must be 65,536 or less; got 8000000",)
    ),
    "level not in the grid": analyze("--ckpt", "{run}", "--config.analysis.sigma=7", says=("analysis.sigma = 7",)),
    "no noise at all": analyze(
        "--ckpt", "{run}", "--config.analysis.sigmas=(0,)", "--config.analysis.sigma=0",
        says=("analysis.sigmas needs the level 0 and one above",),
    ),
    "word in the grid": analyze("--ckpt", "{run}", "--config.analysis.sigmas=(0.0,'x')", says=("analysis.sigmas",)),
    "fewer images than clusters": analyze("--ckpt", "{run}", says=("100 clusters", "24 images", "fewer")),
    "too large a step": analyze("--ckpt", "{run}", "--config.analysis.sample_h0=2.0", says=("analysis.sample_*", "h0 = 2", "0.01")),
    "a level that does not fall": analyze(
        "--ckpt", "{run}", "--config.analysis.sample_sigma_end=1.5", says=("sigma_end = 1.5", "below")
    ),
    "no samples": analyze("--ckpt", "{run}", "--config.analysis.samples=0", says=("analysis.samples", "1 or more")),
    "a schedule that rises": analyze(
        "--ckpt", "{run}", "--config.analysis.schedule_sigma_end=2.0", says=("schedule_sigma_end = 2",)
    ),
    "figures in no known format": analyze(
        "--ckpt", "{run}", "--config.analysis.figure_formats=('png','gif')", says=("figure_formats", "pdf, svg", "gif")
    ),
    "no targets": analyze("--ckpt", "{run}", "--config.analysis.targets=0", says=("analysis.targets",)),
    "fewer images than none": analyze("--ckpt", "{run}", "--config.analysis.images=-3", says=("analysis.images", "-3")),
    "images from nowhere": analyze("--ckpt", "{run}", "--images", "photos", says=("'photos'", "did you mean")),
    "images of another type": analyze("--ckpt", "{run}", "--images", "{shelf}/float.npy", says=("float32", "uint8")),
    "images of a size that does not divide": analyze("--ckpt", "{run}", "--config.data.image_size=13", says=("13",)),
}  # fmt: skip


def fill_in(text: str, shelf: Path, place: running.Place) -> str:
    """Paths in place of `{shelf}` and `{run}`."""
    return text.replace("{shelf}", str(shelf)).replace("{run}", str(place.finished_run))


@pytest.fixture(scope="module")
def outcomes(place, shelf) -> dict[str, running.Result]:
    """What every case gave."""

    def fill(value):
        return fill_in(value, shelf, place) if isinstance(value, str) else value

    commands = [
        place.training(NEW / name, **{key: fill(value) for key, value in case.changed.items()})
        if case.changed
        else [case.script, *map(fill, case.arguments)]
        for name, case in CASES.items()
    ]
    before = running.snapshot(place.finished_run)
    results = dict(zip(CASES, place.run_forks(commands, at_once=2), strict=True))
    assert running.snapshot(place.finished_run) == before
    return results


@pytest.mark.parametrize("name", CASES)
def test_bad_input_gives_one_line_and_exit_code_2(name, outcomes, place, shelf):
    case, result = CASES[name], outcomes[name]
    require_one_line(result, case.script)
    assert not (place.folder / NEW / name).exists()
    for words in case.says:
        assert fill_in(words, shelf, place) in result.err


def test_bad_input_leaves_no_folder_behind(outcomes, place):
    assert not (place.folder / NEW).exists()
    assert not (place.folder / "runs").exists()
    assert not (place.finished_run / "analysis").exists()
