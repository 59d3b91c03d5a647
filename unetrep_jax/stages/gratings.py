"""Responses of phi's channels to gratings, kept on disk."""

from typing import Any

import numpy as np

from unetrep_jax import devices, representation, selectivity, storage
from unetrep_jax.stages.context import Context, layout_of


def grating_responses(context: Context, denoiser: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
    """phi of gratings [f, o, p, k] and of blank grey [p, k], at the working level.

    Every grating of one phase, and one blank, get the same noise, so that their difference is hardly touched by it. Streamed to
    disk: killed, it goes on where it was.
    """
    settings, shape = context.settings, context.images.images.shape[1:]
    bank = selectivity.gratings(*shape)
    phases = bank.shape[2]
    stimuli = np.concatenate([np.full((phases, *shape), 0.5, np.float32), bank.reshape(-1, *shape)])
    folder = context.outdir / "gratings" / name
    frequencies = selectivity.grating_frequencies(*shape[:2]).tolist()
    what = [settings.sigma, settings.draws, settings.seed, stimuli.shape, selectivity.CONTRAST, frequencies]
    key = storage.fingerprint("gratings", name, context.identity, what)
    if not storage.is_complete(folder, key):
        step = devices.parallel_map(
            representation.noise_averages_of(denoiser.represent, seed=settings.seed), settings.batch_size
        )
        constants = (context.sigmas[context.working], np.int32(settings.draws if settings.sigma else 1))
        begin, end = layout_of(context).columns["mid"]
        writer = storage.RowWriter(folder, key, len(stimuli), {"phi": ((end - begin,), np.float32)})
        with storage.Progress(f"gratings, {name}", len(stimuli), done=writer.rows_done) as progress:
            for first in range(writer.rows_done, len(stimuli), settings.batch_size):
                some = stimuli[first : first + settings.batch_size]
                repetition = (first + np.arange(len(some), dtype=np.int32)) % phases
                writer.append(phi=step(constants, (some, repetition)))
                progress.advance(len(some))
        writer.finish()
    found = np.load(folder / "phi.npy")
    return found[phases:].reshape(*bank.shape[:3], -1), found[:phases]
