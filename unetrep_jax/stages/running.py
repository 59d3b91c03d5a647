"""The table of stages: what each depends on, and running what is not there yet."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from unetrep_jax import storage
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages import (
    architecture,
    checking,
    clustering,
    denoising,
    embedding,
    embedding_section,
    emergence_section,
    emerging,
    exploring,
    location,
    neighbour_section,
    neighbouring,
    probing,
    reconstructions,
    reporting,
    robustness,
    robustness_section,
    sampled,
    selecting,
    selectivity_section,
    sparsity,
    subspaces,
    subspaces_section,
    top_images,
)
from unetrep_jax.stages.context import Context, Stage, training_images_of
from unetrep_jax.storage import InputError

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
        ("first_images", "spectrum_images", "memory_images", "seed"),
        (),
        denoising.run_denoising,
        denoising.section_denoising,
        also=training_images_of,
        version=5,
    ),
    "representations": Stage(("sigmas", "draws", "seed"), (), sparsity.run_representations),
    "untrained": Stage(("untrained_images", "sigmas", "draws", "seed"), (), sparsity.run_untrained),
    "sparsity": Stage(("sigma",), BOTH, sparsity.run_sparsity, sparsity.section_sparsity, version=2),
    "robustness": Stage(
        ("sigma", "robustness_sigma", "seed"),
        BOTH,
        robustness.run_robustness,
        robustness_section.section_robustness,
        version=4,
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
        ("drawn", "training_phi"),
        also=training_images_of,
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
        ("reconstructed",),
        also=training_images_of,
    ),
    "selectivity": Stage(
        ("sigma", "robustness_sigma", "selectivity_simulations", "seed"),
        BOTH,
        selecting.run_selectivity,
        selectivity_section.section_selectivity,
        ("gratings", "textures"),
        version=2,
    ),
    "top_images": Stage(
        ("sigma", "top_images_per_channel", "top_images_channels", "top_images_common", "top_images_targets", "seed"),
        (*BOTH, "selectivity"),
        top_images.run_top_images,
        top_images.section_top_images,
        version=2,
    ),
    "clusters": Stage(
        ("sigma", "clusters", "cluster_seeds", "cluster_runs", "cluster_members", "seed"),
        BOTH,
        clustering.run_clusters,
        clustering.section_clusters,
        ("clusters_kept",),
        version=2,
    ),
    "subspaces": Stage(
        ("sigma", "clusters", "cluster_runs", "cluster_members", "seed"),
        (*BOTH, "selectivity", "clusters"),
        subspaces.run_subspaces,
        subspaces_section.section_subspaces,
        version=2,
    ),
    "neighbours": Stage(
        ("sigma", "neighbours", "neighbour_targets", "seed"),
        BOTH,
        neighbouring.run_neighbours,
        neighbour_section.section_neighbours,
        ("neighbours_kept",),
        version=2,
    ),
    "probe": Stage(
        ("sigma", "probe_sigmas", "probe_images", "seed"),
        BOTH,
        probing.run_probe,
        probing.section_probe,
        ("probe_phi", "probes_kept"),
        also=training_images_of,
        version=2,
    ),
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
        embedding_section.section_embedding,
        ("embedded",),
        also=training_images_of,
        version=2,
    ),
    "location": Stage(
        ("sigma", "draws", "location_images", "location_composites", "seed"),
        (),
        location.run_location,
        location.section_location,
        ("moved", "placed"),
        version=3,
    ),
    "emergence": Stage(
        (
            "emergence_images",
            "emergence_clusters",
            "cluster_runs",
            "neighbours",
            "robustness_sigma",
            "sigmas",
            "sigma",
            "draws",
            "seed",
        ),
        (),
        emerging.run_emergence,
        emergence_section.section_emergence,
        ("emergence_kept",),
        also=emerging.milestones_of,
    ),
    "explorer": Stage(
        ("sigma", "draws", "top_images_per_channel", "seed"),
        ("representations",),
        exploring.run_explorer,
        keeps=("fires", "explorer_kept"),
        uses=tuple(exploring.MADE_BY.values()),
        also=exploring.words_and_code,
    ),
}


def stage_key(context: Context, name: str) -> str:
    """Names all that a stage's files depend on."""
    stage = STAGES[name]
    settings = {key: list(v) if isinstance(v := getattr(context.settings, key), tuple) else v for key in stage.settings}
    needs = [stage_key(context, other) for other in stage.needs]
    needs += [f"uses {other} {stage_key(context, other)}" for other in sorted(up_to_date(context, stage.uses))]
    needs += stage.also(context)
    made_by = f"{name} {stage.version}"
    return storage.fingerprint(made_by, context.identity, context.images.fingerprint, settings, needs)


def settings_of(name: str) -> tuple[str, ...]:
    """The settings that a stage's result depends on: its own, then those of the stages that it needs, each once."""
    stage = STAGES[name]
    return tuple(dict.fromkeys((*stage.settings, *(key for other in stage.needs for key in settings_of(other)))))


def up_to_date(context: Context, names: Iterable[str]) -> frozenset[str]:
    """Those of the stages whose files are there, and were made with these settings from these images and this checkpoint."""
    return frozenset(name for name in names if storage.is_complete(context.outdir / name, stage_key(context, name)))


def wanted_stages(only: list[str] | None) -> list[str]:
    """The stages asked for and those they need, in order."""
    wanted = set(only or STAGES)
    for name in reversed(STAGES):
        if name in wanted:
            wanted |= set(STAGES[name].needs)
    return [name for name in STAGES if name in wanted]


def run_and_report(context: Context, only: list[str] | None, redo: list[str]) -> dict[str, str]:
    """`run_stages`, then `write_report`, with nobody else at work in the analysis folder."""
    context.outdir.mkdir(parents=True, exist_ok=True)
    with storage.lock(context.outdir / ".lock", wait=False):
        left_out = run_stages(context, only, redo)
        write_report(context, left_out)
        storage.tidy(context.outdir, [*STAGES, *(kept for stage in STAGES.values() for kept in stage.keeps), *reporting.FILES])
    return left_out


def run_stages(context: Context, only: list[str] | None, redo: list[str]) -> dict[str, str]:
    """Runs what is wanted and not there yet.

    Returns:
      Stage -> why it was left out, of those that cannot be made from these settings, images or denoiser.
    """
    wanted = wanted_stages(only)
    if idle := [name for name in redo if name not in wanted]:
        raise InputError(f"--redo {idle[0]}: --only leaves that stage out; name it there too.")
    left_out: dict[str, str] = {}
    for name in wanted:
        if missing := [other for other in STAGES[name].needs if other in left_out]:
            left_out[name] = f"needs {missing[0]}"
            continue
        folder, key = context.outdir / name, stage_key(context, name)
        storage.recover(folder)
        if name in redo:
            for kept in STAGES[name].keeps:
                storage.discard(context.outdir / kept)
        elif storage.is_complete(folder, key):
            print(f"{name}: unchanged", flush=True)
            continue
        began = time.monotonic()
        try:
            STAGES[name].run(context._replace(made=up_to_date(context, STAGES[name].uses)), folder, key)
        except InputError as error:
            left_out[name] = str(error)
            print(f"{name}: left out", flush=True)
            continue
        print(f"{name}: done in {storage.duration(time.monotonic() - began)}", flush=True)
    return left_out


def write_report(context: Context, left_out: Mapping[str, str] | None = None) -> Path:
    """The report on all stages that are up to date, and on why some were left out; returns its path."""
    keys = {name: stage_key(context, name) for name in STAGES if (context.outdir / name).exists()}
    made = {
        name: reporting.Made(STAGES[name], key, settings_of(name))
        for name, key in keys.items()
        if storage.is_complete(context.outdir / name, key)
    }
    return reporting.write_report(context, made, left_out or {})


def analyse(
    denoiser: Denoiser,
    untrained: Denoiser,
    images: ImageSet,
    outdir: Path | str,
    *,
    settings: Any,
    name: str,
    circular: Denoiser | None = None,
    training_images: ImageSet | None = None,
    only: list[str] | None = None,
) -> Path:
    """The analysis of any denoiser: what analyze.py does for a checkpoint.

    Args:
      denoiser: its functions (see `denoiser.Denoiser`).
      untrained: the control beside every number: the same architecture with random parameters, or random features.
      images: the images to analyse; see `data.open_images`.
      outdir: where everything goes. Stages that are there and were made with the same name, images and settings are kept.
      settings: `configs/default.py`'s section analysis, with other values where wanted.
      name: names the denoiser, in the report and for what is kept: change it when the denoiser, or one beside it, changes.
      circular: the same denoiser with circular padding, by which the stage location tells what zero padding does; None where there
        is no such twin.
      training_images: what it was trained on, where copies of them are to be looked for.
      only: the stages to run, with those that they need; None is all.

    Returns:
      The path of the report.

    Raises:
      InputError: settings, images or functions that cannot be analysed; or stages that could not be made, as the report says too.
    """

    def training() -> ImageSet:
        if training_images is None:
            raise InputError("none were given")
        return training_images

    images, settings = checking.usable_images(images, checking.usable_settings(settings))
    for functions, what in ((denoiser, "denoiser"), (untrained, "untrained"), (circular, "circular")):
        if functions is not None:
            checking.check_denoiser(functions, images.images.shape[1:], what)
    context = Context(
        denoiser=denoiser,
        untrained=lambda: untrained,
        images=images,
        training_images=training,
        settings=settings,
        identity=name,
        facts={"denoiser": name, "images": f"{len(images.images):,} images of {images.provenance['source']}"},
        training_log=Path(outdir) / "none",
        outdir=Path(outdir),
        circular=lambda: circular,
        taken={"analysis": dict(settings)},
    )
    if left_out := run_and_report(context, only, []):
        raise InputError(in_one_line(left_out))
    return context.outdir / "report.html"


def in_one_line(left_out: Mapping[str, str]) -> str:
    """What was left out, and why."""
    return "; ".join(f"{name}: {why}" for name, why in left_out.items())
