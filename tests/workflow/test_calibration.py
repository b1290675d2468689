"""Constants made from dark, current-source and X-ray data, and raw runs that use them, from one command."""

import json
import re
import shutil
from pathlib import Path

import chain
import h5py
import numpy as np
import pytest
import yaml
from conftest import planned, snakemake, write_config
from test_report import CHECK, browse

from pulsetrain import simulate, simulate_detector
from pulsetrain.detector import lab_from_xfel

RUN = 60
MODULES = [2, 3, 8]  # both wings; 2 has a bad ASIC
SIMULATE = {"profile": "tiny", "trains": 64, "cells": 4, "hit_rate": 0.2}
XFEL = {
    "dark": 900,
    "current_source": 901,
    "xray": 902,
    "xray_cell": 1,
    "scan_axis": "config/scan_axis_short.txt",
}
LOW_NOISE = {"intervals": {"darkStandardDeviation": [2, 25]}}  # the simulated noise is 10, of noisy pixels 41 ADU
NOT_IN_BAD = 0x40  # a pixel that lacks a gain stage in the scan


def settings_of_run():
    """As the workflow makes them of `SIMULATE`."""
    return simulate.settings("tiny", modules=MODULES, **{k: v for k, v in SIMULATE.items() if k != "profile"})


def truth_of(place, calibration, module):
    with h5py.File(place / "data" / "truth" / f"calibration_{calibration}_m{module:02d}.h5") as file:
        return {name: held[()] for name, held in file["cal"].items()}


def read(path, *names):
    with h5py.File(path) as file:
        return [file[name][()] for name in names]


def config_of(place, **changes):
    given = {
        "simulate": SIMULATE,
        "detector": {"modules": MODULES},
        "calibrations": {"may24": XFEL},
        "calibration": {"mask": LOW_NOISE},
    }
    write_config(place, **{"rows": (f"{RUN},spheroids,raw,may24",), **given, **changes})


@pytest.fixture(scope="module")
def raw_run(tmp_path_factory):
    """A raw run with its own constants, and the same run corrected by the facility."""
    place = tmp_path_factory.mktemp("raw")
    config_of(place)
    truths = [f"{place}/data/truth/calibration_may24_m{module:02d}.h5" for module in MODULES]
    snakemake(place, f"r{RUN:04d}_hits.cxi", *[f"../data/truth/{Path(path).name}" for path in truths])
    corrected = tmp_path_factory.mktemp("proc")
    config_of(corrected, rows=(f"{RUN},spheroids,proc,",), calibrations={})
    snakemake(corrected, f"r{RUN:04d}_hits.cxi")
    yield place, corrected
    shutil.rmtree(place)
    shutil.rmtree(corrected)


def relative_errors(constants, truth, stage, photons, energy_kev):
    """Error of the energy of a signal of so many photons in a gain stage, relative, per cell and pixel."""
    gains, offsets = read(constants, "analogGains_keV", "darkOffsets")
    analog = truth["offsets"][stage] + photons * truth["gains_adu_per_photon"][stage]
    return (analog - offsets[stage]) * gains[stage] / (photons * energy_kev) - 1


@pytest.mark.parametrize(("stage", "photons"), [(0, 20), (1, 1000), (2, 4000)])
def test_energies_are_right_in_all_gain_stages(raw_run, stage, photons):
    place, _ = raw_run
    energy_kev = settings_of_run()["photon_energy_kev"]
    for module in MODULES:
        truth = truth_of(place, "may24", module)
        error = relative_errors(
            place / f"scratch/calibration/may24/constants_m{module:02d}.h5", truth, stage, photons, energy_kev
        )
        good = truth["bad"] == 0
        assert np.isfinite(error[good]).mean() > 0.999
        of_good = error[good & np.isfinite(error)]
        assert abs(np.median(of_good)) < 0.003
        assert np.mean(np.abs(of_good) < 0.02) > 0.95


def test_thresholds_lie_in_the_middle(raw_run):
    place, _ = raw_run
    for module in MODULES:
        truth = truth_of(place, "may24", module)
        (found,) = read(place / f"scratch/calibration/may24/constants_m{module:02d}.h5", "digitalThresholds")
        error = (found - truth["thresholds"][:, None])[:, truth["bad"] == 0]
        assert abs(error.mean()) < 3
        assert np.mean(np.abs(error) < 10) > 0.999


def test_bad_cells_are_masked_and_good_ones_are_not(raw_run):
    place, _ = raw_run
    settings = settings_of_run()
    for module in MODULES:
        (bad,) = read(place / f"scratch/calibration/may24/mask_m{module:02d}.h5", "badCellMask")
        dead, noisy, good = [], [], []
        for cell in range(settings["cells"]):
            bits = lab_from_xfel(simulate_detector.bad_bits(settings, module, cell), module)
            dead.append(bits & simulate_detector.FACILITY_DEAD > 0)
            noisy.append(bits & simulate_detector.FACILITY_NOISE > 0)
            good.append(bits == 0)
        assert bad[np.array(dead)].all()
        assert bad[np.array(noisy)].mean() > 0.99
        assert bad[np.array(good)].mean() < 0.002


def test_raw_photons_with_own_constants(raw_run):
    place, _ = raw_run
    scratch = place / "scratch"
    settings = settings_of_run()
    paths = {
        "vds": scratch / f"vds/r{RUN:04d}_vds_raw.h5",
        "masks": {module: scratch / f"masks/r{RUN:04d}_m{module:02d}.h5" for module in MODULES},
        "constants": {module: scratch / f"calibration/may24/constants_m{module:02d}.h5" for module in MODULES},
    }
    true, counted, good = chain.photons_of_all_frames(settings, RUN, paths, common_mode=True)
    high_gain = good & (true <= simulate_detector.SWITCH_PHOTONS[0])
    lit, dark = high_gain & (true > 0), high_gain & (true == 0)
    assert lit.sum() > 20_000
    assert np.mean(counted[lit] == true[lit]) > 0.995
    assert np.mean(counted[dark] > 0) < 5e-4
    assert abs(counted[lit].sum(dtype=float) / true[lit].sum(dtype=float) - 1) < 0.005


def test_hits_equal_those_of_the_corrected_stream(raw_run):
    raw, corrected = ({*hit_ids(place)} for place in raw_run)
    assert len(corrected) > 40
    assert len(raw ^ corrected) <= 0.01 * len(corrected)


def hit_ids(place):
    train, pulse, is_hit = read(place / f"scratch/events/r{RUN:04d}_events.h5", "trainId", "pulseId", "is_hit")
    return zip(train[is_hit].tolist(), pulse[is_hit].tolist(), strict=True)


def test_a_second_call_does_nothing(raw_run):
    place, _ = raw_run
    config_of(place)
    assert planned(snakemake(place, "-n", f"r{RUN:04d}_hits.cxi").stdout) == {}


def test_an_interval_reruns_the_mask_and_what_follows_not_the_processing(raw_run):
    place, _ = raw_run
    config_of(place, calibration={"mask": {"intervals": {"darkStandardDeviation": [2, 24]}}})
    rules = planned(snakemake(place, "-n", f"r{RUN:04d}_hits.cxi").stdout)
    config_of(place)
    assert {"make_bad_cell_mask", "plot_calibration", "report_calibration", "make_run_mask", "write_cxi"} <= set(rules)
    assert not {name for name in rules if re.match("simulate|gather|process|combine|propose|summarize", name)}
    assert rules["make_bad_cell_mask"] == len(MODULES)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"spike_height": 250}, {"process_current_source"}),
        ({"baseline_shift": True}, {"count_litpixels"}),
    ],
    ids=str,
)
def test_other_keys_rerun_only_their_users(raw_run, change, expected):
    place, _ = raw_run
    config_of(place, calibration={"mask": LOW_NOISE, **change})
    rules = planned(snakemake(place, "-n", f"r{RUN:04d}_hits.cxi").stdout)
    config_of(place)
    assert expected <= set(rules)
    assert not {name for name in rules if re.match("simulate|gather|process_dark|process_xray|check_run", name)}


@pytest.mark.parametrize("width", [1200, 420])
def test_the_page_of_the_calibration_shows_every_picture(raw_run, tmp_path, width):
    place, _ = raw_run
    text = (place / "scratch/report/calibration_may24.html").read_text()
    assert "http" not in re.sub(r'src="data:[^"]*"', "", text), "the page needs nothing from elsewhere"
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", CHECK))
    shown = browse(page, "--dump-dom", f"--window-size={width},900")
    assert f"<title>images {8 + 3 * len(MODULES)} broken 0 wide false</title>" in shown


def test_intervals_are_proposed(raw_run):
    place, _ = raw_run
    page = (place / "scratch/report/calibration_may24.html").read_text()
    intervals = yaml.safe_load((place / "scratch/calibration/may24/proposed_intervals.yaml").read_text())
    text = json.dumps(intervals)
    assert "darkStandardDeviation" in text
    assert "proposed" in page.lower()


def test_given_constants_of_another_module_stop_the_run(raw_run, tmp_path):
    place, _ = raw_run
    source = place / "scratch/calibration/may24"
    (tmp_path / "constants").mkdir()
    for module in MODULES:
        for kind in ("constants", "mask"):
            shutil.copy(source / f"{kind}_m{module:02d}.h5", tmp_path / "constants")
    wrong = tmp_path / "constants" / "constants_m03.h5"
    shutil.copy(source / "constants_m02.h5", wrong)
    with h5py.File(wrong, "r+") as file:  # so that only the run's own dark level can tell
        file.attrs["module"] = 3
    (tmp_path / "data").symlink_to(place / "data")
    config_of(
        tmp_path,
        simulate=None,
        calibrations={"given": {"constants": str(tmp_path / "constants")}},
        rows=(f"{RUN},,raw,given",),
    )
    done = snakemake(tmp_path, f"r{RUN:04d}_hits.cxi", check=False)
    assert done.returncode != 0
    assert "constants_m03.h5" in done.stdout
    assert "constants_m02.h5" not in done.stdout.split("check_constants")[-1]
    assert not (tmp_path / "scratch/litpixels").exists() or not list((tmp_path / "scratch/litpixels").glob("*.h5"))


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory):
    """Constants of one module from the laboratory's files: four scans of every fourth column."""
    place = tmp_path_factory.mktemp("laboratory")
    lab = place / "data" / "lab"
    entry = {
        **XFEL,
        "layout": "nxs",
        "modules": [8],
        "dark": f"{lab}/M314_m{{module}}_dark_part*.nxs",
        "current_source": [f"{lab}/M314_m{{module}}_col{columns}_part*.nxs" for columns in (15, 26, 37, 48)],
        "xray": f"{lab}/M314_m{{module}}_xray.nxs",
    }
    config_of(place, simulate=SIMULATE | {"cells": 2}, calibrations={"lab": entry}, rows=("60,,proc,",))
    snakemake(
        place,
        "calibration/lab/constants_m08.h5",
        "../data/truth/calibration_lab_m08.h5",
        "equalized/lab_current_source_m08.h5",
        "calibration/lab/mask_m08.h5",
    )
    yield place
    shutil.rmtree(place)


@pytest.mark.parametrize(("stage", "photons"), [(0, 20), (1, 1000), (2, 4000)])
def test_the_laboratory_layout_gives_the_right_energies_too(laboratory, stage, photons):
    truth = truth_of(laboratory, "lab", 8)
    constants = laboratory / "scratch/calibration/lab/constants_m08.h5"
    error = relative_errors(constants, truth, stage, photons, settings_of_run()["photon_energy_kev"])
    of_good = error[truth["bad"] == 0]
    assert np.isfinite(of_good).mean() > 0.999
    of_good = of_good[np.isfinite(of_good)]
    assert abs(np.median(of_good)) < 0.003
    assert np.mean(np.abs(of_good) < 0.02) > 0.95


def test_an_equalized_scan_rises_in_proportion_to_the_current(laboratory):
    truth = truth_of(laboratory, "lab", 8)
    energy_kev = settings_of_run()["photon_energy_kev"]
    equalized = laboratory / "scratch/equalized/lab_current_source_m08.h5"
    energy, stage, time = read(equalized, "analogCorrected", "digitalGainStage", "integrationTime")
    assert energy.shape == stage.shape == (len(time), 2, 128, 512)
    (bad,) = read(laboratory / "scratch/calibration/lab/mask_m08.h5", "badCellMask")
    assert not energy[:, bad].any()
    assert (stage[:, bad] == -1).all()
    photons = time[:, None, None] * truth["current"]
    for number, (least, most) in enumerate(((10, 45), (200, 2300), (2800, 6000))):
        chosen = (stage == number) & ((photons > least) & (photons < most))[:, None]
        ratio = energy[chosen] / np.broadcast_to(photons[:, None] * energy_kev, energy.shape)[chosen]
        assert len(ratio) > 100_000
        assert abs(np.median(ratio) - 1) < 0.02
