"""Plan, watch, process, and the summary at the end: what a beamtime needs besides the rules."""

import pytest
from conftest import snakemake, write_config, write_run

from pulsetrain.run_status import read_summary

MODULES = [5]
HITS = {"min_score": 0, "min_spread": 0, "threshold_sigma": 1}
ROWS = ("50,,proc,", "51,,proc,", "52,,proc,")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """Three runs up to their events: 50 whole, 51 unreadable, 52 with an empty file; and what snakemake said."""
    place = tmp_path_factory.mktemp("night")
    for run in (50, 51, 52):
        write_run(place / "data", run=run, modules=MODULES, trains=6, cells=4, hit_rate=0.3)
    for name in ("r0051/CORR-R0051-AGIPD05-S00000.h5", "r0051/CORR-R0051-AGIPD05-S00001.h5"):
        (place / "data" / "proc" / name).write_bytes(b"")
    (place / "data" / "proc" / "r0052" / "CORR-R0052-AGIPD05-S00001.h5").write_bytes(b"")
    write_config(
        place, rows=ROWS, detector={"modules": MODULES}, integrity={"min_modules": 1, "max_lost": 0.9}, hits=HITS
    )
    done = snakemake(place, *(f"r{run:04d}_events.h5" for run in (50, 51, 52)), check=False)
    return place, done


def test_summary_tells_what_became_of_each_run(night):
    place, done = night
    assert done.returncode != 0
    rows = read_summary(place / "scratch")
    assert {run: row["status"] for run, row in rows.items()} == {"0050": "done", "0051": "failed", "0052": "partial"}
    assert (rows["0050"]["frames_used"], rows["0052"]["frames_used"]) == ("24", "12")
    assert (rows["0051"]["rule"], rows["0051"]["log"]) == ("accept_run", "logs/accept_run/r0051.log")
    assert "the file has 0 bytes" in rows["0051"]["why"]
    assert "3 runs: 1 done, 1 partial, 1 failed" in done.stdout
    assert "whole log: logs/accept_run/r0051.log" in done.stdout
    assert (place / "scratch" / "summary.txt").read_text().startswith("3 runs: 1 done, 1 partial, 1 failed")
