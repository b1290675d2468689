"""Write one page with the summary and the pictures of an exported MID run (HTML, self-contained)."""

from pulsetrain.mid_page import write_page
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    write_page(
        run=job.params.run,
        sample=job.params.sample,
        mid=job.input.mid,
        integrity=job.input.integrity,
        names=job.params.figures,
        figures=list(job.input.figures),
        captions=[checkout_path(f"rules/report/{name}.rst") for name in job.params.figures],
        output=job.output.page,
        attributes=attributes,
    )
