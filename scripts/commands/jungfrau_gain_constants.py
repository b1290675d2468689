"""Gain constants of a Jungfrau: jungfrau_gain_constants -d exp=xcsls3716:run=631 [-D] [-U] [-s Jungfrau.0]."""

import argparse
import os
import sys
import time
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from pulsetrain import __version__  # noqa: E402
from pulsetrain.arrivals import read_config  # noqa: E402
from pulsetrain.config import ConfigError  # noqa: E402
from pulsetrain.jungfrau import (  # noqa: E402
    TYPES,
    JungfrauError,
    dataset_name,
    local_name,
    parse_dataset,
    raise_problems,
)
from pulsetrain.jungfrau_datasets import find_detector, read_datasets, resolve_settings  # noqa: E402
from pulsetrain.jungfrau_deploy import deploy, deploy_problems, upload_commands  # noqa: E402
from pulsetrain.jungfrau_files import write_constants  # noqa: E402
from pulsetrain.jungfrau_gate import Limits, calib_directory, find_deployed, gate_problems  # noqa: E402
from pulsetrain.jungfrau_panels import (  # noqa: E402
    choose_directories,
    constants_files,
    list_repository,
    merge_panels,
    require_panel_ids,
    unusable_directories,
)
from pulsetrain.output import MODE_VARIABLE  # noqa: E402
from pulsetrain.provenance import git_revision  # noqa: E402


def say(text):
    """Write a line."""
    sys.stdout.write(f"{text}\n")


def make_constants(settings, detector):
    """Find and merge the constants of a detector's panels, and tell what they are.

    Returns
    -------
    tuple
        Directories, and {type: float32 (3, P, 512, 1024)}.
    """
    require_panel_ids(detector)
    listing = list_repository(settings["repository"])
    for warning in unusable_directories(listing, detector.panel_ids):
        say(f"warning: {warning}")
    directories = choose_directories(listing, detector)
    for number, each in enumerate(directories):
        begin = each.valid_from or "the beginning"
        say(f"panel {number} {each.panel_id}: {each.name} ({each.path}), valid from {begin}")
    return directories, merge_panels(detector.panel_ids, constants_files(directories))


def check_before_deploy(settings, detector, directories, constants):
    """Stop with everything that speaks against deploying, before a file is written."""
    root, panel_ids = settings["calib"], [each.panel_id for each in directories]
    in_force = {kind: find_deployed(calib_directory(root, detector, kind), detector.run) for kind in TYPES}
    problems = gate_problems(detector, panel_ids, constants, in_force, Limits(**settings["gate"]))
    problems += deploy_problems(root, detector, constants)
    raise_problems(f"the constants of {detector.source} for {dataset_name(detector)} are not deployed", problems)


def write_local(detector, directories, constants):
    """Write the constants to the current directory; {type: text file}."""
    if not os.access(Path.cwd(), os.W_OK):
        raise JungfrauError(
            f"the files go to the current directory {Path.cwd()}, which may not be written; change to another"
        )
    paths = {kind: tuple(local_name(detector, kind, end) for end in ("npy", "txt")) for kind in TYPES}
    attributes = {
        "pulsetrain_version": __version__,
        "git_revision": git_revision(),
        "command": "jungfrau_gain_constants",
        "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
    write_constants(paths, constants, directories, detector, attributes)
    for names in paths.values():
        say("\n".join(f"saved {name}" for name in names))
    return {kind: text for kind, (_, text) in paths.items()}


def main(arguments=None):
    """Make constants, and deploy them if asked to."""
    parser = argparse.ArgumentParser(prog="jungfrau_gain_constants", description=__doc__.splitlines()[0])
    parser.add_argument("-d", metavar="DATASET", dest="dataset", help="such as exp=xcsls3716:run=631")
    parser.add_argument("-D", dest="deploy", action="store_true", help="deploy as <run>-end.data of the experiment")
    parser.add_argument("-U", dest="upload", action="store_true", help="show the commands for the global repository")
    parser.add_argument("-s", metavar="SOURCE", dest="source", help="source or a part of it, if there are several")
    parser.add_argument("--configfile", action="append", default=[], help="goes over config/config.yaml")
    given = parser.parse_args(arguments)
    if given.dataset is None:
        if given.deploy or given.upload or given.source:
            parser.error("say which run with -d, such as -d exp=xcsls3716:run=631")
        parser.print_help()
        return 0
    try:
        exp, run = parse_dataset(given.dataset)
        config = read_config(BASEDIR, given.configfile)
        os.environ[MODE_VARIABLE] = config["output_mode"]
        settings = resolve_settings(config, BASEDIR)
        detector = find_detector(read_datasets(settings["datasets"]), exp, run, given.source)
        directories, constants = make_constants(settings, detector)
        if given.deploy:
            check_before_deploy(settings, detector, directories, constants)
        texts = write_local(detector, directories, constants)
        if given.deploy:
            comment = f"jungfrau_gain_constants -d {given.dataset} -D"
            for target, is_new, warning in deploy(settings["calib"], detector, constants, texts, comment):
                say(f"deployed {target}" if is_new else f"{target} is there with the same numbers: nothing to do")
                if warning:
                    say(f"warning: {target}: {warning}")
        if given.upload:
            say("\n".join(upload_commands(settings["upload_repository"], detector, texts)))
    except (ConfigError, JungfrauError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
