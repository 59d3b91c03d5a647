"""Files that survive: atomic writes, checksums, locks, arrays that resume, cached stages, and progress that a person can read.

Nothing here knows about images or networks. Every other module may import this one.
"""

import contextlib
import fcntl
import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
COMPLETE = "complete.json"


class InputError(ValueError):
    """Something that the user gave cannot be used: one line that says what was given, the rule, and the remedy."""


class DamagedError(Exception):
    """Files do not match the checksums that were taken when they were written."""


def write_atomically(path: Path | str, content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the new, never a part, whenever the writer is killed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
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
    write_atomically(path, json.dumps(_finite(value), indent=1, allow_nan=False) + "\n")


def write_arrays(path: Path | str, arrays: Mapping[str, Any]) -> None:
    """Writes an uncompressed .npz file atomically."""
    content = io.BytesIO()
    np.savez(content, **arrays)
    write_atomically(path, content.getvalue())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _finite(value.tolist())
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
    """Whether `folder` was completely written under the same `key` (see `replacing` and `RowWriter`)."""
    try:
        return read_json(Path(folder) / COMPLETE)["key"] == key
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _publish(partial: Path, folder: Path, key: str) -> None:
    """Marks `partial` complete and puts it where `folder` is; what stood there goes."""
    for path in partial.rglob("*"):  # on disk before it is called complete, should the power fail
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    write_json(partial / COMPLETE, {"key": key})
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
        _publish(_partial(folder), folder, read_json(_partial(folder) / COMPLETE)["key"])
    elif not folder.exists() and _old(folder).exists():
        _old(folder).rename(folder)


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
    _publish(partial, folder, key)


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
        self.rows_done = self._recorded_rows()
        if self.rows_done == 0:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
        self._files = {name: self._open(name) for name in self._layout}
        self._recorded_at = time.monotonic()

    def _recorded_rows(self) -> int:
        try:
            record = read_json(self._partial / "progress.json")
        except (OSError, ValueError):
            return 0
        if record["identity"] != self._identity:
            return 0
        # A file that a crash of the whole machine left shorter than recorded is not trusted.
        sizes = {name: dtype.itemsize * int(np.prod(shape)) for name, (shape, dtype) in self._layout.items()}
        files = {name: self._partial / f"{name}.npy" for name in sizes}
        whole = all(p.exists() and p.stat().st_size >= record["done"] * sizes[name] for name, p in files.items())
        return record["done"] if whole else 0

    def _open(self, name: str):
        shape, dtype = self._layout[name]
        path = self._partial / f"{name}.npy"
        file = open(path, "r+b" if self.rows_done else "w+b")  # noqa: SIM115 (closed by finish or close)
        header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": (self.rows, *shape)}
        np.lib.format.write_array_header_2_0(file, header)
        file.truncate(file.tell() + self.rows_done * dtype.itemsize * int(np.prod(shape)))
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
            self._files[name].write(np.ascontiguousarray(rows, dtype).data)
        self.rows_done += next(iter(lengths.values()))
        if self.rows_done > self.rows:
            raise ValueError(f"append: {self.rows_done} rows came, {self.rows} were announced")
        if time.monotonic() - self._recorded_at >= self._seconds:
            self._record()

    def _record(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        write_json(self._partial / "progress.json", {"identity": self._identity, "done": self.rows_done})
        self._recorded_at = time.monotonic()

    def close(self) -> None:
        """Records what has come so far and closes the files; a new writer with the same key goes on from here."""
        self._record()
        for file in self._files.values():
            file.close()

    def finish(self) -> None:
        """Publishes the arrays. All announced rows must have come."""
        if self.rows_done != self.rows:
            raise ValueError(f"finish: {self.rows_done} of {self.rows} rows have come")
        self.close()
        _publish(self._partial, self.folder, self.key)
        (self.folder / "progress.json").unlink()  # not before: killed until here, another writer would begin again


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
