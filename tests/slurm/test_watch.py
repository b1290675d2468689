"""Watch mode on the cluster: runs arrive one after the other, and each is processed once."""

import contextlib
import json
import shutil
import signal
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

from pulsetrain import simulate, simulate_files
from slurm.cluster import wait_for
from slurm.cluster_runs import SMALL_RUN, full_checkout

MODULES = SMALL_RUN["detector"]["modules"]
GATE = "arrivals"
OPTIONS = ["--profile", "slurm", "--settle", "0.5", "--until-done", "--target", "integrity/r{run}.accepted"]
OPTIONS += ["--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2"]
OPTIONS += ["--default-resources", f"slurm_partition={GATE}", "mem_mb=1000", "runtime=10"]


def write_run(data, run):
    settings = simulate.settings("tiny", modules=MODULES, trains=3, cells=4)
    files = simulate_files.run_files(str(data), settings, run, "proc")
    for module, paths in files["modules"].items():
        for sequence, path in enumerate(sorted(paths)):
            simulate_files.write_module_file(path, settings, run, "proc", module, sequence)


def bring(checkout, run, leave_out=None):
    """Copy a run's files to where the beamline's come to lie."""
    arrived = checkout / "demo" / "data" / "proc" / f"r{run:04d}"
    arrived.mkdir(parents=True, exist_ok=True)
    for path in sorted((checkout.parent / "stock" / "proc" / f"r{run:04d}").iterdir()):
        if path.name != leave_out:
            shutil.copy2(path, arrived)


@contextlib.contextmanager
def watching(cluster, checkout):
    """`make watch` in a checkout; what it says is in watch.log."""
    command = [sys.executable, str(checkout / "scripts" / "commands" / "watch.py"), *OPTIONS]
    with (checkout.parent / "watch.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=checkout, env=cluster.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def test_watch_sends_each_run_to_slurm_once_as_it_arrives(cluster, tmp_path):
    checkout = full_checkout(tmp_path / "checkout", simulate=None)
    for run in (50, 51, 52):
        write_run(tmp_path / "stock", run)
    (checkout / "config" / "runs.csv").write_text("run\n50\n51\n52\n")
    last = "CORR-R0051-AGIPD15-S00000.h5"
    assert (tmp_path / "stock" / "proc" / "r0051" / last).is_file()

    def said():
        return (tmp_path / "watch.log").read_text()

    def calls():
        return SimpleNamespace(text=said())

    (checkout / "demo" / "data").mkdir(parents=True)
    cluster.close(GATE)
    try:
        with watching(cluster, checkout) as watcher:
            bring(checkout, 50)
            wait_for(lambda: cluster.running(calls()), 90, "a job of run 50 in the queue", said)
            # The next comes while this one waits in the queue, and is not whole.
            bring(checkout, 51, leave_out=last)
            cluster.open(GATE)
            wait_for(lambda: "run 0051: wait, missing" in said(), 90, "a look at the next", said)
            bring(checkout, 51)
            bring(checkout, 52)
            assert watcher.wait(120) == 0, said()
    finally:
        cluster.open(GATE)
    assert "all runs of the table were processed" in said()
    held = json.loads((checkout / "demo" / "scratch" / "watch.json").read_text())
    assert {run: row["status"] for run, row in held.items()} == {"0050": "done", "0051": "done", "0052": "done"}
    jobs = cluster.jobs_of(calls())
    assert {job["State"] for job in jobs} == {"COMPLETED"}
    assert Counter(job["Comment"] for job in jobs) == {f"rule_check_run_wildcards_{run}": 1 for run in held}
