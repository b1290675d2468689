"""Reading INDEX and values of every format version, damaged ones included."""

import h5py
import numpy as np
import pytest
from small_runs import FIRST_TRAIN, source_name, write_module

from pulsetrain import exdf

TRAINS = FIRST_TRAIN + np.arange(4, dtype="u8")
XGM = "SPB_XTD9_XGM/XGM/DOOCS"


def read(path, module=0):
    with exdf.open_file(path) as file:
        return exdf.read_index(file, source_name(module, "raw"), "image")


def write_xgm(path, trains=TRAINS, first=None, count=None):
    first = np.arange(len(trains)) if first is None else first
    count = np.ones(len(trains)) if count is None else count
    with h5py.File(path, "w") as file:
        file["METADATA/dataFormatVersion"] = [b"1.2"]
        file["METADATA/dataSources/dataSourceId"] = [
            f"CONTROL/{XGM}".encode(),
            f"INSTRUMENT/{XGM}:output/data".encode(),
        ]
        file["INDEX/trainId"] = np.asarray(trains, "u8")
        file["INDEX/flag"] = np.ones(len(trains), "i4")
        for name in (XGM, f"{XGM}:output/data"):
            file[f"INDEX/{name}/first"] = np.asarray(first, "u8")
            file[f"INDEX/{name}/count"] = np.asarray(count, "u8")
        file[f"INSTRUMENT/{XGM}:output/data/trainId"] = TRAINS
        energy = file.create_dataset(f"INSTRUMENT/{XGM}:output/data/intensityTD", data=np.arange(8.0).reshape(4, 2))
        energy.attrs["metricPrefixSymbol"] = np.array([b"u"])
        energy.attrs["unitSymbol"] = np.bytes_("J")
        file[f"CONTROL/{XGM}/pulseEnergy/wavelengthUsed/value"] = np.arange(4.0)
        file[f"CONTROL/{XGM}/pulseEnergy/wavelengthUsed"].attrs["unitSymbol"] = "m"
        file[f"CONTROL/{XGM}/pulseEnergy/wavelengthUsed"].attrs["metricPrefixSymbol"] = "n"
    return path


@pytest.mark.parametrize("version", ["0.5", "1.0", "1.1", "1.2", "1.3"])
def test_index_of_each_format_version(tmp_path, version):
    path = write_module(tmp_path / "a.h5", 0, TRAINS, version=version, flags=[1, 0, 1, 1])
    index = read(path)
    np.testing.assert_array_equal(index.train_id, TRAINS)
    np.testing.assert_array_equal(index.first, [0, 3, 6, 9])
    np.testing.assert_array_equal(index.count, [3, 3, 3, 3])
    suspect = [False] * 4 if version == "0.5" else [False, True, False, False]
    np.testing.assert_array_equal(index.suspect, suspect)
    with exdf.open_file(path) as file:
        assert exdf.read_metadata(file)["format_version"] == version
    assert exdf.list_sources(path) == [f"INSTRUMENT/{source_name(0, 'raw')}/image"]


def test_old_index_with_last_and_status(tmp_path):
    path = write_module(tmp_path / "a.h5", 0, TRAINS, version="0.5")
    with h5py.File(path, "r+") as file:
        group = file[f"INDEX/{source_name(0, 'raw')}/image"]
        del group["count"]
        group["last"] = np.array([2, 3, 8, 11], "u8")
        group["status"] = np.array([1, 0, 1, 1], "i4")
    np.testing.assert_array_equal(read(path).count, [3, 0, 3, 3])


def test_zero_in_the_middle_stays_and_padding_goes(tmp_path):
    path = write_module(tmp_path / "a.h5", 0, TRAINS)
    with h5py.File(path, "r+") as file:
        file["INDEX/trainId"][1] = 0
        file["INDEX/trainId"][3] = 0
    np.testing.assert_array_equal(read(path).train_id, [TRAINS[0], 0, TRAINS[2], 0])


def test_padded_first_and_count(tmp_path):
    path = write_module(tmp_path / "a.h5", 0, TRAINS)
    with h5py.File(path, "r+") as file:
        group = file[f"INDEX/{source_name(0, 'raw')}/image"]
        for name in ("first", "count"):
            values = np.append(group[name][()], np.zeros(3, "u8"))
            del group[name]
            group[name] = values
    assert len(read(path).count) == 4


def test_short_index_is_broken(tmp_path):
    path = write_module(tmp_path / "a.h5", 0, TRAINS)
    with h5py.File(path, "r+") as file:
        group = file[f"INDEX/{source_name(0, 'raw')}/image"]
        for name in ("first", "count"):
            values = group[name][:3]
            del group[name]
            group[name] = values
    with pytest.raises(exdf.BrokenFile, match=r"3 entries; expected 4, one per train") as error:
        read(path)
    assert error.value.kind == "wrong_length"


@pytest.mark.parametrize("name", ["INDEX/flag", "INDEX/trainId", f"INDEX/{source_name(0, 'raw')}/image/first"])
@pytest.mark.parametrize("kind", ["group", "text", "scalar", "table", "time"])
def test_columns_of_another_type_are_broken(tmp_path, name, kind):
    path = write_module(tmp_path / "a.h5", 0, TRAINS, version="1.2")
    with h5py.File(path, "r+") as file:
        del file[name]
        if kind == "group":
            file.create_group(name)
        elif kind == "time":  # which numpy does not know
            h5py.h5d.create(file.id, name.encode(), h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((4,)))
        else:
            file[name] = {"text": np.array([b"1"] * 4), "scalar": 1, "table": np.ones((4, 2), "i4")}[kind]
    with pytest.raises(exdf.BrokenFile, match=f"{name} (is missing|has shape)"):
        read(path)


def test_entry_faults_are_found_one_by_one():
    train_id = np.array([1, 0, 3, 4, 5, 7], "u8")
    first, count = np.array([0, 2, 4, exdf.HUGE, 9, 6]), np.array([2, 2, 2, 0, 2, 2])
    index = exdf.TrainIndex(train_id, np.zeros(6, bool), first, count)
    rows = np.array([1, 1, 2, 2, 3, 3, 6, 6, 5, 5], "u8")
    names = [exdf.ENTRY_FAULTS[code] for code in exdf.entry_faults(index, 10, rows)]
    assert names == ["", "zero_train_id", "", "no_frames", "out_of_range", "ids_disagree"]


def test_fingerprint_changes_with_any_column():
    index = exdf.TrainIndex(TRAINS, np.zeros(4, bool), np.arange(4), np.ones(4, int))
    other = index._replace(count=np.array([1, 1, 1, 2]))
    assert exdf.index_sha256(index) == exdf.index_sha256(index._replace(suspect=np.ones(4, bool)))
    assert exdf.index_sha256(index) != exdf.index_sha256(other)


@pytest.mark.parametrize("key", ["data.intensityTD", "data/intensityTD"])
def test_instrument_values(tmp_path, key):
    trains, values, first, count = exdf.read_train_values(write_xgm(tmp_path / "x.h5"), f"{XGM}:output", key)
    np.testing.assert_array_equal(trains, TRAINS)
    np.testing.assert_array_equal(values[first, 0], [0, 2, 4, 6])
    np.testing.assert_array_equal(count, 1)


def test_a_zero_train_id_shifts_no_other_train(tmp_path):
    path = write_xgm(tmp_path / "x.h5", trains=[TRAINS[0], 0, TRAINS[2], TRAINS[3]])
    for source, key in ((XGM, "pulseEnergy/wavelengthUsed/value"), (f"{XGM}:output", "data.intensityTD")):
        trains, values, first, _ = exdf.read_train_values(path, source, key)
        np.testing.assert_array_equal(trains, TRAINS[[0, 2, 3]])
        np.testing.assert_array_equal(values[first], values[[0, 2, 3]])


def test_values_of_untrustworthy_entries_are_left_out(tmp_path):
    path = write_xgm(tmp_path / "x.h5", trains=[TRAINS[0], TRAINS[1], TRAINS[1] + 50, TRAINS[0]], first=[0, 1, 2, 0])
    assert exdf.read_train_values(path, f"{XGM}:output", "data.intensityTD")[0].tolist() == [TRAINS[1]]
    path = write_xgm(tmp_path / "y.h5", first=[0, 10**19, 2, 9], count=[1, 0, 1, 1])
    assert exdf.read_train_values(path, XGM, "pulseEnergy/wavelengthUsed/value")[0].tolist() == TRAINS[[0, 2]].tolist()


def test_absent_source_or_key_gives_none(tmp_path):
    path = write_xgm(tmp_path / "x.h5")
    assert exdf.read_train_values(path, "OTHER/XGM/DOOCS", "pulseEnergy/wavelengthUsed/value") is None
    assert exdf.read_train_values(path, f"{XGM}:output", "data.intensitySa3TD") is None


def test_units_from_attributes(tmp_path):
    path = write_xgm(tmp_path / "x.h5")
    assert exdf.read_unit(path, f"{XGM}:output", "data.intensityTD") == (1e-6, "J")
    assert exdf.read_unit(path, XGM, "pulseEnergy.wavelengthUsed.value") == (1e-9, "m")
    assert exdf.read_unit(path, f"{XGM}:output", "data.trainId") == (1.0, "")
    assert exdf.read_unit(path, f"{XGM}:output", "data.nothing") == (1.0, "")
    with h5py.File(path, "r+") as file:
        file[f"INSTRUMENT/{XGM}:output/data/intensityTD"].attrs["metricPrefixSymbol"] = "q"
    with pytest.raises(ValueError, match="unknown metric prefix 'q'"):
        exdf.read_unit(path, f"{XGM}:output", "data.intensityTD")


def test_file_names():
    assert exdf.parse_name("/a/RAW-R0050-AGIPD07-S00012.h5") == ("RAW", 50, "AGIPD07", 12)
    assert exdf.parse_name("CORR-R12345-DA01.h5") == ("CORR", 12345, "DA01", 0)
    assert exdf.parse_name("notes.h5") is None


def test_broken_files_say_what_they_are(tmp_path):
    path = write_module(tmp_path / "a.h5", 0, TRAINS)
    whole = path.read_bytes()
    for content, kind in ((b"", "empty_file"), (b"text" * 999, "not_hdf5"), (whole[: len(whole) // 2], "truncated")):
        path.write_bytes(content)
        with pytest.raises(exdf.BrokenFile) as error:
            exdf.open_file(path)
        assert error.value.kind == kind
        assert error.value.next_step
    with pytest.raises(exdf.BrokenFile, match="not there"):
        exdf.open_file(tmp_path / "b.h5")
