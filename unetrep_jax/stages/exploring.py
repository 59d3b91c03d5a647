"""The interactive page: what the other stages found of images, channels and clusters, and where channels fire."""

import functools
import hashlib
import os
import shlex
import sys
from pathlib import Path

import numpy as np
from scipy.spatial.distance import cdist

from unetrep_jax import clusters, explorer, measures, reconstruction, selectivity, storage
from unetrep_jax.stages import reconstructing
from unetrep_jax.stages.context import Arrays, Context, phi
from unetrep_jax.stages.remembered import remember
from unetrep_jax.stages.top_images import averaged_maps, most_excited
from unetrep_jax.storage import InputError

TSNE_IMAGES = 10_000  # beyond which t-SNE would take longer than everything else
CHANNELS_OF_AN_IMAGE = 8
COMPANIONS = 5  # channels that go with one, and as many that go against it
NEAREST_CLUSTERS = 5
OF_A_RUN = ("best", "last", "milestones")  # folders of checkpoints in a run's
SHA256_SHOWN = 8  # digits, enough to tell checkpoints apart
CONTROLS = ("unmatched", "alone", "untrained", "pca")  # arms that leave out, or replace, what is claimed to matter
SPACES = {  # space of the neighbours stage -> as the page calls it
    "phi, centred": "cosine of phi, after the mean phi of all images is taken away",
    "phi": "cosine of phi as it is",
    "pixels": "cosine of the pixels",
}
# What the page calls the things that other stages make -> the stage.
MADE_BY = {
    "Selectivity": "selectivity",
    "Neighbours": "neighbours",
    "Clusters": "clusters",
    "Reconstructions": "reconstructions",
}


@functools.cache
def page_code() -> str:
    """Names the code that the page is made of."""
    files = sorted(path for path in Path(explorer.__file__).parent.rglob("*") if path.suffix in (".py", ".js", ".css", ".html"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


def words_and_code(context: Context) -> list[str]:
    """What the page depends on beside settings and stages: the code, and what it says of the denoiser."""
    return [page_code(), *name_of(context)]


def run_explorer(context: Context, folder: Path, key: str) -> None:
    """Writes the page's folder."""
    values = phi(context, "representations", context.working)
    saved = {name: arrays_of(context, name) for name in MADE_BY.values() if name in context.made}
    top = selectivity.top_images(values, min(context.settings.top_images_per_channel, len(values)))
    channels, deviations, what = channels_of_images(values, saved.get("selectivity"))
    maps, lookup = activation_maps(context, pairs_of(top, channels, values.shape[1]))
    everyone, every_channel = np.arange(len(values))[:, None], np.arange(values.shape[1])[:, None]
    exciting = values[top, every_channel] > values.min(0)[:, None]  # the others would be whichever come first
    layouts, missing = layouts_of(context, values)
    found = explorer.Collection(
        title=f"What {name_of(context)[0]} knows of {len(values):,} images",
        checkpoint="".join(name_of(context)),
        level=level_of(context),
        facts={name: str(fact) for name, fact in context.facts.items()},
        images=context.images.images,
        names=[shown_name(name) for name in context.images.names],
        labels=context.images.labels,
        class_names=context.images.class_names,
        phi=values,
        image_numbers={"participation ratio of phi": np.asarray(measures.participation_ratio(values))},
        sigmas=context.settings.sigmas,
        working=context.working,
        channels=channels_known(context, values, saved.get("selectivity")),
        layouts=layouts,
        top=explorer.TopImages(np.where(exciting, top, -1), maps[lookup(top, every_channel)]),
        fires=explorer.Fires(what, channels, deviations, maps[lookup(everyone, channels)]),
        neighbours={
            title: saved["neighbours"][f"index/all/{space}"]
            for space, title in SPACES.items()
            if "neighbours" in saved
        },
        clusterings=clusterings_of(context, values, saved.get("clusters")),
        reconstructions=reconstructions_of(context, saved.get("reconstructions")),
        missing=[*missing, *missing_stages(context)],
    )
    with storage.replacing(folder, key) as partial:
        explorer.write(partial, found)
        total = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        storage.write_json(partial / "summary.json", {"images": len(values), "megabytes": total / 1e6})


def shown_name(name: str) -> str:
    """A file's name as text; bytes that are none show as the replacement character."""
    return os.fsencode(name).decode(errors="replace")


def arrays_of(context: Context, stage: str) -> dict[str, np.ndarray]:
    """The arrays of a stage."""
    with np.load(context.outdir / stage / "arrays.npz") as saved:
        return dict(saved)


def name_of(context: Context) -> tuple[str, str]:
    """The denoiser as a person would call it: (the run's folder, or the name that it was given; which step, weights and file)."""
    if "checkpoint" not in context.facts:
        return str(context.facts.get("denoiser", "the denoiser")), ""
    fact = str(context.facts["checkpoint"])
    given, step, rest = fact.rpartition(", step") if ", step" in fact else (fact, "", "")
    path = Path(given).resolve()
    while (path.name.isdecimal() or path.name in OF_A_RUN) and not any((path / name).is_dir() for name in OF_A_RUN):
        path = path.parent
    sha256 = str(context.facts.get("checkpoint sha256", ""))[:SHA256_SHOWN]
    return path.name or given, f"{step}{rest}{sha256 and f', sha256 {sha256}'}"


def level_of(context: Context) -> str:
    """The working noise level, for the line below every picture."""
    settings = context.settings
    draws = f"mean of {settings.draws} draws" if settings.draws > 1 else "one draw"
    return f"At {settings.sigma:g}/255, {draws}" if settings.sigma else "Without noise"


def command_for(context: Context, stage: str) -> str:
    """The command that was given, for this stage and the page alone; empty where there was none."""
    given, kept, skipping = shlex.split(str(context.facts.get("command", ""))), [], False
    for word in given:
        skipping = word in ("--only", "--redo") or (skipping and not word.startswith("--"))
        kept += [] if skipping else [word]
    return shlex.join([*kept, "--only", stage, "explorer"]) if kept else ""


def channels_of_images(values: np.ndarray, known: dict | None) -> tuple[np.ndarray, np.ndarray, str]:
    """(the channels that each image excites most [n q], by how many deviations [n q], of which channels they were chosen)."""
    members = np.flatnonzero(np.ptp(values, axis=0))  # rounding gives equal numbers a deviation
    what = "the channels that differ over images"
    if known is not None and known["channels/specialised"].any():
        members, what = np.flatnonzero(known["channels/specialised"]), "the specialised channels"
    if not len(members):
        members, what = np.arange(values.shape[1]), "all channels, which are the same for all images"
    return *most_excited(values, np.arange(len(values)), members, CHANNELS_OF_AN_IMAGE), what


def pairs_of(top: np.ndarray, channels: np.ndarray, width: int) -> np.ndarray:
    """The pairs of an image and a channel of which a map is shown: image * width + channel, in order."""
    of_channels = top * width + np.arange(width)[:, None]
    of_images = np.arange(len(channels))[:, None] * width + channels
    return np.unique(np.concatenate([of_channels.ravel(), of_images.ravel()]))


def activation_maps(context: Context, pairs: np.ndarray) -> tuple:
    """(activation maps [p y x] at the working level, averaged over the draws; (image, channel) -> their positions among them).

    Streamed to the folder `fires`, which goes on where it was when the process was killed.
    """
    settings, images = context.settings, context.images.images
    maps_of, (*size, width) = averaged_maps(context, settings.batch_size)
    folder = context.outdir / "fires"
    what = [settings.sigma, settings.draws, settings.seed, hashlib.sha256(pairs.tobytes()).hexdigest()]
    key = storage.fingerprint("fires", context.identity, context.images.fingerprint, what)
    if not storage.is_complete(folder, key):
        writer = storage.RowWriter(folder, key, len(pairs), {"maps": (tuple(size), np.float32)})
        first = int(pairs[writer.rows_done] // width) if writer.rows_done < len(pairs) else len(images)
        with storage.Progress("where channels fire", len(images), done=first) as progress:
            for start in range(first, len(images), settings.batch_size):
                index = np.arange(start, min(start + settings.batch_size, len(images)), dtype=np.int32)
                some = pairs[slice(*np.searchsorted(pairs, [start * width, (int(index[-1]) + 1) * width]))]
                writer.append(maps=maps_of(index)[some // width - start, :, :, some % width])
                progress.advance(len(index))
        writer.finish()
    return np.load(folder / "maps.npy", mmap_mode="r"), lambda image, channel: np.searchsorted(pairs, image * width + channel)


def layouts_of(context: Context, values: np.ndarray) -> tuple[dict, list]:
    """(name -> positions of the images on a map, what of it is missing)."""
    name = "the first two principal components of phi"
    if not np.ptp(values, axis=0).any():
        why = "phi is the same for all images, which lie on each other."
        return {name: np.zeros((len(values), 2), np.float32)}, [explorer.Missing("t-SNE", why, "")]
    components = clusters.pca(values, min(2, *values.shape))
    layouts = {name: np.pad(components, ((0, 0), (0, 2 - components.shape[1])))}
    if len(values) > TSNE_IMAGES:
        why = f"t-SNE is made of up to {TSNE_IMAGES:,} images; --config.analysis.images={TSNE_IMAGES} chooses as many."
        return layouts, [explorer.Missing("t-SNE", why, "")]
    key = storage.fingerprint(context.identity, context.images.fingerprint, context.settings.sigma, context.settings.draws)

    def place() -> Arrays:
        print(f"placing {len(values):,} images by t-SNE, on one core", file=sys.stderr)
        return {"positions": clusters.embedding(values, context.settings.seed)}

    try:
        made = remember(context.outdir / "explorer_kept", f"{key} {context.settings.seed}", "t-SNE", place)
    except InputError as error:
        return layouts, [explorer.Missing("t-SNE", f"{error}.", "")]
    return {"t-SNE of phi": made["positions"]} | layouts, []


def channels_known(context: Context, values: np.ndarray, known: dict | None) -> explorer.Channels:
    """Numbers of each channel, how it fares with noise, and which others go with it."""
    means, correlations = [], []
    for level in range(len(context.settings.sigmas)):
        of_level = phi(context, "representations", level)
        means.append(of_level.mean(0))
        constant = selectivity.dead_channels(of_level) | selectivity.dead_channels(values)
        correlations.append(np.where(constant, np.nan, selectivity.channel_correlations(of_level, values)))
    numbers = {"mean": values.mean(0), "share of images where it is not 0": (values != 0).mean(0)}
    if known is not None:
        above = (values > known["channels/threshold"]).mean(0)
        numbers = {"selectivity PR_c": known["channels/selectivity"], "mean": values.mean(0)}
        numbers |= {"share of images above its threshold": above}
        numbers |= {"excess kurtosis": known["trained/kurtosis"]}
        numbers |= {f"breadth in {what} (gratings)": known[f"trained/{what}_breadth"] for what in ("frequency", "orientation")}
    companions, strength = companions_of(values)
    return explorer.Channels(
        numbers=numbers,
        groups={group: known[f"channels/{group}"] for group in ("specialised", "common", "dead")} if known is not None else {},
        threshold=known["channels/threshold"] if known is not None else None,
        level_means=np.stack(means),
        level_correlations=np.stack(correlations),
        companions=companions,
        companion_correlations=strength,
    )


def companions_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(for each channel those of the largest correlation with it and then those of the most negative one, these correlations).

    A channel that is the same for all images has no correlation with any: NaN.
    """
    centred = values - values.mean(0, dtype=np.float64)
    centred[:, selectivity.dead_channels(values)] = 0
    lengths = np.linalg.norm(centred, axis=0)
    units = np.divide(centred, lengths, out=np.full_like(centred, np.nan), where=lengths > 0)
    correlation = units.T @ units
    np.fill_diagonal(correlation, np.nan)
    others = len(correlation) - 1
    alike, opposed = min(COMPANIONS, others), min(COMPANIONS, max(0, others - COMPANIONS))
    order = np.argsort(-correlation, axis=1, kind="stable")  # NaN last
    defined = np.isfinite(correlation).sum(1, keepdims=True)
    last = np.maximum(alike, defined - opposed) + np.arange(opposed)
    ranks = np.concatenate([np.broadcast_to(np.arange(alike), (len(order), alike)), last], axis=1)
    order = np.take_along_axis(order, ranks, axis=1)
    return order, np.take_along_axis(correlation, order, axis=1)


def clusterings_of(context: Context, values: np.ndarray, known: dict | None) -> list[explorer.Clustering]:
    """The clusters of phi for every K, with distances and the nearest other clusters."""
    if known is None:
        return []
    found = []
    for count in context.settings.clusters:
        assignment, centroids = known[f"assignment/{count}"], known[f"centroids/{count}"].astype(np.float64)
        scale = clusters.total_deviation(values) or 1
        apart = cdist(centroids, centroids, "sqeuclidean")
        np.fill_diagonal(apart, np.inf)
        nearest = np.argsort(apart, axis=1, kind="stable")[:, : min(NEAREST_CLUSTERS, count - 1)]
        pairs = np.stack([np.repeat(np.arange(count), nearest.shape[1]), nearest.ravel()], 1)
        separation = measures.separations(values, assignment, pairs).ratio.reshape(nearest.shape)
        distance = np.linalg.norm(values - centroids[assignment], axis=1) / scale
        found.append(explorer.Clustering(assignment, distance, nearest, separation))
    return found


def reconstructions_of(context: Context, known: dict | None) -> list[explorer.Reconstructions]:
    """What the reconstructions stage made, way by way."""
    if known is None:
        return []
    rows, found = reconstructing.target_rows(context), []
    for name, arm in reconstructing.arms(context).items():
        if f"{name}/images" in known:
            kind = "Control" if name in CONTROLS else "Reconstructed from phi"
            found.append(
                explorer.Reconstructions(
                    f"{kind}: {arm.title}.",
                    levels_of(arm.settings),
                    np.repeat(rows[: arm.targets], arm.samples),
                    known[f"{name}/images"],
                )
            )
    return found


def levels_of(way: reconstruction.Settings) -> str:
    """The noise levels that a reconstruction went through, in words."""
    levels = way.sigmas if isinstance(way, reconstruction.Schedule) else (way.sigma_0, way.sigma_end)
    first, last = (f"{255 * level:.3g}" for level in (levels[0], levels[-1]))
    return f"At one noise level, {first}/255" if len(levels) == 1 else f"Through noise levels from {first} to {last}/255"


def missing_stages(context: Context) -> list[explorer.Missing]:
    """What other stages have not made, and the commands that make it."""
    absent = {what: stage for what, stage in MADE_BY.items() if stage not in context.made}
    why = "The stage {} has not run on these images with these settings."
    return [explorer.Missing(what, why.format(stage), command_for(context, stage)) for what, stage in absent.items()]
