"""Channel averages on denoisers whose activations are known, and the sweep's independence of batch, grid and kills."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from unetrep_jax import denoiser, models, representation
from unetrep_jax.denoiser import Denoiser


def linear_denoiser():
    """encoder0: the image's channels; mid: their positive part after a shift; decoder0: the image."""

    def activations(y):
        pooled = y.reshape(y.shape[0], y.shape[1] // 2, 2, y.shape[2] // 2, 2, -1).mean((2, 4))
        return {"mid.0": pooled * 9, "mid.1": jax.nn.relu(2 * pooled + 5), "encoder0.0": y, "decoder0.0": y}

    return Denoiser(
        lambda y: y, activations, lambda y: activations(y)["mid.1"].mean((1, 2)), ("encoder0", "mid", "decoder0")
    )


IMAGES = np.random.default_rng(0).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)


def sweep(tmp_path, denoiser=None, images=IMAGES, name="sweep", **settings):
    settings = {"sigmas": (0.0, 0.1, 0.5), "draws": 4, "batch_size": 4, "seed": 0} | settings
    representation.sweep(denoiser or linear_denoiser(), images, tmp_path / name, "key", **settings)
    return np.load(tmp_path / name / "mean.npy"), np.load(tmp_path / name / "variance.npy")


def test_columns_follow_the_order_in_which_blocks_run():
    model = models.build("unet", channels=(4, 8, 16, 32), decoder_depth=2)
    bound = denoiser.bind(model, models.init_params(model, jax.random.key(0)))
    layout = representation.layout(bound, (16, 16, 3))
    widths = {block: end - first for block, (first, end) in layout.columns.items()}
    assert list(widths.items()) == [
        ("encoder0", 4), ("encoder1", 8), ("encoder2", 16), ("mid", 32), ("decoder2", 16), ("decoder1", 8),
    ]  # fmt: skip
    assert layout.width == 84
    assert representation.block_inputs(bound) == {
        "encoder1": "encoder0", "encoder2": "encoder1", "mid": "encoder2", "decoder2": "encoder2", "decoder1": "encoder1",
    }  # fmt: skip


def test_the_published_network_has_1344_columns_of_which_phi_is_448_to_959():
    model = models.build("unet")
    shapes = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32))["params"]
    bound = denoiser.bind(model, shapes)
    layout = representation.layout(bound, (64, 64, 3))
    assert layout.width == 1344 and layout.columns["mid"] == (448, 960)


def test_averages_are_spatial_means_of_the_last_layer_of_each_block(tmp_path):
    mean, variance = sweep(tmp_path, sigmas=(0.0,))
    colours = (IMAGES / np.float32(255)).mean((1, 2))
    np.testing.assert_allclose(mean[:, 0], np.concatenate([colours, 2 * colours + 5], axis=1), rtol=1e-5)
    assert not variance.any()


def test_mean_and_variance_over_draws_are_those_of_the_noise(tmp_path):
    """Channel averages of x + s z have variance s^2 / pixels; three channels; the middle block doubles them."""
    sigma, pixels = 0.5, 64
    mean, variance = sweep(tmp_path, images=np.repeat(IMAGES[:1], 40, 0), sigmas=(sigma,), draws=50, batch_size=40)
    expected = 3 * sigma**2 / pixels
    np.testing.assert_allclose(variance[:, 0].mean(0), [expected, 4 * expected], rtol=0.05)
    spread = mean[:, 0, :3].var(axis=0, ddof=1).mean()
    assert spread == pytest.approx(sigma**2 / pixels / 50, rel=0.5)


def test_one_draw_has_no_variance(tmp_path):
    _, variance = sweep(tmp_path, sigmas=(0.1,), draws=1)
    assert np.isnan(variance).all()


def test_results_depend_neither_on_the_batch_nor_on_the_grid_nor_on_the_other_images(tmp_path):
    mean, variance = sweep(tmp_path)
    again, variance_again = sweep(tmp_path, name="again", images=IMAGES[:5], sigmas=(0.5, 0.1), batch_size=2)
    np.testing.assert_allclose(again, mean[:5][:, [2, 1]], rtol=1e-6)
    np.testing.assert_allclose(variance_again, variance[:5][:, [2, 1]], rtol=1e-3)


def test_a_sweep_that_was_interrupted_goes_on_and_gives_the_same_arrays(tmp_path, monkeypatch):
    expected, _ = sweep(tmp_path, batch_size=2)
    calls = []

    def failing(self, **rows):
        calls.append(len(rows["mean"]))
        if len(calls) == 3:
            self.close()
            raise KeyboardInterrupt
        return append(self, **rows)

    append = representation.storage.RowWriter.append
    monkeypatch.setattr(representation.storage.RowWriter, "append", failing)
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path, name="killed", batch_size=2)
    assert not (tmp_path / "killed").exists()
    mean, _ = sweep(tmp_path, name="killed", batch_size=2)
    np.testing.assert_array_equal(mean, expected)
    assert calls == [2, 2, 2, 2, 1]


def test_the_last_decoder_is_never_run():
    model = models.build("unet", channels=(4, 8), decoder_depth=3)
    bound = denoiser.bind(model, models.init_params(model, jax.random.key(0)))
    images = jnp.zeros((2, 8, 8, 3))
    text = jax.jit(lambda y: representation.channel_averages(bound, y)).lower(images).compile().as_text()
    assert "/mid/" in text and "/decoder" not in text
    assert "/decoder0/" in jax.jit(bound.activations).lower(images).compile().as_text()
