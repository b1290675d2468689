"""Equalize raw data: energies [keV] and gain stages of a gathered file or of a run.

The arithmetic is that of the pixel pass (:mod:`pulsetrain.kernels`): the gain stage from the digital value, then
(analog - offset) * gain of that stage, in photons, in high gain less baseline shift and common mode where they are
wanted; at last photons times photon energy. Everything is written in laboratory orientation; in between, pixels are in
European XFEL orientation, in which the kernels know where the ASICs are.
"""

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import h5py
import numpy as np
from isal import isal_zlib

from pulsetrain.chunks import BLOCK_BYTES, open_storages, plan_reads, read_blocks, stored_frames, unpack
from pulsetrain.constants import ConstantsFile, open_constants, read_constants
from pulsetrain.detector import LAB_SHAPE, MODULE_SHAPE, PIXELS, lab_from_xfel, xfel_from_lab
from pulsetrain.kernels import RAW, Recipe, Stored, energy_frames
from pulsetrain.layout import read_layout, source_rows
from pulsetrain.litpixels import image_storage
from pulsetrain.output import new_h5
from pulsetrain.photons import photon_energy, raise_if_damaged
from pulsetrain.progress import progress

log = logging.getLogger(__name__)

FRAMES_AT_ONCE = 128  # in memory: 32 MB as they are, 33 MB as energies
CELLS_AT_ONCE = 32  # of a run, whose constants are in memory together: 2 MB each
CELLS_SIDE_BY_SIDE = 8  # read together where they lie side by side in a gathered file: 1 MB
SHARE = 8  # frames that a thread takes at a time
NO_PULSE = np.uint64(2**64 - 1)  # pulseId of a frame that is not there
PER_CELL = ("dark", "current_source")  # kinds of gathered files with an axis of memory cells; xray has one cell
CHUNK = (1, 1, *LAB_SHAPE)


class Calibrated(NamedTuple):
    """Constants and mask of one module: files that are checked, and what is to be done with them.

    Attributes
    ----------
    constants : ConstantsFile
    bad : h5py.Dataset
        badCellMask bool (C, 128, 512).
    common_mode, baseline_shift : bool
    """

    constants: ConstantsFile
    bad: h5py.Dataset
    common_mode: bool
    baseline_shift: bool


def equalize_gathered(
    gathered,
    constants,
    mask,
    output,
    attributes,
    *,
    module,
    photon_energy_kev,
    common_mode=False,
    baseline_shift=False,
    threads=1,
    frames_at_once=FRAMES_AT_ONCE,
):
    """Equalize a gathered file of one module.

    Parameters
    ----------
    gathered : str or Path
        analog and digital, both int16 (n, C, 128, 512), or (n, 128, 512) of one memory cell (X-ray tube) [ADU].
    constants, mask : str or Path
        ``constants_m...h5`` and ``mask_m...h5`` of the module, with all memory cells of the file.
    output : str or Path
        Becomes analogCorrected float32 [keV] and digitalGainStage int8, both (n, C, 128, 512), 0 and -1 where the mask
        is bad, a constant is not known or the file has no data; cellId uint16 (C,); cellPresent and integrationTime
        if the gathered file has them. C is 1 for the X-ray tube.
    attributes : dict
        Provenance.
    module : int
    photon_energy_kev : float
        Photon energy, in units of which common mode and baseline tell dark pixels from lit ones.
    common_mode : bool
        Subtract the common mode of each ASIC.
    baseline_shift : bool
        Subtract the level of the module's dark pixels, before that.
    threads : int
    frames_at_once : int
        Most frames in memory; the result does not depend on it.

    Raises
    ------
    ValueError
        A file is of another module or orientation, or has other shapes or types.
    """
    with contextlib.ExitStack() as stack:
        source = stack.enter_context(h5py.File(gathered))
        kind = _check_gathered(source, module)
        cells = np.array([source.attrs["cell"]]) if kind == "xray" else np.arange(source["analog"].shape[1])
        present = source["cellPresent"][()] if "cellPresent" in source else np.ones(len(cells), bool)
        storage_of = stack.enter_context(open_storages())
        calibrated = _open_calibrated(
            constants, mask, module, cells, photon_energy_kev, storage_of, common_mode, baseline_shift, stack
        )
        n = len(source["analog"])
        held = {"module": module, "kind": kind, "photon_energy_kev": photon_energy_kev}
        file = stack.enter_context(new_h5(output, _output_attributes(attributes | held, calibrated)))
        datasets = _create(file, n, cells)
        for name in ("cellPresent", "integrationTime"):
            if name in source:
                source.copy(name, file)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        advance = progress(n * int(present.sum()))
        side_by_side = CELLS_SIDE_BY_SIDE if source["analog"].chunks is None else 1
        for first in range(0, len(cells), side_by_side):
            last = min(first + side_by_side, len(cells))
            columns = first + np.flatnonzero(present[first:last])
            if not columns.size:
                continue
            recipe, good = _read_calibrated(calibrated, cells[columns], pool)
            n_rows = max(1, frames_at_once // (last - first))
            for begin, images in _read_ahead(source, n, n_rows, first, last):
                # Which image is which: its row here, and the row of its constants.
                row, rank = (axis.reshape(-1) for axis in np.indices((len(images[0]), len(columns))))

                def equalize(
                    share, images=images, row=row, rank=rank, column=columns - first, recipe=recipe, good=good
                ):
                    taken = [values[row[share], column[rank[share]]] for values in images]
                    everything = np.arange(len(share))
                    energy = np.float32(photon_energy_kev)
                    _, *found = _energies(
                        _as_stored(taken, module), everything, rank[share], good, recipe, energy, module
                    )
                    return found

                shares = _shares(np.arange(len(row)))
                for share, found in zip(shares, pool.map(equalize, shares), strict=True):
                    _write(datasets, begin + row[share], columns[rank[share]], *found)
                advance(len(row))


def equalize_run(
    vds,
    constants,
    mask,
    output,
    attributes,
    *,
    module,
    common_mode=False,
    baseline_shift=False,
    threads=1,
    frames_at_once=FRAMES_AT_ONCE,
    cells_at_once=CELLS_AT_ONCE,
):
    """Equalize one module of a raw run.

    Parameters
    ----------
    vds : str or Path
        The run's VDS, for its frame table; pixels are read from the source files it names.
    constants, mask : str or Path
        ``constants_m...h5`` and ``mask_m...h5`` of the module.
    output : str or Path
        Becomes analogCorrected float32 [keV] and digitalGainStage int8, both (trains, C, 128, 512), C being the memory
        cells of the constants: 0 and -1 where the mask is bad, a constant is not known or there is no such frame;
        trainId uint64 (trains,), pulseId uint64 (trains, C), present bool (trains, C), cellId uint16 (C,).
    attributes, module, common_mode, baseline_shift, threads, frames_at_once
        As for :func:`equalize_gathered`.
    cells_at_once : int
        Memory cells whose constants are in memory together; the result does not depend on it.

    Raises
    ------
    OSError, ValueError
        The run is not raw, the constants do not fit, or a source file is missing, changed or damaged.
    """
    layout = read_layout(vds, "/pulsetrain")
    if layout.attributes["stream"] != "raw":
        raise ValueError(
            f"{vds}: the stream of the run is {layout.attributes['stream']!r}, which is calibrated already; only raw "
            "runs are equalized. Set stream: raw in the run table."
        )
    energy = photon_energy(layout.attributes, vds)
    train_id, train = np.unique(layout.train_id, return_inverse=True)
    cell = layout.cell_id.astype(np.int64)
    file_of, row_of = source_rows(layout, module)
    present = file_of >= 0
    with contextlib.ExitStack() as stack:
        storage_of = stack.enter_context(open_storages())
        calibrated = _open_calibrated(
            constants, mask, module, np.unique(cell), energy, storage_of, common_mode, baseline_shift, stack
        )
        n_cells = calibrated.constants.n_cells
        held = {"module": module, "kind": "run", "run": layout.attributes["run"], "photon_energy_kev": energy}
        file = stack.enter_context(new_h5(output, _output_attributes(attributes | held, calibrated)))
        datasets = _create(file, len(train_id), np.arange(n_cells))
        _write_frame_ids(file, layout, train_id, train, cell, present, n_cells, vds)
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        advance = progress(int(present.sum()))
        used = np.unique(cell[present])
        for first in range(0, len(used), cells_at_once):
            cells = used[first : first + cells_at_once]
            recipe, good = _read_calibrated(calibrated, cells, pool)
            wanted = np.flatnonzero(present & np.isin(cell, cells))

            def plans(wanted=wanted):
                for number in np.unique(file_of[wanted]).tolist():
                    frames = wanted[file_of[wanted] == number]
                    data = image_storage(layout, vds, number, storage_of)
                    yield from plan_reads(data, frames, row_of[frames], cell[frames], BLOCK_BYTES, frames_at_once)

            with contextlib.closing(read_blocks(plans())) as blocks:
                for packed in blocks:
                    block = unpack(packed, pool=pool)
                    stored, rows = stored_frames(block), np.searchsorted(cells, cell[block.frames])

                    def equalize(share, block=block, stored=stored, rows=rows, recipe=recipe, good=good):
                        result, *found = _energies(stored, share, rows, good, recipe, np.float32(energy), module)
                        raise_if_damaged(block, result)
                        return found

                    shares = _shares(np.argsort(rows, kind="stable"))
                    for share, found in zip(shares, pool.map(equalize, shares), strict=True):
                        frames = block.frames[share]
                        _write(datasets, train[frames], cell[frames], *found)
                    advance(len(block.frames))


def _energies(stored, share, rows, good, recipe, energy, module):
    """Energies (n, 128, 512) and packed gain stages (list of bytes) of some frames, after the kernel's verdict."""
    kev = np.empty((len(share), PIXELS), np.float32)
    stage = np.empty((len(share), PIXELS), np.int8)
    result = energy_frames(stored, share, rows, good, recipe, energy, kev, stage)
    kev, stage = (
        np.ascontiguousarray(lab_from_xfel(values.reshape(-1, *MODULE_SHAPE), module)) for values in (kev, stage)
    )
    return result, kev, [isal_zlib.compress(frame, 1) for frame in stage]


def _write(datasets, row, column, kev, packed):
    """Write frames as whole chunks: the energies as they are, the stages packed already."""
    for k, place in enumerate(zip(row.tolist(), column.tolist(), strict=True)):
        datasets[0].id.write_direct_chunk((*place, 0, 0), kev[k])
        datasets[1].id.write_direct_chunk((*place, 0, 0), packed[k])


def _shares(order):
    return np.array_split(order, -(-len(order) // SHARE)) if len(order) else []


def _as_stored(images, module):
    """Analog and digital images in laboratory orientation, as the kernels want raw frames."""
    values = np.empty((len(images[0]), 2, *MODULE_SHAPE), np.uint16)
    for k, image in enumerate(images):
        values[:, k] = xfel_from_lab(image.view(np.uint16), module)
    size = 4 * PIXELS
    start = np.arange(len(values), dtype=np.int64) * size
    flat = values.reshape(-1)
    return Stored(flat.view(np.uint8), flat, start, np.full(len(values), size, np.int64), False, False)


def _read_ahead(source, n, n_rows, first, last):
    """Images of a gathered file, some rows at a time; the next ones are read while the caller works on these.

    Yields
    ------
    begin : int
        Row of the first.
    images : list of ndarray of int16
        Analog and digital, (rows, last - first, 128, 512).
    """

    def read(begin):
        images = [source[name] for name in ("analog", "digital")]
        if images[0].ndim == 3:
            return [data[begin : begin + n_rows][:, None] for data in images]
        return [data[begin : begin + n_rows, first:last] for data in images]

    begins = range(0, n, n_rows)
    with ThreadPoolExecutor(1) as reader:
        pending = reader.submit(read, 0)
        for begin in begins:
            images = pending.result()
            if begin + n_rows < n:
                pending = reader.submit(read, begin + n_rows)
            yield begin, images


def _open_calibrated(constants, mask, module, cells, photon_energy_kev, storage_of, common_mode, baseline_shift, stack):
    """Check constants and mask; `stack` closes the mask."""
    if not (np.isfinite(photon_energy_kev) and photon_energy_kev > 0):
        raise ValueError(f"photon_energy_kev is {photon_energy_kev}; expected an energy above 0")
    opened = open_constants(constants, module, cells, photon_energy_kev, storage_of)
    file = stack.enter_context(h5py.File(mask))
    problems = _problems_of(file, module)
    expected = (opened.n_cells, *LAB_SHAPE)
    if "badCellMask" not in file:
        problems.append("there is no dataset badCellMask")
    elif file["badCellMask"].shape != expected or file["badCellMask"].dtype != bool:
        held = file["badCellMask"]
        problems.append(f"badCellMask is {held.dtype} {held.shape}; expected bool {expected}, as the constants")
    if problems:
        raise ValueError(f"{mask}: {'; '.join(problems)}. Make the mask of module {module:02d} again.")
    return Calibrated(opened, file["badCellMask"], bool(common_mode), bool(baseline_shift))


def _read_calibrated(calibrated, cells, pool):
    """What the kernels need of some memory cells: the recipe, and the good pixels, uint8 (cells, 65536)."""
    offset, gain, limit, finite = read_constants(calibrated.constants, cells, pool)
    bad = np.stack([calibrated.bad[int(cell)] for cell in cells])
    bad = xfel_from_lab(bad, calibrated.constants.module).reshape(len(cells), PIXELS)
    good = np.where(bad | ~finite, np.uint8(0), np.uint8(255))
    shifts = calibrated.common_mode, calibrated.baseline_shift
    return Recipe(RAW, np.float32(1), np.float32(0), *shifts, offset, gain, limit), good


def _problems_of(file, module):
    problems = []
    if (found := file.attrs.get("module")) != module:
        problems.append(f"attribute module is {found}; expected {module}")
    if (found := file.attrs.get("orientation")) != "lab":
        problems.append(f"attribute orientation is {found!r}; expected 'lab'")
    return problems


def _check_gathered(file, module):
    """Kind of a gathered file, or an error that names all that is wrong with it."""
    problems = _problems_of(file, module)
    kind = file.attrs.get("kind")
    if kind not in (*PER_CELL, "xray"):
        problems.append(f"attribute kind is {kind!r}; expected dark, current_source or xray")
    if kind == "xray" and "cell" not in file.attrs:
        problems.append("there is no attribute cell")
    shapes = []
    for name in ("analog", "digital"):
        if name not in file:
            problems.append(f"there is no dataset {name}")
            continue
        held = file[name]
        shapes.append(held.shape)
        expected = "(n, 128, 512)" if kind == "xray" else "(n, cells, 128, 512)"
        if held.ndim != (3 if kind == "xray" else 4) or held.shape[-2:] != LAB_SHAPE:
            problems.append(f"{name} has shape {held.shape}; expected {expected}")
        if held.dtype != np.int16:
            problems.append(f"{name} is {held.dtype}; expected int16")
    if len(set(shapes)) > 1:
        problems.append(f"analog and digital have the shapes {shapes[0]} and {shapes[1]}; expected the same")
    if problems:
        raise ValueError(f"{file.filename}: {'; '.join(problems)}. Gather the data of module {module:02d} again.")
    return kind


def _output_attributes(attributes, calibrated):
    shifts = {"common_mode": calibrated.common_mode, "baseline_shift": calibrated.baseline_shift}
    return attributes | {"orientation": "lab"} | shifts


def _create(file, n, cells):
    """The two datasets, absent frames being masked as long as nobody writes them."""
    shape = (n, len(cells), *LAB_SHAPE)
    chunks = {"chunks": CHUNK} if n else {}
    packed = chunks | {"compression": "gzip", "compression_opts": 1, "shuffle": True} if n else {}
    kev = file.create_dataset("analogCorrected", shape, np.float32, fillvalue=0, **chunks)
    kev.attrs.update({"units": "keV", "description": "energy; 0 where masked"})
    stage = file.create_dataset("digitalGainStage", shape, np.int8, fillvalue=-1, **packed)
    stage.attrs["description"] = "0 = high, 1 = medium, 2 = low gain; -1 where masked"
    file.create_dataset("cellId", data=np.asarray(cells, np.uint16))
    return kev, stage


def _write_frame_ids(file, layout, train_id, train, cell, present, n_cells, vds):
    """Which frame of the run each image is."""
    place = train * n_cells + cell
    same, times = np.unique(place, return_counts=True)
    if (times > 1).any():
        first = int(same[times > 1][0])
        raise ValueError(
            f"{vds}: train {train_id[first // n_cells]} has {times.max()} frames of memory cell {first % n_cells}; "
            "there is room for one. Run check_run again."
        )
    pulse_id = np.full((len(train_id), n_cells), NO_PULSE)
    pulse_id[train, cell] = layout.pulse_id
    held = np.zeros((len(train_id), n_cells), bool)
    held[train, cell] = present
    file.create_dataset("trainId", data=train_id)
    file.create_dataset("pulseId", data=pulse_id).attrs["description"] = "2^64 - 1 where the run has no such frame"
    file.create_dataset("present", data=held).attrs["description"] = "the module has this frame"
