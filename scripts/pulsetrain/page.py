"""The report page of a run: numbers, findings, pictures and captions in one file that needs nothing else."""

import base64
import html
import json
import struct
from pathlib import Path

import h5py
from docutils.core import publish_parts

from pulsetrain.output import write_text
from pulsetrain.provenance import as_text

STYLE = """
:root { --ink: #1c2330; --soft: #5b6575; --line: #dfe3ea; --good: #2c7a4b; --bad: #b3202c; --back: #f6f7f9; }
* { box-sizing: border-box; }
body { margin: 0; font: 16px/1.5 system-ui, "Segoe UI", Helvetica, Arial, sans-serif; color: var(--ink);
       background: var(--back); }
header, main { max-width: 1080px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { font-size: 28px; margin: 0; }
h2 { font-size: 19px; margin: 36px 0 8px; }
nav { display: flex; flex-wrap: wrap; gap: 4px 16px; margin: 14px 0; font-size: 14px; }
a { color: #1b5fa8; }
.lead { color: var(--soft); margin: 4px 0 0; }
.numbers { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 10px; margin: 18px 0; }
.numbers div { background: white; border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; }
.numbers b { display: block; font-size: 21px; }
.numbers span { color: var(--soft); font-size: 13px; }
.accepted { color: var(--good); } .refused { color: var(--bad); }
figure { margin: 14px 0; background: white; border: 1px solid var(--line); border-radius: 8px; padding: 14px; }
figure img { display: block; max-width: 100%; height: auto; margin: 0 auto; }
figcaption { color: #39424f; font-size: 14.5px; max-width: 76ch; margin: 10px auto 0; }
figcaption p { margin: 6px 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: white; font-size: 14px; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border: 1px solid var(--line); }
th { background: #eef1f5; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: 13px; padding: 30px 0; }
"""


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
    sections = [_figure(name, figure, caption) for name, figure, caption in zip(names, figures, captions, strict=True)]
    links = "".join(f'<a href="#{name}">{_words(name)}</a>' for name in ("findings", *names))
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header>
<h1>{html.escape(title)}</h1>
<p class="lead">{html.escape(findings["summary"])}</p>
{_numbers(findings, events, cxi, emc)}
<nav>{links}</nav>
</header>
<main>
<h2 id="findings">Findings of the integrity check</h2>
{_findings_table(findings["findings"])}
{"".join(sections)}
<footer>Made by pulsetrain {attributes["pulsetrain_version"]} (revision {attributes["git_revision"]})
on {attributes["created"]}.
<details><summary>All of its origin</summary><pre>{html.escape(as_text(attributes, ""))}</pre>
</details></footer>
</main>
</body>
</html>
"""
    write_text(output, page)


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
    boxes = [
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
    inner = "".join(f"<div>{value}<span>{label}</span></div>" for label, value in boxes)
    return f'<div class="numbers">{inner}</div>{note}'


def _findings_table(findings):
    if not findings:
        return "<p>No faults were found.</p>"
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{html.escape(text)}</td>"
            for text in (
                item["kind"].replace("_", " "),
                "" if item["module"] is None else str(item["module"]),
                item["message"],
                item.get("next_step") or "",
            )
        )
        + "</tr>"
        for item in findings
    )
    return (
        '<div class="scroll"><table><tr><th>what</th><th>module</th><th>found</th><th>what to do</th></tr>'
        f"{rows}</table></div>"
    )


def _figure(name, figure, caption):
    picture = base64.b64encode(Path(figure).read_bytes()).decode("ascii")
    text = publish_parts(Path(caption).read_text(encoding="utf-8"), writer="html5")["body"]
    return (
        f'<h2 id="{name}">{_words(name)}</h2><figure><img alt="{_words(name)}" '
        f'src="data:image/png;base64,{picture}"><figcaption>{text}</figcaption></figure>\n'
    )


def _words(name):
    return name.replace("_", " ").capitalize()
