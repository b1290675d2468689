"""Draw the fraction of memory cells in which each pixel is bad, on the assembled detector (PNG)."""

from pulsetrain.detector_figures import draw_mask
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    begin_job(job.rule, dict(job.params), job.input, job.log[0])
    figure = draw_mask(
        checkout_path(job.params.geometry), list(job.input.masks), list(job.input.outliers), job.params.modules
    )
    save_figure(figure, job.output.mask)
