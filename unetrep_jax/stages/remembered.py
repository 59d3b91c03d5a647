"""Arrays that a stage makes once and keeps, each in a file of its own."""

from collections.abc import Callable
from pathlib import Path

from unetrep_jax import storage
from unetrep_jax.stages.context import Arrays


def remember(folder: Path, key: str, name: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that are made once and kept in a file of their own, so that a stage that is killed loses only what it was making."""
    path, key = folder / f"{storage.fingerprint(name)}.npz", f"{key} {name}"
    kept = storage.read_arrays(path) or {}
    if str(kept.pop("key", "")) == key:
        return kept
    arrays = make()
    storage.write_arrays(path, {"key": key} | arrays)
    return arrays
