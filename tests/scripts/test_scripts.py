"""Every script is thin, importable and documented, and stops when its code is not the planned one."""

import ast
import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest

SCRIPTS = sorted((Path(__file__).parents[2] / "scripts").glob("*.py"))


def main_block(path):
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.If) and "__main__" in ast.unparse(node.test):
            return node
    raise AssertionError(f"{path.name} has no main block")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_is_thin_documented_and_importable(path):
    module = runpy.run_path(str(path), run_name="imported")
    assert module["__doc__"]
    block = main_block(path)
    assert block.end_lineno - block.lineno <= 30
    assert "snakemake" not in path.read_text().replace(ast.get_source_segment(path.read_text(), block), "")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_script_refuses_code_that_was_not_planned(path, tmp_path):
    job = SimpleNamespace(
        rule=path.stem,
        params={"code": {f"{path.name}": "an older version"}},
        input=[],
        log=[str(tmp_path / "log.txt")],
        threads=1,
    )
    with pytest.raises(RuntimeError, match=rf"{path.name}.* changed after this {path.stem} job was planned"):
        runpy.run_path(str(path), init_globals={"snakemake": job}, run_name="__main__")
    assert (tmp_path / "log.txt").exists()
