"""Which Jungfraus a run has: descriptions that were exported once, as YAML or HDF5, so that psana is not needed."""

import difflib
import re
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np
import yaml

from pulsetrain.config import ConfigError, complete_config
from pulsetrain.jungfrau import (
    FIELDS,
    FIRST_CONFIG_WITH_IDS,
    LAST_RUN,
    Detector,
    JungfrauError,
    panel_id,
    raise_problems,
    slug,
    split_detector_id,
)
from pulsetrain.provenance import SCRIPTS

SCHEMA = SCRIPTS.parent / "config" / "schemas" / "jungfrau_datasets.schema.yaml"
TIME_FORMAT = "%Y%m%d%H%M%S"
TIME_LENGTH = 14
SHOWN = 6
PLAIN_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+")


class Description(NamedTuple):
    """A Jungfrau in the runs `first` to `last`; `start_time` is that of the first, `where` says where it was read."""

    exp: str
    first: int
    last: int
    source: str
    alias: str | None
    config_version: int | None
    panel_ids: tuple[str, ...]
    start_time: str | None
    where: str


def resolve_settings(config, basedir):
    """Give the section `jungfrau` of a configuration with full paths; relative ones count from the checkout.

    Parameters
    ----------
    config : dict
        The whole configuration, complete.
    basedir : str or Path
        The checkout.

    Returns
    -------
    dict
        As in the configuration; ``datasets`` is always a list.
    """
    given = dict(config["jungfrau"])
    given["datasets"] = given["datasets"] if isinstance(given["datasets"], list) else [given["datasets"]]
    full = {name: str(_absolute(given[name], basedir)) for name in ("repository", "calib", "upload_repository")}
    return given | full | {"datasets": [str(_absolute(path, basedir)) for path in given["datasets"]]}


def _absolute(path, basedir):
    return (Path(basedir) / Path(path).expanduser()).absolute()


def read_datasets(paths):
    """Read the descriptions of detectors.

    Parameters
    ----------
    paths : list of str or Path
        YAML (``datasets:``, a list) or HDF5 (``/jungfrau/<source>/panels``); docs/jungfrau.md has both.

    Returns
    -------
    list of Description

    Raises
    ------
    JungfrauError
        With every problem of a file.
    """
    found = []
    for path in map(Path, paths):
        if not path.is_file():
            raise JungfrauError(f"the file of detector descriptions {path} does not exist; correct jungfrau.datasets")
        try:
            found += _read_hdf5(path) if h5py.is_hdf5(path) else _read_yaml(path)
        except OSError as error:
            raise JungfrauError(
                f"{path} cannot be read: {error}. Copy it again, or correct jungfrau.datasets"
            ) from error
    return found


def describe(values, where):
    """Check what stands in a file and turn it into descriptions.

    Parameters
    ----------
    values : dict
        ``datasets``: list of dict, as the schema has them.
    where : str
        The file, for messages.

    Returns
    -------
    list of Description

    Raises
    ------
    JungfrauError
    """
    try:
        entries = complete_config(values, SCHEMA, where)["datasets"]
    except ConfigError as error:
        raise JungfrauError(str(error)) from None
    described, problems = [], []
    for number, entry in enumerate(entries):
        place = f"{where}, data set {number + 1} ({entry['exp']}, {entry['source']})"
        try:
            described.append(_describe(entry, place))
        except JungfrauError as error:
            problems.append(f"{place}: {error}")
    raise_problems(f"{where} is not usable", problems)
    return described


def find_detector(descriptions, exp, run, pattern=None):
    """Find the one Jungfrau of a run that a name fits.

    Parameters
    ----------
    descriptions : list of Description
    exp : str
    run : int
    pattern : str, optional
        Source, part of it, or alias. Needed if the run has several.

    Returns
    -------
    Detector

    Raises
    ------
    JungfrauError
        If there is none, or not one alone; it names those that there are.
    """
    of_run = _descriptions_of_run(descriptions, exp, run)
    sources = sorted({each.source for each in of_run})
    chosen = sources if pattern is None else _matching(of_run, pattern)
    if not chosen:
        raise JungfrauError(
            f"exp={exp}:run={run} has no Jungfrau whose name contains {pattern!r}; it has {', '.join(sources)}"
        )
    if len(chosen) > 1:
        raise JungfrauError(
            f"exp={exp}:run={run} has {len(chosen)} Jungfraus"
            + (f" whose names contain {pattern!r}" if pattern else "")
            + f": {', '.join(chosen)}; say which one with its name or a part of it (option -s, or second argument of "
            "jungfrau_id)"
        )
    held = [each for each in of_run if each.source == chosen[0]]
    # What was written down for this run alone says more than what holds for many.
    alone = [each for each in held if each.first == each.last]
    held = alone or held
    if len(held) > 1:
        raise JungfrauError(
            f"exp={exp}:run={run} is described more than once: {'; '.join(each.where for each in held)}. Keep one"
        )
    (one,) = held
    return Detector(
        exp, run, one.source, one.config_version, one.panel_ids, one.start_time, start_is_exact=run == one.first
    )


def _read_yaml(path):
    try:
        text = path.read_text(encoding="utf-8")
        problems = dict.fromkeys(_silent_changes(yaml.compose(text, yaml.SafeLoader)))
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: a date that is none, no UTF-8
        raise JungfrauError(f"{path} cannot be read as YAML: {error}") from error
    raise_problems(f"{path} is not usable", problems)
    return describe(values if isinstance(values, dict) else {}, str(path))


def _silent_changes(node):
    """Find what YAML takes without a word for something else: keys that are repeated, numbers of another base.

    Of a repeated key, such as `datasets` in files put together, the last one alone would count. Run 0631 would
    be 409, and 1:30 would be 90.
    """
    if isinstance(node, yaml.ScalarNode):
        if node.tag == "tag:yaml.org,2002:int" and not PLAIN_NUMBER.fullmatch(node.value):
            yield f"{_line(node)}: {node.value} is no plain number; write it without leading zeros, _ or :"
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _silent_changes(value)
    elif isinstance(node, yaml.MappingNode):
        first = {}
        for key, value in node.value:
            if first.setdefault(str(key.value), key) is not key:
                yield f"{_line(key)}: the key {key.value} is there already in {_line(first[str(key.value)])}; keep one"
            yield from _silent_changes(value)


def _line(node):
    return f"line {node.start_mark.line + 1}"


def _read_hdf5(path):
    """One run of one experiment per file: attributes exp, run and start_time of the group /jungfrau."""
    with h5py.File(path) as file:
        group = file.get("jungfrau")
        if not isinstance(group, h5py.Group) or not {"exp", "run"} <= set(group.attrs):
            raise JungfrauError(f"{path} has no group /jungfrau with attributes exp and run; docs/jungfrau.md has both")
        common = {"exp": _text(group.attrs["exp"]), "run": _whole_number(path, group, "run")}
        if "start_time" in group.attrs:
            common["start_time"] = _text(group.attrs["start_time"])
        entries = [common | _hdf5_source(path, source, held) for source, held in group.items()]
    return describe({"datasets": entries}, str(path))


def _hdf5_source(path, source, held):
    """One detector, a group of /jungfrau, as an entry of a YAML file."""
    if not isinstance(held, h5py.Group):
        raise JungfrauError(f"{path}: /jungfrau/{source} is no group; expected one that holds panels")
    entry = {"source": source}
    if "config_version" in held.attrs:
        entry["config_version"] = _whole_number(path, held, "config_version")
    if "alias" in held.attrs:
        entry["alias"] = _text(held.attrs["alias"])
    if "panels" in held:
        panels = held.get("panels")
        name = f"{path}: /jungfrau/{source}/panels"
        if not isinstance(panels, h5py.Dataset) or panels.ndim != 1:
            found = f"has shape {panels.shape}" if isinstance(panels, h5py.Dataset) else "is no dataset"
            raise JungfrauError(f"{name} {found}; expected a dataset with one row per panel")
        if panels.dtype.names != FIELDS:
            raise JungfrauError(f"{name} has the fields {panels.dtype.names}; expected {FIELDS}")
        entry["panels"] = [dict(zip(FIELDS, row.tolist(), strict=True)) for row in panels[()]]
    return entry


def _whole_number(path, group, name):
    """An attribute that must be one whole number; an array of one is taken as such."""
    value = np.asarray(group.attrs[name])
    if value.size != 1 or value.dtype.kind not in "iu":
        raise JungfrauError(
            f"{path}: the attribute {name} of {group.name} is {group.attrs[name]!r}; expected a whole number"
        )
    return int(value.item())


def _text(value):
    return value.decode() if isinstance(value, bytes) else str(value)


def _describe(entry, place):
    if ("run" in entry) == ("runs" in entry):
        raise JungfrauError("give either run (631) or runs (1-631)")
    first, last = (entry["run"],) * 2 if "run" in entry else map(int, entry["runs"].split("-"))
    if not 1 <= first <= last <= LAST_RUN:
        raise JungfrauError(f"runs {first} to {last}; expected increasing numbers from 1 to {LAST_RUN}")
    version = entry.get("config_version")
    return Description(
        exp=entry["exp"],
        first=first,
        last=last,
        source=entry["source"],
        alias=entry.get("alias"),
        config_version=version,
        panel_ids=_panel_ids(entry, version),
        start_time=_start_time(entry.get("start_time")),
        where=place,
    )


def _panel_ids(entry, version):
    given = [name for name in ("panels", "id") if name in entry]
    if version is not None and version < FIRST_CONFIG_WITH_IDS:
        if given:
            raise JungfrauError(f"config_version {version} tells no panel ids, but {given[0]} is given; correct one")
        return ()
    if len(given) != 1:
        raise JungfrauError("give either panels (three numbers each) or id (or config_version 1 or 2, which have none)")
    if "id" in entry:
        panel_ids = split_detector_id(entry["id"])
    else:
        panel_ids = tuple(_numbered_id(number, panel) for number, panel in enumerate(entry["panels"]))
    twice = sorted({name for name in panel_ids if panel_ids.count(name) > 1})
    if twice:
        raise JungfrauError(f"panel {', '.join(twice)} is there more than once; each panel has an id of its own")
    return panel_ids


def _numbered_id(number, panel):
    try:
        return panel_id(*(panel[name] for name in FIELDS))
    except JungfrauError as error:
        raise JungfrauError(f"panel {number}: {error}") from None


def _start_time(value):
    if value is None:
        return None
    text = str(value)
    problem = time_problem(text)
    if problem:
        raise JungfrauError(f"start_time {text} {problem}")
    return text


def time_problem(text):
    """Say what is wrong with a time stamp; an empty text if it is YYYYMMDDhhmmss."""
    if len(text) != TIME_LENGTH or not (text.isascii() and text.isdigit()):
        return f"has {len(text)} characters; expected YYYYMMDDhhmmss, {TIME_LENGTH} digits"
    try:
        datetime.strptime(text, TIME_FORMAT)
    except ValueError:
        return "is no date and time; expected YYYYMMDDhhmmss"
    return ""


def _descriptions_of_run(descriptions, exp, run):
    of_exp = [each for each in descriptions if each.exp == exp]
    if not of_exp:
        known = sorted({each.exp for each in descriptions})
        near = difflib.get_close_matches(exp, known, n=3) or known[:SHOWN]
        raise JungfrauError(
            f"no detector of experiment {exp} is described"
            + (f"; the nearest are {', '.join(near)}" if near else "")
            + ". Add a data set to a file of jungfrau.datasets; docs/jungfrau.md tells how"
        )
    found = [each for each in of_exp if each.first <= run <= each.last]
    if not found:
        known = sorted(
            {(each.first, each.last) for each in of_exp}, key=lambda span: min(abs(run - end) for end in span)
        )
        spans = [str(first) if first == last else f"{first}-{last}" for first, last in known[:SHOWN]]
        raise JungfrauError(
            f"no detector of run {run} of {exp} is described; the nearest runs are {', '.join(spans)}. Add a data set "
            "to a file of jungfrau.datasets; docs/jungfrau.md tells how"
        )
    return found


def _matching(descriptions, pattern):
    """Sources that a pattern fits: those that it names in full, else those that it is a part of."""
    whole = {
        each.source
        for each in descriptions
        if pattern in (each.source, slug(each.source), each.source.split(":")[-1], each.alias)
    }
    part = {each.source for each in descriptions if pattern in each.source or pattern in slug(each.source)}
    return sorted(whole or part)
