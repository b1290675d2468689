"""A MID run through snakemake: simulated, exported, pictured; what reruns what; messages for wrong settings."""

import os
import re
import shutil

import h5py
import numpy as np
import pytest
import yaml
from conftest import GEOMETRY, planned, snakemake

from pulsetrain import simulate, simulate_truth

TRAINS = 5


def write_config(place, kind="mid", stream="raw", calibration="", **changes):
    (place / "runs.csv").write_text(f"run,kind,stream,calibration\n110,{kind},{stream},{calibration}\n")
    config = {
        "data_root": str(place / "data"),
        "scratch": str(place / "scratch"),
        "runs": str(place / "runs.csv"),
        "simulate": {"profile": "tiny", "trains": TRAINS, "cells": 2, "hit_rate": 1.0, "bright_ring": True},
        "detector": {"name": "MID_DET_AGIPD1M-1", "modules": [0, 13], "geometry": str(GEOMETRY)},
        "mid": {"pulse_ids": [4], "calib": True, "dark": str(place / "data/dark.h5")},
        "integrity": {"max_lost": 0.5},
    }
    for name, value in changes.items():
        config[name] = (config.get(name) or {}) | value if isinstance(value, dict) else value
    (place / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    place = tmp_path_factory.mktemp("mid")
    write_config(place)
    snakemake(place)
    return place


def test_the_export_is_the_truth(exported):
    with h5py.File(exported / "data/truth/mid_r0110.h5") as truth, h5py.File(exported / "scratch/mid/r0110.h5") as file:
        np.testing.assert_array_equal(file["index/trainId"], truth["expected/trainId"])
        np.testing.assert_array_equal(file["index/dropped/trainId"], truth["dropped/trainId"])
        assert set(file["data/AGIPD/index/pulseId"][()]) == set(truth["expected/pulseId"][()])
        for number in (1, 2):
            images = file[f"data/EPIX-{number}/data"][()]
            np.testing.assert_array_equal(np.argmax(images.mean(axis=2), axis=1), truth[f"EPIX-{number}/line_row"])
        photons, mask = file["AGIPD_corrected/data"][()], file["AGIPD_corrected/mask"][()]
        settings = yaml.safe_load(truth.attrs["settings"])
    frames = np.arange(1, TRAINS) * 2 + 1
    for column, module in enumerate((0, 13)):
        true = simulate.module_photons(settings, 110, module, frames)
        high = mask[0, :, column]
        error = photons[0, :, column][high] - true[high]
        assert abs(np.median(error)) < 0.1
        assert np.percentile(np.abs(error), 99) < 0.6
    page = (exported / "scratch/report/mid_r0110.html").read_text()
    assert page.count("<img") == 7
    assert f"{TRAINS - 1} trains (originally {TRAINS + 1})" in page


def test_a_second_call_does_nothing(exported):
    assert "Nothing to be done" in snakemake(exported, "-n").stdout


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"mid": {"adu_per_photon": [70, 1.4]}}, {"export_mid", "plot_mid", "report_mid"}),
        ({"mid": {"pulse_ids": [0]}}, {"export_mid", "plot_mid", "report_mid", "simulate_mid_truth"}),
        ({"hits": {"threshold_sigma": 5}}, set()),
    ],
)
def test_a_changed_setting_reruns_what_depends_on_it(exported, change, expected):
    try:
        write_config(exported, **change)
        assert set(planned(snakemake(exported, "-n").stdout)) - {"all"} == expected
    finally:
        write_config(exported)


def test_settings_of_the_correction_do_not_matter_without_it(exported):
    def jobs(**mid):
        write_config(exported, mid={"calib": False} | mid)
        return snakemake(exported, "mid/r0110.h5", "-n").stdout

    try:
        assert planned(jobs()) == {"export_mid": 1}
        write_config(exported, mid={"calib": False})
        snakemake(exported, "mid/r0110.h5")
        assert "Nothing to be done" in jobs(adu_per_photon=[1, 2], baseline_rows=5, dark=None)
        with h5py.File(exported / "scratch/mid/r0110.h5") as file:
            assert "AGIPD_corrected" not in file
    finally:
        write_config(exported)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream": "proc"}, "mid.calib corrects raw data, but .* stream proc.*set stream: raw"),
        ({"kind": "hits", "stream": "proc"}, "run 0110 is of kind hits in the run table .*set kind: mid there"),
        ({"mid": {"dark": None}}, "run 0110: mid.calib needs constants; set mid.dark"),
        ({"mid": {"dark": "/elsewhere/dark.h5"}}, "mid.dark names /elsewhere/dark.h5, which is not under data_root"),
        ({"mid": {"epix": [1, 3]}}, r"mid.epix.1: 3 is not one of \[1, 2\]"),
        ({"mid": {"pulse_ids": []}}, "mid.pulse_ids: .*should be non-empty"),
    ],
)
def test_settings_that_cannot_be(exported, tmp_path, options, message):
    write_config(tmp_path, **options)
    done = snakemake(tmp_path, "mid/r0110.h5", "-n", check=False)
    assert done.returncode
    assert re.search(message, done.stdout), done.stdout


def test_real_files_own_constants_and_a_missing_camera(exported, tmp_path):
    """The same files as if they were real ones; constants of a calibration in place of the dark file."""
    shutil.copytree(exported / "data", tmp_path / "data", ignore=shutil.ignore_patterns("truth"))
    with h5py.File(exported / "data/truth/mid_r0110.h5") as truth:
        settings = yaml.safe_load(truth.attrs["settings"])
    for module in (0, 13):
        simulate_truth.write_constants(tmp_path / f"constants/constants_m{module:02d}.h5", settings, module)
        simulate_truth.write_bad_cell_mask(tmp_path / f"constants/mask_m{module:02d}.h5", settings, module)
    real = {"simulate": None, "calibrations": {"may24": {"constants": str(tmp_path / "constants")}}}
    real |= {"calibration": "may24", "detector": {"photon_energy_kev": 9.2}}
    write_config(tmp_path, mid={"dark": None}, **real)
    output = snakemake(tmp_path, "mid/r0110.h5").stdout
    assert {"check_constants", "make_vds", "export_mid"} < set(planned(output))
    with h5py.File(exported / "scratch/mid/r0110.h5") as one, h5py.File(tmp_path / "scratch/mid/r0110.h5") as two:
        np.testing.assert_array_equal(one["data/AGIPD/index/data"], two["data/AGIPD/index/data"])
        assert two["data/AGIPD_corrected"].attrs["source"] == "calibration"
    (tmp_path / "data/raw/r0110").rename(tmp_path / "data/raw/elsewhere")
    done = snakemake(tmp_path, "mid/r0110.h5", "-n", check=False)
    assert re.search(r"run 0110: the directory \S+/raw/r0110 does not exist", done.stdout), done.stdout
    (tmp_path / "data/raw/elsewhere").rename(tmp_path / "data/raw/r0110")
    for path in (tmp_path / "data/raw/r0110").glob("*EPIX02*"):
        path.unlink()
    done = snakemake(tmp_path, "mid/r0110.h5", "-n", check=False)
    assert "has no files of EPIX-2" in done.stdout
    assert "set mid.epix: [1]" in done.stdout
    write_config(tmp_path, mid={"dark": None, "epix": [1]}, **real)
    assert planned(snakemake(tmp_path, "mid/r0110.h5", "-n").stdout) == {"export_mid": 1}


def test_a_new_dark_file_of_the_same_name_and_size_runs_the_export_again(exported, tmp_path):
    """Whatever changed in it, and also if it is older than the export."""
    shutil.copytree(exported / "data", tmp_path / "data", ignore=shutil.ignore_patterns("truth"))
    write_config(tmp_path, simulate=None)
    snakemake(tmp_path, "mid/r0110.h5")
    dark = tmp_path / "data/dark.h5"
    held = dark.stat()
    assert "Nothing to be done" in snakemake(tmp_path, "mid/r0110.h5", "-n").stdout
    with h5py.File(dark, "r+") as file:
        file["AnalogOffset"][0, 0, 13, 100, 50] += 1
    assert dark.stat().st_size == held.st_size
    os.utime(dark, (held.st_atime, held.st_mtime - 1000))
    assert planned(snakemake(tmp_path, "mid/r0110.h5", "-n").stdout) == {"export_mid": 1}
