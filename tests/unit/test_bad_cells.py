"""The bad-cell mask against plain numpy over whole arrays; proposed intervals on modules with known defects."""

import json

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain import bad_cells, intervals
from pulsetrain.config import complete_config
from pulsetrain.provenance import SCRIPTS

MODULE = 9
N_CELLS = 3
PLANE = (128, 512)
FILES = ("dark", "analog_gains", "digital_means", "photon_spacing", "constants")
STAGES = {q.name: q.stages for q in bad_cells.QUANTITIES}
# What good values are like: mean and standard deviation, per stage.
LIKE = {
    "darkOffset": [(4500, 250)],
    "darkStandardDeviation": [(10, 0.5)],
    "analogFitStdDevs": [(9, 0.5), (12, 0.6), (12, 0.6)],
    "analogGains": [(42, 1.5), (1.1, 0.04), (0.25, 0.01)],
    "anlogLineOffsets": [(4500, 250), (5600, 250), (5400, 250)],
    "digitalStdDeviations": [(25, 1), (26, 1), (27, 1)],
    "digitalSpacingsSafetyFactors": [(22, 1.5), (17, 1.2)],
    "digitalMeans": [(6000, 40), (7200, 40), (8100, 40)],
    "digitalThresholds": [(6600, 28), (7650, 28)],
    "photonSpacing": [(68.8, 2)],
    "quality": [(0.8, 0.05)],
}
DEFECTS = ("dead", "hot", "noisy", "failed")


def planted(rng):
    """Pixels with a defect, {name: (128, 512) bool}; no pixel has two."""
    place = rng.permutation(128 * 512)
    found, begin = {}, 0
    for name, fraction in zip(DEFECTS, (0.002, 0.001, 0.001, 0.001), strict=True):
        held = np.zeros(128 * 512, bool)
        held[place[begin : begin + round(fraction * 128 * 512)]] = True
        begin += round(fraction * 128 * 512)
        found[name] = held.reshape(PLANE)
    return found


def make_values(rng, n_cells=N_CELLS):
    """Whole arrays {dataset: (stages or 1, cells, 128, 512)} of a module, and the defects planted in it."""
    defects = planted(rng)
    values = {
        name: np.stack(
            [rng.normal(mean, sigma, ((1 if name in bad_cells.PER_PIXEL else n_cells), *PLANE)) for mean, sigma in like]
        ).astype("f4")
        for name, like in LIKE.items()
    }
    values["darkOffset"][0][:, defects["hot"]] += 3000
    for name in ("darkStandardDeviation", "analogFitStdDevs"):
        values[name][:, :, defects["noisy"]] *= 5
        values[name][:, :, defects["dead"]] = 0
    values["analogGains"][:, :, defects["failed"]] = np.nan
    values["analogGains"][:2, :, defects["dead"]] = 0.01
    values["status"] = np.broadcast_to(np.where(defects["failed"], 3, 0), (n_cells, *PLANE)).astype("u1")
    return values, defects


def write_files(folder, values, module=MODULE, n_cells=N_CELLS):
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"m{module:02d}_{name}.h5" for name in FILES}
    opened = {name: h5py.File(path, "w") for name, path in paths.items()}
    for file in opened.values():
        file.attrs.update({"module": module, "orientation": "lab"})
    for quantity in bad_cells.QUANTITIES:
        array = values[quantity.name]
        if quantity.name == "digitalThresholds":
            array = np.nan_to_num(np.rint(array), nan=65535).astype("u2")
        if quantity.name in bad_cells.PER_PIXEL:
            array = array[0, 0]
        elif not quantity.stages:
            array = array[0]
        elif quantity.stage_axis == 1:
            array = np.swapaxes(array, 0, 1)
        opened[quantity.source][quantity.name] = array
    opened["analog_gains"]["fitStatus"] = values["status"]
    opened["photon_spacing"]["fitStatus"] = np.isnan(values["photonSpacing"][0, 0]).astype("u1")
    opened["constants"]["analogGains_keV"] = np.where(np.isnan(values["analogGains"]), np.nan, 0.12).astype("f4")
    opened["constants"]["darkOffsets"] = np.repeat(values["darkOffset"], 3, axis=0)
    opened["constants"]["digitalThresholds"] = np.full((2, n_cells, *PLANE), 6600, "i2")
    for file in opened.values():
        file.close()
    return paths


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    rng = np.random.default_rng(1)
    values, defects = make_values(rng)
    values["darkOffset"][0, 1, 5, 5] = np.nan
    values["darkStandardDeviation"][0, 2, 6, 6] = np.nan
    values["photonSpacing"][0, 0, 7, 7] = np.nan
    values["digitalMeans"][2, :, 8, 8] = np.nan
    paths = write_files(tmp_path_factory.mktemp("files"), values)
    with h5py.File(paths["constants"], "r+") as file:
        file["digitalThresholds"][1, 2, 9, 9] = 32767
        file["darkOffsets"][2, 0, 10, 10] = np.inf
    return paths, values


def make(paths, output, **options):
    bad_cells.make_bad_cell_mask(
        *(paths[name] for name in FILES), output, {"rule": "make_bad_cell_mask"}, module=MODULE, **options
    )
    with h5py.File(output) as file:
        masks = {name: file[f"subMasks/{name}"][()] for name in json.loads(file.attrs["causes"])}
        percents = {name: dict(file[f"subMasks/{name}"].attrs) for name in masks}
        histograms = {}

        def visit(name, held):
            if "edges" in held:
                histograms[name] = {k: v[()] for k, v in held.items()} | dict(held.attrs)

        file["histograms"].visititems(lambda name, held: visit(name, held) if isinstance(held, h5py.Group) else None)
        total = file["badCellMask"]
        assert total.dtype == bool and file.attrs["orientation"] == "lab" and file.attrs["module"] == MODULE
        return total[()], float(total.attrs["percent_total"]), masks, percents, histograms


INTERVALS = {
    "darkOffset": [4000, 5000],
    "darkStandardDeviation": [8.5, None],
    "analogFitStdDevs": [[8, 10], None, [11, 13]],
    "digitalThresholds": [[6550, 6650], None],
    "digitalMeans": [None, None, [8000, 8200]],
    "photonSpacing": [65, 72],
    "quality": [None, 0.9],
}


def reference(values, first, cuts):
    """Masks and newly masked percentages in order, from whole arrays."""
    shape = (N_CELLS, *PLANE)
    masks = {name: np.broadcast_to(mask, shape) for name, mask in first.items()}
    for name, interval in cuts:
        quantity, _, stage = name.partition("/")
        held = values[quantity][int(stage or 0)]
        if quantity == "digitalThresholds":
            held = np.rint(held)
        low, high = (-np.inf if interval[0] is None else interval[0]), (np.inf if interval[1] is None else interval[1])
        masks[name] = np.broadcast_to(~((held >= low) & (held <= high)), shape)
    total, new = np.zeros(shape, bool), {}
    for name, mask in masks.items():
        new[name] = 100 * (mask & ~total).mean()
        total |= mask
    return masks, new, total


def unknown(values):
    bad = ~np.isfinite(values["darkOffset"][0]) | ~np.isfinite(values["darkStandardDeviation"][0])
    bad |= (values["status"] != 0) | np.isnan(values["photonSpacing"][0])
    bad[2, 9, 9] = bad[0, 10, 10] = True
    return bad


def used(given):
    for quantity in bad_cells.QUANTITIES:
        held = given.get(quantity.name)
        if not quantity.stages:
            held = [held]
        for stage, interval in enumerate(held or []):
            if interval is not None:
                yield (f"{quantity.name}/{stage}" if quantity.stages else quantity.name), interval


def test_masks_and_percentages_are_those_of_plain_numpy(case, tmp_path):
    paths, values = case
    file_mask = np.random.default_rng(2).random((N_CELLS, *PLANE)) < 0.01
    np.save(tmp_path / "manual.npy", file_mask)
    total, percent, masks, percents, _ = make(
        paths,
        tmp_path / "mask.h5",
        manual=[{"module": MODULE, "rows": [10, 20], "columns": [500, 511], "cells": [1, 351]}],
        manual_file=tmp_path / "manual.npy",
        systematic=[{"cells": [1, 351, 32], "columns": [0, 511, 64]}, {"rows": [127, 127]}],
        asic_borders=True,
        intervals=INTERVALS,
    )
    manual = file_mask.copy()
    manual[1:, 10:21, 500:512] = True
    systematic = np.zeros((N_CELLS, *PLANE), bool)
    systematic[1, :, ::64] = True
    systematic[:, 127] = True
    borders = np.zeros(PLANE, bool)
    borders[[0, 63, 64, 127]] = True
    borders[:, [edge for k in range(8) for edge in (64 * k, 64 * k + 63)]] = True
    first = {"manual": manual, "systematic": systematic, "asic_borders": borders, "non_finite": unknown(values)}
    expected, new, expected_total = reference(values, first, list(used(INTERVALS)))
    assert list(masks) == list(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(np.broadcast_to(masks[name], mask.shape), mask, err_msg=name)
        assert percents[name]["percent"] == pytest.approx(new[name], rel=1e-12), name
        assert percents[name]["percent_alone"] == pytest.approx(100 * mask.mean(), rel=1e-12), name
    np.testing.assert_array_equal(total, expected_total)
    assert percent == pytest.approx(100 * expected_total.mean())
    assert sum(held["percent"] for held in percents.values()) == pytest.approx(percent)
    assert {name for name, mask in masks.items() if mask.ndim == 2} == {"asic_borders", "photonSpacing", "quality"}
    assert percents["quality"]["interval"].tolist() == [-np.inf, 0.9]


def test_without_intervals_only_what_cannot_be_calibrated_is_masked(case, tmp_path, caplog):
    paths, values = case
    with caplog.at_level("INFO"):
        total, percent, masks, _, histograms = make(paths, tmp_path / "mask.h5", intervals=None)
    np.testing.assert_array_equal(total, unknown(values))
    assert list(masks) == ["manual", "systematic", "asic_borders", "non_finite"]
    assert not masks["manual"].any() and masks["manual"].shape == PLANE
    assert set(histograms) == {cut.name for cut in bad_cells.cuts_of({})} and len(histograms) == 23
    assert not any("interval" in held for held in histograms.values())
    assert f"{percent:.4f}" in caplog.text and "non_finite" in caplog.text


def test_histograms_count_what_earlier_causes_leave(case, tmp_path):
    paths, values = case
    _, _, masks, _, histograms = make(paths, tmp_path / "mask.h5", intervals=INTERVALS, asic_borders=True)
    earlier = np.zeros((N_CELLS, *PLANE), bool)
    for name in ("manual", "systematic", "asic_borders", "non_finite"):
        earlier |= masks[name]
    for cut in bad_cells.cuts_of(INTERVALS):
        held = histograms[cut.name]
        whole = values[cut.quantity.name][cut.stage]
        if cut.quantity.name == "digitalThresholds":
            whole = np.rint(whole)
        kept = np.broadcast_to(whole, earlier.shape)[~earlier]
        kept = kept[~np.isnan(kept)]
        edges = held["edges"]
        kept = kept.astype(float)
        inside = (kept >= edges[0]) & (kept < edges[-1])
        np.testing.assert_array_equal(held["counts"], np.histogram(kept[inside], edges)[0], err_msg=cut.name)
        assert (held["below"], held["above"]) == ((kept < edges[0]).sum(), (kept >= edges[-1]).sum())
        assert len(edges) == len(held["counts"]) + 1 >= 2
        assert held["counts"].sum() >= 0.99 * len(kept)
        if cut.is_used:
            np.testing.assert_array_equal(held["interval"], [cut.low, cut.high])
            earlier = earlier | masks[cut.name]
    assert histograms["darkOffset"]["units"] == "ADU"


def test_the_order_of_causes_decides_who_masks_newly(case, tmp_path):
    paths, _ = case
    rectangle = [{"rows": [0, 63]}]
    for options, shared in ((("manual", "systematic"), "systematic"), (("systematic",), "manual")):
        _, _, _, percents, _ = make(paths, tmp_path / f"{shared}.h5", **dict.fromkeys(options, rectangle))
        assert percents[options[0]]["percent"] == 50
        assert percents[shared]["percent"] == 0
    assert percents["systematic"]["percent_alone"] == 50
    both = {"darkOffset": [0, 1], "darkStandardDeviation": [0, 1]}
    _, _, masks, percents, _ = make(paths, tmp_path / "both.h5", intervals=both)
    assert percents["darkOffset"]["percent"] > 99
    assert percents["darkStandardDeviation"]["percent"] == 0 < percents["darkStandardDeviation"]["percent_alone"]


def test_manual_masks_of_every_shape(case, tmp_path):
    paths, _ = case
    rng = np.random.default_rng(5)
    for shape in (PLANE, (N_CELLS, *PLANE), (16, *PLANE), (16, N_CELLS, *PLANE)):
        given_mask = rng.random(shape) < 0.1
        own = given_mask[MODULE] if shape[0] == 16 else given_mask
        np.save(tmp_path / "manual.npy", given_mask)
        with h5py.File(tmp_path / "manual.h5", "w") as file:
            file["badCellMask"] = given_mask
        for name in ("manual.npy", "manual.h5"):
            held = bad_cells.read_manual_mask(tmp_path / name, MODULE, N_CELLS)
            np.testing.assert_array_equal(held, own)
        _, _, masks, _, _ = make(paths, tmp_path / "mask.h5", manual_file=tmp_path / "manual.h5")
        np.testing.assert_array_equal(
            np.broadcast_to(masks["manual"], (N_CELLS, *PLANE))[1], own[1] if own.ndim == 3 else own
        )
    with pytest.raises(ValueError, match="may be modules or memory cells"):
        np.save(tmp_path / "manual.npy", np.zeros((16, *PLANE), bool))
        bad_cells.read_manual_mask(tmp_path / "manual.npy", MODULE, 16)


def test_wrong_manual_masks_are_errors(tmp_path):
    np.save(tmp_path / "manual.npy", np.zeros((512, 128), bool))
    with pytest.raises(ValueError, match=r"manual\.npy.*\(512, 128\).*calibration.mask.manual_file needs bool"):
        bad_cells.read_manual_mask(tmp_path / "manual.npy", MODULE, N_CELLS)
    np.save(tmp_path / "manual.npy", np.zeros(PLANE, "u1"))
    with pytest.raises(ValueError, match="uint8"):
        bad_cells.read_manual_mask(tmp_path / "manual.npy", MODULE, N_CELLS)
    with h5py.File(tmp_path / "manual.h5", "w") as file:
        file["mask"] = 1
    with pytest.raises(ValueError, match="no dataset badCellMask .it has mask."):
        bad_cells.read_manual_mask(tmp_path / "manual.h5", MODULE, N_CELLS)


def test_the_tips_of_the_memory_rows():
    tips = [{"cells": [31, 351, 32], "columns": [0, 511, 64]}]
    for cell in range(352):
        mask = bad_cells.pattern_mask(tips, cell)
        assert mask.any() == (cell % 32 == 31)
        if mask.any():
            assert mask[:, ::64].all() and mask.sum() == 8 * 128
    with pytest.raises(ValueError, match="is no range"):
        bad_cells.pattern_mask([{"rows": [5, 3]}], 0)


@settings(max_examples=100)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=60),
    st.floats(-1e4, 1e4),
    st.floats(0, 1e4),
    st.integers(0, 2**32 - 1),
)
def test_kernel_is_plain_comparison(values, low, width, seed):
    values = np.array(values, "f4")
    rng = np.random.default_rng(seed)
    values[rng.random(values.size) < 0.1] = np.nan
    bad = rng.random(values.size) < 0.3
    expected = ~((values.astype(float) >= low) & (values.astype(float) <= low + width))
    before, outside = bad.copy(), np.empty(values.size, bool)
    counts, beyond = np.zeros(10, np.int64), np.zeros(2, np.int64)
    edges = np.linspace(-5000, 5000, 11)
    new = bad_cells.cut_cell(values, low, low + width, edges, bad, outside, counts, beyond)
    np.testing.assert_array_equal(outside, expected)
    np.testing.assert_array_equal(bad, before | expected)
    assert new == (expected & ~before).sum()
    counted = values[~before & ~np.isnan(values)]
    np.testing.assert_array_equal(counts, np.histogram(counted[counted < 5000], edges)[0])
    assert beyond.tolist() == [(counted < -5000).sum(), (counted >= 5000).sum()]


def test_bins_show_outlier_free_values_and_near_intervals():
    rng = np.random.default_rng(4)
    values = np.append(rng.normal(100, 1, 100_000), [1e6, -1e6, np.nan])
    edges = bad_cells.histogram_edges(values, np.nan, np.nan, False)
    assert 90 < edges[0] < 97 and 103 < edges[-1] < 110
    assert bad_cells.histogram_edges(values, 85.0, 120.0, False)[[0, -1]] == pytest.approx([84.4, 120.6], abs=0.2)
    far = bad_cells.histogram_edges(values, -np.inf, 1e5, False)
    np.testing.assert_array_equal(far, edges)
    whole = bad_cells.histogram_edges(np.rint(rng.normal(6600, 300, 10_000)), np.nan, np.nan, True)
    assert set(np.diff(whole)) == {np.diff(whole)[0]} and np.diff(whole)[0] % 1 == 0 and whole[0] % 1 == 0.5
    assert len(bad_cells.histogram_edges(np.full(5, 3.0), np.nan, np.nan, False)) > 2
    assert len(bad_cells.histogram_edges(np.array([np.nan]), np.nan, np.nan, False)) == 2


def test_all_problems_of_the_files_at_once(case, tmp_path):
    paths, values = case
    other = write_files(tmp_path / "other", make_values(np.random.default_rng(3), 2)[0], module=4, n_cells=2)
    mixed = paths | {"analog_gains": other["analog_gains"]}
    with h5py.File(other["digital_means"], "r+") as file:
        file.attrs["module"] = MODULE
        del file["digitalMeans"]
    mixed["digital_means"] = other["digital_means"]
    with pytest.raises(ValueError, match="the files of module 09 do not belong together") as error:
        make(mixed, tmp_path / "mask.h5")
    for text in (
        "is of module 4 in orientation 'lab'; expected 9",
        "analogGains has shape (3, 2, 128, 512); expected (3, 3, 128, 512)",
        "has no dataset digitalMeans",
        "digitalStdDeviations has shape (2, 3, 128, 512); expected (3, 3, 128, 512)",
        "Process the dark",
    ):
        assert text in str(error.value)
    assert not (tmp_path / "mask.h5").exists()


def test_wrong_intervals_are_named():
    with pytest.raises(ValueError, match="calibration.mask.intervals") as error:
        bad_cells.cuts_of({"analogGain": [1, 2], "analogGains": [[1, 2]], "darkOffset": [5, 1]})
    for text in ("analogGain is no quantity", "analogGains has 1 intervals; expected 3", "darkOffset is [5, 1]"):
        assert text in str(error.value)


# Proposed intervals


def is_caught(values, found, stage_values):
    """Which (cell, row, column) an interval of the proposals masks."""
    bad = np.zeros((stage_values, *PLANE), bool)
    for name, interval in used(found):
        quantity, _, stage = name.partition("/")
        low, high = (-np.inf if interval[0] is None else interval[0]), (np.inf if interval[1] is None else interval[1])
        held = values[quantity][int(stage or 0)]
        bad |= ~((held >= low) & (held <= high))
    return bad


def test_proposals_catch_defects_and_keep_good_cells(tmp_path):
    modules = [2, 9]
    held = {module: make_values(np.random.default_rng(module)) for module in modules}
    held[9][0]["darkOffset"] += 150  # modules differ
    paths = [write_files(tmp_path, held[module][0], module) for module in modules]
    columns = [[of[name] for of in paths] for name in FILES[:4]]
    output = tmp_path / "proposed.yaml"
    intervals.propose_intervals(*columns, output, {"rule": "propose_intervals"}, modules=modules)
    text = output.read_text()
    assert "not applied" in text and "# rule: propose_intervals" in text and "most in module" in text
    config = yaml.safe_load(text)
    found = config["calibration"]["mask"]["intervals"]
    assert list(found) == list(STAGES)
    for values, defects in held.values():
        bad = is_caught(values, found, N_CELLS)
        good = ~np.logical_or.reduce([defects[name] for name in DEFECTS])
        assert bad[:, defects["noisy"]].mean() > 0.999
        assert bad[:, defects["hot"]].mean() > 0.99
        assert bad[:, defects["dead"]].all()
        assert bad[:, good].mean() < 0.001
    assert found["digitalSpacingsSafetyFactors"][0][1] is None and found["digitalSpacingsSafetyFactors"][0][0] >= 3
    assert "would mask 0.4" in text.splitlines()[text.splitlines().index("calibration:") - 1]


def test_proposals_are_what_the_configuration_wants(tmp_path):
    schema_path = SCRIPTS.parent / "config" / "schemas" / "config.schema.yaml"
    paths = write_files(tmp_path, make_values(np.random.default_rng(6), 1)[0], n_cells=1)
    intervals.propose_intervals(
        *([paths[name]] for name in FILES[:4]), tmp_path / "p.yaml", {}, modules=[MODULE], sigmas=5
    )
    config = yaml.safe_load((tmp_path / "p.yaml").read_text())
    complete = complete_config(config, schema_path)
    assert complete["calibration"]["mask"]["intervals"] == config["calibration"]["mask"]["intervals"]
    bad_cells.cuts_of(complete["calibration"]["mask"]["intervals"])


def test_one_interval_by_hand():
    quantity = {q.name: q for q in bad_cells.QUANTITIES}
    rng = np.random.default_rng(7)
    values = rng.normal(100, 2, 200_000).astype("f4")
    found = intervals.propose(values, quantity["darkOffset"], 8)
    assert found.low == pytest.approx(84, abs=0.3) and found.high == pytest.approx(116, abs=0.3)
    skewed = intervals.propose(rng.exponential(1, 200_000).astype("f4") + 5, quantity["analogFitStdDevs"], 8)
    assert skewed.above > 2 * skewed.below
    tiny = intervals.propose(values - 95, quantity["darkStandardDeviation"], 8)
    assert tiny.low == pytest.approx(0.5, abs=0.05)  # a tenth of the median
    safety = intervals.propose(rng.normal(6, 1, 1000).astype("f4"), quantity["digitalSpacingsSafetyFactors"], 8)
    assert (safety.low, safety.high) == (3, np.inf)
    nothing = intervals.propose(np.full(3, np.nan, "f4"), quantity["darkOffset"], 8)
    assert (nothing.low, nothing.high) == (-np.inf, np.inf)
    constant = intervals.propose(np.full(30, 6600, "f4"), quantity["digitalThresholds"], 8)
    assert (constant.low, constant.high) == (6596, 6604)
