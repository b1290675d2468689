"""Work on several processes."""

import os
import signal
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import pytest

from pulsetrain.parallel import run_all


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def fail():
    raise ValueError("module 7 is broken")


@pytest.mark.parametrize("processes", [1, 2])
def test_all_tasks_run(tmp_path, processes):
    run_all([partial(Path.touch, tmp_path / str(number)) for number in range(5)], processes)
    assert sorted(path.name for path in tmp_path.iterdir()) == list("01234")


@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_is_raised(tmp_path, processes):
    with pytest.raises(ValueError, match="module 7 is broken"):
        run_all([partial(Path.touch, tmp_path / "a"), fail], processes)


def test_a_killed_process_is_an_error_and_not_an_endless_wait(tmp_path):
    with pytest.raises(BrokenProcessPool):
        run_all([partial(Path.touch, tmp_path / "a"), die], 2)
