"""What the checkpoints of a run hold; for a process that may start JAX."""

import hashlib
import json
import random
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from faults import same


def training_state(clip_norm: float = 0.0):
    """Shapes of what a checkpoint of the small network holds beside the parameters; clipping adds a part to the optimiser."""
    from unetrep_jax import models, training

    model = models.build("unet", channels=(4, 8), encoder_depth=1, mid_depth=1, decoder_depth=2, image_channels=1)
    params = jax.eval_shape(lambda: models.init_params(model, jax.random.key(0)))
    state = jax.eval_shape(lambda p: training.init_state(p, training.adam(lambda step: 0.1, clip_norm)), params)
    return {"step": state.step, "optimizer": state.optimizer}


def of_run(run: Path) -> dict[str, str]:
    """Checkpoint -> checksum of all its arrays and values, to the last bit; or why it is refused."""
    from unetrep_jax import checkpoints

    kinds = {"last": of_step, "best": of_step, "milestones": of_milestone}
    steps = [(series, step) for series in kinds for step in checkpoints.steps(run / series)]
    return {f"{series}/{step}": or_why_not(kinds[series], run / series, step) for series, step in steps}


def or_why_not(read, series: Path, step: int) -> str:
    """What a checkpoint holds, or the refusal to open it."""
    from unetrep_jax.storage import InputError

    try:
        return read(series, step)
    except InputError as error:
        return f"refused: {error}"


def of_step(series: Path, step: int) -> str:
    """All that a run goes on from."""
    from unetrep_jax import checkpoints

    restored = checkpoints.restore(series, like=training_state(), step=step, say=lambda _: None)
    trees = {"params": restored.params, "averaged": restored.averaged, "train": restored.train}
    return digest(trees, [restored.data, restored.config])


def of_milestone(series: Path, step: int) -> str:
    """Parameters and their average."""
    from unetrep_jax import checkpoints

    folder = series / str(step)
    opened = [checkpoints.open_checkpoint(folder, weights=name, say=lambda _: None) for name in checkpoints.WEIGHTS]
    return digest([one.params for one in opened], checkpoints.read_config(folder))


def spoil(checkpoint: Path, where: str, value: float, chance: random.Random) -> None:
    """One number of a checkpoint of a series becomes another, in an array whose name matches; the checksums fit again."""
    from unetrep_jax import checkpoints

    series, step = checkpoint.parent, int(checkpoint.name)
    one = checkpoints.restore(series, like=training_state(), step=step, say=lambda _: None)
    trees = {"params": one.params, "averaged": one.averaged, "train": one.train}
    named, structure = jax.tree.flatten_with_path(trees)
    leaves = [np.array(leaf) for _, leaf in named]
    chosen = [number for number, (path, _) in enumerate(named) if re.search(where, jax.tree_util.keystr(path))]
    leaves[chance.choice(chosen)].flat[0] = value
    shutil.rmtree(checkpoint)
    again = checkpoints.Series(series, keep=100)
    again.save(step, **jax.tree.unflatten(structure, leaves), data=one.data, config=one.config)
    again.close()


def not_finite(run: Path) -> list[str]:
    """All arrays, of any checkpoint of a run, that hold what is no number, as Orbax alone reads them."""
    found = []
    folders = [folder for series in same.SERIES for folder in (run / series).glob("[0-9]*")]
    for folder in sorted(folder for folder in folders if folder.name.isdecimal()):
        items = [name for name in ("params", "averaged", "train") if (folder / name).is_dir()]
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
            arguments = ocp.args.Composite(**{item: ocp.args.PyTreeRestore() for item in items})
            trees = dict(reader.restore(folder.resolve(), args=arguments).items())
        leaves = [(path, np.asarray(leaf)) for path, leaf in jax.tree.leaves_with_path(trees)]
        bad = [path for path, leaf in leaves if not np.issubdtype(leaf.dtype, np.integer) and not np.isfinite(leaf).all()]
        found += [f"{folder.relative_to(run)} {jax.tree_util.keystr(path)}" for path in bad]
    return found


def digest(tree, values) -> str:
    """Checksum of arrays with their names, types and shapes, and of values as JSON holds them."""
    found = hashlib.sha256(json.dumps(values, sort_keys=True).encode())
    for path, leaf in jax.tree.leaves_with_path(tree):
        leaf = np.asarray(leaf)
        found.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        found.update(leaf.tobytes())
    return found.hexdigest()
