"""What channel averages know of location: how they change when the image moves, and whether phi tells where an object is."""

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

from unetrep_jax import figures, measures, report
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.figures import robustness as panels
from unetrep_jax.stages.context import Arrays, Context, layout_of, picture, write_stage
from unetrep_jax.stages.placing import DECODED, OBJECTS, place_objects
from unetrep_jax.stages.shifting import PADDING, move_images, stride_of
from unetrep_jax.stages.verdicts import part
from unetrep_jax.stages.wording import estimate_text, number, quartiles_text, unknown
from unetrep_jax.storage import InputError


def run_location(context: Context, folder: Path, key: str) -> None:
    """Shifts whole images, and pastes objects into them, for the network, its twin with circular padding, and the untrained one.

    Images of less than two strides cannot be shifted: the stage is then empty.

    Raises:
      InputError: a single image, which is at no distance from another.
    """
    if context.settings.location_images < 2:
        raise InputError(
            f"analysis.location_images = {context.settings.location_images}: changes are held against the distance between two "
            "images; ask for 2 or more."
        )
    shape = context.images.images.shape[1:]
    stride = stride_of(context.denoiser, shape)
    arrays: Arrays = {}
    summary: dict = {"stride": stride, "sigma_times_255": context.settings.sigma}
    if min(shape[:2]) >= 2 * stride:
        networks = open_networks(context)
        summary |= {"shifts": move_images(context, networks, key, arrays)}
        summary |= {"objects": place_objects(context, networks, key, arrays)}
    write_stage(folder, key, arrays, summary)


def open_networks(context: Context) -> dict[str, Denoiser]:
    """The network, the same weights with circular padding where there is such a twin, and random weights."""
    networks = {"trained": context.denoiser, "circular": context.circular(), "untrained": context.untrained()}
    return {name: network for name, network in networks.items() if network is not None}


def section_location(context: Context, arrays: Arrays, summary: dict) -> report.Section:
    """Both tables, the change against the size of the shift, examples of composites, and what is decoded."""
    title = "Location"
    if "shifts" not in summary:
        text = f"Images of less than two strides ({summary['stride']} pixels each) cannot be moved or pasted into by whole strides."
        return report.Section(title, [text])
    names = feature_names(context, summary)
    decoded = summary["objects"]["decoded"]
    rows = {names[name]: tuple(decoded[name]["both"].values()) for name in names}
    blocks = list(layout_of(context).columns)
    # Over circular padding nothing changes but by rounding, which is for the table.
    curves = {
        PADDING[name]: {b: measures.quartiles(c).T for b, c in zip(blocks, arrays[f"{name}/change"], strict=True)}
        for name in summary["shifts"]["blocks"]
        if name != "circular"
    }
    objects = [f"object {which + 1}" for which in range(OBJECTS)]
    return report.Section(
        title,
        section_text(summary),
        [shift_table(context, summary), decoding_table(context, summary)],
        [
            picture(
                context,
                panels.changes_by_shift(arrays["shifts"], curves),
                "location_shifts",
                "Change of every block's averages against how far the image moved, over the distance between two images; quartiles "
                "over images.",
            ),
            picture(
                context,
                figures.image_rows(list(arrays["examples"]), objects),
                "location_objects",
                "The first composites of each object: the middle of an analysed image, pasted into others.",
            ),
            picture(
                context,
                panels.intervals(
                    rows, xlabel="R² of the object's row and column", reference=("no better than the mean", 0)
                ),
                "location_decoded",
                "How well a linear fit finds the object; bars are 95 % bootstrap intervals.",
            ),
        ],
        claims(context, summary),
    )


def feature_names(context: Context, summary: dict) -> dict[str, str]:
    """What the decoded features are called in the report, in their order."""
    decoded, stride = summary["objects"]["decoded"], summary["stride"]
    names = {
        "trained": "phi",
        "circular": "phi, circular padding",
        "untrained": "phi of the untrained network",
        "squares": f"pixels, means of {stride}×{stride} squares",
        "components": f"first {decoded['components']['features']} principal components of the pixels",
        "chance": "phi, places permuted",
    }
    return {name: title for name, title in names.items() if name in decoded}


def section_text(summary: dict) -> list[str]:
    """How the numbers were made, and what to keep in mind."""
    text = [
        f"Images at σ = {summary['sigma_times_255']:g}/255 were moved round, opposite edges meeting, by multiples of the stride "
        f"({summary['stride']} pixels), their noise with them: only location changes. All carry the same noise, so the distance "
        "between two images holds no more of it than the change does. Moving round also brings a seam, where edges "
        "meet, into the image; with circular padding the network sees that seam wherever it is.",
        "An object was pasted at random places into other images, and its row and column regressed on phi (ridge regression, "
        "backgrounds held out, for the choice of the penalty too; predictions outside the image are moved to its edge). phi is a "
        "mean over noise draws; the pixels have no noise.",
    ]
    if "circular" in summary["shifts"]["blocks"]:
        text.append(
            "The twin with circular padding has the same weights, which were trained with zero padding. Its phi does not change "
            "when everything moves; it may still tell where an object is relative to its background, of which the seam is a part."
        )
    else:
        text.append("This denoiser has no twin with circular padding, so what zero padding does cannot be told apart.")
    return text


def shift_table(context: Context, summary: dict) -> report.Table:
    """Changes under shifts, block by block."""
    by_network = summary["shifts"]["blocks"]
    rows = []
    for block in layout_of(context).columns:
        cells = []
        for blocks in (by_network[name] for name in ("trained", "untrained")):
            cells += [estimate_text(blocks[block]["relative"], 5), estimate_text(blocks[block]["of_distance"], 3)]
            cells += [quartiles_text(blocks[block]["of_images"], 3)]
        rows.append((block, *cells, largest_text(by_network.get("circular", {}).get(block))))
    pixels = ", ".join(map(str, summary["shifts"]["pixels"]))
    return report.Table(
        f"Change of channel averages when the image moves down or right by {pixels} pixels "
        f"({summary['shifts']['images']:,} images, 95 % bootstrap intervals): over their length, and, as root mean square over "
        "images and shifts, over the root mean square distance between two images. A few images can carry that, so the median and "
        "quartiles of each image's own stand beside it. With circular padding: the largest change over length of any image and "
        "shift, which is rounding; – where the block's averages are all 0.",
        (
            "block",
            "over length",
            "over distance",
            "median image (quartiles)",
            "over length, untrained",
            "over distance, untrained",
            "median image, untrained",
            "circular, largest",
        ),
        rows,
    )


def largest_text(change: dict | None) -> str | None:
    """The largest relative change, as it is printed."""
    return None if change is None or change["largest"] is None else f"{change['largest']:.0e}"


def decoding_table(context: Context, summary: dict) -> report.Table:
    """R^2 of row and column from every kind of features."""
    objects, rows = summary["objects"], []
    for name, title in feature_names(context, summary).items():
        found = objects["decoded"][name]
        cells = [estimate_text(found[part], 2) for part in DECODED]
        lead = estimate_text(objects["lead"][name], 2) if name in objects["lead"] else None
        rows.append((title, found["features"], *cells, ", ".join(number(r) or "–" for r in found["by_object"]), lead))
    down, right = objects["places"]
    return report.Table(
        f"R² of the place of an object of {objects['side']} pixels among {down}×{right} places, "
        f"{objects['composites']:,} composites of {OBJECTS} objects (95 % bootstrap intervals over backgrounds). Lead of phi: how "
        "much more phi explains of both, over the same draws. Intensity, a control: R² of the composite's mean.",
        ("features", "dimensions", "row", "column", "both", "intensity", "both, each object", "lead of phi"),
        rows,
    )


ROUNDING = 1e-4  # a change over length below is none
SMALL = 0.5  # a change over the distance between two images below is small: our bound, for the paper names none


def claims(context: Context, summary: dict) -> list[report.Claim]:
    """The paper's statements on location, with what circular padding and random weights give."""
    by_network, decoded = summary["shifts"]["blocks"], summary["objects"]["decoded"]
    deep = [block for block in layout_of(context).columns if not block.startswith("decoder")]

    def change(network):
        middle = by_network[network]["mid"]
        median = quartiles_text(middle["of_images"], 3) or "–"
        return f"{estimate_text(middle['of_distance'], 3) or '–'} (root mean square; median image {median})"

    def by_depth(network):
        changes = (f"{block} {number(by_network[network][block]['of_distance']['value'], 3) or '–'}" for block in deep)
        return f"change over the distance between images: {', '.join(changes)}"

    twin = circular_words(by_network["circular"]["mid"]) if "circular" in by_network else "no such twin"
    return [
        report.Claim(
            "Channel averages do not depend on location but for zero padding",
            None,
            f"change of phi when its image moves, over the distance between two images: {change('trained')}",
            f"circular padding: {twin}; untrained network {change('untrained')}",
            report.verdict(*invariant(by_network)),
        ),
        report.Claim(
            "The deeper the block, the less its averages are invariant to translation",
            None,
            by_depth("trained"),
            f"untrained: {by_depth('untrained')}",
            report.verdict(*less_with_depth(by_network, deep)),
        ),
        report.Claim(
            "phi depends on position only through zero padding",
            None,
            f"R² of a pasted object's place from phi: {estimate_text(decoded['trained']['both'])}",
            f"circular padding: {estimate_text(decoded['circular']['both']) if 'circular' in decoded else 'no such twin'}; "
            f"places permuted: {estimate_text(decoded['chance']['both'])}",
            report.verdict(*position_by_padding(summary["objects"])),
        ),
    ]


def circular_words(change: dict) -> str:
    """The change with circular padding, over the distance between two images as it is elsewhere, and the largest over length."""
    mean = number(change["of_distance"]["value"], None) or "–"
    return f"{mean} of that distance ({largest_text(change) or '–'} of its length at most)"


def invariant(by_network: dict) -> list[tuple]:
    """Whether circular padding leaves rounding alone; and zero padding a small change, which the untrained network's may be too."""
    if "circular" not in by_network:
        return [part(None)]

    def small(network):
        return below((block["of_distance"]["value"] for block in by_network[network].values()), SMALL)

    rounding = below((block["largest"] for block in by_network["circular"].values()), ROUNDING)
    return [part(rounding), part(small("trained"), small("untrained"))]


def below(values: Iterable[float | int | None], limit: float) -> bool | None:
    """Whether all numbers that are known are below a limit; None where none is."""
    known = [value for value in values if not unknown(value)]
    return all(value < limit for value in known) if known else None


def less_with_depth(by_network: dict, deep: Sequence[str]) -> list[tuple]:
    """Whether changes rise from block to block, over the averages' length and over the distance between images."""

    def rises(network, name):
        return rising([by_network[network][block][name]["value"] for block in deep])

    return [part(rises("trained", name), rises("untrained", name)) for name in ("relative", "of_distance")]


def rising(values: Sequence[float | int | None]) -> bool | None:
    """Whether each number is above the one before; None where one is missing."""
    return None if any(map(unknown, values)) else all(a < b for a, b in itertools.pairwise(values))


def position_by_padding(objects: dict) -> list[tuple]:
    """Whether phi tells the place (and permuted places too), tells it better than with circular padding, and that tells nothing."""
    decoded = objects["decoded"]
    if "circular" not in decoded:
        return [part(None)]
    tells, chance = (decoded[name]["both"]["low"] > 0 for name in ("trained", "chance"))
    return [
        part(tells, chance),
        part(tells and objects["lead"]["circular"]["low"] > 0),
        part(tells and decoded["circular"]["both"]["low"] <= 0),
    ]
