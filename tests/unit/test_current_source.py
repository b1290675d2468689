import functools
import json

import h5py
import numpy as np
import pytest
import scan_reference
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain import current_source, scan_fit
from pulsetrain.constants import UNKNOWN_MIDPOINT
from pulsetrain.current_source import fit_scan, process_current_source

HEIGHT = 300
TRIM = 0.10
MODULE = 3


@functools.cache
def scan(n_pixels, seed, **options):
    return scan_reference.simulate_scan(n_pixels, seed, **options)


def used_points(analog, digital, time, trim):
    """Gain stage of the line that uses each point, -1 for none: (n, pixels)."""
    prepared, work = scan_fit.prepare_scan(time, HEIGHT, trim), scan_fit.new_work(len(time))
    stage = np.empty(analog.shape[::-1], np.int8)
    rows = [np.pad(values.T, ((0, 0), (0, scan_fit.PADDING))) for values in (analog, digital)]
    for k in range(len(stage)):
        scan_fit.mark_points(rows[0][k], rows[1][k], prepared, work, stage[k])
    return stage.T


@pytest.mark.parametrize("trim", [0.15, TRIM])
@pytest.mark.parametrize("spikes", [0.003, 0.02])
def test_lines_are_as_precise_as_their_points_allow(spikes, trim):
    # With settling (2.5 % of a stage): at these trims what is left of it is less than 0.1 standard errors.
    analog, digital, truth = scan(6000, 1, spikes=spikes, dead=0)
    fit = fit_scan(analog, digital, truth.time, HEIGHT, trim)
    stage = used_points(analog, digital, truth.time, trim)
    for k in range(3):
        used = stage == k
        n = used.sum(axis=0)
        mean = truth.time @ used / n
        spread = (truth.time**2) @ used - n * mean**2
        noise = truth.analog_noise[k]
        for found, true, bound in (
            (fit.gain[k], truth.gain[k], noise / np.sqrt(spread)),
            (fit.offset[k], truth.offset[k], noise * np.sqrt(1 / n + mean**2 / spread)),
        ):
            pull = (found - true) / bound
            # The mean of 6000 pulls has a standard error of 0.013.
            assert abs(pull.mean()) < 0.1
            assert pull.std() <= 1.1
        assert fit.fit_std[k].mean() == pytest.approx(noise, rel=0.01)


def test_without_settling_nothing_is_left_out_but_the_points_at_a_switch():
    analog, digital, truth = scan(2000, 2, settling=0, dead=0)
    fit = fit_scan(analog, digital, truth.time, HEIGHT, 0)
    error = fit.gain / truth.gain - 1
    assert (np.abs(error.mean(axis=1)) < 0.1 * error.std(axis=1)).all()
    n_used = (used_points(analog, digital, truth.time, 0) >= 0).sum(axis=0)
    assert n_used.mean() > 0.98 * len(truth.time)


@pytest.mark.parametrize("spikes", [0.003, 0.02])
def test_good_pixels_are_fitted_and_dead_ones_are_not(spikes):
    analog, digital, truth = scan(20000, 3, spikes=spikes, dead=0.05)
    fit = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    is_good = fit.status == scan_fit.FITTED
    assert (~is_good[~truth.is_dead]).mean() < 0.001
    assert not is_good[truth.is_dead].any()
    assert np.isfinite(np.concatenate(fit[:5])[:, is_good]).all()
    # No gross error either.
    assert (np.abs(fit.gain / truth.gain - 1)[:, is_good].max(axis=1) < [0.02, 0.02, 0.08]).all()


@pytest.mark.parametrize("kind", range(len(scan_reference.DEAD_KINDS)))
def test_no_dead_pixel_is_accepted(kind):
    random = np.random.default_rng(kind)
    for n, clean in ((800, True), (800, False), (400, False)):
        pixels = [scan_reference.dead_pixel(kind, n, random) for _ in range(700)]
        analog, digital = np.moveaxis(np.array(pixels), 0, -1)
        if not clean:
            scan_reference.add_spikes(analog, 0.02, random)
            scan_reference.add_spikes(digital, 0.02, random)
            analog[0], digital[0] = 9000, 5000
        analog, digital = scan_reference.as_adc(analog), scan_reference.as_adc(digital)
        fit = fit_scan(analog, digital, scan_reference.scan_axis(n), HEIGHT, TRIM)
        assert (fit.status != scan_fit.FITTED).all()
        assert np.isin(fit.status, list(scan_fit.CODES)).all()
        assert np.isnan(fit.gain).any(axis=0).all()
        np.testing.assert_array_equal(np.isnan(fit.gain), np.isnan(fit.level))


@pytest.mark.parametrize("spikes", [0.003, 0.02])
def test_thresholds_lie_between_the_levels(spikes):
    analog, digital, truth = scan(6000, 1, spikes=spikes, dead=0)
    fit = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    error = current_source.digital_thresholds(fit.level) - (truth.level[1:] + truth.level[:-1]) / 2
    assert (np.abs(error.mean(axis=1)) < 0.3).all()
    assert (np.sqrt((error**2).mean(axis=1)) < 3).all()
    assert (np.abs(error) < 12).all()
    np.testing.assert_allclose(fit.level_std.mean(axis=1), truth.digital_noise, rtol=0.02)
    factors = current_source.safety_factors(fit.level, fit.level_std)
    expected = np.diff(truth.level, axis=0) / (truth.digital_noise[1:] + truth.digital_noise[:-1])[:, None]
    np.testing.assert_allclose(factors.mean(axis=1), expected.mean(axis=1), rtol=0.02)


@pytest.mark.parametrize("spikes", [0.003, 0.02])
def test_the_fit_is_that_of_numpy_and_scipy(spikes):
    analog, digital, truth = scan(400, 5, spikes=spikes, dead=0)
    found = np.concatenate(fit_scan(analog, digital, truth.time, HEIGHT, TRIM)[:5])
    expected = scan_reference.fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    # float32 sums against float64; an outlier at the very limit may be judged otherwise.
    tolerance = np.repeat([2e-5, 1e-5, 2e-4, 1e-4, 2e-2], 3)[:, None]
    agrees = np.abs(found - expected) <= tolerance * np.abs(expected)
    assert (agrees.mean(axis=1) > 0.98).all()


def cut(values, points):
    return np.ascontiguousarray(values[:points])


def test_a_pixel_keeps_the_stages_that_it_reaches():
    analog, digital, truth = scan(2000, 6, dead=0, settling=0)
    for n, code, known in ((320, scan_fit.NO_LOW, 2), (45, scan_fit.NO_SWITCH, 1)):
        fit = fit_scan(cut(analog, n), cut(digital, n), truth.time[:n], HEIGHT, TRIM)
        assert (fit.status == code).mean() > 0.999
        chosen = fit.status == code
        assert np.isnan(fit.gain[known:, chosen]).all()
        assert np.isnan(fit.level[known:, chosen]).all()
        error = (fit.gain / truth.gain - 1)[:known, chosen]
        assert (np.abs(np.median(error, axis=1)) < 0.001).all()
        assert (np.abs(error) < 0.05).all()
        thresholds = current_source.digital_thresholds(fit.level)[:, chosen]
        assert (thresholds[known - 1 :] == UNKNOWN_MIDPOINT).all()
        assert (thresholds[: known - 1] < 7000).all()


def test_a_pixel_that_saturates_is_fitted_up_to_there():
    time = scan_reference.scan_axis(800)
    random = np.random.default_rng(7)
    analog = np.minimum(5000 + 42 * time, 12000)[:, None] + random.normal(0, 9, (800, 50))
    digital = random.normal(6200, 25, (800, 50))
    fit = fit_scan(scan_reference.as_adc(analog), scan_reference.as_adc(digital), time, HEIGHT, TRIM)
    assert (fit.status == scan_fit.NO_SWITCH).all()
    np.testing.assert_allclose(fit.gain[0], 42, rtol=0.005)

    analog, digital, truth = scan(500, 8, dead=0, settling=0)
    saturated = np.minimum(analog, np.int16(8950))
    late = truth.time[:, None] > truth.switch[1] + 1200
    saturated[late] = 9000 + (saturated[late] % 20)
    fit = fit_scan(saturated, digital, truth.time, HEIGHT, TRIM)
    assert (fit.status == scan_fit.FITTED).mean() > 0.99
    assert np.nanmax(np.abs(fit.gain[2] / truth.gain[2] - 1)) < 0.2


def one_pixel():
    """A pixel without noise, and its switches (points)."""
    time = scan_reference.scan_axis(800)
    gain, offset = np.array([42.0, 1.1, 0.25]), np.array([5000.0, 5350, 5600])
    stage = np.repeat([0, 1, 2], [90, 360, 350])
    random = np.random.default_rng(9)
    analog = np.rint(offset[stage] + gain[stage] * time + random.normal(0, 5, 800))
    digital = np.rint(np.array([6200.0, 7000, 7700])[stage] + random.normal(0, 20, 800))
    return time, analog, digital, gain, (90, 450)


HARD = {
    "first point": lambda analog, digital: (analog.__setitem__(0, 9000), digital.__setitem__(0, 8000)),
    "first point low": lambda analog, digital: (analog.__setitem__(0, 0), digital.__setitem__(0, 0)),
    "last points": lambda analog, digital: digital.__setitem__(slice(-2, None), 5000),
    "between": lambda analog, digital: (digital.__setitem__(90, 6590), digital.__setitem__(450, 7360)),
    "between before": lambda analog, digital: (digital.__setitem__(89, 6650), digital.__setitem__(449, 7340)),
    "two between": lambda analog, digital: (digital.__setitem__(slice(89, 91), 6601),),
    "spike before switch": lambda analog, digital: digital.__setitem__(slice(88, 90), 9000),
    "spike after switch": lambda analog, digital: digital.__setitem__(slice(90, 92), 5000),
    "spike down after low": lambda analog, digital: digital.__setitem__(slice(450, 452), 5500),
    "spike up before low": lambda analog, digital: digital.__setitem__(slice(448, 450), 9500),
    "long spike after low": lambda analog, digital: digital.__setitem__(slice(450, 455), 6200),
    "analog spikes": lambda analog, digital: (analog.__setitem__(slice(88, 92), 12000), analog.__setitem__(449, 0)),
    "three of five": lambda analog, digital: analog.__setitem__([30, 31, 33], 8000),
    "falls back": lambda analog, digital: digital.__setitem__(slice(100, 110), 6200),
    "goes ahead": lambda analog, digital: digital.__setitem__(slice(60, 68), 7000),
    "falls back later": lambda analog, digital: digital.__setitem__(slice(600, 620), 7000),
    "jumps to low": lambda analog, digital: digital.__setitem__(slice(300, 312), 7700),
}


@pytest.mark.parametrize("name", HARD)
def test_disturbed_points_do_not_disturb_the_lines(name):
    time, analog, digital, gain, _ = one_pixel()
    HARD[name](analog, digital)
    fit = fit_scan(scan_reference.as_adc(analog)[:, None], scan_reference.as_adc(digital)[:, None], time, HEIGHT, TRIM)
    assert fit.status[0] == scan_fit.FITTED
    np.testing.assert_allclose(fit.gain[:, 0], gain, rtol=0.01)
    np.testing.assert_allclose(fit.level[:, 0], [6200, 7000, 7700], atol=10)
    np.testing.assert_allclose(fit.fit_std[:, 0], 5, atol=1)


@settings(max_examples=30)
@given(shift=st.integers(-3000, 3000), seed=st.integers(0, 50))
def test_a_constant_more_shifts_the_offsets_only(shift, seed):
    analog, digital, truth = scan_reference.simulate_scan(20, seed, dead=0.2)
    before = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    after = fit_scan(analog + np.int16(shift), digital, truth.time, HEIGHT, TRIM)
    np.testing.assert_allclose(after.offset, before.offset + shift, atol=0.01)
    for name in ("gain", "fit_std", "level", "level_std", "status"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name), err_msg=name)


@settings(max_examples=30)
@given(scale=st.floats(1e-6, 1e6), start=st.floats(-1e4, 1e4), seed=st.integers(0, 50))
def test_another_unit_of_time_scales_the_gains_only(scale, start, seed):
    analog, digital, truth = scan_reference.simulate_scan(20, seed, dead=0.2)
    before = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    after = fit_scan(analog, digital, (truth.time + start) * scale, HEIGHT, TRIM)
    np.testing.assert_array_equal(after.status, before.status)
    np.testing.assert_allclose(after.gain * scale, before.gain, rtol=1e-4)
    np.testing.assert_allclose(
        after.offset + before.gain * start, before.offset, rtol=1e-4, atol=0.05 * abs(start) / 10
    )
    np.testing.assert_allclose(after.fit_std, before.fit_std, rtol=1e-4)
    np.testing.assert_array_equal(after.level, before.level)


@settings(max_examples=30)
@given(data=st.data(), n=st.integers(40, 150), spread=st.sampled_from([1, 40, 400, 32767]))
def test_any_values_give_a_status(data, n, spread):
    random = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    n_levels = data.draw(st.integers(1, 5))
    levels = random.integers(-32768, 32767, (n_levels, 30))
    values = levels[np.arange(n) * n_levels // n] + random.integers(-spread, spread + 1, (n, 30))
    digital = np.clip(values, -32768, 32767).astype(np.int16)
    analog = np.clip(values[::-1] + np.arange(n)[:, None] * 7, -32768, 32767).astype(np.int16)
    fit = fit_scan(analog, digital, np.arange(n) * 1.5, HEIGHT, TRIM)
    assert np.isin(fit.status, list(scan_fit.CODES)).all()
    is_good = fit.status == scan_fit.FITTED
    assert (fit.gain[:, is_good] > 0).all()
    assert np.isfinite(np.concatenate(fit[:5])[:, is_good]).all()
    np.testing.assert_array_equal(np.isnan(fit.gain), np.isnan(fit.fit_std))


def test_pixels_do_not_depend_on_their_neighbours():
    analog, digital, truth = scan(700, 10, spikes=0.02)
    together = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    some = np.random.default_rng(1).permutation(700)[:333]
    alone = fit_scan(analog[:, some], digital[:, some], truth.time, HEIGHT, TRIM)
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a[..., some], b)


POINTS = 260


@functools.cache
def module_scan():
    """Scan of a cell (n, 128, 512): 2048 pixels, again and again."""
    analog, digital, truth = scan(2048, 11, n_points=POINTS, spikes=0.01, dead=0.05)
    return [np.tile(values.reshape(POINTS, 32, 64), (1, 4, 8)) for values in (analog, digital)], truth


def write_gathered(path, *, cells=2, absent=(1,), attributes=(), without=(), time=None, dtype="<i2", **storage):
    (analog, digital), truth = module_scan()
    with h5py.File(path, "w") as file:
        file.attrs.update({"module": MODULE, "kind": "current_source", "orientation": "lab", **dict(attributes)})
        for name, values in (("analog", analog), ("digital", digital)):
            if name in without:
                continue
            held = file.create_dataset(name, (POINTS, cells, 128, 512), dtype, **storage)
            for cell in set(range(cells)) - set(absent):
                held[:, cell] = np.roll(values, cell, axis=2)
        if "integrationTime" not in without:
            file["integrationTime"] = truth.time if time is None else time
        file["cellPresent"] = ~np.isin(np.arange(cells), absent)
    return path


def process(gathered, folder, threads=1, **options):
    """All datasets and attributes of both outputs."""
    outputs = folder / "gains.h5", folder / "means.h5"
    options = {"module": MODULE, "spike_height": HEIGHT, "trim": TRIM, **options}
    process_current_source(gathered, *outputs, {"rule": "process_current_source"}, threads=threads, **options)
    found = {}
    for path in outputs:
        with h5py.File(path) as file:
            file.visititems(
                lambda name, held: found.update({name: held[()]}) if isinstance(held, h5py.Dataset) else None
            )
            assert {name: file.attrs[name] for name in ("rule", "module", "orientation")} == {
                "rule": "process_current_source",
                "module": MODULE,
                "orientation": "lab",
            }
            if "fitStatus" in file:
                found["codes"] = json.loads(file["fitStatus"].attrs["codes"])
    return found


TILES = (64, 64)
STORAGES = {
    "128 points": {"chunks": (128, 1, *TILES)},
    "100 points": {"chunks": (100, 1, *TILES)},
    "all points": {"chunks": (POINTS, 1, *TILES)},
    "one point": {"chunks": (1, 1, *TILES)},
    "rows": {"chunks": (POINTS, 1, 8, 512)},
    "compressed": {"chunks": (128, 1, *TILES), "compression": "gzip", "compression_opts": 1, "shuffle": True},
    "contiguous": {},
}


@pytest.fixture(scope="module")
def processed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processed")
    return process(write_gathered(folder / "gathered.h5", **STORAGES["128 points"]), folder)


def test_outputs_are_the_fits_of_the_pixels(processed):
    (analog, digital), truth = module_scan()
    fit = fit_scan(analog, digital, truth.time, HEIGHT, TRIM)
    for name, expected in (
        ("analogGains", fit.gain),
        ("anlogLineOffsets", fit.offset),
        ("analogFitStdDevs", fit.fit_std),
    ):
        assert processed[name].shape == (3, 2, 128, 512)
        assert processed[name].dtype == np.float32
        np.testing.assert_array_equal(processed[name][:, 0], expected)
        assert np.isnan(processed[name][:, 1]).all()
    np.testing.assert_array_equal(processed["fitStatus"][0], fit.status)
    assert (processed["fitStatus"][1] == scan_fit.NO_DATA).all()
    assert processed["codes"] == {str(code): text for code, text in scan_fit.CODES.items()}
    for name, expected in (
        ("digitalMeans", fit.level),
        ("digitalStdDeviations", fit.level_std),
        ("digitalSpacingsSafetyFactors", current_source.safety_factors(fit.level, fit.level_std)),
    ):
        assert processed[name].shape == (2, len(expected), 128, 512)
        assert processed[name].dtype == np.float32
        np.testing.assert_array_equal(processed[name][0], expected)
        assert np.isnan(processed[name][1]).all()
    assert processed["digitalThresholds"].dtype == np.uint16
    np.testing.assert_array_equal(processed["digitalThresholds"][:, 0], current_source.digital_thresholds(fit.level))
    assert (processed["digitalThresholds"][:, 1] == 65535).all()


def test_samples_show_good_and_failed_pixels(processed):
    (analog, digital), truth = module_scan()
    row, column = processed["samples/row"].astype(int), processed["samples/column"].astype(int)
    status = processed["fitStatus"][0][row, column]
    # The scan is too short for low gain.
    assert (status[:8] == scan_fit.NO_LOW).all()
    assert (status[8:] > scan_fit.NO_SWITCH).all()
    assert 9 <= len(status) <= 12
    np.testing.assert_array_equal(processed["samples/analog"], analog[:, row, column].T)
    np.testing.assert_array_equal(processed["samples/digital"], digital[:, row, column].T)
    np.testing.assert_array_equal(processed["samples/integrationTime"], truth.time)
    assert (processed["samples/cell"] == 0).all()
    stage = processed["samples/stage"]
    for k in range(len(row)):
        for gain_stage in range(3):
            used = stage[k] == gain_stage
            expected = processed["analogGains"][gain_stage, 0, row[k], column[k]]
            assert used.any() == np.isfinite(expected)
            if used.any():
                slope = np.polyfit(truth.time[used], analog[used, row[k], column[k]], 1)[0]
                assert slope == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", STORAGES)
def test_storage_and_threads_do_not_matter(processed, tmp_path, name):
    found = process(write_gathered(tmp_path / "gathered.h5", **STORAGES[name]), tmp_path, threads=1 + len(name) % 3)
    assert found.keys() == processed.keys()
    for key, values in processed.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)


def test_a_very_long_scan_is_read_in_lower_tiles(processed, tmp_path, monkeypatch):
    monkeypatch.setattr(current_source, "LARGEST_TILE", 1_000_000)
    monkeypatch.setattr(current_source, "MOST_BUFFERED", 1)
    found = process(write_gathered(tmp_path / "gathered.h5", **STORAGES["100 points"]), tmp_path, threads=2)
    for key, values in processed.items():
        np.testing.assert_array_equal(found[key], values, err_msg=key)


def test_without_any_cell_the_outputs_are_empty(tmp_path):
    found = process(write_gathered(tmp_path / "gathered.h5", absent=(0, 1), **STORAGES["128 points"]), tmp_path)
    assert np.isnan(found["analogGains"]).all()
    assert (found["fitStatus"] == scan_fit.NO_DATA).all()
    assert found["samples/analog"].shape == (0, POINTS)


AXIS = scan_reference.scan_axis(POINTS)
FAULTS = {
    "module": ({"attributes": {"module": 4}}, "module is 4; expected 3"),
    "kind": ({"attributes": {"kind": "dark"}}, "kind is .?dark.?; expected .?current_source"),
    "orientation": ({"attributes": {"orientation": "xfel"}}, "orientation is .?xfel.?; expected .?lab"),
    "dtype": ({"dtype": ">i2"}, "analog is >i2; expected <i2"),
    "no digital": ({"without": ["digital"]}, "digital is missing"),
    "no axis": ({"without": ["integrationTime"]}, "integrationTime is missing"),
    "short axis": ({"time": AXIS[:-1]}, r"integrationTime is \(259,\); expected \(260,\)"),
    "axis falls": ({"time": np.where(AXIS == 50, 40, AXIS)}, "must increase, but 49 is followed by 40"),
    "axis infinite": ({"time": np.where(AXIS == 50, np.nan, AXIS)}, "not finite at 1 points"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_gathered_file_that_is_not_right_is_refused(tmp_path, name):
    options, expected = FAULTS[name]
    path = write_gathered(tmp_path / "gathered.h5", absent=(0, 1), **STORAGES["128 points"], **options)
    with pytest.raises(ValueError, match=expected) as error:
        process(path, tmp_path)
    assert str(path) in str(error.value)
    assert "again" in str(error.value)
    assert not list(tmp_path.glob("gains*"))


def test_a_file_that_is_cut_off_is_an_error(tmp_path):
    path = write_gathered(tmp_path / "gathered.h5", **STORAGES["128 points"])
    source = current_source._open_sources(path)
    with source as sources:
        sources[1].offset[1, 0, 1, 3] = path.stat().st_size - 100
        with pytest.raises(ValueError, match="cut off"):
            list(current_source._fit_cells(sources, np.array([0]), scan_fit.prepare_scan(AXIS, HEIGHT, TRIM), 2))


@pytest.mark.parametrize(("height", "trim"), [(0, 0.1), (300, 0.5), (300, -0.1), (40000, 0.1)])
def test_parameters_out_of_range_are_refused(height, trim):
    with pytest.raises(ValueError, match="calibration.spike_height"):
        scan_fit.prepare_scan(AXIS, height, trim)
