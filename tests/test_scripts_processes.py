"""train.py on 1 and on 4 devices and as two processes: one run, whatever it runs on."""

import json
import re
import shutil
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import running
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
    started = start_two(place, run, ["--fresh"], [(), late], **EVERY_STEP, train__epochs=1)
    return run, [process.wait() for process in started]


def start_two(
    place, run: Path, flags: Sequence[str] = (), moments: Sequence = ((), ()), **changed: object
) -> list[running.Process]:
    """Starts two processes that make one run, of one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    changed |= {"devices__cpu_devices": 1, "devices__distributed": True, "devices__coordinator": address}
    changed |= {"devices__processes": 2}
    commands = [[*place.training(run, **changed, devices__process=i), *flags] for i in range(2)]
    return [place.start(command, at) for command, at in zip(commands, moments, strict=True)]


def lines(run: Path, key: str) -> dict[int, object]:
    """Step -> what `metrics.jsonl` says of it."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    by_step = {line["step"]: line[key] for line in found if key in line}
    assert len(by_step) == sum(key in line for line in found)
    return by_step


def assert_same_numbers(run: Path, other: Path, steps: int) -> None:
    """Losses and PSNR of so many steps, up to the order of sums (Adam multiplies the differences)."""
    for key, tolerance in (("loss", 1e-4), ("gradient_norm", 1e-3), ("psnr", 1e-4)):
        found, expected = lines(run, key), lines(other, key)
        shared = [step for step in expected if step <= steps]
        assert [step for step in found if step <= steps] == shared
        np.testing.assert_allclose([found[s] for s in shared], [expected[s] for s in shared], rtol=tolerance)


def test_the_number_of_devices_does_not_change_the_run(by_devices):
    assert_same_numbers(by_devices[4], by_devices[1], steps=2 * PER_EPOCH)


def test_two_processes_make_the_run_that_one_makes(by_two_processes, by_devices):
    run, results = by_two_processes
    assert [(result.code, result.err) for result in results] == [(0, ""), (0, "")]
    assert_same_numbers(run, by_devices[1], steps=PER_EPOCH)


def test_only_the_first_of_two_processes_writes_and_reports(by_two_processes):
    run, (first, second) = by_two_processes
    assert list(lines(run, "loss")) == [*range(1, PER_EPOCH + 1)]
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
    processes = start_two(place, run, train__epochs=100_000, evaluate__every=10**9, checkpoint__every=10**9)
    log = run / "metrics.jsonl"
    processes[0].wait_until(lambda: log.exists() and log.stat().st_size > 0)
    processes[1].popen.send_signal(signal.SIGTERM)
    results = [process.wait() for process in processes]
    assert [result.code for result in results] == [0, 0]
    told = [re.search(r"stopped by SIGTERM at step ([\d,]+), saved", result.out) for result in results]
    assert [int(match[1].replace(",", "")) for match in told] == 2 * checkpoints.steps(run / "last")
