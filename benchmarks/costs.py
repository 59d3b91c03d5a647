"""Operations and bytes of an image, counted by hand from the architecture, and by the compiler's cost analysis.

    python benchmarks/costs.py [--width 64] [--batch 8] [--dtype float32]

The compiler counts every operation of the program that it made, norms and Adam too, and the bytes that its fused kernels read and
write; by hand only convolutions count, and each layer's input and output once (`counts`). Nothing is run.
"""

import argparse
from collections.abc import Callable
from typing import Any

import counts
import jax
import jax.numpy as jnp
import tables

from unetrep_jax import denoiser, models, noise, training


def analysed(function: Callable, *shapes: Any) -> dict[str, float]:
    """The compiler's cost analysis of a function of arrays of these shapes."""
    found = jax.jit(function).lower(*shapes).compile().cost_analysis()
    return found[0] if isinstance(found, list) else found


def programs(model: models.UNet, batch: int, side: int) -> dict[str, tuple]:
    """Name -> (function, its arguments' shapes)."""
    key, optimizer = jax.random.key(0), training.adam(lambda step: 1e-3)
    params = jax.eval_shape(lambda key: models.init_params(model, key), key)
    state = jax.eval_shape(lambda params: training.init_state(params, optimizer), params)
    step = training.train_step(model, optimizer, noise.noise_levels, seed=0, batch_size=batch)
    shape = (batch, side, side, model.image_channels)
    images, index = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct((batch,), jnp.int32)
    return {
        "represent": (lambda params, y: denoiser.bind(model, params).represent(y), params, images),
        "forward": (lambda params, y: denoiser.bind(model, params).denoise(y), params, images),
        "training": (step, state, (jax.ShapeDtypeStruct(shape, jnp.uint8), index)),
    }


def table(arguments: argparse.Namespace) -> list[dict[str, str]]:
    """A row for each program, per image."""
    channels, side, batch = tuple(arguments.width * 2**j for j in range(4)), arguments.size, arguments.batch
    model = models.UNet(channels=channels, dtype=arguments.dtype)
    by_hand, size = counts.count(channels=channels, side=side), jnp.dtype(arguments.dtype).itemsize
    moved = {name: counts.traffic(by_hand, batch, size, name == "training") / batch for name in ("forward", "training")}
    rows = []
    for name, (function, *shapes) in programs(model, batch, side).items():
        found = analysed(function, *shapes)
        mega = f"{moved[name] / 1e6:.1f}" if name in moved else "not counted"
        rows.append(
            {
                "program": name,
                "GFLOP, by hand": f"{getattr(by_hand, name) / 1e9:.3f}",
                "GFLOP, compiler": f"{found.get('flops', float('nan')) / batch / 1e9:.3f}",
                "MB, by hand": mega,
                "MB, compiler": f"{found.get('bytes accessed', float('nan')) / batch / 1e6:.1f}",
            }
        )
    return rows


def main(given: list[str] | None = None) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64, help="of the published network")
    parser.add_argument("--size", type=int, default=64, help="pixels")
    parser.add_argument("--batch", type=int, default=8, help="images")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args(given)
    tables.facts(jax=jax.__version__)
    network = f"width {arguments.width}, {arguments.size}x{arguments.size}, {arguments.dtype}, batch {arguments.batch}"
    title = f"Operations and bytes of an image, {network}; the compiler's are for {jax.devices()[0].device_kind}"
    tables.show(title, table(arguments))


if __name__ == "__main__":
    main()
