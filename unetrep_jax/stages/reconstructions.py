"""Images from phi alone: how alike targets and samples are, beside controls; and what one matching does (figures 3, 10 to 13)."""

import itertools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from skimage.metrics import structural_similarity

from unetrep_jax import devices, figures, measures, neighbours, noise, reconstruction, report, sampling, storage
from unetrep_jax.stages import reconstructing
from unetrep_jax.stages.context import Arrays, Context, arrays_in, mean_colour, phi, phi_of, picture, write_stage
from unetrep_jax.stages.sampled import refuse_or_tell
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import quartiles_of

SHOWN_LEVELS = (30.0, 100.0, 255.0)  # x 255: of the figure of one matching
UPDATES = 100  # of that matching
MATCHED = 8  # images of it


def run_reconstructions(context: Context, folder: Path, key: str) -> None:
    """Every arm, its measures, and one matching at all levels."""
    rows, mean = reconstructing.target_rows(context), mean_colour(context)
    arrays: Arrays = {"targets": context.images.images[rows]}
    summary: dict = {"targets": len(rows), "sigma_times_255": context.settings.sigma, "arms": {}}
    others = phi(context, "representations", context.working)
    for name, arm in reconstructing.arms(context).items():
        made = context.outdir / "reconstructed" / name
        reconstructing.reconstruct_arm(context, arm, mean, made)
        saved = arrays_in(made)
        refuse_or_tell(saved, arm.title, f"analysis.{arm.keys}", made)
        summary["arms"][name] = {"title": arm.title, "settings": settings_of(arm)}
        summary["arms"][name] |= measured(context, arm, saved, rows, others, arrays, name)
        arrays |= {f"{name}/{kind}": value for kind, value in saved.items()}
    summary["unrelated"] = unrelated(context, rows, others)
    one = one_matching(context, rows[:MATCHED])
    arrays |= {f"matching/{name}": value for name, value in one.items()}
    write_stage(folder, key, arrays, summary)


def settings_of(arm: reconstructing.Arm) -> dict:
    """An arm's settings, short enough to read."""
    settings = {"version": type(arm.settings).__name__.lower(), **arm.settings._asdict()}
    if levels := settings.pop("sigmas", None):
        settings |= {"levels": len(levels), "sigma_0": levels[0], "sigma_end": levels[-1]}
    return settings | {"targets": arm.targets, "samples": arm.samples}


def measured(
    context: Context,
    arm: reconstructing.Arm,
    saved: Arrays,
    rows: np.ndarray,
    others: np.ndarray,
    arrays: Arrays,
    name: str,
) -> dict:
    """The numbers of one arm, each a set of quartiles over its samples (or pairs of samples)."""
    targets = np.repeat(rows[: arm.targets], arm.samples)
    images = np.nan_to_num(saved["images"], posinf=0, neginf=0)
    clean = context.images.images[targets] / np.float32(255)
    own, centre = phi_of(context, images, numbered_from=len(context.images.images)), others.mean(axis=0)
    values = {
        "cosine": measures.cosine(own, others[targets]),
        "cosine_to_others": measures.cosine(own[:, None], others[None, :: max(1, len(others) // 500)]).mean(axis=1),
        "centred_cosine": measures.cosine(own - centre, others[targets] - centre),
        "rank_phi": neighbours.ranks(own, others, targets, metric="euclidean"),
        "rank_pixels": neighbours.ranks(images, context.images.images, targets, metric="euclidean"),
        **likeness(images, clean),
        "noise_level": saved["sigma"],
        "loss_ratio": np.nanmean(
            np.where(saved["updates"] > 0, saved["last_loss"] / saved["first_loss"], np.nan), axis=1
        )
        if (saved["updates"] > 0).any()
        else np.full(len(images), np.nan),
        "updates": saved["updates"].sum(axis=1),
    }
    arrays |= {f"{name}/{key}": np.asarray(value) for key, value in values.items()}
    pairs = [
        (first, second)
        for start in range(0, len(images), arm.samples)
        for first, second in itertools.combinations(range(start, start + arm.samples), 2)
    ]
    between = likeness(*(images[list(side)] for side in zip(*pairs, strict=True))) if pairs else {}
    summary = {key: quartiles_of(np.asarray(value, float)) for key, value in values.items()}
    summary["between_samples"] = {key: quartiles_of(value) for key, value in between.items()}
    summary["first_rank_share"] = float(np.mean(values["rank_phi"] == 1))
    summary["stop"] = {word: int((saved["stop"] == code).sum()) for code, word in enumerate(sampling.STOPS)}
    return summary | {"samples_in_all": len(images), "images_ranked": len(others)}


def likeness(a: np.ndarray, b: np.ndarray) -> dict[str, np.ndarray]:
    """PSNR in dB, SSIM, and correlation over all intensities, of pairs of images [n h w c]."""
    side = min(7, min(a.shape[1:3]) // 2 * 2 - 1)
    ssim = [
        structural_similarity(x, y, data_range=1.0, channel_axis=-1, win_size=side) for x, y in zip(a, b, strict=True)
    ]
    return {
        "psnr": np.asarray(noise.psnr(jnp.asarray(a), jnp.asarray(b)), np.float64),
        "ssim": np.asarray(ssim, np.float64),
        "correlation": measures.correlation(a.reshape(len(a), -1), b.reshape(len(b), -1)),
    }


def unrelated(context: Context, rows: np.ndarray, others: np.ndarray) -> dict:
    """The same likenesses for pairs of different targets: what no relation at all looks like."""
    images = context.images.images[rows] / np.float32(255)
    centre, shifted = others.mean(axis=0), np.roll(np.arange(len(rows)), 1)
    if len(rows) < 2:
        return {}
    values = likeness(images, images[shifted])
    values["cosine"] = measures.cosine(others[rows], others[rows[shifted]])
    values["centred_cosine"] = measures.cosine(others[rows] - centre, others[rows[shifted]] - centre)
    return {name: quartiles_of(value) for name, value in values.items()}


def one_matching(context: Context, rows: np.ndarray) -> Arrays:
    """One matching at each level: from another image's noisy version y = x' + s z to phi of x at s (figures 11, 12, 13).

    Returns:
      sigmas [levels]; and at each level for each image: `start`, `matched`, `denoised_before`, `denoised_after` at `SHOWN_LEVELS`
      alone; `seen_before`, `seen_after` [levels, n], the level that the denoiser sees; `losses` [levels, n, updates].
    """
    settings = context.settings
    levels = np.float32([s for s in settings.sigmas if s > 0]) / np.float32(255)
    step = devices.parallel_map(matching_step(context), len(rows))
    clean = context.images.images[rows]
    index = np.arange(len(rows), dtype=np.int32)
    results = []
    with storage.Progress("one matching", len(levels), "levels") as progress:
        for sigma in levels:
            results.append(step(sigma, (clean, np.roll(clean, 1, axis=0), index)))
            progress.advance(1)
    pictures, numbers = zip(*results, strict=True)
    shown = [int(np.argmin(abs(255 * levels - s))) for s in SHOWN_LEVELS]
    arrays = {name: np.stack([pictures[k][name] for k in shown]) for name in pictures[0]}
    arrays |= {name: np.stack([level[name] for level in numbers]) for name in numbers[0]}
    return arrays | {"sigmas": levels, "shown_sigmas": levels[shown], "targets": clean}


def matching_step(context: Context):
    """(sigma, (targets, other images, index)) -> (pictures, numbers) of one matching."""
    denoiser, settings = context.denoiser, context.settings

    def step(sigma, rows):
        targets, others, index = rows
        keys = noise.image_keys(noise.level_key(jax.random.key(settings.seed), sigma), index)
        y = noise.add_noise(keys, noise.to_unit(others), sigma)
        state = reconstruction.Progress(
            y, jnp.broadcast_to(sigma, index.shape), jnp.zeros_like(index), jnp.zeros_like(index), keys
        )
        conditioner = reconstruction.Conditioner(images=noise.to_unit(targets))
        here = reconstructing.schedule(settings)
        target = reconstruction.target_phi(denoiser, conditioner, state, state.sigma, here)
        result = reconstruction.match(
            denoiser.represent,
            y,
            target,
            optimizer=reconstruction.adam(here),
            max_steps=UPDATES,
            freeze=False,
            tolerance=0.0,
        )
        before, after = denoiser.denoise(y), denoiser.denoise(result.images)
        pictures = {"start": y, "matched": result.images, "denoised_before": before, "denoised_after": after}
        numbers = {
            "seen_before": level(before - y),
            "seen_after": level(after - result.images),
            "losses": result.losses,
        }
        return pictures, numbers

    return step


def level(residuals):
    """RMS per pixel of each residual."""
    return jnp.sqrt(jnp.mean(residuals**2, axis=(1, 2, 3)))


def section_reconstructions(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Tables and figures 3, 10, 11, 12 and 13."""
    made = summary["arms"]
    return report.Section(
        "Reconstructions from phi alone",
        [
            "Images made by matching phi and denoising in turn, from noise (figure 3). A reconstruction that phi determines is "
            "close to its target in phi (rank 1 among all images, cosine 1) and far from it in pixels; the controls say how "
            "much of that comes from phi, from the denoiser, or from matching anything at all.",
            "Centred cosines are those after the mean phi of all images is subtracted: phi has a large common part, which "
            "makes plain cosines close to 1 for any two images.",
            *controls_left_out(made),
            *[f"**{arm['title']}**: {settings_text(arm)}." for arm in made.values()],
        ],
        [phi_table(summary), pixel_table(summary)],
        [
            picture(
                context,
                samples_figure(arrays, made),
                "reconstructions",
                "Targets and samples whose phi is matched (figures 3, 10).",
            ),
            picture(
                context,
                arms_figure(arrays, made),
                "reconstruction_controls",
                "The first sample of each target, for each control.",
            ),
            *matching_figures(context, arrays),
        ],
        reconstruction_claims(summary),
    )


def controls_left_out(made: dict) -> list[str]:
    """That there are no controls, where there are none, and what makes them."""
    return [
        "**No controls were made** (`analysis.control_targets` = 0): without samples that match nothing, or match phi of the "
        "untrained network, nothing here says what the trained phi adds. The nulls are chance and pairs of different targets "
        "alone, and a claim that they do not refute has no verdict. `--config.analysis.control_targets=8` makes the controls."
    ] * ("unmatched" not in made)


def reconstruction_claims(summary: dict) -> list[report.Claim]:
    """What the paper says of its samples, in numbers (it gives none), beside the arms that are its null."""
    made, total = summary["arms"], next(iter(summary["arms"].values()))["images_ranked"]
    nulls = {"unmatched": "no matching", "untrained": "phi of the untrained network", "pca": "principal components"}
    nulls = {name: title for name, title in nulls.items() if name in made}
    apart = summary["unrelated"]

    def rank(arm):
        return f"{median(arm['rank_phi'], 0)} of {total:,}"

    def alike_in(numbers):
        return f"correlation {median(numbers.get('correlation'), 2) or '–'}, PSNR {median(numbers.get('psnr'), 1) or '–'} dB"

    def pictures(arm):
        between = arm["between_samples"]
        return alike_in(arm) + (f" (between samples: {alike_in(between)})" if between else "")

    def beside(of):
        return "; ".join(f"{title}: {of(made[name])}" for name, title in nulls.items())

    def value(name, key):
        return float(made[name][key]["median"] or np.nan)

    controls = [name for name in nulls if name != "pca"]  # which uses pixels, and is no null but a rival
    near = {name: value(name, "rank_phi") for name in ("schedule", *controls)}
    alike = {name: value(name, "correlation") for name in ("schedule", *controls)}
    return [
        report.Claim(
            "Samples made from phi alone are close to their target in phi (median rank of the target among all images).",
            None,
            rank(made["schedule"]),
            "; ".join(filter(None, [beside(rank), f"chance: {total / 2:,.0f}"])),
            report.verdict(
                part(near["schedule"] < total / 10, *([near[n] < 2 * near["schedule"] for n in controls] or [None]))
            ),
        ),
        report.Claim(
            "They share layout and patterns with it, and are far from equal to it as pictures.",
            None,
            pictures(made["schedule"]),
            "; ".join(filter(None, [beside(pictures), f"two different targets: {alike_in(apart)}"])),
            report.verdict(
                part(
                    float(apart.get("correlation", {}).get("median") or 0) + 0.1 < alike["schedule"] < 0.95,
                    *([alike[name] >= alike["schedule"] for name in controls] or [None]),
                )
            ),
        ),
    ]


def settings_text(arm: dict) -> str:
    """What was done, with which numbers."""
    of = arm["settings"]
    parts = [f"{of['targets']} targets × {of['samples']} samples"]
    if of["version"] == "schedule":
        parts.append(f"{of['levels']} levels, σ {of['sigma_0']:.3g} to {of['sigma_end']:.3g}")
    else:
        parts.append(f"h = {of['h0']:g}, β = {of['beta']:g}, σ {of['sigma_0']:g} to {of['sigma_end']:g}")
        parts.append(f"at most {of['max_steps']:,} score steps")
    parts.append(
        f"at most {of['matching_steps']} updates a matching, ε = {of['epsilon']:.0e}, {of['draws']} draws a target"
    )
    ends = ", ".join(f"{count} {word}" for word, count in arm["stop"].items() if count)
    return "; ".join([*parts, ends])


def median(numbers: dict | None, decimals: int) -> str | None:
    """A median as it is printed."""
    value = (numbers or {}).get("median")
    return None if value is None or np.isnan(value) else f"{value:,.{decimals}f}"


def phi_table(summary: dict) -> Any:
    """How close the samples' phi is to the target's."""
    made = summary["arms"]
    total = next(iter(made.values()))["images_ranked"]
    rows = [
        (
            arm["title"],
            median(arm["loss_ratio"], 3),
            median(arm["centred_cosine"], 3),
            median(arm["cosine"], 6),
            median(arm["cosine_to_others"], 6),
            median(arm["rank_phi"], 0),
            f"{arm['first_rank_share']:.2f}",
            median(arm["noise_level"], 3),
        )
        for arm in made.values()
    ]
    apart = summary["unrelated"]
    rows.append(
        (
            "two targets",
            None,
            median(apart.get("centred_cosine"), 3),
            median(apart.get("cosine"), 6),
            None,
            None,
            None,
            None,
        )
    )
    return report.Table(
        f"phi of samples at σ = {summary['sigma_times_255']:.0f}/255 against the target's, medians over samples: loss of the last "
        f"update relative to the first, mean over matchings; cosines; rank of the target among all {total:,} images by distance in "
        "phi (1 = nearest; chance: half of them), and how often it is 1; noise level that the denoiser sees at the end.",
        ("", "last/first loss", "centred cosine", "cosine", "cosine to others", "rank", "rank 1", "noise level"),
        rows,
    )


def pixel_table(summary: dict) -> Any:
    """How alike samples and targets are as pictures."""
    names = (("psnr", 2), ("ssim", 3), ("correlation", 3))
    rows = [
        (
            arm["title"],
            *(median(arm[name], decimals) for name, decimals in names),
            median(arm["rank_pixels"], 0),
            *(median(arm["between_samples"].get(name), decimals) for name, decimals in names),
        )
        for arm in summary["arms"].values()
    ]
    rows.append(
        ("two targets", *(median(summary["unrelated"].get(name), d) for name, d in names), None, None, None, None)
    )
    return report.Table(
        "Samples against their targets as pictures, and samples of one target against each other (diversity), medians.",
        (
            "",
            "PSNR (dB)",
            "SSIM",
            "correlation",
            "rank in pixels",
            "PSNR between samples (dB)",
            "SSIM between samples",
            "correlation between samples",
        ),
        rows,
    )


def samples_figure(arrays: Arrays, made: dict) -> Any:
    """A row for each target (eight at most): the target, then its samples."""
    count = made["schedule"]["settings"]["samples"]
    samples = arrays["schedule/images"].reshape(-1, count, *arrays["targets"].shape[1:])[:8]
    targets = arrays["targets"][: len(samples)] / np.float32(255)
    rows = [np.concatenate([target[None], several[:6]]) for target, several in zip(targets, samples, strict=True)]
    return figures.image_rows(rows, ["target, then samples", *[""] * (len(rows) - 1)])


def arms_figure(arrays: Arrays, made: dict) -> Any:
    """A row for each arm: the first sample of each target (eight at most)."""
    targets = arrays["targets"][:8] / np.float32(255)
    rows, headings = [targets], ["targets"]
    for name, arm in made.items():
        first = arrays[f"{name}/images"][:: arm["settings"]["samples"]][:8]
        gaps = np.full((len(targets) - len(first), *first.shape[1:]), np.nan, np.float32)
        rows.append(np.concatenate([first, gaps]))
        headings.append(arm["title"])
    return figures.image_rows(rows, [""] * len(rows), headings)


def matching_figures(context: Context, arrays: Arrays) -> list:
    """What one matching does: pictures (figures 11, 12), noise level before and after (13), loss by update."""
    one = {name.removeprefix("matching/"): value for name, value in arrays.items() if name.startswith("matching/")}
    rows, headings = [one["targets"] / np.float32(255)], ["target of phi"]
    for k, sigma in enumerate(one["shown_sigmas"]):
        at = f"σ = {255 * sigma:.0f}/255"
        for name, title in (
            ("start", "another image, noisy"),
            ("matched", "after matching"),
            ("denoised_before", "denoised, unmatched"),
            ("denoised_after", "denoised, matched"),
        ):
            rows.append(one[name][k])
            headings.append(f"{title}\n{at}")
    sigmas, updates = 255 * one["sigmas"], np.arange(one["losses"].shape[2])
    levels = {
        name: measures.quartiles(255 * one[f"seen_{name}"].astype(float), axis=1).T for name in ("before", "after")
    }
    shown = [int(np.argmin(abs(one["sigmas"] - s))) for s in one["shown_sigmas"]]
    relative = {
        f"σ = {sigmas[k]:.0f}/255": measures.quartiles((one["losses"][k] / one["losses"][k][:, :1]).astype(float)).T
        for k in shown
    }
    return [
        picture(
            context,
            figures.image_rows([row[:4] for row in rows], [""] * len(rows), headings),
            "one_matching",
            "One matching: another image's noisy version is moved until its phi is the target's (figures 11, 12).",
        ),
        picture(
            context,
            figures.curves(
                sigmas.astype(float),
                levels,
                xlabel="noise level that was added (x 255)",
                ylabel="level that the denoiser sees (x 255)",
                log_x=True,
                log_y=True,
            ),
            "matching_noise_level",
            f"Noise level before and after one matching of {updates[-1] + 1} updates (figure 13): median and quartiles of "
            f"{one['seen_before'].shape[1]} images.",
        ),
        picture(
            context,
            figures.curves(
                updates.astype(float), relative, xlabel="update", ylabel="loss relative to the first", log_y=True
            ),
            "matching_loss",
            "Loss of one matching by update: median and quartiles over images.",
        ),
    ]
