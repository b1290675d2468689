"""Plan a run table of 600 runs (16 modules, 10 files each): time and memory of `snakemake -n`, per run and in all.

Prints lines ``name = number``: the time against that of planning one run, seconds, and gigabytes; when nothing is done
and when everything is.
"""

import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from base64 import urlsafe_b64encode
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[1]
# From 1001, so that a run's number is not a number of something else.
RUNS = [str(number) for number in range(1001, 1601)]
FIRST_RUN = RUNS[0]
SEQUENCES = 10
# Time of all pretended outputs: later than the data's.
DATA_MADE, MADE = 1_700_000_000, 1_700_001_000


def make_runs(place):
    """Write empty files with the names of 600 corrected runs, a run table and a configuration."""
    for run in RUNS:
        names = [
            f"proc/r{run}/CORR-R{run}-AGIPD{module:02d}-S{sequence:05d}.h5"
            for module in range(16)
            for sequence in range(SEQUENCES)
        ]
        names += [f"raw/r{run}/RAW-R{run}-DA{number:02d}-S00000.h5" for number in (1, 2, 3)]
        for name in names:
            path = place / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            os.utime(path, (DATA_MADE, DATA_MADE))
    (place / "runs.csv").write_text("\n".join(["run", *RUNS]) + "\n")
    names = {"data_root": "data", "scratch": "scratch", "runs": "runs.csv"}
    config = {key: str(place / name) for key, name in names.items()} | {"simulate": None}
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    (place / "changed.yaml").write_text(yaml.safe_dump(config | {"hits": {"threshold_sigma": 7.5}}))


def snakemake_command(place, *arguments, configfile="config.yaml"):
    """Command line of snakemake for the runs in `place`."""
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), *arguments]
    return [*command, "--configfile", str(place / configfile)]


def snakemake(place, *arguments, configfile="config.yaml"):
    """Run snakemake; return what it said."""
    command = snakemake_command(place, *arguments, configfile=configfile)
    done = subprocess.run(command, cwd=place, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout[-4000:]}")
    return done.stdout


def pretend_all_is_done(place):
    """Make every output an empty file that snakemake takes for done.

    Snakemake itself notes how all this was made, for one run; for the others its notes are copied with their numbers.
    """
    template = FIRST_RUN
    outputs = listed_outputs(place, f"r{template}_hits.cxi")
    touch_all(place, outputs)
    snakemake(place, "-c1", "--touch", "--forceall", f"r{template}_hits.cxi")
    records = {name: read_record(place, name) for name in outputs}
    for run in RUNS:
        numbered = [renumbered(name, run) for name in outputs]
        touch_all(place, numbered)
        for name, record in records.items():
            path = record_path(place, renumbered(name, run))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(renumbered(record, run))


def listed_outputs(place, target):
    """All files that a target needs, as snakemake names them."""
    lines = snakemake(place, "--summary", target).splitlines()
    return [line.split("\t")[0] for line in lines if "\t" in line][1:]


def touch_all(place, names):
    """Make empty files of one age."""
    for name in names:
        path = place / "scratch" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (MADE, MADE))


def record_path(place, output):
    """Where snakemake notes how an output was made."""
    name = urlsafe_b64encode(output.encode()).decode()
    if len(name) >= 255:
        raise ValueError(f"{output}: so long names are cut")
    return place / "scratch" / ".snakemake" / "metadata" / name


def read_record(place, output):
    return record_path(place, output).read_text()


def renumbered(text, run):
    """A text about the first run as it is about another; digits of a hash stay as they are."""
    return re.sub(rf"(?<![0-9a-f]){FIRST_RUN}(?![0-9a-f])", run, text)


def check_that_records_count(place):
    """Raise unless nothing is to be done, and a changed setting is to be done again for the run that is asked for."""
    planned = snakemake(place, "-n", f"r{RUNS[-1]}_hits.cxi", configfile="changed.yaml")
    if "Params have changed" not in planned or not re.search(r"^find_hits +1$", planned, flags=re.MULTILINE):
        raise RuntimeError(f"a changed setting reruns nothing:\n{planned}")
    if re.search(r"^count_litpixels ", planned, flags=re.MULTILINE):
        raise RuntimeError(f"a changed setting of the hits reruns all:\n{planned}")


def plan(place, *targets):
    """Seconds and peak memory [GB] of a dry run, and what it said."""
    command = snakemake_command(place, "-n", *targets)
    with (place / "plan.log").open("w") as log:
        start = time.perf_counter()
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    said = (place / "plan.log").read_text()
    if status:
        raise RuntimeError(f"{' '.join(command)} failed:\n{said[-4000:]}")
    return seconds, usage.ru_maxrss / 1e6, said


def main():
    """Measure."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        make_runs(place)
        one = min(plan(place, f"r{RUNS[300]}_hits.cxi")[0] for _ in range(2))
        every, memory, said = plan(place)
        jobs = re.search(r"^total +(\d+)$", said, flags=re.MULTILINE)[1]
        print(f"plan_600_runs_jobs = {jobs}")
        print(f"plan_600_runs_vs_one = {every / one:.1f}")
        print(f"plan_600_runs_s = {every:.1f}")
        print(f"plan_600_runs_peak_gb = {memory:.2f}", flush=True)
        pretend_all_is_done(place)
        every, memory, said = plan(place)
        if "Nothing to be done" not in said:
            raise RuntimeError(f"not all is taken for done:\n{said[:4000]}")
        check_that_records_count(place)
        print(f"plan_600_runs_done_s = {every:.1f}")
        print(f"plan_600_runs_done_peak_gb = {memory:.2f}")


if __name__ == "__main__":
    main()
