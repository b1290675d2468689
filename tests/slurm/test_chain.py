"""The demo's chain through the profile on several nodes."""

import os
import re
import subprocess
from collections import Counter

import h5py
import numpy as np

from slurm.cluster_runs import full_checkout, groups_of

LOCAL_RULES = {"accept_run", "link_hits", "link_emc", "link_events", "link_powder"}
# Slurm fills one node before it takes the next, and so small a chain fits into one. So these steps, which have a job of
# their own in both profiles, ask for a node each: what one writes is read on another.
PLACES = {"simulate_module": "n1", "check_run": "n2"}
PLACED = ("--set-resources", *(f"{rule}:slurm_extra='--nodelist={node}'" for rule, node in PLACES.items()))


def test_chain_on_several_nodes_gives_the_datasets_of_the_local_run(cluster, snakemake, tmp_path):
    run = snakemake(full_checkout(tmp_path / "cluster"), "r0050_hits.cxi", *PLACED)
    maxwell = snakemake(full_checkout(tmp_path / "maxwell"), "r0050_hits.cxi", *PLACED, profile="profiles/maxwell")
    local = full_checkout(tmp_path / "local")
    run_locally(local, cluster.env)
    for profile, each in (("slurm", run), ("maxwell", maxwell)):
        each.succeed(400)
        assert_same_results(each.checkout / "demo", local / "demo")
        jobs = cluster.jobs_of(each)
        assert {job["State"] for job in jobs} == {"COMPLETED"}
        assert {name: nodes for name, nodes in nodes_of(jobs, profile).items() if name in PLACES} == {
            name: {node} for name, node in PLACES.items()
        }
        assert submitted(jobs, profile) == expected(each.text, profile)
        assert not list(each.checkout.rglob("slurm_logs/**/*.log")), "only failed jobs keep Slurm's log"
        assert "Nothing to be done" in snakemake(each.checkout, "r0050_hits.cxi").succeed().text


def submitted(jobs, profile):
    """Number of Slurm jobs by rule or group."""
    return Counter(name_of(job, profile) for job in jobs)


def nodes_of(jobs, profile):
    """Nodes that ran jobs of each rule or group."""
    names = {name_of(job, profile) for job in jobs}
    return {name: {job["NodeList"] for job in jobs if name_of(job, profile) == name} for name in names}


def name_of(job, profile):
    """Rule or group of a Slurm job, by its comment."""
    name = job["Comment"].removeprefix("rule_").split("_wildcards_")[0]
    return name.split("_")[0] if name.split("_")[0] in groups_of(profile).values() else name


def expected(text, profile):
    """Number of Slurm jobs by rule or group: all that is planned, but none for local rules and one for each group."""
    groups = groups_of(profile)
    planned = {rule: number for rule, number in planned_jobs(text).items() if rule not in LOCAL_RULES}
    alone = {rule: n for rule, n in planned.items() if rule not in groups}
    return alone | {groups[rule]: 1 for rule in planned if rule in groups}


def planned_jobs(text):
    """Rules and their numbers of jobs, as the table at the start says."""
    table = text.split("Job stats:")[1].split("total")[0]
    return {rule: int(number) for rule, number in re.findall(r"^(\w+) +(\d+)$", table, flags=re.MULTILINE)}


def run_locally(checkout, env):
    command = ["snakemake", "--cores", str(os.cpu_count()), "r0050_hits.cxi"]
    done = subprocess.run(command, cwd=checkout, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]


def assert_same_results(one, other):
    files = result_files(one)
    assert files == result_files(other)
    assert {"scratch/r0050_hits.cxi", "scratch/emc/r0050.emc", "scratch/powder/r0050_powder.h5"} <= files
    for name in sorted(files):
        if h5py.is_hdf5(one / name):
            assert_same_datasets(one / name, other / name)
        elif name.endswith(".emc"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


def result_files(place):
    paths = (path.relative_to(place) for path in place.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if not {".snakemake", "logs", "benchmarks"} & set(path.parts)}


def assert_same_datasets(one, other):
    with h5py.File(one) as first, h5py.File(other) as second:
        names = dataset_names(first)
        assert names == dataset_names(second), one
        for name in names:
            assert_same_values(first[name], second[name], f"{one} {name}")


def dataset_names(file):
    names = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(names)


def assert_same_values(first, second, where):
    assert (first.shape, first.dtype) == (second.shape, second.dtype), where
    one, other = np.asarray(first[()]), np.asarray(second[()])
    # Bytes, so that NaN equals NaN; texts of variable length have none.
    same = np.array_equal(one, other) if one.dtype == object else one.tobytes() == other.tobytes()
    assert same, where
