"""How snakemake asks Slurm for the states of its jobs: in even steps, and so that every answer is understood."""

import sys

PLUGIN = "snakemake_executor_plugin_slurm"


def ask_steadily(executor):
    """Mend habits of the executor plugin for Slurm (2.8.0) that no setting changes; leave other executors alone.

    It waits 10 s longer after each question that found no ended job, up to 180 s, so a chain of short jobs goes on
    minutes after a longer job ended; now it always waits ``seconds-between-status-checks``. It does not understand
    how accounting writes the state of a job that somebody cancelled, ``CANCELLED by 1234``, and waits for it for ever.
    And it forgets its jobs after some questions without an answer; now it says so and asks again.

    Parameters
    ----------
    executor : object
        The executor of this call of snakemake.
    """
    plugin = sys.modules.get(PLUGIN)
    if plugin is None or not isinstance(executor, plugin.Executor):
        return
    seconds = executor.workflow.remote_execution_settings.seconds_between_status_checks
    plugin.Executor.next_seconds_between_status_checks = property(lambda self: seconds, lambda self, longer: None)
    plugin.query_job_status = _mended(plugin.query_job_status, seconds)


def _mended(query, seconds):
    """Give states in one word each, and none while there is no answer: then all jobs count as running."""
    silent = False

    async def plain_states(command, logger):
        nonlocal silent
        states, duration = await query(command, logger)
        if states is None and not silent:
            problem = f"`{command.split()[0]}` gives no states of jobs; it is asked again every {seconds} s"
            logger.warning(problem)
        silent = states is None
        return {job: state.split(" ")[0] for job, state in (states or {}).items()}, duration or 0.0

    return plain_states
