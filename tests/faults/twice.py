"""Two at once: two runs in one folder, two analyses of one checkpoint, a cache that two processes need."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import running

from faults import children, same
from faults.attack import Attack, Missed, require, require_ended_well, require_one_line
from faults.preparation import Preparation
from faults.scene import Scene

REFUSED = "the second is refused with one line, the first ends as if it had been alone"
WAITS = "the second waits, and both get the same"
TAKEN = 10  # file operations, after which a command has taken its folder
APART = "both end as if they had been alone"


def attacks(scene: Scene) -> Iterator[Attack]:
    """Pairs of commands, the second begun at a random moment of the first."""
    for number in range(scene.many(2, 10)):
        yield Attack("two runs in one folder", REFUSED, f"pair {number}", lambda chance: two_runs(scene, chance))
    for number in range(scene.many(2, 10)):
        yield Attack("two analyses of one run", REFUSED, f"pair {number}", lambda chance: two_analyses(scene, chance))
    for number in range(scene.many(3, 20)):
        yield Attack("a cache made twice", WAITS, f"pair {number}", lambda chance: two_caches(scene, chance))
    for number in range(scene.many(1, 5)):
        yield Attack(
            "training on while analysed", APART, f"pair {number}", lambda chance: analysis_beside(scene, chance)
        )


def frozen(scene: Scene, begin: Callable, moment: int) -> children.Child:
    """A command that stands still right before so manieth file operation, until `release`."""
    sign = scene.folder / "frozen"
    children.remove(sign)
    first = begin(children.freeze_at(moment, scene.arena, sign))
    if not first.wait_until(sign.exists):
        raise Missed("the first had ended")
    return first


def release(scene: Scene, first: children.Child) -> None:
    """Lets it go on, to a good end."""
    children.remove(scene.folder / "frozen")
    require_ended_well(first.wait(), "the first")


def refuse_second(scene: Scene, chance: random.Random, command: list[str], writes: int) -> None:
    """The command, begun again while it stands still after one of its `writes` file operations, is refused; then the first ends."""
    first = frozen(scene, lambda before: scene.start(command, before), chance.randint(TAKEN, writes))
    second = scene.do(command)
    release(scene, first)
    require_one_line(second, Path(command[0]).name, "in use by another process")
    same.require_tidy(scene.arena)


def two_runs(scene: Scene, chance: random.Random) -> None:
    """The second begins while the first is anywhere behind its first file operations, with which it takes the folder."""
    reference = scene.trained()
    scene.clear()
    refuse_second(scene, chance, scene.training(), reference.writes)
    same.require_same(same.run_content(scene.run), reference.content, "the run")


def two_analyses(scene: Scene, chance: random.Random) -> None:
    """The same of two analyses, all of whose stages are to be made."""
    reference = scene.analysed()
    scene.lay(scene.trained())
    refuse_second(scene, chance, scene.analysis(), reference.writes)
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")


def two_caches(scene: Scene, chance: random.Random) -> None:
    """Three processes open the same images, of which the first stands still for a while."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    first = frozen(scene, preparation.start, chance.randint(1, reference.writes))
    others = [preparation.start() for _ in range(2)]
    time.sleep(0.5)
    release(scene, first)
    sums = [json.loads(first.printed())["sum"]]
    for child in others:
        result = child.wait()
        require_ended_well(result)
        sums.append(json.loads(result.out)["sum"])
    require(len(set(sums)) == 1, f"they got different images: {sums}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the cache")
    same.require_tidy(scene.arena)


def analysis_beside(scene: Scene, chance: random.Random) -> None:
    """A run that saves at every step, and keeps two of each, is analysed again and again, into another folder, as it goes on."""
    reference = scene.trained()
    scene.clear()
    changed = {"train__epochs": 100_000, "checkpoint__every": 1, "checkpoint__keep": 2, "evaluate__every": 3}
    first = scene.start(scene.training(**changed))
    try:
        begun = lambda: len(list((scene.run / "best").glob("[0-9]*/manifest.json"))) > 1  # noqa: E731
        if not first.wait_until(begun):
            raise Missed("the training had ended")
        for number in range(3):
            time.sleep(chance.uniform(0, 0.3))
            out = scene.arena / f"out{number}"
            second = scene.do(scene.place.analysis(scene.run, "--outdir", out, "--only", "architecture"))
            require_ended_well(second, f"analysis {number}")
            require((out / "report.html").stat().st_size > 0, "no report")
        if first.poll() is not None:
            raise Missed(f"the training had ended with {first.poll()}: {first.printed(1)[-600:]}")
    finally:
        first.send(signal.SIGTERM)
        ended = first.wait()
    require_ended_well(ended, "the training")
    require("stopped by SIGTERM" in ended.out and ended.err == "", f"the training: {ended.err[-600:]}")
    found, right = losses(scene.run), losses(reference.folder / "run")
    shared = [step for step in found if step in right and step < 40]
    require(len(shared) > 2 and all(found[step] == right[step] for step in shared), "other losses than alone")


def losses(run: Path) -> dict[int, float]:
    """Step -> loss."""
    return {line["step"]: line["loss"] for line in running.log_lines(run) if "loss" in line}
