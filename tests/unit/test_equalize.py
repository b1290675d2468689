import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pixel_runs import (
    random_constants,
    raw_signal,
    raw_values,
    shifted_raw_frames,
    write_constants,
    write_run,
    xfel_constants,
)

from pulsetrain import equalize
from pulsetrain.detector import LAB_SHAPE, lab_from_xfel
from pulsetrain.equalize import equalize_gathered, equalize_run

N_CELLS = 6
ENERGY = 9.3
CELLS = np.array([1, 4, 5, 1, 4, 5, 1, 5, 4, 5])  # of a run
TRAINS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3])


def write_mask(path, module, bad, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs.update({"module": module, "orientation": "lab"} | attributes)
        file["badCellMask"] = bad


def write_gathered(path, module, kind, analog, digital, present=None, **attributes):
    with h5py.File(path, "w") as file:
        file.attrs.update({"module": module, "orientation": "lab", "kind": kind, "layout": "xfel"} | attributes)
        chunks = {
            "dark": None,
            "current_source": (min(len(analog), 3), 1, 64, 64),
            "xray": (min(len(analog), 3), 8, 512),
        }[kind]
        for name, values in (("analog", analog), ("digital", digital)):
            file.create_dataset(name, data=values.astype("i2"), chunks=chunks)
        if present is not None:
            file["cellPresent"] = present
        if kind == "current_source":
            file["integrationTime"] = np.arange(len(analog)) * 7.5


def expected_images(frames, cells, module, constants, bad, common_mode=False, baseline_shift=False):
    """Energies and stages (n, 128, 512) of raw frames (n, 2, 512, 128), as numpy computes them."""
    offset, gain, threshold, finite = xfel_constants(constants, module, ENERGY)
    kev, stages = np.zeros((len(frames), *LAB_SHAPE), "f4"), np.full((len(frames), *LAB_SHAPE), -1, "i1")
    for k, (frame, cell) in enumerate(zip(frames, cells, strict=True)):
        analog, digital = frame[0].astype("f4"), frame[1].astype("i4")
        stage = (digital > threshold[0, cell]).astype(int) + (digital > threshold[1, cell])
        good = lab_from_xfel(finite[cell], module) & ~bad[cell]
        with np.errstate(invalid="ignore", over="ignore"):
            signal = (analog - np.choose(stage, offset[:, cell])) * np.choose(stage, gain[:, cell])
            good_xfel = np.zeros((512, 128), bool)
            lab_from_xfel(good_xfel, module)[...] = good
            signal = raw_signal(signal, stage, good_xfel, common_mode, baseline_shift) * np.float32(ENERGY)
        kev[k][good] = lab_from_xfel(signal, module)[good]
        stages[k][good] = lab_from_xfel(stage, module)[good]
    return kev, stages


def case(rng, folder, module):
    """Constants and mask, with pixels that are not known or bad."""
    constants = random_constants(rng, N_CELLS)
    constants["darkOffsets"][1, 1, 3, :40] = np.nan
    constants["analogGains_keV"][2, 4, 3, 40:90] = np.inf
    bad = rng.random((N_CELLS, *LAB_SHAPE)) < 0.05
    write_constants(folder / "constants.h5", module, constants)
    write_mask(folder / "mask.h5", module, bad)
    return constants, bad


def read(path):
    with h5py.File(path) as file:
        return {name: held[()] for name, held in file.items()} | {"attributes": dict(file.attrs)}


OPTIONS = [(False, False), (True, True), (False, True)]


@pytest.mark.parametrize(("kind", "module"), [("dark", 3), ("current_source", 12), ("xray", 3), ("xray", 12)])
@pytest.mark.parametrize(("common_mode", "baseline_shift"), OPTIONS)
def test_gathered_files_are_equalized_as_in_numpy(tmp_path, kind, module, common_mode, baseline_shift):
    rng = np.random.default_rng(1)
    constants, bad = case(rng, tmp_path, module)
    present = np.array([True, True, False, False, True, True]) if kind != "xray" else None
    n, cells = 4, ([4] if kind == "xray" else range(N_CELLS))
    row_cells = np.tile(cells, n)
    frames = shifted_raw_frames(rng, constants, module, row_cells)
    frames[0] = raw_values(rng, 1)[0]  # any values at all
    lab = np.ascontiguousarray(lab_from_xfel(frames, module)).reshape(n, len(cells), 2, *LAB_SHAPE)
    images = [lab[:, 0, k] if kind == "xray" else lab[:, :, k] for k in (0, 1)]
    write_gathered(tmp_path / "g.h5", module, kind, *images, present, **({"cell": 4} if kind == "xray" else {}))
    equalize_gathered(
        tmp_path / "g.h5",
        tmp_path / "constants.h5",
        tmp_path / "mask.h5",
        tmp_path / "out.h5",
        {"rule": "equalize"},
        module=module,
        photon_energy_kev=ENERGY,
        common_mode=common_mode,
        baseline_shift=baseline_shift,
        threads=2,
    )
    found = read(tmp_path / "out.h5")
    kev, stage = expected_images(frames, row_cells, module, constants, bad, common_mode, baseline_shift)
    kev, stage = kev.reshape(n, -1, *LAB_SHAPE), stage.reshape(n, -1, *LAB_SHAPE)
    if present is not None:
        kev[:, ~present], stage[:, ~present] = 0, -1
        np.testing.assert_array_equal(found["cellPresent"], present)
    np.testing.assert_array_equal(found["analogCorrected"], kev)
    np.testing.assert_array_equal(found["digitalGainStage"], stage)
    np.testing.assert_array_equal(found["cellId"], cells)
    assert (found["analogCorrected"].dtype, found["digitalGainStage"].dtype) == (np.float32, np.int8)
    assert (np.bincount(stage.ravel() + 1, minlength=4) > 1000).all()
    attributes = found["attributes"]
    assert [attributes[name] for name in ("rule", "module", "orientation", "kind")] == ["equalize", module, "lab", kind]
    if kind == "current_source":
        np.testing.assert_array_equal(found["integrationTime"], np.arange(n) * 7.5)


def make_run(folder, module, rng, way="chunk of 3", absent=(), **options):
    folder.mkdir(exist_ok=True)
    constants, bad = case(rng, folder, module)
    frames = shifted_raw_frames(rng, constants, module, CELLS)
    run = write_run(folder / "run", {module: frames}, CELLS, way, "ADU", ENERGY, absent=absent, **options)
    with h5py.File(run.vds, "r+") as file:
        file["pulsetrain/trainId"][...] = 5000 + TRAINS
        file["pulsetrain/pulseId"][...] = 4 * CELLS
    return run, frames, constants, bad


def equalize_to(folder, run, module, name="out.h5", **options):
    output = folder / name
    paths = run.vds, folder / "constants.h5", folder / "mask.h5", output
    equalize_run(*paths, {"rule": "equalize"}, module=module, **options)
    return read(output)


@pytest.mark.parametrize(
    ("way", "module"), [("contiguous", 3), ("contiguous", 12), ("gzip shuffle", 3), ("gzip of 3", 12), ("lzf", 3)]
)
@pytest.mark.parametrize(("common_mode", "baseline_shift"), OPTIONS[:2])
def test_runs_are_equalized_as_in_numpy(tmp_path, module, way, common_mode, baseline_shift):
    absent = {(module, 2), (module, 6)}
    options = {"common_mode": common_mode, "baseline_shift": baseline_shift}
    run, frames, constants, bad = make_run(tmp_path, module, np.random.default_rng(2), way, absent)
    found = equalize_to(tmp_path, run, module, threads=2, **options)

    kev, stage = np.zeros((4, N_CELLS, *LAB_SHAPE), "f4"), np.full((4, N_CELLS, *LAB_SHAPE), -1, "i1")
    present, pulse_id = np.zeros((4, N_CELLS), bool), np.full((4, N_CELLS), 2**64 - 1, "u8")
    kev[TRAINS, CELLS], stage[TRAINS, CELLS] = expected_images(frames, CELLS, module, constants, bad, **options)
    pulse_id[TRAINS, CELLS] = 4 * CELLS
    present[TRAINS, CELLS] = [(module, frame) not in absent for frame in range(len(CELLS))]
    kev[~present], stage[~present] = 0, -1
    expected = {"analogCorrected": kev, "digitalGainStage": stage, "present": present, "pulseId": pulse_id}
    expected |= {"trainId": 5000 + np.arange(4), "cellId": np.arange(N_CELLS)}
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, err_msg=name)
    # The frames have 200 photons in medium and 3000 in low gain; half an ADU is 0.1 % and 0.04 % of that.
    for number, photons in ((1, 200), (2, 3000)):
        energies = found["analogCorrected"][found["digitalGainStage"] == number]
        assert energies.size > 1000
        np.testing.assert_allclose(energies, photons * ENERGY, rtol=2e-3)
    assert found["attributes"]["photon_energy_kev"] == ENERGY
    assert [bool(found["attributes"][name]) for name in options] == list(options.values())


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A run and a gathered file with what one thread and large pieces give."""
    folder = tmp_path_factory.mktemp("equalize")
    rng = np.random.default_rng(3)
    run, frames, constants, _ = make_run(folder, 9, rng)
    lab = np.ascontiguousarray(lab_from_xfel(frames[:6], 9)).reshape(1, 6, 2, *LAB_SHAPE)
    lab = np.concatenate([lab, lab[:, ::-1], lab])
    write_gathered(folder / "g.h5", 9, "dark", lab[:, :, 0], lab[:, :, 1], np.array([1, 1, 0, 1, 1, 1], bool))
    return folder, run, {kind: equalized(folder, run, kind) for kind in ("run", "gathered")}


def equalized(folder, run, kind, **options):
    shifts = {"common_mode": True, "baseline_shift": True}
    if kind == "run":
        return equalize_to(folder, run, 9, "run.h5", **shifts, **options)
    paths = (folder / name for name in ("g.h5", "constants.h5", "mask.h5", "gathered.h5"))
    equalize_gathered(*paths, {}, module=9, photon_energy_kev=ENERGY, **shifts, **options)
    return read(folder / "gathered.h5")


@settings(max_examples=25)
@given(
    st.sampled_from(["run", "gathered"]), st.integers(1, 3), st.integers(1, 40), st.integers(1, 4), st.integers(1, 9)
)
def test_threads_and_pieces_do_not_matter(prepared, kind, threads, frames_at_once, cells_at_once, share):
    folder, run, expected = prepared
    options = {"threads": threads, "frames_at_once": frames_at_once}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(equalize, "SHARE", share)
        patch.setattr(equalize, "CELLS_SIDE_BY_SIDE", cells_at_once)
        if kind == "run":
            options["cells_at_once"] = cells_at_once
        found = equalized(folder, run, kind, **options)
    for name in ("analogCorrected", "digitalGainStage"):
        np.testing.assert_array_equal(found[name], expected[kind][name], err_msg=name)


def test_a_run_without_frames_gives_an_empty_file(tmp_path):
    module = 3
    case(np.random.default_rng(4), tmp_path, module)
    run = write_run(tmp_path / "run", {module: np.zeros((0, 2, 512, 128), "u2")}, np.zeros(0, int), "contiguous", "ADU")
    found = equalize_to(tmp_path, run, module)
    assert found["analogCorrected"].shape == found["digitalGainStage"].shape == (0, N_CELLS, *LAB_SHAPE)
    assert found["trainId"].size == 0


def spoil(path, **changes):
    with h5py.File(path, "r+") as file:
        for name, value in changes.items():
            if name in file:
                del file[name]
                if value is not None:
                    file[name] = value
            else:
                file.attrs[name] = value


GATHERED_FAULTS = {
    "module": ({"module": 4}, ["g.h5: attribute module is 4; expected 3"]),
    "orientation": ({"orientation": "xfel"}, ["orientation is 'xfel'; expected 'lab'"]),
    "kind": ({"kind": "flat"}, ["kind is 'flat'; expected dark, current_source or xray"]),
    "missing": ({"digital": None}, ["there is no dataset digital"]),
    "dtype": ({"digital": np.zeros((1, 6, *LAB_SHAPE), "f4")}, ["digital is float32; expected int16"]),
    "shape": (
        {"analog": np.zeros((1, 6, 512, 128), "i2")},
        [r"analog has shape \(1, 6, 512, 128\)", "analog and digital have the shapes"],
    ),
    "several": ({"module": 4, "orientation": "xfel"}, ["module is 4.*orientation is 'xfel'"]),
    "cells": (
        {"analog": np.zeros((1, 7, *LAB_SHAPE), "i2"), "digital": np.zeros((1, 7, *LAB_SHAPE), "i2")},
        ["constants of 6 memory cells; the run uses cell 6"],
    ),
}
MASK_FAULTS = {
    "module": ({"module": 4}, ["mask.h5: attribute module is 4; expected 3"]),
    "orientation": ({"orientation": "xfel"}, ["orientation is 'xfel'; expected 'lab'"]),
    "missing": ({"badCellMask": None}, ["there is no dataset badCellMask"]),
    "cells": ({"badCellMask": np.zeros((5, *LAB_SHAPE), bool)}, [r"badCellMask is bool \(5, 128, 512\)"]),
    "dtype": ({"badCellMask": np.zeros((6, *LAB_SHAPE), "u1")}, ["badCellMask is uint8"]),
}


@pytest.mark.parametrize(
    ("file", "case_"), [*(("g.h5", name) for name in GATHERED_FAULTS), *(("mask.h5", name) for name in MASK_FAULTS)]
)
def test_files_that_do_not_fit_are_refused(tmp_path, file, case_):
    case(np.random.default_rng(5), tmp_path, 3)
    images = np.zeros((1, N_CELLS, *LAB_SHAPE))
    write_gathered(tmp_path / "g.h5", 3, "dark", images, images)
    changes, messages = (GATHERED_FAULTS if file == "g.h5" else MASK_FAULTS)[case_]
    spoil(tmp_path / file, **changes)
    paths = [tmp_path / name for name in ("g.h5", "constants.h5", "mask.h5", "out.h5")]
    for message in messages:
        with pytest.raises(ValueError, match=message):
            equalize_gathered(*paths, {}, module=3, photon_energy_kev=ENERGY)
    assert not paths[-1].exists()


def test_runs_that_cannot_be_equalized_are_refused(tmp_path):
    rng = np.random.default_rng(6)
    run, *_ = make_run(tmp_path, 3, rng)
    with h5py.File(run.vds, "r+") as file:
        file["pulsetrain/cellId"][3] = 4
    with pytest.raises(ValueError, match="train 5001 has 2 frames of memory cell 4"):
        equalize_to(tmp_path, run, 3)
    corrected = write_run(tmp_path / "proc", {3: np.zeros((2, 512, 128), "u1")}, [0, 1])
    with pytest.raises(ValueError, match="stream of the run is 'proc'.*only raw runs"):
        equalize_to(tmp_path, corrected, 3)
