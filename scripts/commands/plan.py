"""What is stale, why, and what it will cost: make plan [TARGETS="r0050_hits.cxi ..."].

The plan is snakemake's own: its dry run is called in this process with the arguments that a user would type, and a
filter on its logger takes the records of planned jobs (event ``job_info`` of the logger interface: rule, wildcards and
reason as values) before they become text. So profiles, configuration and rerun triggers are those of a real call, no
printed text has to be taken apart but the reasons, and nothing is formatted or printed for thousands of jobs.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from snakemake import cli  # noqa: E402
from snakemake.logging import logger  # noqa: E402

from pulsetrain.arrivals import module_sizes, read_settings, run_files  # noqa: E402
from pulsetrain.job_costs import (  # noqa: E402
    FOLLOWS,
    amount,
    duration,
    expected_seconds,
    read_benchmarks,
    short_reasons,
)
from pulsetrain.run_kinds import detector_files, run_of  # noqa: E402

# Rules that read all pixels of their module.
READS_PIXELS = ("bin_dssc", "count_litpixels", "equalize")
RUNS_SHOWN = 40


def planned_jobs(arguments):
    """Ask snakemake which jobs it would run.

    Parameters
    ----------
    arguments : list of str
        As on its command line, without ``-n``.

    Returns
    -------
    list of dict
        ``rule``, ``run`` and ``module`` (None where a job has none), ``threads``, ``reason``; None if it cannot plan
        (it has told why).
    """
    jobs = []

    def take(record):
        if getattr(record, "event", None) == "job_info":
            given = record.wildcards
            module = given.get("module", "")
            jobs.append(
                {
                    "rule": record.rule_name,
                    "run": run_of(given),
                    "module": int(module) if module.isdigit() else None,
                    "threads": record.threads,
                    "reason": record.reason,
                }
            )
            return False
        return record.levelname in ("WARNING", "ERROR", "CRITICAL")

    logger.addFilter(take)
    try:
        # Many cores: fewer would lower the threads of a job.
        cli.main(["-s", str(BASEDIR / "Snakefile"), "-n", "--cores", "1000", *arguments])
    except SystemExit as ended:
        if ended.code:
            return None
    finally:
        logger.removeFilter(take)
    return [job for job in jobs if job["rule"] != "all"]


def data_of_runs(settings, runs):
    """Bytes and frames of runs.

    Parameters
    ----------
    settings : dict
        As :func:`pulsetrain.arrivals.read_settings` gives it.
    runs : collection of str

    Returns
    -------
    dict
        {run: {"modules": {module: bytes}, "bytes": bytes of the modules in use, "frames": number or None}}
    """
    held = {}
    for run in sorted(runs):
        modules = {}
        if run in settings["runs"]:
            detector = detector_files(run, settings["runs"], settings["config"])[0]
            sizes = module_sizes(run_files(settings["data_root"], run, detector.directory), detector)
            modules = {module: sum(sizes.get(module, {}).values()) for module in detector.numbers}
        held[run] = {"modules": modules, "bytes": sum(modules.values()), "frames": _frames(settings["scratch"], run)}
    # A run that was not checked yet: as many frames for its size as the others.
    known = [entry for entry in held.values() if entry["frames"] and entry["bytes"]]
    density = sum(entry["frames"] for entry in known) / sum(entry["bytes"] for entry in known) if known else None
    for entry in held.values():
        entry["is_estimated"] = entry["frames"] is None
        if entry["frames"] is None and density and entry["bytes"]:
            entry["frames"] = round(density * entry["bytes"])
    return held


def _frames(scratch, run):
    try:
        return json.loads((scratch / "integrity" / f"r{run}.json").read_text(encoding="utf-8"))["frames"]["seen"]
    except (FileNotFoundError, json.JSONDecodeError, KeyError):
        return None


def costs_by_rule(jobs, measured, data):
    """Jobs and expected seconds of each rule.

    Parameters
    ----------
    jobs : list of dict
    measured : dict
        As :func:`pulsetrain.job_costs.read_benchmarks` gives it.
    data : dict
        As :func:`data_of_runs` gives it, for planned and measured runs.

    Returns
    -------
    dict
        {rule: {"jobs": int, "measured": int, "seconds": (low, middle, high) or None, "threads": int}}
    """

    def size_of(run, module):
        if run not in data:
            return None
        return data[run]["bytes"] if module is None else data[run]["modules"].get(module)

    rules = {}
    for job in jobs:
        rules.setdefault(job["rule"], []).append(job)
    costs = {}
    for rule, planned in rules.items():
        samples = [(size_of(run, module), seconds) for run, module, seconds in measured.get(rule, [])]
        sizes = [size_of(job["run"], job["module"]) for job in planned]
        costs[rule] = {
            "jobs": len(planned),
            "measured": len(samples),
            "seconds": expected_seconds(samples, sizes),
            "threads": max(job["threads"] for job in planned),
        }
    return costs


def bytes_to_read(jobs, data):
    """Bytes of detector data that the planned jobs pass over."""
    return sum(
        data[job["run"]]["modules"].get(job["module"], 0)
        for job in jobs
        if job["rule"] in READS_PIXELS and job["run"] in data
    )


def span(seconds):
    """An expected time with its bounds, or unknown."""
    if seconds is None:
        return "unknown"
    low, middle, high = map(duration, seconds)
    return middle if low == high else f"{middle} ({low} to {high})"


def plan_text(jobs, costs, data):
    """Tell the plan.

    Parameters
    ----------
    jobs : list of dict
        Not empty.
    costs : dict
    data : dict

    Returns
    -------
    str
    """
    per_rule = {rule: Counter() for rule in costs}
    per_run = {}
    for job in jobs:
        reasons = short_reasons(job["reason"])
        per_rule[job["rule"]].update(reasons)
        own = per_run.setdefault(job["run"] or "", {"jobs": 0, "reasons": Counter()})
        own["jobs"] += 1
        own["reasons"].update(reason for reason in reasons if reason != FOLLOWS)
    lines = [f"{'rule':26}{'jobs':>7}  {'time of all jobs':30}why"]
    for rule, cost in costs.items():
        first, *more = [f"{count} x {reason}" for reason, count in per_rule[rule].most_common()]
        lines.append(f"{rule:26}{cost['jobs']:>7}  {span(cost['seconds']):30}{first}")
        lines += [f"{'':65}{reason}" for reason in more]
    lines += ["", f"{'run':10}{'jobs':>6}{'frames':>10}{'data':>9}  first causes"]
    for run in sorted(per_run)[:RUNS_SHOWN]:
        held = data.get(run, {"frames": None, "bytes": 0, "is_estimated": False})
        frames = "unknown" if held["frames"] is None else f"{'~' * held['is_estimated']}{held['frames']}"
        causes = "; ".join(f"{count} x {reason}" for reason, count in per_run[run]["reasons"].most_common(3))
        jobs_of_run = per_run[run]["jobs"]
        if run:
            lines.append(f"{run:10}{jobs_of_run:>6}{frames:>10}{amount(held['bytes']):>9}  {causes}")
        else:
            lines.append(f"{'(no run)':10}{jobs_of_run:>6}{'':19}  {causes}")
    if len(per_run) > RUNS_SHOWN:
        lines.append(f"... and {len(per_run) - RUNS_SHOWN} more runs")
    return "\n".join(lines + ["", *total_lines(jobs, costs, data)]) + "\n"


def total_lines(jobs, costs, data):
    """Sums over the plan, with what is not known."""
    runs = {job["run"] for job in jobs if job["run"]}
    frames = [data[run]["frames"] for run in runs if run in data and data[run]["frames"] is not None]
    unknown = sorted(rule for rule, cost in costs.items() if cost["seconds"] is None)
    known = [cost for cost in costs.values() if cost["seconds"] is not None]
    total = [sum(cost["seconds"][bound] for cost in known) for bound in range(3)] if known else None
    cores = [sum(cost["seconds"][bound] * cost["threads"] for cost in known) for bound in range(3)] if known else None
    count = f"{len(jobs)} jobs of {len(runs)} runs" if len(runs) != 1 else f"{len(jobs)} jobs of 1 run"
    lines = [
        f"{count}, {sum(frames)} frames"
        + (f" (unknown for {len(runs) - len(frames)} runs)" if len(frames) < len(runs) else "")
        + f", {amount(bytes_to_read(jobs, data))} of detector data to read",
        f"node time, one job at a time on a node: {span(total)}; core time: {span(cores)}",
    ]
    if unknown:
        count = sum(costs[rule]["jobs"] for rule in unknown)
        lines.append(f"without {count} jobs that were never measured here: {', '.join(unknown)}")
    return lines


def main(arguments=None):
    """Plan and print."""
    parser = argparse.ArgumentParser(prog="plan", description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--profile", help="as for snakemake")
    parser.add_argument("targets", nargs="*", help="as for snakemake; all runs of the table if none are given")
    given = parser.parse_args(arguments)
    configfiles = [str(Path(path).absolute()) for path in given.configfile]
    options = ["--profile", given.profile] if given.profile else []
    options += ["--configfile", *configfiles] if configfiles else []
    jobs = planned_jobs([*given.targets, *options])
    if jobs is None:
        return 1
    if not jobs:
        sys.stdout.write("nothing is stale: all files that were asked for are up to date\n")
        return 0
    settings = read_settings(BASEDIR, configfiles)
    measured = read_benchmarks(settings["scratch"])
    wanted = {job["rule"] for job in jobs}
    runs = {job["run"] for job in jobs} | {run for rule in wanted for run, _, _ in measured.get(rule, [])}
    data = data_of_runs(settings, runs - {None})
    sys.stdout.write(plan_text(jobs, costs_by_rule(jobs, measured, data), data))
    return 0


if __name__ == "__main__":
    sys.exit(main())
