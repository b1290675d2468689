"""Which memory cells of which pixels are bad: masks by cause, in a fixed order, and histograms to choose intervals by.

All arrays are in laboratory orientation, (cell, row, column) with 128 rows and 512 columns. True = bad.
"""

import contextlib
import json
import logging
from typing import NamedTuple

import h5py
import numpy as np
from numba import njit

from pulsetrain.constants import GAIN_STAGES, UNKNOWN_MIDPOINT, UNKNOWN_THRESHOLD
from pulsetrain.detector import LAB_SHAPE, N_MODULES, PIXELS, asic_edges, lab_from_xfel
from pulsetrain.masks import sample_frames
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

SAMPLE_CELLS = 8  # memory cells that the range of a histogram is taken from
BINS = 400
RANGE_QUANTILES = (0.001, 0.999)  # what is outside is mostly bad
RANGE_MARGIN = 0.5  # of the distance between them, on either side
FARTHEST_END = 4  # an interval's end is inside the histogram if it is not farther away than so many such distances


class Quantity(NamedTuple):
    """A dataset of the processed files that intervals apply to.

    Attributes
    ----------
    name : str
        Of the dataset, and of the key of the configuration.
    source : str
        Which of the files has it.
    stages : int
        Number of gain stages or thresholds; 0 if the dataset has no such axis.
    stage_axis : int
        Its place; the cell axis has the other one.
    dtype : type
    units : str
    """

    name: str
    source: str
    stages: int
    stage_axis: int
    dtype: type
    units: str


# In the order in which the intervals are applied.
QUANTITIES = (
    Quantity("darkOffset", "dark", 0, 0, np.float32, "ADU"),
    Quantity("darkStandardDeviation", "dark", 0, 0, np.float32, "ADU"),
    Quantity("analogFitStdDevs", "analog_gains", GAIN_STAGES, 0, np.float32, "ADU"),
    Quantity("analogGains", "analog_gains", GAIN_STAGES, 0, np.float32, "ADU/clock"),
    Quantity("anlogLineOffsets", "analog_gains", GAIN_STAGES, 0, np.float32, "ADU"),
    Quantity("digitalStdDeviations", "digital_means", GAIN_STAGES, 1, np.float32, "ADU"),
    Quantity("digitalSpacingsSafetyFactors", "digital_means", GAIN_STAGES - 1, 1, np.float32, ""),
    Quantity("digitalMeans", "digital_means", GAIN_STAGES, 1, np.float32, "ADU"),
    Quantity("digitalThresholds", "digital_means", GAIN_STAGES - 1, 0, np.uint16, "ADU"),
    Quantity("photonSpacing", "photon_spacing", 0, 0, np.float32, "ADU"),
    Quantity("quality", "photon_spacing", 0, 0, np.float32, "frames/ADU"),
)
PER_PIXEL = ("photonSpacing", "quality")  # the same for all memory cells
OTHERS = (
    ("analog_gains", "fitStatus", 3),
    ("photon_spacing", "fitStatus", 2),
    ("constants", "analogGains_keV", 4),
    ("constants", "darkOffsets", 4),
    ("constants", "digitalThresholds", 4),
)
FIRST_CAUSES = ("manual", "systematic", "asic_borders", "non_finite")


class Cut(NamedTuple):
    """One quantity in one gain stage with its interval.

    Attributes
    ----------
    name : str
        ``darkOffset`` or ``analogGains/0``: of the sub-mask and the histogram.
    quantity : Quantity
    stage : int
    low, high : float
        Values outside are bad; NaN if there is no interval.
    """

    name: str
    quantity: Quantity
    stage: int
    low: float
    high: float

    @property
    def is_used(self):
        """Whether there is an interval."""
        return not np.isnan(self.low)


class Histogram(NamedTuple):
    """Counts of values in bins of equal width, and below the first and above the last."""

    edges: np.ndarray
    counts: np.ndarray
    outside: np.ndarray


def make_bad_cell_mask(
    dark,
    analog_gains,
    digital_means,
    photon_spacing,
    constants,
    output,
    attributes,
    *,
    module,
    manual=(),
    manual_file=None,
    systematic=(),
    asic_borders=False,
    intervals=None,
):
    """Write which memory cells of one module are bad, by cause.

    The causes are taken in the order of FIRST_CAUSES and then QUANTITIES, each with its gain stages in order. Memory
    holds one memory cell and the sample that the ranges of the histograms are taken from, whatever the number of cells.

    Parameters
    ----------
    dark, analog_gains, digital_means, photon_spacing : str or Path
        The processed files of the module.
    constants : str or Path
        Its combined constants.
    output : str or Path
        Becomes ``badCellMask`` bool (C, 128, 512), True = bad, with the attribute percent_total; ``subMasks/<cause>``
        bool, (C, 128, 512) or, where it is the same for all memory cells, (128, 512), with the attributes percent (of
        all cells, what no earlier cause had masked), percent_alone and, for intervals, interval;
        ``histograms/<quantity>[/<stage>]/{edges, counts}`` of the values that no earlier cause masks, with the
        attributes below, above (values outside the edges), units and interval; the attribute causes (JSON) has the
        order.
    attributes : dict
        Provenance.
    module : int
    manual : list of dict
        Rectangles {rows, columns, cells}, each [first, last], [first, last, step] or None for all; last included.
    manual_file : str or Path, optional
        See :func:`read_manual_mask`.
    systematic : list of dict
        Patterns in the same form as the rectangles.
    asic_borders : bool
        Mask the first and last row and column of each ASIC.
    intervals : dict
        {quantity: [low, high] or None}, where there are stages a list of these. A None as end is an open end.

    Raises
    ------
    ValueError
        Files of another module or orientation, missing datasets, or shapes that do not agree: all of it at once.
    """
    paths = {
        "dark": dark,
        "analog_gains": analog_gains,
        "digital_means": digital_means,
        "photon_spacing": photon_spacing,
        "constants": constants,
    }
    cuts = cuts_of(intervals or {})
    with contextlib.ExitStack() as stack:
        files = {name: stack.enter_context(h5py.File(path)) for name, path in paths.items()}
        n_cells = check_files(files, module)
        given = np.zeros(LAB_SHAPE, bool)
        if manual_file is not None:
            given = read_manual_mask(manual_file, module, n_cells)
        first = FirstCauses(
            np.broadcast_to(given, (n_cells, *LAB_SHAPE)),
            list(manual),
            list(systematic),
            lab_from_xfel(asic_edges(), module) if asic_borders else np.zeros(LAB_SHAPE, bool),
            files["photon_spacing"]["fitStatus"][()] != 0,
        )
        histograms = empty_histograms(files, n_cells, first, cuts)
        file = stack.enter_context(new_h5(output, attributes | {"module": module, "orientation": "lab"}))
        _write_masks(file, files, n_cells, first, cuts, histograms)
        _write_histograms(file, cuts, histograms)
        _log_causes(file, module, n_cells)


class FirstCauses(NamedTuple):
    """What is masked before any interval.

    Attributes
    ----------
    given : ndarray of bool, (C, 128, 512)
        The user's mask.
    manual, systematic : list of dict
        Rectangles and patterns.
    borders : ndarray of bool, (128, 512)
    not_fitted : ndarray of bool, (128, 512)
        Pixels without a photon spacing.
    """

    given: np.ndarray
    manual: list
    systematic: list
    borders: np.ndarray
    not_fitted: np.ndarray


def cuts_of(intervals):
    """Give all quantities and stages in the order in which they are used.

    Parameters
    ----------
    intervals : dict
        See :func:`make_bad_cell_mask`. Quantities that are not named have no interval.

    Returns
    -------
    list of Cut

    Raises
    ------
    ValueError
        A quantity is unknown, has another number of stages, or an interval's ends are in the wrong order.
    """
    problems = [
        f"{name} is no quantity with an interval" for name in intervals if name not in {q.name for q in QUANTITIES}
    ]
    cuts = []
    for quantity in QUANTITIES:
        held = intervals.get(quantity.name)
        if quantity.stages:
            held = [None] * quantity.stages if held is None else held
            if len(held) != quantity.stages:
                problems.append(f"{quantity.name} has {len(held)} intervals; expected {quantity.stages}")
                continue
        else:
            held = [held]
        for stage, interval in enumerate(held):
            name = f"{quantity.name}/{stage}" if quantity.stages else quantity.name
            low, high = (np.nan, np.nan) if interval is None else interval
            low, high = (-np.inf if low is None else float(low)), (np.inf if high is None else float(high))
            if low > high:
                problems.append(f"{name} is [{low:g}, {high:g}], which nothing is inside")
            cuts.append(Cut(name, quantity, stage, low, high))
    if problems:
        known = ", ".join(quantity.name for quantity in QUANTITIES)
        raise ValueError(f"calibration.mask.intervals: {'; '.join(problems)}. The quantities are {known}.")
    return cuts


def check_files(files, module, needs_constants=True):
    """Check that the files of a module belong together.

    Parameters
    ----------
    files : dict of {str: h5py.File}
    module : int
    needs_constants : bool
        Look at the combined constants, too.

    Returns
    -------
    int
        Number of memory cells.

    Raises
    ------
    ValueError
        With every problem.
    """
    problems = []
    wanted = [
        (q.source, q.name, 2 if q.name in PER_PIXEL else 4 if q.stages else 3, q.stages, q.stage_axis)
        for q in QUANTITIES
    ]
    wanted += [
        (source, name, n_axes, GAIN_STAGES - 1 if name == "digitalThresholds" else GAIN_STAGES, 0)
        for source, name, n_axes in OTHERS
        if needs_constants or source != "constants"
    ]
    n_cells = len(files["dark"]["darkOffset"]) if "darkOffset" in files["dark"] else None
    for file in files.values():
        found = file.attrs.get("module"), file.attrs.get("orientation")
        if found != (module, "lab"):
            problems.append(
                f"{file.filename} is of module {found[0]} in orientation {found[1]!r}; expected {module} and 'lab'"
            )
    for source, name, n_axes, stages, stage_axis in wanted:
        file = files[source]
        if name not in file:
            problems.append(f"{file.filename} has no dataset {name}")
            continue
        shape = list(LAB_SHAPE)
        if n_axes > 2:
            shape.insert(0, n_cells)
        if n_axes > 3:
            shape.insert(stage_axis, stages)
        if n_cells is not None and file[name].shape != tuple(shape):
            problems.append(f"{file.filename}: {name} has shape {file[name].shape}; expected {tuple(shape)}")
    if problems:
        raise ValueError(
            f"the files of module {module:02d} do not belong together: {'; '.join(problems)}. The number of memory "
            "cells is that of darkOffset. Process the dark, current-source and X-ray data of this module again."
        )
    return n_cells


def read_manual_mask(path, module, n_cells):
    """Read the user's mask for one module.

    Parameters
    ----------
    path : str or Path
        ``.npy``, or HDF5 with the dataset ``badCellMask``: bool, True = bad, (128, 512) or (C, 128, 512) for every
        module, (16, 128, 512) or (16, C, 128, 512) for each.
    module : int
    n_cells : int

    Returns
    -------
    ndarray of bool, (128, 512) or (C, 128, 512)

    Raises
    ------
    ValueError
        Another type or shape, or one that can mean two things (16 memory cells).
    """
    if str(path).endswith(".npy"):
        return _part_of_module(np.load(path, mmap_mode="r"), path, module, n_cells)
    with h5py.File(path) as file:
        if "badCellMask" not in file:
            raise ValueError(
                f"{path} has no dataset badCellMask (it has {', '.join(file) or 'none'}), which "
                "calibration.mask.manual_file needs"
            )
        return _part_of_module(file["badCellMask"], path, module, n_cells)


def _part_of_module(held, path, module, n_cells):
    """The part of an array, in memory or in a file, that belongs to a module."""
    per_module, per_cell = (N_MODULES, *LAB_SHAPE), (n_cells, *LAB_SHAPE)
    needs = f"{LAB_SHAPE}, {per_cell}, {per_module} or {(N_MODULES, *per_cell)}"
    doubt = ""
    if held.shape == per_module == per_cell:
        needs, doubt = f"{(N_MODULES, *per_cell)}", ", which may be modules or memory cells"
    elif held.dtype == bool and held.shape in (LAB_SHAPE, per_cell):
        return held[()]
    elif held.dtype == bool and held.shape in (per_module, (N_MODULES, *per_cell)):
        return np.array(held[module])
    raise ValueError(
        f"{path}: the mask is {held.dtype} with shape {held.shape}{doubt}; calibration.mask.manual_file needs bool, "
        f"True = bad, of {needs}"
    )


def pattern_mask(patterns, cell):
    """Pixels of one memory cell that lie in one of some rectangles.

    Parameters
    ----------
    patterns : list of dict
        See :func:`make_bad_cell_mask`.
    cell : int

    Returns
    -------
    ndarray of bool, (128, 512)
    """
    bad = np.zeros(LAB_SHAPE, bool)
    for pattern in patterns:
        cells = _span(pattern.get("cells"))
        if cells.start <= cell and (cells.stop is None or cell < cells.stop) and (cell - cells.start) % cells.step == 0:
            bad[_span(pattern.get("rows")), _span(pattern.get("columns"))] = True
    return bad


def _span(given):
    """Slice of [first, last] or [first, last, step], last included, or of None."""
    if given is None:
        return slice(0, None, 1)
    first, last, step = given if len(given) == 3 else (*given, 1)
    if not 0 <= first <= last or step < 1:
        raise ValueError(
            f"{list(given)} in calibration.mask.manual or .systematic is no range; expected [first, last] or [first, "
            "last, step], first <= last and step >= 1: correct the configuration"
        )
    return slice(first, last + 1, step)


def first_masks(files, first, cell):
    """Masks of one memory cell that need no interval.

    Parameters
    ----------
    files : dict of {str: h5py.File}
    first : FirstCauses
    cell : int

    Returns
    -------
    list of ndarray of bool, (128, 512)
        In the order of FIRST_CAUSES.
    """
    return [
        first.given[cell] | pattern_mask(first.manual, cell),
        pattern_mask(first.systematic, cell),
        first.borders,
        unknown_cells(files, first.not_fitted, cell),
    ]


def unknown_cells(files, not_fitted, cell):
    """Pixels of one memory cell that lack something, so that they cannot be calibrated.

    That is: offset or noise of the dark data or a constant is not finite, a threshold is not known, or one of the fits
    has a status other than 0.

    Parameters
    ----------
    files : dict of {str: h5py.File}
        Without ``constants`` what is in there is not looked at.
    not_fitted : ndarray of bool, (128, 512)
        Pixels without a photon spacing.
    cell : int

    Returns
    -------
    ndarray of bool, (128, 512)
    """
    unknown = not_fitted | (files["analog_gains"]["fitStatus"][cell] != 0)
    for name in ("darkOffset", "darkStandardDeviation"):
        unknown |= ~np.isfinite(files["dark"][name][cell])
    if "constants" in files:
        constants = files["constants"]
        for name in ("analogGains_keV", "darkOffsets"):
            unknown |= ~np.isfinite(constants[name][:, cell]).all(axis=0)
        unknown |= (constants["digitalThresholds"][:, cell] == UNKNOWN_THRESHOLD).any(axis=0)
    return unknown


def read_values(files, cut, cell):
    """Values of one quantity, stage and memory cell as float32 (128, 512); NaN where not known."""
    quantity = cut.quantity
    held = files[quantity.source][quantity.name]
    if quantity.name in PER_PIXEL:
        values = held[()]
    elif not quantity.stages:
        values = held[cell]
    else:
        values = held[(cut.stage, cell) if quantity.stage_axis == 0 else (cell, cut.stage)]
    known = values != UNKNOWN_MIDPOINT if quantity.name == "digitalThresholds" else True
    return np.where(known, values, np.float32(np.nan)).astype(np.float32, copy=False)


def empty_histograms(files, n_cells, first, cuts):
    """Choose the bins of all histograms by a sample of the memory cells.

    Returns
    -------
    list of Histogram
        One per cut, all counts 0.
    """
    cells = sample_frames(np.arange(n_cells), SAMPLE_CELLS)
    bad = np.array([np.logical_or.reduce(first_masks(files, first, cell)) for cell in cells]).reshape(-1, *LAB_SHAPE)
    histograms = []
    for cut in cuts:
        values = np.array([read_values(files, cut, cell) for cell in cells]).reshape(-1, *LAB_SHAPE)
        edges = histogram_edges(values[~bad], cut.low, cut.high, np.issubdtype(cut.quantity.dtype, np.integer))
        histograms.append(Histogram(edges, np.zeros(len(edges) - 1, np.int64), np.zeros(2, np.int64)))
        if cut.is_used:
            bad |= is_outside(values, cut.low, cut.high)
    return histograms


def histogram_edges(values, low, high, whole):
    """Choose bins of equal width that show the values without their outliers, and an interval not far from them.

    Parameters
    ----------
    values : ndarray
        A sample; NaN are left out.
    low, high : float
        Interval; NaN or infinite where there is none.
    whole : bool
        The values are whole numbers: each bin shall hold the same number of them.

    Returns
    -------
    ndarray of float64, (bins + 1,)
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return np.array([0.0, 1.0])
    begin, end = np.quantile(values, RANGE_QUANTILES).astype(float)
    size = max(end - begin, 1.0 if whole else 1e-3 * abs(begin), 1e-6)
    nearest, farthest = begin - FARTHEST_END * size, end + FARTHEST_END * size
    begin, end = begin - RANGE_MARGIN * size, end + RANGE_MARGIN * size
    if nearest <= low < begin:
        begin = low - 0.1 * size
    if end < high <= farthest:
        end = high + 0.1 * size
    if not whole:
        return np.linspace(begin, end, BINS + 1)
    step = np.ceil((end - begin) / BINS)
    begin = np.floor(begin) - 0.5
    return np.arange(begin, end + step, step)


def is_outside(values, low, high):
    """Which values are outside an interval (both ends belong to it); NaN is outside."""
    return ~((values >= low) & (values <= high))


@njit(cache=True, nogil=True)
def cut_cell(values, low, high, edges, bad, outside, counts, beyond):
    """Apply one interval to one memory cell.

    Parameters
    ----------
    values : ndarray of float32, (pixels,)
    low, high : float
        Interval; NaN for none, which masks nothing.
    edges : ndarray of float64, (bins + 1,)
        Of a histogram with bins of equal width; the upper edge of a bin belongs to the next one.
    bad : ndarray of bool, (pixels,)
        Masked by earlier causes. Becomes True where the value is outside.
    outside : ndarray of bool, (pixels,)
        Becomes True where the value is outside.
    counts : ndarray of int64, (bins,)
        The values of pixels that are not bad yet are counted.
    beyond : ndarray of int64, (2,)
        The same below and above the histogram.

    Returns
    -------
    int
        Pixels that become bad.
    """
    new = 0
    is_used = not np.isnan(low)
    n_bins = counts.size
    per_width = n_bins / (edges[n_bins] - edges[0])
    for i in range(values.size):
        value = np.float64(values[i])
        outside[i] = is_used and not (low <= value <= high)
        if bad[i]:
            continue
        if not np.isnan(value):
            if value < edges[0]:
                beyond[0] += 1
            elif value >= edges[n_bins]:
                beyond[1] += 1
            else:
                place = min(int((value - edges[0]) * per_width), n_bins - 1)
                while value < edges[place]:  # the division was rounded
                    place -= 1
                while value >= edges[place + 1]:
                    place += 1
                counts[place] += 1
        if outside[i]:
            bad[i] = True
            new += 1
    return new


def _write_masks(file, files, n_cells, first, cuts, histograms):
    names = [*FIRST_CAUSES, *(cut.name for cut in cuts if cut.is_used)]
    shared = {"asic_borders", *PER_PIXEL}
    if not first.given.strides[0] and all(pattern.get("cells") is None for pattern in first.manual):
        shared.add("manual")
    if all(pattern.get("cells") is None for pattern in first.systematic):
        shared.add("systematic")
    total = _create(file, "badCellMask", n_cells)
    masks = {name: _create(file, f"subMasks/{name}", None if name in shared else n_cells) for name in names}
    new, alone = dict.fromkeys(names, 0), dict.fromkeys(names, 0)
    n_bad = 0
    outside = np.empty(PIXELS, bool)
    advance = progress(n_cells, "memory cells")
    for cell in range(n_cells):
        bad = np.zeros(LAB_SHAPE, bool)
        for name, mask in zip(FIRST_CAUSES, first_masks(files, first, cell), strict=True):
            new[name] += np.count_nonzero(mask & ~bad)
            _store(masks[name], cell, mask, alone, name)
            bad |= mask
        flat = bad.reshape(-1)
        for cut, histogram in zip(cuts, histograms, strict=True):
            values = read_values(files, cut, cell).reshape(-1)
            n_new = cut_cell(values, cut.low, cut.high, histogram.edges, flat, outside, *histogram[1:])
            if cut.is_used:
                new[cut.name] += n_new
                _store(masks[cut.name], cell, outside.reshape(LAB_SHAPE), alone, cut.name)
        total[cell] = bad
        n_bad += np.count_nonzero(bad)
        advance(1)
    n_all = max(n_cells * PIXELS, 1)
    total.attrs["percent_total"] = 100 * n_bad / n_all
    for name, mask in masks.items():
        mask.attrs["percent"] = 100 * new[name] / n_all
        mask.attrs["percent_alone"] = 100 * alone[name] / n_all
    for cut in cuts:
        if cut.is_used:
            masks[cut.name].attrs["interval"] = (cut.low, cut.high)
    file.attrs["causes"] = json.dumps(names)


def _create(file, name, n_cells):
    shape = LAB_SHAPE if n_cells is None else (n_cells, *LAB_SHAPE)
    packed = {"chunks": (1, *LAB_SHAPE)[-len(shape) :], "compression": "gzip", "compression_opts": 1}
    return file.create_dataset(name, shape, bool, **(packed if n_cells != 0 else {}))


def _store(dataset, cell, mask, alone, name):
    n_bad = np.count_nonzero(mask)
    alone[name] += n_bad
    if dataset.ndim == 3:
        if n_bad:  # what is not written reads as False
            dataset[cell] = mask
    elif cell == 0:
        dataset[...] = mask


def _write_histograms(file, cuts, histograms):
    for cut, histogram in zip(cuts, histograms, strict=True):
        group = file.create_group(f"histograms/{cut.name}")
        write_array(group, "edges", histogram.edges, cut.quantity.units)
        write_array(group, "counts", histogram.counts)
        below, above = histogram.outside.tolist()
        group.attrs.update({"units": cut.quantity.units, "below": below, "above": above})
        if cut.is_used:
            group.attrs["interval"] = (cut.low, cut.high)


def _log_causes(file, module, n_cells):
    log.info("module %02d, %d memory cells: percent of all that each cause masks newly (and alone)", module, n_cells)
    for name in json.loads(file.attrs["causes"]):
        held = file[f"subMasks/{name}"].attrs
        interval = f"  outside [{held['interval'][0]:g}, {held['interval'][1]:g}]" if "interval" in held else ""
        log.info("  %-32s %8.4f %% (%8.4f %%)%s", name, held["percent"], held["percent_alone"], interval)
    log.info("  %-32s %8.4f %%", "all", file["badCellMask"].attrs["percent_total"])
