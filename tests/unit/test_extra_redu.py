"""The facility's own hit finder (EXtra-redu) agrees with ours on a simulated run."""

import warnings
from pathlib import Path

import h5py
import numpy as np
import pytest
from extra_data import RunDirectory
from extra_redu.fileutils import StackedPulseSource
from extra_redu.spi import LitPixelCounter, SpiHitfinder

from pulsetrain import hits, integrity, litpixels, masks, pulses, simulate, simulate_files, vds

MODULES = [3, 4, 8, 15]
RUN = 50
HITFINDING = {
    "threshold_sigma": 4.0,
    "min_frames": 100,
    "min_score": 20,
    "min_spread": 5,
    "min_pulse_energy_mj": 1.0,
    "seed": 1,
}


@pytest.fixture(scope="module")
def settings():
    return simulate.settings("tiny", trains=25, cells=16, modules=MODULES, hit_rate=0.1)


@pytest.fixture(scope="module")
def run(tmp_path_factory, settings):
    """A simulated corrected run: (directory of its modules, module files, control files)."""
    root = tmp_path_factory.mktemp("redu")
    files = simulate_files.run_files(root, settings, RUN, "proc")
    for module, paths in files["modules"].items():
        for sequence, path in enumerate(paths):
            simulate_files.write_module_file(path, settings, RUN, "proc", module, sequence)
    for path in files["control"]:
        write = simulate_files.write_litfrm_file if "LITFRM" in path else simulate_files.write_control_file
        write(path, settings, RUN)
    modules = [path for paths in files["modules"].values() for path in paths]
    return Path(modules[0]).parent, modules, files["control"]


@pytest.fixture(scope="module")
def redu(run, settings):
    """EXtra-redu's counts and hits: (counter, hit finder)."""
    with RunDirectory(run[0]) as data:
        source = StackedPulseSource.from_datacollection(
            data, settings["detector"] + r"/CORR/(?P<key>\d+)CH0:output", "image"
        )
        counter = LitPixelCounter(source)
        for chunk in source.split_trains(trains_per_part=5):
            counter(chunk)
    # The arrays of the package sharedmem raise deprecation warnings with numpy 2; plain views of them do not.
    counter.data_keys = {name: np.asarray(values).view(np.ndarray) for name, values in counter.data_keys.items()}
    finder = SpiHitfinder(modules=list(range(len(MODULES))), xgm_norm=False, snr=4.0)
    with warnings.catch_warnings():
        # EXtra-redu divides with `where` and without `out`; every frame here has unmasked pixels.
        warnings.filterwarnings("ignore", message="'where' used without 'out'", category=UserWarning)
        finder.find_hits(counter)
    return counter, finder


def agreement(ours, theirs):
    """Frames that both call a hit, over frames that either does."""
    return (ours & theirs).sum() / (ours | theirs).sum()


def test_same_decision_from_the_same_counts(redu):
    counter, finder = redu
    train = np.unique(counter.trainId, return_inverse=True)[1]
    frames = hits.Frames(
        train, finder.hitscore.astype(np.uint64), np.full(len(train), np.nan), np.full(len(train), 1, np.uint32)
    )
    background = hits.find_background(frames, train.max() + 1, 100, True)
    middle, sigma = hits.background_of_frames(train, background)
    assert finder.hit_mask.sum() > 20
    assert agreement(frames.score > middle + 4 * sigma, finder.hit_mask) > 0.95
    # Windows of trains differ: ours is symmetric, theirs counts frames.
    np.testing.assert_allclose(background.median, finder.mu, rtol=0.06)


def test_same_hits_from_the_same_files(tmp_path, run, redu, settings):
    _, files, control = run
    sizes = {Path(path).name: Path(path).stat().st_size for path in files}
    frames, vds_path = tmp_path / "frames" / "r0050.h5", tmp_path / "vds" / "r0050.h5"
    detector = settings["detector"]
    integrity.check_run(
        files, frames, tmp_path / "r0050.json", RUN, "proc", detector, MODULES, None, 0.1, "beamtime", sizes, {}
    )
    vds.make_vds(frames, vds_path, control, detector, "proc", "auto", None, simulate_files.XGM, {})
    pulses.map_pulses(
        frames, control, tmp_path / "pulses.h5", "auto", simulate_files.XGM, simulate_files.LITFRM, 0, None, {}
    )
    counts = []
    for module in MODULES:
        mask, counted = tmp_path / f"mask_m{module:02d}.h5", tmp_path / f"litpixels_m{module:02d}.h5"
        masks.make_run_mask(vds_path, None, None, [], module, "proc", 5, False, mask, {})
        litpixels.count_module(vds_path, mask, counted, {}, module=module)
        counts.append(counted)
    counter, finder = redu
    truth = simulate.frame_truth(settings, RUN)
    for scale in (False, True):
        events = tmp_path / f"events_{scale}.h5"
        hits.find_hits(
            counts, tmp_path / "pulses.h5", frames, events, scale_by_pulse_energy=scale, attributes={}, **HITFINDING
        )
        with h5py.File(events) as file:
            is_hit, lit = file["is_hit"][()], file["litpixels"][()]
            np.testing.assert_array_equal(file["trainId"][()], counter.trainId)
            np.testing.assert_array_equal(file["pulseId"][()], counter.pulseId)
            assert file["self_test"].attrs["verdict"] == "ok"
        # Frame by frame the same lit pixels, so both look at the same masked images.
        np.testing.assert_array_equal(lit, counter.data_keys["litPixels"].sum(axis=1))
        theirs = finder.hit_mask
        assert (is_hit & theirs).sum() > 0.95 * theirs.sum()
        assert (is_hit & truth["is_hit"]).sum() >= (theirs & truth["is_hit"]).sum()
        assert (is_hit & ~truth["is_hit"]).sum() <= 1
