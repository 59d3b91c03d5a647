"""Resources: full disks, folders without permission, odd paths, data that is slow or goes away, too little memory."""

import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import running

from faults import children, mounts, phases, places, same
from faults.attack import (
    Absent,
    Attack,
    Broken,
    Impossible,
    Missed,
    about,
    require,
    require_ended_well,
    require_no_traceback,
    require_one_line,
    told_lines,
)
from faults.preparation import Preparation
from faults.scene import Scene

FULL_AT = {"training": (4, 60), "analysis": (4, 25)}  # so many moments, spread over all file operations
DECODING = 150  # which is tried at every one of them, and has fewer
FULL = "one line, nothing half-written; with space again the same command goes on to bit for bit the same"
LINE = "one line; nothing is written"
SAME = "the same numbers, bit for bit"
GONE = "one line, nothing half-written; when they are back the same command goes on to the same images, and makes no row again"
PASSED = "passed over, or refused, by name; it stays as it is, and the run ends up, or is analysed, as one without it"
NOBODY = 65534  # the user, and the group, that own nothing
# Names of folders that no file system takes: in one part, and in many that are each short enough.
TOO_LONG = {"one name": "x" * 300, "a path": "/".join(["x" * 200] * 25)}
MEMORY = "one line or success; with more memory the same command goes on to the same"


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each shortage at several sizes or moments."""
    for what in WORKS:
        for number in range(scene.many(2, 20)):
            act = lambda chance, what=what: full_disk(scene, chance, Work(scene, what))  # noqa: E731
            yield Attack(f"a full disk, {what}", FULL, f"disk {number}", act)
        for number in range(DECODING if what not in FULL_AT else scene.many(*FULL_AT[what])):
            act = lambda chance, what=what, number=number: full_from(scene, Work(scene, what), number)  # noqa: E731
            yield Attack(f"a disk that fills up, {what}", FULL, f"moment {number}", act)
        for number in range(scene.many(2, 20)):
            act = lambda chance, what=what: no_growth(scene, chance, Work(scene, what))  # noqa: E731
            yield Attack(f"no file can grow, {what}", FULL, f"limit {number}", act)
    for what in ("train.py", "analyze.py"):
        yield Attack("a read-only file system", LINE, what, lambda chance, what=what: read_only(scene, what))
        yield Attack("a folder without permission", LINE, what, lambda chance, what=what: no_permission(scene, what))
    yield Attack("a path that is too long", LINE, "train.py", lambda chance: places.too_long(scene))
    for odd in places.UNUSABLE:
        yield Attack("paths for no checkpoint", LINE, repr(odd), lambda chance, odd=odd: places.unusable(scene, odd))
    for path in places.PATHS if scene.long else places.PATHS[:3]:
        yield Attack("odd paths", SAME, repr(path[:20]), lambda chance, path=path: places.odd_path(scene, path))
    yield Attack("symbolic links", SAME, "run folder and images", lambda chance: places.links(scene))
    yield Attack("slow data", SAME, "every file takes 20 ms", lambda chance: places.slow_data(scene))
    for number in range(scene.many(2, 20)):
        yield Attack("data that goes away", GONE, f"moment {number}", lambda chance: vanishing_data(scene, chance))
    for gigabytes in (0.7, 1, 2, 2.4, 3, 4, 8) if scene.long else (1, 4):
        for what in ("train.py", "analyze.py"):
            act = lambda chance, what=what, size=gigabytes: memory(scene, what, size)  # noqa: E731
            yield Attack("too little memory", MEMORY, f"{what}, {gigabytes} GB", act)
    for setting in ("--outdir", "data.cache_dir"):
        for what, name in TOO_LONG.items() if scene.long else [*TOO_LONG.items()][:1]:
            act = lambda chance, setting=setting, name=name: too_long(scene, setting, name)  # noqa: E731
            yield Attack("a path that is too long", LINE, f"{setting}, {what}", act)
    for number in range(scene.many(1, 5)):
        for what in ("train.py", "analyze.py"):
            act = lambda chance, what=what: unreadable(scene, chance, what)  # noqa: E731
            yield Attack("a checkpoint without permission", PASSED, f"{what}, file {number}", act)
    yield Attack("a cache without permission", LINE, "no images in it", lambda chance: closed_cache(scene))
    yield Attack("a cache that may only be read", SAME, "with the images", lambda chance: open_cache(scene))


class Work:
    """Something that a command does in the arena: what it begins with, how it is started, what it leaves.

    Attributes:
      script: whose name begins a refusal.
      largest: the power of two below which no file can be that long for the command to notice.
    """

    def __init__(self, scene: Scene, what: str):
        """`what` is one of WORKS; makes the reference."""
        self.scene, self.what, self.script = scene, what, WORKS[what][0]
        self.largest, self._preparation = WORKS[what][1], Preparation(scene) if what == "decoding images" else None
        references = {"training": scene.trained, "analysis": scene.analysed}
        self.reference = self._preparation.reference() if self._preparation else references[what]()
        self.size = size_of(self.reference.folder)

    def lay(self) -> int:
        """The arena as it is before; returns the bytes that it holds."""
        if self.what == "analysis":
            self.scene.lay_trained()
            return size_of(self.scene.arena)
        self.scene.clear()
        return 0

    def do(self, before: Callable[[], Any] = lambda: None) -> children.Result:
        """Runs it to its end."""
        if self._preparation:
            return self._preparation.start(before).wait()
        return self.scene.do(self.scene.analysis() if self.what == "analysis" else self.scene.training(), before)

    def finish(self) -> None:
        """The same once more, without the shortage: everything is as if nothing had been."""
        require_ended_well(self.do())
        self.require_whole()
        same.require_tidy(self.scene.arena)

    def require_whole(self) -> None:
        """Everything is as the reference."""
        content = {"training": same.run_content, "analysis": same.analysis_content}.get(self.what)
        found = content(self.scene.run) if content else same.folder_content(self.scene.arena)
        same.require_same(found, self.reference.content, "the result")


# What is short of room -> its script, and the longest limit on files, as a power of two, that it is tried with.
WORKS = {"training": ("train.py", 17), "analysis": ("analyze.py", 16), "decoding images": ("train.py", 13)}


FULL_WORDS = ("No space left", "free on the disk", "are free")


def require_full(result: children.Result, script: str, *words: str) -> None:
    """One line that says what is short; a checkpoint or array that could not be read back may be named before."""
    require_no_traceback(result)
    lines = told_lines(result)
    right = result.code == 2 and len(lines) == 1 and lines[0].startswith(f"{script}: ")
    require(right, f"code {result.code}: {result.err[-600:]}")
    require(any(word in lines[0] for word in words), lines[0])


def full_disk(scene: Scene, chance: random.Random, work: Work) -> None:
    """A file system of a random size below what is needed; what the command left there is looked at, and gone on from."""
    mounts.require_mounts(scene.folder)
    held = work.lay()
    free = int(chance.uniform(0.02, 0.8) * (work.size - held))
    left, before = scene.folder / "left", scene.folder / "before"
    for folder in (left, before):
        children.remove(folder)
    shutil.copytree(scene.arena, before)

    def on_small_disk() -> int:
        mounts.small(scene.arena, 1 << 20)
        shutil.copytree(before, scene.arena, dirs_exist_ok=True)
        mounts.leave_free(scene.arena, free)
        result = work.do()
        shutil.copytree(scene.arena, left)
        print(result.err, end="", file=sys.stderr)
        return result.code % 256

    result = children.Child(on_small_disk, scene.folder).wait()
    if result.code == 0:
        raise Missed("it had room enough")
    require_full(result, work.script, *(("--outdir",) if work.what == "analysis" else FULL_WORDS))
    children.remove(scene.arena)
    shutil.copytree(left, scene.arena)
    require_whole_names(scene.arena)
    work.finish()


def full_from(scene: Scene, work: Work, number: int) -> None:
    """From one file operation on nothing new fits on the disk: no file, no folder. What is open can still be written."""
    work.lay()
    writes = work.reference.writes
    if work.what in FULL_AT:
        first = 1 + number * writes // scene.many(*FULL_AT[work.what])
    else:
        require(writes <= DECODING, f"{work.what} takes {writes} file operations, of which {DECODING} are tried")
        first = number + 1
    if first > writes:
        raise Absent("it was full at every file operation")
    result = work.do(lambda: children.fill_up(first, scene.arena))
    require_whole_names(scene.arena)
    if result.code:
        require_full(result, work.script, *FULL_WORDS)
    else:  # what could not be written was not needed
        require(result.err == "", f"it ended well, and says {result.err[-600:]}")
        work.require_whole()
    work.finish()


def size_of(folder: Path) -> int:
    """Bytes of a folder, in blocks of a file system."""
    return sum(-(-path.stat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())


def no_growth(scene: Scene, chance: random.Random, work: Work) -> None:
    """No file may be longer than a random size: a disk that is full for some writes and not for others."""
    work.lay()
    limit = int(2 ** chance.uniform(9, work.largest))
    result = work.do(lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    if result.code == 0:
        raise Missed("nothing was that long")
    require_full(result, work.script, "File too large")
    require_whole_names(scene.arena)
    work.finish()


def require_whole_names(folder: Path) -> None:
    """Nothing below has its final name and is not whole: checkpoints, folders of results and of images, and single files."""
    from unetrep_jax.stages.running import STAGES

    stages = {folder / "run" / "analysis" / name for name in STAGES}
    final = [path for path in sorted(folder.rglob("*")) if not HIDDEN.search(str(path.relative_to(folder)))]
    for path in final:
        if path.is_dir() and path.parent.name in same.SERIES and path.name.isdecimal():
            require_as_recorded(path, "manifest.json", lambda record: record)
        elif path.is_dir() and (path in stages or any(path.glob("*.npy")) or (path / "complete.json").exists()):
            require_as_recorded(path, "complete.json", lambda record: record["sha256"])
        elif path.suffix in READERS:
            try:
                READERS[path.suffix](path)
            except (OSError, ValueError, zipfile.BadZipFile) as error:
                raise Broken(f"half-written: {path.relative_to(folder)} ({error})") from error


def require_as_recorded(folder: Path, name: str, checksums: Callable[[Any], dict[str, str]]) -> None:
    """The record of a folder is there, and each file is as it says. A section, which is drawn later, is not in it."""
    require((folder / name).exists(), f"half-written: {folder.name} has no {name}")
    expected = checksums(json.loads((folder / name).read_text()))
    found = {file: sum_of for file, sum_of in same.folder_content(folder).items() if file not in (name, "section.json")}
    require(found == expected, f"half-written: {folder.name} is not as its {name} says: {same.difference(found, expected)}")


def require_page(path: Path) -> None:
    """It has its end."""
    require(path.read_text().rstrip().endswith("</html>"), f"half-written: {path.name}")


# What tells that a single file is whole, by how its name ends. The log of a run is cut when the run goes on.
READERS = {".json": lambda path: json.loads(path.read_text()), ".npz": np.load, ".html": require_page}
HIDDEN = re.compile(r"(^|/)\.|\.damaged(/|$)")  # what has no final name, or was set aside


def vanishing_data(scene: Scene, chance: random.Random) -> None:
    """The folder of pictures is gone at a random moment of their decoding; when it is back, the same command goes on."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()
    pictures, away, rows = preparation.pictures, scene.folder / "pictures.away", scene.folder / "rows"
    children.remove(rows)
    moment = chance.randint(1, max(1, reference.writes // 2))

    def unplug() -> None:
        phases.follow_rows(rows)
        children.on_write(scene.arena, lambda count, _: pictures.rename(away) if count == moment else None)

    try:
        result = preparation.start(unplug).wait()
    finally:
        hit = away.exists()
        if hit:
            away.rename(pictures)
    if not hit or result.code == 0:
        raise Missed("it had ended before")
    require_one_line(result, "train.py", str(pictures))
    require_whole_names(scene.arena)
    killed, left = phases.followed(rows), phases.progress(scene.arena)
    require_ended_well(preparation.start(lambda: phases.follow_rows(rows)).wait())
    phases.require_recorded(killed, left)
    phases.require_gone_on(left, phases.followed(rows))
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")
    same.require_tidy(scene.arena)


def commanded(scene: Scene, what: str) -> list[str]:
    """The command of a script, and the arena that it needs."""
    scene.lay(scene.trained())
    return scene.training(scene.arena / "new") if what == "train.py" else scene.analysis()


def read_only(scene: Scene, what: str) -> None:
    """The whole arena may only be read."""
    mounts.require_mounts(scene.folder)
    command = commanded(scene, what)
    before = same.folder_content(scene.arena)
    result = scene.do(command, lambda: (mounts.read_only(scene.arena), os.chdir(scene.arena)))
    require_one_line(result, what, "Read-only file system")
    same.require_same(same.folder_content(scene.arena), before, "the arena")


def no_permission(scene: Scene, what: str) -> None:
    """The arena belongs to another user; root, who may do everything, becomes nobody."""
    command = commanded(scene, what)
    require_reachable(scene)
    before = same.folder_content(scene.arena)
    scene.arena.chmod(0o555), (scene.run.chmod(0o555))
    try:
        result = scene.do(command, become_nobody)
    finally:
        scene.arena.chmod(0o755), (scene.run.chmod(0o755))
    require_one_line(result, what, "Permission denied")
    same.require_same(same.folder_content(scene.arena), before, "the arena")


def become_nobody() -> None:
    """Root, who may do everything, becomes another user; anybody else stays."""
    "".encode("cp437")  # of names in archives: read now, for Python itself may lie where the other user cannot get
    if os.geteuid() == 0:
        os.setgid(NOBODY), os.setuid(NOBODY)


def require_reachable(scene: Scene) -> None:
    """Other users may look into all folders; raises Impossible where they cannot even get there."""
    for folder in (scene.folder, *scene.folder.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    if not os.access(scene.folder, os.X_OK) or any(not parent.stat().st_mode & 1 for parent in scene.folder.parents):
        raise Impossible("other users cannot reach this folder")


def give_arena(scene: Scene) -> None:
    """Everything in the arena belongs to whom `become_nobody` becomes."""
    if os.geteuid() == 0:
        for path in (scene.arena, *scene.arena.rglob("*")):
            os.chown(path, NOBODY, NOBODY)


def unreadable(scene: Scene, chance: random.Random, what: str) -> None:
    """A file of the newest checkpoint, which the command goes on from or analyses, may not be read by its own user."""
    reference = scene.trained()
    scene.lay_trained()
    series = scene.run / ("last" if what == "train.py" else "best")
    newest = series / same.newest(series)
    before, aside = same.folder_content(newest), newest.with_name(f"{newest.name}.damaged")
    closed = newest / chance.choice(sorted(before))
    require_reachable(scene), give_arena(scene)
    closed.chmod(0)
    result = scene.do(scene.training() if what == "train.py" else scene.describing(), become_nobody)
    kept = aside if aside.exists() else newest
    (kept / closed.relative_to(newest)).chmod(0o644)
    with about(str(closed.relative_to(scene.run))):
        require_no_traceback(result)
        require(str(newest) in result.out + result.err, f"it was not named: code {result.code}, {result.err[-600:]}")
        same.require_same(same.folder_content(kept), before, "the checkpoint")
        if result.code:
            require_one_line(result, what, "Permission denied")
        elif what == "train.py":
            children.remove(aside)
            same.require_same(same.run_content(scene.run), reference.content, "the run")
        else:
            require((scene.run / "analysis" / "report.html").exists(), "no report")


def closed_cache(scene: Scene) -> None:
    """The folder of decoded images may only be read, and there are none in it."""
    preparation = Preparation(scene)
    scene.clear()
    require_reachable(scene)
    scene.arena.chmod(0o555)
    try:
        result = preparation.start(become_nobody).wait()
    finally:
        scene.arena.chmod(0o755)
    require_one_line(result, "train.py", "Permission denied")
    require(not any(scene.arena.iterdir()), "something was written")


def open_cache(scene: Scene) -> None:
    """The folder of decoded images may only be read, and holds what is needed."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    expected = preparation.start().wait()
    require_reachable(scene)
    folders = [path for path in scene.arena.iterdir() if path.is_dir()]
    for folder in (*folders, scene.arena):
        folder.chmod(0o555)
    try:
        result = preparation.start(become_nobody).wait()
    finally:
        for folder in (scene.arena, *folders):
            folder.chmod(0o755)
    require_ended_well(result)
    require((result.out, result.err) == (expected.out, ""), f"other images, or more said: {result.out[-200:]} {result.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the cache")


def too_long(scene: Scene, setting: str, name: str) -> None:
    """A folder to write to that has a longer name, or a longer path, than any file system's."""
    scene.lay_trained()
    folder = scene.arena / name
    if setting == "--outdir":
        script, result = "analyze.py", scene.do(scene.place.analysis(scene.run, "--outdir", folder, "--only", "architecture"))
    else:
        pictures = {f"data__{split}_path": Preparation(scene).pictures for split in ("train", "validation")}
        changed = {"data__source": "folder", "data__cache_dir": folder, **pictures}
        script, result = "train.py", scene.do(scene.training(scene.arena / "new", **changed))
    require_one_line(result, script, "too long")
    same.require_same(same.folder_content(scene.arena), same.folder_content(scene.trained().folder), "the arena")
    require({path.name for path in scene.arena.iterdir()} == {scene.run.name}, "a folder was made")


def memory(scene: Scene, what: str, gigabytes: float) -> None:
    """A real command under `ulimit -v`; then the same with all the memory that there is."""
    expected = (scene.trained() if what == "train.py" else scene.analysed()).content
    command = commanded(scene, what)
    limit = running.limited("-v", int(gigabytes * 2**20))
    script = [sys.executable, str(children.ROOT / command[0]), *map(str, command[1:])]
    done = subprocess.run([*limit, *script], cwd=scene.arena, capture_output=True, text=True, timeout=children.PATIENCE)
    result = children.Result(done.returncode, done.stdout, done.stderr, 0.0)
    # Above what JAX needs to start, an abort of its own is not promised away.
    if result.code and not (result.code == -signal.SIGABRT and can_start(gigabytes)):
        require_one_line(result, what, "memory", codes=(2, 3))
    require_ended_well(scene.do(command))
    if what == "train.py":
        found = same.run_content(scene.arena / "new")
    else:  # figures are rendered by one command and not by the other
        found, expected = numbers_of(same.analysis_content(scene.run)), numbers_of(expected)
    same.require_same(found, expected, "the result")


def numbers_of(content: dict[str, str]) -> dict[str, str]:
    """Of an analysis: arrays and numbers."""
    return {name: checksum for name, checksum in content.items() if name.endswith((".npy", ".npz", "summary.json"))}


def can_start(gigabytes: float) -> bool:
    """Whether the program tries to start JAX with so many gigabytes (2^30) of addresses."""

    def tries() -> bool:
        from unetrep_jax import storage

        resource.setrlimit(resource.RLIMIT_AS, (int(gigabytes * 2**30),) * 2)
        try:
            storage.require_memory()
        except storage.InputError:
            return False
        return True

    try:
        return children.call(tries)
    except RuntimeError:  # not even this could be found out
        return False
