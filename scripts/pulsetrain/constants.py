"""Calibration constants and masks of one module, for the memory cells that a run uses."""

from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.chunks import Storage, read_rows
from pulsetrain.detector import LAB_SHAPE, MODULE_SHAPE, N_MODULES, PIXELS, xfel_from_lab

GAIN_STAGES = 3
UNKNOWN_THRESHOLD = 32767  # above every digital level
UNKNOWN_MIDPOINT = 65535  # the same in the processed files
DATASETS = {"darkOffsets": GAIN_STAGES, "analogGains_keV": GAIN_STAGES, "digitalThresholds": GAIN_STAGES - 1}


class Calibration(NamedTuple):
    """Constants of one module as the kernels want them; European XFEL orientation, pixels flat.

    Attributes
    ----------
    offset : ndarray of float32, (3, cells, 65536)
        (gain stage, cell, pixel) [ADU]; 0 where not finite.
    gain : ndarray of float32, (3, cells, 65536)
        [photons / ADU]; 0 where not finite.
    limit : ndarray of uint16, (2, cells, 65536)
        Smallest digital level [ADU] above the lower and above the higher threshold.
    finite : ndarray of bool, (cells, 65536)
        All three offsets and gains are finite.
    """

    offset: np.ndarray
    gain: np.ndarray
    limit: np.ndarray
    finite: np.ndarray


class ConstantsFile(NamedTuple):
    """Constants of one module, checked and ready to be read cell by cell."""

    module: int
    photon_energy_kev: float
    n_cells: int
    storages: dict


def open_constants(path, module, cells, photon_energy_kev, storage_of):
    """Check the constants of one module.

    Parameters
    ----------
    path : str or Path
        ``constants_m...h5``: analogGains_keV [keV / ADU] and darkOffsets [ADU], both float32 (3, cells, 128, 512), and
        digitalThresholds int16 (2, cells, 128, 512) [ADU], in laboratory orientation.
    module : int
    cells : array of int
        Memory cells of the run, which are rows of the cell axis.
    photon_energy_kev : float
    storage_of : callable
        From :func:`pulsetrain.chunks.open_storages`.

    Returns
    -------
    ConstantsFile

    Raises
    ------
    ValueError
        The file is of another module or orientation, has other shapes or types, or lacks a cell.
    """
    n_cells = _check_constants(path, module, np.asarray(cells, np.int64))
    return ConstantsFile(module, photon_energy_kev, n_cells, {name: storage_of(path, name, 2) for name in DATASETS})


def read_constants(opened, cells, pool=None):
    """Read the constants of some memory cells; turn them to photons and to European XFEL orientation.

    Parameters
    ----------
    opened : ConstantsFile
    cells : array of int, (n,)
    pool : concurrent.futures.Executor, optional
        Threads that share the reading.

    Returns
    -------
    Calibration
    """
    cells = np.asarray(cells, np.int64)
    held = {}
    for name, stages in DATASETS.items():
        rows = (np.arange(stages)[:, None] * opened.n_cells + cells).reshape(-1)
        values = read_rows(opened.storages[name], rows, pool).reshape(stages, len(cells), *LAB_SHAPE)
        held[name] = np.empty((stages, len(cells), PIXELS), values.dtype)
        held[name].reshape(stages, len(cells), *MODULE_SHAPE)[...] = xfel_from_lab(values, opened.module)
    return prepare_constants(
        held["darkOffsets"], held["analogGains_keV"], held["digitalThresholds"], opened.photon_energy_kev
    )


def prepare_constants(offset, gain_kev, threshold, photon_energy_kev):
    """Prepare constants for the kernels.

    Parameters
    ----------
    offset, gain_kev : ndarray of float32, (3, cells, 65536)
        [ADU], [keV / ADU]. Changed in place.
    threshold : ndarray of int16, (2, cells, 65536)
        [ADU]; the stage goes up by one for each that the digital level is above.
    photon_energy_kev : float

    Returns
    -------
    Calibration
    """
    energy = np.float32(photon_energy_kev)
    finite = np.ones(offset.shape[1:], bool)
    for stage in range(GAIN_STAGES):
        finite &= np.isfinite(offset[stage]) & np.isfinite(gain_kev[stage])
        np.divide(gain_kev[stage], energy, out=gain_kev[stage])
    for stage in range(GAIN_STAGES):
        offset[stage][~finite] = 0
        gain_kev[stage][~finite] = 0
    limit = np.empty(threshold.shape, np.uint16)
    # An integer is above t when it is at least t + 1; the order of the two thresholds does not matter for their sum.
    # A negative threshold is below every digital level, so that the limit is 0.
    limit[0] = np.maximum(threshold.min(axis=0), np.int16(-1)).astype(np.uint16) + np.uint16(1)
    limit[1] = np.maximum(threshold.max(axis=0), np.int16(-1)).astype(np.uint16) + np.uint16(1)
    return Calibration(offset, gain_kev, limit, finite)


def constants_problems(path, module, cells):
    """Find what is wrong with the format of a file of constants.

    Parameters
    ----------
    path, module, cells
        As for :func:`open_constants`.

    Returns
    -------
    n_cells : int
        Memory cells that the file has; 0 if that cannot be told.
    problems : list of str
    """
    problems = []
    with h5py.File(path) as file:
        if (found := file.attrs.get("module")) != module:
            problems.append(f"attribute module is {found}; expected {module}")
        if (found := file.attrs.get("orientation")) != "lab":
            problems.append(f"attribute orientation is {found!r}; expected 'lab'")
        n_cells = file["darkOffsets"].shape[1] if "darkOffsets" in file and file["darkOffsets"].ndim == 4 else 0
        for name, stages in DATASETS.items():
            if name not in file:
                problems.append(f"{name} is missing")
                continue
            held = file[name]
            if held.shape != (stages, n_cells, *LAB_SHAPE):
                problems.append(f"{name} has shape {held.shape}; expected ({stages}, cells, 128, 512)")
            dtype = np.int16 if name == "digitalThresholds" else np.float32
            if held.dtype != dtype:
                problems.append(f"{name} is {held.dtype}; expected {np.dtype(dtype)}")
        if n_cells and cells.size and cells.max() >= n_cells:
            problems.append(f"there are constants of {n_cells} memory cells; the run uses cell {cells.max()}")
    return n_cells, problems


def _check_constants(path, module, cells):
    n_cells, problems = constants_problems(path, module, cells)
    if problems:
        raise ValueError(
            f"{path}: {'; '.join(problems)}. Make the constants of module {module:02d} again, or correct "
            "calibrations.<name>.constants."
        )
    return n_cells


class MaskFile(NamedTuple):
    """Mask of one module, checked and ready to be read cell by cell."""

    storage: Storage
    cell_id: np.ndarray


def open_mask(path, cells, storage_of):
    """Check the mask of one module.

    Parameters
    ----------
    path : str or Path
        ``masks/r...._m...h5`` or ``..._outliers_m...h5``: cellId (C,), mask uint32 (C, 512, 128), 0 = good.
    cells : array of int
        Memory cells of the run, which the mask must have.
    storage_of : callable
        From :func:`pulsetrain.chunks.open_storages`.

    Returns
    -------
    MaskFile
    """
    storage = storage_of(path, "mask")
    with h5py.File(path) as file:
        held = file["cellId"][()]
    if storage.shape != MODULE_SHAPE or storage.dtype != np.uint32 or storage.n_rows != len(held):
        raise ValueError(
            f"{path}: mask is {storage.dtype} with {storage.n_rows} cells of {storage.shape}; expected uint32 with "
            f"{len(held)} (cellId) cells of {MODULE_SHAPE}. Make the mask again."
        )
    missing = np.setdiff1d(cells, held)
    if missing.size:
        raise ValueError(
            f"{path}: there is no mask of the memory cells {missing[:20].tolist()} ({missing.size} in all), which the "
            "run uses. The mask belongs to another state of the run: make it again."
        )
    return MaskFile(storage, held)


def read_mask(opened, cells, pool=None):
    """Read the mask of some memory cells.

    Parameters
    ----------
    opened : MaskFile
    cells : array of int, (n,)
    pool : concurrent.futures.Executor, optional
        Threads that share the reading.

    Returns
    -------
    ndarray of uint32, (n, 512, 128)
    """
    order = np.argsort(opened.cell_id)
    return read_rows(opened.storage, order[np.searchsorted(opened.cell_id, cells, sorter=order)], pool)


def read_good_pixels(path, setting):
    """Read a choice of pixels: a mask or a region that the user gives.

    Parameters
    ----------
    path : str or Path
        ``.npy``, or HDF5 with the dataset good_pixels: bool (16, 512, 128), True = good.
    setting : str
        Key of the configuration that names the file, for errors.

    Returns
    -------
    ndarray of bool, (16, 512, 128)
    """
    shape = (N_MODULES, *MODULE_SHAPE)
    if Path(path).suffix == ".npy":
        good = np.load(path)
    else:
        with h5py.File(path) as file:
            if "good_pixels" not in file:
                raise ValueError(
                    f"{path} has no dataset good_pixels (it has {', '.join(file) or 'none'}); {setting} needs it, bool "
                    f"{shape}, True = good"
                )
            good = file["good_pixels"][()]
    if good.shape != shape or good.dtype != bool:
        raise ValueError(
            f"{path}: the pixels have shape {good.shape} and dtype {good.dtype}; {setting} needs bool {shape}, True = "
            "good"
        )
    return good


def good_bytes(mask):
    """Mask for the kernels: uint8 (..., 65536), 255 where the CXI mask (..., 512, 128) is 0."""
    return np.where(mask.reshape(*mask.shape[:-2], PIXELS) == 0, np.uint8(255), np.uint8(0))
