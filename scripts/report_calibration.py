"""Write one page with the pictures of a calibration, their captions and its numbers (HTML, self-contained).

Output ``report/calibration_{calibration}.html``.
"""

from pulsetrain.calibration_page import write_page
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    names = [*job.params.figures, *job.params.module_figures]
    write_page(
        calibration=job.params.calibration,
        summaries=list(job.input.summaries),
        masks=list(job.input.masks),
        intervals=job.input.intervals,
        names=job.params.figures,
        figures=list(job.input.figures),
        module_names=job.params.module_figures,
        module_figures=list(job.input.module_figures),
        captions=[checkout_path(f"rules/report/calibration_{name}.rst") for name in names],
        output=job.output.page,
        attributes=attributes,
    )
