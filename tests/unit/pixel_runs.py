"""Runs with given pixels in every way that they may be stored, and plain numpy versions of the pixel pass."""

import os
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import pandas as pd
from reference import dark_level

from pulsetrain.detector import xfel_from_lab
from pulsetrain.layout import RunLayout, write_layout

DETECTOR = "SPB_DET_AGIPD1M-1"
PIXELS = 512 * 128

# How datasets are stored: chunks as a function of the frame's shape, and filters.
WAYS = {
    "contiguous": {},
    "chunk of 1": {"rows": 1},
    "chunk of 3": {"rows": 3},
    "gzip": {"rows": 1, "compression": "gzip", "compression_opts": 1},
    "gzip shuffle": {"rows": 1, "compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip shuffle of 3": {"rows": 3, "compression": "gzip", "compression_opts": 1, "shuffle": True},
    "gzip of 3": {"rows": 3, "compression": "gzip", "compression_opts": 1},
    "lzf": {"rows": 1, "compression": "lzf"},
    "lzf of 3": {"rows": 3, "compression": "lzf", "shuffle": True},
    "checksum": {"rows": 1, "compression": "gzip", "fletcher32": True},
    "part of a frame": {"rows": 2, "part": True, "compression": "gzip", "shuffle": True},
    "big endian": {"rows": 1, "compression": "gzip", "big": True},
    "user block": {"rows": 1},
    "resizable": {"rows": 1, "compression": "gzip", "shuffle": True, "maxshape": True},
}


def store(file, name, values, way):
    """Write `values` (frames, ...) as dataset `name` in one of WAYS; returns the dataset."""
    options = dict(WAYS[way])
    rows = options.pop("rows", None)
    frame = values.shape[1:]
    if rows is not None:
        part = (frame[0] // 2 if len(frame) == 2 else 1, *frame[1:]) if options.pop("part", False) else frame
        options["chunks"] = (max(1, min(rows, len(values))), *part)
    if options.pop("maxshape", False):
        options["maxshape"] = (None, *frame)
    dtype = values.dtype.newbyteorder(">") if options.pop("big", False) else values.dtype
    return file.create_dataset(name, data=values, dtype=dtype, **options)


class Run(NamedTuple):
    vds: Path
    layout: RunLayout
    masks: list
    outliers: list
    constants: list


def write_run(
    folder, data, cells, way="gzip shuffle", units="photons", energy=9.3, n_files=2, absent=(), flags=None, **given
):
    """Write sources and a layout.

    data : {module: (frames, ...)}; cells : (frames,); absent : {(module, frame)}; flags : {module: (frames, 512, 128)};
    given : masks and outliers {module: (C, 512, 128)}, constants {module: dict of arrays in lab orientation}.
    Frames lie in the files in reversed order of pairs, with a row between that nobody asks for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    n_frames = len(cells)
    modules = np.zeros(n_frames, "u4")
    files, segments = [], []
    for module, values in data.items():
        source = f"{DETECTOR}/CORR/{module}CH0:output"
        for sequence, frames in enumerate(np.array_split(np.arange(n_frames), n_files)):
            held = [frame for frame in frames if (module, frame) not in absent]
            pairs = [held[k : k + 2] for k in range(0, len(held), 2)][::-1]
            order = [frame for pair in pairs for frame in pair]
            rows = np.empty((len(order) + 1, *values.shape[1:]), values.dtype)
            rows[0] = 1
            rows[1:] = values[order]
            path = folder / f"CORR-R0050-AGIPD{module:02d}-S{sequence:05d}.h5"
            with h5py.File(path, "w", userblock_size=512 if way == "user block" else 0) as file:
                store(file, f"INSTRUMENT/{source}/image/data", rows, way)
                if flags is not None:
                    bits = np.ones((len(order) + 1, 512, 128), "u4")
                    bits[1:] = flags[module][order]
                    store(file, f"INSTRUMENT/{source}/image/mask", bits, "gzip shuffle")
            row = 1
            for pair in pairs:
                segments.append((module, len(files), row, pair[0], len(pair)) if contiguous(pair) else None)
                if segments[-1] is None:
                    segments[-1:] = [(module, len(files), row + k, frame, 1) for k, frame in enumerate(pair)]
                row += len(pair)
            modules[held] |= np.uint32(1 << module)
            name = os.path.relpath(path, folder)
            files.append((name, source, "1.2", "", "", "", module, sequence, path.stat().st_size, len(rows)))
    first = next(iter(data.values()))
    stream = "raw" if units == "ADU" else "proc"
    attributes = {
        "run": 50,
        "stream": stream,
        "detector": DETECTOR,
        "data_dtype": first.dtype.name,
        "units": units,
        "photon_energy_kev": energy,
    }
    layout = RunLayout(
        np.arange(1000, 1000 + n_frames).astype("u8"),
        np.arange(n_frames).astype("u8"),
        np.asarray(cells, "u2"),
        modules,
        pd.DataFrame(
            files,
            columns=[
                "name",
                "source",
                "format_version",
                "update_date",
                "index_sha256",
                "problem",
                "module",
                "sequence",
                "size",
                "rows",
            ],
        ),
        pd.DataFrame(segments, columns=["module", "file", "source_start", "frame_start", "count"]),
        attributes,
    )
    vds = folder / "r0050_vds.h5"
    with h5py.File(vds, "w") as file:
        write_layout(file.create_group("pulsetrain"), layout)
    used = np.unique(np.asarray(cells, "u2"))
    masks, outliers, constants = [], [], []
    for module in data:
        for kind, paths in (("masks", masks), ("outliers", outliers)):
            mask = given.get(kind, {}).get(module, np.zeros((len(used), 512, 128), "u4"))
            path = folder / f"{kind}_m{module:02d}.h5"
            with h5py.File(path, "w") as file:
                file["cellId"] = used
                if len(used):
                    store(file, "mask", mask, "gzip shuffle")
                else:
                    file.create_dataset("mask", data=mask)
            paths.append(path)
        if "constants" in given:
            path = folder / f"constants_m{module:02d}.h5"
            write_constants(path, module, given["constants"][module])
            constants.append(path)
    return Run(vds, layout, masks, outliers, constants)


def contiguous(pair):
    return len(pair) == 1 or pair[1] == pair[0] + 1


def write_constants(path, module, values, orientation="lab"):
    with h5py.File(path, "w") as file:
        file.attrs["module"] = module
        file.attrs["orientation"] = orientation
        for name, array in values.items():
            file.create_dataset(name, data=array, chunks=(1, 1, 128, 512), compression="gzip", shuffle=True)


def random_constants(random, n_cells):
    """Constants of an AGIPD-like module in lab orientation."""
    shape = (n_cells, 128, 512)
    gain = np.stack([random.normal(8 / 65 / k, 0.004 / k, shape) for k in (1, 0.03, 0.006)]).astype("f4")
    offset = np.stack([random.normal(level, 60, shape) for level in (5000, 5600, 5400)]).astype("f4")
    threshold = np.stack([random.normal(level, 30, shape) for level in (6600, 7600)]).astype("i2")
    return {"analogGains_keV": gain, "darkOffsets": offset, "digitalThresholds": threshold}


def raw_values(random, n_frames, lit=0.03):
    """Raw frames over the whole range of the ADC, most of them dark."""
    values = np.empty((n_frames, 2, 512, 128), "u2")
    shape = (n_frames, 512, 128)
    values[:, 0] = random.normal(5000, 70, shape) + 65 * random.poisson(lit, shape)
    values[:, 1] = random.normal(6000, 25, shape)
    stage = random.integers(0, 200, shape)
    values[:, 1][stage == 1] = random.integers(7000, 8000, (stage == 1).sum())
    values[:, 1][stage == 2] = random.integers(8000, 16384, (stage == 2).sum())
    values[:, 0][stage < 6] = random.integers(0, 16384, (stage < 6).sum())
    values[:, 0][stage == 6] = 16383
    return values


def shifted_raw_frames(random, constants, module, cells, shift_photons=1.5):
    """Raw frames as these constants make them: sparse photons, some in each stage, every frame shifted as a whole."""
    offset, gain, _, _ = xfel_constants(constants, module, 9.3)
    frames = np.empty((len(cells), 2, 512, 128), "u2")
    for frame, cell in zip(frames, cells, strict=True):
        stage = random.choice(3, (512, 128), p=[0.98, 0.01, 0.01])
        photons = np.choose(stage, [random.poisson(0.05, (512, 128)), 200, 3000])
        signal = photons + np.where(stage == 0, random.normal(0, shift_photons) + random.normal(0, 0.1, stage.shape), 0)
        analog = np.choose(stage, offset[:, cell]) + signal / np.choose(stage, gain[:, cell])
        frame[0] = np.clip(np.rint(np.nan_to_num(analog)), 0, 16383)
        frame[1] = np.choose(stage, [6000, 7200, 8100]) + random.integers(-20, 20, stage.shape)
    return frames


# Plain numpy versions: the definition of what the kernels compute.


def cut(values, bias):
    with np.errstate(invalid="ignore"):
        return np.clip(np.floor(np.nan_to_num(values + np.float32(bias), nan=0.0)), 0, 65535).astype("u2")


def integer_reference(values):
    return np.clip(values.astype("i8"), 0, 65535).astype("u2")


def float_reference(values, scale, bias):
    with np.errstate(invalid="ignore", over="ignore"):
        return cut(values.astype("f4") * np.float32(scale), bias)


def xfel_constants(values, module, energy):
    """Offsets, gains [photons / ADU] and thresholds in European XFEL orientation, and where all are finite."""
    offset = xfel_from_lab(values["darkOffsets"], module)
    gain = (xfel_from_lab(values["analogGains_keV"], module) / np.float32(energy)).astype("f4")
    finite = np.isfinite(offset).all(axis=0) & np.isfinite(gain).all(axis=0)
    return offset, gain, xfel_from_lab(values["digitalThresholds"], module), finite


def raw_reference(values, offset, gain, threshold, good, bias, common_mode, baseline_shift=False):
    """Photons of one raw frame; constants of its cell: (3, 512, 128), thresholds (2, 512, 128)."""
    analog, digital = values[0].astype("f4"), values[1].astype("i4")
    stage = (digital > threshold[0]).astype(int) + (digital > threshold[1])
    with np.errstate(invalid="ignore"):
        v = (analog - np.choose(stage, offset)) * np.choose(stage, gain)
        assert v.dtype == np.float32
        return cut(raw_signal(v, stage, good, common_mode, baseline_shift), bias)


def raw_signal(v, stage, good, common_mode, baseline_shift=False):
    """Values [photons] without the shifts that the options take off stage 0."""
    level = dark_level(v[(stage == 0) & good]) if baseline_shift else np.float32(0)
    shift = np.full(v.shape, level)
    if common_mode:
        dark = (stage == 0) & good & (np.abs(v - level) < 0.5)
        for row in range(0, 512, 64):
            for column in range(0, 128, 64):
                asic = np.s_[row : row + 64, column : column + 64]
                n = int(dark[asic].sum())
                if n < 1024:
                    continue
                total = int(((v[asic] - level)[dark[asic]] * np.float32(4096)).astype("i4").sum())
                shift[asic] = level + np.float32(total / (4096 * n))
    return np.where(stage == 0, v - shift, v)


def photons_reference(
    run, data, module, cells, good, constants=None, threshold=0.5, common_mode=False, baseline_shift=False
):
    """Photons (frames, 512, 128) uint16 of one module, 0 where `good` (frames, 512, 128) is False."""
    attributes = run.layout.attributes
    bias = np.float32(1 - threshold)
    values = data[module]
    found = np.zeros((len(cells), 512, 128), "u2")
    for frame in range(len(cells)):
        if attributes["units"] == "ADU":
            offset, gain, limits, finite = xfel_constants(constants[module], module, attributes["photon_energy_kev"])
            cell = cells[frame]
            mask = good[frame] & finite[cell]
            found[frame] = raw_reference(
                values[frame],
                offset[:, cell],
                gain[:, cell],
                limits[:, cell],
                mask,
                bias,
                common_mode,
                baseline_shift,
            )
            found[frame][~mask] = 0
        elif values.dtype.kind == "f":
            scale = 1 / attributes["photon_energy_kev"] if attributes["units"] == "keV" else 1
            found[frame] = float_reference(values[frame], scale, bias)
        else:
            found[frame] = integer_reference(values[frame])
        found[frame][~good[frame]] = 0
    return found
