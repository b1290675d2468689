"""Give each frame of a run the X-ray pulse that hit it.

Output ``pulses/r....h5``:

==================  =====  ======  ====  ==========================================================
dataset             dtype  shape   unit
==================  =====  ======  ====  ==========================================================
pulse_energy        f8     (N,)    J     NaN = unknown
wavelength          f8     (N,)    m     NaN = unknown
xgm_index           i4     (N,)          entry of the gas monitor's pulse list, -1 = none
xgm/trainId         u8     (T,)          trains of the run
xgm/pulse_energy    f8     (T, P)  J     all pulses of the gas monitor, NaN = none
==================  =====  ======  ====  ==========================================================

Attributes: method, reason, offset, n_unmatched.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.pulses import map_pulses

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    map_pulses(
        frames=job.input.frames,
        control=list(job.input.control),
        output=job.output.pulses,
        method=job.params.method,
        xgm=job.params.xgm,
        litfrm=job.params.litfrm,
        offset=job.params.offset,
        photon_energy_kev=job.params.photon_energy_kev,
        attributes=attributes,
    )
