"""Pages that need nothing else: head, numbers, tables, pictures with captions, and the origin, in one HTML file."""

import base64
import html
from pathlib import Path
from typing import NamedTuple

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
figure details { border-top: 1px solid var(--line); padding: 8px 0; }
figure summary { cursor: pointer; font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; background: white; font-size: 14px; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: 6px 10px; border: 1px solid var(--line); }
th { background: #eef1f5; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; }
.scroll pre { white-space: pre; font-size: 13px; }
footer { color: var(--soft); font-size: 13px; padding: 30px 0; }
"""


class Section(NamedTuple):
    """A part of a page: `name` is the target of its link, `heading` stands above `content` (HTML)."""

    name: str
    heading: str
    content: str


def write_html(title, lead, head, sections, output, attributes):
    """Write a page.

    Parameters
    ----------
    title, lead : str
        Heading, and one sentence below it; plain text.
    head : str
        HTML between the heading and the links: the most important numbers.
    sections : list of Section
    output : str
        HTML file.
    attributes : dict
        Provenance, shown at the end of the page.
    """
    links = "".join(f'<a href="#{section.name}">{words(section.name)}</a>' for section in sections)
    body = "".join(f'<h2 id="{name}">{html.escape(heading)}</h2>\n{content}\n' for name, heading, content in sections)
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
<p class="lead">{html.escape(lead)}</p>
{head}
<nav>{links}</nav>
</header>
<main>
{body}<footer>Made by pulsetrain {attributes["pulsetrain_version"]} (revision {attributes["git_revision"]})
on {attributes["created"]}.
<details><summary>All of its origin</summary><pre>{html.escape(as_text(attributes, ""))}</pre>
</details></footer>
</main>
</body>
</html>
"""
    write_text(output, page)


def boxes(numbers):
    """HTML of numbers in boxes, each with what it is below: list of (label, HTML of the number)."""
    inner = "".join(f"<div>{value}<span>{html.escape(label)}</span></div>" for label, value in numbers)
    return f'<div class="numbers">{inner}</div>'


def table(head, rows):
    """HTML of a table; all texts are escaped."""
    first = "".join(f"<th>{html.escape(text)}</th>" for text in head)
    rest = "".join("<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{first}</tr>{rest}</table></div>'


def findings_table(findings):
    """HTML of the findings of the integrity check: list of dict, as in ``integrity/r....json``."""
    if not findings:
        return "<p>No faults were found.</p>"
    rows = [
        (
            item["kind"].replace("_", " "),
            "" if item["module"] is None else str(item["module"]),
            item["message"],
            item.get("next_step") or "",
        )
        for item in findings
    ]
    return table(("what", "module", "found", "what to do"), rows)


def picture_section(name, figure, caption):
    """Section with one picture: its name, its PNG file and its caption (reStructuredText file)."""
    content = f"<figure>{image(figure, words(name))}<figcaption>{caption_html(caption)}</figcaption></figure>"
    return Section(name, words(name), content)


def image(figure, description):
    """HTML of a PNG file, which becomes part of the page."""
    data = base64.b64encode(Path(figure).read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(description)}" src="data:image/png;base64,{data}">'


def caption_html(path):
    """HTML of a caption, a reStructuredText file."""
    return publish_parts(Path(path).read_text(encoding="utf-8"), writer="html5")["body"]


def words(name):
    """``hit_rate`` as ``Hit rate``."""
    return name.replace("_", " ").capitalize()
