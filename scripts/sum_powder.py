"""Put the summed photons of a run into one file: all frames, hits, misses, and all frames per memory cell.

Output ``powder/r...._powder.h5``:

=================  =====  ====================  =======  ====================================================
dataset            dtype  shape                 unit
=================  =====  ====================  =======  ====================================================
powder             u8     (16, 512, 128)        photons  all frames
counts             u4     (16, 512, 128)        frames   in which the pixel was good
hits, misses       u8     (16, 512, 128)        photons
hit_counts         u4     (16, 512, 128)        frames   hits in which the pixel was good
miss_counts        u4     (16, 512, 128)        frames   misses in which the pixel was good
powder_per_cell    u4,u8  (16, C, 512, 128)     photons  all frames
frames_per_cell    u4     (16, C)               frames
cellId             u2     (C,)
=================  =====  ====================  =======  ====================================================

Axes: (module, cell, slow_scan, fast_scan). Modules that are not in use are 0 throughout.
"""

from pulsetrain.powder import sum_powder
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    sum_powder(
        litpixels=list(job.input.litpixels),
        masks=list(job.input.masks),
        cxi=job.input.cxi,
        misses=job.input.misses,
        modules=job.params.modules,
        output=job.output.powder,
        attributes=attributes,
    )
