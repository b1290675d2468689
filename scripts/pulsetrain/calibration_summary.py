"""What the pictures of a calibration need of the large files of one module: medians, spreads, numbers.

The constants of a module are some GB, its pictures need some MB of them. The mask has no part in it, so that a changed
interval redraws pictures without reading the constants again.
"""

import json
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.constants import GAIN_STAGES, UNKNOWN_THRESHOLD
from pulsetrain.detector import LAB_SHAPE
from pulsetrain.output import new_h5, write_array

BAND_ROWS = 16  # rows of pixels whose cells are sorted at a time; 352 cells of them are 11.5 MB
PERCENTILES = (16, 50, 84)  # median and the range of one standard deviation of a normal distribution


class Quantity(NamedTuple):
    """A dataset to be summarised.

    Attributes
    ----------
    source : str
        Which of the module's files has it.
    dataset : str
    stages : int
        Length of the first axis (gain stages or thresholds); 1 if there is none before that of the memory cells.
    units : str
    """

    source: str
    dataset: str
    stages: int
    units: str


PER_CELL = (
    Quantity("constants", "darkOffsets", GAIN_STAGES, "ADU"),
    Quantity("dark", "darkStandardDeviation", 1, "ADU"),
    Quantity("constants", "analogGains_keV", GAIN_STAGES, "keV/ADU"),
    Quantity("constants", "digitalThresholds", GAIN_STAGES - 1, "ADU"),
    Quantity("gains", "analogFitStdDevs", GAIN_STAGES, "ADU"),
)
PER_PIXEL = (("photonSpacing", "ADU"), ("spacingError", "ADU"), ("quality", "frames/ADU"))
FAILED = "fitFailed"


class Summary(NamedTuple):
    """Summary of one module.

    Attributes
    ----------
    module : int
    maps : dict of {str: ndarray of float32, (stages, 128, 512)}
        Median over the memory cells, laboratory orientation.
    cells : dict of {str: ndarray of float32, (3, stages, cells)}
        16, 50 and 84 % of the pixels below.
    units : dict of {str: str}
    numbers : dict
        See :func:`count_module`.
    """

    module: int
    maps: dict
    cells: dict
    units: dict
    numbers: dict


def summarize(paths, module, output, attributes):
    """Write the summary of a module.

    Parameters
    ----------
    paths : dict of {str: str}
        Files ``dark``, ``gains``, ``spacing`` and ``constants`` of the module.
    module : int
    output : str
        Datasets ``maps/<quantity>`` float32 (stages, 128, 512), median over the memory cells, and
        ``cells/<quantity>`` float32 (3, stages, cells), percentiles over the pixels; attribute ``numbers`` (JSON).
    attributes : dict
        Provenance.

    Raises
    ------
    ValueError
        A file is of another module or orientation.
    """
    files = {name: h5py.File(path) for name, path in paths.items()}
    try:
        _require_module(files, module)
        with new_h5(output, attributes | {"module": module, "orientation": "lab"}) as file:
            fitted = {}
            for quantity in PER_CELL:
                maps, cells, finite = _summarize_quantity(files[quantity.source][quantity.dataset], quantity)
                write_array(file, f"maps/{quantity.dataset}", maps, quantity.units, "median over the memory cells")
                write_array(
                    file, f"cells/{quantity.dataset}", cells, quantity.units, "16, 50, 84 % of the pixels below"
                )
                fitted[quantity.dataset] = finite
            for name, units in PER_PIXEL:
                write_array(file, f"maps/{name}", files["spacing"][name][()][None].astype(np.float32), units)
            present = fitted["darkStandardDeviation"][0] > 0
            failed = _failed_percent(files["gains"], np.flatnonzero(present))
            write_array(file, f"maps/{FAILED}", failed[None], "%", "memory cells without all lines")
            file.attrs["numbers"] = json.dumps(count_module(files, present), sort_keys=True)
    finally:
        for held in files.values():
            held.close()


def read_summary(path):
    """Read what :func:`summarize` wrote.

    Returns
    -------
    Summary
    """
    with h5py.File(path) as file:
        maps = {name: held[()] for name, held in file["maps"].items()}
        cells = {name: held[()] for name, held in file["cells"].items()}
        units = {name: held.attrs["units"] for name, held in file["maps"].items()}
        return Summary(int(file.attrs["module"]), maps, cells, units, json.loads(file.attrs["numbers"]))


def count_module(files, present):
    """Numbers of a module for the table of the report.

    Parameters
    ----------
    files : dict of {str: h5py.File}
    present : ndarray of bool, (cells,)
        Memory cells with dark data.

    Returns
    -------
    dict
        ``cells`` in the files, ``cellsPresent`` (with dark data), ``bursts``, ``scanPoints``, ``xrayFrames``,
        ``xrayCell`` (None where a file does not say), ``fittedPercent`` per gain stage and of the photon spacing,
        ``failures`` and ``xrayFailures`` {reason: number of pixels and cells}.
    """
    pixels = LAB_SHAPE[0] * LAB_SHAPE[1]
    possible = max(int(present.sum()), 1) * pixels
    samples = files["gains"].get("samples")
    spacing = files["spacing"]["photonSpacing"][()]
    return {
        "cells": len(present),
        "cellsPresent": int(present.sum()),
        "bursts": _attribute(files["dark"], "bursts"),
        "scanPoints": None if samples is None else samples["integrationTime"].shape[0],
        "xrayFrames": _attribute(files["spacing"], "frames"),
        "xrayCell": _attribute(files["spacing"], "cell"),
        "fittedPercent": [
            100 * int(stage[present].sum()) / possible for stage in _finite_pixels(files["gains"], "analogGains")
        ],
        "spacingPercent": 100 * int(np.isfinite(spacing).sum()) / pixels,
        "failures": _reasons(files["gains"]["fitStatus"], np.flatnonzero(present)),
        "xrayFailures": _reasons(files["spacing"]["fitStatus"]),
    }


def median_over_cells(values):
    """Median over the memory cells that have a finite value; NaN for pixels without any.

    Parameters
    ----------
    values : ndarray of float32, (cells, 128, 512)

    Returns
    -------
    ndarray of float32, (128, 512)
    """
    median = np.full(values.shape[1:], np.nan, np.float32)
    for row in range(0, values.shape[1], BAND_ROWS):
        band = slice(row, row + BAND_ROWS)
        held = np.where(np.isfinite(values[:, band]), values[:, band], np.nan)
        held.sort(axis=0)  # NaN comes last
        count = np.isfinite(held).sum(axis=0, keepdims=True)
        lower, upper = (
            np.take_along_axis(held, np.maximum(position, 0), axis=0)[0] for position in ((count - 1) // 2, count // 2)
        )
        median[band] = np.where(count[0] > 0, (lower + upper) / 2, np.nan) if len(held) else np.nan
    return median


def _summarize_quantity(dataset, quantity):
    n_cells = dataset.shape[-3]
    maps = np.full((quantity.stages, *LAB_SHAPE), np.nan, np.float32)
    cells = np.full((len(PERCENTILES), quantity.stages, n_cells), np.nan, np.float32)
    finite = np.zeros((quantity.stages, n_cells), np.int64)
    for stage in range(quantity.stages):
        # All cells of one stage are 92 MB at most, whatever the amount of measured data.
        values = _stage(dataset, quantity, stage)
        maps[stage] = median_over_cells(values)
        for cell, image in enumerate(values):
            known = image[np.isfinite(image)]
            finite[stage, cell] = len(known)
            if len(known):
                cells[:, stage, cell] = np.percentile(known, PERCENTILES)
    return maps, cells, finite


def _stage(dataset, quantity, stage):
    values = dataset[stage] if quantity.stages > 1 else dataset[()]
    if np.issubdtype(values.dtype, np.integer):
        return np.where(values == UNKNOWN_THRESHOLD, np.float32(np.nan), values.astype(np.float32))
    return values


def _finite_pixels(file, name):
    """Pixels with a finite value, (stages, cells), read cell by cell."""
    dataset = file[name]
    return np.array(
        [[np.isfinite(dataset[stage, cell]).sum() for cell in range(dataset.shape[1])] for stage in range(len(dataset))]
    )


def _failed_percent(file, cells):
    failed = np.zeros(LAB_SHAPE, np.int64)
    for cell in cells:
        failed += file["fitStatus"][cell] != 0
    return (100 * failed / max(len(cells), 1)).astype(np.float32)


def _reasons(status, cells=None):
    """Number of pixels (and cells) for each reason why a fit failed, most frequent first."""
    codes = read_codes(status)
    total = np.zeros(256, np.int64)
    for image in [status[()]] if cells is None else (status[cell] for cell in cells):
        total += np.bincount(image.ravel(), minlength=256)
    found = [code for code in np.argsort(-total, kind="stable") if total[code] and code != 0]
    return {codes.get(code, f"code {code}"): int(total[code]) for code in found}


def read_codes(status):
    """Meaning of the codes of a ``fitStatus`` dataset: {code: text}."""
    return {int(code): text for code, text in json.loads(status.attrs.get("codes", "{}")).items()}


def _attribute(file, name):
    return int(file.attrs[name]) if name in file.attrs else None


def _require_module(files, module):
    problems = []
    for name, file in files.items():
        for key, expected in (("module", module), ("orientation", "lab")):
            found = file.attrs.get(key)
            if found != expected:
                problems.append(f"{file.filename} ({name}): attribute {key} is {found}; expected {expected}")
    if problems:
        raise ValueError(
            "; ".join(problems) + ". Take the files of one module, or remove the wrong ones: they are made again"
        )
