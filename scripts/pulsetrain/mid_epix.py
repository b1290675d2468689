"""The ePix cameras of a MID run: which row of which file is the frame of each train."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from pulsetrain.exdf import (
    ENTRY_FAULTS,
    BrokenFile,
    TrainIndex,
    entry_faults,
    list_sources,
    open_file,
    parse_name,
    read_index,
    read_metadata,
    single_copies,
)

EPIX_SHAPE = (708, 768)  # with the two calibration rows at either end
EPIX_DTYPES = ("uint16", "int16")
GROUP = "data"
PIXELS = "data/image/pixels"
FAULT_WORDS = dict(
    zip(
        ENTRY_FAULTS[1:],
        ("trainId 0", "INDEX beyond the data", "no frame", "INDEX and data disagree"),
        strict=True,
    )
)
TWICE, SEVERAL = "appears twice", "several frames"


class EpixTrains(NamedTuple):
    """What the files of one ePix hold of each train.

    Attributes
    ----------
    number : int
        1 or 2.
    train_id : ndarray of uint64, (E,)
        Ascending.
    problem : ndarray of str, (E,)
        Why the train has no frame that can be used; '' if it has exactly one.
    file : ndarray of int64, (E,)
        Row of `files`; -1 where there is a problem.
    row : ndarray of int64, (E,)
        Row in that file's pixels.
    files : pandas.DataFrame
        path, rows (frames in the file); files that cannot be used are left out.
    dtype : numpy.dtype
    faults : list of str
        Everything that was found wrong, one line each.
    """

    number: int
    train_id: np.ndarray
    problem: np.ndarray
    file: np.ndarray
    row: np.ndarray
    files: pd.DataFrame
    dtype: np.dtype
    faults: list


def epix_source(number):
    """Source name of an ePix."""
    return f"MID_EXP_EPIX-{number}/DET/RECEIVER:daqOutput"


def epix_aggregator(number):
    """Part of the file names of an ePix, such as ``EPIX01``."""
    return f"EPIX{number:02d}"


def find_epix_trains(files, number, run, sizes):
    """Find the frame of each train in all files of one ePix.

    A row is found by INDEX first and count of its own file, never by the place of the train in INDEX/trainId. A train
    is used when it has exactly one row; where it stands twice, the copy that INDEX/flag does not doubt.

    Parameters
    ----------
    files : list of str or Path
        Of this ePix.
    number : int
    run : int
    sizes : dict
        {file name: bytes} when the work was planned.

    Returns
    -------
    EpixTrains

    Raises
    ------
    ValueError
        None of the files can be used.
    """
    read, faults = [], []
    for path in sorted(map(Path, files)):
        try:
            read.append(_read_file(path, number, run, sizes.get(path.name)))
        except (BrokenFile, OSError, RuntimeError) as error:
            faults.append(f"{path.name}: {error}" + (f"; {error.next_step}" if isinstance(error, BrokenFile) else ""))
    faults += [
        f"{odd.path.name}: left out, its pixels are {odd.dtype}, those of {read[0].path.name} {read[0].dtype}"
        for odd in read
        if odd.dtype != read[0].dtype
    ]
    read = [file for file in read if file.dtype == read[0].dtype]
    if not read:
        raise ValueError(
            f"no file of EPIX-{number} can be used:\n"
            + "".join(f"  {line}\n" for line in faults)
            + f"Copy the files again, or leave {number} out of mid.epix."
        )
    held = {int(parse_name(path)[3]) for path in files}
    faults += [
        f"there is no file of sequence {sequence}, but there are files up to sequence {max(held)}; copy the run again"
        for sequence in range(max(held))
        if sequence not in held
    ]
    faults += [line for file in read for line in _entry_lines(file)]
    files = pd.DataFrame({"path": [str(file.path) for file in read], "rows": [file.n_rows for file in read]})
    return EpixTrains(number, *_settle(read), files, read[0].dtype, faults)


class _File(NamedTuple):
    path: Path
    index: TrainIndex
    codes: np.ndarray
    n_rows: int
    dtype: np.dtype


def _read_file(path, number, run, planned_size):
    with open_file(path) as file:
        size = path.stat().st_size
        if planned_size not in (None, size):
            raise BrokenFile(
                "being_copied",
                f"still being copied: {size} bytes now, {planned_size} when the work was planned",
                "wait until the run is copied, then run snakemake again",
            )
        if (found := read_metadata(file)["run"]) not in (None, run):
            raise BrokenFile(
                "foreign_file", f"METADATA/runNumber: found {found}; expected {run}", "put the file of this run there"
            )
        source = epix_source(number)
        if f"INDEX/{source}/{GROUP}" not in file:
            names = ", ".join(list_sources(file)[:4]) or "none"
            raise BrokenFile(
                "foreign_file", f"found the sources {names}; expected {source}", "put the right file there"
            )
        index = read_index(file, source, GROUP)
        pixels = file.get(f"INSTRUMENT/{source}/{PIXELS}")
        if pixels is None:
            raise BrokenFile("missing_dataset", f"INSTRUMENT/{source}/{PIXELS} is missing", "copy the file again")
        if pixels.shape[1:] != EPIX_SHAPE or pixels.dtype.name not in EPIX_DTYPES:
            raise BrokenFile(
                "wrong_shape",
                f"{PIXELS}: found {pixels.dtype} {pixels.shape}; expected uint16 (frames, 708, 768)",
                "these are not the ePix100's raw data",
            )
        stored = file.get(f"INSTRUMENT/{source}/{GROUP}/trainId")
        row_train_id = None if stored is None else stored[()].reshape(-1)
        codes = entry_faults(index, len(pixels), row_train_id)
        return _File(path, index, codes, len(pixels), pixels.dtype)


def _settle(read):
    """One line per train: (train_id, problem, file, row) as in :class:`EpixTrains`."""
    columns = [np.concatenate(column) for column in zip(*(file.index for file in read), strict=True)]
    train_id, suspect, first, count = columns
    file = np.repeat(np.arange(len(read)), [len(each.codes) for each in read])
    words = np.array(["", *(FAULT_WORDS[name] for name in ENTRY_FAULTS[1:])], dtype=object)
    problem = words[np.concatenate([each.codes for each in read])]
    whole = np.flatnonzero(problem == "")
    problem[whole[~single_copies(train_id[whole], suspect[whole])]] = TWICE
    problem[(problem == "") & (count != 1)] = SEVERAL
    # A train may have a faulty entry beside the one that is used, such as the doubted copy.
    known = np.flatnonzero(train_id != 0)
    known = known[np.lexsort((problem[known] != "", train_id[known]))]
    train_id, chosen = np.unique(train_id[known], return_index=True)
    chosen = known[chosen]
    usable = problem[chosen] == ""
    return (
        train_id,
        problem[chosen].astype(str),
        np.where(usable, file[chosen], -1),
        np.where(usable, first[chosen], -1),
    )


def _entry_lines(file):
    """What is wrong with the entries of one file; a count of 0 is not told here but with the trains."""
    lines = []
    for code, name in enumerate(ENTRY_FAULTS[1:], start=1):
        found = np.flatnonzero(file.codes == code)
        if len(found) and name != "no_frames":
            where = ", ".join(map(str, found[:5])) + (", ..." if len(found) > 5 else "")
            lines.append(f"{file.path.name}: {FAULT_WORDS[name]} in {len(found)} entries of INDEX ({where}); not used")
    return lines
