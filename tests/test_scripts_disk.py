"""A disk that fills up, and a folder that is taken: one line, exit code 2, and what was there stays."""

import errno
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import running
from faults.attack import require_one_line

import analyze
from unetrep_jax import checkpoints, stages
from unetrep_jax.storage import verify_manifest

# A file system of two megabytes that only this command sees; the folder is copied out of it at the end.
SMALL_DISK = """
mount -t tmpfs -o size=2m tmpfs "$0" && mkdir "$0/disk" || exit 99
"$@"
code=$?
cp -a "$0/disk/." "$0.out"
exit $code
"""
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return running.place_in(tmp_path_factory.getbasetemp() / "scripts")


@pytest.fixture
def small_disk(tmp_path) -> Path:
    (tmp_path / "small").mkdir()
    (tmp_path / "small.out").mkdir()
    try_it = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", tmp_path / "small"]
    if shutil.which("unshare") is None or subprocess.run(try_it, capture_output=True).returncode:
        pytest.skip("no small file system can be mounted here")
    return tmp_path / "small"


def assert_goes_on_to_the_same_end(place, run: Path) -> None:
    assert place.run_fork(place.training(run)).code == 0
    for name in ("last", "best"):
        assert checkpoints.steps(run / name) == checkpoints.steps(place.finished_run / name)
    assert (run / "metrics.jsonl").read_bytes() == (place.finished_run / "metrics.jsonl").read_bytes()


def test_training_ends_when_the_disk_is_full_and_goes_on_when_it_is_not(place, small_disk):
    command = place.training(small_disk / "disk" / "run", checkpoint__keep=100)
    result = place.run(command, prefix=[*NAMESPACE, "sh", "-c", SMALL_DISK, str(small_disk)])
    require_one_line(result, "train.py", "No space left", "free on the disk")
    run = small_disk.with_name("small.out") / "run"
    whole = [run / name / str(step) for name in ("last", "best") for step in checkpoints.steps(run / name)]
    assert whole
    for checkpoint in whole:
        verify_manifest(checkpoint)
    assert_goes_on_to_the_same_end(place, run)


def test_training_ends_when_a_file_cannot_grow(place, tmp_path):
    run = tmp_path / "run"
    result = place.run(place.training(run), prefix=running.limited("-f", 8))
    require_one_line(result, "train.py", "File too large")
    assert_goes_on_to_the_same_end(place, run)


def test_images_that_do_not_fit_on_the_disk_stop_the_run_before_it_begins(place, tmp_path):
    changed = {"data__source": "photographs", "data__cache_dir": tmp_path / "cache", "data__train_crops": 300}
    result = place.run(place.training(tmp_path / "run", **changed), prefix=running.limited("-f", 16))
    require_one_line(result, "train.py", "File too large", "No space left")
    assert not (tmp_path / "run").exists()


def test_an_analysis_that_finds_the_disk_full_names_the_folder_and_the_flag_that_moves_it(tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    opened = SimpleNamespace(outdir=tmp_path), SimpleNamespace(only=None, redo=[])
    monkeypatch.setattr(analyze, "open_everything", lambda _: opened)
    monkeypatch.setattr(stages, "run_and_report", full)
    assert analyze.main([]) == 2
    line = f"analyze.py: No space left in {tmp_path}: free some, or name another folder by --outdir.\n"
    assert capsys.readouterr().err == line


def test_other_training_images_are_refused_and_the_run_stays(place, tmp_path):
    run = shutil.copytree(place.finished_run, tmp_path / "run")
    images = tmp_path / "images.npy"
    np.save(images, 255 - np.load(place.folder / "train.npy"))
    before = {name: file for name, file in running.snapshot(run).items() if name != ".lock"}
    result = place.run_fork(place.training(run, data__train_path=images))
    require_one_line(result, "train.py", "The training images cannot be continued: the images' fingerprint was")
    assert "--fresh" in result.err
    assert {name: file for name, file in running.snapshot(run).items() if name != ".lock"} == before
