"""Averages of DSSC images by bin: the modules of one run, or of several, in one netCDF file that xarray reads."""

import logging
import math
from typing import NamedTuple

import h5netcdf
import h5py
import numpy as np

from pulsetrain.detector import DSSC_SHAPE
from pulsetrain.dssc_selection import is_dark, read_selection
from pulsetrain.output import whole_file
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

GROUP = "data"  # as in the files of the older notebooks
DIMENSIONS = ("scan_variable", "module", "x", "y")
MOST_NAMED = 4  # modules of a run, and runs, in the reason that frames are lacking


class ModuleSums(NamedTuple):
    """Open file with the sums of one module of one run, and where the bins of the result are in it (-1 = nowhere)."""

    file: h5py.File
    place: np.ndarray


def join_modules(selections, sums, output, attributes, *, modules):
    """Write means, standard errors and counts of all modules (docs/file-formats.md).

    Parameters
    ----------
    selections : list of path
        One per run.
    sums : list of list of path
        Per run, the files of the modules.
    output : str or Path
    attributes : dict
        Provenance.
    modules : list of int
        In the order of the files.
    """
    chosen = [read_selection(path) for path in selections]
    names, units = chosen[0].names, check_alike(chosen, selections)
    values = np.unique(np.concatenate([each.values for each in chosen]))
    shape = {"scan_variable": len(values), "module": len(modules), "x": DSSC_SHAPE[0], "y": DSSC_SHAPE[1]}
    with whole_file(output) as part, h5netcdf.File(part, "w") as file:
        for name, value in attributes.items():
            file.attrs[name] = value
        data = file.create_group(GROUP)
        data.dimensions = shape | {"run": len(chosen)}
        about = chosen[0].attributes
        _write(data, "scan_variable", values, units["units"], about["scan"]).attrs["source"] = about["label"]
        _write(data, "module", np.array(modules, np.int64))
        _write(data, "run", np.array([each.attributes["run"] for each in chosen], np.int64))
        _write_energies(data, chosen, values, units["energy_units"])
        _write_means(data, names, values, sums, modules, units["energy_units"])
        status = _status(chosen, [_lacking(paths) for paths in sums])
        for name, value in {"scan": about["scan"], **status}.items():
            file.attrs[name] = value
        _write_account(file.create_group("account"), chosen, selections)
    if status["reason"]:
        log.warning(status["reason"])
    log.info("%d bins, %d frame names, %d modules: %s", len(values), len(names), len(modules), status["status"])


def check_alike(chosen, paths):
    """Give the units of scan variable and pulse energies; raise unless the runs are of one scan and agree."""
    if len({(each.attributes["scan"], *each.names) for each in chosen}) > 1:
        raise ValueError(f"{', '.join(map(str, paths))} are of different scans or frame names; run snakemake again")
    units = {}
    for what in ("units", "energy_units"):
        found = {each.attributes[what]: path for each, path in zip(chosen, paths, strict=True) if each.attributes[what]}
        if len(found) > 1:
            texts = ", ".join(f"{unit} in {path}" for unit, path in found.items())
            raise ValueError(f"{what} differ: {texts}. These runs cannot be merged: take one out of dssc.merge")
        units[what] = next(iter(found), "")
    return units


def mean_and_error(n, total, squares):
    """Mean and its standard error from exact sums.

    The deviations are taken from the whole number r nearest to the mean: sum (x - r) and sum (x - r)**2 are exact whole
    numbers again, and what is subtracted from the latter is at most half of it, so that nothing is lost.

    Parameters
    ----------
    n : int
        Number of values, below 2**31.
    total, squares : ndarray of uint64
        Sum of the values, of 16 bits, and of their squares.

    Returns
    -------
    mean : ndarray of float64
        total / n; NaN for n = 0.
    error : ndarray of float32
        sqrt(sum (x - mean)**2 / (n - 1) / n); NaN for n < 2.
    """
    if n == 0:
        return np.full(total.shape, np.nan), np.full(total.shape, np.nan, np.float32)
    mean = total / n
    if n == 1:
        return mean, np.full(total.shape, np.nan, np.float32)
    nearest = np.floor(mean + 0.5).astype(np.int64)
    total, squares = total.astype(np.int64), squares.astype(np.int64)
    rest = total - n * nearest
    around = squares - 2 * nearest * total + n * nearest * nearest
    variance = np.maximum(around - rest * (rest / n), 0) / (n - 1)
    return mean, np.sqrt(variance / n).astype(np.float32)


def mean_energies(chosen, values):
    """Mean pulse energy of the used frames by bin and frame name, exact whatever the order of frames and runs.

    Parameters
    ----------
    chosen : list of Selection
        One per run.
    values : ndarray of float64, (B,)
        Bins of the result.

    Returns
    -------
    mean : ndarray of float64, (B, names)
        NaN without frames of known energy.
    count : ndarray of int64, (B, names)
        Frames of known energy.
    """
    n_names = len(chosen[0].names)
    slots, energies = [], []
    for each in chosen:
        known = (each.bin >= 0) & np.isfinite(each.energy)
        place = np.searchsorted(values, each.values)
        slots.append(place[each.bin[known]] * n_names + each.name[known])
        energies.append(each.energy[known])
    slot, energy = np.concatenate(slots).astype(np.int64), np.concatenate(energies)
    count = np.bincount(slot, minlength=len(values) * n_names)
    parts = np.split(energy[np.argsort(slot, kind="stable")], np.cumsum(count)[:-1])
    mean = [math.fsum(part) / len(part) if len(part) else math.nan for part in parts[: len(count)]]
    return np.reshape(mean, (len(values), n_names)), count.reshape(len(values), n_names)


def _write_energies(data, chosen, values, units):
    mean, count = mean_energies(chosen, values)
    for i, name in enumerate(chosen[0].names):
        if not is_dark(name):
            _write(data, f"xgm_{name}", mean[:, i], units, "mean pulse energy of the frames", ("scan_variable",))
            text = "frames of known pulse energy"
            _write(data, f"xgm_count_{name}", count[:, i].astype(np.int64), "", text, ("scan_variable",))


def _write_means(data, names, values, sums, modules, energy_units):
    """Write the arrays module by module and bin by bin."""
    counts, energy_counts = np.zeros((2, len(values), len(names), len(modules)), np.int64)
    energies = np.full(counts.shape, np.nan)
    arrays = {}
    for name in names:
        mean = data.create_variable(name, DIMENSIONS, np.float64)
        error = data.create_variable(f"{name}_standard_error", DIMENSIONS, np.float32)
        for array, text in ((mean, "mean over the frames"), (error, "standard error of the mean")):
            array.attrs["units"], array.attrs["long_name"] = "ADU", text
        arrays[name] = mean, error
    advance = progress(len(modules) * len(values), "images of each frame name")
    for m, paths in enumerate(zip(*sums, strict=True)):
        files = [h5py.File(path) for path in paths]
        try:
            opened = [ModuleSums(file, _places(file["scan_variable"][()], values)) for file in files]
            for b in range(len(values)):
                for i, name in enumerate(names):
                    n, total, squares = add_runs(opened, b, i)
                    counts[b, i, m] = n
                    energies[b, i, m], energy_counts[b, i, m] = add_energies(opened, b, i)
                    for array, image in zip(arrays[name], mean_and_error(n, total, squares), strict=True):
                        array[b, m] = image
                advance(1)
        finally:
            for file in files:
                file.close()
    for i, name in enumerate(names):
        _write(data, f"sum_count_{name}", counts[:, i], "", "frames that were averaged", DIMENSIONS[:2])
        if not is_dark(name):
            text = "mean pulse energy of the frames that the module has"
            _write(data, f"xgm_module_{name}", energies[:, i], energy_units, text, DIMENSIONS[:2])
            text = "frames of known pulse energy that the module has"
            _write(data, f"xgm_module_count_{name}", energy_counts[:, i], "", text, DIMENSIONS[:2])


def add_runs(opened, b, i):
    """Count, sum and sum of squares of bin `b` of the result and name `i`, over all runs; exact."""
    n, total, squares = 0, np.zeros(DSSC_SHAPE, np.uint64), np.zeros(DSSC_SHAPE, np.uint64)
    for file, place in opened:
        if place[b] >= 0 and file["count"][place[b], i]:
            n += int(file["count"][place[b], i])
            total += file["sum"][place[b], i]
            squares += file["sum_squares"][place[b], i]
    return n, total, squares


def add_energies(opened, b, i):
    """Mean pulse energy of the module's frames in bin `b` and name `i`, over all runs, and their number; as exact."""
    parts, n = [], 0
    for file, place in opened:
        if place[b] >= 0:
            parts += file["energy_sum"][place[b], i].tolist()
            n += int(file["energy_count"][place[b], i])
    return math.fsum(parts) / n if n else math.nan, n


def _places(held, values):
    """Where each of `values` is in the sorted `held`, -1 = nowhere."""
    if not len(held):
        return np.full(len(values), -1)
    place = np.minimum(np.searchsorted(held, values), len(held) - 1)
    return np.where(held[place] == values, place, -1)


def _lacking(paths):
    """Used frames that the modules of a run do not have: {module: frames}."""
    lacking = {}
    for path in paths:
        with h5py.File(path) as file:
            lacking[int(file.attrs["module"])] = int(file.attrs["n_frames_lacking"])
    return {module: n for module, n in lacking.items() if n}


def _status(chosen, lacking):
    """Attributes status and reason of the result.

    Parameters
    ----------
    chosen : list of Selection
        One per run.
    lacking : list of dict
        Per run, the used frames that a module does not have: {module: frames}.
    """
    reasons = [
        f"run {each.attributes['run']}: {each.attributes['reason']}" for each in chosen if each.attributes["reason"]
    ]
    if all(each.attributes["status"] == "empty" for each in chosen):
        return {"status": "empty", "reason": "; ".join(reasons)}
    short = [(each, of_run) for each, of_run in zip(chosen, lacking, strict=True) if of_run]
    for each, of_run in short[:MOST_NAMED]:
        worst = sorted(of_run, key=lambda module: (-of_run[module], module))
        told = ", ".join(f"module {module:02d} lacks {of_run[module]}" for module in worst[:MOST_NAMED])
        more = f" and {len(worst) - MOST_NAMED} more modules lack some" if len(worst) > MOST_NAMED else ""
        n_used = np.count_nonzero(each.bin >= 0)
        reasons.append(f"run {each.attributes['run']}: of {n_used} used frames {told}{more}")
    if len(short) > MOST_NAMED:
        reasons.append(f"in {len(short) - MOST_NAMED} more runs modules lack used frames")
    return {"status": "partial" if reasons else "complete", "reason": "; ".join(reasons)}


def _write_account(group, chosen, selections):
    """Frames of each run by what became of them: (run, reason)."""
    accounts = []
    for path in selections:
        with h5py.File(path) as file:
            accounts.append(dict(zip(file["account/reason"].asstr()[()], file["account/n_frames"][()], strict=True)))
    reasons = list(dict.fromkeys(reason for account in accounts for reason in account))
    group.dimensions = {"run": len(chosen), "reason": len(reasons)}
    _write(group, "run", np.array([each.attributes["run"] for each in chosen], np.int64))
    group.create_variable("reason", ("reason",), h5py.string_dtype(), data=np.array(reasons, object))
    table = np.array([[account.get(reason, 0) for reason in reasons] for account in accounts], np.int64)
    _write(group, "n_frames", table, "", "frames of the run's files by what became of them", ("run", "reason"))


def _write(group, name, values, units="", long_name="", dimensions=None):
    array = group.create_variable(name, dimensions or (name,), values.dtype, data=values)
    if units:
        array.attrs["units"] = units
    if long_name:
        array.attrs["long_name"] = long_name
    return array
