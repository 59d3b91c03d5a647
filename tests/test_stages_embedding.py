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
from unetrep_jax.stages import embedding
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
        training_identity="training images",
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
    squares = embedding.squared(features, arrays["pairs"])
    between = ((features[:, None] - features[None]) ** 2).sum(-1)
    assert (np.diff(squares) >= 0).all()
    assert squares[0] == pytest.approx(between[np.triu_indices(60, 1)].min(), rel=1e-4)
    assert squares[-1] == pytest.approx(between.max(), rel=0.2)  # where its images are taken, another within a step


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
        key = noise.level_key(jax.random.fold_in(jax.random.key(settings.seed), embedding.PURPOSE), jnp.asarray(sigma))
        keys = jax.random.split(jax.random.fold_in(key, place), 4)
        for side, draw in itertools.product(range(2), range(2)):
            parts[side, level, draw] = contribution(keys[2 * side + draw], sigma, clean[side], clean[1 - side])
    expected = densities.integrate(parts, arrays["sigmas"])
    assert arrays["distance"][place] == pytest.approx(expected.value, rel=1e-3)
    assert arrays["error"][place] == pytest.approx(expected.error, rel=1e-2)
    np.testing.assert_allclose(arrays["by_level"][place], expected.by_level, rtol=1e-3)


def killed_after(monkeypatch, appends):
    """Makes the computation end after so many appends; lists all of them."""
    monkeypatch.setattr(storage.time, "monotonic", itertools.count(0, 10).__next__)  # time to record, at every look
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
    pairs = embedding.choose_pairs(context)
    assert len(pairs) == 12 and len(np.unique(pairs, axis=0)) == 12
    squares = embedding.squared_distances(context, pairs)
    assert squares.keys() == {"squares/pixels", "squares/phi", "squares/untrained", "noise_in_squares"}
    found = embedding.measured(
        context, embedding.around_images(context), pairs, np.arange(3), tmp_path / "parts", "key"
    )
    assert found.value.shape == (3,) and (found.value > 0).all()


def test_the_section_says_what_the_numbers_say(made):
    context, arrays, summary = made
    section = embedding.section_embedding(context, arrays, summary)
    claim = section.claims[0]
    assert claim.published.startswith("B/A = 2.9") and claim.holds == embedding.verdict(summary["features"])
    assert embedding.number(summary["features"]["phi"]["ratio"]["value"]) in claim.here
    assert embedding.number(summary["features"]["pixels"]["ratio"]["value"]) in claim.null
    cells = [str(cell) for table in section.tables for row in table.rows for cell in row]
    printed = " ".join([*section.text, *cells, claim.here, claim.null])
    assert "nan" not in printed and "inf" not in printed
    assert [len(table.rows) for table in section.tables] == [5, 5, 3]
    assert [figure.path.stem for figure in section.figures] == [
        "embedding", "embedding_reconstructed", "embedding_by_level", "embedding_pairs",
    ]  # fmt: skip
    report.write(context.outdir / "report.html", title="t", subtitle="s", sections=[section], facts={})


def test_a_claim_holds_only_where_the_band_is_narrow_and_narrower_than_all_controls():
    def row(ratio, spearman=0.9):
        fields = {"ratio": ratio, "spearman": spearman}
        nulls = {"ratio": [50, 90, 200], "spearman": [-0.2, 0, 0.2]}
        return {name: {"value": value, "null": nulls[name]} for name, value in fields.items()}

    verdict = embedding.verdict
    assert verdict({"phi": row(3), "pixels": row(8)}) == "yes"
    assert verdict({"phi": row(3), "pixels": row(2.5)}) == "in part"
    assert verdict({"phi": row(11), "pixels": row(20)}) == "in part"
    assert verdict({"phi": row(11, 0.1), "pixels": row(20)}) == "no"


def test_pairs_that_diverged_are_counted_and_left_out(made):
    context, arrays, _ = made
    arrays = arrays | {"distance": arrays["distance"].copy()}
    arrays["distance"][[0, 5]] = np.nan, 0
    summary = embedding.summarised(context, arrays)
    assert summary["excluded"] == 2 and summary["arms"]["longer"]["excluded"] == 1
    assert any("2 of 12 pairs" in text for text in embedding.words(context, summary))
    arrays["distance"][:-2] = np.nan
    with pytest.raises(InputError, match="only 2 of 12 pairs"):
        embedding.summarised(context, arrays)


def test_one_sample_of_each_density_has_no_standard_error_and_the_section_says_so(made):
    context, arrays, _ = made
    arrays = arrays | {"error": np.full(12, np.nan)}
    summary = embedding.summarised(context, arrays)
    text = " ".join(embedding.words(context, summary))
    assert "nan" not in text and "unknown shares of it" in text


def test_images_that_do_not_differ_and_impossible_settings_are_refused(made, tmp_path):
    context = made[0]
    few = image_set()
    same = few._replace(images=np.repeat(few.images[:1], 4, axis=0), fingerprint="one")
    folder = tmp_path / "representations"
    folder.mkdir()
    np.save(folder / "mean.npy", np.repeat(np.load(context.outdir / "representations" / "mean.npy")[:1], 4, axis=0))
    with pytest.raises(InputError, match="0 pairs of images differ"):
        embedding.choose_pairs(context._replace(images=same, outdir=tmp_path))
    bad = {"embedding_pairs": 2, "embedding_reconstructed_pairs": 0, "embedding_levels": 1, "embedding_draws": 0}
    for key, value in bad.items():
        with pytest.raises(InputError, match=f"analysis.{key} must be"):
            embedding.check_embedding(SimpleNamespace(**vars(context.settings) | {key: value}))
    with pytest.raises(InputError, match="embedding_sigma_end = 1 must"):
        embedding.check_embedding(SimpleNamespace(**vars(context.settings) | {"embedding_sigma_end": 1.0}))


def test_figures_draw_every_pair_the_band_and_the_floor():
    squares = np.geomspace(0.1, 10, 9)
    panels = {"phi": drawn.Embedded(squares, 2.0, 4.0, "B/A = 2"), "pixels": drawn.Embedded(squares[:0], 1, 1, "")}
    figure = drawn.embedding_scatter(panels, 3 * squares, np.full(9, np.nan), floor=0.5)
    axes = figure.axes[0]
    heights = [np.asarray(line.get_ydata(), float) for line in axes.lines]
    for expected in (3 * squares, 2 * squares[[0, -1]], 4 * squares[[0, -1]], np.full(2, 0.5)):
        assert any(len(height) == len(expected) and np.allclose(height, expected) for height in heights)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    figure.draw_without_rendering()
    assert any(text.get_text() == "no data" for text in figure.findobj(matplotlib.text.Text))
    for count in (9, 0):
        part = squares[:count]
        drawn.embedding_agreement(part, 2 * part, 0 * part, 0 * part).draw_without_rendering()
