"""The repository of panel constants: which directory is valid for a panel at a time, and what its files hold.

A directory is named ``<panel id>`` (valid from the beginning) or ``<panel id>-<YYYYMMDDhhmmss>`` (valid from then on)
and is often a link to another one, such as M068. It holds g0_gain.npy, g0_offset.npy, ... g2_offset.npy.
"""

import getpass
import itertools
import os
import re
import tokenize
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pulsetrain.jungfrau import GAIN_STAGES, PANEL_SHAPE, TYPES, JungfrauError, dataset_name, raise_problems
from pulsetrain.jungfrau_datasets import time_problem

NAME = re.compile(r"(?P<panel>[0-9a-f]+-[0-9a-f]+-[0-9a-f]+)(?:-(?P<rest>.*))?")
# What numpy raises for files that are damaged or something else, such as an .npz; the last three for damaged headers.
UNREADABLE = (OSError, ValueError, EOFError, MemoryError, SyntaxError, TypeError, tokenize.TokenError)
QUANTITIES = {kind: kind.removeprefix("pixel_") for kind in TYPES}  # as in the files' names: gain, offset


class PanelDirectory(NamedTuple):
    """A directory with constants of a panel.

    `valid_from` is YYYYMMDDhhmmss, empty for the beginning; `path` where it lies, links followed; `problem` says why it
    cannot be used.
    """

    name: str
    panel_id: str
    valid_from: str
    path: str
    problem: str


def list_repository(repository):
    """List the panel directories of a repository; what is named otherwise, such as M068, is left out.

    Parameters
    ----------
    repository : str or Path

    Returns
    -------
    list of PanelDirectory
        By name.

    Raises
    ------
    JungfrauError
        If it cannot be listed.
    """
    try:
        entries = sorted(Path(repository).iterdir())
    except OSError as error:
        raise JungfrauError(
            f"the repository of panel constants {repository} cannot be listed: {error.strerror}; set "
            "jungfrau.repository to the directory that holds the panel directories"
        ) from None
    return [_entry(match, entry) for entry in entries if (match := NAME.fullmatch(entry.name))]


def _entry(match, entry):
    """One bad entry is a problem of its panel alone, whatever is wrong with it."""
    try:
        path, problem = str(entry.resolve(strict=True)), _problem(match, entry)
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, up to Python 3.12
        path, problem = str(entry), f"it cannot be followed: {error}"
        if isinstance(error, FileNotFoundError) and entry.is_symlink():
            problem = f"it is a link to {entry.readlink()}, which does not exist"
    return PanelDirectory(entry.name, match["panel"], match["rest"] or "", path, problem)


def _problem(match, entry):
    if match["rest"] is not None and (wrong := time_problem(match["rest"])):
        return f"the time stamp {match['rest']!r} at the end of its name {wrong}"
    if not entry.is_dir():
        return "it is not a directory"
    return "" if os.access(entry, os.R_OK | os.X_OK) else f"it may not be read by {getpass.getuser()}"


def choose_directories(listing, detector):
    """Choose for each panel the directory that is valid at the start of the run.

    That is the one with the latest time stamp that is not after the start; one without a time stamp is valid from the
    beginning. Nothing takes the place of a directory that is missing, not valid yet, or broken.

    Parameters
    ----------
    listing : list of PanelDirectory
        The repository.
    detector : pulsetrain.jungfrau.Detector

    Returns
    -------
    list of PanelDirectory
        In the order of the panels.

    Raises
    ------
    JungfrauError
        With the problems of all panels, each named.
    """
    require_panel_ids(detector)
    chosen, problems = [], []
    for number, panel in enumerate(detector.panel_ids):
        held = sorted((each for each in listing if each.panel_id == panel), key=lambda each: each.valid_from)
        found = _panel_problems(held, detector) if held else [_no_directory(panel, listing)]
        problems += [f"panel {number} ({panel}): {problem}" for problem in found]
        if not found:
            chosen.append([each for each in held if not each.valid_from or each.valid_from <= detector.start_time][-1])
    paths = [each.path for each in chosen]
    for path in sorted({path for path in paths if paths.count(path) > 1}):
        sharing = [f"{each.panel_id} ({each.name})" for each in chosen if each.path == path]
        problems.append(f"panels {' and '.join(sharing)} get their constants from the same directory {path}")
    raise_problems(f"no constants for {detector.source} of {dataset_name(detector)}", problems)
    return chosen


def require_panel_ids(detector):
    """Raise an error for a detector whose configuration tells no panel ids."""
    if not detector.panel_ids:
        raise JungfrauError(
            f"{detector.source} of {dataset_name(detector)}: psana.Jungfrau.ConfigV{detector.config_version} tells no "
            "panel ids, so no constants can be found for it. If you know its panels, describe them with id: and "
            "without config_version in a file of jungfrau.datasets"
        )


def _panel_problems(held, detector):
    """What keeps from choosing among the directories of one panel, which are ordered by time."""
    broken = [f"{each.name}: {each.problem}" for each in held if each.problem]
    if broken:
        return broken
    dated = [each.name for each in held if each.valid_from]
    if not dated:
        return []
    start = detector.start_time
    if start is None:
        return [f"{', '.join(dated)}: which one is valid depends on the start of the run; describe it with start_time"]
    later = [each.name for each in held if each.valid_from > start]
    if later and not detector.start_is_exact:
        return [
            f"the run began at {start} or later, and {', '.join(later)} may be valid by then; describe run "
            f"{detector.run} by itself, with its own start_time"
        ]
    if len(later) == len(held):
        return [
            f"no constants are valid at the start of the run, {start}; there are only later ones: {', '.join(later)}"
        ]
    return []


def _no_directory(panel, listing):
    serial = panel.split("-")[-1]
    same = [each.name for each in listing if each.panel_id.split("-")[-1] == serial]
    more = f"; the same serial number have {', '.join(same)}" if same else ""
    return f"the repository has no directory of it{more}. Ask the detector group for its constants"


def unusable_directories(listing, panel_ids=()):
    """Say which directories of other panels cannot be used, and why.

    Parameters
    ----------
    listing : list of PanelDirectory
    panel_ids : collection of str
        Panels that are not asked for here.

    Returns
    -------
    list of str
    """
    return [f"{each.name}: {each.problem}" for each in listing if each.problem and each.panel_id not in panel_ids]


def constants_files(directories):
    """List the files of some panel directories.

    Parameters
    ----------
    directories : list of PanelDirectory

    Returns
    -------
    list of str
        For each panel g0_gain.npy, g1_gain.npy, g2_gain.npy, g0_offset.npy, ...

    Raises
    ------
    JungfrauError
        With all that are missing.
    """
    paths, problems = [], []
    for directory in directories:
        for name in file_names():
            path = Path(directory.path) / name
            paths.append(str(path))
            if not path.is_file():
                other = path.with_name(name.replace("_", "-"))
                hint = f"; {other.name} is there, whose name lacks the underscore" if other.exists() else ""
                problems.append(f"panel {directory.panel_id}: {path} does not exist{hint}")
    raise_problems("files with panel constants are missing", problems)
    return paths


def file_names():
    """Names of the files in a panel directory, by quantity and gain stage."""
    return [f"g{stage}_{quantity}.npy" for quantity in QUANTITIES.values() for stage in range(GAIN_STAGES)]


def merge_panels(panel_ids, paths):
    """Read the constants of all panels into arrays of the whole detector.

    Parameters
    ----------
    panel_ids : sequence of str
        P panels, in the detector's order.
    paths : list of str
        Their files, as :func:`constants_files` gives them.

    Returns
    -------
    dict
        {``pixel_gain`` [ADU/keV], ``pixel_offset`` [ADU]: float32 (3, P, 512, 1024), (gain stage, panel, row, column)}

    Raises
    ------
    JungfrauError
        With all that is wrong in all files.
    """
    shape = (GAIN_STAGES, len(panel_ids), *PANEL_SHAPE)
    constants = {kind: np.empty(shape, np.float32) for kind in TYPES}
    problems = []
    remaining = iter(paths)
    for number, panel in enumerate(panel_ids):
        for kind in TYPES:
            for stage in range(GAIN_STAGES):
                path = next(remaining)
                values, found = _read_panel_file(path, kind)
                problems += [f"panel {number} ({panel}): {path}: {problem}" for problem in found]
                if not found:
                    constants[kind][stage, number] = values
    if not problems:
        problems = _shared_constants(constants, panel_ids, paths)
    raise_problems("panel constants are not usable", problems)
    return constants


def _shared_constants(constants, panel_ids, paths):
    """Find panels with the same numbers, which were copied or linked: each panel is measured by itself."""
    names, problems = file_names(), []
    for one, other in itertools.combinations(range(len(panel_ids)), 2):
        shared = [
            index
            for index, (kind, stage) in enumerate(itertools.product(TYPES, range(GAIN_STAGES)))
            # An offset of 0 in all pixels is none, and may be that of several panels.
            if constants[kind][stage, one].any() and np.array_equal(*constants[kind][stage, [one, other]])
        ]
        if shared:
            where = [Path(paths[number * len(names)]).parent for number in (one, other)]
            problems.append(
                f"panels {one} ({panel_ids[one]}) and {other} ({panel_ids[other]}) have the same numbers in "
                f"{', '.join(names[index] for index in shared)} of {where[0]} and {where[1]}; each panel needs its "
                "own. Ask the detector group which panel these are of"
            )
    return problems


def _read_panel_file(path, kind):
    try:
        with Path(path).open("rb") as file:
            values = np.lib.format.read_array(file, allow_pickle=False)
    except UNREADABLE as error:
        return None, [f"it cannot be read as .npy: {error}"]
    problems = array_problems(values, kind)
    with np.errstate(over="ignore"):
        if not problems and not np.array_equal(values.astype(np.float32), values):
            problems = [
                f"its values ({values.dtype}) are no float32 numbers; storing them as float32 would change them"
            ]
    return values, problems


def array_problems(values, kind):
    """Find what is wrong with the constants of one panel and gain stage.

    Parameters
    ----------
    values : ndarray
        Expected: floating point, (512, 1024), finite, gains not 0. The sign is free: two of three gains are negative.
    kind : str
        ``pixel_gain`` or ``pixel_offset``.

    Returns
    -------
    list of str
    """
    if values.dtype.kind != "f" or values.shape != PANEL_SHAPE:
        return [f"holds {values.dtype} of shape {values.shape}; expected float32 of shape {PANEL_SHAPE}"]
    problems = []
    lost = np.count_nonzero(~np.isfinite(values))
    if lost:
        problems.append(f"{_pixels(lost)} not finite, the first in {_first(~np.isfinite(values))}")
    if kind == "pixel_gain" and (zero := np.count_nonzero(values == 0)):
        problems.append(f"{_pixels(zero, 'have')} the gain 0, the first in {_first(values == 0)}")
    return problems


def _pixels(count, verb="are"):
    singular = {"are": "is", "have": "has"}[verb]
    return f"{count} pixel {singular}" if count == 1 else f"{count} pixels {verb}"


def _first(which):
    row, column = np.argwhere(which)[0]
    return f"row {row}, column {column}"
