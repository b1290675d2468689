"""The page of a Jungfrau: its panels, where their constants come from, and how they differ from those in force."""

import html

import numpy as np

from pulsetrain.figures import STAGE_NAMES
from pulsetrain.jungfrau import GAIN_STAGES, JungfrauError, dataset_name, detector_id
from pulsetrain.jungfrau_files import panel_lines
from pulsetrain.jungfrau_gate import change_text, changes, limits_text, panels_problem, read_comparable
from pulsetrain.page import Section, boxes, picture_section, table, write_html


def write_page(detector, arrays, texts, deployed, limits, names, figures, captions, output, attributes):
    """Write the page of a detector.

    Parameters
    ----------
    detector : pulsetrain.jungfrau.Detector
    arrays, texts : dict
        {type: ``.npy`` file}, {type: text file}
    deployed : dict
        {type: text file in force}; types that have none are absent.
    limits : pulsetrain.jungfrau_gate.Limits
    names, figures : list of str
        Pictures and their PNG files.
    captions : list of str
        reStructuredText files.
    output : str
        HTML file; pictures are inside it.
    attributes : dict
        Provenance, shown at the end of the page.
    """
    constants = {kind: np.load(path, mmap_mode="r") for kind, path in arrays.items()}
    sections = [
        Section("panels", "Panels", _panels_table(constants, panel_lines(texts["pixel_gain"]))),
        Section("files", "Files", _files(arrays, texts)),
        Section("in_force", "Against the constants in force", _changes(detector, constants, deployed, limits)),
        *(picture_section(*each) for each in zip(names, figures, captions, strict=True)),
    ]
    lead = f"{dataset_name(detector)}; detector id {detector_id(detector.panel_ids)}"
    write_html(f"Jungfrau {detector.source}", lead, _boxes(detector, constants), sections, output, attributes)


def _boxes(detector, constants):
    numbers = [
        ("panels", str(len(detector.panel_ids))),
        ("start of the run", _when(detector)),
        *(
            (f"{name}, median [ADU/keV]", f"{np.median(values):.4g}")
            for name, values in zip(STAGE_NAMES, constants["pixel_gain"], strict=True)
        ),
    ]
    return boxes([(label, f"<b>{html.escape(value)}</b>") for label, value in numbers])


def _when(detector):
    if detector.start_time is None:
        return "not known"
    start = _as_date(detector.start_time)
    return start if detector.start_is_exact else f"{start} or later"


def _as_date(stamp):
    """``20171205161400`` as ``2017-12-05 16:14:00``."""
    if not stamp.isdigit():
        return stamp
    return f"{stamp[:4]}-{stamp[4:6]}-{stamp[6:8]} {stamp[8:10]}:{stamp[10:12]}:{stamp[12:]}"


def _panels_table(constants, lines):
    head = ["panel", "id", "directory", "valid from", "gain high / medium / low [ADU/keV]"]
    head += ["offset high / medium / low [ADU]"]
    rows = []
    for number, (panel, directory, valid) in enumerate(lines):
        medians = [
            " / ".join(f"{np.median(constants[kind][stage, number]):.5g}" for stage in range(GAIN_STAGES))
            for kind in ("pixel_gain", "pixel_offset")
        ]
        rows.append([str(number), panel, directory, _as_date(valid), *medians])
    return table(head, rows) + "<p>Gains and offsets are medians over the pixels.</p>"


def _files(arrays, texts):
    rows = [[kind, arrays[kind], texts[kind]] for kind in arrays]
    return table(["type", "exact, float32 (gain stage, panel, row, column)", "text for psana"], rows)


def _changes(detector, constants, deployed, limits):
    parts = []
    for kind, values in constants.items():
        if kind not in deployed:
            parts.append(f"<p>No {kind} is in force for the run: nothing to compare.</p>")
            continue
        where = f"<p>{kind} in force: {html.escape(deployed[kind])}. {html.escape(limits_text(kind, limits))}.</p>"
        if problem := panels_problem(kind, detector.panel_ids, deployed[kind], limits):
            where += f"<p class='refused'>{html.escape(problem)}</p>"
        try:
            old = read_comparable(deployed[kind], values.shape)
        except JungfrauError as error:
            parts.append(f"{where}<p class='refused'>{html.escape(str(error))}</p>")
            continue
        rows = [[f"{number} {panel}"] for number, panel in enumerate(detector.panel_ids)]
        for change in changes(kind, values, old, limits):
            mark = " (refused)" if change.changed > limits.max_changed else ""
            rows[change.panel].append(f"{change_text(change)}; {100 * change.changed:.3g} %{mark}")
        head = ["panel", *(f"{name}: median change; pixels that jump" for name in STAGE_NAMES)]
        parts.append(where + table(head, rows))
    return "".join(parts)
