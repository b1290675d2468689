import configparser
import importlib

import dragonfly as dragonfly_client
import h5py
import numpy as np
import pytest
from hit_files import cell_masks, expected_masks, random_frames, random_hits, write_cxi_file
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pulsetrain import cxi, dragonfly, emc

N_HITS = 8
N_PIXELS = 16 * 512 * 128
rule = importlib.import_module("write_emc")


@pytest.fixture(scope="module")
def arrays():
    return random_hits(N_HITS, missing=[(3, 5)]), random_frames(N_HITS), cell_masks(3)


@pytest.fixture(scope="module")
def cxi_path(arrays, tmp_path_factory):
    return write_cxi_file(tmp_path_factory.mktemp("cxi") / "r0050_hits.cxi", *arrays)


def run_rule(cxi_path, folder, bad_cell_fraction=0.3, model_size=47):
    paths = [folder / name for name in ("r0050.emc", "r0050_det.h5", "r0050_config.ini")]
    rule.write_emc(cxi_path, *paths, bad_cell_fraction, model_size, 4, 2, {"rule": "write_emc"})
    return paths


@pytest.fixture(scope="module")
def outputs(cxi_path, tmp_path_factory):
    return run_rule(cxi_path, tmp_path_factory.mktemp("emc"))


@pytest.fixture(scope="module")
def expected(arrays):
    """Frames and good pixels as they should be in the EMC files, from the arrays that made the CXI file."""
    hits, photons, masks = arrays
    per_hit = expected_masks(hits, masks)
    good = (per_hit != 0).sum(axis=0) <= 0.3 * N_HITS
    stored = np.where(per_hit == 0, np.minimum(photons, 255), 0)
    return np.where(good, stored, 0).reshape(N_HITS, -1), good.reshape(-1)


def test_own_reader_gives_the_frames_of_the_cxi_file(outputs, expected):
    photons = emc.read_photons(outputs[0])
    assert photons.n_pixels == N_PIXELS
    frames, _ = expected
    for frame, (place_ones, place_multi, count_multi) in zip(frames, emc.frames_of(photons), strict=True):
        np.testing.assert_array_equal(place_ones, np.flatnonzero(frame == 1))
        np.testing.assert_array_equal(place_multi, np.flatnonzero(frame > 1))
        np.testing.assert_array_equal(count_multi, frame[frame > 1])


def test_bytes_are_the_documented_layout(outputs, expected):
    words = np.fromfile(outputs[0], dtype="<i4")
    frames, _ = expected
    assert list(words[:3]) == [N_HITS, N_PIXELS, 0]
    assert not words[3:256].any()
    ones, multi = [np.flatnonzero(f == 1) for f in frames], [np.flatnonzero(f > 1) for f in frames]
    body = [[len(x) for x in ones], [len(x) for x in multi], *ones, *multi, *[f[f > 1] for f in frames]]
    np.testing.assert_array_equal(words[256:], np.concatenate(body))


def test_dragonflys_readers_give_the_frames_of_the_cxi_file(outputs, expected):
    emc_path, det_path, _ = outputs
    frames, good = expected
    detector = dragonfly_client.Detector(str(det_path))
    reader = dragonfly_client.EMCReader(str(emc_path), detector)
    assert reader.num_frames == N_HITS
    for i in (0, 3, N_HITS - 1):
        np.testing.assert_array_equal(reader.get_frame(i, raw=True).reshape(-1), frames[i])
    client = dragonfly_client.CDetector(str(det_path))
    data = dragonfly_client.CDataset(str(emc_path), client)
    assert (data.num_data, data.num_pix) == (N_HITS, N_PIXELS)
    np.testing.assert_array_equal(np.asarray(data.ones), (frames == 1).sum(axis=1))
    np.testing.assert_array_equal(np.asarray(data.multi), (frames > 1).sum(axis=1))
    np.testing.assert_array_equal(np.asarray(data.place_ones), np.nonzero(frames == 1)[1])
    np.testing.assert_array_equal(np.asarray(data.place_multi), np.nonzero(frames > 1)[1])
    np.testing.assert_array_equal(np.asarray(data.count_multi), frames[frames > 1])
    np.testing.assert_array_equal(np.asarray(client.raw_mask) == 0, good)


def test_mask_weighs_the_cells_by_their_hits(outputs, expected, cxi_path, tmp_path):
    _, good = expected
    with h5py.File(outputs[1]) as file:
        mask = file["mask"][()]
        assert mask.dtype == np.uint8
        np.testing.assert_array_equal(mask, np.where(good, 0, 2))
    strict = run_rule(cxi_path, tmp_path, bad_cell_fraction=0.0)
    with h5py.File(strict[1]) as det, h5py.File(cxi_path) as hits:
        good_hits = cxi.count_good_hits(hits)
        np.testing.assert_array_equal(det["mask"][()].reshape(good_hits.shape) == 0, good_hits == N_HITS)
        assert (det["mask"][()].reshape(16, -1)[5] == 2).all()  # module 5 is missing in one hit


def test_bad_pixel_mask_at_the_limit():
    good_hits = np.array([100, 98, 97, 0])
    np.testing.assert_array_equal(dragonfly.bad_pixel_mask(good_hits, 100, 0.02), [0, 0, 2, 2])
    np.testing.assert_array_equal(dragonfly.bad_pixel_mask(np.zeros(2, int), 0, 0.02), [2, 2])


def test_detector_file(outputs, cxi_path):
    with h5py.File(cxi_path) as file:
        xyz = file[f"{cxi.DETECTOR}/xyz_map"][()].astype("f8").reshape(3, -1)
    with h5py.File(outputs[1]) as file:
        q = np.stack([file[name][()] for name in ("qx", "qy", "qz")])
        correction, radius, distance = file["corr"][()], file["ewald_rad"][()], file["detd"][()]
        assert {file[name].dtype for name in ("qx", "qy", "qz", "corr")} == {np.dtype("f8")}
        assert {file[name].ndim for name in ("qx", "qy", "qz", "corr", "mask")} == {1}
        assert file.attrs["rule"] == "write_emc"
    assert distance == pytest.approx(0.715 / 2e-4)
    # on the Ewald sphere, which has its centre at (0, 0, -R) and goes through the origin
    np.testing.assert_allclose(np.sqrt(q[0] ** 2 + q[1] ** 2 + (q[2] + radius) ** 2), radius, rtol=1e-12)
    # the same direction from the sample as the pixel: neither mirrored nor turned
    direction = (q + [[0], [0], [radius]]) / radius
    np.testing.assert_allclose(direction, xyz / np.linalg.norm(xyz, axis=0), atol=1e-12)
    assert np.isfinite(correction).all()
    assert (correction > 0).all()
    two_theta = np.arccos(direction[2])
    azimuth = np.arctan2(xyz[1], xyz[0])
    # solid angle ~ cos^3, horizontal polarisation: 1 - sin^2(2 theta) cos^2(azimuth)
    expected = np.cos(two_theta) ** 3 * (1 - (np.sin(two_theta) * np.cos(azimuth)) ** 2)
    np.testing.assert_allclose(correction / correction.max(), expected / expected.max(), rtol=1e-6)


def test_detector_agrees_with_dragonflys_own_formula(outputs, cxi_path):
    with h5py.File(cxi_path) as file:
        xyz = file[f"{cxi.DETECTOR}/xyz_map"][()].astype("f8").reshape(3, -1) / 2e-4
    with h5py.File(outputs[1]) as file:
        ours = {name: file[name][()] for name in ("qx", "qy", "qz", "corr", "detd", "ewald_rad")}
    theirs = dragonfly_client.Detector()
    theirs.detd, theirs.ewald_rad = ours["detd"], ours["ewald_rad"]
    theirs.cx, theirs.cy = xyz[0], xyz[1]
    theirs.calc_from_coords(pol="x")
    for axis, name in enumerate(("qx", "qy", "qz")):
        np.testing.assert_allclose(theirs.qvals[:, axis], ours[name], atol=1e-9)
    np.testing.assert_allclose(theirs.corr / theirs.corr.mean(), ours["corr"] / ours["corr"].mean(), rtol=1e-9)


def test_q_follows_the_pixel_index(outputs):
    """Modules 0-7 at x < 0, their slow scan along +x and fast scan along -y; 8-15 the other way round.

    Quadrants of four modules, numbered from the top down: upper and lower at x < 0, lower and upper at x > 0 (x to
    the left looking along the beam, y up), as EXtra-geom draws the AGIPD-1M.
    """
    with h5py.File(outputs[1]) as file:
        qx, qy = (file[name][()].reshape(16, 512, 128) for name in ("qx", "qy"))
    for module in range(16):
        sign = -1 if module < 8 else 1
        assert np.sign(qx[module].mean()) == sign
        assert (np.sign(np.diff(qx[module, :, 64])) == -sign).all()
        assert (np.sign(np.diff(qy[module, 256])) == sign).all()
    heights = qy.mean(axis=(1, 2))
    assert (np.diff(heights.reshape(4, 4), axis=1) < 0).all()
    np.testing.assert_array_equal(np.sign(heights.reshape(4, 4).mean(axis=1)), [1, -1, -1, 1])


@pytest.mark.parametrize("model_size", [7, 46, 47, 127])
def test_model_size(cxi_path, model_size):
    with h5py.File(cxi_path) as file:
        model = dragonfly.detector_model(file[f"{cxi.DETECTOR}/xyz_map"][()], 2e-4, model_size)
    side = 2 * np.ceil(np.sqrt((model.q**2).sum(axis=0)).max()) + 3  # as Dragonfly computes it
    assert side == model_size - 1 + model_size % 2


def test_model_size_must_make_a_model():
    with pytest.raises(ValueError, match="emc.model_size"):
        dragonfly.detector_model(np.ones((3, 4)), 2e-4, 3)


def test_config_starts_dragonfly(outputs):
    emc_path, det_path, config_path = outputs
    config = configparser.ConfigParser()
    config.read(config_path)
    section = config["emc"]
    assert (config_path.parent / section["in_photons_file"]) == emc_path
    assert (config_path.parent / section["in_detector_file"]) == det_path
    assert section["num_div"] == "4"
    assert section["need_scaling"] == "1"
    iterate = dragonfly_client.Iterate(str(config_path))
    assert iterate.params.output_folder == str(config_path.parent / "r0050_dragonfly")
    assert iterate.tot_num_data == N_HITS


def test_no_hits(tmp_path):
    path = write_cxi_file(tmp_path / "a.cxi", random_hits(0), random_frames(0), cell_masks(1))
    emc_path, det_path, config_path = run_rule(path, tmp_path)
    assert emc_path.stat().st_size == 1024
    assert list(np.fromfile(emc_path, "<i4", 3)) == [0, N_PIXELS, 0]
    photons = emc.read_photons(emc_path)
    assert len(photons.ones) == len(photons.place_ones) == 0
    with h5py.File(det_path) as file:
        assert file.attrs["status"] == "empty"
    config = configparser.ConfigParser()
    config.read(config_path)
    assert "in_photons_file" not in config["emc"]
    text = config_path.read_text()
    assert "The run has no hits" in text
    assert "# in_photons_file = r0050.emc" in text


def copy_with(outputs, tmp_path, change):
    words = np.fromfile(outputs[0], dtype="<i4")
    path = tmp_path / "changed.emc"
    change(words).tofile(path)
    return path


def shifted(words, at, by):
    words[at] += by
    return words


FIRST_PLACE = 256 + 2 * N_HITS


@pytest.mark.parametrize(
    "change",
    [
        lambda words: words[:-1],
        lambda words: words[: 256 + N_HITS],
        lambda words: words[:256],
        lambda words: words[:100],
        lambda words: np.append(words, words[-1]),
        lambda words: shifted(words, 0, 1),
        lambda words: shifted(words, 1, 1),
        lambda words: shifted(words, 2, 1),
        lambda words: shifted(words, 256, 1),
        lambda words: shifted(shifted(words, 256, 1), 257, -1),
        lambda words: shifted(words, FIRST_PLACE, 1),
        lambda words: shifted(words, FIRST_PLACE, N_PIXELS),
        lambda words: shifted(words, FIRST_PLACE, -N_PIXELS),
        lambda words: shifted(words, FIRST_PLACE + 1, int(words[FIRST_PLACE] - words[FIRST_PLACE + 1])),
        lambda words: shifted(words, -1, 1),
    ],
)
def test_verification_finds_every_damage(outputs, expected, cxi_path, tmp_path, change):
    _, good = expected
    path = copy_with(outputs, tmp_path, change)
    with h5py.File(cxi_path) as file, pytest.raises(ValueError, match=r"changed\.emc"):
        emc.verify_emc(path, file, good.reshape(cxi.FRAME_SHAPE))


def test_undamaged_copy_passes(outputs, expected, cxi_path, tmp_path):
    frames, good = expected
    path = copy_with(outputs, tmp_path, lambda words: words)
    with h5py.File(cxi_path) as file:
        assert emc.verify_emc(path, file, good.reshape(cxi.FRAME_SHAPE)) == frames.sum()


def test_nothing_remains_after_a_failed_verification(cxi_path, tmp_path, monkeypatch):
    def damage(path, *arguments):
        write(path, *arguments)
        with path.open("r+b") as file:
            file.truncate(path.stat().st_size - 4)

    write = emc.write_emc
    monkeypatch.setattr(emc, "write_emc", damage)
    with pytest.raises(ValueError, match="cut off or damaged"):
        run_rule(cxi_path, tmp_path)
    assert not list(tmp_path.iterdir())


def test_outputs_must_share_a_directory(cxi_path, tmp_path):
    with pytest.raises(ValueError, match="must be in one directory"):
        rule.write_emc(cxi_path, tmp_path / "a/r.emc", tmp_path / "b/d.h5", tmp_path / "a/c.ini", 0.02, 47, 4, 1, {})


def test_number_of_frames_is_checked(tmp_path):
    frame = tuple(np.zeros(0, dtype="i4") for _ in range(3))
    for n_announced, message in ((1, "more frames"), (3, "2 frames instead of the 3")):
        with pytest.raises(ValueError, match=message):
            emc.write_photons(tmp_path / "a.emc", iter([frame, frame]), n_announced, 64)


@settings(max_examples=60)
@given(
    frames=hnp.arrays(
        st.sampled_from([np.dtype("u1"), np.dtype("u2")]),
        st.tuples(st.integers(0, 5), st.just(64)),
        elements=st.sampled_from([0, 0, 0, 1, 1, 2, 3, 255]),
    ),
    good=hnp.arrays(np.bool_, 64),
)
def test_round_trip(tmp_path_factory, frames, good):
    path = tmp_path_factory.mktemp("trip") / "a.emc"
    emc.write_photons(path, (emc.sparse_frame(frame, good) for frame in frames), len(frames), 64)
    photons = emc.read_photons(path)
    kept = np.where(good, frames, 0).astype(int)
    back = np.zeros(frames.shape, dtype=int)
    for row, (place_ones, place_multi, count_multi) in zip(back, emc.frames_of(photons), strict=True):
        row[place_ones] = 1
        row[place_multi] = count_multi
    np.testing.assert_array_equal(back, kept)
    assert photons.ones.sum() + photons.count_multi.sum() == kept.sum()
