"""How snakemake asks Slurm for the states of its jobs: in even steps, and so that every answer is understood."""

import sys

PLUGIN = "snakemake_executor_plugin_slurm"


def ask_steadily(executor):
    """Mend two habits of the executor plugin for Slurm (2.8.0) that no setting changes; leave other executors alone.

    It waits 10 s longer after each question that found no ended job, up to 180 s, so a chain of short jobs goes on
    minutes after a longer job ended; now it always waits ``seconds-between-status-checks``. And it does not understand
    how accounting writes the state of a job that somebody cancelled, ``CANCELLED by 1234``, and waits for it for ever.

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
    plugin.query_job_status = _in_one_word(plugin.query_job_status)


def _in_one_word(query):
    """Take ``by 1234`` and the like off the states that a query gives."""

    async def one_word_states(command, logger):
        states, duration = await query(command, logger)
        return states and {job: state.split(" ")[0] for job, state in states.items()}, duration

    return one_word_states
