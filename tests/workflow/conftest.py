"""Runs on disk and a snakemake that works on them."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pulsetrain import simulate, simulate_files, simulate_truth

# Started in the background, this and all that it starts would ignore an interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[2]
GEOMETRY = REPOSITORY / "config" / "geometry" / "agipd_simulated.geom"
FEW_MODULES = [0, 5, 8, 15]


def write_run(data_root, run=50, stream="proc", modules=FEW_MODULES, **overrides):
    """Simulate a run's files in this process; return its settings."""
    settings = simulate.settings("tiny", modules=list(modules), **overrides)
    files = simulate_files.run_files(str(data_root), settings, run, stream)
    for module, paths in files["modules"].items():
        for path in paths:
            sequence = int(Path(path).stem[-5:])
            simulate_files.write_module_file(path, settings, run, stream, module, sequence)
    for path in files["control"]:
        writer = simulate_files.write_litfrm_file if "LITFRM" in path else simulate_files.write_control_file
        writer(path, settings, run)
    return settings


def write_constants(directory, settings):
    """Write the true constants of a simulated raw run."""
    for module in settings["modules"]:
        simulate_truth.write_constants(str(directory / f"constants_m{module:02d}.h5"), settings, module)
        simulate_truth.write_bad_cell_mask(str(directory / f"mask_m{module:02d}.h5"), settings, module)


def write_config(place, rows=("50,,proc,",), **changes):
    """Write a configuration and run table for real data under `place`; return the configuration's path."""
    (place / "runs.csv").write_text("run,sample,stream,calibration\n" + "\n".join(rows) + "\n")
    config = {
        "data_root": str(place / "data"),
        "scratch": str(place / "scratch"),
        "runs": str(place / "runs.csv"),
        "simulate": None,
        "detector": {"modules": FEW_MODULES, "geometry": str(GEOMETRY)},
        "hits": {"min_score": 1, "min_spread": 1},
    }
    for name, value in changes.items():
        config[name] = (config.get(name) or {}) | value if isinstance(value, dict) else value
    path = place / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def snakemake(place, *arguments, checkout=REPOSITORY, cwd=None, cores=2, check=True):
    """Run snakemake with the configuration in `place`; return the finished process, output and errors joined."""
    command = [sys.executable, "-m", "snakemake", "-s", str(checkout / "Snakefile"), f"-c{cores}"]
    command += [*arguments, "--configfile", str(place / "config.yaml")]
    done = subprocess.run(
        command,
        cwd=cwd or checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout[-8000:]}")
    return done


def copy_checkout(place):
    """Copy the checkout as it is, to be edited."""
    target = place / "checkout"
    for name in ("Snakefile", "rules", "scripts", "config", "envs", "profiles"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            target.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target / name)
    return target


def planned(output):
    """Rules and their numbers of jobs that a dry run says it would run."""
    lines = output.splitlines()
    rules = {}
    for start in (number for number, line in enumerate(lines) if line.startswith("job ") and "count" in line):
        for line in lines[start + 2 :]:
            words = line.split()
            if len(words) != 2 or not words[1].isdigit():
                break
            if words[0] != "total":
                rules[words[0]] = int(words[1])
        break
    return rules


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory):
    """A corrected run of four modules taken through the whole chain, to be copied by those who change it."""
    place = tmp_path_factory.mktemp("finished")
    write_run(place / "data")
    write_config(place)
    snakemake(place, "r0050_hits.cxi")
    return place


@pytest.fixture
def own_run(finished_run, tmp_path):
    """A copy of the finished run, dates kept."""
    place = tmp_path / "own"
    shutil.copytree(finished_run, place, copy_function=shutil.copy2, symlinks=True)
    config = yaml.safe_load((place / "config.yaml").read_text())
    for key, name in (("data_root", "data"), ("scratch", "scratch"), ("runs", "runs.csv")):
        config[key] = str(place / name)
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return place
