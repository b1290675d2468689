"""A dark file that does not fit is an error that says everything that is wrong with it."""

import h5py
import numpy as np
import pytest
from mid_runs import settings_of

from pulsetrain import mid_constants, simulate_detector, simulate_mid
from pulsetrain.simulate_mid import NEW, OLD

CELLS = np.arange(3)


@pytest.mark.parametrize("kind", [NEW, OLD])
def test_constants_are_the_true_ones(tmp_path, kind):
    settings = settings_of()
    path = tmp_path / "dark.h5"
    simulate_mid.write_dark(path, settings, kind)
    mid_constants.check_dark(path, [0, 13], CELLS)
    found = mid_constants.read_dark(path, 13, np.array([0, 2]), [68.8, 1.376])
    for place, cell in enumerate((0, 2)):
        pedestal = simulate_detector.constants(settings, 13, cell)[0]
        np.testing.assert_array_equal(found.offset[place], pedestal[:2].reshape(2, -1))
        np.testing.assert_array_equal(found.level[place], simulate_mid.dark_level(settings, 13).reshape(-1))
        np.testing.assert_array_equal(found.good[place], simulate_mid.dark_good_pixels(settings, 13).reshape(-1))
    assert found.scale.tolist() == [[[np.float32(1 / 68.8)], [np.float32(1 / 1.376)]]]


def test_the_old_mask_flags_a_pixel_that_is_bad_in_any_gain_and_cell(tmp_path):
    path = tmp_path / "dark.h5"
    simulate_mid.write_dark(path, settings_of(), OLD)
    with h5py.File(path, "r+") as file:
        file["Badpixel"][...] = 0
        file["Badpixel"][2, 1, 13, 40, 50] = 4
    found = mid_constants.read_dark(path, 13, CELLS, [68.8, 1.376])
    assert np.argwhere(~found.good).tolist() == [[cell, 40 * 128 + 50] for cell in CELLS]


def test_pixels_without_a_constant_are_bad(tmp_path):
    path = tmp_path / "dark.h5"
    simulate_mid.write_dark(path, settings_of())
    with h5py.File(path, "r+") as file:
        file["Badpixel"][...] = 1
        file["AnalogOffset"][1, 2, 13, 0, 3] = np.nan
        file["DigitalGainLevel"][1, 0, 13, 0, 4] = np.inf
        file["AnalogOffset"][2, 2, 13, 0, 5] = np.nan  # low gain is not used
    found = mid_constants.read_dark(path, 13, CELLS, [68.8, 1.376])
    assert np.argwhere(~found.good).tolist() == [[0, 4], [2, 3]]


@pytest.mark.parametrize(
    ("fault", "kind", "messages"),
    [
        (
            "dark_missing_module",
            NEW,
            ["AnalogOffset has 13 modules; module 13 is not among them", "DigitalGainLevel has 13"],
        ),
        ("dark_missing_cell", OLD, ["AnalogOffset has 2 memory cells; the run uses cell 2", "DigitalGainLevel has 2"]),
        (
            "dark_wrong_shape",
            NEW,
            [r"AnalogOffset has shape \(3, 3, 16, 128, 512\); expected \(3, cells, modules, 512, 128"],
        ),
        (
            "dark_turned_badpixel",
            NEW,
            ["99.6 % of the pixels of module 00 bad. With its 2 axes it is read as 1 = good", "module 13"],
        ),
        (
            "dark_turned_badpixel",
            OLD,
            ["99.6 % of the pixels of module 00 bad. With its 5 axes it is read as 0 = good"],
        ),
    ],
)
def test_faults(tmp_path, fault, kind, messages):
    path = tmp_path / "dark.h5"
    simulate_mid.write_dark(path, settings_of(), kind, [fault])
    with pytest.raises(ValueError, match=r"dark.h5 \(mid.dark\) cannot be used") as error:
        mid_constants.check_dark(path, [0, 13], CELLS)
    for message in messages:
        error.match(message)


def test_missing_datasets_are_all_named(tmp_path):
    path = tmp_path / "dark.h5"
    with h5py.File(path, "w") as file:
        file["Badpixel"] = np.ones((100, 128))
    with pytest.raises(
        ValueError, match=r"no dataset AnalogOffset\n.*no dataset DigitalGainLevel\n.*expected \(8192, 128\)"
    ):
        mid_constants.check_dark(path, [0], CELLS)


def test_constants_that_are_no_numbers_are_named(tmp_path):
    path = tmp_path / "dark.h5"
    simulate_mid.write_dark(path, settings_of(), NEW)
    with h5py.File(path, "r+") as file:
        shape = file["AnalogOffset"].shape
        del file["AnalogOffset"]
        file.create_dataset("AnalogOffset", shape, "S4", chunks=(1, 1, 1, 512, 128))
    with pytest.raises(ValueError, match=r"AnalogOffset has the type \|S4; expected numbers"):
        mid_constants.check_dark(path, [0], CELLS)


@pytest.mark.parametrize(
    ("contents", "message"), [(b"offsets", "no HDF5 file .7 bytes.; copy it again"), (b"", "0 bytes")]
)
def test_a_dark_file_that_cannot_be_opened_is_named(tmp_path, contents, message):
    path = tmp_path / "dark.h5"
    path.write_bytes(contents)
    with pytest.raises(ValueError, match=rf"dark.h5 \(mid.dark\) cannot be used:\n.*{message}"):
        mid_constants.check_dark(path, [0], CELLS)
