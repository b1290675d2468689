"""Start snakemake where an earlier call may have left something: its lock, its jobs, or a watcher."""

import contextlib
import fcntl
import itertools
import json
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from pulsetrain.run_kinds import run_targets

CALLS = ".snakemake/calls.json"
CALLS_KEPT = 50
# Stands while outputs of a killed call's jobs still have to be compared with what is planned.
UNCHECKED = ".snakemake/unchecked"
WATCH_LOCK = ".watch.lock"
# A watcher on another computer gives a sign every few seconds; without one for so long it is taken for dead.
SILENT_S = 300
POLL_S = 5
# How snakemake's own jobs differ from the call that a user made.
JOB_MODE = re.compile(r"--mode[\s=\"']+(remote|subprocess)\b|--target-jobs\b")
DRY_RUN = ("-n", "--dry-run", "--dryrun")

log = logging.getLogger(__name__)


class InUseError(RuntimeError):
    """Something else works in the scratch directory; the message says who, since when, and what to do."""


def this_process():
    """Host, process id and what tells a process from a later one of the same id."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "user": os.getuid(),
        "started": process_start(os.getpid()),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def process_start(pid):
    """Start of a process in clock ticks since boot; None if there is no such process, or only its remains."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] == "Z" else int(fields[19])


def is_alive(process):
    """Say whether a process lives; None if nobody here can know: on another host, or another user's and not seen."""
    if process["host"] != socket.gethostname():
        return None
    if process["started"] is not None and process_start(process["pid"]) == process["started"]:
        return True
    # Some systems hide the processes of other users.
    return False if process["user"] == os.getuid() else None


# Calls of snakemake


def record_call(scratch, slurm_run=None):
    """Note a call of snakemake that holds the lock of the scratch directory.

    Parameters
    ----------
    scratch : str or Path
    slurm_run : str, optional
        Name that the Slurm jobs of this call have.
    """
    calls = [*read_calls(scratch), this_process() | {"slurm_run": slurm_run}]
    path = Path(scratch) / CALLS
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(json.dumps(calls[-CALLS_KEPT:], indent=1))
    part.replace(path)


def read_calls(scratch):
    """Last calls of snakemake in a scratch directory, the newest last."""
    path = Path(scratch) / CALLS
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return []


def local_processes(scratch):
    """Processes of snakemake on this host that work in a scratch directory.

    Parameters
    ----------
    scratch : str or Path

    Returns
    -------
    tuple of list of int
        Process ids of calls, and of jobs.
    """
    scratch = os.path.realpath(scratch)
    calls, jobs = [], []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if not any("snakemake" in word for word in words) or str((entry / "cwd").readlink()) != scratch:
                continue
        except OSError:
            # It ended meanwhile, or is another user's.
            continue
        if _is_job(words):
            jobs.append(int(entry.name))
        elif not set(words) & set(DRY_RUN):
            calls.append(int(entry.name))
    return sorted(calls), sorted(jobs)


def _is_job(words):
    # A job's command line may stand as one word in a shell's.
    text = " ".join(words)
    return JOB_MODE.search(text) is not None or ".snakemake/scripts/" in text


def slurm_jobs(scratch):
    """Jobs of earlier calls that Slurm still has.

    Returns
    -------
    dict
        {job id: "RUNNING rule_count_litpixels_wildcards_0050_07"}; empty without Slurm.
    """
    names = [call["slurm_run"] for call in read_calls(scratch) if call.get("slurm_run")]
    if not names or shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "--noheader", f"--name={','.join(names)}", "--format=%i|%T|%k"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise InUseError(
            f"squeue failed ({done.stderr.strip() or 'no message'}), so nobody knows whether jobs of an earlier call "
            "still run; start again when Slurm answers"
        )
    rows = [line.strip().split("|", 2) for line in done.stdout.splitlines() if line.count("|") >= 2]
    return {number: f"{state} {comment}" for number, state, comment in rows}


def clear_the_way(scratch, cancel=False, unlock=False, wait=True, tell=log.info):
    """Deal with what an earlier, killed call left: wait for its jobs or cancel them, then remove its lock.

    Parameters
    ----------
    scratch : str or Path
    cancel : bool
        Cancel jobs that still run instead of waiting for them.
    unlock : bool
        Remove the lock also where nobody knows whether its owner lives (another computer).
    wait : bool
        Wait for a call of snakemake that still works, instead of raising.
    tell : callable
        Takes a line of text.

    Raises
    ------
    InUseError
    """
    told = None
    while True:
        calls, jobs = local_processes(scratch)
        in_slurm = slurm_jobs(scratch)
        if calls:
            text = f"snakemake works in {scratch} (process {_listed(calls)})"
            if not wait:
                raise InUseError(f"{text}; wait until it ends, or end it with: kill -INT {calls[0]}")
        elif not jobs and not in_slurm:
            break
        else:
            where = [f"Slurm jobs {_listed(in_slurm)}"] if in_slurm else []
            where += [f"processes {_listed(jobs)}"] if jobs else []
            text = f"jobs of an earlier call still run: {', '.join(where)}"
            if cancel:
                tell(f"{text}; they are cancelled")
                _cancel(jobs, in_slurm)
        if text != told:
            tell(f"{text}; waiting until they end")
            told = text
        time.sleep(POLL_S if in_slurm else 1)
    remove_lock(scratch, unlock, tell)


def _cancel(processes, in_slurm):
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    if in_slurm:
        subprocess.run(["scancel", *in_slurm], check=True)


def _listed(names, most=4):
    names = list(map(str, names))
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def remove_lock(scratch, unlock, tell):
    """Remove snakemake's lock if the call that made it is dead; no call on this host may be alive."""
    locks = sorted((Path(scratch) / ".snakemake" / "locks").glob("*.lock"))
    if not locks:
        return
    owner = next(reversed(read_calls(scratch)), None)
    age = max(path.stat().st_mtime for path in locks)
    # The call is noted just after it locked: an older note is another call's.
    noted = (Path(scratch) / CALLS).stat().st_mtime if owner else 0
    is_known = owner is not None and noted >= age
    if not unlock and not (is_known and is_alive(owner) is False):
        who = f"process {owner['pid']} on {owner['host']}, since {owner['since']}" if is_known else "an unknown call"
        if is_known and is_alive(owner):
            raise InUseError(f"{scratch} is locked by snakemake ({who}), which still works; wait until it ends")
        raise InUseError(
            f"{scratch} is locked by snakemake ({who}), and nothing here tells whether it still works. If it does not: "
            "the same command with UNLOCK=yes (option --unlock)"
        )
    (Path(scratch) / UNCHECKED).touch()
    for path in locks:
        path.unlink(missing_ok=True)
    whose = f"process {owner['pid']}, since {owner['since']}" if is_known else "owner unknown, as asked"
    tell(f"the lock of a killed snakemake was removed ({whose})")


def check_outputs(basedir, scratch, runs, config, configfiles, tell=log.info):
    """After a killed call: accept outputs that its jobs finished unseen, or remove them (scripts/commands/accept.py).

    Parameters
    ----------
    basedir : str or Path
        The checkout.
    scratch : str or Path
    runs : dict
        Rows of the run table; runs of which no job ever started are left out.
    config : dict
        Complete configuration.
    configfiles : list of str
    tell : callable
        Takes a line of text.
    """
    mark = Path(scratch) / UNCHECKED
    if not mark.exists():
        return
    logs = " ".join(path.name for path in (Path(scratch) / "logs").glob("*/*.log"))
    held = [run for run, row in sorted(runs.items()) if f"r{run}" in logs or (row["calibration"] or "\0") in logs]
    targets = {run: run_targets(run, runs, config) for run in held}
    if held and not _accept(basedir, itertools.chain(*targets.values()), configfiles):
        # One run that cannot be planned must not keep the others from being checked.
        for run in held:
            if not _accept(basedir, targets[run], configfiles):
                tell(f"run {run} cannot be planned (see above); its outputs are not compared with the plan")
    mark.unlink()


def _accept(basedir, targets, configfiles):
    command = [sys.executable, str(Path(basedir) / "scripts" / "commands" / "accept.py")]
    command += targets
    command += ["--configfile", *configfiles] if configfiles else []
    return subprocess.run(command, cwd=basedir, check=False).returncode == 0


# One watcher


@contextlib.contextmanager
def watch_lock(scratch, tell=log.info):
    """Hold the lock of the one watcher of a scratch directory; gives a function that shows that it still lives.

    Parameters
    ----------
    scratch : str or Path
    tell : callable
        Takes a line of text.

    Raises
    ------
    InUseError
        If another watcher has it.
    """
    path = Path(scratch) / WATCH_LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    me = this_process()
    with _guard(path):
        held = _read_lock(path)
        if held:
            silent = time.time() - path.stat().st_mtime
            who = f"process {held['pid']} on {held['host']}, since {held['since']}"
            alive = is_alive(held)
            if alive or (alive is None and silent < SILENT_S):
                raise InUseError(f"another watcher looks after {scratch} already: {who}. Two would start runs twice")
            why = "it does not live any more" if alive is False else f"no sign of it for {silent / 60:.0f} minutes"
            tell(f"the lock of another watcher is taken over ({who}; {why})")
        path.write_text(json.dumps(me))
    try:
        yield lambda: _sign_of_life(path, me)
    finally:
        with _guard(path):
            if _read_lock(path) == me:
                path.unlink()


def _sign_of_life(path, me):
    if _read_lock(path) != me:
        raise InUseError(f"{path} is not this watcher's any more: another one took over, or somebody removed it")
    os.utime(path)


@contextlib.contextmanager
def _guard(path):
    """Keep others from reading and writing a lock between this process's reading and writing."""
    with path.with_name(f"{path.name}.guard").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _read_lock(path):
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def run_snakemake(basedir, arguments, beat=lambda: None):
    """Run snakemake to its end, with its output on this terminal.

    Ctrl-C reaches it too; it then cancels its jobs, and this waits for that.

    Parameters
    ----------
    basedir : str or Path
        The checkout.
    arguments : list of str
    beat : callable
        Called every few seconds.

    Returns
    -------
    int
        Its exit code.
    """
    child = subprocess.Popen(snakemake_command(basedir, arguments), cwd=basedir)
    try:
        while True:
            try:
                return child.wait(POLL_S)
            except subprocess.TimeoutExpired:
                beat()
    except BaseException as error:
        # In a terminal Ctrl-C went to both; a second signal would cut its cleaning up short.
        if not (isinstance(error, KeyboardInterrupt) and sys.stdin.isatty()):
            child.send_signal(signal.SIGINT)
        child.wait()
        raise


def snakemake_command(basedir, arguments):
    """Words of a call of snakemake on the workflow of a checkout."""
    return [sys.executable, "-m", "snakemake", "-s", str(Path(basedir) / "Snakefile"), *arguments]
