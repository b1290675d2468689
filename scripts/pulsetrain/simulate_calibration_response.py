"""Pixels of simulated calibration data: what the detector of the simulated raw runs gives for a known signal.

An image depends only on (settings, calibration, kind, module, driven columns, burst, cell), not on the layout or the
file: the same data come out in both layouts, but for the orientation.
"""

import functools
import json
import math
import zlib
from typing import NamedTuple

import numpy as np
from numba import njit

from pulsetrain import simulate_detector
from pulsetrain.detector import ASIC_PIXELS, MODULE_SHAPE, PIXELS, xfel_from_lab
from pulsetrain.simulate_calibration import (
    KINDS,
    NEVER_LOW,
    NEVER_MEDIUM,
    WEAK_RESPONSE,
    driven_columns,
)

CURRENT_PHOTONS_PER_CLOCK = (0.6, 0.03)  # mean and spread over the pixels
SWITCH_SPREAD = 0.03  # relative; the comparator of a pixel switches at an analog level, whatever the cell's gain
# After a switch the signal is too low by this much; it settles exponentially with the stored signal.
SETTLING_ADU = (10.0, 2.0)
SETTLING_PHOTONS = (60.0, 30.0)  # decay in medium and in low gain
SETTLED = 12.0  # decay lengths after which nothing is left
# A sample whose switch fell into this last part of the step from the sample before shows a level between two stages.
MIDDLE_PART = 0.3
SPIKE_ADU = (350.0, 2500.0)
DRIFT_SPREAD = 0.1  # relative, of the drift over the pixels
FIRST_SAMPLE_ADU = ((3000, 9000), (5000, 8000))  # analog and digital, of the first point of a scan

SEED_CURRENT, SEED_SWITCH, SEED_DRIFT, SEED_IMAGE, SEED_SPIKES = range(31, 36)

_INVERSE_RATIOS = tuple(1 / ratio for ratio in simulate_detector.GAIN_RATIOS)
_DIGITAL_NOISE = np.float32(simulate_detector.DIGITAL_NOISE_ADU)


class PixelResponse(NamedTuple):
    """Properties of a module's pixels that no memory cell changes, all European XFEL orientation, flat.

    Attributes
    ----------
    current : ndarray of float32, (P,)
        Of the current source [photons/clock].
    switch_adu : ndarray of float32, (2, P)
        Signal, in ADU of high gain above the pedestal, at which medium and low gain begin; infinite = never.
    settling_adu : ndarray of float32, (P,)
    drift : ndarray of float32, (P,)
        Relative drift of the pedestal with the X-ray tube's series.
    levels : ndarray of float32, (3, P)
        Digital level of each stage [ADU].
    """

    current: np.ndarray
    switch_adu: np.ndarray
    settling_adu: np.ndarray
    drift: np.ndarray
    levels: np.ndarray


def pixel_response(settings, module):
    """Properties of the pixels of one module, :class:`PixelResponse`."""
    return _pixel_response(_key(settings), module)


def drift_adu(calibration, frame):
    """Drift [ADU] of the pedestal of a pixel of relative drift 1 in a frame, or frames, of the X-ray series."""
    place = np.asarray(frame) / max(1, calibration["xray_frames"] - 1)
    return calibration["drift_adu"] * (1 - np.exp(-3 * place) + 0.1 * np.sin(4 * np.pi * place))


def calibration_images(settings, calibration, description, burst, cell):
    """Images of one module.

    Parameters
    ----------
    settings : dict
    calibration : dict
        :func:`pulsetrain.simulate_calibration.calibration_settings`.
    description : dict
        ``kind``, ``module`` and ``driven`` are used (:func:`pulsetrain.simulate_calibration.calibration_files`).
    burst : sequence of int, (n,)
        Burst (dark), scan point (current_source) or frame (xray).
    cell : sequence of int, (n,)
        Memory cell.

    Returns
    -------
    ndarray of uint16, (n, 2, 512, 128)
        (image, analog | digital, slow_scan, fast_scan) [ADU], European XFEL orientation.
    """
    images = np.empty((len(burst), 2, *MODULE_SHAPE), dtype=np.uint16)
    for image, one_burst, one_cell in zip(images, burst, cell, strict=True):
        _draw_image(image, settings, calibration, description, int(one_burst), int(one_cell))
    return images


def _draw_image(image, settings, calibration, description, burst, cell):
    kind, module = description["kind"], description["module"]
    key = _key(settings)
    pixels = _pixel_response(key, module)
    rng = _rng(SEED_IMAGE, settings, calibration, description, burst, cell)
    if burst == 0 and kind == "xray":  # the first frame of a series is not a measurement
        image[...] = 0
        return
    if burst == 0 and kind == "current_source":
        for plane, limits in zip(image, FIRST_SAMPLE_ADU, strict=True):
            plane[...] = rng.integers(*limits, MODULE_SHAPE)
        return
    shift = rng.normal(0, simulate_detector.BASELINE_ADU) + rng.normal(
        0, simulate_detector.COMMON_MODE_ADU, simulate_detector.ASIC_GRID
    )
    added = np.repeat(np.repeat(shift, ASIC_PIXELS, axis=0), ASIC_PIXELS, axis=1).astype(np.float32)
    added += simulate_detector.excess_adu(settings, module, cell)
    added = added.ravel()
    if kind == "xray":
        added += pixels.drift * np.float32(drift_adu(calibration, burst))
    signal, before = _signal(key, calibration, description, burst, rng)
    pedestal, gain, noise = _cell_constants(key, module, cell)
    normal = rng.standard_normal((2, PIXELS), dtype=np.float32)
    flat = image.reshape(2, PIXELS)
    _read_out(
        *(signal, before, pedestal, gain, pixels.switch_adu, pixels.settling_adu, pixels.levels),
        *(added, noise, normal, flat),
    )
    if kind == "current_source":
        _add_spikes(flat, settings, calibration, description, burst, cell)
    flat[0, _dead(key, module)] = simulate_detector.DEAD_ADU


@njit(cache=True, nogil=True)
def _read_out(signal, before, pedestal, gain, switch_adu, settling_adu, levels, added, noise, normal, image):
    """Fill image (2, P) uint16 with the response to `signal` (P,) [photons]; `before` is that of the point before."""
    for pixel in range(len(signal)):
        photons, high_adu = signal[pixel], signal[pixel] * gain[pixel]
        stage = 0
        if high_adu > switch_adu[0, pixel]:
            stage = 2 if high_adu > switch_adu[1, pixel] else 1
        analog = pedestal[stage, pixel] + high_adu * _INVERSE_RATIOS[stage]
        digital = levels[stage, pixel]
        if stage > 0:
            since = photons - switch_adu[stage - 1, pixel] / gain[pixel]
            decays = since / SETTLING_PHOTONS[stage - 1]
            if decays < SETTLED:
                analog -= settling_adu[pixel] * math.exp(-decays)
            step = photons - before[pixel]
            if since < MIDDLE_PART * step:
                late = since / (MIDDLE_PART * step)
                lower = pedestal[stage - 1, pixel] + high_adu * _INVERSE_RATIOS[stage - 1]
                analog = late * analog + (1 - late) * lower
                digital = late * digital + (1 - late) * levels[stage - 1, pixel]
        analog += added[pixel] + noise[pixel] * normal[0, pixel]
        digital += _DIGITAL_NOISE * normal[1, pixel]
        image[0, pixel] = min(max(np.rint(analog), 0), simulate_detector.ADC_MAX)
        image[1, pixel] = min(max(np.rint(digital), 0), simulate_detector.ADC_MAX)


def _signal(key, calibration, description, burst, rng):
    """Signal [photons of the run's energy] of all pixels, and that of the burst before; (P,) float32 each."""
    if description["kind"] == "dark":
        return np.zeros((2, PIXELS), dtype=np.float32)
    if description["kind"] == "xray":
        energy = calibration["tube_energy_kev"] / json.loads(key)["photon_energy_kev"]
        return (_tube_photons(calibration, rng) * energy).astype(np.float32), np.zeros(PIXELS, dtype=np.float32)
    clocks = calibration["integration_time"]
    current = _driven_current(key, description["module"], description["driven"])
    return current * np.float32(clocks[burst]), current * np.float32(clocks[burst - 1])


def _tube_photons(calibration, rng):
    """Photons per pixel of one frame under flat light, (P,) float64; shared ones count in parts in two pixels."""
    # Scattering a Poisson number of photons over the module is a Poisson number in each pixel, and much faster.
    pixel = rng.integers(0, PIXELS, rng.poisson(calibration["xray_photons"] * PIXELS))
    charge = np.bincount(pixel, minlength=PIXELS).astype(np.float64)
    shared = pixel[: rng.binomial(len(pixel), calibration["charge_sharing"])]
    part = rng.random(len(shared))
    row, column = np.divmod(shared, MODULE_SHAPE[1])
    direction = rng.integers(0, 4, len(shared))
    row += np.array([1, -1, 0, 0])[direction]
    column += np.array([0, 0, 1, -1])[direction]
    inside = (row >= 0) & (row < MODULE_SHAPE[0]) & (column >= 0) & (column < MODULE_SHAPE[1])
    charge -= np.bincount(shared, part, PIXELS)
    neighbour = row[inside] * MODULE_SHAPE[1] + column[inside]
    return charge + np.bincount(neighbour, part[inside], PIXELS)


def _add_spikes(flat, settings, calibration, description, burst, cell):
    """Add the spikes that begin in this sample, and the second half of the wide ones of the sample before."""
    for start in (burst, burst - 1):
        rng = _rng(SEED_SPIKES, settings, calibration, description, start, cell)
        for plane in flat:
            # Half of the spikes are two samples wide.
            pixel = rng.integers(0, PIXELS, rng.binomial(PIXELS, calibration["spikes"] / 1.5))
            height = rng.uniform(*SPIKE_ADU, len(pixel)) * rng.choice((-1, 1), len(pixel))
            wide = rng.random(len(pixel)) < 0.5
            if start == burst - 1:
                pixel, height = pixel[wide], height[wide]
            plane[pixel] = np.clip(plane[pixel] + np.rint(height), 0, simulate_detector.ADC_MAX)


def _rng(seed, settings, calibration, description, burst, cell):
    driven = -1 if description["driven"] is None else description["driven"]
    name = zlib.crc32(calibration["name"].encode())
    words = (name, KINDS.index(description["kind"]), description["module"], driven + 1, burst, cell)
    return np.random.default_rng([seed, settings["seed"], *words])


def _key(settings):
    return json.dumps(settings, sort_keys=True)


@functools.lru_cache(maxsize=2)
def _pixel_response(key, module):
    settings = json.loads(key)

    def normals(seed, shape):
        return np.random.default_rng([seed, settings["seed"], module]).standard_normal(shape, dtype=np.float32)

    mean, spread = CURRENT_PHOTONS_PER_CLOCK
    switch = np.array(simulate_detector.SWITCH_PHOTONS)[:, None] * simulate_detector.GAIN_ADU_PER_PHOTON[0]
    switch = switch * (1 + np.float32(SWITCH_SPREAD) * normals(SEED_SWITCH, (2, PIXELS)))
    switch[:, _lab_pixel(NEVER_MEDIUM, module)] = np.inf
    switch[1, _lab_pixel(NEVER_LOW, module)] = np.inf
    drift, settling = normals(SEED_DRIFT, (2, PIXELS))
    pixels = PixelResponse(
        current=(mean + spread * normals(SEED_CURRENT, PIXELS)).astype(np.float32),
        switch_adu=switch.astype(np.float32),
        settling_adu=(SETTLING_ADU[0] + SETTLING_ADU[1] * settling).astype(np.float32),
        drift=(1 + DRIFT_SPREAD * drift).astype(np.float32),
        levels=simulate_detector.digital_levels(settings, module).reshape(3, PIXELS),
    )
    pixels.current[_dead(key, module)] = 0
    for values in pixels:
        values.setflags(write=False)
    return pixels


@functools.lru_cache(maxsize=2)
def _driven_current(key, module, driven):
    """Current in each pixel when one column group is driven (None: all pixels), (P,) float32 [photons/clock]."""
    current = _pixel_response(key, module).current
    if driven is None:
        return current
    is_driven = xfel_from_lab(driven_columns(driven), module).ravel()
    return np.where(is_driven, current, current * np.float32(WEAK_RESPONSE))


@functools.lru_cache(maxsize=352)
def _cell_constants(key, module, cell):
    settings = json.loads(key)
    pedestal, gain = simulate_detector.constants(settings, module, cell)
    return pedestal.reshape(3, PIXELS), gain.ravel(), simulate_detector.noise_adu(settings, module, cell).ravel()


@functools.lru_cache(maxsize=2)
def _dead(key, module):
    """Flat indices of the dead pixels."""
    bits = simulate_detector.bad_bits(json.loads(key), module, 1)
    return np.flatnonzero(bits & simulate_detector.FACILITY_DEAD)


def _lab_pixel(place, module):
    """Flat index, European XFEL orientation, of a pixel given as (row, column) in laboratory orientation."""
    there = np.zeros((MODULE_SHAPE[1], MODULE_SHAPE[0]), dtype=bool)
    there[place] = True
    return int(np.flatnonzero(xfel_from_lab(there, module))[0])
