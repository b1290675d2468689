"""Make the dark level of one module, per memory cell and pixel.

Output ``calibration/{calibration}/processed/m{module}_dark.h5``, laboratory orientation:

=======================  =====  ===================  ====  ==========================================
dataset                  dtype  shape                unit
=======================  =====  ===================  ====  ==========================================
darkOffset               f4     (cells, 128, 512)    ADU   mean of the dark frames; NaN without data
darkStandardDeviation    f4     (cells, 128, 512)    ADU   standard deviation over the bursts
=======================  =====  ===================  ====  ==========================================

Attributes: module, orientation (lab), bursts (number of dark frames per memory cell).
"""

from pulsetrain.dark import process_dark
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    process_dark(
        job.input.gathered,
        job.output.dark,
        attributes,
        module=job.params.module,
        threads=job.threads,
    )
