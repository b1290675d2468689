"""AGIPD and ePix of a MID run in one file: every frame that all detectors have, as virtual data and dark-corrected."""

import logging
import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.chunks import open_storages
from pulsetrain.detector import MODULE_SHAPE
from pulsetrain.exdf import parse_name
from pulsetrain.layout import read_layout, source_path, source_rows
from pulsetrain.mid_constants import check_dark, read_dark, read_own
from pulsetrain.mid_correct import correct_module, create_corrected
from pulsetrain.mid_epix import EPIX_SHAPE, PIXELS, epix_aggregator, epix_source, find_epix_trains
from pulsetrain.mid_trains import count_reasons, read_agipd_trains, select_trains
from pulsetrain.mid_virtual import add_stripes, create_virtual, find_pieces, finish_virtual
from pulsetrain.output import new_h5, write_array
from pulsetrain.photons import photon_energy
from pulsetrain.progress import progress
from pulsetrain.vds import FILL, RAW_FILL, require_unchanged

log = logging.getLogger(__name__)

MOST_AT_END = 2  # trains that one detector has before another starts, or after it stops; no loss
MUCH_LIGHT = 0.1  # photons by which the baseline is too high that are worth a warning


class Correction(NamedTuple):
    """How AGIPD is corrected: by `dark`, or by `constants` and `masks` (one per module) and the photon energy of `vds`.

    Attributes
    ----------
    dark : str or None
    constants, masks : list of str
    vds : str or None
    adu_per_photon : list of float
        Of high and medium gain; for a dark file.
    baseline_rows : int
    """

    dark: str | None
    constants: list
    masks: list
    vds: str | None
    adu_per_photon: list
    baseline_rows: int


def export_mid(
    frames,
    epix,
    output,
    attributes,
    *,
    run,
    stream,
    detector,
    modules,
    numbers,
    pulse_ids,
    max_lost,
    sizes,
    correction,
    threads=1,
):
    """Write the file of a MID run.

    Parameters
    ----------
    frames : str or Path
        Frame table of ``check_run``.
    epix : list of str or Path
        All files of the chosen ePix.
    output : str or Path
    attributes : dict
        Provenance.
    run : int
    stream : str
        ``"raw"`` or ``"proc"``, of the AGIPD data.
    detector : str
        Such as ``MID_DET_AGIPD1M-1``.
    modules : list of int
        AGIPD modules.
    numbers : list of int
        The chosen ePix, of 1 and 2.
    pulse_ids : list of int or None
        Pulses to take; None = all.
    max_lost : float
        An error if a larger part of the AGIPD's trains cannot be exported.
    sizes : dict
        {file name: bytes} of the ePix files when the work was planned.
    correction : Correction or None
        None = virtual data alone.
    threads : int

    Raises
    ------
    ValueError
        Too few trains are left, or constants do not fit.
    RuntimeError
        The run changed since it was checked.
    """
    layout = read_layout(frames)
    if layout.attributes["stream"] != stream:
        raise ValueError(f"{frames} is of stream {layout.attributes['stream']!r}; expected {stream!r}")
    require_unchanged(frames, layout)
    modules = sorted(modules)
    pulse_ids = None if pulse_ids is None else sorted(pulse_ids)
    cameras = {number: _find_camera(epix, number, run, sizes) for number in sorted(numbers)}
    selection = select_trains(layout, read_agipd_trains(frames), modules, pulse_ids, cameras)
    _require_enough(run, layout, selection, cameras, max_lost)
    summary = summary_text(run, detector, modules, cameras, layout, selection)
    for line in summary.splitlines():
        log.info(line)
    found = len(selection.train_id) + len(selection.dropped_id)
    about = {
        "run": run,
        "stream": stream,
        "detector": detector,
        "status": ("partial" if _count_lost(selection) else "complete") if len(selection.train_id) else "empty",
        "reason": "; ".join(f"{reason}: {count}" for reason, count in count_reasons(selection)),
        "trains_kept": len(selection.train_id),
        "trains_found": found,
        "n_frames": len(selection.frames),
        "n_frames_left_out": selection.n_left_out,
        "summary": summary,
    }
    with new_h5(output, attributes | about) as file:
        _write_index(file, run, stream, selection, cameras)
        _write_agipd(file.create_group("data/AGIPD"), output, frames, layout, modules, selection, pulse_ids)
        for number, camera in cameras.items():
            _write_camera(file.create_group(f"data/EPIX-{number}"), output, camera, selection.epix_place[number])
        if correction is not None:
            _write_corrected(file, frames, layout, modules, selection, correction, threads)


def summary_text(run, detector, modules, cameras, layout, selection):
    """What is exported, in the form of the older program's listing."""
    trains, frames = selection.train_id, selection.frames
    found = len(trains) + len(selection.dropped_id)
    where = f" in [{trains[0]}, {trains[-1]}]" if len(trains) else ""
    pulses = np.unique(layout.pulse_id[frames])
    per_train = np.unique(np.unique(layout.train_id[frames], return_counts=True)[1])
    per_train = "-".join(map(str, sorted({per_train.min(), per_train.max()}))) if len(per_train) else "0"
    shown = str(pulses.tolist()) if len(pulses) <= 16 else f"[{', '.join(map(str, pulses[:8]))}, ... {pulses[-1]}]"
    pixels = MODULE_SHAPE[0] * MODULE_SHAPE[1]
    lines = [
        f"Run {run}",
        f"├── {len(trains)} trains (originally {found}){where}",
        *(f"│   {count} not exported: {reason}" for reason, count in count_reasons(selection)),
        f"├── {per_train} pulses per train, Pulse ID: {shown}",
        f"└── {len(frames)} frames in total",
        f"{detector} detector",
        f"├── {len(modules)} modules: {modules}",
        f"└── 512x128 pixels per module, {len(modules) * pixels} in total",
    ]
    for number in cameras:
        lines += [f"EPIX-{number} detector", f"└── 708x768 pixels, {EPIX_SHAPE[0] * EPIX_SHAPE[1]} in total"]
    return "\n".join(lines)


def _find_camera(epix, number, run, sizes):
    files = [path for path in epix if parse_name(path)[2] == epix_aggregator(number)]
    camera = find_epix_trains(files, number, run, sizes)
    for line in camera.faults:
        log.warning("EPIX-%d: %s", number, line)
    return camera


def _require_enough(run, layout, selection, cameras, max_lost):
    found = len(selection.train_id) + len(selection.dropped_id)
    lost = _count_lost(selection)
    if lost <= max_lost * found:
        return
    lines = [f"{count} trains: {reason}" for reason, count in count_reasons(selection)] + _camera_faults(cameras)
    pulses = np.unique(layout.pulse_id)
    held = "no AGIPD frames"
    if len(pulses):
        held = f"the pulse ids {pulses[:8].tolist()}{'...' if len(pulses) > 8 else ''}"
    raise ValueError(
        f"run {run}: {lost} of the {found} trains that any detector has cannot be exported, more than "
        f"integrity.max_lost = {max_lost:g} allows\n"
        + "".join(f"  {line}\n" for line in lines)
        + f"The run has {held}. Copy files that are missing or damaged again, correct mid.pulse_ids, mid.epix or "
        "detector.modules, or raise integrity.max_lost."
    )


def _count_lost(selection):
    """Trains that are not exported, without the few at either end that are there because detectors start one by one."""
    kept, dropped = selection.train_id, selection.dropped_id
    if not len(kept):
        return len(dropped)
    ends = np.count_nonzero(dropped < kept[0]), np.count_nonzero(dropped > kept[-1])
    return len(dropped) - sum(min(end, MOST_AT_END) for end in ends)


def _camera_faults(cameras):
    return [f"EPIX-{number}: {line}" for number, camera in cameras.items() for line in camera.faults]


def _write_index(file, run, stream, selection, cameras):
    index = file.create_group("index")
    index["run"] = np.uint32(run)
    index["stream"] = stream
    write_array(index, "trainId", selection.train_id)
    dropped = index.create_group("dropped")
    write_array(dropped, "trainId", selection.dropped_id)
    dropped.create_dataset("reason", data=selection.dropped_reason.astype(object), dtype=h5py.string_dtype())
    index.create_dataset("faults", data=np.array(_camera_faults(cameras), dtype=object), dtype=h5py.string_dtype())


def _relative(path, output):
    """Name of a source as seen from the output, so that a tree which is moved whole stays valid."""
    return os.path.relpath(os.path.realpath(path), os.path.realpath(Path(output).parent))


def _write_agipd(group, output, frames, layout, modules, selection, pulse_ids):
    write_array(group, "moduleId", np.array(modules, np.uint8))
    index = group.create_group("index")
    for name, values in (("trainId", layout.train_id), ("cellId", layout.cell_id), ("pulseId", layout.pulse_id)):
        write_array(index, name, values[selection.frames])
    raw = layout.attributes["stream"] == "raw"
    dtype = np.dtype(layout.attributes["data_dtype"])
    shape = (len(selection.frames), len(modules), *MODULE_SHAPE)
    fill = RAW_FILL if raw else FILL[dtype.name]
    planes = {"data": ((0, 2),), "gain": ((1, 2),)} if raw else {"data": ()}
    sources = [
        (
            _relative(source_path(frames, held["name"]), output),
            f"INSTRUMENT/{held.source}/image/data",
            int(held.rows),
        )
        for _, held in layout.files.iterrows()
    ]

    def rows_of(module):
        return [values[selection.frames] for values in source_rows(layout, module)]

    pieces = find_pieces(rows_of, modules, len(pulse_ids or [0]))
    # One dataset after the other: HDF5 holds all pieces until a dataset is there.
    for name, plane in planes.items():
        virtual = create_virtual(index, name, shape, dtype, fill)
        for column, held in enumerate(pieces):
            add_stripes(virtual, held, sources, (column,), plane)
        finish_virtual(virtual)
    index["data"].attrs["units"] = "ADU" if raw else "as in the source"


def _write_camera(group, output, camera, place):
    file, row = camera.file[place], camera.row[place]
    virtual = create_virtual(
        group, "data", (len(place), *EPIX_SHAPE), camera.dtype, RAW_FILL if camera.dtype.kind == "u" else 0
    )
    sources = [
        (_relative(held.path, output), f"INSTRUMENT/{epix_source(camera.number)}/{PIXELS}", int(held.rows))
        for held in camera.files.itertuples()
    ]
    add_stripes(virtual, *find_pieces(lambda _: (file, row), [camera.number]), sources)
    finish_virtual(virtual).attrs["units"] = "ADU"


def _write_corrected(file, frames, layout, modules, selection, correction, threads):
    cells = np.unique(layout.cell_id[selection.frames]).astype(np.int64)
    if correction.dark is not None:
        check_dark(correction.dark, modules, cells)
        of = {"source": "dark file", "adu_per_photon": correction.adu_per_photon}
    else:
        energy = photon_energy(read_layout(correction.vds, "/pulsetrain").attributes, correction.vds)
        of = {"source": "calibration", "photon_energy_kev": energy}
    group = file.create_group("data/AGIPD_corrected")
    file["AGIPD_corrected"] = h5py.SoftLink("/data/AGIPD_corrected")
    group.attrs.update(of | {"baseline_rows": correction.baseline_rows})
    corrected = create_corrected(group, len(selection.frames), len(modules))
    if not len(selection.frames):
        return
    advance = progress(len(selection.frames) * len(modules))
    reports = []
    for column, module in enumerate(modules):
        if correction.dark is not None:
            constants = read_dark(correction.dark, module, cells, correction.adu_per_photon)
        else:
            with open_storages() as storage_of:
                constants = read_own(
                    correction.constants[column], correction.masks[column], module, cells, energy, storage_of
                )
        report = correct_module(
            corrected,
            column,
            layout,
            frames,
            module,
            selection.frames,
            constants,
            correction.baseline_rows,
            threads,
            advance,
        )
        _tell(module, report, correction.baseline_rows)
        reports.append(report)
    for name in ("zero_level", "light", "n_without", "high", "medium"):
        group.attrs[name] = [getattr(report, name) for report in reports]


def _tell(module, report, baseline_rows):
    log.info(
        "module %02d: zero level %.3f ADU; %.3f %% of the pixels in high gain, %.3f %% in medium gain",
        module,
        report.zero_level,
        100 * report.high,
        100 * report.medium,
    )
    if report.n_without:
        log.warning(
            "module %02d: %d frames have no good pixel in high gain in the first %d rows; nothing was taken off them",
            module,
            report.n_without,
            baseline_rows,
        )
    if report.light > MUCH_LIGHT * report.photon_adu:
        log.warning(
            "module %02d: the baseline is at least %.1f ADU too high, because the first %d rows are lit (or the dark "
            "file is not of this run); it is taken off every pixel. Set mid.baseline_rows to fewer rows, or to 0",
            module,
            report.light,
            baseline_rows,
        )
