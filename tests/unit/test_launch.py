"""Locks and leftovers of calls that were killed."""

import json
import os
import subprocess
import sys
import time

import pytest

from pulsetrain import launch

OTHER_HOST = {"host": "another-login-node", "pid": 1, "user": 0, "started": 1, "since": "yesterday"}


def dead_process():
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    return launch.this_process() | {"pid": child.pid, "started": 1}


@pytest.fixture
def locked(tmp_path):
    """A scratch directory with a lock, and a function that notes whose it is."""
    (tmp_path / ".snakemake" / "locks").mkdir(parents=True)
    (tmp_path / ".snakemake" / "locks" / "0.output.lock").write_text("a.h5\n")

    def note(call):
        (tmp_path / launch.CALLS).write_text(json.dumps([call | {"slurm_run": None}]))

    return tmp_path, note


def locks(scratch):
    return list((scratch / ".snakemake" / "locks").iterdir())


def test_lock_of_a_dead_call_is_removed(locked):
    scratch, note = locked
    note(dead_process())
    told = []
    launch.clear_the_way(scratch, tell=told.append)
    assert not locks(scratch)
    assert "the lock of a killed snakemake was removed" in told[0]


@pytest.mark.parametrize("owner", ["another host", "another user", "none", "older"])
def test_lock_of_an_unknown_call_stays_unless_asked(locked, owner):
    scratch, note = locked
    if owner != "none":
        users = {"user": os.getuid() + 1} if owner == "another user" else {}
        note(OTHER_HOST if owner == "another host" else dead_process() | users)
    if owner == "older":
        os.utime(scratch / launch.CALLS, (1e9, 1e9))
    with pytest.raises(launch.InUseError, match="UNLOCK=yes"):
        launch.clear_the_way(scratch)
    assert locks(scratch)
    launch.clear_the_way(scratch, unlock=True)
    assert not locks(scratch)


def test_lock_of_a_living_call_stays(locked):
    scratch, note = locked
    note(launch.this_process())
    with pytest.raises(launch.InUseError, match="which still works"):
        launch.clear_the_way(scratch)
    assert locks(scratch)


def test_process_id_that_was_given_again_is_not_taken_for_the_old_process():
    me = launch.this_process()
    assert launch.is_alive(me)
    assert launch.is_alive(me | {"started": me["started"] - 1}) is False
    assert launch.is_alive(OTHER_HOST) is None


def start_job(scratch, seconds):
    script = scratch / ".snakemake" / "scripts" / "tmp.count_litpixels.py"
    script.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(f"import time; time.sleep({seconds})")
    return subprocess.Popen([sys.executable, str(script)], cwd=scratch)


def test_jobs_of_a_killed_call_are_waited_for_or_cancelled(tmp_path):
    for seconds, cancel in ((2, False), (60, True)):
        with start_job(tmp_path, seconds) as job:
            time.sleep(0.3)
            told = []
            start = time.monotonic()
            # As a killed call's: nobody waits for it, so that init collects it.
            launch.clear_the_way(tmp_path, cancel=cancel, tell=told.append)
            assert time.monotonic() - start < 20
            assert any(f"processes {job.pid}" in text for text in told)
            assert job.wait() == (-15 if cancel else 0)


def test_living_snakemake_is_not_disturbed(tmp_path):
    command = [sys.executable, "-c", "import time; time.sleep(60)", "snakemake"]
    with subprocess.Popen(command, cwd=tmp_path) as call:
        time.sleep(0.3)
        try:
            with pytest.raises(launch.InUseError, match=rf"snakemake works in .* \(process {call.pid}\)"):
                launch.clear_the_way(tmp_path, wait=False)
        finally:
            call.terminate()


def test_slurm_jobs_are_found_by_the_name_of_their_call(tmp_path, monkeypatch):
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text('#!/bin/sh\necho "$@" > $0.arguments\necho "71|RUNNING|rule_count_litpixels_wildcards_0050_07"\n')
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    assert launch.slurm_jobs(tmp_path) == {}
    (tmp_path / ".snakemake").mkdir()
    launch.record_call(tmp_path, "a-name")
    assert launch.slurm_jobs(tmp_path) == {"71": "RUNNING rule_count_litpixels_wildcards_0050_07"}
    assert "--me --noheader --name=a-name" in (squeue.parent / "squeue.arguments").read_text()
    squeue.write_text("#!/bin/sh\necho down >&2\nexit 1\n")
    with pytest.raises(launch.InUseError, match="squeue failed .down."):
        launch.slurm_jobs(tmp_path)


def test_one_watcher_at_a_time(tmp_path):
    with (
        launch.watch_lock(tmp_path),
        pytest.raises(launch.InUseError, match=rf"process {os.getpid()} on .*, since 20"),
        launch.watch_lock(tmp_path),
    ):
        pass
    assert not (tmp_path / launch.WATCH_LOCK).exists()


@pytest.mark.parametrize("owner", ["dead", "silent"])
def test_stale_lock_of_a_watcher_is_taken_over_with_a_message(tmp_path, owner):
    path = tmp_path / launch.WATCH_LOCK
    path.write_text(json.dumps(dead_process() if owner == "dead" else OTHER_HOST))
    if owner == "silent":
        with pytest.raises(launch.InUseError), launch.watch_lock(tmp_path):
            pass
        os.utime(path, (1e9, 1e9))
    told = []
    with launch.watch_lock(tmp_path, told.append) as beat:
        beat()
        assert "is taken over" in told[0]
        path.write_text(json.dumps(OTHER_HOST))
        with pytest.raises(launch.InUseError, match="not this watcher's any more"):
            beat()
    assert path.exists(), "the lock of the other one stays"
