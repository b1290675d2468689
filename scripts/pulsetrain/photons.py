"""From the stored values of one module to photons: what the layout says of them, and one frame at a time."""

from typing import NamedTuple

import numpy as np

from pulsetrain.chunks import damaged, stored_frames
from pulsetrain.constants import Calibration, open_constants
from pulsetrain.decode import DAMAGES
from pulsetrain.detector import MODULE_SHAPE, PIXELS
from pulsetrain.kernels import BYTES, FLOATS, INTEGERS, RAW, WHOLE, Flags, Recipe, threshold_bias


class Conversion(NamedTuple):
    """How values become photons.

    Attributes
    ----------
    scale : float32
        Photons per unit of corrected floating point data.
    bias : float32
        1 - photon_threshold.
    calibration : Calibration or None
        Constants, for raw data.
    common_mode : bool
        Subtract the common mode of each ASIC from raw data.
    baseline_shift : bool
        Subtract the level of the module's dark pixels from raw data, before that.
    """

    scale: np.float32
    bias: np.float32
    calibration: Calibration | None
    common_mode: bool
    baseline_shift: bool


def run_conversion(attributes, photon_threshold, common_mode, baseline_shift, path):
    """How the values of a run become photons; raw data need a module's constants in it as well.

    Parameters
    ----------
    attributes : dict
        Of the VDS's layout: stream, units, photon_energy_kev.
    photon_threshold : float
        Fraction of a photon's energy at which it counts.
    common_mode : bool
        Subtract the common mode of each ASIC, if the data are raw.
    baseline_shift : bool
        Subtract the level of the module's dark pixels, if the data are raw.
    path : str or Path
        The VDS, for errors.

    Returns
    -------
    Conversion
    """
    units = attributes["units"]
    expected = ("ADU",) if attributes["stream"] == "raw" else ("photons", "keV")
    if units not in expected:
        raise ValueError(
            f"{path}: attribute units of /pulsetrain is {units!r}; expected {' or '.join(expected)}. "
            "Make the VDS again."
        )
    scale = np.float32(1)
    if units == "keV":
        scale = np.float32(1 / photon_energy(attributes, path))
    raw = attributes["stream"] == "raw"
    return Conversion(
        scale, threshold_bias(photon_threshold), None, raw and bool(common_mode), raw and bool(baseline_shift)
    )


def photon_energy(attributes, path):
    """Photon energy [keV] of the run; an error says what to set if nobody knows it."""
    energy = float(attributes["photon_energy_kev"])
    if not energy > 0:
        raise ValueError(
            f"{path}: the data are in {attributes['units']} and become photons by the photon energy, which neither the "
            "configuration nor the run has. Set detector.photon_energy_kev."
        )
    return energy


def run_constants(attributes, path, constants, module, cells, storage_of):
    """Open the constants of one module if the run is raw.

    Parameters
    ----------
    attributes : dict
        Of the VDS's layout.
    path : str or Path
        The VDS, for errors.
    constants : str or Path, or None
    module : int
    cells : array of int
        Memory cells of the run.
    storage_of : callable

    Returns
    -------
    pulsetrain.constants.ConstantsFile, or None for corrected data
    """
    if attributes["stream"] != "raw":
        return None
    if constants is None:
        raise ValueError(f"{path}: the data are raw; calibration constants of module {module:02d} are needed")
    return open_constants(constants, module, cells, photon_energy(attributes, path), storage_of)


def check_image(storage, attributes):
    """Raise unless a source's image data have the shape and type that the frame table says."""
    shape = (2, *MODULE_SHAPE) if attributes["stream"] == "raw" else MODULE_SHAPE
    dtype = attributes["data_dtype"]
    if storage.shape != shape or storage.dtype.name != dtype:
        raise ValueError(
            f"{storage.path}: {storage.dataset} holds {storage.dtype.name} frames of {storage.shape}; the frame table "
            f"says {dtype} of {shape}. The file was changed: run snakemake again."
        )


def recipe_of(block, conversion):
    """How the kernels are to turn the frames of a block into photons.

    Shuffled float32 photons are mostly small whole numbers, which are read from the byte planes directly; that must
    agree with rounding 255 + bias down.

    Returns
    -------
    pulsetrain.kernels.Recipe
    """
    dtype = block.storage.dtype
    if conversion.calibration is not None:
        offset, gain, limit, _ = conversion.calibration
        shifts = conversion.common_mode, conversion.baseline_shift
        return Recipe(RAW, conversion.scale, conversion.bias, *shifts, offset, gain, limit)
    whole = block.packed and block.storage.shuffled and dtype == np.float32 and conversion.scale == 1
    if dtype == np.uint8:
        mode = BYTES
    elif whole and np.float32(255) + conversion.bias < 256:
        mode = WHOLE
    else:
        mode = FLOATS if dtype.kind == "f" else INTEGERS
    none = np.empty((3, 0, PIXELS), np.float32)
    limit = np.empty((2, 0, PIXELS), np.uint16)
    return Recipe(mode, conversion.scale, conversion.bias, False, False, none, none, limit)


def flags_of(found):
    """The kernels' view of what :func:`pulsetrain.litpixels.read_flags` read; None gives none."""
    if found is None:
        return Flags(np.empty(0, np.uint32), np.empty(0, np.int64))
    block, place = found
    stored = stored_frames(block)
    return Flags(stored.values, (stored.start // stored.values.itemsize)[place])


def raise_if_damaged(block, result):
    """Raise if a kernel met a frame that cannot be unpacked."""
    status, position = result
    if status:
        raise damaged(block, position, DAMAGES[status])
