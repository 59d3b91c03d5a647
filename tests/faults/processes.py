"""Loss of a process: one of two that make a run is killed or stands still; the other ends, and the run goes on with one or two."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import running

from faults.attack import Attack, Broken, Missed, require, require_ended_well, require_no_traceback
from faults.numbers import CLOSE, require_close
from faults.scene import Scene

LOST = "the other ends within a minute and says that a process was lost; the run goes on to equal losses, on one or two processes"
MINUTE = 60.0
MESSAGES = ("another process of this run was lost", "another task died")  # ours, and that of JAX's own service
ENDLESS = {"log__every": 1, "evaluate__every": 10**9, "checkpoint__every": 5, "train__epochs": 100_000}
COMPARED = {"keys": ("loss", "gradient_norm"), "steps": 2 * running.PER_EPOCH}  # no evaluation at these steps

READS = ("open", r"last/8/_CHECKPOINT_METADATA$")  # the processes have found each other by then
# Which process is lost, and right before which operation on a file.
MOMENTS = {
    "of the first, as it opens the log": (0, ("open", r"run/metrics\.jsonl$")),
    "of the first, as it makes a checkpoint": (0, ("os.mkdir", r"last/\.10\.writing")),
    "of the first, as a checkpoint gets its name": (0, ("os.rename", r"last/10$")),
    "of the second, as it opens the images": (1, ("open", r"train\.npy$")),
    "of the second, as it reads the checkpoint": (1, READS),
}


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each of the two processes, killed or stopped, then one or two to go on with."""
    yield Attack("two processes and one", CLOSE, "one epoch", lambda chance: same_numbers(scene))
    for number in range(scene.many(1, 5)):
        for lost in (0, 1):
            for how in ("SIGKILL", "SIGSTOP") if scene.long else ("SIGKILL",):
                act = lambda chance, lost=lost, how=how: lose(scene, lost, getattr(signal, how), chance)  # noqa: E731
                yield Attack("a process lost between steps", LOST, f"{how} of process {lost}, {number}", act)
    for name, (lost, moment) in MOMENTS.items():
        for how in ("SIGKILL", "SIGSTOP") if scene.long else ("SIGKILL",):
            act = lambda chance, lost=lost, moment=moment, how=how: lose_at(scene, lost, moment, how, chance)  # noqa: E731
            yield Attack("a process lost at a moment", LOST, f"{how} {name}", act)


def lose(scene: Scene, lost: int, number: int, chance: random.Random) -> None:
    """After a random step: there is a checkpoint to go on from, and steps that are compared come after it."""
    scene.clear()
    processes = running.start_two(scene.place, scene.run, **ENDLESS)
    log, lines = scene.run / "metrics.jsonl", chance.randint(6, 12)

    def is_time() -> bool:
        return is_saved(scene) and log.read_bytes().count(b"\n") >= lines

    def lose_it() -> None:
        processes[0].wait_until(is_time)
        if any(process.popen.poll() is not None for process in processes):
            raise Missed("a process had ended")
        processes[lost].popen.send_signal(number)

    survive(scene, processes, lost, lose_it)
    go_on(scene, len(log.read_bytes().splitlines()), alone=chance.random() < 0.5)


def lose_at(scene: Scene, lost: int, moment: tuple[str, str], how: str, chance: random.Random) -> None:
    """Right before an operation on a file, in a run that goes on where there is a checkpoint to read."""
    scene.clear()
    if moment == READS:
        for result in in_two(scene, ENDLESS | {"train__epochs": 1}):
            require_ended_well(result)
    at = [(), ()]
    at[lost] = (running.Moment(getattr(signal, how), *moment),)
    processes = running.start_two(scene.place, scene.run, moments=at, **ENDLESS)

    def wait_for_it() -> None:
        give_up = time.monotonic() + 2 * MINUTE  # of a start
        while not has_stopped(processes[lost].popen.pid):
            if time.monotonic() > give_up or processes[1 - lost].popen.poll() is not None:
                raise Missed("the moment never came")
            time.sleep(0.01)

    survive(scene, processes, lost, wait_for_it)
    log = scene.run / "metrics.jsonl"
    go_on(scene, len(log.read_bytes().splitlines()) if log.exists() else 0, alone=chance.random() < 0.5)


def has_stopped(pid: int) -> bool:
    """Whether a process stands still or has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return True
    return state in "TZX"


def survive(scene: Scene, processes: list[running.Process], lost: int, lose_it: Callable[[], None]) -> None:
    """The other process ends in time, and says why."""
    try:
        lose_it()
        result = processes[1 - lost].wait(MINUTE)
    except subprocess.TimeoutExpired as error:
        raise Broken(f"after {MINUTE:.0f} s the other still runs") from error
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.wait()
    # Its own code for a lost process; JAX's own service may be the first to notice that its first process is gone, and aborts.
    require(result.code in (3, -signal.SIGABRT), f"code {result.code}: {result.err[-600:]}")
    require_no_traceback(result)
    require(any(message in result.err for message in MESSAGES), f"no message: {result.err[-600:]}")


def in_two(scene: Scene, changed: dict[str, object]) -> list[running.Result]:
    """A run of two processes, to its end."""
    return [process.wait() for process in running.start_two(scene.place, scene.run, learn=True, **changed)]


def is_saved(scene: Scene) -> bool:
    """Whether there is a checkpoint to go on from."""
    return any((scene.run / "last").glob("[0-9]*/manifest.json"))


def go_on(scene: Scene, lines: int, alone: bool) -> None:
    """To a little beyond the step where the process was lost."""
    saved = is_saved(scene)
    changed = ENDLESS | {"train__epochs": lines // running.PER_EPOCH + 2}
    results = [scene.do(scene.training(devices__cpu_devices=2, **changed))] if alone else in_two(scene, changed)
    for result in results:
        require_ended_well(result)
    resumed = re.search(rf"resumed {re.escape(str(scene.run))} at step ([\d,]+)", results[0].out)
    require(not saved or resumed is not None, f"begun anew: {results[0].out[:300]}")
    if resumed and int(resumed[1].replace(",", "")) >= COMPARED["steps"]:
        raise Missed(f"{resumed[0]}: no step that is compared comes after it")
    log = running.log_lines(scene.run)
    steps = [line["step"] for line in log]
    require(
        steps == sorted(steps) and len(set(steps)) >= changed["train__epochs"] * running.PER_EPOCH,
        "steps are missing in the log",
    )
    undisturbed = scene.trained(**ENDLESS | {"train__epochs": 2}).folder / "run"  # asked for last, as it is made in the arena
    require_close(log, running.log_lines(undisturbed), **COMPARED)


def same_numbers(scene: Scene) -> None:
    """One epoch on two processes, and on one."""
    logs = []
    for alone in (True, False):
        scene.clear()
        changed = {"log__every": 1, "evaluate__every": 4, "train__epochs": 1}
        for result in [scene.do(scene.training(devices__cpu_devices=1, **changed))] if alone else in_two(scene, changed):
            require_ended_well(result)
        logs.append(running.log_lines(scene.run))
    require_close(logs[1], logs[0])
