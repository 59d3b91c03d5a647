"""What the report says and shows of neighbours (figure 7)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from unetrep_jax import figures, report
from unetrep_jax.figures import neighbours as drawing
from unetrep_jax.stages.channels import channels_text
from unetrep_jax.stages.context import Arrays, Context, picture
from unetrep_jax.stages.neighbouring import CENTRED, OTHERS, PERMUTATIONS
from unetrep_jax.stages.wording import percent, quartiles_text, share_text

SHOWN, TARGETS_A_FIGURE = 5, 2  # neighbours of a target in a row; two targets with three rows each make 32 pictures


def section_neighbours(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figure 7, agreement with labels by space and by noise level, and how alike neighbours are."""
    count, level = summary["neighbours"], f"σ = {context.settings.sigma:g}/255"
    text = [
        f"The {count} nearest of the other images, found exactly. Nearness in phi ({level}) is the cosine, which says little "
        f"where phi has much in common: {common_text(summary['common_part'])}. “Centred” is the cosine after the mean over images "
        f"is taken off. {noise_text(summary['noise_part'])}{channels_text(summary['channels'])}",
        "Intervals (95 %) are of the mean over images, by bootstrap. The claim counts as held where neighbours in phi agree "
        "more often than in pixels, and as held in part where those of a control agree as often: another distance made of "
        "pixels, or the untrained network.",
    ]
    text += components_text(summary, context.images.images.shape)
    tables = [overlap_table(summary, level)]
    if summary["no_labels"]:
        text.append(f"Agreement with labels is left out: {summary['no_labels']}.")
    else:
        tables.insert(0, agreement_table(summary, level))
    pictures = [*target_pictures(context, arrays, summary), by_noise_picture(context, summary)]
    return report.Section("Neighbours", text, tables, pictures, [] if summary["no_labels"] else [claim(summary)])


def common_text(parts: Mapping[str, float | None]) -> str:
    """How much of phi all images have in common, in words, for each network."""
    words = (
        f"{name} is zero"
        if part is None
        else f"the mean of {name} over images makes up all but {1 - part:.2g} of its squared length"
        for name, part in parts.items()
    )
    return "; ".join(words)


def noise_text(parts: Mapping[str, float | None]) -> str:
    """How much of what tells images apart in phi is noise, in words, for each network."""
    known = [f"of {name} {part:.2g}" for name, part in parts.items() if part is not None]
    if not known:
        return ""
    return f"Noise of the draws that it is averaged over makes up this share of the variance over images: {', '.join(known)}. "


def components_text(summary: dict, shape: tuple[int, ...]) -> list[str]:
    """Where the pixels of images [n h w c] have fewer principal components than phi has channels: how many, and why."""
    components, channels = summary["components"], summary["channels"]["phi"]["channels"]
    if components == channels:
        return []
    return [
        f"The principal components of the pixels are {components:,}, fewer than phi's {channels:,} channels: {shape[0]:,} images "
        f"of {np.prod(shape[1:]):,} intensities have no more, so that control is narrower than phi."
    ]


def at_working(summary: dict, group: str, measure: str, space: str) -> dict:
    """A mean and its interval at the working level."""
    return summary["groups"][group][measure][space][f"{summary['sigma_times_255']:g}"]


def claim(summary: dict) -> report.Claim:
    """Do neighbours in phi share a label more often than neighbours in pixels, and than those of the controls?"""
    control = control_group(summary)
    images = {group: summary["groups"][group]["images"] for group in ("all", control)}
    chances = summary["groups"]["all"]["chance"]
    others = "; ".join(f"{space} {share_text(at_working(summary, 'all', 'agreement', space))}" for space in OTHERS)
    return report.Claim(
        "The nearest images in phi have the image's label more often than the nearest in pixels.",
        None,
        f"{share_text(at_working(summary, 'all', 'agreement', 'phi'))} of the {summary['neighbours']} nearest of {images['all']:,}",
        f"{others}; by chance {percent(chances['class_frequencies'], 2)}; "
        f"untrained network {share_text(at_working(summary, control, 'agreement', 'untrained phi'))}, where the trained one has "
        f"{share_text(at_working(summary, control, 'agreement', 'phi'))} (among {images[control]:,})",
        report.verdict(agrees_more(summary)),
    )


def control_group(summary: dict) -> str:
    """The group of images that the untrained network saw."""
    return "subset" if "subset" in summary["groups"] else "all"


def agrees_more(summary: dict) -> tuple[bool | None, bool]:
    """Whether phi agrees more often than pixels (None where the interval holds 0), and whether a control agrees as often as phi.

    Controls are all that the claim prints: the other spaces made of pixels, and the untrained network on the images it saw.
    """
    more = summary["groups"]["all"]["phi_agrees_more_by"]
    untrained = summary["groups"][control_group(summary)]["phi_agrees_more_by"]["untrained phi"]
    here = True if more["pixels"]["low"] > 0 else False if more["pixels"]["high"] < 0 else None
    return here, any(lead["low"] <= 0 for lead in (*(more[space] for space in OTHERS if space != "pixels"), untrained))


def agreement_table(summary: dict, level: str) -> Any:
    """Label agreement in every space, group by group."""
    rows = []
    for group in summary["groups"].values():
        images = f"{group['images']:,}"
        for space, by_level in group["agreement"].items():
            found = by_level[f"{summary['sigma_times_255']:g}"]
            difference = group["phi_agrees_more_by"][space]
            rows.append((space, images, share_text(found), None if space == "phi" else share_text(difference)))
        rows.append(("labels permuted over the images", images, share_text(group["chance"]["permuted"]), None))
        rows.append(
            ("expected from the class frequencies", images, percent(group["chance"]["class_frequencies"], 2), None)
        )
    return report.Table(
        f"Share of an image's {summary['neighbours']} nearest that have its label (95 % interval over images), phi at {level}; "
        "and by how much that of phi is higher, image by image. By cosine unless said otherwise. With permuted labels the interval "
        f"is that of {PERMUTATIONS} permutations, with phi's neighbours. Among fewer images the nearest are farther away: compare "
        "within one number of images.",
        ("features", "images", "same label", "phi less this"),
        rows,
    )


def overlap_table(summary: dict, level: str) -> Any:
    """Neighbours that phi has in common with other spaces, and their likeness in pixels."""
    group, likeness = summary["groups"]["all"], summary["alike"]
    rows = [
        (
            space,
            None if space == "phi" else share_text(at_working(summary, "all", "overlap_with_phi", space)),
            quartiles_text(likeness[space], 3) if space in likeness else None,
        )
        for space in group["overlap_with_phi"]
    ]
    rows.append(("random images", percent(group["overlap_by_chance"], 2), quartiles_text(likeness["random images"], 3)))
    return report.Table(
        f"Neighbours among {group['images']:,} images, phi at {level}: the share of the {summary['neighbours']} nearest that are "
        "among the nearest in phi too; and how far they lie from the image in pixels (root mean square, mean over its neighbours), "
        f"median (quartiles) over {likeness['images']:,} images.",
        ("neighbours in", "in common with phi's", "distance in pixels"),
        rows,
    )


def by_noise_picture(context: Context, summary: dict) -> Any:
    """Agreement with labels, and with the working level's neighbours, against the noise level."""
    names = {"all": "{images:,} images", "subset": "{images:,} of them"}
    panels = {}
    for name, group in summary["groups"].items():
        if "agreement" not in group:
            continue
        references = {s: at_working(summary, name, "agreement", s)["value"] for s in ("pixels", OTHERS[-1])}
        references["chance"] = group["chance"]["class_frequencies"]
        panels[names[name].format(**group)] = drawing.Panel(
            lines_of(context, group["agreement"]), references, f"same label, of the {summary['neighbours']} nearest"
        )
    group = summary["groups"]["all"]
    panels["other noise levels"] = drawing.Panel(
        lines_of(context, group["overlap_with_working"]),
        {"chance": group["overlap_by_chance"]},
        f"in common with σ = {context.settings.sigma:g}/255",
    )
    caption = (
        "Neighbours in phi at each noise level (bands: 95 % over images): how often they have the image's label, and how many of "
        f"them are neighbours at σ = {context.settings.sigma:g}/255 too."
    )
    return picture(context, drawing.by_noise(context.sigmas, panels), "neighbours_by_noise", caption)


def lines_of(context: Context, by_space: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, np.ndarray]:
    """(low, mean, high) at every noise level, of the spaces that have more than one."""
    sigmas = [f"{sigma:g}" for sigma in context.settings.sigmas]
    return {
        space: np.array([[levels[sigma][end] for end in ("low", "value", "high")] for sigma in sigmas])
        for space, levels in by_space.items()
        if space not in OTHERS
    }


def target_pictures(context: Context, arrays: Arrays, summary: dict) -> list:
    """Figure 7: targets beside their nearest images in phi and in pixels."""
    targets = arrays["targets"]
    parts = [targets[start : start + TARGETS_A_FIGURE] for start in range(0, len(targets), TARGETS_A_FIGURE)]
    caption = (
        f"Images (left) and the nearest of {summary['groups']['all']['images']:,} others, the nearest first, by cosine in "
        f"phi (σ = {context.settings.sigma:g}/255), in phi with its mean taken off, and in pixels (figure 7). The images are "
        "spread evenly over the set, not selected."
    )
    return [
        picture(context, target_figure(context, arrays, part), f"neighbours_{number}", caption)
        for number, part in enumerate(parts, 1)
    ]


def target_figure(context: Context, arrays: Arrays, targets: np.ndarray) -> Any:
    """Rows of images: a target and its neighbours in each space."""
    rows, headings, notes, captions = [], [], [], []
    for target in targets:
        for space in ("phi", "phi" + CENTRED, "pixels"):
            nearest = arrays[f"index/all/{space}"][target, :SHOWN]
            shown = context.images.images[[target, *nearest]] / np.float32(255)
            if space != "phi":
                shown[0] = np.nan  # the target is there already
            rows.append(shown)
            headings.append(f"nearest in {space}")
            notes.append("after the image itself" if space == "phi" else "")
            captions.append([name_of(context, int(row)) for row in (target, *nearest)])
    return figures.image_rows(rows, headings, notes, captions if context.images.labels is not None else None)


def name_of(context: Context, row: int) -> str:
    """The name of an image's label, short enough to stand below it."""
    if context.images.labels is None:
        return ""
    label, names = int(context.images.labels[row]), context.images.class_names
    name = names[label] if label < len(names) else f"label {label}"
    return name if len(name) <= 16 else f"{name[:15]}…"
