"""Numbers: NaN and infinity, steps that are too large, no noise at all, half precision; and the same run twice and elsewhere."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import running

from faults import children, same
from faults.attack import (
    Attack,
    Impossible,
    require,
    require_ended_well,
    require_no_traceback,
    require_one_line,
    told_lines,
)
from faults.scene import Scene

SURELY = "1e19"  # a rate that no training survives
STOPPED = "stopped with one line that names the step and the last good one, which is kept, or survived; all checkpoints are finite"
REFUSED = "refused by name"
RESUMED = "refused or passed over by name, or stopped with one line; no other checkpoint gets such numbers, and a good one is kept"
FINITE = "it ends well, all numbers finite, or is refused with one line"
SAME = "bit for bit the same run"
CLOSE = "equal losses, gradients and PSNR of the first 16 steps, to 1 part in 10,000 (gradients: 1,000)"
TOLERANCES = {"loss": 1e-4, "gradient_norm": 1e-3, "psnr": 1e-4}
CLOSE_ARRAYS = "equal arrays of an analysis, to 1 part in 1,000 of the largest number of each"
ARRAYS_TOLERANCE = 1e-3
COMPARED_STAGES = ("denoising", "sparsity", "robustness")  # in which no small difference grows
# Folders of an analysis in which every number exists, and the stages that fill most; elsewhere some statistics may have none.
FINITE_FOLDERS = ("denoising", "sparsity", "robustness", "representations", "untrained", "drawn", "reconstruct")
FINITE_STAGES = ("sparsity", "robustness", "reconstructions")
EVERY_STEP = {"log__every": 1, "evaluate__every": 4, "train__epochs": 2}

# What a run goes on from -> names of its arrays in a checkpoint.
PARTS = {
    "their average": r"^\['averaged'\]",
    "the second moments": r"^\['train'\].*\.nu",
    "the first moments": r"^\['train'\].*\.mu",
    "the parameters": r"^\['params'\]",
}
# Runs a script as its interpreter would, and prints last of all which code that was, by which versions.
LAUNCH = """
import atexit, importlib.metadata, json, runpy, sys
sys.argv, sys.path[0] = sys.argv[1:], sys.argv[1].rpartition("/")[0]
versions = [sys.version, *map(importlib.metadata.version, ("jax", "jaxlib", "numpy"))]
atexit.register(lambda: print(json.dumps([sys.modules["unetrep_jax"].__file__, versions])))
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Name -> settings, and the exit codes that are right: 0 survived, 1 stopped as diverged, 2 refused as an impossible setting.
EDGES: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "no noise": ({"noise__sigma_max": 0.0}, (2,)),
    "almost no noise": ({"noise__sigma_max": 1e-30}, (0,)),
    "little noise, weighted": ({"noise__sigma_max": 1e-6, "train__weight": "inverse_sigma"}, (0,)),
    "much noise": ({"noise__sigma_max": 1e6}, (0,)),
    "noise beyond float32": ({"noise__sigma_max": 3e38}, (1, 2)),
    "a rate of almost 0": ({"train__learning_rate": 1e-45}, (0,)),
    "bfloat16": ({"model__dtype": "bfloat16"}, (0,)),
    "bfloat16, much noise": ({"model__dtype": "bfloat16", "noise__sigma_max": 1e4}, (0,)),
    "bfloat16, overflowing": ({"model__dtype": "bfloat16", "noise__sigma_max": 1e38}, (1,)),
    "evaluated at 0": ({"evaluate__sigma_min": 0.0}, (2,)),
    "clipped to almost 0": ({"train__clip_norm": 1e-38}, (0,)),
    "evaluated at 1e-30": ({"evaluate__sigma_min": 1e-30}, (2,)),
    "evaluated at 1e-6": ({"evaluate__sigma_min": 1e-6}, (0,)),
    "evaluated at 1e30": ({"evaluate__sigma_max": 1e30}, (2,)),
}
# The same of an analysis.
ANALYSED_EDGES: dict[str, tuple[dict[str, object], tuple[int, ...]]] = {
    "analysed at 0": ({"analysis__sigma": 0.0}, (0,)),
    "no other level than 0": ({"analysis__sigma": 0.0, "analysis__sigmas": "(0,)", "analysis__probe_sigmas": "(0,)"}, (0, 2)),
    "compared with 0": ({"analysis__robustness_sigma": 0.0}, (2,)),
}


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each kind of number, where it can enter."""
    for rate in (SURELY, "1e10", "3e4", "1e2") if scene.long else (SURELY,):
        for dtype in ("float32", "bfloat16"):
            name = f"rate {rate}, {dtype}"
            yield Attack("learning rates", STOPPED, name, lambda chance, r=rate, d=dtype: diverges(scene, r, d))
    for value in ("nan", "inf"):
        for how, starts in (("analysed", False), ("started from", True)):
            act = lambda chance, v=value, s=starts: spoilt(scene, v, chance, s)  # noqa: E731
            yield Attack("NaN in a checkpoint", REFUSED, f"{value}, {how}", act)
        for where in ("gradient", "parameters"):
            act = lambda chance, v=value, w=where: within_a_step(scene, v, w, chance)  # noqa: E731
            yield Attack("NaN within a step", STOPPED, f"{value} in the {where}", act)
    for name in EDGES:
        yield Attack("numbers at the edge", FINITE, name, lambda chance, n=name: edge(scene, *EDGES[n]))
    for number in range(scene.many(1, 5)):
        yield Attack("the same seed twice", SAME, f"run {number}", lambda chance: again(scene))
    for devices in (2, 4) if scene.long else (4,):
        act = lambda chance, n=devices: other_devices(scene, n)  # noqa: E731
        yield Attack("other numbers of devices", CLOSE, f"{devices} devices", act)
    act = lambda chance: analysed_elsewhere(scene, 4)  # noqa: E731
    yield Attack("other numbers of devices, analysed", CLOSE_ARRAYS, "4 devices", act)
    yield Attack("other versions of the libraries", CLOSE, "--other-python", lambda chance: other_versions(scene))
    act = lambda chance: analysed_by_others(scene)  # noqa: E731
    yield Attack("other versions of the libraries, analysed", CLOSE_ARRAYS, "--other-python", act)
    for name in list(ANALYSED_EDGES)[-scene.many(2, 3) :]:
        yield Attack("numbers at the edge", FINITE, name, lambda chance, n=name: analysed_edge(scene, *ANALYSED_EDGES[n]))
    for value, how in [(value, how) for value in ("nan", "inf") for how in ("analysed", "started from")][: scene.many(1, 4)]:
        act = lambda chance, v=value, s=how != "analysed": spoilt(scene, v, chance, s, "averaged")  # noqa: E731
        yield Attack("NaN in a checkpoint", REFUSED, f"{value} in the average, {how}", act)
    both = [(value, part) for part in PARTS for value in ("nan", "inf")]
    for value, part in both if scene.long else (both[0], both[3]):
        act = lambda chance, v=value, p=part: resumed(scene, v, PARTS[p], chance)  # noqa: E731
        yield Attack("NaN in a checkpoint, trained on", RESUMED, f"{value} in {part}", act)


def finite_log(scene: Scene) -> list[dict]:
    """The lines of the log, all of whose numbers must be finite; what is not is null there."""
    lines = running.log_lines(scene.run)
    for line in lines:
        require(all(np.isfinite(np.array(value, float)).all() for value in line.values()), f"not finite: {line}")
    return lines


def require_finite_checkpoints(scene: Scene, *kept: int, but: Sequence[str] = ()) -> None:
    """All that any checkpoint keeps are numbers: parameters, their average, the optimiser's moments; some steps must be there.

    But for arrays whose numbers an attack has spoilt.
    """

    def unfinished() -> list[str]:  # it opens them all, and compares their checksums
        from faults import checkpoint_content

        return checkpoint_content.not_finite(scene.run)

    for step in kept:
        require((scene.run / "last" / str(step) / "manifest.json").exists(), f"step {step} is not kept")
    bad = [name for name in children.call(unfinished) if name not in but]
    require(not bad, f"checkpoints that are not finite: {bad}")


def require_stopped(scene: Scene, result: children.Result) -> tuple[int, int | None]:
    """The training says at which step it diverged and which one was good, and this one is kept; returns both steps."""
    require_one_line(result, "train.py", "training diverged at step", codes=(1,))
    step, *good = (int(text.replace(",", "")) for text in re.findall(r"step ([\d,]+)", result.err))
    require(len(good) == 1 or (not good and "no checkpoint had been saved" in result.err), f"no good step: {result.err!r}")
    require(all(one < step for one in good), f"step {good} is called good, {step} was not")
    finite_log(scene)
    require_finite_checkpoints(scene, *good)
    return step, good[0] if good else None


def diverges(scene: Scene, rate: str, dtype: str) -> None:
    """Warmed up, and saved at every step, so that there is a checkpoint before."""
    scene.clear()
    changed = {"train__learning_rate": rate, "train__warmup_steps": 1000, "checkpoint__every": 1, "model__dtype": dtype}
    result = scene.do(scene.training(**changed, train__epochs=20))
    if result.code == 0:
        require(rate != SURELY, "it did not diverge")
        finite_log(scene)
        require_finite_checkpoints(scene, 160)
        return
    _, good = require_stopped(scene, result)
    require(good is not None, f"no checkpoint before: {result.err!r}")


def within_a_step(scene: Scene, value: str, where: str, chance) -> None:
    """A gradient is spoilt at a random step, as by a broken device; or what the step made of the parameters."""
    scene.clear()
    at = chance.randint(5, 30)
    result = scene.do(scene.training(log__every=1), lambda: plant(float(value), where, at))
    step, good = require_stopped(scene, result)
    require(step in (at + 1, at + 2), f"step {step} is named, {at + 1} was spoilt")  # parameters are noticed a step later
    every = running.TRAINING["checkpoint.every"]
    require(good == at // every * every, f"step {good} is called the last good one")
    require(len(finite_log(scene)) > 0, "no log")


def plant(value: float, where: str, at: int) -> None:
    """From now on training steps are spoilt so, at this one."""
    import jax
    import jax.numpy as jnp

    from unetrep_jax import training

    real_step, real_gradient, now = training.train_step, jax.value_and_grad, []

    def spoil(tree):
        return jax.tree.map(lambda leaf: leaf * jnp.where(now[-1] == at, jnp.float32(value), 1).astype(leaf.dtype), tree)

    def gradient_of(function):
        def both(params):
            found, gradient = real_gradient(function)(params)
            return found, spoil(gradient)

        return both

    def spoiling(*arguments, **named):
        step = real_step(*arguments, **named)

        def spoilt_step(state, batch):
            now.append(state.step)
            after, metrics = step(state, batch)
            return after._replace(params=spoil(after.params)) if where == "parameters" else after, metrics

        return spoilt_step

    training.train_step = spoiling
    if where == "gradient":
        jax.value_and_grad = gradient_of


def spoilt(scene: Scene, value: str, chance, start_from: bool = False, where: str = "params") -> None:
    """One parameter, or its average, of an otherwise whole checkpoint is no number."""
    trained = scene.trained().folder / "run"  # made first, for it is made in the arena
    scene.clear()

    def write() -> None:
        import jax

        from unetrep_jax import checkpoints

        opened = checkpoints.open_checkpoint(trained, say=lambda _: None)
        leaves, tree = jax.tree.flatten(opened.params)
        leaves = [np.array(leaf) for leaf in leaves]
        leaves[chance.randrange(len(leaves))].flat[0] = float(value)
        trees = {"params": opened.params} | {where: jax.tree.unflatten(tree, leaves)}
        checkpoints.keep_parameters(scene.arena / "spoilt", 3, **trees, config=opened.config)

    children.call(write)
    path = scene.arena / "spoilt" / "3"
    if start_from:
        result, script = scene.do(scene.training(train__start_from=path)), "train.py"
    else:
        result, script = scene.do(scene.place.analysis(path, "--only", "sparsity")), "analyze.py"
    require_one_line(result, script, "NaN or infinity")


def resumed(scene: Scene, value: str, part: str, chance) -> None:
    """One number that a finished run goes on from is none; the checksums fit."""
    scene.lay_trained()
    spoiled = scene.run / "last" / str(running.STEPS)

    def spoil() -> list[str]:
        from faults import checkpoint_content

        checkpoint_content.spoil(spoiled, part, float(value), chance)
        return checkpoint_content.not_finite(scene.run)

    planted = children.call(spoil)
    require(len(planted) == 1, f"the attack itself: {planted}")
    result = scene.do(scene.training(train__epochs=6))
    require_no_traceback(result)
    require(result.code != 0 or str(spoiled) in result.err, f"gone on from {planted[0]} in silence")
    if result.code:
        words = (str(spoiled),) if result.code == 2 else ("training diverged at step",)
        require_one_line(result, "train.py", *words, codes=(1, 2))
    called_good = re.findall(r"last good checkpoint is step ([\d,]+)", result.err)
    require(str(running.STEPS) not in called_good, f"step {running.STEPS} is called good: {result.err!r}")
    finite_log(scene)
    whole = [path.name for path in spoiled.parent.glob("[0-9]*") if path != spoiled and path.name.isdecimal()]
    require(len(whole) > 0, "no good checkpoint is kept")
    require_finite_checkpoints(scene, *map(int, {*whole, *called_good}), but=planted)


def edge(scene: Scene, changed: dict[str, object], codes: tuple[int, ...]) -> None:
    """One epoch."""
    scene.clear()
    result = scene.do(scene.training(train__epochs=1, **changed))
    require_no_traceback(result)
    require(result.code in codes, f"code {result.code}, {codes} expected: {result.err[-600:]}")
    if result.code:
        require(len(result.err.splitlines()) == 1, f"more than a line: {result.err[-600:]}")
    else:
        require(finite_log(scene) != [], "no log")
    require_finite_checkpoints(scene, *([] if result.code else [running.PER_EPOCH]))


def analysed_edge(scene: Scene, changed: dict[str, object], codes: tuple[int, ...]) -> None:
    """The same of an analysis."""
    scene.lay_trained()
    stages = scene.stages if scene.long else FINITE_STAGES
    result = scene.do(scene.place.analysis(scene.run, "--only", *stages, **changed))
    require_no_traceback(result)
    require(result.code in codes, f"code {result.code}, {codes} expected: {result.err[-600:]}")
    if result.code:
        require_one_line(result._replace(err="\n".join(told_lines(result))), "analyze.py")
        return
    arrays = arrays_below(scene.run / "analysis")
    arrays = {name: array for name, array in arrays.items() if name.startswith(FINITE_FOLDERS)}
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    require(arrays != {} and not bad, f"not finite: {bad}")


def again(scene: Scene) -> None:
    """Every array, checkpoint and line of the log."""
    expected = scene.trained().content
    scene.clear()
    result = scene.do(scene.training())
    require_ended_well(result)
    same.require_same(same.run_content(scene.run), expected, "the run")


def require_close(found: list[dict], expected: list[dict], steps: int = 16, keys: Sequence[str] = tuple(TOLERANCES)) -> None:
    """Two logs have equal numbers up to a step, within the tolerances: sums have another order, and Adam multiplies differences."""
    for key in keys:
        both = [[line for line in lines if key in line and line["step"] <= steps] for lines in (found, expected)]
        made, right = ([line["step"] for line in lines] for lines in both)
        require(made == right != [], f"{key}: of steps {made}, {right} expected")
        worst = max(np.abs(np.divide(a[key], b[key]) - 1).max() for a, b in zip(*both, strict=True))
        require(worst < TOLERANCES[key], f"{key} differs by {worst:.1g}")


def other_devices(scene: Scene, devices: int) -> None:
    """The same run on one device and on several."""
    logs = []
    for number in (1, devices):
        scene.clear()
        result = scene.do(scene.training(devices__cpu_devices=number, **EVERY_STEP))
        require_ended_well(result)
        logs.append(finite_log(scene))
    require_close(*logs)


def analysed_elsewhere(scene: Scene, devices: int) -> None:
    """The same analysis on one device and on several."""
    both = []
    for number in (1, devices):
        scene.lay_trained()
        command = scene.place.analysis(scene.run, "--only", *COMPARED_STAGES, devices__cpu_devices=number)
        require_ended_well(scene.do(command))
        both.append(arrays_below(scene.run / "analysis"))
    require_close_arrays(both[1], both[0])


def require_close_arrays(made: dict[str, np.ndarray], right: dict[str, np.ndarray]) -> None:
    """Two analyses have equal arrays, within the tolerance."""
    require(made.keys() == right.keys() != set(), f"of arrays {sorted(made)}, {sorted(right)} expected")
    for name, expected in right.items():
        found = made[name]
        require((found.dtype, found.shape) == (expected.dtype, expected.shape), f"{name}: {found.dtype} {found.shape}")
        if expected.dtype.kind != "f":
            require(np.array_equal(found, expected), f"{name} differs")
            continue
        finite = np.isfinite(expected)
        require(np.array_equal(np.isfinite(found), finite), f"{name}: other numbers are not finite")
        worst, most = (np.abs(part[finite]).max(initial=0) for part in (found - expected, expected))
        require(worst <= ARRAYS_TOLERANCE * most, f"{name} differs by {worst:.1g} of {most:.1g}")


def arrays_below(folder: Path) -> dict[str, np.ndarray]:
    """All arrays of an analysis, by their files and names."""
    found = {str(path.relative_to(folder)): np.load(path) for path in folder.rglob("*.npy")}
    for path in folder.rglob("*.npz"):
        with np.load(path) as arrays:
            found |= {f"{path.relative_to(folder)} {name}": arrays[name] for name in arrays.files}
    return found


def other_versions(scene: Scene) -> None:
    """The same run by an interpreter with other libraries."""
    logs = []
    for done in by_both(scene, scene.clear, scene.training(**EVERY_STEP)):
        logs.append(finite_log(scene))
        require(logs[-1] != [], f"no log: {done}")
    require_close(*logs)


def analysed_by_others(scene: Scene) -> None:
    """The same analysis, of the same checkpoint, by an interpreter with other libraries."""
    command = scene.place.analysis(scene.run, "--only", *COMPARED_STAGES)
    made, right = [arrays_below(scene.run / "analysis") for _ in by_both(scene, scene.lay_trained, command)][::-1]
    require_close_arrays(made, right)


def by_both(scene: Scene, lay: Callable[[], object], command: list[str]) -> Iterator[list[str]]:
    """The versions of each of two interpreters in turn, after it has run a command of this very program in the arena."""
    if scene.other_python is None:
        raise Impossible("no --other-python was given")
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scene.folder / "other programs")}
    seen = []
    for python in (sys.executable, scene.other_python.absolute()):  # not resolved, for its link is what makes it a venv's
        lay()
        script = [str(children.ROOT / command[0]), *map(str, command[1:])]
        done = subprocess.run(
            [str(python), "-c", LAUNCH, *script], cwd=scene.arena, capture_output=True, text=True, env=environment
        )
        require(done.returncode == 0, f"{python}: {done.stderr[-600:]}")
        code, versions = json.loads(done.stdout.splitlines()[-1])
        require(Path(code) == children.ROOT / "unetrep_jax" / "__init__.py", f"{python} ran another program: {code}")
        if versions in seen:
            raise Impossible("--other-python has the same versions of all libraries")
        seen.append(versions)
        yield versions
