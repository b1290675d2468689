"""Simulate one sequence file of one DSSC module.

Output ``file``: EXDF file, image/data (N, 1, 128, 512) uint16 [ADU], image/{trainId, pulseId, cellId} (N, 1).
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_dssc_files import write_module_file

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_module_file(
        job.output.file, job.params.settings, job.params.run, job.params.module, job.params.sequence, attributes
    )
