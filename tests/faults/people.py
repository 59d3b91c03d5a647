"""People: random edits of settings, names and command lines. Most run in forks, some as the commands that a person types."""

import json
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

from faults import children, edits, naming
from faults.attack import Attack, require, require_no_traceback
from faults.scene import SHORT, Scene

ANSWERED = "it runs with the value as typed, or is refused with one line that names it; no traceback, no other value in silence"
ENOUGH = 60.0  # seconds after which a command that still runs counts as running, and is asked to stop
DIVERGED = "training diverged at"
OF_MACHINES = ("not enough memory", "No space left")  # sizes beyond any machine's: no line can know the setting


def attacks(scene: Scene) -> Iterator[Attack]:
    """Edits of either command."""
    for number in range(scene.many(40, 700)):
        yield Attack("train.py, edited", ANSWERED, f"edit {number}", lambda chance: edit(scene, chance, "train.py"))
    for number in range(scene.many(20, 300)):
        yield Attack("analyze.py, edited", ANSWERED, f"edit {number}", lambda chance: edit(scene, chance, "analyze.py"))
    for number in range(scene.many(3, 30)):
        yield Attack("edited, as a person types it", ANSWERED, f"command {number}", lambda chance: typed(scene, chance))


def settings_of(prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the default configuration whose names begin so."""
    import configs

    default = configs.flatten(configs.load(str(children.ROOT / "configs/default.py")))
    return {key: value for key, value in default if key.startswith(prefixes)}


def edited(scene: Scene, chance: random.Random, script: str) -> tuple[list[str], list[str]]:
    """A short command with one to three edits, and these."""
    if script == "train.py":
        scene.clear()
        base, prefixes = scene.training(**SHORT), ("",)
    else:
        scene.lay_trained()
        base = scene.place.analysis(scene.run, "--only", "architecture", "sparsity")
        prefixes = ("analysis.", "data.", "devices.")
    # Several machines are another category; a fork that starts thousands of threads would stop this one.
    settings = {key: value for key, value in settings_of(prefixes).items() if not key.startswith("devices.")}
    extra = [argument for _ in range(chance.choice([1, 1, 1, 2, 3])) for argument in edits.edit(settings, chance)]
    return [*base, *extra], extra


def edit(scene: Scene, chance: random.Random, script: str) -> None:
    """One step of training or an analysis of one small stage, or a refusal."""
    command, extra = edited(scene, chance, script)
    judge(scene, command, extra, until_enough(scene.start(command)))


def typed(scene: Scene, chance: random.Random) -> None:
    """The same in a new process of its own."""
    command, extra = edited(scene, chance, chance.choice(["train.py", "analyze.py"]))
    process = scene.place.start(command)
    give_up = time.monotonic() + ENOUGH
    process.wait_until(lambda: time.monotonic() > give_up)
    asked = process.popen.poll() is None
    process.popen.terminate()
    result = process.wait(ENOUGH)
    code = 0 if asked and result.code == -signal.SIGTERM else result.code
    judge(scene, command, extra, children.Result(code, result.out, result.err, 0.0))


def until_enough(child: children.Child) -> children.Result:
    """Waits for the end, or long enough to see that it runs; then it must end when it is asked to."""
    child.wait_until(lambda: False, patience=ENOUGH)
    asked = child.poll() is None
    child.send(signal.SIGTERM)
    result = child.wait(ENOUGH)
    return result._replace(code=0) if asked and result.code == -signal.SIGTERM else result


def judge(scene: Scene, command: list[str], extra: list[str], result: children.Result) -> None:
    """Whether it ran as it was told, or was refused as it should be."""
    shown = f"{extra!r:.400}: code {result.code}, {result.err[-500:]!r}"
    require_no_traceback(result)
    require(result.code in (0, 1, 2), shown)
    if result.code == 0:
        recorded = scene.run / ("config.json" if command[0] == "train.py" else "analysis/summary.json")
        if recorded.exists():  # otherwise it was still at work when it was asked to stop
            require_as_typed(json.loads(recorded.read_text()), extra, command[0])
        return
    last = result.err.splitlines()[-1] if result.err else ""
    require(last.startswith(f"{command[0]}: ") and len(last) > 30, f"no line that says why: {shown}")
    if result.code == 1:
        require(DIVERGED in last, shown)
        return
    require(len(result.err.splitlines()) <= 3, f"more than a line: {shown}")
    line = last.removeprefix(f"{command[0]}: ")
    named = any(naming.names(line, argument) for argument in extra)
    require(named or any(words in line for words in OF_MACHINES), f"names none of the edits: {shown}")


def require_as_typed(recorded: dict[str, Any], extra: list[str], script: str) -> None:
    """What the command recorded holds what was typed: the last of equal names counts."""
    settings = [argument.removeprefix("--config.") for argument in extra if argument.startswith("--config.")]
    for key, text in dict(setting.partition("=")[::2] for setting in settings).items():
        if script == "train.py":
            value = recorded
            for part in key.split("."):
                value = value[part]
            require(value in naming.readings(text, value), f"{key} was given as {text!r:.80} and is {value!r}")
        elif key in naming.TOLD:
            name, form = naming.TOLD[key]
            told = str(recorded["facts"][name])
            expected = [form(value) for value in naming.readings(text, 0) if not isinstance(value, str)]
            require(any(words in told for words in expected), f"{key} was given as {text!r:.80}; {name} is {told!r}")
