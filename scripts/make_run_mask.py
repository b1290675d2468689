"""Make the static masks of a run, per module and memory cell.

Outputs ``masks/r...._m...h5``: ``cellId`` u2 (C,), the sorted memory cells of the run; ``mask`` u4 (C, 512, 128)
(cell, slow_scan, fast_scan), bits of the CXI specification, 0 = good. Attribute facility_mask: ``read``,
``partial`` (some of the corrected files have no mask), ``absent`` (none has one), ``no frames`` (the module has none
in this run) or ``constants`` (stream raw).
"""

from functools import partial

from pulsetrain.masks import make_run_mask
from pulsetrain.parallel import run_all
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    constants_masks = list(job.input.constants_mask) or [None] * len(job.params.modules)
    constants = list(job.input.constants) or [None] * len(job.params.modules)
    run_all(
        [
            partial(
                make_run_mask,
                vds=job.input.vds,
                constants_mask=constants_mask,
                constants=of_module,
                user=[checkout_path(name) for name in job.params.user],
                module=module,
                stream=job.params.stream,
                sample_trains=job.params.sample_trains,
                asic_edges=job.params.asic_edges,
                output=output,
                attributes=attributes,
            )
            for module, constants_mask, of_module, output in zip(
                job.params.modules, constants_masks, constants, job.output.masks, strict=True
            )
        ],
        job.threads,
    )
