"""Find the pixels and memory cells that stand out in the summed photons of a run, module by module.

Outputs ``masks/r...._outliers_m...h5``: ``cellId`` u2 (C,); ``mask`` u4 (C, 512, 128) with the bits hot, dead and noisy
of the CXI specification, 0 = nothing found. Attributes: n_hot, n_dead, n_noisy [pixels], noisy_cells (cell ids).
"""

from functools import partial

from pulsetrain.masks import find_powder_outliers
from pulsetrain.parallel import run_all
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    files = zip(job.input.litpixels, job.input.masks, job.params.modules, job.output.masks, strict=True)
    run_all(
        [
            partial(
                find_powder_outliers,
                litpixels=litpixels,
                mask=mask,
                module=module,
                hot_sigma=job.params.hot_sigma,
                spread_sigma=job.params.spread_sigma,
                output=output,
                attributes=attributes,
            )
            for litpixels, mask, module, output in files
        ],
        job.threads,
    )
