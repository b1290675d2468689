"""Write the truth of a simulated run.

Output ``truth``: /frames (hits, photons, orientations, pulse energies [J]), /faults, /expected, /constants.
"""

from pulsetrain.provenance import begin_job, checkout_path
from pulsetrain.simulate_truth import write_truth

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    settings = job.params.settings | {"geometry": checkout_path(job.params.settings["geometry"])}
    write_truth(job.output.truth, settings, int(job.params.run), job.params.stream, attributes)
