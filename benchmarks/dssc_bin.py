"""Binning one DSSC module from a cold cache on 2 threads, against reading the same bytes; and its memory.

100 bins of 4 frame names, uncompressed raw frames as the data acquisition writes them. Timed is the whole job, with the
writing of the sums. The data lie in the directory for temporary files (TMPDIR), which has to be on a disk, with 5 GB
free. Peak memory [MB] is that of a process of its own, with 1, 2 and 4 quarters of the trains.
"""

import mmap
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from common import forget, interleaved, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from pulsetrain.detector import DSSC_SHAPE  # noqa: E402
from pulsetrain.dssc_selection import Selection, write_selection  # noqa: E402
from pulsetrain.dssc_sums import bin_module  # noqa: E402
from pulsetrain.layout import RunLayout, write_layout  # noqa: E402

FRAMES_PER_TRAIN = 80
N_TRAINS = 400
N_BINS = 100
NAMES = ["pumped", "pumped_dark", "unpumped", "unpumped_dark"]
THREADS = 2
ROUNDS = 5
CHUNK = 32
PART = 4 * 1024**2


def write_frames(path):
    """One raw file of 4.2 GB."""
    random = np.random.default_rng(1)
    block = np.rint(random.normal(45, 4, (4 * CHUNK, 1, *DSSC_SHAPE))).astype("u2")
    n_frames = N_TRAINS * FRAMES_PER_TRAIN
    with h5py.File(path, "w") as file:
        name = "INSTRUMENT/DET/image/data"
        data = file.create_dataset(name, (n_frames, 1, *DSSC_SHAPE), "u2", chunks=(CHUNK, 1, *DSSC_SHAPE))
        for first in range(0, n_frames, len(block)):
            data[first : first + len(block)] = block
    forget(path)


def write_tables(folder, path, n_trains):
    """Frame table and selection of the first trains: the scan moves on every few trains, one in ten is left out."""
    train, frame = np.divmod(np.arange(n_trains * FRAMES_PER_TRAIN), FRAMES_PER_TRAIN)
    files = {"name": [path.name], "source": ["DET"], "size": [path.stat().st_size], "format_version": ["1.2"]}
    files |= {"update_date": [""], "index_sha256": [""], "problem": [""], "module": [0], "sequence": [0]}
    segments = {"module": [0], "file": [0], "source_start": [0], "frame_start": [0], "count": [len(train)]}
    layout = RunLayout(
        train.astype("u8"),
        frame.astype("u8"),
        frame.astype("u2"),
        np.ones(len(train), "u4"),
        pd.DataFrame(files | {"rows": [len(train)]}),
        pd.DataFrame(segments),
        {},
    )
    chosen = np.where(train % 10 == 9, -1, train * N_BINS // n_trains).astype("i4")
    used, place = np.unique(chosen[chosen >= 0], return_inverse=True)
    chosen[chosen >= 0] = place
    name = (frame % len(NAMES)).astype("u1")
    attributes = {"run": 1, "scan": "delay", "units": "ps", "energy_units": ""}
    selection = Selection(NAMES, used * 0.1, chosen, name, np.full(len(train), np.nan), attributes)
    tables = folder / f"frames{n_trains}.h5", folder / f"selection{n_trains}.h5"
    with h5py.File(tables[0], "w") as file:
        write_layout(file, layout)
    with h5py.File(tables[1], "w") as file:
        write_selection(file, selection)
        file.attrs.update(attributes)
    return tables, chosen >= 0


def reader(path, used):
    """Nothing but reading the frames that are used, into page-aligned memory."""
    with h5py.File(path) as file:
        found = []
        file["INSTRUMENT/DET/image/data"].id.chunk_iter(found.append)
    begin = min(chunk.byte_offset for chunk in found)
    frame_bytes = 2 * int(np.prod(DSSC_SHAPE))
    edges = np.flatnonzero(np.diff(np.concatenate([[0], used, [0]])))
    spans = [
        (begin + place, min(PART, last * frame_bytes - place))
        for first, last in edges.reshape(-1, 2).tolist()
        for place in range(first * frame_bytes, last * frame_bytes, PART)
    ]
    pool = ThreadPoolExecutor(THREADS)
    buffers = [memoryview(mmap.mmap(-1, PART)) for _ in range(THREADS)]

    def read(thread, descriptor):
        for place, length in spans[thread::THREADS]:
            os.preadv(descriptor, [buffers[thread][:length]], place)

    def run():
        descriptor = os.open(path, os.O_RDONLY)
        list(pool.map(lambda thread: read(thread, descriptor), range(THREADS)))
        os.close(descriptor)

    return run


def peak_mb(tables, output):
    """Peak memory of a process that bins a module."""
    command = [sys.executable, __file__, *map(str, tables), str(output)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def run_alone(frames, selection, output):
    bin_module(frames, selection, output, {}, module=0, threads=THREADS)
    print(int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024)


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        path, output = folder / "module.h5", folder / "sums.h5"
        write_frames(path)
        tables, used = write_tables(folder, path, N_TRAINS)
        print(f"# {THREADS} threads, {used.sum()} frames, {used.sum() * 131072 / 1e9:.1f} GB, {N_BINS} bins")
        candidates = {
            "ours": lambda: bin_module(*tables, output, {}, module=0, threads=THREADS),
            "read": reader(path, used),
        }
        best = interleaved(candidates, ROUNDS, before=lambda: forget(path))
        report("dssc_bin_vs_read", best["ours"] / best["read"], "<= 2")
        print(f"# {used.sum() * 131072 / 1e9 / best['read']:.2f} GB/s read")
        for part in (4, 2, 1):
            of_part, _ = write_tables(folder, path, N_TRAINS // part)
            print(
                f"dssc_bin_peak_mb_{N_TRAINS // part}_trains = {peak_mb(of_part, output):.0f}  # goal: < 2000",
                flush=True,
            )


if __name__ == "__main__":
    run_alone(*sys.argv[1:]) if len(sys.argv) > 1 else main()
