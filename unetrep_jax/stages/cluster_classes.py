"""Label classes as groups of phi, and K-means begun at their means, beside random partitions of the same sizes."""

import functools

import numpy as np

from unetrep_jax import clusters, measures
from unetrep_jax.stages.cluster_features import Features
from unetrep_jax.stages.cluster_solutions import Solutions, align, describe, in_units
from unetrep_jax.stages.context import Arrays, Context
from unetrep_jax.stages.wording import quartiles_of


def classes_of_phi(context: Context, solutions: Solutions, features: Features, arrays: Arrays) -> dict:
    """Separation of the label classes and K-means begun at their means, beside a random partition with the same sizes."""
    names, labels = np.unique(context.images.labels, return_inverse=True)
    shuffled = np.random.default_rng(context.settings.seed).permutation(labels)
    result: dict = {"classes": len(names), "images_per_class": len(labels) / len(names)}
    found, arrays["separation/classes"] = separation_of_groups(context, features.rows, labels)
    result |= found
    result["random_partition"], arrays["separation/random"] = separation_of_groups(context, features.rows, shuffled)
    if len(names) < 2:
        return result
    ends, ends_held_out = [], []
    _, held = clusters.halves(len(labels), context.settings.seed)
    for name, groups in {"begun_at_class_means": labels, "begun_at_random_means": shuffled}.items():
        start = measures.group_means(features.rows, groups, len(names))
        find = functools.partial(clusters.kmeans_course, features.rows, start)
        course = solutions.keep(clusters.Course, [features.name, name, context.settings.seed], find)
        result[name], arrays[f"course/{name}"] = numbers_of_course(course, start, groups)
        ends.append(course.assignment[-1])
        result[name]["separation"] = describe(clusters.separation_of_clusters(features.rows, ends[-1]).ratio)
        result[name]["labels"] = align(ends[-1], labels)
        result[name]["held_out"], joined = held_out_course(context, solutions, features, groups, name)
        result[name]["held_out"]["labels"] = align(joined, labels[held])
        ends_held_out.append(joined)
    result["ends_agree_ami"] = clusters.agreement(*ends)
    result["held_out_ends_agree_ami"] = clusters.agreement(*ends_held_out)
    return result


def separation_of_groups(context: Context, rows: np.ndarray, groups: np.ndarray) -> tuple[dict, np.ndarray]:
    """As `study`, of given groups: on all images, and along the line between means of one half measured on the other."""
    inside = clusters.separation_of_clusters(rows, groups)
    fit, held = clusters.halves(len(rows), context.settings.seed)
    count = int(groups.max()) + 1
    means = measures.group_means(rows[fit], groups[fit], count)
    outside = clusters.held_out_separation(rows[held], groups[held], means)
    numbers = {"separation": describe(inside.ratio), "held_out": describe(outside.ratio)}
    return numbers, in_units(rows, count, inside, outside)


def numbers_of_course(course: clusters.Course, start: np.ndarray, groups: np.ndarray) -> tuple[dict, np.ndarray]:
    """How far K-means goes away from the groups at whose means it began.

    Returns:
      numbers for the summary, and an array with a row for each moment: iterations, AMI with the groups, share of the images
      in the cluster that began as their group's, quartiles over the centroids of how far each has moved, in units of the
      distance from its group's mean to the nearest other one.
    """
    gap = np.linalg.norm(start - start[clusters.adjacent(start)], axis=1)
    moved = np.divide(course.moved, gap, out=np.full(course.moved.shape, np.nan), where=gap > 0)
    agreement = [clusters.agreement(assignment, groups) for assignment in course.assignment]
    staying = (course.assignment == groups).mean(axis=1)
    numbers = {
        "iterations": int(course.iterations[-1]),
        "ami_at_nearest_mean": agreement[0],
        "ami_at_the_end": agreement[-1],
        "staying_at_the_end": float(staying[-1]),
        "moved": quartiles_of(moved[-1]),
    }
    return numbers, np.column_stack([course.iterations, agreement, staying, measures.quartiles(moved, axis=1).T])


def held_out_course(
    context: Context, solutions: Solutions, features: Features, groups: np.ndarray, name: str
) -> tuple[dict, np.ndarray]:
    r"""As `numbers_of_course`, on images that had no part: K-means begins at, and is fitted to, one half, and the other joins it.

    Held-out images join the nearest centroid, at the start and at the end. How far a centroid moves is measured on them too,

        <m_k - g_k, u> / gap_k,      u = (c_k - s_k) / ||c_k - s_k||

    with s_k and c_k where the centroid begins and ends in the half that is fitted, g_k and m_k the means of the held-out images of
    its group and of its cluster, and gap_k the distance from s_k to the nearest other start: means that differ by chance count
    nothing, as in `clusters.held_out_separation`. Groups without an image in the half that is fitted begin nothing, and their
    images are left out of what is held against groups; None, or NaN, where no image is left.

    Returns:
      numbers for the summary, and the cluster of every held-out image at the end.
    """
    seed, rows = context.settings.seed, features.rows
    fit, held = clusters.halves(len(rows), seed)
    names, begun = np.unique(groups[fit], return_inverse=True)
    place = np.searchsorted(names, groups[held])
    known = np.isin(groups[held], names)
    own = np.where(known, place, -1)
    half = features.part("half", fit)
    start = measures.group_means(half.rows, begun, len(names))
    find = functools.partial(clusters.kmeans_course, half.rows, start)
    course = solutions.keep(clusters.Course, [half.name, name, seed], find)
    end = measures.group_means(half.rows, course.assignment[-1], len(names))
    nearest, joined = (clusters.nearest_centroid(rows[held], centroids) for centroids in (start, end))
    moved = moved_held_out(rows[held], own, joined, start, end)
    some = bool(known.any())
    numbers = {
        "images": len(held),
        "iterations": int(course.iterations[-1]),
        "ami_at_nearest_mean": clusters.agreement(nearest[known], own[known]) if some else None,
        "ami_at_the_end": clusters.agreement(joined[known], own[known]) if some else None,
        "staying_at_the_end": float((joined == own)[known].mean()) if some else None,
        "moved": quartiles_of(moved),
        "separation": describe(clusters.held_out_separation(rows[held], joined, end).ratio),
    }
    return numbers, joined


def moved_held_out(
    rows: np.ndarray, groups: np.ndarray, joined: np.ndarray, start: np.ndarray, end: np.ndarray
) -> np.ndarray:
    """How far each centroid moves, as `held_out_course` says; 0 where it does not, NaN without images of its group or cluster.

    Args:
      rows: held-out features [n, d].
      groups: where each began, -1 for a group that began nothing.
      joined: the cluster of each at the end.
      start, end: centroids [k, d] of the half that is fitted; NaN for a cluster that is empty there.
    """
    length = np.linalg.norm(end - start, axis=1)
    gap = np.linalg.norm(start - start[clusters.adjacent(start)], axis=1)
    difference = measures.group_means(rows, joined, len(start)) - measures.group_means(rows, groups, len(start))
    along = (difference * (end - start)).sum(1)
    moved = np.divide(along, length * gap, out=np.full(len(start), np.nan), where=length * gap > 0)
    return np.where(length == 0, 0.0, moved)
