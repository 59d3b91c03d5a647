"""Runs train.py and analyze.py as a user does: in processes of their own, from their command lines.

As a program, this file runs scripts under test conditions:

    python running.py signal '[[9, "os.rename", "last/8$"]]' train.py --config ...
    python running.py serve

`signal` sends itself each signal, one after the other, right before the next operation on a file (an audit event of Python)
whose path matches the pattern; 0 sends none and sleeps instead, as a slow disk would. `serve` reads lines of command lines and
runs each in a fork of itself, which has imported everything: much faster than a new process. For the script it is no different,
but that figures are made and not rendered.
"""

import contextlib
import functools
import json
import os
import re
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, NamedTuple, NoReturn

ROOT = Path(__file__).parents[1]
DEFAULT = ROOT / "configs" / "default.py"
PATIENCE = 600  # seconds until a process counts as hanging
LEARNED_SECONDS = 0.1  # of compiling, beyond which a program is kept for other processes


class Result(NamedTuple):
    """What a process left."""

    code: int
    out: str
    err: str


class Moment(NamedTuple):
    """Right before the next file operation `event` on a path that matches: send a signal, or, for signal 0, be slow."""

    signal: int
    event: str
    path: str


# The smallest network that has every kind of block, on 12x12 grey images.
NETWORK = {
    "data.image_size": 12,
    "data.image_channels": 1,
    "model.channels": "(4,8)",
    "model.encoder_depth": 1,
    "model.mid_depth": 1,
    "model.decoder_depth": 2,
}
TRAINING = {
    "train.batch_size": 8,
    "train.epochs": 5,
    "train.ema_decay": 0.5,
    "log.every": 5,
    "evaluate.every": 6,
    "evaluate.images": 8,
    "evaluate.batch_size": 8,
    "evaluate.levels": 3,
    "checkpoint.every": 4,
    "checkpoint.milestones": 3,
}
STEPS, PER_EPOCH = 40, 8
MILESTONES = (10, 20, 40)
ANALYSIS = {
    "analysis.sigmas": "(0,100)",
    "analysis.draws": 2,
    "analysis.untrained_images": 16,
    "analysis.batch_size": 8,
    "analysis.clusters": "(3,4)",
    "analysis.cluster_seeds": 2,
    "analysis.cluster_runs": 2,
    "analysis.cluster_members": 5,
    "analysis.selectivity_simulations": 20,
    "analysis.top_images_per_channel": 4,
    "analysis.top_images_channels": 2,
    "analysis.top_images_common": 1,
    "analysis.top_images_targets": 1,
    "analysis.neighbours": 4,
    "analysis.neighbour_targets": 2,
    "analysis.probe_sigmas": "(100,)",
    "analysis.probe_images": 40,
    "analysis.embedding_pairs": 4,
    "analysis.embedding_reconstructed_pairs": 3,
    "analysis.embedding_samples": 1,
    "analysis.embedding_levels": 2,
    "analysis.embedding_updates": 2,
    "analysis.location_images": 4,
    "analysis.location_composites": 30,
    "analysis.emergence_clusters": 3,
    "analysis.samples": 4,
    "analysis.sample_h0": 0.5,
    "analysis.sample_beta": 0.5,
    "analysis.sample_max_steps": 20,
    "analysis.targets": 2,
    "analysis.samples_per_target": 2,
    "analysis.control_targets": 0,
    "analysis.published_targets": 0,
    "analysis.schedule_levels": 3,
    "analysis.target_draws": 2,
    "analysis.matching_steps": 4,
    "analysis.reconstruction_batch": 2,
    "analysis.figure_formats": "('png',)",
}


class Place:
    """A folder in which scripts run: arrays to train on, and a cache of compiled programs that all of them share.

    Attributes:
      folder: current folder of the scripts.
      settings: settings of a run that takes a second or two.
    """

    def __init__(self, folder: Path):
        """Makes the arrays."""
        import numpy as np
        from skimage import data

        self.folder = folder
        photograph = data.astronaut().mean(axis=-1)[::4, ::4].astype(np.uint8)[..., None]
        for name, seed, count in (("train", 0, 64), ("validation", 1, 24)):
            corners = np.random.default_rng(seed).integers(0, 128 - 12, (count, 2))
            np.save(folder / f"{name}.npy", np.stack([photograph[r : r + 12, c : c + 12] for r, c in corners]))
        np.save(folder / "labels.npy", np.arange(24) % 3)
        arrays = {f"data.{name}_path": folder / f"{name}.npy" for name in ("train", "validation")}
        elsewhere = {"data.cache_dir": folder / "cache", "data.data_dir": folder / "tfds"}
        self.settings = {"data.source": "npy", **arrays, **elsewhere, **NETWORK, **TRAINING}

    def environment(self, learn: bool) -> dict[str, str]:
        """Compiling takes longer than all the rest, so all processes share compiled programs, compiled fast (see conftest).

        Only those that nothing interrupts may add to them (`learn`), for JAX does not write them atomically.
        """
        return os.environ | {
            "JAX_COMPILATION_CACHE_DIR": str(self.folder / "programs"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": str(LEARNED_SECONDS if learn else 1e9),
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            "JAX_PLATFORMS": "cpu",
            "MPLBACKEND": "agg",
        }

    def training(self, workdir: Path | str, **changed: object) -> list[str]:
        """Command line of train.py; `changed` settings have `__` for the dot."""
        settings = self.settings | {name.replace("__", "."): value for name, value in changed.items()}
        return ["train.py", "--config", str(DEFAULT), "--workdir", str(workdir), *as_flags(settings)]

    def analysis(self, run: Path, *arguments: object, **changed: object) -> list[str]:
        """Command line of analyze.py on a run."""
        settings = ANALYSIS | {name.replace("__", "."): value for name, value in changed.items()}
        return ["analyze.py", "--ckpt", str(run), *map(str, arguments), *as_flags(settings)]

    @functools.cached_property
    def finished_run(self) -> Path:
        """A run that nothing interrupted."""
        result = self.run(self.training("finished"))
        assert (result.code, result.err) == (0, ""), result.err
        return self.folder / "finished"

    def start(
        self, command: Sequence[str], moments: Sequence[Moment] = (), prefix: Sequence[str] = (), learn: bool = False
    ) -> "Process":
        """Starts a script; `prefix` is a program that runs it."""
        script = ROOT / command[0], *command[1:]
        if moments:
            script = __file__, "signal", json.dumps(moments), *command
        return Process([*prefix, sys.executable, *map(str, script)], self.environment(learn), self.folder)

    def run(self, command: Sequence[str], prefix: Sequence[str] = ()) -> Result:
        """Runs a script to its end, in a process of its own."""
        return self.start(command, prefix=prefix, learn=not prefix).wait()

    def run_fork(self, command: Sequence[str], moments: Sequence[Moment] = ()) -> Result:
        """Runs a script to its end, in a fork of a process that has imported everything."""
        [result] = self.run_forks([command], moments=[moments])
        return result

    def run_forks(
        self, commands: Sequence[Sequence[str]], at_once: int = 1, moments: Sequence[Sequence[Moment]] | None = None
    ) -> list[Result]:
        """Runs many scripts, in order, so many at once; `moments` are of each command."""
        moments = moments or [()] * len(commands)
        cases = [[list(map(str, command)), list(when)] for command, when in zip(commands, moments, strict=True)]
        self._server.stdin.write(json.dumps([cases, at_once, not any(moments)]) + "\n")
        self._server.stdin.flush()
        return [Result(*result) for result in json.loads(self._server.stdout.readline())]

    @functools.cached_property
    def _server(self) -> subprocess.Popen:
        """The process that forks; it ends with this one, when its input does."""
        return subprocess.Popen(
            [sys.executable, __file__, "serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=self.environment(learn=False),
            cwd=self.folder,
            text=True,
        )


@functools.cache
def place_in(folder: Path) -> Place:
    """The place in a folder, made once."""
    folder.mkdir()
    return Place(folder)


class Process:
    """A script that is running; what it prints goes to files, so that it never waits for a reader."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], folder: Path):
        """Starts it in a folder."""
        self._files = out, err = outputs()
        self.popen = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)

    def wait(self, patience: float = PATIENCE) -> Result:
        """Waits for the end."""
        try:
            code = self.popen.wait(patience)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()
            raise
        return Result(code, *map(_read, self._files))

    def wait_until(self, condition) -> None:
        """Returns when the condition holds, or the process has ended."""
        give_up = time.monotonic() + PATIENCE
        while not condition() and self.popen.poll() is None:
            assert time.monotonic() < give_up, "waited too long"
            time.sleep(0.002)


def as_flags(settings: Mapping[str, object]) -> list[str]:
    """{"train.epochs": 3} -> ["--config.train.epochs=3"]."""
    return [f"--config.{key}={value}" for key, value in settings.items()]


def save_unrendered(figure: object, folder: Path, name: str, formats: Sequence[str] = ("png", "pdf")) -> Path:
    """In place of `figures.save`: files of the same names, without rendering, which takes longer than all else in small runs."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for kind in formats:
        (folder / f"{name}.{kind}").touch()
    Image.new("RGB", (4, 4)).save(folder / f"{name}.png")
    return folder / f"{name}.png"


def limited(what: str, kibibytes: int) -> list[str]:
    """A program that runs a script under a limit of `ulimit`: "-f" on the length of files, "-v" on memory."""
    return ["bash", "-c", f'ulimit {what} {kibibytes}; exec "$@"', "bash"]


def free_address() -> str:
    """Of this machine, with a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def start_two(
    place: Place, run: Path, flags: Sequence[str] = (), moments: Sequence = ((), ()), learn: bool = False, **changed: object
) -> list[Process]:
    """Starts two processes that make one run, of one device each; the other arguments are as those of `Place.start`."""
    changed |= {"devices__cpu_devices": 1, "devices__distributed": True, "devices__coordinator": free_address()}
    changed |= {"devices__processes": 2}
    commands = [[*place.training(run, **changed, devices__process=i), *flags] for i in range(2)]
    return [place.start(command, at, learn=learn) for command, at in zip(commands, moments, strict=True)]


def log_lines(run: Path) -> list[dict]:
    """The lines of a run's log; none where there is no log yet."""
    log = run / "metrics.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


def snapshot(folder: Path) -> dict[str, tuple]:
    """Every file below a folder: its content, and when it was written."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def run_script(command: Sequence[object]) -> None:
    """Runs a script in this process, as Python would from its command line."""
    sys.argv = [str(ROOT / str(command[0])), *map(str, command[1:])]
    runpy.run_path(sys.argv[0], run_name="__main__")


def _interrupt_at(moments: Sequence[Moment]) -> None:
    from unetrep_jax import storage

    storage.RowWriter.__init__.__defaults__ = (0.0,)  # record every batch: what takes five seconds is long done here
    waiting = list(moments)

    def hook(event: str, arguments: tuple) -> None:
        if not waiting or event != waiting[0].event:
            return
        if any(re.search(waiting[0].path, str(value)) for value in arguments):
            moment = waiting.pop(0)
            if moment.signal:
                os.kill(os.getpid(), moment.signal)
            else:
                time.sleep(3)

    sys.addaudithook(hook)


def _run_forks(cases: Sequence[tuple], at_once: int, learn: bool) -> list[Result]:
    ended, running = {}, {}
    for number, (command, moments) in enumerate(cases):
        if len(running) == at_once:
            _collect(running, ended)
        files = outputs()
        running[_fork(command, moments, files, learn)] = number, files
    while running:
        _collect(running, ended)
    return [ended[number] for number in range(len(cases))]


def _fork(command: Sequence[str], moments: Sequence[Sequence], files: Sequence[IO[str]], learn: bool) -> int:
    child = os.fork()
    if child == 0:
        signal.alarm(PATIENCE)

        def script() -> None:
            if learn:
                learn_programs()
            if moments:
                _interrupt_at([Moment(*moment) for moment in moments])
            run_script(command)

        become(script, files)
    return child


def become(function: Callable[[], int | None], files: Sequence[IO[str]]) -> NoReturn:
    """Makes a fork a program of its own: runs a function, with its output in files, and ends with its code as Python would."""
    code = 1
    try:
        # As for a command that a person starts: what runs in the background ignores Ctrl-C, and so would its forks.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        for number, file in enumerate(files, 1):
            os.dup2(file.fileno(), number)
        code = function() or 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def learn_programs() -> None:
    """What this process compiles is kept for the others; for those that nothing interrupts, as JAX does not write atomically."""
    import jax

    jax.config.update("jax_persistent_cache_min_compile_time_secs", LEARNED_SECONDS)


def _collect(running: dict[int, tuple], ended: dict[int, Result]) -> None:
    """Waits for one child."""
    child, status = os.wait()
    number, files = running.pop(child)
    ended[number] = Result(os.waitstatus_to_exitcode(status), *map(_read, files))


def outputs() -> list[IO[str]]:
    """Files for what a process prints on its standard output and error."""
    return [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]


def _read(file: IO[str]) -> str:
    with file:
        file.seek(0)
        return file.read()


def import_everything() -> None:
    """What the scripts import; starts no device."""
    import grain  # noqa: F401
    import optax  # noqa: F401
    import tensorboardX  # noqa: F401

    import unetrep_jax.checkpoints
    import unetrep_jax.data
    import unetrep_jax.figures
    import unetrep_jax.stages
    import unetrep_jax.training  # noqa: F401


def _main(mode: str, *rest: str) -> None:
    sys.path[0] = str(ROOT)  # as it is for the scripts
    if mode == "signal":
        moments, *command = rest
        _interrupt_at([Moment(*moment) for moment in json.loads(moments)])
        run_script(command)
        return
    import_everything()
    from unetrep_jax import figures

    figures.save = save_unrendered
    for line in sys.stdin:
        print(json.dumps(_run_forks(*json.loads(line))), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
