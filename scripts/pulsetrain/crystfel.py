"""The CrystFEL geometry that belongs to a file of hits."""

import tempfile
from pathlib import Path

from pulsetrain.cxi import DETECTOR, SOURCE


def geometry_text(geometry, distance_m):
    """Write the geometry of a CXI file of hits in CrystFEL's form.

    The panels are EXtra-geom's; added is what CrystFEL needs to read the CXI file without editing: one event per
    entry of the first axis (``dim0 = %``), the wavelength of each event, the mask and its polarity, and photons as
    the unit. ``wavelength`` is used and not ``photon_energy`` because CrystFEL takes energies only in eV or keV,
    and the CXI specification demands J.

    Parameters
    ----------
    geometry : extra_geom.AGIPD_1MGeometry
        As :func:`pulsetrain.geometry.read_geometry` gives it.
    distance_m : float
        Sample to detector [m].

    Returns
    -------
    str
        Text of the ``.geom`` file (crystfel_geometry(5)).
    """
    panels_only = type(geometry)(geometry.modules, metadata=_bad_regions(geometry))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "panels.geom"
        panels_only.write_crystfel_geom(
            str(path),
            data_path="/entry_1/data_1/data",
            mask_path=f"{DETECTOR}/mask",
            dims=("frame", "modno", "ss", "fs"),
            clen=distance_m,
        )
        written = path.read_text(encoding="utf-8")
    panels = written[written.index("data = ") :]
    lines = [line for line in panels.splitlines() if not line.startswith(";")]
    return "\n".join(
        [
            "; CrystFEL geometry of an AGIPD-1M for the hits of one run; panels written by EXtra-geom",
            f"wavelength = {SOURCE}/photon_wavelength m",
            "adu_per_photon = 1",
            "mask_good = 0x0",
            "mask_bad = 0xffffffff",
            *lines,
            "",
        ]
    )


def _bad_regions(geometry):
    """Keep only the bad regions: paths, energy and gain of the file that was read belong to other data."""
    return {"crystfel": {"bad": geometry.metadata.get("crystfel", {}).get("bad", {})}}
