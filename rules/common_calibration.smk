"""Input functions of the calibration rules; no rules here."""

import glob

CALIBRATIONS = config["calibrations"]
CALIBRATION = config["calibration"]
KINDS = settings_of.CALIBRATION_DATA
MADE_CALIBRATIONS = [name for name, entry in CALIBRATIONS.items() if settings_of.is_made(entry)]
CALIBRATION_RUNS = [
    f"{run:04d}"
    for name in MADE_CALIBRATIONS
    if CALIBRATIONS[name]["layout"] == "xfel"
    for kind in KINDS
    for run in settings_of.calibration_groups(CALIBRATIONS[name], kind)
]


def calibration_entry(calibration):
    """Entry of the configuration for a calibration."""
    if calibration not in CALIBRATIONS:
        raise WorkflowError(
            f"there is no calibrations.{calibration} in the configuration; known are "
            f"{', '.join(sorted(CALIBRATIONS)) or 'none'}"
        )
    entry = CALIBRATIONS[calibration]
    if entry["constants"] is not None:
        raise WorkflowError(
            f"calibrations.{calibration}.constants gives a directory with finished constants: there is nothing to make. "
            f"To make them here, name dark, current_source and xray instead"
        )
    if not settings_of.is_made(entry):
        raise WorkflowError(
            f"calibrations.{calibration} names no data; give dark, current_source and xray, or a directory of constants"
        )
    return entry


def calibration_modules(calibration):
    """Modules of a calibration, two digits each."""
    modules = calibration_entry(calibration)["modules"]
    return MODULES if modules is None else [f"{number:02d}" for number in sorted(modules)]


@functools.cache
def calibration_groups(calibration, kind, module):
    """Files of one kind of data of a module: one list [(path, size), ...] per group of driven columns."""
    entry = calibration_entry(calibration)
    if module not in calibration_modules(calibration):
        raise WorkflowError(
            f"calibration {calibration} has no module {module}; its modules are "
            f"{', '.join(calibration_modules(calibration))} (calibrations.{calibration}.modules)"
        )
    groups = range(len(settings_of.calibration_groups(entry, kind)))
    if config["simulate"] is not None:
        found = simulated_files(calibration, kind, int(module))
        return [[(path, None) for path, text in found if text["group"] == number] for number in groups]
    return [group_files(calibration, entry, kind, int(module), number) for number in groups]


def group_files(calibration, entry, kind, module, number):
    """Paths and sizes of one group."""
    given = settings_of.calibration_groups(entry, kind)[number]
    key = f"calibrations.{calibration}.{kind}"
    if entry["layout"] == "xfel":
        directory = DATA_ROOT / "raw" / f"r{given:04d}"
        listed = directory_files(directory)
        files = [
            (directory / name, size)
            for name, size in (listed or {}).items()
            if EXDF_FILE.match(name)[3] == f"AGIPD{module:02d}"
        ]
        found = "does not exist" if listed is None else f"holds no files like RAW-R{given:04d}-AGIPD{module:02d}-*.h5"
        where = directory
    else:
        where = from_checkout(given.format(module=module))
        files = [(path, os.path.getsize(path)) for path in sorted(glob.glob(str(where)))]
        found = "matches no file"
    if not files:
        raise WorkflowError(f"{key}: {where} {found}; correct {key}, or wait until the data are copied")
    return [(from_scratch(path), size) for path, size in files]


def simulated_calibration(calibration):
    """Settings of a simulated calibration, and its entry with full paths."""
    from pulsetrain import simulate_calibration

    entry = dict(calibration_entry(calibration))
    if entry["layout"] == "nxs":
        for kind in KINDS:
            entry[kind] = [str(from_checkout(given)) for given in settings_of.calibration_groups(entry, kind)]
    of_files = checked(simulate_calibration.calibration_settings, simulated_settings(), name=calibration, entry=entry)
    return of_files, entry


@functools.cache
def simulated_files(calibration, kind, module):
    """Files of one kind of simulated data of a module: [(path, description), ...]."""
    from pulsetrain import simulate_calibration

    of_files, entry = simulated_calibration(calibration)
    files = simulate_calibration.calibration_files(DATA_ROOT, simulated_settings(), of_files, entry, module, kind)
    for path, _ in files:
        refuse_real_file(path)
        if not Path(path).is_relative_to(DATA_ROOT):
            raise WorkflowError(
                f"calibrations.{calibration}.{kind} names {path}, which is not under data_root ({DATA_ROOT}): nothing "
                "is simulated anywhere else"
            )
    return [(from_scratch(path), description) for path, description in files]


@functools.cache
def descriptions_of_simulated():
    """What each file of simulated calibration data holds, and of which calibration: {path: (name, description)}."""
    return {
        path: (calibration, description)
        for calibration in MADE_CALIBRATIONS
        for module in calibration_modules(calibration)
        for kind in KINDS
        for path, description in simulated_files(calibration, kind, int(module))
    }


def simulated_as(what):
    """Parameter of a job that simulates a file of calibration data: its description or its calibration's settings."""

    def value(wildcards, output):
        if str(output[0]) not in descriptions_of_simulated():
            raise WorkflowError(f"{output[0]} is no file of a calibration in the configuration")
        calibration, description = descriptions_of_simulated()[str(output[0])]
        return description if what == "description" else simulated_calibration(calibration)[0]

    return value


def calibration_files(kind):
    """Input function: all files of one kind of data of a module."""

    def files(wildcards):
        groups = calibration_groups(wildcards.calibration, kind, wildcards.module)
        return [path for group in groups for path, _ in group]

    return files


def calibration_sizes(kind):
    """Parameter: {file: size}, for the same reason as `source_sizes`; empty for simulated files."""

    def sizes(wildcards):
        groups = calibration_groups(wildcards.calibration, kind, wildcards.module)
        return {path: size for group in groups for path, size in group if size is not None}

    return sizes


def of_calibration(key):
    """Parameter: one value of the calibration's entry."""
    return lambda wildcards: calibration_entry(wildcards.calibration)[key]


def per_calibrated_module(pattern):
    """Input function: the files of all modules of a calibration."""

    def files(wildcards):
        modules = calibration_modules(wildcards.calibration)
        return [pattern.format(calibration=wildcards.calibration, module=module) for module in modules]

    return files


def calibration_minutes(kind, per_gb, least=10):
    """Run time that grows with the calibration data and with each attempt."""

    def runtime(wildcards, attempt):
        groups = calibration_groups(wildcards.calibration, kind, wildcards.module)
        gb = sum(size or 0 for group in groups for _, size in group) / 1e9
        return attempt * int(least + per_gb * gb)

    return runtime


GATHERED = "calibration/{calibration}/gathered/m{module}"
PROCESSED = "calibration/{calibration}/processed/m{module}"


def one_of(names):
    """Regular expression of a wildcard that must be one of some names; with none it fits nothing."""
    return "|".join(re.escape(name) for name in names) or "(?!)"


def calibration_runs(kind):
    """Parameter: the runs of one kind of data, as numbers; empty for the laboratory's files."""

    def runs(wildcards):
        entry = calibration_entry(wildcards.calibration)
        return settings_of.calibration_groups(entry, kind) if entry["layout"] == "xfel" else []

    return runs


def calibration_run(kind):
    """Parameter: the one run of a kind of data; None for the laboratory's files."""
    return lambda wildcards: next(iter(calibration_runs(kind)(wildcards)), None)


def files_per_group(wildcards):
    """Parameter: number of files of each group of driven columns."""
    return [len(group) for group in calibration_groups(wildcards.calibration, "current_source", wildcards.module)]


def cells_per_burst(wildcards):
    """Parameter: memory cells of each burst in the laboratory's files; None for run directories, which tell it."""
    if calibration_entry(wildcards.calibration)["layout"] == "xfel":
        return None
    return simulated_settings()["cells"] if config["simulate"] is not None else MOST_CELLS


def scan_axis(wildcards):
    """Parameter: {file as written: hash} of the scan's axis; empty for the default one."""
    given = calibration_entry(wildcards.calibration)["scan_axis"]
    if given is None:
        return {}
    return contents([given_file(f"calibrations.{wildcards.calibration}.scan_axis", given)])


MANUAL_MASK = (
    [given_file("calibration.mask.manual_file", CALIBRATION["mask"]["manual_file"])]
    if CALIBRATION["mask"]["manual_file"]
    else []
)


def manual_rectangles(wildcards):
    """Parameter: the rectangles that the configuration masks in the job's module."""
    return [given for given in CALIBRATION["mask"]["manual"] if given["module"] == int(wildcards.module)]


def calibrated_modules(wildcards):
    return [int(module) for module in calibration_modules(wildcards.calibration)]


CALIBRATION_PLOTS = [
    "offset_map",
    "noise_map",
    "gain_map",
    "threshold_map",
    "spacing_map",
    "mask_map",
    "histograms",
    "mask_causes",
]
MODULE_PLOTS = ["fits", "xray", "cells"]
CALIBRATION_CAPTIONS = [f"rules/report/calibration_{name}.rst" for name in CALIBRATION_PLOTS + MODULE_PLOTS]


def calibration_figure(name, module=""):
    """An output that is a picture of a calibration in the report, with its caption."""
    return report(
        f"plots/calibration/{{calibration}}{module}_{name}.png",
        caption=str(Path(workflow.basedir) / "rules" / "report" / f"calibration_{name}.rst"),
        category="Calibration {calibration}",
        subcategory="Module {module}" if module else "Detector",
        labels={"figure": name.replace("_", " ")},
    )


def module_figures(wildcards):
    """Input function: the pictures of each module of a calibration."""
    pattern = f"plots/calibration/{wildcards.calibration}_m{{module}}_{{name}}.png"
    return [
        pattern.format(module=module, name=name)
        for name in MODULE_PLOTS
        for module in calibration_modules(wildcards.calibration)
    ]


def calibration_report(wildcards):
    """Input function: the page of the calibration that a raw run uses, if it is made here."""
    calibration = run_row(wildcards.run)["calibration"]
    if stream_of(wildcards) != "raw" or calibration not in MADE_CALIBRATIONS:
        return []
    return f"report/calibration_{calibration}.html"


# What is equalized


def is_run(name):
    return re.fullmatch(r"r\d{4}", name) is not None


def calibration_and_kind(name):
    """The calibration and the kind of data of a name such as may24_dark."""
    for kind in KINDS:
        if name.endswith(f"_{kind}"):
            return name.removesuffix(f"_{kind}"), kind
    raise WorkflowError(
        f"equalized/{name}_m..: the name is neither a run (r0060) nor a calibration and its data, such as may24_dark, "
        "may24_current_source or may24_xray"
    )


def equalized_source(wildcards):
    """Input function: the run's VDS, or the gathered file."""
    if is_run(wildcards.name):
        run = wildcards.name[1:]
        if run_row(run)["stream"] != "raw":
            raise WorkflowError(f"run {run} has stream proc in {RUN_TABLE}: corrected data need no equalizing")
        return f"vds/r{run}_vds_raw.h5"
    calibration, kind = calibration_and_kind(wildcards.name)
    calibration_entry(calibration)
    return f"calibration/{calibration}/gathered/m{wildcards.module}_{kind}.h5"


def equalized_with(kind):
    """Input function: constants or mask that fit what is equalized."""

    def path(wildcards):
        name = wildcards.name
        directory = constants_directory(name[1:]) if is_run(name) else f"calibration/{calibration_and_kind(name)[0]}"
        path = f"{directory}/{kind}_m{wildcards.module}.h5"
        return path if directory.startswith("calibration/") else ancient(path)

    return path


def equalized_if(wildcards):
    """Input function: the verdict on the constants of a run."""
    return f"integrity/{wildcards.name}_constants.json" if is_run(wildcards.name) else []


def equalized_energy(wildcards):
    """Parameter: photon energy [keV] of calibration data; a run has its own."""
    if is_run(wildcards.name):
        return None
    return calibration_entry(calibration_and_kind(wildcards.name)[0])["photon_energy_kev"]
