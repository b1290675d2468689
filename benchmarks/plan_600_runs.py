"""Plan a run table of 600 runs (16 modules, 10 files each): time and memory of `snakemake -n`, per run and in all.

Prints lines ``name = number``: the time against that of planning one run, seconds, and gigabytes; when nothing is done
and when everything is.
"""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
RUNS = 600
SEQUENCES = 10


def make_runs(place):
    """Write empty files with the names of 600 corrected runs, a run table and a configuration."""
    for run in range(1, RUNS + 1):
        names = [
            f"proc/r{run:04d}/CORR-R{run:04d}-AGIPD{module:02d}-S{sequence:05d}.h5"
            for module in range(16)
            for sequence in range(SEQUENCES)
        ]
        names += [f"raw/r{run:04d}/RAW-R{run:04d}-DA{number:02d}-S00000.h5" for number in (1, 2, 3)]
        for name in names:
            path = place / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    (place / "runs.csv").write_text("run\n" + "\n".join(f"{run:04d}" for run in range(1, RUNS + 1)) + "\n")
    names = {"data_root": "data", "scratch": "scratch", "runs": "runs.csv"}
    config = {key: str(place / name) for key, name in names.items()} | {"simulate": None}
    (place / "config.yaml").write_text(yaml.safe_dump(config))


def snakemake_command(place, *arguments):
    """Command line of snakemake for the runs in `place`."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), *arguments]
    return [*command, "--configfile", str(place / "config.yaml")]


def pretend_all_is_done(place):
    """Make every output an empty file that snakemake takes for done."""
    listed = subprocess.run(
        snakemake_command(place, "--summary"), cwd=place, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    for line in listed.stdout.splitlines()[1:]:
        path = place / "scratch" / line.split("\t")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    subprocess.run(
        snakemake_command(place, "-c1", "--touch", "--forceall", "--quiet", "all"),
        cwd=place,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def plan(place, *targets):
    """Seconds and peak memory [GB] of a dry run."""
    command = snakemake_command(place, "-n", *targets, "--quiet", "all")
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(f"{' '.join(command)} failed")
    return time.perf_counter() - start, usage.ru_maxrss / 1e6


def main():
    """Measure."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_runs(place)
        one, _ = min(plan(place, "r0300_hits.cxi") for _ in range(2))
        every, memory = plan(place)
        print(f"plan_600_runs_vs_one = {every / one:.1f}")
        print(f"plan_600_runs_s = {every:.1f}")
        print(f"plan_600_runs_peak_gb = {memory:.2f}")
        pretend_all_is_done(place)
        every, memory = plan(place)
        print(f"plan_600_runs_done_s = {every:.1f}")
        print(f"plan_600_runs_done_peak_gb = {memory:.2f}")


if __name__ == "__main__":
    main()
