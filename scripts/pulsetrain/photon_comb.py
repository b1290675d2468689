"""The comb of photon peaks of one pixel: pedestal track, histogram, maximum-likelihood fit. Compiled.

A pixel in the light of an X-ray tube gives, frame by frame, pedestal(t) + spacing * photons + noise. The pedestal
drifts by more than the spacing, so it is followed and subtracted. What is left is a comb of equidistant peaks, of which
the histogram is fitted. Model of the number of frames in the bin at v above the pedestal track:

    m(v) = A_0 N(v; mu, s) + sum_k A_k [(1 - r) N(v; mu + k g, s) + r U_k(v)] + c,   k = 1, 2, 3

with the normal density N, and U_k, the even density between mu + (k - 1) g and mu + k g, smeared by N: of a share r of
the photons a part of the charge went to a neighbour ("charge sharing"). Free are mu, the spacing g, s, the areas
A_k >= 0 and the floor c > 0. The areas are free rather than Poisson's because the tube need not be steady; that costs
nothing (Fisher information). A free r would cost up to a quarter in scatter where g < 7 s, and an r >= 0 a bias of
0.2 ADU; so r is given: the same for the pixels of an ASIC, found from many of them together. For that there is, for a
fitted pixel, the slope of the log likelihood along r, and the information on r when all other parameters are free.

Poisson likelihood of the bins, maximised by Fisher scoring: step = F^-1 * gradient with F = sum_i J_ia J_ib / m_i and
J = dm/dparameter. At the end F^-1 is the covariance of the parameters.

All works on differences to one sample of the pixel, so that a constant added to the data changes nothing. The fit is in
units of bins.
"""

import math

import numpy as np
from numba import float32 as F32
from numba import int16 as I16
from numba import int32 as I32
from numba import int64 as I64
from numba import njit
from numba import uint32 as U32
from numba import uint64 as U64

# Inlined into each other: passing the many arrays and numbers costs more than the short loops inside. Without checks of
# divisions by zero the loops become vectors; no divisor can be 0: widths, spacings and the floor have lower bounds.
compiled = njit(cache=True, nogil=True, forceinline=True, error_model="numpy")
compiled_sums = njit(cache=True, nogil=True, fastmath=True, forceinline=True, error_model="numpy")

BIN_BITS = 1
BIN = 2**BIN_BITS  # [ADU]: widens a peak of s = 10 ADU by 0.2 %, s = 4 ADU by 1 %
BINS = 512
ZERO_BIN = 64  # the one with the pedestal in its middle
PEAKS = 4  # no, one, two, three photons
RANGE = 3.6  # the fit ends at so many spacings: in front of the peak of four photons

# fitStatus
FITTED, CONSTANT, LOST, NO_PHOTONS, UNRESOLVED, NOT_CONVERGED, UNCERTAIN = range(7)

# parameters
MU, G, S, A0 = range(4)
FLOOR = A0 + PEAKS
R = FLOOR + 1  # last: it is held in the fit
N_FREE = R
N_PARAMETERS = R + 1
N_ROWS = N_PARAMETERS + 1 + 3 * PEAKS  # of work space

# columns of the results
SPACING, ERROR, QUALITY = range(3)
FIRST_PARAMETER = 3
N_RESULTS = FIRST_PARAMETER + N_PARAMETERS

BLOCK = 512  # frames per point of the pedestal track; fewer in short series, see `track_blocks`
SMALLEST_BLOCK = 64
BLOCKS_WANTED = 16
START_FRAMES = 256
FIRST_WIDTH = 25.0  # [ADU], half width of the first look at the pedestal peak
WIDTHS = (8.0, 40.0)  # [ADU], smallest and largest half width later; see `_near`
WIDTH_SIGMAS = 2.5
SETTLED = 1.0  # [ADU]
SETTLE_STEPS = 8
NEAR_SAMPLES = 800  # see `_near`
COARSE = 3  # the pedestal is first looked for in bins of 2**3 ADU
COARSE_BINS = 8192  # 2**16 / 2**3
LARGEST_SPREAD = 32767 - 2 * BINS  # [ADU]: sums of 16 bits cannot overflow; the ADC has 14 bits
STEP_FRAMES = 128  # see `_count`
STEP_RISE = 2.0  # [ADU]
LOWEST_PEAK = 0.25  # the lowest peak at least so high, compared with the highest, is the pedestal
FEWEST_NEAR = 0.1  # share of a block's frames that must be near the pedestal

MIN_PEAK = 12.0  # [frames]
PEAK_SIGMAS = 4.0
LARGEST_SIGMA = 0.25  # [spacings]: wider peaks are not resolved
LARGEST_ERROR = 0.05  # [spacings]
SMALLEST_SIGMA = 0.7  # [bins]
STEPS = 30
TOLERANCE = 0.1  # [standard errors]: the steps shrink at least tenfold from one to the next
LOWEST_FLOOR = 2e-3  # [frames per bin], keeps the model above 0
LOWEST_AREA = 1e-3  # [frames]
REACH = 6.5  # sigmas beyond which a peak is taken as 0


@njit(cache=True)
def track_blocks(n_frames):
    """Number of blocks of frames, each with one point of the pedestal track; at least 2."""
    wanted = (n_frames - 1) // BLOCKS_WANTED
    block = min(max(wanted, SMALLEST_BLOCK), BLOCK)
    return max((n_frames - 1) // block, 2)


@compiled
def fill_histogram(series, histogram, track, centre, coarse, index, quarters):
    """Follow the pedestal of one pixel and fill the histogram of the distances to it.

    The first frame is left out: in real data it is wrong.

    Parameters
    ----------
    series : ndarray of int16, (frames,)
        [ADU].
    histogram : ndarray of uint32, (BINS,)
        Result: frames per bin; the pedestal is in the middle of `ZERO_BIN`. The first and last bin are 0.
    track, centre : ndarray of float32, (blocks,)
        Result: pedestal [ADU above the second sample], and the frame number where it holds.
    coarse : ndarray of int32, (COARSE_BINS,)
        Work space, must be and stays 0.
    index : ndarray of int16, (frames,)
        Work space for some thousand frames at once.
    quarters : ndarray of uint32, (4, BINS)
        Work space.

    Returns
    -------
    status : int
    sigma : float
        Width of the pedestal peak [ADU].
    """
    n = series.size
    low, high = _extremes(series)
    if low == high:
        return CONSTANT, 0.0
    if I32(high) - I32(low) > LARGEST_SPREAD:
        return LOST, 0.0
    reference = I32(series[1])
    start = _coarse_pedestal(series[1 : min(n, 1 + START_FRAMES)], reference, coarse)
    width, sigma = FIRST_WIDTH, 0.0
    for _ in range(2):
        start, _ = _settle(series, 1, min(n, 1 + START_FRAMES), reference, start, width)
        sigma = _deviation(series, 1, min(n, 1 + START_FRAMES), reference, start, width)
        width = min(max(WIDTH_SIGMAS * sigma, WIDTHS[0]), WIDTHS[1])
    if not _follow(series, reference, start, width, track, centre, coarse):
        return LOST, sigma
    quarters[:] = 0
    for b in range(track.size - 1):
        slope = (track[b + 1] - track[b]) / (centre[b + 1] - centre[b])
        first = 1 if b == 0 else int(math.ceil(centre[b]))
        last = n if b == track.size - 2 else int(math.ceil(centre[b + 1]))
        for begin in range(first, last, index.size):
            base = track[b] + slope * F32(begin - centre[b])
            _count(series, begin, min(last, begin + index.size), base, slope, reference, index, quarters)
    for i in range(BINS):
        histogram[i] = quarters[0, i] + quarters[1, i] + quarters[2, i] + quarters[3, i]
    histogram[0] = 0
    histogram[BINS - 1] = 0
    return FITTED, sigma


@compiled
def pedestals(frames, track, centre, values):
    """Pedestal at some frames, in ascending order: straight lines between the points of the track, and beyond its ends.

    Parameters
    ----------
    frames : ndarray of int64, (m,)
    track, centre : ndarray of float32, (blocks,)
        From :func:`fill_histogram`.
    values : ndarray of float32, (m,)
        Result [ADU above the second sample].
    """
    b = 0
    for i in range(frames.size):
        while b < track.size - 2 and frames[i] >= centre[b + 1]:
            b += 1
        values[i] = track[b] + (track[b + 1] - track[b]) / (centre[b + 1] - centre[b]) * (F32(frames[i]) - centre[b])


@compiled
def _extremes(series):
    low, high = series[1], series[1]
    for i in range(U64(1), U64(series.size)):
        low = min(low, series[i])
        high = max(high, series[i])
    return low, high


@compiled
def _coarse_pedestal(part, reference, coarse):
    """Lowest of the high peaks in a histogram of 8 ADU, smoothed over 3 bins."""
    lowest, highest = coarse.size, 0
    for x in part:
        b = (I32(x) - reference + LARGEST_SPREAD) >> COARSE
        coarse[b] += 1
        lowest = min(lowest, b)
        highest = max(highest, b)
    most = 0
    for b in range(lowest, highest + 1):
        most = max(most, _three(coarse, b))
    found = lowest
    while _three(coarse, found) < LOWEST_PEAK * most or (
        found < highest and _three(coarse, found + 1) > _three(coarse, found)
    ):
        found += 1
    for x in part:
        coarse[(I32(x) - reference + LARGEST_SPREAD) >> COARSE] = 0
    return F32((found << COARSE) + (1 << (COARSE - 1)) - LARGEST_SPREAD)


@compiled
def _three(counts, b):
    total = counts[b]
    if b > 0:
        total += counts[b - 1]
    if b + 1 < counts.size:
        total += counts[b + 1]
    return total


@compiled
def _near(series, first, last, around, width):
    """Number of samples closer than `width` to `around`, and the sum of their distances; all 16 bits wide.

    No overflow with at most 800 samples closer than 40: 800 * 40 = 32000.
    """
    n, s = I16(0), I16(0)
    for i in range(U64(first), U64(last)):
        d = I16(series[i] - around)
        near = (d < width) & (d > -width)
        n = I16(n + (I16(1) if near else I16(0)))
        s = I16(s + (d if near else I16(0)))
    return n, s


@compiled
def _settle(series, first, last, reference, around, width):
    """Move to the mean of the samples first .. last - 1 within `width`, until it stays; also the number of these."""
    n = 0
    for _ in range(SETTLE_STEPS):
        whole = I32(math.floor(around + F32(0.5)))
        total, n = 0, 0
        begin = first
        while begin < last:
            end = min(begin + NEAR_SAMPLES, last)
            some, distances = _near(series, begin, end, I16(reference + whole), I16(width))
            n += some
            total += distances
            begin = end
        if n == 0:
            break
        shift = F32(whole) + F32(total) / F32(n) - around
        around += shift
        # The next shift would be a tenth: the density at the edges of the window is low.
        if abs(shift) < SETTLED:
            break
    return around, n


@compiled_sums
def _deviation(series, first, last, reference, around, width):
    """Standard deviation of the samples first .. last - 1 within `width`."""
    n, total, limit = I32(0), F32(0), F32(width)
    for i in range(U64(first), U64(last)):
        d = F32(I32(series[i]) - reference) - around
        near = abs(d) < limit
        n += I32(1) if near else I32(0)
        total += d * d if near else F32(0)
    return math.sqrt(total / max(n, 1))


@compiled
def _follow(series, reference, start, width, track, centre, coarse):
    """Points of the pedestal track; False if the pedestal is lost."""
    blocks = track.size
    n = series.size - 1
    for b in range(blocks):
        first, last = 1 + b * n // blocks, 1 + (b + 1) * n // blocks
        ahead = start
        if b == 1:
            ahead = track[0]
        elif b > 1:
            # The drift goes on as before, within what noise and photons can pretend.
            ahead = track[b - 1] + F32(min(max(track[b - 1] - track[b - 2], -width), width))
        found, near = _settle(series, first, last, reference, ahead, width)
        if near < FEWEST_NEAR * (last - first):
            ahead = _coarse_pedestal(series[first:last], reference, coarse)
            found, near = _settle(series, first, last, reference, ahead, width)
            if near < FEWEST_NEAR * (last - first):
                return False
        track[b] = found
        centre[b] = F32(0.5 * (first + last - 1))
    return True


@compiled
def _count(series, first, last, base, slope, reference, index, quarters):
    """Add samples less a straight line to the four partial histograms; `base` holds at frame `first`.

    The line is rounded to whole ADU in steps of up to 128 frames, over which it rises by at most 2 ADU. That adds less
    than 0.5 ADU**2 to the variance and shifts all peaks alike.
    """
    step = int(min(max(STEP_RISE / max(abs(slope), 1e-9), 1), STEP_FRAMES))
    for begin in range(first, last, step):
        n = min(step, last - begin)
        level = I32(round(base + slope * (begin + 0.5 * (n - 1) - first))) + reference
        shift = I16(BIN * ZERO_BIN + BIN // 2 - level)
        part = series[begin : begin + n]
        to = index[begin - first : begin - first + n]
        for i in range(U64(n)):
            v = I16(part[i] + shift)
            to[i] = I16(min(max(v, I16(0)), I16(BIN * BINS - 1)) >> I16(BIN_BITS))
    # Neighbours in time are often equal: four tables keep an addition from waiting for the one before.
    n = last - first
    whole = U64(n - n % 4)
    for i in range(U64(0), whole, U64(4)):
        quarters[0, U64(index[i])] += U32(1)
        quarters[1, U64(index[i + U64(1)])] += U32(1)
        quarters[2, U64(index[i + U64(2)])] += U32(1)
        quarters[3, U64(index[i + U64(3)])] += U32(1)
    for i in range(whole, U64(n)):
        quarters[0, U64(index[i])] += U32(1)


@compiled
def find_start(histogram, sigma, min_spacing, smooth):
    """Place of the one-photon peak: the highest rise above the lowest valley in front of it.

    Parameters
    ----------
    histogram : ndarray of uint32, (BINS,)
    sigma : float
        Width of the pedestal peak [bins].
    min_spacing : float
        [bins].
    smooth : ndarray of int64, (BINS,)
        Work space.

    Returns
    -------
    float
        Spacing [bins], or 0 if there is no significant peak.
    """
    half = max(2, int(round(sigma)))
    box_sums(histogram, half, smooth)
    lowest = smooth[ZERO_BIN]
    best, place = 0, 0
    for i in range(ZERO_BIN, BINS - half - 1):
        lowest = min(lowest, smooth[i])
        if i >= ZERO_BIN + min_spacing and smooth[i] - lowest > best:
            best, place = smooth[i] - lowest, i
    if best < MIN_PEAK or best < PEAK_SIGMAS * math.sqrt(2 * smooth[place] - best):
        return 0.0
    total, moment = 0.0, 0.0
    for i in range(place - half, place + half + 1):
        total += histogram[i]
        moment += histogram[i] * float(i - ZERO_BIN)
    return moment / total


@compiled
def box_sums(histogram, half, smooth):
    """Sums over 2 * half + 1 bins around each bin; 0 where they do not fit."""
    smooth[: half + 1] = 0
    smooth[BINS - half :] = 0
    total = 0
    for i in range(U64(2 * half)):
        total += I64(histogram[i])
    for i in range(U64(half), U64(BINS - half)):
        total += I64(histogram[i + U64(half)])
        smooth[i] = total
        total -= I64(histogram[i - U64(half)])


@compiled
def fit_comb(histogram, sigma, shared, min_spacing, smooth, rows, result):
    """Fit the comb of one pixel.

    Parameters
    ----------
    histogram : ndarray of uint32, (BINS,)
        From :func:`fill_histogram`.
    sigma : float
        Width of the pedestal peak [ADU].
    shared : float
        Share r of the photons with divided charge, 0 to 1.
    min_spacing : float
        Smallest spacing to look for [ADU].
    smooth : ndarray of int64, (BINS,)
        Work space.
    rows : ndarray of float32, (N_ROWS, BINS)
        Work space.
    result : ndarray of float64, (N_RESULTS,)
        Spacing and its error [ADU], quality [frames / ADU], then the parameters [bins]; NaN where there is no fit.

    Returns
    -------
    int
        Status.
    """
    result[:] = np.nan
    sigma /= BIN
    min_spacing /= BIN
    spacing = find_start(histogram, sigma, min_spacing, smooth)
    if spacing == 0:
        return NO_PHOTONS
    p = np.empty(N_PARAMETERS)
    _first_parameters(histogram, spacing, sigma, shared, p)
    information = np.empty((N_PARAMETERS, N_PARAMETERS))
    step = np.empty(N_PARAMETERS)
    for _ in range(STEPS):
        _equations(histogram, p, N_FREE, rows, information, step)
        if not _factorise(information, N_FREE):
            return NOT_CONVERGED
        _substitute(information, N_FREE, step)
        before = p[G], p[MU]
        _step(p, step)
        if p[S] > 1.5 * LARGEST_SIGMA * p[G] or p[G] < 0.5 * min_spacing or p[G] > BINS - ZERO_BIN:
            return UNRESOLVED
        step[:] = 0
        step[G] = 1
        _substitute(information, N_FREE, step)
        error = math.sqrt(step[G])
        if abs(p[G] - before[0]) < TOLERANCE * error and abs(p[MU] - before[1]) < TOLERANCE * error:
            break
    else:
        return NOT_CONVERGED
    result[SPACING] = p[G] * BIN
    result[ERROR] = error * BIN
    result[QUALITY] = valley_depth(histogram, p, smooth) / BIN
    result[FIRST_PARAMETER:] = p
    if p[S] > LARGEST_SIGMA * p[G] or p[G] < min_spacing:
        return UNRESOLVED
    if not result[ERROR] < LARGEST_ERROR * result[SPACING]:
        return UNCERTAIN
    return FITTED


@compiled
def shared_score(histogram, p, rows):
    """Slope of the log likelihood of a fitted pixel along r, and the information on r, the other parameters being free.

    Parameters
    ----------
    histogram : ndarray of uint32, (BINS,)
    p : ndarray of float64, (N_PARAMETERS,)
        Where the likelihood is largest for this r.
    rows : ndarray of float32, (N_ROWS, BINS)
        Work space.

    Returns
    -------
    slope, information : float
        Summed over pixels, slope / information is the step to the common r (Fisher scoring); 0, 0 without an answer.
    """
    information = np.empty((N_PARAMETERS, N_PARAMETERS))
    slope = np.empty(N_PARAMETERS)
    _equations(histogram, p, N_PARAMETERS, rows, information, slope)
    across = information[R].copy()
    along = information[R].copy()
    if not _factorise(information, N_FREE):
        return 0.0, 0.0
    _substitute(information, N_FREE, along)
    left, left_slope = across[R], slope[R]
    for a in range(N_FREE):
        left -= across[a] * along[a]
        left_slope -= slope[a] * along[a]
    return left_slope, left


@compiled
def _first_parameters(histogram, spacing, sigma, shared, p):
    """Areas from the frames within half a spacing of each peak."""
    p[MU], p[G], p[S], p[R] = 0.0, spacing, max(sigma, SMALLEST_SIGMA), shared
    for k in range(PEAKS):
        begin = ZERO_BIN + (k - 0.5) * spacing
        area = 0.0
        for i in range(max(1, int(begin)), min(BINS - 1, int(begin + spacing))):
            area += histogram[i]
        p[A0 + k] = max(area, 0.1)
    p[FLOOR] = 0.05


@compiled
def model_rows(p, first, last, with_shared, rows):
    """Model and its derivatives in the bins first .. last - 1.

    Parameters
    ----------
    p : ndarray of float64, (N_PARAMETERS,)
    first, last : int
    with_shared : bool
        Also the derivative along r.
    rows : ndarray of float32, (N_ROWS, BINS)
        Result: row a is dm/dparameter a; row N_PARAMETERS the model. The rest is work space.
    """
    n = last - first
    model = rows[N_PARAMETERS]
    densities = rows[N_PARAMETERS + 1 : N_PARAMETERS + 1 + PEAKS]
    distances = rows[N_PARAMETERS + 1 + PEAKS : N_PARAMETERS + 1 + 2 * PEAKS]
    below = rows[N_PARAMETERS + 1 + 2 * PEAKS : N_PARAMETERS + 1 + 3 * PEAKS]
    s, g = p[S], p[G]
    for k in range(PEAKS):
        _normal(first - ZERO_BIN - p[MU] - k * g, s, n, densities[k], distances[k], below[k])
    for a in range(A0):
        rows[a, :n] = 0.0
    rows[R, :n] = 0.0
    rows[FLOOR, :n] = 1.0
    model[:n] = p[FLOOR]
    for k in range(PEAKS):
        shared = p[R] if k > 0 else 0.0
        area, whole = p[A0 + k], (1 - shared) * p[A0 + k]
        _add_peak(n, whole, k, s, densities[k], distances[k], rows[MU], rows[G], rows[S])
        shape = rows[A0 + k]
        _add_shape(n, area, 1 - shared, densities[k], shape, model)
        if with_shared and k > 0:
            _add_shared_slope(n, area, g, below[k - 1], below[k], densities[k], rows[R])
        if shared > 0:
            _add_shelf_shape(n, area, shared, g, below[k - 1], below[k], shape, model)
            _add_shelf(
                n,
                area * shared / g,
                k,
                g,
                densities[k - 1 : k + 1],
                distances[k - 1 : k + 1],
                below[k - 1 : k + 1],
                rows,
            )


@compiled
def _normal(start, s, n, density, distance, below):
    """Normal density, distance from its centre in sigmas, and its integral, at start, start + 1, ...

    exp(-(d + 1)**2 / 2 s**2) = exp(-d**2 / 2 s**2) * exp(-(2 d + 1) / 2 s**2), and the second factor shrinks by
    exp(-1 / s**2) from bin to bin: two products instead of an exponential. The integral is the trapezoidal sum with
    the first term of Euler and Maclaurin's correction, -density'/12: exact to 1e-3 / s**4.
    """
    over_s, origin = F32(1 / s), F32(start)
    for i in range(n):
        distance[i] = (origin + F32(I32(i))) * over_s
    begin = min(max(int(math.ceil(-REACH * s - start)), 0), n)
    end = min(max(int(math.floor(REACH * s - start)) + 1, 0), n)
    density[:n] = 0.0
    below[:begin] = 0.0
    below[end:n] = 1.0
    if begin == end:
        return
    d = start + begin
    value = math.exp(-0.5 * (d / s) ** 2) / (s * math.sqrt(2 * math.pi))
    factor = math.exp(-(2 * d + 1) / (2 * s * s))
    shrink = math.exp(-1 / (s * s))
    integral = 0.5 * math.erfc(-d / s / math.sqrt(2.0))
    correction = 1 / (12 * s * s)
    for i in range(begin, end):
        density[i] = value
        below[i] = integral + correction * (start + i) * value
        after = value * factor
        integral += 0.5 * (value + after)
        value = after
        factor *= shrink


# The compiler makes vector instructions only of loops with few arrays, of which it can check that they do not overlap;
# float32 doubles their width, and its 24 bits are ample: a step needs to be right to some percent of the error.


@compiled_sums
def _add_peak(n, area, k, s, density, distance, d_mu, d_g, d_s):
    """Derivatives of area * density, of the peak of k photons."""
    slope, slope_g, one = F32(area / s), F32(k * area / s), F32(1)
    for i in range(n):
        d_mu[i] += slope * density[i] * distance[i]
    for i in range(n):
        d_g[i] += slope_g * density[i] * distance[i]
    for i in range(n):
        d_s[i] += slope * density[i] * (distance[i] * distance[i] - one)


@compiled_sums
def _add_shape(n, area, share, density, shape, model):
    height, part = F32(area * share), F32(share)
    for i in range(n):
        shape[i] = part * density[i]
    for i in range(n):
        model[i] += height * density[i]


@compiled_sums
def _add_shared_slope(n, area, g, below_before, below, density, d_r):
    """Derivative along r of the peak of k photons with its shelf, which reaches down to the peak of k - 1."""
    over_g, whole = F32(1 / g), F32(area)
    for i in range(n):
        d_r[i] += whole * ((below_before[i] - below[i]) * over_g - density[i])


@compiled_sums
def _add_shelf_shape(n, area, shared, g, below_before, below, shape, model):
    part, height = F32(shared / g), F32(area * shared / g)
    for i in range(n):
        shape[i] += part * (below_before[i] - below[i])
    for i in range(n):
        model[i] += height * (below_before[i] - below[i])


@compiled_sums
def _add_shelf(n, height, k, g, densities, distances, below, rows):
    """Derivatives of the shelf along mu, g and s; height = area * r / g."""
    u, t, y, z = densities[0], densities[1], distances[0], distances[1]
    d_mu, d_g, d_s = rows[MU], rows[G], rows[S]
    upper, lower, over_g, high = F32(k), F32(k - 1), F32(1 / g), F32(height)
    for i in range(n):
        d_mu[i] += high * (t[i] - u[i])
    for i in range(n):
        d_g[i] += high * (upper * t[i] - lower * u[i] - (below[0, i] - below[1, i]) * over_g)
    for i in range(n):
        d_s[i] += high * (z[i] * t[i] - y[i] * u[i])


@compiled
def _equations(histogram, p, n_parameters, rows, information, gradient):
    """Fisher information and gradient of the log likelihood, without what is held at a bound."""
    first = max(1, int(ZERO_BIN + p[MU] - REACH * p[S]))
    last = min(BINS - 1, int(ZERO_BIN + p[MU] + RANGE * p[G]))
    model_rows(p, first, last, n_parameters > R, rows)
    _information(histogram[first:last], n_parameters, rows, information, gradient)
    for a in range(A0, R):
        bound = LOWEST_FLOOR if a == FLOOR else LOWEST_AREA
        # A peak beyond the range of the histogram leaves no trace in it.
        if (p[a] <= bound and gradient[a] <= 0) or information[a, a] <= 0:
            information[a, :] = 0
            information[:, a] = 0
            information[a, a] = 1
            gradient[a] = 0


@compiled_sums
def _information(counts, n_parameters, rows, information, gradient):
    """Sums over the bins; overwrites work space in `rows`."""
    n = counts.size
    model, weight, scaled = rows[N_PARAMETERS], rows[N_PARAMETERS + 1], rows[N_PARAMETERS + 2]
    excess = rows[N_PARAMETERS + 3]
    one = F32(1)
    for i in range(n):
        weight[i] = one / model[i]
    for i in range(n):
        excess[i] = F32(I32(counts[i])) * weight[i] - one
    for a in range(n_parameters):
        row = rows[a]
        along = F32(0)
        for i in range(n):
            scaled[i] = row[i] * weight[i]
        for i in range(n):
            along += row[i] * excess[i]
        gradient[a] = along
        for b in range(a + 1):
            other = rows[b]
            total = F32(0)
            for i in range(n):
                total += scaled[i] * other[i]
            information[a, b] = total
            information[b, a] = total


@compiled
def _factorise(matrix, n):
    """Replace the lower triangle of the first n rows and columns by its Cholesky factor; False if there is none."""
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= matrix[i, k] * matrix[j, k]
            if i > j:
                matrix[i, j] = total / matrix[j, j]
            elif total > 1e-12 * matrix[i, i]:
                matrix[i, i] = math.sqrt(total)
            else:
                return False
    return True


@compiled
def _substitute(factor, n, vector):
    """Replace the first n elements of `vector` by the solution of the equations with this Cholesky factor."""
    for i in range(n):
        for k in range(i):
            vector[i] -= factor[i, k] * vector[k]
        vector[i] /= factor[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            vector[i] -= factor[k, i] * vector[k]
        vector[i] /= factor[i, i]


@compiled
def _step(p, step):
    """Go one step, not farther than the model is nearly linear."""
    p[MU] += min(max(step[MU], -p[S]), p[S])
    p[G] += min(max(step[G], -0.1 * p[G]), 0.1 * p[G])
    p[S] = max(p[S] + min(max(step[S], -0.3 * p[S]), 0.4 * p[S]), SMALLEST_SIGMA)
    for a in range(A0, R):
        p[a] = max(p[a] + step[a], 0.1 * p[a], LOWEST_FLOOR if a == FLOOR else LOWEST_AREA)


@compiled
def valley_depth(histogram, p, smooth):
    """Height of the lower of the peaks of no and one photon above the valley between them [frames / bin].

    All three from the histogram, smoothed by a box of an odd number of bins, about the width s of the peaks.
    """
    half = max(1, int(round(0.5 * p[S])))
    box_sums(histogram, half, smooth)
    zero = ZERO_BIN + int(round(p[MU]))
    one = min(ZERO_BIN + int(round(p[MU] + p[G])), BINS - 1)
    lowest = smooth[zero]
    for i in range(zero, one + 1):
        lowest = min(lowest, smooth[i])
    return (min(smooth[zero], smooth[one]) - lowest) / (2 * half + 1)
