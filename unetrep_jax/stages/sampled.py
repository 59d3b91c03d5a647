"""Samples of the denoiser's implicit prior, and the training image nearest to each, so that copying would show."""

import shutil
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unetrep_jax import devices, figures, neighbours, report, sampling, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.stages.context import Arrays, Context, mean_colour, phi_of, phi_to, picture, spread, write_stage
from unetrep_jax.stages.kept import Kept
from unetrep_jax.stages.wording import quartiles_of, quartiles_text
from unetrep_jax.storage import InputError

STRETCH = 50  # steps between two looks at the clock


def sampler(settings: Any) -> dict[str, Any]:
    """The sampler's own settings, as `sampling.advance` takes them."""
    names = ("h0", "beta", "sigma_end", "max_steps", "step_size")
    return {name: getattr(settings, f"sample_{name}") for name in names}


def check_samples(settings: Any) -> None:
    """Refuses settings from which no sample can come."""
    for key, least in (("samples", 1), ("copy_images", 0)):
        if settings[key] < least:
            raise InputError(f"analysis.{key} must be {least} or more; got {settings[key]}.")
    try:
        sampling.check(sigma_0=settings.sample_sigma_0, **sampler(settings))
    except InputError as error:
        raise InputError(f"analysis.sample_*: {error}") from error


def run_samples(context: Context, folder: Path, key: str) -> None:
    """Draws the samples, and looks for what they could have been copied from."""
    settings = context.settings
    drawn = context.outdir / "drawn"
    draw(context, drawn)
    arrays: Arrays = {name: np.load(drawn / f"{name}.npy") for name in sampling.Sample._fields}
    refuse_or_tell(arrays, "samples", "analysis.sample_*", drawn)
    good = np.flatnonzero(arrays["stop"] == sampling.CONVERGED)
    summary: dict = {
        "samples": len(arrays["stop"]),
        "sampler": {"sigma_0": settings.sample_sigma_0, **sampler(settings)},
        "stop": {name: int((arrays["stop"] == code).sum()) for code, name in enumerate(sampling.STOPS)},
        "steps": quartiles_of(arrays["steps"][good]),
        "contrast": {
            "samples": quartiles_of(arrays["image"][good].std(axis=(1, 2, 3))),
            "images": quartiles_of(held_out(context).std(axis=(1, 2, 3))),
        },
    }
    if len(good):
        summary["nearest"] = nearest_training(context, arrays, good)
    write_stage(folder, key, arrays, summary)


def refuse_or_tell(saved: Arrays, label: str, keys: str, folder: Path) -> None:
    """One line on the error stream for each way in which samples failed.

    Raises:
      InputError: all of them diverged or are not finite; the folder that they were saved in is removed.
    """
    stops, failed = saved["stop"], (sampling.DIVERGED, sampling.NOT_FINITE)
    for code in sorted(set(stops.tolist()) - {sampling.CONVERGED}):
        which = np.flatnonzero(stops == code)
        why = sampling.explain(code, float(saved["sigma"][which[0]]), int(saved["steps"][which[0]]))
        line = f"{label}: {len(which):,} of {len(stops):,} {why} ({keys})"
        if np.isin(stops, failed).all():
            shutil.rmtree(folder)
            raise InputError(line)
        print(line, file=sys.stderr)


def draw(context: Context, folder: Path) -> None:
    """Streams samples to disk, batch by batch; killed, it goes on where it was, within a batch too.

    Each sample depends on the seed and its number alone. The whole of a batch waits for its slowest image: giving the places of
    finished images to new ones took 0.98 to 1.20 times as long, for step counts differ by a few percent only.
    """
    settings, shape = context.settings, context.images.images.shape[1:]
    mean, total = mean_colour(context), settings.samples
    what = [mean[0, 0].tolist(), shape, settings.sample_sigma_0, sampler(settings), settings.seed]
    key = storage.fingerprint("drawn", context.identity, what)
    if storage.is_complete(folder, key):
        return
    rows = {"image": (shape, np.float32), "sigma": ((), np.float32), "steps": ((), np.int32), "stop": ((), np.int32)}
    writer, kept = storage.RowWriter(folder, key, total, rows), Kept(folder, key)
    batch = min(settings.batch_size, total)
    begin = devices.parallel_map(begin_step(settings.seed), batch)
    go = devices.parallel_map(stretch_step(context.denoiser, STRETCH, sampler(settings)), batch)
    constants = devices.replicate((mean, np.float32(settings.sample_sigma_0)), local=True)
    with storage.Progress("samples", total, done=writer.rows_done) as progress:
        while writer.rows_done < total:
            numbers = np.arange(writer.rows_done, min(writer.rows_done + batch, total), dtype=np.int32)
            walks, ended = kept.load(numbers, begin(constants, numbers)), 0
            while ended < len(numbers):
                walks = go((), walks)
                kept.save(numbers, walks)
                before, ended = ended, int((walks.stop != sampling.RUNNING).sum())
                progress.advance(ended - before)
            state = walks.state
            writer.append(image=walks.denoised, sigma=state.sigma, steps=state.step, stop=walks.stop)
    writer.close()  # records all rows, before the state of the last goes: once they are published nobody would remove it
    kept.forget()
    writer.finish()


def _packed(walk):
    """Keys as numbers, which travel to the host."""
    return walk._replace(state=walk.state._replace(key=jax.random.key_data(walk.state.key)))


def _unpacked(walk):
    return walk._replace(state=walk.state._replace(key=jax.random.wrap_key_data(walk.state.key)))


def begin_step(seed: int):
    """((mean, sigma_0), numbers [b]) -> walks that start from mean + sigma_0 z, keyed by the seed and the number."""

    def begin(constants, numbers):
        mean, sigma_0 = constants

        def one(number):
            start, run = jax.random.split(jax.random.fold_in(jax.random.key(seed), number))
            return sampling.begin(mean + sigma_0 * jax.random.normal(start, mean.shape), run)

        return _packed(jax.vmap(one)(numbers))

    return begin


def stretch_step(denoiser: Denoiser, steps: int, settings: dict):
    """((), walks [b ...]) -> the walks some steps further."""

    def denoise(image):
        return denoiser.denoise(image[None])[0]

    def go(_, walks):
        return _packed(jax.vmap(lambda w: sampling.advance(denoise, w, steps=steps, **settings))(_unpacked(walks)))

    return go


def held_out(context: Context) -> np.ndarray:
    """As many analysed images as there are samples, spread over the set, float in [0, 1]."""
    chosen = spread(len(context.images.images), context.settings.samples)
    return context.images.images[chosen] / np.float32(255)


def nearest_training(context: Context, arrays: Arrays, good: np.ndarray) -> dict | None:
    """Distance of each sample, and of held-out images, to the nearest training image, in pixels and in phi."""
    try:
        training = context.training_images().images
        if training.shape[1:] != context.images.images.shape[1:]:
            raise InputError("they have another size")
    except (InputError, OSError) as error:
        print(f"samples: no search for copies: the training images cannot be read ({error})", file=sys.stderr)
        return None
    settings = context.settings
    chosen = spread(len(training), settings.copy_images)
    rows = training if len(chosen) == len(training) else training[chosen]
    queries = {"samples": arrays["image"][good], "held_out": held_out(context)}
    summary: dict = {"training_images": len(rows)}
    for space in ("pixels", "phi"):
        searched = rows
        if space == "phi":
            searched = phi_to(context.outdir / "training_phi", context, rows, "phi of training images")
        for name, images in queries.items():
            asked = images if space == "pixels" else phi_of(context, images, numbered_from=len(rows))
            found = neighbours.nearest(asked, searched, 1, metric="euclidean")
            arrays[f"{space}/{name}/distance"] = found.distance[:, 0]
            summary.setdefault(space, {})[name] = quartiles_of(found.distance[:, 0])
            if name == "samples":
                arrays[f"{space}/nearest"] = rows[found.index[:, 0]]
    return summary


def section_samples(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Samples, the training images nearest to some of them, and the distances."""
    of = summary["sampler"]
    converged = arrays["stop"] == sampling.CONVERGED
    text = [
        f"{summary['samples']:,} samples of the implicit prior by the blind sampler: σ from {of['sigma_0']:g} to "
        f"{of['sigma_end']:g}, {of['step_size']} step size {of['h0']:g}, β = {of['beta']:g}, seed {context.settings.seed}. "
        f"{summary['stop']['converged']:,} converged, in {quartiles_text(summary['steps'], 0)} steps (median, quartiles). "
        "As printed, not selected."
    ]
    shown = arrays["image"][converged][:32]
    if not len(shown):
        return report.Section("Samples", [*text, "**No sample converged in so many steps.**"])
    rows = [shown[i : i + 8] for i in range(0, len(shown), 8)]
    pictures = [
        picture(
            context,
            figures.image_rows(rows, ["samples", *[""] * (len(rows) - 1)]),
            "samples",
            "Samples of the denoiser's implicit prior.",
        )
    ]
    contrast = summary["contrast"]
    tables = [
        report.Table(
            "Contrast: the deviation of an image's intensities, median (quartiles).",
            ("", "contrast"),
            [("samples", quartiles_text(contrast["samples"])), ("held-out images", quartiles_text(contrast["images"]))],
        )
    ]
    if found := summary.get("nearest"):
        eight = slice(0, min(8, len(shown)))
        beside = [shown[eight], *(arrays[f"{space}/nearest"][eight] / np.float32(255) for space in ("pixels", "phi"))]
        pictures.append(
            picture(
                context,
                figures.image_rows(beside, ["samples", "nearest in pixels", "nearest in phi"]),
                "samples_nearest",
                f"Samples, and the nearest of {found['training_images']:,} training images to each.",
            )
        )
        tables.append(
            report.Table(
                f"Distance to the nearest of {found['training_images']:,} training images, root mean square, median (quartiles). "
                "Copies would lie far below held-out images.",
                ("", "in pixels", "in phi"),
                [
                    (
                        title,
                        *(
                            quartiles_text(found[space][name], 6 if space == "phi" else 3)
                            for space in ("pixels", "phi")
                        ),
                    )
                    for title, name in (("samples", "samples"), ("held-out images", "held_out"))
                ],
            )
        )
    return report.Section("Samples", text, tables, pictures)
