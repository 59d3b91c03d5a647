"""Gratings and noise textures, and over how many of their spatial frequencies and orientations a channel is driven.

A bank of stimuli holds every frequency at every orientation, several times: a grating in several phases, a texture in several
independent realisations. How Kadkhodaie, Mallat & Simoncelli 2025 (arXiv 2506.01912) measure the breadth of a channel is not
stated: the stimuli and the measure are our choice.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64

from unetrep_jax import selectivity

FREQUENCIES, ORIENTATIONS, REPETITIONS = 6, 8, 4
CONTRAST = 0.8  # of gratings: (highest - lowest) / (highest + lowest)
OCTAVES = 1.0  # width of a texture's band; frequencies are 0.74 octaves apart at 64 x 64 pixels, so bands leave no gap
CYCLES = 8  # of the lowest frequency over the canvas that textures are cut from: its band then holds some twenty waves


def frequencies(height: int, width: int) -> Float64[np.ndarray, "f"]:
    """Spatial frequencies in cycles per pixel: log-spaced from two cycles over the shorter side (at most 0.25) to 0.4."""
    return np.geomspace(min(2 / min(height, width), 0.25), 0.4, FREQUENCIES)


def orientations() -> Float64[np.ndarray, "o"]:
    """Directions in which the intensity changes, in radians from the x axis towards the y axis, evenly over [0, pi)."""
    return np.pi * np.arange(ORIENTATIONS) / ORIENTATIONS


def gratings(height: int, width: int, colours: int) -> Float32[np.ndarray, "f o r h w c"]:
    """Sinusoidal gratings over mid grey, all colours alike: every frequency at every orientation, in evenly spaced phases.

    0.5 + 0.5 CONTRAST cos(2 pi f (x cos theta + y sin theta) + phase),    phase in [0, 2 pi)

    Their mean square about mid grey, over phases, is CONTRAST^2 / 8 at every pixel.
    """
    y, x = np.mgrid[:height, :width]
    theta = orientations()[:, None, None]
    cycles = frequencies(height, width)[:, None, None, None] * (np.cos(theta) * x + np.sin(theta) * y)
    phases = np.arange(REPETITIONS) / REPETITIONS
    waves = np.cos(2 * np.pi * (cycles[:, :, None] + phases[:, None, None]))
    return np.repeat((0.5 + 0.5 * CONTRAST * waves)[..., None], colours, axis=-1).astype(np.float32)


def band(rows: int, columns: int, frequency: float, orientation: float) -> Bool[np.ndarray, "rows half"]:
    """Which waves of `np.fft.rfft2` are within OCTAVES / 2 of a frequency and half a step of an orientation.

    Bands of neighbouring orientations touch. Waves beyond 0.5 cycles per pixel along x or y do not exist, so the band of a high
    frequency lacks them. A wave and its opposite are the same one: orientations count modulo pi.
    """
    down, across = np.fft.fftfreq(rows)[:, None], np.fft.rfftfreq(columns)[None]
    with np.errstate(divide="ignore"):
        octaves = np.log2(np.hypot(down, across) / frequency)
    turn = (np.arctan2(down, across) - orientation + np.pi / 2) % np.pi - np.pi / 2
    return (abs(octaves) <= OCTAVES / 2) & (abs(turn) <= np.pi / (2 * ORIENTATIONS))


def textures(height: int, width: int, colours: int, seed: int = 0) -> Float32[np.ndarray, "f o r h w c"]:
    """Gaussian noise textures over mid grey, all colours alike: white noise of which only one `band` is kept.

    A band about each frequency and orientation of the gratings, in independent realisations, cut from a canvas on which the lowest
    frequency has CYCLES cycles: a band narrower than the steps of the image's own Fourier transform would be empty there. Each is
    then shifted to mean 0.5 and scaled to a mean square about it of CONTRAST^2 / 8, that of the gratings. Nothing is clipped: about
    8 % of the pixels are below 0 or above 1.
    """
    rng, lowest = np.random.default_rng(seed), frequencies(height, width)[0]
    rows, columns = (max(size, math.ceil(CYCLES / lowest)) for size in (height, width))
    bank = np.empty((FREQUENCIES, ORIENTATIONS, REPETITIONS, height, width), np.float32)
    for f, frequency in enumerate(frequencies(height, width)):
        for o, orientation in enumerate(orientations()):
            kept = band(rows, columns, frequency, orientation)
            for r in range(REPETITIONS):
                waves = np.fft.rfft2(rng.standard_normal((rows, columns)))
                texture = np.fft.irfft2(np.where(kept, waves, 0), (rows, columns))[:height, :width]
                bank[f, o, r] = 0.5 + CONTRAST / np.sqrt(8) * (texture - texture.mean()) / texture.std()
    return np.repeat(bank[..., None], colours, axis=-1)


class Breadth(NamedTuple):
    """Shares of the frequencies, and of the orientations, that drive each channel; NaN where no stimulus does."""

    frequency: Float64[np.ndarray, "k"]
    orientation: Float64[np.ndarray, "k"]


def breadth(responses: Float[np.ndarray, "f o r k"], blank: Float[np.ndarray, "r k"]) -> Breadth:
    """Participation ratio of a channel's response over frequencies, and over orientations, in [1/f, 1] and [1/o, 1].

    The response to a frequency and an orientation is the mean over phases or realisations, less the mean response to blank grey;
    one within two standard errors of the blank's (over its r repetitions with other noise) counts as none, and so does a smaller
    one. It is then averaged over orientations for the breadth over frequencies, and the other way round.
    """
    responses, blank = np.asarray(responses, np.float64), np.asarray(blank, np.float64)
    error = blank.std(0, ddof=1) / np.sqrt(len(blank))
    above = responses.mean(2) - blank.mean(0)
    driven = np.where(above > 2 * error, above, 0)
    nothing_off = np.full(driven.shape[-1], -np.inf)
    return Breadth(*(selectivity.selectivity(driven.mean(axis), nothing_off) for axis in (1, 0)))
