"""Gather the dark measurement of one module.

Writes ``calibration/{calibration}/gathered/m{module}_dark.h5``: analog, digital int16 (n, C, 128, 512) [ADU],
contiguous, laboratory orientation, n = bursts; cellPresent bool (C,).
"""

from pulsetrain.gather import gather_dark
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    gather_dark(
        list(job.input.files),
        job.output.gathered,
        attributes,
        layout=job.params.layout,
        module=job.params.module,
        cells=job.params.cells,
        detector=job.params.detector,
        run=job.params.run,
        sizes=job.params.sizes,
        threads=job.threads,
    )
