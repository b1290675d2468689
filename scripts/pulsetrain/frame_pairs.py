"""Pairs of an analog and a digital image, wherever they are stored, brought to laboratory orientation.

One table of places serves both layouts of calibration data: the laboratory's ``.nxs`` parts, where the two images of a
pair are two frames that follow each other, and European XFEL runs, where they are one row.
"""

import os
from typing import NamedTuple

import numpy as np
from numba import njit

from pulsetrain.chunks import read_rows
from pulsetrain.detector import ASIC_PIXELS, LAB_SHAPE, MODULE_SHAPE, PIXELS

PAIR_PIXELS = 2 * PIXELS
PAIR_BYTES = 2 * PAIR_PIXELS
LARGEST = 32767  # of int16; the converter has 14 bits
LITTLE_ENDIAN_16 = (np.dtype("<u2"), np.dtype("<i2"))


class PairTable(NamedTuple):
    """Where the image pairs of one module lie.

    Attributes
    ----------
    paths : list of Path
    datasets : list of str
        One for each path.
    file, row : ndarray of int32 and int64, (n, C, u)
        Of burst (scan point, frame) and memory cell: which path, and the row of its dataset. u = 2: the rows of the
        analog and of the digital image; u = 1: one row has both. `file` is -1 where there is no such pair.
    """

    paths: list
    datasets: list
    file: np.ndarray
    row: np.ndarray


class PixelOrder(NamedTuple):
    """Where a stored image has pixel (row, column) of laboratory orientation: first + row * down + column * right."""

    first: int
    down: int
    right: int


def nexus_order():
    """Pixel order of the laboratory's files."""
    return PixelOrder(0, LAB_SHAPE[1], 1)


def xfel_order(module):
    """Pixel order of European XFEL files; :func:`pulsetrain.detector.lab_from_xfel` says where it comes from."""
    n_slow, n_fast = MODULE_SHAPE
    return PixelOrder((n_slow - 1) * n_fast, 1, -n_fast) if module < 8 else PixelOrder(n_fast - 1, -1, n_fast)


def read_pairs(storages, file, row, out):
    """Read image pairs.

    Parameters
    ----------
    storages : list of pulsetrain.chunks.Storage
        Of the paths of a :class:`PairTable`.
    file, row : ndarray, (m, u)
        From a :class:`PairTable`.
    out : ndarray of uint16, (m, 2, 65536)
        Filled, pixels as stored. C order.

    Raises
    ------
    OSError
        A file ends early or is damaged.
    """
    file, row = file.reshape(-1), row.reshape(-1)
    out = out.reshape(len(file), -1)
    edges = [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(file)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        storage, rows = storages[file[first]], row[first:last]
        if storage.kind == "plain" and storage.dtype in LITTLE_ENDIAN_16:
            _read_plain(storage, rows, out[first:last])
        else:
            # A signed value stays what it is: the bits of a negative one fail the check of place_pairs.
            out[first:last] = read_rows(storage, rows).reshape(last - first, -1).astype(np.int16).view(np.uint16)


def _read_plain(storage, rows, out):
    """Read uncompressed rows; those that follow each other in the file in one call."""
    chunk, within = np.divmod(rows, storage.rows_per_chunk)
    offset = storage.offset[chunk] + within * storage.frame_bytes
    edges = [0, *(np.flatnonzero(np.diff(offset) != storage.frame_bytes) + 1).tolist(), len(rows)]
    for first, last in zip(edges[:-1], edges[1:], strict=True):
        view = memoryview(out[first:last]).cast("B")
        begin, done = int(offset[first]), 0
        while done < len(view):
            n = os.preadv(storage.descriptor, [view[done:]], begin + done)
            if n == 0:
                raise OSError(
                    f"{storage.path}: the file ends at byte {begin + done}, but {storage.dataset} goes on to byte "
                    f"{begin + len(view)}; it was cut off. Copy it again."
                )
            done += n


@njit(cache=True, nogil=True)
def place_pairs(stored, group, first, down, right, start, step, tile_rows, tile_columns, out):
    """Put image pairs in laboratory orientation, cut in tiles, in their places in a larger array.

    Parameters
    ----------
    stored : ndarray of uint16, (S, m, 2, 65536)
        m pairs (analog, digital), read from each of S sources.
    group : ndarray of int64, (2, 4)
        Which source has the good pixels of rows 0-63 and 64-127, columns k, k + 4, k + 8, ... for k = 0..3.
    first, down, right : int
        A :class:`PixelOrder`.
    start : ndarray of int64, (m, 2)
        Element of `out` at which the first tile of each image begins.
    step : int
        Elements from the beginning of a tile to that of the next one (along a row of tiles, then down).
    tile_rows, tile_columns : int
        Size of a tile; columns a multiple of 64.
    out : ndarray of uint16, flat

    Returns
    -------
    int
        All placed values, combined by "or": above 32767 when one of them is.
    """
    across = LAB_SHAPE[1] // tile_columns
    seen = np.uint16(0)
    # Blocks of 64 x 64 pixels stay in the fastest cache, so that turned images cost little more than others.
    for k in range(stored.shape[1]):
        for image in range(2):
            for half in range(LAB_SHAPE[0] // ASIC_PIXELS):
                for left in range(0, LAB_SHAPE[1], ASIC_PIXELS):
                    for j in range(half * ASIC_PIXELS, (half + 1) * ASIC_PIXELS):
                        tile = (j // tile_rows) * across + left // tile_columns
                        to = start[k, image] + tile * step + (j % tile_rows) * tile_columns + left % tile_columns
                        held = first + j * down + left * right
                        target = out[to : to + ASIC_PIXELS]
                        if stored.shape[0] == 1:
                            seen |= _copy_row(stored[0, k, image], held, right, target)
                            continue
                        a = stored[group[half, 0], k, image]
                        b = stored[group[half, 1], k, image]
                        c = stored[group[half, 2], k, image]
                        d = stored[group[half, 3], k, image]
                        seen |= _merge_row(a, b, c, d, held, right, target)
    return seen


@njit(inline="always")
def _copy_row(stored, first, right, out):
    seen = np.uint16(0)
    if right == 1:
        stored = stored[first : first + ASIC_PIXELS]
        for i in range(ASIC_PIXELS):
            out[i] = stored[i]
            seen |= stored[i]
    else:
        for i in range(ASIC_PIXELS):
            value = stored[np.uintp(first + i * right)]  # signed numbers would be looked at for a negative index
            out[i] = value
            seen |= value
    return seen


@njit(inline="always")
def _merge_row(a, b, c, d, first, right, out):
    """Take the columns 0, 4, 8, ... from a, 1, 5, 9, ... from b, and so on."""
    seen = np.uint16(0)
    if right == 1:
        last = first + ASIC_PIXELS
        a, b, c, d = a[first:last], b[first:last], c[first:last], d[first:last]
        for i in range(0, ASIC_PIXELS, 4):
            out[i], out[i + 1], out[i + 2], out[i + 3] = a[i], b[i + 1], c[i + 2], d[i + 3]
            seen |= a[i] | b[i + 1] | c[i + 2] | d[i + 3]
    else:
        for i in range(0, ASIC_PIXELS, 4):
            held = first + i * right
            w, x = a[np.uintp(held)], b[np.uintp(held + right)]
            y, z = c[np.uintp(held + 2 * right)], d[np.uintp(held + 3 * right)]
            out[i], out[i + 1], out[i + 2], out[i + 3] = w, x, y, z
            seen |= w | x | y | z
    return seen
