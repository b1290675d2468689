"""Which pixels are good: static masks per memory cell, and outliers that the powder shows.

All masks hold bits of the CXI specification (:mod:`pulsetrain.detector`), 0 = good.
"""

import logging

import h5py
import numpy as np
from scipy import ndimage

from pulsetrain import detector
from pulsetrain.chunks import open_storages
from pulsetrain.constants import open_constants, read_constants, read_good_pixels
from pulsetrain.layout import read_layout, source_path, source_rows
from pulsetrain.output import new_h5
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

# Bits of the facility's mask by what they mean for us; names and values of extra.calibration.BadPixels (EXtra
# 2026.1). All other bits, unknown ones included, are MASK_BAD: 0x1 OFFSET_OUT_OF_THRESHOLD, 0x4
# OFFSET_NOISE_EVAL_ERROR, 0x8 NO_DARK_DATA, 0x10 CI_GAIN_OF_OF_THRESHOLD, 0x20 CI_LINEAR_DEVIATION, 0x40
# CI_EVAL_ERROR, 0x80 FF_GAIN_EVAL_ERROR, 0x100 FF_GAIN_DEVIATION, 0x200 FF_NO_ENTRIES, 0x400 CI2_EVAL_ERROR, 0x800
# VALUE_IS_NAN, 0x1000 VALUE_OUT_OF_RANGE, 0x2000 GAIN_THRESHOLDING_ERROR, 0x8000 ASIC_STD_BELOW_NOISE, 0x10000
# INTERPOLATED, 0x40000 OVERSCAN, 0x80000 NON_SENSITIVE, 0x100000 NON_LIN_RESPONSE_REGION, 0x200000
# WRONG_GAIN_VALUE, 0x400000 NON_STANDARD_SIZE.
FACILITY_NOISY = 0x2 | 0x20000  # NOISE_OUT_OF_THRESHOLD, NOISY_ADC
FACILITY_DEAD = 0x4000  # DATA_STD_IS_ZERO

CHUNK_CACHE_BYTES = 64 << 20  # keeps a chunk of up to 256 frames of mask while its cells are read one by one

WINDOW = 9  # [pixels], neighbourhood for the expected counts
UPHILL_NEIGHBOURS = 3  # on a slope so many of 8 neighbours are higher than a good pixel
RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], dtype=bool)
MIN_HOT_COUNTS = 20
MIN_EXPECTED_OF_DEAD = 20
DARK_FRINGE = 0.3  # share of the median of the neighbourhood
MIN_CELLS = 8
MIN_FRAMES_PER_CELL = 50
MIN_COUNTS_PER_CELL = 1.0
SIGMA_OF_MAD = 1.4826


def make_run_mask(vds, constants_mask, constants, user, module, stream, sample_trains, asic_edges, output, attributes):
    """Write the static mask of one module for the memory cells of a run.

    Parameters
    ----------
    vds : path
        Its group ``/pulsetrain`` says where the module's frames are.
    constants_mask : path or None
        ``badCellMask`` (cells, 128, 512) bool, laboratory orientation, True = bad. Needed for the stream ``raw``.
    constants : path or None
        Calibration constants of the module. Needed for the stream ``raw``: pixels are bad in the memory cells where
        a constant is not finite.
    user : list of path
        Masks (16, 512, 128) bool, True = good: ``.npy``, or HDF5 with the dataset ``good_pixels``.
    module : int
    stream : str
        ``proc`` or ``raw``.
    sample_trains : int
        Frames per memory cell that the facility's mask is looked at in (proc).
    asic_edges : bool
        Mask the border pixels of the ASICs.
    output : path
        ``cellId`` u2 (C,), ``mask`` u4 (C, 512, 128); attribute facility_mask (``read``, ``partial``,
        ``absent``, ``no frames`` or ``constants``).
    attributes : dict
        Provenance.
    """
    run = read_layout(vds, "/pulsetrain")
    cells = np.unique(run.cell_id)
    everywhere = np.zeros(detector.MODULE_SHAPE, dtype=np.uint32)
    if asic_edges:
        everywhere[detector.asic_edges()] |= detector.MASK_INVALID
    for path in user:
        everywhere[~read_good_pixels(path, "masks.user")[module]] |= detector.MASK_INVALID

    if stream == "raw":
        facility_mask, per_cell = "constants", constants_masks(constants_mask, constants, cells, module)
    else:
        facility_mask, per_cell = facility_masks(run, vds, cells, module, sample_trains)
    advance = progress(len(cells), "memory cells")
    n_bad = 0
    with new_h5(output, attributes) as file:
        file.create_dataset("cellId", data=cells.astype("u2"))
        dataset = create_mask(file, len(cells))
        for number, of_cell in enumerate(per_cell):
            mask = everywhere | of_cell
            n_bad += np.count_nonzero(mask)
            dataset[number] = mask
            advance(1)
        file.attrs.update({"module": module, "facility_mask": facility_mask})
    bad_percent = 100 * n_bad / (max(len(cells), 1) * everywhere.size)
    log.info("module %d: %d cells, %.2f %% of the pixels are masked", module, len(cells), bad_percent)


def create_mask(file, n_cells):
    """Create the dataset ``mask`` u4 (cell, slow_scan, fast_scan), one chunk per cell, compressed."""
    shape = (n_cells, *detector.MODULE_SHAPE)
    packed = {"chunks": (1, *detector.MODULE_SHAPE), "compression": "gzip", "compression_opts": 1, "shuffle": True}
    dataset = file.create_dataset("mask", shape, "u4", **(packed if n_cells else {}))
    dataset.attrs["description"] = "; ".join(f"{bit:#x} {name}" for bit, name in detector.MASK_BIT_NAMES.items())
    return dataset


def constants_masks(path, constants, cells, module):
    """Give the mask that belongs to the constants and where they are not finite, cell after cell.

    Parameters
    ----------
    path : path
        ``badCellMask`` (cells, 128, 512) bool, True = bad; the index is the cellId.
    constants : path
        See :func:`pulsetrain.constants.open_constants`.
    cells : ndarray of uint16, (C,)
    module : int

    Yields
    ------
    ndarray of uint32, (512, 128)
    """
    if path is None or constants is None:
        raise ValueError(f"the data are raw; constants and mask of module {module:02d} are needed (`calibrations`)")
    with h5py.File(path) as file, open_storages() as storage_of:
        bad = file["badCellMask"]
        if bad.shape[1:] != detector.LAB_SHAPE:
            raise ValueError(f"{path}: badCellMask has shape {bad.shape}; expected (cells, 128, 512)")
        if len(cells) and cells[-1] >= len(bad):
            raise ValueError(
                f"{path}: badCellMask has {len(bad)} memory cells, but the run has cell {cells[-1]}; use constants of "
                "a dark run with at least as many cells (column `calibration` of the run table)"
            )
        # The photon energy, here 1 keV, changes no constant from finite to not finite.
        opened = open_constants(constants, module, cells, 1.0, storage_of)
        for cell in cells:
            finite = read_constants(opened, [cell]).finite.reshape(detector.MODULE_SHAPE)
            bad_cell = detector.xfel_from_lab(bad[cell], module) | ~finite
            yield np.where(bad_cell, np.uint32(detector.MASK_BAD), np.uint32(0))


def facility_masks(run, vds, cells, module, sample_trains):
    """Give the bits that the facility set in most of some frames of each memory cell, cell after cell.

    Parameters
    ----------
    run : RunLayout
    vds : path
        The file that holds it.
    cells : ndarray of uint16, (C,)
    module, sample_trains : int

    Returns
    -------
    state : str
        ``read``, ``partial`` (some of the files have no mask), ``absent`` (none has one) or ``no frames``.
    masks : iterator of ndarray of uint32, (512, 128)
        CXI bits.
    """
    file_of_frame, row_of_frame = source_rows(run, module)
    held = np.flatnonzero(file_of_frame >= 0)
    nothing = (np.uint32(0) for _ in cells)
    if not len(held):
        log.warning("module %d has no frame in this run: its mask is that of edges and user masks only", module)
        return "no frames", nothing
    paths = {number: source_path(vds, run.files["name"][number]) for number in np.unique(file_of_frame[held])}
    names = {number: f"INSTRUMENT/{run.files['source'][number]}/image/mask" for number in paths}
    with_mask = {}
    for number, path in paths.items():
        with h5py.File(path) as file:
            if names[number] in file:
                with_mask[number] = path
    without = [path.name for number, path in paths.items() if number not in with_mask]
    if without:
        log.warning(
            "%s without %s: %s; give masks.user if pixels are bad",
            ", ".join(without),
            next(iter(names.values())),
            "the other files tell the mask" if with_mask else "the mask is that of edges and user masks only",
        )
    if not with_mask:
        return "absent", nothing
    held = held[np.isin(file_of_frame[held], list(with_mask))]
    samples = [sample_frames(held[run.cell_id[held] == cell], sample_trains) for cell in cells]
    state = "partial" if without else "read"
    return state, _majority_of_samples(samples, with_mask, names, file_of_frame, row_of_frame)


def sample_frames(frames, number):
    """Choose up to `number` of the frames, spread evenly over them, first and last included."""
    if len(frames) <= number:
        return frames
    return frames[np.round(np.linspace(0, len(frames) - 1, number)).astype(int)]


def _majority_of_samples(samples, paths, names, file_of_frame, row_of_frame):
    files = {number: h5py.File(path, rdcc_nbytes=CHUNK_CACHE_BYTES) for number, path in paths.items()}
    try:
        datasets = {number: file[names[number]] for number, file in files.items()}
        for number, dataset in datasets.items():
            if dataset.shape[1:] != detector.MODULE_SHAPE or dataset.dtype.kind != "u":
                raise ValueError(
                    f"{paths[number]}: {names[number]} has shape {dataset.shape} and dtype {dataset.dtype}; expected "
                    "(frames, 512, 128) of unsigned integers"
                )
        for frames in samples:
            masks = [datasets[file_of_frame[frame]][row_of_frame[frame]] for frame in frames]
            yield cxi_bits(majority(np.array(masks, dtype=np.uint32))) if masks else np.uint32(0)
    finally:
        for file in files.values():
            file.close()


def majority(masks):
    """Bits that are set in more than half of the masks.

    Parameters
    ----------
    masks : ndarray of uint32, (n, ...)

    Returns
    -------
    ndarray of uint32, (...)
    """
    always, ever = np.bitwise_and.reduce(masks), np.bitwise_or.reduce(masks)
    result = always.copy()
    doubtful = int(np.bitwise_or.reduce(always ^ ever, axis=None))
    for bit in (np.uint32(1 << place) for place in range(32) if doubtful >> place & 1):
        often = 2 * np.count_nonzero(masks & bit, axis=0) > len(masks)
        result[often] |= bit
    return result


def cxi_bits(facility):
    """Turn bits of the facility's mask into CXI bits.

    Parameters
    ----------
    facility : ndarray of uint32
        Bits of extra.calibration.BadPixels.

    Returns
    -------
    ndarray of uint32
        MASK_NOISY, MASK_DEAD and, for every other bit, MASK_BAD.
    """
    mask = np.zeros(facility.shape, dtype=np.uint32)
    mask[facility & FACILITY_NOISY != 0] |= detector.MASK_NOISY
    mask[facility & FACILITY_DEAD != 0] |= detector.MASK_DEAD
    mask[facility & ~np.uint32(FACILITY_NOISY | FACILITY_DEAD) != 0] |= detector.MASK_BAD
    return mask


def find_powder_outliers(litpixels, mask, module, hot_sigma, spread_sigma, output, attributes):
    """Write which pixels and memory cells of one module stand out in the summed photons of a run.

    Parameters
    ----------
    litpixels : path
        ``powder_per_cell``, ``frames_per_cell`` (``count_litpixels``).
    mask : path
        Static mask of the module; its bad pixels are left alone.
    module : int
    hot_sigma, spread_sigma : float
        See :func:`hot_and_dead_pixels`, :func:`outlying_cells` and :func:`noisy_pixels`.
    output : path
        ``cellId`` u2 (C,), ``mask`` u4 (C, 512, 128) with MASK_HOT, MASK_DEAD, MASK_NOISY; attributes n_hot, n_dead,
        n_noisy, noisy_cells.
    attributes : dict
        Provenance.
    """
    with h5py.File(litpixels) as powder, h5py.File(mask) as static:
        cells = powder["cellId"][()]
        if not np.array_equal(cells, static["cellId"][()]):
            raise ValueError(
                f"{litpixels} and {mask} have different memory cells ({len(cells)} and {len(static['cellId'])}); "
                f"delete {litpixels} and run snakemake again"
            )
        total, exposure = sum_cells(powder, static)
        hot, dead = hot_and_dead_pixels(total, exposure, hot_sigma)
        blocks, block_exposure = sum_blocks(powder, static, hot)
        noisy_cells = outlying_cells(blocks, block_exposure, powder["frames_per_cell"][()], spread_sigma)
        noisy = noisy_pixels(powder, static, noisy_cells, spread_sigma) & ~hot
        everywhere = np.where(hot, np.uint32(detector.MASK_HOT), np.uint32(0))
        everywhere[dead] |= detector.MASK_DEAD
        everywhere[noisy] |= detector.MASK_NOISY
        with new_h5(output, attributes) as file:
            file.create_dataset("cellId", data=cells)
            dataset = create_mask(file, len(cells))
            for number in range(len(cells)):
                dataset[number] = everywhere | np.uint32(detector.MASK_NOISY if noisy_cells[number] else 0)
            found = {"n_hot": int(hot.sum()), "n_dead": int(dead.sum()), "n_noisy": int(noisy.sum())}
            file.attrs.update({"module": module, **found, "noisy_cells": cells[noisy_cells]})
    log.info("module %d: %s; noisy cells: %s", module, found, cells[noisy_cells].tolist())


def exposures(powder, static, number):
    """Frames that each pixel of one memory cell was good in: (512, 128) float64."""
    if "counts_per_cell" in powder:
        return powder["counts_per_cell"][number].astype(float)
    return np.where(static["mask"][number] == 0, float(powder["frames_per_cell"][number]), 0.0)


def sum_cells(powder, static):
    """Photons and frames of each pixel, summed over the memory cells: two (512, 128) float64."""
    total, exposure = np.zeros(detector.MODULE_SHAPE), np.zeros(detector.MODULE_SHAPE)
    for number in range(len(powder["cellId"])):
        total += powder["powder_per_cell"][number]
        exposure += exposures(powder, static, number)
    return total, exposure


def hot_and_dead_pixels(total, exposure, hot_sigma):
    """Pixels that count much more than their neighbours, or nothing where the neighbours count much.

    The neighbours are the 9 x 9 pixels around a pixel and the 8 next to it. So that no slope or ring of real signal
    is taken for hot pixels, a hot one must exceed the median of the former and all but two of the latter by
    `hot_sigma` standard deviations, of Poisson statistics and of the scatter of the 9 x 9 beyond that.

    Parameters
    ----------
    total : ndarray, (512, 128)
        Photons.
    exposure : ndarray, (512, 128)
        Frames; 0 = masked.
    hot_sigma : float

    Returns
    -------
    hot, dead : ndarray of bool, (512, 128)
    """
    rate = np.full(total.shape, np.nan)
    np.divide(total, exposure, out=rate, where=exposure > 0)
    middle, scatter, uphill = neighbourhood(rate)
    good = (exposure > 0) & np.isfinite(middle) & np.isfinite(uphill)
    exposure = np.where(good, exposure, 0)
    median = np.where(good, middle, 0) * exposure
    # The median of few counts may be less than their mean, by less than 1 (Poisson).
    expected = np.maximum(median + 1, np.where(good, uphill, 0) * exposure)
    excess = np.maximum((np.where(good, scatter, 0) * exposure) ** 2 - median, 0)
    limit = expected + hot_sigma * np.sqrt(expected + excess)
    hot = good & (total > limit) & (total >= MIN_HOT_COUNTS)
    # In a dark fringe some neighbours are nearly as dark as the pixel, so all but one must count, and not much less
    # than the pixels farther away.
    lowest = neighbour_rank(np.where(np.isfinite(rate), rate, np.inf), 1, np.inf)
    lowest = np.where(good & np.isfinite(lowest), lowest, 0) * exposure
    lit_around = (lowest > MIN_EXPECTED_OF_DEAD) & (median > MIN_EXPECTED_OF_DEAD) & (lowest > DARK_FRINGE * median)
    return hot, good & (total == 0) & lit_around


def neighbourhood(image):
    """Median and scatter of the 9 x 9 pixels around each pixel, and the third-highest of its 8 neighbours.

    Neighbours that are masked or beyond the edge count as higher ones, but the highest known one is taken at least.

    Parameters
    ----------
    image : ndarray, (512, 128)
        NaN = masked, left out.

    Returns
    -------
    median, scatter, uphill : ndarray, (512, 128)
        scatter = 1.4826 median absolute deviation; NaN where all pixels around are masked.
    """
    reach = WINDOW // 2
    padded = np.pad(image, reach, constant_values=np.nan)
    median, scatter = np.empty(image.shape), np.empty(image.shape)
    for start in range(0, len(image), 64):
        rows = padded[start : start + 64 + 2 * reach]
        windows = np.lib.stride_tricks.sliding_window_view(rows, (WINDOW, WINDOW)).reshape(-1, WINDOW * WINDOW)
        middle = _median_of_finite(windows)
        median[start : start + 64] = middle.reshape(-1, image.shape[1])
        deviation = _median_of_finite(np.abs(windows - middle[:, None]))
        scatter[start : start + 64] = SIGMA_OF_MAD * deviation.reshape(-1, image.shape[1])
    unknown = np.where(np.isfinite(image), image, -np.inf)
    n_unknown = 8 - ndimage.convolve(np.isfinite(image).astype(int), RING.astype(int), mode="constant")
    uphill = neighbour_rank(unknown, 7, -np.inf)
    for higher in range(1, UPHILL_NEIGHBOURS):
        enough = n_unknown < UPHILL_NEIGHBOURS - higher
        uphill = np.where(enough, neighbour_rank(unknown, 7 - higher, -np.inf), uphill)
    return median, scatter, np.where(np.isfinite(uphill), uphill, median)


def neighbour_rank(image, rank, outside):
    """The value of given rank (0 = lowest) among the 8 pixels next to each pixel; `outside` is beyond the edges."""
    return ndimage.rank_filter(image, rank, footprint=RING, mode="constant", cval=outside)


def _median_of_finite(rows):
    """Median of each row without its NaN; NaN for a row of NaN only."""
    ordered = np.sort(rows, axis=1)  # NaN go to the end
    count = np.count_nonzero(np.isfinite(rows), axis=1)
    number = np.arange(len(rows))
    low, high = np.maximum(count - 1, 0) // 2, np.minimum(count // 2, rows.shape[1] - 1)
    return np.where(count > 0, (ordered[number, low] + ordered[number, high]) / 2, np.nan)


def sum_blocks(powder, static, hot):
    """Photons and exposure of the 16 ASICs in each memory cell, hot pixels left out: two (C, 16) float64."""
    n_cells = len(powder["cellId"])
    photons, exposure = np.zeros((n_cells, 16)), np.zeros((n_cells, 16))
    for number in range(n_cells):
        weight = np.where(hot, 0, exposures(powder, static, number))
        photons[number] = _asic_sums(np.where(weight > 0, powder["powder_per_cell"][number], 0))
        exposure[number] = _asic_sums(weight)
    return photons, exposure


def _asic_sums(image):
    side = detector.ASIC_PIXELS
    rows, columns = image.shape[0] // side, image.shape[1] // side
    return image.reshape(rows, side, columns, side).sum(axis=(1, 3)).reshape(-1)


def outlying_cells(photons, exposure, frames_per_cell, spread_sigma):
    """Memory cells whose photon rate differs from that of the other cells in most ASICs.

    The median over the ASICs of (rate in the cell / median rate of all cells) is compared with the other cells: a
    strong hit brightens some ASICs of a cell, a bad cell all of them.

    Parameters
    ----------
    photons, exposure : ndarray, (C, A)
        Photons, and frames x pixels, of each cell and ASIC.
    frames_per_cell : ndarray of int, (C,)
    spread_sigma : float
        Standard deviations (1.4826 median absolute deviation over cells, and at least Poisson statistics of an ASIC).

    Returns
    -------
    ndarray of bool, (C,)
        All False with fewer than 8 cells; False for cells with fewer than 50 frames, which hits would dominate.
    """
    outlying = np.zeros(len(photons), dtype=bool)
    judged = frames_per_cell >= MIN_FRAMES_PER_CELL
    if judged.sum() < MIN_CELLS:
        log.info("fewer than %d cells with %d frames: cells are not compared", MIN_CELLS, MIN_FRAMES_PER_CELL)
        return outlying
    rate = np.full(photons.shape, np.nan)
    np.divide(photons, exposure, out=rate, where=exposure > 0)
    typical = _median_of_finite(rate[judged].T)
    relative = np.full(photons.shape, np.nan)
    np.divide(rate, typical, out=relative, where=typical > 0)
    relative = _median_of_finite(relative)
    middle = _median_of_finite(relative[judged][None])[0]
    scatter = SIGMA_OF_MAD * _median_of_finite(np.abs(relative[judged] - middle)[None])[0]
    counts = _median_of_finite(np.where(exposure > 0, typical * exposure, np.nan))
    with np.errstate(invalid="ignore", divide="ignore"):
        sigma = np.maximum(scatter, 1 / np.sqrt(counts))
        outlying[judged] = (np.abs(relative - middle) > spread_sigma * sigma)[judged]
    return outlying


def noisy_pixels(powder, static, left_out, spread_sigma):
    """Pixels whose counts vary more from cell to cell than those of their neighbours.

    Compared is chi2 per degree of freedom of the counts per cell against the pixel's mean rate, which hits and
    changing pulse energies raise for neighbours alike.

    Parameters
    ----------
    powder, static : h5py.File
        As :func:`find_powder_outliers` opens them.
    left_out : ndarray of bool, (C,)
        Cells not to use.
    spread_sigma : float
        Standard deviations of chi2 (Poisson) above the 9 x 9 pixels around and all but two of the next 8.

    Returns
    -------
    ndarray of bool, (512, 128)
        False where a pixel has less than 1 photon per cell on average, or fewer than 8 cells.
    """
    used = np.flatnonzero(~left_out)
    total, exposure, n_cells = (np.zeros(detector.MODULE_SHAPE) for _ in range(3))
    squares = np.zeros(detector.MODULE_SHAPE)
    for number in used:
        photons, frames = powder["powder_per_cell"][number].astype(float), exposures(powder, static, number)
        total += photons
        exposure += frames
        n_cells += frames > 0
        np.add(squares, photons * photons / np.maximum(frames, 1), out=squares, where=frames > 0)
    # sum (p - n r)^2 / (n r) with r = sum p / sum n is (sum p^2/n) / r - sum p
    freedom = n_cells - 1
    good = (n_cells >= MIN_CELLS) & (total >= MIN_COUNTS_PER_CELL * np.maximum(n_cells, 1))
    chi2 = np.full(detector.MODULE_SHAPE, np.nan)
    chi2[good] = (squares[good] * exposure[good] / total[good] - total[good]) / freedom[good]
    middle, scatter, uphill = neighbourhood(chi2)
    with np.errstate(invalid="ignore", divide="ignore"):
        poisson = np.sqrt(2 / freedom + 1 / total)  # of chi2 / freedom
        expected = np.maximum(np.maximum(middle, uphill), 1)
        return good & (chi2 > expected + spread_sigma * np.hypot(poisson * expected, scatter))
