"""What every stage of the analysis works on, and how it stores and shows its results."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from unetrep_jax import devices, figures, report, representation, storage
from unetrep_jax.data import ImageSet
from unetrep_jax.denoiser import Denoiser
from unetrep_jax.storage import InputError

Arrays = dict[str, np.ndarray]
NETWORKS = {"trained": "representations", "untrained": "untrained"}  # network -> the stage that swept it
LOWEST_COMPARED = (
    30.0  # x 255: below, noise is too small for phi to have settled (figure 2), so levels are not compared
)


class Milestone(NamedTuple):
    """A denoiser on the way of its training.

    Attributes:
      images: training images that its run had seen, each as often as it was; 0 before the first.
      identity: names the checkpoint and the weights taken from it.
      open: opens it.
    """

    images: int
    identity: str
    open: Callable[[], Denoiser]


class Context(NamedTuple):
    """What the stages work on.

    Attributes:
      denoiser: the trained denoiser.
      untrained: opens the same network with random initial parameters.
      images: the images to analyse.
      training_images: opens the images that it was trained on, and remembers them; raises InputError or OSError where they are not
        at hand.
      settings: the analysis settings, each an attribute (see `configs/default.py`, section analysis).
      identity: names the checkpoint and the weights taken from it.
      facts: what is needed to judge and to repeat the analysis, for the head of the report.
      training_log: the run's `metrics.jsonl`, where there is one.
      outdir: folder of all results.
      circular: opens the same weights with circular padding; None where there is no such twin.
      log_damage: what is wrong with the training log, as far as is known; "" where nothing is.
      courses: the milestones of this run, and of those that are shown beside it, by the runs' names, the earliest first.
      taken: section -> its settings as they were taken, for `summary.json`.
      made: the stages whose files are up to date, of those that the running one uses.
    """

    denoiser: Denoiser
    untrained: Callable[[], Denoiser]
    images: ImageSet
    training_images: Callable[[], ImageSet]
    settings: Any
    identity: str
    facts: dict[str, Any]
    training_log: Path
    outdir: Path
    circular: Callable[[], Denoiser | None] = lambda: None
    log_damage: Callable[[], str] = lambda: ""
    courses: Mapping[str, tuple[Milestone, ...]] = MappingProxyType({})
    taken: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
    made: frozenset[str] = frozenset()

    @property
    def sigmas(self) -> np.ndarray:
        """Noise levels of the grid, intensity units."""
        return np.float32(self.settings.sigmas) / np.float32(255)

    @property
    def working(self) -> int:
        """Position of the working noise level in the grid."""
        return list(self.settings.sigmas).index(self.settings.sigma)

    @property
    def training_identity(self) -> str:
        """Names the images that it was trained on; empty where they are not at hand."""
        try:
            return self.training_images().fingerprint
        except (InputError, OSError):
            return ""

    @property
    def untrained_subset(self) -> np.ndarray:
        """Positions of the images that the untrained network sees."""
        return spread(len(self.images.images), self.settings.untrained_images)


class Stage(NamedTuple):
    """One step of the analysis.

    Attributes:
      settings: keys of the analysis settings that its result depends on.
      needs: stages whose files it reads.
      run: writes its files into a folder: (context, folder, key) -> None.
      section: (context, arrays, summary) -> a section of the report, or None for stages that only feed others.
      keeps: other folders, in the analysis folder, where it keeps what it need not make again.
      uses: stages whose files it reads as well where they are up to date, which are not made for its sake.
      also: names of what else its result depends on: context -> texts.
      version: raised when its files change their meaning or their names, so that older ones are not taken for them.
    """

    settings: tuple[str, ...]
    needs: tuple[str, ...]
    run: Callable
    section: Callable | None = None
    keeps: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    also: Callable = lambda context: ()
    version: int = 1


def training_images_of(context: Context) -> tuple[str, ...]:
    """What the result of a stage that reads the training images also depends on."""
    return (context.training_identity,)


def spread(total: int, count: int) -> np.ndarray:
    """`count` positions (all for 0), evenly over a set that may be sorted by class."""
    return np.linspace(0, total - 1, min(total, count or total)).astype(int)


def write_stage(folder: Path, key: str, arrays: Arrays, summary: dict) -> None:
    """Publishes a stage's arrays and numbers at once."""
    with storage.replacing(folder, key) as partial:
        np.savez(partial / "arrays.npz", **arrays)
        storage.write_json(partial / "summary.json", summary)


def arrays_in(folder: Path) -> Arrays:
    """The arrays that were streamed to a folder, by name and in the order of their names: file systems list them in any order."""
    return {path.stem: np.load(path) for path in sorted(folder.glob("*.npy"))}


def averages(context: Context, stage: str) -> np.ndarray:
    """Memory map [n, levels, K] of a sweep's channel averages."""
    return np.load(context.outdir / stage / "mean.npy", mmap_mode="r")


def layout_of(context: Context) -> Any:
    """Where each block's columns are."""
    return representation.layout(context.denoiser, context.images.images.shape[1:])


def phi(context: Context, stage: str, level: int) -> np.ndarray:
    """phi of all images of a sweep at one noise level, [n, k]."""
    return np.ascontiguousarray(layout_of(context).of(averages(context, stage)[:, level], "mid"))


def mean_colour(context: Context) -> np.ndarray:
    """The mean colour of the training images, of the analysed ones where those are not at hand, over a whole image [h w c]."""
    images = context.images.images
    try:
        training = context.training_images().images
        if training.shape[1:] == images.shape[1:]:
            images = training
    except (InputError, OSError):
        pass
    colour = images[spread(len(images), 1000)].mean(axis=(0, 1, 2)) / 255
    return np.broadcast_to(colour, images.shape[1:]).astype(np.float32)


def phi_of(context: Context, images: np.ndarray, numbered_from: int = 0) -> np.ndarray:
    """phi of images (uint8, or float in [0, 1]) at the working noise level, [n, k]; numbered as the sweep numbers its images."""
    return np.concatenate(list(phi_batches(context, images, numbered_from=numbered_from)))


def phi_batches(
    context: Context,
    images: np.ndarray,
    first: int = 0,
    *,
    sigma: float | None = None,
    untrained: bool = False,
    numbered_from: int = 0,
) -> Iterator[np.ndarray]:
    """The same batch by batch, from image `first` on; at another noise level (x 255), or of the untrained network, when asked.

    An image's noise comes from its number, counted from `numbered_from`: images that are compared need different ones.
    """
    settings = context.settings
    sigma = settings.sigma if sigma is None else sigma
    denoiser = context.untrained() if untrained else context.denoiser
    step = devices.parallel_map(
        representation.noise_averages_of(denoiser.represent, seed=settings.seed), settings.batch_size
    )
    constants = (np.float32(sigma) / np.float32(255), np.int32(settings.draws if sigma else 1))
    for start in range(first, len(images), settings.batch_size):
        index = np.arange(start, min(start + settings.batch_size, len(images)), dtype=np.int32)
        yield step(constants, (np.asarray(images[index]), index + np.int32(numbered_from)))


def phi_to(
    folder: Path,
    context: Context,
    images: np.ndarray,
    label: str,
    *,
    sigma: float | None = None,
    untrained: bool = False,
    numbered_from: int = 0,
) -> np.ndarray:
    """The same, streamed to `folder`: made once, and killed, it goes on where it was. A memory map."""
    settings, which = context.settings, {"sigma": sigma, "untrained": untrained, "numbered_from": numbered_from}
    what = [settings.sigma if sigma is None else sigma, settings.draws, settings.seed, images.shape]
    what += ["untrained"] * untrained + [numbered_from] * (numbered_from > 0)
    key = storage.fingerprint("phi", context.identity, context.training_identity, what)
    if not storage.is_complete(folder, key):
        width = jax.eval_shape(context.denoiser.represent, jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32))
        writer = storage.RowWriter(folder, key, len(images), {"phi": (width.shape[1:], np.float32)})
        with storage.Progress(label, len(images), done=writer.rows_done) as progress:
            for rows in phi_batches(context, images, writer.rows_done, **which):
                writer.append(phi=rows)
                progress.advance(len(rows))
        writer.finish()
    return np.load(folder / "phi.npy", mmap_mode="r")


def picture(context: Context, figure: Any, name: str, caption: str) -> Any:
    """Saves a figure and names it for the report."""
    return report.Picture(
        figures.save(figure, context.outdir / "figures", name, context.settings.figure_formats), caption, caption
    )


def reference_level(context: Context) -> int:
    """Position of s0: the positive level of the grid that is nearest to the setting, the lower one of two as near."""
    sigmas = np.array(context.settings.sigmas)
    distance = abs(sigmas - context.settings.robustness_sigma)
    return int(np.argmin(np.where(sigmas > 0, distance, distance.max() + 1)))


def compared_levels(context: Context) -> list[int]:
    """Positions of the levels from 30/255 up, but s0, where every cosine is 1."""
    sigmas, reference = context.settings.sigmas, reference_level(context)
    return [level for level, sigma in enumerate(sigmas) if sigma >= LOWEST_COMPARED and level != reference]
