"""The map from frames to X-ray pulses, on control files written with plain h5py and on simulated ones."""

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain import pulses, simulate, simulate_files
from pulsetrain.layout import FILE_NUMBERS, FILE_TEXT, SEGMENT_COLUMNS, RunLayout, write_layout

XGM = "SPB_XTD9_XGM/XGM/DOOCS"
LITFRM = "SPB_IRU_AGIPD1M1/REDU/LITFRM:output"
TRAINS = np.array([1_000_000_001, 1_000_000_002, 1_000_000_004], dtype=np.uint64)
PULSES = np.array([4, 8, 12, 16], dtype=np.uint64)


def frame_table(path, trains=TRAINS, pulse_ids=PULSES, cells=None):
    train_id, pulse_id = np.repeat(trains, len(pulse_ids)), np.tile(pulse_ids, len(trains))
    cells = np.arange(len(pulse_ids)) if cells is None else cells
    layout = RunLayout(
        train_id,
        pulse_id,
        np.tile(np.asarray(cells, np.uint16), len(trains)),
        np.full(len(train_id), 0xFFFF, np.uint32),
        pd.DataFrame({name: [] for name in (*FILE_TEXT, *FILE_NUMBERS)}),
        pd.DataFrame({name: [] for name in SEGMENT_COLUMNS}),
        {"run": 50},
    )
    with h5py.File(path, "w") as file:
        write_layout(file, layout)
    return path


def control_file(path, trains, values, symbol="u", name=None):
    """Values {(source, key): array with one row per train}."""
    with h5py.File(path, "w") as file:
        file["METADATA/dataFormatVersion"] = np.array([b"1.2"])
        file["INDEX/trainId"] = np.asarray(trains, "u8")
        file["INDEX/flag"] = np.ones(len(trains), "i4")
        for (source, key), rows in values.items():
            section, group = ("INSTRUMENT", f"/{key.split('/')[0]}") if ":" in source else ("CONTROL", "")
            file[f"{section}/{source}/{key}"] = rows
            if symbol is not None and "wavelength" not in key:
                attributes = file[f"{section}/{source}/{key}"].attrs
                attributes["metricPrefixSymbol"], attributes["unitSymbol"] = np.bytes_(symbol), np.bytes_(b"J")
            index = f"INDEX/{source}{group}"
            if index not in file:
                file[f"{index}/first"] = np.arange(len(trains), dtype="u8")
                file[f"{index}/count"] = np.ones(len(trains), "u8")
    return path


def intensities(n_trains, n_pulses, seed=1):
    values = np.ones((n_trains, 1000), dtype=np.float32)
    values[:, :n_pulses] = np.random.default_rng(seed).gamma(30, 50, (n_trains, n_pulses))
    return values


def run_map(tmp_path, control, frames=None, **changes):
    options = {"method": "auto", "xgm": XGM, "litfrm": LITFRM, "offset": 0, "photon_energy_kev": None}
    frames = frame_table(tmp_path / "frames.h5") if frames is None else frames
    pulses.map_pulses(frames, control, tmp_path / "pulses.h5", **(options | changes), attributes={})
    with h5py.File(tmp_path / "pulses.h5") as file:
        return {name: file[name][()] for name in file if name != "xgm"} | dict(file.attrs)


def test_spacing_maps_the_first_pulse_id_to_the_first_entry(tmp_path):
    values = intensities(3, 4)
    wavelength = np.array([0.13, 0.14, 0.15], dtype=np.float32)
    keys = {(f"{XGM}:output", "data/intensityTD"): values, (XGM, "pulseEnergy/wavelengthUsed/value"): wavelength}
    mapped = run_map(tmp_path, [control_file(tmp_path / "da.h5", TRAINS, keys)])
    assert mapped["method"] == "pulse-spacing" and "no SPB_IRU_AGIPD1M1/REDU/LITFRM:output" in mapped["reason"]
    assert mapped["xgm_index"].tolist() == [0, 1, 2, 3] * 3
    np.testing.assert_array_equal(mapped["pulse_energy"], values[:, :4].astype(float).reshape(-1) * 1e-6)
    np.testing.assert_array_equal(mapped["wavelength"], np.repeat(wavelength.astype(float), 4) * 1e-9)
    assert mapped["n_unmatched"] == 0


@pytest.mark.parametrize(("symbol", "factor"), [("u", 1e-6), ("m", 1e-3), (None, 1e-6)])
def test_unit_is_that_of_the_file(tmp_path, symbol, factor):
    values = intensities(3, 4)
    control = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): values}, symbol)
    mapped = run_map(tmp_path, [control])
    np.testing.assert_allclose(mapped["pulse_energy"], values[:, :4].reshape(-1).astype(float) * factor, rtol=1e-12)
    assert np.isnan(mapped["wavelength"]).all()


def test_unused_entries_and_missing_trains_are_unknown(tmp_path):
    values = intensities(2, 3)
    values[1, 1] = 1.5  # weak, but measured
    control = control_file(tmp_path / "da.h5", TRAINS[[0, 2]], {(f"{XGM}:output", "data/intensityTD"): values})
    mapped = run_map(tmp_path, [control], photon_energy_kev=9.2)
    energy = mapped["pulse_energy"].reshape(3, 4)
    assert np.isnan(energy[1]).all() and np.isnan(energy[:, 3]).all()
    assert energy[2, 1] == 1.5e-6
    assert mapped["n_unmatched"] == 6 and "1 of 3 trains are not in the XGM" in mapped["reason"]
    np.testing.assert_allclose(mapped["wavelength"], 1.239841984 / 9.2 * 1e-9, rtol=1e-9)


def test_litfrm_matches_pulse_ids_exactly_and_takes_the_last_pulse_of_a_frame(tmp_path):
    # Frames of pulse ids 4, 8, 12, 16; the list starts with a frame 0 that the detector did not store. Frame 8 saw no
    # pulse, frame 12 saw two. Columns after the last frame are 0, as the facility writes them.
    listed = np.tile(np.array([0, 4, 8, 12, 0, 0], "u2"), (3, 1))
    n_pulses = np.tile(np.array([1, 1, 0, 2, 0, 0], "u2"), (3, 1))
    entries = np.tile(np.array([10, 20, 30, 40, 0, 0], "u2"), (3, 1))
    listed[2, :3] = [4, 16, 0]  # another order in the third train
    values = intensities(3, 50)
    keys = {(LITFRM, "data/detectorPulseId"): listed, (LITFRM, "data/nPulsePerFrame"): n_pulses}
    litfrm = control_file(tmp_path / "litfrm.h5", TRAINS, keys | {(LITFRM, "data/xgmPulseId"): entries})
    xgm = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): values})
    mapped = run_map(tmp_path, [xgm, litfrm])
    assert mapped["method"] == "litfrm"
    index = mapped["xgm_index"].reshape(3, 4)
    assert index[0].tolist() == index[1].tolist() == [20, -1, 40, -1]
    assert index[2].tolist() == [10, -1, 40, 20]
    energy = mapped["pulse_energy"].reshape(3, 4)
    np.testing.assert_array_equal(energy[2, [0, 2, 3]], values[2, [10, 40, 20]].astype(float) * 1e-6)
    assert np.isnan(energy[0, 1]) and mapped["n_unmatched"] == 5

    moved = run_map(tmp_path, [xgm, litfrm], offset=5)["xgm_index"].reshape(3, 4)
    assert moved[0].tolist() == [25, -1, 45, -1]
    assert run_map(tmp_path, [xgm, litfrm], offset=-15)["xgm_index"][:4].tolist() == [5, -1, 25, -1]


def test_legacy_takes_the_cell_only_when_asked(tmp_path):
    frames = frame_table(tmp_path / "frames.h5", cells=[3, 2, 1, 0])
    control = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): intensities(3, 8)})
    assert run_map(tmp_path, [control], frames)["xgm_index"][:4].tolist() == [0, 1, 2, 3]
    mapped = run_map(tmp_path, [control], frames, method="legacy-cellId")
    assert mapped["xgm_index"][:4].tolist() == [3, 2, 1, 0]


def test_a_run_without_xgm_is_mapped_with_a_reason(tmp_path):
    mapped = run_map(tmp_path, [])
    assert np.isnan(mapped["pulse_energy"]).all() and (mapped["xgm_index"] == -1).all()
    assert f"no source {XGM}:output" in mapped["reason"] and mapped["n_unmatched"] == 12


def test_a_broken_control_file_is_named(tmp_path):
    (tmp_path / "RAW-R0050-DA02-S00000.h5").write_bytes(b"no hdf5")
    control = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): intensities(3, 8)})
    mapped = run_map(tmp_path, [tmp_path / "RAW-R0050-DA02-S00000.h5", control])
    assert "RAW-R0050-DA02-S00000.h5" in mapped["reason"] and mapped["n_unmatched"] == 0


def test_litfrm_by_name_must_exist(tmp_path):
    control = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): intensities(3, 8)})
    with pytest.raises(ValueError, match="set pulses.litfrm, or pulses.method: pulse-spacing"):
        run_map(tmp_path, [control], method="litfrm")
    with pytest.raises(ValueError, match="expected one of auto, litfrm"):
        run_map(tmp_path, [control], method="pulses")


def test_a_run_without_frames_gives_an_empty_map(tmp_path):
    control = control_file(tmp_path / "da.h5", TRAINS, {(f"{XGM}:output", "data/intensityTD"): intensities(3, 8)})
    frames = frame_table(tmp_path / "none.h5", trains=TRAINS[:0])
    for files in ([], [control]):
        mapped = run_map(tmp_path, files, frames)
        assert mapped["pulse_energy"].shape == mapped["xgm_index"].shape == (0,) and mapped["n_unmatched"] == 0


def test_values_of_several_files_come_together(tmp_path):
    values = intensities(3, 4)
    key = (f"{XGM}:output", "data/intensityTD")
    files = [control_file(tmp_path / f"{n}.h5", TRAINS[n : n + 1], {key: values[n : n + 1]}) for n in (2, 0, 1)]
    mapped = run_map(tmp_path, files)
    np.testing.assert_array_equal(mapped["pulse_energy"], values[:, :4].reshape(-1).astype(float) * 1e-6)


@given(st.lists(st.integers(0, 2000), min_size=1, max_size=30))
def test_spacing_keeps_order_and_undoes_itself(pulse_ids):
    index, step = pulses.index_by_spacing(np.array(pulse_ids, dtype=np.uint64))
    assert (index * step + min(pulse_ids)).tolist() == pulse_ids
    assert index.min() == 0


@given(st.data())
def test_litfrm_agrees_with_a_plain_loop(data):
    n_trains, n_columns = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 6))
    small = st.integers(0, 7)
    table = st.lists(st.lists(small, min_size=n_columns, max_size=n_columns), min_size=n_trains, max_size=n_trains)
    listed, n_pulses = np.array(data.draw(table)), np.array(data.draw(table)) % 3
    entries = np.array(data.draw(table))
    found = np.array(data.draw(st.lists(st.booleans(), min_size=n_trains, max_size=n_trains)))
    n_frames = data.draw(st.integers(0, 12))
    train = np.array(data.draw(st.lists(st.integers(0, n_trains - 1), min_size=n_frames, max_size=n_frames)), int)
    pulse_id = np.array(data.draw(st.lists(st.integers(0, 9), min_size=n_frames, max_size=n_frames)), np.uint64)
    expected = []
    for t, p in zip(train, pulse_id, strict=True):
        columns = [c for c in range(n_columns) if listed[t, c] == p] if found[t] else []
        last = n_pulses[t, : columns[0] + 1].sum() - 1 if columns else -1
        lit = columns and n_pulses[t, columns[0]] > 0 and last < n_columns
        expected.append(entries[t, last] if lit else -1)
    assert pulses.index_by_litfrm(listed, n_pulses, entries, found, train, pulse_id).tolist() == expected


@pytest.mark.parametrize("xgm", ["litfrm", "xgm"])
def test_simulated_run_gives_the_true_energies(tmp_path, xgm):
    settings = simulate.settings("tiny", xgm=xgm, cell_order="shuffled", modules=[0])
    control = simulate_files.run_files(tmp_path, settings, 50, "proc")["control"]
    for path in control:
        write = simulate_files.write_litfrm_file if "LITFRM" in path else simulate_files.write_control_file
        write(path, settings, 50)
    truth = simulate.frame_truth(settings, 50)
    trains, pulse_ids = np.unique(truth["trainId"]), truth["pulseId"][: settings["cells"]]
    frames = frame_table(tmp_path / "frames.h5", trains, pulse_ids, truth["cellId"][: settings["cells"]])
    mapped = run_map(tmp_path, control, frames)
    assert mapped["method"] == ("litfrm" if xgm == "litfrm" else "pulse-spacing")
    np.testing.assert_array_equal(mapped["pulse_energy"], truth["pulse_energy_J"])
