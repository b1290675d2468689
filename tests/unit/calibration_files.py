"""The files of a calibration with known content: few memory cells, written with plain h5py."""

import json

import h5py
import numpy as np

N_CELLS = 3
TIMES = np.concatenate([np.arange(3.0, 203.0), np.arange(203.0, 4203.0, 10.0)])
GAIN = np.array([42.0, 1.1, 0.25])  # [ADU / clock]
OFFSET = np.array([5000.0, 5350.0, 5600.0])  # [ADU]
LEVEL = np.array([6200.0, 7000.0, 7700.0])  # [ADU]
SWITCH = np.array([(8700 - OFFSET[0]) / GAIN[0], (8700 - OFFSET[1]) / GAIN[1]])  # [clocks]
SPACING = 68.8  # [ADU]
PHOTON_KEV = 8.04
CODES = {"0": "fitted", "1": "the digital signal has no second level", "2": "too few points in a gain stage"}
XRAY_CODES = {"0": "fitted", "1": "too few photons"}
DEAD = (10, 20)  # row, column of a pixel that is never fitted
SAMPLES = [(0, 5, 7), (1, 64, 300), (2, 100, 500), (1, *DEAD)]  # cell, row, column; the last one failed


def write_calibration(folder, modules=(2, 9), n_cells=N_CELLS, samples=True, seed=1):
    """Write all files of `modules`; give {module: {name: path}}."""
    paths = {}
    for module in modules:
        random = np.random.default_rng([seed, module])
        held = {name: folder / f"m{module:02d}_{name}.h5" for name in ("dark", "gains", "digital", "spacing")}
        held |= {name: folder / f"{name}_m{module:02d}.h5" for name in ("constants", "mask")}
        write_dark(held["dark"], module, n_cells, random)
        write_gains(held["gains"], module, n_cells, random, samples)
        write_digital(held["digital"], module, n_cells, random)
        write_spacing(held["spacing"], module, random, samples)
        write_constants(held["constants"], held)
        write_mask(held["mask"], module, n_cells)
        paths[module] = {name: str(path) for name, path in held.items()}
    return paths


def new_file(path, module):
    file = h5py.File(path, "w")
    file.attrs.update({"module": module, "orientation": "lab"})
    return file


def spread(random, shape, centre, width):
    """Values that differ between pixels (ASICs too) and a little between cells; NaN in the dead pixel."""
    asics = np.kron(random.normal(0, 0.7, (2, 8)), np.ones((64, 64)))
    pixels = asics + random.normal(0, 0.7, (128, 512))
    cells = random.normal(0, 0.3, (*shape[:-2], 1, 1))
    values = (centre + width * (pixels + cells)).astype(np.float32)
    values[(..., *DEAD)] = np.nan
    return values


def write_dark(path, module, n_cells, random):
    shape = (n_cells, 128, 512)
    with new_file(path, module) as file:
        file["darkOffset"] = spread(random, shape, OFFSET[0], 120)
        file["darkStandardDeviation"] = spread(random, shape, 9, 0.5)
        file.attrs["bursts"] = 200


def write_gains(path, module, n_cells, random, samples):
    shape = (n_cells, 128, 512)
    with new_file(path, module) as file:
        file["analogGains"] = np.stack([spread(random, shape, gain, gain / 20) for gain in GAIN])
        file["anlogLineOffsets"] = np.stack([spread(random, shape, offset, 100) for offset in OFFSET])
        file["analogFitStdDevs"] = np.stack([spread(random, shape, noise, 0.5) for noise in (9, 12, 12)])
        status = np.zeros(shape, np.uint8)
        status[(..., *DEAD)] = 1
        status[0, 50:52, 100] = 2
        file["fitStatus"] = status
        file["fitStatus"].attrs["codes"] = json.dumps(CODES)
        if samples:
            write_scan_samples(file, random)


def write_scan_samples(file, random):
    """Scans whose lines are those in the file, and one of a dead pixel."""
    cells, rows, columns = np.array(SAMPLES).T
    analog, digital, used = (np.zeros((len(SAMPLES), len(TIMES)), kind) for kind in (np.int16, np.int16, np.int8))
    stage = np.searchsorted(SWITCH, TIMES, side="right")
    for number, (cell, row, column) in enumerate(SAMPLES):
        gain = file["analogGains"][:, cell, row, column]
        offset = file["anlogLineOffsets"][:, cell, row, column]
        if np.isnan(gain).any():
            analog[number] = 4095 + random.normal(0, 2, len(TIMES))
            digital[number] = 6000 + random.normal(0, 20, len(TIMES))
            used[number] = -1
            continue
        analog[number] = offset[stage] + gain[stage] * TIMES + random.normal(0, 10, len(TIMES))
        digital[number] = LEVEL[stage] + random.normal(0, 25, len(TIMES))
        used[number] = np.where(random.random(len(TIMES)) < 0.85, stage, -1)
    spikes = random.random(analog.shape) < 0.01
    analog[spikes] += 1200
    used[spikes] = -1
    group = file.create_group("samples")
    group.update({"cell": cells, "row": rows, "column": columns, "integrationTime": TIMES})
    group.update({"analog": analog, "digital": digital, "stage": used})


def write_digital(path, module, n_cells, random):
    shape = (n_cells, 128, 512)
    with new_file(path, module) as file:
        means = np.stack([spread(random, shape, level, 10) for level in LEVEL], axis=1)
        file["digitalMeans"] = means
        file["digitalStdDeviations"] = np.stack([spread(random, shape, 25, 1)] * 3, axis=1)
        middle = np.moveaxis((means[:, :2] + means[:, 1:]) / 2, 1, 0)
        file["digitalThresholds"] = np.nan_to_num(middle, nan=65535).astype(np.uint16)
        file["digitalSpacingsSafetyFactors"] = np.stack([spread(random, shape, 15, 1)] * 2, axis=1)


def write_spacing(path, module, random, samples):
    with new_file(path, module) as file:
        file.attrs.update({"cell": 1, "frames": 6000})
        file["photonSpacing"] = spread(random, (1, 128, 512), SPACING, 1.5)[0]
        file["spacingError"] = np.abs(spread(random, (1, 128, 512), 0.3, 0.02))[0]
        file["quality"] = spread(random, (1, 128, 512), 0.8, 0.02)[0]
        file["fitStatus"] = np.isnan(file["photonSpacing"][()]).astype(np.uint8)
        file["fitStatus"].attrs["codes"] = json.dumps(XRAY_CODES)
        if samples:
            write_xray_samples(file, random)


def write_xray_samples(file, random, frames=6000, mean_photons=0.25, noise=9):
    edges = np.arange(-60, 401, 4.0)
    middle = (edges[1:] + edges[:-1]) / 2
    _, rows, columns = np.array(SAMPLES).T
    counts, model, series, drift = [], [], [], []
    for row, column in zip(rows, columns, strict=True):
        spacing = file["photonSpacing"][row, column]
        known = np.isfinite(spacing)
        photons = random.poisson(mean_photons, frames) * (spacing if known else 0)
        track = 5000 + 30 * np.linspace(0, 1, frames) ** 0.5
        values = photons + random.normal(0, noise, frames)
        counts.append(np.histogram(values, edges)[0])
        weights = [mean_photons**k * np.exp(-mean_photons) / np.prod(np.arange(1, k + 1)) for k in range(5)]
        peaks = [w * np.exp(-0.5 * ((middle - k * spacing) / noise) ** 2) for k, w in enumerate(weights)]
        model.append(frames * 4 / noise / np.sqrt(2 * np.pi) * np.sum(peaks, axis=0))
        series.append((track + values)[::10])
        drift.append(track[::10])
    group = file.create_group("samples")
    group.update({"row": rows, "column": columns, "edges": edges, "histogram": np.array(counts)})
    group.update({"model": np.array(model), "series": np.array(series, np.float32), "drift": np.array(drift)})
    group["frame"] = np.arange(frames)[::10]


def write_constants(path, held):
    with h5py.File(held["gains"]) as file:
        module, gains, offsets = file.attrs["module"], file["analogGains"][()], file["anlogLineOffsets"][()]
    with h5py.File(held["dark"]) as file:
        offsets[0] = file["darkOffset"][()]
    with h5py.File(held["digital"]) as file:
        thresholds = file["digitalThresholds"][()]
    with h5py.File(held["spacing"]) as file:
        spacing = file["photonSpacing"][()] * gains[0] / gains[0, 1]
    with new_file(path, module) as file:
        file["analogGains_keV"] = (PHOTON_KEV / spacing * gains[0] / gains).astype(np.float32)
        file["darkOffsets"] = offsets
        file["digitalThresholds"] = np.minimum(thresholds, 32767).astype(np.int16)


def write_mask(path, module, n_cells):
    """Masks of four causes that do not overlap, with histograms of three quantities; one has no value at all."""
    shape = (n_cells, 128, 512)
    causes = {
        "manual": np.zeros(shape[1:], bool),
        "asic_borders": np.zeros(shape[1:], bool),
        "darkOffset": np.zeros(shape, bool),
        "analogGains/0": np.zeros(shape, bool),
    }
    causes["manual"][:8] = True
    causes["asic_borders"][63:65] = True
    causes["darkOffset"][0, 20:22] = True
    causes["analogGains/0"][:, 30] = True
    with new_file(path, module) as file:
        file.attrs["causes"] = json.dumps(list(causes))
        total = np.zeros(shape, bool)
        for name, bad in causes.items():
            file[f"subMasks/{name}"] = bad
            file[f"subMasks/{name}"].attrs["percent"] = 100 * np.broadcast_to(bad, shape).mean()
            total |= bad
        file["badCellMask"] = total
        file["badCellMask"].attrs["percent_total"] = 100 * total.mean()
        for name, centre, interval in (("darkOffset", 5000, (4500, np.inf)), ("analogGains/0", 42, (40, 43.5))):
            edges = np.linspace(0.8 * centre, 1.2 * centre, 101)
            middle = (edges[1:] + edges[:-1]) / 2
            counts = (1e5 * np.exp(-0.5 * ((middle / centre - 1 - 0.002 * module) / 0.03) ** 2)).astype(np.int64)
            write_histogram(file, name, edges, counts, (3, 0), interval)
        write_histogram(file, "quality", np.array([0.0, 1.0]), np.array([0]), (0, 0), None)


def write_histogram(file, name, edges, counts, beyond, interval):
    group = file.create_group(f"histograms/{name}")
    group["edges"], group["counts"] = edges, counts
    group.attrs.update({"units": "ADU", "below": beyond[0], "above": beyond[1]})
    if interval is not None:
        group.attrs["interval"] = interval
