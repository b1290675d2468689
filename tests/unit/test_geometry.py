import re

import numpy as np
import pytest
from extra_geom import AGIPD_1MGeometry, LPD_1MGeometry

from pulsetrain import crystfel
from pulsetrain.geometry import pixel_positions, read_geometry, xyz_map

DISTANCE_M = 0.715


@pytest.fixture(scope="module")
def tilted(tmp_path_factory):
    """A geometry whose panels are moved and turned, with fields that belong to other data, as files have them."""
    geometry = AGIPD_1MGeometry.example()
    for number, module in enumerate(geometry.modules):
        for tile in module:
            angle = 1e-3 * (number - 8)
            turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
            tile.ss_vec, tile.fs_vec = turn @ tile.ss_vec, turn @ tile.fs_vec
            tile.corner_pos = tile.corner_pos + [1e-5 * number, -2e-5 * number, 0.5e-3]
    path = tmp_path_factory.mktemp("geometry") / "beamtime.geom"
    geometry.write_crystfel_geom(
        str(path), data_path="/other/data", mask_path="/other/mask", clen=0.1, photon_energy=1234, adu_per_ev=0.5
    )
    return path


def panels_of(text):
    """A small independent reader of CrystFEL's geometry: {panel: {field: text}} and the fields before the panels."""
    top, panels = {}, {}
    for line in text.splitlines():
        line = line.split(";")[0].strip()
        if not line:
            continue
        key, value = (part.strip() for part in line.split("=", 1))
        if "/" in key:
            panel, field = key.split("/")
            panels.setdefault(panel, {})[field] = value
        else:
            top[key] = value
    return top, panels


def vector(text):
    parts = dict.fromkeys("xyz", 0.0)
    for number, axis in re.findall(r"([-+]?[0-9.]+(?:e[-+]?\d+)?)([xyz])", text.replace(" ", "")):
        parts[axis] = float(number)
    return np.array([parts[axis] for axis in "xyz"])


def test_positions_are_extra_geoms_in_one_plane(tilted):
    expected = AGIPD_1MGeometry.from_crystfel_geom(tilted).get_pixel_positions()
    positions = pixel_positions(read_geometry(tilted))
    assert positions.shape == (3, 16, 512, 128)
    np.testing.assert_allclose(positions[0], expected[..., 0], atol=1e-12)
    np.testing.assert_allclose(positions[1], expected[..., 1], atol=1e-12)
    np.testing.assert_allclose(expected[..., 2], 0.5e-3)
    assert not positions[2].any()


def test_xyz_map_has_the_distance_as_z(tilted):
    geometry = read_geometry(tilted)
    positions = xyz_map(geometry, DISTANCE_M)
    assert positions.dtype == np.float32
    assert positions.shape == (3, 16, 512, 128)
    np.testing.assert_array_equal(positions[2], np.float32(DISTANCE_M))
    np.testing.assert_allclose(positions[:2], pixel_positions(geometry)[:2], atol=1e-8)


@pytest.mark.parametrize("distance", [0, -1.0, float("nan")])
def test_distance_must_be_positive(tilted, distance):
    with pytest.raises(ValueError, match="detector.distance_m"):
        xyz_map(read_geometry(tilted), distance)


def test_neighbours_are_200_um_apart(tilted):
    positions = pixel_positions(read_geometry(tilted))
    np.testing.assert_allclose(np.linalg.norm(np.diff(positions, axis=3), axis=0), 2e-4, rtol=1e-6)
    steps = np.linalg.norm(np.diff(positions, axis=2), axis=0)
    np.testing.assert_allclose(np.delete(steps, np.arange(63, 511, 64), axis=1), 2e-4, rtol=1e-6)


def test_other_detectors_are_refused(tmp_path):
    path = tmp_path / "lpd.geom"
    LPD_1MGeometry.from_quad_positions([(11.4, 299), (-11.5, 8), (254.5, -16), (278.5, 275)]).write_crystfel_geom(
        str(path)
    )
    with pytest.raises(ValueError, match=r"lpd\.geom is no geometry of an AGIPD-1M .*256 panels instead of 128"):
        read_geometry(path)


@pytest.mark.parametrize(
    ("pattern", "replacement", "message"),
    [
        (r"p3a2/max_fs = 127", "p3a2/max_fs = 63", "panel p3a2 has 64 x 64 pixels"),
        (r"res = 5000", "res = 13333", "13333.0 pixels per metre"),
        (r"p3a2", "p3a1", "127 panels"),
        (r"p3a2/dim1 = 3", "p3a2/dim1 = 4", "KeyError"),
    ],
)
def test_damaged_geometry_is_refused(tmp_path, tilted, pattern, replacement, message):
    path = tmp_path / "damaged.geom"
    path.write_text(re.sub(pattern, replacement, tilted.read_text()))
    with pytest.raises(ValueError, match=message) as error:
        read_geometry(path)
    assert "Set detector.geometry" in str(error.value)


def test_missing_or_foreign_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="set detector.geometry"):
        read_geometry(tmp_path / "none.geom")
    (tmp_path / "text.geom").write_text("no geometry\n")
    with pytest.raises(ValueError, match="No panel descriptions"):
        read_geometry(tmp_path / "text.geom")


def test_crystfel_geometry_read_by_hand_gives_the_same_pixels(tilted):
    geometry = read_geometry(tilted)
    top, panels = panels_of(crystfel.geometry_text(geometry, DISTANCE_M))
    assert len(panels) == 128
    resolution = float(top["res"])
    positions = np.full((3, 16, 512, 128), np.nan)
    for panel in panels.values():
        assert (panel["dim2"], panel["dim3"]) == ("ss", "fs")
        ss = np.arange(int(panel["min_ss"]), int(panel["max_ss"]) + 1)
        fs = np.arange(int(panel["min_fs"]), int(panel["max_fs"]) + 1)
        corner = np.array([float(panel["corner_x"]), float(panel["corner_y"]), 0])
        pixels = (
            corner[:, None, None]
            + vector(panel["ss"])[:, None, None] * (ss - ss[0] + 0.5)[None, :, None]
            + vector(panel["fs"])[:, None, None] * (fs - fs[0] + 0.5)[None, None, :]
        )
        pixels /= resolution
        pixels[2] += float(top["clen"]) + float(panel["coffset"])
        positions[:, int(panel["dim1"]), ss[0] : ss[-1] + 1, fs[0] : fs[-1] + 1] = pixels
    np.testing.assert_allclose(positions, xyz_map(geometry, DISTANCE_M), atol=1e-6)


def test_crystfel_geometry_read_by_extra_geom_gives_the_same_pixels(tmp_path, tilted):
    path = tmp_path / "r0050.geom"
    geometry = read_geometry(tilted)
    path.write_text(crystfel.geometry_text(geometry, DISTANCE_M))
    read = AGIPD_1MGeometry.from_crystfel_geom(path)
    np.testing.assert_allclose(read.get_pixel_positions(), geometry.get_pixel_positions(), atol=1e-9)
    assert read.metadata["crystfel"]["clen"] == DISTANCE_M


def test_crystfel_geometry_names_the_datasets_of_the_cxi_file(tilted):
    text = crystfel.geometry_text(read_geometry(tilted), DISTANCE_M)
    top, _ = panels_of(text)
    assert top["data"] == "/entry_1/data_1/data"
    assert top["mask"] == "/entry_1/instrument_1/detector_1/mask"
    assert (top["mask_good"], top["mask_bad"]) == ("0x0", "0xffffffff")
    assert top["wavelength"] == "/entry_1/instrument_1/source_1/photon_wavelength m"
    assert top["dim0"] == "%"
    assert float(top["adu_per_photon"]) == 1
    assert "photon_energy" not in top
    assert "adu_per_eV" not in top
