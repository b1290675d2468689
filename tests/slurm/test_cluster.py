"""The cluster itself, and what the profile makes of a job."""

from slurm.cluster import NODES
from slurm.cluster_runs import small_checkout


def test_jobs_of_one_start_run_on_several_nodes_and_appear_in_accounting(cluster, snakemake, tmp_path):
    checkout = small_checkout(
        tmp_path / "checkout",
        """
        rule name_node:
            output:
                "{number}.txt",
            threads: 5
            resources:
                mem_mb=300,
                runtime=5,
            shell:
                "echo $SLURMD_NODENAME > {output}"
        """,
    )
    run = snakemake(checkout, "1.txt", "2.txt", "3.txt").succeed()
    assert {(checkout / f"{number}.txt").read_text().strip() for number in (1, 2, 3)} == set(NODES)
    jobs = cluster.jobs_of(run)
    assert [job["State"] for job in jobs] == ["COMPLETED"] * 3
    assert {job["Comment"] for job in jobs} == {f"rule_name_node_wildcards_{number}" for number in (1, 2, 3)}
    assert {(job["Partition"], job["ReqMem"], job["TimelimitRaw"]) for job in jobs} == {("upex", "300M", "5")}
