"""The embedding stage: streaming and batches change nothing, and its numbers are those of the saved arrays."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from test_stages import SETTINGS, WEIGHTS, colour_denoiser, image_set

from unetrep_jax import densities, noise, report, stages, storage
from unetrep_jax.figures import embedding as drawn
from unetrep_jax.stages import embedding, embedding_pairs, embedding_section, wording
from unetrep_jax.storage import InputError

OWN = {
    "embedding_pairs": 12, "embedding_reconstructed_pairs": 4, "embedding_samples": 2, "embedding_draws": 2,
    "embedding_levels": 3, "embedding_sigma_end": 0.1, "embedding_updates": 3,
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of this file's time is XLA's; no test here measures speed."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def context_in(outdir, images=None, weights=WEIGHTS, **settings):
    context = stages.Context(
        denoiser=colour_denoiser(weights),
        untrained=lambda: colour_denoiser(-weights),
        images=image_set() if images is None else images,
        training_images=lambda: image_set(seed=1),
        settings=SimpleNamespace(**SETTINGS | OWN | settings),
        identity="checkpoint",
        facts={},
        training_log=outdir / "none.jsonl",
        outdir=outdir,
    )
    stages.run_stages(context, ["representations"], [])
    return context


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The stage, run once: (context, arrays, summary)."""
    context = context_in(tmp_path_factory.mktemp("embedding"))
    folder = context.outdir / "embedding"
    embedding.run_embedding(context, folder, "key")
    with np.load(folder / "arrays.npz") as arrays:
        return context, dict(arrays), storage.read_json(folder / "summary.json")


def every_pair(arrays):
    pairs, some = arrays["pairs"], arrays["some"]
    return np.concatenate([pairs, np.repeat(pairs[some, :1], 2, axis=1)])


def test_what_is_saved_are_distances_of_the_pairs_and_the_numbers_follow_from_them(made):
    context, arrays, summary = made
    pairs, images = arrays["pairs"], context.images.images / np.float32(255)
    assert pairs.shape == (12, 2) and (pairs[:, 0] != pairs[:, 1]).all()
    pixels = ((images[pairs[:, 0]] - images[pairs[:, 1]]) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(arrays["squares/pixels"], pixels, rtol=1e-5)
    assert (arrays["squares/pca"] <= pixels).all() and (arrays["squares/pca"] > 0).all()
    for name, denoiser in (("phi", context.denoiser), ("untrained", context.untrained())):
        z = np.random.default_rng(0).standard_normal((1000, *images.shape[1:])).astype(np.float32)
        exact = np.stack([denoiser.represent(image + 100 / 255 * z).mean(0) for image in images])
        expected = ((exact[pairs[:, 0]] - exact[pairs[:, 1]]) ** 2).sum(1)
        noise_in = arrays["noise_in_squares"]
        assert (abs(arrays[f"squares/{name}"] - expected) < 4 * np.sqrt(noise_in * expected) + 6 * noise_in).all()
    row, ratios = summary["features"]["phi"], arrays["distance"] / arrays["squares/phi"]
    assert row["ratio"]["value"] == pytest.approx(ratios.max() / ratios.min(), rel=1e-5)
    assert row["low"]["value"] == pytest.approx(ratios.min(), rel=1e-5)
    assert summary["same"]["images"] == 4 and summary["pairs"] == 12 and summary["excluded"] == 0
    assert summary["same"]["median"] < summary["distance"][1]
    arm = summary["arms"]["reconstructions"]
    around = arrays["reconstructions/distance"] / arrays["distance"][arrays["some"]]
    assert arm["ratio_to_cheap"]["median"] == pytest.approx(np.median(around), rel=1e-5)
    assert summary["arms"]["images"]["spearman_with_cheap"] == pytest.approx(1)
    own = arrays["untrained/distance"] / arrays["squares/untrained"][arrays["some"]]
    assert summary["arms"]["untrained"]["ratio"] == pytest.approx(own.max() / own.min(), rel=1e-5)


def test_pairs_cover_the_range_of_distances_in_phi(made):
    context, arrays, _ = made
    features = stages.context.phi(context, "representations", context.working)
    squares = embedding_pairs.squared(features, arrays["pairs"])
    between = ((features[:, None] - features[None]) ** 2).sum(-1)
    assert (np.diff(squares) >= 0).all()
    assert squares[0] == pytest.approx(between[np.triu_indices(60, 1)].min(), rel=1e-4)
    assert squares[-1] == pytest.approx(between.max(), rel=0.2)  # where its images are taken, another within a step
    pixels = (context.images.images / 255).reshape(60, -1)
    between = ((pixels[:, None] - pixels[None]) ** 2).sum(-1)[np.triu_indices(60, 1)]
    squares = embedding_pairs.squared(pixels, arrays["pairs"])
    assert squares.min() < np.quantile(between, 0.01) and squares.max() > np.quantile(between, 0.9)


def test_a_distance_is_that_of_plain_loops_over_levels_draws_and_directions(made):
    context, arrays, _ = made
    settings, place = context.settings, 7
    clean = context.images.images[arrays["pairs"][place]] / np.float32(255)

    @jax.jit
    def contribution(key, sigma, own, other):
        y = own + sigma * jax.random.normal(jax.random.fold_in(key, 0), own.shape)
        denoised = []
        for purpose, image in ((1, own), (2, other)):
            of_target = [jax.random.fold_in(jax.random.fold_in(key, purpose), k) for k in range(settings.target_draws)]
            noisy = jnp.stack([image + sigma * jax.random.normal(k, image.shape) for k in of_target])
            target = context.denoiser.represent(noisy).mean(0, keepdims=True)
            denoise = densities.conditional_denoise(context.denoiser, target, densities.Matching(updates=3))
            denoised.append(denoise(y[None], sigma))
        return jnp.sum(((denoised[0] - denoised[1]) / sigma) ** 2)

    parts = np.zeros((2, 3, 2))
    for level, sigma in enumerate(arrays["sigmas"].astype(np.float32)):
        key = noise.level_key(
            jax.random.fold_in(jax.random.key(settings.seed), embedding_pairs.PURPOSE), jnp.asarray(sigma)
        )
        keys = jax.random.split(jax.random.fold_in(key, place), 4)
        for side, draw in itertools.product(range(2), range(2)):
            parts[side, level, draw] = contribution(keys[2 * side + draw], sigma, clean[side], clean[1 - side])
    expected = densities.integrate(parts, arrays["sigmas"])
    assert arrays["distance"][place] == pytest.approx(expected.value, rel=1e-3)
    assert arrays["error"][place] == pytest.approx(expected.error, rel=1e-2)
    np.testing.assert_allclose(arrays["by_level"][place], expected.by_level, rtol=1e-3)


def killed_after(monkeypatch, appends):
    """Makes the computation end after so many appends; lists all of them."""
    monkeypatch.setattr("time.monotonic", itertools.count(0, 10).__next__)  # time to record, at every look
    original, calls = storage.RowWriter.append, []

    def append(self, **rows):
        original(self, **rows)
        calls.append(len(next(iter(rows.values()))))
        if len(calls) == appends:
            raise KeyboardInterrupt

    monkeypatch.setattr(storage.RowWriter, "append", append)
    return calls


def test_neither_the_batch_nor_a_kill_changes_a_distance(made, monkeypatch):
    context, arrays, _ = made
    context = context._replace(settings=SimpleNamespace(**vars(context.settings) | {"reconstruction_batch": 5}))
    numbers = np.array([3, 0, 11, 12, 1, 2, 4, 13])
    arguments = context, embedding.around_images(context), every_pair(arrays), numbers, context.outdir / "again", "key"
    calls = killed_after(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        embedding.measured(*arguments)
    found = embedding.measured(*arguments)
    assert calls == [5, 3]  # no batch was made twice
    both = np.concatenate([arrays["distance"], arrays["same_distance"]])
    np.testing.assert_allclose(found.value, both[numbers], rtol=1e-3)


def test_neither_the_batch_nor_a_kill_changes_a_reconstruction(made, monkeypatch):
    context, arrays, _ = made
    context = context._replace(settings=SimpleNamespace(**vars(context.settings) | {"reconstruction_batch": 3}))
    rows = np.unique(arrays["pairs"][arrays["some"]])
    calls = killed_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        embedding.reconstructions(context, rows, context.outdir / "made", "key")
    images = embedding.reconstructions(context, rows, context.outdir / "made", "key")
    assert sum(calls) == 2 * len(rows)
    saved = np.load(context.outdir / "embedded" / "samples" / "images.npy")
    np.testing.assert_allclose(images.reshape(saved.shape), saved, rtol=1e-2, atol=1e-3)


def test_few_grey_images_without_labels_can_be_compared_without_principal_components(tmp_path):
    few = image_set()
    grey = few._replace(images=few.images[:6, ..., :1], labels=None, fingerprint="grey")
    context = context_in(tmp_path, images=grey, weights=WEIGHTS[:1])
    pairs = embedding_pairs.choose_pairs(context)
    assert len(pairs) == 12 and len(np.unique(pairs, axis=0)) == 12
    squares = embedding_pairs.squared_distances(context, pairs)
    assert squares.keys() == {
        "squares/pixels", "squares/phi", "squares/untrained", "noise_in_squares", "channels/phi", "channels/untrained",
    }  # fmt: skip
    found = embedding.measured(
        context, embedding.around_images(context), pairs, np.arange(3), tmp_path / "parts", "key"
    )
    assert found.value.shape == (3,) and (found.value > 0).all()


def printed(section):
    cells = [str(cell) for table in section.tables for row in table.rows for cell in row]
    return " ".join([*section.text, *cells, *(claim.here + claim.null for claim in section.claims)])


def test_the_section_says_what_the_numbers_say(made):
    context, arrays, summary = made
    section = embedding_section.section_embedding(context, arrays, summary)
    claim, features = section.claims[0], summary["features"]
    assert claim.published.startswith("B/A = 2.9") and claim.holds == report.verdict(
        *embedding_section.narrow(features)
    )
    halves = densities.band_of_halves(arrays["squares/phi"], arrays["distance"], seed=context.settings.seed)
    np.testing.assert_allclose([features["phi"][name]["halves"] for name in halves], list(halves.values()))
    low, middle, high = halves["ratio"]
    halves = f"{middle:.1f} ({low:.1f}–{high:.1f})"
    shown = f"B/A = {features['phi']['ratio']['value']:.1f}, of random halves of the pairs {halves}, of the middle 90 %"
    assert shown in claim.here
    assert f"Spearman {wording.estimate_text(features['phi']['spearman'])}" in claim.here
    for name in ("pixels", "pca", "untrained"):
        row = features[name]
        ratio, (low, middle, high) = row["ratio"]["value"], row["ratio"]["halves"]
        of_halves = f"of halves {middle:.1f} ({low:.1f}–{high:.1f})"
        shown = f"{embedding.FEATURES[name]} {ratio:.1f}, {of_halves}, Spearman {row['spearman']['value']:.2f}"
        assert shown in claim.null
    words = printed(section)
    assert "nan" not in words and "inf" not in words and "None" not in words
    assert [len(table.rows) for table in section.tables] == [5, 5, 3]
    phi_row, *_, permuted = section.tables[0].rows
    assert phi_row[3] == f"{features['phi']['ratio']['value']:.1f}; {halves}"  # no interval of an extreme, but halves
    assert all(cell.count("; ") == 1 for cell in phi_row[1:4]) and all("(" in cell for cell in phi_row[4:])
    assert "low" not in features["phi"]["ratio"] and "(" in permuted[3]
    assert [row[-1] for row in section.tables[1].rows] == [arm["excluded"] for arm in summary["arms"].values()]
    assert "0 of the 6 channels of phi are 0 for all images" in words and "alone would give B/A" in words
    assert [figure.path.stem for figure in section.figures] == [
        "embedding", "embedding_reconstructed", "embedding_by_level", "embedding_pairs",
    ]  # fmt: skip
    report.write(context.outdir / "report.html", title="t", subtitle="s", sections=[section], facts={})


def row(ratio, spearman=0.9):
    """Numbers of one kind of distance, and what permutations give."""
    fields = {"ratio": ratio, "spearman": spearman}
    nulls = {"ratio": [50.0, 90.0, 200.0], "spearman": [-0.2, 0.0, 0.2]}
    return {name: {"value": value, "null": nulls[name]} for name, value in fields.items()}


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"phi": row(3.0), "pixels": row(8.0, 0.8)}, "yes"),
        ({"phi": row(3.0)}, "yes"),
        ({"phi": row(3.0), "pixels": row(2.5, 0.8)}, "in part"),
        ({"phi": row(3.0), "pixels": row(8.0, 0.95)}, "in part"),
        ({"phi": row(11.0), "pixels": row(20.0, 0.8)}, "in part"),
        ({"phi": row(3.0, 0.1), "pixels": row(8.0, 0.05)}, "in part"),
        ({"phi": row(11.0, 0.1), "pixels": row(20.0, 0.8)}, "no"),
        ({"phi": row(3.0, None), "pixels": row(8.0, 0.8)}, ""),
        (
            {"phi": row(3.0) | {"ratio": {"value": 3.0, "null": [2.9, 9.0, 20.0]}}},
            "in part",
        ),  # other pairs' d^2 as narrow
    ],
)
def test_a_claim_holds_only_where_the_band_is_narrow_and_no_null_is_as_good(features, expected):
    assert report.verdict(*embedding_section.narrow(features)) == expected


def test_pairs_at_no_distance_in_a_control_are_left_out_there_alone_and_said(made):
    context, arrays, whole = made
    arrays = arrays | {f"squares/{name}": arrays[f"squares/{name}"].copy() for name in ("pixels", "pca")}
    arrays["squares/pixels"][[1, 6]], arrays["squares/pca"][2:] = 0, 0
    arrays["squares/untrained"] = np.zeros(12)
    summary = embedding.summarised(context, arrays)
    assert {name: found["excluded"] for name, found in summary["features"].items()} == {"phi": 0, "pixels": 2}
    assert summary["features"]["phi"]["ratio"] == whole["features"]["phi"]["ratio"]
    kept = np.delete(np.arange(12), [1, 6])
    ratios = arrays["distance"][kept] / arrays["squares/pixels"][kept]
    assert summary["features"]["pixels"]["low"]["value"] == pytest.approx(ratios.min())
    section = embedding_section.section_embedding(context, arrays, summary)
    words = printed(section)
    assert "left out in their row alone: pixels (2)." in words and "nan" not in words
    assert "too few images for it: principal components of pixels, as many, phi of the untrained network." in words
    assert "no image has one to itself: matching phi of the untrained network." in words
    arrays["squares/phi"] = np.zeros(12)
    with pytest.raises(InputError, match="only 0 of 12 pairs that differ in phi"):
        embedding.summarised(context, arrays)


def test_without_pairs_to_reconstruct_there_are_no_other_ways(made, monkeypatch):
    context, arrays, summary = made
    settings = SimpleNamespace(**vars(context.settings) | {"embedding_reconstructed_pairs": 0})
    embedding.check_embedding(settings)
    context = context._replace(settings=settings)
    assert embedding.arms(context, np.zeros(0, int), context.outdir / "none", "key") == {}
    monkeypatch.setattr(
        embedding,
        "measured",
        lambda *given: densities.Distance(
            *(np.linspace((1.0, 1.0), (3.0, 2.0), 24)[:, k] for k in (0, 1)), np.ones((24, 3))
        ),
    )
    monkeypatch.setattr(embedding, "choose_pairs", lambda context: np.stack([np.arange(14), 20 + np.arange(14)], 1))
    embedding.run_embedding(context, context.outdir / "none", "key")
    with np.load(context.outdir / "none" / "arrays.npz") as alone:
        assert len(alone["some"]) == embedding.SELVES and len(alone["same_distance"]) == embedding.SELVES
    alone = {name: value for name, value in arrays.items() if name.split("/")[0] not in embedding.ARMS}
    summary = embedding.summarised(context, alone)
    assert summary["arms"] == {}
    section = embedding_section.section_embedding(context, alone, summary)
    assert [figure.path.stem for figure in section.figures] == ["embedding", "embedding_by_level", "embedding_pairs"]
    assert len(section.tables) == 2 and "`analysis.embedding_reconstructed_pairs` = 0" in section.text[-1]


def test_without_pairs_the_section_says_that_it_was_left_out(made, tmp_path):
    settings = SimpleNamespace(**vars(made[0].settings) | {"embedding_pairs": 0})
    context = made[0]._replace(settings=settings)
    embedding.run_embedding(context, tmp_path / "none", "key")
    section = embedding_section.section_embedding(context, {}, storage.read_json(tmp_path / "none" / "summary.json"))
    assert section.text == ["Left out by the setting `analysis.embedding_pairs` = 0."] and not section.claims


def test_pairs_that_diverged_are_counted_and_left_out(made):
    context, arrays, _ = made
    arrays = arrays | {"distance": arrays["distance"].copy()}
    arrays["distance"][[0, 5]] = np.nan, 0
    summary = embedding.summarised(context, arrays)
    assert summary["excluded"] == 2 and summary["arms"]["longer"]["excluded"] == 1
    assert any("2 of 12 pairs" in text for text in embedding_section.words(context, summary))
    arrays["distance"][:-2] = np.nan
    with pytest.raises(InputError, match="only 2 of 12 pairs that differ in phi"):
        embedding.summarised(context, arrays)


def test_one_sample_of_each_density_has_no_standard_error_and_the_section_says_so(made):
    context, arrays, _ = made
    arrays = arrays | {"error": np.full(12, np.nan)}
    summary = embedding.summarised(context, arrays)
    text = " ".join(embedding_section.words(context, summary))
    assert "nan" not in text and "unknown shares of it. The finite" in text
    assert summary["ratio_by_noise"] is None and "alone would give" not in text  # unknown is not 0


def test_images_that_do_not_differ_and_impossible_settings_are_refused(made, tmp_path):
    context = made[0]
    few = image_set()
    same = few._replace(images=np.repeat(few.images[:1], 4, axis=0), fingerprint="one")
    folder = tmp_path / "representations"
    folder.mkdir()
    np.save(folder / "mean.npy", np.repeat(np.load(context.outdir / "representations" / "mean.npy")[:1], 4, axis=0))
    with pytest.raises(InputError, match="0 pairs of images differ"):
        embedding_pairs.choose_pairs(context._replace(images=same, outdir=tmp_path))
    bad = [("embedding_pairs", 2), ("embedding_reconstructed_pairs", 1), ("embedding_reconstructed_pairs", 2)]
    for key, value in [*bad, ("embedding_reconstructed_pairs", -1), ("embedding_levels", 1), ("embedding_draws", 0)]:
        with pytest.raises(InputError, match=f"analysis.{key} must be"):
            embedding.check_embedding(SimpleNamespace(**vars(context.settings) | {key: value}))
    with pytest.raises(InputError, match="embedding_sigma_end = 1 must"):
        embedding.check_embedding(SimpleNamespace(**vars(context.settings) | {"embedding_sigma_end": 1.0}))


def test_figures_draw_every_pair_the_band_and_the_floor():
    squares = np.geomspace(0.1, 10, 9)
    some = np.where(np.arange(9) < 4, 0, squares)
    panels = {"phi": drawn.Embedded(squares, 2.0, 4.0, "B/A = 2"), "pixels": drawn.Embedded(0 * squares, 1, 1, "")}
    panels["pca"] = drawn.Embedded(some, 2.0, 4.0, "")
    figure = drawn.embedding_scatter(panels, 3 * squares, np.full(9, np.nan), floor=0.5)
    axes = figure.axes[0]
    heights = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    for expected in (3 * squares, 2 * squares[[0, -1]], 4 * squares[[0, -1]], np.full(2, 0.5)):
        assert any(len(height) == len(expected) and np.allclose(height, expected) for height in heights)
    assert max(len(line.get_xdata()) for line in figure.axes[2].lines) == 5  # no point at 0
    assert axes.get_xscale() == axes.get_yscale() == "log"
    figure.draw_without_rendering()
    assert any(text.get_text() == "no data" for text in figure.findobj(matplotlib.text.Text))
    for count in (9, 0):
        part = squares[:count]
        drawn.embedding_agreement(part, 2 * part, 0 * part, 0 * part).draw_without_rendering()
