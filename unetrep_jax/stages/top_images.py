"""The images that excite a channel most, the channels that an image excites most, and how alike such images are (figures 4, 5)."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from unetrep_jax import denoiser, devices, figures, report, representation, selectivity, storage
from unetrep_jax.figures import selectivity as drawing
from unetrep_jax.stages.context import Arrays, Context, phi, picture, spread, write_stage
from unetrep_jax.stages.neighbouring import why_no_labels
from unetrep_jax.stages.selecting import GROUPS, populations
from unetrep_jax.stages.selectivity_section import POPULATIONS
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import number, percent
from unetrep_jax.storage import InputError

RANDOM_SETS, PERMUTATIONS = 1000, 999
PERMUTED_IMAGES = 51  # what random numbers are for sets them apart from others of the same seed
CHANNELS_OF_AN_IMAGE = 3


def run_top_images(context: Context, folder: Path, key: str) -> None:
    """Top images of every channel and how alike they are; channels of a few images, with where these fire."""
    settings, subset = context.settings, context.untrained_subset
    check(context)
    with np.load(context.outdir / "selectivity" / "arrays.npz") as saved:
        chosen = dict(saved)
    everyone = populations(context)
    arrays: Arrays = {}
    enough = {}
    for name, values_at in everyone.items():
        values = values_at(context.working)
        # One more than is shown: an image is left out of the top images of its own channels.
        top = selectivity.top_images(values, settings.top_images_per_channel + 1)
        arrays[f"top/{name}"] = top if name == "trained" else subset[top]
        enough[name] = (values != 0).sum(0) > settings.top_images_per_channel
    groups = {
        name: {group: chosen[f"{'untrained' if name == 'untrained' else 'channels'}/{group}"] for group in GROUPS}
        for name in everyone
    }
    # Of channels that fewer images excite, the last top images are those of value 0 that come first: of the first class, mostly.
    members = {name: {group: mask & enough[name] for group, mask in masks.items()} for name, masks in groups.items()}
    arrays |= {f"members/{name}/{group}": mask for name, masks in members.items() for group, mask in masks.items()}
    values = phi(context, "representations", context.working)
    above = (values > chosen["channels/threshold"]).sum(0)
    arrays |= {"above_threshold": above, "selectivity": chosen["channels/selectivity"]}
    arrays |= shown_channels(settings, groups["trained"], above, chosen["channels/selectivity"])
    arrays |= channels_of_images(context, values, groups["trained"]["specialised"])
    summary = {
        "sigma_times_255": settings.sigma,
        "draws": settings.draws,
        "images_per_channel": settings.top_images_per_channel,
        "random_sets": RANDOM_SETS,
        "permutations": PERMUTATIONS,
        "likeness": how_alike(context, members, arrays),
        "images": {name: len(values) if name == "trained" else len(subset) for name in everyone},
        "shown": {group: len(arrays[f"shown/{group}"]) for group in GROUPS},
    }
    summary["different"] = {
        name: {
            group: different(arrays[f"top/{name}"][mask, :-1], summary["images"][name]) for group, mask in masks.items()
        }
        for name, masks in members.items()
    }
    summary["excited_by_few"] = {
        name: {group: int((mask & ~enough[name]).sum()) for group, mask in masks.items()}
        for name, masks in groups.items()
    }
    write_stage(folder, key, arrays, summary)


def check(context: Context) -> None:
    """Raises InputError unless every set of images has one more than are shown for a channel, and these make pairs."""
    wanted, least = context.settings.top_images_per_channel, len(context.untrained_subset)
    if not 2 <= wanted < least:
        raise InputError(
            f"analysis.top_images_per_channel = {wanted} must be from 2 to {least - 1}, one less than the {least} images that "
            "the untrained network sees; use fewer, or more images and analysis.untrained_images."
        )


def shown_channels(settings: Any, groups: dict, above: np.ndarray, ratios: np.ndarray) -> Arrays:
    """The channels whose top images are drawn: the most selective specialised ones, and the least selective common ones.

    Specialised channels that are above their threshold in fewer images than are shown come after all others: the rest of their
    top images would not excite them.
    """
    few = above < settings.top_images_per_channel
    specialised = np.flatnonzero(groups["specialised"])
    common = np.flatnonzero(groups["common"])
    specialised = specialised[np.lexsort((ratios[specialised], few[specialised]))]
    common = common[np.argsort(-ratios[common], kind="stable")]
    return {
        "shown/specialised": specialised[: settings.top_images_channels],
        "shown/common": common[: settings.top_images_common],
    }


def channels_of_images(context: Context, values: np.ndarray, specialised: np.ndarray) -> Arrays:
    """For a few images, spread over the set: the specialised channels that they excite most, and where these fire."""
    targets = spread(len(values), context.settings.top_images_targets) if context.settings.top_images_targets else []
    targets, members = np.asarray(targets, int), np.flatnonzero(specialised)
    channels, z = most_excited(values, targets, members, CHANNELS_OF_AN_IMAGE)
    found = {"targets": targets, "target_channels": channels, "target_z": z}
    if not channels.size:
        return found
    maps = activation_maps(context, targets)
    return found | {"target_maps": np.stack([maps[i][..., c].transpose(2, 0, 1) for i, c in enumerate(channels)])}


def most_excited(values: np.ndarray, rows: np.ndarray, members: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the channels, of `members`, that the images `rows` excite most, by how many deviations); both [m count], largest first.

    Channels are ranked by (phi_c(x) - mean) / deviation over all images, because their scales differ; the paper does not say how
    it ranks (our choice). The deviation of a channel that is the same for all images counts as 1.
    """
    mean, deviation = values[:, members].mean(0, dtype=np.float64), values[:, members].std(0, dtype=np.float64)
    z = (values[np.ix_(rows, members)] - mean) / np.where(deviation > 0, deviation, 1)
    order = np.argsort(-z, axis=1, kind="stable")[:, :count]
    return members[order], np.take_along_axis(z, order, axis=1)


def averaged_maps(context: Context, at_once: int) -> tuple[Callable[[np.ndarray], np.ndarray], tuple[int, ...]]:
    """(positions of at most `at_once` images -> the middle block's last layer [m h' w' k] of these, (h', w', k)).

    At the working level, averaged over the draws that phi is averaged over.
    """
    settings, images = context.settings, context.images.images
    activations = context.denoiser.activations
    shapes = jax.eval_shape(activations, jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32))
    last = denoiser.last_layers(list(shapes))["mid"]
    step = devices.parallel_map(
        representation.noise_averages_of(lambda y: activations(y)[last].astype(np.float32), seed=settings.seed), at_once
    )
    constants = (context.sigmas[context.working], np.int32(settings.draws if settings.sigma else 1))
    return lambda some: step(constants, (np.asarray(images[some]), some.astype(np.int32))), shapes[last].shape[1:]


def activation_maps(context: Context, rows: np.ndarray) -> np.ndarray:
    """The averaged maps [m h' w' k] of some images."""
    size = min(context.settings.batch_size, len(rows))
    maps_of, _ = averaged_maps(context, size)
    return np.concatenate([maps_of(rows[first : first + size]) for first in range(0, len(rows), size)])


def how_alike(context: Context, groups: dict, arrays: Arrays) -> dict:
    """Space -> network -> group: how alike the top images of its channels are, beside random sets of as many images.

    Spaces are three sets of features that know nothing of the network, and the labels where these differ.
    """
    settings, result = context.settings, {}
    size, subset = settings.top_images_per_channel, context.untrained_subset
    everything = np.arange(len(context.images.images))
    spaces = [*selectivity.FEATURES, *([] if why_no_labels(context.images.labels) else ["labels"])]
    with storage.Progress("likeness of top images", len(spaces), unit="spaces") as progress:
        for space in spaces:
            measure = measure_of(context, space)
            result[space] = {}
            for name, by_group in groups.items():
                members = everything if name == "trained" else subset
                sets = selectivity.random_sets(len(members), size, RANDOM_SETS, settings.seed)
                by_chance = measure(members[sets])
                found = measure(arrays[f"top/{name}"][:, :size])
                against = selectivity.against_random(found, by_chance)
                limit = np.quantile(by_chance, 0.95)
                permuted = selectivity.permuted_shares(
                    measure,
                    arrays[f"top/{name}"][:, :size],
                    members,
                    np.stack(list(by_group.values())),
                    limit,
                    count=PERMUTATIONS,
                    seed=[settings.seed, PERMUTED_IMAGES],
                )
                arrays[f"z/{space}/{name}"] = against.z
                arrays[f"limit/{space}/{name}"] = selectivity.against_random(limit[None], by_chance).z
                result[space][name] = {
                    "random": float(by_chance.mean()),
                    **{
                        group: describe(found, against, mask, shares)
                        for (group, mask), shares in zip(by_group.items(), permuted.T, strict=True)
                    },
                }
            progress.advance(1)
    return result


def different(top: np.ndarray, total: int) -> dict:
    """How many different images the top sets of a group's channels hold, and how many so many random sets would hold."""
    channels, size = top.shape
    return {"images": len(np.unique(top)), "by_chance": float(total * (1 - (1 - size / total) ** channels))}


def measure_of(context: Context, space: str) -> Any:
    """Function of sets of images: how alike they are in a space."""
    images = context.images
    if space == "labels":
        return lambda sets: selectivity.purity(np.asarray(images.labels), sets)
    units = selectivity.unit_features(images.images, space)
    return lambda sets: selectivity.likeness(units, sets)


def describe(
    found: np.ndarray, against: selectivity.AgainstRandom, members: np.ndarray, permuted: np.ndarray
) -> dict[str, Any]:
    """Medians over a group's channels, and the share of them beyond the 95th percentile of random sets.

    The one-sided p-value of that share is from those with images permuted, (1 + as large ones) / (1 + permutations).
    """
    if not members.any():
        return {"channels": 0, "likeness": None, "z": None, "beyond": None, "p_value": None}
    beyond = float(against.beyond[members].mean())
    return {
        "channels": int(members.sum()),
        "likeness": float(np.median(found[members])),
        "z": float(np.median(against.z[members])),
        "beyond": beyond,
        "p_value": float((1 + (permuted >= beyond - 1e-9).sum()) / (1 + len(permuted))),  # equal but for rounding is equal
    }


def section_top_images(context: Context, arrays: Arrays, summary: dict) -> Any:
    """Figures 4 and 5, and how alike top images are."""
    size = summary["images_per_channel"]
    shown = [
        picture(context, top_rows(context, arrays, group), f"top_images_{group}", caption)
        for group, caption in (
            ("specialised", f"The {size} images that excite a channel most: the most selective channels (figure 4)."),
            ("common", f"The same for the least selective channels: the {size} images with the largest phi_c."),
        )
        if summary["shown"][group]
    ]
    if (arrays["target_z"] > 0).any():
        shown.append(
            picture(
                context,
                top_channels(context, arrays, size),
                "top_channels_of_images",
                "Images spread over the set, not selected: the specialised channels that each excites most, above their mean; "
                "where they fire (the activation map over the image), and the other images that excite that channel most "
                "(figure 5).",
            )
        )
    shown.append(
        picture(
            context,
            likeness_figure(arrays, summary),
            "top_images_likeness",
            f"How alike each channel's top {size} images are, a dot for each channel (bar: median), in deviations of random sets; "
            "dashed: 95th percentile of random sets of all images.",
        )
    )
    text = [
        f"Top images of a channel are the {size} with the largest phi_c at σ = {summary['sigma_times_255']:g}/255. How alike "
        "they are is the mean cosine over their pairs in features that know nothing of the network, less the features' mean over "
        "all images: pixels averaged on 8 × 8 cells; a colour histogram of 64 bins; gradient orientations in 4 × 4 cells. Random "
        f"sets of as many images ({summary['random_sets']:,}) are the null. More images to choose from make top images more "
        "extreme, so networks are compared on the same images.",
        "Channels share top images, so they are no independent trials. The p-value of a share of channels is therefore from "
        f"{summary['permutations']:,} permutations of the images, each the same for all channels, which leaves the overlaps as "
        "they are (one-sided; below 0.05 counts as more alike than by chance).",
        *unexcited_text(arrays),
    ]
    if reason := why_no_labels(context.images.labels):
        text.append(f"Whether top images share a label was not measured: {reason}.")
    return report.Section("Top images of channels", text, [likeness_table(summary)], shown, [likeness_claim(summary)])


def unexcited_text(arrays: Arrays) -> list[str]:
    """How many of the images shown excite no specialised channel above its mean, where there are such."""
    excited = (arrays["target_z"] > 0).any(1)
    if excited.all():
        return []
    return [
        f"{(~excited).sum()} of the {len(excited)} images whose own channels are looked at excite no specialised channel above its "
        "mean over images, and are not drawn."
    ]


def top_rows(context: Context, arrays: Arrays, group: str) -> Any:
    """A row of top images for each channel shown."""
    channels = arrays[f"shown/{group}"]
    rows = context.images.images[arrays["top/trained"][channels, :-1]]
    notes = [
        f"PR_c {arrays['selectivity'][c]:.4f}\nimages above its\nthreshold: {arrays['above_threshold'][c]:,}"
        for c in channels
    ]
    return figures.image_rows(list(rows), [f"channel {c}" for c in channels], notes)


def top_channels(context: Context, arrays: Arrays, size: int) -> Any:
    """Figure 5 for every target, with those of its channels that it excites above their mean."""
    images, above = context.images.images, arrays["target_z"] > 0
    shown = np.flatnonzero(above.any(1))
    targets, kept = arrays["targets"][shown], above[shown]
    channels, z, maps = (
        [row[keep] for row, keep in zip(arrays[name][shown], kept, strict=True)]
        for name in ("target_channels", "target_z", "target_maps")
    )
    others = [
        images[np.stack([others_than(t, arrays["top/trained"][c], size) for c in row])]
        for t, row in zip(targets, channels, strict=True)
    ]
    notes = [
        [f"PR_c {arrays['selectivity'][c]:.4f}\n{d:+.1f} deviations\nfrom the mean" for c, d in zip(*pair, strict=True)]
        for pair in zip(channels, z, strict=True)
    ]
    headings = [[f"channel {c}" for c in row] for row in channels]
    return drawing.channels_of_images(images[targets], maps, others, headings, notes)


def others_than(target: int | np.integer, top: np.ndarray, size: int) -> np.ndarray:
    """The first `size` top images other than one."""
    return top[top != target][:size]


def likeness_figure(arrays: Arrays, summary: dict) -> Any:
    """Every channel's likeness, by network and group."""
    rows = {f"{POPULATIONS[name]}, {group}": (name, group) for name in summary["images"] for group in GROUPS}

    def values(space, name, group):
        return arrays[f"z/{space}/{name}"][arrays[f"members/{name}/{group}"]]

    spaces = list(summary["likeness"])
    return drawing.likeness_histograms(
        {space: {row: values(space, *of) for row, of in rows.items()} for space in spaces},
        {space: {row: summary["likeness"][space][n][g]["z"] for row, (n, g) in rows.items()} for space in spaces},
        {space: float(arrays[f"limit/{space}/trained"][0]) for space in spaces},
    )


def likeness_table(summary: dict) -> report.Table:
    """A row for each network and group."""
    rows = []
    for name, images in summary["images"].items():
        for group in GROUPS:
            cells: list = [f"{POPULATIONS[name]}, {group}", f"{images:,}"]
            cells.append(f"{summary['likeness']['pixels'][name][group]['channels']}")
            cells.append(f"{summary['excited_by_few'][name][group]}")
            cells.append("{images:,} ({by_chance:,.0f})".format(**summary["different"][name][group]))
            for space in summary["likeness"]:
                found = summary["likeness"][space][name][group]
                cells += [number(found["z"], 1), beyond_text(found)]
            rows.append(tuple(cells))
    labels = "; labels: share of the most frequent one" if "labels" in summary["likeness"] else ""
    columns = [name for space in summary["likeness"] for name in (f"{space}: z", "beyond 95 %")]
    return report.Table(
        f"How alike the top {summary['images_per_channel']} images of a channel are: median over the group's channels of "
        "(likeness − mean of random sets) / their deviation, and the share of channels beyond the 95th percentile of random sets "
        f"(5 % by chance), with its p-value{labels}. Different: images in the top sets of all the group's channels together, "
        "beside what as many random sets would hold. Left out: channels "
        f"that no more than {summary['images_per_channel']} images excite at all, whose other top images would be any.",
        ("network, channels", "images", "channels", "left out", "different (by chance)", *columns),
        rows,
    )


def beyond_text(found: dict) -> str | None:
    """A share of channels and its p-value: 34 % (p = 0.001); None if unknown."""
    return None if found["beyond"] is None else f"{percent(found['beyond'])} (p = {number(found['p_value'], 3)})"


def likeness_claim(summary: dict) -> Any:
    """Whether top images of specialised channels are alike, in every space that has no labels."""
    spaces = [space for space in summary["likeness"] if space != "labels"]
    same = "trained_subset" if "trained_subset" in summary["images"] else "trained"
    shares = {name: [summary["likeness"][space][name]["specialised"] for space in spaces] for name in summary["images"]}

    def words(name: str) -> str:
        return ", ".join(
            f"{space} {beyond_text(found) or '–'}" for space, found in zip(spaces, shares[name], strict=True)
        )

    on_fewer = f" (on {summary['images'][same]:,} images: {words(same)})" if same != "trained" else ""
    return report.Claim(
        "The images that excite a specialised channel most are alike.",
        None,
        f"channels whose top images are more alike than 95 % of random sets: {words('trained')}{on_fewer}",
        f"5 % by chance (p: images permuted, alike for all channels); untrained network, "
        f"{summary['images']['untrained']:,} images: {words('untrained')}",
        report.verdict(*(part(*map(exceeds, both)) for both in zip(shares[same], shares["untrained"], strict=True))),
    )


def exceeds(found: dict) -> bool | None:
    """Whether more channels are beyond than when images are permuted; None without channels."""
    return None if found["p_value"] is None else found["p_value"] < 0.05
