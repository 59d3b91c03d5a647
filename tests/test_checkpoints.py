"""Checkpoints: exact round trips, and what is left after damage, kills, a full disk and other people's folders."""

import contextlib
import functools
import json
import os
import pickle
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from unetrep_jax import checkpoints, devices, models
from unetrep_jax.storage import MANIFEST, InputError, read_json, verify_manifest, write_json, write_manifest

MODEL = {"name": "unet", "channels": [4, 8], "encoder_depth": 1, "mid_depth": 1, "decoder_depth": 2}
CONFIG = {"model": MODEL, "data": {"image_channels": 1}, "train": {"learning_rate": 1e-3}}
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(optax.constant_schedule(1e-3)))
COUNT = {"count": np.int32(1)}


@functools.cache
def shapes() -> tuple:
    """Parameters of a small UNet and the state of their optimiser, as ShapeDtypeStructs."""
    model = models.build(**MODEL, image_channels=1)
    params = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    return params, jax.eval_shape(OPTIMIZER.init, params)


def fill(shapes, seed: int):
    generator = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: np.asarray(100 * generator.normal(size=leaf.shape), leaf.dtype), shapes)


def make_params(seed: int) -> dict:
    return fill(shapes()[0], seed)


def make_train(step: int) -> dict:
    """An optimiser's state (nested NamedTuples), and leaves of other types."""
    half = np.full((3,), step / 7, jnp.bfloat16)
    return {"optimizer": fill(shapes()[1], step), "step": np.int32(step), "half": half, "flag": np.array([True])}


def save(series: checkpoints.Series, step: int, averaged: bool = False) -> None:
    """The checkpoint of a step: everything in it tells the step."""
    series.save(
        step,
        params=make_params(step),
        averaged=make_params(-step % 1000) if averaged else None,
        train=make_train(step),
        data={"step": step, "losses": [step / 3, 0.1]},
        config=CONFIG,
    )


def assert_is_step(restored: checkpoints.Restored, step: int) -> None:
    assert restored.step == step
    assert restored.data == {"step": step, "losses": [step / 3, 0.1]}
    assert_identical(restored.params, make_params(step))
    assert_identical(restored.train, make_train(step))


def assert_identical(tree, other) -> None:
    assert jax.tree.structure(tree) == jax.tree.structure(other)
    for leaf, expected in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        assert leaf.dtype == expected.dtype
        assert leaf.shape == expected.shape
        assert np.asarray(leaf).tobytes() == np.asarray(expected).tobytes()


@contextlib.contextmanager
def writing(folder: Path, keep: int = 5, say=print):
    series = checkpoints.Series(folder, keep=keep, say=say)
    yield series
    series.close()


def restore(folder: Path, step: int | None = None, say=print) -> checkpoints.Restored:
    return checkpoints.restore(folder, like=make_train(0), step=step, say=say)


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    """A run: `last` with steps 10, 20 and 30, `best` with 10 and 20, all with averaged parameters."""
    run = tmp_path_factory.mktemp("original") / "run"
    for name, saved in (("last", (10, 20, 30)), ("best", (10, 20))):
        with writing(run / name) as series:
            for step in saved:
                save(series, step, averaged=True)
    return run


@pytest.fixture
def run(original, tmp_path) -> Path:
    return shutil.copytree(original, tmp_path / "run")


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


# Round trips.


def test_everything_comes_back_bit_for_bit_in_its_structure(run):
    restored = restore(run / "last")
    assert_is_step(restored, 30)
    assert_identical(restored.averaged, make_params(970))
    assert restored.config == CONFIG
    assert isinstance(restored.train["optimizer"][1][0], optax.ScaleByAdamState)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(restored[1:4]))


def test_a_run_without_averaged_parameters_restores_none(tmp_path):
    with writing(tmp_path) as series:
        save(series, 1)
    assert restore(tmp_path).averaged is None


def test_abstract_arrays_are_enough_to_restore_into(run):
    like = jax.eval_shape(lambda: make_train(0))
    assert_identical(checkpoints.restore(run / "last", like=like).train, make_train(30))


def test_what_one_device_saved_is_used_on_two(tmp_path):
    on_one = jax.device_put(make_params(3), jax.devices()[0])
    with writing(tmp_path) as series:
        series.save(3, params=on_one, train=make_train(3), data={}, config=CONFIG)
    on_two = devices.replicate(restore(tmp_path).params)
    assert all(len(leaf.devices()) == 2 for leaf in jax.tree.leaves(on_two))
    assert_identical(on_two, on_one)


def test_arrays_may_be_donated_and_everything_changed_as_soon_as_save_returns(tmp_path):
    overwrite = jax.jit(lambda tree: jax.tree.map(lambda leaf: leaf * 0 - 1, tree), donate_argnums=0)
    values = np.arange(1_000_000, dtype=np.float32)
    params, train, data = devices.replicate({"kernel": values}), {"mean": values.copy()}, {"losses": [0.5]}
    with writing(tmp_path) as series:
        series.save(1, params=params, train=train, data=data, config=CONFIG)
        data["losses"][-1] = 2.0
        train["mean"][:] = -1
        assert overwrite(params)["kernel"][7] == -1
        assert params["kernel"].is_deleted()
    restored = checkpoints.restore(tmp_path, like=train)
    assert np.array_equal(restored.params["kernel"], values)
    assert np.array_equal(restored.train["mean"], values)
    assert restored.data["losses"][-1] == 0.5


def test_values_that_json_does_not_hold_are_found_by_the_save_that_is_given_them(tmp_path):
    with writing(tmp_path) as series:
        with pytest.raises(TypeError, match="not JSON serializable"):
            series.save(1, params=COUNT, train=COUNT, data={"loss": np.float32(1)}, config=CONFIG)
        save(series, 2)
    assert checkpoints.steps(tmp_path) == [2]


def test_seal_completes_a_checkpoint_without_waiting_for_it(tmp_path):
    series = checkpoints.Series(tmp_path, keep=2)
    series.seal()
    save(series, 1)
    assert checkpoints.steps(tmp_path) == []
    for _ in range(2000):
        series.seal()
        if checkpoints.steps(tmp_path):
            break
        threading.Event().wait(0.01)
    assert checkpoints.steps(tmp_path) == [1]
    verify_manifest(tmp_path / "1")
    series.wait()


def test_a_checkpoint_is_on_the_disk_before_it_gets_its_name_and_has_it_before_older_ones_go(tmp_path, monkeypatch):
    events, sync, rename = [], os.fsync, os.rename
    path_of = lambda descriptor: os.readlink(f"/proc/self/fd/{descriptor}")  # noqa: E731
    monkeypatch.setattr("os.fsync", lambda descriptor: (events.append(path_of(descriptor)), sync(descriptor)))
    monkeypatch.setattr("os.rename", lambda source, target: (events.append(f"{source} -> "), rename(source, target)))
    with writing(tmp_path, keep=2) as series:
        for step in (1, 2, 3):
            save(series, step)
            series.wait()
    named, gone = events.index(f"{tmp_path}/.3.writing -> "), events.index(f"{tmp_path}/1 -> ")
    assert named < events.index(str(tmp_path), named) < gone
    for path in (tmp_path / "3").rglob("*"):
        assert f"{tmp_path}/.3.writing/{path.relative_to(tmp_path / '3')}" in events[:named], path


def test_only_the_newest_are_kept(tmp_path):
    with writing(tmp_path, keep=2) as series:
        for step in (1, 5, 10, 200):
            save(series, step)
    assert checkpoints.steps(tmp_path) == [10, 200]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["10", "200"]


def test_a_run_that_goes_on_from_an_earlier_step_discards_the_later_ones(run):
    with writing(run / "last") as series:
        series.discard_after(20)
        assert series.steps() == [10, 20]
        save(series, 30)
    assert series.steps() == [10, 20, 30]


def test_a_step_that_is_there_is_not_written_again(run):
    before = (run / "last/20" / MANIFEST).read_bytes()
    with writing(run / "last") as series:
        save(series, 20)
    assert (run / "last/20" / MANIFEST).read_bytes() == before


def test_closing_leaves_no_thread_of_its_own(tmp_path):
    with writing(tmp_path) as series:
        save(series, 1)
    names = {thread.name for thread in threading.enumerate()}
    assert not names & {"async_save", "metadata_store_0"}


def test_a_series_that_keeps_one_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputError, match="2 checkpoints or more"):
        checkpoints.Series(tmp_path, keep=1)


# Damage.


@pytest.mark.parametrize("seed", range(3))
def test_one_flipped_byte_anywhere_is_found_and_the_checkpoint_before_it_taken(run, seed):
    generator = random.Random(seed)
    for path in files_of(run / "last/30"):
        content = path.read_bytes()
        if not content:
            continue
        position = generator.randrange(len(content))
        flipped = bytearray(content)
        flipped[position] ^= 1 << generator.randrange(8)
        path.write_bytes(flipped)
        said = []
        restored = restore(run / "last", say=said.append)
        path.write_bytes(content)
        harmless = path.name == MANIFEST and json_or_none(bytes(flipped)) == json.loads(content)
        assert restored.step == (30 if harmless else 20), path
        assert harmless or (len(said) == 1 and "30" in said[0]), path
    assert restore(run / "last").step == 30


def json_or_none(content: bytes):
    try:
        return json.loads(content)
    except ValueError:
        return None


@pytest.mark.parametrize("damage", ["truncate", "remove"])
def test_truncated_and_missing_files_are_found(run, damage):
    for path in files_of(run / "last/30"):
        content = path.read_bytes()
        if not content and damage == "truncate":
            continue
        if damage == "truncate":
            path.write_bytes(content[: len(content) // 2])
        else:
            path.unlink()
        said = []
        assert_is_step(restore(run / "last", say=said.append), 20)
        assert len(said) == 1
        path.write_bytes(content)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_damaged_step_asked_for_by_number_is_an_error(run):
    flip(max(files_of(run / "last/30/params"), key=lambda path: path.stat().st_size))
    with pytest.raises(InputError, match="no complete checkpoint of step 30"):
        restore(run / "last", step=30)
    assert restore(run / "last", step=20).step == 20


def test_a_run_whose_best_series_is_damaged_opens_the_last_one(run):
    for step in (10, 20):
        flip(run / f"best/{step}/params/_METADATA")
    said = []
    assert checkpoints.open_checkpoint(run, say=said.append).folder == run / "last/30"
    assert [line.startswith("Passing over") for line in said] == [True, True, False]


def test_nothing_intact_is_an_error(run):
    for step in (10, 20, 30):
        (run / f"last/{step}" / MANIFEST).unlink()
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        restore(run / "last")


def test_opening_for_writing_sets_damaged_checkpoints_aside_so_that_they_are_written_again(run):
    flip(run / "last/30/params/_METADATA")
    said = []
    with writing(run / "last", say=said.append) as series:
        assert len(said) == 1
        assert "30.damaged" in said[0]
        assert checkpoints.steps(run / "last") == [10, 20]
        save(series, 30)
    assert_is_step(restore(run / "last"), 30)


def test_a_checkpoint_that_was_written_but_not_sealed_is_ignored_and_removed(run):
    sealed, unsealed = run / "last/30", run / "last/.30.writing"
    (sealed / MANIFEST).unlink()
    sealed.rename(unsealed)
    assert checkpoints.steps(run / "last") == [10, 20]
    assert restore(run / "last").step == 20
    with writing(run / "last") as series:
        assert not unsealed.exists()
        save(series, 30)
    assert_is_step(restore(run / "last"), 30)


# Kills, full disks, several processes.

SAVES_FOREVER = """
import itertools, sys
sys.path.insert(0, {tests!r})
import test_checkpoints as t
folder = t.Path(sys.argv[1])
first = max(t.checkpoints.steps(folder), default=0) + 1
series = t.checkpoints.Series(folder, keep=2)
for step in itertools.count(first):
    t.save(series, step)
    print(step, flush=True)
    for _ in range(3):
        series.seal()
"""


def start(script: str, *arguments: str) -> subprocess.Popen:
    root = Path(__file__).parents[1]
    environment = os.environ | {"PYTHONPATH": str(root), "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(
        [sys.executable, "-c", script.format(tests=str(Path(__file__).parent)), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        text=True,
    )


def test_a_process_killed_while_it_saves_leaves_a_series_whose_content_fits_its_step(tmp_path):
    generator = random.Random(0)
    newest = 0
    for _ in range(4):
        process = start(SAVES_FOREVER, str(tmp_path))
        for _ in range(4):
            started = int(process.stdout.readline() or pytest.fail(process.stderr.read()))
        threading.Event().wait(generator.random() / 5)
        process.send_signal(signal.SIGKILL)
        assert process.communicate()[1] == ""
        said = []
        restored = restore(tmp_path, say=said.append)
        assert_is_step(restored, restored.step)
        assert restored.step >= started - 1 > newest
        assert said == []
        newest = restored.step


@contextlib.contextmanager
def files_no_larger_than(size: int):
    """The system refuses to write further, as it does when the disk is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [0, 2_000])
@pytest.mark.parametrize("noticed_by", ["seal", "save", "wait"])
def test_a_full_disk_is_an_os_error_and_leaves_the_checkpoints_before_it(tmp_path, capfd, size, noticed_by):
    large = {"kernel": np.random.default_rng(0).normal(size=100_000)}
    series = checkpoints.Series(tmp_path, keep=2)
    save(series, 1)
    series.wait()
    with files_no_larger_than(size), pytest.raises(OSError, match="2 could not be written"):
        series.save(2, params=large, train=COUNT, data={}, config=CONFIG)
        if noticed_by == "save":
            save(series, 3)
        while noticed_by == "seal":
            series.seal()
        series.wait()
    assert_is_step(restore(tmp_path), 1)
    save(series, 3)
    series.wait()
    assert checkpoints.steps(tmp_path) == [1, 3]
    assert capfd.readouterr().err == ""


TWO_PROCESSES = """
import sys
sys.path.insert(0, {tests!r})
import test_checkpoints as t
t.devices.start(distributed=True, cpu_devices=2, coordinator=sys.argv[2], processes=2, process=int(sys.argv[3]))
folder = t.Path(sys.argv[1])
series = t.checkpoints.Series(folder, keep=2)
for step in (1, 2, 3):
    params, train = t.devices.replicate(t.make_params(step)), t.devices.replicate(t.make_train(step))
    assert len(t.jax.tree.leaves(params)[0].sharding.device_set) == 4
    series.save(step, params=params, train=train, data={{"step": step, "losses": [step / 3, 0.1]}}, config=t.CONFIG)
    series.seal()
series.wait()
assert t.checkpoints.steps(folder) == [2, 3]
t.assert_is_step(t.restore(folder), 3)
t.checkpoints.open_checkpoint(folder) if sys.argv[3] == "1" else None
t.devices.barrier("end")
print("good")
"""


def test_two_processes_save_and_restore_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    processes = [start(TWO_PROCESSES, str(tmp_path), address, str(index)) for index in range(2)]
    results = [process.communicate(timeout=120) for process in processes]
    assert all(out.endswith("good\n") for out, _ in results), results


# Opening for analysis.


def denoised_by(params: dict, images: np.ndarray) -> np.ndarray:
    model = models.build(**MODEL, image_channels=1)
    return np.asarray(jax.jit(model.apply)({"params": params}, images)[0])


IMAGES = np.random.default_rng(1).random((2, 8, 8, 1), np.float32)


@pytest.mark.parametrize(
    ("place", "settings", "weights_of", "words"),
    [
        ("", {}, 980, "step 20, averaged"),
        ("", {"weights": "params"}, 20, "step 20, unaveraged"),
        ("", {"step": 30}, 970, "step 30, averaged"),
        ("", {"step": 10, "weights": "params"}, 10, "step 10, unaveraged"),
        ("best", {}, 980, "step 20, averaged"),
        ("last", {}, 970, "step 30, averaged"),
        ("last/10", {}, 990, "step 10, averaged"),
        ("last/10", {"step": 10}, 990, "step 10, averaged"),
    ],
)
def test_a_denoiser_opens_from_a_run_a_series_or_a_checkpoint_and_says_what_it_took(
    original, place, settings, weights_of, words
):
    said = []
    denoiser = checkpoints.load_denoiser(original / place, **settings, say=said.append)
    np.testing.assert_allclose(
        denoiser.denoise(IMAGES), denoised_by(make_params(weights_of), IMAGES), rtol=1e-5, atol=1e-6
    )
    assert len(said) == 1
    assert words in said[0]


def test_without_a_best_series_the_last_one_opens(run):
    shutil.rmtree(run / "best")
    assert checkpoints.open_checkpoint(run).step == 30


def test_the_fingerprint_tells_checkpoints_apart(original):
    fingerprints = [checkpoints.open_checkpoint(original / "last", step=step).fingerprint for step in (10, 20, 10)]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_analysis_needs_no_training_state(run):
    shutil.rmtree(run / "best/20/train")
    write_manifest(run / "best/20")
    assert checkpoints.open_checkpoint(run).step == 20
    with pytest.raises(InputError, match="no training state"):
        restore(run / "best")


def test_what_else_a_run_goes_on_from_opens_too_and_is_not_in_a_copy_of_the_parameters(run, tmp_path):
    folder = checkpoints.open_checkpoint(run).folder
    assert checkpoints.open_checkpoint(run).data == restore(folder.parent, step=int(folder.name)).data != {}
    checkpoints.export(run, tmp_path / "out")
    assert checkpoints.open_checkpoint(tmp_path / "out").data == {}


def test_parameters_saved_in_half_precision_open_in_float32(tmp_path):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), make_params(1))
    with writing(tmp_path) as series:
        series.save(1, params=half, train=COUNT, data={}, config=CONFIG)
    opened = checkpoints.open_checkpoint(tmp_path)
    assert_identical(opened.params, jax.tree.map(lambda leaf: leaf.astype(np.float32), half))


def test_an_exported_checkpoint_is_small_opens_anywhere_and_names_no_folder_of_this_machine(run, tmp_path):
    out = tmp_path / "elsewhere/small"
    checkpoints.export(run, out)
    opened = checkpoints.open_checkpoint(out)
    assert_identical(opened.params, make_params(980))
    assert (opened.step, opened.config, opened.folder, opened.weights) == (20, CONFIG, out, "averaged")
    assert not (out / "train").exists()
    assert not any(str(tmp_path).encode() in path.read_bytes() for path in files_of(out))
    checkpoints.load_denoiser(out).denoise(IMAGES)
    assert [path.name for path in out.parent.iterdir()] == ["small"]


def test_820_thousand_parameters_are_exported_in_four_megabytes(tmp_path):
    params = {f"conv{k}": np.random.default_rng(k).normal(size=(3, 3, 45, 45)).astype("f") for k in range(45)}
    assert sum(leaf.size for leaf in params.values()) > 820_000
    with writing(tmp_path / "last") as series:
        series.save(1, params=params, train=COUNT, data={}, config=CONFIG)
    checkpoints.export(tmp_path, tmp_path / "small")
    assert sum(path.stat().st_size for path in files_of(tmp_path / "small")) <= 4_000_000


def test_exported_as_bfloat16_parameters_take_half_the_space_and_open_as_the_nearest_ones(tmp_path):
    params = {"kernel": np.random.default_rng(0).normal(size=(3, 3, 128, 256)).astype("f")}
    with writing(tmp_path / "last") as series:
        series.save(1, params=params, train=COUNT, data={}, config=CONFIG)
    sizes = {}
    for dtype in ("float32", "bfloat16"):
        assert checkpoints.main([str(tmp_path), str(tmp_path / dtype), "--dtype", dtype]) == 0
        sizes[dtype] = sum(path.stat().st_size for path in files_of(tmp_path / dtype))
    assert sizes["bfloat16"] < 0.6 * sizes["float32"]
    opened = checkpoints.open_checkpoint(tmp_path / "bfloat16").params["kernel"]
    assert opened.dtype == np.float32
    error = abs(opened - params["kernel"])
    assert error.max() > 0 and (error <= abs(params["kernel"]) * 2.0**-8).all()


def test_the_command_line_exports_and_overwrites_nothing(run, tmp_path, capsys):
    arguments = [str(run), str(tmp_path / "out"), "--step", "10", "--weights", "params"]
    assert checkpoints.main(arguments) == 0
    assert_identical(checkpoints.open_checkpoint(tmp_path / "out").params, make_params(10))
    before = {path: path.read_bytes() for path in files_of(tmp_path / "out")}
    capsys.readouterr()
    assert checkpoints.main(arguments) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert {path: path.read_bytes() for path in files_of(tmp_path / "out")} == before


def test_exporting_again_after_a_kill_leaves_nothing_of_the_first(run, tmp_path):
    for left in (".out.writing/params", ".out.writing.orbax-checkpoint-tmp/params"):
        (tmp_path / "there" / left).mkdir(parents=True)
    checkpoints.export(run, tmp_path / "there" / "out")
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["out"]
    checkpoints.open_checkpoint(tmp_path / "there" / "out")


def test_exporting_to_a_full_disk_leaves_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
    with pytest.raises(OSError, match=r"out could not be written.* 0\.0 MB free"):
        checkpoints.export(run, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


# What a user may get wrong.


def assert_refused(words: str, call) -> None:
    with pytest.raises(InputError, match=words) as refusal:
        call()
    assert "\n" not in str(refusal.value)


def test_a_step_that_does_not_exist_is_answered_with_those_that_do(original):
    assert_refused("no checkpoint of step 15; choose from: 10, 20, 30", lambda: restore(original / "last", step=15))
    assert_refused("choose from: 10, 20, 30", lambda: checkpoints.load_denoiser(original, step=15))
    assert_refused("choose from: 10", lambda: checkpoints.load_denoiser(original / "last/10", step=15))


def test_weights_that_are_not_there_are_answered_with_those_that_are(original, tmp_path):
    assert_refused("choose from: averaged, params", lambda: checkpoints.load_denoiser(original, weights="ema"))
    checkpoints.export(original, tmp_path / "out", weights="params")
    assert_refused("choose from: params", lambda: checkpoints.load_denoiser(tmp_path / "out", weights="averaged"))


@pytest.mark.parametrize("change", ["shape", "dtype", "missing", "extra"])
def test_a_training_state_of_another_shape_is_refused_by_the_name_of_its_first_leaf(original, change):
    like = make_train(0)
    if change == "shape":
        like["half"] = jnp.zeros((4,), jnp.bfloat16)
    elif change == "dtype":
        like["half"] = np.zeros((3,), np.float32)
    elif change == "missing":
        del like["half"]
    else:
        like["more"] = np.zeros(3)
    leaf = "more" if change == "extra" else "half"
    assert_refused(f": {leaf} is .* there and .* here", lambda: checkpoints.restore(original / "last", like=like))


def test_a_path_that_is_no_run_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    for path in (tmp_path / "missing", tmp_path / "notes.txt"):
        assert_refused("is no folder", lambda path=path: checkpoints.load_denoiser(path))
    assert_refused("is no run", lambda: checkpoints.load_denoiser(tmp_path))


@pytest.mark.parametrize("odd", ["*", "?", "[", "\\", "\udc80"])
def test_a_path_that_orbax_or_tensorstore_would_read_as_another_is_refused(run, tmp_path, odd):
    moved = shutil.copytree(run, tmp_path / f"mo{odd}ved")
    wrong = re.escape(f"has {'?' if odd > '~' else odd} in it")
    assert_refused(wrong, lambda: checkpoints.Series(moved / "last", keep=2))
    assert_refused(wrong, lambda: checkpoints.restore(moved / "last", like=make_train(0)))
    assert_refused(wrong, lambda: checkpoints.load_denoiser(moved))
    assert_refused(wrong, lambda: checkpoints.export(run, tmp_path / f"small{odd}"))
    assert_refused(wrong, lambda: checkpoints.keep_parameters(tmp_path / odd, 1, params=make_params(1), config=CONFIG))
    (tmp_path / "plain").symlink_to(moved)
    assert_refused(wrong, lambda: checkpoints.load_denoiser(tmp_path / "plain"))
    (tmp_path / f"link{odd}ed").symlink_to(run)
    checkpoints.load_denoiser(tmp_path / f"link{odd}ed")
    assert {path.name for path in tmp_path.iterdir()} == {f"mo{odd}ved", f"link{odd}ed", "plain", "run"}


def test_a_run_that_has_not_saved_yet_holds_nothing_complete(tmp_path):
    checkpoints.Series(tmp_path / "last", keep=2).close()
    for path in (tmp_path, tmp_path / "last"):
        assert_refused("holds no complete checkpoint;", lambda path=path: checkpoints.load_denoiser(path))
    assert checkpoints.steps(tmp_path / "none") == []


def save_as_another_program(folder: Path, **items) -> None:
    with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as writer:
        writer.save(folder, args=ocp.args.Composite(params=ocp.args.PyTreeSave(make_params(1)), **items))


def test_checkpoints_of_another_program_are_refused_and_not_touched(tmp_path):
    named = ocp.args.JsonSave({"program": "someone_else", "format": 1})
    save_as_another_program(tmp_path / "last/5", config=named)
    save_as_another_program(tmp_path / "other/5")
    before = {path: path.read_bytes() for path in files_of(tmp_path)}
    for path in (tmp_path, tmp_path / "last", tmp_path / "last/5"):
        assert_refused("is from 'someone_else'", lambda path=path: checkpoints.load_denoiser(path))
    for path in (tmp_path / "other", tmp_path / "other/5"):
        assert_refused("is from another program", lambda path=path: checkpoints.load_denoiser(path))
    assert_refused("is from 'someone_else'", lambda: restore(tmp_path / "last"))
    assert_refused("is from 'someone_else'", lambda: checkpoints.Series(tmp_path / "last", keep=2))
    assert {path: path.read_bytes() for path in files_of(tmp_path)} == before


@pytest.mark.parametrize("file", ["params/_METADATA", "params/manifest.ocdbt", "data/metadata"])
def test_a_file_that_is_no_checkpoints_is_refused_in_a_line_where_its_checksum_fits(run, file):
    folder = run / "best" / str(checkpoints.steps(run / "best")[-1])
    (folder / file).write_bytes(pickle.dumps({"a": 1}))
    write_manifest(folder)
    with pytest.raises(InputError, match="though its checksums fit") as error:
        checkpoints.open_checkpoint(folder, weights="params", say=lambda _: None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("key", "value"), [("step", "../../x"), ("format", None), ("config", "x")])
def test_a_header_that_makes_no_sense_is_damage_where_its_checksum_fits(run, key, value):
    folder = run / "best" / str(checkpoints.steps(run / "best")[-1])
    header = folder / "config" / "metadata"
    write_json(header, read_json(header) | {key: value})
    write_manifest(folder)
    said = []
    with pytest.raises(InputError, match="holds no complete checkpoint"):
        checkpoints.open_checkpoint(folder, say=said.append)
    assert f"no usable {key}" in said[0]


def test_a_newer_format_is_refused(run):
    config = run / "best/20/config/metadata"
    write_json(config, read_json(config) | {"format": checkpoints.FORMAT + 1})
    write_manifest(run / "best/20")
    assert_refused("has format 2, this unetrep_jax reads up to 1", lambda: checkpoints.load_denoiser(run))


def test_parameters_that_are_no_numbers_are_refused_by_name(tmp_path):
    params = {"mid": {"conv0": {"kernel": np.ones((2, 2), np.float32), "bias": np.float32([0, np.nan])}}}
    checkpoints.keep_parameters(tmp_path, 3, params=params, config={})
    assert_refused("mid.conv0.bias has NaN or infinity", lambda: checkpoints.open_checkpoint(tmp_path / "3"))


def test_a_training_state_that_is_no_numbers_is_not_gone_on_from(tmp_path):
    train = make_train(3)
    next(leaf for leaf in jax.tree.leaves(train["optimizer"]) if leaf.dtype == np.float32).flat[-1] = np.inf
    with writing(tmp_path) as series:
        series.save(3, params=make_params(3), train=train, data={}, config=CONFIG)
    assert_refused(r"3 cannot be gone on from: train\.optimizer.* has NaN or infinity; remove it", lambda: restore(tmp_path))


def test_a_checkpoint_with_another_steps_name_counts_as_damaged(run):
    newest = run / "best" / str(checkpoints.steps(run / "best")[-1])
    moved = newest.rename(newest.with_name("99"))
    said = []
    assert checkpoints.open_checkpoint(run / "best", say=said.append).folder != moved
    assert "it has another checkpoint's name" in said[0]
