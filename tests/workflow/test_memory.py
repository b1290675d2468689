"""Peak memory of the jobs that read pixels: it does not grow with the number of frames."""

import functools
import os
import pickle
import subprocess
import sys
from pathlib import Path

import chain
import h5py
import numpy as np
import pytest
import sum_misses
import write_cxi
import write_emc

from pulsetrain import simulate, simulate_detector
from pulsetrain.current_source import process_current_source
from pulsetrain.dark import process_dark
from pulsetrain.gather import gather_current_source, gather_dark
from pulsetrain.integrity import check_run
from pulsetrain.litpixels import count_module
from pulsetrain.masks import make_run_mask
from pulsetrain.provenance import SCRIPTS
from pulsetrain.vds import make_vds

RUN = 55
MODULE = 3
TRAINS_PER_FILE = {"proc": 64, "raw": 8}  # with 64 cells: the frames of the small profile; 134 MB
HIT_EVERY = {"proc": 16, "raw": 4}
N_IMAGES = 64
# Bright, so that what is kept of each hit shows; packed frames only so bright that 4096 of them are less than a block.
PHOTONS_PER_PIXEL = {"proc": 0.02, "raw": 0.5}
MOST_MB = 1000
# VmHWM is of this process alone; getrusage counts the parent that it was forked from as well.
JOB = """
import pickle, sys
function, arguments, named = pickle.load(sys.stdin.buffer)
function(*arguments, **named)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def peak_mb(function, *arguments, **named):
    """Call a function in a process of its own; its largest resident memory [MB]."""
    done = subprocess.run(
        [sys.executable, "-c", JOB],
        input=pickle.dumps((function, arguments, named)),
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(SCRIPTS)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return int(done.stdout.split()[-1]) * 1024 / 1e6


@pytest.fixture(params=["proc", "raw"])
def run(request, tmp_path, monkeypatch):
    """One module in four files of equal length; few different images, as only their number matters."""
    stream = request.param
    settings = simulate.settings(
        "small", trains=4 * TRAINS_PER_FILE[stream], cells=64, sequences=4, modules=[MODULE], hit_rate=0.01
    )
    images = np.random.default_rng(1).poisson(PHOTONS_PER_PIXEL[stream], (N_IMAGES, 512, 128)).astype("u2")
    raw = simulate_detector.raw_images(settings, RUN, MODULE, range(N_IMAGES), range(N_IMAGES), images)

    def repeated(kept, frames):
        return kept[np.asarray(frames) % N_IMAGES]

    monkeypatch.setattr(simulate, "module_photons", lambda settings, run, module, frames: repeated(images, frames))
    monkeypatch.setattr(simulate_detector, "raw_images", lambda s, r, m, frames, cells, photons: repeated(raw, frames))
    files = chain.simulate_run(tmp_path, settings, RUN, stream)["modules"][MODULE]
    yield stream, tmp_path, files
    for path in files:
        Path(path).unlink()


def prepare(place, stream, files, geometry):
    """VDS, mask, events and misses of the first files; then {job: call}."""
    config = chain.chain_config(place, [MODULE], geometry)
    out = {name: place / f"{name}.h5" for name in ("frames", "vds", "mask", "events", "misses", "litpixels", "det")}
    given = {"stream": stream, "detector": config["detector"]["name"], "attributes": {}}
    check_run(
        files=files,
        frames=out["frames"],
        integrity=place / "integrity.json",
        run=RUN,
        modules=[MODULE],
        sizes={},
        **given,
        **config["integrity"],
    )
    energy = {"proc_units": "auto", "photon_energy_kev": 9.2, "xgm": ""}
    make_vds(frames=out["frames"], vds=out["vds"], control=[], **given, **energy)
    raw = stream == "raw"
    constants = [place.parent / "constants" / f"constants_m{MODULE:02d}.h5"] if raw else []
    bad = place.parent / "constants" / f"mask_m{MODULE:02d}.h5" if raw else None
    make_run_mask(out["vds"], bad, constants[0] if raw else None, [], MODULE, stream, 1, True, out["mask"], {})
    with h5py.File(out["vds"]) as vds, h5py.File(out["events"], "w") as events, h5py.File(out["misses"], "w") as misses:
        for name in ("trainId", "pulseId", "cellId", "modules"):
            events[name] = vds[f"pulsetrain/{name}"][()]
        n_frames = len(events["trainId"])
        events["is_hit"] = np.arange(n_frames) % HIT_EVERY[stream] == 0
        events["is_miss"] = np.arange(n_frames) % HIT_EVERY[stream] == 1
        events["pulse_energy"], events["wavelength"] = np.full((2, n_frames), 1e-3)
        events.attrs.update({"status": "complete", "reason": ""})
        misses["mean"] = np.zeros((16, 512, 128), "f4")
        misses.attrs["n_misses"] = 1
    conversion = {
        "photon_threshold": 0.5,
        "common_mode": raw,
        "baseline_shift": raw,
        "per_frame_mask": False,
        "threads": 2,
    }
    masks = [out["mask"]]
    counted = {"module": MODULE, "constants": constants[0] if raw else None, **conversion}
    read = {"modules": [MODULE], **conversion}
    where = {"masks": masks, "outliers": masks, "constants": constants}
    inputs = [out["vds"], out["events"], masks, masks, out["misses"], constants, geometry]
    outputs = [place / "hits.cxi", place / "run.geom"]
    experiment = {"run": RUN, "sample": "", "dtype": "uint8", "distance_m": 0.7, "attributes": {}}
    emc = [place / "hits.cxi", place / "run.emc", out["det"], place / "config.ini", 0.02, 127, 6, 2, {}]
    return n_frames, {
        "count_litpixels": functools.partial(
            peak_mb, count_module, out["vds"], out["mask"], out["litpixels"], {}, **counted
        ),
        "sum_misses": functools.partial(
            peak_mb, sum_misses.sum_misses, out["vds"], out["events"], place / "sum.h5", {}, **read, **where
        ),
        "write_cxi": functools.partial(peak_mb, write_cxi.write_cxi, *inputs, *outputs, **experiment, **read),
        "write_emc": functools.partial(peak_mb, write_emc.write_emc, *emc),
    }


def test_peak_memory_does_not_grow_with_the_run(run):
    stream, place, files = run
    peaks = {}
    for n_files in (1, 2, 4):
        (place / str(n_files)).mkdir()
        n_frames, jobs = prepare(place / str(n_files), stream, files[:n_files], simulate.GEOMETRY)
        assert n_frames == n_files * 64 * TRAINS_PER_FILE[stream]
        for name, job in jobs.items():
            if n_files == 1:
                job()  # compiles the kernels, if nobody has yet
            peak = job()
            allowed = max(1.1 * peaks[name][0], peaks[name][0] + 30) if name in peaks else MOST_MB
            if peak > allowed:  # how many blocks wait to be worked on is a matter of chance: look again
                peak = job()
            assert peak < min(allowed, MOST_MB), (name, n_frames, peak, peaks)
            peaks.setdefault(name, []).append(peak)


def empty_parts(folder, n_points, n_cells):
    """Files of the laboratory for the four column groups, full of zeros that take no room."""
    groups = []
    for columns in (15, 26, 37, 48):
        path = folder / f"M314_m{MODULE}_col{columns}_part00000.nxs"
        with h5py.File(path, "w") as file:
            shape = (2 * n_points * n_cells, 128, 512)
            file.create_dataset("entry/instrument/detector/data", shape, "u2", chunks=(64, 128, 512))
        groups.append([path])
    return groups


def test_peak_memory_does_not_grow_with_the_calibration_data(tmp_path):
    n_cells, of_module = 8, {"module": MODULE, "threads": 2}
    named = {"layout": "nxs", "cells": n_cells, **of_module}
    peaks = {}
    for n_points in (256, 512):
        groups = empty_parts(tmp_path, n_points, n_cells)
        scan, dark, done = (tmp_path / f"{name}.h5" for name in ("scan", "dark", "done"))
        found = {
            "gather_current_source": peak_mb(gather_current_source, groups, scan, {}, **named),
            "gather_dark": peak_mb(gather_dark, groups[0], dark, {}, **named),
            "process_dark": peak_mb(process_dark, dark, done, {}, **of_module),
        }
        for name, peak in found.items():
            allowed = max(1.1 * peaks[name], peaks[name] + 30) if name in peaks else MOST_MB
            assert peak < min(allowed, MOST_MB), (name, n_points, peak, peaks)
        peaks = found
        scan.unlink()
        dark.unlink()


def test_peak_memory_of_a_scan_of_any_length(tmp_path):
    path, n_points = tmp_path / "scan.h5", 40_000  # 50 times as many as usual; zeros that take no room
    with h5py.File(path, "w") as file:
        file.attrs.update({"module": MODULE, "kind": "current_source", "orientation": "lab"})
        for name in ("analog", "digital"):
            file.create_dataset(name, (n_points, 1, 128, 512), "<i2", chunks=(128, 1, 64, 64))
        file["integrationTime"], file["cellPresent"] = np.arange(n_points) * 1.0, np.ones(1, bool)
    outputs = tmp_path / "gains.h5", tmp_path / "means.h5"
    named = {"module": MODULE, "spike_height": 300, "trim": 0.1, "threads": 2}
    assert peak_mb(process_current_source, path, *outputs, {}, **named) < 2000
