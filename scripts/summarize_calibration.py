"""Take from the large files of one module what pictures and report need.

Output ``calibration/{calibration}/summary_m{module}.h5``, laboratory orientation:

================  =====  ==================  ======================================================================
dataset           dtype  shape
================  =====  ==================  ======================================================================
maps/<quantity>   f4     (stages, 128, 512)  median over the memory cells, or the value where there is one per pixel;
                                             fitFailed is the percentage of the memory cells without all three lines
cells/<quantity>  f4     (3, stages, C)      values below which 16, 50 and 84 % of the pixels are
================  =====  ==================  ======================================================================

Attributes: ``units`` of each map; ``numbers`` (JSON) of the file: bursts, scan points, fitted percentages, failures.
"""

from pulsetrain.calibration_summary import summarize
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    paths = {name: job.input[name] for name in ("dark", "gains", "spacing", "constants")}
    summarize(paths, job.params.module, job.output.summary, attributes)
