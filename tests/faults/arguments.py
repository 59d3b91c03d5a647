"""Arguments of the commands and configuration files, as people give them: such that must work, and such that must be refused."""

import functools
import json
import random
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import running

from faults import children, naming
from faults.attack import Attack, require, require_no_traceback, told_lines
from faults.scene import SHORT, Scene

ANSWERED = "it runs with the value as typed, or is refused with one line: the value, what is wrong, what to do or what is possible"
FULL = "x" * 300  # longer than any file system's names
SECONDS_TO_MEET = 4  # in place of minutes, in which processes that are not there are waited for


class Given(NamedTuple):
    """What a person gives.

    Attributes:
      arguments: added to a command; the last of a name counts.
      works: it must run; if not, it must be refused.
    """

    arguments: list[str]
    works: bool

    @property
    def name(self) -> str:
        """For the line of a failure."""
        return f"{' '.join(self.arguments)!r:.80}"

    @property
    def typed(self) -> list[str]:
        """How a refusal may name the value: as typed, as the path or the data set that it means; nothing by its argument's name."""
        flag, value = [*self.arguments, ""][:2]
        if not value.strip():
            return [flag]
        return [value, str(Path(value)), *([value.split(":")[1]] if value.startswith("tfds:") else [])]


def given(flag: str, works: tuple[str, ...], refused: tuple[str, ...]) -> list[Given]:
    """An argument with each of these values."""
    return [Given([flag, value], value in works) for value in (*works, *refused)]


# Names in the arena; `lay_odd_things` says what lies there.
NO_FOLDER = ("file", "file/below", "", "/proc/nowhere/x", FULL, "loop", "nowhere", "/dev/null", "/dev/null/x")
FOLDERS = ("new", "a b/c  d", "日本語", "empty", "./new/../new2/", "pictures", "~", "%s{}$HOME")
WORKDIRS = [*given("--workdir", FOLDERS, (*NO_FOLDER, "alien")), Given(["--workdir"], False)]
WHERE = ("run", "./run/", "run/../run", "link", "run/last", "run/last/40", "run/milestones", "run/milestones/10")
NO_RUN = (
    "missing", "file", "run/config.json", "run/last/7", "run/tensorboard", "empty", "", "/dev/null", "/proc", FULL, "loop",
    "nowhere", "images.npy", "pictures", "~", "run\n", "run/best/..x", "broken",
)  # fmt: skip
NO_STEP = ("0", "-1", "7", "41", "40.0", "4e1", "forty", "", "1" + "0" * 30, "9" * 5000, "nan", "None")
NO_WEIGHTS = ("Averaged", "average", "x", "", "step", "averaged params", "../params")
NO_IMAGES = (
    "photograph", "missing", "missing.npy", "file", "empty", "pictures", "images.npy", "broken.npy", "tfds:", "tfds:nothing",
    "tfds:nothing:test", "TFDS:mnist", "", FULL, f"{FULL}.npy", "loop", "nowhere", "run", "/dev/null", "http://example.org/x.npy",
    "photographs ",
)  # fmt: skip
NO_COMPANY = ("missing", "run", "./run/", "link", "file", "empty", "", "nowhere", FULL, "elsewhere/run")
NO_STAGE = ("Architecture", "architecure", "", "architecture,denoising", "all", "3", "--", "../run")
ARGUMENTS = [
    *given("--ckpt", WHERE, NO_RUN), *given("--step", ("40", "36", "+40", " 40", "040"), NO_STEP),
    *given("--weights", ("averaged", "params"), NO_WEIGHTS), *given("--images", ("photographs", "whole.npy"), NO_IMAGES),
    *given("--outdir", FOLDERS, NO_FOLDER), *given("--beside", ("beside",), NO_COMPANY),
    *given("--only", ("architecture",), NO_STAGE), *given("--redo", ("denoising",), (*NO_STAGE, "samples")),
    *(Given([flag], False) for flag in ("--ckpt", "--step", "--weights", "--images", "--outdir", "--beside", "--only", "--redo")),
]  # fmt: skip
RECORDED = {"--ckpt": "{}, step ", "--step": ", step {}, ", "--weights": ", {}"}  # in the summary's line on the checkpoint

BEGINNING = "from configs.default import get_config as default\n\ndef get_config():\n    config = default()\n"
UNLOCKED = f"{BEGINNING}    with config.unlocked(), config.train.unlocked(), config.train.ignore_type():\n        "
GIVEN_INSTEAD = ("None", "{}", "5", "'text'", "[]", "{'a': 1}")
# Of a configuration file; None is no file, "/" a folder.
GOOD_FILES = {
    "one that prints": f"print('hello')\n{BEGINNING}    return config.copy_and_resolve_references()",
    "one from Windows": f"\ufeff{BEGINNING}    return config".replace("\n", "\r\n"),
    "a changed setting": f"{BEGINNING}    config.train.flip = True\n    return config",
}
BAD_FILES = {
    "none": None,
    "a folder": "/",
    "nothing in it": "",
    "no Python": "def get_config(:",
    "a web page": "<html>404</html>",
    "zeros": "\0\0\0",
    "what raises": "raise ValueError('first\\nsecond')",
    "what raises in silence": "raise Exception",
    "what divides by 0": "1 / 0",
    "what imports nothing": "import nowhere",
    "what calls itself": "def f():\n    f()\n\nf()",
    "what wants memory": "raise MemoryError",
    "what leaves": "raise SystemExit",
    "what leaves with a code": "import sys\nsys.exit(3)",
    "no get_config": "config = {}",
    "get_config is no function": "get_config = 3",
    "get_config wants more": "def get_config(more):\n    return more",
    "get_config raises": "def get_config():\n    raise KeyError('x')",
    "get_config raises in silence": "def get_config():\n    assert False",
    "get_config leaves": "def get_config():\n    raise SystemExit",
    "get_config yields": f"{BEGINNING}    yield config",
    **{f"get_config gives {value}": f"def get_config():\n    return {value}" for value in GIVEN_INSTEAD},
    "an empty configuration": "from ml_collections import ConfigDict\n\ndef get_config():\n    return ConfigDict()",
    "a misspelt setting": f"{BEGINNING}    config.train.epoch = 3\n    return config",
    "a word for a number": f"{BEGINNING}    config.train.epochs = 'many'\n    return config",
    "a word for a number, unchecked": f"{UNLOCKED}config.train.epochs = 'many'\n    return config",
    "a list for a number, unchecked": f"{UNLOCKED}config.train.batch_size = [8]\n    return config",
    "no number": f"{BEGINNING}    config.train.epochs = float('nan')\n    return config",
    "a section less": f"{UNLOCKED}del config.noise\n    return config",
    "a setting less": f"{UNLOCKED}del config.train.crop\n    return config",
    "a number for a section": f"{UNLOCKED}config.evaluate = 3\n    return config",
    "a section more": f"{UNLOCKED}config.other = 3\n    return config",
    "a setting more": f"{UNLOCKED}config.train.other = 3\n    return config",
    "a function for a setting": f"{UNLOCKED}config.train.flip = print\n    return config",
}
CONFIGURATIONS = [(name, text, name in GOOD_FILES) for name, text in (GOOD_FILES | BAD_FILES).items()]
NAMES = ("mine.py", "a b.py", "日本語.py", "class.py", "3.py", "-.py", "my.config.py")

FREE = "a free one"  # address of this machine
# (coordinator, processes, process) with devices.distributed, and whether it works.
COMPANY = (
    ((FREE, 1, 0), True), (("", 0, 0), False), ((" ", 1, 0), False), (("host", 1, 0), False), (("localhost:port", 1, 0), False),
    ((":1", 2, 1), False), (("1.2.3.4:99999", 1, 0), False), (("localhost:-1", 1, 0), False), ((FREE, 2, 0), False),
    ((FREE, 2, 1), False), ((FREE, -1, 0), False), ((FREE, 0, 0), False), ((FREE, 1, 1), False), ((FREE, 2, -1), False),
    ((FREE, 10**9, 0), False), (("nowhere.invalid:1234", 2, 1), False), (("a:b:1234", 2, 1), False), (("ä数", 2, 0), False),
)  # fmt: skip


def attacks(scene: Scene) -> Iterator[Attack]:
    """A part of each list, which the seed draws."""
    drawn = random.Random(f"{scene.seed} arguments")
    for name, text, works in drawn.sample(CONFIGURATIONS, scene.many(3, len(CONFIGURATIONS))):
        yield Attack("configuration files", ANSWERED, name, functools.partial(configuration, scene, text, works))
    for one in drawn.sample(WORKDIRS, scene.many(1, 10)):
        yield Attack("train.py, its arguments", ANSWERED, one.name, lambda _, one=one: workdir(scene, one))
    for one in drawn.sample(ARGUMENTS, scene.many(3, 60)):
        yield Attack("analyze.py, its arguments", ANSWERED, one.name, lambda _, one=one: argument(scene, one))
    for company, works in drawn.sample(COMPANY, scene.many(1, 12)):
        name = f"address {company[0]!r}, {company[1]} processes, process {company[2]}"
        yield Attack("train.py, told of other processes", ANSWERED, name, lambda _, told=(company, works): several(scene, *told))


def lay_odd_things(arena: Path) -> None:
    """What is no run, and what is no image, to be named by arguments."""
    (arena / "file").write_text("nothing\n")
    (arena / "loop").symlink_to("loop")
    (arena / "nowhere").symlink_to("missing/too")
    for folder in ("empty", "pictures", "alien", "broken"):
        (arena / folder).mkdir()
    (arena / "pictures" / "1.png").write_bytes(b"no picture")
    (arena / "alien" / "metrics.jsonl").write_text("of another program\n")
    (arena / "broken" / "_CHECKPOINT_METADATA").write_text("{")
    np.save(arena / "images.npy", np.zeros((3, 5, 5), np.float32))
    np.save(arena / "whole.npy", np.random.default_rng(0).integers(0, 256, (24, 12, 12, 1), np.uint8))
    (arena / "broken.npy").write_bytes(b"\x93NUMPY")


def configuration(scene: Scene, text: str | None, works: bool, chance: random.Random) -> None:
    """A file with one of the names, and with this in it, is what a run is to be configured by."""
    path = scene.clear() / chance.choice(NAMES)
    if text == "/":
        path.mkdir()
    elif text is not None:
        path.write_text(text)
    command = scene.training(**SHORT)
    command[command.index("--config") + 1] = str(path)
    result = scene.do(command)
    judge(result, "train.py", [str(path)], works)
    recorded = scene.run / "config.json"
    require(works == recorded.exists(), "nothing recorded" if works else "recorded, though refused")
    if works:
        require(json.loads(recorded.read_text())["train"]["flip"] == ("flip = True" in text), "another value in silence")


def workdir(scene: Scene, one: Given) -> None:
    """One step of training there, or a refusal."""
    lay_odd_things(scene.clear())
    result = scene.do([*scene.training(**SHORT), *one.arguments])
    judge(result, "train.py", one.typed, one.works)
    if one.works:
        require((scene.arena / one.arguments[-1] / "config.json").exists(), "the run is elsewhere")


def argument(scene: Scene, one: Given) -> None:
    """The smallest analysis, or a refusal; what it recorded is what was typed."""
    arena = scene.lay_trained()
    lay_odd_things(arena)
    (arena / "link").symlink_to("run")
    shutil.copytree(scene.run, arena / "elsewhere" / "run")
    shutil.copytree(scene.run, arena / "beside")
    flag, value = [*one.arguments, ""][:2]
    result = scene.do([*scene.describing(), "--outdir", "results", *one.arguments])
    judge(result, "analyze.py", one.typed, one.works)
    outdir = arena / (value if flag == "--outdir" and one.works else "results")
    require((outdir / "summary.json").exists() == one.works, "nothing recorded" if one.works else "recorded, though refused")
    if one.works:
        facts = json.loads((outdir / "summary.json").read_text())["facts"]
        held = RECORDED.get(flag, "").format(int(value) if flag == "--step" else value)
        require(held in facts["checkpoint"], f"{flag} was given as {value!r}, and taken is {facts['checkpoint']!r}")
        require(flag != "--images" or facts["images"].startswith(images_of(value)), f"other images: {facts['images']!r}")


def images_of(value: str) -> str:
    """How the summary begins to say what was analysed."""
    return "512 images of photographs" if value == "photographs" else "24 images of "


def several(scene: Scene, company: tuple[str, int, int], works: bool) -> None:
    """One step of training by a process that is told of others, none of which is there."""
    scene.clear()
    coordinator, processes, process = company
    names = ("devices.distributed", "devices.coordinator", "devices.processes", "devices.process")
    values = (True, running.free_address() if coordinator == FREE else coordinator, processes, process)
    settings = dict(zip(names, values, strict=True))

    def hurry() -> None:
        from unetrep_jax import devices

        devices.SECONDS_TO_MEET = SECONDS_TO_MEET

    command = [*scene.training(**SHORT), *running.as_flags(settings | {"devices.cpu_devices": 1})]
    result = scene.start(command, hurry).wait(children.PATIENCE if works else 5 * SECONDS_TO_MEET)
    judge(result, "train.py", names[1:], works)
    if works:
        recorded = json.loads((scene.run / "config.json").read_text())["devices"]
        require({name: recorded[name.removeprefix("devices.")] for name in names} == settings, f"other settings: {recorded}")


def judge(result: children.Result, script: str, typed: Sequence[str], works: bool) -> None:
    """Whether what works ended well, and what does not with a line that holds one of the words that were typed."""
    shown = f"{typed!r:.400}: code {result.code}, {result.err[-600:]!r}"
    require_no_traceback(result)
    if works:
        require(result.code == 0, f"did not work: {shown}")
        return
    require(result.code == 2, f"not refused: {shown}")
    lines = told_lines(result)
    require(len(lines) == 1 and lines[0].startswith(f"{script}: "), f"not one line: {shown}")
    line = lines[0].removeprefix(f"{script}: ")
    require(naming.has_reason(line), f"says not what is wrong and what to do: {shown}")
    require(any(naming.spelt(word, line) for word in typed), f"does not name it: {shown}")
