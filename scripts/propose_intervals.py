"""Propose confidence intervals for the bad-cell mask from the processed data of all modules.

Outputs ``intervals``: YAML in the form of the configuration's key calibration.mask.intervals, each interval with a
comment that says how it was found and how much it would mask. Nothing uses it: it is there for the user to copy from.
"""

from pulsetrain.intervals import propose_intervals
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    propose_intervals(
        job.input.dark,
        job.input.analog_gains,
        job.input.digital_means,
        job.input.photon_spacing,
        job.output.intervals,
        attributes,
        modules=job.params.modules,
        sigmas=job.params.proposal_sigma,
    )
