"""Simulate one sequence file of a calibration run of a module.

Output ``file``: EXDF file, image/data (N, 2, 512, 128) uint16 [ADU], image/{trainId, pulseId, cellId}.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_calibration_files import write_calibration_module

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_calibration_module(
        job.output.file, job.params.settings, job.params.calibration, job.params.description, attributes
    )
