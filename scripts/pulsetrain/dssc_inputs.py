"""What decides over DSSC frames: the scan variable, the frame mask and the pulse energies of each train of a run."""

import difflib
import logging
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import xarray as xr

from pulsetrain.exdf import PREFIX_FACTORS, list_sources, open_file
from pulsetrain.pulses import UNUSED_ENTRY, collect

log = logging.getLogger(__name__)

DUMMY_VALUE = 1.0  # the scan variable of all trains where there is none, as in the older notebooks
CSV_COLUMNS = ["trainId", "scan_variable"]
LARGEST_WHOLE = 2.0**53  # above it, float64 does not tell neighbouring whole numbers apart
PREFIXES = {factor: prefix for prefix, factor in PREFIX_FACTORS.items()}


class TrainColumn(NamedTuple):
    """One number per train.

    Attributes
    ----------
    values : ndarray of float64, (T,)
        NaN where it is not known.
    found : ndarray of bool, (T,)
        The source or file has the train.
    units : str
        '' where they are not known.
    label : str
        Where it comes from.
    """

    values: np.ndarray
    found: np.ndarray
    units: str
    label: str


class Energies(NamedTuple):
    """Pulse energies (T, P) float64, NaN where there is none, and their unit."""

    values: np.ndarray
    units: str


class FrameMask(NamedTuple):
    """Which frames may be used.

    Attributes
    ----------
    good : ndarray of bool, (R, P) or (1, P) or (R, 1)
    train_id : ndarray of uint64, (R,) or None
        None: one row counts for all trains.
    pulse : ndarray of int64, (P,) or None
        Numbers of the frames in their trains; None: one column counts for all frames.
    """

    good: np.ndarray
    train_id: np.ndarray | None
    pulse: np.ndarray | None


def scan_values(variable, control, trains):
    """Scan variable of the trains of a run.

    Parameters
    ----------
    variable : dict or None
        ``source`` and ``key``, or ``file``; None gives all trains the value 1.
    control : list of path
        Files of the run that may hold the source.
    trains : ndarray of uint64, (T,)
        Ascending.

    Returns
    -------
    TrainColumn

    Raises
    ------
    ValueError
        The run has no such source, or the file cannot be used.
    """
    if variable is None:
        return TrainColumn(np.full(len(trains), DUMMY_VALUE), np.ones(len(trains), bool), "", "none")
    if variable["file"] is not None:
        train_id, values, units = read_scan_file(variable["file"])
        place, found = _find(train_id, trains)
        of_trains = np.full(len(trains), np.nan)
        of_trains[found] = values[place[found]]
        return TrainColumn(of_trains, found, units, Path(variable["file"]).name)
    source, key = variable["source"], variable["key"]
    held = collect(control, source, key, trains)
    if held is None:
        raise ValueError(
            f"the scan variable {source} {key} is in none of the run's files{_nearest(control, source, key)}"
        )
    if held.values.ndim != 1 or held.values.dtype.kind not in "iufb":
        raise ValueError(
            f"the scan variable {source} {key} holds {held.values.dtype} of shape {held.values.shape[1:]} per train; "
            "expected one number. Take another key, or write the variable into a file"
        )
    values = np.where(held.found, held.values.astype(float), np.nan)
    return TrainColumn(values, held.found, unit_text(held), f"{source} {key}")


def bin_values(values, step):
    """Round values to multiples of a step.

    A value v becomes k * step with the whole number k nearest to v / step (float64; halves go to the even number), so
    that equal k give equal bits in every run.

    Parameters
    ----------
    values : ndarray of float64
    step : float or None
        None leaves the values as they are.

    Returns
    -------
    ndarray of float64
    """
    if step is None:
        return values + 0.0  # -0 becomes 0
    return np.rint(values / step) * step + 0.0


def require_countable(scanned, trains, step):
    """Raise if a value is so many steps away from 0 that float64 does not tell its multiples apart."""
    size = np.where(np.isfinite(scanned.values), np.abs(scanned.values), 0)  # what is not finite is left out later
    far = np.flatnonzero(size / step >= LARGEST_WHOLE)
    if len(far):
        raise ValueError(
            f"the scan variable {scanned.label} is {scanned.values[far[0]]:g} in train {trains[far[0]]} ({len(far)} "
            f"such trains): too many steps of {step:g} to count. If the value is wrong, write the variable without "
            "these trains into a file and set variable.file of the scan; else set a larger step"
        )


def read_scan_file(path):
    """Read a scan variable from netCDF4 or CSV.

    Returns
    -------
    train_id : ndarray of uint64, (R,)
        Ascending.
    values : ndarray of float64, (R,)
    units : str
    """
    if Path(path).suffix.lower() == ".csv":
        table = _read_csv(path)
        train_id, values, units = table["trainId"].to_numpy(), table["scan_variable"].to_numpy(), ""
    else:
        array = _open_array(path, "scan_variable")
        if array.dims != ("trainId",):
            raise ValueError(f"{path}: scan_variable has the dimensions {array.dims}; expected trainId alone")
        train_id, values = _train_ids(path, array), array.values
        units = str(array.attrs.get("units", ""))
    if np.asarray(values).dtype.kind not in "iufb":
        raise ValueError(f"{path}: scan_variable holds {values.dtype}; expected numbers")
    order = _sorted_once(path, train_id)
    return train_id[order], np.asarray(values, float)[order], units


def _read_csv(path):
    types = {"trainId": "uint64", "scan_variable": "float64"}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            # Else the first of too many columns would become the index, and the others move.
            table = pd.read_csv(path, skipinitialspace=True, index_col=False, dtype=types)
    except pd.errors.ParserWarning as error:
        raise ValueError(
            f"{path}: the lines have more values than the header has names; expected the columns {CSV_COLUMNS} alone, "
            "and a point in decimal numbers"
        ) from error
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: cannot be read as CSV with whole trainId and numbers: {error}") from error
    if list(table.columns) != CSV_COLUMNS:
        raise ValueError(f"{path}: found the columns {list(table.columns)}; expected {CSV_COLUMNS}")
    return table


def read_frame_mask(path):
    """Read a frame mask from netCDF4.

    Returns
    -------
    FrameMask
    """
    array = _open_array(path, "mask")
    if array.dtype.kind not in "biu" or not np.isin(array.values, (0, 1)).all():
        n_nan = int(array.isnull().sum())
        nan = f", NaN in {n_nan} places (as .reindex leaves it, for frames that the mask did not have)" if n_nan else ""
        raise ValueError(
            f"{path}: the mask holds {array.dtype}{nan}; expected bool, or whole numbers 0 and 1. Use "
            ".fillna(0).astype(bool); without fillna, NaN would become True"
        )
    if not array.dims or not set(array.dims) <= {"trainId", "pulse"}:
        raise ValueError(f"{path}: the mask has the dimensions {array.dims}; expected trainId, pulse or both")
    train_id = pulse = None
    if "trainId" in array.dims:
        train_id = _train_ids(path, array)
        array = array.isel(trainId=_sorted_once(path, train_id))
        train_id = _train_ids(path, array)
    if "pulse" in array.dims:
        pulse = array["pulse"].values
        if pulse.dtype.kind not in "iu" or len(np.unique(pulse)) != len(pulse):
            raise ValueError(f"{path}: pulse must be whole numbers, each once")
        array = array.isel(pulse=np.argsort(pulse))
        pulse = np.sort(pulse).astype(np.int64)
    shape = (1 if train_id is None else len(train_id), 1 if pulse is None else len(pulse))
    order = [name for name in ("trainId", "pulse") if name in array.dims]
    return FrameMask(array.transpose(*order).values.astype(bool).reshape(shape), train_id, pulse)


def look_up_mask(mask, train_id, frame_index):
    """State of frames in a mask.

    Parameters
    ----------
    mask : FrameMask
    train_id : ndarray of uint64, (N,)
    frame_index : ndarray of int, (N,)

    Returns
    -------
    known, good : ndarray of bool, (N,)
        The mask has the train and the frame; it is True there.
    """
    row, has_train = _place(mask.train_id, train_id)
    column, has_pulse = _place(mask.pulse, frame_index)
    known = has_train & has_pulse
    good = np.zeros(len(train_id), bool)
    good[known] = mask.good[row[known], column[known]]
    return known, good


def pulse_energies(control, xgm, trains, n_pulses):
    """Energies of the first X-ray pulses of the trains of a run.

    Parameters
    ----------
    control : list of path
    xgm : dict
        ``source`` (None = no gas monitor), ``key``, ``n_pulses_source`` (None = unknown), ``n_pulses_key``.
    trains : ndarray of uint64, (T,)
    n_pulses : int
        Pulses of a train that belong to a frame. The rest of the gas monitor's list, of 1000 entries, is not read: for
        many trains it takes more memory than all else.

    Returns
    -------
    Energies or None
        None if there is no gas monitor.
    """
    if xgm["source"] is None:
        return None
    held = collect(control, xgm["source"], xgm["key"], trains, n_pulses)
    if held is None:
        found = _nearest(control, xgm["source"], xgm["key"])
        log.warning("the run has no %s %s: pulse energies are unknown%s", xgm["source"], xgm["key"], found)
        return None
    values = held.values.reshape(len(trains), int(np.prod(held.values.shape[1:]))).astype(float)
    values[values == UNUSED_ENTRY] = np.nan
    values[~held.found] = np.nan
    if xgm["n_pulses_source"] is not None:
        number = collect(control, xgm["n_pulses_source"], xgm["n_pulses_key"], trains)
        if number is None:
            log.warning(
                "the run has no %s %s: all entries of the gas monitor that are not marked as unused count as pulses%s",
                xgm["n_pulses_source"],
                xgm["n_pulses_key"],
                _nearest(control, xgm["n_pulses_source"], xgm["n_pulses_key"]),
            )
        else:
            if number.values.ndim != 1 or number.values.dtype.kind not in "iuf":
                raise ValueError(
                    f"{xgm['n_pulses_source']} {xgm['n_pulses_key']} holds {number.values.dtype} of shape "
                    f"{number.values.shape[1:]} per train; expected one number, that of the X-ray pulses. Correct "
                    "dssc.xgm.n_pulses_key, or set dssc.xgm.n_pulses_source: null"
                )
            last = np.where(number.found, number.values.astype(np.int64), values.shape[1])
            values[np.arange(values.shape[1]) >= last[:, None]] = np.nan
    return Energies(values, unit_text(held))


def unit_text(held):
    """Unit of values as text, such as ``μJ``."""
    return PREFIXES[held.factor] + held.symbol if held.symbol else ""


def _open_array(path, name):
    """The one array of a netCDF4 file, loaded; `name` if there are several."""
    try:
        with open_file(path) as file:
            group = "data" if "data" in file and not hasattr(file["data"], "shape") else None
        with xr.open_dataset(path, group=group, engine="h5netcdf", decode_times=False) as held:
            arrays = dict(held.load().data_vars)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: cannot be read as netCDF4: {error}. Write it with xarray's to_netcdf") from error
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if name not in arrays:
        raise ValueError(f"{path}: found the arrays {', '.join(arrays) or 'none'}; expected one, or one named {name}")
    return arrays[name]


def _train_ids(path, array):
    if "trainId" not in array.coords or array["trainId"].dtype.kind not in "iu":
        raise ValueError(f"{path}: the dimension trainId has no whole numbers as coordinates: which trains are these?")
    return array["trainId"].values.astype(np.uint64)


def _sorted_once(path, train_id):
    """Order by train; a train may be there once only."""
    order = np.argsort(train_id, kind="stable")
    again = np.flatnonzero(train_id[order[1:]] == train_id[order[:-1]])
    if len(again):
        raise ValueError(f"{path}: train {train_id[order[again[0]]]} is there twice ({len(again)} such trains)")
    return order


def _place(held, wanted):
    if held is None:
        return np.zeros(len(wanted), np.int64), np.ones(len(wanted), bool)
    return _find(held, wanted)


def _find(held, wanted):
    """Where `wanted` numbers are in the sorted `held`, and which are there at all."""
    if not len(held):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(held, wanted), len(held) - 1)
    return place, held[place] == wanted


def _nearest(control, source, key):
    """The source's keys or, if no file has it, the sources with similar names; to end a message with."""
    names, keys = set(), set()
    for path in control:
        with open_file(path) as file:
            names |= {name.partition("/")[2] for name in list_sources(file)}
            for section in ("CONTROL", "INSTRUMENT"):
                if f"{section}/{source}" in file:
                    file[f"{section}/{source}"].visititems(
                        lambda name, item: keys.add(name.replace("/", ".")) if hasattr(item, "dtype") else None
                    )
    if keys:
        near = difflib.get_close_matches(key, sorted(keys), n=3, cutoff=0.4)
        return f"; keys of this source: {', '.join(near or sorted(keys)[:3])}"
    device = source.partition(":")[0]
    near = difflib.get_close_matches(device, sorted({name.partition(":")[0] for name in names}), n=3)
    return f"; similar names: {', '.join(near)}" if near else ""
