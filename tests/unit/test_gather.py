import json
import logging

import h5py
import numpy as np
import pytest
from calibration_runs import (
    DETECTOR,
    FIRST_TRAIN,
    merge_columns,
    name,
    random_pairs,
    read_gathered,
    to_xfel,
    write_nexus,
    write_parts,
    write_run,
    write_sequence,
)

from pulsetrain import cell_trains, frame_pairs, gather, nexus
from pulsetrain.detector import lab_from_xfel

STEMS = ("M314_m7_scan_col15_part", "M314_m7_scan_col26_part", "M314_m7_scan_col37_part", "M314_m7_scan_col48_part")


def dark(files, output, **changes):
    options = {"layout": "nxs", "module": 7, "cells": 2} | changes
    gather.gather_dark(files, output, {"rule": "gather_dark"}, **options)
    return read_gathered(output)


def dark_run(files, output, module=7, **changes):
    options = {"layout": "xfel", "detector": DETECTOR, "run": 900, "cells": None} | changes
    return dark(files, output, module=module, **options)


def scan(groups, output, **changes):
    options = {"layout": "nxs", "module": 7, "cells": 2} | changes
    gather.gather_current_source(groups, output, {}, **options)
    return read_gathered(output)


def scan_runs(groups, output, runs=(901, 902, 903, 904), **changes):
    options = {"layout": "xfel", "detector": DETECTOR, "runs": list(runs), "cells": None} | changes
    return scan(groups, output, **options)


def xray(files, output, **changes):
    options = {"layout": "nxs", "module": 7, "xray_cell": 3} | changes
    gather.gather_xray(files, output, {}, **options)
    return read_gathered(output)


def xray_run(files, output, **changes):
    return xray(files, output, **({"layout": "xfel", "detector": DETECTOR, "run": 900} | changes))


def write_scan(folder, pairs, lengths=(), **options):
    return [write_parts(folder, pairs[i], lengths, STEMS[i], **options) for i in range(4)]


def assert_pairs(held, pairs):
    np.testing.assert_array_equal(held["analog"], pairs[..., 0, :, :])
    np.testing.assert_array_equal(held["digital"], pairs[..., 1, :, :])


# The laboratory's parts


@pytest.mark.parametrize("lengths", [(), (8,), (4, 12), (5, 2, 6), (1, 0, 14)])
def test_dark_of_parts_of_any_length(tmp_path, lengths):
    pairs = random_pairs((5, 2))
    files = write_parts(tmp_path / "raw", pairs, lengths)
    held, attributes, chunks = dark(files[::-1], tmp_path / "m07_dark.h5")
    assert_pairs(held, pairs)
    assert held["analog"].dtype == held["digital"].dtype == np.int16
    assert chunks["analog"] is None
    np.testing.assert_array_equal(held["cellPresent"], [True, True])
    expected = {"rule": "gather_dark", "module": 7, "orientation": "lab", "kind": "dark", "layout": "nxs"}
    assert attributes == expected | {"trains_left_out": "{}"}


@pytest.mark.parametrize(
    ("dtype", "options"),
    [
        ("u2", {"chunks": (1, 128, 512)}),
        ("u2", {"chunks": (5, 128, 512)}),
        ("u2", {"chunks": (5, 64, 512), "compression": "gzip"}),
        ("u2", {"chunks": (4, 128, 512), "compression": "gzip", "shuffle": True}),
        ("i2", {}),
        (">u2", {}),
        ("u1", {}),
    ],
)
def test_dark_in_any_storage(tmp_path, dtype, options):
    pairs = random_pairs((3, 2)) // 64
    files = write_parts(tmp_path / "raw", pairs.astype(dtype), (7,), **options)
    held, _, _ = dark(files, tmp_path / "m07_dark.h5")
    assert_pairs(held, pairs)


def test_more_than_nine_parts_are_sorted_by_number(tmp_path):
    pairs = random_pairs((11, 1))
    (tmp_path / "raw").mkdir()
    files = [
        write_nexus(tmp_path / f"raw/M314_m7_dark{number}.nxs", pairs[number].reshape(-1, 128, 512))
        for number in range(11)
    ]
    held, _, _ = dark(sorted(files), tmp_path / "m07_dark.h5", cells=1)
    assert_pairs(held, pairs)


def test_each_pixel_of_a_scan_is_taken_from_its_own_column_group(tmp_path):
    pairs = random_pairs((4, 5, 2))
    groups = [write_parts(tmp_path / "raw", pairs[i], (4 * i + 3,), STEMS[i]) for i in range(4)]
    held, attributes, chunks = scan(groups, tmp_path / "m07_current_source.h5")
    assert_pairs(held, merge_columns(pairs))
    assert chunks["analog"] == chunks["digital"] == (5, 1, 64, 64)
    np.testing.assert_array_equal(held["integrationTime"], [3, 4, 5, 6, 7])
    assert (attributes["kind"], attributes["orientation"], attributes["module"]) == ("current_source", "lab", 7)


def test_xray_of_parts(tmp_path):
    pairs = random_pairs((9, 1))
    files = write_parts(tmp_path / "raw", pairs, (5, 6))
    held, attributes, chunks = xray(files, tmp_path / "m07_xray.h5")
    assert_pairs(held, pairs[:, 0])
    assert held["analog"].dtype == np.int16
    assert chunks["analog"] == (9, 8, 512)
    assert attributes["cell"] == 3
    assert "cellPresent" not in held


def test_chunks_hold_128_points(tmp_path):
    (tmp_path / "raw").mkdir()
    path = tmp_path / "raw/M314_m7_xray.nxs"
    frame = np.arange(2 * 130, dtype="u2")[:, None, None] + np.zeros((128, 512), "u2")
    write_nexus(path, frame)
    held, _, chunks = xray([path], tmp_path / "m07_xray.h5")
    assert chunks["analog"] == (128, 8, 512)
    np.testing.assert_array_equal(held["analog"], frame[::2])
    np.testing.assert_array_equal(held["digital"], frame[1::2])


@pytest.mark.parametrize(("points", "block", "pairs_per_read", "threads"), [(3, 1, 1, 1), (4, 3, 5, 2), (10, 8, 3, 3)])
def test_results_do_not_depend_on_blocks_and_threads(tmp_path, monkeypatch, points, block, pairs_per_read, threads):
    pairs = random_pairs((4, 7, 3))
    cells, n = (0, 2, 3), 7
    groups = write_scan(tmp_path / "raw", pairs, (11, 20))
    run = write_run(tmp_path / "r0900", 9, pairs[0], cells)
    monkeypatch.setattr(gather, "CHUNK_POINTS", points)
    monkeypatch.setattr(gather, "BLOCK_BYTES", block * frame_pairs.PAIR_BYTES * points)
    monkeypatch.setattr(gather, "PAIRS_PER_READ", pairs_per_read)
    held, _, chunks = scan(groups, tmp_path / "m07_current_source.h5", cells=3, threads=threads)
    assert_pairs(held, merge_columns(pairs))
    assert chunks["analog"] == (min(n, points), 1, 64, 64)
    with h5py.File(tmp_path / "m07_current_source.h5") as file:
        _, stored = file["analog"].id.read_direct_chunk((n // points * points, 2, 64, 448) if n > points else (0,) * 4)
    beyond = np.frombuffer(stored, "i2").reshape(-1, 64, 64)[n % points or points :]
    assert not beyond.any()
    held, _, _ = dark(groups[1], tmp_path / "m07_dark.h5", cells=3, threads=threads)
    assert_pairs(held, pairs[1])
    held, _, _ = dark_run(run, tmp_path / "m09_dark.h5", module=9, threads=threads)
    assert_pairs({key: held[key][:, list(cells)] for key in ("analog", "digital")}, pairs[0])
    assert not held["analog"][:, 1].any()


# Runs of European XFEL


@pytest.mark.parametrize("module", [3, 12])
def test_dark_of_a_run(tmp_path, module):
    pairs = random_pairs((5, 3))
    cells = [2, 0, 1]
    files = write_run(tmp_path / "r0900", module, pairs, cells, order={1: [2, 1, 0], 4: [1, 2, 0]})
    others = write_run(tmp_path / "r0900", module + 1, pairs[:1] * 0, [0, 1, 2])
    held, attributes, chunks = dark_run([*others, *files[::-1]], tmp_path / "dark.h5", module=module)
    assert_pairs(held, pairs[:, [1, 2, 0]])
    assert chunks["analog"] is None
    assert (attributes["layout"], attributes["trains_left_out"]) == ("xfel", "{}")


@pytest.mark.parametrize("module", range(16))
def test_orientation_is_that_of_the_detector_module(module):
    order = frame_pairs.xfel_order(module)
    stored = np.arange(512 * 128).reshape(512, 128)
    row, column = np.indices((128, 512))
    lab = stored.reshape(-1)[order.first + row * order.down + column * order.right]
    np.testing.assert_array_equal(lab, lab_from_xfel(stored, module))


def test_memory_cells_that_are_not_there_are_marked(tmp_path):
    pairs = random_pairs((3, 2)) + 1
    files = write_run(tmp_path / "r0900", 7, pairs, [1, 4])
    held, _, _ = dark_run(files, tmp_path / "dark.h5")
    np.testing.assert_array_equal(held["cellPresent"], [False, True, False, False, True])
    assert_pairs({key: held[key][:, [1, 4]] for key in ("analog", "digital")}, pairs)
    assert not held["digital"][:, [0, 2, 3]].any()
    scan_runs([files], tmp_path / "scan.h5", runs=[900])
    with h5py.File(tmp_path / "scan.h5") as file:
        assert file["analog"].id.get_num_chunks() == 2 * 16  # nothing is stored of the others
        np.testing.assert_array_equal(file["analog"][:, 4], pairs[:, 1, 0])
        assert not file["analog"][:, 3].any()


def test_trains_without_all_cells_are_left_out(tmp_path, caplog):
    pairs = random_pairs((5, 2))
    rows, images = [], []
    for train, cells in enumerate([(0, 1), (0,), (0, 1), (1, 1), (1, 0, 5)]):
        for pulse, cell in enumerate(cells):
            rows.append((FIRST_TRAIN + train, pulse, cell))
            images.append(to_xfel(pairs[train, min(cell, 1)], 7))
    path = write_sequence(tmp_path / name(7, 0), 7, rows, images)
    with caplog.at_level(logging.INFO):
        held, attributes, _ = dark_run([path], tmp_path / "dark.h5")
    assert_pairs(held, pairs[[0, 2, 4]])
    assert json.loads(attributes["trains_left_out"]) == {"cell_twice": 1, "lacks_cell": 1}
    assert "3 trains used (1 left out: cell_twice; 1 left out: lacks_cell)" in caplog.text


def test_a_zero_train_id_moves_no_train(tmp_path):
    pairs = random_pairs((5, 2))
    options = {"index": {FIRST_TRAIN + 2: 0}}
    files = write_run(tmp_path / "r0900", 7, pairs, [0, 1], cut=5, **options)
    held, attributes, _ = dark_run(files[:1], tmp_path / "dark.h5")
    assert_pairs(held, pairs[[0, 1, 3, 4]])
    assert json.loads(attributes["trains_left_out"]) == {"zero_train_id": 1}


def test_a_scan_of_one_run_keeps_its_axis_when_a_train_is_lost(tmp_path, caplog):
    pairs = random_pairs((5, 2))
    files = write_run(tmp_path / "r0901", 7, pairs, [0, 1], run=901, trains=[0, 1, 3, 4, 6])
    with caplog.at_level(logging.INFO):
        held, _, _ = scan_runs([files], tmp_path / "scan.h5", runs=[901])
    assert_pairs(held, pairs)
    np.testing.assert_array_equal(held["integrationTime"], [3, 4, 6, 7, 9])
    assert "run 901: the scan points 2, 5 have no usable train" in caplog.text


def test_a_damaged_first_train_does_not_shift_the_axis(tmp_path):
    pairs = random_pairs((4, 1))
    rows = [(FIRST_TRAIN + train, pulse, 0) for train in range(4) for pulse in range(1)]
    rows.insert(1, (FIRST_TRAIN, 0, 0))  # pulse 0 of the first train is there twice
    images = [to_xfel(pairs[max(k - 1, 0), 0], 7) for k in range(5)]
    path = write_sequence(tmp_path / name(7, 0), 7, rows, images)
    held, attributes, _ = scan_runs([[path]], tmp_path / "scan.h5", runs=[900])
    np.testing.assert_array_equal(held["integrationTime"], [4, 5, 6])
    assert_pairs(held, pairs[1:])
    assert json.loads(attributes["trains_left_out"]) == {"repeated_pulse": 1}


@pytest.mark.parametrize("module", [3, 12])
def test_a_scan_of_four_runs_takes_the_points_that_all_have(tmp_path, module):
    pairs = random_pairs((4, 6, 2))
    has = [[0, 1, 2, 3, 4, 5], [0, 2, 3, 4, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]]
    runs = [901, 902, 903, 904]
    groups = [
        write_run(tmp_path / f"r{run:04d}", module, pairs[i][has[i]], [0, 1], run=run, trains=has[i])
        for i, run in enumerate(runs)
    ]
    held, attributes, _ = scan_runs(groups, tmp_path / "scan.h5", module=module)
    assert_pairs(held, merge_columns(pairs)[[0, 2, 3, 5]])
    np.testing.assert_array_equal(held["integrationTime"], [3, 5, 6, 8])
    assert json.loads(attributes["trains_left_out"]) == {"other_run_lacks_it": 2 + 1 + 1 + 2}


def test_xray_of_a_run_takes_one_cell_in_order(tmp_path):
    pairs = random_pairs((4, 3))
    rows, images, expected = [], [], []
    for train, cells in enumerate([(0, 3), (3,), (0, 1), (3, 0, 3)]):
        for pulse, cell in enumerate(cells):
            rows.append((FIRST_TRAIN + train, 10 - pulse if train == 3 else pulse, cell))  # pulses descend in train 3
            images.append(to_xfel(pairs[train, pulse], 7))
    expected = pairs[[0, 1, 3, 3], [1, 0, 2, 0]]
    path = write_sequence(tmp_path / name(7, 0), 7, rows, images)
    held, attributes, _ = xray_run([path], tmp_path / "xray.h5")
    assert_pairs(held, expected)
    assert json.loads(attributes["trains_left_out"]) == {"lacks_cell": 1}
    assert attributes["cell"] == 3


# The axis of a scan


def empty_part(path, n_frames, dtype="u2", shape=(128, 512), dataset="entry/instrument/detector/data"):
    """A part that takes no room."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file.create_dataset(dataset, (n_frames, *shape), dtype)
    return path


@pytest.mark.parametrize("n_points", [40, 41])
def test_the_axis_must_fit_the_scan(tmp_path, n_points):
    axis = tmp_path / "axis.txt"
    np.savetxt(axis, np.arange(n_points) ** 2)
    groups = []
    for i in range(4):
        write_nexus(tmp_path / f"{STEMS[i]}0.nxs", np.zeros((80, 128, 512), "u2"))
        groups.append([tmp_path / f"{STEMS[i]}0.nxs"])
    if n_points == 40:
        held, _, _ = scan(groups, tmp_path / "scan.h5", cells=1, scan_axis=axis)
        np.testing.assert_array_equal(held["integrationTime"], np.arange(40) ** 2)
    else:
        with pytest.raises(ValueError, match=r"axis.txt: the scan axis has 41 points; the scan has 40"):
            scan(groups, tmp_path / "scan.h5", cells=1, scan_axis=axis)
        assert not (tmp_path / "scan.h5").exists()


# What is refused: parts


def good_parts(folder, n=3, frames=4):
    return [empty_part(folder / f"M314_m7_dark_part{number:05d}.nxs", frames) for number in range(n)]


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def test_no_file(tmp_path):
    with pytest.raises(ValueError, match="module 07: .*\n  there is no file; correct the names in the config"):
        dark([], tmp_path / "dark.h5")


BROKEN_PARTS = {
    "in the middle": (lambda files: files.pop(1), r"part 1 is missing \(there are 2 parts up to number 2"),
    "first": (lambda files: files.pop(0), "part 0 is missing"),
    "first of two": (lambda files: [files.pop(0), files.pop(0)], "part 0, 1 is missing"),
    "module": (
        lambda files: files.append(files.pop().rename(files[0].with_name("M314_m8_dark_part00002.nxs"))),
        "m8_dark_part00002.nxs: the name says module 8; expected module 7",
    ),
    "names": (
        lambda files: files.append(files.pop().rename(files[0].with_name("M314_m7_scan_part00002.nxs"))),
        "different names: M314_m7_dark_part, M314_m7_scan_part",
    ),
    "truncated": (
        lambda files: write_nexus(files[2], np.ones((4, 128, 512), "u2")) and truncate(files[2]),
        "part00002.nxs: the file is truncated or still being copied: .*; wait until",
    ),
    "no HDF5": (lambda files: files[2].write_bytes(b"x" * 4096), "part00002.nxs: no HDF5 file"),
    "gone": (lambda files: files[2].unlink(), "part00002.nxs: the file is not there"),
    "no dataset": (
        lambda files: empty_part(files[1], 4, dataset="entry/data"),
        "part00001.nxs: /entry/instrument/detector/data is missing .the file has entry.",
    ),
    "shape": (
        lambda files: empty_part(files[1], 4, shape=(512, 128)),
        r"has shape \(4, 512, 128\); expected \(frames, 128, 512\)",
    ),
    "axes": (lambda files: empty_part(files[1], 4, shape=(2, 128, 512)), r"has shape \(4, 2, 128, 512\)"),
    "float": (lambda files: empty_part(files[1], 4, "f4"), "is float32; expected integers of at most 16 bits"),
    "wide": (lambda files: empty_part(files[1], 4, "u4"), "is uint32; expected integers"),
    "short": (
        lambda files: empty_part(files[1], 3),
        r"11 frames in 3 parts are no whole number of bursts of 2 x 2 .*part00001.nxs: 3 frames = 0 bursts and 3",
    ),
    "empty": (lambda files: [empty_part(path, 0) for path in files], "part00000.nxs, .*: no frames"),
    "size": (None, "part00001.nxs: still being copied: .* 17 when the work was planned"),
}


@pytest.mark.parametrize("case", BROKEN_PARTS)
def test_broken_parts_are_named(tmp_path, case):
    files = good_parts(tmp_path / "raw")
    damage, message = BROKEN_PARTS[case]
    sizes = {files[1].name: 17} if damage is None else {path.name: None for path in files}
    if damage is not None:
        damage(files)
    with pytest.raises(ValueError, match=message):
        dark(files, tmp_path / "dark.h5", sizes=sizes)
    assert not (tmp_path / "dark.h5").exists()


def test_a_part_twice(tmp_path):
    files = good_parts(tmp_path / "raw") + good_parts(tmp_path / "copy", 1)
    with pytest.raises(ValueError, match="part 0 is there more than once: .*raw.*copy.*; keep one"):
        dark(files, tmp_path / "dark.h5")


def test_all_problems_are_told_at_once(tmp_path):
    groups = [[empty_part(tmp_path / f"{stem}00000.nxs", 4)] for stem in STEMS]
    empty_part(groups[1][0], 4, "f4")
    groups[2].append(empty_part(tmp_path / f"{STEMS[2]}00002.nxs", 4))
    empty_part(groups[3][0], 6)
    with pytest.raises(ValueError, match="3 problems") as error:
        scan(groups, tmp_path / "scan.h5")
    told = str(error.value)
    assert "column group 2/6: " in told and "float32" in told
    assert "column group 3/7: " in told and "part 1 is missing" in told
    assert "column group 4/8: 6 frames" in told


def test_column_groups_must_have_the_same_number_of_bursts(tmp_path):
    groups = [[empty_part(tmp_path / f"{stem}00000.nxs", 4 * (2 + (i == 2)))] for i, stem in enumerate(STEMS)]
    with pytest.raises(ValueError, match=r"columns 1/5 have 2 .*columns 3/7 have 3 \(M314_m7_scan_col37"):
        scan(groups, tmp_path / "scan.h5")


def test_column_groups_must_be_four_different_ones(tmp_path):
    groups = [[empty_part(tmp_path / f"{stem}00000.nxs", 4)] for stem in STEMS]
    with pytest.raises(ValueError, match=r"col15_part00000.nxs is in several column groups"):
        scan([groups[0], groups[0], *groups[2:]], tmp_path / "scan.h5")
    with pytest.raises(ValueError, match="names 3 measurements; expected 4 for layout nxs"):
        scan(groups[:3], tmp_path / "scan.h5")
    with pytest.raises(ValueError, match="layout is 'cbf'; expected nxs or xfel"):
        scan(groups, tmp_path / "scan.h5", layout="cbf")


@pytest.mark.parametrize(
    ("dtype", "value", "shown"), [("u2", 32768, "32768"), ("u2", 65535, "65535"), ("i2", -5, "-5"), ("i1", -3, "-3")]
)
def test_values_that_do_not_fit_are_named(tmp_path, dtype, value, shown):
    frames = np.full((8, 128, 512), 100, dtype)
    frames[:4, 70, 301] = 127
    path = write_nexus(tmp_path / "M314_m7_dark_part0.nxs", frames)
    dark([path], tmp_path / "dark.h5")
    frames[5, 70, 301] = value
    write_nexus(path, frames)
    with pytest.raises(ValueError, match=rf"row 5: the digital image has the value {shown} in row 70, column 301"):
        dark([path], tmp_path / "dark2.h5")


def test_values_of_columns_that_are_not_used_do_not_matter(tmp_path):
    frames = np.full((4, 128, 512), 100, "u2")
    frames[2, 10, 4::4] = 40000  # upper rows: columns 0, 4, ... are of the last group
    groups = [[write_nexus(tmp_path / f"{stem}0.nxs", frames)] for stem in STEMS[:3]]
    groups.append([write_nexus(tmp_path / f"{STEMS[3]}0.nxs", frames * 0 + 7)])
    held, _, _ = scan(groups, tmp_path / "scan.h5", cells=1)
    np.testing.assert_array_equal(held["analog"][1, 0, 10, 2:6], [100, 100, 7, 100])
    frames[2, 10, 301] = 40001  # 301 = 1 + 4 k, of the third group
    write_nexus(groups[2][0], frames)
    with pytest.raises(ValueError, match=r"col37_part0.nxs: .*row 2: the analog .* 40001 in row 10, column 301"):
        scan(groups, tmp_path / "scan2.h5", cells=1)


# What is refused: runs


def small_run(folder, run=900, cells=(0, 1), n=4, **options):
    return write_run(folder, 7, np.zeros((n, len(cells), 2, 128, 512), "u2"), list(cells), run=run, **options)


def third_sequence(files, sequence=2):
    source = files[0].with_name(name(7, sequence))
    return write_sequence(source, 7, [(FIRST_TRAIN + 90, 0, 0)], np.zeros((1, 2, 512, 128)))


def test_no_file_of_the_module(tmp_path):
    with pytest.raises(ValueError, match=r"run 900: no file of module 7 \(there are no files\)"):
        dark_run([], tmp_path / "dark.h5")
    with pytest.raises(ValueError, match=r"run 900: no file of module 8 \(2 files are of others\)"):
        dark_run(small_run(tmp_path / "r0900"), tmp_path / "dark.h5", module=8)


def test_missing_and_repeated_sequences(tmp_path):
    files = small_run(tmp_path / "r0900")
    files.append(third_sequence(files, 4))
    with pytest.raises(ValueError, match=r"run 900: module 7 lacks sequence 2, 3 .*S00004"):
        dark_run(files, tmp_path / "dark.h5")
    with pytest.raises(ValueError, match=r"lacks sequence 0 "):
        dark_run(files[1:2], tmp_path / "dark.h5")
    copy = small_run(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"sequence 0 of module 7 is there more than once: .*copy.*; keep one"):
        dark_run([*files[:2], copy[0]], tmp_path / "dark.h5")


def test_foreign_files(tmp_path):
    files = small_run(tmp_path / "r0900")
    other = write_sequence(tmp_path / name(7, 0, 899), 7, [], np.zeros((0, 2, 512, 128)), run=899)
    corrected = write_sequence(tmp_path / name(7, 2, 900, "CORR"), 7, [], np.zeros((0, 2, 512, 128)))
    swapped = small_run(tmp_path / "swapped", source=f"{DETECTOR}/DET/3CH0:xtdf")
    notes = tmp_path / "notes.txt"
    with pytest.raises(ValueError, match="3 problems") as error:
        dark_run([*files, other, corrected, notes], tmp_path / "dark.h5")
    told = str(error.value)
    assert "the name says run 899; expected run 900" in told
    assert "CORR data; constants are made of RAW data" in told
    assert "notes.txt: no name of a source file" in told
    with pytest.raises(ValueError, match=r"found the sources SPB_DET_AGIPD1M-1/DET/3CH0:xtdf/image; expected .*7CH0"):
        dark_run(swapped, tmp_path / "dark.h5")
    with pytest.raises(ValueError, match="METADATA/runNumber: found 900; expected 901"):
        dark_run([path.rename(path.with_name(name(7, k, 901))) for k, path in enumerate(files)], "x.h5", run=901)


def test_broken_files_of_a_run_are_told_together(tmp_path):
    files = small_run(tmp_path / "r0900")
    truncate(files[0])
    rows = [(FIRST_TRAIN + 50, 0, 0)]
    files.append(write_sequence(tmp_path / "r0900" / name(7, 2), 7, rows, np.zeros((1, 2, 512, 128)), dtype="f4"))
    sizes = {files[1].name: 5}
    with pytest.raises(ValueError, match="3 problems") as error:
        dark_run(files, tmp_path / "dark.h5", sizes=sizes)
    told = str(error.value)
    assert "S00000.h5: the file is truncated" in told
    assert "S00001.h5: still being copied" in told
    assert "S00002.h5: " in told and "found float32; expected uint16" in told


def test_a_run_without_trains(tmp_path):
    files = [write_sequence(tmp_path / name(7, 0), 7, [], np.zeros((0, 2, 512, 128)))]
    with pytest.raises(ValueError, match="run 900: module 7 has no whole train"):
        dark_run(files, tmp_path / "dark.h5")


def test_a_run_without_the_cell_names_the_cells_it_has(tmp_path):
    files = small_run(tmp_path / "r0900", cells=(0, 1, 2, 7))
    with pytest.raises(ValueError, match=r"no frame of memory cell 3; the run has the cells 0-2, 7\."):
        xray_run(files, tmp_path / "xray.h5")


def test_runs_whose_trains_have_different_cells(tmp_path):
    rows = [(FIRST_TRAIN + train, pulse, cell) for train in range(5) for pulse, cell in enumerate((train, train + 1))]
    path = write_sequence(tmp_path / name(7, 0), 7, rows, np.zeros((10, 2, 512, 128)))
    with pytest.raises(ValueError, match="only 1 of 5 trains have the same memory cells"):
        dark_run([path], tmp_path / "dark.h5")
    rows = [(FIRST_TRAIN + train, pulse, 1) for train in range(3) for pulse in range(2)]
    path = write_sequence(tmp_path / name(7, 0), 7, rows, np.zeros((6, 2, 512, 128)))
    with pytest.raises(ValueError, match="in every train of module 7 some memory cell appears twice"):
        dark_run([path], tmp_path / "dark.h5")
    path = write_sequence(tmp_path / name(7, 0), 7, [(FIRST_TRAIN, 0, 352)], np.zeros((1, 2, 512, 128)))
    with pytest.raises(ValueError, match="image/cellId has 352; expected less than 352"):
        dark_run([path], tmp_path / "dark.h5")


def test_four_runs_that_do_not_fit_together(tmp_path):
    groups = [small_run(tmp_path / f"r{run}", run, n=4 - (run == 903)) for run in (901, 902, 903, 904)]
    with pytest.raises(ValueError, match=r"different lengths in trains \(run 901: 4, run 902: 4, run 903: 3, run 904"):
        scan_runs(groups, tmp_path / "scan.h5")
    groups[2] = small_run(tmp_path / "again", 903, cells=(0, 2))
    with pytest.raises(ValueError, match=r"different memory cells \(run 901: 0-1, .*run 903: 0, 2"):
        scan_runs(groups, tmp_path / "scan.h5")
    with pytest.raises(ValueError, match="names run 901 twice"):
        scan_runs(groups, tmp_path / "scan.h5", runs=(901, 902, 901, 904))
    with pytest.raises(ValueError, match="needs the detector's name and a run for each"):
        scan_runs(groups, tmp_path / "scan.h5", detector=None)
    with pytest.raises(ValueError, match="names 2 measurements; expected 1 or 4 for layout xfel"):
        scan_runs(groups[:2], tmp_path / "scan.h5")


def test_a_scan_whose_trains_are_far_apart(tmp_path):
    files = small_run(tmp_path / "r0901", 901, trains=[0, 1, 2, 50])
    with pytest.raises(ValueError, match=r"run 901: 4 usable trains between .* \(51 train ids\)"):
        scan_runs([files], tmp_path / "scan.h5", runs=[901])
    groups = [small_run(tmp_path / f"r{k}", 902 + k, trains=[0, 1 + k, 5 + k, 9]) for k in range(4)]
    groups[1] = small_run(tmp_path / "other", 903, trains=[0, 3, 4, 9], index={FIRST_TRAIN: 0, FIRST_TRAIN + 9: 0})
    with pytest.raises(ValueError, match="no scan point is whole in all runs"):
        scan_runs(groups, tmp_path / "scan.h5", runs=(902, 903, 904, 905))


def test_ranges_text():
    assert cell_trains.ranges_text([0, 1, 2, 5, 7, 8]) == "0-2, 5, 7-8"
    assert cell_trains.ranges_text([]) == ""


def test_a_lone_file_may_end_in_a_number(tmp_path):
    path = empty_part(tmp_path / "M314_m7_xray_cell32.nxs", 4)
    parts, problems = nexus.find_parts([path], 7)
    assert problems == [] and parts == [nexus.Part(path, 32, 4)]
    _, problems = nexus.find_parts([empty_part(tmp_path / "M314_m7_xray_part00001.nxs", 4)], 7)
    assert "part 0 is missing" in problems[0]
