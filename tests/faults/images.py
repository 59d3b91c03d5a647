"""Images: files and arrays that a generator spoils, read as a folder of images and as arrays of training images."""

import json
import random
from collections.abc import Iterator

import numpy as np

from faults import children, pictures
from faults.attack import Attack, require, require_ended_well
from faults.preparation import Preparation
from faults.scene import Scene

FATE = "read as its pixels say, or refused by name with a reason; never anything else"
COUNTED = "each file is read, or named among those left out; the message says how many"
REFUSED = "refused with one line that names the file and what is needed"
LABELS = ("too few", "too many", "negative", "fractions", "two columns", "huge", "words", "NaN")
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


def one_file(scene: Scene, make, chance: random.Random) -> None:
    """Read in a fork: a file that takes all memory, or ends the process, fails this attack alone."""
    made = make(chance)
    path = scene.clear() / made.name
    path.write_bytes(made.content)

    def read() -> list:
        from unetrep_jax.data.image_set import Unreadable
        from unetrep_jax.data.pixels import decode_file

        try:
            pixels = decode_file(path, image_size=pictures.SIZE, image_channels=1).pixels
        except Unreadable as error:
            return [str(error)]
        return ["", str(pixels.dtype), list(pixels.shape), pixels.tolist()]

    refused, *found = children.call(read)
    if not found:
        require(made.fate != "kept", f"refused: {refused}")
        require(len(refused) > 5 and len(refused.splitlines()) == 1, f"not one line: {refused!r}")
        return
    require(made.fate != "refused", "read")
    require(found[:2] == ["uint8", [pictures.SIZE, pictures.SIZE, 1]], f"read as {found[:2]}")
    if made.pixels is not None:
        require(np.array_equal(np.array(found[2])[..., 0], made.pixels), f"{path.name}: read with other pixels")


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


def refusal(call) -> str:
    """What a call refuses with; "" where it does not."""
    from unetrep_jax.storage import InputError

    try:
        call()
    except InputError as error:
        return str(error)
    return ""


def one_array(scene: Scene, kind: str, chance: random.Random) -> None:
    """As training images."""
    from unetrep_jax import data

    path = scene.clear() / "images.npy"
    for _ in range(AT_ONCE):
        pictures.bad_array(kind, chance, path)
        form = {"image_size": pictures.SIZE, "image_channels": 1, "stride": 2}
        said = refusal(lambda: data.load("train", source="npy", train_path=str(path), **form))  # noqa: B023
        if kind == "a damaged header" and not said:
            continue  # blanks and the like
        require(str(path) in said and len(said.splitlines()) == 1, f"not refused with its name: {said!r}")


def labels(scene: Scene, kind: str, chance: random.Random) -> None:
    """Beside 64 images that nothing is wrong with."""
    from unetrep_jax import data

    path = scene.clear() / "labels.npy"
    whole = np.array([chance.randrange(3) for _ in range(64)])
    spoilt = {
        "too few": whole[:-1], "too many": np.append(whole, 0), "negative": whole - 1, "fractions": whole + 0.5,
        "two columns": np.stack([whole, whole], 1), "huge": whole + 2**40, "words": whole.astype(str), "NaN": whole * np.nan,
    }  # fmt: skip
    np.save(path, spoilt[kind])
    form = {
        "image_size": pictures.SIZE,
        "image_channels": 1,
        "stride": 2,
        "train_path": str(scene.place.folder / "train.npy"),
    }
    said = refusal(lambda: data.load("train", source="npy", train_labels=str(path), **form))
    require(str(path) in said and len(said.splitlines()) == 1, f"not refused with its name: {said!r}")
