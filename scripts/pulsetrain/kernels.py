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
from pulsetrain.raw_kernels import MOST_PHOTONS, baseline_level, common_modes, raw_energies, raw_photons

SPAN = 256  # pixels per inner loop: 256 * 255 is the largest sum of bytes that fits into 16 bits

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
