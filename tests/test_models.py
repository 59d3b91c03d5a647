"""The network against the published counts, its formulas, and an independent numpy forward pass."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from unetrep_jax import denoiser, models
from unetrep_jax.storage import InputError

SMALL = {"channels": (4, 6, 8, 10), "decoder_depth": (2, 3, 2)}


def shapes_of(**settings):
    """Parameter shapes, without computing anything."""
    model = models.build("unet", **settings)
    images = jax.ShapeDtypeStruct((1, 64, 64, model.image_channels), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


@pytest.fixture(scope="module")
def small():
    """A small network whose gains and biases are not near zero, so that every parameter matters."""
    model = models.build("unet", **SMALL)
    params = models.init_params(model, jax.random.key(0))
    generator = np.random.default_rng(1)
    params = jax.tree.map(lambda leaf: leaf + 0.3 * generator.standard_normal(leaf.shape, np.float32), params)
    return model, params, jax.random.normal(jax.random.key(2), (2, 16, 24, 3))


@pytest.mark.parametrize(
    ("settings", "count"), [({}, 13_124_803), ({"decoder_depth": [5, 6, 7]}, 13_678_147), ({"bias": False}, 13_119_744)]
)
def test_parameter_counts_are_the_published_ones(settings, count):
    assert models.count_params(shapes_of(**settings)) == count


def test_parameters_per_block_are_the_published_ones():
    counts = {block: models.count_params(tree) for block, tree in shapes_of().items()}
    assert counts == {
        "encoder0": 38_784, "encoder1": 221_696, "encoder2": 885_760, "mid": 5_901_312,
        "decoder2": 4_656_128, "decoder1": 1_164_800, "decoder0": 256_323,
    }  # fmt: skip


def test_the_parameter_tree_has_the_agreed_names_and_shapes():
    tree = jax.tree.map(lambda leaf: leaf.shape, shapes_of())
    assert tree["encoder0"]["conv0"] == {"kernel": (3, 3, 3, 64), "bias": (64,)}
    assert "norm0" not in tree["encoder0"] and "norm5" not in tree["decoder0"]
    assert tree["mid"]["norm0"] == {"gain": (1, 1, 1, 512)}
    assert tree["decoder1"]["up"] == {"kernel": (2, 2, 256, 128)}
    assert tree["decoder1"]["conv0"]["kernel"] == (3, 3, 256, 128)
    assert tree["decoder0"]["conv5"] == {"kernel": (3, 3, 64, 3), "bias": (3,)}


def numpy_forward(params, image, depths, normalise=lambda x: x / (x.std() + 1e-5)):
    """The same network in numpy and scipy, float64, one image: (output, activations)."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def convolve(x, layer):
        padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
        kernel = layer["kernel"]
        out = [correlate(padded, kernel[..., o], mode="valid")[..., 0] for o in range(kernel.shape[-1])]
        return np.stack(out, -1) + layer["bias"]

    def run(x, block, depth):
        for k in range(depth):
            x = convolve(x, params[block][f"conv{k}"])
            if f"norm{k}" in params[block]:
                x = normalise(x) * params[block][f"norm{k}"]["gain"][0, 0, 0]
            elif block != "encoder0":
                return x  # the network's output
            x = np.maximum(x, 0)
            activations[f"{block}.{k}"] = x
        return x

    activations, skips, x = {}, [], np.asarray(image, np.float64)
    for j in range(3):
        x = run(x, f"encoder{j}", 2)
        skips.append(x)
        x = (x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]) / 4
    x = run(x, "mid", 3)
    for j in (2, 1, 0):
        kernel = params[f"decoder{j}"]["up"]["kernel"]
        up = np.zeros((2 * x.shape[0], 2 * x.shape[1], kernel.shape[-1]))
        for a in range(2):
            for b in range(2):
                up[a::2, b::2] = x @ kernel[a, b]
        x = run(np.concatenate([up, skips[j]], -1), f"decoder{j}", depths[j])
    return x, activations


def test_the_network_agrees_with_an_independent_numpy_forward_pass(small):
    model, params, images = small
    output, activations = jax.jit(model.apply)({"params": params}, images)
    expected, expected_activations = numpy_forward(params, images[1], SMALL["decoder_depth"])
    chex.assert_trees_all_close(output[1], expected.astype(np.float32), rtol=1e-3, atol=1e-4)
    assert set(activations) == set(expected_activations)
    for key, value in expected_activations.items():
        chex.assert_trees_all_close(activations[key][1], value.astype(np.float32), rtol=1e-3, atol=1e-4)


def test_instance_norm_divides_each_channel_by_its_own_deviation(small):
    _, params, images = small
    model = models.build("unet", **SMALL, norm="instance")
    output = jax.jit(model.apply)({"params": params}, images)[0]
    expected, _ = numpy_forward(params, images[0], SMALL["decoder_depth"], lambda x: x / (x.std(axis=(0, 1)) + 1e-5))
    chex.assert_trees_all_close(output[0], expected.astype(np.float32), rtol=1e-3, atol=1e-4)


def test_the_receptive_field_is_84_and_matches_a_count_of_dependent_pixels():
    assert models.receptive_field() == 84
    assert models.receptive_field(mid_depth=2) == 68
    assert models.receptive_field(encoder_depth=4, mid_depth=4) == 128
    # One middle location, traced back: the interval of pixels that convolutions and poolings reach.
    depths, mid, low, high = (2, 1, 3), 2, 0, 1
    low, high = low - mid, high + mid
    for depth in reversed(depths):
        low, high = 2 * low - depth, 2 * high + depth
    assert models.receptive_field(depths, mid) == high - low


@pytest.mark.parametrize("norm", ["layer", "instance"])
@pytest.mark.parametrize("scale", [0.1, 3.0, 100.0])
def test_without_biases_scaling_the_image_scales_the_output(norm, scale):
    model = models.build("unet", **SMALL, bias=False, norm=norm)
    params = models.init_params(model, jax.random.key(3))
    apply = jax.jit(lambda y: model.apply({"params": params}, y)[0])
    images = jax.random.uniform(jax.random.key(4), (2, 16, 16, 3))
    chex.assert_trees_all_close(apply(scale * images), scale * apply(images), rtol=1e-4, atol=1e-6 * scale)
    assert not apply(jnp.zeros_like(images)).any()


def test_with_biases_the_network_is_not_homogeneous(small):
    model, params, images = small
    apply = jax.jit(lambda y: model.apply({"params": params}, y)[0])
    assert jnp.abs(apply(3 * images) - 3 * apply(images)).max() > 0.1


def test_each_image_is_denoised_on_its_own(small):
    model, params, images = small
    apply = jax.jit(lambda y: model.apply({"params": params}, y)[0])
    chex.assert_trees_all_close(apply(images)[:1], apply(images[:1]), rtol=1e-5, atol=1e-5)


def test_decoders_see_what_is_given_in_place_of_the_middle_block(small):
    """Its own output changes nothing; zeros do what decoder weights of 0 for it do."""
    model, params, images = small
    read, denoise = denoiser.take_apart(model)
    own, activations = model.apply({"params": params}, images)
    middle = read(params, images)
    chex.assert_trees_all_equal(middle, activations["mid.2"])
    chex.assert_trees_all_close(denoise(params, images, middle), own, rtol=1e-5, atol=1e-5)
    silent = {**params, "decoder2": {**params["decoder2"], "up": {"kernel": 0 * params["decoder2"]["up"]["kernel"]}}}
    without = denoise(params, images, jnp.zeros_like(middle))
    chex.assert_trees_all_close(without, model.apply({"params": silent}, images)[0], rtol=1e-5, atol=1e-5)
    assert abs(without - own).max() > 1e-4


def test_represent_is_the_spatial_mean_of_the_middle_block(small):
    model, params, images = small
    bound = denoiser.bind(model, params)
    expected = bound.activations(images)["mid.2"].mean((1, 2))
    chex.assert_trees_all_close(bound.represent(images), expected, rtol=1e-6)
    assert bound.block_names == ("encoder0", "encoder1", "encoder2", "mid", "decoder2", "decoder1", "decoder0")


def test_the_compiled_representation_holds_no_decoder(small):
    model, params, images = small
    bound = denoiser.bind(model, params)
    # The compiled program names the module that each of its operations comes from.
    texts = [jax.jit(function).lower(images).compile().as_text() for function in (bound.represent, bound.denoise)]
    assert "/mid/" in texts[0] and "/decoder" not in texts[0]
    assert "/decoder0/" in texts[1]
    flops = [jax.jit(f).lower(images).compile().cost_analysis()["flops"] for f in (bound.represent, bound.denoise)]
    assert flops[0] < 0.6 * flops[1]


def test_bfloat16_keeps_parameters_and_outputs_in_float32_and_stays_close(small):
    model, params, images = small
    half = models.build("unet", **SMALL, dtype="bfloat16")
    chex.assert_type(jax.tree.leaves(models.init_params(half, jax.random.key(0))), jnp.float32)
    full_output = jax.jit(model.apply)({"params": params}, images)[0]
    output, activations = jax.jit(half.apply)({"params": params}, images)
    assert output.dtype == jnp.float32 and activations["mid.2"].dtype == jnp.bfloat16
    error = jnp.linalg.norm(output - full_output) / jnp.linalg.norm(full_output)
    assert 1e-5 < error < 0.05


def test_initial_gains_are_tiny_of_both_signs_and_kernels_are_kaiming():
    model = models.build("unet", channels=(32, 64, 128), mid_depth=1, decoder_depth=3)
    params = models.init_params(model, jax.random.key(0))
    gains = np.concatenate([leaf.ravel() for path, leaf in jax.tree.leaves_with_path(params) if "gain" in str(path)])
    assert abs(gains.std() / (2 / 576) - 1) < 0.1 and abs(gains).max() <= 0.025 and 0.4 < (gains > 0).mean() < 0.6
    kernel = params["decoder1"]["conv0"]["kernel"]
    assert abs(float(kernel.std()) / (2 / (9 * 128)) ** 0.5 - 1) < 0.03
    assert not any(leaf.any() for path, leaf in jax.tree.leaves_with_path(params) if "bias" in str(path))


def test_grey_images_and_other_numbers_of_scales_work():
    model = models.build("unet", channels=[4, 8], image_channels=1, encoder_depth=[3])
    params = models.init_params(model, jax.random.key(0))
    output, activations = model.apply({"params": params}, jnp.ones((1, 6, 10, 1)))
    assert output.shape == (1, 6, 10, 1) and model.stride == 2
    assert list(activations) == ["encoder0.0", "encoder0.1", "encoder0.2", "mid.0", "mid.1", "mid.2"] + [
        f"decoder0.{k}" for k in range(5)
    ]


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("unett", {}, "did you mean 'unet'"),
        ("unet", {"chanels": (4, 8)}, "did you mean 'channels'"),
        ("unet", {"norm": "batch"}, "Known: layer, instance"),
        ("unet", {"dtype": "float16"}, "Known: float32, bfloat16"),
        ("unet", {"padding": "reflect"}, "Known: zero, circular"),
        ("unet", {"channels": (4,)}, "two or more"),
        ("unet", {"decoder_depth": (6, 6)}, "3 (one per block"),
        ("unet", {"encoder_depth": 0}, "1 or more"),
    ],
)
def test_settings_that_cannot_work_are_refused_in_one_line(name, settings, words):
    with pytest.raises(InputError) as caught:
        models.build(name, **settings)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_an_image_size_that_does_not_divide_is_refused(small):
    model, params, _ = small
    with pytest.raises(InputError, match="divisible by 8, got 12x16"):
        model.apply({"params": params}, jnp.zeros((1, 12, 16, 3)))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_sums_and_derivatives_per_channel_are_those_of_plain_arithmetic(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x, y = jax.random.normal(jax.random.key(0), (2, 3, 5, 4, 7))
    parameter = jax.random.normal(jax.random.key(1), (1, 1, 1, 7))
    np.testing.assert_allclose(models.sum_per_channel(x), np.asarray(x).sum((0, 1, 2), keepdims=True), rtol=1e-5, atol=1e-5)
    half = models.sum_per_channel(x.astype(jnp.bfloat16))
    assert half.dtype == jnp.bfloat16
    np.testing.assert_allclose(half.astype(jnp.float32), np.asarray(x).sum((0, 1, 2), keepdims=True), rtol=0.02, atol=0.2)
    for ours, theirs in ((models.add_per_channel, jnp.add), (models.multiply_per_channel, jnp.multiply)):
        found, expected = (
            jax.value_and_grad(lambda x, p, by=by: jnp.sum(y * by(x, p) ** 2), (0, 1))(x, parameter) for by in (ours, theirs)
        )
        chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("norm", list(models.NORM_AXES))
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (3, 8, 8, 6), (1, 2, 6, 1), (2, 1, 1, 8)])
@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_division_by_the_deviation_and_its_derivatives_are_those_of_the_formula(norm, shape, backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    axes = models.NORM_AXES[norm]
    x, g, h = 3 + jax.random.normal(jax.random.key(0), (3, *shape))

    def formula(x):
        return x / (jnp.std(x, axis=axes, keepdims=True) + 1e-5)

    def results(divide):
        def gradient(x):
            return jax.grad(lambda x: jnp.sum(g * divide(x)))(x)

        return divide(x), gradient(x), jax.grad(lambda x: jnp.sum(h * gradient(x)))(x)

    ours = results(lambda x: models.divide_by_deviation(x, axes))
    value = np.asarray(x, np.float64)
    value /= value.std(axes, keepdims=True) + 1e-5
    np.testing.assert_allclose(ours[0], value, rtol=1e-4)
    if norm == "layer" or shape[1:3] != (1, 1):  # where all are constant the formula's own derivative is not a number
        for one, other in zip(ours, results(formula), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(other).max())


@pytest.mark.parametrize("norm", list(models.NORM_AXES))
def test_a_constant_image_is_divided_by_the_small_number_alone_and_so_are_changes(norm):
    x, g = jnp.stack([jnp.full((4, 4, 3), 0.0), jnp.full((4, 4, 3), 2.0)]), jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
    value, back = jax.vjp(lambda x: models.divide_by_deviation(x, models.NORM_AXES[norm]), x)
    np.testing.assert_allclose(value, x / 1e-5, rtol=1e-5)
    np.testing.assert_allclose(back(g)[0], g / 1e-5, rtol=1e-5)


def test_rematerialised_gradients_are_the_same_and_keep_less():
    def loss(model):
        return lambda params, images: jnp.sum(model.apply({"params": params}, images)[0] ** 2)

    settings = {"channels": (4, 8), "encoder_depth": 3, "mid_depth": 1, "decoder_depth": 3}
    plain, again = (models.build("unet", **settings, rematerialise=rematerialise) for rematerialise in (False, True))
    params, images = models.init_params(plain, jax.random.key(0)), jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    chex.assert_trees_all_equal_shapes_and_dtypes(params, models.init_params(again, jax.random.key(0)))
    theirs, ours = (jax.jit(jax.grad(loss(model)))(params, images) for model in (plain, again))
    chex.assert_trees_all_close(ours, theirs, rtol=1e-3, atol=1e-4 * max(jnp.abs(leaf).max() for leaf in jax.tree.leaves(theirs)))
    # What a backward pass needs travels in the function that makes it.
    kept = [jax.eval_shape(lambda p, m=model: jax.vjp(lambda p: loss(m)(p, images), p)[1], params) for model in (plain, again)]
    of_plain, of_again = (sum(leaf.size for leaf in jax.tree.leaves(function)) for function in kept)
    assert of_again < 0.6 * of_plain


def test_zero_padding_is_the_default():
    assert models.build("unet") == models.build("unet", padding="zero") != models.build("unet", padding="circular")


def test_with_circular_padding_every_activation_moves_with_the_image(small):
    _, params, images = small
    model = models.build("unet", **SMALL, padding="circular")
    apply = jax.jit(lambda y: model.apply({"params": params}, y))
    output, activations = apply(images)
    moved_output, moved = apply(jnp.roll(images, (8, 16), (1, 2)))  # multiples of the stride
    chex.assert_trees_all_close(moved_output, jnp.roll(output, (8, 16), (1, 2)), rtol=1e-3, atol=1e-4)
    for key, layer in activations.items():
        shift = tuple(s * n // whole for s, n, whole in zip((8, 16), layer.shape[1:3], (16, 24), strict=True))
        chex.assert_trees_all_close(moved[key], jnp.roll(layer, shift, (1, 2)), rtol=1e-3, atol=1e-4)
        chex.assert_trees_all_close(moved[key].mean((1, 2)), layer.mean((1, 2)), rtol=1e-4, atol=1e-5)
