"""Current-source scan of a module: gain, offset and digital level of every gain stage, memory cell and pixel.

The gathered file is read tile by tile (64 x 64 pixels of a memory cell, all points of the scan), beside the HDF5
library where its chunks are such tiles, while other tiles are fitted.
"""

import collections
import contextlib
import json
import os
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.chunks import grown
from pulsetrain.constants import UNKNOWN_MIDPOINT
from pulsetrain.detector import ASIC_PIXELS, LAB_SHAPE
from pulsetrain.gathered import check_gathered, read_fully
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress
from pulsetrain.scan_axis import MIN_POINTS, check_axis
from pulsetrain.scan_fit import (
    CODES,
    FIT_STD,
    FITTED,
    GAIN,
    GAIN_STAGES,
    LEVEL,
    LEVEL_STD,
    NO_DATA,
    NO_LOW,
    NO_SWITCH,
    OFFSET,
    PADDING,
    RESULTS,
    fit_columns,
    mark_points,
    new_work,
    prepare_scan,
)

TILE_ROWS = TILE_COLUMNS = ASIC_PIXELS
LARGEST_TILE = 256 * 1024**2  # [bytes] of the analog or the digital values of a tile; a longer scan has lower tiles
MOST_BUFFERED = 1024**3  # [bytes] of tiles in memory
READERS = 2
WAITING_CELLS = 2
SAMPLE_ROWS, SAMPLE_COLUMNS = (32, 96), (64, 192, 320, 448)
FAILED_SAMPLES = 4


class ScanFit(NamedTuple):
    """Fits of some pixels; `...` is the shape of the pixels. NaN where unknown.

    Attributes
    ----------
    gain : ndarray of float32, (3, ...)
        [ADU / clock] of high, medium and low gain.
    offset : ndarray of float32, (3, ...)
        Of the lines at time 0 [ADU].
    fit_std : ndarray of float32, (3, ...)
        Standard deviation of the points about their line [ADU].
    level, level_std : ndarray of float32, (3, ...)
        Digital value of each stage, mean and standard deviation [ADU].
    status : ndarray of uint8, (...)
        A key of :data:`pulsetrain.scan_fit.CODES`.
    """

    gain: np.ndarray
    offset: np.ndarray
    fit_std: np.ndarray
    level: np.ndarray
    level_std: np.ndarray
    status: np.ndarray


def fit_scan(analog, digital, integration_time, spike_height, trim):
    """Fit pixels in memory.

    Parameters
    ----------
    analog, digital : ndarray of int16, (n, ...)
        (point of the scan, pixels) [ADU]
    integration_time : array_like, (n,)
        [clocks], increasing.
    spike_height, trim
        As for :func:`process_current_source`.

    Returns
    -------
    ScanFit
    """
    scan = prepare_scan(check_axis(integration_time, "fit_scan"), spike_height, trim)
    shape = analog.shape[1:]
    columns = [np.ascontiguousarray(values).reshape(len(scan.time), -1) for values in (analog, digital)]
    results = np.empty((RESULTS, columns[0].shape[1]), np.float32)
    status = np.empty(columns[0].shape[1], np.uint8)
    fit_columns(*columns, scan, 0, len(status), results, status)
    return _as_fit(results.reshape(RESULTS, *shape), status.reshape(shape))


def digital_thresholds(level):
    """Thresholds between the gain stages: half way between the digital levels.

    Parameters
    ----------
    level : ndarray of float32, (3, ...)
        [ADU]

    Returns
    -------
    ndarray of uint16, (2, ...)
        [ADU]; 65535 where a level is not known.
    """
    middle = (level[1:].astype(np.float64) + level[:-1]) / 2
    return np.where(np.isfinite(middle), np.rint(middle), UNKNOWN_MIDPOINT).astype(np.uint16)


def safety_factors(level, level_std):
    """Distance of neighbouring digital levels over the sum of their standard deviations, float32 (2, ...)."""
    return (level[1:] - level[:-1]) / (level_std[1:] + level_std[:-1])


def process_current_source(gathered, analog_gains, digital_means, attributes, *, module, spike_height, trim, threads=1):
    """Fit the current-source scan of one module; write its gains and its digital levels (docs/file-formats.md).

    Parameters
    ----------
    gathered : str or Path
        ``gathered/m{module}_current_source.h5``.
    analog_gains, digital_means : str or Path
        Outputs.
    attributes : dict
        Provenance.
    module : int
    spike_height : int
        [ADU]. An analog value this far from the median of itself and its two neighbours at either side is not used.
    trim : float
        Share of the integration times of a gain stage that is left out at either end, below 0.5.
    threads : int
        That fit; as many as two more wait for the disk. Memory grows by 16 kB per point and tile that is held, to
        1.2 GB with 20000 points and hardly further, as tiles become lower; it does not depend on the number of memory
        cells.

    Raises
    ------
    ValueError
        The gathered file is not whole, or of another kind or module.
    """
    n, n_cells, *_ = check_gathered(gathered, "current_source", module, MIN_POINTS, ("points", "cells"))
    time, present = _read_scan(gathered, n, n_cells)
    scan = prepare_scan(time, spike_height, trim)
    with (
        _open_sources(gathered) as sources,
        new_h5(analog_gains, {**attributes, "module": module, "orientation": "lab"}) as gains,
        new_h5(digital_means, {**attributes, "module": module, "orientation": "lab"}) as means,
    ):
        _create_datasets(gains, means, n_cells)
        nothing = _as_fit(np.full((RESULTS, *LAB_SHAPE), np.nan, np.float32), np.full(LAB_SHAPE, NO_DATA, np.uint8))
        for cell in np.flatnonzero(~present):
            _write_cell(gains, means, cell, nothing)
        cells = np.flatnonzero(present)
        sample_cell = cells[len(cells) // 2] if len(cells) else None
        samples = ()
        advance = progress(len(cells), "memory cells")
        for cell, fit in _fit_cells(sources, cells, scan, threads):
            _write_cell(gains, means, cell, fit)
            if cell == sample_cell:
                samples = choose_samples(fit.status)
            advance(1)
        _write_samples(gains.create_group("samples"), gathered, samples, sample_cell, scan)


def _as_fit(results, status):
    return ScanFit(results[GAIN], results[OFFSET], results[FIT_STD], results[LEVEL], results[LEVEL_STD], status)


def _read_scan(path, n, n_cells):
    """Integration times and which memory cells have data; raise for what check_gathered does not look at."""
    problems = []
    with h5py.File(path) as file:
        digital = file.get("digital")
        if not isinstance(digital, h5py.Dataset):
            problems.append("digital is missing")
        elif digital.shape != file["analog"].shape or digital.dtype != np.dtype("<i2"):
            problems.append(
                f"digital is {digital.dtype.str} {digital.shape}; expected <i2 {file['analog'].shape}, as analog"
            )
        time = file.get("integrationTime")
        if not isinstance(time, h5py.Dataset) or time.shape != (n,):
            problems.append(
                f"integrationTime is {'missing' if time is None else time.shape}; expected ({n},), one for each point"
            )
        else:
            try:
                time = check_axis(time[()], "integrationTime")
            except ValueError as error:
                problems.append(str(error))
        present = file["cellPresent"][()]
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}. Gather the current-source data of this module again.")
    return time, present


class TileSource(NamedTuple):
    """One dataset of a gathered file, ready to be read tile by tile.

    Attributes
    ----------
    path : str or Path
    dataset : h5py.Dataset
        int16 (n, cells, 128, 512)
    descriptor : int
        The same file, for preadv.
    offset : ndarray of int64, (chunks, cells, 2, 8), or None
        Place in the file of each chunk of some points of one tile, -1 if it is not stored; None: HDF5 has to read.
    rows : int
        Rows of pixels in a tile; TILE_COLUMNS columns.
    """

    path: object
    dataset: h5py.Dataset
    descriptor: int
    offset: np.ndarray | None
    rows: int

    @property
    def buffer_points(self):
        """Points that the buffer of a tile has room for: chunks are read whole."""
        n = len(self.dataset)
        return n if self.offset is None else len(self.offset) * self.dataset.chunks[0]


class Tile(NamedTuple):
    """Some pixels of one memory cell."""

    cell: int
    row: int
    column: int


@contextlib.contextmanager
def _open_sources(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with h5py.File(path) as file:
            n = len(file["analog"])
            rows = TILE_ROWS
            while rows > 1 and n * rows * TILE_COLUMNS * 2 > LARGEST_TILE:
                rows //= 2
            datasets = (file["analog"], file["digital"])
            yield [
                TileSource(path, dataset, descriptor, _chunk_table(dataset) if rows == TILE_ROWS else None, rows)
                for dataset in datasets
            ]
    finally:
        os.close(descriptor)


def _chunk_table(dataset):
    """Place of each chunk in the file, or None if the chunks are not plain tiles."""
    creation = dataset.id.get_create_plist()
    if creation.get_layout() != h5py.h5d.CHUNKED or creation.get_nfilters() or dataset.file.userblock_size:
        return None
    if dataset.chunks[1:] != (1, TILE_ROWS, TILE_COLUMNS):
        return None
    counts = [-(-length // chunk) for length, chunk in zip(dataset.shape, dataset.chunks, strict=True)]
    offset = np.full(counts, -1, np.int64)

    def note(chunk):
        place = tuple(first // length for first, length in zip(chunk.chunk_offset, dataset.chunks, strict=True))
        offset[place] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return offset


def _read_tile(source, tile, buffer):
    """Read all points of a tile into `buffer`, (points, pixels) int16, which may be longer."""
    row, column = tile.row, tile.column
    if source.offset is None:
        rows, columns = slice(row, row + source.rows), slice(column, column + TILE_COLUMNS)
        buffer[...] = source.dataset[:, tile.cell, rows, columns].reshape(buffer.shape)
        return
    chunk_points = source.dataset.chunks[0]
    for k, begin in enumerate(source.offset[:, tile.cell, row // TILE_ROWS, column // TILE_COLUMNS].tolist()):
        points = buffer[k * chunk_points : (k + 1) * chunk_points]
        if begin < 0:
            points[...] = source.dataset.fillvalue
        else:
            read_fully(source.descriptor, points, begin, source.path)


def _fit_cells(sources, cells, scan, threads):
    """Fit memory cells one after the other; give (cell, ScanFit), in order."""
    rows = sources[0].rows
    corners = [(row, column) for row in range(0, LAB_SHAPE[0], rows) for column in range(0, LAB_SHAPE[1], TILE_COLUMNS)]
    free = queue.SimpleQueue()
    waiting = collections.deque()
    # One pair of buffers for each thread that fits and each that reads; few if they are very large.
    pixels = rows * TILE_COLUMNS
    pair_bytes = sum(source.buffer_points * pixels * 2 for source in sources)
    for _ in range(max(2, min(threads + READERS, MOST_BUFFERED // pair_bytes))):
        free.put([_new_buffer(source.buffer_points, pixels) for source in sources])

    def fit(tile, reading, buffers, results, status):
        try:
            reading.result()
            place = np.s_[..., tile.row : tile.row + rows, tile.column : tile.column + TILE_COLUMNS]
            n = len(scan.time)
            tile_results, tile_status = np.empty((RESULTS, pixels), np.float32), np.empty(pixels, np.uint8)
            fit_columns(buffers[0][:n], buffers[1][:n], scan, 0, pixels, tile_results, tile_status)
            results[place] = tile_results.reshape(RESULTS, rows, TILE_COLUMNS)
            status[place] = tile_status.reshape(rows, TILE_COLUMNS)
        finally:
            free.put(buffers)

    def read(tile, buffers):
        for source, buffer in zip(sources, buffers, strict=True):
            _read_tile(source, tile, buffer)

    def finish(cell, fits, results, status):
        for done in fits:
            done.result()
        return cell, _as_fit(results, status)

    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(threads) as fitters:
        for cell in cells.tolist():
            results, status = np.empty((RESULTS, *LAB_SHAPE), np.float32), np.empty(LAB_SHAPE, np.uint8)
            fits = []
            for corner in corners:
                tile = Tile(cell, *corner)
                buffers = free.get()
                reading = readers.submit(read, tile, buffers)
                fits.append(fitters.submit(fit, tile, reading, buffers, results, status))
            waiting.append((cell, fits, results, status))
            while len(waiting) > WAITING_CELLS:
                yield finish(*waiting.popleft())
        while waiting:
            yield finish(*waiting.popleft())


def _new_buffer(points, pixels):
    return grown(None, points * pixels * 2)[: points * pixels * 2].view(np.int16).reshape(points, pixels)


def _create_datasets(gains, means, n_cells):
    stages_first, cells_first = (GAIN_STAGES, n_cells, *LAB_SHAPE), (n_cells, GAIN_STAGES, *LAB_SHAPE)
    between_first, between_last = (GAIN_STAGES - 1, *stages_first[1:]), (n_cells, GAIN_STAGES - 1, *LAB_SHAPE)
    for file, name, shape, dtype, units, description in (
        (gains, "analogGains", stages_first, "f4", "ADU/clock", "slope of the line of each gain stage"),
        (gains, "anlogLineOffsets", stages_first, "f4", "ADU", "the line of each gain stage at time 0"),
        (gains, "analogFitStdDevs", stages_first, "f4", "ADU", "standard deviation of the points about their line"),
        (gains, "fitStatus", stages_first[1:], "u1", "", "0: all three gain stages are fitted; else see codes"),
        (means, "digitalMeans", cells_first, "f4", "ADU", "digital value in each gain stage"),
        (means, "digitalStdDeviations", cells_first, "f4", "ADU", "standard deviation of the digital value"),
        (means, "digitalThresholds", between_first, "u2", "ADU", "half way between the digital means; 65535: unknown"),
        (means, "digitalSpacingsSafetyFactors", between_last, "f4", "", "spacing over the sum of the deviations"),
    ):
        # Not compressed: noise shrinks by a tenth, and would take longer than the fits.
        dataset = file.create_dataset(name, shape, dtype)
        dataset.attrs["units"] = units
        dataset.attrs["description"] = description
    gains["fitStatus"].attrs["codes"] = json.dumps(CODES)


def _write_cell(gains, means, cell, fit):
    factors = safety_factors(fit.level, fit.level_std)
    thresholds = digital_thresholds(fit.level)
    gains["fitStatus"][cell] = fit.status
    for stage in range(GAIN_STAGES):
        gains["analogGains"][stage, cell] = fit.gain[stage]
        gains["anlogLineOffsets"][stage, cell] = fit.offset[stage]
        gains["analogFitStdDevs"][stage, cell] = fit.fit_std[stage]
    means["digitalMeans"][cell] = fit.level
    means["digitalStdDeviations"][cell] = fit.level_std
    means["digitalSpacingsSafetyFactors"][cell] = factors
    for between in range(GAIN_STAGES - 1):
        means["digitalThresholds"][between, cell] = thresholds[between]


def choose_samples(status):
    """Choose pixels to be shown: good ones spread over the module, and failed ones.

    Parameters
    ----------
    status : ndarray of uint8, (128, 512)

    Returns
    -------
    list of (row, column)
        Of good pixels the nearest to each of eight fixed places; of failed ones one of each code, at most four.
    """
    # In a scan that is too short for all three stages, the pixels with most stages are the good ones.
    best = status.min()
    rows, columns = np.nonzero((status == best) & (best in (FITTED, NO_LOW, NO_SWITCH)))
    chosen = []
    for row in SAMPLE_ROWS if len(rows) else ():
        for column in SAMPLE_COLUMNS:
            nearest = np.argmin((rows - row) ** 2 + (columns - column) ** 2)
            chosen.append((int(rows[nearest]), int(columns[nearest])))
    failed = [np.argwhere(status == code)[0] for code in np.unique(status) if code not in (FITTED, best)]
    chosen += [(int(row), int(column)) for row, column in failed[:FAILED_SAMPLES]]
    return list(dict.fromkeys(chosen))


def _write_samples(group, path, pixels, cell, scan):
    """Data of some pixels of one memory cell, and which points their lines use."""
    k, n = len(pixels), len(scan.time)
    analog, digital = np.zeros((k, n), np.int16), np.zeros((k, n), np.int16)
    stage = np.empty((k, n), np.int8)
    work = new_work(n)
    with h5py.File(path) as file:
        for i, (row, column) in enumerate(pixels):
            analog[i] = file["analog"][:, cell, row, column]
            digital[i] = file["digital"][:, cell, row, column]
            mark_points(np.pad(analog[i], (0, PADDING)), np.pad(digital[i], (0, PADDING)), scan, work, stage[i])
    rows, columns = np.array(pixels, np.uint16).reshape(-1, 2).T
    write_array(group, "cell", np.full(k, cell or 0, np.uint16), description="memory cell")
    write_array(group, "row", rows)
    write_array(group, "column", columns)
    write_array(group, "integrationTime", scan.time, "clocks")
    write_array(group, "analog", analog, "ADU")
    write_array(group, "digital", digital, "ADU")
    write_array(group, "stage", stage, description="gain stage of the line that uses the point; -1: none")
