"""When a run's files are complete, and what to do with each run."""

import pytest

from pulsetrain import arrivals
from pulsetrain.run_kinds import DetectorFiles, detector_files, run_of, run_targets

MODULES = [0, 5]
AGIPD = DetectorFiles("AGIPD", "proc", MODULES)
EPIX = DetectorFiles("EPIX", "raw", [1, 2])


def put(data_root, name, size=100, run="0050", stream="proc"):
    path = data_root / stream / f"r{run}" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)


def put_run(data_root, sequences=2):
    for module in MODULES:
        for sequence in range(sequences):
            put(data_root, f"CORR-R0050-AGIPD{module:02d}-S{sequence:05d}.h5")


def missing(data_root):
    return arrivals.what_is_missing(arrivals.run_files(data_root, "0050", "proc"), [AGIPD])


def test_complete_run(tmp_path):
    put_run(tmp_path)
    assert missing(tmp_path) == ""


def test_modules_that_are_not_in_use_do_not_matter(tmp_path):
    put_run(tmp_path)
    put(tmp_path, "CORR-R0050-AGIPD07-S00009.h5")
    assert missing(tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CORR-R0050-AGIPD05-S00001.h5", "1 of 4 detector files, such as AGIPD05 S00001 (modules 05)"),
        ("CORR-R0050-AGIPD00-S00000.h5", "1 of 4 detector files, such as AGIPD00 S00000 (modules 00)"),
    ],
)
def test_missing_file_is_named(tmp_path, name, message):
    put_run(tmp_path)
    (tmp_path / "proc" / "r0050" / name).unlink()
    assert missing(tmp_path) == message


def test_gap_in_all_modules_and_empty_file(tmp_path):
    put_run(tmp_path, sequences=1)
    for module in MODULES:
        put(tmp_path, f"CORR-R0050-AGIPD{module:02d}-S00002.h5")
    assert missing(tmp_path).startswith("2 of 6 detector files, such as AGIPD00 S00001")
    put_run(tmp_path, sequences=3)
    put(tmp_path, "CORR-R0050-AGIPD05-S00002.h5", size=0)
    assert missing(tmp_path) == "contents of proc/r0050/CORR-R0050-AGIPD05-S00002.h5 (0 bytes)"


def test_no_directory(tmp_path):
    assert missing(tmp_path) == "no AGIPD files in proc"


def test_raw_detector_files_of_a_corrected_run_are_not_waited_for(tmp_path):
    put_run(tmp_path)
    before = arrivals.run_files(tmp_path, "0050", "proc")
    put(tmp_path, "RAW-R0050-AGIPD00-S00000.h5", stream="raw")
    assert arrivals.run_files(tmp_path, "0050", "proc") == before
    put(tmp_path, "RAW-R0050-DA01-S00000.h5", stream="raw")
    assert arrivals.run_files(tmp_path, "0050", "proc") != before


def test_what_to_do_with_each_run():
    def seen(signature, missing=""):
        return {"signature": signature, "missing": missing, "bytes": 1}

    now = {run: seen("now") for run in ("new", "growing", "ready", "done", "partial", "failed", "changed")}
    now |= {"missing": seen("now", "AGIPD05")}
    before = {run: seen("now") for run in now if run != "new"} | {"growing": seen("before")}
    known = {run: {"signature": "now", "status": run} for run in ("done", "partial", "failed")}
    known["changed"] = {"signature": "before", "status": "failed"}
    verdicts = {run: what for run, (what, _) in arrivals.sort_runs(before, now, known).items()}
    assert verdicts == {
        "new": "wait",
        "growing": "wait",
        "ready": "start",
        "done": "done",
        "partial": "done",
        "failed": "failed",
        "changed": "start",
        "missing": "wait",
    }


def test_other_detector_of_the_run_is_waited_for(tmp_path):
    put_run(tmp_path, sequences=2)
    both = [AGIPD, EPIX]
    assert arrivals.what_is_missing(arrivals.run_files(tmp_path, "0050", "proc"), both) == "no EPIX files in raw"
    put(tmp_path, "RAW-R0050-EPIX01-S00000.h5", stream="raw")
    message = "1 of 2 detector files, such as EPIX02 S00000 (modules 02)"
    assert arrivals.what_is_missing(arrivals.run_files(tmp_path, "0050", "proc"), both) == message
    put(tmp_path, "RAW-R0050-EPIX02-S00000.h5", stream="raw")
    assert arrivals.what_is_missing(arrivals.run_files(tmp_path, "0050", "proc"), both) == ""


def test_kind_says_what_a_run_needs_and_gives():
    runs = {
        run: {"kind": kind, "stream": stream}
        for run, kind, stream in (("0050", "hits", "proc"), ("0110", "mid", "raw"), ("0235", "dssc", "raw"))
    }
    scans = {"delay": {"runs": None}, "energy": {"runs": [236]}}
    config = {"detector": {"modules": [5, 0]}, "mid": {"epix": [2, 1]}, "dssc": {"modules": [3], "scans": scans}}
    assert detector_files("0050", runs, config) == [AGIPD]
    assert detector_files("0110", runs, config) == [DetectorFiles("AGIPD", "raw", MODULES), EPIX]
    assert detector_files("0235", runs, config) == [DetectorFiles("DSSC", "raw", [3])]
    assert run_targets("0050", runs, config) == ["r0050_hits.cxi"]
    assert run_targets("0110", runs, config) == ["report/mid_r0110.html"]
    assert run_targets("0235", runs, config) == ["report/dssc_r0235_by-delay.html"]


@pytest.mark.parametrize(
    ("wildcards", "run"),
    [({"run": "0050"}, "0050"), ({"name": "r0235", "scan": "delay"}, "0235"), ({"name": "both"}, None), ({}, None)],
)
def test_run_of_a_job(wildcards, run):
    assert run_of(wildcards) == run
