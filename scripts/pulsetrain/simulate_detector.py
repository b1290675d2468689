"""The simulated AGIPD electronics: defects, constants of every memory cell, and raw data from photons."""

import functools
import json

import numpy as np

from pulsetrain.detector import ASIC_PIXELS, MODULE_SHAPE, asic_edges

# Numbers of a real module; ADU. High, medium, low gain.
PEDESTAL_ADU = ((4500.0, 250.0), (5600.0, 250.0), (5400.0, 250.0))
GAIN_ADU_PER_PHOTON = (68.8, 2.0)
GAIN_RATIOS = (1.0, 50.0, 250.0)  # high gain over this stage's gain
DIGITAL_ADU = (6000.0, 7200.0, 8100.0)
DIGITAL_SPREAD_ADU = 40.0
DIGITAL_NOISE_ADU = 15.0
ANALOG_NOISE_ADU = 8.0
BASELINE_ADU = 2.0  # per module and frame
COMMON_MODE_ADU = 6.0  # per ASIC and frame
SWITCH_PHOTONS = (55, 2500)
ADC_MAX = 2**14 - 1
ASIC_GRID = (8, 2)

DEAD_FRACTION, HOT_FRACTION, NOISY_FRACTION = 0.002, 0.001, 0.001
DEAD_ADU = 4000.0
HOT_ADU = 3000.0
NOISY_FACTOR = 5.0
BAD_ASIC = {"module": 2, "rows": slice(64, 128), "columns": slice(0, 64)}
BAD_ASIC_ADU = 1500.0
BAD_CELL = {"module": 4, "cell": 0}
BAD_CELL_ADU = 800.0
CELL_TIP_PERIOD = 32  # the last cell of every row of the ASIC's 11 x 32 memory is noisy in the first pixel rows

# Bits of the facility's masks (extra.calibration.BadPixels).
FACILITY_OFFSET = 0x1
FACILITY_NOISE = 0x2
FACILITY_DEAD = 0x4000
FACILITY_EDGE = 0x400000

SEED_DEFECTS, SEED_CONSTANTS, SEED_DIGITAL, SEED_NOISE, SEED_KEV, SEED_COMMON_MODE = range(11, 17)


def bad_bits(settings, module, cell):
    """Defects of one memory cell, without the ASIC edges.

    Returns
    -------
    ndarray of uint32, (512, 128)
        Facility bits; 0 = good.
    """
    is_bad_cell, is_tip = _kind(module, cell)
    bits = _pixel_defects(settings["seed"], module).copy()
    if module == BAD_ASIC["module"]:
        bits[BAD_ASIC["rows"], BAD_ASIC["columns"]] |= FACILITY_OFFSET
    if is_bad_cell:
        bits |= FACILITY_OFFSET
    if is_tip:
        bits[::ASIC_PIXELS] |= FACILITY_NOISE
    return bits


def facility_mask(settings, module, cell):
    """Mask of the corrected files for one memory cell: defects and ASIC edges, (512, 128) uint32, 0 = good."""
    return bad_bits(settings, module, cell) | np.where(asic_edges(), FACILITY_EDGE, 0).astype(np.uint32)


def constants(settings, module, cell):
    """True constants of one memory cell; the same for all runs.

    Returns
    -------
    pedestal : ndarray of float32, (3, 512, 128)
        (gain stage, slow_scan, fast_scan) [ADU].
    gain : ndarray of float32, (512, 128)
        High gain [ADU per photon]; that of stage s is ``gain / GAIN_RATIOS[s]``.
    """
    rng = np.random.default_rng([SEED_CONSTANTS, settings["seed"], module, int(cell)])
    pedestal = np.stack(
        [mean + sigma * rng.standard_normal(MODULE_SHAPE, dtype=np.float32) for mean, sigma in PEDESTAL_ADU]
    ).astype(np.float32)
    mean, sigma = GAIN_ADU_PER_PHOTON
    return pedestal, (mean + sigma * rng.standard_normal(MODULE_SHAPE, dtype=np.float32)).astype(np.float32)


def digital_levels(settings, module):
    """Level of the gain signal in each stage, the same in all cells, (3, 512, 128) float32 [ADU]."""
    rng = np.random.default_rng([SEED_DIGITAL, settings["seed"], module])
    spread = rng.standard_normal((3, *MODULE_SHAPE), dtype=np.float32) * np.float32(DIGITAL_SPREAD_ADU)
    return np.array(DIGITAL_ADU, dtype=np.float32)[:, None, None] + spread


def common_mode(settings, run, module, frame):
    """Shift of one frame: the module's baseline and the ASICs' common mode.

    Returns
    -------
    baseline : float
        [ADU]
    asics : ndarray, (8, 2)
        [ADU], ASICs along slow_scan and fast_scan.
    """
    rng = np.random.default_rng([SEED_COMMON_MODE, settings["seed"], run, module, int(frame)])
    return rng.normal(0, BASELINE_ADU), rng.normal(0, COMMON_MODE_ADU, ASIC_GRID)


def raw_images(settings, run, module, frames, cells, photons):
    """Raw data of one module: analog signal and digital gain level.

    Parameters
    ----------
    settings : dict
    run, module : int
    frames : sequence of int, (n,)
        Positions in the run; they choose the noise.
    cells : sequence of int, (n,)
        The memory cells the frames were stored in.
    photons : ndarray of uint16, (n, 512, 128)

    Returns
    -------
    ndarray of uint16, (n, 2, 512, 128)
        (frame, analog | digital, slow_scan, fast_scan) [ADU].
    """
    key = json.dumps(settings, sort_keys=True)
    images = np.empty((len(frames), 2, *MODULE_SHAPE), dtype=np.uint16)
    for image, frame, cell, counts in zip(images, frames, cells, photons, strict=True):
        pedestal, gain = _cached_constants(key, module, int(cell))
        noise = _noise(settings["seed"], module, _kind(module, cell))
        excess, dead = _excess(settings["seed"], module, _kind(module, cell))
        baseline, asics = common_mode(settings, run, module, frame)
        rng = np.random.default_rng([SEED_NOISE, settings["seed"], run, module, int(frame)])
        shift = np.repeat(np.repeat(asics + baseline, ASIC_PIXELS, axis=0), ASIC_PIXELS, axis=1).astype(np.float32)
        digital = rng.standard_normal(MODULE_SHAPE, dtype=np.float32)
        digital *= np.float32(DIGITAL_NOISE_ADU)
        analog = rng.standard_normal(MODULE_SHAPE, dtype=np.float32)
        analog *= noise
        analog += shift
        levels = _cached_levels(key, module)
        digital += levels[0]
        signal = counts * gain
        signal += pedestal[0]
        for stage, switch in enumerate(SWITCH_PHOTONS, start=1):
            switched = np.nonzero(counts > switch)
            signal[switched] = pedestal[stage][switched] + counts[switched] * gain[switched] / np.float32(
                GAIN_RATIOS[stage]
            )
            digital[switched] += levels[stage][switched] - levels[stage - 1][switched]
        analog += signal
        analog += excess
        analog[dead] = DEAD_ADU
        for plane, values in zip(image, (analog, digital), strict=True):
            np.rint(values, out=values)
            np.clip(values, 0, ADC_MAX, out=values)
            plane[...] = values
    return images


def corrected_images(settings, run, module, frames, cells, photons):
    """Corrected data of one module as the facility gives them: photons, or keV.

    Pixels with a defect hold what an unmasked defect looks like: hot pixels, the bad ASIC and the bad cell too
    many photons, dead pixels none.

    Parameters
    ----------
    settings : dict
    run, module : int
    frames, cells : sequence of int, (n,)
    photons : ndarray of uint16, (n, 512, 128)

    Returns
    -------
    ndarray, (n, 512, 128)
        uint8 or float32 photons, or float32 [keV] with noise of 0.1 photon, 1 % spread of the gain, and NaN in
        dead pixels.
    """
    gain_adu = np.float32(GAIN_ADU_PER_PHOTON[0])
    counts = photons.astype(np.uint16)
    for image, cell in zip(counts, cells, strict=True):
        excess, dead = _excess(settings["seed"], module, _kind(module, cell))
        shown = np.nonzero(excess)
        image[shown] += np.rint(excess[shown] / gain_adu).astype(np.uint16)
        image[dead] = 0
    if settings["proc_data"] == "uint8":
        return np.minimum(counts, 255).astype(np.uint8)
    if settings["proc_data"] == "float32":
        return counts.astype(np.float32)
    images = counts.astype(np.float32)
    jitter = 1 + 0.01 * np.random.default_rng([SEED_KEV, settings["seed"], module]).standard_normal(MODULE_SHAPE)
    dead = _excess(settings["seed"], module, (False, False))[1]
    for image, frame in zip(images, frames, strict=True):
        rng = np.random.default_rng([SEED_KEV, settings["seed"], run, module, int(frame)])
        image *= jitter.astype(np.float32)
        image += np.float32(0.1) * rng.standard_normal(MODULE_SHAPE, dtype=np.float32)
        image *= np.float32(settings["photon_energy_kev"])
        np.rint(image * np.float32(64), out=image)  # steps of 1/64 keV keep the files small
        image /= np.float32(64)
        image[dead] = np.nan
    return images


def noise_adu(settings, module, cell):
    """Noise of the analog signal, (512, 128) float32 [ADU]."""
    return _noise(settings["seed"], module, _kind(module, cell))


def excess_adu(settings, module, cell):
    """What hot pixels, the bad ASIC and the bad cell add to the analog signal, (512, 128) float32 [ADU]."""
    return _excess(settings["seed"], module, _kind(module, cell))[0]


def _kind(module, cell):
    """Whether a cell is the bad one, and whether it lies at the tip of its row: cells of one kind share defects."""
    is_bad_cell = module == BAD_CELL["module"] and cell == BAD_CELL["cell"]
    return bool(is_bad_cell), bool(cell % CELL_TIP_PERIOD == CELL_TIP_PERIOD - 1)


@functools.lru_cache(maxsize=16)
def _pixel_defects(seed, module):
    """Pixels that are dead, hot or noisy in all cells, (512, 128) uint32, facility bits."""
    rng = np.random.default_rng([SEED_DEFECTS, seed, module])
    n_pixels = MODULE_SHAPE[0] * MODULE_SHAPE[1]
    order = rng.permutation(n_pixels)
    bits = np.zeros(n_pixels, dtype=np.uint32)
    start = 0
    for fraction, bit in (
        (DEAD_FRACTION, FACILITY_DEAD),
        (HOT_FRACTION, FACILITY_OFFSET),
        (NOISY_FRACTION, FACILITY_NOISE),
    ):
        stop = start + round(fraction * n_pixels)
        bits[order[start:stop]] = bit
        start = stop
    return bits.reshape(MODULE_SHAPE)


@functools.lru_cache(maxsize=16)
def _cached_levels(key, module):
    return digital_levels(json.loads(key), module)


@functools.lru_cache(maxsize=352)
def _cached_constants(key, module, cell):
    return constants(json.loads(key), module, cell)


@functools.lru_cache(maxsize=16)
def _noise(seed, module, kind):
    noisy = _pixel_defects(seed, module) == FACILITY_NOISE
    if kind[1]:
        noisy[::ASIC_PIXELS] = True
    return np.where(noisy, ANALOG_NOISE_ADU * NOISY_FACTOR, ANALOG_NOISE_ADU).astype(np.float32)


@functools.lru_cache(maxsize=16)
def _excess(seed, module, kind):
    """What defects add to the signal, (512, 128) float32 [ADU], and the indices of the dead pixels."""
    defects = _pixel_defects(seed, module)
    excess = np.where(defects == FACILITY_OFFSET, HOT_ADU, 0.0).astype(np.float32)
    if module == BAD_ASIC["module"]:
        excess[BAD_ASIC["rows"], BAD_ASIC["columns"]] += np.float32(BAD_ASIC_ADU)
    if kind[0]:
        excess += np.float32(BAD_CELL_ADU)
    return excess, np.nonzero(defects == FACILITY_DEAD)
