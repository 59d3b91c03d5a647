"""`ImageSet`, the form in which images reach the rest of the package, and how it is decoded once."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from unetrep_jax.storage import (
    COMPLETE,
    InputError,
    Progress,
    RowWriter,
    fingerprint,
    is_complete,
    lock,
    one_line_when_full,
    read_json,
    replacing,
    write_json,
)

DECODING = 1  # part of every cache key: raise it when the rules that turn a record into pixels change
RECORDS_AT_ONCE = 256
ROWS_AT_ONCE = 4096

PLAIN, FIRST_FRAME, SKIPPED = range(3)


class ImageSet(NamedTuple):
    """Images of one size, ready to be read in any order.

    Attributes:
      images: uint8 [n h w c], a read-only memory map; intensities 0..255, c = 1 (luma) or 3 (RGB).
      labels: class of each image, int32 [n], an index into `class_names`; None where there are no classes.
      class_names: name of each class; () where there are none.
      provenance: JSON-like: the source, where it came from, counts, which records were skipped and why.
      fingerprint: identifies the content: another source, split, size or changed file gives another one.
      names: file of each image, relative to the folder; () where the images are not files of their own.
    """

    images: UInt8[np.ndarray, "n h w c"]
    labels: Int32[np.ndarray, " n"] | None
    class_names: tuple[str, ...]
    provenance: dict[str, Any]
    fingerprint: str
    names: tuple[str, ...] = ()


class Unreadable(Exception):
    """A record cannot be turned into an image; the text is the reason."""


class Decoded(NamedTuple):
    """One record as pixels.

    Attributes:
      pixels: uint8 [h w c].
      label: class, or -1.
      several_frames: the record holds an animation or several pages, of which this is the first.
    """

    pixels: UInt8[np.ndarray, "h w c"]
    label: int = -1
    several_frames: bool = False


class Collection(NamedTuple):
    """Records that a source offers, before they are decoded.

    Attributes:
      source: the source's name; begins the name of the cache folder.
      where: what the records came from, for messages.
      identity: JSON-like: everything that determines the records, in their order.
      count: number of records.
      fetch: (start, stop) -> those records, undecoded.
      decode: record -> Decoded; called from several threads; raises `Unreadable`.
      name: position -> what a person calls that record.
      class_names: name of each class, () without classes.
      provenance: JSON-like facts to keep with the images.
      of_files: whether the records are files, whose names are of use beside the images.
    """

    source: str
    where: str
    identity: Any
    count: int
    fetch: Callable[[int, int], Sequence[Any]]
    decode: Callable[[Any], Decoded]
    name: Callable[[int], str]
    class_names: tuple[str, ...]
    provenance: dict[str, Any]
    of_files: bool = False


def decode_once(
    collection: Collection, *, image_size: int, image_channels: int, cache_dir: str, max_unreadable: float
) -> ImageSet:
    """Opens a collection as an `ImageSet`; the first time, decodes it into `cache_dir`.

    The cache folder's name comes from everything that determines its content. It appears under that name only when it
    is whole; a killed process goes on where it was, and a second process waits for the first.

    Args:
      collection: the records.
      image_size: height and width, in pixels.
      image_channels: 1 or 3.
      cache_dir: folder for decoded arrays; `~` is the home folder.
      max_unreadable: largest tolerated fraction of records that cannot be used.

    Raises:
      InputError: too many records cannot be used, or the disk is full.
    """
    key = fingerprint(DECODING, collection.source, collection.identity, image_size, image_channels)
    folder = Path(cache_dir).expanduser() / f"{collection.source}-{image_size}x{image_size}x{image_channels}-{key}"
    records = folder.with_name(f".{folder.name}.records")
    if not is_complete(folder, key) or records.exists():
        with one_line_when_full(folder.parent, "data.cache_dir"), lock(folder.with_name(f".{folder.name}.lock")):
            if not is_complete(folder, key):
                _decode(collection, records, key, (image_size, image_size, image_channels), max_unreadable)
                _assemble(collection, records, folder, key, max_unreadable)
            shutil.rmtree(records, ignore_errors=True)  # of which nothing is needed any more
    image_set = _open(folder, collection, key)
    skipped = image_set.provenance["skipped"]
    if skipped and len(skipped) > max_unreadable * collection.count:
        raise _too_many(
            collection, len(skipped), [f"{name}: {reason}" for name, reason in skipped.items()], max_unreadable
        )
    return image_set


def _decode(collection: Collection, folder: Path, key: str, shape: tuple[int, int, int], max_unreadable: float) -> None:
    """Writes one row for each record, a skipped record's being zero, so that a killed process knows where to go on."""
    if (folder / "images.npy").exists() and is_complete(folder, key):
        return
    _require_space(collection.count * int(np.prod(shape)), folder)
    layout = {"images": (shape, np.uint8), "labels": ((), np.int32), "status": ((), np.uint8)}
    writer = RowWriter(folder, key, collection.count, layout)
    try:
        _append_all(writer, collection, shape, max_unreadable)
        writer.finish()
    except BaseException:
        with suppress(OSError):  # on a full disk there is nothing more to save
            writer.close()
        raise


def _append_all(writer: RowWriter, collection: Collection, shape: tuple[int, int, int], max_unreadable: float) -> None:
    refused: list[str] = []
    label = f"decoding {collection.where}"
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        Progress(label, collection.count, done=writer.rows_done) as progress,
    ):
        for start in range(writer.rows_done, collection.count, RECORDS_AT_ONCE):
            stop = min(start + RECORDS_AT_ONCE, collection.count)
            outcomes = list(pool.map(_attempt(collection), collection.fetch(start, stop)))
            refused += [
                f"{collection.name(start + i)}: {outcome}"
                for i, outcome in enumerate(outcomes)
                if isinstance(outcome, Unreadable)
            ]
            if len(refused) > max_unreadable * collection.count:
                raise _too_many(collection, len(refused), refused, max_unreadable)
            writer.append(**_rows(outcomes, shape))
            progress.advance(stop - start)


def _attempt(collection: Collection) -> Callable[[Any], Decoded | Unreadable]:
    def attempt(record: Any) -> Decoded | Unreadable:
        try:
            return collection.decode(record)
        except Unreadable as error:
            return error

    return attempt


def _rows(outcomes: Sequence[Decoded | Unreadable], shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    empty = Decoded(np.zeros(shape, np.uint8))
    decoded = [empty if isinstance(outcome, Unreadable) else outcome for outcome in outcomes]
    status = [
        SKIPPED if isinstance(outcome, Unreadable) else FIRST_FRAME if outcome.several_frames else PLAIN
        for outcome in outcomes
    ]
    return {
        "images": np.stack([one.pixels for one in decoded]),
        "labels": np.array([one.label for one in decoded], np.int32),
        "status": np.array(status, np.uint8),
    }


def _too_many(collection: Collection, count: int, reasons: Sequence[str], max_unreadable: float) -> InputError:
    return InputError(
        f"{collection.where}: {count} of {collection.count} images cannot be used ({_first(reasons)}), more than "
        f"data.max_unreadable={max_unreadable:g} of them: repair or remove them, or raise it."
    )


def _first(reasons: Sequence[str], count: int = 3) -> str:
    more = f"; and {len(reasons) - count} more" if len(reasons) > count else ""
    return "; ".join(reasons[:count]) + more


def _require_space(size: int, folder: Path) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial")
    written = sum(path.stat().st_size for path in partial.glob("*.npy"))
    free = shutil.disk_usage(folder.parent).free
    if free < size - written:
        raise InputError(
            f"The decoded images need {size / 1e9:.2f} GB in {folder.parent}, {free / 1e9:.2f} GB are free: "
            "free some, or name another folder with data.cache_dir."
        )


def _assemble(collection: Collection, records: Path, folder: Path, key: str, max_unreadable: float) -> None:
    """Publishes the rows that hold images, their labels and their provenance as the finished cache folder."""
    status, labels = np.load(records / "status.npy"), np.load(records / "labels.npy")
    kept = np.flatnonzero(status != SKIPPED)
    skipped = {collection.name(i): _reason(collection, i) for i in np.flatnonzero(status == SKIPPED).tolist()}
    reasons = [f"{name}: {reason}" for name, reason in skipped.items()]
    if len(skipped) > max_unreadable * collection.count:  # of records that another process decoded, and bore more of
        raise _too_many(collection, len(skipped), reasons, max_unreadable)
    if len(kept) == 0:
        raise InputError(f"{collection.where}: none of its {collection.count} images can be used; give others.")
    if skipped:
        text = f"{len(skipped)} of {collection.count} images were left out ({_first(reasons)})"
        print(f"{collection.where}: {text}", file=sys.stderr)
    checksums = {} if skipped else read_json(records / COMPLETE)["sha256"]
    with replacing(folder, key, {name: checksums[name] for name in checksums if name == "images.npy"}) as partial:
        if skipped:
            _copy_rows(np.load(records / "images.npy", mmap_mode="r"), kept, partial / "images.npy")
        else:
            _give_another_name(records / "images.npy", partial / "images.npy")
        if collection.class_names:
            np.save(partial / "labels.npy", labels[kept])
        counts = {"images": len(kept), "first_frame_of_several": int(np.sum(status == FIRST_FRAME)), "skipped": skipped}
        write_json(partial / "provenance.json", {"source": collection.source, **collection.provenance, **counts})


def _reason(collection: Collection, position: int) -> str:
    """Why a record was skipped, found by trying again: the process that first met it may have been killed since."""
    outcome = _attempt(collection)(collection.fetch(position, position + 1)[0])
    return str(outcome) if isinstance(outcome, Unreadable) else "could not be read"


def _give_another_name(path: Path, other: Path) -> None:
    """Beside its own, from which a process goes on that was killed before the images are published; or else instead."""
    try:
        os.link(path, other)
    except OSError:
        os.replace(path, other)


def _copy_rows(images: UInt8[np.ndarray, "n h w c"], rows: Integer[np.ndarray, " m"], path: Path) -> None:
    # Written as a file, not through a memory map: on a full disk a map kills the process, a file says so.
    header = {"descr": images.dtype.str, "fortran_order": False, "shape": (len(rows), *images.shape[1:])}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_2_0(file, header)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            file.write(np.ascontiguousarray(images[rows[start : start + ROWS_AT_ONCE]]).data)


def _open(folder: Path, collection: Collection, key: str) -> ImageSet:
    labels = np.load(folder / "labels.npy") if collection.class_names else None
    images = np.load(folder / "images.npy", mmap_mode="r")
    provenance = read_json(folder / "provenance.json")
    names = map(collection.name, range(collection.count)) if collection.of_files else ()
    kept = tuple(name for name in names if name not in provenance["skipped"])
    return ImageSet(images, labels, collection.class_names, provenance, key, kept)
