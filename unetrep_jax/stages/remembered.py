"""Arrays that a stage makes once and keeps, each in a file of its own."""

import contextlib
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from unetrep_jax import storage
from unetrep_jax.stages.context import Arrays


def remember(folder: Path, key: str, name: str, make: Callable[[], Arrays]) -> Arrays:
    """Arrays that are made once and kept in a file of their own, so that a stage that is killed loses only what it was making."""
    path, key = folder / f"{storage.fingerprint(name)}.npz", f"{key} {name}"
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile), np.load(path) as kept:
        if str(kept["key"]) == key:
            return {name: kept[name] for name in kept.files if name != "key"}
    arrays = make()
    storage.write_arrays(path, {"key": key} | arrays)
    return arrays
