"""Simulate one `.nxs` part of the calibration data of a module.

Output ``file``: /entry/instrument/detector/data uint16 (images, 128, 512) [ADU], analog and digital in turn.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_calibration_files import write_nexus_part

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_nexus_part(job.output.file, job.params.settings, job.params.calibration, job.params.description, attributes)
