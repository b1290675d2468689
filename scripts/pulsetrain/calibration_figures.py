"""Pictures of the calibration of one module: fits of sample pixels, and trends over the memory cells."""

import textwrap

import h5py
import numpy as np
from matplotlib.lines import Line2D

from pulsetrain.calibration_summary import read_codes
from pulsetrain.constants import GAIN_STAGES, UNKNOWN_MIDPOINT
from pulsetrain.figures import (
    FAILED_COLOUR,
    FRAME_COLOUR,
    STAGE_COLOURS,
    STAGE_NAMES,
    THRESHOLD_COLOUR,
    new_figure,
    say_nothing_to_show,
)

COLUMNS = 3  # sample pixels side by side
TITLE_LENGTH = 56  # letters per line above a picture of one pixel
CELLS_PER_ROW = 32  # the memory of a pixel is 11 rows of 32 cells
MAX_PHOTONS = 8  # peaks that are marked
TRENDS = (  # dataset of the summary, stage, title
    ("darkOffsets", 0, "dark offset, high gain"),
    ("darkStandardDeviation", 0, "dark noise"),
    ("analogGains_keV", 0, "gain, high"),
    ("analogGains_keV", 1, "gain, medium"),
    ("analogGains_keV", 2, "gain, low"),
    ("digitalThresholds", 0, "digital threshold, high to medium"),
    ("digitalThresholds", 1, "digital threshold, medium to low"),
)


def draw_fits(gains_path, digital_path, title):
    """Current-source scans of the sample pixels with their lines, what is left over, and the digital levels.

    Parameters
    ----------
    gains_path, digital_path : str
        ``m.._analogGains.h5`` with the group ``samples``, and ``m.._digitalMeans.h5``.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Per pixel three axes, one below the other: analog signal, analog signal less the lines, digital signal.
    """
    with h5py.File(gains_path) as gains, h5py.File(digital_path) as digital:
        if "samples" not in gains or not len(gains["samples/row"]):
            return _empty(f"No sample pixels in {gains_path}: the fits cannot be shown.")
        samples = {name: held[()] for name, held in gains["samples"].items()}
        n_pixels = len(samples["row"])
        figure, grid = _pixel_grid(n_pixels, (3.0, 1.1, 1.3), sharex="all")
        codes = read_codes(gains["fitStatus"])
        for number in range(n_pixels):
            place = tuple(int(samples[name][number]) for name in ("cell", "row", "column"))
            fit = _read_fit(gains, digital, place)
            axes = grid[number]
            status = int(gains["fitStatus"][place])
            name = "cell {}, row {}, column {}".format(*place)
            values = ", ".join(f"{gain:.3g}" for gain in fit["gain"])
            _set_title(axes[0], name, f"gains {values} ADU/clock", codes.get(status, f"code {status}"), status != 0)
            _draw_analog(axes[0], samples, number, fit)
            _draw_residual(axes[1], samples, number, fit)
            _draw_digital(axes[2], samples, number, fit)
    for axes in grid:
        axes[2].set_xlabel("integration time [clocks]")
    grid[0][0].set_xscale("log" if samples["integrationTime"].min() > 0 else "symlog")
    for row in range(0, n_pixels, COLUMNS):
        for axes, label in zip(grid[row], ("analog [ADU]", "residual\n[ADU]", "digital\n[ADU]"), strict=True):
            axes.set_ylabel(label)
    _fit_legend(figure, title)
    return figure


def draw_xray(spacing_path, title):
    """Histograms of the X-ray data of the sample pixels with the fitted photon peaks, and their drift.

    Parameters
    ----------
    spacing_path : str
        ``m.._photonSpacing.h5`` with the group ``samples``.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
        Per pixel one axes with the histogram and, where the file has the drift, one with it below.
    """
    with h5py.File(spacing_path) as file:
        if "samples" not in file or not len(file["samples/row"]):
            return _empty(f"No sample pixels in {spacing_path}: the photon peaks cannot be shown.")
        samples = {name: held[()] for name, held in file["samples"].items()}
        cell = file.attrs.get("cell")
        has_drift = "series" in samples and "drift" in samples
        figure, grid = _pixel_grid(len(samples["row"]), (2.4, 1.1) if has_drift else (2.4,))
        codes = read_codes(file["fitStatus"])
        for number, axes in enumerate(grid):
            place = (int(samples["row"][number]), int(samples["column"][number]))
            spacing, error, quality = (
                float(file[name][place]) for name in ("photonSpacing", "spacingError", "quality")
            )
            status = int(file["fitStatus"][place])
            values = f"spacing {spacing:.2f} ± {error:.2f} ADU, quality {quality:.3g}"
            name = "row {}, column {}".format(*place)
            _set_title(axes[0], name, values, codes.get(status, f"code {status}"), status != 0)
            _draw_comb(axes[0], samples, number, spacing)
            if has_drift:
                _draw_drift(axes[1], samples, number)
    for row in range(0, len(grid), COLUMNS):
        grid[row][0].set_ylabel("frames per bin")
        if has_drift:
            grid[row][1].set_ylabel("analog [ADU]")
    _xray_legend(figure, title if cell is None else f"{title}, memory cell {cell}", has_drift)
    return figure


def draw_cells(summary, mask_path, title):
    """Trends over the memory cells: median and 16-84 % of the pixels, and the percentage of masked pixels.

    Parameters
    ----------
    summary : pulsetrain.calibration_summary.Summary
    mask_path : str
        ``mask_m...h5``.
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    with h5py.File(mask_path) as file:
        bad = file["badCellMask"]
        masked = np.array([100 * bad[cell].mean() for cell in range(bad.shape[0])])
    figure, grid = new_figure(11, 10.5, nrows=4, ncols=2, sharex=True)
    for axes, (name, stage, label) in zip(grid.flat, TRENDS, strict=False):
        low, middle, high = summary.cells[name][:, stage]
        colour = STAGE_COLOURS[stage] if name == "analogGains_keV" else STAGE_COLOURS[0]
        _draw_trend(axes, low, middle, high, colour, label, summary.units[name])
    axes = grid.flat[len(TRENDS)]
    axes.stairs(masked, np.arange(len(masked) + 1) - 0.5, color=FAILED_COLOUR, fill=True, alpha=0.6)
    axes.set(title="masked pixels", ylabel="[%]", ylim=(0, min(100, max(1, 1.1 * masked.max(initial=0)))))
    for axes in grid.flat:
        _mark_cell_rows(axes, len(masked))
    for axes in grid[-1]:
        axes.set_xlabel("memory cell")
    figure.suptitle(f"{title}: median over the pixels, and the range of the middle 68 % of them", fontsize=11)
    return figure


def _empty(reason):
    figure, axes = new_figure(8, 2.5)
    say_nothing_to_show(axes, reason)
    return figure


def _pixel_grid(n_pixels, heights, **subplots):
    """A figure with a stack of axes per pixel; pixels from left to right, then down."""
    columns = min(COLUMNS, n_pixels)
    rows = -(-n_pixels // columns)
    figure, grid = new_figure(
        3.7 * columns + 0.4,
        (sum(heights) + 0.55) * 0.72 * rows + 0.6,
        nrows=rows * len(heights),
        ncols=columns,
        height_ratios=heights * rows,
        squeeze=False,
        **subplots,
    )
    grid = grid.reshape(rows, len(heights), columns).swapaxes(1, 2).reshape(rows * columns, len(heights))
    for axes in grid.flat:
        axes.tick_params(labelsize=8, labelbottom=axes in grid[:, -1])
        axes.xaxis.label.set_size(8.5)
        axes.yaxis.label.set_size(8.5)
    for axes in grid[n_pixels:].flat:
        axes.remove()
    return figure, grid[:n_pixels]


def _set_title(axes, name, values, reason, failed):
    text = textwrap.fill(reason, TITLE_LENGTH) if failed else values
    axes.set_title(f"{name}\n{text}", fontsize=8.5, color=FAILED_COLOUR if failed else "black", loc="left")


def _read_fit(gains, digital, place):
    cell, row, column = place
    thresholds = digital["digitalThresholds"][:, cell, row, column].astype(float)
    return {
        "gain": gains["analogGains"][:, cell, row, column],
        "offset": gains["anlogLineOffsets"][:, cell, row, column],
        "level": digital["digitalMeans"][cell, :, row, column],
        "threshold": np.where(thresholds == UNKNOWN_MIDPOINT, np.nan, thresholds),
    }


def _draw_analog(axes, samples, number, fit):
    time, signal, stage = (
        samples["integrationTime"],
        samples["analog"][number].astype(float),
        samples["stage"][number],
    )
    _draw_points(axes, time, signal, stage)
    low, high = _robust_limits(signal, 0.5, 0.15, least=50)
    for k in range(GAIN_STAGES):
        line = fit["offset"][k] + fit["gain"][k] * time
        axes.plot(time, line, "-", color=STAGE_COLOURS[k], linewidth=0.8, alpha=0.45)
        fitted = time[stage == k]
        if len(fitted) and np.isfinite(line).all():
            inside = (time >= fitted.min()) & (time <= fitted.max())
            axes.plot(time[inside], line[inside], "-", color="black", linewidth=0.6)
    axes.set_ylim(low, high)


def _draw_residual(axes, samples, number, fit):
    """Analog signal less the line of its stage, in the reach of that line."""
    time, signal, stage = (
        samples["integrationTime"],
        samples["analog"][number].astype(float),
        samples["stage"][number],
    )
    used = []
    for k in range(GAIN_STAGES):
        left = signal - fit["offset"][k] - fit["gain"][k] * time
        taken = stage == k
        if not taken.any() or not np.isfinite(left).all():
            continue
        inside = (time >= time[taken].min()) & (time <= time[taken].max())
        axes.plot(time[inside & ~taken], left[inside & ~taken], ".", color=FRAME_COLOUR, markersize=1.5)
        axes.plot(time[taken], left[taken], ".", color=STAGE_COLOURS[k], markersize=1.5)
        used.append(left[taken])
    if not used:
        axes.text(0.5, 0.5, "no line", ha="center", va="center", transform=axes.transAxes, fontsize=8, color="#777777")
        axes.set_yticks([])
        return
    reach = max(4.5 * max(np.std(left) for left in used), 1.0)
    axes.axhline(0, color="black", linewidth=0.7)
    axes.set_ylim(-reach, reach)


def _draw_digital(axes, samples, number, fit):
    time, signal, stage = samples["integrationTime"], samples["digital"][number].astype(float), samples["stage"][number]
    _draw_points(axes, time, signal, stage)
    for k in range(GAIN_STAGES):
        axes.axhline(fit["level"][k], color=STAGE_COLOURS[k], linewidth=0.9)
    for threshold in fit["threshold"]:
        axes.axhline(threshold, color=THRESHOLD_COLOUR, linewidth=0.9, linestyle="--")
    known = np.concatenate([signal, fit["level"], fit["threshold"]])
    axes.set_ylim(_robust_limits(known[np.isfinite(known)], 0.5, 0.15, least=50))


def _draw_points(axes, time, signal, stage):
    axes.plot(time[stage < 0], signal[stage < 0], ".", color=FRAME_COLOUR, markersize=1.8)
    for k in range(GAIN_STAGES):
        axes.plot(time[stage == k], signal[stage == k], ".", color=STAGE_COLOURS[k], markersize=3.5)


def _robust_limits(values, percent, margin, least):
    """Limits that hold all but some percent of the values, widened; single outliers lie outside."""
    low, high = np.percentile(values, [percent, 100 - percent])
    width = max(high - low, least)
    middle = (low + high) / 2
    return middle - width * (0.5 + margin), middle + width * (0.5 + margin)


def _fit_legend(figure, title):
    point = {"linestyle": "", "marker": ".", "markersize": 8}
    handles = [
        Line2D([], [], color=c, label=f"used, {n}", **point) for c, n in zip(STAGE_COLOURS, STAGE_NAMES, strict=True)
    ]
    handles += [
        Line2D([], [], color=FRAME_COLOUR, label="not used", **point),
        Line2D([], [], color="black", linewidth=0.9, label="line where it was fitted"),
        Line2D([], [], color=THRESHOLD_COLOUR, linewidth=0.9, linestyle="--", label="threshold"),
    ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=6, frameon=False, fontsize=8.5)


def _draw_comb(axes, samples, number, spacing):
    edges, counts, model = samples["edges"], samples["histogram"][number], samples["model"][number]
    middle = (edges[1:] + edges[:-1]) / 2
    axes.stairs(counts, edges, color=FRAME_COLOUR, fill=True, alpha=0.55)
    if np.isfinite(model).any():
        axes.plot(middle, model, "-", color=STAGE_COLOURS[1], linewidth=1.2)
    if not counts.any():
        axes.text(
            0.5, 0.5, "no frames", ha="center", va="center", transform=axes.transAxes, fontsize=8, color="#777777"
        )
    top = max(counts.max(initial=0), 1)
    axes.set(yscale="log", ylim=(0.5, 16 * top), xlim=_filled(edges, counts))
    axes.set_xlabel("ADU above the pedestal")
    axes.tick_params(labelbottom=True)
    if not np.isfinite(spacing):
        return
    for photons in range(MAX_PHOTONS):
        if not axes.get_xlim()[0] <= photons * spacing <= axes.get_xlim()[1]:
            break
        axes.axvline(photons * spacing, color=STAGE_COLOURS[0], linewidth=0.8, linestyle=":")
        axes.text(
            photons * spacing, 5 * top, str(photons), ha="center", va="bottom", fontsize=8, color=STAGE_COLOURS[0]
        )
    axes.annotate(
        "",
        (0, 2.6 * top),
        (spacing, 2.6 * top),
        arrowprops={"arrowstyle": "<->", "color": STAGE_COLOURS[0], "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0},
    )


def _filled(edges, counts):
    """Range of the bins that hold something, and a little more."""
    filled = np.flatnonzero(counts)
    if not len(filled):
        return edges[0], edges[-1]
    margin = 0.03 * (edges[-1] - edges[0])
    return edges[filled[0]] - margin, edges[filled[-1] + 1] + margin


def _draw_drift(axes, samples, number):
    series, track = samples["series"][number], samples["drift"][number]
    frame = samples["frame"]
    axes.plot(frame, series, ".", color=FRAME_COLOUR, markersize=1.2)
    axes.plot(frame, track, "-", color=STAGE_COLOURS[1], linewidth=1.2)
    axes.set_ylim(_robust_limits(series, 1, 0.1, least=20))
    axes.set_xlabel("frame")


def _xray_legend(figure, title, has_drift):
    handles = [
        Line2D([], [], color=FRAME_COLOUR, linewidth=5, alpha=0.55, label="frames, drift removed"),
        Line2D([], [], color=STAGE_COLOURS[1], linewidth=1.2, label="fitted peaks"),
        Line2D([], [], color=STAGE_COLOURS[0], linewidth=0.8, linestyle=":", label="0, 1, 2... photons"),
    ]
    if has_drift:
        handles += [
            Line2D([], [], color=FRAME_COLOUR, linestyle="", marker=".", label="raw signal"),
            Line2D([], [], color=STAGE_COLOURS[1], linewidth=1.2, label="pedestal"),
        ]
    figure.suptitle(title, fontsize=11)
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8.5)


def _draw_trend(axes, low, middle, high, colour, label, units):
    edges = np.arange(len(middle) + 1) - 0.5
    axes.stairs(high, edges, baseline=low, color=colour, alpha=0.22, fill=True)
    axes.stairs(middle, edges, baseline=None, color=colour, linewidth=1.1)
    axes.set_title(label)
    axes.set_ylabel(f"[{units}]")
    known = np.isfinite(middle)
    if not known.any():
        axes.text(0.5, 0.5, "no finite value", ha="center", va="center", transform=axes.transAxes)
        return
    least = 0.01 * abs(float(np.median(middle[known])))
    axes.set_ylim(_robust_limits(np.concatenate([low[known], high[known]]), 0.5, 0.12, least))


def _mark_cell_rows(axes, n_cells):
    axes.title.set_size(9.5)
    axes.ticklabel_format(axis="y", useOffset=False)
    axes.tick_params(labelsize=8.5, labelbottom=True)
    axes.set_xlim(-0.5, max(n_cells, 1) - 0.5)
    if n_cells > CELLS_PER_ROW:
        axes.set_xticks(range(0, n_cells, CELLS_PER_ROW))
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    else:
        axes.xaxis.get_major_locator().set_params(integer=True)
