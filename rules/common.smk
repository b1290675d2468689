"""The configuration, the run table, and the functions that rules use to find their inputs; no rules here."""

import functools
import hashlib
import json
import os
import re

from snakemake.exceptions import WorkflowError

from pulsetrain import config as settings_of
from pulsetrain.memory import MOST_CELLS, litpixels_mb
from pulsetrain.provenance import code_of, handed_over_settings, is_simulated
from pulsetrain.run_kinds import run_of, run_targets

SCHEMAS = Path(workflow.basedir) / "config" / "schemas"
CONDA = str(Path(workflow.basedir) / "envs" / "pulsetrain.yaml")
# Aggregators that hold detector modules; the pulse energies are in the other files of a run.
DETECTOR_FILE = re.compile(r"-(AGIPD|LPD|DSSC|JNGFR|EPIX|PNCCD|SHIMADZU|GH2|HED)\d*-S\d{5}\.h5$")
EXDF_FILE = re.compile(r"^(RAW|CORR)-R(\d{4})-([A-Z0-9]+)-S(\d{5})\.h5$")


def from_checkout(path):
    """A path of the configuration: relative ones count from the checkout, wherever snakemake was started."""
    return (Path(workflow.basedir) / Path(path).expanduser()).absolute()


def checked(function, *arguments, **named):
    """Call a function of the library; show what is wrong with its values as one message without a traceback."""
    try:
        return function(*arguments, **named)
    except ValueError as error:
        raise WorkflowError(str(error)) from None


def read_settings():
    """The configuration and the run table, complete; in a job on a cluster as they were when it was planned."""
    if (told := handed_over_settings()) is not None:
        return told
    complete = checked(settings_of.complete_config, config, SCHEMAS / "config.schema.yaml", "the configuration")
    checked(settings_of.check_calibrations, complete["calibrations"])
    names = sorted(complete["calibrations"])
    table = from_checkout(complete["runs"])
    return complete, checked(settings_of.read_run_table, table, SCHEMAS / "runs.schema.yaml", names)


config, RUNS = read_settings()
os.environ.update(PULSETRAIN_OUTPUT_MODE=config["output_mode"])
DATA_ROOT = from_checkout(config["data_root"])
SCRATCH = from_checkout(config["scratch"])
RUN_TABLE = from_checkout(config["runs"])
DETECTOR = config["detector"]
MODULES = [f"{number:02d}" for number in sorted(DETECTOR["modules"])]
HIT_MODULES = sorted(DETECTOR["modules"] if config["hits"]["modules"] is None else config["hits"]["modules"])
if not set(HIT_MODULES) <= set(DETECTOR["modules"]):
    raise WorkflowError(
        f"hits.modules is {HIT_MODULES}, but detector.modules is {DETECTOR['modules']}: a module that is not in use cannot "
        "count for the hit score"
    )


def from_scratch(path):
    """A path as seen from the working directory: relative, so that a tree that is moved whole reruns nothing."""
    return os.path.relpath(path, os.path.realpath(SCRATCH))


DATA = from_scratch(DATA_ROOT)


def run_row(run):
    """Row of the run table for a run (four digits)."""
    if run not in RUNS:
        raise WorkflowError(str(settings_of.unknown_run(run, RUNS, RUN_TABLE)))
    return RUNS[run]


def runs_of_kind(kind):
    """Runs of the run table of one kind."""
    return [run for run, row in RUNS.items() if row["kind"] == kind]


def targets_of(runs):
    """Targets of runs, those of each by its kind."""
    return [target for run in runs for target in run_targets(run, RUNS, config)]


def row_of_kind(run, kind):
    """Row of the run table for a run that must be of a kind."""
    row = run_row(run)
    if row["kind"] != kind:
        raise WorkflowError(
            f"run {run} is of kind {row['kind']} in the run table {RUN_TABLE}; set kind: {kind} there to make this of it"
        )
    return row


def detector_of(run):
    """The detector of a run, by its kind: name, modules in use and their key, how many a train needs, names of files."""
    if run_row(run)["kind"] == "dssc":
        # Each module is averaged for itself, so that a train needs no other module.
        of_kind = {"name": config["dssc"]["detector"], "files": "DSSC", "min_modules": 1}
        return of_kind | {"modules": sorted(config["dssc"]["modules"]), "modules_key": "dssc.modules"}
    of_kind = {"name": DETECTOR["name"], "files": "AGIPD", "min_modules": config["integrity"]["min_modules"]}
    return of_kind | {"modules": sorted(DETECTOR["modules"]), "modules_key": "detector.modules"}


def stream_of(wildcards):
    return run_row(wildcards.run)["stream"]


def vds_of(wildcards):
    return f"vds/r{wildcards.run}_vds_{stream_of(wildcards)}.h5"


def only_its_stream(wildcards):
    """The frame table, if the VDS asked for is of the stream that the run table gives the run."""
    stream = stream_of(wildcards)
    if wildcards.stream != stream:
        raise WorkflowError(
            f"vds/r{wildcards.run}_vds_{wildcards.stream}.h5 was asked for, but the run table {RUN_TABLE} gives run "
            f"{wildcards.run} the stream {stream}; ask for vds/r{wildcards.run}_vds_{stream}.h5, or change the table"
        )
    return f"frames/r{wildcards.run}.h5"


def per_module(pattern):
    """Input function: the files of all modules in use."""
    return lambda wildcards: [pattern.format(run=wildcards.run, module=module) for module in MODULES]


def named(**settings):
    """
    Parameters, and one more that holds them all with their names. Snakemake compares the values of a rule's parameters
    as a set: one of several booleans that is switched, or two numbers that change places, would rerun nothing.
    """
    return settings | {"named": settings}


# Sources


@functools.cache
def simulated_settings():
    from pulsetrain import simulate

    given = {name: value for name, value in config["simulate"].items() if value is not None}
    given |= {"detector": DETECTOR["name"], "distance_m": DETECTOR["distance_m"], "modules": DETECTOR["modules"]}
    return checked(simulate.settings, geometry=given_file("detector.geometry", DETECTOR["geometry"]), **given)


def refuse_real_data(run):
    """Stop before simulated files could take the place of a real run."""
    for name in ("raw", "proc"):
        for file in directory_files(DATA_ROOT / name / f"r{run}") or {}:
            refuse_real_file(DATA_ROOT / name / f"r{run}" / file)


def refuse_real_file(path):
    simulated = is_simulated(path)
    # Some simulated faults are files that cannot be read.
    unreadable = simulated is None and os.path.exists(path) and not config["simulate"]["faults"]
    if simulated is False or unreadable:
        raise WorkflowError(
            f"`simulate` is set, but {path} is a real file: nothing is simulated into a directory of real data. "
            "Take `simulate` out of the configuration, or set `data_root` to another directory"
        )


@functools.cache
def directory_files(path):
    """Names and sizes of the European XFEL files in a directory, sorted; None if there is no such directory."""
    try:
        entries = os.scandir(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise WorkflowError(f"{path} cannot be listed: {error.strerror}; ask for access or correct `data_root`")
    with entries:
        return {
            entry.name: entry.stat().st_size
            for entry in sorted(entries, key=lambda e: e.name)
            if EXDF_FILE.match(entry.name)
        }


@functools.cache
def run_sources(run):
    """Files of a run: {"modules": {path: size}, "control": {path: size}}; sizes are None for simulated ones."""
    stream = run_row(run)["stream"]
    if config["simulate"] is not None:
        refuse_real_data(run)
        files = simulated_run_files(run)
        modules = [from_scratch(path) for paths in files["modules"].values() for path in paths]
        control = [from_scratch(path) for path in files["control"]]
        return {"modules": dict.fromkeys(sorted(modules)), "control": dict.fromkeys(sorted(control))}
    if not DATA_ROOT.is_dir():
        raise WorkflowError(
            f"the directory {DATA_ROOT} does not exist; set `data_root` in the configuration (for the demo: make demo)"
        )
    directories = {name: DATA_ROOT / name / f"r{run}" for name in ("raw", "proc")}
    listed = {name: directory_files(directory) for name, directory in directories.items()}
    modules = {}
    detector = detector_of(run)
    wanted = {f"{detector['files']}{module:02d}" for module in detector["modules"]}
    for name, size in (listed[stream] or {}).items():
        if EXDF_FILE.match(name)[3] in wanted:
            modules[f"{DATA}/{stream}/r{run}/{name}"] = size
    if not modules:
        raise WorkflowError(missing_run(run, stream, directories, listed))
    control = {
        f"{DATA}/{name}/r{run}/{file}": size
        for name in listed
        for file, size in (listed[name] or {}).items()
        if not DETECTOR_FILE.search(file)
    }
    return {"modules": modules, "control": control}


def simulated_run_files(run):
    """Files that the simulator writes for a run: {"modules": {module: [path, ...]}, "control": [path, ...]}."""
    from pulsetrain.simulate_files import run_files

    if run_row(run)["kind"] == "dssc":
        return simulated_dssc_files(run)
    return run_files(str(DATA_ROOT), simulated_settings(), int(run), run_row(run)["stream"])


def missing_run(run, stream, directories, listed):
    """What to say when a run has no module files in the directory of its stream."""
    other = "raw" if stream == "proc" else "proc"
    found = (
        "does not exist"
        if listed[stream] is None
        else f"holds no files like *-{detector_of(run)['files']}00-S00000.h5 of the modules in use"
    )
    message = f"run {run}: the directory {directories[stream]} {found}"
    if listed[other]:
        return f"{message}, but {directories[other]} has files: set stream: {other} for this run in {RUN_TABLE}"
    return f"{message}; check `data_root` ({DATA_ROOT}) and the run number, or wait until the run is copied"


def module_files(wildcards):
    return list(run_sources(wildcards.run)["modules"])


def files_to_check(wildcards):
    """
    Input function: the directory of a run, whose files `params.sizes` names: hundreds of files per run would make up a
    fifth of the time and memory of planning many runs. Simulated files are made by rules, so each is named.
    """
    files = module_files(wildcards)
    return files if config["simulate"] is not None else [os.path.dirname(files[0])]


def control_files(wildcards):
    return list(run_sources(wildcards.run)["control"])


def source_sizes(kind):
    """Parameter {file name: size}: a new or re-corrected file changes it, a copy with new dates does not."""

    def sizes(wildcards):
        if config["simulate"] is not None:
            if run_row(wildcards.run)["kind"] == "dssc":
                return simulated_dssc_sizes()
            code = code_of("simulate_module.py") | code_of("simulate_control.py")
            text = json.dumps([simulated_settings(), code, file_sha256(from_checkout(DETECTOR["geometry"]))])
            return {"simulated": hashlib.sha256(text.encode()).hexdigest()[:12]}
        return {Path(path).name: size for path, size in sorted(run_sources(wildcards.run)[kind].items())}

    return sizes


# Constants, geometry, masks


def constants_directory(run):
    name = run_row(run)["calibration"]
    if not name:
        raise WorkflowError(
            f"run {run} has stream raw and no calibration; name one of `calibrations` in the column calibration of "
            f"{RUN_TABLE}"
        )
    entry = config["calibrations"][name]
    if entry["constants"] is None:
        if settings_of.is_made(entry) or config["simulate"] is not None:
            return f"calibration/{name}"
        raise WorkflowError(
            f"run {run} has stream raw and calibration {name}, but calibrations.{name}.constants is not set, nor the "
            "data to make constants from; give the directory that holds constants_m00.h5 and mask_m00.h5, or dark, "
            "current_source and xray"
        )
    directory = from_checkout(entry["constants"])
    if not directory.is_dir():
        raise WorkflowError(f"calibrations.{name}.constants: the directory {directory} does not exist")
    return from_scratch(directory)


def constants_of(kind):
    """Input function: files `kind` (constants or mask) of the job's module, or of all; none for corrected data."""

    def files(wildcards):
        if stream_of(wildcards) != "raw":
            return []
        directory = constants_directory(wildcards.run)
        modules = [wildcards.module] if "module" in wildcards.keys() else MODULES
        paths = [f"{directory}/{kind}_m{number}.h5" for number in modules]
        return paths if directory == f"calibration/{run_row(wildcards.run)['calibration']}" else ancient(paths)

    return files


def constants_sizes(wildcards):
    """Parameter {file name: size} of the given constants, for the same reason as `source_sizes`."""
    if (
        stream_of(wildcards) != "raw"
        or config["calibrations"][run_row(wildcards.run)["calibration"]]["constants"] is None
    ):
        return {}
    paths = [path for kind in ("constants", "mask") for path in constants_of(kind)(wildcards)]
    return {Path(path).name: (SCRATCH / path).stat().st_size for path in paths if (SCRATCH / path).is_file()}


def accepted_constants(wildcards):
    """Input function: the verdict on a raw run's constants; nothing for corrected data."""
    return f"integrity/r{wildcards.run}_constants.json" if stream_of(wildcards) == "raw" else []


@functools.cache
def file_sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:12]


def given_file(key, path):
    """A file named in the configuration, as written there; it must exist."""
    full = from_checkout(path)
    if not full.is_file():
        raise WorkflowError(f"{key}: the file {full} does not exist")
    return path


def geometry_of(wildcards):
    """The run's geometry: a parameter, as written, since an absolute path would change with a moved checkout."""
    return given_file(f"geometry of run {wildcards.run}", run_row(wildcards.run)["geometry"] or DETECTOR["geometry"])


def contents(paths):
    """Parameter {file as written in the configuration: hash of its contents}."""
    return {path: file_sha256(from_checkout(path)) for path in sorted(paths)}


def geometry_sha256(wildcards):
    return file_sha256(from_checkout(geometry_of(wildcards)))


USER_MASKS = [given_file("masks.user", path) for path in config["masks"]["user"]]
REGION = [given_file("hits.region", config["hits"]["region"])] if config["hits"]["region"] else []


# Resources


def input_mb(run, kind="modules"):
    """Size of a run's source files [MB]; 0 where they are still to be simulated."""
    return sum(size or 0 for size in run_sources(run)[kind].values()) / 1e6


def minutes(per_gb, least=10):
    """Run time that grows with the run's data and with each attempt."""
    return lambda wildcards, attempt: attempt * int(least + per_gb * input_mb(wildcards.run) / 1e3)


def module_minutes(per_gb, least=10):
    """As `minutes`, for the data of one module."""
    return lambda wildcards, attempt: attempt * int(least + per_gb * input_mb(wildcards.run) / 1e3 / len(MODULES))


def litpixels_memory(wildcards, threads, attempt):
    # On a cluster snakemake itself is started twice in each job.
    return attempt * (300 + litpixels_mb(stream_of(wildcards), threads))


# Targets


def all_targets():
    """What the kind of every run asks for; with simulated data also the truth."""
    return hits_targets() + mid_targets() + dssc_targets() + jungfrau_targets()


def hits_targets():
    """The hits of every run of this kind, which ask for all else."""
    runs = runs_of_kind("hits")
    targets = targets_of(runs)
    if config["simulate"] is not None:
        targets += [f"{DATA}/truth/spb_r{run}.h5" for run in runs]
        targets += [
            f"{DATA}/truth/calibration_{name}_m{module}.h5"
            for name in sorted({RUNS[run]["calibration"] for run in runs} & set(MADE_CALIBRATIONS))
            for module in calibration_modules(name)
        ]
    return targets


PLOTS = {
    "integrity": "Data",
    "coverage": "Data",
    "hitscore": "Hits",
    "hitscore_histogram": "Hits",
    "guards": "Hits",
    "hit_rate": "Hits",
    "pulse_energy": "Pulses",
    "powder_all": "Powder",
    "powder_hits": "Powder",
    "powder_misses": "Powder",
    "mask": "Mask",
    "gallery": "Hits",
}


def figure(name):
    """An output that is a picture in the report, with its caption."""
    return report(
        f"plots/r{{run}}_{name}.png",
        caption=str(Path(workflow.basedir) / "rules" / "report" / f"{name}.rst"),
        category="Run {run}",
        subcategory=PLOTS[name],
        labels={"figure": name.replace("_", " ")},
    )


CAPTIONS = [f"rules/report/{name}.rst" for name in PLOTS]
