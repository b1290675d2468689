"""Write what is known of a simulated DSSC run: scan, pulse energies, mask, true means.

Output ``truth``: HDF5, group dssc (docs/simulator.md).
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_dssc_files import write_truth

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_truth(job.output.truth, job.params.settings, job.params.run, attributes)
