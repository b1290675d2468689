import h5py
import numpy as np
import pytest
import sum_misses
from pixel_runs import WAYS, photons_reference, random_constants, shifted_raw_frames, write_run, xfel_constants
from test_litpixels import make_data

from pulsetrain import chunks
from pulsetrain.detector import MASK_BAD, MASK_DEAD, MASK_HOT, MASK_MISSING, MODULE_SHAPE
from pulsetrain.photon_frames import photon_blocks

MODULES = [2, 9, 15]
CELLS = np.array([5, 2, 2, 7, 5, 2, 9, 5, 2, 7, 5, 5])
USED = np.unique(CELLS)
ABSENT = {(9, 0), (9, 1), (9, 2), (15, 3), (15, 11), (2, 7)}


def make_case(folder, units="photons", dtype="uint8", way="gzip shuffle", flagged=False):
    rng = np.random.default_rng(11)
    data = {module: make_data(dtype, rng, len(CELLS), units) for module in MODULES}
    shape = (len(USED), *MODULE_SHAPE)
    given = {
        "masks": {m: np.where(rng.random(shape) < 0.02, MASK_DEAD, 0).astype("u4") for m in MODULES},
        "outliers": {m: np.where(rng.random(shape) < 0.02, MASK_HOT, 0).astype("u4") for m in MODULES},
    }
    if units == "ADU":
        given["constants"] = {module: random_constants(rng, 10) for module in MODULES}
        given["constants"][9]["darkOffsets"][2, 5, :9] = np.nan
    if flagged:
        given["flags"] = {m: (rng.random((len(CELLS), *MODULE_SHAPE)) < 0.02).astype("u4") << 3 for m in MODULES}
    run = write_run(folder / "run", data, CELLS, way, units, absent=ABSENT, **given)
    return run, data, given


def expected_frames(run, data, given, common_mode=False):
    """Photons (frames, 16, ...), mask (cells, 16, ...) and flagged (frames, 16, ...)."""
    photons = np.zeros((len(CELLS), 16, *MODULE_SHAPE), "u2")
    mask = np.full((len(USED), 16, *MODULE_SHAPE), MASK_MISSING, "u4")
    flagged = np.zeros(photons.shape, bool)
    for module in MODULES:
        mask[:, module] = given["masks"][module] | given["outliers"][module]
        if "constants" in given:
            finite = xfel_constants(given["constants"][module], module, 9.3)[3][USED]
            mask[:, module] |= np.where(finite, 0, MASK_BAD).astype("u4")
        good = (mask[:, module] == 0)[np.searchsorted(USED, CELLS)]
        if "flags" in given:
            flagged[:, module] = given["flags"][module] != 0
            good &= ~flagged[:, module]
        photons[:, module] = photons_reference(
            run, data, module, CELLS, good, given.get("constants"), common_mode=common_mode
        )
    for module, frame in ABSENT:
        photons[frame, module] = 0
        flagged[frame, module] = False
    return photons, mask, flagged


CASES = [
    ("photons", "uint8", "gzip shuffle", False),
    ("photons", "float32", "gzip shuffle", True),
    ("photons", "uint16", "gzip shuffle of 3", False),
    ("keV", "float32", "contiguous", False),
    ("ADU", "uint16", "chunk of 3", False),
    ("photons", "uint8", "lzf", True),
]


@pytest.mark.parametrize(("block", "few"), [(1, 4), (3, 4), (3, 0), (16, 0)])
@pytest.mark.parametrize(("units", "dtype", "way", "flagged"), CASES)
def test_blocks_hold_the_photons_of_all_modules(tmp_path, monkeypatch, units, dtype, way, flagged, block, few):
    monkeypatch.setattr(chunks, "FEW", few)  # 0: chunks are always looked up one by one
    run, data, given = make_case(tmp_path, units, dtype, way, flagged)
    frames = np.array([7, 0, 3, 11, 2, 1, 4, 5])
    photons, mask, flags = expected_frames(run, data, given, common_mode=True)
    seen = []
    cells = []
    for found in photon_blocks(
        run.vds,
        frames,
        MODULES,
        run.masks,
        run.outliers,
        run.constants,
        common_mode=True,
        per_frame_mask=flagged,
        threads=2,
        block=block,
    ):
        assert len(found.frames) <= block
        assert (CELLS[found.frames] == found.cell_id).all()
        assert found.photons.dtype == np.uint16
        np.testing.assert_array_equal(found.photons, photons[found.frames])
        np.testing.assert_array_equal(found.mask, mask[np.searchsorted(USED, found.cell_id)])
        for k, frame in enumerate(found.frames):
            assert found.present[k].tolist() == [m in MODULES and (m, frame) not in ABSENT for m in range(16)]
        if flagged:
            np.testing.assert_array_equal(found.flagged, flags[found.frames])
        else:
            assert found.flagged is None
        seen += found.frames.tolist()
        cells.append(found.cell_id)
    assert sorted(seen) == sorted(frames)
    assert cells == sorted(cells)


@pytest.mark.parametrize("flagged", [False, True])
def test_only_wanted_frames_of_large_chunks_are_held(tmp_path, monkeypatch, flagged):
    monkeypatch.setitem(WAYS, "gzip shuffle", {"rows": 32, "compression": "gzip", "shuffle": True})
    cells = np.zeros(96, int)
    rng = np.random.default_rng(3)
    data = {module: rng.poisson(0.01, (96, *MODULE_SHAPE)).astype("f4") for module in (1, 2)}
    flags = {module: np.zeros((96, *MODULE_SHAPE), "u4") for module in data} if flagged else None
    run = write_run(tmp_path / "run", data, cells, "gzip shuffle", n_files=1, flags=flags)
    asked = []
    monkeypatch.setattr(chunks, "grown", lambda buffer, n, grown=chunks.grown: asked.append(n) or grown(buffer, n))
    frames = [3, 20, 40, 41, 90]  # in all three chunks
    (found,) = photon_blocks(run.vds, frames, [1, 2], run.masks, run.outliers, per_frame_mask=flagged)
    for module, values in data.items():
        np.testing.assert_array_equal(found.photons[:, module], values[frames])
    frame_bytes = 4 * 512 * 128
    assert max(asked) == len(frames) * frame_bytes  # a chunk is 32 frames


@pytest.mark.parametrize(("common_mode", "baseline_shift"), [(False, True), (True, True), (True, False)])
def test_shifted_raw_frames(tmp_path, common_mode, baseline_shift):
    rng = np.random.default_rng(14)
    options = {"common_mode": common_mode, "baseline_shift": baseline_shift}
    given = {module: random_constants(rng, 10) for module in MODULES}
    data = {module: shifted_raw_frames(rng, given[module], module, CELLS) for module in MODULES}
    run = write_run(tmp_path / "run", data, CELLS, "contiguous", "ADU", constants=given)
    good = np.ones((len(CELLS), *MODULE_SHAPE), bool)
    expected = [photons_reference(run, data, module, CELLS, good, given, **options) for module in MODULES]
    blocks = photon_blocks(
        run.vds, np.arange(len(CELLS)), MODULES, run.masks, run.outliers, run.constants, threads=2, **options
    )
    for found in blocks:
        for module, photons in zip(MODULES, expected, strict=True):
            np.testing.assert_array_equal(found.photons[:, module], photons[found.frames])


def test_no_frames_give_no_blocks(tmp_path):
    run, _, _ = make_case(tmp_path)
    assert list(photon_blocks(run.vds, [], MODULES, run.masks, run.outliers)) == []


def write_events(path, misses):
    with h5py.File(path, "w") as file:
        file["is_miss"] = np.isin(np.arange(len(CELLS)), misses)


@pytest.mark.parametrize(("units", "dtype", "way", "flagged"), [CASES[0], CASES[1], CASES[4]])
def test_sum_of_misses(tmp_path, units, dtype, way, flagged):
    run, data, given = make_case(tmp_path, units, dtype, way, flagged)
    misses = [0, 2, 3, 5, 8, 11]
    write_events(tmp_path / "events.h5", misses)
    sum_misses.sum_misses(
        run.vds,
        tmp_path / "events.h5",
        tmp_path / "misses.h5",
        {"rule": "sum_misses"},
        modules=MODULES,
        masks=run.masks,
        outliers=run.outliers,
        constants=run.constants,
        threads=2,
        photon_threshold=0.5,
        common_mode=False,
        per_frame_mask=flagged,
    )
    photons, mask, flags = expected_frames(run, data, given)
    good = (mask == 0)[np.searchsorted(USED, CELLS)] & ~flags
    for module, frame in ABSENT:
        good[frame, module] = False
    with h5py.File(tmp_path / "misses.h5") as file:
        total, counts, mean = (file[name][()] for name in ("sum", "counts", "mean"))
        assert file.attrs["n_misses"] == len(misses)
    np.testing.assert_array_equal(total, photons[misses].sum(axis=0, dtype="u8"))
    np.testing.assert_array_equal(counts, good[misses].sum(axis=0))
    assert (total.dtype, counts.dtype, mean.dtype) == (np.uint64, np.uint32, np.float32)
    np.testing.assert_array_equal(np.isnan(mean), counts == 0)
    np.testing.assert_array_equal(mean[counts > 0], (total[counts > 0] / counts[counts > 0]).astype("f4"))


def test_no_misses_give_an_empty_sum(tmp_path):
    run, _, _ = make_case(tmp_path)
    write_events(tmp_path / "events.h5", [])
    sum_misses.sum_misses(
        run.vds,
        tmp_path / "events.h5",
        tmp_path / "misses.h5",
        {},
        modules=MODULES,
        masks=run.masks,
        outliers=run.outliers,
        constants=[],
        threads=1,
    )
    with h5py.File(tmp_path / "misses.h5") as file:
        assert file.attrs["n_misses"] == 0
        assert not file["counts"][()].any()
        assert np.isnan(file["mean"][()]).all()
