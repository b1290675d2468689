"""Pictures of a whole calibration: maps on the assembled detector, histograms and the causes of the mask."""

import json
from typing import NamedTuple

import h5py
import matplotlib as mpl
import numpy as np
from extra_geom import AGIPD_1MGeometry
from matplotlib.colors import Normalize
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from pulsetrain.bad_cells import cuts_of
from pulsetrain.calibration_summary import FAILED
from pulsetrain.detector import MODULE_SHAPE, N_MODULES, xfel_from_lab
from pulsetrain.detector_figures import show_assembled
from pulsetrain.figures import STAGE_NAMES, THRESHOLD_COLOUR, new_figure, say_nothing_to_show

NO_VALUE_COLOUR = "#b9b9b9"
INTERVAL_COLOUR = "#d9ead3"
MODULE_COLOURS = "turbo"
CAUSE_COLOURS = "tab20"
SHOWN_PERCENT = 99.0  # of the pixels lie inside the colour scale
COLUMNS = 4  # histograms side by side
SHOWN_BINS = 100  # of each


class Panel(NamedTuple):
    """One map of a picture.

    Attributes
    ----------
    quantity : str
        Dataset of the summaries.
    stage : int
    title : str
    """

    quantity: str
    stage: int
    title: str


MAPS = {
    "offset_map": [Panel("darkOffsets", k, f"offset, {name}") for k, name in enumerate(STAGE_NAMES)],
    "noise_map": [Panel("darkStandardDeviation", 0, "dark noise, high gain")],
    "gain_map": [
        *(Panel("analogGains_keV", k, name) for k, name in enumerate(STAGE_NAMES)),
        Panel(FAILED, 0, "memory cells without all three lines"),
    ],
    "threshold_map": [
        Panel("digitalThresholds", 0, "digital threshold, high to medium gain"),
        Panel("digitalThresholds", 1, "digital threshold, medium to low gain"),
    ],
    "spacing_map": [
        Panel("photonSpacing", 0, "photon spacing"),
        Panel("spacingError", 0, "its error (1 sigma)"),
    ],
}


class Histogram(NamedTuple):
    """Histogram of one quantity and gain stage of one module.

    Attributes
    ----------
    edges : ndarray, (bins + 1,)
    counts : ndarray, (bins,)
        Cells that no earlier cause masked.
    beyond : tuple of int
        The same below the first edge and above the last.
    units : str
    interval : tuple of float or None
        Cells outside are masked; an end may be infinite.
    percent : float or None
        Cells that this interval masks and no earlier cause did [% of all].
    """

    edges: np.ndarray
    counts: np.ndarray
    beyond: tuple
    units: str
    interval: tuple | None
    percent: float | None


def draw_map(geometry_path, name, summaries, title):
    """Draw one of the pictures :data:`MAPS` on the assembled detector.

    Parameters
    ----------
    geometry_path : str
        CrystFEL geometry.
    name : str
    summaries : list of pulsetrain.calibration_summary.Summary
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    images = [
        (panel.title, join_modules(summaries, panel.quantity, panel.stage), summaries[0].units[panel.quantity])
        for panel in MAPS[name]
    ]
    return _draw_panels(geometry_path, images, [summary.module for summary in summaries], title)


def draw_mask_map(geometry_path, mask_paths, modules, title):
    """Percentage of the memory cells in which each pixel is masked.

    Parameters
    ----------
    geometry_path : str
    mask_paths : list of str
        ``mask_m...h5`` of `modules`.
    modules : list of int
    title : str
    """
    image = np.full((N_MODULES, *MODULE_SHAPE), np.nan)
    for module, path in zip(modules, mask_paths, strict=True):
        image[module] = xfel_from_lab(masked_percent(path), module)
    return _draw_panels(geometry_path, [("masked memory cells", image, "%")], modules, title)


def draw_histograms(mask_paths, modules, title):
    """Histograms of all quantities and gain stages with the intervals of the mask.

    Parameters
    ----------
    mask_paths : list of str
    modules : list of int
    title : str
    """
    held = [read_histograms(path) for path in mask_paths]
    names = list(dict.fromkeys(name for histograms in held for name in histograms))
    if not names:
        figure, axes = new_figure(8, 2.5)
        say_nothing_to_show(axes, "The masks hold no histograms.")
        return figure
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    figure, grid = new_figure(3.4 * columns + 0.3, 2.35 * rows + 0.9, nrows=rows, ncols=columns, squeeze=False)
    for axes in grid.flat[len(names) :]:
        axes.remove()
    for axes, name in zip(grid.flat, names, strict=False):
        _draw_histogram(axes, name, {m: h[name] for m, h in zip(modules, held, strict=True) if name in h})
    for row in grid:
        row[0].set_ylabel("cells per unit", fontsize=9)
    handles = [
        Patch(facecolor=INTERVAL_COLOUR, label="interval"),
        *(Line2D([], [], color=_module_colour(module), label=f"module {module:02d}") for module in modules),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=9, frameon=False, fontsize=9)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_mask_causes(mask_paths, modules, title):
    """Percentage of the cells that each cause masks, per module.

    Parameters
    ----------
    mask_paths : list of str
    modules : list of int
    title : str
    """
    held = [read_causes(path) for path in mask_paths]
    names = list(dict.fromkeys(name.split("/")[0] for causes, _ in held for name in causes))
    figure, axes = new_figure(10, 1.9 + 0.33 * len(modules))
    if not any(total > 0 for _, total in held):
        say_nothing_to_show(axes, "No cell is masked.")
        return figure
    colours = mpl.colormaps[CAUSE_COLOURS](np.arange(len(names)) % 20)
    place, left = np.arange(len(modules)), np.zeros(len(modules))
    for name, colour in zip(names, colours, strict=True):
        share = np.array([sum(v for cause, v in causes.items() if cause.split("/")[0] == name) for causes, _ in held])
        label = f"{_words(name)} ({_percent(share.mean())})"
        axes.barh(place, share, left=left, height=0.75, color=colour, label=label)
        left += share
    for y, (_, total) in enumerate(held):
        axes.text(total, y, f" {_percent(total)}", va="center", fontsize=9)
    axes.set_yticks(place, [f"{module:02d}" for module in modules])
    axes.set(xlabel="masked cells [%]", ylabel="module", xlim=(0, 1.12 * max(total for _, total in held)))
    axes.invert_yaxis()
    axes.set_title(title, fontsize=11)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def join_modules(summaries, quantity, stage):
    """A map of all modules in European XFEL orientation, (16, 512, 128); NaN where there is none."""
    image = np.full((N_MODULES, *MODULE_SHAPE), np.nan)
    for summary in summaries:
        image[summary.module] = xfel_from_lab(summary.maps[quantity][stage], summary.module)
    return image


def masked_percent(path):
    """Percentage of the memory cells in which each pixel is masked, (128, 512), laboratory orientation."""
    with h5py.File(path) as file:
        bad = file["badCellMask"]
        count = np.zeros(bad.shape[1:], np.int64)
        for cell in range(bad.shape[0]):
            count += bad[cell]
        return 100 * count / max(bad.shape[0], 1)


def read_causes(path):
    """Percentage masked by each cause that no earlier one did, and by all: ({cause: %}, %)."""
    with h5py.File(path) as file:
        names = json.loads(file.attrs["causes"])
        causes = {name: float(file["subMasks"][name].attrs["percent"]) for name in names}
        return causes, float(file["badCellMask"].attrs["percent_total"])


def read_histograms(path):
    """Histograms of one module in the order in which the intervals are applied: {name: Histogram}."""
    causes, _ = read_causes(path)
    held = {}
    with h5py.File(path) as file:
        for cut in cuts_of({}):
            if cut.name not in file["histograms"]:
                continue
            group = file["histograms"][cut.name]
            held[cut.name] = Histogram(
                group["edges"][()],
                group["counts"][()],
                (int(group.attrs["below"]), int(group.attrs["above"])),
                group.attrs["units"],
                tuple(map(float, group.attrs["interval"])) if "interval" in group.attrs else None,
                causes.get(cut.name),
            )
    return held


def _draw_panels(geometry_path, images, modules, title):
    geometry = AGIPD_1MGeometry.from_crystfel_geom(geometry_path)
    left, right, low, high = _reach(geometry, modules)
    columns = min(2, len(images))
    rows = -(-len(images) // columns)
    width = 6.3 if columns > 1 else 9.5
    height = 0.68 * width * np.clip((high - low) / (left - right), 0.3, 1.3) + 1.0
    figure, grid = new_figure(width * columns, height * rows + 0.6, nrows=rows, ncols=columns, squeeze=False)
    present = np.isin(np.arange(N_MODULES), modules)[:, None, None]
    handles = [Patch(facecolor="white", edgecolor="#888888", label="gap, or module without calibration")]
    for axes, (name, image, units) in zip(grid.flat, images, strict=False):
        if len(images) > 1:
            axes.set_title(name, fontsize=10)
        unknown = present & ~np.isfinite(image)
        known = image[np.isfinite(image)]
        if not len(known):
            say_nothing_to_show(axes, f"{name}: no finite value")
            continue
        norm, extend = (Normalize(0, 100), "neither") if units == "%" else colour_scale(known)
        show_assembled(geometry, figure, axes, image, units, norm, "viridis", (unknown, NO_VALUE_COLOUR), extend)
        axes.set(xlim=(left, right), ylim=(low, high))
        if unknown.any() and len(handles) == 1:
            handles.append(Patch(facecolor=NO_VALUE_COLOUR, label="no value"))
    for axes in grid.flat[len(images) :]:
        axes.remove()
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    figure.suptitle(title if len(images) > 1 else f"{title}: {images[0][0]}", fontsize=11)
    return figure


def _reach(geometry, modules, margin_mm=5):
    """Box around some modules and the beam axis [mm]: (left, right, low, high); +x is on the left."""
    x, y = 1e3 * np.moveaxis(geometry.get_pixel_positions()[list(modules), ..., :2], -1, 0)
    return (
        max(x.max(), 0) + margin_mm,
        min(x.min(), 0) - margin_mm,
        min(y.min(), 0) - margin_mm,
        max(y.max(), 0) + margin_mm,
    )


def colour_scale(values):
    """Linear scale that most of the values fill, whatever the outliers are: (norm, ends with values beyond)."""
    outside = (100 - SHOWN_PERCENT) / 2
    low, high = np.percentile(values, [outside, 100 - outside])
    least = max(1e-3 * abs(low + high) / 2, 1e-9)
    if high - low < least:
        low, high = low - least, high + least
    below, above = values.min() < low, values.max() > high
    return Normalize(low, high), {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]


def _draw_histogram(axes, name, histograms):
    percents = [held.percent for held in histograms.values() if held.percent is not None]
    note = f"masked: {_percent(np.mean(percents))}" if percents else "no interval"
    axes.set_title(f"{_words(name)}\n{note}", fontsize=9)
    axes.tick_params(labelsize=8)
    filled = {module: held for module, held in histograms.items() if held.counts.any()}
    if not filled:
        say_nothing_to_show(axes, "no finite value")
        return
    for module, held in filled.items():
        edges, counts = _wider_bins(held.edges, held.counts)
        # Modules may have different bins: per unit of the quantity they can be compared.
        axes.stairs(counts / np.diff(edges), edges, color=_module_colour(module), linewidth=1)
    axes.set_yscale("log")
    low, high = min(held.edges[0] for held in filled.values()), max(held.edges[-1] for held in filled.values())
    axes.set_xlim(low, high)
    axes.set_xlabel(f"[{next(iter(filled.values())).units or '1'}]", fontsize=8, labelpad=1)
    for interval in dict.fromkeys(held.interval for held in filled.values() if held.interval is not None):
        axes.axvspan(*np.clip(interval, low, high), color=INTERVAL_COLOUR, zorder=0)
        for end in interval:
            if low < end < high:
                axes.axvline(end, color=THRESHOLD_COLOUR, linewidth=0.8, linestyle="--")
    below, above = np.sum([held.beyond for held in filled.values()], axis=0)
    for count, place, side in ((below, 0.02, "left"), (above, 0.98, "right")):
        if count:
            text = f"{count} below" if side == "left" else f"{count} above"
            axes.text(place, 0.97, text, ha=side, va="top", transform=axes.transAxes, fontsize=7, color="#555555")


def _wider_bins(edges, counts):
    """Join neighbouring bins until there are about as many as a small picture can show."""
    starts = np.arange(0, len(counts), max(1, round(len(counts) / SHOWN_BINS)))
    return np.append(edges[starts], edges[-1]), np.add.reduceat(counts, starts)


def _module_colour(module):
    return mpl.colormaps[MODULE_COLOURS]((module + 0.5) / N_MODULES)


def _words(name):
    """``analogGains/0`` as ``analogGains, high gain``; thresholds lie between two stages."""
    quantity, _, stage = name.partition("/")
    if not stage:
        return quantity.replace("_", " ")
    steps = ("high to medium", "medium to low")
    of_steps = quantity in ("digitalThresholds", "digitalSpacingsSafetyFactors")
    return f"{quantity},\n{(steps if of_steps else STAGE_NAMES)[int(stage)]}"


def _percent(value):
    return f"{value:.3g} %"
