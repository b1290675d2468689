"""Runs that EXtra-data's own mock writer made, in the facility's layout, with pixels of known frames in them."""

import chain
import h5py
import numpy as np
import pytest
import reference
from extra_data.tests.mockdata import write_file
from extra_data.tests.mockdata.detectors import AGIPDModule
from extra_data.tests.mockdata.xgm import XGM

from pulsetrain import simulate, simulate_detector
from pulsetrain.simulate_faults import file_name, sequence_trains
from pulsetrain.simulate_files import module_source

RUN = 51
MODULES = [3, 4, 8, 15]
XGM_NAME = "SPB_XTD9_XGM/XGM/DOOCS"


def write_mock_run(place, settings, stream, version):
    truth = simulate.frame_truth(settings, RUN)
    for sequence in range(settings["sequences"]):
        trains = sequence_trains(settings, sequence)
        frames = np.flatnonzero(np.isin(truth["trainId"] - settings["first_train"], trains))
        times = {"ntrains": len(trains), "firsttrain": settings["first_train"] + trains[0], "format_version": version}
        for module in settings["modules"]:
            path = place / "data" / stream / f"r{RUN:04d}" / file_name(RUN, stream, module, sequence)
            path.parent.mkdir(parents=True, exist_ok=True)
            source = module_source(settings, stream, module)
            device, channel = source.split(":")
            raw = stream == "raw"
            mock = AGIPDModule(device, frames_per_train=settings["cells"], raw=raw, channel_name=channel)
            write_file(path, [mock], chunksize=4, **times)
            with h5py.File(path, "r+") as file:
                image = file[f"INSTRUMENT/{source}/image"]
                image["data"][...] = reference.source_images(settings, RUN, stream, module, frames)
                for row, frame in enumerate(frames if not raw else ()):
                    image["mask"][row] = simulate_detector.facility_mask(settings, module, truth["cellId"][frame])
        write_mock_xgm(place, settings, truth, sequence, len(trains), times)


def write_mock_xgm(place, settings, truth, sequence, n_trains, times):
    path = place / "data" / "raw" / f"r{RUN:04d}" / f"RAW-R{RUN:04d}-DA01-S{sequence:05d}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, [XGM(XGM_NAME)], chunksize=4, **times)
    energy_uj = (truth["pulse_energy_J"] * 1e6).reshape(settings["trains"], -1)
    with h5py.File(path, "r+") as file:
        pulses = np.ones((n_trains, 1000), np.float32)  # 1 is what the XGM fills unused entries with
        pulses[:, : settings["cells"]] = energy_uj[times["firsttrain"] - settings["first_train"] :][:n_trains]
        file[f"INSTRUMENT/{XGM_NAME}:output/data/intensityTD"][:n_trains] = pulses
        wavelength_nm = 1.23984198433 / settings["photon_energy_kev"]
        file[f"CONTROL/{XGM_NAME}/pulseEnergy/wavelengthUsed/value"][:] = wavelength_nm


@pytest.mark.parametrize(("stream", "version"), [("raw", "1.0"), ("proc", "1.2"), ("raw", "0.5")])
def test_mock_run_goes_through_the_chain(tmp_path, stream, version):
    settings = simulate.settings(
        "tiny",
        modules=MODULES,
        trains=8,
        cells=4,
        pulse_step=1,
        first_train=10000,
        hit_rate=0.2,
        proc_data="float32",
        xgm="xgm",
    )
    write_mock_run(tmp_path, settings, stream, version)
    if stream == "raw":
        chain.write_constants(tmp_path, settings)
    config = chain.chain_config(tmp_path, MODULES, hits=chain.FEW_MODULES_HITS)
    paths = chain.process_run(tmp_path, RUN, stream, config, MODULES)
    frames, present = reference.require_every_frame_its_own(paths, settings, RUN, stream, config)
    np.testing.assert_array_equal(frames, np.arange(32))
    assert present[:, MODULES].all()
    assert reference.read_all(paths["events"])["is_hit"].any()
