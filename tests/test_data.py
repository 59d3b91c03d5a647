import errno
import os
import re
import signal
import subprocess
import sys
import threading
from collections import namedtuple

import numpy as np
import pytest
from PIL import Image

from unetrep_jax import data
from unetrep_jax.data import folder, image_set, photographs
from unetrep_jax.storage import InputError, RowWriter

SIZE = 16


@pytest.fixture
def settings(tmp_path):
    return {"image_size": SIZE, "image_channels": 3, "cache_dir": str(tmp_path / "cache")}


def write_images(root, count, size=SIZE):
    """PNG files <root>/<i>.png of noise; returns their pixels in the order of names."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
    root.mkdir(parents=True, exist_ok=True)
    for i in range(count):
        Image.fromarray(pixels[i]).save(root / f"{i:03d}.png")
    return pixels


def test_an_unknown_source_is_refused_with_the_nearest_name():
    with pytest.raises(
        InputError, match=r"data.source='foldr'.*did you mean 'folder'\?.*tfds, folder, npy, photographs"
    ):
        data.load("train", source="foldr")


@pytest.mark.parametrize(("size", "near"), [(60, "56 or 64"), (5, "use 8"), (0, "use 8"), (-8, "use 8")])
def test_an_image_size_that_the_network_cannot_halve_is_refused_with_its_neighbours(size, near):
    with pytest.raises(InputError, match=f"data.image_size={size} .*8.*{near}"):
        data.load("train", image_size=size, stride=8)


def test_channels_other_than_one_and_three_are_refused():
    with pytest.raises(InputError, match=r"data.image_channels=4"):
        data.load("train", image_channels=4)


def test_only_training_and_validation_can_be_loaded():
    with pytest.raises(ValueError, match="'test'"):
        data.load("test")


@pytest.mark.parametrize("source", ["folder", "npy"])
def test_a_source_that_needs_a_path_says_so(source, settings):
    with pytest.raises(InputError, match=r"data.train_path is empty"):
        data.load("train", source=source, **settings)


def test_an_array_needs_its_own_validation_file(tmp_path, settings):
    with pytest.raises(InputError, match=r"data.validation_path is empty"):
        data.load("validation", source="npy", train_path=str(tmp_path), **settings)


@pytest.mark.parametrize("spec", ["nowhere", "photograph", "tfds:", "array.npz"])
def test_images_that_are_nothing_known_are_refused(spec, settings):
    with pytest.raises(InputError, match=f"--images='{spec}' is neither"):
        data.open_images(spec, **settings)


def test_images_open_from_a_folder_an_array_and_the_photographs(tmp_path, settings):
    pixels = write_images(tmp_path / "files", 3)
    np.save(tmp_path / "array.npy", pixels)
    assert np.array_equal(data.open_images(str(tmp_path / "files"), **settings).images, pixels)
    assert np.array_equal(data.open_images(str(tmp_path / "array.npy"), **settings).images, pixels)
    assert len(data.open_images("photographs", crops=5, **settings).images) == 5


# --- decoding once ---


def test_a_decoded_set_is_a_read_only_memory_map_that_opens_again_without_decoding(tmp_path, settings, monkeypatch):
    pixels = write_images(tmp_path / "files", 3)
    first = data.open_images(str(tmp_path / "files"), **settings)
    monkeypatch.setattr(folder, "decode_file", None)
    again = data.open_images(str(tmp_path / "files"), **settings)
    assert isinstance(again.images, np.memmap) and not again.images.flags.writeable
    assert np.array_equal(again.images, pixels)
    assert first.fingerprint == again.fingerprint and first.provenance == again.provenance


def test_a_changed_file_changes_the_fingerprint_and_the_images(tmp_path, settings):
    write_images(tmp_path / "files", 3)
    before = data.open_images(str(tmp_path / "files"), **settings)
    Image.new("RGB", (SIZE, SIZE), "red").save(tmp_path / "files" / "001.png")
    after = data.open_images(str(tmp_path / "files"), **settings)
    assert before.fingerprint != after.fingerprint
    assert (after.images[1] == [255, 0, 0]).all()


def test_every_setting_that_determines_the_pixels_changes_the_fingerprint(tmp_path, settings):
    write_images(tmp_path / "files", 3, size=2 * SIZE)
    spec = str(tmp_path / "files")
    sets = [
        data.open_images(spec, **{**settings, **change}) for change in ({}, {"image_size": 8}, {"image_channels": 1})
    ]
    assert len({one.fingerprint for one in sets}) == 3
    assert [one.images.shape[1:] for one in sets] == [(16, 16, 3), (8, 8, 3), (16, 16, 1)]


KILLED = """
import functools, os, signal, sys
from unetrep_jax import data
from unetrep_jax.data import folder, image_set
image_set.RECORDS_AT_ONCE = 4
image_set.RowWriter = functools.partial(image_set.RowWriter, seconds=0.0)
decode, decoded = folder.decode_file, []
def until_killed(path, **settings):
    if path.name == "021.png":
        os.kill(os.getpid(), signal.SIGKILL)
    return decode(path, **settings)
folder.decode_file = until_killed
data.open_images(sys.argv[1], image_size=16, image_channels=3, cache_dir=sys.argv[2])
"""


def test_a_decoding_killed_half_way_goes_on_to_the_identical_array(tmp_path, settings, monkeypatch):
    pixels = write_images(tmp_path / "files", 40)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "files"), settings["cache_dir"]]
    assert subprocess.run(command).returncode == -signal.SIGKILL
    decode, decoded = folder.decode_file, []
    monkeypatch.setattr(folder, "decode_file", lambda path, **s: decoded.append(path.name) or decode(path, **s))
    images = data.open_images(str(tmp_path / "files"), **settings).images
    assert np.array_equal(images, pixels)
    assert sorted(decoded) == [f"{i:03d}.png" for i in range(20, 40)]
    assert [path for path in os.listdir(settings["cache_dir"]) if not path.endswith(".lock")] == [
        path for path in os.listdir(settings["cache_dir"]) if path.startswith("folder-")
    ]


def test_a_decoding_that_raises_goes_on_to_the_identical_array(tmp_path, settings, monkeypatch):
    pixels = write_images(tmp_path / "files", 40)
    monkeypatch.setattr(image_set, "RECORDS_AT_ONCE", 4)
    decode = folder.decode_file
    monkeypatch.setattr(folder, "decode_file", lambda path, **s: decode(path, **s) if path.name < "021" else 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.open_images(str(tmp_path / "files"), **settings)
    monkeypatch.setattr(folder, "decode_file", decode)
    assert np.array_equal(data.open_images(str(tmp_path / "files"), **settings).images, pixels)


@pytest.mark.parametrize("moment", ["data.image_set._assemble", "storage.folders.put_in_place"])
def test_a_kill_between_the_last_row_and_the_publication_loses_nothing(tmp_path, settings, monkeypatch, moment):
    pixels = write_images(tmp_path / "files", 5)
    monkeypatch.setattr(f"unetrep_jax.{moment}", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        data.open_images(str(tmp_path / "files"), **settings)
    monkeypatch.undo()
    monkeypatch.setattr(folder, "decode_file", None)
    assert np.array_equal(data.open_images(str(tmp_path / "files"), **settings).images, pixels)


def test_what_is_left_of_rows_after_the_images_were_published_goes_when_they_are_next_opened(tmp_path, settings):
    write_images(tmp_path / "files", 5)
    data.open_images(str(tmp_path / "files"), **settings)
    published = set(os.listdir(settings["cache_dir"]))
    (folder_of,) = (name for name in published if name.startswith("folder-"))
    records = tmp_path / "cache" / f".{folder_of}.records"
    records.mkdir()
    (records / "images.npy").write_bytes(bytes(100))  # a kill, half-way through their removal
    data.open_images(str(tmp_path / "files"), **settings)
    assert set(os.listdir(settings["cache_dir"])) == published


class FullDisk(RowWriter):
    def append(self, **arrays):
        if self.rows_done:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().append(**arrays)


def test_a_full_disk_gives_one_line_and_publishes_nothing(tmp_path, settings, monkeypatch):
    pixels = write_images(tmp_path / "files", 12)
    monkeypatch.setattr(image_set, "RECORDS_AT_ONCE", 4)
    with monkeypatch.context() as patch:
        patch.setattr(image_set, "RowWriter", FullDisk)
        with pytest.raises(InputError, match=r"No space left in .*data.cache_dir"):
            data.open_images(str(tmp_path / "files"), **settings)
    assert not [name for name in os.listdir(settings["cache_dir"]) if name.startswith("folder-")]
    assert np.array_equal(data.open_images(str(tmp_path / "files"), **settings).images, pixels)


def test_too_small_a_disk_is_refused_before_decoding(tmp_path, settings, monkeypatch):
    write_images(tmp_path / "files", 3)
    monkeypatch.setattr(image_set.shutil, "disk_usage", lambda _: namedtuple("usage", "free")(1000))
    with pytest.raises(InputError, match=r"need 0.00 GB in .*data.cache_dir"):
        data.open_images(str(tmp_path / "files"), **settings)


def test_two_who_open_at_once_decode_once(tmp_path, settings, monkeypatch):
    write_images(tmp_path / "files", 20)
    decode, decoded, opened = folder.decode_file, [], []
    monkeypatch.setattr(folder, "decode_file", lambda path, **s: decoded.append(path) or decode(path, **s))
    opener = lambda: opened.append(data.open_images(str(tmp_path / "files"), **settings))  # noqa: E731
    threads = [threading.Thread(target=opener) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(decoded) == 20
    assert np.array_equal(opened[0].images, opened[1].images)


# --- arrays ---


@pytest.fixture
def array(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
    np.save(tmp_path / "images.npy", pixels)
    return tmp_path / "images.npy", pixels


def load_array(settings, path, labels=""):
    return data.load("train", source="npy", train_path=str(path), train_labels=str(labels), **settings)


def test_an_array_is_mapped_in_place(array, tmp_path, settings):
    path, pixels = array
    np.save(tmp_path / "labels.npy", np.array([0, 2, 1, 0, 0, 2]))
    images = load_array(settings, path, tmp_path / "labels.npy")
    assert isinstance(images.images, np.memmap) and images.images.filename == path
    assert np.array_equal(images.images, pixels)
    assert images.labels.dtype == np.int32 and images.labels.tolist() == [0, 2, 1, 0, 0, 2]
    assert images.class_names == ("0", "1", "2")
    assert not (tmp_path / "cache").exists()


def test_what_the_system_says_of_an_array_is_said_with_the_setting(array, settings):
    with pytest.raises(OSError, match=r"data\.train_labels: File name too long: '\({300}'"):
        load_array(settings, array[0], 300 * "(")


def test_a_grey_array_may_leave_out_its_channel(tmp_path, settings):
    pixels = np.arange(2 * SIZE * SIZE, dtype=np.uint8).reshape(2, SIZE, SIZE)
    np.save(tmp_path / "grey.npy", pixels)
    images = load_array({**settings, "image_channels": 1}, tmp_path / "grey.npy").images
    assert isinstance(images, np.memmap) and np.array_equal(images[..., 0], pixels)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((4, SIZE, SIZE, 3), np.float32), r"is float32 \[4, 16, 16, 3\], needed is uint8 \[n, 16, 16, 3\]"),
        (np.zeros((4, 3), np.uint8), r"is uint8 \[4, 3\]"),
        (np.zeros((4, 32, 32, 3), np.uint8), r"uint8 \[4, 32, 32, 3\].*data.image_size"),
        (np.zeros((4, SIZE, SIZE), np.uint8), r"uint8 \[4, 16, 16, 1\].*data.image_channels"),
        (np.zeros((4, 3, SIZE, SIZE), np.uint8), r"uint8 \[4, 3, 16, 16\]"),
        (np.zeros((0, SIZE, SIZE, 3), np.uint8), "holds no image"),
    ],
)
def test_an_array_of_the_wrong_type_or_shape_is_refused(wrong, message, tmp_path, settings):
    np.save(tmp_path / "wrong.npy", wrong)
    with pytest.raises(InputError, match="data.train_path=.*" + message):
        load_array(settings, tmp_path / "wrong.npy")


@pytest.mark.parametrize(
    "shape", ["(-1, 4, 4, 3)", "(99999999999999999999, 4, 4, 3)", "(True, 4, 4, 3)", "((6, 4, 4, 3)", "(6, 4, 4, '3')"]
)
def test_an_array_with_a_damaged_header_is_refused(array, tmp_path, settings, shape):
    content = array[0].read_bytes()
    header = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    (tmp_path / "damaged.npy").write_bytes(content[:10] + header + content[128:])
    with pytest.raises(InputError, match=r"train_path=.*not a readable .npy"):
        load_array(settings, tmp_path / "damaged.npy")


def test_an_archive_of_arrays_is_refused(array, tmp_path, settings):
    np.savez(tmp_path / "images.npz", array[1])
    with pytest.raises(InputError, match=r"train_path=.*archive of arrays"):
        load_array(settings, tmp_path / "images.npz")


@pytest.mark.parametrize("label", [-1, 1_000_000, 2**40, np.iinfo(np.uint64).max])
def test_labels_that_cannot_be_classes_are_refused(array, tmp_path, settings, label):
    np.save(tmp_path / "labels.npy", np.array([0, 2, 1, 0, 0, label], np.uint64 if label > 2**62 else np.int64))
    with pytest.raises(InputError, match=rf"train_labels=.*holds {label}: labels count from 0"):
        load_array(settings, array[0], tmp_path / "labels.npy")


def test_an_object_in_an_array_of_images_is_never_unpickled(tmp_path, settings):
    class Planted:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    np.save(tmp_path / "images.npy", np.array([Planted()], object))
    with pytest.raises(InputError, match=r"train_path=.*not a readable .npy"):
        load_array(settings, tmp_path / "images.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros(5, np.int64), r"is int64 \[5\], needed are integers \[6\]"),
        (np.zeros(6), "is float64"),
        (np.array([0, 1, -1, 0, 0, 0]), "holds -1: labels count from 0"),
    ],
)
def test_labels_of_the_wrong_type_or_length_are_refused(labels, message, array, tmp_path, settings):
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(InputError, match="data.train_labels=.*" + message):
        load_array(settings, array[0], tmp_path / "labels.npy")


def test_an_array_that_is_missing_cut_short_or_of_objects_is_refused(array, tmp_path, settings):
    path, _ = array
    with pytest.raises(InputError, match=r"nothing.npy' is not there"):
        load_array(settings, tmp_path / "nothing.npy")
    with pytest.raises(InputError, match="is not there"):
        load_array(settings, tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cut short"):
        load_array(settings, path)
    np.save(tmp_path / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a readable .npy"):
        load_array(settings, tmp_path / "objects.npy")


def test_a_changed_array_changes_the_fingerprint(array, settings):
    path, pixels = array
    before = load_array(settings, path).fingerprint
    assert before == load_array(settings, path).fingerprint
    np.save(path, pixels + 1)
    os.utime(path, ns=(0, 0))
    assert before != load_array(settings, path).fingerprint


# --- photographs ---


def load_photographs(split, settings, **changes):
    return data.load(split, source="photographs", **{**settings, "train_crops": 100, "validation_crops": 40, **changes})


def original(name):
    return np.asarray(Image.open(photographs._paths(name)[0]).convert("RGB"))


def test_no_photograph_is_on_both_sides_of_the_split(settings):
    train, validation = (load_photographs(split, settings) for split in ("train", "validation"))
    names = [{images.class_names[i] for i in images.labels} for images in (train, validation)]
    assert names == [{"astronaut", "china", "flower", "motorcycle", "rocket"}, {"chelsea", "coffee"}]
    assert [len(images.images) for images in (train, validation)] == [100, 40]
    assert train.class_names == validation.class_names


def test_every_photograph_gives_the_same_number_of_crops(settings):
    train = load_photographs("train", settings)
    assert set(np.bincount(train.labels)[np.unique(train.labels)]) == {20}


def test_a_crop_at_full_scale_is_a_piece_of_its_photograph(settings):
    images = load_photographs("validation", settings)
    picture = original("chelsea")
    windows = np.lib.stride_tricks.sliding_window_view(picture, (SIZE, SIZE, 3))[:, :, 0]
    crops = images.images[images.labels == images.class_names.index("chelsea")]
    for crop in crops[::4]:  # scales take turns, full scale first
        rows, columns = np.nonzero((picture[: 1 - SIZE, : 1 - SIZE] == crop[0, 0]).all(-1))
        assert any(np.array_equal(windows[row, column], crop) for row, column in zip(rows, columns, strict=True))


def test_crops_are_the_same_every_time_and_differ_from_each_other(settings, tmp_path):
    first = load_photographs("train", settings)
    second = load_photographs("train", {**settings, "cache_dir": str(tmp_path / "other")})
    assert np.array_equal(first.images, second.images) and first.fingerprint == second.fingerprint
    assert len(np.unique(first.images.reshape(100, -1), axis=0)) > 95  # black space repeats itself


def test_a_reduced_photograph_keeps_its_mean_and_loses_its_finest_detail(settings):
    picture = photographs._open(photographs._paths("motorcycle")[0], 3)
    whole, half = np.asarray(picture, float), photographs._reduce(picture, 0.5).astype(float)
    assert half.shape == (250, 370, 3)
    assert np.allclose(whole.mean((0, 1)), half.mean((0, 1)), atol=1)
    decimated = whole[::2, ::2]
    assert np.abs(np.diff(half, axis=1)).mean() < 0.95 * np.abs(np.diff(decimated, axis=1)).mean()


def test_both_views_of_the_stereo_pair_are_used_under_one_label(settings):
    plan = photographs._plan({"motorcycle": [Image.new("RGB", (741, 500))] * 2}, 64, SIZE, 0)
    assert {crop.view for crop in plan} == {0, 1}
    counts = np.unique([(crop.view, crop.scale) for crop in plan], axis=0, return_counts=True)[1]
    assert counts.tolist() == [8] * 8


def test_photographs_can_be_grey(settings):
    grey = load_photographs("validation", {**settings, "image_channels": 1}).images[0, ..., 0]
    colour = load_photographs("validation", settings).images[0]
    assert np.abs(colour @ np.array([0.299, 0.587, 0.114]) - grey).max() <= 0.51


def test_crops_larger_than_a_photograph_and_no_crops_are_refused(settings):
    with pytest.raises(InputError, match=r"data.image_size=304 is larger than the photograph 'chelsea' \(451x300\)"):
        load_photographs("validation", {**settings, "image_size": 304})
    with pytest.raises(InputError, match=r"data.train_crops=0"):
        load_photographs("train", settings, train_crops=0)


def test_a_package_without_the_photographs_is_named(settings, monkeypatch):
    monkeypatch.setitem(photographs.PHOTOGRAPHS, "chelsea", ("skimage", ("data/dog.png",)))
    with pytest.raises(InputError, match=re.escape("'chelsea' is not in the installed scikit-image (data/dog.png)")):
        load_photographs("validation", settings)
