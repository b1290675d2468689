"""Input functions of the MID export; no rules here."""

MID = config["mid"]
EPIX_FILE = re.compile(r"^RAW-R\d{4}-EPIX0([12])-S\d{5}\.h5$")
MID_PLOTS = ["mid_trains", "mid_agipd", "mid_epix", "mid_signal"] + (["mid_photons"] if MID["calib"] else [])
MID_PAGE = ["integrity", "coverage", *MID_PLOTS]


@functools.cache
def epix_sources(run):
    """Files of the chosen ePix of a run: {path: size}; sizes are None for simulated ones."""
    row_of_kind(run, "mid")
    if config["simulate"] is not None:
        from pulsetrain.simulate_mid import epix_files

        refuse_real_data(run)
        simulated = epix_files(str(DATA_ROOT), int(run), MID["epix"])
        return {from_scratch(path): None for paths in simulated.values() for path in paths}
    run_sources(run)
    directory = DATA_ROOT / "raw" / f"r{run}"
    listed = {name: size for name, size in (directory_files(directory) or {}).items() if EPIX_FILE.match(name)}
    held = {int(EPIX_FILE.match(name)[1]) for name in listed}
    lacking = sorted(set(MID["epix"]) - held)
    if lacking:
        names = " and ".join(f"EPIX-{number}" for number in lacking)
        raise WorkflowError(
            f"run {run}: {directory} has no files of {names} (RAW-R{run}-EPIX0{lacking[0]}-S00000.h5, ...); wait until "
            f"they are copied, or set mid.epix: {sorted(set(MID['epix']) & held)}"
        )
    return {
        f"{DATA}/raw/r{run}/{name}": size
        for name, size in listed.items()
        if int(EPIX_FILE.match(name)[1]) in MID["epix"]
    }


def epix_files_of(wildcards):
    return list(epix_sources(wildcards.run))


def epix_sizes(wildcards):
    """Parameter {file name: size}, for the same reason as `source_sizes`."""
    if config["simulate"] is not None:
        return {}
    return {Path(path).name: size for path, size in sorted(epix_sources(wildcards.run).items())}


def mid_corrects_with(run, what):
    """Whether a run is corrected with a dark file (`dark`) or with the constants of its calibration (`calibration`)."""
    row = row_of_kind(run, "mid")
    if not MID["calib"]:
        return False
    if row["stream"] != "raw":
        raise WorkflowError(
            f"run {run}: mid.calib corrects raw data, but {RUN_TABLE} gives the run the stream {row['stream']}, which is "
            "corrected already; set stream: raw for the run, or mid.calib: false"
        )
    if MID["dark"] is None and not row["calibration"]:
        raise WorkflowError(
            f"run {run}: mid.calib needs constants; set mid.dark to a dark file, or name one of `calibrations` in the "
            f"column calibration of {RUN_TABLE}"
        )
    return (MID["dark"] is not None) == (what == "dark")


def mid_constants(kind):
    """Input function: constants or mask of all modules, for a run that is corrected with them."""
    return lambda wildcards: constants_of(kind)(wildcards) if mid_corrects_with(wildcards.run, "calibration") else []


def mid_constants_sizes(wildcards):
    return constants_sizes(wildcards) if mid_corrects_with(wildcards.run, "calibration") else {}


def mid_gate(wildcards):
    """Input function: the verdict on the constants of a run that is corrected with them."""
    return [accepted_constants(wildcards)] if mid_corrects_with(wildcards.run, "calibration") else []


def mid_vds(wildcards):
    """Input function: the VDS of such a run, which knows the photon energy."""
    return [vds_of(wildcards)] if mid_corrects_with(wildcards.run, "calibration") else []


def mid_dark_path():
    """The dark file, as seen from the working directory."""
    path = from_checkout(MID["dark"])
    if config["simulate"] is None:
        given_file("mid.dark", MID["dark"])
    elif path.is_relative_to(DATA_ROOT):
        refuse_real_file(path)
    else:
        raise WorkflowError(
            f"mid.dark names {path}, which is not under data_root ({DATA_ROOT}): nothing is simulated anywhere else"
        )
    return from_scratch(path)


def mid_dark(wildcards):
    return [mid_dark_path()] if mid_corrects_with(wildcards.run, "dark") else []


def mid_dark_version(wildcards):
    """
    Parameter {file name: [size, date]} of the dark file. One that was made again has the size of the last one, and it is too
    large to be read whole here.
    """
    if config["simulate"] is not None or not mid_corrects_with(wildcards.run, "dark"):
        return {}
    path = SCRATCH / mid_dark_path()
    held = path.stat()
    return {path.name: [held.st_size, held.st_mtime_ns]}


def mid_minutes(wildcards, attempt):
    """Run time of the export: checking alone takes minutes, the correction grows with the data."""
    return attempt * int(10 + 0.3 * input_mb(wildcards.run) / 1e3)


def mid_figure(name):
    """An output that is a picture of a MID run in the report, with its caption."""
    return report(
        f"plots/r{{run}}_{name}.png",
        caption=str(Path(workflow.basedir) / "rules" / "report" / f"{name}.rst"),
        category="Run {run}",
        subcategory="MID",
        labels={"figure": name.replace("_", " ")},
    )


def mid_targets():
    """The page of every run of this kind, which asks for its file; with simulated data also the truth."""
    runs = runs_of_kind("mid")
    targets = targets_of(runs)
    if config["simulate"] is not None:
        targets += [f"{DATA}/truth/mid_r{run}.h5" for run in runs]
    return targets
