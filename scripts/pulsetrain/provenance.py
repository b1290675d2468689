"""Where a result comes from: the code, the parameters and the inputs that made it."""

import ast
import functools
import hashlib
import json
import logging
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import h5py

from pulsetrain import __version__
from pulsetrain.output import write_text

SCRIPTS = Path(__file__).resolve().parents[1]
# The code of the call of snakemake that a job belongs to. Every job inherits it, on a cluster too, and plans once more
# when it starts: what that says is the code of that moment, not of the call.
CALL_CODE = "PULSETRAIN_CALL_CODE"
CALL_SETTINGS = "PULSETRAIN_CALL_SETTINGS"


def code_of(script):
    """Name and hash the script and every project module that it imports, directly or not.

    As a rule's parameter this makes an edited library module rerun exactly its users, and a touched or freshly
    cloned file rerun nothing.

    Parameters
    ----------
    script : str
        File name in ``scripts/``, such as ``"find_hits.py"``.

    Returns
    -------
    dict
        {path relative to ``scripts/``: first 12 hex digits of the sha256}, sorted by path.
    """
    found = {}
    pending = [SCRIPTS / script]
    while pending:
        path = pending.pop()
        name = path.relative_to(SCRIPTS).as_posix()
        if name in found:
            continue
        found[name], imported = _read_module(path)
        pending.extend(imported)
    return dict(sorted(found.items()))


@functools.cache
def _read_module(path):
    source = path.read_bytes()
    imported = []
    for node in _statements(ast.parse(source, filename=str(path)).body):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                raise ImportError(f"{path}: relative import in line {node.lineno}; write the full module name")
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            imported.extend(_project_files(SCRIPTS, name))
    return hashlib.sha256(source).hexdigest()[:12], tuple(dict.fromkeys(imported))


def _statements(body):
    """All statements, with those inside others; without their expressions, which cannot import and are the most."""
    for node in body:
        yield node
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            yield from _statements(getattr(node, name, ()))


@functools.cache
def _project_files(scripts, module):
    """Files that importing `module` runs: every package on the way and the module itself."""
    parts = module.split(".")
    bases = [scripts.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return [path for base in bases for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()]


def hand_over_code(scripts):
    """Tell all jobs of this call of snakemake by which code they were planned.

    Parameters
    ----------
    scripts : iterable of str
        File names in ``scripts/``; those that do not exist are left out.
    """
    code = {}
    for script in scripts:
        if (SCRIPTS / script).is_file():
            code |= code_of(script)
    os.environ[CALL_CODE] = json.dumps(code)


def hand_over_settings(directory, config, runs):
    """Tell all jobs of this call of snakemake the settings they were planned with.

    On a cluster each job reads the configuration again when it starts: with a file that was edited meanwhile it would
    do something else than what was planned, and what is recorded of it.

    Parameters
    ----------
    directory : str or Path
        Where jobs on all nodes find the file with the settings.
    config : dict
        Complete.
    runs : dict
        Rows of the run table.

    Returns
    -------
    Path
        The file; it can go when all jobs have ended.
    """
    path = (Path(directory) / f"settings_{os.getpid()}_{time.time_ns()}.json").absolute()
    write_text(path, json.dumps({"config": config, "runs": runs}))
    os.environ[CALL_SETTINGS] = str(path)
    return path


def handed_over_settings():
    """Give what :func:`hand_over_settings` told: (config, runs), or None outside the jobs of a call."""
    if CALL_SETTINGS not in os.environ:
        return None
    told = json.loads(Path(os.environ[CALL_SETTINGS]).read_text(encoding="utf-8"))
    return told["config"], told["runs"]


def input_files(inputs, sizes):
    """Input files of a job; a directory stands for the files in it that the parameter ``sizes`` names."""
    names = [[f"{name}/{each}" for each in sizes] if Path(name).is_dir() else [str(name)] for name in inputs]
    return [name for files in names for name in files]


def begin_job(rule, params, inputs, log):
    """Start a job: open its log, check its code, and collect what its outputs will say of their origin.

    Parameters
    ----------
    rule : str
        Name of the rule and of its script.
    params : dict
        The rule's parameters; ``params["code"]`` is what :func:`code_of` gave when the job was planned, which on a
        cluster is when it started. What :func:`hand_over_code` told counts more.
    inputs : list of str
        Input files; for directories see :func:`input_files`.
    log : str
        Log file; uncaught exceptions land in it too.

    Returns
    -------
    dict
        Attributes for the root group of each output.

    Raises
    ------
    RuntimeError
        If the code was edited between the start of snakemake and now.
    """
    _log_to(log)
    params = dict(params)
    planned = params.pop("code")
    params.pop("named", None)  # the same values once more, so that Snakemake sees them change
    running = code_of(f"{rule}.py")
    if CALL_CODE in os.environ:
        planned = json.loads(os.environ[CALL_CODE])
    # A file that is not imported any more is missed by the file that imported it, which has changed then.
    changed = sorted(name for name in running if planned.get(name) != running[name])
    if changed:
        raise RuntimeError(
            f"{', '.join(changed)} changed after this {rule} job was planned, so its result would not be what the "
            "plan says. Undo the edit, and the jobs that have not started go on; or end snakemake (Ctrl-C) and start "
            "it again: it will plan with the code as it is now."
        )
    _allow_many_open_files()
    names = sorted(set(input_files(inputs, params.get("sizes", {}))))
    files = {name: Path(name).stat().st_size for name in names if Path(name).is_file()}
    return {
        "pulsetrain_version": __version__,
        "git_revision": git_revision(),
        "rule": rule,
        "params": json.dumps(params, sort_keys=True, default=str),
        "code": json.dumps(running, sort_keys=True),
        "inputs": json.dumps(files, sort_keys=True),
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def is_simulated(path):
    """Say whether a file was written by the simulator (by its attribute ``rule``); None if it cannot be read."""
    try:
        with h5py.File(path) as file:
            return str(file.attrs.get("rule", "")).startswith("simulate_")
    except OSError:
        return None


def as_text(attributes, mark):
    """Give provenance as comment lines, each beginning with `mark`, for text files."""
    return "".join(f"{mark} {name}: {value}\n" for name, value in attributes.items())


def checkout_path(path):
    """Full path of a file named in the configuration: a relative one counts from the checkout."""
    return str(SCRIPTS.parent / Path(path).expanduser())


def git_revision():
    """Revision of the checkout, with ``-dirty`` when tracked files were edited; ``unknown`` without git."""
    try:
        return subprocess.run(
            ["git", "-C", str(SCRIPTS), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _allow_many_open_files():
    # A run has hundreds of source files; the usual soft limit is 1024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to(path):
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    to_file, to_terminal = logging.FileHandler(path, mode="w"), logging.StreamHandler()
    to_file.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    # Jobs share the terminal, so each line says whose it is: count_litpixels r0050_m07.
    to_terminal.setFormatter(logging.Formatter(f"{Path(path).parent.name} {Path(path).stem}: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[to_file, to_terminal], force=True)

    def log_exception(kind, value, trace):
        logging.getLogger(__name__).critical("stopped by an error", exc_info=(kind, value, trace))

    sys.excepthook = log_exception
