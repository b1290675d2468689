"""Small sets of hits for the tests of the CXI and EMC outputs."""

import h5py
import numpy as np
from extra_geom import AGIPD_1MGeometry

from pulsetrain import cxi
from pulsetrain.detector import MASK_BAD, MASK_DEAD, MASK_HOT, MASK_INVALID, MASK_MISSING
from pulsetrain.geometry import xyz_map
from pulsetrain.photon_frames import PhotonBlock

ALL_MODULES = 0xFFFF
DISTANCE_M = 0.715


def random_hits(n_hits, n_cells=3, seed=1, missing=()):
    """Hits with random cells; `missing` holds (hit, module)."""
    random = np.random.default_rng(seed)
    modules = np.full(n_hits, ALL_MODULES, dtype=np.uint32)
    for hit, module in missing:
        modules[hit] &= np.uint32(ALL_MODULES ^ (1 << module))
    return cxi.Hits(
        np.sort(random.choice(10 * n_hits, n_hits, replace=False)).astype(np.uint64),
        10_000 + np.arange(n_hits, dtype=np.uint64) // 4,
        np.arange(n_hits, dtype=np.uint64) % 4 * 4,
        random.integers(0, n_cells, n_hits).astype(np.uint16),
        modules,
        random.gamma(30, 1e-4, n_hits),
        np.full(n_hits, 1.3476e-10),
    )


def random_frames(n_hits, mean=0.02, seed=2):
    """Poisson photons with single bright pixels, uint16 (n, 16, 512, 128)."""
    random = np.random.default_rng(seed)
    photons = random.poisson(mean, (n_hits, *cxi.FRAME_SHAPE)).astype(np.uint16)
    for frame in photons:
        frame.flat[random.integers(0, frame.size, 20)] = random.integers(2, 1000, 20)
    return photons


def cell_masks(n_cells, seed=3):
    """Random mask per cell, uint32 (n, 16, 512, 128)."""
    random = np.random.default_rng(seed)
    masks = np.zeros((n_cells, *cxi.FRAME_SHAPE), dtype=np.uint32)
    for mask in masks:
        for bit in (MASK_INVALID, MASK_HOT, MASK_DEAD, MASK_BAD):
            mask.flat[random.integers(0, mask.size, 2000)] |= bit
    return masks


def blocks_by_cell(hits, photons, masks, flagged=None, most=4):
    """Serve the frames as pulsetrain.photon_frames.photon_blocks does: cell by cell, one array used again."""
    shared = np.empty((most, *cxi.FRAME_SHAPE), dtype=np.uint16)
    for cell in np.unique(hits.cell_id):
        of_cell = np.flatnonzero(hits.cell_id == cell)
        for start in range(0, len(of_cell), most):
            rows = of_cell[start : start + most]
            shared[: len(rows)] = photons[rows]
            yield PhotonBlock(
                hits.vds_index[rows].astype(np.int64),
                int(cell),
                shared[: len(rows)],
                masks[cell],
                (hits.modules[rows, None] >> np.arange(16, dtype=np.uint32)) & 1 == 1,
                None if flagged is None else flagged[rows],
            )


def expected_masks(hits, masks, flagged=None):
    """The mask of each hit, uint32 (n, 16, 512, 128), by another way than the code under test."""
    per_hit = masks[hits.cell_id]
    if flagged is not None:
        per_hit = per_hit | np.where(flagged, np.uint32(MASK_BAD), np.uint32(0))
    absent = (hits.modules[:, None] >> np.arange(16, dtype=np.uint32)) & 1 == 0
    per_hit[absent] |= np.uint32(MASK_MISSING)
    return per_hit


def write_cxi_file(path, hits, photons, masks, flagged=None, dtype="uint8", sample="sample", threads=2):
    """Write a whole CXI file from arrays."""
    background = np.full(cxi.FRAME_SHAPE, np.nan, dtype=np.float32)
    background[3] = 0.25
    with h5py.File(path, "w") as file:
        positions = xyz_map(AGIPD_1MGeometry.example(), DISTANCE_M)
        cxi.write_experiment(file, positions, DISTANCE_M, background, 7, "SPB_DET_AGIPD1M-1", sample, 50)
        cxi.write_events(file, hits)
        blocks = blocks_by_cell(hits, photons, masks, flagged)
        cxi.write_hits(file, hits, blocks, dtype, flagged is not None, threads)
    return path
