"""The convolution against JAX's own and scipy's, its derivatives, and oneDNN's kernel behind it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import correlate as wrapped

from unetrep_jax import convolution, denoiser, models


@pytest.fixture(autouse=True)
def _onednn(monkeypatch):
    """The other tests do without, for their programs are kept."""
    monkeypatch.delenv(convolution.SWITCH)


def plain(x, kernel):
    """As JAX has it."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "HWIO", "NHWC"))


def draw(*shapes, seed=0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


def test_convolve_and_its_gradients_are_those_of_the_plain_convolution():
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (2, 5, 7, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
    weights = jax.random.normal(keys[2], (2, 5, 7, 4))

    def cubes(by):
        return lambda x, kernel: jnp.sum(weights * by(x, kernel) ** 3)

    np.testing.assert_allclose(convolution.convolve(x, kernel), plain(x, kernel), rtol=1e-5, atol=1e-5)
    for argument in (0, 1):
        ours, theirs = (jax.grad(cubes(c), argument)(x, kernel) for c in (convolution.convolve, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3 * np.abs(theirs).max())
    for argument in (0, 1):  # second derivatives, through those by the image and by the kernel
        first = (jax.grad(cubes(by), argument) for by in (convolution.convolve, plain))
        ours, theirs = (jax.grad(lambda x, g=g: jnp.sum(g(x, kernel) ** 2))(x) for g in first)
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("padding", ["zero", "circular"])
@pytest.mark.parametrize("tried_in", [(), convolution.ONEDNN_TRIED_IN])
def test_gradients_in_loops_need_no_reversed_convolution(padding, tried_in, monkeypatch):
    monkeypatch.setattr(convolution, "ONEDNN_TRIED_IN", tried_in)
    model = models.build("unet", channels=(2, 4), mid_depth=1, encoder_depth=1, decoder_depth=1, padding=padding)
    here = denoiser.bind(model, models.init_params(model, jax.random.key(0)))

    def descend(y):
        return jax.lax.fori_loop(0, 3, lambda _, y: y - jax.grad(lambda y: here.represent(y).sum())(y), y)

    text = jax.jit(descend).lower(jnp.zeros((1, 4, 4, 3))).as_text()
    windows = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    asked = [line for line in text.splitlines() if "__onednn$convolution" in line]
    assert len(asked if convolution.has_onednn(jnp.float32) else windows) >= 4
    assert not (windows and asked)
    assert all("[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]" in line and "reverse = [true" not in line for line in windows)


@pytest.mark.parametrize("size", [(5, 7), (2, 3), (1, 1)])
def test_circular_convolution_sees_the_opposite_edge(size):
    keys = jax.random.split(jax.random.key(0), 2)
    x, kernel = jax.random.normal(keys[0], (2, *size, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
    found = convolution.convolve(x, kernel, "circular")
    for image in range(2):
        for out in range(4):
            expected = sum(
                wrapped(np.asarray(x[image, ..., i]), np.asarray(kernel[..., i, out]), mode="wrap") for i in range(3)
            )
            np.testing.assert_allclose(found[image, ..., out], expected, rtol=1e-4, atol=1e-5)


def test_gradients_of_the_circular_convolution_are_those_of_a_plain_one_on_the_wrapped_image():
    def plain(x, kernel):
        x = jnp.concatenate([x[:, -1:], x, x[:, :1]], 1)
        x = jnp.concatenate([x[:, :, -1:], x, x[:, :, :1]], 2)
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def circular(x, kernel):
        return convolution.convolve(x, kernel, "circular")

    keys = jax.random.split(jax.random.key(1), 3)
    x, kernel = jax.random.normal(keys[0], (2, 2, 5, 3)), jax.random.normal(keys[1], (3, 3, 3, 4))
    weights = jax.random.normal(keys[2], (2, 2, 5, 4))

    def cubes(by):
        return lambda x, kernel: jnp.sum(weights * by(x, kernel) ** 3)

    for argument in (0, 1):
        ours, theirs = (jax.grad(cubes(c), argument)(x, kernel) for c in (circular, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3 * np.abs(theirs).max())
    ours, theirs = (jax.grad(lambda x, c=c: jnp.sum(jax.grad(cubes(c))(x, kernel) ** 2))(x) for c in (circular, plain))
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize(
    ("dtype", "multiplies", "asks"), [("float32", False, True), ("bfloat16", False, False), ("bfloat16", True, True)]
)
def test_a_cpu_convolves_by_onednn_in_float32_and_in_bfloat16_where_it_can(dtype, multiplies, asks, monkeypatch):
    if not convolution.has_onednn(jnp.float32):
        pytest.skip("XLA's oneDNN was not tried with this jaxlib, or on such a machine")
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: multiplies)
    x, kernel = (array.astype(dtype) for array in draw((2, 6, 6, 3), (3, 3, 3, 4)))
    text = jax.jit(lambda x, kernel: convolution.convolve(x, kernel)).lower(x, kernel).as_text()  # a program of its own
    assert ("__onednn$convolution" in text) is asks
    assert ("stablehlo.convolution" in text) is not asks


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_gradients_of_kernels_are_asked_of_onednn_too(dtype, monkeypatch):
    if not convolution.has_onednn(jnp.float32):
        pytest.skip("XLA's oneDNN was not tried with this jaxlib, or on such a machine")
    monkeypatch.setattr(convolution, "multiplies_bfloat16", lambda: True)
    x, kernel = (array.astype(dtype) for array in draw((2, 6, 6, 3), (3, 3, 3, 4)))
    text = jax.jit(jax.grad(lambda kernel: convolution.convolve(x, kernel).sum())).lower(kernel).as_text()
    assert "__onednn$convolution" in text and "stablehlo.convolution" not in text


@pytest.mark.parametrize("padding", ["zero", "circular"])
@pytest.mark.parametrize(
    ("size", "side", "features"), [((2, 5, 7, 3), 3, 4), ((6, 8, 8, 24), 3, 24), ((7, 9, 8, 5), 5, 3), ((1, 1, 1, 8), 3, 8)]
)
@pytest.mark.parametrize("most", [1, 800, 10**6])
@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 0.01)])
def test_results_and_gradients_are_as_without_onednn(padding, size, side, features, most, dtype, rounding, monkeypatch):
    """But for rounding, however many images' changes a kernel's gradient takes at a time."""
    monkeypatch.setattr(convolution, "GRADIENT_BYTES", most)
    arrays = draw(size, (side, side, size[-1], features), (*size[:3], features))
    rounded = [array.astype(dtype) for array in arrays]

    def results(x, kernel, change):
        out, back = jax.vjp(lambda x, kernel: convolution.convolve(x, kernel, padding), x, kernel)
        return out, *back(change)

    ours = jax.jit(results)(*rounded)
    monkeypatch.setenv(convolution.SWITCH, "0")
    theirs = jax.jit(lambda *arrays: results(*arrays))(*(array.astype(jnp.float32) for array in rounded))
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == dtype
        np.testing.assert_allclose(one.astype(jnp.float32), other, atol=rounding * np.abs(other).max())


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-5), ("bfloat16", 0.02)])
def test_a_vmap_of_kernels_gradients_is_that_without_onednn(dtype, rounding, monkeypatch):
    x, kernels = (array.astype(dtype) for array in draw((4, 2, 6, 6, 3), (4, 3, 3, 3, 5)))

    def gradients(x, kernels):
        by_kernel = jax.grad(lambda kernel, x: jnp.sum(convolution.convolve(x, kernel).astype(jnp.float32) ** 2))
        return jax.jit(jax.vmap(by_kernel))(kernels, x)

    ours = gradients(x, kernels).astype(jnp.float32)
    monkeypatch.setenv(convolution.SWITCH, "0")
    expected = gradients(x.astype(jnp.float32), kernels.astype(jnp.float32))
    np.testing.assert_allclose(ours, expected, atol=rounding * np.abs(expected).max())


def test_other_libraries_and_machines_convolve_as_jax_does(monkeypatch):
    x, kernel = draw((2, 6, 6, 3), (3, 3, 3, 4))
    changes = (
        lambda patch: patch.setattr(convolution, "ONEDNN_TRIED_IN", ()),
        lambda patch: patch.setattr(convolution, "PLATFORM", ("linux", "aarch64")),
        lambda patch: patch.setenv(convolution.SWITCH, "0"),
    )
    for change in changes:
        with monkeypatch.context() as patch:
            change(patch)
            text = jax.jit(lambda x, kernel: convolution.convolve(x, kernel)).lower(x, kernel).as_text()
        assert "stablehlo.convolution" in text and "__onednn" not in text
    lowered = jax.jit(lambda x, kernel: convolution.convolve(x, kernel)).trace(x, kernel).lower(lowering_platforms=("cuda",))
    assert "stablehlo.convolution" in lowered.as_text() and "__onednn" not in lowered.as_text()


@pytest.mark.parametrize("size", [(1, 8, 8, 3), (3, 5, 7, 16), (2, 3, 2, 1), (1, 1, 1, 24)])
@pytest.mark.parametrize("features", [1, 3, 40])
def test_every_size_and_number_of_channels_is_convolved_as_jax_does(size, features):
    x, kernel = draw(size, (3, 3, size[-1], features), seed=sum(size) + features)
    np.testing.assert_allclose(convolution.convolve(x, kernel), plain(x, kernel), rtol=1e-5, atol=2e-5)


def test_other_odd_kernels_are_convolved_too():
    x, kernel, small = draw((2, 9, 8, 3), (5, 5, 3, 4), (1, 1, 3, 4))
    around = ((2, 2), (2, 2))
    by_jax = jax.lax.conv_general_dilated(x, kernel, (1, 1), around, dimension_numbers=("NHWC", "HWIO", "NHWC"))
    np.testing.assert_allclose(convolution.convolve(x, kernel), by_jax, rtol=1e-5, atol=5e-5)
    np.testing.assert_allclose(convolution.convolve(x, small), x @ small[0, 0], rtol=1e-5, atol=1e-5)


def test_a_vmap_over_images_kernels_or_both_is_that_of_the_plain_convolution():
    x, kernels = draw((4, 2, 6, 6, 3), (4, 3, 3, 3, 5))
    for axes, arguments in (((0, None), (x, kernels[0])), ((None, 0), (x[0], kernels)), ((0, 0), (x, kernels))):
        ours, theirs = (jax.jit(jax.vmap(by, axes))(*arguments) for by in (convolution.convolve, plain))
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)
    gradients = [jax.vmap(jax.grad(lambda x, by=by: jnp.sum(by(x, kernels[0]) ** 2)))(x) for by in (convolution.convolve, plain)]
    chex.assert_trees_all_close(*gradients, rtol=1e-4, atol=1e-3)


def test_the_same_images_give_the_same_bits_on_every_call_and_nearly_so_in_any_batch():
    x, kernel = draw((16, 16, 16, 8), (3, 3, 8, 8))
    whole = np.asarray(jax.jit(convolution.convolve)(x, kernel))
    np.testing.assert_array_equal(whole, jax.jit(convolution.convolve)(x, kernel))
    np.testing.assert_allclose(whole[:3], jax.jit(convolution.convolve)(x[:3], kernel), rtol=1e-5, atol=1e-5)


def test_a_network_its_gradients_and_loops_over_them_are_the_same_with_onednn(monkeypatch):
    model = models.build("unet", channels=(4, 8), mid_depth=1, encoder_depth=2, decoder_depth=2, gain_init="one")
    params, (images,) = models.init_params(model, jax.random.key(0)), draw((2, 8, 8, 3))

    def results():
        def loss(params, images):
            return jnp.sum(model.apply({"params": params}, images)[0] ** 2)

        def descend(images):
            return jax.lax.fori_loop(0, 5, lambda _, y: y - 1e-3 * jax.grad(loss, 1)(params, y), images)

        return jax.jit(lambda images: (jax.value_and_grad(loss)(params, images), descend(images)))(images)

    ours = results()
    monkeypatch.setenv(convolution.SWITCH, "0")
    theirs = results()
    largest = [max(jnp.abs(leaf).max(), 1.0) for leaf in jax.tree.leaves(theirs)]
    for one, other, scale in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), largest, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)
