"""X-ray-tube series with known spacing, the bound on its error, and a plain version of the document's program."""

from math import factorial
from typing import NamedTuple

import numpy as np
from scipy import ndimage, signal


class XraySeries(NamedTuple):
    """Series of some pixels: values int16 (pixels, frames) [ADU] and the true spacing (pixels,) [ADU]."""

    values: np.ndarray
    spacing: np.ndarray


def simulate_series(
    n_pixels, n_frames=20_000, *, seed=0, mean=0.25, sigma=10.0, drift=60.0, shared=0.0, spacing=(60, 120), k_beta=0.0
):
    """Series of frames.

    Parameters
    ----------
    n_pixels, n_frames : int
    seed : int
    mean : float
        Photons per frame.
    sigma : float
        Noise [ADU].
    drift : float
        Pedestal drift, exponential and wavy, other for each pixel [ADU].
    shared : float
        Share of the photons that lose an even random part of their charge to a neighbour.
    spacing : float or (float, float)
        ADU per photon, or its range.
    k_beta : float
        Share of the photons with 12 % more energy.
    """
    rng = np.random.default_rng([seed, n_pixels, n_frames])
    spacing = np.resize(spacing, 2)
    spacing = rng.uniform(spacing[0], spacing[1], n_pixels)
    time = np.linspace(0, 1, n_frames)
    rise = rng.normal(1, 0.3, (n_pixels, 1)) * (1 - np.exp(-3 * time))
    wave = 0.15 * np.sin(2 * np.pi * (time * rng.uniform(1, 3, (n_pixels, 1)) + rng.random((n_pixels, 1))))
    photons = rng.poisson(mean, (n_pixels, n_frames))
    energy = photons.astype(float)
    if k_beta:
        energy += 0.12 * rng.binomial(photons, k_beta)
    if shared:
        divided = (photons > 0) & (rng.random(photons.shape) < shared)
        energy[divided] -= rng.random(np.count_nonzero(divided))
    values = rng.normal(5000, 300, (n_pixels, 1)) + drift * (rise + wave) + spacing[:, None] * energy
    values += sigma * rng.standard_normal(values.shape)
    values[:, 0] = 0  # the first frame of real data is wrong
    return XraySeries(np.clip(np.rint(values), 0, 16383).astype("i2"), spacing)


def spacing_bound(n_frames, mean, sigma, spacing, most_photons=5):
    """Cramer-Rao bound on the spacing [ADU]: Poisson's comb of normal peaks, known but for place, spacing, width, mean.

    Numerical derivatives of the density, on a grid of 0.25 ADU.
    """
    v = np.arange(-8 * sigma, most_photons * spacing + 8 * sigma, 0.25)
    k = np.arange(most_photons + 1)
    faculty = np.array([factorial(i) for i in k])

    def density(parameters):
        place, distance, width, rate = parameters
        weights = np.exp(-rate) * rate**k / faculty
        z = (v[:, None] - place - k * distance) / width
        return (weights * np.exp(-0.5 * z**2)).sum(axis=1) / (width * np.sqrt(2 * np.pi))

    centre = np.array([0.0, spacing, sigma, mean])
    steps = np.diag([1e-3, 1e-3, 1e-3, 1e-5])
    slopes = np.array([(density(centre + h) - density(centre - h)) / (2 * h.sum()) for h in steps])
    information = n_frames * 0.25 * (slopes[:, None] * slopes / np.maximum(density(centre), 1e-300)).sum(axis=-1)
    return np.sqrt(np.linalg.inv(information)[1, 1])


def plain_spacing(series, radius=800, widths=(5, 50, 4), closest=40):
    """Spacing and quality of one pixel by the method of the document "AGIPD 1.1 calibration".

    The drift is a running median over 2 * radius + 1 frames; the histogram has bins of 1 ADU; its peaks are found by
    scipy.signal.find_peaks_cwt; the spacing is the distance of the two highest that are at least `closest` ADU apart;
    the quality is the height of the lower one above the valley between them in the smoothed histogram.

    Parameters
    ----------
    series : ndarray of int16, (frames,)
    radius : int
        [frames], of the original program.
    widths : (int, int, int)
        First, last, step of the widths of the wavelets [ADU], of the original program.
    closest : int
        [ADU].

    Returns
    -------
    (float, float)
        Spacing [ADU] and quality [frames / ADU]; NaN if there are no two peaks.
    """
    series = series[1:]
    values = series - ndimage.median_filter(series, 2 * radius + 1, mode="nearest")
    first = values.min()
    histogram = np.bincount(values - first)
    peaks = np.unique(signal.find_peaks_cwt(histogram, np.arange(*widths)))
    if len(peaks) < 2:
        return np.nan, np.nan
    smooth = ndimage.uniform_filter1d(histogram.astype(float), 11)
    peaks = peaks[np.argsort(-smooth[peaks], kind="stable")]
    others = peaks[np.abs(peaks - peaks[0]) >= closest]
    if not len(others):
        return np.nan, np.nan
    low, high = sorted((peaks[0], others[0]))
    valley = smooth[low : high + 1].min()
    return float(high - low), float(smooth[others[0]] - valley)
