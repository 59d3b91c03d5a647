"""The table of stages: what each depends on, running what is not there yet, and the report on all of them."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax import figures, report, storage
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages import (
    architecture,
    clustering,
    denoising,
    embedding,
    location,
    neighbouring,
    probing,
    reconstructions,
    robustness,
    sampled,
    selecting,
    sparsity,
    subspaces,
    top_images,
)
from unetrep_jax.stages.context import Context, Stage, picture

BOTH = ("representations", "untrained")
SCHEDULE = (
    "schedule_levels",
    "schedule_sigma_0",
    "schedule_sigma_end",
    "target_draws",
    "matching_steps",
    "matching_epsilon",
)

# Settings that a result depends on (all but how many images are worked on at once), stages whose files it reads.
STAGES = {
    "architecture": Stage((), (), architecture.run_architecture, architecture.section_architecture),
    "denoising": Stage(
        ("first_images", "spectrum_images", "seed"), (), denoising.run_denoising, denoising.section_denoising
    ),
    "representations": Stage(("sigmas", "draws", "seed"), (), sparsity.run_representations),
    "untrained": Stage(("untrained_images", "sigmas", "draws", "seed"), (), sparsity.run_untrained),
    "sparsity": Stage(("sigma",), BOTH, sparsity.run_sparsity, sparsity.section_sparsity),
    "robustness": Stage(
        ("sigma", "robustness_sigma", "seed"), BOTH, robustness.run_robustness, robustness.section_robustness
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
            *SCHEDULE,
            "targets",
            "samples_per_target",
            "control_targets",
            "published_targets",
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
    "selectivity": Stage(
        ("sigma", "selectivity_simulations", "seed"), BOTH, selecting.run_selectivity, selecting.section_selectivity
    ),
    "top_images": Stage(
        ("sigma", "top_images_per_channel", "top_images_channels", "top_images_common", "top_images_targets", "seed"),
        (*BOTH, "selectivity"),
        top_images.run_top_images,
        top_images.section_top_images,
    ),
    "clusters": Stage(
        ("sigma", "clusters", "cluster_seeds", "cluster_runs", "cluster_members", "seed"),
        BOTH,
        clustering.run_clusters,
        clustering.section_clusters,
    ),
    "subspaces": Stage(
        ("sigma", "clusters", "cluster_runs", "seed"),
        (*BOTH, "selectivity", "clusters"),
        subspaces.run_subspaces,
        subspaces.section_subspaces,
    ),
    "neighbours": Stage(
        ("sigma", "neighbours", "neighbour_targets", "seed"),
        BOTH,
        neighbouring.run_neighbours,
        neighbouring.section_neighbours,
    ),
    "probe": Stage(("sigma", "probe_sigmas", "probe_images", "seed"), BOTH, probing.run_probe, probing.section_probe),
    "embedding": Stage(
        (
            *SCHEDULE,
            "embedding_pairs",
            "embedding_reconstructed_pairs",
            "embedding_samples",
            "embedding_draws",
            "embedding_levels",
            "embedding_sigma_end",
            "embedding_updates",
            "sigma",
            "seed",
        ),
        ("representations",),
        embedding.run_embedding,
        embedding.section_embedding,
    ),
    "location": Stage(
        ("sigma", "draws", "location_images", "location_composites", "seed"),
        (),
        location.run_location,
        location.section_location,
    ),
}
READS_TRAINING_IMAGES = ("denoising", "samples", "reconstructions", "probe", "embedding")
# The order of the paper's figures, where there is one.
SECTIONS = (
    "architecture", "denoising", "sparsity", "robustness", "samples", "reconstructions", "selectivity", "top_images", "subspaces",
    "neighbours", "clusters", "probe", "embedding", "location",
)  # fmt: skip


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
    """Runs what is wanted and not there yet.

    Raises:
      InputError: some stages cannot be made from these settings, images or denoiser; all others were.
    """
    wanted = wanted_stages(only)
    if idle := [name for name in redo if name not in wanted]:
        raise storage.InputError(f"--redo {idle[0]}: --only leaves that stage out; name it there too.")
    left_out: dict[str, str] = {}
    for name in wanted:
        if missing := [other for other in STAGES[name].needs if other in left_out]:
            left_out[name] = f"needs {missing[0]}"
            continue
        folder, key = context.outdir / name, stage_key(context, name)
        if name not in redo and storage.is_complete(folder, key):
            print(f"{name}: unchanged", flush=True)
            continue
        began = time.monotonic()
        try:
            STAGES[name].run(context, folder, key)
        except storage.InputError as error:
            left_out[name] = str(error)
            print(f"{name}: left out", flush=True)
            continue
        print(f"{name}: done in {storage.duration(time.monotonic() - began)}", flush=True)
    if left_out:
        raise storage.InputError("; ".join(f"{name}: {why}" for name, why in left_out.items()))


def write_report(context: Context) -> Path:
    """Figures, `summary.json` and `report.html`, from the arrays of all stages that are up to date."""
    summary, sections = {"facts": context.facts}, [section_training(context)]
    for name in SECTIONS:
        folder, stage = context.outdir / name, STAGES[name]
        if not storage.is_complete(folder, stage_key(context, name)):
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
