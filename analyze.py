"""Analyses a trained denoiser: python analyze.py [--ckpt RUN] [--images SOURCE] [--outdir DIR] [--only STAGE ...] [--redo ...]

Stages, each cached by its settings, the checkpoint and the images:
  architecture     the network from its own shapes (figure 9)
  denoising        PSNR against noise level, beside a Wiener filter
  representations  channel averages of every block, over images, noise levels and noise draws
  untrained        the same for the network with random initial weights, as a control
  sparsity         participation ratios of every block (figure 1)
  robustness       what noise does to every block's averages (figure 2)
  samples          unconditional samples, and the nearest training image to each
  reconstructions  images from phi alone, with controls; what one matching does (figures 3, 10 to 13)
  selectivity      which channels are specialised, which common (figure 4)
  top_images       the images that excite a channel most, and an image's own channels (figures 4, 5)
  clusters         K-means on phi, separation, alignment with labels, with nulls (figure 8)
  subspaces        supports, co-activation, overlap: a union of subspaces? (figure 6)
  neighbours       nearest images in phi and in pixels, and how often labels agree (figure 7)
  probe            a linear classifier of labels on phi
  embedding        distances in phi against distances between densities (equations 3, 4)
  location         what shifts change, and how well phi tells a place
  emergence        what emerges when: the measures along the training, where the run kept milestones; other runs --beside it
  explorer         a page to look around in: images, channels and clusters, from what the other stages have found
Then `summary.json`, `report.html` and, with the same content, `report.md` are written from the saved arrays;
figures are drawn where something has changed.
Settings are changed by --config.analysis.key=value, --config.data.key=value, --config.devices.key=value.
"""

import argparse
import functools
import importlib.metadata
import platform
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import configs
from unetrep_jax import endings, storage
from unetrep_jax.storage import InputError

CHANGEABLE = ("--config.analysis.", "--config.data.", "--config.devices.")
REFERENCE = Path(__file__).resolve().parent / "pretrained" / "photo24"  # what is analysed when nothing is named
STAGES = re.findall(r"^  (\w+)  ", __doc__, re.MULTILINE)  # known before anything slow is imported


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Command line -> (arguments, settings to change)."""
    parser = configs.Parser(
        prog="analyze.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument(
        "--ckpt", help=f"a run folder, a series of checkpoints, or one checkpoint (default: pretrained/{REFERENCE.name})"
    )
    parser.add_argument("--step", type=int, help="checkpoint step (default: the best)")
    parser.add_argument("--weights", help="averaged or params (default: averaged where the run kept them)")
    parser.add_argument(
        "--images", help="folder, .npy file, photographs, or tfds:NAME[:SPLIT] (default: the run's validation set)"
    )
    parser.add_argument("--outdir", help="where results go (default: RUN/analysis)")
    parser.add_argument(
        "--beside",
        nargs="+",
        metavar="RUN",
        default=[],
        action="extend",
        help="runs whose training is shown beside this one's (emergence)",
    )
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run these stages and what they need")
    parser.add_argument(
        "--redo", nargs="+", metavar="STAGE", default=[], help="run these stages even if they are up to date"
    )
    arguments, rest = parser.parse_known_args(argv)
    # Images that were asked for are analysed or missed; only where nothing was, others may take their place.
    arguments.names_images = any(
        argument.startswith("--config.data.") and not argument.startswith(("--config.data.cache_dir", "--config.data.data_dir"))
        for argument in rest
    )
    for flag, names in (("--only", arguments.only or []), ("--redo", arguments.redo)):
        if unknown := [name for name in names if name not in STAGES]:
            raise InputError(f"{flag}: stage {unknown[0]!r} is unknown; leave {flag} out, or name some of: {', '.join(STAGES)}.")
    if arguments.ckpt == "":
        raise InputError("--ckpt is empty; give a run folder or a checkpoint, or leave it out for the reference model.")
    for name in ("weights", "images", "outdir"):
        if getattr(arguments, name) == "":
            raise InputError(f"--{name} is empty; give a value, or leave it out.")
    arguments.ckpt = arguments.ckpt or str(REFERENCE)
    known = dict(configs.flatten(configs.from_plain({})))  # what is none of these is refused later, with the nearest of them
    for argument in rest:
        key = argument.partition("=")[0]
        if key.removeprefix("--config.") in known and not argument.startswith(CHANGEABLE):
            raise InputError(
                f"{key} cannot be changed here: it is the checkpoint's. Only analysis, data and devices settings can."
            )
    return arguments, rest


def open_images(arguments: argparse.Namespace, config: Any) -> Any:
    """The images to analyse: those named, or the run's validation set; for a model of `pretrained/`, the photographs without it."""
    from unetrep_jax import data

    keys = ("image_size", "image_channels", "cache_dir", "max_unreadable", "data_dir", "zip_dir")
    form = {"stride": stride(config), **{key: config.data[key] for key in keys}}
    if arguments.images:
        return data.open_images(arguments.images, **form)
    shipped = Path(arguments.ckpt).resolve().parent == REFERENCE.parent and not config.data.zip_dir
    try:
        return data.load("validation", may_prepare=not shipped, stride=stride(config), **config.data)
    except InputError as error:
        if not shipped or arguments.names_images:
            raise
        print(
            f"{str(error).splitlines()[0]}\nSo the photographs that come with the installed packages are analysed: the numbers "
            "will not be those of docs/results.md. --images names others.",
            file=sys.stderr,
        )
        arguments.images = "photographs"  # which the folder of the results is named after
        return data.open_images(arguments.images, **form)


def stride(config: Any) -> int:
    """Image sizes must be multiples of this."""
    return 2 ** (len(config.model.channels) - 1)


def open_everything(argv: list[str]) -> tuple[Any, argparse.Namespace]:
    """Everything that can be refused is refused here, before anything is written."""
    arguments, rest = parse(argv)
    import jax

    from unetrep_jax import checkpoints, data, denoiser, devices, models, stages

    # Devices come before the checkpoint, whose own are those of its training.
    here = configs.from_plain({})
    configs.override(here, rest)
    devices.start(**here.devices)
    opened = checkpoints.open_checkpoint(arguments.ckpt, arguments.step, arguments.weights, say=print)
    config = configs.from_plain(opened.config)
    configs.override(config, rest)
    config.model.dtype = "float32"  # see checkpoints.load_denoiser
    settings = stages.usable_settings(config.analysis)
    images, settings = stages.usable_images(open_images(arguments, config), settings)
    model = models.build(**config.model, image_channels=config.data.image_channels)
    run = opened.folder.parent.parent
    taken = {"analysis": settings, "data": config.data, "devices": here.devices}
    context = stages.Context(
        denoiser=denoiser.bind(model, opened.params),
        untrained=lambda: denoiser.bind(model, models.init_params(model, jax.random.key(config.seed))),
        images=images,
        # Never a download of 14 GB for the sake of a comparison.
        training_images=functools.cache(
            lambda: data.load("train", stride=stride(config), may_prepare=False, **config.data)
        ),
        settings=settings,
        identity=f"{opened.fingerprint} {opened.weights}",
        facts=facts(config, opened, images, arguments.ckpt, argv),
        training_log=run / "metrics.jsonl",
        log_damage=lambda: log_damage(opened),
        circular=lambda: twin(config, opened.params, padding="circular"),
        courses=courses(run, [Path(given) for given in arguments.beside], config),
        taken={name: configs.plain(section) for name, section in taken.items()},
        outdir=outdir(arguments, opened),
    )
    return context, arguments


def courses(own: Path, others: list[Path], config: Any) -> dict[str, Any]:
    """Run -> its milestones, the untrained network first. The own run need not have any; the others, named to be shown, must."""
    found = course(own.resolve(), config) if (own / "milestones").is_dir() else {}
    for given in others:
        run = given.resolve()
        if run == own.resolve():
            raise InputError(f"--beside {given} is the run that is analysed; name others.")
        of_run = course(run, config) if (run / "milestones").is_dir() else {}
        if not of_run:
            raise InputError(
                f"--beside {given} is no run that kept checkpoints along its training; give a folder that train.py wrote with "
                "--config.checkpoint.milestones=12."
            )
        if known := sorted(found.keys() & of_run.keys()):
            raise InputError(f"--beside {given}: another run is called {known[0]!r} too; give each folder its own name.")
        found |= of_run
    return found


def course(run: Path, analysed: Any) -> dict[str, Any]:
    """A run's name -> its milestones, after those of the runs that it goes on from; nothing for a run that has none yet."""
    found = stretches(run, analysed)
    if not found:
        return {}
    configured = [config for _, config, _ in found]
    name, begins = " + ".join(folder.name for folder, _, _ in found), ()
    if configured[0].train.start_from:
        name += ", from another's end on"  # whose images nobody can count here
    else:
        begins = (before_training(configured[0]),)
    milestones, seen = [], 0
    for _, config, kept in found:
        milestones += [milestone(folder, config, seen) for folder in kept]
        seen = milestones[-1].images
    return {f"{name} ({description(configured)})": (*begins, *milestones)}


def stretches(run: Path, analysed: Any, later: tuple[Path, ...] = ()) -> list[tuple[Path, Any, list[Path]]]:
    """(folder, configuration, milestones) of a run, after those that led up to what it began with, where they are at hand."""
    from unetrep_jax import checkpoints

    kept = checkpoints.step_folders(run / "milestones")
    plain = {folder: checkpoints.read_config(folder) for folder in kept}
    for folder in [folder for folder in kept if not plain[folder] or not checkpoints.is_sealed(folder)]:
        print(f"{folder} is damaged: its configuration or manifest cannot be read; it is left out.", file=sys.stderr)
        kept.remove(folder)
    if not kept:
        return []
    config = configs.from_plain(plain[kept[0]])
    size, channels = analysed.data.image_size, analysed.data.image_channels
    if config.data.image_channels != channels or size % stride(config):
        raise InputError(
            f"{run} has milestones of a network that takes images of {config.data.image_channels} channels and a side divisible "
            f"by {stride(config)}; those analysed have {channels} and {size}. Compare runs on the same images."
        )
    earlier = begun_at(config.train.start_from)
    if earlier and earlier[0] not in (run, *later):
        before = stretches(earlier[0], analysed, (run, *later))
        # From elsewhere than its end, or where that is damaged, what had been seen by then is not known.
        if before and int(before[-1][2][-1].name) == earlier[1]:
            return [*before, (run, config, kept)]
    return [(run, config, kept)]


def begun_at(start: str) -> tuple[Path, int] | None:
    """(run, step) of the checkpoint that another began with, where that run is at hand and kept milestones."""
    from unetrep_jax import checkpoints

    path = Path(start).resolve()
    run = next((folder for folder in (path, *path.parents[:2]) if start and (folder / "milestones").is_dir()), None)
    try:
        return run and (run, checkpoints.step_at(path))
    except InputError:
        return None


def description(configured: Sequence[Any]) -> str:
    """What makes two trainings unequal: width, noise levels, and what counts as an image."""
    noises = dict.fromkeys(config.noise.distribution for config in configured)
    sides = dict.fromkeys(config.train.crop or config.data.image_size for config in configured)
    channels, shapes = configured[0].model.channels, ", then ".join(f"{side}x{side}" for side in sides)
    return f"{channels[0]} to {channels[-1]} channels, {', then '.join(noises)}, {shapes}"


def milestone(folder: Path, config: Any, before: int) -> Any:
    """A checkpoint on the way of a run that went on after so many images, averaged where the run kept averages."""
    from unetrep_jax import checkpoints, stages

    seen = before + int(folder.name) * config.train.batch_size
    return stages.Milestone(seen, checkpoints.fingerprint(folder), functools.partial(checkpoints.load_denoiser, folder))


def before_training(config: Any) -> Any:
    """The random parameters that a run began with."""
    import json

    import jax

    from unetrep_jax import denoiser, models, stages

    settings = {**config.model, "image_channels": config.data.image_channels}

    def opened() -> Any:
        model = models.build(**settings)
        return denoiser.bind(model, models.init_params(model, jax.random.key(config.seed)))

    return stages.Milestone(0, f"{json.dumps(settings)} untrained, seed {config.seed}", opened)


def twin(config: Any, params: Any, **changed: Any) -> Any:
    """The same weights in a network with other settings."""
    from unetrep_jax import denoiser, models

    settings = {**config.model, **changed}
    return denoiser.bind(models.build(**settings, image_channels=config.data.image_channels), params)


def log_damage(opened: Any) -> str:
    """How a run's log differs from what it was when the checkpoint was saved; "" where it does not, or that is not known."""
    from unetrep_jax import logs

    log = opened.folder.parent.parent / "metrics.jsonl"
    return logs.damage(log, opened.step, opened.data.get("log")) if in_run(opened) else ""


def in_run(opened: Any) -> bool:
    """Whether a checkpoint lies in a run's folder, which may have lost a file."""
    from unetrep_jax import checkpoints

    series, run = opened.folder.parent, opened.folder.parent.parent
    return (run / "metrics.jsonl").exists() or (series.name in checkpoints.SERIES and (run / "config.json").exists())


def outdir(arguments: argparse.Namespace, opened: Any) -> Path:
    """Beside the checkpoints of a run; under runs/ for a single checkpoint, which stays as it is."""
    if arguments.outdir:
        return Path(arguments.outdir)
    name = (
        "analysis"
        if not arguments.images
        else "analysis-" + re.sub(r"[^A-Za-z0-9.]+", "-", arguments.images).strip("-")
    )
    run = opened.folder.parent.parent
    if in_run(opened):
        if (run / name).is_symlink():  # in a run of somebody else's it may lead anywhere
            raise InputError(f"{run / name} is a symbolic link; name where it leads by --outdir, if results are to go there.")
        return run / name
    own = Path("runs") / opened.folder.name
    if (own / "config.json").exists():  # a run of the same name
        own = own.with_name(f"{own.name}-{opened.fingerprint[:6]}")
    return own / name


def facts(config: Any, opened: Any, images: Any, path: str, argv: list[str]) -> dict[str, Any]:
    """What is needed to judge and to repeat the analysis."""
    import jax

    from unetrep_jax import models

    packages = ("jax", "flax", "optax", "orbax-checkpoint", "scikit-learn", "numpy")
    source = f"{config.data.source} {config.data.name if config.data.source == 'tfds' else ''}".strip()
    model = config.model
    return {
        "checkpoint": f"{path}, step {opened.step:,}, {opened.weights}",
        "checkpoint sha256": opened.fingerprint,
        "network": f"{model.name}, channels {tuple(model.channels)}, {models.count_params(opened.params):,} parameters",
        "trained on": source,
        "images": f"{len(images.images):,} images of {images.provenance['source']} ({images.provenance.get('split', 'all')})",
        "working noise level": f"{config.analysis.sigma:.0f}/255, {config.analysis.draws} draws",
        "seed": config.analysis.seed,
        "machine": f"{platform.machine()}, {jax.device_count()} {jax.devices()[0].device_kind} devices",
        "versions": ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages),
        "command": shlex.join(["python", "analyze.py", *argv]),
    }


def run_from(argv: list[str]) -> int:
    """The command's work; 0 when it is done."""
    context, arguments = open_everything(argv)
    from unetrep_jax import stages

    with storage.one_line_when_full(context.outdir, "--outdir"):
        left_out = stages.run_and_report(context, arguments.only, arguments.redo)
    if stages.up_to_date(context, ["explorer"]):
        print(f"explorer: {(context.outdir / 'explorer' / 'index.html').resolve()}", flush=True)
    print(f"report: {(context.outdir / 'report.html').resolve()}", flush=True)
    if left_out:
        raise InputError(stages.in_one_line(left_out))
    return 0


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 2 bad input, no space or too little memory, 130 Ctrl-C; errors are one line."""
    return endings.in_one_line("analyze.py", lambda: run_from(argv), goes_on="here")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
