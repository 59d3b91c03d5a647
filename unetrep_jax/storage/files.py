"""Files that survive: atomic writes, checksums, manifests, and what a person is told of those that do not."""

import contextlib
import hashlib
import io
import json
import os
import resource
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MANIFEST = "manifest.json"
LEAST_ADDRESSES = 2_500_000_000  # bytes


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

    What it takes to start was measured with 2 cores: 1.9 GB of addresses. More cores need more, for each brings threads.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY and limit < LEAST_ADDRESSES:
        raise InputError(
            f"the limit on memory (ulimit -v) is {limit / 1e9:.1f} GB, and at least {LEAST_ADDRESSES / 1e9:.1f} GB of addresses "
            "are needed; raise it."
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
    temporary = path.with_name(f".{path.name}.partial")
    temporary.unlink(missing_ok=True)  # what a killed writer left, or a link, which would have another file overwritten
    try:
        with open(temporary, "xb") as file:
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
    """What `write_arrays` wrote; None where there is no such file, it is damaged, or it was another file.

    Raises:
      OSError: it is there and cannot be read.
    """
    try:
        content = io.BytesIO(Path(path).read_bytes())  # whole: damage makes numpy seek where nothing is, which the system refuses
    except FileNotFoundError:
        return None
    try:
        with np.load(content, allow_pickle=False) as saved:
            arrays = {name: saved[name] for name in saved.files}
        return arrays if str(arrays.pop("sha256")) == _checksum(arrays, Path(path).name) else None
    except UNREADABLE:
        return None


def has_objects(path: Path | str) -> bool:
    """Whether a .npy or .npz file holds Python objects, which nothing here writes and numpy does not read; or no arrays at all.

    Only headers are read.

    Raises:
      OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            if Path(path).suffix != ".npz":
                return _dtype(file).hasobject
            with zipfile.ZipFile(file) as members:
                return any(_dtype(members.open(name)).hasobject for name in members.namelist())
        except UNREADABLE:
            return True


def _dtype(file: io.BufferedIOBase) -> np.dtype:
    """The type of the array in an open .npy file."""
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read_header(file)[2]


def is_refused(error: Exception) -> bool:
    """Whether it is the system that did not give a file, rather than the file that cannot be understood."""
    return isinstance(error, OSError) and error.errno is not None


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


def sha256(path: Path | str, advance: Callable[[int], None] = lambda _: None) -> str:
    """Hex sha256 of a file's bytes; `advance` is told of bytes read."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
            advance(len(block))
    return digest.hexdigest()


def files_under(folder: Path) -> list[str]:
    """Names of all files below a folder, sorted, without a manifest."""
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file() and p.name != MANIFEST)


def sync(*paths: Path) -> None:
    """Has the system put files, and the names in folders, on the disk now: what is done next comes after, should the power fail.

    A file system that cannot do so with the names in a folder, such as one over a network, keeps them in its own way.

    Raises:
      OSError: a file could not be written.
    """
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError) if path.is_dir() else contextlib.nullcontext():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_manifest(folder: Path | str) -> None:
    """Writes `manifest.json` into a folder, the sha256 of every file below it, and has all of it put on the disk."""
    folder = Path(folder)
    write_json(folder / MANIFEST, {name: sha256(folder / name) for name in files_under(folder)})
    sync(*folder.rglob("*"), folder)


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
    if missing := sorted(set(expected) - set(files_under(folder))):
        raise DamagedError(f"{folder}: {missing[0]} is missing")
    for name in sorted(expected):
        if sha256(folder / name) != expected[name]:
            raise DamagedError(f"{folder}: {name} changed since it was written (sha256 differs)")
