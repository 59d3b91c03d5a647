"""What a long computation keeps on disk of the batch that it is working on."""

import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unetrep_jax import storage

SAVE_SECONDS = 30  # how often a batch's state is kept


class Kept:
    """The state of a batch on its way, kept now and then beside the folder of the results, so that a kill costs little of it."""

    def __init__(self, folder: Path, key: str):
        """Of the results in `folder`, named by `key`. Nothing is read or written yet."""
        self.path, self.key, self._saved_at = folder.with_name(f".{folder.name}.state.npz"), key, time.monotonic()

    def load(self, numbers: np.ndarray, start: Any) -> Any:
        """What was kept of the batch of these samples, a tree like `start`; `start` where nothing was."""
        kept = storage.read_arrays(self.path) or {}
        leaves, tree = jax.tree.flatten(start)
        names = [f"leaf{i}" for i in range(len(leaves))]
        if kept.keys() != {"key", "numbers", *names}:
            return start
        if str(kept["key"]) != self.key or not np.array_equal(kept["numbers"], numbers):
            return start
        return jax.tree.unflatten(tree, [kept[name] for name in names])

    def save(self, numbers: np.ndarray, state: Any) -> None:
        """Keeps the state, a tree of arrays, where enough time has passed since it was last kept."""
        if time.monotonic() - self._saved_at < SAVE_SECONDS:
            return
        leaves = {f"leaf{i}": leaf for i, leaf in enumerate(jax.tree.leaves(state))}
        storage.write_arrays(self.path, {"key": self.key, "numbers": numbers, **leaves})
        self._saved_at = time.monotonic()

    def forget(self) -> None:
        """Removes what was kept."""
        self.path.unlink(missing_ok=True)
