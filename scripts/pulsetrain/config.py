"""The configuration and the run table: read, checked against their schemas, completed with defaults."""

import difflib
from pathlib import Path

import jsonschema
import pandas as pd
import yaml

CALIBRATION_DATA = ("dark", "current_source", "xray")


class ConfigError(ValueError):
    """The configuration or the run table is wrong; the message lists every problem with its cure."""


def complete_config(config, schema_path, config_path="config"):
    """Check a configuration and fill in the defaults, all problems at once.

    Parameters
    ----------
    config : dict
        As read from YAML. Not changed.
    schema_path : str or Path
        JSON schema (YAML).
    config_path : str
        Name to use in messages.

    Returns
    -------
    dict
        With every key of the schema.

    Raises
    ------
    ConfigError
    """
    schema = read_schema(schema_path)
    problems = [_describe(error) for error in jsonschema.Draft202012Validator(schema).iter_errors(config)]
    if problems:
        raise ConfigError(f"{config_path} is not usable:\n" + "\n".join(f"  - {line}" for line in sorted(problems)))
    return _with_defaults(config, schema)


def read_schema(path):
    """Read a JSON schema kept as YAML."""
    return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def read_run_table(path, schema_path, calibrations):
    """Read and check the run table.

    Parameters
    ----------
    path : str or Path
        CSV file.
    schema_path : str or Path
        JSON schema of one row.
    calibrations : collection of str
        Names that the column `calibration` may use.

    Returns
    -------
    dict
        {run as four digits: {column: text}}, with defaults filled in.

    Raises
    ------
    ConfigError
        With every problem of the table.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"the run table {path} does not exist; set `runs` in the configuration to a CSV file")
    schema = read_schema(schema_path)
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, skipinitialspace=True)
    except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError) as error:
        raise ConfigError(f"the run table {path} cannot be read as CSV: {error}") from error
    unknown = [name for name in table.columns if name not in schema["properties"]]
    if unknown or "run" not in table.columns:
        raise ConfigError(
            f"the run table {path} has the columns {', '.join(table.columns)}; "
            + ("".join(f"{name} is unknown{_nearest(name, schema['properties'])}; " for name in unknown))
            + f"allowed are {', '.join(schema['properties'])}, and run is required"
        )
    validator = jsonschema.Draft202012Validator(schema)
    runs, problems = {}, []
    for line, row in enumerate(table.to_dict("records"), start=2):
        given = {name: value.strip() for name, value in row.items() if value.strip()}
        errors = [_describe(error) for error in validator.iter_errors(given)]
        if errors:
            problems += [f"line {line}: {text}" for text in errors]
            continue
        run = given["run"].zfill(4)
        if run in runs:
            problems.append(f"line {line}: run {run} is there twice; keep one row per run")
            continue
        runs[run] = _with_defaults(given, schema) | {"run": run}
        problems += [f"line {line}: {text}" for text in _calibration_problems(runs[run], calibrations)]
    if problems:
        raise ConfigError(f"the run table {path} is not usable:\n" + "\n".join(f"  - {text}" for text in problems))
    return runs


def check_calibrations(calibrations):
    """Check what the schema cannot: that each calibration has either constants or all data to make them from.

    Parameters
    ----------
    calibrations : dict
        ``calibrations`` of the completed configuration.

    Raises
    ------
    ConfigError
        With every problem.
    """
    problems = []
    for name, entry in calibrations.items():
        data = {kind: entry[kind] for kind in CALIBRATION_DATA}
        missing = [kind for kind, value in data.items() if value is None]
        if entry["constants"] is not None and len(missing) < len(data):
            problems.append(f"calibrations.{name} has both constants and {_given(data)}; take out one of them")
        elif entry["constants"] is None and 0 < len(missing) < len(data):
            problems.append(f"calibrations.{name} has {_given(data)}, but not {' and '.join(missing)}; all are needed")
        elif not missing:
            problems += [f"calibrations.{name}.{text}" for text in _data_problems(entry)]
    if problems:
        raise ConfigError("the configuration is not usable:\n" + "\n".join(f"  - {text}" for text in problems))


def is_made(entry):
    """Say whether an entry of ``calibrations`` names the data that its constants are made from."""
    return all(entry[kind] is not None for kind in CALIBRATION_DATA)


def calibration_groups(entry, kind):
    """Runs or patterns of one kind of calibration data, a list; several for column groups of a scan."""
    return entry[kind] if isinstance(entry[kind], list) else [entry[kind]]


def _data_problems(entry):
    wanted, example = (int, "a run number") if entry["layout"] == "xfel" else (str, "a pattern with {module} and *")
    for kind in CALIBRATION_DATA:
        groups = calibration_groups(entry, kind)
        wrong = [value for value in groups if not isinstance(value, wanted)]
        if wrong:
            yield f"{kind} is {wrong[0]!r}; layout {entry['layout']} needs {example}"
        elif wanted is str:
            yield from _pattern_problems(kind, groups)
    n_groups = len(calibration_groups(entry, "current_source"))
    if n_groups not in ((1, 4) if entry["layout"] == "xfel" else (4,)):
        yield f"current_source has {n_groups} column groups; expected 4" + (
            " or one run" if entry["layout"] == "xfel" else ""
        )


def _pattern_problems(kind, patterns):
    for pattern in patterns:
        try:
            named = pattern.format(module=1) != pattern.format(module=2)
        except (IndexError, KeyError, ValueError):
            yield f"{kind} is {pattern!r}; the only name in braces is {{module}}, or {{module:02d}} for two digits"
            continue
        if not named or pattern.count("*") > 1:
            yield f"{kind} is {pattern!r}; it must contain {{module}}, and * at most once, for the part's number"


def _given(data):
    return " and ".join(kind for kind, value in data.items() if value is not None)


def unknown_run(run, runs, table):
    """Say that a run is not in the run table, with the nearest ones."""
    near = sorted(runs, key=lambda known: abs(int(known) - int(run)))[:3]
    hint = f"the nearest are {', '.join(near)}" if near else "the table is empty"
    return ConfigError(f"run {run} is not in the run table {table} ({hint}); add a row for it")


def _calibration_problems(row, calibrations):
    name = row["calibration"]
    if row["kind"] == "hits" and row["stream"] == "raw" and not name:
        yield f"run {row['run']} has stream raw, which needs a name of `calibrations` in the column calibration"
    elif name and name not in calibrations:
        yield (
            f"run {row['run']} names the calibration {name!r}, which is not under `calibrations` in the configuration"
            + _nearest(name, calibrations)
        )


def _with_defaults(values, schema):
    if "anyOf" in schema:
        schema = next(option for option in schema["anyOf"] if (option.get("type") == "null") == (values is None))
    if not isinstance(values, dict):
        return values
    extra = schema.get("additionalProperties")
    complete = {}
    for name in sorted({*values, *schema.get("properties", {})}):
        inner = schema.get("properties", {}).get(name, extra)
        value = values.get(name, inner.get("default"))
        complete[name] = _with_defaults(value, inner)
    return complete


def _describe(error):
    if error.validator == "anyOf":
        inner = [e for e in error.context if e.validator != "type" or e.absolute_path != error.absolute_path]
        if inner:
            return "; ".join(_describe(e) for e in inner)
    place = ".".join(str(part) for part in error.absolute_path)
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        unknown = sorted(set(error.instance) - set(known))
        dotted = [f"{place}.{name}" if place else name for name in unknown]
        return "; ".join(
            f"{full} is not a known key{_nearest(name, known)}" for full, name in zip(dotted, unknown, strict=True)
        )
    meaning = error.schema.get("description") if isinstance(error.schema, dict) else None
    return f"{place or 'the top level'}: {error.message}" + (f" ({meaning})" if meaning else "")


def _nearest(name, known):
    near = difflib.get_close_matches(name, list(known), n=1)
    if near:
        return f"; did you mean {near[0]}?"
    return f"; known are {', '.join(sorted(known))}" if known else ""
