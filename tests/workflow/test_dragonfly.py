"""Dragonfly itself orients the hits that this project wrote: pixel order, handedness and q map are right."""

import configparser
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from pulsetrain import cxi, dragonfly, simulate
from pulsetrain.detector import MASK_BAD, MASK_INVALID, asic_edges
from pulsetrain.geometry import read_geometry, xyz_map
from pulsetrain.photon_frames import PhotonBlock
from pulsetrain.simulate_particles import rotation_matrices, wavenumber_per_nm

pytestmark = pytest.mark.workflow
rule = importlib.import_module("write_emc")

RUN = 1
N_HITS = 60
MODEL_SIZE = 63
NUM_DIV = 4  # 3240 orientations
WITHIN_DEGREES = 25
BAD_FRACTION = 0.1
CLIENT = Path(sys.executable).parent / "dragonfly.emc"


@pytest.fixture(scope="module")
def simulated():
    """Settings, truth and the frames to use: the strongest of 1920 hits, in random orientations.

    The detector is far away, so that a speckle is some voxels wide in a model that few orientations sample well.
    """
    settings = simulate.settings("tiny", particle="blob", trains=240, cells=8, hit_rate=1.0, distance_m=8.0)
    truth = simulate.frame_truth(settings, RUN)
    return settings, truth, np.sort(np.argsort(truth["n_photons"])[-N_HITS:])


@pytest.fixture(scope="module")
def outputs(simulated, tmp_path_factory):
    """CXI file of all true hits, and what write_emc makes of it."""
    settings, truth, frames = simulated
    folder = tmp_path_factory.mktemp("dragonfly")
    hits = cxi.Hits(
        frames.astype(np.uint64),
        truth["trainId"][frames],
        truth["pulseId"][frames],
        truth["cellId"][frames],
        np.full(N_HITS, 0xFFFF, dtype=np.uint32),
        truth["pulse_energy_J"][frames],
        np.full(N_HITS, 2 * np.pi / wavenumber_per_nm(settings["photon_energy_kev"]) * 1e-9),
    )
    positions = xyz_map(read_geometry(settings["geometry"]), settings["distance_m"])
    with h5py.File(folder / "r0001_hits.cxi", "w") as file:
        cxi.write_experiment(
            file, positions, settings["distance_m"], np.zeros(cxi.FRAME_SHAPE), 0, settings["detector"], "blob", RUN
        )
        cxi.write_events(file, hits)
        cxi.write_hits(file, hits, blocks_of(settings, hits))
    paths = [folder / name for name in ("r0001.emc", "r0001_det.h5", "r0001_config.ini")]
    rule.write_emc(folder / "r0001_hits.cxi", *paths, BAD_FRACTION, MODEL_SIZE, NUM_DIV, 2, {})
    write_start_model(folder / "model.h5", paths[1], settings)
    return folder


def blocks_of(settings, hits, most=8):
    """Serve the simulated hits cell by cell, with bad pixels that differ from cell to cell."""
    random = np.random.default_rng(1)
    always_bad = random.random(cxi.FRAME_SHAPE) < 0.02
    for cell in np.unique(hits.cell_id):
        mask = np.where(asic_edges(), np.uint32(MASK_INVALID), np.uint32(0)) + np.zeros(cxi.FRAME_SHAPE, np.uint32)
        mask[always_bad | (random.random(cxi.FRAME_SHAPE) < 0.002)] |= MASK_BAD
        frames = hits.vds_index[hits.cell_id == cell].astype(np.int64)
        for chosen in np.split(frames, range(most, len(frames), most)):
            photons = np.stack([simulate.module_photons(settings, RUN, m, chosen) for m in range(16)], axis=1)
            yield PhotonBlock(chosen, int(cell), photons, mask, np.ones((len(chosen), 16), dtype=bool), None)


def write_start_model(path, det_path, settings):
    """The true intensity of the particle on the voxels of the model."""
    with h5py.File(det_path) as file:
        voxel = wavenumber_per_nm(settings["photon_energy_kev"]) / file["ewald_rad"][()]
    grid = (np.arange(MODEL_SIZE) - MODEL_SIZE // 2) * voxel
    q_vectors = np.stack(np.meshgrid(grid, grid, grid, indexing="ij"), axis=-1)
    intensity = simulate.blob_intensity(q_vectors)
    with h5py.File(path, "w") as file:
        file["intens"] = intensity[None]


def orient(folder, name, det_name="r0001_det.h5", num_div=NUM_DIV, iterations=1):
    """Run Dragonfly from the true model with the configuration of the rule; its log and output file."""
    config = configparser.ConfigParser()
    config.read(folder / "r0001_config.ini")
    config["emc"]["in_detector_file"] = det_name
    config["emc"]["start_model_file"] = "model.h5"
    config["emc"]["num_div"] = str(num_div)
    config["emc"]["output_folder"] = name
    config["emc"]["log_file"] = f"{name}.log"
    with (folder / f"{name}.ini").open("w") as file:
        config.write(file)
    process = subprocess.run(
        [CLIENT, "-c", f"{name}.ini", "-t", "2", str(iterations)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=1800,  # beside other tests on a slow machine it took 11 minutes
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},
        check=False,
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "WARNING!" not in process.stdout + process.stderr
    assert "Finished all iterations" in process.stdout
    return (folder / f"{name}.log").read_text(), folder / name / f"output_{iterations:03d}.h5"


def fraction_right(simulated, output):
    """Share of frames whose orientation is within 25 degrees of the truth.

    The client looks up the model at R(q)^T q_lab, so its quaternions mean what the simulator's mean. A flat
    pattern is equal to its Friedel mate, turned by 180 degrees about the beam: both count.
    """
    _, truth, frames = simulated
    true = rotation_matrices(truth["quaternion"][frames])
    with h5py.File(output) as file:
        found = rotation_matrices(file["quaternions"][()][file["orientations"][()], :4])
    turn = np.diag([-1.0, -1.0, 1.0])
    angles = [
        np.arccos(np.clip((np.einsum("nij,nij->n", true, candidate) - 1) / 2, -1, 1))
        for candidate in (found, turn @ found)
    ]
    return np.mean(np.min(angles, axis=0) < np.deg2rad(WITHIN_DEGREES))


def test_dragonfly_finds_the_true_orientations(simulated, outputs):
    log, output = orient(outputs, "right")
    with h5py.File(outputs / "r0001_hits.cxi") as hits, h5py.File(outputs / "r0001_det.h5") as det:
        used = det["mask"][()] == dragonfly.USE
        n_photons = hits[f"{cxi.DETECTOR}/powder"][()].reshape(-1)[used].sum()
        assert 0.8 < used.mean() < 0.97
    assert int(re.search(r"num_data = (\d+)", log)[1]) == N_HITS
    assert float(re.search(r"mean_count = ([0-9.]+)", log)[1]) == pytest.approx(n_photons / N_HITS, abs=1e-5)
    assert re.search(r"num_pix = (\d+)/(\d+)", log).groups() == (str(used.sum()), str(used.size))
    assert f"{MODEL_SIZE} X {MODEL_SIZE} X {MODEL_SIZE}" in log
    likelihood = [float(row.split()[4]) for row in log.splitlines() if re.match(r"\d+\t", row)]
    assert len(likelihood) == 1
    assert np.isfinite(likelihood).all()
    fraction = fraction_right(simulated, output)
    assert fraction > 0.85, fraction


def test_mirrored_detector_is_noticed(simulated, outputs):
    """The check above can fail: with the detector seen from the other side most orientations are wrong."""
    shutil.copy(outputs / "r0001_det.h5", outputs / "mirrored_det.h5")
    with h5py.File(outputs / "mirrored_det.h5", "r+") as file:
        file["qx"][...] *= -1
    _, output = orient(outputs, "mirrored", "mirrored_det.h5", num_div=2)  # finds 0.48 with the right detector
    assert fraction_right(simulated, output) < 0.2
