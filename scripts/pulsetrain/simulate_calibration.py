"""Simulate the data that AGIPD constants are made from: settings, faults and the list of files.

Three kinds of data: ``dark`` (no signal), ``current_source`` (a current fills each pixel through its three gain
stages) and ``xray`` (an X-ray tube on one memory cell), in the layouts ``nxs`` (parts of the laboratory's detector
writer) and ``xfel`` (run directories). The detector is the one of the simulated raw runs, with the same constants.
"""

import difflib
from pathlib import Path

import numpy as np

from pulsetrain import simulate_faults
from pulsetrain.detector import LAB_SHAPE
from pulsetrain.provenance import checkout_path
from pulsetrain.scan_axis import check_axis, default_axis, read_axis

KINDS = ("dark", "current_source", "xray")
LAYOUTS = ("nxs", "xfel")
SIZES = {
    "tiny": {"dark_bursts": 40, "xray_frames": 1500},
    "small": {"dark_bursts": 100, "xray_frames": 3000},
    "full": {"dark_bursts": 200, "xray_frames": 20000},
}
DEFAULTS = {
    "charge_sharing": 0.05,  # fraction of the photons whose charge two pixels share
    "drift_adu": 30.0,  # of the pedestal, over the X-ray series
    "xray_photons": 0.3,  # per pixel and frame
    "spikes": 0.003,  # fraction of the samples of a scan that are in a spike
    "faults": [],
}
FAULTS = {
    "missing_part": "the first part (nxs) or sequence file (xfel) does not exist",
    "odd_images": "the last analog image of the last part has no digital one (nxs)",
    "incomplete_burst": "the last burst of the last file lacks its last memory cell",
    "wrong_module": "the last file is that of the next module: by its name (nxs), or by the source in it (xfel)",
    "wrong_shape": "the images of the last file have half as many columns (nxs), or are not turned (xfel)",
    "unequal_groups": "the last scan file of the second column group ends five points early",
    "missing_train": "a train in the middle of the last sequence file is missing (xfel)",
}
ONLY_LAYOUT = {"odd_images": "nxs", "missing_train": "xfel"}
UNEQUAL_BY = 5
FIRST_PART = 2 / 3  # of the bursts

N_GROUPS = 4
WEAK_RESPONSE = 0.15  # of the columns beside the driven ones
# Two pixels of every module that lack gain stages: (row, column), laboratory orientation.
NEVER_MEDIUM = (37, 101)
NEVER_LOW = (90, 302)


def calibration_settings(settings, *, name, entry, integration_time=None, **overrides):
    """All settings of simulated calibration data.

    Parameters
    ----------
    settings : dict
        Of the simulated runs that the constants are for (:func:`pulsetrain.simulate.settings`): seed, memory cells,
        photon energy, profile.
    name : str
        Of the calibration; it chooses the random numbers.
    entry : dict
        ``calibrations.<name>`` of the configuration: ``layout``, ``xray_cell``, ``photon_energy_kev``, ``scan_axis``.
    integration_time : array_like, (n,), optional
        Axis of the scan [clocks]; default is the entry's file, or :func:`pulsetrain.scan_axis.default_axis`.
    **overrides
        ``dark_bursts``, ``xray_frames`` (the profile gives them), or another value for a key of `DEFAULTS`; None
        keeps the default. ``faults`` is a list of "kind:fault", such as "dark:missing_part" (`KINDS`, `FAULTS`).

    Returns
    -------
    dict
        JSON-able, sorted by key. ``xray_frames`` is rounded up to whole trains.

    Raises
    ------
    ValueError
        On unknown names or impossible values.
    """
    cells = settings["cells"]
    if integration_time is None:
        given = entry.get("scan_axis")
        integration_time = default_axis() if given is None else read_axis(checkout_path(given))
    chosen = {
        **DEFAULTS,
        **SIZES[settings["profile"]],
        "name": name,
        "layout": entry["layout"],
        "xray_cell": int(entry["xray_cell"]),
        "tube_energy_kev": float(entry["photon_energy_kev"]),
        "integration_time": check_axis(integration_time, f"calibration {name}").tolist(),
    }
    for key, value in overrides.items():
        if key not in chosen:
            near = difflib.get_close_matches(key, chosen, n=3)
            raise ValueError(f"setting {key!r} is not known; nearest: {', '.join(near) or ', '.join(sorted(chosen))}")
        if value is not None:
            chosen[key] = value
    if chosen["layout"] not in LAYOUTS:
        raise ValueError(f"calibration {name}: layout is {chosen['layout']!r}; expected one of {', '.join(LAYOUTS)}")
    if not 0 <= chosen["xray_cell"] < cells:
        raise ValueError(
            f"calibration {name}: xray_cell is {chosen['xray_cell']}, but the simulated detector has cells 0 to "
            f"{cells - 1}; choose one of these, or set simulate.cells"
        )
    chosen["xray_frames"] = -(-chosen["xray_frames"] // cells) * cells
    chosen["faults"] = sorted(set(chosen["faults"]))
    for fault in chosen["faults"]:
        _check_fault(fault, chosen["layout"], entry)
    return dict(sorted(chosen.items()))


def calibration_files(data_root, settings, calibration, entry, module, kind):
    """Files of one kind of data of one module, whether they exist or not.

    Parameters
    ----------
    data_root : str or Path
        Relative patterns of the entry count from here.
    settings : dict
    calibration : dict
        :func:`calibration_settings`.
    entry : dict
        ``calibrations.<name>`` of the configuration: run numbers (xfel) or patterns (nxs) of the three kinds.
    module : int
    kind : str
        One of `KINDS`.

    Returns
    -------
    list of (str, dict)
        Absolute path and what the file holds, JSON-able, for the writers in
        :mod:`pulsetrain.simulate_calibration_files`. In the description ``group`` is the position of the run or
        pattern in the entry; ``driven`` the column group (0-3) or None for all columns; ``part`` the number of the
        part or sequence; ``first`` and ``count`` the bursts, scan points or X-ray frames in it; ``module`` the
        module; ``run`` the run (xfel); ``faults`` those that are in this file.
    """
    given = entry[kind] if isinstance(entry[kind], list) else [entry[kind]]
    found = []
    for group, source in enumerate(given):
        in_parts = calibration["layout"] == "xfel" or "*" in source
        bounds = _bounds(settings, calibration, kind, in_parts)
        for part, (first, stop) in enumerate(bounds):
            faults = _faults_of(calibration, kind, group, part, is_last=part == len(bounds) - 1)
            if "missing_part" in faults:
                continue
            description = {
                "kind": kind,
                "module": module,
                "group": group,
                "driven": group if len(given) == N_GROUPS else None,
                "part": part,
                "first": first,
                "count": stop - first - (UNEQUAL_BY if "unequal_groups" in faults else 0),
                "run": source if calibration["layout"] == "xfel" else None,
                "faults": faults,
            }
            found.append((_path(data_root, calibration["layout"], source, description), description))
    return found


def driven_columns(group):
    """Pixels that the current source drives in one column group.

    Parameters
    ----------
    group : int
        0-3 (columns 1/5, 2/6, 3/7, 4/8); the lower ASICs are mounted upside down, so they count from the other end.

    Returns
    -------
    ndarray of bool, (128, 512)
        Laboratory orientation.
    """
    driven = np.zeros(LAB_SHAPE, dtype=bool)
    driven[: LAB_SHAPE[0] // 2, N_GROUPS - 1 - group :: N_GROUPS] = True
    driven[LAB_SHAPE[0] // 2 :, group::N_GROUPS] = True
    return driven


def bursts(calibration, kind):
    """Number of bursts (dark), points (current_source) or frames (xray) of one kind of data."""
    if kind == "current_source":
        return len(calibration["integration_time"])
    return calibration["dark_bursts"] if kind == "dark" else calibration["xray_frames"]


def _bounds(settings, calibration, kind, in_parts):
    """First burst and end of each file; parts are unequal, sequence files hold whole trains."""
    total = bursts(calibration, kind)
    if not in_parts:
        return [(0, total)]
    per_train = settings["cells"] if kind == "xray" and calibration["layout"] == "xfel" else 1
    trains = total // per_train
    cut = round(trains * FIRST_PART) * per_train
    return [(0, cut), (cut, total)]


def _faults_of(calibration, kind, group, part, is_last):
    """Names of the faults that are in one file: in the last one, but for the one that takes away the first."""
    there = []
    for fault in calibration["faults"]:
        of_kind, name = fault.split(":")
        in_group = group == (1 if name == "unequal_groups" else 0)
        in_part = part == 0 if name == "missing_part" else is_last
        if of_kind == kind and in_group and in_part:
            there.append(name)
    return there


def _path(data_root, layout, source, description):
    if layout == "xfel":
        name = simulate_faults.file_name(source, "raw", description["module"], description["part"])
        return str(Path(data_root).resolve() / "raw" / f"r{source:04d}" / name)
    named = description["module"] + ("wrong_module" in description["faults"])
    return str(Path(data_root).resolve() / source.format(module=named).replace("*", f"{description['part']:05d}"))


def _check_fault(fault, layout, entry):
    kind, _, name = fault.partition(":")
    if kind not in KINDS or name not in FAULTS:
        known = [f"{kind}:{name}" for kind in KINDS for name in FAULTS]
        near = difflib.get_close_matches(fault, known, n=3)
        raise ValueError(f"fault {fault!r} is not known; nearest: {', '.join(near) or ', '.join(known)}")
    if ONLY_LAYOUT.get(name, layout) != layout:
        raise ValueError(f"fault {fault!r} is for layout {ONLY_LAYOUT[name]} only; layout is {layout!r}")
    if name == "unequal_groups" and not (kind == "current_source" and isinstance(entry[kind], list)):
        raise ValueError(f"fault {fault!r} is for a current_source of four column groups only")
    if name == "incomplete_burst" and (kind, layout) == ("xray", "nxs"):
        raise ValueError(f"fault {fault!r}: an X-ray series in nxs parts has no bursts; use xray:odd_images")
