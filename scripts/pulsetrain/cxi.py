"""Files of hits in the CXI format (https://www.cxidb.org/cxi.html, version 1.6): writing and fast reading.

Pixel data are chunks of one frame, packed with shuffle and gzip, which every HDF5 reader unpacks. Packing and
unpacking are done here in threads, around HDF5's own serial filters: ISA-L deflates, libdeflate inflates.
"""

import itertools
import queue
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import deflate
import h5py
import numpy as np
from isal import isal_zlib
from numba import njit

from pulsetrain.detector import (
    ELEMENTARY_CHARGE,
    HC_EV_M,
    MASK_BAD,
    MASK_BIT_NAMES,
    MASK_MISSING,
    MODULE_SHAPE,
    N_MODULES,
    PIXEL_SIZE_M,
)
from pulsetrain.layout import is_present
from pulsetrain.output import write_array

ENTRY = "/entry_1"
DETECTOR = "/entry_1/instrument_1/detector_1"
SOURCE = "/entry_1/instrument_1/source_1"
CXI_VERSION = 160  # version 1.6 of the specification, times 100
FRAME_SHAPE = (N_MODULES, *MODULE_SHAPE)
EVENT_AXIS = "experiment_identifier"
FRAME_AXES = "experiment_identifier:module_identifier:y:x"


class Hits(NamedTuple):
    """What is known of each hit besides its pixels, in the order (train, pulse); all arrays (H,).

    Attributes
    ----------
    vds_index : ndarray of uint64
        Frame number in the VDS, ascending.
    train_id, pulse_id : ndarray of uint64
    cell_id : ndarray of uint16
    modules : ndarray of uint32
        Bit m is set when module m has the frame.
    pulse_energy : ndarray of float64
        [J], NaN where unknown.
    wavelength : ndarray of float64
        [m], NaN where unknown.
    """

    vds_index: np.ndarray
    train_id: np.ndarray
    pulse_id: np.ndarray
    cell_id: np.ndarray
    modules: np.ndarray
    pulse_energy: np.ndarray
    wavelength: np.ndarray


def write_hits(file, hits, blocks, dtype="uint8", per_frame_mask=False, threads=2, advance=None):
    """Write what follows from the hits' pixels: photons, masks, sums.

    Creates in ``/entry_1/instrument_1/detector_1``: data, mask_table, mask_row, mask, good_pixels, powder,
    lit_pixels, photon_counts, clipped_pixels (shapes and units: docs/file-formats.md).

    Parameters
    ----------
    file : h5py.File
        Open for writing.
    hits : Hits
    blocks : iterable of pulsetrain.photon_frames.PhotonBlock
        They come in any order and hold each hit exactly once. Memory use is that of some blocks. Photons are
        stored as 0 where the mask is not 0.
    dtype : {"uint8", "uint16"}
        Photons per pixel; larger numbers are stored as the largest one and counted in clipped_pixels. The sums,
        powder and photon_counts, are those of the photons before that.
    per_frame_mask : bool
        Whether each hit has a mask of its own; otherwise the hits of one memory cell with the same modules
        present share one row of mask_table.
    threads : int
    advance : callable, optional
        Called with the number of frames done (:func:`pulsetrain.progress.progress`).

    Raises
    ------
    ValueError
        If a block brings a frame that is no hit, or a hit twice, or a hit is missing in the end.
    """
    n_hits = len(hits.vds_index)
    detector = file.require_group(DETECTOR)
    data = _create_frames(detector, "data", n_hits, np.dtype(dtype))
    keys, mask_row = _mask_rows(hits, per_frame_mask)
    table = _create_frames(detector, "mask_table", len(keys), np.dtype("u4"))
    row_written = np.zeros(len(keys), dtype=bool)
    done = np.zeros(n_hits, dtype=bool)
    counts = np.zeros((3, n_hits), dtype=np.int64)  # lit pixels, photons, clipped pixels
    scratches = [_new_scratch(data.dtype) for _ in range(threads)]
    free = queue.SimpleQueue()
    for scratch in scratches:
        free.put(scratch)
    with ThreadPoolExecutor(threads) as pool:
        for block in blocks:
            rows = _rows_of(hits, block.frames, done)
            masks = {}
            for i, hit in enumerate(rows):
                if mask_row[hit] not in masks:
                    masks[mask_row[hit]] = _mask_of_hit(block, i, hits.modules[hit]), hits.modules[hit]
            fresh = [row for row in masks if not row_written[row]]
            packed_masks = pool.map(lambda row, m=masks: _pack_mask(free, *m[row]), fresh)
            packed_frames = pool.map(
                lambda i, hit, b=block, m=masks: _pack_frame(free, b.photons[i], m[mask_row[hit]][0]),
                range(len(rows)),
                rows,
            )
            for row, packed in zip(fresh, packed_masks, strict=True):
                table.id.write_direct_chunk((row, 0, 0, 0), packed)
                row_written[row] = True
            for hit, (packed, counted) in zip(rows, packed_frames, strict=True):
                data.id.write_direct_chunk((hit, 0, 0, 0), packed)
                counts[:, hit] = counted
            if advance is not None:
                advance(len(rows))
    powder = sum(scratch.powder for scratch in scratches)
    good = np.logical_and.reduce([scratch.good for scratch in scratches])
    seen = is_present(np.bitwise_or.reduce(hits.modules, initial=0), np.arange(N_MODULES))
    if not done.all():
        raise ValueError(
            f"{n_hits - done.sum()} of {n_hits} hits have no pixels, the first is frame "
            f"{hits.vds_index[np.flatnonzero(~done)[0]]} of the VDS; nothing was written"
        )
    data.attrs.update({"axes": FRAME_AXES, "units": "photon"})
    table.attrs["description"] = "the masks in use; row mask_row[i] is the mask of hit i"
    _describe_mask_bits(table)
    _write_per_event(detector, "mask_row", mask_row.astype("u4"))
    _write_virtual_mask(detector, table, mask_row)
    write_array(detector, "good_pixels", good & seen[:, None, None], description="good in the mask of every hit")
    write_array(detector, "powder", powder, "photon", "sum of the hits, before large numbers were clipped")
    for name, values, unit in (("lit_pixels", counts[0], "pixel"), ("photon_counts", counts[1], "photon")):
        _write_per_event(detector, name, values.astype("f4"), unit)
    clipped = _write_per_event(detector, "clipped_pixels", counts[2].astype("u4"), "pixel")
    clipped.attrs["description"] = f"pixels with more than {np.iinfo(data.dtype).max} photons, stored as that number"


def write_events(file, hits):
    """Write identity, pulse energy and wavelength of each hit into ``/entry_1`` and ``source_1``.

    Unknown energies and wavelengths are NaN; the attribute ``status`` of such a dataset says how many.
    """
    entry = file.require_group(ENTRY)
    source = file.require_group(SOURCE)
    detector = file.require_group(DETECTOR)
    names = [f"{train}:{pulse}" for train, pulse in zip(hits.train_id, hits.pulse_id, strict=True)]
    entry.create_dataset("experiment_identifier", data=np.array(names, dtype=object), dtype=h5py.string_dtype())
    for group in (detector, source):
        group["experiment_identifier"] = h5py.SoftLink(f"{ENTRY}/experiment_identifier")
    _write_per_event(entry, "trainId", hits.train_id.astype("u8"))
    _write_per_event(entry, "pulseId", hits.pulse_id.astype("u8"))
    _write_per_event(entry, "cellId", hits.cell_id.astype("u2"))
    index = _write_per_event(entry, "vds_index", hits.vds_index.astype("u8"))
    index.attrs["description"] = "frame number in the VDS of the run"
    modules = _write_per_event(detector, "module_present", hits.modules.astype("u4"))
    modules.attrs["description"] = "bit m is set when module m has the frame"
    energy_ev = HC_EV_M / np.asarray(hits.wavelength, dtype=float)
    for name, values, unit in (
        ("pulse_energy", hits.pulse_energy.astype("f4"), "J"),
        ("photon_wavelength", hits.wavelength.astype("f4"), "m"),
        ("photon_energy", (energy_ev * ELEMENTARY_CHARGE).astype("f4"), "J"),
        ("photon_energy_eV", energy_ev, "eV"),
    ):
        unknown = int(np.isnan(values).sum())
        dataset = _write_per_event(source, name, values, unit)
        dataset.attrs["status"] = f"unknown for {unknown} of {len(values)} hits" if unknown else "complete"
    source["energy"] = h5py.SoftLink(f"{SOURCE}/photon_energy")


def write_experiment(file, xyz, distance_m, background, n_misses, detector_name, sample, run):
    """Write what all hits have in common: geometry, background, names.

    Parameters
    ----------
    file : h5py.File
    xyz : ndarray of float32, (3, 16, 512, 128)
        Pixel positions [m] (:func:`pulsetrain.geometry.xyz_map`).
    distance_m : float
    background : ndarray, (16, 512, 128)
        Mean of the misses [photon per shot]; NaN where no miss has a good pixel, stored as 0.
    n_misses : int
    detector_name : str
        Such as ``SPB_DET_AGIPD1M-1``; the instrument is what stands before the first underscore.
    sample : str
    run : int
    """
    file.create_dataset("cxi_version", data=CXI_VERSION)
    entry = file.require_group(ENTRY)
    instrument = entry.require_group("instrument_1")
    instrument.require_group("data_1")
    detector = file.require_group(DETECTOR)
    entry["name"] = f"r{run:04d}"
    entry.require_group("sample_1")["name"] = sample
    instrument["name"] = detector_name.split("_")[0]
    detector.attrs["name"] = detector_name
    detector["module_identifier"] = [f"AGIPD{module:02d}" for module in range(N_MODULES)]
    entry.require_group("data_1")["data"] = h5py.SoftLink(f"{DETECTOR}/data")
    for name, value, unit in (
        ("distance", distance_m, "m"),
        ("x_pixel_size", PIXEL_SIZE_M, "m"),
        ("y_pixel_size", PIXEL_SIZE_M, "m"),
        ("pixel_area", PIXEL_SIZE_M**2, "m^2"),
    ):
        detector.create_dataset(name, data=float(value)).attrs["units"] = unit
    positions = write_array(detector, "xyz_map", np.asarray(xyz, "f4"), "m")
    positions.attrs["axes"] = "coordinate:module_identifier:y:x"
    mean = write_array(detector, "background", np.nan_to_num(background, nan=0.0).astype("f4"), "photon")
    mean.attrs.update(
        {
            "description": "mean of the misses per shot; 0 where no miss has a good pixel",
            "n_misses": int(n_misses),
            "status": "complete" if n_misses else "empty: the run has no misses",
        }
    )


def map_frames(dataset, work, threads=2, frames=None):
    """Read frames of `data` or `mask_table` in threads and give `work(frame)` of each, in order.

    Parameters
    ----------
    dataset : h5py.Dataset, (n, 16, 512, 128)
        Written by :func:`write_hits`.
    work : callable
        Called in a thread with one frame, a read-only (16, 512, 128) array.
    threads : int
    frames : iterable of int, optional
        All by default.

    Yields
    ------
    object
        What `work` returns; at most a few frames are held at a time.
    """
    _require_packed(dataset)
    shape, dtype = dataset.shape[1:], dataset.dtype
    pending = deque()
    with ThreadPoolExecutor(threads) as pool:
        for frame in range(len(dataset)) if frames is None else frames:
            _, packed = dataset.id.read_direct_chunk((int(frame), 0, 0, 0))
            pending.append(pool.submit(_unpack_and, work, packed, shape, dtype))
            if len(pending) > 2 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def count_good_hits(file, threads=2):
    """In how many hits each pixel is good.

    Parameters
    ----------
    file : h5py.File
        A CXI file of hits.
    threads : int

    Returns
    -------
    ndarray of uint32, (16, 512, 128)
    """
    table = file[f"{DETECTOR}/mask_table"]
    hits_of_row = np.bincount(file[f"{DETECTOR}/mask_row"][()], minlength=len(table)).astype(np.uint32)
    good_hits = np.zeros(FRAME_SHAPE, dtype=np.uint32)
    for n_hits, good in zip(hits_of_row, map_frames(table, lambda mask: mask == 0, threads), strict=True):
        good_hits[good] += n_hits
    return good_hits


def _create_frames(group, name, n_frames, dtype):
    # Extendible, because HDF5 refuses chunks larger than a fixed extent, which is 0 for a run without hits.
    return group.create_dataset(
        name,
        shape=(n_frames, *FRAME_SHAPE),
        maxshape=(None, *FRAME_SHAPE),
        dtype=dtype,
        chunks=(1, *FRAME_SHAPE),
        compression="gzip",
        compression_opts=1,
        shuffle=True,
    )


def _mask_rows(hits, per_frame_mask):
    if per_frame_mask:
        rows = np.arange(len(hits.vds_index))
        return rows, rows
    keys = (hits.cell_id.astype(np.uint64) << np.uint64(32)) | hits.modules.astype(np.uint64)
    return np.unique(keys, return_inverse=True)


def _rows_of(hits, frames, done):
    frames = np.asarray(frames, dtype=np.uint64)
    rows = np.searchsorted(hits.vds_index, frames)
    known = rows < len(hits.vds_index)
    known[known] = hits.vds_index[rows[known]] == frames[known]
    if not known.all():
        raise ValueError(f"frame {frames[~known][0]} of the VDS is not among the {len(done)} hits")
    if done[rows].any() or len(np.unique(rows)) < len(rows):
        twice = rows[done[rows]]
        raise ValueError(f"pixels of a hit came twice (frame {hits.vds_index[twice[0] if len(twice) else rows[0]]})")
    done[rows] = True
    return rows


class _Scratch(NamedTuple):
    """What one thread works on; sums of the threads are joined in the end."""

    stored: np.ndarray
    planes: np.ndarray
    lit_words: np.ndarray
    powder: np.ndarray
    good: np.ndarray


def _new_scratch(dtype):
    n_pixels = int(np.prod(FRAME_SHAPE))
    return _Scratch(
        np.zeros(n_pixels, dtype=dtype),
        np.empty(n_pixels * 4, dtype=np.uint8),
        np.empty(n_pixels // 4, dtype=np.uint32),
        np.zeros(FRAME_SHAPE, dtype=np.uint64),
        np.ones(FRAME_SHAPE, dtype=bool),
    )


def _mask_of_hit(block, number, modules):
    absent = ~is_present(modules, np.arange(N_MODULES))
    if block.flagged is None and not absent.any():
        return block.mask
    mask = block.mask.copy()
    if block.flagged is not None:
        mask[block.flagged[number]] |= MASK_BAD
    mask[absent] |= MASK_MISSING
    return mask


def _pack_mask(free, mask, modules):
    scratch = free.get()
    try:
        for module in np.flatnonzero(is_present(modules, np.arange(N_MODULES))):
            scratch.good[module] &= mask[module] == 0
        return _pack(mask.reshape(-1), scratch.planes)
    finally:
        free.put(scratch)


def _pack_frame(free, photons, mask):
    scratch = free.get()
    try:
        scratch.stored.fill(0)
        flat = photons.reshape(-1)
        counted = _store(
            flat.view(np.uint64),
            flat,
            mask.reshape(-1),
            np.iinfo(scratch.stored.dtype).max,
            scratch.stored,
            scratch.powder.reshape(-1),
            scratch.lit_words,
        )
        return _pack(scratch.stored, scratch.planes), counted
    finally:
        free.put(scratch)


def _pack(flat, planes):
    if flat.itemsize > 1:
        planes = planes[: flat.nbytes]
        _shuffle(flat, planes)
        flat = planes
    return isal_zlib.compress(flat, 1)


@njit(nogil=True, cache=True)
def _shuffle(words, planes):
    """HDF5's shuffle filter: the lowest byte of all numbers, then the next byte of all, ..."""
    for byte in range(words.itemsize):
        start = byte * words.size
        for i in range(words.size):
            planes[start + i] = (words[i] >> (8 * byte)) & 0xFF


def _unpack_and(work, packed, shape, dtype):
    n_bytes = int(np.prod(shape)) * dtype.itemsize
    raw = np.frombuffer(deflate.zlib_decompress(packed, n_bytes), dtype=np.uint8)
    if dtype.itemsize > 1:
        raw = np.ascontiguousarray(raw.reshape(dtype.itemsize, -1).T)
    frame = raw.view(dtype).reshape(shape)
    frame.flags.writeable = False
    return work(frame)


@njit(nogil=True, cache=True)
def _store(words, photons, mask, limit, stored, powder, lit_words):
    """Copy photons of good pixels, at most `limit`, into zeroed `stored`; add them as they are to `powder`.

    Words are four pixels; most are dark. To find the others first and then to work on them is twice as fast as both
    in one loop. Returns the numbers of lit pixels, of photons and of clipped pixels.
    """
    n_words = 0
    for word in range(words.size):
        if words[word] != 0:
            lit_words[n_words] = word
            n_words += 1
    lit = 0
    total = 0
    clipped = 0
    for k in range(n_words):
        for pixel in range(4 * lit_words[k], 4 * lit_words[k] + 4):
            value = photons[pixel]
            if value == 0 or mask[pixel] != 0:
                continue
            powder[pixel] += np.uint64(value)
            lit += 1
            total += value
            if value > limit:
                value = limit
                clipped += 1
            stored[pixel] = value
    return lit, total, clipped


def _write_per_event(group, name, values, units=None):
    dataset = write_array(group, name, values, units)
    dataset.attrs["axes"] = EVENT_AXIS
    return dataset


def _write_virtual_mask(detector, table, mask_row):
    """Show the rows of mask_table as one mask per hit, through the same file (``.``): needs no space."""
    if not len(mask_row):
        mask = _create_frames(detector, "mask", 0, table.dtype)
    else:
        # h5py.VirtualLayout says the same but copies its selections around, which costs more than writing the hits.
        shown, held = h5py.h5s.create_simple((len(mask_row), *FRAME_SHAPE)), h5py.h5s.create_simple(table.shape)
        mapping = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        breaks = np.flatnonzero(np.diff(mask_row) != 1) + 1
        for start, stop in itertools.pairwise([0, *breaks.tolist(), len(mask_row)]):
            shape = (stop - start, *FRAME_SHAPE)
            shown.select_hyperslab((start, 0, 0, 0), shape)
            held.select_hyperslab((int(mask_row[start]), 0, 0, 0), shape)
            mapping.set_virtual(shown, b".", table.name.encode(), held)
        shown.select_all()
        h5py.h5d.create(detector.id, b"mask", table.id.get_type(), shown, mapping)
        mask = detector["mask"]
    mask.attrs["axes"] = FRAME_AXES
    _describe_mask_bits(mask)


def _describe_mask_bits(dataset):
    dataset.attrs["bits"] = "0 = good; " + "; ".join(f"0x{bit:x} {name}" for bit, name in MASK_BIT_NAMES.items())


def _require_packed(dataset):
    packed = dataset.compression == "gzip" and dataset.shuffle and not dataset.fletcher32
    if dataset.chunks != (1, *dataset.shape[1:]) or not packed:
        raise ValueError(
            f"{dataset.file.filename}: {dataset.name} has chunks {dataset.chunks}, compression {dataset.compression}, "
            f"shuffle {dataset.shuffle}; expected one frame per chunk with shuffle and gzip, as write_cxi writes it. "
            "Run write_cxi again."
        )
