"""From the raw values of the AGIPD to photons and energies, and what shifts them: the inner loops, compiled.

A frame is a flat array of 131072 values, analog then digital, each (slow_scan, fast_scan) in C order; what
:mod:`pulsetrain.kernels` says of masks, types and exactness holds here.
"""

import numpy as np
from numba import float32 as F32
from numba import int8 as I8
from numba import int32 as I32
from numba import njit
from numba import uint8 as U8
from numba import uint16 as U16
from numba import uint32 as U32

from pulsetrain.detector import PIXELS

MOST_PHOTONS = 65535
ADC_FULL = 16383  # largest value of the 14-bit ADC, https://doi.org/10.1107/S1600577518016077
ASIC_ROWS = 64
FIXED_POINT = 4096  # the common mode is summed in units of 1/4096 photon: exact, whatever the order
COMMON_MODE_PIXELS = 1024  # fewer dark pixels than a quarter of the ASIC give no common mode
LEVEL_STEPS = 64  # bins per photon, in which the baseline is looked for
LEVEL_REACH = 8  # photons up and down
LEVEL_BINS = 2 * LEVEL_REACH * LEVEL_STEPS
LEVEL_SHARE = 10  # the dark pixels must be a tenth of the pixels in stage 0, within half a photon
LEVEL_BELOW = 48  # and at most so small a part may lie more than half a photon below them: with Poisson's law, where
# the dark pixels are fewer than that, the pixels of one photon are fewer than a tenth
LEVEL_ROUNDS = 3


@njit(cache=True, nogil=True)
def raw_photons(values, offset, gain, limit, cell, mask, shifts, bias, photons):
    """Turn one raw frame into photons.

    gain stage = (digital >= limit[0]) + (digital >= limit[1]),
    v = (analog - offset[stage]) * gain[stage], less the common mode in stage 0.

    Parameters
    ----------
    values : ndarray of uint16, (2 * 65536,)
        Analog, then digital [ADU].
    offset, gain : ndarray of float32, (3, cells, 65536)
        [ADU] and [photons / ADU]; finite.
    limit : ndarray of uint16, (2, cells, 65536)
        Smallest digital level [ADU] of the next stage; limit[0] <= limit[1].
    cell : int
        Row of the constants.
    mask : ndarray of uint8, (65536,)
        255 = good. The photons are not masked; it chooses the pixels for the return value.
    shifts : ndarray of float32, (8, 128)
        What stage 0 is shifted by [photons], in row 64 k of ASICs, column by column; zeros for none.
    bias : float32
        1 - photon_threshold.
    photons : ndarray of uint16, (65536,)
        Becomes the photons.

    Returns
    -------
    int
        Good pixels whose analog value is the largest the ADC can give.
    """
    full = 0
    analog = values[:PIXELS]
    digital = values[PIXELS : 2 * PIXELS]
    offset_0, offset_1, offset_2 = offset[0, cell], offset[1, cell], offset[2, cell]
    gain_0, gain_1, gain_2 = gain[0, cell], gain[1, cell], gain[2, cell]
    limit_1, limit_2 = limit[0, cell], limit[1, cell]
    for first in range(0, PIXELS, 128):
        shift = shifts[first // (128 * ASIC_ROWS)]
        analog_ = analog[first : first + 128]
        digital_ = digital[first : first + 128]
        limit_ = limit_1[first : first + 128]
        mask_ = mask[first : first + 128]
        offset_ = offset_0[first : first + 128]
        gain_ = gain_0[first : first + 128]
        photons_ = photons[first : first + 128]
        for i in range(128):
            value = F32(F32(F32(F32(F32(analog_[i]) - offset_[i]) * gain_[i]) - shift[i]) + bias)
            value = value if value > F32(0) else F32(0)
            value = value if value < F32(MOST_PHOTONS) else F32(MOST_PHOTONS)
            photons_[i] = U16(I32(value))
        switched = U16(0)
        full_ = U16(0)
        for i in range(128):  # apart from the loop above: 16-bit lanes, which takes a third off the time
            switched = U16(switched | U16(digital_[i] >= limit_[i]))
            full_ = U16(full_ + U16((analog_[i] >= U16(ADC_FULL)) & (mask_[i] != U8(0))))
        full += full_
        if switched == U16(0):
            continue
        for i in range(first, first + 128):
            if digital[i] < limit_1[i]:
                continue
            if digital[i] < limit_2[i]:
                value = F32(F32(F32(F32(analog[i]) - offset_1[i]) * gain_1[i]) + bias)
            else:
                value = F32(F32(F32(F32(analog[i]) - offset_2[i]) * gain_2[i]) + bias)
            value = value if value > F32(0) else F32(0)
            value = value if value < F32(MOST_PHOTONS) else F32(MOST_PHOTONS)
            photons[i] = U16(I32(value))
    return full


@njit(cache=True, nogil=True)
def raw_energies(values, offset, gain, limit, cell, mask, shifts, energy, kev, stage):
    """Turn a raw frame into energies: those whose photons :func:`raw_photons` gives.

    Parameters
    ----------
    values, offset, gain, limit, cell, mask, shifts
        As for :func:`raw_photons`.
    energy : float32
        Photon energy [keV].
    kev : ndarray of float32, (65536,)
        Becomes the energies [keV], 0 where the mask is not good.
    stage : ndarray of int8, (65536,)
        Becomes the gain stages, -1 where the mask is not good.
    """
    analog = values[:PIXELS]
    digital = values[PIXELS : 2 * PIXELS]
    offset_0, offset_1, offset_2 = offset[0, cell], offset[1, cell], offset[2, cell]
    gain_0, gain_1, gain_2 = gain[0, cell], gain[1, cell], gain[2, cell]
    limit_1, limit_2 = limit[0, cell], limit[1, cell]
    for first in range(0, PIXELS, 128):
        shift = shifts[first // (128 * ASIC_ROWS)]
        analog_ = analog[first : first + 128]
        digital_ = digital[first : first + 128]
        limit_ = limit_1[first : first + 128]
        mask_ = mask[first : first + 128]
        offset_ = offset_0[first : first + 128]
        gain_ = gain_0[first : first + 128]
        kev_ = kev[first : first + 128]
        stage_ = stage[first : first + 128]
        for i in range(128):
            value = F32(F32(F32(F32(analog_[i]) - offset_[i]) * gain_[i]) - shift[i])
            kev_[i] = F32(value * energy) if mask_[i] != U8(0) else F32(0)
        switched = U16(0)
        for i in range(128):
            stage_[i] = I8(0) if mask_[i] != U8(0) else I8(-1)
            switched = U16(switched | U16(digital_[i] >= limit_[i]))
        if switched == U16(0):
            continue
        for i in range(first, first + 128):
            if digital[i] < limit_1[i] or mask[i] == U8(0):
                continue
            if digital[i] < limit_2[i]:
                kev[i] = F32(F32(F32(F32(analog[i]) - offset_1[i]) * gain_1[i]) * energy)
                stage[i] = 1
            else:
                kev[i] = F32(F32(F32(F32(analog[i]) - offset_2[i]) * gain_2[i]) * energy)
                stage[i] = 2


@njit(cache=True, nogil=True)
def baseline_level(values, offset, gain, limit, cell, mask):
    """Find the level of a module's dark pixels in a raw frame.

    The good pixels in stage 0 are counted in bins of 1/64 photon up to 8 photons either way. Photons only add, so that
    the dark pixels are the first half photon, from below, that a tenth of all pixels fall into, moved up to where it
    holds most of them. The level is the median of the pixels within half a photon of its middle, and then, twice more,
    of those within half a photon of that median. It is 0 if there is no such half photon, or if more than 1/48 of the
    pixels lie more than half a photon below its middle, so that it may as well be the first photon of a bright image;
    or if fewer than 1024 pixels are left to look at.

    Parameters
    ----------
    values, offset, gain, limit, cell
        As for :func:`raw_photons`.
    mask : ndarray of uint8, (65536,)
        255 = good.

    Returns
    -------
    float32
        [photons]
    """
    analog = values[:PIXELS]
    digital = values[PIXELS : 2 * PIXELS]
    offset_0, gain_0, limit_1 = offset[0, cell], gain[0, cell], limit[0, cell]
    bins = np.empty(128, np.uint16)
    # Bin 0 is what is below and the last but one what is above; the last one takes the pixels that do not count. Four
    # histograms, because adding to the number that was added to just before has to wait for it.
    counts = np.zeros((4, LEVEL_BINS + 3), np.uint32)
    count_0, count_1, count_2, count_3 = counts[0], counts[1], counts[2], counts[3]
    for first in range(0, PIXELS, 128):
        analog_ = analog[first : first + 128]
        digital_ = digital[first : first + 128]
        offset_ = offset_0[first : first + 128]
        gain_ = gain_0[first : first + 128]
        limit_ = limit_1[first : first + 128]
        mask_ = mask[first : first + 128]
        for i in range(128):
            value = F32(F32(F32(analog_[i]) - offset_[i]) * gain_[i])
            place = F32(F32(value * F32(LEVEL_STEPS)) + F32(LEVEL_BINS // 2 + 1))
            place = place if place > F32(0) else F32(0)
            place = place if place < F32(LEVEL_BINS + 1) else F32(LEVEL_BINS + 1)
            counted = (digital_[i] < limit_[i]) & (mask_[i] != U8(0))
            bins[i] = U16(I32(place)) if counted else U16(LEVEL_BINS + 2)
        for i in range(0, 128, 4):
            count_0[bins[i]] += U32(1)
            count_1[bins[i + 1]] += U32(1)
            count_2[bins[i + 2]] += U32(1)
            count_3[bins[i + 3]] += U32(1)
    found = np.zeros(LEVEL_BINS + 2, np.int64)
    for i in range(LEVEL_BINS + 2):
        found[i] = counts[0, i] + counts[1, i] + counts[2, i] + counts[3, i]
    return level_of(found)


@njit(cache=True, nogil=True)
def level_of(counts):
    """Level of the dark pixels [photons], float32, from their histogram; see :func:`baseline_level`.

    Parameters
    ----------
    counts : ndarray of int64, (1026,)
        Pixels below -8 photons, in each of the bins of 1/64 photon, and above.
    """
    total = counts.sum()
    if total < COMMON_MODE_PIXELS:
        return F32(0)
    half = LEVEL_STEPS // 2
    inside = counts[1 : 1 + half].sum()
    first = -1
    best = -1
    most = 0
    for begin in range(LEVEL_BINS - half + 1):
        if first < 0 and LEVEL_SHARE * inside >= total:
            first = begin
        if first >= 0:
            if begin > first + half:
                break
            if inside > most:
                most = inside
                best = begin
        inside += counts[1 + begin + half] - counts[1 + begin]
    if first < 0:
        return F32(0)
    middle = best + half // 2
    if LEVEL_BELOW * counts[: 1 + max(middle - half, 0)].sum() > total:
        return F32(0)
    # Again about the level that was found: in a window beside it, one flank would hold more pixels of one photon.
    level = 0.0
    for _ in range(LEVEL_ROUNDS):
        begin, end = max(middle - half, 0), min(middle + half + 1, LEVEL_BINS)
        dark = counts[1 + begin : 1 + end].sum()
        seen = 0
        for i in range(begin, end):
            if 2 * (seen + counts[1 + i]) >= dark:
                level = i + (0.5 * dark - seen) / counts[1 + i]
                middle = i
                break
            seen += counts[1 + i]
    return F32(level / LEVEL_STEPS - LEVEL_REACH)


@njit(cache=True, nogil=True)
def common_modes(values, offset, gain, limit, cell, mask, level, shifts):
    """Find the common mode of each ASIC in a raw frame: the mean of its dark pixels.

    Dark is a good pixel in stage 0 with less than half a photon either way of the baseline. Values are summed as whole
    numbers of 1/4096 photon, cut towards zero; fewer than 1024 dark pixels give 0.

    Parameters
    ----------
    values, offset, gain, limit, cell
        As for :func:`raw_photons`.
    mask : ndarray of uint8, (65536,)
        255 = good.
    level : float32
        Baseline [photons] of the module in this frame; 0 for none.
    shifts : ndarray of float32, (8, 128)
        Becomes baseline and common mode [photons], repeated over the 64 columns of each ASIC.
    """
    analog = values[:PIXELS]
    digital = values[PIXELS : 2 * PIXELS]
    offset_0, gain_0, limit_1 = offset[0, cell], gain[0, cell], limit[0, cell]
    for asic_row in range(8):
        for asic_column in range(2):
            total = 0
            dark = 0
            for row in range(ASIC_ROWS):
                first = (asic_row * ASIC_ROWS + row) * 128 + asic_column * 64
                analog_ = analog[first : first + 64]
                digital_ = digital[first : first + 64]
                offset_ = offset_0[first : first + 64]
                gain_ = gain_0[first : first + 64]
                limit_ = limit_1[first : first + 64]
                mask_ = mask[first : first + 64]
                total_ = I32(0)  # at most 64 * 2048
                dark_ = I32(0)
                for i in range(64):
                    value = F32(F32(F32(F32(analog_[i]) - offset_[i]) * gain_[i]) - level)
                    is_dark = (digital_[i] < limit_[i]) & (mask_[i] != U8(0)) & (value < F32(0.5)) & (value > F32(-0.5))
                    value = value if is_dark else F32(0)
                    total_ = I32(total_ + I32(F32(value * F32(FIXED_POINT))))
                    dark_ = I32(dark_ + I32(is_dark))
                total += total_
                dark += dark_
            mean = F32(0)
            if dark >= COMMON_MODE_PIXELS:
                mean = F32(total / (FIXED_POINT * dark))
            shifts[asic_row, asic_column * 64 : (asic_column + 1) * 64] = F32(level + mean)
