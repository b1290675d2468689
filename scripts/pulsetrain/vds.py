"""The virtual dataset of a run: all modules as one array, read from the source files where they are."""

import logging
import os
from pathlib import Path

import h5py
import numpy as np

from pulsetrain.detector import MODULE_SHAPE, N_MODULES
from pulsetrain.detector import photon_energy_kev as energy_of_wavelength
from pulsetrain.exdf import BrokenFile, index_sha256, open_file, read_index, unit_of
from pulsetrain.layout import read_layout, source_path, source_rows, write_layout
from pulsetrain.output import new_h5, write_array
from pulsetrain.pulses import WAVELENGTH_KEY, read_file, readable, wavelength_of

log = logging.getLogger(__name__)

FILL = {"uint8": 0, "uint16": 0, "float32": np.nan}
RAW_FILL = 65535  # as in the offline chain's virtual datasets
SAMPLE_FRAMES = 5  # of a module
ENOUGH_VALUES = 1000  # fewer are not taken for the whole run while there are other modules to look at
PHOTON_SYMBOLS = ("photon", "photons", "ph")
LAYOUT_ATTRIBUTES = ("run", "stream", "detector", "data_dtype", "status", "reason", "n_seen")


def make_vds(frames, vds, control, detector, stream, proc_units, photon_energy_kev, xgm, attributes):
    """Write the virtual dataset of a run.

    Parameters
    ----------
    frames : str or Path
        Frame table of ``check_run``.
    vds : str or Path
        Output.
    control : list of str or Path
        Control files of the run, for the wavelength.
    detector : str
        Such as ``SPB_DET_AGIPD1M-1``.
    stream : str
        ``"raw"`` or ``"proc"``.
    proc_units : str
        ``"photons"``, ``"keV"`` or ``"auto"``.
    photon_energy_kev : float or None
        None takes the median wavelength that the XGM reports.
    xgm : str
        Device name of the XGM.
    attributes : dict
        Provenance.

    Raises
    ------
    RuntimeError
        If a source file changed since ``check_run``.
    """
    layout = read_layout(frames)
    if layout.attributes["stream"] != stream:
        raise ValueError(f"{frames} is of stream {layout.attributes['stream']!r}; expected {stream!r}")
    require_unchanged(frames, layout)
    units, units_source = find_units(frames, layout, proc_units)
    energy, energy_source = find_photon_energy(control, xgm, photon_energy_kev)
    log.info("units: %s (%s); photon energy: %.4f keV (%s)", units, units_source, energy, energy_source)
    directory = os.path.realpath(Path(vds).parent)
    names = [os.path.relpath(source_path(frames, name), directory) for name in layout.files["name"]]
    held = {name: layout.attributes[name] for name in LAYOUT_ATTRIBUTES}
    held |= {"units": units, "units_source": units_source}
    held |= {"photon_energy_kev": energy, "photon_energy_source": energy_source}
    layout = layout._replace(files=layout.files.assign(name=names), attributes=held)
    with new_h5(vds, attributes) as file:
        image = file.create_group(f"INSTRUMENT/{detector}/DET/image")
        _map_images(image, layout, stream)
        image["data"].attrs["units"] = units
        write_array(image, "trainId", layout.train_id)
        write_array(image, "pulseId", layout.pulse_id)
        write_array(image, "cellId", layout.cell_id)
        write_layout(file.create_group("pulsetrain"), layout)
    log.info("%d frames, %d segments, status %s", len(layout.train_id), len(layout.segments), held["status"])


def _map_images(image, layout, stream):
    dtype = np.dtype(layout.attributes["data_dtype"])
    shape = (2, *MODULE_SHAPE) if stream == "raw" else MODULE_SHAPE
    full = (N_MODULES, len(layout.train_id), *shape)
    fill = RAW_FILL if stream == "raw" else FILL[dtype.name]
    if len(layout.segments) == 0:
        # HDF5 refuses a virtual dataset without sources; chunked, it takes no room when nothing is written.
        image.create_dataset(
            "data", full, dtype, fillvalue=fill, chunks=(1, 1, *shape), maxshape=full[:1] + (None,) + shape
        )
        return
    virtual = h5py.VirtualLayout(full, dtype)
    sources = {}
    for segment in layout.segments.itertuples():
        if segment.file not in sources:
            file = layout.files.iloc[segment.file]
            name = f"INSTRUMENT/{file.source}/image/data"
            sources[segment.file] = h5py.VirtualSource(file["name"], name, (int(file.rows), *shape), dtype)
        start, begin, count = int(segment.source_start), int(segment.frame_start), int(segment.count)
        virtual[int(segment.module), begin : begin + count] = sources[segment.file][start : start + count]
    image.create_virtual_dataset("data", virtual, fillvalue=fill)


def require_unchanged(frames, layout):
    """Raise if a source file of the frame table `frames` is not as check_run saw it, in size or INDEX."""
    changed = []
    for number in np.unique(layout.segments["file"]):
        recorded = layout.files.iloc[number]
        path = source_path(frames, recorded["name"])
        try:
            with open_file(path) as file:
                digest = index_sha256(read_index(file, recorded.source, "image"))
        except (BrokenFile, OSError) as error:
            changed.append(f"{path}: {error}")
            continue
        size = path.stat().st_size
        if size != recorded["size"]:
            changed.append(f"{path}: {size} bytes, {recorded['size']} before")
        elif digest != recorded.index_sha256:
            changed.append(f"{path}: its INDEX is another one")
    if changed:
        raise RuntimeError(
            "the run changed since check_run; run snakemake again (with --forcerun check_run if it changed once "
            "more in place):\n" + "".join(f"  {line}\n" for line in changed)
        )


def find_units(frames, layout, proc_units):
    """Unit of the pixel values, and how it was decided.

    Float data without a unit attribute count as photons when all finite values other than 0 of a few frames are whole
    numbers; without any such value they count as keV.

    Returns
    -------
    units : str
        ``"ADU"``, ``"photons"`` or ``"keV"``.
    source : str
    """
    stream, dtype = layout.attributes["stream"], np.dtype(layout.attributes["data_dtype"])
    if stream == "raw":
        return "ADU", "raw data"
    if proc_units not in ("auto", "photons", "keV"):
        raise ValueError(f"proc_units is {proc_units!r}; expected 'auto', 'photons' or 'keV'")
    if dtype.kind == "u" and proc_units == "keV":
        raise ValueError(
            f"{frames}: the data are {dtype.name}, which are photons; expected proc_units 'auto' or 'photons'"
        )
    if proc_units != "auto":
        return proc_units, "set in the config"
    if dtype.kind == "u":
        return "photons", f"{dtype.name} data"
    if len(layout.segments) == 0:
        return "keV", f"{dtype.name} data without frames"
    return _units_of_samples(frames, layout)


def _units_of_samples(frames, layout):
    modules, n_frames, n_values = [], 0, 0
    for module in np.unique(layout.segments["module"]).tolist():
        file_of_frame, row_of_frame = source_rows(layout, module)
        present = np.flatnonzero(file_of_frame >= 0)
        chosen = np.unique(present[np.linspace(0, len(present) - 1, SAMPLE_FRAMES).astype(int)])
        modules.append(module)
        for frame in chosen:
            recorded = layout.files.iloc[file_of_frame[frame]]
            with open_file(source_path(frames, recorded["name"])) as file:
                data = file[f"INSTRUMENT/{recorded.source}/image/data"]
                factor, symbol = unit_of(data)
                if symbol.lower() in PHOTON_SYMBOLS:
                    return "photons", f"unit attributes of {recorded.source} image.data"
                if symbol == "keV" or (symbol, factor) == ("eV", 1e3):
                    return "keV", f"unit attributes of {recorded.source} image.data"
                values = data[row_of_frame[frame]]
            values = values[np.isfinite(values) & (values != 0)]  # a masked or dark pixel is 0 or NaN in either unit
            n_frames += 1
            n_values += len(values)
            if np.any(values != np.round(values)):
                return "keV", f"fractions in frame {frame} of module {module}"
        if n_values >= ENOUGH_VALUES:
            break
    where = f"{n_frames} frames of {'module' if len(modules) == 1 else 'modules'} {', '.join(map(str, modules))}"
    if n_values == 0:
        return "keV", f"assumed: {where} hold no value other than 0 and NaN; set detector.proc_units if this is wrong"
    return "photons", f"all {n_values} finite values other than 0 in {where} are whole numbers"


def find_photon_energy(control, xgm, photon_energy_kev):
    """Photon energy of a run [keV], NaN when nobody knows, and where it is from.

    Control files that cannot be opened are left out and logged.

    Returns
    -------
    energy : float
    source : str
    """
    if photon_energy_kev is not None:
        return float(photon_energy_kev), "set in the config"
    files, broken = readable(control)
    read = [read_file(path, xgm, WAVELENGTH_KEY) for path in files]
    wavelength = np.concatenate([np.empty(0), *(wavelength_of(found[1]) for found in read if found is not None)])
    wavelength = wavelength[~np.isnan(wavelength)]
    without = f"; {len(broken)} of them cannot be read ({', '.join(broken)})" if broken else ""
    if len(wavelength) == 0:
        return float("nan"), f"unknown: no {xgm} {WAVELENGTH_KEY} in the run's {len(control)} control files{without}"
    energy = float(energy_of_wavelength(np.median(wavelength)))
    return energy, f"median of {len(wavelength)} values of {xgm} {WAVELENGTH_KEY}"
