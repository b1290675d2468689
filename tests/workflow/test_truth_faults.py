"""Runs with every fault of the simulator: no output ever gives a frame the ids of another."""

import json
import os

import chain
import h5py
import numpy as np
import pytest
import reference

from pulsetrain import simulate
from pulsetrain.simulate_faults import FAULT_MODULES, FAULTS, WHOLE, expected_availability

RUN = 50
MODULES = (3, 4, 8, 15)  # next to the beam, where the particle scatters to

# Sorted by id, or not a matter of the detector's files.
HARMLESS = (None, "pulse_ids_start_at_4", "xgm_missing_trains", "out_of_order_trains")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """A third of the time of such small runs is spent in fsync."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


CASES = [(fault, "proc") for fault in (None, *FAULTS)]
CASES += [(fault, "raw") for fault in (None, *FAULTS) if fault != "no_mask"]  # raw files never have a mask


@pytest.mark.parametrize(("fault", "stream"), CASES)
def test_no_frame_is_misplaced(tmp_path, fault, stream):
    struck = FAULT_MODULES.get(fault, ())[:1]
    modules = sorted([*struck, *(module for module in MODULES if module not in struck)][:4])
    cells = 6 if stream == "proc" else 4
    settings = simulate.settings(
        "tiny", modules=modules, faults=[fault] if fault else [], hit_rate=0.2, cells=cells, xgm="litfrm"
    )
    config = chain.chain_config(tmp_path, modules, hits=chain.FEW_MODULES_HITS, integrity={"max_lost": 1.0})
    chain.simulate_run(tmp_path, settings, RUN, stream)
    paths = chain.process_run(tmp_path, RUN, stream, config, modules)
    frames, present = reference.require_every_frame_its_own(paths, settings, RUN, stream, config)

    whole = expected_availability(settings)[modules] == WHOLE
    enough = whole.sum(axis=0) >= 0.75 * len(modules)
    kept = np.unique(frames // cells)
    assert set(np.flatnonzero(whole.all(axis=0))) <= set(kept) <= set(np.flatnonzero(enough))
    assert len(frames) == len(kept) * cells
    np.testing.assert_array_equal(present[:, modules], whole.T[frames // cells])
    with h5py.File(paths["events"]) as events:
        assert events.attrs["n_hits"] > 0
    report = json.loads(paths["integrity"].read_text())
    assert report["frames"]["kept"] == len(frames)
    assert bool(report["findings"]) == (fault not in HARMLESS), report["findings"]
