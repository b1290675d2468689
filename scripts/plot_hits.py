"""Draw the hit score, its histogram, the guards, the hit rate and the self-test of the pulse energies (PNG)."""

from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job
from pulsetrain.run_figures import (
    draw_guards,
    draw_hit_rate,
    draw_hitscore,
    draw_hitscore_histogram,
    draw_pulse_energy,
    read_events,
)

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    provenance = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    frames, trains, self_test, attributes = read_events(job.input.events)
    save_figure(draw_hitscore(frames, trains, attributes), job.output.hitscore, provenance)
    save_figure(draw_hitscore_histogram(frames, attributes), job.output.hitscore_histogram, provenance)
    save_figure(draw_guards(trains), job.output.guards, provenance)
    save_figure(draw_hit_rate(frames, attributes), job.output.hit_rate, provenance)
    save_figure(draw_pulse_energy(frames, self_test, attributes), job.output.pulse_energy, provenance)
