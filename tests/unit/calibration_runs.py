"""Small calibration measurements in both layouts, and a plain gathering of them.

Written with plain h5py, so that the tests do not lean on the project's own writers.
"""

import h5py
import numpy as np

DETECTOR = "SPB_DET_AGIPD1M-1"
FIRST_TRAIN = 1_500_000_000
TEXT = h5py.string_dtype()
ADC = 1 << 14


def random_pairs(shape, seed=0):
    """Random images (*shape, 2, 128, 512)."""
    return np.random.default_rng(seed).integers(0, ADC, (*shape, 2, 128, 512)).astype("u2")


def write_nexus(path, frames, dataset="entry/instrument/detector/data", **options):
    """One part; `frames` (N, 128, 512)."""
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, data=frames, **options)
    return path


def write_parts(folder, pairs, lengths, stem="M314_m7_dark_part", **options):
    """Cut the pairs (n, C, 2, 128, 512) into parts with given numbers of frames; the last takes what is left."""
    frames = pairs.reshape(-1, 128, 512)
    bounds = [0, *np.cumsum(lengths).tolist(), len(frames)]
    folder.mkdir(parents=True, exist_ok=True)
    return [
        write_nexus(folder / f"{stem}{number:05d}.nxs", frames[bounds[number] : bounds[number + 1]], **options)
        for number in range(len(bounds) - 1)
    ]


def write_sequence(path, module, rows, images, run=900, source=None, index=None, dtype="u2", version="1.2", **options):
    """One source file of a raw run.

    rows : list of (train, pulse, cell); images : (N, 2, 512, 128); index : {train: train as INDEX has it}.
    """
    source = f"{DETECTOR}/DET/{module}CH0:xtdf" if source is None else source
    ids = np.array(rows, dtype="u8").reshape(-1, 3)
    trains, first, count = np.unique(ids[:, 0], return_index=True, return_counts=True)
    order = np.argsort(first)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset("METADATA/dataSources/dataSourceId", data=[f"INSTRUMENT/{source}/image"], dtype=TEXT)
        file.create_dataset("METADATA/dataFormatVersion", data=[version], dtype=TEXT)
        file["METADATA/runNumber"] = np.array([run], "u4")
        named = [(index or {}).get(int(train), int(train)) for train in trains[order]]
        file["INDEX/trainId"] = np.array(named, "u8")
        file["INDEX/flag"] = np.ones(len(trains), "i4")
        file[f"INDEX/{source}/image/first"] = first[order].astype("u8")
        file[f"INDEX/{source}/image/count"] = count[order].astype("u8")
        image = file.create_group(f"INSTRUMENT/{source}/image")
        for column, (name, kind) in enumerate((("trainId", "u8"), ("pulseId", "u8"), ("cellId", "u2"))):
            image[name] = ids[:, column].astype(kind)[:, None]
        image.create_dataset("data", data=np.asarray(images, dtype).reshape(len(ids), 2, 512, 128), **options)
    return path


def name(module, sequence, run=900, category="RAW"):
    return f"{category}-R{run:04d}-AGIPD{module:02d}-S{sequence:05d}.h5"


def write_run(folder, module, pairs, cells, run=900, trains=None, cut=None, order=None, **options):
    """A run of two sequence files whose trains have the lab-oriented pairs (n, m, 2, 128, 512) of some cells.

    trains : number of each train, counted from the first; cut : trains in the first file; order : {place of a train:
    order of its cells in the file}.
    """
    n = len(pairs)
    trains = range(n) if trains is None else trains
    cut = n // 2 if cut is None else cut
    files = []
    for sequence, places in enumerate((range(cut), range(cut, n))):
        rows, images = [], []
        for place in places:
            turn = (order or {}).get(place, range(len(cells)))
            for pulse, k in enumerate(turn):
                rows.append((FIRST_TRAIN + trains[place], 4 * pulse, cells[k]))
                images.append(to_xfel(pairs[place, k], module))
        images = np.array(images) if images else np.empty((0, 2, 512, 128), "u2")
        files.append(write_sequence(folder / name(module, sequence, run), module, rows, images, run, **options))
    return files


def to_xfel(images, module):
    """lab[j, i] = xfel[511 - i, j] in modules 0-7, xfel[i, 127 - j] in modules 8-15: written out, the other way."""
    xfel = np.empty((*images.shape[:-2], 512, 128), images.dtype)
    for j in range(128):
        if module < 8:
            xfel[..., ::-1, j] = images[..., j, :]
        else:
            xfel[..., :, 127 - j] = images[..., j, :]
    return xfel


def merge_columns(groups):
    """Take from each of four scans the columns that its current source drives."""
    merged = np.empty_like(groups[0])
    for i, images in enumerate(groups):
        merged[..., :64, 3 - i :: 4] = images[..., :64, 3 - i :: 4]
        merged[..., 64:, i::4] = images[..., 64:, i::4]
    return merged


def read_gathered(path):
    """Everything in a gathered file: ({dataset: values}, attributes, {dataset: chunks})."""
    with h5py.File(path) as file:
        held = {key: values[()] for key, values in file.items()}
        return held, dict(file.attrs), {key: values.chunks for key, values in file.items()}
