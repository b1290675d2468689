"""Pictures of a Jungfrau's constants: maps, histograms, and the change against the constants in force."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from pulsetrain.figures import STAGE_NAMES, THRESHOLD_COLOUR, new_figure, say_nothing_to_show
from pulsetrain.jungfrau import GAIN_STAGES, TYPES, UNITS, JungfrauError
from pulsetrain.jungfrau_gate import pixel_changes, read_comparable

PANEL_COLOURS = ("#1b6ca8", "#d95f02", "#2c7a4b", "#7b3fa0", "#b3202c", "#8c564b", "#17a2b8", "#111111")
BINS = 200
SPAN = 0.5  # percent of the pixels on either side that lie beyond the colours and the histograms


def draw_map(kind, array, panel_ids, title):
    """Maps of one type of constants: a row per panel, a column per gain stage.

    Parameters
    ----------
    kind : str
        ``pixel_gain`` or ``pixel_offset``.
    array : ndarray of float32, (3, P, 512, 1024)
    panel_ids : sequence of str
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    panels = len(panel_ids)
    figure, grid = new_figure(13, 2.2 * panels + 1.4, nrows=panels, ncols=GAIN_STAGES, squeeze=False)
    for stage in range(GAIN_STAGES):
        low, high = _span(array[stage])
        for panel in range(panels):
            axes = grid[panel, stage]
            image = axes.imshow(array[stage, panel], vmin=low, vmax=high, cmap="viridis", interpolation="nearest")
            axes.set(xticks=[0, 512, 1023], yticks=[0, 256, 511])
            axes.tick_params(labelsize=7)
            median = f"median {np.median(array[stage, panel]):.5g}"
            axes.set_title(f"{STAGE_NAMES[stage]}, {median}" if panel == 0 else median, fontsize=9)
        bar = figure.colorbar(image, ax=grid[:, stage], location="bottom", shrink=0.8, aspect=40, pad=0.02)
        bar.set_label(f"[{UNITS[kind]}]", fontsize=8)
        bar.locator = MaxNLocator(5)
        bar.ax.tick_params(labelsize=7)
    for panel, name in enumerate(panel_ids):
        grid[panel, 0].set_ylabel(f"panel {panel}\n{name}\nrow", fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("column", fontsize=8)
    figure.suptitle(f"{kind} of {title}", fontsize=11)
    return figure


def draw_histograms(constants, panel_ids, title):
    """Histograms of all constants: gains above, offsets below, a column per gain stage, a line per panel.

    Parameters
    ----------
    constants : dict
        {type: float32 (3, P, 512, 1024)}
    panel_ids : sequence of str
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = new_figure(12, 6.5, nrows=len(TYPES), ncols=GAIN_STAGES)
    for row, kind in enumerate(TYPES):
        for stage in range(GAIN_STAGES):
            axes = grid[row, stage]
            _draw_lines(axes, constants[kind][stage], _span(constants[kind][stage]))
            axes.set_xlabel(f"{kind.removeprefix('pixel_')} [{UNITS[kind]}]")
            axes.set_title(STAGE_NAMES[stage], fontsize=10)
    return _finish(figure, grid, panel_ids, f"constants of {title}")


def draw_changes(constants, deployed, panel_ids, limits, title):
    """Histograms of the change against the constants in force, with the limits of the gate.

    Parameters
    ----------
    constants : dict
        {type: float32 (3, P, 512, 1024)}
    deployed : dict
        {type: text file in force}; types that have none are absent.
    panel_ids : sequence of str
    limits : pulsetrain.jungfrau_gate.Limits
    title : str

    Returns
    -------
    matplotlib.figure.Figure
    """
    figure, grid = new_figure(12, 6.5, nrows=len(TYPES), ncols=GAIN_STAGES)
    for row, kind in enumerate(TYPES):
        try:
            old = read_comparable(deployed[kind], constants[kind].shape) if kind in deployed else None
            reason = "no constants of this type are in force for the run"
        except JungfrauError as error:
            old, reason = None, str(error)
        for stage in range(GAIN_STAGES):
            axes = grid[row, stage]
            if old is None:
                say_nothing_to_show(axes, reason if stage == 1 else "")
                continue
            _draw_changes(axes, kind, constants[kind][stage], old[stage], limits)
            axes.set_title(STAGE_NAMES[stage], fontsize=10)
    return _finish(figure, grid, panel_ids, f"change against the constants in force of {title}")


def _draw_changes(axes, kind, new, old, limits):
    change = np.array([pixel_changes(kind, new[panel], old[panel]) for panel in range(len(new))])
    scale, limit = (100, limits.max_gain_change) if kind == "pixel_gain" else (1, limits.max_offset_change)
    reach = 1.3 * scale * limit
    _draw_lines(axes, scale * change, (-reach, reach))
    for edge in (-scale * limit, scale * limit):
        axes.axvline(edge, color=THRESHOLD_COLOUR, linestyle="--", linewidth=1)
    inside = np.count_nonzero(np.abs(scale * change) <= reach)
    if inside < change.size:
        text = f"{100 * (1 - inside / change.size):.3g} % of the pixels beyond"
        axes.text(0.02, 0.97, text, transform=axes.transAxes, va="top", fontsize=8, backgroundcolor="white")
    axes.set_xlabel("gain, change [%]" if kind == "pixel_gain" else "offset, change [ADU]")


def _draw_lines(axes, of_panels, span):
    edges = np.linspace(*span, BINS + 1)
    for panel, values in enumerate(of_panels):
        counts, _ = np.histogram(values[np.isfinite(values)], edges)
        axes.stairs(counts, edges, color=PANEL_COLOURS[panel % len(PANEL_COLOURS)], linewidth=1.2)
    axes.set_yscale("symlog", linthresh=1)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(labelsize=8)


def _span(values):
    """Range that holds all but some percent of the finite values; never empty."""
    low, high = np.percentile(values[np.isfinite(values)], [SPAN, 100 - SPAN])
    margin = 0.05 * (high - low) or 0.5
    return low - margin, high + margin


def _finish(figure, grid, panel_ids, title):
    for axes in grid[:, 0]:
        axes.set_ylabel("pixels per bin")
    figure.suptitle(title[:1].upper() + title[1:], fontsize=11)
    handles = [
        figure.gca().plot([], [], color=PANEL_COLOURS[panel % len(PANEL_COLOURS)], label=f"panel {panel}, {name}")[0]
        for panel, name in enumerate(panel_ids)
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return figure
