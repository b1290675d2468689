"""Simulated DSSC runs on disk, taken through the library, and the same averages by plain numpy."""

from pathlib import Path

import h5py
import numpy as np

from pulsetrain import simulate_dssc, simulate_dssc_files
from pulsetrain.dssc_join import join_modules
from pulsetrain.dssc_selection import select_frames
from pulsetrain.dssc_sums import bin_module
from pulsetrain.integrity import check_run

XGM = {
    "source": f"{simulate_dssc_files.XGM}:output",
    "key": "data.intensitySa3TD",
    "n_pulses_source": simulate_dssc_files.BUNCHES,
    "n_pulses_key": "sase3.nPulses.value",
}
DELAY = {
    "source": simulate_dssc_files.DELAY,
    "key": "actualPosition.value",
    "file": None,
    "step": simulate_dssc.STEP_PS,
}
SCAN = {
    "variable": DELAY,
    "frame_pattern": list(simulate_dssc.PATTERN),
    "frame_mask": None,
    "xgm_limits": None,
    "max_frames": None,
}


def write_run(place, settings, run=235):
    """Write all files of a simulated run; return their names."""
    files = simulate_dssc_files.run_files(place, settings, run)
    for module, paths in files["modules"].items():
        for path in paths:
            simulate_dssc_files.write_module_file(path, settings, run, module, int(Path(path).stem[-5:]))
    simulate_dssc_files.write_control_file(files["control"][0], settings, run)
    simulate_dssc_files.write_scan_files(files["scan"], files["mask"], settings, run)
    return files


def check(place, files, settings, run=235):
    """Frame table of a run."""
    frames = place / "frames" / f"r{run:04d}.h5"
    modules = [path for paths in files["modules"].values() for path in paths]
    check_run(
        files=modules,
        frames=frames,
        integrity=place / "integrity" / f"r{run:04d}.json",
        run=run,
        stream="raw",
        detector=settings["detector"],
        modules=settings["modules"],
        min_modules=1,
        max_lost=1,
        policy="beamtime",
        sizes={Path(path).name: Path(path).stat().st_size for path in modules},
        attributes={},
        modules_key="dssc.modules",
    )
    return frames


def select(place, frames, files, run=235, scan="delay", xgm=XGM, **changes):
    """Selection of a run's frames."""
    output = place / "dssc" / f"r{run:04d}_frames_by-{scan}.h5"
    settings = SCAN | changes
    select_frames(frames, files["control"], output, {}, run=run, scan=scan, settings=settings, xgm=xgm)
    return output


def bin_modules(place, frames, selection, settings, run=235, scan="delay", **options):
    """Sums of all modules."""
    outputs = []
    for module in settings["modules"]:
        outputs.append(place / "dssc" / f"r{run:04d}_m{module:02d}_by-{scan}.h5")
        bin_module(frames, selection, outputs[-1], {}, module=module, **options)
    return outputs


def whole_way(place, settings, run=235, scan="delay", options=None, **changes):
    """From a simulated run to the joined file; returns the paths by name."""
    files = write_run(place, settings, run)
    frames = check(place, files, settings, run)
    selection = select(place, frames, files, run, scan, **changes)
    sums = bin_modules(place, frames, selection, settings, run, scan, **(options or {}))
    joined = place / "dssc" / f"r{run:04d}_by-{scan}.h5"
    join_modules([selection], [sums], joined, {}, modules=settings["modules"])
    return {"files": files, "frames": frames, "selection": selection, "sums": sums, "joined": joined}


def expected(settings, run, module, keep, values, pattern=simulate_dssc.PATTERN):
    """Exact sums, sums of squares and counts {(value, name): ...} of the simulator's images, by plain numpy.

    Parameters
    ----------
    keep : ndarray of bool, (T, F)
    values : ndarray of float, (T,)
        Bin of each train.
    """
    found = {}
    for train, frame in np.argwhere(keep):
        key = float(values[train]), pattern[frame % len(pattern)]
        image = simulate_dssc.images(settings, run, module, [train * settings["cells"] + frame])[0].astype(np.uint64)
        n, total, squares = found.get(key, (0, 0, 0))
        found[key] = n + 1, total + image, squares + image * image
    return found


def read_sums(path):
    """The sums of a module file as {(value, name): (count, sum, sum of squares)}, empty ones left out."""
    with h5py.File(path) as file:
        names, values = file["names"].asstr()[()], file["scan_variable"][()]
        return {
            (float(value), str(name)): (int(file["count"][b, i]), file["sum"][b, i], file["sum_squares"][b, i])
            for b, value in enumerate(values)
            for i, name in enumerate(names)
            if file["count"][b, i]
        }


def assert_same_sums(found, wanted):
    assert found.keys() == wanted.keys()
    for key, (n, total, squares) in wanted.items():
        assert found[key][0] == n
        np.testing.assert_array_equal(found[key][1], total)
        np.testing.assert_array_equal(found[key][2], squares)
