"""Join the modules of a run in one virtual dataset, without copying a pixel.

Output ``vds/r...._vds_<stream>.h5``: ``/INSTRUMENT/<detector>/DET/image/data`` (16, N, 2, 512, 128) uint16 [ADU]
(raw) or (16, N, 512, 128) [photons or keV] (proc), trainId and pulseId uint64, cellId uint16, all (N,), and
``/pulsetrain``: the frame table, source files and segments.
"""

from pulsetrain.provenance import begin_job
from pulsetrain.vds import make_vds

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    make_vds(
        frames=job.input.frames,
        vds=job.output.vds,
        control=list(job.input.control),
        detector=job.params.detector,
        stream=job.params.stream,
        proc_units=job.params.proc_units,
        photon_energy_kev=job.params.photon_energy_kev,
        xgm=job.params.xgm,
        attributes=attributes,
    )
