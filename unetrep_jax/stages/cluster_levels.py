"""K-means at every noise level: whether it finds the clusters of the working level, in phi and in what it is held against."""

from unetrep_jax import clusters, storage
from unetrep_jax.stages.cluster_features import Features, noisy_components, phi_features
from unetrep_jax.stages.cluster_solutions import Solutions, align, describe, supported
from unetrep_jax.stages.context import Context

# Of every level, each for phi and for the controls.
PARTS = ("agreement_with_working_level_ami", "held_out_agreement_ami", "separation", "held_out")


def cluster_by_noise(context: Context, solutions: Solutions, features: Features, components: Features) -> dict:
    """Clusters at every noise level, of phi and of controls: separation, and agreement with those at the working level.

    Both on the images fitted, and on a half of them after fits to the other half (the same halves at every level). The reference at
    the working level is of another seed than all that are held against it, so that its own agreement is what starts alone leave.
    For phi there is agreement with labels too.
    """
    settings, some = context.settings, context.untrained_subset
    sources = {
        "phi": (len(features.rows), lambda level: phi_features(context, "representations", level)),
        "pixels": (len(components.rows), lambda level: noisy_components(context, components, level)),
        "phi_of_some": (len(some), lambda level: phi_features(context, "representations", level, some)),
        "untrained": (len(some), lambda level: phi_features(context, "untrained", level)),
    }
    counts = {name: supported(context, settings.clusters[0], images) for name, (images, _) in sources.items()}
    sources = {name: source for name, source in sources.items() if counts[name] >= 2}
    result: dict = {f"{sigma:g}": {part: {} for part in PARTS} for sigma in settings.sigmas}
    fits = 2 * len(sources) * (len(settings.sigmas) + 1)
    with storage.Progress("K-means by noise level", fits * settings.cluster_runs, unit="runs") as progress:
        for name, (_, make) in sources.items():
            fit = make(context.working), counts[name], settings.seed, progress
            reference, apart = solutions.kmeans(*fit).assignment, solutions.held_out(*fit).assignment
            for level, row in enumerate(result.values()):
                at_level = make(level)
                fit = at_level, counts[name], settings.seed + 1, progress
                found, held = solutions.kmeans(*fit).assignment, solutions.held_out(*fit)
                row["agreement_with_working_level_ami"][name] = clusters.agreement(found, reference)
                row["held_out_agreement_ami"][name] = clusters.agreement(held.assignment, apart)
                row["separation"][name] = describe(clusters.separation_of_clusters(at_level.rows, found).ratio)
                row["held_out"][name] = describe(held.separation.ratio)
                if name == "phi":
                    row["labels"] = align(found, at_level.labels(context))
    return {"clusters": counts, "images": {name: source[0] for name, source in sources.items()}, "levels": result}
