"""Input functions of the Jungfrau constants; no rules here."""

from pulsetrain import jungfrau, jungfrau_datasets, jungfrau_gate, jungfrau_panels

JUNGFRAU = jungfrau_datasets.resolve_settings(config, workflow.basedir)
JUNGFRAU_NAME = re.compile(r"([A-Za-z]\w*?)-r(\d{4})_([A-Za-z0-9]+\.\d+-[A-Za-z0-9]+\.\d+)")
JUNGFRAU_PLOTS = ["gain_map", "offset_map", "histograms", "changes"]
JUNGFRAU_CAPTIONS = [f"rules/report/jungfrau_{name}.rst" for name in JUNGFRAU_PLOTS]
JUNGFRAU_FILES = {
    f"{kind.removeprefix('pixel_')}_{extension}": f"{kind}.{extension}"
    for kind in jungfrau.TYPES
    for extension in ("npy", "txt")
}


def simulated_jungfrau():
    """The simulator's module, which is loaded only where it is needed."""
    from pulsetrain import simulate_jungfrau

    return simulate_jungfrau


def jungfrau_below_data_root():
    """Whether the Jungfrau part of the configuration lies where something may be simulated."""
    paths = [JUNGFRAU["repository"], JUNGFRAU["calib"], *JUNGFRAU["datasets"]]
    return len(JUNGFRAU["datasets"]) == 1 and all(Path(path).is_relative_to(DATA_ROOT) for path in paths)


@functools.cache
def jungfrau_descriptions():
    """What the files of jungfrau.datasets say."""
    if config["simulate"] is None:
        return checked(jungfrau_datasets.read_datasets, JUNGFRAU["datasets"])
    if not jungfrau_below_data_root():
        raise WorkflowError(
            "`simulate` is set: then jungfrau.repository, jungfrau.calib and one file of jungfrau.datasets must be under "
            f"data_root ({DATA_ROOT}), as in config/demo_jungfrau.yaml; nothing is simulated anywhere else"
        )
    refuse_real_constants()
    return checked(jungfrau_datasets.describe, simulated_jungfrau().dataset_values(), JUNGFRAU["datasets"][0])


def refuse_real_constants():
    """Stop before anything simulated could take the place of something real."""
    places = [JUNGFRAU["repository"], JUNGFRAU["datasets"][0], JUNGFRAU["calib"]]
    real = checked(simulated_jungfrau().real_file, *places)
    if real:
        raise WorkflowError(
            f"`simulate` is set, but {real} is a real file: nothing is simulated into a directory of real data. Take "
            "`simulate` out of the configuration, or set `jungfrau.repository`, `jungfrau.datasets` and `jungfrau.calib` "
            "to other places. What an older checkout simulated has no mark: remove it"
        )
    refuse_real_file(DATA_ROOT / "truth" / "jungfrau.h5")


def simulated_repository(wildcards):
    """Parameter: the repository to be simulated, if nothing real is there; whichever target asks for it."""
    refuse_real_constants()
    return from_scratch(JUNGFRAU["repository"])


@functools.cache
def jungfrau_detector(name):
    """Detector of a name such as xcsls3716-r0631_XcsEndstation.0-Jungfrau.0."""
    exp, run, source = JUNGFRAU_NAME.fullmatch(name).groups()
    detector = checked(jungfrau_datasets.find_detector, jungfrau_descriptions(), exp, int(run), source)
    if name != jungfrau_name(detector):
        raise WorkflowError(f"there is no Jungfrau {name}; ask for {jungfrau_name(detector)}")
    return detector


def jungfrau_name(detector):
    return f"{detector.exp}-r{detector.run:04d}_{jungfrau.slug(detector.source)}"


@functools.cache
def jungfrau_directories(name):
    """Directories with the constants of a detector's panels."""
    detector = jungfrau_detector(name)
    checked(jungfrau_panels.require_panel_ids, detector)
    if config["simulate"] is None:
        listing = checked(jungfrau_panels.list_repository, JUNGFRAU["repository"])
    else:
        listing = simulated_jungfrau().listing(JUNGFRAU["repository"])
    return checked(jungfrau_panels.choose_directories, listing, detector)


@functools.cache
def jungfrau_panel_paths(name):
    """Files with the constants of a detector's panels, full paths."""
    directories = jungfrau_directories(name)
    if config["simulate"] is None:
        return checked(jungfrau_panels.constants_files, directories)
    return [str(Path(each.path) / file) for each in directories for file in jungfrau_panels.file_names()]


def jungfrau_panel_files(wildcards):
    """Input function: files with the constants of the panels, if the file asked for has the right panels in its name."""
    held = jungfrau.id_in_name(jungfrau_detector(wildcards.jungfrau).panel_ids)
    paths = jungfrau_panel_paths(wildcards.jungfrau)
    if wildcards.panels != held:
        raise WorkflowError(f"the panels of {wildcards.jungfrau} are {held}, not {wildcards.panels}")
    return [from_scratch(path) for path in paths]


def jungfrau_contents(wildcards):
    """Parameter {file: hash}: all files have the same size, so that it would not tell a change."""
    if config["simulate"] is not None:
        return {"simulated": code_of("simulate_jungfrau.py"), "seed": config["simulate"]["seed"]}
    paths = map(Path, jungfrau_panel_paths(wildcards.jungfrau))
    return {f"{path.parent.name}/{path.name}": file_sha256(path) for path in paths}


def jungfrau_chosen(wildcards):
    """Parameter: directory of each panel; of the place that its link leads to, the name alone."""
    return [each._replace(path=Path(each.path).name)._asdict() for each in jungfrau_directories(wildcards.jungfrau)]


def jungfrau_described(wildcards):
    """Parameter: the detector."""
    detector = jungfrau_detector(wildcards.jungfrau)
    return detector._asdict() | {"panel_ids": list(detector.panel_ids)}


def jungfrau_constants_files(wildcards):
    """Input function: the four files of a detector, by name."""
    panels = jungfrau.id_in_name([each.panel_id for each in jungfrau_directories(wildcards.jungfrau)])
    return {name: f"jungfrau/{wildcards.jungfrau}_{panels}_{end}" for name, end in JUNGFRAU_FILES.items()}


@functools.cache
def jungfrau_in_force(name, kind):
    """Deployed constants that are in force for a detector; None if there are none."""
    detector = jungfrau_detector(name)
    directory = jungfrau_gate.calib_directory(JUNGFRAU["calib"], detector, kind)
    found = jungfrau_gate.find_deployed(directory, detector.run)
    if found is None and config["simulate"] is not None:
        simulated = Path(simulated_jungfrau().deployed_files(JUNGFRAU["calib"])[kind])
        return simulated if simulated.parent == directory else None
    return found


def jungfrau_deployed(wildcards):
    """Input function: the deployed constants in force, of the types that have some."""
    paths = [jungfrau_in_force(wildcards.jungfrau, kind) for kind in jungfrau.TYPES]
    return [from_scratch(path) for path in paths if path is not None]


def jungfrau_deployed_sizes(wildcards):
    """Parameter {type: (file name, size)}, for the same reason as `source_sizes`."""
    paths = {kind: jungfrau_in_force(wildcards.jungfrau, kind) for kind in jungfrau.TYPES}
    return {
        kind: [path.name, path.stat().st_size if config["simulate"] is None else None]
        for kind, path in paths.items()
        if path is not None
    }


def jungfrau_megabytes(wildcards):
    """Size of the constants of one type [MB]."""
    return 6.3 * len(jungfrau_detector(wildcards.jungfrau).panel_ids)


def jungfrau_figure(name):
    """An output that is a picture of a Jungfrau in the report, with its caption."""
    return report(
        f"plots/jungfrau_{{jungfrau}}_{name}.png",
        caption=str(Path(workflow.basedir) / "rules" / "report" / f"jungfrau_{name}.rst"),
        category="Jungfrau {jungfrau}",
        labels={"figure": name.replace("_", " ")},
    )


def jungfrau_targets():
    """The pages of the detectors that jungfrau.make lists; with simulated constants also the truth."""
    detectors = []
    for entry in JUNGFRAU["make"]:
        dataset, _, source = entry.partition(" ")
        exp, run = checked(jungfrau.parse_dataset, dataset)
        detectors.append(
            checked(jungfrau_datasets.find_detector, jungfrau_descriptions(), exp, run, source.strip() or None)
        )
    truth = [f"{DATA}/truth/jungfrau.h5"] if detectors and config["simulate"] is not None else []
    return [f"report/jungfrau_{jungfrau_name(detector)}.html" for detector in detectors] + truth
