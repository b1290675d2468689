"""What a rule's code is, and that a job notices when it was edited."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pulsetrain import provenance
from pulsetrain.provenance import begin_job, code_of

SCRIPTS = Path(__file__).parents[2] / "scripts"
RULE_SCRIPTS = sorted(path.name for path in SCRIPTS.glob("*.py"))


@pytest.mark.parametrize("script", RULE_SCRIPTS)
def test_code_of_names_every_project_file_that_a_script_loads(script):
    program = (
        "import sys, json, importlib.util\n"
        f"sys.path.insert(0, {str(SCRIPTS)!r})\n"
        f"spec = importlib.util.spec_from_file_location('script', {str(SCRIPTS / script)!r})\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
        "print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, '__file__', None)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = {Path(name) for name in json.loads(done.stdout)}
    used = {path.relative_to(SCRIPTS).as_posix() for path in loaded if path.is_relative_to(SCRIPTS)}
    assert used | {script} <= set(code_of(script))


@pytest.fixture
def small_project(tmp_path, monkeypatch):
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "__init__.py").write_text("")
    (tmp_path / "lib" / "kernels.py").write_text("import numpy\n")
    (tmp_path / "lib" / "plots.py").write_text("from lib import kernels\n")
    (tmp_path / "a.py").write_text("from lib.kernels import x\n")
    (tmp_path / "b.py").write_text("import lib.plots\n")
    (tmp_path / "c.py").write_text("import os\n")
    monkeypatch.setattr(provenance, "SCRIPTS", tmp_path)
    return tmp_path


def test_code_of_follows_imports_to_exactly_the_users(small_project):
    assert list(code_of("a.py")) == ["a.py", "lib/__init__.py", "lib/kernels.py"]
    assert list(code_of("b.py")) == ["b.py", "lib/__init__.py", "lib/kernels.py", "lib/plots.py"]
    assert list(code_of("c.py")) == ["c.py"]


@pytest.mark.parametrize(
    "around",
    [
        "def f():\n    with x:\n        {}\n",
        "class A:\n    async def f(self):\n        {}\n",
        "if x:\n    pass\nelse:\n    {}\n",
        "try:\n    pass\nexcept ImportError:\n    {}\n",
        "try:\n    pass\nfinally:\n    {}\n",
        "match x:\n    case 1:\n        {}\n",
        "for x in y:\n    pass\nelse:\n    {}\n",
    ],
)
def test_imports_inside_other_statements_are_followed(small_project, around):
    (small_project / "c.py").write_text(around.format("import lib.kernels"))
    assert list(code_of("c.py")) == ["c.py", "lib/__init__.py", "lib/kernels.py"]


def test_code_of_follows_contents_and_not_dates(small_project):
    before = code_of("a.py")
    provenance._read_module.cache_clear()
    (small_project / "lib" / "kernels.py").touch()
    assert code_of("a.py") == before
    provenance._read_module.cache_clear()
    (small_project / "lib" / "kernels.py").write_text("import scipy\n")
    after = code_of("a.py")
    assert {name for name in before if before[name] != after[name]} == {"lib/kernels.py"}


def test_relative_imports_would_be_missed_and_are_refused(small_project):
    (small_project / "lib" / "kernels.py").write_text("from . import plots\n")
    with pytest.raises(ImportError, match=r"kernels.py: relative import in line 1"):
        code_of("a.py")


def test_job_stops_when_the_code_was_edited_after_planning(small_project):
    planned = code_of("a.py")
    provenance._read_module.cache_clear()
    (small_project / "lib" / "kernels.py").write_text("import scipy\n")
    with pytest.raises(RuntimeError, match=r"lib/kernels.py changed after this a job was planned"):
        begin_job("a", {"code": planned}, [], str(small_project / "log"))


def test_job_stops_when_it_was_planned_again_with_code_edited_after_the_call(small_project, monkeypatch):
    monkeypatch.setenv(provenance.CALL_CODE, "")
    provenance.hand_over_code(["a.py", "c.py", "no_script_of_this_rule.py"])
    log = str(small_project / "log")
    provenance._read_module.cache_clear()
    (small_project / "lib" / "kernels.py").write_text("import scipy\n")
    with pytest.raises(RuntimeError, match=r"^lib/kernels.py changed after this a job was planned"):
        begin_job("a", {"code": code_of("a.py")}, [], log)
    assert begin_job("c", {"code": code_of("c.py")}, [], log)["rule"] == "c"
    provenance._read_module.cache_clear()
    (small_project / "lib" / "kernels.py").write_text("import numpy\n")
    assert begin_job("a", {"code": code_of("a.py")}, [], log)["rule"] == "a"


def test_job_gives_provenance(small_project):
    (small_project / "in.h5").write_bytes(b"1234")
    given = {"code": code_of("a.py"), "sigma": 4.0, "modules": [1, 2]}
    attributes = begin_job("a", given, [str(small_project / "in.h5")], str(small_project / "logs" / "a.log"))
    assert attributes["rule"] == "a"
    assert json.loads(attributes["params"]) == {"sigma": 4.0, "modules": [1, 2]}
    assert json.loads(attributes["inputs"]) == {str(small_project / "in.h5"): 4}
    assert json.loads(attributes["code"]) == given["code"]
    assert {"pulsetrain_version", "git_revision", "created"} <= set(attributes)
