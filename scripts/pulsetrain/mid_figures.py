"""Pictures of an exported MID run."""

import numpy as np
from extra_geom import AGIPD_1MGeometry, Epix100Geometry
from matplotlib.colors import BoundaryNorm, ListedColormap, Normalize
from matplotlib.patches import Patch

from pulsetrain.detector_figures import show_assembled
from pulsetrain.figures import STAGE_COLOURS, new_figure, say_nothing_to_show
from pulsetrain.mid_sums import PHOTON_EDGES
from pulsetrain.mid_trains import count_reasons

USED, IDLE, LACKING = range(3)  # in a column of several trains the highest is shown
COLOURS = ("#2c7a4b", "#cfe3d6", "#d1495b")
MEANINGS = ("exported", "has the train, others do not", "no frame that can be used")
MOST_COLUMNS = 400
CALIBRATION_ROWS = 2  # at either end of an ePix image; no part of the picture


def draw_trains(exported):
    """Detectors against trains: who has what, and what is exported.

    Parameters
    ----------
    exported : pulsetrain.mid_trains.Exported

    Returns
    -------
    matplotlib.figure.Figure
    """
    detectors = ["AGIPD", *(f"EPIX-{number}" for number in exported.cameras)]
    counts = count_reasons(exported)
    n_kept, n_dropped = len(exported.train_id), len(exported.dropped_id)
    figure, axes = new_figure(10, 1.9 + 0.35 * len(detectors) + 0.2 * min(len(counts), 8))
    if n_kept + n_dropped == 0:
        say_nothing_to_show(axes, "The run has no trains.")
        return figure
    every = np.concatenate([exported.train_id, exported.dropped_id])
    state = np.full((len(detectors), len(every)), USED)
    for place, reason in enumerate(exported.dropped_reason, start=n_kept):
        lacking = [f"{detector}:" in reason for detector in detectors]
        state[:, place] = np.where(lacking, LACKING, IDLE)
    n_columns = min(MOST_COLUMNS, len(every))
    state = np.maximum.reduceat(state[:, np.argsort(every)], np.arange(n_columns) * len(every) // n_columns, axis=1)
    axes.imshow(
        state,
        aspect="auto",
        extent=(0, len(every), len(detectors) - 0.5, -0.5),
        interpolation="nearest",
        cmap=ListedColormap(COLOURS),
        norm=BoundaryNorm(np.arange(4) - 0.5, 3),
    )
    axes.set(yticks=range(len(detectors)), yticklabels=detectors)
    axes.set_title(f"{n_kept} of {n_kept + n_dropped} trains exported")
    lines = [f"{count} x  {reason}" for reason, count in counts[:8]]
    lines += [f"and {len(counts) - 8} more reasons"] if len(counts) > 8 else []
    axes.set_xlabel("\n".join([f"place of the train, from {every.min()} to {every.max()}", *lines]), fontsize=9)
    handles = [Patch(facecolor=colour, label=text) for colour, text in zip(COLOURS, MEANINGS, strict=True)]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def draw_agipd(geometry_path, sums):
    """Mean image of the chosen modules on the assembled detector."""
    figure, axes = new_figure(8, 7.2)
    known = sums.agipd_image[np.isfinite(sums.agipd_image)]
    if not known.size:
        say_nothing_to_show(axes, "No AGIPD frame was exported.")
        return figure
    axes.set_title(f"mean of {sums.n_images} frames in {len(sums.train_id)} trains", fontsize=11)
    geometry = AGIPD_1MGeometry.from_crystfel_geom(geometry_path)
    units = f"{sums.units} / pixel / frame"
    show_assembled(geometry, figure, axes, sums.agipd_image, units, _middle(known), extend="both")
    return figure


def draw_epix(sums):
    """Mean image of each ePix, without its calibration rows."""
    numbers = sorted(sums.epix_image)
    figure, axes = new_figure(5.4 * max(len(numbers), 1), 5.2, ncols=max(len(numbers), 1), squeeze=False)
    if not numbers or not len(sums.train_id):
        for each in axes.flat:
            say_nothing_to_show(each, "No ePix frame was exported.")
        return figure
    geometry = Epix100Geometry.from_origin()
    for number, each in zip(numbers, axes.flat, strict=True):
        image = sums.epix_image[number][CALIBRATION_ROWS:-CALIBRATION_ROWS]
        assembled, _ = geometry.position_modules(image[None])
        known = assembled[np.isfinite(assembled)]
        picture = each.imshow(assembled, origin="lower", interpolation="antialiased", norm=_middle(known))
        each.set(title=f"EPIX-{number}, mean of {len(sums.train_id)} trains", xlabel="column", ylabel="row")
        figure.colorbar(picture, ax=each, shrink=0.8, label="ADU", extend="both")
    return figure


def draw_signal(sums):
    """Mean signal of each AGIPD module and ePix along the run."""
    panels = ["AGIPD", *(f"EPIX-{number}" for number in sorted(sums.epix_signal))]
    figure, axes = new_figure(10, 1 + 1.9 * len(panels), nrows=len(panels), sharex=True, squeeze=False)
    axes = axes[:, 0]
    if not len(sums.train_id):
        for each in axes:
            say_nothing_to_show(each, "No train was exported.")
        return figure
    seconds = (sums.train_id - sums.train_id[0]).astype(float) / 10  # trains come at 10 Hz
    for module, signal in zip(sums.modules, sums.agipd_signal.T, strict=True):
        axes[0].plot(seconds, signal, ".-", markersize=3, linewidth=0.7, label=f"{module:02d}")
    axes[0].set_ylabel(f"{sums.units} / pixel")
    axes[0].legend(title="module", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8)
    for each, number in zip(axes[1:], sorted(sums.epix_signal), strict=True):
        each.plot(seconds, sums.epix_signal[number], ".-", color=STAGE_COLOURS[0], markersize=3, linewidth=0.7)
        each.set_ylabel("ADU / pixel")
    for each, name in zip(axes, panels, strict=True):
        each.set_title(name, loc="left", fontsize=10)
        each.ticklabel_format(useOffset=False, axis="y")
    axes[-1].set_xlabel(f"time since train {sums.train_id[0]} [s]; {len(sums.train_id)} of {sums.n_trains} trains")
    return figure


def draw_photons(sums, correction):
    """Histogram of the corrected high-gain signal, and the gain modes of each module.

    Parameters
    ----------
    sums : pulsetrain.mid_sums.Sums
        Of a corrected run.
    correction : dict
        Attributes of the corrected data; with one adu_per_photon for all pixels the picture has an axis in ADU.

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, (left, right) = new_figure(11, 4.4, ncols=2, width_ratios=(3, 2))
    if not sums.histogram.any():
        say_nothing_to_show(left, "No corrected pixel in high gain.")
        right.set_axis_off()
        return figure
    left.stairs(sums.histogram, PHOTON_EDGES, fill=True, color=STAGE_COLOURS[0])
    for photons in range(7):
        left.axvline(photons, color="#666666", linewidth=0.7, linestyle=":")
    left.set(yscale="log", xlabel="signal in high gain [photons]", ylabel="pixels", xlim=(-1.5, 6.5))
    if "adu_per_photon" in correction:
        adu_per_photon = float(correction["adu_per_photon"][0])
        top = left.secondary_xaxis(
            "top", functions=(lambda photons: photons * adu_per_photon, lambda adu: adu / adu_per_photon)
        )
        top.set_xlabel("ADU")
    rest = np.clip(1 - sums.shares.sum(axis=1), 0, 1)
    shown = 100 * np.column_stack([sums.shares, rest])
    below = np.zeros(len(shown))
    names = [f"{module:02d}" for module in sums.modules]
    labels = ("high gain", "medium gain", "masked or neither")
    for part, label, colour in zip(shown.T[1:], labels[1:], (STAGE_COLOURS[1], "#bbbbbb"), strict=True):
        right.bar(names, part, bottom=below, label=f"{label}, mean {part.mean():.2g} %", color=colour)
        below += part
    right.set(xlabel="module", ylabel="pixels [%]", title=f"all others high gain, mean {shown[:, 0].mean():.2f} %")
    right.legend(frameon=False, fontsize=9)
    right.margins(y=0.25)
    return figure


def _middle(values):
    """Linear colours from the percentile 1 to 98: bright rings and hot pixels must not hide all else."""
    low, high = np.percentile(values, [1, 98])
    return Normalize(low, max(high, low + 1e-9))
