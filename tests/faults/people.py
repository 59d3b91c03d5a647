"""People: random edits of settings, names and command lines. Most run in forks, some as the commands that a person types."""

import json
import os
import random
import re
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

import running

from faults import arguments, children, edits, naming
from faults.attack import Attack, Missed, require, require_no_traceback, told_lines
from faults.scene import SHORT, Scene

ANSWERED = "it runs with the value as typed, or is refused with one line that names it; no traceback, no other value in silence"
ENOUGH = 60.0  # seconds after which a command that still runs counts as running, and is asked to stop
ENOUGH_TYPED = 180.0  # the same, where it begins with imports that take long
DIVERGED = "training diverged at"
OF_MACHINES = ("not enough memory", "No space left")  # sizes beyond any machine's: no line can know the setting
# Lines that may stand before a refusal: they say what was opened, and what was left out of what was typed.
NOTES = re.compile(r"step [\d,]+, (un)?averaged parameters\.$|^analysis\.probe_sigmas: .* left out$|clusters: left out$")
LESSENED = ("analysis.clusters", "analysis.probe_sigmas")  # settings of which such a line may leave a part out
ELSEWHERE = ("devices.distributed", "devices.coordinator", "devices.process")  # of several machines: `arguments.several`
READ_BY_ALL = {"analysis.images", "analysis.batch_size", "analysis.figure_formats", "devices.cpu_devices"}
DEAR = ("embedding",)  # stages that take longer than all others together


def attacks(scene: Scene) -> Iterator[Attack]:
    """Edits of either command, and values of their arguments."""
    for number in range(scene.many(40, 700)):
        yield Attack("train.py, edited", ANSWERED, f"edit {number}", lambda chance: edit(scene, chance, "train.py"))
    for number in range(scene.many(20, 300)):
        yield Attack("analyze.py, edited", ANSWERED, f"edit {number}", lambda chance: edit(scene, chance, "analyze.py"))
    for number in range(scene.many(3, 30)):
        yield Attack("edited, as a person types it", ANSWERED, f"command {number}", lambda chance: typed(scene, chance))
    yield from arguments.attacks(scene)


def settings_of(prefixes: tuple[str, ...]) -> dict[str, Any]:
    """Settings of the default configuration whose names begin so, but those that join several machines."""
    import configs

    default = configs.flatten(configs.load(str(children.ROOT / "configs/default.py")))
    return {key: value for key, value in default if key.startswith(prefixes) and not key.startswith(ELSEWHERE)}


def edited(scene: Scene, chance: random.Random, script: str) -> tuple[list[str], dict[str, Any]]:
    """A short command, and the settings that it may read."""
    if script == "train.py":
        scene.clear()
        settings = settings_of(("",))
        if chance.random() < 0.9:  # training keeps the settings of analyses, and reads none
            settings = {key: value for key, value in settings.items() if not key.startswith("analysis.")}
        return scene.training(**SHORT), settings
    from unetrep_jax.stages.running import STAGES, wanted_stages

    scene.lay_trained()
    name = chance.choice([name for name in STAGES if name not in DEAR])
    read = {f"analysis.{key}" for one in wanted_stages([name]) for key in STAGES[one].settings}
    settings = settings_of(("analysis.", "data.", "devices."))
    if chance.random() < 0.7:  # the others are kept, compared, and not read
        settings = {key: value for key, value in settings.items() if key in read | READ_BY_ALL}
    settings |= {key: naming.read(str(running.ANALYSIS[key])) for key in settings.keys() & running.ANALYSIS.keys()}
    labels = {"data__validation_labels": scene.place.folder / "labels.npy"}
    return scene.place.analysis(scene.run, "--only", name, **labels), settings


def edits_of(settings: dict[str, Any], chance: random.Random) -> list[str]:
    """One to three edits."""
    return [argument for _ in range(chance.choice([1, 1, 1, 2, 3])) for argument in edits.edit(settings, chance)]


def edit(scene: Scene, chance: random.Random, script: str) -> None:
    """One step of training or an analysis of one stage, or a refusal."""
    base, settings = edited(scene, chance, script)
    extra = edits_of(settings, chance)
    child = scene.start([*base, *extra])
    child.wait_until(lambda: False, patience=ENOUGH)
    asked = child.poll() is None
    child.send(signal.SIGTERM)
    judge(scene, script, extra, child.wait(ENOUGH), asked)


def typed(scene: Scene, chance: random.Random) -> None:
    """The same in a new process of its own, which nothing keeps from writing elsewhere: no folder that it writes to is edited."""
    script = chance.choice(["train.py", "analyze.py"])
    base, settings = edited(scene, chance, script)
    extra = edits_of({key: value for key, value in settings.items() if not key.endswith(("_dir", "_cache"))}, chance)
    command = [sys.executable, children.ROOT / script, *base[1:], *extra]
    process = running.Process(list(map(str, command)), os.environ, scene.arena)  # whose compiled programs forks and it share
    give_up = time.monotonic() + ENOUGH_TYPED
    process.wait_until(lambda: time.monotonic() > give_up)
    asked = process.popen.poll() is None
    process.popen.terminate()
    judge(scene, script, extra, children.Result(*process.wait(ENOUGH), ENOUGH_TYPED), asked)


def judge(scene: Scene, script: str, extra: list[str], result: children.Result, asked: bool) -> None:
    """Whether it ran as it was told, or was refused as it should be; `asked` to stop, it may end so."""
    shown = f"{extra!r:.400}: code {result.code}, {result.err[-500:]!r}"
    require_no_traceback(result)
    require(result.code in (0, 1, 2) or (asked and result.code == -signal.SIGTERM), shown)
    if result.code in (0, -signal.SIGTERM):
        recorded = scene.run / ("config.json" if script == "train.py" else "analysis/summary.json")
        if not recorded.exists():
            require(asked, f"nothing recorded: {shown}")
            raise Missed(f"still at work, and nothing recorded: {shown}")
        found = json.loads(recorded.read_text())
        require_as_typed(found if script == "train.py" else found["settings"], extra, result.err)
        return
    lines = [line for line in told_lines(result) if not NOTES.search(line)]
    require(len(lines) == 1 and lines[0].startswith(f"{script}: "), f"not one line: {shown}")
    line = lines[0].removeprefix(f"{script}: ")
    require(naming.has_reason(line), f"says not what is wrong and what to do: {shown}")
    if result.code == 1:
        require(DIVERGED in line, shown)
        return
    named = any(naming.names(line, argument) for argument in extra)
    require(named or any(words in line for words in OF_MACHINES), f"names none of the edits: {shown}")


def effective(extra: list[str]) -> list[str]:
    """The arguments without settings that a later one sets again."""
    last = {argument.partition("=")[0] if argument.startswith("--config.") else argument: argument for argument in extra}
    return list(last.values())


def require_as_typed(recorded: dict[str, Any], extra: list[str], told: str) -> None:
    """What the command recorded holds what was typed, but for parts that it told to have left out."""
    settings = [argument.removeprefix("--config.") for argument in effective(extra) if argument.startswith("--config.")]
    for key, text in (setting.partition("=")[::2] for setting in settings):
        value = recorded
        for part in key.split("."):
            value = value[part]
        readings = naming.readings(text, value)
        if key in LESSENED and "left out" in told:
            kept = [one for one in readings[0] if one in value] or [recorded["analysis"]["sigma"]]
            readings.append(kept)
        require(value in readings, f"{key} was given as {text!r:.80} and is {value!r}")
