"""Every mistake in the configuration or the run table gives one clear message."""

from pathlib import Path

import pytest
import yaml

from pulsetrain.config import ConfigError, check_calibrations, complete_config, read_run_table, unknown_run

CONFIG = Path(__file__).parents[2] / "config"
SCHEMA = CONFIG / "schemas" / "config.schema.yaml"
ROW_SCHEMA = CONFIG / "schemas" / "runs.schema.yaml"


def write_table(tmp_path, text):
    path = tmp_path / "runs.csv"
    path.write_text(text)
    return path


def test_every_key_has_a_description_and_a_default():
    def check(schema, place):
        for name, inner in schema.get("properties", {}).items():
            assert inner.get("description"), f"{place}{name} has no description"
            assert "default" in inner, f"{place}{name} has no default"
            assert inner.get("type") != "object" or inner.get("additionalProperties") is not None
            check(inner, f"{place}{name}.")
            for option in inner.get("anyOf", []):
                check(option, f"{place}{name}.")

    schema = yaml.safe_load(SCHEMA.read_text())
    assert schema["additionalProperties"] is False
    check(schema, "")


def test_empty_config_gets_all_defaults():
    config = complete_config({}, SCHEMA)
    assert config["hits"]["threshold_sigma"] == 4.0
    assert config["detector"]["modules"] == list(range(16))
    assert config["simulate"] is None


def test_shipped_config_and_table_are_valid():
    config = complete_config(yaml.safe_load((CONFIG / "config.yaml").read_text()), SCHEMA)
    runs = read_run_table(CONFIG / "runs.csv", ROW_SCHEMA, config["calibrations"])
    assert runs["0050"]["stream"] == "proc"


def test_given_values_win_over_defaults_and_come_in_sorted_order():
    config = complete_config({"hits": {"threshold_sigma": 5}, "calibrations": {"may24": {}}}, SCHEMA)
    assert config["hits"]["threshold_sigma"] == 5
    assert config["calibrations"]["may24"]["constants"] is None
    assert config["calibrations"]["may24"]["layout"] == "xfel"
    assert list(config["hits"]) == sorted(config["hits"])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"htis": {}}, r"htis is not a known key; did you mean hits\?"),
        ({"hits": {"treshold_sigma": 4}}, r"hits.treshold_sigma is not a known key; did you mean threshold_sigma\?"),
        ({"simulate": {"profle": "tiny"}}, r"simulate.profle is not a known key; did you mean profile\?"),
        ({"hits": {"threshold_sigma": "four"}}, r"hits.threshold_sigma: 'four' is not of type 'number' \(A frame is"),
        ({"detector": {"modules": [16]}}, r"detector.modules.0: 16 is greater than the maximum of 15"),
        ({"calibrations": {"may24": {"constnts": "x"}}}, r"calibrations.may24.constnts is not a known key; did you"),
        ({"output_mode": "rw"}, r"output_mode: 'rw' does not match"),
    ],
)
def test_wrong_config(config, message):
    with pytest.raises(ConfigError, match=message):
        complete_config(config, SCHEMA)


def test_all_problems_of_a_config_come_at_once():
    with pytest.raises(ConfigError) as caught:
        complete_config({"hits": {"k": 4}, "emc": {"model_size": 1}}, SCHEMA)
    assert len(str(caught.value).splitlines()) == 3


def test_run_numbers_are_the_same_with_and_without_zeros(tmp_path):
    runs = read_run_table(write_table(tmp_path, "run,sample\n50,a b\n"), ROW_SCHEMA, [])
    assert runs == {
        "0050": {
            "run": "0050",
            "sample": "a b",
            "kind": "hits",
            "stream": "proc",
            "calibration": "",
            "geometry": "",
            "comment": "",
        }
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("run,streem\n50,raw\n", r"streem is unknown; did you mean stream\?"),
        ("sample\nx\n", "and run is required"),
        ("run\n50\n0050\n", "line 3: run 0050 is there twice"),
        ("run,stream\n50,prok\n", r"line 2: stream: 'prok' is not one of \['proc', 'raw'\]"),
        ("run\nr50\n", "line 2: run: 'r50' does not match"),
        ("run,stream\n50,raw\n", "run 0050 has stream raw, which needs a name of `calibrations`"),
        ("run,stream,calibration\n50,raw,mai24\n", r"'mai24', which is not under `calibrations`.*did you mean may24\?"),
        ("", "cannot be read as CSV"),
    ],
)
def test_wrong_run_table(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        read_run_table(write_table(tmp_path, text), ROW_SCHEMA, ["may24"])


def test_missing_run_table(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.csv does not exist; set `runs`"):
        read_run_table(tmp_path / "nowhere.csv", ROW_SCHEMA, [])


def test_unknown_run_names_the_nearest():
    message = str(unknown_run("0054", ["0001", "0050", "0052", "0060"], "runs.csv"))
    assert "run 0054 is not in the run table runs.csv (the nearest are 0052, 0050, 0060)" in message


XFEL = {"dark": 900, "current_source": 901, "xray": 902}
NXS = {
    "layout": "nxs",
    "dark": "/lab/m{module}_dark_part*.nxs",
    "current_source": [f"/lab/m{{module:02d}}_col{columns}_part*.nxs" for columns in (15, 26, 37, 48)],
    "xray": "/lab/m{module}_xray.nxs",
}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({}, None),
        ({"constants": "/lab/constants"}, None),
        (XFEL, None),
        (XFEL | {"current_source": [901, 903, 904, 905]}, None),
        (NXS, None),
        (XFEL | {"constants": "/lab/constants"}, r"has both constants and dark and current_source and xray; take out"),
        ({"dark": 900}, r"calibrations.may24 has dark, but not current_source and xray; all are needed"),
        (XFEL | {"dark": "/lab/dark*.nxs"}, r"may24.dark is '/lab/dark\*.nxs'; layout xfel needs a run number"),
        (NXS | {"dark": 900}, r"may24.dark is 900; layout nxs needs a pattern"),
        (XFEL | {"current_source": [901, 903]}, r"current_source has 2 column groups; expected 4 or one run"),
        (NXS | {"current_source": NXS["dark"]}, r"current_source has 1 column groups; expected 4$"),
        (NXS | {"xray": "/lab/xray*.nxs"}, r"may24.xray is '/lab/xray\*.nxs'; it must contain \{module\}"),
        (NXS | {"xray": "/lab/{modul}.nxs"}, r"the only name in braces is \{module\}"),
    ],
)
def test_a_calibration_needs_constants_or_all_data(entry, message):
    calibrations = complete_config({"calibrations": {"may24": entry}}, SCHEMA)["calibrations"]
    if message is None:
        check_calibrations(calibrations)
        return
    with pytest.raises(ConfigError, match=message):
        check_calibrations(calibrations)
