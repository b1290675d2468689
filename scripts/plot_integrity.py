"""Draw the integrity table and the coverage of modules by trains (PNG)."""

import json
from pathlib import Path

from pulsetrain.figures import save_figure
from pulsetrain.integrity import COVERAGE
from pulsetrain.provenance import begin_job
from pulsetrain.run_figures import draw_coverage, draw_integrity

if __name__ == "__main__":
    job = snakemake  # noqa: F821
    attributes = begin_job(job.rule, dict(job.params), job.input, job.log[0])
    report = json.loads(Path(job.input.integrity).read_text(encoding="utf-8"))
    save_figure(draw_integrity(report), job.output.integrity, attributes)
    save_figure(draw_coverage(job.input.frames, COVERAGE), job.output.coverage, attributes)
