"""Photons of selected frames of all modules, cell by cell: what the misses and the CXI file are made of."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pulsetrain.chunks import READERS, open_storages, read_frames, stored_frames
from pulsetrain.constants import good_bytes, open_mask, read_constants, read_mask
from pulsetrain.detector import MASK_BAD, MASK_MISSING, MODULE_SHAPE, N_MODULES, PIXELS
from pulsetrain.kernels import fill_frames
from pulsetrain.layout import read_layout, source_rows
from pulsetrain.litpixels import image_storage, read_flags
from pulsetrain.photons import flags_of, raise_if_damaged, recipe_of, run_constants, run_conversion

CELLS_AT_ONCE = 8  # of which masks and constants are read together: some 35 MB each, with constants


class PhotonBlock(NamedTuple):
    """Some frames of one memory cell.

    Attributes
    ----------
    frames : ndarray of int64, (n,)
        Frame numbers in the run's frame table, ascending.
    cell_id : int
        Memory cell of all of them.
    photons : ndarray of uint16, (n, 16, 512, 128)
        (frame, module, slow_scan, fast_scan) [photons]. 0 where the mask is bad and in missing modules.
        The array is used again for the next block: be done with it, or copy it, before asking for more.
    mask : ndarray of uint32, (16, 512, 128)
        CXI bits of this cell (static and outliers together), 0 = good. Modules that were not asked for have
        MASK_MISSING. That a module is missing in single frames only is not in it; see `present`. Not to be changed.
    present : ndarray of bool, (n, 16)
        Which modules each frame has.
    flagged : ndarray of bool, (n, 16, 512, 128), or None
        Only with `per_frame_mask`: pixels that the facility's mask drops in that frame alone.
    """

    frames: np.ndarray
    cell_id: int
    photons: np.ndarray
    mask: np.ndarray
    present: np.ndarray
    flagged: np.ndarray | None


def photon_blocks(
    vds_path,
    frames,
    modules,
    masks,
    outliers,
    constants=None,
    *,
    photon_threshold=0.5,
    common_mode=False,
    baseline_shift=False,
    per_frame_mask=False,
    threads=1,
    block=16,
):
    """Read frames of the run as photons, sorted by memory cell.

    Every block belongs to one cell, so that masks and constants of a few cells are in memory, at any number of frames.
    The blocks come in ascending cell, frames ascending within the cell: not in the order of the run. Write
    results to the place that the frame's number tells.

    Parameters
    ----------
    vds_path : str or Path
        The run's VDS, for its layout and attributes; pixels are read from the source files it names.
    frames : array of int, (n,)
        Frame numbers in the layout, in any order, without repetition.
    modules : list of int
        Modules to read.
    masks, outliers : list of str or Path
        Mask files of `modules`, in their order (``masks/r...._m...h5``, ``masks/r...._outliers_m...h5``).
    constants : list of str or Path, optional
        Calibration constants of `modules`, in their order; needed for raw data.
    photon_threshold : float
        See :mod:`pulsetrain.kernels`.
    common_mode : bool
        Subtract the common mode of each ASIC (raw only).
    baseline_shift : bool
        Subtract the level of each module's dark pixels, before that (raw only).
    per_frame_mask : bool
        Also drop, frame by frame, the pixels that the facility's ``image/mask`` flags.
    threads : int
    block : int
        Most frames per block.

    Yields
    ------
    PhotonBlock

    Raises
    ------
    OSError, ValueError
        A source file is missing, changed or damaged; the message names file, dataset and frame.
    """
    layout = read_layout(vds_path, "/pulsetrain")
    frames = np.asarray(frames, np.int64)
    conversion = run_conversion(layout.attributes, photon_threshold, common_mode, baseline_shift, vds_path)
    frames = frames[np.lexsort((frames, layout.cell_id[frames]))]
    batches = _batches(layout.cell_id[frames], block)
    where = {module: [values[frames] for values in source_rows(layout, module)] for module in modules}
    wanted = np.bincount(np.concatenate([file[file >= 0] for file, _ in where.values()]), minlength=1)
    photons = np.zeros((block, N_MODULES, PIXELS), np.uint16)
    flagged = np.zeros((block if per_frame_mask else 0, N_MODULES, PIXELS), bool)
    with contextlib.ExitStack() as stack:
        storage_of = stack.enter_context(open_storages())
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        readers = stack.enter_context(ThreadPoolExecutor(READERS))
        coordinator = stack.enter_context(ThreadPoolExecutor(1))
        cells = np.unique(layout.cell_id[frames])
        opened = {}
        for k, module in enumerate(modules):
            opened[module] = (
                [open_mask(path, cells, storage_of) for path in (masks[k], outliers[k])],
                run_constants(
                    layout.attributes, vds_path, constants[k] if constants else None, module, cells, storage_of
                ),
            )

        storages = {}

        def read_pixels(module, batch):
            file, row = (values[batch] for values in where[module])
            found = []
            for number in np.unique(file[file >= 0]).tolist():
                held = np.flatnonzero(file == number)
                few = int(wanted[number])
                if number not in storages:
                    storages[number] = image_storage(layout, vds_path, number, storage_of, few)
                storage = storages[number]
                data = read_frames(storage, held, row[held])
                flags = None
                if per_frame_mask:
                    flags = read_flags(layout, vds_path, number, data.rows, storage_of, n_wanted=few)
                found.append((data, flags))
            return found

        def read_batch(batch, state):
            cell = layout.cell_id[frames[batch.start]]
            if state is None or cell not in state.cell_id:
                first = int(np.searchsorted(cells, cell))
                state = _read_cells(cells[first : first + CELLS_AT_ONCE], opened, conversion, readers)
            return state, dict(zip(modules, readers.map(lambda m: read_pixels(m, batch), modules), strict=True))

        def fill(module, state, cell, found):
            good, converted = state.modules[module]
            for data, flags in found:
                result = fill_frames(
                    stored_frames(data),
                    data.frames,
                    module,
                    cell,
                    good[cell],
                    flags_of(flags),
                    recipe_of(data, converted),
                    photons,
                    flagged,
                )
                raise_if_damaged(data, result)

        pending = coordinator.submit(read_batch, batches[0], None) if batches else None
        for k, batch in enumerate(batches):
            state, found = pending.result()
            if k + 1 < len(batches):
                pending = coordinator.submit(read_batch, batches[k + 1], state)
            n = batch.stop - batch.start
            present = np.zeros((n, N_MODULES), bool)
            for module in modules:
                present[:, module] = where[module][0][batch] >= 0
            photons[:n][~present] = 0
            if per_frame_mask:
                flagged[:n][~present] = False
            cell = int(np.searchsorted(state.cell_id, layout.cell_id[frames[batch.start]]))
            for _ in pool.map(lambda m, s=state, c=cell, f=found: fill(m, s, c, f[m]), modules):
                pass
            yield PhotonBlock(
                frames[batch],
                int(state.cell_id[cell]),
                photons[:n].reshape(n, N_MODULES, *MODULE_SHAPE),
                state.mask[cell],
                present,
                flagged[:n].reshape(n, N_MODULES, *MODULE_SHAPE) if per_frame_mask else None,
            )


class _Cells(NamedTuple):
    """Masks and constants of some memory cells of all modules; `modules` maps to (mask bytes, conversion)."""

    cell_id: np.ndarray
    mask: np.ndarray
    modules: dict


def _read_cells(cells, opened, conversion, pool):
    mask = np.full((len(cells), N_MODULES, *MODULE_SHAPE), MASK_MISSING, np.uint32)

    def read(module):
        mask_files, constants_file = opened[module]
        static, powder = (read_mask(file, cells) for file in mask_files)
        static |= powder
        converted = conversion
        if constants_file is not None:
            converted = conversion._replace(calibration=read_constants(constants_file, cells))
            static.reshape(len(cells), PIXELS)[~converted.calibration.finite] |= MASK_BAD
        mask[:, module] = static
        return good_bytes(static), converted

    return _Cells(cells, mask, dict(zip(opened, pool.map(read, opened), strict=True)))


def _batches(cell, most):
    """Slices of at most `most` neighbours of the same cell."""
    edges = np.flatnonzero(np.diff(cell)) + 1
    bounds = [0, *edges.tolist(), len(cell)]
    return [
        slice(first, min(first + most, last))
        for begin, last in zip(bounds[:-1], bounds[1:], strict=True)
        for first in range(begin, last, most)
    ]
