"""Writes the page's folder."""

import functools
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax.explorer.collection import Channels, Clustering, Collection, Fires, TopImages, check
from unetrep_jax.explorer.pieces import CHANNELS_PER_PIECE, IMAGES_PER_PIECE, in_steps, slices, version_of, write_piece
from unetrep_jax.explorer.sheets import QUALITY, write_sheets

STATIC = Path(__file__).parent / "static"
SMALL_TILE = 40  # pixels of the longer side of the pictures in strips and on the map from afar
LINKED = 8  # channels of a cluster, and clusters of a channel, that the page links to
Put = Callable[[str, Any], None]  # writes the piece of that name


def write(folder: Path | str, collection: Collection) -> None:
    """Writes `index.html` and all that it needs into a folder.

    About 4.5 kB an image of 64x64 for its two pictures, and 5.3 bytes for each of its k channels; see docs/explorer.md.

    Args:
      folder: a new or empty one.
      collection: what is shown.

    Raises:
      InputError: arrays that do not fit together.
    """
    check(collection)
    folder = Path(folder)
    data = folder / "data"
    data.mkdir(parents=True, exist_ok=True)
    # Browsers keep files: code and pieces of an older page must not be taken for this one's.
    version = version_of([collection, *(file.read_bytes() for file in _static_files())])
    _copy_static(folder, version)
    put = functools.partial(write_piece, data, version=version)
    sheets = {"images": write_sheets(folder / "images", collection.images)._asdict()}
    if max(sheets["images"]["tile"]) > SMALL_TILE:
        sheets["small"] = write_sheets(folder / "small", collection.images, SMALL_TILE)._asdict()
    overview = _overview(collection) | {"sheets": sheets, "quality": QUALITY}
    _write_phi(put, collection.phi)
    _write_channels(put, collection.channels)
    for number, positions in enumerate(collection.layouts.values()):
        put(f"layout-{number}", np.asarray(positions, np.float32))
    for number, index in enumerate(collection.neighbours.values()):
        put(f"neighbours-{number}", np.asarray(index, np.int32))
    for number, clustering in enumerate(collection.clusterings):
        put(f"clusters-{number}", _clustering(clustering, collection.phi))
    _write_images(put, collection)
    if collection.top is not None:
        overview["top"] = _write_top(put, collection.top)
    if collection.fires is not None:
        overview["fires"] = _write_fires(put, collection.fires)
    if collection.reconstructions:
        made, pictures = _reconstructions(collection.reconstructions)
        overview["sheets"]["reconstructions"] = write_sheets(folder / "reconstructions", pictures)._asdict()
        overview["reconstructions"] = made
    put("overview", overview)


def _static_files() -> list[Path]:
    return sorted(file for file in STATIC.iterdir() if file.is_file())


def _copy_static(folder: Path, version: str) -> None:
    """Copies the page's own files; index.html asks for the others by addresses that name the version."""
    for file in _static_files():
        shutil.copyfile(file, folder / file.name)
    index = folder / "index.html"
    text = re.sub(r'(src|href)="(\w+\.(?:js|css))"', rf'\1="\2?v={version}"', index.read_text(encoding="utf-8"))
    index.write_text(text, encoding="utf-8")


def _overview(collection: Collection) -> dict[str, Any]:
    """What the page needs before anything else, and small things."""
    return {
        "title": collection.title,
        "checkpoint": collection.checkpoint,
        "level": collection.level,
        "facts": {name: str(fact) for name, fact in collection.facts.items()},
        "images": len(collection.images),
        "imageSize": list(collection.images.shape[1:3]),
        "named": bool(collection.names),
        "labelled": collection.labels is not None,
        "labels": [] if collection.labels is None else np.unique(collection.labels).tolist(),
        "classNames": list(collection.class_names),
        "channels": collection.phi.shape[1],
        "sigmas": [float(sigma) for sigma in collection.sigmas],
        "working": int(collection.working),
        "imagesPerPiece": IMAGES_PER_PIECE,
        "channelsPerPiece": CHANNELS_PER_PIECE,
        "layouts": list(collection.layouts),
        "neighbours": list(collection.neighbours),
        "clusterings": [len(clustering.nearest) for clustering in collection.clusterings],
        "missing": [of._asdict() for of in collection.missing],
    }


def _write_phi(put: Put, phi: np.ndarray) -> None:
    """phi by images and by channels, in 65,535 steps from each channel's lowest value to its highest."""
    steps = in_steps(np.asarray(phi, np.float32), "uint16")
    mean, deviation = _mean_and_deviation(phi)
    scale = {"low": steps.low, "step": steps.step, "mean": _float(mean), "deviation": _float(deviation)}
    put("phi-scale", scale)
    for number, some in slices(len(phi), IMAGES_PER_PIECE):
        put(f"phi-images-{number}", steps.numbers[some])
    for number, some in slices(phi.shape[1], CHANNELS_PER_PIECE):
        put(f"phi-channels-{number}", np.ascontiguousarray(steps.numbers[:, some].T))


def _mean_and_deviation(phi: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Over images, of each channel; a channel that is the same for all has no deviation, whatever rounding makes of it."""
    return phi.mean(0, dtype=np.float64), np.where(np.ptp(phi, axis=0) > 0, phi.std(0, dtype=np.float64), 0)


def _float(values: np.ndarray) -> np.ndarray:
    return np.asarray(values, np.float32)


def _write_channels(put: Put, channels: Channels) -> None:
    piece: dict[str, Any] = {
        "numbers": {name: _float(of) for name, of in channels.numbers.items()},
        "groups": {name: np.asarray(of, np.uint8) for name, of in channels.groups.items()},
        "levelMeans": _float(channels.level_means),
        "levelCorrelations": _float(channels.level_correlations),
        "companions": np.asarray(channels.companions, np.int32),
        "companionCorrelations": _float(channels.companion_correlations),
        "threshold": None if channels.threshold is None else _float(channels.threshold),
    }
    put("channels", piece)


def _write_images(put: Put, collection: Collection) -> None:
    """What is known of the images: numbers and labels, and names apart."""
    labels = None if collection.labels is None else np.asarray(collection.labels, np.int32)
    numbers = {name: _float(of) for name, of in collection.image_numbers.items()}
    put("images", {"labels": labels, "numbers": numbers})
    if collection.names:
        put("names", list(map(str, collection.names)))


def _clustering(clustering: Clustering, phi: np.ndarray) -> Mapping[str, np.ndarray]:
    excess = _excess(clustering, phi)
    channels = np.argsort(-excess, axis=1, kind="stable")[:, :LINKED]
    clusters = np.argsort(-excess.T, axis=1, kind="stable")[:, :LINKED]
    return {
        "channels": np.asarray(channels, np.int32),
        "channelExcess": _float(np.take_along_axis(excess, channels, axis=1)),
        "clustersOf": np.asarray(clusters, np.int32),
        "clusterExcess": _float(np.take_along_axis(excess.T, clusters, axis=1)),
        "assignment": np.asarray(clustering.assignment, np.int32),
        "distance": _float(clustering.distance),
        "nearest": np.asarray(clustering.nearest, np.int32),
        "separation": _float(clustering.separation),
    }


def _excess(clustering: Clustering, phi: np.ndarray) -> np.ndarray:
    """Mean phi of each cluster's images less that of all, in deviations over images [K k]; 0 where that says nothing."""
    count = len(clustering.nearest)
    sums, sizes = np.zeros((count, phi.shape[1])), np.bincount(clustering.assignment, minlength=count)[:, None]
    np.add.at(sums, clustering.assignment, phi)
    mean, deviation = _mean_and_deviation(phi)
    excess = sums / np.maximum(sizes, 1) - mean
    return np.divide(excess, deviation, out=np.zeros_like(excess), where=(sizes > 0) & (deviation > 0))


def _write_top(put: Put, top: TopImages) -> dict[str, Any]:
    channels, count, height, width = top.maps.shape
    maps, largest = _maps_in_steps(top.maps)
    for number, some in slices(channels, CHANNELS_PER_PIECE):
        piece = {"index": np.asarray(top.index[some], np.int32), "maps": maps[some], "largest": largest[some]}
        put(f"top-{number}", piece)
    return {"count": count, "map": [height, width]}


def _maps_in_steps(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(maps [a b y x] in 255 steps from 0 to the largest activation of each, that activation [a b])."""
    a, b, height, width = maps.shape
    steps = in_steps(np.asarray(maps, np.float32).reshape(a * b, height * width).T, "uint8", low=np.zeros(a * b))
    return np.ascontiguousarray(steps.numbers.T).reshape(maps.shape), (steps.step * 255).reshape(a, b)


def _write_fires(put: Put, fires: Fires) -> dict[str, Any]:
    images, count, height, width = fires.maps.shape
    maps, largest = _maps_in_steps(fires.maps)
    for number, some in slices(images, IMAGES_PER_PIECE):
        piece = {"channels": np.asarray(fires.channels[some], np.int32), "deviations": _float(fires.deviations[some])}
        put(f"fires-{number}", piece | {"maps": maps[some], "largest": largest[some]})
    return {"what": fires.what, "count": count, "map": [height, width]}


def _reconstructions(ways: Any) -> tuple[list[dict[str, Any]], np.ndarray]:
    """(the ways, each with the images that were reconstructed and where the results lie on the sheets; all results)."""
    made, pictures, first = [], [], 0
    for way in ways:
        made.append({"title": way.title, "levels": way.levels, "targets": np.asarray(way.targets, np.int32), "first": first})
        pictures.append(np.rint(255 * np.clip(np.nan_to_num(way.images), 0, 1)).astype(np.uint8))
        first += len(way.targets)
    return made, np.concatenate(pictures)
