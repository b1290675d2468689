"""Write the files of a simulated run under the facility's names and layouts."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from isal import isal_zlib

from pulsetrain import exdf_writer, simulate, simulate_detector, simulate_faults
from pulsetrain.detector import MODULE_SHAPE, wavelength_m
from pulsetrain.output import whole_file
from pulsetrain.progress import progress

BLOCK_FRAMES = 32
COMPRESSION_THREADS = 2
CUT_AT = 0.6
JUNK = 99  # value of rows that belong to no train
XGM = "SPB_XTD9_XGM/XGM/DOOCS"
XGM_SLOTS = 1000
XGM_UNUSED = 1.0  # the XGM's filler; EXtra tells unused entries by this value
FPGA = "SPB_IRU_AGIPD1M1/MDL/FPGA_COMP"
HIGH_VOLTAGE = "SPB_IRU_AGIPD1M/PSC/HV"
LITFRM = "SPB_IRU_AGIPD1M1/REDU/LITFRM:output"
LINE_RATE_MHZ = 4.5


def run_files(data_root, settings, run, stream):
    """Names of the files of a run, whether they exist or not.

    Parameters
    ----------
    data_root : str or Path
    settings : dict
    run : int
    stream : str
        ``proc`` or ``raw``.

    Returns
    -------
    dict
        ``modules``: {module: [path, ...]} in the order of the sequences, without the files that a fault removes;
        ``control``: [path, ...]. Absolute paths as text.
    """
    root = Path(data_root).resolve()
    modules = {}
    for module in settings["modules"]:
        names = [
            str(root / stream / f"r{run:04d}" / simulate_faults.file_name(run, stream, module, sequence))
            for sequence in range(settings["sequences"])
            if simulate_faults.has_file(settings, module, sequence)
        ]
        if names:
            modules[module] = names
    control = ["DA01", "LITFRM01"] if settings["xgm"] == "litfrm" else ["DA01"]
    return {
        "modules": modules,
        "control": [str(root / "raw" / f"r{run:04d}" / f"RAW-R{run:04d}-{name}-S00000.h5") for name in control],
    }


def module_source(settings, stream, module):
    """Source of a module: raw ``DET/{m}CH0:xtdf``; corrected ``CORR/{m}CH0:output``, or the raw name if old."""
    if stream == "raw" or settings["old_names"]:
        return f"{settings['detector']}/DET/{module}CH0:xtdf"
    return f"{settings['detector']}/CORR/{module}CH0:output"


def write_module_file(path, settings, run, stream, module, sequence, attributes=None):
    """Write one sequence file of one module.

    Raw: ``image/data`` (N, 2, 512, 128) uint16 [ADU], identifiers (N, 1). Corrected: ``image/data``
    (N, 512, 128), ``image/mask`` uint32 (0 = good), ``image/gain`` uint8, identifiers (N,).

    Parameters
    ----------
    path : str or Path
    settings : dict
    run : int
    stream : str
        ``proc`` or ``raw``.
    module, sequence : int
    attributes : dict, optional
        Written on the root.
    """
    plan = simulate_faults.plan_file(settings, module, sequence)
    source = module_source(settings, stream, module)
    version = settings["format_version"]
    groups = ["image"] if stream == "proc" else ["detector", "header", "image", "trailer"]
    with whole_file(path) as part:
        with h5py.File(part, "w") as file:
            file.attrs.update(attributes or {})
            sources = [f"INSTRUMENT/{source}/{group}" for group in groups]
            exdf_writer.write_head(file, version, plan.index_train_id, plan.flag, sources, run, sequence)
            for group in groups:
                if group == "image":
                    rows = plan.first, plan.count
                else:
                    rows = np.arange(len(plan.count)), np.ones(len(plan.count))
                exdf_writer.write_index(file, version, f"{source}/{group}", *rows)
            if stream == "raw":
                write_xtdf_groups(file, source, plan)
                _write_raw_pixels(file, source, settings, run, module, plan)
            else:
                _write_corrected_pixels(file, source, settings, run, module, plan)
            write_identifiers(file, source, plan, stream)
        if simulate_faults.is_cut(settings, module, sequence):
            os.truncate(part, int(part.stat().st_size * CUT_AT))


def write_control_file(path, settings, run, attributes=None):
    """Write the control file of a run: the XGM (unless ``xgm`` is "none") and the AGIPD's conditions."""
    version = settings["format_version"]
    train_ids = settings["first_train"] + np.arange(settings["trains"], dtype=np.uint64)
    train_ids = train_ids.astype(np.uint64)
    once = np.arange(len(train_ids)), np.ones(len(train_ids))
    has_xgm = settings["xgm"] != "none"
    sources = [f"CONTROL/{FPGA}", f"CONTROL/{HIGH_VOLTAGE}"]
    if has_xgm:
        sources += [f"CONTROL/{XGM}", f"INSTRUMENT/{XGM}:output/data"]
    with whole_file(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes or {})
        exdf_writer.write_head(file, version, train_ids, np.ones(len(train_ids)), sources, run, 0)
        exdf_writer.write_index(file, version, FPGA, *once)
        exdf_writer.write_index(file, version, HIGH_VOLTAGE, *once)
        rate_mhz = LINE_RATE_MHZ / settings["pulse_step"]
        for key, value in (
            ("bunchStructure/nPulses", np.int32(settings["cells"])),
            ("bunchStructure/repetitionRate", np.float32(rate_mhz)),
            ("gain", np.int32(0)),
            ("gainModeIndex", np.int32(0)),
            ("integrationTime", np.int32(20)),
        ):
            exdf_writer.write_control(file, FPGA, train_ids, key, value)
        exdf_writer.write_control(file, HIGH_VOLTAGE, train_ids, "channels/U0/voltage", np.float32(300), "V")
        if has_xgm:
            _write_xgm(file, version, settings, run, train_ids, once)


def write_litfrm_file(path, settings, run, attributes=None):
    """Write the list of lit frames: which XGM pulses reached which detector frame."""
    version = settings["format_version"]
    energy_uj = _energies_uj(settings, run)
    n_trains, n_cells = settings["trains"], settings["cells"]
    train_ids = (settings["first_train"] + np.arange(n_trains, dtype=np.uint64)).astype(np.uint64)
    lit = bool(settings["beam"])
    with whole_file(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes or {})
        exdf_writer.write_head(file, version, train_ids, np.ones(n_trains), [f"INSTRUMENT/{LITFRM}/data"], run, 0)
        exdf_writer.write_index(file, version, f"{LITFRM}/data", np.arange(n_trains), np.ones(n_trains))
        every_train = (n_trains, n_cells)
        pulses = np.arange(n_cells, dtype=np.uint32) if lit else np.zeros(n_cells, dtype=np.uint32)
        for key, values in (
            ("trainId", train_ids),
            ("detectorPulseId", np.broadcast_to(simulate_faults.pulse_ids(settings), every_train)),
            ("nPulsePerFrame", np.full(every_train, int(lit), dtype=np.uint16)),
            ("xgmPulseId", np.broadcast_to(pulses, every_train)),
        ):
            exdf_writer.write_instrument(file, f"{LITFRM}/data", key, values)
        exdf_writer.write_instrument(file, f"{LITFRM}/data", "energyPerFrame", energy_uj, "J", "u")


def _energies_uj(settings, run):
    """Pulse energies as the XGM has them, (trains, cells) float32 [uJ]; zero without beam."""
    energy = simulate.frame_truth(settings, run)["pulse_energy_J"].reshape(settings["trains"], settings["cells"])
    return np.nan_to_num(energy * 1e6).astype(np.float32)


def _write_xgm(file, version, settings, run, train_ids, once):
    energy = _energies_uj(settings, run)
    n_pulses = settings["cells"] if settings["beam"] else 0
    struck = "xgm_missing_trains" in settings["faults"]
    missing = list(simulate_faults.FAULT_TRAINS["xgm_missing_trains"]) if struck else []
    count = np.ones(len(train_ids), dtype=np.uint64)
    count[missing] = 0
    present = count > 0
    first = np.cumsum(count) - count
    intensity = np.full((len(train_ids), XGM_SLOTS), XGM_UNUSED, dtype=np.float32)
    intensity[:, :n_pulses] = energy[:, :n_pulses]
    spread = np.full_like(intensity, XGM_UNUSED)
    spread[:, :n_pulses] = 0.02 * energy[:, :n_pulses]
    output = f"{XGM}:output/data"
    exdf_writer.write_index(file, version, output, first, count)
    exdf_writer.write_instrument(file, output, "trainId", train_ids[present])
    exdf_writer.write_instrument(file, output, "intensityTD", intensity[present], "J", "u")
    exdf_writer.write_instrument(file, output, "intensitySa1TD", intensity[present], "J", "u")
    exdf_writer.write_instrument(file, output, "intensitySigmaTD", spread[present], "J", "u")
    exdf_writer.write_index(file, version, XGM, *once)
    wavelength_nm = np.float32(wavelength_m(settings["photon_energy_kev"]) * 1e9)
    mean_uj = energy[:, :n_pulses].mean(axis=1) if n_pulses else np.zeros(len(train_ids))
    for key, value, unit, prefix in (
        ("classId", "DoocsXGM", None, ""),
        ("pulseEnergy/wavelengthUsed", wavelength_nm, "m", "n"),
        ("pulseEnergy/photonFlux", mean_uj.astype(np.float32), "J", "u"),
        ("pulseEnergy/numberOfSa1BunchesActual", np.int32(n_pulses), None, ""),
        ("pulseEnergy/numberOfBunchesActual", np.int32(n_pulses), None, ""),
    ):
        exdf_writer.write_control(file, XGM, train_ids, key, value, unit, prefix)


def write_identifiers(file, source, plan, stream):
    """Write image/{trainId, pulseId, cellId} of a plan (:func:`pulsetrain.simulate_faults.plan_file`), one per row."""
    columns = [("trainId", plan.train_id), ("pulseId", plan.pulse_id), ("cellId", plan.cell_id)]
    if stream == "raw":
        columns += [
            ("status", np.zeros(len(plan.frame), dtype=np.uint16)),
            ("length", np.full(len(plan.frame), 2 * 2 * np.prod(MODULE_SHAPE), dtype=np.uint32)),
        ]
    for name, values in columns:
        exdf_writer.write_instrument(file, f"{source}/image", name, values[:, None] if stream == "raw" else values)


def write_xtdf_groups(file, source, plan):
    """Write the groups of the train's packet other than the images: one row per train."""
    n_trains = len(plan.index_train_id)
    for group, name, values in (
        ("header", "trainId", plan.index_train_id),
        ("header", "pulseCount", plan.count),
        ("header", "dataId", np.zeros(n_trains, dtype=np.uint64)),
        ("header", "linkId", np.zeros(n_trains, dtype=np.uint64)),
        ("header", "majorTrainFormatVersion", np.full(n_trains, 2, dtype=np.uint32)),
        ("header", "minorTrainFormatVersion", np.zeros(n_trains, dtype=np.uint32)),
        ("header", "magicNumberBegin", np.zeros((n_trains, 8), dtype=np.int8)),
        ("header", "reserved", np.zeros((n_trains, 16), dtype=np.uint8)),
        ("detector", "trainId", plan.index_train_id),
        ("detector", "data", np.zeros((n_trains, 5408), dtype=np.uint8)),
        ("trailer", "trainId", plan.index_train_id),
        ("trailer", "status", np.zeros(n_trains, dtype=np.uint64)),
        ("trailer", "checksum", np.zeros((n_trains, 16), dtype=np.int8)),
        ("trailer", "magicNumberEnd", np.zeros((n_trains, 8), dtype=np.int8)),
    ):
        exdf_writer.write_instrument(file, f"{source}/{group}", name, values)


def _blocks(settings, run, module, plan, render):
    """Give (start, images) of at most BLOCK_FRAMES rows; rows of no train are filled with JUNK."""
    cells = np.append(np.tile(simulate_faults.cell_ids(settings), settings["trains"]), np.uint16(0))
    advance = progress(len(plan.frame))
    for start in range(0, len(plan.frame), BLOCK_FRAMES):
        frames = plan.frame[start : start + BLOCK_FRAMES]
        true = np.where(frames < 0, 0, frames)  # the pixels of rows of no train are overwritten below
        photons = simulate.module_photons(settings, run, module, true)
        images = render(settings, run, module, true, cells[true], photons)
        images[frames < 0] = JUNK
        yield start, images
        advance(len(frames))


def _write_raw_pixels(file, source, settings, run, module, plan):
    """Uncompressed, in chunks of several frames, as the data acquisition writes it."""
    n_rows = len(plan.frame)
    data = file.create_dataset(
        f"INSTRUMENT/{source}/image/data",
        (n_rows, 2, *MODULE_SHAPE),
        "u2",
        maxshape=(None, 2, *MODULE_SHAPE),
        chunks=(max(1, min(BLOCK_FRAMES, n_rows)), 2, *MODULE_SHAPE),
    )
    for start, images in _blocks(settings, run, module, plan, simulate_detector.raw_images):
        data[start : start + len(images)] = images


def _write_corrected_pixels(file, source, settings, run, module, plan):
    """One frame per chunk and gzip 1, as the facility's correction writes it; compressed here, in threads."""
    group = f"INSTRUMENT/{source}/image"
    n_rows = len(plan.frame)
    shape, chunk = (n_rows, *MODULE_SHAPE), (1, *MODULE_SHAPE)
    packed = {"maxshape": (None, *MODULE_SHAPE), "chunks": chunk, "compression": "gzip", "compression_opts": 1}
    kind = "u1" if settings["proc_data"] == "uint8" else "f4"
    data = file.create_dataset(f"{group}/data", shape, kind, shuffle=True, **packed)
    with ThreadPoolExecutor(COMPRESSION_THREADS) as pool:
        for start, images in _blocks(settings, run, module, plan, simulate_detector.corrected_images):
            for row, block in enumerate(pool.map(_shuffled, images), start):
                data.id.write_direct_chunk((row, 0, 0), block)
    gain = file.create_dataset(f"{group}/gain", shape, "u1", shuffle=True, **packed)
    zeros = isal_zlib.compress(bytes(int(np.prod(MODULE_SHAPE))), 1)
    for row in range(n_rows):
        gain.id.write_direct_chunk((row, 0, 0), zeros)
    if "no_mask" in settings["faults"]:
        return
    mask = file.create_dataset(f"{group}/mask", shape, "u4", **packed)
    blocks = {}
    for row, cell in enumerate(plan.cell_id):
        if cell not in blocks:
            bits = simulate_detector.facility_mask(settings, module, int(cell))
            blocks[cell] = isal_zlib.compress(bits.astype("<u4").tobytes(), 1)
        mask.id.write_direct_chunk((row, 0, 0), blocks[cell])


def _shuffled(image):
    """One chunk as HDF5's filters shuffle and gzip leave it."""
    if image.dtype.itemsize > 1:
        image = np.ascontiguousarray(image).view(np.uint8).reshape(-1, image.dtype.itemsize).T
    return isal_zlib.compress(np.ascontiguousarray(image), 1)
