"""Write one page with the constants of a Jungfrau: panels, directories, medians, changes, pictures (HTML).

Output ``report/jungfrau_{jungfrau}.html``.
"""

from pulsetrain.jungfrau import TYPES, Detector
from pulsetrain.jungfrau_gate import Limits
from pulsetrain.jungfrau_page import write_page
from pulsetrain.provenance import begin_job, checkout_path

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    names = {kind: kind.removeprefix("pixel_") for kind in TYPES}
    write_page(
        detector=Detector(**job.params.detector),
        arrays={kind: job.input[f"{name}_npy"] for kind, name in names.items()},
        texts={kind: job.input[f"{name}_txt"] for kind, name in names.items()},
        deployed=dict(zip(job.params.deployed, job.input.deployed, strict=True)),
        limits=Limits(*(job.params[name] for name in Limits._fields)),
        names=job.params.figures,
        figures=list(job.input.figures),
        captions=[checkout_path(f"rules/report/jungfrau_{name}.rst") for name in job.params.figures],
        output=job.output.page,
        attributes=attributes,
    )
