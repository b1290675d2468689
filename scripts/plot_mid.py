"""Draw trains, mean images, signal along the run and photon peaks of an exported MID run (PNG)."""

from pulsetrain import mid_figures
from pulsetrain.figures import save_figure
from pulsetrain.mid_sums import gather_sums
from pulsetrain.mid_trains import read_exported
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    exported = read_exported(job.input.mid)
    sums = gather_sums(job.input.mid)
    save_figure(mid_figures.draw_trains(exported), job.output.mid_trains, attributes)
    save_figure(mid_figures.draw_agipd(checkout_path(job.params.geometry), sums), job.output.mid_agipd, attributes)
    save_figure(mid_figures.draw_epix(sums), job.output.mid_epix, attributes)
    save_figure(mid_figures.draw_signal(sums), job.output.mid_signal, attributes)
    if exported.correction is not None:
        save_figure(mid_figures.draw_photons(sums, exported.correction), job.output.mid_photons, attributes)
