"""Mistakes in the section dssc give one message with every problem."""

from pathlib import Path

import pytest

from pulsetrain.config import ConfigError, complete_config
from pulsetrain.dssc_config import check_scans, merged_scans, scan_runs

SCHEMA = Path(__file__).parents[2] / "config" / "schemas" / "config.schema.yaml"
RUNS = {"0235": {"kind": "dssc"}, "0236": {"kind": "dssc"}, "0050": {"kind": "hits"}}
SOURCE = {"source": "SCS_ILH_LAS/DOOCS/PP800_PHASESHIFTER"}


def dssc(scans=None, **changes):
    return complete_config({"dssc": {"scans": scans or {}, **changes}}, SCHEMA)["dssc"]


def test_defaults_are_an_average_of_all_images():
    scan = dssc({"all": {}})["scans"]["all"]
    assert scan["variable"] is None
    assert scan["frame_pattern"] == ["image"]
    assert scan["xgm_limits"] is scan["frame_mask"] is scan["max_frames"] is scan["runs"] is None


def test_a_source_gets_the_usual_key():
    variable = dssc({"delay": {"variable": SOURCE}})["scans"]["delay"]["variable"]
    assert variable == SOURCE | {"key": "actualPosition.value", "file": None, "step": None}


def test_scans_and_merges_know_their_runs():
    section = dssc({"all": {}, "delay": {"runs": [236]}}, merge={"both": [235, 236]})
    check_scans(section, RUNS)
    assert scan_runs(section, RUNS, "all") == ["0235", "0236"]
    assert scan_runs(section, RUNS, "delay") == ["0236"]
    assert merged_scans(section, RUNS, "both") == ["all"]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scans": {"a": {"variable": {"step": 1}}}}, "scans.a.variable needs either source"),
        ({"scans": {"a": {"variable": SOURCE | {"file": "x.h5"}}}}, "scans.a.variable needs either source"),
        ({"scans": {"a": {"xgm_limits": [2, 1]}}}, r"scans.a.xgm_limits is \[2, 1\]; expected the smallest first"),
        ({"scans": {"a": {"xgm_limits": [1, 2]}}, "xgm": {"source": None}}, "needs dssc.xgm.source, which is null"),
        ({"scans": {"a": {"frame_pattern": ["x"]}}}, "two results would be called x"),
        ({"scans": {"a": {"frame_pattern": ["b", "xgm_b"]}}}, "two results would be called xgm_b"),
        ({"scans": {"a": {"frame_pattern": ["b", "b_Dark"]}}}, "frame_pattern: b_Dark would count as frames with an"),
        ({"scans": {"a": {"runs": [50, 235]}}}, "scans.a.runs names 0050, which the run table does not have as kind"),
        ({"scans": {"a": {}}, "merge": {"m": [235, 7]}}, "merge.m names 0007"),
        ({"scans": {"a": {"runs": [235]}}, "merge": {"m": [235, 236]}}, "merge.m: no entry of dssc.scans is for all"),
        ({"geometry": {"quadrants": [[0, 0]] * 4}}, "quadrants is given without dssc.geometry.file"),
    ],
)
def test_mistakes_are_named(section, message):
    with pytest.raises(ConfigError, match=message):
        check_scans(dssc(**section), RUNS)


@pytest.mark.parametrize("place", ["merge", "runs"])
def test_octal_run_numbers_are_explained(place):
    import yaml

    text = {"merge": "{scans: {a: {}}, merge: {m: [0010, 235]}}", "runs": "{scans: {a: {runs: [0010]}}}"}[place]
    with pytest.raises(ConfigError, match=r"names 0008, .*Is it 0010 in the file\? .* 0010 as 8: write 10\)"):
        check_scans(dssc(**yaml.safe_load(text)), RUNS)


def test_all_mistakes_are_told_at_once():
    section = dssc({"a": {"xgm_limits": [2, 1]}, "b": {"runs": [1]}})
    with pytest.raises(ConfigError, match=r"(?s)scans.a.xgm_limits.*scans.b.runs"):
        check_scans(section, RUNS)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"scans": {"a": {"frame_pattern": ["with space"]}}}, "'with space' does not match"),
        ({"scans": {"a/b": {}}}, "'a/b' does not match"),
        ({"merge": {"r0235_m": [1]}}, "'r0235_m' does not match"),
        ({"scans": {"a": {"variable": {"step": 0}}}}, "less than or equal to the minimum of 0"),
        ({"scans": {"a": {"framepattern": ["x"]}}}, r"framepattern is not a known key; did you mean frame_pattern\?"),
    ],
)
def test_the_schema_refuses(section, message):
    with pytest.raises(ConfigError, match=message):
        complete_config({"dssc": section}, SCHEMA)
