"""Put AGIPD and ePix of a MID run into one file.

Output ``mid/r....h5``: ``data/AGIPD/index/{trainId, pulseId, cellId}`` (F,), ``data`` and (raw) ``gain``
(F, M, 512, 128) virtual, ``data/AGIPD/moduleId`` (M,), ``data/EPIX-{1,2}/data`` (T, 708, 768) virtual,
``index/{run, stream, trainId}``, ``index/dropped``; with mid.calib ``adu``, ``data``, ``mask`` (2, F, M, 512, 128) and
``baseline`` (F, M) in ``data/AGIPD_corrected``.
"""

from pulsetrain.mid_export import Correction, export_mid
from pulsetrain.provenance import begin_job

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    correction = Correction(
        next(iter(job.input.dark), None),
        list(job.input.constants),
        list(job.input.masks),
        next(iter(job.input.vds), None),
        job.params.adu_per_photon,
        job.params.baseline_rows,
    )
    export_mid(
        job.input.frames,
        list(job.input.epix),
        job.output.mid,
        attributes,
        run=job.params.run,
        stream=job.params.stream,
        detector=job.params.detector,
        modules=job.params.modules,
        numbers=job.params.epix,
        pulse_ids=job.params.pulse_ids,
        max_lost=job.params.max_lost,
        sizes=job.params.sizes,
        correction=correction if job.params.calib else None,
        threads=job.threads,
    )
