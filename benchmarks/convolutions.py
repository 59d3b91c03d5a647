"""A network's 3x3 convolutions one by one, on a CPU: as sums of products, and in tiles (`unetrep_jax.winograd`); which is taken.

    python benchmarks/convolutions.py [--width 64] [--batch 4] [--turns 15]

For each size and number of channels of the published network at 64x64: milliseconds of a convolution of the whole batch by oneDNN
and in tiles, and of its kernel's gradient, each its program on one device, in turns; their ratio in one turn; median (quartiles).
Sums of products are what the program would take in place of tiles. The error is the root mean square difference of the two, in
standard deviations. Where tiles are taken is marked, so that what `winograd.pays` says can be checked on another machine.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tables
from compare import positive

from unetrep_jax import convolution, devices, models, winograd

SIDE = 64


def shapes(width: int) -> list[tuple[int, int, int]]:
    """(side, in, out) of every convolution with a different one, finest first."""
    model = models.UNet(channels=tuple(width * 2**k for k in range(4)))
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    sides = {"mid": SIDE // model.stride} | {
        f"{kind}coder{j}": SIDE >> j for kind in ("en", "de") for j in range(model.scales)
    }
    found = {
        (sides[block], *layer["kernel"].shape[2:])
        for block, layers in params.items()
        for name, layer in layers.items()
        if name.startswith("conv")
    }
    return sorted(found, key=lambda shape: (-shape[0], *shape[1:]))


def in_turns(programs: list[Callable[[], Any]], turns: int) -> np.ndarray:
    """Milliseconds [programs turns]; a call of each is not timed."""
    found = np.zeros((len(programs), turns))
    for turn in range(-1, turns):
        for k, program in list(enumerate(programs))[:: -1 if turn % 2 else 1]:
            start = time.perf_counter()
            jax.block_until_ready(program())
            found[k, turn] = 1e3 * (time.perf_counter() - start)
    return found


def measure(shape: tuple[int, int, int], batch: int, turns: int) -> dict[str, Any]:
    """A row of both tables; random images, kernels and changes of seed 0."""
    side, inputs, outputs = shape
    print(f"{side}x{side}, {inputs} to {outputs} channels ...", file=sys.stderr, flush=True)
    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.nn.relu(jax.random.normal(keys[0], (batch, side, side, inputs)))
    kernel = jax.random.normal(keys[1], (3, 3, inputs, outputs)) * (2 / (9 * inputs)) ** 0.5
    change = jax.random.normal(keys[2], (batch, side, side, outputs))
    row: dict[str, Any] = {"side": side, "in": inputs, "out": outputs}
    row["GFLOP"] = round(18e-9 * inputs * outputs * batch * side**2, 2)
    pairs = {
        "forward": (convolution._onednn(1, jnp.float32), lambda x, kernel: winograd.convolve(x, kernel, 1), kernel),
        "gradient": (
            lambda x, change: convolution._kernel_gradient(x, change, 3, "zero"),
            lambda x, change: winograd.kernel_gradient(x, change, 1),
            change,
        ),
    }
    for name, (direct, tiled, other) in pairs.items():
        programs = [jax.jit(function).lower(x, other).compile() for function in (direct, tiled)]
        results = [np.asarray(program(x, other)) for program in programs]
        one, two = in_turns([lambda program=program, other=other: program(x, other) for program in programs], turns)
        row[f"{name}, ms"] = tables.spread(one)
        row[f"{name} in tiles, ms"] = tables.spread(two)
        row[f"{name}: ratio"] = tables.spread(two / one)
        row[f"{name}: error"] = f"{np.sqrt(np.mean((results[1] - results[0]) ** 2)) / results[0].std():.1e}"
        row[f"{name}: taken"] = "tiles" if winograd.pays(batch, side, side, (inputs, outputs), gradient=name != "forward") else ""
    return row


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=positive, default=64, help="of the published network")
    parser.add_argument("--batch", type=positive, default=4, help="images")
    parser.add_argument("--turns", type=positive, default=15, help="calls of each program that are timed")
    arguments = parser.parse_args()
    devices.start()
    if not convolution.has_onednn(jnp.float32):
        raise SystemExit("convolutions.py: convolutions are XLA's own here (convolution.has_onednn): nothing to compare.")
    tables.facts(jax=jax.__version__, width=str(arguments.width), batch=str(arguments.batch))
    rows = [measure(shape, arguments.batch, arguments.turns) for shape in shapes(arguments.width)]
    for name in ("forward", "gradient"):
        others = "gradient" if name == "forward" else "forward"
        tables.show(name, [{key.removeprefix(f"{name}: "): row[key] for key in row if not key.startswith(others)} for row in rows])


if __name__ == "__main__":
    main()
