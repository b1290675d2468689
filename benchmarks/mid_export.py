"""The MID export with the dark correction on 2 threads, from cold cache, against plain reading.

`mid_export_vs_read`: AGIPD alone, 2 modules, 16 pulses of 128 trains, 1.1 GB: each frame that is read is corrected. The
export writes three times what it reads, which is what limits it; so `mid_export_vs_read_and_write` compares with
reading the same bytes and writing as many, without looking at them, and `mid_export_without_correction_vs_read` is the
default export, virtual data alone.

`mid_export_example_vs_read_files`: the older program's own example, modules 13 and 14, one pulse of the four of each
train, both ePix; 600 trains, 2.6 GB, against reading all of these files. The export refers to the ePix frames, and does
not read them or the other pulses: this is no figure of the same bytes, and has no goal.

All flush to the disk. The data lie in the directory for temporary files (TMPDIR), which has to be on a disk, with 6 GB
free. The figures are of synthetic data.
"""

import logging
import mmap
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
from common import forget, interleaved, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from pulsetrain import simulate, simulate_detector, simulate_files, simulate_mid  # noqa: E402
from pulsetrain.integrity import check_run  # noqa: E402
from pulsetrain.mid_export import Correction, export_mid  # noqa: E402

MODULES = [13, 14]
RUN = 110
THREADS = 2
ROUNDS = 5
BLOCK = 32
PART = 4 * 1024**2


def write_pixels(file, source, settings, _run, module, plan):
    """Raw frames whose noise is that of the same 32 frames again and again; a medium-gain pixel in every fourth one."""
    shape = (len(plan.frame), 2, 512, 128)
    data = file.create_dataset(f"INSTRUMENT/{source}/image/data", shape, "u2", chunks=(BLOCK, 2, 512, 128))
    random = np.random.default_rng(module)
    values = np.empty((BLOCK, 2, 512, 128), "u2")
    values[:, 1] = 6000 + random.normal(0, 15, (BLOCK, 512, 128))
    values[::4, 1, 7, 7] = 7200
    noise = random.normal(0, 8, (BLOCK, 512, 128)).astype("f4")
    for first in range(0, len(plan.frame), BLOCK):
        cells = plan.cell_id[first : first + BLOCK]
        for i, cell in enumerate(cells):
            pedestal, _ = simulate_detector._cached_constants(simulate._key(settings), module, int(cell))
            values[i, 0] = pedestal[0] + np.roll(noise[i], first)
        data[first : first + BLOCK] = values[: len(cells)]


def write_run(folder, settings):
    """Write module files, ePix files and dark file; give the frame table, and the paths of modules and of both ePix."""
    simulate_files._write_raw_pixels = write_pixels
    named = simulate_files.run_files(folder / "data", settings, RUN, "raw")["modules"]
    for module, paths in named.items():
        for sequence, path in enumerate(paths):
            simulate_files.write_module_file(path, settings, RUN, "raw", module, sequence)
    epix = simulate_mid.epix_files(folder / "data", RUN, [1, 2])
    for number, paths in epix.items():
        for sequence, path in enumerate(paths):
            simulate_mid.write_epix_file(path, settings, RUN, number, sequence)
    simulate_mid.write_dark(folder / "dark.h5", settings)
    agipd = [path for paths in named.values() for path in paths]
    frames = folder / "frames.h5"
    check_run(
        agipd, frames, folder / "r.json", RUN, "raw", settings["detector"], MODULES, None, 0.1, "beamtime", {}, {}
    )  # fmt: skip
    return frames, agipd, [path for paths in epix.values() for path in paths]


def exporter(folder, settings, frames, epix, name, pulse_ids, correction):
    def run():
        export_mid(
            frames,
            epix,
            folder / name,
            {},
            run=RUN,
            stream="raw",
            detector=settings["detector"],
            modules=MODULES,
            numbers=[1, 2] if epix else [],
            pulse_ids=pulse_ids,
            max_lost=0.1,
            sizes={},
            correction=correction,
            threads=THREADS,
        )

    return run


def reader(paths, use=lambda _: None):
    """Read files in large parts on 2 threads, into page-aligned memory; `use` gets each part."""
    buffers = [memoryview(mmap.mmap(-1, PART)) for _ in range(THREADS)]

    def read(thread):
        for path in paths:
            descriptor = os.open(path, os.O_RDONLY)
            for begin in range(thread * PART, os.fstat(descriptor).st_size, THREADS * PART):
                os.preadv(descriptor, [buffers[thread]], begin)
                use(buffers[thread])
            os.close(descriptor)

    def run():
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(read, range(THREADS)))

    return run


def copier(paths, target, n_bytes):
    """Read files, and meanwhile write `n_bytes` from the same memory: three or so times what is read."""
    size = sum(Path(path).stat().st_size for path in paths)

    def run():
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        state = {"read": 0, "written": 0}

        def write(part):
            state["read"] += len(part)
            while state["written"] * size < state["read"] * n_bytes:
                state["written"] += os.write(descriptor, part)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)

        reader(paths, write)()
        os.fsync(descriptor)
        os.close(descriptor)

    return run


def measure(folder, trains, cells, pulse_ids, with_epix):
    """Time export, export without correction, reading its input, and copying as many bytes; print the sizes."""
    settings = simulate.settings(
        "tiny", trains=trains, cells=cells, sequences=2, modules=MODULES, detector="MID_DET_AGIPD1M-1"
    )
    frames, agipd, epix = write_run(folder, settings)
    correction = Correction(str(folder / "dark.h5"), [], [], None, [68.8, 1.376], 20)
    epix = epix if with_epix else []
    ours = exporter(folder, settings, frames, epix, "mid.h5", pulse_ids, correction)
    ours()
    inputs = agipd + epix
    n_bytes = (folder / "mid.h5").stat().st_blocks * 512
    n_read = sum(Path(path).stat().st_size for path in inputs)
    with h5py.File(folder / "mid.h5") as file:
        shares = [file["data/AGIPD_corrected"].attrs[name][0] for name in ("high", "medium")]
    print("# pixels in high and medium gain:", ", ".join(f"{share:.6f}" for share in shares))

    def before():
        for result in ("mid.h5", "copy"):
            (folder / result).unlink(missing_ok=True)
        os.sync()
        for path in inputs:
            forget(path)

    candidates = {
        "ours": ours,
        "virtual": exporter(folder, settings, frames, epix, "virtual.h5", pulse_ids, None),
        "read": reader(inputs),
        "copy": copier(inputs, folder / "copy", n_bytes),
    }
    best = interleaved(candidates, ROUNDS, before)
    rates = n_read / best["read"] / 1e9, n_bytes / best["ours"] / 1e9
    print(
        f"# {n_read / 1e9:.2f} GB read at {rates[0]:.2f} GB/s; {n_bytes / 1e9:.2f} GB exported at {rates[1]:.2f} GB/s"
    )
    return best


def main():
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as name:
        best = measure(Path(name), trains=128, cells=16, pulse_ids=None, with_epix=False)
    report("mid_export_vs_read", best["ours"] / best["read"], "<= 2")
    report("mid_export_vs_read_and_write", best["ours"] / best["copy"], "<= 1.2")
    report("mid_export_without_correction_vs_read", best["virtual"] / best["read"], "<= 2")
    with tempfile.TemporaryDirectory() as name:
        best = measure(Path(name), trains=600, cells=4, pulse_ids=[4], with_epix=True)
    report("mid_export_example_vs_read_files", best["ours"] / best["read"], "none")


if __name__ == "__main__":
    main()
