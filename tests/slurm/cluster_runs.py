"""Snakemake typed in a checkout, on the cluster; and small checkouts to type it in."""

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import textwrap
from pathlib import Path

import yaml

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL_RUN = {
    "simulate": {"profile": "tiny"},
    "detector": {"modules": [0, 15], "geometry": "config/geometry/agipd_simulated.geom"},
    "hits": {"min_score": 1, "min_spread": 1},  # the default guards are for the light on 16 modules
}
# What the project's own workflow does about the executor, too.
HEAD = f"""\
import sys

sys.path.insert(0, {str(REPOSITORY / "scripts")!r})

from pulsetrain.slurm_status import ask_steadily

onstart:
    ask_steadily(workflow.scheduler._executor)

"""


def small_checkout(place, rules):
    """A directory with the project's profiles and a workflow of its own; its rules can import pulsetrain."""
    place.mkdir()
    (place / "Snakefile").write_text(HEAD + textwrap.dedent(rules))
    shutil.copytree(REPOSITORY / "profiles", place / "profiles")
    (place / "slurm").symlink_to("profiles/slurm")
    return place


class Run:
    """One snakemake on the cluster, typed in a checkout as a user would."""

    def __init__(self, cluster, checkout, *arguments, profile="slurm"):
        self.checkout = Path(checkout)
        self.log = Path(tempfile.mkstemp(prefix="snakemake.", suffix=".log", dir=self.checkout.parent)[1])
        self.command = ["snakemake", "--profile", profile, *arguments]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.checkout,
                env=cluster.env,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def text(self):
        return self.log.read_text(errors="replace")

    def wait(self, seconds=240):
        """Exit code; an error with the log if snakemake still waits after `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"{' '.join(self.command)} did not end in {seconds} s:\n{self.text[-6000:]}") from None

    def succeed(self, seconds=240):
        code = self.wait(seconds)
        assert code == 0, f"{' '.join(self.command)} failed:\n{self.text[-8000:]}"
        return self

    def fail(self, seconds=240):
        assert self.wait(seconds) != 0, f"{' '.join(self.command)} should have failed:\n{self.text[-8000:]}"
        return self

    def kill(self, number=signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)
        self.process.wait(60)


def full_checkout(place, **config):
    """A checkout of the project as it is, with a configuration for a small simulated run."""
    place.mkdir()
    for name in ("Snakefile", "rules", "scripts", "config", "profiles"):
        source = REPOSITORY / name
        if source.is_dir():
            shutil.copytree(source, place / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, place / name)
    # What numba compiled is valid for the text of a source file, wherever that lies: once for all checkouts.
    compiled = REPOSITORY / "scripts" / "pulsetrain" / "__pycache__"
    compiled.mkdir(exist_ok=True)
    (place / "scripts" / "pulsetrain" / "__pycache__").symlink_to(compiled)
    (place / "envs").mkdir()
    shutil.copy2(REPOSITORY / "envs" / "pulsetrain.yaml", place / "envs")
    (place / "slurm").symlink_to("profiles/slurm")
    change_config(place, **SMALL_RUN | config)
    return place


def change_config(checkout, **changes):
    """Set sections of the checkout's config/config.yaml, as a user's editor would."""
    path = checkout / "config" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | changes))


def profile_of(name):
    return yaml.safe_load((REPOSITORY / "profiles" / name / "config.yaml").read_text())


def groups_of(name):
    """Group of each rule that has one in a profile."""
    return dict(entry.split("=") for entry in profile_of(name)["groups"])
