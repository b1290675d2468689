"""What snakemake plans, and what it says when it cannot."""

import re

import pytest
from conftest import FEW_MODULES, REPOSITORY, planned, snakemake, write_config, write_run

CHAIN = {
    "check_run": 1,
    "accept_run": 1,
    "make_vds": 1,
    "map_pulses": 1,
    "make_run_mask": 1,
    "count_litpixels": len(FEW_MODULES),
    "find_hits": 1,
    "find_powder_outliers": 1,
    "sum_misses": 1,
    "write_cxi": 1,
    "sum_powder": 1,
    "write_emc": 1,
    "link_hits": 1,
    "link_emc": 1,
    "link_events": 1,
    "link_powder": 1,
    "plot_integrity": 1,
    "plot_hits": 1,
    "plot_detector": 1,
    "report": 1,
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Files of run 50 corrected and run 51 raw; only names and sizes matter for planning."""
    place = tmp_path_factory.mktemp("plan")
    write_run(place / "data", modules=[0])
    first = next((place / "data" / "proc" / "r0050").iterdir())
    for stream, kind, run in (("proc", "CORR", 50), ("raw", "RAW", 51)):
        for module in FEW_MODULES:
            name = place / "data" / stream / f"r{run:04d}" / f"{kind}-R{run:04d}-AGIPD{module:02d}-S00000.h5"
            name.parent.mkdir(parents=True, exist_ok=True)
            name.write_bytes(first.read_bytes()[:1000])
    return place


def test_one_run_from_the_checkout(runs):
    write_config(runs)
    assert planned(snakemake(runs, "-n", "r0050_hits.cxi").stdout) == CHAIN


def test_from_elsewhere(runs, tmp_path):
    write_config(runs)
    assert planned(snakemake(runs, "-n", "r0050_hits.cxi", cwd=tmp_path).stdout) == CHAIN


def test_whole_run_table(runs):
    (runs / "constants").mkdir(exist_ok=True)
    for module in FEW_MODULES:
        (runs / "constants" / f"constants_m{module:02d}.h5").touch()
        (runs / "constants" / f"mask_m{module:02d}.h5").touch()
    calibrations = {"may24": {"constants": str(runs / "constants")}}
    write_config(runs, rows=("50,,proc,", "0051,DNA origami,raw,may24"), calibrations=calibrations)
    expected = {name: 2 * count for name, count in CHAIN.items()} | {"all": 1, "check_constants": 1}
    assert planned(snakemake(runs, "-n").stdout) == expected


@pytest.mark.parametrize(
    ("target", "rules"),
    [
        ("r0050.emc", {"write_emc", "link_emc"}),
        ("r0050_events.h5", {"find_hits", "link_events"}),
        ("r0050_powder.h5", {"sum_powder", "link_powder"}),
        ("report/r0050.html", {"report", "plot_detector"}),
        ("vds/r0050_vds_proc.h5", {"make_vds", "accept_run"}),
    ],
)
def test_short_names_and_files_are_targets(runs, target, rules):
    write_config(runs)
    assert rules <= set(planned(snakemake(runs, "-n", target).stdout))


@pytest.mark.parametrize(
    ("changes", "target", "message"),
    [
        ({"hits": {"treshold_sigma": 3}}, "r0050_hits.cxi", r"hits.treshold_sigma is not a known key; did you mean"),
        ({}, "r0052_hits.cxi", r"run 0052 is not in the run table .*runs.csv \(the nearest are 0050\)"),
        ({"rows": ("50,,proc,", "0050,,proc,")}, "r0050_hits.cxi", r"line 3: run 0050 is there twice"),
        ({"rows": ("50,,prok,",)}, "r0050_hits.cxi", r"line 2: stream: 'prok' is not one of"),
        ({"rows": ("51,,proc,",)}, "r0051_hits.cxi", r"proc/r0051 does not exist, but .* set stream: raw for this run"),
        (
            {"rows": ("60,,proc,",)},
            "r0060_hits.cxi",
            r"run 0060: the directory .*proc/r0060 does not exist; check `data",
        ),
        ({"data_root": "/nowhere/p007927"}, "r0050_hits.cxi", r"/nowhere/p007927 does not exist; set `data_root`"),
        ({}, "vds/r0050_vds_raw.h5", r"gives run 0050 the stream proc; ask for vds/r0050_vds_proc.h5"),
        ({"detector": {"geometry": "config/none.geom"}}, "r0050_hits.cxi", r"config/none.geom does not exist"),
        ({"masks": {"user": ["my_mask.npy"]}}, "r0050_hits.cxi", r"masks.user: the file .*my_mask.npy does not exist"),
        (
            {"rows": ("51,,raw,may24",), "calibrations": {"may24": {}}},
            "r0051_hits.cxi",
            r"calibrations.may24.constants is not set, nor the data to make constants from; give",
        ),
    ],
)
def test_mistakes_give_one_clear_message(runs, changes, target, message):
    changes = dict(changes)
    write_config(runs, rows=changes.pop("rows", ("50,,proc,",)), **changes)
    done = snakemake(runs, "-n", target, check=False)
    assert done.returncode != 0
    assert len(re.findall(message, done.stdout)) == 1, done.stdout
    assert "most recent call last" not in done.stdout


def test_simulated_demo_is_planned_from_nothing(tmp_path):
    write_config(tmp_path, simulate={"profile": "tiny"}, rows=("50,,proc,",))
    rules = planned(snakemake(tmp_path, "-n", "r0050_hits.cxi").stdout)
    assert rules == CHAIN | {"simulate_module": 2 * len(FEW_MODULES), "simulate_control": 1}


def test_nothing_is_simulated_into_a_directory_of_real_data(tmp_path):
    write_run(tmp_path / "data", modules=[0])
    write_config(tmp_path, simulate={"profile": "tiny"})
    before = {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.h5")}
    done = snakemake(tmp_path, "r0050_hits.cxi", check=False)
    assert done.returncode != 0
    assert "is a real file: nothing is simulated into a directory of real data" in done.stdout
    assert {path: path.read_bytes() for path in (tmp_path / "data").rglob("*.h5")} == before


def test_hit_modules_must_be_in_use(runs):
    write_config(runs, hits={"modules": [3]})
    done = snakemake(runs, "-n", "r0050_hits.cxi", check=False)
    assert "hits.modules is [3], but detector.modules is [0, 5, 8, 15]" in done.stdout


def test_every_script_belongs_to_a_rule_and_every_rule_is_complete():
    rules = {}
    for path in (REPOSITORY / "rules").glob("*.smk"):
        for block in re.split(r"^ *rule ", path.read_text(), flags=re.MULTILINE)[1:]:
            rules[block.split(":")[0]] = block
    for name, block in rules.items():
        for directive in ("log:", "benchmark:", "conda:", "mem_mb=", "runtime=", '"""', "message:"):
            assert directive in block, f"rule {name} has no {directive}"
        if "script:" in block:
            assert f'"../scripts/{name}.py"' in block
            assert f'code=code_of("{name}.py")' in block
    scripts = {path.stem for path in (REPOSITORY / "scripts").glob("*.py")}
    assert scripts == {name for name, block in rules.items() if "script:" in block}
