"""The id of a Jungfrau: jungfrau_id exp=xpptut15:run=430 [Jungfrau.0]."""

import argparse
import sys
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from pulsetrain.arrivals import read_config  # noqa: E402
from pulsetrain.config import ConfigError  # noqa: E402
from pulsetrain.jungfrau import JungfrauError, id_jungfrau, parse_dataset, slug  # noqa: E402
from pulsetrain.jungfrau_datasets import find_detector, read_datasets, resolve_settings  # noqa: E402


def main(arguments=None):
    """Find and print."""
    parser = argparse.ArgumentParser(prog="jungfrau_id", description=__doc__.splitlines()[0])
    parser.add_argument("--configfile", action="append", default=[], help="goes over config/config.yaml")
    parser.add_argument("dataset", nargs="?", help="exp=xpptut15:run=430")
    parser.add_argument("source", nargs="?", help="source or a part of its name; needed if there are several Jungfraus")
    given = parser.parse_args(arguments)
    if given.dataset is None:
        parser.print_help()
        return 0
    try:
        exp, run = parse_dataset(given.dataset)
        pattern = given.source or "Jungfrau"
        sys.stdout.write(f'Finding Jungfrau Id in dataset "{given.dataset}" using name pattern {pattern}\n')
        settings = resolve_settings(read_config(BASEDIR, given.configfile), BASEDIR)
        detector = find_detector(read_datasets(settings["datasets"]), exp, run, given.source)
        panels = len(detector.panel_ids) or f"unknown (psana.Jungfrau.ConfigV{detector.config_version})"
        sys.stdout.write(f"Found source: {slug(detector.source)}, number of panels: {panels}\n")
        sys.stdout.write(f"Jungfrau id: {id_jungfrau(detector)}\n")
    except (ConfigError, JungfrauError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
