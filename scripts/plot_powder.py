"""Draw the mean photons of all frames, hits and misses on the assembled detector (PNG)."""

from pulsetrain.detector_figures import draw_powder
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

PANELS = (
    ("powder_all", "powder", "counts", "all frames"),
    ("powder_hits", "hits", "hit_counts", "hits"),
    ("powder_misses", "misses", "miss_counts", "misses"),
)


if __name__ == "__main__":
    job = snakemake  # noqa: F821
    begin_job(job.rule, dict(job.params), job.input, job.log[0])
    for output, total, counts, title in PANELS:
        figure = draw_powder(
            checkout_path(job.params.geometry), job.input.powder, total, counts, f"run {job.params.run}: {title}"
        )
        save_figure(figure, job.output[output])
