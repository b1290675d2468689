"""Trains of one module of a calibration run as bursts: a place for every train and memory cell.

The files are read as for any other run (:mod:`pulsetrain.module_index`), by INDEX and the ids of each frame; here it is
decided which trains can serve as bursts, and what lies at fault is told all at once.
"""

import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pulsetrain.exdf import BrokenFile, parse_name
from pulsetrain.memory import MOST_CELLS
from pulsetrain.module_index import COVERAGE, ModuleTable, build_module, expand, read_module_file

AGGREGATOR = re.compile(r"AGIPD(\d\d)")
LACKS_CELL = "lacks_cell"
CELL_TWICE = "cell_twice"
# What h5py raises on damaged metadata or chunks depends on the place of the damage.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)


class RunOfModule(NamedTuple):
    """One module of a run: its frames, what is worth knowing, and the first and last train that the files name."""

    run: int
    table: ModuleTable
    notes: list
    first_train: int
    last_train: int


class Bursts(NamedTuple):
    """Trains that have all memory cells of the run.

    Attributes
    ----------
    train_id : ndarray of uint64, (n,)
        Ascending.
    cell_id : ndarray of int64, (m,)
        Memory cells, ascending.
    file, row : ndarray of int32 and int64, (n, m)
        File (of the table) and row of each train and cell.
    left_out : dict
        {reason: number of trains} of the others.
    """

    train_id: np.ndarray
    cell_id: np.ndarray
    file: np.ndarray
    row: np.ndarray
    left_out: dict


def read_run(paths, run, detector, module, sizes=None):
    """Read the ids of one module of a raw run.

    Parameters
    ----------
    paths : list of str or Path
        Files of the run; those of other modules and detectors are passed over.
    run : int
    detector : str
        Such as ``SPB_DET_AGIPD1M-1``.
    module : int
    sizes : dict, optional
        {path or file name: bytes} when the work was planned; another size means that a file is still being copied.

    Returns
    -------
    held : RunOfModule or None
        None when there are problems.
    problems : list of str
        Everything that forbids the use of the run, each with the next step.
    """
    named, problems = _files_of_module(paths, run, module)
    files = []
    for _, path in named:
        planned = (sizes or {}).get(str(path), (sizes or {}).get(path.name))
        try:
            files.append(read_module_file(path, run, "raw", detector, module, planned))
        except BrokenFile as error:
            problems.append(f"{path}: {error}; {error.next_step}")
        except DAMAGE as error:
            problems.append(f"{path}: HDF5 cannot read it: {error}; copy it again")
    if problems:
        return None, problems
    table, findings = build_module(module, files)
    notes = [f"{told['file']}: {told['message']}" if told["file"] else told["message"] for told in findings]
    if len(table.train_id) == 0:
        why = "; ".join(notes) or "its files have no frames"
        return None, [f"run {run}: module {module} has no whole train ({why}); take the run again or copy it again"]
    # A train with damaged rows still counts for the place of the others in a scan, if its number can be believed.
    trains, state, _ = table.reported
    believed = trains[(trains > 0) & (state != COVERAGE.index("ids_disagree"))]
    seen = np.concatenate([table.train_id, believed])
    return RunOfModule(run, table, notes, int(seen.min()), int(seen.max())), []


def _files_of_module(paths, run, module):
    """Files of a module as [(sequence, path)], and problems with their names."""
    named, problems = [], []
    for path in map(Path, paths):
        parts = parse_name(path)
        if parts is None:
            problems.append(
                f"{path}: no name of a source file (RAW-R{run:04d}-AGIPD{module:02d}-S00000.h5); take it out of the run"
            )
            continue
        category, of_run, aggregator, sequence = parts
        held = AGGREGATOR.fullmatch(aggregator)
        if held is None or int(held[1]) != module:
            continue
        if of_run != run:
            problems.append(f"{path}: the name says run {of_run}; expected run {run}; take it out of the run")
        elif category != "RAW":
            problems.append(f"{path}: {category} data; constants are made of RAW data: give the raw directory")
        else:
            named.append((sequence, path))
    named.sort()
    if not named and not problems:
        given = f"{len(paths)} files are of others" if paths else "there are no files"
        problems.append(f"run {run}: no file of module {module} ({given}); copy the run or leave out the module")
    sequences = [sequence for sequence, _ in named]
    for sequence in sorted({number for number in sequences if sequences.count(number) > 1}):
        where = ", ".join(str(path) for number, path in named if number == sequence)
        problems.append(f"run {run}: sequence {sequence} of module {module} is there more than once: {where}; keep one")
    missing = sorted(set(range(max(sequences, default=0))) - set(sequences))
    if missing:
        problems.append(
            f"run {run}: module {module} lacks sequence {', '.join(map(str, missing))} (there are files up to "
            f"S{max(sequences):05d}); copy them again"
        )
    return named, problems


def find_bursts(held):
    """Choose the trains that have all memory cells of the run.

    The cells of the run are those that most trains have. A train that lacks one or has one twice is left out; frames of
    further cells are not used.

    Parameters
    ----------
    held : RunOfModule

    Returns
    -------
    bursts : Bursts or None
        None when there is a problem.
    problems : list of str
    """
    table = held.table
    first = np.cumsum(table.n_frames) - table.n_frames
    sets, repeated = [], np.zeros(len(first), bool)
    for number, (start, count) in enumerate(zip(first.tolist(), table.n_frames.tolist(), strict=True)):
        cells = np.unique(table.cell_id[start : start + count])
        repeated[number] = len(cells) < count
        sets.append(cells.tobytes())
    known = Counter(cells for cells, twice in zip(sets, repeated, strict=True) if not twice)
    if not known:
        return None, [_every_train_twice(held)]
    usual = max(known, key=lambda cells: (known[cells], len(cells), cells))
    cell_id = np.frombuffer(usual, table.cell_id.dtype)
    if cell_id[-1] >= MOST_CELLS:
        return None, [
            f"run {held.run}: image/cellId has {cell_id[-1]}; expected less than {MOST_CELLS}. The run is damaged: "
            "copy it again"
        ]
    whole = {cells for cells in known if np.isin(cell_id, np.frombuffer(cells, cell_id.dtype)).all()}
    good = ~repeated & np.array([cells in whole for cells in sets])
    if 2 * np.count_nonzero(good) < len(good):
        return None, [
            f"run {held.run}: only {np.count_nonzero(good)} of {len(good)} trains have the same memory cells; in a "
            "calibration run all trains have them (was it taken with a veto?)"
        ]
    rows, train = expand(first[good], table.n_frames[good])
    cells = table.cell_id[rows]
    used = np.isin(cells, cell_id)
    rows, train, cells = rows[used], train[used], cells[used]
    row = np.empty((np.count_nonzero(good), len(cell_id)), np.int64)
    row[train, np.searchsorted(cell_id, cells)] = table.row[rows]
    file = np.repeat(table.file[good][:, None].astype(np.int32), len(cell_id), axis=1)
    left_out = Counter({CELL_TWICE: int(repeated.sum()), LACKS_CELL: int(np.count_nonzero(~good & ~repeated))})
    left_out.update(damaged_trains(table))
    left_out = {reason: count for reason, count in sorted(left_out.items()) if count}
    return Bursts(table.train_id[good], cell_id.astype(np.int64), file, row, left_out), []


def _every_train_twice(held):
    return (
        f"run {held.run}: in every train of module {held.table.module} some memory cell appears twice in image/cellId, "
        "so nothing tells which frame belongs to which cell; copy the run again"
    )


def find_frames_of_cell(held, cell):
    """Frames of one memory cell, in the order (train, pulse).

    Parameters
    ----------
    held : RunOfModule
    cell : int

    Returns
    -------
    bursts : Bursts or None
        With one memory cell; each frame counts as a burst. None when there is a problem.
    problems : list of str
    """
    table = held.table
    found = np.flatnonzero(table.cell_id == cell)
    if not len(found):
        return None, [
            f"run {held.run}: no frame of memory cell {cell}; the run has the cells "
            f"{ranges_text(np.unique(table.cell_id))}. Correct xray_cell in the config"
        ]
    train = np.repeat(np.arange(len(table.train_id)), table.n_frames)[found]
    left_out = Counter({LACKS_CELL: len(table.train_id) - len(np.unique(train))})
    left_out.update(damaged_trains(table))
    left_out = {reason: count for reason, count in sorted(left_out.items()) if count}
    file, row = table.file[train].astype(np.int32), table.row[found]
    return Bursts(table.train_id[train], np.array([cell]), file[:, None], row[:, None], left_out), []


def damaged_trains(table):
    """Count the trains that are there but not whole, {reason: trains}."""
    _, state, _ = table.reported
    return Counter(COVERAGE[code] for code in state.tolist())


def ranges_text(numbers):
    """Write ascending numbers as text: ``0-31, 33, 35-63``."""
    numbers = np.asarray(numbers, np.int64)
    edges = np.flatnonzero(np.diff(numbers) != 1) + 1
    parts = np.split(numbers, edges)
    text = [f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}" for part in parts if len(part)]
    return ", ".join(text[:20]) + (" ..." if len(text) > 20 else "")
