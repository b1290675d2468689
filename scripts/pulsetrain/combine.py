"""Calibration constants of one module, from what its dark, current source and X-ray tube data gave.

A cell's high gain in ADU per clock of integration differs from that of the cell seen by the X-ray tube as its ADU per
photon do, and the ADU of the lower stages are worth more energy by the ratio of the slopes::

    spacing(c)      = spacing(xray_cell) / G0(xray_cell) * G0(c)      [ADU / photon]
    gain_keV(0, c)  = photon_energy_kev / spacing(c)                  [keV / ADU]
    gain_keV(i, c)  = gain_keV(0, c) * G0(c) / Gi(c)                  i = 1 (medium), 2 (low)

The program that the laboratory used has Gi / G0 in the last line, which makes the energies of the medium and low gain
wrong by the square of that ratio.
"""

import contextlib
import logging

import h5py
import numpy as np

from pulsetrain.constants import GAIN_STAGES, UNKNOWN_THRESHOLD
from pulsetrain.detector import LAB_SHAPE
from pulsetrain.output import new_h5
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

# What is read: file, dataset, stages (None: no axes of stage and cell), type.
SOURCES = (
    ("dark", "darkOffset", 0, np.float32),
    ("analog_gains", "analogGains", GAIN_STAGES, np.float32),
    ("analog_gains", "anlogLineOffsets", GAIN_STAGES, np.float32),
    ("analog_gains", "fitStatus", 0, np.uint8),
    ("digital_means", "digitalThresholds", GAIN_STAGES - 1, np.uint16),
    ("photon_spacing", "photonSpacing", None, np.float32),
)


def combine_constants(
    dark,
    analog_gains,
    digital_means,
    photon_spacing,
    output,
    attributes,
    *,
    module,
    xray_cell,
    photon_energy_kev,
):
    """Combine the processed files of one module into the constants that raw runs are calibrated with.

    Works cell by cell, so that memory does not grow with the number of cells.

    Parameters
    ----------
    dark : str or Path
        darkOffset float32 (C, 128, 512) [ADU].
    analog_gains : str or Path
        analogGains [ADU / clock] and anlogLineOffsets [ADU], both float32 (3, C, 128, 512); fitStatus uint8
        (C, 128, 512), 0 = all three stages are fitted.
    digital_means : str or Path
        digitalThresholds uint16 (2, C, 128, 512) [ADU]; 65535 = not known.
    photon_spacing : str or Path
        photonSpacing float32 (128, 512) [ADU / photon]; attribute cell.
    output : str or Path
        Becomes analogGains_keV float32 (3, C, 128, 512) [keV / ADU], darkOffsets float32 (3, C, 128, 512) [ADU], both
        NaN where not known, and digitalThresholds int16 (2, C, 128, 512) [ADU], 32767 where not known.
    attributes : dict
        Provenance.
    module : int
    xray_cell : int
        Memory cell of the X-ray tube's data.
    photon_energy_kev : float
        Of the X-ray tube's line [keV].

    Raises
    ------
    ValueError
        The files are of different modules, cells, shapes or orientations; all that is wrong is named.
    """
    paths = {
        "dark": dark,
        "analog_gains": analog_gains,
        "digital_means": digital_means,
        "photon_spacing": photon_spacing,
    }
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(h5py.File(path)) for name, path in paths.items()}
        n_cells = _check(files, module, xray_cell, photon_energy_kev)
        gains, line_offsets = files["analog_gains"]["analogGains"], files["analog_gains"]["anlogLineOffsets"]
        # Photons of one clock of integration: the same for all cells of a pixel. Only where all three stages were seen
        # in the X-ray data's cell is the first one high gain for certain; a wrong one would spoil every cell.
        clock = gains[0, xray_cell] / _positive(files["photon_spacing"]["photonSpacing"][()])
        clock[files["analog_gains"]["fitStatus"][xray_cell] != 0] = np.nan
        held = {
            "module": module,
            "orientation": "lab",
            "xray_cell": xray_cell,
            "photon_energy_kev": photon_energy_kev,
        }
        file = stack.enter_context(new_h5(output, attributes | held))
        gain_kev, offsets, thresholds = _create(file, n_cells)
        advance = progress(n_cells, "memory cells")
        finite = 0
        for cell in range(n_cells):
            limits = known_thresholds(files["digital_means"]["digitalThresholds"][:, cell])
            gain = energy_gains(gains[:, cell], clock, photon_energy_kev)
            for stage in range(1, GAIN_STAGES):  # nobody could tell that a pixel is in this stage
                gain[stage][limits[stage - 1] == UNKNOWN_THRESHOLD] = np.nan
            offset = np.stack([files["dark"]["darkOffset"][cell], *line_offsets[1:, cell]])
            offset = _positive(offset)
            gain_kev[:, cell], offsets[:, cell], thresholds[:, cell] = gain, offset, limits
            finite += int((np.isfinite(gain) & np.isfinite(offset)).all(axis=0).sum())
            advance(1)
        file.attrs["percent_finite"] = 100 * finite / (n_cells * np.prod(LAB_SHAPE))
    log.info(
        "module %02d: %.2f %% of the pixels of %d memory cells have all constants",
        module,
        100 * finite / (n_cells * np.prod(LAB_SHAPE)),
        n_cells,
    )


def energy_gains(slopes, clock, photon_energy_kev):
    """Gains of one memory cell.

    Parameters
    ----------
    slopes : ndarray of float32, (3, 128, 512)
        (gain stage, ...) [ADU / clock].
    clock : ndarray of float32, (128, 512)
        Photons that one clock of integration of the current source amounts to, from any cell [photons / clock].
    photon_energy_kev : float

    Returns
    -------
    ndarray of float32, (3, 128, 512)
        [keV / ADU]; NaN where a value is not finite or not positive.
    """
    # E / (spacing / G0 * G0(c)) * G0(c) / Gi(c) = E * (photons per clock) / Gi(c), for all three stages
    energy = np.asarray(clock, np.float64) * photon_energy_kev
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        gain = (energy / slopes).astype(np.float32)
    gain[~(_is_positive(slopes[0]) & _is_positive(clock)) | ~_is_positive(slopes)] = np.nan
    return _positive(gain)


def known_thresholds(midpoints):
    """Thresholds as constants have them: int16, 32767 where not known.

    Parameters
    ----------
    midpoints : ndarray of uint16
        Middle between the digital levels of two stages, rounded [ADU]; 65535 = not known.
    """
    known = (midpoints > 0) & (midpoints < UNKNOWN_THRESHOLD)
    return np.where(known, midpoints, UNKNOWN_THRESHOLD).astype(np.int16)


def _is_positive(values):
    return np.isfinite(values) & (values > 0)


def _positive(values):
    """The values as float32, NaN where they are not finite or not positive."""
    return np.where(_is_positive(values), values, np.nan).astype(np.float32)


def _create(file, n_cells):
    """The three datasets: not compressed, as noise does not shrink and raw runs read them often."""
    found = []
    for name, stages, dtype, units, description in (
        ("analogGains_keV", GAIN_STAGES, "f4", "keV/ADU", "(gain stage, cell, ...); NaN where not known"),
        ("darkOffsets", GAIN_STAGES, "f4", "ADU", "(gain stage, cell, ...); NaN where not known"),
        (
            "digitalThresholds",
            GAIN_STAGES - 1,
            "i2",
            "ADU",
            "a digital level above it is a higher stage; 32767 = unknown",
        ),
    ):
        dataset = file.create_dataset(name, (stages, n_cells, *LAB_SHAPE), dtype)
        dataset.attrs.update({"units": units, "description": description})
        found.append(dataset)
    return found


def _check(files, module, xray_cell, photon_energy_kev):
    """Number of memory cells, or an error that names all problems."""
    problems = []
    if not (np.isfinite(photon_energy_kev) and photon_energy_kev > 0):
        problems.append(f"photon_energy_kev is {photon_energy_kev}; expected the energy of the tube's line, above 0")
    for file in files.values():
        if (found := file.attrs.get("module")) != module:
            problems.append(f"{file.filename}: attribute module is {found}; expected {module}")
        if (found := file.attrs.get("orientation")) != "lab":
            problems.append(f"{file.filename}: attribute orientation is {found!r}; expected 'lab'")
    if (found := files["photon_spacing"].attrs.get("cell")) != xray_cell:
        problems.append(
            f"{files['photon_spacing'].filename}: attribute cell is {found}, but xray_cell of the configuration is "
            f"{xray_cell}"
        )
    n_cells = {}
    for name, dataset, stages, dtype in SOURCES:
        file = files[name]
        if dataset not in file:
            problems.append(f"{file.filename}: there is no dataset {dataset}")
            continue
        held = file[dataset]
        if held.dtype != dtype:
            problems.append(f"{file.filename}: {dataset} is {held.dtype}; expected {np.dtype(dtype)}")
        leading = {None: (), 0: ("cells",)}.get(stages, (stages, "cells"))
        fits = held.ndim == len(leading) + 2 and held.shape[-2:] == LAB_SHAPE
        if not fits or (stages and held.shape[0] != stages):
            expected = ", ".join(str(n) for n in (*leading, *LAB_SHAPE))
            problems.append(f"{file.filename}: {dataset} has shape {held.shape}; expected ({expected})")
        elif stages is not None:
            n_cells[f"{dataset} of {file.filename}"] = held.shape[-3]
    if len(set(n_cells.values())) > 1:
        counts = ", ".join(f"{n} in {name}" for name, n in n_cells.items())
        problems.append(f"the files have different numbers of memory cells: {counts}")
    fewest = min(n_cells.values(), default=0)
    if n_cells and not 0 <= xray_cell < fewest:
        problems.append(f"xray_cell is {xray_cell}; the files have the memory cells 0 to {fewest - 1}")
    if problems:
        raise ValueError(
            f"The constants of module {module:02d} cannot be combined: {'; '.join(problems)}. Correct the entry of "
            "calibrations in the configuration, or process the files that are wrong again."
        )
    return fewest
