"""Commands as users start them: new processes, programs compiled with all optimisation, convolutions by oneDNN.

Everywhere else the campaign leaves these out, which saves most of its time; these few show that the numbers that users get on CPUs
can be had again bit for bit, too.
"""

import os
import signal
import sys
import time

import running

from faults import children, programs, same
from faults.attack import Chance, Missed, require
from faults.scene import Scene

SAME = "killed or not, the same command ends with bit for bit the same"
KILLS = {"train.py": (0, 1), "analyze.py": (1,)}  # how often it is killed, in the attacks on it
OURS = ("UNETREP_ONEDNN", "XLA_FLAGS", "JAX_")  # how variables begin that the campaign sets for its own processes


def start(scene: Scene, script: str) -> running.Process:
    """One of the two, in the arena."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(OURS)} | {"JAX_PLATFORMS": "cpu"}
    if script == "train.py":
        command = scene.training(**programs.KEPT_IN)
    else:
        command = scene.place.analysis(scene.run, "--only", "samples", "clusters", **programs.KEPT_IN)
    return running.Process([sys.executable, str(children.ROOT / command[0]), *map(str, command[1:])], environment, scene.arena)


def lay(scene: Scene, script: str) -> None:
    """What it begins with."""
    scene.clear() if script == "train.py" else scene.lay_trained()


def finished(scene: Scene, script: str) -> dict[str, str]:
    """What it leaves."""
    result = start(scene, script).wait(children.PATIENCE)
    require(result.code == 0, f"the command ended with {result.code}: {result.err[-600:]}")
    return same.run_content(scene.run) if script == "train.py" else same.analysis_content(scene.run)


def kill(scene: Scene, script: str, times: int, chance: Chance) -> None:
    """Once to its end; then again, killed so many times at any time."""
    lay(scene, script)
    began = time.monotonic()
    expected = finished(scene, script)
    seconds = time.monotonic() - began
    lay(scene, script)
    for _ in range(times):
        process = start(scene, script)
        time.sleep(chance.moment(seconds))
        process.popen.kill()
        if process.wait().code != -signal.SIGKILL:
            raise Missed("it had ended before")
    same.require_same(finished(scene, script), expected, "what it left")
    same.require_tidy(scene.arena)
