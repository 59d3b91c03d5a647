"""How robust every block's channel averages are to noise: their direction, length and realisation variance (figure 2)."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Integer
from scipy import stats

from unetrep_jax import measures, representation, storage
from unetrep_jax.stages.context import (
    NETWORKS,
    Arrays,
    Context,
    averages,
    compared_levels,
    layout_of,
    reference_level,
    write_stage,
)
from unetrep_jax.stages.wording import estimate_of

CHUNK_BYTES = 64 << 20
# Groups of images that are left out in turn: with 20 the interval is only 7 % wider than with any number of them (Student's t),
# and products at all pairs of levels are kept for each.
JACKKNIFE_GROUPS = 20
COVERAGE = 0.95  # of the intervals of the cosines between all levels, as of `measures.estimate`


class Products(NamedTuple):
    """Inner products between the noise levels of one block's channel averages.

    Attributes:
      direction: cosine of each image's estimates of phi_s and phi_s0, [n, levels].
      change, along: `measures.level_changes` of each image's estimates, [n, levels].
      with_reference: <phi_s, phi_s0> of each image, freed of noise, [n, levels].
      squares: ||phi_s||^2 of each image, freed of noise, [n, levels].
      total: inner products at all pairs of levels, freed of noise, summed over the images of each group [groups, levels, levels].
      cosines: cosines of the estimates at all pairs of levels, summed over the images that have one.
      squared_turns: (1 - cosine)^2, summed likewise. Cosines near 1 would leave no digits of their variance in a sum of squares.
      defined: how many images have one.
    """

    direction: np.ndarray
    change: np.ndarray
    along: np.ndarray
    with_reference: np.ndarray
    squares: np.ndarray
    total: np.ndarray
    cosines: np.ndarray
    squared_turns: np.ndarray
    defined: np.ndarray


def chunks(values: np.ndarray, images: Integer[np.ndarray, " n"]) -> Iterator[tuple[slice, np.ndarray]]:
    """Some images' rows of a memory map [_, levels, K] in double precision, as many at once as fit into a bounded memory."""
    step = max(1, CHUNK_BYTES // (8 * int(np.prod(values.shape[1:]))))
    for first in range(0, len(images), step):
        yield slice(first, first + step), values[images[first : first + step]].astype(np.float64)


def groups_of_images(count: int, seed: int) -> Integer[np.ndarray, " {count}"]:
    """The group of each image, by chance, for images may be sorted by class; groups are of one size, or differ by one image."""
    return np.random.default_rng(seed).permutation(count) % JACKKNIFE_GROUPS


def block_products(
    values: np.ndarray,
    images: Integer[np.ndarray, " n"],
    noise: np.ndarray,
    columns: representation.Layout,
    reference: int,
    groups: Integer[np.ndarray, " n"],
    label: str,
) -> dict[str, dict[str, Products]]:
    """Inner products of every block's averages, as they are ("plain") and after the mean over images is taken away ("centred").

    Args:
      values: estimates of phi_s, a memory map [_, levels, K]; read twice, chunk by chunk.
      images: which of its rows.
      noise: their squared errors [n, levels, blocks], each summed over the block's channels.
      columns: where the blocks are.
      reference: position of s0.
      groups: the group of each image, 0 ... `JACKKNIFE_GROUPS` - 1.
      label: for the progress line.
    """
    count, levels = len(images), values.shape[1]
    mean = sum(part.sum(0) for _, part in chunks(values, images)) / count
    offsets = {"plain": np.zeros(values.shape[1:]), "centred": mean}
    # An image's own estimate is part of the mean that is taken away from it.
    noises = {"plain": noise, "centred": noise * (1 - 2 / count) + noise.mean(0) / count}

    def empty():
        rows = (np.empty((count, levels)) for _ in range(5))
        total = np.zeros((JACKKNIFE_GROUPS, levels, levels))
        return Products(*rows, total, *(np.zeros((levels, levels)) for _ in range(3)))

    found = {version: {block: empty() for block in columns.columns} for version in offsets}
    with storage.Progress(label, count) as progress:
        for rows, part in chunks(values, images):
            for version, offset in offsets.items():
                moved = part - offset
                for place, (block, into) in enumerate(found[version].items()):
                    of_block, its_noise = columns.of(moved, block), noises[version][rows, :, place]
                    add_images(into, rows, of_block, its_noise, reference, groups[rows])
            progress.advance(len(part))
    return found


def add_images(
    into: Products, rows: slice, averages: np.ndarray, noise: np.ndarray, reference: int, groups: np.ndarray
) -> None:
    """Adds some images' averages [rows, levels, k], and their groups [rows], to a block's products, in place."""
    products = measures.level_products(averages)
    cosines, freed = measures.cosines_of_products(products), measures.freed_of_noise(products, noise)
    squares = np.diagonal(products, axis1=1, axis2=2)
    into.direction[rows] = cosines[:, reference]
    into.change[rows], into.along[rows] = measures.level_changes(products[:, reference], squares, reference)
    into.with_reference[rows] = freed[:, reference]
    into.squares[rows] = np.diagonal(freed, axis1=1, axis2=2)
    into.total[:] += np.tensordot(np.eye(len(into.total))[groups], freed, axes=(0, 0))
    into.cosines[:] += np.nansum(cosines, axis=0)
    into.squared_turns[:] += np.nansum((1 - cosines) ** 2, axis=0)
    into.defined[:] += np.isfinite(cosines).sum(0)


def run_robustness(context: Context, folder: Path, key: str) -> None:
    """Both networks' blocks at every noise level against s0, and the two against each other, with intervals over images."""
    settings = context.settings
    every = {network: np.arange(len(averages(context, stage))) for network, stage in NETWORKS.items()}
    described = {network: describe_network(context, network, images) for network, images in every.items()}
    both = context.untrained_subset
    paired = described["trained"] if len(both) == len(every["trained"]) else describe_network(context, "trained", both)
    arrays: Arrays = {}
    summary: dict = {
        "reference_times_255": settings.sigmas[reference_level(context)],
        "compared_times_255": [settings.sigmas[level] for level in compared_levels(context)],
        "draws": settings.draws,
    }
    for network, of in described.items():
        summary[network] = of.summary
        arrays |= {f"{network}/{name}": values for name, values in of.arrays.items()}
    differences = turn_differences(paired.stabilities, described["untrained"].stabilities)
    summary["trained_less_untrained"] = {"images": len(both), "blocks": differences}
    write_stage(folder, key, arrays, summary)


class Described(NamedTuple):
    """What is found of a network over some images.

    Attributes:
      arrays: what is drawn, the first axis over blocks.
      summary: what is printed.
      stabilities: "direction" and "centred_direction" -> block -> cosine to s0, mean over the compared levels, of the images and of
        bootstrap draws of them [1 + draws].
    """

    arrays: Arrays
    summary: dict
    stabilities: dict[str, dict[str, np.ndarray]]


def describe_network(context: Context, network: str, images: Integer[np.ndarray, " n"]) -> Described:
    """A network's blocks over some images of its sweep, given by their positions in it."""
    columns, reference = layout_of(context), reference_level(context)
    values = averages(context, NETWORKS[network])
    variance = np.load(context.outdir / NETWORKS[network] / "variance.npy")[images]
    noise = np.nan_to_num(variance) / context.settings.draws  # from one draw the variance is not known
    groups = groups_of_images(len(images), context.settings.seed)
    label = f"robustness, {network}, {len(images):,} images"
    products = block_products(values, images, noise, columns, reference, groups, label)
    blocks, stabilities = {}, {"direction": {}, "centred_direction": {}}
    drawn: dict[str, list] = {}
    for place, block in enumerate(columns.columns):
        plain, centred = products["plain"][block], products["centred"][block]
        curves = image_curves(plain, variance[..., place], reference)
        means = block_means(context, curves, plain, centred)
        blocks[block] = {name: estimate_of(means[name]) for name in PRINTED}
        blocks[block]["scatter"] = scatter_bound(context, means["variance"][0])
        blocks[block]["undefined"] = int((plain.squares <= 0).sum())
        for name, by_block in stabilities.items():
            by_block[block] = means[name]
        of_block = block_arrays(means, plain, centred)
        blocks[block]["matrix"] = {name: extremes_of(of_block, name) for name in ("cosines", "centred_cosines")}
        for name, array in of_block.items():
            drawn.setdefault(name, []).append(array)
    ranking = {name: most_stable(by_block) for name, by_block in stabilities.items()}
    arrays = {name: np.stack(of_blocks) for name, of_blocks in drawn.items()}
    return Described(arrays, {"images": len(images), "blocks": blocks, "most_stable": ranking}, stabilities)


def turn_differences(
    trained: dict[str, dict[str, np.ndarray]], untrained: dict[str, dict[str, np.ndarray]]
) -> dict[str, dict[str, dict]]:
    """The turn (1 - cosine) of each block in the trained network less that in the untrained one.

    Args:
      trained, untrained: `Described.stabilities` of the same images. Their bootstrap draws are then the same too, so the intervals
        are paired.

    Returns:
      Block -> "direction" and "centred_direction" -> value and interval; below 0 where the trained network is the more stable.
    """
    return {
        block: {name: estimate_of(untrained[name][block] - trained[name][block]) for name in trained}
        for block in trained["direction"]
    }


PRINTED = ("direction", "centred_direction", "scaling", "centred_scaling", "length", "variance", "shared")


def image_curves(plain: Products, variance: np.ndarray, reference: int) -> dict[str, np.ndarray]:
    """Each image's cosine to s0, length over that at s0, and realisation variance over squared length, [n, levels]."""
    squares = np.where(plain.squares > 0, plain.squares, np.nan)
    own = squares[:, [reference]]
    return {"direction": plain.direction, "length": np.sqrt(squares / own), "variance": variance / squares}


def block_means(
    context: Context, curves: dict[str, np.ndarray], plain: Products, centred: Products
) -> dict[str, np.ndarray]:
    """Means over images, and over bootstrap draws of them [1 + draws ...], of all that is printed of a block.

    Direction is the mean over images of each one's mean cosine over the compared levels, from the estimates as they are: freed of
    noise, a single image's cosine would be too large wherever draws scatter along phi and not across, which is not known. So it
    is a lower bound, and `scatter_bound` says how low. Centred, images near the mean have hardly a length, and their cosines are
    mostly noise: there products, freed of it, are averaged over images before they are divided. Scaling likewise: each image's own
    factor, from the estimates; centred, one factor for all images. Shared is the part of the images' squared lengths at s0 that
    their common mean has: 1 - centred squares / plain squares.
    """
    reference, compared = reference_level(context), compared_levels(context)
    parts = (*curves.values(), plain.change, plain.along, centred.with_reference, centred.squares, plain.squares)
    means = measures.bootstrap_means(np.concatenate(parts, axis=1), seed=context.settings.seed)
    direction, length, variance, *change, with_reference, squares, lengths = np.split(means, len(parts), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = with_reference / np.sqrt(squares * squares[:, [reference]])
        shared = 1 - squares[:, reference] / lengths[:, reference]
    return {
        "direction": mean_over(direction, compared),
        "cosine": direction,
        "centred_direction": mean_over(cosines, compared),
        "centred_cosine": cosines,
        "scaling": share_along(measures.LevelChange(*change), compared),
        "centred_scaling": share_along(measures.level_changes(with_reference, squares, reference), compared),
        "length": length,
        "variance": variance,
        "shared": shared,
    }


def scatter_bound(context: Context, variance: np.ndarray) -> float | None:
    """How much of 1 - cosine the scatter of the draws makes at most, if all of it is across phi; None where it is not known.

    (variance_s / ||phi_s||^2 + variance_s0 / ||phi_s0||^2) / (2 draws),     mean over images and compared levels
    """
    both = (variance + variance[reference_level(context)]) / (2 * context.settings.draws)
    bound = mean_over(both[None], compared_levels(context))[0]
    return float(bound) if np.isfinite(bound) else None


def mean_over(values: np.ndarray, levels: list[int]) -> np.ndarray:
    """Mean over some of the levels; NaN over none."""
    return values[:, levels].mean(1) if levels else np.full(len(values), np.nan)


def share_along(change: measures.LevelChange, levels: list[int]) -> np.ndarray:
    """The part of the squared changes, summed over some of the levels, that a change of length explains; NaN without any change."""
    total, along = (part[:, levels].sum(1) for part in change)
    return np.divide(along, total, out=np.full(len(total), np.nan), where=total > 0)


CURVES = {"direction": "cosine", "centred_direction": "centred_cosine", "length": "length", "variance": "variance"}


def block_arrays(means: dict[str, np.ndarray], plain: Products, centred: Products) -> Arrays:
    """What is drawn of a block.

    Curves (low, value, high) [levels, 3] are means over images with their 95 % bootstrap intervals; the rest, [levels, levels], are
    cosines between all levels, and half their 95 % intervals.
    """
    bands = {name: measures.estimate(means[quantity]) for name, quantity in CURVES.items()}
    with np.errstate(invalid="ignore"):
        cosines = plain.cosines / plain.defined
    return {name: np.stack([band.low, band.value, band.high], 1) for name, band in bands.items()} | {
        "cosines": cosines,
        "cosines_half_width": half_width_of_means(plain.cosines, plain.squared_turns, plain.defined),
        "centred_cosines": measures.cosines_of_products(centred.total.sum(0)),
        "centred_cosines_half_width": half_width_of_ratios(centred.total),
    }


def half_width_of_means(
    cosines: Float[np.ndarray, "*s"], squared_turns: Float[np.ndarray, "*s"], defined: Float[np.ndarray, "*s"]
) -> Float64[np.ndarray, "*s"]:
    r"""Half of the 95 % interval over images of a mean cosine, from sums over its n images, by Student's t.

        t_{n-1} sqrt( (sum (1 - c)^2 - (sum (1 - c))^2 / n) / (n (n - 1)) )

    The variance of c is that of 1 - c, of which rounding leaves more digits where c is near 1. NaN for fewer than two images.

    Args:
      cosines: sums of c.
      squared_turns: sums of (1 - c)^2.
      defined: n.
    """
    count = np.where(defined > 1, defined, np.nan)
    squares = np.maximum(squared_turns - (count - cosines) ** 2 / count, 0)  # rounding alone could leave it below 0
    return stats.t.ppf((1 + COVERAGE) / 2, count - 1) * np.sqrt(squares / (count * (count - 1)))


def half_width_of_ratios(total: Float[np.ndarray, "groups levels levels"]) -> Float64[np.ndarray, "levels levels"]:
    r"""Half of the 95 % interval over images of cosines of summed products, by a jackknife that leaves out a group at a time.

        t_{G-1} sqrt( (G - 1) / G sum_g (c_-g - mean c_-g)^2 ),      c_-g the cosines from all groups but g

    (Efron & Stein 1981, for groups of nearly one size.) The images' mean, where it was taken away, is not found anew without g:
    that changes little, of second order in the groups' means. NaN where a cosine is not defined without some group.

    Args:
      total: products summed over the images of each group; groups without images (where there are fewer images) count for nothing.
    """
    filled = total[np.any(total != 0, axis=(1, 2))]
    count = len(filled)
    if count < 2:
        return np.full(total.shape[1:], np.nan)
    without = measures.cosines_of_products(filled.sum(0) - filled)
    squares = ((without - without.mean(0)) ** 2).sum(0)
    return stats.t.ppf((1 + COVERAGE) / 2, count - 1) * np.sqrt((count - 1) / count * squares)


def extremes_of(arrays: Arrays, name: str) -> dict[str, float | None]:
    """The lowest of a block's cosines between levels and the largest half of their intervals; None where none is known."""
    parts = {"lowest": (arrays[name], np.min), "largest_half_width": (arrays[f"{name}_half_width"], np.max)}
    known = {key: (values[np.isfinite(values)], of) for key, (values, of) in parts.items()}
    return {key: float(of(values)) if values.size else None for key, (values, of) in known.items()}


def most_stable(by_block: dict[str, np.ndarray]) -> dict | None:
    """The block of the largest value, the next, and their difference over the same draws of images; None without two values."""
    ranked = sorted((b for b in by_block if np.isfinite(by_block[b][0])), key=lambda b: -by_block[b][0])
    if len(ranked) < 2:
        return None
    best, second = ranked[:2]
    return {"block": best, "next": second, "difference": estimate_of(by_block[best] - by_block[second])}
