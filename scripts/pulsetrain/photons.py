"""From the stored values of one module to photons: what the layout says of them, and one frame at a time."""

from typing import NamedTuple

import numpy as np

from pulsetrain.chunks import frame_planes, frame_values
from pulsetrain.constants import Calibration, open_constants
from pulsetrain.detector import MODULE_SHAPE
from pulsetrain.kernels import (
    PIXELS,
    common_modes,
    float_photons,
    integer_photons,
    planes_to_bytes,
    raw_photons,
    threshold_bias,
)


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
    """

    scale: np.float32
    bias: np.float32
    calibration: Calibration | None
    common_mode: bool


class Workspace(NamedTuple):
    """Memory of one thread for one frame."""

    bytes: np.ndarray
    photons: np.ndarray
    mask: np.ndarray
    shifts: np.ndarray


def new_workspace():
    """Make the memory that one thread needs."""
    return Workspace(
        np.empty(PIXELS, np.uint8),
        np.empty(PIXELS, np.uint16),
        np.empty(PIXELS, np.uint8),
        np.zeros((8, 128), np.float32),
    )


def run_conversion(attributes, photon_threshold, common_mode, path):
    """How the values of a run become photons; raw data need a module's constants in it as well.

    Parameters
    ----------
    attributes : dict
        Of the VDS's layout: stream, units, photon_energy_kev.
    photon_threshold : float
        Fraction of a photon's energy at which it counts.
    common_mode : bool
        Subtract the common mode of each ASIC, if the data are raw.
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
    return Conversion(
        scale, threshold_bias(photon_threshold), None, bool(common_mode) and attributes["stream"] == "raw"
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


def bytes_of(block, i, conversion, work):
    """Photons of frame i as bytes, where that is possible without loss and fast; None otherwise.

    Returns
    -------
    ndarray of uint8, (65536,), or None
        Valid until the next frame.
    """
    storage = block.storage
    if storage.dtype == np.uint8:
        return frame_values(block, i)
    if not _whole_floats(block, conversion):
        return None
    return work.bytes if planes_to_bytes(frame_planes(block, i), work.bytes) else None


def _whole_floats(block, conversion):
    """Shuffled float32 in units of photons: mostly small whole numbers, which `planes_to_bytes` reads directly."""
    storage = block.storage
    return (
        block.packed
        and storage.shuffled
        and storage.dtype == np.float32
        and conversion.scale == 1
        and np.float32(255) + conversion.bias < 256
    )


def photons_of(block, i, cell, mask, conversion, work, photons):
    """Photons of frame i of a block; the mask is not applied.

    Parameters
    ----------
    block : pulsetrain.chunks.Block
    i : int
    cell : int
        Row of the constants' cell axis (raw only).
    mask : ndarray of uint8, (65536,)
        255 = good; chooses the pixels that the common mode is found from.
    conversion : Conversion
    work : Workspace
    photons : ndarray of uint16, (65536,)
        Becomes the photons.

    Returns
    -------
    ndarray
        The stored values, (65536,), for raw data (131072,): analog, then digital.
    """
    values = frame_values(block, i)
    if conversion.calibration is not None:
        offset, gain, limit, _ = conversion.calibration
        if conversion.common_mode:
            common_modes(values, offset, gain, limit, cell, mask, work.shifts)
        raw_photons(values, offset, gain, limit, cell, work.shifts, conversion.bias, photons)
    elif values.dtype.kind == "f":
        float_photons(values, conversion.scale, conversion.bias, photons)
    else:
        integer_photons(values, photons)
    return values
