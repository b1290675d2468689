"""Fit the current-source scan of one module: gain, offset and digital level of each gain stage, memory cell and pixel.

Writes ``processed/m{module}_analogGains.h5``: analogGains [ADU/clock], anlogLineOffsets [ADU], analogFitStdDevs [ADU],
all f4 (3, C, 128, 512), NaN where not known; fitStatus u1 (C, 128, 512) with the attribute codes; group samples: cell,
row, column (k,), integrationTime (n,), analog, digital, stage (k, n). And ``processed/m{module}_digitalMeans.h5``:
digitalMeans, digitalStdDeviations f4 (C, 3, 128, 512) [ADU], digitalThresholds u2 (2, C, 128, 512) [ADU], 65535 where
not known, digitalSpacingsSafetyFactors f4 (C, 2, 128, 512).
"""

from pulsetrain.current_source import process_current_source
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    process_current_source(
        job.input.gathered,
        job.output.analog_gains,
        job.output.digital_means,
        attributes,
        module=job.params.module,
        spike_height=job.params.spike_height,
        trim=job.params.trim,
        threads=job.threads,
    )
