"""Draw images, binned curve, scan, counts, pulse energies and account of the frames of DSSC averages (PNG)."""

from pulsetrain import dssc_figures
from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    selections, sums, joined = list(job.input.selections), list(job.input.sums), job.input.joined
    n = len(sums) // len(selections)
    frames = dssc_figures.read_frames(selections, [sums[start : start + n] for start in range(0, len(sums), n)])
    given = job.params.geometry
    geometry = dssc_figures.read_geometry(given, given and checkout_path(given["file"]))
    save_figure(dssc_figures.draw_curve(frames, joined), job.output.curve, attributes)
    save_figure(dssc_figures.draw_images(joined, geometry), job.output.images, attributes)
    save_figure(dssc_figures.draw_scan(selections, joined), job.output.scan, attributes)
    save_figure(dssc_figures.draw_counts(frames, joined), job.output.counts, attributes)
    save_figure(dssc_figures.draw_energies(frames, job.params.limits), job.output.energies, attributes)
    save_figure(dssc_figures.draw_account(joined), job.output.account, attributes)
