"""Resources: full disks, folders without permission, odd paths, data that is slow or goes away, too little memory."""

import ctypes
import os
import random
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.faults import children, same
from tests.faults.attack import Attack, Impossible, Missed, require, require_no_traceback, require_one_line
from tests.faults.preparation import Preparation
from tests.faults.scene import SHORT, Scene

FULL = "one line, nothing half-written; with space again the same command goes on to bit for bit the same"
LINE = "one line; nothing is written"
SAME = "the same numbers, bit for bit"
MEMORY = "one line or success; with more memory the same command goes on to the same"
NEW_MOUNTS, READ_ONLY, REMOUNT, BIND, PRIVATE = 0x20000, 1, 32, 4096, (1 << 18) | (1 << 14)
PATHS = (
    "a b/c  d", "日本語/данные", "ünï/çødé", "quote'\"s", "dollar$HOME/star*", "-dash/--workdir", "percent%s{}", "dot./..dots",
    "new\nline", "semi;colon&and", "tab\there", "x" * 200, "/".join(["deep"] * 40), "emoji 🙂", "back\\slash", "#hash/~tilde",
)  # fmt: skip


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each shortage at several sizes or moments."""
    for number in range(scene.many(3, 20)):
        yield Attack(
            "a full disk, training", FULL, f"disk {number}", lambda chance: full_disk(scene, chance, analysis=False)
        )
    for number in range(scene.many(3, 20)):
        yield Attack(
            "a full disk, analysis", FULL, f"disk {number}", lambda chance: full_disk(scene, chance, analysis=True)
        )
    for number in range(scene.many(2, 20)):
        yield Attack("no file can grow, training", FULL, f"limit {number}", lambda chance: no_growth(scene, chance))
    for what in ("train.py", "analyze.py"):
        yield Attack("a read-only file system", LINE, what, lambda chance, what=what: read_only(scene, what))
        yield Attack("a folder without permission", LINE, what, lambda chance, what=what: no_permission(scene, what))
    yield Attack("a path that is too long", LINE, "train.py", lambda chance: too_long(scene))
    for path in PATHS if scene.long else PATHS[:3]:
        yield Attack("odd paths", SAME, repr(path[:20]), lambda chance, path=path: odd_path(scene, path))
    yield Attack("symbolic links", SAME, "run folder and images", lambda chance: links(scene))
    yield Attack("slow data", SAME, "every file takes 20 ms", lambda chance: slow_data(scene))
    for number in range(scene.many(2, 20)):
        yield Attack("data that goes away", LINE, f"moment {number}", lambda chance: vanishing_data(scene, chance))
    for gigabytes in (0.7, 1, 2, 4, 8) if scene.long else (1, 4):
        for what in ("train.py", "analyze.py"):
            yield Attack(
                "too little memory",
                MEMORY,
                f"{what}, {gigabytes} GB",
                lambda chance, what=what, size=gigabytes: memory(scene, what, size),
            )


def mounted(target: Path, kind: str, flags: int, options: str) -> None:
    """Mounts for this process and those it starts; the file system goes when they end."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(NEW_MOUNTS) or libc.mount(b"none", b"/", None, PRIVATE, None):
        raise OSError(ctypes.get_errno(), "no mounts here")
    source = os.fsencode(target) if flags & BIND else b"tmpfs"
    if libc.mount(source, os.fsencode(target), kind.encode(), flags & ~READ_ONLY, options.encode()):
        raise OSError(ctypes.get_errno(), f"{target} cannot be mounted")
    if flags & READ_ONLY and libc.mount(source, os.fsencode(target), None, flags | REMOUNT, None):
        raise OSError(ctypes.get_errno(), f"{target} cannot be made read-only")


def require_mounts(scene: Scene) -> None:
    """Raises Impossible where this user may not mount."""
    place = scene.folder / "mount"
    place.mkdir(exist_ok=True)
    try:
        children.call(lambda: mounted(place, "tmpfs", 0, "size=64k"))
    except RuntimeError as error:
        raise Impossible("no small file system can be mounted here") from error


def full_disk(scene: Scene, chance: random.Random, analysis: bool) -> None:
    """A file system of a random size below what is needed; what the command left there is looked at, and gone on from."""
    require_mounts(scene)
    reference, start = (scene.analysed(), scene.trained()) if analysis else (scene.trained(), None)
    command, script = (scene.analysis(), "analyze.py") if analysis else (scene.training(), "train.py")
    held = size_of(start.folder) if start else 0
    free = int(chance.uniform(0.02, 0.9) * (size_of(reference.folder) - held))
    scene.lay(start) if start else scene.clear()
    left, lines = scene.folder / "left", []
    shutil.rmtree(left, ignore_errors=True)

    def on_small_disk() -> int:
        before = scene.folder / "before"
        children.remove(before)
        shutil.copytree(scene.arena, before)
        mounted(scene.arena, "tmpfs", 0, f"size={(held * 3 // 2 + free + 65536) // 1024}k")
        shutil.copytree(before, scene.arena, dirs_exist_ok=True)
        result = scene.do(command)
        shutil.copytree(scene.arena, left)
        print(result.err, end="", file=children.sys.stderr)
        return result.code % 256

    result = children.Child(on_small_disk, scene.folder).wait()
    if result.code == 0:
        raise Missed("it had room enough")
    lines = [line for line in result.err.splitlines() if "is damaged" not in line]
    require_no_traceback(result)
    require(
        result.code == 2 and len(lines) == 1 and lines[0].startswith(f"{script}: "),
        f"code {result.code}: {result.err[-600:]}",
    )
    require(any(words in lines[0] for words in ("No space left", "free on the disk", "are free")), lines[0])
    children.remove(scene.arena)
    shutil.copytree(left, scene.arena)
    again = scene.do(command)
    require(again.code == 0, f"not taken up: {again.err[-600:]}")
    content = same.analysis_content(scene.run) if analysis else same.run_content(scene.run)
    same.require_same(content, reference.content, "the result")
    same.require_tidy(scene.arena)


def size_of(folder: Path) -> int:
    """Bytes of a folder, in blocks of a file system."""
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*"))


def no_growth(scene: Scene, chance: random.Random) -> None:
    """No file may be longer than a random size: a disk that is full for some writes and not for others."""
    reference = scene.trained()
    scene.clear()
    limit = int(2 ** chance.uniform(9, 15))
    result = scene.do(scene.training(), lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)))
    if result.code == 0:
        raise Missed("nothing was that long")
    require_one_line(result, "train.py", "File too large")
    again = scene.do(scene.training())
    require(again.code == 0, f"not taken up: {again.err[-600:]}")
    same.require_same(same.run_content(scene.run), reference.content, "the run")


def commanded(scene: Scene, what: str) -> list[str]:
    """The command of a script, and the arena that it needs."""
    scene.lay(scene.trained())
    return scene.training(scene.arena / "new") if what == "train.py" else scene.analysis()


def read_only(scene: Scene, what: str) -> None:
    """The whole arena may only be read."""
    require_mounts(scene)
    command = commanded(scene, what)
    before = same.folder_content(scene.arena)
    result = scene.do(command, lambda: (mounted(scene.arena, "", BIND | READ_ONLY, ""), os.chdir(scene.arena)))
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


def too_long(scene: Scene) -> None:
    """Longer than any file system's names."""
    scene.clear()
    require_one_line(scene.do(scene.training(scene.arena / ("x" * 300))), "train.py", "too long")
    require(not any(scene.arena.iterdir()), "something was written")


def odd_path(scene: Scene, path: str) -> None:
    """Run folder and images lie there; the numbers must be those of any other place."""
    scene.clear()
    expected = numbers(scene, scene.arena / "plain", {})
    folder = scene.arena / path
    folder.mkdir(parents=True)
    images = {
        f"data__{name}_path": shutil.copy2(scene.place.folder / f"{name}.npy", folder)
        for name in ("train", "validation")
    }
    require(numbers(scene, folder / "run", images) == expected, "other numbers")


def numbers(scene: Scene, run: Path, changed: dict[str, object]) -> bytes:
    """The log of one step of training, and an analysis that must work."""
    result = scene.do(scene.training(run, **SHORT | changed))
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    command = scene.place.analysis(run, "--only", "architecture")
    result = scene.do(command)
    require(result.code == 0 and "report: " in result.out, f"analysis: code {result.code}: {result.err[-600:]}")
    require((run / "analysis" / "report.html").stat().st_size > 0, "no report")
    return (run / "metrics.jsonl").read_bytes()


def links(scene: Scene) -> None:
    """The run folder is a link to another one, and so is each array."""
    scene.clear()
    expected = numbers(scene, scene.arena / "plain", {})
    (scene.arena / "elsewhere").mkdir()
    (scene.arena / "link").symlink_to("elsewhere")
    for name in ("train", "validation"):
        (scene.arena / f"{name}.npy").symlink_to(scene.place.folder / f"{name}.npy")
    images = {f"data__{name}_path": scene.arena / f"{name}.npy" for name in ("train", "validation")}
    require(numbers(scene, scene.arena / "link", images) == expected, "other numbers")
    require((scene.arena / "elsewhere" / "metrics.jsonl").exists(), "the link was replaced")


def slow_data(scene: Scene) -> None:
    """Each picture takes its time, as from a far machine."""
    preparation = Preparation(scene)
    reference = preparation.reference()
    scene.clear()

    def slow() -> None:
        pictures = str(preparation.pictures)
        children.sys.addaudithook(
            lambda event, arguments: (
                children.time.sleep(0.02) if event == "open" and str(arguments[0]).startswith(pictures) else None
            )
        )

    result = preparation.start(slow).wait()
    require(result.code == 0, f"code {result.code}: {result.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")


def vanishing_data(scene: Scene, chance: random.Random) -> None:
    """The folder of pictures is gone at a random moment of their decoding; when it is back, the same command goes on."""
    reference = Preparation(scene).reference()
    scene.clear()
    pictures, away = scene.folder / "pictures", scene.folder / "pictures.away"
    moment = chance.randint(1, max(1, reference.writes // 2))

    def unplug() -> None:
        children.on_write(scene.arena, lambda count: pictures.rename(away) if count == moment else None)

    try:
        result = Preparation(scene, pictures).start(unplug).wait()
    finally:
        hit = away.exists()
        if hit:
            away.rename(pictures)
    if not hit or result.code == 0:
        raise Missed("it had ended before")
    require_one_line(result, "train.py", str(pictures))
    again = Preparation(scene).start().wait()
    require(again.code == 0, f"not taken up: {again.err[-600:]}")
    same.require_same(same.folder_content(scene.arena), reference.content, "the decoded images")


def memory(scene: Scene, what: str, gigabytes: float) -> None:
    """A real command under `ulimit -v`."""
    command = commanded(scene, what)
    limit = ["bash", "-c", f'ulimit -v {int(gigabytes * 2**20)}; exec "$@"', "bash"]
    script = [children.sys.executable, str(children.ROOT / command[0]), *map(str, command[1:])]
    done = subprocess.run([*limit, *script], cwd=scene.arena, capture_output=True, text=True, timeout=children.PATIENCE)
    result = children.Result(done.returncode, done.stdout, done.stderr, 0.0)
    require(done.returncode != -signal.SIGSEGV, "a crash")
    if result.code:
        require_one_line(result, what, "memory")

    again = scene.do(command)
    require(again.code == 0, f"not taken up: {again.err[-600:]}")
