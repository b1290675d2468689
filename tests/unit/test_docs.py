"""The documentation: its links lead somewhere, and it leaves nothing out that the code has."""

import ast
import functools
import re
from pathlib import Path
from urllib.parse import unquote

import h5py
import pytest
from chain import FEW_MODULES_HITS, run_chain

from pulsetrain import simulate, simulate_faults
from pulsetrain.module_index import COVERAGE

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"
PAGES = [REPOSITORY / "README.md", *sorted(DOCS.glob("*.md"))]
PAGE_OF = {  # files of the chain and their heading in docs/file-formats.md
    "frames/r0050.h5": "frames/r0050.h5",
    "vds/r0050_vds_proc.h5": "vds/r0050_vds_proc.h5",
    "pulses/r0050.h5": "pulses/r0050.h5",
    "masks/r0050_m00.h5": "masks/r0050_m07.h5",
    "masks/r0050_outliers_m00.h5": "masks/r0050_outliers_m07.h5",
    "litpixels/r0050_m00.h5": "litpixels/r0050_m07.h5",
    "events/r0050_events.h5": "events/r0050_events.h5",
    "powder/r0050_misses.h5": "powder/r0050_misses.h5",
    "powder/r0050_powder.h5": "powder/r0050_powder.h5",
    "saved_hits/r0050_hits.cxi": "saved_hits/r0050_hits.cxi",
    "emc/r0050_det.h5": "emc/",
}


@functools.cache
def text_of(path):
    return path.read_text(encoding="utf-8")


def prose_of(path):
    """A page without its code blocks."""
    return re.sub(r"^```.*?^```", "", text_of(path), flags=re.MULTILINE | re.DOTALL)


def anchors_of(path):
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def section_of(path, heading):
    """Text below a heading up to the next one of the same level."""
    match = re.search(rf"^## {re.escape(heading)}$(.*?)(?=^## |\Z)", text_of(path), flags=re.MULTILINE | re.DOTALL)
    assert match, f"{path.name} has no heading ## {heading}"
    return match[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = unquote(target).partition("#")
        found = (page.parent / name).resolve() if name else page
        assert found.exists(), f"{page.name}: {target} does not exist"
        if anchor:
            assert anchor in anchors_of(found), f"{page.name}: {target} has no such heading"


def test_every_rule_is_among_the_steps():
    for path in sorted((REPOSITORY / "rules").glob("*.smk")):
        for rule in re.findall(r"^ *rule (\w+):", text_of(path), flags=re.MULTILINE):
            assert re.search(rf"\b{rule}\b", text_of(DOCS / "steps.md")), f"docs/steps.md does not know {rule}"


def test_no_step_is_described_that_is_gone():
    rules = {
        rule
        for path in (REPOSITORY / "rules").glob("*.smk")
        for rule in re.findall(r"^ *rule (\w+):", text_of(path), flags=re.MULTILINE)
    }
    table = re.findall(r"^\| (plot_\w+|report) \|", text_of(DOCS / "steps.md"), flags=re.MULTILINE)
    headings = re.findall(r"^## ([a-z]+(?:_[a-z]+)+)$", text_of(DOCS / "steps.md"), flags=re.MULTILINE)
    assert headings
    assert table
    assert {*headings, *table} <= rules


def test_every_fault_of_the_simulator_is_described():
    rows = dict(re.findall(r"^\| `(\w+)` \| .* \| (.+) \|$", text_of(DOCS / "simulator.md"), flags=re.MULTILINE))
    described = {name for name in simulate_faults.FAULTS if name in rows}
    assert described == set(simulate_faults.FAULTS)


def test_the_profiles_of_the_simulator_are_as_described():
    for name, profile in simulate.PROFILES.items():
        trains, cells, sequences = profile["trains"], profile["cells"], profile["sequences"]
        row = f"| {name} | {trains} | {cells} | {sequences} | {trains * cells} |"
        assert row in text_of(DOCS / "simulator.md")


def finding_kinds():
    """First arguments of ``finding(...)`` and ``BrokenFile(...)`` in the library, and the states of a train."""
    kinds = {state for state in COVERAGE if state not in ("whole", "absent")} | {"suspect_copy"}
    for name in ("exdf", "module_index", "train_agreement", "integrity"):
        for node in ast.walk(ast.parse(text_of(REPOSITORY / "scripts" / "pulsetrain" / f"{name}.py"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            first = node.args[0]
            if node.func.id in ("finding", "BrokenFile") and isinstance(first, ast.Constant):
                kinds.add(first.value)
    # These are put together from parts.
    return kinds | {"missing_trains", "frame_counts_differ", "pulse_ids_differ", "cell_ids_differ"}


@pytest.mark.parametrize("kind", sorted(finding_kinds()))
def test_every_kind_of_finding_is_explained(kind):
    findings = section_of(DOCS / "troubleshooting.md", "Findings of check_run")
    assert re.search(rf"^\| `{kind}` \|", findings, flags=re.MULTILINE)


def datasets_of(path):
    """Paths of all datasets in an HDF5 file."""
    names = set()
    with h5py.File(path) as file:
        file.visititems(lambda name, held: names.add(name) if isinstance(held, h5py.Dataset) else None)
    return names


def test_every_dataset_of_a_run_is_described(tmp_path):
    settings = simulate.settings("tiny", modules=[0, 15], hit_rate=0.2)
    run_chain(tmp_path, settings, 50, "proc", hits=FEW_MODULES_HITS, masks={"per_frame": True})
    for name, heading in PAGE_OF.items():
        section = section_of(DOCS / "file-formats.md", heading)
        if "outliers" in name:
            section = section_of(DOCS / "file-formats.md", PAGE_OF["masks/r0050_m00.h5"])
        if name.startswith("vds"):
            section += section_of(DOCS / "file-formats.md", PAGE_OF["frames/r0050.h5"])
        (path,) = tmp_path.rglob(name)
        for dataset in datasets_of(path):
            leaf = dataset.split("/")[-1]
            assert re.search(rf"(?<![\w]){leaf}(?![\w])", section), f"docs/file-formats.md, {heading}: no {dataset}"
