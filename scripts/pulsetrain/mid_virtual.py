"""Virtual datasets of some rows of many files, in few pieces."""

from itertools import groupby
from operator import attrgetter

import h5py
import numpy as np
import pandas as pd

from pulsetrain.integrity import cut_segments
from pulsetrain.layout import SEGMENT_COLUMNS

STRIPE_COLUMNS = ("piece", "file", "row", "row_stride", "frame", "frame_stride", "count", "block")
MOST_PIECES = 10_000  # of a virtual dataset: HDF5 needs up to 80 kB for each, to write it and to read it


def find_pieces(rows_of, modules, period=1):
    """Describe where the frames of each module come from, in no more pieces than HDF5 has memory for.

    Each stripe is a piece, which is fast to read. Where these are too many (irregular pulses and lost trains), all
    that is taken from a file is one piece: then reading blocks of frames is slow, reading single frames is not.

    Parameters
    ----------
    rows_of : callable
        Gives source file and row in it of each frame of a module, ndarray of int (F,) each. It is asked again where
        they are needed again: those of all modules are much memory in long runs.
    modules : list
    period : int
        See :func:`find_stripes`.

    Returns
    -------
    list of pandas.DataFrame
        Of each module: columns STRIPE_COLUMNS, rows of a piece one after the other.
    """

    def describe(find, module):
        file, row = rows_of(module)
        return find(file, row, np.arange(len(file)), period)

    pieces = [describe(find_stripes, module) for module in modules]
    if sum(map(len, pieces)) > MOST_PIECES:
        return [describe(unite_stripes, module) for module in modules]
    return pieces


def find_stripes(file, row, frame, period=1):
    """Describe where frames come from by regular stripes: `count` blocks of `block` rows, `row_stride` rows apart.

    One pulse of each of 250 trains of a file is one stripe, not 250; so are several of each, if they are evenly spaced
    throughout.

    Parameters
    ----------
    file, row, frame : ndarray of int, (F,)
        Source file, row in it, and place in the virtual dataset; `frame` ascending.
    period : int
        Frames per train, if that is a fixed number: so many stripes lie inside each other, where fewer are found so.

    Returns
    -------
    pandas.DataFrame
        Columns STRIPE_COLUMNS: frame ``frame + i * frame_stride + j`` is row ``row + i * row_stride + j`` of the
        file, for i < count, j < block. Together the stripes hold each frame exactly once.
    """
    segments = cut_segments(0, file, row, frame)[list(SEGMENT_COLUMNS)[1:]].astype(np.int64)
    return min((_join(segments, length) for length in sorted({1, period})), key=len)


def unite_stripes(file, row, frame, period=1):
    """Describe where frames come from by one piece per file, of as many stripes as it needs.

    HDF5 pairs frames and rows of a piece in ascending order, so that rows out of order begin another piece.

    Parameters and columns are those of :func:`find_stripes`.
    """
    begins = np.flatnonzero((np.diff(file) != 0) | (np.diff(row) <= 0)) + 1
    first = np.concatenate([[0], begins])[: len(file)]
    ascending = np.repeat(np.arange(len(first)), np.diff(np.append(first, len(file))))
    stripes = find_stripes(ascending, row, frame, period)
    return stripes.assign(piece=stripes["file"], file=file[first][stripes["file"]])


def _join(segments, period):
    """Join the segments of each file that have the same place in their period to stripes."""
    stripes = []
    phase = segments["frame_start"] % period
    for (number, _, block), held in segments.groupby(["file", phase, "count"], sort=True):
        rows, frames = held["source_start"].to_numpy(), held["frame_start"].to_numpy()
        step = np.stack([np.diff(rows), np.diff(frames)])
        # A selection in HDF5 runs upwards: rows out of order end a stripe.
        changes = np.flatnonzero(np.any(step[:, 1:] != step[:, :-1], axis=0)) + 1
        first = 0
        while first < len(rows):
            last = first
            if first + 1 < len(rows) and step[0, first] >= block:
                place = np.searchsorted(changes, first, side="right")
                last = int(changes[place]) if place < len(changes) else len(rows) - 1
            strides = step[:, first].tolist() if last > first else [block, block]
            stripe = (number, rows[first], strides[0], frames[first], strides[1], last - first + 1, block)
            stripes.append((len(stripes), *stripe))
            first = last + 1
    return pd.DataFrame(stripes, columns=list(STRIPE_COLUMNS))


def create_virtual(group, name, shape, dtype, fill):
    """Begin a virtual dataset; see :func:`add_stripes` and :func:`finish_virtual`."""
    creation = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    creation.set_fill_value(np.array(fill, dtype))
    return group, name, tuple(shape), np.dtype(dtype), creation


def add_stripes(virtual, stripes, files, place=(), source_place=()):
    """Map stripes into a virtual dataset.

    Parameters
    ----------
    virtual : tuple
        From :func:`create_virtual`; its first axis is that of the frames.
    stripes : pandas.DataFrame
        Rows of a piece one after the other.
    files : list of (str, str, int)
        Name as seen from the virtual file, dataset, and rows, of each source file.
    place : tuple of int
        Fixed indices after the first axis of the virtual dataset, such as the module.
    source_place : tuple of (int, int)
        The same in the sources, each with the length of the axis: ((0, 2),) is the first plane of (rows, 2, ...).
    """
    _, _, shape, _, creation = virtual
    tail = shape[1 + len(place) :]
    shown = h5py.h5s.create_simple(shape)
    start = tuple(index for index, _ in source_place)
    for _, piece in groupby(stripes.itertuples(), attrgetter("piece")):
        piece = list(piece)
        name, dataset, n_rows = files[piece[0].file]
        held = h5py.h5s.create_simple((n_rows, *(length for _, length in source_place), *tail))
        _select(held, [(each.row, each.row_stride, each.count, each.block) for each in piece], start, tail)
        frames = [(each.frame, each.frame_stride, each.count, each.block) for each in piece]
        _select(shown, _join_whole(frames), place, tail)
        creation.set_virtual(shown, name.encode(), dataset.encode(), held)


def _join_whole(stripes):
    """One stripe in place of several that leave no gap: HDF5 takes long to add up many."""
    first = min(first for first, *_ in stripes)
    end = max(first + (count - 1) * stride + block for first, stride, count, block in stripes)
    n_rows = sum(count * block for *_, count, block in stripes)
    return [(first, n_rows, 1, n_rows)] if end - first == n_rows else stripes


def _select(space, stripes, place, tail):
    """Select stripes (first, stride, count, block) of the first axis, at `place`, with all of the axes of `tail`."""
    ones = (1,) * (len(place) + len(tail))
    operation = h5py.h5s.SELECT_SET
    for first, stride, count, block in stripes:
        start = (int(first), *place, *(0,) * len(tail))
        size = (int(block), *(1,) * len(place), *tail)
        # Along axes that are taken whole the stride has to be as long as the block.
        space.select_hyperslab(start, (int(count), *ones), (int(stride), *size[1:]), size, operation)
        operation = h5py.h5s.SELECT_OR


def finish_virtual(virtual):
    """Create the dataset in its file; without any frame it is an empty one, since HDF5 wants sources."""
    group, name, shape, dtype, creation = virtual
    if shape[0] == 0:
        chunks = (1,) * (len(shape) - 2) + shape[-2:]
        return group.create_dataset(name, shape, dtype, chunks=chunks, maxshape=(None, *shape[1:]))
    space = h5py.h5s.create_simple(shape)
    h5py.h5d.create(group.id, name.encode(), h5py.h5t.py_create(dtype, logical=True), space, creation)
    return group[name]
