"""Decide which frames of a run can be trusted, and account for every other one.

A frame is (trainId, pulseId), compared exactly. A train is kept when enough modules have it whole and all of those
agree on its pulses and memory cells; everything else is left out with a reason and a count.
"""

import json
import logging
import os
from collections import Counter
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

from pulsetrain.exdf import BrokenFile, TrainIndex, open_file, parse_name
from pulsetrain.layout import FILE_NUMBERS, FILE_TEXT, SEGMENT_COLUMNS, RunLayout, write_layout
from pulsetrain.module_index import (
    COVERAGE,
    DATA_TYPES,
    MODULES_KEY,
    ModuleFile,
    build_module,
    expand,
    finding,
    module_source,
    read_module_file,
)
from pulsetrain.output import new_h5, write_array, write_text
from pulsetrain.progress import progress
from pulsetrain.provenance import as_text
from pulsetrain.train_agreement import TRAIN_REASONS, compare_modules, find_trains, run_starts, without_module

log = logging.getLogger(__name__)

# What h5py raises on damaged metadata or chunks depends on the place of the damage.
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError)

PHANTOM = "train only in this module"
TEXT = h5py.string_dtype()
DEFAULT_DATA_TYPE = {"raw": "uint16", "proc": "float32"}


def check_run(
    files,
    frames,
    integrity,
    run,
    stream,
    detector,
    modules,
    min_modules,
    max_lost,
    policy,
    sizes,
    attributes,
    modules_key=MODULES_KEY,
):
    """Check all source files of a run and write its frame table, segments and verdict.

    Succeeds whatever the verdict is, so that the findings stay readable; ``accept_run`` raises.

    Parameters
    ----------
    files : list of str or Path
        All files of the run's modules.
    frames, integrity : str or Path
        Outputs: the frame table (docs/file-formats.md) and the findings (JSON).
    run : int
    stream : str
        ``"raw"`` or ``"proc"``.
    detector : str
        Such as ``SPB_DET_AGIPD1M-1``.
    modules : list of int
        Modules to use.
    min_modules : int or None
        A train is kept when this many modules have it whole; None is three quarters of `modules`.
    max_lost : float
        The run is refused when more than this share of its frames is left out.
    policy : str
        ``"beamtime"``, or ``"strict"``: refuse at any fault.
    sizes : dict
        {file name: bytes} when the work was planned.
    attributes : dict
        Provenance for the frame table.
    modules_key : str
        Key of the configuration that says which modules are in use; for advice.

    Returns
    -------
    dict
        What the JSON file holds.
    """
    if policy not in ("beamtime", "strict"):
        raise ValueError(f"integrity.policy is {policy!r}; expected 'beamtime' or 'strict'")
    modules = sorted(modules)
    min_modules = int(np.ceil(0.75 * len(modules))) if min_modules is None else min_modules
    named, findings = sort_files(files, run, modules, modules_key)
    data_dtype = common_data_type(named, stream, detector)
    tables = {}
    advance = progress(sum(map(len, named.values())), "files")
    for module, paths in named.items():
        held = []
        for path in paths:
            held.append(_read_or_tell(path, run, stream, detector, module, sizes, data_dtype, findings))
            advance(1)
        tables[module], told = build_module(module, held, modules_key)
        findings += told
    trains, told = compare_modules(tables, min_modules, modules_key)
    findings += told
    layout = build_layout(tables, trains, frames)
    report = _report(run, stream, policy, max_lost, modules, tables, trains, layout, findings)
    report["modules_key"] = modules_key
    layout.attributes.update(
        run=run,
        stream=stream,
        detector=detector,
        data_dtype=data_dtype,
        status=_status(report, layout, modules),
        reason=report["reason"],
        n_seen=report["frames"]["seen"],
    )
    _write_frames(frames, layout, trains, attributes)
    write_text(integrity, json.dumps(report | {"provenance": attributes}, indent=1) + "\n")
    for line in finding_lines([told for told in findings if told["fault"]]):
        log.warning(line)
    for line in finding_lines([told for told in findings if not told["fault"]]):
        log.info(line)
    log.info(report["summary"])
    return report


def sort_files(files, run, modules, modules_key):
    """Sort the files by module and sequence and find what is missing by name.

    Returns
    -------
    named : dict
        {module: list of Path} for the modules that have files.
    findings : list of dict
    """
    named, sequences, findings = {}, {}, []
    for path in map(Path, files):
        parts = parse_name(path)
        if parts is None or not parts[2][-2:].isdigit() or parts[1] != run:
            message = f"the file name is not that of a module of run {run} (CATEGORY-R{run:04d}-AGIPDnn-Snnnnn.h5)"
            findings.append(finding("foreign_file", message, "remove it from the run", file=path.name))
            continue
        module = int(parts[2][-2:])
        if module not in modules:
            log.info("%s is not used: module %d is not in %s", path.name, module, modules_key)
            continue
        named.setdefault(module, []).append((parts[3], path))
        sequences.setdefault(parts[3], []).append(path.name)
    for module in modules:
        if module not in named:
            message = f"no file of module {module}"
            findings.append(finding("missing_module", message, without_module(module, modules_key), module))
            continue
        for sequence in sorted(set(sequences) - {number for number, _ in named[module]}):
            message = (
                f"module {module} has no sequence {sequence}; others have it, for example {sequences[sequence][0]}"
            )
            findings.append(finding("missing_sequence", message, "copy the file again", module))
    for sequence in range(max(sequences, default=0)):
        if sequence not in sequences:
            message = f"no module has sequence {sequence}, but there are files up to sequence {max(sequences)}"
            findings.append(finding("missing_sequence", message, "copy the files again"))
    return {module: [path for _, path in sorted(named[module])] for module in sorted(named)}, findings


def common_data_type(named, stream, detector):
    """Type of image/data that most files have, so that one odd file cannot decide for the run."""
    types = Counter()
    for module, paths in named.items():
        for path in paths:
            try:
                with open_file(path) as file:
                    data = file[f"INSTRUMENT/{module_source(file, detector, module, stream)}/image/data"]
                    types[data.dtype.name] += 1
            except DAMAGE:
                continue  # told when the file is read in full
    known = [name for name, _ in types.most_common() if name in DATA_TYPES[stream]]
    return known[0] if known else DEFAULT_DATA_TYPE[stream]


def _read_or_tell(path, run, stream, detector, module, sizes, data_dtype, findings):
    planned = sizes.get(str(path), sizes.get(path.name))
    try:
        return read_module_file(path, run, stream, detector, module, planned, data_dtype)
    except BrokenFile as error:
        kind, message, next_step = error.kind, str(error), error.next_step
    except DAMAGE as error:
        kind, message, next_step = "unreadable", f"HDF5 cannot read it: {error}", "copy it again"
    findings.append(finding(kind, message, next_step, module, path.name))
    size = path.stat().st_size if path.exists() else 0
    metadata = {"format_version": "", "update_date": ""}
    none = TrainIndex(np.empty(0, "u8"), np.empty(0, bool), np.empty(0, "i8"), np.empty(0, "i8"))
    ids = np.empty(0, "u8"), np.empty(0, "u8"), np.empty(0, "u2")
    sequence = parse_name(path)[3]
    problem = f"{kind}: {message}"
    return ModuleFile(path, sequence, size, 0, "", metadata, none, "", *ids, has_mask=True, problem=problem)


def build_layout(tables, trains, path):
    """Frame table and segments of the kept trains.

    Parameters
    ----------
    tables : dict
        {module: ModuleTable}.
    trains : dict
        From :func:`compare_modules`.
    path : str or Path
        The file that will hold the layout; names of source files are relative to its directory.

    Returns
    -------
    RunLayout
    """
    kept = trains["reason"] == 0
    count = trains["n_frames"] * kept
    start = run_starts(count)
    n_total = int(count.sum())
    held, _ = expand(trains["start"][kept], count[kept])
    modules = np.zeros(n_total, dtype=np.uint32)
    directory = os.path.realpath(Path(path).parent)
    files, segments = [], []
    for module, table in tables.items():
        place, known = find_trains(trains["train_id"], table.train_id)
        known[known] = kept[place[known]]
        frame, _ = expand(start[place[known]], table.n_frames[known])
        rows, _ = expand(run_starts(table.n_frames)[known], table.n_frames[known])
        modules[frame] |= np.uint32(1 << module)
        file = np.repeat(table.file[known], table.n_frames[known])
        segments.append(cut_segments(module, file + len(files), table.row[rows], frame))
        files += [_file_columns(module, source, directory) for source in table.files]
    return RunLayout(
        np.repeat(trains["train_id"], count),
        trains["pulse_id"][held],
        trains["cell_id"][held],
        modules,
        pd.DataFrame(files, columns=[*FILE_TEXT, *FILE_NUMBERS]),
        pd.concat(segments, ignore_index=True) if segments else pd.DataFrame(columns=list(SEGMENT_COLUMNS)),
        {},
    )


def cut_segments(module, file, row, frame):
    """Join rows that follow each other in one file and as frames.

    Parameters
    ----------
    module : int
    file, row, frame : ndarray, (F,)
        Of each frame that the module has, in the order of `frame`.

    Returns
    -------
    pandas.DataFrame
        Columns of ``/segments``.
    """
    breaks = (np.diff(file) != 0) | (np.diff(row) != 1) | (np.diff(frame) != 1)
    first = np.concatenate([[0], np.flatnonzero(breaks) + 1])[: len(frame)]
    columns = {
        "module": np.full(len(first), module),
        "file": file[first],
        "source_start": row[first],
        "frame_start": frame[first],
        "count": np.diff(np.append(first, len(frame))),
    }
    return pd.DataFrame({name: columns[name].astype(dtype) for name, dtype in SEGMENT_COLUMNS.items()})


def _file_columns(module, file, directory):
    return {
        "name": os.path.relpath(os.path.realpath(file.path), directory),
        "module": module,
        "sequence": file.sequence,
        "size": file.size,
        "rows": file.n_rows,
        "source": file.source,
        "format_version": file.metadata["format_version"],
        "update_date": file.metadata["update_date"],
        "index_sha256": file.index_sha256,
        "problem": file.problem,
    }


def _report(run, stream, policy, max_lost, modules, tables, trains, layout, findings):
    """Close the account and give the verdict."""
    per_module = {f"{module:02d}": _account(tables.get(module), trains, layout) for module in modules}
    n_seen, n_kept = int(trains["n_frames"].sum()), len(layout.train_id)
    lost = trains["reason"] > 0
    excluded = _count_by_reason(trains["reason"][lost], trains["n_frames"][lost])
    if n_seen != n_kept + sum(excluded.values()):
        raise RuntimeError(f"run {run}: {n_seen} frames seen, {n_kept} kept and {excluded} left out do not add up")
    n_files = sum(not file.problem for table in tables.values() for file in table.files)
    n_rows = sum(held["rows"] - held["excluded"].get("padding", 0) for held in per_module.values())
    n_faults = sum(told["fault"] for told in findings)
    reason = ""
    if n_files == 0:
        reason = "no file of the run can be read"
    elif n_kept == 0 and n_rows > 0:
        reason = "no frame can be kept"
    elif n_seen - n_kept > max_lost * n_seen:
        reason = f"{n_seen - n_kept} of {n_seen} frames are lost, more than integrity.max_lost = {max_lost:g} allows"
    elif policy == "strict" and n_faults:
        reason = f"policy is strict and there are {n_faults} findings"
    verdict = "refused" if reason else "accepted"
    share = f"{n_kept} of {n_seen} frames kept" + (f" ({100 * n_kept / n_seen:.2f} %)" if n_seen else "")
    details = [f"{count} {name}" for name, count in excluded.items()]
    details += [f"module {module} has no frame" for module, held in per_module.items() if held["used"] == 0 and n_kept]
    summary = f"run {run} {verdict}: {share}" + (f" ({reason})" if reason else "")
    summary += "".join(f"; {detail}" for detail in details) + (f"; {n_faults} findings" if n_faults else "")
    return {
        "run": run,
        "stream": stream,
        "verdict": verdict,
        "reason": reason or ("the run has no frames" if n_seen == 0 else ", ".join(details)),
        "summary": summary,
        "frames": {"seen": n_seen, "kept": n_kept, "excluded": excluded},
        "modules": per_module,
        "findings": findings,
    }


def _account(table, trains, layout):
    """Rows of one module: all = used + excluded by reason."""
    if table is None:
        return {"files": 0, "rows": 0, "used": 0, "excluded": {}}
    place, known = find_trains(trains["train_id"], table.train_id)
    excluded = Counter({name.replace("_", " "): count for name, count in table.excluded.items()})
    excluded.update(_count_by_reason(trains["reason"][place[known]], table.n_frames[known]))
    used = excluded.pop("", 0)
    excluded[PHANTOM] = int(table.n_frames[~known].sum())
    excluded = {name: count for name, count in sorted(excluded.items()) if count}
    n_mapped = int(layout.segments["count"][layout.segments["module"] == table.module].sum())
    if table.n_rows != used + sum(excluded.values()) or used != n_mapped:
        raise RuntimeError(
            f"module {table.module}: {table.n_rows} frames, {used} used ({n_mapped} in segments) and {excluded} "
            "left out do not add up"
        )
    return {"files": len(table.files), "rows": table.n_rows, "used": used, "excluded": excluded}


def _count_by_reason(reason, n_frames):
    counts = np.bincount(reason, weights=n_frames, minlength=len(TRAIN_REASONS)).astype(np.int64)
    return {name: int(count) for name, count in zip(TRAIN_REASONS, counts, strict=True) if count}


def _status(report, layout, modules):
    if report["verdict"] == "refused":
        return "refused"
    if report["frames"]["kept"] == 0:
        return "empty"
    is_whole = report["frames"]["kept"] == report["frames"]["seen"]
    all_modules = np.uint32(sum(1 << module for module in modules))
    return "complete" if is_whole and np.all(layout.modules == all_modules) else "partial"


def _write_frames(path, layout, trains, attributes):
    with new_h5(path, attributes) as file:
        write_layout(file, layout)
        group = file.create_group("trains")
        write_array(group, "trainId", trains["train_id"])
        write_array(group, "n_frames", trains["n_frames"].astype("u4"))
        write_array(group, "kept", trains["reason"] == 0)
        group.create_dataset("reason", data=[TRAIN_REASONS[code] for code in trains["reason"]], dtype=TEXT)
        description = ", ".join(f"{code} = {name}" for code, name in enumerate(COVERAGE))
        write_array(group, "coverage", trains["coverage"], description=description)


def finding_lines(findings):
    """Tell findings in one line each, those of one kind together."""
    lines = []
    for told in sorted(findings, key=lambda told: (told["kind"], told["module"] or "", told["file"])):
        where = [f"module {told['module']}"] if told["module"] else []
        where += [told["file"]] if told["file"] else []
        line = f"{told['kind']}: " + (", ".join(where) + ": " if where else "") + told["message"]
        if told["n_trains"] > 1:
            line += f" ({told['n_trains']} trains)"
        lines.append(line + (f". Next: {told['next_step']}" if told["next_step"] else ""))
    return lines


def accept_run(integrity, accepted, run, attributes):
    """Let a run pass, or stop with everything that was found.

    Parameters
    ----------
    integrity : str or Path
        JSON file of :func:`check_run`.
    accepted : str or Path
        Output: a text with the summary.
    run : int
    attributes : dict
        Provenance, written as comments.

    Raises
    ------
    RuntimeError
        If the run was refused; the text lists all findings.
    """
    report = json.loads(Path(integrity).read_text(encoding="utf-8"))
    if report["verdict"] != "accepted":
        lines = finding_lines([told for told in report["findings"] if told["fault"]])
        key = report["modules_key"]
        keys = ["integrity.max_lost", "integrity.policy"]
        keys += ["integrity.min_modules"] if key == MODULES_KEY else []  # 1 for other detectors
        raise RuntimeError(
            f"{report['summary']}\n"
            + "".join(f"  {line}\n" for line in lines)
            + f"All of it is in {integrity}. To go on nevertheless, change {', '.join(keys)} or {key} in the "
            f"config, or take run {run} out of the run table."
        )
    write_text(accepted, report["summary"] + "\n" + as_text(attributes, "#"))
