"""Add up the DSSC images of one module by bin of a scan and frame name.

Output ``dssc/r...._m.._by-....h5``: sum and sum_squares u8 (bins, names, 128, 512) [ADU, ADU^2], exact; count u8 (bins,
names); energy_sum f8 (bins, names, parts), exact, energy_count u8 (bins, names); frame_sum u8 (N,) [ADU]; names,
scan_variable f8 (bins,).
"""

from pulsetrain.dssc_sums import bin_module
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    bin_module(
        job.input.frames,
        job.input.selection,
        job.output.sums,
        attributes,
        module=job.params.module,
        threads=job.threads,
    )
