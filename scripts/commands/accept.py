"""Outputs that a killed call's jobs finished unseen: accept those that are what is planned, remove the others.

A Slurm job outlives a snakemake that was killed, and its outputs then lack snakemake's record: later changes of code or
parameters would go unseen for them. Each output carries what made it, so it can be compared with the plan exactly.
This needs the planned parameters, which no dry run tells: the graph of jobs is built here as snakemake's own interface
for Python does it. Called by process and watch, after they removed the lock of a killed snakemake.
"""

import argparse
import sys
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from snakemake.api import SnakemakeApi  # noqa: E402
from snakemake.exceptions import print_exception  # noqa: E402
from snakemake.logging import logger  # noqa: E402
from snakemake.settings.enums import RerunTrigger  # noqa: E402
from snakemake.settings.types import (  # noqa: E402
    ConfigSettings,
    DAGSettings,
    ExecutionSettings,
    OutputSettings,
    ResourceSettings,
)

from pulsetrain.origin import is_as_planned  # noqa: E402

TRIGGERS = {RerunTrigger.MTIME, RerunTrigger.PARAMS, RerunTrigger.INPUT, RerunTrigger.SOFTWARE_ENV}


def accept_outputs(targets, configfiles):
    """Go through all jobs whose outputs are there without a record.

    Parameters
    ----------
    targets : list of str
        As for snakemake.
    configfiles : list of Path

    Returns
    -------
    tuple of list of str
        Outputs that were accepted, and outputs that were removed.
    """
    accepted, removed = [], []
    logger.addFilter(_is_warning)
    with SnakemakeApi(OutputSettings()) as api:
        workflow_api = api.workflow(
            ResourceSettings(cores=1), ConfigSettings(configfiles=configfiles), snakefile=BASEDIR / "Snakefile"
        )
        workflow_api.dag(DAGSettings(targets=set(targets), rerun_triggers=TRIGGERS))
        workflow = workflow_api._workflow
        workflow.execution_settings = ExecutionSettings()
        workflow._prepare_dag(forceall=False, ignore_incomplete=True, lock_warn_only=False, nolock=True)
        workflow._build_dag()
        for job in list(workflow.dag.jobs):
            outputs = [Path(path) for path in job.output]
            # What is stale anyway, or marked as incomplete, is made again without more ado.
            if not outputs or not all(path.exists() for path in outputs) or workflow.dag.needrun(job):
                continue
            persistence = workflow.persistence
            if persistence.has_metadata(job) or workflow.async_run(persistence.incomplete(job)):
                continue
            names = list(map(str, job.output))
            if job.is_script and is_as_planned(outputs, job.rule.name, dict(job.params)):
                workflow.async_run(persistence.finished(job))
                accepted += names
            else:
                for path in outputs:
                    path.unlink()
                removed += names
    return accepted, removed


def _is_warning(record):
    return record.levelname in ("WARNING", "ERROR", "CRITICAL")


def main(arguments=None):
    """Accept and remove."""
    parser = argparse.ArgumentParser(prog="accept", description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("targets", nargs="*", help="as for snakemake")
    given = parser.parse_args(arguments)
    try:
        accepted, removed = accept_outputs(given.targets, [Path(path).absolute() for path in given.configfile])
    except Exception as error:
        print_exception(error)
        return 1
    for names, what in (
        (accepted, "finished unseen and are what is planned; accepted"),
        (removed, "finished unseen and are not what is planned, or do not tell; removed, to be made again"),
    ):
        if names:
            more = f" and {len(names) - 4} more" if len(names) > 4 else ""
            sys.stdout.write(f"{len(names)} outputs of jobs of a killed call {what}: {', '.join(names[:4])}{more}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
