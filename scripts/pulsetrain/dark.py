"""Mean and standard deviation of dark frames per memory cell and pixel, in one pass, with exact integer sums.

All sums are integers, so that the result does not depend on the order of adding: the same for any number of threads
and any block size, and exact for any 16-bit values and any number of bursts.
"""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import h5py
import numpy as np
from numba import int16 as I16
from numba import int32 as I32
from numba import int64 as I64
from numba import njit
from numba import uint32 as U32

from pulsetrain.chunks import grown
from pulsetrain.detector import LAB_SHAPE, PIXELS
from pulsetrain.gathered import check_gathered, read_fully
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress

FEWEST_BURSTS = 2
GROUP_CELLS = 8  # memory cells read in one go: 1 MB, large enough to run at full speed
BLOCK_BURSTS = 16  # bursts of a group in memory at once: with 8 cells 16 MB, about the processor's cache
MOST_BLOCK_BURSTS = 65_536  # so many squares fit into 32-bit sums, see `add_block`
TILE = 1024  # pixels whose sums stay in the innermost cache


class DarkLevels(NamedTuple):
    """Dark level of one module.

    Attributes
    ----------
    offset, deviation : ndarray of float32, (cells, 128, 512)
        Mean and standard deviation over the bursts [ADU]; NaN for memory cells without data.
    """

    offset: np.ndarray
    deviation: np.ndarray


class _Source(NamedTuple):
    """The dataset analog: where its bytes begin in the file, or -1 if HDF5 has to be asked."""

    path: str
    shape: tuple
    begin: int


def process_dark(gathered, output, attributes, *, module, threads):
    """Write the dark level of one module: ``processed/m{module}_dark.h5``.

    Parameters
    ----------
    gathered : str or Path
        ``gathered/m{module}_dark.h5``: analog int16 (bursts, cells, 128, 512) [ADU], cellPresent bool (cells,).
    output : str or Path
        darkOffset and darkStandardDeviation float32 (cells, 128, 512) [ADU], NaN for absent memory cells.
    attributes : dict
        Provenance.
    module : int
    threads : int

    Raises
    ------
    ValueError
        The file is damaged, of another module or kind, has another shape or type, or fewer than 2 bursts.
    """
    n_bursts = check_gathered(gathered, "dark", module, FEWEST_BURSTS, ("bursts", "cells"))[0]
    levels = dark_levels(gathered, threads=threads)
    attributes = attributes | {"module": module, "orientation": "lab", "bursts": n_bursts}
    with new_h5(output, attributes) as file:
        write_array(file, "darkOffset", levels.offset, "ADU", "mean of the dark frames")
        write_array(
            file,
            "darkStandardDeviation",
            levels.deviation,
            "ADU",
            "standard deviation of the dark frames over the bursts (divided by their number)",
        )


def dark_levels(path, *, threads=1, group_cells=GROUP_CELLS, block_bursts=BLOCK_BURSTS):
    """Mean and standard deviation of a gathered dark file that was checked.

    Memory: threads * group_cells * (block_bursts * 128 kB + 1.6 MB), and the result.

    Parameters
    ----------
    path : str or Path
    threads : int
        Each takes other memory cells.
    group_cells : int
        Memory cells that are read together.
    block_bursts : int
        Bursts of them that are in memory at once, at most 65536.

    Returns
    -------
    DarkLevels
    """
    if not 1 <= block_bursts <= MOST_BLOCK_BURSTS:
        raise ValueError(f"block_bursts is {block_bursts}; the 32-bit sums allow 1 to {MOST_BLOCK_BURSTS}")
    source, present = _open(path)
    n_bursts, n_cells = source.shape[:2]
    levels = DarkLevels(*(np.full((n_cells, *LAB_SHAPE), np.nan, np.float32) for _ in range(2)))
    advance = progress(int(present.sum()), "memory cells")
    of_thread = threading.local()
    opened = os.open(path, os.O_RDONLY)

    def work(cells):
        of_thread.buffer = grown(getattr(of_thread, "buffer", None), block_bursts * group_cells * PIXELS * 2)
        sums = _sum_cells(source, opened, cells, of_thread.buffer, block_bursts)
        mean_and_deviation(n_bursts, *sums, levels.offset[cells].reshape(-1), levels.deviation[cells].reshape(-1))
        advance(cells.stop - cells.start)

    try:
        with ThreadPoolExecutor(threads) as pool:
            for _ in pool.map(work, list(_groups(present, group_cells))):
                pass
    finally:
        os.close(opened)
    return levels


@njit(cache=True, nogil=True)
def add_block(values, n_bursts, stride, total, squares):
    """Add the values of some bursts, and their squares, to the sums of each pixel.

    Within the block the sums are 32 bits wide, which doubles the speed. They cannot overflow with up to 65536 bursts of
    any 16-bit values: the sum of the values is within -2**15 * 2**16 and (2**15 - 1) * 2**16; a square is at most 2**30
    and is added in two parts, its lower 16 bits (at most (2**16 - 1) * 2**16) and the rest (at most 2**14 * 2**16).

    Parameters
    ----------
    values : ndarray of int16, (bursts * stride,)
        Pixels of the first burst, then those of the second, ...
    n_bursts : int
    stride : int
        Distance between bursts, at least the number of pixels.
    total, squares : ndarray of int64, (pixels,)
        Sums, added to. 2**33 bursts would fit.
    """
    s = np.empty(TILE, np.int32)
    low = np.empty(TILE, np.uint32)
    high = np.empty(TILE, np.uint32)
    for first in range(0, total.size, TILE):
        n = min(TILE, total.size - first)
        s[:n] = 0
        low[:n] = 0
        high[:n] = 0
        for burst in range(n_bursts):
            tile = values[burst * stride + first : burst * stride + first + n]
            for i in range(n):
                v = I32(I16(tile[i]))
                q = U32(I32(v * v))
                s[i] = I32(s[i] + v)
                low[i] = U32(low[i] + (q & U32(0xFFFF)))
                high[i] = U32(high[i] + (q >> U32(16)))
        for i in range(n):
            total[first + i] += I64(s[i])
            squares[first + i] += (I64(high[i]) << I64(16)) + I64(low[i])


@njit(cache=True, nogil=True)
def mean_and_deviation(n, total, squares, mean, deviation):
    """Turn sums into mean and standard deviation.

    The deviations are taken from the integer r that is nearest to the mean: sum (x - r) and sum (x - r)**2 are exact
    integers again, and what is subtracted from the latter is at most n / 4, so that nothing is lost.

    Parameters
    ----------
    n : int
        Number of values, below 2**31.
    total, squares : ndarray of int64, (pixels,)
        Sum of the values, of 16 bits, and of their squares.
    mean, deviation : ndarray of float32, (pixels,)
        Result; the deviation is that of numpy.std (divided by n).
    """
    for i in range(total.size):
        r = I64(np.floor(total[i] / n + 0.5))
        rest = total[i] - n * r
        around = squares[i] - 2 * r * total[i] + n * r * r
        mean[i] = r + rest / n
        variance = (around - rest * (rest / n)) / n
        deviation[i] = np.sqrt(max(variance, 0.0))


def _open(path):
    """Where the values are, and which memory cells have data."""
    with h5py.File(path) as file:
        analog = file["analog"]
        begin = analog.id.get_offset() if analog.chunks is None and not analog.external else None
        return _Source(str(path), analog.shape, -1 if begin is None else begin), file["cellPresent"][()]


def _groups(present, group_cells):
    """Slices of at most `group_cells` consecutive memory cells that all have data."""
    cells = np.flatnonzero(present)
    for run in np.split(cells, np.flatnonzero(np.diff(cells) != 1) + 1):
        for first in range(0, len(run), group_cells):
            some = run[first : first + group_cells]
            yield slice(int(some[0]), int(some[-1]) + 1)


def _sum_cells(source, opened, cells, buffer, block_bursts):
    """Exact sums of the values and squares of some memory cells: int64 (cells * pixels,) each."""
    pixels = (cells.stop - cells.start) * PIXELS
    total, squares = np.zeros(pixels, np.int64), np.zeros(pixels, np.int64)
    values = buffer[: block_bursts * pixels * 2].view(np.int16)
    for first in range(0, source.shape[0], block_bursts):
        n = min(block_bursts, source.shape[0] - first)
        _read_bursts(source, opened, slice(first, first + n), cells, values[: n * pixels])
        add_block(values, n, pixels, total, squares)
    return total, squares


def _read_bursts(source, opened, bursts, cells, values):
    """Read some bursts of some memory cells."""
    n_cells = source.shape[1]
    held = values.reshape(bursts.stop - bursts.start, -1)
    if source.begin < 0:
        with h5py.File(source.path) as file:
            file["analog"].read_direct(held.reshape(len(held), -1, *LAB_SHAPE), np.s_[bursts, cells])
    elif cells.stop - cells.start == n_cells:
        read_fully(opened, values, source.begin + bursts.start * n_cells * PIXELS * 2, source.path)
    else:
        for row, burst in zip(held, range(bursts.start, bursts.stop), strict=True):
            read_fully(opened, row, source.begin + (burst * n_cells + cells.start) * PIXELS * 2, source.path)
