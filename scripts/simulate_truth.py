"""Write the truth of a simulated run.

Output ``truth``: /frames (hits, photons, orientations, pulse energies [J]), /faults, /expected, /constants.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_truth import write_truth

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0], job.threads)
    write_truth(job.output.truth, job.params.settings, int(job.params.run), job.params.stream, attributes)
