"""What a training run says while it goes on: `metrics.jsonl`, TensorBoard, and lines on the screen."""

import contextlib
import hashlib
import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from unetrep_jax import storage


def say(text: str) -> None:
    """One line on the screen."""
    print(text, flush=True)


class Length(NamedTuple):
    """What turns steps into images, epochs and time left.

    Attributes:
      batch_size: images a step.
      images_per_epoch: training images.
      steps: of the whole run.
    """

    batch_size: int
    images_per_epoch: int
    steps: int


class Log:
    """`metrics.jsonl`, TensorBoard and one line on the screen. Only process 0 writes."""

    def __init__(self, folder: Path, length: Length, step: int, *, writes: bool = True, checksum: str | None = None):
        """Opens the logs so that the next line is that of the first step after `step`.

        Args:
          folder: the run's.
          length: of the run.
          step: the one that the run goes on from; later lines of an earlier process go.
          writes: whether this process is the one that writes; the others of a run do nothing.
          checksum: of the lines up to `step`, as `checksum` gave it then; where they are others, a line says so.
        """
        self._writes, self._length = writes, length
        self._psnr, self._began, self._paused = "", (time.monotonic(), step), 0.0
        if not self._writes:
            return
        path = folder / "metrics.jsonl"
        kept = _until(path, step)
        if damaged := damage(path, step, checksum):
            print(f"{damaged}; {len(kept.splitlines())} readable lines of it are kept.", file=sys.stderr)
        self._digest = hashlib.sha256(kept)
        storage.write_atomically(path, kept)
        self._file = open(path, "ab")  # noqa: SIM115 (closed by close)
        self._board = Board(folder / "tensorboard", step + 1)

    def _write(self, line: Mapping[str, Any]) -> None:
        # Nothing that depends on the clock goes in: a run that was killed and resumed leaves the same lines.
        text = json.dumps(storage.finite(line), allow_nan=False).encode() + b"\n"
        self._file.write(text)
        self._file.flush()
        self._digest.update(text)

    def checksum(self) -> str:
        """sha256 of all lines so far, which are on the disk then: a checkpoint knows it."""
        if not self._writes:
            return ""
        os.fsync(self._file.fileno())
        return self._digest.hexdigest()

    def training(self, step: int, loss: float, gradient_norm: float, rate: float) -> None:
        """Means over the steps since the last line."""
        if not self._writes:
            return
        batch_size, images_per_epoch, steps = self._length
        values = {"loss": loss, "gradient_norm": gradient_norm, "learning_rate": rate}
        self._write({"step": step, "images": step * batch_size, **values})
        speed = self._images_per_second(step)
        for name, value in (values | {"images_per_second": speed}).items():
            self._board.add_scalar(f"train/{name}", value, step)
        left = storage.duration((steps - step) * batch_size / speed)
        epoch = step * batch_size / images_per_epoch
        say(f"step {step:,}/{steps:,} (epoch {epoch:.2f})  loss {loss:.2f}{self._psnr}  {speed:,.0f} images/s  {left} left")

    def evaluation(
        self,
        step: int,
        sigmas: Float[np.ndarray, " levels"],
        psnr: Float[np.ndarray, " levels"],
        noisy_psnr: Float[np.ndarray, " levels"],
        held_psnr: Float[np.ndarray, " levels"],
        pictures: Float[np.ndarray, "h w c"],
        seconds: float,
    ) -> None:
        """Validation PSNR by noise level, in dB, of denoised and of noisy images; some of them; how long that took.

        `held_psnr` is that of images denoised with the middle block held (`middle.psnr_held`).
        """
        self._paused += seconds
        if not self._writes:
            return
        self._psnr = f"  validation PSNR {psnr.mean():.2f} dB"
        rows = {"sigma": sigmas, "psnr": psnr, "noisy_psnr": noisy_psnr, "held_psnr": held_psnr}
        rounded = {name: [round(float(value), 6) for value in row] for name, row in rows.items()}
        self._write({"step": step, "images": step * self._length.batch_size, **rounded})
        for sigma, value in zip(sigmas, psnr, strict=True):
            self._board.add_scalar(f"validation_psnr/sigma_{sigma:.3f}", float(value), step)
        self._board.add_scalar("validation_psnr/mean", float(psnr.mean()), step)
        self._board.add_scalar("validation_psnr/given_by_middle_block", float((psnr - held_psnr).mean()), step)
        self._board.add_image("validation/clean_noisy_denoised", pictures, step)
        table = "  ".join(f"{value:.1f} ({noisy:.1f})" for value, noisy in zip(psnr, noisy_psnr, strict=True))
        say(f"  validation PSNR in dB (of the noisy input) at sigma {sigmas[0]:.2g} to {sigmas[-1]:.2g}: {table}")
        say(f"  of these the middle block gives {(psnr - held_psnr).min():.2f} to {(psnr - held_psnr).max():.2f} dB")

    def _images_per_second(self, step: int) -> float:
        """Training speed since the last line, evaluations left out."""
        now = time.monotonic()
        (before, first), self._began = self._began, (now, step)
        seconds, self._paused = now - before - self._paused, 0.0
        return (step - first) * self._length.batch_size / max(seconds, 1e-9)

    def close(self) -> None:
        """Closes the files."""
        if self._writes:
            with contextlib.closing(self._board), contextlib.closing(self._file):
                pass


class Board:
    """TensorBoard's event file, written here and now.

    tensorboardX's SummaryWriter writes from a thread of its own; when the disk is full that thread ends, and the run waits for it
    for ever.
    """

    def __init__(self, folder: Path, purge_step: int):
        """Begins a file; TensorBoard will hide what earlier files say of `purge_step` and later."""
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto import event_pb2

        folder.mkdir(parents=True, exist_ok=True)
        self._event, self._file = event_pb2.Event, EventsWriter(str(folder / "events"))
        self._add(purge_step, session_log=event_pb2.SessionLog(status=event_pb2.SessionLog.START))

    def _add(self, step: int, **content: Any) -> None:
        self._file.write_event(self._event(wall_time=time.time(), step=step, **content))
        self._file.flush()

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """One value of a curve."""
        from tensorboardX import summary

        self._add(step, summary=summary.scalar(name, value))

    def add_image(self, name: str, picture: Any, step: int) -> None:
        """A picture [h w c] in [0, 1]."""
        from tensorboardX import summary

        self._add(step, summary=summary.image(name, picture, dataformats="HWC"))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


def damage(path: Path, step: int, checksum: str | None) -> str:
    """What is wrong with the log up to a step, of which `Log.checksum` gave this then; "" where nothing is, or it is not known."""
    if checksum in (None, hashlib.sha256(_until(path, step)).hexdigest()):
        return ""
    return f"{path} is damaged: up to step {step:,} it is not what it was when that step was saved"


def _until(path: Path, step: int) -> bytes:
    """The readable lines of a log up to a step."""
    lines = path.read_bytes().splitlines() if path.exists() else []
    return b"".join(line + b"\n" for line in lines if _step_of(line) <= step)


def _step_of(line: bytes) -> float:
    """The step of a line of metrics.jsonl; infinity for a line that was cut short or damaged."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf
