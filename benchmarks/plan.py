"""What a training would take on given hardware, from counted operations and bytes: no measured number goes in unless it is given.

    python benchmarks/plan.py                                              the published training on a TPU v4-32
    python benchmarks/plan.py --hardware h200
    python benchmarks/plan.py --image-size 256 --batch 512 --utilisation 0.3 --host-memory-gib 400

Every input of a formula is printed with where it is from. Times are lower bounds, at the peak of the hardware, unless --utilisation
says which share of it was measured (benchmarks/compare.py, on the device). Needs the standard library alone.
"""

import argparse
from typing import NamedTuple

import counts
import tables

IMAGENET = 1_281_167  # training images of ILSVRC 2012, which imagenet_resized/64x64 holds too
SECONDS_A_DAY = 86_400


class Hardware(NamedTuple):
    """Peaks of one chip, as its maker states them.

    Attributes:
      name, chips, hosts: what it is.
      operations: bfloat16 operations a second.
      memory, bandwidth: bytes of its memory, bytes a second.
      link: bytes a second to and from other chips, all links together; 0 for one chip.
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


HARDWARE = {
    "tpu-v4-32": Hardware(
        "TPU v4-32: 32 TensorCores, 16 chips",
        chips=16,
        hosts=4,
        operations=275e12,
        memory=32 * 2**30,
        bandwidth=1200e9,
        link=6 * 50e9,
        source="https://cloud.google.com/tpu/docs/v4 (peak, memory, bandwidth); arXiv 2304.01433, table 4 (6 links of 50 GB/s)",
    ),
    "h200": Hardware(
        "one H200 SXM",
        chips=1,
        hosts=1,
        operations=989e12,
        memory=141e9,
        bandwidth=4.8e12,
        link=0.0,
        source="https://www.nvidia.com/en-us/data-center/h200/ (1,979 TFLOP/s bfloat16 with sparsity, half of that without)",
    ),
}


def parse(given: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hardware", choices=list(HARDWARE), default="tpu-v4-32")
    parser.add_argument("--width", type=int, default=64, help="channels of the finest scale")
    parser.add_argument(
        "--image-size", type=int, default=64, help="pixels; 64 is the paper's, 256 about ImageNet's full size"
    )
    parser.add_argument("--images", type=int, default=IMAGENET, help="training images")
    parser.add_argument("--epochs", type=float, default=1000.0)
    parser.add_argument("--batch", type=int, default=4096, help="images of a step, over all chips")
    parser.add_argument("--utilisation", type=float, default=1.0, help="measured share of the peak; 1: the lower bound")
    parser.add_argument("--host-memory-gib", type=float, default=0.0, help="of one host; 0: not known")
    return parser.parse_args(given)


def step_times(hardware: Hardware, found: counts.Count, batch: int) -> dict[str, float]:
    """Lower bounds of a step's parts, seconds: operations, memory traffic, sum of the gradients over the chips."""
    share = batch / hardware.chips
    ring = 2 * (hardware.chips - 1) / hardware.chips * 4 * found.parameters
    return {
        "operations": share * found.training / hardware.operations,
        "memory": counts.traffic(found, share, 2, training=True) / hardware.bandwidth,
        "gradient sum": ring / hardware.link if hardware.link else 0.0,
    }


def inputs(arguments: argparse.Namespace, hardware: Hardware, found: counts.Count) -> list[dict[str, str]]:
    """What the formulas take, and where it is from."""
    rows = [
        ("chips; hosts", f"{hardware.chips}; {hardware.hosts}", "the maker"),
        ("peak of a chip", f"{hardware.operations / 1e12:.0f} TFLOP/s, bfloat16", hardware.source),
        (
            "memory of a chip; its bandwidth",
            f"{hardware.memory / 2**30:.1f} GiB; {hardware.bandwidth / 1e9:.0f} GB/s",
            "the same",
        ),
        ("links of a chip", f"{hardware.link / 1e9:.0f} GB/s" if hardware.link else "none", "the same"),
        ("operations, an image and training step", f"{found.training / 1e9:.2f} GFLOP", "counted (counts.py)"),
        ("layers' inputs and outputs, an image", f"{found.values / 1e6:.2f} million values, 2 bytes each", "counted"),
        ("kept for the backward pass, an image", f"{found.kept / 1e6:.2f} million values, 2 bytes each", "counted"),
        ("parameters", f"{found.parameters:,}", "counted"),
        ("images; epochs; batch", f"{arguments.images:,}; {arguments.epochs:g}; {arguments.batch:,}", "given"),
        (
            "share of the peak",
            f"{arguments.utilisation:g}",
            "given" if arguments.utilisation < 1 else "none: the lower bound",
        ),
    ]
    return [{"input": name, "value": value, "from": source} for name, value, source in rows]


def outcome(arguments: argparse.Namespace, hardware: Hardware, found: counts.Count) -> list[dict[str, str]]:
    """What follows."""
    times = step_times(hardware, found, arguments.batch)
    step = max(times["operations"], times["memory"]) / arguments.utilisation + times["gradient sum"]
    rate, pixels = arguments.batch / step, 3 * arguments.image_size**2
    share, dataset = arguments.batch / hardware.chips, arguments.images * pixels
    memory = 4 * 4 * found.parameters + 2 * share * found.kept
    fits = f"{memory / hardware.memory:.0%} of a chip's"
    host = (
        f"{arguments.host_memory_gib:.0f} GiB a host" if arguments.host_memory_gib else "a host's memory is not given"
    )
    total = arguments.epochs * arguments.images
    bound = max(times, key=times.get)
    rows = [
        ("step: operations / peak", f"{1e3 * times['operations']:.2f} ms"),
        ("step: least traffic / bandwidth", f"{1e3 * times['memory']:.2f} ms"),
        (
            "step: gradients, ring of 2 (n - 1) / n * 4 bytes * parameters / links",
            f"{1e3 * times['gradient sum']:.3f} ms",
        ),
        ("what bounds it", bound),
        ("step: larger of the first two / share of the peak, then the sum", f"{1e3 * step:.2f} ms"),
        ("images a second", f"{rate:,.0f}"),
        (
            "whole training: images * epochs / rate",
            f"{total / rate / SECONDS_A_DAY:.2f} days, {total * found.training:.3g} FLOP",
        ),
        (
            "input: rate * 3 * side^2 bytes",
            f"{rate * pixels / 1e6:,.0f} MB/s, {rate / hardware.hosts:,.0f} images/s a host",
        ),
        ("memory: 16 bytes * parameters + 2 bytes * kept * images a chip", f"{memory / 2**30:.1f} GiB, {fits}"),
        ("data set: images * 3 * side^2 bytes, a memory map on every host", f"{dataset / 2**30:.1f} GiB; {host}"),
    ]
    return [{"result": name, "value": value} for name, value in rows]


def main(given: list[str] | None = None) -> None:
    """Prints inputs, results, and the count by block."""
    arguments = parse(given)
    hardware = HARDWARE[arguments.hardware]
    architecture = {"channels": [arguments.width * 2**j for j in range(4)], "side": arguments.image_size}
    found = counts.count(**architecture)
    tables.show(f"Plan for {hardware.name}: inputs", inputs(arguments, hardware, found))
    tables.show("What follows: lower bounds, unless a share of the peak was given", outcome(arguments, hardware, found))
    tables.show("Operations of an image, forward, by block", counts.by_block(**architecture))


if __name__ == "__main__":
    main()
