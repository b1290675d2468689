"""Write the truth of a simulated MID run.

Output ``truth``: /expected/{trainId, pulseId}, /dropped/{trainId, detectors}, /EPIX-{1,2}/line_row.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_mid import write_truth

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_truth(
        job.output.truth,
        job.params.settings,
        int(job.params.run),
        job.params.stream,
        job.params.epix,
        job.params.pulse_ids,
        attributes,
    )
