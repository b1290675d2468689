"""Jungfrau detectors of the LCLS: ids of panels and detectors, and the names that follow from them."""

import hashlib
import re
from typing import NamedTuple

TYPES = ("pixel_gain", "pixel_offset")  # types of constants, as the calib directory calls them
UNITS = {"pixel_gain": "ADU/keV", "pixel_offset": "ADU"}
GAIN_STAGES = 3
PANEL_SHAPE = (512, 1024)
FIELDS = ("moduleVersion", "firmwareVersion", "serialNumber")  # of a panel, in the order of its id
FIRST_CONFIG_WITH_IDS = 3
LAST_RUN = 9999
DATASET = re.compile(r"(?:exp=)?(?P<exp>[A-Za-z]\w*):run=(?P<run>\d+)")
PANEL_ID = re.compile(r"[1-9a-f][0-9a-f]{0,15}(-[1-9a-f][0-9a-f]{0,15}){2}")
MOST_IN_NAME = 120  # letters of a detector id in a file name; a name ends at 255


class JungfrauError(ValueError):
    """Something about a Jungfrau or its constants is wrong; the message names it and says what to do."""


class Detector(NamedTuple):
    """A Jungfrau as it was in a run.

    `panel_ids` is empty for ConfigV1 and ConfigV2, which do not tell them. `start_time` is YYYYMMDDhhmmss or None; if
    not `start_is_exact`, the run began then or later.
    """

    exp: str
    run: int
    source: str
    config_version: int | None
    panel_ids: tuple[str, ...]
    start_time: str | None
    start_is_exact: bool


def raise_problems(what, problems):
    """Raise one error with all problems, if there are any."""
    if problems:
        raise JungfrauError(f"{what}:\n" + "\n".join(f"  - {problem}" for problem in problems))


def panel_id(module_version, firmware_version, serial_number):
    """Give the id of a panel: three numbers in hexadecimal, without 0x and without leading zeros.

    Parameters
    ----------
    module_version, firmware_version, serial_number : int
        As ``psana.Jungfrau.ModuleConfigV1`` gives them, 64 bits.

    Returns
    -------
    str
        Such as ``171113-154920171025-3d00fb``.

    Raises
    ------
    JungfrauError
        If a number is 0 (the id would have an empty field), negative, larger than 64 bits, or none.
    """
    numbers = dict(zip(FIELDS, (module_version, firmware_version, serial_number), strict=True))
    wrong = []
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int):
            wrong.append(f"{name} is {value!r}, not a whole number")
        elif not 0 < value < 2**64:
            wrong.append(f"{name} is {value}; expected 1 to {2**64 - 1}")
    if wrong:
        raise JungfrauError("; ".join(wrong))
    return "-".join(format(value, "x") for value in numbers.values())


def detector_id(panel_ids):
    """Give the id of a detector: the ids of its panels, in their order, joined by underscores."""
    return "_".join(panel_ids)


def id_jungfrau(detector, iseg=None):
    """Give the id of a detector or of one of its panels, as the function of this name in Detector.UtilsJungfrau.

    Parameters
    ----------
    detector : Detector
    iseg : int, optional
        Number of the panel.

    Returns
    -------
    str
        For ConfigV1 and ConfigV2, which tell no ids, the name of the object, such as ``XcsEndstation.0-Jungfrau.0``.
    """
    if not detector.panel_ids:
        return slug(detector.source)
    if iseg is None:
        return detector_id(detector.panel_ids)
    if not 0 <= iseg < len(detector.panel_ids):
        raise JungfrauError(f"{detector.source} has {len(detector.panel_ids)} panels; there is no panel {iseg}")
    return detector.panel_ids[iseg]


def split_detector_id(text):
    """Take a detector id apart.

    Parameters
    ----------
    text : str

    Returns
    -------
    tuple of str
        Panel ids.

    Raises
    ------
    JungfrauError
    """
    panel_ids = tuple(str(text).split("_"))
    wrong = [name for name in panel_ids if not PANEL_ID.fullmatch(name)]
    if wrong:
        raise JungfrauError(
            f"{wrong[0]!r} is not the id of a panel; expected three hexadecimal numbers without leading zeros, such as "
            "171113-154920171025-3d00fb, and underscores between panels"
        )
    return panel_ids


def parse_dataset(text):
    """Split ``exp=xcsls3716:run=631`` into experiment and run number."""
    match = DATASET.fullmatch(text)
    if not match or not 1 <= int(match["run"]) <= LAST_RUN:
        raise JungfrauError(
            f"{text!r} is not a data set; expected one run of 1 to {LAST_RUN}, as exp=xcsls3716:run=631"
        )
    return match["exp"], int(match["run"])


def dataset_name(detector):
    """Give the data set as psana writes it."""
    return f"exp={detector.exp}:run={detector.run}"


def slug(source):
    """Name of a source without colons: ``XcsEndstation.0-Jungfrau.0``."""
    return source.replace(":", "-")


def id_in_name(panel_ids):
    """Give the detector id as it stands in names of files.

    From five panels on a name with the whole id would come near the longest one that file systems allow (255 letters).
    There the first panel's id stands for it, with the number of the others and a hash of all.
    """
    whole = detector_id(panel_ids)
    if len(whole) <= MOST_IN_NAME:
        return whole
    short = hashlib.sha256(whole.encode()).hexdigest()[:12]
    return f"{panel_ids[0]}_and-{len(panel_ids) - 1}-more-{short}"


def local_name(detector, kind, extension):
    """Name of a local file with constants of one type, as the document has it."""
    panels = id_in_name(detector.panel_ids)
    return f"{detector.exp}-r{detector.run:04d}_{detector.source}_{panels}_{kind}.{extension}"
