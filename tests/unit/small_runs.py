"""Small runs of few modules, written with plain h5py so that the tests do not lean on the project's own writer."""

import h5py
import numpy as np

from pulsetrain import integrity, layout

DETECTOR = "SPB_DET_AGIPD1M-1"
RUN = 50
PULSES = (0, 4, 8)
TRAINS_PER_FILE = 4
FIRST_TRAIN = 1_000_000_001
TEXT = h5py.string_dtype()


def source_name(module, naming):
    return f"{DETECTOR}/CORR/{module}CH0:output" if naming == "corr" else f"{DETECTOR}/DET/{module}CH0:xtdf"


def pixel_code(train, pulse, module):
    """First pixels of each frame, different for every frame and module."""
    return [int(train) % 199, int(pulse) % 251, module]


def write_module(
    path, module, trains, pulses=PULSES, naming="raw", dtype="u2", version="1.2", flags=None, run=RUN, column=None
):
    """Write one module file; `naming` is raw, proc (legacy names of corrected data) or corr."""
    n_rows = len(trains) * len(pulses)
    source = source_name(module, naming)
    train_rows = np.repeat(np.asarray(trains, "u8"), len(pulses))
    pulse_rows = np.tile(np.asarray(pulses, "u8"), len(trains))
    cell_rows = np.tile(np.arange(len(pulses), dtype="u2"), len(trains))
    column = naming != "corr" if column is None else column
    with h5py.File(path, "w") as file:
        where = "METADATA" if version == "0.5" else "METADATA/dataSources"
        file.create_dataset(f"{where}/dataSourceId", data=[f"INSTRUMENT/{source}/image", ""], dtype=TEXT)
        if version != "0.5":
            file.create_dataset("METADATA/dataFormatVersion", data=[version], dtype=TEXT)
            file.create_dataset("METADATA/updateDate", data=["20240101T000000Z"], dtype=TEXT)
            file["METADATA/runNumber"] = np.array([run], "u4")
            flags = np.ones(len(trains), "i4") if flags is None else np.asarray(flags, "i4")
            file["INDEX/flag"] = 1 - flags if version == "1.1" else flags
        file["INDEX/trainId"] = np.append(np.asarray(trains, "u8"), np.zeros(3, "u8"))
        group = file.create_group(f"INDEX/{source}/image")
        group["first"] = np.arange(len(trains), dtype="u8") * len(pulses)
        group["count"] = np.full(len(trains), len(pulses), "u8")
        image = file.create_group(f"INSTRUMENT/{source}/image")
        for name, values in (("trainId", train_rows), ("pulseId", pulse_rows), ("cellId", cell_rows)):
            image[name] = values[:, None] if column else values
        shape = (n_rows, 2, 512, 128) if naming == "raw" else (n_rows, 512, 128)
        image.create_dataset("data", shape, dtype)  # contiguous: takes no room where nothing is written
        if naming != "raw":
            image.create_dataset("mask", shape, "u4")
        for row in range(n_rows):
            place = (row, 0, 0) if naming == "raw" else (row, 0)
            image["data"][(*place, slice(3))] = pixel_code(train_rows[row], pulse_rows[row], module)
    return path


def write_run(folder, modules=range(4), n_files=2, naming="raw", **options):
    folder.mkdir(parents=True, exist_ok=True)
    category = "RAW" if naming == "raw" else "CORR"
    return [
        write_module(
            folder / f"{category}-R{RUN:04d}-AGIPD{module:02d}-S{sequence:05d}.h5",
            module,
            FIRST_TRAIN + np.arange(TRAINS_PER_FILE) + TRAINS_PER_FILE * sequence,
            naming=naming,
            **options,
        )
        for module in modules
        for sequence in range(n_files)
    ]


def check(files, folder, **changes):
    """Run the check; gives the report and the path of the frame table."""
    options = {"run": RUN, "stream": "raw", "detector": DETECTOR, "modules": [0, 1, 2, 3], "min_modules": None}
    options |= {"max_lost": 0.5, "policy": "beamtime", "sizes": {}, "attributes": {}}
    frames = folder / "frames/r0050.h5"
    report = integrity.check_run(files, frames, folder / "integrity/r0050.json", **(options | changes))
    return report, frames


def kept_frames(frames):
    """Read the frame table, and require that every source row carries the ids that the table says."""
    held = layout.read_layout(frames)
    order = np.lexsort((held.pulse_id, held.train_id))
    np.testing.assert_array_equal(order, np.arange(len(order)))
    for module in range(16):
        file, row = layout.source_rows(held, module)
        np.testing.assert_array_equal(file >= 0, layout.is_present(held.modules, module))
        for number in np.unique(file[file >= 0]):
            recorded = held.files.iloc[number]
            mine = file == number
            with h5py.File(layout.source_path(frames, recorded["name"])) as source:
                image = source[f"INSTRUMENT/{recorded.source}/image"]
                assert f"/{module}CH0:" in recorded.source
                for name, values in (("trainId", held.train_id), ("pulseId", held.pulse_id), ("cellId", held.cell_id)):
                    np.testing.assert_array_equal(image[name][()].reshape(-1)[row[mine]], values[mine])
    return held
