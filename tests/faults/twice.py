"""Two at once: two runs in one folder, two analyses of one checkpoint, a cache that two processes need."""

import json
import os
import random
from collections.abc import Iterator

from tests.faults import same
from tests.faults.attack import Attack, Missed, require, require_one_line
from tests.faults.preparation import Preparation
from tests.faults.scene import Scene

REFUSED = "the second is refused with one line, the first ends as if it had been alone"
WAITS = "the second waits, and both get the same"
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


def two_runs(scene: Scene, chance: random.Random) -> None:
    """The second begins while the first trains."""
    reference = scene.trained()
    scene.clear()
    first = scene.start(scene.training())
    log, lines = scene.run / "metrics.jsonl", chance.randint(1, 12)
    if not first.wait_until(lambda: log.exists() and log.read_bytes().count(b"\n") >= lines):
        raise Missed("the first had ended")
    second = scene.start(scene.training()).wait()
    if first.poll() is not None:
        raise Missed("the first had ended")
    require_one_line(second, "train.py", "in use by another process")
    require(first.wait().code == 0, f"the first ended with {first.wait().code}: {first.printed(1)[-600:]}")
    same.require_same(same.run_content(scene.run), reference.content, "the run")
    same.require_tidy(scene.arena)


def two_analyses(scene: Scene, chance: random.Random) -> None:
    """The second begins while the first is at some stage."""
    reference = scene.analysed()
    scene.lay(scene.trained())
    stages = chance.randint(0, 3)
    first = scene.start(scene.analysis())
    lock = scene.run / "analysis" / ".lock"
    if not first.wait_until(lambda: lock.exists() and first.printed().count(": done") >= stages):
        raise Missed("the first had ended")
    second = scene.start(scene.analysis()).wait()
    if first.poll() is not None:
        raise Missed("the first had ended")
    require_one_line(second, "analyze.py", "in use by another process")
    require(first.wait().code == 0, f"the first ended with {first.wait().code}: {first.printed(1)[-600:]}")
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    same.require_tidy(scene.arena)


def two_caches(scene: Scene, chance: random.Random) -> None:
    """Three processes open the same images; the first is slow, so that the others meet it."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    moment, counted = chance.randint(1, reference.writes), []

    def pause() -> None:
        from tests.faults import children

        children.on_write(scene.arena, lambda count: children.time.sleep(1.0) if count == moment else None)

    first = preparation.start(pause)
    if not first.wait_until(lambda: any(scene.arena.iterdir())):
        raise Missed("the first had ended")
    others = [preparation.start() for _ in range(2)]
    met = first.poll() is None
    for child in (first, *others):
        result = child.wait()
        require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
        counted.append(json.loads(result.out)["sum"])
    require(len(set(counted)) == 1, f"they got different images: {counted}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the cache")
    same.require_tidy(scene.arena)
    if not met:
        raise Missed("the first had ended before the others began")


def analysis_beside(scene: Scene, chance: random.Random) -> None:
    """A checkpoint is analysed, into another folder, while its run goes on and removes old ones."""
    reference = scene.trained()
    scene.clear()
    first = scene.start(scene.training())
    if not first.wait_until(lambda: any((scene.run / "best").glob("[0-9]*"))):
        raise Missed("the first had ended")
    command = scene.analysis("--outdir", scene.arena / "out")
    command[command.index("--only") + 1 : command.index("--only") + 5] = ["architecture"]
    second = scene.start(command)
    met, result = first.poll() is None, second.wait()
    require(result.code == 0, f"the analysis: code {result.code}, {result.err[-600:]}")
    require(first.wait().code == 0, f"the run: {first.printed(1)[-600:]}")
    same.require_same(same.run_content(scene.run), reference.content, "the run")
    require((scene.arena / "out" / "report.html").stat().st_size > 0 and os.access(scene.arena, os.W_OK), "no report")
    if not met:
        raise Missed("the run had ended")
