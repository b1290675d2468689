"""Decide which frames of a run are hits, and draw the misses.

Output ``events/r...._events.h5``, one entry per frame in the order (train, pulse):

============  =====  =======  =================================================================
dataset       dtype  unit
============  =====  =======  =================================================================
trainId       u8
pulseId       u8
cellId        u2
litpixels     u4     pixels   with at least one photon and a good mask
photons       u8     photons  in good pixels
hitscore      u8     photons  in good pixels of the hit region
is_hit        bool            hitscore > threshold
is_miss       bool            drawn by lot, as many as hits
hit_sigma     f4              standard deviations of hitscore above the background
threshold     f4     photons  NaN in trains that a guard rejected
pulse_energy  f8     J        NaN = unknown
wavelength    f8     m        NaN = unknown
modules       u4              bit m is set when module m has the frame
============  =====  =======  =================================================================

``trains/``: trainId, median, sigma, threshold (at the mean pulse energy), slope (photons/J), n_frames and guard
('' = valid) per train; attributes of ``guard`` say what each guard did.
``self_test/``: shift, correlation, n_frames; attributes verdict (ok, shifted, undecided) and reason.
Root attributes: n_hits, n_misses, status (complete, no hits, empty), reason.
"""

from pulsetrain.hits import find_hits
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    find_hits(
        litpixels=list(job.input.litpixels),
        pulses=job.input.pulses,
        frames=job.input.frames,
        output=job.output.events,
        threshold_sigma=job.params.threshold_sigma,
        scale_by_pulse_energy=job.params.scale_by_pulse_energy,
        min_frames=job.params.min_frames,
        min_score=job.params.min_score,
        min_spread=job.params.min_spread,
        min_pulse_energy_mj=job.params.min_pulse_energy_mj,
        seed=job.params.seed,
        attributes=attributes,
    )
