"""The pixel pass of one module against pure decompression, pure reading, and a plain loop over frames.

352 memory cells, 0.025 photons per pixel on average, synthetic. The data lie in the directory for temporary files
(TMPDIR), which has to be on a disk, with 2 GB free. Timed are opening, looking up the chunks, reading and counting; not
the writing of the result, which does not grow with the number of frames.
"""

import mmap
import os
import sys
import tempfile
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import deflate
import h5py
import numpy as np
import pandas as pd
from common import forget, interleaved, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

from pulsetrain.constants import prepare_constants  # noqa: E402
from pulsetrain.detector import PIXELS  # noqa: E402
from pulsetrain.layout import RunLayout  # noqa: E402
from pulsetrain.litpixels import count_frames  # noqa: E402
from pulsetrain.photons import Conversion  # noqa: E402

N_CELLS = 352
THREADS = 2
PACKED_FRAMES = 8192
RAW_FRAMES = 4096
DISTINCT = 256
LOOP_FRAMES = 256
MEAN = 0.025
DATASET = "INSTRUMENT/DET/image/data"
ENERGY_KEV = 9.3
ADU_PER_PHOTON = 65


def images(random):
    """Sparse photons with some brighter frames, (DISTINCT, 512, 128) uint8."""
    slow, fast = np.mgrid[:512, :128]
    profile = 1 / (np.hypot(slow - 256, fast + 20) + 10) ** 2
    profile = np.minimum(0.5 + 0.5 * profile / profile.mean(), 20)
    brightness = np.where(random.random(DISTINCT) < 0.05, 6, 1)
    brightness = brightness / brightness.mean()
    return random.poisson(MEAN * profile / profile.mean() * brightness[:, None, None]).astype("u1")


def write_packed(path, photons, dtype):
    """One frame per chunk, gzip 1 and shuffle."""
    with h5py.File(path, "w") as file:
        shape = (PACKED_FRAMES, 512, 128)
        data = file.create_dataset(
            DATASET, shape, dtype, chunks=(1, 512, 128), compression="gzip", compression_opts=1, shuffle=True
        )
        itemsize = np.dtype(dtype).itemsize
        chunks = []
        for image in photons:
            planes = image.astype(dtype).reshape(-1).view("u1").reshape(-1, itemsize).T
            chunks.append(zlib.compress(np.ascontiguousarray(planes).tobytes(), 1))
        for frame in range(PACKED_FRAMES):
            data.id.write_direct_chunk((frame, 0, 0), chunks[frame % DISTINCT])


def write_raw(path, photons, offset, random):
    """Uncompressed chunks of 16 frames."""
    with h5py.File(path, "w") as file:
        data = file.create_dataset(DATASET, (RAW_FRAMES, 2, 512, 128), "u2", chunks=(16, 2, 512, 128))
        noise = random.normal(0, 9, (16, 512, 128)).astype("f4")
        values = np.empty((16, 2, 512, 128), "u2")
        for first in range(0, RAW_FRAMES, 16):
            frames = np.arange(first, first + 16)
            lit = photons[frames % DISTINCT].astype("f4") * ADU_PER_PHOTON
            values[:, 0] = np.rint(offset[frames % N_CELLS] + lit + np.roll(noise, first, axis=2))
            values[:, 1] = 6200
            data[first : first + 16] = values
    forget(path)


def layout_of(path, n_frames, stream, dtype):
    frames = np.arange(n_frames)
    files = {"name": [path.name], "source": ["DET"], "size": [path.stat().st_size]}
    segments = {"module": [0], "file": [0], "source_start": [0], "frame_start": [0], "count": [n_frames]}
    return RunLayout(
        (frames // N_CELLS).astype("u8"),
        (frames % N_CELLS).astype("u8"),
        (frames % N_CELLS).astype("u2"),
        np.ones(n_frames, "u4"),
        pd.DataFrame(files),
        pd.DataFrame(segments),
        {"stream": stream, "data_dtype": dtype},
    )


def counter(path, n_frames, stream, dtype, good, conversion, threads=THREADS):
    layout = layout_of(path, n_frames, stream, dtype)
    region = np.full(PIXELS, 255, np.uint8)
    cells = np.arange(N_CELLS)
    return lambda: count_frames(layout, path, 0, cells, good, region, conversion, threads=threads)


def inflater(path):
    """Nothing but decompression of the same chunks, held in memory."""
    content = path.read_bytes()
    found = []
    with h5py.File(path) as file:
        file[DATASET].id.chunk_iter(found.append)
        n_bytes = PIXELS * file[DATASET].dtype.itemsize
    chunks = [memoryview(content)[c.byte_offset : c.byte_offset + c.size] for c in found]
    pool = ThreadPoolExecutor(THREADS)

    def part(first):
        for chunk in chunks[first : first + 256]:
            deflate.zlib_decompress(chunk, n_bytes)

    return lambda: list(pool.map(part, range(0, len(chunks), 256)))


def packed_loop(path, good):
    """Frame by frame through h5py and numpy."""
    masks = good.reshape(-1, 512, 128) != 0
    region = np.ones((512, 128), bool)

    def run():
        with h5py.File(path) as file:
            data = file[DATASET]
            frame = np.empty((512, 128), data.dtype)
            powder = np.zeros((512, 128), "u8")
            for i in range(LOOP_FRAMES):
                data.read_direct(frame, np.s_[i])
                frame *= masks[i % N_CELLS]
                np.sum(frame > 0)
                np.sum(frame)
                powder += frame
                frame *= region
                np.sum(frame)

    return run


def high_gain_loop(path, good, offset):
    """Frame by frame through h5py and numpy, as if every pixel were in high gain with one gain for all."""
    masks = good.reshape(-1, 512, 128) != 0
    region = np.ones((512, 128), bool)

    def run():
        with h5py.File(path) as file:
            data = file[DATASET]
            frame = np.empty((2, 512, 128), data.dtype)
            powder = np.zeros((512, 128), "u8")
            for i in range(LOOP_FRAMES):
                data.read_direct(frame, np.s_[i])
                photons = np.rint((frame[0] - offset[i % N_CELLS]) / ADU_PER_PHOTON)
                photons[photons < 0] = 0
                photons *= masks[i % N_CELLS]
                np.sum(photons > 0)
                np.sum(photons)
                powder += photons.astype("u8")
                photons *= region
                np.sum(photons)

    return run


def raw_loop(path, good, constants):
    """Frame by frame through h5py and numpy, with the three gain stages: what ours computes."""
    masks = good.reshape(-1, 512, 128) != 0
    region = np.ones((512, 128), bool)
    offsets, gains, thresholds = (array.reshape(len(array), N_CELLS, 512, 128) for array in constants)
    photons_per_adu = gains / np.float32(ENERGY_KEV)

    def run():
        counts = np.zeros((LOOP_FRAMES, 3), "u8")
        with h5py.File(path) as file:
            data = file[DATASET]
            frame = np.empty((2, 512, 128), data.dtype)
            powder = np.zeros((N_CELLS, 512, 128), "u4")
            for i in range(LOOP_FRAMES):
                cell = i % N_CELLS
                data.read_direct(frame, np.s_[i])
                stage = (frame[1] > thresholds[0, cell]).astype("u1") + (frame[1] > thresholds[1, cell])
                value = frame[0].astype("f4") - np.choose(stage, offsets[:, cell])
                value *= np.choose(stage, photons_per_adu[:, cell])
                photons = np.clip(np.floor(value + np.float32(0.5)), 0, 65535).astype("u2")
                photons *= masks[cell]
                counts[i, 0] = np.sum(photons > 0)
                counts[i, 1] = np.sum(photons)
                powder[cell] += photons
                photons *= region
                counts[i, 2] = np.sum(photons)
        return counts

    return run


def reader(path):
    """Nothing but reading the same bytes, into page-aligned memory."""
    size = path.stat().st_size
    part = 4 * 1024**2
    pool = ThreadPoolExecutor(THREADS)
    buffers = [memoryview(mmap.mmap(-1, part)) for _ in range(THREADS)]

    def read(thread, descriptor):
        for begin in range(thread * part, size, THREADS * part):
            os.preadv(descriptor, [buffers[thread]], begin)

    def run():
        descriptor = os.open(path, os.O_RDONLY)
        list(pool.map(lambda thread: read(thread, descriptor), range(THREADS)))
        os.close(descriptor)

    return run


def bench_packed(folder, photons, good, rounds):
    conversion = Conversion(np.float32(1), np.float32(0.5), None, False, False)
    for name, dtype in (("u8", "uint8"), ("f4", "float32")):
        path = folder / f"{name}.h5"
        write_packed(path, photons, dtype)
        candidates = {
            "ours": counter(path, PACKED_FRAMES, "proc", dtype, good, conversion),
            "inflate": inflater(path),
        }
        if name == "u8":
            candidates["one thread"] = counter(path, PACKED_FRAMES, "proc", dtype, good, conversion, threads=1)
            candidates["loop"] = packed_loop(path, good)
        best = interleaved(candidates, rounds)
        report(f"litpixels_gzip_{name}_vs_decompress", best["ours"] / best["inflate"], "<= 1.6")
        if name == "u8":
            loop = best["loop"] / LOOP_FRAMES * PACKED_FRAMES
            report("litpixels_gzip_u8_vs_loop", loop / best["ours"], ">= 10")
            report("litpixels_gzip_u8_threads_2_vs_1", best["one thread"] / best["ours"], "> 1.6")


def bench_raw(folder, photons, good, random, rounds):
    offset = random.normal(5000, 200, (1, 512, 128)) + random.normal(0, 40, (N_CELLS, 1, 128))
    path = folder / "raw.h5"
    write_raw(path, photons, offset, random)
    offsets = np.empty((3, N_CELLS, PIXELS), "f4")
    offsets[:] = offset.reshape(N_CELLS, PIXELS)
    gains = np.full((3, N_CELLS, PIXELS), ENERGY_KEV / ADU_PER_PHOTON, "f4")
    thresholds = np.empty((2, N_CELLS, PIXELS), "i2")
    thresholds[0], thresholds[1] = 6600, 7600
    # prepare_constants works in place.
    loop = raw_loop(path, good, (offsets.copy(), gains.copy(), thresholds.copy()))
    conversion = Conversion(
        np.float32(1), np.float32(0.5), prepare_constants(offsets, gains, thresholds, ENERGY_KEV), False, False
    )
    ours = counter(path, RAW_FRAMES, "raw", "uint16", good, conversion)
    best = interleaved({"ours": ours, "read": reader(path)}, rounds, before=lambda: forget(path))
    report("litpixels_raw_cold_vs_read", best["ours"] / best["read"], "<= 1.15")
    counted, expected = ours(), loop()
    np.testing.assert_array_equal(counted.counts[:LOOP_FRAMES, :3], expected)
    less = high_gain_loop(path, good, offset.astype("f4"))
    best = interleaved({"ours": ours, "loop": loop, "less": less}, rounds)
    ours_per_frame = best["ours"] / RAW_FRAMES
    report("litpixels_raw_warm_vs_loop", best["loop"] / LOOP_FRAMES / ours_per_frame, ">= 8")
    report("litpixels_raw_warm_vs_high_gain_loop", best["less"] / LOOP_FRAMES / ours_per_frame, "> 1")


def main(rounds=15):
    random = np.random.default_rng(1)
    photons = images(random)
    good = np.where(random.random((N_CELLS, PIXELS)) < 0.03, np.uint8(0), np.uint8(255))
    print(f"# {THREADS} threads, {PACKED_FRAMES} frames packed, {RAW_FRAMES} raw, {photons.mean():.3f} photons/pixel")
    with tempfile.TemporaryDirectory() as folder:
        bench_packed(Path(folder), photons, good, rounds)
        bench_raw(Path(folder), photons, good, random, rounds)


if __name__ == "__main__":
    main()
