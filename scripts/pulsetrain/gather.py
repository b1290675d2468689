"""Gather calibration data: dark, current-source and X-ray-tube measurements, from either layout into one.

Pairs of images (analog, digital) are read in pieces of megabytes, turned to laboratory orientation and, for a scan that
was taken in four column groups, merged; then they are written in the order in which the next step reads them. Memory
depends on the size of the blocks only, never on the amount of data.
"""

import functools
import json
import logging
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pulsetrain.cell_trains import find_bursts, find_frames_of_cell, ranges_text, read_run
from pulsetrain.chunks import grown, open_storages
from pulsetrain.detector import LAB_SHAPE, PIXELS
from pulsetrain.frame_pairs import (
    LARGEST,
    PAIR_BYTES,
    PairTable,
    PixelOrder,
    nexus_order,
    place_pairs,
    read_pairs,
    xfel_order,
)
from pulsetrain.memory import MOST_CELLS
from pulsetrain.nexus import count_bursts, find_parts, pair_table
from pulsetrain.output import new_h5
from pulsetrain.progress import progress
from pulsetrain.scan_axis import default_axis, read_axis

log = logging.getLogger(__name__)

LAYOUTS = ("nxs", "xfel")
DATASETS = ("analog", "digital")
COLUMN_GROUPS = ("1/5", "2/6", "3/7", "4/8")  # of an ASIC, one measurement for each
# Measurement i is good in the columns 3-i, 7-i, ... of the upper ASICs (rows 0-63), which are mounted upside down, and
# in i, i+4, ... of the lower ones: documents 002, "gatherCurrentSourceScanData.py".
SOURCE_OF_COLUMN = np.array([[3, 2, 1, 0], [0, 1, 2, 3]])
ONE_SOURCE = np.zeros((2, 4), np.int64)

CHUNK_POINTS = 128
SCAN_TILE = (64, 64)  # with 128 points: chunks of 1 MB
XRAY_TILE = (8, 512)
BLOCK_BYTES = 192 * 1024**2  # two of these are in memory: one being filled, one being written
PAIRS_PER_READ = 8  # 2 MB
RUN_DATA = "INSTRUMENT/{source}/image/data"
SPARSEST = 10  # trains of a scan are at most so far apart on average


class Source(NamedTuple):
    """Where the images come from.

    Attributes
    ----------
    tables : list of PairTable
        One, or one per column group; of the same bursts and memory cells.
    group : ndarray of int64, (2, 4)
        Which table has the good pixels of rows 0-63 and 64-127, columns k, k + 4, ... for k = 0..3.
    order : PixelOrder
    cell_present : ndarray of bool, (C,)
    left_out : dict
        {reason: trains that were not used}.
    """

    tables: list
    group: np.ndarray
    order: PixelOrder
    cell_present: np.ndarray
    left_out: dict


class Block(NamedTuple):
    """A part of the output that is in memory at once: points [first, last) of some memory cells."""

    first: int
    last: int
    cells: np.ndarray


def gather_dark(
    files, output, attributes, *, layout, module, cells=None, detector=None, run=None, sizes=None, threads=1
):
    """Gather a dark measurement of one module.

    Parameters
    ----------
    files : list of str or Path
        Layout nxs: the parts. Layout xfel: files of the run; those of other modules are passed over.
    output : str or Path
        ``analog``, ``digital`` int16 (n, C, 128, 512) [ADU], contiguous; ``cellPresent`` bool (C,). n counts bursts
        (trains), C memory cells.
    attributes : dict
        Provenance.
    layout : str
        ``"nxs"`` or ``"xfel"``.
    module : int
    cells : int, optional
        Layout nxs: memory cells per burst, by default 352. Not used for xfel: there C is the largest cellId + 1.
    detector : str, optional
        Layout xfel: name such as ``SPB_DET_AGIPD1M-1``.
    run : int, optional
        Layout xfel.
    sizes : dict, optional
        {path or file name: bytes} when the work was planned.
    threads : int

    Raises
    ------
    ValueError
        The files cannot be used; all reasons are named.
    """
    _check_layout(layout)
    if layout == "nxs":
        source = _open_parts([files], ONE_SOURCE, module, cells or MOST_CELLS, sizes)
    else:
        (held,) = _read_runs([files], [run], detector, module, sizes)
        bursts = _solve([find_bursts(held)], module)
        source = _run_source([held], bursts, ONE_SOURCE, module)
    _write(source, output, attributes | _describe(source, "dark", layout, module), None, threads)


def gather_current_source(
    groups,
    output,
    attributes,
    *,
    layout,
    module,
    cells=None,
    detector=None,
    runs=None,
    scan_axis=None,
    sizes=None,
    threads=1,
):
    """Gather a current-source scan of one module.

    A scan point of a run is the number of a train counted from the first one: the axis goes on while a train is lost.

    Parameters
    ----------
    groups : list of list of str or Path
        Files of the four measurements (columns 1/5, 2/6, 3/7, 4/8); layout xfel also of a single run that has all
        columns.
    output : str or Path
        ``analog``, ``digital`` int16 (n, C, 128, 512) [ADU] in chunks of 128 points x 1 cell x 64 x 64 pixels;
        ``integrationTime`` float64 (n,) [clocks]; ``cellPresent`` bool (C,). n counts scan points.
    attributes, layout, module, cells, detector, sizes, threads
        As for :func:`gather_dark`.
    runs : list of int, optional
        Layout xfel: one for each group.
    scan_axis : str or Path, optional
        Integration time of each point of the scan [clocks]; by default :func:`pulsetrain.scan_axis.default_axis`.

    Raises
    ------
    ValueError
        The files cannot be used; all reasons are named.
    """
    _check_layout(layout)
    allowed = (4,) if layout == "nxs" else (1, 4)
    if len(groups) not in allowed:
        raise ValueError(
            f"current_source names {len(groups)} measurements; expected {' or '.join(map(str, allowed))} for layout "
            f"{layout} (columns {', '.join(COLUMN_GROUPS)}): correct the config"
        )
    group = SOURCE_OF_COLUMN if len(groups) == 4 else ONE_SOURCE
    if layout == "nxs":
        source = _open_parts(groups, group, module, cells or MOST_CELLS, sizes)
        n_points = len(source.tables[0].file)
        points = np.arange(n_points)
    else:
        helds = _read_runs(groups, runs, detector, module, sizes)
        bursts = _solve([find_bursts(held) for held in helds], module)
        points, bursts, n_points = _common_points(helds, bursts, module)
        source = _run_source(helds, bursts, group, module)
    axis = _scan_axis(scan_axis, n_points)[points]
    head = attributes | _describe(source, "current_source", layout, module)
    _write(source, output, head, SCAN_TILE, threads, axis)


def gather_xray(
    files, output, attributes, *, layout, module, xray_cell, detector=None, run=None, sizes=None, threads=1
):
    """Gather an X-ray-tube measurement of one module and memory cell.

    Parameters
    ----------
    files, attributes, layout, module, detector, run, sizes, threads
        As for :func:`gather_dark`.
    output : str or Path
        ``analog``, ``digital`` int16 (n, 128, 512) [ADU] in chunks of 128 frames x 8 x 512 pixels, frames in the order
        (train, pulse); attribute ``cell``.
    xray_cell : int
        Layout xfel: memory cell to take. The laboratory's files have one memory cell and do not say which.

    Raises
    ------
    ValueError
        The files cannot be used; all reasons are named.
    """
    _check_layout(layout)
    if layout == "nxs":
        source = _open_parts([files], ONE_SOURCE, module, 1, sizes)
    else:
        (held,) = _read_runs([files], [run], detector, module, sizes)
        (bursts,) = _solve([find_frames_of_cell(held, xray_cell)], module)
        source = _run_source([held], [bursts._replace(cell_id=np.array([0]))], ONE_SOURCE, module)
    head = attributes | _describe(source, "xray", layout, module) | {"cell": xray_cell}
    _write(source, output, head, XRAY_TILE, threads)


def _check_layout(layout):
    if layout not in LAYOUTS:
        raise ValueError(f"layout is {layout!r}; expected {' or '.join(LAYOUTS)}: correct the config")


def _refuse(problems, module):
    if problems:
        lines = "".join(f"\n  {problem}" for problem in problems)
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise ValueError(f"module {module:02d}: the calibration data cannot be used ({count}):{lines}")


def _solve(answers, module):
    """Unpack [(result, problems)]; raise when there are problems."""
    _refuse([problem for _, problems in answers for problem in problems], module)
    return [result for result, _ in answers]


def _open_parts(groups, group, module, n_cells, sizes):
    """Find the image pairs of measurements in the laboratory's layout."""
    problems, measured = [], []
    for number, paths in enumerate(groups):
        parts, told = find_parts(paths, module, sizes)
        n_bursts = 0
        if not told:
            n_bursts, told = count_bursts(parts, n_cells)
        label = f"column group {COLUMN_GROUPS[number]}: " if len(groups) > 1 else ""
        problems += [label + problem for problem in told]
        measured.append((parts, n_bursts))
    problems += _repeated_files(groups)
    if not problems and len({n_bursts for _, n_bursts in measured}) > 1:
        told = [
            f"columns {columns} have {n_bursts} ({parts[0].path.name} ...)"
            for columns, (parts, n_bursts) in zip(COLUMN_GROUPS, measured, strict=True)
        ]
        problems.append(
            f"the column groups have different numbers of bursts: {'; '.join(told)}; copy the short ones again"
        )
    _refuse(problems, module)
    for parts, n_bursts in measured:
        log.info("%d bursts of %d memory cells in %d parts", n_bursts, n_cells, len(parts))
    tables = [pair_table(parts, n_bursts, n_cells) for parts, n_bursts in measured]
    return Source(tables, group, nexus_order(), np.ones(n_cells, bool), {})


def _repeated_files(groups):
    names = [str(path) for paths in groups for path in set(map(str, paths))]
    repeated = sorted({name for name in names if names.count(name) > 1})
    return [f"{name} is in several column groups; correct the patterns in the config" for name in repeated]


def _read_runs(groups, runs, detector, module, sizes):
    """Read the ids of one module in each run; everything that is worth knowing goes to the log."""
    if detector is None or runs is None or None in runs or len(runs) != len(groups):
        raise ValueError(
            f"layout xfel needs the detector's name and a run for each measurement; got {detector}, {runs}"
        )
    repeated = sorted({run for run in runs if runs.count(run) > 1})
    if repeated:
        raise ValueError(f"current_source names run {repeated[0]} twice; expected four runs: correct the config")
    answers = [read_run(paths, run, detector, module, sizes) for paths, run in zip(groups, runs, strict=True)]
    helds = _solve(answers, module)
    for held in helds:
        for note in held.notes:
            log.warning("run %d: %s", held.run, note)
    return helds


def _common_points(helds, bursts, module):
    """Scan points that all runs have.

    Returns
    -------
    points : ndarray of int64, (n,)
    bursts : list of Bursts
        Cut to these points.
    n_points : int
        Points that the scan spans.
    """
    spans = [held.last_train - held.first_train + 1 for held in helds]
    problems = []
    for held, span, found in zip(helds, spans, bursts, strict=True):
        if span > SPARSEST * len(found.train_id):
            problems.append(
                f"run {held.run}: {len(found.train_id)} usable trains between {held.first_train} and {held.last_train} "
                f"({span} train ids); a scan has one point per train, so a train id is wrong or most trains are lost: "
                "copy the run again"
            )
    if len(set(spans)) > 1:
        told = ", ".join(f"run {held.run}: {span}" for held, span in zip(helds, spans, strict=True))
        problems.append(
            f"the scans have different lengths in trains ({told}), so it is not known which trains belong together; "
            "copy the short ones again, or take them again"
        )
    if len({found.cell_id.tobytes() for found in bursts}) > 1:
        told = ", ".join(f"run {h.run}: {ranges_text(b.cell_id)}" for h, b in zip(helds, bursts, strict=True))
        problems.append(f"the runs of the scan have different memory cells ({told}); take them with one setting")
    _refuse(problems, module)
    present = [(b.train_id - np.uint64(h.first_train)).astype(np.int64) for h, b in zip(helds, bursts, strict=True)]
    points = functools.reduce(np.intersect1d, present)
    if not len(points):
        _refuse(["no scan point is whole in all runs; take the scan again"], module)
    cut = []
    for held, found, place in zip(helds, bursts, present, strict=True):
        lost = np.setdiff1d(np.arange(spans[0]), place)
        if len(lost):
            log.warning("run %d: the scan points %s have no usable train", held.run, ranges_text(lost))
        held_out = dict(found.left_out)
        if elsewhere := len(place) - len(points):
            held_out["other_run_lacks_it"] = elsewhere
        at = np.searchsorted(place, points)
        cut.append(
            found._replace(train_id=found.train_id[at], file=found.file[at], row=found.row[at], left_out=held_out)
        )
    if len(points) < spans[0]:
        log.warning(
            "%d of %d scan points are used; the integration times of the others are left out", len(points), spans[0]
        )
    return points, cut, spans[0]


def _run_source(helds, bursts, group, module):
    """Find the image pairs of runs, for all memory cells up to the largest one that is there."""
    n_cells = int(bursts[0].cell_id[-1]) + 1
    present = np.zeros(n_cells, bool)
    present[bursts[0].cell_id] = True
    tables, left_out = [], {}
    for held, found in zip(helds, bursts, strict=True):
        file = np.full((len(found.train_id), n_cells, 1), -1, np.int32)
        row = np.full(file.shape, -1, np.int64)
        file[:, found.cell_id, 0] = found.file
        row[:, found.cell_id, 0] = found.row
        paths = [source.path for source in held.table.files]
        datasets = [RUN_DATA.format(source=source.source) for source in held.table.files]
        tables.append(PairTable(paths, datasets, file, row))
        for reason, count in found.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
        told = "; ".join(f"{count} left out: {reason}" for reason, count in found.left_out.items())
        log.info("run %d: %d trains used%s", held.run, len(found.train_id), f" ({told})" if told else "")
    return Source(tables, group, xfel_order(module), present, left_out)


def _scan_axis(path, n_points):
    if path is None:
        return default_axis(n_points)
    axis = read_axis(path)
    if len(axis) != n_points:
        raise ValueError(
            f"{path}: the scan axis has {len(axis)} points; the scan has {n_points}. Correct scan_axis in the "
            "config, or copy the scan again if it is too short"
        )
    return axis


def _describe(source, kind, layout, module):
    return {
        "module": module,
        "orientation": "lab",
        "kind": kind,
        "layout": layout,
        "trains_left_out": json.dumps(source.left_out, sort_keys=True),
    }


def _write(source, output, attributes, tile, threads, axis=None):
    """Write a gathered file; `tile` is None for contiguous datasets, else the pixels (rows, columns) of a chunk."""
    n_points, n_cells = source.tables[0].file.shape[:2]
    shape = (n_points, n_cells, *LAB_SHAPE)
    chunks = None
    if tile is not None:
        points = min(n_points, CHUNK_POINTS)
        chunks = (points, 1, *tile)
    if attributes["kind"] == "xray":
        shape, chunks = (n_points, *LAB_SHAPE), (points, *tile)
    with new_h5(output, attributes) as file:
        datasets = []
        for name in DATASETS:
            datasets.append(file.create_dataset(name, shape, np.int16, chunks=chunks))
            datasets[-1].attrs["units"] = "ADU"
        if axis is not None:
            file.create_dataset("integrationTime", data=axis).attrs["units"] = "clocks"
        if attributes["kind"] != "xray":
            file.create_dataset("cellPresent", data=source.cell_present)
        _copy_pairs(source, datasets, tile, threads)


def _copy_pairs(source, datasets, tile, threads):
    """Fill one block while the one before is written."""
    n_points, n_cells = source.tables[0].file.shape[:2]
    blocks = _plan_blocks(source, tile)
    place = _place_contiguous if tile is None else functools.partial(_place_chunks, tile=tile, n_points=n_points)
    write = _write_contiguous if tile is None else functools.partial(_write_chunks, tile=tile)
    advance = progress(2 * n_points * int(source.cell_present.sum()))
    buffers = [None, None]
    pending = None
    with open_storages() as storage_of, ThreadPoolExecutor(threads) as pool, ThreadPoolExecutor(1) as writer:
        storages = [
            [storage_of(path, dataset) for path, dataset in zip(table.paths, table.datasets, strict=True)]
            for table in source.tables
        ]
        _tell_repeated_unpacking(storages, blocks)
        spare = queue.SimpleQueue()
        for _ in range(threads):
            spare.put(grown(None, len(source.tables) * PAIRS_PER_READ * PAIR_BYTES))
        for turn, block in enumerate(blocks):
            start, step, size = place(block, n_cells=n_cells)
            buffers[turn % 2] = grown(buffers[turn % 2], 2 * size)
            out = buffers[turn % 2][: 2 * size].view(np.uint16)
            if tile is not None and start.size * PIXELS < size:
                out[:] = 0  # the chunks go on beyond the last point
            _fill(source, storages, block, start, step, tile or LAB_SHAPE, out, pool, spare)
            if pending is not None:
                pending.result()
            pending = writer.submit(write, datasets, block, out)
            advance(2 * len(block.cells) * (block.last - block.first))
        if pending is not None:
            pending.result()


def _plan_blocks(source, tile):
    """Cut the output into blocks that fit into memory, in the order in which they are written."""
    n_points, n_cells = source.tables[0].file.shape[:2]
    present = np.flatnonzero(source.cell_present)
    if tile is None:
        points = max(1, BLOCK_BYTES // (n_cells * PAIR_BYTES))
        groups = [present]
    else:
        points = min(n_points, CHUNK_POINTS)
        n_groups = -(-len(present) * points * PAIR_BYTES // BLOCK_BYTES)
        groups = np.array_split(present, n_groups)
    return [
        Block(first, min(first + points, n_points), cells) for first in range(0, n_points, points) for cells in groups
    ]


def _place_contiguous(block, n_cells):
    """Where each image pair of a block goes: (start (pairs, 2), step, elements), all cells of (image, point, cell)."""
    n = block.last - block.first
    image, point = np.arange(2), np.arange(n)[:, None, None]
    start = ((image * n + point) * n_cells + block.cells[:, None]) * PIXELS
    return start.reshape(-1, 2), 0, 2 * n * n_cells * PIXELS


def _place_chunks(block, n_cells, tile, n_points):
    """Where each image pair of a block goes: (start (pairs, 2), step, elements), as chunks (image, cell, tile)."""
    points = min(n_points, CHUNK_POINTS)
    pixels = tile[0] * tile[1]
    image, point = np.arange(2), np.arange(block.last - block.first)[:, None, None]
    start = (image * len(block.cells) + np.arange(len(block.cells))[:, None]) * PIXELS * points + point * pixels
    return start.reshape(-1, 2), points * pixels, 2 * len(block.cells) * PIXELS * points


def _fill(source, storages, block, start, step, tile, out, pool, spare):
    """Read the image pairs of a block and put them in their places."""
    places = [
        [values[block.first : block.last, block.cells].reshape(len(start), -1) for values in (table.file, table.row)]
        for table in source.tables
    ]

    def fill_piece(first):
        last = min(first + PAIRS_PER_READ, len(start))
        memory = spare.get()
        try:
            n = len(places) * (last - first) * PAIR_BYTES
            stored = memory[:n].view(np.uint16).reshape(len(places), last - first, 2, PIXELS)
            for number, (file, row) in enumerate(places):
                read_pairs(storages[number], file[first:last], row[first:last], stored[number])
            seen = place_pairs(stored, source.group, *source.order, start[first:last], step, *tile, out)
            if seen > LARGEST:
                raise _too_large(
                    source, storages, [(file[first:last], row[first:last]) for file, row in places], stored
                )
        finally:
            spare.put(memory)

    for _ in pool.map(fill_piece, range(0, len(start), PAIRS_PER_READ)):
        pass


def _too_large(source, storages, places, stored):
    """Error that names the first value that does not fit, to be raised."""
    row, column = np.indices(LAB_SHAPE)
    held = source.order.first + row * source.order.down + column * source.order.right
    chosen = source.group[row // 64, column % 4]
    for number, (file, rows) in enumerate(places):
        values = stored[number][:, :, held]
        bad = np.argwhere((values > LARGEST) & (chosen == number))
        if len(bad):
            pair, image, j, i = bad[0].tolist()
            storage = storages[number][file[pair, 0]]
            where = int(rows[pair, image if rows.shape[1] == 2 else 0])
            value = values[pair, image, j, i].astype(np.int16 if storage.dtype.kind == "i" else np.uint16)
            return ValueError(
                f"{storage.path}: {storage.dataset}, row {where}: the {DATASETS[image]} image has the value {value} in "
                f"row {j}, column {i} (laboratory orientation); expected 0 to {LARGEST} (the converter has 14 bits). "
                "These are no raw data or the file is damaged: copy it again"
            )
    raise RuntimeError("a value does not fit, but it is not found again: a file was changed while it was read")


def _write_contiguous(datasets, block, out):
    values = out.view(np.int16).reshape(2, block.last - block.first, *datasets[0].shape[1:])
    for dataset, images in zip(datasets, values, strict=True):
        dataset[block.first : block.last] = images


def _write_chunks(datasets, block, out, tile):
    """Write whole chunks, which costs no more than writing their bytes."""
    corners = [(j, i) for j in range(0, LAB_SHAPE[0], tile[0]) for i in range(0, LAB_SHAPE[1], tile[1])]
    chunks = out.reshape(2, len(block.cells), len(corners), -1)
    for dataset, images in zip(datasets, chunks, strict=True):
        for cell, tiles in zip(block.cells.tolist(), images, strict=True):
            leading = (block.first, cell) if dataset.ndim == 4 else (block.first,)
            for corner, chunk in zip(corners, tiles, strict=True):
                dataset.id.write_direct_chunk((*leading, *corner), chunk)


def _tell_repeated_unpacking(storages, blocks):
    """Warn of files in which frames of many cells share a chunk: each is read again for every group of cells."""
    rows = max(storage.rows_per_chunk for group in storages for storage in group)
    packed = any(storage.kind != "plain" for group in storages for storage in group)
    groups = sum(block.first == blocks[0].first for block in blocks)
    if packed and rows > 2 * len(blocks[0].cells) and groups > 1:
        log.warning(
            "the frames are stored in compressed chunks of %d; each is unpacked up to %d times. Files that are not "
            "compressed, or by frame, are gathered faster",
            rows,
            groups,
        )
