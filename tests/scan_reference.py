"""Current-source scans: what the fit should give, pixel by pixel with numpy and SciPy; and scans with known truth."""

from typing import NamedTuple

import numpy as np
from scipy import signal

SMALLEST_SPACING = 200
FEWEST_POINTS = 7
OUTLIER_SIGMA = 4


def fit_scan(analog, digital, time, spike_height, trim):
    """Fit pixels (n, pixels) one after the other: (15, pixels) ordered as by pulsetrain.scan_fit, or NaN."""
    results = np.full((15, analog.shape[1]), np.nan)
    for pixel in range(analog.shape[1]):
        for stage, found in fit_pixel(analog[:, pixel], digital[:, pixel], time, spike_height, trim).items():
            results[stage::3, pixel] = found
    return results


def fit_pixel(analog, digital, time, spike_height, trim):
    """Fit one pixel: {gain stage: (slope, offset, std about the line, digital mean, digital std)}."""
    level = running_median(digital)
    smooth = running_median(analog)
    no_spike = np.abs(analog.astype(int) - smooth) < spike_height
    levels = cluster(level)
    limits = (levels[1:] + levels[:-1]) / 2
    switches = [best_switch(level, limit) for limit in limits]
    bounds = [0, *switches, len(time)]
    found = {}
    for stage in range(len(levels)):
        first, last = bounds[stage], bounds[stage + 1]
        if last - first < FEWEST_POINTS:
            continue
        reach = np.abs(limits - levels[stage]).min() if len(limits) else SMALLEST_SPACING
        near = digital[first + 2 : last - 2]
        near = near[np.abs(near - levels[stage]) <= reach]
        inner = trimmed(time, first, last, trim)
        used = no_spike[inner] & (np.abs(level[inner] - levels[stage]) <= reach)
        if min(used.sum(), len(near)) < FEWEST_POINTS:
            continue
        mean, std = clipped_mean(near)
        slope, offset, line_std = clipped_line(time[inner][used], analog[inner][used])
        found[stage] = slope, offset, line_std, mean, std
    return found


def running_median(values):
    """Median of 5; at the ends that of the nearest five."""
    smooth = signal.medfilt(values, 5)
    smooth[:2], smooth[-2:] = smooth[2], smooth[-3]
    return smooth


def cluster(values):
    """K-means in one dimension with three ordered centres, or fewer if some are too close or too small."""
    low, high = np.median(values[:9]), np.median(values[-9:])
    for n in (3, 2):
        centres = np.linspace(low, high, n)
        for _ in range(20):
            member = np.searchsorted((centres[1:] + centres[:-1]) / 2, values)
            counts = np.bincount(member, minlength=n)
            new = np.bincount(member, values, minlength=n) / np.maximum(counts, 1)
            if np.array_equal(new, centres):
                break
            centres = new
        if counts.min() >= FEWEST_POINTS and np.diff(centres).min() >= SMALLEST_SPACING:
            return centres
    return np.array([values.mean()])


def best_switch(level, limit):
    """The point before which fewest values are above the limit and from which on fewest are not."""
    return int(np.argmin(np.concatenate(([0], np.cumsum(np.where(level > limit, 1, -1))))))


def trimmed(time, first, last, trim):
    margin = trim * (time[last - 1] - time[first]) * (1 - 1e-9)
    begin = np.searchsorted(time, time[first] + margin, "right")
    end = np.searchsorted(time, time[last - 1] - margin, "right")
    return slice(max(begin, first + 1), min(end, last - 1))


def clipped_mean(values):
    for _ in range(10):
        mean, std = values.mean(), values.std()
        inside = np.abs(values - mean) <= max(OUTLIER_SIGMA * std, 1)
        if inside.all():
            break
        values = values[inside]
    return mean, std


def clipped_line(time, values):
    for _ in range(10):
        middle = time.mean()
        slope, height = np.polyfit(time - middle, values, 1)
        residual = values - height - slope * (time - middle)
        std = np.sqrt(residual @ residual / (len(time) - 2))
        inside = np.abs(residual) <= max(OUTLIER_SIGMA * np.sqrt(np.pi / 2) * np.abs(residual).mean(), 1)
        if inside.all():
            break
        time, values = time[inside], values[inside]
    return slope, height - slope * middle, std


class ScanTruth(NamedTuple):
    """Truth of simulated pixels, (3, pixels); but `time` (n,), `switch` (2, pixels) [clocks], `is_dead` (pixels,)."""

    time: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    level: np.ndarray
    switch: np.ndarray
    is_dead: np.ndarray
    analog_noise: np.ndarray
    digital_noise: np.ndarray


def scan_axis(n):
    """3 to 202 clocks in steps of 1, then from 203 in steps of 10."""
    return np.concatenate((np.arange(3, 203), 203 + 10 * np.arange(n - 200)))[:n].astype(float)


def simulate_scan(
    n_pixels,
    seed,
    n_points=800,
    spikes=0.003,
    dead=0.01,
    settling=0.025,
    settling_adu=(15, 30, 30),
    noise=1.0,
):
    """Scans of pixels with three gain stages.

    42, 1.1 and 0.25 ADU per clock; noise 9, 12, 12 ADU analog and 25, 30, 30 digital; levels 800 and 700 ADU apart,
    with a spread of 35; 30 % of the switches have a point of a level between; the first point is bad.

    Parameters
    ----------
    spikes : float
        Share of the values in spikes of one or two points, 350 to 2500 ADU up or down, of analog and of digital values.
    dead : float
        Share of dead pixels: stuck, flat, and nothing but noise.
    settling : float
        Time constant by which the line is reached, as share of the stage: before the end of high gain and after the
        beginning of the others; 0 for none.
    noise : float
        Times the noise that is said above.

    Returns
    -------
    analog, digital : ndarray of int16, (n_points, n_pixels)
    ScanTruth
    """
    random = np.random.default_rng(seed)

    def spread(mean, sigma, low=-np.inf, high=np.inf):
        return np.clip(random.normal(mean, sigma, n_pixels), low, high)

    time = scan_axis(n_points)
    high = spread(42, 5, 28, 60)
    medium = high / spread(38, 2, 30, 46)
    gain = np.array([high, medium, medium / spread(4.4, 0.2, 3.7, 5.1)])
    offset = np.array([spread(5000, 120), spread(5350, 100), spread(5600, 100)])
    switch = (spread(8700, 120) - offset[:2]) / gain[:2]
    steps = spread(6200, 60), spread(800, 35), spread(700, 35)
    level = np.cumsum(steps, axis=0)
    analog_noise, digital_noise = noise * np.array([9.0, 12, 12]), noise * np.array([25.0, 30, 30])

    stage = (time[:, None] >= switch[0]).astype(int) + (time[:, None] >= switch[1])
    pixel = np.arange(n_pixels)
    analog = offset[stage, pixel] + gain[stage, pixel] * time[:, None]
    if settling:
        analog += settle(time, switch, stage, settling, settling_adu)
    analog += analog_noise[stage] * random.standard_normal(analog.shape)
    digital = level[stage, pixel] + digital_noise[stage] * random.standard_normal(analog.shape)
    for k in range(2):
        first = (stage <= k).sum(axis=0)
        chosen = np.flatnonzero((random.random(n_pixels) < 0.3) & (first < n_points))
        share = random.random(len(chosen))
        digital[first[chosen], chosen] = level[k, chosen] + share * (level[k + 1] - level[k])[chosen]
    for values in (analog, digital):
        add_spikes(values, spikes, random)
    analog[0], digital[0] = random.uniform(3000, 9000, n_pixels), random.uniform(5000, 8000, n_pixels)
    is_dead = random.random(n_pixels) < dead
    for number, k in enumerate(np.flatnonzero(is_dead)):
        analog[:, k], digital[:, k] = dead_pixel(number % len(DEAD_KINDS), n_points, random)
    truth = ScanTruth(time, gain, offset, level, switch, is_dead, analog_noise, digital_noise)
    return as_adc(analog), as_adc(digital), truth


def settle(time, switch, stage, share, size):
    """Distance from the lines: exponentials that end high gain and begin medium and low gain."""
    end = np.array([switch[0], switch[1] - switch[0], time[-1] - switch[1]])
    tau = share * np.maximum(end, 1e-9)
    since = (switch[0] - time[:, None], time[:, None] - switch[0], time[:, None] - switch[1])
    return sum(-size[k] * np.exp(-np.maximum(since[k], 0) / tau[k]) * (stage == k) for k in range(3))


def add_spikes(values, share, random):
    begin = np.argwhere(random.random(values.shape) < share / 1.5)
    height = random.uniform(350, 2500, len(begin)) * random.choice([-1, 1], len(begin))
    values[tuple(begin.T)] += height
    is_wide = (random.random(len(begin)) < 0.5) & (begin[:, 0] + 1 < len(values))
    values[begin[is_wide, 0] + 1, begin[is_wide, 1]] += height[is_wide]


def as_adc(values):
    return np.clip(np.rint(values), 0, 16383).astype(np.int16)


def dead_pixel(kind, n, random):
    """Analog and digital values (n,) of a kind of dead pixel."""
    return DEAD_KINDS[kind](n, random)


def _flat(random, n, mean, sigma):
    return mean + sigma * random.standard_normal(n)


def _switches(random, n):
    return np.repeat((6200.0, 7000.0, 7700.0), (n // 9, n // 2 - n // 9, n - n // 2)) + _flat(random, n, 0, 25)


DEAD_KINDS = (
    lambda n, random: (np.full(n, 4095.0), np.full(n, 4095.0)),  # stuck
    lambda n, random: (np.zeros(n), np.zeros(n)),
    lambda n, random: (_flat(random, n, 5000, 10), _flat(random, n, 6200, 25)),  # never responds
    lambda n, random: (random.uniform(4000, 9000, n), random.uniform(4000, 9000, n)),  # noise
    lambda n, random: (_flat(random, n, 6000, 800), _flat(random, n, 7000, 500)),
    lambda n, random: (_flat(random, n, 5000, 10), _switches(random, n)),  # nothing but switches
    lambda n, random: (np.full(n, 5000.0), _switches(random, n)),
    lambda n, random: (random.uniform(4000, 9000, n), _switches(random, n)),
    lambda n, random: (_flat(random, n, 5000, 10), random.choice([6200.0, 7000.0, 7700.0], n)),  # switches at random
    lambda n, random: (5000 + _flat(random, n, 0, 4).cumsum(), 6500 + _flat(random, n, 0, 8).cumsum()),  # wanders
    lambda n, random: (np.linspace(9000, 4000, n), _switches(random, n)[::-1]),  # falls
    lambda n, random: (4000 + scan_axis(n) + _flat(random, n, 0, 9), _switches(random, n)),  # one line for all
)
