"""Combine what the calibration data of one module gave into its constants, in lab orientation.

Writes ``constants_m{module}.h5``: analogGains_keV float32 (3, cells, 128, 512) [keV/ADU], darkOffsets float32
(3, cells, 128, 512) [ADU], both NaN where not known; digitalThresholds int16 (2, cells, 128, 512) [ADU], 32767 where
not known.
"""

from pulsetrain.combine import combine_constants
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    combine_constants(
        job.input.dark,
        job.input.analog_gains,
        job.input.digital_means,
        job.input.photon_spacing,
        job.output.constants,
        attributes,
        module=job.params.module,
        xray_cell=job.params.xray_cell,
        photon_energy_kev=job.params.photon_energy_kev,
    )
