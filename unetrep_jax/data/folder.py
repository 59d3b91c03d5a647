"""Images from a folder of image files."""

import collections
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from unetrep_jax.data.image_set import Collection, Decoded, ImageSet, decode_once
from unetrep_jax.data.pixels import SUFFIXES, decode_file
from unetrep_jax.storage import InputError


class _File(NamedTuple):
    name: str  # relative to the folder, with "/"
    size: int  # bytes
    modified: int  # ns


def open_folder(
    path: str,
    *,
    setting: str,
    image_size: int,
    image_channels: int,
    cache_dir: str,
    max_unreadable: float,
    part: Literal["all", "train", "validation"] = "all",
    validation_fraction: float = 0.05,
) -> ImageSet:
    """Opens every image file (JPEG, PNG, WebP, BMP, GIF, TIFF) below a folder, in the order of their relative paths.

    Where all images lie in folders of the first level, those folders, sorted by name, are the classes. Hidden files and
    folders are passed over; links are followed. Other files are ignored and counted in the provenance.

    Args:
      path: the folder.
      setting: name of the setting that holds `path`, for messages.
      image_size: height and width, in pixels.
      image_channels: 1 or 3.
      cache_dir: folder for decoded arrays.
      max_unreadable: largest tolerated fraction of files that cannot be used.
      part: "all" files, or one side of a split by file: "validation" is the fraction `validation_fraction` (at least
        one) whose relative paths have the smallest sha256, "train" is the rest. A file that is added moves few
        others.
      validation_fraction: between 0 and 1.

    Raises:
      InputError: no such folder, no image in it, nothing left for one side of the split, or too many unusable files.
    """
    root = Path(path).expanduser()
    files, ignored = _list_files(root, setting)
    chosen = _part(files, part, validation_fraction, setting)
    class_names = _class_names(files, root)
    classes = {name: i for i, name in enumerate(class_names)}

    def decode(file: _File) -> Decoded:
        label = classes[file.name.split("/")[0]] if classes else -1
        return decode_file(root / file.name, image_size=image_size, image_channels=image_channels, label=label)

    images = Collection(
        source="folder",
        where=str(root),
        identity=[chosen, class_names],
        count=len(chosen),
        fetch=lambda start, stop: chosen[start:stop],
        decode=decode,
        name=lambda i: chosen[i].name,
        class_names=class_names,
        provenance={"from": str(root), "split": part, "files": len(chosen), "ignored_files": ignored},
        of_files=True,
    )
    return decode_once(
        images, image_size=image_size, image_channels=image_channels, cache_dir=cache_dir, max_unreadable=max_unreadable
    )


def _list_files(root: Path, setting: str) -> tuple[list[_File], dict[str, int]]:
    """Image files below a folder, sorted, and how many others there are by ending."""
    if not root.is_dir():
        kind = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{setting}={str(root)!r} {kind}: give a folder of image files.")
    files, ignored = [], collections.Counter()
    for entry, name in _walk(root, "", frozenset()):
        suffix = os.path.splitext(name)[1].lower()
        if suffix in SUFFIXES:
            status = entry.stat()
            files.append(_File(name, status.st_size, status.st_mtime_ns))
        else:
            ignored[suffix or "no ending"] += 1
    if not files:
        found = ", ".join(f"{count} {suffix}" for suffix, count in ignored.most_common(5)) or "no files"
        raise InputError(f"{setting}={str(root)!r} holds no image ({' '.join(sorted(SUFFIXES))}), but {found}; name another.")
    return sorted(files), dict(ignored)


def _walk(folder: Path, prefix: str, above: frozenset[str]) -> Iterator[tuple[os.DirEntry, str]]:
    """Files below a folder with their relative paths; `above` are the folders on the way here, so that links end."""
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                yield from _walk(Path(entry.path), f"{prefix}{entry.name}/", above | {here})
            elif entry.is_file():
                yield entry, prefix + entry.name


def _part(files: Sequence[_File], part: str, validation_fraction: float, setting: str) -> list[_File]:
    if part == "all":
        return list(files)
    if not 0 < validation_fraction < 1:
        raise InputError(f"data.validation_fraction={validation_fraction:g} is not between 0 and 1.")
    if len(files) < 2:
        raise InputError(f"{setting}: one image cannot be split in two: name another folder by data.validation_path.")
    count = min(max(1, round(validation_fraction * len(files))), len(files) - 1)
    by_hash = sorted(files, key=lambda file: hashlib.sha256(os.fsencode(file.name)).digest())
    return sorted(by_hash[:count] if part == "validation" else by_hash[count:])


def _class_names(files: Sequence[_File], root: Path) -> tuple[str, ...]:
    loose = sum("/" not in file.name for file in files)
    if 0 < loose < len(files):
        print(
            f"{root}: {loose} of {len(files)} images lie outside its folders, so there are no labels", file=sys.stderr
        )
    return () if loose else tuple(sorted({file.name.split("/")[0] for file in files}))
