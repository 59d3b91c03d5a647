"""Images: files and arrays that a generator spoils, read as a folder of images and as arrays of training images."""

import json
import os
import random
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from faults import children, pictures
from faults.attack import Attack, Impossible, require, require_ended_well
from faults.preparation import Preparation
from faults.scene import Scene

FATE = "read as its pixels say, or refused by name with a reason; never anything else"
COUNTED = "each file is read, or named among those left out; the message says how many"
REFUSED = "refused with one line that names the file and what is needed"
LABELS = ("too few", "too many", "negative", "fractions", "two columns", "huge", "words", "NaN")
USES = ("train", "validation", "--images")
FORM = {"image_size": pictures.SIZE, "image_channels": 1, "stride": 2}
NOBODY = 65534  # no user of the machine
ROOM = 64 << 20  # bytes of addresses that reading one of these small files may take beyond those that the process has
AT_ONCE = 10  # of a kind in one attack: a fork each would take longer than reading them


def attacks(scene: Scene) -> Iterator[Attack]:
    """Each kind of file and of array."""
    for make in pictures.FILES:
        for number in range(scene.many(3, 19)):
            name = f"{make.__name__} {number}"
            yield Attack("image files", FATE, name, lambda chance, make=make: one_file(scene, make, chance))
    for number in range(scene.many(1, 10)):
        yield Attack("folders of them", COUNTED, f"folder {number}", lambda chance: many_files(scene, chance))
    for kind in pictures.ARRAYS:
        yield Attack("arrays of images", REFUSED, kind, lambda chance, kind=kind: one_array(scene, kind, chance))
    for kind in LABELS:
        yield Attack("labels", REFUSED, kind, lambda chance, kind=kind: labels(scene, kind, chance))
    for use in USES:
        yield Attack("paths that are too long", REFUSED, use, lambda chance, use=use: too_long(scene, use, chance))
    yield Attack("image files", FATE, "no permission", lambda chance: no_permission(scene, chance))


def one_file(scene: Scene, make, chance: random.Random) -> None:
    """Read in a fork, with little memory: a file that takes more, or ends the process, fails this attack alone."""
    made = make(chance)
    path = scene.clear() / made.name
    path.write_bytes(made.content)

    def read() -> list | None:
        from unetrep_jax.data.image_set import Unreadable
        from unetrep_jax.data.pixels import decode_file

        limit_memory(ROOM)
        try:
            pixels = decode_file(path, image_size=pictures.SIZE, image_channels=1).pixels
        except Unreadable as error:
            return [str(error)]
        except MemoryError:
            return None
        return ["", str(pixels.dtype), list(pixels.shape), pixels[..., 0].astype(int).tolist()]

    answer = children.call(read)
    require(answer is not None, f"takes more than {ROOM >> 20} MiB")
    refused, *found = answer
    if not found:
        require(made.fate != "kept", f"refused: {refused}")
        require(len(refused) > 5 and len(refused.splitlines()) == 1, f"not one line: {refused!r}")
        return
    require(made.fate != "refused", "read")
    require(found[:2] == ["uint8", [pictures.SIZE, pictures.SIZE, 1]], f"read as {found[:2]}")
    expected = (made.pixels, 0) if made.pixels is not None else children.call(lambda: as_lists(pictures.plainly(path)))
    if expected:
        wrong = np.abs(np.subtract(found[2], expected[0])).max()
        require(wrong <= expected[1], f"{path.name}: read with other pixels, by up to {wrong}")


def as_lists(expected: tuple[np.ndarray, int] | None) -> list | None:
    """For JSON."""
    return expected and [expected[0].astype(int).tolist(), expected[1]]


def limit_memory(room: int) -> None:
    """From now on this process can have so many bytes of addresses more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room,) * 2)


def many_files(scene: Scene, chance: random.Random) -> None:
    """A folder of one file of each kind, through the cache."""
    folder = children.fresh(scene.folder / "spoilt")
    made = [make(chance) for make in pictures.FILES]
    for number, one in enumerate(made):
        (folder / f"{number}-{one.name}").write_bytes(one.content)
    scene.clear()
    result = Preparation(scene, folder).start(max_unreadable=1.0).wait()
    require_ended_well(result)
    found = json.loads(result.out)
    names = {f"{number}-{one.name}": one.fate for number, one in enumerate(made)}
    require(found["images"] + len(found["skipped"]) == len(made), f"{found} of {len(made)}")
    require(set(found["skipped"]) <= set(names), f"unknown names: {found['skipped']}")
    wrong = [name for name, fate in names.items() if (fate == "kept") * (name in found["skipped"])]
    wrong += [name for name, fate in names.items() if (fate == "refused") * (name not in found["skipped"])]
    require(not wrong, f"wrongly read or left out: {wrong}")
    require(f"{len(found['skipped'])} of {len(made)} images were left out" in result.err, result.err[-600:])
    scene.clear()
    refused = Preparation(scene, folder).start().wait()
    require(refused.code == 2 and "cannot be used" in refused.err, f"code {refused.code}: {refused.err[-600:]}")


def opened(use: str, path: Path | str, labels: Path | str = "") -> Any:
    """The images in an array, or the refusal of it, as the scripts get them: to train, to validate, to analyse (`--images`)."""
    from unetrep_jax import data
    from unetrep_jax.storage import InputError

    try:
        if use == "--images":
            return data.open_images(str(path), **FORM)
        return data.load(use, source="npy", **{f"{use}_path": str(path), f"{use}_labels": str(labels)}, **FORM)
    except (InputError, OSError) as error:
        return str(error)


def require_refused(found: Any, path: Path | str) -> None:
    """In one line that names it."""
    require(isinstance(found, str), f"not refused: {path}")
    require(str(path) in found and len(found.splitlines()) == 1, f"not refused with its name: {found[:600]!r}")


def one_array(scene: Scene, kind: str, chance: random.Random) -> None:
    """In each use of arrays; what opens in spite of a byte that is another must hold what numpy reads."""
    path = scene.clear() / "images.npy"
    for _ in range(AT_ONCE):
        pictures.bad_array(kind, chance, path)
        for use in USES:
            found = opened(use, path)
            if kind == "a damaged header" and not isinstance(found, str):
                expected = np.load(path).reshape(-1, pictures.SIZE, pictures.SIZE, 1)
                require(found.images.dtype == expected.dtype == np.uint8, f"{expected.dtype} read as {found.images.dtype}")
                require(np.array_equal(found.images, expected), "read with other pixels")
            else:
                require_refused(found, path)


def too_long(scene: Scene, use: str, chance: random.Random) -> None:
    """A path beyond what systems take, as a whole or in one name: of an array, and of a folder."""
    for path in ("x/" * 3000 + "images.npy", "x" * 300 + ".npy", "x" * 300):
        require_refused(opened(use, path), path)


def no_permission(scene: Scene, chance: random.Random) -> None:
    """A picture that the reader may not open; root may open all, and is somebody else meanwhile."""
    readable, secret = (scene.clear() / name for name in ("readable.png", "secret.png"))
    for path in (readable, secret):
        path.write_bytes(pictures.good(chance).content)
    secret.chmod(0)

    def read() -> list[str]:
        from unetrep_jax.data.image_set import Unreadable
        from unetrep_jax.data.pixels import decode_file

        said, user = [], os.geteuid()
        os.seteuid(user or NOBODY)
        for path in (readable, secret):
            try:
                decode_file(path, image_size=pictures.SIZE, image_channels=1)
                said.append("")
            except Unreadable as error:
                said.append(str(error))
        os.seteuid(user)  # who may write the answer
        return said

    said = children.call(read)
    if said[0]:
        raise Impossible(f"another user cannot reach the campaign's folder: {said[0]}")
    require("permission" in said[1].lower(), f"not refused as what may not be opened: {said[1]!r}")


def labels(scene: Scene, kind: str, chance: random.Random) -> None:
    """Beside 64 images that nothing is wrong with, and beside those to validate."""
    path = scene.clear() / "labels.npy"
    for use in ("train", "validation"):
        images = scene.place.folder / f"{use}.npy"
        whole = np.arange(len(np.load(images))) % 3  # holds a 0, so that less by 1 is negative
        spoilt = {
            "too few": whole[:-1], "too many": np.append(whole, 0), "negative": whole - 1, "fractions": whole + 0.5,
            "two columns": np.stack([whole, whole], 1), "huge": whole + 2**40, "words": whole.astype(str), "NaN": whole * np.nan,
        }  # fmt: skip
        np.save(path, spoilt[kind])
        require_refused(opened(use, images, path), path)
