"""Where the detector's pixels are, from a CrystFEL geometry read by EXtra-geom."""

from pathlib import Path

import numpy as np
from cfel_fmt.geometry import load_crystfel_geometry
from extra_geom import AGIPD_1MGeometry
from extra_geom.base import GeometryFragment

from pulsetrain.detector import ASIC_PIXELS, MODULE_SHAPE, N_MODULES, PIXEL_SIZE_M

IN_PLANE = np.array([1.0, 1.0, 0.0])


def read_geometry(path):
    """Read the geometry of an AGIPD-1M.

    Offsets along the beam (``coffset``) are dropped: the detector distance comes from the configuration, and
    many files carry the offset of a camera-length motor there, which would be counted twice.

    Parameters
    ----------
    path : str or Path
        CrystFEL ``.geom`` file, with the modules along an own axis or stacked along the slow scan.

    Returns
    -------
    extra_geom.AGIPD_1MGeometry
        All panels in the plane z = 0.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, is no CrystFEL geometry, or describes another detector.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such geometry file; set detector.geometry in the configuration")
    try:
        panels = load_crystfel_geometry(path).detector["panels"]
        _require_agipd(panels)
        geometry = AGIPD_1MGeometry.from_crystfel_geom(path)
    except Exception as error:
        raise ValueError(
            f"{path} is no geometry of an AGIPD-1M ({type(error).__name__}: {error}); expected {N_MODULES} modules of "
            f"8 panels with 64 x 128 pixels of {PIXEL_SIZE_M * 1e6:.0f} um. Set detector.geometry (or the geometry "
            "column of the run table) to the CrystFEL geometry of this detector."
        ) from error
    modules = [[_flat(tile) for tile in module] for module in geometry.modules]
    return AGIPD_1MGeometry(modules, filename=str(path), metadata=geometry.metadata)


def pixel_positions(geometry):
    """Centres of all pixels.

    Parameters
    ----------
    geometry : extra_geom.AGIPD_1MGeometry

    Returns
    -------
    ndarray of float64, (3, 16, 512, 128)
        (x y z, module, slow_scan, fast_scan) [m]; z along the beam, y up, x to the left looking along the beam.
    """
    return np.ascontiguousarray(np.moveaxis(geometry.get_pixel_positions(), -1, 0))


def xyz_map(geometry, distance_m):
    """Pixel positions seen from the sample, as the CXI file holds them.

    Parameters
    ----------
    geometry : extra_geom.AGIPD_1MGeometry
    distance_m : float
        Sample to detector [m]; it becomes the z of every pixel.

    Returns
    -------
    ndarray of float32, (3, 16, 512, 128)
        [m], axes as in :func:`pixel_positions`.
    """
    if not distance_m > 0:
        raise ValueError(f"detector distance is {distance_m} m; expected a positive number (detector.distance_m)")
    positions = pixel_positions(geometry).astype(np.float32)
    positions[2] = distance_m
    return positions


def _require_agipd(panels):
    tiles = N_MODULES * MODULE_SHAPE[0] // ASIC_PIXELS
    if len(panels) != tiles:
        raise ValueError(f"{len(panels)} panels instead of {tiles}")
    for name, panel in panels.items():
        shape = (
            panel["orig_max_ss"] - panel["orig_min_ss"] + 1,
            panel["orig_max_fs"] - panel["orig_min_fs"] + 1,
        )
        if shape != (ASIC_PIXELS, MODULE_SHAPE[1]):
            raise ValueError(f"panel {name} has {shape[0]} x {shape[1]} pixels instead of 64 x 128")
        if not np.isclose(panel["res"] * PIXEL_SIZE_M, 1, rtol=0.01):
            raise ValueError(f"panel {name} has {panel['res']} pixels per metre instead of {1 / PIXEL_SIZE_M:.0f}")


def _flat(tile):
    return GeometryFragment(
        tile.corner_pos * IN_PLANE,
        tile.ss_vec * IN_PLANE,
        tile.fs_vec * IN_PLANE,
        tile.ss_pixels,
        tile.fs_pixels,
    )
