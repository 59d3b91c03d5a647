"""Trains a blind denoiser: python train.py --config configs/x.py [--workdir DIR] [--fresh] [--config.section.key=value ...]

A run lives in its folder: `config.json`, `metrics.jsonl`, `tensorboard/`, and the checkpoints `last/`, `best/` and, where
`checkpoint.milestones` asks for them, `milestones/`. Starting a run in a folder that holds one resumes it, exactly. Ctrl-C and
SIGTERM save first.
"""

import contextlib
import functools
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import configs
from unetrep_jax import endings, logs, storage
from unetrep_jax.logs import say
from unetrep_jax.storage import InputError

# Settings that a resumed run may change: they say where, how often and how long, not what is computed.
FREE = (
    "checkpoint.",
    "log.",
    "devices.",
    "analysis.",
    "data.cache_dir",
    "data.data_dir",
    "data.zip_dir",
    "data.train_path",  # that the images are the same, their fingerprint tells
    "data.validation_path",
    "evaluate.every",
    "train.rematerialise",
    "train.minutes",
)
BEGAN = time.monotonic()  # when the command was given
LEAST_GIVEN = 0.005  # dB; what rounds to 0.00 at every noise level is nothing
MOST_LEVELS = 1000  # of an evaluation; beyond, a number is a slip
# Of an evaluation. Below, noise is lost in float32's rounding of the intensities; beyond, sums of its squares are no float32:
# either way the PSNR is no number.
LEAST_NOISE, MOST_NOISE = 1e-6, 1e15
LOST = 3  # exit code: another process, or memory of the devices
RUN_FILES = ("config.json", "metrics.jsonl", "tensorboard", "last", "best", "milestones")


class Run(NamedTuple):
    """What a run works with, beside its state."""

    config: Any
    workdir: Path
    model: Any
    train_set: Any
    validation_set: Any
    total_steps: int

    @property
    def images_per_epoch(self) -> int:
        """Training images."""
        return len(self.train_set.images)

    @property
    def length(self) -> logs.Length:
        """For the log."""
        return logs.Length(self.config.train.batch_size, self.images_per_epoch, self.total_steps)

    @property
    def milestones(self) -> set[int]:
        """Steps whose parameters are kept for good: the last one, half of it, a quarter, ..."""
        halvings = range(min(self.config.checkpoint.milestones, self.total_steps.bit_length()))
        return {self.total_steps >> halving for halving in halvings}


class DivergedError(Exception):
    """The loss or its gradient is no longer a finite number."""


def parse(argv: list[str]) -> tuple[Any, Path, bool]:
    """Command line -> (configuration, run folder, fresh)."""
    parser = configs.Parser(prog="train.py", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--config", help="configuration file, such as configs/imagenet64.py")
    parser.add_argument("--workdir", help="run folder (default: runs/<name of the configuration>)")
    parser.add_argument("--fresh", action="store_true", help="discard the run that is in the folder, and start again")
    known, rest = parser.parse_known_args(argv)
    if known.workdir == "":
        raise InputError("--workdir is empty; give a folder, or leave it out for runs/<name of the configuration>.")
    config = configs.load(known.config)
    configs.override(config, rest)
    return config, Path(known.workdir or f"runs/{Path(known.config).stem}"), known.fresh


def check(config: Any) -> None:
    """Refuses settings that cannot work, before anything is read or written."""
    from unetrep_jax import noise

    build_network(config)
    noise.check_distribution(**config.noise)
    positive = (
        "train.epochs",
        "train.batch_size",
        "train.learning_rate",
        "train.halve_every",
        "evaluate.every",
        "evaluate.images",
        "evaluate.batch_size",
        "evaluate.levels",
        "evaluate.sigma_min",
        "evaluate.sigma_max",
        "checkpoint.every",
        "log.every",
        "devices.cpu_devices",
    )
    settings = dict(configs.flatten(config))
    for key in ("train.warmup_steps", "train.clip_norm", "train.minutes"):
        if not settings[key] >= 0:
            raise InputError(f"{key} must be 0 or more; got {settings[key]}.")
    if config.evaluate.levels > MOST_LEVELS:
        raise InputError(f"evaluate.levels must be {MOST_LEVELS:,} or less; got {config.evaluate.levels}.")
    if config.evaluate.sigma_max < config.evaluate.sigma_min:
        raise InputError(
            f"evaluate.sigma_max must not be below evaluate.sigma_min; got {config.evaluate.sigma_max} and "
            f"{config.evaluate.sigma_min}."
        )
    for key in positive:
        if not 0 < settings[key] < math.inf:
            raise InputError(f"{key} must be positive and finite; got {settings[key]}.")
    if config.evaluate.sigma_min < LEAST_NOISE:
        raise InputError(f"evaluate.sigma_min must be {LEAST_NOISE:g} or more; got {config.evaluate.sigma_min}.")
    if config.evaluate.sigma_max > MOST_NOISE:
        raise InputError(f"evaluate.sigma_max must be {MOST_NOISE:g} or less; got {config.evaluate.sigma_max}.")
    stride = 2 ** (len(config.model.channels) - 1)
    if config.train.crop % stride or not 0 <= config.train.crop <= config.data.image_size:
        raise InputError(
            f"train.crop = {config.train.crop} must be 0 (whole images) or a multiple of {stride} up to data.image_size "
            f"= {config.data.image_size}."
        )
    if not 0 <= config.train.ema_decay < 1:
        raise InputError(f"train.ema_decay must be in [0, 1); got {config.train.ema_decay}. 0 keeps no average.")
    if config.checkpoint.milestones < 0:
        raise InputError(f"checkpoint.milestones must be 0 or more; got {config.checkpoint.milestones}. 0 keeps none.")
    if config.checkpoint.keep < 2:
        raise InputError(
            f"checkpoint.keep must be 2 or more, so that one is whole while the next is written; got {config.checkpoint.keep}."
        )


def build_network(config: Any) -> Any:
    """The network to train."""
    from unetrep_jax import models

    how = {"image_channels": config.data.image_channels, "rematerialise": config.train.rematerialise}
    return models.build(**config.model, **how)


def tell(text: str) -> None:
    """A line on the standard error stream."""
    print(text, file=sys.stderr)


def check_folder(config: Any, workdir: Path, fresh: bool, say: Callable[[str], None] = tell) -> None:
    """Refuses a run folder that checkpoints cannot lie in, that holds something else, or a run that this one cannot continue."""
    from unetrep_jax import checkpoints

    checkpoints.usable(workdir)
    if not any((workdir / name).exists() for name in RUN_FILES):
        return
    before = settings_of(workdir, say)
    if "train.batch_size" not in before:
        raise InputError(
            f"{workdir} holds {', '.join(RUN_FILES)} or some of them, but no run of this program; use another --workdir."
        )
    if fresh:
        return
    if checkpoints.steps(workdir / "best") and not checkpoints.steps(workdir / "last"):
        raise InputError(
            f"{workdir} has checkpoints in best/ but none in last/ to go on from; use another --workdir, or --fresh."
        )
    check_same_experiment(config, workdir, before)


def settings_of(workdir: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """The settings of the run in a folder: `config.json`, or where that is damaged, those of the newest checkpoint that is not."""
    from unetrep_jax import checkpoints

    try:
        found = dict(configs.flatten(storage.read_json(workdir / "config.json")))
        damage = "" if "train.batch_size" in found else "it holds something else"
    except (OSError, ValueError, AttributeError) as error:
        damage = " ".join(str(error).split())
    if not damage:
        return found
    for step in reversed(checkpoints.steps(workdir / "last")):
        if settings := checkpoints.read_config(workdir / "last" / str(step)):
            say(f"{workdir / 'config.json'} is damaged ({damage}); the settings of step {step:,} are used.")
            return dict(configs.flatten(settings))
    return {}


def check_same_experiment(config: Any, workdir: Path, before: dict[str, Any]) -> None:
    """Refuses to continue a run with settings that would make the rest of it another experiment."""
    free = FREE if config.train.schedule == "cosine" else (*FREE, "train.epochs")
    now = dict(configs.flatten(configs.plain(config)))
    changed = [key for key in sorted(now) if before.get(key, now[key]) != now[key] and not key.startswith(free)]
    if changed:
        list_of = ", ".join(f"{key} (was {before[key]!r}, now {now[key]!r})" for key in changed)
        raise InputError(
            f"{workdir} holds a run with other settings: {list_of}. Use another --workdir, or --fresh to discard that run."
        )


def open_images(config: Any, split: str) -> Any:
    """The image set of a split, checked against the network's stride."""
    from unetrep_jax import data

    return data.load(split, stride=2 ** (len(config.model.channels) - 1), **config.data)


def prepare(config: Any, workdir: Path, fresh: bool) -> Run:
    """Everything that can be refused is refused here, before the run folder is touched."""
    from unetrep_jax import devices

    check(config)
    check_folder(config, workdir, fresh)
    devices.start(**config.devices)
    devices.check_divisible(config.train.batch_size, "train.batch_size")
    train_set, validation_set = open_images(config, "train"), open_images(config, "validation")
    model = build_network(config)
    total = math.ceil(config.train.epochs * len(train_set.images) / config.train.batch_size)
    run = Run(config, workdir, model, train_set, validation_set, total)
    open_batches(run).close()
    make_step(run, make_optimizer(run)[0])
    if config.train.start_from and (fresh or not resumes(run)):
        start_params(run, say=lambda _: None)
    return run


def open_batches(run: Run) -> Any:
    """The stream of training batches, from the beginning."""
    from unetrep_jax import data, devices

    return data.Batches(
        run.train_set,
        batch_size=run.config.train.batch_size,
        seed=run.config.seed,
        process_index=devices.process_index(),
        process_count=devices.process_count(),
    )


def resumes(run: Run) -> bool:
    """Whether there is a checkpoint to go on from."""
    from unetrep_jax import checkpoints

    return bool(checkpoints.steps(run.workdir / "last"))


def start_params(run: Run, say: Callable[[str], None] = print) -> Any:
    """Parameters before the first step: random, or those of another run's checkpoint."""
    import jax

    from unetrep_jax import checkpoints, models

    key, source = jax.random.key(run.config.seed), run.config.train.start_from
    if not source:
        return models.init_params(run.model, key)
    if run.workdir.resolve() in (Path(source).resolve(), *Path(source).resolve().parents):
        raise InputError(
            f"train.start_from = {source} lies in the run's own folder {run.workdir}; use another --workdir."
        )
    try:
        opened = checkpoints.open_checkpoint(source, say=say)
    except InputError as error:
        raise InputError(f"train.start_from = {source}: {error}") from error
    wanted = jax.eval_shape(functools.partial(models.init_params, run.model), key)
    if jax.tree.map(lambda leaf: leaf.shape, opened.params) != jax.tree.map(lambda leaf: leaf.shape, wanted):
        raise InputError(
            f"train.start_from = {source} holds another network than model.* describes; give it the same model settings."
        )
    if opened.config.get("seed") == run.config.seed:
        say(
            f"{source} was trained with seed {run.config.seed} too: the same images may come again in the same order, under the "
            "same noise; --config.seed gives others."
        )
    return opened.params


def make_optimizer(run: Run) -> tuple[Any, Any]:
    """(optimizer, learning rate by step)."""
    from unetrep_jax import training

    settings = run.config.train
    schedule = training.learning_rate_schedule(
        settings.schedule,
        settings.learning_rate,
        steps=run.total_steps,
        warmup_steps=settings.warmup_steps,
        halve_every=settings.halve_every * run.images_per_epoch / settings.batch_size,
    )
    return training.adam(schedule, settings.clip_norm), schedule


def make_step(run: Run, optimizer: Any) -> Any:
    """The training step over all devices."""
    from unetrep_jax import devices, noise, training

    settings = run.config.train
    gradient = training.loss_and_gradient(
        run.model,
        functools.partial(noise.noise_levels, **run.config.noise),
        seed=run.config.seed,
        batch_size=settings.batch_size,
        weight=settings.weight,
        crop=settings.crop,
        flip=settings.flip,
    )
    update = training.update_step(optimizer, ema_decay=settings.ema_decay)
    return devices.parallel_step(gradient, update, needs=training.params_and_step)


class Evaluation:
    """PSNR on the first validation images with fixed noise, at log-spaced levels; and a strip of pictures."""

    def __init__(self, run: Run):
        """Compiles nothing yet."""
        import numpy as np

        from unetrep_jax import denoiser, devices, middle, training

        settings = run.config.evaluate
        self.sigmas = np.geomspace(settings.sigma_min, settings.sigma_max, settings.levels).astype(np.float32)
        # Spread over the set, which may be sorted by class.
        chosen = np.linspace(
            0, len(run.validation_set.images) - 1, min(settings.images, len(run.validation_set.images))
        )
        self.images = run.validation_set.images[chosen.astype(int)]
        self._size = min(settings.batch_size, len(self.images))

        def denoise(params, noisy, _sigma):
            return run.model.apply({"params": params}, noisy)[0]

        self._step = devices.parallel_map(training.psnr_step(denoise, seed=run.config.seed), self._size)
        self._held = middle.psnr_held(*denoiser.take_apart(run.model), seed=run.config.seed, batch_size=self._size)
        self._pictures = devices.parallel_map(
            training.denoise_step(denoise, seed=run.config.seed), len(self.images[:6])
        )

    def psnr(self, params: Any) -> tuple[Any, Any, Any]:
        """PSNR of denoised images, of noisy ones, and with the middle block held, by level in dB, means over images."""
        import numpy as np

        from unetrep_jax import devices

        constants = devices.replicate((params, self.sigmas), local=True)
        results = []
        for first in range(0, len(self.images), self._size):
            rows = np.arange(first, min(first + self._size, len(self.images)), dtype=np.int32)
            results.append(self._step(constants, (self.images[rows], rows)))
        psnr = map(np.concatenate, zip(*results, strict=True))
        held = self._held(params, self.images, np.arange(len(self.images)), self.sigmas)
        return tuple(part.mean(axis=0) for part in (*psnr, held))

    def pictures(self, params: Any) -> Any:
        """One picture [h w c] in [0, 1]: a row per noise level of clean, noisy, denoised for a few images."""
        import numpy as np

        from unetrep_jax import devices

        images = self.images[:6]
        rows = []
        for sigma in np.float32([0.05, 0.2, 0.5]):
            constants = devices.replicate((params, sigma), local=True)
            clean, noisy, denoised = self._pictures(constants, (images, np.arange(len(images), dtype=np.int32)))
            rows.append(
                np.concatenate([np.concatenate(list(part), axis=1) for part in (clean, noisy, denoised)], axis=1)
            )
        return np.clip(np.concatenate(rows), 0, 1)


def finite_rows(metrics: list, last_step: int) -> list[list[float]]:
    """[[loss, gradient norm], ...] on the host, of the steps up to `last_step`; raises DivergedError where one is not finite."""
    rows = [[float(value) for value in step] for step in metrics]
    for step, row in enumerate(rows, last_step - len(rows) + 1):
        if not all(map(math.isfinite, row)):
            raise DivergedError(f"step {step:,}: loss {row[0]:g}, gradient norm {row[1]:g}")
    return rows


def require_finite(state: Any, step: int) -> None:
    """Raises DivergedError where a parameter, or a moment of its gradient, is not finite: what a step made of it no loss tells."""
    import jax
    import numpy as np

    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state)):
        raise DivergedError(f"step {step:,}: parameters that are not finite")


class Loop:
    """The state of a run, and what happens to it: steps, log lines, evaluations, checkpoints.

    Attributes:
      step: updates made so far.
      state: the training state, on the devices.
      recent: metrics since the last line of the log: on the devices, or [loss, gradient norm] after a resume.
      best_psnr: highest validation PSNR so far, mean over noise levels, dB.
      middle_gives: the most, over noise levels, that the middle block gives at the last evaluation, dB.
    """

    def __init__(self, run: Run):
        """Starts, or resumes from the newest whole checkpoint."""
        import jax

        from unetrep_jax import checkpoints, devices, models, training

        config = run.config
        self.run, self.average = run, config.train.ema_decay > 0
        optimizer, self.schedule = make_optimizer(run)
        resuming = resumes(run)
        initial = functools.partial(training.init_state, optimizer=optimizer, average=self.average)
        key = jax.random.key(config.seed)
        if resuming:  # shapes are all that is needed
            state = jax.eval_shape(lambda key: initial(models.init_params(run.model, key)), key)
        else:
            state = devices.to_host(initial(start_params(run)))
        self.recent, self.best_psnr, self.middle_gives, self._logged = [], -math.inf, math.inf, None
        self.batches = open_batches(run)
        if resuming:
            state = self._restore(state)
        self.step = int(state.step)
        devices.check_same(self.step, f"the step to go on from in {run.workdir}")
        run.workdir.mkdir(parents=True, exist_ok=True)
        if devices.process_index() == 0:  # before anything else that makes this a run's folder: killed then, it still is that run's
            storage.write_json(run.workdir / "config.json", configs.plain(config))
        self.last = checkpoints.Series(run.workdir / "last", keep=config.checkpoint.keep)
        self.best = checkpoints.Series(run.workdir / "best", keep=2)
        for series in (self.last, self.best):
            series.discard_after(self.step)
        self.state = devices.replicate(state)
        self.advance = make_step(run, optimizer)
        self.evaluation, self.stop = Evaluation(run), devices.StopRequest()
        self.log = logs.Log(run.workdir, run.length, self.step, writes=devices.process_index() == 0, checksum=self._logged)

    def _restore(self, state: Any) -> Any:
        from unetrep_jax import checkpoints

        like = {"step": state.step, "optimizer": state.optimizer}
        restored = checkpoints.restore(self.run.workdir / "last", like=like)
        self.batches.restore(restored.data["batches"])
        now = self.run.validation_set.fingerprint
        if (was := restored.data.get("validation", now)) != now:  # checkpoints of older versions do not know it
            raise InputError(
                f"The validation images (data.validation_*) cannot be continued with: the images' fingerprint was {was}, is {now}, "
                "and the best checkpoint so far was the best on others. Undo that, or start anew with --fresh."
            )
        self.recent, self.best_psnr = restored.data["recent"], restored.data["best_psnr"] or -math.inf
        self._logged = restored.data.get("log")  # checkpoints of older versions have none
        say(f"resumed {self.run.workdir} at step {restored.step:,}")
        return state._replace(params=restored.params, averaged=restored.averaged, **restored.train)

    def train_one(self) -> None:
        """One update."""
        batch = next(self.batches)
        self.state, metrics = self.advance(self.state, (batch.images, batch.index))
        self.recent.append(metrics)
        self.step += 1

    def write_log(self) -> None:
        """A line with the means since the last one."""
        rows = finite_rows(self.recent, self.step)
        loss, gradient_norm = (sum(column) / len(rows) for column in zip(*rows, strict=True))
        self.log.training(self.step, loss, gradient_norm, float(self.schedule(self.step - 1)))
        self.recent = []

    def evaluate(self) -> None:
        """Validation PSNR, and a checkpoint in `best/` when it is the highest so far."""
        from unetrep_jax import devices

        finite_rows(self.recent, self.step)
        began = time.monotonic()
        params = devices.to_host(self.state.averaged if self.average else self.state.params)
        require_finite(params, self.step)
        psnr, noisy_psnr, held_psnr = self.evaluation.psnr(params)
        pictures = self.evaluation.pictures(params)
        self.log.evaluation(self.step, self.evaluation.sigmas, psnr, noisy_psnr, held_psnr, pictures, time.monotonic() - began)
        self.middle_gives = float((psnr - held_psnr).max())
        if psnr.mean() > self.best_psnr:
            self.best_psnr = float(psnr.mean())
            self.save(self.best)

    def save(self, series: Any) -> None:
        """Begins to write a checkpoint; never one of a training that diverged."""
        from unetrep_jax import devices

        self.recent = finite_rows(self.recent, self.step)
        state = devices.to_host(self.state)
        require_finite((state.params, state.averaged, state.optimizer), self.step)
        best_psnr = self.best_psnr if math.isfinite(self.best_psnr) else None
        series.save(
            self.step,
            params=state.params,
            averaged=state.averaged,
            train={"step": state.step, "optimizer": state.optimizer},
            data={
                "batches": self.batches.state(),
                "validation": self.run.validation_set.fingerprint,
                "recent": self.recent,
                "best_psnr": best_psnr,
                "log": self.log.checksum(),
            },
            config=configs.plain(self.run.config),
        )

    def keep(self) -> None:
        """Writes the parameters to `milestones/`, where they stay."""
        from unetrep_jax import checkpoints, devices

        self.recent = finite_rows(self.recent, self.step)
        params, averaged = devices.to_host((self.state.params, self.state.averaged))
        require_finite((params, averaged), self.step)
        checkpoints.keep_parameters(
            self.run.workdir / "milestones",
            self.step,
            params=params,
            averaged=averaged if self.average else None,
            config=configs.plain(self.run.config),
        )

    def finish(self) -> None:
        """Completes what is being written, on all processes."""
        self.best.wait()
        self.last.wait()

    def close(self) -> None:
        """Ends threads and files. Waits for no other process: this one may be alone in its trouble."""
        self.batches.close()
        self.log.close()


def train(run: Run) -> str:
    """Runs to the end, or to a request to stop; returns what happened, for the screen."""
    config, loop, reason, milestones = run.config, Loop(run), "", run.milestones
    try:
        while loop.step < run.total_steps and not reason:
            loop.train_one()
            final = loop.step == run.total_steps
            if loop.step % config.log.every == 0 or final:
                loop.write_log()
            if loop.step % config.evaluate.every == 0 or final:
                loop.evaluate()
            if loop.step in milestones:
                loop.keep()
            if config.train.minutes and time.monotonic() - BEGAN > 60 * config.train.minutes:
                loop.stop.request("train.minutes")
            reason = loop.stop.at(loop.step)
            if loop.step % config.checkpoint.every == 0 or final or reason:
                # What `last` remembers of the best so far must be on disk before it.
                loop.best.wait()
                loop.save(loop.last)
            loop.last.seal()
            loop.best.seal()
        loop.finish()
    except DivergedError as error:
        loop.finish()
        kept = loop.last.steps()
        where = f"the last good checkpoint is step {kept[-1]:,}" if kept else "no checkpoint had been saved"
        remedy = "lower train.learning_rate or set train.clip_norm, in another --workdir"
        raise DivergedError(f"training diverged at {error}; {where} in {run.workdir}; {remedy}") from None
    finally:
        loop.close()
    if reason:
        return f"stopped by {reason} at step {loop.step:,}, saved; the same command goes on from there"
    if loop.middle_gives < LEAST_GIVEN:
        say(
            "The output hardly depends on the middle block, so that training teaches phi nothing; --config.model.gain_init=one "
            "with --config.model.bias=False or a lower --config.train.learning_rate, or --config.model.decoder_depth=2, may keep "
            "it in use, in another --workdir."
        )
    return (
        f"finished at step {loop.step:,}; best validation PSNR {loop.best_psnr:.2f} dB (mean over levels). "
        f"Next: python analyze.py --ckpt {run.workdir}"
    )


def discard_run(workdir: Path) -> None:
    """Removes a run's own files from its folder, and nothing else; all processes wait until it is done."""
    from unetrep_jax import devices

    for name in reversed(RUN_FILES) if devices.process_index() == 0 else ():  # config.json last: until then it is a run
        path = workdir / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    devices.barrier("the old run is discarded")


@contextlib.contextmanager
def own(config: Any, workdir: Path, fresh: bool) -> Iterator[None]:
    """Keeps a second run out of the folder; of several processes that make one run, the first one does."""
    from unetrep_jax import devices

    if devices.process_index():
        yield
        return
    with storage.lock(workdir / ".lock", wait=False):
        check_folder(config, workdir, fresh, say=lambda _: None)  # again: since then another run may have begun there
        yield


def in_company() -> bool:
    """See `devices.in_company`."""
    if "jax" not in sys.modules:
        return False
    from unetrep_jax import devices

    return devices.in_company()


def run_from(argv: list[str]) -> int:
    """The command's work; exit code 0 when it is done or was stopped on request, 1 when the training diverged."""
    config, workdir, fresh = parse(argv)
    run = prepare(config, workdir, fresh)
    try:
        with own(config, workdir, fresh):
            if fresh:
                discard_run(workdir)
            say(train(run))
        return 0
    except DivergedError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 1


def main(argv: list[str]) -> int:
    """Exit code: that of `run_from`; 2 bad input, no space or too little memory; 3 a process or a device's memory lost; 130 Ctrl-C.

    Errors are one line.
    """
    return endings.in_one_line("train.py", lambda: run_from(argv), goes_on="the last checkpoint", lost=LOST)


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    if code and in_company():
        os._exit(code)  # or JAX would wait for the others, which may wait for this one
    sys.exit(code)
