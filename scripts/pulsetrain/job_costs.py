"""What planned jobs will cost, by the benchmark files of earlier jobs of the same rule."""

import ast
import csv
import re
from pathlib import Path

import numpy as np

# Below this difference two sizes count as equal.
SAME_SIZE = 0.1
BENCHMARK = re.compile(r"^r(\d{4})(?:_m(\d\d))?(?:_.*)?\.tsv$")
REASONS = (
    ("Forced execution", "asked for with --force"),
    ("Missing output files", "not made yet"),
    ("Incomplete output files", "a job was stopped while it wrote them"),
    ("Updated input files", "an input is newer"),
    ("Set of input files has changed", "other input files"),
    ("Code has changed", "code changed"),
    ("Software environment definition has changed", "software environment changed"),
    ("Rules with", "always runs"),
)
FOLLOWS = "follows from another job"


def read_benchmarks(scratch):
    """Seconds that jobs took, by rule.

    Parameters
    ----------
    scratch : str or Path
        Working directory of the workflow; files are ``benchmarks/<rule>/*.tsv`` in it.

    Returns
    -------
    dict
        {rule: [(run or None, module or None, seconds), ...]}
    """
    measured = {}
    for path in sorted((Path(scratch) / "benchmarks").glob("*/*.tsv")):
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        match = BENCHMARK.match(path.name)
        run, module = (match[1], match[2]) if match else (None, None)
        for row in rows:
            try:
                seconds = float(row["s"])
            except (KeyError, TypeError, ValueError):
                # A job that is too short for a measurement has "-" in places; a killed one half a line.
                continue
            measured.setdefault(path.parent.name, []).append((run, module and int(module), seconds))
    return measured


def expected_seconds(samples, sizes):
    """Predict the times of jobs of one rule from earlier ones, scaled by the data size where the time follows it.

    With earlier jobs of different sizes: a straight line with neither part negative. With one size only, which is
    not that of the planned job: nobody knows how the time grows, so the bounds are no growth and proportional growth.
    The spread is that of the earlier jobs around the prediction (10th to 90th percentile).

    Parameters
    ----------
    samples : list of (float or None, float)
        Size [bytes] and seconds of each earlier job.
    sizes : list of (float or None)
        Sizes [bytes] of the planned jobs.

    Returns
    -------
    tuple of float or None
        Low, middle and high sum [s]; None if nothing was measured.
    """
    if not samples:
        return None
    seconds = np.array([taken for _, taken in samples])
    known = np.array([size or np.nan for size, _ in samples], dtype=float)
    planned = np.array([size or np.nan for size in sizes], dtype=float)
    flat = float(np.median(seconds))
    # A size that is unknown is taken to be a usual one.
    usual = float(np.median(known[~np.isnan(known)])) if not np.isnan(known).all() else 1.0
    planned = np.where(np.isnan(planned), usual, planned)
    held = ~np.isnan(known)
    if held.sum() >= 2 and known[held].max() > (1 + SAME_SIZE) * known[held].min():
        start, slope = _line(known[held], seconds[held])
        middle, fitted = start + slope * planned, start + slope * np.where(held, known, usual)
        low, high = middle, middle
    else:
        middle, fitted = np.full(len(planned), flat), np.full(len(seconds), flat)
        proportional = flat * planned / usual
        other = np.abs(planned / usual - 1) > SAME_SIZE
        low = np.where(other, np.minimum(flat, proportional), middle)
        high = np.where(other, np.maximum(flat, proportional), middle)
        middle = np.where(other, (low + high) / 2, middle)
    spread = np.percentile(seconds / np.maximum(fitted, 1e-3), [10, 90])
    return float(low.sum() * min(spread[0], 1)), float(middle.sum()), float(high.sum() * max(spread[1], 1))


def _line(sizes, seconds):
    """Start and slope of a straight line by least squares, neither of them negative."""
    deviation = sizes - sizes.mean()
    slope = max(float((deviation * seconds).sum() / (deviation**2).sum()), 0.0)
    start = float(seconds.mean() - slope * sizes.mean())
    if start < 0:
        return 0.0, float((sizes * seconds).sum() / (sizes**2).sum())
    return start, slope


def short_reasons(reason):
    """Snakemake's reason for a job, in few words.

    Parameters
    ----------
    reason : str
        As snakemake prints it in a dry run.

    Returns
    -------
    list of str
        Causes of the job's own; :data:`FOLLOWS` if it has none but that of jobs before it.
    """
    text, _, params = reason.partition("Params have changed since last execution: ")
    found = [short for start, short in REASONS if re.search(rf"(?:^|; ){start}", text)]
    if params:
        found += _changed_params(params)
    if "Input files updated by another job" in text and found in ([], ["not made yet"]):
        # Of a chain that is not there at all only the first job says more than the rest.
        found = found or [FOLLOWS]
    return found or ["unknown reason: " + reason[:80]]


def _changed_params(text):
    """Say which parameters differ: code, files and settings by name, values before and now."""
    match = re.search(r"before: (.*) now: (.*?)\s*(?:; Software environment.*)?$", text, flags=re.DOTALL)
    if not match:
        return ["parameters changed"]
    before, now = _values(match[1]), _values(match[2])
    if before is None or now is None:
        return ["parameters changed"]
    names = {}
    for old in [value for value in before if isinstance(value, dict)]:
        new = next((value for value in now if isinstance(value, dict) and set(value) & set(old)), {})
        names |= {str(name): (old.get(name), new.get(name)) for name in {*old, *new} if old.get(name) != new.get(name)}
    settings = sorted(name for name in names if name.isidentifier())  # of the parameter that holds them by name
    code = sorted(name for name in names if name.endswith(".py"))
    files = sorted(set(names) - {*settings, *code})
    told = [f"code changed: {_first(code)}"] if code else []
    told += [f"files changed: {_first(files)}"] if files else []
    if settings:
        return told + [f"{name} is now {names[name][1]!r}, was {names[name][0]!r}" for name in settings]
    plain = [sorted({repr(value) for value in side if not isinstance(value, dict)}) for side in (before, now)]
    values = []
    if any(plain):
        was, now_is = (", ".join(side[:3]) for side in plain)
        values = [
            f"a parameter is now {now_is}" + (f", was {was}" if was else "") if now_is else f"{was} was taken out"
        ]
    return told + values or ["parameters changed"]


def _first(names, most=3):
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _values(text):
    if text.strip() == "<nothing exclusive>":
        return []
    try:
        return list(ast.literal_eval(f"[{text}]"))
    except (ValueError, SyntaxError):
        return None


def duration(seconds):
    """A time span for people: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def amount(size):
    """Bytes for people: 1.2 MB, 830 GB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000 or unit == "TB":
            return f"{size:.0f} {unit}" if size >= 10 or unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return ""
