"""Write a simulated repository of Jungfrau constants, descriptions, deployed constants, and the truth.

Output ``panels``: g0_gain.npy ... float32 (512, 1024) per panel directory, with links and the mark ``SIMULATED.txt``
beside them; ``datasets`` (YAML); ``deployed`` (text); ``truth``: ``<data set>/pixel_gain`` and ``pixel_offset`` float32
(3, P, 512, 1024), attribute ``directories`` (JSON).
"""

from pulsetrain import simulate_jungfrau
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    seed = int(job.params.seed)
    simulate_jungfrau.mark_repository(job.params.repository, attributes)
    simulate_jungfrau.write_repository(job.params.repository, seed)
    simulate_jungfrau.write_datasets(job.output.datasets, attributes)
    simulate_jungfrau.write_deployed(job.params.calib, seed, attributes)
    simulate_jungfrau.write_truth(job.output.truth, seed, attributes)
