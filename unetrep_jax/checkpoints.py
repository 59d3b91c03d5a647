"""Checkpoints that can be trusted: Orbax writes them, a manifest of checksums seals them, every restore verifies it.

    run/best/, run/last/     two series of checkpoints: by validation PSNR, and the latest
    run/milestones/          parameters at log-spaced steps, where a run keeps them
      1200/                  step 1200; complete, for a checkpoint gets its name last
        params/, averaged/   parameters, and their moving average where the run keeps one
        train/               the rest of the training state
        data/, config/       JSON: what else the run goes on from; the whole configuration, with the program's name
        manifest.json        sha256 of every file
      .1300.writing/         under way, or left by a process that was killed
      1100.damaged/          found damaged, and set aside, when the series was next opened for writing

Each is an Orbax checkpoint, which other tools can read. Arrays come back as numpy arrays, for any number of devices. A
full disk, or a process killed at any moment, costs the checkpoint under way and no other.

    python -m unetrep_jax.checkpoints RUN OUT     copies a run's best parameters, without the training state
"""

import argparse
import contextlib
import errno
import glob
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jaxtyping import PyTree

from unetrep_jax import denoiser, models
from unetrep_jax.storage import (
    MANIFEST,
    DamagedError,
    InputError,
    read_json,
    sha256,
    sync,
    verify_manifest,
    write_manifest,
)

Say = Callable[[str], None]

PROGRAM = "unetrep_jax"
FORMAT = 1
SERIES = ("best", "last")
WEIGHTS = ("averaged", "params")
DTYPES = ("float32", "bfloat16")  # in which parameters are exported
# Settings, or whole sections, that hold only on the machine where a run was made.
LOCAL = {
    *("devices", "train.start_from", "data.cache_dir", "data.data_dir", "data.zip_dir"),
    *("data.train_path", "data.validation_path", "data.train_labels", "data.validation_labels"),
}

# Orbax logs to a logger that it shares with others; what a person must know comes as an exception or through `say`.
absl.logging.get_absl_logger().addFilter(lambda record: "/orbax/" not in record.pathname)


class Restored(NamedTuple):
    """All that a run needs to go on: what `Series.save` was given; arrays are numpy arrays now."""

    step: int
    params: PyTree
    averaged: PyTree | None
    train: PyTree
    data: dict[str, Any]
    config: dict[str, Any]


class Opened(NamedTuple):
    """Trained parameters and where they come from.

    Attributes:
      config: the whole configuration of the run.
      params: float32 numpy arrays.
      step: training step.
      weights: which parameters these are: "averaged" or "params".
      folder: the checkpoint.
      fingerprint: sha256 of its manifest: the same for copies, another for any other content.
      data: what else the run goes on from; empty where the checkpoint holds parameters alone.
    """

    config: dict[str, Any]
    params: PyTree
    step: int
    weights: str
    folder: Path
    fingerprint: str
    data: dict[str, Any]


def tell(text: str) -> None:
    """Prints a line on the standard error stream; every function here takes another `say` in its place."""
    print(text, file=sys.stderr)


class Series:
    """The newest checkpoints of a run, for the process that trains.

        series.save(step, ...)     copies everything and returns; the files are written in the background
        series.seal()              every few steps: completes the checkpoint once its files are written
        series.wait()              completes it now
        series.close()             the same, before the process ends

    Each raises OSError when a write failed (a full disk): that checkpoint is lost, the others are intact, and the next
    can be saved. With several processes all make the same calls; the first one writes.
    """

    def __init__(self, folder: Path | str, keep: int, say: Say = tell):
        """Opens a series for writing: removes what a killed process left half-written, sets damaged checkpoints aside.

        Restore first: a damaged newest checkpoint is out of sight afterwards.

        Args:
          folder: made when it is not there.
          keep: how many checkpoints to keep: two or more, so that a damaged one has one before it.
          say: is told about checkpoints that are set aside.

        Raises:
          InputError: `keep` is too small, the path is not `usable`, or the folder holds checkpoints of another program (they are
            not touched).
        """
        if keep < 2:
            raise InputError(f"A series must keep 2 checkpoints or more, in case one is damaged; got {keep}.")
        self.folder, self.keep = usable(folder), keep
        self._under_way: tuple[Path, ocp.AsyncCheckpointer] | None = None
        damaged = [(path, reason) for path in step_folders(self.folder) if (reason := _damage(path))]
        _barrier(f"read {self.folder}")
        if jax.process_index() == 0:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._remove_scratch()
            _set_aside(damaged, say)
        _barrier(f"opened {self.folder}")

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return steps(self.folder)

    def discard_after(self, step: int) -> None:
        """Removes the checkpoints of later steps: a run that goes on from `step` will make its own."""
        if jax.process_index() == 0:
            _remove(*(path for path in step_folders(self.folder) if int(path.name) > step))
        _barrier(f"discarded {self.folder}")

    def save(
        self, step: int, *, params: PyTree, averaged: PyTree = None, train: PyTree, data: Mapping, config: Mapping
    ) -> None:
        """Starts to write a checkpoint, unless the series has this step; completes the one under way first.

        Everything is copied before this returns: arrays may be donated, dictionaries may change.

        Args:
          step: training step.
          params: parameters: nested dictionaries of arrays, the same on every device.
          averaged: their moving average, where the run keeps one.
          train: the rest of the training state: any pytree of arrays, NamedTuples included.
          data: anything else to go on from, as JSON holds it.
          config: the whole configuration, as JSON holds it.
        """
        if jax.process_index() != 0:
            return
        self._advance(wait=True)
        target = self.folder / str(step)
        if target.exists():
            return
        trees = {"params": params, "train": train} | ({} if averaged is None else {"averaged": averaged})
        self._remove_scratch()
        writer = _orbax(ocp.AsyncCheckpointer)  # one for each checkpoint: after a failure it would report that again
        with _failures_named(target):
            _write(writer, target, trees, {"data": data, "config": _with_header(config, step)})
        self._under_way = target, writer

    def seal(self) -> None:
        """Completes the checkpoint under way if its files are written by now, and removes the oldest beyond `keep`."""
        self._advance(wait=False)

    def wait(self) -> None:
        """Completes the checkpoint under way, if there is one; returns when it is complete for every process."""
        self._advance(wait=True)
        _barrier(f"written {self.folder}")

    def close(self) -> None:
        """Waits, at the end of a run."""
        self.wait()

    def _remove_scratch(self) -> None:
        _remove(*self.folder.glob(".[0-9]*"))

    def _advance(self, wait: bool) -> None:
        if self._under_way is None:
            return
        target, writer = self._under_way
        self._under_way = None
        with _failures_named(target):
            writer.wait_until_finished() if wait else writer.check_for_errors()
            if not _staging(target).exists():  # Orbax gives the folder this name when it has written everything
                self._under_way = target, writer
                return
            writer.close()
            _publish(target)
            others = [path for path in step_folders(self.folder) if path != target]
            _remove(*others[: max(0, len(others) + 1 - self.keep)])


def usable(folder: Path | str) -> Path:
    """The absolute path of a folder for checkpoints.

    Raises:
      InputError: it has one of `* ? [`, by which Orbax would look for its files as by a pattern, or a backslash, which TensorStore
        takes for a slash, or bytes that are no UTF-8: the arrays of a checkpoint would lie elsewhere, or not be found.
    """
    found = Path(folder).resolve()
    text = str(found).encode(errors="replace").decode()  # what is no UTF-8 becomes a question mark
    if wrong := next((character for character in text if character in "*?[\\"), None):
        raise InputError(
            f"{text} has {wrong} in it, with which checkpoints would get lost; use a folder without * ? [ \\ and what is no text."
        )
    return found


def steps(series: Path | str) -> list[int]:
    """Steps of a series' complete checkpoints, in order; none for a folder that does not exist."""
    return [int(path.name) for path in step_folders(Path(series)) if is_sealed(path)]


def is_sealed(folder: Path) -> bool:
    """Whether a checkpoint has its manifest, which is written last."""
    return (folder / MANIFEST).exists()


def restore(series: Path | str, *, like: PyTree, step: int | None = None, say: Say = tell) -> Restored:
    """Reads the newest intact checkpoint of a series, or the one of `step`, after verifying every file's checksum.

    Args:
      series: folder, such as `runs/x/last`.
      like: arrays or ShapeDtypeStructs in the structure, shapes and dtypes that `train` must have.
      step: an exact step; no other will do.
      say: is told about damaged checkpoints that are passed over.

    Raises:
      InputError: no such step, nothing intact, another program's checkpoints, a path that is not `usable`, numbers that are none,
        or a training state unlike `like`.
    """
    folder = _select(Path(series), step, say)
    if not (folder / "train").is_dir():
        raise InputError(f"{folder} holds no training state: it can be analysed, and not trained further; use another --workdir.")
    trees = _read_arrays(folder, [name for name in ("params", "averaged", "train") if (folder / name).is_dir()])
    if bad := [name for name, leaf in _leaves(trees).items() if not np.isfinite(leaf).all()]:
        raise InputError(f"{folder} cannot be gone on from: {bad[0]} has NaN or infinity; remove it, to go on from the one before.")
    train = _in_structure(like, trees["train"], folder)
    header = _header(folder)
    data = _read_data(folder)
    return Restored(header["step"], trees["params"], trees.get("averaged"), train, data, header["config"])


def open_checkpoint(path: Path | str, step: int | None = None, weights: str | None = None, say: Say = tell) -> Opened:
    """Reads trained parameters and their configuration, and nothing of the optimiser's.

    Args:
      path: a run (`best/` is looked through first, then `last/`), a series, or a single checkpoint.
      step: an exact step; by default the newest that is intact.
      weights: "averaged" or "params"; by default the averaged parameters where the run kept them.
      say: is told which step and parameters were taken, and about damaged checkpoints that were passed over.

    Raises:
      InputError: `path` is no run or not `usable`, holds nothing complete or is from another program; no such step or weights.
    """
    folder = _select(Path(path), step, say)
    held = [name for name in WEIGHTS if (folder / name).is_dir()]
    weights = weights or held[0]
    if weights not in held:
        raise InputError(f"{folder} holds no weights {weights!r}; choose from: {', '.join(held)}.")
    header = _header(folder)
    say(f"{folder}: step {header['step']}, {'averaged' if weights == 'averaged' else 'unaveraged'} parameters.")
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), _read_arrays(folder, [weights])[weights])
    if bad := [name for name, leaf in _leaves(params).items() if not np.isfinite(leaf).all()]:
        raise InputError(f"{folder} holds parameters that are no numbers: {bad[0]} has NaN or infinity; give another checkpoint.")
    data = _read_data(folder) if (folder / "data").is_dir() else {}
    return Opened(header["config"], params, header["step"], weights, folder, fingerprint(folder), data)


def fingerprint(folder: Path | str) -> str:
    """Names a single checkpoint's content: sha256 of its manifest."""
    return sha256(Path(folder) / MANIFEST)


def read_config(folder: Path | str) -> dict[str, Any]:
    """The whole configuration of the run that a single checkpoint belongs to; empty when it cannot be read."""
    return _header(Path(folder)).get("config", {})


def step_at(path: Path | str) -> int:
    """Step of the checkpoint that `open_checkpoint` would take at a path. Errors as there."""
    return _step_of(_select(Path(path), None, lambda _: None))


def load_denoiser(
    path: Path | str, step: int | None = None, weights: str | None = None, say: Say = tell
) -> denoiser.Denoiser:
    """Opens a trained denoiser; the checkpoint tells its architecture. Arguments and errors as `open_checkpoint`.

    It computes in float32 however it was trained: phi may vary over images by less than bfloat16 tells apart.
    """
    opened = open_checkpoint(path, step, weights, say)
    settings = {**opened.config["model"], "dtype": "float32"}
    model = models.build(**settings, image_channels=opened.config["data"]["image_channels"])
    return denoiser.bind(model, jax.tree.map(jnp.asarray, opened.params))


def export(
    path: Path | str,
    out: Path | str,
    step: int | None = None,
    weights: str | None = None,
    say: Say = tell,
    dtype: str = "float32",
) -> None:
    """Writes a single checkpoint without training state: parameters, configuration, manifest.

    Settings that name places on this machine are left out of the configuration (`LOCAL`); defaults take their place.

    Args:
      path, step, weights, say: what to copy, as in `open_checkpoint`.
      out: folder to write.
      dtype: "float32", or "bfloat16": half the size, each parameter rounded to 8 bits of precision. Either opens as float32.

    Raises:
      InputError: `out` exists or is not `usable`, another dtype, or as `open_checkpoint`.
      OSError: it could not be written.
    """
    out = usable(out)
    if out.exists():
        raise InputError(f"{out} exists, and export overwrites nothing: give another name, or remove it first.")
    if dtype not in DTYPES:
        raise InputError(f"dtype {dtype!r} is unknown. Known: {', '.join(DTYPES)}.")
    opened = open_checkpoint(path, step, weights, say)
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), opened.params)
    _write_parameters(out, {opened.weights: params}, _portable(opened.config), opened.step)


def keep_parameters(folder: Path | str, step: int, *, params: PyTree, averaged: PyTree = None, config: Mapping) -> None:
    """Writes `folder/step`, a checkpoint of the parameters alone, complete when it returns; one that exists stays as it is.

    Args:
      folder: made when it is not there.
      step, params, averaged, config: as in `Series.save`.

    Raises:
      InputError: the path is not `usable`.
      OSError: it could not be written.
    """
    if jax.process_index() != 0:
        return
    folder = usable(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove(*folder.glob(".[0-9]*"))
    if not (folder / str(step)).exists():
        trees = {"params": params} | ({} if averaged is None else {"averaged": averaged})
        _write_parameters(folder / str(step), trees, config, step)


def _write_parameters(target: Path, trees: Mapping[str, PyTree], config: Mapping, step: int) -> None:
    with _orbax(ocp.Checkpointer) as writer, _failures_named(target):
        _write(writer, target, trees, {"config": _with_header(config, step)})
        _publish(target)


def _portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the settings in `LOCAL`."""

    def kept(section: str, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        return {key: value for key, value in values.items() if f"{section}.{key}" not in LOCAL}

    return {section: kept(section, values) for section, values in config.items() if section not in LOCAL}


# Choosing and reading a checkpoint.


def step_folders(series: Path) -> list[Path]:
    """The folders of a series' checkpoints, complete or damaged, oldest first."""
    return sorted((path for path in series.glob("[0-9]*") if path.name.isdecimal()), key=lambda path: int(path.name))


def _candidates(path: Path) -> list[Path]:
    """The checkpoints at a path, in order of preference: a run's, a series', or the path itself."""
    if not path.is_dir():
        raise InputError(f"{path} is no folder; give a run that train.py wrote, one of its series, or one checkpoint.")
    usable(path)
    series = [path / name for name in SERIES if (path / name).is_dir()] or [path]
    found = [folder for each in series for folder in reversed(step_folders(each))]
    if found or series != [path] or path.name in SERIES:
        return found
    if any((path / name).exists() for name in (MANIFEST, "_CHECKPOINT_METADATA")):
        return [path]
    raise InputError(f"{path} is no run of {PROGRAM}; give a folder that train.py wrote: it holds best or last.")


def _step_of(folder: Path) -> int | None:
    return int(folder.name) if folder.name.isdecimal() else _header(folder).get("step")


def _select(path: Path, step: int | None, say: Say) -> Path:
    """The first intact checkpoint at a path, of all or of the given step."""
    found = _candidates(path)
    wanted = [folder for folder in found if step in (None, _step_of(folder))]
    if found and not wanted:
        held = ", ".join(map(str, sorted({_step_of(folder) for folder in found})))
        raise InputError(f"{path} has no checkpoint of step {step}; choose from: {held}.")
    for folder in wanted:
        damage = _damage(folder)
        if damage is None:
            return folder
        say(f"Passing over a damaged checkpoint: {damage}")
    what = "checkpoint" if step is None else f"checkpoint of step {step}"
    raise InputError(f"{path} holds no complete {what}; give another one, or train again.")


def _damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint; None when nothing is. Raises InputError when another program wrote it."""
    header = _header(folder)
    try:
        verify_manifest(folder)
    except (DamagedError, OSError) as error:
        if (folder / MANIFEST).exists() or header.get("program") == PROGRAM:
            return str(error)
    if header.get("program") != PROGRAM:
        author = repr(header["program"]) if "program" in header else "another program"
        raise InputError(f"{folder} is from {author}; only checkpoints of {PROGRAM} open here: give a run of train.py.")
    kinds = {"step": int, "format": int, "config": dict}
    if bad := [key for key, kind in kinds.items() if not isinstance(header.get(key), kind)]:
        return f"{folder}: its header has no usable {bad[0]}"
    if folder.parent.name in (*SERIES, "milestones") and str(header.get("step")) != folder.name:
        return f"{folder} holds step {header.get('step')}: it has another checkpoint's name"
    if header["format"] > FORMAT:
        raise InputError(f"{folder} has format {header['format']}, this {PROGRAM} reads up to {FORMAT}: update it.")
    return None


def _header(folder: Path) -> dict[str, Any]:
    """What `_with_header` made; empty when it cannot be read."""
    try:
        header = _read_values(folder, "config")
    except (OSError, ValueError):
        return {}
    return header if isinstance(header, dict) else {}


def _read_values(folder: Path, item: str) -> Any:
    return read_json(folder / item / "metadata")  # the file in which Orbax keeps a JSON item


@contextlib.contextmanager
def _false_ones_named(folder: Path) -> Iterator[None]:
    """What is raised by files that are no checkpoint's, though their checksums fit, becomes an InputError of one line."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        cause = " ".join(str(error).split())[:200]
        raise InputError(f"{folder} cannot be read, though its checksums fit ({cause}); give another checkpoint.") from error


def _read_arrays(folder: Path, items: Iterable[str]) -> dict[str, PyTree]:
    with _false_ones_named(folder), _orbax(ocp.Checkpointer) as reader:
        arguments = ocp.args.Composite(**{item: ocp.args.PyTreeRestore() for item in items})
        return dict(reader.restore(folder.resolve(), args=arguments).items())


def _read_data(folder: Path) -> dict[str, Any]:
    with _false_ones_named(folder):
        return dict(_read_values(folder, "data"))


def _leaves(tree: PyTree) -> dict[str, Any]:
    """Leaves by name: those of a NamedTuple are called the same in the dictionary that Orbax makes of it."""
    name = jax.tree_util.keystr
    return {name(path, simple=True, separator="."): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _in_structure(like: PyTree, restored: PyTree, folder: Path) -> PyTree:
    expected, found = _leaves(like), _leaves(restored)

    def kind(leaves, name):
        return f"{leaves[name].dtype}{list(leaves[name].shape)}" if name in leaves else "missing"

    for name in [*expected, *found]:
        there, here = kind(found, name), kind(expected, name)
        if there != here:
            rule = "resume with the settings it was made with, or start a new run"
            raise InputError(f"{folder} does not fit this run: {name} is {there} there and {here} here; {rule}.")
    return jax.tree.unflatten(jax.tree.structure(like), [found[name] for name in expected])


# Writing a checkpoint.


def _orbax(kind: type[ocp.Checkpointer]) -> ocp.Checkpointer:
    """An Orbax checkpointer that meets no other process at a barrier: one that fails leaves none waiting."""
    index = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(index, {index}, barrier_sync_key_prefix=f"process{index}")
    options = ocp.CompositeOptions(multiprocessing_options=alone)
    return kind(ocp.CompositeCheckpointHandler(composite_options=options), multiprocessing_options=alone)


def _barrier(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _with_header(config: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"program": PROGRAM, "format": FORMAT, "step": step, "config": config}


def _write(writer: ocp.Checkpointer, target: Path, trees: Mapping[str, PyTree], values: Mapping[str, Mapping]) -> None:
    """Has Orbax write trees of arrays and JSON values under a preliminary name."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _remove(*_scratch(target))  # Orbax would refuse what a killed process left
    # A megabyte for the small files and what rounding to blocks costs.
    needed, free = sum(leaf.nbytes for leaf in jax.tree.leaves(trees)) + 2**20, shutil.disk_usage(target.parent).free
    if needed > free:  # when Orbax's threads find it out, they print a dozen tracebacks
        raise OSError(errno.ENOSPC, f"{needed / 1e6:,.1f} MB to write, {free / 1e6:,.1f} MB free on the disk")
    # Of numpy arrays Orbax makes copies before `save` returns, and of JSON values later.
    arrays = {name: jax.tree.map(np.asarray, jax.device_get(tree)) for name, tree in trees.items()}
    items = {name: ocp.args.PyTreeSave(tree) for name, tree in arrays.items()}
    items |= {name: ocp.args.JsonSave(json.loads(json.dumps(value))) for name, value in values.items()}
    writer.save(_staging(target), args=ocp.args.Composite(**items))


def _staging(target: Path) -> Path:
    return target.with_name(f".{target.name}.writing")


def _scratch(target: Path) -> list[Path]:
    """What is there of a checkpoint under way: under the preliminary name, or under those that Orbax makes of it."""
    return list(target.parent.glob(f"{glob.escape(_staging(target).name)}*"))


def _publish(target: Path) -> None:
    """Gives a folder that Orbax has written its manifest, and then its name."""
    staging = _staging(target)
    for marker in staging.rglob("commit_success.txt"):
        marker.write_text("")  # its presence is the message; its text names a folder of this machine
    write_manifest(staging)
    staging.rename(target)
    sync(target.parent)  # before older ones go


def _remove(*folders: Path) -> None:
    """Deletes folders; renamed first, for a process killed half-way must not leave part of one under its name."""
    for folder in folders:
        hidden = folder if folder.name.startswith(".") else folder.rename(folder.with_name(f".{folder.name}.removing"))
        shutil.rmtree(hidden, ignore_errors=True)


def _set_aside(damaged: Iterable[tuple[Path, str]], say: Say) -> None:
    for folder, reason in damaged:
        aside = folder.with_name(f"{folder.name}.damaged")
        shutil.rmtree(aside, ignore_errors=True)
        folder.rename(aside)
        say(f"Damaged checkpoint set aside as {aside}: {reason}")


@contextlib.contextmanager
def _failures_named(target: Path) -> Iterator[None]:
    """What Orbax raises when it cannot write becomes an OSError of one line; what it had written goes."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        _remove(*_scratch(target))
        cause = str(error).partition("\n")[0] or type(error).__name__
        raise OSError(f"{target} could not be written; checkpoints before it are intact. Cause: {cause}") from error


def main(arguments: list[str] | None = None) -> int:
    """The command line of `export`; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m unetrep_jax.checkpoints", description="Copies trained parameters.")
    parser.add_argument("run", help="a run, one of its series, or one checkpoint")
    parser.add_argument("out", help="folder to write; must not exist")
    parser.add_argument("--step", type=int, help="an exact step; default: the best")
    parser.add_argument("--weights", choices=WEIGHTS, help="default: averaged, where there are any")
    parser.add_argument("--dtype", choices=DTYPES, default="float32", help="of the parameters; bfloat16 halves the size")
    given = parser.parse_args(arguments)
    try:
        export(given.run, given.out, given.step, given.weights, dtype=given.dtype)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(given.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
