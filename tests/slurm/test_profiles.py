"""The two profiles, without a cluster."""

import re

from slurm.cluster_runs import REPOSITORY, groups_of, profile_of

OF_THE_SITE = {"groups", "cores", "jobs", "slurm-init-seconds-before-status-checks", "seconds-between-status-checks"}


def test_profiles_differ_only_where_sites_differ():
    slurm, maxwell = profile_of("slurm"), profile_of("maxwell")
    assert slurm.keys() == maxwell.keys()
    assert {name for name in slurm if slurm[name] != maxwell[name]} <= OF_THE_SITE


def test_groups_name_rules_that_exist():
    rules = {
        name
        for path in (REPOSITORY / "rules").glob("*.smk")
        for name in re.findall(r"^rule (\w+):", path.read_text(), flags=re.MULTILINE)
    }
    for name in ("slurm", "maxwell"):
        assert set(groups_of(name)) <= rules


def test_nothing_waits_for_ever_by_the_profile():
    for name in ("slurm", "maxwell"):
        profile = profile_of(name)
        # squeue forgets ended jobs; what it has forgotten is waited for.
        assert profile["slurm-status-command"] == "sacct"
        assert profile["slurm-requeue"] is True
