"""What the checkpoints of a run hold; for a process that may start JAX."""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np


def training_state():
    """Shapes of what a checkpoint of the small network holds beside the parameters."""
    from unetrep_jax import models, training

    model = models.build("unet", channels=(4, 8), encoder_depth=1, mid_depth=1, decoder_depth=2, image_channels=1)
    params = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    state = jax.eval_shape(lambda p: training.init_state(p, training.adam(lambda step: 0.1)), params)
    return {"step": state.step, "optimizer": state.optimizer}


def of_run(run: Path) -> dict[str, str]:
    """Checkpoint -> checksum of all its arrays and values, to the last bit."""
    from unetrep_jax import checkpoints

    found = {}
    for series in ("last", "best"):
        for step in checkpoints.steps(run / series):
            restored = checkpoints.restore(run / series, like=training_state(), step=step)
            trees = {"params": restored.params, "averaged": restored.averaged, "train": restored.train}
            found[f"{series}/{step}"] = digest(trees, [restored.data, restored.config])
    for step in checkpoints.steps(run / "milestones"):
        folder = run / "milestones" / str(step)
        trees = [
            checkpoints.open_checkpoint(folder, weights=name, say=lambda _: None).params for name in checkpoints.WEIGHTS
        ]
        found[f"milestones/{step}"] = digest(trees, checkpoints.read_config(folder))
    return found


def digest(tree, values) -> str:
    """Checksum of arrays with their names, types and shapes, and of values as JSON holds them."""
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path, leaf in jax.tree.leaves_with_path(tree):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(leaf.tobytes())
    return found.hexdigest()
