"""Which X-ray pulse hit each frame: from frames to entries of the gas monitor (XGM), never by memory cell.

The XGM stores one number per X-ray pulse of a train, the detector one frame per memory cell. Which pulse a cell saw
follows from the pulse list of the facility's lit-frame finder (LITFRM) or from the spacing of the pulse ids.
"""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pulsetrain import detector
from pulsetrain.exdf import BrokenFile, open_file, read_train_values, read_unit
from pulsetrain.layout import read_layout
from pulsetrain.output import new_h5, write_array

log = logging.getLogger(__name__)

ENERGY_KEY = "data.intensityTD"
WAVELENGTH_KEY = "pulseEnergy.wavelengthUsed.value"
LITFRM_KEYS = ("data.detectorPulseId", "data.nPulsePerFrame", "data.xgmPulseId")
UNUSED_ENTRY = 1.0  # the XGM's value after the last pulse; EXtra's XGM component relies on it too
METHODS = ("auto", "litfrm", "pulse-spacing", "legacy-cellId")
NANO = 1e-9
MICRO = 1e-6


class TrainValues(NamedTuple):
    """One key of a source, one entry per train asked for.

    Attributes
    ----------
    values : ndarray, (T, ...)
        Zero where `found` is False.
    found : ndarray of bool, (T,)
    factor : float
        Of the unit's metric prefix in the file.
    symbol : str
        Unit; '' where the file names none.
    """

    values: np.ndarray
    found: np.ndarray
    factor: float
    symbol: str


def map_pulses(frames, control, output, method, xgm, litfrm, offset, photon_energy_kev, attributes):
    """Write pulse energy and wavelength of each frame of a run.

    Parameters
    ----------
    frames : path
        Frame table (:mod:`pulsetrain.layout`).
    control : list of path
        The run's files that are not detector modules.
    output : path
        ``pulse_energy`` f8 (N,) [J], ``wavelength`` f8 (N,) [m], NaN where unknown; ``xgm_index`` i4 (N,), -1 where
        there is none; ``xgm/trainId`` (T,) and ``xgm/pulse_energy`` f8 (T, P) [J], all pulses of the monitor;
        attributes method, reason, offset, n_unmatched (frames without a pulse energy).
    method : str
        One of :data:`METHODS`.
    xgm, litfrm : str
        Names of the sources.
    offset : int
        Added to the pulse number.
    photon_energy_kev : float or None
        Gives all frames this wavelength; None takes that of the XGM.
    attributes : dict
        Provenance.

    Raises
    ------
    ValueError
        The method is unknown, or it is ``litfrm`` and the run has no such source.
    """
    run = read_layout(frames)
    trains, train_of_frame = np.unique(run.train_id, return_inverse=True)
    files, broken = readable(control)
    notes = [f"{len(broken)} control files cannot be read ({', '.join(broken)})"] if broken else []

    index, method, reason = xgm_index(files, run, trains, train_of_frame, method, litfrm, offset)
    monitor = read_pulse_energy(files, xgm, trains)
    if monitor is None:
        index[:] = -1
        energy = np.full(len(index), np.nan)
        monitor = np.full((len(trains), 0), np.nan)
        method, reason = "none", f"the run has no source {xgm}:output; set pulses.xgm if its name is another"
    else:
        index[index >= monitor.shape[1]] = -1
        energy = energy_of_frames(monitor, train_of_frame, index)
    wavelength = read_wavelength(files, xgm, trains, photon_energy_kev)[train_of_frame]

    n_unmatched = int(np.isnan(energy).sum())
    if method != "none" and n_unmatched:
        without = int(np.isnan(monitor).all(axis=1).sum())
        notes.append(
            f"{n_unmatched} frames have no pulse energy ({without} of {len(trains)} trains are not in the XGM)"
        )
    reason = "; ".join([reason, *notes])
    (log.warning if n_unmatched or broken else log.info)("method %s: %s", method, reason)

    with new_h5(output, attributes) as file:
        write_array(file, "pulse_energy", energy, "J", "energy of the X-ray pulse, NaN = unknown")
        write_array(file, "wavelength", wavelength, "m", "wavelength of the X-rays, NaN = unknown")
        write_array(file, "xgm_index", index.astype("i4"), None, "entry of the gas monitor's pulse list, -1 = none")
        group = file.create_group("xgm")
        write_array(group, "trainId", trains)
        write_array(group, "pulse_energy", monitor, "J", "all pulses of the gas monitor, NaN = none")
        file.attrs.update({"method": method, "reason": reason, "offset": int(offset), "n_unmatched": n_unmatched})


def xgm_index(files, run, trains, train_of_frame, method, litfrm, offset):
    """Entry of the XGM's pulse list for each frame.

    Parameters
    ----------
    files : list of path
        Control files.
    run : RunLayout
    trains : ndarray of uint64, (T,)
    train_of_frame : ndarray of int, (N,)
        Row of `trains`.
    method, litfrm, offset :
        As in :func:`map_pulses`.

    Returns
    -------
    index : ndarray of int64, (N,)
        -1 where the frame has no pulse.
    method : str
        The method used, never ``auto``.
    reason : str
        Why this one.
    """
    if method not in METHODS:
        raise ValueError(f"pulses.method is {method!r}; expected one of {', '.join(METHODS)}")
    if method in ("auto", "litfrm"):
        lists = [collect(files, litfrm, key, trains) for key in LITFRM_KEYS]
        absent = [key for key, values in zip(LITFRM_KEYS, lists, strict=True) if values is None]
        if not absent and lists[0].found.any():
            found = lists[0].found & lists[1].found & lists[2].found
            index = index_by_litfrm(*(each.values for each in lists), found, train_of_frame, run.pulse_id)
            reason = f"the run has the pulse list {litfrm} for {found.sum()} of {len(trains)} trains"
            return shifted(index, offset), "litfrm", reason
        why = f"the run has no {litfrm} {', '.join(absent)}" if absent else f"{litfrm} has none of the run's trains"
        if method == "litfrm":
            raise ValueError(f"pulses.method is litfrm, but {why}; set pulses.litfrm, or pulses.method: pulse-spacing")
    if method == "legacy-cellId":
        index = run.cell_id.astype(np.int64)
        return shifted(index, offset), method, "asked for by pulses.method; right only if cell 0 saw the first pulse"
    index, step = index_by_spacing(run.pulse_id)
    reason = f"{why}; " if method == "auto" else "asked for by pulses.method; "
    first = run.pulse_id.min() if len(run.pulse_id) else "none"
    reason += f"pulseId {first} is taken as the first pulse, one pulse per {step} pulse ids"
    return shifted(index, offset), "pulse-spacing", reason


def index_by_litfrm(detector_pulse_id, n_pulses, xgm_pulse_id, found, train_of_frame, pulse_id):
    """XGM entries by the lit-frame finder's lists: of the pulses that a frame saw, the last.

    The frame of a pulse id is column c with ``detector_pulse_id[c] == pulse_id``, compared exactly; its entry is
    ``xgm_pulse_id[cumsum(n_pulses)[c] - 1]`` (xfel7927, offline/get_event_metadata.py).

    Parameters
    ----------
    detector_pulse_id, n_pulses : ndarray, (T, F)
        Columns after the last frame repeat a pulse id, so the first match counts.
    xgm_pulse_id : ndarray, (T, P)
    found : ndarray of bool, (T,)
        Trains that the lists hold.
    train_of_frame, pulse_id : ndarray, (N,)

    Returns
    -------
    ndarray of int64, (N,)
        -1 where the train or pulse id is not listed or the frame saw no pulse.
    """
    index = np.full(len(pulse_id), -1, dtype=np.int64)
    listed = np.asarray(detector_pulse_id, dtype=np.uint64)
    if not len(pulse_id) or not listed.size:
        return index
    # One integer per (train, pulse id); pulse ids beyond those listed cannot match and would spoil the product.
    span = int(listed.max()) + 1
    keys = np.arange(len(listed))[:, None] * span + listed.astype(np.int64)
    order = np.argsort(keys, axis=None, kind="stable")
    keys = keys.ravel()[order]
    asked = np.flatnonzero(found[train_of_frame] & (pulse_id < span))
    wanted = train_of_frame[asked] * span + pulse_id[asked].astype(np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    asked, place = asked[keys[place] == wanted], place[keys[place] == wanted]
    row, column = np.divmod(order[place], listed.shape[1])
    last = np.cumsum(np.asarray(n_pulses, dtype=np.int64), axis=1)[row, column] - 1
    lit = (np.asarray(n_pulses)[row, column] > 0) & (last < np.shape(xgm_pulse_id)[1])
    index[asked[lit]] = np.asarray(xgm_pulse_id)[row[lit], last[lit]]
    return index


def index_by_spacing(pulse_id):
    """XGM entries by the spacing of the pulse ids of a run.

    Parameters
    ----------
    pulse_id : ndarray of uint64, (N,)

    Returns
    -------
    index : ndarray of int64, (N,)
        (pulse_id - smallest) / step.
    step : int
        Greatest common divisor of the differences of the pulse ids; 1 if there is only one.
    """
    if not len(pulse_id):
        return np.zeros(0, dtype=np.int64), 1
    distinct = np.unique(pulse_id)
    step = int(np.gcd.reduce(np.diff(distinct))) if len(distinct) > 1 else 1
    return ((pulse_id - distinct[0]) // np.uint64(step)).astype(np.int64), step


def shifted(index, offset):
    """Add the offset to the entries; -1 stays, and so becomes what falls before the first entry."""
    moved = np.where(index >= 0, index + offset, -1)
    return np.maximum(moved, -1)


def energy_of_frames(monitor, train_of_frame, index):
    """Pulse energy of each frame: ``monitor[train, index]``, NaN where there is no such entry.

    Parameters
    ----------
    monitor : ndarray, (T, P) [J]
    train_of_frame, index : ndarray of int, (N,)

    Returns
    -------
    ndarray of float64, (N,) [J]
    """
    energy = np.full(len(index), np.nan)
    known = (index >= 0) & (index < monitor.shape[1])
    energy[known] = monitor[train_of_frame[known], index[known]]
    return energy


def read_pulse_energy(files, xgm, trains):
    """Pulse energies that the XGM measured.

    Returns
    -------
    ndarray of float64, (T, P) [J] or None
        P = entries up to the last pulse of any train; NaN for unused entries and missing trains. None without XGM.
    """
    held = collect(files, f"{xgm}:output", ENERGY_KEY, trains)
    if held is None:
        return None
    factor = held.factor if held.symbol else MICRO  # files without units hold uJ, as all XGMs write
    energy = np.where(held.values == UNUSED_ENTRY, np.nan, held.values.astype(float) * factor)
    energy[~held.found] = np.nan
    used = np.flatnonzero(~np.isnan(energy).all(axis=0)) if len(trains) else np.zeros(0, int)
    return energy[:, : used[-1] + 1 if len(used) else 0]


def read_wavelength(files, xgm, trains, photon_energy_kev):
    """Wavelength of each train [m]: of the given photon energy, else what the XGM was told, else NaN; (T,) f8."""
    if photon_energy_kev is not None:
        return np.full(len(trains), detector.wavelength_m(photon_energy_kev))
    held = collect(files, xgm, WAVELENGTH_KEY, trains)
    if held is None:
        log.warning("the run has no %s of %s: set detector.photon_energy_kev for the wavelength", WAVELENGTH_KEY, xgm)
        return np.full(len(trains), np.nan)
    return wavelength_of(held)


def wavelength_of(held):
    """Wavelength [m] of trains of :data:`WAVELENGTH_KEY`, NaN where unknown."""
    wavelength = held.values.astype(float) * (held.factor if held.symbol else NANO)
    return np.where(held.found & np.isfinite(wavelength) & (wavelength > 0), wavelength, np.nan)


def collect(files, source, key, trains, columns=None):
    """Read one key for the given trains from several files; the first file that has a train gives its value.

    Parameters
    ----------
    files : list of path
    source, key : str
    trains : ndarray of uint64, (T,)
        Sorted.
    columns : int or None
        As for :func:`pulsetrain.exdf.read_train_values`.

    Returns
    -------
    TrainValues or None
        None if no file has the source and key.
    """
    gathered = None
    for path in files:
        read = read_file(path, source, key, columns)
        if read is None:
            continue
        train_id, (values, _, *unit) = read
        if gathered is None:
            gathered = np.zeros((len(trains), *values.shape[1:]), values.dtype)
            found = np.zeros(len(trains), dtype=bool)
            factor, symbol = unit
        if values.shape[1:] != gathered.shape[1:]:
            raise ValueError(
                f"{path}: {source} {key} has {values.shape[1:]} values per train; the run's other files have "
                f"{gathered.shape[1:]}. These files do not belong to one run: check the directory"
            )
        place = np.searchsorted(trains, train_id)
        wanted = np.flatnonzero(place < len(trains))
        wanted = wanted[trains[place[wanted]] == train_id[wanted]]
        wanted = wanted[~found[place[wanted]]]
        gathered[place[wanted]] = values[wanted]
        found[place[wanted]] = True
    return None if gathered is None else TrainValues(gathered, found, factor, symbol)


def read_file(path, source, key, columns=None):
    """Read one key of one file: the first value of each train, and the unit.

    Parameters
    ----------
    path : path
    source, key : str
    columns : int or None
        As for :func:`pulsetrain.exdf.read_train_values`.

    Returns
    -------
    train_id : ndarray of uint64, (E,)
    held : TrainValues
        Of these trains. None instead of both if the file does not have the source or the key.

    Raises
    ------
    ValueError
        The file is damaged; the message names it.
    """
    try:
        read = read_train_values(path, source, key, columns)
        if read is None:
            return None
        train_id, values, first, _ = read
        return train_id, TrainValues(values[first], np.ones(len(train_id), dtype=bool), *read_unit(path, source, key))
    except BrokenFile as error:
        raise ValueError(f"{path}: {source} {key}: {error}; {error.next_step}") from error


def readable(paths):
    """Sort out the files that cannot be opened, and log them.

    Returns
    -------
    good : list of path
    broken : list of str
        Names of the others.
    """
    good, broken = [], []
    for path in paths:
        try:
            open_file(path).close()
            good.append(path)
        except BrokenFile as error:
            log.warning("%s is left out: %s; %s", path, error, error.next_step)
            broken.append(Path(path).name)
    return good, broken
