"""Write what is known of a simulated run: the truth of its frames, its faults, and the constants of its detector."""

import json

import h5py
import numpy as np

from pulsetrain import simulate, simulate_detector, simulate_faults
from pulsetrain.detector import LAB_SHAPE, MODULE_SHAPE, N_MODULES, lab_from_xfel
from pulsetrain.output import new_h5, write_array

MAX_CELLS_WITH_CONSTANTS = 16  # the truth file holds the raw constants only up to here: 1.6 MB per cell and module
BLOCK_FRAMES = 64


def write_truth(path, settings, run, stream, attributes=None):
    """Write the truth of a run.

    Groups: ``frames`` (see :func:`pulsetrain.simulate.frame_truth`; ``frames/photons_sparse`` lists all photons of
    the modules in the settings, of the hits only in profile full), ``faults`` (one row per module and train
    touched), ``expected``, ``constants`` (raw or tiny), ``common_mode`` and ``baseline`` (raw).

    Parameters
    ----------
    path : str or Path
    settings : dict
    run : int
    stream : str
        ``proc`` or ``raw``.
    attributes : dict, optional
        Written on the root.
    """
    about = {
        "generator_version": simulate.GENERATOR_VERSION,
        "seed": settings["seed"],
        "settings": json.dumps(settings, sort_keys=True),
        "run": run,
        "stream": stream,
        "quaternion_convention": "(w, x, y, z), active rotation R(q) of the particle: I_lab(q) = I_body(R^T q)",
    }
    with new_h5(path, {**(attributes or {}), **about}) as file:
        _write_frames(file.create_group("frames"), settings, run)
        _write_faults(file.create_group("faults"), settings, run, stream)
        _write_expected(file.create_group("expected"), settings)
        if stream == "raw":
            _write_common_mode(file, settings, run)
        if stream == "raw" or settings["profile"] == "tiny":
            for module in settings["modules"]:
                _write_module(file.create_group(f"constants/module{module:02d}"), settings, stream, module)


def write_constants(path, settings, module, attributes=None):
    """Write the calibration constants that belong to the simulated raw data of one module, in lab orientation.

    ``analogGains_keV`` float32 (3, cells, 128, 512) [keV/ADU], ``digitalThresholds`` int16 (2, cells, 128, 512),
    ``darkOffsets`` float32 (3, cells, 128, 512) [ADU]. Cell c is at index c.
    """
    n_cells = settings["cells"]
    levels = simulate_detector.digital_levels(settings, module)
    thresholds = lab_from_xfel(np.rint((levels[1:] + levels[:-1]) / 2).astype(np.int16), module)
    ratios = np.array(simulate_detector.GAIN_RATIOS, dtype=np.float32)[:, None, None]
    with new_h5(path, {**(attributes or {}), "module": module, "orientation": "lab"}) as file:
        gains = file.create_dataset("analogGains_keV", (3, n_cells, *LAB_SHAPE), "f4")
        digital = file.create_dataset("digitalThresholds", (2, n_cells, *LAB_SHAPE), "i2")
        offsets = file.create_dataset("darkOffsets", (3, n_cells, *LAB_SHAPE), "f4")
        gains.attrs["units"] = "keV/ADU"
        offsets.attrs["units"] = "ADU"
        for cell in range(n_cells):
            pedestal, gain = simulate_detector.constants(settings, module, cell)
            kev_per_adu = np.float32(settings["photon_energy_kev"]) * ratios / gain
            gains[:, cell] = lab_from_xfel(kev_per_adu, module)
            offsets[:, cell] = lab_from_xfel(pedestal, module)
            digital[:, cell] = thresholds


def write_bad_cell_mask(path, settings, module, attributes=None):
    """Write ``badCellMask`` bool (cells, 128, 512), True = bad, of one simulated module, in lab orientation."""
    bad = [simulate_detector.bad_bits(settings, module, cell) != 0 for cell in range(settings["cells"])]
    with new_h5(path, {**(attributes or {}), "module": module, "orientation": "lab"}) as file:
        write_array(file, "badCellMask", lab_from_xfel(np.stack(bad), module))


def _write_frames(group, settings, run):
    truth = simulate.frame_truth(settings, run)
    units = {"pulse_energy_J": "J", "particle_a": "nm", "particle_c": "nm", "particle_theta": "rad"}
    units["particle_phi"] = "rad"
    for name, values in truth.items():
        write_array(group, name.replace("particle_", "particle/"), values, units.get(name))
    frames = np.arange(len(truth["is_hit"]))
    if settings["profile"] == "full":
        frames = np.flatnonzero(truth["is_hit"])
    sparse = group.create_group("photons_sparse")
    sparse.attrs["frames"] = "hits" if settings["profile"] == "full" else "all"
    sparse.attrs["pixel"] = "flat index in (16, 512, 128)"
    packed = {"maxshape": (None,), "chunks": (1 << 18,), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    columns = {
        name: sparse.create_dataset(name, (0,), kind, **packed)
        for name, kind in (("frame", "u4"), ("pixel", "u4"), ("count", "u2"))
    }
    for start in range(0, len(frames), BLOCK_FRAMES):
        block = frames[start : start + BLOCK_FRAMES]
        found = [_lit(simulate.module_photons(settings, run, module, block), module) for module in settings["modules"]]
        position, pixel, count = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.lexsort((pixel, position))
        for name, values in (("frame", block[position]), ("pixel", pixel), ("count", count)):
            held = columns[name]
            held.resize(len(held) + len(values), axis=0)
            held[len(held) - len(values) :] = values[order]


def _lit(images, module):
    """Lit pixels of images (n, 512, 128) as (image, flat pixel in the detector, count)."""
    position, pixel = np.nonzero(images.reshape(len(images), -1))
    return (
        position,
        pixel + module * MODULE_SHAPE[0] * MODULE_SHAPE[1],
        images.reshape(len(images), -1)[position, pixel],
    )


def _write_faults(group, settings, run, stream):
    """Columns: kind, file ('' = no single file), module (-1 = none), train (0 = all), expected."""
    rows = []
    outcome = {
        simulate_faults.ABSENT: "absent",
        simulate_faults.WHOLE: "whole",
        simulate_faults.UNTRUSTED: "untrusted",
    }
    sequence_of = {
        int(train): sequence
        for sequence in range(settings["sequences"])
        for train in simulate_faults.sequence_trains(settings, sequence)
    }
    for fault in settings["faults"]:
        modules = sorted(set(simulate_faults.FAULT_MODULES.get(fault, ())) & set(settings["modules"]))
        for module in modules:
            expected = outcome[simulate_faults.FAULT_CODES.get(fault, simulate_faults.UNTRUSTED)]
            for train in simulate_faults.affected_trains(settings, fault):
                name = simulate_faults.file_name(run, stream, module, sequence_of[train])
                rows.append((fault, name, module, settings["first_train"] + train, expected))
        if fault == "xgm_missing_trains":
            name = f"RAW-R{run:04d}-DA01-S00000.h5"
            trains = simulate_faults.affected_trains(settings, fault)
            rows.extend((fault, name, -1, settings["first_train"] + train, "no pulse energy") for train in trains)
        elif not modules:
            rows.append((fault, "", -1, 0, "whole"))
    kinds, files, modules, trains, expected = zip(*rows, strict=True) if rows else [()] * 5
    for name, values in (("kind", kinds), ("file", files), ("expected", expected)):
        group.create_dataset(name, data=list(values), shape=(len(values),), dtype=h5py.string_dtype())
    group.create_dataset("module", data=np.array(modules, dtype=np.int8))
    group.create_dataset("train", data=np.array(trains, dtype=np.uint64))


def _write_expected(group, settings):
    available = simulate_faults.expected_availability(settings)
    train_ids = settings["first_train"] + np.arange(settings["trains"])
    whole = (available[settings["modules"]] == simulate_faults.WHOLE).all(axis=0)
    write_array(group, "trains_common", train_ids[whole].astype(np.uint64), description="whole in all written modules")
    group.create_dataset("n_frames", data=settings["trains"] * settings["cells"])
    write_array(group, "module_availability", available, description="0 absent, 1 whole, 2 there but untrusted")


def _write_common_mode(file, settings, run):
    n_frames = settings["trains"] * settings["cells"]
    asics = np.zeros((n_frames, N_MODULES, *simulate_detector.ASIC_GRID), dtype=np.float32)
    baseline = np.zeros((n_frames, N_MODULES), dtype=np.float32)
    for module in settings["modules"]:
        for frame in range(n_frames):
            baseline[frame, module], asics[frame, module] = simulate_detector.common_mode(settings, run, module, frame)
    file.create_dataset("common_mode", data=asics).attrs["units"] = "ADU"
    file.create_dataset("baseline", data=baseline).attrs["units"] = "ADU"


def _write_module(group, settings, stream, module):
    cells = range(settings["cells"])
    bad = np.stack([simulate_detector.bad_bits(settings, module, cell) for cell in cells])
    write_array(group, "bad", bad, description="facility bits, 0 = good, without ASIC edges")
    if stream != "raw" or settings["cells"] > MAX_CELLS_WITH_CONSTANTS:
        return
    shape = (settings["cells"], *MODULE_SHAPE)
    pedestal = group.create_dataset("pedestal", (3, *shape), "f4")
    gain = group.create_dataset("gain", shape, "f4")
    gain.attrs["description"] = "high gain; divide by gain_ratios for the other stages"
    noise = group.create_dataset("noise", shape, "f4")
    for cell in cells:
        pedestal[:, cell], gain[cell] = simulate_detector.constants(settings, module, cell)
        noise[cell] = simulate_detector.noise_adu(settings, module, cell)
    group.create_dataset("gain_ratios", data=np.array(simulate_detector.GAIN_RATIOS))
    group.create_dataset("digital", data=simulate_detector.digital_levels(settings, module))
    for name, unit in (("pedestal", "ADU"), ("gain", "ADU/photon"), ("noise", "ADU"), ("digital", "ADU")):
        group[name].attrs["units"] = unit
