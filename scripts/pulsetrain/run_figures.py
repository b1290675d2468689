"""Pictures of a run's integrity, hit scores and pulse energies."""

import json

import h5py
import numpy as np
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.patches import Patch

from pulsetrain.figures import (
    FRAME_COLOUR,
    HIT_COLOUR,
    MISS_COLOUR,
    THRESHOLD_COLOUR,
    new_figure,
    say_nothing_to_show,
)

COVERAGE_COLOURS = [
    "#2c7a4b",
    "#e6e6e6",
    "#f0c419",
    "#d1495b",
    "#7b3fa0",
    "#3f6fb5",
    "#f08a24",
    "#8c564b",
    "#17becf",
    "#111111",
    "#e377c2",
    "#bcbd22",
]


def draw_integrity(report):
    """Table of what was found in a run's files.

    Parameters
    ----------
    report : dict
        Contents of ``integrity/r....json``.

    Returns
    -------
    matplotlib.figure.Figure
    """
    rows = [
        [f"{name}", f"{held['files']}", f"{held['rows']}", f"{held['used']}", _reasons(held["excluded"])]
        for name, held in sorted(report["modules"].items())
    ]
    figure, axes = new_figure(11, 1.0 + 0.24 * (len(rows) + 1))
    axes.set_axis_off()
    colour = "#2c7a4b" if report["verdict"] == "accepted" else "#b3202c"
    axes.set_title(
        f"{report['summary']} ({report['stream']})",
        loc="left",
        fontsize=10,
        color=colour,
        wrap=True,
    )
    table = axes.table(
        [["module", "files", "frames in files", "frames used", "excluded, by reason"], *rows],
        colWidths=[0.08, 0.07, 0.14, 0.12, 0.59],
        cellLoc="left",
        loc="upper center",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(8.5)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor("#cccccc")
        cell.PAD = 0.03
        if row == 0:
            cell.set_text_props(weight="bold")
    return figure


def draw_coverage(frames_path, names):
    """Modules against trains: who has what.

    Parameters
    ----------
    frames_path : str
        ``frames/r....h5``.
    names : sequence of str
        Meaning of the coverage codes.

    Returns
    -------
    matplotlib.figure.Figure
    """
    with h5py.File(frames_path) as file:
        train_id, coverage = file["trains/trainId"][()], file["trains/coverage"][()]
        kept = file["trains/kept"][()].astype(bool)
    figure, axes = new_figure(10, 4.6)
    if not len(train_id):
        say_nothing_to_show(axes, "The run has no trains.")
        return figure
    codes = np.unique(coverage)
    colours = ListedColormap([COVERAGE_COLOURS[code % len(COVERAGE_COLOURS)] for code in codes])
    shown = np.searchsorted(codes, coverage)
    axes.imshow(
        shown,
        aspect="auto",
        interpolation="nearest",
        cmap=colours,
        norm=BoundaryNorm(np.arange(len(codes) + 1) - 0.5, len(codes)),
        extent=(-0.5, len(train_id) - 0.5, coverage.shape[0] - 0.5, -0.5),
    )
    for train in np.flatnonzero(~kept):
        axes.plot([train], [coverage.shape[0] - 0.1], marker="^", color="#b3202c", clip_on=False, markersize=6)
    axes.set(
        xlabel=f"train, counted from {train_id[0]}",
        ylabel="module",
        yticks=range(0, coverage.shape[0]),
        title=f"{kept.sum()} of {len(kept)} trains kept",
    )
    handles = [
        Patch(facecolor=COVERAGE_COLOURS[code % len(COVERAGE_COLOURS)], edgecolor="#888888", label=names[code])
        for code in codes
    ]
    if not kept.all():
        handles.append(axes.plot([], [], "^", color="#b3202c", label="train dropped")[0])
    figure.legend(handles=handles, loc="outside lower center", ncols=min(5, len(handles)), frameon=False, fontsize=9)
    return figure


def read_events(path):
    """Read an events file: (datasets per frame, datasets per train, self-test, attributes)."""
    with h5py.File(path) as file:
        frames = {name: held[()] for name, held in file.items() if isinstance(held, h5py.Dataset)}
        trains = {
            name: held.asstr()[()] if h5py.check_string_dtype(held.dtype) else held[()]
            for name, held in file["trains"].items()
        }
        self_test = {name: held[()] for name, held in file["self_test"].items()}
        return frames, trains, self_test, {**file.attrs, "self_test": dict(file["self_test"].attrs)}


def draw_hitscore(frames, trains, attributes):
    """Hit score of every frame along the run, hits marked, with the threshold of each train.

    The threshold of a frame follows its pulse energy; here both are moved to the mean pulse energy, so that the
    threshold is one line and every hit lies above it.
    """
    figure, axes = new_figure(10, 4.5)
    if not len(frames["hitscore"]):
        say_nothing_to_show(axes, f"No frames: {attributes.get('reason', '')}")
        return figure
    of_train = trains["threshold"][np.searchsorted(trains["trainId"], frames["trainId"])]
    moved = np.nan_to_num(of_train - frames["threshold"])
    score = np.maximum(frames["hitscore"] + moved, 1)
    number = np.arange(len(score))
    hit = frames["is_hit"].astype(bool)
    size = 2 if len(score) < 20000 else 0.5
    axes.plot(number[~hit], score[~hit], ".", color=FRAME_COLOUR, markersize=size, rasterized=True)
    axes.plot(number[hit], score[hit], ".", color=HIT_COLOUR, markersize=3.5, rasterized=True)
    shown = np.where(np.isfinite(frames["threshold"]), of_train, np.nan)
    axes.plot(number, shown, "-", color=THRESHOLD_COLOUR, linewidth=1)
    axes.plot([], [], ".", color=FRAME_COLOUR, label="frame")
    axes.plot([], [], ".", color=HIT_COLOUR, label=f"hit ({hit.sum()})")
    axes.plot([], [], "-", color=THRESHOLD_COLOUR, label="threshold")
    axes.set(xlabel="frame", ylabel="hit score at the mean pulse energy [photons]", yscale="log")
    axes.set_xlim(-0.5, len(score) - 0.5)
    axes.set_ylim(score.min() * 0.8, score.max() * 1.3)
    figure.legend(loc="outside upper right", ncols=3, frameon=False)
    return figure


def draw_hitscore_histogram(frames, attributes):
    """Histograms of the hit score and of its distance from the background in standard deviations."""
    figure, (left, right) = new_figure(10, 4.2, ncols=2)
    score = frames["hitscore"].astype(float)
    if not len(score):
        say_nothing_to_show(left, f"No frames: {attributes.get('reason', '')}")
        right.set_axis_off()
        return figure
    hit = frames["is_hit"].astype(bool)
    threshold_sigma = json.loads(attributes["params"])["threshold_sigma"]
    positive = score[score > 0]
    low, high = (positive.min(), positive.max()) if len(positive) else (1.0, 10.0)
    bins = np.geomspace(low / 1.05, high * 1.05, 120)
    left.hist(score[~hit], bins, color=FRAME_COLOUR, label="not a hit")
    left.hist(score[hit], bins, color=HIT_COLOUR, label="hit", alpha=0.9)
    threshold = frames["threshold"][np.isfinite(frames["threshold"])]
    if len(threshold):
        span = (threshold.min(), threshold.max())
        left.axvspan(*span, color=THRESHOLD_COLOUR, alpha=0.12, label="thresholds of the frames")
        left.axvline(np.median(threshold), color=THRESHOLD_COLOUR, linewidth=1, label="their median")
    left.set(xscale="log", yscale="log", xlabel="hit score [photons]", ylabel="frames")
    left.legend(frameon=False, fontsize=9)
    sigma = frames["hit_sigma"]
    known = np.isfinite(sigma)
    top = max(float(np.max(sigma, where=known, initial=10.0)), 10.0)
    edges = 5 * np.sinh(np.linspace(np.arcsinh(-6 / 5), np.arcsinh(top * 1.05 / 5), 140))
    right.hist(sigma[known & ~hit], edges, color=FRAME_COLOUR)
    right.hist(sigma[known & hit], edges, color=HIT_COLOUR, alpha=0.9)
    right.axvline(
        threshold_sigma, color=THRESHOLD_COLOUR, linewidth=1, label=f"hits.threshold_sigma = {threshold_sigma}"
    )
    right.set_xscale("asinh", linear_width=5)
    right.set_xticks([tick for tick in (-5, 0, 5, 10, 20, 50, 100, 200, 500, 1000) if tick <= top * 1.05])
    right.xaxis.set_major_formatter("{x:g}")
    right.set(yscale="log", xlabel="distance from the background [standard deviations]", ylabel="frames")
    right.legend(frameon=False, fontsize=9)
    return figure


def draw_guards(trains):
    """How many trains gave a threshold, and which guard stopped the others."""
    figure, axes = new_figure(9, 2.6)
    guards = np.asarray(trains["guard"], dtype=str)
    if not len(guards):
        say_nothing_to_show(axes, "The run has no trains.")
        return figure
    names, counts = np.unique(guards, return_counts=True)
    order = np.argsort(names != "")
    labels = [names[i] or "valid threshold" for i in order]
    colours = ["#2c7a4b" if not names[i] else "#d1495b" for i in order]
    bars = axes.barh(labels, counts[order], color=colours)
    axes.bar_label(bars, [f"{count} of {len(guards)}" for count in counts[order]], padding=4)
    axes.set(xlabel="trains", xlim=(0, len(guards) * 1.15))
    axes.invert_yaxis()
    return figure


def draw_hit_rate(frames, attributes):
    """Hit rate per train along the run, with a running mean."""
    figure, axes = new_figure(10, 3.8)
    if not len(frames["trainId"]):
        say_nothing_to_show(axes, f"No frames: {attributes.get('reason', '')}")
        return figure
    train_id, number, n_frames = np.unique(frames["trainId"], return_inverse=True, return_counts=True)
    hits = np.bincount(number, weights=frames["is_hit"].astype(float), minlength=len(train_id))
    minutes = (train_id - train_id[0]).astype(float) / 600  # trains come at 10 Hz
    axes.plot(minutes, 100 * hits / n_frames, ".", color=FRAME_COLOUR, markersize=3, label="train")
    width = max(1, min(len(train_id) // 10, 200))
    box = np.ones(width)
    mean = np.convolve(hits, box, "same") / np.convolve(n_frames, box, "same")
    axes.plot(minutes, 100 * mean, "-", color=HIT_COLOUR, label=f"mean of {width} trains")
    axes.set(xlabel=f"time since train {train_id[0]} [min]", ylabel="hit rate [%]", ylim=(0, None))
    axes.set_title(f"{int(hits.sum())} hits in {n_frames.sum()} frames, {100 * hits.sum() / n_frames.sum():.2f} %")
    axes.legend(frameon=False)
    return figure


def draw_pulse_energy(frames, self_test, attributes):
    """Self-test of the pulse energies: photons against energy, and correlation against a shift of the map."""
    figure, (left, right) = new_figure(10, 4.2, ncols=2)
    energy = frames["pulse_energy"] * 1e3
    background = np.isfinite(energy) & ~frames["is_hit"].astype(bool)
    if background.any():
        photons = frames["photons"][background]
        cells = left.hexbin(energy[background], photons, gridsize=60, bins="log", cmap="Blues", mincnt=1)
        figure.colorbar(cells, ax=left, label="frames")
        left.set(xlabel="pulse energy [mJ]", ylabel="photons in frames that are no hits")
    else:
        say_nothing_to_show(left, "No pulse energies: the gas monitor is not in the run's files.")
    verdict = attributes["self_test"].get("verdict", "undecided")
    shift, correlation = self_test["shift"], self_test["correlation"]
    if np.isfinite(correlation).any():
        colours = [HIT_COLOUR if s == 0 else MISS_COLOUR for s in shift]
        right.bar(shift, np.nan_to_num(correlation), color=colours)
        right.axhline(0, color="black", linewidth=0.8)
        right.set(xlabel="map shifted by [pulses]", ylabel="correlation with the photons", xticks=shift)
        right.set_title(f"self-test: {verdict}")
    else:
        say_nothing_to_show(right, f"Self-test: {verdict}. {attributes['self_test'].get('reason', '')}")
    return figure


def _reasons(excluded):
    return ", ".join(f"{reason} {count}" for reason, count in sorted(excluded.items()) if count) or "none"
