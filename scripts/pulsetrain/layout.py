"""The frame table of a run and where each module's frames lie in the source files.

Both ``frames/r....h5`` and the VDS (in its group ``/pulsetrain``) hold it; docs/file-formats.md describes it.
"""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd

FILE_TEXT = ("name", "source", "format_version", "update_date", "index_sha256", "problem")
FILE_NUMBERS = {"module": "u1", "sequence": "u2", "size": "u8", "rows": "u8"}
SEGMENT_COLUMNS = {"module": "u1", "file": "u4", "source_start": "u8", "frame_start": "u8", "count": "u8"}


class RunLayout(NamedTuple):
    """The kept frames of a run, in the order (train, pulse), and where their pixels are.

    Attributes
    ----------
    train_id, pulse_id : ndarray of uint64, (N,)
    cell_id : ndarray of uint16, (N,)
    modules : ndarray of uint32, (N,)
        Bit m is set when module m has the frame.
    files : pandas.DataFrame
        One row per source file: name (relative to the directory of the file that holds this table), module,
        sequence, size [bytes], rows, source, format_version, update_date, index_sha256, problem ('' = readable).
    segments : pandas.DataFrame
        module, file (row of `files`), source_start, frame_start, count: `count` frames from frame `frame_start`
        on are the rows from `source_start` on of that file's image datasets.
    attributes : dict
        Attributes of the group: run, stream, detector, data_dtype, ...
    """

    train_id: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray
    modules: np.ndarray
    files: pd.DataFrame
    segments: pd.DataFrame
    attributes: dict


def write_layout(group, layout):
    """Write the frame table and segments into an HDF5 group."""
    packed = {"compression": "gzip", "compression_opts": 1, "shuffle": True} if len(layout.train_id) else {}
    for name, values, dtype in (
        ("trainId", layout.train_id, "u8"),
        ("pulseId", layout.pulse_id, "u8"),
        ("cellId", layout.cell_id, "u2"),
        ("modules", layout.modules, "u4"),
    ):
        group.create_dataset(name, data=np.asarray(values, dtype), **packed)
    files = group.create_group("files")
    for name in FILE_TEXT:
        files.create_dataset(name, data=[str(text) for text in layout.files[name]], dtype=h5py.string_dtype())
    for name, dtype in FILE_NUMBERS.items():
        files.create_dataset(name, data=layout.files[name].to_numpy(dtype))
    segments = group.create_group("segments")
    for name, dtype in SEGMENT_COLUMNS.items():
        segments.create_dataset(name, data=layout.segments[name].to_numpy(dtype))
    for name, value in layout.attributes.items():
        group.attrs[name] = value


def read_layout(path, group="/"):
    """Read the frame table and segments of a run.

    Parameters
    ----------
    path : str or Path
        ``frames/r....h5`` (group ``/``) or the VDS (group ``/pulsetrain``).
    group : str

    Returns
    -------
    RunLayout
    """
    with h5py.File(path) as file:
        held = file[group]
        columns = {name: held[f"files/{name}"].asstr()[()] for name in FILE_TEXT}
        columns |= {name: held[f"files/{name}"][()] for name in FILE_NUMBERS}
        segments = {name: held[f"segments/{name}"][()] for name in SEGMENT_COLUMNS}
        return RunLayout(
            held["trainId"][()],
            held["pulseId"][()],
            held["cellId"][()],
            held["modules"][()],
            pd.DataFrame(columns),
            pd.DataFrame(segments),
            dict(held.attrs),
        )


def source_rows(layout, module):
    """Where each frame of one module lies.

    Returns
    -------
    file : ndarray of int32, (N,)
        Row of ``layout.files``; -1 where the module does not have the frame.
    row : ndarray of int64, (N,)
        Row in that file's image datasets.
    """
    n_frames = len(layout.train_id)
    file = np.full(n_frames, -1, dtype=np.int32)
    row = np.full(n_frames, -1, dtype=np.int64)
    held = layout.segments[layout.segments["module"] == module]
    for segment in held.itertuples():
        frames = slice(int(segment.frame_start), int(segment.frame_start) + int(segment.count))
        file[frames] = segment.file
        row[frames] = np.arange(int(segment.source_start), int(segment.source_start) + int(segment.count))
    return file, row


def source_path(layout_path, name):
    """Full path of a source file named in the layout that `layout_path` holds."""
    return Path(layout_path).resolve().parent / name


def is_present(modules, module):
    """Which frames a module has: bit `module` of `modules`, (N,) bool."""
    return (np.asarray(modules) >> np.uint32(module)) & np.uint32(1) == 1
