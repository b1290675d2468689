"""Stop, with all findings, when the integrity check refused the run; else write its summary as a text."""

from pulsetrain.integrity import accept_run
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    begin_job(job.rule, dict(job.params), job.input, job.log[0], job.threads)
    accept_run(integrity=job.input.integrity, accepted=job.output.accepted, run=job.params.run)
