"""Numbered ``.nxs`` parts, as the detector laboratory's data acquisition writes them.

``/entry/instrument/detector/data`` (frames, 128, 512) holds, for each burst and in it for each memory cell, the analog
and then the digital image. The parts of one measurement count on from each other and may have any length.
"""

import re
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.detector import LAB_SHAPE
from pulsetrain.exdf import BrokenFile, open_file
from pulsetrain.frame_pairs import PairTable

DATASET = "entry/instrument/detector/data"
PART_NAME = re.compile(r"(.*?)(\d+)\.nxs")
MODULE_IN_NAME = re.compile(r"_m(\d+)(?=[_.])")


class Part(NamedTuple):
    """One file: its number (-1 where the name has none) and its frames, analog and digital ones counted."""

    path: Path
    number: int
    n_frames: int


def find_parts(paths, module, sizes=None):
    """Sort the parts of one measurement and check each.

    Parameters
    ----------
    paths : list of str or Path
        All parts, in any order.
    module : int
        Where a name has ``_m<number>_``, it must be this one.
    sizes : dict, optional
        {path or file name: bytes} when the work was planned; another size means that a file is still being copied.

    Returns
    -------
    parts : list of Part
        By number; those that cannot be used are left out.
    problems : list of str
        What is wrong with files, each with the next step.
    """
    if not paths:
        return [], ["there is no file; correct the names in the config, or copy the files"]
    names = [_parse_name(path) for path in map(Path, paths)]
    problems = _numbering_problems(names)
    parts = []
    for path, _, number in sorted(names, key=lambda name: (name[1], name[2])):
        try:
            _check_module(path, module)
            parts.append(
                Part(path, number, _count_frames(path, (sizes or {}).get(str(path), (sizes or {}).get(path.name))))
            )
        except BrokenFile as error:
            problems.append(f"{path}: {error}; {error.next_step}")
    return parts, problems


def _parse_name(path):
    """Give (path, stem, number of the part), number -1 where the name does not end in one."""
    match = PART_NAME.fullmatch(path.name)
    return (path, path.stem, -1) if match is None else (path, match[1], int(match[2]))


def _numbering_problems(names):
    problems = []
    stems = sorted({stem for _, stem, _ in names})
    if len(stems) > 1:
        problems.append(
            f"the parts have different names: {', '.join(stems[:4])}; expected one name with the number of the part "
            "at its end (such as ..._part00000.nxs), so correct the pattern in the config"
        )
        return problems
    numbers = sorted(number for _, _, number in names)
    repeated = sorted({number for number in numbers if numbers.count(number) > 1})
    if repeated:
        where = [str(path) for path, _, number in names if number in repeated]
        problems.append(f"part {', '.join(map(str, repeated))} is there more than once: {', '.join(where)}; keep one")
    # One file whose name ends in some number (a cell, a run) is not a first part that misses others.
    if len(names) == 1 and not stems[0].endswith("part"):
        return problems
    missing = sorted(set(range(numbers[-1])) - set(numbers))
    if missing:
        shown = ", ".join(map(str, missing[:20])) + (" ..." if len(missing) > 20 else "")
        problems.append(
            f"{stems[0]}*.nxs: part {shown} is missing (there are {len(numbers)} parts up to number {numbers[-1]}, "
            "counted from 0); copy it again"
        )
    return problems


def _check_module(path, module):
    named = {int(number) for number in MODULE_IN_NAME.findall(path.name)}
    if named and named != {module}:
        raise BrokenFile(
            "foreign_file",
            f"the name says module {', '.join(map(str, sorted(named)))}; expected module {module}",
            "correct the pattern in the config, which needs {module} where the number of the module stands",
        )


def _count_frames(path, planned_size):
    with open_file(path) as file:
        size = path.stat().st_size
        if planned_size is not None and planned_size != size:
            raise BrokenFile(
                "being_copied",
                f"still being copied: {size} bytes now, {planned_size} when the work was planned",
                "wait until it is copied, then run snakemake again",
            )
        data = file.get(DATASET)
        if not isinstance(data, h5py.Dataset):
            held = ", ".join(file) or "nothing"
            raise BrokenFile(
                "missing_dataset", f"/{DATASET} is missing (the file has {held})", "put the right file in its place"
            )
        if data.ndim != 3 or data.shape[1:] != LAB_SHAPE:
            raise BrokenFile(
                "wrong_shape",
                f"/{DATASET} has shape {data.shape}; expected (frames, {LAB_SHAPE[0]}, {LAB_SHAPE[1]})",
                "put the right file in its place",
            )
        if data.dtype.kind not in "ui" or data.dtype.itemsize > 2:
            raise BrokenFile(
                "wrong_dtype",
                f"/{DATASET} is {data.dtype}; expected integers of at most 16 bits",
                "put the raw data in its place",
            )
        return data.shape[0]


def count_bursts(parts, n_cells):
    """Count the bursts in all parts together.

    Parameters
    ----------
    parts : list of Part
    n_cells : int
        Memory cells per burst.

    Returns
    -------
    n_bursts : int
    problems : list of str
        The frames do not fill whole bursts, or there are none.
    """
    per_burst = 2 * n_cells
    n_frames = sum(part.n_frames for part in parts)
    if n_frames == 0 and parts:
        return 0, [f"{', '.join(part.path.name for part in parts)}: no frames; take the data again or copy them again"]
    n_bursts, rest = divmod(n_frames, per_burst)
    if not rest:
        return n_bursts, []
    lengths = [part.n_frames for part in parts]
    usual = max(set(lengths), key=lengths.count)
    told = []
    for part in parts:
        whole, more = divmod(part.n_frames, per_burst)
        if more or (len(parts) > 2 and part.n_frames < usual):
            told.append(
                f"{part.path}: {part.n_frames} frames = {whole} bursts"
                + (f" and {more} frames" if more else f", fewer than the {usual} of most parts")
            )
    return n_bursts, [
        f"{n_frames} frames in {len(parts)} parts are no whole number of bursts of 2 x {n_cells} frames ({rest} frames "
        f"remain): {'; '.join(told)}; copy these parts again, or correct the number of memory cells"
    ]


def pair_table(parts, n_bursts, n_cells):
    """Where the image pairs of each burst and memory cell lie.

    Parameters
    ----------
    parts : list of Part
    n_bursts, n_cells : int

    Returns
    -------
    PairTable
        With two rows per pair: the cut between two parts may go through a burst, even through a pair.
    """
    ends = np.cumsum([part.n_frames for part in parts], dtype=np.int64)
    frame = np.arange(2 * n_bursts * n_cells, dtype=np.int64)
    file = np.searchsorted(ends, frame, side="right").astype(np.int32)
    first = ends - [part.n_frames for part in parts]
    shape = (n_bursts, n_cells, 2)
    return PairTable(
        [part.path for part in parts],
        [DATASET] * len(parts),
        file.reshape(shape),
        (frame - first[file]).reshape(shape),
    )
