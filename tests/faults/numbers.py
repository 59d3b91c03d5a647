"""Numbers: NaN and infinity, steps that are too large, no noise at all, half precision; and the same run twice and elsewhere."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import running

from faults import children, same
from faults.attack import Attack, Impossible, require, require_ended_well, require_no_traceback, require_one_line
from faults.scene import Scene

SURELY = "1e19"  # a rate that no training survives
STOPPED = "stopped with one line that names the step and the last good one, which is kept, or survived; all checkpoints are finite"
REFUSED = "refused by name"
FINITE = "it ends well, all numbers finite, or is refused with one line"
SAME = "bit for bit the same run"
CLOSE = "equal losses, gradients and PSNR of the first 16 steps, to 1 part in 10,000 (gradients: 1,000)"
TOLERANCES = {"loss": 1e-4, "gradient_norm": 1e-3, "psnr": 1e-4}
CLOSE_ARRAYS = "equal arrays of an analysis, to 1 part in 1,000 of the largest number of each"
ARRAYS_TOLERANCE = 1e-3
COMPARED_STAGES = ("denoising", "sparsity", "robustness")  # in which no small difference grows
EVERY_STEP = {"log__every": 1, "evaluate__every": 4, "train__epochs": 2}


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


def finite_log(scene: Scene) -> list[dict]:
    """The lines of the log, all of whose numbers must be finite; what is not is null there."""
    lines = running.log_lines(scene.run)
    for line in lines:
        require(all(np.isfinite(np.array(value, float)).all() for value in line.values()), f"not finite: {line}")
    return lines


def require_finite_checkpoints(scene: Scene, *kept: int) -> None:
    """All that any checkpoint keeps are numbers: parameters, their average, the optimiser's moments; some steps must be there."""

    def unfinished() -> list[str]:  # it opens them all, and compares their checksums
        from faults import checkpoint_content

        return checkpoint_content.not_finite(scene.run)

    for step in kept:
        require((scene.run / "last" / str(step) / "manifest.json").exists(), f"step {step} is not kept")
    bad = children.call(unfinished)
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


def spoilt(scene: Scene, value: str, chance, start_from: bool = False) -> None:
    """One parameter of an otherwise whole checkpoint is no number."""
    trained = scene.trained().folder / "run"  # made first, for it is made in the arena
    scene.clear()

    def write() -> None:
        import jax

        from unetrep_jax import checkpoints

        opened = checkpoints.open_checkpoint(trained, say=lambda _: None)
        leaves, tree = jax.tree.flatten(opened.params)
        leaves = [np.array(leaf) for leaf in leaves]
        leaves[chance.randrange(len(leaves))].flat[0] = float(value)
        checkpoints.keep_parameters(
            scene.arena / "spoilt", 3, params=jax.tree.unflatten(tree, leaves), config=opened.config
        )

    children.call(write)
    path = scene.arena / "spoilt" / "3"
    if start_from:
        result, script = scene.do(scene.training(train__start_from=path)), "train.py"
    else:
        result, script = scene.do(scene.place.analysis(path, "--only", "sparsity")), "analyze.py"
    require_one_line(result, script, "NaN or infinity")


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
    require(both[0].keys() == both[1].keys() != set(), f"of arrays {sorted(both[1])}, {sorted(both[0])} expected")
    for name, expected in both[0].items():
        found = both[1][name]
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
    if scene.other_python is None:
        raise Impossible("no --other-python was given")
    logs, environment = [], os.environ | {"JAX_COMPILATION_CACHE_DIR": str(scene.folder / "other programs")}
    for python in (sys.executable, scene.other_python.absolute()):  # not resolved, for its link is what makes it a venv's
        scene.clear()
        command = [str(python), str(children.ROOT / "train.py"), *map(str, scene.training(**EVERY_STEP)[1:])]
        done = subprocess.run(command, cwd=scene.arena, capture_output=True, text=True, env=environment)
        require(done.returncode == 0, f"{python}: {done.stderr[-600:]}")
        logs.append(finite_log(scene))
    require_close(*logs)
