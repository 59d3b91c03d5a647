"""Kills: processes ended by the system, or asked to end, at any moment, and started again with the same command.

Moments are drawn from all file operations of the undisturbed command, from its whole duration, and from within steps, evaluations
and saves, or the stages of a kind. What each kill hit is counted.
"""

import itertools
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from faults import children, phases, programs, same, users
from faults.attack import (
    SOONER,
    Attack,
    Chance,
    Missed,
    about,
    require,
    require_ended_well,
    require_no_traceback,
    told_lines,
)
from faults.preparation import Preparation
from faults.scene import Reference, Scene

# What is killed -> the stages that an analysis then makes anew, with what they keep.
STAGES = {
    "feature sweeps": ("representations", "untrained"),
    "samples": ("samples", "drawn", "training_phi"),
    "reconstructions": ("reconstructions", "reconstructed"),
    "clustering": ("clusters", "clusters_kept"),
    "explorer": ("explorer", "fires", "explorer_kept"),
    "report": ("figures", "report.html"),
}
KILLED = "the same command goes on to bit for bit the undisturbed arrays, checkpoints, metrics and reports; nothing else stays"
ASKED = "it ends with one line at most, and loses one step at most; the same command goes on, to bit for bit the same"
EVERY_STEP = {"log__every": 1}  # so that the log tells at which step a process was asked
OPERATION, TIME = "at a file operation", "at any time"
BEGUN = 7  # so often, at least, a training begins each of `phases.OF_TRAINING`
SOON = 0.005  # seconds, within which what has begun is to be hit
BATCH = 0.05  # seconds, within which a batch of an analysis is
AIMS = ("recorded", "state", "within", "anywhere")  # of the kills of a kind of stages, in turn
ANALYSED = "run/analysis/"
RECORDED = re.compile(r"(^|/)(progress\.json|[0-9a-f]{16}\.npz)$")  # what gets its name when an analysis keeps a part of a stage
WHOLE, STATE = re.compile(r"complete\.json$"), re.compile(r"\.state\.npz$")


def attacks(scene: Scene) -> Iterator[Attack]:
    """The kills, and the requests to stop."""
    for number in range(scene.many(3, 20)):
        name = f"kill {number} while images are decoded"
        yield Attack("data preparation", KILLED, name, lambda chance: kill_preparation(scene, chance, "SIGKILL"))
    within = {f"within {what}": (1, 4) for what in phases.OF_TRAINING}
    for when, count in {OPERATION: (3, 20), TIME: (3, 18), **within}.items():
        for number in range(scene.many(*count)):
            name = f"kill {number} of train.py"
            yield Attack(f"training, {when}", KILLED, name, lambda chance, w=when: kill_training(scene, chance, w))
    yield from of_analyses(scene, "SIGKILL", KILLED, 1, 7)
    for number in range(scene.many(1, 5)):
        name = f"kill {number} while a program is kept"
        yield Attack("compiled programs", programs.COMPILED, name, lambda chance: programs.kill_writing(scene, chance))
    for script, counts in users.KILLS.items():
        for times in counts * scene.many(1, 3):
            act = lambda chance, script=script, times=times: users.kill(scene, script, times, chance)  # noqa: E731
            yield Attack(f"{script} as users start it", users.SAME, f"{script}, killed {times} times", act)
    for name in ("SIGTERM", "SIGINT"):
        for number in range(scene.many(2, 10)):
            act = lambda chance, name=name, timed=number % 2 == 1: ask_training(scene, name, chance, timed)  # noqa: E731
            yield Attack(f"training, {name}", ASKED, f"{name} {number}", act)
        yield from of_analyses(scene, name, ASKED, 1, 2)
    for name in ("SIGTERM", "SIGINT"):
        for number in range(scene.many(1, 3)):
            act = lambda chance, name=name: kill_preparation(scene, chance, name)  # noqa: E731
            yield Attack(f"data preparation, {name}", ASKED, f"{name} {number} while images are decoded", act)


def of_analyses(scene: Scene, name: str, promise: str, short: int, long: int) -> Iterator[Attack]:
    """Signals in each kind of stage; with --long in the other stages too, once."""
    kinds = dict.fromkeys(STAGES, scene.many(short, long))
    if name != "SIGKILL" and not scene.long:
        kinds = {"samples": short, "report": short}
    if name == "SIGKILL" and scene.long:
        known = {stage for stages in STAGES.values() for stage in stages}
        kinds |= {stage: 1 for stage in scene.stages if stage not in known}
    for what, count in kinds.items():
        for number in range(count):
            row = what if name == "SIGKILL" else f"analysis, {name}"
            aim = AIMS[number % len(AIMS)]
            act = lambda chance, what=what, aim=aim: kill_analysis(scene, what, chance, name, aim)  # noqa: E731
            yield Attack(row, promise, f"{name} {number} in {what}", act)


def made_anew(what: str) -> tuple[str, ...]:
    """The stages of a kind, or one of the others by its name, with what they keep."""
    if what in STAGES:
        return STAGES[what]
    from unetrep_jax.stages.running import STAGES as ALL

    return (what, *ALL[what].keeps)


def unmet(hit: set[str]) -> list[str]:
    """What a long campaign must have hit, and did not."""
    parts = {f"{what} of a training": (what,) for what in phases.OF_TRAINING}
    parts |= {f"{what} of an analysis": names for what, names in STAGES.items()}
    parts |= {f"an analysis {what}": (what,) for what in (phases.HAD_ROWS, phases.HAD_STATE)}
    parts |= {"the decoding of images": (phases.DECODING,)}
    return [f"kills: none hit {what}" for what, names in parts.items() if hit.isdisjoint(map(phases.part_of, names))]


def moment(
    reference: Reference,
    folder: Path,
    chance: Chance,
    number: int,
    timed: bool,
    note: Callable[[], Any] = lambda: None,
) -> Callable[[], None]:
    """Of a command like the reference: a signal at a random time, or file operation, after a note."""
    if timed:
        return children.signal_after(chance.moment(reference.seconds), number, note)
    return children.signal_at_write(chance.randint(1, reference.writes), folder, number, note)


def moment_within(
    reference: Reference, folder: Path, chance: Chance, number: int, timed: bool, what: str, aim: str
) -> Callable[[], None]:
    """Of an analysis: a signal at a file operation of the stages of a kind, or soon after one."""
    names = {phases.part_of(name) for name in made_anew(what)}
    paths = {place: path.removeprefix(ANALYSED) for place, path in enumerate(reference.operations, 1)}
    within = [place for place, path in paths.items() if phases.part_of(path) in names]
    aimed = {"recorded": while_recorded, "state": behind_states}.get(aim, lambda _: ())(reference.operations)
    position = chance.choice([place for place in within if place in aimed] or within)
    if timed:
        return phases.signal_after_write(position, folder, chance.uniform(0, BATCH) * SOONER**chance.attempt, number)
    return children.signal_at_write(position, folder, number)


def named(operations: Sequence[str], pattern: re.Pattern) -> set[int]:
    """The file operations with which a file of such a name gets it: right behind those on what it is called until then."""
    pairs = enumerate(itertools.pairwise(operations), 2)
    before = {place: Path(path).with_name(f".{Path(path).name}.partial") for place, (_, path) in pairs if pattern.search(path)}
    return {place for place, partial in before.items() if Path(operations[place - 2]) == partial}


def while_recorded(operations: Sequence[str]) -> set[int]:
    """The file operations of an analysis at which a part of a stage is recorded, and there is more of it to come."""
    begins, ends, found, recorded = named(operations, RECORDED), named(operations, WHOLE), set(), False
    for place in range(1, len(operations) + 1):
        found |= {place} if recorded else set()
        recorded = place not in ends and (recorded or place in begins)
    return found


def behind_states(operations: Sequence[str]) -> set[int]:
    """The file operations of an analysis right behind those with which the state of a batch is kept."""
    return {place + more for place in named(operations, STATE) for more in (1, 2, 3, 4)}


def kill_preparation(scene: Scene, chance: Chance, name: str) -> list[str]:
    """While a folder of images is decoded; returns what it was at. Rows that were recorded must not be made again."""
    preparation, number = Preparation(scene), getattr(signal, name)
    reference = preparation.reference()
    note, rows = scene.folder / "phase", scene.folder / "rows"
    scene.clear(), children.remove(rows)
    kill = moment(reference, scene.arena, chance, number, chance.random() < 0.3)
    follow = lambda: (phases.follow_preparation(scene.arena, phases.noting(note)), phases.follow_rows(rows))  # noqa: E731
    result = preparation.start(lambda: (follow(), kill())).wait()
    require_ended_by(result, number)
    hit, killed, left = phases.noted(note), phases.followed(rows), phases.progress(scene.arena)
    require_ended_well(preparation.start(lambda: phases.follow_rows(rows)).wait())
    with about(f"killed at {hit}"):
        if not any(scene.arena.glob("[!.]*")):  # what has its name needs no rows any more
            phases.require_recorded(killed, left)
        phases.require_gone_on(left, phases.followed(rows))
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    same.require_tidy(scene.arena)
    return [hit]


def require_ended_by(result: children.Result, number: int) -> None:
    """A signal ended it, as it should: with its code, and one line at most."""
    if result.code == 0:
        raise Missed("it had ended before")
    codes = (-number, 130) if number == signal.SIGINT else (-number,)
    require(result.code in codes, f"code {result.code}: {result.err[-600:]}")
    require_no_traceback(result)
    require(number == signal.SIGKILL or len(told_lines(result)) <= 1, f"more than a line: {result.err[-600:]}")


def kill_training(scene: Scene, chance: Chance, when: str) -> list[str]:
    """One to three times in a row; returns what it was at."""
    reference = scene.trained()
    scene.clear()
    hit, note = [], scene.folder / "phase"
    for _ in range(chance.randint(1, 3)):
        if when in (OPERATION, TIME):
            before = noted_moment(reference, scene, chance, when == TIME, note)
        else:
            what, times = when.removeprefix("within "), chance.randint(1, BEGUN)
            before = phases.signal_within(what, times, chance.uniform(0, SOON), signal.SIGKILL, note)
        result = scene.do(scene.training(), before)
        require(result.code in (0, -signal.SIGKILL), f"ended with {result.code}: {result.err[-600:]}")
        hit += [phases.noted(note)] if result.code else []
    if not hit:
        raise Missed("it had ended before")
    finish_training(scene, reference)
    return hit


def noted_moment(reference: Reference, scene: Scene, chance: Chance, timed: bool, note: Path) -> Callable[[], None]:
    """A `moment` of a training that notes what it is at."""
    kill = moment(reference, scene.arena, chance, signal.SIGKILL, timed)
    return lambda: (phases.follow_training(phases.noting(note)), kill())


def finish_training(scene: Scene, reference: Reference, saved: int = 0, **changed: object) -> None:
    """The same command once more. The checkpoint of a step that was `saved` on request may have the place of the oldest one."""
    require_ended_well(scene.do(scene.training(**changed)))
    found, expected = same.run_content(scene.run), reference.content
    if f"last/{saved}" in found.keys() - expected.keys():
        oldest = min((name for name in expected if re.fullmatch(r"last/\d+", name)), key=lambda name: int(name[5:]))
        found, expected = same.without(found, f"last/{saved}"), same.without(expected, oldest)
    same.require_same(found, expected, "the run")
    same.require_tidy(scene.arena)


def logged_step(scene: Scene) -> int:
    """The last step that the log has whole."""
    log = scene.run / "metrics.jsonl"
    lines = log.read_bytes().splitlines(keepends=True) if log.exists() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith(b"\n")), default=0)


def ask_training(scene: Scene, name: str, chance: Chance, timed: bool) -> None:
    """It saves at that very step; before there is anything to save, it just ends."""
    reference, number = scene.trained(**EVERY_STEP), getattr(signal, name)
    scene.clear()
    asked = scene.folder / "asked"
    asked.write_text("0")
    before = moment(reference, scene.arena, chance, number, timed, lambda: asked.write_text(str(logged_step(scene))))
    result = scene.do(scene.training(**EVERY_STEP), before)
    require_no_traceback(result)
    told = re.search(rf"stopped by {name} at step ([\d,]+), saved", result.out)
    if result.code == 0 and not told:
        raise Missed("it had ended before")
    at, saved = int(asked.read_text()), int(told[1].replace(",", "")) if told else 0
    if told:
        kept = (scene.run / "last" / str(saved) / "manifest.json").exists()
        require(result.code == 0 and kept and result.err == "", f"not saved where it says: {result.err[-600:]}")
        require(logged_step(scene) == saved, f"step {logged_step(scene)} was made, step {saved} saved")
        # The step that it was at was not in the log yet; while the signal was on its way, another may have ended.
        require(at <= saved <= at + 1 + timed, f"asked at step {at + 1}, it went on to step {saved}")
    else:
        early = {"SIGTERM": (-signal.SIGTERM,), "SIGINT": (130,)}[name]
        require(result.code in early and len(result.err.splitlines()) <= 1, f"code {result.code}: {result.err[-600:]}")
        require(at == 0, f"asked at step {at + 1}, it ended and saved nothing")
    finish_training(scene, reference, saved, **EVERY_STEP)


def kill_analysis(scene: Scene, what: str, chance: Chance, name: str = "SIGKILL", aim: str = "within") -> list[str]:
    """While the stages of this kind are made; returns what was changed last, and what there was to go on from.

    What was finished then, and rows and states that were recorded, must not be made again; what was not recorded is one batch.
    """
    stages, number = made_anew(what), getattr(signal, name)
    reference = scene.without(stages)
    scene.lay(scene.analysed())
    for stage in stages:
        children.remove(scene.run / "analysis" / stage)
    timed, note, rows = chance.random() < 0.3, scene.folder / "phase", scene.folder / "rows"
    children.remove(rows)
    if aim == "anywhere":
        kill = moment(reference, scene.arena, chance, number, timed)
    else:
        kill = moment_within(reference, scene.arena, chance, number, timed, what, aim)
    follow = lambda: phases.follow_analysis(scene.run / "analysis", phases.noting(note))  # noqa: E731
    result = scene.do(scene.analysis(), lambda: (follow(), phases.follow_rows(rows), kill()))
    require_ended_by(result, number)
    hit, made = phases.noted(note), hold(scene.run / "analysis", children.fresh(scene.folder / "held"))
    killed, left = phases.followed(rows), phases.progress(scene.run / "analysis")
    require_ended_well(scene.do(scene.analysis(), lambda: phases.follow_rows(rows)))
    with about(f"killed in {hit}"):
        again = [path.name for held, path in made.items() if path.exists() and not path.samefile(held)]
        require(not again, f"it made again what it had: {again[:4]}")
        phases.require_recorded(killed, left)
        phases.require_gone_on(left, phases.followed(rows))
    same.require_same(same.analysis_content(scene.run), reference.content, "the analysis")
    same.require_tidy(scene.arena)
    return [hit, *left.words]


def hold(analysis: Path, folder: Path) -> dict[Path, Path]:
    """Another name for each array that an analysis has finished, or recorded rows of -> the one that it has in the end.

    What is gone on with stays the same file of the system. What is made anew is another one, which cannot get the number of the
    old one while that has a name.
    """
    found = {}
    for path in sorted(analysis.rglob("*.np[yz]")):
        partial = path.parent.name.startswith(".") and path.parent.name.endswith(".partial")
        if partial and has_rows(path.parent):
            path_then = path.parent.with_name(path.parent.name[1:].removesuffix(".partial")) / path.name
        elif any(part.startswith(".") for part in path.relative_to(analysis).parts):
            continue
        else:
            path_then = path
        held = folder / str(len(found))
        os.link(path, held)
        found[held] = path_then
    return found


def has_rows(partial: Path) -> bool:
    """Whether rows were recorded in a folder."""
    record = partial / "progress.json"
    return record.exists() and json.loads(record.read_text())["done"] > 0
