"""Files with constants of a whole Jungfrau: ``.npy``, and the text that psana's calibration store reads.

The text is that of PSCalib's save_txt: comments with the type and the dimensions, then rows of 1024 numbers, the array
reshaped to (3 x panels x 512, 1024). Numbers have nine significant digits, which give the same float32 when read.
"""

import getpass
import logging
import re
import socket
import time
from pathlib import Path

import numpy as np

from pulsetrain.jungfrau import UNITS, JungfrauError, detector_id
from pulsetrain.output import whole_file
from pulsetrain.provenance import as_text

log = logging.getLogger(__name__)
NUMBER = "%.9g"
PANEL_LINE = re.compile(r"# PANEL:\d+ (?P<panel>\S+) from (?P<name>.+), valid from (?P<valid>\S+)")


def write_constants(paths, constants, directories, detector, attributes):
    """Write the constants of a detector, and read each file back before it gets its name.

    Parameters
    ----------
    paths : dict
        {type: (``.npy`` file, ``.txt`` file)}
    constants : dict
        {type: float32 (3, P, 512, 1024)}
    directories : list of pulsetrain.jungfrau_panels.PanelDirectory
        Where the constants of each panel come from.
    detector : pulsetrain.jungfrau.Detector
    attributes : dict
        Provenance, comments of the text.
    """
    for line in _panel_comments(directories):
        log.info("%s", line)
    for kind, (npy, text) in paths.items():
        array = constants[kind]
        with whole_file(npy) as part:
            with part.open("wb") as file:
                np.save(file, array)
            _compare(np.load(part), array, npy)
        with whole_file(text) as part:
            write_text_array(part, array, Path(text).name, _comments(kind, directories, detector), attributes)
            _compare(read_text_array(part), array, text)
        log.info("%s of shape %s: %s and %s read back the same", kind, array.shape, npy, text)


def write_text_array(path, array, name, comments=(), attributes=None):
    """Write an array as PSCalib's save_txt does.

    Parameters
    ----------
    path : str or Path
    array : ndarray of float32
        Two or more dimensions.
    name : str
        File name to be told in the header.
    comments : sequence of str
        More lines for the header.
    attributes : dict, optional
        Provenance, for the header.
    """
    shape = ",".join(map(str, array.shape))
    header = [
        f"HOST        {socket.gethostname()}",
        f"WORK_DIR    {Path.cwd()}",
        f"FILE_NAME   {name}",
        f"DATE_TIME   {time.strftime('%Y-%m-%dT%H:%M:%S')}",
        f"UID         {getpass.getuser()}",
        f"SHAPE       ({shape})",
        f"DATATYPE    {array.dtype}",
    ]
    described = [f"DTYPE       {array.dtype}", f"NDIM        {array.ndim}"]
    described += [f"DIM:{axis}       {length}" for axis, length in enumerate(array.shape)]
    rows = array.reshape(-1, array.shape[-1])
    line = " ".join([NUMBER] * rows.shape[1]) + "\n"
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(f"# {text}\n" for text in comments)
        file.write(as_text(attributes or {}, "#") + "\n")
        file.writelines(f"# {text}\n" for text in header)
        file.write("\n")
        file.writelines(f"# {text}\n" for text in described)
        file.write("\n")
        file.writelines(line % tuple(row.tolist()) for row in rows)


def read_text_array(path):
    """Read an array that PSCalib's save_txt or :func:`write_text_array` wrote.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    ndarray
        Of the type and shape that the comments tell.

    Raises
    ------
    JungfrauError
        If the comments tell none, or the numbers are not that many.
    """
    told = {}
    for line in _comment_lines(path):
        words = line.split()
        if len(words) == 3 and (words[1] in ("DTYPE", "NDIM") or words[1].startswith("DIM:")):
            told[words[1]] = words[2]
    try:
        shape = tuple(int(told[f"DIM:{axis}"]) for axis in range(int(told["NDIM"])))
        dtype = np.dtype(told["DTYPE"])
    except (KeyError, ValueError, TypeError):
        raise JungfrauError(f"{path} does not tell its type and shape in comments DTYPE, NDIM, DIM:0...") from None
    try:
        values = np.loadtxt(path, dtype=dtype, comments="#", ndmin=2)
    except ValueError as error:
        raise JungfrauError(f"{path} cannot be read: {error}") from None
    if values.size != np.prod(shape, dtype=int):
        raise JungfrauError(f"{path} holds {values.size} numbers; its comments tell of shape {shape}. It is not whole")
    return values.reshape(shape)


def panel_lines(path):
    """Tell where the constants of each panel in a text file come from.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    list of (str, str, str)
        Panel id, directory, time from which it is valid; empty if the file does not tell (the older program's).
    """
    matches = filter(None, map(PANEL_LINE.match, _comment_lines(path)))
    return [(match["panel"], match["name"], match["valid"]) for match in matches]


def _comment_lines(path):
    lines = []
    try:
        with Path(path).open(encoding="utf-8") as file:
            for line in file:
                if line.startswith("#"):
                    lines.append(line.rstrip("\n"))
                elif line.strip():
                    break
    except UnicodeDecodeError:
        raise JungfrauError(f"{path} is not a text file") from None
    return lines


def _comments(kind, directories, detector):
    yield f"{kind} of {detector.source}, exp={detector.exp}:run={detector.run} [{UNITS[kind]}]"
    yield f"DETECTOR_ID {detector_id(detector.panel_ids)}"
    yield from _panel_comments(directories)


def _panel_comments(directories):
    for number, each in enumerate(directories):
        link = Path(each.path).name
        arrow = f" -> {link}" if link != each.name else ""
        yield f"PANEL:{number} {each.panel_id} from {each.name}{arrow}, valid from {each.valid_from or 'beginning'}"


def is_same(found, wanted):
    """Whether two arrays of float32 are the same bit for bit."""
    same = found.dtype == wanted.dtype and found.shape == wanted.shape
    return same and np.array_equal(found.view(np.uint32), wanted.view(np.uint32))


def _compare(found, wanted, path):
    """Stop unless two arrays are the same bit for bit."""
    if not is_same(found, wanted):
        raise JungfrauError(f"{path} does not read back as it was written; it is not kept. Is the disk in order?")
