"""Simulate the files of a run that are not the detector's.

Outputs ``control``: XGM (data/intensityTD (T, 1000) float32 [uJ]) and the AGIPD's conditions; ``litfrm`` (if asked
for): which XGM pulse belongs to which frame.
"""

from pulsetrain.provenance import begin_job, checkout_path
from pulsetrain.simulate_files import write_control_file, write_litfrm_file

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    settings = job.params.settings | {"geometry": checkout_path(job.params.settings["geometry"])}
    write_control_file(job.output.control, settings, int(job.params.run), attributes)
    for path in job.output.get("litfrm", []):
        write_litfrm_file(path, settings, int(job.params.run), attributes)
