"""The largest training batch that fits a given memory, by the compiler's own analysis; and what the feature sweep takes.

    python benchmarks/memory.py                        the published network at 64x64, as it is and rematerialised
    python benchmarks/memory.py --sweep                peak memory of the feature sweep for some and for 16 times as many images

`jit(step).lower(...).compile().memory_analysis()` says how many bytes a compiled step's arguments, results and temporary values
take; nothing is run. Where it grows by the same number of bytes with every image, which three batches show, the largest batch
follows; it is compiled again at that. It is the analysis of the backend that this runs on: a GPU's compiler lays a step out
differently from a CPU's, above all in bfloat16, which is measured on GPUs alone. What the allocator needs beside it is not in it.

The program that is analysed is the step by `jax.jit` on one device with XLA's own convolutions, for the analysis does not see what
oneDNN takes. On a GPU train.py's program is that on each device. On a CPU train.py splits the batch over two virtual devices, each
of which has the parameters and Adam's state, and its convolutions are oneDNN's: it takes the fixed part twice, and oneDNN's own
memory beside this.

A column of its own has the bytes that JAX's forward pass hands to the backward pass, of which a compiler that fuses keeps fewer.
On CPUs rematerialisation changes that column alone: XLA's CPU compiler takes what is computed twice to be the same.

Rematerialised: `train.rematerialise`, with which each block keeps its input alone and is computed again in the backward pass.
"""

import argparse
import contextlib
import functools
import itertools
import os
import tempfile
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import jobs
import measuring
import ours_network
import sides
import tables

from unetrep_jax import convolution, devices, models, noise, training

GIB = 2**30


def kept_bytes(channels: tuple[int, ...], side: int, dtype: str, remat: bool) -> float:
    """Bytes an image that JAX's forward pass hands to the backward pass."""
    model = models.UNet(channels=channels, dtype=dtype, rematerialise=remat)
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))

    def total(batch: int) -> float:
        images = jax.ShapeDtypeStruct((batch, side, side, model.image_channels), jnp.float32)
        backward = jax.eval_shape(
            lambda params, images: jax.vjp(lambda params: model.apply({"params": params}, images)[0], params)[1], params, images
        )
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(backward))

    return total(2) - total(1)


def step_bytes(channels: tuple[int, ...], side: int, dtype: str, remat: bool, batch: int) -> float:
    """Bytes of a training step that have to be there at once."""
    model = models.UNet(channels=channels, dtype=dtype, rematerialise=remat)
    optimizer = training.adam(training.learning_rate_schedule("constant", 1e-3, steps=1, halve_every=1))
    step = training.train_step(model, optimizer, noise.noise_levels, seed=0, batch_size=batch)
    images = jax.ShapeDtypeStruct((batch, side, side, model.image_channels), jnp.uint8)
    state = jax.eval_shape(
        lambda key: training.init_state(models.init_params(model, key), optimizer), jax.random.key(0)
    )
    rows = images, jax.ShapeDtypeStruct((batch,), jnp.int32)
    return ours_network.bytes_of(jax.jit(step, donate_argnums=0).lower(state, rows).compile())


def fit(totals: Callable[[int], float], batches: list[int]) -> tuple[float, float, float]:
    """From three batches, bytes of a step as fixed + each * batch; and the share by which the smallest differs from that."""
    small, middle, large = map(totals, batches)
    each = (large - middle) / (batches[2] - batches[1])
    fixed = large - batches[2] * each
    return fixed, each, abs(fixed + batches[0] * each - small) / small


def batch_table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A row for each form of the step."""
    rows = []
    channels = tuple(arguments.width * 2**j for j in range(arguments.scales))
    dtypes = ("float32",) if jax.default_backend() == "cpu" else ("float32", "bfloat16")
    for dtype, remat in itertools.product(dtypes, (False, True)):
        totals = functools.partial(step_bytes, channels, arguments.size, dtype, remat)
        fixed, each, error = fit(totals, arguments.batches)
        row = {"form": f"{dtype}{', rematerialised' if remat else ''}", "fixed, MiB": f"{fixed / 2**20:.0f}"}
        row |= {"MiB an image": f"{each / 2**20:.2f}", "not linear by": f"{error:.1%}"}
        row |= {"MiB an image that JAX keeps": f"{kept_bytes(channels, arguments.size, dtype, remat) / 2**20:.2f}"}
        for limit in arguments.gib:
            largest = max(0, int((limit * GIB - fixed) // each))
            share = f" ({totals(largest) / GIB / limit:.1%} of it)" if largest else ""
            row[f"{limit:g} GiB"] = f"{largest:,}{share}"
        rows.append(row)
    return rows


def sweep_table(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Peak resident memory of the feature sweep while it runs, a process for each number of images.

    A first sweep compiles, whose memory is then forgotten, for it would hide what grows. By then every page of the memory map was
    read and is resident too, so it is taken away.
    """
    rows = []
    for images in (arguments.images, 16 * arguments.images):
        network = {"width": arguments.width, "size": arguments.size, "scales": arguments.scales}
        settings = jobs.settings_of("features", network | {"batch": 64, "images": images})
        started = contextlib.closing(sides.ours("ours", measuring.environment("cpu")))
        with tempfile.TemporaryDirectory() as folder, started as side:
            side.ask("start", form=jobs.ONE, device="cpu")
            params = side.ask("params", settings=settings)
            side.ask("open", settings=settings, params=params, inputs=jobs.inputs(settings, folder))
            side.ask("run", calls=1)
            side.ask("forget_peak")
            side.ask("run", calls=1)
            peak = side.ask("peak_mib")["running"]
        size = images * 3 * arguments.size**2 / 2**20
        row = {"images": f"{images:,}", "peak, MiB": f"{peak:.0f}", "its memory map, MiB": f"{size:.0f}"}
        rows.append(row | {"without the map, MiB": f"{peak - size:.0f}"})
    return rows


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="of the published network")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--scales", type=int, default=4, help="of the network")
    parser.add_argument("--gib", type=float, nargs="+", default=[8, 16, 24, 80], help="memories")
    parser.add_argument(
        "--batches", type=int, nargs=3, default=[16, 32, 64], help="three, rising, from which the rest follows"
    )
    parser.add_argument("--sweep", action="store_true", help="the feature sweep's memory, instead")
    parser.add_argument("--images", type=int, default=1250, help="of the smaller sweep")
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> None:
    """Prints the table."""
    arguments = parse(given)
    tables.facts(jax=jax.__version__)
    if arguments.sweep:
        tables.show("Feature sweep: memory and number of images", sweep_table(arguments))
        return
    os.environ[convolution.SWITCH] = "0"
    devices.start()  # with the flags that the program runs with
    network = f"width {arguments.width}, {arguments.size}x{arguments.size}"
    title = f"Largest training batch, {network}, by the compiler's analysis for {jax.devices()[0].device_kind}"
    tables.show(title, batch_table(arguments))


if __name__ == "__main__":
    main()
