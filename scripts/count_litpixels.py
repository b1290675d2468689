"""Count the lit pixels and photons of one module in every frame of a run.

Writes ``litpixels/r{run}_m{module}.h5``: litpixels u4, photons u8, hit_photons u8, saturated u4, present bool, all
(N,); cellId u2, frames_per_cell u4, both (C,); powder_per_cell u4 or u8 (C, 512, 128) [photons]; with masks per frame
also counts_per_cell u4 (C, 512, 128).
"""

from pulsetrain.litpixels import count_module
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    constants = list(job.input.constants)
    region = [checkout_path(name) for name in job.params.region]
    count_module(
        job.input.vds,
        job.input.mask,
        job.output.litpixels,
        attributes,
        module=job.params.module,
        constants=constants[0] if constants else None,
        region=region[0] if region else None,
        hit_modules=job.params.hit_modules,
        photon_threshold=job.params.photon_threshold,
        common_mode=job.params.common_mode,
        baseline_shift=job.params.baseline_shift,
        per_frame_mask=job.params.per_frame_mask,
        threads=job.threads,
    )
