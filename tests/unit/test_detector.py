"""Orientation, ASIC borders and units of the detector."""

import numpy as np
import pytest

from pulsetrain.detector import (
    asic_edges,
    lab_from_xfel,
    photon_energy_kev,
    wavelength_m,
    xfel_from_lab,
)


@pytest.mark.parametrize("module", [0, 7, 8, 15])
def test_orientation_follows_the_written_rule_at_every_pixel(module):
    xfel = np.arange(512 * 128).reshape(512, 128)
    j, i = np.meshgrid(np.arange(128), np.arange(512), indexing="ij")
    expected = xfel[511 - i, j] if module < 8 else xfel[i, 127 - j]
    np.testing.assert_array_equal(lab_from_xfel(xfel, module), expected)


@pytest.mark.parametrize(
    ("module", "corners"),
    [(0, [(511, 0), (0, 0), (511, 127), (0, 127)]), (8, [(0, 127), (511, 127), (0, 0), (511, 0)])],
)
def test_orientation_of_the_four_corners(module, corners):
    xfel = np.arange(512 * 128).reshape(512, 128)
    lab = lab_from_xfel(xfel, module)
    assert [lab[0, 0], lab[0, 511], lab[127, 0], lab[127, 511]] == [xfel[corner] for corner in corners]


@pytest.mark.parametrize("module", range(16))
def test_orientation_round_trip(module):
    images = np.random.default_rng(module).integers(0, 1000, (3, 2, 512, 128))
    np.testing.assert_array_equal(xfel_from_lab(lab_from_xfel(images, module), module), images)


def test_orientation_refuses_the_other_shape():
    with pytest.raises(ValueError, match=r"shape \(128, 512\); expected \(..., 512, 128\)"):
        lab_from_xfel(np.zeros((128, 512)), 0)


def test_asic_edges_are_the_borders_of_sixteen_asics():
    edges = asic_edges()
    assert edges.sum() == 16 * (64 * 64 - 62 * 62)
    assert edges[0].all()
    assert edges[63].all()
    assert edges[64].all()
    assert edges[:, 127].all()
    assert not edges[1:63, 1:63].any()


def test_photon_energy_and_wavelength_are_inverse():
    assert photon_energy_kev(1e-10) == pytest.approx(12.39841984)
    assert wavelength_m(photon_energy_kev(1.3e-10)) == pytest.approx(1.3e-10, rel=1e-14)
