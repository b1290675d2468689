"""Simulate gas monitor, number of pulses and delay stage of a DSSC run, and its scan variable and frame mask as files.

Outputs: ``control`` (EXDF file), ``scan`` and ``mask`` (netCDF4, group data, as the older notebooks wrote them).
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_dssc_files import write_control_file, write_scan_files

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_control_file(job.output.control, job.params.settings, job.params.run, attributes)
    write_scan_files(job.output.scan, job.output.mask, job.params.settings, job.params.run, attributes)
