# From X-ray free-electron-laser pulse trains to photon hits. Results lie below the directory `scratch` of the
# configuration; docs/file-formats.md lists them. Short names: r0050_hits.cxi, r0050.emc, r0050_events.h5, ...
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.25")

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))


configfile: str(Path(workflow.basedir) / "config" / "config.yaml")


include: "rules/common.smk"


workdir: str(SCRATCH)


report: "rules/report/workflow.rst"


wildcard_constraints:
    run=r"\d{4}",
    module=r"\d{2}",
    sequence=r"\d{5}",
    calibration=r"[A-Za-z0-9_.-]+(?<!_m\d\d)",


localrules:
    all,


include: "rules/integrity.smk"
include: "rules/pulses.smk"
include: "rules/masks.smk"
include: "rules/hitfinding.smk"
include: "rules/hits.smk"
include: "rules/agipd_calibration.smk"
include: "rules/plots.smk"
include: "rules/links.smk"
include: "rules/summary.smk"
include: "rules/mid.smk"
include: "rules/dssc.smk"
include: "rules/jungfrau.smk"


if config["simulate"] is not None:

    include: "rules/simulate.smk"


rule all:
    """Everything for every run of the run table."""
    default_target: True
    input:
        all_targets(),
