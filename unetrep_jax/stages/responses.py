"""Responses of phi's channels to gratings and noise textures, kept on disk."""

from typing import Any

import numpy as np

from unetrep_jax import devices, representation, stimuli, storage
from unetrep_jax.stages.context import Context, layout_of

BANKS = ("gratings", "textures")  # also the folders that keep the responses


def stimulus_responses(context: Context, bank: str, denoiser: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """phi of a bank's stimuli [f, o, r, k] and of blank grey [r, k], at the working level.

    Every stimulus of one repetition (phase or realisation), and one blank, get the same noise, so that their difference is hardly
    touched by it. Streamed to disk: killed, it goes on where it was.
    """
    settings, shape = context.settings, context.images.images.shape[1:]
    shown = stimuli.gratings(*shape) if bank == "gratings" else stimuli.textures(*shape, settings.seed)
    repetitions = shown.shape[2]
    rows = np.concatenate([np.full((repetitions, *shape), 0.5, np.float32), shown.reshape(-1, *shape)])
    folder = context.outdir / bank / name
    frequencies = stimuli.frequencies(*shape[:2]).tolist()
    what = [settings.sigma, settings.draws, settings.seed, rows.shape, stimuli.CONTRAST, frequencies]
    what += [stimuli.OCTAVES, stimuli.CYCLES] * (bank == "textures")
    key = storage.fingerprint(bank, name, context.identity, what)
    if not storage.is_complete(folder, key):
        step = devices.parallel_map(
            representation.noise_averages_of(denoiser.represent, seed=settings.seed), settings.batch_size
        )
        constants = (context.sigmas[context.working], np.int32(settings.draws if settings.sigma else 1))
        begin, end = layout_of(context).columns["mid"]
        writer = storage.RowWriter(folder, key, len(rows), {"phi": ((end - begin,), np.float32)})
        with storage.Progress(f"{bank}, {name}", len(rows), done=writer.rows_done) as progress:
            for first in range(writer.rows_done, len(rows), settings.batch_size):
                some = rows[first : first + settings.batch_size]
                repetition = (first + np.arange(len(some), dtype=np.int32)) % repetitions
                writer.append(phi=step(constants, (some, repetition)))
                progress.advance(len(some))
        writer.finish()
    found = np.load(folder / "phi.npy")
    return found[repetitions:].reshape(*shown.shape[:3], -1), found[:repetitions]
