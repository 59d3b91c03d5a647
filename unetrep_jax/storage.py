"""Files that survive: atomic writes, checksums, locks, arrays that resume, cached stages, and progress that a person can read.

Nothing here knows about images or networks. Every other module may import this one.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import resource
import shutil
import sys
import time
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
COMPLETE = "complete.json"
PROGRESS = "progress.json"


class InputError(ValueError):
    """Something that the user gave cannot be used: one line that says what was given, the rule, and the remedy."""


# What numpy and its zip reader raise on damaged .npy and .npz files: found by changing every byte of some.
UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, TypeError, OverflowError, RuntimeError, MemoryError, zipfile.BadZipFile, zlib.error,
    tokenize.TokenError,
)  # fmt: skip


class DamagedError(Exception):
    """Files do not match the checksums that were taken when they were written."""


def require_memory() -> None:
    """Refuses a limit on memory (`ulimit -v`) in which JAX cannot start: it would abort, with a page that nobody understands.

    What it takes to start was measured with 2 cores (1.9 GB of addresses); each core brings threads, which have stacks and heaps.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    least = int(2.5e9 + 0.25e9 * (os.cpu_count() or 1))
    if limit != resource.RLIM_INFINITY and limit < least:
        raise InputError(
            f"the limit on memory (ulimit -v) is {limit / 1e9:.1f} GB, and at least {least / 1e9:.1f} GB of addresses are needed "
            "here; raise it."
        )


def too_little_memory(error: MemoryError) -> str:
    """The line that a person reads when a program needs more memory than there is."""
    what = " ".join(str(error).split())
    return f"there is not enough memory{f' ({what})' if what else ''}; ask for less at once (batch sizes), or allow more."


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part, whenever the writer is killed.

    For one writer at a time: folders that several processes might write to have a `lock`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")  # what a killed writer left, the next one overwrites
    try:
        with open(temporary, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path | str, value: Any) -> None:
    """Writes JSON atomically; a NaN or infinity becomes null, so that every JSON reader opens the file."""
    write_atomically(path, json.dumps(finite(value), indent=1, allow_nan=False) + "\n")


def write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Writes an uncompressed .npz file atomically, with a checksum of all arrays and the file's own name, called sha256."""
    content, arrays = io.BytesIO(), {name: np.asarray(value) for name, value in arrays.items()}
    np.savez(content, **arrays, sha256=_checksum(arrays, Path(path).name))
    write_atomically(path, content.getvalue())


def read_arrays(path: Path | str) -> dict[str, np.ndarray] | None:
    """What `write_arrays` wrote; None where there is no such file, it is damaged, or it was another file."""
    try:
        with np.load(path, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        return arrays if str(arrays.pop("sha256")) == _checksum(arrays, Path(path).name) else None
    except UNREADABLE:
        return None


def _checksum(arrays: Mapping[str, np.ndarray], file: str) -> str:
    """Hex sha256 of a file's name and its arrays: their names, types, shapes and values."""
    digest = hashlib.sha256(file.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype.str} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()


def finite(value: Any) -> Any:
    """A value as JSON holds it: lists for arrays and tuples, null for NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return finite(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


def read_json(path: Path | str) -> Any:
    """Reads a JSON file."""
    return json.loads(Path(path).read_text())


def fingerprint(*parts: Any) -> str:
    """A short name (16 hex digits) for JSON-like values: equal values, equal name; dictionary order does not matter."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def sha256(path: Path | str) -> str:
    """Hex sha256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_under(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def write_manifest(folder: Path | str) -> None:
    """Writes `manifest.json` into a folder: the sha256 of every file below it."""
    folder = Path(folder)
    write_json(folder / MANIFEST, {name: sha256(folder / name) for name in _files_under(folder)})


def verify_manifest(folder: Path | str) -> None:
    """Checks a folder against its `manifest.json`.

    Raises:
      DamagedError: there is no manifest (the write was never finished), or a file is missing or changed.
    """
    folder = Path(folder)
    try:
        expected = dict(read_json(folder / MANIFEST))
    except (OSError, ValueError, TypeError) as error:
        raise DamagedError(f"{folder} has no readable {MANIFEST}: it was not completely written") from error
    if missing := sorted(set(expected) - set(_files_under(folder))):
        raise DamagedError(f"{folder}: {missing[0]} is missing")
    for name in sorted(expected):
        if sha256(folder / name) != expected[name]:
            raise DamagedError(f"{folder}: {name} changed since it was written (sha256 differs)")


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
    for name in sorted(checksums):
        try:
            if sha256(folder / name) != checksums[name]:
                return f"{name} changed since it was written (sha256 differs)"
        except OSError:
            return f"{name} is missing or cannot be read"
    return ""


def _complete(partial: Path, key: str) -> None:
    """Marks a folder complete: from now on its files are what they should be."""
    names = [name for name in _files_under(partial) if name not in (COMPLETE, PROGRESS)]
    for name in names:  # on disk before it is called complete, should the power fail
        with open(partial / name, "rb") as file:
            os.fsync(file.fileno())
    write_json(partial / COMPLETE, {"key": key, "sha256": {name: sha256(partial / name) for name in names}})


def _put_in_place(partial: Path, folder: Path) -> None:
    """A complete folder gets its name; what stood there goes."""
    (partial / PROGRESS).unlink(missing_ok=True)
    old = _old(folder)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _partial(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.partial")


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def recover(folder: Path | str) -> None:
    """Finishes what a process that was killed at the last moment left: a complete folder that had not got its name.

    For the one process that writes `folder`.
    """
    folder = Path(folder)
    if (_partial(folder) / COMPLETE).exists():
        _put_in_place(_partial(folder), folder)
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
    partial = _partial(folder)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    yield partial
    _complete(partial, key)
    _put_in_place(partial, folder)


class RowWriter:
    """Arrays that grow on disk together, row by row, and resume where they were when the process was killed.

    `folder/<name>.npy` for every name appears, all at once, when `finish` is called; until then the rows are in a hidden
    folder beside it. Memory use is one call's rows. A writer that is opened again with the same key goes on at `rows_done`.

    Attributes:
      rows_done: rows that are safely on disk; the next `append` must bring the rows from there on.
    """

    def __init__(
        self,
        folder: Path | str,
        key: str,
        rows: int,
        arrays: Mapping[str, tuple[tuple[int, ...], Any]],
        seconds: float = 5.0,
    ):
        """Opens or resumes.

        Args:
          folder: where the finished arrays will be.
          key: names everything that determines the rows; another key starts again from nothing.
          rows: length of the first axis of every array.
          arrays: name -> (shape of one row, dtype).
          seconds: how often, at most, progress is recorded; what was appended since is written again after a kill.
        """
        self.folder, self.key, self.rows, self._seconds = Path(folder), key, rows, seconds
        self._partial = _partial(self.folder)
        self._layout = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        identity = {"key": key, "rows": rows, "arrays": {n: [list(s), d.str] for n, (s, d) in self._layout.items()}}
        self._identity = json.loads(json.dumps(identity))
        self._sizes = {name: dtype.itemsize * int(np.prod(shape)) for name, (shape, dtype) in self._layout.items()}
        self._digests = {name: hashlib.sha256() for name in self._layout}  # of the rows so far
        self._finished = self._is_finished()
        self.rows_done = rows if self._finished else self._recorded_rows()
        if self.rows_done == 0:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._digests = {name: hashlib.sha256() for name in self._layout}
        self._files = {} if self._finished else {name: self._open(name) for name in self._layout}
        self._recorded_at = time.monotonic()

    def _is_finished(self) -> bool:
        """Whether a writer was killed after it had finished these very arrays, and before they got their name."""
        if not is_complete(self._partial, self.key):
            return False
        return all(
            (rows := np.load(self._partial / f"{name}.npy", mmap_mode="r")).shape == (self.rows, *shape) and rows.dtype == dtype
            for name, (shape, dtype) in self._layout.items()
        )

    def _recorded_rows(self) -> int:
        """Rows that are on disk as they were when they were recorded; 0 when anything has changed since."""
        try:
            record = read_json(self._partial / PROGRESS)
            if record["identity"] != self._identity:
                return 0
            done, checksums = int(record["done"]), record["sha256"]
            if all(self._digest(name, done) == checksums[name] for name in self._layout):
                return done
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        print(f"{self._partial} is damaged: its rows changed since they were written, and are made again", file=sys.stderr)
        return 0

    def _digest(self, name: str, rows: int) -> str:
        """Checksum of the first rows of a file, which goes on from there."""
        with open(self._partial / f"{name}.npy", "rb") as file:
            file.seek(len(self._header(name)))
            left = rows * self._sizes[name]
            while block := file.read(min(left, 1 << 24)):
                self._digests[name].update(block)
                left -= len(block)
        return self._digests[name].hexdigest()

    def _header(self, name: str) -> bytes:
        shape, dtype = self._layout[name]
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self.rows, *shape)}
        np.lib.format.write_array_header_2_0(content := io.BytesIO(), header)
        return content.getvalue()

    def _open(self, name: str):
        file = open(self._partial / f"{name}.npy", "r+b" if self.rows_done else "w+b")  # noqa: SIM115 (closed by finish or close)
        file.write(self._header(name))
        file.truncate(file.tell() + self.rows_done * self._sizes[name])
        file.seek(0, os.SEEK_END)
        return file

    def append(self, **arrays: np.ndarray) -> None:
        """Adds the next rows of every array (all of the same length)."""
        lengths = {name: len(rows) for name, rows in arrays.items()}
        if set(arrays) != set(self._layout) or len(set(lengths.values())) != 1:
            raise ValueError(f"append needs {sorted(self._layout)} with one length, got {lengths}")
        for name, rows in arrays.items():
            shape, dtype = self._layout[name]
            if rows.shape[1:] != shape:
                raise ValueError(f"append: rows of {name!r} have shape {shape}, got {rows.shape[1:]}")
            content = np.ascontiguousarray(rows, dtype).data
            self._files[name].write(content)
            self._digests[name].update(content)
        self.rows_done += next(iter(lengths.values()))
        if self.rows_done > self.rows:
            raise ValueError(f"append: {self.rows_done} rows came, {self.rows} were announced")
        if time.monotonic() - self._recorded_at >= self._seconds:
            self._record()

    def _record(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        checksums = {name: digest.hexdigest() for name, digest in self._digests.items()}
        write_json(self._partial / PROGRESS, {"identity": self._identity, "done": self.rows_done, "sha256": checksums})
        self._recorded_at = time.monotonic()

    def close(self) -> None:
        """Records what has come so far and closes the files; a new writer with the same key goes on from here."""
        if self._finished:
            return
        self._record()
        for file in self._files.values():
            file.close()

    def finish(self) -> None:
        """Publishes the arrays. All announced rows must have come."""
        if self.rows_done != self.rows:
            raise ValueError(f"finish: {self.rows_done} of {self.rows} rows have come")
        if not self._finished:
            self.close()
            _complete(self._partial, self.key)
        _put_in_place(self._partial, self.folder)


class Progress:
    """Shows how far a long loop is, how fast it goes and how long it will take, on the standard error stream.

    On a terminal one line is rewritten; elsewhere (a log file) a line appears every `seconds`.
    """

    def __init__(self, label: str, total: int, unit: str = "images", done: int = 0, seconds: float = 10.0):
        """Starts the clock; `done` is what an earlier, interrupted run had already finished."""
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self._start, self._begun = done, time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._seconds = 0.2 if self._terminal else seconds
        self._shown_at, self._shown = self._begun, None

    def __enter__(self):
        """Begins."""
        return self

    def __exit__(self, *_):
        """Shows the last state, unless nothing was worth showing."""
        if self._terminal or (self._shown != self.done and time.monotonic() - self._begun >= self._seconds):
            self._show("\n" if self._terminal else None)

    def advance(self, count: int) -> None:
        """`count` more are done."""
        self.done += count
        now = time.monotonic()
        if now - self._shown_at >= self._seconds:
            self._shown_at = now
            self._show()

    def _show(self, end: str | None = None) -> None:
        self._shown = self.done
        rate = (self.done - self._start) / max(time.monotonic() - self._begun, 1e-9)
        left = f", {duration((self.total - self.done) / rate)} left" if rate > 0 and self.done < self.total else ""
        number = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        text = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}, {number} {self.unit}/s{left}"
        if self._terminal:
            print(f"\r\x1b[K{text}", end=end or "", file=sys.stderr, flush=True)
        else:
            print(text, file=sys.stderr, flush=True)


def duration(seconds: float | int) -> str:
    """Seconds as a person reads them: 0:07, 12:30, 3:04:05."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"
