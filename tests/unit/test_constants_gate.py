"""Which constants a raw run is allowed to use: right ones pass in any light, each fault is named."""

import json
import shutil

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_runs import write_run

from pulsetrain import constants_gate as gate
from pulsetrain import simulate, simulate_detector, simulate_truth
from pulsetrain.layout import read_layout

ENERGY = 9.2
HALF = 34.4  # ADU, half a photon
N_CELLS = 3
LIMITS = gate.Limits(min_finite=0.5, max_invalid=0.001, max_shifted=0.05)
PLANE = (128, 512)


def make_run(folder, modules=(3,), light=0.1, trains=9, bright_ring=False, cells=N_CELLS, absent=(), way="contiguous"):
    """Raw data of the simulated electronics with `light` photons per pixel (None: background and hits of the run)."""
    given_settings = simulate.settings("tiny", cells=cells, trains=trains, bright_ring=bright_ring)
    cell_id = np.tile(np.arange(cells), trains)
    frames = np.arange(len(cell_id))
    data = {}
    for module in modules:
        if light is None:
            photons = simulate.module_photons(given_settings, 50, module, frames)
        else:
            photons = np.random.default_rng(module).poisson(light, (len(frames), 512, 128)).astype("u2")
        data[module] = simulate_detector.raw_images(given_settings, 50, module, frames, cell_id, photons)
    run = write_run(folder / "run", data, cell_id, way, "ADU", energy=ENERGY, absent=absent)
    paths = {}
    for module in modules:
        paths[module] = folder / f"constants_m{module:02d}.h5", folder / f"mask_m{module:02d}.h5"
        simulate_truth.write_constants(paths[module][0], given_settings, module)
        simulate_truth.write_bad_cell_mask(paths[module][1], given_settings, module)
    return run.vds, paths


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("gate"), (3, 12))


def check(vds, paths, output, **options):
    modules = list(paths)
    options = {"run": 50, "modules": modules, "limits": LIMITS, "sample_cells": 32, "sample_frames": 9} | options
    constants, masks = zip(*paths.values(), strict=True)
    gate.check_constants(vds, constants, masks, output, {"rule": "check_constants"}, **options)
    return json.loads(output.read_text())


def edited(paths, folder, module=3, constants=None, mask=None):
    """A copy of the files of one module, changed by functions of the open files."""
    copies = dict(paths)
    folder.mkdir(exist_ok=True)
    copies[module] = tuple(shutil.copy(path, folder) for path in paths[module])
    for path, change in zip(copies[module], (constants, mask), strict=True):
        if change is not None:
            with h5py.File(path, "r+") as file:
                change(file)
    return copies


def test_right_constants_pass_with_their_numbers(case, tmp_path):
    vds, paths = case
    found = check(vds, paths, tmp_path / "verdict.json", threads=2)
    assert (found["run"], found["verdict"]) == (50, "accepted")
    assert found["summary"] == "run 50: the constants fit"
    assert found["limits"] == LIMITS._asdict() and found["provenance"] == {"rule": "check_constants"}
    for module, report in found["modules"].items():
        with h5py.File(paths[int(module)][1]) as file:
            good = ~file["badCellMask"][()]
        assert report["verdict"] == "accepted" and report["problems"] == []
        assert report["constants"] == str(paths[int(module)][0])
        assert report["usable"] == pytest.approx(good.mean(), abs=1e-12)
        assert (report["finite"], report["finite_of_good"], report["invalid"]) == (1, 1, 0)
        assert (report["cells"], report["frames"]) == (N_CELLS, 9 * N_CELLS)
        assert report["good"] == good.sum() == report["dark"]
        assert report["shifted"] < 0.001
        assert report["noise"] == pytest.approx(8 / 68.8, rel=0.2)  # ADU per photon; light adds to it
        assert abs(report["shift"]) < 0.06  # the common mode of three times 9 frames


def test_threads_and_storage_do_not_matter(case, tmp_path):
    vds, paths = case
    one = check(vds, paths, tmp_path / "one.json")
    assert one == check(vds, paths, tmp_path / "two.json", threads=2)
    packed, packed_paths = make_run(tmp_path, way="gzip shuffle of 3")
    other = check(packed, packed_paths, tmp_path / "packed.json")["modules"]["03"]
    names = ("usable", "up", "down", "shift", "noise")
    assert [other[name] for name in names] == [one["modules"]["03"][name] for name in names]


@pytest.mark.parametrize(
    ("light", "options"),
    [
        (0.0, {}),
        (0.5, {}),
        (2.0, {}),
        (0.1, {"trains": 6}),
        (0.3, {"trains": 6}),
        (0.3, {"trains": 2}),
        (1.0, {"trains": 1}),
        (None, {"bright_ring": True, "modules": (3, 4), "cells": 2}),
    ],
)
def test_light_is_no_shift(tmp_path, light, options):
    found = check(*make_run(tmp_path, light=light, **options), tmp_path / "verdict.json")
    assert found["verdict"] == "accepted"
    assert all(report["shifted"] < 0.01 for report in found["modules"].values())  # a fifth of the limit


def of_other_module(file):
    other = simulate.settings("tiny", cells=N_CELLS)
    for cell in range(N_CELLS):
        pedestal, _ = simulate_detector.constants(other, 7, cell)
        file["darkOffsets"][:, cell] = pedestal.reshape(3, *PLANE)


def next_cell(file):
    for name in ("darkOffsets", "analogGains_keV", "digitalThresholds"):
        file[name][...] = np.roll(file[name][()], 1, axis=1)


def flipped(file):
    for name in ("darkOffsets", "analogGains_keV", "digitalThresholds"):
        file[name][...] = file[name][()][..., ::-1]


def drifted(adu, fraction=0.1):
    def change(file):
        moved = np.random.default_rng(1).random(PLANE) < fraction
        offsets = file["darkOffsets"][0]
        offsets[:, moved] += adu
        file["darkOffsets"][0] = offsets

    return change


@pytest.mark.parametrize("light", [0.1, 2.0])
@pytest.mark.parametrize("fault", [of_other_module, next_cell, flipped])
def test_constants_of_something_else_are_refused(tmp_path, fault, light):
    vds, paths = make_run(tmp_path, light=light)
    with pytest.raises(ValueError, match="dark level is off by more than half a photon in [2-9]"):
        check(vds, edited(paths, tmp_path / "wrong", constants=fault), tmp_path / "verdict.json")
    assert not (tmp_path / "verdict.json").exists()


@pytest.mark.parametrize("adu", [1.1 * HALF, -1.1 * HALF, 80, -80])
def test_drift_in_a_tenth_of_the_pixels_is_refused(case, tmp_path, adu):
    vds, paths = case
    with pytest.raises(ValueError, match="of 1 of 2 modules must not be used") as error:
        check(vds, edited(paths, tmp_path / "wrong", constants=drifted(adu)), tmp_path / "verdict.json")
    text = str(error.value)
    assert "module 03, " in text and "wrong/constants_m03.h5: the run's own dark level" in text
    assert "module 12" not in text
    assert "calibration.gate.max_shifted allows 5 %" in text and "calibrations.<name>.constants" in text
    # Larger offsets let the dark level seem lower.
    assert ("(0.00 % up" in text) == (adu > 0) and (" 0.00 % down" in text) == (adu < 0)


@pytest.mark.parametrize(("adu", "fraction"), [(0.5 * HALF, 0.5), (80, 0.03), (-80, 0.03)])
def test_little_drift_passes(case, tmp_path, adu, fraction):
    vds, paths = case
    wrong = edited(paths, tmp_path / "wrong", constants=drifted(adu, fraction))
    assert check(vds, wrong, tmp_path / "verdict.json")["modules"]["03"]["shifted"] < 0.04


def test_shifted_pixels_that_are_masked_do_not_count(case, tmp_path):
    vds, paths = case

    def mask(file):
        file["badCellMask"][...] = file["badCellMask"][()] | (np.random.default_rng(1).random(PLANE) < 0.1)

    masked = edited(paths, tmp_path / "wrong", constants=drifted(80), mask=mask)
    report = check(vds, masked, tmp_path / "verdict.json")["modules"]["03"]
    assert report["shifted"] < 0.001 and report["usable"] < 0.91


def test_every_module_and_problem_is_told(case, tmp_path):
    vds, paths = case

    def nothing_known(file):
        file["analogGains_keV"][0, :, :70] = np.nan
        file["digitalThresholds"][1, :, 100:] = 32767

    wrong = edited(edited(paths, tmp_path / "a", 3, nothing_known), tmp_path / "b", 12, of_other_module)
    with pytest.raises(ValueError, match="run 50: the calibration constants of 2 of 2 modules") as error:
        check(vds, wrong, tmp_path / "verdict.json")
    text = str(error.value)
    assert "a/constants_m03.h5: the constants of 23.44 % of the pixels are known" in text
    assert "calibration.gate.min_finite wants 50 %" in text
    assert "b/constants_m12.h5: the run's own dark level" in text
    assert "of 23.4" in text and "% of the pixels that the mask calls good are known" in text
    assert len(text.splitlines()) == 5


def test_wrong_signs_and_orders_are_refused(case, tmp_path):
    vds, paths = case

    def negative(file):
        file["analogGains_keV"][2, :, :2] *= -1

    def disordered(file):
        file["digitalThresholds"][...] = file["digitalThresholds"][()][::-1]

    for fault, percent in ((negative, "1.5"), (disordered, "100.00")):
        with pytest.raises(ValueError, match=f"in {percent}.* of the good pixels a gain is not positive or the first"):
            check(vds, edited(paths, tmp_path / fault.__name__, constants=fault), tmp_path / "verdict.json")


def test_thresholds_that_no_dark_frame_is_below_are_refused(case, tmp_path):
    vds, paths = case

    def low(file):
        file["digitalThresholds"][0] = 5000

    with pytest.raises(ValueError, match=r"only 0.00 % of the good pixels are in high gain .*thresholds do not fit"):
        check(vds, edited(paths, tmp_path / "wrong", constants=low), tmp_path / "verdict.json")


def replaced(name, values):
    def change(file):
        held = file[name][()]
        attributes = dict(file.attrs)
        del file[name]
        if values is not None:
            file[name] = values(held)
        file.attrs.update(attributes)

    return change


def attribute(name, value):
    return lambda file: file.attrs.__setitem__(name, value)


@pytest.mark.parametrize(
    ("constants", "mask", "text"),
    [
        (attribute("module", 7), None, "attribute module is 7; expected 3"),
        (attribute("orientation", "xfel"), None, "attribute orientation is 'xfel'; expected 'lab'"),
        (replaced("darkOffsets", lambda held: held.astype("f8")), None, "darkOffsets is float64; expected float32"),
        (replaced("digitalThresholds", None), None, "digitalThresholds is missing"),
        (
            replaced("analogGains_keV", lambda held: held[:, :2]),
            None,
            r"analogGains_keV has shape \(3, 2, 128, 512\); expected \(3, cells, 128, 512\)",
        ),
        (None, attribute("module", 4), "the mask .*mask_m03.h5 is of module 4 in orientation 'lab'; expected 3"),
        (None, replaced("badCellMask", None), "mask_m03.h5 has no dataset badCellMask"),
        (None, replaced("badCellMask", lambda held: held.astype("u1")), "holds uint8 of shape"),
        (None, replaced("badCellMask", lambda held: held[:2]), "has 2 memory cells; the constants have 3"),
    ],
)
def test_each_fault_of_the_format_is_named(case, tmp_path, constants, mask, text):
    vds, paths = case
    with pytest.raises(ValueError, match=text):
        check(vds, edited(paths, tmp_path / "wrong", 3, constants, mask), tmp_path / "verdict.json")


def test_memory_cells_that_are_missing(case, tmp_path):
    vds, paths = case
    cut = {name: replaced(name, lambda held: held[:, :2]) for name in gate.DATASETS}

    def constants(file):
        for change in cut.values():
            change(file)

    wrong = edited(paths, tmp_path / "wrong", 3, constants, replaced("badCellMask", lambda held: held[:2]))
    with pytest.raises(ValueError, match="there are constants of 2 memory cells; the run uses cell 2"):
        check(vds, wrong, tmp_path / "verdict.json")
    wrong = edited(paths, tmp_path / "wrong", 3, None, replaced("badCellMask", lambda held: held[:2]))
    assert "the run uses cell 2" in gate.mask_problems(wrong[3][1], 3, 0, np.arange(3))[0]


def test_a_module_or_run_without_frames_passes_by_name(tmp_path):
    vds, paths = make_run(tmp_path, (3, 12), absent={(3, frame) for frame in range(9 * N_CELLS)})
    found = check(vds, edited(paths, tmp_path / "wrong", constants=flipped), tmp_path / "verdict.json")
    assert found["summary"] == "run 50: the constants fit; nothing to check in the modules 03"
    assert found["modules"]["03"]["reason"] == "the module has no frames in this run"
    assert found["modules"]["12"]["verdict"] == "accepted"
    (tmp_path / "empty").mkdir()
    found = check(*make_run(tmp_path / "empty", trains=0), tmp_path / "empty.json")
    assert found["modules"]["03"]["reason"] == "the run has no frames"


def test_sampled_frames_are_spread(case):
    vds, _ = case
    layout = read_layout(vds, "/pulsetrain")
    file = np.where(layout.cell_id == 1, -1, 0)
    chosen = gate._sampled_frames(layout, file, 5, 4)
    assert [cell for cell, _ in chosen] == [0, 2]
    assert chosen[1][1].tolist() == [2, 11, 17, 26]


# The pieces against plain loops


def plain_shift(values):
    """One pixel: its median (lower one), and whether it is shifted up or down."""
    held = sorted(value for value in values if np.isfinite(value))
    if not held:
        return np.inf, False, False
    median = held[(len(held) - 1) // 2]
    steady = median - held[0] < 0.5
    return median, median > 0.5 and steady and len(held) >= 6, median < -0.5


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_shifts_are_those_of_a_plain_loop(n_frames, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 0.02, (n_frames, *PLANE)).astype("f4")
    changed = np.s_[:, :2, :20]
    values[changed] += rng.choice([0, 0, 0.6, -0.6, 1], (2, 20)).astype("f4")
    values[changed] += rng.poisson(0.5, values[changed].shape)
    values[changed][rng.random(values[changed].shape) < 0.2] = np.inf
    median, up, down, noise = gate.find_shifts(values)
    assert noise < 0.1
    for row, column in np.ndindex(2, 20):
        expected = plain_shift(values[:, row, column])
        assert (median[row, column], up[row, column], down[row, column]) == expected


def test_common_mode_is_taken_off_but_what_stays_is_kept():
    rng = np.random.default_rng(2)
    pixels = rng.normal(0, 0.1, PLANE).astype("f4")
    values = np.repeat(pixels[None], 8, axis=0)
    shifts = rng.normal(0, 0.08, (8, 2, 8)).astype("f4")
    values += np.kron(shifts, np.ones((1, 64, 64), "f4")) + np.float32(0.4)
    values[3, :64, :64] += 2  # a hit
    values[:, 64:, 448:] = np.inf  # not in high gain
    expected = pixels + 0.4 + np.kron(np.median(shifts, axis=0), np.ones((64, 64)))
    expected[:64, :64] += np.median(np.delete(shifts[:, 0, 0], 3)) - np.median(shifts[:, 0, 0])
    gate.keep_quiet_frames(values)
    assert np.isinf(values[3, :64, :64]).all() and np.isfinite(values[2, :64, :64]).all()
    assert np.isinf(values[:, 64:, 448:]).all()
    seen = np.isfinite(values)
    assert np.abs(np.where(seen, values, 0) - np.where(seen, expected, 0)).max() < 1e-5


def test_photons_of_high_gain_only():
    rng = np.random.default_rng(3)
    images = rng.integers(0, 16384, (2, 2, *PLANE)).astype("u2")
    offset, gain = rng.normal(5000, 100, PLANE).astype("f4"), np.full(PLANE, 1 / 64, "f4")
    threshold = np.full(PLANE, 8000, "i2")
    usable = rng.random(PLANE) < 0.9
    offset[~usable] = np.nan
    found = gate.dark_photons(images, offset, gain, threshold, usable)
    expected = np.where((images[:, 1] <= 8000) & usable, (images[:, 0] - offset) * gain, np.inf)
    np.testing.assert_array_equal(found, expected.astype("f4"))
