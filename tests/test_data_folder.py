import errno
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unetrep_jax import data
from unetrep_jax.data import pixels
from unetrep_jax.storage import InputError

SIZE = 16
NOISE = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


def read(path, size=SIZE, channels=3):
    return pixels.decode_file(path, image_size=size, image_channels=channels)


def saved(image, path, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def sixteen_bit_png(path, values):
    """A PNG of 16-bit RGB values [h w 3], written by hand: Pillow writes none."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + t + d + struct.pack(">I", zlib.crc32(t + d)) for t, d in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tif", "a.TIFF", "a.webp"])
def test_lossless_files_of_the_right_size_keep_every_pixel(name, tmp_path):
    path = saved(Image.fromarray(NOISE), tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
    assert np.array_equal(read(path).pixels, NOISE)


def test_a_jpeg_is_close_to_what_was_saved(tmp_path):
    ramp = np.broadcast_to(np.linspace(0, 255, SIZE).astype(np.uint8)[:, None, None], (SIZE, SIZE, 3))
    path = saved(Image.fromarray(np.ascontiguousarray(ramp)), tmp_path / "a.jpeg", quality=95)
    assert np.abs(read(path).pixels.astype(int) - ramp).max() <= 4


def test_a_palette_becomes_its_colours(tmp_path):
    indexed = Image.fromarray(NOISE).quantize(200)
    expected = np.asarray(indexed.convert("RGB"))
    for name in ("a.gif", "a.png"):
        assert np.array_equal(read(saved(indexed, tmp_path / name)).pixels, expected)


def test_sixteen_bits_are_scaled_and_not_clipped(tmp_path):
    values = np.linspace(0, 65535, SIZE * SIZE).astype(np.uint16).reshape(SIZE, SIZE)
    expected = np.round(values / 257.0)
    for name in ("a.png", "a.tif"):
        grey = read(saved(Image.fromarray(values), tmp_path / name), channels=1).pixels[..., 0]
        assert np.abs(grey - expected).max() <= 0.5
    colour = read(sixteen_bit_png(tmp_path / "rgb.png", np.stack([values, values[::-1], values.T], -1))).pixels
    assert np.abs(colour[..., 0] - values / 257.0).max() <= 1


def test_transparent_pixels_show_white(tmp_path):
    half_red = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 128))
    for name in ("a.png", "a.webp", "a.tif"):
        path = saved(half_red, tmp_path / name, **({"lossless": True} if name.endswith("webp") else {}))
        assert np.abs(read(path).pixels.astype(int) - [255, 127, 127]).max() <= 1
    indexed = Image.new("P", (SIZE, SIZE), 1)
    indexed.putpalette([0, 0, 0, 10, 20, 30])
    assert (read(saved(indexed, tmp_path / "p.png", transparency=1)).pixels == 255).all()
    assert (read(saved(Image.new("LA", (SIZE, SIZE), (0, 0)), tmp_path / "la.png"), channels=1).pixels == 255).all()


def test_ink_becomes_light(tmp_path):
    ink = {(0, 0, 0, 0): (255, 255, 255), (0, 255, 255, 0): (255, 0, 0), (0, 0, 0, 255): (0, 0, 0)}
    for i, (cmyk, rgb) in enumerate(ink.items()):
        for ending in ("tif", "jpg"):
            path = saved(Image.new("CMYK", (SIZE, SIZE), cmyk), tmp_path / f"{i}.{ending}")
            assert np.abs(read(path).pixels.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize(
    ("orientation", "turn"), [(3, lambda a: a[::-1, ::-1]), (6, lambda a: np.rot90(a, -1)), (2, np.fliplr)]
)
def test_the_orientation_in_exif_is_followed(orientation, turn, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(read(saved(Image.fromarray(NOISE), tmp_path / "a.png", exif=exif)).pixels, turn(NOISE))


def test_an_animation_gives_its_first_frame_and_says_so(tmp_path):
    frames = [Image.new("RGB", (SIZE, SIZE), colour) for colour in ("red", "blue")]
    for name in ("a.gif", "a.png", "a.tif"):
        one = read(saved(frames[0], tmp_path / name, save_all=True, append_images=frames[1:]))
        assert one.several_frames and (one.pixels == [255, 0, 0]).all()


def test_pixels_without_a_defined_white_are_refused_by_name(tmp_path):
    for dtype in (np.float32, np.int32):
        path = saved(Image.fromarray(np.ones((SIZE, SIZE), dtype)), tmp_path / "a.tif")
        with pytest.raises(pixels.Unreadable, match="32-bit pixels have no defined white"):
            read(path)


def test_grey_is_the_standard_luma_of_colour(tmp_path):
    path = saved(Image.fromarray(NOISE), tmp_path / "a.png")
    luma = NOISE @ np.array([0.299, 0.587, 0.114])
    assert np.abs(read(path, channels=1).pixels[..., 0] - luma).max() <= 0.51


def test_grey_becomes_colour_with_three_equal_channels(tmp_path):
    path = saved(Image.fromarray(NOISE[..., 0]), tmp_path / "a.png")
    assert np.array_equal(read(path).pixels, np.repeat(NOISE[..., :1], 3, -1))
    bilevel = saved(Image.fromarray(NOISE[..., 0] > 127), tmp_path / "b.png")
    assert np.array_equal(read(bilevel).pixels[..., 0], np.where(NOISE[..., 0] > 127, 255, 0))


def test_the_centred_square_is_taken(tmp_path):
    wide = np.random.default_rng(1).integers(0, 256, (SIZE, 3 * SIZE, 3), dtype=np.uint8)
    assert np.array_equal(read(saved(Image.fromarray(wide), tmp_path / "a.png")).pixels, wide[:, SIZE : 2 * SIZE])
    tall = wide.swapaxes(0, 1).copy()
    assert np.array_equal(read(saved(Image.fromarray(tall), tmp_path / "b.png")).pixels, tall[SIZE : 2 * SIZE])


def test_detail_too_fine_for_the_smaller_grid_becomes_its_mean(tmp_path):
    y, x = np.mgrid[: 8 * SIZE, : 8 * SIZE]
    board = Image.fromarray((255 * ((x + y) % 2)).astype(np.uint8))
    inner = read(saved(board, tmp_path / "a.png"), channels=1).pixels[1:-1, 1:-1]
    assert np.abs(inner.astype(float) - 127.5).max() <= 3


def test_a_large_jpeg_decodes_to_the_same_as_without_the_shortcut(tmp_path):
    y, x = np.mgrid[:512, :512] / 512
    scene = np.stack([x, y, 0.5 + 0.5 * np.sin(20 * x * y)], -1)
    image = Image.fromarray(np.uint8(255 * scene))
    jpeg, png = saved(image, tmp_path / "a.jpg", quality=98), saved(image, tmp_path / "a.png")
    assert np.abs(read(jpeg, 32).pixels.astype(int) - read(png, 32).pixels).max() <= 6


def test_an_image_is_never_enlarged(tmp_path):
    with pytest.raises(pixels.Unreadable, match=r"16x16 pixels, smaller than data.image_size=24"):
        read(saved(Image.fromarray(NOISE), tmp_path / "a.png"), 24)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\x89PNG\r\n\x1a\n broken"])
def test_files_that_are_no_images_are_unreadable(content, tmp_path):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(pixels.Unreadable):
        read(tmp_path / "a.png")


def test_a_file_cut_short_is_unreadable(tmp_path):
    for name in ("a.jpg", "a.png", "a.gif"):
        path = saved(Image.fromarray(np.tile(NOISE, (8, 8, 1))), tmp_path / name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(pixels.Unreadable):
            read(path)


# --- the tree ---


@pytest.fixture
def settings(tmp_path):
    return {"image_size": SIZE, "image_channels": 3, "cache_dir": str(tmp_path / "cache")}


@pytest.fixture
def tree(tmp_path):
    """files/<cat, dog, emu>/[deep/]<i>.png, one grey level each, in the order of their paths."""
    root = tmp_path / "files"
    names = ["cat/0.png", "cat/deep/1.png", "dog/2.png", "dog/3.png", "emu/4.png"]
    for i, name in enumerate(names):
        saved(Image.new("L", (SIZE, SIZE), 10 * i), root / name)
    return root


def levels(images):
    return (images.images[:, 0, 0, 0] // 10).tolist()


def test_folders_of_the_first_level_are_the_labels(tree, settings):
    images = data.open_images(str(tree), **settings)
    assert images.class_names == ("cat", "dog", "emu")
    assert levels(images) == [0, 1, 2, 3, 4]
    assert images.labels.dtype == np.int32 and images.labels.tolist() == [0, 0, 1, 1, 2]
    assert images.names == ("cat/0.png", "cat/deep/1.png", "dog/2.png", "dog/3.png", "emu/4.png")


def test_images_outside_the_folders_leave_the_set_without_labels(tree, settings, capsys):
    saved(Image.new("L", (SIZE, SIZE), 50), tree / "zebra.png")
    images = data.open_images(str(tree), **settings)
    assert images.labels is None and images.class_names == () and len(images.images) == 6
    assert "1 of 6 images lie outside its folders" in capsys.readouterr().err


def test_hidden_and_other_files_are_passed_over(tree, settings):
    (tree / "cat" / "notes.txt").write_text("x")
    (tree / "cat" / "._0.png").write_text("x")
    (tree / "empty").mkdir()
    images = data.open_images(str(tree), **settings)
    assert levels(images) == [0, 1, 2, 3, 4] and images.class_names == ("cat", "dog", "emu")
    assert images.provenance["ignored_files"] == {".txt": 1}


def test_links_are_followed_but_not_in_circles(tree, settings, tmp_path):
    (tree / "dog" / "loop").symlink_to(tree)
    (tree / "fox").symlink_to(tree / "emu")
    images = data.open_images(str(tree), **settings)
    assert levels(images) == [0, 1, 2, 3, 4, 4] and images.class_names[-1] == "fox"


def test_missing_empty_and_imageless_folders_are_refused(tmp_path, settings):
    load = lambda path: data.load("train", source="folder", train_path=str(path), **settings)  # noqa: E731
    with pytest.raises(InputError, match=r"data.train_path='.*/nowhere' does not exist"):
        load(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"holds no image .*but no files"):
        load(tmp_path / "empty")
    for i in range(2):
        (tmp_path / "empty" / f"{i}.npz").write_text("x")
    with pytest.raises(InputError, match=r"holds no image .*but 2 \.npz"):
        load(tmp_path / "empty")
    with pytest.raises(InputError, match="is not a folder"):
        load(tmp_path / "empty" / "0.npz")


def test_unreadable_files_are_counted_listed_and_left_out(tree, settings, capsys):
    (tree / "dog" / "2.png").write_bytes(b"broken")
    saved(Image.new("L", (8, 8)), tree / "dog" / "25.png")
    images = data.open_images(str(tree), max_unreadable=0.4, **settings)
    assert levels(images) == [0, 1, 3, 4] and images.labels.tolist() == [0, 0, 1, 2]
    assert images.names == ("cat/0.png", "cat/deep/1.png", "dog/3.png", "emu/4.png")
    assert images.provenance["images"] == 4 and images.provenance["skipped"] == {
        "dog/2.png": "not an image, or damaged",
        "dog/25.png": f"8x8 pixels, smaller than data.image_size={SIZE}",
    }
    assert "2 of 6 images were left out (dog/2.png: not an image, or damaged; dog/25.png" in capsys.readouterr().err


def test_a_disk_that_is_away_for_a_while_leaves_no_image_out(tree, settings, monkeypatch):
    read = Path.read_bytes

    def fails(path):
        if path.name == "2.png":
            raise OSError(errno.EIO, "Input/output error", str(path))
        return read(path)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Input/output error"):
        patch.setattr(Path, "read_bytes", fails)
        data.open_images(str(tree), max_unreadable=1.0, **settings)
    assert levels(data.open_images(str(tree), max_unreadable=1.0, **settings)) == [0, 1, 2, 3, 4]


def test_too_many_unreadable_files_stop_the_run_also_when_the_rest_is_already_decoded(tree, settings):
    (tree / "dog" / "2.png").write_bytes(b"broken")
    for _ in range(2):
        with pytest.raises(InputError, match=r"1 of 5 images cannot be used \(dog/2.png: .*data.max_unreadable=0.1"):
            data.open_images(str(tree), max_unreadable=0.1, **settings)
        assert len(data.open_images(str(tree), max_unreadable=0.2, **settings).images) == 4


def test_a_folder_of_nothing_but_unreadable_files_is_refused_whatever_the_tolerance(tmp_path, settings):
    (tmp_path / "files").mkdir()
    for i in range(3):
        (tmp_path / "files" / f"{i}.jpg").write_bytes(b"broken")
    for tolerance in (0.01, 1.0):
        with pytest.raises(InputError, match=r"3 (of 3 )?images can"):
            data.open_images(str(tmp_path / "files"), max_unreadable=tolerance, **settings)


# --- the split ---


@pytest.fixture
def many(tmp_path):
    for i in range(40):
        saved(Image.new("L", (SIZE, SIZE), 5 * i), tmp_path / "files" / f"{i:02d}.png")
    return tmp_path / "files"


def sides(path, settings, fraction=0.25, **more):
    load = lambda split: data.load(  # noqa: E731
        split, source="folder", train_path=str(path), validation_fraction=fraction, **more, **settings
    )
    return [set((load(split).images[:, 0, 0, 0] // 5).tolist()) for split in ("train", "validation")]


def test_a_fraction_of_the_files_is_held_out_and_every_file_is_on_one_side(many, settings):
    train, validation = sides(many, settings)
    assert len(validation) == 10 and not train & validation and train | validation == set(range(40))
    assert sides(many, settings) == [train, validation]


def test_a_new_file_moves_at_most_one_other_across_the_split(many, settings):
    _, before = sides(many, settings)
    saved(Image.new("L", (SIZE, SIZE), 200), many / "new.png")
    _, after = sides(many, settings)
    assert len(before - after) <= 1


def test_a_validation_folder_leaves_the_training_folder_whole(many, tmp_path, settings):
    tree = tmp_path / "other"
    for i in range(5):
        saved(Image.new("L", (SIZE, SIZE), i), tree / f"{i}.png")
    train = data.load("train", source="folder", train_path=str(many), validation_path=str(tree), **settings)
    validation = data.load("validation", source="folder", train_path=str(many), validation_path=str(tree), **settings)
    assert len(train.images) == 40 and len(validation.images) == 5


def test_a_split_that_leaves_a_side_empty_is_refused(tmp_path, settings):
    saved(Image.new("L", (SIZE, SIZE)), tmp_path / "one" / "a.png")
    with pytest.raises(InputError, match=r"data.validation_path"):
        sides(tmp_path / "one", settings)
    with pytest.raises(InputError, match=r"data.validation_fraction=1 is not between"):
        sides(tmp_path / "one", settings, fraction=1.0)


def test_a_file_whose_name_is_no_unicode_is_read_like_any_other(tmp_path):
    root = tmp_path / "images"
    root.mkdir()
    for name in (b"caf\xe9.png", b"b.png", b"c.png"):
        Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "x.png")
        os.rename(root / "x.png", os.path.join(os.fsencode(root), name))
    form = {"image_size": 16, "image_channels": 3, "cache_dir": str(tmp_path / "cache")}
    parts = [data.load(part, source="folder", train_path=str(root), **form) for part in ("train", "validation")]
    assert [len(part.images) for part in parts] == [2, 1]
    assert {os.fsencode(name) for part in parts for name in part.names} == {b"caf\xe9.png", b"b.png", b"c.png"}
