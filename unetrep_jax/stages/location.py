"""What channel averages know of location: how they change when the image moves, and whether phi tells where an object is."""

import itertools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from unetrep_jax import clusters, devices, figures, measures, report, representation, storage
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.figures import robustness as panels
from unetrep_jax.stages.context import Arrays, Context, layout_of, phi_to, picture, spread, write_stage
from unetrep_jax.stages.robustness import estimate_of, estimate_text, verdict
from unetrep_jax.storage import InputError

OBJECTS = 3  # pasted things, each with its own composites and its own regression
SHOWN = 6  # composites of each that are drawn
PADDING = {"trained": "zero padding", "circular": "circular padding", "untrained": "untrained"}


def run_location(context: Context, folder: Path, key: str) -> None:
    """Shifts whole images, and pastes objects into them, for the network, its twin with circular padding, and the untrained one.

    Images of less than two strides cannot be shifted: the stage is then empty.
    """
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


def stride_of(denoiser: Denoiser, shape: tuple[int, ...]) -> int:
    """Pixels from one location of the coarsest layer to the next, from shapes alone: 2^(number of encoders) of a UNet."""
    layers = jax.eval_shape(denoiser.activations, jax.ShapeDtypeStruct((1, *shape), jnp.float32))
    return shape[0] // min(layer.shape[1] for layer in layers.values())


# Shifts of whole images


def shift_sizes(shape: tuple[int, ...], stride: int) -> np.ndarray:
    """Up to four multiples of the stride, evenly from one to half the image."""
    most = min(shape[:2]) // (2 * stride)
    return stride * np.unique(np.linspace(1, most, min(most, 4)).round().astype(int))


def move_images(context: Context, networks: dict[str, Denoiser], key: str, arrays: Arrays) -> dict:
    """Change of every block's averages when the image is moved round, over their length and over what two images differ by.

    Images carry one draw of noise at the working level, which moves along: nothing but location changes. That level and not 0 is
    our choice, for there every other measure of the analysis is taken.
    """
    settings, columns = context.settings, layout_of(context)
    sizes = shift_sizes(context.images.images.shape[1:], stride_of(context.denoiser, context.images.images.shape[1:]))
    chosen = spread(len(context.images.images), settings.location_images)
    arrays["shifts"] = sizes
    summary: dict = {"images": len(chosen), "pixels": sizes.tolist(), "blocks": {}}
    for name, network in networks.items():
        averages = moved_averages(context, network, context.images.images[chosen], sizes, f"{key} {name}", name)
        changes = [block_changes(columns.of(averages, block)) for block in columns.columns]
        arrays[f"{name}/change"] = np.stack([over_distance(change) for change in changes])
        summary["blocks"][name] = {
            block: describe_change(change, settings.seed)
            for block, change in zip(columns.columns, changes, strict=True)
        }
    return summary


def moved_averages(
    context: Context, denoiser: Denoiser, images: np.ndarray, sizes: np.ndarray, key: str, name: str
) -> np.ndarray:
    """Channel averages of noisy images as they are, moved down by each of the sizes, and moved right: [n, 1 + 2 sizes, K]."""
    settings, folder = context.settings, context.outdir / "moved" / name
    shifts = [(0, 0), *((size, 0) for size in sizes), *((0, size) for size in sizes)]
    if not storage.is_complete(folder, key):
        width = layout_of(context).width
        writer = storage.RowWriter(folder, key, len(images), {"mean": ((len(shifts), width), np.float32)})
        step = devices.parallel_map(shift_step(denoiser, settings.seed), settings.batch_size)
        sigma = context.sigmas[context.working]
        with storage.Progress(f"shifted images, {PADDING[name]}", len(images), done=writer.rows_done) as progress:
            for first in range(writer.rows_done, len(images), settings.batch_size):
                index = np.arange(first, min(first + settings.batch_size, len(images)), dtype=np.int32)
                rows = (images[index], index)
                writer.append(mean=np.stack([step((sigma, np.int32(shift)), rows) for shift in shifts], axis=1))
                progress.advance(len(index))
        writer.finish()
    return np.load(folder / "mean.npy")


def shift_step(denoiser: Denoiser, seed: int) -> Any:
    """((sigma, (down, right)), (images, index)) -> averages of all blocks [b, K] for x + sigma z moved round, noise and all."""

    def step(constants, rows):
        sigma, shift = constants
        _, noisy = representation.noisy_draws(seed, sigma, rows)
        moved = jnp.roll(noisy(0), (shift[0], shift[1]), axis=(1, 2))
        return jnp.concatenate(representation.channel_averages(denoiser, moved), axis=1)

    return step


class Change(NamedTuple):
    """How far one block's averages move.

    Attributes:
      squares: squared distance from those of the image in place, for every size of shift (down and right averaged) [n, sizes].
      relative: distance over length, [n, shifts]; NaN where the averages are all zero.
      between: terms whose mean is the squared distance between two images, [n].
    """

    squares: np.ndarray
    relative: np.ndarray
    between: np.ndarray


def block_changes(averages: np.ndarray) -> Change:
    """Changes of one block's averages [n, 1 + 2 sizes, k], of which the first are those of the image in place."""
    averages = averages.astype(np.float64)
    place, moved = averages[:, :1], averages[:, 1:]
    squares = np.square(moved - place).sum(-1)
    lengths = np.linalg.norm(place, axis=-1)
    relative = np.divide(np.sqrt(squares), lengths, out=np.full(squares.shape, np.nan), where=lengths > 0)
    down, right = np.split(squares, 2, axis=1)
    return Change((down + right) / 2, relative, measures.squared_spreads(place[:, 0]))


def over_distance(change: Change) -> np.ndarray:
    """Changes over the root mean square distance between images, [n, sizes]; NaN where all images have the same averages."""
    between = change.between.mean()
    return np.sqrt(change.squares / between) if between > 0 else np.full(change.squares.shape, np.nan)


def describe_change(change: Change, seed: int) -> dict:
    """Relative change; root mean square change over the root mean square distance between images; the largest relative change."""
    parts = (change.relative.mean(1), change.squares.mean(1), change.between)
    relative, squares, between = measures.bootstrap_means(np.stack(parts, 1), seed=seed).T
    known = change.relative[np.isfinite(change.relative)]
    return {
        "relative": estimate_of(relative),
        "of_distance": estimate_of(
            np.sqrt(np.divide(squares, between, out=np.full(len(squares), np.nan), where=between > 0))
        ),
        "largest": float(known.max()) if known.size else None,
    }


# Objects at places


class Composites(NamedTuple):
    """Images into which an object was pasted.

    Attributes:
      images: uint8 [n h w c].
      corners: row and column of the object's upper left corner, in strides, [n 2].
      objects: which object, [n].
      backgrounds: which analysed image, [n].
    """

    images: np.ndarray
    corners: np.ndarray
    objects: np.ndarray
    backgrounds: np.ndarray


def object_side(shape: tuple[int, ...]) -> int:
    """Pixels on each side of an object."""
    return min(shape[:2]) // 2


def compose(images: np.ndarray, count: int, stride: int, seed: int) -> Composites:
    """Pastes objects at random multiples of the stride.

    An object is the middle of an analysed image, half as wide (half as wide again, and a linear fit on pixels would not find it
    either: R^2 below 0.1 on photographs); these images, spread over the set and so not chosen by their looks, are no backgrounds.
    Each composite has a background of its own while there are enough.

    Raises:
      InputError: too few composites for a regression, or too few images for backgrounds.
    """
    if count < 10 * OBJECTS or len(images) < 2 * OBJECTS:
        raise InputError(
            f"analysis.location_composites = {count} on {len(images)} images: placing {OBJECTS} objects needs {10 * OBJECTS} "
            f"composites and {2 * OBJECTS} images or more."
        )
    rng, (height, width) = np.random.default_rng(seed), images.shape[1:3]
    side = object_side(images.shape[1:])
    sources = np.unique(spread(len(images), OBJECTS))
    others = rng.permutation(np.setdiff1d(np.arange(len(images)), sources))
    backgrounds, objects = np.resize(others, count), rng.permutation(np.arange(count) % OBJECTS)
    most = np.array([(height - side) // stride, (width - side) // stride])
    corners = rng.integers(0, most + 1, size=(count, 2))
    composites = np.asarray(images[backgrounds])
    down, right = (height - side) // 2, (width - side) // 2
    for composite, (row, column), source in zip(composites, stride * corners, sources[objects], strict=True):
        composite[row : row + side, column : column + side] = images[source, down : down + side, right : right + side]
    return Composites(composites, corners, objects, backgrounds)


def place_objects(context: Context, networks: dict[str, Denoiser], key: str, arrays: Arrays) -> dict:
    """How well the object's row and column are decoded from phi, from pixels, and from phi with places permuted."""
    settings, images = context.settings, context.images.images
    stride = stride_of(context.denoiser, images.shape[1:])
    composites = compose(images, settings.location_composites, stride, settings.seed)
    arrays["examples"] = np.stack([composites.images[composites.objects == o][:SHOWN] for o in range(OBJECTS)])
    features = composite_features(context, networks, composites, stride, key)
    targets = targets_of(composites)
    decoded = {name: decode(values, targets, composites, settings.seed) for name, values in features.items()}
    permuted = permuted_within_objects(targets, composites.objects, settings.seed)
    decoded["chance"] = decode(features["trained"], permuted, composites, settings.seed)
    pairs = {name: decoded["trained"].both - decoded[name].both for name in decoded if name != "trained"}
    return {
        "composites": len(composites.images),
        "side": object_side(images.shape[1:]),
        "places": [int(n) for n in composites.corners.max(0) + 1],
        "decoded": {name: found.summary for name, found in decoded.items()},
        "lead": {name: estimate_of(difference) for name, difference in pairs.items()},
    }


def targets_of(composites: Composites) -> np.ndarray:
    """What is decoded [n, 3]: row and column of the object, and as a control the composite's mean intensity."""
    return np.column_stack([composites.corners, composites.images.mean(axis=(1, 2, 3)) / 255])


def permuted_within_objects(targets: np.ndarray, objects: np.ndarray, seed: int) -> np.ndarray:
    """Targets permuted over the composites of each object: what is left to decode is chance."""
    rng, permuted = np.random.default_rng(seed), targets.copy()
    for number in range(OBJECTS):
        permuted[objects == number] = rng.permutation(targets[objects == number])
    return permuted


def composite_features(
    context: Context, networks: dict[str, Denoiser], composites: Composites, stride: int, key: str
) -> dict[str, np.ndarray]:
    """phi of each network at the working level; pixels of the composites (without noise), averaged, and their components."""
    features = {}
    for name, network in networks.items():
        here = context._replace(denoiser=network, identity=f"{key} {name}")
        features[name] = phi_to(
            context.outdir / "placed" / name, here, composites.images, f"composites, {PADDING[name]}"
        )
    count, height, width, channels = composites.images.shape
    pixels = composites.images.astype(np.float32) / 255
    squares = pixels.reshape(count, height // stride, stride, width // stride, stride, channels).mean((2, 4))
    flat = pixels.reshape(count, -1)
    features["squares"] = squares.reshape(count, -1)
    features["components"] = clusters.pca(flat, min(features["trained"].shape[1], *flat.shape))
    return features


class Decoded(NamedTuple):
    """How well places are decoded.

    Attributes:
      both: R^2 of rows and columns together, for all composites and for bootstrap draws of them.
      summary: R^2 of rows, of columns, of both, and of the mean intensity, with intervals; of both for each object.
    """

    both: np.ndarray
    summary: dict


DECODED = {"row": [0], "column": [1], "both": [0, 1], "intensity": [2]}  # columns of the targets


def decode(features: np.ndarray, targets: np.ndarray, composites: Composites, seed: int) -> Decoded:
    """R^2 = 1 - sum (y - prediction)^2 / sum (y - mean)^2 of ridge regression, one for each object, on held-out backgrounds."""
    errors, spreads, by_object = np.empty_like(targets), np.empty_like(targets), []
    for number in range(OBJECTS):
        members = composites.objects == number
        here, groups = targets[members], composites.backgrounds[members]
        predictions = measures.cross_validated_ridge(np.asarray(features[members]), here, groups)
        errors[members], spreads[members] = (here - predictions) ** 2, (here - here.mean(0)) ** 2
        by_object.append(float(1 - errors[members, :2].sum() / spreads[members, :2].sum()))
    means = measures.bootstrap_means(np.concatenate([errors, spreads], axis=1), seed=seed)
    error, spread_of = np.split(means, 2, axis=1)
    explained = {name: 1 - error[:, c].sum(1) / spread_of[:, c].sum(1) for name, c in DECODED.items()}
    summary = {name: estimate_of(values) for name, values in explained.items()}
    return Decoded(explained["both"], summary | {"by_object": by_object, "features": features.shape[1]})


# The report


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
    objects = [f"object {number + 1}" for number in range(OBJECTS)]
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
        f"({summary['stride']} pixels), their noise with them: only location changes. Moving round also brings a seam, where edges "
        "meet, into the image; with circular padding the network sees that seam wherever it is.",
        "An object was pasted at random places into other images, and its row and column regressed on phi (ridge regression, "
        "backgrounds held out). phi is a mean over noise draws; the pixels have no noise.",
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
        rows.append((block, *cells, largest_text(by_network.get("circular", {}).get(block))))
    pixels = ", ".join(map(str, summary["shifts"]["pixels"]))
    return report.Table(
        f"Change of channel averages when the image moves down or right by {pixels} pixels "
        f"({summary['shifts']['images']:,} images, 95 % bootstrap intervals): over their length, and over the root mean square "
        "distance between two images. With circular padding: the largest change over length of any image and shift, which is "
        "rounding; – where the block's averages are all 0.",
        (
            "block",
            "over length",
            "over distance",
            "over length, untrained",
            "over distance, untrained",
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
        rows.append((title, found["features"], *cells, ", ".join(f"{r:.2f}" for r in found["by_object"]), lead))
    down, right = objects["places"]
    return report.Table(
        f"R² of the place of an object of {objects['side']} pixels among {down}×{right} places, "
        f"{objects['composites']:,} composites of {OBJECTS} objects (95 % bootstrap intervals over composites). Lead of phi: how "
        "much more phi explains of both, over the same draws of composites. Intensity, a control: R² of the composite's mean.",
        ("features", "dimensions", "row", "column", "both", "intensity", "both, each object", "lead of phi"),
        rows,
    )


ROUNDING = 1e-4  # a relative change below is none


def claims(context: Context, summary: dict) -> list[report.Claim]:
    """The paper's statements on location, with what circular padding and random weights give."""
    by_network = summary["shifts"]["blocks"]
    deep = [block for block in layout_of(context).columns if not block.startswith("decoder")]
    decoded = summary["objects"]["decoded"]

    def values(network, name):
        return [by_network[network][block][name]["value"] for block in deep]

    def by_depth(network):
        changes = ", ".join(
            f"{block} {change:.3f}" for block, change in zip(deep, values(network, "of_distance"), strict=True)
        )
        return f"change over the distance between images: {changes}"

    phi = by_network["trained"]["mid"]
    return [
        report.Claim(
            "Channel averages do not depend on location but for zero padding",
            None,
            f"phi changes by {estimate_text(phi['of_distance'], 3) or '–'} of the distance between two images when its image moves",
            f"circular padding: {largest_text(by_network.get('circular', {}).get('mid')) or 'no such twin'} of its length at most",
            verdict(invariant(by_network)),
        ),
        report.Claim(
            "The deeper the block, the less its averages are invariant to translation",
            None,
            by_depth("trained"),
            f"untrained: {by_depth('untrained')}",
            verdict([rising(values("trained", name)) for name in ("relative", "of_distance")]),
        ),
        report.Claim(
            "phi depends on position only through zero padding",
            None,
            f"R² of a pasted object's place from phi: {estimate_text(decoded['trained']['both'], 2)}",
            f"circular padding: {estimate_text(decoded['circular']['both'], 2) if 'circular' in decoded else 'no such twin'}; "
            f"places permuted: {estimate_text(decoded['chance']['both'], 2)}",
            verdict(position_by_padding(summary["objects"])),
        ),
    ]


def invariant(by_network: dict) -> list[bool | None]:
    """Whether circular padding leaves rounding alone, and zero padding less than half of what two images differ by."""
    if "circular" not in by_network:
        return [None]
    rounding = [block["largest"] for block in by_network["circular"].values()]
    change = [block["of_distance"]["value"] for block in by_network["trained"].values()]
    return [
        all(c < limit for c in changes if c is not None) for changes, limit in ((rounding, ROUNDING), (change, 0.5))
    ]


def rising(values: list[float | None]) -> bool | None:
    """Whether each number is above the one before."""
    return None if None in values else all(a < b for a, b in itertools.pairwise(values))


def position_by_padding(objects: dict) -> list[bool | None]:
    """Whether phi tells the place, tells it better than with circular padding, and that alone tells nothing."""
    if "circular" not in objects["decoded"]:
        return [None]
    tells = objects["decoded"]["trained"]["both"]["low"] > 0
    return [
        tells,
        tells and objects["lead"]["circular"]["low"] > 0,
        tells and objects["decoded"]["circular"]["both"]["low"] <= 0,
    ]
