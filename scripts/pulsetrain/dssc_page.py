"""The page of DSSC averages: numbers, findings, counts per bin, pictures and captions in one file."""

import html
import json
from pathlib import Path

import h5py
import xarray as xr

from pulsetrain.dssc_figures import frame_names_of
from pulsetrain.dssc_join import GROUP
from pulsetrain.page import Section, boxes, picture_section, table, write_html

MOST_ROWS = 200  # bins in the table


def write_page(name, samples, joined, integrity, names, figures, captions, output, attributes):
    """Write the page of a result.

    Parameters
    ----------
    name : str
        ``r0235`` or the name of a merge.
    samples : list of str
        Of the runs.
    joined : path
    integrity : list of path
        Findings of check_run, one file per run.
    names, figures, captions : list of str
        Name, PNG file and caption (reStructuredText file) of each picture, in the order of the page.
    output : str
        HTML file.
    attributes : dict
        Provenance.
    """
    with h5py.File(joined) as file:
        about = dict(file.attrs)
    with xr.open_dataset(joined, group=GROUP, engine="h5netcdf", decode_times=False) as data:
        data = data.drop_vars([each for each in data.data_vars if "x" in data[each].dims]).load()
    with xr.open_dataset(joined, group="account", engine="h5netcdf") as account:
        account = account.load()
    found = [json.loads(Path(path).read_text(encoding="utf-8")) for path in integrity]
    told = [f"run {run:04d}" for run in data["run"].values] + list(dict.fromkeys(filter(None, samples)))
    reason = f'<p class="refused">{html.escape(str(about["reason"]))}</p>' if about["reason"] else ""
    sections = [
        Section("findings", "Findings of the integrity check", _findings(found)),
        *(picture_section(*each) for each in zip(names, figures, captions, strict=True)),
        Section("bins", "Frames and pulse energies of the bins", _bins_table(data)),
        Section("modules", "Frames of the modules", _modules_table(data)),
    ]
    head = boxes(_numbers(data, account, about)) + reason
    write_html(f"DSSC {name} by {about['scan']}", ", ".join(told), head, sections, output, attributes)


def _numbers(data, account, about):
    seen = int(account["n_frames"].sum())
    used = int(account["n_frames"].sel(reason="used").sum()) if seen else 0
    return [
        ("status", f'<b class="{"accepted" if about["status"] == "complete" else "refused"}">{about["status"]}</b>'),
        ("bins", f"<b>{data.sizes['scan_variable']}</b>"),
        ("frame names", f"<b>{len(frame_names_of(data))}</b>"),
        ("modules", f"<b>{data.sizes['module']}</b>"),
        ("frames used", f"<b>{used}</b>"),
        ("frames left out", f"<b>{seen - used}</b>"),
    ]


def _findings(reports):
    rows = [
        (f"{report['run']:04d}", item["kind"].replace("_", " "), item["module"] or "", item["message"])
        for report in reports
        for item in report["findings"]
    ]
    return table(("run", "what", "module", "found"), rows) if rows else "<p>No faults were found.</p>"


def _bins_table(data):
    names = frame_names_of(data)
    units = data["scan_variable"].attrs.get("units", "")
    head = [f"scan variable [{units}]" if units else "scan variable"]
    head += [f"{name}, frames" for name in names]
    lit = [name for name in names if f"xgm_{name}" in data]
    head += [f"{name}, energy [{data[f'xgm_{name}'].attrs.get('units', '')}]" for name in lit]
    rows = []
    for b, value in enumerate(data["scan_variable"].values[:MOST_ROWS]):
        counts = [data[f"sum_count_{name}"].values[b] for name in names]
        row = [f"{value:g}"] + [_span(count) for count in counts]
        rows.append(row + [f"{data[f'xgm_{name}'].values[b]:.4g}" for name in lit])
    note = "<p>Where the modules have different numbers of frames, the smallest and the largest are given.</p>"
    if data.sizes["scan_variable"] > MOST_ROWS:
        note += f"<p>The first {MOST_ROWS} of {data.sizes['scan_variable']} bins.</p>"
    return table(head, rows) + note


def _modules_table(data):
    names = frame_names_of(data)
    rows = [
        [f"{module:02d}", *(str(int(data[f"sum_count_{name}"].values[:, m].sum())) for name in names)]
        for m, module in enumerate(data["module"].values)
    ]
    return table(["module", *(f"{name}, frames" for name in names)], rows)


def _span(counts):
    low, high = int(counts.min()), int(counts.max())
    return str(low) if low == high else f"{low} to {high}"
