"""The simulator: its files are what the facility's tools expect, its truth is what is in them."""

from pathlib import Path

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_data.components import AGIPD1M
from extra_data.validation import RunValidator

from pulsetrain import (
    exdf_writer,
    provenance,
    simulate,
    simulate_detector,
    simulate_faults,
    simulate_files,
    simulate_particles,
    simulate_truth,
)
from pulsetrain.detector import xfel_from_lab

RUN = 50
STREAMS = ("proc", "raw")


def write_run(root, stream, **overrides):
    """Write a tiny run; its settings and files."""
    settings = simulate.settings("tiny", **overrides)
    files = simulate_files.run_files(root, settings, RUN, stream)
    for module, paths in files["modules"].items():
        for path in paths:
            simulate_files.write_module_file(path, settings, RUN, stream, module, sequence_of(path))
    simulate_files.write_control_file(files["control"][0], settings, RUN)
    for path in files["control"][1:]:
        simulate_files.write_litfrm_file(path, settings, RUN)
    return settings, files


def sequence_of(path):
    return int(Path(path).stem[-5:])


def open_run(files):
    module = min(files["modules"])
    return RunDirectory(str(Path(files["modules"][module][0]).parent))


def problems(folder):
    validator = RunValidator(str(folder))
    validator.run_checks()
    return [problem["msg"] for problem in validator.problems]


def good_pixels(settings, module, cells):
    return np.stack([simulate_detector.facility_mask(settings, module, cell) == 0 for cell in cells])


def same_datasets(first, second):
    """Both files hold the same datasets with the same bytes."""

    def contents(path):
        found = {}
        with h5py.File(path) as file:
            file.visititems(
                lambda name, held: (
                    found.update({name: held[()].tobytes()})
                    if isinstance(held, h5py.Dataset) and held.dtype.kind != "O"
                    else None
                )
            )
        return found

    return contents(first) == contents(second)


@pytest.mark.parametrize("stream", STREAMS)
def test_clean_run_passes_the_facilitys_validator(tmp_path, stream):
    write_run(tmp_path, stream, modules=[0, 3])
    for folder in {tmp_path / stream / "r0050", tmp_path / "raw" / "r0050"}:
        assert problems(folder) == []


@pytest.mark.parametrize("stream", STREAMS)
def test_extra_data_reads_identifiers_and_pixels_back(tmp_path, stream):
    settings, files = write_run(tmp_path, stream, modules=[3, 15], hit_rate=0.2)
    truth = simulate.frame_truth(settings, RUN)
    detector = AGIPD1M(open_run(files), modules=[3, 15], raw=stream == "raw")
    key = detector["image.data"]
    images = key.ndarray(decompress_threads=1)
    np.testing.assert_array_equal(key.train_id_coordinates(), truth["trainId"])
    np.testing.assert_array_equal(key.pulse_id_coordinates(), truth["pulseId"])
    np.testing.assert_array_equal(key.cell_id_coordinates(), truth["cellId"])
    frames = range(len(truth["trainId"]))
    for row, module in enumerate([3, 15]):
        photons = simulate.module_photons(settings, RUN, module, frames)
        if stream == "raw":
            expected = simulate_detector.raw_images(settings, RUN, module, frames, truth["cellId"], photons)
            np.testing.assert_array_equal(images[row], expected)
        else:
            good = good_pixels(settings, module, truth["cellId"])
            np.testing.assert_array_equal(images[row][good], photons[good])
            np.testing.assert_array_equal(detector["image.mask"].ndarray(decompress_threads=1)[row] == 0, good)


@pytest.mark.parametrize("proc_data", ["float32", "keV"])
def test_corrected_float_data_are_the_photons(tmp_path, proc_data):
    settings, files = write_run(tmp_path, "proc", modules=[4], proc_data=proc_data, cells=3)
    images = open_run(files)["SPB_DET_AGIPD1M-1/CORR/4CH0:output", "image.data"].ndarray()
    assert images.dtype == np.float32
    cells = simulate.frame_truth(settings, RUN)["cellId"]
    good = good_pixels(settings, 4, cells)
    photons = simulate.module_photons(settings, RUN, 4, range(len(cells)))
    counted = images[good] / (settings["photon_energy_kev"] if proc_data == "keV" else 1)
    assert np.mean(np.floor(counted + 0.5) != photons[good]) < 1e-5


@pytest.mark.parametrize("version", exdf_writer.VERSIONS)
@pytest.mark.filterwarnings("ignore:Train validation is not fully supported")
def test_every_format_version_is_readable(tmp_path, version):
    settings, files = write_run(tmp_path, "proc", modules=[3], format_version=version, cells=2)
    run = open_run(files)
    assert list(run.train_ids) == list(range(10001, 10007))
    assert run["SPB_DET_AGIPD1M-1/CORR/3CH0:output", "image.data"].data_counts().tolist() == [2] * 6
    with RunDirectory(str(tmp_path / "raw" / "r0050"), inc_suspect_trains=False) as control:
        assert len(control.train_ids) == 6


def test_older_source_name(tmp_path):
    _, files = write_run(tmp_path, "proc", modules=[3], old_names=True, cells=2)
    assert open_run(files)["SPB_DET_AGIPD1M-1/DET/3CH0:xtdf", "image.data"].shape == (12, 512, 128)


def test_a_file_made_alone_is_the_same_file(tmp_path):
    for stream in STREAMS:
        settings, files = write_run(tmp_path / "run", stream, modules=[7], bright_ring=True, hit_rate=0.1)
        for cached in (simulate._frame_truth, simulate._module_pixels, simulate_detector._cached_constants):
            cached.cache_clear()
        alone = tmp_path / f"{stream}.h5"
        simulate_files.write_module_file(alone, settings, RUN, stream, 7, 1)
        assert same_datasets(alone, files["modules"][7][1])


def test_runs_and_seeds_differ():
    settings = simulate.settings("tiny")
    other = simulate.settings("tiny", seed=2)
    images = [
        simulate.module_photons(chosen, run, 3, [0]) for chosen, run in ((settings, 50), (settings, 51), (other, 50))
    ]
    assert not np.array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


@pytest.mark.parametrize("particle", ["spheroid", "blob"])
def test_photon_totals(particle):
    settings = simulate.settings("small", particle=particle)
    truth = simulate.frame_truth(settings, RUN)
    hits = truth["is_hit"]
    assert hits.sum() == round(0.04 * 4096)
    relative = truth["pulse_energy_J"] / 1.5e-3
    standard_error = 6000 * np.sqrt(np.expm1(0.6**2) / hits.sum())
    assert abs((truth["n_photons"][hits] / relative[hits]).mean() - 6000) < 4 * standard_error
    assert abs(truth["n_bg"].mean() - 1450) < 30
    assert not truth["n_photons"][~hits].any()
    frame = int(np.flatnonzero(hits)[0])
    for module in (3, 4):
        photons = simulate.module_photons(settings, RUN, module, [frame])
        assert photons.sum() == truth["module_photons"][frame, module] + truth["module_bg"][frame, module]


def test_photons_follow_the_intensity():
    """Counts of many shots of one module against the model, in rings of the background."""
    settings = simulate.settings("small", hit_rate=0)
    total = simulate.module_photons(settings, RUN, 3, range(400)).sum(axis=0).ravel().astype(float)
    pixels = simulate._module_pixels(simulate._key(settings), 3)
    expected = np.diff(pixels["background_cdf"], prepend=0) * total.sum()
    ring = np.digitize(pixels["radius_m"], np.linspace(0.005, 0.04, 8))
    found, model = np.bincount(ring, total), np.bincount(ring, expected)
    assert np.all(np.abs(found - model) < 5 * np.sqrt(model) + 1)


def test_blob_has_no_symmetry_that_hides_a_wrong_orientation():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(500, 3))
    q *= 0.6 / np.linalg.norm(q, axis=1, keepdims=True)
    intensity = simulate.blob_intensity(q)
    np.testing.assert_allclose(simulate.blob_intensity(-q), intensity, rtol=1e-9)  # Friedel: the density is real
    for mirror in ([-1, 1, 1], [1, -1, 1], [1, 1, -1]):
        assert np.corrcoef(simulate.blob_intensity(q * mirror), intensity)[0, 1] < 0.5
    direct = sum(
        weight * np.exp(-(0.6**2) * width**2 / 2) * np.exp(1j * q @ centre)
        for weight, width, centre in zip(
            simulate_particles.BLOB_WEIGHTS,
            simulate_particles.BLOB_WIDTHS_NM,
            simulate_particles.BLOB_CENTRES_NM,
            strict=True,
        )
    )
    np.testing.assert_allclose(intensity, np.abs(direct) ** 2, rtol=1e-9)


def test_rotation_convention():
    half = np.sqrt(0.5)
    turn_about_z = simulate_particles.rotation_matrices(np.array([[half, 0, 0, half]]))[0]
    np.testing.assert_allclose(turn_about_z @ [1, 0, 0], [0, 1, 0], atol=1e-12)


def test_xgm_holds_the_true_energies_in_microjoule(tmp_path):
    settings, files = write_run(tmp_path, "proc", modules=[3])
    run = RunDirectory(str(Path(files["control"][0]).parent))
    key = run["SPB_XTD9_XGM/XGM/DOOCS:output", "data.intensityTD"]
    assert key.units == "μJ"
    energy = simulate.frame_truth(settings, RUN)["pulse_energy_J"].reshape(6, 8)
    np.testing.assert_array_equal(key.ndarray()[:, :8].astype(float) * 1e-6, energy)
    assert np.all(key.ndarray()[:, 8:] == 1.0)
    wavelength = run["SPB_XTD9_XGM/XGM/DOOCS", "pulseEnergy.wavelengthUsed"]
    assert wavelength.units == "nm"
    np.testing.assert_allclose(wavelength.ndarray(), 0.134765, rtol=1e-5)
    assert run.get_run_value("SPB_XTD9_XGM/XGM/DOOCS", "classId") == "DoocsXGM"
    litfrm = run["SPB_IRU_AGIPD1M1/REDU/LITFRM:output"]
    np.testing.assert_array_equal(litfrm["data.detectorPulseId"].ndarray()[2], np.arange(8) * 4)
    np.testing.assert_allclose(litfrm["data.energyPerFrame"].ndarray() * 1e-6, energy, rtol=1e-6)


@pytest.mark.parametrize(("xgm", "present"), [("xgm", ["XGM"]), ("none", [])])
def test_runs_without_energies(tmp_path, xgm, present):
    _, files = write_run(tmp_path, "proc", modules=[3], xgm=xgm, cells=2)
    assert [Path(path).name for path in files["control"]] == ["RAW-R0050-DA01-S00000.h5"]
    sources = RunDirectory(str(Path(files["control"][0]).parent)).all_sources
    assert any("XGM" in source for source in sources) == bool(present)
    assert "SPB_IRU_AGIPD1M1/MDL/FPGA_COMP" in sources


def test_run_without_beam_is_dark(tmp_path):
    settings, files = write_run(tmp_path, "proc", modules=[3], beam=False, cells=2, bright_ring=True)
    assert not simulate.module_photons(settings, RUN, 3, range(12)).any()
    assert np.isnan(simulate.frame_truth(settings, RUN)["pulse_energy_J"]).all()
    with h5py.File(files["control"][0]) as file:
        assert np.all(file["INSTRUMENT/SPB_XTD9_XGM/XGM/DOOCS:output/data/intensityTD"][()] == 1.0)


def test_constants_turn_raw_data_back_into_photons(tmp_path):
    settings = simulate.settings("tiny", bright_ring=True, hit_rate=0.1)
    module, frames = 9, range(16)
    cells = simulate.frame_truth(settings, RUN)["cellId"][:16]
    photons = simulate.module_photons(settings, RUN, module, frames)
    raw = simulate_detector.raw_images(settings, RUN, module, frames, cells, photons)
    simulate_truth.write_constants(tmp_path / "constants.h5", settings, module)
    simulate_truth.write_bad_cell_mask(tmp_path / "mask.h5", settings, module)
    with h5py.File(tmp_path / "constants.h5") as file:
        gain = xfel_from_lab(file["analogGains_keV"][()], module)
        threshold = xfel_from_lab(file["digitalThresholds"][()], module)
        offset = xfel_from_lab(file["darkOffsets"][()], module)
    with h5py.File(tmp_path / "mask.h5") as file:
        good = ~xfel_from_lab(file["badCellMask"][()], module)[cells]
    stage = (raw[:, 1] > threshold[0, cells]).astype(int) + (raw[:, 1] > threshold[1, cells])
    at = (stage, cells[:, None, None], *np.ogrid[:512, :128])
    kev = (raw[:, 0] - offset[at]) * gain[at]
    error = kev / settings["photon_energy_kev"] - photons
    np.testing.assert_array_equal(stage[good], ((photons > 55) * 1 + (photons > 2500))[good])
    assert set(np.unique(stage)) == {0, 1, 2}
    adu_per_photon = np.array([68.8, 68.8 / 50, 68.8 / 250])
    for each in range(3):
        error_adu = error[good & (stage == each)] * adu_per_photon[each]
        assert abs(error_adu.mean()) < 6
        assert 8 < error_adu.std() < 14  # noise 8, common mode 6, baseline 2


@pytest.mark.parametrize("cell_order", ["ascending", "shuffled"])
def test_cell_order(cell_order):
    settings = simulate.settings("tiny", cell_order=cell_order)
    plans = [simulate_faults.plan_file(settings, module, 0) for module in (0, 9)]
    np.testing.assert_array_equal(plans[0].cell_id, plans[1].cell_id)
    assert sorted(plans[0].cell_id[:8]) == list(range(8))
    assert (plans[0].cell_id[:8].tolist() == list(range(8))) == (cell_order == "ascending")
    assert np.all(np.diff(plans[0].pulse_id[:8].astype(int)) == 4)


@pytest.mark.parametrize("stream", STREAMS)
def test_truth_file(tmp_path, stream):
    settings = simulate.settings("tiny", modules=[3, 4], faults=["short_train"], hit_rate=0.1)
    simulate_truth.write_truth(tmp_path / "truth.h5", settings, RUN, stream)
    with h5py.File(tmp_path / "truth.h5") as file:
        frames = file["frames"]
        dense = np.zeros((48, 16 * 512 * 128), dtype=np.uint16)
        dense[frames["photons_sparse/frame"][()], frames["photons_sparse/pixel"][()]] = frames["photons_sparse/count"]
        dense = dense.reshape(48, 16, 512, 128)
        for module in (3, 4):
            np.testing.assert_array_equal(dense[:, module], simulate.module_photons(settings, RUN, module, range(48)))
        assert file["faults/kind"].asstr()[0] == "short_train"
        assert file["faults/train"][0] == 10003
        assert file["expected/module_availability"][4].tolist() == [1, 1, 2, 1, 1, 1]
        assert 10003 not in file["expected/trains_common"]
        bad = file["constants/module04/bad"][()]
        assert (bad[0] != 0).all()  # the bad cell
        assert 0.003 < (bad[1] != 0).mean() < 0.005
        assert ("common_mode" in file) == (stream == "raw")


@pytest.mark.parametrize("trains", [0, 1])
def test_very_short_runs(tmp_path, trains):
    settings, files = write_run(tmp_path, "proc", trains=trains, modules=[3])
    simulate_truth.write_truth(tmp_path / "truth.h5", settings, RUN, "proc")
    with h5py.File(files["modules"][3][0]) as file:
        assert file["INSTRUMENT/SPB_DET_AGIPD1M-1/CORR/3CH0:output/image/data"].shape == (trains * 8, 512, 128)


def module_file(root, fault, sequence=0, **overrides):
    """One module file that a fault is in, opened; with the image group and the index."""
    settings = simulate.settings("tiny", faults=[fault], cells=4, **overrides)
    module = simulate_faults.FAULT_MODULES.get(fault, (3,))[-1]
    path = root / simulate_faults.file_name(RUN, "proc", module, sequence)
    simulate_files.write_module_file(path, settings, RUN, "proc", module, sequence)
    file = h5py.File(path)
    source = f"SPB_DET_AGIPD1M-1/CORR/{module}CH0:output/image"
    return file, file[f"INSTRUMENT/{source}"], file[f"INDEX/{source}"]


def index_of(fault, sequence=0):
    settings = simulate.settings("tiny", faults=[fault], cells=4)
    return simulate_faults.plan_file(settings, simulate_faults.FAULT_MODULES[fault][-1], sequence)


@pytest.mark.parametrize(
    ("fault", "sequence", "train_ids", "counts"),
    [
        ("module_lacks_trains", 0, [10001, 10003], [4, 4]),
        ("module_count_zero", 0, [10001, 10002, 10003], [4, 4, 0]),
        ("first_file_without_trains", 0, [], []),
        ("train_id_zero", 0, [10001, 0, 10003], [4, 4, 4]),
        ("duplicate_train", 0, [10001, 10002, 10002, 10003], [4, 4, 4, 4]),
        ("duplicate_train_flagged", 0, [10001, 10002, 10002, 10003], [4, 4, 4, 4]),
        ("bit_flipped_train", 1, [10004, 10005 ^ 1 << 40, 10006], [4, 4, 4]),
        ("index_off_by_one", 0, [10002, 10003, 10004], [4, 4, 4]),
        ("short_train", 0, [10001, 10002, 10003], [4, 4, 2]),
        ("half_detector_starts_late", 0, [10002, 10003], [4, 4]),
        ("index_hole", 0, [10001, 10002, 10003], [4, 4, 4]),
        ("out_of_order_trains", 1, [10005, 10004, 10006], [4, 4, 4]),
    ],
)
def test_faults_of_the_train_index(tmp_path, fault, sequence, train_ids, counts):
    file, image, index = module_file(tmp_path, fault, sequence)
    with file:
        assert file["INDEX/trainId"][()].tolist() == train_ids
        assert index["count"][()].tolist() == counts
        assert len(image["data"]) == sum(counts) + (2 if fault == "index_hole" else 0)
        good = [1] * len(train_ids)
        if fault == "duplicate_train_flagged":
            good[2] = 0
        assert file["INDEX/flag"][()].tolist() == good
        own = 0 if fault != "index_off_by_one" else 1
        for train_id, first, count in zip(train_ids, index["first"], index["count"], strict=True):
            if train_id:
                assert np.all(image["trainId"][first : first + count] == train_id - own)


def test_index_hole_has_rows_of_no_train(tmp_path):
    file, image, index = module_file(tmp_path, "index_hole")
    with file:
        assert index["first"][()].tolist() == [0, 4, 10]
        assert np.all(image["data"][8:10] == simulate_files.JUNK)
        assert not np.any(image["trainId"][8:10])


def test_faults_of_the_frame_identifiers():
    clean = simulate_faults.plan_file(simulate.settings("tiny", cells=4), 3, 0)
    assert index_of("pulse_id_differs", 1).pulse_id[:4].tolist() == [0, 4, 8, 14]
    assert index_of("cell_id_shifted").cell_id[8:].tolist() == [1, 2, 3, 4]
    assert index_of("image_train_id_zero").train_id.tolist() == [10001] * 4 + [0] * 4 + [10003] * 4
    late = simulate_faults.plan_file(simulate.settings("tiny", cells=4, faults=["pulse_ids_start_at_4"]), 3, 0)
    np.testing.assert_array_equal(late.pulse_id, clean.pulse_id + np.uint64(4))


@pytest.mark.parametrize(("fault", "sequence"), [("truncated_file", 0), ("still_being_copied", 1)])
def test_cut_files_cannot_be_opened(tmp_path, fault, sequence):
    with pytest.raises(OSError, match="truncated"):
        module_file(tmp_path, fault, sequence)


def test_missing_files_are_not_listed(tmp_path):
    settings = simulate.settings("tiny", faults=["missing_module", "missing_sequence_file"])
    files = simulate_files.run_files(tmp_path, settings, RUN, "raw")["modules"]
    assert 2 not in files
    assert [sequence_of(path) for path in files[8]] == [0]
    assert [sequence_of(path) for path in files[7]] == [0, 1]


def test_corrected_files_without_mask(tmp_path):
    file, image, _ = module_file(tmp_path, "no_mask")
    with file:
        assert "mask" not in image


def test_xgm_missing_trains(tmp_path):
    settings, files = write_run(tmp_path, "proc", modules=[3], faults=["xgm_missing_trains"], cells=2)
    run = RunDirectory(str(Path(files["control"][0]).parent))
    key = run["SPB_XTD9_XGM/XGM/DOOCS:output", "data.intensityTD"]
    assert key.data_counts().tolist() == [1, 0, 1, 0, 1, 1]
    energy = simulate.frame_truth(settings, RUN)["pulse_energy_J"].reshape(6, 2)[[0, 2, 4, 5]]
    np.testing.assert_array_equal(key.ndarray()[:, :2].astype(float) * 1e-6, energy)


def test_expected_availability_of_all_faults():
    settings = simulate.settings("tiny", faults=list(simulate_faults.FAULTS))
    table = simulate_faults.expected_availability(settings)
    assert table[5].tolist() == [1, 0, 1, 1, 0, 1]
    assert table[13].tolist() == [0, 2, 2, 2, 2, 2]
    assert not table[2].any()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"hitrate": 0.1}, "nearest: hit_rate"),
        ({"particle": "cube"}, "expected one of spheroid, blob"),
        ({"faults": ["short_trains"]}, "nearest: short_train"),
        ({"faults": ["short_train"], "modules": [3]}, "module 4"),
        ({"faults": ["short_train"], "trains": 4}, "at least 6 trains"),
        ({"modules": [16]}, "from 0 to 15"),
    ],
)
def test_wrong_settings_are_explained(overrides, message):
    with pytest.raises(ValueError, match=message):
        simulate.settings("tiny", **overrides)


@pytest.mark.parametrize("script", ["module", "control", "truth", "constants"])
def test_scripts_know_the_code_they_run(script):
    assert "pulsetrain/simulate.py" in provenance.code_of(f"simulate_{script}.py")
