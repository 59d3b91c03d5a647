"""The table of sources by name, and two ways to open one: for training (`load`), for analysis (`open_images`)."""

import difflib
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from unetrep_jax.data.arrays import open_array
from unetrep_jax.data.folder import open_folder
from unetrep_jax.data.image_set import ImageSet
from unetrep_jax.data.photographs import open_photographs
from unetrep_jax.data.tfds_source import default_split, open_tfds
from unetrep_jax.storage import InputError

Split = Literal["train", "validation"]
_TFDS = re.compile(r"tfds:(?P<name>[^:]+(:[\d*]+(\.[\d*]+){2})?)(:(?P<split>.+))?")


def load(
    split: str,
    *,
    source: str = "photographs",
    image_size: int = 64,
    image_channels: int = 3,
    cache_dir: str = "~/.cache/unetrep_jax",
    stride: int = 8,
    max_unreadable: float = 0.01,
    name: str = "",
    data_dir: str = "",
    zip_dir: str = "",
    train_split: str = "train",
    validation_split: str = "validation",
    train_path: str = "",
    validation_path: str = "",
    validation_fraction: float = 0.05,
    train_labels: str = "",
    validation_labels: str = "",
    train_crops: int = 8192,
    validation_crops: int = 512,
    may_prepare: bool = True,
) -> ImageSet:
    """Opens the training or the validation images of a source. A source ignores the settings of the others.

    Args:
      split: "train" or "validation".
      source: "tfds", "folder", "npy" or "photographs" (see `SOURCES`).
      image_size: height and width, in pixels; a multiple of `stride`.
      image_channels: 3 (RGB) or 1 (luma).
      cache_dir: folder for decoded arrays; `~` is the home folder.
      stride: total downsampling of the network, 2 to the number of its poolings.
      max_unreadable: tfds, folder: largest tolerated fraction of images that cannot be used, 0..1.
      name: tfds: name of the data set, e.g. "imagenet_resized/64x64".
      data_dir: tfds: folder of prepared data sets; "" is TFDS's own.
      zip_dir: tfds, imagenet_resized: folder that holds its zips; "" downloads them.
      train_split: tfds: training split, e.g. "train" or "train[:90%]".
      validation_split: tfds: validation split.
      train_path: folder, npy: training folder, or .npy file of uint8 [n h w c].
      validation_path: folder, npy: the same for validation; for a folder, "" holds out `validation_fraction` of the
        files of `train_path`.
      validation_fraction: folder: fraction of the files to hold out (by a hash of their paths), between 0 and 1.
      train_labels: npy: .npy file of integers [n], or "".
      validation_labels: npy: the same for validation.
      train_crops: photographs: number of training crops.
      validation_crops: photographs: number of validation crops.
      may_prepare: tfds: whether a missing imagenet_resized may be downloaded and prepared.

    Raises:
      InputError: a setting cannot be used; the message names it.
      ValueError: `split` is neither "train" nor "validation".
    """
    if split not in ("train", "validation"):
        raise ValueError(f"load opens 'train' or 'validation', got {split!r}")
    _check_shape(image_size, image_channels, stride)
    if source not in SOURCES:
        raise InputError(f"data.source={source!r} is unknown{_nearest(source)}: it is one of {', '.join(SOURCES)}.")
    training = split == "train"
    form = {"image_size": image_size, "image_channels": image_channels}
    return SOURCES[source](
        split=split,
        form=form,
        decoding={**form, "cache_dir": cache_dir, "max_unreadable": max_unreadable},
        name=name,
        named_split=train_split if training else validation_split,
        prepared={"data_dir": data_dir, "zip_dir": zip_dir, "may_prepare": may_prepare},
        path=train_path if training else validation_path,
        whole_path=train_path,
        validation_path=validation_path,
        validation_fraction=validation_fraction,
        labels_path=train_labels if training else validation_labels,
        crops=train_crops if training else validation_crops,
    )


def open_images(
    spec: str,
    *,
    image_size: int,
    image_channels: int,
    cache_dir: str = "~/.cache/unetrep_jax",
    stride: int = 8,
    max_unreadable: float = 0.01,
    data_dir: str = "",
    zip_dir: str = "",
    crops: int = 512,
) -> ImageSet:
    """Opens images named in one word, as on a command line.

    Args:
      spec: a folder of image files; a .npy file of uint8 [n h w c]; "photographs" (crops of the held-out ones); or
        "tfds:NAME" or "tfds:NAME:SPLIT" (without a split, "validation", or else "test").
      image_size: height and width, in pixels; a multiple of `stride`.
      image_channels: 3 (RGB) or 1 (luma).
      cache_dir: folder for decoded arrays.
      stride: total downsampling of the network.
      max_unreadable: largest tolerated fraction of images that cannot be used.
      data_dir: folder of prepared TFDS data sets; "" is TFDS's own.
      zip_dir: folder that holds the zips of imagenet_resized.
      crops: number of crops of the photographs.

    Raises:
      InputError: nothing of that kind is there, or it cannot be used.
    """
    _check_shape(image_size, image_channels, stride)
    form = {"image_size": image_size, "image_channels": image_channels}
    decoding = {**form, "cache_dir": cache_dir, "max_unreadable": max_unreadable}
    if spec == "photographs":
        return open_photographs("validation", crops=crops, cache_dir=cache_dir, **form)
    if match := _TFDS.fullmatch(spec):
        prepared = {"data_dir": data_dir, "zip_dir": zip_dir}
        split = match["split"] or default_split(match["name"], **prepared)
        return open_tfds(match["name"], split, **prepared, **decoding)
    path = Path(spec).expanduser()
    if path.is_dir():
        return open_folder(spec, setting="--images", **decoding)
    if path.suffix == ".npy":
        return open_array(spec, setting="--images", **form)
    raise InputError(
        f"--images={spec!r} is neither a folder, nor a .npy file, nor 'photographs', nor 'tfds:NAME[:SPLIT]'"
        f"{_nearest(spec, ['photographs', 'tfds:'])}."
    )


def _check_shape(image_size: int, image_channels: int, stride: int) -> None:
    if image_channels not in (1, 3):
        raise InputError(f"data.image_channels={image_channels}: use 3 (colour) or 1 (grey).")
    if image_size < 1 or image_size % stride:
        below = image_size // stride * stride
        near = f"{below} or {below + stride}" if below > 0 else f"{stride}"
        raise InputError(
            f"data.image_size={image_size} is not divisible by {stride}, the network's stride: use {near}."
        )


def _nearest(word: str, known: list[str] | None = None) -> str:
    near = difflib.get_close_matches(word, list(SOURCES) if known is None else known, n=1, cutoff=0.4)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _tfds(
    *, name: str, named_split: str, prepared: Mapping[str, str], decoding: Mapping[str, Any], **_: Any
) -> ImageSet:
    return open_tfds(name, named_split, **prepared, **decoding)


def _folder(
    *,
    split: str,
    path: str,
    whole_path: str,
    validation_path: str,
    validation_fraction: float,
    decoding: Mapping[str, Any],
    **_: Any,
) -> ImageSet:
    if validation_path and path:
        return open_folder(path, setting=f"data.{split}_path", **decoding)
    return open_folder(
        _given(whole_path, "data.train_path", "a folder of image files"),
        setting="data.train_path",
        part=split,
        validation_fraction=validation_fraction,
        **decoding,
    )


def _npy(*, split: Split, path: str, labels_path: str, form: Mapping[str, Any], **_: Any) -> ImageSet:
    return open_array(
        _given(path, f"data.{split}_path", "a .npy file of uint8 [n h w c]"),
        labels_path,
        setting=f"data.{split}_path",
        labels_setting=f"data.{split}_labels",
        **form,
    )


def _photographs(
    *, split: Split, crops: int, form: Mapping[str, Any], decoding: Mapping[str, Any], **_: Any
) -> ImageSet:
    return open_photographs(split, crops=crops, cache_dir=decoding["cache_dir"], **form)


def _given(value: str, setting: str, what: str) -> str:
    if not value:
        raise InputError(f"{setting} is empty: this data.source needs {what} there.")
    return value


SOURCES: dict[str, Callable[..., ImageSet]] = {
    "tfds": _tfds,
    "folder": _folder,
    "npy": _npy,
    "photographs": _photographs,
}
