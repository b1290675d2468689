"""Draw the self-test of the pulse energies (PNG)."""

from pulsetrain.figures import save_figure
from pulsetrain.provenance import begin_job
from pulsetrain.run_figures import draw_pulse_energy, read_events

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    begin_job(job.rule, dict(job.params), job.input, job.log[0])
    frames, _, self_test, attributes = read_events(job.input.events)
    save_figure(draw_pulse_energy(frames, self_test, attributes), job.output.pulse_energy)
