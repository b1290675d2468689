"""What is told of each run at the end of a call."""

import json

import h5py
import numpy as np
import pytest

from pulsetrain import run_status


@pytest.fixture
def scratch(tmp_path):
    """A run of which 10 of 12 frames were kept, with 3 hits."""
    write_findings(tmp_path, seen=12, kept=10)
    write_events(tmp_path, "complete", "")
    return tmp_path


def write_findings(scratch, seen, kept, used=None):
    report = {
        "frames": {"seen": seen, "kept": kept},
        "modules": {"05": {"used": kept if used is None else used}},
        "reason": "" if seen == kept else f"{seen - kept} trains disagree",
        "findings": [],
    }
    (scratch / "integrity").mkdir(exist_ok=True)
    (scratch / "integrity" / "r0050.json").write_text(json.dumps(report))


def write_events(scratch, status, reason):
    (scratch / "events").mkdir(exist_ok=True)
    with h5py.File(scratch / "events" / "r0050_events.h5", "w") as file:
        file["is_hit"] = np.arange(10) < 3
        file.attrs.update({"n_hits": 3, "status": status, "reason": reason})


def write_selection(scratch, scan, reason, status="complete", why=""):
    (scratch / "dssc").mkdir(exist_ok=True)
    with h5py.File(scratch / "dssc" / f"r0050_frames_by-{scan}.h5", "w") as file:
        file["reason"] = np.array(reason, np.uint8)
        file["account/n_frames"] = np.unique(reason, return_counts=True)[1]
        file.attrs.update({"status": status, "reason": why})


def job(rule, state, of_run=True):
    return {"rule": rule, "about": "run 0050", "state": state, "log": [f"logs/{rule}/r0050.log"], "of_run": of_run}


def test_run_with_all_frames_is_done(scratch):
    write_findings(scratch, seen=10, kept=10)
    row = run_status.describe_run(scratch, "0050", "hits", [job("find_hits", "done")])
    assert (row["status"], row["hits"], row["frames_used"], row["frames_left_out"]) == ("done", 3, 10, 0)
    assert row["why"] == ""


def test_run_that_lost_frames_is_partial_and_says_why(scratch):
    row = run_status.describe_run(scratch, "0050", "hits", [job("find_hits", "done")])
    assert (row["status"], row["frames_left_out"]) == ("partial", 2)
    assert row["why"] == "10 of 12 frames kept: 2 trains disagree"


def test_module_without_frames_is_named(scratch):
    write_findings(scratch, seen=10, kept=10, used=4)
    row = run_status.describe_run(scratch, "0050", "hits", [job("find_hits", "done")])
    assert row["status"] == "partial"
    assert "module 05 without some of the frames" in row["why"]


def test_run_without_hits_says_which_key_sets_the_threshold(scratch):
    write_findings(scratch, seen=10, kept=10)
    write_events(scratch, "no hits", "hits.threshold_sigma sets it")
    row = run_status.describe_run(scratch, "0050", "hits", [job("find_hits", "done")])
    assert (row["status"], row["why"]) == ("partial", "no hits: hits.threshold_sigma sets it")


def test_failed_run_names_rule_log_and_error_without_the_traceback(scratch):
    log = scratch / "logs" / "write_cxi" / "r0050.log"
    log.parent.mkdir(parents=True)
    log.write_text("2026 INFO a\n2026 CRITICAL stopped by an error\nTraceback (most recent call last):\n  File x\n")
    with log.open("a") as file:
        file.write("ValueError: 3 of 4 modules are there\n  set detector.modules\n")
    row = run_status.describe_run(scratch, "0050", "hits", [job("write_cxi", "failed"), job("report", "waiting")])
    assert (row["status"], row["rule"], row["log"]) == ("failed", "write_cxi", "logs/write_cxi/r0050.log")
    assert "ValueError: 3 of 4 modules are there\n  set detector.modules" in row["why"]
    assert "Traceback" not in row["why"]


def test_killed_job_without_a_log_is_told(scratch):
    row = run_status.describe_run(scratch, "0050", "hits", [job("write_cxi", "failed")])
    assert "the job was killed before it wrote one" in row["why"]


def test_run_behind_a_failed_calibration_waits(scratch):
    jobs = [job("combine_constants", "failed", of_run=False), job("count_litpixels", "waiting")]
    row = run_status.describe_run(scratch, "0050", "hits", jobs)
    assert (row["status"], row["rule"]) == ("waiting", "combine_constants")
    assert row["why"].startswith("behind the failed combine_constants")


def test_long_errors_are_cut_in_the_middle(tmp_path):
    (tmp_path / "a.log").write_text(
        "Traceback\nKeyError: 1\n" + "".join(f"line {n}\n" for n in range(50)) + "Next: do\n"
    )
    lines = run_status.log_tail(tmp_path, ["a.log"]).splitlines()
    assert len(lines) == run_status.LINES_OF_LOG
    assert (lines[0], lines[-1]) == ("KeyError: 1", "Next: do")
    assert lines[-2] == "  ... 47 more lines"


def test_rows_of_earlier_calls_stay(scratch):
    first = run_status.describe_run(scratch, "0050", "hits", [job("find_hits", "done")])
    run_status.write_summary(scratch, [first])
    run_status.write_summary(scratch, [run_status.describe_run(scratch, "0051", "hits", [job("check_run", "failed")])])
    held = run_status.read_summary(scratch)
    assert [held[run]["status"] for run in ("0050", "0051")] == ["partial", "failed"]
    assert "2 runs: 1 partial, 1 failed" in (scratch / "summary.txt").read_text()


def test_exported_run_is_told_by_its_file(scratch):
    write_findings(scratch, seen=10, kept=10)
    (scratch / "mid").mkdir()
    with h5py.File(scratch / "mid" / "r0050.h5", "w") as file:
        file.attrs.update({"n_frames": 8, "status": "partial", "reason": "EPIX-1: no frame: 2"})
        file.attrs["n_frames_left_out"] = 2
    row = run_status.describe_run(scratch, "0050", "mid", [job("export_mid", "done")])
    assert (row["status"], row["hits"], row["frames_used"], row["frames_left_out"]) == ("partial", "", 8, 2)
    assert row["why"] == "partial: EPIX-1: no frame: 2"


def test_binned_run_is_told_by_its_selections(scratch):
    write_findings(scratch, seen=4, kept=4)
    write_selection(scratch, "delay", [0, 0, 3, 0])
    row = run_status.describe_run(scratch, "0050", "dssc", [job("bin_dssc", "done")], ["delay"])
    assert (row["status"], row["frames_used"], row["frames_left_out"], row["why"]) == ("done", 3, 1, "")


def test_binned_run_with_several_scans_is_told_by_the_one_that_uses_fewest_frames(scratch):
    """Files of scans that are no longer in the configuration do not count."""
    write_findings(scratch, seen=4, kept=4)
    write_selection(scratch, "old", [3, 3, 3, 3], "empty", "no frame is used")
    write_selection(scratch, "delay", [0, 0, 3, 3], "partial", "no gas monitor")
    write_selection(scratch, "energy", [0, 0, 0, 0])
    row = run_status.describe_run(scratch, "0050", "dssc", [job("bin_dssc", "done")], ["delay", "energy", "unmade"])
    assert (row["frames_used"], row["frames_left_out"]) == (2, 2)
    assert (row["status"], row["why"]) == ("partial", "scan delay: partial: no gas monitor")
