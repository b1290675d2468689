"""Find the distance between the photon peaks of each pixel in X-ray-tube data.

Output ``calibration/{calibration}/processed/m{module}_photonSpacing.h5``, laboratory orientation:

==============  =====  ==========  ==========  ==================================================================
dataset         dtype  shape       unit
==============  =====  ==========  ==========  ==================================================================
photonSpacing   f4     (128, 512)  ADU         signal of one photon; NaN where it could not be found
quality         f4     (128, 512)  frames/ADU  depth of the valley between the peaks of no and of one photon
spacingError    f4     (128, 512)  ADU         standard error of photonSpacing
fitStatus       u1     (128, 512)              0 = fitted, else why not: attribute codes
sharedFraction  f4     (2, 8)                  share of the photons whose charge is divided, per ASIC (row, column)
==============  =====  ==========  ==========  ==================================================================

Group ``samples``, some pixels for the figures: row, column (k,); edges (b + 1,) [ADU above the pedestal], histogram and
model (k, b) [frames]; frame (m,), series and drift (k, m) [ADU]. Attributes: module, orientation (lab), cell, frames.
"""

from pulsetrain.photon_spacing import process_xray
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    process_xray(
        job.input.gathered,
        job.output.photon_spacing,
        attributes,
        module=job.params.module,
        cell=job.params.cell,
        threads=job.threads,
    )
