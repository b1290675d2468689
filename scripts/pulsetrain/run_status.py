"""What became of each run: done, partial, failed or waiting, with the reason; told in a short table."""

import csv
import io
import json
import re
import time
from pathlib import Path

import h5py
import numpy as np

from pulsetrain.integrity import finding_lines
from pulsetrain.output import write_text

COLUMNS = ("run", "status", "hits", "frames_used", "frames_left_out", "rule", "log", "why", "ended")
LINES_OF_LOG = 6
ERROR_LINE = re.compile(r"^[A-Za-z_][\w.]*(Error|Exception|Interrupt|Warning|Exit)\b")


def describe_run(scratch, run, kind, jobs, scans=()):
    """Tell what became of a run in one call of snakemake.

    Parameters
    ----------
    scratch : str or Path
        Working directory of the workflow.
    run : str
        Four digits.
    kind : str or None
        Of the run in the run table; None for one that is not there, such as a run of calibration data.
    jobs : list of dict
        Jobs that the run's target needs and that were to run: ``rule``, ``about`` (run and module, or calibration),
        ``state`` (``done``, ``failed``, ``waiting``), ``log`` (list of paths below `scratch`) and ``of_run`` (whether
        the job is the run's own).
    scans : list of str
        Scans of the configuration that are for the run, if it is of kind dssc.

    Returns
    -------
    dict
        With the names of :data:`COLUMNS`; unknown numbers are empty texts.
    """
    scratch = Path(scratch)
    row = dict.fromkeys(COLUMNS, "") | {"run": run, "ended": time.strftime("%Y-%m-%d %H:%M:%S")}
    failed = [job for job in jobs if job["state"] == "failed"]
    waiting = [job for job in jobs if job["state"] == "waiting"]
    row |= _from_integrity(scratch / "integrity" / f"r{run}.json")
    findings = row.pop("findings")
    if failed:
        # The run's own failure tells more than one of its calibration.
        first = min(failed, key=lambda job: not job["of_run"])
        row["status"] = "failed" if first["of_run"] else "waiting"
        row["rule"], row["log"] = first["rule"], next(iter(first["log"]), "")
        more = f" ({len(failed) - 1} more jobs failed)" if len(failed) > 1 else ""
        behind = "" if first["of_run"] else "behind the failed "
        row["why"] = f"{behind}{first['rule']} {first['about']}{more}:\n" + log_tail(scratch, first["log"])
        return row
    if waiting:
        row |= {"status": "waiting", "rule": waiting[0]["rule"]}
        row["why"] = f"snakemake ended before {waiting[0]['rule']} {waiting[0]['about']} was started; start it again"
        return row
    reasons = [findings["reason"]] if findings["is_partial"] and findings["reason"] else []
    result = _from_result(scratch, run, kind, scans)
    more_left_out = result.pop("more_left_out", 0)
    if row["frames_left_out"] != "":
        row["frames_left_out"] += more_left_out
    reasons += result.pop("reasons")
    if findings["faults"]:
        reasons.append(f"{len(findings['faults'])} findings, such as {findings['faults'][0]}")
    row |= result
    row["status"] = "partial" if reasons else "done"
    row["why"] = "; ".join(reasons)
    return row


def log_tail(scratch, logs, count=LINES_OF_LOG):
    """Last lines of a job's log: the error without its traceback where there is one.

    Parameters
    ----------
    scratch : str or Path
    logs : list of str
        Log files of the job, below `scratch`.
    count : int
        Lines at most.

    Returns
    -------
    str
    """
    lines = []
    for name in logs:
        path = Path(scratch) / name
        if path.is_file():
            lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
    lines = [line.rstrip() for line in lines if line.strip()]
    if not lines:
        return "no log: the job was killed before it wrote one, or did not start (memory, time limit, node, disk)"
    traces = [number for number, line in enumerate(lines) if line.startswith("Traceback")]
    errors = [number for number, line in enumerate(lines) if ERROR_LINE.match(line) and number > max(traces, default=0)]
    if not traces or not errors:
        return "\n".join(lines[-count:])
    told = lines[errors[-1] :]
    if len(told) <= count:
        return "\n".join(told)
    # What an error says first and the next step, which stands last.
    left_out = len(told) - count + 1
    return "\n".join([*told[: count - 2], f"  ... {left_out} more lines", told[-1]])


def _from_integrity(path):
    """Numbers of the integrity check; unknown without a file that can be read."""
    unknown = {"frames_left_out": "", "findings": {"is_partial": False, "reason": "", "faults": []}}
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return unknown
    frames = report["frames"]
    missing = [module for module, held in report["modules"].items() if held["used"] < frames["kept"]]
    reason = report["reason"]
    if missing and not any(f"module {module} " in reason for module in missing):
        short = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        reason = "; ".join(filter(None, [reason, f"module {short} without some of the frames"]))
    return {
        "frames_left_out": frames["seen"] - frames["kept"],
        "findings": {
            "is_partial": frames["kept"] < frames["seen"] or bool(missing) or frames["kept"] == 0,
            "reason": f"{frames['kept']} of {frames['seen']} frames kept" + (f": {reason}" if reason else ""),
            "faults": finding_lines([told for told in report["findings"] if told["fault"]]),
        },
    }


def _from_result(scratch, run, kind, scans):
    """Frames (and hits) in the results of a run, and why there are fewer than expected."""
    if kind == "mid":
        return _from_files(
            [scratch / "mid" / f"r{run}.h5"],
            lambda file: {
                "frames_used": int(file.attrs["n_frames"]),
                "more_left_out": int(file.attrs["n_frames_left_out"]),
            },
        )
    if kind == "dssc":
        return _from_selections(scratch, run, scans)
    return _from_files(
        [scratch / "events" / f"r{run}_events.h5"],
        lambda file: {"hits": int(file.attrs["n_hits"]), "frames_used": file["is_hit"].shape[0]},
    )


def _from_selections(scratch, run, scans):
    """Numbers of the scan that uses the fewest frames, and the reasons of all scans."""

    def numbers_of(file):
        used = int(np.count_nonzero(file["reason"][()] == 0))
        return {"frames_used": used, "frames_left_out": int(file["account/n_frames"][()].sum()) - used}

    told, reasons = [], []
    for scan in scans:
        told.append(_from_files([scratch / "dssc" / f"r{run}_frames_by-{scan}.h5"], numbers_of))
        reasons += [f"scan {scan}: {reason}" for reason in told[-1].pop("reasons")]
    fewest = min((each for each in told if each), key=lambda each: each["frames_used"], default={})
    return fewest | {"reasons": reasons}


def _from_files(paths, numbers_of):
    told = {"reasons": []}
    for path in paths:
        if not path.is_file():
            continue
        try:
            with h5py.File(path) as file:
                status, reason = str(file.attrs["status"]), str(file.attrs["reason"])
                told |= numbers_of(file)
        except (OSError, KeyError) as error:
            told["reasons"].append(f"{path.name} cannot be read: {error}")
            continue
        if status != "complete":
            told["reasons"].append(f"{status}: {reason}" if reason else status)
    return told


def summary_text(rows):
    """Table of runs, aligned, with a line of totals.

    Parameters
    ----------
    rows : list of dict
        As :func:`describe_run` gives them.

    Returns
    -------
    str
    """
    counts = {
        status: sum(row["status"] == status for row in rows) for status in ("done", "partial", "failed", "waiting")
    }
    total = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    lines = [f"{len(rows)} runs: {total}" if len(rows) != 1 else f"1 run: {total}"]
    lines.append(f"{'run':6}{'status':9}{'hits':>9}{'frames used':>13}{'left out':>10}  why")
    for row in rows:
        numbers = f"{_zero(row['hits'])!s:>9}{_zero(row['frames_used'])!s:>13}"
        first, *more = str(row["why"]).splitlines() or [""]
        line = f"{row['run']:6}{row['status']:9}{numbers}{_zero(row['frames_left_out'])!s:>10}  {first}"
        lines.append(line.rstrip())
        lines += [f"        {each}" for each in more]
        if row["log"]:
            lines.append(f"        whole log: {row['log']}")
    return "\n".join(lines) + "\n"


def _zero(value):
    return "-" if value == "" else value


def read_summary(scratch):
    """Rows of ``summary.csv``, by run; empty before the first call that made a run."""
    path = Path(scratch) / "summary.csv"
    if not path.is_file():
        return {}
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))
    return {row["run"]: row for row in rows if row.get("run") and None not in row.values()}


def write_summary(scratch, rows):
    """Put the rows of a call into ``summary.csv`` and ``summary.txt``; rows of other runs stay.

    Parameters
    ----------
    scratch : str or Path
    rows : list of dict
    """
    held = read_summary(scratch) | {row["run"]: row for row in rows}
    every = [held[run] for run in sorted(held)]
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(every)
    write_text(Path(scratch) / "summary.csv", text.getvalue())
    write_text(Path(scratch) / "summary.txt", summary_text(every))
