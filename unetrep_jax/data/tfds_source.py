"""Images from a data set that TensorFlow Datasets prepared, read without TensorFlow."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from unetrep_jax.data import imagenet_resized
from unetrep_jax.data.image_set import Collection, Decoded, ImageSet, decode_once
from unetrep_jax.data.pixels import decode_file
from unetrep_jax.storage import InputError


def open_tfds(
    name: str,
    split: str,
    *,
    data_dir: str = "",
    zip_dir: str = "",
    may_prepare: bool = True,
    image_size: int,
    image_channels: int,
    cache_dir: str,
    max_unreadable: float,
) -> ImageSet:
    """Opens a TFDS data set that has an image feature and, perhaps, a label.

    The image is the supervised input, or the feature "image", or the only image feature; likewise the label. Images are
    decoded by the rules of `pixels.decode_file`. `imagenet_resized/<size>` is prepared first where it is not yet.

    Args:
      name: as TFDS names it, e.g. "imagenet_resized/64x64", "cifar10", "tiny_imagenet:1.0.0".
      split: as TFDS names it, e.g. "train", "validation", "train[:10%]".
      data_dir: folder of prepared data sets; "" is TFDS's own ($TFDS_DATA_DIR, or ~/tensorflow_datasets).
      zip_dir: folder that holds the zips of `imagenet_resized`; "" downloads them.
      may_prepare: whether `imagenet_resized` may be made (a download of 14 GB) where it is not there yet.
      image_size: height and width, in pixels.
      image_channels: 1 or 3.
      cache_dir: folder for decoded arrays.
      max_unreadable: largest tolerated fraction of records that cannot be used.

    Raises:
      InputError: TFDS is not installed, the data set is not prepared or in a format that needs TensorFlow, it has no
        such split or no image, or too many records cannot be used.
    """
    builder = _builder(name, data_dir, zip_dir, may_prepare)
    image_key, label_key = _features(builder)
    info = _split_info(builder, split)
    source = _data_source(builder, split, image_key)
    class_names = tuple(builder.info.features[label_key].names) if label_key else ()

    def decode(record: dict[str, Any]) -> Decoded:
        label = int(record[label_key]) if label_key else -1
        file = io.BytesIO(record[image_key])
        return decode_file(file, image_size=image_size, image_channels=image_channels, label=label)

    collection = Collection(
        source="tfds",
        where=f"{builder.info.full_name} {split}",
        identity=[builder.info.full_name, split, image_key, label_key, _content(builder)],
        count=info.num_examples,
        fetch=lambda start, stop: source.__getitems__(range(start, stop)),
        decode=decode,
        name=lambda i: f"record {i}",
        class_names=class_names,
        provenance={"from": builder.info.full_name, "split": split, "data_dir": str(builder.data_path)},
    )
    return decode_once(
        collection,
        image_size=image_size,
        image_channels=image_channels,
        cache_dir=cache_dir,
        max_unreadable=max_unreadable,
    )


def default_split(name: str, *, data_dir: str = "", zip_dir: str = "") -> str:
    """The split to analyse when none is named: "validation", or else "test".

    Raises:
      InputError: the data set has neither.
    """
    splits = list(_builder(name, data_dir, zip_dir).info.splits)
    for candidate in ("validation", "test"):
        if candidate in splits:
            return candidate
    raise InputError(f"tfds:{name} has no split 'validation' or 'test', only {', '.join(splits)}: tfds:{name}:SPLIT.")


def require_tfds() -> Any:
    """The module `tensorflow_datasets`.

    Raises:
      InputError: it is not installed.
    """
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise InputError(
            f"data.source=tfds needs the package tensorflow-datasets ({error}): "
            "pip install tensorflow-datasets array_record importlib_resources, or use another data.source."
        ) from error
    return tensorflow_datasets


def _builder(name: str, data_dir: str, zip_dir: str, may_prepare: bool = True) -> Any:
    """The prepared data set's builder; prepares `imagenet_resized` where it is missing."""
    tfds = require_tfds()
    if not name:
        raise InputError("data.name is empty: name a TFDS data set, e.g. imagenet_resized/64x64.")
    folder = str(Path(data_dir).expanduser()) if data_dir else str(tfds.core.constants.DATA_DIR)
    builder = _prepared(name, folder)
    if builder is None and may_prepare and imagenet_resized.covers(name):
        imagenet_resized.prepare(name, data_dir=folder, zip_dir=zip_dir)
        builder = _prepared(name, folder)
    if builder is None:
        raise InputError(
            f"data.name={name!r} is not prepared in {folder}: give the right data.data_dir, or prepare it there once "
            f"with TensorFlow installed: tfds build {name} --file_format=array_record --data_dir={folder}"
        )
    _require_random_access(builder, name)
    return builder


def _prepared(name: str, data_dir: str) -> Any | None:
    from tensorflow_datasets.core import read_only_builder, registered

    try:
        return read_only_builder.builder_from_files(name, data_dir=data_dir)
    except registered.DatasetNotFoundError:
        return None
    except (ValueError, OSError) as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        what = f"cannot be opened by TFDS: {first}; check data.name and data.data_dir"
        raise InputError(f"data.name={name!r} in {data_dir} {what}") from error


def _require_random_access(builder: Any, name: str) -> None:
    formats = sorted(form.value for form in builder.info.available_file_formats())
    if "array_record" in formats:
        return
    ours = " (or an empty data.data_dir, where it is then made without TensorFlow)"
    raise InputError(
        f"{builder.data_path} was prepared as {' and '.join(formats) or 'an unknown format'}, which needs TensorFlow; "
        f"array_record does not. Prepare it again, into another data.data_dir, with TensorFlow installed: "
        f"tfds build {name} --file_format=array_record --data_dir=OTHER{ours if imagenet_resized.covers(name) else ''}"
    )


def _features(builder: Any) -> tuple[str, str | None]:
    """Names of the image feature and of the label feature (None without)."""
    tfds = require_tfds()
    features = dict(builder.info.features)
    preferred = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]
    images = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    labels = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    image = _choose([*preferred, "image"], images)
    if image is None or features[image].np_dtype not in (np.uint8, np.uint16):
        known = ", ".join(features)
        raise InputError(f"{builder.info.full_name} has no single image feature of 8 or 16 bits, only {known}.")
    return image, _choose([*preferred, "label"], labels)


def _choose(preferred: list[str], candidates: list[str]) -> str | None:
    for key in preferred:
        if key in candidates:
            return key
    return candidates[0] if len(candidates) == 1 else None


def _split_info(builder: Any, split: str) -> Any:
    try:
        info = builder.info.splits[split]
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise InputError(f"{builder.info.full_name} has no split {split!r}: it has {known}.") from error
    if info.num_examples == 0:
        raise InputError(f"{builder.info.full_name}, split {split!r}, holds no record; name another split.")
    return info


def _data_source(builder: Any, split: str, image_key: str) -> Any:
    """Random access to the records, the image left as the bytes of its file: how those become pixels is our rule."""
    tfds = require_tfds()
    return builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})


def _content(builder: Any) -> list[list[Any]]:
    """Names and sizes of the record files: a data set that was prepared anew, with another content, differs here."""
    files = sorted(Path(builder.data_path).glob("*.array_record*"))
    return [[file.name, file.stat().st_size] for file in files]
