"""Sums, sums of squares and counts of the DSSC images of one module, by bin of a scan variable and name of the frame.

All sums are whole numbers, so that block size, order, number of threads and the splitting of runs change nothing. Each
frame is read once. A slot is one bin of one frame name; when the slots are too many for the memory, they are taken in
groups, and a pass reads the frames of its group only.
"""

import contextlib
import logging
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from isal import isal_zlib
from numba import njit
from numba import uint32 as U32
from numba import uint64 as U64

from pulsetrain.chunks import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    check_source,
    open_storages,
    plan_reads,
    read_blocks,
    stored_frames,
    unpack,
)
from pulsetrain.detector import DSSC_SHAPE
from pulsetrain.dssc_selection import TEXT, read_selection
from pulsetrain.layout import read_layout, source_path, source_rows
from pulsetrain.module_index import IMAGE_SHAPES
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

PIXELS = DSSC_SHAPE[0] * DSSC_SHAPE[1]
MOST_SLOTS = 512  # in memory at once: 1 MB each
MOST_FRAMES = 65_536  # of one slot in a block: so many fit into the 32-bit sums, see `add_frames`
TILE = 1024  # pixels whose sums stay in the innermost cache


def bin_module(frames, selection, output, attributes, *, module, threads=1, most_slots=MOST_SLOTS, **block):
    """Write the sums of one module, ``dssc/r...._m.._by-....h5`` (docs/file-formats.md).

    Memory: 1 MB per slot of a group, three blocks of the reader, and some 50 bytes per frame of the run.

    Parameters
    ----------
    frames, selection : str or Path
        The run's frame table, and which of its frames count for what.
    output : str or Path
    attributes : dict
        Provenance.
    module : int
    threads : int
    most_slots : int
        Slots in memory at once.
    **block
        block_bytes, block_frames: most bytes and frames to hold at once. The result does not depend on them, nor on
        `most_slots` and `threads`.

    Raises
    ------
    ValueError
        The selection is not that of the frame table, or the data are damaged.
    """
    layout = read_layout(frames)
    chosen = read_selection(selection)
    if len(chosen.bin) != len(layout.train_id):
        raise ValueError(
            f"{selection} holds {len(chosen.bin)} frames, {frames} {len(layout.train_id)}: these do not fit. "
            "Run snakemake again"
        )
    file, row = source_rows(layout, module)
    n_names = len(chosen.names)
    slot = np.where((chosen.bin >= 0) & (file >= 0), chosen.bin.astype(np.int64) * n_names + chosen.name, -1)
    n_slots = len(chosen.values) * n_names
    counts = np.bincount(slot[slot >= 0], minlength=n_slots)
    n_lacking = int(np.count_nonzero((chosen.bin >= 0) & (file < 0)))
    frame_sum = np.zeros(len(slot), np.uint64)
    advance = progress(int(counts.sum()))
    about = {name: chosen.attributes[name] for name in ("run", "scan", "units")}
    about |= {"module": module, "n_frames_lacking": n_lacking}
    with new_h5(output, attributes | about) as out, ThreadPoolExecutor(threads) as pool:
        out.create_dataset("names", data=chosen.names, dtype=TEXT)
        write_array(out, "scan_variable", chosen.values, chosen.attributes["units"] or None)
        write_array(out, "count", counts.reshape(-1, n_names).astype(np.uint64), description="frames (bin, name)")
        _write_energies(out, chosen, slot, n_names)
        held = [
            _create_sums(out, name, (len(chosen.values), n_names), units)
            for name, units in (("sum", "ADU"), ("sum_squares", "ADU^2"))
        ]
        for first in range(0, n_slots, most_slots):
            last = min(first + most_slots, n_slots)
            members = np.flatnonzero((slot >= first) & (slot < last))
            total, squares, of_frames = sum_slots(
                layout, frames, file, row, members, slot - first, last - first, pool, threads, advance, **block
            )
            frame_sum[members] = of_frames[members]
            filled = np.flatnonzero(counts[first:last])
            places = [(*divmod(first + number, n_names), 0, 0) for number in filled.tolist()]
            _write_sums(held[0], total, filled, places, pool)
            _write_sums(held[1], squares, filled, places, pool)
            del total, squares  # before the next group takes as much
        write_array(out, "frame_sum", frame_sum, "ADU", "all pixels of each frame of the frame table; 0 if not used")
    if n_lacking:
        log.warning("module %d lacks %d of the frames that are used", module, n_lacking)


def sum_slots(
    layout,
    layout_path,
    file,
    row,
    members,
    slot,
    n_slots,
    pool,
    threads,
    advance,
    block_bytes=BLOCK_BYTES,
    block_frames=BLOCK_FRAMES,
):
    """Read some frames of a module and add them up by slot.

    Parameters
    ----------
    layout : RunLayout
    layout_path : str or Path
        File that holds it.
    file, row : ndarray, (N,)
        Where each frame lies, see :func:`pulsetrain.layout.source_rows`.
    members : ndarray of int, (n,)
        Frames to read.
    slot : ndarray of int64, (N,)
        Slot of each frame, 0 to `n_slots` - 1 for the members.
    n_slots : int
    pool : concurrent.futures.Executor
    threads : int
        Threads of the pool; each adds other pixels.
    advance : callable
        Told how many frames were done.
    block_bytes, block_frames : int

    Returns
    -------
    total, squares : ndarray of uint64, (n_slots, 65536)
    frame_sum : ndarray of uint64, (N,)
        Sum of all pixels of each member.
    """
    total, squares = np.zeros((n_slots, PIXELS), np.uint64), np.zeros((n_slots, PIXELS), np.uint64)
    frame_sum = np.zeros(len(file), np.uint64)
    bounds = np.linspace(0, PIXELS // TILE, threads + 1).astype(int) * TILE
    with contextlib.ExitStack() as stack:
        storage_of = stack.enter_context(open_storages())

        def plans():
            for number in np.unique(file[members]).tolist():
                of_file = members[file[members] == number]
                storage = _storage(layout, layout_path, number, storage_of, len(of_file))
                yield from plan_reads(storage, of_file, row[of_file], None, block_bytes, min(block_frames, MOST_FRAMES))

        unpacked = None
        for packed in stack.enter_context(contextlib.closing(read_blocks(plans()))):
            block = unpack(packed, unpacked, pool, single=True)
            if block is not packed:
                unpacked = block.buffer
            order = np.argsort(slot[block.frames], kind="stable")
            slots, begins = np.unique(slot[block.frames[order]], return_index=True)
            begins = np.append(begins, len(order))
            stored = stored_frames(block)
            start = stored.start[order] // stored.values.itemsize

            def add(begin, end, values=stored.values, start=start, begins=begins, slots=slots):
                return add_frames(values, start, begins, slots, begin, end, total, squares)

            for part in pool.map(add, bounds[:-1].tolist(), bounds[1:].tolist()):
                frame_sum[block.frames[order]] += part
            advance(len(block.frames))
    return total, squares, frame_sum


@njit(cache=True, nogil=True)
def add_frames(values, start, begins, slots, begin, end, total, squares):
    """Add some pixels of frames, and their squares, to the sums of the frames' slots.

    Within a slot the sums are 32 bits wide, which doubles the speed. They cannot overflow with up to 65536 frames of
    any 16-bit values: a square is at most (2**16 - 1)**2 and is added in two parts, its lower 16 bits (at most
    2**16 - 1) and the rest (at most 2**16 - 2).

    Parameters
    ----------
    values : ndarray of uint16
    start : ndarray of int64, (n,)
        First value of each frame, the frames of a slot together.
    begins : ndarray of int64, (slots + 1,)
        First frame of each slot.
    slots : ndarray of int64, (slots,)
        Rows of `total` and `squares`.
    begin, end : int
        Pixels to add; multiples of 1024.
    total, squares : ndarray of uint64, (any, 65536)
        Added to.

    Returns
    -------
    ndarray of uint64, (n,)
        Sum of those pixels of each frame.
    """
    frame_sum = np.zeros(start.size, np.uint64)
    s = np.empty(TILE, np.uint32)
    low = np.empty(TILE, np.uint32)
    high = np.empty(TILE, np.uint32)
    for tile in range(begin, end, TILE):
        for k in range(slots.size):
            s[:] = 0
            low[:] = 0
            high[:] = 0
            for j in range(begins[k], begins[k + 1]):
                pixels = values[start[j] + tile : start[j] + tile + TILE]
                of_frame = U32(0)  # at most 1024 * 65535
                for i in range(TILE):
                    v = U32(pixels[i])
                    q = U32(v * v)
                    s[i] = U32(s[i] + v)
                    low[i] = U32(low[i] + (q & U32(0xFFFF)))
                    high[i] = U32(high[i] + (q >> U32(16)))
                    of_frame = U32(of_frame + v)
                frame_sum[j] += U64(of_frame)
            row = slots[k]
            for i in range(TILE):
                total[row, tile + i] += U64(s[i])
                squares[row, tile + i] += (U64(high[i]) << U64(16)) + U64(low[i])
    return frame_sum


def _storage(layout, layout_path, number, storage_of, n_wanted):
    """Storage of the image data of source file `number` of the layout, checked against the frame table."""
    path = source_path(layout_path, layout.files["name"][number])
    check_source(path, int(layout.files["size"][number]))
    storage = storage_of(path, f"INSTRUMENT/{layout.files['source'][number]}/image/data", n_wanted=n_wanted)
    if storage.shape != IMAGE_SHAPES["DSSC"]["raw"] or storage.dtype != np.uint16:
        raise ValueError(
            f"{path}: {storage.dataset} holds {storage.dtype} frames of {storage.shape}; expected uint16 of "
            f"{IMAGE_SHAPES['DSSC']['raw']}. The file was changed: run snakemake again."
        )
    return storage


def exact_parts(values):
    """Sum of finite numbers without loss, as few numbers that `math.fsum` adds up to it; largest first.

    One float64 does not hold the exact sum, and rounded sums of several runs would depend on how they were split.

    Parameters
    ----------
    values : ndarray of float64, (n,)

    Returns
    -------
    list of float
        Empty if the sum is 0.
    """
    values, parts = values.tolist(), []
    while rest := math.fsum([*values, *(-part for part in parts)]):
        parts.append(rest)
    return parts


def _write_energies(file, chosen, slot, n_names):
    """Pulse energies of the frames that the module has: exact sum (bin, name, part) and count (bin, name)."""
    known = np.flatnonzero((slot >= 0) & np.isfinite(chosen.energy))
    known = known[np.argsort(slot[known], kind="stable")]
    n_slots = len(chosen.values) * n_names
    count = np.bincount(slot[known], minlength=n_slots)
    parts = [exact_parts(each) for each in np.split(chosen.energy[known], np.cumsum(count)[:-1])][:n_slots]
    sums = np.zeros((n_slots, max(map(len, parts), default=0)))
    for row, held in zip(sums, parts, strict=True):
        row[: len(held)] = held
    units = chosen.attributes["energy_units"] or None
    text = "pulse energies of the frames (bin, name): the parts add up to the exact sum"
    write_array(file, "energy_sum", sums.reshape(len(chosen.values), n_names, sums.shape[1]), units, text)
    text = "frames of known pulse energy (bin, name)"
    write_array(file, "energy_count", count.reshape(-1, n_names).astype(np.uint64), description=text)


def _create_sums(file, name, slots, units):
    shape, chunks = (*slots, *DSSC_SHAPE), (1, 1, *DSSC_SHAPE)
    packed = {"chunks": chunks, "compression": "gzip", "compression_opts": 1, "shuffle": True} if slots[0] else {}
    dataset = file.create_dataset(name, shape, "u8", **packed)
    dataset.attrs["units"] = units
    dataset.attrs["description"] = "over the frames of a (bin, name, slow_scan, fast_scan)"
    return dataset


def _write_sums(dataset, sums, filled, places, pool):
    """Write rows `filled` of `sums` as the chunks at `places`."""
    for place, chunk in zip(places, pool.map(lambda number: _pack(sums[number]), filled), strict=True):
        dataset.id.write_direct_chunk(place, chunk)


def _pack(sums):
    """One chunk as HDF5's filters shuffle and gzip leave it."""
    planes = np.ascontiguousarray(sums.view(np.uint8).reshape(-1, sums.itemsize).T)
    return isal_zlib.compress(planes, 1)
