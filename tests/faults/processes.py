"""Loss of a process: one of two that make a run is killed or stands still; the other ends, and the run goes on with one or two."""

import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import running

from faults import same
from faults.attack import Attack, Broken, Missed, require, require_ended_well, require_no_traceback, require_one_line
from faults.numbers import CLOSE, require_close
from faults.scene import Scene

LOST = "the other ends within a minute and says that a process was lost; the run goes on to equal losses, on one or two processes"
MINUTE = 60.0
MESSAGES = ("another process of this run was lost", "another task died")  # ours, and that of JAX's own service
ENDLESS = {"log__every": 1, "evaluate__every": 10**9, "checkpoint__every": 5, "train__epochs": 100_000}
EVALUATING = {"evaluate__every": 1, "evaluate__levels": 200}  # most of its time, and so long that a signal comes in time
STILL = "the same command is refused with one line while it stands still; when it is killed, the run goes on to its end"
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
        for lost in (0, 1) if scene.long else (0,):
            for how in ("SIGKILL", "SIGSTOP") if scene.long else ("SIGKILL",):
                act = lambda chance, lost=lost, how=how: lose(scene, lost, getattr(signal, how), chance)  # noqa: E731
                yield Attack("a process lost between steps", LOST, f"{how} of process {lost}, {number}", act)
    for name, (lost, moment) in MOMENTS.items():
        for how in ("SIGKILL", "SIGSTOP") if scene.long else ("SIGKILL",):
            act = lambda chance, lost=lost, moment=moment, how=how: lose_at(scene, lost, moment, how, chance)  # noqa: E731
            yield Attack("a process lost at a moment", LOST, f"{how} {name}", act)
    for lost, after in [(1, "save"), (1, "step"), (0, "save"), (0, "step")][: scene.many(1, 4)]:
        act = lambda chance, lost=lost, after=after: lose(scene, lost, signal.SIGKILL, chance, after)  # noqa: E731
        yield Attack("a process lost in an evaluation", LOST, f"SIGKILL of process {lost}, a {after} comes next", act)
    for number in range(scene.many(1, 5)):
        yield Attack("a process that stands still", STILL, f"alone, {number}", lambda chance: stand_still(scene, chance))
    if scene.long:
        act = lambda chance: lose(scene, 0, signal.SIGSTOP, chance, meanwhile=lambda: try_again(scene, **ENDLESS))  # noqa: E731
        yield Attack("a process that stands still", STILL, "the first of two", act)


def lose(
    scene: Scene,
    lost: int,
    number: int,
    chance: random.Random,
    after: str = "",
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """After a random step: there is a checkpoint to go on from, and steps that are compared come after it.

    Or in the evaluation after which a save or another step comes (`after`): the processes meet in both, in other ways.
    """
    scene.clear()
    evaluating = EVALUATING if after else {}
    processes = running.start_two(scene.place, scene.run, **ENDLESS | evaluating)
    log, steps = scene.run / "metrics.jsonl", chance.randint(6, 12)

    def is_time() -> bool:
        return is_saved(scene) and steps_in(log) >= steps and (not after or is_evaluating(log, after))

    def lose_it() -> None:
        processes[0].wait_until(is_time)
        if any(process.popen.poll() is not None for process in processes):
            raise Missed("a process had ended")
        processes[lost].popen.send_signal(number)
        if after and not is_evaluating(log, after):
            raise Missed("the evaluation had ended")

    survive(scene, processes, lost, lose_it, meanwhile)
    go_on(scene, steps_in(log), chance.random() < 0.5, evaluating)


def steps_in(log: Path) -> int:
    """Of how many steps a log tells the loss."""
    return log.read_bytes().count(b'"loss"')


def is_evaluating(log: Path, after: str) -> bool:
    """Whether the last line is of a step: an evaluation comes then, and its line at its end; and after that a save or a step."""
    comes = "step" if steps_in(log) % ENDLESS["checkpoint__every"] else "save"
    return comes == after and b'"loss"' in log.read_bytes().rpartition(b'{"step"')[2]


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
    go_on(scene, steps_in(log) if log.exists() else 0, chance.random() < 0.5)


def stand_still(scene: Scene, chance: random.Random) -> None:
    """A run of one process; its end is bit for bit that of an undisturbed one."""
    expected = scene.trained().content
    scene.clear()
    process = scene.start(scene.training())
    log, steps = scene.run / "metrics.jsonl", chance.randint(1, 5)
    try:
        if not process.wait_until(lambda: log.exists() and steps_in(log) >= steps):
            raise Missed("it had ended")
        process.send(signal.SIGSTOP)
        while not has_stopped(process.pid):
            time.sleep(0.005)
        if process.poll() is not None:
            raise Missed("it had ended")
        try_again(scene)
    finally:
        process.send(signal.SIGKILL)
    if process.wait().code != -signal.SIGKILL:
        raise Missed("it had ended")
    require_ended_well(scene.do(scene.training()))
    same.require_same(same.run_content(scene.run), expected, "the run")


def try_again(scene: Scene, **changed: object) -> None:
    """The same command, while a process of the run stands still, is refused and changes nothing."""
    before = same.folder_content(scene.run)
    require_one_line(scene.do(scene.training(**changed)), "train.py", "is in use by another process")
    same.require_same(same.folder_content(scene.run), before, "the run that stands still")


def has_stopped(pid: int) -> bool:
    """Whether a process stands still or has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return True
    return state in "TZX"


def survive(
    scene: Scene,
    processes: list[running.Process],
    lost: int,
    lose_it: Callable[[], None],
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """The other process ends in time, and says why; after that, and before the lost one is killed, something else may happen."""
    try:
        lose_it()
        result = processes[1 - lost].wait(MINUTE)
        meanwhile()
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


def go_on(scene: Scene, steps: int, alone: bool, evaluating: Mapping[str, object] = MappingProxyType({})) -> None:
    """To a little beyond the step where the process was lost."""
    saved = is_saved(scene)
    changed = {**evaluating, **ENDLESS, "train__epochs": steps // running.PER_EPOCH + 2}
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
