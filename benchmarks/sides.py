"""Processes that are measured in turns: each computes only when it is asked to. Needs the standard library alone.

The two sides never share a process, so not a pool of threads either. All of them stay alive, and the driver asks them in the order
A B C C B A, again and again: a machine that slowly gets faster or slower does so for all alike.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import serving

PAUSE = 0.1  # seconds before a turn: threads that wait for more work spin for some milliseconds before they sleep
PATIENCE = 30.0  # seconds that a process may take to end
HERE = Path(__file__).parent


class SideError(Exception):
    """A side cannot be started, or failed; the text is one line, `details` the traceback there."""

    details = ""


class Side:
    """A process that answers `serving.serve`'s requests.

    Attributes:
      name: what it is called in messages and tables.
      pid: its number.
      about: what it said of itself when it was started.
    """

    def __init__(self, name: str, command: list[str], environment: Mapping[str, str] | None = None):
        """Starts it; the last word of the command line will be the connection's descriptor."""
        self.name, (self._connection, there) = name, Pipe()
        try:
            self._process = subprocess.Popen(
                [*command, str(there.fileno())], pass_fds=[there.fileno()], env={**os.environ, **(environment or {})}
            )
        except OSError as error:
            raise SideError(f"{command[0]}: {error.strerror}") from error
        finally:
            there.close()
        self.pid, self.about = self._process.pid, {}

    def ask(self, method: str, **arguments: Any) -> Any:
        """The answer to a request."""
        self.begin(method, **arguments)
        return self.answer()

    def begin(self, method: str, **arguments: Any) -> None:
        """Sends a request whose `answer` is fetched later."""
        try:
            self._connection.send((method, arguments))
        except ConnectionError:
            raise SideError(f"{self.name}: the process ended (see above)") from None

    def answer(self) -> Any:
        """The answer to the request that was sent."""
        try:
            outcome, answer = self._connection.recv()
        except (EOFError, ConnectionError):
            raise SideError(f"{self.name}: the process ended (see above)") from None
        if outcome == serving.FAILED:
            error = SideError(f"{self.name}: {answer[0]}")
            error.details = answer[1]
            raise error
        return answer

    def hang_up(self) -> None:
        """Lets it end; processes that work together end together, so each is told before one is waited for."""
        self._connection.close()

    def close(self) -> None:
        """Ends it; one that still waits for something is ended by force."""
        self.hang_up()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def ours(name: str, environment: Mapping[str, str] | None = None) -> Side:
    """A process of ours."""
    return Side(name, [sys.executable, str(HERE / "ours.py")], environment)


def theirs(name: str, python: str, environment: Mapping[str, str] | None = None) -> Side:
    """A process with PyTorch, run by another environment's Python."""
    try:
        return Side(name, [python, str(HERE / "theirs.py")], environment)
    except SideError as error:
        raise SideError(
            f"--torch-python {error}; give a Python that has what benchmarks/requirements.txt lists."
        ) from None


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its children have used so far (Linux; elsewhere 0)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        families = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    except OSError:
        return 0.0
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return own + sum(cpu_seconds(int(child)) for family in families for child in family)


def machine_seconds() -> float:
    """Processor time that everything on this machine has used so far, other machines on the same processor included (Linux)."""
    try:
        fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:]
    except OSError:
        return 0.0
    user, nice, system, _idle, _wait, interrupts, soft, steal = map(int, fields[:8])
    return (user + nice + system + interrupts + soft + steal) / os.sysconf("SC_CLK_TCK")


def in_turns(
    runs: Mapping[str, Callable[[], float]], pids: list[int], cycles: int, and_back: bool = True
) -> tuple[dict[str, list[float]], float, float]:
    """Lets each run in turn, A B C C B A, or without `and_back` A B C, so many times over; a run returns its seconds a call.

    Returns name -> seconds a call, one for each cycle, the mean of its turns there; and the largest share of one core that the
    waiting sides, and everything else on the machine, used in any single turn: a mean over a cycle hides what harmed one side.
    Each counter of processor time may be a tick late (10 ms), which is taken off: in a turn of a few milliseconds it would be all.
    """
    there = list(zip(runs, pids, strict=True))
    order = [*there, *reversed(there)] if and_back else there
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    idle, others = [0.0], [0.0]
    late = (len(set(pids)) + 1) / os.sysconf("SC_CLK_TCK")
    for _ in range(cycles):
        found: dict[str, list[float]] = {name: [] for name in runs}
        for name, pid in order:
            time.sleep(PAUSE)
            before, start = {each: cpu_seconds(each) for each in pids}, time.perf_counter()
            all_before = machine_seconds()
            found[name].append(runs[name]())
            spent = {each: cpu_seconds(each) - before[each] for each in pids}
            strange = max(0.0, machine_seconds() - all_before - sum(spent.values()) - late)
            turn = time.perf_counter() - start
            idle.append(max(0.0, sum(spent.values()) - spent[pid] - late) / turn)
            others.append(strange / turn)
        for name, turns in found.items():
            seconds[name].append(sum(turns) / len(turns))
    return seconds, max(idle), max(others)


def ratios(ours: list[float], theirs: list[float]) -> list[float]:
    """Ours / theirs, cycle by cycle."""
    return [a / b for a, b in zip(ours, theirs, strict=True)]
