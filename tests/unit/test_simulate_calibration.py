"""Simulated calibration data: both layouts hold the same data, and the truth is what is in them."""

import functools
from pathlib import Path

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_data.validation import RunValidator

from pulsetrain import (
    scan_axis,
    simulate,
    simulate_calibration,
    simulate_calibration_response,
    simulate_detector,
    simulate_truth,
)
from pulsetrain.detector import lab_from_xfel
from pulsetrain.simulate_calibration_files import (
    NEXUS_DATA,
    write_calibration_module,
    write_calibration_truth,
    write_nexus_part,
)

ROOT = Path(__file__).resolve().parents[2]
SHORT_AXIS = scan_axis.read_axis(ROOT / "config" / "scan_axis_short.txt")
NAMES = ("col15", "col26", "col37", "col48")
COMMON = {"xray_cell": 1, "photon_energy_kev": 8.04, "scan_axis": None}
ENTRIES = {
    "nxs": {
        **COMMON,
        "layout": "nxs",
        "dark": "lab/M314_m{module}_dark_part*.nxs",
        "current_source": [f"lab/M314_m{{module}}_drscs_{name}_part*.nxs" for name in NAMES],
        "xray": "lab/M314_m{module}_cu_part*.nxs",
    },
    "xfel": {**COMMON, "layout": "xfel", "dark": 900, "current_source": [901, 902, 903, 904], "xray": 905},
}
SETTINGS = simulate.settings("tiny", cells=3)
MODULE = 3
SIGMAS = 5  # of the estimates below; some thousand values are looked at


def make(layout, axis=SHORT_AXIS, settings=SETTINGS, **overrides):
    """Settings of calibration data with few bursts."""
    few = {"dark_bursts": 6, "xray_frames": 12, **overrides}
    return simulate_calibration.calibration_settings(
        settings, entry=ENTRIES[layout], integration_time=axis, **{"name": "lab", **few}
    )


def write_all(root, layout, calibration, kind, module=MODULE, settings=SETTINGS, group=None):
    """Write all files of one kind, or of one group of it; (path, description) of each."""
    write = write_nexus_part if layout == "nxs" else write_calibration_module
    files = simulate_calibration.calibration_files(root, settings, calibration, ENTRIES[layout], module, kind)
    files = [held for held in files if group in (None, held[1]["group"])]
    for path, description in files:
        write(path, settings, calibration, description)
    return files


def read_nexus(files):
    """Images (n, 128, 512) of all parts of one group."""
    images = []
    for path, _ in files:
        with h5py.File(path) as file:
            images.append(file[NEXUS_DATA][()])
    return np.concatenate(images)


def draw(kind, burst, cell, driven=None, module=MODULE, **overrides):
    """Images (n, 2, 128, 512) in laboratory orientation, without files, as float32."""
    description = {"kind": kind, "module": module, "driven": driven}
    images = simulate_calibration_response.calibration_images(
        SETTINGS, make("nxs", **overrides), description, burst, cell
    )
    return lab_from_xfel(images, module).astype(np.float32)


@functools.cache
def scan(driven=None):
    """The scan of cell 1 on the short axis, (points, 2, 128, 512)."""
    return draw("current_source", range(len(SHORT_AXIS)), [1] * len(SHORT_AXIS), driven)


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    path = tmp_path_factory.mktemp("truth") / "truth.h5"
    write_calibration_truth(path, SETTINGS, make("nxs"), MODULE)
    with h5py.File(path) as file:
        return {name: held[()] for name, held in file["cal"].items()}


def test_default_axis_is_the_documents():
    axis = scan_axis.default_axis()
    np.testing.assert_array_equal(axis, np.hstack([np.arange(3, 203), np.arange(203, 203 + 6000, 10)]))
    np.testing.assert_array_equal(scan_axis.default_axis(60), np.arange(3, 63))


def test_axis_from_a_file(tmp_path):
    np.save(tmp_path / "axis.npy", np.arange(50))
    (tmp_path / "axis.txt").write_text("# clocks\n\n" + "".join(f"{value} # point\n" for value in range(50)))
    for name in ("axis.npy", "axis.txt"):
        np.testing.assert_array_equal(scan_axis.read_axis(tmp_path / name), np.arange(50.0))


def test_short_axis_has_points_for_each_stage():
    assert scan_axis.check_axis(SHORT_AXIS, "config").size < 200
    stages = np.digitize(SHORT_AXIS, [92, 4170])
    assert np.all(np.bincount(stages) >= [30, 60, 59])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n2\n", "has 2 points; expected at least 40"),
        ("\n".join(map(str, [*range(50), 30])), "49 is followed by 30 .number 51."),
        ("\n".join(map(str, [*range(50), "nan"])), "not finite at 1 points, first at number 51"),
        ("one\n", "not a list of numbers"),
        ("1 2 3\n", "not a list of numbers"),
        (None, "does not exist"),
    ],
)
def test_bad_axis_is_refused_by_name(tmp_path, text, said):
    path = tmp_path / "axis.txt"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=rf"axis\.txt: .*{said}"):
        scan_axis.read_axis(path)


def test_every_problem_of_an_axis_is_told():
    with pytest.raises(ValueError, match=r"has 3 points.*not finite.*2 is followed by 1"):
        scan_axis.check_axis([2, 1, np.inf], "here")
    with pytest.raises(ValueError, match=r"shape \(2, 50\)"):
        scan_axis.check_axis(np.zeros((2, 50)), "here")


@pytest.mark.parametrize("module", [3, 12])
@pytest.mark.parametrize("kind", simulate_calibration.KINDS)
def test_both_layouts_hold_the_same_images(tmp_path, kind, module):
    axis = SHORT_AXIS[::4]
    settings = simulate.settings("tiny", cells=2, cell_order="shuffled")
    group = 1 if kind == "current_source" else 0
    nexus, runs = (
        write_all(tmp_path, layout, make(layout, axis, settings), kind, module, settings, group)
        for layout in ("nxs", "xfel")
    )
    run = RunDirectory(str(Path(runs[0][0]).parent))
    source = f"SPB_DET_AGIPD1M-1/DET/{module}CH0:xtdf"
    images = lab_from_xfel(run[source, "image.data"].ndarray(), module)
    cells = run[source, "image.cellId"].ndarray().ravel()
    expected = read_nexus(nexus).reshape(len(images), 2, 128, 512)
    if kind == "xray":
        assert np.all(cells == 1)
    else:
        assert sorted(cells[:2]) == [0, 1]
        expected = expected.reshape(-1, 2, 2, 128, 512)[:, cells[:2]].reshape(expected.shape)
    np.testing.assert_array_equal(images, expected)
    assert len(set(run[source, "image.trainId"].ndarray().ravel())) == len(images) // 2


def test_runs_pass_the_facilitys_validator(tmp_path):
    for kind in simulate_calibration.KINDS:
        files = write_all(tmp_path, "xfel", make("xfel", SHORT_AXIS[::4]), kind)
        for folder in {Path(path).parent for path, _ in files}:
            validator = RunValidator(str(folder))
            validator.run_checks()
            assert validator.problems == []


def test_a_file_made_alone_is_the_same_file(tmp_path):
    calibration = make("nxs", SHORT_AXIS[::4])
    for kind in simulate_calibration.KINDS:
        path, description = write_all(tmp_path, "nxs", calibration, kind)[-1]
        for name in ("_pixel_response", "_cell_constants", "_driven_current", "_dead"):
            getattr(simulate_calibration_response, name).cache_clear()
        write_nexus_part(tmp_path / "alone.nxs", SETTINGS, calibration, description)
        np.testing.assert_array_equal(read_nexus([(path, None)]), read_nexus([(tmp_path / "alone.nxs", None)]))


def test_parts_are_unequal_and_named_as_the_pattern_says():
    files = simulate_calibration.calibration_files("/data", SETTINGS, make("nxs"), ENTRIES["nxs"], 7, "current_source")
    assert [Path(path).name for path, _ in files[2:4]] == [
        "M314_m7_drscs_col26_part00000.nxs",
        "M314_m7_drscs_col26_part00001.nxs",
    ]
    assert [(held["group"], held["driven"], held["first"], held["count"]) for _, held in files[2:4]] == [
        (1, 1, 0, 112),
        (1, 1, 112, 56),
    ]
    runs = simulate_calibration.calibration_files("/data", SETTINGS, make("xfel"), ENTRIES["xfel"], 7, "xray")
    assert [path for path, _ in runs] == [f"/data/raw/r0905/RAW-R0905-AGIPD07-S0000{part}.h5" for part in (0, 1)]
    assert [(held["first"], held["count"]) for _, held in runs] == [(0, 9), (9, 3)]


def test_one_run_drives_all_columns():
    entry = {**ENTRIES["xfel"], "current_source": 901}
    files = simulate_calibration.calibration_files("/data", SETTINGS, make("xfel"), entry, 7, "current_source")
    assert [held["driven"] for _, held in files] == [None, None]


def test_driven_columns():
    groups = np.stack([simulate_calibration.driven_columns(group) for group in range(4)])
    assert np.all(groups.sum(axis=0) == 1)
    assert np.flatnonzero(groups[0][0])[:2].tolist() == [3, 7]  # FORMATS: 3-i::4 of the upper, i::4 of the lower half
    assert np.flatnonzero(groups[0][64])[:2].tolist() == [0, 4]
    assert np.flatnonzero(groups[2][63])[:2].tolist() == [1, 5]


def test_random_numbers_differ():
    first = draw("dark", [0, 1, 0], [0, 0, 1])
    pedestal = [lab_from_xfel(simulate_detector.constants(SETTINGS, MODULE, cell)[0][0], MODULE) for cell in (0, 0, 1)]
    noise = np.stack(
        [image[0] - offset for image, offset in zip(first, pedestal, strict=True)]
        + [draw("dark", [0], [0], name="other")[0, 0] - pedestal[0], draw("xray", [5], [0])[0, 0] - pedestal[0]]
    )
    noise = noise.reshape(len(noise), -1)
    noise = np.clip(noise - np.median(noise, axis=1, keepdims=True), -30, 30)
    correlation = np.corrcoef(noise) - np.eye(len(noise))
    # Pedestals are not integers, and bad pixels agree: some correlation remains; equal noise would give 1.
    assert np.abs(correlation).max() < 0.5


def test_dark_mean_and_noise(truth):
    n = 60
    analog, digital = draw("dark", range(n), [2] * n).swapaxes(0, 1)
    good = truth["bad"][2] == 0
    sigma = np.sqrt(8**2 + 6**2 + 2**2)  # noise, common mode of the ASIC and of the module
    error = (analog.mean(axis=0) - truth["offsets"][0, 2])[good]
    assert np.abs(error).max() < SIGMAS * sigma / np.sqrt(n)
    assert abs(error.mean()) < 4 * np.sqrt(8**2 / good.sum() + 6**2 / 16 + 2**2) / np.sqrt(n)
    assert abs(np.sqrt(analog.var(axis=0, ddof=1)[good].mean()) / sigma - 1) < 0.05
    assert np.abs(digital.mean(axis=0) - truth["digital"][0]).max() < SIGMAS * 15 / np.sqrt(n)
    hot = truth["bad"][2] == simulate_detector.FACILITY_OFFSET
    assert abs((analog.mean(axis=0) - truth["offsets"][0, 2])[hot].mean()) < 3 * sigma / np.sqrt(n)
    dead = (truth["bad"][2] & simulate_detector.FACILITY_DEAD) > 0
    assert dead.sum() == 131
    assert np.all(analog[:, dead] == simulate_detector.DEAD_ADU)


def stages_of(images, truth):
    """Stage of each sample by the digital value, (points, 128, 512)."""
    return (images[:, 1] > truth["thresholds"][0]).astype(int) + (images[:, 1] > truth["thresholds"][1])


def test_scan_lines_are_the_truth(truth):
    """Slope and offset of each stage from the middle of its range, on 300 good pixels, by a plain line fit."""
    images = scan()
    stage = stages_of(images, truth)
    good = np.argwhere(truth["bad"][1] == 0)
    pulls, relative = [[], [], []], [[], [], []]
    for row, column in good[:: len(good) // 300]:
        analog, at = images[:, 0, row, column], stage[:, row, column]
        for each in range(3):
            clocks = SHORT_AXIS[at == each]
            low, high = np.quantile(clocks, [0.2, 0.9])
            used = (at == each) & (low < SHORT_AXIS) & (high > SHORT_AXIS)
            slope, offset = truth["analogGains"][each, 1, row, column], truth["offsets"][each, 1, row, column]
            used[used] = np.abs(analog[used] - offset - slope * SHORT_AXIS[used]) < 100  # no spikes
            x = SHORT_AXIS[used]
            found = np.polyfit(x - x.mean(), analog[used], 1)
            pulls[each].append((found[0] - slope) / (np.sqrt(104) / np.sqrt(((x - x.mean()) ** 2).sum())))
            relative[each].append((found[1] - offset - slope * x.mean()) / (np.sqrt(104) / np.sqrt(len(x))))
    for each in range(3):
        for values in (pulls[each], relative[each]):
            assert np.abs(values).max() < SIGMAS
            # 300 pixels of 16 ASICs share the common mode: 6 of the 10.2 ADU.
            assert abs(np.mean(values)) < 4 * np.sqrt((64 / 300 + 36 / 16 + 4) / 104)
            assert 0.7 < np.std(values) < 1.2


def test_digital_levels_and_faults_of_a_scan(truth):
    images = scan()
    stage = stages_of(images, truth)
    good = truth["bad"][1] == 0
    level = np.take_along_axis(truth["digital"], stage, axis=0)
    off_level = np.abs(images[1:, 1] - level[1:])[:, good] > 100
    assert 0.003 * 0.8 < off_level.mean() < 0.003 * 1.2 + 0.004  # spikes, and up to 0.6 of 168 samples between levels
    assert abs(np.median((images[:, 1] - level)[1:][:, good])) < 0.5
    between = (images[1:, 1] > truth["digital"][0] + 200) & (images[1:, 1] < truth["digital"][1] - 200)
    assert 0.1 < between.sum(axis=0)[good].mean() < 0.5  # mid level in 0.3 x (1200 - 400) / 1200 of the pixels
    first = np.abs(images[0, 0] - truth["offsets"][0, 1] - 3 * truth["analogGains"][0, 1])[good]
    assert np.median(first) > 500


def test_analog_spikes(truth):
    images = scan()
    good = truth["bad"][1] == 0
    at = SHORT_AXIS > 6000  # all in low gain
    residual = images[at, 0] - truth["offsets"][2, 1] - SHORT_AXIS[at, None, None] * truth["analogGains"][2, 1]
    spiked = np.abs(residual[:, good]) > 300
    assert abs(spiked.mean() / 0.003 - 1) < 0.05
    heights = np.abs(residual[:, good][spiked])
    assert heights.min() > 300
    assert 2300 < heights.max() < 2560
    wide = (spiked[1:] & spiked[:-1]).sum() / spiked.sum()
    assert abs(wide - 1 / 3) < 0.05  # half of the spikes have two samples
    quiet = draw("current_source", [160], [1], spikes=0.0)[0, 0]
    line = truth["offsets"][2, 1] + SHORT_AXIS[160] * truth["analogGains"][2, 1]
    assert np.abs(quiet - line)[good].max() < 80


def test_switching_points(truth):
    stage = stages_of(scan(), truth)
    good = truth["bad"][1] == 0
    photons = SHORT_AXIS[:, None, None] * truth["current"]
    for each, expected in enumerate(simulate_detector.SWITCH_PHOTONS):
        last = np.where(stage[1:] <= each, photons[1:], 0).max(axis=0)[good]
        assert abs(np.median(last) / expected - 1) < 0.03
        relative = 1.4826 * np.median(np.abs(last - np.median(last))) / expected
        assert 0.03 < relative < 0.06  # 3 % of the level, 3 % of the gain, and the width of a step


@pytest.mark.parametrize(("stage", "length"), [(1, 60), (2, 30)])
def test_settling_after_a_switch(truth, monkeypatch, stage, length):
    monkeypatch.setattr(simulate_detector, "BASELINE_ADU", 0.0)
    monkeypatch.setattr(simulate_detector, "COMMON_MODE_ADU", 0.0)
    points = np.flatnonzero((SHORT_AXIS > 80) & (SHORT_AXIS < 1300) if stage == 1 else SHORT_AXIS > 3800)
    images = draw("current_source", points, [1] * len(points))
    photons = SHORT_AXIS[points, None, None] * truth["current"]
    switch_adu = simulate_calibration_response.pixel_response(SETTINGS, MODULE).switch_adu[stage - 1].reshape(512, 128)
    since = photons - lab_from_xfel(switch_adu, MODULE) / truth["gains_adu_per_photon"][0, 1]
    residual = images[:, 0] - truth["offsets"][stage, 1] - photons * truth["gains_adu_per_photon"][stage, 1]
    good = (stages_of(images, truth) == stage) & (truth["bad"][1] == 0)
    for low, high in ((15, 25), (40, 60), (8 * length, 12 * length)):  # before 12 photons some are between levels
        used = good & (since > low) & (since < high)
        expected = -10 * np.exp(-since[used] / length)
        assert used.sum() > 1000
        assert abs(np.median(residual[used] - expected)) < 5 * 1.25 * 8 / np.sqrt(used.sum()) + 0.05


def test_pixels_that_lack_a_stage(truth):
    stage = stages_of(scan(), truth)
    medium, low = simulate_calibration.NEVER_MEDIUM, simulate_calibration.NEVER_LOW
    assert np.bincount(stage[1:, medium[0], medium[1]], minlength=3)[1:].sum() < 3  # spikes
    assert np.bincount(stage[1:, low[0], low[1]], minlength=3)[2] < 3
    assert np.bincount(stage[1:, low[0], low[1]])[1] > 50
    assert truth["bad"][0][medium] & 0x40
    assert truth["bad"][2][low] & 0x40


def test_columns_that_are_not_driven_respond_weakly(truth):
    part = slice(1, 30)  # below 60 clocks, high gain
    for group in (1, 2):
        slopes = np.polyfit(SHORT_AXIS[part], scan(group)[part, 0].reshape(29, -1), 1)[0].reshape(128, 512)
        good = truth["bad"][1] == 0
        ratio = slopes / np.where(good, truth["analogGains"][0, 1], np.nan)
        driven = simulate_calibration.driven_columns(group)
        assert abs(np.median(ratio[driven & good]) - 1) < 0.02
        assert abs(np.median(ratio[~driven & good]) - 0.15) < 0.02
        assert ratio[~driven & good].max() < 0.9
        assert np.quantile(ratio[driven & good], 0.1) > 0.9


@pytest.mark.parametrize("sharing", [0.0, 0.2])
def test_xray_spacing_and_charge_sharing(truth, sharing):
    n = 150
    frames = np.linspace(1, 2996, n).astype(int)
    images = draw("xray", frames, [1] * n, xray_frames=3000, charge_sharing=sharing)
    good = truth["bad"][1] == 0
    assert abs(truth["photon_spacing"][good].mean() - 68.8 * 8.04 / 9.2) < 0.1
    calibration = make("nxs", xray_frames=3000)
    drift = simulate_calibration_response.drift_adu(calibration, frames)
    charge = images[:, 0] - truth["offsets"][0, 1] - drift[:, None, None] * truth["drift_scale"]
    photons = (charge / truth["photon_spacing"])[:, good]
    # Common mode of 2 ADU per frame and 6 per ASIC on 60 ADU; sharing loses charge at the module's border only.
    assert (
        abs(photons.mean() - 0.3) < 4 * np.sqrt(0.3 / photons.size + (2**2 + 6**2 / 16) / 60**2 / n) + 0.002 * sharing
    )
    single = photons[(photons > 0.7) & (photons < 1.3)]
    assert abs(single.mean() - 1) < 0.02
    valley = ((photons > 0.45) & (photons < 0.55)).mean()
    # Without sharing 3 sigma of either peak reach the valley. A shared photon leaves two parts, flat from 0 to 1.
    extra = valley - (0.0042 if sharing == 0 else 0.0042 + 0.1 * 2 * sharing * 0.3 * np.exp(-0.3))
    assert abs(extra) < 0.0025
    assert np.abs(images[:, 1] - truth["digital"][0])[:, good].max() < 100  # always high gain


def test_xray_drift_is_smooth_and_its_first_frame_wrong(truth):
    calibration = make("nxs", xray_frames=3000)
    drift = simulate_calibration_response.drift_adu(calibration, np.arange(3000))
    assert 25 < np.ptp(drift) < 35
    assert np.abs(np.diff(drift)).max() < 0.1
    assert 0.08 < truth["drift_scale"].std() < 0.12
    assert not draw("xray", [0], [1]).any()


def test_the_truth_is_that_of_the_raw_runs(tmp_path, truth):
    simulate_truth.write_constants(tmp_path / "constants.h5", SETTINGS, MODULE)
    with h5py.File(tmp_path / "constants.h5") as file:
        np.testing.assert_allclose(truth["keV_per_adu"], file["analogGains_keV"], rtol=1e-6)
        assert np.abs(truth["thresholds"][:, None] - file["digitalThresholds"][()]).max() < 0.501  # rounded
        good = truth["bad"] == 0
        np.testing.assert_array_equal(truth["offsets"][:, good], file["darkOffsets"][()][:, good])
    alive = truth["current"] > 0
    gains = truth["analogGains"][..., alive]
    combined = 8.04 / truth["photon_spacing"][alive] * gains[0, 1] / gains
    np.testing.assert_allclose(combined, truth["keV_per_adu"][..., alive], rtol=1e-5)


def test_response_agrees_with_raw_runs(truth):
    """The same photons through the readout of raw runs: medians over the module agree in each stage."""
    pixels = simulate_calibration_response.pixel_response(SETTINGS, MODULE)
    for clocks in (40, 1500, 7000):
        point = int(np.searchsorted(SHORT_AXIS, clocks))
        photons = np.rint(pixels.current * SHORT_AXIS[point]).astype(np.uint16).reshape(1, 512, 128)
        raw = simulate_detector.raw_images(SETTINGS, 50, MODULE, [0], [1], photons)[0]
        found = draw("current_source", [point], [1])[0]
        difference = found - lab_from_xfel(raw, MODULE).astype(np.float32)
        assert abs(np.median(difference[0])) < 5 * 6 / 4  # common mode of 16 ASICs, twice
        assert abs(np.median(difference[1])) < 1


FAULTY = {
    "dark:missing_part": ("nxs", lambda files: [held["part"] for _, held in files] == [1]),
    "xray:odd_images": ("nxs", lambda files: len(read_nexus(files)) == 2 * 12 - 1),
    "dark:incomplete_burst": ("nxs", lambda files: len(read_nexus(files)) == 2 * (6 * 3 - 1)),
    "dark:wrong_module": ("nxs", lambda files: ["m3" in Path(path).name for path, _ in files] == [True, False]),
    "dark:wrong_shape": ("nxs", lambda files: read_nexus(files[1:]).shape[1:] == (128, 256)),
    "current_source:unequal_groups": (
        "nxs",
        lambda files: [len(read_nexus(files[part : part + 2])) / 6 for part in (0, 2, 4, 6)] == [42, 37, 42, 42],
    ),
}


@pytest.mark.parametrize("fault", FAULTY)
def test_faults_of_parts(tmp_path, fault):
    layout, is_there = FAULTY[fault]
    files = write_all(tmp_path, layout, make(layout, SHORT_AXIS[::4], faults=[fault]), fault.split(":")[0])
    assert is_there(files)


@pytest.mark.parametrize(
    ("fault", "counts", "shape"),
    [
        ("missing_part", [[3] * 2], (512, 128)),
        ("incomplete_burst", [[3] * 4, [3, 2]], (512, 128)),
        ("missing_train", [[3] * 4, [3]], (512, 128)),
        ("wrong_module", [[3] * 4, None], (512, 128)),
        ("wrong_shape", [[3] * 4, [3] * 2], (128, 512)),
    ],
)
def test_faults_of_runs(tmp_path, fault, counts, shape):
    files = write_all(tmp_path, "xfel", make("xfel", faults=[f"dark:{fault}"]), "dark")
    assert len(files) == len(counts)
    for (path, _), expected in zip(files, counts, strict=True):
        with h5py.File(path) as file:
            source = f"SPB_DET_AGIPD1M-1/DET/{MODULE + (expected is None)}CH0:xtdf/image"
            if expected is not None:
                assert file[f"INDEX/{source}/count"][()].tolist() == expected
                assert file[f"INSTRUMENT/{source}/data"].shape[0] == sum(expected)
    with h5py.File(files[-1][0]) as file:
        assert file[f"INSTRUMENT/{source}/data"].shape[2:] == shape


def test_unusable_settings_are_refused_by_name():
    for overrides, said in (
        ({"drak_bursts": 3}, "nearest: dark_bursts"),
        ({"faults": ["dark:missing"]}, "nearest: dark:missing_part"),
        ({"faults": ["dark:missing_train"]}, "for layout xfel only"),
        ({"faults": ["dark:unequal_groups"]}, "four column groups only"),
        ({"faults": ["xray:incomplete_burst"]}, "xray:odd_images"),
        ({"integration_time": [1, 2, 3]}, "has 3 points"),
        ({"entry": {**ENTRIES["nxs"], "xray_cell": 3}}, "xray_cell is 3, .* cells 0 to 2"),
        ({"entry": {**ENTRIES["nxs"], "layout": "h5"}}, "expected one of nxs, xfel"),
    ):
        given = {"name": "lab", "entry": ENTRIES["nxs"], **overrides}
        with pytest.raises(ValueError, match=said):
            simulate_calibration.calibration_settings(SETTINGS, **given)


def test_axis_of_the_entry():
    entry = {**ENTRIES["xfel"], "scan_axis": "config/scan_axis_short.txt"}
    chosen = simulate_calibration.calibration_settings(SETTINGS, name="lab", entry=entry)
    assert chosen["integration_time"] == SHORT_AXIS.tolist()
    assert chosen["xray_frames"] % SETTINGS["cells"] == 0
    default = simulate_calibration.calibration_settings(SETTINGS, name="lab", entry=ENTRIES["xfel"])
    assert len(default["integration_time"]) == 800
