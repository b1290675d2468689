"""A run's files and the whole chain on them, in this process: what the scripts' main blocks do, without snakemake."""

from pathlib import Path

import numpy as np
import sum_misses
import write_cxi
import write_emc

from pulsetrain import simulate, simulate_files, simulate_truth
from pulsetrain.config import complete_config
from pulsetrain.hits import find_hits
from pulsetrain.integrity import accept_run, check_run
from pulsetrain.litpixels import count_module
from pulsetrain.masks import find_powder_outliers, make_run_mask
from pulsetrain.photon_frames import photon_blocks
from pulsetrain.powder import sum_powder
from pulsetrain.provenance import SCRIPTS
from pulsetrain.pulses import map_pulses
from pulsetrain.vds import make_vds

SCHEMA = SCRIPTS.parent / "config" / "schemas" / "config.schema.yaml"
FEW_MODULES_HITS = {"min_score": 1, "min_spread": 1}  # the default guards are for the light on 16 modules


def run_chain(place, settings, run, stream, threads=1, **config_changes):
    """Simulate a run under `place` and take it through the chain; see :func:`process_run` for the result."""
    simulate_run(place, settings, run, stream)
    config = chain_config(place, settings["modules"], settings["geometry"], **config_changes)
    return process_run(place, run, stream, config, settings["modules"], threads)


def simulate_run(place, settings, run, stream):
    """Write the files of a simulated run below place/data, and for raw data its constants in place/constants."""
    files = simulate_files.run_files(place / "data", settings, run, stream)
    for module, paths in files["modules"].items():
        for path in paths:
            simulate_files.write_module_file(path, settings, run, stream, module, int(Path(path).stem[-5:]))
    for path in files["control"]:
        writer = simulate_files.write_litfrm_file if "LITFRM" in path else simulate_files.write_control_file
        writer(path, settings, run)
    if stream == "raw":
        write_constants(place, settings)
    return files


def write_constants(place, settings):
    """Write the true constants of a simulated detector in place/constants."""
    for module in settings["modules"]:
        simulate_truth.write_constants(place / "constants" / f"constants_m{module:02d}.h5", settings, module)
        simulate_truth.write_bad_cell_mask(place / "constants" / f"mask_m{module:02d}.h5", settings, module)


def chain_config(place, modules, geometry=simulate.GEOMETRY, **changes):
    """Complete configuration with some keys changed: ``chain_config(place, [0], hits={"min_score": 1})``."""
    config = {
        "data_root": str(place / "data"),
        "scratch": str(place / "scratch"),
        "runs": str(place / "runs.csv"),
        "detector": {"modules": list(modules), "geometry": str(geometry)},
    }
    for section, values in changes.items():
        config[section] = config.get(section, {}) | values
    return complete_config(config, SCHEMA)


def source_files(place, run, stream):
    """Files of the modules and all others of a run, as the rules find them."""
    found = {name: sorted((place / "data" / name / f"r{run:04d}").glob("*.h5")) for name in ("raw", "proc")}
    control = [path for paths in found.values() for path in paths if "-AGIPD" not in path.name]
    return [str(path) for path in found[stream] if "-AGIPD" in path.name], [str(path) for path in control]


def process_run(place, run, stream, config, modules, threads=1):
    """Take a run directory below place/data through the chain, from check_run to write_emc and sum_powder.

    Returns {output name: path}, with {module: path} for outputs of one module.
    """
    paths = _output_paths(place, run, stream, modules)
    modules = sorted(modules)
    detector, hits = config["detector"], config["hits"]
    files, control = source_files(place, run, stream)
    check_run(
        files=files,
        frames=paths["frames"],
        integrity=paths["integrity"],
        run=run,
        stream=stream,
        detector=detector["name"],
        modules=modules,
        sizes={Path(path).name: Path(path).stat().st_size for path in files},
        attributes={},
        **config["integrity"],
    )
    accept_run(paths["integrity"], paths["accepted"], run, {})
    make_vds(
        frames=paths["frames"],
        vds=paths["vds"],
        control=control,
        detector=detector["name"],
        stream=stream,
        proc_units=detector["proc_units"],
        photon_energy_kev=detector["photon_energy_kev"],
        xgm=config["pulses"]["xgm"],
        attributes={},
    )
    map_pulses(
        frames=paths["frames"],
        control=control,
        output=paths["pulses"],
        photon_energy_kev=detector["photon_energy_kev"],
        attributes={},
        **config["pulses"],
    )
    conversion = {
        "photon_threshold": hits["photon_threshold"],
        "common_mode": config["calibration"]["common_mode"],
        "baseline_shift": config["calibration"]["baseline_shift"],
        "per_frame_mask": config["masks"]["per_frame"],
    }
    for module in modules:
        _process_module(paths, config, module, stream, conversion, threads)
    find_hits(
        litpixels=[paths["litpixels"][module] for module in modules],
        pulses=paths["pulses"],
        frames=paths["frames"],
        output=paths["events"],
        attributes={},
        **{name: hits[name] for name in HIT_PARAMETERS},
    )
    held = {name: [paths[name][module] for module in modules] for name in ("masks", "outliers")}
    constants = [paths["constants"][module] for module in modules] if stream == "raw" else []
    sum_misses.sum_misses(
        paths["vds"],
        paths["events"],
        paths["misses"],
        {},
        modules=modules,
        constants=constants,
        threads=threads,
        **held,
        **conversion,
    )
    write_cxi.write_cxi(
        paths["vds"],
        paths["events"],
        held["masks"],
        held["outliers"],
        paths["misses"],
        constants,
        detector["geometry"],
        paths["cxi"],
        paths["geom"],
        run=run,
        sample="simulated",
        dtype=config["cxi"]["dtype"],
        distance_m=detector["distance_m"],
        modules=modules,
        threads=threads,
        attributes={},
        **conversion,
    )
    sum_powder(
        litpixels=[paths["litpixels"][module] for module in modules],
        masks=held["masks"],
        cxi=paths["cxi"],
        misses=paths["misses"],
        modules=modules,
        output=paths["powder"],
        attributes={},
    )
    write_emc.write_emc(
        paths["cxi"],
        paths["emc"],
        paths["det"],
        paths["config"],
        threads=threads,
        attributes={},
        **config["emc"],
    )
    return paths


def photons_of_all_frames(settings, run, paths, common_mode):
    """True and counted photons, and good pixels, (frames, modules, 512, 128)."""
    modules = settings["modules"]
    cell_id = simulate.frame_truth(settings, run)["cellId"]
    shape = (len(cell_id), len(modules), 512, 128)
    counted, good = np.zeros(shape, np.uint16), np.zeros(shape, bool)
    masks = [paths["masks"][module] for module in modules]
    constants = [paths["constants"][module] for module in modules]
    frames = np.arange(len(cell_id))
    blocks = photon_blocks(paths["vds"], frames, modules, masks, masks, constants, common_mode=common_mode)
    for block in blocks:
        counted[block.frames] = block.photons[:, modules]
        good[block.frames] = block.mask[modules] == 0
    true = [simulate.module_photons(settings, run, module, frames) for module in modules]
    return np.stack(true, axis=1), counted, good


HIT_PARAMETERS = (
    "threshold_sigma",
    "scale_by_pulse_energy",
    "min_frames",
    "min_score",
    "min_spread",
    "min_pulse_energy_mj",
    "seed",
)


def _output_paths(place, run, stream, modules):
    scratch, name = place / "scratch", f"r{run:04d}"
    paths = {
        "frames": f"frames/{name}.h5",
        "integrity": f"integrity/{name}.json",
        "accepted": f"integrity/{name}.accepted",
        "vds": f"vds/{name}_vds_{stream}.h5",
        "pulses": f"pulses/{name}.h5",
        "events": f"events/{name}_events.h5",
        "misses": f"powder/{name}_misses.h5",
        "cxi": f"saved_hits/{name}_hits.cxi",
        "geom": f"geom/{name}.geom",
        "powder": f"powder/{name}_powder.h5",
        "emc": f"emc/{name}.emc",
        "det": f"emc/{name}_det.h5",
        "config": f"emc/{name}_config.ini",
    }
    paths = {kind: scratch / path for kind, path in paths.items()}
    for kind, pattern in (
        ("masks", "masks/{}_m{:02d}.h5"),
        ("outliers", "masks/{}_outliers_m{:02d}.h5"),
        ("litpixels", "litpixels/{}_m{:02d}.h5"),
    ):
        paths[kind] = {module: scratch / pattern.format(name, module) for module in modules}
    for kind, pattern in (("constants", "constants_m{:02d}.h5"), ("bad_cells", "mask_m{:02d}.h5")):
        paths[kind] = {module: place / "constants" / pattern.format(module) for module in modules}
    return paths


def _process_module(paths, config, module, stream, conversion, threads):
    """Make the mask of one module, count its pixels, and find outliers."""
    raw = stream == "raw"
    masks = config["masks"]
    make_run_mask(
        vds=paths["vds"],
        constants_mask=paths["bad_cells"][module] if raw else None,
        constants=paths["constants"][module] if raw else None,
        user=masks["user"],
        module=module,
        stream=stream,
        sample_trains=masks["sample_trains"],
        asic_edges=masks["asic_edges"],
        output=paths["masks"][module],
        attributes={},
    )
    count_module(
        paths["vds"],
        paths["masks"][module],
        paths["litpixels"][module],
        {},
        module=module,
        constants=paths["constants"][module] if raw else None,
        region=config["hits"]["region"],
        hit_modules=config["hits"]["modules"],
        threads=threads,
        **conversion,
    )
    find_powder_outliers(
        litpixels=paths["litpixels"][module],
        mask=paths["masks"][module],
        module=module,
        hot_sigma=masks["hot_sigma"],
        spread_sigma=masks["spread_sigma"],
        output=paths["outliers"][module],
        attributes={},
    )
