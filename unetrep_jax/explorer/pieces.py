"""Scripts that hand arrays over to the page."""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unetrep_jax import storage

# Names by which the page knows the types of numbers.
TYPES = {"uint8": "<u1", "uint16": "<u2", "int32": "<i4", "float32": "<f4"}
IMAGES_PER_PIECE = 256
CHANNELS_PER_PIECE = 16


class Steps(NamedTuple):
    """Values as whole numbers of steps: value = low + step * number, off by half a step at most.

    Attributes:
      numbers: uint16 or uint8.
      low, step: float32, one for each column.
    """

    numbers: np.ndarray
    low: np.ndarray
    step: np.ndarray


def in_steps(values: np.ndarray, kind: str, low: np.ndarray | None = None) -> Steps:
    """Values [..., k], each column in equal steps from its lowest value (or `low`) to its highest."""
    most, rows = np.iinfo(kind).max, values.reshape(-1, values.shape[-1])
    low = rows.min(0).astype(np.float32) if low is None else np.asarray(low, np.float32)
    step = ((rows.max(0) - low) / most).astype(np.float32)
    scaled = (values - low) / np.where(step > 0, step, 1)
    return Steps(np.clip(np.rint(scaled), 0, most).astype(kind), low, step)


def packed(array: np.ndarray) -> dict[str, Any]:
    """An array as the page reads it."""
    array = np.asarray(array)
    kind = {"i": "int32", "f": "float32", "b": "uint8"}.get(array.dtype.kind, str(array.dtype))
    content = np.ascontiguousarray(array.astype(TYPES[kind])).tobytes()
    return {"type": kind, "shape": list(array.shape), "data": base64.b64encode(content).decode()}


def version_of(value: Any) -> str:
    """A short name for tuples, mappings and sequences of arrays and plain values, from all that they hold."""
    digest = hashlib.sha256()

    def add(of: Any) -> None:
        if isinstance(of, np.ndarray):
            digest.update(f"{of.dtype} {of.shape}".encode())
            digest.update(np.ascontiguousarray(of).data)
        elif isinstance(of, Mapping):
            for name, part in of.items():
                digest.update(f"{name}:".encode())
                add(part)
        elif isinstance(of, list | tuple):
            digest.update(f"{type(of).__name__} {len(of)}".encode())
            for part in of:
                add(part)
        else:
            digest.update(repr(of).encode())

    add(value)
    return digest.hexdigest()[:16]


def write_piece(folder: Path, name: str, value: Any, version: str) -> None:
    """A script `name`.js that hands a JSON-like value over, in which arrays are packed; pieces of one page have one version."""
    text = json.dumps(_plain(value), allow_nan=False, separators=(",", ":"))
    # U+2028 and U+2029 end a line in older browsers' strings; "</" would end a script if one put the text into a page.
    text = text.replace("</", "<\\/").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    storage.write_atomically(folder / f"{name}.js", f"explorer.take({json.dumps(name)}, {json.dumps(version)}, {text});\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return packed(value)
    if isinstance(value, dict):
        return {str(key): _plain(of) for key, of in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(of) for of in value]
    return value.item() if isinstance(value, np.generic) else value


def slices(total: int, size: int) -> Iterator[tuple[int, slice]]:
    """(number, positions) of pieces of `size`."""
    for number, first in enumerate(range(0, total, size)):
        yield number, slice(first, first + size)
