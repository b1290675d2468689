"""Check all source files of a run; always succeeds, so that the findings stay readable.

Outputs: ``frames/r....h5`` (kept frames trainId, pulseId u8, cellId u2, modules u4, all (N,); /files; /segments;
/trains) and ``integrity/r....json`` (verdict, counts by reason, findings). docs/file-formats.md has the details.
"""

from pulsetrain.integrity import check_run
from pulsetrain.provenance import begin_job, input_files

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    check_run(
        files=input_files(job.input, job.params.sizes),
        frames=job.output.frames,
        integrity=job.output.integrity,
        run=job.params.run,
        stream=job.params.stream,
        detector=job.params.detector["name"],
        modules=job.params.detector["modules"],
        min_modules=job.params.detector["min_modules"],
        modules_key=job.params.detector["modules_key"],
        max_lost=job.params.max_lost,
        policy=job.params.policy,
        sizes=job.params.sizes,
        attributes=attributes,
    )
