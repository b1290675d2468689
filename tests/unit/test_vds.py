"""The virtual dataset holds the pixels of the sources, fill where there are none, and stays valid when moved."""

import shutil

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_data.components import AGIPD1M
from small_runs import (
    DETECTOR,
    FIRST_TRAIN,
    PULSES,
    check,
    kept_frames,
    pixel_code,
    source_name,
    write_module,
    write_run,
)

from pulsetrain import layout, pulses, simulate, simulate_faults, simulate_files, vds

XGM = simulate_files.XGM


def make(folder, files, stream="raw", modules=(0, 1, 2, 3), **changes):
    """Check the files and write the virtual dataset; gives its path."""
    _, frames = check(files, folder, stream=stream, modules=list(modules))
    return make_from(frames, folder, stream, **changes)


def make_from(frames, folder, stream="raw", **changes):
    path = folder / f"vds/r0050_vds_{stream}.h5"
    options = {"control": [], "detector": DETECTOR, "stream": stream, "proc_units": "auto"}
    options |= {"photon_energy_kev": 9.2, "xgm": XGM, "attributes": {"rule": "make_vds"}}
    vds.make_vds(frames, path, **(options | changes))
    return path


def image_of(file):
    return file[f"INSTRUMENT/{DETECTOR}/DET/image"]


@pytest.mark.parametrize(
    ("naming", "dtype", "fill"), [("raw", "u2", 65535), ("proc", "f4", np.nan), ("corr", "u1", 0), ("corr", "u2", 0)]
)
def test_pixels_and_fill(tmp_path, naming, dtype, fill):
    stream = "raw" if naming == "raw" else "proc"
    files = write_run(tmp_path / "data", naming=naming, dtype=dtype)
    files[3].unlink()  # module 1, sequence 1
    path = make(tmp_path, files, stream)
    with h5py.File(path) as file:
        image = image_of(file)
        data = image["data"]
        assert data.is_virtual
        assert data.dtype == dtype
        assert data.shape == (16, 24, *((2,) if stream == "raw" else ()), 512, 128)
        np.testing.assert_array_equal(data.fillvalue, fill)
        first_pixels = data[:, :, 0, 0, :3] if stream == "raw" else data[:, :, 0, :3]
        for module in range(16):
            for frame in range(24):
                train, pulse = FIRST_TRAIN + frame // 3, PULSES[frame % 3]
                present = module < 4 and not (module == 1 and frame >= 12)
                expected = pixel_code(train, pulse, module) if present else [fill] * 3
                np.testing.assert_array_equal(first_pixels[module, frame], np.array(expected, dtype))
        np.testing.assert_array_equal(image["trainId"], np.repeat(FIRST_TRAIN + np.arange(8), 3))
        np.testing.assert_array_equal(image["pulseId"], np.tile(PULSES, 8))
        np.testing.assert_array_equal(image["cellId"], np.tile([0, 1, 2], 8))
        assert (image["trainId"].dtype, image["pulseId"].dtype, image["cellId"].dtype) == ("u8", "u8", "u2")
        assert file.attrs["rule"] == "make_vds"
        assert len(data.virtual_sources()) == 7
    held = kept_frames(tmp_path / "frames/r0050.h5")
    again = layout.read_layout(path, "pulsetrain")
    np.testing.assert_array_equal(again.modules, held.modules)
    assert again.segments.equals(held.segments)
    assert again.files.equals(held.files)
    assert again.attributes["status"] == "partial"
    assert "rule" not in again.attributes


def test_it_equals_what_extra_data_reads(tmp_path):
    settings = simulate.settings(trains=6, cells=4, sequences=2, modules=[0, 7, 8])
    named = simulate_files.run_files(tmp_path, settings, 50, "raw")["modules"]
    for module, paths in named.items():
        for sequence, path in enumerate(paths):
            simulate_files.write_module_file(path, settings, 50, "raw", module, sequence)
    path = make(tmp_path, [path for paths in named.values() for path in paths], modules=[0, 7, 8])
    run = RunDirectory(tmp_path / "raw/r0050")
    detector = AGIPD1M(run, raw=True, min_modules=3)
    expected = detector["image.data"].ndarray(decompress_threads=1)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(image_of(file)["data"][[0, 7, 8]], expected)
        np.testing.assert_array_equal(
            image_of(file)["cellId"], detector["image.cellId"].ndarray(decompress_threads=1).reshape(3, -1)[0]
        )


def test_no_frame_is_misplaced_whatever_is_wrong(tmp_path):
    faults = ["module_lacks_trains", "train_id_zero", "duplicate_train_flagged", "bit_flipped_train", "short_train"]
    faults += ["truncated_file", "index_hole", "out_of_order_trains"]
    clean = simulate.settings(trains=6, cells=4, sequences=2)
    settings = simulate.settings(trains=6, cells=4, sequences=2, faults=faults)
    images = {}
    for name, chosen in (("clean", clean), ("faulty", settings)):
        named = simulate_files.run_files(tmp_path / name, chosen, 50, "proc")["modules"]
        for module, paths in named.items():
            for sequence, path in enumerate(paths):
                simulate_files.write_module_file(path, chosen, 50, "proc", module, sequence)
        files = [path for paths in named.values() for path in paths]
        path = make(tmp_path / name, files, "proc", modules=range(16))
        with h5py.File(path) as file:
            held = layout.read_layout(path, "pulsetrain")
            images[name] = image_of(file)["data"][()], held.modules, held.train_id
    pixels, modules, train_id = images["faulty"]
    true_pixels = images["clean"][0][:, np.isin(images["clean"][2], train_id)]
    assert len(train_id) == 20
    for module in range(16):
        present = layout.is_present(modules, module)
        np.testing.assert_array_equal(pixels[module, present], true_pixels[module, present])
        assert true_pixels[module, present].any()
        assert not pixels[module, ~present].any()
    assert set(faults) <= set(simulate_faults.FAULTS)


def test_it_moves_with_the_tree(tmp_path):
    path = make(tmp_path / "here", write_run(tmp_path / "here/raw"))
    with h5py.File(path) as file:
        before = image_of(file)["data"][:4, :, :, 0, :3]
        assert all(source.file_name.startswith("../raw/RAW") for source in image_of(file)["data"].virtual_sources())
    shutil.move(tmp_path / "here", tmp_path / "there")
    with h5py.File(tmp_path / "there/vds/r0050_vds_raw.h5") as file:
        np.testing.assert_array_equal(image_of(file)["data"][:4, :, :, 0, :3], before)
    assert before.any()


def test_relative_paths_through_links(tmp_path, monkeypatch):
    (tmp_path / "storage/scratch").mkdir(parents=True)
    (tmp_path / "scratch").symlink_to(tmp_path / "storage/scratch")
    write_run(tmp_path / "disk/raw")
    (tmp_path / "raw").symlink_to(tmp_path / "disk/raw")
    monkeypatch.chdir(tmp_path / "scratch")
    files = sorted((tmp_path / "raw").glob("*.h5"))
    path = make(tmp_path / "scratch", files)
    with h5py.File(path) as file:
        assert (image_of(file)["data"][3, :, 0, 0, 2] == 3).all()


@pytest.mark.parametrize("naming", ["raw", "corr"])
def test_a_run_without_frames(tmp_path, naming):
    stream = "raw" if naming == "raw" else "proc"
    files = [
        write_module(tmp_path / f"RAW-R0050-AGIPD{module:02d}-S00000.h5", module, [], naming=naming, dtype="u2")
        for module in range(4)
    ]
    with h5py.File(make(tmp_path, files, stream)) as file:
        assert image_of(file)["data"].shape == (16, 0, *((2,) if stream == "raw" else ()), 512, 128)
        assert image_of(file)["data"][3, :].size == 0
        assert image_of(file)["cellId"].shape == (0,)
        assert file["pulsetrain"].attrs["status"] == "empty"


def test_module_0_absent(tmp_path):
    with h5py.File(make(tmp_path, write_run(tmp_path / "raw", modules=(1, 2, 3)))) as file:
        np.testing.assert_array_equal(image_of(file)["cellId"][:3], [0, 1, 2])
        assert (image_of(file)["data"][0, 0] == 65535).all()


def changed_size(path):
    with path.open("ab") as file:
        file.write(b"more")


def changed_index(path):
    with h5py.File(path, "r+") as file:
        file["INDEX/trainId"][0] += 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "not there"),
        (changed_size, "bytes, .* before"),
        (changed_index, "INDEX is another"),
    ],
)
def test_sources_that_changed_since_the_check(tmp_path, change, message):
    files = write_run(tmp_path / "raw")
    _, frames = check(files, tmp_path)
    change(files[3])
    change(files[6])
    with pytest.raises(RuntimeError, match=f"the run changed since check_run(.|\n)*{message}") as error:
        make_from(frames, tmp_path)
    assert files[3].name in str(error.value)
    assert files[6].name in str(error.value)
    assert files[0].name not in str(error.value)
    assert not (tmp_path / "vds/r0050_vds_raw.h5").exists()


def test_the_other_stream_is_an_error(tmp_path):
    _, frames = check(write_run(tmp_path / "raw"), tmp_path)
    with pytest.raises(ValueError, match="is of stream 'raw'; expected 'proc'"):
        make_from(frames, tmp_path, "proc")


@pytest.mark.parametrize(
    ("dtype", "value", "unit", "given", "units", "source"),
    [
        ("u1", 1, None, "auto", "photons", "uint8 data"),
        ("f4", 1, None, "auto", "photons", "whole numbers"),
        ("f4", 9.3, None, "auto", "keV", "fractions in frame"),
        ("f4", np.nan, None, "auto", "photons", "whole numbers"),
        ("f4", 9.3, ("photons", ""), "auto", "photons", "unit attributes"),
        ("f4", 1, ("keV", ""), "auto", "keV", "unit attributes"),
        ("f4", 1, ("eV", "k"), "auto", "keV", "unit attributes"),
        ("f4", 9.3, None, "photons", "photons", "set in the config"),
    ],
)
def test_units_of_corrected_data(tmp_path, dtype, value, unit, given, units, source):
    files = write_run(tmp_path / "data", naming="corr", dtype=dtype)
    for path in files:
        with h5py.File(path, "r+") as file:
            data = file[f"INSTRUMENT/{source_name(int(path.name[16:18]), 'corr')}/image/data"]
            data[5, 10, 10] = value
            data[0, 10, 10] = value
            if unit:
                data.attrs["unitSymbol"], data.attrs["metricPrefixSymbol"] = unit
    with h5py.File(make(tmp_path, files, "proc", proc_units=given)) as file:
        assert file["pulsetrain"].attrs["units"] == units
        assert image_of(file)["data"].attrs["units"] == units
        assert source in file["pulsetrain"].attrs["units_source"]


@pytest.mark.parametrize("dark", [0, np.nan])
@pytest.mark.parametrize(
    ("value", "units", "source"),
    [
        (9.3, "keV", "fractions in frame 0 of module 1"),
        (2, "photons", "all 327680 finite values other than 0 in 10 frames of modules 0, 1 are whole numbers"),
        (0, "keV", "assumed: 20 frames of modules 0, 1, 2, 3 hold no value other than 0 and NaN"),
    ],
)
def test_dark_modules_do_not_tell_the_units(tmp_path, dark, value, units, source):
    files = write_run(tmp_path / "data", naming="corr", dtype="f4")
    for path in files:
        module = int(path.name[16:18])
        with h5py.File(path, "r+") as file:
            data = file[f"INSTRUMENT/{source_name(module, 'corr')}/image/data"]
            data[...] = dark
            if module == 1:
                data[...] = value
    with h5py.File(make(tmp_path, files, "proc")) as file:
        assert file["pulsetrain"].attrs["units"] == units
        assert source in file["pulsetrain"].attrs["units_source"]


def test_impossible_units(tmp_path):
    files = write_run(tmp_path / "data", naming="corr", dtype="u1")
    _, frames = check(files, tmp_path, stream="proc")
    with pytest.raises(ValueError, match="the data are uint8"):
        make_from(frames, tmp_path, "proc", proc_units="keV")
    with pytest.raises(ValueError, match="proc_units is 'ADU'"):
        make_from(frames, tmp_path, "proc", proc_units="ADU")


def write_wavelengths(path, wavelengths, source=XGM):
    with h5py.File(path, "w") as file:
        file["METADATA/dataFormatVersion"] = [b"1.2"]
        file["INDEX/trainId"] = FIRST_TRAIN + np.arange(len(wavelengths), dtype="u8")
        file["INDEX/flag"] = np.ones(len(wavelengths), "i4")
        file[f"INDEX/{source}/first"] = np.arange(len(wavelengths), dtype="u8")
        file[f"INDEX/{source}/count"] = np.ones(len(wavelengths), "u8")
        file[f"CONTROL/{source}/{pulses.WAVELENGTH_KEY.replace('.', '/')}"] = np.asarray(wavelengths, "f4")
    return path


def test_photon_energy(tmp_path):
    control = [
        write_wavelengths(tmp_path / "a.h5", [0.13, 0.1347654, 0, np.nan]),
        write_wavelengths(tmp_path / "b.h5", [0.1347654, 0.14]),
        write_wavelengths(tmp_path / "c.h5", [1.0], "OTHER/XGM/DOOCS"),
    ]
    energy, source = vds.find_photon_energy(control, XGM, None)
    assert energy == pytest.approx(9.2, abs=1e-4)
    assert source.startswith("median of 4 values")
    assert vds.find_photon_energy(control, XGM, 8) == (8.0, "set in the config")
    energy, source = vds.find_photon_energy(control[2:], XGM, None)
    assert np.isnan(energy)
    assert "1 control files" in source


def test_photon_energy_in_the_unit_of_the_file(tmp_path):
    control = write_wavelengths(tmp_path / "a.h5", [134.7654])
    with h5py.File(control, "r+") as file:
        group = file[f"CONTROL/{XGM}/pulseEnergy/wavelengthUsed"]
        group.attrs["unitSymbol"], group.attrs["metricPrefixSymbol"] = "m", "p"
    assert vds.find_photon_energy([control], XGM, None)[0] == pytest.approx(9.2, abs=1e-4)


def test_broken_control_files_are_left_out_and_named(tmp_path, caplog):
    whole = write_wavelengths(tmp_path / "a.h5", [0.1347654])
    empty, cut = tmp_path / "RAW-R0050-DA02-S00000.h5", tmp_path / "RAW-R0050-DA03-S00000.h5"
    empty.touch()
    cut.write_bytes(whole.read_bytes()[:-2000])
    energy, source = vds.find_photon_energy([empty, cut, whole], XGM, None)
    assert energy == pytest.approx(9.2, abs=1e-4) and source.startswith("median of 1 values")
    energy, source = vds.find_photon_energy([empty, cut], XGM, None)
    assert np.isnan(energy)
    assert "2 control files; 2 of them cannot be read (RAW-R0050-DA02-S00000.h5, RAW-R0050-DA03-S00000.h5)" in source
    assert "DA02" in caplog.text and "DA03" in caplog.text
    with h5py.File(whole, "r+") as file:
        del file[f"INDEX/{XGM}/first"]
    with pytest.raises(ValueError, match="a.h5: .*first is missing"):
        vds.find_photon_energy([whole], XGM, None)


def test_photon_energy_of_the_simulated_run(tmp_path):
    settings = simulate.settings(trains=6, cells=4, sequences=2, modules=[0])
    path = tmp_path / "RAW-R0050-DA01-S00000.h5"
    simulate_files.write_control_file(path, settings, 50)
    assert vds.find_photon_energy([path], XGM, None)[0] == pytest.approx(9.2, rel=1e-6)
