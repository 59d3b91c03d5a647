"""Folders that are whole or not there: locks, completion under a key with checksums, replacement."""

import contextlib
import fcntl
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from unetrep_jax.storage.files import InputError, files_under, fingerprint, read_json, sha256, write_json
from unetrep_jax.storage.progress import Progress

COMPLETE = "complete.json"
PROGRESS = "progress.json"
MEGABYTE, LARGE = 1 << 20, 1 << 31  # bytes; reading more than the latter takes so long that one is told


@contextlib.contextmanager
def lock(path: Path | str, wait: bool = True) -> Iterator[None]:
    """Holds an exclusive lock file; it is free again when the holder ends, however it ends.

    Raises:
      InputError: another process holds it, and `wait` is False.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise InputError(
                f"{path.parent} is in use by another process; wait until it ends, or use another folder."
            ) from None
        yield


def is_complete(folder: Path | str, key: str) -> bool:
    """Whether `folder` was completely written under the same `key` (see `replacing` and `RowWriter`), and is as it was then.

    Every file is compared with its checksum, once in a process unless it is written again; one that has changed or is gone is named
    on the error stream, and the folder counts as not written: whoever asked makes it again.
    """
    folder = Path(folder)
    try:
        record = read_json(folder / COMPLETE)
        written, checksums = record["key"], record.get("sha256", {})  # those of older versions have none
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    if written != key:
        return False
    state = fingerprint(record, [_state_of(folder / name) for name in sorted(checksums)])
    if _compared.get(folder, ("", ""))[0] != state:
        _compared[folder] = state, (damage := _changed(folder, checksums))
        if damage:
            print(f"{folder} is damaged, and is made again: {damage}", file=sys.stderr)
    return not _compared[folder][1]


# Folder -> (state of its files when they were compared with their checksums, what was wrong).
_compared: dict[Path, tuple[str, str]] = {}


def _state_of(path: Path) -> list[int]:
    """Size and time of a file, none where it is gone: what differs when it was written since."""
    try:
        status = path.stat()
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _changed(folder: Path, checksums: Mapping[str, str]) -> str:
    """The first file that is not what it was when its checksum was taken, and how; "" when all are."""
    total = sum(sum(_state_of(folder / name)[:1]) for name in checksums)
    told = Progress(f"comparing {folder} with its checksums", total // MEGABYTE, "MB") if total > LARGE else None
    with told or contextlib.nullcontext():
        for name in sorted(checksums):
            try:
                if sha256(folder / name, lambda count: told and told.advance(count // MEGABYTE)) != checksums[name]:
                    return f"{name} changed since it was written (sha256 differs)"
            except OSError:
                return f"{name} is missing or cannot be read"
    return ""


def mark_complete(partial: Path, key: str) -> None:
    """Marks a folder complete: from now on its files are what they should be."""
    names = [name for name in files_under(partial) if name not in (COMPLETE, PROGRESS)]
    for name in names:  # on disk before it is called complete, should the power fail
        with open(partial / name, "rb") as file:
            os.fsync(file.fileno())
    write_json(partial / COMPLETE, {"key": key, "sha256": {name: sha256(partial / name) for name in names}})


def put_in_place(partial: Path, folder: Path) -> None:
    """A complete folder gets its name; what stood there goes."""
    (partial / PROGRESS).unlink(missing_ok=True)
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
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


def tidy(folder: Path | str) -> None:
    """Removes what killed processes left below a folder and nobody goes on from; for the one process that writes there.

    Files that were never whole, and what another folder has taken the place of. Rows that wait for the rest of them stay.
    """
    for path in [*Path(folder).rglob(".*")]:
        if path.is_file() and path.name.endswith(".partial"):
            path.unlink(missing_ok=True)
        elif path.name.endswith(".old") and path.with_name(path.name[1:].removesuffix(".old")).exists():
            shutil.rmtree(path, ignore_errors=True)


def discard(folder: Path | str) -> None:
    """Removes a folder, complete or half-made, and what was kept beside it of batches under way."""
    folder = Path(folder)
    for path in [folder, *folder.parent.glob(f".{folder.name}.*")]:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def replacing(folder: Path | str, key: str) -> Iterator[Path]:
    """Yields an empty folder to write into; when the block ends well it takes the place of `folder`, complete under `key`.

    When the block raises, or the process is killed, what stood in `folder` before is untouched.
    """
    folder = Path(folder)
    partial = partial_of(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    mark_complete(partial, key)
    put_in_place(partial, folder)
