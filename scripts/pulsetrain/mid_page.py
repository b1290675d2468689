"""The page of an exported MID run."""

import html
import json
from pathlib import Path

from pulsetrain.mid_trains import count_reasons, read_exported
from pulsetrain.page import Section, boxes, findings_table, picture_section, table, write_html

MOST_ROWS = 200
HEADINGS = {
    "integrity": "Integrity of AGIPD",
    "coverage": "AGIPD modules",
    "mid_trains": "Trains of all detectors",
    "mid_agipd": "AGIPD, mean image",
    "mid_epix": "ePix, mean images",
    "mid_signal": "Signal along the run",
    "mid_photons": "Photon peaks and gain modes",
}


def write_page(run, sample, mid, integrity, names, figures, captions, output, attributes):
    """Write the page of a run.

    Parameters
    ----------
    run : int
    sample : str
    mid, integrity : str
        ``mid/r....h5`` and ``integrity/r....json``.
    names, figures, captions : list of str
        Name, PNG file and caption (reStructuredText file) of each picture, in the order of the page.
    output : str
        HTML file; pictures are inside it.
    attributes : dict
        Provenance, shown at the end of the page.
    """
    findings = json.loads(Path(integrity).read_text(encoding="utf-8"))
    exported = read_exported(mid)
    about = exported.attributes
    title = f"Run {run:04d}, MID export" + (f", {sample}" if sample else "")
    numbers = [
        ("integrity of AGIPD", f'<b class="{findings["verdict"]}">{findings["verdict"]}</b>'),
        ("trains exported", f"<b>{about['trains_kept']}</b>"),
        ("trains found", f"<b>{about['trains_found']}</b>"),
        ("AGIPD frames", f"<b>{about['n_frames']}</b>"),
        ("AGIPD modules", f"<b>{len(exported.modules)}</b>"),
        ("ePix cameras", f"<b>{len(exported.cameras)}</b>"),
        ("stream", f"<b>{about['stream']}</b>"),
    ]
    sections = [
        Section("summary", "Summary", f"<pre>{html.escape(about['summary'])}</pre>"),
        Section(
            "findings", "Findings in the files of AGIPD and ePix", _findings(findings["findings"], exported.faults)
        ),
        Section("dropped", "Trains that were not exported", _dropped_table(exported)),
    ]
    if exported.correction is not None:
        sections.append(Section("correction", "Correction", _correction_table(exported.modules, exported.correction)))
    for name, figure, caption in zip(names, figures, captions, strict=True):
        section = picture_section(name.removeprefix("mid_"), figure, caption)
        sections.append(section._replace(heading=HEADINGS.get(name, section.heading)))
    write_html(title, about["summary"].splitlines()[1].lstrip("├─ "), boxes(numbers), sections, output, attributes)


def _findings(of_agipd, of_epix):
    content = findings_table(of_agipd) if of_agipd or not of_epix else ""
    if of_agipd:
        content += "<p>Trains that are filled with missing values for hits are not exported here.</p>"
    return content + (table(("found in the files of the ePix",), [(line,) for line in of_epix]) if of_epix else "")


def _dropped_table(exported):
    n_dropped = len(exported.dropped_id)
    if not n_dropped:
        return "<p>All trains were exported.</p>"
    text = table(("trains", "reason"), [(str(count), reason) for reason, count in count_reasons(exported)])
    shown = zip(exported.dropped_id[:MOST_ROWS].tolist(), exported.dropped_reason, strict=False)
    rows = [(str(train), reason) for train, reason in shown]
    more = f"<p>The first {MOST_ROWS}; all are in index/dropped of the file.</p>" if n_dropped > MOST_ROWS else ""
    return f"{text}<details><summary>Each train</summary>{table(('train', 'reason'), rows)}{more}</details>"


def _correction_table(modules, about):
    if "zero_level" not in about:
        return "<p>There was no frame to correct.</p>"
    rows = [
        (
            f"{module:02d}",
            f"{about['zero_level'][k]:.2f}",
            f"{about['light'][k]:+.2f}",
            str(about["n_without"][k]),
            f"{100 * about['high'][k]:.3f}",
            f"{100 * about['medium'][k]:.4f}",
        )
        for k, module in enumerate(modules)
    ]
    head = (
        "module",
        "zero level [ADU]",
        "baseline too high by [ADU]",
        "frames without baseline",
        "high gain [% of pixels]",
        "medium gain [%]",
    )
    of = f"With the constants of the {about['source']}, baseline from the first {about['baseline_rows']} rows."
    if about["source"] == "dark file":
        of = f"With the dark file, baseline from the first {about['baseline_rows']} rows."
    return f"<p>{html.escape(of)}</p>{table(head, rows)}"
