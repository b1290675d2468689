"""Work on several processes."""

from functools import partial
from pathlib import Path

import pytest

from pulsetrain.parallel import run_all


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
