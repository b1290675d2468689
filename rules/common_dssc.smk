"""Input functions of the DSSC rules; no rules here."""

from pulsetrain import dssc_config

DSSC = config["dssc"]
DSSC_MODULES = [f"{number:02d}" for number in sorted(DSSC["modules"])]
checked(dssc_config.check_scans, DSSC, RUNS)
DSSC_NAMES = rf"r\d{{4}}|{one_of(sorted(DSSC['merge']))}"
DSSC_PLOTS = ["curve", "images", "scan", "counts", "energies", "account"]
DSSC_CAPTIONS = [f"rules/report/dssc_{name}.rst" for name in DSSC_PLOTS]


def dssc_run(run, scan):
    """Check that a run can be binned by a scan."""
    row = row_of_kind(run, "dssc")
    if scan not in DSSC["scans"]:
        raise WorkflowError(
            f"there is no dssc.scans.{scan} in the configuration; known are {', '.join(DSSC['scans']) or 'none'}"
        )
    if row["stream"] != "raw":
        raise WorkflowError(
            f"run {run} of kind dssc has stream {row['stream']}: images are averaged as the detector wrote them; set "
            f"stream: raw for it in {RUN_TABLE}"
        )
    if run not in dssc_config.scan_runs(DSSC, RUNS, scan):
        raise WorkflowError(f"dssc.scans.{scan} is not for run {run}; add it to dssc.scans.{scan}.runs")
    return run


def dssc_runs(wildcards):
    """Runs of a result, four digits each: the one of its name, or those of the entry of dssc.merge."""
    name = wildcards.name
    if name in DSSC["merge"]:
        return [dssc_run(f"{run:04d}", wildcards.scan) for run in sorted(DSSC["merge"][name])]
    return [dssc_run(name[1:], wildcards.scan)]


def dssc_given_files(wildcards):
    """Files that the configuration gives for a run of a scan, as written but for the run's number."""
    entry = DSSC["scans"][wildcards.scan]
    given = {"frame_mask": entry["frame_mask"], "variable.file": entry["variable"] and entry["variable"]["file"]}
    return {
        f"dssc.scans.{wildcards.scan}.{key}": path.replace("{run}", wildcards.run)
        for key, path in given.items()
        if path is not None
    }


def simulated_given_files(wildcards):
    """Input function: of these files, those that the simulator writes."""
    if config["simulate"] is None:
        return []
    files = simulated_dssc_files(wildcards.run)
    written = {files["scan"], files["mask"]}
    return [
        from_scratch(from_checkout(path))
        for path in dssc_given_files(wildcards).values()
        if os.path.realpath(from_checkout(path)) in written
    ]


def dssc_given_contents(wildcards):
    """Parameter {file as written: hash of its contents} of the others."""
    simulated = simulated_given_files(wildcards)
    return contents(
        [
            given_file(key, path)
            for key, path in dssc_given_files(wildcards).items()
            if from_scratch(from_checkout(path)) not in simulated
        ]
    )


def dssc_scan(wildcards):
    """Parameter: the scan's entry of the configuration, without the list of its runs; files with the run's number."""
    dssc_run(wildcards.run, wildcards.scan)
    entry = {key: value for key, value in DSSC["scans"][wildcards.scan].items() if key != "runs"}
    if entry["frame_mask"] is not None:
        entry["frame_mask"] = entry["frame_mask"].replace("{run}", wildcards.run)
    if entry["variable"] is not None and entry["variable"]["file"] is not None:
        entry["variable"] = entry["variable"] | {"file": entry["variable"]["file"].replace("{run}", wildcards.run)}
    return entry


def dssc_module_files(wildcards):
    """Input function: the source files of one module."""
    if wildcards.module not in DSSC_MODULES:
        raise WorkflowError(f"module {wildcards.module} is not in dssc.modules ({', '.join(DSSC_MODULES)})")
    return [path for path in module_files(wildcards) if f"-DSSC{wildcards.module}-" in path]


def dssc_module_sizes(wildcards):
    """Parameter {file name: size} of one module's files."""
    sizes = source_sizes("modules")(wildcards)
    return {name: size for name, size in sizes.items() if f"-DSSC{wildcards.module}-" in name or name == "simulated"}


def dssc_selections(wildcards):
    """Input function: the selections of all runs of a result."""
    return [f"dssc/r{run}_frames_by-{wildcards.scan}.h5" for run in dssc_runs(wildcards)]


def dssc_sums(wildcards):
    """Input function: the sums of all runs and modules of a result, module by module in each run."""
    return [f"dssc/r{run}_m{module}_by-{wildcards.scan}.h5" for run in dssc_runs(wildcards) for module in DSSC_MODULES]


def dssc_minutes(per_gb, least=10):
    """Run time that grows with the data of one module and with each attempt."""
    return lambda wildcards, attempt: attempt * int(least + per_gb * input_mb(wildcards.run) / 1e3 / len(DSSC_MODULES))


def dssc_geometry(wildcards):
    """Parameter: file of the geometry with the hash of its contents, and quadrants; None = EXtra-geom's example."""
    given = DSSC["geometry"]
    if given["file"] is None:
        return None
    return given | contents([given_file("dssc.geometry.file", given["file"])])


def dssc_figure(name):
    """An output that is a picture in the report, with its caption."""
    return report(
        f"plots/dssc/{{name}}_by-{{scan}}_{name}.png",
        caption=str(Path(workflow.basedir) / "rules" / "report" / f"dssc_{name}.rst"),
        category="DSSC {name}",
        subcategory="By {scan}",
        labels={"figure": name},
    )


def dssc_targets():
    """The pages of all runs of kind dssc and all merges; with simulated data also the truth."""
    runs = runs_of_kind("dssc")
    unused = [run for run in runs if not run_targets(run, RUNS, config)]
    if unused:
        raise WorkflowError(
            f"run {', '.join(unused)} of kind dssc: no entry of dssc.scans is for it, so there is nothing to make. Add "
            "one, such as `all: {}` for the average of all images (docs/dssc.md)"
        )
    targets = targets_of(runs)
    for name in DSSC["merge"]:
        targets += [f"report/dssc_{name}_by-{scan}.html" for scan in dssc_config.merged_scans(DSSC, RUNS, name)]
    if config["simulate"] is not None:
        targets += [f"{DATA}/truth/dssc_r{run}.h5" for run in runs]
    return targets


@functools.cache
def simulated_dssc_settings():
    """Settings of simulated DSSC runs."""
    from pulsetrain import simulate_dssc

    given = config["simulate"] | {"detector": DSSC["detector"], "modules": DSSC["modules"]}
    return checked(simulate_dssc.settings, **given)


@functools.cache
def simulated_dssc_files(run):
    """Names of all files of a simulated run."""
    from pulsetrain.simulate_dssc_files import run_files

    return run_files(str(DATA_ROOT), simulated_dssc_settings(), int(run))


def simulated_dssc_sizes():
    """In place of the sizes of simulated files: what they depend on."""
    code = code_of("simulate_dssc_module.py") | code_of("simulate_dssc_control.py")
    text = json.dumps([simulated_dssc_settings(), code])
    return {"simulated": hashlib.sha256(text.encode()).hexdigest()[:12]}
