"""Analyses a trained denoiser: python analyze.py --ckpt RUN [--images SOURCE] [--outdir DIR] [--only STAGE ...] [--redo STAGE ...]

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
Then the figures, `summary.json` and `report.html` are written anew from the saved arrays.
Settings are changed by --config.analysis.key=value, --config.data.key=value, --config.devices.key=value.
"""

import argparse
import importlib.metadata
import platform
import re
import sys
from pathlib import Path
from typing import Any

import configs
from unetrep_jax import storage
from unetrep_jax.storage import InputError

CHANGEABLE = ("--config.analysis.", "--config.data.", "--config.devices.")
STAGES = re.findall(r"^  (\w+)  ", __doc__, re.MULTILINE)  # known before anything slow is imported


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Command line -> (arguments, settings to change)."""
    parser = configs.Parser(
        prog="analyze.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--ckpt", help="a run folder, a series of checkpoints, or one checkpoint")
    parser.add_argument("--step", type=int, help="checkpoint step (default: the best)")
    parser.add_argument("--weights", help="averaged or params (default: averaged where the run kept them)")
    parser.add_argument(
        "--images", help="folder, .npy file, photographs, or tfds:NAME[:SPLIT] (default: the run's validation set)"
    )
    parser.add_argument("--outdir", help="where results go (default: RUN/analysis)")
    parser.add_argument("--only", nargs="+", metavar="STAGE", help="run these stages and what they need")
    parser.add_argument(
        "--redo", nargs="+", metavar="STAGE", default=[], help="run these stages even if they are up to date"
    )
    arguments, rest = parser.parse_known_args(argv)
    for name in [*(arguments.only or []), *arguments.redo]:
        if name not in STAGES:
            raise InputError(f"stage {name!r} is unknown. Known: {', '.join(STAGES)}.")
    if not arguments.ckpt:
        raise InputError(
            "--ckpt is missing; give a run folder, such as runs/demo, or a checkpoint, such as pretrained/photo16."
        )
    for argument in rest:
        if argument.startswith("--config.") and not argument.startswith(CHANGEABLE):
            key = argument.partition("=")[0]
            raise InputError(
                f"{key} cannot be changed here: it is the checkpoint's. Only analysis, data and devices settings can."
            )
    return arguments, rest


def check(config: Any) -> None:
    """Refuses analysis settings that cannot work."""
    settings = config.analysis
    if not settings.sigmas or min(settings.sigmas) < 0 or len(set(settings.sigmas)) != len(settings.sigmas):
        raise InputError(
            f"analysis.sigmas needs one or more different levels, 0 or above; got {tuple(settings.sigmas)}."
        )
    if 0 not in settings.sigmas or settings.robustness_sigma <= 0:
        raise InputError(
            f"analysis.sigmas needs the level 0, and analysis.robustness_sigma one above 0; got {tuple(settings.sigmas)} and "
            f"{settings.robustness_sigma:g}."
        )
    if settings.sigma not in settings.sigmas:
        raise InputError(
            f"analysis.sigma = {settings.sigma:g} must be one of analysis.sigmas {tuple(settings.sigmas)}."
        )
    for key in (
        "batch_size",
        "draws",
        "cluster_seeds",
        "cluster_runs",
        "untrained_images",
        "first_images",
        "spectrum_images",
        "selectivity_simulations",
        "neighbours",
        "location_images",
    ):
        if settings[key] < 1:
            raise InputError(f"analysis.{key} must be 1 or more; got {settings[key]}.")
    for key, least in (
        ("seed", 0),
        ("images", 0),
        ("cluster_members", 2),
        ("location_composites", 30),
        ("top_images_per_channel", 2),
        ("top_images_channels", 0),
        ("top_images_common", 0),
        ("top_images_targets", 0),
        ("neighbour_targets", 0),
        ("probe_images", 0),
    ):
        if settings[key] < least:
            raise InputError(f"analysis.{key} must be {least} or more; got {settings[key]}.")
    if config.devices.cpu_devices < 1:
        raise InputError(f"devices.cpu_devices must be 1 or more; got {config.devices.cpu_devices}.")
    known = tuple(sigma for sigma in settings.probe_sigmas if sigma in settings.sigmas)
    if left_out := set(settings.probe_sigmas) - set(known):
        names = ", ".join(f"{sigma:g}" for sigma in sorted(left_out))
        print(f"analysis.probe_sigmas: {names} not among analysis.sigmas: left out", file=sys.stderr)
        settings.probe_sigmas = known or (settings.sigma,)
    from unetrep_jax.stages import embedding, reconstructing, sampled

    embedding.check_embedding(settings)
    sampled.check_samples(settings)
    reconstructing.check_reconstructions(settings)
    if not settings.clusters or min(settings.clusters) < 2:
        raise InputError(f"analysis.clusters needs numbers of 2 or more; got {tuple(settings.clusters)}.")


def open_images(arguments: argparse.Namespace, config: Any) -> Any:
    """The images to analyse: those named, or the run's validation set; and no more of them than analysis.images."""
    from unetrep_jax import data, stages

    if arguments.images:
        keys = ("image_size", "image_channels", "cache_dir", "max_unreadable", "data_dir", "zip_dir")
        images = data.open_images(arguments.images, stride=stride(config), **{key: config.data[key] for key in keys})
    else:
        images = data.load("validation", stride=stride(config), **config.data)
    total = len(images.images)
    count = min(total, config.analysis.images or total)
    fitting = tuple(k for k in config.analysis.clusters if 5 * k <= count)
    if not fitting:
        raise InputError(
            f"{count} images are too few for {min(config.analysis.clusters)} clusters (5 images each, on average); "
            f'give fewer: --config.analysis.clusters="({max(2, count // 20)},)".'
        )
    if left_out := set(config.analysis.clusters) - set(fitting):
        print(
            f"too few images ({count}) for {', '.join(map(str, sorted(left_out)))} clusters: left out", file=sys.stderr
        )
        config.analysis.clusters = fitting
    if images.labels is not None and images.labels.min() < 0:
        images = images._replace(labels=None)  # a split whose labels are withheld
    if count == total:
        return images
    chosen = stages.spread(total, count)
    labels = None if images.labels is None else images.labels[chosen]
    return images._replace(
        images=images.images[chosen], labels=labels, fingerprint=f"{images.fingerprint}, {count} of them"
    )


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
    check(config)
    images = open_images(arguments, config)
    model = models.build(**config.model, image_channels=config.data.image_channels)
    run = opened.folder.parent.parent
    context = stages.Context(
        denoiser=denoiser.bind(model, opened.params),
        untrained=lambda: denoiser.bind(model, models.init_params(model, jax.random.key(config.seed))),
        images=images,
        # Never a download of 14 GB for the sake of a comparison.
        training_images=lambda: data.load("train", stride=stride(config), may_prepare=False, **config.data),
        training_identity=storage.fingerprint(configs.plain(config.data)),
        settings=config.analysis,
        identity=f"{opened.fingerprint} {opened.weights}",
        facts=facts(config, opened, images, arguments.ckpt, argv),
        training_log=run / "metrics.jsonl",
        circular=lambda: circular(config, opened.params),
        outdir=outdir(arguments, opened),
    )
    return context, arguments


def circular(config: Any, params: Any) -> Any:
    """The same weights with circular padding."""
    from unetrep_jax import denoiser, models

    settings = {**config.model, "padding": "circular"}
    return denoiser.bind(models.build(**settings, image_channels=config.data.image_channels), params)


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
    return (run if (run / "metrics.jsonl").exists() else Path("runs") / opened.folder.name) / name


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
        "command": "python analyze.py " + " ".join(argv),
    }


def main(argv: list[str]) -> int:
    """Exit code: 0 done, 2 bad input or no space; errors are one line."""
    try:
        context, arguments = open_everything(argv)
        from unetrep_jax import stages

        context.outdir.mkdir(parents=True, exist_ok=True)
        with storage.lock(context.outdir / ".lock", wait=False):
            try:
                stages.run_stages(context, arguments.only, arguments.redo)
            except InputError:  # all other stages were made
                print(f"report: {stages.write_report(context).resolve()}", flush=True)
                raise
            print(f"report: {stages.write_report(context).resolve()}", flush=True)
        return 0
    except KeyboardInterrupt:
        print("analyze.py: stopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (InputError, OSError) as error:
        print(f"analyze.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
