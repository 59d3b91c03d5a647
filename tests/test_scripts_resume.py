"""train.py stopped, killed, started again, started with other settings: what it does, and what is left on disk."""

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import jax
import numpy as np
import pytest
import running
from faults import checkpoint_content
from running import MILESTONES, PER_EPOCH, STEPS, Moment

import configs
import train
from unetrep_jax import checkpoints, storage

KILL, INT, SLOW = signal.SIGKILL, signal.SIGINT, 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return running.place_in(tmp_path_factory.getbasetemp() / "scripts")


@pytest.fixture
def copy(place, tmp_path) -> Path:
    """A copy of the finished run."""
    return shutil.copytree(place.finished_run, tmp_path / "run")


def assert_same_run(run: Path, other: Path) -> None:
    """The same log; the same checkpoints, to the last bit; nothing beside them."""
    assert (run / "metrics.jsonl").read_bytes() == (other / "metrics.jsonl").read_bytes()
    for series in ("last", "best", "milestones"):
        held = [sorted(path.name for path in (folder / series).iterdir()) for folder in (run, other)]
        assert held[0] == held[1]
        assert sorted(map(int, held[0])) == checkpoints.steps(run / series)
    assert checkpoints.steps(run / "milestones") == list(MILESTONES)
    content = checkpoint_content.of_run(run)
    assert content == checkpoint_content.of_run(other)
    assert not any(what.startswith("refused") for what in content.values())


def flip(file: Path, position: int) -> None:
    """Changes one bit."""
    content = bytearray(file.read_bytes())
    content[position] ^= 1
    file.write_bytes(content)


# Killed.

MOMENTS = {
    "before the first checkpoint gets its name": Moment(KILL, "os.rename", r"last/4$"),
    "as the oldest goes": Moment(KILL, "os.rename", r"last/\.4\.removing"),
    "while the log is cut to the checkpoint": Moment(KILL, "os.rename", r"metrics\.jsonl$"),
    "before a milestone gets its name": Moment(KILL, "os.rename", r"milestones/40$"),
}


def test_a_run_killed_over_and_over_equals_the_uninterrupted_run_bit_for_bit(place, tmp_path):
    expected = place.finished_run  # first, for only what nothing interrupts leaves its compiled programs to the others
    run, kills = tmp_path / "run", [[moment] for moment in MOMENTS.values()]
    *killed, last = place.run_forks([place.training(run)] * (len(kills) + 1), moments=[*kills, []])
    assert {when: result.code for when, result in zip(MOMENTS, killed, strict=True)} == dict.fromkeys(MOMENTS, -KILL)
    assert last.code == 0, last.err
    assert_same_run(run, expected)


def test_a_run_that_began_in_the_folder_after_it_was_looked_at_is_not_gone_on_with(copy, capsys):
    config = configs.from_plain(storage.read_json(copy / "config.json"))
    with train.own(config, copy, fresh=False):
        pass
    config.train.learning_rate *= 2
    with pytest.raises(storage.InputError, match=r"holds a run with other settings: train\.learning_rate"):
        train.own(config, copy, fresh=False).__enter__()
    with train.own(config, copy, fresh=True):
        pass


def test_other_validation_images_are_refused(place, copy, tmp_path):
    other = tmp_path / "validation.npy"
    np.save(other, np.load(place.folder / "validation.npy")[::-1])
    longer = place.training(copy, data__validation_path=other, train__epochs=2 * STEPS / PER_EPOCH)
    kept = checkpoint_content.of_run(copy)
    refused = place.run_fork(longer)
    assert refused.code == 2 and refused.err.startswith("train.py: The validation images (data.validation_*)"), refused.err
    assert checkpoint_content.of_run(copy) == kept


def test_a_run_stopped_by_its_time_limit_goes_on_to_the_same_end(place, tmp_path):
    expected, run = place.finished_run, tmp_path / "run"
    stopped = place.run_fork(place.training(run, train__minutes=1e-9))
    assert (stopped.code, checkpoints.steps(run / "last")) == (0, [1]), stopped.err
    assert "stopped by train.minutes at step 1, saved" in stopped.out
    assert place.run_fork(place.training(run)).code == 0
    assert_same_run(run, expected)


def test_a_stretch_on_a_gpu_goes_on_from_exported_parameters_and_leaves_its_own_in_pieces(place, tmp_path):
    checkpoints.export(place.finished_run / "last", tmp_path / "before", dtype="bfloat16", say=str)
    still = {"train.learning_rate": 1e-30, "train.ema_decay": 0.0, "train.epochs": 1 / PER_EPOCH, "train.schedule": "cosine"}
    small = {"analysis.spectrum_images": 16, "analysis.memory_images": 8, "model.dtype": "bfloat16"}
    network = {"model.bias": True, "model.gain_init": "near_zero"}  # that of the run that it goes on from
    settings = running.as_flags(place.settings | running.ANALYSIS | network | small | still)
    paths = {"DATA": tmp_path, "OUT": tmp_path / "out", "RUNS": tmp_path / "runs", "START": tmp_path / "before"}
    environment = place.environment(learn=True) | {name: str(path) for name, path in paths.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = ["bash", str(running.ROOT / "configs" / "reference_gpu.sh"), "2", *settings]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "| network, blind |" in done.stdout
    pieces = sorted((tmp_path / "out").glob("full64-2.tar.*"))
    with tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))) as whole:
        whole.extractall(tmp_path, filter="data")
    began, after = (checkpoints.open_checkpoint(tmp_path / name, say=str) for name in ("before", "full64-2"))
    assert (began.step, after.step, after.config["seed"]) == (STEPS, 1, 2)
    jax.tree.map(np.testing.assert_array_equal, began.params, after.params)
    shapes = jax.eval_shape(checkpoints.load_denoiser(tmp_path / "full64-2", say=str).activations, np.zeros((1, 12, 12, 1), "f"))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype("f")}  # trained in bfloat16, not looked at in it


def test_the_seed_of_the_run_that_another_begins_from_is_named_where_it_is_the_same(place, tmp_path):
    start = {"train__start_from": place.finished_run, "train__minutes": 1e-9}
    same, other = place.run_forks([place.training(tmp_path / str(seed), seed=seed, **start) for seed in (0, 1)])
    assert f"{place.finished_run} was trained with seed 0 too: the same images may come again" in same.out
    assert (same.code, other.code) == (0, 0) and "seed" not in other.out


def test_a_best_checkpoint_that_takes_longer_than_the_last_one_is_not_lost(place, copy):
    # `last` remembers the best PSNR. If it were whole before `best` is, the run would go on without ever writing that.
    shutil.rmtree(copy / "last" / "40")
    moments = [
        Moment(SLOW, "os.mkdir", r"best/\.40\.writing"),
        Moment(signal.SIGCONT, "os.rename", r"last/40$"),
        Moment(KILL, "os.scandir", r"last$"),  # right after it got its name
    ]
    assert place.run_fork(place.training(copy), moments).code == -KILL
    assert checkpoints.steps(copy / "last")[-1] == 40
    assert place.run_fork(place.training(copy)).code == 0
    assert_same_run(copy, place.finished_run)


def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(place, copy):
    file = max((copy / "last" / "40" / "params").rglob("d/*"), key=lambda path: path.stat().st_size)
    flip(file, file.stat().st_size // 2)
    result = place.run_fork(place.training(copy))
    assert result.code == 0, result.err
    assert f"resumed {copy} at step 36" in result.out
    assert "damaged" in result.err
    shutil.rmtree(copy / "last" / "40.damaged")
    assert_same_run(copy, place.finished_run)


@pytest.mark.parametrize("position", [20, 1], ids=["a digit", "a quotation mark"])
def test_a_damaged_log_is_named_and_the_run_goes_on(place, copy, position):
    flip(copy / "metrics.jsonl", position)
    result = place.run_fork(place.training(copy))
    assert result.code == 0, result.err
    assert f"{copy / 'metrics.jsonl'} is damaged" in result.err
    assert len(result.err.splitlines()) == 1


def test_a_log_that_is_no_text_is_named_and_the_run_goes_on(place, copy):
    content = bytearray((copy / "metrics.jsonl").read_bytes())
    content[5] = 0xFF
    (copy / "metrics.jsonl").write_bytes(content)
    result = place.run_fork(place.training(copy))
    assert result.code == 0, result.err
    assert "metrics.jsonl is damaged" in result.err


@pytest.mark.parametrize("harm", [lambda file: flip(file, 0), lambda file: file.write_bytes(b""), Path.unlink])
def test_without_its_configuration_a_run_goes_on_with_that_of_its_checkpoint(place, copy, harm):
    harm(copy / "config.json")
    refused = place.run_fork(place.training(copy, train__learning_rate=0.002))
    assert refused.code == 2
    assert "train.learning_rate (was 0.001, now 0.002)" in refused.err
    result = place.run_fork(place.training(copy))
    assert result.code == 0, result.err
    assert "config.json is damaged" in result.err and "step 40" in result.err
    assert_same_run(copy, place.finished_run)


def test_a_checkpoint_with_another_steps_name_is_passed_over(place, copy):
    (copy / "last" / "40").rename(copy / "last" / "x")
    (copy / "last" / "36").rename(copy / "last" / "40")
    (copy / "last" / "x").rename(copy / "last" / "36")
    result = place.run_fork(place.training(copy))
    assert result.code == 0, result.err
    assert "holds step 36: it has another checkpoint's name" in result.err
    for step in (36, 40):
        shutil.rmtree(copy / "last" / f"{step}.damaged")
    assert_same_run(copy, place.finished_run)


# Asked to stop.


def test_ctrl_c_before_there_is_anything_to_save_is_one_line(place, tmp_path):
    result = place.run_fork(place.training(tmp_path / "run"), [Moment(INT, "open", r"config\.json\.partial$")])
    assert (result.code, result.err) == (130, "train.py: stopped; the same command goes on from the last checkpoint\n")


# Started again when it is finished, and with other settings.


def test_a_finished_run_says_so_and_stays_as_it_is(place, copy):
    before = running.snapshot(copy)
    result = place.run_fork(place.training(copy))
    assert (result.code, result.err) == (0, "")
    assert re.search(rf"finished at step {STEPS}; best validation PSNR [\d.]+ dB", result.out)
    after = running.snapshot(copy)
    assert {name: after[name][0] for name in before} == {name: content for name, (content, _) in before.items()}
    assert_same_run(copy, place.finished_run)


LIVELY = {"model__gain_init": "one", "train__learning_rate": 0.003}
STILL = {"train__learning_rate": 1e-9, "train__epochs": 1}  # initial gains near zero, and no training to speak of


@pytest.mark.parametrize(("changed", "alive"), [(STILL, False), (LIVELY, True)])
def test_a_run_says_at_its_end_when_the_middle_block_gives_nothing(place, tmp_path, changed, alive):
    result = place.run_fork(place.training(tmp_path / "run", **changed))
    assert result.code == 0, result.err
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    last = [row for row in rows if "psnr" in row][-1]
    gives = max(np.subtract(last["psnr"], last["held_psnr"]))
    assert bool(gives > 0.005) is alive
    assert ("teaches phi nothing" in result.out) is not alive
    assert "of these the middle block gives " in result.out


def test_a_change_that_makes_another_experiment_is_refused_by_name(place, copy):
    before = running.snapshot(copy)
    changed = {"train__learning_rate": 0.002, "seed": 1, "model__channels": "(4,16)", "log__every": 7}
    result = place.run_fork(place.training(copy, **changed))
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    for words in ("train.learning_rate (was 0.001, now 0.002)", "seed (was 0, now 1)", "model.channels", "--fresh"):
        assert words in result.err
    assert "log.every" not in result.err
    assert running.snapshot(copy) == before


def test_how_long_how_often_and_on_how_many_devices_may_change(place, copy):
    changed = {"train__epochs": 6, "log__every": 3, "checkpoint__every": 5, "checkpoint__keep": 2}
    result = place.run_fork(place.training(copy, **changed, devices__cpu_devices=1))
    assert (result.code, result.err) == (0, "")
    assert f"resumed {copy} at step {STEPS}" in result.out
    assert checkpoints.steps(copy / "last") == [45, 48]
    before, after = running.log_lines(place.finished_run), running.log_lines(copy)
    assert after[: len(before)] == before
    assert [line["step"] for line in after[len(before) :]] == [42, 42, 45, 48, 48]


def test_with_a_cosine_schedule_the_length_is_part_of_the_experiment(place, copy):
    config = json.loads((copy / "config.json").read_text())
    config["train"]["schedule"] = "cosine"
    (copy / "config.json").write_text(json.dumps(config))
    result = place.run_fork(place.training(copy, train__schedule="cosine", train__epochs=6))
    assert result.code == 2
    assert "train.epochs (was 5.0, now 6.0)" in result.err


def test_fresh_discards_the_run_and_nothing_else(place, copy):
    (copy / "notes.txt").write_text("mine")
    changed = {"train__epochs": 1, "train__learning_rate": 0.002}
    result = place.run_fork([*place.training(copy, **changed), "--fresh"])
    assert (result.code, result.err) == (0, "")
    assert [line["step"] for line in running.log_lines(copy)] == [5, 6, 8, 8]
    assert running.log_lines(copy)[0]["learning_rate"] == np.float32(0.002)
    assert checkpoints.steps(copy / "last") == [4, 8]
    assert len(list((copy / "tensorboard").iterdir())) == 1
    assert (copy / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["best", "last", "tensorboard"])
def test_fresh_killed_while_it_discards_a_run_goes_on_with_the_same_command(place, copy, name):
    command = [*place.training(copy, train__epochs=1), "--fresh"]
    assert place.run_fork(command, [Moment(KILL, "shutil.rmtree", rf"run/{name}$")]).code == -KILL
    result = place.run_fork(command)
    assert (result.code, result.err) == (0, "")
    assert checkpoints.steps(copy / "last") == [4, 8]


@pytest.mark.parametrize("setting", ["train__schedule", "train__weight", "train__start_from", "model__norm"])
def test_fresh_keeps_the_run_when_the_new_one_cannot_start(place, copy, setting):
    before = running.snapshot(copy)
    result = place.run_fork([*place.training(copy, **{setting: "nowhere"}), "--fresh"])
    assert result.code == 2
    assert running.snapshot(copy) == before


# Diverged.


def test_a_loss_that_is_no_number_stops_the_run_at_that_step_and_leaves_good_checkpoints(place, tmp_path):
    run = tmp_path / "run"
    changed = {
        "train__learning_rate": 1e19,
        "train__warmup_steps": 1000,
        "checkpoint__every": 5,
        "log__every": 1000,
        "evaluate__every": 1000,
    }
    result = place.run_fork(place.training(run, **changed))
    assert result.code == 1
    assert len(result.err.splitlines()) == 1
    told = re.search(r"training diverged at step (\d+): loss .*; the last good checkpoint is step (\d+) in", result.err)
    step, good = map(int, told.groups())
    assert 5 <= good < step
    assert good == checkpoints.steps(run / "last")[-1]
    every_step = place.run_fork(place.training(tmp_path / "again", **changed | {"log__every": 1}))
    assert [line["step"] for line in running.log_lines(tmp_path / "again")][-1] == step - 1, every_step.err
    for kept in checkpoints.steps(run / "last"):
        restored = checkpoints.restore(run / "last", like=checkpoint_content.training_state(), step=kept)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((restored.params, restored.averaged)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_parameters_that_are_not_finite_are_never_saved(value):
    tree = {"mid": np.ones(3, np.float32), "none": None}
    train.require_finite(tree, 7)
    tree["mid"][1] = value
    with pytest.raises(train.DivergedError, match="step 7: parameters that are not finite"):
        train.require_finite(tree, 7)
