"""Write the truth of the simulated calibration data of one module.

Output ``truth``, group cal, laboratory orientation: analogGains float32 (3, C, 128, 512) [ADU/clock],
gains_adu_per_photon [ADU/photon], offsets [ADU], keV_per_adu, noise, digital, thresholds, photon_spacing, current, bad.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.simulate_calibration_files import write_calibration_truth

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_calibration_truth(
        job.output.truth, job.params.settings, job.params.calibration, int(job.params.module), attributes
    )
