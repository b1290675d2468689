"""What Dragonfly (https://github.com/duaneloh/Dragonfly) needs beside the photons: detector file and configuration.

Lengths on the detector are in pixels, lengths in reciprocal space in voxels of the reconstructed model; a voxel is
1 / (wavelength * ewald_rad). ``ewald_rad`` is free: it sets how finely the model is sampled.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

USE = 0  # Dragonfly's detector mask: orient and merge
IGNORE = 2


class DetectorModel(NamedTuple):
    """Dragonfly's detector file.

    Attributes
    ----------
    q : ndarray of float64, (3, n_pixels)
        x, y, z of each pixel on the Ewald sphere through the origin [voxel].
    correction : ndarray of float64, (n_pixels,)
        Polarisation times solid angle, up to a factor.
    distance : float
        [pixel]
    ewald_radius : float
        [voxel]
    """

    q: np.ndarray
    correction: np.ndarray
    distance: float
    ewald_radius: float


def detector_model(xyz, pixel_size_m, model_size):
    """Place the pixels on the Ewald sphere.

    With x, y, D in pixels, f = sqrt(x^2 + y^2 + D^2) and R the radius of the sphere, q = R (x/f, y/f, D/f - 1); the
    correction is D/f^3 (solid angle) times 1 - x^2/f^2 (polarisation of a horizontally polarised beam), as in
    Dragonfly's ``Detector.calc_from_coords``.

    Parameters
    ----------
    xyz : ndarray, (3, ...)
        Pixel positions [m].
    pixel_size_m : float
    model_size : int
        Wanted side of the model [voxel]. Dragonfly takes 2 ceil(max |q|) + 3 over all pixels, so sides are odd.

    Returns
    -------
    DetectorModel
    """
    if model_size < 5:
        raise ValueError(f"model_size is {model_size} voxels; expected at least 5 (emc.model_size)")
    x, y, z = np.asarray(xyz, dtype=np.float64).reshape(3, -1) / pixel_size_m
    length = np.sqrt(x**2 + y**2 + z**2)
    direction = np.stack([x / length, y / length, z / length - 1])
    # A little below the whole number, so that rounding cannot make Dragonfly's ceil() take the next one.
    radius = ((model_size - 3) // 2 - 1e-6) / np.sqrt((direction**2).sum(axis=0)).max()
    correction = z / length**3 * (1 - (x / length) ** 2)
    return DetectorModel(direction * radius, correction, float(z.mean()), float(radius))


def bad_pixel_mask(good_hits, n_hits, bad_cell_fraction):
    """Turn per-hit masks into Dragonfly's one mask.

    Parameters
    ----------
    good_hits : ndarray of int, any shape
        Hits in which each pixel is good.
    n_hits : int
    bad_cell_fraction : float
        A pixel that is bad in a larger fraction of the hits is ignored.

    Returns
    -------
    ndarray of uint8, same shape
        2 = ignored, 0 = used. Without hits nothing is known of any pixel and all are 2.
    """
    if n_hits == 0:
        return np.full(good_hits.shape, IGNORE, dtype=np.uint8)
    bad_hits = n_hits - good_hits.astype(np.int64)
    return np.where(bad_hits > bad_cell_fraction * n_hits, IGNORE, USE).astype(np.uint8)


def write_detector(file, model, mask):
    """Write a detector file.

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    model : DetectorModel
    mask : ndarray of uint8
        In the order of the model's pixels.
    """
    for name, values in zip(("qx", "qy", "qz"), model.q, strict=True):
        file.create_dataset(name, data=values, dtype="f8").attrs["units"] = "voxel"
    file.create_dataset("corr", data=model.correction, dtype="f8")
    file.create_dataset("mask", data=mask.reshape(-1), dtype="u1")
    file["mask"].attrs["description"] = "0 = used, 2 = ignored"
    file.create_dataset("detd", data=model.distance).attrs["units"] = "pixel"
    file.create_dataset("ewald_rad", data=model.ewald_radius).attrs["units"] = "voxel"


def config_text(emc, detector, stem, num_div, n_frames):
    """Configuration with which ``dragonfly.emc -c`` starts; its paths are relative to itself.

    Parameters
    ----------
    emc, detector : str or Path
        Files in the directory of the configuration.
    stem : str
        Begin of the names of what Dragonfly writes.
    num_div : int
        Fineness of the orientations: 10 (5 n^3 + n) rotations.
    n_frames : int
        Frames in the photon file. Dragonfly fails on a file without frames, so that is then left out.

    Returns
    -------
    str
    """
    rotations = 10 * (5 * num_div**3 + num_div)
    photons = f"in_photons_file = {Path(emc).name}"
    if n_frames == 0:
        photons = f"# The run has no hits, and Dragonfly cannot start from a file without frames:\n# {photons}"
    return f"""# Start with: dragonfly.emc -c {stem}_config.ini -t <threads> <iterations>
# Paths are relative to this file. {n_frames} frames, {rotations} orientations.
[emc]
{photons}
in_detector_file = {Path(detector).name}
num_div = {num_div}
# the pulse energy, and how well a pulse met its particle, differ from hit to hit
need_scaling = 1
output_folder = {stem}_dragonfly
log_file = {stem}_EMC.log
"""
