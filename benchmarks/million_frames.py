"""Integrity check of a run of 1,000,000 frames and 16 modules against plain h5py reading of the same ids.

Prints ``name = number``: the time of the check as a multiple of the plain reading, and its peak memory [GB]. Only
indices and ids are written; image/data is declared but takes no room. Needs about 400 MB in the temporary directory.
"""

import multiprocessing
import resource
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import h5py
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from pulsetrain.integrity import check_run
from pulsetrain.vds import make_vds

N_FRAMES = 1_000_000
FRAMES_PER_TRAIN = 352
TRAINS_PER_FILE = 256
ID_CHUNK = 512
DETECTOR = "SPB_DET_AGIPD1M-1"


def write_run(folder):
    train_id = np.repeat(np.arange(-(-N_FRAMES // FRAMES_PER_TRAIN), dtype="u8"), FRAMES_PER_TRAIN)[:N_FRAMES]
    pulse_id = np.arange(N_FRAMES, dtype="u8") % FRAMES_PER_TRAIN
    step = TRAINS_PER_FILE * FRAMES_PER_TRAIN
    files = []
    for module in range(16):
        source = f"{DETECTOR}/DET/{module}CH0:xtdf"
        for sequence, begin in enumerate(range(0, N_FRAMES, step)):
            rows = slice(begin, min(begin + step, N_FRAMES))
            trains, first, count = np.unique(train_id[rows], return_index=True, return_counts=True)
            files.append(folder / f"RAW-R0001-AGIPD{module:02d}-S{sequence:05d}.h5")
            with h5py.File(files[-1], "w") as file:
                file["METADATA/dataFormatVersion"] = [b"1.2"]
                file["METADATA/dataSources/dataSourceId"] = [f"INSTRUMENT/{source}/image".encode()]
                file["INDEX/trainId"] = trains + np.uint64(10**9)
                file["INDEX/flag"] = np.ones(len(trains), "i4")
                file[f"INDEX/{source}/image/first"] = first.astype("u8")
                file[f"INDEX/{source}/image/count"] = count.astype("u8")
                image = file.create_group(f"INSTRUMENT/{source}/image")
                for name, values in (
                    ("trainId", train_id[rows] + np.uint64(10**9)),
                    ("pulseId", pulse_id[rows]),
                    ("cellId", pulse_id[rows].astype("u2")),
                ):
                    image.create_dataset(name, data=values[:, None], chunks=(ID_CHUNK, 1))
                image.create_dataset("data", (len(pulse_id[rows]), 2, 512, 128), "u2")
    return files


def read_ids(files):
    start = time.perf_counter()
    for path in files:
        with h5py.File(path) as file:
            source = f"{DETECTOR}/DET/{path.name[15:17].lstrip('0') or '0'}CH0:xtdf"
            for name in ("INDEX/trainId", f"INDEX/{source}/image/first", f"INDEX/{source}/image/count"):
                file[name][()]
            for name in ("trainId", "pulseId", "cellId"):
                file[f"INSTRUMENT/{source}/image/{name}"][()]
    return time.perf_counter() - start


def check(files, folder):
    start = time.perf_counter()
    frames, integrity = folder / "frames/r0001.h5", folder / "integrity/r0001.json"
    report = check_run(files, frames, integrity, 1, "raw", DETECTOR, list(range(16)), None, 0.1, "strict", {}, {})
    checked = time.perf_counter()
    make_vds(frames, folder / "vds/r0001_vds_raw.h5", [], DETECTOR, "raw", "auto", 9.2, "", {})
    if report["frames"]["kept"] != N_FRAMES:
        raise RuntimeError(report["summary"])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return checked - start, time.perf_counter() - checked, peak


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = write_run(folder)
        plain = min(read_ids(files) for _ in range(2))
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            checked, mapped, peak = pool.submit(check, files, folder).result()
    print(f"million_frames_check_over_plain_read = {checked / plain:.2f}")
    print(f"million_frames_vds_over_plain_read = {mapped / plain:.2f}")
    print(f"million_frames_check_peak_gb = {peak:.2f}")
    print(f"check {checked:.1f} s, plain reading {plain:.1f} s, VDS {mapped:.1f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
