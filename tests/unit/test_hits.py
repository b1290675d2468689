"""Hit finding against plain loops, hand-computed cases, and runs with known hits."""

import h5py
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain import hits
from pulsetrain.layout import FILE_NUMBERS, FILE_TEXT, SEGMENT_COLUMNS, RunLayout, write_layout

OPTIONS = {
    "threshold_sigma": 4.0,
    "scale_by_pulse_energy": True,
    "min_frames": 100,
    "min_score": 20,
    "min_spread": 5,
    "min_pulse_energy_mj": 1.0,
    "seed": 1,
}
MEAN_ENERGY = 2e-3


def simulated_scores(n_trains, n_frames, hit_rate, seed=1, background=1450, constant=0):
    """Scores of a run: (train, score, energy, is_hit)."""
    random = np.random.default_rng(seed)
    n = n_trains * n_frames
    relative = random.gamma(30, 1 / 30, n)
    is_hit = random.random(n) < hit_rate
    hit_photons = np.where(is_hit, random.lognormal(np.log(6000) - 0.18, 0.6, n), 0)
    score = random.poisson((background + hit_photons) * relative + constant)
    return np.repeat(np.arange(n_trains), n_frames), score, relative * MEAN_ENERGY, is_hit


def as_frames(train, score, energy, modules=0xFFFF):
    modules = np.broadcast_to(np.asarray(modules, np.uint32), np.shape(train))
    return hits.Frames(np.asarray(train), np.asarray(score, np.uint64), np.asarray(energy, float), modules)


def decide(frames, threshold_sigma=4.0, min_frames=100, scale=True):
    n_trains = int(frames.train.max()) + 1
    background = hits.find_background(frames, n_trains, min_frames, scale)
    middle, sigma = hits.background_of_frames(frames.train, background)
    return frames.score > middle + threshold_sigma * sigma, background


def write_run(folder, train, score, energy, modules=None, per_module=None, monitor=None, offset=0, attributes=None):
    """The inputs of find_hits; one module file by default, else `per_module` {module: hit photons (N,)}."""
    folder.mkdir(exist_ok=True)
    n = len(train)
    pulse = np.concatenate([np.arange(c) for c in np.bincount(train)]) if n else np.zeros(0, int)
    modules = np.full(n, 0xFFFF, np.uint32) if modules is None else modules
    train_id = np.asarray(train, np.uint64) + np.uint64(1_000_000_007)
    layout = RunLayout(
        train_id,
        pulse.astype(np.uint64) * np.uint64(4),
        (pulse + 1).astype(np.uint16),
        modules,
        pd.DataFrame({name: [] for name in (*FILE_TEXT, *FILE_NUMBERS)}),
        pd.DataFrame({name: [] for name in SEGMENT_COLUMNS}),
        attributes or {"run": 50},
    )
    with h5py.File(folder / "frames.h5", "w") as file:
        write_layout(file, layout)
    if monitor is None:
        monitor = np.full((len(np.unique(train)), pulse.max(initial=-1) + 1), np.nan)
        monitor[np.searchsorted(np.unique(train), train), pulse] = energy
    with h5py.File(folder / "pulses.h5", "w") as file:
        file["pulse_energy"], file["wavelength"] = energy, np.full(n, 1.35e-10)
        file["xgm_index"] = np.where(np.isfinite(energy), pulse, -1).astype("i4")
        file["xgm/trainId"], file["xgm/pulse_energy"] = np.unique(train_id), monitor
        file.attrs["offset"] = offset
    paths = []
    for module, values in (per_module or {0: score}).items():
        path = folder / f"litpixels_m{module:02d}.h5"
        with h5py.File(path, "w") as file:
            file["litpixels"] = np.asarray(values, "u4")
            file["photons"], file["hit_photons"] = np.asarray(values, "u8"), np.asarray(values, "u8")
        paths.append(path)
    return {"litpixels": paths, "pulses": folder / "pulses.h5", "frames": folder / "frames.h5"}


def run_find_hits(folder, inputs, **changes):
    hits.find_hits(**inputs, output=folder / "events.h5", attributes={}, **(OPTIONS | changes))
    with h5py.File(folder / "events.h5") as file:
        events = {name: file[name][()] for name in file if isinstance(file[name], h5py.Dataset)}
        events["trains"] = {name: file[f"trains/{name}"][()] for name in file["trains"]}
        events["guard"] = file["trains/guard"].asstr()[()]
        events["guards"] = dict(file["trains/guard"].attrs)
        events["self_test"] = dict(file["self_test"].attrs) | {n: v[()] for n, v in file["self_test"].items()}
        return events | dict(file.attrs)


# Statistics of the background


def test_hand_computed_threshold():
    # Median 30, 25th percentile 20: sigma 14.826, threshold 30 + 4 * 14.826 = 89.304.
    median, sigma = hits.window_statistics(np.array([10.0, 20, 30, 40, 200]), np.array([5]), 5)
    assert median[0] == 30 and sigma[0] == pytest.approx(14.826)
    frames = as_frames([0] * 5, [10, 20, 30, 40, 200], [np.nan] * 5)
    assert decide(frames)[0].tolist() == [False, False, False, False, True]
    frames = as_frames([0] * 5, [10, 20, 30, 89, 90], [np.nan] * 5)
    assert decide(frames)[0].tolist() == [False, False, False, False, True]


def test_window_grows_symmetrically_until_it_is_full():
    values, sizes = np.arange(12.0), np.array([2, 2, 2, 2, 2, 2])
    median, _ = hits.window_statistics(values, sizes, 5)
    # Three trains in the middle; at the ends the window goes on growing inwards.
    assert median.tolist() == [2.5, 2.5, 4.5, 6.5, 8.5, 8.5]
    assert hits.window_statistics(values, sizes, 2)[0].tolist() == [0.5, 2.5, 4.5, 6.5, 8.5, 10.5]
    assert hits.window_statistics(values, sizes, 1000)[0].tolist() == [5.5] * 6


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=12),
    st.integers(1, 20),
    st.integers(0, 2**32 - 1),
)
def test_window_statistics_agree_with_a_plain_loop(sizes, min_frames, seed):
    values = np.random.default_rng(seed).poisson(100, sum(sizes)).astype(float)
    ends = np.concatenate([[0], np.cumsum(sizes)])
    median, sigma = hits.window_statistics(values, np.array(sizes), min_frames)
    for train in range(len(sizes)):
        for reach in range(len(sizes)):
            inside = values[ends[max(train - reach, 0)] : ends[min(train + reach + 1, len(sizes))]]
            if len(inside) >= min_frames:
                break
        if not len(inside):
            assert np.isnan(median[train])
            continue
        assert median[train] == np.median(inside)
        assert sigma[train] == pytest.approx(1.4826 * (np.median(inside) - np.percentile(inside, 25)))


def test_trains_with_other_modules_are_not_mixed():
    # Trains 0, 2, 4 have all modules and score 100, trains 1, 3 lack half of them and score 50.
    train = np.repeat(np.arange(5), 4)
    modules = np.where(train % 2 == 0, 0xFFFF, 0x00FF).astype(np.uint32)
    score = np.where(train % 2 == 0, 100, 50) + np.tile([0, 1, 2, 3], 5)
    _, background = decide(as_frames(train, score, np.full(20, np.nan), modules), min_frames=1000)
    np.testing.assert_array_equal(background.median, [101.5, 51.5, 101.5, 51.5, 101.5])


def test_slope_is_that_of_the_background_whatever_the_hits():
    train, score, energy, is_hit = simulated_scores(50, 64, 0.05)
    slope = hits.background_slope(energy, score)
    clean = hits.background_slope(energy[~is_hit], score[~is_hit])
    assert slope == pytest.approx(1450 / MEAN_ENERGY, rel=0.05)
    assert slope == pytest.approx(clean, rel=0.03)
    assert hits.background_slope(energy, 3000 - score) == 0
    assert hits.background_slope(energy[:99], score[:99]) == 0
    assert hits.background_slope(np.full(500, 1e-3), np.arange(500)) == 0


def test_a_wrong_pulse_map_does_no_harm():
    train, score, energy, is_hit = simulated_scores(100, 64, 0.05)
    wrong = np.random.default_rng(5).permutation(energy)
    plain, _ = decide(as_frames(train, score, np.full(len(score), np.nan)))
    found, _ = decide(as_frames(train, score, wrong))
    assert np.mean(found == plain) > 0.998


@pytest.mark.parametrize(("n_trains", "n_frames"), [(100, 352), (400, 64)])
def test_default_finds_the_hits_of_realistic_scores(n_trains, n_frames):
    for hit_rate in (0.04, 0.05):
        train, score, energy, is_hit = simulated_scores(n_trains, n_frames, hit_rate, seed=11)
        found, _ = decide(as_frames(train, score, energy))
        assert (found & is_hit).sum() / is_hit.sum() > 0.98
        assert (found & ~is_hit).sum() / found.sum() < 0.01


def test_scaling_is_no_worse_when_most_of_the_score_is_constant():
    train, score, energy, is_hit = simulated_scores(20, 352, 0.05, constant=30_000)
    plain, _ = decide(as_frames(train, score, energy), scale=False)
    scaled, _ = decide(as_frames(train, score, energy))
    assert (scaled & is_hit).sum() >= (plain & is_hit).sum()
    assert (scaled & ~is_hit).sum() <= 0.01 * scaled.sum()


def test_frames_without_a_pulse_are_not_background():
    # Every second frame is dark (no X-rays, no pulse energy): the statistics are those of the lit frames.
    train, score, energy, is_hit = simulated_scores(50, 64, 0.05, seed=3)
    dark = np.arange(len(score)) % 2 == 1
    energy, score = np.where(dark, np.nan, energy), np.where(dark, 3, score)
    found, background = decide(as_frames(train, score, energy))
    assert not found[dark].any() and not background.counted[dark].any()
    assert (found & is_hit).sum() == (is_hit & ~dark).sum()


def test_trains_without_pulse_energy_are_compared_by_their_plain_score():
    train, score, energy, is_hit = simulated_scores(60, 128, 0.05, seed=4)
    energy[train % 3 == 0] = np.nan
    found, background = decide(as_frames(train, score, energy))
    assert (background.slope[::3] == 0).all() and (background.slope[1::3] > 0).all()
    plain, _ = decide(as_frames(train, score, np.full(len(score), np.nan)))
    without = train % 3 == 0
    np.testing.assert_array_equal(found[without], plain[without])


# Misses


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=60), st.integers(0, 5))
def test_misses_are_as_many_as_hits_or_as_there_are_candidates(frames, seed):
    is_hit = np.array([hit for hit, _ in frames], dtype=bool)
    candidates = np.array([candidate for _, candidate in frames], dtype=bool)
    numbers = np.arange(len(frames), dtype=np.uint64)
    is_miss = hits.draw_misses(is_hit, candidates, numbers // np.uint64(7), numbers % np.uint64(7), seed)
    assert is_miss.sum() == min(is_hit.sum(), (candidates & ~is_hit).sum())
    assert not (is_miss & (is_hit | ~candidates)).any()


def test_misses_follow_the_seed_and_not_the_order_of_the_frames():
    random = np.random.default_rng(1)
    is_hit = random.random(500) < 0.1
    train, pulse = np.repeat(np.arange(50, dtype=np.uint64), 10), np.tile(np.arange(10, dtype=np.uint64), 50)
    everyone = np.ones(500, dtype=bool)
    first = hits.draw_misses(is_hit, everyone, train, pulse, 1)
    assert np.array_equal(first, hits.draw_misses(is_hit, everyone, train, pulse, 1))
    assert not np.array_equal(first, hits.draw_misses(is_hit, everyone, train, pulse, 2))
    order = random.permutation(500)
    shuffled = hits.draw_misses(is_hit[order], everyone, train[order], pulse[order], 1)
    np.testing.assert_array_equal(shuffled, first[order])


# The pulse map's self-test


def map_test(shift, n_trains=20, n_frames=64, noise=0.02, profile=0.0, drift=0.0):
    random = np.random.default_rng(3)
    monitor = random.gamma(30, 1 / 30, (n_trains, n_frames + 10)) * MEAN_ENERGY
    monitor *= 1 + profile * np.linspace(-1, 1, n_frames + 10) + drift * np.linspace(-1, 1, n_trains)[:, None]
    train, index = np.repeat(np.arange(n_trains), n_frames), np.tile(np.arange(n_frames) + 5, n_trains)
    photons = monitor[train, index + shift] * 7e5 * (1 + noise * random.standard_normal(len(train)))
    test = hits.compare_pulse_maps(photons, np.ones(len(train), bool), train, index, monitor)
    return (test, *hits.judge_pulse_map(test, 2))


@pytest.mark.parametrize("shift", range(-4, 5))
@pytest.mark.parametrize(("profile", "drift"), [(0, 0), (0.5, 0.5)])
def test_shifted_map_is_told_with_the_offset_to_set(shift, profile, drift):
    test, verdict, reason = map_test(shift, profile=profile, drift=drift)
    assert np.nanargmax(test.correlation) == shift + 4
    if shift == 0:
        assert verdict == "ok"
    else:
        assert verdict == "shifted" and f"set pulses.offset to {2 + shift} (now 2)" in reason


def test_profile_and_drift_alone_do_not_look_like_agreement():
    # Photons follow the mean profile along the train and the drift of the run, but no single pulse.
    random = np.random.default_rng(3)
    level = (1 + 0.5 * np.linspace(-1, 1, 64)) * (1 + 0.3 * np.linspace(-1, 1, 20))[:, None]
    monitor = level * random.gamma(30, 1 / 30, (20, 64))
    train, index = np.repeat(np.arange(20), 64), np.tile(np.arange(64), 20)
    photons = (level * random.gamma(30, 1 / 30, (20, 64))).reshape(-1)
    test = hits.compare_pulse_maps(photons, np.ones(len(train), bool), train, index, monitor)
    assert hits.judge_pulse_map(test, 0)[0] == "undecided"
    assert np.nanmax(np.abs(test.correlation)) < 0.15


def test_undecided_cases_say_why():
    few, verdict, reason = map_test(0, n_trains=2, n_frames=10)
    assert verdict == "undecided" and "the test needs 50" in reason
    _, verdict, reason = map_test(0, noise=50.0)
    assert verdict == "undecided" and "no shift" in reason
    train, index = np.repeat(np.arange(10), 10), np.tile(np.arange(10), 10)
    equal = hits.compare_pulse_maps(np.arange(100), np.ones(100, bool), train, index, np.full((10, 10), 1e-3))
    assert hits.judge_pulse_map(equal, 0)[0] == "undecided"
    none = hits.compare_pulse_maps(np.arange(100), np.ones(100, bool), train, index * 0 - 1, np.zeros((10, 0)))
    assert hits.judge_pulse_map(none, 0) == ("undecided", "no frame has a pulse energy (no XGM?)")


# Whole files


def test_events_hold_every_frame(tmp_path):
    train, score, energy, is_hit = simulated_scores(30, 64, 0.05)
    split = np.random.default_rng(2).binomial(score, 0.3)
    inputs = write_run(tmp_path, train, score, energy, per_module={3: split, 8: score - split})
    events = run_find_hits(tmp_path, inputs)
    assert {name: (str(events[name].dtype), events[name].shape) for name in ("cellId", "threshold", "hitscore")} == {
        "cellId": ("uint16", (1920,)),
        "threshold": ("float32", (1920,)),
        "hitscore": ("uint64", (1920,)),
    }
    for name, dtype in {"pulseId": "u8", "trainId": "u8", "litpixels": "u4", "photons": "u8", "modules": "u4"}.items():
        assert events[name].dtype == np.dtype(dtype)
    np.testing.assert_array_equal(events["hitscore"], score)
    np.testing.assert_array_equal(events["photons"], score)
    np.testing.assert_array_equal(events["trainId"], train.astype(np.uint64) + np.uint64(1_000_000_007))
    np.testing.assert_array_equal(events["pulseId"], np.tile(np.arange(64) * 4, 30))
    np.testing.assert_array_equal(events["pulse_energy"], energy)
    found, _ = decide(as_frames(train, score, energy))
    np.testing.assert_array_equal(events["is_hit"], found)
    assert (found & is_hit).sum() == is_hit.sum() and found.sum() <= is_hit.sum() + 1
    assert events["n_hits"] == events["n_misses"] == events["is_miss"].sum() == found.sum()
    assert events["status"] == "complete" and events["reason"] == ""
    assert events["self_test"]["verdict"] == "ok" and events["self_test"]["shift"].tolist() == list(range(-4, 5))
    # What is stored fits together: hit_sigma exceeds threshold_sigma exactly for the hits.
    np.testing.assert_array_equal(events["hit_sigma"] > 4, found)
    np.testing.assert_array_equal(events["hitscore"] > events["threshold"], found)
    assert events["trains"]["n_frames"].tolist() == [64] * 30
    threshold = events["trains"]["median"] + 4 * events["trains"]["sigma"]
    np.testing.assert_allclose(events["trains"]["threshold"], threshold)
    assert set(events["guard"]) == {""}


@settings(max_examples=10)
@given(st.permutations([0, 3, 7, 8, 15]))
def test_hits_do_not_depend_on_the_order_of_modules(tmp_path_factory, order):
    train, score, energy, _ = simulated_scores(10, 32, 0.1)
    parts = dict(zip([0, 3, 7, 8, 15], np.random.default_rng(1).multinomial(score, [0.2] * 5).T, strict=True))
    folder = tmp_path_factory.mktemp("order")
    inputs = write_run(folder, train, score, energy, per_module={module: parts[module] for module in order})
    events = run_find_hits(folder, inputs)
    plain = decide(as_frames(train, score, energy))[0]
    np.testing.assert_array_equal(events["is_hit"], plain)
    inputs["litpixels"] = sorted(inputs["litpixels"])
    again = run_find_hits(folder, inputs)
    np.testing.assert_array_equal(events["is_miss"], again["is_miss"])
    np.testing.assert_array_equal(events["threshold"], again["threshold"])


def test_guards_name_the_trains_they_reject(tmp_path, caplog):
    train, score, energy, _ = simulated_scores(12, 128, 0.05)
    score[train == 1] = 0  # no beam on the detector
    score[train == 2] = 500  # a constant
    energy[train == 3] *= 0.1
    inputs = write_run(tmp_path, train, score, energy)
    with caplog.at_level("WARNING"):
        events = run_find_hits(tmp_path, inputs, scale_by_pulse_energy=False)
    guard = events["guard"]
    assert guard[1] == "min_score, min_spread" and guard[2] == "min_spread" and guard[3] == "min_pulse_energy"
    assert set(np.delete(guard, [1, 2, 3])) == {""}
    rejected = np.isin(train, [1, 2, 3])
    assert not events["is_hit"][rejected].any() and not events["is_miss"][rejected].any()
    assert np.isnan(events["threshold"][rejected]).all() and np.isfinite(events["threshold"][~rejected]).all()
    assert events["guards"]["min_spread"].startswith("2 of 12 trains rejected")
    assert "1 of 12 trains rejected: mean pulse energy below 1.0 mJ" in events["guards"]["min_pulse_energy"]
    assert "lower hits.min_pulse_energy_mj to loosen it" in caplog.text


def test_without_xgm_the_energy_guard_is_not_used(tmp_path):
    train, score, energy, is_hit = simulated_scores(20, 128, 0.05)
    events = run_find_hits(tmp_path, write_run(tmp_path, train, score, np.full(len(score), np.nan)))
    assert events["guards"]["min_pulse_energy"] == "not used: no XGM"
    assert set(events["guard"]) == {""} and events["self_test"]["verdict"] == "undecided"
    assert (events["is_hit"] & is_hit).sum() > 0.9 * is_hit.sum()


def test_shift_of_the_map_is_reported(tmp_path):
    train, score, energy, _ = simulated_scores(30, 64, 0.05)
    monitor = energy.reshape(30, 64)
    mapped = np.roll(monitor, 1, axis=1)
    mapped[:, 0] = np.nan
    inputs = write_run(tmp_path, train, score, mapped.reshape(-1), monitor=monitor, offset=-1)
    with h5py.File(inputs["pulses"], "r+") as file:
        file["xgm_index"][...] = np.tile(np.arange(64), 30) - 1
    events = run_find_hits(tmp_path, inputs)
    assert events["self_test"]["verdict"] == "shifted"
    assert "set pulses.offset to 0 (now -1)" in events["self_test"]["reason"]


def test_run_without_hits_is_valid(tmp_path):
    train, score, energy, _ = simulated_scores(10, 64, 0.0)
    events = run_find_hits(tmp_path, write_run(tmp_path, train, score, energy), threshold_sigma=9)
    assert events["n_hits"] == events["n_misses"] == 0 and events["status"] == "no hits"
    assert "hits.threshold_sigma" in events["reason"]


def test_run_without_beam_is_valid(tmp_path):
    train = np.repeat(np.arange(10), 64)
    dark = np.random.default_rng(1).poisson(2, len(train))
    events = run_find_hits(tmp_path, write_run(tmp_path, train, dark, np.full(len(train), np.nan)))
    assert events["status"] == "no hits" and not events["is_hit"].any()
    assert "guards rejected all trains" in events["reason"] and "hits.min_score" in events["reason"]
    assert "pulse_energy_mj" not in events["reason"]


def test_run_without_frames_is_valid(tmp_path):
    nothing = np.zeros(0, int)
    inputs = write_run(tmp_path, nothing, nothing, np.zeros(0), attributes={"reason": "all trains were refused"})
    events = run_find_hits(tmp_path, inputs)
    assert events["status"] == "empty" and events["reason"] == "all trains were refused"
    assert events["is_hit"].shape == (0,) and events["trains"]["median"].shape == (0,)


def test_counts_of_another_run_are_refused(tmp_path):
    train, score, energy, _ = simulated_scores(10, 64, 0.05)
    inputs = write_run(tmp_path, train, score, energy)
    with h5py.File(inputs["litpixels"][0], "r+") as file:
        del file["photons"]
        file["photons"] = score[:-1].astype("u8")
    with pytest.raises(ValueError, match="photons has 639 frames, but .*frames.h5 has 640; delete"):
        run_find_hits(tmp_path, inputs)
