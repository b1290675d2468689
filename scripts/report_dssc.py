"""Write one page with the pictures of DSSC averages, their captions and numbers (HTML, self-contained)."""

from pulsetrain.dssc_page import write_page
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_page(
        name=job.params.name,
        samples=job.params.samples,
        joined=job.input.joined,
        integrity=list(job.input.integrity),
        names=job.params.figures,
        figures=list(job.input.figures),
        captions=[checkout_path(f"rules/report/dssc_{name}.rst") for name in job.params.figures],
        output=job.output.page,
        attributes=attributes,
    )
