"""Loss of a process: one of two that make a run is killed or stands still; the other ends, and the run goes on with one or two."""

import json
import random
import signal
import socket
from collections.abc import Iterator

from tests import running
from tests.faults.attack import Attack, Missed, require, require_no_traceback
from tests.faults.numbers import CLOSE, require_close
from tests.faults.scene import Scene

LOST = "the other ends within a minute and says that a process was lost; the run goes on, on one or two processes"
MINUTE = 60.0
MESSAGES = ("another process of this run was lost", "another task died")  # ours, and that of JAX's own service
ENDLESS = {"log__every": 1, "evaluate__every": 10**9, "checkpoint__every": 5, "train__epochs": 100_000}


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each of the two processes, killed or stopped, then one or two to go on with."""
    yield Attack("two processes and one", CLOSE, "one epoch", lambda chance: same_numbers(scene))
    for number in range(scene.many(1, 5)):
        for lost in (0, 1):
            for how in ("SIGKILL", "SIGSTOP") if scene.long else ("SIGKILL",):
                name = f"{how} of process {lost}, {number}"
                yield Attack(
                    "a process lost",
                    LOST,
                    name,
                    lambda chance, lost=lost, how=how: lose(scene, lost, getattr(signal, how), chance),
                )


def start_two(scene: Scene, **changed: object) -> list[running.Process]:
    """Two new processes that make one run, of one device each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    changed |= {"devices__cpu_devices": 1, "devices__distributed": True, "devices__coordinator": address}
    commands = [scene.training(**changed, devices__processes=2, devices__process=index) for index in range(2)]
    return [scene.place.start(command, learn=True) for command in commands]


def lose(scene: Scene, lost: int, number: int, chance: random.Random) -> None:
    """After a random step."""
    scene.clear()
    processes = start_two(scene, **ENDLESS)
    log, lines = scene.run / "metrics.jsonl", chance.randint(6, 60)
    try:
        processes[0].wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") >= lines)
        if any(process.popen.poll() is not None for process in processes):
            raise Missed("a process had ended")
        processes[lost].popen.send_signal(number)
        result = processes[1 - lost].wait(MINUTE)
    finally:
        for process in processes:
            process.popen.kill()
    require(result.code != 0, f"ended as if nothing had been: {result.out[-300:]}")
    require_no_traceback(result)
    require(any(message in result.err for message in MESSAGES), f"no message: {result.err[-600:]}")
    go_on(scene, len(log.read_bytes().splitlines()), alone=chance.random() < 0.5)


def go_on(scene: Scene, lines: int, alone: bool) -> None:
    """To a little beyond the step where the process was lost."""
    changed = ENDLESS | {"train__epochs": lines // running.PER_EPOCH + 2}
    if alone:
        results = [scene.do(scene.training(devices__cpu_devices=2, **changed))]
    else:
        results = [process.wait() for process in start_two(scene, **changed)]
    for result in results:
        require(result.code == 0, f"not taken up: code {result.code}, {result.err[-600:]}")
    require(f"resumed {scene.run} at step" in results[0].out, f"begun anew: {results[0].out[:300]}")
    steps = [json.loads(line)["step"] for line in (scene.run / "metrics.jsonl").read_text().splitlines()]
    require(
        steps == sorted(steps) and len(set(steps)) >= changed["train__epochs"] * running.PER_EPOCH,
        "steps are missing in the log",
    )


def same_numbers(scene: Scene) -> None:
    """One epoch on two processes, and on one."""
    logs = []
    for alone in (True, False):
        scene.clear()
        changed = {"log__every": 1, "evaluate__every": 4, "train__epochs": 1}
        results = (
            [scene.do(scene.training(devices__cpu_devices=1, **changed))]
            if alone
            else [process.wait() for process in start_two(scene, **changed)]
        )
        for result in results:
            require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
        logs.append([json.loads(line) for line in (scene.run / "metrics.jsonl").read_text().splitlines()])
    require_close(logs[1], logs[0])
