"""Shuffled batches of an image set: the same on any number of processes, and exactly resumable."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int32, UInt8

from unetrep_jax.data.image_set import ImageSet
from unetrep_jax.storage import InputError, fingerprint

BATCHES_AHEAD = 2


class Batch(NamedTuple):
    """This process's part of one training step's images.

    Attributes:
      images: uint8 [b h w c], intensities 0..255.
      index: int32 [b], each image's position in the WHOLE batch, over all processes.
    """

    images: UInt8[np.ndarray, "b h w c"]
    index: Int32[np.ndarray, " b"]


class Batches(Iterator[Batch]):
    """Endless batches of an image set in shuffled order, gathered in a background thread.

    Each epoch is another permutation (Grain's, from `seed` and the epoch's number). Step s holds the places s B to
    (s + 1) B - 1 of the epochs put end to end, so no image is left out and a batch may reach into the next epoch. Every
    process draws and gathers its own contiguous part of a batch, so the run does not depend on their number. Use it in a
    `with` statement, or call `close`.
    """

    def __init__(
        self,
        image_set: ImageSet,
        *,
        batch_size: int,
        seed: int,
        start_step: int = 0,
        process_index: int = 0,
        process_count: int = 1,
    ):
        """Starts gathering.

        Args:
          image_set: what to draw from.
          batch_size: images in a step, over all processes (B).
          seed: 0 to 2^32 - 1.
          start_step: the first step to give.
          process_index: this process, 0 to `process_count` - 1.
          process_count: number of processes; divides `batch_size`.

        Raises:
          InputError: the batch is larger than the set, not divisible, or the seed is out of range.
        """
        _check(len(image_set.images), batch_size, seed, process_count)
        self._image_set, self._batch_size, self._seed = image_set, batch_size, seed
        share = batch_size // process_count
        self._own = slice(process_index * share, (process_index + 1) * share)
        self._order = _order(len(image_set.images), seed)
        self._pool = ThreadPoolExecutor(1, "batches")
        self._ahead: deque[Future[Batch]] = deque()
        self._seek(start_step)

    def _seek(self, step: int) -> None:
        """Makes `step` the next one to give. What is being gathered is dropped."""
        for future in self._ahead:
            future.cancel()
        self._ahead.clear()
        self._next_step = step
        for ahead in range(BATCHES_AHEAD):
            self._ahead.append(self._pool.submit(self._gather, step + ahead))

    def _positions(self, step: int, part: slice) -> Int32[np.ndarray, " p"]:
        """Which images of the set stand in this part of the batch of `step`, in order."""
        first = step * self._batch_size
        # Grain takes microseconds a place: a process that drew the others' parts too would wait for it on a pod.
        return np.array([self._order[i] for i in range(first + part.start, first + part.stop)], np.int32)

    def _gather(self, step: int) -> Batch:
        index = np.arange(self._own.start, self._own.stop, dtype=np.int32)
        return Batch(np.asarray(self._image_set.images[self._positions(step, self._own)]), index)

    def __next__(self) -> Batch:
        """The next step's batch."""
        if not self._ahead:
            raise ValueError("these batches were closed")
        batch = self._ahead.popleft().result()
        self._ahead.append(self._pool.submit(self._gather, self._next_step + BATCHES_AHEAD))
        self._next_step += 1
        return batch

    def state(self) -> dict[str, Any]:
        """JSON-like: the next step and everything that the order of images depends on. No matter how many processes."""
        return {"step": self._next_step, **self._depends_on(self._next_step)}

    def _depends_on(self, step: int) -> dict[str, Any]:
        return {
            "seed": self._seed,
            "batch_size": self._batch_size,
            "images": len(self._image_set.images),
            "fingerprint": self._image_set.fingerprint,
            "order": fingerprint(self._positions(step, slice(0, self._batch_size)).tolist()),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state` was taken.

        Raises:
          InputError: the order would not continue: seed, batch size, images or Grain's shuffle have changed.
        """
        try:
            now = self._depends_on(int(state["step"]))
            changed = [f"{_NAMES[key]} was {state[key]}, is {now[key]}" for key in now if state[key] != now[key]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"The saved state of the data is incomplete ({error!r}): start anew with --fresh."
            ) from error
        if len(changed) > 1:  # the order follows from the others: worth naming only alone
            changed = [text for text in changed if not text.startswith(_NAMES["order"])]
        if changed:
            raise InputError(
                f"The training images cannot be continued: {'; '.join(changed)}. Undo that, or start anew with --fresh."
            )
        self._seek(int(state["step"]))

    def close(self) -> None:
        """Stops the background thread; safe to call twice."""
        self._ahead.clear()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> "Batches":
        """Begins."""
        return self

    def __exit__(self, *_: Any) -> None:
        """Closes."""
        self.close()


_NAMES = {
    "seed": "the seed",
    "batch_size": "the batch size",
    "images": "the number of images",
    "fingerprint": "the images' fingerprint",
    "order": "Grain's shuffled order (a fingerprint; another version?)",
}


def batches(
    image_set: ImageSet,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
) -> Batches:
    """`Batches`, as a function: see there."""
    return Batches(
        image_set,
        batch_size=batch_size,
        seed=seed,
        start_step=start_step,
        process_index=process_index,
        process_count=process_count,
    )


def _check(images: int, batch_size: int, seed: int, process_count: int) -> None:
    if not 1 <= batch_size <= images:
        raise InputError(f"train.batch_size must lie between 1 and the number of training images, {images}; got {batch_size}.")
    if batch_size % process_count:
        raise InputError(f"batch_size={batch_size} is not divisible by {process_count} processes: use a multiple.")
    if not 0 <= seed < 2**32:
        raise InputError(f"seed={seed}: it must lie between 0 and 2^32 - 1.")


def _order(images: int, seed: int) -> Any:
    """Grain's endless, randomly accessible sequence of image numbers, permuted anew in each epoch."""
    import grain

    return grain.MapDataset.range(images).seed(seed).shuffle().repeat()
