"""Means and curves of the pictures are those of the file; runs without anything still get pictures and a page."""

import json

import h5py
import numpy as np
import pytest
from mid_runs import check, export, settings_of, with_dark, write_agipd, write_epix

from pulsetrain import mid_figures, mid_page, mid_sums, simulate, simulate_mid
from pulsetrain.figures import save_figure
from pulsetrain.mid_trains import read_exported

PROVENANCE = {"pulsetrain_version": "0", "git_revision": "none", "created": "today"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    place = tmp_path_factory.mktemp("mid")
    settings = settings_of(trains=8, cells=4)
    frames = check(place, settings, write_agipd(place, settings))
    epix = write_epix(place, settings)
    simulate_mid.write_dark(place / "dark.h5", settings)
    export(place, settings, frames, epix, name="mid/dark.h5", correction=with_dark(place / "dark.h5"))
    export(place, settings, frames, epix, name="mid/raw.h5")
    nothing = {"pulse_ids": [1], "max_lost": 1, "correction": with_dark(place / "dark.h5")}
    export(place, settings, frames, epix, name="mid/empty.h5", **nothing)
    return place / "scratch"


def test_sums_of_the_corrected_run(run):
    sums = mid_sums.gather_sums(run / "mid/dark.h5")
    with h5py.File(run / "mid/dark.h5") as file:
        group = file["data/AGIPD_corrected"]
        photons, mask = group["data"][()].astype(float), group["mask"][()]
        epix = file["data/EPIX-2/data"][()].astype(float)
    known = mask.any(axis=0)
    with np.errstate(invalid="ignore"):
        mean = photons.sum(axis=(0, 1)) / known.sum(axis=0)
    np.testing.assert_allclose(sums.agipd_image[[0, 13]], mean)
    assert np.isnan(sums.agipd_image[[1, 12, 15]]).all()
    of_train = photons.sum(axis=0).reshape(7, 4, 2, -1).sum(axis=(1, 3)) / known.reshape(7, 4, 2, -1).sum(axis=(1, 3))
    np.testing.assert_allclose(sums.agipd_signal, of_train)
    np.testing.assert_allclose(sums.epix_image[2], epix.mean(axis=0))
    np.testing.assert_allclose(sums.epix_signal[2], epix.mean(axis=(1, 2)))
    np.testing.assert_array_equal(sums.histogram, np.histogram(photons[0][mask[0]], mid_sums.PHOTON_EDGES)[0])
    np.testing.assert_allclose(sums.shares, mask.mean(axis=(1, 3, 4)).T)
    assert (sums.units, sums.n_images, sums.n_trains) == ("photons", 28, 7)


def test_sums_of_a_sample(run, monkeypatch):
    monkeypatch.setattr(mid_sums, "MOST_TRAINS", 3)
    monkeypatch.setattr(mid_sums, "MOST_IMAGES", 12)
    sums = mid_sums.gather_sums(run / "mid/raw.h5")
    assert sums.train_id.tolist() == [10002, 10005, 10008]
    with h5py.File(run / "mid/raw.h5") as file:
        frames = [0, 3, 12, 15, 24, 27]  # the first and the last pulse of each
        data = file["data/AGIPD/index/data"][frames].astype(float)
    np.testing.assert_allclose(sums.agipd_image[[0, 13]], data.mean(axis=0))
    assert (sums.units, sums.histogram, sums.shares) == ("ADU", None, None)


@pytest.mark.parametrize("name", ["dark", "raw", "empty"])
def test_pictures_and_page(run, tmp_path, name):
    mid = run / f"mid/{name}.h5"
    exported, sums = read_exported(mid), mid_sums.gather_sums(mid)
    drawn = {
        "mid_trains": mid_figures.draw_trains(exported),
        "mid_agipd": mid_figures.draw_agipd(str(simulate.GEOMETRY), sums),
        "mid_epix": mid_figures.draw_epix(sums),
        "mid_signal": mid_figures.draw_signal(sums),
    }
    if name != "raw":
        drawn["mid_photons"] = mid_figures.draw_photons(sums, exported.correction)
    figures = [tmp_path / f"{each}.png" for each in drawn]
    for figure, path in zip(drawn.values(), figures, strict=True):
        save_figure(figure, path, {})
        assert path.read_bytes().startswith(b"\x89PNG")
    kept = 0 if name == "empty" else 7
    assert drawn["mid_trains"].axes[0].get_title() == f"{kept} of 9 trains exported"
    captions = [simulate.GEOMETRY.parents[2] / f"rules/report/{each}.rst" for each in drawn]
    page = tmp_path / "page.html"
    mid_page.write_page(
        110, "ink", mid, run / "integrity/r0110.json", list(drawn), figures, captions, page, PROVENANCE
    )  # fmt: skip
    text = page.read_text()
    assert text.count("<img") == len(drawn)
    assert f"{kept} trains (originally 9)" in text
    assert "AGIPD: no frame" in text
    assert ("zero level" in text) == (name == "dark")
    assert json.loads((run / "integrity/r0110.json").read_text())["verdict"] in text
