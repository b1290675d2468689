"""Gather the X-ray-tube measurement of one module and memory cell.

Writes ``calibration/{calibration}/gathered/m{module}_xray.h5``: analog, digital int16 (n, 128, 512) [ADU], laboratory
orientation, n = frames; attribute cell.
"""

from pulsetrain.gather import gather_xray
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    gather_xray(
        list(job.input.files),
        job.output.gathered,
        attributes,
        layout=job.params.layout,
        module=job.params.module,
        xray_cell=job.params.xray_cell,
        detector=job.params.detector,
        run=job.params.run,
        sizes=job.params.sizes,
        threads=job.threads,
    )
