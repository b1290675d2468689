"""A run of a million frames."""

import subprocess
import sys

from conftest import REPOSITORY


def test_million_frames_of_sixteen_modules_pass_check_and_vds_in_bounded_memory():
    """The benchmark builds the run, takes it through check_run and make_vds and fails if a frame is lost."""
    command = [sys.executable, str(REPOSITORY / "benchmarks" / "million_frames.py")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    figures = dict(line.split(" = ") for line in done.stdout.splitlines())
    assert float(figures["million_frames_check_peak_gb"]) < 4
