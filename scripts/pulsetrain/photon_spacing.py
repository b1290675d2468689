"""The signal of one photon in X-ray-tube data, pixel by pixel, with drift removed: reading, sharing out, writing.

The kernels and the model are in :mod:`pulsetrain.photon_comb`. The file is read once; kept are the histograms of all
pixels. From every sixteenth pixel of an ASIC its share of divided charge is found, then all pixels are fitted with it.
"""

import contextlib
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
from numba import njit
from numba import uint64 as U64

from pulsetrain import photon_comb as comb
from pulsetrain.chunks import grown
from pulsetrain.detector import ASIC_PIXELS, LAB_SHAPE, PIXELS
from pulsetrain.gathered import check_gathered, read_fully
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

FEWEST_FRAMES = 200
MIN_SPACING = 40.0  # [ADU], that of the original program
SERIES_BYTES = 768 * 1024**2  # of all threads together
BAND_ROWS = 8  # rows of a chunk of the gathered file
READ_FRAMES = 128  # frames of a chunk
TILE = 128  # pixels by frames turned together: stay in the innermost cache
SHARE_PIXELS = 512  # pixels fitted by one call
THINNED = 128  # frames of each pixel that are kept for the figures

SHARED_STRIDE, SHARED_FIRST = 16, 7  # columns 7, 23, 39, 55 of an ASIC: none of its border columns
FIRST_SHARED = 0.05
LARGEST_SHARED = 0.9
SHARED_STEPS = 6
SHARED_TOLERANCE = 0.001
FEWEST_SHARED = 20  # pixels; an ASIC with fewer takes the median of the others
OUTLIER_SIGMAS = 6.0

FAILED_SAMPLES = 4
CODES = {
    comb.FITTED: "fitted",
    comb.CONSTANT: "all values are the same",
    comb.LOST: "the pedestal is lost: it jumps, or there is no pedestal peak",
    comb.NO_PHOTONS: "no peak of one photon",
    comb.UNRESOLVED: "the peaks are too wide for their distance, or closer than the smallest spacing",
    comb.NOT_CONVERGED: "the fit does not converge",
    comb.UNCERTAIN: "the error of the spacing is above 5 %",
}


class Histograms(NamedTuple):
    """What is kept of the series of each pixel.

    Attributes
    ----------
    counts : ndarray of uint32, (pixels, BINS)
        Frames per bin of the distance to the pedestal.
    sigma : ndarray of float64, (pixels,)
        Width of the pedestal peak [ADU], roughly.
    status : ndarray of uint8, (pixels,)
    frame : ndarray of int64, (m,)
        Frames in `series` and `drift`.
    series : ndarray of int16, (pixels, m)
        [ADU].
    drift : ndarray of float32, (pixels, m)
        Pedestal [ADU]; NaN if it is not known.
    """

    counts: np.ndarray
    sigma: np.ndarray
    status: np.ndarray
    frame: np.ndarray
    series: np.ndarray
    drift: np.ndarray


class Fits(NamedTuple):
    """Fits of the combs.

    Attributes
    ----------
    status : ndarray of uint8, (pixels,)
    values : ndarray of float64, (pixels, N_RESULTS)
        See :func:`pulsetrain.photon_comb.fit_comb`.
    """

    status: np.ndarray
    values: np.ndarray


class _Source(NamedTuple):
    """The dataset analog; `places` holds the byte at which the chunk with a first frame and row begins, if it is plain.

    `block_frames` is the number of frames of a chunk.
    """

    path: str
    analog: h5py.Dataset
    n_frames: int
    descriptor: int
    places: dict
    block_frames: int


def process_xray(gathered, output, attributes, *, module, cell, min_spacing=MIN_SPACING, threads=1):
    """Write the photon spacing of one module: ``processed/m{module}_photonSpacing.h5`` (see scripts/process_xray.py).

    Parameters
    ----------
    gathered : str or Path
        ``gathered/m{module}_xray.h5``: analog int16 (frames, 128, 512) [ADU].
    output : str or Path
    attributes : dict
        Provenance.
    module : int
    cell : int
        Memory cell that was exposed.
    min_spacing : float
        Smallest spacing to look for [ADU].
    threads : int

    Raises
    ------
    ValueError
        The file is damaged, of another module, kind or memory cell, has another shape or type, or too few frames.
    """
    n_frames = check_gathered(gathered, "xray", module, FEWEST_FRAMES, ("frames",), {"cell": cell})[0]
    histograms = read_histograms(gathered, threads=threads)
    asic = asic_of_pixel()
    shared = shared_fractions(histograms, asic, asic_sample(asic), min_spacing=min_spacing, threads=threads)
    fits = fit_combs(histograms, shared[asic], min_spacing=min_spacing, threads=threads)
    _tell(fits.status, shared)
    attributes = attributes | {"module": module, "orientation": "lab", "cell": cell, "frames": n_frames}
    with new_h5(output, attributes | {"min_spacing": min_spacing}) as file:
        _write(file, histograms, fits, shared)


def read_histograms(path, *, threads=1, series_bytes=SERIES_BYTES):
    """Read a gathered X-ray file, that was checked, band by band; give the histograms of all its pixels.

    Parameters
    ----------
    path : str or Path
    threads : int
        Each takes other pixels.
    series_bytes : int
        Memory for series of pixels [bytes]. If those of 8 rows do not fit, it is done in parts.

    Returns
    -------
    Histograms
        Of 65536 pixels, (row, column) in C order; 300 MB.
    """
    with _open(path) as source:
        histograms = _empty(PIXELS, source.n_frames)
        advance = progress(PIXELS, "pixels")
        of_thread = threading.local()

        def work(piece):
            rows, columns = piece
            pixels = (rows.stop - rows.start) * (columns.stop - columns.start)
            of_thread.memory = grown(getattr(of_thread, "memory", None), pixels * source.n_frames * 2)
            series = of_thread.memory[: pixels * source.n_frames * 2].view(np.int16).reshape(pixels, source.n_frames)
            _read_series(source, rows, columns, series)
            first = rows.start * LAB_SHAPE[1] + columns.start
            _fill(series, *(held[first : first + pixels] for held in _per_pixel(histograms)), histograms.frame)
            advance(pixels)

        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, list(_pieces(source.n_frames, series_bytes // threads))):
                pass
    return histograms


def series_histograms(series):
    """Histograms of series in memory.

    Parameters
    ----------
    series : ndarray of int16, (pixels, frames)
        [ADU].

    Returns
    -------
    Histograms
    """
    histograms = _empty(*series.shape)
    _fill(np.ascontiguousarray(series), *_per_pixel(histograms), histograms.frame)
    return histograms


def shared_fractions(histograms, group, sample, *, min_spacing=MIN_SPACING, threads=1):
    """Share of the photons whose charge is divided, common to the pixels of each group.

    Where the common likelihood of the sampled pixels of a group is largest, by Fisher scoring; at each step all their
    other parameters are fitted again. Pixels that disagree grossly are left out.

    Parameters
    ----------
    histograms : Histograms
    group : ndarray of int, (pixels,)
        0, 1, ...
    sample : ndarray of int
        Pixels to use.
    min_spacing : float
        [ADU].
    threads : int

    Returns
    -------
    ndarray of float64, (groups,)
        Groups with fewer than 20 usable pixels take the median of the others (if all are such, the
        value of all pixels together); 0 if nothing is known.
    """
    n_groups = int(group.max()) + 1
    shared = np.full(n_groups, FIRST_SHARED)
    some = histograms._replace(**{name: getattr(histograms, name)[sample] for name in ("counts", "sigma", "status")})
    group = group[sample]
    for _ in range(SHARED_STEPS):
        fits = fit_combs(some, shared[group], min_spacing=min_spacing, threads=threads)
        scores = np.zeros((len(sample), 2))
        comb_scores(some.counts, fits.status, fits.values, scores)
        before = shared
        shared = _stepped(before, group, scores)
        if np.abs(shared - before).max() < SHARED_TOLERANCE:
            break
    return shared


def fit_combs(histograms, shared, *, min_spacing=MIN_SPACING, threads=1):
    """Fit the combs of all pixels.

    Parameters
    ----------
    histograms : Histograms
    shared : ndarray of float64, (pixels,)
        Share of the photons with divided charge.
    min_spacing : float
        [ADU].
    threads : int

    Returns
    -------
    Fits
    """
    n = len(histograms.counts)
    fits = Fits(histograms.status.copy(), np.full((n, comb.N_RESULTS), np.nan))

    def work(first):
        some = slice(first, first + SHARE_PIXELS)
        _fit(
            histograms.counts[some],
            histograms.sigma[some],
            shared[some],
            min_spacing,
            fits.status[some],
            fits.values[some],
        )

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(work, range(0, n, SHARE_PIXELS)):
            pass
    return fits


def asic_of_pixel():
    """Number of the ASIC, 8 * (row of ASICs) + column, of each of the 65536 pixels in laboratory orientation."""
    row, column = np.indices(LAB_SHAPE) // ASIC_PIXELS
    return (row * (LAB_SHAPE[1] // ASIC_PIXELS) + column).reshape(-1)


def asic_sample(asic):
    """Every sixteenth pixel of each ASIC."""
    return np.arange(SHARED_FIRST, len(asic), SHARED_STRIDE)


@njit(cache=True, nogil=True, error_model="numpy")
def turn(frames, series, first):
    """Copy frames (n, pixels) to series (pixels, frames), from frame `first` on."""
    n, pixels = frames.shape
    for begin in range(0, pixels, TILE):
        end = min(begin + TILE, pixels)
        for block in range(0, n, TILE // 4):
            for f in range(U64(block), U64(min(block + TILE // 4, n))):
                for p in range(U64(begin), U64(end)):
                    series[p, U64(first) + f] = frames[f, p]


@njit(cache=True, nogil=True, error_model="numpy")
def comb_scores(counts, status, values, scores):
    """Slope and information along the shared fraction of each fitted pixel, (pixels, 2); the rest is left as it is."""
    rows = np.empty((comb.N_ROWS, comb.BINS), np.float32)
    for p in range(len(counts)):
        if status[p] == comb.FITTED:
            scores[p] = comb.shared_score(counts[p], values[p, comb.FIRST_PARAMETER :], rows)


@njit(cache=True, nogil=True, error_model="numpy")
def _fill(series, counts, sigma, status, thinned, drift, frame):
    n_blocks = comb.track_blocks(series.shape[1])
    track, centre = np.empty(n_blocks, np.float32), np.empty(n_blocks, np.float32)
    coarse, index = np.zeros(comb.COARSE_BINS, np.int32), np.empty(comb.BLOCK * 4, np.int16)
    quarters = np.empty((4, comb.BINS), np.uint32)
    for p in range(len(series)):
        status[p], sigma[p] = comb.fill_histogram(series[p], counts[p], track, centre, coarse, index, quarters)
        for i in range(frame.size):
            thinned[p, i] = series[p, frame[i]]
        drift[p] = np.nan
        if status[p] == comb.FITTED:
            comb.pedestals(frame, track, centre, drift[p])
            drift[p] += np.float32(series[p, 1])


@njit(cache=True, nogil=True, error_model="numpy")
def _fit(counts, sigma, shared, min_spacing, status, values):
    smooth, rows = np.empty(comb.BINS, np.int64), np.empty((comb.N_ROWS, comb.BINS), np.float32)
    for p in range(len(counts)):
        if status[p] == comb.FITTED:
            status[p] = comb.fit_comb(counts[p], sigma[p], shared[p], min_spacing, smooth, rows, values[p])


def _empty(n_pixels, n_frames):
    frame = np.unique(np.linspace(1, n_frames - 1, THINNED).astype(np.int64))
    return Histograms(
        np.zeros((n_pixels, comb.BINS), np.uint32),
        np.zeros(n_pixels),
        np.zeros(n_pixels, np.uint8),
        frame,
        np.zeros((n_pixels, len(frame)), np.int16),
        np.full((n_pixels, len(frame)), np.nan, np.float32),
    )


def _per_pixel(histograms):
    return [histograms.counts, histograms.sigma, histograms.status, histograms.series, histograms.drift]


@contextlib.contextmanager
def _open(path):
    """Open the file, and look up where its chunks are."""
    with h5py.File(path) as file, Path(path).open("rb", buffering=0) as plain:
        analog = file["analog"]
        places, frames = {}, READ_FRAMES
        as_is = analog.chunks is not None and not analog.id.get_create_plist().get_nfilters()
        if as_is and analog.chunks[1:] == (BAND_ROWS, LAB_SHAPE[1]):
            analog.id.chunk_iter(lambda chunk: places.__setitem__(chunk.chunk_offset[:2], chunk.byte_offset))
            frames = analog.chunks[0]
        yield _Source(str(path), analog, len(analog), plain.fileno(), places, frames)


def _pieces(n_frames, series_bytes):
    """Rectangles of pixels, (rows, columns), of which the series fit: whole bands if possible."""
    n_rows, n_columns = LAB_SHAPE
    pixels = max(series_bytes // (2 * n_frames), 1)
    rows = min(max(pixels // n_columns, 1), BAND_ROWS)
    columns = min(pixels, n_columns)
    for band in range(0, n_rows, BAND_ROWS):
        for row in range(band, band + BAND_ROWS, rows):
            for column in range(0, n_columns, columns):
                last_row, last_column = min(row + rows, band + BAND_ROWS), min(column + columns, n_columns)
                yield slice(row, last_row), slice(column, last_column)


def _read_series(source, rows, columns, series):
    """Read all frames of a rectangle of pixels within a band."""
    band = rows.start - rows.start % BAND_ROWS
    block = np.empty((source.block_frames, BAND_ROWS, LAB_SHAPE[1]), np.int16)
    for first in range(0, source.n_frames, source.block_frames):
        n = min(source.block_frames, source.n_frames - first)
        if (first, band) in source.places:
            # The last chunk of the file is stored whole, too.
            read_fully(source.descriptor, block[:n], source.places[first, band], source.path)
        else:
            source.analog.read_direct(block, np.s_[first : first + n, band : band + BAND_ROWS], np.s_[:n])
        part = block[:n, rows.start - band : rows.stop - band, columns]
        turn(np.ascontiguousarray(part).reshape(n, -1), series, first)


def _stepped(shared, group, scores):
    """Shares after one step of Fisher scoring."""
    known = scores[:, 1] > 0
    after = np.full_like(shared, np.nan)
    for number in range(len(shared)):
        own = known & (group == number)
        if np.count_nonzero(own) >= FEWEST_SHARED:
            after[number] = _common(shared[group[own]], scores[own])
    few = np.isnan(after)
    after[few] = _common(shared[group[known]], scores[known]) if few.all() else np.median(after[~few])
    return after


def _common(shared, scores):
    """Mean of what each pixel would have, weighted by its information, without outliers."""
    if not len(scores):
        return 0.0
    slope, information = scores.T
    own = shared + slope / information
    pull = np.abs(own - np.median(own)) * np.sqrt(information)
    near = pull <= OUTLIER_SIGMAS * max(1.0, 1.4826 * np.median(pull))
    # A share is not below 0. A model with a negative one could be negative itself.
    return float(np.clip(np.average(own[near], weights=information[near]), 0, LARGEST_SHARED))


def _tell(status, shared):
    counts = np.bincount(status, minlength=len(CODES))
    for code, text in CODES.items():
        if code and counts[code]:
            log.info("%d pixels (%.2f %%) without a spacing: %s", counts[code], 100 * counts[code] / len(status), text)
    log.info("divided charge: %.1f %% to %.1f %% of the photons per ASIC", 100 * shared.min(), 100 * shared.max())


def _write(file, histograms, fits, shared):
    good = fits.status == comb.FITTED
    columns = {
        "photonSpacing": (comb.SPACING, "ADU", "signal of one photon"),
        "quality": (comb.QUALITY, "frames/ADU", "lower of the peaks of no and one photon less the valley between them"),
        "spacingError": (comb.ERROR, "ADU", "standard error of photonSpacing"),
    }
    for name, (column, units, description) in columns.items():
        values = np.where(good, fits.values[:, column], np.nan).astype(np.float32)
        write_array(file, name, values.reshape(LAB_SHAPE), units, description)
    status = write_array(file, "fitStatus", fits.status.reshape(LAB_SHAPE), None, "0 = fitted, else see codes")
    status.attrs["codes"] = json.dumps(CODES)
    asics = np.array(LAB_SHAPE) // ASIC_PIXELS
    write_array(file, "sharedFraction", shared.astype(np.float32).reshape(asics), "1", "photons with divided charge")
    _write_samples(file.create_group("samples"), histograms, fits)


def _write_samples(group, histograms, fits):
    chosen = sample_pixels(fits.status)
    write_array(group, "row", (chosen // LAB_SHAPE[1]).astype(np.uint16))
    write_array(group, "column", (chosen % LAB_SHAPE[1]).astype(np.uint16))
    write_array(group, "edges", bin_edges(), "ADU", "above the pedestal")
    write_array(group, "histogram", histograms.counts[chosen], "frames")
    write_array(group, "model", np.array([model_counts(fits.values[p]) for p in chosen], np.float32), "frames")
    write_array(group, "frame", histograms.frame)
    write_array(group, "series", histograms.series[chosen], "ADU", "every so many frames")
    write_array(group, "drift", histograms.drift[chosen], "ADU", "pedestal in these frames")


def sample_pixels(status):
    """Pixels for the figures: one that is fitted from every second ASIC, from its middle on, and some failed ones."""
    asic = asic_of_pixel()
    chosen = []
    for number in range(asic.max() + 1):
        row, column = divmod(number, LAB_SHAPE[1] // ASIC_PIXELS)
        if (row + column) % 2:
            continue
        own = np.flatnonzero((asic == number) & (status == comb.FITTED))
        chosen.extend(own[len(own) // 2 :][:1])
    failed = np.flatnonzero(status != comb.FITTED)
    chosen.extend(failed[:: max(len(failed) // FAILED_SAMPLES, 1)][:FAILED_SAMPLES])
    return np.array(chosen, np.int64)


def bin_edges():
    """Edges of the bins of the histograms, (BINS + 1,) [ADU above the pedestal]."""
    return (np.arange(comb.BINS + 1) - comb.ZERO_BIN - 0.5) * comb.BIN


def model_counts(values):
    """Fitted number of frames per bin, (BINS,), from one row of :attr:`Fits.values`; NaN without a fit."""
    parameters = values[comb.FIRST_PARAMETER :]
    if not np.isfinite(parameters).all():
        return np.full(comb.BINS, np.nan)
    rows = np.zeros((comb.N_ROWS, comb.BINS), np.float32)
    comb.model_rows(parameters, 0, comb.BINS, False, rows)
    return rows[comb.N_PARAMETERS].copy()
