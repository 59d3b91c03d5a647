"""The jobs that are measured, how much work a call of each does, and how closely the two sides must agree. Needs numpy alone."""

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import counts
import numpy as np
import parts

PLAIN, ONE, TWO = "plain jit", "1 device", "2 devices"
NARROW = 48  # channels below which the configurations have two virtual devices (demo, reference), and others one
EAGER = ("eager", "channels_last", "compiled")
FROZEN = (*EAGER, "compiled, frozen")  # where nothing is differentiated
WHOLE = ("channels_last", "compiled, frozen")  # of whole runs
GPU = ("channels_last", "compiled", "compiled, CUDA graphs", "compiled, max-autotune")
GRADIENTS = 1e-2  # float32 gradients of phi differ from float64 by up to 2e-3: they pass many ReLUs
# Bounds in bfloat16, which rounds each number by up to 2^-8 of itself; what about 30 layers in a row add up to, each by itself, is
# sqrt(30) 2^-8 = 0.021. The network of width 16 against itself in float32, seed 0, 8 images of 32x32: image 0.021, phi 0.003, first
# loss of training 0.001. That of a matching is of two phi that are nearly the same: 0.023, and 0.04 in the smallest network. The
# gradient by the pixels also passes other ReLUs: 0.14. What went through Adam's sign is compared in float32 alone.
CLOSE = ("image", "sigma", "denoised", "phi", "first loss", "first gradient norm", "averages", "written", "projections")
ROUGH = {**dict.fromkeys(CLOSE, 3e-2), "first matching loss": 0.1, "gradient": 0.3}
COARSER = {"bfloat16": 1.0, "float32": 1 / 8}  # float32 is TF32 on a GPU, with three more bits
MADE = "iterations made"
PUBLISHED_LEVELS = 100
QUARTER_SIZE = {"scales": 2, "depth": 1, "size": 16}
AN_IMAGE, A_STEP = ("ms an image", 1e3, ("batch",)), ("ms a step and image", 1e3, ("batch", "steps"))


class Job(NamedTuple):
    """One kind of work.

    Attributes:
      what: one line for the reader.
      unit: of the times in its table.
      scale: units in a second.
      per: settings whose product is the number of units of work in a call, unless it says by itself how many it made (MADE).
      bounds: result -> largest permitted relative difference between the sides.
      defaults: settings, beside width and batch.
      ours, theirs: forms on a CPU; see `forms` for the one of ours that counts.
      network: whether it runs the network, so that width and batch mean something, and a GPU may be used.
      goal: what ours / theirs should be at most, on a CPU; None where none is set.
      rate: units of work a second that one H200 should do at width 64 and 64x64 pixels; None where none is set.
    """

    what: str
    unit: str
    scale: float
    per: tuple[str, ...]
    bounds: dict[str, float]
    defaults: Mapping[str, Any] = MappingProxyType({})
    ours: tuple[str, ...] = (ONE, TWO, PLAIN)
    theirs: tuple[str, ...] = EAGER
    network: bool = True
    goal: float | None = None
    rate: float | None = None


SAMPLED = {"image": 1e-3, "sigma": 1e-3, "denoised": 1e-3}
SAMPLER = {"sigma_0": 1.0, "h0": 0.1, "beta": 0.2, "max_steps": 2000}
BLIND = {"steps": 1, "matching_steps": 200, "draws": 1, "h0": 0.01, "beta": 0.01, "sigma_0": 1.0, "sigma_end": 0.01}
# The first losses are those of equal weights; Adam then takes the sign of gradients that are almost 0.
TRAINED = {"first loss": 1e-4, "first gradient norm": 1e-3, "losses": 1e-2, "image after": 5e-2}
# Adam's first step is as large for a gradient of 1e-7 as for one of 1, and takes its sign.
MATCHED = {"phi": 1e-4, "first matching loss": 1e-3, "losses": 1e-3, "gradient": GRADIENTS, "moved images": 5e-2}
DATA, RUN = {"ours": (ONE,), "network": False}, {"ours": (ONE,), "theirs": WHOLE}
JOBS = {
    "forward": Job("noisy images -> denoised ones", *AN_IMAGE, {"image": 1e-4}, theirs=FROZEN, goal=0.9, rate=44_400),
    "training": Job("a training step: noise, forward, backward, Adam", *AN_IMAGE, TRAINED, goal=0.9, rate=14_800),
    "matching": Job("a step of Adam on the pixels towards phi; no decoder", *A_STEP, MATCHED, {"steps": 10}, goal=0.9),
    "sampler": Job("a step of the blind sampler", *A_STEP, SAMPLED, SAMPLER | {"steps": 10}, theirs=FROZEN, goal=0.8),
    "sample": Job(
        "a whole unconditional sample, from sigma_0 to sigma_end",
        *("s an image", 1.0, ("batch",), SAMPLED),
        # With the published gains a network that was not trained denoises to almost 0, so that a sample of it ends.
        SAMPLER | {"sigma_end": 0.04, "gain": "near_zero"},
        **RUN,
    ),
    "reconstruction": Job(
        "the published fixed-schedule reconstruction; some levels are timed, each of which does the same work",
        *(f"s an image and {PUBLISHED_LEVELS} levels", float(PUBLISHED_LEVELS), ("batch", "levels"), {"image": 1e-3}),
        {"levels": 1, "matching_steps": 100, "draws": 10},
        **RUN | {"theirs": ("eager, as published", *WHOLE), "goal": 0.9, "rate": PUBLISHED_LEVELS},
    ),
    "blind": Job(
        "the published blind reconstruction; some of its score steps, which do the same work each",
        *("s a score step and image", 1.0, ("batch", "steps"), {"image": 1e-3}, BLIND),
        **RUN | {"goal": 0.9},
    ),
    "features": Job(
        "channel averages of all blocks for many images in a memory map, written to disk",
        *("ms an image", 1e3, ("images",), {"averages": 1e-3, "written": 1e-3}, {"images": 5000, "sigma": 100 / 255}),
        theirs=FROZEN,
    ),
    "parts": Job(
        "a part of a training step by itself, on one device: " + ", ".join(parts.PARTS),
        *("ms a step", 1e3, (), {"projections": 1e-3}, {"part": "convolutions"}),
        **{"ours": (PLAIN,), "theirs": ("channels_last", "compiled")},
    ),
    "input": Job(
        "shuffled batches of uint8 images from a memory map",
        *("us an image", 1e6, ("batch", "steps"), {"every image once": 0.0}, {"images": 20_000, "steps": 50}),
        **DATA | {"theirs": ("an image at a time", "whole batches", "whole batches, 1 worker")},
    ),
    "kmeans": Job(
        "K-means, the best of some runs: at most so many Lloyd iterations from k-means++ starts on all rows",
        *("ms an iteration made, with the starts", 1e3, ("runs", "iterations"), {"inertia": 1e-4, "centroids": 1e-3}),
        {"rows": 20_000, "columns": 512, "clusters": 100, "runs": 4, "iterations": 20},
        **DATA | {"theirs": ("scikit-learn", "torch")},
    ),
    "neighbours": Job(
        "the 10 nearest rows of every row by the cosine",
        *("us a row", 1e6, ("rows",), {"neighbours that differ": 1e-3, "distance": 1e-5}),
        {"rows": 10_000, "columns": 512, "count": 10},
        **DATA | {"theirs": ("scikit-learn", "torch")},
    ),
}
# width -> batches: small and large; of whole runs and of the sweep one size; what fills a GPU.
BATCHES, WHOLE_BATCHES, SWEEP_BATCHES, GPU_BATCHES = (
    {64: (4, 16), 16: (8, 64)},
    {64: (4,), 16: (32,)},
    {16: (64,)},
    {16: (256, 1024)},
)
DATA_BATCHES = (64, 512)  # of the input pipeline
SWEEP_IMAGES = {64: 1000}  # width -> images of the feature sweep, where the job's own number takes too long
# What `make bench` runs, the costliest first, so that what is begun does not take longer than what came before.
#
# Ten minutes are allowed; with turns of 1.5 s it took five on 2 cores of an AMD EPYC. Hence one form of theirs, the compiled one, a
# level of few steps, and no blind reconstruction, whose work is that of the other.
BENCH = (
    ("training", {"width": 64, "batch": 4}),
    ("matching", {"width": 16, "batch": 32}),
    ("training", {"width": 16, "batch": 32}),
    ("sampler", {"width": 16, "batch": 32, "steps": 3}),
    ("reconstruction", {"width": 16, "batch": 8, "matching_steps": 20, "draws": 2}),
    ("forward", {"width": 16, "batch": 32}),
)
WHOLE_RUN = {"width": 16, "batch": 8}  # of `--whole`


def forms(settings: dict[str, Any], device: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(ours, theirs) on a device; the ratio that counts is of the first of ours.

    On a CPU that has as many virtual devices as in the configurations; on a GPU its arrays stay there, as theirs do.
    """
    job = JOBS[settings["job"]]
    if device == "cpu":
        narrow = job.network and 0 < settings["width"] < NARROW
        swapped = {ONE: TWO, TWO: ONE} if narrow else {}
        return tuple(swapped.get(form, form) for form in job.ours), job.theirs
    # All processes' memory is on one GPU: with a large batch, and for whole runs, only one of them is ours.
    ours = (PLAIN, ONE) if len(job.ours) > 1 and settings["batch"] <= GPU_BATCHES[16][0] else (PLAIN,)
    graphs = tuple(GPU[2] if form.startswith("compiled") else form for form in job.theirs)
    return ours, GPU if set(EAGER) <= set(job.theirs) else graphs


def batches(job: str, device: str, width: int) -> tuple[int, ...]:
    """The usual batches of a job."""
    if not JOBS[job].network:
        return DATA_BATCHES if job == "input" else (0,)
    is_step = len(JOBS[job].ours) > 1 and job != "features"
    usual = (
        GPU_BATCHES
        if device == "gpu"
        else SWEEP_BATCHES
        if job == "features"
        else BATCHES
        if is_step
        else WHOLE_BATCHES
    )
    return usual.get(width, usual[16])[: None if is_step else 1]


def settings_of(job: str, given: dict[str, Any]) -> dict[str, Any]:
    """All settings of a measurement: the job's own, and those that were given."""
    common = {"job": job, "width": 0, "batch": 0, "size": 64, "scales": 4, "depth": 0, "ckpt": "", "seed": 0}
    common |= {"dtype": "float32", "precision": "default", "gain": "one"}
    defaults = JOBS[job].defaults if job in JOBS else {}
    if job == "features" and given.get("width") in SWEEP_IMAGES:
        defaults = {**defaults, "images": SWEEP_IMAGES[given["width"]]}
    return {**common, **defaults, **{name: value for name, value in given.items() if value is not None}}


def tiny(settings: dict[str, Any]) -> dict[str, Any]:
    """The same in little: everything runs, and no time means anything."""
    small = {"width": 4, "batch": 4, "images": 24, "rows": 200, "columns": 8, "clusters": 5, "runs": 2, "iterations": 3}
    small |= {"steps": 2, "levels": 2, "matching_steps": 2, "draws": 2} | QUARTER_SIZE
    small |= {"sigma_end": 0.5, "h0": 0.5, "beta": 0.5} | ({"levels": PUBLISHED_LEVELS} if is_whole(settings) else {})
    return settings | {name: value for name, value in small.items() if name in settings}


def name_of(settings: dict[str, Any], device: str) -> str:
    """What a measurement is called where ratios are recorded: the job, the device, and all that the work depends on."""
    job = JOBS[settings["job"]]
    names = ["width", "batch", "dtype"] if job.network else ["batch"] if "batch" in job.per else []
    names = ["ckpt" if name == "width" and settings["ckpt"] else name for name in names]
    values = {name: settings[name] for name in dict.fromkeys([*names, *job.defaults])}
    shown = [f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in values.items()]
    return " ".join([settings["job"], device, *shown])


def bench_forms(settings: dict[str, Any]) -> list[str]:
    """Ours that counts, and the compiled form of theirs that the job has."""
    (mine, *_), theirs = forms(settings, "cpu")
    return [mine, next(form for form in ("compiled", "compiled, frozen") if form in theirs)]


def rough(bounds: dict[str, float], dtype: str) -> dict[str, float]:
    """Bounds in lower precision of a job's results, but for those that went through Adam's sign."""
    return {name: ROUGH[name] * COARSER[dtype] for name in bounds if name in ROUGH}


def is_whole(settings: dict[str, Any]) -> bool:
    """Whether it is a whole reconstruction, which takes minutes to hours, and not some of its levels."""
    return settings.get("levels") == PUBLISHED_LEVELS


def is_published(settings: dict[str, Any]) -> bool:
    """Whether a call does the work that the job's goal is for: as many matching steps and draws as were published."""
    defaults = JOBS[settings["job"]].defaults
    return all(settings[name] == defaults[name] for name in ("matching_steps", "draws") if name in defaults)


def work(settings: dict[str, Any], facts: dict[str, float] | None = None) -> float:
    """Units of work in one call: by the settings, or those that it says it made."""
    made = (facts or {}).get(MADE)
    return made or math.prod(settings[name] for name in JOBS[settings["job"]].per)


def architecture(settings: dict[str, Any]) -> dict[str, Any]:
    """Of the network, as `counts` takes it."""
    depths = dict.fromkeys(("encoder", "middle", "decoder"), settings["depth"]) if settings["depth"] else {}
    channels = [settings["width"] * 2**j for j in range(settings["scales"])]
    return depths | {"channels": channels, "side": settings["size"]}


def counted(settings: dict[str, Any]) -> tuple[float, float]:
    """(operations, bytes) of a unit of work by hand; 0 where they are not counted. The weights of a matching have no gradient."""
    if not settings["width"]:
        return 0.0, 0.0
    how = architecture(settings)
    if settings["job"] == "parts":
        size = 2 if settings["dtype"] == "bfloat16" else 4
        return parts.work(settings["part"], counts.layers(**how), settings["batch"], size)
    found = counts.count(**how)
    phi = (2 * settings.get("matching_steps", 1) + settings.get("draws", 0)) * found.represent
    operations = {"forward": found.forward, "sampler": found.forward, "training": found.training, "matching": phi}
    operations |= {"reconstruction": phi + found.forward, "blind": phi + 3 * found.forward}
    return float(operations.get(settings["job"], 0)), 0.0


def inputs(settings: dict[str, Any], folder: str) -> dict[str, Any]:
    """What both sides work on, from the seed: images, start images, features, layers, or the path of a memory map."""
    random = np.random.default_rng(settings["seed"])
    job, side, found = settings["job"], settings["size"], {}
    if "images" in settings:
        path, images = f"{folder}/images.npy", random.integers(0, 256, (settings["images"], side, side, 3), np.uint8)
        # Its number, to tell them apart.
        images[:, 0, 0] = np.arange(len(images))[:, None] // np.array([1, 256, 65536]) % 256
        np.save(path, images)
        found |= {"path": path, "folder": folder}
    if "rows" in settings:
        found["features"] = random.standard_normal((settings["rows"], settings["columns"]), np.float32)
    if job == "parts":
        found["pieces"] = parts.pieces(settings["part"], counts.layers(**architecture(settings)), settings["seed"])
    if job in JOBS and JOBS[job].network:
        shape = (settings["batch"], side, side, 3)
        found["images"] = random.integers(0, 256, shape, np.uint8)
        noise = random.standard_normal(shape, np.float32) * np.float32(settings.get("sigma_0", 0.5))
        found["noisy"] = (found["images"] / np.float32(255) if job == "forward" else np.float32(0.45)) + noise
    return found
