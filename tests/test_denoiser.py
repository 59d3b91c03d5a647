"""The contract, on a model whose answers are known."""

import chex
import jax.numpy as jnp
import numpy as np

from unetrep_jax import denoiser


class Doubling:
    """f(y) = a y, with two layers in its middle block."""

    block_names = ("mid", "decoder0")

    @staticmethod
    def apply(variables, images):
        a = variables["params"]
        return a * images, {"mid.0": images, "mid.10": a * images + 1, "decoder0.0": images}


def test_binding_fixes_the_parameters():
    images = jnp.arange(24.0).reshape(2, 2, 2, 3)
    bound = denoiser.bind(Doubling, jnp.float32(2))
    chex.assert_trees_all_close(bound.denoise(images), 2 * images)
    chex.assert_trees_all_close(bound.represent(images), 2 * images.mean((1, 2)) + 1)
    assert set(bound.activations(images)) == {"mid.0", "mid.10", "decoder0.0"}
    assert bound.block_names == Doubling.block_names


def test_the_last_layer_is_found_by_number_and_not_by_spelling():
    assert denoiser.last_layers(["mid.2", "mid.10", "mid.9", "decoder0.0"]) == {
        "mid": "mid.10",
        "decoder0": "decoder0.0",
    }


def test_channel_averages_are_taken_in_float32():
    activations = jnp.full((1, 64, 64, 1), 1 + 2**-7, jnp.bfloat16)
    average = denoiser.spatial_mean(activations)
    assert average.dtype == jnp.float32
    np.testing.assert_allclose(average, 1 + 2**-7, rtol=1e-6)
