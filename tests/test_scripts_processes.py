"""train.py on 1 and on 4 devices and as two processes: one run, whatever it runs on."""

import json
import re
import shutil
import signal
from pathlib import Path

import pytest
import running
from faults.numbers import require_close
from running import PER_EPOCH, Moment

from unetrep_jax import checkpoints

EVERY_STEP = {"log__every": 1, "evaluate__every": 4}
SLOW = 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return running.place_in(tmp_path_factory.getbasetemp() / "scripts")


@pytest.fixture(scope="module")
def by_devices(place, tmp_path_factory) -> dict[int, Path]:
    """Runs of two epochs on 1 and on 4 virtual devices."""
    folder = tmp_path_factory.mktemp("devices")
    changed = EVERY_STEP | {"train__epochs": 2}
    runs = {count: folder / f"{count}-devices" for count in (1, 4)}
    started = [
        place.start(place.training(run, **changed, devices__cpu_devices=n), learn=True) for n, run in runs.items()
    ]
    for result in [process.wait() for process in started]:
        assert (result.code, result.err) == (0, "")
    return runs


@pytest.fixture(scope="module")
def by_two_processes(place, tmp_path_factory) -> tuple[Path, list[running.Result]]:
    """A run of one epoch by two processes, begun afresh in the folder of another run; and what the two left."""
    run = shutil.copytree(place.finished_run, tmp_path_factory.mktemp("processes") / "run")
    late = [Moment(SLOW, "os.remove", r"run/config\.json$")]
    started = running.start_two(place, run, ["--fresh"], [(), late], **EVERY_STEP, train__epochs=1)
    return run, [process.wait() for process in started]


def assert_same_numbers(run: Path, other: Path, steps: int) -> None:
    """Losses, gradients and PSNR of so many steps, up to the order of sums."""
    require_close(running.log_lines(run), running.log_lines(other), steps)


def test_the_number_of_devices_does_not_change_the_run(by_devices):
    assert_same_numbers(by_devices[4], by_devices[1], steps=2 * PER_EPOCH)


def test_two_processes_make_the_run_that_one_makes(by_two_processes, by_devices):
    run, results = by_two_processes
    assert [(result.code, result.err) for result in results] == [(0, ""), (0, "")]
    assert_same_numbers(run, by_devices[1], steps=PER_EPOCH)


def test_only_the_first_of_two_processes_writes_and_reports(by_two_processes):
    run, (first, second) = by_two_processes
    assert [line["step"] for line in running.log_lines(run) if "loss" in line] == [*range(1, PER_EPOCH + 1)]
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert "step 1/" in first.out
    assert "step 1/" not in second.out
    assert checkpoints.steps(run / "last") == [4, 8]


def test_a_process_that_comes_late_to_a_fresh_start_removes_nothing_of_the_new_run(by_two_processes):
    run, _ = by_two_processes
    assert json.loads((run / "config.json").read_text())["train"]["epochs"] == 1


def test_a_run_of_two_processes_goes_on_as_one_process_with_four_devices(place, by_two_processes, by_devices, tmp_path):
    run = shutil.copytree(by_two_processes[0], tmp_path / "run")
    result = place.run_fork(place.training(run, **EVERY_STEP, train__epochs=2, devices__cpu_devices=4))
    assert (result.code, result.err) == (0, "")
    assert f"resumed {run} at step {PER_EPOCH}" in result.out
    assert_same_numbers(run, by_devices[1], steps=2 * PER_EPOCH)


def test_sigterm_to_one_of_two_processes_stops_both_at_the_same_step(place, tmp_path):
    run = tmp_path / "run"
    processes = running.start_two(place, run, train__epochs=100_000, evaluate__every=10**9, checkpoint__every=10**9)
    log = run / "metrics.jsonl"
    processes[0].wait_until(lambda: log.exists() and log.stat().st_size > 0)
    processes[1].popen.send_signal(signal.SIGTERM)
    results = [process.wait() for process in processes]
    assert [result.code for result in results] == [0, 0]
    told = [re.search(r"stopped by SIGTERM at step ([\d,]+), saved", result.out) for result in results]
    assert [int(match[1].replace(",", "")) for match in told] == 2 * checkpoints.steps(run / "last")
