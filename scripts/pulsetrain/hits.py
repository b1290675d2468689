"""Which frames are hits: the hit score of a frame against the background of its train."""

import logging
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.layout import read_layout
from pulsetrain.output import new_h5, write_array

log = logging.getLogger(__name__)

SIGMA_OF_QUARTILE = 1.4826  # standard deviation of a normal distribution / (median - 25th percentile)
MIN_FRAMES_FOR_SLOPE = 100
FRAMES_PER_BIN = 25
MAX_BINS = 50
MIN_ENERGY_FRACTION = 0.25  # a train with fewer frames of known pulse energy is compared without it

SHIFTS = np.arange(-4, 5)
MIN_FRAMES_FOR_TEST = 50
SIGNIFICANT = 5.0  # standard deviations between two correlations

GUARDS = {
    "min_score": "median of the score",
    "min_spread": "spread of the score",
    "min_pulse_energy": "mean pulse energy",
}
QUIET = ("0 of", "not used")  # how the account of a guard begins that rejected no train
GUARD_KEYS = {
    "min_score": "hits.min_score",
    "min_spread": "hits.min_spread",
    "min_pulse_energy": "hits.min_pulse_energy_mj",
}


class Frames(NamedTuple):
    """What hit finding needs to know of each frame; frames of a train follow each other.

    Attributes
    ----------
    train : ndarray of int, (N,)
        Number of the frame's train, 0 ... T-1, ascending.
    score : ndarray of uint64, (N,)
        Photons in the hit region, summed over modules.
    energy : ndarray of float64, (N,) [J]
        NaN = unknown.
    modules : ndarray of uint32, (N,)
        Bit m is set when module m has the frame.
    """

    train: np.ndarray
    score: np.ndarray
    energy: np.ndarray
    modules: np.ndarray


class Background(NamedTuple):
    """The score of frames without a hit.

    Attributes
    ----------
    expected : ndarray of float64, (N,)
        Part of the score that follows the frame's pulse energy, relative to the mean pulse energy.
    counted : ndarray of bool, (N,)
        Frames that the statistics are made of.
    median, sigma : ndarray of float64, (T,)
        Of the score less `expected`.
    slope : ndarray of float64, (T,) [1/J]
        Score per pulse energy; 0 where pulse energies are not used.
    """

    expected: np.ndarray
    counted: np.ndarray
    median: np.ndarray
    sigma: np.ndarray
    slope: np.ndarray


def find_hits(
    litpixels,
    pulses,
    frames,
    output,
    threshold_sigma,
    scale_by_pulse_energy,
    min_frames,
    min_score,
    min_spread,
    min_pulse_energy_mj,
    seed,
    attributes,
):
    """Sum the modules, find the hits of a run, draw misses, and test the map of pulses.

    Parameters
    ----------
    litpixels : list of path
        One file per module (``count_litpixels``).
    pulses : path
        Pulse energies (``map_pulses``).
    frames : path
        Frame table (:mod:`pulsetrain.layout`).
    output : path
        Events; the datasets are listed in ``scripts/find_hits.py``.
    threshold_sigma : float
        A hit exceeds the median of the background by so many standard deviations.
    scale_by_pulse_energy : bool
        Take the part of the score that follows the pulse energy off the score (:func:`find_background`).
    min_frames : int
        Frames that a threshold should be made of; smaller trains take their neighbours too.
    min_score, min_spread : float
        Guards: no hits in trains whose median score or its standard deviation is lower.
    min_pulse_energy_mj : float
        Guard: no hits in trains whose mean pulse energy [mJ] is lower. Not used in a run without pulse energies.
    seed : int
        Of the choice of misses.
    attributes : dict
        Provenance.
    """
    run = read_layout(frames)
    with h5py.File(pulses) as file:
        energy, wavelength = file["pulse_energy"][()], file["wavelength"][()]
        xgm_index, offset = file["xgm_index"][()], int(file.attrs["offset"])
        monitor_trains, monitor = file["xgm/trainId"][()], file["xgm/pulse_energy"][()]
    n_frames = len(run.train_id)
    _require_length(pulses, "pulse_energy", energy, n_frames, frames)
    sums = sum_modules(litpixels, n_frames, frames)
    trains, train = np.unique(run.train_id, return_inverse=True)
    of_run = Frames(train, sums["hit_photons"], energy, run.modules)

    background = find_background(of_run, len(trains), min_frames, scale_by_pulse_energy)
    guard, guards = judge_trains(of_run, background, min_score, min_spread, min_pulse_energy_mj)
    valid = guard == ""
    middle, sigma = background_of_frames(train, background)
    threshold = np.where(valid[train], middle + threshold_sigma * sigma, np.nan)
    with np.errstate(invalid="ignore"):
        is_hit = of_run.score > threshold
    hit_sigma = _over(of_run.score - middle, sigma)
    is_miss = draw_misses(is_hit, background.counted & valid[train], run.train_id, run.pulse_id, seed)

    test = compare_pulse_maps(sums["photons"], ~is_hit, train, xgm_index, monitor_of(trains, monitor_trains, monitor))
    verdict, reason = judge_pulse_map(test, offset)
    status = describe_status(is_hit, guard, guards, run.attributes)
    _log_result(is_hit, is_miss, guard, guards, verdict, reason, status)

    datasets = {
        "cellId": (run.cell_id, None, None),
        "pulseId": (run.pulse_id, None, None),
        "trainId": (run.train_id, None, None),
        "litpixels": (sums["litpixels"].astype("u4"), None, "pixels with at least one photon and a good mask"),
        "photons": (sums["photons"], "photons", "in all good pixels"),
        "hitscore": (sums["hit_photons"], "photons", "in the good pixels of the hit region"),
        "is_hit": (is_hit, None, "hitscore > threshold"),
        "is_miss": (is_miss, None, "drawn by lot from the frames that are no hits"),
        "hit_sigma": (hit_sigma.astype("f4"), None, "standard deviations of the score above the background"),
        "threshold": (threshold.astype("f4"), "photons", "of hitscore; NaN in trains that a guard rejected"),
        "pulse_energy": (energy, "J", "NaN = unknown"),
        "wavelength": (wavelength, "m", "NaN = unknown"),
        "modules": (run.modules, None, "bit m is set when module m has the frame"),
    }
    with new_h5(output, attributes) as file:
        for name, (values, units, description) in datasets.items():
            write_array(file, name, values, units, description)
        of_trains = file.create_group("trains")
        write_array(of_trains, "trainId", trains)
        write_array(of_trains, "median", background.median, "photons", "of the background at the mean pulse energy")
        write_array(of_trains, "sigma", background.sigma, "photons", "standard deviation of the background")
        of_mean = background.median + threshold_sigma * background.sigma
        write_array(of_trains, "threshold", of_mean, "photons", "median + threshold_sigma * sigma")
        write_array(of_trains, "slope", background.slope, "photons/J", "of the background over the pulse energy")
        write_array(of_trains, "n_frames", np.bincount(train, minlength=len(trains)).astype("u4"))
        of_trains.create_dataset("guard", data=list(guard), dtype=h5py.string_dtype(), shape=guard.shape)
        for name, told in guards.items():
            of_trains["guard"].attrs[name] = told
        self_test = file.create_group("self_test")
        write_array(self_test, "shift", SHIFTS.astype("i4"), "pulses")
        write_array(self_test, "correlation", test.correlation, None, "of photons and shifted pulse energy, non-hits")
        write_array(self_test, "n_frames", test.n_frames.astype("u4"))
        self_test.attrs.update({"verdict": verdict, "reason": reason})
        file.attrs.update({"n_hits": int(is_hit.sum()), "n_misses": int(is_miss.sum()), **status})


def sum_modules(litpixels, n_frames, frames):
    """Sum the counts of the modules.

    Returns
    -------
    dict of ndarray of uint64, (N,)
        litpixels, photons, hit_photons.
    """
    sums = {name: np.zeros(n_frames, dtype=np.uint64) for name in ("litpixels", "photons", "hit_photons")}
    for path in litpixels:
        with h5py.File(path) as file:
            for name, total in sums.items():
                values = file[name][()]
                _require_length(path, name, values, n_frames, frames)
                total += values.astype(np.uint64)
    return sums


def find_background(frames, n_trains, min_frames, scale_by_pulse_energy):
    """Median and spread of the score of each train's background, where hits are few and score high.

    The lower quartile gives the spread, sigma = 1.4826 (median - 25th percentile), because hits do not reach it.
    With pulse energies, the score that is expected from them is taken off first: a straight line through the medians
    of the score in bins of the pulse energy, which hits do not move either. A wrong map of pulses gives slope 0 and
    so the plain score. Trains are compared with trains that have the same modules only.

    Parameters
    ----------
    frames : Frames
    n_trains : int
    min_frames : int
    scale_by_pulse_energy : bool

    Returns
    -------
    Background
    """
    train, score = frames.train, frames.score.astype(float)
    count = np.bincount(train, minlength=n_trains)
    known = np.isfinite(frames.energy)
    if not scale_by_pulse_energy:
        known[:] = False
    with_energy = _over(np.bincount(train, weights=known, minlength=n_trains), count) >= MIN_ENERGY_FRACTION
    counted = known | ~with_energy[train]

    energy = frames.energy.copy()
    mean_energy = float(np.mean(energy[known])) if known.any() else 0.0
    # A frame without pulse energy among others that have one may be brighter by as much as the brightest of them.
    brightest = np.full(n_trains, -np.inf)
    np.maximum.at(brightest, train[known], energy[known])
    energy = np.where(known, energy, brightest[train])
    energy[~with_energy[train]] = mean_energy

    expected = np.zeros(len(score))
    median, sigma, slope = np.zeros(n_trains), np.zeros(n_trains), np.zeros(n_trains)
    group = train_groups(frames, n_trains, with_energy)
    for number in range(group.max(initial=-1) + 1):
        members = np.flatnonzero(group == number)
        of_group = np.flatnonzero(group[train] == number)
        if with_energy[members[0]]:
            fitted = of_group[counted[of_group]]
            slope[members] = background_slope(energy[fitted], score[fitted])
            expected[of_group] = slope[members[0]] * (energy[of_group] - mean_energy)
        used = of_group[counted[of_group]]
        values = (score - expected)[used]
        sizes = np.bincount(np.searchsorted(members, train[used]), minlength=len(members))
        median[members], sigma[members] = window_statistics(values, sizes, min_frames)
    return Background(expected, counted, median, sigma, slope)


def train_groups(frames, n_trains, with_energy):
    """Number the trains by what makes them comparable: their modules, and whether pulse energies are known.

    Returns
    -------
    ndarray of int, (T,)
        Group of each train, 0, 1, ...
    """
    lowest = np.full(n_trains, np.iinfo(np.uint32).max, dtype=np.uint32)
    highest = np.zeros(n_trains, dtype=np.uint32)
    np.minimum.at(lowest, frames.train, frames.modules)
    np.maximum.at(highest, frames.train, frames.modules)
    keys = np.stack([lowest, highest, with_energy], axis=1)
    return np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1)


def background_slope(energy, score):
    """Slope of the background over the pulse energy, not moved by hits.

    Parameters
    ----------
    energy : ndarray, (n,) [J]
    score : ndarray, (n,)

    Returns
    -------
    float [1/J]
        Of the straight line through the median scores of equally filled bins of the energy; never negative, and 0
        with fewer than 100 frames or without different energies.
    """
    if len(energy) < MIN_FRAMES_FOR_SLOPE:
        return 0.0
    order = np.argsort(energy, kind="stable")
    n_bins = min(len(energy) // FRAMES_PER_BIN, MAX_BINS)
    bins = np.array_split(order, n_bins)
    x = np.array([np.mean(energy[inside]) for inside in bins])
    y = np.array([np.median(score[inside]) for inside in bins])
    x -= x.mean()
    spread = np.sum(x * x)
    return max(0.0, float(np.sum(x * y) / spread)) if spread > 0 else 0.0


def window_statistics(values, sizes, min_frames):
    """Median and sigma per train, over a symmetric window of trains where a train is too small.

    Parameters
    ----------
    values : ndarray, (n,)
        Scores, train after train.
    sizes : ndarray of int, (t,)
        Frames of each train.
    min_frames : int
        The window grows by one train on both sides until it has so many frames, or all.

    Returns
    -------
    median, sigma : ndarray of float64, (t,)
        NaN where the window is empty.
    """
    ends = np.concatenate([[0], np.cumsum(sizes)])
    number = np.arange(len(sizes))
    reach = np.zeros(len(sizes), dtype=int)
    goal = min(min_frames, int(ends[-1]))
    while True:
        first, last = np.maximum(number - reach, 0), np.minimum(number + reach + 1, len(sizes))
        small = ends[last] - ends[first] < goal
        if not small.any():
            break
        reach[small] += 1
    median, sigma = np.full(len(sizes), np.nan), np.full(len(sizes), np.nan)
    for train in np.flatnonzero(ends[last] > ends[first]):
        quartile, middle = np.quantile(values[ends[first[train]] : ends[last[train]]], [0.25, 0.5])
        median[train], sigma[train] = middle, SIGMA_OF_QUARTILE * (middle - quartile)
    return median, sigma


def judge_trains(frames, background, min_score, min_spread, min_pulse_energy_mj):
    """Name the guards that reject each train.

    Returns
    -------
    guard : ndarray of object (str), (T,)
        '' = valid; several names are joined by ", ".
    guards : dict
        What each guard did: {name: text}.
    """
    n_trains = len(background.median)
    known = np.isfinite(frames.energy)
    count = np.bincount(frames.train, weights=known, minlength=n_trains)
    total = np.bincount(frames.train[known], weights=frames.energy[known], minlength=n_trains)
    with np.errstate(invalid="ignore"):
        rejected = {
            "min_score": ~(background.median >= min_score),
            "min_spread": ~(background.sigma >= min_spread),
            "min_pulse_energy": _over(total, count) * 1e3 < min_pulse_energy_mj,
        }
    limits = {"min_score": min_score, "min_spread": min_spread, "min_pulse_energy": f"{min_pulse_energy_mj} mJ"}
    guard = np.full(n_trains, "", dtype=object)
    guards = {}
    for name, trains in rejected.items():
        guards[name] = f"{trains.sum()} of {n_trains} trains rejected: {GUARDS[name]} below {limits[name]}"
        for train in np.flatnonzero(trains):
            guard[train] += f", {name}" if guard[train] else name
    if not known.any():
        guards["min_pulse_energy"] = "not used: no XGM"
    elif (count == 0).any():
        guards["min_pulse_energy"] += f"; not used for {(count == 0).sum()} trains without XGM"
    return guard, guards


def background_of_frames(train, background):
    """Score that a frame has without a hit, at its pulse energy, and the standard deviation of it.

    Photons scatter by the root of their number, so brighter pulses have the wider background: sigma grows by the root
    of the score over that of the mean pulse energy. It is not made smaller for weak pulses, whose background need not
    be photons only.

    Parameters
    ----------
    train : ndarray of int, (N,)
    background : Background

    Returns
    -------
    middle, sigma : ndarray of float64, (N,)
    """
    median = background.median[train]
    middle = median + background.expected
    brighter = np.maximum(background.expected, 0) / np.maximum(median, 1)
    return middle, background.sigma[train] * np.sqrt(1 + brighter)


def draw_misses(is_hit, candidates, train_id, pulse_id, seed):
    """Draw as many misses as there are hits.

    Parameters
    ----------
    is_hit, candidates : ndarray of bool, (N,)
        Hits, and frames that may be chosen if they are no hits.
    train_id, pulse_id : ndarray of uint64, (N,)
        The choice goes by these, so the order of the frames has no influence.
    seed : int

    Returns
    -------
    ndarray of bool, (N,)
        min(hits, candidates that are no hits) frames.
    """
    free = np.flatnonzero(candidates & ~is_hit)
    free = free[np.lexsort((pulse_id[free], train_id[free]))]
    is_miss = np.zeros(len(is_hit), dtype=bool)
    number = min(int(is_hit.sum()), len(free))
    is_miss[np.random.default_rng(seed).choice(free, number, replace=False)] = True
    return is_miss


class PulseTest(NamedTuple):
    """Correlation of the photons with the pulse energy of shifted pulses.

    Attributes
    ----------
    correlation : ndarray of float64, (9,)
        For :data:`SHIFTS`; NaN where it cannot be computed.
    n_frames : ndarray of int, (9,)
    """

    correlation: np.ndarray
    n_frames: np.ndarray


def monitor_of(trains, monitor_trains, monitor):
    """Rows of the gas monitor's table for the trains: (T, P) [J], NaN for trains that it does not have."""
    energy = np.full((len(trains), monitor.shape[1]), np.nan)
    _, here, there = np.intersect1d(trains, monitor_trains, return_indices=True)
    energy[here] = monitor[there]
    return energy


def compare_pulse_maps(photons, is_background, train, xgm_index, monitor):
    """Compare the photons of non-hits with the energies of the mapped pulse and of its neighbours.

    Each train's mean and each pulse's mean over the trains are taken off both first, so that neither a drifting beam
    nor a profile along the train looks like agreement.

    Parameters
    ----------
    photons : ndarray, (N,)
    is_background : ndarray of bool, (N,)
    train : ndarray of int, (N,)
    xgm_index : ndarray of int, (N,)
        -1 = none.
    monitor : ndarray, (T, P) [J]

    Returns
    -------
    PulseTest
    """
    correlation, n_frames = np.full(len(SHIFTS), np.nan), np.zeros(len(SHIFTS), dtype=int)
    for number, shift in enumerate(SHIFTS):
        index = xgm_index.astype(np.int64) + shift
        use = np.flatnonzero(is_background & (xgm_index >= 0) & (index >= 0) & (index < monitor.shape[1]))
        energy = monitor[train[use], index[use]]
        use, energy = use[np.isfinite(energy)], energy[np.isfinite(energy)]
        n_frames[number] = len(use)
        if len(use) < MIN_FRAMES_FOR_TEST:
            continue
        x = _without_means(energy, train[use], xgm_index[use])
        y = _without_means(photons[use].astype(float), train[use], xgm_index[use])
        norm = np.sqrt(np.sum(x * x) * np.sum(y * y))
        # What rounding leaves of constant values is no variation.
        varies = np.ptp(energy) > 0 and np.abs(x).max() > 1e-9 * np.abs(energy).max() and np.abs(y).max() > 1e-9
        if norm > 0 and varies:
            correlation[number] = np.sum(x * y) / norm
    return PulseTest(correlation, n_frames)


def judge_pulse_map(test, offset):
    """Say whether the map of pulses is right.

    Two correlations differ significantly when their Fisher transforms differ by 5 standard deviations.

    Parameters
    ----------
    test : PulseTest
    offset : int
        The offset that the map was made with.

    Returns
    -------
    verdict : str
        ``ok``, ``shifted`` or ``undecided``.
    reason : str
    """
    here = int(np.flatnonzero(SHIFTS == 0)[0])
    usable = np.isfinite(test.correlation)
    if not test.n_frames.any():
        return "undecided", "no frame has a pulse energy (no XGM?)"
    if not usable[here] or usable.sum() < 2:
        frames = f"{test.n_frames[here]} frames without a hit have a pulse energy"
        return "undecided", f"{frames}, or their pulse energies are equal; the test needs {MIN_FRAMES_FOR_TEST}"
    fisher = np.arctanh(np.clip(test.correlation, -1 + 1e-12, 1 - 1e-12))
    error = 1 / np.sqrt(np.maximum(test.n_frames - 3, 1))
    best = int(np.nanargmax(fisher))
    rivals = [n for n in np.flatnonzero(usable) if n != best]
    lead = min((fisher[best] - fisher[n]) / np.hypot(error[best], error[n]) for n in rivals)
    found = f"photons of non-hits and pulse energies correlate by {test.correlation[here]:.3f}"
    if best == here and lead > SIGNIFICANT:
        return "ok", f"{found}, more than with any pulse up to {SHIFTS[-1]} before or after ({lead:.0f} sigma)"
    ahead = (fisher[best] - fisher[here]) / np.hypot(error[best], error[here])
    if best != here and ahead > SIGNIFICANT:
        shift = int(SHIFTS[best])
        return (
            "shifted",
            f"{found}, but by {test.correlation[best]:.3f} with the pulse {shift:+d} ({ahead:.0f} sigma): "
            f"set pulses.offset to {offset + shift} (now {offset})",
        )
    return "undecided", f"{found}; no shift by up to {SHIFTS[-1]} pulses is significantly better or worse"


def describe_status(is_hit, guard, guards, run_attributes):
    """Status and reason of the events: complete, no hits, or empty."""
    if not len(is_hit):
        return {"status": "empty", "reason": str(run_attributes.get("reason") or "the run has no kept frame")}
    if is_hit.any():
        return {"status": "complete", "reason": ""}
    if (guard != "").all():
        texts = [f"{GUARD_KEYS[name]}: {told}" for name, told in guards.items() if not told.startswith(QUIET)]
        return {"status": "no hits", "reason": "guards rejected all trains; " + "; ".join(texts)}
    return {"status": "no hits", "reason": "no frame exceeds its threshold; hits.threshold_sigma sets it"}


def _log_result(is_hit, is_miss, guard, guards, verdict, reason, status):
    log.info("%d hits of %d frames, %d misses drawn", is_hit.sum(), len(is_hit), is_miss.sum())
    for name, told in guards.items():
        if told.startswith(QUIET):
            log.info("guard %s: %s", name, told)
        else:
            log.warning("guard %s: %s; lower %s to loosen it", name, told, GUARD_KEYS[name])
    log.info("%d of %d trains are valid", (guard == "").sum(), len(guard))
    (log.warning if verdict == "shifted" else log.info)("map of pulses: %s: %s", verdict, reason)
    if status["status"] != "complete":
        log.warning("%s: %s", status["status"], status["reason"])


def _without_means(values, train, pulse):
    """Take off the mean of each train, then the mean of each pulse over the trains."""
    for label in (train, pulse):
        place = np.unique(label, return_inverse=True)[1]
        mean = np.bincount(place, weights=values) / np.bincount(place)
        values = values - mean[place]
    return values


def _over(numerator, denominator):
    """Quotient, NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)


def _require_length(path, name, values, n_frames, frames):
    if len(values) != n_frames:
        raise ValueError(
            f"{path}: {name} has {len(values)} frames, but {frames} has {n_frames}; delete {path} and run snakemake "
            "again"
        )
