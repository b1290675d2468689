"""Decide for each DSSC frame of a run whether it counts, in which bin of a scan and under which name.

Output ``dssc/r...._frames_by-....h5``: names, scan_variable f8 (B,), bin i4 (N,), name u2 (N,), reason u1 (N,),
energy f8 (N,); groups trains and account. docs/file-formats.md has the details.
"""

from pulsetrain.dssc_selection import select_frames
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    settings = dict(job.params.settings)
    if settings["frame_mask"] is not None:
        settings["frame_mask"] = checkout_path(settings["frame_mask"])
    if settings["variable"] is not None and settings["variable"]["file"] is not None:
        settings["variable"] = settings["variable"] | {"file": checkout_path(settings["variable"]["file"])}
    select_frames(
        job.input.frames,
        list(job.input.control),
        job.output.selection,
        attributes,
        run=job.params.run,
        scan=job.params.scan,
        settings=settings,
        xgm=job.params.xgm,
    )
