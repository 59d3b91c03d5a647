"""The jobs that are measured, how much work a call of each does, and how closely the two sides must agree. Needs numpy alone."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

OURS = ("one device", "as shipped")
THEIRS = ("eager", "channels_last", "compiled", "compiled, channels_last")
SHIPPED = "as shipped"
GRADIENTS = 1e-2  # float32 gradients of phi differ from float64 by up to 2e-3: they pass many ReLUs
PUBLISHED_LEVELS = 100
QUARTER_SIZE = {"scales": 2, "depth": 1, "size": 16}


class Job(NamedTuple):
    """One kind of work.

    Attributes:
      what: one line for the reader.
      unit: of the times in its table.
      scale: units in a second.
      per: settings whose product is the number of units of work in a call.
      bounds: result -> largest permitted relative difference between the sides.
      defaults: settings, beside width and batch.
      ours, theirs: forms.
      network: whether it runs the network, so that width and batch mean something.
      goal: what ours / theirs should be at most; None where none is set.
    """

    what: str
    unit: str
    scale: float
    per: tuple[str, ...]
    bounds: dict[str, float]
    defaults: Mapping[str, Any] = MappingProxyType({})
    ours: tuple[str, ...] = OURS
    theirs: tuple[str, ...] = THEIRS
    network: bool = True
    goal: float | None = None


JOBS = {
    "forward": Job("denoised images from noisy ones", "ms an image", 1e3, ("batch",), {"image": 1e-4}, goal=0.9),
    "training": Job(
        "a training step: noise, forward, backward, Adam",
        "ms an image",
        1e3,
        ("batch",),
        # The first losses are those of equal weights; Adam then takes the sign of gradients that are almost 0.
        {"first loss": 1e-4, "first gradient norm": 1e-3, "losses": 1e-2, "image after": 5e-2},
        goal=0.9,
    ),
    "matching": Job(
        "a step of Adam on the pixels towards phi; without the decoder on both sides",
        "ms a step and image",
        1e3,
        ("batch", "steps"),
        # Adam's first step is as large for a gradient of 1e-7 as for one of 1, and takes its sign.
        {"phi": 1e-4, "losses": 1e-3, "gradient": GRADIENTS, "moved images": 5e-2},
        {"steps": 10},
        goal=0.9,
    ),
    "sampler": Job(
        "a step of the blind sampler, with added noise",
        "ms a step and image",
        1e3,
        ("batch", "steps"),
        {"image": 1e-3, "sigma": 1e-3},
        {"steps": 10, "sigma_0": 1.0, "h0": 0.1, "beta": 0.2},
        goal=0.8,
    ),
    "sample": Job(
        "a whole unconditional sample, from sigma_0 to sigma_end",
        "s an image",
        1.0,
        ("batch",),
        {"image": 1e-3, "sigma": 1e-3},
        {"sigma_0": 1.0, "sigma_end": 0.04, "h0": 0.1, "beta": 0.2},
    ),
    "reconstruction": Job(
        "the published fixed-schedule reconstruction; some levels are timed, each of which does the same work",
        f"s an image and {PUBLISHED_LEVELS} levels",
        float(PUBLISHED_LEVELS),
        ("batch", "levels"),
        {"image": 5e-2},
        {"levels": 1, "matching_steps": 100, "draws": 10},
        goal=0.9,
    ),
    "blind": Job(
        "the published blind reconstruction; some of its score steps, which do the same work each",
        "s a score step and image",
        1.0,
        ("batch", "steps"),
        {"image": 5e-2},
        {"steps": 1, "matching_steps": 200, "draws": 1, "h0": 0.01, "beta": 0.01, "sigma_0": 1.0, "sigma_end": 0.01},
        goal=0.9,
    ),
    "features": Job(
        "channel averages of all blocks for many images in a memory map, written to disk",
        "ms an image",
        1e3,
        ("images",),
        {"averages": 1e-3},
        {"images": 5000, "sigma": 100 / 255},
    ),
    "input": Job(
        "shuffled batches of uint8 images from a memory map",
        "us an image",
        1e6,
        ("batch", "steps"),
        {"every image once": 0.0},
        {"images": 20_000, "steps": 50},
        ours=(SHIPPED,),
        theirs=("an image at a time", "whole batches", "whole batches, 1 worker"),
        network=False,
    ),
    "kmeans": Job(
        "K-means: a given number of Lloyd iterations from k-means++ starts, the best of some runs",
        "ms a run and iteration",
        1e3,
        ("runs", "iterations"),
        {"inertia": 1e-4, "centroids": 1e-3},
        {"rows": 20_000, "columns": 512, "clusters": 100, "runs": 4, "iterations": 20},
        ours=(SHIPPED,),
        theirs=("scikit-learn", "torch"),
        network=False,
    ),
    "neighbours": Job(
        "the 10 nearest rows of every row by the cosine",
        "us a row",
        1e6,
        ("rows",),
        {"neighbours that differ": 1e-3, "distance": 1e-5},
        {"rows": 10_000, "columns": 512, "count": 10},
        ours=(SHIPPED,),
        theirs=("scikit-learn", "torch"),
        network=False,
    ),
}
BATCHES = {64: (4, 16), 16: (8, 64)}  # width -> small and large batches
SLOW, SLOW_BATCHES = ("sample", "reconstruction", "blind"), {64: (4,), 16: (32,)}  # whole runs: one size of batch
SWEEP_BATCH = 64  # of the feature sweep, as in configs/default.py
DATA_BATCHES = (64, 512)  # of the input pipeline
# What `make bench` runs, in this order as far as its minutes reach.
BENCH_FORMS = (SHIPPED, "eager", "compiled, channels_last", *JOBS["input"].theirs, *JOBS["kmeans"].theirs)
BENCH = (
    {"job": "training", "width": 16, "batch": 32},
    {"job": "training", "width": 64, "batch": 4},
    {"job": "forward", "width": 16, "batch": 32},
    {"job": "matching", "width": 16, "batch": 32},
    {"job": "input", "batch": 512},
    {"job": "kmeans"},
    {"job": "neighbours"},
    {"job": "sampler", "width": 16, "batch": 32},
    {"job": "forward", "width": 64, "batch": 4},
    {"job": "matching", "width": 64, "batch": 4},
    {"job": "reconstruction", "width": 16, "batch": 8},
    {"job": "features", "width": 16, "batch": 64, "images": 256},
)


def settings_of(job: str, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of a measurement: the job's own, and those that were given."""
    common = {"job": job, "width": 0, "batch": 0, "size": 64, "scales": 4, "depth": 0, "ckpt": "", "seed": 0}
    common["dtype"] = "float32"
    return {**common, **JOBS[job].defaults, **{name: value for name, value in given.items() if value is not None}}


def tiny(settings: dict[str, Any]) -> dict[str, Any]:
    """The same in little: everything runs, and no time means anything."""
    small = {"width": 4, "batch": 4, "images": 24, "rows": 200, "columns": 8, "clusters": 5, "runs": 2, "iterations": 3}
    small |= {"steps": 2, "levels": 2, "matching_steps": 2, "draws": 2} | QUARTER_SIZE
    small |= {"sigma_end": 0.5, "h0": 0.5, "beta": 0.5}
    return settings | {name: value for name, value in small.items() if name in settings}


def name_of(settings: dict[str, Any], device: str) -> str:
    """What a measurement is called where ratios are recorded: the job, the device, and all that the work depends on."""
    job = JOBS[settings["job"]]
    names = ["width", "batch", "dtype"] if job.network else ["batch"] if "batch" in job.per else []
    names = ["ckpt" if name == "width" and settings["ckpt"] else name for name in names]
    values = {name: settings[name] for name in dict.fromkeys([*names, *job.defaults])}
    shown = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
    return " ".join([settings["job"], device, *shown])


def work(settings: dict[str, Any]) -> float:
    """Units of work in one call."""
    return math.prod(settings[name] for name in JOBS[settings["job"]].per)


def inputs(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """What both sides work on, from the seed: images, start images, features, or the path of a memory map."""
    random = np.random.default_rng(settings["seed"])
    job, side, found = settings["job"], settings["size"], {}
    if "images" in settings:
        path, images = f"{folder}/images.npy", random.integers(0, 256, (settings["images"], side, side, 3), np.uint8)
        images[:, 0, 0] = (
            np.arange(len(images))[:, None] // np.array([1, 256, 65536]) % 256
        )  # its number, to tell them apart
        np.save(path, images)
        found |= {"path": path, "folder": folder}
    if "rows" in settings:
        found["features"] = random.standard_normal((settings["rows"], settings["columns"]), np.float32)
    if JOBS[job].network:
        shape = (settings["batch"], side, side, 3)
        found["images"] = random.integers(0, 256, shape, np.uint8)
        noise = random.standard_normal(shape, np.float32) * np.float32(settings.get("sigma_0", 0.5))
        found["noisy"] = (found["images"] / np.float32(255) if job == "forward" else np.float32(0.45)) + noise
    return found
