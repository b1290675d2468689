"""Put constants of a Jungfrau into the calib directory of the experiment. Only the command does this, never a rule."""

import getpass
import hashlib
import os
import shlex
import shutil
import socket
import time
from pathlib import Path

import numpy as np

from pulsetrain.jungfrau import JungfrauError, dataset_name, detector_id, raise_problems
from pulsetrain.jungfrau_files import is_same, read_text_array
from pulsetrain.jungfrau_gate import calib_directory, experiment_directory, file_in_force
from pulsetrain.output import whole_file

BEGIN_OF_TIME = 1500000000  # as the older program has it: constants of the repository are valid from July 2017 on


def deploy(root, detector, constants, texts, comment):
    """Copy text files to ``<run>-end.data`` of the experiment and note it in HISTORY.

    A file appears whole or not at all, and never replaces another one: of two users at once, the first wins. If the
    files are there with the same numbers, nothing is done.

    Parameters
    ----------
    root : str or Path
        ``/reg/d/psdm``.
    detector : pulsetrain.jungfrau.Detector
    constants : dict
        {type: float32 (3, P, 512, 1024)}
    texts : dict
        {type: text file with them}
    comment : str
        For HISTORY.

    Returns
    -------
    list of (Path, bool, str)
        The deployed files, whether each is new, and a warning if a file that is not new lacks its line in HISTORY.

    Raises
    ------
    JungfrauError
        With what :func:`deploy_problems` finds; then nothing is deployed. Or if the files are deployed, but HISTORY of
        a new one cannot be written.
    """
    wanted = {kind: _target(root, detector, kind) for kind in texts}
    # Looked at before the check, so that a file that somebody deploys meanwhile does not pass unread.
    new = {kind: target for kind, target in wanted.items() if not os.path.lexists(target)}
    raise_problems("nothing is deployed", deploy_problems(root, detector, constants))
    placed = _place({target: (texts[kind], constants[kind]) for kind, target in new.items()})
    unnoted = {
        target: _note(target, texts[kind], kind, comment, always=target in placed) for kind, target in wanted.items()
    }
    lacking = [f"{target}: {unnoted[target]}" for target in placed if unnoted[target]]
    raise_problems(
        f"{' and '.join(map(str, wanted.values()))} are in force, but nobody will know from where. Correct what "
        "follows, then call again, which adds the lines",
        lacking,
    )
    return [(target, target in placed, unnoted[target]) for target in wanted.values()]


def deploy_problems(root, detector, constants):
    """Find what keeps constants from getting their place.

    No experiment, no permission to write, or other constants under their name.

    Parameters
    ----------
    root, detector, constants
        As for :func:`deploy`.

    Returns
    -------
    list of str
    """
    experiment = experiment_directory(root, detector)
    if not experiment.is_dir():
        return [
            f"the directory of the experiment {experiment} does not exist; check the experiment's name and "
            "jungfrau.calib"
        ]
    problems = []
    for kind, values in constants.items():
        target = _target(root, detector, kind)
        problems += [_occupied(target, values)] if os.path.lexists(target) else _forbidden(target)
        problems.append(_shadowed(target, detector.run))
    return [problem for problem in dict.fromkeys(problems) if problem]


def _occupied(target, values):
    """Say why a file that is there already cannot stay; '' if it holds these numbers."""
    try:
        if np.array_equal(read_text_array(target), values):
            return ""
        what = "is there already with other constants and is not replaced"
    except (JungfrauError, OSError) as error:
        what = f"is there already, is not replaced, and cannot be compared: {error}"
    return f"{target} {what}. If these are to take its place, remove it first: rm {shlex.quote(str(target))}"


def _shadowed(target, run):
    """Say which file would stay in force for the run; '' if the new one comes into force."""
    held = list(target.parent.iterdir()) if target.parent.is_dir() else []
    in_force = file_in_force([*held, target], run)
    if in_force == target:
        return ""
    return (
        f"{in_force} would stay in force for run {run}, since it begins with the same run and ends before "
        f"{target.name}. If {target.name} is to take its place, remove it first: rm {shlex.quote(str(in_force))}"
    )


def _forbidden(target):
    """What has to be written for a new file, and cannot be: without HISTORY nobody would know who deployed it."""
    directory = next(path for path in target.parents if os.path.lexists(path))
    if not directory.is_dir():
        return [f"{directory} is in the place of a directory; look what it is, and move it away"]
    history = target.with_name("HISTORY")
    if os.path.lexists(history) and not history.is_file():
        return [f"{history} is no file, and a line must be added to it; look what it is, and move it away"]
    paths = [directory, history] if history.exists() else [directory]
    return [
        f"{path} may not be written by {getpass.getuser()}; ask its owner for write permission"
        for path in paths
        if not os.access(path, os.W_OK)
    ]


def upload_commands(repository, detector, texts):
    """Commands that upload constants to the global repository; they need psana.

    Parameters
    ----------
    repository : str
        ``/reg/d/psdm/detector/calib/jungfrau``.
    detector : pulsetrain.jungfrau.Detector
    texts : dict
        {type: text file}

    Returns
    -------
    list of str
    """
    name = dataset_name(detector)
    target = Path(repository) / f"jungfrau-{detector_id(detector.panel_ids)}.h5"
    of_run = f"-e {detector.exp} -r {detector.run} -d {detector.source}"
    return [
        f"dcs add {shlex.quote(str(target))} -t {kind} -f {shlex.quote(str(text))} -T {BEGIN_OF_TIME} "
        f'-m "See command: jungfrau_gain_constants -d {name} -U" {of_run}'
        for kind, text in texts.items()
    ]


def _target(root, detector, kind):
    return calib_directory(root, detector, kind) / f"{detector.run}-end.data"


def _place(copies):
    """Copy {new name: (file, its numbers)}, all or none; give the names that are new.

    A file with the same numbers that somebody else deploys in this moment is as good; who did may count on those placed
    here.
    """
    placed = []
    try:
        for target, (text, values) in copies.items():
            try:
                with whole_file(target, replace=False) as part:
                    shutil.copyfile(text, part)
                    # The numbers that were checked, not the text: another call here may have replaced it meanwhile.
                    if not is_same(read_text_array(part), values):
                        raise JungfrauError(
                            f"the copy of {Path(text).absolute()} does not hold the numbers that were checked; nothing "
                            "is deployed. Did another call write this file in this moment? Then call again, in another "
                            "directory; else look whether the disk is in order"
                        )
            except FileExistsError:
                if _occupied(target, values):
                    raise JungfrauError(
                        f"somebody else deployed {target} in this moment; nothing is deployed. Look at it, then call "
                        "again"
                    ) from None
                continue
            placed.append(target)
    except BaseException:
        for path in placed:
            path.unlink()
        raise
    return placed


def _note(target, text, kind, comment, always):
    """Append a line to HISTORY, if not `always` then only if it lacks that of this file; say what went wrong, or ''.

    One write, so that the lines of two users cannot mix. A file of this name may have been there before: the line of
    this one has the hash of its contents.
    """
    history = target.with_name("HISTORY")
    try:
        name = f"file:{target.name} sha256:{hashlib.sha256(target.read_bytes()).hexdigest()[:12]} "
        # As bytes: nobody knows how the lines of other programs are encoded.
        if not always and history.exists() and name.encode() in history.read_bytes():
            return ""
        line = (
            f"{name}copy_of:{Path(text).absolute()} ctype:{kind} user:{getpass.getuser()} "
            f"host:{socket.gethostname()} cptime:{time.strftime('%Y-%m-%dT%H:%M:%S')} cwd:{Path.cwd()} cmt:{comment}\n"
        )
        with history.open("a", encoding="utf-8") as file:
            file.write(line)
    except OSError as error:
        return f"its line cannot be added to {history}: {error.strerror}"
    return ""
