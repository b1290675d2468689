"""DSSC averages against plain numpy on the simulator's images: exact sums, whatever the order, blocks or runs."""

import json
import shutil
import time
import tracemalloc
import weakref
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from dssc_runs import (
    SCAN,
    XGM,
    assert_same_sums,
    bin_modules,
    check,
    expected,
    read_sums,
    select,
    whole_way,
    write_run,
)
from hypothesis import HealthCheck, given, settings, strategies

from pulsetrain import dssc_sums, simulate_dssc
from pulsetrain.detector import DSSC_SHAPE
from pulsetrain.dssc_inputs import bin_values, look_up_mask, pulse_energies, read_frame_mask, read_scan_file
from pulsetrain.dssc_join import _status, join_modules, mean_and_error, mean_energies
from pulsetrain.dssc_selection import REASONS, frame_names, read_selection, select_frames, write_selection
from pulsetrain.dssc_sums import add_frames, bin_module, exact_parts
from pulsetrain.integrity import accept_run

RUN = 235
CHOSEN = simulate_dssc.settings("tiny", modules=[2, 9])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("dssc")
    return {"place": place, **whole_way(place, CHOSEN, RUN)}


def kept(truth):
    """Frames (T, F) that count when nothing but the scan variable is asked for."""
    good = truth["has_scan"] & np.isfinite(truth["measured"])
    return np.broadcast_to(good[:, None], truth["energy"].shape)


def account_of(selection):
    with h5py.File(selection) as file:
        return dict(
            zip(file["account/reason"].asstr()[()].tolist(), file["account/n_frames"][()].tolist(), strict=True)
        )


def test_sums_of_each_module_are_exactly_those_of_numpy(run):
    truth = simulate_dssc.truth(CHOSEN, RUN)
    for module, path in zip(CHOSEN["modules"], run["sums"], strict=True):
        assert_same_sums(read_sums(path), expected(CHOSEN, RUN, module, kept(truth), truth["delay"]))


def test_means_errors_and_counts_are_those_of_numpy(run):
    truth = simulate_dssc.truth(CHOSEN, RUN)
    with xr.open_dataset(run["joined"], group="data", engine="h5netcdf") as data:
        assert data["pumped"].dims == ("scan_variable", "module", "x", "y")
        assert data["pumped"].shape[2:] == DSSC_SHAPE
        assert data["module"].values.tolist() == CHOSEN["modules"]
        assert data["scan_variable"].attrs["units"] == "ps"
        assert data["run"].values.tolist() == [RUN]
        np.testing.assert_array_equal(data["scan_variable"], np.unique(truth["delay"]))
        for b, delay in enumerate(data["scan_variable"].values):
            for name in simulate_dssc.PATTERN:
                inside = kept(truth) & (truth["delay"] == delay)[:, None]
                inside &= np.array([simulate_dssc.PATTERN[i % 4] == name for i in range(CHOSEN["cells"])])
                frames = np.flatnonzero(inside)
                for m, module in enumerate(CHOSEN["modules"]):
                    images = simulate_dssc.images(CHOSEN, RUN, module, frames).astype(float)
                    np.testing.assert_allclose(data[name][b, m], images.mean(axis=0), rtol=1e-12)
                    error = images.std(axis=0, ddof=1) / np.sqrt(len(images))
                    np.testing.assert_allclose(data[f"{name}_standard_error"][b, m], error, rtol=1e-6)
                    assert data[f"sum_count_{name}"][b, m] == len(frames)
                if "dark" in name:
                    assert f"xgm_{name}" not in data
                    assert f"xgm_module_{name}" not in data
                else:
                    energy = truth["energy"][inside].astype(float)
                    np.testing.assert_allclose(data[f"xgm_{name}"][b], energy.mean(), rtol=1e-12)
                    assert data[f"xgm_count_{name}"][b] == len(energy)
                    assert data[f"xgm_{name}"].attrs["units"] == "μJ"
                    assert (data[f"xgm_module_{name}"][b] == data[f"xgm_{name}"][b]).all()  # no module lacks a frame
                    assert (data[f"xgm_module_count_{name}"][b] == len(energy)).all()
                    assert data[f"xgm_module_{name}"].attrs["units"] == "μJ"


def test_energies_of_a_module_are_those_of_the_frames_that_it_has(tmp_path):
    from pulsetrain.simulate_faults import WHOLE, expected_availability

    chosen = simulate_dssc.settings("tiny", modules=[0, 5], cells=4, faults=["module_lacks_trains"])
    found = whole_way(tmp_path, chosen, RUN, variable=None)
    truth = simulate_dssc.truth(chosen, RUN)
    available = expected_availability(chosen) == WHOLE
    assert available[0].all()
    assert not available[5].all()
    with xr.open_dataset(found["joined"], group="data", engine="h5netcdf") as data:
        for m, module in enumerate(chosen["modules"]):
            energy = truth["energy"][available[module], 0].astype(float)
            np.testing.assert_allclose(data["xgm_module_pumped"][0, m], energy.mean(), rtol=1e-14)
            assert data["xgm_module_count_pumped"][0, m] == len(energy)
        assert data["xgm_pumped"][0] == data["xgm_module_pumped"][0, 0]
        assert abs(data["xgm_pumped"][0] / data["xgm_module_pumped"][0, 1] - 1) > 0.01


@given(strategies.lists(strategies.floats(-1e30, 1e30), max_size=20), strategies.integers(0, 20))
def test_exact_sums_of_energies_can_be_split(values, cut):
    from fractions import Fraction

    both = exact_parts(np.array(values[:cut], float)) + exact_parts(np.array(values[cut:], float))
    assert sum(map(Fraction, both)) == sum(map(Fraction, values))


def test_every_frame_is_accounted_for(run):
    truth = simulate_dssc.truth(CHOSEN, RUN)
    n = CHOSEN["cells"]
    assert account_of(run["selection"]) == {
        "used": int(kept(truth).sum()),
        "train without scan value": int((~truth["has_scan"]).sum()) * n,
        "scan value is not a number": n,
    }
    with xr.open_dataset(run["joined"], group="account", engine="h5netcdf") as account:
        assert int(account["n_frames"].sum()) == CHOSEN["trains"] * n


def test_mask_limits_and_max_frames_leave_out_the_right_frames(run):
    truth = simulate_dssc.truth(CHOSEN, RUN)
    low, high = 60.0, 100.0
    selection = select(
        run["place"],
        run["frames"],
        run["files"],
        scan="strict",
        frame_mask=run["files"]["mask"],
        xgm_limits=[low, high],
        max_frames=5,
    )
    frame = np.arange(CHOSEN["cells"])
    dark = np.array(["dark" in simulate_dssc.PATTERN[i % 4] for i in frame])
    wanted = kept(truth) & truth["mask"] & truth["in_mask"][:, None] & (frame < 5)
    wanted = wanted & (dark | ((truth["energy"] >= low) & (truth["energy"] <= high)))
    np.testing.assert_array_equal(read_selection(selection).bin.reshape(wanted.shape) >= 0, wanted)
    assert 0 < wanted.sum() < kept(truth).sum()
    assert account_of(selection)["after max_frames"] == CHOSEN["trains"]
    sums = bin_modules(run["place"], run["frames"], selection, CHOSEN, scan="strict")
    assert_same_sums(read_sums(sums[1]), expected(CHOSEN, RUN, 9, wanted, truth["delay"]))


def test_dummy_variable_gives_one_bin_with_the_value_1(run):
    selection = select(run["place"], run["frames"], run["files"], scan="all", variable=None, frame_pattern=["image"])
    chosen = read_selection(selection)
    assert chosen.values.tolist() == [1.0]
    assert chosen.names == ["image"]
    assert (chosen.bin == 0).all()


def test_scan_file_and_source_select_the_same(run):
    of_file = {"source": None, "key": "", "file": run["files"]["scan"], "step": simulate_dssc.STEP_PS}
    selection = select(run["place"], run["frames"], run["files"], scan="file", variable=of_file)
    one, other = read_selection(run["selection"]), read_selection(selection)
    np.testing.assert_array_equal(one.bin, other.bin)
    np.testing.assert_array_equal(one.values, other.values)
    assert other.attributes["units"] == "ps"


def test_merging_two_halves_of_a_run_gives_the_run(run, tmp_path):
    """The trains of a run divided between two scan files, as if it had been two runs."""
    train_id, values, _ = read_scan_file(run["files"]["scan"])
    selections, sums = [], []
    for part in (slice(0, None, 2), slice(1, None, 2)):
        path = tmp_path / f"half{part.start}.csv"
        pd.DataFrame({"trainId": train_id[part], "scan_variable": values[part]}).to_csv(path, index=False)
        variable = {"source": None, "key": "", "file": str(path), "step": simulate_dssc.STEP_PS}
        place = tmp_path / f"part{part.start}"
        selections.append(select(place, run["frames"], run["files"], variable=variable))
        sums.append(bin_modules(place, run["frames"], selections[-1], CHOSEN))
    for order in ((0, 1), (1, 0)):
        merged = tmp_path / f"merged{order[0]}.h5"
        arguments = [selections[i] for i in order], [sums[i] for i in order]
        join_modules(*arguments, merged, {}, modules=CHOSEN["modules"])
        with (
            xr.open_dataset(run["joined"], group="data", engine="h5netcdf") as whole,
            xr.open_dataset(merged, group="data", engine="h5netcdf") as halves,
        ):
            for name in whole.data_vars:
                np.testing.assert_array_equal(whole[name].values, halves[name].values)


def test_merged_runs_have_the_bins_of_both(run, tmp_path):
    other = whole_way(tmp_path, CHOSEN, 236)
    merged = tmp_path / "both.h5"
    join_modules(
        [run["selection"], other["selection"]], [run["sums"], other["sums"]], merged, {}, modules=CHOSEN["modules"]
    )
    truths = [simulate_dssc.truth(CHOSEN, number) for number in (235, 236)]
    with xr.open_dataset(merged, group="data", engine="h5netcdf") as data:
        delays = np.unique(np.concatenate([truth["delay"] for truth in truths]))
        np.testing.assert_array_equal(data["scan_variable"], delays)
        assert data["run"].values.tolist() == [235, 236]
        wanted = [
            expected(CHOSEN, number, 9, kept(truth), truth["delay"])
            for number, truth in zip((235, 236), truths, strict=True)
        ]
        for b, delay in enumerate(delays):
            held = [each[float(delay), "pumped"] for each in wanted if (float(delay), "pumped") in each]
            mean = sum(total for _, total, _ in held) / sum(n for n, _, _ in held)
            np.testing.assert_array_equal(data["pumped"][b, 1], mean)


@settings(max_examples=8)
@given(strategies.data())
def test_sums_do_not_depend_on_blocks_threads_groups_or_splitting(run, tmp_path_factory, data):
    """The frames divided by lot between two selections, each taken in its own way, give together the same sums."""
    place = tmp_path_factory.mktemp("parts")
    chosen = read_selection(run["selection"])
    random = np.random.default_rng(data.draw(strategies.integers(0, 2**32)))
    in_first = random.random(len(chosen.bin)) < data.draw(strategies.sampled_from([0.5, 0.9, 1]))
    together = {}
    for number, part in enumerate((in_first, ~in_first)):
        selection, sums = place / f"selection{number}.h5", place / f"sums{number}.h5"
        with h5py.File(selection, "w") as file:
            write_selection(file, chosen._replace(bin=np.where(part, chosen.bin, -1).astype("i4")))
            file.attrs.update(chosen.attributes)
        options = {
            "block_bytes": data.draw(strategies.sampled_from([1, 10**6, 2**25])),
            "block_frames": data.draw(strategies.integers(1, 40)),
            "threads": data.draw(strategies.integers(1, 3)),
            "most_slots": data.draw(strategies.integers(1, 20)),
        }
        bin_module(run["frames"], selection, sums, {}, module=2, **options)
        for key, (n, total, squares) in read_sums(sums).items():
            held = together.get(key, (0, 0, 0))
            together[key] = held[0] + n, held[1] + total, held[2] + squares
    assert_same_sums(together, read_sums(run["sums"][0]))


def test_sums_of_a_group_are_given_back_before_the_next(run, tmp_path, monkeypatch):
    """Else a job with many bins would need the memory of two groups."""
    held, alive, original = [], [], dssc_sums.sum_slots

    def sum_slots(*arguments, **options):
        deadline = time.monotonic() + 5
        while any(each() is not None for each in held) and time.monotonic() < deadline:
            time.sleep(0.01)  # threads of the pool let go of their last work a little later
        alive.append(sum(each() is not None for each in held))
        found = original(*arguments, **options)
        held.extend(weakref.ref(each) for each in found[:2])
        return found

    monkeypatch.setattr(dssc_sums, "sum_slots", sum_slots)
    bin_module(run["frames"], run["selection"], tmp_path / "x.h5", {}, module=2, most_slots=4)
    assert alive == [0] * 4


def test_frame_sums_are_those_of_the_images(run):
    chosen = read_selection(run["selection"])
    with h5py.File(run["sums"][0]) as file:
        frame_sum = file["frame_sum"][()]
    assert not frame_sum[chosen.bin < 0].any()
    frames = np.flatnonzero(chosen.bin >= 0)
    images = simulate_dssc.images(CHOSEN, RUN, 2, frames)
    np.testing.assert_array_equal(frame_sum[frames], images.sum(axis=(1, 2), dtype=np.uint64))


def test_reading_agrees_with_extra_data(run):
    from extra_data import RunDirectory

    frames = read_selection(run["selection"])
    with h5py.File(run["frames"]) as file:
        train_id = file["trainId"][()]
    source = f"{CHOSEN['detector']}/DET/9CH0:xtdf"
    held = RunDirectory(run["place"] / "raw" / f"r{RUN:04d}")[source, "image.data"]
    images = held.xarray()
    np.testing.assert_array_equal(images["trainId"].values.ravel(), train_id)
    used = images.values[frames.bin >= 0].astype(np.uint64)
    assert sum(total.sum() for _, total, _ in read_sums(run["sums"][1]).values()) == used.sum()


@pytest.mark.parametrize("packed", [{"compression": "gzip", "shuffle": True}, {"compression": "lzf"}])
def test_compressed_files_give_the_same_sums(run, tmp_path, packed):
    """EXtra-data 1.25 silently gives zeros for such files."""
    for path in [*run["files"]["modules"][2]]:
        target = tmp_path / "raw" / f"r{RUN:04d}" / path.rsplit("/", 1)[1]
        target.parent.mkdir(parents=True, exist_ok=True)
        name = f"INSTRUMENT/{CHOSEN['detector']}/DET/2CH0:xtdf/image/data"
        with h5py.File(path) as old, h5py.File(target, "w") as new:
            for key in old:
                old.copy(key, new)
            values = new[name][()]
            del new[name]
            new.create_dataset(name, data=values, chunks=(1, 1, *DSSC_SHAPE), **packed)
    files = {"modules": {2: sorted((tmp_path / "raw").rglob("*.h5"))}, "control": run["files"]["control"]}
    chosen = CHOSEN | {"modules": [2]}
    frames = check(tmp_path, files, chosen)
    selection = select(tmp_path, frames, files)
    (sums,) = bin_modules(tmp_path, frames, selection, chosen, threads=2)
    assert_same_sums(read_sums(sums), read_sums(run["sums"][0]))


# Each documented fault of the files: the frames that count are those of sound trains, and no frame is misplaced.

FAULTS = {
    "train_id_zero": 3,
    "duplicate_train_flagged": 10,
    "duplicate_train": 11,
    "module_count_zero": 6,
    "module_lacks_trains": 5,
    "index_hole": 7,
    "truncated_file": 15,
    "missing_sequence_file": 8,
    "short_train": 4,
    "pulse_id_differs": 1,
    "bit_flipped_train": 12,
    "index_off_by_one": 13,
    "out_of_order_trains": 6,
    "missing_module": 2,
    "image_train_id_zero": 5,
    "first_file_without_trains": 9,
}
LEFT_OUT = ("duplicate_train", "short_train", "pulse_id_differs")  # in all modules: nobody knows who is right


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_drops_its_trains_and_misplaces_none(tmp_path, fault):
    from pulsetrain.simulate_faults import WHOLE, affected_trains, expected_availability

    others = [module for module in (0, 14) if module != FAULTS[fault]]
    chosen = simulate_dssc.settings("tiny", modules=[FAULTS[fault], *others], trains=8, cells=4, faults=[fault])
    found = whole_way(tmp_path, chosen, RUN)
    truth = simulate_dssc.truth(chosen, RUN)
    available = expected_availability(chosen) == WHOLE
    for number, module in enumerate(chosen["modules"]):
        trains = available[module].copy()
        if fault in LEFT_OUT:
            trains[affected_trains(chosen, fault)] = False
        wanted = expected(chosen, RUN, module, kept(truth) & trains[:, None], truth["delay"])
        assert_same_sums(read_sums(found["sums"][number]), wanted)
    account = account_of(found["selection"])
    if fault in LEFT_OUT:
        assert sum(count for text, count in account.items() if text.startswith("check_run")) > 0
    with h5py.File(found["joined"]) as file:
        status, reason = file.attrs["status"], file.attrs["reason"]
    n_used = account["used"]
    for module, path in zip(chosen["modules"], found["sums"], strict=True):
        n_lacking = n_used - sum(n for n, _, _ in read_sums(path).values())
        assert (f"module {module:02d} lacks {n_lacking}" in reason) == (n_lacking > 0)
    assert status == ("partial" if reason else "complete")


def test_modules_that_lack_frames_are_named_for_each_run(run, tmp_path):
    """Module 9 is absent from the second of two merged runs."""
    files = write_run(tmp_path, CHOSEN, 236)
    for path in files["modules"][9]:
        Path(path).unlink()
    files["modules"][9] = []
    frames = check(tmp_path, files, CHOSEN, 236)
    selection = select(tmp_path, frames, files, 236)
    sums = bin_modules(tmp_path, frames, selection, CHOSEN, 236)
    merged = tmp_path / "both.h5"
    arguments = [run["selection"], selection], [run["sums"], sums]
    join_modules(*arguments, merged, {}, modules=CHOSEN["modules"])
    n_used = account_of(selection)["used"]
    with h5py.File(merged) as file:
        assert file.attrs["status"] == "partial"
        assert file.attrs["reason"] == f"run 236: of {n_used} used frames module 09 lacks {n_used}"


def test_many_modules_and_runs_that_lack_frames_are_told_in_short(run):
    chosen = [read_selection(run["selection"])] * 6
    reason = _status(chosen, [{module: module + 1 for module in range(16)}] + [{3: 1}] * 5)["reason"].split("; ")
    first = ", ".join(f"module {module} lacks {module + 1}" for module in (15, 14, 13, 12))
    n_used = (chosen[0].bin >= 0).sum()
    assert reason[0] == f"run 235: of {n_used} used frames {first} and 12 more modules lack some"
    assert reason[1] == f"run 235: of {n_used} used frames module 03 lacks 1"
    assert reason[4:] == ["in 2 more runs modules lack used frames"]


def test_many_trains_that_one_module_alone_has_are_trains_that_the_others_miss(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0, 1, 2])
    files = write_run(tmp_path, chosen)
    for module in (1, 2):
        Path(files["modules"][module].pop()).unlink()
    check(tmp_path, files, chosen)
    report = json.loads((tmp_path / "integrity" / f"r{RUN:04d}.json").read_text())
    missing = [each["message"] for each in report["findings"] if each["kind"] == "missing_trains"]
    assert [message[:8] for message in missing] == ["module 1", "module 2"]
    assert all("does not have 8 of 16 trains" in message for message in missing)
    assert report["frames"]["kept"] == report["frames"]["seen"]


def test_findings_advise_keys_that_count_for_dssc(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0, 1, 2], sequences=1, faults=["missing_module"])
    files = write_run(tmp_path, chosen)
    for path in files["modules"][0]:
        with h5py.File(path, "r+") as file:
            (name,) = file[f"INDEX/{CHOSEN['detector']}/DET"]
            first = file[f"INDEX/{CHOSEN['detector']}/DET/{name}/image/first"]
            first[...] = np.roll(first[()], 1)
    check(tmp_path, files, chosen)
    path = tmp_path / "integrity" / f"r{RUN:04d}.json"
    report = json.loads(path.read_text())
    advice = {each["kind"]: each["next_step"] for each in report["findings"]}
    assert advice["missing_module"] == "leave module 2 out of dssc.modules if it stays so"
    assert advice["ids_disagree"] == "leave module 0 out of dssc.modules, or copy or correct the run again"
    path.write_text(json.dumps(report | {"verdict": "refused"}))
    with pytest.raises(RuntimeError, match="change integrity.max_lost, integrity.policy or dssc.modules in the config"):
        accept_run(path, tmp_path / "accepted", RUN, {})


def test_float_images_as_raw_data_are_no_reason_to_correct_again(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0], trains=2, sequences=1)
    files = write_run(tmp_path, chosen)
    with h5py.File(files["modules"][0][0], "r+") as file:
        name = f"INSTRUMENT/{CHOSEN['detector']}/DET/0CH0:xtdf/image/data"
        values = file[name][()]
        del file[name]
        file[name] = values.astype("f4")
    check(tmp_path, files, chosen)
    report = json.loads((tmp_path / "integrity" / f"r{RUN:04d}.json").read_text())
    (told,) = [each for each in report["findings"] if each["kind"] == "wrong_dtype"]
    assert told["next_step"] == "these are not the images that the detector wrote: put its raw files there"


def test_trains_without_pulse_energy_count_for_images_only(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0], trains=6, faults=["xgm_missing_trains"])
    found = whole_way(tmp_path, chosen, RUN)
    selection = read_selection(found["selection"])
    n_lit = np.isfinite(simulate_dssc.truth(chosen, RUN)["energy"][0]).sum()
    assert selection.attributes["status"] == "partial"
    assert "set max_frames" in selection.attributes["reason"]
    lit = (selection.bin >= 0) & np.isin(selection.name, [0, 2])
    assert np.isnan(selection.energy[lit]).sum() == n_lit  # train 3 of the two has no scan value
    limited = select(tmp_path, found["frames"], found["files"], scan="limited", xgm_limits=[0, 1e9])
    assert account_of(limited)["no pulse energy"] == n_lit


def test_a_run_without_used_frames_gives_a_valid_empty_file(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0], trains=2)
    found = whole_way(tmp_path, chosen, RUN, xgm_limits=[-2, -1], frame_pattern=["pumped"])
    with xr.open_dataset(found["joined"], group="data", engine="h5netcdf") as data:
        assert data["pumped"].shape == (0, 1, *DSSC_SHAPE)
    with h5py.File(found["joined"]) as file:
        assert file.attrs["status"] == "empty"


def test_frame_names_without_a_used_frame_are_told(run, tmp_path):
    """Limits in the wrong unit leave the dark frames only; a pattern may be longer than the trains."""
    about = read_selection(select(tmp_path, run["frames"], run["files"], xgm_limits=[0.05, 0.1])).attributes
    assert about["status"] == "partial"
    assert about["reason"].startswith("no frame called pumped, unpumped is used (")
    assert "pulse energy outside xgm_limits: " in about["reason"]
    pattern = ["dark"] + [f"dark{i}" for i in range(CHOSEN["cells"] + 5)]
    about = read_selection(
        select(tmp_path, run["frames"], run["files"], frame_pattern=pattern, variable=None)
    ).attributes
    first = ", ".join(pattern[CHOSEN["cells"] :][:4])
    told = f"no frame called {first} and 2 more names is used (the trains are shorter than the frame pattern)"
    assert (about["status"], about["reason"]) == ("partial", told)


@pytest.mark.parametrize("step", [None, 0.5])
def test_scan_values_that_are_no_numbers_leave_out_their_trains(run, tmp_path, step):
    train_id, values, _ = read_scan_file(run["files"]["scan"])
    values[:3] = np.inf, -np.inf, np.nan
    values[3:] = 1.5
    path = write_array(tmp_path / "scan.h5", values, ["trainId"], {"trainId": train_id})
    variable = {"source": None, "key": "", "file": path, "step": step}
    selection = select(tmp_path, run["frames"], run["files"], variable=variable)
    assert read_selection(selection).values.tolist() == [1.5]
    assert account_of(selection)["scan value is not a number"] == 3 * CHOSEN["cells"]


def test_scan_without_any_train_of_the_run_says_why_it_is_empty(run, tmp_path):
    path = write_array(tmp_path / "scan.h5", np.ones(2), ["trainId"], {"trainId": np.array([1, 2], "u8")})
    variable = {"source": None, "key": "", "file": path, "step": None}
    about = read_selection(select(tmp_path, run["frames"], run["files"], variable=variable)).attributes
    assert about["status"] == "empty"
    assert "no frame is used (train without scan value: 96)" in about["reason"]


@pytest.mark.parametrize(
    ("source", "pattern", "status"),
    [(None, ["a"], "complete"), ("SCS/OTHER:output", ["a"], "partial"), ("SCS/OTHER:output", ["dark"], "complete")],
)
def test_only_a_gas_monitor_that_is_asked_for_is_missed(run, tmp_path, source, pattern, status):
    xgm = XGM | {"source": source}
    about = read_selection(select(tmp_path, run["frames"], run["files"], xgm=xgm, frame_pattern=pattern)).attributes
    assert about["status"] == status
    assert "max_frames" not in about["reason"]
    assert ("the run has no SCS/OTHER:output data.intensitySa3TD" in about["reason"]) == (status == "partial")


def test_only_the_pulses_that_belong_to_frames_are_read(run, tmp_path):
    control = tmp_path / "RAW-R0235-DA02-S00000.h5"
    shutil.copy(run["files"]["control"][0], control)
    name = f"INSTRUMENT/{XGM['source']}/{XGM['key'].replace('.', '/')}"
    with h5py.File(control, "r+") as file:
        values = file[name][()]
        attributes = dict(file[name].attrs)
        del file[name]
        file[name] = np.pad(values, ((0, 0), (0, 100_000)), constant_values=1)
        file[name].attrs.update(attributes)
    with h5py.File(run["frames"]) as file:
        trains = np.unique(file["trainId"][()])
    whole = pulse_energies(run["files"]["control"], XGM, trains, values.shape[1])
    tracemalloc.start()
    few = pulse_energies([control], XGM, trains, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(few.values, whole.values[:, :3])
    assert np.isfinite(few.values).any()
    assert peak < 100_000 * 4 * len(trains) / 4
    selection = select(tmp_path, run["frames"], run["files"] | {"control": [control]})
    np.testing.assert_array_equal(read_selection(selection).energy, read_selection(run["selection"]).energy)


def test_control_files_that_cannot_be_read_are_told(run, tmp_path):
    broken = tmp_path / f"RAW-R{RUN:04d}-DA03-S00000.h5"
    broken.write_bytes(b"no HDF5")
    files = run["files"] | {"control": [*run["files"]["control"], broken]}
    about = read_selection(select(tmp_path, run["frames"], files)).attributes
    assert about["status"] == "partial"
    assert about["reason"] == f"1 control files cannot be read ({broken.name})"


# Inputs that cannot be used


def test_missing_scan_source_names_the_nearest(run):
    variable = SCAN["variable"] | {"source": "SCS_ILH_LAS/DOOCS/PP800_PHASESHIFTR"}
    with pytest.raises(ValueError, match=r"PHASESHIFTR actualPosition.value is in none .* names: .*PP800_PHASESHIFTER"):
        select(run["place"], run["frames"], run["files"], scan="bad", variable=variable)


def test_missing_scan_key_names_the_keys_of_the_source(run):
    variable = SCAN["variable"] | {"key": "actualPos.value"}
    with pytest.raises(ValueError, match=r"actualPos.value is in none .*; keys of this source: actualPosition.value"):
        select(run["place"], run["frames"], run["files"], scan="bad", variable=variable)


def test_limits_without_gas_monitor_are_an_error(run):
    with pytest.raises(ValueError, match="has xgm_limits, but run 235 has no SCS/OTHER"):
        xgm = XGM | {"source": "SCS/OTHER:output"}
        select(run["place"], run["frames"], run["files"], scan="bad", xgm=xgm, xgm_limits=[0, 1])


def test_too_many_bins_name_the_step(run, monkeypatch):
    monkeypatch.setattr("pulsetrain.dssc_selection.MOST_BINS", 3)
    with pytest.raises(ValueError, match=r"has 4 bins with step 0.5, from 0 to 1.5 ps.*dssc.scans.bad.variable.step"):
        select(run["place"], run["frames"], run["files"], scan="bad")


def test_selection_of_another_frame_table_is_refused(run, tmp_path):
    shorter = simulate_dssc.settings("tiny", modules=[2], trains=3)
    frames = check(tmp_path, write_run(tmp_path, shorter), shorter)
    with pytest.raises(ValueError, match="these do not fit"):
        bin_module(frames, run["selection"], tmp_path / "x.h5", {}, module=2)
    assert not (tmp_path / "x.h5").exists()


def write_array(path, values, dims, coords=None, name="scan_variable", group="data"):
    xr.DataArray(values, dims=dims, coords=coords, name=name).to_netcdf(path, group=group, engine="h5netcdf")
    return str(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("trainId,value\n1,2\n", r"found the columns \['trainId', 'value'\]"),
        ("trainId,scan_variable\n1,2\n1,3\n", "train 1 is there twice"),
        ("trainId,scan_variable\n1.5,2\n", "cannot be read as CSV"),
        ("trainId,scan_variable\n10,0.5,7\n11,0.5,8\n", "the lines have more values than the header has names"),
        ("trainId,scan_variable\n10,0\n11,0,5\n", "cannot be read as CSV .* line 3"),
    ],
)
def test_wrong_csv_is_named(tmp_path, content, message):
    path = tmp_path / "scan.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_scan_file(path)


def test_a_comma_at_the_end_of_each_line_moves_nothing(tmp_path):
    path = tmp_path / "scan.csv"
    path.write_text("trainId,scan_variable\n10,0.5,\n11,1.5,\n")
    train_id, values, _ = read_scan_file(path)
    assert (train_id.tolist(), values.tolist()) == ([10, 11], [0.5, 1.5])


def test_a_scan_value_out_of_reach_names_source_and_train(run, tmp_path):
    train_id, values, _ = read_scan_file(run["files"]["scan"])
    values[2] = 1e30
    path = write_array(tmp_path / "scan.h5", values, ["trainId"], {"trainId": train_id})
    variable = {"source": None, "key": "", "file": path, "step": 0.5}
    told = rf"scan.h5 is 1e\+30 in train {train_id[2]} \(1 such trains\): too many steps of 0.5 .* variable.file"
    with pytest.raises(ValueError, match=told):
        select(tmp_path, run["frames"], run["files"], variable=variable)


def test_a_number_of_pulses_that_is_an_array_names_source_and_key(run):
    xgm = XGM | {"n_pulses_source": XGM["source"], "n_pulses_key": XGM["key"]}
    with pytest.raises(ValueError, match=rf"{XGM['source']} {XGM['key']} holds .* per train; expected one number"):
        select(run["place"], run["frames"], run["files"], scan="bad", xgm=xgm)


def test_wrong_scan_files_are_named(tmp_path):
    train = {"trainId": np.arange(3, dtype="u8")}
    with pytest.raises(ValueError, match="has no whole numbers as coordinates"):
        read_scan_file(write_array(tmp_path / "a.h5", np.ones(3), ["trainId"]))
    with pytest.raises(ValueError, match=r"has the dimensions \('train',\)"):
        read_scan_file(write_array(tmp_path / "b.h5", np.ones(3), ["train"]))
    with pytest.raises(ValueError, match="the mask holds float64"):
        read_frame_mask(write_array(tmp_path / "c.h5", np.ones(3), ["trainId"], train))
    reindexed = np.array([1, np.nan, 0])
    with pytest.raises(ValueError, match=r"holds float64, NaN in 1 places .* Use .fillna\(0\).astype\(bool\)"):
        read_frame_mask(write_array(tmp_path / "n.h5", reindexed, ["trainId"], train))
    (tmp_path / "d.h5").write_bytes(b"no netCDF")
    with pytest.raises(ValueError, match="cannot be read as netCDF4"):
        read_scan_file(tmp_path / "d.h5")


@pytest.mark.parametrize("group", ["data", None])
def test_masks_of_one_dimension_count_for_the_other(tmp_path, group):
    trains = np.array([12, 10, 11], "u8")
    of_train = write_array(
        tmp_path / "t.h5", np.array([True, False, True]), ["trainId"], {"trainId": trains}, "m", group
    )
    of_pulse = write_array(tmp_path / "p.h5", np.array([1, 0], "i1"), ["pulse"], {"pulse": [0, 2]}, "m", group)
    both = write_array(
        tmp_path / "b.h5", np.ones((2, 3), bool), ["pulse", "trainId"], {"trainId": trains, "pulse": [0, 1]}, "m", group
    )
    train, frame = np.array([10, 11, 12, 13], "u8"), np.array([0, 1, 2, 0])
    known, good = look_up_mask(read_frame_mask(of_train), train, frame)
    assert known.tolist() == [True, True, True, False]
    assert good.tolist() == [False, True, True, False]
    known, good = look_up_mask(read_frame_mask(of_pulse), train, frame)
    assert known.tolist() == [True, False, True, True]
    assert good.tolist() == [True, False, False, True]
    known, _ = look_up_mask(read_frame_mask(both), train, frame)
    assert known.tolist() == [True, True, False, False]


# Laws


def test_names_and_pulses_follow_the_pattern():
    names, name, pulse = frame_names(["pumped", "dark", "pumped", "unpumped"], np.arange(9))
    assert names == ["pumped", "dark", "unpumped"]
    assert name.tolist() == [0, 1, 0, 2, 0, 1, 0, 2, 0]
    assert pulse.tolist() == [0, -1, 1, 2, 3, -1, 4, 5, 6]


def test_rounding_gives_equal_bits_for_equal_steps():
    values = np.array([0.1 * 3, 0.3, np.float32(0.3), 0.2999, -0.04, 0.25, 0.15])
    binned = bin_values(values, 0.1)
    assert binned[:4].tolist() == [3 * 0.1] * 4
    assert binned[4].tobytes() == np.float64(0).tobytes()
    assert bin_values(np.array([0.25, 0.75]), 0.5).tolist() == [0, 1]  # halves go to the even multiple
    assert bin_values(np.array([1.234, -0.0]), None).tolist() == [1.234, 0]


@settings(max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(strategies.data())
def test_kernel_is_exact_for_any_16_bit_values(data):
    n, n_slots = data.draw(strategies.integers(1, 9)), data.draw(strategies.integers(1, 3))
    random = np.random.default_rng(data.draw(strategies.integers(0, 2**32)))
    low = data.draw(strategies.sampled_from([0, 65000, 65535]))
    images = random.integers(low, 65536, (n, 2048), dtype=np.uint16)
    slot = np.sort(random.integers(0, n_slots, n))
    slots, begins = np.unique(slot, return_index=True)
    order = random.permutation(n)  # the frames lie in memory in any order
    total, squares = np.zeros((n_slots, 2048), "u8"), np.zeros((n_slots, 2048), "u8")
    stored, start = images[order].ravel(), np.argsort(order) * 2048
    sums = sum(
        add_frames(stored, start, np.append(begins, n), slots, begin, begin + 1024, total, squares)
        for begin in (0, 1024)
    )
    wide = images.astype("u8")
    np.testing.assert_array_equal(sums, wide.sum(axis=1))
    for each in range(n_slots):
        np.testing.assert_array_equal(total[each], wide[slot == each].sum(axis=0))
        np.testing.assert_array_equal(squares[each], (wide[slot == each] ** 2).sum(axis=0))


def test_kernel_holds_65536_frames_of_the_largest_value():
    values = np.full(1024, 65535, "u2")
    total, squares = np.zeros((1, 1024), "u8"), np.zeros((1, 1024), "u8")
    add_frames(values, np.zeros(65536, "i8"), np.array([0, 65536]), np.array([0]), 0, 1024, total, squares)
    assert (total == 65536 * 65535).all()
    assert (squares == 65536 * 65535**2).all()


@settings(max_examples=50)
@given(strategies.integers(2, 2000), strategies.integers(0, 65535), strategies.integers(0, 2**32))
def test_standard_errors_lose_nothing(n, level, seed):
    from fractions import Fraction

    spread = np.random.default_rng(seed).integers(0, 3)
    values = np.clip(level + np.random.default_rng(seed).integers(-spread, spread + 1, n), 0, 65535).tolist()
    mean, error = mean_and_error(n, np.array([sum(values)], "u8"), np.array([sum(v * v for v in values)], "u8"))
    exact = sum((v - Fraction(sum(values), n)) ** 2 for v in values) / (n - 1) / n
    assert mean[0] == sum(values) / n
    np.testing.assert_allclose(error[0], float(exact) ** 0.5, rtol=2e-7)


@settings(max_examples=30)
@given(strategies.data())
def test_mean_energies_do_not_depend_on_order_or_splitting(run, data):
    chosen = read_selection(run["selection"])
    random = np.random.default_rng(data.draw(strategies.integers(0, 2**32)))
    cut = data.draw(strategies.integers(0, len(chosen.bin)))
    order = random.permutation(len(chosen.bin))
    parts = [
        chosen._replace(**{key: getattr(chosen, key)[some] for key in ("bin", "name", "energy")})
        for some in (order[:cut], order[cut:])
    ]
    for one, other in zip(mean_energies([chosen], chosen.values), mean_energies(parts, chosen.values), strict=True):
        np.testing.assert_array_equal(one, other)


def test_reasons_are_told_in_the_file(run):
    with h5py.File(run["selection"]) as file:
        described = file["reason"].attrs["description"]
        assert all(text in described for text in REASONS)
        reason, chosen = file["reason"][()], file["bin"][()]
    np.testing.assert_array_equal(reason == 0, chosen >= 0)


def test_runs_that_do_not_fit_are_not_merged(run, tmp_path):
    selection = tmp_path / "other.h5"
    select_frames(
        run["frames"],
        run["files"]["control"],
        selection,
        {},
        run=RUN,
        scan="delay",
        settings=SCAN | {"frame_pattern": ["image"]},
        xgm=XGM,
    )
    with pytest.raises(ValueError, match="different scans or frame names"):
        join_modules(
            [run["selection"], selection], [run["sums"], run["sums"]], tmp_path / "x.h5", {}, modules=CHOSEN["modules"]
        )
    assert not (tmp_path / "x.h5").exists()
