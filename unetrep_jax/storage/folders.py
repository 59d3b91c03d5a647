"""Folders that are whole or not there: locks, completion under a key with checksums, replacement."""

import contextlib
import errno
import fcntl
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

from unetrep_jax.storage.files import (
    InputError,
    files_under,
    fingerprint,
    has_objects,
    read_json,
    sha256,
    sync,
    write_json,
)
from unetrep_jax.storage.progress import Progress

COMPLETE = "complete.json"
PROGRESS = "progress.json"
PATIENCE = 2.0  # seconds of waiting for a lock until one is told
MEGABYTE, LARGE = 1 << 20, 1 << 31  # bytes; reading more than the latter takes so long that one is told


@contextlib.contextmanager
def lock(path: Path | str, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock file; it is free again when the holder ends, however it ends.

    Raises:
      InputError: another process holds it, and `wait` is False; or it is a link, which in a stranger's folder may lead anywhere.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise InputError(f"{path} is a symbolic link, and a lock is a file; remove it, or use another folder.") from None
    with open(descriptor, "w") as file:
        if not _locked(file, PATIENCE if wait else 0.0):
            if not wait:
                raise InputError(f"{path.parent} is in use by another process; wait until it ends, or use another folder.")
            print(f"waiting for another process, which holds {path}", file=sys.stderr)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _locked(file: IO[str], seconds: float) -> bool:
    """Whether the lock could be had within so many seconds."""
    give_up = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= give_up:
                return False
            time.sleep(0.05)


@contextlib.contextmanager
def one_line_when_full(folder: Path, setting: str) -> Iterator[None]:
    """Turns the system's error about a full disk into one line that names the folder and the setting that moves it."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise InputError(f"No space left in {folder}: free some, or name another folder by {setting}.") from error


def is_complete(folder: Path | str, key: str) -> bool:
    """Whether `folder` was completely written under the same `key` (see `replacing` and `RowWriter`), and is as it was then.

    Every file is compared with its checksum, once in a process unless it is written again; one that has changed or is gone is named
    on the error stream, and the folder counts as not written. Folders of more than `LARGE` bytes are compared only where a file's
    size or time is not what it was: reading them would take longer than most of what is done with them.
    A folder with an array of Python objects counts as not written too, whatever its checksums say: numpy would refuse to read it.

    Raises:
      OSError: a file is there and cannot be read.
    """
    folder = Path(folder)
    try:
        record = read_json(folder / COMPLETE)
        written = record["key"]
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return False
    if written != key:
        return False
    states = {name: _state_of(folder / name) for name in record.get("sha256", ())}
    state = fingerprint(record, states)
    if _compared.get(folder, ("", ""))[0] != state:
        _compared[folder] = state, (damage := _damage(folder, record, states) or _objects(folder))
        if damage:
            print(f"{folder} is damaged: {damage}", file=sys.stderr)
    return not _compared[folder][1]


def _damage(folder: Path, record: Mapping[str, Any], states: Mapping[str, list[int]]) -> str:
    """What is wrong with a folder, "" where nothing is: its record, the size and time of its files now."""
    if set(record) == {"key"}:  # written by a version that took no checksums
        return ""
    if not {"key", "sha256"} <= set(record) <= {"key", "sha256", "states"}:
        return f"{COMPLETE} holds something else"
    size = _size(states)
    if size > LARGE and states == record.get("states"):
        return ""
    told = Progress(f"comparing {folder} with its checksums", size // MEGABYTE, "MB") if size > LARGE else None
    with told or contextlib.nullcontext():
        return _changed(folder, record["sha256"], lambda count: told and told.advance(count // MEGABYTE))


def _objects(folder: Path) -> str:
    """The first file of arrays that holds objects, and that it does; "" where none does."""
    found = next((path for path in sorted(folder.rglob("*.np[yz]")) if has_objects(path)), None)
    return f"{found.relative_to(folder)} holds something else than plain arrays" if found else ""


# Folder -> (state of its files when they were compared with their checksums, what was wrong).
_compared: dict[Path, tuple[str, str]] = {}


def _state_of(path: Path) -> list[int]:
    """Size and time of a file, none where it is gone: what differs when it was written since."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _size(states: Mapping[str, list[int]]) -> int:
    """Bytes of all files."""
    return sum(sum(state[:1]) for state in states.values())


def _changed(folder: Path, checksums: Mapping[str, str], advance: Callable[[int], Any]) -> str:
    """The first file that is not what it was when its checksum was taken, and how; "" when all are."""
    for name in sorted(checksums):
        try:
            if sha256(folder / name, advance) != checksums[name]:
                return f"{name} changed since it was written (sha256 differs)"
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            return f"{name} is missing"
    return ""


def mark_complete(partial: Path, key: str, known: Mapping[str, str] = MappingProxyType({})) -> None:
    """Marks a folder complete: from now on its files are what they should be. Of some the checksums may be known already."""
    for left in partial.rglob(".*.partial"):  # of a write in which a process was killed
        left.unlink()
    names = [name for name in files_under(partial) if name not in (COMPLETE, PROGRESS)]
    sync(*partial.rglob("*"), partial)  # before it is called complete
    checksums = {name: known.get(name) or sha256(partial / name) for name in names}
    states = {name: _state_of(partial / name) for name in names}
    # The time of day is in the record of large folders alone: others are the same whenever they were written.
    write_json(partial / COMPLETE, {"key": key, "sha256": checksums} | ({"states": states} if _size(states) > LARGE else {}))


def put_in_place(partial: Path, folder: Path) -> None:
    """A complete folder gets its name; what stood there goes."""
    (partial / PROGRESS).unlink(missing_ok=True)
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    sync(folder.parent)  # before what stood there goes
    shutil.rmtree(old, ignore_errors=True)


def partial_of(folder: Path) -> Path:
    """Where a folder is while it is being written."""
    return folder.with_name(f".{folder.name}.partial")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def recover(folder: Path | str) -> None:
    """Finishes what a process that was killed at the last moment left: a complete folder that had not got its name.

    For the one process that writes `folder`.
    """
    folder = Path(folder)
    if (partial_of(folder) / COMPLETE).exists():
        put_in_place(partial_of(folder), folder)
    elif not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


def tidy(folder: Path | str, names: Iterable[str]) -> None:
    """Removes what killed processes left of some files and folders in a folder, and nobody goes on from.

    Files that were never whole, and what another folder has taken the place of. Rows that wait for the rest of them stay. For the
    one process that writes these; whatever else lies in the folder is somebody else's.
    """
    folder = Path(folder)
    for name in names:
        for path in [*folder.glob(f".{name}.partial"), *folder.glob(f"..{name}.*.partial"), *(folder / name).rglob(".*.partial")]:
            if path.is_file():
                path.unlink(missing_ok=True)
        if (folder / name).exists():
            shutil.rmtree(_old(folder / name), ignore_errors=True)


def discard(folder: Path | str) -> None:
    """Removes a folder, complete or half-made, and what was kept beside it of batches under way."""
    folder = Path(folder)
    for path in [folder, *folder.parent.glob(f".{folder.name}.*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(folder: Path | str, key: str, known: Mapping[str, str] = MappingProxyType({})) -> Iterator[Path]:
    """Yields an empty folder to write into; when the block ends well it takes the place of `folder`, complete under `key`.

    Checksums of files that are moved there may be `known`: they are not taken again.
    When the block raises, or the process is killed, what stood in `folder` before is untouched.
    """
    folder = Path(folder)
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    mark_complete(partial, key, known)
    put_in_place(partial, folder)
