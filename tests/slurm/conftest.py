"""One real Slurm for all tests of a session, and snakemake on it through the project's profile."""

import fcntl
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from slurm.cluster import Cluster, missing_programs, wait_for
from slurm.cluster_runs import Run

# Started in the background, this and all that it starts would ignore an interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="session")
def cluster(tmp_path_factory):
    """A running cluster, shared by all workers; the last of them to end stops it."""
    missing = missing_programs()
    if missing:
        message = f"Slurm is not installed ({', '.join(missing)} missing); envs/test_tools.sh installs it"
        if os.environ.get("CI"):
            raise RuntimeError(message)
        pytest.skip(message)
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    running = Cluster(_serve_once(shared))
    _wait_until_ready(running.root)
    yield running
    (running.root / "users" / str(os.getpid())).unlink()


def _serve_once(shared):
    """Directory of the session's cluster; the first worker to ask starts it."""
    with (shared / "slurm.lock").open("a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.seek(0)
        root = lock.read()
        if not root:
            # Not below pytest's directory: the paths of Unix sockets must be short.
            root = tempfile.mkdtemp(prefix="slurm.")
            lock.write(root)
        users = Path(root) / "users"
        users.mkdir(exist_ok=True)
        (users / str(os.getpid())).touch()
        if len(list(users.iterdir())) == 1 and not (Path(root) / "ready").exists():
            with (shared / "slurm.log").open("wb") as log:
                command = ["setsid", "--fork", sys.executable, str(HERE / "cluster.py"), "serve", root]
                subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True)
    return root


def _wait_until_ready(root):
    wait_for(lambda: any((root / name).exists() for name in ("ready", "failed")), 180, f"Slurm; see {root}/log")
    if (root / "failed").exists():
        raise RuntimeError(f"Slurm does not start: {(root / 'failed').read_text()}")


@pytest.fixture
def snakemake(cluster):
    """Start snakemake in a checkout; what still runs at the end of the test is killed."""
    started = []

    def start(checkout, *arguments, **options):
        started.append(Run(cluster, checkout, *arguments, **options))
        return started[-1]

    yield start
    for run in started:
        run.kill()
