"""The AGIPD-1M as arrays: shapes, mask bits and the two pixel orientations in use."""

import numpy as np

N_MODULES = 16
MODULE_SHAPE = (512, 128)  # (slow_scan, fast_scan), European XFEL orientation
PIXELS = MODULE_SHAPE[0] * MODULE_SHAPE[1]
LAB_SHAPE = (128, 512)  # orientation of the laboratory's calibration files
DSSC_SHAPE = (128, 512)  # a module of the DSSC-1M, (slow_scan, fast_scan); the one thing here that is not AGIPD's
PIXEL_SIZE_M = 2e-4  # https://doi.org/10.1107/S1600577518016077, section 2
ASIC_PIXELS = 64
HC_EV_M = 1.23984198433e-6  # h*c / e [eV m], CODATA 2018 (exact)
ELEMENTARY_CHARGE = 1.602176634e-19  # [C], exact

# Mask bits of the CXI specification 1.6, table "pixel mask": 0 = good.
MASK_INVALID = 0x1
MASK_SATURATED = 0x2
MASK_HOT = 0x4
MASK_DEAD = 0x8
MASK_BAD = 0x80
MASK_MISSING = 0x200
MASK_NOISY = 0x400

MASK_BIT_NAMES = {
    MASK_INVALID: "invalid (user mask or ASIC edge)",
    MASK_SATURATED: "saturated",
    MASK_HOT: "hot",
    MASK_DEAD: "dead",
    MASK_BAD: "bad (constants or facility mask)",
    MASK_MISSING: "missing module",
    MASK_NOISY: "noisy",
}


def lab_from_xfel(image, module):
    """Turn images of one module from European XFEL to laboratory orientation.

    Modules 0-7: ``lab[j, i] = xfel[511 - i, j]``; modules 8-15: ``lab[j, i] = xfel[i, 127 - j]``.

    Parameters
    ----------
    image : ndarray, (..., 512, 128)
        (slow_scan, fast_scan) last.
    module : int
        Module number, 0-15; the two wings are mounted turned by 180 degrees against each other.

    Returns
    -------
    ndarray, (..., 128, 512)
        A view.
    """
    _require_shape(image, MODULE_SHAPE)
    flipped = image[..., ::-1, :] if module < 8 else image[..., :, ::-1]
    return np.swapaxes(flipped, -1, -2)


def xfel_from_lab(image, module):
    """Turn images of one module from laboratory (..., 128, 512) to European XFEL orientation (..., 512, 128).

    Inverse of :func:`lab_from_xfel`; returns a view.
    """
    _require_shape(image, LAB_SHAPE)
    turned = np.swapaxes(image, -1, -2)
    return turned[..., ::-1, :] if module < 8 else turned[..., :, ::-1]


def asic_edges():
    """Border pixels of the 16 ASICs of a module (their area is larger or they are half covered).

    Returns
    -------
    ndarray of bool, (512, 128)
        True in rows 0, 63, 64, 127, ... and columns 0, 63, 64, 127, which is every first and last row and
        column of the 64 x 64 pixels of an ASIC.
    """
    edges = np.zeros(MODULE_SHAPE, dtype=bool)
    for axis, length in enumerate(MODULE_SHAPE):
        position = np.arange(length) % ASIC_PIXELS
        border = (position == 0) | (position == ASIC_PIXELS - 1)
        edges |= border[:, None] if axis == 0 else border[None, :]
    return edges


def photon_energy_kev(wavelength_m):
    """Photon energy [keV] of a wavelength [m]."""
    return HC_EV_M / np.asarray(wavelength_m, dtype=float) / 1e3


def wavelength_m(energy_kev):
    """Wavelength [m] of a photon energy [keV]."""
    return HC_EV_M / (np.asarray(energy_kev, dtype=float) * 1e3)


def _require_shape(image, shape):
    if image.shape[-2:] != shape:
        raise ValueError(f"image has shape {image.shape}; expected (..., {shape[0]}, {shape[1]})")
