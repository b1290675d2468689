"""Checks of gathered calibration files (``calibration/{calibration}/gathered/m{module}_{kind}.h5``), and plain reading.

All are in laboratory orientation, (..., 128, 512), with ``analog`` and ``digital`` int16 of one shape.
"""

import os

import h5py
import numpy as np

from pulsetrain.detector import LAB_SHAPE

NEXT_STEP = "Gather the {kind} data of module {module:02d} again"


def check_gathered(path, kind, module, fewest, axes, attributes=None):
    """Raise unless a gathered file is whole, of the right kind and module, and has the right shape and type.

    Parameters
    ----------
    path : str or Path
    kind : str
        "dark", "current_source" or "xray".
    module : int
    fewest : int
        Fewest entries on the first axis with which the data can be processed.
    axes : tuple of str
        Names of the axes before the rows and columns of pixels, such as ("bursts", "cells").
    attributes : dict, optional
        More attributes that the file must have.

    Returns
    -------
    tuple of int
        Shape of ``analog``.

    Raises
    ------
    ValueError
        All that is wrong, and what to do.
    """
    problems = []
    shape = ()
    try:
        with h5py.File(path) as file:
            expected_attributes = {"module": module, "kind": kind, "orientation": "lab"} | (attributes or {})
            for name, expected in expected_attributes.items():
                found = file.attrs.get(name)
                if found != expected:
                    problems.append(f"attribute {name} is {found}; expected {expected}")
            if not isinstance(file.get("analog"), h5py.Dataset):
                problems.append(f"analog is missing (there are {', '.join(file) or 'no datasets'})")
            else:
                shape = file["analog"].shape
                problems += _dataset_problems(file["analog"], fewest, axes)
            if "cells" in axes and len(shape) == 4:
                problems += _cell_problems(file, shape[1])
    except OSError as error:
        problems.append(f"it cannot be read ({error}): cut off, or not HDF5")
    if problems:
        raise ValueError(f"{path}: {'; '.join(problems)}. {NEXT_STEP.format(kind=kind, module=module)}.")
    return shape


def read_fully(descriptor, buffer, begin, path):
    """Read bytes from a file into an array; all of them or an error.

    Parameters
    ----------
    descriptor : int
        File, open for reading.
    buffer : ndarray, contiguous
        Where they go.
    begin : int
        First byte in the file.
    path : str or Path
        For the error.
    """
    view = memoryview(buffer.reshape(-1).view(np.uint8))
    done = 0
    while done < len(view):
        n = os.preadv(descriptor, [view[done:]], begin + done)
        if n == 0:
            raise ValueError(
                f"{path}: the file ends at byte {begin + done}, but the data go on to byte {begin + len(view)}; it was "
                "cut off. Gather the data again."
            )
        done += n


def _dataset_problems(analog, fewest, axes):
    expected = f"({', '.join(axes)}, {LAB_SHAPE[0]}, {LAB_SHAPE[1]})"
    if analog.ndim != len(axes) + 2 or analog.shape[-2:] != LAB_SHAPE or 0 in analog.shape[1:]:
        yield f"analog has shape {analog.shape}; expected {expected}"
    elif len(analog) < fewest:
        yield f"analog has {len(analog)} {axes[0]}; at least {fewest} are needed"
    if analog.dtype != np.dtype("<i2"):
        yield f"analog is {analog.dtype.str}; expected <i2 (int16)"


def _cell_problems(file, n_cells):
    present = file.get("cellPresent")
    if not isinstance(present, h5py.Dataset) or present.shape != (n_cells,) or present.dtype != bool:
        found = "missing" if present is None else f"{getattr(present, 'dtype', '')} {getattr(present, 'shape', '')}"
        yield f"cellPresent is {found}; expected bool ({n_cells},), one for each memory cell of analog"
