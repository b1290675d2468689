"""The report page of a run: numbers, findings, pictures and captions in one file that needs nothing else."""

import html
import json
import struct
from pathlib import Path

import h5py

from pulsetrain.page import Section, boxes, findings_table, picture_section, write_html


def write_page(run, sample, names, figures, captions, integrity, events, cxi, emc, output, attributes):
    """Write the report of a run.

    Parameters
    ----------
    run : int
    sample : str
    names, figures, captions : list of str
        Name, PNG file and caption (reStructuredText file) of each picture, in the order of the page.
    integrity, events, cxi, emc : str
        The run's files, for its numbers.
    output : str
        HTML file; pictures are inside it.
    attributes : dict
        Provenance, shown at the end of the page.
    """
    findings = json.loads(Path(integrity).read_text(encoding="utf-8"))
    title = f"Run {run:04d}" + (f", {sample}" if sample else "")
    sections = [
        Section("findings", "Findings of the integrity check", findings_table(findings["findings"])),
        *(picture_section(*each) for each in zip(names, figures, captions, strict=True)),
    ]
    write_html(title, findings["summary"], _numbers(findings, events, cxi, emc), sections, output, attributes)


def _numbers(findings, events, cxi, emc):
    with h5py.File(events) as file:
        attributes = dict(file.attrs)
        n_frames = file["is_hit"].shape[0]
        energy = file["pulse_energy"][()]
    with h5py.File(cxi) as file:
        photons = file["entry_1/instrument_1/detector_1/photon_counts"][()]
    with Path(emc).open("rb") as file:
        n_emc = struct.unpack("<i", file.read(4))[0]
    n_hits = int(attributes["n_hits"])
    known = energy[energy == energy]
    shown = [
        ("integrity", f'<b class="{findings["verdict"]}">{findings["verdict"]}</b>'),
        ("frames used", f"<b>{n_frames}</b>"),
        ("frames excluded", f"<b>{sum(findings['frames']['excluded'].values())}</b>"),
        ("hits", f"<b>{n_hits}</b>"),
        ("hit rate", f"<b>{100 * n_hits / n_frames:.2f} %</b>" if n_frames else "<b>-</b>"),
        ("photons per hit, mean", f"<b>{photons.mean():.0f}</b>" if len(photons) else "<b>-</b>"),
        ("pulse energy, mean", f"<b>{known.mean() * 1e3:.2f} mJ</b>" if len(known) else "<b>unknown</b>"),
        ("frames for Dragonfly", f"<b>{n_emc}</b>"),
    ]
    reason = str(attributes.get("reason", ""))
    note = f'<p class="refused">{html.escape(reason)}</p>' if reason else ""
    return boxes(shown) + note
