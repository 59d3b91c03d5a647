"""Images from an array on disk."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from unetrep_jax.data.image_set import ImageSet
from unetrep_jax.storage import UNREADABLE, InputError, fingerprint, is_refused

MOST_CLASSES = 1_000_000  # each gets a name


def open_array(
    path: str, labels_path: str = "", *, setting: str, labels_setting: str = "", image_size: int, image_channels: int
) -> ImageSet:
    """Opens a .npy file of images in place: it is mapped, not copied.

    Args:
      path: uint8 [n h w c], or [n h w] for grey, with h = w = `image_size` and c = `image_channels`.
      labels_path: integers [n] from 0 on, or "" without labels; the classes are named by their numbers.
      setting: name of the setting that holds `path`, for messages.
      labels_setting: name of the setting that holds `labels_path`.
      image_size: height and width, in pixels.
      image_channels: 1 or 3.

    Raises:
      InputError: a file is missing, is no .npy file, or has another type or shape.
    """
    images = _map(path, setting)
    needed = f"uint8 [n, {image_size}, {image_size}, {image_channels}]"
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise InputError(f"{setting}={path!r} is {images.dtype} {list(images.shape)}, needed is {needed}.")
    images = images.reshape(*images.shape, 1) if images.ndim == 3 else images
    if images.shape[1:] != (image_size, image_size, image_channels):
        raise InputError(
            f"{setting}={path!r} is uint8 {list(images.shape)}, needed is {needed}: "
            "set data.image_size and data.image_channels to what it holds, or save another array."
        )
    if len(images) == 0:
        raise InputError(f"{setting}={path!r} holds no image: its shape is {list(images.shape)}; save one or more in it.")
    labels = _labels(labels_path, labels_setting, len(images)) if labels_path else None
    class_names = () if labels is None else tuple(str(i) for i in range(int(labels.max()) + 1))
    provenance = {
        "source": "npy",
        "split": "all",
        "from": path,
        "labels_from": labels_path,
        "images": len(images),
        "skipped": {},
    }
    return ImageSet(images, labels, class_names, provenance, _identity(path, labels_path))


def _map(path: str, setting: str) -> np.ndarray:
    try:
        found = np.load(Path(path).expanduser(), mmap_mode="r", allow_pickle=False)
    except (FileNotFoundError, IsADirectoryError) as error:
        raise InputError(f"{setting}={path!r} is not there: give a .npy file.") from error
    except UNREADABLE as error:
        if is_refused(error):  # by the system, which knows no settings
            raise OSError(error.errno, f"{setting}: {error.strerror}", path) from error
        what = "is not a readable .npy array of numbers, or is cut short: save it again, or name another."
        raise InputError(f"{setting}={path!r} {what}") from error
    if not isinstance(found, np.ndarray):
        raise InputError(f"{setting}={path!r} is an archive of arrays (.npz): save the one array of images as a .npy file.")
    return found


def _labels(path: str, setting: str, count: int) -> Int32[np.ndarray, " n"]:
    labels = _map(path, setting)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise InputError(f"{setting}={path!r} is {labels.dtype} {list(labels.shape)}, needed are integers [{count}].")
    for label in (labels.min(), labels.max()):
        if not 0 <= label < MOST_CLASSES:
            raise InputError(f"{setting}={path!r} holds {label}: labels count from 0, and there are at most {MOST_CLASSES:,}.")
    return np.asarray(labels, np.int32)


def _identity(*paths: str) -> str:
    def status(path: str) -> Any:
        value = Path(path).expanduser().stat()
        return [value.st_size, value.st_mtime_ns]

    return fingerprint("npy", [status(path) for path in paths if path])
