"""Writing hits as CXI and EMC with 2 threads against the plain loops over frames, on simulated hits.

The CXI loop writes the photons alone, frame by frame through h5py with gzip 1 and shuffle; ours also masks, sums,
counts and writes the mask table. The EMC loop reads frame by frame through h5py and searches each frame twice.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import h5py
import numpy as np
from common import interleaved, report

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
from pulsetrain import cxi, emc, simulate
from pulsetrain.detector import MASK_BAD
from pulsetrain.photon_frames import PhotonBlock

N_SIMULATED = 64
N_HITS = 256  # the simulated ones, again and again
BLOCK = 16  # frames of one memory cell at a time, as photon_blocks serves them
THREADS = 2
ROUNDS = 7


def simulated_hits():
    settings = simulate.settings("tiny", trains=N_SIMULATED // 8, cells=8, hit_rate=1.0)
    frames = np.arange(N_HITS)
    simulated = np.arange(N_SIMULATED)
    photons = np.stack([simulate.module_photons(settings, 1, module, simulated) for module in range(16)], axis=1)
    mask = np.where(np.random.default_rng(1).random(cxi.FRAME_SHAPE) < 0.01, np.uint32(MASK_BAD), np.uint32(0))
    photons[:, mask != 0] = 0
    hits = cxi.Hits(
        frames.astype(np.uint64),
        10_000 + frames.astype(np.uint64) // 8,
        frames.astype(np.uint64) % 8,
        (frames // BLOCK).astype(np.uint16),
        np.full(N_HITS, 0xFFFF, np.uint32),
        np.full(N_HITS, 1e-3),
        np.full(N_HITS, 1.35e-10),
    )
    return hits, photons, mask


def write_cxi(path, hits, photons, mask):
    def blocks():
        for start in range(0, N_HITS, BLOCK):
            frames = np.arange(start, start + BLOCK)
            held = photons[start % N_SIMULATED :][:BLOCK]
            yield PhotonBlock(frames, start // BLOCK, held, mask, np.ones((BLOCK, 16), bool), None)

    with h5py.File(path, "w") as file:
        cxi.write_events(file, hits)
        cxi.write_hits(file, hits, blocks(), threads=THREADS)


def write_cxi_loop(path, photons):
    with h5py.File(path, "w") as file:
        packed = {"chunks": (1, *cxi.FRAME_SHAPE), "compression": "gzip", "compression_opts": 1, "shuffle": True}
        data = file.create_dataset("data", (N_HITS, *cxi.FRAME_SHAPE), "u1", **packed)
        for i in range(N_HITS):
            data[i] = np.clip(photons[i % N_SIMULATED], 0, 255)


def write_emc(path, cxi_path, good_pixels, verify):
    with h5py.File(cxi_path) as file:
        emc.write_emc(path, file, good_pixels, THREADS)
        if verify:
            emc.verify_emc(path, file, good_pixels, THREADS)


def write_emc_loop(path, cxi_path):
    parts = [path.with_suffix(suffix) for suffix in (".ones", ".places", ".counts")]
    ones, multi = [], []
    with h5py.File(cxi_path) as file, parts[0].open("wb") as po, parts[1].open("wb") as pm, parts[2].open("wb") as cm:
        data = file[f"{cxi.DETECTOR}/data"]
        for i in range(len(data)):
            frame = data[i].ravel()
            place_ones = np.where(frame == 1)[0]
            place_multi = np.where(frame > 1)[0]
            ones.append(len(place_ones))
            multi.append(len(place_multi))
            place_ones.astype("i4").tofile(po)
            place_multi.astype("i4").tofile(pm)
            frame[place_multi].astype("i4").tofile(cm)
    header = np.zeros(256, "i4")
    header[:2] = len(ones), frame.size
    with path.open("wb") as out:
        for numbers in (header, np.array(ones, "i4"), np.array(multi, "i4")):
            numbers.tofile(out)
        for part in parts:
            with part.open("rb") as held:
                shutil.copyfileobj(held, out)


def main():
    hits, photons, mask = simulated_hits()
    with tempfile.TemporaryDirectory() as folder:
        ours, loop = Path(folder) / "ours.cxi", Path(folder) / "loop.h5"
        seconds = interleaved(
            {
                "ours": lambda: write_cxi(ours, hits, photons, mask),
                "loop": lambda: write_cxi_loop(loop, photons),
            },
            ROUNDS,
        )
        report("write_cxi_vs_loop", seconds["loop"] / seconds["ours"], "at least 5")
        with h5py.File(ours) as one, h5py.File(loop) as two:
            size = one[f"{cxi.DETECTOR}/data"].id.get_storage_size() / two["data"].id.get_storage_size()
        report("cxi_size_vs_loop", size, "at most 1")
        good_pixels = np.ones(cxi.FRAME_SHAPE, bool)
        written, looped = Path(folder) / "ours.emc", Path(folder) / "loop.emc"
        seconds = interleaved(
            {
                "ours": lambda: write_emc(written, ours, good_pixels, False),
                "verified": lambda: write_emc(written, ours, good_pixels, True),
                "loop": lambda: write_emc_loop(looped, ours),
            },
            ROUNDS,
        )
        if written.read_bytes() != looped.read_bytes():
            raise RuntimeError("the two EMC files differ")
        report("write_emc_vs_loop", seconds["loop"] / seconds["ours"], "at least 2")
        report("write_and_verify_emc_vs_loop", seconds["loop"] / seconds["verified"], "at least 1")


if __name__ == "__main__":
    main()
