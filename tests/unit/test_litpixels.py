import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_runs import (
    WAYS,
    photons_reference,
    random_constants,
    raw_values,
    shifted_raw_frames,
    write_constants,
    write_run,
    xfel_constants,
)

from pulsetrain import kernels, litpixels, memory
from pulsetrain.chunks import open_storages
from pulsetrain.constants import good_bytes, open_mask, read_constants, read_mask
from pulsetrain.detector import MASK_BAD, MODULE_SHAPE
from pulsetrain.layout import read_layout
from pulsetrain.photons import run_constants, run_conversion

MODULE = 9
CELLS = np.array([5, 2, 2, 7, 5, 2, 9, 5, 2, 7, 5])


N_FRAMES = len(CELLS)


def make_data(dtype, rng, n_frames=N_FRAMES, units="photons"):
    if units == "ADU":
        return raw_values(rng, n_frames)
    if units == "keV":
        values = rng.normal(0.5, 3, (n_frames, *MODULE_SHAPE)).astype(dtype)
        values[rng.random(values.shape) < 0.01] = np.nan
        return values
    values = rng.poisson(0.03, (n_frames, *MODULE_SHAPE)).astype(dtype)
    top = np.iinfo(dtype).max if np.dtype(dtype).kind != "f" else 255
    lit = rng.random(values.shape) < 0.001
    values[lit] = rng.integers(0, min(top, 90_000) + 1, lit.sum()).astype(dtype)
    values[0, 0, :3] = top
    return values


def make_masks(rng, cells=CELLS):
    n_cells = len(np.unique(cells))
    return np.where(rng.random((n_cells, *MODULE_SHAPE)) < 0.03, MASK_BAD, 0).astype("u4")


def count(run, tmp_path, module=MODULE, **options):
    output = tmp_path / "litpixels.h5"
    k = 0
    litpixels.count_module(
        run.vds,
        run.masks[k],
        output,
        {"rule": "count_litpixels"},
        module=module,
        constants=run.constants[k] if run.constants else None,
        **options,
    )
    with h5py.File(output) as file:
        return {name: held[()] for name, held in file.items()} | {"attributes": dict(file.attrs)}


def expected_counts(photons, cells, present, region, full):
    n = len(cells)
    found = {
        "litpixels": (photons > 0).sum(axis=(1, 2)),
        "photons": photons.sum(axis=(1, 2), dtype="u8"),
        "hit_photons": photons.sum(axis=(1, 2), dtype="u8", where=np.broadcast_to(region, photons.shape)),
        "saturated": full.sum(axis=(1, 2)),
        "present": present,
    }
    for name in ("litpixels", "photons", "hit_photons", "saturated"):
        found[name] = np.where(present, found[name], 0)
    used = np.unique(cells)
    of_cell = (np.asarray(cells)[None] == used[:, None]) & present
    found["cellId"] = used
    found["frames_per_cell"] = of_cell.sum(axis=1)
    found["powder_per_cell"] = np.array(
        [photons[of_cell[k]].sum(axis=0, dtype="u8") if n else 0 for k in range(len(used))]
    )
    return found


def assert_counts(found, expected):
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)


CASES = [
    *[(way, "uint8", "photons") for way in WAYS],
    *[(way, "float32", "photons") for way in WAYS],
    *[(way, "float32", "keV") for way in ("contiguous", "gzip shuffle", "gzip shuffle of 3", "gzip")],
    *[(way, "uint16", "photons") for way in ("contiguous", "gzip", "gzip shuffle", "chunk of 3")],
    *[("gzip shuffle", dtype, "photons") for dtype in ("uint32", "int32", "int16")],
    *[(way, "uint16", "ADU") for way in WAYS],
]


@pytest.mark.parametrize(("way", "dtype", "units"), CASES)
def test_every_way_of_storing_gives_what_numpy_gives(tmp_path, way, dtype, units):
    rng = np.random.default_rng(3)
    data = {MODULE: make_data(dtype, rng, units=units)}
    masks = {MODULE: make_masks(rng)}
    absent = {(MODULE, 4), (MODULE, 6)}
    options = {}
    if units == "ADU":
        constants = {MODULE: random_constants(rng, 12)}
        constants[MODULE]["darkOffsets"][1, 5, 3, :40] = np.nan
        constants[MODULE]["analogGains_keV"][0, 2, 3, :40] = np.inf
        options["constants"] = constants
    run = write_run(tmp_path / "run", data, CELLS, way, units, absent=absent, masks=masks, **options)
    found = count(run, tmp_path, common_mode=units == "ADU", threads=2)

    present = np.array([(MODULE, frame) not in absent for frame in range(len(CELLS))])
    good = (masks[MODULE] == 0)[np.searchsorted(np.unique(CELLS), CELLS)]
    photons = photons_reference(run, data, MODULE, CELLS, good, options.get("constants"), common_mode=True)
    photons[~present] = 0
    if units == "ADU":
        good &= xfel_constants(options["constants"][MODULE], MODULE, 9.3)[3][CELLS]
        full = (data[MODULE][:, 0] >= 16383) & good
    else:
        full = (photons == (255 if dtype == "uint8" else 65535)) & good
    assert photons.any()
    assert_counts(found, expected_counts(photons, CELLS, present, np.ones(MODULE_SHAPE, bool), full))
    assert found["attributes"] == {"rule": "count_litpixels"}
    assert found["powder_per_cell"].dtype == np.uint32
    assert found["litpixels"].dtype == np.uint32
    assert found["photons"].dtype == np.uint64


@pytest.mark.parametrize(
    ("common_mode", "baseline_shift"), [(False, False), (False, True), (True, False), (True, True)]
)
def test_shifted_raw_frames_are_counted_as_numpy_counts(tmp_path, common_mode, baseline_shift):
    rng = np.random.default_rng(8)
    constants = random_constants(rng, 10)
    data = {MODULE: shifted_raw_frames(rng, constants, MODULE, CELLS)}
    run = write_run(tmp_path / "run", data, CELLS, "chunk of 3", "ADU", constants={MODULE: constants})
    found = count(run, tmp_path, common_mode=common_mode, baseline_shift=baseline_shift, threads=2)
    good = np.ones((N_FRAMES, *MODULE_SHAPE), bool)
    photons = photons_reference(
        run, data, MODULE, CELLS, good, {MODULE: constants}, common_mode=common_mode, baseline_shift=baseline_shift
    )
    full = data[MODULE][:, 0] >= 16383
    assert_counts(found, expected_counts(photons, CELLS, np.ones(N_FRAMES, bool), np.ones(MODULE_SHAPE, bool), full))
    assert (found["litpixels"].max() < 10_000) == baseline_shift  # without it, a shift up lights the whole module


def proc_case(folder, way="gzip shuffle", dtype="uint8", cells=CELLS, **options):
    rng = np.random.default_rng(5)
    data = {MODULE: make_data(dtype, rng, len(cells))}
    masks = {MODULE: make_masks(rng, cells)}
    return write_run(folder, data, cells, way, masks=masks, **options), data, masks


def good_pixels(masks, cells=CELLS):
    return (masks[MODULE] == 0)[np.searchsorted(np.unique(cells), cells)]


def counted(run, **options):
    """count_frames with what count_module prepares for it, so that block sizes can be chosen."""
    layout = read_layout(run.vds, "/pulsetrain")
    cells = np.unique(layout.cell_id)
    conversion = run_conversion(layout.attributes, 0.5, True, True, run.vds)
    with open_storages() as storage_of:
        good = good_bytes(read_mask(open_mask(run.masks[0], cells, storage_of), cells))
        opened = run_constants(layout.attributes, run.vds, (run.constants or [None])[0], MODULE, cells, storage_of)
        if opened is not None:
            conversion = conversion._replace(calibration=read_constants(opened, cells))
    region = np.full(litpixels.PIXELS, 255, "u1")
    return litpixels.count_frames(layout, run.vds, MODULE, cells, good, region, conversion, **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same frames stored in several ways, and raw ones, with what one thread and large blocks give."""
    folder = tmp_path_factory.mktemp("runs")
    ways = ("gzip shuffle", "gzip shuffle of 3", "contiguous", "lzf of 3")
    runs = {way: proc_case(folder / way, way)[0] for way in ways}
    runs["raw"] = raw_case(folder / "raw")
    return {way: (run, counted(run)) for way, run in runs.items()}


def raw_case(folder):
    rng = np.random.default_rng(12)
    data = {MODULE: raw_values(rng, N_FRAMES)}
    return write_run(folder, data, CELLS, "chunk of 3", "ADU", constants={MODULE: random_constants(rng, 10)})


@settings(max_examples=40)
@given(
    st.sampled_from(["gzip shuffle", "gzip shuffle of 3", "contiguous", "lzf of 3", "raw"]),
    st.integers(1, 3),
    st.integers(1, 20),
    st.sampled_from([1, 20_000, 200_000, 600_000, 10**9]),
)
def test_threads_and_block_sizes_do_not_matter(runs, way, threads, block_frames, block_bytes):
    run, expected = runs[way]
    found = counted(run, threads=threads, block_frames=block_frames, block_bytes=block_bytes)
    for name in ("present", "counts", "powder", "frames_per_cell"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)


def test_the_way_of_storing_does_not_matter(runs):
    _, expected = runs["gzip shuffle"]
    for way in ("gzip shuffle of 3", "contiguous", "lzf of 3"):
        np.testing.assert_array_equal(runs[way][1].powder, expected.powder)
        np.testing.assert_array_equal(runs[way][1].counts, expected.counts)


@settings(max_examples=200)
@given(st.lists(st.integers(0, 12), max_size=60), st.integers(1, 20))
def test_cells_are_never_divided(cell, n_shares):
    cell = np.array(cell, int)
    shares = litpixels.divide_by_cell(cell, n_shares)
    assert len(shares) <= n_shares
    np.testing.assert_array_equal(np.concatenate([*shares, np.empty(0, int)]), np.argsort(cell, kind="stable"))
    seen = [set(cell[share].tolist()) for share in shares]
    assert all(seen)
    assert sum(map(len, seen)) == len(set(cell.tolist()))


@pytest.mark.parametrize("cells", [[3], [3, 3, 3, 3, 3], [351], [0, 351]])
def test_one_frame_and_one_cell(tmp_path, cells):
    cells = np.array(cells)
    run, data, masks = proc_case(tmp_path / "run", cells=cells, n_files=1)
    found = count(run, tmp_path, threads=2)
    photons = photons_reference(run, data, MODULE, cells, good_pixels(masks, cells))
    everywhere = np.ones(MODULE_SHAPE, bool)
    assert_counts(found, expected_counts(photons, cells, np.ones(len(cells), bool), everywhere, photons == 255))


def test_more_frames_of_a_cell_than_16_bits_hold(tmp_path):
    n_frames = 2 * kernels.STAGING_FRAMES + 3
    data = {MODULE: np.zeros((1, *MODULE_SHAPE), "u1")}
    data[MODULE][0, :, ::2] = 255
    data[MODULE] = np.repeat(data[MODULE], n_frames, axis=0)
    run = write_run(tmp_path / "run", data, np.full(n_frames, 4), n_files=1)
    found = counted(run)
    np.testing.assert_array_equal(found.powder.reshape(MODULE_SHAPE), data[MODULE][0].astype("u4") * n_frames)


@pytest.mark.parametrize(
    ("n_frames", "data_dtype", "expected"),
    [
        (2**24 + 2**16, "uint8", np.uint32),
        (2**24 + 2**16 + 2**8, "uint8", np.uint32),
        (2**24 + 2**16 + 2**8 + 2, "uint8", np.uint64),
        (2**16 + 1, "uint16", np.uint32),
        (2**16 + 2, "uint16", np.uint64),
        (2**16 + 2, "float32", np.uint64),
    ],
)
def test_sums_that_might_not_fit_take_64_bits(n_frames, data_dtype, expected):
    assert litpixels.type_of_sums(np.array([3, n_frames], "u4"), data_dtype) == expected
    assert litpixels.type_of_sums(np.empty(0, "u4"), data_dtype) == np.uint32


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_powder_of_64_bits(tmp_path, monkeypatch, dtype):
    run, data, masks = proc_case(tmp_path / "run", dtype=dtype)
    expected = count(run, tmp_path)["powder_per_cell"]
    monkeypatch.setattr(litpixels, "LARGEST_SUM", 1000)
    found = count(run, tmp_path)["powder_per_cell"]
    assert (expected.dtype, found.dtype) == (np.uint32, np.uint64)
    np.testing.assert_array_equal(found, expected)


def test_kernels_add_beyond_32_bits():
    powder = np.full(litpixels.PIXELS, 2**32 - 7, "u8")
    good = np.full(litpixels.PIXELS, 255, "u1")
    kernels.count_photons(np.full(litpixels.PIXELS, 65535, "u2"), good, good, powder, np.zeros((1, 4), "u4"), 0)
    kernels.add_staging(np.full(litpixels.PIXELS, 10, "u2"), powder)
    assert (powder == 2**32 - 7 + 65545).all()


@pytest.mark.parametrize("flagged", [False, True])
def test_module_without_frames(tmp_path, flagged):
    flags = {MODULE: np.zeros((N_FRAMES, *MODULE_SHAPE), "u4")} if flagged else None
    absent = {(MODULE, frame) for frame in range(N_FRAMES)}
    run, _, _ = proc_case(tmp_path / "run", absent=absent, flags=flags)
    found = count(run, tmp_path, per_frame_mask=flagged)
    assert found["present"].shape == (N_FRAMES,)
    assert not any(found[name].any() for name in ("present", "litpixels", "photons", "powder_per_cell"))
    assert found["cellId"].tolist() == [2, 5, 7, 9]
    assert found["frames_per_cell"].tolist() == [0, 0, 0, 0]
    assert ("counts_per_cell" in found) == flagged


def test_run_without_frames(tmp_path):
    data = {MODULE: np.empty((0, *MODULE_SHAPE), "u1")}
    run = write_run(tmp_path / "run", data, np.empty(0, "u2"), "contiguous", n_files=1)
    found = count(run, tmp_path)
    assert found["litpixels"].shape == (0,)
    assert found["powder_per_cell"].shape == (0, *MODULE_SHAPE)


@pytest.mark.parametrize(
    ("dtype", "way"), [("uint8", "gzip shuffle"), ("float32", "gzip shuffle"), ("uint16", "chunk of 3")]
)
def test_masks_per_frame(tmp_path, dtype, way):
    flags = {MODULE: (np.random.default_rng(8).random((N_FRAMES, *MODULE_SHAPE)) < 0.1).astype("u4") << 17}
    run, data, masks = proc_case(tmp_path / "run", way, dtype, flags=flags)
    found = count(run, tmp_path, per_frame_mask=True, threads=2)
    good = good_pixels(masks) & (flags[MODULE] == 0)
    photons = photons_reference(run, data, MODULE, CELLS, good)
    full = photons == (255 if dtype == "uint8" else 65535)
    expected = expected_counts(photons, CELLS, np.ones(N_FRAMES, bool), np.ones(MODULE_SHAPE, bool), full)
    expected["counts_per_cell"] = np.array([good[cell == CELLS].sum(axis=0) for cell in np.unique(CELLS)])
    assert_counts(found, expected)
    assert found["counts_per_cell"].dtype == np.uint32


def test_masks_per_frame_need_a_mask(tmp_path):
    run, _, _ = proc_case(tmp_path / "run")
    with pytest.raises(ValueError, match="masks.per_frame: false"):
        count(run, tmp_path, per_frame_mask=True)


@pytest.mark.parametrize("kind", ["npy", "h5"])
def test_region_and_modules_for_hits(tmp_path, kind):
    run, data, masks = proc_case(tmp_path / "run")
    region = np.random.default_rng(9).random((16, *MODULE_SHAPE)) < 0.5
    path = tmp_path / f"region.{kind}"
    if kind == "npy":
        np.save(path, region)
    else:
        with h5py.File(path, "w") as file:
            file["good_pixels"] = region
    photons = photons_reference(run, data, MODULE, CELLS, good_pixels(masks))
    for modules in (None, [3, MODULE]):
        found = count(run, tmp_path, region=path, hit_modules=modules)
        np.testing.assert_array_equal(found["hit_photons"], (photons * region[MODULE]).sum(axis=(1, 2), dtype="u8"))
        np.testing.assert_array_equal(found["photons"], photons.sum(axis=(1, 2), dtype="u8"))
    assert not count(run, tmp_path, region=path, hit_modules=[3])["hit_photons"].any()


def test_a_wrong_region_is_an_error(tmp_path):
    run, _, _ = proc_case(tmp_path / "run")
    np.save(tmp_path / "region.npy", np.ones((16, *MODULE_SHAPE), "u1"))
    with pytest.raises(ValueError, match=r"region\.npy: .* needs bool"):
        count(run, tmp_path, region=tmp_path / "region.npy")
    with h5py.File(tmp_path / "region.h5", "w") as file:
        file["other"] = 1
    with pytest.raises(ValueError, match="no dataset good_pixels"):
        count(run, tmp_path, region=tmp_path / "region.h5")


def change_attribute(run, name, value):
    with h5py.File(run.vds, "r+") as file:
        file["pulsetrain"].attrs[name] = value


def test_errors_of_the_run_say_what_to_do(tmp_path):
    run, _, _ = proc_case(tmp_path / "run")
    change_attribute(run, "data_dtype", "float32")
    with pytest.raises(ValueError, match="image/data holds uint8 frames of .*; the frame table says float32"):
        count(run, tmp_path)
    change_attribute(run, "data_dtype", "uint8")
    change_attribute(run, "units", "keV")
    change_attribute(run, "photon_energy_kev", np.nan)
    with pytest.raises(ValueError, match=r"Set detector\.photon_energy_kev"):
        count(run, tmp_path)
    change_attribute(run, "units", "ADU")
    with pytest.raises(ValueError, match="units of /pulsetrain is 'ADU'; expected photons or keV"):
        count(run, tmp_path)
    change_attribute(run, "stream", "raw")
    with pytest.raises(ValueError, match="calibration constants of module 09 are needed"):
        count(run, tmp_path)


def test_changed_and_missing_sources_are_errors(tmp_path):
    run, _, _ = proc_case(tmp_path / "run")
    source = tmp_path / "run" / run.layout.files["name"][1]
    with source.open("ab") as file:
        file.write(b"more")
    with pytest.raises(OSError, match="It was changed: run snakemake again"):
        count(run, tmp_path, threads=2)
    source.unlink()
    with pytest.raises(FileNotFoundError, match=f"{source.name}: the source file is gone"):
        count(run, tmp_path)
    assert not list(tmp_path.glob("*litpixels*"))


@pytest.mark.parametrize("way", ["gzip shuffle", "gzip of 3"])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "uint16"])
def test_a_damaged_frame_is_an_error(tmp_path, way, dtype):
    run, _, _ = proc_case(tmp_path / "run", way, dtype)
    source = tmp_path / "run" / run.layout.files["name"][0]
    with open_storages() as storage_of:
        storage = storage_of(source, f"INSTRUMENT/{run.layout.files['source'][0]}/image/data")
        place = int(storage.offset[1]) + 100
    with source.open("r+b") as file:
        file.seek(place)
        file.write(bytes(64))
    with pytest.raises(ValueError, match=rf"{source.name}: INSTRUMENT/.*/image/data, frame \d: the compressed bytes"):
        count(run, tmp_path, threads=2)
    assert not (tmp_path / "litpixels.h5").exists()


def test_masks_of_another_run_are_errors(tmp_path):
    run, _, _ = proc_case(tmp_path / "run")
    with h5py.File(run.masks[0], "r+") as file:
        file["cellId"][:] = [2, 5, 7, 8]
    with pytest.raises(ValueError, match=r"no mask of the memory cells \[9\]"):
        count(run, tmp_path)
    with h5py.File(run.masks[0], "w") as file:
        file["cellId"] = [2, 5, 7, 9]
        file["mask"] = np.zeros((4, *MODULE_SHAPE), bool)
    with pytest.raises(ValueError, match="mask is bool"):
        count(run, tmp_path)


def test_cells_of_the_mask_may_be_in_any_order(tmp_path):
    run, _, masks = proc_case(tmp_path / "run")
    expected = count(run, tmp_path)
    del expected["attributes"]
    mask = masks[MODULE]
    with h5py.File(run.masks[0], "w") as file:
        file["cellId"] = np.array([9, 1, 5, 2, 7], "u2")
        file["mask"] = np.stack([mask[3], np.full(MODULE_SHAPE, 1, "u4"), mask[1], mask[0], mask[2]])
    assert_counts(count(run, tmp_path), expected)


def test_wrong_constants_are_told_all_at_once(tmp_path):
    run = raw_case(tmp_path / "run")
    values = random_constants(np.random.default_rng(13), 9)
    values["darkOffsets"] = values["darkOffsets"].astype("f8")
    del values["digitalThresholds"]
    write_constants(run.constants[0], 3, values, "xfel")
    with pytest.raises(ValueError, match="Make the constants of module 09 again") as error:
        count(run, tmp_path)
    for part in (
        "module is 3; expected 9",
        "orientation is 'xfel'",
        "darkOffsets is float64",
        "digitalThresholds is missing",
        "constants of 9 memory cells; the run uses cell 9",
    ):
        assert part in str(error.value)


def test_raw_data_need_the_photon_energy(tmp_path):
    run = raw_case(tmp_path / "run")
    change_attribute(run, "photon_energy_kev", np.nan)
    with pytest.raises(ValueError, match=r"data are in ADU .* Set detector\.photon_energy_kev"):
        count(run, tmp_path)


def test_memory_is_stated():
    assert memory.litpixels_mb("proc", 2) < memory.litpixels_mb("raw", 2) < 4000
    assert memory.litpixels_mb("raw", 2, n_cells=10) < memory.litpixels_mb("raw", 2)
