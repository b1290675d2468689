"""Constants of the MID correction: from a dark file in the form of the older program, or from our own."""

from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.chunks import read_rows
from pulsetrain.constants import UNKNOWN_THRESHOLD, open_constants
from pulsetrain.constants_gate import mask_problems
from pulsetrain.detector import LAB_SHAPE, MODULE_SHAPE, N_MODULES, PIXELS, xfel_from_lab
from pulsetrain.exdf import BrokenFile, open_file

MODES = 2  # high and medium gain
OFFSET, LEVEL, BAD = "AnalogOffset", "DigitalGainLevel", "Badpixel"
MOST_BAD = 0.5


class MidConstants(NamedTuple):
    """Constants of one module for some memory cells; European XFEL orientation, pixels flat.

    Attributes
    ----------
    cell_id : ndarray of int64, (C,)
        Ascending.
    offset : ndarray of float32, (C, 2, 65536)
        Of high and medium gain [ADU]; NaN where not known.
    level : ndarray of float32, (C, 65536)
        Digital value between high and medium gain [ADU].
    good : ndarray of bool, (C, 65536)
        Not masked, and all constants are known.
    scale : ndarray of float32, (C or 1, 2, 65536 or 1)
        Photons per ADU of high and medium gain; 0 where not known.
    """

    cell_id: np.ndarray
    offset: np.ndarray
    level: np.ndarray
    good: np.ndarray
    scale: np.ndarray


def check_dark(path, modules, cells):
    """Raise with everything that is wrong with a dark file.

    Parameters
    ----------
    path : str or Path
        AnalogOffset and DigitalGainLevel (3, cells, modules, 512, 128) [ADU]; Badpixel (16 * 512, 128), 1 = good, or
        (3, cells, modules, 512, 128), 0 = good.
    modules : list of int
    cells : ndarray of int
        Memory cells of the exported frames.

    Raises
    ------
    ValueError
    """
    try:
        with open_file(path) as file:
            problems = _dark_problems(file, modules, cells) or _bad_pixel_problems(file[BAD], modules)
    except BrokenFile as error:
        problems = [f"{error}; {error.next_step}"]
    if problems:
        raise ValueError(
            f"{path} (mid.dark) cannot be used:\n"
            + "".join(f"  {line}\n" for line in problems)
            + "Take the dark file that belongs to this run, or set mid.dark: null to use the constants of the run's "
            "calibration."
        )


def _dark_problems(file, modules, cells):
    problems = []
    for name in (OFFSET, LEVEL, BAD):
        if not isinstance(file.get(name), h5py.Dataset):
            problems.append(f"there is no dataset {name}")
            continue
        held = file[name]
        if held.dtype.kind not in "fiub":
            problems.append(f"{name} has the type {held.dtype}; expected numbers")
            continue
        if name == BAD and held.ndim == 2:
            expected = (N_MODULES * MODULE_SHAPE[0], MODULE_SHAPE[1])
            if held.shape != expected:
                problems.append(f"{name} has shape {held.shape}; expected {expected}")
            continue
        if held.ndim != 5 or held.shape[0] != 3 or held.shape[3:] != MODULE_SHAPE:
            expected = "(3, cells, modules, 512, 128)" + (f" or {(8192, 128)}" if name == BAD else "")
            problems.append(f"{name} has shape {held.shape}; expected {expected}")
            continue
        if max(modules) >= held.shape[2]:
            problems.append(f"{name} has {held.shape[2]} modules; module {max(modules)} is not among them")
        if name != BAD and len(cells) and cells.max() >= held.shape[1]:
            problems.append(f"{name} has {held.shape[1]} memory cells; the run uses cell {cells.max()}")
    return problems


def _bad_pixel_problems(bad, modules):
    problems = []
    for module in modules:
        share = 1 - _dark_good_pixels(bad, module).mean()
        if share > MOST_BAD:
            sense = "1 = good, 0 = bad" if bad.ndim == 2 else "0 = good, all else = bad"
            problems.append(
                f"{BAD} makes {100 * share:.1f} % of the pixels of module {module:02d} bad. With its {bad.ndim} axes "
                f"it is read as {sense}: if the file means the opposite, turn it round"
            )
    return problems


def _dark_good_pixels(bad, module):
    """Good pixels of a module, bool (512, 128): 1 in the new form; not set in any gain and cell in the old one."""
    if bad.ndim == 2:
        return bad[module * MODULE_SHAPE[0] : (module + 1) * MODULE_SHAPE[0]] == 1
    flagged = np.zeros(MODULE_SHAPE, dtype=bool)
    for cell in range(bad.shape[1]):
        flagged |= (bad[:, cell, module] != 0).any(axis=0)
    return ~flagged


def read_dark(path, module, cells, adu_per_photon):
    """Read what a dark file has for one module; :func:`check_dark` comes first.

    Parameters
    ----------
    path : str or Path
    module : int
    cells : ndarray of int, (C,)
        Ascending.
    adu_per_photon : list of float
        Of high and medium gain.

    Returns
    -------
    MidConstants
    """
    offset = np.empty((len(cells), MODES, PIXELS), np.float32)
    level = np.empty((len(cells), PIXELS), np.float32)
    with h5py.File(path) as file:
        good = np.repeat(_dark_good_pixels(file[BAD], module).reshape(1, PIXELS), len(cells), axis=0)
        for place, cell in enumerate(cells.tolist()):
            for mode in range(MODES):
                offset[place, mode] = file[OFFSET][mode, cell, module].reshape(PIXELS)
            # The levels are the lower edges of the gain stages: 1 lies between high and medium gain.
            level[place] = file[LEVEL][1, cell, module].reshape(PIXELS)
    good &= np.isfinite(offset).all(axis=1) & np.isfinite(level)
    scale = (1 / np.array(adu_per_photon, np.float64)).astype(np.float32).reshape(1, MODES, 1)
    return MidConstants(cells, offset, level, good, scale)


def read_own(constants, mask, module, cells, photon_energy_kev, storage_of):
    """Read our own constants of one module.

    Parameters
    ----------
    constants, mask : str or Path
        ``constants_m...h5`` and ``mask_m...h5``.
    module : int
    cells : ndarray of int, (C,)
        Ascending.
    photon_energy_kev : float
    storage_of : callable
        From :func:`pulsetrain.chunks.open_storages`.

    Returns
    -------
    MidConstants
    """
    opened = open_constants(constants, module, cells, photon_energy_kev, storage_of)
    if problems := mask_problems(mask, module, opened.n_cells, cells):
        raise ValueError(f"{'; '.join(problems)}. Make the mask of module {module:02d} again.")

    def read(name, stages):
        rows = (np.arange(stages) * opened.n_cells + cells[:, None]).reshape(-1)
        values = read_rows(opened.storages[name], rows).reshape(len(cells), stages, *LAB_SHAPE)
        return np.ascontiguousarray(xfel_from_lab(values, module)).reshape(len(cells), stages, PIXELS)

    offset, scale = read("darkOffsets", MODES), read("analogGains_keV", MODES)
    level = read("digitalThresholds", 1)[:, 0]
    with h5py.File(mask) as file:
        bad = (
            np.stack([file["badCellMask"][cell] for cell in cells.tolist()])
            if len(cells)
            else np.zeros((0, *LAB_SHAPE), bool)
        )
    good = ~xfel_from_lab(bad, module).reshape(len(cells), PIXELS)
    good &= np.isfinite(offset).all(axis=1) & np.isfinite(scale).all(axis=1) & (level != UNKNOWN_THRESHOLD)
    scale /= np.float32(photon_energy_kev)
    scale[~np.isfinite(scale)] = 0
    return MidConstants(cells, offset, level.astype(np.float32), good, scale)
