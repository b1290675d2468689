"""Jungfrau: ids, descriptions, the choice of directories and the merged constants, against the simulator's truth."""

import os
import re
import shutil
import sys
import time
import types

import h5py
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from pulsetrain import jungfrau_panels, simulate_jungfrau
from pulsetrain.jungfrau import (
    FIELDS,
    PANEL_ID,
    Detector,
    JungfrauError,
    detector_id,
    id_in_name,
    id_jungfrau,
    local_name,
    panel_id,
    parse_dataset,
    split_detector_id,
)
from pulsetrain.jungfrau_datasets import describe, find_detector, read_datasets
from pulsetrain.jungfrau_panels import (
    PanelDirectory,
    choose_directories,
    constants_files,
    list_repository,
    merge_panels,
    unusable_directories,
)
from pulsetrain.provenance import SCRIPTS

SEED = 3
EXAMPLES = SCRIPTS.parent / "config" / "jungfrau_datasets.yaml"
B0, F7, FB = "170505-149520170815-3d00b0", "170505-149520170815-3d00f7", "171113-154920171025-3d00fb"
SOURCE = "XcsEndstation.0:Jungfrau.0"
TABLE = """
mfx00616 8 MfxEndstation.0:Jungfrau.0 psana.Jungfrau.ConfigV1
mfx05516 16 MfxEndstation.0:Jungfrau.0 171113-154920171025-3d00b0_171113-154920171025-3d00f7
mfxlrl1716 295 MfxEndstation.0:Jungfrau.0 171113-154920171025-3d00b0_171113-154920171025-3d00f7
mfxlrl5016 197 MfxEndstation.0:Jungfrau.0 171113-154920171025-3d00b0_171113-154920171025-3d00f7
mfx20515 2 MfxEndstation.0:Jungfrau.0 170505-149520170815-3d00b0_170505-149520170815-3d00f7
mfx11116 697 MfxEndstation.0:Jungfrau.1 171113-154920171025-3d00fb
mfxls0816 193 MfxEndstation.0:Jungfrau.1 171113-154920171025-3d00fb
xcs11116 18 XcsEndstation.0:Jungfrau.0 psana.Jungfrau.ConfigV2
xcsx22015 555 XcsEndstation.0:Jungfrau.0 psana.Jungfrau.ConfigV2
xcsls3716 631 XcsEndstation.0:Jungfrau.0 170505-149520170815-3d00b0_170505-149520170815-3d00f7
xcslr6316 17 XcsEndstation.0:Jungfrau.1 171113-154920171025-3d00fb
cxi11216 54 CxiEndstation.0:Jungfrau.0 psana.Jungfrau.ConfigV1
detdaq17 68 DetLab.0:Jungfrau.0 171113-154920171025-3d00fb
xppls2416 247 XppEndstation.0:Jungfrau.1 171113-154920171025-3d00b0_171113-154920171025-3d00f7
mecls3216 226 MecTargetChamber.0:Jungfrau.0 170505-149520170815-3d00b0_170505-149520170815-3d00f7
xpptut15 430 MfxEndstation.0:Jungfrau.0 171113-154920171025-3d00b0_171113-154920171025-3d00f7
"""


def detector(panel_ids=(B0,), start_time="20171205161400", exact=True, run=631):
    return Detector("xcsls3716", run, SOURCE, 3, tuple(panel_ids), start_time, exact)


def directory(name, path=None):
    panel, _, stamp = (*re.match(r"((?:\w+-){2}\w+)(-?)(.*)", name).groups(),)
    return PanelDirectory(name, panel, stamp, path or f"/repository/{name}", "")


# Ids


def test_id_of_the_documents_numbers():
    assert panel_id(1511699, 23403815178277, 3997947) == FB


@given(st.tuples(*[st.integers(1, 2**64 - 1)] * 3))
def test_ids_have_the_numbers_in_them(numbers):
    # The original is hex(v).lstrip('0x'), which is the same for all numbers but 0.
    assert panel_id(*numbers) == "-".join(hex(value).lstrip("0x") for value in numbers)
    assert tuple(int(field, 16) for field in panel_id(*numbers).split("-")) == numbers
    assert PANEL_ID.fullmatch(panel_id(*numbers))


@pytest.mark.parametrize("wrong", [0, -1, 2**64, 1.0, True, None, "1511699"])
@pytest.mark.parametrize("place", range(3))
def test_number_that_gives_no_field_is_refused(wrong, place):
    numbers = [1511699, 23403815178277, 3997947]
    numbers[place] = wrong
    with pytest.raises(JungfrauError, match=FIELDS[place]):
        panel_id(*numbers)


def test_detector_id_keeps_the_order_of_the_panels():
    held = detector([F7, B0])
    assert id_jungfrau(held) == f"{F7}_{B0}"
    assert (id_jungfrau(held, 0), id_jungfrau(held, iseg=1)) == (F7, B0)
    assert split_detector_id(id_jungfrau(held)) == (F7, B0)
    with pytest.raises(JungfrauError, match="2 panels; there is no panel 2"):
        id_jungfrau(held, 2)


def test_detector_without_ids_has_the_name_of_its_object():
    assert id_jungfrau(detector([])) == "XcsEndstation.0-Jungfrau.0"


@pytest.mark.parametrize(
    "text", ["", "170505-149520170815", f"{B0}_", f"{B0}-20171025000000", "0-1-2", "0a-1-2", "1-2-G"]
)
def test_text_that_is_no_detector_id_is_refused(text):
    with pytest.raises(JungfrauError, match="is not the id of a panel"):
        split_detector_id(text)


def test_local_names_are_those_of_the_document():
    assert local_name(detector([B0, F7]), "pixel_gain", "txt") == (
        "xcsls3716-r0631_XcsEndstation.0:Jungfrau.0_170505-149520170815-3d00b0_170505-149520170815-3d00f7_pixel_gain.txt"
    )


def test_names_of_large_detectors_fit_the_file_system():
    panels = [f"171113-154920171025-3d00{number:02x}" for number in range(0xA0, 0xA8)]
    name = local_name(detector(panels), "pixel_offset", "npy")
    assert len(detector_id(panels)) == 215
    assert len(name) < 120
    assert id_in_name(panels) != id_in_name([*panels[:6], panels[7], panels[6]])
    assert id_in_name(panels[:4]) == detector_id(panels[:4])


@pytest.mark.parametrize(
    ("text", "wanted"), [("exp=xcsls3716:run=631", ("xcsls3716", 631)), ("xpptut15:run=430", ("xpptut15", 430))]
)
def test_dataset_is_taken_apart(text, wanted):
    assert parse_dataset(text) == wanted


@pytest.mark.parametrize("text", ["", "exp=xcsls3716", "exp=xcsls3716:run=0", "exp=x:run=1-3", "exp=x:run=10000"])
def test_text_that_is_no_dataset_is_refused(text):
    with pytest.raises(JungfrauError, match="is not a data set"):
        parse_dataset(text)


# Descriptions


def test_examples_are_the_table_of_the_document():
    described = read_datasets([EXAMPLES])
    rows = [line.split() for line in TABLE.strip().splitlines()]
    assert len(rows) == len(described)
    for exp, run, source, wanted in rows:
        held = find_detector(described, exp, int(run))
        assert held.source == source
        expected = wanted if not held.panel_ids else id_jungfrau(held)
        assert expected == (f"psana.Jungfrau.ConfigV{held.config_version}" if not held.panel_ids else wanted)


def two_sources():
    common = {"exp": "xcsls3716", "run": 631, "config_version": 3}
    first = common | {"source": "XcsEndstation.0:Jungfrau.1", "alias": "jungfrau512k", "id": B0}
    return describe({"datasets": [first, common | {"source": "XcsEndstation.0:Jungfrau.10", "id": F7}]}, "two.yaml")


@pytest.mark.parametrize(
    ("pattern", "panel"),
    [
        ("Jungfrau.1", B0),  # also a part of Jungfrau.10
        ("Jungfrau.10", F7),
        ("XcsEndstation.0-Jungfrau.1", B0),
        ("jungfrau512k", B0),
        (".10", F7),
    ],
)
def test_source_is_found_by_a_part_of_its_name(pattern, panel):
    assert find_detector(two_sources(), "xcsls3716", 631, pattern).panel_ids == (panel,)


@pytest.mark.parametrize(
    ("run", "pattern", "message"),
    [
        (631, None, r"2 Jungfraus: XcsEndstation.0:Jungfrau.1, XcsEndstation.0:Jungfrau.10; .*option -s"),
        (631, "Jung", r"2 Jungfraus whose names contain 'Jung'"),
        (631, "Jungfrau.2", r"no Jungfrau whose name contains 'Jungfrau.2'; it has XcsEndstation.0:Jungfrau.1"),
        (630, None, r"no detector of run 630 of xcsls3716 is described; the nearest runs are 631"),
    ],
)
def test_source_that_is_not_clear_is_refused(run, pattern, message):
    with pytest.raises(JungfrauError, match=message):
        find_detector(two_sources(), "xcsls3716", run, pattern)


def test_unknown_experiment_names_the_nearest():
    with pytest.raises(JungfrauError, match="experiment xcsls3761 is described; the nearest are xcsls3716"):
        find_detector(two_sources(), "xcsls3761", 631)


def test_run_by_itself_goes_before_a_range():
    common = {"exp": "xcsls3716", "source": SOURCE}
    entries = [
        common | {"runs": "1-700", "id": B0, "start_time": 20171205161400},
        common | {"run": 631, "id": F7, "start_time": "20180101000000"},
    ]
    described = describe({"datasets": entries}, "x.yaml")
    assert find_detector(described, "xcsls3716", 631)[4:] == ((F7,), "20180101000000", True)
    assert find_detector(described, "xcsls3716", 630)[4:] == ((B0,), "20171205161400", False)
    assert find_detector(described, "xcsls3716", 1)[4:] == ((B0,), "20171205161400", True)
    with pytest.raises(JungfrauError, match=r"described more than once: x.yaml, data set 1.*; x.yaml, data set 2"):
        find_detector(describe({"datasets": [entries[0], entries[0]]}, "x.yaml"), "xcsls3716", 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": f"{B0}_{B0}"}, "is there more than once"),
        ({"id": "0-1-2"}, "is not the id of a panel"),
        ({"runs": "3-1", "run": None}, "runs 3 to 1"),
        ({"run": 0}, "runs 0 to 0"),
        ({"runs": "1-3"}, "give either run"),
        ({"config_version": 2}, "config_version 2 tells no panel ids, but id is given"),
        ({"id": None}, "give either panels"),
        ({"start_time": 2017120516140}, "start_time 2017120516140 has 13 characters"),
        ({"start_time": 20171305161400}, "start_time 20171305161400 is no date"),
        ({"source": "Jungfrau"}, "datasets.0.source"),
        ({"panel": 1}, "panel is not a known key; did you mean panels"),
        (
            {"id": None, "panels": [{"moduleVersion": 1, "firmwareVersion": 0, "serialNumber": -1}]},
            "panel 0: firmware.*-1",
        ),
    ],
)
def test_description_that_makes_no_sense_is_refused(changes, message):
    entry = {"exp": "xcsls3716", "run": 631, "source": SOURCE, "id": B0} | changes
    entry = {name: value for name, value in entry.items() if value is not None}
    with pytest.raises(JungfrauError, match=message):
        describe({"datasets": [entry]}, "x.yaml")


def test_all_wrong_descriptions_are_told_at_once(tmp_path):
    wrong = {"exp": "xcsls3716", "run": 1, "source": SOURCE}
    (tmp_path / "x.yaml").write_text(yaml.safe_dump({"datasets": [wrong, wrong | {"id": B0}, wrong | {"run": 0}]}))
    with pytest.raises(JungfrauError) as told:
        read_datasets([tmp_path / "x.yaml"])
    assert "data set 1" in str(told.value)
    assert "data set 3" in str(told.value)
    assert "data set 2" not in str(told.value)


@pytest.mark.parametrize("text", ["", "datasets: 3", "- 1", "a: [", "datasets: [{exp: [}]", "a: 2017-13-01", "&a [*a]"])
def test_file_that_holds_no_descriptions_is_refused(tmp_path, text):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(JungfrauError, match="x.yaml"):
        read_datasets([tmp_path / "x.yaml"])


ENTRY = f"{{exp: xcsls3716, source: '{SOURCE}', id: {B0}, run: "


@pytest.mark.parametrize(
    ("text", "messages"),
    [
        (f"datasets:\n- {ENTRY}1}}\ndatasets:\n- {ENTRY}2}}", ["line 3: the key datasets is there already in line 1"]),
        (f"datasets:\n- {ENTRY}1, run: 2}}", ["line 2: the key run is there already in line 2"]),
        (
            "datasets:\n" + "".join(f"- {ENTRY}{run}}}\n" for run in ("0631", "1:30", "0b11", "1_000")),
            ["line 2: 0631 is no plain number", "line 3: 1:30 is", "line 4: 0b11 is", "line 5: 1_000 is"],
        ),
    ],
)
def test_what_yaml_would_change_silently_is_refused(tmp_path, text, messages):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(JungfrauError, match="x.yaml is not usable") as told:
        read_datasets([tmp_path / "x.yaml"])
    for message in messages:
        assert message in str(told.value)


def test_numbers_of_panels_may_be_hexadecimal(tmp_path):
    numbers = dict(zip(FIELDS, simulate_jungfrau.PANELS[B0], strict=True))
    panel = ", ".join(f"{name}: {value:#x}" for name, value in numbers.items())
    (tmp_path / "x.yaml").write_text(f"datasets:\n- {{exp: a1, run: 5, source: '{SOURCE}', panels: [{{{panel}}}]}}")
    assert find_detector(read_datasets([tmp_path / "x.yaml"]), "a1", 5).panel_ids == (B0,)


def write_hdf5(path, panels, dtype="i8", **attributes):
    with h5py.File(path, "w") as file:
        group = file.create_group("jungfrau")
        group.attrs.update({"exp": "xcsls3716", "run": 631, "start_time": "20171205161400"} | attributes)
        rows = np.array([tuple(row) for row in panels], dtype=[(name, dtype) for name in FIELDS])
        held = group.create_group(SOURCE)
        held.attrs["config_version"] = 3
        held["panels"] = rows


def test_descriptions_from_hdf5(tmp_path):
    write_hdf5(tmp_path / "x.h5", [simulate_jungfrau.PANELS[F7], simulate_jungfrau.PANELS[B0]])
    assert find_detector(read_datasets([tmp_path / "x.h5"]), "xcsls3716", 631) == detector([F7, B0])


def test_hdf5_keeps_large_numbers(tmp_path):
    write_hdf5(tmp_path / "x.h5", [(1, 2**63 + 5, 3)], dtype="u8")
    assert find_detector(read_datasets([tmp_path / "x.h5"]), "xcsls3716", 631).panel_ids == ("1-8000000000000005-3",)
    write_hdf5(tmp_path / "y.h5", [(1, -(2**63) + 5, 3)])
    with pytest.raises(JungfrauError, match="firmwareVersion is -92233"):
        read_datasets([tmp_path / "y.h5"])


def in_place(file, name, value):
    del file[name]
    file[name] = value


def make_group(file, name):
    del file[name]
    file.create_group(name)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file, held: file["jungfrau"].attrs.update(run="631"), "attribute run of /jungfrau is '631'; expected"),
        (
            lambda file, held: file["jungfrau"].attrs.update(run=5.7),
            r"attribute run of /jungfrau is .*5\.7.*; expected",
        ),
        (lambda file, held: file["jungfrau"].attrs.update(run=[1, 2]), "attribute run of /jungfrau is .*; expected"),
        (lambda file, held: file[held].attrs.update(config_version="ConfigV3"), "config_version of .* is 'ConfigV3'"),
        (lambda file, held: in_place(file, "jungfrau", 3), "has no group /jungfrau"),
        (lambda file, held: in_place(file, held, 3), f"/jungfrau/{SOURCE} is no group"),
        (lambda file, held: in_place(file, held, h5py.SoftLink("/nowhere")), f"/jungfrau/{SOURCE} is no group"),
        (lambda file, held: make_group(file, f"{held}/panels"), "/panels is no dataset; expected"),
        (lambda file, held: in_place(file, f"{held}/panels", file[f"{held}/panels"][0]), r"has shape \(\); expected"),
        (
            lambda file, held: in_place(file, f"{held}/panels", file[f"{held}/panels"][()][None]),
            r"has shape \(1, 1\); exp",
        ),
        (lambda file, held: in_place(file, f"{held}/panels", [1, 2, 3]), "has the fields None; expected"),
    ],
)
def test_hdf5_that_holds_something_else_is_named(tmp_path, spoil, message):
    write_hdf5(tmp_path / "x.h5", [simulate_jungfrau.PANELS[B0]])
    with h5py.File(tmp_path / "x.h5", "a") as file:
        spoil(file, f"jungfrau/{SOURCE}")
    with pytest.raises(JungfrauError, match=message) as told:
        read_datasets([tmp_path / "x.h5"])
    assert str(tmp_path / "x.h5") in str(told.value)


def test_number_in_an_array_of_one_is_taken(tmp_path):
    write_hdf5(tmp_path / "x.h5", [simulate_jungfrau.PANELS[B0]], run=np.array([631]))
    assert find_detector(read_datasets([tmp_path / "x.h5"]), "xcsls3716", 631).panel_ids == (B0,)


def test_descriptions_that_are_cut_off_are_named(tmp_path):
    write_hdf5(tmp_path / "x.h5", [(1, 2, 3)])
    os.truncate(tmp_path / "x.h5", 1000)
    with pytest.raises(JungfrauError, match=r"/x.h5 cannot be read: .*truncated.*Copy it again"):
        read_datasets([tmp_path / "x.h5"])


class OfPsana:
    """An object whose methods give fixed values, as those of psana do."""

    def __init__(self, **values):
        for name, value in values.items():
            setattr(self, name, value if callable(value) else lambda *_, value=value: value)


def test_script_that_exports_with_psana(monkeypatch, capsys, tmp_path):
    """That of docs/jungfrau.md, with a stand-in for psana."""
    page = (SCRIPTS.parent / "docs" / "jungfrau.md").read_text()
    script = page.split("**Export with psana**")[1].split("```python\n")[1].split("```")[0]
    panels = [dict(zip(FIELDS, simulate_jungfrau.PANELS[name], strict=True)) for name in (F7, B0)]
    config = OfPsana(numberOfModules=2, moduleConfig=lambda i: OfPsana(**panels[i]))
    keys = [
        OfPsana(src=f"DetInfo({SOURCE})", type=type("ConfigV3", (), {})),
        OfPsana(src="DetInfo(XcsEndstation.0:Jungfrau.1)", type=type("ConfigV2", (), {})),
        OfPsana(src="DetInfo(XcsEndstation.0:Epix100a.1)", type=type("ConfigV2", (), {})),
        OfPsana(src="BldInfo(EBeam)", type=None),
    ]
    for key in keys[:3]:
        kind = key.type  # OfPsana took the class for a method
        key.type = lambda kind=kind: kind
    store = OfPsana(keys=keys, get=config)
    event = OfPsana(get=OfPsana(time=(1512519240, 0)))
    source = OfPsana(env=OfPsana(configStore=store), events=lambda: iter([event]))
    psana = types.SimpleNamespace(
        DataSource=lambda name: source if name == "exp=xcsls3716:run=631" else None, EventId=None
    )
    monkeypatch.setitem(sys.modules, "psana", psana)
    monkeypatch.setattr(sys, "argv", ["export.py", "xcsls3716", "631"])
    exec(compile(script, "docs/jungfrau.md", "exec"), {})
    (tmp_path / "exported.yaml").write_text(capsys.readouterr().out)
    described = read_datasets([tmp_path / "exported.yaml"])
    start = time.strftime("%Y%m%d%H%M%S", time.localtime(1512519240))
    assert find_detector(described, "xcsls3716", 631, "Jungfrau.0") == detector([F7, B0], start_time=start)
    assert find_detector(described, "xcsls3716", 631, "Jungfrau.1").config_version == 2


# The choice of directories


@pytest.mark.parametrize(
    ("start", "wanted"),
    [
        ("20171024235959", ""),
        ("20171025000000", "-20171025000000"),
        ("20171025000001", "-20171025000000"),
        ("20180531235959", "-20171025000000"),
        ("20180601000000", "-20180601000000"),
        ("20300101000000", "-20180601000000"),
    ],
)
def test_latest_directory_that_is_valid_at_the_start(start, wanted):
    listing = [directory(f"{B0}{stamp}") for stamp in ("-20180601000000", "", "-20171025000000")]
    (chosen,) = choose_directories(listing, detector(start_time=start))
    assert chosen.name == f"{B0}{wanted}"


@given(st.sets(st.integers(20100101000000, 20291231235959), max_size=6), st.integers(20100101000000, 20291231235959))
def test_choice_does_not_depend_on_the_order(stamps, start):
    listing = [directory(f"{B0}-{stamp}") for stamp in stamps]
    valid = [stamp for stamp in stamps if stamp <= start]
    for order in (listing, listing[::-1]):
        if valid:
            assert choose_directories(order, detector(start_time=str(start)))[0].valid_from == str(max(valid))
        else:
            with pytest.raises(JungfrauError, match=B0):
                choose_directories(order, detector(start_time=str(start)))


def test_only_later_directories_are_not_valid():
    listing = [directory(f"{B0}-20180601000000"), directory(F7)]
    with pytest.raises(JungfrauError) as told:
        choose_directories(listing, detector([F7, B0]))
    assert f"panel 1 ({B0}): no constants are valid at the start of the run, 20171205161400" in str(told.value)
    assert "panel 0" not in str(told.value)


def test_start_of_the_run_is_asked_for_where_it_matters():
    with pytest.raises(JungfrauError, match="depends on the start of the run"):
        choose_directories([directory(f"{B0}-20180601000000")], detector(start_time=None))
    (chosen,) = choose_directories([directory(B0)], detector(start_time=None))
    assert chosen.name == B0


def test_later_run_of_a_range_needs_its_own_start_only_if_it_matters():
    early, late = directory(f"{B0}-20171025000000"), directory(f"{B0}-20180601000000")
    assert choose_directories([early], detector(exact=False)) == [early]
    with pytest.raises(JungfrauError, match=rf"{late.name} may be valid by then; describe run 631 by itself"):
        choose_directories([early, late], detector(exact=False))


def test_detector_without_ids_gets_no_constants():
    described = read_datasets([EXAMPLES])
    with pytest.raises(JungfrauError, match="ConfigV2 tells no panel ids"):
        choose_directories([directory(B0)], find_detector(described, "xcs11116", 18))


def test_all_panels_without_directory_are_named():
    with pytest.raises(JungfrauError) as told:
        choose_directories([directory("171113-154920171025-3d00b0")], detector([F7, B0]))
    assert f"panel 0 ({F7}): the repository has no directory of it. Ask" in str(told.value)
    assert f"panel 1 ({B0}): the repository has no directory of it; the same serial number have 171113" in str(
        told.value
    )


def test_repository_is_listed_with_its_faults(tmp_path):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    (tmp_path / f"{B0}-20190101000000").write_text("no directory")
    (tmp_path / f"{B0}-20190102000000").symlink_to("M999")
    (tmp_path / f"{B0}-old").mkdir()
    listing = {each.name: each for each in list_repository(tmp_path)}
    assert not any(name.startswith("M0") for name in listing)
    assert {name for name, each in listing.items() if not each.problem} == set(simulate_jungfrau.LINKS) - {
        "171113-154920171025-3d00fc-2018030600000"
    }
    assert listing[FB].path == str(tmp_path / "M044")
    assert "is not a directory" in listing[f"{B0}-20190101000000"].problem
    assert "link to M999, which does not exist" in listing[f"{B0}-20190102000000"].problem
    assert "'old' at the end of its name has 3 characters" in listing[f"{B0}-old"].problem
    told = unusable_directories(listing.values(), [B0])
    assert told == [
        "171113-154920171025-3d00fc-2018030600000: the time stamp '2018030600000' at the end of its name has 13 "
        "characters; expected YYYYMMDDhhmmss, 14 digits"
    ]


def link_in_a_circle(path, monkeypatch):
    path.symlink_to(path.name)


def directory_that_may_not_be_read(path, monkeypatch):
    path.mkdir()
    monkeypatch.setattr(jungfrau_panels.os, "access", lambda held, mode: held != path)


def link_into_a_directory_that_may_not_be_read(path, monkeypatch):
    def refuse(held, strict=False):
        if held == path:
            raise PermissionError(13, "Permission denied", str(held))
        return real(held, strict=strict)

    real = type(path).resolve
    path.symlink_to("secret/M1")
    monkeypatch.setattr(jungfrau_panels.Path, "resolve", refuse)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (link_in_a_circle, "it cannot be followed: "),
        (directory_that_may_not_be_read, "it may not be read by "),
        (link_into_a_directory_that_may_not_be_read, "it cannot be followed: .*Permission denied"),
    ],
)
def test_entry_that_cannot_be_followed_concerns_its_panel_alone(tmp_path, monkeypatch, spoil, message):
    (tmp_path / B0).mkdir()
    spoil(tmp_path / F7, monkeypatch)
    listing = list_repository(tmp_path)
    assert [each.name for each in choose_directories(listing, detector([B0]))] == [B0]
    (told,) = unusable_directories(listing, [B0])
    assert re.match(f"{F7}: {message}", told)
    with pytest.raises(JungfrauError, match=rf"panel 1 \({F7}\): {F7}: {message}"):
        choose_directories(listing, detector([B0, F7]))


def test_simulated_listing_is_what_will_be_found(tmp_path):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    for told, found in zip(simulate_jungfrau.listing(tmp_path), list_repository(tmp_path), strict=True):
        assert told[:4] == found[:4]
        assert bool(told.problem) == bool(found.problem)


def test_repository_that_is_not_there_is_named(tmp_path):
    with pytest.raises(JungfrauError, match=r"nowhere cannot be listed: .*set jungfrau.repository"):
        list_repository(tmp_path / "nowhere")


# Merged constants


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    place = tmp_path_factory.mktemp("jungfrau")
    simulate_jungfrau.write_repository(place / "gains", SEED)
    simulate_jungfrau.write_datasets(place / "datasets.yaml")
    simulate_jungfrau.write_truth(place / "truth.h5", SEED, {})
    return place


@pytest.mark.parametrize("dataset", sorted(simulate_jungfrau.CHOSEN))
def test_constants_are_the_truth_bit_for_bit(repository, dataset):
    held = find_detector(read_datasets([repository / "datasets.yaml"]), *parse_dataset(dataset))
    directories = choose_directories(list_repository(repository / "gains"), held)
    constants = merge_panels(held.panel_ids, constants_files(directories))
    truth, chosen = simulate_jungfrau.read_truth(repository / "truth.h5", dataset)
    assert [each.path for each in directories] == [str(repository / "gains" / name) for name in chosen]
    for kind, wanted in truth.items():
        assert constants[kind].dtype == np.float32
        assert constants[kind].shape == (3, len(held.panel_ids), 512, 1024)
        assert constants[kind].tobytes() == wanted.tobytes()


def test_constants_are_where_the_files_say(repository):
    """Without any code of the project: element [stage, panel] is the file of that panel and stage."""
    held = find_detector(read_datasets([repository / "datasets.yaml"]), "simls3716", 631)
    directories = choose_directories(list_repository(repository / "gains"), held)
    constants = merge_panels(held.panel_ids, constants_files(directories))
    for number, name in enumerate(("M088", "M068")):
        for stage in range(3):
            gain = np.load(repository / "gains" / name / f"g{stage}_gain.npy")
            offset = np.load(repository / "gains" / name / f"g{stage}_offset.npy")
            assert np.array_equal(constants["pixel_gain"][stage, number], gain)
            assert np.array_equal(constants["pixel_offset"][stage, number], offset)
    assert (constants["pixel_gain"][1:] < 0).all()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("no_directory", "the repository has no directory of it"),
        ("only_later", "no constants are valid at the start of the run"),
        ("wrong_stamp", "2017102500000' at the end of its name has 13 characters"),
        ("dangling_link", "it is a link to M068, which does not exist"),
        ("same_directory", "get their constants from the same directory"),
        ("missing_file", "M068/g1_gain.npy does not exist"),
        ("dash_name", "M068/g1_gain.npy does not exist; g1-gain.npy is there, whose name lacks the underscore"),
        ("truncated_file", "M068/g1_gain.npy: it cannot be read as .npy"),
        ("wrong_type", "M068/g1_gain.npy: holds int32 of shape"),
        ("not_exact", "M068/g1_gain.npy: its values (float64) are no float32 numbers"),
        ("wrong_shape", "M068/g1_gain.npy: holds float32 of shape (1024, 512); expected float32 of shape (512, 1024)"),
        ("not_finite", "M068/g1_gain.npy: 1 pixel is not finite, the first in row 3, column 5"),
        ("zero_gain", "M068/g1_gain.npy: 1 pixel has the gain 0, the first in row 3, column 5"),
    ],
)
def test_fault_is_an_error_that_names_the_panel(tmp_path, fault, message):
    simulate_jungfrau.write_repository(tmp_path, SEED, faults=[fault])
    held = find_detector(describe(simulate_jungfrau.dataset_values(), "x"), "simls3716", 631)
    with pytest.raises(JungfrauError) as told:
        directories = choose_directories(list_repository(tmp_path), held)
        merge_panels(held.panel_ids, constants_files(directories))
    assert message in str(told.value)
    assert B0 in str(told.value)


def test_every_fault_is_tested():
    marks = test_fault_is_an_error_that_names_the_panel.pytestmark
    assert {case[0] for case in marks[0].args[1]} == set(simulate_jungfrau.FAULTS)


def test_files_of_all_panels_are_checked_at_once(tmp_path):
    simulate_jungfrau.write_repository(tmp_path, SEED, faults=["not_finite"])
    np.save(tmp_path / "M088" / "g2_offset.npy", np.zeros((512, 1024), np.int16))
    paths = [str(tmp_path / name / file) for name in ("M088", "M068") for file in simulate_jungfrau.file_names()]
    with pytest.raises(JungfrauError) as told:
        merge_panels([F7, B0], paths)
    assert f"panel 0 ({F7}): {tmp_path}/M088/g2_offset.npy: holds int16" in str(told.value)
    assert f"panel 1 ({B0}): {tmp_path}/M068/g1_gain.npy: 1 pixel is not finite" in str(told.value)


def copy_directory(repository):
    shutil.rmtree(repository / "M068")
    shutil.copytree(repository / "M088", repository / "M068")


def link_files(repository):
    for name in simulate_jungfrau.file_names():
        (repository / "M068" / name).unlink()
        (repository / "M068" / name).hardlink_to(repository / "M088" / name)


def copy_one_file(repository):
    shutil.copy(repository / "M088" / "g2_offset.npy", repository / "M068" / "g2_offset.npy")


@pytest.mark.parametrize(
    ("spoil", "files"),
    [
        (copy_directory, ", ".join(simulate_jungfrau.file_names())),
        (link_files, ", ".join(simulate_jungfrau.file_names())),
        (copy_one_file, "g2_offset.npy"),
    ],
)
def test_two_panels_with_the_same_numbers_are_refused(tmp_path, spoil, files):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    spoil(tmp_path)
    held = find_detector(describe(simulate_jungfrau.dataset_values(), "x"), "simls3716", 631)
    directories = choose_directories(list_repository(tmp_path), held)
    with pytest.raises(JungfrauError) as told:
        merge_panels(held.panel_ids, constants_files(directories))
    assert (
        f"panels 0 ({F7}) and 1 ({B0}) have the same numbers in {files} of {tmp_path}/M088 and {tmp_path}/M068; each"
    ) in str(told.value)


def test_two_panels_may_have_offsets_of_0(tmp_path):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    for name in ("M068", "M088"):
        np.save(tmp_path / name / "g0_offset.npy", np.zeros((512, 1024), np.float32))
    paths = [str(tmp_path / name / file) for name in ("M088", "M068") for file in simulate_jungfrau.file_names()]
    assert not merge_panels([F7, B0], paths)["pixel_offset"][0].any()


@pytest.mark.parametrize("dtype", ["<f8", ">f4", "<f2"])
def test_other_floats_are_taken_if_they_lose_nothing(tmp_path, dtype):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    path = tmp_path / "M044" / "g0_offset.npy"
    values = np.arange(512 * 1024).reshape(512, 1024) % 1000 / 8
    np.save(path, values.astype(dtype))
    paths = [str(tmp_path / "M044" / file) for file in simulate_jungfrau.file_names()]
    assert np.array_equal(merge_panels([FB], paths)["pixel_offset"][0, 0], values.astype(np.float32))


def save_as_npz(path):
    with path.open("wb") as file:
        np.savez(file, np.ones((512, 1024), np.float32))


def damage_zip(path):
    path.write_bytes(b"PK\x03\x04" + 100 * b"x")


def damage_header(path):
    data = path.read_bytes()
    path.write_bytes(data.replace(b"}", b" ", 1))


@pytest.mark.parametrize("spoil", [save_as_npz, damage_zip, damage_header])
def test_file_that_is_something_else_is_named(tmp_path, spoil):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    spoil(tmp_path / "M044" / "g1_gain.npy")
    paths = [str(tmp_path / "M044" / file) for file in simulate_jungfrau.file_names()]
    with pytest.raises(JungfrauError, match=rf"panel 0 \({FB}\): \S+/M044/g1_gain.npy: it cannot be read as .npy"):
        merge_panels([FB], paths)


def test_objects_are_not_unpickled(tmp_path):
    simulate_jungfrau.write_repository(tmp_path, SEED)
    np.save(tmp_path / "M044" / "g0_offset.npy", np.array([{}], dtype=object), allow_pickle=True)
    paths = [str(tmp_path / "M044" / file) for file in simulate_jungfrau.file_names()]
    with pytest.raises(JungfrauError, match=r"g0_offset.npy: it cannot be read as .npy"):
        merge_panels([FB], paths)
