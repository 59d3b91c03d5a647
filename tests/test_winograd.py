"""Convolutions in tiles against float64 sums by scipy, their derivatives, when they are taken, and what they keep in memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.signal import correlate

from unetrep_jax import convolution, winograd


@pytest.fixture(params=["by JAX", "by oneDNN"], autouse=True)
def _products(request, monkeypatch):
    """Products by JAX run everywhere; the program's own are oneDNN's."""
    monkeypatch.delenv(convolution.SWITCH)
    if request.param == "by oneDNN" and not convolution.has_onednn(jnp.float32):
        pytest.skip("XLA's oneDNN was not tried with this jaxlib, or on such a machine")
    if request.param == "by JAX":

        def multiply(left, right, *, transpose=False):
            return jnp.einsum("ptk,ptn->pkn" if transpose else "ptk,pkn->ptn", left, right)

        monkeypatch.setattr(winograd, "_multiply", multiply)


def draw(*shapes, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def convolved(x, kernel, pad):
    """In float64, by scipy."""
    x = np.pad(x.astype(np.float64), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    results = [
        [sum(correlate(image[..., i], kernel[..., i, o], "valid") for i in range(x.shape[-1])) for o in range(kernel.shape[-1])]
        for image in x
    ]
    return np.moveaxis(np.array(results), 1, -1)


def off(found, expected):
    """Root mean square difference, in standard deviations of what is expected."""
    return np.sqrt(np.mean((np.asarray(found) - expected) ** 2)) / np.std(expected)


SHAPES = [(3, 8, 12, 5, 7), (1, 4, 4, 1, 1), (6, 16, 8, 4, 2)]  # images, height and width of the result, in, out


@pytest.mark.parametrize("pad", [0, 1])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_convolutions_and_their_kernels_gradients_are_those_of_float64_sums(pad, shape, chunk, monkeypatch):
    """However many images are taken at a time."""
    monkeypatch.setattr(winograd, "CHUNK_BYTES", chunk)
    images, height, width, inputs, outputs = shape
    around = 2 - 2 * pad
    x, kernel, change = draw(
        (images, height + around, width + around, inputs), (3, 3, inputs, outputs), (images, height, width, outputs)
    )
    found = jax.jit(winograd.convolve, static_argnums=2)(x, kernel, pad)
    chex.assert_shape(found, (images, height, width, outputs))
    assert off(found, convolved(x, kernel, pad)) < 2e-6
    found = jax.jit(winograd.kernel_gradient, static_argnums=2)(x, change, pad)
    # It is a convolution too, in which channels and images change places.
    expected = convolved(x.transpose(3, 1, 2, 0), change.transpose(1, 2, 0, 3), pad).transpose(1, 2, 0, 3)
    assert off(found, expected) < 2e-6


def test_transforms_are_exact_in_float64():
    """Of one tile, with the module's own transforms; the adjoints are their transposes."""
    with jax.enable_x64():
        columns = [jnp.eye(side, dtype=jnp.float64) for side in (6, 6, 4)]
        to_products, to_output, of_change = (
            np.stack(transform(list(eye)))
            for transform, eye in zip((winograd._of_input, winograd._to_output, winograd._of_change), columns, strict=True)
        )
    np.testing.assert_allclose(of_change, to_output.T)
    whole = np.einsum("rp,pk,pd->rkd", to_output, winograd.G, to_products)
    expected = np.array([[[d == r + k for d in range(6)] for k in range(3)] for r in range(4)])
    np.testing.assert_allclose(whole, expected, atol=1e-6)  # roots are kept in float32


def test_rounding_is_as_documented():
    x, kernel = draw((4, 16, 16, 128), (3, 3, 128, 8))
    x = np.maximum(x, 0)
    expected = convolved(x, kernel, 1)
    assert 2e-7 < off(jax.jit(winograd.convolve, static_argnums=2)(x, kernel, 1), expected) < 1.3e-6


@pytest.mark.parametrize("padding", ["zero", "circular"])
def test_the_convolution_takes_it_where_it_pays_and_its_derivatives_are_jaxs(padding, monkeypatch):
    if not convolution.has_onednn(jnp.float32):
        pytest.skip("convolutions are XLA's here")
    x, kernel, weights = draw((2, 24, 24, 32), (3, 3, 32, 40), (2, 24, 24, 40))

    def results(by):
        def cubes(x, kernel):
            return jnp.sum(weights * by(x, kernel) ** 3)

        slopes = jax.grad(cubes, (0, 1))
        second = jax.grad(lambda x, kernel: sum(jnp.sum(slope**2) for slope in slopes(x, kernel)), (0, 1))
        return jax.jit(lambda x, kernel: (by(x, kernel), *slopes(x, kernel), *second(x, kernel)))(x, kernel)

    def ours(x, kernel):
        return convolution.convolve(x, kernel, padding)

    def plain(x, kernel):
        return convolution._same_size(x, kernel, padding, convolution.plain)

    text = jax.jit(jax.grad(lambda *inputs: ours(*inputs).sum(), (0, 1))).lower(x, kernel).as_text()
    assert "__onednn$convolution" not in text and "stablehlo.convolution" not in text
    for one, other in zip(results(ours), results(plain), strict=True):
        assert off(one, other) < 1e-5
    monkeypatch.setattr(winograd, "FEWEST_TILES", 10**9)
    jax.clear_caches()
    assert "__onednn$convolution" in jax.jit(lambda x, kernel: ours(x, kernel)).lower(x, kernel).as_text()


@pytest.mark.parametrize(
    ("size", "channels", "forward", "gradient"),
    [
        ((4, 64, 64), (64, 64), True, True),
        ((4, 64, 64), (16, 24), False, True),
        ((4, 64, 64), (64, 3), False, False),
        ((3, 64, 64), (3, 64), False, False),
        ((4, 8, 8), (512, 512), False, False),
        ((16, 8, 8), (512, 512), True, True),
        ((64, 10, 8), (128, 128), False, False),
        ((64, 8, 10), (128, 128), False, False),
    ],
)
def test_where_it_pays(size, channels, forward, gradient):
    assert winograd.pays(*size, channels) is forward
    assert winograd.pays(*size, channels, gradient=True) is gradient


def test_a_vmap_over_images_kernels_or_both_is_that_of_the_plain_convolution():
    x, kernels = draw((4, 2, 16, 16, 32), (4, 3, 3, 32, 32))
    for axes, arguments in (((0, None), (x, kernels[0])), ((None, 0), (x[0], kernels)), ((0, 0), (x, kernels))):
        ours, theirs = (
            jax.jit(jax.vmap(by, axes))(*arguments)
            for by in (convolution.convolve, lambda x, kernel: convolution.plain(x, kernel, 1))
        )
        assert off(ours, theirs) < 3e-6
    change = draw((4, 2, 16, 16, 32), seed=1)[0]
    for axes, arguments in (((0, 0), (x, change)), ((0, None), (x, change[0])), ((None, 0), (x[0], change))):
        found = jax.jit(jax.vmap(lambda x, change: winograd.kernel_gradient(x, change, 1), axes))(*arguments)
        for k in range(4):
            one = [jnp.asarray(side if axis is None else side[k]) for side, axis in zip(arguments, axes, strict=True)]
            assert off(found[k], winograd.kernel_gradient(*one, 1)) < 3e-6


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_image_that_is_no_number_spoils_no_other(bad):
    x, kernel = draw((3, 8, 8, 4), (3, 3, 4, 4))
    x[0, 0, 0, 0] = bad
    found = np.asarray(jax.jit(winograd.convolve, static_argnums=2)(x, kernel, 1))
    assert not np.isfinite(found[0]).all() and np.isfinite(found[1:]).all()


def test_kernels_are_transformed_one_after_another():
    """The memory of a program does not grow with its layers."""

    def temporary(layers):
        def run(x, kernels):
            for kernel in kernels:
                x = winograd.convolve(x, kernel, 1)
            return x

        x, *kernels = draw((1, 8, 8, 64), *[(3, 3, 64, 64)] * layers)
        return jax.jit(run).lower(x, kernels).compile().memory_analysis().temp_size_in_bytes

    assert temporary(12) < 1.2 * temporary(3)
