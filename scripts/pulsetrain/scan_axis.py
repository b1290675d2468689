"""The axis of a current-source scan: the integration time of each point, in clocks of the detector."""

from pathlib import Path

import numpy as np

DEFAULT_POINTS = 800
FINE_POINTS = 200  # the first points are one clock apart, for the steep line of high gain
FIRST_CLOCK = 3
COARSE_STEP = 10
MIN_POINTS = 40  # three lines, each with points to trim


def default_axis(n_points=DEFAULT_POINTS):
    """Axis of the laboratory's scans: 3 to 202 in steps of 1, then from 203 in steps of 10.

    Parameters
    ----------
    n_points : int

    Returns
    -------
    ndarray of float64, (n_points,)
        [clocks]
    """
    point = np.arange(n_points)
    coarse = np.maximum(point - FINE_POINTS, 0)
    return (FIRST_CLOCK + np.minimum(point, FINE_POINTS) + COARSE_STEP * coarse).astype(np.float64)


def read_axis(path):
    """Read the axis of a scan from a file.

    Parameters
    ----------
    path : str or Path
        ``.npy``, or text with one number per line; ``#`` begins a comment.

    Returns
    -------
    ndarray of float64, (n,)
        [clocks]

    Raises
    ------
    ValueError
        If the file is not a list of numbers, or :func:`check_axis` refuses it.
    """
    path = Path(path)
    try:
        if path.suffix == ".npy":
            values = np.load(path, allow_pickle=False)
        else:
            lines = (line.partition("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
            values = [float(line) for line in lines if line]
        axis = np.asarray(values, dtype=np.float64)
    except FileNotFoundError:
        raise ValueError(f"{path}: the scan axis does not exist; correct `scan_axis` of the calibration") from None
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a list of numbers, one per line ({error})") from None
    return check_axis(axis, path)


def check_axis(axis, where):
    """Refuse an axis on which no line can be fitted.

    Parameters
    ----------
    axis : array_like
        [clocks]
    where : str or Path
        For the message.

    Returns
    -------
    ndarray of float64, (n,)

    Raises
    ------
    ValueError
        With every problem: wrong shape, too few points, values that are not finite, not strictly increasing.
    """
    axis = np.asarray(axis, dtype=np.float64)
    if axis.ndim != 1:
        raise ValueError(f"{where}: the scan axis has shape {axis.shape}; expected one number per scan point")
    problems = []
    if len(axis) < MIN_POINTS:
        problems.append(f"has {len(axis)} points; expected at least {MIN_POINTS}")
    infinite = np.flatnonzero(~np.isfinite(axis))
    if len(infinite):
        problems.append(f"is not finite at {len(infinite)} points, first at number {infinite[0] + 1}")
    falls = np.flatnonzero(np.diff(axis) <= 0)
    if len(falls):
        first = falls[0]
        problems.append(f"must increase, but {axis[first]:g} is followed by {axis[first + 1]:g} (number {first + 2})")
    if problems:
        raise ValueError(f"{where}: the scan axis " + "; it ".join(problems))
    return axis
