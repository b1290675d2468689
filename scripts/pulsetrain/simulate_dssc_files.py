"""Write the files of a simulated DSSC run under the facility's names and layouts, and its truth."""

import json
import os
from pathlib import Path

import h5py
import numpy as np

from pulsetrain import exdf_writer, simulate_dssc, simulate_faults
from pulsetrain.detector import DSSC_SHAPE
from pulsetrain.output import new_h5, whole_file, write_array
from pulsetrain.progress import progress
from pulsetrain.simulate_files import CUT_AT, JUNK, XGM_SLOTS, XGM_UNUSED, write_identifiers, write_xtdf_groups

BLOCK_FRAMES = 32
MOST_FRAMES_WITH_MEANS = 5000  # the truth of the means takes as long as simulating all modules
XGM = "SCS_BLU_XGM/XGM/DOOCS"
XGM_KEY = "intensitySa3TD"
BUNCHES = "SCS_RR_UTC/MDL/BUNCH_DECODER"
DELAY = "SCS_ILH_LAS/DOOCS/PP800_PHASESHIFTER"
TEXT = h5py.string_dtype()


def run_files(data_root, settings, run):
    """Names of the files of a run, whether they exist or not.

    Returns
    -------
    dict
        ``modules``: {module: [path, ...]} in the order of the sequences, without the files that a fault removes;
        ``control``: [path]; ``scan``, ``mask``: path of the scan variable and of the frame mask as files. Absolute
        paths as text.
    """
    root = Path(data_root).resolve()
    folder = root / "raw" / f"r{run:04d}"
    modules = {}
    for module in settings["modules"]:
        names = [
            str(folder / f"RAW-R{run:04d}-DSSC{module:02d}-S{sequence:05d}.h5")
            for sequence in range(settings["sequences"])
            if simulate_faults.has_file(settings, module, sequence)
        ]
        if names:
            modules[module] = names
    return {
        "modules": modules,
        "control": [str(folder / f"RAW-R{run:04d}-DA02-S00000.h5")],
        "scan": str(root / "dssc" / f"r{run:04d}_scan.h5"),
        "mask": str(root / "dssc" / f"r{run:04d}_mask.h5"),
    }


def write_module_file(path, settings, run, module, sequence, attributes=None):
    """Write one sequence file of one module: ``image/data`` (N, 1, 128, 512) uint16 [ADU], uncompressed."""
    plan = simulate_faults.plan_file(simulate_dssc.of_run(settings, run), module, sequence)
    source = f"{settings['detector']}/DET/{module}CH0:xtdf"
    version = settings["format_version"]
    groups = ["detector", "header", "image", "trailer"]
    with whole_file(path) as part:
        with h5py.File(part, "w") as file:
            file.attrs.update(attributes or {})
            sources = [f"INSTRUMENT/{source}/{group}" for group in groups]
            exdf_writer.write_head(file, version, plan.index_train_id, plan.flag, sources, run, sequence)
            for group in groups:
                once = np.arange(len(plan.count)), np.ones(len(plan.count))
                rows = (plan.first, plan.count) if group == "image" else once
                exdf_writer.write_index(file, version, f"{source}/{group}", *rows)
            write_xtdf_groups(file, source, plan)
            _write_pixels(file, source, settings, run, module, plan)
            write_identifiers(file, source, plan, "raw")
        if simulate_faults.is_cut(settings, module, sequence):
            os.truncate(part, int(part.stat().st_size * CUT_AT))


def _write_pixels(file, source, settings, run, module, plan):
    n_rows = len(plan.frame)
    shape = (n_rows, 1, *DSSC_SHAPE)
    chunks = (max(1, min(BLOCK_FRAMES, n_rows)), *shape[1:])
    data = file.create_dataset(
        f"INSTRUMENT/{source}/image/data", shape, "u2", chunks=chunks, maxshape=(None, *shape[1:])
    )
    advance = progress(n_rows)
    for start in range(0, n_rows, BLOCK_FRAMES):
        frames = plan.frame[start : start + BLOCK_FRAMES]
        images = simulate_dssc.images(settings, run, module, np.where(frames < 0, 0, frames))
        images[frames < 0] = JUNK
        data[start : start + len(frames), 0] = images
        advance(len(frames))


def write_control_file(path, settings, run, attributes=None):
    """Write the control file of a run: gas monitor, number of X-ray pulses, and the delay stage.

    The trains without scan value have a count of 0 in the delay stage's INDEX; with the fault ``xgm_missing_trains``
    the gas monitor lacks two trains.
    """
    version = settings["format_version"]
    truth = simulate_dssc.truth(settings, run)
    train_id = truth["trainId"]
    once = np.arange(len(train_id)), np.ones(len(train_id))
    lit = ~np.isnan(truth["energy"])
    struck = "xgm_missing_trains" in settings["faults"]
    has_xgm = np.ones(len(train_id), bool)
    has_xgm[list(simulate_faults.FAULT_TRAINS["xgm_missing_trains"] if struck else ())] = False
    intensity = np.full((len(train_id), XGM_SLOTS), XGM_UNUSED, np.float32)
    n_pulses = int(lit[0].sum()) if len(lit) else 0
    intensity[:, :n_pulses] = truth["energy"][lit].reshape(len(train_id), n_pulses)
    output = f"{XGM}:output/data"
    with whole_file(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(attributes or {})
        sources = [f"INSTRUMENT/{output}", f"CONTROL/{BUNCHES}", f"CONTROL/{DELAY}"]
        exdf_writer.write_head(file, version, train_id, np.ones(len(train_id)), sources, run, 0)
        exdf_writer.write_index(file, version, output, np.cumsum(has_xgm) - has_xgm, has_xgm)
        exdf_writer.write_instrument(file, output, "trainId", train_id[has_xgm])
        exdf_writer.write_instrument(file, output, XGM_KEY, intensity[has_xgm], "J", "u")
        exdf_writer.write_index(file, version, BUNCHES, *once)
        exdf_writer.write_control(file, BUNCHES, train_id, "sase3/nPulses", np.int32(n_pulses))
        held = truth["has_scan"]
        exdf_writer.write_index(file, version, DELAY, np.cumsum(held) - held, held)
        exdf_writer.write_control(file, DELAY, train_id[held], "actualPosition", truth["measured"][held], "s", "p")


def write_scan_files(scan, mask, settings, run, attributes=None):
    """Write the scan variable and the frame mask as the notebooks do: netCDF4, group ``data``.

    The scan variable lacks the trains without one; the mask lacks the last trains.
    """
    import h5netcdf  # needed for these two small files only

    truth = simulate_dssc.truth(settings, run)
    for path, name, values, held in (
        (scan, "scan_variable", truth["measured"], truth["has_scan"]),
        (mask, "mask", truth["mask"].astype(np.int8), truth["in_mask"]),
    ):
        with whole_file(path) as part, h5netcdf.File(part, "w") as file:
            for key, value in (attributes or {}).items():
                file.attrs[key] = value
            group = file.create_group("data")
            group.dimensions = {"trainId": int(held.sum())} | ({"pulse": values.shape[1]} if values.ndim == 2 else {})
            dimensions = tuple(group.dimensions)
            group.create_variable("trainId", ("trainId",), "u8", data=truth["trainId"][held])
            if values.ndim == 2:
                group.create_variable("pulse", ("pulse",), "i8", data=np.arange(values.shape[1]))
            array = group.create_variable(name, dimensions, values.dtype, data=values[held])
            array.attrs["dtype" if values.ndim == 2 else "units"] = "bool" if values.ndim == 2 else "ps"


def write_truth(path, settings, run, attributes=None):
    """Write the truth of a run (docs/simulator.md)."""
    truth = simulate_dssc.truth(settings, run)
    about = {"seed": settings["seed"], "settings": json.dumps(settings, sort_keys=True), "run": run}
    units = {"delay": "ps", "measured": "ps", "energy": "uJ"}
    with new_h5(path, {**(attributes or {}), **about}) as file:
        group = file.create_group("dssc")
        for name, values in truth.items():
            write_array(group, name, values, units.get(name))
        group.create_dataset("frame_label", data=simulate_dssc.PATTERN, dtype=TEXT)
        write_array(
            group, "bin_values", np.unique(truth["delay"]), "ps", f"scan positions, step {simulate_dssc.STEP_PS}"
        )
        write_array(group, "pumped_factor", simulate_dssc.pumped_factor(np.unique(truth["delay"])))
        available = simulate_faults.expected_availability(settings)
        write_array(group, "availability", available, description="(module, train): 0 absent, 1 whole, 2 untrusted")
        if truth["energy"].size <= MOST_FRAMES_WITH_MEANS:
            _write_means(group, settings, run, truth)


def _write_means(group, settings, run, truth):
    """Mean over all pixels of the trains with a scan value, by delay and frame name, of each module."""
    delays = np.unique(truth["delay"])
    n_frames = settings["cells"]
    chosen = truth["has_scan"] & np.isfinite(truth["measured"])
    means = np.full((len(delays), len(simulate_dssc.PATTERN), 16), np.nan)
    counts = np.zeros(means.shape[:2], np.int64)
    for i, delay in enumerate(delays):
        trains = np.flatnonzero(chosen & (truth["delay"] == delay))
        for k in range(len(simulate_dssc.PATTERN)):
            inside = np.arange(k, n_frames, len(simulate_dssc.PATTERN))
            frames = (trains[:, None] * n_frames + inside).ravel()
            counts[i, k] = len(frames)
            for module in settings["modules"] if len(frames) else ():
                drawn = (simulate_dssc.images(settings, run, module, [frame]) for frame in frames)
                total = sum(int(image.sum(dtype=np.int64)) for image in drawn)
                means[i, k, module] = total / (len(frames) * np.prod(DSSC_SHAPE))
    write_array(group, "mean_true", means, "ADU", "(bin, frame_label, module), mean over pixels, without faults")
    write_array(group, "n_frames_true", counts, description="(bin, frame_label)")
