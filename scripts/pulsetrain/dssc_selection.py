"""Which DSSC frames of a run count, in which bin and under which name; every other one with a reason."""

import logging
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.dssc_inputs import (
    bin_values,
    look_up_mask,
    pulse_energies,
    read_frame_mask,
    require_countable,
    scan_values,
)
from pulsetrain.layout import read_layout
from pulsetrain.output import new_h5, write_array
from pulsetrain.pulses import readable

log = logging.getLogger(__name__)

MOST_BINS = 2000  # more are a forgotten or mistyped step: the averages would take as much disk as the images
MOST_NAMED = 4  # frame names in the reason that they have no frame
TEXT = h5py.string_dtype()
REASONS = (
    "used",
    "after max_frames",
    "train without scan value",
    "scan value is not a number",
    "not in the frame mask",
    "rejected by the frame mask",
    "no pulse energy",
    "pulse energy outside xgm_limits",
)


class Selection(NamedTuple):
    """Frames of a run and what they count for.

    Attributes
    ----------
    names : list of str
        Frame names, each once, in the order of the pattern.
    values : ndarray of float64, (B,)
        Scan variable of the bins, ascending.
    bin : ndarray of int32, (N,)
        Of each frame of the run's frame table; -1 = left out.
    name : ndarray of uint16, (N,)
        Index into `names`.
    energy : ndarray of float64, (N,)
        Pulse energy, NaN where there is none.
    attributes : dict
        run, scan, units, label, energy_units, ...
    """

    names: list
    values: np.ndarray
    bin: np.ndarray
    name: np.ndarray
    energy: np.ndarray
    attributes: dict


def select_frames(frames, control, output, attributes, *, run, scan, settings, xgm):
    """Write which frames of a run count for a scan (docs/file-formats.md).

    Parameters
    ----------
    frames : str or Path
        The run's frame table.
    control : list of path
        Files of the run that are not detector modules.
    output : str or Path
    attributes : dict
        Provenance.
    run : int
    scan : str
        Name of the scan.
    settings : dict
        ``variable``, ``frame_pattern``, ``frame_mask``, ``xgm_limits``, ``max_frames`` of the configuration; names of
        files are full paths.
    xgm : dict
        As for :func:`pulsetrain.dssc_inputs.pulse_energies`.

    Raises
    ------
    ValueError
        An input is missing or cannot be used, or there are too many bins.
    """
    layout = read_layout(frames)
    control, broken = readable(control)
    trains, start, n_frames = np.unique(layout.train_id, return_index=True, return_counts=True)
    train_of_frame = np.repeat(np.arange(len(trains)), n_frames)
    frame_index = np.arange(len(layout.train_id)) - np.repeat(start, n_frames)
    names, name, pulse = frame_names(settings["frame_pattern"], frame_index)
    variable = settings["variable"]
    scanned = scan_values(variable, control, trains)
    step = None if variable is None else variable["step"]
    if step is not None:
        require_countable(scanned, trains, step)
    binned = bin_values(scanned.values, step)
    energies = pulse_energies(control, xgm, trains, int(pulse.max(initial=-1)) + 1)
    energy = energy_of_pulses(energies, train_of_frame, pulse)
    if settings["xgm_limits"] is not None and energies is None:
        raise ValueError(f"scan {scan} has xgm_limits, but run {run} has no {xgm['source']} {xgm['key']} (dssc.xgm)")
    mask = None if settings["frame_mask"] is None else read_frame_mask(settings["frame_mask"])
    reason = why_left_out(settings, layout.train_id, frame_index, train_of_frame, scanned, mask, energy, pulse)
    used = reason == 0
    values, bin_of_used = np.unique(binned[train_of_frame[used]], return_inverse=True)
    if len(values) > MOST_BINS:
        steps = "no step" if step is None else f"step {step:g}"
        raise ValueError(
            f"scan {scan} of run {run} has {len(values)} bins with {steps}, from {values[0]:g} to {values[-1]:g}"
            f"{scanned.units and ' ' + scanned.units}; at most {MOST_BINS} are averaged. Set a larger "
            f"dssc.scans.{scan}.variable.step"
        )
    bin_of_frame = np.full(len(used), -1, np.int32)
    bin_of_frame[used] = bin_of_used
    account = count_frames(frames, reason)
    about = {
        "run": run,
        "scan": scan,
        "units": scanned.units,
        "label": scanned.label,
        "energy_units": "" if energies is None else energies.units,
        "n_control_files_broken": len(broken),
        **status_of(account, names, name[used], energy[used], None if energies else xgm, broken),
    }
    selection = Selection(names, values, bin_of_frame, name, energy, attributes | about)
    with new_h5(output, selection.attributes) as file:
        write_selection(file, selection)
        write_array(file, "reason", reason, description=", ".join(f"{i} = {text}" for i, text in enumerate(REASONS)))
        group = file.create_group("trains")
        write_array(group, "trainId", trains)
        write_array(group, "scan_variable", scanned.values, scanned.units or None, "as it was read; NaN = unknown")
        write_array(group, "bin_value", np.where(scanned.found, binned, np.nan), scanned.units or None)
        group = file.create_group("account")
        group.create_dataset("reason", data=list(account), dtype=TEXT)
        write_array(group, "n_frames", np.array(list(account.values()), np.int64))
    for text, count in account.items():
        log.info("%s: %d frames", text, count)
    log.info("%d bins of %s, %d frame names", len(values), scanned.label, len(names))


def frame_names(pattern, frame_index):
    """Name and X-ray pulse of frames by their place in the train.

    Parameters
    ----------
    pattern : list of str
        Repeated to the end of the train; a name that contains "dark" means a frame without an X-ray pulse.
    frame_index : ndarray of int, (N,)

    Returns
    -------
    names : list of str
        Each once.
    name : ndarray of uint16, (N,)
        Index into `names`.
    pulse : ndarray of int64, (N,)
        Number of the X-ray pulse in the train: the k-th frame that is not dark belongs to pulse k. -1 for dark ones.
    """
    names = list(dict.fromkeys(pattern))
    place = frame_index % len(pattern)
    lit = np.array([not is_dark(name) for name in pattern])
    before = np.cumsum(lit) - lit
    pulse = frame_index // len(pattern) * lit.sum() + before[place]
    codes = np.array([names.index(name) for name in pattern], np.uint16)
    return names, codes[place], np.where(lit[place], pulse, -1)


def is_dark(name):
    """Whether frames of this name have no X-ray pulse."""
    return "dark" in name


def energy_of_pulses(energies, train_of_frame, pulse):
    """Energy of the pulse of each frame, (N,) float64; NaN where there is none."""
    energy = np.full(len(pulse), np.nan)
    if energies is not None:
        known = (pulse >= 0) & (pulse < energies.values.shape[1])
        energy[known] = energies.values[train_of_frame[known], pulse[known]]
    return energy


def why_left_out(settings, train_id, frame_index, train_of_frame, scanned, mask, energy, pulse):
    """Index into :data:`REASONS` of each frame, the first that holds; (N,) uint8."""
    reason = np.zeros(len(train_id), np.uint8)

    def drop(text, frames):
        reason[(reason == 0) & frames] = REASONS.index(text)

    if settings["max_frames"] is not None:
        drop("after max_frames", frame_index >= settings["max_frames"])
    drop("train without scan value", ~scanned.found[train_of_frame])
    drop("scan value is not a number", ~np.isfinite(scanned.values[train_of_frame]))
    if mask is not None:
        known, good = look_up_mask(mask, train_id, frame_index)
        drop("not in the frame mask", ~known)
        drop("rejected by the frame mask", ~good)
    if settings["xgm_limits"] is not None:
        low, high = settings["xgm_limits"]
        lit = pulse >= 0
        drop("no pulse energy", lit & np.isnan(energy))
        drop("pulse energy outside xgm_limits", lit & ~((energy >= low) & (energy <= high)))
    return reason


def count_frames(frames, reason):
    """Frames of the run by what became of them, those that check_run left out included: {text: frames}."""
    counts = np.bincount(reason, minlength=len(REASONS))
    account = {text: int(count) for text, count in zip(REASONS, counts, strict=True) if count or text == "used"}
    with h5py.File(frames) as file:
        of_train = file["trains/reason"].asstr()[()]
        lost = file["trains/n_frames"][()]
        n_seen = int(file.attrs["n_seen"])
    for text in sorted(set(of_train) - {""}):
        account[f"check_run: {text}"] = int(lost[of_train == text].sum())
    if sum(account.values()) != n_seen:
        raise RuntimeError(f"{frames}: {n_seen} frames seen, but {account} adds up to {sum(account.values())}")
    return account


def status_of(account, names, name, energy, lacking, broken):
    """Attributes status and reason; also logged.

    Parameters
    ----------
    account : dict
        From :func:`count_frames`.
    names : list of str
    name, energy : ndarray, (n,)
        Of the used frames.
    lacking : dict or None
        ``source`` and ``key`` of the gas monitor if the run does not have it; source None = none is asked for.
    broken : list of str
        Control files that cannot be read.
    """
    reasons = []
    lit = np.array([not is_dark(text) for text in names])
    unknown = int(np.isnan(energy[lit[name]]).sum())
    left_out = ", ".join(f"{text}: {count}" for text, count in account.items() if count and text != "used")
    absent = [text for text, count in zip(names, np.bincount(name, minlength=len(names)), strict=True) if not count]
    if account["used"] and absent:
        more = f" and {len(absent) - MOST_NAMED} more names" if len(absent) > MOST_NAMED else ""
        told = left_out or "the trains are shorter than the frame pattern"
        reasons.append(f"no frame called {', '.join(absent[:MOST_NAMED])}{more} is used ({told})")
    if not account["used"]:
        reasons.append(f"no frame is used ({left_out or 'the run has none'})")
    elif unknown and lacking is None:
        reasons.append(
            f"{unknown} of {len(name)} used frames have no pulse energy, though their name is not dark: they count for "
            "the images, not for the mean energies. If each train has more frames than pulses, set max_frames"
        )
    elif unknown and lacking["source"] is not None:
        reasons.append(
            f"the run has no {lacking['source']} {lacking['key']}, so that pulse energies are unknown; set dssc.xgm if "
            "its name is another, or dssc.xgm.source: null"
        )
    if broken:
        reasons.append(f"{len(broken)} control files cannot be read ({', '.join(broken)})")
    for reason in reasons:
        log.warning(reason)
    status = "empty" if not account["used"] else "partial" if reasons else "complete"
    return {"status": status, "reason": "; ".join(reasons)}


def write_selection(file, selection):
    """Write a selection into an open file."""
    file.create_dataset("names", data=selection.names, dtype=TEXT)
    units = selection.attributes["units"] or None
    write_array(file, "scan_variable", selection.values, units, "value of each bin")
    write_array(file, "bin", selection.bin, description="bin of each frame of frames/r....h5, -1 = left out")
    write_array(file, "name", selection.name, description="index into names")
    units = selection.attributes["energy_units"] or None
    write_array(file, "energy", selection.energy, units, "of the X-ray pulse of the frame, NaN = unknown or dark")


def read_selection(path):
    """Read a selection.

    Returns
    -------
    Selection
    """
    with h5py.File(path) as file:
        return Selection(
            file["names"].asstr()[()].tolist(),
            *(file[name][()] for name in ("scan_variable", "bin", "name", "energy")),
            dict(file.attrs),
        )
