"""Write simulated calibration data and their truth."""

import json

import h5py
import numpy as np

from pulsetrain import exdf_writer, simulate_calibration, simulate_detector, simulate_faults, simulate_files
from pulsetrain.detector import LAB_SHAPE, MODULE_SHAPE, lab_from_xfel
from pulsetrain.output import new_h5, whole_file
from pulsetrain.progress import progress
from pulsetrain.simulate_calibration_response import calibration_images, drift_adu, pixel_response

NEXUS_DATA = "entry/instrument/detector/data"
NEXUS_CLASSES = {"entry": "NXentry", "entry/instrument": "NXinstrument", "entry/instrument/detector": "NXdetector"}
BLOCK_FRAMES = 32
# Facility bit (extra.calibration.BadPixels) of pixels that the current source could not calibrate in all stages.
FACILITY_CURRENT_SOURCE = 0x40


def write_nexus_part(path, settings, calibration, description, attributes=None):
    """Write one ``.nxs`` part as the laboratory's detector writer does.

    ``/entry/instrument/detector/data`` uint16 (images, 128, 512) [ADU], laboratory orientation. Image
    (burst * cells + cell) * 2 is analog, the next one digital; bursts count from the part's first. An X-ray series
    has one cell.

    Parameters
    ----------
    path : str or Path
    settings : dict
        :func:`pulsetrain.simulate.settings`.
    calibration : dict
        :func:`pulsetrain.simulate_calibration.calibration_settings`.
    description : dict
        :func:`pulsetrain.simulate_calibration.calibration_files`.
    attributes : dict, optional
        Written on the root.
    """
    burst = description["first"] + np.arange(description["count"])
    cells = [calibration["xray_cell"]] if description["kind"] == "xray" else range(settings["cells"])
    cell = np.tile(cells, len(burst))
    burst = np.repeat(burst, len(cells))
    if "incomplete_burst" in description["faults"]:
        burst, cell = burst[:-1], cell[:-1]
    shown = slice(LAB_SHAPE[1] // 2 if "wrong_shape" in description["faults"] else None)
    shape = (2 * len(burst), LAB_SHAPE[0], len(range(LAB_SHAPE[1])[shown]))
    with new_h5(path, attributes or {}) as file:
        data = file.create_dataset(
            NEXUS_DATA, shape, "u2", chunks=(min(2 * BLOCK_FRAMES, shape[0]), *shape[1:]), maxshape=(None, *shape[1:])
        )
        data.attrs["units"] = "ADU"
        for group, kind in NEXUS_CLASSES.items():
            file[group].attrs["NX_class"] = kind
        for start, images in _blocks(settings, calibration, description, burst, cell):
            turned = lab_from_xfel(images, description["module"]).reshape(-1, *LAB_SHAPE)
            data[2 * start : 2 * start + len(turned)] = turned[..., shown]
        if "odd_images" in description["faults"]:
            data.resize(shape[0] - 1, axis=0)


def write_calibration_module(path, settings, calibration, description, attributes=None):
    """Write one sequence file of one module of a calibration run, raw data in European XFEL format.

    As the raw files of :func:`pulsetrain.simulate_files.write_module_file`. A train is a burst (dark) or a scan
    point (current_source) with all memory cells. An X-ray run has as many frames in a train, all of them of the
    cell `xray_cell`. Parameters as in :func:`write_nexus_part`.
    """
    kind, module, run, faults = (description[name] for name in ("kind", "module", "run", "faults"))
    plan, frame = _plan(settings, calibration, description)
    burst = frame if kind == "xray" else frame // settings["cells"]
    source = simulate_files.module_source(settings, "raw", module + ("wrong_module" in faults))
    version = settings["format_version"]
    shape = MODULE_SHAPE[::-1] if "wrong_shape" in faults else MODULE_SHAPE
    with whole_file(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes or {})
        groups = ["detector", "header", "image", "trailer"]
        sources = [f"INSTRUMENT/{source}/{group}" for group in groups]
        exdf_writer.write_head(file, version, plan.index_train_id, plan.flag, sources, run, description["part"])
        once = np.arange(len(plan.count)), np.ones(len(plan.count))
        for group in groups:
            rows = (plan.first, plan.count) if group == "image" else once
            exdf_writer.write_index(file, version, f"{source}/{group}", *rows)
        simulate_files.write_xtdf_groups(file, source, plan)
        data = file.create_dataset(
            f"INSTRUMENT/{source}/image/data",
            (len(frame), 2, *shape),
            "u2",
            maxshape=(None, 2, *shape),
            chunks=(min(BLOCK_FRAMES, len(frame)), 2, *shape),
        )
        for start, images in _blocks(settings, calibration, description, burst, plan.cell_id):
            data[start : start + len(images)] = images.reshape(-1, 2, *shape)
        simulate_files.write_identifiers(file, source, plan, "raw")


def write_calibration_truth(path, settings, calibration, module, attributes=None):
    """Write the constants that the calibration data of one module were made with, group ``cal``.

    Laboratory orientation; C = memory cells. ``analogGains`` (3, C, 128, 512) [ADU/clock], ``gains_adu_per_photon``
    (3, C, 128, 512) [ADU per photon of the run's energy], ``offsets`` (3, C, 128, 512) [ADU], the excess of hot
    pixels included, ``keV_per_adu`` (3, C, 128, 512) [keV/ADU], ``noise`` (C, 128, 512) [ADU], without common mode,
    ``digital`` (3, 128, 512) and ``thresholds`` (2, 128, 512) [ADU], ``photon_spacing`` (128, 512) [ADU per photon
    of the tube in `xray_cell`], ``current`` (128, 512) [photons/clock], ``drift_scale`` (128, 512), ``drift``
    (frames,) [ADU], ``integration_time`` (n,) [clocks]; ``bad`` uint32 (C, 128, 512), facility bits, 0 = good.

    Parameters
    ----------
    path : str or Path
    settings, calibration : dict
    module : int
    attributes : dict, optional
        Written on the root, beside ``module``, ``orientation`` ("lab") and ``calibration`` (JSON).
    """
    about = {"module": module, "orientation": "lab", "calibration": json.dumps(calibration, sort_keys=True)}
    pixels = pixel_response(settings, module)
    current, drift_scale = (_lab(values, module) for values in (pixels.current, pixels.drift))
    levels = _lab(pixels.levels, module)
    with new_h5(path, {**(attributes or {}), **about}) as file:
        group = file.create_group("cal")
        _write_cells(group, settings, current, module)
        gain = group["gains_adu_per_photon"][0, calibration["xray_cell"]]
        to_tube = calibration["tube_energy_kev"] / settings["photon_energy_kev"]
        for name, values, units in (
            ("digital", levels, "ADU"),
            ("thresholds", (levels[1:] + levels[:-1]) / 2, "ADU"),
            ("current", current, "photons/clock"),
            ("photon_spacing", gain * np.float32(to_tube), "ADU"),
            ("drift_scale", drift_scale, ""),
            ("drift", drift_adu(calibration, np.arange(calibration["xray_frames"])), "ADU"),
            ("integration_time", np.array(calibration["integration_time"]), "clocks"),
        ):
            group.create_dataset(name, data=values).attrs["units"] = units


def _write_cells(group, settings, current, module):
    """Write what differs from memory cell to memory cell, one cell at a time."""
    shape = (settings["cells"], *LAB_SHAPE)
    ratios = np.array(simulate_detector.GAIN_RATIOS, dtype=np.float32)[:, None, None]
    held = {
        name: group.create_dataset(name, (3, *shape), "f4")
        for name in ("analogGains", "gains_adu_per_photon", "offsets", "keV_per_adu")
    }
    held["noise"] = group.create_dataset("noise", shape, "f4")
    bad = group.create_dataset("bad", shape, "u4", chunks=(1, *LAB_SHAPE), compression="gzip", shuffle=True)
    bad.attrs["never_medium"] = simulate_calibration.NEVER_MEDIUM
    bad.attrs["never_low"] = simulate_calibration.NEVER_LOW
    for name, units in (
        ("analogGains", "ADU/clock"),
        ("gains_adu_per_photon", "ADU/photon"),
        ("offsets", "ADU"),
        ("keV_per_adu", "keV/ADU"),
        ("noise", "ADU"),
    ):
        held[name].attrs["units"] = units
    for cell in range(settings["cells"]):
        pedestal, high_gain = simulate_detector.constants(settings, module, cell)
        gain = lab_from_xfel(high_gain, module) / ratios
        offsets = pedestal + simulate_detector.excess_adu(settings, module, cell)
        held["gains_adu_per_photon"][:, cell] = gain
        held["analogGains"][:, cell] = gain * current
        held["keV_per_adu"][:, cell] = np.float32(settings["photon_energy_kev"]) / gain
        held["offsets"][:, cell] = lab_from_xfel(offsets, module)
        held["noise"][cell] = lab_from_xfel(simulate_detector.noise_adu(settings, module, cell), module)
        bits = lab_from_xfel(simulate_detector.bad_bits(settings, module, cell), module).copy()
        for place in (simulate_calibration.NEVER_MEDIUM, simulate_calibration.NEVER_LOW):
            bits[place] |= FACILITY_CURRENT_SOURCE
        bad[cell] = bits


def _plan(settings, calibration, description):
    """Rows of one sequence file: the plan of the file, and the frame of the run that each row holds."""
    cells, kind, faults = settings["cells"], description["kind"], description["faults"]
    per_train = cells if kind == "xray" else 1
    first_train = description["first"] // per_train
    trains = {"trains": description["count"] // per_train, "sequences": 1, "faults": []}
    trains["first_train"] = settings["first_train"] + first_train
    plan = simulate_faults.plan_file({**settings, **trains}, description["module"], 0)
    if kind == "xray":
        plan = plan._replace(cell_id=np.full_like(plan.cell_id, calibration["xray_cell"]))
    keep = np.ones(len(plan.frame), dtype=bool)
    count = plan.count.copy()
    if "incomplete_burst" in faults:
        keep[-1] = False
        count[-1] -= 1
    if "missing_train" in faults:
        train = len(count) // 2
        keep[train * cells : (train + 1) * cells] = False
        count[train] = 0
    there = count > 0
    count = count[there]
    plan = plan._replace(
        index_train_id=plan.index_train_id[there],
        flag=plan.flag[there],
        first=np.cumsum(count) - count,
        count=count,
        frame=plan.frame[keep],
        train_id=plan.train_id[keep],
        pulse_id=plan.pulse_id[keep],
        cell_id=plan.cell_id[keep],
    )
    return plan, plan.frame + first_train * cells


def _blocks(settings, calibration, description, burst, cell):
    """Give (start, images) of at most BLOCK_FRAMES images."""
    advance = progress(len(burst))
    for start in range(0, len(burst), BLOCK_FRAMES):
        block = slice(start, start + BLOCK_FRAMES)
        yield start, calibration_images(settings, calibration, description, burst[block], cell[block])
        advance(len(burst[block]))


def _lab(values, module):
    """Turn flat pixel arrays (..., P) into laboratory orientation (..., 128, 512)."""
    return lab_from_xfel(values.reshape(*values.shape[:-1], *MODULE_SHAPE), module)
