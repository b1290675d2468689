"""DSSC binning on the cluster: the modules of a run side by side."""

import pandas as pd

from slurm.cluster_runs import full_checkout

SCANS = {"all": {"frame_pattern": ["pumped", "pumped_dark"]}}


def test_modules_are_binned_in_parallel(cluster, snakemake, tmp_path):
    checkout = full_checkout(tmp_path / "checkout", dssc={"modules": [0, 7, 15], "scans": SCANS})
    (checkout / "config" / "runs.csv").write_text("run,kind,stream\n235,dssc,raw\n")
    run = snakemake(checkout, "dssc/r0235_by-all.h5").succeed()
    jobs = [job for job in cluster.jobs_of(run) if job["Comment"].startswith("rule_bin_dssc")]
    assert len(jobs) == 3
    assert max(pd.to_datetime(job["Start"]) for job in jobs) < min(pd.to_datetime(job["End"]) for job in jobs)
    assert "Nothing to be done" in snakemake(checkout, "dssc/r0235_by-all.h5").succeed().text
