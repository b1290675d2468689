"""Numbers behind the pictures of DSSC averages, the pictures themselves, and the page."""

import shutil

import h5py
import numpy as np
import pytest
import xarray as xr
from dssc_runs import bin_modules, select, whole_way
from extra_geom import DSSC_1MGeometry

from pulsetrain import dssc_figures, simulate_dssc
from pulsetrain.dssc_figures import Frames, binned_curve, dark_of
from pulsetrain.dssc_join import join_modules
from pulsetrain.dssc_page import write_page
from pulsetrain.figures import save_figure

CHOSEN = simulate_dssc.settings("tiny", modules=[2, 9], cells=8)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return whole_way(tmp_path_factory.mktemp("figures"), CHOSEN)


def test_curve_is_the_slope_of_the_signal_over_the_energy():
    random = np.random.default_rng(1)
    n = 4000
    name = np.tile([0, 1], n // 2).astype("u1")
    value = np.repeat([0.0, 1.0], n // 2)
    energy = np.where(name == 0, random.gamma(16, 5, n), np.nan)
    signal = 40 + np.where(name == 0, (0.1 + 0.05 * value) * energy, 0) + random.normal(0, 0.5, n)
    value[:3] = np.nan
    values, slope, error, count = binned_curve(Frames(["lit", "dark"], value, name, energy, signal, "uJ", []), "lit")
    assert values.tolist() == [0, 1]
    assert count.tolist() == [998, 1000]
    assert (np.abs(slope - [0.1, 0.15]) < 4 * error).all()
    # 1000 lit and 1000 dark frames of noise 0.5 at the mean energy 80.
    np.testing.assert_allclose(error, np.hypot(0.5, 0.5) / np.sqrt(1000) / 80, rtol=0.1)


def test_curve_of_the_simulation_is_the_pumped_factor(run):
    frames = dssc_figures.read_frames([run["selection"]], [run["sums"]])
    delay, pumped, error, _ = binned_curve(frames, "pumped")
    _, unpumped, _, _ = binned_curve(frames, "unpumped")
    flat, ring = (np.mean([simulate_dssc._pixels(1, module)[i] for module in (2, 9)]) for i in (1, 2))
    wanted = (flat + simulate_dssc.pumped_factor(delay) * ring) / simulate_dssc.PULSE_ENERGY_UJ
    np.testing.assert_allclose(pumped, wanted, rtol=2e-3)
    np.testing.assert_allclose(unpumped, (flat + ring) / simulate_dssc.PULSE_ENERGY_UJ, rtol=2e-3)
    assert (error > 0).all()


def frames_without(run, place, n_lacking):
    """Frames of the run as if module 9 lacked the first of those that are used, and which these are."""
    other = place / "other.h5"
    with h5py.File(run["sums"][1]) as old, h5py.File(other, "w") as new:
        values = old["frame_sum"][()]
        lacking = np.flatnonzero(values)[:n_lacking]
        values[lacking] = 0
        new["frame_sum"] = values
        new.attrs["module"] = old.attrs["module"]
    return dssc_figures.read_frames([run["selection"]], [[run["sums"][0], other]]), lacking


def test_frames_that_lack_a_module_have_no_signal(run, tmp_path):
    whole = dssc_figures.read_frames([run["selection"]], [run["sums"]])
    frames, lacking = frames_without(run, tmp_path, 3)
    assert np.flatnonzero(np.isnan(frames.signal) & np.isfinite(whole.signal)).tolist() == lacking.tolist()
    assert frames.modules_left_out == whole.modules_left_out == []
    n_used = int((np.isfinite(whole.signal) & np.isin(whole.name, [0, 2])).sum())
    n_lacking = int(np.isin(whole.name[lacking], [0, 2]).sum())
    assert n_lacking > 0
    (curve,) = dssc_figures.draw_curve(frames, run["joined"]).axes
    scatter = dssc_figures.draw_energies(frames, None).axes[1]
    for axes in (curve, scatter):
        assert axes.get_title().endswith(f"{n_used - n_lacking} of {n_used} frames drawn")


def test_a_module_that_lacks_many_frames_is_left_out_of_the_curve(run, tmp_path):
    frames, lacking = frames_without(run, tmp_path, 30)
    alone = dssc_figures.read_frames([run["selection"]], [run["sums"][:1]])
    assert frames.modules_left_out == [9]
    assert np.isfinite(frames.signal[lacking]).all()
    np.testing.assert_array_equal(frames.signal, alone.signal)
    (curve,) = dssc_figures.draw_curve(frames, run["joined"]).axes
    scatter = dssc_figures.draw_energies(frames, None).axes[1]
    for axes in (curve, scatter):
        assert axes.get_title().endswith("left out as they lack many frames: module 09")


def test_images_are_dark_subtracted_and_normalised(run):
    with xr.open_dataset(run["joined"], group="data", engine="h5netcdf") as data:
        image, units = dssc_figures.signal_image(data, "unpumped")
    _, flat, ring, _ = simulate_dssc._pixels(1, 9)
    assert units == "ADU/μJ"
    wanted = (flat + ring) / simulate_dssc.PULSE_ENERGY_UJ
    assert np.abs(image[9] - wanted).std() < 0.02
    assert abs((image[9] - wanted).mean()) < 1e-3
    assert np.isnan(image[3]).all()


def test_images_of_a_module_are_divided_by_the_energy_of_its_own_frames(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[0, 5], cells=4, faults=["module_lacks_trains"])
    found = whole_way(tmp_path, chosen, variable=None)
    with xr.open_dataset(found["joined"], group="data", engine="h5netcdf") as data:
        image, _ = dssc_figures.signal_image(data, "unpumped")
    for module in chosen["modules"]:
        _, flat, ring, _ = simulate_dssc._pixels(1, module)
        np.testing.assert_allclose(image[module].mean(), (flat + ring).mean() / simulate_dssc.PULSE_ENERGY_UJ, 2e-3)


def test_names_without_energies_are_not_drawn_in_the_unit_of_others(run, tmp_path):
    """The second half of each train is beyond the pulses of the gas monitor: these names have no energy."""
    pattern = [f"p{i}" for i in range(CHOSEN["cells"])]
    selection = select(tmp_path, run["frames"], run["files"], scan="cells", frame_pattern=pattern)
    sums = bin_modules(tmp_path, run["frames"], selection, CHOSEN, scan="cells")
    joined = tmp_path / "joined.h5"
    join_modules([selection], [sums], joined, {}, modules=CHOSEN["modules"])
    frames = dssc_figures.read_frames([selection], [sums])
    (axes,) = dssc_figures.draw_curve(frames, joined).axes
    drawn = [text.get_text().split()[0] for text in axes.get_legend().get_texts()]
    assert drawn == pattern[:4]
    assert "4 names without any pulse energy are not drawn" in axes.get_title()
    assert "ADU/" in axes.get_ylabel()


def test_images_of_different_units_are_not_subtracted(run, tmp_path):
    """The first name has energies, the second none."""
    joined = tmp_path / "joined.h5"
    shutil.copy(run["joined"], joined)
    with h5py.File(joined, "r+") as file:
        file["data/xgm_module_count_unpumped"][:] = 0
        file["data/xgm_module_unpumped"][:] = np.nan
    figure = dssc_figures.draw_images(joined, DSSC_1MGeometry.example())
    titles = [axes.get_title() for axes in figure.axes]
    assert {"pumped", "unpumped"} <= set(titles)
    assert "pumped - unpumped" not in titles


def test_dark_frames_that_belong_to_a_name():
    assert dark_of("pumped", ["pumped", "dark", "pumped_dark"]) == "pumped_dark"
    assert dark_of("unpumped", ["unpumped", "dark", "pumped_dark"]) == "dark"
    assert dark_of("image", ["image"]) is None


def draw_all(run, place, limits=None):
    frames = dssc_figures.read_frames([run["selection"]], [run["sums"]])
    pictures = {
        "curve": dssc_figures.draw_curve(frames, run["joined"]),
        "images": dssc_figures.draw_images(run["joined"], DSSC_1MGeometry.example()),
        "scan": dssc_figures.draw_scan([run["selection"]], run["joined"]),
        "counts": dssc_figures.draw_counts(frames, run["joined"]),
        "energies": dssc_figures.draw_energies(frames, limits),
        "account": dssc_figures.draw_account(run["joined"]),
    }
    texts = {}
    for name, figure in pictures.items():
        texts[name] = " ".join(
            [text.get_text() for axes in figure.axes for text in [axes.title, axes.xaxis.label, *axes.texts]]
        )
        save_figure(figure, place / f"{name}.png", {})
    return texts


def test_page_shows_numbers_and_pictures(run, tmp_path):
    texts = draw_all(run, tmp_path, [40, 140])
    assert "dark frames subtracted, divided by the pulse energy" in texts["curve"]
    assert "pumped - unpumped" in texts["images"]
    assert "delay [ps]" in texts["counts"]
    caption = tmp_path / "caption.rst"
    caption.write_text("**Words** about it.")
    page = tmp_path / "page.html"
    integrity = run["frames"].parents[1] / "integrity" / "r0235.json"
    provenance = {"pulsetrain_version": "1", "git_revision": "x", "created": "now"}
    names = list(texts)
    figures = [tmp_path / f"{name}.png" for name in names]
    write_page("r0235", ["ring"], run["joined"], [integrity], names, figures, [caption] * 6, page, provenance)
    text = page.read_text()
    assert text.count("data:image/png;base64") == 6
    for found in ("DSSC r0235 by delay", "run 0235, ring", "complete", "unpumped_dark, frames", "No faults were found"):
        assert found in text


def test_a_run_without_frames_or_energies_is_drawn_too(tmp_path):
    chosen = simulate_dssc.settings("tiny", modules=[2], trains=2)
    empty = whole_way(tmp_path, chosen, xgm_limits=[-2, -1], frame_pattern=["pumped"])
    texts = draw_all(empty, tmp_path)
    assert "No frame with an X-ray pulse is used." in texts["curve"]
    assert "No frame is used." in texts["images"]


def test_a_run_without_trains_is_drawn_too(tmp_path):
    empty = whole_way(tmp_path, simulate_dssc.settings("tiny", modules=[2], trains=0, sequences=1))
    texts = draw_all(empty, tmp_path)
    assert "The run has no trains." in texts["scan"]


def test_geometry_of_a_file(tmp_path):
    example = DSSC_1MGeometry.example()
    path = str(tmp_path / "geometry.h5")
    quadrants = example.to_h5_file_and_quad_positions(path)
    for given in (None, quadrants.tolist()):
        geometry = dssc_figures.read_geometry({"file": path, "quadrants": given}, path)
        np.testing.assert_allclose(geometry.get_pixel_positions(), example.get_pixel_positions(), atol=1e-9)
    (tmp_path / "none.h5").write_bytes(b"")
    with pytest.raises(ValueError, match="is no geometry of a DSSC-1M"):
        dssc_figures.read_geometry({"file": "none.h5", "quadrants": None}, str(tmp_path / "none.h5"))
