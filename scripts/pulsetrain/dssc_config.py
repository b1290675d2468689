"""The section ``dssc`` of the configuration: what the schema cannot check, and which runs a result is made of."""

from collections import Counter

from pulsetrain.config import ConfigError

DIMENSIONS = ("scan_variable", "module", "x", "y", "run")  # of the results; no frame may have such a name


def check_scans(dssc, runs):
    """Check the scans and merges against each other and the run table.

    Parameters
    ----------
    dssc : dict
        Section of the completed configuration.
    runs : dict
        Rows of the run table.

    Raises
    ------
    ConfigError
        With every problem.
    """
    problems = []
    known = {run for run, row in runs.items() if row["kind"] == "dssc"}
    for name, scan in dssc["scans"].items():
        key = f"dssc.scans.{name}"
        variable = scan["variable"]
        if variable is not None and (variable["source"] is None) == (variable["file"] is None):
            problems.append(f"{key}.variable needs either source (with key) or file")
        if scan["xgm_limits"] is not None and not scan["xgm_limits"][0] <= scan["xgm_limits"][1]:
            problems.append(f"{key}.xgm_limits is {scan['xgm_limits']}; expected the smallest first")
        if scan["xgm_limits"] is not None and dssc["xgm"]["source"] is None:
            problems.append(f"{key}.xgm_limits needs dssc.xgm.source, which is null")
        clashes = [text for text, n in Counter(variable_names(scan["frame_pattern"])).items() if n > 1]
        if clashes:
            problems.append(f"{key}.frame_pattern: two results would be called {clashes[0]}; choose other names")
        odd = [name for name in dict.fromkeys(scan["frame_pattern"]) if "dark" in name.lower() and "dark" not in name]
        if odd:
            problems.append(
                f"{key}.frame_pattern: {', '.join(odd)} would count as frames with an X-ray pulse; write dark in small "
                "letters, or take another name"
            )
        problems += _run_problems(f"{key}.runs", scan["runs"] or [], known)
    for name, numbers in dssc["merge"].items():
        problems += _run_problems(f"dssc.merge.{name}", numbers, known)
        if not merged_scans(dssc, runs, name):
            problems.append(f"dssc.merge.{name}: no entry of dssc.scans is for all of its runs")
    if dssc["geometry"]["quadrants"] is not None and dssc["geometry"]["file"] is None:
        problems.append("dssc.geometry.quadrants is given without dssc.geometry.file")
    if problems:
        raise ConfigError("the configuration is not usable:\n" + "\n".join(f"  - {text}" for text in problems))


def variable_names(frame_pattern):
    """Names of all variables and dimensions of a result, with repetitions where they clash."""
    found = list(DIMENSIONS)
    for name in dict.fromkeys(frame_pattern):
        found += [name, f"{name}_standard_error", f"sum_count_{name}"]
        found += [f"{about}_{name}" for about in ("xgm", "xgm_count", "xgm_module", "xgm_module_count")]
    return found


def scan_runs(dssc, runs, scan):
    """Runs (four digits) that a scan is for."""
    chosen = dssc["scans"][scan]["runs"]
    return [run for run, row in runs.items() if row["kind"] == "dssc" and (chosen is None or int(run) in chosen)]


def merged_scans(dssc, runs, name):
    """Scans that are for all runs of an entry of ``dssc.merge``."""
    wanted = {f"{run:04d}" for run in dssc["merge"][name]}
    return [scan for scan in dssc["scans"] if wanted <= set(scan_runs(dssc, runs, scan))]


def _run_problems(key, numbers, known):
    unknown = [run for run in numbers if f"{run:04d}" not in known]
    if unknown:
        names, first = ", ".join(f"{run:04d}" for run in unknown), unknown[0]
        yield (
            f"{key} names {names}, which the run table does not have as kind dssc. (Is it {first:04o} in the file? "
            f"YAML reads a number that begins with 0 as octal, {first:04o} as {first}: write {first:o})"
        )
