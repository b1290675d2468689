"""Simulate one sequence file of one module.

Output ``file``: EXDF file, image/data (N, 2, 512, 128) uint16 [ADU] (raw) or (N, 512, 128) [photons or keV] (proc),
image/{trainId, pulseId, cellId}, and for proc image/{mask, gain}.
"""

from pulsetrain.provenance import begin_job, checkout_path
from pulsetrain.simulate_files import write_module_file

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    settings = job.params.settings | {"geometry": checkout_path(job.params.settings["geometry"])}
    write_module_file(
        job.output.file,
        settings,
        int(job.params.run),
        job.params.stream,
        int(job.params.module),
        int(job.params.sequence),
        attributes,
    )
