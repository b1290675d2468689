"""Plan, watch, process, and the summary at the end: what a beamtime needs besides the rules."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from base64 import urlsafe_b64encode

import pytest
import yaml
from conftest import REPOSITORY, planned, snakemake, write_config, write_run

from pulsetrain import launch
from pulsetrain.run_status import read_summary

COMMANDS = REPOSITORY / "scripts" / "commands"

MODULES = [5]
HITS = {"min_score": 0, "min_spread": 0, "threshold_sigma": 1.25}
ROWS = ("50,,proc,", "51,,proc,", "52,,proc,")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three runs up to their events: 50 whole, 51 unreadable, 52 with an empty file; and what snakemake said."""
    place = tmp_path_factory.mktemp("night")
    for run in (50, 51, 52):
        write_run(place / "data", run=run, modules=MODULES, trains=6, cells=4, hit_rate=0.3)
    for name in ("r0051/CORR-R0051-AGIPD05-S00000.h5", "r0051/CORR-R0051-AGIPD05-S00001.h5"):
        (place / "data" / "proc" / name).write_bytes(b"")
    (place / "data" / "proc" / "r0052" / "CORR-R0052-AGIPD05-S00001.h5").write_bytes(b"")
    write_config(
        place, rows=ROWS, detector={"modules": MODULES}, integrity={"min_modules": 1, "max_lost": 0.9}, hits=HITS
    )
    done = snakemake(place, *(f"r{run:04d}_events.h5" for run in (50, 51, 52)), check=False)
    return place, done


def test_summary_tells_what_became_of_each_run(night):
    place, done = night
    assert done.returncode != 0
    rows = read_summary(place / "scratch")
    assert {run: row["status"] for run, row in rows.items()} == {"0050": "done", "0051": "failed", "0052": "partial"}
    assert (rows["0050"]["frames_used"], rows["0052"]["frames_used"]) == ("24", "12")
    assert (rows["0051"]["rule"], rows["0051"]["log"]) == ("accept_run", "logs/accept_run/r0051.log")
    assert "the file has 0 bytes" in rows["0051"]["why"]
    assert "3 runs: 1 done, 1 partial, 1 failed" in done.stdout
    assert "whole log: logs/accept_run/r0051.log" in done.stdout
    assert (place / "scratch" / "summary.txt").read_text().startswith("3 runs: 1 done, 1 partial, 1 failed")


def command(place, name, *arguments):
    words = [sys.executable, str(COMMANDS / f"{name}.py"), *arguments, "--configfile", str(place / "config.yaml")]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def test_plan_tells_what_is_stale_why_and_what_it_costs(night):
    place, _ = night
    targets = ["r0050_events.h5", "r0052_events.h5"]
    assert command(place, "plan", *targets)[1].splitlines()[-1].startswith("nothing is stale")
    config = yaml.safe_load((place / "config.yaml").read_text())
    changed = config | {"hits": config["hits"] | {"threshold_sigma": 5.5}}
    (place / "changed.yaml").write_text(yaml.safe_dump(changed))
    words = [sys.executable, str(COMMANDS / "plan.py"), *targets, "report/r0050.html"]
    words += ["--configfile", str(place / "changed.yaml")]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=place)
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert "2 x threshold_sigma is now 5.5, was 1.25" in lines["find_hits"]
    assert lines["find_hits"].split()[1] == "2"
    assert "unknown" in lines["write_cxi"], "it was never measured in this scratch directory"
    assert "unknown" not in lines["find_hits"]
    assert "1 x threshold_sigma is now 5.5, was 1.25" in lines["0052"]
    assert " jobs of 2 runs, 36 frames, 0 B of detector data to read" in done.stdout
    assert "jobs that were never measured here: " in lines["without"]
    # The scratch directory is as before: it was a plan.
    assert command(place, "plan", *targets)[1].splitlines()[-1].startswith("nothing is stale")


def test_plan_counts_the_bytes_of_new_runs(night, tmp_path):
    place, _ = night
    config = yaml.safe_load((place / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config | {"scratch": str(tmp_path / "scratch")}))
    shutil.copytree(place / "scratch" / "benchmarks", tmp_path / "scratch" / "benchmarks")
    code, output = command(tmp_path, "plan", "r0050_events.h5")
    assert code == 0
    size = sum(path.stat().st_size for path in (place / "data" / "proc" / "r0050").iterdir())
    assert f"{size / 1e3:.0f} kB of detector data to read" in output
    assert "1 x not made yet" in output
    assert "unknown for 1 runs" in output


def test_plan_passes_on_what_snakemake_says_is_wrong(night):
    code, output = command(night[0], "plan", "r0099_hits.cxi")
    assert code == 1
    assert "run 0099 is not in the run table" in output


def start(place, name, *arguments):
    words = [sys.executable, str(COMMANDS / f"{name}.py"), *arguments, "--configfile", str(place / "config.yaml")]
    with (place / f"{name}.log").open("w") as file:
        return subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)


def wait_for(condition, what, seconds=90):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"waited {seconds} s for {what}"
        time.sleep(0.1)


def test_watch_processes_each_run_once_when_it_is_complete(tmp_path):
    """Runs are copied in step by step; one is broken and repaired later; one is added to the table meanwhile."""
    for run in (50, 51, 52):
        write_run(tmp_path / "stock", run=run, modules=[5, 8], trains=6, cells=4)
    write_config(tmp_path, rows=ROWS[:2], detector={"modules": [5, 8]}, integrity={"min_modules": 1})
    (tmp_path / "data").mkdir()
    scratch = tmp_path / "scratch"

    def bring(run, *names):
        for path in sorted((tmp_path / "stock").glob(f"*/r{run:04d}/*")):
            if not names or any(name in path.name for name in names):
                target = tmp_path / "data" / path.relative_to(tmp_path / "stock")
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)

    def status(run):
        path = scratch / "watch.json"
        return json.loads(path.read_text()).get(f"{run:04d}", {}).get("status") if path.is_file() else None

    def said():
        return (tmp_path / "watch.log").read_text()

    watching = start(tmp_path, "watch", "--settle", "0.5", "--target", "integrity/r{run}.accepted", "-c1")
    try:
        wait_for(lambda: "waiting for 0050, 0051" in said(), "the first look")
        code, output = command(tmp_path, "watch")
        assert code == 1
        assert f"another watcher looks after {scratch} already: process {watching.pid} on" in output
        bring(50, "AGIPD05-S00000", "AGIPD05-S00001", "AGIPD08-S00000", "DA01")
        wait_for(lambda: "run 0050: wait, missing: 1 of 4 detector files, such as AGIPD08 S00001" in said(), "0050")
        last = tmp_path / "data" / "proc" / "r0050" / "CORR-R0050-AGIPD08-S00001.h5"
        for size in range(1, 7):
            last.write_bytes(b"x" * size)
            time.sleep(0.3)
        assert not (scratch / "integrity").exists(), "files that grow are not processed"
        bring(50)
        wait_for(lambda: status(50) == "done", "run 0050")
        bring(51, "AGIPD08", "DA01", "LITFRM")
        for sequence in (0, 1):
            broken = tmp_path / "data" / "proc" / "r0051" / f"CORR-R0051-AGIPD05-S{sequence:05d}.h5"
            broken.write_bytes(b"no HDF5")
            shutil.copy(broken, broken.with_name(broken.name.replace("AGIPD05", "AGIPD08")))
        bring(52)
        with (tmp_path / "runs.csv").open("a") as file:
            file.write(ROWS[2] + "\n")
        wait_for(lambda: (status(51), status(52)) == ("failed", "done"), "run 0051, and 0052 that is new in the table")
        time.sleep(1.5)
        processed = " ".join(re.findall(r"processed: ([\d, ]+)", said()))
        assert sorted(re.findall(r"\d+", processed)) == ["0050", "0051", "0052"], "no run is processed twice"
        bring(51)
        wait_for(lambda: status(51) == "done", "run 0051 with its repaired files")
    finally:
        watching.send_signal(signal.SIGINT)
        assert watching.wait(30) == 130
    assert "watching ended" in said()
    assert "KeyboardInterrupt" not in said()
    assert not (scratch / launch.WATCH_LOCK).exists()


def test_run_that_cannot_be_planned_stops_no_other_that_is_complete_at_the_same_time(tmp_path):
    for run, stream in ((50, "proc"), (51, "raw")):
        write_run(tmp_path / "data", run=run, stream=stream, modules=MODULES, trains=6, cells=4)
    rows = (ROWS[0], "51,,raw,may24")
    write_config(tmp_path, rows=rows, detector={"modules": MODULES}, calibrations={"may24": {}})
    arguments = ["--settle", "0.2", "--until-done", "-c1"]
    # Run 51 has no such file, since its stream is raw: snakemake plans nothing of what it was asked for.
    code, output = command(tmp_path, "watch", *arguments, "--target", "vds/r{run}_vds_proc.h5")
    assert code == 0
    assert "ask for vds/r0051_vds_raw.h5" in output
    assert "now one by one" in output
    state = json.loads((tmp_path / "scratch" / "watch.json").read_text())
    assert {run: held["status"] for run, held in state.items()} == {"0050": "done", "0051": "failed"}


def forget(scratch, *names):
    """Take away snakemake's record of outputs, as if their jobs had outlived it."""
    for name in names:
        (scratch / ".snakemake" / "metadata" / urlsafe_b64encode(name.encode()).decode()).unlink()


def test_outputs_that_were_finished_unseen_are_accepted_if_they_are_as_planned_and_else_made_again(night, tmp_path):
    place = tmp_path / "night"
    shutil.copytree(night[0], place, copy_function=shutil.copy2)
    config = yaml.safe_load((place / "config.yaml").read_text())
    for key, name in (("data_root", "data"), ("scratch", "scratch"), ("runs", "runs.csv")):
        config[key] = str(place / name)
    config["hits"]["threshold_sigma"] = 5.5
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    scratch, counted, events = place / "scratch", "litpixels/r0050_m05.h5", "events/r0050_events.h5"
    forget(scratch, counted, events)
    code, output = command(place, "plan", events)
    assert "nothing is stale" in output, "without a record snakemake does not see the other threshold"
    # As a killed call leaves it: its lock, made before it noted itself.
    (scratch / ".snakemake" / "locks" / "0.output.lock").write_text(f"{counted}\n")
    gone = launch.this_process() | {"started": 1, "slurm_run": None}
    (scratch / launch.CALLS).write_text(json.dumps([gone]))
    code, output = command(place, "process", events, "-c1", "-n")
    assert code == 0, output
    assert f"what is planned; accepted: {counted}" in output
    assert f"to be made again: {events}" in output
    assert planned(output) == {"find_hits": 1}
    assert not (scratch / launch.UNCHECKED).exists()


def test_process_goes_on_after_snakemake_was_killed(tmp_path):
    write_run(tmp_path / "data", modules=MODULES, trains=12, cells=32)
    write_config(tmp_path, detector={"modules": MODULES})
    scratch = tmp_path / "scratch"
    words = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "-c1", "litpixels/r0050_m05.h5"]
    words += ["--configfile", str(tmp_path / "config.yaml")]
    killed = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    wait_for(lambda: (scratch / "logs" / "make_vds" / "r0050_proc.log").exists(), "a job that runs")
    code, output = command(tmp_path, "process", "litpixels/r0050_m05.h5", "-c1")
    assert code == 1
    assert f"snakemake works in {scratch} (process {killed.pid})" in output
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    code, output = command(tmp_path, "process", "litpixels/r0050_m05.h5", "-c1")
    assert code == 0, output
    assert f"the lock of a killed snakemake was removed (process {killed.pid}" in output
    assert (scratch / "litpixels" / "r0050_m05.h5").exists()
    assert not list(scratch.rglob("*.part"))
