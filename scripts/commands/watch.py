"""Process each run of the table when its files are complete: make watch [PROFILE=slurm] [SETTLE=60]."""

import argparse
import itertools
import json
import signal
import sys
import time
from pathlib import Path

BASEDIR = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(BASEDIR / "scripts"))

from pulsetrain.arrivals import look, read_settings, short_list, sort_runs  # noqa: E402
from pulsetrain.config import ConfigError  # noqa: E402
from pulsetrain.launch import InUseError, check_outputs, clear_the_way, run_snakemake, watch_lock  # noqa: E402
from pulsetrain.output import write_text  # noqa: E402
from pulsetrain.run_kinds import run_targets  # noqa: E402
from pulsetrain.run_status import read_summary  # noqa: E402

STATE = "watch.json"
BEAT_S = 5


def say(text):
    """Write a line with the time to the terminal, at once."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {text}\n")
    sys.stdout.flush()


def read_state(scratch):
    """Runs that were processed: {run: {"signature": str, "status": str}}."""
    path = Path(scratch) / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def process_runs(scratch, targets, options, beat):
    """Take runs through one call of snakemake; one by one if they cannot be planned together.

    Parameters
    ----------
    scratch : Path
    targets : dict
        {run: list of its targets}
    options : list of str
        Options for snakemake.
    beat : callable

    Returns
    -------
    dict
        {run: status}
    """
    began = time.strftime("%Y-%m-%d %H:%M:%S")
    runs = list(targets)
    code = run_snakemake(BASEDIR, [*itertools.chain(*targets.values()), *options], beat)
    rows = read_summary(scratch)
    told = {run: rows[run]["status"] for run in runs if run in rows and rows[run]["ended"] >= began}
    silent = [run for run in runs if run not in told]
    if code == 0:
        # Nothing was to be done for them.
        return told | dict.fromkeys(silent, "done")
    if told or len(runs) == 1:
        return told | dict.fromkeys(silent, "failed")
    say("snakemake could not plan these runs together (see above); now one by one")
    for run in runs:
        told |= process_runs(scratch, {run: targets[run]}, options, beat)
    return told


def tell_changes(verdicts, told):
    """Say what is new about each run; waiting runs with the same reason in one line."""
    groups = {}
    for run, verdict in verdicts.items():
        if told.get(run) != verdict:
            groups.setdefault(verdict, []).append(run)
    for (what, why), runs in groups.items():
        say(f"run{'s' * (len(runs) > 1)} {short_list(runs, 12)}: {what}" + (f", {why}" if why != what else ""))
    return verdicts


def watch(given, configfiles, options, beat, scratch):
    """Look, process and wait until stopped, or until nothing is left to wait for with ``--until-done``."""
    known = read_state(scratch)
    if given.retry:
        known = {run: past for run, past in known.items() if past["status"] in ("done", "partial")}
    before, told = {}, {}
    while True:
        try:
            settings = read_settings(BASEDIR, configfiles)
        except ConfigError as error:
            # Somebody edits the table just now, or made a mistake in it: no reason to end the night.
            say(f"{error}\nwaiting until this is corrected")
            _sleep(given.settle, beat)
            continue
        runs, config = settings["runs"], settings["config"]
        now = look(settings["data_root"], runs, config)
        verdicts = sort_runs(before, now, known)
        told = tell_changes(verdicts, told)
        ready = sorted(run for run, (what, _) in verdicts.items() if what == "start")
        if ready:
            clear_the_way(scratch, given.cancel, given.unlock, tell=say)
            check_outputs(BASEDIR, scratch, runs, config, configfiles, say)
            targets = {
                run: [given.target.format(run=run)] if given.target else run_targets(run, runs, config) for run in ready
            }
            statuses = process_runs(scratch, targets, options, beat)
            known |= {run: {"signature": now[run]["signature"], "status": status} for run, status in statuses.items()}
            write_text(scratch / STATE, json.dumps(known, indent=1, sort_keys=True) + "\n")
            failed = [run for run in ready if statuses[run] not in ("done", "partial")]
            say(f"processed: {short_list(ready, 12)}" + (f"; failed: {short_list(failed, 12)}" if failed else ""))
        elif given.until_done and not any(what == "wait" for what, _ in verdicts.values()):
            say("all runs of the table were processed")
            return 0
        else:
            waiting = sorted(run for run, (what, _) in verdicts.items() if what == "wait")
            if not before:
                say(f"waiting for {short_list(waiting, 12) if waiting else 'new runs in the table'}; Ctrl-C ends this")
        before = now
        _sleep(given.settle, beat)


def _sleep(seconds, beat):
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        beat()
        time.sleep(min(left, BEAT_S))


def _end(number, _frame):
    raise SystemExit(128 + number)


def main(arguments=None):
    """Watch."""
    parser = argparse.ArgumentParser(prog="watch", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.epilog = "All other options are given to snakemake."
    parser.add_argument("--configfile", nargs="+", default=[], help="as for snakemake")
    parser.add_argument("--settle", type=float, default=60, help="seconds between two looks (60)")
    parser.add_argument("--target", help="what to make of each run, such as r{run}_events.h5 (all of its kind)")
    parser.add_argument("--retry", action="store_true", help="try runs again that failed before")
    parser.add_argument("--until-done", action="store_true", help="end when every run of the table was processed")
    parser.add_argument(
        "--cancel", action="store_true", help="cancel jobs of a killed call instead of waiting for them"
    )
    parser.add_argument("--unlock", action="store_true", help="remove a lock of which nobody knows whether it is stale")
    given, options = parser.parse_known_args(arguments)
    configfiles = [str(Path(path).absolute()) for path in given.configfile]
    options += ["--configfile", *configfiles] if configfiles else []
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _end)
    try:
        settings = read_settings(BASEDIR, configfiles)
        if settings["config"]["simulate"] is not None:
            raise ConfigError("`simulate` is set: simulated runs do not arrive, they are made. Use: make process")
        with watch_lock(settings["scratch"], tell=say) as beat:
            say(f"watching the runs of {settings['run_table']}, files in {settings['data_root']}")
            return watch(given, configfiles, options, beat, settings["scratch"])
    except (ConfigError, InUseError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        say("watching ended; what is unfinished is taken up by the next call")
        return 130


if __name__ == "__main__":
    sys.exit(main())
