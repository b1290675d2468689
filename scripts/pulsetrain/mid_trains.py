"""Which trains of a MID run are exported: those that every chosen detector has."""

from collections import Counter
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.mid_epix import EpixTrains

NO_FRAME = "no frame"
MOST_PULSES = 8  # that a reason names


class Selection(NamedTuple):
    """What is exported, and what is not.

    Attributes
    ----------
    train_id : ndarray of uint64, (T,)
        Ascending.
    frames : ndarray of int64, (F,)
        Frames of the run's frame table, in the order (train, pulse).
    epix_place : dict
        {ePix number: place of each train in its :class:`EpixTrains`, (T,)}.
    dropped_id : ndarray of uint64, (D,)
        All other trains that any detector has, ascending.
    dropped_reason : ndarray of str, (D,)
        Every reason, such as ``EPIX-1: no frame; EPIX-2: no frame``.
    n_left_out : int
        Frames of the frame table with a chosen pulse whose train is not exported.
    """

    train_id: np.ndarray
    frames: np.ndarray
    epix_place: dict
    dropped_id: np.ndarray
    dropped_reason: np.ndarray
    n_left_out: int


def read_agipd_trains(frames):
    """Trains of a frame table: (train ids ascending, why check_run left each out, '' = kept)."""
    with h5py.File(frames) as file:
        return file["trains/trainId"][()], file["trains/reason"].asstr()[()]


def select_trains(layout, agipd_trains, modules, pulse_ids, epix):
    """Find the trains that all chosen detectors have.

    Parameters
    ----------
    layout : pulsetrain.layout.RunLayout
        The run's frame table.
    agipd_trains : (ndarray of uint64, ndarray of str)
        From :func:`read_agipd_trains`.
    modules : list of int
        AGIPD modules which must have a train whole.
    pulse_ids : list of int or None
        Pulses which a train must have; None takes those that it has.
    epix : dict
        {number: EpixTrains} of the ePix that must have a train.

    Returns
    -------
    Selection
    """
    agipd_id, agipd_reason = agipd_trains
    found = np.unique(np.concatenate([agipd_id, *(held.train_id for held in epix.values())]))
    reasons = [[] for _ in found]
    for place in np.flatnonzero(~np.isin(found, agipd_id)):
        reasons[place].append(f"AGIPD: {NO_FRAME}")
    for train, reason in zip(agipd_id, agipd_reason, strict=True):
        if reason:
            told = "count 0 in all modules" if reason == "no frames" else reason
            reasons[np.searchsorted(found, train)].append(f"AGIPD: {told}")
    _check_frames(layout, modules, pulse_ids, found, reasons)
    places = {number: _check_epix(held, found, reasons) for number, held in epix.items()}
    kept = np.array([not held for held in reasons], dtype=bool)
    chosen = np.ones(len(layout.pulse_id), dtype=bool)
    if pulse_ids is not None:
        chosen = np.isin(layout.pulse_id, np.array(pulse_ids, dtype=np.uint64))
    wanted = chosen & np.isin(layout.train_id, found[kept])
    return Selection(
        found[kept],
        np.flatnonzero(wanted),
        {number: place[kept] for number, place in places.items()},
        found[~kept],
        np.array(["; ".join(held) for held in reasons if held], dtype=str),
        np.count_nonzero(chosen & ~wanted),
    )


def count_reasons(dropped):
    """Dropped trains by reason, most frequent first: list of (reason, count); `dropped` is a selection or an export."""
    return Counter(dropped.dropped_reason.tolist()).most_common()


class Exported(NamedTuple):
    """What ``mid/r....h5`` says of its trains.

    Attributes
    ----------
    train_id, dropped_id, dropped_reason : ndarray
        As in :class:`Selection`.
    modules : list of int
    cameras : list of int
        Numbers of the ePix.
    faults : list of str
        What was found wrong in the files of the ePix.
    correction : dict or None
        Attributes of the corrected data, if there are any.
    attributes : dict
        Attributes of the file.
    """

    train_id: np.ndarray
    dropped_id: np.ndarray
    dropped_reason: np.ndarray
    modules: list
    cameras: list
    faults: list
    correction: dict | None
    attributes: dict


def read_exported(path):
    """Read what an exported file says of its trains.

    Returns
    -------
    Exported
    """
    with h5py.File(path) as file:
        corrected = file.get("data/AGIPD_corrected")
        return Exported(
            file["index/trainId"][()],
            file["index/dropped/trainId"][()],
            file["index/dropped/reason"].asstr()[()],
            file["data/AGIPD/moduleId"][()].tolist(),
            [int(name[-1]) for name in file["data"] if name.startswith("EPIX-")],
            file["index/faults"].asstr()[()].tolist(),
            None if corrected is None else dict(corrected.attrs),
            dict(file.attrs),
        )


def _check_frames(layout, modules, pulse_ids, found, reasons):
    """Add what is wrong with the frames of each train of the frame table."""
    train_id, start, count = np.unique(layout.train_id, return_index=True, return_counts=True)
    if not len(train_id):
        return
    place = np.searchsorted(found, train_id)
    common = np.bitwise_and.reduceat(layout.modules, start)
    missing = np.uint32(sum(1 << module for module in modules)) & ~common
    for k in np.flatnonzero(missing):
        absent = [f"{module:02d}" for module in modules if missing[k] >> module & 1]
        reasons[place[k]].append(
            f"AGIPD: not whole in {'modules' if len(absent) > 1 else 'module'} {', '.join(absent)}"
        )
    if pulse_ids is None:
        return
    is_chosen = np.isin(layout.pulse_id, np.array(pulse_ids, dtype=np.uint64))
    n_chosen = np.add.reduceat(is_chosen.astype(np.int64), start)
    for k in np.flatnonzero(n_chosen != len(pulse_ids)):
        held = layout.pulse_id[start[k] : start[k] + count[k]]
        lacking = [str(pulse) for pulse in pulse_ids if pulse not in held]
        named = ", ".join(lacking[:MOST_PULSES])
        if len(lacking) > MOST_PULSES:
            named += f", ... ({len(lacking)} of {len(pulse_ids)})"
        reasons[place[k]].append(f"AGIPD: no pulse {named}")


def _check_epix(held: EpixTrains, found, reasons):
    """Add what is wrong with an ePix; give the place of each found train in its table (-1 = not there)."""
    place = np.searchsorted(held.train_id, found)
    place[place == len(held.train_id)] = -1
    place[(place >= 0) & (held.train_id[place] != found)] = -1
    for k, where in enumerate(place.tolist()):
        problem = NO_FRAME if where < 0 else held.problem[where]
        if problem:
            reasons[k].append(f"EPIX-{held.number}: {problem}")
    return place
