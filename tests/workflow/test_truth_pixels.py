"""Counts, powder and photons equal a plain numpy computation, and the truth as far as the noise lets them."""

import functools

import chain
import h5py
import numpy as np
import pytest
import reference
import sum_misses
import write_cxi

from pulsetrain import litpixels, simulate, simulate_detector
from pulsetrain.photon_frames import photon_blocks

RUN = 53
MODULES = [2, 3, 4, 15]  # 2 has a bad ASIC, 4 a bad cell
KINDS = [
    ("proc", {"proc_data": "uint8"}, {}),
    ("proc", {"proc_data": "float32"}, {"hits": {"photon_threshold": 0.7}}),
    ("proc", {"proc_data": "keV"}, {"hits": {"photon_threshold": 0.6}}),
    ("raw", {}, {}),
    ("raw", {}, {"calibration": {"common_mode": False, "baseline_shift": True}}),
]


@pytest.mark.parametrize(("stream", "options", "changes"), KINDS, ids=str)
def test_counts_and_powder_equal_numpy(tmp_path, stream, options, changes):
    settings = simulate.settings("tiny", modules=MODULES, hit_rate=0.2, **options)
    region = np.random.default_rng(1).random((16, 512, 128)) < 0.8
    np.save(tmp_path / "region.npy", region)
    hits = {**chain.FEW_MODULES_HITS, "region": str(tmp_path / "region.npy"), "modules": [2, 3, 4]}
    changes = {**changes, "hits": {**hits, **changes.get("hits", {})}}
    config = chain.chain_config(tmp_path, MODULES, **changes)
    chain.simulate_run(tmp_path, settings, RUN, stream)
    paths = chain.process_run(tmp_path, RUN, stream, config, MODULES)
    with h5py.File(paths["vds"]) as vds:
        attributes = dict(vds["pulsetrain"].attrs)
    cell_id = simulate.frame_truth(settings, RUN)["cellId"]
    frames = range(len(cell_id))
    events, powder = reference.read_all(paths["events"]), reference.read_all(paths["powder"])
    misses = reference.read_all(paths["misses"])
    cxi = reference.read_all(paths["cxi"], reference.CXI_DETECTOR)
    np.testing.assert_allclose(attributes["photon_energy_kev"], settings["photon_energy_kev"], rtol=1e-6)
    assert events["is_hit"].sum() == events["is_miss"].sum() > 0
    assert not (events["is_hit"] & events["is_miss"]).any()
    hitscore = np.zeros(len(cell_id), np.uint64)
    for module in MODULES:
        images = reference.source_images(settings, RUN, stream, module, frames)
        good = reference.good_pixels(settings, module, cell_id)
        conversion = {
            "units": {"raw": "ADU", "proc": "keV" if settings["proc_data"] == "keV" else "photons"}[stream],
            "constants": reference.read_constants(paths["constants"][module], module) if stream == "raw" else None,
            "threshold": config["hits"]["photon_threshold"],
            "common_mode": config["calibration"]["common_mode"],
            "baseline_shift": config["calibration"]["baseline_shift"],
        }
        count = functools.partial(reference.count, images, attributes["photon_energy_kev"], cell_id, **conversion)
        photons = count(good)
        counted = reference.read_all(paths["litpixels"][module])
        cells = counted["cellId"]
        static = reference.read_all(paths["masks"][module])
        np.testing.assert_array_equal(static["mask"][np.searchsorted(cells, cell_id)] == 0, good)
        inside = photons * region[module] if module in config["hits"]["modules"] else np.zeros_like(photons)
        largest = images[:, 0] >= 16383 if stream == "raw" else images == {"u": 255, "f": np.inf}[images.dtype.kind]
        for name, values in (
            ("litpixels", photons > 0),
            ("photons", photons),
            ("hit_photons", inside),
            ("saturated", largest & good),
        ):
            np.testing.assert_array_equal(counted[name], values.sum(axis=(1, 2)), err_msg=name)
        per_cell = np.array([photons[cell_id == cell].sum(axis=0) for cell in cells])
        np.testing.assert_array_equal(counted["powder_per_cell"], per_cell)
        np.testing.assert_array_equal(counted["frames_per_cell"], [np.sum(cell_id == cell) for cell in cells])
        np.testing.assert_array_equal(powder["powder_per_cell"][module], per_cell)
        np.testing.assert_array_equal(powder["powder"][module], photons.sum(axis=0))
        np.testing.assert_array_equal(powder["counts"][module], good.sum(axis=0))
        hitscore += inside.sum(axis=(1, 2), dtype=np.uint64)
        # Hits and misses leave out the outliers as well.
        outlier = reference.read_all(paths["outliers"][module])["mask"][np.searchsorted(cells, cell_id)] != 0
        assert (outlier & good).mean() < 1e-4
        photons, good = count(good & ~outlier), good & ~outlier
        for name, chosen in (("hit", events["is_hit"]), ("miss", events["is_miss"])):
            plural = {"hit": "hits", "miss": "misses"}[name]
            np.testing.assert_array_equal(powder[plural][module], photons[chosen].sum(axis=0))
            np.testing.assert_array_equal(powder[f"{name}_counts"][module], good[chosen].sum(axis=0))
        np.testing.assert_array_equal(cxi["data"][:, module], photons[events["is_hit"]])
        np.testing.assert_array_equal(cxi["mask"][:, module] == 0, good[events["is_hit"]])
        np.testing.assert_array_equal(cxi["powder"][module], photons[events["is_hit"]].sum(axis=0))
        n_good = good[events["is_miss"]].sum(axis=0)
        with np.errstate(invalid="ignore"):
            mean = photons[events["is_miss"]].sum(axis=0) / n_good
        np.testing.assert_allclose(misses["mean"][module], mean, rtol=1e-6)
        np.testing.assert_array_equal(misses["counts"][module], n_good)
        np.testing.assert_allclose(cxi["background"][module], np.nan_to_num(mean), rtol=1e-6)
    np.testing.assert_array_equal(events["hitscore"], hitscore)
    assert not powder["powder"][np.setdiff1d(np.arange(16), MODULES)].any()


@pytest.fixture(scope="module")
def raw_run(tmp_path_factory):
    place = tmp_path_factory.mktemp("raw")
    settings = simulate.settings("tiny", modules=MODULES, hit_rate=0.2)
    return settings, RUN, chain.run_chain(place, settings, RUN, "raw", hits=chain.FEW_MODULES_HITS)


@pytest.mark.parametrize("common_mode", [True, False])
def test_raw_high_gain(raw_run, common_mode):
    true, counted, good = chain.photons_of_all_frames(*raw_run, common_mode)
    high_gain = good & (true <= simulate_detector.SWITCH_PHOTONS[0])
    lit, dark = high_gain & (true > 0), high_gain & (true == 0)
    exact = np.mean(counted[lit] == true[lit])
    false = np.mean(counted[dark] > 0)
    of_lit = counted[lit].sum(dtype=float) / true[lit].sum(dtype=float) - 1
    of_all = counted[high_gain].sum(dtype=float) / true[high_gain].sum(dtype=float) - 1
    assert lit.sum() > 20_000
    assert exact > 0.995
    assert false < 5e-4
    assert abs(of_lit) < 0.005
    if common_mode:
        assert abs(of_all) < 0.01


def test_raw_medium_and_low_gain(tmp_path):
    modules = [3, 8]
    settings = simulate.settings("tiny", modules=modules, bright_ring=True, cells=4)
    paths = chain.run_chain(tmp_path, settings, RUN, "raw", hits=chain.FEW_MODULES_HITS)
    true, counted, good = chain.photons_of_all_frames(settings, RUN, paths, True)
    cell_id = simulate.frame_truth(settings, RUN)["cellId"]
    gain = np.array(
        [[simulate_detector.constants(settings, module, cell)[1] for module in modules] for cell in range(4)]
    )[cell_id]
    # The common mode is taken off high gain only, so that it is noise here.
    shared = simulate_detector.BASELINE_ADU**2 + simulate_detector.COMMON_MODE_ADU**2
    variance = simulate_detector.ANALOG_NOISE_ADU**2 + shared
    medium, low = simulate_detector.SWITCH_PHOTONS
    for stage, chosen in ((1, good & (true > medium) & (true <= low)), (2, good & (true > low))):
        sigma = np.sqrt((variance + 1 / 12) * (simulate_detector.GAIN_RATIOS[stage] / gain[chosen]) ** 2 + 1 / 12)
        z = (counted[chosen].astype(float) - true[chosen]) / sigma
        n_asics = len(np.unique(np.argwhere(chosen) // [1, 1, 64, 64], axis=0))
        error = np.sqrt(1 / len(z) + shared / variance / n_asics)
        inside = np.mean(np.abs(z) < 3)
        assert len(z) > 500
        assert abs(z.mean()) < 3 * error
        assert 0.9 < z.std() < 1.1
        assert inside > 0.99


@pytest.mark.parametrize(
    ("stream", "changes"), [("proc", {}), ("proc", {"masks": {"per_frame": True}}), ("raw", {})], ids=str
)
def test_threads_and_block_sizes_change_nothing(tmp_path, monkeypatch, stream, changes):
    settings = simulate.settings("tiny", modules=[4, 15], hit_rate=0.2, cells=5)
    chain.simulate_run(tmp_path, settings, RUN, stream)
    config = chain.chain_config(tmp_path, settings["modules"], hits=chain.FEW_MODULES_HITS, **changes)

    def outputs(threads):
        paths = chain.process_run(tmp_path, RUN, stream, config, settings["modules"], threads)
        files = [paths[name] for name in ("misses", "cxi", "powder", "det", "events")]
        files += [paths[name][module] for name in ("litpixels", "outliers") for module in settings["modules"]]
        found = {}
        for path in files:
            with h5py.File(path) as file:
                file.visititems(
                    lambda name, item, path=path: (
                        found.update({f"{path.name}/{name}": item[()]}) if isinstance(item, h5py.Dataset) else None
                    )
                )
        return found, paths["emc"].read_bytes()

    expected = outputs(1)
    several = [outputs(2)]
    monkeypatch.setattr(litpixels, "count_frames", functools.partial(litpixels.count_frames, block_frames=7))
    for module in (write_cxi, sum_misses):
        monkeypatch.setattr(module, "photon_blocks", functools.partial(photon_blocks, block=2))
    several.append(outputs(2))
    for found, emc in several:
        assert emc == expected[1]
        assert found.keys() == expected[0].keys()
        for name, values in expected[0].items():
            np.testing.assert_array_equal(found[name], values, err_msg=name)
