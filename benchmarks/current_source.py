"""Current-source scans against a plain loop over pixels with numpy and SciPy, and against reading.

800 points, synthetic pixels with three gain stages, noise, settling, spikes and dead ones (tests/scan_reference.py).
The data lie in the directory for temporary files (TMPDIR), which has to be on a disk, with 4 GB free, and are removed
afterwards. Timed from the file is all from opening it to the finished outputs.
"""

import mmap
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from common import forget, interleaved, report

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import scan_reference  # noqa: E402

from pulsetrain.current_source import fit_scan, process_current_source  # noqa: E402

N_POINTS = 800
MODULE = 3
SPIKE_HEIGHT, TRIM = 300, 0.10
DISTINCT_TILES = 8
TILE_PIXELS = 64 * 64
LOOP_PIXELS = 500
WARM_CELLS = 8
COLD_CELLS = 16
MODULE_CELLS = 352
PIXELS = 128 * 512


def write_gathered(path, tiles, time, cells):
    """A gathered file of some memory cells, chunk by chunk."""
    n, step = len(time), 128
    with h5py.File(path, "w") as file:
        file.attrs.update({"module": MODULE, "kind": "current_source", "orientation": "lab", "layout": "nxs"})
        for name, which in (("analog", 0), ("digital", 1)):
            data = file.create_dataset(name, (n, cells, 128, 512), "<i2", chunks=(step, 1, 64, 64))
            chunk = np.zeros((step, 64, 64), "<i2")
            for cell in range(cells):
                for tile in range(16):
                    values = tiles[(tile + 3 * cell) % len(tiles)][which].reshape(n, 64, 64)
                    row, column = 64 * (tile // 8), 64 * (tile % 8)
                    for first in range(0, n, step):
                        part = values[first : first + step]
                        chunk[: len(part)] = part
                        data.id.write_direct_chunk((first, cell, row, column), chunk)
        file["integrationTime"] = time
        file["cellPresent"] = np.ones(cells, bool)
    forget(path)


def ours(path, folder, threads):
    def run():
        outputs = folder / "gains.h5", folder / "means.h5"
        process_current_source(path, *outputs, {}, module=MODULE, spike_height=SPIKE_HEIGHT, trim=TRIM, threads=threads)

    return run


def reader(path, threads, part=4 * 1024**2):
    """Nothing but reading the same bytes, into page-aligned memory."""
    size = path.stat().st_size
    buffers = [memoryview(mmap.mmap(-1, part)) for _ in range(threads)]

    def read(thread, descriptor):
        for begin in range(thread * part, size, threads * part):
            os.preadv(descriptor, [buffers[thread]], begin)

    def run():
        descriptor = os.open(path, os.O_RDONLY)
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(lambda thread: read(thread, descriptor), range(threads)))
        os.close(descriptor)

    return run


def bench_one_core(folder, rounds):
    """The loop, the same pixels in memory, and a file, each on one core."""
    tiles = [scan_reference.simulate_scan(TILE_PIXELS, seed) for seed in range(DISTINCT_TILES)]
    analog, digital, truth = tiles[0]
    few = [np.ascontiguousarray(values[:, ~truth.is_dead][:, :LOOP_PIXELS]) for values in (analog, digital)]
    path = folder / "warm.h5"
    write_gathered(path, tiles, truth.time, WARM_CELLS)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        best = interleaved(
            {
                "loop": lambda: scan_reference.fit_scan(*few, truth.time, SPIKE_HEIGHT, TRIM),
                "memory": lambda: [fit_scan(*tile[:2], truth.time, SPIKE_HEIGHT, TRIM) for tile in tiles],
                "file": ours(path, folder, 1),
                "read": reader(path, 1),
            },
            rounds,
        )
    finally:
        os.sched_setaffinity(0, before)
    loop = best["loop"] / LOOP_PIXELS
    in_memory = DISTINCT_TILES * TILE_PIXELS
    in_file = WARM_CELLS * PIXELS
    print(
        f"# {loop * 1e6:.0f} us per pixel in the loop, {best['memory'] / in_memory * 1e6:.2f} us here, "
        f"{best['file'] / in_file * 1e6:.2f} us from the file, {best['read'] / in_file * 1e6:.2f} us of it for reading"
    )
    report("current_source_vs_scipy", loop / (best["memory"] / in_memory), ">= 300")
    report("current_source_file_vs_scipy", loop / (best["file"] / in_file), ">= 220")
    path.unlink()
    return tiles, truth.time


def bench_cold(folder, tiles, time, rounds):
    """Two threads, from disk."""
    path = folder / "cold.h5"
    write_gathered(path, tiles, time, COLD_CELLS)
    size = path.stat().st_size
    candidates = {"ours": ours(path, folder, 2)}
    # The disk is read as well as it can be: the best of these is what ours is compared with.
    candidates |= {f"{threads} x {part} MB": reader(path, threads, part * 1024**2) for threads, part in READERS}
    best = interleaved(candidates, rounds, before=lambda: forget(path))
    name = min((name for name in best if name != "ours"), key=best.get)
    print(
        f"# {size / 1e9:.2f} GB, {COLD_CELLS} memory cells, 2 threads; plain reading is fastest with {name}: "
        f"{size / best[name] / 1e9:.2f} GB/s"
    )
    report("current_source_cold_vs_read", best["ours"] / best[name], "<= 1.3")
    whole = MODULE_CELLS / COLD_CELLS
    print(
        f"# a module of {MODULE_CELLS} memory cells, extrapolated: {size * whole / 1e9:.0f} GB, "
        f"{best[name] * whole:.0f} s to read, {best['ours'] * whole:.0f} s to process"
    )


READERS = ((2, 4), (2, 16), (4, 4))


def main(rounds=7):
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        tiles, time = bench_one_core(folder, rounds)
        bench_cold(folder, tiles, time, rounds)


if __name__ == "__main__":
    main()
