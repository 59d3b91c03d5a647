"""Gratings and noise textures by their spectra, and breadth on responses whose answer is known."""

import functools

import numpy as np
import pytest
from scipy import stats

from unetrep_jax import stimuli


@functools.cache
def textures():
    return stimuli.textures(64, 64, 1, seed=3)[..., 0]


def turn_from(down, across, orientation):
    """Angle between a wave and an orientation, in [0, pi / 2]."""
    return abs((np.arctan2(down, across) - orientation + np.pi / 2) % np.pi - np.pi / 2)


def test_a_grating_has_its_energy_at_its_own_frequency_and_orientation():
    bank = stimuli.gratings(64, 64, 3)
    assert bank.shape == (6, 8, 4, 64, 64, 3) and abs(bank - 0.5).max() == pytest.approx(0.4)
    frequency = stimuli.frequencies(64, 64)
    power = np.abs(np.fft.fft2(bank[3, 1, 0, ..., 0] - 0.5)) ** 2
    down, across = np.unravel_index(power[:32].argmax(), (32, 64))
    down, across = np.fft.fftfreq(64)[[down, across]]
    assert np.hypot(down, across) == pytest.approx(frequency[3], abs=1 / 64)
    assert np.arctan2(down, across) == pytest.approx(np.pi / 8, abs=0.1)
    np.testing.assert_allclose(bank[2, 5, 0] + bank[2, 5, 2], 1, atol=1e-5)  # half a turn of phase


def test_a_band_is_an_octave_by_one_step_of_orientation_whichever_way_a_wave_is_counted():
    kept = stimuli.band(256, 200, 0.25, np.pi / 4)
    down, across = np.broadcast_arrays(np.fft.fftfreq(256)[:, None], np.fft.rfftfreq(200)[None])
    radius, turn = np.hypot(down, across), turn_from(down, across, np.pi / 4)
    assert radius[kept].min() == pytest.approx(0.25 / 2**0.5, abs=0.005)
    assert radius[kept].max() == pytest.approx(0.25 * 2**0.5, abs=0.005)
    assert turn[kept].max() == pytest.approx(np.pi / 16, abs=0.02)
    area = np.pi / 8 * 0.25**2 * (2 - 1 / 2) / 2  # of a sector of a ring
    assert kept.sum() == pytest.approx(area * 256 * 200, rel=0.05)
    upright = stimuli.band(256, 256, 0.25, np.pi / 2)[:, 0]  # waves along y, each beside its opposite
    np.testing.assert_array_equal(upright[1:], upright[:0:-1])
    assert upright.any()


def test_bands_of_all_orientations_cover_a_ring_once():
    covered = sum(stimuli.band(101, 101, 0.2, orientation).astype(int) for orientation in stimuli.orientations())
    radius = np.hypot(np.fft.fftfreq(101)[:, None], np.fft.rfftfreq(101)[None])
    ring = (radius >= 0.2 / 2**0.5) & (radius <= 0.2 * 2**0.5)
    np.testing.assert_array_equal(covered, ring)


@pytest.mark.parametrize(("f", "o"), [(0, 0), (1, 3), (3, 1), (3, 6), (5, 2)])
def test_a_texture_has_its_power_in_its_band(f, o):
    frequency, orientation = stimuli.frequencies(64, 64)[f], stimuli.orientations()[o]
    window = np.hanning(66)[1:-1]  # without it the edges, where a texture is cut off, would be power everywhere
    power = (abs(np.fft.fft2((textures()[f, o] - 0.5) * window[:, None] * window)) ** 2).mean(0)
    down, across = np.broadcast_arrays(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None])
    radius, turn = np.hypot(down, across), turn_from(down, across, orientation)
    reach = 2 / 64  # the window spreads a wave by two steps
    inside = (radius >= frequency / 2**0.5 - reach) & (radius <= frequency * 2**0.5 + reach)
    inside &= radius * np.sin(np.maximum(turn - np.pi / 16, 0)) <= reach
    assert power[inside].sum() > 0.97 * power.sum()
    mean = np.exp((np.log(radius[radius > 0]) * power[radius > 0]).sum() / power[radius > 0].sum())
    assert mean == pytest.approx(frequency, rel=0.25)


def test_textures_have_the_mean_and_the_contrast_of_gratings_and_no_colour():
    bank = stimuli.textures(12, 9, 3)
    assert bank.shape == (6, 8, 4, 12, 9, 3) and bank.dtype == np.float32 and np.isfinite(bank).all()
    np.testing.assert_array_equal(bank[..., 0], bank[..., 2])
    square = ((stimuli.gratings(12, 9, 1) - 0.5) ** 2).mean(2)  # over phases: the same at every pixel
    np.testing.assert_allclose(square, stimuli.CONTRAST**2 / 8, rtol=1e-4)
    np.testing.assert_allclose(bank.mean((3, 4, 5)), 0.5, atol=1e-6)
    np.testing.assert_allclose(bank[..., 0].var((3, 4)), stimuli.CONTRAST**2 / 8, rtol=1e-4)


def test_textures_are_gaussian_and_not_clipped():
    values = textures()[4:]
    beyond = ((values < 0) | (values > 1)).mean()
    assert beyond == pytest.approx(2 * stats.norm.cdf(-0.5 / np.sqrt(stimuli.CONTRAST**2 / 8)), abs=0.005)  # 8 %
    assert abs(stats.kurtosis(values.ravel())) < 0.1


def test_realisations_are_independent_and_a_seed_gives_the_same_ones_again():
    one, again, other = (stimuli.textures(8, 8, 1, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    assert abs(one - other).mean() > 0.1
    rows = textures()[4:].reshape(16, 4, -1)
    between = np.array([np.corrcoef(of_band)[np.triu_indices(4, 1)] for of_band in rows])
    assert abs(between.mean()) < 0.03 and abs(between).max() < 0.4


def test_breadth_is_the_share_of_frequencies_and_orientations_that_drive_a_channel():
    blank = np.array([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    responses = np.ones((4, 6, 2, 3))
    responses[1, 2, :, 0] += 1  # one stimulus
    responses[:, 2:5, :, 1] += 1  # every frequency, three orientations
    responses[..., 2] -= 0.5  # driven by none
    found = stimuli.breadth(responses, blank)
    np.testing.assert_allclose(found.frequency, [1 / 4, 1, np.nan])
    np.testing.assert_allclose(found.orientation, [1 / 6, 1 / 2, np.nan])


def test_responses_within_the_noise_of_the_blank_count_as_none():
    blank = np.array([[0.9], [1.1]])  # a standard error of 0.1
    responses = np.full((2, 2, 2, 1), 1.15)
    assert np.isnan(stimuli.breadth(responses, blank).frequency[0])
    responses[0] = 1.3
    assert stimuli.breadth(responses, blank).frequency[0] == pytest.approx(0.5)
