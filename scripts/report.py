"""Write one page with the pictures of a run, their captions and its numbers (HTML, self-contained)."""

from pulsetrain.provenance import begin_job, checkout_path
from pulsetrain.run_page import write_page

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_page(
        run=job.params.run,
        sample=job.params.sample,
        names=job.params.figures,
        figures=list(job.input.figures),
        captions=[checkout_path(f"rules/report/{name}.rst") for name in job.params.figures],
        integrity=job.input.integrity,
        events=job.input.events,
        cxi=job.input.cxi,
        emc=job.input.emc,
        output=job.output.page,
        attributes=attributes,
    )
