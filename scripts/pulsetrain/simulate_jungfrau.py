"""A simulated repository of Jungfrau panel constants, with data sets that use it, deployed constants, and the truth."""

import itertools
import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import yaml

from pulsetrain.jungfrau import GAIN_STAGES, PANEL_SHAPE, TYPES, JungfrauError
from pulsetrain.jungfrau_files import write_text_array
from pulsetrain.jungfrau_panels import PanelDirectory, file_names
from pulsetrain.output import new_h5, whole_file, write_text
from pulsetrain.provenance import as_text

MARK = "SIMULATED.txt"  # in a simulated repository: .npy files cannot tell that they are simulated
SEED_PANELS, SEED_DEPLOYED = 301, 302  # first words of the seeds, one per kind of random number
ASIC = 256  # pixels
GAIN = (41.0, -1.39, -0.11)  # [ADU/keV] per gain stage
OFFSET = (0.0, 14300.0, 15300.0)  # [ADU]
GAIN_SPREAD, OFFSET_SPREAD = 0.02, 8.0  # of the pixels; relative, [ADU]
GAIN_DRIFT, OFFSET_DRIFT = 0.003, 2.0  # between versions of a panel; of the deployed constants, too

PANELS = {  # moduleVersion, firmwareVersion, serialNumber
    "170505-149520170815-3d00b0": (1508613, 22630721062933, 3997872),
    "170505-149520170815-3d00f7": (1508613, 22630721062933, 3997943),
    "171113-154920171025-3d00fb": (1511699, 23403815178277, 3997947),
}
DIRECTORIES = ("M044", "M068", "M088", "M068_2018")
VERSIONS = {"M068_2018": "M068"}  # measured again, later
LINKS = {
    "170505-149520170815-3d00b0-20171025000000": "M068",
    "170505-149520170815-3d00b0-20180601000000": "M068_2018",
    "170505-149520170815-3d00f7-20171025000000": "M088",
    "171113-154920171025-3d00fb": "M044",
    # Thirteen digits, as in the document. No data set uses this panel.
    "171113-154920171025-3d00fc-2018030600000": "M044",
}
SOURCE = "XcsEndstation.0:Jungfrau.0"
TWO_PANELS = ("170505-149520170815-3d00f7", "170505-149520170815-3d00b0")  # not in alphabetical order
DATASETS = (
    {"exp": "simls3716", "run": 631, "source": SOURCE, "start_time": 20171205161400, "panels": TWO_PANELS},
    {"exp": "simls3716", "run": 700, "source": SOURCE, "start_time": 20180701090000, "panels": TWO_PANELS},
    {"exp": "simlr6316", "runs": "4-17", "source": "XcsEndstation.0:Jungfrau.1", "panels": [*PANELS][2:]},
    {"exp": "sim11116", "runs": "4-18", "source": SOURCE, "config_version": 2},
)
CHOSEN = {  # directories that the data sets should get, in the order of their panels
    "exp=simls3716:run=631": ("M088", "M068"),
    "exp=simls3716:run=700": ("M088", "M068_2018"),
    "exp=simlr6316:run=17": ("M044",),
}
DEPLOYED = ("simls3716", SOURCE, ("M088", "M068"))  # what is in force there from run 1 on

FAULTY = "170505-149520170815-3d00b0-20171025000000"  # the directory that faults concern
FAULTS = {
    "no_directory": "the panel has no directory",
    "only_later": "the only directory of the panel begins after the run",
    "wrong_stamp": "the time stamp of the directory has 13 digits",
    "dangling_link": "the directory is a link to nothing",
    "same_directory": "the directories of two panels are links to the same one",
    "missing_file": "g1_gain.npy is missing",
    "dash_name": "g1_gain.npy is called g1-gain.npy",
    "truncated_file": "g1_gain.npy ends early",
    "wrong_type": "g1_gain.npy holds integers",
    "not_exact": "g1_gain.npy holds float64 numbers that are no float32",
    "wrong_shape": "g1_gain.npy is turned, (1024, 512)",
    "not_finite": "g1_gain.npy has a NaN in row 3, column 5",
    "zero_gain": "g1_gain.npy has a 0 in row 3, column 5",
}


def dataset_values():
    """Descriptions of the simulated detectors, as they stand in the YAML file."""
    entries = []
    for entry in DATASETS:
        panels = [
            dict(zip(("moduleVersion", "firmwareVersion", "serialNumber"), PANELS[name], strict=True))
            for name in entry.get("panels", ())
        ]
        entries.append({**entry, "panels": panels} if panels else dict(entry))
    return {"datasets": entries}


def listing(repository):
    """The repository as :func:`pulsetrain.jungfrau_panels.list_repository` will find it once it is written."""
    found = []
    for name, target in sorted(LINKS.items()):
        panel, stamp = "-".join(name.split("-")[:3]), "".join(name.split("-")[3:])
        problem = "" if len(stamp) in (0, 14) else f"time stamp {stamp}"
        found.append(PanelDirectory(name, panel, stamp, str(Path(repository) / target), problem))
    return found


def panel_constants(seed, directory, kind, stage):
    """Constants of one panel and gain stage.

    Parameters
    ----------
    seed : int
    directory : str
        One of ``DIRECTORIES``.
    kind : str
        ``pixel_gain`` [ADU/keV] or ``pixel_offset`` [ADU].
    stage : int

    Returns
    -------
    ndarray of float32, (512, 1024)
        ASICs differ by steps, and pixels in them.
    """
    rng = np.random.default_rng([SEED_PANELS, seed, DIRECTORIES.index(directory), TYPES.index(kind), stage])
    if directory in VERSIONS:
        return _drifted(panel_constants(seed, VERSIONS[directory], kind, stage), kind, rng)
    asics = rng.standard_normal((PANEL_SHAPE[0] // ASIC, PANEL_SHAPE[1] // ASIC)).astype(np.float32)
    spread = np.kron(asics, np.ones((ASIC, ASIC), np.float32)) + rng.standard_normal(PANEL_SHAPE, np.float32)
    if kind == "pixel_gain":
        return np.float32(GAIN[stage]) * (1 + np.float32(GAIN_SPREAD) * spread)
    return np.float32(OFFSET[stage]) + np.float32(OFFSET_SPREAD) * spread


def detector_constants(seed, directories, kind):
    """Constants of a detector with these panels, float32 (3, P, 512, 1024): what merging them should give."""
    return np.stack(
        [np.stack([panel_constants(seed, name, kind, stage) for name in directories]) for stage in range(GAIN_STAGES)]
    )


def repository_files(repository):
    """Files with constants in the simulated repository."""
    return [str(Path(repository) / directory / name) for directory in DIRECTORIES for name in file_names()]


def real_file(repository, datasets, calib):
    """Find something that the simulation would take the place of, and that it did not write.

    Parameters
    ----------
    repository, datasets, calib : str or Path
        As in the configuration.

    Returns
    -------
    Path
        None if all that is there is simulated.

    Raises
    ------
    JungfrauError
        If something cannot be read.
    """
    texts = map(Path, [datasets, *deployed_files(calib).values()])
    try:
        real = [path for path in texts if os.path.lexists(path) and not _is_marked(path)]
        if not real and not _is_marked(Path(repository) / MARK):
            real = _files_in(repository)
    except OSError as error:
        raise JungfrauError(
            f"{error.filename} cannot be read, to see whether it is simulated: {error.strerror}"
        ) from None
    return real[0] if real else None


def _is_marked(path):
    """Whether the comments at the beginning of a text say that the simulator wrote it."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        comments = itertools.takewhile(lambda line: line.startswith(b"#"), file)
        return any(line.startswith(b"# rule: simulate_") for line in comments)


def _files_in(repository):
    """Files and links of a repository and of the directories in it."""
    if not Path(repository).is_dir():
        return [Path(repository)] if os.path.lexists(repository) else []
    entries = sorted(Path(repository).iterdir())
    inner = [path for entry in entries if entry.is_dir() and not entry.is_symlink() for path in sorted(entry.iterdir())]
    # Snakemake makes the directories of a job's files before the job, which are empty then.
    return [path for path in [*entries, *inner] if path.is_symlink() or not path.is_dir()]


def mark_repository(repository, attributes):
    """Write into a repository that it is simulated; to be done before all else."""
    write_text(Path(repository) / MARK, as_text(attributes, "#"))


def write_repository(repository, seed, faults=()):
    """Write the directories with constants, and the links to them.

    Parameters
    ----------
    repository : str or Path
    seed : int
    faults : sequence of str
        Of ``FAULTS``, for tests.
    """
    repository = Path(repository)
    for directory in DIRECTORIES:
        for name in file_names():
            stage, quantity = int(name[1]), name[3:-4]
            with whole_file(repository / directory / name) as part, part.open("wb") as file:
                np.save(file, panel_constants(seed, directory, f"pixel_{quantity}", stage))
    for name, target in LINKS.items():
        (repository / name).unlink(missing_ok=True)
        (repository / name).symlink_to(target)
    for fault in faults:
        _apply(fault, repository)


def write_datasets(path, attributes=None):
    """Write the descriptions as YAML."""
    write_text(path, as_text(attributes or {}, "#") + yaml.safe_dump(dataset_values(), sort_keys=False))


def deployed_files(calib):
    """Deployed constants in force for the simulated experiment: {type: file}."""
    exp, source, _ = DEPLOYED
    directory = Path(calib) / exp[:3].upper() / exp / "calib" / "Jungfrau::CalibV1" / source
    return {kind: str(directory / kind / "1-end.data") for kind in TYPES}


def deployed_constants(seed, kind):
    """What is deployed: the constants of the repository with a small drift."""
    values = detector_constants(seed, DEPLOYED[2], kind)
    return _drifted(values, kind, np.random.default_rng([SEED_DEPLOYED, seed, TYPES.index(kind)]))


def _drifted(values, kind, rng):
    noise = rng.standard_normal(values.shape, np.float32)
    if kind == "pixel_gain":
        return values * (1 + np.float32(GAIN_DRIFT) * noise)
    return values + np.float32(OFFSET_DRIFT) * noise


def write_deployed(calib, seed, attributes=None):
    """Write the deployed constants; with the attributes of the job they are marked as simulated."""
    for kind, path in deployed_files(calib).items():
        with whole_file(path) as part:
            write_text_array(part, deployed_constants(seed, kind), Path(path).name, attributes=attributes)


def write_truth(path, seed, attributes):
    """Write the merged arrays of each data set, and as JSON the directories that it should get.

    Parameters
    ----------
    path : str
        HDF5 file: ``<data set>/pixel_gain``, ``<data set>/pixel_offset``; attribute ``directories``.
    seed : int
    attributes : dict
    """
    with new_h5(path, attributes) as file:
        file.attrs["seed"] = seed
        file.attrs["directories"] = json.dumps(CHOSEN, sort_keys=True)
        for dataset, directories in CHOSEN.items():
            for kind in TYPES:
                file[f"{dataset}/{kind}"] = detector_constants(seed, directories, kind)


def read_truth(path, dataset):
    """Merged arrays {type: float32 (3, P, 512, 1024)} and the names of the directories of a data set."""
    with h5py.File(path) as file:
        directories = json.loads(file.attrs["directories"])[dataset]
        return {kind: file[dataset][kind][()] for kind in TYPES}, directories


def _apply(fault, repository):
    link = repository / FAULTY
    target = link.readlink()
    path = link / "g1_gain.npy"
    match fault:
        case "no_directory":
            link.unlink()
            (repository / "170505-149520170815-3d00b0-20180601000000").unlink()
        case "only_later":
            link.unlink()
        case "wrong_stamp":
            link.rename(repository / FAULTY[:-1])
        case "dangling_link":
            shutil.rmtree(repository / target)
        case "same_directory":
            link.unlink()
            link.symlink_to("M088")
        case "missing_file":
            path.unlink()
        case "dash_name":
            path.rename(path.with_name("g1-gain.npy"))
        case "truncated_file":
            os.truncate(path, 1000)
        case "wrong_type":
            np.save(path, np.load(path).astype(np.int32))
        case "not_exact":
            np.save(path, np.load(path) + np.float64(1e-12))
        case "wrong_shape":
            np.save(path, np.load(path).T)
        case "not_finite" | "zero_gain":
            values = np.load(path)
            values[3, 5] = np.nan if fault == "not_finite" else 0
            np.save(path, values)
        case _:
            raise ValueError(f"{fault!r} is no fault of the simulated Jungfrau; known are {', '.join(FAULTS)}")
