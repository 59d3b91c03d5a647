"""Denoising networks as Flax modules: images in, (denoised images, activations of every layer) out.

The UNet is the one of Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912), section 2 and figure 9: blind, fully
convolutional, no attention, no connection from the input to the output around the network.
"""

import difflib
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from unetrep_jax import convolution
from unetrep_jax.storage import InputError

MOST_CHANNELS, MOST_LAYERS = 65_536, 1000  # beyond, a number is a slip
NORM_AXES = {"layer": (1, 2, 3), "instance": (1, 2)}
NORM_EPSILON = 1e-5
SLICES = 8  # the fastest of 4, 8, 16 and 32 in `_added_up`
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
PADDINGS = ("zero", "circular")

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def near_zero_gain(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The published initial gains: N(0, 1) * 2 / (9 * 64), clipped to +-0.025; both signs, standard deviation 0.0035."""
    return jnp.clip(jax.random.normal(key, shape, dtype) * (2 / (9 * 64)), -0.025, 0.025)


GAIN_INITS: dict[str, Callable] = {"near_zero": near_zero_gain, "one": nn.initializers.ones}


def _added_up(x: Float[Array, "n rows c"]) -> Float[Array, "n fewer c"]:
    """Sums of up to eight rows each, element by element: XLA makes vector operations of that on a CPU, of whole sums slow loops."""
    return functools.reduce(jnp.add, jnp.split(x, math.gcd(x.shape[1], SLICES), axis=1))


def sum_per_image(x: Float[Array, "b h w c"], axes: tuple[int, ...]) -> Float[Array, "b 1 1 k"]:
    """Sum over `axes`, (1, 2, 3) or (1, 2), of each image; k is 1 or c. Where JAX runs on a CPU, in slices (`_added_up`)."""
    if jax.default_backend() != "cpu":
        return jnp.sum(x, axis=axes, keepdims=True)
    rows = _added_up(x.reshape(len(x), -1, x.shape[-1]))
    return jnp.sum(rows, axis=(1, 2) if 3 in axes else 1).reshape(len(x), 1, 1, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def divide_by_deviation(x: Float[Array, "b h w c"], axes: tuple[int, ...]) -> Float[Array, "b h w c"]:
    """x / (sd(x) + 1e-5), with sd the centred population deviation over `axes`. The mean is not subtracted from x.

    With N values in a mean, m their mean and s = sd(x), of sum(g y):

        d/dx: g / (s + 1e-5) - (x - m) sum(g x) / (N s (s + 1e-5)^2), without the second term where s is 0

    At s = 0 the deviation has no gradient; that of a constant 0 is the right one.
    """
    return _divide_by_deviation(x, axes)[0]


def _divide_by_deviation(x, axes):
    count = math.prod(x.shape[axis] for axis in axes)
    mean = sum_per_image(x, axes) / count
    variance = sum_per_image((x - mean) ** 2, axes) / count
    deviation = jnp.where(variance > 0, jnp.sqrt(jnp.where(variance > 0, variance, 1)), 0)
    return x / (deviation + NORM_EPSILON), (x, mean, deviation)


def _divide_by_deviation_backward(axes, kept, change):
    x, mean, deviation = kept
    count = math.prod(x.shape[axis] for axis in axes)
    scale = 1 / (deviation + NORM_EPSILON)
    slope = sum_per_image(change * x, axes) * scale**2 / (count * jnp.where(deviation > 0, deviation, jnp.inf))
    return (change * scale - (x - mean) * slope,)


divide_by_deviation.defvjp(_divide_by_deviation, _divide_by_deviation_backward)


def sum_per_channel(x: Float[Array, "b h w c"]) -> Float[Array, "1 1 1 c"]:
    """sum_{b, h, w} x[b, h, w, c], in x's type.

    Where JAX runs on a CPU, in slices (`_added_up`), and then as a product with ones: XLA compiles that to vector operations too.
    """
    if jax.default_backend() != "cpu":
        return jnp.sum(x, axis=(0, 1, 2), keepdims=True)
    rows = _added_up(x.astype(jnp.float32).reshape(1, -1, x.shape[-1]))[0]
    return (jnp.ones((1, len(rows))) @ rows).astype(x.dtype).reshape(1, 1, 1, -1)


@jax.custom_vjp
def add_per_channel(x: Float[Array, "b h w c"], bias: Float[Array, "1 1 1 c"]) -> Float[Array, "b h w c"]:
    """x + bias, whose derivative by the bias is a `sum_per_channel`."""
    return x + bias


add_per_channel.defvjp(lambda x, bias: (x + bias, None), lambda _, change: (change, sum_per_channel(change)))


@jax.custom_vjp
def multiply_per_channel(x: Float[Array, "b h w c"], gain: Float[Array, "1 1 1 c"]) -> Float[Array, "b h w c"]:
    """x gain, whose derivative by the gain is a `sum_per_channel`."""
    return x * gain


multiply_per_channel.defvjp(
    lambda x, gain: (x * gain, (x, gain)),
    lambda inputs, change: (change * inputs[1], sum_per_channel(change * inputs[0])),
)


class Norm(nn.Module):
    """Division by the standard deviation, then one learned gain per channel; nothing is subtracted or added.

    Attributes:
      norm: "layer": deviation over height, width and channels; "instance": over height and width, for each channel.
      gain_init: a key of `GAIN_INITS`.
    """

    norm: str
    gain_init: str

    @nn.compact
    def __call__(self, x):
        """Normalises [b h w c] in float32."""
        gain = self.param("gain", GAIN_INITS[self.gain_init], (1, 1, 1, x.shape[-1]))
        return multiply_per_channel(divide_by_deviation(x.astype(jnp.float32), NORM_AXES[self.norm]), gain)


class Conv(nn.Module):
    """3x3 convolution, as large as its input: kernel [3, 3, in, out] and, with `bias`, bias [out].

    Attributes:
      width: output channels.
      bias: whether there is one.
      dtype: of the computation; parameters are float32.
      padding: one of `PADDINGS`; see `convolution.convolve`.
    """

    width: int
    bias: bool
    dtype: Any
    padding: str = "zero"

    @nn.compact
    def __call__(self, x):
        """[b h w in] -> [b h w out]."""
        kernel = self.param("kernel", kaiming_normal, (3, 3, x.shape[-1], self.width))
        out = convolution.convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.padding)
        if not self.bias:
            return out
        bias = self.param("bias", nn.initializers.zeros, (self.width,))
        return add_per_channel(out, bias.astype(self.dtype).reshape(1, 1, 1, -1))


class Upsample(nn.Module):
    """2x2 transposed convolution of stride 2, no bias: out[2r+a, 2c+b, o] = sum_i kernel[a, b, i, o] x[r, c, i].

    The patches do not overlap, so this is one matrix product and a rearrangement. Initial weights are Kaiming-normal with the
    `in` inputs that each output pixel has (our choice).
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x):
        """[b h w in] -> [b 2h 2w features]."""
        b, h, w, channels = x.shape

        def init(key, shape):
            return jax.random.normal(key, shape) * (2 / channels) ** 0.5

        kernel = self.param("kernel", init, (2, 2, channels, self.features)).astype(self.dtype)
        pixels = jnp.einsum("bhwi,adio->bhawdo", x.astype(self.dtype), kernel)
        return pixels.reshape(b, 2 * h, 2 * w, self.features)


class Block(nn.Module):
    """A run of layers at one scale; a layer is 3x3 convolution, norm, ReLU.

    Attributes:
      widths: output channels of each layer.
      first_norm: whether layer 0 has a norm; the very first layer of the network has none.
      last_linear: whether the last layer is a bare convolution (the network's output).
    """

    widths: tuple[int, ...]
    norm: str
    bias: bool
    gain_init: str
    dtype: Any
    first_norm: bool = True
    last_linear: bool = False
    upsample_to: int = 0
    padding: str = "zero"

    @nn.compact
    def __call__(self, x, skip=None):
        """Returns (output, activations after each ReLU). A decoder block upsamples `x` and appends `skip` first."""
        if skip is not None:
            x = Upsample(self.upsample_to, self.dtype, name="up")(x)
            x = jnp.concatenate([x, skip.astype(x.dtype)], axis=-1)
        activations = []
        for k, width in enumerate(self.widths):
            linear = self.last_linear and k == len(self.widths) - 1
            x = Conv(width, self.bias, jnp.float32 if linear else self.dtype, self.padding, name=f"conv{k}")(x)
            if linear:
                continue
            if k or self.first_norm:
                x = Norm(self.norm, self.gain_init, name=f"norm{k}")(x)
            x = nn.relu(x).astype(self.dtype)
            activations.append(x)
        return x, activations


def average_pool(x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
    """Means of 2x2 patches, stride 2."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean(axis=(2, 4))


def root_mean_square(x: Float[Array, "b h w c"]) -> Float[Array, "b 1 1 1"]:
    """Root mean square of each image; 1 for an image of zeros, so that dividing by it is safe."""
    power = jnp.mean(x**2, axis=(1, 2, 3), keepdims=True)
    return jnp.sqrt(jnp.where(power > 0, power, 1.0))


class UNet(nn.Module):
    """The blind UNet denoiser. Call: noisy [b h w c] -> (denoised [b h w c] float32, {"<block>.<layer>": [b h' w' k]}).

    Encoder blocks are followed by 2x2 average pooling; decoder blocks begin with a 2x2 transposed convolution and the
    concatenation (upsampled, encoder's output). `decoder0` ends in a bare convolution to the image, one of its layers. Every
    other layer is convolution, division by the deviation, gain, ReLU, but the first, which has no norm.

    With the defaults: 13,124,803 parameters for colour images; a location of the middle block sees 84x84 pixels.

    Without biases the layers up to the output do not change when the image is scaled, for each norm divides by the deviation
    (the published network learns brightness through its biases). So the bias-free network works on y / rms(y) and multiplies
    its output by rms(y) (our choice): f(a y) = a f(y) for all a > 0, and its activations are those of the normalised image.

    Attributes:
      channels: channels per scale, finest first; the last is the middle block's. Height and width must be divisible by
        2^(len(channels) - 1).
      encoder_depth, decoder_depth: layers per block: one number, or one per block, finest first.
      mid_depth: layers of the middle block.
      norm: "layer" (the paper) or "instance"; see `Norm`.
      bias: whether the 3x3 convolutions have biases (the paper: yes).
      image_channels: 3 for colour, 1 for grey.
      gain_init: "near_zero" (published) or "one".
      dtype: "float32" or "bfloat16" for the convolutions and activations; parameters, norms and outputs stay float32.
      padding: what the 3x3 convolutions see outside the image: "zero" (the paper) or "circular", its opposite edges as if they met:
        then moving the image round by multiples of the stride moves every activation round and changes no channel average.
      rematerialise: whether a gradient keeps only what goes into each block and computes the block again on its way back: less
        memory for one more forward pass. The results are the same but for rounding.
    """

    channels: tuple[int, ...] = (64, 128, 256, 512)
    encoder_depth: int | tuple[int, ...] = 2
    mid_depth: int = 3
    decoder_depth: int | tuple[int, ...] = 6
    norm: str = "layer"
    bias: bool = True
    image_channels: int = 3
    gain_init: str = "near_zero"
    dtype: str = "float32"
    padding: str = "zero"
    rematerialise: bool = False

    @property
    def scales(self) -> int:
        """Number of encoder blocks, and of decoder blocks."""
        return len(self.channels) - 1

    @property
    def stride(self) -> int:
        """Image height and width must be multiples of this."""
        return 2**self.scales

    @property
    def block_names(self) -> tuple[str, ...]:
        """Blocks in the order in which they run: encoder0, encoder1, ..., mid, ..., decoder1, decoder0."""
        scales = range(self.scales)
        return (*(f"encoder{j}" for j in scales), "mid", *(f"decoder{j}" for j in reversed(scales)))

    @nn.compact
    def __call__(self, images, middle=None):
        """Denoises; see the class. Decoders see `middle`, where it is given, in place of the middle block's output [b h' w' k]."""
        check_image_shape(images.shape, self)
        block = functools.partial(
            nn.remat(Block) if self.rematerialise else Block,
            norm=self.norm,
            bias=self.bias,
            gain_init=self.gain_init,
            dtype=DTYPES[self.dtype],
            padding=self.padding,
        )
        scale = None if self.bias else root_mean_square(images)
        x = images if self.bias else images / scale
        layers, skips = {}, []
        for j, (width, depth) in enumerate(
            zip(self.channels[:-1], per_block(self.encoder_depth, self.scales), strict=True)
        ):
            x, layers[f"encoder{j}"] = block((width,) * depth, first_norm=j > 0, name=f"encoder{j}")(x)
            skips.append(x)
            x = average_pool(x)
        x, layers["mid"] = block((self.channels[-1],) * self.mid_depth, name="mid")(x)
        x = x if middle is None else middle.astype(x.dtype)
        depths = per_block(self.decoder_depth, self.scales)
        for j in reversed(range(self.scales)):
            width, last = self.channels[j], j == 0
            widths = (width,) * (depths[j] - 1) + ((self.image_channels,) if last else (width,))
            decoder = block(widths, last_linear=last, upsample_to=width, name=f"decoder{j}")
            x, layers[f"decoder{j}"] = decoder(x, skips[j])
        activations = {f"{name}.{k}": a for name, run in layers.items() for k, a in enumerate(run)}
        return (x if self.bias else x * scale), activations


def per_block(depth: int | tuple[int, ...], blocks: int) -> tuple[int, ...]:
    """Layers of each block, finest scale first: a number stands for all blocks."""
    return (depth,) * blocks if isinstance(depth, int) else tuple(depth)


def check_image_shape(shape: tuple[int, ...], model: UNet) -> None:
    """Raises InputError unless `shape` is [b h w c] with h and w divisible by the stride and c the model's channels."""
    if len(shape) != 4 or shape[-1] != model.image_channels:
        raise InputError(f"UNet takes images [batch, height, width, {model.image_channels}], got shape {shape}.")
    if shape[1] % model.stride or shape[2] % model.stride:
        raise InputError(
            f"UNet with {len(model.channels)} scales needs height and width divisible by {model.stride}, "
            f"got {shape[1]}x{shape[2]}. Set data.image_size to a multiple, or use fewer model.channels."
        )


def receptive_field(
    encoder_depth: int | tuple[int, ...] = 2, mid_depth: int = 3, scales: int = 3, kernel: int = 3
) -> int:
    """Side, in pixels, of the square of the image that one location of the middle block's output depends on (norms apart).

        1 + sum_b [n_b (k - 1) 2^b + 2^b] + n_mid (k - 1) 2^scales,   b = 0 .. scales - 1

    84 for the published network: more than its 64x64 images.
    """
    depths = per_block(encoder_depth, scales)
    encoder = sum((n * (kernel - 1) + 1) * 2**b for b, n in enumerate(depths))
    return 1 + encoder + mid_depth * (kernel - 1) * 2**scales


def init_params(model: nn.Module, key: Array) -> Any:
    """Random initial parameters: a plain pytree of float32 arrays, `params[block]["conv<k>"]["kernel"]` and so on."""
    images = jnp.zeros((1, model.stride, model.stride, model.image_channels), jnp.float32)
    if isinstance(key, jax.core.Tracer):  # part of another program, or of the question which shapes there are
        return model.init(key, images)["params"]
    # Dozens of random draws, run once: XLA's CPU compiler would spend four times as long on making them fast (8 s, here 2 s).
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(model.init, compiler_options=options)(key, images)["params"]


def count_params(params: Any) -> int:
    """Number of scalars in a parameter tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {"unet": UNet}


def build(name: str, **settings: Any) -> nn.Module:
    """An architecture by name. Lists (from JSON) become tuples, for Flax hashes a module's attributes.

    Raises:
      InputError: unknown architecture or setting, or a value out of its range; says which are known.
    """
    if name not in ARCHITECTURES:
        raise InputError(f"model.name {name!r} is unknown{_nearest(name, ARCHITECTURES)}")
    allowed = [p for p in inspect.signature(ARCHITECTURES[name]).parameters if p not in ("parent", "name")]
    for setting in settings:
        if setting not in allowed:
            raise InputError(f"model.{setting} is no setting of {name!r}{_nearest(setting, allowed)}")
    settings = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    model = ARCHITECTURES[name](**settings)
    _check(model)
    return model


def _nearest(word: str, known: Any) -> str:
    close = difflib.get_close_matches(word, list(known), n=1)
    return (f"; did you mean {close[0]!r}?" if close else ".") + f" Known: {', '.join(known)}."


def _check(model: UNet) -> None:
    for setting, table in (("norm", NORM_AXES), ("dtype", DTYPES), ("gain_init", GAIN_INITS), ("padding", PADDINGS)):
        value = getattr(model, setting)
        if value not in table:
            raise InputError(f"model.{setting} {value!r} is unknown{_nearest(str(value), table)}")
    if len(model.channels) < 2 or min(model.channels) < 1 or max(model.channels) > MOST_CHANNELS:
        raise InputError(
            f"model.channels needs two or more positive numbers up to {MOST_CHANNELS:,}, finest scale first; got {model.channels}."
        )
    for setting, least in (("encoder_depth", 1), ("decoder_depth", 1)):
        depths = per_block(getattr(model, setting), model.scales)
        if len(depths) != model.scales or min(depths) < least or max(depths) > MOST_LAYERS:
            raise InputError(
                f"model.{setting} needs one number, or {model.scales} (one per block, finest first), each {least} or more, up to "
                f"{MOST_LAYERS:,}; got {getattr(model, setting)}."
            )
    if type(model.mid_depth) is not int or not 1 <= model.mid_depth <= MOST_LAYERS or model.image_channels < 1:
        raise InputError(
            f"model.mid_depth and data.image_channels must be numbers, 1 or more, and a depth is at most {MOST_LAYERS:,}; "
            f"got {model.mid_depth}, {model.image_channels}."
        )
