"""The same frames written in other ways give the same photons."""

import chain
import h5py
import numpy as np
import pytest
import reference

from pulsetrain import simulate

RUN = 52
MODULES = [3, 4, 8]
VARIANTS = [
    ("proc", {}),
    ("proc", {"cell_order": "shuffled"}),
    ("proc", {"faults": ["pulse_ids_start_at_4"], "cell_order": "shuffled"}),
    ("proc", {"format_version": "0.5"}),
    ("proc", {"format_version": "1.1", "xgm": "xgm", "faults": ["pulse_ids_start_at_4"]}),
    ("proc", {"format_version": "1.3"}),
    ("proc", {"old_names": True}),
    ("proc", {"old_names": True, "format_version": "0.5", "proc_data": "float32"}),
    ("proc", {"proc_data": "keV"}),
    ("proc", {"xgm": "xgm", "pulse_step": 1}),
    ("proc", {"xgm": "none"}),
    ("raw", {}),
    ("raw", {"cell_order": "shuffled", "format_version": "0.5"}),
    ("raw", {"format_version": "1.1", "faults": ["pulse_ids_start_at_4"]}),
]


@pytest.mark.parametrize(("stream", "options"), VARIANTS, ids=str)
def test_variants_give_the_same_photons(tmp_path, stream, options):
    settings = simulate.settings("tiny", modules=MODULES, hit_rate=0.2, cells=6, **options)
    energy = {"photon_energy_kev": 9.2} if settings["xgm"] == "none" else {}
    hits = chain.FEW_MODULES_HITS
    config = chain.chain_config(tmp_path, MODULES, hits=hits, detector=energy)
    chain.simulate_run(tmp_path, settings, RUN, stream)
    paths = chain.process_run(tmp_path, RUN, stream, config, MODULES)
    frames, present = reference.require_every_frame_its_own(paths, settings, RUN, stream, config)
    np.testing.assert_array_equal(frames, np.arange(36))
    assert present[:, MODULES].all()
    if stream == "raw" or settings["proc_data"] == "keV":
        return
    # The truth does not depend on how it is written; keV and raw data have noise.
    plain = simulate.settings("tiny", modules=MODULES, hit_rate=0.2, cells=6)
    with h5py.File(paths["cxi"]) as file:
        group = file[reference.CXI_DETECTOR]
        hits = file["entry_1/vds_index"][()].astype(int)
        assert len(hits) > 0
        for module in MODULES:
            true = simulate.module_photons(plain, RUN, module, hits)
            good = group["mask"][:, module] == 0
            np.testing.assert_array_equal(group["data"][:, module], np.where(good, true, 0))
