"""The powder file against plain sums."""

import h5py
import hit_files
import numpy as np
import pytest

from pulsetrain import cxi, powder

SHAPE = (512, 128)
MODULES = [3, 8]
CELLS = np.array([2, 5, 6], dtype=np.uint16)


def write_inputs(folder, storage, per_frame=False, seed=1):
    """Inputs of sum_powder, and the arrays in them."""
    random = np.random.default_rng(seed)
    arrays = {"powder": {}, "mask": {}, "frames": {}, "counts": {}}
    paths = {"litpixels": [], "masks": []}
    for module in MODULES:
        photons = random.poisson(0.3, (len(CELLS), *SHAPE)).astype("u4")
        photons[0, 10, 10] = 2**31  # sums need 64 bits
        photons[2, 10, 10] = 2**32 - 1
        mask = np.where(random.random((len(CELLS), *SHAPE)) < 0.1, 0x80, 0).astype("u4")
        frames = np.array([40, 0, 60], dtype="u4")
        photons[1] = 0
        counts = random.integers(0, 41, photons.shape).astype("u4")
        counts[1] = 0
        for name, array in zip(arrays, (photons, mask, frames, counts), strict=True):
            arrays[name][module] = array
        with h5py.File(folder / f"litpixels_m{module:02d}.h5", "w") as file:
            file["cellId"], file["frames_per_cell"] = CELLS, frames
            file.create_dataset("powder_per_cell", data=photons, **storage)
            if per_frame:
                file["counts_per_cell"] = counts
        with h5py.File(folder / f"masks_m{module:02d}.h5", "w") as file:
            file["cellId"], file["mask"] = CELLS, mask
        for name in paths:
            paths[name].append(folder / f"{name}_m{module:02d}.h5")
    hits = hit_files.random_hits(5, missing=[(1, 8)])
    photons, masks = hit_files.random_frames(5), hit_files.cell_masks(3)
    hit_files.write_cxi_file(folder / "hits.cxi", hits, photons, masks)
    good = hit_files.expected_masks(hits, masks) == 0
    arrays |= {"hits": np.where(good, photons, 0).sum(axis=0, dtype="u8"), "hit_counts": good.sum(0)}
    arrays["misses"] = random.poisson(0.1, cxi.FRAME_SHAPE).astype("u8")
    arrays["miss_counts"] = random.integers(0, 5, cxi.FRAME_SHAPE).astype("u4")
    with h5py.File(folder / "misses.h5", "w") as file:
        file["sum"], file["counts"] = arrays["misses"], arrays["miss_counts"]
    return paths | {"cxi": folder / "hits.cxi", "misses": folder / "misses.h5", "modules": MODULES}, arrays


GZIP = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
STORAGES = {
    "as count_litpixels": {"chunks": (1, *SHAPE), **GZIP},
    "other gzip level": {"chunks": (1, *SHAPE), **GZIP, "compression_opts": 4},
    "no shuffle": {"chunks": (1, *SHAPE), "compression": "gzip"},
    "checksum": {"chunks": (1, *SHAPE), **GZIP, "fletcher32": True},
    "lzf": {"chunks": (1, *SHAPE), "compression": "lzf", "shuffle": True},
    "other chunks": {"chunks": (3, 64, 64), **GZIP},
    "contiguous": {},
}


@pytest.mark.parametrize("storage", STORAGES.values(), ids=STORAGES)
def test_powder_per_cell_is_copied_exactly(tmp_path, storage):
    photons = np.random.default_rng(1).poisson(0.3, (3, *SHAPE)).astype("u4")
    with h5py.File(tmp_path / "copy.h5", "w") as file:
        source = file.create_dataset("source", photons.shape, "u4", **storage)
        source[0], source[2] = photons[0], photons[2]  # 1 was never written
        target = file.create_dataset("target", (16, 3, *SHAPE), "u4", chunks=(1, 1, *SHAPE), **GZIP)
        powder.copy_cells(source, target, 8)
        np.testing.assert_array_equal(target[8], source[()])
        assert not target[7].any() and not target[9].any()


def test_large_sums_stay_whole(tmp_path):
    inputs, arrays = write_inputs(tmp_path, STORAGES["as count_litpixels"])
    with h5py.File(inputs["litpixels"][1], "r+") as file:  # of one module only
        del file["powder_per_cell"]
        file["powder_per_cell"] = arrays["powder"][8].astype("u8") + 2**40
    powder.sum_powder(**inputs, output=tmp_path / "powder.h5", attributes={})
    with h5py.File(tmp_path / "powder.h5") as file:
        assert file["powder_per_cell"].dtype == np.uint64
        np.testing.assert_array_equal(file["powder_per_cell"][3], arrays["powder"][3])
        np.testing.assert_array_equal(file["powder_per_cell"][8], arrays["powder"][8] + np.uint64(2**40))
        # Cell 1 has no frame, so that its sum is not looked at.
        np.testing.assert_array_equal(file["powder"][8], arrays["powder"][8].sum(axis=0, dtype="u8") + 2 * 2**40)


@pytest.mark.parametrize("per_frame", [False, True])
def test_sums_and_counts(tmp_path, per_frame):
    inputs, arrays = write_inputs(tmp_path, STORAGES["as count_litpixels"], per_frame)
    powder.sum_powder(**inputs, output=tmp_path / "powder.h5", attributes={"rule": "x"})
    with h5py.File(tmp_path / "powder.h5") as file:
        found = {name: file[name][()] for name in file}
        assert file.attrs["rule"] == "x" and file["powder"].attrs["units"] == "photons"
    assert {name: f"{values.dtype}{values.shape}" for name, values in found.items()} == {
        "powder": "uint64(16, 512, 128)",
        "counts": "uint32(16, 512, 128)",
        "hits": "uint64(16, 512, 128)",
        "hit_counts": "uint32(16, 512, 128)",
        "misses": "uint64(16, 512, 128)",
        "miss_counts": "uint32(16, 512, 128)",
        "powder_per_cell": "uint32(16, 3, 512, 128)",
        "frames_per_cell": "uint32(16, 3)",
        "cellId": "uint16(3,)",
    }
    for module in MODULES:
        photons, good = arrays["powder"][module], arrays["mask"][module] == 0
        np.testing.assert_array_equal(found["powder_per_cell"][module], photons)
        np.testing.assert_array_equal(found["powder"][module], photons.sum(axis=0, dtype="u8"))
        assert found["powder"][module, 10, 10] == 2**31 + 2**32 - 1
        counts = 40 * good[0] + 60 * good[2]
        if per_frame:
            counts = arrays["counts"][module].sum(axis=0)
        np.testing.assert_array_equal(found["counts"][module], counts)
        assert found["frames_per_cell"][module].tolist() == [40, 0, 60]
    unused = [module for module in range(16) if module not in MODULES]
    assert not found["powder"][unused].any() and not found["counts"][unused].any()
    for name in ("hits", "hit_counts", "misses", "miss_counts"):
        np.testing.assert_array_equal(found[name], arrays[name], err_msg=name)


def test_run_without_hits_gives_zeros(tmp_path):
    inputs, _ = write_inputs(tmp_path, STORAGES["as count_litpixels"])
    with h5py.File(inputs["cxi"], "w") as file:
        cxi.write_hits(file, hit_files.random_hits(0), [])
    powder.sum_powder(**inputs, output=tmp_path / "powder.h5", attributes={})
    with h5py.File(tmp_path / "powder.h5") as file:
        assert not file["hits"][()].any() and not file["hit_counts"][()].any() and file["powder"][()].any()


def test_run_without_frames_gives_zeros(tmp_path):
    inputs, _ = write_inputs(tmp_path, STORAGES["as count_litpixels"])
    for path in (*inputs["litpixels"], *inputs["masks"]):
        with h5py.File(path, "w") as file:
            file["cellId"], file["frames_per_cell"] = np.zeros(0, "u2"), np.zeros(0, "u4")
            file["powder_per_cell"] = file["mask"] = np.zeros((0, *SHAPE), "u4")
    powder.sum_powder(**inputs, output=tmp_path / "powder.h5", attributes={})
    with h5py.File(tmp_path / "powder.h5") as file:
        assert file["powder_per_cell"].shape == (16, 0, *SHAPE) and not file["powder"][()].any()


def test_files_that_do_not_fit_are_refused(tmp_path):
    inputs, _ = write_inputs(tmp_path, STORAGES["as count_litpixels"])
    with pytest.raises(ValueError, match="2 files of litpixels for 1 modules"):
        powder.sum_powder(**(inputs | {"modules": [3]}), output=tmp_path / "powder.h5", attributes={})
    with h5py.File(inputs["masks"][1], "r+") as file:
        file["cellId"][...] = [2, 5, 7]
    with pytest.raises(ValueError, match="masks_m08.h5 has other memory cells"):
        powder.sum_powder(**inputs, output=tmp_path / "powder.h5", attributes={})
    assert not (tmp_path / "powder.h5").exists()
