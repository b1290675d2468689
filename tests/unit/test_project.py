"""Files that must agree with each other."""

import re
import sys
import tomllib
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]


def test_reference_pages_follow_the_schemas(monkeypatch):
    monkeypatch.syspath_prepend(str(REPOSITORY / "docs"))
    import make_reference

    for name, text in (
        ("configuration.md", make_reference.configuration_page()),
        ("run-table.md", make_reference.run_table_page()),
    ):
        assert (REPOSITORY / "docs" / name).read_text() == text, (
            f"docs/{name} is old; run python docs/make_reference.py"
        )
    sys.modules.pop("make_reference")


def test_conda_environment_has_the_pins_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    environment = yaml.safe_load((REPOSITORY / "envs" / "pulsetrain.yaml").read_text())
    pip = next(item["pip"] for item in environment["dependencies"] if isinstance(item, dict))
    assert pip == project["dependencies"]


def test_lock_has_the_pins_of_the_project():
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    lock = {_plain(line) for line in (REPOSITORY / "requirements.lock").read_text().splitlines()}
    wanted = {_plain(line) for line in project["dependencies"] + project["optional-dependencies"]["test"]}
    assert wanted <= lock


def test_slurm_is_a_link_to_its_profile():
    assert (REPOSITORY / "slurm").readlink() == Path("profiles/slurm")


def test_every_picture_has_a_caption():
    names = re.findall(r'^    "(\w+)": "\w+",$', (REPOSITORY / "rules" / "common.smk").read_text(), flags=re.MULTILINE)
    assert len(names) >= 12
    for name in names:
        assert len((REPOSITORY / "rules" / "report" / f"{name}.rst").read_text().split()) > 20


def _plain(requirement):
    return requirement.strip().lower().replace("_", "-")
