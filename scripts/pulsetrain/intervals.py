"""Propose confidence intervals for the bad-cell mask from what the values of all modules are like."""

import contextlib
import textwrap
from typing import NamedTuple

import h5py
import numpy as np

from pulsetrain.bad_cells import QUANTITIES, check_files, cuts_of, is_outside, read_values, unknown_cells
from pulsetrain.detector import LAB_SHAPE
from pulsetrain.masks import sample_frames
from pulsetrain.output import write_text
from pulsetrain.progress import progress
from pulsetrain.provenance import as_text

SAMPLE_CELLS = 8  # memory cells per module that are looked at; 16 modules of them are 34 MB per quantity and stage
ONE_SIGMA = (0.1587, 0.5, 0.8413)  # quantiles of a normal distribution one standard deviation apart
DIGITS = 3

# Physical limits. A level must be three standard deviations from the threshold between the levels, or more than one in
# a thousand values lands in the wrong gain stage; more is only better. What has a scale has a sign: a value of less
# than a tenth of the median belongs to a pixel that does not respond.
LEAST_SAFETY = 3.0
LEAST_PART = 0.1
ONLY_LOW = ("digitalSpacingsSafetyFactors", "quality")


class Proposal(NamedTuple):
    """A proposed interval, and how it was found.

    Attributes
    ----------
    low, high : float
        Infinite for an open end.
    median, below, above : float
        Median of the pooled values; distances from it to the quantiles 15.87 % and 84.13 %.
    """

    low: float
    high: float
    median: float
    below: float
    above: float


def propose_intervals(
    dark, analog_gains, digital_means, photon_spacing, output, attributes, *, modules, sigmas=8.0, cells=SAMPLE_CELLS
):
    """Write proposals in the form of the configuration's key calibration.mask.intervals, with comments.

    Per quantity and gain stage: median -+ `sigmas` times the distance to the quantile of one standard deviation on that
    side, of the values of all modules together, within the physical limits above. Memory cells that cannot be
    calibrated at all are left out. Nothing is applied: the user copies what is wanted.

    Parameters
    ----------
    dark, analog_gains, digital_means, photon_spacing : list of (str or Path)
        Processed files, one per module.
    output : str or Path
        YAML.
    attributes : dict
        Provenance, written as comments.
    modules : list of int
    sigmas : float
    cells : int
        Memory cells to look at, spread evenly.
    """
    paths = zip(dark, analog_gains, digital_means, photon_spacing, strict=True)
    names = ("dark", "analog_gains", "digital_means", "photon_spacing")
    with contextlib.ExitStack() as stack:
        of_modules = [
            {name: stack.enter_context(h5py.File(path)) for name, path in zip(names, given, strict=True)}
            for given in paths
        ]
        samples = [
            sample_frames(np.arange(check_files(files, module, needs_constants=False)), cells)
            for files, module in zip(of_modules, modules, strict=True)
        ]
        left_out = [_unknown(files, chosen) for files, chosen in zip(of_modules, samples, strict=True)]
        masked = [bad.copy() for bad in left_out]
        cuts = cuts_of({})
        advance = progress(len(cuts), "quantities and gain stages")
        found = []
        for cut in cuts:
            values = [_values(files, cut, chosen) for files, chosen in zip(of_modules, samples, strict=True)]
            good = [held[~bad] for held, bad in zip(values, left_out, strict=True)]
            proposal = propose(np.concatenate(good), cut.quantity, sigmas)
            shares = []
            for held, bad, all_bad in zip(values, left_out, masked, strict=True):
                outside = is_outside(held, proposal.low, proposal.high) & ~bad
                shares.append((np.count_nonzero(outside), np.count_nonzero(~bad)))
                all_bad |= outside
            found.append((cut, proposal, np.array(shares)))
            advance(1)
    n_known = sum(np.count_nonzero(~bad) for bad in left_out)
    n_masked = sum(np.count_nonzero(bad) for bad in masked) - sum(np.count_nonzero(bad) for bad in left_out)
    text = _heading(modules, cells, sigmas, n_known, n_masked, sum(bad.size for bad in left_out))
    write_text(output, text + intervals_text(found, modules) + as_text(attributes, "#"))


def propose(values, quantity, sigmas):
    """Propose an interval.

    Parameters
    ----------
    values : ndarray of float32, (n,)
        NaN are left out.
    quantity : pulsetrain.bad_cells.Quantity
    sigmas : float

    Returns
    -------
    Proposal
        Without any value: open on both ends, the rest NaN.
    """
    values = values[np.isfinite(values)]
    if not values.size:
        return Proposal(-np.inf, np.inf, np.nan, np.nan, np.nan)
    lower, median, upper = np.quantile(values, ONE_SIGMA).astype(float)
    # Whole numbers with hardly any spread: their rounding is one.
    least = 0.5 if np.issubdtype(quantity.dtype, np.integer) else 1e-3 * abs(median)
    below, above = max(median - lower, least), max(upper - median, least)
    low = median - sigmas * below
    if median > 0:
        low = max(low, LEAST_PART * median)
    high = median + sigmas * above
    if quantity.name == "digitalSpacingsSafetyFactors":
        low = max(low, LEAST_SAFETY)
    if quantity.name in ONLY_LOW:
        high = np.inf
    return Proposal(_rounded(low, below, np.floor), _rounded(high, above, np.ceil), median, below, above)


def intervals_text(found, modules):
    """YAML of the proposals.

    Parameters
    ----------
    found : list of (Cut, Proposal, ndarray of int, (modules, 2))
        The last one: memory cells that the interval would mask, and all that were looked at.
    modules : list of int

    Returns
    -------
    str
    """
    lines = ["calibration:", "  mask:", "    intervals:"]
    for quantity in QUANTITIES:
        held = [(proposal, shares) for cut, proposal, shares in found if cut.quantity is quantity]
        if quantity.stages:
            lines.append(f"      {quantity.name}:")
        for proposal, shares in held:
            place = "        - " if quantity.stages else f"      {quantity.name}: "
            lines.append(f"{place}{_interval_text(proposal)}  # {_reason(proposal, shares, modules, quantity.units)}")
    return "\n".join(lines) + "\n"


def _unknown(files, cells):
    not_fitted = files["photon_spacing"]["fitStatus"][()] != 0
    return np.array([unknown_cells(files, not_fitted, cell) for cell in cells]).reshape(-1, *LAB_SHAPE)


def _values(files, cut, cells):
    return np.array([read_values(files, cut, cell) for cell in cells]).reshape(-1, *LAB_SHAPE)


def _rounded(value, width, to_integer):
    """Round outwards to DIGITS digits, of the width of the distribution or of the value, whichever is finer."""
    if not np.isfinite(value) or value == 0:
        return value
    size = min(abs(value), width) if width > 0 else abs(value)
    step = 10.0 ** (np.floor(np.log10(size)) - DIGITS + 2)
    return float(f"{to_integer(value / step) * step:.12g}")


def _interval_text(proposal):
    if not np.isfinite([proposal.low, proposal.high]).any():
        return "null"
    ends = (f"{end:.12g}" if np.isfinite(end) else "null" for end in (proposal.low, proposal.high))
    return f"[{', '.join(ends)}]"


def _reason(proposal, shares, modules, units):
    if np.isnan(proposal.median):
        return "no memory cell has a value"
    percent = 100 * shares[:, 0] / np.maximum(shares[:, 1], 1)
    worst = int(np.argmax(percent))
    unit = f" {units}" if units else ""
    return (
        f"median {proposal.median:.5g}, sigma -{proposal.below:.3g} +{proposal.above:.3g}{unit}; would mask "
        f"{100 * shares[:, 0].sum() / max(shares[:, 1].sum(), 1):.3f} %, most in module {modules[worst]:02d} "
        f"({percent[worst]:.3f} %)"
    )


def _heading(modules, cells, sigmas, n_known, n_masked, n_all):
    paragraphs = (
        "Proposals, not applied: look at the histograms in the report of the calibration, then copy what you want to "
        "keep into the configuration (null = not used, or as one end = open).",
        f"They are from up to {cells} memory cells of each of {len(modules)} modules, spread evenly. Left out are "
        f"{100 * (1 - n_known / max(n_all, 1)):.3f} % of them, which cannot be calibrated and are masked in any case. "
        "The percentages are of the others.",
        f"Each interval reaches from the median of all modules together {sigmas:g} times as far as the quantiles "
        "15.87 % and 84.13 % are away from it (one sigma of a normal distribution, each side by itself), rounded "
        f"outwards; but not below {LEAST_PART:g} of a positive median, nor a safety factor below {LEAST_SAFETY:g}. "
        "Where an interval masks much of one module only, the module is different, which need not be bad: look at its "
        "map.",
        f"All of them together would mask {100 * n_masked / max(n_known, 1):.3f} %.",
    )
    return "".join(textwrap.fill(text, 118, initial_indent="# ", subsequent_indent="# ") + "\n" for text in paragraphs)
