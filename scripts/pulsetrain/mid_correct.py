"""The dark correction of MID: offsets, baseline, gain modes, photons; frame by frame, in bounded memory.

Everything is float32, operation by operation, so that numpy gives the same bits; only the mean of the baseline is
summed in float64.
"""

import contextlib
import logging
import queue
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from isal import isal_zlib
from numba import njit

from pulsetrain.chunks import BLOCK_BYTES, frame_values, open_storages, plan_reads, read_blocks, unpack
from pulsetrain.detector import MODULE_SHAPE, PIXELS
from pulsetrain.layout import source_rows
from pulsetrain.litpixels import image_storage
from pulsetrain.mid_constants import MODES
from pulsetrain.output import write_behind

log = logging.getLogger(__name__)

SHARE = 8  # frames that a thread takes at a time
SAMPLES = 64  # frames of a module whose first rows are looked at for light
HIGH, MEDIUM = range(MODES)
FEW_PIXELS = PIXELS // 16  # of a mode: fewer make a chunk of zeros nearly everywhere
WITHOUT_FILTER = 1  # tells HDF5 that the first filter, gzip, was left out for a chunk


class Corrected(NamedTuple):
    """The datasets of the correction, (2, F, M, 512, 128), but for `baseline` (F, M)."""

    adu: object
    data: object
    mask: object
    baseline: object


class ModuleReport(NamedTuple):
    """What the correction saw of one module.

    Attributes
    ----------
    zero_level : float
        Mean of the baselines [ADU].
    light : float
        By how much the baseline is too high at least, median over some frames [ADU]: how far the median of the first
        rows, or that of all others, is below zero. Light in the first rows makes it so.
    n_without : int
        Frames that have no good pixel in high gain in the first rows, and so no baseline.
    high, medium : float
        Share of all pixels in each mode.
    photon_adu : float
        Typical ADU per photon of high gain.
    """

    zero_level: float
    light: float
    n_without: int
    high: float
    medium: float
    photon_adu: float


@njit(nogil=True, cache=True)
def correct_frame(analog, digital, offset, level, good, scale, n_baseline, adu, data, mask):
    """Correct one frame of one module.

    Parameters
    ----------
    analog, digital : ndarray of uint16, (P,)
        [ADU]
    offset : ndarray of float32, (2, P)
        Of high and medium gain [ADU].
    level : ndarray of float32, (P,)
        Digital value between them [ADU]. A pixel whose digital value equals it is in neither.
    good : ndarray of bool, (P,)
    scale : ndarray of float32, (2, P) or (2, 1)
        Photons per ADU.
    n_baseline : int
        The baseline is the mean of the good high-gain pixels among so many first ones.
    adu, data : ndarray of float32, (2, P)
        Become signal [ADU], and signal in the pixels of each mode [photons], else 0.
    mask : ndarray of bool, (2, P)
        Becomes the good pixels of each mode.

    Returns
    -------
    baseline : float32
        [ADU]; 0 if there is no such pixel.
    n_baseline : int
        Pixels that it is the mean of.
    n_high, n_medium : int
        Pixels of each mode.
    """
    total = 0.0
    n_used = 0
    for i in range(n_baseline):
        if good[i] and np.float32(digital[i]) < level[i]:
            total += np.float64(np.float32(analog[i]) - offset[0, i])
            n_used += 1
    baseline = np.float32(total / n_used) if n_used else np.float32(0)
    n_high = 0
    n_medium = 0
    uniform = scale.shape[1] == 1
    high_scale, medium_scale = scale[0, 0], scale[1, 0]
    zero = np.float32(0)
    for i in range(analog.size):
        value = np.float32(analog[i])
        stage = np.float32(digital[i])
        is_high = good[i] & (stage < level[i])
        is_medium = good[i] & (stage > level[i])
        mask[0, i] = is_high
        mask[1, i] = is_medium
        n_high += is_high
        n_medium += is_medium
        high = value - offset[0, i] - baseline
        medium = value - offset[1, i]
        adu[0, i] = high
        adu[1, i] = medium
        if uniform:
            data[0, i] = high * high_scale if is_high else zero
            data[1, i] = medium * medium_scale if is_medium else zero
        else:
            data[0, i] = high * scale[0, i] if is_high else zero
            data[1, i] = medium * scale[1, i] if is_medium else zero
    return baseline, n_used, n_high, n_medium


def create_corrected(group, n_frames, n_modules):
    """Create the datasets of the correction, one frame of one module and mode per chunk.

    Noise does not compress, so values are stored as they are. Only where few pixels are in a mode, its chunk of `data`
    is compressed; with none it is not stored at all, and reads as zeros. Chunks lie one after the other in the order in
    which they are made: large file systems do not like small pieces far from each other.
    """
    shape = (MODES, n_frames, n_modules, *MODULE_SHAPE)
    # Extendible, because HDF5 refuses chunks larger than a fixed extent, which is 0 for a run without frames.
    whole = {"shape": shape, "maxshape": (MODES, None, n_modules, *MODULE_SHAPE), "chunks": (1, 1, 1, *MODULE_SHAPE)}
    adu = group.create_dataset("adu", dtype="f4", **whole)
    data = group.create_dataset("data", dtype="f4", compression="gzip", compression_opts=1, **whole)
    mask = group.create_dataset("mask", dtype=bool, compression="gzip", compression_opts=1, **whole)
    baseline = group.create_dataset("baseline", (n_frames, n_modules), "f4", chunks=None)
    for dataset, units, description in (
        (adu, "ADU", "signal above the offset of high and medium gain, high gain less the baseline; not masked"),
        (data, "photon", "adu in photons in the pixels of each mode, 0 in all others"),
        (mask, "", "True: a good pixel in high gain, in medium gain"),
        (baseline, "ADU", "mean of the good high-gain pixels in the first rows, taken off high gain"),
    ):
        dataset.attrs["description"] = description
        if units:
            dataset.attrs["units"] = units
    return Corrected(adu, data, mask, baseline)


def correct_module(corrected, column, layout, frames_path, module, frames, constants, baseline_rows, threads, advance):
    """Correct the chosen frames of one module and write them.

    Parameters
    ----------
    corrected : Corrected
    column : int
        Place of the module in the datasets.
    layout : pulsetrain.layout.RunLayout
        The run's frame table.
    frames_path : str or Path
        The file that holds it.
    module : int
    frames : ndarray of int64, (F,)
        Frames of the frame table, all of which the module has.
    constants : pulsetrain.mid_constants.MidConstants
        With all memory cells of these frames.
    baseline_rows : int
        First rows (slow scan) that give the baseline; 0 takes none off.
    threads : int
    advance : callable
        Told the number of frames done.

    Returns
    -------
    ModuleReport
    """
    file, row = (values[frames] for values in source_rows(layout, module))
    if (file < 0).any():
        raise RuntimeError(f"module {module}: {np.count_nonzero(file < 0)} of the chosen frames have no source")
    place = np.searchsorted(constants.cell_id, layout.cell_id[frames].astype(np.int64))
    n_good = np.count_nonzero(constants.good, axis=1)
    packed_good = [isal_zlib.compress(good, 1) for good in constants.good]
    n_baseline = baseline_rows * MODULE_SHAPE[1]
    sampled = np.zeros(len(frames), bool)
    sampled[np.linspace(0, len(frames) - 1, min(SAMPLES, len(frames))).astype(int)] = n_baseline > 0
    baseline = np.zeros(len(frames), np.float32)
    counts = np.zeros((len(frames), 3), np.int64)  # pixels of the baseline, of high and of medium gain
    light = np.full(len(frames), np.nan)
    free = queue.SimpleQueue()
    for _ in range(threads):
        free.put(
            (
                np.empty((MODES, PIXELS), np.float32),
                np.empty((MODES, PIXELS), np.float32),
                np.empty((MODES, PIXELS), bool),
            )
        )

    def correct(block, i, adu, data, mask):
        frame = int(block.frames[i])
        cell = place[frame]
        values = frame_values(block, i)
        scale = constants.scale[cell if len(constants.scale) > 1 else 0]
        baseline[frame], *counts[frame] = correct_frame(
            values[:PIXELS],
            values[PIXELS:],
            constants.offset[cell],
            constants.level[cell],
            constants.good[cell],
            scale,
            n_baseline,
            adu,
            data,
            mask,
        )
        if sampled[frame] and counts[frame, 0]:
            light[frame] = -min(_median(adu, mask, slice(n_baseline)), _median(adu, mask, slice(n_baseline, None)))
        for mode in range(MODES):
            chunk = (mode, frame, column, 0, 0)
            corrected.adu.id.write_direct_chunk(chunk, adu[mode])
            if not counts[frame, 1 + mode]:
                continue
            if counts[frame, 1 + mode] < FEW_PIXELS:
                corrected.data.id.write_direct_chunk(chunk, isal_zlib.compress(data[mode], 1))
            else:
                corrected.data.id.write_direct_chunk(chunk, data[mode], WITHOUT_FILTER)
            as_good = mode == HIGH and counts[frame, 1 + mode] == n_good[cell]
            packed = packed_good[cell] if as_good else isal_zlib.compress(mask[mode], 1)
            corrected.mask.id.write_direct_chunk(chunk, packed)

    def correct_share(block, share):
        scratch = free.get()
        try:
            for i in share:
                correct(block, i, *scratch)
            write_behind(corrected.adu.file)
        finally:
            free.put(scratch)

    with contextlib.ExitStack() as stack:
        storage_of = stack.enter_context(open_storages())
        pool = stack.enter_context(ThreadPoolExecutor(threads))

        def plans():
            for number in np.unique(file).tolist():
                held = np.flatnonzero(file == number)
                storage = image_storage(layout, frames_path, number, storage_of, len(held))
                yield from plan_reads(storage, held, row[held], None, BLOCK_BYTES)

        for packed in stack.enter_context(contextlib.closing(read_blocks(plans()))):
            block = unpack(packed, pool=pool, single=True)
            shares = [
                range(begin, min(begin + SHARE, len(block.frames))) for begin in range(0, len(block.frames), SHARE)
            ]
            for _ in pool.map(lambda share, held=block: correct_share(held, share), shares):
                pass
            advance(len(block.frames))
    corrected.baseline[:, column] = baseline
    return _report(baseline, counts, light, constants, n_baseline)


def _median(adu, mask, pixels):
    """Median of the good pixels in high gain among some; 0 if there are none."""
    held = adu[HIGH, pixels][mask[HIGH, pixels]]
    return np.median(held) if held.size else 0.0


def _report(baseline, counts, light, constants, n_baseline):
    used = counts[:, 0] > 0
    known = constants.scale[:, HIGH][constants.scale[:, HIGH] > 0]
    return ModuleReport(
        float(baseline[used].mean(dtype=float)) if used.any() else 0.0,
        float(np.nanmedian(light)) if np.isfinite(light).any() else 0.0,
        int(np.count_nonzero(~used)) if n_baseline else 0,
        *(counts[:, 1:].sum(axis=0) / max(len(counts) * PIXELS, 1)).tolist(),
        float(1 / np.median(known)) if known.size else float("nan"),
    )
