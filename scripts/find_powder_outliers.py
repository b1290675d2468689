"""Find the pixels and memory cells of one module that stand out in the summed photons of a run.

Output ``masks/r...._outliers_m...h5``: ``cellId`` u2 (C,); ``mask`` u4 (C, 512, 128) with the bits hot, dead and noisy
of the CXI specification, 0 = nothing found. Attributes: n_hot, n_dead, n_noisy [pixels], noisy_cells (cell ids).
"""

from pulsetrain.masks import find_powder_outliers
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0], job.threads)
    find_powder_outliers(
        litpixels=job.input.litpixels,
        mask=job.input.mask,
        module=job.params.module,
        hot_sigma=job.params.hot_sigma,
        spread_sigma=job.params.spread_sigma,
        output=job.output.mask,
        attributes=attributes,
    )
