"""Simulate one sequence file of an ePix.

Output ``file``: EXDF file, data/image/pixels (rows, 708, 768) uint16 [ADU] and data/trainId.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_mid import write_epix_file

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    place = int(job.params.run), int(job.params.number), int(job.params.sequence)
    write_epix_file(job.output.file, job.params.settings, *place, attributes=attributes)
