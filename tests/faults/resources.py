"""Resources: full disks, folders without permission, odd paths, data that is slow or goes away, too little memory."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import running

from faults import children, mounts, places, same
from faults.attack import (
    Absent,
    Attack,
    Impossible,
    Missed,
    require,
    require_ended_well,
    require_no_traceback,
    require_one_line,
    told_lines,
)
from faults.preparation import Preparation
from faults.scene import Scene

FULL_AT = {"training": (4, 60), "analysis": (4, 25)}  # so many moments, spread over all file operations
DECODING = 100  # which is tried at every one of them, and has fewer
FULL = "one line, nothing half-written; with space again the same command goes on to bit for bit the same"
LINE = "one line; nothing is written"
SAME = "the same numbers, bit for bit"
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
    for path in places.PATHS if scene.long else places.PATHS[:3]:
        yield Attack("odd paths", SAME, repr(path[:20]), lambda chance, path=path: places.odd_path(scene, path))
    yield Attack("symbolic links", SAME, "run folder and images", lambda chance: places.links(scene))
    yield Attack("slow data", SAME, "every file takes 20 ms", lambda chance: places.slow_data(scene))
    for number in range(scene.many(2, 20)):
        yield Attack("data that goes away", LINE, f"moment {number}", lambda chance: places.vanishing_data(scene, chance))
    for gigabytes in (0.7, 1, 2, 2.4, 3, 4, 8) if scene.long else (1, 4):
        for what in ("train.py", "analyze.py"):
            act = lambda chance, what=what, size=gigabytes: memory(scene, what, size)  # noqa: E731
            yield Attack("too little memory", MEMORY, f"{what}, {gigabytes} GB", act)


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
    work.finish()


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
    for folder in (scene.folder, *scene.folder.rglob("*")):
        if folder.is_dir():
            folder.chmod(0o755)
    if not os.access(scene.folder, os.X_OK) or any(not parent.stat().st_mode & 1 for parent in scene.folder.parents):
        raise Impossible("other users cannot reach this folder")
    before = same.folder_content(scene.arena)
    scene.arena.chmod(0o555), (scene.run.chmod(0o555))
    try:
        result = scene.do(command, lambda: os.geteuid() or (os.setgid(65534), os.setuid(65534)))
    finally:
        scene.arena.chmod(0o755), (scene.run.chmod(0o755))
    require_one_line(result, what, "Permission denied")
    same.require_same(same.folder_content(scene.arena), before, "the arena")


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
