"""Summed photons of a run: of all frames, of the hits and of the misses, with the frames that each sum is made of."""

import logging

import h5py
import numpy as np

from pulsetrain import detector
from pulsetrain.cxi import DETECTOR, count_good_hits
from pulsetrain.output import new_h5, write_array
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

CHUNK = (1, *detector.MODULE_SHAPE)
FILTERS = {"compression": "gzip", "compression_opts": 1, "shuffle": True}


def sum_powder(litpixels, masks, cxi, misses, modules, output, attributes):
    """Write the powder of a run.

    Parameters
    ----------
    litpixels, masks : list of path
        ``count_litpixels`` and ``make_run_mask`` of each module, in the order of `modules`.
    cxi : path
        The hits (``write_cxi``).
    misses : path
        ``sum_misses``.
    modules : list of int
    output : path
        The datasets are listed in ``scripts/sum_powder.py``.
    attributes : dict
        Provenance.
    """
    for name, paths in (("litpixels", litpixels), ("masks", masks)):
        if len(paths) != len(modules):
            raise ValueError(f"{len(paths)} files of {name} for {len(modules)} modules; run snakemake again")
    shape = (detector.N_MODULES, *detector.MODULE_SHAPE)
    powder, counts = np.zeros(shape, dtype=np.uint64), np.zeros(shape, dtype=np.uint32)
    powder_type = np.result_type(np.uint32, *map(_type_of_powder, litpixels))
    cells, advance = None, progress(len(modules), "modules", every_s=10)
    with new_h5(output, attributes) as file:
        for path, mask_path, module in zip(litpixels, masks, modules, strict=True):
            with h5py.File(path) as counted, h5py.File(mask_path) as static:
                if cells is None:
                    cells = counted["cellId"][()]
                    per_cell, frames_per_cell = _create_per_cell(file, cells, powder_type)
                for other, held in ((path, counted), (mask_path, static)):
                    if not np.array_equal(held["cellId"][()], cells):
                        raise ValueError(
                            f"{other} has other memory cells ({len(held['cellId'])}) than {litpixels[0]} "
                            f"({len(cells)}); delete it and run snakemake again"
                        )
                frames_per_cell[module] = counted["frames_per_cell"][()]
                copy_cells(counted["powder_per_cell"], per_cell, module)
                powder[module], counts[module] = sum_module(counted, static)
            advance(1)
        if cells is None:
            raise ValueError("no module to sum: detector.modules is empty")
        with h5py.File(cxi) as hits:
            total, good = hits[f"{DETECTOR}/powder"][()], count_good_hits(hits, threads=1)
        with h5py.File(misses) as held:
            miss_total, miss_counts = held["sum"][()], held["counts"][()]
        for name, values, units, description in (
            ("powder", powder, "photons", "sum of all frames"),
            ("counts", counts, "frames", "in which the pixel was good"),
            ("hits", total.astype("u8"), "photons", "sum of the hits"),
            ("hit_counts", good, "frames", "hits in which the pixel was good"),
            ("misses", miss_total.astype("u8"), "photons", "sum of the misses"),
            ("miss_counts", miss_counts.astype("u4"), "frames", "misses in which the pixel was good"),
        ):
            write_array(file, name, values, units, description)
    log.info("%d photons in all frames, %d in hits, %d in misses", powder.sum(), total.sum(), miss_total.sum())


def _type_of_powder(path):
    with h5py.File(path) as counted:
        return counted["powder_per_cell"].dtype


def _create_per_cell(file, cells, powder_type):
    file.create_dataset("cellId", data=cells)
    shape = (detector.N_MODULES, len(cells), *detector.MODULE_SHAPE)
    packed = {"chunks": (1, *CHUNK), **FILTERS} if len(cells) else {}
    per_cell = file.create_dataset("powder_per_cell", shape, powder_type, **packed)
    per_cell.attrs.update({"units": "photons", "axes": "module:cell:slow_scan:fast_scan"})
    frames_per_cell = file.create_dataset("frames_per_cell", shape[:2], "u4")
    return per_cell, frames_per_cell


def copy_cells(source, target, module):
    """Copy the powder of one module, as compressed chunks where both files store it alike.

    Parameters
    ----------
    source : h5py.Dataset, (C, 512, 128)
    target : h5py.Dataset, (16, C, 512, 128)
    module : int
    """
    stored = (source.chunks, source.dtype, source.compression, source.shuffle, source.fletcher32)
    alike = stored == (CHUNK, target.dtype, target.compression, target.shuffle, target.fletcher32)
    for cell in range(len(source)):
        if not alike:
            target[module, cell] = source[cell]
            continue
        # A chunk that was never written is all zero, and stays unwritten here.
        if source.id.get_chunk_info_by_coord((cell, 0, 0)).byte_offset is not None:
            filter_mask, packed = source.id.read_direct_chunk((cell, 0, 0))
            target.id.write_direct_chunk((module, cell, 0, 0), packed, filter_mask)


def sum_module(counted, static):
    """Photons, and frames in which each pixel was good, of one module over its memory cells.

    Parameters
    ----------
    counted : h5py.File
        ``powder_per_cell``, ``frames_per_cell`` and, with masks per frame, ``counts_per_cell``.
    static : h5py.File
        ``mask`` of the same memory cells.

    Returns
    -------
    photons : ndarray of uint64, (512, 128)
    frames : ndarray of uint32, (512, 128)
    """
    photons, frames = np.zeros(detector.MODULE_SHAPE, np.uint64), np.zeros(detector.MODULE_SHAPE, np.uint32)
    frames_per_cell = counted["frames_per_cell"][()]
    for cell in np.flatnonzero(frames_per_cell):
        photons += counted["powder_per_cell"][cell]
        if "counts_per_cell" in counted:
            frames += counted["counts_per_cell"][cell]
        else:
            frames[static["mask"][cell] == 0] += frames_per_cell[cell]
    return photons, frames
