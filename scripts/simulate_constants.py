"""Write the constants and the bad-cell mask of one simulated module, in lab orientation.

Outputs ``constants``: analogGains_keV float32 (3, cells, 128, 512) [keV/ADU], digitalThresholds int16
(2, cells, 128, 512), darkOffsets float32 (3, cells, 128, 512) [ADU]; ``mask``: badCellMask bool (cells, 128, 512).
"""

from pulsetrain.provenance import begin_job, checkout_path
from pulsetrain.simulate_truth import write_bad_cell_mask, write_constants

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    settings = job.params.settings | {"geometry": checkout_path(job.params.settings["geometry"])}
    write_constants(job.output.constants, settings, int(job.params.module), attributes)
    write_bad_cell_mask(job.output.mask, settings, int(job.params.module), attributes)
