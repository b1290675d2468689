"""Pictures of DSSC averages: curve over the scan, images, scan, counts, pulse energies and account of the frames."""

from typing import NamedTuple

import h5py
import numpy as np
import xarray as xr
from extra_geom import DSSC_1MGeometry
from matplotlib.colors import Normalize, TwoSlopeNorm

from pulsetrain.detector import DSSC_SHAPE, N_MODULES
from pulsetrain.detector_figures import show_assembled
from pulsetrain.dssc_join import GROUP
from pulsetrain.dssc_selection import is_dark, read_selection
from pulsetrain.figures import FAILED_COLOUR, FRAME_COLOUR, THRESHOLD_COLOUR, new_figure, say_nothing_to_show

COLOURS = ("#d95f02", "#1b6ca8", "#2c7a4b", "#7b4fa3", "#a6761d", "#c2447e")
PITCH_MM = (0.204, 0.236)  # rows and columns of the hexagonal pixels, as in EXtra-geom
MOST_IMAGES = 3
MOST_LACKING = 0.05  # share of the used frames: a module that lacks more is left out of the mean signal
MOST_DOTS = 20_000  # in a scatter plot: more cannot be told apart and make the picture slow


class Frames(NamedTuple):
    """The frames of all runs of a result.

    A module that lacks many frames is left out of `signal`; frames that another module lacks have none.

    Attributes
    ----------
    names : list of str
    value : ndarray of float64, (N,)
        Bin; NaN = left out.
    name : ndarray of uint8, (N,)
    energy : ndarray of float64, (N,)
    signal : ndarray of float64, (N,)
        Mean over all pixels of the modules [ADU]; NaN = left out or incomplete.
    energy_units : str
    modules_left_out : list of int
        They do not count for `signal`.
    """

    names: list
    value: np.ndarray
    name: np.ndarray
    energy: np.ndarray
    signal: np.ndarray
    energy_units: str
    modules_left_out: list


def read_frames(selections, sums):
    """Read the frames of a result.

    Parameters
    ----------
    selections : list of path
        One per run.
    sums : list of list of path
        Per run, the files of the modules.

    Returns
    -------
    Frames
    """
    chosen = [read_selection(path) for path in selections]
    values = [np.append(each.values, np.nan)[each.bin] for each in chosen]
    used = [each.bin >= 0 for each in chosen]
    lacking = {}  # frames of all runs, so that the signal is that of the same modules in all of them
    for held, paths in zip(used, sums, strict=True):
        for path in paths:
            module, of_frames = _frame_sums(path)
            lacking[module] = lacking.get(module, 0) + int(np.count_nonzero(held & (of_frames == 0)))
    most = min(lacking.values()) + MOST_LACKING * sum(map(np.count_nonzero, used))
    left_out = [module for module, n in lacking.items() if n > most]
    signals = [_mean_signal(paths, len(each.bin), left_out) for each, paths in zip(chosen, sums, strict=True)]
    units = next((each.attributes["energy_units"] for each in chosen if each.attributes["energy_units"]), "")
    name, energy = (np.concatenate([getattr(each, key) for each in chosen]) for key in ("name", "energy"))
    return Frames(chosen[0].names, np.concatenate(values), name, energy, np.concatenate(signals), units, left_out)


def _frame_sums(path):
    """Number of a module and the sum of all its pixels in each frame; 0 = not used, or lacking."""
    with h5py.File(path) as file:
        return int(file.attrs["module"]), file["frame_sum"][()]


def _mean_signal(paths, n_frames, left_out):
    total, whole, n_modules = np.zeros(n_frames), np.ones(n_frames, bool), 0
    for path in paths:
        module, of_frames = _frame_sums(path)
        if module not in left_out:
            total += of_frames
            whole &= of_frames > 0
            n_modules += 1
    return np.where(whole, total / (n_modules * np.prod(DSSC_SHAPE)), np.nan)


def incomplete_text(frames, n_drawn, names):
    """What a picture of the signal of some frame names does not show: modules and frames; '' if nothing."""
    told = []
    if frames.modules_left_out:
        left_out = ", ".join(f"{module:02d}" for module in frames.modules_left_out)
        told.append(f"left out as they lack many frames: module {left_out}")
    of_names = np.isin(frames.name, [frames.names.index(name) for name in names])
    n_used = int(np.count_nonzero(np.isfinite(frames.value) & of_names))
    if n_drawn < n_used:
        told.append(f"{n_drawn} of {n_used} frames drawn")
    return "; ".join(told)


def dark_of(name, names):
    """The dark frames that belong to a name: ``<name>_dark``, else the first dark name; None without any."""
    if f"{name}_dark" in names:
        return f"{name}_dark"
    return next((other for other in names if is_dark(other)), None)


def lit_names(names):
    """Names of frames with an X-ray pulse."""
    return [name for name in names if not is_dark(name)]


def colour_of(name, names):
    """Colour of a frame name, the same in all pictures; dark frames have that of the name they belong to."""
    lit = lit_names(names)
    owner = name if name in lit else next((other for other in lit if dark_of(other, names) == name), None)
    return FRAME_COLOUR if owner is None else COLOURS[lit.index(owner) % len(COLOURS)]


def binned_curve(frames, name):
    """Mean signal of a frame name by bin, dark-subtracted and per pulse energy as far as these are known.

    The error is that of the mean over the frames: with energies, of what is left after signal = dark + slope * energy.

    Parameters
    ----------
    frames : Frames
    name : str

    Returns
    -------
    value, signal, error : ndarray, (B,)
    n : ndarray of int, (B,)
        Frames.
    """
    dark = dark_of(name, frames.names)
    whole = np.isfinite(frames.signal) & np.isfinite(frames.value)
    of_name = whole & (frames.name == frames.names.index(name))
    of_dark = whole & (frames.name == frames.names.index(dark)) if dark else np.zeros_like(whole)
    has_energy = has_energies(frames, name)
    if has_energy:
        of_name &= np.isfinite(frames.energy)
    rows = []
    for value in np.unique(frames.value[of_name]):
        signal = frames.signal[of_name & (frames.value == value)]
        energy = frames.energy[of_name & (frames.value == value)]
        darks = frames.signal[of_dark & (frames.value == value)]
        darks = darks if len(darks) else frames.signal[of_dark]
        level = darks.mean() if len(darks) else 0.0
        scale = energy.mean() if has_energy else 1.0
        slope = (signal.mean() - level) / scale
        rest = signal - level - slope * energy if has_energy else signal
        error = np.hypot(_error_of_mean(rest), _error_of_mean(darks) if len(darks) > 1 else 0) / scale
        rows.append((value, slope, error, len(signal)))
    columns = np.array(rows, float).reshape(-1, 4).T
    return *columns[:3], columns[3].astype(int)


def has_energies(frames, name):
    """Whether the pulse energy of any frame of the curve is known."""
    of_curve = np.isfinite(frames.signal) & np.isfinite(frames.value) & np.isfinite(frames.energy)
    return bool((of_curve & (frames.name == frames.names.index(name))).any())


def _error_of_mean(values):
    return values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan


def draw_curve(frames, joined):
    """Mean signal over the scan, one curve per frame name that is not dark."""
    figure, axes = new_figure(9, 4.8)
    lit = lit_names(frames.names)
    names = [name for name in lit if has_energies(frames, name)]
    known = bool(names)
    # Without energy a curve would be in another unit on the same axis.
    missing = [name for name in lit if name not in names] if known else []
    names = names or lit
    label, _ = scan_label(joined)
    n_drawn = 0
    for name in names:
        colour = colour_of(name, frames.names)
        value, signal, error, n = binned_curve(frames, name)
        if not len(value):
            continue
        axes.errorbar(
            value, signal, np.nan_to_num(error), fmt="o-", color=colour, capsize=3, label=f"{name} ({n.sum()} frames)"
        )
        n_drawn += n.sum()
    if not n_drawn:
        say_nothing_to_show(axes, "No frame with an X-ray pulse is used.")
        return figure
    axes.set(
        xlabel=label, ylabel=f"mean signal per pixel [ADU{'/' + (frames.energy_units or 'energy') if known else ''}]"
    )
    subtracted = all(dark_of(name, frames.names) for name in names)
    title = "dark frames subtracted" if subtracted else "NOT dark-subtracted: there are no dark frames"
    title += ", divided by the pulse energy" if known else ", pulse energies unknown"
    if missing:
        title += f"\n{len(missing)} names without any pulse energy are not drawn"
    if incomplete := incomplete_text(frames, n_drawn, names):
        title += f"\n{incomplete}"
    axes.set_title(title, fontsize=10)
    axes.legend()
    return figure


def scan_label(joined):
    """Name of the scan with its unit, for an axis, and where its values come from."""
    with xr.open_dataset(joined, group=GROUP, engine="h5netcdf", decode_times=False) as data:
        variable = data["scan_variable"].attrs
    units = variable.get("units", "")
    return variable["long_name"] + (f" [{units}]" if units else ""), variable["source"]


def mean_image(data, name):
    """Frame-weighted mean over all bins, (16, 128, 512); NaN for modules without frames."""
    count = data[f"sum_count_{name}"].values
    image = np.full((N_MODULES, *DSSC_SHAPE), np.nan)
    for m, module in enumerate(data["module"].values):
        filled = np.flatnonzero(count[:, m])
        if len(filled):
            total = sum(data[name][b, m].values * count[b, m] for b in filled)
            image[module] = total / count[filled, m].sum()
    return image


def signal_image(data, name):
    """Dark-subtracted mean image of all bins per pulse energy, and its unit; as far as dark and energies are known.

    Each module is divided by the mean energy of the frames that it has.
    """
    image, names = mean_image(data, name), frame_names_of(data)
    dark = dark_of(name, names)
    if dark is not None:
        image -= mean_image(data, dark)
    count, energy = data[f"xgm_module_count_{name}"].values, data[f"xgm_module_{name}"].values
    if not count.sum():
        return image, "ADU"
    of_module = np.full(N_MODULES, np.nan)
    held = count.sum(axis=0) > 0
    of_module[data["module"].values[held]] = np.nansum(energy * count, axis=0)[held] / count.sum(axis=0)[held]
    units = data[f"xgm_{name}"].attrs.get("units", "energy")
    return image / of_module[:, None, None], f"ADU/{units}"


def frame_names_of(data):
    """Frame names of a joined file."""
    return [name.removeprefix("sum_count_") for name in data.data_vars if name.startswith("sum_count_")]


def draw_images(joined, geometry):
    """Dark-subtracted, normalised images of all bins, and the difference of the first two names, on the detector.

    Parameters
    ----------
    joined : path
    geometry : extra_geom.DSSC_1MGeometry
    """
    with xr.open_dataset(joined, group=GROUP, engine="h5netcdf", decode_times=False) as data:
        names = lit_names(frame_names_of(data)) or frame_names_of(data)
        shown = []
        for name in names[:MOST_IMAGES]:
            image, units = (mean_image(data, name), "ADU") if is_dark(name) else signal_image(data, name)
            shown.append((name, image, units))
    if not any(np.isfinite(image).any() for _, image, _ in shown):
        figure, axes = new_figure(8, 3)
        say_nothing_to_show(axes, "No frame is used.")
        return figure
    norms = {}  # one for all images of a unit
    for unit in {units for _, _, units in shown}:
        values = np.concatenate([image[np.isfinite(image)] for _, image, units in shown if units == unit])
        norms[unit] = Normalize(*np.percentile(values, [1, 99.5]) if len(values) else (0, 1))
    panels = [(name, image, units, norms[units], "viridis") for name, image, units in shown]
    if len(shown) > 1 and shown[0][2] == shown[1][2]:
        difference = shown[0][1] - shown[1][1]
        limit = max(np.nanpercentile(np.abs(difference), 99), 1e-12) if np.isfinite(difference).any() else 1
        title = f"{shown[0][0]} - {shown[1][0]}"
        panels.append((title, difference, shown[0][2], TwoSlopeNorm(0, -limit, limit), "RdBu_r"))
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(6.4 * columns, 5.6 * rows, ncols=columns, nrows=rows, squeeze=False)
    for axes, (title, image, units, norm, colours) in zip(grid.flat, panels, strict=False):
        axes.set_title(title, fontsize=11)
        show_assembled(geometry, figure, axes, image, units, norm, colours, extend="both", pixel_mm=PITCH_MM)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_axis_off()
    return figure


def read_geometry(given, path):
    """Geometry of the configuration.

    Parameters
    ----------
    given : dict or None
        ``file`` and ``quadrants`` [mm]; None = EXtra-geom's example.
    path : str or None
        Full path of the file.
    """
    if given is None:
        return DSSC_1MGeometry.example()
    try:
        if given["quadrants"] is None:
            return DSSC_1MGeometry.from_h5_file(path)
        return DSSC_1MGeometry.from_h5_file_and_quad_positions(path, given["quadrants"])
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(
            f"dssc.geometry.file: {path} is no geometry of a DSSC-1M with these quadrants: {error}. Give a file with "
            "Q1/M1/Position and so on, and the quadrants if the file has none"
        ) from error


def draw_scan(selections, joined):
    """Scan variable of each train as it was read, with the bins."""
    figure, axes = new_figure(9, 4.2)
    label, source = scan_label(joined)
    first, bins = 0, []
    for path in selections:
        with h5py.File(path) as file:
            train, value = file["trains/trainId"][()], file["trains/scan_variable"][()]
            bins.append(file["scan_variable"][()])
            run = int(file.attrs["run"])
        if not len(train):
            continue
        place = first + (train - train[0]).astype(int)
        axes.plot(place, value, ".", markersize=4, label=f"run {run}")
        axes.plot(place[~np.isfinite(value)], np.zeros((~np.isfinite(value)).sum()), "x", color=FAILED_COLOUR,
                  transform=axes.get_xaxis_transform(), clip_on=False)  # fmt: skip
        first = place[-1] + 1
    if not first:
        say_nothing_to_show(axes, "The run has no trains.")
        return figure
    for value in np.unique(np.concatenate(bins)):
        axes.axhline(value, color=FRAME_COLOUR, linewidth=0.6, zorder=0)
    axes.set(xlabel="train, from the first of each run", ylabel=label)
    axes.set_title(source, fontsize=10)
    axes.legend(fontsize=9)
    return figure


def draw_counts(frames, joined):
    """Frames per bin and frame name."""
    figure, axes = new_figure(9, 4.2)
    label, _ = scan_label(joined)
    used = np.isfinite(frames.value)
    values = np.unique(frames.value[used])
    if not len(values):
        say_nothing_to_show(axes, "No frame is used.")
        return figure
    spacing = np.diff(values).min() if len(values) > 1 else 1.0
    width = 0.85 * spacing / len(frames.names)
    for i, name in enumerate(frames.names):
        count = np.bincount(np.searchsorted(values, frames.value[used & (frames.name == i)]), minlength=len(values))
        place = values + (i - (len(frames.names) - 1) / 2) * width
        colour, alpha = colour_of(name, frames.names), 0.45 if is_dark(name) else 1
        axes.bar(place, count, width, color=colour, alpha=alpha, label=name)
    axes.set(xlabel=label, ylabel="frames")
    axes.legend(fontsize=9)
    return figure


def draw_energies(frames, limits):
    """Histogram of the pulse energies with the limits, and signal against energy."""
    figure, (left, right) = new_figure(11, 4.4, ncols=2)
    known, used = np.isfinite(frames.energy), np.isfinite(frames.value)
    if not known.any():
        for axes in (left, right):
            say_nothing_to_show(axes, "Pulse energies are not known.")
        return figure
    units = f" [{frames.energy_units}]" if frames.energy_units else ""
    edges = np.linspace(*np.percentile(frames.energy[known], [0, 100]), 61)
    left.hist(frames.energy[known], edges, color=FRAME_COLOUR, label="all frames")
    left.hist(frames.energy[known & used], edges, color=COLOURS[1], label="used")
    for limit in limits or []:
        left.axvline(limit, color=THRESHOLD_COLOUR, linestyle="--")
    left.set(xlabel=f"pulse energy{units}", ylabel="frames")
    left.legend(fontsize=9)
    n_drawn, names = 0, [name for name in lit_names(frames.names) if has_energies(frames, name)]
    for name in names:
        colour = colour_of(name, frames.names)
        chosen = np.flatnonzero(known & np.isfinite(frames.signal) & (frames.name == frames.names.index(name)))
        if len(chosen) < 3:
            continue
        n_drawn += len(chosen)
        r = np.corrcoef(frames.energy[chosen], frames.signal[chosen])[0, 1]
        some = chosen[:: -(-len(chosen) // MOST_DOTS)]
        right.plot(
            frames.energy[some], frames.signal[some], ".", markersize=3, color=colour, label=f"{name}, r = {r:.3f}"
        )
    right.set(xlabel=f"pulse energy{units}", ylabel="mean of all pixels [ADU]")
    right.set_title(incomplete_text(frames, n_drawn, names), fontsize=10)
    if right.has_data():
        right.legend(fontsize=9)
    return figure


def draw_account(joined):
    """Frames by what became of them."""
    with xr.open_dataset(joined, group="account", engine="h5netcdf") as data:
        reasons = [str(reason) for reason in data["reason"].values]
        counts = data["n_frames"].values.sum(axis=0)
    figure, axes = new_figure(9, 1.4 + 0.42 * len(reasons))
    colours = [COLOURS[2] if reason == "used" else FAILED_COLOUR for reason in reasons]
    bars = axes.barh(reasons, counts, color=colours)
    total = max(counts.sum(), 1)
    axes.bar_label(bars, [f"{count} ({100 * count / total:.1f} %)" for count in counts], padding=4)
    axes.invert_yaxis()
    axes.set(xlabel="frames", xlim=(0, 1.25 * max(counts.max(initial=0), 1)))
    return figure
