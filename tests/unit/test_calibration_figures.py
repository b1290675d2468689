"""Pictures and page of a calibration show what is in its files, and cope with what is missing."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest
from calibration_files import CODES, DEAD, N_CELLS, SAMPLES, TIMES, XRAY_CODES, write_calibration
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from pulsetrain import calibration_figures, calibration_maps, calibration_page, calibration_summary
from pulsetrain.detector import MODULE_SHAPE
from pulsetrain.figures import STAGE_COLOURS, save_figure

REPOSITORY = Path(__file__).resolve().parents[2]
GEOMETRY = REPOSITORY / "config" / "geometry" / "agipd_simulated.geom"
MODULES = (2, 9)  # one of each wing
SUMMARY_FILES = ("dark", "gains", "spacing", "constants")


def summarize(paths, module, output):
    calibration_summary.summarize({name: paths[name] for name in SUMMARY_FILES}, module, output, {"rule": "test"})
    return calibration_summary.read_summary(output)


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    """Files and summaries of two modules: ({module: {name: path}}, {module: Summary})."""
    folder = tmp_path_factory.mktemp("calibration")
    paths = write_calibration(folder, MODULES)
    summaries = {module: summarize(paths[module], module, folder / f"summary_{module}.h5") for module in MODULES}
    for module in MODULES:
        paths[module]["summary"] = str(folder / f"summary_{module}.h5")
    return paths, summaries


@pytest.fixture
def broken(tmp_path):
    """The files of one module, to be damaged."""
    return write_calibration(tmp_path, (2,))[2]


def saved(figure, path):
    """Write a picture; it has to be of a fair size and show more than an empty frame."""
    save_figure(figure, path, {"rule": "plot"})
    with Image.open(path) as image:
        assert image.info["rule"] == "plot"
        assert min(image.size) > 200
        colours = image.convert("RGB").getcolors(maxcolors=1 << 24)
        assert len(colours) > 20
        assert max(count for count, _ in colours) < 0.99 * image.width * image.height
    return path


def texts(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts] + [axes.get_title() for axes in figure.axes]


def lines_like(axes, **wanted):
    """Lines with given properties, such as color and linestyle."""
    return [line for line in axes.lines if all(getattr(line, f"get_{name}")() == v for name, v in wanted.items())]


# Summary


@settings(max_examples=50)
@given(
    arrays.arrays(
        np.float32,
        st.tuples(st.integers(1, 6), st.just(3), st.just(5)),
        elements=st.one_of(st.floats(-1e4, 1e4, width=32), st.just(float("nan")), st.just(float("inf"))),
    )
)
def test_median_over_cells_is_that_of_the_finite_values(values):
    known = np.where(np.isfinite(values), values, np.nan)
    expected = np.array([np.nan if np.isnan(v).all() else np.nanmedian(v) for v in known.reshape(len(values), -1).T])
    found = calibration_summary.median_over_cells(values)
    np.testing.assert_allclose(found, expected.reshape(values.shape[1:]), rtol=1e-6)


def test_summary_holds_medians_and_percentiles_of_the_files(calibration):
    paths, summaries = calibration
    for module in MODULES:
        with h5py.File(paths[module]["constants"]) as file:
            gains, thresholds = file["analogGains_keV"][()], file["digitalThresholds"][()].astype(float)
        thresholds[thresholds == 32767] = np.nan
        row = slice(8, 14)  # has the dead pixel
        for name, values in (("analogGains_keV", gains), ("digitalThresholds", thresholds)):
            alive = np.where(np.isfinite(values).all(axis=(0, 1)), values, 0)
            expected = np.median(alive, axis=1)
            expected[(..., *DEAD)] = np.nan
            np.testing.assert_allclose(summaries[module].maps[name][:, row], expected[:, row], rtol=1e-6)
            percentiles = np.nanpercentile(values, (16, 50, 84), axis=(2, 3))
            np.testing.assert_allclose(summaries[module].cells[name], percentiles, rtol=1e-6)
        assert summaries[module].units["analogGains_keV"] == "keV/ADU"


def test_summary_counts_bursts_points_and_failures(calibration):
    numbers = calibration[1][9].numbers
    assert {name: numbers[name] for name in ("cells", "cellsPresent", "bursts", "scanPoints")} == {
        "cells": N_CELLS,
        "cellsPresent": N_CELLS,
        "bursts": 200,
        "scanPoints": len(TIMES),
    }
    assert (numbers["xrayFrames"], numbers["xrayCell"]) == (6000, 1)
    assert numbers["failures"] == {CODES["1"]: N_CELLS, CODES["2"]: 2}
    assert numbers["xrayFailures"] == {XRAY_CODES["1"]: 1}
    assert numbers["fittedPercent"] == pytest.approx([100 * (1 - 1 / 65536)] * 3)
    failed = calibration[1][9].maps["fitFailed"][0]
    assert failed[DEAD] == 100
    assert failed[50, 100] == pytest.approx(100 / N_CELLS)
    assert np.count_nonzero(failed) == 3


def test_absent_cells_do_not_count(broken, tmp_path):
    with h5py.File(broken["dark"], "r+") as file:
        file["darkOffset"][1] = np.nan
        file["darkStandardDeviation"][1] = np.nan
    with h5py.File(broken["gains"], "r+") as file:
        file["analogGains"][:, 1] = np.nan
        file["fitStatus"][1] = 1
    summary = summarize(broken, 2, tmp_path / "summary.h5")
    assert (summary.numbers["cells"], summary.numbers["cellsPresent"]) == (3, 2)
    assert summary.numbers["failures"] == {CODES["1"]: 2, CODES["2"]: 2}
    assert summary.numbers["fittedPercent"][0] == pytest.approx(100, abs=0.01)
    assert summary.maps["fitFailed"][0, 0, 0] == 0
    assert np.isnan(summary.cells["darkStandardDeviation"][:, 0, 1]).all()
    figure = calibration_figures.draw_cells(summary, broken["mask"], "module 02")
    saved(figure, tmp_path / "cells.png")


def test_files_of_another_module_are_refused(calibration, tmp_path):
    paths, _ = calibration
    mixed = {**paths[2], "constants": paths[9]["constants"]}
    with pytest.raises(ValueError, match=r"constants_m09.h5 \(constants\): attribute module is 9; expected 2"):
        summarize(mixed, 2, tmp_path / "summary.h5")
    assert not (tmp_path / "summary.h5").exists()


# Fits


def test_fits_show_samples_lines_levels_and_thresholds(calibration, tmp_path):
    paths, _ = calibration
    figure = calibration_figures.draw_fits(paths[2]["gains"], paths[2]["digital"], "module 02")
    assert len(figure.axes) == 3 * len(SAMPLES)
    with h5py.File(paths[2]["gains"]) as gains, h5py.File(paths[2]["digital"]) as digital:
        for number, (cell, row, column) in enumerate(SAMPLES[:3]):
            analog, residual, levels = figure.axes[number], figure.axes[3 + number], figure.axes[6 + number]
            assert f"cell {cell}, row {row}, column {column}" in analog.get_title(loc="left")
            stage = gains["samples/stage"][number]
            for k in range(3):
                offset, gain = (
                    gains["anlogLineOffsets"][k, cell, row, column],
                    gains["analogGains"][k, cell, row, column],
                )
                (points,) = lines_like(analog, color=STAGE_COLOURS[k], marker=".")
                np.testing.assert_array_equal(points.get_ydata(), gains["samples/analog"][number][stage == k])
                (line,) = lines_like(analog, color=STAGE_COLOURS[k], linestyle="-")
                np.testing.assert_allclose(line.get_ydata(), offset + gain * TIMES, rtol=1e-6)
                (left,) = lines_like(residual, color=STAGE_COLOURS[k])
                assert np.std(left.get_ydata()) == pytest.approx(10, rel=0.5)  # the simulated noise
                (level,) = lines_like(levels, color=STAGE_COLOURS[k], linestyle="-")
                assert level.get_ydata()[0] == digital["digitalMeans"][cell, k, row, column]
            drawn = [line.get_ydata()[0] for line in lines_like(levels, linestyle="--")]
            np.testing.assert_array_equal(drawn, digital["digitalThresholds"][:, cell, row, column])
            low, high = analog.get_ylim()
            used = gains["samples/analog"][number][stage >= 0]
            assert low < used.min()
            assert used.max() < high
    assert figure.axes[0].get_xscale() == "log"
    saved(figure, tmp_path / "fits.png")


def test_failed_pixels_are_shown_with_their_reason(calibration):
    paths, _ = calibration
    figure = calibration_figures.draw_fits(paths[2]["gains"], paths[2]["digital"], "")
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    failed = titles.index(f"cell 1, row 10, column 20\n{CODES['1']}")
    (points,) = [
        line for line in figure.axes[failed].lines if len(line.get_ydata()) == len(TIMES) and line.get_marker() == "."
    ]
    with h5py.File(paths[2]["gains"]) as file:
        np.testing.assert_array_equal(points.get_ydata(), file["samples/analog"][3])
    assert "no line" in texts(figure)
    figure = calibration_figures.draw_xray(paths[2]["spacing"], "")
    assert f"row 10, column 20\n{XRAY_CODES['1']}" in [axes.get_title(loc="left") for axes in figure.axes]


def test_xray_shows_histogram_fit_peaks_and_drift(calibration, tmp_path):
    paths, _ = calibration
    figure = calibration_figures.draw_xray(paths[9]["spacing"], "module 09")
    with h5py.File(paths[9]["spacing"]) as file:
        samples = {name: held[()] for name, held in file["samples"].items()}
        for number, (_, row, column) in enumerate(SAMPLES[:3]):
            comb, drift = figure.axes[number], figure.axes[3 + number]
            values, edges, _ = comb.patches[0].get_data()
            np.testing.assert_array_equal(values, samples["histogram"][number])
            np.testing.assert_array_equal(edges, samples["edges"])
            (model,) = lines_like(comb, linestyle="-")
            np.testing.assert_array_equal(model.get_ydata(), samples["model"][number])
            peaks = [line.get_xdata()[0] for line in lines_like(comb, linestyle=":")]
            spacing = file["photonSpacing"][row, column]
            np.testing.assert_allclose(peaks, spacing * np.arange(len(peaks)), rtol=1e-6)
            assert len(peaks) >= 3
            assert comb.get_yscale() == "log"
            assert f"spacing {spacing:.2f}" in comb.get_title(loc="left")
            (track,) = lines_like(drift, linestyle="-")
            np.testing.assert_array_equal(track.get_ydata(), samples["drift"][number])
            np.testing.assert_array_equal(track.get_xdata(), samples["frame"])
    assert "memory cell 1" in figure.get_suptitle()
    saved(figure, tmp_path / "xray.png")


def test_missing_samples_are_explained(tmp_path):
    paths = write_calibration(tmp_path, (2,), samples=False)[2]
    for figure in (
        calibration_figures.draw_fits(paths["gains"], paths["digital"], ""),
        calibration_figures.draw_xray(paths["spacing"], ""),
    ):
        assert any("No sample pixels" in text for text in texts(figure))
        save_figure(figure, tmp_path / "empty.png", {})
    assert summarize(paths, 2, tmp_path / "summary.h5").numbers["scanPoints"] is None


def test_drift_is_left_out_where_the_file_has_none(broken):
    with h5py.File(broken["spacing"], "r+") as file:
        del file["samples/drift"]
    figure = calibration_figures.draw_xray(broken["spacing"], "")
    assert len(figure.axes) == len(SAMPLES)


def test_trends_over_cells_are_those_of_the_summary(calibration, tmp_path):
    paths, summaries = calibration
    figure = calibration_figures.draw_cells(summaries[2], paths[2]["mask"], "module 02")
    for axes, (name, stage, title) in zip(figure.axes, calibration_figures.TRENDS, strict=False):
        assert axes.get_title() == title
        band, line = (patch.get_data() for patch in axes.patches)
        np.testing.assert_array_equal(line.values, summaries[2].cells[name][1, stage])
        np.testing.assert_array_equal(band.baseline, summaries[2].cells[name][0, stage])
        np.testing.assert_array_equal(band.values, summaries[2].cells[name][2, stage])
    with h5py.File(paths[2]["mask"]) as file:
        expected = 100 * file["badCellMask"][()].mean(axis=(1, 2))
    np.testing.assert_allclose(figure.axes[7].patches[0].get_data().values, expected)
    assert expected[0] > expected[1]  # a cause of cell 0 only
    saved(figure, tmp_path / "cells.png")


# Maps


@pytest.mark.parametrize("name", sorted(calibration_maps.MAPS))
def test_maps_are_drawn_for_the_modules_that_are_there(calibration, tmp_path, name):
    summaries = list(calibration[1].values())
    figure = calibration_maps.draw_map(GEOMETRY, name, summaries, "calibration may24")
    panels = calibration_maps.MAPS[name]
    bars = [axes for axes in figure.axes if axes.get_label() == "<colorbar>"]
    assert [bar.get_ylabel() for bar in bars] == [summaries[0].units[panel.quantity] for panel in panels]
    for axes, panel in zip(figure.axes, panels, strict=False):
        assert panel.title in (axes.get_title() or figure.get_suptitle())
        unknown, picture = (np.ma.filled(image.get_array(), np.nan) for image in axes.images)
        shown = picture[np.isfinite(picture)]
        expected = np.concatenate([summary.maps[panel.quantity][panel.stage].ravel() for summary in summaries])
        np.testing.assert_array_equal(np.sort(shown), np.sort(expected[np.isfinite(expected)]))
        assert np.count_nonzero(np.isfinite(unknown)) == np.count_nonzero(~np.isfinite(expected))
    saved(figure, tmp_path / "map.png")


def test_modules_are_turned_to_the_orientation_of_the_geometry(calibration):
    summaries = calibration[1]
    joined = calibration_maps.join_modules(list(summaries.values()), "analogGains_keV", 2)
    low_wing, high_wing = summaries[2].maps["analogGains_keV"][2], summaries[9].maps["analogGains_keV"][2]
    assert joined[2, 511, 0] == low_wing[0, 0]
    assert joined[2, 0, 127] == low_wing[127, 511]
    assert joined[9, 0, 127] == high_wing[0, 0]
    assert joined[9, 511, 0] == high_wing[127, 511]
    present = np.isfinite(joined).any(axis=(1, 2))
    assert list(np.flatnonzero(present)) == list(MODULES)


def test_colours_do_not_follow_outliers():
    values = np.random.default_rng(1).normal(100, 1, 100_000)
    values[:100] = 1e6
    norm, ends = calibration_maps.colour_scale(values)
    assert 95 < norm.vmin < 98
    assert 102 < norm.vmax < 105
    assert ends == "both"
    norm, ends = calibration_maps.colour_scale(np.full(10, 7.0))
    assert norm.vmin < 7 < norm.vmax
    assert ends == "neither"


def test_a_quantity_without_any_value_is_said_to_have_none(broken, tmp_path):
    with h5py.File(broken["spacing"], "r+") as file:
        file["photonSpacing"][...] = np.nan
        file["fitStatus"][...] = 1
    with h5py.File(broken["constants"], "r+") as file:
        file["analogGains_keV"][...] = np.nan
        file["digitalThresholds"][...] = 32767
    summary = summarize(broken, 2, tmp_path / "summary.h5")
    assert summary.numbers["spacingPercent"] == 0
    for name, quantity in (("gain_map", "high gain"), ("spacing_map", "photon spacing")):
        figure = calibration_maps.draw_map(GEOMETRY, name, [summary], "")
        assert f"{quantity}: no finite value" in texts(figure)
        save_figure(figure, tmp_path / "map.png", {})
    figure = calibration_figures.draw_cells(summary, broken["mask"], "")
    assert texts(figure).count("no finite value") == 5
    save_figure(figure, tmp_path / "cells.png", {})
    save_figure(calibration_figures.draw_xray(broken["spacing"], ""), tmp_path / "xray.png", {})


# Mask


def test_mask_map_shows_the_percentage_of_cells(calibration, tmp_path):
    masks = [calibration[0][module]["mask"] for module in MODULES]
    percent = calibration_maps.masked_percent(masks[0])
    assert percent[0, 0] == 100  # manual
    assert percent[30, 5] == 100  # interval of the gain
    assert percent[20, 5] == pytest.approx(100 / N_CELLS)  # dark offset of cell 0
    assert percent[40, 5] == 0
    figure = calibration_maps.draw_mask_map(GEOMETRY, masks, MODULES, "calibration may24")
    picture = figure.axes[0].images[-1].get_array().compressed()
    assert picture.size == len(MODULES) * np.prod(MODULE_SHAPE)
    assert picture.mean() == pytest.approx(percent.mean())
    saved(figure, tmp_path / "mask.png")


def test_histograms_show_counts_intervals_and_percent(calibration, tmp_path):
    masks = [calibration[0][module]["mask"] for module in MODULES]
    figure = calibration_maps.draw_histograms(masks, MODULES, "calibration may24")
    offset, gain, quality = figure.axes
    assert offset.get_title().startswith("darkOffset\nmasked: ")
    with h5py.File(masks[0]) as file:
        counts, edges = file["histograms/darkOffset/counts"][()], file["histograms/darkOffset/edges"][()]
        percent = file["subMasks/darkOffset"].attrs["percent"]
    values, drawn_edges, _ = offset.patches[0].get_data()
    np.testing.assert_allclose(values * np.diff(drawn_edges), counts)
    np.testing.assert_array_equal(drawn_edges, edges)
    assert f"masked: {percent:.3g} %" in offset.get_title()
    assert [line.get_xdata()[0] for line in offset.lines] == [4500]  # the other end is open
    assert [line.get_xdata()[0] for line in gain.lines] == [40, 43.5]
    assert gain.get_title().startswith("analogGains,\nhigh gain\n")
    assert "6 below" in [text.get_text() for text in offset.texts]
    assert "no interval" in quality.get_title()
    assert [text.get_text() for text in quality.texts] == ["no finite value"]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["interval", "module 02", "module 09"]
    saved(figure, tmp_path / "histograms.png")


def test_fine_bins_are_joined_without_losing_any(broken):
    with h5py.File(broken["mask"], "r+") as file:
        group = file["histograms/darkOffset"]
        del group["edges"], group["counts"]
        group["edges"], group["counts"] = np.linspace(4000, 6000, 403), np.arange(402)
    axes = calibration_maps.draw_histograms([broken["mask"]], [2], "").axes[0]
    values, edges, _ = axes.patches[0].get_data()
    counts = values * np.diff(edges)
    assert len(counts) == 101
    assert counts[0] == pytest.approx(0 + 1 + 2 + 3)
    assert counts[-1] == pytest.approx(400 + 401)
    assert counts.sum() == pytest.approx(np.arange(402).sum())


def test_bars_of_the_causes_add_up_to_all_that_is_masked(calibration, tmp_path):
    masks = [calibration[0][module]["mask"] for module in MODULES]
    figure = calibration_maps.draw_mask_causes(masks, MODULES, "calibration may24")
    axes = figure.axes[0]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert [label.split(" (")[0] for label in labels] == ["manual", "asic borders", "darkOffset", "analogGains"]
    for number, path in enumerate(masks):
        bars = [container[number] for container in axes.containers]
        with h5py.File(path) as file:
            expected = [
                file["subMasks"][n].attrs["percent"] for n in ("manual", "asic_borders", "darkOffset", "analogGains/0")
            ]
            np.testing.assert_allclose([bar.get_width() for bar in bars], expected)
            total = file["badCellMask"].attrs["percent_total"]
        assert bars[-1].get_x() + bars[-1].get_width() == pytest.approx(total)
    saved(figure, tmp_path / "causes.png")


def test_a_mask_without_bad_cells_is_said_to_be_so(broken, tmp_path):
    with h5py.File(broken["mask"], "r+") as file:
        for name in ("manual", "asic_borders", "darkOffset", "analogGains/0"):
            file["subMasks"][name].attrs["percent"] = 0.0
        file["badCellMask"].attrs["percent_total"] = 0.0
        del file["histograms/darkOffset"], file["histograms/analogGains"], file["histograms/quality"]
    assert "No cell is masked." in texts(calibration_maps.draw_mask_causes([broken["mask"]], [2], ""))
    assert "The masks hold no histograms." in texts(calibration_maps.draw_histograms([broken["mask"]], [2], ""))


# Page


def test_page_holds_numbers_reasons_pictures_and_captions(calibration, tmp_path):
    paths, _ = calibration
    names, module_names = [*calibration_maps.MAPS, "mask_causes"], ["fits", "cells"]
    figures = {}
    for number, name in enumerate([*names, *(f"{name}_{module}" for name in module_names for module in MODULES)]):
        figures[name] = tmp_path / f"{name}.png"
        Image.new("RGB", (4, 4), (number, 0, 0)).save(figures[name])
    (tmp_path / "proposed.yaml").write_text("darkOffset: [4000, 6000]  # <robust>\n")
    calibration_page.write_page(
        calibration="may24",
        summaries=[paths[module]["summary"] for module in MODULES],
        masks=[paths[module]["mask"] for module in MODULES],
        intervals=tmp_path / "proposed.yaml",
        names=names,
        figures=[figures[name] for name in names],
        module_names=module_names,
        module_figures=[figures[f"{name}_{module}"] for name in module_names for module in MODULES],
        captions=[REPOSITORY / f"rules/report/calibration_{name}.rst" for name in [*names, *module_names]],
        output=tmp_path / "page.html",
        attributes={"pulsetrain_version": "1", "git_revision": "abc", "created": "today"},
    )
    page = (tmp_path / "page.html").read_text()
    assert "<h1>Calibration may24</h1>" in page
    assert "2 modules, 3 memory cells; X-ray data of memory cell 1" in page
    assert "http" not in re.sub(r'src="data:[^"]*"', "", page)
    assert page.count("<img ") == len(names) + len(module_names) * len(MODULES)
    assert page.count("<figcaption>") == len(names) + len(module_names)
    assert page.index("Fits of module 02") < page.index("Fits of module 09") < page.index("Cells of module 02")
    assert page.count("<details open>") == len(module_names)
    assert "# &lt;robust&gt;" in page
    targets = re.findall(r'href="#(\w+)"', page)
    assert len(targets) == len(names) + len(module_names) + 3
    assert all(page.count(f'id="{target}"') == 1 for target in targets)
    cells = [re.sub("<[^>]*>", "", cell) for cell in re.findall(r"<td>.*?</td>", page)]
    row = cells[cells.index("09") :]
    assert row[1:5] == ["3", "200", "600", "6000"]
    assert row[5] == "99.998 / 99.998 / 99.998"
    assert cells[cells.index(CODES["1"]) :][:4] == [CODES["1"], "0.0015", str(N_CELLS), str(N_CELLS)]


def test_every_picture_of_a_calibration_has_a_caption():
    names = [*calibration_maps.MAPS, "mask_map", "histograms", "mask_causes", "fits", "xray", "cells"]
    for name in names:
        assert len((REPOSITORY / "rules" / "report" / f"calibration_{name}.rst").read_text().split()) > 40
