"""Two at once: two runs in one folder, two analyses of one checkpoint, a cache that two processes need."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import running

from faults import children, phases, same
from faults.attack import Attack, Missed, require, require_ended_well, require_one_line
from faults.preparation import Preparation
from faults.scene import Reference, Scene

REFUSED = "the second is refused with one line, the first ends as if it had been alone"
WAITS = "the second waits, and both get the same"
ONCE = "one makes it, and all get the same"
NO_MIX = "the first is refused with one line, or goes on with the same settings; never with the second's under its own"
TAKEN = 10  # file operations, after which a command has taken its folder
LOCKED = 3  # the first file operation of a decoding that has its lock
LONG = 60  # seconds, after which the others should have said that they wait
WAITING = "waiting for another process"
OTHER = {"train__learning_rate": 0.0005}  # than usual
APART = "both end as if they had been alone"


def attacks(scene: Scene) -> Iterator[Attack]:
    """Pairs of commands, the second begun at a random moment of the first."""
    for number in range(scene.many(2, 10)):
        yield Attack("two runs in one folder", REFUSED, f"pair {number}", lambda chance: two_runs(scene, chance))
    for number in range(scene.many(2, 10)):
        yield Attack("two analyses of one run", REFUSED, f"pair {number}", lambda chance: two_analyses(scene, chance))
    for number in range(scene.many(2, 20)):
        yield Attack("a cache made twice", WAITS, f"pair {number}", lambda chance: two_caches(scene, chance))
    for number in range(scene.many(1, 5)):
        yield Attack(
            "training on while analysed", APART, f"pair {number}", lambda chance: analysis_beside(scene, chance)
        )
    for number in range(scene.many(1, 4)):
        yield Attack("a cache begun twice", ONCE, f"pair {number}", lambda chance: cache_begun_twice(scene, chance))
    for number in range(scene.many(1, 8)):
        changed, killed = (OTHER, {})[number % 2], number % 4 > 1
        name = f"{'other' if changed else 'the same'} settings, the second {'killed' if killed else 'to its end'}"
        act = lambda chance, changed=changed, killed=killed: two_runs_begun(scene, chance, changed, killed)  # noqa: E731
        yield Attack("two runs begun at once", NO_MIX, name, act)


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


def two_runs_begun(scene: Scene, chance: random.Random, changed: dict[str, object], killed: bool) -> None:
    """The first stands still between its look at an empty folder and its lock, while the second makes a run there, or a part."""
    reference = scene.trained()
    taken = reference.operations.index("run/.lock") + 1
    begun = reference.operations.index("run/config.json") + 2  # the first file operation at which the folder is the second's
    scene.clear()
    first = frozen(scene, lambda before: scene.start(scene.training(**changed), before), chance.randint(1, taken))
    moment = chance.randint(begun, reference.writes)
    before = children.signal_at_write(moment, scene.arena, signal.SIGKILL) if killed else lambda: None
    second = scene.do(scene.training(), before)
    require(second.code == -signal.SIGKILL if killed else second.code == 0, f"the second: {second.code}, {second.err[-600:]}")
    left = same.folder_content(scene.run)
    children.remove(scene.folder / "frozen")
    result = first.wait()
    if changed:
        require_one_line(result, "train.py", next(iter(changed)).replace("__", "."))
        same.require_same(same.folder_content(scene.run), left, "the second's run")
    else:
        require_ended_well(result, "the first")
    if changed and killed:
        require_ended_well(scene.do(scene.training()), "the second, again")
    same.require_same(same.run_content(scene.run), reference.content, "the run")
    same.require_tidy(scene.arena)


def two_caches(scene: Scene, chance: random.Random) -> None:
    """Three processes open the same images, of which the first stands still for as long as the others do not say that they wait."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    first = frozen(scene, preparation.start, chance.randint(LOCKED, reference.writes))
    rows = children.fresh(scene.folder / "rows of others")
    others = [preparation.start(lambda number=number: phases.follow_rows(rows / str(number))) for number in range(2)]
    waiting = [child.wait_until(lambda child=child: child.printed(1).endswith("\n"), LONG) for child in others]
    release(scene, first)
    results = [child.wait() for child in others]
    require(all(waiting), f"{waiting.count(False)} did not wait, or did not say so: {[result.err[-300:] for result in results]}")
    for result in results:
        lines = result.err.splitlines()
        require(len(lines) == 1 and WAITING in lines[0], f"it should say that it waits, once: {result.err[-600:]}")
    made = [path.name for path in rows.iterdir() if phases.followed(path).appended]
    require(not made, f"{len(made)} of the others decoded images, too")
    require_same_images(scene, reference, [first.wait(), *results])


def cache_begun_twice(scene: Scene, chance: random.Random) -> None:
    """The first stands still before it has the lock, while another process makes the cache."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    rows = scene.folder / "rows"
    children.remove(rows)
    begin = lambda before: preparation.start(lambda: (phases.follow_rows(rows), before()))  # noqa: E731
    first = frozen(scene, begin, chance.randint(1, LOCKED - 1))
    second = preparation.start().wait()
    release(scene, first)
    require(not phases.followed(rows).appended, "the first decoded images, too")
    require_same_images(scene, reference, [first.wait(), second])


def require_same_images(scene: Scene, reference: Reference, results: Sequence[children.Result]) -> None:
    """All processes ended well and got the same images; the cache is as one process makes it."""
    for result in results:
        require_ended_well(result)
    sums = [json.loads(result.out)["sum"] for result in results]
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
