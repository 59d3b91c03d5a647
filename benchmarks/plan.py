"""What a training would take on given hardware, from counted operations and bytes: no measured number goes in unless it is given.

    python benchmarks/plan.py                                              the published training on a TPU v4-32
    python benchmarks/plan.py --hardware h200
    python benchmarks/plan.py --image-size 256 --batch 512 --utilisation 0.3 --host-memory-gib 400
    python benchmarks/plan.py --compiler [--batch 8]                       the compiler's own count beside the one by hand

Every input of a formula is printed with where it is from. Operations / peak is a lower bound; bytes that move layer by layer are
none, for a compiler fuses layers. --utilisation is the measured share of the peak of operations (compare.py, on the device). A
memory map's pages stay in a host's memory as long as nothing else needs it; what does not fit is read again from the disk, in the
worst case at the rate of the input.

The compiler counts every operation of the program that it made, norms and Adam too, and the bytes that its fused kernels read and
write. It leaves out taps that fall on the padding: of a 3x3 convolution on 64, 32, 16, 8 pixels it counts 0.98, 0.96, 0.92, 0.84 of
what is counted by hand. Nothing is run. Without --compiler this needs the standard library alone.
"""

import argparse
import os
from typing import NamedTuple

import counts
import tables

IMAGENET = 1_281_167  # training images of ILSVRC 2012, which imagenet_resized/64x64 holds too
BATCHES = 3  # of a host that are there at once: two gathered ahead (data.batches.BATCHES_AHEAD) and the one in use


class Hardware(NamedTuple):
    """Peaks of one chip, as its maker states them.

    Attributes:
      name, chips, hosts: what it is.
      operations: bfloat16 operations a second.
      memory, bandwidth: bytes of its memory, bytes a second.
      link: bytes a second to and from other chips, over all links that each chip has; 0 for one chip.
      source: who says so.
    """

    name: str
    chips: int
    hosts: int
    operations: float
    memory: float
    bandwidth: float
    link: float
    source: str


H100 = (
    "https://www.nvidia.com/en-us/data-center/h100/ (SXM; 1,979 TFLOP/s bfloat16 with sparsity, half of that without)"
)
H200 = (
    "https://www.nvidia.com/en-us/data-center/h200/ (SXM; 1,979 TFLOP/s bfloat16 with sparsity, half of that without)"
)
TPU = "https://cloud.google.com/tpu/docs/v4 (peak, memory, bandwidth); arXiv 2304.01433, table 4 (links of 50 GB/s)"
# 16 chips are a mesh of 2x2x4: links that close a row to a ring come with whole cubes of 4x4x4 chips. Of the 6 links that a chip of
# a torus has, one at a corner of the mesh has 3, and all wait for it.
TPU_LINKS = 3
HARDWARE = {
    "tpu-v4-32": Hardware("TPU v4-32: 32 TensorCores, 16 chips", 16, 4, 275e12, 32 * 2**30, 1200e9, TPU_LINKS * 50e9, TPU),
    "h100": Hardware("one H100", 1, 1, 989.5e12, 80e9, 3.35e12, 0.0, H100),
    "h200": Hardware("one H200", 1, 1, 989.5e12, 141e9, 4.8e12, 0.0, H200),
}


def known(device: str) -> Hardware | None:
    """The peaks of a GPU by the name that its driver gives; None where they are not in the table."""
    name = device.upper()  # cards for PCIe are slower
    return next((each for known, each in HARDWARE.items() if known.upper() in name and "PCIE" not in name), None)


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardware", choices=list(HARDWARE), default="tpu-v4-32")
    parser.add_argument("--width", type=int, default=64, help="channels of the finest scale")
    parser.add_argument("--image-size", type=int, default=64, help="pixels; 256 is what we call full size")
    parser.add_argument("--images", type=int, default=IMAGENET, help="training images")
    parser.add_argument("--epochs", type=float, default=1000.0)
    parser.add_argument("--batch", type=int, help="images of a step, over all chips (4,096; with --compiler 8)")
    parser.add_argument("--utilisation", type=float, default=1.0, help="measured share of the peak of operations")
    parser.add_argument("--host-memory-gib", type=float, default=0.0, help="of one host; 0: not known")
    parser.add_argument("--compiler", action="store_true", help="the compiler's count beside the one by hand, instead")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="with --compiler")
    return parser.parse_args(given)


def step_times(hardware: Hardware, found: counts.Count, batch: int) -> dict[str, float]:
    """Times of a step's parts at the peaks, seconds: operations, layer-by-layer traffic, sum of the gradients over the chips."""
    share = batch / hardware.chips
    ring = 2 * (hardware.chips - 1) / hardware.chips * 4 * found.parameters
    return {
        "operations": share * found.training / hardware.operations,
        "memory": counts.traffic(found, share, 2, training=True) / hardware.bandwidth,
        "gradient sum": ring / hardware.link if hardware.link else 0.0,
    }


def inputs(arguments: argparse.Namespace, hardware: Hardware, found: counts.Count) -> list[dict[str, str]]:
    """What the formulas take, and where it is from."""
    memory = f"{hardware.memory / 2**30:.1f} GiB; {hardware.bandwidth / 1e9:.0f} GB/s"
    measured = "given" if arguments.utilisation < 1 else "none was measured"
    rows = [
        ("chips; hosts", f"{hardware.chips}; {hardware.hosts}", "the maker"),
        ("peak of a chip", f"{hardware.operations / 1e12:.0f} TFLOP/s, bfloat16", hardware.source),
        ("memory of a chip; its bandwidth", memory, "the same"),
        ("links of a chip", f"{hardware.link / 1e9:.0f} GB/s" if hardware.link else "none", "the same"),
        ("operations, an image and training step", f"{found.training / 1e9:.2f} GFLOP", "counted (counts.py)"),
        ("layers' inputs and outputs, an image", f"{found.values / 1e6:.2f} million values, 2 bytes each", "counted"),
        ("kept for the backward pass, an image", f"{found.kept / 1e6:.2f} million values, 2 bytes each", "counted"),
        ("parameters", f"{found.parameters:,}", "counted"),
        ("images; epochs; batch", f"{arguments.images:,}; {arguments.epochs:g}; {arguments.batch:,}", "given"),
        ("share of the peak", f"{arguments.utilisation:g}", measured),
    ]
    return [{"input": name, "value": value, "from": source} for name, value, source in rows]


def outcome(arguments: argparse.Namespace, hardware: Hardware, found: counts.Count) -> list[dict[str, str]]:
    """What follows."""
    times = step_times(hardware, found, arguments.batch)
    step = max(times["operations"] / arguments.utilisation, times["memory"]) + times["gradient sum"]
    rate, pixels = arguments.batch / step, 3 * arguments.image_size**2
    share, dataset = arguments.batch / hardware.chips, arguments.images * pixels
    memory = f"{(16 * found.parameters + 2 * share * found.kept) / 2**30:.1f} of {hardware.memory / 2**30:.1f} GiB"
    given = f"; a host has {arguments.host_memory_gib:.0f}" if arguments.host_memory_gib else "; a host's is not given"
    host = (BATCHES * arguments.batch / hardware.hosts * pixels + 12 * found.parameters) / 2**30
    total = arguments.epochs * arguments.images
    days, flop = total / rate / 86_400, total * found.training
    each, ring = rate / hardware.hosts, "step: gradients, ring of 2 (n - 1) / n * 4 bytes * parameters / links"
    rows = [
        ("step: operations / peak", f"{1e3 * times['operations']:.2f} ms"),
        ("step: layer-by-layer traffic / bandwidth", f"{1e3 * times['memory']:.2f} ms"),
        (ring, f"{1e3 * times['gradient sum']:.3f} ms"),
        ("what bounds it", max(times, key=times.get)),
        ("step: max(operations / share of the peak, traffic) + sum", f"{1e3 * step:.2f} ms"),
        ("images a second", f"{rate:,.0f}"),
        ("whole training: images * epochs / rate", f"{days:.2f} days, {flop:.3g} FLOP"),
        ("input: rate * 3 * side^2 bytes", f"{rate * pixels / 2**20:,.0f} MiB/s, {each:,.0f} images/s a host"),
        ("memory: 16 bytes * parameters + 2 bytes * kept * images a chip", memory),
        (f"host: {BATCHES} batches of its images, and a copy of the state to save, 12 bytes * parameters", f"{host:.2f} GiB"),
        ("host: data set, uint8, images * 3 * side^2 bytes, a memory map", f"{dataset / 2**30:.1f} GiB{given}"),
    ]
    return [{"result": name, "value": value} for name, value in rows]


def compiled(arguments: argparse.Namespace, channels: list[int], batch: int) -> list[dict[str, str]]:
    """Operations and bytes of an image by the compiler's cost analysis, a row for each program."""
    import jax
    import jax.numpy as jnp

    from unetrep_jax import convolution, denoiser, devices, models, noise, training

    os.environ[convolution.SWITCH] = "0"  # the compiler cannot count inside oneDNN
    devices.start()  # with the flags that the program runs with
    if arguments.dtype == "bfloat16" and jax.default_backend() == "cpu":
        raise SystemExit("error: a CPU's program in bfloat16 says nothing of a GPU's; run this where there is a GPU.")
    model, optimizer = models.UNet(tuple(channels), dtype=arguments.dtype), training.adam(lambda step: 1e-3)
    side, found = arguments.image_size, counts.count(channels=channels, side=arguments.image_size)
    params = jax.eval_shape(lambda key: models.init_params(model, key), jax.random.key(0))
    state = jax.eval_shape(lambda params: training.init_state(params, optimizer), params)
    step = training.train_step(model, optimizer, noise.noise_levels, seed=0, batch_size=batch)
    images, pixels = (jax.ShapeDtypeStruct((batch, side, side, 3), dtype) for dtype in (jnp.float32, jnp.uint8))
    programs = {
        "represent": (lambda params, y: denoiser.bind(model, params).represent(y), params, images),
        "forward": (lambda params, y: denoiser.bind(model, params).denoise(y), params, images),
        "training": (step, state, (pixels, jax.ShapeDtypeStruct((batch,), jnp.int32))),
    }
    rows = []
    for name, (function, *shapes) in programs.items():
        cost = jax.jit(function).lower(*shapes).compile().cost_analysis()
        moved = counts.traffic(found, batch, jnp.dtype(arguments.dtype).itemsize, name == "training") / batch
        row = {"program": name, "GFLOP, by hand": f"{getattr(found, name) / 1e9:.3f}"}
        row |= {"GFLOP, compiler": f"{cost['flops'] / batch / 1e9:.3f}"}
        row |= {"MiB, layer by layer": "not counted" if name == "represent" else f"{moved / 2**20:.1f}"}
        rows.append(row | {"MiB, compiler": f"{cost['bytes accessed'] / batch / 2**20:.1f}"})
    return rows


def main(given: list[str] | None = None) -> None:
    """Prints inputs, results, and the count by block; or the compiler's count."""
    arguments = parse(given)
    arguments.batch = arguments.batch or (8 if arguments.compiler else 4096)
    hardware = HARDWARE[arguments.hardware]
    architecture = {"channels": [arguments.width * 2**j for j in range(4)], "side": arguments.image_size}
    if arguments.compiler:
        tables.facts()
        rows = compiled(arguments, architecture["channels"], arguments.batch)
        tables.show(f"Of an image, width {arguments.width}, {arguments.dtype}, batch {arguments.batch}", rows)
        return
    found = counts.count(**architecture)
    tables.show(f"Plan for {hardware.name}: inputs", inputs(arguments, hardware, found))
    tables.show("What follows", outcome(arguments, hardware, found))
    tables.show("Operations of an image, forward, by block", counts.by_block(**architecture))


if __name__ == "__main__":
    main()
