"""Arrays that grow on disk and resume."""

import hashlib
import io
import json
import os
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax.storage.files import read_json, write_json
from unetrep_jax.storage.folders import PROGRESS, is_complete, mark_complete, partial_of, put_in_place


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
        self._partial = partial_of(self.folder)
        self._layout = {name: (tuple(shape), np.dtype(dtype)) for name, (shape, dtype) in arrays.items()}
        identity = {"key": key, "rows": rows, "arrays": {n: [list(s), d.str] for n, (s, d) in self._layout.items()}}
        self._identity = json.loads(json.dumps(identity))
        self._sizes = {name: dtype.itemsize * int(np.prod(shape)) for name, (shape, dtype) in self._layout.items()}
        self._digests = self._begun()  # of the files so far
        self._finished = self._is_finished()
        self.rows_done = rows if self._finished else self._recorded_rows()
        if self.rows_done == 0:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            self._digests = self._begun()
        self._files = {} if self._finished else {name: self._open(name) for name in self._layout}
        self._recorded_at = time.monotonic()

    def _begun(self) -> dict[str, Any]:
        return {name: hashlib.sha256(self._header(name)) for name in self._layout}

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
            if 0 <= done <= self.rows and all(self._digest(name, done) == checksums[name] for name in self._layout):
                return done
        except (OSError, ValueError, KeyError, TypeError):
            return 0
        print(f"{self._partial} is damaged: its rows changed since they were written, and are made again", file=sys.stderr)
        return 0

    def _digest(self, name: str, rows: int) -> str:
        """Checksum of a file up to some row, which goes on from there; "" where the file is shorter."""
        with open(self._partial / f"{name}.npy", "rb") as file:
            file.seek(len(self._header(name)))
            left = rows * self._sizes[name]
            while block := file.read(min(left, 1 << 24)):
                self._digests[name].update(block)
                left -= len(block)
        return "" if left else self._digests[name].hexdigest()

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
        write_json(self._partial / PROGRESS, {"identity": self._identity, "done": self.rows_done, "sha256": self._checksums()})
        self._recorded_at = time.monotonic()

    def _checksums(self) -> dict[str, str]:
        return {name: digest.hexdigest() for name, digest in self._digests.items()}

    def close(self) -> None:
        """Records what has come so far and closes the files, once; a new writer with the same key goes on from here."""
        if not self._files:
            return
        self._record()
        for file in self._files.values():
            file.close()
        self._files = {}

    def finish(self) -> None:
        """Publishes the arrays. All announced rows must have come."""
        if self.rows_done != self.rows:
            raise ValueError(f"finish: {self.rows_done} of {self.rows} rows have come")
        if not self._finished:
            self.close()
            mark_complete(self._partial, self.key, {f"{name}.npy": checksum for name, checksum in self._checksums().items()})
        put_in_place(self._partial, self.folder)
