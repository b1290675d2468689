"""Hits of a run with many of them, at the default settings: found, and not invented."""

import chain
import h5py
import numpy as np
import pandas as pd
import reference

from pulsetrain import layout, simulate, simulate_files
from pulsetrain.hits import find_hits
from pulsetrain.pulses import map_pulses

RUN = 54
BLOCK = 16


def write_frames(path, settings, truth):
    n_frames = len(truth["trainId"])
    none = {name: [] for name in (*layout.FILE_TEXT, *layout.FILE_NUMBERS)}
    held = layout.RunLayout(
        truth["trainId"],
        truth["pulseId"],
        truth["cellId"],
        np.full(n_frames, 0xFFFF, np.uint32),
        pd.DataFrame(none),
        pd.DataFrame({name: [] for name in layout.SEGMENT_COLUMNS}),
        {"run": RUN, "stream": "proc", "detector": settings["detector"], "status": "complete", "reason": ""},
    )
    with h5py.File(path, "w") as file:
        layout.write_layout(file, held)


def write_litpixels(path, settings, module, cell_id):
    """Count the true photons of good pixels, which is what count_litpixels gives (test_truth_pixels.py)."""
    cells = np.unique(cell_id)
    good = reference.good_pixels(settings, module, cells)
    counts = {name: np.zeros(len(cell_id), np.uint64) for name in ("litpixels", "photons")}
    for start in range(0, len(cell_id), BLOCK):
        block = slice(start, start + BLOCK)
        images = simulate.module_photons(settings, RUN, module, range(len(cell_id))[block])
        images *= good[np.searchsorted(cells, cell_id[block])]
        counts["photons"][block] = images.sum(axis=(1, 2))
        counts["litpixels"][block] = np.count_nonzero(images, axis=(1, 2))
    with h5py.File(path, "w") as file:
        for name, values in (*counts.items(), ("hit_photons", counts["photons"])):
            file[name] = values


def test_hits_of_a_long_run(tmp_path):
    settings = simulate.settings("small", trains=160, hit_rate=0.05)
    truth = simulate.frame_truth(settings, RUN)
    assert truth["is_hit"].sum() > 500
    paths = {module: tmp_path / f"litpixels_m{module:02d}.h5" for module in range(16)}
    for module, path in paths.items():
        write_litpixels(path, settings, module, truth["cellId"])
    write_frames(tmp_path / "frames.h5", settings, truth)
    control = [str(tmp_path / name) for name in ("da.h5", "litfrm.h5")]
    simulate_files.write_control_file(control[0], settings, RUN)
    simulate_files.write_litfrm_file(control[1], settings, RUN)
    config = chain.chain_config(tmp_path, range(16))
    map_pulses(
        frames=tmp_path / "frames.h5",
        control=control,
        output=tmp_path / "pulses.h5",
        photon_energy_kev=None,
        attributes={},
        **config["pulses"],
    )
    find_hits(
        litpixels=list(paths.values()),
        pulses=tmp_path / "pulses.h5",
        frames=tmp_path / "frames.h5",
        output=tmp_path / "events.h5",
        attributes={},
        **{name: config["hits"][name] for name in chain.HIT_PARAMETERS},
    )
    with h5py.File(tmp_path / "events.h5") as events:
        called = events["is_hit"][()]
        np.testing.assert_allclose(events["pulse_energy"][()], truth["pulse_energy_J"], rtol=1e-6)
        assert events["self_test"].attrs["verdict"] == "ok"
    found = np.sum(called & truth["is_hit"])
    recall, false = found / truth["is_hit"].sum(), 1 - found / called.sum()
    assert recall > 0.98
    assert false < 0.01
