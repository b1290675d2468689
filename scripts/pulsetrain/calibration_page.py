"""The report page of a calibration: numbers per module, proposed intervals, pictures and captions."""

import html
from collections import Counter
from pathlib import Path

import numpy as np

from pulsetrain.calibration_maps import read_causes
from pulsetrain.calibration_summary import read_summary
from pulsetrain.detector import PIXELS
from pulsetrain.figures import STAGE_NAMES
from pulsetrain.page import Section, boxes, caption_html, image, picture_section, table, words, write_html


def write_page(
    calibration, summaries, masks, intervals, names, figures, module_names, module_figures, captions, output, attributes
):
    """Write the report of a calibration.

    Parameters
    ----------
    calibration : str
        Its name.
    summaries, masks : list of str
        ``summary_m...h5`` and ``mask_m...h5`` of the modules, in the same order.
    intervals : str
        The proposed intervals (YAML), shown as they are.
    names, figures : list of str
        Pictures of all modules, and their PNG files.
    module_names, module_figures : list of str
        Pictures of single modules, and the PNG files: all modules of the first picture, then of the next.
    captions : list of str
        reStructuredText files of `names`, then of `module_names`.
    output : str
        HTML file; pictures are inside it.
    attributes : dict
        Provenance, shown at the end of the page.
    """
    held = [read_summary(path) for path in summaries]
    masked = [read_causes(path)[1] for path in masks]
    per_picture = [module_figures[start : start + len(held)] for start in range(0, len(module_figures), len(held))]
    proposed = html.escape(Path(intervals).read_text(encoding="utf-8"))
    sections = [
        Section("numbers", "Numbers of the modules", _numbers_table(held, masked)),
        Section("failures", "Pixels and memory cells that could not be fitted", _failures_table(held)),
        *(picture_section(*each) for each in zip(names, figures, captions[: len(names)], strict=True)),
        *(
            _module_section(name, paths, held, caption)
            for name, paths, caption in zip(module_names, per_picture, captions[len(names) :], strict=True)
        ),
        Section(
            "proposed_intervals",
            "Proposed intervals, to be pasted into the configuration",
            f'<div class="scroll"><pre>{proposed}</pre></div>',
        ),
    ]
    modules = f"{len(held)} module{'s' if len(held) > 1 else ''}"
    cells = _span([summary.numbers["cellsPresent"] for summary in held])
    xray_cell = _span([summary.numbers["xrayCell"] for summary in held])
    lead = f"{modules}, {cells} memory cells; X-ray data of memory cell {xray_cell}"
    write_html(f"Calibration {calibration}", lead, _boxes(held, masked), sections, output, attributes)


def _module_section(name, paths, summaries, caption):
    pictures = "".join(
        f"<details{' open' if number == 0 else ''}><summary>Module {summary.module:02d}</summary>"
        f"{image(path, f'{words(name)} of module {summary.module:02d}')}</details>"
        for number, (path, summary) in enumerate(zip(paths, summaries, strict=True))
    )
    return Section(name, words(name), f"<figure>{pictures}<figcaption>{caption_html(caption)}</figcaption></figure>")


def _boxes(summaries, masked):
    gains = [_median([_median(summary.maps["analogGains_keV"][k]) for summary in summaries]) for k in range(3)]
    fitted = np.mean([min(summary.numbers["fittedPercent"]) for summary in summaries])
    numbers = [
        ("modules", str(len(summaries))),
        ("cells masked", _percent(np.mean(masked))),
        ("cells with all three lines", f"{fitted:.3f} %"),
        ("photon spacing, median", f"{_median([_median(s.maps['photonSpacing']) for s in summaries]):.4g} ADU"),
        ("dark noise, median", f"{_median([_median(s.maps['darkStandardDeviation']) for s in summaries]):.3g} ADU"),
        *((f"keV/ADU, {name}", f"{gain:.4g}") for name, gain in zip(STAGE_NAMES, gains, strict=True)),
    ]
    return boxes([(label, f"<b>{html.escape(value)}</b>") for label, value in numbers])


def _numbers_table(summaries, masked):
    head = ["module", "memory cells", "dark bursts", "scan points", "X-ray frames"]
    head += ["lines fitted, high / medium / low [%]", "photon spacing found [%]", "offset, high gain [ADU]"]
    head += ["dark noise [ADU]", "gain, high / medium / low [keV/ADU]", "photon spacing [ADU]", "masked [%]"]
    rows = []
    for summary, percent in zip(summaries, masked, strict=True):
        counts = summary.numbers
        present, cells = counts["cellsPresent"], counts["cells"]
        rows.append(
            [
                f"{summary.module:02d}",
                str(cells) if present == cells else f"{present} of {cells}",
                *(_known(counts[name]) for name in ("bursts", "scanPoints", "xrayFrames")),
                " / ".join(f"{value:.3f}" for value in counts["fittedPercent"]),
                f"{counts['spacingPercent']:.3f}",
                f"{_median(summary.maps['darkOffsets'][0]):.1f}",
                f"{_median(summary.maps['darkStandardDeviation']):.2f}",
                " / ".join(f"{_median(summary.maps['analogGains_keV'][k]):.4g}" for k in range(3)),
                f"{_median(summary.maps['photonSpacing']):.2f}",
                f"{percent:.2f}",
            ]
        )
    return table(head, rows) + "<p>Values in ADU and keV/ADU are medians over pixels and memory cells.</p>"


def _failures_table(summaries):
    rows = []
    for data, key in (("current source", "failures"), ("X-ray", "xrayFailures")):
        counts = [summary.numbers[key] for summary in summaries]
        cells = sum(summary.numbers["cellsPresent"] if key == "failures" else 1 for summary in summaries)
        totals = Counter()
        for held in counts:
            totals.update(held)
        for reason, total in totals.most_common():
            percent = f"{100 * total / (max(cells, 1) * PIXELS):.4f}"
            rows.append([data, reason, percent, *(str(held.get(reason, 0)) for held in counts)])
    if not rows:
        return "<p>All were fitted.</p>"
    head = ["data", "reason", "all [%]", *(f"module {summary.module:02d}" for summary in summaries)]
    return table(head, rows) + "<p>Numbers of pixels; of the current source, of pixels and memory cells.</p>"


def _median(values):
    values = np.asarray(values)
    known = values[np.isfinite(values)]
    return float(np.median(known)) if known.size else float("nan")


def _known(value):
    return "-" if value is None else str(value)


def _span(values):
    """Numbers of several modules as text: one, or the smallest and the largest."""
    known = sorted({value for value in values if value is not None})
    if not known:
        return "unknown"
    return str(known[0]) if len(known) == 1 else f"{known[0]} to {known[-1]}"


def _percent(value):
    return f"{value:.2f} %"
