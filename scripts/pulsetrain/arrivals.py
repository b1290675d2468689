"""Which runs have arrived: the files of a run as they lie on disk, and whether they are all there and at rest."""

import hashlib
import json
import os
import re
from pathlib import Path

import yaml

from pulsetrain import config as settings_of
from pulsetrain.run_kinds import detector_files

RUN_FILE = re.compile(r"^(?:RAW|CORR)-R(\d{4})-([A-Z]+)(\d\d)-S(\d{5})\.h5$")


def run_files(data_root, run, stream):
    """Files of a run with their sizes.

    Parameters
    ----------
    data_root : str or Path
        Directory of the proposal.
    run : str
        Four digits.
    stream : str
        ``proc`` or ``raw``: where the detector's files lie; those of all others are in ``raw`` or ``proc``.

    Returns
    -------
    dict
        {``proc/r0050/name``: size [bytes]}, sorted; without a directory or a file that vanishes meanwhile.
    """
    files = {}
    for name in ("proc", "raw"):
        try:
            entries = list(os.scandir(Path(data_root) / name / f"r{run}"))
        except FileNotFoundError:
            continue
        for entry in entries:
            match = RUN_FILE.match(entry.name)
            # A proc run does not wait for the detector's raw files, which may be copied for days.
            if match and (name == stream or match[2] != "AGIPD"):
                try:
                    files[f"{name}/r{run}/{entry.name}"] = entry.stat().st_size
                except FileNotFoundError:
                    continue
    return dict(sorted(files.items()))


def module_sizes(files, detector):
    """Bytes of each module (or camera) of a detector.

    Parameters
    ----------
    files : dict
        As :func:`run_files` gives it.
    detector : pulsetrain.run_kinds.DetectorFiles

    Returns
    -------
    dict
        {module number: {sequence number: bytes}}; also of modules that are not in use.
    """
    sizes = {}
    for path, size in files.items():
        match = RUN_FILE.match(path.rsplit("/", 1)[-1])
        if path.startswith(f"{detector.directory}/") and match[2] == detector.aggregator:
            sizes.setdefault(int(match[3]), {})[int(match[4])] = size
    return sizes


def what_is_missing(files, detectors):
    """Say what a run still lacks; an empty text if all modules of a detector have the same sequence numbers 0 to n.

    Parameters
    ----------
    files : dict
        As :func:`run_files` gives it.
    detectors : list of pulsetrain.run_kinds.DetectorFiles

    Returns
    -------
    str
    """
    lacking = next(filter(None, (_what_is_missing(files, detector) for detector in detectors)), "")
    empty = [path for path, size in files.items() if size == 0]
    return lacking or (f"contents of {empty[0]} (0 bytes)" if empty else "")


def _what_is_missing(files, detector):
    sizes = module_sizes(files, detector)
    held = {module: set(sizes.get(module, {})) for module in detector.numbers}
    if held and not any(held.values()):
        return f"no {detector.aggregator} files in {detector.directory}"
    wanted = set(range(max(set().union(*held.values()), default=-1) + 1))
    lacking = {module: sorted(wanted - numbers) for module, numbers in held.items() if numbers != wanted}
    if not lacking:
        return ""
    count = sum(map(len, lacking.values()))
    module, numbers = next(iter(lacking.items()))
    example = f"{detector.aggregator}{module:02d} S{numbers[0]:05d}"
    total = len(wanted) * len(held)
    return f"{count} of {total} detector files, such as {example} (modules {short_list(lacking)})"


def short_list(names, most=4):
    """Names in one text, the first few only."""
    names = [f"{name:02d}" if isinstance(name, int) else str(name) for name in names]
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def signature(files):
    """Short hash of a run's file names and sizes; another one means that the run's files changed."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:16]


def look(data_root, runs, config):
    """Look at the files of all runs of the table.

    Parameters
    ----------
    data_root : str or Path
    runs : dict
        {run: row}, as :func:`pulsetrain.config.read_run_table` gives it.
    config : dict
        Complete configuration.

    Returns
    -------
    dict
        {run: {"signature": str, "missing": str, "bytes": int}}
    """
    seen = {}
    for run, row in runs.items():
        files = run_files(data_root, run, row["stream"])
        missing = what_is_missing(files, detector_files(run, runs, config))
        seen[run] = {"signature": signature(files), "missing": missing, "bytes": sum(files.values())}
    return seen


def sort_runs(before, now, known):
    """Decide what to do with each run after two looks.

    Parameters
    ----------
    before, now : dict
        Of :func:`look`, some time apart.
    known : dict
        {run: {"signature": str, "status": str}} of runs that were processed.

    Returns
    -------
    dict
        {run: (what, why)}; `what` is ``start``, ``wait``, ``done`` or ``failed``.
    """
    verdicts = {}
    for run, seen in now.items():
        past = known.get(run)
        if past and past["signature"] == seen["signature"]:
            verdicts[run] = ("done" if past["status"] in ("done", "partial") else "failed", past["status"])
        elif seen["missing"]:
            verdicts[run] = ("wait", f"missing: {seen['missing']}")
        elif run not in before or before[run]["signature"] != seen["signature"]:
            verdicts[run] = ("wait", "all files are there; looking whether they still grow")
        else:
            verdicts[run] = ("start", "its files changed" if past else "complete")
    return verdicts


def read_settings(basedir, configfiles=()):
    """Read the configuration and the run table as the workflow does.

    Parameters
    ----------
    basedir : str or Path
        The checkout; relative paths of the configuration count from it.
    configfiles : sequence of str
        Given on the command line; they go over config/config.yaml.

    Returns
    -------
    dict
        ``config`` (complete), ``data_root``, ``scratch``, ``run_table`` (paths), ``runs`` ({run: row}).
    """
    basedir = Path(basedir)
    config = read_config(basedir, configfiles)
    paths = {name: (basedir / Path(config[name]).expanduser()).absolute() for name in ("data_root", "scratch", "runs")}
    schema = basedir / "config" / "schemas" / "runs.schema.yaml"
    runs = settings_of.read_run_table(paths["runs"], schema, sorted(config["calibrations"]))
    return {
        "config": config,
        "data_root": paths["data_root"],
        "scratch": paths["scratch"],
        "run_table": paths["runs"],
        "runs": runs,
    }


def read_config(basedir, configfiles=()):
    """Read the configuration as the workflow does.

    Parameters
    ----------
    basedir : str or Path
        The checkout.
    configfiles : sequence of str
        Given on the command line; they go over config/config.yaml.

    Returns
    -------
    dict
        Complete.

    Raises
    ------
    pulsetrain.config.ConfigError
    """
    basedir = Path(basedir)
    config = {}
    for path in [basedir / "config" / "config.yaml", *configfiles]:
        config = _updated(config, _read_file(path))
    schema = basedir / "config" / "schemas" / "config.schema.yaml"
    return settings_of.complete_config(config, schema, "the configuration")


def _read_file(path):
    """One file of the configuration; also one that somebody edits just now, whose errors a watch waits for."""
    try:
        values = settings_of.read_schema(path)
    except OSError as error:
        raise settings_of.ConfigError(
            f"the configuration {path} cannot be read: {error.strerror}; correct its name (--configfile)"
        ) from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: no UTF-8, a date that is none
        raise settings_of.ConfigError(f"the configuration {path} cannot be read as YAML: {error}") from None
    if not isinstance(values, dict | None):
        raise settings_of.ConfigError(
            f"the configuration {path} holds a {type(values).__name__}; expected lines such as `data_root: demo/data`"
        )
    return values or {}


def _updated(config, given):
    """Put values over others, key by key also in sections, as snakemake does with several files."""
    merged = dict(config)
    for key, value in given.items():
        is_section = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _updated(merged[key], value) if is_section else value
    return merged
