"""People: random edits of settings, names and command lines. Most run in forks, some as the commands that a person types."""

import ast
import json
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

from tests.faults import children, edits
from tests.faults.attack import Attack, require, require_no_traceback
from tests.faults.scene import SHORT, Scene

ANSWERED = "it runs with the value as typed, or is refused with one line that names it; no traceback, no other value in silence"
ENOUGH = 60.0  # seconds after which a command that still runs counts as running, and is asked to stop
DIVERGED = "training diverged at"


def attacks(scene: Scene) -> Iterator[Attack]:
    """Edits of either command."""
    for number in range(scene.many(40, 700)):
        yield Attack("train.py, edited", ANSWERED, f"edit {number}", lambda chance: train(scene, chance))
    for number in range(scene.many(20, 300)):
        yield Attack("analyze.py, edited", ANSWERED, f"edit {number}", lambda chance: analyse(scene, chance))
    for number in range(scene.many(3, 30)):
        yield Attack("edited, as a person types it", ANSWERED, f"command {number}", lambda chance: typed(scene, chance))


def settings_of(prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the default configuration whose names begin so."""
    import configs

    return {
        key: value for key, value in configs.flatten(configs.load("configs/default.py")) if key.startswith(prefixes)
    }


def edited(scene: Scene, chance: random.Random, script: str) -> tuple[list[str], list[str]]:
    """A short command with one to three edits, and these."""
    if script == "train.py":
        scene.clear()
        base, prefixes = scene.training(**SHORT), ("",)
    else:
        scene.lay(scene.trained())
        base, prefixes = (
            scene.place.analysis(scene.run, "--only", "architecture", "sparsity"),
            ("analysis.", "data.", "devices."),
        )
    # Several machines are another category; a fork that starts thousands of threads would stop this one.
    settings = {key: value for key, value in settings_of(prefixes).items() if not key.startswith("devices.")}
    extra = [argument for _ in range(chance.choice([1, 1, 1, 2, 3])) for argument in edits.edit(settings, chance)]
    return [*base, *extra], extra


def train(scene: Scene, chance: random.Random) -> None:
    """One step of training, or a refusal."""
    command, extra = edited(scene, chance, "train.py")
    judge(scene, command, extra, until_enough(scene.start(command)))


def analyse(scene: Scene, chance: random.Random) -> None:
    """An analysis of one small stage, or a refusal."""
    command, extra = edited(scene, chance, "analyze.py")
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
        if command[0] == "train.py":
            require_as_typed(json.loads((scene.run / "config.json").read_text()), extra)
        return
    last = result.err.splitlines()[-1] if result.err else ""
    require(last.startswith(f"{command[0]}: ") and len(last) > 30, f"no line that says why: {shown}")
    if result.code == 1:
        require(DIVERGED in last, shown)
        return
    require(len(result.err.splitlines()) <= 3, f"more than a line: {shown}")
    words = [
        part for argument in extra for part in (argument.partition("=")[0].removeprefix("--config."), argument[:20])
    ]
    words += [word.rpartition(".")[2] for word in words if "." in word] + [word.partition("_")[0] for word in words]
    words += [value[:20] for argument in extra if len(value := argument.partition("=")[2]) > 2]
    words += ["argument", "not enough memory"]  # of the command line; of sizes beyond any machine's
    require(any(word and word in last for word in words), f"names none of {words[:6]}: {shown}")


def require_as_typed(config: dict[str, Any], extra: list[str]) -> None:
    """The run's configuration holds what was typed: the last of equal names counts."""
    given = dict(
        argument.removeprefix("--config.").partition("=")[::2] for argument in extra if argument.startswith("--config.")
    )
    for key, text in given.items():
        value = config
        for part in key.split("."):
            value = value[part]
        require(value in readings(text, value), f"{key} was given as {text!r:.80} and is {value!r}")


def readings(text: str, value: Any) -> list[Any]:
    """What a text may mean for a setting of this kind."""
    try:
        read = ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        read = text
    if isinstance(value, str):
        return [text, read] if isinstance(read, str) else [text]
    return [list(read) if isinstance(read, tuple) else read]
