"""Make targets, after dealing with what a killed call left: make process [PROFILE=slurm] [TARGETS=...] [CANCEL=yes]."""

import argparse
import os
import sys
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from pulsetrain.arrivals import read_settings  # noqa: E402
from pulsetrain.config import ConfigError  # noqa: E402
from pulsetrain.launch import InUseError, check_outputs, clear_the_way, snakemake_command  # noqa: E402


def say(text):
    """Write a line to the terminal, at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(arguments=None):
    """Clear the way and start snakemake."""
    parser = argparse.ArgumentParser(prog="process", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.epilog = "Everything else, targets and options, is given to snakemake."
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument(
        "--cancel", action="store_true", help="cancel jobs of a killed call instead of waiting for them"
    )
    parser.add_argument("--unlock", action="store_true", help="remove a lock of which nobody knows whether it is stale")
    given, more = parser.parse_known_args(arguments)
    configfiles = [str(Path(path).absolute()) for path in given.configfile]
    try:
        settings = read_settings(BASEDIR, configfiles)
        clear_the_way(settings["scratch"], given.cancel, given.unlock, wait=False, tell=say)
        check_outputs(BASEDIR, settings["scratch"], settings["runs"], settings["config"], configfiles, say)
        options = ["--configfile", *configfiles] if configfiles else []
        command = snakemake_command(BASEDIR, [*more, *options])
    except (ConfigError, InUseError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        return 130
    # From here on this process is snakemake, so that signals reach it.
    os.chdir(BASEDIR)
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
