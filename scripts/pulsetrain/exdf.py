"""Read European XFEL HDF5 files ("EXDF") as they are, damaged ones included.

The file format is described at https://extra-data.readthedocs.io/en/latest/data_format.html. EXtra-data opens
good files better than this; it drops a trainId of 0 without its rows, so that later trains get the data of
others, and gives no way to say what is wrong with a file. This module reads INDEX by first and count per train
and judges every entry.
"""

import hashlib
import re
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

FILE_NAME = re.compile(r"([A-Z]+)-R(\d{4,})-(\w+?)(?:-S(\d{5}))?\.h5")
HUGE = 2**61  # stands for every row number beyond it, so that sums stay within int64

# What may be wrong with one INDEX entry, found without looking at other entries.
ENTRY_FAULTS = ("", "zero_train_id", "out_of_range", "no_frames", "ids_disagree")

# Metric prefixes of the attribute metricPrefixSymbol; the facility writes "u" for micro.
PREFIX_FACTORS = {
    "E": 1e18, "P": 1e15, "T": 1e12, "G": 1e9, "M": 1e6, "k": 1e3, "h": 1e2, "da": 1e1, "": 1.0,
    "d": 1e-1, "c": 1e-2, "m": 1e-3, "u": 1e-6, "μ": 1e-6, "n": 1e-9, "p": 1e-12, "f": 1e-15, "a": 1e-18,
}  # fmt: skip


class BrokenFile(ValueError):
    """A file that cannot be used: `kind` names the finding, `next_step` says what to do."""

    def __init__(self, kind, message, next_step):
        super().__init__(message)
        self.kind = kind
        self.next_step = next_step


class TrainIndex(NamedTuple):
    """The INDEX of one source in one file, without the padding at its end.

    Attributes
    ----------
    train_id : ndarray of uint64, (E,)
        As stored, a 0 in the middle included.
    suspect : ndarray of bool, (E,)
        The data acquisition doubted the train id. False throughout where the format has no such flag.
    first, count : ndarray of int64, (E,)
        Rows of the source's datasets; `first` means nothing where `count` is 0.
    """

    train_id: np.ndarray
    suspect: np.ndarray
    first: np.ndarray
    count: np.ndarray


def parse_name(path):
    """Split a file name such as ``RAW-R0050-AGIPD07-S00001.h5``.

    Returns
    -------
    tuple or None
        (category, run, aggregator, sequence), sequence 0 where the name has none; None for another name.
    """
    match = FILE_NAME.fullmatch(Path(path).name)
    if match is None:
        return None
    return match[1], int(match[2]), match[3], int(match[4] or 0)


def open_file(path):
    """Open a file for reading.

    Returns
    -------
    h5py.File

    Raises
    ------
    BrokenFile
        The file is missing, empty, truncated, no HDF5 file or may not be read.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size == 0:
            raise BrokenFile("empty_file", "the file has 0 bytes", "wait until it is copied, or copy it again")
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise BrokenFile("missing_file", "the file is not there", "restore it, or run snakemake again") from None
    except PermissionError as error:
        raise BrokenFile(
            "unreadable", f"it may not be read ({error.strerror or error})", "ask its owner for read permission"
        ) from error
    except OSError as error:
        raise _broken_hdf5(error, size) from error


def _broken_hdf5(error, size):
    text = str(error)
    if "truncated" in text:
        return BrokenFile(
            "truncated",
            f"the file is truncated or still being copied: {size} bytes ({text})",
            "wait until it is copied, or copy it again",
        )
    if "signature not found" in text:
        return BrokenFile("not_hdf5", f"no HDF5 file ({size} bytes)", "copy it again")
    return BrokenFile("unreadable", f"HDF5 cannot read it: {text}", "copy it again")


def format_version(file):
    """Version of the file format; ``"0.5"`` for the files that do not name one."""
    return _metadata_text(file, "dataFormatVersion") or "0.5"


def read_metadata(file):
    """Version, date and origin of an open file.

    Returns
    -------
    dict
        format_version (str), update_date (str, the creation date where the file has no other, else ''),
        run and sequence (int or None).
    """
    return {
        "format_version": format_version(file),
        "update_date": _metadata_text(file, "updateDate") or _metadata_text(file, "creationDate") or "",
        "run": _metadata_number(file, "runNumber"),
        "sequence": _metadata_number(file, "sequenceNumber"),
    }


def list_sources(path):
    """Names of the sources that a file says it holds.

    Parameters
    ----------
    path : str or Path or h5py.File

    Returns
    -------
    list of str
        Such as ``CONTROL/SPB_XTD9_XGM/XGM/DOOCS`` and ``INSTRUMENT/SPB_XTD9_XGM/XGM/DOOCS:output/data``, sorted.
    """
    if not isinstance(path, h5py.File):
        with open_file(path) as file:
            return list_sources(file)
    dataset = path.get("METADATA/dataSources/dataSourceId", path.get("METADATA/dataSourceId"))
    if not isinstance(dataset, h5py.Dataset):
        return []
    return sorted({_text(name) for name in dataset[()]} - {""})


def read_index(file, source, group=""):
    """Read the INDEX of one source.

    All format versions from 0.5 to 1.3 are known, the old ``first, last, status`` included. A trainId of 0 at the
    end that has no rows is padding and is left out. Suspect trains: flag 0, but in version 1.1 any flag except 0
    (there it is the number of the time server); version 0.5 has no flag, and none is guessed, because train ids
    that are out of order do occur in good files.

    Parameters
    ----------
    file : h5py.File
    source : str
        ``SPB_DET_AGIPD1M-1/DET/7CH0:xtdf``, or the device of a control source.
    group : str
        ``image``, or '' for a control source.

    Returns
    -------
    TrainIndex

    Raises
    ------
    BrokenFile
        A dataset is missing or its length is wrong.
    """
    name = f"INDEX/{source}/{group}".rstrip("/")
    train_id = _vector(file, "INDEX/trainId")
    first = _vector(file, f"{name}/first")
    if f"{name}/count" in file:
        count = _vector(file, f"{name}/count")
    else:
        last, status = _vector(file, f"{name}/last"), _vector(file, f"{name}/status")
        if not len(first) == len(last) == len(status):
            raise _wrong_length(name, f"first {len(first)}, last {len(last)}, status {len(status)}", "equal lengths")
        count = np.where(status != 0, last - first + np.uint64(1), np.uint64(0))
    if len(first) != len(count):
        raise _wrong_length(name, f"first {len(first)}, count {len(count)}", "equal lengths")
    filled = np.flatnonzero(train_id)
    n_entries = filled[-1] + 1 if len(filled) else 0
    if len(count) < n_entries:
        raise _wrong_length(name, f"{len(count)} entries", f"{n_entries}, one per train of INDEX/trainId")
    counted = np.flatnonzero(count[: len(train_id)])
    if len(counted):
        n_entries = max(n_entries, counted[-1] + 1)
    return TrainIndex(
        train_id[:n_entries],
        _suspect(file, n_entries),
        np.minimum(first[:n_entries], HUGE).astype(np.int64),
        np.minimum(count[:n_entries], HUGE).astype(np.int64),
    )


def index_sha256(index):
    """Fingerprint of an INDEX: sha256 of the train ids, first and count."""
    digest = hashlib.sha256()
    for column in (index.train_id, index.first, index.count):
        digest.update(np.ascontiguousarray(column, dtype="<u8"))
    return digest.hexdigest()


def entry_faults(index, n_rows, row_train_id=None):
    """Judge each INDEX entry by itself.

    Parameters
    ----------
    index : TrainIndex
    n_rows : int or ndarray of int64, (E,)
        Rows that exist (one past the last that an entry may point to).
    row_train_id : ndarray of uint64, (R,), optional
        The train id that is stored with each row.

    Returns
    -------
    ndarray of uint8, (E,)
        0 = good, else the index into :data:`ENTRY_FAULTS`.
    """
    codes = np.zeros(len(index.train_id), dtype=np.uint8)
    end = index.first + index.count
    if row_train_id is not None and len(row_train_id):
        inside = (index.count > 0) & (end <= len(row_train_id))
        start = np.where(inside, index.first, 0)
        # Rows of equal train id form steps; an entry is whole when its first and last row are on one step.
        step = np.concatenate([[0], np.cumsum(row_train_id[1:] != row_train_id[:-1])])
        constant = step[start] == step[np.where(inside, end - 1, 0)]
        codes[inside & ~(constant & (row_train_id[start] == index.train_id))] = ENTRY_FAULTS.index("ids_disagree")
    codes[index.train_id == 0] = ENTRY_FAULTS.index("zero_train_id")
    codes[(index.count > 0) & (end > n_rows)] = ENTRY_FAULTS.index("out_of_range")
    codes[index.count == 0] = ENTRY_FAULTS.index("no_frames")
    return codes


def read_train_values(path, source, key, columns=None):
    """Read one key of a control or instrument source with the rows that belong to each train.

    Entries that cannot be trusted are left out: train id 0, rows that do not exist, another train id stored with
    the rows, and a train that appears twice (unless only one copy is not suspect).

    Parameters
    ----------
    path : str or Path
    source : str
        ``SPB_XTD9_XGM/XGM/DOOCS`` (control), ``SPB_XTD9_XGM/XGM/DOOCS:output`` (instrument).
    key : str
        ``pulseEnergy/wavelengthUsed/value`` or ``data.intensityTD``; dots and slashes mean the same.
    columns : int or None
        Of a list in each train, read the first so many values only, which saves memory; None reads all.

    Returns
    -------
    tuple or None
        ``(train_ids (E,) uint64, values (R, ...), first (E,) int64, count (E,) int64)``: the values of train
        ``train_ids[i]`` are ``values[first[i] : first[i] + count[i]]``, in the unit of the file. None when the file
        does not have the source or the key.

    Raises
    ------
    BrokenFile
        The file cannot be read or its INDEX is damaged.
    """
    key = key.replace(".", "/")
    with open_file(path) as file:
        dataset = _find_key(file, source, key)
        if dataset is None:
            return None
        group = key.split("/")[0] if ":" in source else ""
        try:
            index = read_index(file, source, group)
            values = dataset[:, :columns] if columns is not None and dataset.ndim == 2 else dataset[()]
            stored = file.get(f"INSTRUMENT/{source}/{group}/trainId") if group else None
            row_train_id = stored[()].reshape(-1) if stored is not None else None
        except OSError as error:
            raise _broken_hdf5(error, Path(path).stat().st_size) from error
    good = np.flatnonzero(entry_faults(index, len(values), row_train_id) == 0)
    good = good[single_copies(index.train_id[good], index.suspect[good])]
    return index.train_id[good], values, index.first[good], index.count[good]


def read_unit(path, source, key):
    """Unit of a key, from its attributes.

    Returns
    -------
    factor : float
        Of the metric prefix, such as 1e-6 for micro; 1 where there is none.
    symbol : str
        Such as ``"J"``; '' where the file does not say.
    """
    with open_file(path) as file:
        dataset = _find_key(file, source, key.replace(".", "/"))
        return (1.0, "") if dataset is None else unit_of(dataset)


def unit_of(dataset):
    """Unit of a dataset as (factor of the metric prefix, symbol); see :func:`read_unit`.

    A ``value`` dataset of a control source takes the attributes of its group first, as EXtra-data does.
    """
    holders = [dataset.parent, dataset] if dataset.name.endswith("/value") else [dataset]
    for holder in holders:
        symbol = _attribute_text(holder, "unitSymbol")
        if symbol:
            prefix = _attribute_text(holder, "metricPrefixSymbol")
            if prefix not in PREFIX_FACTORS:
                raise ValueError(f"{dataset.file.filename}: {dataset.name} has the unknown metric prefix {prefix!r}")
            return PREFIX_FACTORS[prefix], symbol
    return 1.0, ""


def _find_key(file, source, key):
    section = "INSTRUMENT" if ":" in source else "CONTROL"
    found = file.get(f"{section}/{source}/{key}")
    return found if isinstance(found, h5py.Dataset) else None


def single_copies(train_id, suspect):
    """Entries of trains that have one copy, or one that is not suspect: (E,) bool."""
    _, place, copies = np.unique(train_id, return_inverse=True, return_counts=True)
    unsuspect = np.bincount(place, weights=~suspect, minlength=len(copies))
    return (copies[place] == 1) | ((unsuspect[place] == 1) & ~suspect)


def _suspect(file, n_entries):
    suspect = np.zeros(n_entries, dtype=bool)
    version = format_version(file)
    if version == "0.5" or "INDEX/flag" not in file:
        return suspect
    flag = _vector(file, "INDEX/flag")[:n_entries]
    suspect[: len(flag)] = (flag != 0) if version == "1.1" else (flag == 0)
    return suspect


def _vector(file, name):
    dataset = file.get(name)
    if not isinstance(dataset, h5py.Dataset):
        raise BrokenFile("missing_dataset", f"{name} is missing", "copy or correct the file again")
    try:
        dtype = dataset.dtype
    except TypeError as error:  # no such type in numpy
        dtype = error
    if dataset.ndim != 1 or not isinstance(dtype, np.dtype) or dtype.kind not in "ui":
        raise BrokenFile(
            "wrong_shape",
            f"{name} has shape {dataset.shape} and dtype {dtype}; expected one axis of integers",
            "copy or correct the file again",
        )
    return dataset[()].astype(np.uint64)


def _wrong_length(name, found, expected):
    return BrokenFile("wrong_length", f"{name}: found {found}; expected {expected}", "copy or correct the file again")


def _metadata_text(file, name):
    dataset = file.get(f"METADATA/{name}")
    if not isinstance(dataset, h5py.Dataset) or dataset.size == 0:
        return ""
    return _text(np.ravel(dataset[()])[0])


def _metadata_number(file, name):
    dataset = file.get(f"METADATA/{name}")
    if not isinstance(dataset, h5py.Dataset) or dataset.size == 0 or dataset.dtype.kind not in "ui":
        return None
    return int(np.ravel(dataset[()])[0])


def _attribute_text(holder, name):
    value = holder.attrs.get(name, "")
    return _text(np.ravel(value)[0]) if np.size(value) else ""


def _text(value):
    return value.decode("utf-8", "replace").rstrip("\0") if isinstance(value, bytes) else str(value)
