"""Draw powder, mask and the strongest hits on the assembled detector (PNG)."""

from pulsetrain.detector_figures import draw_gallery, draw_mask, draw_powder
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

POWDERS = (
    ("powder_all", "powder", "counts", "all frames"),
    ("powder_hits", "hits", "hit_counts", "hits"),
    ("powder_misses", "misses", "miss_counts", "misses"),
)

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    geometry = checkout_path(job.params.geometry)
    for output, total, counts, title in POWDERS:
        figure = draw_powder(geometry, job.input.powder, total, counts, f"run {job.params.run}: {title}")
        save_figure(figure, job.output[output], attributes)
    masks, outliers = list(job.input.masks), list(job.input.outliers)
    save_figure(draw_mask(geometry, masks, outliers, job.params.modules), job.output.mask, attributes)
    save_figure(draw_gallery(geometry, job.input.cxi), job.output.gallery, attributes)
