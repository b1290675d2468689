"""What the kind of a run in the run table means: the detector files that it needs, and what is made of it."""

import re
from typing import NamedTuple

from pulsetrain.dssc_config import scan_runs


class DetectorFiles(NamedTuple):
    """Files of one detector: ``<directory>/r0050/...-<aggregator><number>-S00000.h5``."""

    aggregator: str
    directory: str
    numbers: list


def detector_files(run, runs, config):
    """Detector files that a run needs before it can be processed.

    Parameters
    ----------
    run : str
        Four digits.
    runs : dict
        Rows of the run table.
    config : dict
        Complete configuration.

    Returns
    -------
    list of DetectorFiles
        That of the modules first.
    """
    kind, stream = runs[run]["kind"], runs[run]["stream"]
    if kind == "dssc":
        return [DetectorFiles("DSSC", stream, sorted(config["dssc"]["modules"]))]
    modules = DetectorFiles("AGIPD", stream, sorted(config["detector"]["modules"]))
    # The frames of the ePix are taken as they were recorded, whatever the stream.
    return [modules, DetectorFiles("EPIX", "raw", sorted(config["mid"]["epix"]))] if kind == "mid" else [modules]


def run_targets(run, runs, config):
    """Targets of a run, each of which asks for all that is made on the way.

    Parameters
    ----------
    run, runs, config
        As for :func:`detector_files`.

    Returns
    -------
    list of str
    """
    if runs[run]["kind"] == "mid":
        return [f"report/mid_r{run}.html"]
    if runs[run]["kind"] == "dssc":
        dssc = config["dssc"]
        return [f"report/dssc_r{run}_by-{scan}.html" for scan in dssc["scans"] if run in scan_runs(dssc, runs, scan)]
    return [f"r{run}_hits.cxi"]


def run_of(wildcards):
    """Run that a job is for, four digits, by its wildcards; None for one that is for no run or for several."""
    name = wildcards.get("name", "")
    return wildcards.get("run") or (name[1:] if re.fullmatch(r"r\d{4}", name) else None)
