"""The cluster stage: K-means on phi, on nulls and controls, over noise levels and from classes (figure 8)."""

from collections.abc import Iterator
from pathlib import Path

from unetrep_jax import storage
from unetrep_jax.stages.cluster_classes import classes_of_phi
from unetrep_jax.stages.cluster_features import (
    NULLS,
    Features,
    null_features,
    phi_features,
    pixel_components,
    pixel_features,
)
from unetrep_jax.stages.cluster_levels import cluster_by_noise
from unetrep_jax.stages.cluster_pages import examples, pictures_of_groups
from unetrep_jax.stages.cluster_section import section_clusters
from unetrep_jax.stages.cluster_solutions import Solutions, study, supported
from unetrep_jax.stages.context import Arrays, Context, write_stage

__all__ = ["run_clusters", "section_clusters"]


def run_clusters(context: Context, folder: Path, key: str) -> None:
    """K-means for every K; nulls; controls; noise levels; classes, and K-means begun at them; examples and t-SNE."""
    settings, solutions = context.settings, Solutions(context)
    features = phi_features(context, "representations", context.working)
    nulls = {name: null_features(name, features, settings.seed) for name in NULLS}
    components = pixel_components(context, features.rows.shape[1])
    arrays: Arrays = {}
    summary: dict = {
        "sigma_times_255": settings.sigma,
        "images": len(features.rows),
        "dimensions": features.rows.shape[1],
        "smallest_mean_size": settings.cluster_members,
        "by_clusters": cluster_phi(context, solutions, features, nulls, arrays),
    }
    if context.images.labels is not None:
        summary["classes"] = classes_of_phi(context, solutions, features, arrays)
    summary["controls"] = cluster_controls(context, solutions, features, components, arrays)
    summary["by_noise"] = cluster_by_noise(context, solutions, features, components)
    examples(context, features, arrays)
    summary["tsne"] = pictures_of_groups(context, solutions, features, nulls["gaussian_null"], arrays)
    write_stage(folder, key, arrays, summary)
    solutions.forget_unused()


def cluster_phi(
    context: Context, solutions: Solutions, features: Features, nulls: dict[str, Features], arrays: Arrays
) -> dict:
    """Clusters of phi for every K; where there are images enough for statistics, these, beside those of the nulls."""
    settings, result = context.settings, {}
    allowed = [count for count in settings.clusters if supported(context, count, len(features.rows)) == count]
    seeds, null_seeds = settings.cluster_seeds, min(2, settings.cluster_seeds)
    fits = len(settings.clusters) + len(allowed) * (seeds + 1 + len(nulls) * (null_seeds + 1))
    with storage.Progress("K-means", fits * settings.cluster_runs, unit="runs") as progress:
        for count in settings.clusters:
            if count in allowed:
                numbers, arrays[f"separation/{count}"] = study(context, solutions, features, count, seeds, progress)
                result[str(count)] = numbers
            found = solutions.kmeans(features, count, settings.seed, progress)
            arrays[f"assignment/{count}"], arrays[f"centroids/{count}"] = found.assignment, found.centroids
            for name, null in nulls.items() if count in allowed else ():
                numbers, arrays[f"{name}/{count}"] = study(context, solutions, null, count, null_seeds, progress)
                kept = {key: numbers[key] for key in ("held_out", "agreement_of_seeds_ami")}
                result[str(count)][name] = numbers["separation"] | kept
    return result


def cluster_controls(
    context: Context, solutions: Solutions, features: Features, components: Features, arrays: Arrays
) -> dict:
    """The same K-means, for the first K (or as many as the images support), on other features of the images."""
    settings, result = context.settings, {}
    seeds = min(2, settings.cluster_seeds)
    with storage.Progress("K-means, controls", 4 * (seeds + 1) * settings.cluster_runs, unit="runs") as progress:
        for number, (name, control) in enumerate(control_features(context, features, components)):
            count = supported(context, settings.clusters[0], len(control.rows))
            if count >= 2:
                numbers, arrays[f"control/{number}"] = study(context, solutions, control, count, seeds, progress)
                result[name] = {"number": number} | numbers
    return result


def control_features(context: Context, features: Features, components: Features) -> Iterator[tuple[str, Features]]:
    """Other features of the images as the tables call them; one at a time, for pixels are large."""
    some, total = context.untrained_subset, len(features.rows)
    of_some = f"({len(some):,} images)"
    if len(some) < total:
        yield f"phi of those {len(some):,} images", phi_features(context, "representations", context.working, some)
    yield f"phi of the untrained network {of_some}", phi_features(context, "untrained", context.working)
    pixels = pixel_features(context)
    of_pixels = f" ({len(pixels.rows):,} images)" if len(pixels.rows) < total else ""
    yield f"pixels{of_pixels}", pixels
    yield f"first {components.rows.shape[1]} principal components of the pixels{of_pixels}", components
