"""The cache of compiled programs that train.py and analyze.py keep themselves (`devices.compilation_cache`): damaged, half-written.

Everywhere else the campaign's own takes its place, for JAX's variable goes before the setting.
"""

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from faults import children, phases, same
from faults.attack import Chance, Missed, require, require_ended_well
from faults.harms import Harm
from faults.scene import Reference, Scene

COMPILED = "a program is compiled again or was whole: the same run, bit for bit"
KEPT_IN = {"devices__compilation_cache": "programs"}  # below the current folder, which is the arena
SIZES = (1, 4000)  # bytes of a half-written program


def attacked(scene: Scene) -> Reference:
    """The run, with such a setting."""
    return scene.trained(**KEPT_IN)


def do(scene: Scene, before: Callable[[], Any] = lambda: None) -> children.Result:
    """Trains with that cache."""

    def own() -> None:
        import jax

        del os.environ["JAX_COMPILATION_CACHE_DIR"]
        jax.config.update("jax_compilation_cache_dir", None)
        before()

    return scene.do(scene.training(**KEPT_IN), own)


def require_same_run(scene: Scene, reference: Reference, result: children.Result) -> None:
    """It ended well, in silence, with the same."""
    require_ended_well(result)
    require(result.err == "", f"says {result.err[-600:]}")
    same.require_same(same.run_content(scene.run), reference.content, "the run")


def kept(scene: Scene) -> list[Path]:
    """The programs in the cache."""
    return sorted((scene.arena / "programs").rglob("*-cache"))


def damage_programs(scene: Scene, harm: Harm, chance: Chance) -> None:
    """One of the programs that a run kept is damaged; another run, which asks for it, is the same."""
    reference = attacked(scene)
    scene.clear()
    require_same_run(scene, reference, do(scene))
    programs = kept(scene)
    require(len(programs) > 1, f"kept {len(programs)} programs")
    harmed, asked_for = chance.choice(programs), scene.folder / "phase"
    harm(harmed, harmed.parent, chance)
    children.remove(scene.run)

    def watch() -> None:
        note = phases.noting(asked_for)

        def hook(event: str, arguments: tuple) -> None:
            if event == "open" and str(arguments[0]).endswith(harmed.name):
                note("it")

        sys.addaudithook(hook)

    again = do(scene, watch)
    if again.code == 0 and phases.noted(asked_for) != "it":
        raise Missed("nobody asked for it")
    require_same_run(scene, reference, again)


def kill_writing(scene: Scene, chance: Chance) -> None:
    """The system ends the process while it writes a program, of which the beginning stays; another run is the same."""
    reference = attacked(scene)
    scene.clear()
    position, size = chance.randint(1, 4), chance.randint(*SIZES)

    def watch() -> None:
        left = position
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        def hook(event: str, arguments: tuple) -> None:
            nonlocal left
            if event == "open" and str(arguments[0]).endswith("-cache") and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR):
                left -= 1
                if left == 0:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

        sys.addaudithook(hook)

    result = do(scene, watch)
    if result.code == 0:
        raise Missed("it wrote fewer, or shorter ones")
    require(result.code == -signal.SIGXFSZ, f"code {result.code}: {result.err[-600:]}")
    require(any(path.stat().st_size == size for path in kept(scene)), "no program was half-written")
    children.remove(scene.run)
    require_same_run(scene, reference, do(scene))
