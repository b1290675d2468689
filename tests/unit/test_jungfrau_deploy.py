"""Jungfrau constants: files that read back the same, the gate, the calib directory, and the two commands."""

import importlib
import io
import os
import re
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pulsetrain import jungfrau_deploy, jungfrau_page, simulate_jungfrau
from pulsetrain.jungfrau import Detector, JungfrauError
from pulsetrain.jungfrau_deploy import deploy, deploy_problems, upload_commands
from pulsetrain.jungfrau_files import panel_lines, read_text_array, write_constants, write_text_array
from pulsetrain.jungfrau_gate import Limits, calib_directory, changes, find_deployed, gate_problems, panels_problem
from pulsetrain.jungfrau_panels import PanelDirectory
from pulsetrain.provenance import SCRIPTS

SEED = 3
B0, F7 = "170505-149520170815-3d00b0", "170505-149520170815-3d00f7"
SOURCE = "XcsEndstation.0:Jungfrau.0"
DETECTOR = Detector("simls3716", 631, SOURCE, 3, (F7, B0), "20171205161400", True)
KINDS = ("pixel_gain", "pixel_offset")
LIMITS = Limits(max_gain_change=0.05, max_offset_change=100, max_changed=0.05)
NOTHING = dict.fromkeys(KINDS)


def small_constants():
    """Values of one panel; most tests do not need the two million numbers of a whole one."""
    random = np.random.default_rng(1)
    return {kind: random.normal(40, 1, (3, 1, 4, 8)).astype(np.float32) for kind in KINDS}


@pytest.fixture(scope="module")
def constants():
    return {kind: simulate_jungfrau.detector_constants(SEED, ("M088", "M068"), kind) for kind in KINDS}


def names_in(directory):
    return sorted(path.name for path in Path(directory).iterdir())


def changed(values, kind, place, function):
    """A copy with one panel of one gain stage changed; `place` is (stage, panel)."""
    copy = {name: array.copy() for name, array in values.items()}
    copy[kind][place] = function(copy[kind][place])
    return copy


# Text


def load_as_psana_does(path):
    """Independent reading: what comes after the comments is float64; then the type and shape told."""
    comments, numbers = [], []
    for line in Path(path).read_text().splitlines():
        (comments if line.startswith("#") else numbers).append(line)
    told = [line.split(" ", 2) for line in comments if line.count(" ") >= 2]
    dtype = next(rest.strip() for _, name, rest in told if name == "DTYPE")
    shape = [int(rest) for _, name, rest in told if name.startswith("DIM:")]
    assert int(next(rest for _, name, rest in told if name == "NDIM")) == len(shape)
    return np.array([[float(word) for word in line.split()] for line in numbers if line], dtype).reshape(shape)


any_float32 = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=True)


@given(arrays(np.float32, (3, 1, 2, 5), elements=any_float32))
def test_text_gives_the_same_numbers(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "values.txt"
    write_text_array(path, values, "values.txt", ["a comment", "PANEL:0 a comment too"], {"params": '{"a": 1}'})
    for read in (read_text_array, load_as_psana_does):
        found = read(path)
        assert found.dtype == values.dtype
        assert found.shape == values.shape
        assert found.tobytes() == values.tobytes()


def test_text_has_the_header_of_psana(tmp_path):
    write_text_array(tmp_path / "x", np.ones((3, 2, 4, 8), np.float32), "x.txt")
    text = (tmp_path / "x").read_text()
    names = [line.split()[1] for line in text.splitlines() if line.startswith("#")]
    assert names == ["HOST", "WORK_DIR", "FILE_NAME", "DATE_TIME", "UID", "SHAPE", "DATATYPE", "DTYPE", "NDIM"] + [
        f"DIM:{axis}" for axis in range(4)
    ]
    assert "# SHAPE       (3,2,4,8)\n" in text
    rows = np.loadtxt(io.StringIO(text))
    assert rows.shape == (24, 8)


def test_text_of_the_older_program_is_read(tmp_path):
    (tmp_path / "x").write_text(
        "\n# HOST        psana\n\n# DTYPE       float32\n# NDIM        3\n# DIM:0       2\n"
        "# DIM:1       1\n# DIM:2       2\n\n41.1000 -1.3900\n0.0000 12.5000\n"
    )
    assert np.array_equal(read_text_array(tmp_path / "x"), np.float32([[[41.1, -1.39]], [[0, 12.5]]]))
    assert panel_lines(tmp_path / "x") == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace("# NDIM", "# NOT"), "does not tell its type and shape"),
        (lambda text: text.replace("# DIM:2 ", "# DIM:9 "), "does not tell its type and shape"),
        (lambda text: text.replace("float32", "number"), "does not tell its type and shape"),
        (lambda text: text[: text.rstrip().rindex("\n") + 1], "holds 88 numbers; .* It is not whole"),
        (lambda text: text[: text.rindex(" ")], "cannot be read"),
        (lambda text: text.replace("1 1", "1 one"), "cannot be read"),
    ],
)
def test_damaged_text_is_refused(tmp_path, change, message):
    write_text_array(tmp_path / "x", np.ones((3, 1, 4, 8), np.float32), "x.txt")
    head, numbers = (tmp_path / "x").read_text().split("# DTYPE")
    (tmp_path / "x").write_text(head + change("# DTYPE" + numbers))
    with pytest.raises(JungfrauError, match=message):
        read_text_array(tmp_path / "x")


def test_files_hold_the_numbers_and_say_whose_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = small_constants()
    paths = {kind: (f"{kind}.npy", f"{kind}.txt") for kind in KINDS}
    directory = PanelDirectory(f"{B0}-20171025000000", B0, "20171025000000", "/repository/M068", "")
    write_constants(paths, values, [directory], DETECTOR._replace(panel_ids=(B0,)), {"rule": "jungfrau_constants"})
    for kind, (npy, text) in paths.items():
        assert np.load(npy).tobytes() == values[kind].tobytes()
        assert load_as_psana_does(text).tobytes() == values[kind].tobytes()
        assert panel_lines(text) == [(B0, f"{B0}-20171025000000 -> M068", "20171025000000")]
        assert "# rule: jungfrau_constants\n" in Path(text).read_text()
    assert names_in(".") == sorted(name for names in paths.values() for name in names)


def test_file_that_does_not_read_back_is_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr("pulsetrain.jungfrau_files.NUMBER", "%.4f")
    paths = {kind: (tmp_path / f"{kind}.npy", tmp_path / f"{kind}.txt") for kind in KINDS}
    with pytest.raises(JungfrauError, match=r"pixel_gain.txt does not read back as it was written"):
        write_constants(paths, small_constants(), [], DETECTOR, {})
    assert [path.name for path in tmp_path.iterdir()] == ["pixel_gain.npy"]


# The file in force


@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (1, "1-end.data"),
        (9, "1-end.data"),
        (10, "10-20.data"),
        (20, "10-20.data"),
        (21, "1-end.data"),
        (9999, "500-end.data"),
    ],
)
def test_file_in_force_begins_last(tmp_path, run, wanted):
    for name in ("1-end.data", "10-20.data", "500-end.data", "600-700.data", "HISTORY", "x-end.data", "700-end.data~"):
        (tmp_path / name).touch()
    assert find_deployed(tmp_path, run).name == wanted


def test_nothing_in_force(tmp_path):
    assert find_deployed(tmp_path / "nowhere", 5) is None
    (tmp_path / "6-end.data").touch()
    assert find_deployed(tmp_path, 5) is None


def test_calib_directory_is_that_of_the_document():
    assert str(calib_directory("/reg/d/psdm", DETECTOR._replace(exp="xcsls3716"), "pixel_gain")) == (
        "/reg/d/psdm/XCS/xcsls3716/calib/Jungfrau::CalibV1/XcsEndstation.0:Jungfrau.0/pixel_gain"
    )


# The gate


def test_good_constants_pass(constants):
    assert gate_problems(DETECTOR, [F7, B0], constants, NOTHING, LIMITS) == []


@pytest.mark.parametrize(
    ("panel_ids", "message"),
    [
        ([B0, F7], [f"panel {B0} is number 0 in the constants; in the detector number 1", f"panel {F7} is number 1"]),
        ([F7, F7], [f"panel {B0} is missing in the constants", f"panel {F7} is in the constants 2 times"]),
        ([F7], [f"panel {B0} is missing in the constants", "pixel_gain is float32 of shape (3, 2, 512, 1024)"]),
        ([F7, "1-2-3"], [f"panel {B0} is missing in the constants", "panel 1-2-3 is not of this detector"]),
    ],
)
def test_panels_must_be_those_of_the_detector(constants, panel_ids, message):
    told = "\n".join(gate_problems(DETECTOR, panel_ids, constants, NOTHING, LIMITS))
    for text in message:
        assert text in told


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("pixel_gain", np.nan, "1 pixel is not finite, the first in row 7, column 9"),
        ("pixel_offset", -np.inf, "1 pixel is not finite, the first in row 7, column 9"),
        ("pixel_gain", 0, "1 pixel has the gain 0, the first in row 7, column 9"),
        ("pixel_gain", -0.0, "1 pixel has the gain 0, the first in row 7, column 9"),
    ],
)
def test_single_bad_pixel_is_found(constants, kind, value, message):
    def spoil(values):
        values[7, 9] = value
        return values

    told = gate_problems(DETECTOR, [F7, B0], changed(constants, kind, (2, 1), spoil), NOTHING, LIMITS)
    assert told == [f"{kind}, panel 1 ({B0}), gain stage 2: {message}"]


def test_offset_0_is_no_problem(constants):
    assert (
        gate_problems(DETECTOR, [F7, B0], changed(constants, "pixel_offset", (0, 0), np.zeros_like), NOTHING, LIMITS)
        == []
    )


@pytest.mark.parametrize(
    "wrong", [lambda values: values.astype(np.float64), lambda values: values[:2], lambda values: values.swapaxes(2, 3)]
)
def test_wrong_type_or_shape_is_refused(constants, wrong):
    held = constants | {"pixel_offset": wrong(constants["pixel_offset"])}
    (told,) = gate_problems(DETECTOR, [F7, B0], held, NOTHING, LIMITS)
    assert told.startswith("pixel_offset is float")
    assert F7 in told


def test_missing_type_is_refused(constants):
    assert gate_problems(DETECTOR, [F7, B0], {"pixel_gain": constants["pixel_gain"]}, NOTHING, LIMITS) == [
        "pixel_offset is missing"
    ]


@pytest.fixture(scope="module")
def in_force(constants, tmp_path_factory):
    place = tmp_path_factory.mktemp("in_force")
    paths = {kind: (place / f"{kind}.npy", place / f"{kind}.txt") for kind in KINDS}
    directories = [PanelDirectory(name, name, "", f"/repository/{name}", "") for name in (F7, B0)]
    write_constants(paths, constants, directories, DETECTOR, {})
    return {kind: text for kind, (_, text) in paths.items()}


def test_same_constants_and_small_drifts_pass(constants, in_force):
    assert gate_problems(DETECTOR, [F7, B0], constants, in_force, LIMITS) == []
    drifted = {"pixel_gain": constants["pixel_gain"] * np.float32(1.04), "pixel_offset": constants["pixel_offset"] + 50}
    assert gate_problems(DETECTOR, [F7, B0], drifted, in_force, LIMITS) == []


@pytest.mark.parametrize(
    ("kind", "change", "amount"),
    [
        ("pixel_gain", lambda values: values * np.float32(1.2), "+20 %"),
        ("pixel_gain", lambda values: -values, "-200 %"),
        ("pixel_offset", lambda values: values - 150, "-150 ADU"),
    ],
)
def test_jump_names_panel_and_stage(constants, in_force, kind, change, amount):
    held = changed(constants, kind, (1, 0), change)
    told = gate_problems(DETECTOR, [F7, B0], held, in_force, LIMITS)
    assert told[0] == f"{kind}, panel 0 ({F7}), gain stage 1: 100 % of the pixels jump, median change {amount}"
    assert f"compared with {in_force[kind]}, which is in force" in told[1]
    assert len(told) == 2
    assert gate_problems(DETECTOR, [F7, B0], held, in_force, LIMITS._replace(max_changed=1)) == []


@pytest.mark.parametrize(("rows", "passes"), [(25, True), (26, False)])
def test_few_changed_pixels_pass(constants, in_force, rows, passes):
    def change(values):
        values[:rows] *= np.float32(2)
        return values

    told = gate_problems(DETECTOR, [F7, B0], changed(constants, "pixel_gain", (2, 1), change), in_force, LIMITS)
    assert (told == []) is passes  # 5 % of 512 rows are 25.6


@pytest.mark.parametrize("max_changed", [0.05, 1])
def test_known_panels_in_another_order_are_refused(constants, in_force, max_changed):
    """Also where the numbers are alike, and where a change is meant: panels do not change places."""
    told = gate_problems(
        DETECTOR._replace(panel_ids=(B0, F7)), [B0, F7], constants, in_force, LIMITS._replace(max_changed=max_changed)
    )
    assert len(told) == len(KINDS)
    for kind, line in zip(KINDS, told, strict=True):
        assert line.startswith(f"{kind}: {in_force[kind]}, which is in force, is of the panels {F7}, {B0}; these")
        assert f"constants of {B0}, {F7}. Check the panels in the file of jungfrau.datasets: the same panels" in line
        assert line.endswith(f"If the file in force is wrong, remove it: rm {in_force[kind]}")


def test_exchanged_panel_passes_only_where_it_is_meant(constants, in_force):
    panels = (F7, "1-2-3")
    told = gate_problems(DETECTOR._replace(panel_ids=panels), panels, constants, in_force, LIMITS)
    assert len(told) == len(KINDS)
    assert f"is of the panels {F7}, {B0}; these constants of {F7}, 1-2-3. Check" in told[0]
    assert told[0].endswith("If panels were really exchanged, set jungfrau.gate.max_changed to 1 for this call")
    meant = LIMITS._replace(max_changed=1)
    assert gate_problems(DETECTOR._replace(panel_ids=panels), panels, constants, in_force, meant) == []


def test_panel_that_moved_where_others_were_exchanged_is_refused(constants, tmp_path):
    panels = [f"1-2-{number}" for number in range(1, 4)]
    path = tmp_path / "1-end.data"
    of_panels = [PanelDirectory(name, name, "", f"/repository/{name}", "") for name in panels]
    write_constants({"pixel_gain": (tmp_path / "x.npy", path)}, constants, of_panels, DETECTOR, {})
    moved = ["1-2-2", "1-2-1", "1-2-4"]
    assert "in another order" in panels_problem("pixel_gain", moved, path, LIMITS._replace(max_changed=1))
    assert panels_problem("pixel_gain", ["1-2-2", "1-2-4", "1-2-3"], path, LIMITS._replace(max_changed=1)) == ""


def test_page_tells_other_panels(constants, in_force):
    detector = DETECTOR._replace(panel_ids=(B0, F7))
    told = jungfrau_page._changes(detector, constants, {"pixel_gain": str(in_force["pixel_gain"])}, LIMITS)
    assert f"<p class='refused'>pixel_gain: {in_force['pixel_gain']}, which is in force, is of the panels" in told
    told = jungfrau_page._changes(DETECTOR, constants, {"pixel_gain": str(in_force["pixel_gain"])}, LIMITS)
    assert "refused" not in told


def test_changes_are_those_of_plain_numpy(constants):
    random = np.random.default_rng(2)
    new = {kind: values * random.normal(1, 0.1, values.shape).astype(np.float32) for kind, values in constants.items()}
    for kind, limit in (("pixel_gain", LIMITS.max_gain_change), ("pixel_offset", LIMITS.max_offset_change)):
        for change in changes(kind, new[kind], constants[kind], LIMITS):
            a = new[kind][change.stage, change.panel].astype(float)
            b = constants[kind][change.stage, change.panel].astype(float)
            wanted = (a - b) / b if kind == "pixel_gain" else a - b
            assert change.changed == pytest.approx(np.mean(abs(wanted) > limit), abs=1e-12)
            assert change.median == pytest.approx(np.median(wanted), rel=1e-12)


def test_deployed_pixels_that_are_not_known_count_as_changed(constants, in_force, tmp_path):
    old = constants["pixel_gain"].copy()
    old[0, 1, :100] = np.nan
    old[0, 1, 100:200] = 0
    found = changes("pixel_gain", constants["pixel_gain"], old, LIMITS)
    assert [change.changed for change in found] == [0, 0, 0, 200 / 512, 0, 0]


@pytest.mark.parametrize("what", ["other_shape", "damaged", "unreadable"])
def test_deployed_constants_that_cannot_be_compared(constants, tmp_path, what):
    path = tmp_path / "1-end.data"
    if what == "other_shape":
        write_text_array(path, np.ones((3, 1, 4, 8), np.float32), path.name)
    else:
        path.write_bytes(b"\xff\xfe" if what == "unreadable" else b"41.5 41.6\n")
    told = gate_problems(DETECTOR, [F7, B0], constants, {"pixel_gain": path, "pixel_offset": None}, LIMITS)
    assert told[0].startswith(f"pixel_gain of the panels {F7}, {B0}: the deployed constants")
    assert str(path) in told[1]
    off = LIMITS._replace(max_changed=1)
    assert gate_problems(DETECTOR, [F7, B0], constants, {"pixel_gain": path, "pixel_offset": None}, off) == []


# Deployment


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An experiment's directory, and local files of small constants."""
    (tmp_path / "calib" / "SIM" / "simls3716").mkdir(parents=True)
    (tmp_path / "local").mkdir()
    monkeypatch.chdir(tmp_path / "local")
    values = small_constants()
    paths = {kind: (f"{kind}.npy", f"{kind}.txt") for kind in KINDS}
    write_constants(paths, values, [], DETECTOR, {})
    return tmp_path / "calib", values, {kind: text for kind, (_, text) in paths.items()}


def files_below(directory):
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def deployed_path(root, kind, name="631-end.data"):
    return root / "SIM" / "simls3716" / "calib" / "Jungfrau::CalibV1" / SOURCE / kind / name


def test_deployed_file_is_the_text(place):
    root, values, texts = place
    assert deploy(root, DETECTOR, values, texts, "by a test") == [
        (deployed_path(root, kind), True, "") for kind in KINDS
    ]
    for kind in KINDS:
        assert deployed_path(root, kind).read_bytes() == Path(texts[kind]).read_bytes()
        assert load_as_psana_does(deployed_path(root, kind)).tobytes() == values[kind].tobytes()
        (line,) = deployed_path(root, kind, "HISTORY").read_text().splitlines()
        assert re.match("file:631-end.data sha256:[0-9a-f]{12} copy_of:/", line)
        for text in (f"/local/{kind}.txt ctype:{kind} user:", " cmt:by a test"):
            assert text in line
    assert len(files_below(root)) == 4


def test_deployed_file_can_be_read_by_all(place):
    root, values, texts = place
    before = os.umask(0o022)
    try:
        deploy(root, DETECTOR, values, texts, "")
    finally:
        os.umask(before)
    assert stat.S_IMODE(deployed_path(root, "pixel_gain").stat().st_mode) == 0o644


def test_same_constants_again_are_nothing_to_do(place):
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "first")
    before = files_below(root)
    assert deploy(root, DETECTOR, values, texts, "second") == [(deployed_path(root, kind), False, "") for kind in KINDS]
    assert files_below(root) == before


def test_other_constants_are_not_replaced(place):
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "")
    before = files_below(root)
    other = {kind: array + np.float32(1) for kind, array in values.items()}
    with pytest.raises(JungfrauError) as told:
        deploy(root, DETECTOR, other, texts, "")
    for kind in KINDS:
        assert f"remove it first: rm {deployed_path(root, kind)}" in str(told.value)
    assert files_below(root) == before


def test_nothing_is_deployed_if_one_of_two_is_occupied(place):
    root, values, texts = place
    deployed_path(root, "pixel_offset").parent.mkdir(parents=True)
    deployed_path(root, "pixel_offset").write_text("something else")
    with pytest.raises(JungfrauError, match="cannot be compared"):
        deploy(root, DETECTOR, values, texts, "")
    assert list(files_below(root).values()) == [b"something else"]


@pytest.mark.parametrize("is_there", [False, True])
def test_file_that_would_stay_in_force_is_named_before_anything_is_deployed(place, is_there):
    """631-640.data begins with the same run and ends first, whether 631-end.data is there or not."""
    root, values, texts = place
    if is_there:
        deploy(root, DETECTOR, values, texts, "")
    other = deployed_path(root, "pixel_offset", "631-640.data")
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_text("for ten runs")
    before = files_below(root)
    with pytest.raises(JungfrauError) as told:
        deploy(root, DETECTOR, values, texts, "")
    assert f"{other} would stay in force for run 631" in str(told.value)
    assert f"remove it first: rm {other}" in str(told.value)
    assert str(told.value).count("stay in force") == 1
    assert files_below(root) == before


@pytest.mark.parametrize("name", ["1-end.data", "600-640.data", "632-640.data", "0631-end.data", "631-9999.data"])
def test_deployed_file_is_in_force_beside_others(place, name):
    root, values, texts = place
    for kind in KINDS:
        deployed_path(root, kind).parent.mkdir(parents=True)
        deployed_path(root, kind, name).write_text("others")
    for target, _, _ in deploy(root, DETECTOR, values, texts, ""):
        assert find_deployed(target.parent, 631) == target


def test_call_that_was_killed_in_between_is_completed(place):
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "")
    deployed_path(root, "pixel_gain", "HISTORY").unlink()
    deployed_path(root, "pixel_offset").unlink()
    assert deploy(root, DETECTOR, values, texts, "") == [
        (deployed_path(root, "pixel_gain"), False, ""),
        (deployed_path(root, "pixel_offset"), True, ""),
    ]
    assert len(deployed_path(root, "pixel_gain", "HISTORY").read_text().splitlines()) == 1
    assert len(deployed_path(root, "pixel_offset", "HISTORY").read_text().splitlines()) == 2


def test_file_that_was_removed_and_deployed_again_gets_its_own_line(place, monkeypatch):
    """Also if the call is killed before it adds the line, and the next one completes it."""
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "first")
    for kind in KINDS:
        deployed_path(root, kind).unlink()
        write_text_array(texts[kind], values[kind], "made again")
    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(jungfrau_deploy, "_note", interrupt)
        deploy(root, DETECTOR, values, texts, "killed")
    assert [is_new for _, is_new, _ in deploy(root, DETECTOR, values, texts, "second")] == [False, False]
    for kind in KINDS:
        first, second = deployed_path(root, kind, "HISTORY").read_text().splitlines()
        assert first.endswith(" cmt:first")
        assert second.endswith(" cmt:second")


def interrupt(*_, **__):
    raise KeyboardInterrupt


def test_history_in_another_encoding_is_kept(place):
    root, values, texts = place
    history = deployed_path(root, "pixel_gain", "HISTORY")
    history.parent.mkdir(parents=True)
    history.write_bytes(b"caf\xe9\n")
    deploy(root, DETECTOR, values, texts, "")
    lines = history.read_bytes().splitlines()
    assert lines[0] == b"caf\xe9"
    assert lines[1].startswith(b"file:631-end.data sha256:")
    assert [is_new for _, is_new, _ in deploy(root, DETECTOR, values, texts, "")] == [False, False]
    assert history.read_bytes().splitlines() == lines


def test_history_that_cannot_be_written_is_told_with_what_is_in_force(place, monkeypatch):
    root, values, texts = place
    history = deployed_path(root, "pixel_offset", "HISTORY")

    def full_disk(path, *arguments, **named):
        if path == history:
            raise OSError(28, "No space left on device")
        return real(path, *arguments, **named)

    real = Path.open
    with monkeypatch.context() as context:
        context.setattr(jungfrau_deploy.Path, "open", full_disk)
        with pytest.raises(JungfrauError) as told:
            deploy(root, DETECTOR, values, texts, "")
    gain, offset = (deployed_path(root, kind) for kind in KINDS)
    assert f"{gain} and {offset} are in force, but" in str(told.value)
    assert f"  - {offset}: its line cannot be added to {history}: No space left on device" in str(told.value)
    assert "then call again, which adds the lines" in str(told.value)
    assert str(told.value).count("its line") == 1
    assert [is_new for _, is_new, _ in deploy(root, DETECTOR, values, texts, "")] == [False, False]
    assert len(history.read_text().splitlines()) == 1


def test_missing_line_of_a_file_that_is_there_is_only_a_warning(place):
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "")
    history = deployed_path(root, "pixel_gain", "HISTORY")
    history.unlink()
    history.mkdir()  # in place of one that may not be written, since root may write everything
    before = files_below(root)
    (_, gain_is_new, warning), offset = deploy(root, DETECTOR, values, texts, "")
    assert not gain_is_new
    assert warning == f"its line cannot be added to {history}: Is a directory"
    assert offset == (deployed_path(root, "pixel_offset"), False, "")
    assert files_below(root) == before


@pytest.mark.parametrize(
    ("name", "is_file", "message"),
    [
        ("HISTORY", False, "pixel_offset/HISTORY is no file, and a line must be added to it; look"),
        ("", True, "pixel_offset is in the place of a directory; look what it is"),
    ],
)
def test_thing_in_the_wrong_place_is_named_before_anything_is_copied(place, name, is_file, message):
    root, values, texts = place
    path = deployed_path(root, "pixel_offset", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch() if is_file else path.mkdir()
    before = files_below(root)
    with pytest.raises(JungfrauError, match=message):
        deploy(root, DETECTOR, values, texts, "")
    assert files_below(root) == before


def test_nothing_stays_if_the_second_file_fails(place, monkeypatch):
    root, values, texts = place
    real = jungfrau_deploy.shutil.copyfile

    def full_disk(source, target):
        if "pixel_offset" in str(source):
            raise OSError(28, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(jungfrau_deploy.shutil, "copyfile", full_disk)
    with pytest.raises(OSError, match="No space left"):
        deploy(root, DETECTOR, values, texts, "")
    assert files_below(root) == {}


def test_of_two_users_at_once_the_first_wins(place, monkeypatch):
    """Somebody else's file comes between the look and the placing."""
    root, values, texts = place
    real = jungfrau_deploy.read_text_array

    def somebody_else(path):
        if path.suffix == ".part" and "pixel_offset" in str(path):
            deployed_path(root, "pixel_offset").write_text("theirs")
        return real(path)

    monkeypatch.setattr(jungfrau_deploy, "read_text_array", somebody_else)
    with pytest.raises(JungfrauError, match=r"somebody else deployed .*pixel_offset/631-end.data"):
        deploy(root, DETECTOR, values, texts, "")
    assert list(files_below(root).values()) == [b"theirs"]


def test_two_users_with_the_same_constants_at_once_do_not_harm_each_other(place, monkeypatch):
    """The second one saw the first file of this call and placed the other: neither may go."""
    root, values, texts = place
    real = jungfrau_deploy.read_text_array

    def somebody_else(path):
        if path.suffix == ".part" and "pixel_offset" in str(path):
            write_text_array(deployed_path(root, "pixel_offset"), values["pixel_offset"], "theirs")
        return real(path)

    monkeypatch.setattr(jungfrau_deploy, "read_text_array", somebody_else)
    assert [is_new for _, is_new, _ in deploy(root, DETECTOR, values, texts, "")] == [True, False]
    for kind in KINDS:
        assert read_text_array(deployed_path(root, kind)).tobytes() == values[kind].tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_text_that_another_call_replaced_is_not_deployed(place, kind):
    """Two calls in one directory: what was checked is not what the local file holds now."""
    root, values, texts = place
    write_text_array(texts[kind], values[kind] + np.float32(1), "theirs")
    with pytest.raises(JungfrauError, match=rf"/local/{kind}.txt does not hold the numbers that were checked; nothing"):
        deploy(root, DETECTOR, values, texts, "")
    assert files_below(root) == {}


@pytest.mark.parametrize("forbidden", ["HISTORY", "pixel_offset", "simls3716"])
def test_place_that_may_not_be_written_is_named_before_anything_is_copied(place, monkeypatch, forbidden):
    root, values, texts = place
    if forbidden != "simls3716":
        history = deployed_path(root, "pixel_offset", "HISTORY")
        history.parent.mkdir(parents=True)
        history.touch()
    before = files_below(root)
    monkeypatch.setattr(jungfrau_deploy.os, "access", lambda path, mode: Path(path).name != forbidden)
    with pytest.raises(JungfrauError, match=rf"{forbidden} may not be written by .*; ask its owner") as error:
        deploy(root, DETECTOR, values, texts, "")
    assert str(error.value).count("may not be written") == 1
    assert files_below(root) == before


def test_history_keeps_the_lines_of_many_users(place):
    root, values, texts = place
    deploy(root, DETECTOR, values, texts, "")
    target = deployed_path(root, "pixel_gain")
    threads = [
        threading.Thread(
            target=jungfrau_deploy._note, args=(target, "x.txt", "pixel_gain", f"number {number} " + 200 * "x", True)
        )
        for number in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = target.with_name("HISTORY").read_text().splitlines()
    assert len(lines) == 21
    assert all(line.startswith("file:631-end.data ") for line in lines)


def test_experiment_must_exist(place):
    root, values, _ = place
    (told,) = deploy_problems(root, DETECTOR._replace(exp="simls3717"), values)
    assert "SIM/simls3717 does not exist; check the experiment's name and jungfrau.calib" in told


def test_upload_commands_are_those_of_the_older_program():
    detector = DETECTOR._replace(exp="xcsls3716")
    assert upload_commands(
        "/reg/d/psdm/detector/calib/jungfrau", detector, {"pixel_gain": "a.txt", "pixel_offset": "b.txt"}
    ) == [
        f"dcs add /reg/d/psdm/detector/calib/jungfrau/jungfrau-{F7}_{B0}.h5 -t {kind} -f {name} -T 1500000000 "
        '-m "See command: jungfrau_gain_constants -d exp=xcsls3716:run=631 -U" -e xcsls3716 -r 631 -d '
        "XcsEndstation.0:Jungfrau.0"
        for kind, name in (("pixel_gain", "a.txt"), ("pixel_offset", "b.txt"))
    ]


# Commands


@pytest.fixture(scope="module")
def facility(tmp_path_factory):
    """A simulated repository, descriptions, an experiment with deployed constants, and a configuration of them."""
    place = tmp_path_factory.mktemp("facility")
    simulate_jungfrau.write_repository(place / "gains", SEED)
    simulate_jungfrau.write_datasets(place / "datasets.yaml")
    simulate_jungfrau.write_deployed(place / "calib", SEED)
    config = {"repository": "gains", "datasets": "datasets.yaml", "calib": "calib", "upload_repository": "upload"}
    config = {name: str(place / path) for name, path in config.items()}
    (place / "config.yaml").write_text(yaml.safe_dump({"jungfrau": config}))
    return place


def command(place, name, *arguments, cwd=None):
    """Call a command; its exit code, output and errors."""
    script = SCRIPTS / "commands" / f"{name}.py"
    words = [sys.executable, str(script), *arguments, "--config", str(place / "config.yaml")]
    done = subprocess.run(words, cwd=cwd or place, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("name", ["jungfrau_id", "jungfrau_gain_constants"])
def test_commands_are_there_by_name_and_print_help(name):
    done = subprocess.run([Path(sys.executable).parent / name], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "run make setup, which links the commands"
    assert done.stdout.startswith(f"usage: {name}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file or directory; correct its name"),
        (b"jungfrau: {repository: x\n", "cannot be read as YAML: while parsing"),
        (b"- a\n", "holds a list; expected lines such as"),
        (b"\x00", "cannot be read as YAML: unacceptable character"),
        (b"\xff\xfe\xfd", "cannot be read as YAML: 'utf-8' codec"),
        (b"jungfrau: 2017-13-01", "cannot be read as YAML: month must be in 1..12"),
    ],
)
@pytest.mark.parametrize(("name", "option"), [("jungfrau_id", []), ("jungfrau_gain_constants", ["-d"])])
def test_configuration_that_cannot_be_read_is_named(tmp_path, capsys, name, option, text, message):
    path = tmp_path / "mine.yaml"
    if text is not None:
        path.write_bytes(text)
    main = importlib.import_module(f"commands.{name}").main
    assert main([*option, "exp=simls3716:run=631", "--configfile", str(path)]) == 1
    assert f"the configuration {path} {message}" in capsys.readouterr().err


@pytest.mark.parametrize("options", [["-D"], ["-U"], ["-s", "Jungfrau.0"]])
def test_options_without_a_data_set_are_an_error(facility, options):
    """Whoever calls it from a script must not think that constants are deployed."""
    code, told, errors = command(facility, "jungfrau_gain_constants", *options)
    assert (code, told) == (2, "")
    assert "say which run with -d, such as -d exp=xcsls3716:run=631" in errors


def test_jungfrau_id_prints_what_the_document_shows(tmp_path):
    (tmp_path / "config.yaml").write_text("{}")
    assert command(tmp_path, "jungfrau_id", "exp=xpptut15:run=430") == (
        0,
        'Finding Jungfrau Id in dataset "exp=xpptut15:run=430" using name pattern Jungfrau\n'
        "Found source: MfxEndstation.0-Jungfrau.0, number of panels: 2\n"
        "Jungfrau id: 171113-154920171025-3d00b0_171113-154920171025-3d00f7\n",
        "",
    )


def test_jungfrau_id_without_panel_ids(facility):
    code, told, _ = command(facility, "jungfrau_id", "exp=sim11116:run=18", "Jungfrau.0")
    assert code == 0
    assert "using name pattern Jungfrau.0\n" in told
    assert "number of panels: unknown (psana.Jungfrau.ConfigV2)\nJungfrau id: XcsEndstation.0-Jungfrau.0\n" in told


def test_gain_constants_are_made_deployed_and_made_known(facility, tmp_path):
    arguments = ("-d", "exp=simls3716:run=631", "-D", "-U", "-s", "Jungfrau.0")
    code, told, errors = command(facility, "jungfrau_gain_constants", *arguments, cwd=tmp_path)
    assert (code, errors) == (0, "")
    assert "warning: 171113-154920171025-3d00fc-2018030600000: the time stamp" in told
    stem = f"simls3716-r0631_{SOURCE}_{F7}_{B0}"
    assert names_in(tmp_path) == sorted(f"{stem}_{kind}.{end}" for kind in KINDS for end in ("npy", "txt"))
    for kind in KINDS:
        wanted = np.stack(
            [
                np.stack([np.load(facility / "gains" / name / f"g{stage}_{kind[6:]}.npy") for name in ("M088", "M068")])
                for stage in range(3)
            ]
        )
        target = deployed_path(facility / "calib", kind)
        assert np.load(tmp_path / f"{stem}_{kind}.npy").tobytes() == wanted.tobytes()
        assert read_text_array(target).tobytes() == wanted.tobytes()
        assert target.read_bytes() == (tmp_path / f"{stem}_{kind}.txt").read_bytes()
        assert f"deployed {target}\n" in told
        assert f"dcs add {facility}/upload/jungfrau-{F7}_{B0}.h5 -t {kind} -f {stem}_{kind}.txt -T 1500000000" in told


def test_refused_constants_leave_no_file(facility, tmp_path):
    config = yaml.safe_load((facility / "config.yaml").read_text())
    config["jungfrau"]["gate"] = {"max_offset_change": 1, "max_gain_change": 0.001}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    (tmp_path / "cwd").mkdir()
    before = files_below(facility / "calib").keys()
    code, _, errors = command(
        tmp_path, "jungfrau_gain_constants", "-d", "exp=simls3716:run=5", "-D", cwd=tmp_path / "cwd"
    )
    assert code == 1
    assert "no detector of run 5 of simls3716 is described; the nearest runs are 631, 700" in errors
    code, _, errors = command(
        tmp_path, "jungfrau_gain_constants", "-d", "exp=simls3716:run=700", "-D", cwd=tmp_path / "cwd"
    )
    assert code == 1
    for kind in KINDS:
        assert f"{kind}, panel 1 ({B0}), gain stage 2: " in errors
    assert not names_in(tmp_path / "cwd")
    assert files_below(facility / "calib").keys() == before


def test_detector_without_ids_stops_the_generator(facility, tmp_path):
    code, told, errors = command(facility, "jungfrau_gain_constants", "-d", "exp=sim11116:run=18", cwd=tmp_path)
    assert (code, told) == (1, "")
    assert "ConfigV2 tells no panel ids" in errors
    assert "Traceback" not in errors
    assert not names_in(tmp_path)
