"""The pass over all pixels of one module: lit pixels and photons per frame, powder per memory cell."""

import contextlib
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from pulsetrain.chunks import (
    BLOCK_BYTES,
    BLOCK_FRAMES,
    check_source,
    open_storages,
    plan_reads,
    read_blocks,
    read_frames,
    stored_frames,
    unpack,
)
from pulsetrain.constants import good_bytes, open_mask, read_constants, read_good_pixels, read_mask
from pulsetrain.detector import MODULE_SHAPE, PIXELS
from pulsetrain.kernels import FULL, LIT, PHOTONS, REGION, count_share
from pulsetrain.layout import read_layout, source_path, source_rows
from pulsetrain.output import new_h5, write_array
from pulsetrain.photons import check_image, flags_of, raise_if_damaged, recipe_of, run_constants, run_conversion
from pulsetrain.progress import progress
from pulsetrain.raw_kernels import MOST_PHOTONS

FLAGGED_FRAMES = 128  # frames per block with their uint32 masks: 32 MB of masks
SHARES = 16  # parts per thread that a block is divided into: small enough that no thread waits long for another
LARGEST_SUM = 2**32 - 1  # in a powder of uint32


class Counts(NamedTuple):
    """What is counted in one module.

    Attributes
    ----------
    present : ndarray of bool, (frames,)
    counts : ndarray of uint32, (frames, 4)
        Lit pixels, photons, photons in the region, saturated pixels; 0 where not present.
    powder : ndarray of uint32 or uint64, (cells, 65536)
        Sum of the photons of good pixels.
    frames_per_cell : ndarray of uint32, (cells,)
    good_frames : ndarray of uint32, (cells, 65536), or None
        Frames in which each pixel was good; only with masks per frame (else it is `frames_per_cell` or 0).
    """

    present: np.ndarray
    counts: np.ndarray
    powder: np.ndarray
    frames_per_cell: np.ndarray
    good_frames: np.ndarray | None


def count_module(
    vds_path,
    mask_path,
    output,
    attributes,
    *,
    module,
    constants=None,
    region=None,
    hit_modules=None,
    photon_threshold=0.5,
    common_mode=False,
    baseline_shift=False,
    per_frame_mask=False,
    threads=1,
):
    """Count one module and write ``litpixels/r...._m...h5`` (docs/file-formats.md).

    Parameters
    ----------
    vds_path : str or Path
        The run's VDS: frame table, segments, units, photon energy.
    mask_path : str or Path
        Static mask of the module.
    output : str or Path
    attributes : dict
        Provenance.
    module : int
    constants : str or Path, optional
        Calibration constants of the module; needed for raw data.
    region : str or Path, optional
        Pixels that count for the hit score, see :func:`pulsetrain.constants.read_good_pixels`; None for all.
    hit_modules : list of int, optional
        Modules that count for the hit score; None for all.
    photon_threshold : float
        See :mod:`pulsetrain.kernels`.
    common_mode : bool
        Subtract the common mode of each ASIC (raw only).
    baseline_shift : bool
        Subtract the level of each module's dark pixels, before that (raw only).
    per_frame_mask : bool
        Also drop, frame by frame, the pixels that the facility's ``image/mask`` flags.
    threads : int
    """
    layout = read_layout(vds_path, "/pulsetrain")
    cells = np.unique(layout.cell_id)
    conversion = run_conversion(layout.attributes, photon_threshold, common_mode, baseline_shift, vds_path)
    with open_storages() as storage_of, ThreadPoolExecutor(threads) as pool:
        good = good_bytes(read_mask(open_mask(mask_path, cells, storage_of), cells, pool))
        opened = run_constants(layout.attributes, vds_path, constants, module, cells, storage_of)
        if opened is not None:
            conversion = conversion._replace(calibration=read_constants(opened, cells, pool))
            good[~conversion.calibration.finite] = 0
    in_region = np.zeros(PIXELS, np.uint8)
    if hit_modules is None or module in hit_modules:
        chosen = True if region is None else read_good_pixels(region, "hits.region")[module].reshape(-1)
        in_region[chosen] = 255
    counted = count_frames(
        layout,
        vds_path,
        module,
        cells,
        good,
        in_region,
        conversion,
        per_frame_mask=per_frame_mask,
        threads=threads,
    )
    write_counts(output, attributes, counted, cells)


def count_frames(
    layout,
    layout_path,
    module,
    cells,
    good,
    region,
    conversion,
    *,
    per_frame_mask=False,
    threads=1,
    block_bytes=BLOCK_BYTES,
    block_frames=BLOCK_FRAMES,
):
    """Count all frames of one module.

    Blocks of frames are read in the order of the files. Within a block the frames are taken cell by cell, so that a
    cell's mask, constants and powder stay in the cache, and a cell is the work of one thread, so that threads share
    the powder without touching the same part.

    Parameters
    ----------
    layout : RunLayout
    layout_path : str or Path
        File that holds it: source files are named relative to it.
    module : int
    cells : ndarray, (C,)
        Memory cells of the run, ascending.
    good : ndarray of uint8, (C, 65536)
        255 = good.
    region : ndarray of uint8, (65536,)
        255 = counts for the hit score.
    conversion : pulsetrain.photons.Conversion
    per_frame_mask : bool
    threads : int
    block_bytes, block_frames : int
        Most bytes and frames to hold at once; the result does not depend on them.

    Returns
    -------
    Counts
    """
    file, row = source_rows(layout, module)
    present = file >= 0
    cell = np.searchsorted(cells, layout.cell_id)
    frames_per_cell = np.bincount(cell[present], minlength=len(cells)).astype(np.uint32)
    powder_type = type_of_sums(frames_per_cell, layout.attributes["data_dtype"])
    counted = Counts(
        present,
        np.zeros((len(file), 4), np.uint32),
        np.zeros((len(cells), PIXELS), powder_type),
        frames_per_cell,
        np.zeros((len(cells), PIXELS), np.uint32) if per_frame_mask else None,
    )
    good_frames = np.empty((0, PIXELS), np.uint32) if counted.good_frames is None else counted.good_frames
    advance = progress(int(present.sum()))
    with contextlib.ExitStack() as stack:
        storage_of = stack.enter_context(open_storages())
        pool = stack.enter_context(ThreadPoolExecutor(threads))

        def plans():
            for number in np.unique(file[present]).tolist():
                frames = np.flatnonzero(file == number)
                data = image_storage(layout, layout_path, number, storage_of)
                most = min(block_frames, FLAGGED_FRAMES) if per_frame_mask else block_frames
                yield from plan_reads(data, frames, row[frames], cell[frames], block_bytes, most)

        unpacked = None
        blocks = stack.enter_context(contextlib.closing(read_blocks(plans())))
        for packed in blocks:
            block = unpack(packed, unpacked, pool)
            if block is not packed:
                unpacked = block.buffer
            flags = None
            if per_frame_mask:
                number = int(file[block.frames[0]])
                flags = read_flags(layout, layout_path, number, block.rows, storage_of, pool)
            shares = divide_by_cell(cell[block.frames], SHARES * threads)

            stored, recipe, kernel_flags = stored_frames(block), recipe_of(block, conversion), flags_of(flags)

            def count(share, block=block, stored=stored, recipe=recipe, flags=kernel_flags):
                result = count_share(
                    stored,
                    share,
                    block.frames,
                    cell,
                    good,
                    region,
                    flags,
                    recipe,
                    counted.counts,
                    counted.powder,
                    good_frames,
                )
                raise_if_damaged(block, result)

            for _ in pool.map(count, shares):
                pass
            advance(len(block.frames))
    return counted


def type_of_sums(frames_per_cell, data_dtype):
    """Type that holds the photons of a pixel in all frames of a cell: uint32, which takes half the memory, or uint64.

    Parameters
    ----------
    frames_per_cell : ndarray of uint32, (C,)
    data_dtype : str
        Type of the stored values; a pixel has at most 255 photons in uint8, else 65535.
    """
    most = (255 if data_dtype == "uint8" else MOST_PHOTONS) * int(frames_per_cell.max(initial=0))
    return np.uint32 if most <= LARGEST_SUM else np.uint64


def divide_by_cell(cell, n_shares):
    """Sort frames by cell and divide them into parts of about the same size, never within a cell.

    Parameters
    ----------
    cell : ndarray of int, (n,)
    n_shares : int

    Returns
    -------
    list of ndarray of int
        Positions in `cell`; those of a cell are ascending and in one part.
    """
    order = np.argsort(cell, kind="stable")
    begins = np.flatnonzero(np.diff(cell[order], prepend=-1))
    wanted = np.arange(1, n_shares) * len(cell) / n_shares
    cuts = np.unique(begins[np.minimum(np.searchsorted(begins, wanted), len(begins) - 1)]) if len(begins) else begins
    bounds = [0, *cuts.tolist(), len(order)]
    return [order[a:b] for a, b in zip(bounds[:-1], bounds[1:], strict=True) if b > a]


def image_storage(layout, layout_path, number, storage_of, n_wanted=None):
    """Storage of the image data of source file `number` of the layout, checked against the frame table.

    `n_wanted`: how many of its frames will be asked for; see :func:`pulsetrain.chunks.find_storage`.
    """
    path = source_path(layout_path, layout.files["name"][number])
    check_source(path, int(layout.files["size"][number]))
    storage = storage_of(path, f"INSTRUMENT/{layout.files['source'][number]}/image/data", n_wanted=n_wanted)
    check_image(storage, layout.attributes)
    return storage


def read_flags(layout, layout_path, number, rows, storage_of, pool=None, n_wanted=None):
    """Read the facility's masks of some frames of source file `number`; `n_wanted` as for :func:`image_storage`.

    Returns
    -------
    Block, ndarray of int (n,)
        Blocks of frames of uint32, and the place of each row's mask in it.
    """
    path = source_path(layout_path, layout.files["name"][number])
    try:
        storage = storage_of(path, f"INSTRUMENT/{layout.files['source'][number]}/image/mask", n_wanted=n_wanted)
    except KeyError as error:
        raise ValueError(
            f"{path}: there is no image/mask, which masks.per_frame needs (raw data never have it). Set "
            "masks.per_frame: false."
        ) from error
    if storage.shape != MODULE_SHAPE or storage.dtype.kind != "u":
        raise ValueError(
            f"{path}: {storage.dataset} holds {storage.dtype} of {storage.shape}; expected uint32 of {MODULE_SHAPE}. "
            "Set masks.per_frame: false."
        )
    block = read_frames(storage, np.arange(len(rows)), rows, pool, single=True)
    place = np.empty(len(rows), np.int64)
    place[block.frames] = np.arange(len(rows))
    return block, place


def write_counts(output, attributes, counted, cells):
    """Write the result of :func:`count_frames`."""
    with new_h5(output, attributes) as file:
        counts = counted.counts
        write_array(file, "litpixels", counts[:, LIT], description="good pixels with at least one photon; 0 if absent")
        write_array(file, "photons", counts[:, PHOTONS].astype(np.uint64), "photons", "sum over good pixels")
        write_array(
            file,
            "hit_photons",
            counts[:, REGION].astype(np.uint64),
            "photons",
            "sum over good pixels in the region for hits; 0 if the module does not count for hits",
        )
        write_array(
            file,
            "saturated",
            counts[:, FULL],
            description="good pixels at the largest value of the ADC (raw) or of the data type or 65535 photons",
        )
        write_array(file, "present", counted.present)
        write_array(file, "cellId", cells.astype(np.uint16))
        write_array(file, "frames_per_cell", counted.frames_per_cell)
        shape = (len(cells), *MODULE_SHAPE)
        write_array(file, "powder_per_cell", counted.powder.reshape(shape), "photons", "sum over frames, good pixels")
        if counted.good_frames is not None:
            write_array(
                file,
                "counts_per_cell",
                counted.good_frames.reshape(shape),
                description="frames in which the pixel was good",
            )
