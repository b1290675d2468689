"""Gather the current-source scan of one module: merge its four column groups.

Writes ``calibration/{calibration}/gathered/m{module}_current_source.h5``: analog, digital int16 (n, C, 128, 512) [ADU],
laboratory orientation, n = scan points; integrationTime f8 (n,) [clocks]; cellPresent bool (C,).
"""

from pulsetrain.gather import gather_current_source
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    files = iter(job.input.files)
    axis = [checkout_path(name) for name in job.params.scan_axis]
    gather_current_source(
        [[next(files) for _ in range(n_files)] for n_files in job.params.groups],
        job.output.gathered,
        attributes,
        layout=job.params.layout,
        module=job.params.module,
        cells=job.params.cells,
        detector=job.params.detector,
        runs=job.params.runs,
        scan_axis=axis[0] if axis else None,
        sizes=job.params.sizes,
        threads=job.threads,
    )
