"""Every fault is found, named and kept out of the frame table; the account closes."""

import json
import re

import h5py
import numpy as np
import pandas as pd
import pytest
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.detectors import AGIPDModule
from hypothesis import given
from hypothesis import strategies as st
from small_runs import DETECTOR, FIRST_TRAIN, PULSES, check, kept_frames, source_name, write_module, write_run

from pulsetrain import exdf, integrity, layout, simulate, simulate_faults, simulate_files
from pulsetrain.module_index import COVERAGE

N_TRAINS = 8
BAD = FIRST_TRAIN + 5  # train that the faults are made in: the second of sequence 1
BAD_FILE = "RAW-R0050-AGIPD02-S00001.h5"
INDEX = f"INDEX/{source_name(2, 'raw')}/image"
IMAGE = f"INSTRUMENT/{source_name(2, 'raw')}/image"
ROWS = slice(3, 6)


def replace(file, name, values):
    del file[name]
    file[name] = values


def zero_train_id(file):
    file["INDEX/trainId"][1] = 0


def image_ids_of_another_train(file):
    file[f"{IMAGE}/trainId"][ROWS] = BAD + 1


def index_beyond_the_end(file):
    file[f"{INDEX}/first"][1] = 10**6


def index_with_wrapped_numbers(file):
    file[f"{INDEX}/first"][1] = 2**64 - 2


def repeated_pulse(file):
    file[f"{IMAGE}/pulseId"][4] = PULSES[0]


def count_of_zero(file):
    file[f"{INDEX}/count"][1] = 0
    file[f"{INDEX}/first"][1] = 2**64 - 1
    file[f"{IMAGE}/trainId"][ROWS] = 0


def index_flipped_bit(file):
    file["INDEX/trainId"][1] = BAD + 2**40


def whole_train_with_flipped_bit(file):
    file["INDEX/trainId"][1] = BAD + 2**40
    file[f"{IMAGE}/trainId"][ROWS] = BAD + 2**40


MODULE_FAULTS = {  # fault: (kind, train of the finding, coverage of BAD in module 2, reason of the rows)
    zero_train_id: ("zero_train_id", BAD, "zero_train_id", "zero train id"),
    image_ids_of_another_train: ("ids_disagree", BAD, "ids_disagree", "ids disagree"),
    index_beyond_the_end: ("out_of_range", BAD, "out_of_range", "unindexed rows"),
    index_with_wrapped_numbers: ("out_of_range", BAD, "out_of_range", "unindexed rows"),
    repeated_pulse: ("repeated_pulse", BAD, "repeated_pulse", "repeated pulse"),
    count_of_zero: ("no_frames", BAD, "no_frames", "unindexed rows"),
    index_flipped_bit: ("ids_disagree", BAD + 2**40, "absent", "ids disagree"),
    whole_train_with_flipped_bit: ("phantom_train", BAD + 2**40, "absent", "train only in this module"),
}


def frame_short(file):
    file[f"{INDEX}/count"][1] = 2


def pulse_differs(file):
    file[f"{IMAGE}/pulseId"][4] = 5


def cells_shifted(file):
    file[f"{IMAGE}/cellId"][ROWS] = np.arange(1, 4)[:, None]


def appears_twice(file):
    """Train BAD again, with rows of its own, in the place of the train after it."""
    file["INDEX/trainId"][2] = BAD
    file[f"{IMAGE}/trainId"][6:9] = BAD


RUN_FAULTS = {
    frame_short: ("frame_counts_differ", "frame counts differ"),
    pulse_differs: ("pulse_ids_differ", "pulseIds differ"),
    cells_shifted: ("cell_ids_differ", "cellIds differ"),
    appears_twice: ("appears_twice", "appears twice"),
}


def make_faulty_run(tmp_path, fault, **options):
    files = write_run(tmp_path / "raw", **options)
    with h5py.File(tmp_path / "raw" / BAD_FILE, "r+") as file:
        fault(file)
    return files


def one_finding(report, kind):
    found = [told for told in report["findings"] if told["kind"] == kind]
    assert len(found) == 1, report["findings"]
    return found[0]


def trains_of(frames):
    with h5py.File(frames) as file:
        held = {name: file[f"trains/{name}"][()] for name in ("trainId", "n_frames", "kept", "coverage")}
        return held | {"reason": file["trains/reason"].asstr()[()]}


@pytest.mark.parametrize("naming", ["raw", "proc", "corr"])
@pytest.mark.parametrize("version", ["0.5", "1.0", "1.1", "1.2", "1.3"])
def test_clean_run(tmp_path, naming, version):
    dtype = "u2" if naming == "raw" else "f4"
    files = write_run(tmp_path / "data", naming=naming, version=version, dtype=dtype)
    report, frames = check(files, tmp_path, stream="raw" if naming == "raw" else "proc", policy="strict")
    assert report["verdict"] == "accepted"
    assert report["findings"] == []
    assert report["frames"] == {"seen": 24, "kept": 24, "excluded": {}}
    assert report["modules"]["03"] == {"files": 2, "rows": 24, "used": 24, "excluded": {}}
    held = kept_frames(frames)
    np.testing.assert_array_equal(held.train_id, np.repeat(FIRST_TRAIN + np.arange(N_TRAINS), 3))
    np.testing.assert_array_equal(held.pulse_id, np.tile(PULSES, N_TRAINS))
    np.testing.assert_array_equal(held.cell_id, np.tile([0, 1, 2], N_TRAINS))
    assert (held.modules == 0b1111).all()
    assert len(held.segments) == 8
    assert held.attributes["status"] == "complete"
    assert held.attributes["n_seen"] == 24
    assert held.attributes["data_dtype"] == np.dtype(dtype).name
    assert set(held.files["format_version"]) == {version}
    assert set(held.files["update_date"]) == ({""} if version == "0.5" else {"20240101T000000Z"})
    assert (trains_of(frames)["coverage"][:4] == 0).all()
    assert (trains_of(frames)["coverage"][4:] == COVERAGE.index("absent")).all()


@pytest.mark.parametrize("fault", MODULE_FAULTS, ids=lambda fault: fault.__name__)
def test_a_train_that_one_module_does_not_have_whole(tmp_path, fault):
    kind, train, state, reason = MODULE_FAULTS[fault]
    report, frames = check(make_faulty_run(tmp_path, fault), tmp_path)
    told = one_finding(report, kind)
    assert told["module"] == "02"
    assert told["file"] in (BAD_FILE, "")
    assert train in told["trains"]
    assert told["fault"]
    assert report["verdict"] == "accepted"
    assert report["frames"] == {"seen": 24, "kept": 24, "excluded": {}}
    excluded = report["modules"]["02"]["excluded"]
    assert excluded == {reason: 3}
    held = kept_frames(frames)
    bad = held.train_id == BAD
    assert (held.modules[bad] == 0b1011).all()
    assert (held.modules[~bad] == 0b1111).all()
    assert held.attributes["status"] == "partial"
    trains = trains_of(frames)
    np.testing.assert_array_equal(trains["trainId"], FIRST_TRAIN + np.arange(N_TRAINS))
    assert trains["kept"].all()
    assert COVERAGE[trains["coverage"][2, 5]] == state


@pytest.mark.parametrize("fault", RUN_FAULTS, ids=lambda fault: fault.__name__)
def test_a_train_that_is_left_out_in_all_modules(tmp_path, fault):
    kind, reason = RUN_FAULTS[fault]
    report, frames = check(make_faulty_run(tmp_path, fault), tmp_path)
    told = one_finding(report, kind)
    assert told["module"] == "02"
    assert BAD in told["trains"]
    assert report["frames"] == {"seen": 24, "kept": 21, "excluded": {reason: 3}}
    held = kept_frames(frames)
    assert BAD not in held.train_id
    trains = trains_of(frames)
    assert trains["reason"].tolist() == [""] * 5 + [reason] + [""] * 2
    assert trains["n_frames"].tolist() == [3] * N_TRAINS
    assert not trains["kept"][5]
    refused, _ = check(make_faulty_run(tmp_path / "strict", fault), tmp_path / "strict", policy="strict")
    assert refused["verdict"] == "refused"


def test_trains_that_one_module_alone_has_are_lost_if_they_are_many(tmp_path):
    """Up to three are flipped bits; a file that only one module has is none."""
    files = write_run(tmp_path / "raw")
    alone = [path for path in files if "AGIPD00" in path.name or "S00000" in path.name]
    report, frames = check(alone, tmp_path)
    assert report["frames"] == {"seen": 24, "kept": 12, "excluded": {"too few modules": 12}}
    assert "phantom_train" not in {told["kind"] for told in report["findings"]}
    assert trains_of(frames)["reason"].tolist() == [""] * 4 + ["too few modules"] * 4
    assert check(alone, tmp_path, max_lost=0.1)[0]["verdict"] == "refused"
    write_module(alone[1], 0, FIRST_TRAIN + 4 + np.arange(3))
    report, frames = check(alone, tmp_path / "few")
    assert len(one_finding(report, "phantom_train")["trains"]) == 3
    assert report["frames"] == {"seen": 12, "kept": 12, "excluded": {}}


def test_suspect_copy_is_left_out_and_the_good_one_used(tmp_path):
    def twice(file):
        appears_twice(file)
        file["INDEX/flag"][2] = 0

    report, frames = check(make_faulty_run(tmp_path, twice), tmp_path)
    assert one_finding(report, "suspect_copy")["trains"] == [BAD]
    assert report["frames"]["kept"] == 24
    held = kept_frames(frames)
    file, row = layout.source_rows(held, 2)
    np.testing.assert_array_equal(row[held.train_id == BAD], [3, 4, 5])
    assert (held.modules[held.train_id == BAD + 1] == 0b1011).all()


def test_suspect_flag_alone_drops_nothing(tmp_path):
    files = write_run(tmp_path / "raw", flags=[1, 0, 1, 1])
    report, _ = check(files, tmp_path, policy="strict")
    assert report["verdict"] == "accepted"
    assert report["frames"]["kept"] == 24
    told = [told for told in report["findings"] if told["kind"] == "suspect_flag"]
    assert len(told) == 8
    assert not any(one["fault"] for one in told)
    assert told[0]["trains"] == [FIRST_TRAIN + 1]


def test_entry_that_takes_rows_of_the_next_train(tmp_path):
    def overlap(file):
        file[f"{INDEX}/count"][1] = 4

    report, frames = check(make_faulty_run(tmp_path, overlap), tmp_path)
    assert one_finding(report, "ids_disagree")["trains"] == [BAD]
    held = kept_frames(frames)
    assert (held.modules[held.train_id == BAD] == 0b1011).all()
    assert (held.modules[held.train_id == BAD + 1] == 0b1111).all()


def test_two_entries_for_the_same_rows(tmp_path):
    def same_rows(file):
        file["INDEX/trainId"][2] = BAD
        file[f"{INDEX}/first"][2] = 3

    report, frames = check(make_faulty_run(tmp_path, same_rows), tmp_path)
    assert one_finding(report, "appears_twice")["n_trains"] == 1
    assert BAD not in kept_frames(frames).train_id
    assert report["modules"]["02"]["excluded"] == {"appears twice": 3, "unindexed rows": 3}


def test_frames_that_no_index_entry_covers(tmp_path):
    def hole(file):
        replace(file, f"{INDEX}/count", np.array([3, 0, 3, 3], "u8"))

    report, _ = check(make_faulty_run(tmp_path, hole), tmp_path)
    assert one_finding(report, "unindexed_rows")["n_rows"] == 3
    assert report["modules"]["02"]["excluded"] == {"unindexed rows": 3}


def test_trains_and_pulses_out_of_order_are_sorted(tmp_path):
    order = np.array([2, 0, 3, 1])
    files = []
    for module in range(4):
        trains = FIRST_TRAIN + (order if module == 1 else np.arange(4))
        path = tmp_path / f"RAW-R0050-AGIPD{module:02d}-S00000.h5"
        files.append(write_module(path, module, trains, pulses=(0, 4, 8)))
    with h5py.File(files[3], "r+") as file:
        image = file[f"INSTRUMENT/{source_name(3, 'raw')}/image"]
        image["pulseId"][:3] = np.array([8, 0, 4])[:, None]
        image["cellId"][:3] = np.array([2, 0, 1])[:, None]
    report, frames = check(files, tmp_path, policy="strict")
    assert report["findings"] == []
    held = kept_frames(frames)
    assert len(held.train_id) == 12
    _, row = layout.source_rows(held, 3)
    np.testing.assert_array_equal(row[:3], [1, 2, 0])


def test_a_train_in_too_few_modules_is_lost(tmp_path):
    files = write_run(tmp_path / "raw")
    for module in (1, 2):
        source = source_name(module, "raw")
        with h5py.File(tmp_path / f"raw/RAW-R0050-AGIPD{module:02d}-S00000.h5", "r+") as file:
            file[f"INDEX/{source}/image/count"][0] = 0
    report, frames = check(files, tmp_path)
    assert one_finding(report, "too_few_modules")["trains"] == [FIRST_TRAIN]
    assert report["frames"]["excluded"] == {"too few modules": 3}
    kept_frames(frames)
    assert check(files, tmp_path, min_modules=2)[0]["frames"]["kept"] == 24


def test_a_module_that_is_odd_throughout_is_named(tmp_path):
    files = write_run(tmp_path / "raw")
    for path in files:
        if "AGIPD00" in path.name:
            with h5py.File(path, "r+") as file:
                cells = file[f"INSTRUMENT/{source_name(0, 'raw')}/image/cellId"]
                cells[...] = cells[()] + 1
    report, _ = check(files, tmp_path)
    told = one_finding(report, "cell_ids_differ")
    assert told["module"] == "00"
    assert "leave module 0 out of detector.modules" in told["next_step"]
    assert report["verdict"] == "refused"
    report, frames = check(files, tmp_path, modules=[1, 2, 3])
    assert report["frames"]["kept"] == 24
    assert (kept_frames(frames).modules == 0b1110).all()


def test_two_camps_of_equal_size_name_nobody(tmp_path):
    files = write_run(tmp_path / "raw")
    for module in (2, 3):
        with h5py.File(tmp_path / f"raw/RAW-R0050-AGIPD{module:02d}-S00000.h5", "r+") as file:
            file[f"INSTRUMENT/{source_name(module, 'raw')}/image/cellId"][0] = 9
    told = one_finding(check(files, tmp_path)[0], "cell_ids_differ")
    assert told["module"] is None
    assert "modules 2, 3" in told["message"]


def test_first_file_without_trains(tmp_path):
    files = write_run(tmp_path / "raw")
    for module in range(4):
        path = tmp_path / f"raw/RAW-R0050-AGIPD{module:02d}-S00000.h5"
        path.unlink()
        write_module(path, module, [])
    report, frames = check(files, tmp_path, policy="strict")
    assert report["verdict"] == "accepted"
    assert len(kept_frames(frames).train_id) == 12


def test_run_without_trains_is_accepted_as_empty(tmp_path):
    files = [write_module(tmp_path / f"RAW-R0050-AGIPD{module:02d}-S00000.h5", module, []) for module in range(4)]
    report, frames = check(files, tmp_path, policy="strict")
    assert report["verdict"] == "accepted"
    assert report["reason"] == "the run has no frames"
    held = kept_frames(frames)
    assert held.attributes["status"] == "empty"
    assert len(held.train_id) == len(held.segments) == 0
    integrity.accept_run(tmp_path / "integrity/r0050.json", tmp_path / "accepted", 50, {})


@pytest.mark.parametrize("pulses", [(0,), (4, 8)])
def test_one_train_and_few_cells(tmp_path, pulses):
    files = [
        write_module(tmp_path / f"RAW-R0050-AGIPD{module:02d}-S00000.h5", module, [FIRST_TRAIN], pulses=pulses)
        for module in range(4)
    ]
    report, frames = check(files, tmp_path, policy="strict")
    assert report["frames"]["kept"] == len(pulses)
    np.testing.assert_array_equal(kept_frames(frames).pulse_id, pulses)


def test_missing_modules_module_0_included(tmp_path):
    files = write_run(tmp_path / "raw", modules=(1, 2, 3))
    report, frames = check(files, tmp_path)
    assert one_finding(report, "missing_module")["module"] == "00"
    assert report["frames"]["kept"] == 24
    assert report["modules"]["00"] == {"files": 0, "rows": 0, "used": 0, "excluded": {}}
    held = kept_frames(frames)
    np.testing.assert_array_equal(held.cell_id[:3], [0, 1, 2])
    assert (held.modules == 0b1110).all()
    assert held.attributes["status"] == "partial"
    assert "module 00 has no frame" in report["summary"]


def test_missing_sequences(tmp_path):
    files = [path for path in write_run(tmp_path / "raw", n_files=3) if path.name != BAD_FILE]
    report, frames = check(files, tmp_path)
    told = one_finding(report, "missing_sequence")
    assert (told["module"], report["frames"]["kept"]) == ("02", 36)
    assert one_finding(report, "missing_trains")["n_trains"] == 4
    files = [path for path in files if "S00001" not in path.name]
    told = one_finding(check(files, tmp_path)[0], "missing_sequence")
    assert told["module"] is None
    assert "no module has sequence 1" in told["message"]


def truncated(path):
    path.write_bytes(path.read_bytes()[:3000])


def empty(path):
    path.write_bytes(b"")


def no_hdf5(path):
    path.write_bytes(b"<html>error</html>" * 99)


def missing(path):
    path.unlink()


def foreign_module(path):
    path.unlink()
    write_module(path, 3, FIRST_TRAIN + np.arange(4))


def foreign_run(path):
    path.unlink()
    write_module(path, 2, FIRST_TRAIN + np.arange(4, 8), run=51)


def corrected_data(path):
    path.unlink()
    write_module(path, 2, FIRST_TRAIN + np.arange(4, 8), naming="proc")


def edit(change):
    def damage(path):
        with h5py.File(path, "r+") as file:
            change(file)

    damage.__name__ = change.__name__
    return damage


@edit
def data_of_other_type(file):
    replace(file, f"{IMAGE}/data", np.zeros((1, 2, 512, 128), "f8"))


@edit
def fewer_data(file):
    del file[f"{IMAGE}/data"]
    file.create_dataset(f"{IMAGE}/data", (11, 2, 512, 128), "u2")


@edit
def fewer_ids(file):
    replace(file, f"{IMAGE}/cellId", file[f"{IMAGE}/cellId"][:-1])


@edit
def float_pulses(file):
    replace(file, f"{IMAGE}/pulseId", file[f"{IMAGE}/pulseId"][()].astype("f4"))


@edit
def ids_of_wrong_shape(file):
    replace(file, f"{IMAGE}/pulseId", np.zeros((12, 2), "u8"))


@edit
def no_ids(file):
    del file[f"{IMAGE}/trainId"]


@edit
def no_index(file):
    del file["INDEX/trainId"]


@edit
def text_index(file):
    replace(file, "INDEX/trainId", [b"a", b"b"])


FILE_FAULTS = {
    truncated: ("truncated", "being copied"),
    empty: ("empty_file", "0 bytes"),
    no_hdf5: ("not_hdf5", "no HDF5 file"),
    missing: ("missing_file", "not there"),
    foreign_module: ("foreign_file", "found the sources .*3CH0:xtdf.*expected .*2CH0:xtdf"),
    foreign_run: ("foreign_file", "runNumber: found 51; expected 50"),
    corrected_data: ("wrong_shape", "found shape .12, 512, 128.; expected .frames, 2, 512, 128."),
    data_of_other_type: ("wrong_dtype", "found float64; expected uint16"),
    fewer_data: ("wrong_length", "each of the 11 frames"),
    fewer_ids: ("wrong_length", "cellId: found shape .11, 1."),
    float_pulses: ("wrong_dtype", "pulseId: found float32; expected uint64"),
    ids_of_wrong_shape: ("wrong_shape", "pulseId: found shape .12, 2."),
    no_ids: ("missing_dataset", "trainId is missing"),
    no_index: ("missing_dataset", "INDEX/trainId is missing"),
    text_index: ("wrong_shape", "expected one axis of integers"),
}


@pytest.mark.parametrize("damage", FILE_FAULTS, ids=lambda damage: damage.__name__)
def test_a_broken_file_is_told_and_the_others_are_used(tmp_path, damage):
    kind, message = FILE_FAULTS[damage]
    files = write_run(tmp_path / "raw")
    damage(tmp_path / "raw" / BAD_FILE)
    report, frames = check(files, tmp_path)
    told = one_finding(report, kind)
    assert (told["module"], told["file"]) == ("02", BAD_FILE)
    assert re.search(message, told["message"])
    assert told["next_step"]
    assert report["frames"]["kept"] == 24
    held = kept_frames(frames)
    np.testing.assert_array_equal(held.modules, np.repeat([0b1111, 0b1011], 12))
    assert held.files["problem"][5].startswith(kind)
    assert (held.files["problem"].drop(5) == "").all()


def test_a_file_without_permission(tmp_path, monkeypatch):
    files = write_run(tmp_path / "raw")
    real = h5py.File

    def guarded(name, *arguments, **options):
        if str(name).endswith(BAD_FILE):
            raise PermissionError(13, "Permission denied")
        return real(name, *arguments, **options)

    monkeypatch.setattr(exdf.h5py, "File", guarded)
    report, _ = check(files, tmp_path)
    told = one_finding(report, "unreadable")
    assert "may not be read (Permission denied)" in told["message"]
    assert "permission" in told["next_step"]


def test_damage_inside_a_dataset(tmp_path, monkeypatch):
    files = write_run(tmp_path / "raw")
    monkeypatch.setattr(integrity, "read_module_file", raise_inside_hdf5(integrity.read_module_file))
    report, _ = check(files, tmp_path)
    assert "HDF5 cannot read it: inflate() failed" in one_finding(report, "unreadable")["message"]


def raise_inside_hdf5(read):
    def guarded(path, *arguments):
        if path.name == BAD_FILE:
            raise OSError("inflate() failed")
        return read(path, *arguments)

    return guarded


@pytest.mark.parametrize("by_path", [False, True])
def test_sizes_that_differ_from_the_plan(tmp_path, by_path):
    files = write_run(tmp_path / "raw")
    sizes = {str(path) if by_path else path.name: path.stat().st_size for path in files}
    assert check(files, tmp_path, sizes=sizes)[0]["findings"] == []
    sizes[str(tmp_path / "raw" / BAD_FILE) if by_path else BAD_FILE] += 1
    told = one_finding(check(files, tmp_path, sizes=sizes)[0], "being_copied")
    assert told["file"] == BAD_FILE


def test_a_file_that_changes_while_it_is_read(tmp_path, monkeypatch):
    files = write_run(tmp_path / "raw")
    read_index = exdf.read_index

    def grow(file, *arguments):
        if file.filename.endswith(BAD_FILE):
            with open(file.filename, "ab") as grown:  # noqa: PTH123
                grown.write(b"more")
        return read_index(file, *arguments)

    monkeypatch.setattr("pulsetrain.module_index.read_index", grow)
    assert "changed while it was read" in one_finding(check(files, tmp_path)[0], "being_copied")["message"]


def test_the_odd_data_type_loses_even_in_the_first_file(tmp_path):
    files = write_run(tmp_path / "proc", naming="corr", dtype="f4")
    files[0].unlink()
    write_module(files[0], 0, FIRST_TRAIN + np.arange(4), naming="corr", dtype="u1")
    report, frames = check(files, tmp_path, stream="proc")
    assert "found uint8; expected float32" in one_finding(report, "wrong_dtype")["message"]
    assert kept_frames(frames).attributes["data_dtype"] == "float32"


def test_wrong_stream_says_so(tmp_path):
    report, _ = check(write_run(tmp_path / "raw"), tmp_path, stream="proc")
    assert report["verdict"] == "refused"
    assert {told["kind"] for told in report["findings"]} == {"wrong_shape"}
    assert "set stream: raw" in report["findings"][0]["next_step"]


def test_corrected_files_without_mask(tmp_path):
    files = write_run(tmp_path / "proc", naming="corr", dtype="u1")
    with h5py.File(files[0], "r+") as file:
        del file[f"INSTRUMENT/{source_name(0, 'corr')}/image/mask"]
    report, frames = check(files, tmp_path, stream="proc")
    assert one_finding(report, "missing_mask")["file"] == files[0].name
    assert report["frames"]["kept"] == len(kept_frames(frames).train_id) == 24


def test_soft_links_from_the_legacy_name(tmp_path):
    files = write_run(tmp_path / "proc", naming="corr", dtype="u1")
    for path in files:
        with h5py.File(path, "r+") as file:
            module = int(path.name[16:18])
            name = source_name(module, "corr")
            file[f"INSTRUMENT/{source_name(module, 'proc')}"] = h5py.SoftLink(f"/INSTRUMENT/{name}")
            file[f"INDEX/{source_name(module, 'proc')}"] = h5py.SoftLink(f"/INDEX/{name}")
    report, frames = check(files, tmp_path, stream="proc", policy="strict")
    assert report["findings"] == []
    assert "/CORR/" in kept_frames(frames).files["source"][0]


def test_nothing_readable_is_refused_and_told_in_full(tmp_path):
    files = write_run(tmp_path / "raw")
    for path in files:
        path.write_bytes(b"")
    report, frames = check(files, tmp_path)
    assert (report["verdict"], report["reason"]) == ("refused", "no file of the run can be read")
    assert kept_frames(frames).attributes["status"] == "refused"
    with pytest.raises(RuntimeError, match="no file of the run can be read") as error:
        integrity.accept_run(tmp_path / "integrity/r0050.json", tmp_path / "accepted", 50, {})
    assert "integrity.policy, integrity.min_modules or detector.modules in the config" in str(error.value)
    assert all(path.name in str(error.value) for path in files)
    assert len([line for line in str(error.value).splitlines() if line.startswith("  empty_file: ")]) == len(files)
    assert not (tmp_path / "accepted").exists()


def test_policies(tmp_path):
    files = make_faulty_run(tmp_path, frame_short)
    assert check(files, tmp_path, max_lost=3 / 24)[0]["verdict"] == "accepted"
    report = check(files, tmp_path, max_lost=0.1)[0]
    assert (report["verdict"], report["reason"]) == (
        "refused",
        "3 of 24 frames are lost, more than integrity.max_lost = 0.1 allows",
    )
    assert check(files, tmp_path, policy="strict")[0]["reason"].startswith("policy is strict")
    with pytest.raises(ValueError, match="integrity.policy is 'lax'"):
        check(files, tmp_path, policy="lax")


def test_accepted_text_and_json(tmp_path):
    report, _ = check(make_faulty_run(tmp_path, frame_short), tmp_path)
    integrity.accept_run(tmp_path / "integrity/r0050.json", tmp_path / "r0050.accepted", 50, {})
    text = (tmp_path / "r0050.accepted").read_text()
    assert text == "run 50 accepted: 21 of 24 frames kept (87.50 %); 3 frame counts differ; 2 findings\n"
    assert json.loads((tmp_path / "integrity/r0050.json").read_text()) == report | {"provenance": {}}


def test_files_of_other_names_and_modules(tmp_path):
    files = write_run(tmp_path / "raw", modules=range(5))
    other = tmp_path / "raw/RAW-R0051-AGIPD00-S00000.h5"
    write_module(other, 0, [FIRST_TRAIN])
    report, frames = check([*files, other], tmp_path)
    assert one_finding(report, "foreign_file")["file"] == other.name
    assert set(kept_frames(frames).files["module"]) == {0, 1, 2, 3}


SIMULATED = {  # fault: (kind, modules, sequence of the file told, positions of the trains told, reason of lost trains)
    "module_lacks_trains": ("missing_trains", [5], None, [1, 4], None),
    "module_count_zero": ("no_frames", [6], None, [2], None),
    "first_file_without_trains": ("missing_trains", [9], None, [0, 1, 2], None),
    "train_id_zero": ("zero_train_id", [3], 0, [1], None),
    "duplicate_train_flagged": ("suspect_copy", [10], 0, [1], None),
    "duplicate_train": ("appears_twice", [11], 0, [1], "appears twice"),
    "bit_flipped_train": ("phantom_train", [12], None, [4 + 2**40], None),
    "index_off_by_one": ("ids_disagree", [13], 0, [1, 2, 3], None),
    "short_train": ("frame_counts_differ", [4], None, [2], "frame counts differ"),
    "pulse_id_differs": ("pulse_ids_differ", [1], None, [3], "pulseIds differ"),
    "cell_id_shifted": ("cell_ids_differ", [14], None, [2], "cellIds differ"),
    "missing_sequence_file": ("missing_sequence", [8], None, [], None),
    "truncated_file": ("truncated", [15], 0, [], None),
    "missing_module": ("missing_module", [2], None, [], None),
    "half_detector_starts_late": ("missing_trains", list(range(8, 16)), None, [0], "too few modules"),
    "index_hole": ("unindexed_rows", [7], None, [], None),
    "no_mask": ("missing_mask", list(range(16)), 0, [], None),
    "image_train_id_zero": ("ids_disagree", [5], 0, [1], None),
    "still_being_copied": ("truncated", [0], 1, [], None),
    "pulse_ids_start_at_4": (None, [], None, [], None),
    "out_of_order_trains": (None, [], None, [], None),
    "xgm_missing_trains": (None, [], None, [], None),
}


def simulate_run(folder, faults, stream="proc", **options):
    settings = simulate.settings(trains=6, cells=4, sequences=2, faults=faults, **options)
    named = simulate_files.run_files(folder, settings, 50, stream)["modules"]
    for module, paths in named.items():
        for sequence, path in enumerate(paths):
            simulate_files.write_module_file(path, settings, 50, stream, module, sequence)
    return settings, [path for paths in named.values() for path in paths]


def require_availability(held, settings, lost):
    """Kept are all trains but the lost ones, each with the modules that have it whole."""
    available = simulate_faults.expected_availability(settings) == simulate_faults.WHOLE
    first = settings["first_train"]
    kept = [train for train in range(settings["trains"]) if train not in lost]
    np.testing.assert_array_equal(np.unique(held.train_id), first + np.array(kept))
    for train in kept:
        bits = sum(1 << module for module in np.flatnonzero(available[:, train]))
        assert (held.modules[held.train_id == first + train] == bits).all()


def test_every_fault_of_the_simulator_is_in_the_table():
    assert set(SIMULATED) == set(simulate_faults.FAULTS)


@pytest.mark.parametrize("fault", SIMULATED)
def test_fault_of_the_simulator(tmp_path, fault):
    kind, modules, sequence, trains, reason = SIMULATED[fault]
    settings, files = simulate_run(tmp_path, [fault])
    report, frames = check(files, tmp_path, modules=list(range(16)), stream="proc")
    held = kept_frames(frames)
    lost = simulate_faults.FAULT_TRAINS[fault] if reason else ()
    require_availability(held, settings, lost)
    assert report["verdict"] == "accepted"
    assert report["frames"] == {
        "seen": 24,
        "kept": 24 - 4 * len(lost),
        "excluded": {reason: 4 * len(lost)} if reason else {},
    }
    found = [told for told in report["findings"] if told["kind"] == kind]
    assert sorted({told["module"] for told in found}) == [f"{module:02d}" for module in modules]
    if kind is None:
        assert report["findings"] == []
        return
    first = settings["first_train"]
    assert found[0]["trains"] == [first + train for train in trains]
    name = "" if sequence is None else f"CORR-R0050-AGIPD{modules[0]:02d}-S{sequence:05d}.h5"
    assert found[0]["file"] == name
    assert found[0]["fault"]


@pytest.mark.parametrize(
    ("version", "old_names"),
    [("0.1", True), ("0.5", True), ("1.0", True), ("1.1", False), ("1.2", False), ("1.3", False)],
)
def test_many_faults_at_once(tmp_path, version, old_names):
    faults = [
        "module_lacks_trains",
        "train_id_zero",
        "bit_flipped_train",
        "short_train",
        "truncated_file",
        "index_hole",
    ]
    stream = "raw" if version == "1.1" else "proc"
    settings, files = simulate_run(tmp_path, faults, stream, format_version=version, old_names=old_names)
    report, frames = check(files, tmp_path, modules=list(range(16)), stream=stream)
    assert report["frames"] == {"seen": 24, "kept": 20, "excluded": {"frame counts differ": 4}}
    require_availability(kept_frames(frames), settings, [2])


@pytest.mark.parametrize("version", ["0.5", "1.0", "1.2", "1.3"])
@pytest.mark.parametrize("raw", [True, False])
def test_mock_run_of_extra_data(tmp_path, version, raw):
    files = []
    for module in range(16):
        files.append(tmp_path / f"{'RAW' if raw else 'CORR'}-R0050-AGIPD{module:02d}-S00000.h5")
        device = AGIPDModule(f"{DETECTOR}/DET/{module}CH0", frames_per_train=4, raw=raw)
        write_file(files[-1], [device], ntrains=3, firsttrain=10000, chunksize=16, format_version=version)
    stream = "raw" if raw else "proc"
    report, frames = check(files, tmp_path, modules=list(range(16)), stream=stream, policy="strict")
    assert report["findings"] == []
    held = kept_frames(frames)
    assert len(held.train_id) == 12
    assert (held.modules == 0xFFFF).all()


@given(st.data())
def test_segments_give_every_row_back(data):
    n_frames = data.draw(st.integers(0, 40))
    present = np.array(data.draw(st.lists(st.booleans(), min_size=n_frames, max_size=n_frames)), bool)
    frame = np.flatnonzero(present)
    blocks = data.draw(st.lists(st.integers(1, 6), min_size=len(frame), max_size=len(frame)))
    place = np.arange(len(frame))
    order = np.argsort(np.array(data.draw(st.permutations(range(len(frame))))) // (blocks[0] if blocks else 1))
    file, row = place[order] % 2, place[order] // 2 if data.draw(st.booleans()) else place[order]
    segments = integrity.cut_segments(3, file, row, frame)
    held = layout.RunLayout(np.zeros(n_frames), None, None, None, None, pd.concat([segments]), {})
    found_file, found_row = layout.source_rows(held, 3)
    np.testing.assert_array_equal(found_file[frame], file)
    np.testing.assert_array_equal(found_row[frame], row)
    assert (found_file[~present] == -1).all()
    assert segments["count"].sum() == len(frame)
    joined = segments.iloc[:-1].reset_index(drop=True), segments.iloc[1:].reset_index(drop=True)
    for before, after in zip(joined[0].itertuples(), joined[1].itertuples(), strict=True):
        follows = before.file == after.file and before.source_start + before.count == after.source_start
        assert not (follows and before.frame_start + before.count == after.frame_start)
