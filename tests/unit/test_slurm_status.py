"""The executor plugin for Slurm asks in even steps and understands accounting; fails when the plugin changes."""

import asyncio
import logging
from types import SimpleNamespace

import pytest
import snakemake_executor_plugin_slurm as plugin
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

from pulsetrain.slurm_status import ask_steadily

WAIT_S = 7


class NoLimit:
    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        return None


def make_executor():
    """An executor of the plugin that has submitted nothing, without the thread that asks."""
    executor = object.__new__(plugin.Executor)
    settings = {"init_seconds_before_status_checks": 5, "status_attempts": 1, "status_command": "sacct"}
    settings |= {"requeue": True, "keep_successful_logs": True}
    executor.workflow = SimpleNamespace(
        executor_settings=SimpleNamespace(**settings),
        remote_execution_settings=SimpleNamespace(seconds_between_status_checks=WAIT_S),
    )
    executor.logger = logging.getLogger("test")
    executor.run_uuid = "pulsetrain_test"
    executor._next_seconds_between_status_checks = None
    executor._preemption_warning = False
    executor._status_query_calls = executor._status_query_failures = 0
    executor._status_query_total_seconds = executor._status_query_max_seconds = 0.0
    executor._status_query_min_seconds = None
    executor._status_query_cycle_rows = []
    executor.status_rate_limiter = NoLimit()
    executor.ended = {}
    executor.report_job_success = lambda job: executor.ended.update({job.external_jobid: "success"})
    executor.report_job_error = lambda job, **_: executor.ended.update({job.external_jobid: "error"})
    return executor


@pytest.fixture
def executor(tmp_path, monkeypatch):
    """Accounting has three jobs: 1 runs, 2 was cancelled, 3 is done."""
    accounting = tmp_path / "sacct"
    accounting.write_text("#!/bin/sh\nprintf '1|RUNNING\\n2|CANCELLED by 1234\\n3|COMPLETED\\n'\n")
    accounting.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(plugin, "query_job_status", plugin.query_job_status)
    monkeypatch.setattr(
        plugin.Executor,
        "next_seconds_between_status_checks",
        RemoteExecutor.next_seconds_between_status_checks,
        raising=False,
    )
    return make_executor()


def still_active(executor, *numbers):
    jobs = [SimpleNamespace(external_jobid=number, aux={}, job=None) for number in numbers]

    async def ask():
        return [job.external_jobid async for job in executor.check_active_jobs(jobs)]

    return asyncio.run(ask())


def waits(executor, monkeypatch):
    """How long the executor sleeps before it asks again."""
    slept = []

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    asyncio.run(executor.sleep())
    return slept


def test_executor_by_itself_waits_longer_each_time_and_does_not_see_a_cancelled_job(executor, monkeypatch):
    """Should this fail, the plugin was mended: then pulsetrain.slurm_status can go."""
    assert still_active(executor, "1", "2") == ["1", "2"]
    assert waits(executor, monkeypatch) == [WAIT_S + 10]


def test_executor_asks_in_even_steps(executor, monkeypatch):
    ask_steadily(executor)
    assert still_active(executor, "1") == ["1"]
    assert waits(executor, monkeypatch) == [WAIT_S]


def test_executor_sees_by_accounting_that_a_job_was_cancelled(executor):
    ask_steadily(executor)
    assert still_active(executor, "1", "2", "3") == ["1"]
    assert executor.ended == {"2": "error", "3": "success"}


def test_executor_says_once_that_it_gets_no_answer_and_forgets_no_job(executor, tmp_path, caplog):
    answers = (tmp_path / "sacct").read_text()
    (tmp_path / "sacct").write_text("#!/bin/sh\nexit 1\n")
    assert still_active(executor, "1", "3") == [], "the plugin by itself forgets them"
    ask_steadily(executor)
    assert still_active(executor, "1", "3") == ["1", "3"]
    assert still_active(executor, "1", "3") == ["1", "3"]
    assert [record.getMessage() for record in caplog.records if record.levelname == "WARNING"] == [
        "`sacct` gives no states of jobs; it is asked again every 7 s"
    ]
    (tmp_path / "sacct").write_text(answers)
    assert still_active(executor, "1", "3") == ["1"]
    assert executor.ended == {"3": "success"}


def test_other_executors_stay_as_they_are(executor):
    ask_steadily(SimpleNamespace())
    ask_steadily(None)
    assert still_active(executor, "1", "2") == ["1", "2"]
