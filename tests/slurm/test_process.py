"""Starting again after snakemake was killed on the cluster: `make process` waits, unlocks, accepts, goes on."""

import subprocess
import sys

from slurm.cluster import wait_for
from slurm.cluster_runs import full_checkout

TARGET = "../data/proc/r0050/CORR-R0050-AGIPD00-S00000.h5"


def process(cluster, checkout, *arguments):
    command = [sys.executable, str(checkout / "scripts" / "commands" / "process.py"), TARGET, "--profile", "slurm"]
    with (checkout.parent / "process.log").open("wb") as log:
        done = subprocess.run(
            [*command, *arguments], cwd=checkout, env=cluster.env, stdout=log, stderr=log, timeout=240, check=False
        )
    text = (checkout.parent / "process.log").read_text()
    assert done.returncode == 0, text[-8000:]
    return text


def test_jobs_of_a_killed_snakemake_are_waited_for_and_their_outputs_accepted(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout")
    killed = snakemake(checkout, TARGET)
    cluster.wait_for_jobs(killed, "RUNNING")
    killed.kill()
    said = process(cluster, checkout)
    assert "jobs of an earlier call still run: " in said
    assert "the lock of a killed snakemake was removed" in said
    assert "finished unseen and are what is planned; accepted: " in said
    assert not cluster.running(killed)
    assert "Nothing to be done" in snakemake(checkout, TARGET).succeed().text


def test_jobs_of_a_killed_snakemake_are_cancelled_on_request(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout")
    killed = snakemake(checkout, TARGET)
    cluster.wait_for_jobs(killed, "RUNNING")
    killed.kill()
    said = process(cluster, checkout, "--cancel")
    assert "they are cancelled" in said
    wait_for(lambda: not cluster.running(killed), 30, "the cancelled jobs to end")
    assert "Nothing to be done" in snakemake(checkout, TARGET).succeed().text
