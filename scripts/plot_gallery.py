"""Draw the strongest hits on the assembled detector (PNG)."""

from pulsetrain.detector_figures import draw_gallery
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    begin_job(job.rule, dict(job.params), job.input, job.log[0])
    save_figure(draw_gallery(checkout_path(job.params.geometry), job.input.cxi), job.output.gallery)
