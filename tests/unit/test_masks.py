"""Static masks and powder outliers against plain loops and planted defects."""

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pixel_runs import random_constants, write_constants

from pulsetrain import constants, detector, masks
from pulsetrain.layout import FILE_NUMBERS, FILE_TEXT, RunLayout, write_layout

SHAPE = detector.MODULE_SHAPE
SOURCE = "SPB_DET_AGIPD1M-1/CORR/{}CH0:output"


def write_vds(folder, cell_id, segments, n_rows, module=7, frame_masks=None):
    """A VDS's frame table, and source files whose image/mask holds `frame_masks` {(file, row): mask}."""
    folder.mkdir(parents=True, exist_ok=True)
    n_files = len(n_rows)
    files = {name: [""] * n_files for name in FILE_TEXT} | {name: [0] * n_files for name in FILE_NUMBERS}
    files |= {"name": [f"../source{n}.h5" for n in range(n_files)], "source": [SOURCE.format(module)] * n_files}
    files |= {"module": [module] * n_files, "rows": n_rows}
    columns = ["module", "file", "source_start", "frame_start", "count"]
    n = len(cell_id)
    layout = RunLayout(
        np.arange(n, dtype=np.uint64) // np.uint64(4) + np.uint64(1_000_000_001),
        np.arange(n, dtype=np.uint64) % np.uint64(4),
        np.asarray(cell_id, np.uint16),
        np.full(n, 1 << module, np.uint32),
        pd.DataFrame(files),
        pd.DataFrame([(module, *segment) for segment in segments], columns=columns),
        {"run": 50},
    )
    (folder / "vds").mkdir(exist_ok=True)
    with h5py.File(folder / "vds" / "r0050.h5", "w") as file:
        write_layout(file.create_group("pulsetrain"), layout)
    for number, rows in enumerate(n_rows):
        with h5py.File(folder / f"source{number}.h5", "w") as file:
            image = file.create_group(f"INSTRUMENT/{SOURCE.format(module)}/image")
            if frame_masks is not None:
                packed = {"chunks": (1, *SHAPE), "compression": "gzip", "compression_opts": 1}
                dataset = image.create_dataset("mask", (rows, *SHAPE), "u4", **packed)
                for row in range(rows):
                    dataset[row] = frame_masks[number, row]
    return folder / "vds" / "r0050.h5"


def run_mask(folder, vds, **changes):
    options = {"constants_mask": None, "constants": None, "user": [], "module": 7, "stream": "proc", "sample_trains": 5}
    masks.make_run_mask(
        vds, **(options | {"asic_edges": False} | changes), output=folder / "mask.h5", attributes={"rule": "x"}
    )
    with h5py.File(folder / "mask.h5") as file:
        assert file.attrs["rule"] == "x"
        return file["cellId"][()], file["mask"][()], file.attrs["facility_mask"]


def random_masks(shape, seed):
    random = np.random.default_rng(seed)
    values = np.zeros(shape, dtype=np.uint32)
    for bit in (0x1, 0x2, 0x4, 0x4000, 0x20000, 0x400000):
        values[random.random(shape) < 0.5] |= np.uint32(bit)
    return values


# The facility's mask


def test_bits_of_the_facility():
    facility = np.array([0, 0x1, 0x2, 0x4, 0x4000, 0x20000, 0x400000, 0x80000000, 0x3, 0x4002], dtype=np.uint32)
    bad, noisy, dead = detector.MASK_BAD, detector.MASK_NOISY, detector.MASK_DEAD
    expected = [0, bad, noisy, bad, dead, noisy, bad, bad, bad | noisy, dead | noisy]
    assert masks.cxi_bits(facility).tolist() == expected


@given(st.integers(1, 31), st.integers(0, 2**32 - 1))
def test_majority_counts_each_bit(n, seed):
    values = random_masks((n, 3, 5), seed) | np.uint32(0x80000000)
    expected = np.zeros((3, 5), dtype=np.uint32)
    for bit in range(32):
        votes = (values >> np.uint32(bit) & np.uint32(1)).sum(axis=0)
        expected[votes > n / 2] |= np.uint32(1 << bit)
    np.testing.assert_array_equal(masks.majority(values), expected)


def test_static_mask_is_the_majority_of_samples_of_each_cell(tmp_path):
    # 7 trains of 4 cells in an order that changes, in two files; rows 0 and 1 of the second belong to no kept train.
    cell_id = np.concatenate([np.roll([3, 9, 11, 30], train) for train in range(7)])
    segments = [(0, 0, 0, 12), (1, 2, 12, 16)]
    place = {frame: (0, frame) if frame < 12 else (1, frame - 10) for frame in range(28)}
    frame_masks = {(1, row): random_masks(SHAPE, 900 + row) for row in range(2)}
    frame_masks |= {place[frame]: random_masks(SHAPE, frame) for frame in range(28)}
    vds = write_vds(tmp_path, cell_id, segments, [12, 18], frame_masks=frame_masks)
    cells, mask, facility = run_mask(tmp_path, vds, sample_trains=5)
    assert cells.dtype == np.uint16 and cells.tolist() == [3, 9, 11, 30] and facility == "read"
    assert mask.dtype == np.uint32
    for number, cell in enumerate(cells):
        frames = np.flatnonzero(cell_id == cell)[[0, 2, 3, 4, 6]]  # 5 of 7, evenly spread (1.5 rounds to 2)
        stacked = np.array([frame_masks[place[frame]] for frame in frames])
        expected = np.zeros(SHAPE, dtype=np.uint32)
        for bit in (0x1, 0x2, 0x4, 0x4000, 0x20000, 0x400000):
            often = ((stacked & bit) != 0).sum(axis=0) >= 3
            expected[often] |= {0x2: 0x400, 0x20000: 0x400, 0x4000: 0x8}.get(bit, 0x80)
        np.testing.assert_array_equal(mask[number], expected)


def test_a_cell_of_one_train_only_has_that_mask(tmp_path):
    frame_masks = {(0, row): random_masks(SHAPE, row) for row in range(3)}
    vds = write_vds(tmp_path, [0, 0, 5], [(0, 0, 0, 3)], [3], frame_masks=frame_masks)
    _, mask, _ = run_mask(tmp_path, vds)
    np.testing.assert_array_equal(mask[1], masks.cxi_bits(frame_masks[0, 2]))
    # A tie of two is no majority.
    np.testing.assert_array_equal(mask[0], masks.cxi_bits(frame_masks[0, 0] & frame_masks[0, 1]))


@given(st.integers(1, 40), st.integers(1, 9))
def test_samples_are_spread_and_distinct(n_frames, number):
    chosen = masks.sample_frames(np.arange(n_frames), number)
    assert len(set(chosen.tolist())) == min(n_frames, number) == len(chosen)
    if number > 1:
        assert chosen[0] == 0 and chosen[-1] == n_frames - 1


def test_files_without_mask_are_said_and_the_edges_stay(tmp_path, caplog):
    vds = write_vds(tmp_path, [0, 1], [(0, 0, 0, 2)], [2])
    with caplog.at_level("WARNING"):
        _, mask, facility = run_mask(tmp_path, vds, asic_edges=True)
    assert facility == "absent" and "source0.h5 without" in caplog.text
    np.testing.assert_array_equal(mask, np.broadcast_to(detector.asic_edges() * detector.MASK_INVALID, mask.shape))


def test_files_without_mask_do_not_switch_off_those_of_the_others(tmp_path, caplog):
    frame_masks = {(file, row): random_masks(SHAPE, 5 * file + row) for file in range(3) for row in range(4)}
    segments = [(0, 0, 0, 4), (1, 0, 4, 4), (2, 0, 8, 4)]
    vds = write_vds(tmp_path, [3, 9] * 6, segments, [4, 4, 4], frame_masks=frame_masks)
    with h5py.File(tmp_path / "source1.h5", "r+") as file:
        del file[f"INSTRUMENT/{SOURCE.format(7)}/image/mask"]
    with caplog.at_level("WARNING"):
        _, mask, facility = run_mask(tmp_path, vds, sample_trains=9)
    assert facility == "partial" and "source1.h5 without" in caplog.text and "source0" not in caplog.text
    for number in range(2):
        held = np.array([frame_masks[file, row] for file in (0, 2) for row in (number, number + 2)])
        np.testing.assert_array_equal(mask[number], masks.cxi_bits(masks.majority(held)))
        assert mask[number].any()


def test_module_without_frames_gets_a_mask(tmp_path):
    vds = write_vds(tmp_path, [4, 5], [(0, 0, 0, 2)], [2], frame_masks={(0, 0): 0, (0, 1): 0})
    cells, mask, facility = run_mask(tmp_path, vds, module=8, asic_edges=True)
    assert facility == "no frames" and cells.tolist() == [4, 5]
    assert (mask[0] != 0).sum() == detector.asic_edges().sum()


def test_run_without_frames_gets_an_empty_mask(tmp_path):
    vds = write_vds(tmp_path, [], [], [])
    for options in ({}, raw_options(tmp_path, 7, np.zeros((1, *detector.LAB_SHAPE), dtype=bool))):
        cells, mask, _ = run_mask(tmp_path, vds, **options)
        assert cells.shape == (0,) and mask.shape == (0, *SHAPE)


def test_mask_of_wrong_shape_is_refused(tmp_path):
    vds = write_vds(tmp_path, [0], [(0, 0, 0, 1)], [1])
    with h5py.File(tmp_path / "source0.h5", "r+") as file:
        file[f"INSTRUMENT/{SOURCE.format(7)}/image"]["mask"] = np.zeros((1, 128, 512), "u4")
    with pytest.raises(ValueError, match=r"source0.h5: .*image/mask has shape \(1, 128, 512\)"):
        run_mask(tmp_path, vds)


# Masks of constants and users


def raw_options(folder, module, bad):
    """Options of make_run_mask for raw data: a mask of the constants, and constants that are all finite."""
    with h5py.File(folder / "constants_mask.h5", "w") as file:
        file["badCellMask"] = bad
    values = random_constants(np.random.default_rng(1), len(bad))
    write_constants(folder / "constants.h5", module, values)
    paths = {"constants_mask": folder / "constants_mask.h5", "constants": folder / "constants.h5"}
    return {"module": module, "stream": "raw"} | paths


@pytest.mark.parametrize("module", [0, 7, 8, 15])
def test_mask_of_the_constants_by_cell_and_wing(tmp_path, module):
    vds = write_vds(tmp_path, [0, 2, 5], [(0, 0, 0, 3)], [3], module=module)
    bad = np.random.default_rng(module).random((6, *detector.LAB_SHAPE)) < 0.1
    _, mask, facility = run_mask(tmp_path, vds, **raw_options(tmp_path, module, bad))
    assert facility == "constants"
    for number, cell in enumerate([0, 2, 5]):
        for i, j in ((0, 0), (511, 0), (0, 127), (511, 127), (100, 17)):
            lab = bad[cell, j, 511 - i] if module < 8 else bad[cell, 127 - j, i]
            assert mask[number, i, j] == (detector.MASK_BAD if lab else 0)
        assert (mask[number] != 0).sum() == bad[cell].sum()


def test_cell_without_constants_is_an_error(tmp_path):
    vds = write_vds(tmp_path, [0, 6], [(0, 0, 0, 2)], [2])
    options = raw_options(tmp_path, 7, np.zeros((6, *detector.LAB_SHAPE), dtype=bool))
    with pytest.raises(ValueError, match="badCellMask has 6 memory cells, but the run has cell 6"):
        run_mask(tmp_path, vds, **options)
    with pytest.raises(ValueError, match="constants and mask of module 07 are needed"):
        run_mask(tmp_path, vds, **(options | {"constants": None}))
    assert not (tmp_path / "mask.h5").exists()


@pytest.mark.parametrize("module", [7, 8])
@pytest.mark.parametrize("name", ["analogGains_keV", "darkOffsets"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_pixels_whose_constants_are_not_finite_are_bad_in_that_cell(tmp_path, module, name, value):
    vds = write_vds(tmp_path, [0, 2, 5], [(0, 0, 0, 3)], [3], module=module)
    options = raw_options(tmp_path, module, np.zeros((6, *detector.LAB_SHAPE), dtype=bool))
    with h5py.File(options["constants"], "r+") as file:
        for stage, cell in ((2, 0), (0, 2), (1, 4)):  # the run does not use cell 4
            file[name][stage, cell, 60 + cell, 200:208] = value
    _, mask, _ = run_mask(tmp_path, vds, **options)
    for number, cell in enumerate([0, 2, 5]):
        expected = np.zeros(detector.LAB_SHAPE, np.uint32)
        expected[60 + cell, 200:208] = 0 if cell == 5 else detector.MASK_BAD
        np.testing.assert_array_equal(detector.lab_from_xfel(mask[number], module), expected)


def test_user_masks_are_joined(tmp_path):
    vds = write_vds(tmp_path, [0], [(0, 0, 0, 1)], [1])
    good = np.ones((2, 16, *SHAPE), dtype=bool)
    good[0, 7, 3, 4] = good[1, 7, 5, 6] = good[1, 8, 7, 8] = False
    np.save(tmp_path / "first.npy", good[0])
    with h5py.File(tmp_path / "second.h5", "w") as file:
        file["good_pixels"] = good[1]
    _, mask, _ = run_mask(tmp_path, vds, user=[tmp_path / "first.npy", tmp_path / "second.h5"])
    assert np.argwhere(mask[0]).tolist() == [[3, 4], [5, 6]]
    assert mask[0, 3, 4] == detector.MASK_INVALID


def test_wrong_user_masks_are_refused(tmp_path):
    np.save(tmp_path / "int.npy", np.zeros((16, *SHAPE), dtype=np.uint8))
    with pytest.raises(ValueError, match=r"int\.npy: .* uint8; masks\.user needs bool .*, True = good"):
        constants.read_good_pixels(tmp_path / "int.npy", "masks.user")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["mask"] = [1]
    with pytest.raises(ValueError, match=r"no dataset good_pixels \(it has mask\)"):
        constants.read_good_pixels(tmp_path / "other.h5", "masks.user")


# Outliers of the powder


def radius(centre):
    slow, fast = np.mgrid[: SHAPE[0], : SHAPE[1]]
    return np.hypot(slow - centre[0], fast - centre[1])


EXPOSURE = np.where(detector.asic_edges(), 0.0, 1000.0)


@pytest.mark.parametrize("centre", [(0, -8), (256, 140), (256, 64)])
@pytest.mark.parametrize("level", [0.01, 1, 100, 1e6])
def test_signal_has_no_outliers(centre, level):
    random = np.random.default_rng(4)
    r = radius(centre)
    for expected in (level / (1 + (r / 6) ** 4), level * np.sinc(r / 11) ** 2 / (1 + r / 20) ** 2, 0 * r + level):
        total = np.where(EXPOSURE > 0, random.poisson(expected + 0.02), 0)
        hot, dead = masks.hot_and_dead_pixels(total, EXPOSURE, 8)
        assert hot.sum() == 0 and dead.sum() == 0


def test_planted_hot_and_dead_pixels_are_found():
    random = np.random.default_rng(4)
    total = random.poisson(100 + 2000 / (1 + (radius((256, 140)) / 40) ** 2)).astype(float)
    total[EXPOSURE == 0] = 0
    good = np.flatnonzero(EXPOSURE)
    planted = random.choice(good, 60, replace=False)
    total.flat[planted[:30]] += 1500
    total.flat[planted[30:]] = 0
    hot, dead = masks.hot_and_dead_pixels(total, EXPOSURE, 8)
    assert set(np.flatnonzero(hot)) == set(planted[:30])
    assert set(np.flatnonzero(dead)) == set(planted[30:])
    # Pixels that are masked in most cells are judged by the frames they have.
    fewer = EXPOSURE * np.where(random.random(SHAPE) < 0.2, 0.1, 1)
    total = random.poisson(0.5 * fewer)
    hot, dead = masks.hot_and_dead_pixels(total, fewer, 8)
    assert hot.sum() == 0 and dead.sum() == 0


def test_few_counts_make_no_hot_pixel():
    total = np.random.default_rng(1).poisson(0.01, SHAPE).astype(float)
    total[100, 30] = 19
    assert not masks.hot_and_dead_pixels(total, EXPOSURE, 8)[0].any()
    total[100, 30] = 40
    assert np.argwhere(masks.hot_and_dead_pixels(total, EXPOSURE, 8)[0]).tolist() == [[100, 30]]


def test_neighbourhood_agrees_with_a_plain_loop():
    random = np.random.default_rng(2)
    image = np.where(random.random((512, 128)) < 0.2, np.nan, random.poisson(20, (512, 128)))
    image[200:220, 40:60] = np.nan
    median, scatter, uphill = masks.neighbourhood(image)
    for i, j in [(0, 0), (511, 127), (3, 100), (63, 64), (64, 5), (210, 50), (300, 90), (301, 91), (302, 92)]:
        window = image[max(i - 4, 0) : i + 5, max(j - 4, 0) : j + 5]
        values = window[np.isfinite(window)]
        ring = [image[a, b] for a in (i - 1, i, i + 1) for b in (j - 1, j, j + 1) if (a, b) != (i, j)
                and 0 <= a < 512 and 0 <= b < 128 and np.isfinite(image[a, b])]  # fmt: skip
        if not len(values):
            assert np.isnan([median[i, j], scatter[i, j], uphill[i, j]]).all()
            continue
        assert median[i, j] == np.median(values)
        assert scatter[i, j] == pytest.approx(1.4826 * np.median(np.abs(values - np.median(values))))
        rank = max(1, 3 - (8 - len(ring)))
        assert uphill[i, j] == (sorted(ring)[-rank] if ring else median[i, j])


def powder_of(n_cells, n_frames, seed=1):
    """Powder of 4 % hits on a background; (photons (C, 512, 128), frames (C,))."""
    random = np.random.default_rng(seed)
    r = radius((256, 140))
    background = 1 / (1 + (r / 60) ** 2)
    background *= 90 / background.sum()
    photons = np.zeros((n_cells, *SHAPE), dtype=np.uint32)
    for cell in photons:
        expected = background * random.gamma(30 * n_frames, 1 / 30)
        for _ in range(min(random.poisson(0.04 * n_frames), 20)):
            hit = (np.sinc(r / random.normal(11, 1)) / (1 + r / 10)) ** 2 + 1e-6
            expected += hit * random.lognormal(np.log(400), 0.6) / hit.sum()
        cell[:] = np.where(EXPOSURE > 0, random.poisson(expected), 0)
    return photons, np.full(n_cells, n_frames, dtype=np.uint32)


def find_outliers(folder, photons, frames, static=None, counts=None):
    folder.mkdir(exist_ok=True)
    cells = np.arange(len(photons), dtype="u2") + 1
    static = np.broadcast_to(np.where(EXPOSURE > 0, 0, 1), photons.shape) if static is None else static
    with h5py.File(folder / "litpixels.h5", "w") as file:
        file["cellId"], file["frames_per_cell"], file["powder_per_cell"] = cells, frames, photons
        if counts is not None:
            file["counts_per_cell"] = counts
    with h5py.File(folder / "mask.h5", "w") as file:
        file["cellId"], file["mask"] = cells, static.astype("u4")
    masks.find_powder_outliers(
        folder / "litpixels.h5", folder / "mask.h5", 7, 8, 8, folder / "outliers.h5", {"rule": "x"}
    )
    with h5py.File(folder / "outliers.h5") as file:
        assert file["cellId"][()].tolist() == cells.tolist() and file["mask"].dtype == np.uint32
        return file["mask"][()], dict(file.attrs)


def test_hits_make_no_outliers(tmp_path):
    mask, found = find_outliers(tmp_path, *powder_of(16, 100))
    assert not mask.any()
    assert found["n_hot"] == found["n_dead"] == found["n_noisy"] == 0 and len(found["noisy_cells"]) == 0


def test_bad_cell_and_noisy_pixel_are_found(tmp_path):
    photons, frames = powder_of(24, 3000)
    random = np.random.default_rng(8)
    photons[5] = random.poisson(photons[5] * 1.6)
    photons[10:14, 200, 70] += 200
    photons[10:14, 200, 71] = photons[0, 200, 71]
    photons[:, 300, 30] *= 100
    mask, found = find_outliers(tmp_path, photons, frames)
    assert found["noisy_cells"].tolist() == [6] and (mask[5] & detector.MASK_NOISY != 0).all()
    others = np.delete(mask, 5, axis=0)
    assert (others[:, 300, 30] & detector.MASK_HOT != 0).all()
    assert (others[:, 200, 70] != 0).all()
    others[:, 300, 30] = others[:, 200, 70] = 0
    assert not others.any()


def test_cells_with_few_frames_are_not_judged():
    photons, exposure = np.full((20, 16), 50.0), np.full((20, 16), 4096.0)
    photons[3] *= 100
    frames = np.full(20, 49)
    assert not masks.outlying_cells(photons, exposure, frames, 8).any()
    assert np.flatnonzero(masks.outlying_cells(photons, exposure, frames + 1, 8)).tolist() == [3]
    # One bright ASIC is signal.
    photons[3] = 50
    photons[4, 6] = 5000
    assert not masks.outlying_cells(photons, exposure, frames + 1, 8).any()
    assert not masks.outlying_cells(photons[:7], exposure[:7], frames[:7] + 1, 8).any()


def test_masks_per_frame_count_in_the_exposure(tmp_path):
    # Half of the pixels were masked in 9 of 10 frames: they have fewer photons, but are not dead or noisy.
    photons, frames = powder_of(12, 2000)
    rare = np.random.default_rng(1).random(SHAPE) < 0.5
    photons = np.where(rare, np.random.default_rng(2).binomial(photons, 0.1), photons)
    counts = np.broadcast_to(np.where(EXPOSURE == 0, 0, np.where(rare, 200, 2000)), photons.shape)
    mask, _ = find_outliers(tmp_path, photons, frames, counts=counts.astype("u4"))
    assert not mask.any()


def test_other_cells_are_refused(tmp_path):
    photons, frames = np.zeros((2, *SHAPE), "u4"), np.ones(2, "u4")
    find_outliers(tmp_path, photons, frames)
    with h5py.File(tmp_path / "mask.h5", "r+") as file:
        file["cellId"][...] = [8, 9]
    with pytest.raises(ValueError, match="different memory cells"):
        masks.find_powder_outliers(tmp_path / "litpixels.h5", tmp_path / "mask.h5", 7, 8, 8, tmp_path / "o.h5", {})


def test_no_cells_no_outliers(tmp_path):
    mask, found = find_outliers(tmp_path, np.zeros((0, *SHAPE), "u4"), np.zeros(0, "u4"))
    assert mask.shape == (0, *SHAPE) and found["n_hot"] == 0
