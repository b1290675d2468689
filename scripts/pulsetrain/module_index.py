"""The trains that one detector module has whole, and a reason for every row that does not belong to one."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.detector import DSSC_SHAPE, MODULE_SHAPE
from pulsetrain.exdf import (
    ENTRY_FAULTS,
    BrokenFile,
    TrainIndex,
    entry_faults,
    index_sha256,
    list_sources,
    open_file,
    parse_name,
    read_index,
    read_metadata,
)

MODULES_KEY = "detector.modules"  # of the configuration, for detectors without one of their own

# State of a train in a module; the number is what /trains/coverage of the frames file holds.
COVERAGE = ("whole", "absent", *ENTRY_FAULTS[1:], "repeated_pulse", "appears_twice")
IMAGE_SHAPES = {  # of one frame in the files, by detector and stream
    "AGIPD": {"raw": (2, *MODULE_SHAPE), "proc": MODULE_SHAPE},
    "DSSC": {"raw": (1, *DSSC_SHAPE)},
}
ID_TYPES = {"trainId": "u8", "pulseId": "u8", "cellId": "u2"}
DATA_TYPES = {"raw": ("uint16",), "proc": ("uint8", "uint16", "float32")}

ENTRY_MESSAGES = {
    "no_frames": "INDEX has a count of 0 for the train",
    "zero_train_id": "INDEX/trainId is 0 in the middle of the file",
    "ids_disagree": "image/trainId of the rows is not the train of INDEX",
    "out_of_range": "INDEX points beyond the end of the data",
    "repeated_pulse": "a pulseId appears twice in the train",
    "appears_twice": "the train appears twice and nothing tells which copy is right",
    "suspect_copy": "the train appears twice; the copy that INDEX/flag marks as suspect was left out",
}


class ModuleFile(NamedTuple):
    """What one source file says of itself, with its ids.

    `has_mask` is False only where corrected frames come without a mask; `problem` is '' when the file is used.
    """

    path: Path
    sequence: int
    size: int
    n_rows: int
    source: str
    metadata: dict
    index: TrainIndex
    index_sha256: str
    train_id: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray
    has_mask: bool
    problem: str


class ModuleTable(NamedTuple):
    """One module of a run.

    Attributes
    ----------
    module : int
    files : list of ModuleFile
        With empty ids.
    n_rows : int
        Frames of all usable files.
    train_id : ndarray of uint64, (T,)
        Trains that are whole, ascending.
    n_frames : ndarray of int64, (T,)
    file : ndarray of int32, (T,)
        Row of `files`.
    pulse_id, cell_id, row : ndarray, (F,)
        The frames of those trains in the order (train, pulse); `row` counts within the file.
    reported : tuple of ndarray
        (train id, index into :data:`COVERAGE`, frame count) of trains that are there but not whole.
    excluded : dict
        {reason: rows} of rows outside the whole trains.
    """

    module: int
    files: list
    n_rows: int
    train_id: np.ndarray
    n_frames: np.ndarray
    file: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray
    row: np.ndarray
    reported: tuple
    excluded: dict


def finding(kind, message, next_step="", module=None, file="", trains=(), n_rows=0, fault=True):
    """One thing to tell about a run; `fault` is False for what is only worth knowing."""
    trains = list(dict.fromkeys(int(train) for train in trains))
    return {
        "kind": kind,
        "module": None if module is None else f"{module:02d}",
        "file": file,
        "trains": trains[:20],
        "n_trains": len(trains),
        "n_rows": int(n_rows),
        "message": message,
        "next_step": next_step,
        "fault": fault,
    }


def module_source(file, detector, module, stream):
    """Name of a module's source in an open file.

    Corrected data are ``<detector>/CORR/<n>CH0:output``, before 2026 ``<detector>/DET/<n>CH0:xtdf`` like raw data.

    Raises
    ------
    BrokenFile
        The file does not hold the module.
    """
    names = [f"{detector}/DET/{module}CH0:xtdf"]
    if stream == "proc":
        names.insert(0, f"{detector}/CORR/{module}CH0:output")
    for name in names:
        if f"INSTRUMENT/{name}/image" in file or f"INDEX/{name}/image" in file:
            return name
    held = [name.removeprefix("INSTRUMENT/") for name in list_sources(file) if name.startswith("INSTRUMENT/")]
    raise BrokenFile(
        "foreign_file",
        f"found the sources {', '.join(held[:4]) or 'none'}; expected {' or '.join(names)}",
        "put the right file in its place, or correct detector.name in the config",
    )


def read_module_file(path, run, stream, detector, module, planned_size=None, data_dtype=None):
    """Read INDEX and the ids of one source file.

    Parameters
    ----------
    path : Path
    run : int
    stream : str
        ``"raw"`` or ``"proc"``.
    detector : str
        Such as ``SPB_DET_AGIPD1M-1``.
    module : int
    planned_size : int, optional
        Size in bytes when the work was planned; another size now means that the file is still being copied.
    data_dtype : str, optional
        Type that image/data must have.

    Returns
    -------
    ModuleFile

    Raises
    ------
    BrokenFile
        The file cannot be used.
    """
    with open_file(path) as file:
        before = Path(path).stat()
        if planned_size is not None and planned_size != before.st_size:
            raise BrokenFile(
                "being_copied",
                f"still being copied: {before.st_size} bytes now, {planned_size} when the work was planned",
                "wait until the run is copied, then run snakemake again",
            )
        metadata = read_metadata(file)
        if metadata["run"] not in (None, run):
            raise BrokenFile(
                "foreign_file",
                f"METADATA/runNumber: found {metadata['run']}; expected {run}",
                "put the file of this run in its place",
            )
        source = module_source(file, detector, module, stream)
        index = read_index(file, source, "image")
        if len(index.train_id) == 0 and f"INSTRUMENT/{source}/image" not in file:
            ids = [np.empty(0, dtype) for dtype in ID_TYPES.values()]
        else:
            ids = _read_ids(file, source, IMAGE_SHAPES["DSSC" if "_DSSC" in detector else "AGIPD"], stream, data_dtype)
        has_mask = stream == "raw" or len(ids[0]) == 0 or f"INSTRUMENT/{source}/image/mask" in file
        after = Path(path).stat()
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise BrokenFile(
            "being_copied",
            f"still being copied: it changed while it was read ({before.st_size} to {after.st_size} bytes)",
            "wait until the run is copied, then run snakemake again",
        )
    digest = index_sha256(index)
    sequence = parse_name(path)[3]
    size, n_rows = after.st_size, len(ids[0])
    return ModuleFile(path, sequence, size, n_rows, source, metadata, index, digest, *ids, has_mask, problem="")


def _read_ids(file, source, shapes, stream, data_dtype):
    image = f"INSTRUMENT/{source}/image"
    data = _dataset(file, f"{image}/data")
    expected = shapes[stream]
    if data.shape[1:] != expected:
        other = "proc" if stream == "raw" else "raw"
        is_other = data.shape[1:] == shapes.get(other)
        raise BrokenFile(
            "wrong_shape",
            f"{image}/data: found shape {data.shape}; expected (frames, {', '.join(map(str, expected))})",
            f"these are {other} data: set stream: {other}" if is_other else "copy or correct the file again",
        )
    allowed = DATA_TYPES[stream] if data_dtype is None else (data_dtype,)
    if data.dtype.name not in allowed:
        raise BrokenFile(
            "wrong_dtype",
            f"{image}/data: found {data.dtype.name}; expected {' or '.join(allowed)}",
            "correct the run again, so that all its files have one type"
            if stream == "proc"
            else "these are not the images that the detector wrote: put its raw files there",
        )
    ids = []
    for name, dtype in ID_TYPES.items():
        dataset = _dataset(file, f"{image}/{name}")
        if dataset.dtype.kind != "u" or not np.can_cast(dataset.dtype, dtype, "safe"):
            raise BrokenFile(
                "wrong_dtype",
                f"{image}/{name}: found {dataset.dtype.name}; expected {np.dtype(dtype).name}",
                "copy or correct the file again",
            )
        if dataset.shape not in ((len(data),), (len(data), 1)):
            kind = "wrong_length" if dataset.ndim in (1, 2) and dataset.shape[1:] in ((), (1,)) else "wrong_shape"
            raise BrokenFile(
                kind,
                f"{image}/{name}: found shape {dataset.shape}; expected one id for each of the {len(data)} frames "
                f"of {image}/data",
                "copy or correct the file again",
            )
        ids.append(dataset[()].reshape(-1).astype(dtype, copy=False))
    return ids


def _dataset(file, name):
    try:
        dataset = file[name]
    except KeyError:
        dataset = None
    if not isinstance(dataset, h5py.Dataset):
        raise BrokenFile("missing_dataset", f"{name} is missing", "copy or correct the file again")
    return dataset


def build_module(module, files, modules_key=MODULES_KEY):
    """Find the trains that a module has whole.

    Parameters
    ----------
    module : int
    files : list of ModuleFile
        Broken ones (with a problem and empty ids) included.
    modules_key : str
        Key of the configuration that says which modules are in use; for advice.

    Returns
    -------
    table : ModuleTable
    findings : list of dict
    """
    entries = _join_entries(files)
    rows_of_file = np.array([file.n_rows for file in files], dtype=np.int64)
    ends = np.cumsum(rows_of_file)
    starts = ends - rows_of_file
    ids = [np.concatenate([getattr(file, name) for file in files]) for name in ("train_id", "pulse_id", "cell_id")]
    state = np.array([COVERAGE.index(ENTRY_FAULTS[code] or "whole") for code in entries.codes], dtype=np.uint8)
    first = entries.first + starts[entries.file]
    suspect_copy = _settle_copies(entries, state)
    good = np.flatnonzero((state == 0) & ~suspect_copy)
    good = good[np.argsort(entries.train_id[good], kind="stable")]
    row, entry = expand(first[good], entries.count[good])
    row = _sort_pulses(ids[1], row, entry)
    same = (entry[1:] == entry[:-1]) & (ids[1][row[1:]] == ids[1][row[:-1]])
    repeated = np.unique(entry[1:][same])
    if len(repeated):
        state[good[repeated]] = COVERAGE.index("repeated_pulse")
        row = row[~np.isin(entry, repeated)]
        good = np.delete(good, repeated)
    reasons = _reason_of_rows(entries, state, suspect_copy, first, ends, row, ids[0])
    bad = np.flatnonzero((state != 0) & ~suspect_copy)
    # Where INDEX has a 0, the rows may still tell which train it was: then that train is known to be damaged.
    true_train = entries.train_id.copy()
    zero = (true_train == 0) & (entries.count > 0) & (first < ends[entries.file])
    true_train[zero] = ids[0][first[zero]]
    table = ModuleTable(
        module,
        [file._replace(train_id=None, pulse_id=None, cell_id=None) for file in files],
        len(ids[0]),
        entries.train_id[good],
        entries.count[good],
        entries.file[good],
        ids[1][row],
        ids[2][row],
        row - np.repeat(starts[entries.file[good]], entries.count[good]),
        (true_train[bad], state[bad], np.clip(ends[entries.file[bad]] - first[bad], 0, entries.count[bad])),
        reasons,
    )
    return table, _tell(module, files, entries, true_train, state, suspect_copy, reasons, modules_key)


class _Entries(NamedTuple):
    """The INDEX entries of all files of a module, one after the other; `first` counts within the file."""

    train_id: np.ndarray
    suspect: np.ndarray
    first: np.ndarray
    count: np.ndarray
    file: np.ndarray
    codes: np.ndarray


def _join_entries(files):
    columns = [np.concatenate(column) for column in zip(*(file.index for file in files), strict=True)]
    file = np.repeat(np.arange(len(files), dtype=np.int32), [len(file.index.train_id) for file in files])
    codes = np.concatenate([entry_faults(file.index, file.n_rows, file.train_id) for file in files])
    return _Entries(*columns, file, codes)


def expand(first, count):
    """List all rows of entries: (rows, entry of each row), entry after entry."""
    entry = np.repeat(np.arange(len(first)), count)
    offset = np.repeat(first - (np.cumsum(count) - count), count)
    return np.arange(len(entry)) + offset, entry


def _settle_copies(entries, state):
    """Mark trains that appear twice; return which entries are the suspect copy of a good train."""
    dropped = np.zeros(len(state), dtype=bool)
    good = np.flatnonzero(state == 0)
    trains, place, copies = np.unique(entries.train_id[good], return_inverse=True, return_counts=True)
    if len(trains) == len(good):
        return dropped
    unsuspect = np.bincount(place, weights=~entries.suspect[good], minlength=len(trains))
    again = copies[place] > 1
    settled = unsuspect[place] == 1
    dropped[good[again & settled & entries.suspect[good]]] = True
    state[good[again & ~settled]] = COVERAGE.index("appears_twice")
    return dropped


def _sort_pulses(pulse_id, row, entry):
    pulses = pulse_id[row]
    if np.all((pulses[1:] > pulses[:-1]) | (entry[1:] != entry[:-1])):
        return row
    return row[np.lexsort((pulses, entry))]


def _reason_of_rows(entries, state, suspect_copy, first, ends, used, row_train_id):
    """Count the rows outside the whole trains by reason."""
    names = [*COVERAGE, "suspect_copy", "unindexed_rows", "padding"]
    n_rows = len(row_train_id)
    reason = np.full(n_rows, names.index("unindexed_rows"), dtype=np.uint8)
    end_of_entry = np.minimum(first + entries.count, ends[entries.file])
    for number, (start, end) in enumerate(zip(np.append(0, ends[:-1]), ends, strict=True)):
        last = max(end_of_entry[(entries.file == number) & (entries.count > 0)], default=start)
        reason[last:end][row_train_id[last:end] == 0] = names.index("padding")
    code = np.where(suspect_copy, names.index("suspect_copy"), state)
    for number in np.flatnonzero((code != 0) & (entries.count > 0)):
        reason[first[number] : end_of_entry[number]] = code[number]
    reason[used] = 0
    counts = np.bincount(reason, minlength=len(names))
    return {name: int(number) for name, number in zip(names[1:], counts[1:], strict=True) if number}


def _tell(module, files, entries, true_train, state, suspect_copy, reasons, modules_key):
    """Findings of one module, one per kind and file."""
    findings = []
    for number, file in enumerate(files):
        if not file.has_mask:
            message = "the corrected frames have no image/mask: their bad pixels are not known"
            next_step = "correct the run again with a mask, or give masks.user"
            findings.append(finding("missing_mask", message, next_step, module, file.path.name))
        held = entries.file == number
        for code, kind in enumerate([*COVERAGE, "suspect_copy"]):
            found = held & (suspect_copy if kind == "suspect_copy" else (state == code))
            if kind in ("whole", "absent", "no_frames") or not found.any():
                continue
            where = np.flatnonzero(found)
            findings.append(_entry_finding(kind, module, file, entries, true_train, where, len(state), modules_key))
        n_suspect = int(np.count_nonzero(held & entries.suspect & (state == 0) & ~suspect_copy))
        if n_suspect:
            trains = entries.train_id[held & entries.suspect & (state == 0) & ~suspect_copy]
            message = f"INDEX/flag marks {n_suspect} trains as suspect; their image ids agree, so they were used"
            findings.append(finding("suspect_flag", message, "", module, file.path.name, trains, fault=False))
    if "unindexed_rows" in reasons:
        message = f"{reasons['unindexed_rows']} frames belong to no train of INDEX"
        findings.append(
            finding(
                "unindexed_rows", message, "copy or correct the run again", module, n_rows=reasons["unindexed_rows"]
            )
        )
    return findings


def _entry_finding(kind, module, file, entries, true_train, found, n_entries, modules_key):
    where = found[0]
    number = where - np.flatnonzero(entries.file == entries.file[where])[0]
    message = f"{ENTRY_MESSAGES[kind]}: INDEX entry {number} has train {entries.train_id[where]}, "
    message += f"first {entries.first[where]}, count {entries.count[where]}; the file has {file.n_rows} frames"
    if kind in ("zero_train_id", "ids_disagree") and entries.first[where] < file.n_rows:
        message += f" and row {entries.first[where]} is of train {file.train_id[entries.first[where]]}"
    next_step = f"module {module} is filled with missing values for these trains"
    if kind == "appears_twice":
        next_step = "the train is left out in all modules"
    elif kind == "suspect_copy":
        next_step = "nothing to do"
    elif 2 * len(found) > n_entries:
        next_step = f"leave module {module} out of {modules_key}, or copy or correct the run again"
    n_rows = np.clip(file.n_rows - entries.first[found], 0, entries.count[found]).sum()
    return finding(kind, message, next_step, module, file.path.name, true_train[found], n_rows)
