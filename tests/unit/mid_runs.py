"""Small simulated MID runs, the export on them, and the correction in plain numpy."""

import math
from pathlib import Path

import numpy as np

from pulsetrain import simulate, simulate_detector, simulate_files, simulate_mid
from pulsetrain.integrity import check_run
from pulsetrain.mid_export import Correction, export_mid

RUN = 110
DETECTOR = "MID_DET_AGIPD1M-1"
ADU_PER_PHOTON = [68.8, 1.376]


def settings_of(**changes):
    chosen = {"trains": 24, "cells": 3, "modules": [0, 13], "detector": DETECTOR, "hit_rate": 0.5}
    return simulate.settings("tiny", **(chosen | {"bright_ring": True} | changes))


def write_agipd(place, settings, stream="raw"):
    """Write the module files of a run below place/data; give their paths."""
    named = simulate_files.run_files(place / "data", settings, RUN, stream)["modules"]
    for module, paths in named.items():
        for path in paths:
            simulate_files.write_module_file(path, settings, RUN, stream, module, int(Path(path).stem[-5:]))
    return [path for paths in named.values() for path in paths]


def write_epix(place, settings, numbers=(1, 2), faults=()):
    """Write the ePix files of a run below place/data; give their paths."""
    named = simulate_mid.epix_files(place / "data", RUN, numbers, faults)
    for number, paths in named.items():
        for path in paths:
            simulate_mid.write_epix_file(path, settings, RUN, number, int(Path(path).stem[-5:]), faults)
    return [path for paths in named.values() for path in paths]


def check(place, settings, agipd, stream="raw", max_lost=0.5, **changes):
    """Run the integrity check; give the path of the frame table."""
    frames = place / "scratch/frames/r0110.h5"
    options = {"run": RUN, "stream": stream, "detector": DETECTOR, "modules": settings["modules"]}
    options |= {"min_modules": None, "max_lost": max_lost, "policy": "beamtime", "sizes": {}, "attributes": {}}
    check_run(agipd, frames, place / "scratch/integrity/r0110.json", **(options | changes))
    return frames


def export(place, settings, frames, epix, stream="raw", name="mid/r0110.h5", **changes):
    """Export the run; give the path."""
    output = place / "scratch" / name
    options = {"run": RUN, "stream": stream, "detector": DETECTOR, "modules": settings["modules"], "numbers": [1, 2]}
    options |= {"pulse_ids": None, "max_lost": 0.5, "sizes": {}, "correction": None, "threads": 2}
    export_mid(frames, epix, output, {"rule": "export_mid"}, **(options | changes))
    return output


def with_dark(path, adu_per_photon=ADU_PER_PHOTON, baseline_rows=20):
    return Correction(str(path), [], [], None, adu_per_photon, baseline_rows)


def true_raw(settings, module, frames):
    """What the files hold of some frames of the run: uint16 (n, 2, 512, 128)."""
    cells = simulate.frame_truth(settings, RUN)["cellId"][frames]
    photons = simulate.module_photons(settings, RUN, module, frames)
    return simulate_detector.raw_images(settings, RUN, module, frames, cells, photons)


def plain_correction(raw, offset, level, good, photons_per_adu, rows=20):
    """The correction of one frame, pixel arrays all at once: (adu, data, mask, baseline).

    raw (2, 512, 128); offset (2, 512, 128); level, good (512, 128); photons_per_adu (2,) or (2, 512, 128) float32.
    """
    analog, digital = raw[0].astype(np.float32), raw[1].astype(np.float32)
    mask = np.stack([(digital < level) & good, (digital > level) & good])
    adu = analog - offset
    dark = adu[0, :rows][mask[0, :rows]].tolist()
    baseline = np.float32(math.fsum(dark) / len(dark)) if dark else np.float32(0)
    adu[0] -= baseline
    scale = np.asarray(photons_per_adu, np.float32).reshape(2, *np.shape(photons_per_adu)[1:] or (1, 1))
    with np.errstate(invalid="ignore"):
        data = np.where(mask, adu * scale, np.float32(0))
    return adu, data, mask, baseline
