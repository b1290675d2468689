"""Stop, with all findings, when the integrity check refused the run; else write its summary as a text."""

from pulsetrain.integrity import accept_run
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    accept_run(job.input.integrity, job.output.accepted, job.params.run, attributes)
