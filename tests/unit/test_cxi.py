import h5py
import numpy as np
import pytest
from hit_files import (
    DISTANCE_M,
    blocks_by_cell,
    cell_masks,
    expected_masks,
    random_frames,
    random_hits,
    write_cxi_file,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pulsetrain import cxi
from pulsetrain.detector import MASK_MISSING

# `h5ls -r r0050_hits.cxi` of the facility's description of its offline analysis, 3716 hits
DOCUMENTED = {
    "/entry_1/cellId": ("H",),
    "/entry_1/data_1/data": ("H", 16, 512, 128),
    "/entry_1/experiment_identifier": ("H",),
    "/entry_1/instrument_1/data_1": None,
    "/entry_1/instrument_1/detector_1/background": (16, 512, 128),
    "/entry_1/instrument_1/detector_1/data": ("H", 16, 512, 128),
    "/entry_1/instrument_1/detector_1/lit_pixels": ("H",),
    "/entry_1/instrument_1/detector_1/mask": ("H", 16, 512, 128),
    "/entry_1/instrument_1/detector_1/photon_counts": ("H",),
    "/entry_1/instrument_1/detector_1/pixel_area": (),
    "/entry_1/instrument_1/detector_1/powder": (16, 512, 128),
    "/entry_1/instrument_1/detector_1/x_pixel_size": (),
    "/entry_1/instrument_1/detector_1/xyz_map": (3, 16, 512, 128),
    "/entry_1/instrument_1/detector_1/y_pixel_size": (),
    "/entry_1/instrument_1/name": (),
    "/entry_1/instrument_1/source_1/photon_energy": ("H",),
    "/entry_1/instrument_1/source_1/photon_wavelength": ("H",),
    "/entry_1/instrument_1/source_1/pulse_energy": ("H",),
    "/entry_1/name": (),
    "/entry_1/pulseId": ("H",),
    "/entry_1/sample_1/name": (),
    "/entry_1/trainId": ("H",),
}
DATA = f"{cxi.DETECTOR}/data"
N_HITS = 9


@pytest.fixture(scope="module")
def arrays():
    hits = random_hits(N_HITS, missing=[(2, 5), (4, 5), (4, 0)])
    return hits, random_frames(N_HITS), cell_masks(3)


@pytest.fixture(scope="module")
def written(arrays, tmp_path_factory):
    path = tmp_path_factory.mktemp("cxi") / "r0050_hits.cxi"
    return write_cxi_file(path, *arrays, sample="Cubic DNA origami")


@pytest.mark.parametrize("n_hits", [N_HITS, 0])
def test_every_documented_dataset_is_there(tmp_path, n_hits):
    path = write_cxi_file(tmp_path / "a.cxi", random_hits(n_hits), random_frames(n_hits), cell_masks(3))
    with h5py.File(path) as file:
        for name, shape in DOCUMENTED.items():
            if shape is None:
                assert isinstance(file[name], h5py.Group)
            else:
                assert file[name].shape == tuple(n_hits if n == "H" else n for n in shape), name
        assert isinstance(file.get("/entry_1/data_1/data", getlink=True), h5py.SoftLink)


def test_photons_and_masks_are_what_went_in(arrays, written):
    hits, photons, masks = arrays
    per_hit = expected_masks(hits, masks)
    kept = np.where(per_hit == 0, photons, 0)
    expected = np.minimum(kept, 255)
    with h5py.File(written) as file:
        detector = file[cxi.DETECTOR]
        assert detector["data"].dtype == np.uint8
        assert detector["data"].chunks == (1, 16, 512, 128)
        np.testing.assert_array_equal(detector["data"][()], expected)
        np.testing.assert_array_equal(file["/entry_1/data_1/data"][3], expected[3])
        for i in range(N_HITS):
            np.testing.assert_array_equal(detector["mask"][i], per_hit[i])
        rows = detector["mask_row"][()]
        assert len(detector["mask_table"]) == len({(c, m) for c, m in zip(hits.cell_id, hits.modules, strict=True)})
        np.testing.assert_array_equal(detector["mask_table"][()][rows], per_hit)
        np.testing.assert_array_equal(detector["powder"][()], kept.sum(axis=0, dtype="u8"))
        np.testing.assert_array_equal(detector["lit_pixels"][()], (expected > 0).sum(axis=(1, 2, 3)))
        np.testing.assert_array_equal(detector["photon_counts"][()], kept.sum(axis=(1, 2, 3)))
        clipped = ((photons > 255) & (per_hit == 0)).sum(axis=(1, 2, 3))
        assert clipped.sum() > 0
        np.testing.assert_array_equal(detector["clipped_pixels"][()], clipped)


def test_good_pixels_ignores_hits_without_the_module(arrays, written):
    hits, _, masks = arrays
    per_hit = expected_masks(hits, masks)
    absent = (per_hit & MASK_MISSING) != 0
    with h5py.File(written) as file:
        good = file[f"{cxi.DETECTOR}/good_pixels"][()]
        np.testing.assert_array_equal(good, ((per_hit == 0) | absent).all(axis=0))
        np.testing.assert_array_equal(cxi.count_good_hits(file), (per_hit == 0).sum(axis=0))
    assert good.dtype == bool
    assert good[5].any()


def test_module_missing_everywhere_is_bad(tmp_path):
    hits = random_hits(3, missing=[(i, 7) for i in range(3)])
    path = write_cxi_file(tmp_path / "a.cxi", hits, random_frames(3), cell_masks(3))
    with h5py.File(path) as file:
        good = file[f"{cxi.DETECTOR}/good_pixels"][()]
        assert not file[DATA][:, 7].any()
    assert not good[7].any()
    assert good[6].mean() > 0.9


def test_events(arrays, written):
    hits, _, _ = arrays
    with h5py.File(written) as file:
        entry, source = file["/entry_1"], file[cxi.SOURCE]
        np.testing.assert_array_equal(entry["trainId"][()], hits.train_id)
        np.testing.assert_array_equal(entry["pulseId"][()], hits.pulse_id)
        np.testing.assert_array_equal(entry["cellId"][()], hits.cell_id)
        np.testing.assert_array_equal(entry["vds_index"][()], hits.vds_index)
        assert [entry[name].dtype for name in ("trainId", "cellId", "pulseId")] == ["u8", "u2", "u8"]
        assert list(entry["experiment_identifier"].asstr()[:2]) == ["10000:0", "10000:4"]
        np.testing.assert_array_equal(file[f"{cxi.DETECTOR}/module_present"][()], hits.modules)
        np.testing.assert_allclose(source["photon_energy_eV"][()], 9200.4, atol=0.1)
        np.testing.assert_allclose(source["photon_energy"][()], 9200.4 * 1.602176634e-19, rtol=1e-5)
        np.testing.assert_array_equal(source["energy"][()], source["photon_energy"][()])
        np.testing.assert_array_equal(source["pulse_energy"][()], hits.pulse_energy.astype("f4"))
        np.testing.assert_allclose(source["photon_wavelength"][()], 1.3476e-10, rtol=1e-6)


def test_experiment(written):
    with h5py.File(written) as file:
        detector = file[cxi.DETECTOR]
        assert file["cxi_version"][()] == 160
        assert file["/entry_1/instrument_1/name"].asstr()[()] == "SPB"
        assert file["/entry_1/sample_1/name"].asstr()[()] == "Cubic DNA origami"
        assert detector["distance"][()] == DISTANCE_M
        assert detector["x_pixel_size"][()] == detector["y_pixel_size"][()] == 2e-4
        assert detector["pixel_area"][()] == pytest.approx(4e-8)
        assert detector["xyz_map"].dtype == np.float32
        np.testing.assert_array_equal(detector["xyz_map"][2], np.float32(DISTANCE_M))
        background = detector["background"][()]
        assert background.dtype == np.float32
        assert (background[3] == 0.25).all()
        assert not background[:3].any()  # not a number becomes 0


def test_attributes_of_the_specification(written):
    implicit = {"coordinate", "x", "y"}
    with_axes = []

    def look(name, item):
        if "axes" in item.attrs:
            names = item.attrs["axes"].split(":")
            assert len(names) == item.ndim, name
            for axis, length in zip(names, item.shape, strict=True):
                if axis not in implicit:
                    assert item.parent[axis].shape == (length,), f"{name}: {axis}"
            with_axes.append(name)

    with h5py.File(written) as file:
        file.visititems(look)
        detector, source = file[cxi.DETECTOR], file[cxi.SOURCE]
        assert detector["data"].attrs["axes"] == "experiment_identifier:module_identifier:y:x"
        units = {name: source[name].attrs["units"] for name in source if "units" in source[name].attrs}
        assert detector["xyz_map"].attrs["units"] == detector["distance"].attrs["units"] == "m"
        assert len(detector["module_identifier"]) == 16
    assert {"data", "mask", "xyz_map", "lit_pixels"} <= {name.rsplit("/", 1)[-1] for name in with_axes}
    assert units == {
        "energy": "J",
        "photon_energy": "J",
        "photon_energy_eV": "eV",
        "photon_wavelength": "m",
        "pulse_energy": "J",
    }


def test_unknown_wavelength_and_energy(tmp_path):
    hits = random_hits(3)._replace(pulse_energy=np.array([1e-3, np.nan, 2e-3]), wavelength=np.full(3, np.nan))
    path = write_cxi_file(tmp_path / "a.cxi", hits, random_frames(3), cell_masks(3))
    with h5py.File(path) as file:
        source = file[cxi.SOURCE]
        assert source["pulse_energy"].attrs["status"] == "unknown for 1 of 3 hits"
        assert source["photon_energy"].attrs["status"] == "unknown for 3 of 3 hits"
        assert np.isnan(source["photon_energy_eV"][()]).all()


def test_mask_per_frame(tmp_path, arrays):
    hits, photons, masks = arrays
    flagged = np.random.default_rng(5).random(photons.shape) < 0.01
    path = write_cxi_file(tmp_path / "a.cxi", hits, photons, masks, flagged)
    per_hit = expected_masks(hits, masks, flagged)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file[f"{cxi.DETECTOR}/mask"][()], per_hit)
        np.testing.assert_array_equal(file[DATA][()], np.where(per_hit == 0, np.minimum(photons, 255), 0))


def test_two_bytes_per_pixel(tmp_path, arrays):
    hits, photons, masks = arrays
    path = write_cxi_file(tmp_path / "a.cxi", hits, photons, masks, dtype="uint16")
    expected = np.where(expected_masks(hits, masks) == 0, photons, 0)
    with h5py.File(path) as file:
        assert file[DATA].dtype == np.uint16
        np.testing.assert_array_equal(file[DATA][()], expected)
        np.testing.assert_array_equal(np.stack(list(cxi.map_frames(file[DATA], np.copy))), expected)
        assert not file[f"{cxi.DETECTOR}/clipped_pixels"][()].any()


def test_result_does_not_depend_on_threads_and_order(tmp_path, arrays, written):
    hits, photons, masks = arrays
    path = tmp_path / "a.cxi"
    with h5py.File(path, "w") as file:
        blocks = [block._replace(photons=block.photons.copy()) for block in blocks_by_cell(hits, photons, masks)]
        cxi.write_hits(file, hits, reversed(blocks), threads=1)
    with h5py.File(path) as one, h5py.File(written) as two:
        for name in one[cxi.DETECTOR]:
            np.testing.assert_array_equal(one[cxi.DETECTOR][name][()], two[cxi.DETECTOR][name][()], err_msg=name)


def test_map_frames_gives_the_chosen_frames_in_order(written):
    with h5py.File(written) as file:
        sums = list(cxi.map_frames(file[DATA], lambda frame: int(frame.sum(dtype="u8")), frames=[7, 0, 3]))
        assert sums == [int(file[DATA][i].sum(dtype="u8")) for i in (7, 0, 3)]


def test_map_frames_refuses_other_files(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("data", shape=(2, 16, 512, 128), dtype="u1")
        with pytest.raises(ValueError, match="expected one frame per chunk with shuffle and gzip"):
            next(cxi.map_frames(file["data"], np.copy))


def test_wrong_blocks_are_refused(tmp_path, arrays):
    hits, photons, masks = arrays
    blocks = [block._replace(photons=block.photons.copy()) for block in blocks_by_cell(hits, photons, masks)]
    for wrong, message in (
        (blocks[:-1], "hits have no pixels"),
        ([*blocks, blocks[0]], "came twice"),
        ([blocks[0]._replace(frames=blocks[0].frames + 100_000)], "is not among the 9 hits"),
    ):
        with h5py.File(tmp_path / "a.cxi", "w") as file, pytest.raises(ValueError, match=message):
            cxi.write_hits(file, hits, wrong)


def test_no_hits_give_an_empty_file(tmp_path):
    path = write_cxi_file(tmp_path / "a.cxi", random_hits(0), random_frames(0), cell_masks(1))
    with h5py.File(path) as file:
        detector = file[cxi.DETECTOR]
        assert len(detector["mask"]) == len(detector["mask_table"]) == 0
        assert not detector["powder"][()].any()
        assert not detector["good_pixels"][()].any()
        assert not cxi.count_good_hits(file).any()


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32 - 1),
    n_hits=st.integers(1, 4),
    mean=st.sampled_from([0.0, 0.003, 1.0, 300.0]),
    dtype=st.sampled_from(["uint8", "uint16"]),
)
def test_photons_are_conserved(tmp_path, seed, n_hits, mean, dtype):
    """Photons in = powder = photon_counts, apart from masked ones; = photons in data, apart from clipped ones."""
    hits, photons, masks = random_hits(n_hits, seed=seed), random_frames(n_hits, mean, seed), cell_masks(3, seed)
    path = write_cxi_file(tmp_path / f"{seed}-{n_hits}-{mean}-{dtype}.cxi", hits, photons, masks, dtype=dtype)
    kept = np.where(masks[hits.cell_id] == 0, photons, 0)
    with h5py.File(path) as file:
        detector = file[cxi.DETECTOR]
        assert detector["powder"][()].sum() == kept.sum(dtype="u8")
        assert detector["data"][()].sum(dtype="u8") == np.minimum(kept, np.iinfo(dtype).max).sum(dtype="u8")
        np.testing.assert_allclose(detector["photon_counts"][()], kept.sum(axis=(1, 2, 3), dtype="u8"), rtol=1e-6)
    path.unlink()
