"""The table of stages: what each depends on, running what is not there yet, and the report on all of them."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import figures, report, storage
from unetrep_jax.stages import clustering, denoising, reconstructions, sampled, sparsity
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Context, Stage, picture

STAGES = {
    "denoising": Stage(
        ("first_images", "spectrum_images", "seed"), (), denoising.run_denoising, denoising.section_denoising
    ),
    "representations": Stage(("sigmas", "draws", "seed"), (), sparsity.run_representations),
    "untrained": Stage(("untrained_images", "sigmas", "draws", "seed"), (), sparsity.run_untrained),
    "sparsity": Stage(("sigma",), ("representations", "untrained"), sparsity.run_sparsity, sparsity.section_sparsity),
    "clusters": Stage(
        ("sigma", "clusters", "cluster_seeds", "cluster_runs", "seed"),
        ("representations", "untrained"),
        clustering.run_clusters,
        clustering.section_clusters,
    ),
    "samples": Stage(
        (
            "samples",
            "copy_images",
            "sample_sigma_0",
            "sample_sigma_end",
            "sample_h0",
            "sample_beta",
            "sample_step_size",
            "sample_max_steps",
            "sigma",
            "draws",
            "seed",
        ),
        (),
        sampled.run_samples,
        sampled.section_samples,
    ),
    "reconstructions": Stage(
        (
            "targets",
            "samples_per_target",
            "control_targets",
            "published_targets",
            "schedule_levels",
            "schedule_sigma_0",
            "schedule_sigma_end",
            "target_draws",
            "matching_steps",
            "matching_epsilon",
            "adaptive_sigma_end",
            "adaptive_h0",
            "adaptive_beta",
            "adaptive_max_steps",
            "sigma",
            "seed",
        ),
        ("representations",),
        reconstructions.run_reconstructions,
        reconstructions.section_reconstructions,
    ),
}
READS_TRAINING_IMAGES = ("denoising", "samples", "reconstructions")


def stage_key(context: Context, name: str) -> str:
    """Names all that a stage's files depend on."""
    stage = STAGES[name]
    settings = {key: list(v) if isinstance(v := getattr(context.settings, key), tuple) else v for key in stage.settings}
    needs = [stage_key(context, other) for other in stage.needs]
    if name in READS_TRAINING_IMAGES:
        needs.append(context.training_identity)
    return storage.fingerprint(name, context.identity, context.images.fingerprint, settings, needs)


def wanted_stages(only: list[str] | None) -> list[str]:
    """The stages asked for and those they need, in order."""
    wanted = set(only or STAGES)
    for name in reversed(STAGES):
        if name in wanted:
            wanted |= set(STAGES[name].needs)
    return [name for name in STAGES if name in wanted]


def run_stages(context: Context, only: list[str] | None, redo: list[str]) -> None:
    """Runs what is wanted and not there yet."""
    wanted = wanted_stages(only)
    if idle := [name for name in redo if name not in wanted]:
        raise storage.InputError(f"--redo {idle[0]}: --only leaves that stage out; name it there too.")
    for name in wanted:
        folder, key = context.outdir / name, stage_key(context, name)
        if name not in redo and storage.is_complete(folder, key):
            print(f"{name}: unchanged", flush=True)
            continue
        began = time.monotonic()
        STAGES[name].run(context, folder, key)
        print(f"{name}: done in {storage.duration(time.monotonic() - began)}", flush=True)


def write_report(context: Context) -> Path:
    """Figures, `summary.json` and `report.html`, from the arrays of all stages that are up to date."""
    summary, sections = {"facts": context.facts}, [section_training(context)]
    for name, stage in STAGES.items():
        folder = context.outdir / name
        if stage.section is None or not storage.is_complete(folder, stage_key(context, name)):
            continue
        summary[name] = storage.read_json(folder / "summary.json")
        with np.load(folder / "arrays.npz") as arrays:
            sections.append(stage.section(context, dict(arrays), summary[name]))
    storage.write_json(context.outdir / "summary.json", summary)
    path = context.outdir / "report.html"
    report.write(
        path,
        title="What the denoiser knows",
        sections=[s for s in sections if s],
        facts=context.facts,
        subtitle=f"A blind denoiser and its representation, on {context.facts['images']}",
    )
    return path


def analyse(
    denoiser: Denoiser,
    untrained: Denoiser,
    images: ImageSet,
    outdir: Path | str,
    *,
    settings: Any,
    name: str,
    training_images: ImageSet | None = None,
    only: list[str] | None = None,
) -> Path:
    """The analysis of any denoiser: what analyze.py does for a checkpoint.

    Args:
      denoiser: its functions (see `denoiser.Denoiser`); one of its blocks is named "mid".
      untrained: the control beside every number: the same architecture with random parameters, or random features.
      images: the images to analyse; see `data.open_images`.
      outdir: where everything goes. Stages that are there and were made with the same name, images and settings are kept.
      settings: every setting of `configs/default.py`, section analysis, as an attribute.
      name: names the denoiser, in the report and for what is kept: change it when the denoiser changes.
      training_images: what it was trained on, where copies of them are to be looked for.
      only: the stages to run, with those that they need; None is all.

    Returns:
      The path of the report.
    """

    def training() -> ImageSet:
        if training_images is None:
            raise storage.InputError("none were given")
        return training_images

    context = Context(
        denoiser=denoiser,
        untrained=lambda: untrained,
        images=images,
        training_images=training,
        training_identity=training_images.fingerprint if training_images else "",
        settings=settings,
        identity=name,
        facts={"denoiser": name, "images": f"{len(images.images):,} images of {images.provenance['source']}"},
        training_log=Path(outdir) / "none",
        outdir=Path(outdir),
    )
    context.outdir.mkdir(parents=True, exist_ok=True)
    with storage.lock(context.outdir / ".lock", wait=False):
        run_stages(context, only, [])
        return write_report(context)


def section_training(context: Context) -> Any:
    """The run's own curves, where the checkpoint lies in a run."""
    log = context.training_log
    if not log.exists():
        return None
    lines = [json.loads(line) for line in log.read_text().splitlines() if line.endswith("}")]
    losses, evaluations = [x for x in lines if "loss" in x], [x for x in lines if "psnr" in x]
    if not losses or not evaluations:
        return None
    figure = figures.training_curves(
        np.array([x["images"] for x in losses]),
        np.array([x["loss"] for x in losses]),
        np.array([x["images"] for x in evaluations]),
        np.array([x["psnr"] for x in evaluations]),
        np.array(evaluations[0]["sigma"]),
    )
    return report.Section(
        "Training",
        [],
        [],
        [picture(context, figure, "training", "Training loss, and PSNR on fixed validation images.")],
    )
