"""Outputs appear whole or not at all."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import h5py
import numpy as np
import pytest

from pulsetrain.output import new_h5, whole_file, write_array, write_text

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_error_leaves_nothing(tmp_path):
    with pytest.raises(KeyError), new_h5(tmp_path / "a.h5", {}) as file:
        file["x"] = 1
        raise KeyError("x")
    assert list(tmp_path.iterdir()) == []


def test_error_keeps_the_old_file(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(KeyError), whole_file(tmp_path / "a.txt") as part:
        part.write_text("half")
        raise KeyError("x")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_killed_job_leaves_nothing_under_the_final_name_and_the_next_cleans_up(tmp_path):
    target = tmp_path / "a.h5"
    program = textwrap.dedent(f"""
        import sys, time
        sys.path.insert(0, {str(SCRIPTS)!r})
        from pulsetrain.output import new_h5
        with new_h5({str(target)!r}, {{}}) as file:
            file["x"] = 1
            file.flush()
            print("writing", flush=True)
            time.sleep(60)
    """)
    job = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert job.stdout.readline() == "writing\n"
    job.send_signal(signal.SIGKILL)
    job.wait()
    job.stdout.close()
    assert not target.exists()
    assert len(list(tmp_path.iterdir())) == 1
    write_text(target, "done")
    assert [path.name for path in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize(
    ("mode", "umask", "expected"), [("0666", 0o022, 0o644), ("0664", 0o002, 0o664), ("0640", 0o022, 0o640)]
)
def test_mode_is_that_of_the_config_less_the_umask(tmp_path, monkeypatch, mode, umask, expected):
    monkeypatch.setenv("PULSETRAIN_OUTPUT_MODE", mode)
    before = os.umask(umask)
    try:
        write_text(tmp_path / "a.txt", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == expected


def test_attributes_and_arrays_come_back(tmp_path):
    values = np.arange(24, dtype=np.uint32).reshape(2, 3, 4)
    with new_h5(tmp_path / "sub" / "a.h5", {"rule": "find_hits"}) as file:
        write_array(file, "values", values, units="photons", description="a test")
        write_array(file, "empty", np.zeros((0, 3)))
        write_array(file, "scalar", 2.5)
    with h5py.File(tmp_path / "sub" / "a.h5") as file:
        assert file.attrs["rule"] == "find_hits"
        assert file["values"].attrs["units"] == "photons"
        assert file["values"].chunks == (1, 3, 4)
        np.testing.assert_array_equal(file["values"][()], values)
        assert file["empty"].shape == (0, 3)
        assert file["scalar"][()] == 2.5
