"""Stop, with all findings, when a raw run must not be calibrated with the constants at hand.

Outputs ``verdict``: JSON with the verdict, a summary, the limits and, per module, its verdict, the share of pixels that
are known (finite, finite_of_good, usable) and invalid, and what was found of the dark level (up, down, shifted, shift).
"""

from pulsetrain.constants_gate import Limits, check_constants
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    check_constants(
        job.input.vds,
        job.input.constants,
        job.input.masks,
        job.output.verdict,
        attributes,
        run=job.params.run,
        modules=job.params.modules,
        limits=Limits(job.params.min_finite, job.params.max_invalid, job.params.max_shifted),
        sample_cells=job.params.sample_cells,
        sample_frames=job.params.sample_frames,
        threads=job.threads,
    )
