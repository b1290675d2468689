"""From stored pixels to photons, and counting them: the inner loops, compiled.

All work on one module image as a flat array of 65536 pixels, (slow_scan, fast_scan) in C order. A mask is uint8,
255 = good, 0 = bad, so that ``&`` applies it. Sums are exact integers; floating point is float32, operation by
operation, never contracted, so that numpy gives the same bits (the tests hold such a version of each).

Photons of a value v [photons]: floor(v + (1 - photon_threshold)), not below 0 and not above 65535; 0 where v is NaN.

Narrow types are kept by explicit casts: numba would make every accumulator int64, which leaves a quarter or an eighth
of the vector lanes. Each bound that this needs is stated.
"""

from typing import NamedTuple

import numpy as np
from numba import float32 as F32
from numba import int8 as I8
from numba import int16 as I16
from numba import int32 as I32
from numba import njit
from numba import uint8 as U8
from numba import uint16 as U16
from numba import uint32 as U32

from pulsetrain.decode import close_decompressor, inflate_into, join_planes, open_decompressor
from pulsetrain.detector import PIXELS

SPAN = 256  # pixels per inner loop: 256 * 255 is the largest sum of bytes that fits into 16 bits
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

# how values become photons
BYTES, WHOLE, FLOATS, INTEGERS, RAW = range(5)

# columns of the counts
LIT, PHOTONS, REGION, FULL = range(4)
STAGING_FRAMES = 257  # 257 * 255 = 65535: so many frames of bytes fit into 16 bits


class Stored(NamedTuple):
    """Frames in memory as they are stored.

    Attributes
    ----------
    bytes : ndarray of uint8
    values : ndarray
        The same memory as values of the stored type.
    start, size : ndarray of int64, (frames,)
        Place of each frame in `bytes`; where they are not packed, `start` is a multiple of the size of a value.
    packed : bool
        Each frame is compressed with gzip on its own.
    shuffled : bool
        The compressed bytes are in byte planes.
    """

    bytes: np.ndarray
    values: np.ndarray
    start: np.ndarray
    size: np.ndarray
    packed: bool
    shuffled: bool


class Flags(NamedTuple):
    """Bits per frame that drop pixels: those of frame i are ``values[start[i] :]``; `start` is empty for none."""

    values: np.ndarray
    start: np.ndarray


class Recipe(NamedTuple):
    """How values become photons.

    Attributes
    ----------
    mode : int
        BYTES: uint8 as they are. WHOLE: float32 of which most frames hold whole numbers up to 255. FLOATS and INTEGERS:
        any. RAW: analog and digital values.
    scale : float32
        Photons per unit of floating point values.
    bias : float32
        1 - photon_threshold.
    common_mode : bool
        Subtract the common mode of each ASIC from raw values.
    baseline_shift : bool
        Subtract the level of the module's dark pixels, before that.
    offset, gain : ndarray of float32, (3, cells, 65536)
        See :func:`raw_photons`; without cells if not raw.
    limit : ndarray of uint16, (2, cells, 65536)
    """

    mode: int
    scale: np.float32
    bias: np.float32
    common_mode: bool
    baseline_shift: bool
    offset: np.ndarray
    gain: np.ndarray
    limit: np.ndarray


@njit(cache=True, nogil=True)
def count_share(stored, share, frames, cell, good, region, flags, recipe, counts, powder, good_frames):
    """Count some frames of a block, all in one go without the GIL.

    Parameters
    ----------
    stored : Stored
    share : ndarray of int64
        Which frames of the block; those of one cell together.
    frames : ndarray of int64
        Frame of the run that each frame of the block is.
    cell : ndarray of int64
        Row of the cell of each frame of the run.
    good : ndarray of uint8, (cells, 65536)
        255 = good.
    region : ndarray of uint8, (65536,)
        255 where photons count for the hit score.
    flags : Flags
    recipe : Recipe
    counts : ndarray of uint32, (frames of the run, 4)
        Rows of these frames become: lit pixels, photons, photons in the region, saturated pixels.
    powder : ndarray of uint32 or uint64, (cells, 65536)
        The photons are added.
    good_frames : ndarray of uint32, (cells, 65536)
        Only with flags: 1 is added where a pixel is good.

    Returns
    -------
    status, position : int
        0, or a key of decode.DAMAGES and the frame of the block that cannot be unpacked.
    """
    inflated = np.empty(_values_per_frame(recipe) * stored.values.itemsize, np.uint8)
    values = np.empty(_values_per_frame(recipe), stored.values.dtype)
    small = np.empty(PIXELS, np.uint8)
    photons = np.empty(PIXELS, np.uint16)
    left = np.empty((1, PIXELS), np.uint8)
    shifts = np.zeros((8, 128), np.float32)
    staging = np.zeros(PIXELS, np.uint16)
    everywhere = bool(region.min() == 255)
    staged = 0
    staged_cell = -1
    status = 0
    position = -1
    decompressor = open_decompressor()
    for i in share:
        frame = frames[i]
        this = cell[frame]
        if staged > 0 and (this != staged_cell or staged == STAGING_FRAMES):
            add_staging(staging, powder[staged_cell])
            staged = 0
        masks, row = good, this
        if flags.start.size > 0:
            drop_flagged(flags.values[flags.start[i] : flags.start[i] + PIXELS], good[this], left[0])
            add_good(left[0], good_frames[this])
            masks, row = left, 0
        if stored.packed:
            status = inflate_into(decompressor, stored.bytes, stored.start[i], stored.size[i], inflated)
            if status != 0:
                position = i
                break
        if recipe.mode == BYTES:
            source = inflated if stored.packed else stored.bytes[stored.start[i] : stored.start[i] + PIXELS]
            count_bytes(source, masks, row, region, everywhere, staging, counts, frame)
            staged += 1
            staged_cell = this
            continue
        if recipe.mode == WHOLE and planes_to_bytes(inflated, small):
            count_bytes(small, masks, row, region, everywhere, staging, counts, frame)
            counts[frame, FULL] = 0  # 255 is not the end of float32
            staged += 1
            staged_cell = this
            continue
        held = _held_values(stored, i, inflated, values)
        full = _convert(held, this, masks[row], recipe, shifts, photons)
        count_photons(photons, masks[row], region, powder[this], counts, frame)
        if recipe.mode == RAW:
            counts[frame, FULL] = full
    if staged > 0:
        add_staging(staging, powder[staged_cell])
    close_decompressor(decompressor)
    return status, position


@njit(cache=True, nogil=True)
def fill_frames(stored, places, module, cell, good, flags, recipe, photons, flagged):
    """Turn frames of one module and memory cell into masked photons.

    Parameters
    ----------
    stored : Stored
    places : ndarray of int64
        Where each frame goes.
    module : int
    cell : int
        Row of the constants' cell axis.
    good : ndarray of uint8, (65536,)
        255 = good.
    flags : Flags
    recipe : Recipe
    photons : ndarray of uint16, (frames, modules, 65536)
        ``photons[places[i], module]`` becomes the photons of frame i, 0 where the mask or the flags are not good.
    flagged : ndarray of bool, (frames, modules, 65536)
        Only with flags: becomes True where they are set.

    Returns
    -------
    status, position : int
        As :func:`count_share`.
    """
    inflated = np.empty(_values_per_frame(recipe) * stored.values.itemsize, np.uint8)
    values = np.empty(_values_per_frame(recipe), stored.values.dtype)
    small = np.empty(PIXELS, np.uint8)
    mask = good.copy()
    shifts = np.zeros((8, 128), np.float32)
    status = 0
    position = -1
    decompressor = open_decompressor()
    for i in range(places.size):
        target = photons[places[i], module]
        if flags.start.size > 0:
            bits = flags.values[flags.start[i] : flags.start[i] + PIXELS]
            drop_flagged(bits, good, mask)
            flagged_ = flagged[places[i], module]
            for k in range(PIXELS):
                flagged_[k] = bits[k] != 0
        if stored.packed:
            status = inflate_into(decompressor, stored.bytes, stored.start[i], stored.size[i], inflated)
            if status != 0:
                position = i
                break
        if recipe.mode == WHOLE and planes_to_bytes(inflated, small):
            integer_photons(small, target)
        else:
            _convert(_held_values(stored, i, inflated, values), cell, mask, recipe, shifts, target)
        apply_mask(target, mask)
    close_decompressor(decompressor)
    return status, position


@njit(cache=True, nogil=True)
def _values_per_frame(recipe):
    return 2 * PIXELS if recipe.mode == RAW else PIXELS


@njit(cache=True, nogil=True)
def _held_values(stored, i, inflated, values):
    """Values of frame i, unpacked already; `values` is memory that may be used for them."""
    if not stored.packed:
        first = stored.start[i] // stored.values.itemsize
        return stored.values[first : first + values.size]
    if stored.shuffled:
        join_planes(inflated, values)
        return values
    return inflated.view(stored.values.dtype)


@njit(cache=True, nogil=True)
def _convert(values, cell, mask, recipe, shifts, photons):
    """Photons of a frame, not masked; returns the good pixels at the end of the ADC (raw only)."""
    if recipe.mode == RAW:
        frame_shifts(values, cell, mask, recipe, shifts)
        return raw_photons(values, recipe.offset, recipe.gain, recipe.limit, cell, mask, shifts, recipe.bias, photons)
    if recipe.mode == INTEGERS or recipe.mode == BYTES:
        integer_photons(values, photons)
    else:
        float_photons(values, recipe.scale, recipe.bias, photons)
    return 0


@njit(cache=True, nogil=True)
def frame_shifts(values, cell, mask, recipe, shifts):
    """Find what a raw frame's stage 0 is shifted by: baseline and common mode, as far as the recipe wants them.

    Parameters
    ----------
    values : ndarray of uint16, (131072,)
    cell : int
        Row of the constants.
    mask : ndarray of uint8, (65536,)
        255 = good.
    recipe : Recipe
    shifts : ndarray of float32, (8, 128)
        Becomes the shifts for :func:`raw_photons`; not touched if the recipe wants none, as then it is zeros.
    """
    level = F32(0)
    if recipe.baseline_shift:
        level = baseline_level(values, recipe.offset, recipe.gain, recipe.limit, cell, mask)
        shifts[:] = level
    if recipe.common_mode:
        common_modes(values, recipe.offset, recipe.gain, recipe.limit, cell, mask, level, shifts)


@njit(cache=True, nogil=True)
def energy_frames(stored, share, cell, good, recipe, energy, kev, stage):
    """Turn raw frames of one module into energies and gain stages.

    Parameters
    ----------
    stored : Stored
    share : ndarray of int64, (n,)
        Which frames of the block.
    cell : ndarray of int64
        Row of the cell of each frame of the block.
    good : ndarray of uint8, (cells, 65536)
        255 = good.
    recipe : Recipe
        Of raw data.
    energy : float32
        Photon energy [keV].
    kev : ndarray of float32, (n, 65536)
        ``kev[k]`` becomes the energies of frame ``share[k]``, 0 where not good.
    stage : ndarray of int8, (n, 65536)
        Becomes the gain stages, -1 where not good.

    Returns
    -------
    status, position : int
        As :func:`count_share`.
    """
    inflated = np.empty(_values_per_frame(recipe) * stored.values.itemsize, np.uint8)
    values = np.empty(_values_per_frame(recipe), stored.values.dtype)
    shifts = np.zeros((8, 128), np.float32)
    status = 0
    position = -1
    decompressor = open_decompressor()
    for k in range(share.size):
        i = share[k]
        if stored.packed:
            status = inflate_into(decompressor, stored.bytes, stored.start[i], stored.size[i], inflated)
            if status != 0:
                position = i
                break
        held = _held_values(stored, i, inflated, values)
        this = cell[i]
        frame_shifts(held, this, good[this], recipe, shifts)
        raw_energies(held, recipe.offset, recipe.gain, recipe.limit, this, good[this], shifts, energy, kev[k], stage[k])
    close_decompressor(decompressor)
    return status, position


@njit(cache=True, nogil=True)
def count_bytes(photons, good, cell, region, everywhere, staging, counts, frame):
    """Count one frame of uint8 photons and add it to 16-bit sums.

    Parameters
    ----------
    photons : ndarray of uint8, (65536,)
    good : ndarray of uint8, (cells, 65536)
        Masks, 255 = good.
    cell : int
        Row of `good`.
    region : ndarray of uint8, (65536,)
        255 where photons count for the hit score.
    everywhere : bool
        `region` is 255 in all pixels, the usual case: it need not be looked at.
    staging : ndarray of uint16, (65536,)
        Sums of at most 257 frames of this cell; see :func:`add_staging`.
    counts : ndarray of uint32, (frames, 4)
        Row `frame` becomes: lit pixels, photons, photons in the region, pixels at 255.
    frame : int
    """
    lit = 0
    total = 0
    inside = 0
    full = 0
    mask = good[cell]
    for first in range(0, PIXELS, SPAN):
        photons_ = photons[first : first + SPAN]
        mask_ = mask[first : first + SPAN]
        staging_ = staging[first : first + SPAN]
        lit_ = U16(0)
        total_ = U16(0)
        full_ = U16(0)
        for i in range(SPAN):
            value = U8(photons_[i] & mask_[i])
            lit_ = U16(lit_ + U16(value != U8(0)))
            total_ = U16(total_ + U16(value))
            full_ = U16(full_ + U16(value == U8(255)))
            staging_[i] = U16(staging_[i] + U16(value))
        lit += lit_
        total += total_
        full += full_
        if not everywhere:
            region_ = region[first : first + SPAN]
            inside_ = U16(0)
            for i in range(SPAN):
                inside_ = U16(inside_ + U16(U8(U8(photons_[i] & mask_[i]) & region_[i])))
            inside += inside_
    counts[frame, LIT] = lit
    counts[frame, PHOTONS] = total
    counts[frame, REGION] = total if everywhere else inside
    counts[frame, FULL] = full


@njit(cache=True, nogil=True)
def add_staging(staging, powder):
    """Add the 16-bit sums to the powder of the cell, uint32 or uint64 (65536,), and set them to zero."""
    for i in range(PIXELS):
        powder[i] += staging[i]
        staging[i] = 0


@njit(cache=True, nogil=True)
def count_photons(photons, mask, region, powder, counts, frame):
    """Count one frame of uint16 photons and add it to the powder.

    Parameters
    ----------
    photons : ndarray of uint16, (65536,)
    mask, region : ndarray of uint8, (65536,)
        255 = good, 255 = counts for the hit score.
    powder : ndarray of uint32 or uint64, (65536,)
    counts : ndarray of uint32, (frames, 4)
        Row `frame` becomes: lit pixels, photons, photons in the region, pixels at 65535. The sum of 65536 pixels of
        at most 65535 photons fits into 32 bits.
    frame : int
    """
    lit = 0
    total = 0
    inside = 0
    full = 0
    for first in range(0, PIXELS, SPAN):
        photons_ = photons[first : first + SPAN]
        mask_ = mask[first : first + SPAN]
        region_ = region[first : first + SPAN]
        powder_ = powder[first : first + SPAN]
        lit_ = U16(0)
        full_ = U16(0)
        low = U16(0)  # lower and upper bytes apart, so that their sums fit into 16 bits
        high = U16(0)
        inside_low = U16(0)
        inside_high = U16(0)
        for i in range(SPAN):
            value = U16(photons_[i] & U16(I16(I8(mask_[i]))))
            counted = U16(value & U16(I16(I8(region_[i]))))
            lit_ = U16(lit_ + U16(value != U16(0)))
            full_ = U16(full_ + U16(value == U16(MOST_PHOTONS)))
            low = U16(low + U16(value & U16(255)))
            high = U16(high + U16(value >> U16(8)))
            inside_low = U16(inside_low + U16(counted & U16(255)))
            inside_high = U16(inside_high + U16(counted >> U16(8)))
            powder_[i] += value
        lit += lit_
        full += full_
        total += low + 256 * np.int64(high)
        inside += inside_low + 256 * np.int64(inside_high)
    counts[frame, LIT] = lit
    counts[frame, PHOTONS] = total
    counts[frame, REGION] = inside
    counts[frame, FULL] = full


@njit(cache=True, nogil=True)
def planes_to_bytes(planes, photons):
    """Turn shuffled float32 photons into uint8, if all of them are whole numbers from 0 to 255.

    Such a number needs the sign, exponent and the upper 7 bits of the fraction only, so the two low byte planes are
    zero: (128 | fraction) / 2**(134 - exponent) is the number, and shifting back must not have lost a bit. Everything
    else (fractions, negative numbers, -0.0, NaN, larger ones) is noticed.

    Parameters
    ----------
    planes : ndarray of uint8, (4 * 65536,)
    photons : ndarray of uint8, (65536,)
        Becomes the photons.

    Returns
    -------
    bool
        False if any pixel is something else; `photons` is meaningless then.
    """
    low_0 = planes[:PIXELS]
    low_1 = planes[PIXELS : 2 * PIXELS]
    high_0 = planes[2 * PIXELS : 3 * PIXELS]
    high_1 = planes[3 * PIXELS : 4 * PIXELS]
    wrong = U16(0)
    for i in range(PIXELS):
        upper = U16(U16(U16(high_1[i]) << U16(8)) | U16(high_0[i]))
        exponent = U16(upper >> U16(7))  # with the sign on top, so that negative numbers have 256 or more
        fraction = U16(U16(128) | U16(upper & U16(127)))
        shift = U16(U16(134) - exponent)
        shift = shift if shift < U16(15) else U16(15)
        number = U16(fraction >> shift)
        whole = (U16(number << shift) == fraction) & (exponent >= U16(127)) & (exponent <= U16(134))
        known = whole | (upper == U16(0))
        wrong = U16(wrong | U16(low_0[i]) | U16(low_1[i]) | (U16(0) if known else U16(1)))
        photons[i] = U8(number)
    return wrong == 0


@njit(cache=True, nogil=True)
def integer_photons(values, photons):
    """Copy integer photons of any type to uint16, not below 0 and not above 65535."""
    for i in range(PIXELS):
        value = values[i]
        if value < 0:
            value = 0
        elif value > MOST_PHOTONS:
            value = MOST_PHOTONS
        photons[i] = value


@njit(cache=True, nogil=True)
def float_photons(values, scale, bias, photons):
    """Turn floating point values into photons.

    Parameters
    ----------
    values : ndarray of float32, (65536,)
    scale : float32
        Photons per unit of `values`.
    bias : float32
        1 - photon_threshold.
    photons : ndarray of uint16, (65536,)
        Becomes the photons.
    """
    for i in range(PIXELS):
        value = F32(F32(F32(values[i]) * scale) + bias)
        value = value if value > F32(0) else F32(0)  # NaN too
        value = value if value < F32(MOST_PHOTONS) else F32(MOST_PHOTONS)
        photons[i] = U16(I32(value))


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


@njit(cache=True, nogil=True)
def add_frames(photons, module, total):
    """Add frames of one module to a sum.

    Parameters
    ----------
    photons : ndarray of uint16, (frames, modules, 65536)
    module : int
    total : ndarray of uint64, (modules, 65536)
    """
    for first in range(0, PIXELS, 1024):
        total_ = total[module, first : first + 1024]
        for frame in range(photons.shape[0]):
            photons_ = photons[frame, module, first : first + 1024]
            for i in range(1024):
                total_[i] += photons_[i]


@njit(cache=True, nogil=True)
def apply_mask(photons, mask):
    """Set uint16 photons (65536,) to 0 where the mask is 0."""
    for i in range(PIXELS):
        photons[i] = U16(photons[i] & U16(I16(I8(mask[i]))))


@njit(cache=True, nogil=True)
def drop_flagged(flags, mask, left):
    """Take pixels off a mask that a frame's own flags name.

    Parameters
    ----------
    flags : ndarray of uint32, (65536,)
        The facility's mask of the frame, 0 = good.
    mask : ndarray of uint8, (65536,)
        255 = good.
    left : ndarray of uint8, (65536,)
        Becomes 255 where both are good.
    """
    for i in range(PIXELS):
        left[i] = mask[i] if flags[i] == 0 else U8(0)


@njit(cache=True, nogil=True)
def add_good(mask, counts):
    """Add 1 to `counts`, uint32 (65536,), where the mask is good."""
    for i in range(PIXELS):
        counts[i] = U32(counts[i] + U32(mask[i] & U8(1)))


def threshold_bias(photon_threshold):
    """What is added before rounding down: float32(1 - photon_threshold).

    Raises
    ------
    ValueError
        The threshold is not above 0 and at most 1.
    """
    bias = np.float32(1 - photon_threshold)
    if not 0 < photon_threshold <= 1 or bias >= 1:
        raise ValueError(f"photon_threshold is {photon_threshold}; expected a number above 0 (1e-7) and at most 1")
    return bias
