"""DSSC runs through snakemake: against the truth, reruns, several runs, messages."""

import shutil

import h5py
import numpy as np
import pytest
import xarray as xr
import yaml
from conftest import REPOSITORY, planned, snakemake

from pulsetrain import simulate_dssc, simulate_dssc_files
from pulsetrain.run_status import read_summary

pytestmark = pytest.mark.workflow

DELAY = {"source": simulate_dssc_files.DELAY, "step": simulate_dssc.STEP_PS}
PATTERN = list(simulate_dssc.PATTERN)
MODULES = [2, 9]


def write_config(place, rows=("235,dssc,raw",), simulate=True, **section):
    (place / "runs.csv").write_text("run,kind,stream\n" + "\n".join(rows) + "\n")
    config = {
        "data_root": str(place / "data"),
        "scratch": str(place / "scratch"),
        "runs": str(place / "runs.csv"),
        "simulate": {"profile": "tiny", "sequences": 1} if simulate else None,
        "dssc": {
            "modules": MODULES,
            "scans": {"delay": {"variable": DELAY, "frame_pattern": PATTERN}},
            **section,
        },
    }
    (place / "config.yaml").write_text(yaml.safe_dump(config))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A simulated run that was binned by a delay scan."""
    place = tmp_path_factory.mktemp("dssc")
    write_config(place)
    snakemake(place)
    return place


@pytest.fixture
def own(finished, tmp_path):
    """A copy, dates kept, to be changed."""
    place = tmp_path / "own"
    shutil.copytree(finished, place, copy_function=shutil.copy2)
    write_config(place)
    return place


def change(place, **scan):
    """Change the scan; return the jobs that a dry run plans."""
    write_config(place, scans={"delay": {"variable": DELAY, "frame_pattern": PATTERN} | scan})
    return planned(snakemake(place, "-n", "report/dssc_r0235_by-delay.html").stdout)


def test_means_are_those_of_the_truth(finished):
    with (
        xr.open_dataset(finished / "scratch/dssc/r0235_by-delay.h5", group="data", engine="h5netcdf") as data,
        h5py.File(finished / "data/truth/dssc_r0235.h5") as truth,
    ):
        np.testing.assert_array_equal(data["scan_variable"], truth["dssc/bin_values"])
        labels = truth["dssc/frame_label"].asstr()[()].tolist()
        assert labels == PATTERN
        for i, name in enumerate(labels):
            mean = data[name].values.mean(axis=(2, 3))
            np.testing.assert_allclose(mean, truth["dssc/mean_true"][:, i][:, MODULES], rtol=1e-9)
            for m in range(len(MODULES)):
                np.testing.assert_array_equal(data[f"sum_count_{name}"][:, m], truth["dssc/n_frames_true"][:, i])
        n_used = int(truth["dssc/n_frames_true"][()].sum())
    row = read_summary(finished / "scratch")["0235"]
    settings = simulate_dssc.settings("tiny", modules=MODULES, sequences=1)
    assert int(row["frames_used"]) == n_used
    assert int(row["frames_left_out"]) == settings["trains"] * settings["cells"] - n_used
    page = (finished / "scratch/report/dssc_r0235_by-delay.html").read_text()
    assert page.count("data:image/png;base64") == 6


def test_a_second_run_does_nothing(own):
    assert "Nothing to be done" in snakemake(own, "-n").stdout


def test_a_changed_value_reruns_what_depends_on_it(own):
    all_of_it = {"select_dssc": 1, "bin_dssc": 2, "join_dssc": 1, "plot_dssc": 1, "report_dssc": 1}
    assert change(own) == {}
    assert change(own, xgm_limits=[60, 100]) == all_of_it
    assert change(own, max_frames=5) == all_of_it
    assert change(own, runs=[235]) == {}
    geometry = own / "geometry.h5"
    geometry.write_bytes(b"another geometry")
    write_config(own, geometry={"file": str(geometry)})
    plan = planned(snakemake(own, "-n", "report/dssc_r0235_by-delay.html").stdout)
    assert plan == {"plot_dssc": 1, "report_dssc": 1}


def test_real_files_with_mask_and_two_runs_that_are_merged(own):
    """The simulated files as if they were the facility's; the second run is the first one's copy in other files."""
    settings = simulate_dssc.settings("tiny", modules=MODULES, sequences=1)
    for path in (own / "data").rglob("*.h5"):
        with h5py.File(path, "r+") as file:
            if "rule" in file.attrs:
                del file.attrs["rule"]
    files = simulate_dssc_files.run_files(own / "data", settings, 236)
    for module, paths in files["modules"].items():
        for path in paths:
            simulate_dssc_files.write_module_file(path, settings, 236, module, int(path[-8:-3]))
    simulate_dssc_files.write_control_file(files["control"][0], settings, 236)
    simulate_dssc_files.write_scan_files(files["scan"], files["mask"], settings, 236)
    mask = str(own / "data/dssc/r{run}_mask.h5")
    write_config(
        own,
        ("235,dssc,raw", "236,dssc,raw"),
        simulate=False,
        scans={"all": {"frame_mask": mask, "frame_pattern": PATTERN}},
        merge={"night": [235, 236]},
    )
    snakemake(own, "dssc/night_by-all.h5")
    truths = [simulate_dssc.truth(settings, run) for run in (235, 236)]
    with xr.open_dataset(own / "scratch/dssc/night_by-all.h5", group="data", engine="h5netcdf") as data:
        kept = [truth["mask"] & truth["in_mask"][:, None] for truth in truths]
        for i, name in enumerate(PATTERN):
            assert data[f"sum_count_{name}"].values.tolist() == [[sum(int(mask[:, i::4].sum()) for mask in kept)] * 2]
        assert data["run"].values.tolist() == [235, 236]


@pytest.mark.parametrize(
    ("rows", "target", "message"),
    [
        (("235,dssc,proc",), "dssc/r0235_by-delay.h5", "run 0235 of kind dssc has stream proc"),
        (("235,hits,proc",), "dssc/r0235_by-delay.h5", "run 0235 is of kind hits in the run table"),
        (("235,dssc,raw",), "dssc/r0235_by-energy.h5", "there is no dssc.scans.energy in the configuration; known are"),
        (("235,dssc,raw",), "dssc/r0235_m03_by-delay.h5", "module 03 is not in dssc.modules"),
        (("235,dssc,raw",), "dssc/r0235_by-delay.h5", r"holds no files like \*-DSSC00-S00000.h5|does not exist"),
    ],
)
def test_mistakes_are_told(tmp_path, rows, target, message):
    import re

    (tmp_path / "data").mkdir()
    write_config(tmp_path, rows, simulate=False)
    done = snakemake(tmp_path, "-n", target, check=False)
    assert done.returncode
    assert re.search(message, done.stdout), done.stdout[-2000:]


def test_demo_can_be_planned(tmp_path):
    config = yaml.safe_load((REPOSITORY / "config" / "demo_dssc.yaml").read_text())
    config |= {"data_root": str(tmp_path / "data"), "scratch": str(tmp_path / "scratch")}
    config["dssc"]["scans"]["delay"]["frame_mask"] = str(tmp_path / "data/dssc/r{run}_mask.h5")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert planned(snakemake(tmp_path, "-n").stdout)["join_dssc"] == 6
