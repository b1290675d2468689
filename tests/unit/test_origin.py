"""What a file tells of its origin, and whether that is what is planned."""

import json

import h5py
import pytest

from pulsetrain.figures import new_figure, save_figure
from pulsetrain.origin import is_as_planned, origin_of
from pulsetrain.provenance import as_text

PARAMS = {"run": 50, "modules": (0, 5), "threshold": 4.0}
CODE = {"find_hits.py": "abc"}
TOLD = {"rule": "find_hits", "params": json.dumps(PARAMS, sort_keys=True), "code": json.dumps(CODE, sort_keys=True)}
PLANNED = PARAMS | {"code": CODE}


def write_h5(path):
    with h5py.File(path, "w") as file:
        file.attrs.update(TOLD)


WRITERS = {
    "a.h5": write_h5,
    "a.json": lambda path: path.write_text(json.dumps({"provenance": TOLD})),
    "a.accepted": lambda path: path.write_text("run 50 accepted\n" + as_text(TOLD, "#")),
    "a.geom": lambda path: path.write_text(as_text(TOLD, ";") + "clen = 0.7\n"),
    "a.png": lambda path: save_figure(new_figure()[0], path, TOLD),
}


@pytest.mark.parametrize("name", WRITERS)
def test_files_tell_their_origin(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert origin_of(tmp_path / name) == {"rule": "find_hits", "params": json.loads(TOLD["params"]), "code": CODE}
    assert is_as_planned([tmp_path / name], "find_hits", PLANNED)


@pytest.mark.parametrize(
    "other", [{"threshold": 4.5}, {"code": {"find_hits.py": "abd"}}, {"new": 1}], ids=["value", "code", "parameter"]
)
def test_any_difference_counts(tmp_path, other):
    write_h5(tmp_path / "a.h5")
    assert not is_as_planned([tmp_path / "a.h5"], "find_hits", PLANNED | other)


def test_files_that_do_not_tell(tmp_path):
    silent = [tmp_path / "a.emc", tmp_path / "a.txt", tmp_path / "b.h5"]
    silent[0].write_bytes(bytes(range(256)))
    silent[1].write_text("no word")
    with h5py.File(silent[2], "w") as file:
        file["data"] = 1
    assert [origin_of(path) for path in silent] == [None, None, None]
    assert not is_as_planned(silent, "find_hits", PLANNED)
    write_h5(tmp_path / "c.h5")
    assert is_as_planned([silent[0], tmp_path / "c.h5"], "find_hits", PLANNED)
