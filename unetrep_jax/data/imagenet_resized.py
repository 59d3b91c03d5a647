"""Prepares `imagenet_resized` (Chrabaszcz, Loshchilov & Hutter 2017, arXiv 1707.08819) for TFDS without TensorFlow.

TFDS's own builder is subclassed, so names, keys, features, labels, order and sharding are its own; replaced are the
three places where it needs TensorFlow: opening the zips, encoding PNG, and the files through which more than 1 GB is
shuffled.
"""

import contextlib
import hashlib
import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unetrep_jax.data.download import download
from unetrep_jax.storage import InputError, Progress, lock, one_line_when_full

BY_HAND = "https://image-net.org/download-images (section 'Downsampled image data', needs an account)"
_NAME = re.compile(r"imagenet_resized/(8|16|32|64)x\1(:0\.1\.0)?")
_BUFFER = 1 << 16


def covers(name: str) -> bool:
    """Whether `name` is a data set that `prepare` makes: imagenet_resized/8x8, 16x16, 32x32 or 64x64."""
    return _NAME.fullmatch(name) is not None


def zip_names(size: int) -> dict[str, list[str]]:
    """Split -> the zips that hold it, as image-net.org names them."""
    parts = ["_part1", "_part2"] if size == 64 else [""]
    return {
        "train": [f"Imagenet{size}_train{part}_npz.zip" for part in parts],
        "validation": [f"Imagenet{size}_val_npz.zip"],
    }


def prepare(name: str, *, data_dir: str, zip_dir: str = "", url_prefix: str = "") -> Path:
    """Prepares `imagenet_resized/<size>` in array_record format, record for record as the stock builder does.

    Nothing appears under the data set's name before it is whole. Needs about twice the zips' size on disk while it
    runs; 64x64 comes from 14 GB of zips and takes some 15 minutes and 5 GB of memory.

    Args:
      name: "imagenet_resized/8x8", ".../16x16", ".../32x32" or ".../64x64".
      data_dir: folder of prepared data sets.
      zip_dir: folder with the zips; "" downloads them to `data_dir`/downloads/imagenet_resized, where they stay.
      url_prefix: where to download from; "" is what the stock builder names.

    Returns:
      The folder of the prepared data set.

    Raises:
      InputError: a zip is missing or damaged, the download fails, or the disk is too small.
    """
    if not covers(name):
        raise InputError(f"{name!r} cannot be prepared: imagenet_resized/8x8, 16x16, 32x32 and 64x64 can.")
    size = int(_NAME.fullmatch(name)[1])
    root = Path(data_dir).expanduser()
    with one_line_when_full(root, "data.data_dir"), lock(root / f".imagenet_resized_{size}.lock"):
        builder = _builder_class()(config=f"{size}x{size}", data_dir=str(root))
        if not builder.data_path.exists():
            zips = _zips(size, root, zip_dir, url_prefix, _checksums(builder))
            _require_space([path for paths in zips.values() for path in paths], root)
            _remove_unfinished(Path(builder.data_path))
            _run(builder, zips)
    return Path(builder.data_path)


def _run(builder: Any, zips: Mapping[str, Sequence[Path]]) -> None:
    import tensorflow_datasets as tfds

    builder.zips = zips
    with _shuffling_through_plain_files():
        builder.download_and_prepare(
            file_format="array_record", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )


def _builder_class() -> type:
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder as stock

    with tfds.core.registered.skip_registration():

        class Builder(stock.Builder):
            """The stock builder, reading zips on disk and handing images over as PIL's, which TFDS encodes itself."""

            name = stock.Builder.name
            __module__ = stock.Builder.__module__

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(_members(paths)) for split, paths in self.zips.items()}

            def _generate_examples(self, archive):
                for key, record in super()._generate_examples(archive):
                    yield key, {**record, "image": Image.fromarray(record["image"])}

    return Builder


def _members(paths: Sequence[Path]) -> Iterator[tuple[str, io.BytesIO]]:
    """Name and content of every file in the zips; reading one whole is what checks its CRC."""
    for path in paths:
        try:
            with zipfile.ZipFile(path) as archive:
                for member in archive.infolist():
                    if not member.is_dir():
                        yield member.filename, io.BytesIO(archive.read(member))
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise InputError(f"{path} is damaged ({error}): get it again from {BY_HAND}.") from error


def _checksums(builder: Any) -> dict[str, str]:
    """The sha256 of each zip by its name. TFDS knows them for the stock addresses; another one must send the same files."""
    return {url.rpartition("/")[2]: info.checksum for url, info in builder.url_infos.items()}


def _zips(size: int, root: Path, zip_dir: str, url_prefix: str, checksums: Mapping[str, str]) -> dict[str, list[Path]]:
    names = zip_names(size)
    if zip_dir:
        folder = Path(zip_dir).expanduser()
        missing = [name for part in names.values() for name in part if not (folder / name).is_file()]
        if missing:
            raise InputError(f"data.zip_dir={zip_dir!r} lacks {', '.join(missing)}: put it there, from {BY_HAND}.")
        return {split: [folder / name for name in part] for split, part in names.items()}
    return {split: [_fetch(name, root, url_prefix, checksums) for name in part] for split, part in names.items()}


def _fetch(name: str, root: Path, url_prefix: str, checksums: Mapping[str, str]) -> Path:
    """Downloads one zip unless it is there, and compares it with its checksum."""
    from tensorflow_datasets.datasets.imagenet_resized import imagenet_resized_dataset_builder as stock

    path = root / "downloads" / "imagenet_resized" / name
    url = f"{url_prefix or stock._URL_PREFIX}/{name}"
    remedy = f"Download {name} by hand from {BY_HAND} and name its folder by data.zip_dir."
    download(url, path, remedy=remedy, check=lambda file: _check_zip(file, checksums[name]))
    return path


def _check_zip(path: Path, checksum: str) -> str:
    """What is wrong with a downloaded file, or ""."""
    if not zipfile.is_zipfile(path):
        return "it is not a zip (a web page?)"
    return "" if checksum == _sha256(path) else "its sha256 is not the one that TFDS knows"


def _sha256(path: Path) -> str:
    digest, megabyte = hashlib.sha256(), 1 << 20
    with open(path, "rb") as file, Progress(f"checking {path.name}", path.stat().st_size >> 20, "MB") as progress:
        while block := file.read(megabyte):
            digest.update(block)
            progress.advance(1)
    return digest.hexdigest()


def _require_space(zips: Sequence[Path], root: Path) -> None:
    needed, free = 2 * sum(path.stat().st_size for path in zips), shutil.disk_usage(root).free
    if free < needed:
        raise InputError(
            f"Preparing imagenet_resized needs about {needed / 1e9:.1f} GB in {root}, {free / 1e9:.1f} GB are free: "
            "free some, or name another folder by data.data_dir."
        )


def _remove_unfinished(data_path: Path) -> None:
    """Removes what killed preparations left; the caller holds the lock, so none is running."""
    for folder in data_path.parent.glob(f"incomplete.*_{data_path.name}"):
        shutil.rmtree(folder)


class _PlainBucket:
    """Stands in for `tensorflow_datasets.core.shuffle._Bucket`, which opens its files through TensorFlow.

    A thousand of them are written in turn, so each opens its file only to add a full buffer.
    """

    def __init__(self, path: Any):
        self._path, self._buffer, self._length, self.size = Path(path), bytearray(), 0, 0

    def __len__(self) -> int:
        return self._length

    def add(self, key: int, data: bytes) -> None:
        self._buffer += key.to_bytes(16, "big") + struct.pack("=Q", len(data)) + data
        self._length += 1
        self.size += len(data)
        if len(self._buffer) >= _BUFFER:
            self.flush()

    def flush(self) -> None:
        if self._buffer:
            with open(self._path, "ab") as file:
                file.write(self._buffer)
            self._buffer.clear()

    def read_values(self) -> Iterator[tuple[int, bytes]]:
        self.flush()
        if self._length == 0:
            return
        with open(self._path, "rb") as file:
            while key := file.read(16):
                yield int.from_bytes(key, "big"), file.read(struct.unpack("=Q", file.read(8))[0])

    def del_file(self) -> None:
        self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def _shuffling_through_plain_files() -> Iterator[None]:
    from tensorflow_datasets.core import shuffle

    stock_bucket, shuffle._Bucket = shuffle._Bucket, _PlainBucket
    try:
        yield
    finally:
        shuffle._Bucket = stock_bucket
