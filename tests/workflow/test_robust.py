"""Runs that are broken, partial or empty: a clear message, or a valid partial result."""

import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from chain import chain_config, process_run, run_chain, simulate_run, source_files
from conftest import FEW_MODULES, REPOSITORY, snakemake, write_config, write_run

from pulsetrain import simulate

PROC = "-R0050-AGIPD05-S00001.h5"


def tiny(**overrides):
    return simulate.settings("tiny", modules=FEW_MODULES, **overrides)


def hits_in(paths):
    with h5py.File(paths["events"]) as events, h5py.File(paths["cxi"]) as cxi:
        status = events.attrs["status"], events.attrs["reason"]
        assert cxi["entry_1/data_1/data"].shape == (events.attrs["n_hits"], 16, 512, 128)
        assert cxi["entry_1/instrument_1/detector_1/mask"].shape == cxi["entry_1/data_1/data"].shape
        return int(events.attrs["n_hits"]), *status


@pytest.mark.parametrize("stream", ["proc", "raw"])
def test_run_without_beam_gives_valid_files_without_hits(tmp_path, stream):
    # Raw frames without a photon still have noise; the guards of the defaults are what keeps them out.
    hits = {"min_score": 20, "min_spread": 5}
    paths = run_chain(tmp_path, tiny(beam=False, trains=6, cells=4), 50, stream, hits=hits)
    n_hits, status, reason = hits_in(paths)
    assert (n_hits, status) == (0, "no hits")
    assert "guards rejected all trains" in reason
    assert "hits.min_score" in reason
    header = Path(paths["emc"]).read_bytes()
    assert len(header) == 1024
    assert struct.unpack("<3i", header[:12]) == (0, 16 * 512 * 128, 0)
    photons_line = next(line for line in Path(paths["config"]).read_text().splitlines() if "in_photons_file" in line)
    assert photons_line.startswith("#")


def test_run_without_hits(tmp_path):
    paths = run_chain(
        tmp_path, tiny(hit_rate=0.0), 50, "proc", hits={"min_score": 1, "min_spread": 1, "threshold_sigma": 9}
    )
    n_hits, status, reason = hits_in(paths)
    assert (n_hits, status) == (0, "no hits")
    assert "hits.threshold_sigma" in reason


def test_run_without_xgm(tmp_path):
    paths = run_chain(tmp_path, tiny(xgm="none", hit_rate=0.1), 50, "proc", hits={"min_score": 1, "min_spread": 1})
    n_hits, status, _ = hits_in(paths)
    assert n_hits > 0
    assert status == "complete"
    with h5py.File(paths["events"]) as file:
        assert np.isnan(file["pulse_energy"][()]).all()
        assert file["trains/guard"].attrs["min_pulse_energy"] == "not used: no XGM"
        assert file["self_test"].attrs["verdict"] == "undecided"
    with h5py.File(paths["cxi"]) as file:
        assert np.isnan(file["entry_1/instrument_1/source_1/photon_energy"][()]).all()


def test_raw_run_without_photon_energy_says_what_to_set(tmp_path):
    with pytest.raises(ValueError, match=r"detector.photon_energy_kev"):
        run_chain(tmp_path, tiny(xgm="none"), 50, "raw")


@pytest.mark.parametrize(("trains", "cells", "sequences"), [(1, 8, 1), (8, 1, 2), (1, 1, 1)])
def test_run_with_one_train_or_one_cell(tmp_path, trains, cells, sequences):
    settings = tiny(trains=trains, cells=cells, sequences=sequences, hit_rate=0.2)
    paths = run_chain(tmp_path, settings, 50, "proc", hits={"min_score": 1, "min_spread": 0})
    hits_in(paths)
    with h5py.File(paths["events"]) as file:
        assert len(file["trainId"]) == trains * cells


def test_empty_run(tmp_path):
    settings = tiny()
    simulate_run(tmp_path, settings, 50, "proc")
    for path in source_files(tmp_path, 50, "proc")[0]:
        with h5py.File(path, "r+") as file:
            empty_exdf(file)
    paths = process_run(tmp_path, 50, "proc", chain_config(tmp_path, FEW_MODULES), FEW_MODULES)
    n_hits, status, _ = hits_in(paths)
    assert (n_hits, status) == (0, "empty")


def empty_exdf(file):
    """Take all trains out of a file, as when the detector was not armed."""

    def cut(group):
        for name, held in list(group.items()):
            if isinstance(held, h5py.Group):
                cut(held)
            else:
                shape, dtype = (0, *held.shape[1:]), held.dtype
                del group[name]
                group.create_dataset(name, shape, dtype)

    cut(file["INDEX"])
    cut(file["INSTRUMENT"])


def shorten(path):
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)


def replace_data(path, shape=None, dtype=None):
    with h5py.File(path, "r+") as file:
        name = next(f"INSTRUMENT/{key}/image/data" for key in sources(file))
        old = file[name]
        new_shape, new_dtype = shape or old.shape, dtype or old.dtype
        del file[name]
        file.create_dataset(name, new_shape, new_dtype)


def sources(file):
    names = []
    file["INSTRUMENT"].visit(lambda name: names.append(name[: -len("/image")]) if name.endswith("/image") else None)
    return names


BROKEN = {
    "truncated": (shorten, r"truncated"),
    "empty": (lambda path: path.write_bytes(b""), r"empty.file"),
    "foreign": (lambda path: shutil.copy(path.with_name(path.name.replace("AGIPD05", "AGIPD08")), path), r"foreign"),
    "not HDF5": (lambda path: path.write_bytes(b"this is no HDF5 file" * 100), r"not.hdf5"),
    "wrong dtype": (lambda path: replace_data(path, dtype="c8"), r"wrong.dtype"),
    "wrong shape": (lambda path: replace_data(path, shape=(24, 128, 512)), r"wrong.shape"),
    "directory": (lambda path: (path.unlink(), path.mkdir()), r"unreadable|not hdf5"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_file_is_named_and_refused_or_left_out(tmp_path, kind):
    damage, message = BROKEN[kind]
    simulate_run(tmp_path, tiny(), 50, "proc")
    path = tmp_path / "data" / "proc" / "r0050" / f"CORR{PROC}"
    damage(path)
    strict = chain_config(tmp_path, FEW_MODULES, integrity={"policy": "strict"})
    with pytest.raises(RuntimeError, match=rf"(?is){message}.*{path.name}|{path.name}.*{message}"):
        process_run(tmp_path, 50, "proc", strict, FEW_MODULES)
    paths = process_run(tmp_path, 50, "proc", chain_config(tmp_path, FEW_MODULES), FEW_MODULES)
    with h5py.File(paths["events"]) as file:
        assert len(file["trainId"]) == 48
        has_module = (file["modules"][()] >> 5) & 1
        assert has_module.sum() == 24
    findings = json.loads(Path(paths["integrity"]).read_text())["findings"]
    assert any(item["file"] and item["file"].endswith(path.name) and item["next_step"] for item in findings)


def test_file_that_grows_while_the_run_is_copied(tmp_path):
    """Planned with one size, found with another: the plan is older than the file."""
    simulate_run(tmp_path, tiny(), 50, "proc")
    write_config(tmp_path)
    path = tmp_path / "data" / "proc" / "r0050" / f"CORR{PROC}"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    snakemake(tmp_path, "integrity/r0050.json")
    findings = json.loads((tmp_path / "scratch" / "integrity" / "r0050.json").read_text())["findings"]
    assert any("copied" in item["message"] + item["next_step"] for item in findings)
    path.write_bytes(whole)
    snakemake(tmp_path, "integrity/r0050.json")
    report = json.loads((tmp_path / "scratch" / "integrity" / "r0050.json").read_text())
    assert report["frames"]["kept"] == 48
    assert not [item for item in report["findings"] if item["fault"]]


def test_refused_run_stops_with_all_findings_and_the_others_go_on(tmp_path):
    write_run(tmp_path / "data", run=50)
    write_run(tmp_path / "data", run=51)
    for module in (0, 5, 8):
        for sequence in (0, 1):
            (tmp_path / "data" / "proc" / "r0050" / f"CORR-R0050-AGIPD{module:02d}-S{sequence:05d}.h5").write_bytes(b"")
    write_config(tmp_path, rows=("50,,proc,", "51,,proc,"))
    done = snakemake(tmp_path, check=False)
    assert done.returncode != 0
    (tmp_path / "out.txt").write_text(done.stdout)
    for module in (0, 5, 8):
        assert f"CORR-R0050-AGIPD{module:02d}-S00000.h5" in done.stdout
    scratch = tmp_path / "scratch"
    assert json.loads((scratch / "integrity" / "r0050.json").read_text())["verdict"] == "refused"
    assert not (scratch / "vds" / "r0050_vds_proc.h5").exists()
    assert (scratch / "r0051_hits.cxi").exists()


def test_killed_job_leaves_no_file_under_the_final_name_and_the_next_call_completes_it(tmp_path):
    write_run(tmp_path / "data", trains=12, cells=32)
    write_config(tmp_path)
    command = [sys.executable, "-m", "snakemake", "-s", str(REPOSITORY / "Snakefile"), "-c1"]
    command += ["litpixels/r0050_m05.h5", "--configfile", str(tmp_path / "config.yaml")]
    run = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    final = tmp_path / "scratch" / "litpixels" / "r0050_m05.h5"
    deadline = time.monotonic() + 120
    while not list(final.parent.glob(".r0050_m05.h5.*.part")) and not final.exists():
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.001)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    snakemake(tmp_path, "--unlock")
    snakemake(tmp_path, "litpixels/r0050_m05.h5")
    assert not list(final.parent.glob(".*.part"))
    with h5py.File(final) as file:
        assert len(file["litpixels"]) == 12 * 32
