"""Location: networks that know it and networks that cannot, objects whose place is known, and grids too small to move in."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import SETTINGS as ALL_SETTINGS
from test_stages import image_set, make_context  # noqa: F401 (make_context is a fixture)

from unetrep_jax import denoiser, models, noise, representation, stages
from unetrep_jax.stages import location
from unetrep_jax.storage import InputError

SETTINGS = {"location_images": 6, "location_composites": 30, "draws": 1, "batch_size": 16}


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """XLA compiles these tiny programs several times faster than it optimises them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def networks():
    """A small network of stride 4 whose parameters all matter: with zero and with circular padding, and another."""
    settings = {"channels": (3, 4, 5), "encoder_depth": 1, "mid_depth": 1, "decoder_depth": 1}
    model, twin = (models.build("unet", **settings, padding=padding) for padding in ("zero", "circular"))
    params = models.init_params(model, jax.random.key(0))
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * generator.standard_normal(leaf.shape, np.float32), params)
    other = jax.tree.map(lambda leaf: leaf[::-1], params)
    return denoiser.bind(model, params), denoiser.bind(twin, params), denoiser.bind(model, other)


def run(context):
    folder = context.outdir / "location"
    location.run_location(context, folder, "key")
    with np.load(folder / "arrays.npz") as arrays:
        return dict(arrays), json.loads((folder / "summary.json").read_text())


def cells(section):
    return [str(cell) for table in section.tables for row in table.rows for cell in row if cell is not None]


@pytest.fixture(scope="module")
def found(networks, tmp_path_factory):
    """The stage on that network, once: context, arrays and summary."""
    trained, twin, untrained = networks
    outdir = tmp_path_factory.mktemp("location")
    context = stages.Context(
        denoiser=trained,
        untrained=lambda: untrained,
        images=image_set(),
        training_images=image_set,
        training_identity="training images",
        settings=SimpleNamespace(**ALL_SETTINGS | SETTINGS),
        identity="checkpoint",
        facts={},
        training_log=outdir / "none.jsonl",
        outdir=outdir,
        circular=lambda: twin,
    )
    return context, *run(context)


def test_circular_padding_makes_averages_invariant_to_the_rounding_error_and_zero_padding_does_not(found):
    _, arrays, summary = found
    np.testing.assert_array_equal(arrays["shifts"], [4])
    blocks = summary["shifts"]["blocks"]
    for block in ("encoder0", "encoder1", "mid", "decoder1"):
        assert blocks["circular"][block]["largest"] < 2e-6
        assert blocks["trained"][block]["largest"] > 1e-3
        assert blocks["trained"][block]["relative"]["value"] > 1e3 * blocks["circular"][block]["relative"]["value"]


def test_changes_are_those_of_the_moved_noisy_images(found, networks):
    context, _, summary = found
    clean = jnp.asarray(context.images.images[np.linspace(0, 59, 6).astype(int)], jnp.float32) / 255
    sigma = jnp.float32(100) / jnp.float32(255)
    key = jax.random.fold_in(noise.level_key(jax.random.key(0), sigma), 0)  # the first draw of the sweep's
    noisy = noise.add_noise(noise.image_keys(key, np.arange(6)), clean, sigma)
    place, down, right = (
        np.concatenate(representation.channel_averages(networks[0], moved), axis=1)
        for moved in (noisy, jnp.roll(noisy, 4, 1), jnp.roll(noisy, 4, 2))
    )
    saved = np.load(context.outdir / "moved" / "trained" / "mean.npy")
    np.testing.assert_allclose(saved, np.stack([place, down, right], 1), rtol=1e-4, atol=1e-5)
    middle = slice(*representation.layout(networks[0], (8, 8, 3)).columns["mid"])
    phi = place[:, middle]
    changes = np.stack([np.linalg.norm((moved - place)[:, middle], axis=1) for moved in (down, right)], 1)
    numbers = summary["shifts"]["blocks"]["trained"]["mid"]
    relative = (changes / np.linalg.norm(phi, axis=1)[:, None]).mean()
    assert numbers["relative"]["value"] == pytest.approx(relative, rel=1e-3)
    pairs = [np.sum((a - b) ** 2) for i, a in enumerate(phi) for b in phi[:i]]
    assert numbers["of_distance"]["value"] == pytest.approx(np.sqrt((changes**2).mean() / np.mean(pairs)), rel=1e-3)


def test_the_report_names_every_feature_and_holds_no_nan(found):
    context, arrays, summary = found
    section = location.section_location(context, arrays, summary)
    shown = cells(section)
    assert not [cell for cell in shown if "nan" in cell.lower()]
    for name in ("phi", "phi, circular padding", "phi of the untrained network", "phi, places permuted"):
        assert name in shown
    assert len(section.figures) == 3 and all(picture.path.exists() for picture in section.figures)
    assert [claim.holds in ("yes", "no", "in part") for claim in section.claims] == [True] * 3


def test_a_denoiser_without_a_twin_is_analysed_and_the_report_says_so(make_context):  # noqa: F811
    context = make_context(**SETTINGS)
    arrays, summary = run(context)
    assert summary["stride"] == 1 and list(summary["shifts"]["blocks"]) == ["trained", "untrained"]
    assert summary["shifts"]["blocks"]["trained"]["mid"]["largest"] < 1e-5  # pixel by pixel: moving changes nothing
    section = location.section_location(context, arrays, summary)
    assert "no twin with circular padding" in " ".join(section.text)
    assert section.claims[0].holds == "" and "phi, circular padding" not in cells(section)
    assert not [cell for cell in cells(section) if "nan" in cell.lower()]


def test_images_of_one_stride_are_left_alone_and_the_report_says_so(make_context, networks):  # noqa: F811
    context = make_context(**SETTINGS)
    small = context.images._replace(images=context.images.images[:, :4, :4])
    context = context._replace(images=small, denoiser=networks[0], untrained=lambda: networks[2])
    arrays, summary = run(context)
    assert not arrays and "shifts" not in summary
    assert "less than two strides (4 pixels each)" in location.section_location(context, arrays, summary).text[0]


def test_shifts_are_multiples_of_the_stride_up_to_half_the_image():
    np.testing.assert_array_equal(location.shift_sizes((64, 64, 3), 8), [8, 16, 24, 32])
    np.testing.assert_array_equal(location.shift_sizes((64, 64, 3), 1), [1, 11, 22, 32])
    np.testing.assert_array_equal(location.shift_sizes((16, 64, 3), 8), [8])


def test_objects_are_pasted_where_the_corners_say_and_nothing_else_changes():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 24, 1), np.uint8)
    before = images.copy()
    made = location.compose(images, 60, 4, seed=0)
    np.testing.assert_array_equal(images, before)
    sources = [0, 19, 39]
    assert not set(made.backgrounds) & set(sources) and made.corners.max(0).tolist() == [2, 4]
    assert set(np.bincount(made.objects)) == {20}
    for composite, (row, column), number, background in zip(*made._replace(corners=4 * made.corners), strict=True):
        expected = images[background].copy()
        expected[row : row + 8, column : column + 8] = images[sources[number], 4:12, 8:16]
        np.testing.assert_array_equal(composite, expected)


def test_too_few_images_or_composites_are_refused_in_one_line():
    images = np.zeros((40, 8, 8, 3), np.uint8)
    for few, count in ((images, 29), (images[:5], 60)):
        with pytest.raises(InputError, match="location_composites") as caught:
            location.compose(few, count, 4, seed=0)
        assert "\n" not in str(caught.value)


def test_places_are_decoded_from_features_that_hold_them_and_from_nothing_else():
    generator = np.random.default_rng(0)
    images = np.broadcast_to(generator.integers(0, 256, (300, 1, 1, 1), np.uint8), (300, 16, 16, 1))
    made = location.compose(images, 240, 2, seed=0)
    targets, noise = location.targets_of(made), generator.normal(size=(240, 5))
    np.testing.assert_allclose(targets[:, 2], made.images.reshape(240, -1).mean(1) / 255)

    def decoded(features, targets=targets):
        return location.decode(features, targets, made, 0).summary

    told = np.concatenate([made.corners @ generator.normal(size=(2, 4)), noise], 1)
    assert decoded(told)["both"]["value"] > 0.999 and decoded(told)["intensity"]["value"] < 0.05
    half = decoded(np.concatenate([made.corners[:, :1] + 0.0, noise], 1))
    assert half["row"]["value"] > 0.99 and half["column"]["high"] < 0.1
    assert half["both"]["low"] < half["both"]["value"] < half["both"]["high"]
    assert decoded(noise)["both"]["value"] < 0.05
    assert decoded(targets[:, 2:])["intensity"]["value"] > 0.999
    permuted = location.permuted_within_objects(targets, made.objects, 1)
    assert decoded(told, permuted)["both"]["value"] < 0.05
    for number in range(location.OBJECTS):
        here = made.objects == number
        np.testing.assert_array_equal(np.sort(permuted[here], 0), np.sort(targets[here], 0))


def test_the_change_over_the_distance_has_no_unit():
    averages = np.random.default_rng(0).uniform(size=(20, 5, 7))
    one, two = (location.describe_change(location.block_changes(f * averages), 0) for f in (1, 1000))
    assert one["of_distance"]["value"] == pytest.approx(two["of_distance"]["value"])
    change = location.block_changes(averages)
    assert change.between.mean() == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for i, a in enumerate(averages[:, 0]) for b in averages[:i, 0]])
    )
