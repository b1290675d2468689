"""Equalize one module of a raw run or of a gathered calibration file: energies and gain stages, in lab orientation.

Writes ``equalized/{name}_m{module}.h5``: analogCorrected float32 (n, cells, 128, 512) [keV], 0 where masked;
digitalGainStage int8 (n, cells, 128, 512), -1 where masked; cellId u2 (cells,). Of a run, n are the trains: trainId u8
(n,), pulseId u8 and present bool (n, cells).
"""

from pulsetrain.equalize import equalize_gathered, equalize_run
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    files = (job.input.source, job.input.constants, job.input.mask, job.output.equalized, attributes)
    options = {
        "module": job.params.module,
        "common_mode": job.params.common_mode,
        "baseline_shift": job.params.baseline_shift,
        "threads": job.threads,
    }
    if job.params.source == "run":
        equalize_run(*files, **options)
    else:
        equalize_gathered(*files, photon_energy_kev=job.params.photon_energy_kev, **options)
