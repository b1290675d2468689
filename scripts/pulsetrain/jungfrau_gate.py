"""The gate before constants of a Jungfrau are deployed: are they whole, of the right panels, and plausible?"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pulsetrain.jungfrau import GAIN_STAGES, LAST_RUN, PANEL_SHAPE, TYPES, JungfrauError
from pulsetrain.jungfrau_files import panel_lines, read_text_array
from pulsetrain.jungfrau_panels import array_problems

CALIB_VERSION = "Jungfrau::CalibV1"
DEPLOYED = re.compile(r"(?P<first>\d+)-(?P<last>\d+|end)\.data")


class Limits(NamedTuple):
    """Which change against the deployed constants is implausible; keys of ``jungfrau.gate``.

    A pixel counts as changed if its gain differs by more than `max_gain_change` (relative), or its offset by more than
    `max_offset_change` [ADU]. No panel and gain stage may have a larger fraction of them than `max_changed`.
    """

    max_gain_change: float
    max_offset_change: float
    max_changed: float


class Change(NamedTuple):
    """Change of the constants of one panel and gain stage: fraction of changed pixels, and the median change."""

    kind: str
    panel: int
    stage: int
    changed: float
    median: float


def experiment_directory(root, detector):
    """Directory of the experiment, ``<root>/XCS/xcsls3716``: its first three letters are the instrument."""
    return Path(root) / detector.exp[:3].upper() / detector.exp


def calib_directory(root, detector, kind):
    """Directory of the experiment where constants of a type are deployed.

    Parameters
    ----------
    root : str or Path
        ``/reg/d/psdm``.
    detector : pulsetrain.jungfrau.Detector
    kind : str

    Returns
    -------
    Path
        ``<root>/XCS/xcsls3716/calib/Jungfrau::CalibV1/XcsEndstation.0:Jungfrau.0/pixel_gain``
    """
    return experiment_directory(root, detector) / "calib" / CALIB_VERSION / detector.source / kind


def find_deployed(directory, run):
    """Find the file that is in force for a run: that which begins last, of those whose runs hold it.

    Parameters
    ----------
    directory : str or Path
    run : int

    Returns
    -------
    Path
        None if there is none.
    """
    paths = Path(directory).iterdir() if Path(directory).is_dir() else []
    return file_in_force(paths, run)


def file_in_force(paths, run):
    """As :func:`find_deployed`, of given files. Of those that begin with the same run, the one that ends first."""
    held = []
    for path in paths:
        match = DEPLOYED.fullmatch(path.name)
        if match:
            last = LAST_RUN if match["last"] == "end" else int(match["last"])
            if int(match["first"]) <= run <= last:
                held.append((int(match["first"]), -last, path))
    return max(held)[-1] if held else None


def gate_problems(detector, panel_ids, constants, deployed, limits):
    """Find everything that speaks against deploying constants.

    Parameters
    ----------
    detector : pulsetrain.jungfrau.Detector
        What the constants shall be for.
    panel_ids : sequence of str
        What they are of.
    constants : dict
        {type: (3, P, 512, 1024)}
    deployed : dict
        {type: file in force, or None}
    limits : Limits

    Returns
    -------
    list of str
        Each names the panel.
    """
    problems = _order_problems(detector.panel_ids, panel_ids)
    for kind in TYPES:
        found = _constants_problems(kind, constants.get(kind), panel_ids)
        if not found and deployed.get(kind) is not None:
            found = _deployed_problems(kind, constants[kind], panel_ids, deployed[kind], limits)
        problems += found
    return problems


def changes(kind, new, old, limits):
    """Compare constants with those in force.

    Parameters
    ----------
    kind : str
        ``pixel_gain`` or ``pixel_offset``.
    new, old : ndarray, (3, P, 512, 1024)
    limits : Limits

    Returns
    -------
    list of Change
        By panel and gain stage.
    """
    found = []
    for panel in range(new.shape[1]):
        for stage in range(GAIN_STAGES):
            change = pixel_changes(kind, new[stage, panel], old[stage, panel])
            limit = limits.max_gain_change if kind == "pixel_gain" else limits.max_offset_change
            # What cannot be compared (old values not finite, gain 0) counts as changed.
            known = change[np.isfinite(change)]
            changed = 1 - np.count_nonzero(np.abs(known) <= limit) / change.size
            found.append(Change(kind, panel, stage, changed, float(np.median(known)) if known.size else np.nan))
    return found


def pixel_changes(kind, new, old):
    """Relative change of gains, change of offsets [ADU], per pixel (512, 1024)."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        difference = new.astype(np.float64) - old
        return difference / old if kind == "pixel_gain" else difference


def change_text(change):
    """Median change in words: ``+2.1 %`` for a gain, ``+12.5 ADU`` for an offset."""
    return f"{100 * change.median:+.3g} %" if change.kind == "pixel_gain" else f"{change.median:+.4g} ADU"


def _order_problems(wanted, found):
    problems = [f"panel {panel} is missing in the constants" for panel in wanted if panel not in found]
    problems += [f"panel {panel} is not of this detector" for panel in dict.fromkeys(found) if panel not in wanted]
    twice = [panel for panel in dict.fromkeys(found) if list(found).count(panel) > 1]
    problems += [f"panel {panel} is in the constants {list(found).count(panel)} times" for panel in twice]
    if not problems and list(found) != list(wanted):
        problems += [
            f"panel {panel} is number {number} in the constants; in the detector number {list(wanted).index(panel)}"
            for number, panel in enumerate(found)
            if wanted[number] != panel
        ]
    return problems


def _constants_problems(kind, values, panel_ids):
    shape = (GAIN_STAGES, len(panel_ids), *PANEL_SHAPE)
    if values is None:
        return [f"{kind} is missing"]
    if values.dtype != np.float32 or values.shape != shape:
        return [
            f"{kind} is {values.dtype} of shape {values.shape}; expected float32 of shape {shape} for the panels "
            f"{', '.join(panel_ids)}"
        ]
    return [
        f"{kind}, panel {panel} ({panel_ids[panel]}), gain stage {stage}: {problem}"
        for panel in range(len(panel_ids))
        for stage in range(GAIN_STAGES)
        for problem in array_problems(values[stage, panel], kind)
    ]


def panels_problem(kind, panel_ids, path, limits):
    """Compare panels with those of the file in force, which tells them unless the older program wrote it.

    Other panels may be put in where a change is meant; that known ones change places is a mistake in any case.

    Parameters
    ----------
    kind : str
    panel_ids : sequence of str
        Of the new constants.
    path : Path
        The file in force.
    limits : Limits

    Returns
    -------
    str
        What is wrong; empty if nothing is, or if the file does not tell.
    """
    try:
        before = [panel for panel, _, _ in panel_lines(path)]
    except (JungfrauError, OSError):
        return ""  # That it cannot be read is told where the numbers are compared.
    if not before or before == list(panel_ids):
        return ""
    told = (
        f"{kind}: {path}, which is in force, is of the panels {', '.join(before)}; these constants of "
        f"{', '.join(panel_ids)}. Check the panels in the file of jungfrau.datasets"
    )
    old, new = [panel for panel in before if panel in panel_ids], [panel for panel in panel_ids if panel in before]
    if old != new:
        return (
            f"{told}: the same panels are in another order. If the file in force is wrong, remove it: "
            f"rm {shlex.quote(str(path))}"
        )
    if limits.max_changed >= 1:
        return ""
    return f"{told}. If panels were really exchanged, set jungfrau.gate.max_changed to 1 for this call"


def _deployed_problems(kind, new, panel_ids, path, limits):
    """Other panels or implausible jumps against the file in force, and a line that says what was compared with what."""
    if problem := panels_problem(kind, panel_ids, path, limits):
        return [problem]
    if limits.max_changed >= 1:
        return []
    try:
        old = read_comparable(path, new.shape)
        problems = [
            _jump(change, panel_ids[change.panel])
            for change in changes(kind, new, old, limits)
            if change.changed > limits.max_changed
        ]
    except JungfrauError as error:
        problems = [f"{kind} of the panels {', '.join(panel_ids)}: {error}"]
    if problems:
        problems.append(
            f"{kind} was compared with {path}, which is in force; {limits_text(kind, limits)}. If the change is meant, "
            "set jungfrau.gate.max_changed to 1 for this call"
        )
    return problems


def read_comparable(path, shape):
    """Read deployed constants that others are to be compared with.

    Parameters
    ----------
    path : str or Path
    shape : tuple of int
        Of the others.

    Returns
    -------
    ndarray of float32

    Raises
    ------
    JungfrauError
        If they cannot be read or compared.
    """
    try:
        old = read_text_array(path)
    except OSError as error:
        raise JungfrauError(f"the deployed constants cannot be read: {error}") from None
    except JungfrauError as error:
        raise JungfrauError(f"the deployed constants are damaged: {error}") from None
    if old.shape != shape:
        raise JungfrauError(f"the deployed constants have shape {old.shape}; these have {shape}")
    return old


def limits_text(kind, limits):
    """What the gate allows, in words."""
    allowed = f"{100 * limits.max_gain_change:g} %" if kind == "pixel_gain" else f"{limits.max_offset_change:g} ADU"
    return f"jungfrau.gate allows changes of {allowed}, larger ones in {100 * limits.max_changed:g} % of the pixels"


def _jump(change, panel):
    return (
        f"{change.kind}, panel {change.panel} ({panel}), gain stage {change.stage}: {100 * change.changed:.3g} % of "
        f"the pixels jump, median change {change_text(change)}"
    )
