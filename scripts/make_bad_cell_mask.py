"""Mask the bad memory cells of one module, by cause.

Outputs ``mask``: badCellMask bool (cells, 128, 512), True = bad, laboratory orientation, attribute percent_total;
``subMasks/<cause>`` bool with the attributes percent, percent_alone and interval; ``histograms/<quantity>[/<stage>]``
with edges and counts of the values that earlier causes leave, and the attributes below, above, units and interval.
"""

from pulsetrain.bad_cells import make_bad_cell_mask
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    make_bad_cell_mask(
        job.input.dark,
        job.input.analog_gains,
        job.input.digital_means,
        job.input.photon_spacing,
        job.input.constants,
        job.output.mask,
        attributes,
        module=job.params.module,
        manual=job.params.manual,
        manual_file=next((checkout_path(name) for name in job.params.manual_file), None),
        systematic=job.params.systematic,
        asic_borders=job.params.asic_borders,
        intervals=job.params.intervals,
    )
