"""Draw the fits of sample pixels of one module and its trends over the memory cells (PNG).

Outputs ``plots/calibration/{calibration}_m{module}_{fits,xray,cells}.png``.
"""

from pulsetrain.calibration_figures import draw_cells, draw_fits, draw_xray
from pulsetrain.calibration_summary import read_summary
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    title = f"calibration {job.params.calibration}, module {job.params.module:02d}"
    save_figure(draw_fits(job.input.gains, job.input.digital, title), job.output.fits, attributes)
    save_figure(draw_xray(job.input.spacing, title), job.output.xray, attributes)
    save_figure(draw_cells(read_summary(job.input.summary), job.input.mask, title), job.output.cells, attributes)
