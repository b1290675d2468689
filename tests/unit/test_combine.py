import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pulsetrain.chunks import open_storages
from pulsetrain.combine import combine_constants, energy_gains, known_thresholds
from pulsetrain.constants import open_constants, read_constants
from pulsetrain.detector import LAB_SHAPE, xfel_from_lab

MODULE, CELL, ENERGY = 7, 2, 8.04
N_CELLS = 4
SLOPES = (100, 3.2, 0.6)  # ADU / clock


def make_truth(rng, n_cells=N_CELLS):
    """What a module is, and the processed files that exact measurements would give."""
    shape = (n_cells, *LAB_SHAPE)
    slopes = np.stack([slope * rng.normal(1, 0.03, shape) for slope in SLOPES])
    clock_kev = 0.9 * rng.normal(1, 0.05, LAB_SHAPE)  # the current source of a pixel is the same for all its cells
    return {
        "darkOffset": rng.normal(4500, 100, shape).astype("f4"),
        "analogGains": slopes.astype("f4"),
        "anlogLineOffsets": np.stack([rng.normal(m, 50, shape) for m in (4510, 5600, 5400)]).astype("f4"),
        "fitStatus": np.zeros(shape, "u1"),
        "digitalThresholds": np.stack([rng.integers(m - 90, m + 90, shape) for m in (6600, 7650)]).astype("u2"),
        "photonSpacing": (slopes[0, CELL] / clock_kev * ENERGY).astype("f4"),
        "kev_per_adu": clock_kev / slopes,
    }


FILES = {
    "dark": ["darkOffset"],
    "analog_gains": ["analogGains", "anlogLineOffsets", "fitStatus"],
    "digital_means": ["digitalThresholds"],
    "photon_spacing": ["photonSpacing"],
}


def write_files(folder, values, **attributes):
    """The four processed files; `attributes` {file: dict} differ from the usual ones."""
    paths = {}
    for name, datasets in FILES.items():
        paths[name] = folder / f"{name}.h5"
        with h5py.File(paths[name], "w") as file:
            usual = {"module": MODULE, "orientation": "lab"} | ({"cell": CELL} if name == "photon_spacing" else {})
            file.attrs.update(usual | attributes.get(name, {}))
            for dataset in datasets:
                if dataset in values:
                    file[dataset] = values[dataset]
    return paths


def combine(paths, output, **given):
    options = {"module": MODULE, "xray_cell": CELL, "photon_energy_kev": ENERGY} | given
    combine_constants(**paths, output=output, attributes={"rule": "combine_constants"}, **options)
    with h5py.File(output) as file:
        return {name: held[()] for name, held in file.items()}, dict(file.attrs)


def test_constants_are_what_the_formulas_say(tmp_path):
    rng = np.random.default_rng(1)
    values = make_truth(rng)
    values["analogGains"][2, 1, 5, :9] = np.nan
    values["analogGains"][1, :, 6, :9] = -1
    values["analogGains"][0, CELL, 7, :9] = 0
    values["fitStatus"][CELL, 11, :9] = 1  # what is taken for high gain there may be medium gain
    values["fitStatus"][(CELL + 1) % N_CELLS, 12, :9] = 1
    values["photonSpacing"][8, :5] = [np.nan, 0, -80, np.inf, -np.inf]
    values["darkOffset"][3, 9, :2] = [np.nan, 0]
    values["anlogLineOffsets"][2, 3, 9, 2] = np.inf
    values["anlogLineOffsets"][0] = np.nan  # not used: the dark data say more of stage 0
    values["digitalThresholds"][1, 0, 10, :4] = [65535, 0, 32767, 32766]
    values["digitalThresholds"][0, 0, 10, 4] = 65535
    found, attributes = combine(write_files(tmp_path, values), tmp_path / "constants.h5")

    g = values["analogGains"].astype("f8")
    with np.errstate(all="ignore"):
        spacing = np.where((values["photonSpacing"] > 0) & np.isfinite(values["photonSpacing"]), g[0, CELL], np.nan)
        spacing_all = values["photonSpacing"] / spacing * g[0]
        high = ENERGY / spacing_all
        expected = np.stack([high, high * g[0] / g[1], high * g[0] / g[2]])
    expected[~np.isfinite(expected) | (expected <= 0)] = np.nan
    expected[:, :, 11, :9] = np.nan
    expected[2, 0, 10, :3] = np.nan  # the threshold to the stage is not known
    expected[1, 0, 10, 4] = np.nan
    np.testing.assert_allclose(found["analogGains_keV"], expected, rtol=1e-6)  # float32
    assert np.isnan(found["analogGains_keV"][:, :, 7, :9]).all()  # no gain of the X-ray cell: nothing of the pixel
    offsets = np.stack([values["darkOffset"], *values["anlogLineOffsets"][1:]])
    offsets[~np.isfinite(offsets) | (offsets <= 0)] = np.nan
    np.testing.assert_array_equal(found["darkOffsets"], offsets)
    thresholds = values["digitalThresholds"].astype("i4")
    thresholds[(thresholds == 0) | (thresholds == 65535)] = 32767
    np.testing.assert_array_equal(found["digitalThresholds"], thresholds)
    assert [found[name].dtype for name in ("analogGains_keV", "darkOffsets", "digitalThresholds")] == ["f4", "f4", "i2"]
    whole = (np.isfinite(expected) & np.isfinite(offsets)).all(axis=0).mean()
    assert attributes["percent_finite"] == pytest.approx(100 * whole)
    assert (attributes["rule"], attributes["module"], attributes["orientation"]) == ("combine_constants", MODULE, "lab")
    with open_storages() as storage_of:  # as a raw run reads them
        held = read_constants(open_constants(tmp_path / "constants.h5", MODULE, [0, 3], 1, storage_of), [0, 3])
    known = np.isfinite(found["analogGains_keV"]).all(axis=0) & np.isfinite(found["darkOffsets"]).all(axis=0)
    np.testing.assert_array_equal(held.finite, xfel_from_lab(known[[0, 3]], MODULE).reshape(2, -1))
    gain = xfel_from_lab(found["analogGains_keV"][:, [0, 3]], MODULE).reshape(held.gain.shape)
    np.testing.assert_array_equal(held.gain, np.where(held.finite, gain, 0))


def test_energies_are_right_in_all_three_stages(tmp_path):
    """With slopes 100, 3.2, 0.6; with the ratio the wrong way round the medium gain would be a thousandth of it."""
    values = make_truth(np.random.default_rng(2))
    found, _ = combine(write_files(tmp_path, values), tmp_path / "constants.h5")
    for stage, clocks in enumerate((20, 400, 3000)):
        energy = clocks * values["kev_per_adu"][stage] * values["analogGains"][stage]  # what the source deposited
        analog = clocks * values["analogGains"][stage] + found["darkOffsets"][stage]
        kev = (analog - found["darkOffsets"][stage]) * found["analogGains_keV"][stage]
        np.testing.assert_allclose(kev, energy, rtol=2e-5)  # float32 of an analog value of some 10 000 ADU
        assert 0.5 * clocks < np.median(kev) < 1.5 * clocks


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(1, 100))
def test_gains_scale_as_the_units_say(seed, factor, energy):
    """Twice the photon energy is twice the gain; another length of the clock changes nothing."""
    rng = np.random.default_rng(seed)
    slopes = rng.uniform(0.1, 100, (3, 8, 8))
    clock = rng.uniform(0.01, 3, (8, 8))
    gain = energy_gains(slopes, clock, energy)
    np.testing.assert_allclose(energy_gains(slopes, clock, factor * energy), factor * gain, rtol=1e-6)
    np.testing.assert_allclose(energy_gains(slopes * factor, clock * factor, energy), gain, rtol=1e-6)
    np.testing.assert_allclose(gain[0] / gain[1], slopes[1] / slopes[0], rtol=1e-6)
    np.testing.assert_allclose(gain[0] / gain[2], slopes[2] / slopes[0], rtol=1e-6)


def test_every_midpoint_has_a_threshold():
    midpoints = np.arange(65536, dtype="u2")
    found = known_thresholds(midpoints)
    np.testing.assert_array_equal(found[1:32767], midpoints[1:32767])
    assert (found[[0, *range(32767, 65536)]] == 32767).all()


WRONG = {
    "module": ({}, {"dark": {"module": 3}}, {}, ["dark.h5: attribute module is 3; expected 7"]),
    "orientation": ({}, {"analog_gains": {"orientation": "xfel"}}, {}, ["orientation is 'xfel'; expected 'lab'"]),
    "cell": ({}, {"photon_spacing": {"cell": 1}}, {}, ["attribute cell is 1, but xray_cell of the configuration is 2"]),
    "energy": ({}, {}, {"photon_energy_kev": -8.0}, ["photon_energy_kev is -8.0"]),
    "no energy": ({}, {}, {"photon_energy_kev": np.nan}, ["photon_energy_kev is nan"]),
    "cell out of range": (
        {},
        {"photon_spacing": {"cell": 4}},
        {"xray_cell": 4},
        ["xray_cell is 4; the files have the memory cells 0 to 3"],
    ),
    "dtype": ({"digitalThresholds": "i4"}, {}, {}, ["digitalThresholds is int32; expected uint16"]),
    "truncated spacing": ({"photonSpacing": "i2"}, {}, {}, ["photonSpacing is int16; expected float32"]),
    "missing": ({"anlogLineOffsets": None}, {}, {}, ["analog_gains.h5: there is no dataset anlogLineOffsets"]),
    "shape": ({"analogGains": np.s_[:2]}, {}, {}, [r"analogGains has shape \(2, 4, 128, 512\); expected \(3, cells"]),
    "orientation of pixels": (
        {"photonSpacing": "transposed"},
        {},
        {},
        [r"photonSpacing has shape \(512, 128\); expected \(128, 512\)"],
    ),
    "cells": (
        {"darkOffset": np.s_[:3]},
        {},
        {},
        ["different numbers of memory cells: 3 in darkOffset of .*dark.h5, 4 in analogGains"],
    ),
    "all at once": (
        {"darkOffset": np.s_[:3], "digitalThresholds": "u4"},
        {"dark": {"module": 3}, "digital_means": {"orientation": "xfel"}},
        {"photon_energy_kev": 0.0},
        ["module is 3", "'xfel'", "uint32", "different numbers", "photon_energy_kev is 0.0"],
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(tmp_path, case):
    changes, attributes, options, messages = WRONG[case]
    values = make_truth(np.random.default_rng(3))
    for name, change in changes.items():
        if change is None:
            del values[name]
        elif change == "transposed":
            values[name] = values[name].T
        else:
            values[name] = values[name].astype(change) if isinstance(change, str) else values[name][change]
    paths = write_files(tmp_path, values, **attributes)
    for message in messages:
        with pytest.raises(ValueError, match=message):
            combine(paths, tmp_path / "constants.h5", **options)
    assert not (tmp_path / "constants.h5").exists()
    with pytest.raises(ValueError, match="constants of module 07 cannot be combined"):
        combine(paths, tmp_path / "constants.h5", **options)
