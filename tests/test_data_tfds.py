import errno
import hashlib
import http.server
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core import shuffle

from unetrep_jax import data
from unetrep_jax.data import imagenet_resized
from unetrep_jax.storage import InputError

SIZE = 16
PIXELS = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), dtype=np.uint8)


def build(root, features, records, supervised_keys=None):
    """Prepares the data set `tiny` 1.0.0 with splits train and validation (the first three) in array_record format."""
    with tfds.core.registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.0.0")

            def _info(self):
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features), supervised_keys=supervised_keys
                )

            def _split_generators(self, dl_manager):
                return {"train": iter(enumerate(records)), "validation": iter(enumerate(records[:3]))}

            def _generate_examples(self):
                """The base class asks for it; never called, for the splits bring their records themselves."""

    Tiny(data_dir=str(root)).download_and_prepare(
        file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
    )
    return str(root)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    features = {
        "id": tfds.features.Text(),
        "image": tfds.features.Image(shape=(None, None, 3)),
        "label": tfds.features.ClassLabel(names=["cat", "dog"]),
    }
    records = [{"id": str(i), "image": Image.fromarray(PIXELS[i]), "label": i % 2} for i in range(len(PIXELS))]
    return build(tmp_path_factory.mktemp("tiny"), features, records, ("image", "label"))


@pytest.fixture
def settings(tmp_path):
    return {"image_size": SIZE, "image_channels": 3, "cache_dir": str(tmp_path / "cache")}


def load(split, root, settings, name="tiny", **more):
    return data.load(split, source="tfds", name=name, data_dir=str(root), **settings, **more)


def test_a_prepared_data_set_is_read_in_its_own_order_without_tensorflow(tiny, settings):
    source = tfds.data_source("tiny", data_dir=tiny, split="train")
    images = load("train", tiny, settings)
    assert np.array_equal(images.images, np.stack([record["image"] for record in source]))
    assert images.labels.tolist() == [record["label"] for record in source]
    assert images.class_names == ("cat", "dog") and images.provenance["from"] == "tiny/1.0.0"
    assert {image.tobytes() for image in images.images} == {image.tobytes() for image in PIXELS}
    assert "tensorflow" not in sys.modules


def test_parts_of_splits_can_be_named(tiny, settings):
    whole = load("train", tiny, settings)
    part = load("train", tiny, settings, train_split="train[:25%]")
    assert np.array_equal(part.images, whole.images[:3]) and part.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("spec", "count"),
    [("tfds:tiny", 3), ("tfds:tiny:train", 12), ("tfds:tiny:1.0.0", 3), ("tfds:tiny:1.0.0:train[:50%]", 6)],
)
def test_images_of_a_data_set_are_named_in_one_word(spec, count, tiny, settings):
    assert len(data.open_images(spec, data_dir=tiny, **settings).images) == count


def test_a_data_set_is_resized_and_turned_grey_like_files(tiny, settings):
    images = load("validation", tiny, {**settings, "image_size": 8, "image_channels": 1})
    first = next(iter(tfds.data_source("tiny", data_dir=tiny, split="validation")))["image"]
    expected = Image.fromarray(first).convert("L").resize((8, 8), Image.Resampling.LANCZOS)
    assert np.array_equal(images.images[0, ..., 0], np.asarray(expected))


def test_a_data_set_of_smaller_images_is_refused(tiny, settings):
    with pytest.raises(InputError, match=r"tiny/1.0.0 train: .*16x16 pixels, smaller than data.image_size=24"):
        load("train", tiny, {**settings, "image_size": 24})


def test_images_without_labels_are_an_image_set_without_labels(tmp_path, settings):
    features = {"picture": tfds.features.Image(shape=(SIZE, SIZE, 3))}
    build(tmp_path, features, [{"picture": Image.fromarray(image)} for image in PIXELS])
    images = load("train", tmp_path, settings)
    assert images.labels is None and len(images.images) == 12


def test_a_data_set_without_images_is_refused(tmp_path, settings):
    build(tmp_path, {"text": tfds.features.Text()}, [{"text": "a"}] * 3)
    with pytest.raises(InputError, match=r"tiny/1.0.0 has no single image feature of 8 or 16 bits, only text"):
        load("train", tmp_path, settings)


def test_an_unknown_split_is_refused_with_those_that_there_are(tiny, settings):
    for split in ("test", "test[:10%]", "train[:"):
        with pytest.raises(InputError, match=r"tiny/1.0.0 has no split .*: it has train, validation"):
            load("train", tiny, settings, train_split=split)


def test_a_data_set_that_is_not_prepared_is_refused_with_the_command(tmp_path, settings):
    with pytest.raises(
        InputError, match=r"data.name='nothing' is not prepared in .*tfds build nothing --file_format=array"
    ):
        load("train", tmp_path, settings, name="nothing")
    with pytest.raises(InputError, match=r"data.name is empty"):
        load("train", tmp_path, settings, name="")


def test_tfrecord_is_refused_with_the_remedy(tiny, tmp_path, settings):
    shutil.copytree(tiny, tmp_path / "tfrecord")
    info = tmp_path / "tfrecord" / "tiny" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    for file in info.parent.glob("*.array_record-*"):
        file.rename(str(file).replace("array_record", "tfrecord"))
    with pytest.raises(InputError, match=r"prepared as tfrecord, which needs TensorFlow.*--file_format=array_record"):
        load("train", tmp_path / "tfrecord", settings)


def test_without_tfds_the_packages_to_install_are_named(settings, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match="pip install tensorflow-datasets"):
        load("train", "anywhere", settings)


def test_data_opens_where_tfds_and_grain_are_not_installed(settings):
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['tensorflow_datasets', 'grain', 'array_record']));"
        "from unetrep_jax import data;"
        f"print(len(data.load('validation', image_size=16, cache_dir={settings['cache_dir']!r}).images))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "512\n"


# --- imagenet_resized ---


def write_zips(folder, size, counts=(7, 5)):
    """Zips like image-net.org's, tiny; returns split -> records in the order of the stock builder, read off independently."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(size)
    keyed = {"train": [], "validation": []}
    for split, names in imagenet_resized.zip_names(size).items():
        for part, name in enumerate(names):
            with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as archive:
                for batch, count in enumerate(counts):
                    member = f"{split}_data_batch_{2 * part + batch + 1}.npz"
                    pixels = generator.integers(0, 256, (count, 3 * size * size), dtype=np.uint8)
                    labels = generator.integers(1, 1001, count)
                    content = io.BytesIO()
                    np.savez(content, data=pixels, labels=labels, mean=np.zeros(3))
                    archive.writestr(member, content.getvalue())
                    for i in range(count):
                        image = np.stack(
                            [pixels[i].reshape(3, size * size)[c].reshape(size, size) for c in range(3)], -1
                        )
                        order = hashlib.md5(f"{split}{member}{i}".encode()).digest()
                        keyed[split].append((order, image, int(labels[i]) - 1))
    return {split: sorted(records, key=lambda record: record[0]) for split, records in keyed.items()}


def same_records(root, size, expected):
    for split, records in expected.items():
        source = tfds.data_source(f"imagenet_resized/{size}x{size}", data_dir=str(root), split=split)
        assert len(source) == len(records)
        for found, (_, image, label) in zip(source, records, strict=True):
            assert np.array_equal(found["image"], image) and found["label"] == label
    return True


@pytest.mark.parametrize("size", [8, 64])
def test_imagenet_is_prepared_from_zips_record_for_record(size, tmp_path, settings):
    expected = write_zips(tmp_path / "zips", size)
    name, zips = f"imagenet_resized/{size}x{size}", str(tmp_path / "zips")
    images = load("train", tmp_path / "tfds", {**settings, "image_size": size}, name=name, zip_dir=zips)
    assert np.array_equal(images.images, np.stack([image for _, image, _ in expected["train"]]))
    assert images.labels.tolist() == [label for *_, label in expected["train"]]
    assert len(images.class_names) == 1000 and images.class_names[0] == "n02119789"
    assert same_records(tmp_path / "tfds", size, expected)
    assert "tensorflow" not in sys.modules


def test_what_is_prepared_describes_itself_like_the_stock_builder(tmp_path):
    write_zips(tmp_path / "zips", 8)
    path = imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(tmp_path), zip_dir=str(tmp_path / "zips"))
    stock = tfds.builder("imagenet_resized/8x8", data_dir=str(tmp_path))
    assert path == tmp_path / "imagenet_resized" / "8x8" / "0.1.0" == Path(stock.data_path)
    info = json.loads((path / "dataset_info.json").read_text())
    assert (info["name"], info["configName"], info["version"]) == ("imagenet_resized", "8x8", "0.1.0")
    assert info["moduleName"] == "tensorflow_datasets.datasets.imagenet_resized.imagenet_resized_dataset_builder"
    assert [split["name"] for split in info["splits"]] == ["train", "validation"]
    assert type(stock).__name__ == "Builder" and not hasattr(stock, "zips")  # ours was not registered in its place


def test_more_than_fits_in_memory_is_shuffled_through_files_to_the_same_records(tmp_path, monkeypatch):
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setattr(imagenet_resized, "_BUFFER", 300)
    expected = write_zips(tmp_path / "zips", 8, counts=(1500, 40))
    path = imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(tmp_path), zip_dir=str(tmp_path / "zips"))
    assert same_records(tmp_path, 8, expected)
    assert not list(path.glob("*bucket*")) and shuffle._Bucket is not imagenet_resized._PlainBucket


def test_zips_that_are_missing_or_damaged_are_named(tmp_path):
    prepare = lambda: imagenet_resized.prepare(  # noqa: E731
        "imagenet_resized/64x64", data_dir=str(tmp_path / "tfds"), zip_dir=str(tmp_path / "zips")
    )
    write_zips(tmp_path / "zips", 64)
    damaged = tmp_path / "zips" / "Imagenet64_train_part2_npz.zip"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(InputError, match=r"Imagenet64_train_part2_npz.zip.*get it again from https://image-net.org"):
        prepare()
    damaged.unlink()
    with pytest.raises(InputError, match=r"data.zip_dir=.* lacks Imagenet64_train_part2_npz.zip: put it there"):
        prepare()
    assert not list((tmp_path / "tfds").rglob("*array_record*"))


def test_a_disk_that_fills_while_preparing_gives_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    write_zips(tmp_path / "zips", 8)
    monkeypatch.setattr(shuffle, "MAX_MEM_BUFFER_SIZE", 1000)
    monkeypatch.setattr(imagenet_resized._PlainBucket, "add", full)
    with pytest.raises(InputError, match=r"No space left in .*data.data_dir"):
        imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(tmp_path), zip_dir=str(tmp_path / "zips"))
    assert os.listdir(tmp_path / "imagenet_resized" / "8x8") == []


def test_only_the_four_sizes_are_prepared(tmp_path):
    with pytest.raises(InputError, match=r"'imagenet_resized/48x48' cannot be prepared"):
        imagenet_resized.prepare("imagenet_resized/48x48", data_dir=str(tmp_path))


KILLED = """
import os, signal, sys
from unetrep_jax.data import imagenet_resized
members = imagenet_resized._members
def until_killed(paths):
    for i, member in enumerate(members(paths)):
        if i == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        yield member
imagenet_resized._members = until_killed
imagenet_resized.prepare("imagenet_resized/8x8", data_dir=sys.argv[1], zip_dir=sys.argv[2])
"""


def test_a_preparation_that_was_killed_is_not_taken_for_complete(tmp_path):
    expected = write_zips(tmp_path / "zips", 8)
    root, zips = tmp_path / "tfds", tmp_path / "zips"
    command = [sys.executable, "-c", KILLED, str(root), str(zips)]
    assert subprocess.run(command, capture_output=True).returncode == -signal.SIGKILL
    assert len(list((root / "imagenet_resized" / "8x8").iterdir())) == 1  # what it left
    imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(root), zip_dir=str(zips))
    assert same_records(root, 8, expected)
    assert [path.name for path in (root / "imagenet_resized" / "8x8").iterdir()] == ["0.1.0"]


def test_too_small_a_disk_is_refused_before_preparing(tmp_path, monkeypatch):
    write_zips(tmp_path / "zips", 8)
    monkeypatch.setattr(imagenet_resized.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(InputError, match=r"needs about 0.0 GB in .*data.data_dir"):
        imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(tmp_path), zip_dir=str(tmp_path / "zips"))


class Server(http.server.SimpleHTTPRequestHandler):
    """Serves `directory`, with ranges; cuts the connection after `cut_after` bytes, or answers with a web page."""

    cut_after, page, ranges = None, False, []

    def do_GET(self):
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            return self.send_error(404)
        content = b"<html>please log in</html>" if self.page else path.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:-1])
        type(self).ranges = [*self.ranges, start]
        if start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            return self.end_headers()
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : start + (self.cut_after or len(content))])

    def log_message(self, *_):
        pass


@pytest.fixture
def served(tmp_path, monkeypatch):
    """(address, handler class, records) of tiny zips served on this machine, whose checksums count as those that TFDS knows."""
    expected = write_zips(tmp_path / "web", 8)
    checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "web").iterdir()}
    monkeypatch.setattr(imagenet_resized, "_checksums", lambda _: checksums)
    handler = type("Handler", (Server,), {})
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), lambda *request: handler(*request, directory=str(tmp_path / "web"))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}", handler, expected
    server.shutdown()
    thread.join()
    server.server_close()


def prepare_from(address, root):
    return imagenet_resized.prepare("imagenet_resized/8x8", data_dir=str(root), url_prefix=address)


def test_imagenet_is_prepared_from_a_download_record_for_record(served, tmp_path):
    address, _, expected = served
    prepare_from(address, tmp_path)
    assert same_records(tmp_path, 8, expected)
    downloads = sorted(path.name for path in (tmp_path / "downloads" / "imagenet_resized").iterdir())
    assert downloads == ["Imagenet8_train_npz.zip", "Imagenet8_val_npz.zip"]


def test_a_download_that_was_cut_goes_on_where_it_stopped(served, tmp_path):
    address, handler, expected = served
    handler.cut_after = 1000
    with pytest.raises(InputError, match=r"Imagenet8_train_npz.zip failed.*by hand.*data.zip_dir"):
        prepare_from(address, tmp_path)
    handler.cut_after = None
    prepare_from(address, tmp_path)
    assert handler.ranges[:2] == [0, 1000]
    assert same_records(tmp_path, 8, expected)


def test_a_download_killed_after_its_last_byte_is_not_repeated(served, tmp_path):
    address, _, expected = served
    folder = tmp_path / "downloads" / "imagenet_resized"
    folder.mkdir(parents=True)
    shutil.copy(tmp_path / "web" / "Imagenet8_val_npz.zip", folder / "Imagenet8_val_npz.zip.partial")
    prepare_from(address, tmp_path)
    assert same_records(tmp_path, 8, expected)


def test_a_dead_link_says_what_to_download_by_hand_and_where_to_put_it(served, tmp_path):
    address, _, _ = served
    remedy = r"Download Imagenet8_train_npz.zip by hand from https://image-net.org/.* name its folder by data.zip_dir"
    with pytest.raises(InputError, match=r"HTTP Error 404.*" + remedy):
        prepare_from(address + "/gone", tmp_path)
    with pytest.raises(InputError, match=r"refused.*" + remedy):
        prepare_from("http://127.0.0.1:9", tmp_path)


def test_a_web_page_in_place_of_a_zip_is_refused_and_not_kept(served, tmp_path):
    address, handler, _ = served
    handler.page = True
    with pytest.raises(InputError, match=r"it is not a zip \(a web page\?\).*by hand"):
        prepare_from(address, tmp_path)
    assert os.listdir(tmp_path / "downloads" / "imagenet_resized") == []


def test_a_whole_zip_that_is_not_the_one_that_tfds_knows_is_refused_from_any_address(served, tmp_path):
    address, _, _ = served
    write_zips(tmp_path / "web", 8, counts=(6, 5))
    with pytest.raises(InputError, match=r"its sha256 is not the one that TFDS knows.*by hand"):
        prepare_from(address, tmp_path)
    assert os.listdir(tmp_path / "downloads" / "imagenet_resized") == []


def test_all_zips_have_checksums():
    known = imagenet_resized._checksums(imagenet_resized._builder_class())
    for size in (8, 16, 32, 64):
        assert all(set(names) <= set(known) for names in imagenet_resized.zip_names(size).values())
