"""Robustness to noise: on averages whose change is known, and against loops over images and levels."""

import json
import re

import jax
import numpy as np
import pytest
from scipy import stats
from test_stages import make_context  # noqa: F401 (a fixture)

from unetrep_jax import measures, representation, stages
from unetrep_jax.figures import robustness as figures
from unetrep_jax.stages import robustness, robustness_section
from unetrep_jax.stages.context import reference_level

LEVELS = (0.0, 10.0, 30.0, 50.0, 100.0, 300.0)
BLOCKS = ("encoder0", "encoder1", "mid", "decoder1")


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """XLA compiles these tiny programs several times faster than it optimises them."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def run(context):
    folder = context.outdir / "robustness"
    robustness.run_robustness(context, folder, "key")
    with np.load(folder / "arrays.npz") as arrays:
        return dict(arrays), json.loads((folder / "summary.json").read_text())


def write_sweep(folder, mean, variance):
    folder.mkdir()
    np.save(folder / "mean.npy", np.asarray(mean, np.float32))
    np.save(folder / "variance.npy", np.asarray(variance, np.float32))


def write_sweeps(context, blocks, variance=0.0):
    """The same averages [n, levels, 6] of each block for both networks; the untrained one saw some of the images only."""
    mean = np.concatenate([blocks[name] for name in BLOCKS], axis=-1)
    for name, seen in {"representations": mean, "untrained": mean[context.untrained_subset]}.items():
        write_sweep(context.outdir / name, seen, np.full((*seen.shape[:2], 4), variance))


def turned(vectors, angles):
    """Vectors [n, k] turned by each angle [levels] in a plane that holds them: [n, levels, k]."""
    across = np.random.default_rng(9).normal(size=vectors.shape)
    across -= (across * vectors).sum(1, keepdims=True) / (vectors**2).sum(1, keepdims=True) * vectors
    across *= np.linalg.norm(vectors, axis=1, keepdims=True) / np.linalg.norm(across, axis=1, keepdims=True)
    return vectors[:, None] * np.cos(angles)[:, None] + across[:, None] * np.sin(angles)[:, None]


def cells(tables):
    return [str(cell) for table in tables for row in table.rows for cell in row if cell is not None]


@pytest.fixture
def scaled_middle(make_context):  # noqa: F811
    """The middle block is only scaled, and collapses; the others turn, the first encoder most."""
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0, draws=2)
    vectors = np.random.default_rng(0).uniform(0.1, 1, (60, 6))
    factors = np.array([0.1, 0.5, 0.8, 1, 2, 4])
    angles = np.array([0.9, 0.6, 0.4, 0, 0.2, 0.6])
    blocks = {"mid": vectors[:, None] * factors[:, None]}
    blocks |= {b: turned(vectors, angles * k) for b, k in {"encoder0": 2, "encoder1": 1, "decoder1": 0.5}.items()}
    write_sweeps(context, blocks)
    return context, angles, factors


def test_scaling_and_turning_are_told_apart_and_the_most_stable_block_is_found(scaled_middle):
    context, angles, factors = scaled_middle
    arrays, summary = run(context)
    assert summary["reference_times_255"] == 50 and summary["compared_times_255"] == [30, 100, 300]
    blocks = summary["trained"]["blocks"]
    assert blocks["mid"]["direction"]["value"] == pytest.approx(1, abs=1e-6)
    assert blocks["mid"]["scaling"]["value"] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(blocks["mid"]["length"]["value"], factors, rtol=1e-5)
    for block, k in {"encoder0": 2, "encoder1": 1, "decoder1": 0.5}.items():
        assert blocks[block]["direction"]["value"] == pytest.approx(np.cos(k * angles)[[2, 4, 5]].mean(), abs=1e-5)
        cosine = np.cos(k * angles)[[2, 4, 5]]  # a turn by an angle has (cos - 1)^2 of 2 - 2 cos along the vector
        assert blocks[block]["scaling"]["value"] == pytest.approx(
            ((cosine - 1) ** 2).sum() / (2 - 2 * cosine).sum(), abs=1e-5
        )
        np.testing.assert_allclose(blocks[block]["length"]["value"], np.ones(6), rtol=1e-5)
    place = BLOCKS.index("encoder1")
    expected = np.cos(angles[:, None] - angles)
    np.testing.assert_allclose(arrays["trained/cosines"][place], expected, atol=1e-5)
    np.testing.assert_allclose(arrays["trained/direction"][place], expected[:, [3] * 3], atol=1e-5)
    np.testing.assert_allclose(arrays["trained/length"][BLOCKS.index("mid")], np.stack([factors] * 3, 1), rtol=1e-5)
    first = summary["trained"]["most_stable"]["direction"]
    assert (first["block"], first["next"]) == ("mid", "decoder1")
    gap = 1 - np.cos(0.5 * angles)[[2, 4, 5]].mean()
    assert first["difference"]["value"] == pytest.approx(gap, abs=1e-5)


def test_the_claims_say_what_the_numbers_say(scaled_middle):
    context, _, _ = scaled_middle
    section = robustness_section.section_robustness(context, *run(context))
    assert [claim.holds for claim in section.claims] == ["in part"] * 3  # the untrained network has the same averages
    assert "mid leads" in section.claims[0].here and "0.10 (0.10–0.10)" in section.claims[2].here
    assert all(claim.null.startswith("untrained") for claim in section.claims)
    assert section.tables[0].rows[1][1] == "output of encoder0" and section.tables[0].rows[0][1] == "the image"


def test_the_claims_hold_where_the_untrained_network_does_none_of_it(scaled_middle):
    context, angles, _ = scaled_middle
    vectors = np.random.default_rng(8).uniform(0.1, 1, (30, 6))
    mean = np.concatenate([turned(vectors, angles * k) for k in (0.5, 1, 3, 2)], axis=-1)
    np.save(context.outdir / "untrained" / "mean.npy", np.float32(mean))
    arrays, summary = run(context)
    differences = summary["trained_less_untrained"]
    assert differences["images"] == 30
    for block, trained, untrained in zip(BLOCKS, (2, 1, 0, 0.5), (0.5, 1, 3, 2), strict=True):
        turns = [1 - np.cos(k * angles)[[2, 4, 5]].mean() for k in (trained, untrained)]
        found = differences["blocks"][block]["direction"]
        np.testing.assert_allclose([found[end] for end in ("low", "value", "high")], turns[0] - turns[1], atol=1e-5)
    section = robustness_section.section_robustness(context, arrays, summary)
    assert [claim.holds for claim in section.claims] == ["yes"] * 3
    words = robustness_section.estimate_text(differences["blocks"]["mid"]["direction"], None)
    assert f"turn of mid less that of the untrained mid: plain {words}, centred" in section.claims[0].here
    (table,) = (table for table in section.tables if "less that in the untrained one" in table.caption)
    assert [row[0] for row in table.rows] == list(BLOCKS) and table.rows[2][1] == words


def lead(block, low):
    return {"block": block, "next": "decoder1", "difference": {"value": 1, "low": low, "high": 2}}


@pytest.mark.parametrize(
    ("plain", "centred", "answers"),
    [
        (lead("mid", 0.1), lead("mid", 0.2), [True, True]),
        (lead("mid", -0.1), lead("encoder1", 0.2), [False, False]),
        (None, lead("mid", None), [None, None]),
    ],
)
def test_the_middle_block_leads_where_the_interval_of_its_lead_is_above_zero(plain, centred, answers):
    assert robustness_section.leads_with_mid({"direction": plain, "centred_direction": centred}) == answers


def test_a_change_is_mainly_one_of_length_where_the_interval_is_above_a_half_and_a_quarter_is_collapse():
    numbers = {"scaling": {"low": 0.6}, "centred_scaling": {"low": 0.4}}
    assert robustness_section.mainly_scaled(numbers) == [True, False]
    assert robustness_section.mainly_scaled(numbers | {"scaling": {"low": None}}) == [None, False]
    found = [robustness_section.collapsed(length) for length in (0.2, 0.5, 0.9, None)]
    assert found == [[True, True], [False, True], [False, False], [None, None]]


def test_networks_are_compared_over_the_images_that_both_saw(make_context):  # noqa: F811
    """Neither other images nor their part in the mean count; where both say the same of each image, nothing is uncertain."""
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    seen = context.untrained_subset
    generator = np.random.default_rng(10)
    values = 1 + generator.normal(size=(60, 1, 6)) + 0.5 * generator.normal(size=(60, len(LEVELS), 6))
    values[np.setdiff1d(np.arange(60), seen)] += 5 * generator.normal(size=(30, len(LEVELS), 6))
    write_sweeps(context, dict.fromkeys(BLOCKS, values))
    _, summary = run(context)
    of_mid = [summary[network]["blocks"]["mid"] for network in ("trained", "untrained")]
    for name in ("direction", "centred_direction"):
        assert of_mid[0][name]["value"] < of_mid[1][name]["low"] < of_mid[1][name]["high"]
        assert set(summary["trained_less_untrained"]["blocks"]["mid"][name].values()) == {0}
    others = np.concatenate([generator.uniform(0.1, 1, (30, len(LEVELS), 6))] * 4, axis=-1)
    np.save(context.outdir / "untrained" / "mean.npy", np.float32(others))
    _, summary = run(context)
    plain, centred = [], []
    for of in (np.float32(values)[seen], np.float32(others)[..., :6]):
        cosines = measures.cosine(of[:, [2, 4, 5]], of[:, [3]]).mean(1)
        of = of - of.mean(0, dtype=float)
        products, squares = (of * of[:, [3]]).sum((0, 2)), (of**2).sum((0, 2))
        plain.append(1 - cosines)
        centred.append(1 - (products / np.sqrt(squares * squares[3]))[[2, 4, 5]].mean())
    difference = plain[0] - plain[1]
    found = summary["trained_less_untrained"]["blocks"]["mid"]
    assert found["direction"]["value"] == pytest.approx(difference.mean(), abs=1e-6)
    assert found["centred_direction"]["value"] == pytest.approx(centred[0] - centred[1], abs=1e-6)
    low, high = stats.t.interval(0.95, 29, difference.mean(), stats.sem(difference))
    assert found["direction"]["high"] - found["direction"]["low"] == pytest.approx(high - low, rel=0.15)


def test_lengths_and_variances_are_printed_at_three_levels_of_both_networks(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    write_sweeps(context, dict.fromkeys(BLOCKS, np.random.default_rng(11).uniform(0.1, 1, (60, 6, 6))), 0.1)
    _, summary = run(context)
    names = {"length": robustness_section.length_table, "variance": robustness_section.variance_table}
    for (name, table_of), levels in zip(names.items(), ((0, 4, 5), (1, 4, 5)), strict=True):
        table = table_of(context, summary)
        assert table.header[1:3] == (f"at {LEVELS[levels[0]]:g}, trained", f"at {LEVELS[levels[0]]:g}, untrained")
        both = [summary[network]["blocks"]["mid"][name] for network in ("trained", "untrained")]
        decimals = 3 if name == "length" else None
        expected = [robustness_section.estimate_text(of, decimals, level) for level in levels for of in both]
        assert table.rows[2] == ("mid", *expected) and None not in expected


@pytest.mark.parametrize(
    ("sigmas", "working", "shown"),
    [
        ((0.0, 10.0, 25.0, 50.0, 100.0), 100.0, [0, 2, 4]),  # the working level is an end: the middle one
        ((0.0, 10.0, 25.0, 50.0, 100.0), 10.0, [0, 1, 4]),
        ((100.0, 0.0, 10.0), 10.0, [1, 2, 0]),  # by rising level
        ((0.0, 100.0), 100.0, [0, 1]),
        ((100.0,), 100.0, [0]),
    ],
)
def test_tables_show_the_ends_of_the_grid_and_the_working_level(make_context, sigmas, working, shown):  # noqa: F811
    context = make_context(sigmas=sigmas, sigma=working)
    assert robustness_section.shown_levels(context, range(len(sigmas))) == shown


def test_what_images_share_stands_beside_what_they_share_in_the_untrained_network(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    signs = np.where(np.arange(60) % 2, -1, 1)[:, None, None] * np.ones((1, 6, 6))
    write_sweep(context.outdir / "representations", np.tile(3 + signs, 4), np.zeros((60, 6, 4)))
    write_sweep(context.outdir / "untrained", np.tile(1 + signs[:30], 4), np.zeros((30, 6, 4)))
    _, summary = run(context)
    table = robustness_section.direction_table(context, summary)
    assert table.header[-2:] == ("shared, trained", "shared, untrained")
    assert [cell.split()[0] for cell in table.rows[2][-2:]] == ["0.9000", "0.5000"]  # 3^2 / (3^2 + 1), 1 / (1 + 1)
    shared = summary["untrained"]["blocks"]["mid"]["shared"]
    assert 0.2 < shared["low"] < 0.5 < shared["high"] < 0.8  # of 30 images whose squared lengths are 0 and 4 by turns


def test_centred_cosines_forget_the_vector_that_all_images_share(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    generator = np.random.default_rng(1)
    own = generator.normal(size=(60, len(LEVELS), 6))  # nothing in common between levels
    blocks = {name: 100 + own for name in BLOCKS}
    write_sweeps(context, blocks)
    arrays, summary = run(context)
    numbers = summary["trained"]["blocks"]["mid"]
    assert numbers["direction"]["value"] > 0.999 and numbers["shared"]["value"] > 0.999
    assert abs(numbers["centred_direction"]["value"]) < 0.15
    centred = own - own.mean(0)
    flat = centred.transpose(1, 0, 2).reshape(len(LEVELS), -1)
    np.testing.assert_allclose(arrays["trained/centred_cosines"][2], np.corrcoef(flat), atol=2e-3)
    assert (
        numbers["centred_direction"]["low"]
        < numbers["centred_direction"]["value"]
        < numbers["centred_direction"]["high"]
    )


def test_the_scatter_of_few_draws_is_taken_off_lengths_and_bounds_what_it_turns(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0, draws=2)
    generator = np.random.default_rng(2)
    phi = np.broadcast_to(generator.uniform(0.5, 1, (4000, 1, 6)), (4000, len(LEVELS), 6))
    draws = phi + 0.15 * generator.normal(size=(2, 4, 4000, len(LEVELS), 6))  # draw, block
    mean, variance = draws.mean(0), draws.var(0, ddof=1).sum(-1)
    for name in ("representations", "untrained"):
        write_sweep(context.outdir / name, np.concatenate(mean, axis=-1), variance.transpose(1, 2, 0))
    _, summary = run(context)
    numbers = summary["trained"]["blocks"]["mid"]
    across = 6 * 0.15**2 / 2 / (phi[:, 0] ** 2).sum(-1).mean()  # of a mean of two draws, over the squared length
    assert numbers["scatter"] == pytest.approx(across, rel=0.1)
    assert 1 - numbers["direction"]["value"] == pytest.approx(5 / 6 * across, rel=0.1)  # a sixth is along phi
    assert numbers["centred_direction"]["value"] == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(numbers["length"]["value"], 1, atol=0.01)
    np.testing.assert_allclose(numbers["variance"]["value"], 2 * across, rtol=0.1)


def test_draws_that_scatter_along_phi_do_not_turn_it(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0, draws=2)
    generator = np.random.default_rng(3)
    phi = generator.uniform(0.5, 1, (500, 1, 6))
    draws = phi * (1 + 0.2 * generator.normal(size=(2, 500, len(LEVELS), 1)))
    variance = np.repeat(draws.var(0, ddof=1).sum(-1)[..., None], 4, -1)
    for name in ("representations", "untrained"):
        write_sweep(context.outdir / name, np.tile(draws.mean(0), 4), variance)
    _, summary = run(context)
    assert summary["trained"]["blocks"]["mid"]["direction"]["value"] == pytest.approx(1, abs=1e-6)
    assert summary["trained"]["blocks"]["mid"]["scatter"] > 0.01


def test_images_that_are_scaled_by_factors_of_their_own_are_scaled(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    generator = np.random.default_rng(5)
    factors = np.where(generator.uniform(size=(60, 6, 1)) < 0.5, 0.5, 1.5)  # one factor for all would explain nothing
    factors[:, 3] = 1
    write_sweeps(context, dict.fromkeys(BLOCKS, generator.uniform(0.1, 1, (60, 1, 6)) * factors))
    _, summary = run(context)
    assert summary["trained"]["blocks"]["mid"]["scaling"]["value"] == pytest.approx(1, abs=1e-6)
    assert summary["trained"]["blocks"]["mid"]["centred_scaling"]["value"] < 0.3


def test_the_interval_of_a_mean_cosine_is_students_over_the_images_that_have_one(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    values = np.random.default_rng(6).uniform(0.1, 1, (60, len(LEVELS), 6))
    values[:2, 4] = 0  # no direction at one level
    write_sweeps(context, dict.fromkeys(BLOCKS, values))
    arrays, summary = run(context)
    lengths = np.linalg.norm(np.float32(values), axis=2)
    for first, second, images in ((0, 3, slice(None)), (1, 4, slice(2, None)), (5, 0, slice(None))):
        cosines = (values[:, first] * values[:, second]).sum(1)[images]
        cosines /= (lengths[:, first] * lengths[:, second])[images]
        low, high = stats.t.interval(0.95, len(cosines) - 1, cosines.mean(), stats.sem(cosines))
        found = arrays["trained/cosines_half_width"][2, first, second]
        assert found == pytest.approx((high - low) / 2, rel=1e-5)
    off_diagonal = arrays["trained/cosines_half_width"][2][~np.eye(len(LEVELS), dtype=bool)]
    matrix = summary["trained"]["blocks"]["mid"]["matrix"]["cosines"]
    assert matrix["largest_half_width"] == off_diagonal.max()
    assert matrix["lowest"] == arrays["trained/cosines"][2].min()


def test_images_that_all_turn_alike_have_a_mean_cosine_without_an_interval(scaled_middle):
    arrays, _ = run(scaled_middle[0])
    assert np.nanmax(arrays["trained/cosines_half_width"]) < 1e-7  # the averages are of single precision


def test_the_interval_of_a_centred_cosine_is_that_of_a_jackknife_over_groups(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    generator = np.random.default_rng(7)
    values = 3 + generator.normal(size=(60, 1, 6)) + 0.5 * generator.normal(size=(60, len(LEVELS), 6))
    write_sweeps(context, dict.fromkeys(BLOCKS, values))
    arrays, _ = run(context)
    centred = np.float32(values) - np.float32(values).mean(0, dtype=float)
    groups = robustness.groups_of_images(60, 0)
    assert (np.bincount(groups) == 3).all() and len(np.unique(groups)) == 20
    left_out = np.array([(centred[groups != g, 1] * centred[groups != g, 4]).sum() for g in range(20)])
    left_out /= [np.sqrt((centred[groups != g][:, [1, 4]] ** 2).sum((0, 2)).prod()) for g in range(20)]
    expected = stats.t.ppf(0.975, 19) * np.sqrt(19 * left_out.var())
    assert arrays["trained/centred_cosines_half_width"][2, 1, 4] == pytest.approx(expected, rel=1e-4)


def test_a_jackknife_of_cosines_has_the_spread_of_other_images_in_their_place():
    generator = np.random.default_rng(8)
    clouds = generator.normal(size=(300, 400, 1, 3)) + 0.7 * generator.normal(size=(300, 400, 2, 3))
    products = np.einsum("trlk,trmk->trlm", clouds, clouds).reshape(300, 20, 20, 2, 2).sum(2)
    widths = [robustness.half_width_of_ratios(of_cloud)[0, 1] for of_cloud in products]
    cosines = [measures.cosines_of_products(of_cloud.sum(0))[0, 1] for of_cloud in products]
    assert np.mean(widths) == pytest.approx(stats.t.ppf(0.975, 19) * np.std(cosines), rel=0.15)
    assert np.mean(np.abs(np.subtract(cosines, 1 / 1.49)) < widths) == pytest.approx(0.95, abs=0.04)


def test_intervals_of_too_few_images_are_not_known():
    assert np.isnan(robustness.half_width_of_ratios(np.zeros((20, 2, 2)))).all()
    one = np.zeros((20, 2, 2))
    one[3] = np.eye(2)
    assert np.isnan(robustness.half_width_of_ratios(one)).all()
    found = robustness.half_width_of_means(np.array([0.0, 0.9, 1.8]), np.array([0, 0.01, 0.02]), np.array([0.0, 1, 2]))
    np.testing.assert_allclose(found, [np.nan, np.nan, 0], atol=1e-7)


def test_a_real_sweep_gives_what_loops_over_its_images_give(make_context):  # noqa: F811
    context = make_context(sigmas=(0.0, 50.0, 100.0, 200.0), robustness_sigma=90.0)
    stages.run_stages(context, ["representations", "untrained"], [])
    arrays, summary = run(context)
    columns = representation.layout(context.denoiser, (8, 8, 3))
    mean = columns.of(np.load(context.outdir / "representations" / "mean.npy"), "mid").astype(float)
    variance = np.load(context.outdir / "representations" / "variance.npy")[..., 2]
    cosines, lengths = np.empty((60, 4)), np.empty((60, 4))
    for image in range(60):
        square = [mean[image, s] @ mean[image, s] - variance[image, s] / 2 for s in range(4)]
        for s in range(4):
            norms = np.linalg.norm(mean[image, s]) * np.linalg.norm(mean[image, 2])
            cosines[image, s] = mean[image, s] @ mean[image, 2] / norms
            lengths[image, s] = np.sqrt(square[s] / square[2])
    relative = np.where(variance > 0, variance, 0) / ((mean**2).sum(-1) - np.nan_to_num(variance) / 2)
    for name, values in {"direction": cosines, "length": lengths, "variance": relative}.items():
        low, middle, high = arrays[f"trained/{name}"][2].T
        np.testing.assert_allclose(middle, values.mean(0), rtol=1e-4, atol=1e-7)
        errors = 2 * stats.t.ppf(0.975, 59) * stats.sem(values)  # the width of Student's interval of the mean
        np.testing.assert_allclose(high - low, errors, rtol=0.15, atol=1e-6)
    numbers = summary["trained"]["blocks"]["mid"]
    assert numbers["direction"]["value"] == pytest.approx(cosines[:, [1, 3]].mean(), abs=1e-5)
    assert numbers["direction"]["low"] <= numbers["direction"]["value"] <= numbers["direction"]["high"]
    assert summary["untrained"]["images"] == 30


def test_chunks_of_any_size_give_the_same_arrays(scaled_middle, monkeypatch):
    whole, _ = run(scaled_middle[0])
    monkeypatch.setattr(robustness, "CHUNK_BYTES", 7 * 6 * 24 * 8)  # seven images at once
    parts, _ = run(scaled_middle[0])
    assert whole.keys() == parts.keys()
    for name in whole:
        np.testing.assert_allclose(parts[name], whole[name], rtol=1e-6, atol=1e-7)


def test_images_without_a_length_are_counted_and_no_table_holds_a_nan(make_context):  # noqa: F811
    context = make_context(sigmas=LEVELS, robustness_sigma=50.0)
    values = np.random.default_rng(3).uniform(0.1, 1, (60, len(LEVELS), 6))
    values[5] = values[6, 4] = 0
    write_sweeps(context, {name: values if name != "encoder0" else 0 * values for name in BLOCKS})
    arrays, summary = run(context)
    assert summary["trained"]["blocks"]["mid"]["undefined"] == 7
    assert summary["trained"]["blocks"]["encoder0"]["direction"]["value"] is None
    section = robustness_section.section_robustness(context, arrays, summary)
    assert not [cell for cell in cells(section.tables) if re.search(r"\bnan\b", cell.lower())]
    assert "of an image's squared lengths" in " ".join(section.text)


@pytest.mark.parametrize(("sigmas", "draws"), [((0.0, 100.0), 2), ((100.0,), 2), (LEVELS, 1)])
@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_a_grid_with_nothing_to_compare_and_a_single_draw_are_shown_as_such(make_context, sigmas, draws):  # noqa: F811
    context = make_context(sigmas=sigmas, draws=draws, robustness_sigma=50.0)
    values = np.random.default_rng(4).uniform(0.1, 1, (60, len(sigmas), 6))
    write_sweeps(context, dict.fromkeys(BLOCKS, values), 0.1 if draws > 1 else np.nan)
    arrays, summary = run(context)
    tables = [
        robustness_section.direction_table(context, summary),
        robustness_section.length_table(context, summary),
        robustness_section.variance_table(context, summary),
        robustness_section.scaling_table(summary),
        robustness_section.ranking_table(summary),
        robustness_section.difference_table(summary),
        robustness_section.matrix_table(summary),
    ]
    assert not [cell for cell in cells(tables) if re.search(r"\bnan\b", cell.lower())]
    text = " ".join(robustness_section.section_text(summary))
    assert ("nothing to compare" in text) == (len(sigmas) < 3)
    assert ("scatter of the draws is not known" in text) == (draws == 1)
    holds = [claim.holds for claim in robustness_section.claims(context, summary)]
    assert (holds[:2] == ["", ""]) == (len(sigmas) < 3)
    curves = [arrays[f"trained/{name}"] for name in ("direction", "centred_direction", "length", "variance")]
    of_networks = [{"trained": dict(zip(BLOCKS, curve, strict=True))} for curve in curves]
    figures.robustness_curves(context.sigmas, *of_networks, reference=100).draw_without_rendering()
    matrices = {"trained": dict(zip(BLOCKS, arrays["trained/cosines"], strict=True))}
    figures.cosine_matrices(context.sigmas, matrices, matrices).draw_without_rendering()


def test_the_reference_is_the_nearest_level_above_zero(make_context):  # noqa: F811
    def reference(*sigmas):
        return reference_level(make_context(sigmas=sigmas, robustness_sigma=50.0))

    assert reference(0.0, 10.0, 45.0, 70.0) == 2
    assert reference(0.0, 120.0) == 1
    assert reference(40.0, 60.0) == 0
