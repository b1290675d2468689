"""Gain stages of a pixel in a current-source scan: the inner loops, compiled.

The current source fills a pixel for a growing integration time. Its analog value rises on a steep line (high gain)
until the pixel switches to medium gain and then to low gain, each with its own line; the digital value is one of three
levels that say which. Found are the levels, the points of the scan that belong to each, and the three lines.

All work is done pixel by pixel, in an order of operations that depends on that pixel's data only.

Narrow types are kept by explicit casts, and indices are unsigned where a loop is to be vectorised (a negative index
would count from the end, which numba has to provide for otherwise).
"""

from typing import NamedTuple

import numpy as np
from numba import float32 as F32
from numba import int16 as I16
from numba import int32 as I32
from numba import njit
from numba import uint16 as U16
from numba import uint32 as U32
from numba import uint64 as U64

makes_arrays = njit(cache=True, nogil=True)
# The others make none, and so need not count the references to them, which would take a fifth of the time. They are put
# into their callers: calls, which pass every field of Scan and Work (some 80 numbers), make it a sixth slower.
compiled = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, forceinline=True)
# Sums whose order the compiler may choose, so that it can vectorise them; it chooses the same in every call.
compiled_sums = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, fastmath=True, forceinline=True)

GAIN_STAGES = 3
SMALLEST_SPACING = 200  # [ADU] between digital levels; they are some 700 apart, with a noise of 30
FEWEST_POINTS = 7  # of a stage
FEWEST_USED = 6  # of them, by its line
MOST_STRAYS = 0.05  # of all points may have a digital value of another stage than their neighbours
WIDEST_SPIKE = 2  # points
PROBES = 64  # the digital level is looked at in about so many points
OUTLIER_SIGMA = 4.0
SIGMA_OF_MEAN_SIZE = np.sqrt(np.pi / 2)  # standard deviation over mean size, of a normal distribution
MOST_ROUNDS = 10
SLOPE_SIGMA = 5.0  # a line rises if its slope is this many standard errors above 0
RISE_SIGMA = 10.0  # a pixel that never switches responds if its line rises by this many standard deviations
LAST_RISE = 0.9  # a stage that should have ended in a switch may saturate: it is used up to this share of its rise
SMALLEST_RATIO = 1.5  # of the gains of neighbouring stages; they differ by factors of some 40 and 4
SWITCH_MARGIN = 2  # points at either side of a switch that may have a level in between

SMALLEST_SHARE = 0.5  # of the points within the trimmed stage that its line has to use
HIGHEST = 32767  # no value is above it
NOWHERE = -(1 << 30)
FAR = np.float32(1e9)  # [ADU] from anything
STRIP = 256  # pixels that are put in rows at once: 512 bytes of each point, and all points of a strip fit into cache
COUNTED = 1 << 14  # points that are counted in 16 bits, which are the vectors of most numbers
PADDING = 64  # loops over the points of a stage run on to a multiple of this, which leaves them no slow remainder

# Results of a pixel; each has GAIN_STAGES rows.
GAIN, OFFSET, FIT_STD, LEVEL, LEVEL_STD = (slice(3 * i, 3 * i + 3) for i in range(5))
RESULTS = 15

(
    FITTED,
    NO_LOW,
    NO_SWITCH,
    NO_DATA,
    STUCK,
    NO_RESPONSE,
    NO_LEVELS,
    TOO_FEW,
    NOT_RISING,
    NOT_ORDERED,
) = range(10)

CODES = {
    FITTED: "all three gain stages are fitted",
    NO_LOW: "low gain is never reached: high and medium gain are fitted",
    NO_SWITCH: "never switches: high gain is fitted",
    NO_DATA: "no data of this memory cell",
    STUCK: "the analog value is stuck",
    NO_RESPONSE: "never switches, and the analog value does not rise with the integration time",
    NO_LEVELS: "the digital values are not one to three levels that rise during the scan",
    TOO_FEW: "a gain stage has too few usable points (the other stages are kept)",
    NOT_RISING: "the line of a gain stage does not rise (the other stages are kept)",
    NOT_ORDERED: "the gains do not fall from stage to stage",
}


class Scan(NamedTuple):
    """What the kernels need to know of a scan; from :func:`prepare_scan`.

    Attributes
    ----------
    time : ndarray of float64, (n,)
        Integration time of the points [clocks], increasing.
    unit_time : ndarray of float32, (n + PADDING,)
        (time - start) / unit, between -1 and 1: precise in float32 whatever the axis.
    start, unit : float
        [clocks]
    spike_height : int
        [ADU]
    trim : float
        Share of the integration times of a stage that is left out at either end.
    """

    time: np.ndarray
    unit_time: np.ndarray
    start: float
    unit: float
    spike_height: int
    trim: float


def prepare_scan(integration_time, spike_height, trim):
    """Prepare a scan for the kernels.

    Parameters
    ----------
    integration_time : array_like, (n,)
        [clocks], finite and increasing.
    spike_height : int
        [ADU], at least 1. An analog value this far from the median of itself and its two neighbours at either side is a
        spike, and not used.
    trim : float
        At least 0 and below 0.5.

    Returns
    -------
    Scan
    """
    if not 1 <= spike_height < 2**15 or not 0 <= trim < 0.5:
        raise ValueError(
            f"calibration.spike_height is {spike_height} and calibration.trim {trim}; expected 1 to 32767 [ADU] and at "
            "least 0 but below 0.5 (a share of the stage, at either end)"
        )
    time = np.ascontiguousarray(integration_time, np.float64)
    start, unit = float(time[0] + time[-1]) / 2, float(time[-1] - time[0]) / 2
    unit_time = np.zeros(len(time) + PADDING, np.float32)
    unit_time[: len(time)] = (time - start) / unit
    return Scan(time, unit_time, start, unit, int(spike_height), float(trim))


class Work(NamedTuple):
    """Memory that :func:`fit_pixel` uses, and its results. Lengths end with PADDING entries that mean nothing.

    Attributes
    ----------
    level, smooth : ndarray of int16, (n + PADDING,)
        Running medians of the digital and the analog values.
    x, y, weight : ndarray of float32, (n + PADDING,)
        Points of one stage: time and analog value from a reference, and 1 if its line uses the point, else 0.
    region : ndarray of int64, (3, 4)
        First and last + 1 point between which the line of each stage was fitted, lowest and highest digital value of
        its points [ADU]; zeros where there is no line.
    results : ndarray of float64, (RESULTS,)
    """

    level: np.ndarray
    smooth: np.ndarray
    x: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    region: np.ndarray
    results: np.ndarray


@makes_arrays
def fit_columns(analog, digital, scan, first, last, results, status):
    """Fit some pixels of a block whose points of the scan are its rows, as they lie in the gathered file.

    Parameters
    ----------
    analog, digital : ndarray of int16, (n, pixels)
        [ADU]
    scan : Scan
    first, last : int
        Which pixels.
    results : ndarray of float32, (RESULTS, pixels)
        Filled: gains [ADU / clock], offsets [ADU], standard deviations about the lines [ADU], digital levels and their
        standard deviations [ADU], three rows each; NaN where unknown.
    status : ndarray of uint8, (pixels,)
        Filled: a key of CODES.
    """
    n = analog.shape[0]
    work = new_work(n)
    analog_fours = np.zeros((STRIP, (n + PADDING + 3) // 4), np.uint64)
    digital_fours = np.zeros_like(analog_fours)
    packed = np.empty(STRIP, np.uint64)
    analog_rows, digital_rows = analog_fours.view(np.int16), digital_fours.view(np.int16)
    for begin in range(first, last, STRIP):
        width = min(STRIP, last - begin)
        _transpose(analog, begin, width, packed, analog_fours, analog_rows)
        _transpose(digital, begin, width, packed, digital_fours, digital_rows)
        _fit_rows(analog_rows, digital_rows, width, scan, work, begin, results, status)


@compiled
def _fit_rows(analog, digital, width, scan, work, begin, results, status):
    for k in range(width):
        status[begin + k] = fit_pixel(analog[k], digital[k], scan, work)
        for row in range(RESULTS):
            results[row, begin + k] = work.results[row]


@compiled
def _transpose(values, begin, width, packed, fours, rows):
    """Points of the scan from columns to rows; four at a time, in one store of 8 bytes."""
    n_fours = values.shape[0] // 4
    for four in range(U64(n_fours)):
        i = U64(4) * four
        a, b, c, d = values[i], values[i + U64(1)], values[i + U64(2)], values[i + U64(3)]
        for k in range(U64(width)):
            column = U64(begin) + k
            low = U32(U32(U16(a[column])) | U32(U32(U16(b[column])) << U32(16)))
            high = U32(U32(U16(c[column])) | U32(U32(U16(d[column])) << U32(16)))
            packed[k] = U64(U64(low) | U64(U64(high) << U64(32)))
        for k in range(U64(width)):
            fours[k, four] = packed[k]
    for i in range(4 * n_fours, values.shape[0]):
        for k in range(width):
            rows[k, i] = values[i, begin + k]


@makes_arrays
def new_work(n):
    """Memory for pixels with `n` points."""
    padded = n + PADDING
    return Work(
        np.zeros(padded, np.int16),
        np.zeros(padded, np.int16),
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
        np.zeros(padded, np.float32),
        np.zeros((GAIN_STAGES, 4), np.int64),
        np.empty(RESULTS, np.float64),
    )


@compiled
def fit_pixel(analog, digital, scan, work):
    """Fit one pixel.

    Parameters
    ----------
    analog, digital : ndarray of int16, (n + PADDING or more,)
        [ADU]; n is the number of points of the scan.
    scan : Scan
    work : Work
        Its `results` and `region` are filled; the rows of `results` are those of :func:`fit_columns`.

    Returns
    -------
    int
        A key of CODES.
    """
    n = len(scan.time)
    results = work.results
    results[:] = np.nan
    work.region[:] = 0
    _running_median(digital, n, work.level)
    _running_median(analog, n, work.smooth)
    if _is_constant(work.smooth, n):
        return STUCK
    n_stages, levels = _find_levels(work.level, n)
    if n_stages == 0:
        return NO_LEVELS
    limits, switches = _find_switches(work.level, n, n_stages, levels)
    if switches[0] < 0:
        return NO_LEVELS
    status = FITTED if n_stages == 3 else (NO_LOW if n_stages == 2 else NO_SWITCH)
    for stage in range(n_stages):
        begin = 0 if stage == 0 else switches[stage - 1]
        end = n if stage == n_stages - 1 else switches[stage]
        # Half way to the next level, at either side.
        reach = levels[stage] - limits[stage - 1] if stage else limits[0] - levels[0]
        if stage == 1 and n_stages == 3:
            reach = min(reach, limits[1] - levels[1])
        last = end
        if stage == n_stages - 1:
            last = _end_of_rise(work.smooth, begin, end, switches[0] if stage == 2 else -1)
        problem = _fit_stage(analog, digital, scan, work, stage, begin, end, last, levels[stage], reach)
        if problem:
            status = problem
    if n_stages == 1:
        begin, end = work.region[0, 0], work.region[0, 1]
        if status == NO_SWITCH and results[0] * (scan.time[end - 1] - scan.time[begin]) < RISE_SIGMA * results[6]:
            status = NOT_RISING
        if status != NO_SWITCH:
            results[:] = np.nan
            work.region[:] = 0
            return NO_RESPONSE if status == NOT_RISING else status
    high, medium, low = results[0], results[1], results[2]
    # Comparisons with NaN, of a stage that there is not, are false.
    if SMALLEST_RATIO * medium >= high or SMALLEST_RATIO * low >= medium or SMALLEST_RATIO * low >= high:
        results[:] = np.nan
        work.region[:] = 0
        return NOT_ORDERED
    return status


@compiled
def mark_points(analog, digital, scan, work, stage_of):
    """Say which points of a pixel the lines use.

    Parameters
    ----------
    analog, digital, scan, work
        As for :func:`fit_pixel`.
    stage_of : ndarray of int8, (n,)
        Filled: gain stage of the line that uses the point, -1 if none does.
    """
    stage_of[:] = -1
    fit_pixel(analog, digital, scan, work)
    for stage in range(GAIN_STAGES):
        begin, end = work.region[stage, 0], work.region[stage, 1]
        lowest, highest = np.int16(work.region[stage, 2]), np.int16(work.region[stage, 3])
        n = end - begin
        if n == 0:
            continue
        spike_height = U16(scan.spike_height)
        _choose_points(analog, work.smooth, work.level, begin, n, lowest, highest, spike_height, work.weight)
        _collect_points(analog, scan.unit_time, begin, n, work.x, work.y)
        _fit_line(work.x, work.y, work.weight, n)
        for k in range(n):
            if work.weight[k] > 0:
                stage_of[begin + k] = stage


@compiled
def _fit_stage(analog, digital, scan, work, stage, begin, end, last, level, reach):
    """Digital level and line of one stage, written to `work`; 0 or the key of CODES that says why there is none."""
    if last - begin < FEWEST_POINTS:
        return TOO_FEW
    mean, std, n_used = _level_of(digital, begin + SWITCH_MARGIN, end - SWITCH_MARGIN, level, reach, work.y)
    if n_used < 2:
        return TOO_FEW
    begin, end = _trimmed(scan.time, begin, last, scan.trim)
    n = end - begin
    lowest, highest = np.int16(np.ceil(max(level - reach, -HIGHEST))), np.int16(np.floor(min(level + reach, HIGHEST)))
    spike_height = U16(scan.spike_height)
    _choose_points(analog, work.smooth, work.level, begin, n, lowest, highest, spike_height, work.weight)
    _collect_points(analog, scan.unit_time, begin, n, work.x, work.y)
    slope, constant, line_std, slope_error, n_used = _fit_line(work.x, work.y, work.weight, n)
    if n_used < FEWEST_USED or n_used < SMALLEST_SHARE * n:
        return TOO_FEW
    if not slope > SLOPE_SIGMA * slope_error:
        return NOT_RISING
    middle = begin + n // 2
    results = work.results
    results[stage] = slope / scan.unit
    # x and y count from the middle of the stage; unit_time counts from the middle of the scan.
    results[3 + stage] = analog[middle] + constant - slope * (scan.unit_time[middle] + scan.start / scan.unit)
    results[6 + stage] = line_std
    results[9 + stage], results[12 + stage] = mean, std
    region = work.region
    region[stage, 0], region[stage, 1], region[stage, 2], region[stage, 3] = begin, end, lowest, highest
    return 0


@njit(inline="always")
def _lesser(a, b):
    return a if a < b else b


@njit(inline="always")
def _greater(a, b):
    return a if a > b else b


@njit(inline="always")
def _median_of_5(a, b, c, d, e):
    low = _greater(_lesser(a, b), _lesser(d, e))
    high = _lesser(_greater(a, b), _greater(d, e))
    # c, a value not below `low` and one not above `high` are left.
    return _greater(_lesser(low, high), _lesser(_greater(low, high), c))


@compiled
def _running_median(values, n, smooth):
    """Median of each value and its two neighbours at either side; that of the nearest five at the ends."""
    for i in range(U64(2), U64(n - 2)):
        smooth[i] = _median_of_5(
            values[i - U64(2)], values[i - U64(1)], values[i], values[i + U64(1)], values[i + U64(2)]
        )
    smooth[0] = smooth[1] = smooth[2]
    smooth[n - 2] = smooth[n - 1] = smooth[n - 3]


@compiled
def _is_constant(values, n):
    i = 1
    while i < n and values[i] == values[0]:
        i += 1
    return i == n


@compiled
def _find_levels(level, n):
    """Cluster the digital values, in the order of the scan.

    A new level begins where two neighbouring values agree that are above the mean of the level so far. One value alone
    may be what is left of a spike, or a point within a switch.

    Returns
    -------
    n_levels : int
        0 if there are more than three or none.
    levels : tuple of 3 float
        Means [ADU]; 0 for those that there are not.
    """
    stride = max(WIDEST_SPIKE + 1, n // PROBES)  # no two probes lie in one spike, and would agree
    first, second, third = 0.0, 0.0, 0.0
    n_levels = 0
    total, count = 0, 0
    before = NOWHERE
    for i in range(stride // 2, n, stride):
        value = int(level[i])
        above = value * count - total
        if count and abs(above) < SMALLEST_SPACING * count:
            total += value
            count += 1
            before = NOWHERE
        elif above >= 0 and abs(value - before) < SMALLEST_SPACING:
            n_levels += 1
            if n_levels == 2:
                first = total / count
            elif n_levels == 3:
                second = total / count
            elif n_levels > GAIN_STAGES:
                return 0, (0.0, 0.0, 0.0)
            total, count = value + before, 2
            before = NOWHERE
        else:
            before = value
    if n_levels == 1:
        first = total / count
    elif n_levels == 2:
        second = total / count
    elif n_levels == 3:
        third = total / count
    return n_levels, (first, second, third)


@compiled
def _find_switches(level, n, n_stages, levels):
    """Find the limits between the digital levels and the points where the pixel switches.

    Returns
    -------
    limits : tuple of 2 float
        [ADU], half way between the levels; without a switch, as far from the level as the next one may be.
    switches : tuple of 2 int
        First point of the second and of the third stage, `n` if there is none; -1 if the stages are no stretches.
    """
    spacing = float(SMALLEST_SPACING)
    low = (levels[0] + levels[1]) / 2 if n_stages > 1 else levels[0] + spacing
    high = (levels[1] + levels[2]) / 2 if n_stages > 2 else HIGHEST
    whole_low = int(np.floor(low)) if n_stages > 1 else HIGHEST
    whole_high = int(np.floor(high))
    switch_1, switch_2 = _count_up_to(level, 0, n, I16(whole_low), I16(whole_high))
    first_1, _ = _count_up_to(level, 0, switch_1, I16(whole_low), I16(whole_high))
    _, second_2 = _count_up_to(level, switch_1, switch_2, I16(whole_low), I16(whole_high))
    if first_1 < switch_1 or second_2 < switch_2 - switch_1:
        switch_1, switch_2 = _best_switch(level, n, whole_low), _best_switch(level, n, whole_high)
        strays = _count_strays(level, n, whole_low, whole_high, switch_1, switch_2)
        if strays > MOST_STRAYS * n or switch_2 < switch_1:
            return (low, high), (-1, -1)
    return (low, high), (switch_1, switch_2)


@compiled
def _count_up_to(level, begin, end, low, high):
    """How many values are not above `low`, and how many not above `high`."""
    all_low, all_high = 0, 0
    for first in range(begin, end, COUNTED):
        up_to_low, up_to_high = I16(0), I16(0)
        for i in range(U64(first), U64(min(first + COUNTED, end))):
            up_to_low = I16(up_to_low + I16(level[i] <= low))
            up_to_high = I16(up_to_high + I16(level[i] <= high))
        all_low += up_to_low
        all_high += up_to_high
    return all_low, all_high


@compiled
def _count_strays(level, n, low, high, switch_1, switch_2):
    """Points whose digital value is of another stage than that of their place in the scan."""
    count = I32(0)
    for i in range(U64(switch_1)):
        count = I32(count + I32(level[i] > low))
    for i in range(U64(switch_1), U64(switch_2)):
        count = I32(count + I32((level[i] <= low) | (level[i] > high)))
    for i in range(U64(switch_2), U64(n)):
        count = I32(count + I32(level[i] <= high))
    return int(count)


@compiled
def _best_switch(level, n, limit):
    """The point before which fewest values are above a limit and from which on fewest are not."""
    balance, best, switch = 0, 0, 0
    for i in range(n):
        balance += 1 if level[i] > limit else -1
        if balance < best:
            best = balance
            switch = i + 1
    return switch


@compiled
def _end_of_rise(smooth, begin, end, begin_before):
    """First point from which on the last stage of a pixel may be saturated.

    `begin_before` is the first point of medium gain if this stage is low gain, else -1.
    """
    if end - begin < FEWEST_POINTS:
        return end
    if begin_before >= 0:
        # The analog value at which this pixel left medium gain is the last that is known to be within its range. It is
        # looked for in a quarter of that stage, since a spike can hide the switch for some points.
        if smooth[end - 1] < smooth[max(begin - 3, 0)]:
            return end
        limit = 0
        for i in range(begin - (begin - begin_before + 3) // 4, begin):
            limit = max(limit, int(smooth[i]))
    else:
        low, high = int(smooth[begin + 2]), int(smooth[end - 1])
        limit = low + int(LAST_RISE * (high - low))
    while end > begin and smooth[end - 1] >= limit:
        end -= 1
    return end


@compiled
def _trimmed(time, begin, end, trim):
    """The points of a stage without a share of its integration times, and one point at least, at either end."""
    # Rounding must not decide on a point at the very border.
    margin = (trim - 1e-9) * (time[end - 1] - time[begin])
    lowest, highest = time[begin] + margin, time[end - 1] - margin
    first = _first_above(time, begin + 1, end - 1, lowest)
    return first, _first_above(time, first, end - 1, highest)


@compiled
def _first_above(time, begin, end, limit):
    """First point, from `begin` on, that is later than `limit`; `end` if there is none."""
    while begin < end:
        middle = (begin + end) // 2
        if time[middle] > limit:
            end = middle
        else:
            begin = middle + 1
    return begin


@compiled
def _level_of(digital, begin, end, level, reach, distance):
    """Mean and standard deviation of the digital values of a stage, without those that are far off; their number.

    `distance` is work space.
    """
    size = end - begin
    padded = _padded(size)
    centre, std, n_used = 0.0, 0.0, 0.0
    n, total, squares = _collect_level(digital, begin, size, F32(level), F32(reach), distance)
    for _ in range(MOST_ROUNDS):
        if n < 1 or n == n_used:
            break
        n_used = float(n)
        centre = float(total) / n_used
        std = np.sqrt(max(float(squares) / n_used - centre * centre, 0.0))
        n, total, squares = _level_sums(distance, padded, F32(centre), F32(max(OUTLIER_SIGMA * std, 1.0)))
    return float(F32(level)) + centre, std, int(n_used)


@compiled_sums
def _collect_level(digital, begin, n, level, reach, distance):
    """Distances from the level; number, sum and sum of squares of those within `reach`. FAR beyond the stage."""
    count, total, squares = F32(0), F32(0), F32(0)
    for k in range(U64(n)):
        value = F32(digital[U64(begin) + k]) - level
        distance[k] = value
        inside = F32(1) if abs(value) <= reach else F32(0)
        kept = inside * value
        count += inside
        total += kept
        squares += kept * kept
    for k in range(U64(n), U64(_padded(n))):
        distance[k] = FAR
    return count, total, squares


@compiled_sums
def _level_sums(distance, padded, centre, limit):
    """Number, sum and sum of squares of the distances from the level that are within `limit` of `centre`."""
    count, total, squares = F32(0), F32(0), F32(0)
    for k in range(U64(padded)):
        inside = F32(1) if abs(distance[k] - centre) <= limit else F32(0)
        kept = inside * distance[k]
        count += inside
        total += kept
        squares += kept * kept
    return count, total, squares


@njit(inline="always")
def _padded(n):
    return (n + PADDING - 1) // PADDING * PADDING


@compiled_sums
def _choose_points(analog, smooth, level, begin, n, lowest, highest, spike_height, weight):
    """Weight 1 for the points of a stage that are no spike and have its digital level, else 0."""
    for k in range(U64(_padded(n))):
        i = U64(begin) + k
        value, median, digital = analog[i], smooth[i], level[i]
        height = U16(U16(_greater(value, median)) - U16(_lesser(value, median)))  # never overflows
        is_good = (height < spike_height) & (digital >= lowest) & (digital <= highest)
        weight[k] = F32(1) if is_good else F32(0)
    for k in range(U64(n), U64(_padded(n))):
        weight[k] = F32(0)


@compiled_sums
def _collect_points(analog, unit_time, begin, n, x, y):
    """Points of a stage, from one in its middle: precise in float32."""
    centre, reference = unit_time[begin + n // 2], F32(analog[begin + n // 2])
    for k in range(U64(_padded(n))):
        i = U64(begin) + k
        x[k] = unit_time[i] - centre
        y[k] = F32(analog[i]) - reference


@compiled
def _fit_line(x, y, weight, n):
    """Least-squares line through the points of weight 1; points far from it get weight 0.

    Returns
    -------
    slope, constant, std, slope_error, n_used
        The standard deviation is that of the points about the line.
    """
    padded = _padded(n)
    slope, constant, std, error, count = 0.0, 0.0, 0.0, np.inf, 0.0
    for _ in range(MOST_ROUNDS):
        sums = _line_sums(x, y, weight, padded)
        count = float(sums[0])
        if count < FEWEST_USED:
            break
        mean_x, mean_y = float(sums[1]) / count, float(sums[2]) / count
        spread = float(sums[3]) - count * mean_x * mean_x
        slope = (float(sums[4]) - count * mean_x * mean_y) / spread
        constant = mean_y - slope * mean_x
        squares, sizes = _residual_sums(x, y, weight, padded, F32(slope), F32(constant))
        std = np.sqrt(float(squares) / (count - 2))
        error = std / np.sqrt(spread)
        # Few large outliers change the mean size of the residuals less than their standard deviation. Values are whole
        # numbers: one step is no outlier.
        limit = F32(max(OUTLIER_SIGMA * SIGMA_OF_MEAN_SIZE * float(sizes) / count, 1.0))
        dropped = _drop_outliers(x, y, weight, padded, F32(slope), F32(constant), limit)
        if dropped == 0:
            break
    return slope, constant, std, error, int(count)


@compiled_sums
def _line_sums(x, y, weight, padded):
    count, sum_x, sum_y, sum_xx, sum_xy = F32(0), F32(0), F32(0), F32(0), F32(0)
    for i in range(U64(padded)):
        count += weight[i]
        weighted = weight[i] * x[i]
        sum_x += weighted
        sum_y += weight[i] * y[i]
        sum_xx += weighted * x[i]
        sum_xy += weighted * y[i]
    return count, sum_x, sum_y, sum_xx, sum_xy


@compiled_sums
def _residual_sums(x, y, weight, padded, slope, constant):
    """Sum of the squares and of the sizes of the distances from the line."""
    squares, sizes = F32(0), F32(0)
    for i in range(U64(padded)):
        residual = weight[i] * (y[i] - constant - slope * x[i])
        squares += residual * residual
        sizes += abs(residual)
    return squares, sizes


@compiled_sums
def _drop_outliers(x, y, weight, padded, slope, constant, limit):
    """Give weight 0 to points farther than `limit` from the line; say how many had weight 1."""
    dropped = F32(0)
    for i in range(U64(padded)):
        kept = weight[i] if abs(y[i] - constant - slope * x[i]) <= limit else F32(0)
        dropped += weight[i] - kept
        weight[i] = kept
    return int(dropped)
