"""What goes wrong on a cluster, and how it ends: nothing lost, nothing half-written under a final name."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess

import h5py
import pytest

from slurm.cluster import wait_for
from slurm.cluster_runs import Run, change_config, full_checkout, small_checkout

# Snakemake asks for states sooner than the profile says, as this cluster's clocks are faster than a facility's.
OFTEN = ("--slurm-init-seconds-before-status-checks", "2", "--seconds-between-status-checks", "2")
MODULE_FILE = "../data/proc/r0050/CORR-R0050-AGIPD00-S00000.h5"

# A job that writes half of its output with the library's helper, says so in started.txt, and waits for go.txt.
SLOW_WRITER = """
    from pathlib import Path

    from pulsetrain.output import whole_file

    rule slow:
        output:
            "slow.txt",
        resources:
            mem_mb=500,
            runtime=5,
            {resources}
        run:
            with whole_file(output[0]) as part:
                part.write_text("half")
                with open("started.txt", "a") as file:
                    file.write(os.environ["SLURMD_NODENAME"] + chr(10))
                while not Path("go.txt").exists():
                    time.sleep(0.2)
                part.write_text("whole")
"""


@pytest.fixture
def snakemake(snakemake):
    return lambda checkout, *arguments: snakemake(checkout, *arguments, *OFTEN)


def slow_writer(place, resources=""):
    return small_checkout(place, "    import os, time" + SLOW_WRITER.format(resources=resources))


def started(checkout, times=1):
    """Wait until the slow writer has begun this many times; return the nodes."""
    path = checkout / "started.txt"
    wait_for(lambda: path.exists() and len(path.read_text().split()) >= times, 120, f"start number {times}")
    return path.read_text().split()


def assert_whole(checkout):
    assert (checkout / "slow.txt").read_text() == "whole"
    assert not list(checkout.glob(".*.part"))


def test_job_out_of_memory_succeeds_on_retry_with_more(cluster, snakemake, tmp_path):
    checkout = small_checkout(
        tmp_path / "checkout",
        """
        rule hungry:
            output:
                "hungry.txt",
            resources:
                mem_mb=lambda wildcards, attempt: 500 * attempt,
                runtime=5,
            run:
                import time

                taken = b"x" * 600_000_000
                # Slurm looks at the memory from time to time: the first attempt waits until it is killed.
                time.sleep(120 if resources.mem_mb == 500 else 0)
                with open(output[0], "w") as file:
                    file.write(f"{len(taken)}")
        """,
    )
    run = snakemake(checkout, "hungry.txt").succeed()
    assert (checkout / "hungry.txt").read_text() == "600000000"
    jobs = cluster.jobs_of(run)
    assert [job["ReqMem"] for job in jobs] == ["500M", "1000M"]
    # Slurm counts the batch script's own exit or the memory as the reason, whichever it sees first.
    assert jobs[0]["State"] in ("FAILED", "OUT_OF_MEMORY")
    assert jobs[1]["State"] == "COMPLETED"
    assert "Exceeded job memory limit" in run.text


@pytest.fixture(scope="module", autouse=True)
def overdue(cluster, tmp_path_factory):
    """A start whose job exceeds its time limit. Slurm takes more than a minute, so it begins before the first test."""
    checkout = small_checkout(
        tmp_path_factory.mktemp("overdue") / "checkout",
        """
        rule slow:
            output:
                "slow.txt",
            resources:
                mem_mb=500,
                runtime=lambda wildcards, attempt: attempt,
                seconds=lambda wildcards, attempt: 200 if attempt == 1 else 3,
            shell:
                "sleep {resources.seconds}; echo done > {output}"
        """,
    )
    run = Run(cluster, checkout, "slow.txt", *OFTEN)
    yield run
    run.kill()


def test_node_dies_in_the_middle_of_a_job_and_slurm_runs_it_again_on_another(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout", 'slurm_partition="frail",')
    run = snakemake(checkout, "slow.txt")
    [node] = started(checkout)
    cluster.cut_power(node)
    try:
        nodes = started(checkout, times=2)
        assert not (checkout / "slow.txt").exists(), "nothing has its final name before it is whole"
        (checkout / "go.txt").touch()
        run.succeed()
    finally:
        cluster.start_node(node)
    assert nodes[1] != node
    assert_whole(checkout)
    states = [job["State"] for job in cluster.jobs_of(run)]
    assert states[-1] == "COMPLETED", states


def test_controller_restarts_while_a_job_runs_and_ends(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    run = snakemake(checkout, "slow.txt")
    started(checkout)
    cluster.stop_controller()
    try:
        (checkout / "go.txt").touch()
        wait_for((checkout / "slow.txt").exists, 60, "the job to end without a controller")
        with pytest.raises(subprocess.TimeoutExpired):
            run.process.wait(5)
    finally:
        cluster.start_controller()
    run.succeed()
    assert_whole(checkout)
    assert [job["State"] for job in cluster.jobs_of(run)] == ["COMPLETED"]


def test_accounting_is_away_while_a_job_runs_and_ends(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    run = snakemake(checkout, "slow.txt")
    started(checkout)
    cluster.stop_accounting_daemon()
    try:
        (checkout / "go.txt").touch()
        wait_for((checkout / "slow.txt").exists, 60, "the job to end without accounting")
        wait_for(lambda: "`sacct` gives no states of jobs" in run.text, 60, "snakemake to say so", lambda: run.text)
        assert run.process.poll() is None
    finally:
        cluster.start_accounting_daemon()
    run.succeed()
    assert_whole(checkout)
    assert [job["State"] for job in cluster.jobs_of(run)] == ["COMPLETED"]


def test_cancelled_job_is_run_again(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    run = snakemake(checkout, "slow.txt")
    started(checkout)
    cluster.run("scancel", *cluster.wait_for_jobs(run, "RUNNING"))
    started(checkout, times=2)
    (checkout / "go.txt").touch()
    run.succeed()
    assert_whole(checkout)
    assert "SLURM status is: 'CANCELLED'" in run.text


def test_interrupt_cancels_the_jobs(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    run = snakemake(checkout, "slow.txt")
    started(checkout)
    run.process.send_signal(signal.SIGINT)
    run.fail()
    wait_for(lambda: not cluster.running(run), 60, "the job to end")
    assert not (checkout / "slow.txt").exists()
    (checkout / "go.txt").touch()
    snakemake(checkout, "slow.txt").succeed()
    assert_whole(checkout)


def test_snakemake_is_killed_while_a_job_runs_and_started_again_at_once(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    killed = snakemake(checkout, "slow.txt")
    started(checkout)
    killed.kill()
    refused = snakemake(checkout, "slow.txt").fail()
    assert "Directory cannot be locked" in refused.text
    assert "--unlock" in refused.text
    snakemake(checkout, "--unlock").succeed()
    again = snakemake(checkout, "slow.txt")
    started(checkout, times=2)
    (checkout / "go.txt").touch()
    again.succeed()
    wait_for(lambda: not cluster.running(killed), 60, "the first job to end")
    assert_whole(checkout)
    assert "Nothing to be done" in snakemake(checkout, "slow.txt").succeed().text


def test_snakemake_is_killed_and_started_again_after_its_job_has_ended(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout")
    killed = snakemake(checkout, MODULE_FILE)
    cluster.wait_for_jobs(killed, "RUNNING")
    killed.kill()
    wait_for(lambda: not cluster.running(killed), 90, "the job to end")
    assert_simulated(checkout)
    snakemake(checkout, "--unlock", MODULE_FILE).succeed()
    assert "Nothing to be done" in snakemake(checkout, MODULE_FILE).succeed().text
    # Nobody noted how the file was made, so a change is not seen; snakemake says so, and the file itself knows.
    change_config(checkout, simulate={"profile": "tiny", "seed": 7})
    assert "missing provenance/metadata" in snakemake(checkout, MODULE_FILE, "-n").succeed().text
    assert '"seed": 7' not in simulated_attributes(checkout)["params"]


def test_code_is_edited_while_a_job_is_queued_and_the_job_stops_until_a_start_plans_with_it(
    cluster, snakemake, tmp_path
):
    checkout = full_checkout(tmp_path / "checkout")
    edited = checkout / "scripts" / "pulsetrain" / "simulate_files.py"
    with queued(cluster, snakemake, checkout, "edited", "--retries", "1") as run:
        edited.write_text(edited.read_text() + "\n# edited\n")
    run.fail()
    # The job plans anew on its node, so by itself it would not notice; nor would the retry.
    assert "pulsetrain/simulate_files.py changed after this simulate_module job was planned" in run.text
    assert [job["State"] for job in cluster.jobs_of(run)] == ["FAILED"] * 2
    assert not (checkout / "demo" / "scratch" / MODULE_FILE).exists()
    snakemake(checkout, MODULE_FILE).succeed()
    assert_simulated(checkout)
    made_by = json.loads(simulated_attributes(checkout)["code"])["pulsetrain/simulate_files.py"]
    assert made_by == hashlib.sha256(edited.read_bytes()).hexdigest()[:12]
    assert "Nothing to be done" in snakemake(checkout, MODULE_FILE).succeed().text


def test_code_that_a_queued_job_does_not_use_is_edited_and_the_job_runs(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout")
    edited = checkout / "scripts" / "pulsetrain" / "hits.py"
    with queued(cluster, snakemake, checkout, "unused") as run:
        edited.write_text(edited.read_text() + "\n# edited\n")
    run.succeed()
    assert_simulated(checkout)


def test_configuration_is_edited_while_a_job_is_queued_and_the_job_does_what_was_planned(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout")
    with queued(cluster, snakemake, checkout, "settings") as run:
        change_config(checkout, simulate={"profile": "tiny", "seed": 7})
        table = checkout / "config" / "runs.csv"
        table.write_text(table.read_text() + "0051,another,proc,,\n")
    run.succeed()
    assert_simulated(checkout)
    assert json.loads(simulated_attributes(checkout)["params"])["settings"]["seed"] == 1
    assert not list((checkout / "demo" / "scratch" / ".snakemake").glob("settings_*"))
    snakemake(checkout, MODULE_FILE).succeed()
    assert json.loads(simulated_attributes(checkout)["params"])["settings"]["seed"] == 7
    assert "Nothing to be done" in snakemake(checkout, MODULE_FILE).succeed().text


@contextlib.contextmanager
def queued(cluster, snakemake, checkout, gate, *options):
    """A start whose job waits in the queue of a partition as long as this lasts."""
    cluster.close(gate)
    try:
        resources = [f"slurm_partition={gate}", "mem_mb=1000", "runtime=10"]
        run = snakemake(checkout, MODULE_FILE, "--default-resources", *resources, *options)
        cluster.wait_for_jobs(run, "PENDING")
        yield run
    finally:
        cluster.open(gate)


def assert_simulated(checkout):
    attributes = simulated_attributes(checkout)
    assert attributes["rule"] == "simulate_module"
    assert not list((checkout / "demo" / "data").rglob(".*.part"))


def simulated_attributes(checkout):
    with h5py.File(checkout / "demo" / "scratch" / MODULE_FILE) as file:
        assert file["INDEX/trainId"].size == 3
        return dict(file.attrs)


def test_job_writes_half_a_file_and_dies_and_the_next_start_succeeds(cluster, snakemake, tmp_path):
    checkout = half_writer(tmp_path / "checkout")
    run = snakemake(checkout, "half.h5", "--retries", "0").fail()
    assert not (checkout / "half.h5").exists()
    assert [job["State"] for job in cluster.jobs_of(run)] == ["FAILED"]
    assert "Error in rule half" in run.text
    snakemake(checkout, "half.h5").succeed()
    with h5py.File(checkout / "half.h5") as file:
        assert file["whole"][()] == 1
    assert not list(checkout.glob(".*.part"))


def half_writer(place):
    return small_checkout(
        place,
        """
        import os, signal
        from pathlib import Path

        from pulsetrain.output import new_h5

        rule half:
            output:
                "half.h5",
            resources:
                mem_mb=500,
                runtime=5,
            run:
                died = Path("died.txt").exists()
                with new_h5(output[0], {}) as file:
                    file["half"] = 1
                    file.flush()
                    if not died:
                        Path("died.txt").touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    file["whole"] = 1
        """,
    )


def test_second_start_of_the_same_target_is_told_to_wait_and_harms_nothing(cluster, snakemake, tmp_path):
    checkout = slow_writer(tmp_path / "checkout")
    first = snakemake(checkout, "slow.txt")
    started(checkout)
    second = snakemake(checkout, "slow.txt").fail()
    assert "Another Snakemake process" in second.text or "cannot be locked" in second.text
    (checkout / "go.txt").touch()
    first.succeed()
    assert_whole(checkout)
    assert len(cluster.jobs_of(first)) == 1
    assert "Nothing to be done" in snakemake(checkout, "slow.txt").succeed().text


def test_second_run_that_shares_constants_is_told_to_wait_and_one_that_shares_nothing_goes_on(
    cluster, snakemake, tmp_path
):
    checkout = small_checkout(
        tmp_path / "checkout",
        """
        rule constants:
            output:
                "{name}_constants.txt",
            resources:
                mem_mb=500,
                runtime=5,
            shell:
                "echo {wildcards.name} >> made.txt; while [ ! -e go.txt ]; do sleep 0.2; done; echo whole > {output}"

        rule hits:
            input:
                lambda wildcards: ("other" if wildcards.run == "3" else "shared") + "_constants.txt",
            output:
                "r{run}_hits.txt",
            resources:
                mem_mb=500,
                runtime=5,
            shell:
                "cp {input} {output}"
        """,
    )
    first = snakemake(checkout, "r1_hits.txt")
    wait_for((checkout / "made.txt").exists, 60, "the constants to be begun")
    refused = snakemake(checkout, "r2_hits.txt").fail()
    assert "cannot be locked" in refused.text
    third = snakemake(checkout, "r3_hits.txt")
    (checkout / "go.txt").touch()
    first.succeed()
    third.succeed()
    snakemake(checkout, "r2_hits.txt").succeed()
    assert {(checkout / f"r{run}_hits.txt").read_text() for run in (1, 2, 3)} == {"whole\n"}
    assert sorted((checkout / "made.txt").read_text().split()) == ["other", "shared"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MB, to be enlarged."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        message = f"a small file system needs root and the right to mount: {done.stderr}"
        if os.environ.get("CI"):
            raise RuntimeError(message)
        pytest.skip(message)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_scratch_is_full_and_the_start_after_room_was_made_succeeds(cluster, snakemake, tmp_path, small_disk):
    checkout = small_checkout(
        tmp_path / "checkout",
        f"""
        from pulsetrain.output import whole_file

        workdir: {str(small_disk)!r}

        rule large:
            output:
                "large.bin",
            resources:
                mem_mb=500,
                runtime=5,
            run:
                with whole_file(output[0]) as part:
                    part.write_bytes(bytes(6_000_000))
        """,
    )
    run = snakemake(checkout, "large.bin", "--retries", "0").fail()
    assert "No space left on device" in run.text
    assert [path.name for path in small_disk.iterdir()] == [".snakemake"]
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    snakemake(checkout, "large.bin").succeed()
    assert (small_disk / "large.bin").stat().st_size == 6_000_000


def test_job_over_its_time_limit_succeeds_on_retry_with_more(cluster, overdue):
    overdue.succeed(300)
    assert (overdue.checkout / "slow.txt").read_text() == "done\n"
    jobs = cluster.jobs_of(overdue)
    assert [(job["State"], job["TimelimitRaw"]) for job in jobs] == [("TIMEOUT", "1"), ("COMPLETED", "2")]
    assert "TIMEOUT" in overdue.text
