"""The log of a run: what is written, what is said, and how it goes on."""

import json

import numpy as np
import pytest

from unetrep_jax import logs

LENGTH = logs.Length(batch_size=4, images_per_epoch=40, steps=20)


@pytest.fixture
def clock(monkeypatch):
    """Seconds, to be set."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_line_says_step_epoch_loss_speed_and_time_left(tmp_path, clock, capsys):
    log = logs.Log(tmp_path, LENGTH, 0)
    clock[0] = 2.0
    log.training(5, 1.5, 0.25, 1e-3)
    log.close()
    assert capsys.readouterr().out == "step 5/20 (epoch 0.50)  loss 1.50  10 images/s  0:06 left\n"
    assert lines(tmp_path) == [{"step": 5, "images": 20, "loss": 1.5, "gradient_norm": 0.25, "learning_rate": 1e-3}]


def test_evaluations_do_not_count_as_training_time(tmp_path, clock, capsys):
    log = logs.Log(tmp_path, LENGTH, 0)
    clock[0] = 3.0
    held = np.float32([19, 9.5])
    log.evaluation(5, np.float32([0.1, 1]), np.float32([20, 10]), np.float32([20, 0]), held, np.zeros((4, 4, 3), np.float32), 1.0)
    log.training(5, 1.5, 0.25, 1e-3)
    log.close()
    assert "validation PSNR 15.00 dB  10 images/s" in capsys.readouterr().out
    levels = {"sigma": [0.1, 1], "psnr": [20, 10], "noisy_psnr": [20, 0], "held_psnr": [19, 9.5]}
    assert lines(tmp_path)[0] == {"step": 5, "images": 20, **levels}


def test_what_is_not_finite_is_null(tmp_path):
    log = logs.Log(tmp_path, LENGTH, 0)
    level, psnr, noisy, held = (np.float32([value]) for value in (1e-30, 40, np.inf, 40))
    log.evaluation(5, level, psnr, noisy, held, np.zeros((4, 4, 3), np.float32), 1.0)
    log.close()
    assert lines(tmp_path)[0]["noisy_psnr"] == [None] and "Infinity" not in (tmp_path / "metrics.jsonl").read_text()


def test_a_run_that_goes_on_drops_the_lines_of_later_steps_and_knows_the_rest(tmp_path, capsys):
    log = logs.Log(tmp_path, LENGTH, 0)
    log.training(5, 1.5, 0.25, 1e-3)
    checksum = log.checksum()
    log.training(10, 1.4, 0.25, 1e-3)
    log.close()
    again = logs.Log(tmp_path, LENGTH, 5, checksum=checksum)
    assert again.checksum() == checksum
    again.training(10, 1.3, 0.25, 1e-3)
    again.close()
    assert [(line["step"], line["loss"]) for line in lines(tmp_path)] == [(5, 1.5), (10, 1.3)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("damaged", [b"{not json\n", b'{"step": 5, "loss": 2}\n', b"\xff\xfe\n", b""])
def test_damaged_lines_are_told_of_and_the_readable_ones_stay(tmp_path, capsys, damaged):
    log = logs.Log(tmp_path, LENGTH, 0)
    log.training(5, 1.5, 0.25, 1e-3)
    log.training(6, 1.5, 0.25, 1e-3)
    checksum = log.checksum()
    log.close()
    file = tmp_path / "metrics.jsonl"
    file.write_bytes(damaged + file.read_bytes().splitlines(keepends=True)[1])
    logs.Log(tmp_path, LENGTH, 6, checksum=checksum).close()
    assert "metrics.jsonl is damaged: up to step 6" in capsys.readouterr().err
    assert lines(tmp_path)[-1]["step"] == 6


def test_a_log_is_whole_as_long_as_the_lines_up_to_the_step_are(tmp_path):
    log, file = logs.Log(tmp_path, LENGTH, 0), tmp_path / "metrics.jsonl"
    assert logs.damage(file, 0, log.checksum()) == ""
    log.training(5, 1.5, 0.25, 1e-3)
    checksum = log.checksum()
    log.training(6, 1.5, 0.25, 1e-3)
    log.close()
    whole = file.read_bytes()
    for content in (whole, whole[:-9], whole.splitlines(keepends=True)[0]):  # more steps, one of them cut short, none
        file.write_bytes(content)
        assert logs.damage(file, 5, checksum) == ""
    for content in (whole.replace(b"1.5", b"2.5", 1), whole[1:], b""):
        file.write_bytes(content)
        assert logs.damage(file, 5, None) == ""
        assert logs.damage(file, 5, checksum).startswith(f"{file} is damaged: up to step 5 ")
    file.unlink()
    assert "is damaged" in logs.damage(file, 5, checksum)


def test_processes_that_do_not_write_leave_nothing(tmp_path, capsys):
    log = logs.Log(tmp_path / "run", LENGTH, 0, writes=False)
    log.training(5, 1.5, 0.25, 1e-3)
    log.evaluation(5, *[np.ones(1, np.float32)] * 4, np.zeros((2, 2, 3), np.float32), 1.0)
    assert log.checksum() == ""
    log.close()
    assert capsys.readouterr().out == "" and not (tmp_path / "run").exists()
