"""Read where a result comes from, out of the file itself."""

import json
from pathlib import Path

import h5py
from PIL import Image


def origin_of(path):
    """Rule, parameters and code that a file says it was made with.

    Parameters
    ----------
    path : str or Path
        HDF5, JSON, PNG, or a text with provenance as comment lines.

    Returns
    -------
    dict
        ``rule`` (str), ``params`` and ``code`` (dict); None if the file does not tell.
    """
    path = Path(path)
    try:
        if h5py.is_hdf5(path):
            with h5py.File(path) as file:
                attributes = {name: str(file.attrs[name]) for name in ("rule", "params", "code")}
        elif path.suffix == ".png":
            with Image.open(path) as picture:
                attributes = dict(picture.info)
        elif path.suffix == ".json":
            attributes = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        else:
            lines = path.read_text(encoding="utf-8").splitlines()
            attributes = dict(line.lstrip("#; ").split(": ", 1) for line in lines if line[:1] in "#;" and ": " in line)
        return {
            "rule": attributes["rule"],
            "params": json.loads(attributes["params"]),
            "code": json.loads(attributes["code"]),
        }
    except (OSError, KeyError, ValueError):
        return None


def is_as_planned(outputs, rule, params):
    """Say whether the outputs of a job are what the job would make now, by what they tell of themselves.

    Parameters
    ----------
    outputs : list of Path
        At least one has to tell; none may tell something else.
    rule : str
    params : dict
        Parameters as planned, with ``code``.

    Returns
    -------
    bool
    """
    planned = dict(params)
    planned.pop("named", None)  # as begin_job leaves it out
    planned = {
        "rule": rule,
        "code": planned.pop("code", None),
        "params": json.loads(json.dumps(planned, sort_keys=True, default=str)),
    }
    told = [origin for origin in map(origin_of, outputs) if origin is not None]
    return bool(told) and all(origin == planned for origin in told)
