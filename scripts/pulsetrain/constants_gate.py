"""May a raw run be calibrated with these constants? Their format, what is known, and the run's own dark level."""

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.chunks import frame_values, open_storages, read_frames, read_rows
from pulsetrain.constants import DATASETS, UNKNOWN_THRESHOLD, constants_problems, open_constants
from pulsetrain.detector import ASIC_PIXELS, LAB_SHAPE, MODULE_SHAPE, lab_from_xfel
from pulsetrain.layout import read_layout, source_rows
from pulsetrain.litpixels import image_storage
from pulsetrain.masks import sample_frames as spread_evenly
from pulsetrain.output import write_text
from pulsetrain.photons import photon_energy

log = logging.getLogger(__name__)

HALF_PHOTON = 0.5
FRAMES_AGAINST_LIGHT = 6  # so many frames tell light, which comes and goes, from an upward shift, which stays
FEWEST_DARK = 64  # pixels of an ASIC that its level in a frame is taken from
MIN_DARK = 0.5  # share of good pixels that must be seen in high gain
# Where half a photon is not much more than the noise, the limits follow the noise: the median of 9 frames has an error
# of 0.42 sigma, their lowest is 1.5 (+- 0.6) sigma below the mean. A whole photon is the most, as strong light looks
# like noise; steps of one photon are no longer seen where the limit for light comes near to them.
NOISE_OF_SHIFT, MOST_OF_SHIFT = 2.5, 1.0
NOISE_OF_LIGHT, MOST_OF_LIGHT = 3.0, 0.7
QUARTER_OF_NORMAL = 0.3186  # 25 % of normally distributed values are nearer to their mean than so many sigma


class Limits(NamedTuple):
    """What is refused.

    Attributes
    ----------
    min_finite : float
        Least share of all pixels (over the memory cells of the run), and of those that are not masked, whose constants
        are known.
    max_invalid : float
        Largest share of the good ones whose gains are not positive or whose thresholds are not in order.
    max_shifted : float
        Largest share of the good pixels whose dark level in the run is off by more than half a photon.
    """

    min_finite: float
    max_invalid: float
    max_shifted: float


class DarkLevel(NamedTuple):
    """The run's dark level against the constants, in the memory cells that were looked at.

    Attributes
    ----------
    good : int
        Good pixels, summed over the memory cells.
    dark : int
        Of these, seen in high gain.
    up, down : int
        Of these, off by more than half a photon.
    shift : float
        Median over all pixels that were seen [photons]; NaN if there are none.
    noise : float
        Of one frame, median over the memory cells [photons].
    cells, frames : int
        How many were looked at.
    """

    good: int
    dark: int
    up: int
    down: int
    shift: float
    noise: float
    cells: int
    frames: int

    @property
    def shifted(self):
        """Share of the pixels seen in high gain that are off."""
        return (self.up + self.down) / max(self.dark, 1)


def check_constants(
    vds, constants, masks, output, attributes, *, run, modules, limits, sample_cells=32, sample_frames=9, threads=1
):
    """Stop with all findings if the constants of any module must not be used for a raw run; else write the figures.

    Parameters
    ----------
    vds : str or Path
        The run's VDS, for its frame table and segments.
    constants, masks : list of (str or Path)
        Of each module: analogGains_keV, darkOffsets, digitalThresholds; badCellMask.
    output : str or Path
        JSON: run, verdict, summary, limits, per module its verdict and numbers, and the provenance.
    attributes : dict
        Provenance.
    run : int
    modules : list of int
    limits : Limits
    sample_cells, sample_frames : int
        Memory cells, and frames of each, that the dark level is looked at in.
    threads : int

    Raises
    ------
    ValueError
        Constants or masks do not fit; the text lists every module and what to do.
    """
    layout = read_layout(vds, "/pulsetrain")
    energy = photon_energy(layout.attributes, vds)
    check = partial(
        check_module,
        layout,
        vds,
        energy=energy,
        limits=limits,
        sample_cells=sample_cells,
        sample_frames=sample_frames,
    )
    with ThreadPoolExecutor(threads) as pool:
        reports = list(pool.map(check, modules, constants, masks))
    for module, report in zip(modules, reports, strict=True):
        log.info("module %02d: %s", module, _in_words(report))
    refused = {module: held for module, held in zip(modules, reports, strict=True) if held["problems"]}
    if refused:
        lines = [
            f"  module {module:02d}, {held['constants']}: {problem}\n"
            for module, held in refused.items()
            for problem in held["problems"]
        ]
        raise ValueError(
            f"run {run}: the calibration constants of {len(refused)} of {len(modules)} modules must not be used\n"
            + "".join(lines)
            + "Take constants that were made for these modules near the time of the run (column `calibration` of the "
            "run table, or calibrations.<name>.constants), or make them again. The limits are in calibration.gate."
        )
    of_modules = {f"{module:02d}": report for module, report in zip(modules, reports, strict=True)}
    unchecked = ", ".join(name for name, report in of_modules.items() if report["verdict"] != "accepted")
    summary = f"run {run}: the constants fit" + (f"; nothing to check in the modules {unchecked}" if unchecked else "")
    text = {
        "run": run,
        "verdict": "accepted",
        "summary": summary,
        "limits": limits._asdict(),
        "modules": of_modules,
        "provenance": attributes,
    }
    write_text(output, json.dumps(text, indent=1) + "\n")
    log.info(summary)


def check_module(layout, vds, module, constants, mask, *, energy, limits, sample_cells, sample_frames):
    """Check the constants and the mask of one module.

    Parameters
    ----------
    layout : RunLayout
    vds : str or Path
        The file that holds it.
    module : int
    constants, mask : str or Path
    energy : float
        Photon energy [keV].
    limits : Limits
    sample_cells, sample_frames : int

    Returns
    -------
    dict
        verdict (accepted, refused, nothing to check), reason, constants, mask, problems (list of str), and the numbers
        that could be found.
    """
    report = {"verdict": "refused", "reason": "", "constants": str(constants), "mask": str(mask), "problems": []}
    cells = np.unique(layout.cell_id)
    file, row = source_rows(layout, module)
    if not (file >= 0).any():
        reason = "the module has no frames in this run" if len(cells) else "the run has no frames"
        return report | {"verdict": "nothing to check", "reason": reason}
    n_cells, problems = constants_problems(constants, module, cells)
    problems = problems + mask_problems(mask, module, n_cells, cells)
    if problems:
        return report | {"problems": problems}
    with open_storages() as storage_of, h5py.File(mask) as mask_file:
        opened = open_constants(constants, module, cells, energy, storage_of)
        bad = mask_file["badCellMask"]
        numbers = known_shares(opened, bad, cells)
        problems = _share_problems(numbers, limits)
        of_cells = _sampled_frames(layout, file, sample_cells, sample_frames)
        read = partial(_read_images, layout, vds, file, row, storage_of)
        level = dark_level(of_cells, read, opened, bad)
        problems += _level_problems(level, limits)
    numbers |= level._asdict() | {"shifted": level.shifted}
    # JSON knows neither NaN nor numpy's types.
    numbers = {name: np.asarray(value).item() if np.isfinite(value) else None for name, value in numbers.items()}
    return report | numbers | {"verdict": "refused" if problems else "accepted", "problems": problems}


def mask_problems(path, module, n_cells, cells):
    """Find what is wrong with the format of a bad-cell mask.

    Parameters
    ----------
    path : str or Path
        ``badCellMask`` bool (C, 128, 512).
    module : int
    n_cells : int
        Memory cells of the constants; 0 if not known.
    cells : ndarray of int
        Memory cells of the run.

    Returns
    -------
    list of str
    """
    problems = []
    with h5py.File(path) as file:
        found = file.attrs.get("module"), file.attrs.get("orientation")
        if found != (module, "lab"):
            problems.append(
                f"the mask {path} is of module {found[0]} in orientation {found[1]!r}; expected {module} and 'lab'"
            )
        if "badCellMask" not in file:
            return [*problems, f"the mask {path} has no dataset badCellMask"]
        held = file["badCellMask"]
        if held.dtype != bool or held.ndim != 3 or held.shape[1:] != LAB_SHAPE:
            problems.append(
                f"the mask {path} holds {held.dtype} of shape {held.shape}; expected bool (cells, 128, 512)"
            )
        elif n_cells and len(held) != n_cells:
            problems.append(f"the mask {path} has {len(held)} memory cells; the constants have {n_cells}")
        elif cells.size and cells.max() >= len(held):
            problems.append(f"the mask {path} has {len(held)} memory cells; the run uses cell {cells.max()}")
    return problems


def known_shares(opened, bad, cells):
    """Count how much of the constants is known and makes sense.

    Parameters
    ----------
    opened : pulsetrain.constants.ConstantsFile
    bad : h5py.Dataset of bool, (C, 128, 512)
    cells : ndarray of int
        Memory cells of the run.

    Returns
    -------
    dict
        finite: share of all pixels with all constants; finite_of_good: of those that the mask calls good (NaN if there
        are none); usable: share of all that are both; invalid: of these, gains not positive or thresholds not in order.
    """
    n_finite = n_good = n_usable = n_invalid = 0
    for cell in cells:
        held = _read_cell(opened, cell)
        gain, offset, threshold = (held[name] for name in ("analogGains_keV", "darkOffsets", "digitalThresholds"))
        finite = np.isfinite(gain).all(axis=0) & np.isfinite(offset).all(axis=0)
        finite &= (threshold != UNKNOWN_THRESHOLD).all(axis=0)
        good = ~bad[cell]
        usable = finite & good
        n_finite += np.count_nonzero(finite)
        n_good += np.count_nonzero(good)
        n_usable += np.count_nonzero(usable)
        n_invalid += np.count_nonzero(usable & ((gain <= 0).any(axis=0) | (threshold[0] > threshold[1])))
    n_all = len(cells) * good.size
    return {
        "finite": n_finite / n_all,
        "finite_of_good": n_usable / n_good if n_good else np.nan,
        "usable": n_usable / n_all,
        "invalid": n_invalid / max(n_usable, 1),
    }


def dark_level(of_cells, read, opened, bad):
    """Compare the dark level of some frames with the offsets of the high gain.

    Parameters
    ----------
    of_cells : list of (int, ndarray of int)
        Memory cells and frames of each.
    read : callable
        Gives the raw images (n, 2, 128, 512) of some frames in laboratory orientation.
    opened : pulsetrain.constants.ConstantsFile
    bad : h5py.Dataset of bool, (C, 128, 512)

    Returns
    -------
    DarkLevel
    """
    good = dark = up = down = 0
    shifts, noises = [np.empty(0, np.float32)], []
    for cell, frames in of_cells:
        held = _read_cell(opened, cell)
        gain, offset, threshold = held["analogGains_keV"][0], held["darkOffsets"][0], held["digitalThresholds"].min(0)
        usable = ~bad[cell] & np.isfinite(gain) & np.isfinite(offset)
        values = dark_photons(read(frames), offset, gain / np.float32(opened.photon_energy_kev), threshold, usable)
        keep_quiet_frames(values)
        median, is_up, is_down, noise = find_shifts(values)
        good += np.count_nonzero(usable)
        dark += np.count_nonzero(np.isfinite(median))
        up += np.count_nonzero(is_up)
        down += np.count_nonzero(is_down)
        shifts.append(median[np.isfinite(median)])
        noises.append(noise)
    shifts = np.concatenate(shifts)
    shift = float(np.median(shifts)) if shifts.size else float("nan")
    n_frames = sum(len(frames) for _, frames in of_cells)
    noise = float(np.median(noises)) if noises else float("nan")
    return DarkLevel(good, dark, up, down, shift, noise, len(of_cells), n_frames)


def dark_photons(images, offset, gain, threshold, usable):
    """Turn frames to photons as far as they are in high gain.

    Parameters
    ----------
    images : ndarray of uint16, (n, 2, 128, 512)
        (frame, analog | digital, row, column) [ADU].
    offset, gain : ndarray of float32, (128, 512)
        [ADU], [photons / ADU].
    threshold : ndarray of int16, (128, 512)
        Largest digital level of the high gain.
    usable : ndarray of bool, (128, 512)

    Returns
    -------
    ndarray of float32, (n, 128, 512)
        (analog - offset) * gain; infinite in another gain stage and where not usable.
    """
    values = images[:, 0].astype(np.float32)
    with np.errstate(invalid="ignore"):
        values -= offset
        values *= gain
    values[~usable | (images[:, 1] > threshold)] = np.inf
    return values


def keep_quiet_frames(values):
    """Take off the common mode of each ASIC, as far as it differs from frame to frame, and leave out its lit frames.

    The level of an ASIC in a frame is the lower quartile of its pixels, which photons in half of the pixels hardly
    change. Frames whose level is more than half a photon above the lower quartile of all frames are lit. What the
    others have in common stays: it is what the constants do not know of.

    Parameters
    ----------
    values : ndarray of float32, (n, 128, 512)
        Photons, infinite = not known. Changed in place; lit parts of frames become infinite.
    """
    for row in range(0, LAB_SHAPE[0], ASIC_PIXELS):
        for column in range(0, LAB_SHAPE[1], ASIC_PIXELS):
            asic = values[:, row : row + ASIC_PIXELS, column : column + ASIC_PIXELS]
            levels = np.array([_lower_quartile(frame, FEWEST_DARK) for frame in asic])
            quiet = levels < _lower_quartile(levels, 1) + HALF_PHOTON
            if not quiet.any():  # hardly any pixel in high gain
                continue
            asic[~quiet] = np.inf
            asic[quiet] -= (levels[quiet] - np.median(levels[quiet])).astype(np.float32)[:, None, None]


def find_shifts(values):
    """Find pixels whose dark level is off by more than half a photon.

    Downwards that is where the median of the frames is more than half a photon below zero. Upwards it may be light,
    but light comes and goes: a pixel whose lowest value is more than half a photon below its median is lit, not
    shifted. With fewer than FRAMES_AGAINST_LIGHT frames, or where noise or light hide the steps of single photons, that
    cannot be told, and nothing is called shifted upwards.

    Parameters
    ----------
    values : ndarray of float32, (n, 128, 512)
        Photons above the constants' offset; infinite = not known.

    Returns
    -------
    median : ndarray of float32, (128, 512)
        Over the frames (the lower one of two) [photons]; infinite where nothing is known.
    is_up, is_down : ndarray of bool, (128, 512)
    noise : float
        Of one frame [photons].
    """
    ordered = np.sort(values, axis=0)
    count = np.isfinite(ordered).sum(axis=0)
    middle = np.maximum(count - 1, 0) // 2
    median = np.take_along_axis(ordered, middle[None], axis=0)[0]
    known = count > 0
    deviation = np.abs(ordered[:, known] - median[known])
    deviation = deviation[np.isfinite(deviation) & (deviation > 0)]  # not that of the median itself
    noise = float(np.quantile(deviation, 0.25)) / QUARTER_OF_NORMAL if deviation.size else 0.0
    limit = min(max(HALF_PHOTON, NOISE_OF_SHIFT * noise), MOST_OF_SHIFT)
    light = max(HALF_PHOTON, NOISE_OF_LIGHT * noise)
    is_down = known & (median < -limit)
    with np.errstate(invalid="ignore"):  # infinite less infinite
        is_up = known & (median > limit) & (median - ordered[0] < light) & (count >= FRAMES_AGAINST_LIGHT)
    if light > MOST_OF_LIGHT:
        is_up[...] = False
    return median, is_up, is_down, noise


def _lower_quartile(values, fewest):
    """Lower quartile of the finite values; infinite if there are fewer than `fewest`."""
    known = values[np.isfinite(values)]
    place = (known.size - 1) // 4
    return np.partition(known, place)[place] if known.size >= fewest else np.inf


def _read_cell(opened, cell):
    """Constants of one memory cell, {dataset: (stages, 128, 512)}."""
    return {
        name: read_rows(opened.storages[name], np.arange(stages) * opened.n_cells + int(cell))
        for name, stages in DATASETS.items()
    }


def _sampled_frames(layout, file, n_cells, n_frames):
    held = np.flatnonzero(file >= 0)
    chosen = spread_evenly(np.unique(layout.cell_id[held]), n_cells)
    return [(int(cell), spread_evenly(held[layout.cell_id[held] == cell], n_frames)) for cell in chosen]


def _read_images(layout, vds, file, row, storage_of, frames):
    images = np.empty((len(frames), 2, *MODULE_SHAPE), np.uint16)
    for number in np.unique(file[frames]).tolist():
        places = np.flatnonzero(file[frames] == number)
        storage = image_storage(layout, vds, number, storage_of, n_wanted=len(frames))
        block = read_frames(storage, places, row[frames[places]])
        for i, place in enumerate(block.frames.tolist()):
            images[place] = frame_values(block, i).reshape(2, *MODULE_SHAPE)
    (module,) = np.unique(layout.files["module"].to_numpy()[file[frames]])
    return lab_from_xfel(images, int(module))


def _share_problems(numbers, limits):
    problems = []
    for name, of_what in (("finite", "pixels"), ("finite_of_good", "pixels that the mask calls good")):
        if numbers[name] < limits.min_finite:
            problems.append(
                f"the constants of {100 * numbers[name]:.2f} % of the {of_what} are known, in the memory cells of the "
                f"run; calibration.gate.min_finite wants {100 * limits.min_finite:g} %"
            )
    if numbers["invalid"] > limits.max_invalid:
        problems.append(
            f"in {100 * numbers['invalid']:.2f} % of the good pixels a gain is not positive or the first threshold is "
            f"above the second; calibration.gate.max_invalid allows {100 * limits.max_invalid:g} %"
        )
    return problems


def _level_problems(level, limits):
    where = f"seen in {level.cells} memory cells, {level.frames} frames"
    problems = []
    if level.dark < MIN_DARK * level.good:
        problems.append(
            f"only {100 * level.dark / level.good:.2f} % of the good pixels are in high gain in the run's quiet frames "
            f"({where}); expected at least {100 * MIN_DARK:g} %. The thresholds do not fit"
        )
    if level.shifted > limits.max_shifted:
        problems.append(
            f"the run's own dark level is off by more than half a photon in {100 * level.shifted:.2f} % of the good "
            f"pixels ({100 * level.up / level.dark:.2f} % up, {100 * level.down / level.dark:.2f} % down, median "
            f"{level.shift:+.2f} photons; {where}); calibration.gate.max_shifted allows "
            f"{100 * limits.max_shifted:g} %. The constants are of another module, date, orientation or order of the "
            "memory cells"
        )
    return problems


def _in_words(report):
    if report["verdict"] != "accepted" and "usable" not in report:
        return f"{report['verdict']}: {report['reason'] or '; '.join(report['problems'])}"
    shift = "not known" if report["shift"] is None else f"{report['shift']:+.3f} photons"
    return (
        f"{report['verdict']}: {100 * report['usable']:.2f} % of the pixels usable, {100 * report['invalid']:.3f} % of "
        f"them invalid; dark level off by {shift}, by more than half a photon in {100 * report['shifted']:.3f} % "
        f"({report['cells']} memory cells, {report['frames']} frames)"
    )
