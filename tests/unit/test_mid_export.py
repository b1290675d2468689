"""The exported file holds the right frame of every detector, and the correction equals plain numpy, bit for bit."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from mid_runs import (
    ADU_PER_PHOTON,
    DETECTOR,
    RUN,
    check,
    export,
    plain_correction,
    settings_of,
    true_raw,
    with_dark,
    write_agipd,
    write_epix,
)

from pulsetrain import mid_correct, mid_export, mid_virtual, simulate_detector, simulate_mid, simulate_truth
from pulsetrain.layout import RunLayout
from pulsetrain.mid_export import Correction
from pulsetrain.mid_trains import select_trains
from pulsetrain.vds import make_vds


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A raw run of 24 trains, 3 pulses, modules 0 and 13, both ePix, dark files: (place, settings, frames, epix)."""
    place = tmp_path_factory.mktemp("mid")
    settings = settings_of()
    frames = check(place, settings, write_agipd(place, settings))
    epix = write_epix(place, settings)
    for kind in (simulate_mid.NEW, simulate_mid.OLD):
        simulate_mid.write_dark(place / f"{kind}.h5", settings, kind)
    return place, settings, frames, epix


@pytest.fixture(scope="module")
def corrected(run):
    place, settings, frames, epix = run
    return export(
        place, settings, frames, epix, name="mid/dark.h5", pulse_ids=[8, 0], correction=with_dark(place / "new.h5")
    )


def run_frames(settings, trains, pulses):
    """Numbers of frames in the run as it was simulated; pulse p of a train is its cell p / 4."""
    return (np.asarray(trains)[:, None] * settings["cells"] + np.array(pulses)[None] // 4).reshape(-1)


def test_layout_and_pixels(run):
    place, settings, frames, epix = run
    trains = np.arange(1, 24)
    chosen = run_frames(settings, trains, [0, 8])
    with h5py.File(export(place, settings, frames, epix, pulse_ids=[8, 0])) as file:
        assert sorted(file) == ["data", "index"]
        assert sorted(file["data"]) == ["AGIPD", "EPIX-1", "EPIX-2"]
        agipd = file["data/AGIPD/index"]
        assert sorted(agipd) == ["cellId", "data", "gain", "pulseId", "trainId"]
        assert file["data/AGIPD/moduleId"][()].tolist() == [0, 13]
        expected = {"trainId": ("u8", 10001 + np.repeat(trains, 2)), "pulseId": ("u8", np.tile([0, 8], 23))}
        expected |= {"cellId": ("u2", np.tile([0, 2], 23))}
        for name, (dtype, values) in expected.items():
            assert agipd[name].dtype == dtype
            np.testing.assert_array_equal(agipd[name], values)
        for name in ("data", "gain"):
            assert agipd[name].is_virtual and agipd[name].dtype == "u2" and agipd[name].shape == (46, 2, 512, 128)
        for column, module in enumerate(settings["modules"]):
            true = true_raw(settings, module, chosen)
            np.testing.assert_array_equal(agipd["data"][:, column], true[:, 0])
            np.testing.assert_array_equal(agipd["gain"][:, column], true[:, 1])
        for number in (1, 2):
            data = file[f"data/EPIX-{number}/data"]
            assert data.is_virtual and data.dtype == "u2" and data.shape == (23, 708, 768)
            for place_of, train in enumerate(trains):
                image = simulate_mid.epix_image(settings, RUN, number, train)
                np.testing.assert_array_equal(data[place_of], image)
                assert np.argmax(image.mean(axis=1)) == simulate_mid.line_row(number, train)
        assert file["index/run"][()] == RUN
        assert file["index/stream"].asstr()[()] == "raw"
        assert file["index/trainId"].dtype == "u8"
        np.testing.assert_array_equal(file["index/trainId"], 10001 + trains)
        np.testing.assert_array_equal(file["index/dropped/trainId"], [10001, 10025])
        reasons = file["index/dropped/reason"].asstr()[()].tolist()
        assert reasons == ["EPIX-1: no frame; EPIX-2: no frame", "AGIPD: no frame"]
        assert file.attrs["status"] == "complete", "one train at either end is no loss"
        assert "├── 23 trains (originally 25) in [10002, 10024]" in file.attrs["summary"]
        assert "├── 2 pulses per train, Pulse ID: [0, 8]" in file.attrs["summary"]
        assert "├── 2 modules: [0, 13]" in file.attrs["summary"]
        assert file.attrs["rule"] == "export_mid"


def test_pieces_of_whole_files_show_the_same(run, monkeypatch):
    place, settings, frames, epix = run
    usual = export(place, settings, frames, epix, pulse_ids=[0, 8], name="mid/usual.h5")
    monkeypatch.setattr(mid_virtual, "MOST_PIECES", 4)
    united = export(place, settings, frames, epix, pulse_ids=[0, 8], name="mid/united.h5")
    expect_same(usual, united)
    with h5py.File(united) as file:
        data = file["data/AGIPD/index/data"]
        assert len(data.virtual_sources()) == 4, "one piece per module and file"
        np.testing.assert_array_equal(data[31, 1], true_raw(settings, 13, run_frames(settings, [16], [8]))[0, 0])


def test_it_needs_few_pieces_and_moves_with_the_tree(run, tmp_path):
    place, settings, frames, epix = run
    export(place, settings, frames, epix, pulse_ids=[4], name="mid/moved.h5")
    shutil.copytree(place, tmp_path / "there")
    with h5py.File(tmp_path / "there/scratch/mid/moved.h5") as file:
        data = file["data/AGIPD/index/data"]
        sources = data.virtual_sources()
        assert len(sources) == 4, "one stripe per module and file"
        assert all(source.file_name.startswith("../../data/raw/r0110/RAW-") for source in sources)
        np.testing.assert_array_equal(data[20, 1], true_raw(settings, 13, run_frames(settings, [21], [4]))[0, 0])
        np.testing.assert_array_equal(file["data/EPIX-2/data"][3], simulate_mid.epix_image(settings, RUN, 2, 4))


def expect_correction(file, settings, trains, pulses, offset_of, level_of, good_of, scale_of):
    """Compare every corrected pixel of a file with plain numpy."""
    group = file["data/AGIPD_corrected"]
    chosen = run_frames(settings, trains, pulses)
    assert group["adu"].shape == group["data"].shape == group["mask"].shape == (2, len(chosen), 2, 512, 128)
    assert [group[name].dtype for name in ("adu", "data", "mask")] == ["f4", "f4", bool]
    n_medium = 0
    for column, module in enumerate(settings["modules"]):
        raw = true_raw(settings, module, chosen)
        for place, frame in enumerate(chosen):
            cell = int(frame % settings["cells"])
            constants = (offset_of(module, cell), level_of(module), good_of(module, cell), scale_of(module, cell))
            adu, data, mask, baseline = plain_correction(raw[place], *constants)
            np.testing.assert_array_equal(group["adu"][:, place, column], adu)
            np.testing.assert_array_equal(group["data"][:, place, column], data)
            np.testing.assert_array_equal(group["mask"][:, place, column], mask)
            assert group["baseline"][place, column] == baseline
            n_medium += np.count_nonzero(mask[1])
    assert n_medium > 1000


def test_correction_with_a_dark_file(run, corrected):
    _, settings, _, _ = run
    with h5py.File(corrected) as file:
        expect_correction(
            file,
            settings,
            range(1, 24),
            [0, 8],
            lambda module, cell: simulate_detector.constants(settings, module, cell)[0][:2],
            lambda module: simulate_mid.dark_level(settings, module),
            lambda module, cell: simulate_mid.dark_good_pixels(settings, module),
            lambda module, cell: [1 / 68.8, 1 / 1.376],
        )
        assert file["AGIPD_corrected/adu"] == file["data/AGIPD_corrected/adu"]
        assert file["data/AGIPD_corrected"].attrs["adu_per_photon"].tolist() == ADU_PER_PHOTON


def test_both_forms_of_the_dark_file_give_the_same(run, corrected):
    place, settings, frames, epix = run
    old = export(
        place, settings, frames, epix, name="mid/old.h5", pulse_ids=[0, 8], correction=with_dark(place / "old.h5")
    )
    expect_same(corrected, old)


def expect_same(first, second):
    with h5py.File(first) as one, h5py.File(second) as two:
        assert ("AGIPD_corrected" in one) == ("AGIPD_corrected" in two)
        names = []
        one.visit(names.append)
        for name in names:
            if isinstance(one[name], h5py.Dataset):
                np.testing.assert_array_equal(one[name][()], two[name][()], err_msg=name)


def test_threads_and_blocks_do_not_matter(run, corrected, monkeypatch):
    place, settings, frames, epix = run
    monkeypatch.setattr(mid_correct, "BLOCK_BYTES", 3 * 2**18)
    monkeypatch.setattr(mid_correct, "SHARE", 1)
    correction = with_dark(place / "new.h5")
    other = export(place, settings, frames, epix, name="mid/one.h5", pulse_ids=[0, 8], correction=correction, threads=1)
    expect_same(corrected, other)


def test_correction_with_own_constants(run):
    place, settings, frames, epix = run
    named = {"constants": [], "mask": []}
    for module in settings["modules"]:
        for name, write in (
            ("constants", simulate_truth.write_constants),
            ("mask", simulate_truth.write_bad_cell_mask),
        ):
            named[name].append(str(place / f"{name}_m{module:02d}.h5"))
            write(named[name][-1], settings, module)
    with h5py.File(named["constants"][1], "r+") as file:
        file["darkOffsets"][1, 1, 5, 7] = np.nan
        file["analogGains_keV"][0, 2, 6, 8] = np.nan
    vds = place / "scratch/vds/r0110_vds_raw.h5"
    make_vds(frames, vds, [], DETECTOR, "raw", "auto", 9.2, "none", {})
    correction = Correction(None, named["constants"], named["mask"], str(vds), None, 20)
    path = export(place, settings, frames, epix, name="mid/own.h5", correction=correction)

    def offset(module, cell):
        values = simulate_detector.constants(settings, module, cell)[0][:2].copy()
        if (module, cell) == (13, 1):
            values[1, 7, 127 - 5] = np.nan  # laboratory orientation: lab[j, i] = xfel[i, 127 - j]
        return values

    def good(module, cell):
        values = simulate_detector.bad_bits(settings, module, cell) == 0
        if module == 13 and cell > 0:
            values[(7, 127 - 5) if cell == 1 else (8, 127 - 6)] = False
        return values

    def scale(module, cell):
        gain = simulate_detector.constants(settings, module, cell)[1]
        ratios = np.array([1, 50], np.float32)[:, None, None]
        return np.float32(9.2) * ratios / gain / np.float32(9.2)

    level = lambda module: simulate_mid.dark_level(settings, module)  # noqa: E731
    with h5py.File(path) as file:
        assert np.isnan(file["data/AGIPD_corrected/adu"][1, 1, 1, 7, 122])
        expect_correction(file, settings, range(1, 24), [0, 4, 8], offset, level, good, scale)
        assert file["data/AGIPD_corrected"].attrs["photon_energy_kev"] == 9.2


@pytest.mark.parametrize("dtype", ["uint8", "keV"])
def test_corrected_stream_has_no_gain(tmp_path, dtype):
    settings = settings_of(trains=6, modules=[13], proc_data=dtype)
    agipd = write_agipd(tmp_path, settings, "proc")
    frames = check(tmp_path, settings, agipd, "proc")
    path = export(tmp_path, settings, frames, write_epix(tmp_path, settings), "proc", pulse_ids=[4])
    with h5py.File(path) as file, h5py.File(agipd[1]) as last:
        assert "gain" not in file["data/AGIPD/index"]
        source = last[f"INSTRUMENT/{DETECTOR}/CORR/13CH0:output/image/data"]
        data = file["data/AGIPD/index/data"]
        assert data.shape == (5, 1, 512, 128) and data.dtype == source.dtype
        np.testing.assert_array_equal(data[2:, 0], source[1::3])
        assert file["index/stream"].asstr()[()] == "proc"


@pytest.mark.parametrize("numbers", [[], [2]])
def test_fewer_detectors(run, numbers):
    place, settings, frames, epix = run
    path = export(place, settings, frames, epix, modules=[13], numbers=numbers, name=f"mid/n{len(numbers)}.h5")
    with h5py.File(path) as file:
        assert sorted(file["data"]) == ["AGIPD", *(f"EPIX-{number}" for number in numbers)]
        assert file["data/AGIPD/index/data"].shape == ((23 if numbers else 24) * 3, 1, 512, 128)
        assert len(file["index/dropped/trainId"]) == (2 if numbers else 0)
        assert file.attrs["status"] == "complete"


AGIPD_FAULTS = {
    "train_id_zero": 3,
    "module_count_zero": 6,
    "duplicate_train_flagged": 10,
    "module_lacks_trains": 5,
    "index_hole": 7,
}


@pytest.mark.parametrize(("fault", "module"), list(AGIPD_FAULTS.items()))
def test_faults_of_agipd(tmp_path, fault, module):
    settings = settings_of(modules=[module, 13], trains=12, faults=[fault])
    frames = check(tmp_path, settings, write_agipd(tmp_path, settings), min_modules=1)
    kept, dropped = simulate_mid.expected_trains(settings, [1, 2])
    with h5py.File(export(tmp_path, settings, frames, write_epix(tmp_path, settings))) as file:
        np.testing.assert_array_equal(file["index/trainId"], 10001 + kept)
        expect_dropped(file, dropped)
        true = true_raw(settings, module, run_frames(settings, kept, [0, 4, 8]))
        np.testing.assert_array_equal(file["data/AGIPD/index/data"][:, 0], true[:, 0])
        lacking = [reason for reason in file["index/dropped/reason"].asstr()[()] if "not whole" in reason]
        assert set(lacking) <= {f"AGIPD: not whole in module {module:02d}"}
        assert bool(lacking) == (fault not in ("duplicate_train_flagged", "index_hole"))


def expect_dropped(file, dropped):
    """Every dropped train is there, and its reason names the detectors that do not have it."""
    found = dict(zip(file["index/dropped/trainId"][()] - 10001, file["index/dropped/reason"].asstr()[()], strict=True))
    assert {train: [part.split(":")[0] for part in reason.split("; ")] for train, reason in found.items()} == dropped


def test_agipd_trains_that_check_run_left_out(tmp_path):
    settings = settings_of(modules=[13, 14], trains=12, faults=["cell_id_shifted"])
    frames = check(tmp_path, settings, write_agipd(tmp_path, settings))
    with h5py.File(export(tmp_path, settings, frames, [], numbers=[])) as file:
        assert file["index/dropped/trainId"][()].tolist() == [10003]
        assert file["index/dropped/reason"].asstr()[()].tolist() == ["AGIPD: cellIds differ"]


def test_trains_with_other_pulses(tmp_path):
    settings = settings_of(trains=6, modules=[13])
    agipd = write_agipd(tmp_path, settings)
    with h5py.File(agipd[1], "r+") as file:
        pulses = file[f"INSTRUMENT/{DETECTOR}/DET/13CH0:xtdf/image/pulseId"]
        pulses[4] = 5  # train 4, pulse 4
    frames = check(tmp_path, settings, agipd)
    with h5py.File(export(tmp_path, settings, frames, [], numbers=[], pulse_ids=[4, 8])) as file:
        assert file["index/dropped/reason"].asstr()[()].tolist() == ["AGIPD: no pulse 4"]
        np.testing.assert_array_equal(file["data/AGIPD/index/pulseId"], np.tile([4, 8], 5))
        chosen = run_frames(settings, [0, 1, 2, 3, 5], [4, 8])
        np.testing.assert_array_equal(file["data/AGIPD/index/data"][:, 0], true_raw(settings, 13, chosen)[:, 0])
    with h5py.File(export(tmp_path, settings, frames, [], numbers=[], pulse_ids=None, name="mid/all.h5")) as file:
        assert file["data/AGIPD/index/pulseId"][()].tolist() == [0, 4, 8] * 4 + [0, 5, 8] + [0, 4, 8]


def test_too_many_lost_trains_are_an_error_with_all_reasons(run):
    place, settings, frames, epix = run
    with pytest.raises(ValueError, match=r"25 of the 25 trains that any(.|\n)*no pulse 2, 6(.|\n)*\[0, 4, 8\]"):
        export(place, settings, frames, epix, pulse_ids=[0, 2, 6], name="mid/none.h5")
    fewer = [path for path in epix if "EPIX01-S00001" not in path]
    with pytest.raises(ValueError, match=r"8 of the 25 trains .*max_lost = 0.3 (.|\n)*8 trains: EPIX-1: no frame\n"):
        export(place, settings, frames, fewer, max_lost=0.3, name="mid/none.h5")
    assert not (place / "scratch/mid/none.h5").exists()
    with h5py.File(export(place, settings, frames, fewer, max_lost=0.32, name="mid/fewer.h5")) as file:
        assert file.attrs["status"] == "partial"
        assert "EPIX-1: no frame: 8" in file.attrs["reason"]
        assert "no file of sequence 1" in file["index/faults"].asstr()[0]
    export(place, settings, frames, epix, max_lost=0, name="mid/ends.h5")  # one at either end is no loss


def test_trains_that_only_the_cameras_have_count_as_lost(tmp_path):
    """A sequence that is missing in all modules; nothing in the files of AGIPD tells it."""
    settings = settings_of(trains=12, modules=[13])
    agipd = write_agipd(tmp_path, settings)
    frames = check(tmp_path, settings, agipd[:1])
    epix = write_epix(tmp_path, settings)
    with pytest.raises(ValueError, match=r"(?s)5 of the 13 trains .*max_lost = 0.1 .*7 trains: AGIPD: no frame"):
        export(tmp_path, settings, frames, epix, max_lost=0.1)


def test_trains_without_frames_and_many_pulses_that_are_missing():
    layout = RunLayout(
        np.repeat(np.array([5, 6], "u8"), 2), np.array([0, 4, 0, 4], "u8"), np.zeros(4, "u2"), np.full(4, 1, "u4"),
        None, None, {},
    )  # fmt: skip
    trains = np.array([5, 6, 7], "u8"), np.array(["", "", "no frames"])
    held = select_trains(layout, trains, [0], list(range(0, 80, 4)), {})
    pulses = "no pulse 8, 12, 16, 20, 24, 28, 32, 36, ... (18 of 20)"
    assert held.dropped_reason.tolist() == [f"AGIPD: {pulses}"] * 2 + ["AGIPD: count 0 in all modules"]
    assert held.n_left_out == 4


def test_a_run_of_which_nothing_is_left(run, tmp_path):
    place, settings, frames, epix = run
    correction = with_dark(place / "new.h5")
    path = export(place, settings, frames, epix, pulse_ids=[1], max_lost=1, name="mid/empty.h5", correction=correction)
    with h5py.File(path) as file:
        assert file.attrs["status"] == "empty"
        assert file["data/AGIPD/index/gain"].shape == (0, 2, 512, 128)
        assert file["data/EPIX-1/data"].shape == (0, 708, 768)
        assert file["data/AGIPD_corrected/adu"].shape == (2, 0, 2, 512, 128)
        assert len(file["index/dropped/trainId"]) == 25


def test_the_run_changed_since_it_was_checked(tmp_path):
    settings = settings_of(trains=6, modules=[13])
    agipd = write_agipd(tmp_path, settings)
    frames = check(tmp_path, settings, agipd)
    with Path(agipd[0]).open("ab") as file:
        file.write(b"more")
    with pytest.raises(RuntimeError, match="the run changed since check_run"):
        export(tmp_path, settings, frames, [], numbers=[])
    with pytest.raises(ValueError, match="is of stream 'raw'; expected 'proc'"):
        export(tmp_path, settings, frames, [], "proc", numbers=[])


def test_light_in_the_first_rows_shifts_everything_and_is_told(tmp_path, caplog):
    """The baseline is a mean, as in the original: light in its rows is taken off every pixel."""
    settings = settings_of(trains=6, modules=[13], bright_ring=False, hit_rate=0)
    dark = tmp_path / "dark.h5"
    simulate_mid.write_dark(dark, settings)
    agipd = write_agipd(tmp_path, settings)
    frames = check(tmp_path, settings, agipd)

    def corrected_adu(rows, name):
        correction = with_dark(dark, baseline_rows=rows)
        path = export(tmp_path, settings, frames, [], numbers=[], name=f"mid/{name}.h5", correction=correction)
        with h5py.File(path) as file:
            group = file["data/AGIPD_corrected"]
            return group["adu"][0, :, 0, 300], group["baseline"][:, 0], group.attrs["light"][0]

    before, _, _ = corrected_adu(20, "dark")
    assert "are lit" not in caplog.text
    good = simulate_mid.dark_good_pixels(settings, 13)[:20]
    lit = np.random.default_rng(3).random((18, 20, 128)) < 0.25
    for path, rows in zip(agipd, (slice(0, 9), slice(9, 18)), strict=True):
        with h5py.File(path, "r+") as file:
            data = file[f"INSTRUMENT/{DETECTOR}/DET/13CH0:xtdf/image/data"]
            data[:, 0, :20] += np.where(lit[rows], 70, 0).astype("u2")
    after, _, light = corrected_adu(20, "lit")
    taken = 70 * lit[:, good].mean(axis=1)
    np.testing.assert_allclose(before - after, np.repeat(taken[:, None], 128, axis=1), atol=1e-2)
    assert abs(light - np.median(taken)) < 2
    assert "ADU too high, because the first 20 rows are lit" in caplog.text
    for path in agipd:
        with h5py.File(path, "r+") as file:
            file[f"INSTRUMENT/{DETECTOR}/DET/13CH0:xtdf/image/data"][:, 0, :20] += 70
    _, _, light = corrected_adu(20, "bright")
    assert abs(light - 70 - np.median(taken)) < 3, "although mean and median of the first rows are alike"
    untouched, baseline, _ = corrected_adu(0, "off")
    assert not baseline.any()
    assert abs((untouched - before).mean()) < 5


def test_frames_without_a_dark_pixel_have_no_baseline():
    ones = np.ones(65536, np.float32)
    adu, data = np.empty((2, 65536), "f4"), np.empty((2, 65536), "f4")
    mask = np.empty((2, 65536), bool)
    digital = np.full(65536, 100, "u2")
    digital[:3] = 99, 101, 100
    found = mid_correct.correct_frame(
        np.full(65536, 50, "u2"), digital, np.stack([7 * ones, 9 * ones]), 100 * ones, np.ones(65536, bool),
        np.array([[0.5], [2]], "f4"), 0, adu, data, mask,
    )  # fmt: skip
    assert found == (0, 0, 1, 1)
    assert adu[:, 0].tolist() == [43, 41]
    assert data[:, :4].T.tolist() == [[21.5, 0], [0, 82], [0, 0], [0, 0]], "a level that is equal gives neither"
    assert mask[:, :4].T.tolist() == [[True, False], [False, True], [False, False], [False, False]]


def test_summary_of_many_pulses(run):
    place, settings, frames, epix = run
    layout = mid_export.read_layout(frames)
    many = layout._replace(
        train_id=np.repeat(layout.train_id[:1], 30),
        pulse_id=np.arange(30, dtype="u8"),
        cell_id=np.arange(30, dtype="u2"),
    )
    selection = mid_export.select_trains(
        many._replace(modules=np.full(30, 1 | 1 << 13, "u4")), (layout.train_id[:1], np.array([""])), [0, 13], None, {}
    )
    text = mid_export.summary_text(RUN, DETECTOR, [0, 13], {}, many, selection)
    assert "├── 30 pulses per train, Pulse ID: [0, 1, 2, 3, 4, 5, 6, 7, ... 29]" in text
