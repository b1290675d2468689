"""What runs again after a change, and what does not."""

import os
import shutil
import time

import pytest
import yaml
from conftest import copy_checkout, planned, snakemake, write_config, write_constants, write_run

AFTER_HITS = {
    "find_hits",
    "link_events",
    "sum_misses",
    "write_cxi",
    "write_emc",
    "link_emc",
    "sum_powder",
    "link_powder",
    "plot_hits",
    "plot_detector",
    "report",
    "link_hits",
}


def plan(place, **options):
    return snakemake(place, "-n", "r0050_hits.cxi", **options).stdout


def change_config(place, section, **values):
    path = place / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[section] = config.get(section, {}) | values
    path.write_text(yaml.safe_dump(config))


def source_files(place):
    return sorted((place / "data" / "proc" / "r0050").glob("CORR*.h5"))


def test_second_call_does_nothing(finished_run):
    assert planned(plan(finished_run)) == {}
    before = {path: path.stat().st_mtime_ns for path in (finished_run / "scratch").rglob("r0050*")}
    assert "Nothing to be done" in snakemake(finished_run, "r0050_hits.cxi").stdout
    assert {path: path.stat().st_mtime_ns for path in (finished_run / "scratch").rglob("r0050*")} == before


def test_one_of_several_switches_reruns_its_users(own_run):
    # Snakemake compares the values of parameters as a set, in which a second True does not show.
    change_config(own_run, "masks", per_frame=True)
    rules = planned(plan(own_run))
    assert {"count_litpixels", "sum_misses", "write_cxi"} <= set(rules)
    assert "make_run_mask" not in rules


def test_moved_tree_reruns_nothing(own_run):
    assert planned(plan(own_run)) == {}


def test_hit_threshold_reruns_find_hits_and_what_follows(own_run):
    change_config(own_run, "hits", threshold_sigma=5.5)
    output = plan(own_run)
    assert set(planned(output)) == AFTER_HITS
    assert "Params have changed" in output


def test_cloned_moved_or_touched_checkout_reruns_nothing(own_run, tmp_path):
    checkout = copy_checkout(tmp_path)
    now = time.time() + 10
    for path in checkout.rglob("*"):
        os.utime(path, (now, now))
    assert planned(plan(own_run, checkout=checkout)) == {}


def test_edited_library_module_reruns_exactly_its_users(own_run, tmp_path):
    checkout = copy_checkout(tmp_path)
    edited = checkout / "scripts" / "pulsetrain" / "hits.py"
    edited.write_text(edited.read_text() + "\n# a comment\n")
    output = plan(own_run, checkout=checkout)
    assert set(planned(output)) == AFTER_HITS
    assert "Code" not in output
    assert "pulsetrain/hits.py" in output
    edited.write_text(edited.read_text().removesuffix("\n# a comment\n"))
    assert planned(plan(own_run, checkout=checkout)) == {}


def test_migrated_run_with_new_dates_reruns_nothing(own_run):
    now = time.time() + 10
    for path in source_files(own_run) + sorted((own_run / "data" / "raw" / "r0050").iterdir()):
        os.utime(path, (now, now))
    assert planned(plan(own_run)) == {}


def test_reordered_yaml_reruns_nothing(own_run):
    path = own_run / "config.yaml"

    def reverse(value):
        if isinstance(value, dict):
            return {name: reverse(value[name]) for name in reversed(value)}
        return value

    path.write_text(yaml.safe_dump(reverse(yaml.safe_load(path.read_text())), sort_keys=False))
    table = own_run / "runs.csv"
    table.write_text("comment,stream,run,sample\nanything,proc,0050,\n")
    assert planned(plan(own_run)) == {}


def test_new_sequence_file_makes_the_run_stale_and_says_why(own_run):
    last = [path for path in source_files(own_run) if "AGIPD05" in path.name][-1]
    shutil.copy2(last, last.with_name(last.name.replace("S00001", "S00002")))
    output = plan(own_run)
    assert planned(output)["check_run"] == 1
    reason = next(line for line in output.splitlines() if line.startswith("Reason: ") and "S00002" in line)
    assert "Set of input files has changed" in reason or "Params have changed" in reason


def test_recorrected_run_of_other_sizes_is_stale_and_says_why(own_run):
    path = source_files(own_run)[0]
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    output = plan(own_run)
    assert planned(output)["check_run"] == 1
    assert "Params have changed" in output
    assert path.name in output


def test_gas_monitor_of_another_size_reruns_what_uses_it(own_run):
    path = own_run / "data" / "raw" / "r0050" / "RAW-R0050-DA01-S00000.h5"
    with path.open("ab") as file:
        file.write(b"\0" * 512)
    rules = planned(plan(own_run))
    assert {"map_pulses", "make_vds"} <= set(rules)
    assert "check_run" not in rules


@pytest.fixture(scope="module")
def finished_raw_run(tmp_path_factory):
    """A raw run of one module up to its lit pixels, with constants from a directory."""
    place = tmp_path_factory.mktemp("raw")
    settings = write_run(place / "data", stream="raw", modules=[5], trains=6, cells=4)
    write_constants(place / "constants", settings)
    calibrations = {"may24": {"constants": str(place / "constants")}}
    write_config(place, rows=("50,,raw,may24",), calibrations=calibrations, detector={"modules": [5]})
    snakemake(place, "litpixels/r0050_m05.h5")
    return place


def test_constants_are_followed_by_size_and_not_by_date(finished_raw_run):
    place = finished_raw_run
    now = time.time() + 10
    for path in (place / "constants").iterdir():
        os.utime(path, (now, now))
    assert planned(snakemake(place, "-n", "litpixels/r0050_m05.h5").stdout) == {}
    path = place / "constants" / "constants_m05.h5"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0" * 512)
    os.utime(path, (1e9, 1e9))
    rules = planned(snakemake(place, "-n", "litpixels/r0050_m05.h5").stdout)
    path.write_bytes(whole)
    assert {"make_run_mask", "count_litpixels"} <= set(rules)
    assert "check_run" not in rules


def test_order_of_hit_modules_does_not_matter(own_run):
    change_config(own_run, "hits", modules=[0, 5, 8, 15])
    assert planned(plan(own_run)) == {}
    change_config(own_run, "hits", modules=[15, 8, 5, 0])
    assert planned(plan(own_run)) == {}


@pytest.mark.parametrize(
    ("name", "rule"), [("litpixels/r0050_m05.h5", "count_litpixels"), ("events/r0050_events.h5", "find_hits")]
)
def test_lost_intermediate_file_is_made_again_when_asked_for(own_run, name, rule):
    (own_run / "scratch" / name).unlink()
    assert planned(plan(own_run)) == {}, "the hits are still up to date"
    assert planned(snakemake(own_run, "-n", name).stdout) == {rule: 1}
