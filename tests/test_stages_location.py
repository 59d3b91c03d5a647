"""Location: networks that know it and networks that cannot, objects whose place is known, and grids too small to move in."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_stages import SETTINGS as ALL_SETTINGS
from test_stages import WEIGHTS, colour_denoiser, image_set, make_context  # noqa: F401 (make_context is a fixture)

from unetrep_jax import denoiser, models, noise, report, representation, stages
from unetrep_jax.stages import location, placing, shifting, wording
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
    noisy = noise.add_noise(noise.image_keys(key, np.zeros(6, np.int32)), clean, sigma)
    np.testing.assert_allclose(noisy - clean, np.broadcast_to((noisy - clean)[:1], clean.shape), atol=1e-5)
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
    of_images = np.sqrt((changes**2).mean(1) / np.mean(pairs))
    found = [numbers["of_images"][name] for name in wording.QUARTILES]
    np.testing.assert_allclose(found, np.quantile(of_images, (0.25, 0.5, 0.75)), rtol=1e-3)


def test_the_report_names_every_feature_and_holds_no_nan(found):
    context, arrays, summary = found
    section = location.section_location(context, arrays, summary)
    shown = cells(section)
    assert not [cell for cell in shown if "nan" in cell.lower()]
    for name in ("phi", "phi, circular padding", "phi of the untrained network", "phi, places permuted"):
        assert name in shown
    assert len(section.figures) == 3 and all(picture.path.exists() for picture in section.figures)
    first, second, third = section.claims
    by_network, decoded = summary["shifts"]["blocks"], summary["objects"]["decoded"]
    for network, text in (("trained", first.here), ("untrained", first.null)):
        assert wording.estimate_text(by_network[network]["mid"]["of_distance"], 3) in text
        median = wording.quartiles_text(by_network[network]["mid"]["of_images"], 3)
        assert f"median image {median}" in text and median in shown
    twin = by_network["circular"]["mid"]
    assert f"{twin['of_distance']['value']:.1e} of that distance ({twin['largest']:.0e} of its length" in first.null
    assert f"encoder1 {by_network['untrained']['encoder1']['of_distance']['value']:.3f}" in second.null
    for name in ("circular", "chance"):
        assert wording.estimate_text(decoded[name]["both"]) in third.null


def test_dead_blocks_have_a_report_without_numbers_for_them(make_context):  # noqa: F811
    dead = colour_denoiser(np.zeros_like(WEIGHTS))
    context = make_context(**SETTINGS)._replace(denoiser=dead, identity="dead")
    arrays, summary = run(context)
    section = location.section_location(context, arrays, summary)
    page = str(section._replace(figures=()))
    assert "nan" not in page and "images: – (root mean square; median image –)" in page
    assert "encoder0 –, encoder1 –, mid –" in page
    assert section.claims[1].holds == "" and section.claims[2].holds == ""
    assert [row[1:4] for row in section.tables[0].rows] == [(None, None, None)] * 4
    assert summary["objects"]["decoded"]["trained"]["both"]["value"] < 0.05


@pytest.mark.parametrize("count", [0, 1])
def test_a_single_image_has_no_distance_to_another_and_is_refused(make_context, count):  # noqa: F811
    context = make_context(**SETTINGS | {"location_images": count})
    with pytest.raises(InputError, match=f"^analysis.location_images = {count}: .*; ask for 2 or more") as caught:
        run(context)
    assert "\n" not in str(caught.value) and not (context.outdir / "moved").exists()


def blocks(of_distance, largest=1.0, relative=None):
    """What is known of each block's changes, from the first to the deepest."""
    relative = of_distance if relative is None else relative
    return {
        name: {"of_distance": {"value": change}, "relative": {"value": share}, "largest": largest}
        for name, change, share in zip(("encoder0", "encoder1", "mid"), of_distance, relative, strict=True)
    }


@pytest.mark.parametrize(
    ("trained", "untrained", "circular", "expected"),
    [
        (blocks([0.1, 0.2, 0.3]), blocks([0.9] * 3), blocks([0] * 3, 1e-7), "yes"),
        (blocks([0.1, 0.2, 0.3]), blocks([0.3] * 3), blocks([0] * 3, 1e-7), "in part"),  # so does the untrained network
        (blocks([0.1, 0.2, 0.7]), blocks([0.9] * 3), blocks([0] * 3, 1e-7), "in part"),
        (blocks([0.1, 0.2, 0.7]), blocks([0.9] * 3), blocks([0] * 3, 1e-2), "no"),
        (blocks([0.1, 0.2, 0.3]), blocks([0.9] * 3), None, ""),
        (blocks([None] * 3, None), blocks([0.9] * 3), blocks([None] * 3, None), ""),
    ],
)
def test_averages_are_invariant_where_only_rounding_is_left_and_zero_padding_changes_little(
    trained, untrained, circular, expected
):
    by_network = {"trained": trained, "untrained": untrained} | ({"circular": circular} if circular else {})
    assert report.verdict(*location.invariant(by_network)) == expected


@pytest.mark.parametrize(
    ("trained", "untrained", "expected"),
    [
        (blocks([1, 2, 3]), blocks([3, 2, 1]), "yes"),
        (blocks([1, 2, 3]), blocks([1, 2, 3]), "in part"),  # an untrained network's changes rise as well
        (blocks([1, 2, 3], relative=[1, 3, 2]), blocks([3, 2, 1]), "in part"),
        (blocks([1, 2, 2]), blocks([3, 2, 1]), "no"),
        (blocks([1, None, 2]), blocks([3, 2, 1]), ""),
    ],
)
def test_changes_grow_with_depth_where_every_block_has_more_than_the_one_before(trained, untrained, expected):
    by_network = {"trained": trained, "untrained": untrained}
    assert report.verdict(*location.less_with_depth(by_network, ["encoder0", "encoder1", "mid"])) == expected


@pytest.mark.parametrize(
    ("lows", "lead", "expected"),
    [
        ({"trained": 0.2, "circular": -0.1, "chance": -0.1}, 0.1, "yes"),
        ({"trained": 0.2, "circular": -0.1, "chance": 0.05}, 0.1, "in part"),  # permuted places are told as well
        ({"trained": 0.2, "circular": 0.1, "chance": -0.1}, 0.1, "in part"),
        ({"trained": 0.2, "circular": -0.1, "chance": -0.1}, -0.1, "in part"),
        ({"trained": -0.1, "circular": -0.1, "chance": -0.1}, 0.1, "no"),
        ({"trained": 0.2, "chance": -0.1}, 0.1, ""),
    ],
)
def test_position_comes_from_zero_padding_where_nothing_else_tells_it(lows, lead, expected):
    decoded = {name: {"both": {"low": low}} for name, low in lows.items()}
    parts = location.position_by_padding({"decoded": decoded, "lead": {"circular": {"low": lead}}})
    assert report.verdict(*parts) == expected


def test_composites_of_one_background_are_drawn_together():
    made = placing.Composites(*(np.zeros((240, *shape)) for shape in ((2, 2, 1), (2,), (), ())))
    generator = np.random.default_rng(0)
    backgrounds = np.repeat(np.arange(8), 30)
    made = made._replace(objects=np.arange(240) % placing.OBJECTS, backgrounds=backgrounds)
    targets = generator.normal(size=(240, 3))
    of_background = generator.normal(size=8)[backgrounds]
    features = targets[:, :2] + 2 * of_background[:, None]  # errors that are alike within a background
    together = placing.decode(features, targets, made, 0).summary["both"]
    apart = placing.decode(features, targets, made._replace(backgrounds=np.arange(240)), 0).summary["both"]
    assert together["high"] - together["low"] > 1.5 * (apart["high"] - apart["low"])
    sums = placing.sums_by(np.arange(8.0).reshape(4, 2), np.array([5, 2, 5, 2]))
    np.testing.assert_array_equal(sums, [[8, 10], [4, 6]])


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
    np.testing.assert_array_equal(shifting.shift_sizes((64, 64, 3), 8), [8, 16, 24, 32])
    np.testing.assert_array_equal(shifting.shift_sizes((64, 64, 3), 1), [1, 11, 22, 32])
    np.testing.assert_array_equal(shifting.shift_sizes((16, 64, 3), 8), [8])


def test_objects_are_pasted_where_the_corners_say_and_nothing_else_changes():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 24, 1), np.uint8)
    before = images.copy()
    made = placing.compose(images, 60, 4, seed=0)
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
            placing.compose(few, count, 4, seed=0)
        assert "\n" not in str(caught.value)


def test_places_are_decoded_from_features_that_hold_them_and_from_nothing_else():
    generator = np.random.default_rng(0)
    images = np.broadcast_to(generator.integers(0, 256, (300, 1, 1, 1), np.uint8), (300, 16, 16, 1))
    made = placing.compose(images, 240, 2, seed=0)
    targets, noise = placing.targets_of(made), generator.normal(size=(240, 5))
    np.testing.assert_allclose(targets[:, 2], made.images.reshape(240, -1).mean(1) / 255)

    def decoded(features, targets=targets):
        return placing.decode(features, targets, made, 0).summary

    told = np.concatenate([made.corners @ generator.normal(size=(2, 4)), noise], 1)
    assert decoded(told)["both"]["value"] > 0.999 and decoded(told)["intensity"]["value"] < 0.05
    half = decoded(np.concatenate([made.corners[:, :1] + 0.0, noise], 1))
    assert half["row"]["value"] > 0.99 and half["column"]["high"] < 0.1
    assert half["both"]["low"] < half["both"]["value"] < half["both"]["high"]
    assert decoded(noise)["both"]["value"] < 0.05
    assert decoded(targets[:, 2:])["intensity"]["value"] > 0.999
    permuted = placing.permuted_within_objects(targets, made.objects, 1)
    assert decoded(told, permuted)["both"]["value"] < 0.05
    for number in range(placing.OBJECTS):
        here = made.objects == number
        np.testing.assert_array_equal(np.sort(permuted[here], 0), np.sort(targets[here], 0))


def test_a_channel_that_hardly_fired_before_does_not_throw_places_out_of_the_image():
    images = np.random.default_rng(0).integers(0, 256, (300, 16, 16, 1), np.uint8)
    made = placing.compose(images, 240, 2, seed=0)
    names = np.unique(made.backgrounds)
    told, hardly = made.corners + np.random.default_rng(1).normal(0, 1, size=(240, 2)), np.isin(made.backgrounds, names[:40])
    sparse = np.where(hardly, 1e-6 * made.corners[:, 0], 1000.0 * (made.backgrounds == names[-1]))
    features = np.concatenate([told, sparse[:, None]], 1)
    assert placing.decode(features, placing.targets_of(made), made, 0).summary["both"]["low"] > 0.5


def test_one_image_that_moves_far_carries_the_root_mean_square_and_not_the_median():
    averages = np.repeat(np.random.default_rng(0).uniform(size=(101, 1, 7)), 3, axis=1)
    averages[:, 1:] += 1e-3
    averages[0, 1:] += 10
    found = shifting.describe_change(shifting.block_changes(averages), 0)
    assert found["of_distance"]["value"] > 100 * found["of_images"]["third_quartile"] > 0


def test_the_change_over_the_distance_has_no_unit():
    averages = np.random.default_rng(0).uniform(size=(20, 5, 7))
    one, two = (shifting.describe_change(shifting.block_changes(f * averages), 0) for f in (1, 1000))
    assert one["of_distance"]["value"] == pytest.approx(two["of_distance"]["value"])
    change = shifting.block_changes(averages)
    assert change.between.mean() == pytest.approx(
        np.mean([np.sum((a - b) ** 2) for i, a in enumerate(averages[:, 0]) for b in averages[:i, 0]])
    )
